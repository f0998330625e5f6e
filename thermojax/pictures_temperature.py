"""Figures of the experiments on temperature: arrays in, matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thermojax.pictures import band, mean_of_draws
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

__all__ = ["CAPTIONS", "canonical", "engines", "figures", "layers", "linear", "save_figures"]

CAPTIONS = {
    "linear": (
        "Temperature of linear models",
        "Left: T = ΔE / ΔS against the scale of the inputs, with slopes 2 (mse) and 1. "
        "Middle: it has a minimum in the initialiser's scale. Right: flow over virial "
        "temperature; 1 would be canonical.",
    ),
    "layers": (
        "Layers through training",
        "Above: T_flow of every layer between windows of training, for three depths; the "
        "leftmost values are those before training, from a larger ensemble. Below: "
        "accumulated heat of the layers, which adds up to the energy released (dashed).",
    ),
    "engines": (
        "Activations as heat engines",
        "Left: measured work efficiency of every layer against the mean field, 8 networks "
        "each. Middle: efficiency against the variance of the pre-activations: saturating "
        "engines die as a root. Right: temperatures of the layers over training.",
    ),
    "canonical": (
        "What has a temperature",
        "Flow and virial temperature of the whole and of every layer in units of the bath's: "
        "sampled by MALA (filled), and drawn from the initialiser (open).",
    ),
}
_LAYERS = (BLUE, GREEN, ORANGE, RED)
_LOSSES = (("mse", BLUE, "o"), ("mae", ORANGE, "s"), ("bce", GREEN, "D"))
_ENGINES = (INK, BLUE, SKY, GREEN, ORANGE, PINK, GREY, RED, "#7B3294", "#5A3A1A")


@styled
def linear(arrays: Mapping[str, Any]) -> Figure:
    """Experiment A.

    Args:
        arrays: `a_*` of the experiments.
    """
    figure, (hot, low, apart) = axes_grid(1, 3, 3.3)
    scale, sigma = np.asarray(arrays["a_scale"]), np.asarray(arrays["a_sigma"])
    for i, (loss, color, mark) in enumerate(_LOSSES):
        hot.plot(scale, arrays["a_temperature"][i], mark + "-", color=color, label=loss)
        low.plot(sigma, arrays["a_temperature_of_sigma"][i], mark + "-", color=color)
        ratio, error = mean_of_draws(np.asarray(arrays["a_flow"] / arrays["a_virial"])[:, i])
        apart.errorbar(scale, ratio, error, fmt=mark + "-", color=color, capsize=2)
    ends = scale[-2:]
    for i, power in ((0, 2), (1, 1)):
        top = 1.5 * arrays["a_temperature"][i][-2] * (ends / ends[0]) ** power
        hot.plot(ends, top, "--", color=GREY, lw=1)
        hot.annotate(f"slope {power}", (ends[0], top[0]), ha="right", color=GREY, fontsize=9)
    apart.axhline(1, color=GREY, lw=1)
    apart.annotate("canonical", (scale[0], 1.0), va="bottom", color=GREY, fontsize=9)
    apart.set_ylim(0)
    for axis, title, x_label, y_label in (
        (hot, "Diabetes", "scale of the inputs", "transition temperature"),
        (low, "A minimum", "scale of the initialiser", "transition temperature"),
        (apart, "Initialisers are not canonical", "scale of the inputs", "T flow / T virial"),
    ):
        axis.set_xscale("log")
        axis.set_title(title)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        if axis is not apart:
            axis.set_yscale("log")
        if axis is not low:
            axis.set_xticks(scale, [f"{c:g}" for c in scale])
            axis.set_xticks([], minor=True)
    hot.legend()
    return figure


@styled
def layers(arrays: Mapping[str, Any]) -> Figure:
    """Experiment B: tanh networks, one column per depth.

    Args:
        arrays: `b_*` of the experiments, draws along axis 0, networks along axis 1.
    """
    tanh = np.flatnonzero(np.asarray(arrays["b_activation"]) == "tanh")
    figure, axes = axes_grid(2, len(tanh))
    step = np.asarray(arrays["b_step"])
    for column, i in enumerate(tanh):
        depth = int(arrays["b_depth"][i])
        above, below = axes[column], axes[len(tanh) + column]
        flow = np.array(arrays["b_flow"])[:, i]
        flow[:, 0] = np.asarray(arrays["b_start_flow"])[:, i]
        heat = np.cumsum(np.asarray(arrays["b_heat"])[:, i], axis=1)
        heat = np.concatenate([np.zeros_like(heat[:, :1]), heat], axis=1)
        for k in range(depth + 1):
            name = "readout" if k == depth else f"layer {k + 1}"
            color = RED if k == depth else _LAYERS[k % 3]
            band(above, step, flow[..., k], color, name, "o-")
            band(below, step, heat[..., k], color, name, "o-")
        energy = np.asarray(arrays["b_energy"])[:, i]
        released = (energy[:, :1] - energy).mean(0)
        total = np.nansum(heat, -1).mean(0)
        below.plot(step, total, color=INK, label="sum")
        below.plot(step, released, "--", color=ORANGE, lw=2, label="energy released")
        above.set_yscale("log")
        above.set_title(f"{depth} hidden layer{'s' if depth > 1 else ''}, tanh")
        above.set_ylabel("flow temperature")
        below.set_ylabel("accumulated heat")
        for axis in (above, below):
            axis.set_xlabel("steps of gradient descent")
        above.legend()
        below.set_ylim(0, 1.5 * released.max())
        below.legend(ncols=2, fontsize=8, loc="upper left")
    return figure


@styled
def engines(arrays: Mapping[str, Any]) -> Figure:
    """Experiment C, and the layer temperatures of all activations.

    Args:
        arrays: `c_*` and `b_*` of the experiments.
    """
    figure, (field, hot, each) = axes_grid(1, 3, 3.6)
    names = [str(n) for n in arrays["c_activation"]]
    colors = dict(zip(names, _ENGINES, strict=True))
    measured = np.asarray(arrays["c_measured"])[..., 0].mean(2)
    wide = np.asarray(arrays["c_predicted"])[..., 0].mean(0)
    for i, name in enumerate(names[:-1]):
        mean, error = mean_of_draws(measured[:, i])
        field.errorbar(wide[i], mean, error, fmt="o", color=colors[name], capsize=2)
    line = np.array([0.8 * wide.min(), 1.2])
    field.plot(line, line, color=GREY, lw=1, zorder=0)
    for i, name in enumerate(names):
        style = "-" if arrays["c_class"][i] == "persistent" else "--"
        hot.plot(
            arrays["c_variance"], arrays["c_curve"][i], style, color=colors[name], label=name
        )
    _layers_by_activation(each, arrays, colors)
    hot.legend(ncols=2, fontsize=7.5, loc="lower left")
    for axis, title, x_label, y_label in (
        (field, "Measured against mean field", "mean field η", "measured η"),
        (hot, "Two classes", "variance of pre-activations", "work efficiency η"),
        (each, "Layers over training", "layer", "temperature"),
    ):
        axis.set_title(title)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        axis.set_yscale("log")
        if axis is not each:
            axis.set_xscale("log")
    hot.set_ylim(1e-4, 1.6)
    return figure


def _layers_by_activation(axis: Axes, arrays: Mapping[str, Any], colors: dict) -> None:
    """Temperatures of whole runs by layer, at the standard depth."""
    depth = int(arrays["b_depth"][1])
    heat, made = (np.asarray(arrays[f"b_{n}"]).sum(2) for n in ("heat", "made"))
    for i, name in enumerate(arrays["b_activation"]):
        if int(arrays["b_depth"][i]) == depth:
            mean, error = mean_of_draws((heat / made)[:, i, : depth + 1])
            x, color = np.arange(depth + 1), colors[str(name)]
            axis.errorbar(x, mean, error, fmt="o-", color=color, capsize=2)
    ticks = [*(str(k + 1) for k in range(depth)), "readout"]
    axis.set_xticks(range(depth + 1), ticks)


@styled
def canonical(arrays: Mapping[str, Any]) -> Figure:
    """Experiment D: thermometers in units of the bath's temperature.

    Args:
        arrays: `d_*` of the experiments, draws along axis 0.
    """
    from matplotlib.ticker import NullFormatter

    figure, (axis,) = axes_grid(1, 1, 3.4)
    figure.set_size_inches(6.0, 3.4)
    bath = float(arrays["d_temperature"])
    count = np.asarray(arrays["d_gibbs"]).shape[-1]
    x = np.arange(count)
    for state, face in (("gibbs", None), ("initial", "white")):
        for j, (kind, color) in enumerate((("flow", BLUE), ("virial", ORANGE))):
            mean, error = mean_of_draws(np.asarray(arrays[f"d_{state}"])[:, j] / bath)
            name = f"{kind}, {'MALA' if state == 'gibbs' else 'initialiser'}"
            place = x + 0.12 * (2 * j - 1)
            axis.errorbar(
                place, mean, error, fmt="o", color=color, mfc=face, capsize=2, label=name, ms=6
            )
    axis.axhline(1, color=GREY, lw=1, zorder=0)
    axis.set_yscale("log")
    axis.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axis.yaxis.set_minor_formatter(NullFormatter())
    hidden = [f"layer {k + 1}" for k in range(count - 2)]
    axis.set_xticks(x, ["whole", *hidden, "readout"])
    axis.set_ylabel("temperature / bath")
    axis.set_title("What has a temperature")
    axis.legend(loc="upper left")
    return figure


def figures(arrays: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure by its name."""
    draw = {"linear": linear, "layers": layers, "engines": engines, "canonical": canonical}
    return {name: fn(arrays) for name, fn in draw.items()}


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
