"""Figures of the exact experiments on representations: arrays in, matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from thermojax.plotting import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    SKY,
    axes_grid,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CAPTIONS",
    "boundaries",
    "equilibrium_surface",
    "exact_process",
    "figures",
    "table_processes",
]

CAPTIONS = {
    "exact_process": (
        "Exact iso-classification of a codebook on all digits",
        "Left: the process holds C while lam falls (lines, one per draw); at fixed gam C moves "
        "(open marks, dashed). Middle: rate is traded against distortion. A line ends where "
        "its branch does (dot); a cross marks a step to another branch. Right: the gam that "
        "holds C.",
    ),
    "boundaries": (
        "Phase boundaries of the digits",
        "Left: line of onset of a first code; codebooks from near-trivial starts carry rate "
        "(filled) or none (open). Middle: active modes of the linear optimum against lam, and "
        "twice its heat capacity. Right: its rate-distortion curve, with all modes and with a "
        "narrow code.",
    ),
    "equilibrium_surface": (
        "Equilibrium surface of a table, with an iso-classification path",
        "Left: rate over the plane of distortion and classification loss, with white lines of "
        "equal lam and of equal gam. The path (red, from the "
        "dot) keeps C while R rises and D falls. Right: the same path over the controls, "
        "along a contour of C.",
    ),
    "table_processes": (
        "Finite steps and a moving task, on a table",
        "Left: n times the work dissipated in n equal steps falls to its limit; L is the "
        "thermodynamic length. Right: the gam that holds C while the task moves from source to "
        "target; where none exists (shaded) it says so.",
    ),
}
_DRAWS = (BLUE, GREEN, ORANGE, SKY, INK)


def _color(index: int) -> str:
    return _DRAWS[index % len(_DRAWS)]


@styled
def exact_process(arrays: Mapping[str, Any]) -> Figure:
    """Experiment X1.

    Args:
        arrays: `x1_*`, draws along axis 0.
    """
    figure, (held, trade, control) = axes_grid(1, 3, 3.3)
    read = lambda name: np.asarray(arrays[f"x1_{name}"])
    left = np.nan_to_num(read("relative")) > 0.1
    for i in range(len(read("lam"))):
        color, lam = _color(i), read("lam")[i]
        held.plot(lam, read("classification")[i], color=color, label=f"draw {i + 1}")
        held.plot(
            read("free_lam")[i],
            read("free_classification")[i],
            "o--",
            color=color,
            mfc="white",
            lw=1,
        )
        trade.plot(read("distortion")[i], read("rate")[i], color=color)
        trade.plot(
            read("distortion")[i][left[i]], read("rate")[i][left[i]], "x", color=RED, ms=8
        )
        control.plot(lam, read("gam")[i], color=color)
        last = int(np.isfinite(lam).sum()) - 1
        if last < len(lam) - 1:
            trade.plot(read("distortion")[i][last], read("rate")[i][last], "o", color=color)
            for axis, values in ((held, read("classification")), (control, read("gam"))):
                axis.plot(lam[last], values[i][last], "o", color=color)
    held.set_ylim(0)
    held.plot([], [], "o--", color=GREY, mfc="white", lw=1, label="gam fixed")
    held.legend(loc="lower left")
    for axis in (held, control):
        axis.set_xlabel("lam")
        axis.invert_xaxis()
    held.set_title("C is held")
    held.set_ylabel("classification loss C, nats")
    trade.set_title("Rate against distortion")
    trade.set_xlabel("distortion D, nats")
    trade.set_ylabel("rate R, nats")
    control.set_title("The control")
    control.set_ylabel("gam")
    return figure


@styled
def boundaries(arrays: Mapping[str, Any]) -> Figure:
    """Experiments X2 and X3.

    Args:
        arrays: `x2_*` and `x3_*`; `x2_place_rate` has the draws along axis 0.
    """
    figure, (onset, modes, curve) = axes_grid(1, 3, 3.3)
    read = lambda name: np.asarray(arrays[name])
    gam, lam = np.append(read("x2_gam"), 1.0), np.append(read("x2_lam"), 0.0)
    onset.fill_betweenx(gam, 0, lam, color=SKY, alpha=0.25, lw=0)
    onset.plot(lam, gam, color=BLUE)
    for place, rate in zip(read("x2_place"), read("x2_place_rate").T, strict=True):
        fill = RED if rate.mean() > 1e-6 else "white"
        onset.plot(*place, "o", color=RED, mfc=fill, ms=6, clip_on=False, zorder=5)
    onset.set_xlim(0, 1.35 * lam.max())
    onset.set_ylim(0, 1.05)
    onset.annotate("R = 0", (0.2 * lam.max(), 0.25), color=BLUE)
    onset.annotate("a code carries rate", (0.55 * lam.max(), 0.75), color=INK)
    onset.set_title("Onset of a first code")
    onset.set_xlabel("lam")
    onset.set_ylabel("gam")
    lams, active = read("x3_lam"), read("x3_active")
    modes.plot(lams, active, "o", color=BLUE, label="active modes")
    modes.plot(lams, 2 * lams**2 * read("x3_chi"), color=INK, lw=1, label=r"$2\,lam^2\chi$")
    modes.set_xscale("log")
    modes.legend()
    modes.set_title("Modes switch on one by one")
    modes.set_xlabel("lam, at gam = 0")
    modes.set_ylabel("number")
    width = int(read("x3_few_active").max())
    curve.plot(read("x3_distortion"), read("x3_rate"), color=BLUE, label="all modes")
    curve.plot(
        read("x3_few_distortion"),
        read("x3_few_rate"),
        "--",
        color=ORANGE,
        label=f"at most {width} modes",
    )
    curve.legend()
    curve.set_title("Linear optimum of the digits")
    curve.set_xlabel("distortion D without constant, nats")
    curve.set_ylabel("rate R, nats")
    return figure


@styled
def equilibrium_surface(arrays: Mapping[str, Any]) -> Figure:
    """Surface and path of experiment X4.

    Args:
        arrays: `x4_*` of the experiments.
    """
    from matplotlib.colors import BoundaryNorm

    figure, (surface, controls) = axes_grid(1, 2, 3.9)
    read = lambda name: np.asarray(arrays[f"x4_{name}"])
    _surface(figure, surface, read)
    lam, gam, loss = read("lam"), read("gam"), read("classification")
    levels = np.unique(np.quantile(loss, np.linspace(0, 1, 16)))
    spread = BoundaryNorm(levels, 256)
    filled = controls.contourf(lam, gam, loss.T, levels, cmap="viridis_r", norm=spread)
    controls.plot(read("path_lam"), read("path_gam"), color=RED, lw=2.5, label="iso-C path")
    controls.plot(read("path_lam")[0], read("path_gam")[0], "o", color=RED, ms=7)
    controls.legend(loc="upper right", frameon=True)
    bar = figure.colorbar(filled, ax=controls, label="C, nats", ticks=levels[::3])
    bar.ax.set_yticklabels([f"{level:.3f}" for level in levels[::3]])
    controls.grid(False)
    controls.set_title("C over the controls")
    controls.set_xlabel("lam")
    controls.set_ylabel("gam")
    return figure


def _surface(figure: Figure, axis: Axes, read: Any) -> None:
    """R over the plane of (D, C), with lines of equal lam and of equal gam and the path."""
    distortion, loss = read("distortion"), read("classification")
    drawn = axis.pcolormesh(
        distortion, loss, read("rate"), shading="gouraud", cmap="cividis", rasterized=True
    )
    axis.plot(distortion, loss, color="white", lw=0.5)
    axis.plot(distortion.T, loss.T, color="white", lw=0.5)
    axis.plot(read("path_distortion"), read("path_classification"), color=RED, lw=2.5)
    axis.plot(read("path_distortion")[0], read("path_classification")[0], "o", color=RED, ms=7)
    axis.set_ylim(loss.min() - 0.01, np.quantile(loss, 0.95))
    figure.colorbar(drawn, ax=axis, label="rate R, nats")
    axis.grid(False)
    axis.set_title("The equilibrium surface R(D, C)")
    axis.set_xlabel("distortion D, nats")
    axis.set_ylabel("classification loss C, nats")


@styled
def table_processes(arrays: Mapping[str, Any]) -> Figure:
    """Dissipated work and transfers of experiment X4.

    Args:
        arrays: `x4_*` of the experiments.
    """
    figure, (work, task) = axes_grid(1, 2, 3.3)
    read = lambda name: np.asarray(arrays[f"x4_{name}"])
    work.plot(read("steps"), read("wasted"), "o-", color=BLUE)
    bound = float(read("length")) ** 2 / 2
    for value, name, color in (
        (float(read("wasted_limit")), "limit", INK),
        (bound, r"$L^2/2$", GREY),
    ):
        work.axhline(value, color=color, lw=1, ls="--")
        work.annotate(name, (read("steps")[0], value), va="bottom", color=color)
    work.set_xscale("log", base=2)
    work.set_xticks(read("steps"), [str(n) for n in read("steps")])
    work.set_title("Dissipated work")
    work.set_xlabel("steps n")
    work.set_ylabel("n · sum of dissipated work, nats")
    _task(task, read)
    return figure


def _task(axis: Axes, read: Any) -> None:
    t, gam, held = read("transfer_t"), read("transfer_gam"), read("transfer_held").astype(bool)
    for i, kept in enumerate(held):
        name = f"gam = {gam[i, 0]:g}, C = {read('transfer_classification')[i, 0]:.3f}"
        axis.plot(t, gam[i], "o-", color=_color(i), ms=2.5, label=name)
        missed = t[~kept]
        if missed.size:
            axis.axvspan(missed.min(), missed.max(), color=_color(i), alpha=0.15, lw=0)
            axis.annotate(
                "no gam\nholds this C",
                (float(missed.mean()), 0.97),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                color=_color(i),
            )
    axis.set_yscale("log")
    axis.set_ylim(top=5 * float(np.nanmax(gam)))
    axis.legend(loc="lower right", fontsize=8)
    axis.set_title("A task that moves")
    axis.set_xlabel("task coordinate t")
    axis.set_ylabel("gam that holds C")


def figures(arrays: Mapping[str, Any]) -> dict[str, Figure]:
    """All figures by name.

    Args:
        arrays: `x1_*` to `x4_*` of the experiments.
    """
    drawn = (exact_process, boundaries, equilibrium_surface, table_processes)
    return {function.__name__: function(arrays) for function in drawn}
