"""Free energies and fluctuation theorems from the work of driven ensembles.

    Jarzynski    <exp(-w)> = Z_1 / Z_0
    Crooks       log p_F(w) / p_R(-w) = w + log(Z_1 / Z_0)
    stationary   <exp(-sigma)> = 1,    log p(sigma) / p(-sigma) = sigma

w is the total reduced work of one member, nats: sum(protocol + shadow) of its ledger,
started in exact equilibrium. The work of the protocol alone forgets the work done by the
discretisation and obeys none of these for an unadjusted kernel. Kernels without a
transition density have nan instead of shadow work, and are refused.

The slopes are maximum-likelihood fits of a logistic regression, which asks of each
member whether it came from the forward or the reverse side; no histogram is made.

Source: specification of the core, 2.11 and 3.3; Jarzynski 1997, Crooks 1999; slope by
logistic regression after Shirts, Bair, Hooker & Pande 2003.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.free_energy import bar
from thermojax.estimators.logistic import LogisticFit, logistic_regression
from thermojax.estimators.pareto import pareto_shape
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "CrooksReport",
    "FluctuationReport",
    "crooks",
    "fluctuation_report",
    "jarzynski",
]


class CrooksReport(NamedTuple):
    """What forward and reverse works say together.

    Attributes:
        log_ratio: log(Z_1/Z_0) by Bennett's acceptance ratio.
        slope: of log p_F(w)/p_R(-w) against w; 1 by Crooks' theorem.
        offset: its value at w = 0 were the slope free; log(Z_1/Z_0) by the theorem.
        z: (slope - 1) / stderr.
    """

    log_ratio: Estimate
    slope: Estimate
    offset: Estimate
    z: Array


class FluctuationReport(NamedTuple):
    """What samples of a stationary entropy production say about its two theorems.

    Attributes:
        mean: <sigma>, nats; never negative in truth.
        integral: log <exp(-sigma)>; 0 by the integral theorem.
        integral_z: integral / stderr.
        slope: of log p(sigma)/p(-sigma) against sigma; 1 by the detailed theorem.
        slope_z: (slope - 1) / stderr.
    """

    mean: Estimate
    integral: Estimate
    integral_z: Array
    slope: Estimate
    slope_z: Array


def _members(name: str, values: ArrayLike) -> Array:
    """A vector of floats, or an error that says what is wrong with it."""
    x = jnp.asarray(values)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
    if x.ndim != 1:
        raise ValueError(f"{name} must be a vector, one total per member, got shape {x.shape}")
    if not x.size:
        raise ValueError(f"{name} is empty: no member, no estimate")
    if is_concrete(x) and not np.all(np.isfinite(x)):
        bad = int(np.sum(~np.isfinite(np.asarray(x))))
        raise ValueError(
            f"{name} holds {bad} of {x.size} values that are not finite: a walker blew up "
            "(use a smaller step) or its bath has no transition density (use a Langevin kernel)"
        )
    return x


def jarzynski(work: ArrayLike) -> Estimate:
    """log(Z_1/Z_0) from forward works: the log of the mean of exp(-w).

    Its error bar is the jackknife over members. Refused (LOW_ESS) where the exponential
    average rests on fewer than 50 effective members, at 1e5 members of Gaussian work beyond
    3.8 nats dissipated. What the weights say of themselves, 1/sum W^2, overrates: a sample
    that missed the tail looks well supported. n_eff is therefore the lesser of that and of
    n exp(-v), where v is the mean square of w about its median on the low side (exact for
    Gaussian work, too low for shorter tails). HEAVY_TAIL: the weights have a Pareto shape
    above 0.7. READOUTS_DISAGREE: the second-cumulant value -<w> + Var(w)/2 is off by more
    than 3 standard errors of the difference while n_eff < n/20; where more members carry
    the average, it is the cumulant that is wrong, as it is for non-Gaussian work.

    Args:
        work: [n] total reduced work of independent members, nats.

    Returns:
        `Estimate` in nats, `parts` with "cumulant" (the second-cumulant value) and its
        "cumulant_z", "dissipated" (<w> + log ratio, nats) and "pareto_k". Unbiased in
        Z_1/Z_0, hence low in its logarithm by half the squared standard error. Inside
        jit works that are not finite give nan and NONFINITE.

    Raises:
        ValueError: no vector, an empty one, or (outside jit) works that are not finite.

    Source: Jarzynski 1997; core specification 3.3.

    Example:
        >>> z = jax.random.normal(jax.random.key(0), (4000,))
        >>> est = jarzynski(0.5 + z)  # Gaussian work: log ratio = -0.5 + 1/2
        >>> abs(float(est.value)) < 3 * float(est.stderr), est.trusted
        (True, True)
    """
    return _jarzynski(_members("work", work))


@jax.jit
def _jarzynski(w: Array) -> Estimate:
    n, w = w.size, jnp.sort(w)
    total = logsumexp(-w)
    value = total - jnp.log(n)
    weight = jnp.exp(-w - total)
    low = jnp.minimum(w - 0.5 * (w[n // 2] + w[(n - 1) // 2]), 0.0)
    n_eff = jnp.minimum(1 / jnp.sum(weight**2), n * jnp.exp(-2 * jnp.mean(low**2)))
    stderr = _jackknife_of_log_mean(weight)
    # influence of each member on the two read-outs gives the error of their difference
    m, centred = jnp.mean(w), w - jnp.mean(w)
    v = jnp.mean(centred**2)
    cumulant = -m + v / 2
    influence = n * weight - 1 + centred - (centred**2 - v) / 2
    cumulant_z = (value - cumulant) / (jnp.std(influence) / jnp.sqrt(n))
    k = pareto_shape(-w)
    bad = ~jnp.isfinite(value)
    flags = raise_flags(
        (Flag.LOW_ESS, ~(n_eff >= 50)),
        (Flag.HEAVY_TAIL, k > 0.7),
        (Flag.READOUTS_DISAGREE, (jnp.abs(cumulant_z) > 3) & (n_eff < 0.05 * n)),
        (Flag.NONFINITE, bad),
    )
    parts = {
        "cumulant": cumulant,
        "cumulant_z": cumulant_z,
        "dissipated": m + value,
        "pareto_k": k,
    }
    value, stderr = jnp.where(bad, jnp.nan, value), jnp.where(bad, jnp.inf, stderr)
    return Estimate(value, stderr, stderr, n_eff, flags, parts)


def _jackknife_of_log_mean(weight: Array) -> Array:
    """Standard error of a log mean, from normalised weights [n]; inf for one member."""
    n = weight.size
    if n < 2:
        return jnp.full((), jnp.inf, weight.dtype)
    without = jnp.log1p(-weight)  # log mean of the others, up to a constant
    spread = jnp.sum((without - jnp.mean(without)) ** 2)
    error = jnp.sqrt((n - 1) / n * spread)
    return jnp.where(jnp.isfinite(error), error, jnp.inf)


def _slope(fit: LogisticFit, index: int, n: int, variance: Array) -> Estimate:
    """One coefficient as an `Estimate`; nan where the two sides never overlap."""
    value = jnp.where(fit.separable, jnp.nan, fit.value[index])
    stderr = jnp.where(fit.separable, jnp.inf, jnp.sqrt(jnp.maximum(variance, 0.0)))
    flags = raise_flags((Flag.POOR_OVERLAP, fit.separable))
    return Estimate(value, stderr, stderr, jnp.asarray(float(n)), flags)


@jax.jit
def _crooks(forward: Array, reverse: Array) -> CrooksReport:
    n_f, n_r = forward.size, reverse.size
    both = bar(forward, reverse)
    log_ratio = both._replace(value=-both.value)
    x = jnp.concatenate([forward, -reverse])
    label = jnp.concatenate([jnp.ones_like(forward), jnp.zeros_like(reverse)])
    # the middle of the works as origin: slope and offset are then hardly correlated
    middle = jnp.mean(x)
    features = jnp.stack([x - middle, jnp.ones_like(x)], axis=1)
    begin = jnp.where(jnp.isfinite(log_ratio.value), log_ratio.value + middle, 0.0)
    start = jnp.stack([jnp.ones_like(begin), begin])
    fit = logistic_regression(features, label, jnp.log(n_f / n_r), start)
    slope = _slope(fit, 0, x.size, fit.covariance[0, 0])
    at_zero = jnp.stack([-middle, jnp.ones_like(middle)])
    # n_f and n_r are chosen, not drawn: they add no error to the intercept
    variance = at_zero @ fit.covariance @ at_zero - 1 / n_f - 1 / n_r
    moved = fit._replace(value=fit.value.at[1].set(at_zero @ fit.value))
    offset = _slope(moved, 1, x.size, variance)
    return CrooksReport(log_ratio, slope, offset, (slope.value - 1) / slope.stderr)


def crooks(work_forward: ArrayLike, work_reverse: ArrayLike) -> CrooksReport:
    """Bennett's estimate and Crooks' slope from works of a process and its reverse.

    The reverse process starts in equilibrium at the last point, walks the controls
    backwards and swaps the order of control and bath moves. `drive` moves the control
    first, so take one path that begins with its starting point (its first control move is
    then none) and, for the reverse, the same path backwards. The kernel's word must be
    a palindrome (`kernel.meta.reversible`).

    Args:
        work_forward: [n_f] total reduced works, nats.
        work_reverse: [n_r] likewise of the reverse process, with their own sign.

    Returns:
        `CrooksReport`: log(Z_1/Z_0) (minus the Delta F of `bar`), slope and offset of
        log p_F(w)/p_R(-w) by logistic regression, and z of slope - 1. Errors take members
        as independent. Without overlap slope and offset are nan, with POOR_OVERLAP.

    Raises:
        ValueError: no vector, an empty one, or (outside jit) works that are not finite.

    Source: Crooks 1999; Shirts, Bair, Hooker & Pande 2003; core specification 3.3.

    Example:
        >>> z = jax.random.normal(jax.random.key(0), (2, 4000))
        >>> report = crooks(0.8 + z[0], 0.2 + z[1])  # log(Z_1/Z_0) = -0.3
        >>> bool(abs(report.z) < 4)
        True
    """
    return _crooks(
        _members("work_forward", work_forward), _members("work_reverse", work_reverse)
    )


@jax.jit
def _fluctuations(sigma: Array) -> FluctuationReport:
    n = sigma.size
    error = jnp.std(sigma, ddof=1) / jnp.sqrt(n)
    none = raise_flags()
    mean = Estimate(jnp.mean(sigma), error, error, jnp.asarray(float(n)), none)
    integral = _jarzynski(sigma)
    # given |sigma|, its sign is positive with odds exp(slope |sigma|)
    label = (sigma > 0).astype(sigma.dtype)
    start = jnp.ones((1,), sigma.dtype)
    fit = logistic_regression(jnp.abs(sigma)[:, None], label, jnp.zeros((), sigma.dtype), start)
    slope = _slope(fit, 0, n, fit.covariance[0, 0])
    z = integral.value / integral.stderr
    return FluctuationReport(mean, integral, z, slope, (slope.value - 1) / slope.stderr)


def fluctuation_report(sigma: ArrayLike) -> FluctuationReport:
    """Integral and detailed fluctuation theorem of a stationary entropy production.

        <exp(-sigma)> = 1,        log p(sigma) / p(-sigma) = sigma

    The detailed theorem asks more than the integral one: forward and reverse process must
    be the same (constant or symmetric control, the stationary law at both ends).

    Args:
        sigma: [n] entropy production of independent members, nats, boundary terms
            included: -sum(bath) + log p_0(theta_0) - log p_n(theta_n).

    Returns:
        `FluctuationReport`. POOR_OVERLAP on the slope where no member, or hardly any, has
        the less likely sign.

    Raises:
        ValueError: no vector, an empty one, or (outside jit) entries that are not finite.

    Source: Seifert 2005; slope by logistic regression of the sign, derived here.

    Example:
        >>> z = jax.random.normal(jax.random.key(0), (4000,))
        >>> report = fluctuation_report(0.5 + z)  # mean = variance / 2
        >>> bool(abs(report.integral_z) < 4), bool(abs(report.slope_z) < 4)
        (True, True)
    """
    return _fluctuations(_members("sigma", sigma))
