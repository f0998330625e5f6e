"""Metropolised chains at the nodes of a path: settings, starts, draws, records.

Every run starts its chains from a pilot population of its own (`thermojax.pilot`), at nodes
that all runs share; all nodes of a run move side by side. The whole is one pytree that a
compiled loop takes from draw to draw; where it stops in between changes no number.

Source: specification of the core, section 3.3 (derived there).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.dynamics.kernel import Kernel, Stream, stream
from thermojax.ensembles import map_tiles
from thermojax.estimators.estimate import union
from thermojax.partition import each_run
from thermojax.pilot import (
    Pilot,
    Schedule,
    average,
    lay_out,
    pilot,
    pilot_settings,
    run_keys,
    tile_for,
    visit,
)
from thermojax.smc import Path
from thermojax.system import Point, System
from thermojax.typing import Array, Key, PyTree

__all__ = ["TI", "Chains", "Draws", "Records", "advance", "begin", "gather"]


@dataclasses.dataclass(frozen=True)
class TI:
    """Settings of thermodynamic integration; see the module docstring.

    Attributes:
        nodes: nodes after the reference.
        chains: chains per node and run.
        n_runs: independent runs, whose spread is the error bar.
        burn: draws of every chain that are thrown away.
        draws: draws of every chain that count.
        moves: kernel steps between two draws.
        pilot: particles of every run's pilot population.
        target: effective sample size, as a fraction, that each step of a pilot keeps.
        max_rungs: length of a pilot's ladder at most.
        kernel: `system -> Kernel`, metropolised; HMC by default, `tj.gibbs_flip` site by
            site over binary states.
    """

    nodes: int = 32
    chains: int = 32
    n_runs: int = 8
    burn: int = 16
    draws: int = 16
    moves: int = 4
    pilot: int = 128
    target: float = 0.9
    max_rungs: int = 256
    kernel: Callable[[System], Kernel] | None = None

    def __post_init__(self):
        least = {"nodes": 3, "chains": 2, "n_runs": 1, "burn": 0, "draws": 4, "moves": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {low}")
        if self.chains > self.pilot:
            raise ValueError(
                f"chains={self.chains} start from the pilot's particles: raise "
                f"pilot={self.pilot} to at least as many"
            )
        pilot_settings(self)


class Records(NamedTuple):
    """What is written down of one run.

    Attributes:
        reference: V [c * s] and U of exact draws of the reference.
        chains: V [s, K * c] and U of the draws that count.
        samples: theta [s, c, ...] at the target.
    """

    reference: tuple[Array, Any]
    chains: tuple[Array, Any]
    samples: PyTree


class Chains(NamedTuple):
    """Chains of all runs [R, K * c, ...] between two draws.

    Attributes:
        draw: [R] int32 draws behind them.
        walkers: kernel states, node by node.
        acceptance: [R, K * c] sum of the acceptance over draws.
        flags: [R] uint32.
        records: `Records` with a leading axis [R].
    """

    draw: Array
    walkers: Any
    acceptance: Array
    flags: Array
    records: Records


def begin(settings: TI, path: Path, key: Key, mesh: Any) -> tuple[Pilot, Schedule, Chains]:
    """Pilots, their common nodes, and every run's chains where its own pilot was."""
    first = jax.random.split(stream(key, Stream.PROBE), settings.n_runs)
    scout = lambda path, key: pilot(path, key, settings.chains)
    scouts = each_run(path, scout, first, mesh)
    plan = average(jax.vmap(lambda p: lay_out(p, settings.nodes))(scouts))
    starts = jax.vmap(lambda p: _starts(p, plan))(scouts)
    run = lambda path, x, plan: _place(settings, path, *x, plan)
    chains = each_run(path, run, (run_keys(key, settings.n_runs), starts), mesh, (plan,))
    return scouts._replace(positions=()), plan, chains


def advance(
    settings: TI, path: Path, plan: Schedule, key: Key, chains: Chains, until: Any, mesh: Any
) -> Chains:
    """All runs up to draw `until`."""
    run = lambda path, x, *shared: _sample(settings, path, *x, *shared)
    shared = (plan, chains.draw[0], until)
    return each_run(path, run, (run_keys(key, settings.n_runs), chains), mesh, shared)


def _starts(found: Pilot, plan: Schedule) -> PyTree:
    """Positions [K, chains, ...] of the run's own pilot, just beyond every node."""
    pop = found.population
    on = jnp.arange(len(pop.trace.lam)) <= pop.rung
    ladder = jnp.where(on, pop.trace.lam, jnp.inf)
    row = jnp.minimum(jnp.searchsorted(ladder, plan.lam), pop.rung)
    return jax.tree.map(lambda x: x[row], found.positions)


