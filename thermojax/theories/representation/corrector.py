"""Roots of a constraint on the host: safeguarded Newton that always ends, and says how.

    miss(control) = Q(control) - Q_0 = 0,      slope = dQ/dcontrol from chi

The equilibrium behind Q may be any function of Python, loops included, so these run outside
jit. A root that is not there is a verdict, not an exception and not a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Root", "find_pair", "find_root"]

_MOST_STEPS = 80


class Root(NamedTuple):
    """Where a search ended.

    Attributes:
        verdict: "solved"; "floor" or "ceiling" if the root lies beyond an end of the range;
            "flat" if the quantity does not respond; "jump" if it steps over the target, or
            the search stalls; "broken" if the quantity or its slope is not finite.
        control: the control with the smallest miss.
        miss: Q - Q_0 there.
        point: what `evaluate` returned there.
    """

    verdict: str
    control: Any
    miss: Any
    point: Any


def _proposal(control: float, step: float, bracket: dict[bool, float], halving: bool) -> float:
    """Newton inside the bracket, its middle otherwise; without one, doubling at most."""
    if len(bracket) < 2:
        return min(control + step, 2 * control + 1)
    low, high = sorted(bracket.values())
    newton = control + step
    return newton if low < newton < high and halving else (low + high) / 2


def find_root(
    evaluate: Callable[[float], tuple[float, float, Any]],
    start: float,
    *,
    tolerance: float,
    low: float,
    high: float,
) -> Root:
    """Newton from `start` for miss = 0 on [low, high], kept in a bracket once there is one.

    Args:
        evaluate: control -> (miss, slope, anything).
        start: first control, clipped to the range.
        tolerance: |miss| that counts as solved.
        low: least control.
        high: largest control.

    Example:
        >>> search = {"tolerance": 1e-9, "low": 0.0, "high": 9.0}
        >>> find_root(lambda x: (x * x - 2, 2 * x, None), 1.0, **search).verdict
        'solved'
        >>> find_root(lambda x: (x + 1, 1.0, None), 1.0, **search).verdict
        'floor'
    """
    control, bracket, last = float(np.clip(start, low, high)), {}, np.inf
    best = Root("jump", control, np.inf, None)
    for _ in range(_MOST_STEPS):
        miss, slope, point = evaluate(control)
        if abs(miss) < abs(best.miss) or best.point is None:
            best = Root("jump", control, miss, point)
        if abs(miss) <= tolerance:
            return best._replace(verdict="solved")
        if not np.isfinite(miss):
            return best._replace(verdict="broken")
        bracket[miss > 0] = control
        if not np.isfinite(slope) and len(bracket) < 2:
            return best._replace(verdict="broken")
        if slope == 0 and len(bracket) < 2:
            return best._replace(verdict="flat")
        step = -miss / slope if slope else np.inf
        proposal = _proposal(control, step, bracket, abs(miss) <= last / 2)
        proposal = float(np.clip(proposal, low, high))
        if proposal == control:
            ends = {low: "floor", high: "ceiling"}
            return best._replace(verdict=ends.get(control, "jump"))
        control, last = proposal, abs(miss)
    return best


def find_pair(
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, Any]],
    start: np.ndarray,
    *,
    tolerance: float,
    high: float,
) -> Root:
    """Damped Newton for two misses in two controls on [0, high]^2.

    Args:
        evaluate: controls [2] -> (misses [2], Jacobian [2, 2], anything).
        start: first controls.
        tolerance: largest |miss| that counts as solved.
        high: largest control.

    Example:
        >>> linear = lambda x: (x - np.array([1.0, 2.0]), np.eye(2), None)
        >>> find_pair(linear, np.zeros(2), tolerance=1e-9, high=9.0).control.tolist()
        [1.0, 2.0]
    """
    control = np.clip(np.asarray(start, float), 0, high)
    miss, slope, point = evaluate(control)
    for _ in range(_MOST_STEPS):
        if np.max(np.abs(miss)) <= tolerance:
            return Root("solved", control, miss, point)
        if not np.all(np.isfinite(slope)) or np.linalg.matrix_rank(slope) < 2:
            return Root("floor" if np.any(control == 0) else "flat", control, miss, point)
        step, share = -np.linalg.solve(slope, miss), 1.0
        while share > 1e-4:
            tried = np.clip(control + share * step, 0, high)
            new = evaluate(tried)
            if np.linalg.norm(new[0]) < np.linalg.norm(miss):
                break
            share /= 4
        else:
            return Root(_where(control, high), control, miss, point)
        control, (miss, slope, point) = tried, new
    return Root(_where(control, high), control, miss, point)


def _where(control: np.ndarray, high: float) -> str:
    if np.any(control == 0):
        return "floor"
    return "ceiling" if np.any(control == high) else "jump"
