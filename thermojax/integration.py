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

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax import smc as tempering
from thermojax.binary import values_of
from thermojax.checkpoints import Store, in_chunks
from thermojax.estimators.estimate import Estimate, Flag, raise_flags, union
from thermojax.estimators.free_energy import bar, thermodynamic_integration
from thermojax.estimators.mbar import GONE, THIN
from thermojax.estimators.mixture import t_factor
from thermojax.nodes import TI, Chains, Draws, advance, begin, gather
from thermojax.partition import (
    PartitionParts,
    _coexistence,
    _disagreement,
    _genealogy,
    check_mesh,
    check_target,
)
from thermojax.pilot import Pilot, Schedule, lags, pilot_settings
from thermojax.smc import Path, Trace
from thermojax.system import Point, System
from thermojax.typing import Array, Key, is_concrete

__all__ = ["TI", "integrate_log_z"]


def integrate_log_z(
    settings: TI,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Store | None = None,
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
        progress: show a bar over the draws, or call `progress(done, total)`.
        checkpoint: folder where the chains are kept every sixteenth of their draws, and
            from where they go on, bit for bit; ignored under jit.

    Returns:
        `Estimate` (scope "total"): mean over runs; stderr from their spread, widened to
        Student's t and never below that of the chains, plus a quarter of the difference
        between Hermite and trapezoid rule as a budget for the discretisation; `parts` as
        `PartitionParts`, so that `tj.curve` and `tj.differentiable_log_z` apply. Works
        under jit and vmap. Where neighbouring nodes do not overlap it is refused: nan.

    Raises:
        ImproperEnsembleError: no normalisable start.
        ValueError: beta < 0, an unadjusted kernel, runs that the mesh cannot share.

    Source: specification of the core, section 3.3 (derived there).

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> few = TI(nodes=6, n_runs=4, max_rungs=32)
        >>> est = integrate_log_z(few, sys, Point(1.0), jax.random.key(0))
        >>> bool(abs(est.value + 0.5 * jnp.log(2.0)) < 0.1)
        True
    """
    check_target(sys, point, key, reference, False)  # rays: log_partition does
    check_mesh(settings.n_runs, mesh)
    path = tempering.prepare(pilot_settings(settings), sys, point, reference)
    draws = settings.burn + settings.draws
    if not is_concrete((path, key)):
        scouts, plan, chains = begin(settings, path, key, mesh)
        chains = advance(settings, path, plan, key, chains, draws, mesh)
        return _read(settings, path, scouts, plan, chains)
    scouts, plan, chains = _begin_jit(settings, path, key, mesh)
    chains = in_chunks(
        lambda chains, until: _advance_jit(
            settings, path, plan, key, chains, jnp.int32(until), mesh
        ),
        chains,
        lambda chains: chains.draw[0],
        draws,
        chunk=draws // 16,
        unit="draws",
        progress=progress,
        checkpoint=checkpoint,
    )
    return _read_jit(settings, path, scouts, plan, chains)


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


def _read(settings: TI, path: Path, scouts: Pilot, plan: Schedule, chains: Chains) -> Estimate:
    """Combine the runs into one estimate with its verdict."""
    drawn = gather(settings, chains)
    sums = jax.vmap(lambda v: _sum_up(settings, plan.lam, v))(drawn.value)
    runs, k, n = settings.n_runs, settings.nodes, settings.chains * settings.draws
    log_z = sums.log_z[:, -1]
    value = jnp.mean(log_z)
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    within = jnp.mean(sums.within**2)
    budget = jnp.mean(sums.trapezoid_gap)
    spread = jnp.maximum(t_factor(runs) ** 2 * between, within)
    stderr = jnp.sqrt(spread / runs + budget**2)
    log_mass = jnp.asarray(path.start.log_mass, value.dtype)
    trace = _trace(settings, plan, drawn, sums)
    readouts = {"ti": value, "bar": jnp.mean(sums.by_bar), "pilot": _of_pilots(scouts)[0]}
    flags = _verdict(settings, path, scouts, drawn, sums, trace, stderr, readouts)
    flags = flags | union(chains.flags)
    pops = scouts.population
    smc = path.config.smc
    looks = jnp.sum(pops.trace.looks) * smc.moves * smc.n
    steps = runs * k * settings.chains * (settings.burn + settings.draws) * settings.moves
    merge = lambda x: x.reshape(runs * n, *x.shape[2:])
    parts = PartitionParts(
        point=path.point,
        samples=jax.tree.map(merge, drawn.samples),
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


_begin_jit = jax.jit(begin, static_argnames=("settings", "mesh"))
_advance_jit = jax.jit(advance, static_argnames=("settings", "mesh"))
_read_jit = jax.jit(_read, static_argnames="settings")


def _trace(settings: TI, plan: Schedule, drawn: Draws, sums: _Sums) -> Trace:
    """The nodes as rungs of a ladder, with a leading axis [R]."""
    runs, k = settings.n_runs, settings.nodes
    ones = jnp.ones((runs, 1), plan.lam.dtype)
    nothing = jnp.zeros((runs, k + 1), plan.lam.dtype)
    return Trace(
        lam=jnp.concatenate([0 * ones, ones * plan.lam], axis=1),
        value=drawn.value,
        energy=drawn.energy,
        log_z=sums.log_z,
        acceptance=jnp.concatenate([ones, drawn.acceptance], axis=1),
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


def _verdict(settings, path, scouts, drawn, sums, trace, stderr, readouts):
    """The flags of section 3.4 that thermodynamic integration can raise."""
    runs, c, s = settings.n_runs, settings.chains, settings.draws
    log_z = sums.log_z[:, -1]
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    within = jnp.mean(sums.within**2)
    acceptance = jnp.mean(drawn.acceptance)
    gap_pilot = jnp.abs(readouts["pilot"] - readouts["ti"])
    end = drawn.value[:, -1]
    energy = jnp.max(jnp.where(jnp.isfinite(end), jnp.abs(end), 0.0))
    mean = jnp.mean(sums.mean, axis=0)
    spread = jnp.mean(sums.error**2, axis=0)
    if runs > 1:
        spread = jnp.maximum(spread, jnp.var(sums.mean, axis=0, ddof=1))
    error = jnp.sqrt(spread / runs)
    # two peaks matter only where whole chains stay in theirs
    stuck = trace._replace(correlation=trace.correlation**s)
    rising = jnp.diff(mean) > 4 * jnp.hypot(error[1:], error[:-1])
    flags = raise_flags(
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
    walls = jnp.any(~jnp.isfinite(drawn.value[:, 0]))
    even = jnp.zeros((runs, c * s), stderr.dtype)
    lagging = lags(path, drawn.samples, even, walls)
    return flags | raise_flags((Flag.NOT_STATIONARY, lagging))
