"""log Z, F, U, S and C over temperatures, from the particles of one tempered run.

    F = -T log Z        S = beta <U> + log Z        C = beta^2 Var U

S is -KL(p || m) <= 0 for a normalised prior m, the differential entropy for Lebesgue
measure; the two differ by <log m>.

Source: specification of the core, section 3.1 (derived here).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.mixture import (
    MixtureMoments,
    jackknife,
    mixture_moments,
    pooled_thermodynamics,
)
from thermojax.partition import PartitionParts
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["Curve", "curve", "entropy", "free_energy", "heat_capacity", "internal_energy"]


class Curve(NamedTuple):
    """Thermodynamic functions over betas [B], each an `Estimate` with leading axis [B].

    Attributes:
        beta: [B] inverse temperatures.
        log_z: log Z, nats.
        free_energy: F = -log Z / beta, energy units.
        internal_energy: <U>.
        entropy: S = beta <U> + log Z, nats.
        heat_capacity: C = beta^2 Var U.
    """

    beta: Array
    log_z: Estimate
    free_energy: Estimate
    internal_energy: Estimate
    entropy: Estimate
    heat_capacity: Estimate


def curve(est: Estimate, betas: ArrayLike) -> Curve:
    """log Z, F, U, S and C at many temperatures from one `log_partition`.

    The particles of all rungs are one mixture sample. For a path from the prior any beta
    between 0 and the target's is covered; beyond it, or on a path from a reference, the
    flag LOW_ESS says where the samples no longer reach.

    Args:
        est: result of `log_partition`.
        betas: [B] inverse temperatures (a scalar is taken as one).

    Returns:
        `Curve`; errors by jackknife over populations.

    Raises:
        ValueError: a negative beta, or an estimate that carries no particles.
    """
    if not isinstance(est.parts, PartitionParts):
        raise ValueError("curve needs the result of log_partition, which keeps its particles")
    if is_concrete(betas) and not np.all(np.asarray(betas) >= 0):
        raise ValueError(f"betas={np.asarray(betas)} must be >= 0")
    return _curve(est, jnp.atleast_1d(jnp.asarray(betas, est.value.dtype)))


@jax.jit
def _curve(est: Estimate, betas: Array) -> Curve:
    parts = est.parts
    trace = parts.trace
    on = jnp.arange(trace.lam.shape[1])[None, :] <= parts.rungs[:, None]
    target = jnp.asarray(parts.point.beta, betas.dtype)
    tempered = trace.energy if not isinstance(trace.energy, tuple) else None
    per_beta = jnp.where(target > 0, target, 1.0)
    energy = trace.value / per_beta if tempered is None else tempered
    shift = jnp.mean(jnp.take_along_axis(energy, parts.rungs[:, None, None], axis=1))
    rho = jnp.clip(jnp.sum(jnp.where(on, trace.correlation, 0.0)) / jnp.sum(on), 0.0, 0.95)
    independent = (1 - rho) / (1 + rho)

    def at(beta):
        extra = beta * energy if tempered is None else trace.value + (beta - target) * energy
        runs = jax.vmap(mixture_moments, in_axes=(0, 0, 0, 0, 0, 0, None))(
            trace.lam, trace.log_z, on, trace.value, extra, energy, shift
        )
        return _thermodynamics(runs, beta, shift, parts.log_mass)

    values, errors, spread, n_eff = jax.lax.map(at, betas)
    n_eff = n_eff * independent
    errors = _with_floor(errors, spread, betas, n_eff, est)
    energies = values["internal_energy"]
    slope_error = jnp.hypot(errors["internal_energy"][1:], errors["internal_energy"][:-1])
    order = jnp.sign(jnp.diff(betas))
    rising = jnp.any(order * jnp.diff(energies) > 3 * slope_error)
    base = est.flags | raise_flags((Flag.NOT_CONVEX, rising))
    bit = lambda flag, bad: jnp.where(bad, jnp.uint32(flag), jnp.uint32(0))
    flags = base | bit(Flag.LOW_ESS, n_eff < 50)

    def make(name):
        bad = bit(Flag.NONFINITE, ~jnp.isfinite(values[name]))
        infinite = jnp.full_like(errors[name], jnp.nan)
        return Estimate(values[name], errors[name], infinite, n_eff, flags | bad)

    return Curve(betas, *(make(name) for name in Curve._fields[1:]))


def _thermodynamics(runs: MixtureMoments, beta: Array, shift: Array, log_mass: Array):
    """Values from all runs, jackknife errors, effective sample size."""
    count = runs.log_z.shape[0]

    def functions(keep):
        pooled = pooled_thermodynamics(runs, keep)
        log_z = pooled.log_z + log_mass
        energy = pooled.energy + shift
        return {
            "log_z": log_z,
            "free_energy": jnp.where(
                beta > 0, -log_z / jnp.where(beta > 0, beta, 1.0), -jnp.inf
            ),
            "internal_energy": energy,
            "entropy": beta * energy + log_z,
            "heat_capacity": beta**2 * pooled.variance,
        }

    everything = functions(jnp.ones(count, bool))
    left_out = jax.vmap(functions)(~jnp.eye(count, dtype=bool))
    errors = {name: jackknife(left_out[name], count) for name in everything}
    pooled = pooled_thermodynamics(runs, jnp.ones(count, bool))
    return everything, errors, pooled.variance, jnp.sum(runs.n_eff)


def _with_floor(
    errors: dict[str, Array], variance: Array, betas: Array, n_eff: Array, est: Estimate
) -> dict[str, Array]:
    """No error below what the effective samples allow: a few runs may agree by chance."""
    energy = jnp.sqrt(variance / n_eff)
    capacity = betas**2 * variance * jnp.sqrt(2 / n_eff)
    target = jnp.asarray(est.parts.point.beta, betas.dtype)
    # log Z gathers its error along the path, about evenly in log beta near its end
    share = jnp.clip(betas / jnp.where(target > 0, target, 1.0), 0.0, 1.0)
    log_z = est.within_stderr * jnp.sqrt(share)
    floors = {
        "log_z": log_z,
        "free_energy": log_z / jnp.where(betas > 0, betas, jnp.inf),
        "internal_energy": energy,
        "entropy": 0.5 * jnp.hypot(betas * energy, log_z),
        "heat_capacity": capacity,
    }
    return {name: jnp.maximum(errors[name], floors[name]) for name in errors}


def _single(est: Estimate, beta: ArrayLike | None, name: str) -> Estimate:
    beta = est.parts.point.beta if beta is None else beta
    whole = getattr(curve(est, beta), name)
    if np.ndim(beta):
        return whole
    return jax.tree.map(lambda x: x[0], whole)


def free_energy(est: Estimate, beta: ArrayLike | None = None) -> Estimate:
    """F = -log Z / beta in energy units, at `beta` (default: the estimate's own).

    Args:
        est: result of `log_partition`.
        beta: inverse temperature, scalar or [B].
    """
    return _single(est, beta, "free_energy")


def internal_energy(est: Estimate, beta: ArrayLike | None = None) -> Estimate:
    """<U> at `beta` (default: the estimate's own).

    Args:
        est: result of `log_partition`.
        beta: inverse temperature, scalar or [B].
    """
    return _single(est, beta, "internal_energy")


def entropy(est: Estimate, beta: ArrayLike | None = None) -> Estimate:
    """S = beta <U> + log Z in nats: -KL(p || m) for a normalised prior.

    With Lebesgue measure it is the differential entropy; the two differ by <log m>.

    Args:
        est: result of `log_partition`.
        beta: inverse temperature, scalar or [B].
    """
    return _single(est, beta, "entropy")


def heat_capacity(est: Estimate, beta: ArrayLike | None = None) -> Estimate:
    """C = beta^2 Var U at `beta` (default: the estimate's own).

    Args:
        est: result of `log_partition`.
        beta: inverse temperature, scalar or [B].
    """
    return _single(est, beta, "heat_capacity")
