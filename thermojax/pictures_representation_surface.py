"""Figures of the surface of representations and of iso-classification on digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from thermojax.pictures import band, bars, mean_of_draws
from thermojax.plotting import BLUE, GREEN, GREY, INK, ORANGE, PINK, RED, SKY, axes_grid, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "figures", "process", "surface"]

CAPTIONS = {
    "surface": (
        "Rate, distortion and classification loss",
        "Networks at every point of a grid of multipliers. Left: a larger λ buys distortion "
        "with rate, a larger γ moves the curve to higher rates; dashed, the best linear codes "
        "without a classifier. Middle: classification loss on training (filled) and test "
        "images (open). Right: test accuracy.",
    ),
    "process": (
        "Iso-classification against fixed controls",
        "Left: the held-out classification loss while λ rises; the band is one standard error "
        "of its start over the images. Middle: rate against distortion on training images. "
        "Right: the γ that holds the loss.",
    ),
}
_COLORS = (BLUE, GREEN, RED, ORANGE, PINK, SKY)
_MARKS = ("o", "s", "D", "^", "v", "P")
_CONTROLS = ((BLUE, "iso-classification"), (RED, "fixed γ"))


@styled
def surface(arrays: Mapping[str, Any]) -> Figure:
    """Experiment E1.

    Args:
        arrays: `e1_*` of the experiments, draws along axis 0.
    """
    figure, (trade, loss, right) = axes_grid(1, 3, 3.4)
    get = lambda name: np.asarray(arrays[f"e1_{name}"], float)
    lams, gams = get("lam"), get("gam")
    for j, gam in enumerate(gams):
        color, mark = _COLORS[j % len(_COLORS)], _MARKS[j % len(_MARKS)]
        points = (mean_of_draws(get(name)[:, :, j]) for name in ("distortion", "rate"))
        (x, x_error), (y, y_error) = points
        trade.errorbar(
            x, y, y_error, x_error, fmt=mark + "-", color=color, capsize=2, label=f"γ = {gam:g}"
        )
    _linear_codes(trade, get)
    for i, lam in enumerate(lams):
        color, mark = _COLORS[i % len(_COLORS)], _MARKS[i % len(_MARKS)]
        name = f"λ = {lam:g}"
        bars(loss, gams, get("classification")[:, i], color, name, mark + "-")
        mean, error = mean_of_draws(get("test_classification")[:, i])
        loss.errorbar(gams, mean, error, fmt=mark + ":", color=color, mfc="white", capsize=2)
        bars(right, gams, get("accuracy")[:, i], color, name, mark + "-")
    trade.set(
        title="Rate against distortion",
        xlabel="distortion D (nats per image)",
        ylabel="rate R (nats per image)",
    )
    trade.legend(fontsize=8)
    loss.set(
        title="Classification loss, train and test",
        xlabel="multiplier γ of C",
        ylabel="C (nats per image)",
        xscale="log",
        yscale="log",
    )
    right.set(
        title="Test accuracy",
        xlabel="multiplier γ of C",
        ylabel="part of the test images",
        xscale="log",
    )
    right.legend(loc="lower right")
    for axis in (loss, right):
        _plain(axis.xaxis, gams)
    loss.plot([], [], "o:", color=GREY, mfc="white", label="test images")
    loss.legend(loc="lower left", fontsize=8)
    return figure


def _plain(axis: Axis, ticks: Any) -> None:
    """Numbers at these places of a logarithmic axis, and no others."""
    axis.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _linear_codes(axis: Axes, get: Any) -> None:
    """R against D of the best linear codes, over lam."""
    scale, latent = float(get("scale")), int(get("latent"))
    variance = get("variance").mean(0)
    lam = np.geomspace(get("lam").min(), get("lam").max(), 60)[:, None]
    kappa = lam * variance / scale**2
    kept = np.arange(len(variance)) < latent
    rate = 0.5 * np.sum(np.where(kept, np.log(np.maximum(kappa, 1)), 0), axis=1)
    level = np.where(kept, np.minimum(kappa, 1), kappa)
    distortion = np.sum(level / (2 * lam), axis=1)
    axis.plot(distortion, rate, "--", color=GREY, lw=1.2, label="linear, γ = 0")


@styled
def process(arrays: Mapping[str, Any]) -> Figure:
    """Experiment E2.

    Args:
        arrays: `e2_*` of the experiments, draws along axis 0, iso-classification and fixed
            controls along axis 1.
    """
    figure, (held, trade, control) = axes_grid(1, 3, 3.4)
    get = lambda name: np.asarray(arrays[f"e2_{name}"], float)
    lam, loss, gam = get("lam"), get("classification"), get("gam")
    noise = float(np.mean(get("stderr")[:, 0, 0] / loss[:, 0, 0]))
    held.axhspan(1 - noise, 1 + noise, color=GREY, alpha=0.2, lw=0)
    held.axhline(1, color=GREY, lw=1)
    rates, distortions = get("train_rate"), get("train_distortion")
    for k, (color, name) in enumerate(_CONTROLS):
        band(held, lam, loss[:, k] / loss[:, k, :1], color, name, "o-")
        band(control, lam, gam[:, k], color, name, "o-")
        for draw in range(len(loss)):
            label = name if draw == 0 else None
            trade.plot(
                distortions[draw, k], rates[draw, k], "o-", color=color, lw=1, ms=3, label=label
            )
    ends = [(distortions[:, 0, i].mean(), rates[:, 0, i].mean()) for i in (0, -1)]
    places = (("right", (4, -13)), ("right", (4, -15)))
    for (x, y), at, (side, place) in zip(ends, (lam[0], lam[-1]), places, strict=True):
        trade.annotate(
            f"λ = {at:g}",
            (x, y),
            place,
            textcoords="offset points",
            ha=side,
            va="center",
            color=INK,
            fontsize=9,
        )
    held.set(
        title="Classification loss on the way",
        xlabel="multiplier λ of D",
        ylabel="held-out C / C₀",
        xscale="log",
        ylim=(0, None),
    )
    held.legend(loc="lower left")
    trade.set(
        title="Rate is paid for distortion",
        xlabel="distortion D (nats per image)",
        ylabel="rate R (nats per image)",
    )
    trade.margins(0.16, 0.09)
    trade.legend()
    control.set(
        title="The control that holds C",
        xlabel="multiplier λ of D",
        ylabel="multiplier γ of C",
        xscale="log",
        yscale="log",
    )
    control.legend(loc="lower left")
    middle = float(np.sqrt(lam[0] * lam[-1]))
    for axis in (held, control):
        _plain(axis.xaxis, (lam[0], middle, lam[-1]))
    _plain(control.yaxis, (gam.min(), float(np.sqrt(gam.min() * gam.max())), gam.max()))
    return figure


def figures(arrays: Mapping[str, Any]) -> dict[str, Figure]:
    """Both figures by their names."""
    return {"surface": surface(arrays), "process": process(arrays)}
