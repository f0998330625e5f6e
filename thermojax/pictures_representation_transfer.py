"""Figures of representations carried from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from thermojax.pictures import band, mean_of_draws
from thermojax.plotting import BLUE, GREEN, GREY, INK, ORANGE, RED, axes_grid, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "accuracy", "figures", "transfer"]

CAPTIONS = {
    "transfer": (
        "From task to task at constant classification loss",
        "Digits 0-4 to 5-9 on the mixture path, training images; bands are standard errors "
        "over draws. Left: C relative to its start. Middle: the γ that holds it. Right: rate "
        "and distortion on the way, processes with γ fed back (solid) and fixed (dotted).",
    ),
    "accuracy": (
        "Target accuracy by method",
        "Test images of 5-9 after as many gradient steps, except for the released rule and the "
        "short path, which take fewer. Right: few labels of each target class, short paths. "
        "Bars with standard errors over draws; dots are draws.",
    ),
}
_CURVES = (
    ("iso-C, training", BLUE, "γ fed back, training C", "o-"),
    ("iso-C, validation", GREEN, "γ fed back, validation C", "s-"),
    ("fixed", RED, "fixed λ and γ", "D:"),
    ("authors", ORANGE, "released rule", "^--"),
)


@styled
def transfer(arrays: Mapping[str, Any]) -> Figure:
    """Experiment E4 along the path.

    Args:
        arrays: `e4_*` of the experiments, draws along axis 0.
    """
    figure, (held, control, trade) = axes_grid(1, 3, 3.4)
    get = lambda name: np.asarray(arrays[f"e4_{name}"], float)
    loss, methods = get("train_classification"), np.asarray(arrays["e4_method"]).tolist()
    held.axhline(1, color=GREY, lw=1)
    for name, color, label, mark in _CURVES:
        k = methods.index(name)
        t = get("t")[k]
        band(held, t, loss[:, k] / loss[:, k, :1], color, label, mark)
        band(control, t, get("gam")[:, k], color, label, mark)
    for quantity, color in (("rate", BLUE), ("distortion", RED)):
        for name, style in (("iso-C, training", "-"), ("fixed", ":")):
            k = methods.index(name)
            label = f"{quantity} {quantity[0].upper()}" if style == "-" else ""
            band(trade, get("t")[k], get(f"train_{quantity}")[:, k], color, label, style)
    held.set(
        title="Classification loss on the way",
        xlabel="task t, source 0 to target 1",
        ylabel="training C / C₀",
        ylim=(0, None),
    )
    held.legend(fontsize=8)
    control.set(
        title="The control",
        xlabel="task t, source 0 to target 1",
        ylabel="multiplier γ of C",
        yscale="log",
    )
    trade.set(
        title="Rate and distortion",
        xlabel="task t, source 0 to target 1",
        ylabel="nats per image",
    )
    trade.plot([], [], "-", color=INK, label="γ fed back")
    trade.plot([], [], ":", color=INK, label="fixed λ and γ")
    trade.legend(fontsize=8)
    return figure


@styled
def accuracy(arrays: Mapping[str, Any]) -> Figure:
    """Experiment E4 at the end.

    Args:
        arrays: `e4_accuracy` and `e4_few_accuracy` of the experiments, draws along axis 0.
    """
    figure, axes = axes_grid(1, 2, 3.2)
    parts = (("e4", "All labels"), ("e4_few", "Few labels of each class"))
    for axis, (prefix, title) in zip(axes, parts, strict=True):
        names = np.asarray(arrays[f"{prefix}_method"]).tolist()
        values = np.asarray(arrays[f"{prefix}_accuracy"], float)
        mean, error = mean_of_draws(values)
        place = np.arange(len(names))[::-1]
        colors = [BLUE if "iso-C" in name else GREY for name in names]
        axis.barh(place, mean, 0.62, xerr=error, color=colors, ecolor=INK, capsize=2)
        axis.plot(values.T, place[:, None], ".", color=INK, ms=3, alpha=0.6)
        axis.set_yticks(place, labels=names)
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        low = min(float((mean - error).min()), float(values.min()))
        floor = max(0.0, np.floor(20 * low) / 20 - 0.05)
        axis.set(title=title, xlabel="target test accuracy", xlim=(floor, 1.0))
    return figure


def figures(arrays: Mapping[str, Any]) -> dict[str, Figure]:
    """Both figures by their names."""
    return {"transfer": transfer(arrays), "accuracy": accuracy(arrays)}
