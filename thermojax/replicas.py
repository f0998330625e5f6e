"""The mechanism of replica exchange: settings, one round, warm-up, records.

One round: `moves` metropolised kernel steps of every walker at its own temperature; an exact
draw from the reference for the walker in the hottest slot; one even-odd sweep of swaps. What
is swapped is the label (`slot`), never a configuration, and a walker's noise belongs to the
walker: every random number is a function of (key, run, stream, round, walker).

The whole computation is one pytree that a compiled loop takes from round to round; where the
loop stops in between changes no number.

Source: specification of the core, sections 2.9, 2.10 and 6.2 (derived here).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax import ladder
from thermojax import smc as tempering
from thermojax.adaptation import spread_of
from thermojax.checkpoints import Store, in_chunks
from thermojax.dynamics.kernel import Kernel, Stream, stream
from thermojax.dynamics.leaves import scales
from thermojax.ensembles import map_tiles, wide_tile
from thermojax.estimators.estimate import Flag, raise_flags, union
from thermojax.ladder import Learned, Tuning
from thermojax.smc import tunable
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = ["Records", "ReplicaExchange", "Route", "State", "make_route", "simulate"]

ADAPTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
CHUNK = 200


@dataclasses.dataclass(frozen=True)
class ReplicaExchange:
    """Settings of replica exchange; see the module docstring.

    Attributes:
        n_rungs: slots of the ladder; twice the barrier Lambda is a good number.
        n_runs: independent ladders, whose spread is the error bar.
        n_rounds: measured rounds.
        warmup: rounds before that, while ladder, step sizes and scales are tuned.
        moves: kernel steps of every walker between two sweeps of swaps.
        every: rounds between two kept positions.
        estimator: "bar" from slot to slot, or "mbar" over all slots of a run (outside jit).
        kernel: `system -> Kernel`, metropolised; HMC by default, `tj.gibbs_flip` site by
            site over binary states.
        tile: walkers that move together; see `wide_tile`.
    """

    n_rungs: int = 16
    n_runs: int = 8
    n_rounds: int = 1600
    warmup: int = 640
    moves: int = 2
    every: int = 4
    estimator: str = "bar"
    kernel: Callable[[System], Kernel] | None = None
    tile: int | None = None

    def __post_init__(self):
        least = {"n_rungs": 2, "n_runs": 1, "n_rounds": 64, "moves": 1, "every": 1}
        for name, bound in (*least.items(), ("warmup", 64)):
            if getattr(self, name) < bound:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {bound}")
        if self.n_rounds % self.every:
            raise ValueError(
                f"n_rounds={self.n_rounds} must be a multiple of every={self.every}"
            )
        if self.estimator not in ("bar", "mbar"):
            raise ValueError(f"estimator={self.estimator!r} is unknown: use 'bar' or 'mbar'")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """What the compiled program depends on."""

    config: ReplicaExchange
    refresh: bool
    place: bool
    tile: int


class Route(NamedTuple):
    """Kernel, what it holds fixed, what is observed, static settings; a pytree."""

    kernel: Kernel
    control: PyTree
    observe: Any
    static: _Static

    def at(self, beta: ArrayLike) -> Point:
        """Where the walkers of one slot are."""
        return Point(beta, self.control)


class Records(NamedTuple):
    """Records of the measured rounds, time first so that a round is one piece of memory."""

    energies: Array
    observed: PyTree
    positions: PyTree
    slots: Array
    rejected: Array
    tried: Array
    acceptance: Array
    trips: Array
    flags: Array


class State(NamedTuple):
    """Everything between two rounds: this is what a checkpoint holds."""

    walkers: Any
    slot: Array
    heading: Array
    round: Array
    key: Key
    tuning: Tuning
    learned: Learned
    kept: Any


def _rows(x: Array, index: Array) -> Array:
    """x [R, K, ...] reordered along K by index [R, K]."""
    return jax.vmap(lambda a, i: a[i])(x, index)


def _by_slot(state: State) -> PyTree:
    """Positions of every slot, [R, K, ...]."""
    order = jnp.argsort(state.slot, axis=1)
    return jax.tree.map(lambda x: _rows(x, order), state.walkers.position)


def _flat(fn: Callable, tree: PyTree, tile: int) -> PyTree:
    """`fn` over leaves [R, K, ...], tiled."""
    shape = jax.tree.leaves(tree)[0].shape[:2]
    merged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
    out = map_tiles(fn, merged, tile)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), out)


def _start(route: Route, key: Key, betas: Any, target: Any, positions: PyTree) -> State:
    """Walkers in their slots, a first ladder, nothing learned yet."""
    kernel, static = route.kernel, route.static
    config = static.config
    runs, count = config.n_runs, config.n_rungs
    keys = jax.vmap(lambda r: jax.random.fold_in(key, r))(jnp.arange(runs, dtype=jnp.uint32))
    ids = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (runs, count))
    across = jnp.broadcast_to(keys[:, None], (runs, count))

    def place(args):
        mine, walker, theta = args
        here = jax.random.fold_in(stream(mine, Stream.INIT), walker)
        if positions is None:
            theta = kernel.sample(stream(here, Stream.INIT), route.at(0.0))
        return kernel.init(theta, route.at(0.0), stream(here, Stream.NOISE))

    walkers = _flat(place, (across, ids, positions), static.tile)
    energy = walkers.energy
    if betas is None:
        betas = ladder.first_ladder(energy.ravel(), target, count)
    betas = jnp.asarray(betas, energy.dtype)
    step, scale = jnp.zeros_like(betas), ()
    if tunable(kernel):
        step = jnp.broadcast_to(jnp.log(kernel.params.step_size), betas.shape)
        scale = _first_scale(kernel, walkers.position, count, positions is None)
    tuning = Tuning(betas, jnp.asarray(step, energy.dtype), scale)
    state = State(
        walkers, ids, jnp.zeros_like(ids), jnp.int32(0), keys, tuning, ladder.blank(tuning), ()
    )
    return state._replace(kept=_empty(route, state))


def _first_scale(kernel: Kernel, positions: PyTree, count: int, drawn: bool) -> PyTree:
    """Of every slot: the spread of the reference, or the kernel's own scale."""
    merged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), positions)
    if drawn:
        one = spread_of(merged)
    else:
        one = scales(kernel.params.scale, jax.tree.map(lambda x: x[0], merged))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), one)


