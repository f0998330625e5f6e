"""Annealed importance sampling: every walker climbs alone, its work is its weight.

    theta_0 ~ q,   theta_m ~ K_m(theta_{m-1}, .),   K_m leaves p_{lam_m} invariant
    log w = -sum_m (lam_m - lam_{m-1}) V(theta_{m-1})
    log Z = log <w>

Walkers never meet: no resampling, so that devices need not talk and the works of all
walkers are an exact sample of the work distribution. The ladder and the kernels come from a
pilot (`thermojax.pilot`) and are frozen before the first walker starts, so that Z is
unbiased at any number of rungs and moves.

Cost: n * n_runs * rungs * moves kernel steps; memory one walker each. Var log w falls as
Lambda^2 / rungs with perfect mixing, so that rungs must grow with the square of the
thermodynamic length (its growth is linear for SMC). Use it where resampling is unwanted or
the works themselves are wanted; `tj.SMC` has the smaller error at equal cost. It lies low
where log w spreads over several nats: log <w> then rests on walkers that no sample has,
which LOW_ESS and HEAVY_TAIL tell from the weights that are there.

Source: Neal 2001; Jarzynski 1997; specification of the core, section 3.3; frozen pilot
ladder derived here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax import smc as tempering
from thermojax.binary import values_of
from thermojax.checkpoints import Store, in_chunks
from thermojax.dynamics.kernel import Kernel, Ledger, Stream, stream
from thermojax.ensembles import EnsembleState, drive, init_ensemble, map_tiles
from thermojax.estimators.estimate import Estimate, Flag, raise_flags, union
from thermojax.estimators.mixture import t_factor
from thermojax.estimators.work import jarzynski
from thermojax.partition import (
    _disagreement,
    _genealogy,
    check_mesh,
    check_target,
    each_run,
)
from thermojax.pilot import (
    Pilot,
    Schedule,
    lags,
    lay_out,
    pilot,
    pilot_settings,
    run_keys,
    tile_for,
    visit,
)
from thermojax.smc import Path
from thermojax.system import Point, System
from thermojax.typing import Array, Key, PyTree, is_concrete

__all__ = ["AIS", "AnnealParts", "Annealed", "anneal", "anneal_log_z"]


@dataclasses.dataclass(frozen=True)
class AIS:
    """Settings of annealed importance sampling; see the module docstring.

    Attributes:
        n: walkers per run.
        n_runs: independent runs, whose spread is the error bar (never below what all
            walkers say by themselves).
        rungs: rungs of the frozen ladder.
        moves: kernel steps per rung.
        pilot: particles of the pilot population.
        target: effective sample size, as a fraction, that each step of the pilot keeps.
        max_rungs: length of the pilot's ladder at most.
        kernel: `system -> Kernel`, metropolised; HMC by default, `tj.gibbs_flip` site by
            site over binary states.
    """

    n: int = 512
    n_runs: int = 8
    rungs: int = 128
    moves: int = 1
    pilot: int = 256
    target: float = 0.9
    max_rungs: int = 256
    kernel: Callable[[System], Kernel] | None = None

    def __post_init__(self):
        least = (("n", 8), ("n_runs", 1), ("rungs", 1), ("moves", 1), ("pilot", 8))
        for name, low in least:
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {low}")
        pilot_settings(self)


class AnnealParts(NamedTuple):
    """What annealed importance sampling hands on.

    Attributes:
        point: the target.
        samples: theta [R * n, ...] at the end of the path.
        log_weights: [R * n] their normalised log weights.
        runs_log_z: [R] log Z of each run.
        log_mass: log mass of the measure where the path starts.
        n_gradients: gradients of U spent, the pilot's included.
        work: [R, n] -log w of every walker, nats: the reduced work.
        lam: [rungs] the frozen ladder after lam = 0.
        acceptance: [rungs] mean acceptance over the walkers.
        readouts: log Z by "ais", by the second "cumulant" -<work> + Var/2, and by the
            "pilot"'s SMC.
        pareto_k: shape of the tail of the weights.
    """

    point: Point
    samples: PyTree
    log_weights: Array
    runs_log_z: Array
    log_mass: Array
    n_gradients: Array
    work: Array
    lam: Array
    acceptance: Array
    readouts: dict[str, Array]
    pareto_k: Array


def anneal_log_z(
    settings: AIS,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Store | None = None,
) -> Estimate:
    """log Z in nats by annealed importance sampling from the prior or a reference.

        log Z = log mass + log <exp(-sum_m (lam_m - lam_{m-1}) V(theta_{m-1}))>

    Args:
        settings: `AIS(...)`.
        sys: the system; its base measure must be normalisable, or a reference given.
        point: where.
        key: typed key.
        reference: normalised measure with a sampler from which the path starts.
        mesh: mesh with an "ensemble" axis over which the runs are shared out.
        progress: show a bar over the rungs, or call `progress(done, total)`.
        checkpoint: folder where the walkers are kept every sixteenth of the way, and from
            where they go on, bit for bit; ignored under jit.

    Returns:
        `Estimate` (scope "total"): the log of the mean weight of all walkers, unbiased in
        Z; stderr from the spread between runs, widened to Student's t and never below the
        jackknife over walkers; `parts` as `AnnealParts`. Works under jit and vmap.

    Raises:
        ImproperEnsembleError: no normalisable start.
        ValueError: beta < 0, an unadjusted kernel, runs that the mesh cannot share.

    Source: Neal 2001; specification of the core, section 3.3.

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> few = AIS(n=64, n_runs=4, rungs=16, pilot=64)
        >>> est = anneal_log_z(few, sys, Point(1.0), jax.random.key(0))
        >>> bool(abs(est.value + 0.5 * jnp.log(2.0)) < 0.1)
        True
    """
    check_target(sys, point, key, reference, False)  # rays: log_partition does
    check_mesh(settings.n_runs, mesh)
    path = tempering.prepare(pilot_settings(settings), sys, point, reference)
    if not is_concrete((path, key)):
        scout, plan, climb = _begin(settings, path, key, mesh)
        climb = _advance(settings, path, plan, key, climb, settings.rungs, mesh)
        return _read(settings, path, scout, plan, climb)
    scout, plan, climb = _begin_jit(settings, path, key, mesh)
    climb = in_chunks(
        lambda climb, until: _advance_jit(
            settings, path, plan, key, climb, jnp.int32(until), mesh
        ),
        climb,
        lambda climb: climb.rung[0],
        settings.rungs,
        chunk=settings.rungs // 16,
        unit="rungs",
        progress=progress,
        checkpoint=checkpoint,
    )
    return _read_jit(settings, path, scout, plan, climb)


class _Climb(NamedTuple):
    """Walkers of all runs between two rungs.

    Attributes:
        rung: [R] int32 rungs behind them.
        walkers: kernel states [R, n, ...].
        log_w: [R, n] log weights.
        acceptance: [R, rungs] mean acceptance.
        flags: [R] uint32.
        start: [R, n] V of the draws of the reference.
    """

    rung: Array
    walkers: Any
    log_w: Array
    acceptance: Array
    flags: Array
    start: Array


def _begin(settings: AIS, path: Path, key: Key, mesh: Any) -> tuple[Pilot, Schedule, _Climb]:
    """The frozen ladder, and exact draws of the reference at its foot."""
    scout = pilot(path, stream(key, Stream.PROBE))
    plan = lay_out(scout, settings.rungs)
    at = Point(jnp.zeros((), plan.lam.dtype), path.point)

    def run(path, key):
        draws = stream(key, Stream.INIT)
        draw = lambda i: path.kernel.sample(jax.random.fold_in(draws, i), at)
        one = lambda i: path.kernel.init(draw(i), at)
        ids = jnp.arange(settings.n, dtype=jnp.uint32)
        walkers = map_tiles(one, ids, tile_for(path, settings.n))
        return _Climb(
            rung=jnp.int32(0),
            walkers=walkers,
            log_w=jnp.zeros_like(walkers.energy),
            acceptance=jnp.zeros(settings.rungs, walkers.energy.dtype),
            flags=jnp.uint32(0),
            start=walkers.energy,
        )

    return scout, plan, each_run(path, run, run_keys(key, settings.n_runs), mesh)


def _advance(
    settings: AIS, path: Path, plan: Schedule, key: Key, climb: _Climb, until: Any, mesh: Any
) -> _Climb:
    """All runs up to rung `until`."""
    run = lambda path, x, *shared: _ascend(settings, path, *x, *shared)
    shared = (plan, climb.rung[0], until)
    return each_run(path, run, (run_keys(key, settings.n_runs), climb), mesh, shared)


def _ascend(
    settings: AIS, path: Path, key: Key, climb: _Climb, plan: Schedule, first: Any, until: Any
) -> _Climb:
    """One run of walkers from rung `first` to rung `until`."""
    moves = stream(key, Stream.MOVES)
    ids = jnp.arange(settings.n, dtype=jnp.uint32)
    steps = jnp.diff(plan.lam, prepend=0.0)
    tile = tile_for(path, settings.n)

    def rung(m, climb):
        node = jax.tree.map(lambda x: x[m], plan)

        def one(args):
            i, walker, log_w = args
            log_w = log_w - steps[m] * walker.energy
            mine = jax.random.fold_in(moves, i)
            walker, total, flags = visit(path, node, walker, mine, m, settings.moves)
            return walker, log_w, total / settings.moves, flags

        walkers, log_w, acceptance, flags = map_tiles(
            one, (ids, climb.walkers, climb.log_w), tile
        )
        return climb._replace(
            rung=m + 1,
            walkers=walkers,
            log_w=log_w,
            acceptance=climb.acceptance.at[m].set(jnp.mean(acceptance)),
            flags=climb.flags | union(flags),
        )

    return jax.lax.fori_loop(first, until, rung, climb)


def _read(settings: AIS, path: Path, scout: Pilot, plan: Schedule, climb: _Climb) -> Estimate:
    """Combine the runs into one estimate with its verdict."""
    runs, n = settings.n_runs, settings.n
    broken = jnp.isnan(climb.log_w)
    log_w = jnp.where(broken, -jnp.inf, climb.log_w)
    all_w = log_w.ravel()
    pooled = jarzynski(-all_w)
    log_z = logsumexp(log_w, axis=1) - jnp.log(n)
    between = jnp.var(log_z, ddof=1) if runs > 1 else jnp.zeros(())
    within = pooled.stderr**2 * runs  # of one run
    stderr = jnp.sqrt(jnp.maximum(t_factor(runs) ** 2 * between, within) / runs)
    weights = all_w - logsumexp(all_w)
    alike = _disagreement(runs) * within
    by_pilot, pilot_stderr, _ = _of_pilot(scout)
    gap = jnp.abs(by_pilot - pooled.value) / jnp.hypot(stderr, pilot_stderr)
    acceptance = jnp.mean(climb.acceptance, axis=0)
    end = climb.walkers.energy
    energy = jnp.max(jnp.where(jnp.isfinite(end), jnp.abs(end), 0.0))
    flags = pooled.flags | union(climb.flags)
    flags = flags | raise_flags(
        (Flag.FEW_RUNS, runs < 4),
        (Flag.LADDER_UNFINISHED, scout.population.lam < 1),
        (Flag.LOW_ESS, (jnp.max(weights) > jnp.log(0.2)) | ~(pooled.n_eff >= 0.05 * runs * n)),
        (Flag.RUNS_DISAGREE, (between > 1) | ((between > alike) & (between > 1e-6))),
        (Flag.READOUTS_DISAGREE, gap > 5),
        (
            Flag.BAD_ACCEPTANCE,
            tempering.tunable(path.kernel)
            & ((jnp.mean(acceptance) < 0.15) | (jnp.mean(acceptance) > 0.98)),
        ),
        (Flag.FLOAT_RESOLUTION, jnp.finfo(energy.dtype).eps * energy > 0.01),
        (Flag.NONFINITE, broken),
    )
    if values_of(path.start) is None:  # the identity integrates by parts
        walls = jnp.any(~jnp.isfinite(climb.start))
        lagging = lags(path, climb.walkers.position, log_w, walls)
        flags = flags | raise_flags((Flag.NOT_STATIONARY, lagging))
    log_mass = jnp.asarray(path.start.log_mass, stderr.dtype)
    merge = lambda x: x.reshape(runs * n, *x.shape[2:])
    per_step = path.kernel.meta.gradients_per_step
    smc = path.config.smc
    looks = jnp.sum(scout.population.trace.looks) * smc.moves * smc.n
    parts = AnnealParts(
        point=path.point,
        samples=jax.tree.map(merge, climb.walkers.position),
        log_weights=weights,
        runs_log_z=log_z + log_mass,
        log_mass=log_mass,
        n_gradients=(looks + runs * n * settings.rungs * settings.moves) * per_step,
        work=-log_w,
        lam=plan.lam,
        acceptance=acceptance,
        readouts={
            "ais": pooled.value + log_mass,
            "cumulant": pooled.parts["cumulant"] + log_mass,
            "pilot": by_pilot + log_mass,
        },
        pareto_k=pooled.parts["pareto_k"],
    )
    return Estimate(
        pooled.value + log_mass,
        jnp.where(jnp.isfinite(pooled.value), stderr, jnp.inf),
        pooled.stderr,
        pooled.n_eff,
        flags,
        parts,
    )


_begin_jit = jax.jit(_begin, static_argnames=("settings", "mesh"))
_advance_jit = jax.jit(_advance, static_argnames=("settings", "mesh"))
_read_jit = jax.jit(_read, static_argnames="settings")


def _of_pilot(scout: Pilot) -> tuple[Array, Array, Array]:
    """log Z of the pilot's own SMC, its standard error, its surviving ancestors."""
    pop = scout.population
    variance, _, alive = _genealogy(pop, pop.ancestor.shape[0])
    return pop.log_z, jnp.sqrt(variance), alive


