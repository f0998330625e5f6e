"""Thermodynamic integration: metropolised chains at nodes of equal thermodynamic length.

    log Z = log mass + log(Z_1/Z_0) - int_{lam_1}^1 <V>_lam d lam

The integral by the Hermite rule on mean and variance of V at the nodes; the first interval,
where <V> under the reference may be infinite, by Bennett's ratio between exact draws and the
chains of the first node. Every run starts its chains from a pilot population of its own
(`thermojax.pilot`) and all its nodes move side by side.

Cost: n_runs * nodes * chains * (burn + draws) * moves kernel steps; memory n_runs * nodes *
chains walkers, and the pilot's positions, n_runs * max_rungs * chains of them. Use it for
smooth curves <U>(beta), whose error it spreads evenly, and as a check on `tj.SMC`: its draws
are moved many times beyond their start. It lies where <V> jumps between two nodes (a first-
order transition), where READOUTS_DISAGREE and POOR_OVERLAP speak, and where chains cannot
leave the modes in which the pilot put them, with its weights, or reach the arms of a curved
ridge (Rosenbrock's: high by one standard error; more moves help).

Source: Kirkwood 1935; specification of the core, section 3.3; rule and placement derived
there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax import smc as tempering
from thermojax.anneal import refuse_unused
from thermojax.binary import values_of
from thermojax.dynamics.kernel import Kernel, Stream, stream
from thermojax.ensembles import map_tiles
from thermojax.estimators.estimate import Estimate, Flag, raise_flags, union
from thermojax.estimators.free_energy import bar, thermodynamic_integration
from thermojax.estimators.mbar import GONE, THIN
from thermojax.estimators.mixture import t_factor
from thermojax.partition import (
    PartitionParts,
    _coexistence,
    _disagreement,
    _each_run,
    _genealogy,
    check_target,
)
from thermojax.pilot import Pilot, Schedule, average, lags, lay_out, parameters, pilot, tile_for
from thermojax.smc import SMC, Path, Trace
from thermojax.system import Point, System
from thermojax.typing import Array, Key, PyTree

__all__ = ["TI", "integrate_log_z"]


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
        self.scout()

    def scout(self) -> SMC:
        """Settings of the pilots."""
        return SMC(
            n=self.pilot,
            n_runs=1,
            target=self.target,
            max_rungs=self.max_rungs,
            kernel=self.kernel,
        )


def integrate_log_z(
    settings: TI,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: Any = False,
    checkpoint: Any = None,
) -> Estimate:
    """log Z in nats by thermodynamic integration from the prior or a reference.

        log Z = log mass + log(Z_1/Z_0) - int_{lam_1}^1 <V>_lam d lam

    Args:
        settings: `TI(...)`.
        sys: the system; its base measure must be normalisable, or a reference given.
        point: where.
        key: typed key.
        reference: normalised measure with a sampler from which the path starts.
        mesh: mesh with an "ensemble" axis over which the runs are shared out.
        progress: not used; refused.
        checkpoint: not used; refused.

    Returns:
        `Estimate` (scope "total"): mean over runs; stderr from their spread, widened to
        Student's t and never below that of the chains, plus a quarter of the difference
        between Hermite and trapezoid rule as a budget for the discretisation; `parts` as
        `PartitionParts`, so that `tj.curve` and `tj.differentiable_log_z` apply. Works
        under jit and vmap. Where neighbouring nodes do not overlap it is refused: nan.

    Raises:
        ImproperEnsembleError: no normalisable start.
        ValueError: beta < 0, an unadjusted kernel, progress or checkpoint given.

    Source: specification of the core, section 3.3 (derived there).

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> few = TI(nodes=6, n_runs=4, max_rungs=32)
        >>> est = integrate_log_z(few, sys, Point(1.0), jax.random.key(0))
        >>> bool(abs(est.value + 0.5 * jnp.log(2.0)) < 0.1)
        True
    """
    refuse_unused("TI", progress=progress, checkpoint=checkpoint)
    check_target(sys, point, key, reference, False)  # rays: log_partition does
    if mesh is not None and settings.n_runs % mesh.shape["ensemble"]:
        raise ValueError(
            f"n_runs={settings.n_runs} must be a multiple of the {mesh.shape['ensemble']} "
            "devices of the mesh"
        )
    path = tempering.prepare(settings.scout(), sys, point, reference)
    return _integrate(settings, path, key, mesh)


class _Chains(NamedTuple):
    """One run: V [K+1, n] and U of all draws, row 0 exact; what the chains did."""

    value: Array
    energy: Any
    samples: PyTree
    acceptance: Array
    flags: Array


class _Sums(NamedTuple):
    """One run's read-outs along the nodes."""

    log_z: Array
    trapezoid_gap: Array
    by_bar: Array
    within: Array
    overlap: Array
    correlation: Array
    mean: Array
    error: Array


