"""Fluctuation theorems of an entropy production, put to samples.

    integral    <exp(-sigma)> = 1
    detailed    ln [P(sigma = s) / P~(sigma~ = -s)] = s

The averages themselves, with their verdict: nothing is assumed about sigma, and a mean that
is not 1 is reported as it is. For free energies from works see `jarzynski` and `crooks`.

Source: Seifert 2005, Crooks 1999; verdicts derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Flag, explain, raise_flags
from thermojax.estimators.pareto import pareto_shape
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "DetailedFluctuation",
    "IntegralFluctuation",
    "detailed_fluctuation",
    "integral_fluctuation",
]


class IntegralFluctuation(NamedTuple):
    """The mean of exp(-sigma) and how far to believe it.

    Attributes:
        mean_exp: <exp(-sigma)>.
        standard_error: of the mean; worthless where a flag is raised.
        effective_sample_size: members that carry the mean, see `integral_fluctuation`.
        flags: uint32 bit set; zero means trusted.
    """

    mean_exp: Array
    standard_error: Array
    effective_sample_size: Array
    flags: Array

    @property
    def stderr(self) -> Array:
        """The standard error, under the name that estimates give it."""
        return self.standard_error

    @property
    def reasons(self) -> list[str]:
        """The raised flags, explained."""
        return explain(self.flags)


class DetailedFluctuation(NamedTuple):
    """The log ratio of two histograms; a line of slope 1 through 0 by the theorem.

    Attributes:
        centres: [n] middle of every bin.
        log_ratio: [n] ln of forward over reversed backward density, nan where either bin
            is empty.
        stderr: [n] of the log ratio, sqrt(1/n_f + 1/n_b); inf where a bin is empty.
        flags: uint32 bit set; POOR_OVERLAP if fewer than two bins have members of both.
    """

    centres: Array
    log_ratio: Array
    stderr: Array
    flags: Array

    @property
    def reasons(self) -> list[str]:
        """The raised flags, explained."""
        return explain(self.flags)


def _floats(values: ArrayLike) -> Array:
    x = jnp.asarray(values)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def integral_fluctuation(
    sigma: ArrayLike, weights: ArrayLike | None = None
) -> IntegralFluctuation:
    """Mean of exp(-sigma) over members: 1 for an entropy production on one support.

        <exp(-sigma)> = sum_i w_i exp(-sigma_i) / sum_i w_i

    The effective sample size is the lesser of (sum u)^2 / sum u^2 with u = w exp(-sigma),
    and of n_w exp(-v), v the mean square of sigma about its median on the low side, n_w the
    effective number of the weights (exact for a Gaussian): a sample that missed the rare
    members with sigma < 0 looks well supported otherwise.

    Args:
        sigma: entropy production of independent members, any shape, nats; inf is allowed
            (its reverse is impossible).
        weights: statistical weights of the same shape, not negative; equal by default.
            With exact path weights the mean is exact, and error and size say only how a
            sample of such weights would fare.

    Returns:
        `IntegralFluctuation`. LOW_ESS: fewer than 50 effective members, or an error above
        7 % of the mean. HEAVY_TAIL: the terms have a Pareto shape above 0.7. NONFINITE: nan
        or -inf among the members that count. Differentiable, with high variance.

    Raises:
        ValueError: an empty sigma, weights of another shape, or (outside jit) a negative
            weight or no weight at all.

    Source: Seifert 2005; the verdict is derived here.

    Example:
        >>> z = jax.random.normal(jax.random.key(0), (4000,))
        >>> found = integral_fluctuation(0.5 + z)  # mean = variance / 2
        >>> abs(float(found.mean_exp) - 1) < 4 * float(found.stderr), int(found.flags)
        (True, 0)
    """
    s = _floats(sigma)
    w = jnp.ones_like(s) if weights is None else _floats(weights).astype(s.dtype)
    if w.shape != s.shape or not s.size:
        raise ValueError(
            f"sigma and weights have shapes {s.shape}, {w.shape}: give one, not empty"
        )
    if is_concrete(w):
        least, total = float(np.min(w)), float(np.sum(w))
        if not (least >= 0 and 0 < total < np.inf):
            raise ValueError(
                f"weights have minimum {least:.6g} and sum {total:.6g}: give weights that "
                "are not negative and not all zero"
            )
    return _integral(s.ravel(), w.ravel())


@jax.jit
def _integral(s: Array, w: Array) -> IntegralFluctuation:
    counts = w > 0
    w = w / jnp.sum(w)
    s = jnp.where(counts, s, 0.0)
    possible = counts & jnp.isfinite(s)
    s_safe = jnp.where(possible, s, 0.0)
    log_w = jnp.log(jnp.where(counts, w, 1.0))
    log_u = jnp.where(possible, log_w - s_safe, -jnp.inf)
    some = jnp.any(possible)
    log_mean = logsumexp(jnp.where(some, log_u, 0.0))
    share = jnp.where(some, jnp.exp(log_u - log_mean), 0.0)
    members = 1 / jnp.sum(w**2)
    spread = jnp.sum((share - w) ** 2)
    relative = jnp.sqrt(jnp.where(spread > 0, spread, 1.0))
    relative = jnp.where(spread > 0, relative, 0.0)
    relative = relative * jnp.sqrt(members / jnp.maximum(members - 1, 0.0))
    relative = jnp.where(jnp.isnan(relative), jnp.inf, relative)
    n_eff = jnp.minimum(
        1 / jnp.sum(share**2), members * jnp.exp(-_low_side(s_safe, possible, w))
    )
    n_eff = jnp.where(some, n_eff, 0.0)
    mean = jnp.where(some, jnp.exp(log_mean), 0.0)
    mean = jnp.where(jnp.any(jnp.isneginf(s)), jnp.inf, mean)
    mean = jnp.where(jnp.any(jnp.isnan(s)), jnp.nan, mean)
    bad = ~jnp.isfinite(mean)
    flags = raise_flags(
        (Flag.LOW_ESS, ~(n_eff >= 50) | (relative > 0.07)),
        (Flag.HEAVY_TAIL, pareto_shape(jnp.where(some, log_u, 0.0)) > 0.7),
        (Flag.NONFINITE, bad),
    )
    return IntegralFluctuation(mean, jnp.where(bad, jnp.inf, mean * relative), n_eff, flags)


def _low_side(s: Array, possible: Array, w: Array) -> Array:
    """Mean square of s about its median, from the members below the median."""
    w = jnp.where(possible, w, 0.0)
    w = w / jnp.sum(w)
    order = jnp.argsort(s)
    middle = jnp.searchsorted(jnp.cumsum(w[order]), 0.5)
    median = s[order][jnp.minimum(middle, s.size - 1)]
    return 2 * jnp.sum(w * jnp.minimum(s - median, 0.0) ** 2)


def detailed_fluctuation(
    sigma_forward: ArrayLike, sigma_backward: ArrayLike, bins: ArrayLike | int
) -> DetailedFluctuation:
    """Log ratio of the histograms of sigma and of minus its reverse.

        log_ratio(s) = ln [P(sigma = s) / P~(sigma~ = -s)] = s  by the detailed theorem

    Args:
        sigma_forward: [n] entropy production of members of the process, nats.
        sigma_backward: [m] of members of the reverse process, with its own sign.
        bins: [k + 1] increasing edges, or their number k over the common range of
            sigma_forward and -sigma_backward; a number is static.

    Returns:
        `DetailedFluctuation`. Densities are normalised by all members, those outside the
        edges included. Not differentiable. Bins of width h bend the line by O(h^2).

    Raises:
        ValueError: no vectors, or empty ones; a number of bins below 1; fewer than two
            edges, or (outside jit) edges that do not increase.

    Source: Crooks 1999; specification of the theory of parametric models, section 2.5.

    Example:
        >>> z = jax.random.normal(jax.random.key(0), (2, 20000))
        >>> found = detailed_fluctuation(0.5 + z[0], 0.5 + z[1], jnp.linspace(-1.0, 1.0, 6))
        >>> bool(jnp.all(jnp.abs(found.log_ratio - found.centres) < 4 * found.stderr))
        True
    """
    f, b = _floats(sigma_forward), _floats(sigma_backward)
    for name, x in (("sigma_forward", f), ("sigma_backward", b)):
        if x.ndim != 1 or not x.size:
            raise ValueError(f"{name} has shape {x.shape}: give a vector, one per member")
    b = -b.astype(jnp.result_type(f, b))
    f = f.astype(b.dtype)
    if isinstance(bins, (int, np.integer)):
        if bins < 1:
            raise ValueError(f"bins={bins} must be at least 1")
        low, high = jnp.maximum(jnp.min(f), jnp.min(b)), jnp.minimum(jnp.max(f), jnp.max(b))
        # disjoint ranges: bins of no width, which hold nothing
        edges = jnp.linspace(low, jnp.maximum(low, high), int(bins) + 1)
    else:
        edges = jnp.asarray(bins, b.dtype)
    if edges.ndim != 1 or len(edges) < 2:
        raise ValueError(f"bins has shape {edges.shape}: give at least two edges")
    if is_concrete(bins) and np.ndim(bins) and not np.all(np.diff(np.asarray(bins)) > 0):
        raise ValueError("bins must increase from edge to edge")
    return _detailed(f, b, edges)


@jax.jit
def _detailed(f: Array, b: Array, edges: Array) -> DetailedFluctuation:
    count = lambda x: jnp.histogram(x, bins=edges)[0].astype(edges.dtype)
    n_f, n_b = count(f), count(b)
    both = (n_f > 0) & (n_b > 0) & (jnp.diff(edges) > 0)
    n_f, n_b = jnp.where(both, n_f, 1.0), jnp.where(both, n_b, 1.0)
    log_ratio = jnp.log(n_f / n_b) - jnp.log(f.size / b.size)
    return DetailedFluctuation(
        centres=(edges[1:] + edges[:-1]) / 2,
        log_ratio=jnp.where(both, log_ratio, jnp.nan),
        stderr=jnp.where(both, jnp.sqrt(1 / n_f + 1 / n_b), jnp.inf),
        flags=raise_flags((Flag.POOR_OVERLAP, jnp.sum(both) < 2)),
    )
