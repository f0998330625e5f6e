"""Figures of a local learning coefficient: arrays in, matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thermojax.plotting import (
    _CYCLE,
    BLUE,
    GREEN,
    GREY,
    RED,
    _errors,
    axes_grid,
    save_png,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "basin", "chains", "figures", "save_figures", "sensitivity"]

CAPTIONS = {
    "chains": (
        "Chains",
        "Each line is a chain around the trained network. The loss should scatter about one "
        "level from the start, the distance should have levelled off, every chain should "
        "accept within the green band, and none should come below the anchor.",
    ),
    "sensitivity": (
        "Other settings",
        "The coefficient again with one setting at a time multiplied. Step size should change "
        "nothing; tether and temperature slowly. Ringed points are not trusted.",
    ),
    "basin": (
        "Basin",
        "Curvature of the loss along the axes of its Hessian against that of the tether: what "
        "lies far above it counts one half each, what lies far below it hardly counts. On the "
        "right the loss in training.",
    ),
}
_NAMES = {"step_size": "step size", "gamma": "tether $\\gamma$", "beta": "$\\beta$"}


@styled
def chains(arrays: Mapping[str, Any]) -> Figure:
    """Loss, distance, acceptance and lowest point of every chain, 2 x 2.

    Args:
        arrays: `llc_trace` and `llc_distance` [kept, R], `llc_acceptance`, `llc_below` [R],
            `llc` and `llc_stderr`.
    """
    figure, (loss, distance, accept, below) = axes_grid(2, 2)
    for axis, name in ((loss, "llc_trace"), (distance, "llc_distance")):
        values = np.asarray(arrays[name], float)
        part = np.linspace(0, 1, len(values))
        for i, line in enumerate(values.T):
            axis.plot(part, line, lw=0.7, alpha=0.8, color=_CYCLE[i % len(_CYCLE)])
        axis.set_xlabel("part of the run")
    value = float(arrays["llc"])
    error = float(_errors(arrays["llc_stderr"], np.zeros(())))
    loss.axhspan(value - error, value + error, color=GREY, alpha=0.5, lw=0)
    loss.axhline(value, color="black", lw=1.2, label="$\\hat\\lambda$ ± standard error")
    loss.legend()
    _bars(accept, arrays["llc_acceptance"])
    accept.axhspan(0.15, 0.98, color=GREEN, alpha=0.08, lw=0)
    accept.set_ylim(0, 1.02)
    _bars(below, arrays["llc_below"])
    below.set_ylim(0, max(1.1 * float(np.nanmax(arrays["llc_below"], initial=0.0)), 0.05))
    for axis, title, label in (
        (loss, "Loss above the anchor", "$\\beta\\,(U - U^*)$  (nats)"),
        (distance, "Distance from the anchor", "$|w - w^*|$"),
        (accept, "Acceptance", "fraction accepted"),
        (below, "Depth reached below the anchor", "$\\beta\\,(U^* - U)$  (nats)"),
    ):
        axis.set_title(title)
        axis.set_ylabel(label)
    return figure


def _bars(axis: Axes, values: Any) -> None:
    values = np.asarray(values, float)
    colors = [_CYCLE[i % len(_CYCLE)] for i in range(len(values))]
    axis.bar(np.arange(1, len(values) + 1), np.nan_to_num(values), color=colors, width=0.7)
    axis.set_xlabel("chain")


@styled
def sensitivity(arrays: Mapping[str, Any]) -> Figure:
    """The coefficient against step size, tether and temperature.

    Args:
        arrays: `llc_factor` [F] and `llc_by_NAME`, `_stderr`, `_flags` [F].
    """
    names = [name for name in _NAMES if f"llc_by_{name}" in arrays]
    figure, axes = axes_grid(1, len(names), height=3.2)
    factor = np.asarray(arrays["llc_factor"], float)
    for axis, name in zip(axes, names, strict=True):
        value = np.asarray(arrays[f"llc_by_{name}"], float)
        stderr = _errors(arrays[f"llc_by_{name}_stderr"], value)
        axis.errorbar(factor, value, stderr, fmt="o-", color=BLUE, capsize=2)
        ring = np.asarray(arrays[f"llc_by_{name}_flags"]) != 0
        axis.plot(factor[ring], value[ring], "o", ms=10, mfc="none", mec=RED, mew=1.5)
        axis.set_xscale("log")
        axis.set_xticks(factor, [f"{f:.2g}×" for f in factor])
        axis.minorticks_off()
        axis.set_title(f"By {_NAMES[name]}")
        axis.set_xlabel(_NAMES[name])
        axis.margins(y=0.3)
    axes[0].set_ylabel("$\\hat\\lambda$")
    return figure


@styled
def basin(arrays: Mapping[str, Any]) -> Figure:
    """Hessian spectrum against the tether, and the loss in training.

    Args:
        arrays: `llc_spectrum` [d], maybe empty; `llc_gamma`; `train_energy` [k].
    """
    figure, (left, right) = axes_grid(1, 2, height=3.2)
    spectrum = np.sort(np.asarray(arrays["llc_spectrum"], float))[::-1]
    place = np.arange(1, len(spectrum) + 1)
    up = spectrum > 0
    left.plot(place[up], spectrum[up], ".", color=BLUE, label="upwards")
    left.plot(place[~up], -spectrum[~up], ".", color=RED, label="downwards")
    left.axhline(float(arrays["llc_gamma"]), color=GREY, lw=1.2, label="tether")
    left.set_yscale("log")
    left.set_xlabel("direction")
    left.set_ylabel("$\\beta\\,\\times$ curvature")
    left.set_title("Curvature at the anchor")
    left.legend()
    losses = np.asarray(arrays["train_energy"], float)
    right.plot(np.arange(len(losses)), losses, "o-", color=BLUE)
    right.set_yscale("log")
    right.set_xlabel("training (250 steps each, then descent)")
    right.set_ylabel("$U$  (nats)")
    right.set_title("Loss in training")
    return figure


@styled
def figures(arrays: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure that the arrays allow, by file name without ending."""
    made = {"chains": chains(arrays)}
    if "llc_factor" in arrays:
        made["sensitivity"] = sensitivity(arrays)
    made["basin"] = basin(arrays)
    return made


@styled
def save_figures(arrays: Mapping[str, Any], folder: Path | str) -> dict[str, Path]:
    """Write every figure as PNG into a folder; each takes its name when it is complete.

    Args:
        arrays: see the figures.
        folder: created if need be.

    Returns:
        Name -> path.
    """
    return save_png(figures(arrays), folder)