@jax.jit(static_argnames=("settings", "mesh"))
def _integrate(settings: TI, path: Path, key: Key, mesh: Any) -> Estimate:
    runs = settings.n_runs
    first = jax.random.split(stream(key, Stream.PROBE), runs)
    scout = lambda path, key: pilot(path, key, settings.chains)
    scouts = _each_run(path, scout, first, mesh)
    plan = average(jax.vmap(lambda p: lay_out(p, settings.nodes))(scouts))
    starts = jax.vmap(lambda p: _starts(p, plan))(scouts)
    keys = jax.random.split(stream(key, Stream.SWAP), runs)
    plans = jax.tree.map(lambda x: jnp.broadcast_to(x, (runs, *x.shape)), plan)
    run = lambda path, x: _sample(settings, path, *x)
    chains = _each_run(path, run, (keys, plans, starts), mesh)
    sums = jax.vmap(lambda v: _sum_up(settings, plan.lam, v))(chains.value)
    return _read(settings, path, scouts, plan, chains, sums)


def _starts(found: Pilot, plan: Schedule) -> PyTree:
    """Positions [K, chains, ...] of the run's own pilot, just beyond every node."""
    pop = found.population
    on = jnp.arange(len(pop.trace.lam)) <= pop.rung
    ladder = jnp.where(on, pop.trace.lam, jnp.inf)
    row = jnp.minimum(jnp.searchsorted(ladder, plan.lam), pop.rung)
    return jax.tree.map(lambda x: x[row], found.positions)


def _sample(settings: TI, path: Path, key: Key, plan: Schedule, starts: PyTree) -> _Chains:
    """Exact draws of the reference, and chains at all nodes."""
    k, c, s = settings.nodes, settings.chains, settings.draws
    kernel, store = path.kernel, path.config.store_energy
    draws, moves = stream(key, Stream.INIT), stream(key, Stream.MOVES)
    energy_of = lambda theta: path.system.energy(theta, path.point.control) if store else ()

    def reference(i):
        at = Point(jnp.zeros((), plan.lam.dtype), path.point)
        theta = kernel.sample(jax.random.fold_in(draws, i), at)
        return kernel.init(theta, at).energy, energy_of(theta)

    def chain(args):
        i, node, theta = args
        at, params = Point(node.lam, path.point), parameters(path, node)
        mine = jax.random.fold_in(moves, i)

        def draw(carry, m):
            def move(j, carry):
                walker, total, flags = carry
                here = jax.random.fold_in(mine, m * settings.moves + j)
                walker, info = kernel.step(here, walker, at, params)
                wrong = info.flags & jnp.uint32(Flag.WRONG_BLOCKS)
                return walker, total + info.acceptance, flags | wrong

            walker, total, flags = jax.lax.fori_loop(0, settings.moves, move, carry)
            target = i >= (k - 1) * c  # positions of the other nodes are not kept
            kept = jax.tree.map(lambda x: jnp.where(target, x, 0), walker.position)
            row = walker.energy, energy_of(walker.position), kept
            return (walker, total, flags), row

        walker = kernel.init(theta, at)
        carry = (walker, jnp.zeros_like(walker.energy), jnp.zeros((), jnp.uint32))
        steps = jnp.arange(settings.burn + s)
        (_, total, flags), rows = jax.lax.scan(draw, carry, steps)
        rows = jax.tree.map(lambda x: x[settings.burn :], rows)
        return *rows, total / (len(steps) * settings.moves), flags

    tile = lambda size: tile_for(path, size)
    exact = map_tiles(reference, jnp.arange(c * s), tile(c * s))
    spread = jax.tree.map(lambda x: jnp.repeat(x, c, axis=0), plan)
    flat = jax.tree.map(lambda x: x.reshape(k * c, *x.shape[2:]), starts)
    out = map_tiles(chain, (jnp.arange(k * c), spread, flat), tile(k * c))
    value, energy, position, acceptance, flags = out
    rows = lambda x, y: jnp.concatenate([x[None], y.reshape(k, c * s)])
    return _Chains(
        value=rows(exact[0], value),
        energy=jax.tree.map(rows, exact[1], energy),
        samples=jax.tree.map(lambda x: x[-c:].reshape(c * s, *x.shape[2:]), position),
        acceptance=jnp.mean(acceptance.reshape(k, c), axis=1),
        flags=union(flags),
    )


