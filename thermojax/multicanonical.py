"""Walkers that see all energies equally often: the mechanism of `flat_histogram`.

    pi(theta) ∝ q(theta) exp(-phi(V)),   phi(V) -> log of the mass of q near V

V = beta U - log m + log q is the potential of the path to the target. phi is piecewise
linear in y(V), y = log(1 + V - low) above `low` and V - low below it: for a regular model
log g = (d/2) y + const, which no node can miss. Below `low` the walkers are canonical at the
target's beta, above the last node at beta = 0. Each look adds gamma_t times the histogram to
phi, gamma_t = bins / t (1/t Wang-Landau, shared by the walkers of a run), and then stops: the
frozen run that follows is the only one reported.

Any kernel of the library moves on the flattened system, whose energy is phi(V).

Source: Wang & Landau 2001; 1/t: Belardinelli & Pereyra 2007; Liang, Liu & Carroll 2007;
multicanonical reweighting: Berg & Neuhaus 1992; the scale of y and the ends derived here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax import smc as tempering
from thermojax.adaptation import spread_of
from thermojax.dynamics.kernel import Kernel, Stream, stream
from thermojax.ensembles import map_tiles, wide_tile
from thermojax.estimators.estimate import Flag, union
from thermojax.smc import SMC, Trace
from thermojax.system import Point, System
from thermojax.typing import Array, Key, PyTree

__all__ = ["Course", "Levels", "Walk", "advance", "begin", "lay_out", "place", "weigh"]


SPACING, FASTEST, ACCEPT = 0.2, 0.1, 0.65
"""Least distance of nodes in y; largest step of phi; acceptance aimed at."""


class Levels(NamedTuple):
    """Nodes of phi, uniform in y between 0 and `top`.

    Attributes:
        low: V where y = 0.
        top: y of node B - 1.
        last: index of the last node in use; above it the walkers are at beta = 0.
        log_g: [B] phi at the nodes.
    """

    low: Array
    top: Array
    last: Array
    log_g: Array


class FlatPoint(NamedTuple):
    """Control of the flattened system: the target point, and the weights."""

    beta: Any
    control: PyTree
    levels: Levels


def _scaled(levels: Levels, value: Array, log: bool) -> tuple[Array, Array]:
    """y(V), and its place on the nodes; a forbidden state lies above them all."""
    huge = jnp.finfo(value.dtype).max / 4
    x = jnp.where(value < huge, value, huge) - levels.low
    y = jnp.where(x > 0, jnp.log1p(jnp.maximum(x, 0)), x) if log else x
    most = levels.log_g.shape[-1] - 1
    return y, jnp.clip(y / levels.top * most, 0.0, levels.last)


def weigh(levels: Levels, value: Array, log: bool) -> Array:
    """phi(V) of one walker or of many, nats."""
    y, place = _scaled(levels, value, log)
    left = jnp.minimum(place.astype(jnp.int32), levels.log_g.shape[-1] - 2)
    part = place - left
    inside = (1 - part) * levels.log_g[left] + part * levels.log_g[left + 1]
    return inside + jnp.minimum(y, 0.0)


def place(levels: Levels, value: Array, log: bool) -> Array:
    """int32 bin of V: the nearest node."""
    return jnp.round(_scaled(levels, value, log)[1]).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class _FlatEnergy:
    """phi(V(theta)); data is the path, control a `FlatPoint`."""

    log: bool

    def __call__(self, theta, control, data):
        value = data.energy(theta, control)
        return weigh(control.levels, value, self.log)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """Settings as a static leaf."""

    settings: Any
    tile: int
    store_energy: bool

    @property
    def log(self) -> bool:
        """Whether y is logarithmic."""
        return self.settings.scale == "log"

    @property
    def size(self) -> int:
        """Walkers of all runs."""
        return self.settings.walkers * self.settings.n_runs


class Course(NamedTuple):
    """A kernel on the flattened system, where its bins lie and how far it steps; a pytree.

    Attributes:
        kernel: moves on the flattened system.
        path: the path system, whose energy is V.
        sys: the target.
        point: the target point.
        levels: the bins; log_g as every run starts, [R, B].
        visited: bool [R, B] bins with something in them.
        steps: smallest and largest step size, () for flips.
        scale: spread of theta at the target, () for flips.
        start: normalised measure at the other end.
        config: `_Static`.
    """

    kernel: Kernel
    path: System
    sys: System
    point: Point
    levels: Levels
    visited: Array
    steps: Any
    scale: PyTree
    start: Any
    config: Any


class Walk(NamedTuple):
    """All walkers of all runs between two looks, and what they left behind.

    Attributes:
        walkers: kernel states [R * W].
        log_g: [R, B] phi at the nodes.
        visited: bool [R, B] bins that were ever reached while learning.
        histogram: [R, B] share of the frozen run.
        value: [M, R * W] V of the frozen run.
        energy: [M, R * W] U likewise, () where V = beta U.
        kept: theta [blocks, R * W, ...], one draw of each block by the target's weight.
        log_total: [blocks, R * W] log weight of the block.
        last_end: int32 [R * W] 1 after the lowest bin, 2 after the highest, 0 before.
        crossings: int32 [R * W] passages from end to end of the frozen run.
        acceptance: mean of the frozen run.
        stretch: factor on all step sizes, learned and frozen together with phi.
        look: int32 looks done.
        flags: uint32.
    """

    walkers: Any
    log_g: Array
    visited: Array
    histogram: Array
    value: Array
    energy: Any
    kept: PyTree
    log_total: Array
    last_end: Array
    crossings: Array
    acceptance: Array
    stretch: Array
    look: Array
    flags: Array


def _fill(log_g: Array, visited: Array) -> Array:
    """Nodes of empty bins on the line between their neighbours."""
    index = jnp.arange(log_g.shape[-1])
    left = jax.lax.cummax(jnp.where(visited, index, -1))
    right = jax.lax.cummin(jnp.where(visited, index, log_g.shape[-1]), reverse=True)
    left = jnp.where(left < 0, right, left)
    right = jnp.where(right >= log_g.shape[-1], left, right)
    share = (index - left) / jnp.maximum(right - left, 1)
    between = (1 - share) * log_g[left] + share * log_g[right]
    return jnp.where(visited, log_g, between).astype(log_g.dtype)


def _first_guess(trace: Trace, rungs: Array, levels: Levels, log: bool) -> tuple[Array, Array]:
    """phi and the filled bins of one run, from the energies of its warm-up."""
    on = jnp.arange(trace.lam.shape[0]) <= rungs
    value = jnp.where(jnp.isnan(trace.value), jnp.inf, trace.value)
    v = jnp.where(jnp.isfinite(value), value, 0.0)

    def denominator(row):
        terms = -trace.log_z[:, None] - trace.lam[:, None] * row[None, :]
        return logsumexp(jnp.where(on[:, None], terms, -jnp.inf), axis=0)

    log_w = -jax.lax.map(denominator, v)
    # a state of infinite energy exists under the reference alone
    here = on[:, None] & (jnp.isfinite(value) | (jnp.arange(len(on)) == 0)[:, None])
    log_w = jnp.where(here, jnp.where(jnp.isfinite(value), log_w, 0.0), -jnp.inf).ravel()
    bins, index = levels.log_g.shape[-1], place(levels, value, log).ravel()
    top = jax.ops.segment_max(log_w, index, bins)
    visited = jnp.isfinite(top)
    top = jnp.where(visited, top, 0.0)
    total = jnp.zeros(bins, log_w.dtype).at[index].add(jnp.exp(log_w - top[index]))
    log_g = jnp.where(visited, top + jnp.log(jnp.where(visited, total, 1.0)), 0.0)
    return log_g, visited


def lay_out(settings: Any, sys: System, point: Point, key: Key, reference: Any):
    """Bins, first weights and step sizes from one small tempered run per run.

    Returns:
        The `Course`, and the positions [R, W, ...] where the warm-up ended.
    """
    warm_up = SMC(
        n=settings.walkers, n_runs=settings.n_runs, moves=settings.moves, kernel=settings.kernel
    )
    ladder = tempering.prepare(warm_up, sys, point, reference)
    keys = jax.random.split(stream(key, Stream.INIT), settings.n_runs)
    climb = lambda k: tempering.advance(ladder, tempering.start(ladder, k), warm_up.max_rungs)
    apart = ladder.config.tile < warm_up.n
    each = jax.lax.map if apart else lambda f, x: jax.vmap(f)(x)
    populations = each(climb, keys)
    first, end = populations.trace.value[:, 0], populations.walkers.energy
    finite = lambda v: jnp.where(jnp.isfinite(v), v, jnp.nan)
    low = jnp.nanquantile(finite(end), 0.1)
    high = jnp.nanquantile(finite(first), 0.5)
    most, one = settings.bins - 1, jnp.ones_like(low)
    empty = Levels(low, one, one, jnp.zeros(settings.bins, low.dtype))
    log = settings.scale == "log"
    reach = _scaled(empty, high, log)[0]
    # finer nodes would only be learned worse: phi is linear between them
    top = jnp.maximum(reach, SPACING * most)
    levels = empty._replace(top=top, last=jnp.clip(jnp.round(reach / top * most), 1, most))
    guess = lambda p: _first_guess(p.trace, p.rung, levels, log)
    log_g, visited = jax.vmap(guess)(populations)
    path = tempering.tempered(sys, reference)
    flat = System(_FlatEnergy(log), None, None, prior=path.prior, data=path)
    kernel = warm_up.build(flat)
    pooled = jax.tree.map(_merge, populations.walkers.position)
    steps, scale = (), ()
    if tempering.tunable(kernel):
        steps, scale = _steps(ladder, populations.step_size, pooled, key, settings)
    size = settings.walkers * settings.n_runs
    config = _Static(settings, wide_tile(kernel, size), ladder.config.store_energy)
    levels = levels._replace(log_g=log_g)
    course = Course(
        kernel, path, sys, point, levels, visited, steps, scale, ladder.start, config
    )
    return course, pooled


def _merge(x: Array) -> Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _draws(kernel: Kernel, point: Point, key: Key, size: int) -> PyTree:
    """Exact draws from the reference."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(size, dtype=jnp.uint32))
    return jax.lax.map(lambda k: kernel.sample(k, point), keys)


