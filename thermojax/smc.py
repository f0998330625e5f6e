"""Adaptive tempered sequential Monte Carlo: independent populations, metropolised moves.

A population starts from exact draws of a normalised reference q (the prior, where there
is one) and follows

    p_lam(theta) ∝ q(theta) exp(-lam V(theta)),   V = beta U - log m + log q

from lam = 0 to 1. Each rung: the largest step that keeps the effective sample size at
`target`; log Z += log <exp(-step V)>; systematic resampling; metropolised moves until the
energies have forgotten their values; step size and diagonal scale from the population.
Z is unbiased up to O(1/n) from the adaptation. Populations never communicate: their
spread is the error bar.

Source: specification of the core, section 3.2 (derived here); Del Moral et al. 2006;
genealogical variance after Chan & Lai 2013 and Lee & Whiteley 2018, adapted here to
systematic resampling.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.adaptation import spread_of
from thermojax.binary import values_of
from thermojax.dynamics.discrete import gibbs_flip
from thermojax.dynamics.kernel import Kernel, Stream, stream
from thermojax.dynamics.langevin import hmc
from thermojax.ensembles import map_tiles, wide_tile
from thermojax.estimators.estimate import Flag, union
from thermojax.estimators.free_energy import log_mean_exp_weights
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "SMC",
    "Path",
    "Population",
    "Trace",
    "advance",
    "prepare",
    "start",
    "tempered",
    "tunable",
]


@dataclasses.dataclass(frozen=True)
class SMC:
    """Settings of adaptive tempered SMC; see the module docstring.

    Attributes:
        n: particles per population.
        n_runs: independent populations. The error bar is their spread: with four of them
            it has three degrees of freedom and a raw two-sigma coverage of .86, with
            eight .91, which the Student factor then widens to .93.
        target: effective sample size, as a fraction of n, that each step keeps.
        moves: kernel steps between two looks at the mixing.
        max_looks: give up on mixing at a rung after this many looks.
        forget: correlation of V before and after the moves below which a rung is mixed.
        max_rungs: length of the ladder at most.
        waypoints: increasing values of lam in (0, 1) that every ladder must touch; the
            particles there are kept (those at lam = 1 always are).
        kernel: `system -> Kernel`, metropolised; HMC by default, `tj.gibbs_flip` site by
            site over binary states.
        tile: particles that move together; see `wide_tile`.
    """

    n: int = 512
    n_runs: int = 8
    target: float = 0.9
    moves: int = 2
    max_looks: int = 8
    forget: float = 0.3
    max_rungs: int = 256
    waypoints: tuple[float, ...] = ()
    kernel: Callable[[System], Kernel] | None = None
    tile: int | None = None

    def __post_init__(self):
        for name, least in (("n", 8), ("n_runs", 1), ("moves", 1), ("max_looks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if not 0 < self.target < 1:
            raise ValueError(f"target={self.target} must lie between 0 and 1")
        if self.max_rungs < 2:
            raise ValueError(f"max_rungs={self.max_rungs} must be at least 2")
        stops = (0.0, *self.waypoints, 1.0)
        if any(a >= b for a, b in itertools.pairwise(stops)):
            raise ValueError(f"waypoints={self.waypoints} must increase within (0, 1)")

    def build(self, path: System) -> Kernel:
        """The kernel that moves along `path`; refused unless it is exact."""
        binary = values_of(path.prior) is not None
        if self.kernel is not None:
            kernel = self.kernel(path)
            if not kernel.meta.exact:
                raise ValueError(
                    f"kernel {kernel.meta.name} is unadjusted: its bias would enter log Z "
                    "unseen; use tj.hmc, tj.mala or langevin(..., metropolize=True)"
                )
            if binary and tunable(kernel):
                raise ValueError(
                    f"kernel {kernel.meta.name} moves in continuous space, but the base "
                    "measure is over binary states: use tj.gibbs_flip or tj.metropolis_flip"
                )
            return kernel
        if binary:
            return gibbs_flip(path)
        template = path.template
        assert template is not None
        d = template.size
        return hmc(
            path, n_inner=max(2, math.ceil(2 * d**0.25)), step_size=min(1.0, 1.2 / d**0.25)
        )


@dataclasses.dataclass(frozen=True)
class _PathEnergy:
    """V = beta U - log m + log q; `control` is the target point, data the two measures."""

    on_prior: bool

    def __call__(self, theta, control, data):
        sys, reference = data
        value = jnp.asarray(control.beta) * sys.energy(theta, control.control)
        if self.on_prior:
            return value
        log_q = reference.log_density(theta, control.control)
        return value - sys.log_base(theta, control.control) + log_q


_NOWHERE = Point(0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _PathBase:
    """The reference, seen from a path whose control is a `Point`."""

    measure: Any

    @property
    def log_mass(self):
        """log mass of the reference."""
        return self.measure.log_mass

    @property
    def template(self):
        """Shape of theta."""
        return self.measure.template

    @property
    def values(self):
        """Values of a site, where the reference is over binary states."""
        return values_of(self.measure)

    def bind(self, like):
        """The reference knows its shape."""
        return self

    def log_density(self, theta, control=_NOWHERE):
        """log q."""
        return self.measure.log_density(theta, control.control)

    def sample(self, key, control=_NOWHERE):
        """One exact draw."""
        return self.measure.sample(key, control.control)


def tempered(sys: System, reference: Any = None) -> System:
    """The path from a reference to a target as a system.

    Its point is `Point(beta=lam, control=target_point)`; at lam = 1 it is the target.

    Args:
        sys: the target.
        reference: normalised measure with a sampler; the system's own reference, or
            else its prior, by default.
    """
    reference = sys.reference if reference is None else reference
    on_prior = reference is None or reference is sys.prior
    measure = sys.prior if on_prior else reference
    return System(
        energy_fn=_PathEnergy(on_prior),
        batch_fn=None,
        remainder_fn=None,
        prior=_PathBase(measure),
        data=(sys, () if on_prior else measure),
    )


class Trace(NamedTuple):
    """What one population leaves behind, by rung (index 0 is the reference).

    Attributes:
        lam: [K] path parameter; 1 after the last rung.
        value: [K, n] V of the particles after the moves.
        energy: [K, n] U of the same particles, () where V = beta U.
        log_z: [K] running log Z.
        acceptance: [K] mean acceptance of the last look.
        correlation: [K] of V before and after the moves.
        looks: [K] int32 number of looks.
        naive: [K] relative variance of the step's weights, over n.
        drift: [K] genealogical drift of the resampling, over n.
    """

    lam: Array
    value: Array
    energy: Any
    log_z: Array
    acceptance: Array
    correlation: Array
    looks: Array
    naive: Array
    drift: Array


class Population(NamedTuple):
    """One population between two rungs.

    Attributes:
        walkers: kernel states [n].
        ancestor: int32 [n] index of each particle's first ancestor.
        rung: int32 number of rungs done.
        step_size: kernel step.
        trace: see `Trace`.
        kept: positions [W, n, ...] at the waypoints, () without any.
        key: the population's key.
        flags: uint32, what the moves themselves found wrong.
    """

    walkers: Any
    ancestor: Array
    rung: Array
    step_size: Array
    trace: Trace
    kept: PyTree
    key: Key
    flags: Array

    @property
    def lam(self) -> Array:
        """Path parameter now."""
        return self.trace.lam[self.rung]

    @property
    def log_z(self) -> Array:
        """log Z now, relative to the mass of the reference."""
        return self.trace.log_z[self.rung]


class Path(NamedTuple):
    """A kernel on a path to a target, with its static settings; a pytree."""

    kernel: Kernel
    point: Point
    config: Any
    system: System
    start: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    """SMC settings as a static leaf."""

    smc: SMC
    tile: int
    store_energy: bool


def prepare(smc: SMC, sys: System, point: Point, reference: Any = None) -> Path:
    """The path, its kernel and its static settings, ready for `start` and `advance`.

    Args:
        smc: settings.
        sys: target system.
        point: target point.
        reference: see `tempered`.
    """
    path = tempered(sys, reference)
    kernel = smc.build(path)
    energy_fn = path.energy_fn
    assert isinstance(energy_fn, _PathEnergy)
    tile = smc.tile
    if tile is None:
        tile = wide_tile(kernel, smc.n)
    if smc.n % tile:
        raise ValueError(f"n={smc.n} must be a multiple of tile={tile}")
    static = _Static(smc, tile, not energy_fn.on_prior)
    base = path.prior
    assert isinstance(base, _PathBase)
    return Path(kernel, point, static, sys, base.measure)


def _energies(path: Path, walkers: Any) -> Any:
    if not path.config.store_energy:
        return ()
    sys = path.system
    one = lambda theta: sys.energy(theta, path.point.control)
    return map_tiles(one, walkers.position, path.config.tile)


def start(path: Path, key: Key) -> Population:
    """One population of exact draws from the reference."""
    smc = path.config.smc
    kernel = path.kernel
    at = Point(jnp.zeros(()), path.point)
    base = stream(key, Stream.INIT)

    def one(i):
        return kernel.init(kernel.sample(jax.random.fold_in(base, i), at), at)

    walkers = map_tiles(one, jnp.arange(smc.n, dtype=jnp.uint32), path.config.tile)
    value = walkers.energy
    energy = _energies(path, walkers)
    k = smc.max_rungs + 1
    rows = lambda x: jnp.zeros((k, *x.shape), x.dtype).at[0].set(x)
    trace = Trace(
        lam=jnp.zeros(k, value.dtype),
        value=rows(value),
        energy=jax.tree.map(rows, energy),
        log_z=jnp.zeros(k, value.dtype),
        acceptance=jnp.ones(k, value.dtype),
        correlation=jnp.zeros(k, value.dtype),
        looks=jnp.zeros(k, jnp.int32),
        naive=jnp.zeros(k, value.dtype),
        drift=jnp.zeros(k, value.dtype),
    )
    step = jnp.asarray(kernel.params.step_size if tunable(kernel) else 0, value.dtype)
    stops = len(smc.waypoints)
    kept: PyTree = ()
    if stops:
        kept = jax.tree.map(lambda x: jnp.zeros((stops, *x.shape), x.dtype), walkers.position)
    none = jnp.zeros((), jnp.uint32)
    return Population(walkers, jnp.arange(smc.n), jnp.int32(0), step, trace, kept, key, none)


def _next_step(value: Array, left: Array, target: float) -> Array:
    """Largest step <= left that keeps the effective sample size of the finite energies."""
    finite = jnp.isfinite(value)
    enough = target * jnp.sum(finite)
    shifted = jnp.where(finite, value - jnp.min(jnp.where(finite, value, jnp.inf)), jnp.inf)

    def ess(d):
        log_w = jnp.where(finite, -d * shifted, -jnp.inf)
        return jnp.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w))

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        good = ess(middle) >= enough
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(left), left))
    return jnp.where(ess(left) >= enough, left, low)


def _systematic(key: Key, log_w: Array) -> tuple[Array, Array]:
    """Systematic resampling: indices, and the drift of the genealogy that it adds."""
    n = log_w.shape[0]
    share = n * jnp.exp(log_w - logsumexp(log_w))
    edges = jnp.cumsum(share)
    edges = edges * (n / edges[-1])
    comb = jnp.arange(n) + jax.random.uniform(key, (), log_w.dtype)
    index = jnp.minimum(jnp.searchsorted(edges, comb, side="right"), n - 1)
    part = share - jnp.floor(share)
    return index, jnp.sum(part * (1 - part)) / n**2


def _correlation(a: Array, b: Array) -> Array:
    """Of V before and after the moves; 0 where V does not vary."""
    both = jnp.isfinite(a) & jnp.isfinite(b)
    n = jnp.maximum(jnp.sum(both), 1)
    centred = lambda x: jnp.where(both, x - jnp.sum(jnp.where(both, x, 0.0)) / n, 0.0)
    a, b = centred(a), centred(b)
    norm = jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b))
    return jnp.where(norm > 0, jnp.sum(a * b) / jnp.where(norm > 0, norm, 1.0), 0.0)


class _Look(NamedTuple):
    walkers: Any
    step_size: Array
    acceptance: Array
    correlation: Array
    count: Array
    flags: Array


def tunable(kernel: Kernel) -> bool:
    """Whether a kernel has a step size and a scale to adapt; flips have neither."""
    return hasattr(kernel.params, "step_size")


def _move(path: Path, key: Key, walkers: Any, lam: Array, step_size: Array, scale: PyTree):
    """Kernel steps until V has forgotten where it was, or patience ends."""
    kernel, smc = path.kernel, path.config.smc
    at = Point(lam, path.point)
    before = walkers.energy

    def look(state: _Look) -> _Look:
        params = kernel.params
        if tunable(kernel):
            params = kernel.params._replace(step_size=state.step_size, scale=scale)
        here = jax.random.fold_in(key, state.count)

        def one(args):
            i, walker = args
            mine = jax.random.fold_in(here, i)

            def body(j, carry):
                walker, total, flags = carry
                walker, info = kernel.step(jax.random.fold_in(mine, j), walker, at, params)
                wrong = info.flags & jnp.uint32(Flag.WRONG_BLOCKS)
                return walker, total + info.acceptance, flags | wrong

            start = (walker, jnp.zeros_like(walker.energy), jnp.zeros((), jnp.uint32))
            return jax.lax.fori_loop(0, smc.moves, body, start)

        ids = jnp.arange(smc.n, dtype=jnp.uint32)
        moved, total, flags = map_tiles(one, (ids, state.walkers), path.config.tile)
        acceptance = jnp.mean(total) / smc.moves
        gain = jnp.exp(jnp.clip(acceptance - kernel.meta.target_acceptance, -0.7, 0.3))
        return _Look(
            moved,
            state.step_size * gain if tunable(kernel) else state.step_size,
            acceptance,
            _correlation(before, moved.energy),
            state.count + 1,
            state.flags | union(flags),
        )

    def unmixed(state: _Look) -> Array:
        return (state.count < smc.max_looks) & (state.correlation > smc.forget)

    zero = jnp.zeros_like(lam)
    none = jnp.zeros((), jnp.uint32)
    first = look(_Look(walkers, step_size, zero, zero + 1, jnp.int32(0), none))
    return jax.lax.while_loop(unmixed, look, first)


def _rung(path: Path, pop: Population) -> Population:
    """Reweight, resample, move, record."""
    smc, trace = path.config.smc, pop.trace
    key = jax.random.fold_in(pop.key, pop.rung)
    value, lam = pop.walkers.energy, pop.lam
    value = jnp.where(jnp.isnan(value), jnp.inf, value)
    stops = jnp.asarray((*smc.waypoints, 1.0), lam.dtype)
    ahead = jnp.searchsorted(stops, lam, side="right")
    left = stops[ahead] - lam
    step = _next_step(value, left, smc.target)
    arrived = step >= left
    lam = jnp.where(arrived, stops[ahead], lam + step)
    log_w = jnp.where(jnp.isfinite(value), -step * value, -jnp.inf)
    log_z, ess = log_mean_exp_weights(log_w)
    index, drift = _systematic(stream(key, Stream.RESAMPLE), log_w)
    walkers = jax.tree.map(lambda x: x[index], pop.walkers)
    scale = spread_of(walkers.position) if tunable(path.kernel) else ()
    moved = _move(path, stream(key, Stream.MOVES), walkers, lam, pop.step_size, scale)
    k = pop.rung + 1
    put = lambda rows, x: rows.at[k].set(x)
    trace = Trace(
        lam=put(trace.lam, lam),
        value=put(trace.value, moved.walkers.energy),
        energy=jax.tree.map(put, trace.energy, _energies(path, moved.walkers)),
        log_z=put(trace.log_z, pop.log_z + log_z),
        acceptance=put(trace.acceptance, moved.acceptance),
        correlation=put(trace.correlation, moved.correlation),
        looks=put(trace.looks, moved.count),
        naive=put(trace.naive, 1 / ess - 1 / smc.n),
        drift=put(trace.drift, drift),
    )
    kept = pop.kept
    if smc.waypoints:
        place = jnp.where(arrived, ahead, len(smc.waypoints))
        keep = lambda rows, x: rows.at[place].set(x, mode="drop")
        kept = jax.tree.map(keep, kept, moved.walkers.position)
    ancestor = pop.ancestor[index]
    step, flags = moved.step_size, pop.flags | moved.flags
    return Population(moved.walkers, ancestor, k, step, trace, kept, pop.key, flags)


def advance(path: Path, pop: Population, until: ArrayLike) -> Population:
    """Climb until lam = 1 or `until` rungs are done."""

    def climbing(p: Population) -> Array:
        return (p.lam < 1) & (p.rung < until)

    return jax.lax.while_loop(climbing, lambda p: _rung(path, p), pop)
