"""log Z along a ladder of temperatures: stepping stone, and histograms (WHAM).

    stepping stone   log Z_{k+1}/Z_k = ( log <e^{-dU}>_k  -  log <e^{+dU}>_{k+1} ) / 2
    WHAM             g_b = c_b / sum_j N_j exp(f_j - beta_j U_b),
                     exp(-f_k) = sum_b g_b exp(-beta_k U_b)

with d = beta_{k+1} - beta_k, c_b the counts of all states in bin b. Thermodynamic
integration, the third read-out of a ladder, is in `estimators.free_energy`.

stepping_stone: cost and memory one pass over the energies. Use it where rungs overlap well
and a formula that anybody can check is wanted. It lies where energies are heavy tailed: the
backward half then has no variance, which HEAVY_TAIL says.

wham: memory O(bins) instead of one number per sample and state; the solve is Newton's on
[K, bins], in float64 on the host. Use it where a ladder has more samples than can be kept.
It lies by the width of the bins (stated), and where the rungs do not overlap (refused).

Source: specification of the core, section 3.3; Xie et al. 2011 (stepping stone, forward),
averaged with its reverse here; Ferrenberg & Swendsen 1989, Kumar et al. 1992 (WHAM); as
binned MBAR after Shirts & Chodera 2008; bin error derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.mbar import (
    FEW,
    GONE,
    THIN,
    TOLERANCE,
    _covariance,
    _logsumexp,
    _weakest_link,
)
from thermojax.estimators.pareto import pareto_shape
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["Wham", "stepping_stone", "wham"]

COARSE = 0.1


def stepping_stone(betas: ArrayLike, energies: ArrayLike, *, g: ArrayLike = 1.0) -> Estimate:
    """log Z(beta_K) - log Z(beta_1) by exponential averages from both ends of every step.

        sum_k ( log <exp(-d_k U)>_k - log <exp(+d_k U)>_{k+1} ) / 2

    Works under jit and vmap.

    Args:
        betas: [K] increasing.
        energies: [K, n] energies U of samples of every rung; +inf (a wall) is legal at
            beta = 0 only.
        g: statistical inefficiency of the samples, a number or [K]: variances are
            multiplied by it.

    Returns:
        `Estimate` in nats, its error from the influence of every sample on both steps that
        it serves. `parts`: "steps" [K-1], "forward" and "backward" (the two halves, sums
        over steps), "overlap" [K-1] as in `bar`, "pareto_k" [K-1] (the worse of both
        directions). HEAVY_TAIL where some k > 0.7; POOR_OVERLAP below an overlap of 0.03,
        nan below 1e-4; READOUTS_DISAGREE where the halves differ by more than 3 standard
        errors; LOW_ESS where a step rests on fewer than 50 effective samples.

    Raises:
        ValueError: shapes that do not match; betas that do not increase.

    Source: Xie et al. 2011; core specification 3.3.

    Example:
        >>> u = (jnp.arange(1000.0) + 0.5) / 1000  # uniform on [0, 1] at beta = 0
        >>> x = -jnp.log1p(-u * (1 - jnp.exp(-1.0)))  # and the same at beta = 1
        >>> est = stepping_stone([0.0, 1.0], jnp.stack([u, x]))
        >>> round(float(est.value), 3)  # log(1 - 1/e)
        -0.459
    """
    b, u = jnp.asarray(betas), jnp.asarray(energies)
    u = u if jnp.issubdtype(u.dtype, jnp.floating) else u.astype(float)
    b = b.astype(u.dtype)
    if u.ndim != 2 or b.shape != u.shape[:1] or len(b) < 2:
        raise ValueError(
            f"betas must be [K] and energies [K, n] with K >= 2, got {b.shape} and {u.shape}"
        )
    if is_concrete(b) and not np.all(np.diff(np.asarray(b)) > 0):
        raise ValueError(f"betas={np.asarray(b).tolist()} must increase")
    inefficiency = jnp.broadcast_to(jnp.asarray(g, u.dtype), b.shape)
    return _stepping_stone(b, u, inefficiency)


@jax.jit
def _stepping_stone(b: Array, u: Array, g: Array) -> Estimate:
    n = u.shape[1]
    d = jnp.diff(b)[:, None]
    log_f, log_r = -d * u[:-1], d * u[1:]  # [K-1, n]
    forward = logsumexp(log_f, axis=1) - jnp.log(n)
    backward = logsumexp(log_r, axis=1) - jnp.log(n)
    steps = 0.5 * (forward - backward)
    weight_f = jnp.exp(log_f - forward[:, None]) - 1  # relative influences, mean zero
    weight_r = jnp.exp(log_r - backward[:, None]) - 1
    none = jnp.zeros((1, n), u.dtype)
    as_start = jnp.concatenate([weight_f, none])
    as_end = jnp.concatenate([none, weight_r])
    variance = lambda x: jnp.sum(g * jnp.mean(x**2, axis=1)) / n
    stderr = jnp.sqrt(variance(0.5 * (as_start - as_end)))
    gap_error = jnp.sqrt(variance(as_start + as_end))
    n_eff = n / jnp.maximum(jnp.mean(weight_f**2, axis=1), jnp.mean(weight_r**2, axis=1)).clip(
        1.0
    )
    n_eff = jnp.min(jnp.minimum(n_eff, n) / jnp.maximum(g[:-1], g[1:]))
    # the pooled samples of both ends, as in Bennett's ratio
    both = lambda log_w: jnp.mean(
        jax.nn.sigmoid(log_w - steps[:, None]) * jax.nn.sigmoid(steps[:, None] - log_w), axis=1
    )
    overlap = 2 * (both(log_f) + both(-log_r))
    k = jnp.maximum(jax.vmap(pareto_shape)(log_f), jax.vmap(pareto_shape)(log_r))
    value = jnp.sum(steps)
    lost = ~(jnp.min(overlap) > GONE) | ~jnp.isfinite(value)
    gap = jnp.abs(jnp.sum(forward) + jnp.sum(backward))
    flags = raise_flags(
        (Flag.LOW_ESS, ~(n_eff >= FEW)),
        (Flag.HEAVY_TAIL, k > 0.7),
        (Flag.POOR_OVERLAP, ~(overlap > THIN)),
        (Flag.READOUTS_DISAGREE, gap > 3 * gap_error + 1e-5),
        (Flag.NONFINITE, lost),
    )
    parts = {
        "steps": steps,
        "forward": jnp.sum(forward),
        "backward": -jnp.sum(backward),
        "overlap": overlap,
        "pareto_k": k,
    }
    value, stderr = jnp.where(lost, jnp.nan, value), jnp.where(lost, jnp.inf, stderr)
    return Estimate(value, stderr, stderr, n_eff, flags, parts)


class Wham(NamedTuple):
    """What the histograms of a ladder say together; numpy arrays in float64.

    Attributes:
        estimate: log(Z_k / Z_0) [K], nats, with `stderr` [K] (0 for state 0), `n_eff` [K] and
            flags [K].
        bin_error: [K] what the width of the widest bin in use may change, nats; it enters
            `stderr`.
        covariance: [K, K] statistical, of the log Z up to a constant.
        link: overlap across the weakest cut of the ladder.
        centres: [B] middles of the bins.
        log_density: [B] log of the density of states in a bin over Z_0 (-inf where empty):
            log Z(beta)/Z_0 = logsumexp(log_density - beta * centres).
        residual: largest violation of the equations, in samples.
    """

    estimate: Estimate
    bin_error: np.ndarray
    covariance: np.ndarray
    link: float
    centres: np.ndarray
    log_density: np.ndarray
    residual: float

    def log_partition(self, beta: float) -> float:
        """log Z(beta)/Z_0 at any temperature that the ladder covers; no error bar."""
        return float(_logsumexp(self.log_density - beta * self.centres))


def wham(betas: ArrayLike, counts: ArrayLike, edges: ArrayLike, *, g: float = 1.0) -> Wham:
    """log Z of a ladder of temperatures from one energy histogram per rung.

    It is MBAR on binned energies: the counts may be added up over a run of any length
    (`tj.histogram`). Every sample must lie between the edges. Putting an energy in the
    middle of its bin, of width w, moves log(Z_k/Z_0) by about
    log(sinh(x/2)/(x/2)) ~ x^2/24, or less, x = w (max beta - min beta).

    Args:
        betas: [K] inverse temperatures.
        counts: [K, B] counts of every rung.
        edges: [B + 1] finite and increasing.
        g: statistical inefficiency of the samples: variances are multiplied by it.

    Returns:
        `Wham`. POOR_OVERLAP below an overlap of 0.03 across the weakest cut; below 1e-4
        the answer is refused: nan with infinite error; so it is, with NONFINITE, where the
        equations could not be solved. TOO_COARSE where the bin error exceeds 0.1 nats;
        LOW_ESS for a rung on which fewer than 50 effective samples bear.

    Raises:
        ValueError: shapes that do not match, counts that are no counts, a rung without
            any, edges that do not increase, g below 1.

    Example:
        >>> rng, betas, edges = np.random.default_rng(0), [1.0, 2.0], np.linspace(0, 20, 401)
        >>> counts = [np.histogram(rng.exponential(1 / b, 9000), edges)[0] for b in betas]
        >>> fit = wham(betas, counts, edges)
        >>> bool(abs(fit.estimate.value[1] + np.log(2)) < 3 * fit.estimate.stderr[1])
        True
    """
    b, c, edge = _checked(betas, counts, edges, g)
    centres, widths = 0.5 * (edge[1:] + edge[:-1]), np.diff(edge)
    seen = c.sum(0) > 0
    u, pooled, n = b[:, None] * centres[seen], c.sum(0)[seen], c.sum(1)
    f, residual = _solve(u, pooled, n, _start(b, c, centres))
    log_denominator = _logsumexp(f[:, None] - u + np.log(n)[:, None], axis=0)
    with np.errstate(under="ignore"):
        weights = np.exp(f[:, None] - u - log_denominator)
    gram = weights * pooled @ weights.T
    link = _weakest_link(gram * n, n)
    covariance = g * _covariance(gram, n)
    variance = np.diag(covariance) + covariance[0, 0] - 2 * covariance[0]
    bin_error = np.full_like(b, _log_sinhc(0.5 * np.ptp(b) * widths[seen].max()))
    bin_error[0] = 0.0
    n_eff = 1 / np.diag(gram) / g
    flags = np.where(n_eff < FEW, int(Flag.LOW_ESS), 0).astype(np.uint32)
    flags |= np.where(bin_error > COARSE, np.uint32(Flag.TOO_COARSE), np.uint32(0))
    flags |= np.uint32(Flag.POOR_OVERLAP if link < THIN else 0)
    unsolved = not residual < 1e-6 * n.sum()
    flags |= np.uint32(Flag.NONFINITE if unsolved else 0)
    value, within = f[0] - f, np.sqrt(np.maximum(variance, 0.0))
    if link < GONE or unsolved:
        value, within = np.full_like(value, np.nan), np.full_like(within, np.inf)
    error = np.hypot(within, bin_error)
    log_density = np.full(len(centres), -np.inf)
    log_density[seen] = np.log(pooled) - log_denominator + f[0]
    estimate = Estimate(value, error, within, n_eff, jnp.asarray(flags))
    return Wham(estimate, bin_error, covariance, link, centres, log_density, residual)


def _checked(betas, counts, edges, g):
    b, c, edge = (np.asarray(x, np.float64) for x in (betas, counts, edges))
    if b.ndim != 1 or c.shape != (len(b), len(edge) - 1):
        raise ValueError(
            "betas must be [K], counts [K, B] and edges [B + 1], got "
            f"{b.shape}, {c.shape} and {edge.shape}"
        )
    if not (np.isfinite(edge).all() and np.all(np.diff(edge) > 0)):
        raise ValueError("edges must be finite and increase: extend them over all energies")
    if not np.all((c >= 0) & (c % 1 == 0)):
        raise ValueError(f"counts must be whole numbers >= 0, got a minimum of {c.min()}")
    empty = np.flatnonzero(c.sum(1) == 0)
    if len(empty):
        raise ValueError(f"rung {empty[0]} has no counts: leave it out, and use log_partition")
    if not g >= 1:
        raise ValueError(f"g={g} must be at least 1: samples cannot be better than independent")
    return b, c, edge


def _log_sinhc(x: float) -> float:
    """log(sinh(x)/x) for x >= 0."""
    return x**2 / 6 if x < 1e-3 else float(x + np.log(-np.expm1(-2 * x) / (2 * x)))


def _start(b: np.ndarray, c: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """f by the trapezoid rule on the mean energies."""
    mean = c @ centres / c.sum(1)
    return np.concatenate([[0.0], np.cumsum(np.diff(b) * (mean[1:] + mean[:-1]) / 2)])


def _solve(u, pooled, n, f):
    """Newton's method on the convex objective, with self-consistent steps where it fails."""
    total = n.sum()

    def look(f):
        log_p = (f + np.log(n))[:, None] - u
        norm = _logsumexp(log_p, axis=0)
        with np.errstate(under="ignore"):
            p = np.exp(log_p - norm)
        return p, pooled @ norm - n @ f

    p, height = look(f)
    for _ in range(100):
        expected = p @ pooled
        if np.abs(expected - n).max() <= TOLERANCE * total:
            break
        hessian = np.diag(expected) - p * pooled @ p.T
        newton = np.zeros_like(f)
        newton[1:] = np.linalg.lstsq(hessian[1:, 1:], (n - expected)[1:], rcond=1e-14)[0]
        plain = np.log(n / np.maximum(expected, 1e-300))
        for move in (newton, newton / 4, newton / 16, plain):
            trial = f + move - move[0]
            p_new, lower = look(trial)
            # close to the minimum the height is all rounding, and the miss is not
            fall, rounding = height - lower, 1e-12 * (abs(height) + total)
            closer = np.abs(p_new @ pooled - n).max() < np.abs(expected - n).max()
            if fall > rounding or (fall > -rounding and closer):
                break
        else:
            break
        f, p, height = trial, p_new, lower
    return f - f[0], float(np.abs(p @ pooled - n).max())
