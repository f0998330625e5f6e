"""Figures of the experiments on parametric models: arrays in, matplotlib Figure out."""

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

__all__ = ["CAPTIONS", "figures", "fluctuation", "learning", "memory", "save_figures"]

CAPTIONS = {
    "learning": (
        "Quasi-static learning",
        "The heat that sampling labels dumps in the parameters pays for the drop of entropy, "
        "the learned information and dissipation. Slower learning dissipates less and learns "
        "the same; minibatch noise dissipates a hundred times more. Bands and bars: one "
        "standard error over draws.",
    ),
    "memory": (
        "Memory against relevance",
        "A hotter optimiser forgets its data set long before its labels do: M-info falls, the "
        "L-info of a label stays, their ratio rises. Bars span both bounds.",
    ),
    "fluctuation": (
        "Fluctuation theorems and heat capacity",
        "Forward over reversed frequency of the dissipated work is a line of slope 1; where "
        "training is turbulent rare paths carry the average, which is then marked; a finite "
        "reservoir approaches the ideal one as 1/d.",
    ),
}


def _rates(axis: Axes, rate: np.ndarray) -> None:
    """A logarithmic axis of learning rates, each with its own tick."""
    axis.set_xscale("log")
    ticks = sorted(set(rate.tolist()))
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("learning rate")


@styled
def learning(arrays: Mapping[str, Any]) -> Figure:
    """Ledger of learning against time, its cost and its efficiency against learning rate.

    Args:
        arrays: `a_*` of the experiments, draws along axis 0, runs along axis 1.
    """
    figure, axes = axes_grid(2, 2)
    rate, batch, slow = (np.asarray(arrays[f"a_{k}"]) for k in ("rate", "batch", "slow"))
    full = batch == 0
    for axis, run in zip(axes, (np.flatnonzero(full & slow)[0], len(rate) - 1), strict=False):
        _ledger(axis, arrays, run)
        kind = "full batch" if batch[run] == 0 else f"batches of {batch[run]}"
        axis.set_title(f"Learning rate {rate[run]:g}, {kind}")
    cost, merit = axes[2], axes[3]
    for mask, color, mark, label in (
        (full & slow, BLUE, "o", "full batch"),
        (full & ~slow, RED, "X", "turbulent"),
        (~full, ORANGE, "s", "minibatches"),
    ):
        if mask.any():
            paid = np.asarray(arrays["a_ep_conditional"])[:, mask, -1]
            bars(cost, rate[mask], paid, color, label, mark + "-")
            bars(merit, rate[mask], np.asarray(arrays["a_efficiency"])[:, mask], color, label)
    reference = np.asarray(arrays["a_ep_conditional"])[:, full & slow, -1].mean(0)
    x = rate[full & slow]
    cost.plot(x, 0.6 * reference[-1] * x / x[-1], "--", color=GREY, lw=1, label="slope 1")
    cost.set_yscale("log")
    for axis, title, label in (
        (cost, "Cost of haste", "conditional EP  (nats)"),
        (merit, "Learning efficiency", "L-info / interval EP"),
    ):
        _rates(axis, rate)
        axis.set_title(title)
        axis.set_ylabel(label)
        axis.legend()
    merit.set_ylim(0, 1.02)
    return figure


def _ledger(axis: Axes, arrays: Mapping[str, Any], run: int) -> None:
    """Cumulative heat and what it pays for, of one run."""
    time = np.asarray(arrays["a_time"])
    part = lambda name: np.asarray(arrays[f"a_{name}"])[:, run]
    band(axis, time, part("heat"), INK, "dumped heat")
    band(axis, time, part("entropy_drop"), SKY, "entropy drop")
    band(axis, time, part("ep_conditional"), RED, "conditional EP")
    lower, upper = part("info_lower").mean(0), part("info_upper").mean(0)
    axis.fill_between(time, lower, upper, color=GREEN, alpha=0.5, linewidth=0)
    axis.plot(time, 0.5 * (lower + upper), color=GREEN, label="L-info (both bounds)")
    axis.set_xlabel("training time (rate x steps)")
    axis.set_ylabel("nats per label")
    axis.set_ylim(top=1.45 * part("heat").mean(0).max())
    axis.legend(loc="upper left", ncols=2)


