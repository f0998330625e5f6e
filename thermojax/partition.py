"""Partition functions with a verdict, and their derivatives.

    Z(beta, control) = int m(theta; control) exp(-beta U(theta; control)) d theta
    d log Z / d beta = -<U>
    d log Z / d lam  = -beta <dU/dlam> + <d log m/dlam>

With a normalised prior log Z(0) = 0, and log Z(1) of a negative log likelihood is the log
evidence (up to the likelihood's own normaliser).

Source: specification of the core, sections 3.1-3.5 and 5.2 (derived here).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax import smc as tempering
from thermojax.binary import values_of
from thermojax.checkpoints import Store, store_of
from thermojax.dynamics.kernel import Stream, stream
from thermojax.estimators.estimate import Estimate, Flag, raise_flags, union
from thermojax.estimators.free_energy import bar, thermodynamic_integration
from thermojax.estimators.mixture import t_factor
from thermojax.estimators.pareto import lower_tail
from thermojax.progress import reporter
from thermojax.propriety import check_normalizable
from thermojax.smc import SMC, Path, Population, Trace
from thermojax.system import Point, System, reduced
from thermojax.typing import Array, ArrayLike, ImproperEnsembleError, Key, PyTree, is_concrete

__all__ = [
    "PartitionParts",
    "check_beta",
    "check_mesh",
    "check_target",
    "differentiable_log_z",
    "smc_log_z",
]


class PartitionParts(NamedTuple):
    """What `log_partition` hands on to its read-outs.

    Attributes:
        point: the target.
        samples: theta [R * n, ...] at the target.
        log_weights: [R * n] log weights of the samples (runs weigh as their Z).
        runs_log_z: [R] log Z of each population.
        trace: `Trace` of each population, leading axis [R].
        rungs: [R] int32 rungs used.
        log_mass: log mass of the measure where the path starts.
        kept: positions [R, W, n, ...] at the ladder's waypoints.
        readouts: log Z by "smc", "bar" and "ti" on the same particles.
        n_gradients: gradients of U spent, all populations.
    """

    point: Point
    samples: PyTree
    log_weights: Array
    runs_log_z: Array
    trace: Trace
    rungs: Array
    log_mass: Array
    kept: PyTree
    readouts: dict[str, Array]
    n_gradients: Array


def smc_log_z(
    settings: SMC,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Store | None = None,
) -> Estimate:
    """log Z by adaptive tempered SMC; call it as `tj.log_partition(..., method=SMC(...))`.

    Args:
        settings: of the populations.
        sys: the system.
        point: target.
        key: typed key.
        reference: normalised measure from which the path starts.
        mesh: mesh with an "ensemble" axis over which the populations are shared out.
        progress: show a bar over the path, or call `progress(done, total)`.
        checkpoint: folder where the populations are kept every few rungs; ignored under
            jit.

    Returns:
        `Estimate`: value = log of the mean Z over populations (unbiased in Z up to the
        adaptation of the ladder); stderr from the spread between populations, widened to
        Student's t and never below what the genealogy says; flags; `parts` as
        `PartitionParts`. Works under jit and vmap.

    Raises:
        ValueError: unadjusted kernel, runs that the mesh cannot share.
    """
    check_mesh(settings.n_runs, mesh)
    path = tempering.prepare(settings, sys, point, reference)
    keys = jax.random.split(stream(key, Stream.SWAP), settings.n_runs)
    if is_concrete((sys, point, key)):
        populations = _climb_in_chunks(path, keys, mesh, progress, checkpoint)
        return _read_jit(path, populations)
    return _read(path, _climb(path, _begin(path, keys, mesh), settings.max_rungs, mesh))


def check_beta(point: Point) -> None:
    """Refuse a beta that is negative or not one number, where it can be seen.

    Raises:
        ValueError: beta < 0 or not a scalar.
    """
    if is_concrete(point.beta):
        beta = np.asarray(point.beta)
        if beta.ndim or not beta >= 0:
            raise ValueError(f"beta={beta} must be one number >= 0: vmap for a sweep")


def check_mesh(n_runs: int, mesh: jax.sharding.Mesh | None) -> None:
    """Refuse runs that the devices of a mesh cannot share.

    Raises:
        ValueError: no multiple.
    """
    if mesh is not None and n_runs % mesh.shape["ensemble"]:
        raise ValueError(
            f"n_runs={n_runs} must be a multiple of the {mesh.shape['ensemble']} devices "
            "of the mesh"
        )


def check_target(sys: System, point: Point, key: Key, reference: Any, check: bool) -> None:
    """Refuse a target whose partition function has no known start or does not converge.

    Raises:
        ImproperEnsembleError: no normalisable start, or (with `check`, which draws
            random rays) Z diverges along a leaf.
        ValueError: beta < 0 or not one number; the shape of theta is unknown.
    """
    start = reference if reference is not None else (sys.reference or sys.prior)
    check_beta(point)
    if start is None or start.log_mass is None:
        raise ImproperEnsembleError(
            "the base measure of this system is not normalisable, so no path to the target "
            "has a known start: give prior=tj.gaussian_prior(scale), or "
            "reference=tj.gaussian_prior(scale, like=theta) for Lebesgue measure, or ask for "
            "differences between two controls" + _culprit(sys, point, key, check)
        )
    if start.template is None:
        raise ValueError(
            "the shape of theta is unknown: say it with tj.system(..., like=theta) or "
            "tj.gaussian_prior(scale, like=theta)"
        )
    if check and (sys.prior is None or sys.prior.log_mass is None):
        check_normalizable(sys, point, key, template=start.template)


def _culprit(sys, point, key, check):
    """Name the leaf along which Z diverges, where the shape of theta is known."""
    if not check or sys.template is None:
        return ""
    try:
        check_normalizable(sys, point, key, template=sys.template)
    except ImproperEnsembleError as error:
        return f" ({error})"
    return ""


def each_run(path: Path, fn: Callable, tree: PyTree, mesh: Any, shared: PyTree = ()) -> PyTree:
    """`fn(path, x, *shared)` over the leading axis of `tree`, the runs.

    One after the other where they go walker by walker, else together.
    """

    def part(path, tree, shared):
        one = lambda x: fn(path, x, *shared)
        return (
            jax.lax.map(one, tree)
            if path.config.tile < path.config.smc.n
            else (jax.vmap(one)(tree))
        )

    if mesh is not None:
        here, there = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("ensemble")
        part = jax.shard_map(
            part, mesh=mesh, in_specs=(here, there, here), out_specs=there, check_vma=False
        )
    return part(path, tree, shared)


def _begin(path: Path, keys: Key, mesh: Any) -> Population:
    return each_run(path, tempering.start, keys, mesh)


def _climb(path: Path, populations: Population, until: ArrayLike, mesh: Any) -> Population:
    limit = jnp.full(populations.rung.shape, until, jnp.int32)
    fn = lambda path, x: tempering.advance(path, *x)
    return each_run(path, fn, (populations, limit), mesh)


_begin_jit = jax.jit(_begin, static_argnames="mesh")
_climb_jit = jax.jit(_climb, static_argnames="mesh")


def _climb_in_chunks(
    path: Path, keys: Key, mesh: Any, progress: Any, checkpoint: Any, rungs: int = 8
) -> Population:
    """All populations to the end of the path, `rungs` at a time; the same numbers."""
    populations, store = _begin_jit(path, keys, mesh), store_of(checkpoint)
    most, until, shown = path.config.smc.max_rungs, 0, 0
    if progress is False and store is None:
        return _climb_jit(path, populations, jnp.int32(most), mesh)
    if store is not None:
        populations = store.load(populations)
        until = int(jnp.min(populations.rung))
    with reporter(progress, 1000, "path") as report:
        while shown < 1000 and until < most:
            until = min(until + rungs, most)
            populations = _climb_jit(path, populations, jnp.int32(until), mesh)
            if store is not None:
                store.save(populations)
            done = int(1000 * path_progress(populations))
            report(done - shown)
            shown = done
    return populations


def path_progress(populations: Population) -> float:
    """Fraction of the ladder done, by the logarithm of the path parameter."""
    trace, rung = populations.trace, np.asarray(populations.rung)
    lam = np.asarray(trace.lam)[np.arange(len(rung)), rung]
    first = np.asarray(trace.lam)[:, 1]
    if np.all(lam >= 1):
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(lam >= 1, 1.0, 1 - np.log(lam) / np.log(first))
    return float(np.clip(np.nanmean(each), 0.0, 0.999))


def _read(path: Path, populations: Population) -> Estimate:
    """Combine the populations into one estimate with its verdict."""
    smc = path.config.smc
    runs = smc.n_runs
    trace, rungs = populations.trace, populations.rung
    log_z = jnp.take_along_axis(trace.log_z, rungs[:, None], axis=1)[:, 0]
    value = logsumexp(log_z) - jnp.log(runs)
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    within, roots, alive = jax.vmap(lambda p: _genealogy(p, smc.n))(populations)
    within = jnp.mean(within)
    spread = jnp.maximum(t_factor(runs) ** 2 * between, within)
    on = jnp.arange(smc.max_rungs + 1)[None, :] <= rungs[:, None]
    readouts, budget = _readouts(trace, on, log_z)
    log_mass = jnp.asarray(path.start.log_mass, value.dtype)
    stderr = jnp.sqrt(spread / runs)
    flags = _verdict(path, populations, log_z, stderr, within, alive, on, readouts, budget)
    if path.config.store_energy:  # V has a floor if the path starts at the prior
        end = lower_tail(populations.walkers.energy.ravel())
        flags = flags | raise_flags((Flag.HEAVY_TAIL, end > 1))
    if values_of(path.start) is None:  # the identity integrates by parts
        flags = flags | raise_flags((Flag.NOT_STATIONARY, _virial(path, populations) > 5))
    flags = flags | union(populations.flags)
    looks = jnp.sum(jnp.where(on, trace.looks, 0))
    parts = PartitionParts(
        point=path.point,
        samples=jax.tree.map(_merge_runs, populations.walkers.position),
        log_weights=jnp.repeat(log_z - logsumexp(log_z) - jnp.log(smc.n), smc.n),
        runs_log_z=log_z + log_mass,
        trace=trace,
        rungs=rungs,
        log_mass=log_mass,
        kept=populations.kept,
        readouts={k: v + log_mass for k, v in readouts.items()},
        n_gradients=looks * smc.n * smc.moves * path.kernel.meta.gradients_per_step,
    )
    weights = jnp.exp(log_z - logsumexp(log_z))
    n_eff = jnp.sum(roots) / runs / jnp.sum(weights**2)
    within_stderr = jnp.sqrt(within / runs)
    return Estimate(value + log_mass, stderr, within_stderr, n_eff, flags, parts)


_read_jit = jax.jit(_read)


def _merge_runs(x: Array) -> Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _genealogy(pop: Population, n: int) -> tuple[Array, Array, Array]:
    """Relative variance of Z-hat by first ancestors; their effective and actual number."""
    offspring = jnp.zeros(n).at[pop.ancestor].add(1.0) / n
    used = jnp.arange(pop.trace.naive.shape[0]) <= pop.rung
    naive = jnp.sum(jnp.where(used, pop.trace.naive, 0.0)) / n
    drift = jnp.sum(jnp.where(used, pop.trace.drift, 0.0))
    variance = jnp.sum(offspring**2) - 1 / n - drift
    alive = jnp.sum(offspring > 0)
    return jnp.maximum(variance, naive), 1 / jnp.sum(offspring**2), alive


def _readouts(trace: Trace, on: Array, log_z: Array) -> tuple[dict[str, Array], Any]:
    """log Z of all runs by BAR and by Hermite TI, beside SMC's; and TI's budget."""

    def one(lam, value, used):
        finite = jnp.isfinite(value) & used[:, None]
        v = jnp.where(finite, value, 0.0)
        d = jnp.diff(lam)

        def pair(d, first, second, good_first, good_second):
            return bar(d * first, -d * second, mask_f=good_first, mask_r=good_second)

        edges = jax.vmap(pair)(d, v[:-1], v[1:], finite[:-1], finite[1:])
        # forbidden regions: a walker there has weight zero, which both read-outs must count
        share = jnp.log(jnp.mean(finite, axis=1))[:-1]
        by_bar = jnp.sum(jnp.where(used[1:], share - edges.value, 0.0))
        overlap = jnp.min(jnp.where(used[1:], edges.parts["overlap"], jnp.inf))
        count = jnp.maximum(jnp.sum(finite, axis=1), 1)
        mean = jnp.sum(v, axis=1) / count
        centred = jnp.where(finite, v - mean[:, None], 0.0)
        variance = jnp.sum(centred**2, axis=1) / count
        # under the reference the mean of V may be infinite: BAR takes the first step
        padded = jnp.where(used, lam, 1.0)[1:]
        ti = thermodynamic_integration(padded, mean[1:], variance[1:])
        return by_bar, ti.value + share[0] - edges.value[0], ti.parts["budget"], overlap

    by_bar, ti, budget, overlap = jax.vmap(one)(trace.lam, trace.value, on)
    pool = lambda x: logsumexp(x) - jnp.log(x.shape[0])
    readouts = {"smc": pool(log_z), "bar": pool(by_bar), "ti": pool(ti)}
    return readouts, (jnp.mean(budget), jnp.min(overlap))


def _verdict(path, populations, log_z, stderr, within, alive, on, readouts, budget):
    """The flags of section 3.4 that tempered SMC can raise."""
    smc, trace = path.config.smc, populations.trace
    runs = smc.n_runs
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    ti_budget, overlap = budget
    gap_bar = jnp.abs(readouts["bar"] - readouts["smc"])
    gap_ti = jnp.abs(readouts["ti"] - readouts["smc"])
    later = on & (jnp.arange(on.shape[1]) > jnp.minimum(5, populations.rung[:, None] - 1))
    acceptance = jnp.sum(jnp.where(later, trace.acceptance, 0.0)) / jnp.sum(later)
    end = populations.walkers.energy
    unfinished = jnp.take_along_axis(trace.lam, populations.rung[:, None], axis=1) < 1
    energy = jnp.max(jnp.where(jnp.isfinite(end), jnp.abs(end), 0.0))
    ulp = jnp.finfo(end.dtype).eps * energy
    return raise_flags(
        (Flag.FEW_RUNS, runs < 4),
        (Flag.LADDER_UNFINISHED, unfinished),
        (Flag.LOW_ESS, jnp.asarray(smc.n * smc.target * runs) < 50),
        (Flag.FEW_ANCESTORS, (jnp.min(alive) < 10) | (within > 0.5)),
        (
            Flag.RUNS_DISAGREE,
            (between > 1.0) | ((between > _disagreement(runs) * within) & (between > 1e-6)),
        ),
        (Flag.NOT_MIXED, jnp.where(on, trace.correlation, 0.0) > 0.8),
        (Flag.NOT_MIXED, _r_hat(end) > 1.05),
        (Flag.POOR_OVERLAP, overlap < 0.03),
        (
            Flag.BAD_ACCEPTANCE,
            tempering.tunable(path.kernel) & ((acceptance < 0.15) | (acceptance > 0.98)),
        ),
        (
            Flag.READOUTS_DISAGREE,
            # the same samples: where they mix the gap is a third of an error
            (gap_bar > 2 * stderr + 1e-4)
            | (gap_ti > 3 * jnp.sqrt(stderr**2 + ti_budget**2) + 1e-4),
        ),
        (Flag.PHASE_COEXISTENCE, _coexistence(trace, on, smc.forget)),
        (Flag.FLOAT_RESOLUTION, ulp > 0.01),
        (Flag.NONFINITE, ~jnp.isfinite(log_z)),
    )


def _virial(path: Path, populations: Population) -> Array:
    """How many standard errors the final particles miss <theta . grad u> = d.

    The identity holds for every ensemble whose density vanishes at infinity and knows
    nothing of log Z: particles that lag behind the ladder break it even where all runs
    lag alike. The error is the larger of the spread over runs and that over particles.
    With hard walls (infinite energies) the identity gains a boundary term: no check.
    """
    sys, point = path.system, path.point
    positions = populations.walkers.position

    def one(theta):
        slope = jax.grad(lambda t: reduced(sys, t, point))(theta)
        products = jax.tree.map(lambda x, g: jnp.sum(x * g), theta, slope)
        return sum(jax.tree.leaves(products))

    values = jax.lax.map(lambda p: tempering.map_tiles(one, p, path.config.tile), positions)
    size = sum(leaf[0, 0].size for leaf in jax.tree.leaves(positions))
    excess = values - size
    runs = jnp.mean(excess, axis=1)
    by_run = jnp.std(runs, ddof=1) / jnp.sqrt(runs.size) if runs.size > 1 else 0.0
    by_particle = jnp.std(excess) / jnp.sqrt(excess.size)
    score = jnp.abs(jnp.mean(runs)) / jnp.maximum(by_run, by_particle)
    walls = jnp.any(~jnp.isfinite(populations.trace.value[:, 0]))
    return jnp.where(walls, 0.0, score)


def _disagreement(runs: int) -> float:
    """Ratio of between- to within-run variance that chance does not reach (about 1e-4).

    The genealogical variance is itself up to twice too small, hence the 4.
    """
    return 4 * (1 + 6 / max(runs - 1, 1))


def _r_hat(value: Array) -> Array:
    """Potential scale reduction of V over runs [R, n]; 1 for one run."""
    if value.shape[0] < 2:
        return jnp.ones(())
    inside = jnp.mean(jnp.var(value, axis=1, ddof=1))
    outside = jnp.var(jnp.mean(value, axis=1), ddof=1)
    return jnp.sqrt(1 + outside / jnp.where(inside > 0, inside, 1.0))


def _coexistence(trace: Trace, on: Array, forget: float, bins: int = 16) -> Array:
    """Two energy peaks at some rung, each with a tenth of the walkers, dip > 2 nats.

    The dip must be beyond counting noise, by four standard errors, and the moves must
    have failed to mix there: two peaks that exchange walkers freely do no harm.
    """

    def one(value, used, correlation):
        finite = jnp.isfinite(value)
        value = jnp.where(finite, value, 0.0)
        count = jnp.maximum(jnp.sum(finite), 1)
        mean = jnp.sum(value) / count
        spread = jnp.sqrt(jnp.sum(jnp.where(finite, (value - mean) ** 2, 0.0)) / count)
        low, width = mean - 2.5 * spread, jnp.where(spread > 0, 5 * spread, 1.0)
        place = jnp.clip(((value - low) / width * bins).astype(jnp.int32), 0, bins - 1)
        counts = jnp.zeros(bins).at[place].add(finite)
        left_mass, right_mass = jnp.cumsum(counts), jnp.cumsum(counts[::-1])[::-1]
        left = jax.lax.cummax(counts)
        right = jax.lax.cummax(counts, reverse=True)
        lower = jnp.minimum(left, right)
        dip = jnp.log((lower + 1) / (counts + 1))
        sure = (lower - counts) > 4 * jnp.sqrt(lower + counts + 1)
        heavy = jnp.minimum(left_mass, right_mass) > 0.1 * value.shape[0]
        stuck = correlation > forget
        return jnp.any((dip > 2) & sure & heavy) & used & stuck

    return jnp.any(jax.vmap(jax.vmap(one))(trace.value, on, trace.correlation))


def differentiable_log_z(
    est: Estimate, sys: System, *, batch_size: int | None = None
) -> Callable[[Point], Array]:
    """A function of the point whose value and every derivative estimate log Z.

        f(point) = log Z-hat + log sum_i w_i exp(u(theta_i; point_0) - u(theta_i; point))

    on the stored samples of `est` (taken at point_0): at point_0 its value is the
    estimate's, its gradient -<du>, its Hessian Var(du) - <d2u>, and so on to any order,
    in both modes of differentiation, under jit and vmap. Away from point_0 it is
    reweighting, good while the ensembles overlap.

    Args:
        est: result of `log_partition`.
        sys: the same system, or one that differs in data, prior scales or control.
        batch_size: samples evaluated at once; all by default.

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = smc_log_z(SMC(n=512), sys, Point(1.0), jax.random.key(0))
        >>> slope = jax.grad(differentiable_log_z(est, sys))(Point(1.0)).beta
        >>> bool(abs(slope + 0.25) < 0.02)  # -<U>
        True
    """
    parts = est.parts
    samples = jax.lax.stop_gradient(parts.samples)
    start = jax.lax.stop_gradient(parts.point)

    def energies(point):
        one = lambda theta: reduced(sys, theta, point)
        if batch_size is None:
            return jax.vmap(one)(samples)
        return jax.lax.map(one, samples, batch_size=batch_size)

    def f(point: Point) -> Array:
        before = jax.lax.stop_gradient(energies(start))
        weights = jax.lax.stop_gradient(parts.log_weights)
        value = jax.lax.stop_gradient(est.value)
        return value + logsumexp(weights + before - energies(point))

    return f
