"""Entropic optimal transport between the samples of two tasks.

    min <P, C> + eps KL(P || a b^T)   over P with marginals a, b;     C_ij = |x_i - x_j|^2

Source: Cuturi 2013; its use between tasks, Gao & Chaudhari 2020. The class map is ours.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, ShapeError, is_concrete

__all__ = [
    "Coupling",
    "class_pairs",
    "sinkhorn_coupling",
]


class Coupling(NamedTuple):
    """Transport plan of two sets of samples of uniform weight.

    Attributes:
        coupling: P [n, m], sum 1; row i and column j sum to 1/n and 1/m.
        cost: <P, C>, in units of the squared distance.
        objective: <P, C> + eps KL(P || a b^T), in the same units.
        converged: whether both marginals hold to `tol`. False if the class map leaves no
            plan, and then P does not sum to 1.
    """

    coupling: Array
    cost: Array
    objective: Array
    converged: Array


def class_pairs(y_src: ArrayLike, y_tgt: ArrayLike, class_map: ArrayLike) -> Array:
    """Which samples may be paired: allowed[i, j] = class_map[y_i, y_j].

    Args:
        y_src: [n] whole-number labels.
        y_tgt: [m] whole-number labels.
        class_map: [n_y, n_y'] True where a source class may go to a target class.

    Returns:
        [n, m] of bool, for `sinkhorn_coupling`.

    Raises:
        ValueError: if a label has no row or column in the map.

    Source:
        Our definition, following the paper's programme.

    Example:
        >>> class_pairs(jnp.array([0, 1]), jnp.array([1, 1]), jnp.eye(2)).tolist()
        [[False, False], [True, True]]
    """
    allowed = jnp.asarray(class_map) != 0
    if allowed.ndim != 2:
        raise ShapeError(f"class_map has shape {allowed.shape}; give [classes, target classes]")
    labels = []
    for name, y, count in zip(("y_src", "y_tgt"), (y_src, y_tgt), allowed.shape, strict=True):
        seen, y = y, jnp.asarray(y)
        if not jnp.issubdtype(y.dtype, jnp.integer) or y.ndim != 1:
            raise ShapeError(f"{name} is {y.dtype}{list(y.shape)}; give a row of whole numbers")
        if is_concrete(seen) and not 0 <= np.min(seen) <= np.max(seen) < count:
            raise ValueError(
                f"{name} runs from {np.min(seen)} to {np.max(seen)}; class_map knows classes "
                f"0 to {count - 1}"
            )
        labels.append(y)
    return allowed[labels[0][:, None], labels[1][None, :]]


def _squared_distances(x_src: Array, x_tgt: Array) -> Array:
    if x_src.shape[1:] != x_tgt.shape[1:] or not x_src.ndim or not x_src.size or not x_tgt.size:
        raise ShapeError(
            f"x_src and x_tgt have shapes {x_src.shape} and {x_tgt.shape}; give samples of one "
            "shape along axis 0"
        )
    a, b = (x.reshape(x.shape[0], -1) for x in (x_src, x_tgt))
    # distances do not depend on the origin, their rounding does
    centre = jnp.mean(a, axis=0)
    a, b = a - centre, b - centre
    squares = jnp.sum(a**2, -1)[:, None] + jnp.sum(b**2, -1)[None] - 2 * a @ b.T
    return jnp.maximum(squares, 0.0)


def _solve(cost: Array, epsilon: Array, tol: float, max_iter: int) -> tuple[Array, Array]:
    """Plan and objective of ott, which warns about its own imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ott.geometry import geometry
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn

    weight: Any = epsilon  # ott takes an array where its annotation says a float
    problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=cost, epsilon=weight))
    solved = sinkhorn.Sinkhorn(threshold=tol, max_iterations=max_iter)(problem)
    return solved.matrix, jnp.asarray(solved.reg_ot_cost)


def sinkhorn_coupling(
    x_src: ArrayLike,
    x_tgt: ArrayLike,
    *,
    epsilon: ArrayLike,
    tol: float | None = None,
    max_iter: int = 20_000,
    allowed: ArrayLike | None = None,
) -> Coupling:
    """Entropic optimal transport of two sets of samples: min <P, C> + eps KL(P || a b^T).

    C_ij = |x_i - x_j|^2 without 1/2, weights uniform. The plan does not depend on a model:
    compute it once. Solved by ott-jax in the log domain.

    Args:
        x_src: [n, *] samples or features, flattened; floating.
        x_tgt: [m, *].
        epsilon: entropic weight > 0 in units of the cost; 0.01 to 0.05 of the mean cost makes
            a sharp plan. The iterations needed grow as 1/epsilon.
        tol: summed error of a marginal at which to stop; None is 1e-9 in float64 and 1e-5 in
            float32.
        max_iter: most iterations.
        allowed: [n, m] of bool, pairs that may be coupled, as from `class_pairs`; None is all.

    Returns:
        A `Coupling`.

    Raises:
        ValueError: if shapes do not fit, `epsilon` is not positive, or a row or column of
            `allowed` holds no pair.

    Source:
        Cuturi 2013; its use for transfer, Gao & Chaudhari 2020.

    Example:
        >>> plan = sinkhorn_coupling(jnp.zeros((2, 1)), jnp.ones((4, 1)), epsilon=1.0)
        >>> plan.coupling.shape, float(plan.cost)
        ((2, 4), 1.0)
    """
    x_src, x_tgt = (
        jnp.asarray(x, jnp.result_type(x_src, x_tgt, float)) for x in (x_src, x_tgt)
    )
    if is_concrete(epsilon) and not np.all(np.asarray(epsilon) > 0):
        raise ValueError(f"epsilon is {epsilon}; give a positive number, in units of the cost")
    cost = _squared_distances(x_src, x_tgt)
    if tol is None:
        tol = 1e-9 if cost.dtype == jnp.float64 else 1e-5
    pairs = _allowed_pairs(allowed, cost.shape)
    # dearer than every detour over allowed pairs, and e^-200 of them in weight
    width = jnp.asarray(epsilon, cost.dtype)
    toll = cost.size**0.5 * jnp.max(cost) + 200 * width
    plan, objective = _solve(jnp.where(pairs, cost, cost + toll), width, tol, max_iter)
    plan = jnp.where(pairs, plan, 0.0)
    misses = [
        jnp.sum(jnp.abs(jnp.sum(plan, axis) - 1 / plan.shape[1 - axis])) for axis in (0, 1)
    ]
    # rounding of the sums themselves is no failure to converge
    margin = tol + 50 * jnp.finfo(cost.dtype).eps
    return Coupling(plan, jnp.sum(plan * cost), objective, jnp.maximum(*misses) <= margin)


def _allowed_pairs(allowed: ArrayLike | None, shape: tuple[int, ...]) -> Array:
    if allowed is None:
        return jnp.ones(shape, bool)
    pairs = jnp.asarray(allowed) != 0
    if pairs.shape != shape:
        raise ShapeError(f"allowed has shape {pairs.shape}; give one entry per pair, {shape}")
    if is_concrete(allowed):
        alone = [int(np.sum(~np.any(np.asarray(allowed), axis))) for axis in (1, 0)]
        if any(alone):
            raise ValueError(
                f"allowed leaves {alone[0]} source and {alone[1]} target samples without a "
                "partner; allow at least one for each"
            )
    return pairs