def _sum_up(settings: TI, nodes: Array, value: Array) -> _Sums:
    """log Z along the nodes of one run by TI and by Bennett's ratio, with their errors."""
    c, s = settings.chains, settings.draws
    lam = jnp.concatenate([jnp.zeros(1, nodes.dtype), nodes])
    finite = jnp.isfinite(value)
    v = jnp.where(finite, value, 0.0)

    def pair(d, first, second, on_first, on_second):
        return bar(d * first, -d * second, mask_f=on_first, mask_r=on_second)

    edges = jax.vmap(pair)(jnp.diff(lam), v[:-1], v[1:], finite[:-1], finite[1:])
    # walls: a draw of the reference behind one has weight zero
    share = jnp.log(jnp.mean(finite[0]))
    by_chain = v[1:].reshape(-1, c, s)
    mean, variance = jnp.mean(v[1:], axis=1), jnp.var(v[1:], axis=1)
    error = jnp.std(jnp.mean(by_chain, axis=2), axis=1, ddof=1) / jnp.sqrt(c)

    def up_to(k):
        # padding contributes nothing
        rule = thermodynamic_integration(
            jnp.minimum(nodes, nodes[k]), mean, variance, jnp.where(nodes <= nodes[k], error, 0)
        )
        return rule.value, rule.within_stderr, rule.parts["budget"]

    along, statistical, budget = jax.lax.map(up_to, jnp.arange(len(nodes)))
    begin = share - edges.value[0]
    deviation = by_chain - mean[:, None, None]
    lagged = jnp.mean(deviation[..., 1:] * deviation[..., :-1], axis=(1, 2))
    return _Sums(
        log_z=jnp.concatenate([jnp.zeros(1, v.dtype), begin + along]),
        trapezoid_gap=budget[-1],
        by_bar=share - jnp.sum(edges.value),
        within=jnp.sqrt(statistical[-1] ** 2 + edges.stderr[0] ** 2),
        overlap=jnp.min(edges.parts["overlap"]),
        correlation=lagged / jnp.where(variance > 0, variance, 1.0),
        mean=mean,
        error=error,
    )


def _read(
    settings: TI, path: Path, scouts: Pilot, plan: Schedule, chains: _Chains, sums: _Sums
) -> Estimate:
    """Combine the runs into one estimate with its verdict."""
    runs, k, n = settings.n_runs, settings.nodes, settings.chains * settings.draws
    log_z = sums.log_z[:, -1]
    value = jnp.mean(log_z)
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    within = jnp.mean(sums.within**2)
    budget = jnp.mean(sums.trapezoid_gap)
    spread = jnp.maximum(t_factor(runs) ** 2 * between, within)
    stderr = jnp.sqrt(spread / runs + budget**2)
    log_mass = jnp.asarray(path.start.log_mass, value.dtype)
    trace = _trace(settings, path, plan, chains, sums)
    readouts = {"ti": value, "bar": jnp.mean(sums.by_bar), "pilot": _of_pilots(scouts)[0]}
    flags = _verdict(settings, path, scouts, chains, sums, trace, stderr, readouts)
    pops = scouts.population
    looks = jnp.sum(pops.trace.looks) * settings.scout().moves * settings.pilot
    steps = runs * k * settings.chains * (settings.burn + settings.draws) * settings.moves
    merge = lambda x: x.reshape(runs * n, *x.shape[2:])
    parts = PartitionParts(
        point=path.point,
        samples=jax.tree.map(merge, chains.samples),
        log_weights=jnp.full(runs * n, -jnp.log(runs * n), value.dtype),
        runs_log_z=log_z + log_mass,
        trace=trace,
        rungs=jnp.full(runs, k, jnp.int32),
        log_mass=log_mass,
        kept=(),
        readouts={name: x + log_mass for name, x in readouts.items()},
        n_gradients=(looks + steps) * path.kernel.meta.gradients_per_step,
    )
    rho = jnp.clip(jnp.mean(sums.correlation[:, -1]), 0.0, 0.99)
    n_eff = runs * n * (1 - rho) / (1 + rho)
    lost = ~jnp.isfinite(value) | ~(jnp.min(sums.overlap) >= GONE)
    value = jnp.where(lost, jnp.nan, value + log_mass)
    error = jnp.where(lost, jnp.inf, stderr)
    return Estimate(value, error, jnp.sqrt(within / runs), n_eff, flags, parts)


