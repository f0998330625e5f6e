"""Ensembles: a kernel for every walker, in tiles, over steps, into accumulators.

Walkers run in tiles of fixed size. The loop over tiles stands *outside* the loop over
steps, so that a tile stays in cache for a whole chunk; inside a tile one flat noise draw
per step serves all its walkers. A walker's random numbers depend on (base key, stream,
step, global walker id, parameter) and on nothing else: chunk length, ensemble size and
device count do not change a bit. The tile is part of a run's identity, because matrix
products round differently at different batch sizes.

Source: specification of the core, sections 4, 6.2, 6.3 and 7 (derived here).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.accumulators import Compensated, compensated_add
from thermojax.checkpoints import Store, store_of
from thermojax.dynamics.kernel import (
    Kernel,
    Ledger,
    LedgerSums,
    Stream,
    add_ledgers,
    add_move,
    no_moves,
    stream,
)
from thermojax.progress import reporter
from thermojax.system import Point
from thermojax.typing import Array, Key, PyTree, ShapeError, is_concrete

__all__ = ["EnsembleState", "auto_tile", "drive", "init_ensemble", "map_tiles", "run"]

_RESERVED = ("ledger", "acceptance", "flags", "trace")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EnsembleState:
    """All walkers of an ensemble.

    Attributes:
        walkers: kernel states with a leading axis [size].
        walker: uint32 [size] global walker ids, the root of their randomness.
        step: uint32 number of steps made; later runs continue the same noise.
        tile: static number of walkers that run together.
    """

    walkers: Any
    walker: Array
    step: Array
    tile: int = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        """Number of walkers."""
        return self.walker.shape[0]

    @property
    def position(self) -> PyTree:
        """theta of every walker, leading axis [size]."""
        return self.walkers.position

    @property
    def energy(self) -> Array:
        """[size] energies U."""
        return self.walkers.energy


def _fills_cache(kernel: Kernel) -> bool:
    """Whether the activations of many walkers' batches would leave a CPU's cache."""
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(kernel.step))
    return jax.default_backend() == "cpu" and numbers * kernel.meta.data_share >= 6_000


def auto_tile(kernel: Kernel, size: int) -> int:
    """Default tile: up to 4 walkers for large batches on a CPU, else up to 32; all on a GPU.

    A few walkers share one pass over the data, of which matrix products make use; the
    activations of many leave a CPU's cache.
    """
    if jax.default_backend() != "cpu":
        return size
    most = 4 if _fills_cache(kernel) else 32
    return next(tile for tile in range(min(most, size), 0, -1) if size % tile == 0)


def wide_tile(kernel: Kernel, size: int) -> int:
    """All walkers, or `auto_tile` where batches are large: for walkers that meet each step."""
    return auto_tile(kernel, size) if _fills_cache(kernel) else size


def map_tiles(fn: Callable, tree: PyTree, tile: int) -> PyTree:
    """`vmap(fn)` over the leading axis, `tile` entries at a time."""
    size = jax.tree.leaves(tree)[0].shape[0]
    if tile == 1 and size > 1:
        return jax.lax.map(fn, tree)
    if tile == size:
        return jax.vmap(fn)(tree)
    split = jax.tree.map(lambda x: x.reshape(size // tile, tile, *x.shape[1:]), tree)
    out = jax.lax.map(jax.vmap(fn), split)
    return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), out)


def init_ensemble(
    kernel: Kernel,
    key: Key,
    point: Point,
    size: int = 256,
    tile: int | None = None,
    *,
    positions: PyTree = None,
    first_walker: int = 0,
) -> EnsembleState:
    """Walkers drawn from the base measure, or placed at given positions.

    Args:
        kernel: the bath.
        key: base key; walker i is the same in ensembles of every size.
        point: thermodynamic state.
        size: number of walkers.
        tile: walkers that run together; see `auto_tile` for the default.
        positions: pytree like theta with a leading axis [size], instead of prior draws.
        first_walker: global id of the first walker, for ensembles built in parts.

    Returns:
        An `EnsembleState`; momenta, where the kernel has them, follow the Maxwell law.

    Raises:
        ValueError: a tile that does not divide size; a system without a sampler.
        ShapeError: positions of the wrong shape, the leaf named.
    """
    _check_point(point)
    tile = auto_tile(kernel, size) if tile is None else tile
    if size < 1 or tile < 1 or size % tile:
        raise ValueError(f"size={size} must be a positive multiple of tile={tile}")
    if positions is not None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(positions):
            if jnp.shape(leaf)[:1] != (size,):
                name = jax.tree_util.keystr(path) or "positions"
                raise ShapeError(
                    f"leaf {name} of positions has shape {jnp.shape(leaf)}, "
                    f"expected a leading axis of size={size}"
                )
    ids = jnp.arange(first_walker, first_walker + size, dtype=jnp.uint32)
    return EnsembleState(
        _init_walkers(kernel, key, point, ids, positions, tile), ids, jnp.uint32(0), tile
    )


@jax.jit(static_argnames="tile")
def _init_walkers(kernel, key, point, ids, positions, tile):
    base = stream(key, Stream.INIT)

    def one(args):
        walker, theta = args
        here = jax.random.fold_in(base, walker)
        if positions is None:
            theta = kernel.sample(stream(here, Stream.INIT), point)
        return kernel.init(theta, point, stream(here, Stream.NOISE))

    return map_tiles(one, (ids, positions), tile)


def _check_point(point: Point) -> None:
    if is_concrete(point.beta):
        beta = np.asarray(point.beta)
        if not np.all(beta >= 0):
            raise ValueError(f"beta={beta} must be >= 0: it is an inverse temperature")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Plan:
    """Static part of a run: what is summed, and how the loops are shaped."""

    accumulate: tuple[tuple[str, Any], ...]
    ledger: str
    every: int | None
    trace: Callable | None
    differentiable: bool

    def init(self, kernel: Kernel, state: Any) -> dict[str, Any]:
        sample = kernel.observe(state)
        return {
            "accumulators": {name: acc.init(sample) for name, acc in self.accumulate},
            "ledger": () if self.ledger == "none" else no_moves(state.energy.dtype),
            "acceptance": jax.tree.map(jnp.zeros_like, Compensated(*[state.energy] * 2)),
            "flags": jnp.zeros((), jnp.uint32),
        }

    def update(self, kernel: Kernel, tally: dict, state: Any, info: Any) -> dict[str, Any]:
        sample = kernel.observe(state)
        old = tally["accumulators"]
        return {
            "accumulators": {n: a.update(old[n], sample) for n, a in self.accumulate},
            "ledger": () if self.ledger == "none" else self._book(tally["ledger"], info.ledger),
            "acceptance": compensated_add(tally["acceptance"], info.acceptance),
            "flags": tally["flags"] | info.flags,
        }

    def _book(self, total: LedgerSums, move: Ledger) -> LedgerSums:
        if self.ledger == "full":
            return add_move(total, move)
        heat = compensated_add(compensated_add(total.heat, move.heat), move.energy_rounding)
        return total._replace(heat=heat)


def _walk(plan, kernel, key, point, params, start, count, n_keep, walker, state, tally):
    """`count` steps of one walker (`n_keep * plan.every` with traces), from step `start`."""
    base = stream(key, Stream.MOVES)

    def body(i, carry):
        state, tally = carry
        here = jax.random.fold_in(jax.random.fold_in(base, start + i), walker)
        state, info = kernel.step(here, state, point, params)
        return state, plan.update(kernel, tally, state, info)

    def loop(first, length, carry):
        if plan.differentiable:
            steps = first + jnp.arange(length, dtype=jnp.uint32)
            return jax.lax.scan(lambda c, i: (body(i, c), None), carry, steps)[0]
        shifted = lambda i, c: body(first + i, c)
        return jax.lax.fori_loop(jnp.uint32(0), jnp.uint32(length), shifted, carry)

    if not n_keep:
        state, tally = loop(jnp.uint32(0), count, (state, tally))
        return state, tally, ()

    def block(carry, k):
        carry = loop(k * jnp.uint32(plan.every), plan.every, carry)
        return carry, plan.trace(kernel.observe(carry[0]))

    blocks = jnp.arange(n_keep, dtype=jnp.uint32)
    (state, tally), trace = jax.lax.scan(block, (state, tally), blocks)
    return state, tally, trace


def _advance(plan, kernel, key, st, tally, point, params, count, n_keep, mesh):
    """All walkers, `count` steps: the tile loop outside, the time loop inside."""

    def part(kernel, key, point, params, start, count, ids, walkers, tally):
        one = lambda a: _walk(plan, kernel, key, point, params, start, count, n_keep, *a)
        return map_tiles(one, (ids, walkers, tally), st.tile)

    if mesh is not None:
        here, there = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("ensemble")
        part = jax.shard_map(
            part,
            mesh=mesh,
            in_specs=(here,) * 6 + (there,) * 3,
            out_specs=there,
            check_vma=False,
        )
    steps = n_keep * plan.every if n_keep else count
    state, tally, trace = part(
        kernel, key, point, params, st.step, count, st.walker, st.walkers, tally
    )
    step = st.step + jnp.asarray(steps, jnp.uint32)
    return dataclasses.replace(st, walkers=state, step=step), tally, trace


# vectors of 512 bits, where the processor has them, save 5 % with minibatches
_WIDE = {"xla_cpu_prefer_vector_width": 512}
_advance_jit = jax.jit(_advance, static_argnames=("n_keep", "mesh"), compiler_options=_WIDE)


def _default_trace(sample: Any) -> dict[str, PyTree]:
    return {"position": sample.position, "energy": sample.energy}


def _check_run(accumulate, n_steps, ledger, every, mesh, st, chunk):
    if ledger not in ("none", "energy", "full"):
        raise ValueError(f"ledger={ledger!r} is unknown: use 'none', 'energy' or 'full'")
    if n_steps < 0 or chunk < 1:
        raise ValueError(f"n_steps={n_steps} must be >= 0 and chunk={chunk} >= 1")
    if every is not None and not 1 <= every <= max(n_steps, 1):
        raise ValueError(f"every={every} must lie between 1 and n_steps={n_steps}")
    taken = [name for name in accumulate if name in _RESERVED]
    if taken:
        raise ValueError(f"accumulator names {taken} are taken by run itself: rename them")
    if mesh is not None and st.size % (st.tile * mesh.shape["ensemble"]):
        raise ValueError(
            f"size={st.size} must be a multiple of tile * devices = "
            f"{st.tile} * {mesh.shape['ensemble']}"
        )


def run(
    kernel: Kernel,
    key: Key,
    st: EnsembleState,
    point: Point,
    n_steps: int,
    *,
    params: PyTree = None,
    accumulate: dict[str, Any] | None = None,
    every: int | None = None,
    trace: Callable | None = None,
    mesh: jax.sharding.Mesh | None = None,
    ledger: str = "energy",
    progress: bool | Callable[[int, int], None] = False,
    chunk: int = 1000,
    checkpoint: Store | None = None,
) -> tuple[EnsembleState, dict[str, Any]]:
    """Move every walker `n_steps` times at one point, streaming what is asked for.

    Memory does not grow with `n_steps` unless traces are asked for. Inside jit, vmap or
    grad the steps are one differentiable scan; outside they are compiled once and run in
    chunks, so that progress shows and Ctrl-C works.

    Args:
        kernel: the bath.
        key: base key; the steps already made (`st.step`) continue its noise.
        st: from `init_ensemble`.
        point: thermodynamic state, the same for all walkers (vmap `run` for a sweep).
        n_steps: steps per walker.
        params: kernel parameters; `kernel.params` by default.
        accumulate: name -> accumulator (`tj.moments()`, `tj.dyadic()`, ...), per walker.
        every: keep a trace of every `every`-th state.
        trace: `sample -> pytree` to keep; position and energy by default.
        mesh: mesh with an "ensemble" axis over which the walkers are sharded.
        ledger: "none", "energy" (heat) or "full" (nats as well).
        progress: show a bar, or call `progress(steps_done, n_steps)` after each chunk.
        chunk: steps between two reports; changes no number.
        checkpoint: folder where all of it, traces too, is kept after each chunk and from
            where it goes on, bit for bit, if it was kept before; ignored under jit.

    Returns:
        The ensemble after the last step, and a dict: each accumulator's result with a
        leading axis [size], "ledger" (summed, compensated, [size]), "acceptance" (mean,
        [size]), "flags" (uint32 [size]) and, with `every`, "trace" [n_kept, size, ...].

    Raises:
        ValueError: unknown ledger, bad chunking, a mesh that does not divide the tiles,
            a checkpoint of another run.
    """
    accumulate = dict(accumulate or {})
    _check_run(accumulate, n_steps, ledger, every, mesh, st, chunk)
    _check_point(point)
    params = kernel.params if params is None else params
    concrete = is_concrete((kernel, key, st, point, params))
    plan = _Plan(
        tuple(sorted(accumulate.items())), ledger, every, trace or _default_trace, not concrete
    )
    tally = _start(plan, kernel, st)
    traces = []
    if concrete:
        store = store_of(checkpoint, (kernel, key, point, params))
        done, stride, seen = 0, every or 0, ()
        if store is not None:
            first, seen = st.step, _room(plan, kernel, st, n_steps // stride if stride else 0)
            st, tally, seen = store.load((st, tally, seen))
            done = int(st.step - first)
        with reporter(progress, n_steps, "steps") as report:
            report(done)
            for n_keep, count in _chunks(n_steps - done, every, chunk):
                st, tally, kept = _advance_jit(
                    plan, kernel, key, st, tally, point, params, jnp.uint32(count), n_keep, mesh
                )
                if store is None and n_keep:
                    traces.append(kept)
                elif store is not None:
                    _put(seen, kept, done // max(stride, 1))
                    store.save((st, tally, seen))
                done += n_keep * stride + count
                report(n_keep * stride + count)
        traces += [seen] if jax.tree.leaves(seen) else []
    else:
        n_keep = n_steps // every if every else 0
        rest = n_steps - n_keep * (every or 0)
        for keep, count in ((n_keep, 0), (0, rest)):
            if keep or count:
                st, tally, kept = _advance(
                    plan, kernel, key, st, tally, point, params, count, keep, mesh
                )
                traces += [kept] if keep else []
    return st, _collect(plan, tally, traces, st.tile, n_steps)


def _room(plan: _Plan, kernel: Kernel, st: EnsembleState, n_kept: int) -> PyTree:
    """Traces [size, n_kept, ...] on the host, empty so far."""
    trace, one = plan.trace, jax.tree.map(lambda x: x[0], st.walkers)
    if not n_kept or trace is None:
        return ()
    like = jax.eval_shape(lambda s: trace(kernel.observe(s)), one)
    return jax.tree.map(lambda x: np.zeros((st.size, n_kept, *x.shape), x.dtype), like)


def _put(seen: PyTree, kept: PyTree, start: int) -> None:
    for rows, new in zip(jax.tree.leaves(seen), jax.tree.leaves(kept), strict=False):  # or ()
        rows[:, start : start + new.shape[1]] = new


def _chunks(n_steps: int, every: int | None, chunk: int) -> list[tuple[int, int]]:
    """(kept states, plain steps) of each call; at most two distinct traced shapes."""
    if every is None:
        whole = [(0, chunk)] * (n_steps // chunk)
        return whole + ([(0, n_steps % chunk)] if n_steps % chunk else [])
    keep = n_steps // every
    each = max(1, min(chunk // every, keep))
    calls = [(each, 0)] * (keep // each)
    calls += [(keep % each, 0)] if keep % each else []
    return calls + ([(0, n_steps - keep * every)] if n_steps % every else [])


@jax.jit
def _start(plan, kernel, st):
    return jax.vmap(lambda state: plan.init(kernel, state))(st.walkers)


@jax.jit(static_argnames=("tile", "n_steps"))
def _collect(plan, tally, traces, tile, n_steps):
    out: dict[str, Any] = {}
    for name, acc in plan.accumulate:
        out[name] = jax.vmap(acc.finalize)(tally["accumulators"][name])
    if plan.ledger != "none":
        out["ledger"] = tally["ledger"].total()
    out["acceptance"] = tally["acceptance"].value / max(n_steps, 1)
    out["flags"] = tally["flags"]
    if traces:
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *traces)
        out["trace"] = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), joined)
    return out


def drive(
    kernel: Kernel,
    key: Key,
    st: EnsembleState,
    path: Point,
    *,
    params: PyTree = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[EnsembleState, Ledger]:
    """Move the control along a path: control move, then bath move, at every point.

    Args:
        kernel: the bath.
        key: base key.
        st: the ensemble, in equilibrium at the start for the fluctuation theorems.
        path: `Point` whose leaves have a leading time axis [n].
        params: kernel parameters; `kernel.params` by default.
        mesh: see `run`.

    Returns:
        The ensemble at the end of the path, and a `Ledger` with leaves [n, size]: what
        each cycle exchanged. From exact equilibrium the total reduced work
        sum(protocol + shadow) obeys <exp(-w)> = Z_n / Z_0 at every step size.

    Raises:
        ValueError: leaves of `path` without a common time axis; beta < 0.
    """
    _check_point(path)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(path)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"path needs one leading time axis on beta and every control leaf, got {lengths}: "
            "broadcast the constant ones"
        )
    params = kernel.params if params is None else params
    _check_run({}, 0, "full", None, mesh, st, 1)
    return _drive(kernel, key, st, path, params, mesh)


@jax.jit(static_argnames="mesh")
def _drive(kernel, key, st, path, params, mesh):
    n_steps = jax.tree.leaves(path)[0].shape[0]

    def walk(kernel, key, path, params, start, walker, state):
        base = stream(key, Stream.MOVES)

        def body(state, x):
            i, point = x
            state, control = kernel.drive(state, point)
            here = jax.random.fold_in(jax.random.fold_in(base, start + i), walker)
            state, info = kernel.step(here, state, point, params)
            return state, add_ledgers(control, info.ledger)

        return jax.lax.scan(body, state, (jnp.arange(n_steps, dtype=jnp.uint32), path))

    def part(kernel, key, path, params, start, ids, walkers):
        one = lambda a: walk(kernel, key, path, params, start, *a)
        return map_tiles(one, (ids, walkers), st.tile)

    if mesh is not None:
        here, there = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("ensemble")
        specs = (here,) * 5 + (there,) * 2
        part = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=there, check_vma=False)
    walkers, ledger = part(kernel, key, path, params, st.step, st.walker, st.walkers)
    step = st.step + jnp.uint32(n_steps)
    ledger = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), ledger)
    return dataclasses.replace(st, walkers=walkers, step=step), ledger
