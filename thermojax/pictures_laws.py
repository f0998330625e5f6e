"""Figures of the experiments on the laws of learning: arrays in, matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thermojax.pictures import band, bars
from thermojax.plotting import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    axes_grid,
    save_png,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "depth", "destruction", "figures", "save_figures", "states"]

CAPTIONS = {
    "states": (
        "States through training",
        "Left: the loss falls and the inverse temperature that fits it rises. Middle: at that "
        "temperature the entropy of the states falls, the thermodynamic part with it, the "
        "complexity hardly moves. Right: how far log Z is from a sum of a function of "
        "temperature and one of the network.",
    ),
    "destruction": (
        "First law, and entropy of the trainables",
        "Left: energy, heat and work from the start to the end of training, and what two "
        "readings of the paper's first law miss. Middle: Laplacian of the free energy, which "
        "destroys the entropy of trainables. Right: entropy lost by small networks "
        "under gradient descent, exact (line) and by density estimates.",
    ),
    "depth": (
        "Learning efficiency and depth",
        "Laplacian of the free energy of trained networks: in all, and per parameter. "
        "Whether depth helps depends on the temperature of the states.",
    ),
}
_HEAT = (RED, ORANGE, BLUE, GREEN, PINK)


@styled
def states(arrays: Mapping[str, Any]) -> Figure:
    """Experiments A and B.

    Args:
        arrays: `a_*` and `b_*`, draws along axis 0, networks along axis 1.
    """
    figure, (learn, entropy, split) = axes_grid(1, 3, 3.3)
    step = np.asarray(arrays["a_step"])
    over = lambda name: np.asarray(arrays[name]).mean(1)
    bars(learn, step, over("a_loss"), BLUE, "loss")
    bars(learn, step, over("a_least_energy"), SKY, "least bulk loss")
    bars(learn, step, 1 / over("a_beta"), RED, "T* = 1 / β*")
    learn.set_yscale("log")
    learn.set_title("Learning")
    learn.set_ylabel("per image")
    bars(entropy, step, over("a_entropy"), INK, "total S(β*)")
    bars(entropy, step, over("a_entropy_ref"), RED, "thermodynamic", "s-")
    bars(entropy, step, over("a_complexity"), GREEN, "complexity C", "D-")
    bars(entropy, step, over("a_excess"), GREY, "excess E", "^-")
    entropy.set_title("Second law")
    entropy.set_ylabel("nats per image")
    bars(split, step, np.asarray(arrays["b_rms"]), BLUE, "rms, nats")
    bars(split, step, np.asarray(arrays["b_fraction"]), ORANGE, "fraction", "s-")
    split.set_yscale("log")
    split.set_title("Interaction of T and q in log Z")
    for axis in (learn, entropy, split):
        axis.set_xlabel("SGD steps")
        axis.legend(fontsize=8)
    return figure


@styled
def destruction(arrays: Mapping[str, Any]) -> Figure:
    """Experiments C, D, and the Laplacians of A.

    Args:
        arrays: `a_*`, `c_*` and `d_*`, draws along axis 0.
    """
    figure, (law, curved, cloud) = axes_grid(1, 3, 3.3)
    _law(law, arrays)
    step = np.asarray(arrays["a_step"])
    over = lambda name: np.asarray(arrays[name]).mean(1)
    bars(curved, step, over("a_efficiency"), RED, "free energy at β*")
    bars(curved, step, over("a_loss_laplacian"), BLUE, "boundary loss", "s-")
    curved.set_ylim(0)
    curved.set_title("Destruction of entropy")
    curved.set_ylabel("Laplacian per image")
    curved.set_xlabel("SGD steps")
    curved.legend(fontsize=8)
    change = np.asarray(arrays["d_change"])
    change = np.concatenate([np.zeros_like(change[:, :1]), change], axis=1)
    at = np.concatenate([[0], np.asarray(arrays["d_step"])])
    kinds = (
        ("exact: log det", INK, None),
        ("first order", GREY, None),
        ("neighbours, whitened", BLUE, "o"),
        ("neighbours", ORANGE, "s"),
        ("Gaussian fit", GREEN, "D"),
    )
    for i, (name, color, mark) in enumerate(kinds):
        if mark is None:
            band(cloud, at, change[..., i], color, name, "-" if i == 0 else "--")
        else:
            bars(cloud, at[1:], change[:, 1:, i], color, name, mark)
    cloud.set_title("An ensemble of small networks")
    cloud.set_ylabel("change of entropy, nats")
    cloud.set_xlabel("steps of gradient descent")
    cloud.legend(fontsize=8)
    return figure


def _law(axis: Axes, arrays: Mapping[str, Any]) -> None:
    """Totals of the first law on the finest path, as bars."""
    last = lambda name: np.asarray(arrays[f"c_{name}"])[:, -1]
    rows = (
        ("ΔU", last("delta_u"), SKY),
        ("heat", last("heat"), RED),
        ("work", last("work"), BLUE),
        ("missing", last("residual"), GREY),
        ("ΔU - ∫T dS_ref", last("residual_th"), ORANGE),
        ("ΔU - ∫T d(S_ref + C)", last("residual_sum"), PINK),
    )
    for i, (_, values, color) in enumerate(rows):
        axis.barh(i, values.mean(), color=color, height=0.7)
        axis.plot(values, np.full(len(values), i), ".", color=INK, ms=4)
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color=GREY, lw=1)
    axis.set_axisbelow(True)
    axis.set_title("First law over training")
    axis.set_xlabel("loss per image")


@styled
def depth(arrays: Mapping[str, Any]) -> Figure:
    """Experiment E.

    Args:
        arrays: `e_*`, draws along axis 0, depths along axis 1, networks along axis 2.
    """
    figure, (whole, each) = axes_grid(1, 2, 3.4)
    depths, size = np.asarray(arrays["e_depth"]), np.asarray(arrays["e_size"])[0]
    mean = np.asarray(arrays["e_efficiency"]).mean(2)
    names = [*(f"β = {b:g}" for b in np.asarray(arrays["e_fixed_beta"])), "β*"]
    marks = ("o-", "s-", "D-", "^-", "v-")
    for j, name in enumerate(names):
        color, mark = _HEAT[j % 5], marks[j % 5]
        bars(whole, depths, mean[..., j], color, name, mark)
        bars(each, depths, mean[..., j] / size, color, name, mark)
    curved = np.asarray(arrays["e_loss_laplacian"]).mean(2)
    bars(whole, depths, curved, GREY, "boundary loss", "x--")
    bars(each, depths, curved / size, GREY, "boundary loss", "x--")
    for axis, title in ((whole, "In all"), (each, "Per parameter")):
        axis.set_title(title)
        axis.set_xlabel("hidden layers")
        axis.set_ylabel("Laplacian per image")
        axis.set_yscale("log")
        axis.set_xticks(depths, [str(d) for d in depths])
    whole.legend(fontsize=8)
    return figure


def figures(arrays: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure by its name."""
    return {
        "states": states(arrays),
        "destruction": destruction(arrays),
        "depth": depth(arrays),
    }


@styled
def save_figures(arrays: Mapping[str, Any], folder: Path | str) -> dict[str, Path]:
    """Write every figure as PNG; each file takes its name only when it is complete.

    Args:
        arrays: of the experiments.
        folder: created if need be.

    Returns:
        Name -> path.
    """
    return save_png(figures(arrays), folder)