@styled
def memory(arrays: Mapping[str, Any]) -> Figure:
    """M-info, L-info, relevance and L^(k) against temperature, time and labels.

    Args:
        arrays: `b_*` of the experiments, draws along axis 0, temperatures along axis 1.
    """
    figure, (both, ratio, grow, joint) = axes_grid(2, 2)
    temperature = np.asarray(arrays["b_temperature"])
    memory, label_info = np.asarray(arrays["b_m_info"]), np.asarray(arrays["b_l_info"])
    bars(both, temperature, memory[..., -1], BLUE, "M-info")
    low, high = label_info[..., 0].mean(0), label_info[..., 1].mean(0)
    middle = 0.5 * (low + high)
    spans = np.abs([middle - low, high - middle])
    both.errorbar(temperature, middle, spans, fmt="s-", color=GREEN, capsize=2, label="L-info")
    bars(ratio, temperature, np.asarray(arrays["b_relevance"]), PINK, "L / M")
    colors = (BLUE, SKY, GREEN, ORANGE, RED, PINK)
    k = np.asarray(arrays["b_joint_k"])
    every = range(0, len(temperature), max(1, len(temperature) // 3))
    for i in every:
        name = f"T = {temperature[i]:g}"
        band(grow, arrays["b_time"], memory[:, i], colors[i % 6], name)
        bounds = np.asarray(arrays["b_joint"])[:, i].mean(0)
        center = bounds[:, :2].mean(1)
        reach = np.abs([center - bounds[:, 0], bounds[:, 1] - center])
        joint.errorbar(k, center, reach, fmt="o-", color=colors[i % 6], capsize=2, label=name)
    ceiling = np.log(int(arrays["b_groups"]))
    joint.axhline(0, color=GREY, lw=0.8)
    for axis, title, x_label, y_label in (
        (both, "Memory and its visible part", "temperature", "nats"),
        (ratio, "Relevance", "temperature", "L-info / M-info"),
        (grow, "Memory grows", "training time (rate x steps)", "M-info  (nats)"),
        (joint, f"L-info of k labels (ceiling log G = {ceiling:.2f})", "labels k", "nats"),
    ):
        axis.set_title(title)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        if axis in (both, ratio):
            axis.set_xscale("log")
            axis.set_yscale("log")
        if axis is not ratio:
            axis.legend()
    return figure


@styled
def fluctuation(arrays: Mapping[str, Any]) -> Figure:
    """Detailed and integral fluctuation theorem, and the capacity of the reservoir.

    Args:
        arrays: `d_*` and `c_*` of the experiments, draws along axis 0.
    """
    figure, (line, mean, size, capacity) = axes_grid(2, 2)
    rate, slow = np.asarray(arrays["d_rate"]), np.asarray(arrays["d_slow"])
    first = np.flatnonzero(slow)[0]
    for draw in range(len(arrays["d_centres"])):
        color = (BLUE, GREEN, ORANGE, PINK, SKY)[draw % 5]
        x, y, e = (
            np.asarray(arrays[f"d_{k}"])[draw, first]
            for k in ("centres", "log_ratio", "log_ratio_stderr")
        )
        keep = np.isfinite(y)
        line.errorbar(x[keep], y[keep], e[keep], fmt="o", ms=3, color=color, lw=0.8)
    ends = np.array(line.get_xlim())
    line.plot(ends, ends, color=INK, lw=1, label="slope 1")
    line.legend()
    value, error = (np.asarray(arrays[f"d_mean_exp{k}"]) for k in ("", "_stderr"))
    doubtful = np.asarray(arrays["d_flags"]) != 0
    for draw in range(len(value)):
        x = rate * 1.04 ** (draw - (len(value) - 1) / 2)
        mean.errorbar(x, value[draw], error[draw], fmt="o", color=BLUE, capsize=2)
        bad = doubtful[draw]
        ring: dict[str, Any] = {"ms": 10, "mfc": "none", "mec": RED, "mew": 1.5}
        mean.plot(x[bad], value[draw][bad], "o", **ring)
        size.plot(x, np.maximum(np.asarray(arrays["d_ess"])[draw], 0.1), "o", color=BLUE)
    mean.axhline(1, color=GREY, lw=1)
    if doubtful.any():
        mean.plot([], [], "o", ms=10, mfc="none", mec=RED, mew=1.5, label="not converged")
        mean.legend()
    size.set_yscale("log")
    for axis in (mean, size):
        _rates(axis, rate)
    d, gap = np.asarray(arrays["c_size"]), np.asarray(arrays["c_deviation"])
    bars(capacity, d, gap, BLUE, "C = d / 2")
    capacity.plot(d, gap[:, 0].mean() * d[0] / d, "--", color=GREY, lw=1, label="slope -1")
    capacity.set_xscale("log")
    capacity.set_yscale("log")
    capacity.legend()
    for axis, title, x_label, y_label in (
        (line, f"Detailed theorem, learning rate {rate[first]:g}", "s  (nats)", "log ratio"),
        (mean, "Integral theorem", "learning rate", "mean of exp(-s)"),
        (size, "How far to believe it", "learning rate", "effective size, 0.1 or more"),
        (capacity, "Heat capacity", "parameters d", "(naive - finite) / naive"),
    ):
        axis.set_title(title)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
    return figure


def figures(arrays: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure by its name."""
    return {
        "learning": learning(arrays),
        "memory": memory(arrays),
        "fluctuation": fluctuation(arrays),
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
