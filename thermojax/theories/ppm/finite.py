"""Learners with finitely many states: kernels, tables and their marginals.

    (i)  theta' ~ K_Theta(.|theta, x, b)     x held: work on X
    (ii) x'     ~ K_X(.|x, theta')           theta' held: heat of X

The lagged bipartite order of the two sub-steps is our reading of Parsi 2024 (a summary
reports it; the body was not seen). Labels b stand for a dataset or for a whole sequence of
minibatches; they are drawn once, from p_b, independently of the start.

Source: Parsi 2024 (arXiv 2310.19802) for the programme; sections 1 and 3.1 of the
specification of the theory.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "FiniteLearner",
    "March",
    "check_learner",
    "heat_bath_kernel",
    "joint_marginals",
    "march",
    "metropolis_kernel",
]


class FiniteLearner(NamedTuple):
    """A learner and its sampler as tables; all rows sum to one.

    A kernel without the leading axis N is the same at every step; if neither has one, the
    functions that take a learner need `n_steps`.

    Attributes:
        p_b: [B] law of the data label.
        p0: [X, T] law of (x_0, theta_0), independent of b.
        kernel_theta: [N, B, X, T, T'] or [B, X, T, T'] optimiser, K(theta'|theta, x, b).
        kernel_x: [N, T, X, X'] or [T, X, X'] sampler, K(x'|x, theta').
        energy: [X, T] U(x, theta); serves the work only, which is nan without it.
        beta: inverse temperature of X.
        beta_theta: inverse temperature of the outer bath of Theta.
    """

    p_b: Any
    p0: Any
    kernel_theta: Any
    kernel_x: Any
    energy: Any = None
    beta: Any = 1.0
    beta_theta: Any = 1.0


class March(NamedTuple):
    """Laws and reduced heats of every step.

    Attributes:
        joint: [N + 1, B, X, T] p(b, x_n, theta_n).
        stale: [N, B, X, T] p(b, x_n, theta_{n+1}).
        heat_x: [N] beta <Q_X>, nats.
        heat_theta: [N] beta_theta <Q_Theta>, nats; -inf without a reverse kernel.
        work: [N] <W>, energy; nan without an energy table.
    """

    joint: Array
    stale: Array
    heat_x: Array
    heat_theta: Array
    work: Array


def _energies(energy: ArrayLike, beta: ArrayLike) -> tuple[Array, Array]:
    u = jnp.asarray(energy)
    u = u if jnp.issubdtype(u.dtype, jnp.floating) else u.astype(float)
    if u.ndim < 1:
        raise ValueError(f"energy={energy} is a scalar: give one energy per state, (..., S)")
    if is_concrete(u) and not np.all(np.isfinite(u)):
        raise ValueError(
            "energy holds values that are not finite: for forbidden states give a kernel "
            "of your own"
        )
    return u, _positive("beta", jnp.asarray(beta, u.dtype))


def _positive(name: str, value: Array) -> Array:
    if is_concrete(value) and not np.all((np.asarray(value) > 0) & np.isfinite(value)):
        raise ValueError(
            f"{name}={np.asarray(value)} must be positive and finite: it is 1/temperature"
        )
    return value


def heat_bath_kernel(energy: ArrayLike, beta: ArrayLike, mix: ArrayLike = 1.0) -> Array:
    """With probability `mix` a fresh draw from the canonical law, else no move.

        K = (1 - mix) 1 + mix pi,     pi_j ∝ exp(-beta U_j)

    It satisfies detailed balance with pi exactly. mix = 1 is the exact sampler.

    Args:
        energy: [..., S] energies; for kernel_x give U transposed to [T, X], for
            kernel_theta the loss [B, X, T].
        beta: inverse temperature, positive.
        mix: probability of a redraw, in (0, 1].

    Returns:
        [..., S, S] transition matrices, rows sum to one.

    Raises:
        ValueError: a scalar energy, energies that are not finite, beta not positive, or
            mix outside (0, 1] (values are looked at outside jit only).

    Source: standard; specification of the theory, section 3.1.

    Example:
        >>> heat_bath_kernel([0.0, 0.0], 1.0, mix=0.5).tolist()
        [[0.75, 0.25], [0.25, 0.75]]
    """
    u, beta = _energies(energy, beta)
    a = jnp.asarray(mix, u.dtype)
    if is_concrete(a) and not np.all((np.asarray(a) > 0) & (np.asarray(a) <= 1)):
        raise ValueError(f"mix={mix} is the probability of a redraw: give one in (0, 1]")
    fresh = jax.nn.softmax(-beta * u, axis=-1)[..., None, :]
    stay = jnp.eye(u.shape[-1], dtype=u.dtype)
    return (1 - a) * stay + a * fresh


def metropolis_kernel(energy: ArrayLike, beta: ArrayLike) -> Array:
    """Metropolis moves with proposals uniform over all states.

        K_ij = min(1, exp(-beta (U_j - U_i))) / S  for j != i

    Args:
        energy: [..., S] energies.
        beta: inverse temperature, positive.

    Returns:
        [..., S, S] transition matrices, rows sum to one; detailed balance is exact.

    Raises:
        ValueError: a scalar energy, energies that are not finite, or beta not positive.

    Source: standard; specification of the theory, section 3.1.

    Example:
        >>> metropolis_kernel([0.0, 0.0], 1.0).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    u, beta = _energies(energy, beta)
    size = u.shape[-1]
    rise = beta * (u[..., None, :] - u[..., :, None])
    move = jnp.exp(-jnp.maximum(rise, 0.0)) / size * (1 - jnp.eye(size, dtype=u.dtype))
    stay = 1 - jnp.sum(move, axis=-1)
    return move + stay[..., None] * jnp.eye(size, dtype=u.dtype)


def _check_rows(name: str, table: Array, axes: tuple[int, ...]) -> None:
    if not is_concrete(table):
        return
    rows = np.asarray(table, np.float64)
    sums = np.sum(rows, axis=axes)
    off = np.abs(sums - 1)
    if not np.all(rows >= 0):
        raise ValueError(f"{name} holds {np.min(rows):.6g}: probabilities are not negative")
    if not np.max(off) <= np.sqrt(np.finfo(table.dtype).eps):
        worst = np.ravel(sums)[np.argmax(off)]
        raise ValueError(f"{name} has a row that sums to {worst:.6g}: divide rows by their sum")


def check_learner(learner: FiniteLearner, n_steps: int | None) -> tuple[FiniteLearner, int]:
    """The learner as float arrays of one type, and its number of steps.

    Raises:
        ValueError: shapes that do not fit, no number of steps, or (outside jit) rows that
            do not sum to one or a temperature that is not positive.
    """
    tables = [jnp.asarray(t) for t in learner[:5] if t is not None]
    dtype = jnp.result_type(*tables)
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.zeros(()).dtype
    cast = lambda value: None if value is None else jnp.asarray(value, dtype)
    learner = FiniteLearner(*map(cast, learner))
    p_b, p0, k_theta, k_x, energy = learner[:5]
    if p_b.ndim != 1 or p0.ndim != 2:
        raise ValueError(f"p_b, p0 have shapes {p_b.shape}, {p0.shape}: give (B,) and (X, T)")
    b, (x, t) = len(p_b), p0.shape
    given = {
        "kernel_theta": (k_theta, (b, x, t, t)),
        "kernel_x": (k_x, (t, x, x)),
    }
    steps = {} if n_steps is None else {"n_steps": n_steps}
    for name, (kernel, shape) in given.items():
        if kernel.shape[-len(shape) :] != shape or kernel.ndim > len(shape) + 1:
            raise ValueError(f"{name} has shape {kernel.shape}: give {shape} or (N, *{shape})")
        if kernel.ndim > len(shape):
            steps[name] = kernel.shape[0]
        _check_rows(name, kernel, (-1,))
    if energy is not None and energy.shape != (x, t):
        raise ValueError(f"energy has shape {energy.shape}: give one per (x, theta), {(x, t)}")
    if len(set(steps.values())) != 1 or min(steps.values()) < 1:
        raise ValueError(
            f"the number of steps is {steps or 'unknown'}: give n_steps >= 1, or kernels "
            "with a leading axis of one length"
        )
    _check_rows("p_b", p_b, (0,))
    _check_rows("p0", p0, (0, 1))
    _positive("beta", learner.beta)
    _positive("beta_theta", learner.beta_theta)
    return learner, next(iter(steps.values()))


def _mean_log_ratio(weight: Array, forward: Array, backward: Array) -> Array:
    """Sum of weight ln(forward/backward) over what has weight; inf where no way back."""
    seen, back = weight > 0, backward > 0
    both = seen & back
    ratio = jnp.log(jnp.where(both, forward, 1.0)) - jnp.log(jnp.where(both, backward, 1.0))
    total = jnp.sum(jnp.where(both, weight, 0.0) * ratio)
    return jnp.where(jnp.any(seen & ~back), jnp.inf, total)


@functools.partial(jax.jit, static_argnames="n_steps")
def march(learner: FiniteLearner, n_steps: int) -> March:
    """All laws and heats of a checked learner."""
    k_theta, k_x, energy = learner.kernel_theta, learner.kernel_x, learner.energy
    stepwise = (k_theta if k_theta.ndim == 5 else None, k_x if k_x.ndim == 4 else None)

    def step(joint, kernels):
        to_theta = k_theta if kernels[0] is None else kernels[0]
        to_x = k_x if kernels[1] is None else kernels[1]
        pair = joint[..., None] * to_theta
        stale = jnp.sum(pair, axis=2)
        heat_theta = -_mean_log_ratio(pair, to_theta, jnp.swapaxes(to_theta, -1, -2))
        move = jnp.sum(stale, axis=0).T[..., None] * to_x
        heat_x = -_mean_log_ratio(move, to_x, jnp.swapaxes(to_x, -1, -2))
        if energy is None:
            work = jnp.full((), jnp.nan, joint.dtype)
        else:
            rise = energy[:, None, :] - energy[:, :, None]
            work = jnp.sum(jnp.sum(pair, axis=0) * rise)
        after = jnp.einsum("bxt,txy->byt", stale, to_x)
        return after, (after, stale, heat_x, heat_theta, work)

    start = learner.p_b[:, None, None] * learner.p0
    _, (joint, *rest) = jax.lax.scan(step, start, stepwise, length=n_steps)
    return March(jnp.concatenate([start[None], joint]), *rest)


def joint_marginals(
    learner: FiniteLearner, *, n_steps: int | None = None
) -> tuple[Array, Array]:
    """Laws of (b, x, theta) after every macro-step and between its two sub-steps.

        stale[b, x, t'] = sum_t joint[b, x, t] K_Theta(t'|t, x, b)
        joint'[b, x', t'] = sum_x stale[b, x, t'] K_X(x'|x, t')

    Args:
        learner: tables of the process.
        n_steps: number of macro-steps; needed where no kernel has a step axis. Static.

    Returns:
        joint [N + 1, B, X, T] and stale [N, B, X, T]; each table sums to one.

    Raises:
        ValueError: shapes that do not fit, an unknown number of steps, or (outside jit)
            rows that do not sum to one or a temperature that is not positive.

    Source: our reading of Parsi 2024; specification of the theory, section 3.1.

    Example:
        >>> flip = heat_bath_kernel(jnp.zeros((2, 1, 2)), 1.0)
        >>> toy = FiniteLearner([0.5, 0.5], [[1.0, 0.0]], flip, jnp.ones((2, 1, 1)))
        >>> joint_marginals(toy, n_steps=1)[0][1].tolist()
        [[[0.25, 0.25]], [[0.25, 0.25]]]
    """
    done = march(*check_learner(learner, n_steps))
    return done.joint, done.stale