def _empty(route: Route, state: State) -> Records:
    """Room for the records of all measured rounds."""
    config = route.static.config
    runs, count = state.slot.shape
    rounds = config.n_rounds
    first = jax.tree.map(lambda x: x[:, 0], state.walkers.position)
    zeros = lambda lead, x: jnp.zeros((lead, *x.shape), x.dtype)
    seen = jax.eval_shape(lambda s: _observe(route, s), state)
    energy = state.walkers.energy
    return Records(
        energies=zeros(rounds, energy),
        observed=jax.tree.map(lambda x: zeros(rounds, x), seen),
        positions=jax.tree.map(lambda x: zeros(rounds // config.every, x), first),
        slots=zeros(rounds, state.slot),
        rejected=jnp.zeros(count - 1, energy.dtype),
        tried=jnp.zeros(count - 1, energy.dtype),
        acceptance=jnp.zeros(count, energy.dtype),
        trips=jnp.zeros((runs, count), jnp.int32),
        flags=jnp.zeros((), jnp.uint32),
    )


def _observe(route: Route, state: State) -> PyTree:
    """What is observed of every slot, [R, K, ...]."""
    if route.observe is None:
        return ()
    seen = _flat(route.observe, state.walkers.position, route.static.tile)
    order = jnp.argsort(state.slot, axis=1)
    return jax.tree.map(lambda x: _rows(x, order), seen)


class _Swept(NamedTuple):
    """What one round says about itself: by slot [R, K], by edge [R, K-1]."""

    acceptance: Array
    chance: Array
    tried: Array
    closed: Array
    flags: Array


def _move(route: Route, state: State) -> tuple[Any, Array, Array]:
    """Kernel steps of every walker at its slot; acceptance [R, K] by walker, flags."""
    kernel, static = route.kernel, route.static
    moves, tuning = static.config.moves, state.tuning
    runs, count = state.slot.shape
    walker = jnp.broadcast_to(jnp.arange(count, dtype=jnp.uint32), (runs, count))
    keys = jnp.broadcast_to(state.key[:, None], (runs, count))

    def one(args):
        key, walker, slot, state_ = args
        params = kernel.params
        if tunable(kernel):
            scale = jax.tree.map(lambda x: x[slot], tuning.scale)
            params = params._replace(step_size=jnp.exp(tuning.log_step[slot]), scale=scale)
        base = stream(key, Stream.MOVES)

        def body(j, carry):
            moved, total, flags = carry
            step = (state.round * moves + j).astype(jnp.uint32)
            here = jax.random.fold_in(jax.random.fold_in(base, step), walker)
            moved, info = kernel.step(here, moved, route.at(tuning.betas[slot]), params)
            wrong = info.flags & jnp.uint32(Flag.WRONG_BLOCKS)
            return moved, total + info.acceptance, flags | wrong

        none = (jnp.zeros_like(state_.energy), jnp.zeros((), jnp.uint32))
        moved, total, flags = jax.lax.fori_loop(0, moves, body, (state_, *none))
        return moved, total / moves, flags

    walkers, acceptance, flags = _flat(
        one, (keys, walker, state.slot, state.walkers), static.tile
    )
    return walkers, acceptance, union(flags)


def _refresh(route: Route, state: State, walkers: Any) -> Any:
    """An exact draw from the reference for the walker in the hottest slot of each run."""
    kernel = route.kernel

    def one(key, slot, walkers):
        walker = jnp.argmin(slot).astype(jnp.uint32)
        here = jax.random.fold_in(stream(key, Stream.INIT), state.round.astype(jnp.uint32) + 1)
        here = jax.random.fold_in(stream(here, Stream.INIT), walker)
        at = route.at(state.tuning.betas[0])
        theta = kernel.sample(stream(here, Stream.INIT), at)
        fresh = kernel.init(theta, at, stream(here, Stream.NOISE))
        return jax.tree.map(lambda x, f: x.at[walker].set(f), walkers, fresh)

    return jax.vmap(one)(state.key, state.slot, walkers)


def _round(route: Route, state: State) -> tuple[State, _Swept]:
    """Moves, refreshment, swaps, round trips."""
    walkers, acceptance, flags = _move(route, state)
    if route.static.refresh:
        walkers = _refresh(route, state, walkers)
    energy = jnp.where(jnp.isnan(walkers.energy), jnp.inf, walkers.energy)
    acceptance = _rows(acceptance, jnp.argsort(state.slot, axis=1))
    top = state.slot.shape[1] - 1

    def sweep(key, slot, energy, heading):
        here = jax.random.fold_in(stream(key, Stream.SWAP), state.round.astype(jnp.uint32))
        coins = jax.random.uniform(here, (top,), energy.dtype)
        slot, chance, tried = ladder.swap(
            slot, energy, state.tuning.betas, coins, state.round % 2
        )
        return slot, chance, tried, *ladder.turn(slot, heading, top)

    slot, chance, tried, heading, closed = jax.vmap(sweep)(
        state.key, state.slot, energy, state.heading
    )
    state = state._replace(walkers=walkers, slot=slot, heading=heading, round=state.round + 1)
    return state, _Swept(acceptance, chance, tried, closed, flags)


def _stages(warmup: int) -> tuple[int, ...]:
    """Rounds at which the ladder changes; the last quarter only settles the step sizes."""
    return tuple(int(part * warmup) for part in ADAPTIONS)


def _learn(route: Route, state: State, swept: _Swept) -> tuple[Tuning, Learned]:
    """After a round of warm-up: steps follow the acceptance, stages end in a new ladder."""
    warmup = route.static.config.warmup
    stops = jnp.asarray((0, *_stages(warmup)))
    now = state.round - 1
    since = now - stops[jnp.searchsorted(stops, now, side="right") - 1]
    tuning, learned = state.tuning, state.learned
    runs = swept.chance.shape[0]
    chance = jnp.where(swept.tried, swept.chance, 0.0)
    learned = learned._replace(
        swaps=learned.swaps + jnp.sum(chance, axis=0),
        tried=learned.tried + jnp.sum(swept.tried, axis=0),
    )
    if tunable(route.kernel):
        miss = jnp.mean(swept.acceptance, axis=0) - route.kernel.meta.target_acceptance
        gain = (1 + since).astype(miss.dtype) ** -0.6
        log_step = tuning.log_step + 1.5 * gain * miss
        learned = ladder.learn_spread(learned, _by_slot(state), since * runs)
        # frozen at the average over the last eighth
        late = state.round > warmup - warmup // 8
        total = learned.log_step + jnp.where(late, log_step, 0.0)
        done = state.round == warmup
        log_step = jnp.where(done, total / (warmup // 8), log_step)
        learned = learned._replace(log_step=total)
        tuning = tuning._replace(log_step=log_step)

    def end_stage(pair: tuple[Tuning, Learned]) -> tuple[Tuning, Learned]:
        new = ladder.adapt(*pair, (since + 1) * runs, place=route.static.place)
        return new, ladder.blank(new)

    ends = jnp.any(state.round == stops[1:])
    return jax.lax.cond(ends, end_stage, lambda pair: pair, (tuning, learned))


def _record(route: Route, state: State, swept: _Swept) -> Records:
    """The records with one round more; what warm-up writes is written over, or counts 0."""
    config = route.static.config
    t = jnp.maximum(state.round - 1 - config.warmup, 0)
    on = state.round > config.warmup
    kept, order = state.kept, jnp.argsort(state.slot, axis=1)
    put = lambda rows, x: rows.at[t].set(x)
    add = lambda total, x: total + jnp.where(on, x, 0).astype(total.dtype)
    cold = lambda x: jax.vmap(lambda a, i: a[i])(x, order[:, -1])
    last = jax.tree.map(cold, state.walkers.position)
    energy = _rows(state.walkers.energy, order)
    lost = jnp.isnan(energy) | (jnp.isinf(energy) & (jnp.arange(energy.shape[1]) > 0))
    flags = swept.flags | raise_flags((Flag.NONFINITE, lost))
    rejected = jnp.where(swept.tried, 1 - swept.chance, 0.0)
    return Records(
        energies=put(kept.energies, jnp.where(jnp.isnan(energy), jnp.inf, energy)),
        observed=jax.tree.map(put, kept.observed, _observe(route, state)),
        positions=jax.tree.map(
            lambda rows, x: rows.at[t // config.every].set(x), kept.positions, last
        ),
        slots=put(kept.slots, state.slot),
        rejected=add(kept.rejected, jnp.sum(rejected, axis=0)),
        tried=add(kept.tried, jnp.sum(swept.tried, axis=0)),
        acceptance=add(kept.acceptance, jnp.mean(swept.acceptance, axis=0)),
        trips=add(kept.trips, swept.closed),
        flags=kept.flags | jnp.where(on, flags, 0),
    )


def _advance(route: Route, state: State, until: ArrayLike) -> State:
    """Rounds up to `until`; one loop for both phases, so that kernels compile once."""
    warmup = route.static.config.warmup

    def body(state: State) -> State:
        state, swept = _round(route, state)
        tuning, learned = jax.lax.cond(
            state.round <= warmup,
            lambda s: _learn(route, s, swept),
            lambda s: (s.tuning, s.learned),
            state._replace(kept=()),
        )
        kept = _record(route, state, swept)
        return state._replace(tuning=tuning, learned=learned, kept=kept)

    return jax.lax.while_loop(lambda s: s.round < until, body, state)


_start_jit = jax.jit(_start)
_advance_jit = jax.jit(_advance)


def simulate(
    route: Route,
    key: Key,
    betas: Array | None,
    target: ArrayLike,
    positions: PyTree,
    progress: bool | Callable[[int, int], None],
    checkpoint: Store | None,
) -> State:
    """The whole computation, warm-up and measured rounds.

    Args:
        route: from `make_route`.
        key: typed key.
        betas: [K] ladder, or None for a first guess up to `target`.
        target: coldest inverse temperature of that guess.
        positions: first theta [R, K, ...], or None for exact draws from the base measure.
        progress: see `replica_exchange`.
        checkpoint: see `replica_exchange`.
    """
    config = route.static.config
    total = config.warmup + config.n_rounds
    if not is_concrete((route, key, betas, target, positions)):
        return _advance(route, _start(route, key, betas, target, positions), total)
    return in_chunks(
        lambda state, until: _advance_jit(route, state, jnp.int32(until)),
        _start_jit(route, key, betas, target, positions),
        lambda state: state.round,
        total,
        chunk=CHUNK,
        unit="rounds",
        progress=progress,
        checkpoint=checkpoint,
    )


def make_route(
    settings: ReplicaExchange,
    sys: System,
    control: PyTree,
    observe: Any,
    *,
    refresh: bool,
    place: bool,
) -> Route:
    """Kernel and static settings.

    Args:
        settings: see `ReplicaExchange`.
        sys: the path that is tempered.
        control: of every point along it.
        observe: `theta -> pytree` recorded of every slot, or None.
        refresh: the hottest slot is at beta = 0 and takes exact draws.
        place: warm-up moves the ladder.

    Raises:
        ValueError: an unadjusted kernel, a tile that does not divide the walkers.
    """
    kernel = tempering.SMC(kernel=settings.kernel).build(sys)
    walkers = settings.n_runs * settings.n_rungs
    tile = settings.tile
    if tile is None:
        tile = wide_tile(kernel, walkers)
    if walkers % tile:
        raise ValueError(f"n_runs * n_rungs = {walkers} must be a multiple of tile={tile}")
    # a Partial of a Partial would be hashed by identity, and compile again
    wrapped = observe is None or isinstance(observe, jax.tree_util.Partial)
    seen = observe if wrapped else jax.tree_util.Partial(observe)
    return Route(kernel, control, seen, _Static(settings, refresh, place, tile))
