"""Free-energy differences from work values and mean energies.

    BAR     sum_f f(M + w_f - D) = sum_r f(-M + w_r + D),   f Fermi, M = ln(n_f / n_r)
    TI      -int <U> d beta, by the Hermite rule that uses Var U for free

Neither is independent evidence when it reads the particles of another estimator: they
check the spacing of its ladder, not its sampling.

Source: specification of the core, section 3.3; Bennett 1976; Shirts & Chodera 2008.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.typing import Array, ArrayLike

__all__ = ["bar", "log_mean_exp_weights", "thermodynamic_integration"]


def _fermi_sum(argument: Array, weights: Array) -> Array:
    """log of sum_i weights_i / (1 + exp(argument_i)), safe for any argument."""
    return logsumexp(-jax.nn.softplus(argument), b=weights)


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
        overlap at all the value is nan.

    Example:
        >>> w = jnp.asarray([0.8, 1.0, 1.2])
        >>> float(bar(w, -w).value)
        1.0
    """
    w_f, w_r = jnp.asarray(w_f), jnp.asarray(w_r)
    on_f = jnp.ones(w_f.shape, bool) if mask_f is None else jnp.asarray(mask_f)
    on_r = jnp.ones(w_r.shape, bool) if mask_r is None else jnp.asarray(mask_r)
    f, r = jnp.where(on_f, w_f, 0.0), jnp.where(on_r, -w_r, 0.0)
    weight_f, weight_r = on_f.astype(f.dtype), on_r.astype(f.dtype)
    n_f, n_r = jnp.sum(weight_f), jnp.sum(weight_r)
    ratio = jnp.log(n_f / n_r)
    big = jnp.finfo(f.dtype).max
    low = jnp.minimum(
        jnp.min(jnp.where(on_f, f, big)), jnp.min(jnp.where(on_r, r, big))
    ) - jnp.abs(ratio)
    high = jnp.maximum(
        jnp.max(jnp.where(on_f, f, -big)), jnp.max(jnp.where(on_r, r, -big))
    ) + jnp.abs(ratio)

    def excess(d):
        """Increasing in d: log of the forward sum minus log of the reverse sum."""
        forward = _fermi_sum(ratio + f - d, weight_f)
        return forward - _fermi_sum(-(ratio + r - d), weight_r)

    def halve(_, bracket):
        left, right = bracket
        middle = 0.5 * (left + right)
        above = excess(middle) > 0
        return jnp.where(above, left, middle), jnp.where(above, middle, right)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    value = 0.5 * (low + high)
    # pooled samples: p0 p1 n0 n1 / (n0 p0 + n1 p1)^2 = sigmoid(a) sigmoid(-a)
    both = lambda w: jax.nn.sigmoid(ratio + w - value) * jax.nn.sigmoid(-(ratio + w - value))
    g = jnp.sum(both(f) * weight_f) + jnp.sum(both(r) * weight_r)
    variance = 1 / g - 1 / n_f - 1 / n_r
    overlap = g * (1 / n_f + 1 / n_r)
    lost = ~(overlap > 1e-6) | ~jnp.isfinite(value)
    flags = raise_flags((Flag.POOR_OVERLAP, ~(overlap > 0.03)), (Flag.NONFINITE, lost))
    stderr = jnp.sqrt(jnp.maximum(variance, 0.0))
    return Estimate(
        value=jnp.where(lost, jnp.nan, value),
        stderr=jnp.where(lost, jnp.inf, stderr),
        within_stderr=jnp.where(lost, jnp.inf, stderr),
        n_eff=jnp.minimum(n_f, n_r) * jnp.minimum(overlap, 1.0),
        flags=flags,
        parts={"overlap": overlap},
    )


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