def _steps(ladder, step_size, pooled, key, settings) -> tuple[tuple[Array, Array], PyTree]:
    """The step at the target and the step at the reference, in units of one spread."""
    scale = spread_of(pooled)
    at = Point(jnp.zeros(()), ladder.point)
    probe = stream(stream(key, Stream.PROBE), Stream.NOISE)
    wide = spread_of(_draws(ladder.kernel, at, probe, settings.walkers))
    ratios = jax.tree.map(lambda a, b: jnp.ravel(jnp.log(a / b)), wide, scale)
    ratio = jnp.exp(jnp.mean(jnp.concatenate(jax.tree.leaves(ratios))))
    small = 0.7 * jnp.mean(step_size)
    return (small, small * jnp.clip(2 * ratio, 2.0, 1e3)), scale


def begin(course: Course, key: Key, pooled: PyTree) -> Walk:
    """Every other walker from the end of the warm-up, the rest from the reference."""
    settings, size = course.config.settings, course.config.size
    log_g = jax.vmap(_fill)(course.levels.log_g, course.visited)
    at = Point(1.0, FlatPoint(course.point.beta, course.point.control, course.levels))
    fresh = stream(stream(key, Stream.PROBE), Stream.INIT)
    drawn = _draws(course.kernel, at, fresh, size)
    even = jnp.arange(size) % 2 == 0
    pick = lambda a, b: jnp.where(even.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    theta = jax.tree.map(pick, pooled, drawn)

    def start(args):
        theta, row = args
        return course.kernel.init(theta, _at(course, row))

    walkers = map_tiles(start, (theta, _per_walker(course, log_g)), course.config.tile)
    dtype = log_g.dtype
    value = jnp.zeros((settings.measure, size), dtype)
    keep = lambda x: jnp.zeros((settings.blocks, *x.shape), x.dtype)
    return Walk(
        walkers=walkers,
        log_g=log_g,
        visited=course.visited,
        histogram=jnp.zeros_like(log_g),
        value=value,
        energy=value if course.config.store_energy else (),
        kept=jax.tree.map(keep, walkers.position),
        log_total=jnp.full((settings.blocks, size), -jnp.inf, dtype),
        last_end=jnp.zeros(size, jnp.int32),
        crossings=jnp.zeros(size, jnp.int32),
        acceptance=jnp.zeros((), dtype),
        stretch=jnp.ones((), dtype),
        look=jnp.int32(0),
        flags=jnp.zeros((), jnp.uint32),
    )


def _at(course: Course, log_g: Array) -> Point:
    levels = course.levels._replace(log_g=log_g)
    return Point(1.0, FlatPoint(course.point.beta, course.point.control, levels))


def _per_walker(course: Course, log_g: Array) -> Array:
    return jnp.repeat(log_g, course.config.settings.walkers, axis=0)


def _move(course: Course, key: Key, walk: Walk):
    """One look: every walker on its run's weights, and what it found."""
    kernel, settings, config = course.kernel, course.config.settings, course.config
    here = jax.random.fold_in(stream(key, Stream.MOVES), walk.look)

    def one(args):
        i, walker, row = args
        at, mine = _at(course, row), jax.random.fold_in(here, i)
        walker, _ = kernel.drive(walker, at)
        params = kernel.params
        if tempering.tunable(kernel):
            small, large = course.steps
            u = jax.random.uniform(stream(mine, Stream.JITTER), (), small.dtype)
            step = walk.stretch * small * jnp.exp(u * jnp.log(large / small))
            params = params._replace(step_size=step, scale=course.scale)
        base = stream(mine, Stream.NOISE)

        def body(j, carry):
            walker, total, flags = carry
            walker, info = kernel.step(jax.random.fold_in(base, j), walker, at, params)
            wrong = info.flags & jnp.uint32(Flag.WRONG_BLOCKS | Flag.NONFINITE)
            return walker, total + info.acceptance, flags | wrong

        start = (walker, jnp.zeros_like(walker.energy), jnp.zeros((), jnp.uint32))
        walker, total, flags = jax.lax.fori_loop(0, settings.moves, body, start)
        value = course.path.energy(walker.position, course.point)
        value = jnp.where(jnp.isnan(value), jnp.inf, value).astype(row.dtype)
        levels = at.control.levels
        energy: Any = ()
        if config.store_energy:
            energy = course.sys.energy(walker.position, course.point.control)
        phi, index = weigh(levels, value, config.log), place(levels, value, config.log)
        return walker, value, energy, phi, index, total / settings.moves, flags

    ids = jnp.arange(config.size, dtype=jnp.uint32)
    found = map_tiles(one, (ids, walk.walkers, _per_walker(course, walk.log_g)), config.tile)
    return found, jax.random.fold_in(stream(key, Stream.RESAMPLE), walk.look)


def _look(course: Course, key: Key, walk: Walk) -> Walk:
    """Move, learn or record."""
    settings, config = course.config.settings, course.config
    (walkers, value, energy, phi, index, acceptance, flags), coin = _move(course, key, walk)
    runs = jnp.repeat(jnp.arange(settings.n_runs), settings.walkers)
    seen = jnp.zeros_like(walk.log_g).at[runs, index].add(1 / settings.walkers)
    learning = walk.look < settings.learn
    filled = jnp.sum(walk.visited, axis=1, keepdims=True)
    rate = jnp.minimum(FASTEST, filled / (walk.look + 1.0)).astype(seen.dtype)
    log_g = jax.vmap(_fill)(walk.log_g, walk.visited) + jnp.where(learning, rate * seen, 0.0)
    visited = walk.visited | (learning & (seen > 0))
    row = walk.look - settings.learn
    out = jnp.where(learning, settings.measure, row)
    block = jnp.clip(row * settings.blocks // settings.measure, 0, settings.blocks - 1)
    spot = jnp.where(learning, settings.blocks, block)
    log_w = phi - value
    log_total = jnp.logaddexp(walk.log_total[block], log_w)
    take = jax.random.uniform(coin, (config.size,), log_w.dtype) < jnp.exp(log_w - log_total)

    def keep(kept, x):
        chosen = jnp.where(take.reshape(-1, *[1] * (x.ndim - 1)), x, kept[block])
        return kept.at[spot].set(chosen, mode="drop")

    gain = jnp.exp(jnp.maximum(0.1, 2 / (walk.look + 1)) * (jnp.mean(acceptance) - ACCEPT))
    reach = jnp.arange(settings.bins)
    lowest = jnp.argmax(visited, axis=1)[runs]
    highest = jnp.max(jnp.where(visited, reach, 0), axis=1)[runs]
    end = jnp.where(index <= lowest, 1, jnp.where(index >= highest, 2, walk.last_end))
    crossed = (end != walk.last_end) & (walk.last_end > 0) & ~learning
    put = lambda rows, x: rows.at[out].set(x, mode="drop")
    frozen = jnp.where(learning, 0.0, 1 / settings.measure).astype(seen.dtype)
    return Walk(
        walkers=walkers,
        log_g=jnp.where(learning, log_g - jnp.max(log_g, axis=1, keepdims=True), walk.log_g),
        visited=visited,
        histogram=walk.histogram + frozen * seen,
        value=put(walk.value, value),
        energy=jax.tree.map(put, walk.energy, energy),
        kept=jax.tree.map(keep, walk.kept, walkers.position),
        log_total=walk.log_total.at[spot].set(log_total, mode="drop"),
        last_end=end,
        crossings=walk.crossings + crossed,
        acceptance=walk.acceptance + frozen * jnp.mean(acceptance),
        stretch=walk.stretch * jnp.where(learning, gain, 1.0),
        look=walk.look + 1,
        flags=walk.flags | union(flags),
    )


def advance(course: Course, key: Key, walk: Walk, until: Any) -> Walk:
    """Look until `until` looks are done."""
    body = lambda _, w: _look(course, key, w)
    return jax.lax.fori_loop(walk.look, jnp.asarray(until, jnp.int32), body, walk)
