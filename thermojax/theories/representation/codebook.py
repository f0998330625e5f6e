"""Codebooks on data: free centres of a Gaussian decoder of fixed width, free classifier.

    u_D(z; x) = |x - mu_z|^2 / (2 s_x^2),   u_C(z; x) = -sum_y p(y | x) log c(y | z)
    e(z | x) ∝ m_z exp(-lam u_D - gam u_C),     F(lam, gam) = min_{m, mu, c} -E_x log Z_x

An exact equilibrium of real data, up to the choice of the branch: there are many local
minima. Each branch is followed smoothly in (lam, gam), dF = D dlam + C dgam, with the
susceptibility chi = -dU/dtau by implicit differentiation of the whole fixed point.

Source: deterministic annealing (Rose 1998) with a second loss; chi and the branch are derived
here, following the programme of Gao & Chaudhari 2020.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.theories.representation.codebook_descent import (
    Codes,
    Task,
    evaluate,
    losses,
    means,
    relax,
    response,
)
from thermojax.theories.representation.onset import label_weights
from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.theories.representation.tabular import check_multipliers, default_tol
from thermojax.typing import Array, ArrayLike, Key, is_concrete

__all__ = ["CodebookEquilibrium", "codebook_equilibrium", "codebook_model"]

_SPREAD = 0.05  # of the centres of a near-trivial start, in units of x
_LABEL_NOISE = 0.01


class CodebookEquilibrium(NamedTuple):
    """A stationary codebook; D leaves out the constant (d/2) log(2 pi s_x^2).

    Attributes:
        encoder: [n, K] e(z | x), rows sum to 1.
        marginal: [K] m.
        log_decoder: [n, K] -|x - mu_z|^2 / (2 s_x^2).
        log_classifier: [n_y, K] log c, columns sum to 1.
        log_partition: [n] log Z_x.
        free_energy: -E_x log Z_x, nats per example.
        functionals: R, D and C, nats per example.
        gap: log max_z g_z, nats; certifies m at these centres and this classifier only.
        num_iter: int32 steps taken.
        converged: whether a local minimum was reached to the tolerance; False at a saddle.
        centres: [K, d] mu.
    """

    encoder: Array
    marginal: Array
    log_decoder: Array
    log_classifier: Array
    log_partition: Array
    free_energy: Array
    functionals: Functionals
    gap: Array
    num_iter: Array
    converged: Array
    centres: Array


class _Frame(NamedTuple):
    """x = mean + scale * (x of the task)."""

    mean: Array
    scale: Array


def _framed(x, y, decoder_scale):
    x = jnp.asarray(x)
    x = x.astype(jnp.result_type(x, 0.0))
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x has shape {x.shape}; give examples [n, d]")
    if is_concrete(x) and not np.all(np.isfinite(np.asarray(x))):
        row = int(np.argmin(np.isfinite(np.asarray(x)).all(axis=1)))
        raise ValueError(f"x[{row}] is not finite; drop or mend that example")
    if is_concrete(decoder_scale) and not 0 < float(decoder_scale) < float("inf"):
        raise ValueError(f"decoder_scale is {decoder_scale}; give a number > 0")
    label = label_weights(y, x.shape[0], x.dtype)
    frame = _Frame(jnp.mean(x, 0), jnp.asarray(decoder_scale, x.dtype))
    return Task((x - frame.mean) / frame.scale, label), frame


def _trivial_start(task, key, num_codes, spread):
    """Centres about the mean, equal weights, almost p(y)."""
    n_y, d = task.label.shape[1], task.x.shape[1]
    to_centres, to_labels = jax.random.split(key)
    centres = spread * jax.random.normal(to_centres, (num_codes, d), task.x.dtype)
    noise = jax.random.uniform(to_labels, (num_codes, n_y), task.x.dtype, -1, 1)
    seen = jnp.maximum(jnp.mean(task.label, 0), jnp.finfo(noise.dtype).tiny)
    belief = seen * (1 + _LABEL_NOISE * noise)
    log_m = jnp.full(num_codes, -jnp.log(num_codes), task.x.dtype)
    return Codes(log_m, centres, jnp.log(belief / belief.sum(1, keepdims=True)))


def _start_at(task, centres):
    """Given centres, with the classifier of their posterior at lam = 1, gam = 0."""
    num_codes, n_y = centres.shape[0], task.label.shape[1]
    log_m = jnp.full(num_codes, -jnp.log(num_codes), task.x.dtype)
    codes = Codes(log_m, centres, jnp.zeros((num_codes, n_y), task.x.dtype))
    one = jnp.ones((), task.x.dtype)
    at = evaluate(task, Multipliers(one, 0 * one), codes)
    return codes._replace(log_c=at.following.log_c)


@partial(jax.jit, static_argnames=("tol", "max_iter"))
def _best(task, frame, multipliers, starts, tol, max_iter):
    """The lowest of the branches that lead from `starts` [R, ...]."""

    # one after the other: in a batch every branch would pay for the slowest
    def branch(codes):
        at, steps, settled = relax(task, multipliers, codes, tol, max_iter)
        return -jnp.mean(at.log_z), (at.codes, steps, settled)

    heights, found = jax.lax.map(branch, starts)
    best = jnp.nanargmin(heights)
    codes, steps, settled = jax.tree.map(lambda a: a[best], found)
    at = evaluate(task, multipliers, codes)
    u_d, u_c = losses(task, codes)
    excess = -multipliers.lam * u_d - multipliers.gam * u_c - at.log_z[:, None]
    gap = jnp.max(logsumexp(excess, axis=0)) - jnp.log(excess.shape[0])
    return CodebookEquilibrium(
        encoder=at.encoder,
        marginal=jnp.exp(codes.log_m),
        log_decoder=-u_d,
        log_classifier=codes.log_c.T,
        log_partition=at.log_z,
        free_energy=heights[best],
        functionals=means(task, multipliers, at)[1],
        gap=gap,
        num_iter=steps,
        converged=settled,
        centres=codes.centres * frame.scale + frame.mean,
    )


def _controls(multipliers, dtype):
    check_multipliers(multipliers)
    return Multipliers(*(jnp.asarray(value, dtype) for value in multipliers))


def codebook_equilibrium(
    x: ArrayLike,
    y: ArrayLike,
    multipliers: Multipliers,
    *,
    decoder_scale: ArrayLike,
    num_codes: int | None = None,
    key: Key | None = None,
    num_restarts: int = 8,
    tol: float | None = None,
    max_iter: int = 10_000,
    init_centres: ArrayLike | None = None,
) -> CodebookEquilibrium:
    """Local minimum of R + lam D + gam C over codebooks, the lowest of several starts.

        F = -E_x log sum_z m_z exp(-lam u_D - gam u_C)
        u_D = |x - mu_z|^2 / (2 s_x^2),   u_C = -sum_y p(y | x) log c(y | z)

    Alternating minimisation with Newton steps near the end. A start without `init_centres` is
    nearly trivial: centres are mean(x) + 0.05 N(0, 1), m is uniform, c is p(y) up to 1 %.
    F is an upper bound on the global minimum, concave in (lam, gam) on the global branch only.

    Args:
        x: [n, d] examples of equal weight.
        y: [n] whole-number labels, or [n, n_y] label weights whose rows sum to 1.
        multipliers: lam and gam, scalars >= 0.
        decoder_scale: s_x, in the unit of x.
        num_codes: K; may be left out beside `init_centres`.
        key: typed key of the near-trivial starts; None is key 0.
        num_restarts: near-trivial starts; the lowest minimum is returned.
        tol: on the length of the last alternating step in scaled coordinates (its square is of
            the size of the remaining excess of F, nats), or rounding if that is larger; None
            is 1e-13 in float64 and 1e-5 in float32.
        max_iter: bound on the steps of each start.
        init_centres: [K, d] centres of a single start, with the classifier that they imply.

    Raises:
        ValueError: K = 0, a shape that does not fit, labels that are no labels, a negative
            multiplier or a scale that is not positive.

    Source:
        Standard (deterministic annealing), with the classification loss of Gao & Chaudhari
        2020.

    Example:
        >>> x, y = jnp.array([[0.0], [0.1], [2.0], [2.1]]), jnp.array([0, 0, 1, 1])
        >>> found = codebook_equilibrium(
        ...     x, y, Multipliers(1.0, 1.0), decoder_scale=0.3, num_codes=2, num_restarts=1
        ... )
        >>> [round(c, 2) for c in sorted(found.centres[:, 0].tolist())], bool(found.converged)
        ([0.05, 2.05], True)
    """
    task, frame = _framed(x, y, decoder_scale)
    controls = _controls(multipliers, task.x.dtype)
    if num_restarts < 1:
        raise ValueError(f"num_restarts is {num_restarts}; give at least 1")
    if init_centres is None:
        if num_codes is None or operator.index(num_codes) < 1:
            raise ValueError(f"num_codes is {num_codes}; give K >= 1 codes")
        keys = jax.random.split(jax.random.key(0) if key is None else key, num_restarts)
        spread = _SPREAD / frame.scale
        starts = jax.vmap(lambda key: _trivial_start(task, key, num_codes, spread))(keys)
    else:
        centres = _scaled_centres(init_centres, task, frame)
        if num_codes not in (None, centres.shape[0]):
            raise ValueError(
                f"num_codes is {num_codes} beside {centres.shape[0]} centres; leave it out"
            )
        starts = jax.tree.map(lambda a: a[None], _start_at(task, centres))
    tol = default_tol(task.x.dtype) if tol is None else tol
    return _best(task, frame, controls, starts, tol, max_iter)


def _scaled_centres(centres, task, frame):
    centres = jnp.asarray(centres, task.x.dtype)
    if centres.ndim != 2 or centres.shape[0] == 0 or centres.shape[1] != task.x.shape[1]:
        raise ValueError(
            f"the centres have shape {centres.shape}; give [K, {task.x.shape[1]}], K >= 1"
        )
    return (centres - frame.mean) / frame.scale


@partial(jax.jit, static_argnames=("tol", "max_iter"))
def _follow(task, codes, multipliers, tol, max_iter):
    at, _, settled = relax(task, multipliers, codes, tol, max_iter)
    free_energy, functionals = means(task, multipliers, at)
    chi = response(task, multipliers, at)
    # a response of codes that have not settled is no second derivative
    return free_energy, functionals, jnp.where(settled, chi, jnp.nan)


def codebook_model(
    x: ArrayLike,
    y: ArrayLike,
    decoder_scale: ArrayLike,
    start: CodebookEquilibrium,
    *,
    tol: float | None = None,
    max_iter: int = 10_000,
) -> Callable[[Multipliers], tuple[Array, Functionals, Array]]:
    """Equilibrium along the branch of `start`, as a pure function of (lam, gam).

        chi = E_x Cov_{e(z | x)}(u_D, u_C) + b^T A^{-1} b,   A = Hessian of F in (m, mu, c)

    Each call solves again from the codes of `start`, so that it neither remembers nor depends
    on the order of the calls; it works under `jax.jit`. Where the branch ends it falls to the
    minimum below, and C jumps.

    Args:
        x: [n, d] examples, as for `start`.
        y: labels, as for `start`.
        decoder_scale: s_x, as for `start`.
        start: a converged `codebook_equilibrium`.
        tol: as for `codebook_equilibrium`.
        max_iter: as for `codebook_equilibrium`.

    Returns:
        multipliers -> (F, `Functionals`, chi [2, 2]), nats per example; chi is NaN where no
        minimum was reached within `max_iter` steps. For `iso_process`.

    Raises:
        ValueError: `start` does not fit x and y.

    Source:
        Derived here, following the programme of Gao & Chaudhari 2020.

    Example:
        >>> x, y = jnp.array([[0.0], [0.1], [2.0], [2.1]]), jnp.array([0, 0, 1, 1])
        >>> start = codebook_equilibrium(
        ...     x, y, Multipliers(1.0, 1.0), decoder_scale=0.3, num_codes=2, num_restarts=1
        ... )
        >>> free_energy, _, chi = codebook_model(x, y, 0.3, start)(Multipliers(0.9, 1.0))
        >>> round(float(free_energy), 4), chi.shape
        (0.7056, (2, 2))
    """
    task, frame = _framed(x, y, decoder_scale)
    centres = _scaled_centres(start.centres, task, frame)
    expected = (task.label.shape[1], centres.shape[0])
    if start.log_classifier.shape != expected:
        raise ValueError(
            f"the classifier of start has shape {start.log_classifier.shape}; this task needs "
            f"{expected}"
        )
    dtype = task.x.dtype
    tiny = np.finfo(dtype).tiny
    log_m = jnp.log(jnp.maximum(start.marginal.astype(dtype), tiny))
    codes = Codes(log_m, centres, start.log_classifier.T.astype(dtype))
    tol = default_tol(dtype) if tol is None else tol

    def equilibrium_fn(multipliers: Multipliers) -> tuple[Array, Functionals, Array]:
        return _follow(task, codes, _controls(multipliers, dtype), tol, max_iter)

    return equilibrium_fn
