"""Free-energy differences from work values and mean energies.

    BAR     sum_f f(M + w_f - D) = sum_r f(-M + w_r + D),   f Fermi, M = ln(n_f / n_r)
    TI      -int <U> d beta, by the Hermite rule that uses Var U for free

Neither is independent evidence when it reads the particles of another estimator: they
check the spacing of its ladder, not its sampling.

Source: specification of the core, section 3.3; Bennett 1976; Shirts & Chodera 2008.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.typing import Array, ArrayLike

__all__ = ["bar", "log_mean_exp_weights", "thermodynamic_integration"]


LOST = 1e-6
MOST_STEPS = 128


class _Search(NamedTuple):
    """Where an increasing function has its zero, so far."""

    at: Array
    low: Array
    high: Array
    move: Array
    steps: Array


def bar(
    w_f: ArrayLike,
    w_r: ArrayLike,
    *,
    mask_f: ArrayLike | None = None,
    mask_r: ArrayLike | None = None,
) -> Estimate:
    """Bennett acceptance ratio: Delta F in nats from forward and reverse work.

    Args:
        w_f: [n_f] reduced work 0 -> 1 on samples of 0.
        w_r: [n_r] reduced work 1 -> 0 on samples of 1.
        mask_f: [n_f] True for the entries that count.
        mask_r: [n_r] likewise.

    Returns:
        `Estimate` of D = -log(Z_1/Z_0) with the asymptotic error of independent samples
        (variance 1/G - 1/n_f - 1/n_r); POOR_OVERLAP below an overlap of 0.03. With no
        overlap at all, or works that are not finite, the value is nan. The value can be
        differentiated, forward and in reverse.

    Example:
        >>> w = jnp.asarray([0.8, 1.0, 1.2])
        >>> float(bar(w, -w).value)
        1.0
    """
    given = (w_f, w_r, mask_f, mask_r)
    # outside jit every operation would cost more than the whole answer
    return _bar(*(x if x is None or isinstance(x, Array) else np.asarray(x) for x in given))


@jax.jit
def _bar(w_f: Array, w_r: Array, mask_f: Array | None, mask_r: Array | None) -> Estimate:
    on_f = jnp.ones(w_f.shape, bool) if mask_f is None else mask_f.astype(bool)
    on_r = jnp.ones(w_r.shape, bool) if mask_r is None else mask_r.astype(bool)
    # an entry that does not count lies where its Fermi function is zero
    f, r = jnp.where(on_f, w_f, jnp.inf), jnp.where(on_r, -w_r, -jnp.inf)
    n_f, n_r = jnp.sum(on_f, dtype=f.dtype), jnp.sum(on_r, dtype=f.dtype)
    ratio, scale = jnp.log(n_f / n_r), 1 / n_f + 1 / n_r
    fixed_f, fixed_r = jax.lax.stop_gradient((f, r))
    low, high = _bracket(fixed_f, fixed_r, n_f, n_r)
    middle = lambda w, on, n: jnp.sum(jnp.where(on, jnp.clip(w, low, high), 0.0)) / n
    begin = 0.5 * (middle(fixed_f, on_f, n_f) + middle(fixed_r, on_r, n_r))
    at = _root(fixed_f, fixed_r, ratio, scale, (begin, low, high))
    excess, slope, g, _ = _look(at, f, r, ratio)
    # one more step of Newton, which carries the derivatives past the search
    value = at - excess / slope
    overlap = g * scale
    # 1/G - 1/n_f - 1/n_r without its cancellation, from sum_f = sum_r
    part = n_r / (n_f + n_r)
    a, b = _fermi(at, f, r, ratio)
    miss = jnp.sum(jnp.where(on_f, a - part, 0.0) ** 2)
    miss = miss + jnp.sum(jnp.where(on_r, 1 - part - b, 0.0) ** 2)
    largest = lambda w, on: jnp.max(jnp.where(on, jnp.abs(w), 0.0), initial=0.0)
    finite = jnp.isfinite(largest(fixed_f, on_f) + largest(fixed_r, on_r) + value)
    lost = ~(overlap > LOST) | ~finite
    flags = raise_flags((Flag.POOR_OVERLAP, ~(overlap > 0.03)), (Flag.NONFINITE, lost))
    stderr = jnp.where(lost, jnp.inf, jnp.sqrt(scale * miss / g))
    n_eff = jnp.minimum(n_f, n_r) * jnp.minimum(overlap, 1.0)
    value = jnp.where(lost, jnp.nan, value)
    return Estimate(value, stderr, stderr, n_eff, flags, {"overlap": overlap})


def _fermi(at: Array, f: Array, r: Array, ratio: Array) -> tuple[Array, Array]:
    """The terms of both sums."""
    # the difference of close numbers is exact: the ratio must not be added before it
    return jax.nn.sigmoid((at - f) - ratio), jax.nn.sigmoid((r - at) + ratio)


def _look(at: Array, f: Array, r: Array, ratio: Array) -> tuple[Array, ...]:
    """log sum_f - log sum_r and its slope; the slopes of both sums together, and the sums."""
    a, b = _fermi(at, f, r, ratio)
    forward, reverse = jnp.sum(a), jnp.sum(b)
    steep_f, steep_r = jnp.sum(a * (1 - a)), jnp.sum(b * (1 - b))
    slope = steep_f / forward + steep_r / reverse
    return jnp.log(forward / reverse), slope, steep_f + steep_r, forward + reverse


def _bracket(f: Array, r: Array, n_f: Array, n_r: Array) -> tuple[Array, Array]:
    """Between the lowest f and the highest r, whatever outliers lie beyond.

    sum_f >= 1/2 above min f + M and sum_r <= n_f exp(max r - D); likewise the other way.
    """
    first, last, ratio = jnp.min(f), jnp.max(r), jnp.log(n_f / n_r)
    low = jnp.minimum(first - jnp.log(2 * n_r), last + ratio)
    high = jnp.maximum(last + jnp.log(2 * n_f), first + ratio)
    return low, high


def _root(f: Array, r: Array, ratio: Array, scale: Array, begin: tuple) -> Array:
    """Newton's method in a bracket, halving it where a step leaves it or shrinks too little.

    The curvature is at most twice the slope: an error e becomes at most e^2. Steps below
    eps^(3/8) thus leave nothing to do for the one that the caller takes.
    """
    eps = float(jnp.finfo(f.dtype).eps)

    def step(s: _Search) -> _Search:
        excess, slope, _, sums = _look(s.at, f, r, ratio)
        low, high = jnp.where(excess > 0, s.low, s.at), jnp.where(excess > 0, s.at, s.high)
        newton = s.at - excess / slope
        good = (newton >= low) & (newton <= high) & (jnp.abs(newton - s.at) < s.move / 2)
        at = jnp.where(good, newton, 0.5 * (low + high))
        # the overlap at the root is at most twice the sums at any other point
        gone = ~(2 * sums * scale > LOST)
        at = jnp.where(gone | (excess == 0), s.at, at)
        return _Search(at, low, high, jnp.abs(at - s.at), s.steps + 1)

    def unfinished(s: _Search) -> Array:
        return (s.move > eps**0.375 + 4 * eps * jnp.abs(s.at)) & (s.steps < MOST_STEPS)

    at, low, high = begin
    start = _Search(at, low, high, 2 * (high - low), jnp.asarray(0))
    return jax.lax.while_loop(unfinished, step, start).at


def thermodynamic_integration(
    betas: ArrayLike,
    mean_energy: ArrayLike,
    var_energy: ArrayLike | None = None,
    stderr: ArrayLike | None = None,
    *,
    rule: str = "hermite",
) -> Estimate:
    """log Z(beta_K) - log Z(beta_0) = -int <U> d beta along a ladder.

    The Hermite rule adds -(d/2)(m0 + m1) + (d^2/12)(v0 - v1) per interval (note
    d<U>/d beta = -Var U), with error O(d^5) instead of the trapezoid's O(d^3).

    Args:
        betas: [K] increasing; repeated values contribute nothing (padding).
        mean_energy: [K] mean U.
        var_energy: [K] Var U, needed by rule="hermite".
        stderr: [K] standard errors of `mean_energy`, taken as independent.
        rule: "hermite" or "trapezoid".

    Returns:
        `Estimate`; its stderr adds a quarter of the difference between the two rules as a
        budget for the discretisation.

    Raises:
        ValueError: unknown rule, or Hermite without variances.
    """
    b, m = jnp.asarray(betas), jnp.asarray(mean_energy)
    d = jnp.diff(b)
    moved = d > 0
    trapezoid = -jnp.sum(jnp.where(moved, 0.5 * d * (m[1:] + m[:-1]), 0.0))
    if rule == "trapezoid":
        value, budget = trapezoid, jnp.zeros_like(trapezoid)
    elif rule == "hermite":
        if var_energy is None:
            raise ValueError("rule='hermite' needs var_energy; or use rule='trapezoid'")
        v = jnp.asarray(var_energy)
        correction = jnp.sum(jnp.where(moved, d**2 / 12 * (v[:-1] - v[1:]), 0.0))
        value, budget = trapezoid + correction, jnp.abs(correction) / 4
    else:
        raise ValueError(f"rule={rule!r} is unknown: use 'hermite' or 'trapezoid'")
    statistical = jnp.zeros_like(value)
    if stderr is not None:
        s = jnp.asarray(stderr)
        pad = jnp.zeros(1, b.dtype)
        weights = 0.5 * (jnp.concatenate([d, pad]) + jnp.concatenate([pad, d]))
        statistical = jnp.sqrt(jnp.sum((weights * s) ** 2))
    total = jnp.sqrt(statistical**2 + budget**2)
    flags = raise_flags((Flag.NONFINITE, ~jnp.isfinite(value)))
    return Estimate(value, total, statistical, jnp.asarray(jnp.nan), flags, {"budget": budget})


def log_mean_exp_weights(log_w: Array, axis: int = -1) -> tuple[Array, Array]:
    """log mean exp(log_w) and the effective sample size of the weights.

    Entries of -inf are legal (weight zero).
    """
    n = log_w.shape[axis]
    first = logsumexp(log_w, axis=axis)
    second = logsumexp(2 * log_w, axis=axis)
    return first - jnp.log(n), jnp.exp(2 * first - second)
