"""The density of states that flat runs leave behind, read at any temperature.

    Z_r(beta) = M sum_i exp(phi_i - beta U_i) / sum_i exp(phi_i)        of one run r

Runs are pooled by their Z; the error is the jackknife over runs, never below the spread of
the walkers inside them, which are independent once phi is frozen.

Source: specification of the core, section 3.3 (derived here).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.mixture import MixtureMoments, jackknife, pooled_thermodynamics
from thermojax.system import Point
from thermojax.thermodynamics import Curve
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["DensityOfStates", "RunMoments", "runs_at", "verdict"]


class DensityOfStates(NamedTuple):
    """What the frozen runs know about every temperature.

    Attributes:
        levels: [B] energies of the bins: U on a path from the prior, else its potential.
        log_mass: [B] log of the mass of the base measure near each level, -inf if empty.
        histogram: [R, B] share of each bin in the frozen runs; flat where phi is right.
        round_trips: passages from end to end and back, all walkers.
        flags: uint32, what is wrong at every temperature.
        value: [R, M, W] path potential V of the frozen runs.
        energy: [R, M, W] energies U.
        log_weight: [R, M, W] phi(V): log of the weight towards the base measure.
        low: V below which the walkers were canonical.
        point: the coldest point, where V = beta U - log m + log q.
        on_prior: bool, V = beta U.
        measure_mass: log mass of the base measure.
        inefficiency: [R] variance inflation by correlation within a walker, at `point`.
    """

    levels: Array
    log_mass: Array
    histogram: Array
    round_trips: Array
    flags: Array
    value: Array
    energy: Array
    log_weight: Array
    low: Array
    point: Point
    on_prior: Array
    measure_mass: Array
    inefficiency: Array

    def log_partition(self, betas: ArrayLike) -> Estimate:
        """log Z at one or many temperatures, nats.

        Args:
            betas: inverse temperatures, scalar or [B]; meant to be at most `point.beta`.

        Returns:
            `Estimate` of the shape of betas. POOR_OVERLAP where more than half of the
            target lies below the flattened range; nan with infinite error beyond .99.
        """
        found = self.curve(betas).log_z
        return found if np.ndim(betas) else jax.tree.map(lambda x: x[0], found)

    def curve(self, betas: ArrayLike) -> Curve:
        """log Z, F, U, S and C over temperatures [B], with errors from the runs.

        Raises:
            ValueError: a negative beta.
        """
        if is_concrete(betas) and not np.all(np.asarray(betas) >= 0):
            raise ValueError(f"betas={np.asarray(betas)} must be >= 0")
        return _curve(self, jnp.atleast_1d(jnp.asarray(betas, self.value.dtype)))


class RunMoments(NamedTuple):
    """One run at one temperature: pooled moments, and what its walkers say of the error."""

    pooled: MixtureMoments
    variance: Array
    inefficiency: Array
    below: Array


def _moments(
    value: Array, phi: Array, energy: Array, extra: Array, shift: Array, low: Array
) -> RunMoments:
    """Moments of one run [M, W] at the target with reduced energy `extra`."""
    finite = jnp.isfinite(value)
    log_w = jnp.where(finite, phi - extra, -jnp.inf)
    count, walkers = value.size, value.shape[1]
    target, base = jax.nn.softmax(log_w.ravel()), jax.nn.softmax(phi.ravel())
    centred = jnp.where(finite, energy - shift, 0.0).ravel()
    # walkers of a frozen run are independent: their spread is the error of the run
    each = (target - base).reshape(value.shape)
    by_walker = walkers / (walkers - 1) * jnp.sum(jnp.sum(each, axis=0) ** 2)
    by_sample = jnp.sum(each**2) * count / (count - 1)
    inefficiency = jnp.maximum(by_walker / jnp.maximum(by_sample, 1e-30), 1.0)
    pooled = MixtureMoments(
        log_z=logsumexp(log_w) - logsumexp(phi),
        energy=jnp.sum(target * centred),
        square=jnp.sum(target * centred**2),
        n_eff=1 / jnp.sum(target**2) / inefficiency,
    )
    below = jnp.sum(jnp.where((value < low).ravel(), target, 0.0))
    return RunMoments(pooled, jnp.maximum(by_walker, by_sample), inefficiency, below)


def runs_at(density: DensityOfStates, beta: Array, shift: Array) -> RunMoments:
    """Every run at one temperature."""
    target = jnp.asarray(density.point.beta, beta.dtype)
    share = jnp.where(target > 0, beta / jnp.where(target > 0, target, 1.0), 0.0)
    straight = jnp.where(
        target > 0, share * density.value, jnp.where(beta > 0, beta * density.energy, 0.0)
    )
    bent = density.value + (beta - target) * density.energy
    extra = jnp.where(density.on_prior, straight, bent)
    return jax.vmap(_moments, in_axes=(0, 0, 0, 0, None, None))(
        density.value, density.log_weight, density.energy, extra, shift, density.low
    )


def _table(*columns: Array) -> dict[str, Array]:
    """The columns of a `Curve`, by name."""
    return dict(zip(Curve._fields[1:], columns, strict=True))


@jax.jit
def _curve(density: DensityOfStates, betas: Array) -> Curve:
    runs = density.value.shape[0]
    finite = jnp.isfinite(density.value)
    shift = jnp.sum(jnp.where(finite, density.energy, 0.0)) / jnp.sum(finite)

    def functions(moments, beta, keep):
        pooled = pooled_thermodynamics(moments, keep)
        log_z, energy = pooled.log_z + density.measure_mass, pooled.energy + shift
        free = jnp.where(beta > 0, -log_z / jnp.where(beta > 0, beta, 1.0), -jnp.inf)
        capacity = beta**2 * pooled.variance
        return _table(log_z, free, energy, beta * energy + log_z, capacity)

    def one(beta):
        found = runs_at(density, beta, shift)
        whole = functions(found.pooled, beta, jnp.ones(runs, bool))
        left = ~jnp.eye(runs, dtype=bool)
        out = jax.vmap(lambda keep: functions(found.pooled, beta, keep))(left)
        spread = jax.tree.map(lambda x: jackknife(x, runs), out)
        n_eff = jnp.sum(found.pooled.n_eff)
        variance = pooled_thermodynamics(found.pooled, jnp.ones(runs, bool)).variance
        log_z = jnp.sqrt(jnp.mean(found.variance) / runs)
        energy = jnp.sqrt(variance / n_eff)
        within = _table(
            log_z,
            log_z / jnp.where(beta > 0, beta, jnp.inf),
            energy,
            0.5 * jnp.hypot(beta * energy, log_z),
            beta**2 * variance * jnp.sqrt(2 / n_eff),
        )
        bad = verdict(density, found, log_z, n_eff)
        return whole, jax.tree.map(jnp.maximum, spread, within), within, n_eff, *bad

    whole, errors, within, n_eff, flags, gone = jax.lax.map(one, betas)

    def make(name):
        value, error = whole[name], errors[name]
        lost = gone | ~jnp.isfinite(value)
        bit = jnp.where(~jnp.isfinite(value), jnp.uint32(Flag.NONFINITE), jnp.uint32(0))
        inner = jnp.where(lost, jnp.inf, within[name])
        error = jnp.where(lost, jnp.inf, error)
        return Estimate(jnp.where(gone, jnp.nan, value), error, inner, n_eff, flags | bit)

    return Curve(betas, *(make(name) for name in Curve._fields[1:]))


def verdict(density, found: RunMoments, within: Array, n_eff: Array) -> tuple[Array, Array]:
    """Flags at one temperature, and whether the answer is refused."""
    log_z, runs = found.pooled.log_z, found.below.shape[0]
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    expected = runs * within**2
    weights = jax.nn.softmax(log_z)
    below = jnp.sum(weights * found.below)
    limit = 4 * (1 + 6 / max(runs - 1, 1))
    flags = density.flags | raise_flags(
        (Flag.POOR_OVERLAP, below > 0.5),
        (Flag.LOW_ESS, ~(n_eff >= 50)),
        (Flag.RUNS_DISAGREE, (between > 1.0) | (between > limit * expected + 1e-8)),
    )
    return flags, ~(below < 0.99)
