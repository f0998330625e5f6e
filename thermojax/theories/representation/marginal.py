"""Optimal marginal of codes for given weights: a convex problem on the simplex.

    F = min_m -sum_x p(x) log sum_z m_z w[x, z],     g_z = sum_x p(x) w[x, z] / Z_x

m is optimal if and only if g_z = 1 where m_z > 0 and g_z <= 1 elsewhere, and log max_z g_z
bounds how far any m is from the minimum. Expectation maximisation, m_z <- m_z g_z, is sublinear
where a code dies out; a primal-dual interior point finds the support in some twenty Newton
steps whatever it is, and an active set of fixed shape then makes dead codes exactly 0.

Source: problem and certificate are textbook (Blahut 1972; Arimoto 1972); the two-stage solver
is ours, close to Kim, Carbonetto, Stephens & Anitescu 2020.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from thermojax.typing import Array

__all__ = [
    "MarginalSolution",
    "curvature_inverse",
    "optimal_marginal",
    "score",
]

INTERIOR_STEPS = 80


class MarginalSolution(NamedTuple):
    """Minimiser over the simplex and what it took.

    Attributes:
        marginal: [K], exactly 0 for the codes that are off.
        gap: log max_z g_z, nats; the free energy of `marginal` is at most this above F.
        num_iter: Newton steps.
    """

    marginal: Array
    gap: Array
    num_iter: Array


class _Interior(NamedTuple):
    marginal: Array
    slack: Array
    num_iter: Array
    residual: Array


class _Active(NamedTuple):
    marginal: Array
    support: Array
    gap: Array
    num_iter: Array
    best: Array
    best_gap: Array
    idle: Array


def score(log_weight: Array, p_x: Array, marginal: Array) -> tuple[Array, Array]:
    """g_z = sum_x p(x) w[x, z] / Z_x, and the ratios w / Z themselves.

    Args:
        log_weight: [n_x, K] log w; -inf where a code cannot make an input.
        p_x: [n_x] probability of each input; rows of probability 0 count for nothing.
        marginal: [K] on the simplex.

    Returns:
        g [K] and the ratios [n_x, K], 0 in the rows of probability 0.

    Example:
        >>> g, _ = score(jnp.zeros((2, 3)), jnp.full(2, 0.5), jnp.full(3, 1 / 3))
        >>> bool(jnp.allclose(g, 1.0))
        True
    """
    seen = (p_x > 0)[:, None]
    log_z = jax.nn.logsumexp(jnp.log(marginal) + log_weight, axis=1, keepdims=True)
    ratio = jnp.where(seen, jnp.exp(log_weight - jnp.where(seen, log_z, 0.0)), 0.0)
    return p_x @ ratio, ratio


def curvature_inverse(ratio: Array, p_x: Array, support: Array) -> Array:
    """Pseudo-inverse of the curvature on the tangent space of the face of the simplex.

        H = sum_x p(x) q q^T,    q = w / Z,    restricted to directions of sum 0 on the support

    Args:
        ratio: [n_x, K] q.
        p_x: [n_x].
        support: [K] codes that are on.

    Returns:
        [K, K]; rows and columns of codes that are off are 0. Directions without curvature, as
        between duplicate codes, are left out, so that solutions have the smallest norm.

    Source:
        Derived here.

    Example:
        >>> q = jnp.array([[2.0, 0.0], [0.0, 2.0]])
        >>> curvature_inverse(q, jnp.full(2, 0.5), jnp.array([True, True])).tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    on = support.astype(ratio.dtype)
    root = jnp.sqrt(p_x)[:, None] * ratio * on
    scale = jnp.max(jnp.sum(root**2, axis=0))
    root = (root - jnp.sum(root, axis=1, keepdims=True) * on / jnp.sum(on)) * on
    values, vectors = jnp.linalg.eigh(root.T @ root)
    rounding = 8 * on.size * jnp.finfo(ratio.dtype).eps
    # where all codes are alike the projected root itself is rounding
    cut = jnp.maximum(rounding * values[-1], rounding**2 * scale)
    inverse = jnp.where(values > cut, 1 / jnp.where(values > cut, values, 1.0), 0.0)
    inverse = (vectors * inverse) @ vectors.T
    return inverse * on * on[:, None]


def _boundary(value: Array, step: Array) -> Array:
    """Longest step in [0, 1] that keeps every value from turning negative."""
    down = step < 0
    return jnp.minimum(1.0, jnp.min(jnp.where(down, -value / jnp.where(down, step, 1.0), 1.0)))


def _interior_step(log_weight: Array, p_x: Array, state: _Interior) -> _Interior:
    """Predict without centring, see how far that gets, and centre as much as it falls short."""
    marginal, slack, num_iter, _ = state
    size = marginal.size
    g, ratio = score(log_weight, p_x, marginal)
    width = jnp.sqrt(marginal)
    root = jnp.sqrt(p_x)[:, None] * ratio * width
    # the ridge keeps duplicate codes positive definite once their slack is below rounding
    ridge = 4 * size * jnp.finfo(width.dtype).eps * jnp.sum(root**2)
    factor = cho_factor(root.T @ root + jnp.diag(slack + ridge))

    def direction(barrier):
        move = width * cho_solve(factor, width * (g - 1) + barrier / width)
        return move, barrier / marginal - slack - slack / marginal * move

    barrier = marginal @ slack / size
    move, change = direction(0.0)
    ahead = (marginal + _boundary(marginal, move) * move) @ (
        slack + _boundary(slack, change) * change
    )
    centring = jnp.clip(ahead / (size * barrier), 0.0, 1.0) ** 3
    move, change = direction(jnp.maximum(centring, 1e-3) * barrier)
    length = 0.95 * jnp.minimum(_boundary(marginal, move), _boundary(slack, change))
    marginal, slack = marginal + length * move, slack + length * change
    g, _ = score(log_weight, p_x, marginal)
    residual = jnp.maximum(jnp.max(jnp.abs(1 - g - slack)), marginal @ slack)
    return _Interior(marginal, slack, num_iter + 1, residual)