class Annealed(NamedTuple):
    """A driven ensemble and what its works say.

    Attributes:
        estimate: log(Z_end / Z_start) by `tj.jarzynski`.
        work: [size] total reduced work of every walker, protocol and shadow, nats.
        ledger: sums over the path, leaves [size].
        state: the ensemble at the end of the path; weigh it with exp(-work).
    """

    estimate: Estimate
    work: Array
    ledger: Ledger
    state: EnsembleState


def anneal(
    kernel: Kernel,
    key: Key,
    path: Point,
    *,
    size: int = 256,
    start: EnsembleState | None = None,
    params: PyTree = None,
) -> Annealed:
    """Drive an equilibrium ensemble along a path; log(Z_end/Z_start) from its works.

        <exp(-w)> = Z_end / Z_start,   w = sum(protocol + shadow) over the path, nats

    It holds for any kernel with a transition density, at any step size, any speed: the
    shadow work of an unadjusted kernel is counted. Where the ladder should be found for
    you, use `log_partition(..., method=tj.AIS())`.

    Args:
        kernel: the bath, one step per point of the path.
        key: typed key.
        path: `Point` whose leaves have a leading time axis [n]; the ensemble starts in
            equilibrium at its first point.
        size: walkers.
        start: an ensemble in equilibrium at path[0], instead of exact draws from the base
            measure, which are that at beta = 0 only.
        params: kernel parameters, alike for the whole path.

    Returns:
        `Annealed`.

    Raises:
        ValueError: beta[0] > 0 without `start`; a kernel without a transition density.

    Source: Jarzynski 1997; Neal 2001; specification of the core, sections 2.11 and 3.3.

    Example:
        >>> from thermojax import gaussian_prior, mala, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> betas = Point(jnp.linspace(0.0, 1.0, 20))
        >>> out = anneal(mala(sys, step_size=0.5), jax.random.key(0), betas, size=512)
        >>> bool(abs(out.estimate.value + 0.5 * jnp.log(2.0)) < 4 * out.estimate.stderr)
        True
    """
    if not kernel.meta.density:
        raise ValueError(
            f"{kernel.meta.name} has no transition density, so its work is unknown: "
            "use a Langevin kernel or tj.gibbs_flip"
        )
    first = jax.tree.map(lambda x: jnp.asarray(x)[0], path)
    if start is None:
        if is_concrete(first.beta) and np.any(np.asarray(first.beta) != 0):
            raise ValueError(
                f"the path starts at beta={float(first.beta):g}, where draws from the base "
                "measure are no equilibrium: start at beta=0, or give start=, an ensemble "
                "that was run there"
            )
        start = init_ensemble(kernel, stream(key, Stream.INIT), first, size)
    state, ledger = drive(kernel, key, start, path, params=params)
    ledger = jax.tree.map(lambda x: jnp.sum(x, axis=0), ledger)
    work = ledger.protocol + ledger.shadow
    return Annealed(jarzynski(work), work, ledger, state)
