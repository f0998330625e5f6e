"""Ladders of inverse temperatures: swaps, round trips, placement, and what warm-up learns.

    swap of slots i, i+1     min(1, exp((b_i - b_{i+1}) (U_i - U_{i+1})))
    rejection                r_i = 1 - <min(1, ..)>
    barrier                  Lambda = sum_i r_i
    round trips per sweep    1 / (2 + 2 sum_i r_i / (1 - r_i)),   all walkers together

The path is p_b(theta) ∝ m(theta) exp(-b U(theta)): the base measure cancels in a swap. The
prediction of round trips assumes that a walker forgets its energy between two swaps; far
fewer trips than predicted mean that it does not, and that the ladder is not mixed.

Source: specification of the core, sections 2.9 and 2.10; barrier, even-odd sweeps and the
round-trip rate after Syed, Bouchard-Cote, Deligiannidis & Doucet 2021.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.typing import Array, ArrayLike, PyTree

__all__ = [
    "Learned",
    "Tuning",
    "adapt",
    "blank",
    "equal_barrier",
    "first_ladder",
    "learn_spread",
    "regrid",
    "round_trip_rate",
    "swap",
    "turn",
]

HOT_SEEN, COLD_SEEN = 1, 2


class Tuning(NamedTuple):
    """What warm-up changes and the run keeps; leading axis [K] of slots.

    Attributes:
        betas: [K] increasing.
        log_step: [K] logarithm of the step sizes, 0 for kernels without.
        scale: pytree like theta, [K, ...]; () for kernels without.
    """

    betas: Array
    log_step: Array
    scale: PyTree


class Learned(NamedTuple):
    """Sums of one stage of the warm-up.

    Attributes:
        swaps: [K-1] acceptance probabilities.
        tried: [K-1] number of them.
        mean: mean position of every slot, like `Tuning.scale`.
        square: summed squared deviations from it.
        log_step: [K] summed logarithm of the step sizes that will be averaged.
    """

    swaps: Array
    tried: Array
    mean: PyTree
    square: PyTree
    log_step: Array


def swap(
    slot: Array, energy: Array, betas: Array, coins: Array, parity: ArrayLike
) -> tuple[Array, Array, Array]:
    """One deterministic even-odd sweep: labels move, configurations stay.

    Args:
        slot: int32 [K] slot of every walker, a permutation.
        energy: [K] energy of every walker; +inf where it sits in a forbidden region.
        betas: [K] increasing, by slot.
        coins: [K-1] uniform numbers, by edge.
        parity: 0 tries the edges (0, 1), (2, 3), ..; 1 the others.

    Returns:
        New slots; acceptance probability [K-1]; which edges were tried [K-1].
    """
    count = slot.shape[0]
    by_slot = energy[jnp.argsort(slot)]
    log_ratio = (betas[:-1] - betas[1:]) * (by_slot[:-1] - by_slot[1:])
    # two infinite energies have no difference: leave them
    chance = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    tried = jnp.arange(count - 1) % 2 == parity
    taken = tried & (coins < chance)
    up = jnp.pad(taken, (0, 1)).astype(slot.dtype)
    down = jnp.pad(taken, (1, 0)).astype(slot.dtype)
    moved = jnp.arange(count, dtype=slot.dtype) + up - down
    return moved[slot], chance, tried


def turn(slot: Array, heading: Array, top: int) -> tuple[Array, Array]:
    """Which end a walker saw last, and whether it closed a round trip hot, cold, hot.

    Args:
        slot: int32 [K] slot of every walker.
        heading: int32 [K] 0 before the first visit to the hot end, 1 since it, 2 since the
            cold end was reached from there.
        top: index of the cold end.
    """
    closed = (slot == 0) & (heading == COLD_SEEN)
    arrived = (slot == top) & (heading == HOT_SEEN)
    heading = jnp.where(slot == 0, HOT_SEEN, jnp.where(arrived, COLD_SEEN, heading))
    return heading.astype(slot.dtype), closed


def round_trip_rate(rejection: Array) -> Array:
    """Round trips per sweep, all walkers together, if energies are forgotten in between."""
    r = jnp.clip(rejection, 0.0, 1 - 1e-6)
    return 1 / (2 + 2 * jnp.sum(r / (1 - r)))


def first_ladder(energy: Array, target: ArrayLike, count: int) -> Array:
    """0, then `count - 1` inverse temperatures in geometric steps up to the target.

    The first step is half the inverse of the median deviation of the energy under the
    reference, or 1 / (count - 1) of the target where that is smaller.

    Args:
        energy: energies of exact draws at beta = 0.
        target: last inverse temperature.
        count: number of slots K.
    """
    finite = jnp.isfinite(energy)
    known = jnp.where(finite, energy, jnp.nan)
    deviation = jnp.nanmedian(jnp.abs(known - jnp.nanmedian(known)))
    target = jnp.asarray(target, energy.dtype)
    even = target / (count - 1)
    least = jnp.where(deviation * even > 0.5, 0.5 / deviation, even)
    share = jnp.linspace(0.0, 1.0, count - 1, dtype=energy.dtype)
    rest = target * jnp.exp((1 - share) * jnp.log(least / target))
    return jnp.concatenate([jnp.zeros(1, energy.dtype), rest.at[-1].set(target)])


def equal_barrier(betas: Array, rejection: Array) -> Array:
    """Inverse temperatures at equal increments of the interpolated barrier Lambda(beta).

    Args:
        betas: [K] increasing.
        rejection: [K-1] mean rejection of the edges.
    """
    steps = jnp.clip(rejection, 1e-3, 1.0)
    barrier = jnp.concatenate([jnp.zeros(1, betas.dtype), jnp.cumsum(steps)])
    even = jnp.linspace(0.0, 1.0, betas.shape[0], dtype=betas.dtype) * barrier[-1]
    placed = jnp.interp(even, barrier, betas)
    return placed.at[0].set(betas[0]).at[-1].set(betas[-1])


def regrid(new: Array, old: Array, tree: PyTree) -> PyTree:
    """Leaves [K, ...] known at the old inverse temperatures, linearly at the new ones."""
    left = jnp.clip(jnp.searchsorted(old, new, side="right") - 1, 0, old.shape[0] - 2)
    share = jnp.clip((new - old[left]) / (old[left + 1] - old[left]), 0.0, 1.0)

    def one(x):
        s = share.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)
        return (1 - s) * x[left] + s * x[left + 1]

    return jax.tree.map(one, tree)


def blank(tuning: Tuning) -> Learned:
    """Nothing learned yet."""
    none = jnp.zeros_like(tuning.betas[1:])
    zero = jax.tree.map(jnp.zeros_like, tuning.scale)
    return Learned(none, none, zero, zero, jnp.zeros_like(tuning.log_step))


def learn_spread(learned: Learned, positions: PyTree, before: Array) -> Learned:
    """Mean and squared deviations of the positions of every slot, one round more.

    Args:
        learned: so far.
        positions: [R, K, ...] by slot.
        before: positions of every slot counted so far.
    """
    runs = jax.tree.leaves(positions)[0].shape[0]
    after = before + runs

    def centre(x, mean):
        return mean + (jnp.mean(x, axis=0) - mean) * (runs / after).astype(x.dtype)

    def square(x, mean, square):
        here = jnp.mean(x, axis=0)
        weight = (before * runs / after).astype(x.dtype)
        return square + jnp.sum((x - here) ** 2, axis=0) + weight * (here - mean) ** 2

    return learned._replace(
        mean=jax.tree.map(centre, positions, learned.mean),
        square=jax.tree.map(square, positions, learned.mean, learned.square),
    )


def adapt(tuning: Tuning, learned: Learned, seen: Array, *, place: bool) -> Tuning:
    """The end of a stage: new scales from its spread, new places from its rejections.

    Args:
        tuning: of the stage.
        learned: during it.
        seen: positions of every slot in it.
        place: move the inverse temperatures, too.
    """
    betas, log_step, scale = tuning
    # four pseudo-observations of the old scale, in the logarithm
    trust = seen / (seen + 4)
    spread = jax.tree.map(lambda m: jnp.sqrt(m / seen.astype(m.dtype)), learned.square)
    new = jax.vmap(_clipped)(spread) if jax.tree.leaves(scale) else ()

    def blend(old, now):
        return old * jnp.where(now > 0, now / old, 1.0) ** trust.astype(old.dtype)

    scale = jax.tree.map(blend, scale, new)
    if place:
        rejection = 1 - learned.swaps / jnp.maximum(learned.tried, 1)
        betas = equal_barrier(tuning.betas, rejection)
        log_step, scale = regrid(betas, tuning.betas, (log_step, scale))
    return Tuning(betas, log_step, scale)


def _clipped(spread: PyTree) -> PyTree:
    """Within a factor of 1e3 of its geometric mean; see `spread_of`."""
    flat = jnp.concatenate([jnp.ravel(s) for s in jax.tree.leaves(spread)])
    moved = flat > 0
    logs = jnp.where(moved, jnp.log(jnp.where(moved, flat, 1.0)), 0.0)
    middle = jnp.exp(jnp.sum(logs) / jnp.maximum(jnp.sum(moved), 1))
    return jax.tree.map(lambda s: jnp.clip(s, 1e-3 * middle, 1e3 * middle), spread)