def _interior(log_weight: Array, p_x: Array, max_iter: int) -> _Interior:
    size, dtype = log_weight.shape[1], log_weight.dtype
    enough = float(jnp.finfo(dtype).eps) ** 0.6
    start = _Interior(
        jnp.full(size, 1 / size, dtype),
        jnp.ones(size, dtype),
        jnp.asarray(0),
        jnp.asarray(jnp.inf, dtype),
    )
    limit = min(max_iter, INTERIOR_STEPS)

    def unfinished(state):
        # the residual stalls at rounding, and a slack that underflows is of no use
        barrier = state.marginal @ state.slack
        open_ = (state.residual > enough) & (barrier > jnp.finfo(dtype).eps)
        return open_ & (state.num_iter < limit)

    return jax.lax.while_loop(
        unfinished, lambda state: _interior_step(log_weight, p_x, state), start
    )


def _active_step(log_weight: Array, p_x: Array, tol: float, state: _Active) -> _Active:
    """Newton on the face; drop the code that blocks it, or else admit the one most missed."""
    marginal, support = state.marginal, state.support
    g, ratio = score(log_weight, p_x, marginal)
    move = curvature_inverse(ratio, p_x, support) @ (g - 1)
    # Newton may overshoot by far where an input of small p(x) has a code of its own
    allowed = jnp.minimum(1.0, 0.9 / jnp.maximum(jnp.max(-(ratio @ move)), 0.9))
    length = jnp.minimum(_boundary(marginal, move), allowed)
    blocked = (length < 1) & (length < allowed)
    moved = marginal + length * move
    blocking = support & (move < 0) & (moved <= jnp.min(jnp.where(move < 0, moved, 1.0)))
    support = jnp.where(blocked, support & ~blocking, support)
    marginal = jnp.where(support, jnp.maximum(moved, 0.0), 0.0)
    marginal = marginal / jnp.sum(marginal)
    g, _ = score(log_weight, p_x, marginal)
    missed = jnp.where(support, -jnp.inf, g)
    worst = jnp.arange(g.size) == jnp.argmax(missed)
    support = support | (worst & (missed > 1 + tol) & ~blocked)
    gap = jnp.log(jnp.max(g))
    better = gap < state.best_gap
    return _Active(
        marginal,
        support,
        gap,
        state.num_iter + 1,
        jnp.where(better, marginal, state.best),
        jnp.where(better, gap, state.best_gap),
        jnp.where(better, 0, state.idle + 1),
    )


@functools.partial(jax.jit, static_argnames=("tol", "max_iter"))
def optimal_marginal(
    log_weight: Array, p_x: Array, *, tol: float, max_iter: int
) -> MarginalSolution:
    """Minimise -sum_x p(x) log sum_z m_z w[x, z] over the simplex of m.

    Shapes are fixed, so that it jits and vmaps; it is not differentiated through, since the
    minimiser is (`tabular_free_energy`).

    Args:
        log_weight: [n_x, K] log w; -inf where a code cannot make an input.
        p_x: [n_x], sum 1.
        tol: gap at which to stop, nats; a few units of rounding at least.
        max_iter: bound on Newton steps.

    Source:
        The problem is textbook (Blahut 1972; Arimoto 1972), the solver ours.

    Example:
        >>> w = jnp.log(jnp.array([[0.9, 0.2, 0.4], [0.1, 0.8, 0.4]]))
        >>> found = optimal_marginal(w, jnp.array([0.5, 0.5]), tol=1e-5, max_iter=100)
        >>> bool(found.gap <= 1e-5), float(found.marginal[2])
        (True, 0.0)
    """
    log_weight, p_x = jax.lax.stop_gradient((log_weight, p_x))
    # rows of probability 0 may have no code at all: give them a harmless weight; the others
    # are shifted, for the rounding of a log weight of -300 would be that of the gap
    log_weight = jnp.where((p_x > 0)[:, None], log_weight, 0.0)
    log_weight = log_weight - jnp.max(log_weight, axis=1, keepdims=True)
    inner = _interior(log_weight, p_x, max_iter)
    share = jnp.max(score(log_weight, p_x, inner.marginal)[1], axis=0) * inner.marginal
    # a code that some input needs stays, however rare the input
    support = (inner.marginal > inner.slack) | (share > 0.5 / share.size)
    marginal = jnp.where(support, inner.marginal, 0.0)
    marginal = marginal / jnp.sum(marginal)
    gap = jnp.log(jnp.max(score(log_weight, p_x, marginal)[0]))
    start = _Active(
        marginal, support, gap, inner.num_iter, marginal, gap, jnp.zeros_like(inner.num_iter)
    )
    patience = marginal.size + 20
    unfinished = lambda state: (
        (state.gap > tol) & (state.num_iter < max_iter) & (state.idle < patience)
    )
    found = jax.lax.while_loop(
        unfinished, lambda state: _active_step(log_weight, p_x, tol, state), start
    )
    return MarginalSolution(found.best, found.best_gap, found.num_iter)
