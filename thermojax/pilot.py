"""A small tempered population that lays out a path: where to stop, how to move there.

The pilot is one population of adaptive tempered SMC. Its rungs are steps of equal effective
sample size, hence of equal thermodynamic length

    Lambda = int sqrt(Var V) d lam,   Lambda per rung ~ sqrt(-log target),

also where Var V is infinite under the reference. Nodes are put at equal fractions of the
rungs, with the pilot's step sizes and scales, and then frozen: what is sampled with them
afterwards knows nothing of the pilot's particles.

Cost: n particles times rungs times moves. It lies where the pilot missed a mode: the path
is then laid out for the modes it saw.

Source: specification of the core, sections 3.2 and 3.3 (derived here).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax import smc as tempering
from thermojax.adaptation import spread_of
from thermojax.dynamics.kernel import Stream, stream
from thermojax.estimators.estimate import Flag
from thermojax.estimators.pareto import pareto_shape
from thermojax.smc import SMC, Path, Population
from thermojax.system import Point, reduced
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "Pilot",
    "Schedule",
    "average",
    "lags",
    "lay_out",
    "parameters",
    "pilot",
    "pilot_settings",
    "run_keys",
    "tile_for",
    "visit",
]


class Pilot(NamedTuple):
    """A population at the end of its climb, and what it looked like on every rung.

    Attributes:
        population: see `smc.Population`; its trace holds the ladder.
        step_size: [rungs] kernel step after the moves of each rung.
        scale: spread of every parameter [rungs, ...], () where the kernel has none.
        positions: theta [rungs, m, ...] of some particles, () where none were asked for.
    """

    population: Population
    step_size: Array
    scale: PyTree
    positions: PyTree


class Schedule(NamedTuple):
    """A frozen path: K nodes after the reference.

    Attributes:
        lam: [K] path parameter, increasing to 1.
        step_size: [K] kernel step.
        scale: spread of every parameter [K, ...], () where the kernel has none.
    """

    lam: Array
    step_size: Array
    scale: PyTree


def pilot_settings(settings: Any) -> SMC:
    """Settings of the pilot of a method with `pilot`, `target`, `max_rungs` and `kernel`."""
    return SMC(
        n=settings.pilot,
        n_runs=1,
        target=settings.target,
        max_rungs=settings.max_rungs,
        kernel=settings.kernel,
    )


def run_keys(key: Key, n_runs: int) -> Key:
    """[R] keys of the runs that follow the pilots."""
    return jax.random.split(stream(key, Stream.SWAP), n_runs)


def pilot(path: Path, key: Key, keep: int = 0) -> Pilot:
    """Climb, and write down the way.

    Args:
        path: from `smc.prepare`; its settings are the pilot's.
        key: typed key.
        keep: particles of every rung whose positions are kept.
    """
    smc = path.config.smc
    some = jnp.arange(keep) * smc.n // max(keep, 1)  # neighbours may be copies

    def record(pop):
        place = pop.walkers.position
        scale = spread_of(place) if tempering.tunable(path.kernel) else ()
        kept = jax.tree.map(lambda x: x[some], place) if keep else ()
        return pop.step_size, scale, kept

    def rung(pop, k):
        pop = tempering.advance(path, pop, k + 1)
        return pop, record(pop)

    first = tempering.start(path, key)
    last, rows = jax.lax.scan(rung, first, jnp.arange(smc.max_rungs))
    rows = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), record(first), rows)
    return Pilot(last, *rows)


def lay_out(found: Pilot, nodes: int) -> Schedule:
    """Nodes at equal thermodynamic length along one pilot's ladder; the last is lam = 1."""
    pop = found.population
    place = pop.rung * jnp.arange(1, nodes + 1) / nodes
    row = jnp.minimum(jnp.ceil(place).astype(jnp.int32), pop.rung)
    before = jnp.maximum(row - 1, 0)
    share = place - before
    lam = (1 - share) * pop.trace.lam[before] + share * pop.trace.lam[row]
    scale = jax.tree.map(lambda x: x[row], found.scale)
    return Schedule(lam.at[-1].set(1.0), found.step_size[row], scale)


