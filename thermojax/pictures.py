"""What the pictures of theories share: means over draws with their errors, as marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thermojax.estimators.mixture import t_factor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["band", "bars", "mean_of_draws"]


def mean_of_draws(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over draws (axis 0) and its standard error; 0 for one draw, which shows no bar.

    Example:
        >>> mean, error = mean_of_draws(np.array([1.0, 3.0]))
        >>> float(mean), round(float(error), 3)
        (2.0, 1.837)
    """
    n = len(values)
    if n < 2:
        return values[0], np.zeros(values.shape[1:])
    return values.mean(0), t_factor(n) * values.std(0, ddof=1) / np.sqrt(n)


def band(axis: Axes, x: Any, values: np.ndarray, color: str, label: str, style="-") -> None:
    """A line of means with a band of errors; draws along axis 0."""
    mean, error = mean_of_draws(values)
    axis.fill_between(x, mean - error, mean + error, color=color, alpha=0.22, linewidth=0)
    axis.plot(x, mean, style, color=color, label=label, ms=3)


def bars(axis: Axes, x: Any, values: np.ndarray, color: str, label: str, mark="o-") -> None:
    """Marks of means with bars of errors; draws along axis 0."""
    mean, error = mean_of_draws(values)
    axis.errorbar(x, mean, error, fmt=mark, color=color, label=label, capsize=2, lw=1.3)
