"""Figures of a sweep: arrays in, matplotlib Figure out; nothing is shown or printed.

Colours are those of Okabe and Ito, which survive colour blindness; every curve carries its
band of one standard error; numbers that are not trusted are marked, never dropped.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "axes_grid",
    "figures",
    "ladder",
    "prediction",
    "save_figures",
    "styled",
    "thermodynamics",
    "thermometers",
]

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PINK, SKY, INK, GREY = "#CC79A7", "#56B4E9", "#222222", "#8A8A8A"
_CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY, INK)
_MARKS = "osD^vP*X"

_STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#555555",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.2,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: draw with our style and leave the user's alone.

    Example:
        >>> @styled
        ... def dots():
        ...     figure, (axis,) = axes_grid(1, 1)
        ...     axis.plot([1, 2], "o", color=BLUE)
        ...     return figure
        >>> len(dots().get_axes())
        1
    """

    @functools.wraps(draw)
    def in_style(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return in_style


def axes_grid(rows: int, columns: int, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """A figure that belongs to no window system and no global state, and its axes, row by row.

    Args:
        rows: of axes.
        columns: of axes.
        height: of a row, inches; a column is 4.2 inches wide.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    figure = Figure(figsize=(4.2 * columns, height * rows), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def save_png(figures: Mapping[str, Figure], folder: Path | str) -> dict[str, Path]:
    """Write figures as PNG; each file takes its name only when it is complete.

    Args:
        figures: by name.
        folder: created if need be.

    Returns:
        Name -> path.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, drawn in figures.items():
        path, partial = folder / f"{name}.png", folder / f".{name}.{os.getpid()}.partial"
        drawn.savefig(partial, format="png")
        os.replace(partial, path)
        paths[name] = path
    return paths


def _temperature(beta: Any) -> np.ndarray:
    """1 / beta, with NaN (which no plot shows) for infinite temperature."""
    beta = np.asarray(beta, float)
    return np.divide(1.0, beta, out=np.full(beta.shape, np.nan), where=beta > 0)


def _log_temperature(axes: Axes, temperature: np.ndarray) -> None:
    shown = temperature[np.isfinite(temperature)]
    axes.set_xlabel("temperature $T = 1/\\beta$")
    if len(shown):
        axes.set_xscale("log")
        low, high = shown.min(), shown.max()
        pad = max((high / low) ** 0.04, 1.05)
        axes.set_xlim(low / pad, high * pad)


def _log_if_wide(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis for positive values that span more than a factor of thirty."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")


def _errors(stderr: Any, like: np.ndarray) -> np.ndarray:
    """Lengths of error bars; none where the error is unknown or infinite."""
    if stderr is None:
        return np.zeros(like.shape)
    stderr = np.abs(np.asarray(stderr, float))
    return np.where(np.isfinite(stderr), stderr, 0.0)


def _band(
    axes: Axes,
    x: np.ndarray,
    y: Any,
    stderr: Any,
    color: str,
    label: str | None = None,
    mark: str = "o",
) -> None:
    """A line through points, with a band of one standard error."""
    y = np.asarray(y, float)
    stderr = _errors(stderr, y)
    keep = np.isfinite(x) & np.isfinite(y)
    x, y, stderr = x[keep], y[keep], stderr[keep]
    axes.fill_between(x, y - stderr, y + stderr, color=color, alpha=0.22, linewidth=0)
    axes.plot(x, y, mark + "-", color=color, label=label, markeredgecolor="white", mew=0.5)


@styled
def thermodynamics(arrays: Mapping[str, Any]) -> Figure:
    """Partition function, U, S and C against temperature, 2 x 2, distrusted points ringed.

    Args:
        arrays: `beta`[B], and [B] arrays `log_z`, `internal_energy`, `entropy`,
            `heat_capacity` with `_stderr` beside them, and `flags`.
    """
    panels = (
        ("log_z", "Partition function", "$\\log Z$  (nats)"),
        ("internal_energy", "Internal energy", "$U = \\langle E \\rangle$  (nats)"),
        ("entropy", "Entropy relative to the prior", "$S$  (nats)"),
        ("heat_capacity", "Heat capacity", "$C$  (units of $k_B$)"),
    )
    figure, axes = axes_grid(2, 2)
    temperature = _temperature(arrays["beta"])
    doubtful = np.asarray(arrays.get("flags", np.zeros(len(temperature)))) != 0
    for axis, (name, title, label) in zip(axes, panels, strict=True):
        values = np.asarray(arrays[name], float)
        _band(axis, temperature, values, arrays.get(f"{name}_stderr"), BLUE)
        ring = doubtful & np.isfinite(temperature) & np.isfinite(values)
        if ring.any():
            axis.plot(
                *(temperature[ring], values[ring], "o"),
                **{"ms": 9, "mfc": "none", "mec": RED, "mew": 1.5, "label": "not trusted"},
            )
            if name == "log_z":
                axis.legend()
        if name == "internal_energy":
            _log_if_wide(axis, values[np.isfinite(temperature)])
        axis.set_title(title)
        axis.set_ylabel(label)
        _log_temperature(axis, temperature)
    return figure


@styled
def prediction(arrays: Mapping[str, Any], n_classes: int = 0) -> Figure:
    """Accuracy (or error) and log-loss of the ensemble against temperature.

    Args:
        arrays: `predict_beta`[P] and `{train,test}_{accuracy,rmse,log_loss}`[P], as far as
            they exist, with `_stderr` beside them.
        n_classes: draws the level of guessing, where positive.
    """
    score = "accuracy" if "train_accuracy" in arrays else "rmse"
    panels = {
        "accuracy": ("Accuracy", "fraction correct", 1 / max(n_classes, 1)),
        "rmse": ("Root mean squared error", "error  (standard deviations of the target)", 1.0),
        "log_loss": ("Log-loss", "log-loss  (nats per example)", np.log(max(n_classes, 1))),
    }
    figure, axes = axes_grid(1, 2, height=3.2)
    temperature = _temperature(arrays["predict_beta"])
    for axis, name in zip(axes, (score, "log_loss"), strict=True):
        title, label, guess = panels[name]
        for part, color, mark in (("train", BLUE, "o"), ("test", RED, "s")):
            key = f"{part}_{name}"
            if key in arrays:
                error = arrays.get(f"{key}_stderr")
                _band(axis, temperature, arrays[key], error, color, part, mark)
        if n_classes > 0:
            axis.axhline(guess, color=GREY, ls="--", lw=1, label="guessing")
        axis.set_title(title)
        axis.set_ylabel(label)
        _log_temperature(axis, temperature)
        axis.legend()
    return figure


@styled
def thermometers(arrays: Mapping[str, Any], layers: Sequence[str]) -> Figure:
    """Measured over set temperature, layer by layer; 1 is right.

    Args:
        arrays: `thermo_beta`[M] and `layer_kinetic`, `layer_configurational`,
            `layer_virial`[M, L] (as far as they exist) in units of temperature, with
            `_stderr` beside them.
        layers: L names.
    """
    titles = {
        "layer_kinetic": "Kinetic temperature",
        "layer_configurational": "Configurational temperature",
        "layer_virial": "Virial temperature",
    }
    names = [name for name in titles if name in arrays]
    figure, axes = axes_grid(1, len(names), height=3.2)
    beta = np.asarray(arrays["thermo_beta"], float)
    temperature = _temperature(beta)
    for axis, name in zip(axes, names, strict=True):
        ratio = np.asarray(arrays[name], float) * beta[:, None]
        stderr = _errors(arrays.get(f"{name}_stderr"), ratio) * beta[:, None]
        axis.axhline(1, color=GREY, lw=1)
        for i, layer in enumerate(layers):
            keep = np.isfinite(temperature) & np.isfinite(ratio[:, i])
            shift = 1.04 ** (i - (len(layers) - 1) / 2)  # so that error bars do not overlap
            axis.errorbar(
                temperature[keep] * shift,
                ratio[keep, i],
                stderr[keep, i],
                fmt=_MARKS[i % len(_MARKS)],
                color=_CYCLE[i % len(_CYCLE)],
                ms=4,
                elinewidth=1.1,
                capsize=2,
                label=layer,
            )
        reach = np.max(np.abs(ratio - 1) + stderr, where=np.isfinite(ratio), initial=0.02)
        axis.set_ylim(1 - 1.15 * reach, 1 + 1.15 * reach)
        axis.set_title(titles[name])
        axis.set_ylabel("measured $T$ / set $T$")
        _log_temperature(axis, temperature)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(max(len(labels), 1), 5)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    return figure


@styled
def ladder(arrays: Mapping[str, Any]) -> Figure:
    """How each run climbed: beta, acceptance, log Z so far, and where the runs ended.

    Args:
        arrays: `ladder_beta`, `ladder_acceptance`, `ladder_log_z`, each [R, K], rows filled
            up with NaN; `runs_log_z`[R]; `log_z` and `log_z_stderr`, of which the last is
            drawn as the pooled answer.
    """
    figure, (top, accept, running, final) = axes_grid(2, 2)
    for run, beta in enumerate(np.asarray(arrays["ladder_beta"], float)):
        color = _CYCLE[run % len(_CYCLE)]
        rungs = np.arange(len(beta))
        acceptance = np.asarray(arrays["ladder_acceptance"], float)[run]
        log_z = np.asarray(arrays["ladder_log_z"], float)[run]
        positive = beta > 0
        top.plot(rungs[positive], beta[positive], lw=1.3, color=color)
        known = np.isfinite(acceptance)
        accept.plot(rungs[known], acceptance[known], lw=1.3, color=color)
        known = positive & np.isfinite(log_z)
        running.plot(beta[known], log_z[known], lw=1.3, color=color)
        if positive.any():
            top.set_yscale("log")
            running.set_xscale("log")
    accept.set_ylim(0, 1.02)
    accept.axhspan(0.15, 0.98, color=GREEN, alpha=0.08, lw=0)
    accept.text(0.02, 0.17, "healthy", transform=accept.get_yaxis_transform(), color=GREEN)
    _runs(final, arrays)
    for axis, title, x_label, y_label in (
        (top, "Ladder, one line per run", "rung", "$\\beta$"),
        (accept, "Acceptance of the moves", "rung", "fraction accepted"),
        (running, "Running sum", "$\\beta$", "$\\log Z(\\beta)$  (nats)"),
        (final, "Where the runs ended", "run", "$\\log Z$  (nats)"),
    ):
        axis.set_title(title)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
    return figure


def _runs(axes: Axes, arrays: Mapping[str, Any]) -> None:
    """Final log Z of each run over the pooled answer and its error bar."""
    runs = np.asarray(arrays["runs_log_z"], float)
    if "log_z" in arrays:
        pooled = np.asarray(arrays["log_z"], float)
        value, stderr = pooled[-1], _errors(arrays.get("log_z_stderr"), pooled)[-1]
        axes.axhline(value, color=GREY, lw=1.2, label="pooled ± standard error")
        axes.axhspan(value - stderr, value + stderr, color=GREY, alpha=0.2, lw=0)
    for run, value in enumerate(runs):
        axes.plot(run + 1, value, "o", ms=7, color=_CYCLE[run % len(_CYCLE)], mec="white")
    axes.set_xticks(range(1, len(runs) + 1))
    axes.set_xlim(0.5, len(runs) + 0.5)
    axes.margins(y=0.35)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(loc="lower right")


@styled
def figures(result: Any) -> dict[str, Figure]:
    """Every figure that the arrays of a result allow, by file name without ending.

    Args:
        result: with `arrays` and `summary`, as from `run_sweep` or `read_result`.
    """
    arrays, summary = result.arrays, result.summary
    made = {}
    if "log_z" in arrays:
        made["thermodynamics"] = thermodynamics(arrays)
    if "predict_beta" in arrays and len(arrays["predict_beta"]):
        made["prediction"] = prediction(arrays, summary.get("n_classes") or 0)
    if "thermo_beta" in arrays and len(arrays["thermo_beta"]):
        made["thermometers"] = thermometers(arrays, summary.get("layers") or ())
    if "ladder_beta" in arrays:
        made["ladder"] = ladder(arrays)
    return made


@styled
def save_figures(result: Any, folder: Path | str) -> dict[str, Path]:
    """Write every figure of a result as PNG into a folder.

    Args:
        result: see `figures`.
        folder: created if need be; each file takes its name only when it is complete.

    Returns:
        Name -> path.
    """
    return save_png(figures(result), folder)