def average(schedules: Schedule) -> Schedule:
    """One schedule for all runs, from theirs with a leading axis [R]."""
    rms = lambda x: jnp.sqrt(jnp.mean(x**2, axis=0))
    return Schedule(
        lam=jnp.mean(schedules.lam, axis=0),
        step_size=jnp.exp(jnp.mean(jnp.log(schedules.step_size), axis=0)),
        scale=jax.tree.map(rms, schedules.scale),
    )


def parameters(path: Path, node: Schedule) -> Any:
    """Kernel parameters at one node, a `Schedule` without its leading axis."""
    if not tempering.tunable(path.kernel):
        return path.kernel.params
    return path.kernel.params._replace(step_size=node.step_size, scale=node.scale)


def visit(
    path: Path, node: Schedule, walker: Any, key: Key, turn: ArrayLike, moves: int
) -> tuple[Any, Array, Array]:
    """A walker after `moves` kernel steps at one node.

    Args:
        path: whose kernel moves it.
        node: a `Schedule` without its leading axis.
        walker: kernel state.
        key: the walker's own.
        turn: how often it was moved before; noise is a function of (key, turn, step).
        moves: kernel steps.

    Returns:
        The walker, the sum of its acceptance, and WRONG_BLOCKS if the kernel raised it.
    """
    at, params = Point(node.lam, path.point), parameters(path, node)

    def move(j, carry):
        walker, total, flags = carry
        here = jax.random.fold_in(key, turn * moves + j)
        walker, info = path.kernel.step(here, walker, at, params)
        wrong = info.flags & jnp.uint32(Flag.WRONG_BLOCKS)
        return walker, total + info.acceptance, flags | wrong

    start = (walker, jnp.zeros_like(walker.energy), jnp.zeros((), jnp.uint32))
    return jax.lax.fori_loop(0, moves, move, start)


def tile_for(path: Path, size: int) -> int:
    """Tile of `size` walkers along the path: all of them if its populations move as one."""
    tile = path.config.tile
    return size if tile == path.config.smc.n else math.gcd(tile, size)


def lags(path: Path, positions: PyTree, log_weights: Array, walls: Array) -> Array:
    """Whether weighted samples of the target break the identity <theta . grad u> = d.

    It knows nothing of log Z, so that samples which lag behind the path break it even where
    all runs lag alike: by more than five standard errors (the larger of the spread over runs
    and that over samples), or with so heavy a tail (Pareto k > 0.7) that no mean is left.

    Args:
        path: whose target the samples are from.
        positions: theta [R, n, ...].
        log_weights: [R, n].
        walls: True where energies are infinite somewhere: the identity gains a boundary
            term there, and nothing is said.
    """
    sys, point = path.system, path.point

    def one(theta):
        slope = jax.grad(lambda t: reduced(sys, t, point))(theta)
        products = jax.tree.map(lambda x, g: jnp.sum(x * g), theta, slope)
        return sum(jax.tree.leaves(products))

    tile = tile_for(path, log_weights.shape[1])
    values = jax.lax.map(lambda p: tempering.map_tiles(one, p, tile), positions)
    size = sum(leaf[0, 0].size for leaf in jax.tree.leaves(positions))
    weight = jnp.exp(log_weights - logsumexp(log_weights))
    excess = jnp.where(weight > 0, values - size, 0.0)
    mean = jnp.sum(weight * excess)
    by_sample = jnp.sqrt(jnp.sum((weight * (excess - mean)) ** 2))
    runs = jnp.sum(weight, axis=1)
    parts = jnp.sum(weight * excess, axis=1) - runs * mean
    count = len(runs)
    by_run = jnp.sqrt(jnp.sum(parts**2) * count / max(count - 1, 1))
    score = jnp.abs(mean) / jnp.maximum(by_run, by_sample)
    tail = pareto_shape((log_weights + jnp.log(jnp.abs(values - size))).ravel())
    return ((score > 5) | (tail > 0.7)) & ~walls
