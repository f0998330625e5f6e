"""Entropy production of single paths of a finite learner, as dense tables.

    total         s = ln P[z] / P~[z]
    conditional   s_{X|Theta} = ln P[x|theta] / P~[x|theta]
    chain rule    s_tot = s_Theta + s_{X|Theta} = s_X + s_{Theta|X}     (b summed out)
    bookkeeping   s_{X|Theta} = s_X + i[x:theta] - i~[x:theta]

P~ runs the sub-steps in reverse order with the same kernels from the final law of P. Each
obeys <exp(-s)> = 1 where P and P~ have one support, and <= 1 otherwise.

Source: Crooks & Still 2019 for marginal and conditional parts; that the conditional part is
the entropy production of Parsi 2024 is our reading. Specification of the theory, 2.4, 2.5.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.ppm.finite import FiniteLearner, check_learner, march
from thermojax.typing import Array

__all__ = ["PathEP", "path_entropy_production"]

_MOST_PATHS = 2_000_000


class PathEP(NamedTuple):
    """Path tables, nats, axes (x_0, theta_0, ..., x_N, theta_N).

    `weights` and `total` have b as an extra axis 0; in the others b is summed out. Averages
    are sum(weights * total) and sum(weights.sum(0) * field); entries of paths without
    weight are zero. inf where the reverse path is impossible.

    Attributes:
        weights: P[b, z].
        total: ln P/P~, b given.
        marginal_x: ln P[x]/P~[x].
        marginal_theta: ln P[theta]/P~[theta].
        conditional_x: ln P[x|theta]/P~[x|theta]. A parameter path that cannot be reversed
            is a protocol: P~[x|theta] is then p_N(x_N|theta_N) times the reversed moves of X.
        conditional_theta: ln P[theta|x]/P~[theta|x].
        path_info: i = ln P[x, theta]/(P[x] P[theta]).
        path_info_backward: i~, the same of P~, at the forward path.
    """

    weights: Array
    total: Array
    marginal_x: Array
    marginal_theta: Array
    conditional_x: Array
    conditional_theta: Array
    path_info: Array
    path_info_backward: Array


def _log(p: Array) -> Array:
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)


def _log_sum(log_p: Array, axis: int) -> Array:
    """Log-sum-exp that keeps its axis; where all is -inf so is the sum, with gradient 0."""
    top = jax.lax.stop_gradient(jnp.max(log_p, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return top + _log(jnp.sum(jnp.exp(log_p - top), axis=axis, keepdims=True))


def _minus(a: Array, b: Array) -> Array:
    """a - b of log probabilities; -inf wherever a is."""
    some = jnp.isfinite(a)
    other = jnp.where(some, b, 0.0)
    unbounded = jnp.isneginf(other)
    difference = jnp.where(some, a, 0.0) - jnp.where(unbounded, 0.0, other)
    return jnp.where(some, jnp.where(unbounded, jnp.inf, difference), -jnp.inf)


def _log_ratio(forward: Array, backward: Array) -> Array:
    """ln of forward over backward; 0 without forward weight, inf without a way back."""
    return jnp.where(jnp.isfinite(forward), _minus(forward, backward), 0.0)


def _digits(size: int, length: int) -> np.ndarray:
    """[length, size ** length] states along every path."""
    return np.stack(np.unravel_index(np.arange(size**length), (size,) * length))


@functools.partial(jax.jit, static_argnames=("n_steps", "boundary"))
def _tables(learner: FiniteLearner, n_steps: int, boundary: str) -> tuple[Array, Array, Array]:
    """ln P and ln P~, [B, paths of x, paths of theta], and ln P~ given theta as a protocol."""
    n_x, n_t = learner.p0.shape
    x, t = _digits(n_x, n_steps + 1)[:, :, None], _digits(n_t, n_steps + 1)[:, None, :]
    log_b = _log(learner.p_b)[:, None, None]
    k_theta = jnp.broadcast_to(
        _log(learner.kernel_theta), (n_steps, *learner.kernel_theta.shape[-4:])
    )
    k_x = jnp.broadcast_to(_log(learner.kernel_x), (n_steps, *learner.kernel_x.shape[-3:]))

    def step(sums, now):
        forward, backward, protocol = sums
        to_theta, to_x, x_0, x_1, t_0, t_1 = now
        forward = forward + to_theta[:, x_0, t_0, t_1] + to_x[t_1, x_0, x_1]
        back = to_x[t_1, x_1, x_0]
        backward = backward + to_theta[:, x_0, t_1, t_0] + back
        return (forward, backward, protocol + back), None

    final = march(learner, n_steps).joint[-1]
    blind = _log(jnp.sum(final, axis=0))
    end = log_b + blind[x[-1], t[-1]] if boundary == "blind" else _log(final)[:, x[-1], t[-1]]
    given_theta = _minus(blind, _log_sum(blind, axis=0))
    start = (log_b + _log(learner.p0)[x[0], t[0]], end, given_theta[x[-1], t[-1]])
    xs = (k_theta, k_x, x[:-1], x[1:], t[:-1], t[1:])
    return jax.lax.scan(step, start, xs)[0]


@jax.jit
def _productions(forward: Array, backward: Array, protocol: Array) -> tuple[Array, ...]:
    """Fields of `PathEP` as [paths of x, paths of theta]; the first two with b in front."""
    weights = jnp.exp(forward)
    forward = jnp.where(weights > 0, forward, -jnp.inf)  # underflow is no weight
    f, g = (_log_sum(table, axis=0)[0] for table in (forward, backward))
    f_x, g_x = (_log_sum(table, axis=1) for table in (f, g))
    f_t, g_t = (_log_sum(table, axis=0) for table in (f, g))
    g_x_given_t = jnp.where(jnp.isfinite(g_t), _minus(g, g_t), protocol)
    f_x_given_t = _minus(f, f_t)
    seen = jnp.isfinite(f)
    fields = (
        _log_ratio(f_x, g_x),
        _log_ratio(f_t, g_t),
        _log_ratio(f_x_given_t, g_x_given_t),
        _log_ratio(_minus(f, f_x), _minus(g, g_x)),
        _minus(f_x_given_t, f_x),
        _minus(g_x_given_t, g_x),
    )
    clean = (jnp.where(seen, field, 0.0) for field in fields)
    return (weights, _log_ratio(forward, backward), *clean)


def path_entropy_production(
    learner: FiniteLearner, boundary: str = "blind", *, n_steps: int | None = None
) -> PathEP:
    """Entropy production of every path, its marginal and conditional parts.

        P[b, z]  = p(b) p_0(x_0, theta_0) prod K_Theta(theta'|theta, x, b) K_X(x'|x, theta')
        P~[b, z] = p(b) p_N prod K_X(x|x', theta') K_Theta(theta|theta', x, b)

    Without feedback the average conditional_x is the sum of `ep_conditional` of the ledger.

    Args:
        learner: tables of the process.
        boundary: "blind" starts the reverse process from p_N(x, theta), b drawn again;
            "resolved" from p_N(x, theta|b). Static.
        n_steps: number of macro-steps; needed where no kernel has a step axis. Static.

    Returns:
        `PathEP`, tables of B (X T)^(N + 1) entries. Differentiable in every table.

    Raises:
        ValueError: more than two million paths, an unknown boundary, or as for
            `joint_marginals`.

    Source: Crooks & Still 2019; specification of the theory, section 2.4. The treatment of
    irreversible parameter paths as protocols is ours.

    Example:
        >>> from thermojax.theories.ppm.finite import heat_bath_kernel
        >>> follow = heat_bath_kernel(-2.0 * jnp.eye(2)[:, None], 1.0)  # theta follows b
        >>> toy = FiniteLearner([0.5, 0.5], [[0.5, 0.5]], follow, jnp.ones((2, 1, 1)))
        >>> path = path_entropy_production(toy, n_steps=1)
        >>> abs(float((path.weights * jnp.exp(-path.total)).sum()) - 1) < 1e-6
        True
    """
    if boundary not in ("blind", "resolved"):
        raise ValueError(f"boundary={boundary!r} must be 'blind' or 'resolved'")
    learner, n_steps = check_learner(learner, n_steps)
    n_x, n_t = learner.p0.shape
    size = len(learner.p_b) * (n_x * n_t) ** (n_steps + 1)
    if size > _MOST_PATHS:
        raise ValueError(
            f"{size} paths exceed {_MOST_PATHS}: use fewer steps or states, or the averages "
            "of finite_ledger"
        )
    fields = _productions(*_tables(learner, n_steps, boundary))
    return PathEP(*(_interleave(field, n_x, n_t, n_steps + 1) for field in fields))


def _interleave(field: Array, n_x: int, n_t: int, length: int) -> Array:
    """Split the two path axes into (x_0, theta_0, x_1, theta_1, ...)."""
    lead = field.shape[:-2]
    split = field.reshape(*lead, *(n_x,) * length, *(n_t,) * length)
    first = len(lead)
    order = [first + i + j * length for i in range(length) for j in range(2)]
    return jnp.transpose(split, (*range(first), *order))
