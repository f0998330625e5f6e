"""Density of states: log Z at every temperature from walkers spread evenly over energies.

    Z(beta) = M E_mu[exp(phi - beta U)] / E_mu[exp(phi)],   mu ∝ m exp(-phi(U)),  M = int m

phi is learned by 1/t Wang-Landau and then frozen; only the frozen run is reported, so that
errors of phi cost precision and no bias. The denominator is what fixes the constant: it is
the known mass of the base measure.

Cost: `walkers * n_runs * (learn + measure) * moves` kernel steps, ten to a hundred times
those of tempered SMC at equal error on an easy target; memory [measure, walkers * n_runs]
energies. Use it where the energy is bimodal at some temperature (first-order transitions),
for spins, and for many temperatures at once. It lies where states of one energy are not
connected: a flat histogram says nothing about what is inside a bin; independent runs and
the round trips between both ends are the guards. For energies with infinite walls give a
kernel without gradients (`tj.random_walk`).

Source: specification of the core, section 3.3 (derived here); see `multicanonical`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.checkpoints import Store, in_chunks
from thermojax.density_of_states import DensityOfStates, RunMoments, runs_at, verdict
from thermojax.dynamics.kernel import Kernel
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.mixture import t_factor
from thermojax.multicanonical import (
    Course,
    Walk,
    advance,
    begin,
    lay_out,
    place,
    weigh,
)
from thermojax.partition import check_target
from thermojax.smc import tunable
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = ["DensityOfStates", "FlatHistogram", "FlatParts", "flat_histogram", "flat_log_z"]


@dataclasses.dataclass(frozen=True)
class FlatHistogram:
    """Settings of the flat-histogram route; see the module docstring.

    Attributes:
        bins: nodes of phi. Between them it is linear, so that some tens suffice.
        walkers: walkers per run; they share one phi.
        n_runs: independent runs, from warm-up to reweighting; their spread is the error.
        learn: looks during which phi is learned.
        measure: looks of the frozen run, which is what is reported.
        moves: kernel steps between two looks.
        blocks: parts of the frozen run from each of which every walker keeps one theta,
            drawn by the target's weight; divides `measure`.
        scale: "log": bins even in log(1 + beta (U - low)), right for continuous theta at
            any d; "linear": even in U.
        kernel: `system -> Kernel`, metropolised; HMC by default, whose step is drawn
            log-uniformly between those of both ends; heat-bath flips for binary states.
    """

    bins: int = 32
    walkers: int = 64
    n_runs: int = 8
    learn: int = 1000
    measure: int = 1000
    moves: int = 2
    blocks: int = 8
    scale: str = "log"
    kernel: Callable[[System], Kernel] | None = None

    def __post_init__(self):
        least = {"bins": 4, "walkers": 8, "n_runs": 1, "learn": 1, "measure": 1}
        for name, bound in {**least, "moves": 1, "blocks": 1}.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {bound}")
        if self.measure % self.blocks:
            raise ValueError(f"blocks={self.blocks} must divide measure={self.measure}")
        if self.scale not in ("log", "linear"):
            raise ValueError(f"scale={self.scale!r} is unknown: use 'log' or 'linear'")


class FlatParts(NamedTuple):
    """What `flat_log_z` hands on; see `PartitionParts` for the names they share.

    Attributes:
        point: the target.
        samples: theta [R * blocks * W, ...], runs one after the other.
        log_weights: [R * blocks * W] log weights towards the target.
        runs_log_z: [R] log Z of each run.
        log_mass: log mass of the measure where the path starts.
        n_gradients: gradients of U spent, all runs.
        density: `DensityOfStates`, for other temperatures.
    """

    point: Point
    samples: PyTree
    log_weights: Array
    runs_log_z: Array
    log_mass: Array
    n_gradients: Array
    density: DensityOfStates


def flat_histogram(
    sys: System,
    key: Key,
    *,
    beta_max: ArrayLike = 1.0,
    control: PyTree = (),
    settings: FlatHistogram | None = None,
    reference: Any = None,
    progress: bool | Callable[[int, int], None] = False,
) -> DensityOfStates:
    """Density of states between the base measure and a coldest temperature.

        log Z(beta) = log E[exp(phi - beta U)] - log E[exp(phi)] + log int m

    Args:
        sys: the system; its base measure must be normalisable, or a reference given.
        key: typed key.
        beta_max: coldest inverse temperature asked for; energies are flattened down to
            those typical of it, for all smaller beta at once.
        control: of the system.
        settings: `FlatHistogram(...)`.
        reference: see `log_partition`; only betas near `beta_max` are covered then.
        progress: show a bar over the looks, or call `progress(done, total)`.

    Returns:
        `DensityOfStates`: `.log_partition(betas)`, `.curve(betas)`. NOT_FLAT where a bin
        holds less than a fifth or was lost, NO_ROUND_TRIPS below ten of them.

    Raises:
        ImproperEnsembleError: no normalisable base measure and no reference.
        ValueError: beta_max < 0, an unadjusted kernel.

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> small = FlatHistogram(bins=8, walkers=16, n_runs=4, learn=64, measure=128)
        >>> density = flat_histogram(sys, jax.random.key(0), settings=small)
        >>> found = density.log_partition(jnp.array([0.5, 1.0])).value
        >>> bool(jnp.all(jnp.abs(found + 0.5 * jnp.log(jnp.array([1.5, 2.0]))) < 0.1))
        True
    """
    point = Point(beta_max, control)
    settings = FlatHistogram() if settings is None else settings
    check_target(sys, point, key, reference, is_concrete((sys, point, key)))
    est = flat_log_z(settings, sys, point, key, reference=reference, progress=progress)
    return est.parts.density


def flat_log_z(
    settings: FlatHistogram,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Store | None = None,
) -> Estimate:
    """log Z at one point by the flat-histogram route, in nats.

    Args:
        settings: `FlatHistogram(...)`.
        sys: the system.
        point: where; the energies are flattened from the base measure down to it.
        key: typed key.
        reference: see `log_partition`.
        mesh: not supported: the walkers of one run share their weights.
        progress: show a bar over the looks, or call `progress(done, total)`.
        checkpoint: folder where the walkers are kept every tenth of the looks, and from
            where they go on, bit for bit; ignored under jit.

    Returns:
        `Estimate` with `FlatParts`; works under jit.

    Raises:
        ImproperEnsembleError: no normalisable start.
        ValueError: beta < 0, a mesh.
    """
    if mesh is not None:
        raise ValueError(
            "FlatHistogram shares weights between walkers and takes no mesh: give mesh=None"
        )
    concrete = is_concrete((sys, point, key))
    check_target(sys, point, key, reference, False)
    looks = settings.learn + settings.measure
    if not concrete:
        course, walk = _start(settings, sys, point, key, reference)
        return _read(course, advance(course, key, walk, looks))
    course, walk = _start_jit(settings, sys, point, key, reference)
    walk = in_chunks(
        lambda walk, until: _advance_jit(course, key, walk, jnp.int32(until)),
        walk,
        lambda walk: walk.look,
        looks,
        chunk=looks // 10,
        unit="looks",
        progress=progress,
        checkpoint=checkpoint,
    )
    return _read_jit(course, walk)


def _start(settings, sys, point, key, reference) -> tuple[Course, Walk]:
    course, pooled = lay_out(settings, sys, point, key, reference)
    return course, begin(course, key, pooled)


_start_jit = jax.jit(_start, static_argnums=0)
_advance_jit = jax.jit(advance)


def _read(course: Course, walk: Walk) -> Estimate:
    """Reweight the frozen runs."""
    settings = course.config.settings
    shape = (settings.measure, settings.n_runs, settings.walkers)
    split = lambda x: jnp.moveaxis(x.reshape(shape), 1, 0)
    value = split(walk.value)

    def look_up(log_g, v):
        levels = course.levels._replace(log_g=log_g)
        return weigh(levels, v, course.config.log), place(levels, v, course.config.log)

    phi, index = jax.vmap(look_up)(walk.log_g, value)
    beta = jnp.asarray(course.point.beta, value.dtype)
    if course.config.store_energy:
        energy = split(walk.energy)
    else:
        # at beta = 0 the path knows nothing of U: nan, so that no other beta is answered
        energy = jnp.where(beta > 0, value / jnp.where(beta > 0, beta, 1.0), jnp.nan)
    mass = jnp.asarray(course.start.log_mass, value.dtype)
    nodes, log_mass = _bin_masses(course, phi, index, mass)
    density = DensityOfStates(
        levels=nodes,
        log_mass=log_mass,
        histogram=walk.histogram,
        round_trips=jnp.sum(walk.crossings // 2),
        flags=_flags(course, walk, value),
        value=value,
        energy=energy,
        log_weight=phi,
        low=course.levels.low,
        point=course.point,
        on_prior=jnp.asarray(not course.config.store_energy),
        measure_mass=mass,
        inefficiency=jnp.zeros(settings.n_runs, value.dtype),
    )
    found = runs_at(density, beta, jnp.zeros_like(beta))
    density = density._replace(inefficiency=found.inefficiency)
    return _combine(course, walk, density, found)


def _combine(course: Course, walk: Walk, density: DensityOfStates, found: RunMoments):
    """The runs as one estimate."""
    settings, runs = course.config.settings, course.config.settings.n_runs
    log_z, mass = found.pooled.log_z, density.measure_mass
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    within = jnp.sqrt(jnp.mean(found.variance) / runs)
    stderr = jnp.maximum(t_factor(runs) * jnp.sqrt(between / runs), within)
    n_eff = jnp.sum(found.pooled.n_eff)
    flags, gone = verdict(density, found, within, n_eff)
    value = logsumexp(log_z) - jnp.log(runs) + mass
    gone = gone | ~jnp.isfinite(value)
    norm = logsumexp(density.log_weight, axis=(1, 2))
    split = lambda x: jnp.moveaxis(
        x.reshape(settings.blocks, runs, settings.walkers, *x.shape[2:]), 1, 0
    )
    merge = lambda x: split(x).reshape(runs * settings.blocks * settings.walkers, *x.shape[2:])
    log_w = (split(walk.log_total) - norm[:, None, None]).ravel()
    per_look = settings.moves * course.kernel.meta.gradients_per_step + 1
    looks = settings.learn + settings.measure
    parts = FlatParts(
        point=course.point,
        samples=jax.tree.map(merge, walk.kept),
        log_weights=log_w - logsumexp(log_w),
        runs_log_z=log_z + mass,
        log_mass=mass,
        n_gradients=jnp.asarray(course.config.size * looks * per_look),
        density=density,
    )
    return Estimate(
        jnp.where(gone, jnp.nan, value),
        jnp.where(gone, jnp.inf, stderr),
        jnp.where(gone, jnp.inf, within),
        n_eff,
        flags | raise_flags((Flag.NONFINITE, ~jnp.isfinite(value))),
        parts,
    )


_read_jit = jax.jit(_read)


def _bin_masses(course: Course, phi: Array, index: Array, mass: Array):
    """Energies of the nodes, and the reweighted mass in each bin, runs pooled."""
    bins, levels = course.config.settings.bins, course.levels
    y = jnp.linspace(0, 1, bins, dtype=phi.dtype) * levels.top
    value = levels.low + (jnp.expm1(y) if course.config.log else y)
    if not course.config.store_energy:
        beta = jnp.asarray(course.point.beta, phi.dtype)
        value = value / jnp.where(beta > 0, beta, 1.0)
    flat = (phi - logsumexp(phi, axis=(1, 2), keepdims=True)).ravel()
    top = jax.ops.segment_max(flat, index.ravel(), bins)
    seen = jnp.isfinite(top)
    top = jnp.where(seen, top, 0.0)
    total = jnp.zeros(bins, phi.dtype).at[index.ravel()].add(jnp.exp(flat - top[index.ravel()]))
    runs = course.config.settings.n_runs
    inside = top + jnp.log(jnp.where(seen, total, 1.0)) - jnp.log(runs) + mass
    return value, jnp.where(seen, inside, -jnp.inf)


def _flags(course: Course, walk: Walk, value: Array) -> Array:
    """What is wrong whatever the temperature."""
    settings = course.config.settings
    known = jnp.any(walk.visited, axis=0)
    share = jnp.mean(walk.histogram, axis=0) * jnp.sum(known)
    ends = jnp.sum(known) > 1
    moving = tunable(course.kernel)
    wrong = (walk.acceptance < 0.15) | (walk.acceptance > 0.98)
    energy = jnp.max(jnp.where(jnp.isfinite(value), jnp.abs(value), 0.0), axis=(0, 2))
    lowest = jnp.maximum(jnp.max(jnp.abs(course.levels.low)), 0.0)
    ulp = jnp.finfo(value.dtype).eps * jnp.minimum(lowest, jnp.max(energy))
    walls = jnp.any(~jnp.isfinite(value))
    return walk.flags | raise_flags(
        (Flag.FEW_RUNS, settings.n_runs < 4),
        (Flag.NOT_FLAT, jnp.min(jnp.where(known, share, 1.0)) < 0.2),
        (Flag.NO_ROUND_TRIPS, ends & (jnp.sum(walk.crossings // 2) < 10)),
        (Flag.BAD_ACCEPTANCE, moving & wrong),
        (Flag.FLOAT_RESOLUTION, ulp > 0.01),
        (Flag.NONFINITE, moving & walls & (course.kernel.meta.gradients_per_step > 0)),
    )