def _seen(path: Path, walker: Any) -> tuple[Array, Any]:
    """V, and U where it is asked for."""
    if not path.config.store_energy:
        return walker.energy, ()
    return walker.energy, path.system.energy(walker.position, path.point.control)


def _place(settings: TI, path: Path, key: Key, starts: PyTree, plan: Schedule) -> Chains:
    """One run's chains at all nodes, exact draws of the reference, room for the records."""
    k, c, s = settings.nodes, settings.chains, settings.draws
    kernel, draws = path.kernel, stream(key, Stream.INIT)

    def reference(i):
        at = Point(jnp.zeros((), plan.lam.dtype), path.point)
        theta = kernel.sample(jax.random.fold_in(draws, i), at)
        return _seen(path, kernel.init(theta, at))

    def chain(args):
        node, theta = args
        return kernel.init(theta, Point(plan.lam[node], path.point))

    flat = jax.tree.map(lambda x: x.reshape(k * c, *x.shape[2:]), starts)
    at_node = jnp.repeat(jnp.arange(k), c)
    walkers = map_tiles(chain, (at_node, flat), tile_for(path, k * c))
    exact = map_tiles(reference, jnp.arange(c * s), tile_for(path, c * s))
    room = lambda x, size: jnp.zeros((s, size, *x.shape[1:]), x.dtype)
    return Chains(
        draw=jnp.int32(0),
        walkers=walkers,
        acceptance=jnp.zeros_like(walkers.energy),
        flags=jnp.uint32(0),
        records=Records(
            reference=exact,
            chains=jax.tree.map(lambda x: room(x, k * c), exact),
            samples=jax.tree.map(lambda x: room(x, c), flat),
        ),
    )


def _sample(
    settings: TI, path: Path, key: Key, chains: Chains, plan: Schedule, first: Any, until: Any
) -> Chains:
    """One run's chains from draw `first` to draw `until`."""
    k, c = settings.nodes, settings.chains
    moves, tile = stream(key, Stream.MOVES), tile_for(path, k * c)
    ids = jnp.arange(k * c)

    def draw(m, chains):
        def one(args):
            i, walker = args
            node = jax.tree.map(lambda x: x[i // c], plan)
            mine = jax.random.fold_in(moves, i)
            walker, total, flags = visit(path, node, walker, mine, m, settings.moves)
            return walker, _seen(path, walker), total, flags

        walkers, seen, total, flags = map_tiles(one, (ids, chains.walkers), tile)
        # what the burn-in writes is written over
        row = jnp.maximum(m - settings.burn, 0)
        put = lambda rows, x: rows.at[row].set(x[-rows.shape[1] :])
        records = chains.records
        return Chains(
            draw=m + 1,
            walkers=walkers,
            acceptance=chains.acceptance + total,
            flags=chains.flags | union(flags),
            records=records._replace(
                chains=jax.tree.map(put, records.chains, seen),
                samples=jax.tree.map(put, records.samples, walkers.position),
            ),
        )

    return jax.lax.fori_loop(first, until, draw, chains)


class Draws(NamedTuple):
    """All draws, every chain's side by side.

    Attributes:
        value: V [R, K+1, c * s], row 0 of exact draws of the reference.
        energy: U likewise, where it is asked for.
        samples: theta [R, c * s, ...] at the target.
        acceptance: [R, K] mean over chains and draws.
    """

    value: Array
    energy: Any
    samples: PyTree
    acceptance: Array


def gather(settings: TI, chains: Chains) -> Draws:
    """The records with every chain's draws side by side."""
    k, c, s = settings.nodes, settings.chains, settings.draws
    records, runs = chains.records, settings.n_runs

    def rows(exact, drawn):
        nodes = jnp.swapaxes(drawn, 1, 2).reshape(runs, k, c * s)
        return jnp.concatenate([exact[:, None], nodes], axis=1)

    value, energy = jax.tree.map(rows, records.reference, records.chains)
    side = lambda x: jnp.swapaxes(x, 1, 2).reshape(runs, c * s, *x.shape[3:])
    steps = (settings.burn + s) * settings.moves
    mean = jnp.mean(chains.acceptance.reshape(runs, k, c), axis=2) / steps
    return Draws(value, energy, jax.tree.map(side, records.samples), mean)
