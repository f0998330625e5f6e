"""Thermodynamic functions over a range of beta from one tempered run.

All rungs of a run form one mixture sample; a particle x of rung k has the weight

    w(x; beta) = exp(-u_beta(x)) / sum_k n exp(f_k - u_k(x)),   f_k = -log Z_k

at any other beta (multistate reweighting with the run's own free energies). Runs are
pooled; the error bar is the jackknife over whole runs, never over particles.

Source: specification of the core, section 3.1 (derived here); Shirts & Chodera 2008.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.typing import Array

__all__ = ["MixtureMoments", "jackknife", "mixture_moments", "pooled_thermodynamics"]


class MixtureMoments(NamedTuple):
    """What one run says at one beta, in log space where it can be large.

    Attributes:
        log_z: log of the summed weights.
        energy: weighted mean U, relative to `shift`.
        square: weighted mean of (U - shift)^2.
        n_eff: effective sample size of the weights.
    """

    log_z: Array
    energy: Array
    square: Array
    n_eff: Array


def mixture_moments(
    lam: Array, log_z: Array, on: Array, value: Array, extra: Array, energy: Array, shift: Array
) -> MixtureMoments:
    """Moments of one run at one target.

    Args:
        lam: [K] path parameter of the rungs.
        log_z: [K] their log Z.
        on: [K] False for unused rungs.
        value: [K, n] path potential V; the rung's reduced energy is lam V - log q.
        extra: [K, n] target's reduced energy plus log q, the numerator's exponent.
        energy: [K, n] energies U.
        shift: scalar subtracted from U before it is squared.
    """
    n = value.shape[1]
    finite = jnp.isfinite(value) & on[:, None]
    v = jnp.where(finite, value, 0.0)

    def denominator(row):
        # log sum_k n exp(-log Z_k - lam_k V), rung by rung to keep memory at [n]
        terms = -log_z[:, None] - lam[:, None] * row[None, :]
        return logsumexp(jnp.where(on[:, None], terms, -jnp.inf), axis=0) + jnp.log(n)

    log_w = jnp.where(finite, -extra - jax.lax.map(denominator, v), -jnp.inf).ravel()
    total = logsumexp(log_w)
    weight = jnp.exp(log_w - total)
    centred = jnp.where(finite, energy - shift, 0.0).ravel()
    return MixtureMoments(
        log_z=total,
        energy=jnp.sum(weight * centred),
        square=jnp.sum(weight * centred**2),
        n_eff=1 / jnp.sum(weight**2),
    )


class Pooled(NamedTuple):
    """log Z, U, Var U of pooled runs."""

    log_z: Array
    energy: Array
    variance: Array


def pooled_thermodynamics(runs: MixtureMoments, keep: Array) -> Pooled:
    """Pool the runs with `keep` [R] True; Z adds, moments are Z-weighted (unbiased in Z)."""
    log_w = jnp.where(keep, runs.log_z, -jnp.inf)
    total = logsumexp(log_w)
    weight = jnp.exp(log_w - total)
    mean = jnp.sum(weight * runs.energy)
    square = jnp.sum(weight * runs.square)
    log_z = total - jnp.log(jnp.sum(keep))
    return Pooled(log_z, mean, square - mean**2)


def jackknife(values: Array, n_runs: int) -> Array:
    """Standard error from leave-one-run-out values along axis 0, t-corrected.

    With few runs the spread itself is uncertain: the error is widened so that one
    standard error covers 68.3 % under Student's t with n_runs - 1 degrees of freedom.
    """
    spread = jnp.sum((values - jnp.mean(values, axis=0)) ** 2, axis=0)
    return t_factor(n_runs) * jnp.sqrt((n_runs - 1) / n_runs * spread)


def t_factor(n_runs: int) -> float:
    """Student-t half-width of 68.27 % coverage for n_runs independent values."""
    table = {2: 1.837, 3: 1.321, 4: 1.197, 5: 1.142, 6: 1.111, 7: 1.091, 8: 1.077}
    dof = max(n_runs - 1, 1)
    # Cornish-Fisher about the normal quantile 1: t = 1 + (z^3 + z)/(4 dof) + ...
    return table.get(n_runs, 1 + 1 / (2 * dof) + 0.25 / dof**2)
