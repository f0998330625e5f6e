"""Moments of U by converged quadrature in one or two dimensions.

An integrand is a function of open-mesh coordinates that returns
`(log weight, mean, variance)`: the log of the density to integrate, and mean and variance
of U given the coordinates (variance 0 where they determine U). By the law of total
variance this gives log Z, <U> and Var U, so that weights that enter U quadratically can be
integrated exactly and only the others are left to the grid.

The rule is composite Gauss-Legendre; its panels are doubled until two successive answers
agree, which for the analytic integrands used here happens at rounding level.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from thermojax.exact.solvable import Moments

__all__ = ["combine", "gauss_panels", "integrate", "refine", "shrink"]

Box = Sequence[tuple[float, float]]

DEPTH = 44.0  # nats below the maximum at which the integrand is cut off
_ORDER = 16
_MOST = {1: 2**13, 2: 2**7}  # panels per axis
_COARSE = {1: 1025, 2: 97}  # nodes per axis while the box is sought


@functools.cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(_ORDER)


def gauss_panels(
    low: float, high: float, panels: int, *, split: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [low, high]; `split` puts a panel edge at zero."""
    edges = np.linspace(low, high, panels + 1)
    if split and low < 0 < high:
        left = np.linspace(low, 0, panels // 2 + 1)
        edges = np.concatenate([left, np.linspace(0, high, panels // 2 + 1)[1:]])
    unit, weights = _legendre()
    half = np.diff(edges)[:, None] / 2
    middle = (edges[:-1] + edges[1:])[:, None] / 2
    return (middle + half * unit).ravel(), (half * weights).ravel()


def combine(log_weight: np.ndarray, mean, variance=0.0) -> Moments:
    """Moments of a mixture of nodes with log weights, means and variances of U."""
    top = float(np.max(log_weight))
    weight = np.exp(log_weight - top)
    total = float(np.sum(weight))
    weight /= total
    average = float(np.sum(weight * mean))
    spread = float(np.sum(weight * ((mean - average) ** 2 + variance)))
    return Moments(top + float(np.log(total)), average, spread)


def _dips(depth: np.ndarray) -> np.ndarray:
    """How far below each node its surroundings may reach.

    The larger step to a neighbour where the node is lowest along an axis; zero on a slope.
    """
    total = np.zeros_like(depth)
    for axis in range(depth.ndim):
        step = np.diff(depth, axis=axis)
        edge = np.zeros_like(np.take(depth, [0], axis=axis))
        ahead = np.concatenate([step, edge], axis=axis)
        behind = np.concatenate([edge, -step], axis=axis)
        lowest = (ahead >= 0) & (behind >= 0)
        total += np.where(lowest, np.maximum(ahead, behind), 0.0)
    return total


def shrink(integrand: Callable, box: Box) -> list[tuple[float, float]]:
    """The part of `box` in which the integrand is within DEPTH nats of its maximum.

    A node is dropped only if it stays below the cut with the benefit of a possible mode
    between it and its neighbours, so that narrow modes are kept.
    """
    box = [(float(low), float(high)) for low, high in box]
    count = _COARSE[len(box)]
    for _ in range(60):
        axes = [np.linspace(low, high, count) for low, high in box]
        depth = -np.asarray(integrand(*np.ix_(*axes))[0])
        keep = depth - _dips(depth) < depth.min() + DEPTH
        found, shrunk = [], False
        for axis, nodes in enumerate(axes):
            others = tuple(i for i in range(depth.ndim) if i != axis)
            inside = np.flatnonzero(keep.any(axis=others))
            first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, count - 1)
            shrunk |= last - first < 0.9 * (count - 1)
            found.append((float(nodes[first]), float(nodes[last])))
        box = found
        if not shrunk:
            break
    return box


def _agree(new: Moments, old: Moments, tol: float) -> bool:
    scale = abs(new.mean) + np.sqrt(new.variance)
    return bool(
        abs(new.log_z - old.log_z) <= tol * max(1.0, abs(new.log_z))
        and abs(new.mean - old.mean) <= tol * scale
        and abs(new.variance - old.variance) <= tol * (new.variance + tol * scale**2)
    )


def refine(estimate: Callable[[int], Moments], most: int, *, tol: float = 1e-9) -> Moments:
    """`estimate(panels)` with panels doubled until two answers agree to `tol`.

    Raises:
        ValueError: no agreement at `most` panels.
    """
    panels, old = 4, estimate(4)
    while panels < most:
        panels *= 2
        new = estimate(panels)
        if _agree(new, old, tol):
            return new
        old = new
    raise ValueError(
        f"the quadrature did not converge with {most * _ORDER} nodes per axis: "
        "the ensemble has details too fine for its extent; move beta towards one (or, with "
        "data, use a larger noise)"
    )


def integrate(
    integrand: Callable, box: Box, *, split: bool = False, tol: float = 1e-9
) -> Moments:
    """Moments of U over a box in one or two dimensions.

    Args:
        integrand: `(*open mesh) -> (log weight, mean, variance)`, broadcastable arrays.
        box: `(low, high)` per axis; it must hold the mass, it need not be tight.
        split: put panel edges at zero, for integrands with a kink there.
        tol: largest relative difference between the last two refinements.

    Raises:
        ValueError: the quadrature does not converge.
    """
    box = shrink(integrand, box)

    def estimate(panels: int) -> Moments:
        rules = [gauss_panels(low, high, panels, split=split) for low, high in box]
        log_weight, mean, variance = integrand(*np.ix_(*(nodes for nodes, _ in rules)))
        measure = sum(np.ix_(*(np.log(weights) for _, weights in rules)))
        return combine(log_weight + measure, mean, variance)

    return refine(estimate, _MOST[len(box)], tol=tol)