def _trace(settings: TI, path: Path, plan: Schedule, chains: _Chains, sums: _Sums) -> Trace:
    """The nodes as rungs of a ladder, with a leading axis [R]."""
    runs, k = settings.n_runs, settings.nodes
    ones = jnp.ones((runs, 1), plan.lam.dtype)
    nothing = jnp.zeros((runs, k + 1), plan.lam.dtype)
    return Trace(
        lam=jnp.concatenate([0 * ones, ones * plan.lam], axis=1),
        value=chains.value,
        energy=chains.energy,
        log_z=sums.log_z,
        acceptance=jnp.concatenate([ones, chains.acceptance], axis=1),
        correlation=jnp.concatenate([0 * ones, jnp.abs(sums.correlation)], axis=1),
        looks=jnp.full((runs, k + 1), settings.draws, jnp.int32).at[:, 0].set(0),
        naive=nothing,
        drift=nothing,
    )


def _of_pilots(scouts: Pilot) -> tuple[Array, Array]:
    """Mean of the pilots' own log Z, and its standard error."""
    pops = scouts.population
    log_z = jax.vmap(lambda p: p.log_z)(pops)
    runs, n = pops.ancestor.shape
    variance = jnp.mean(jax.vmap(lambda p: _genealogy(p, n)[0])(pops))
    if runs > 1:
        variance = jnp.maximum(variance, jnp.var(log_z, ddof=1))
    # the logarithm of an unbiased Z is low by half its variance
    return jnp.mean(log_z) + variance / 2, jnp.sqrt(variance / runs + (variance / 2) ** 2)


def _verdict(settings, path, scouts, chains, sums, trace, stderr, readouts):
    """The flags of section 3.4 that thermodynamic integration can raise."""
    runs, c, s = settings.n_runs, settings.chains, settings.draws
    log_z = sums.log_z[:, -1]
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    within = jnp.mean(sums.within**2)
    acceptance = jnp.mean(chains.acceptance)
    gap_pilot = jnp.abs(readouts["pilot"] - readouts["ti"])
    end = chains.value[:, -1]
    energy = jnp.max(jnp.where(jnp.isfinite(end), jnp.abs(end), 0.0))
    mean = jnp.mean(sums.mean, axis=0)
    spread = jnp.mean(sums.error**2, axis=0)
    if runs > 1:
        spread = jnp.maximum(spread, jnp.var(sums.mean, axis=0, ddof=1))
    error = jnp.sqrt(spread / runs)
    # two peaks matter only where whole chains stay in theirs
    stuck = trace._replace(correlation=trace.correlation**s)
    rising = jnp.diff(mean) > 4 * jnp.hypot(error[1:], error[:-1])
    flags = union(chains.flags) | raise_flags(
        (Flag.FEW_RUNS, runs < 4),
        (Flag.LADDER_UNFINISHED, jax.vmap(lambda p: p.lam)(scouts.population) < 1),
        (
            Flag.RUNS_DISAGREE,
            (between > 1) | ((between > _disagreement(runs) * within) & (between > 1e-6)),
        ),
        (Flag.NOT_MIXED, jnp.mean(sums.correlation, axis=0) > 0.8),
        (Flag.POOR_OVERLAP, ~(sums.overlap >= THIN)),
        (Flag.NOT_CONVEX, rising),
        (
            Flag.READOUTS_DISAGREE,
            (jnp.abs(readouts["bar"] - readouts["ti"]) > 3 * stderr + 1e-4)
            | (gap_pilot > 5 * jnp.hypot(stderr, _of_pilots(scouts)[1]) + 1e-4),
        ),
        (
            Flag.BAD_ACCEPTANCE,
            tempering.tunable(path.kernel) & ((acceptance < 0.15) | (acceptance > 0.98)),
        ),
        (
            Flag.PHASE_COEXISTENCE,
            _coexistence(stuck, jnp.ones(trace.lam.shape, bool), path.config.smc.forget),
        ),
        (Flag.FLOAT_RESOLUTION, jnp.finfo(energy.dtype).eps * energy > 0.01),
        (Flag.NONFINITE, ~jnp.isfinite(log_z)),
    )
    if values_of(path.start) is not None:
        return flags
    walls = jnp.any(~jnp.isfinite(chains.value[:, 0]))
    even = jnp.zeros((runs, c * s), stderr.dtype)
    lagging = lags(path, chains.samples, even, walls)
    return flags | raise_flags((Flag.NOT_STATIONARY, lagging))
