"""Replica exchange: walkers at many temperatures trade their places on the ladder.

One round: `moves` metropolised kernel steps of every walker at its own temperature; an exact
draw from the reference for the walker in the hottest slot; one even-odd sweep of swaps. What
is swapped is the label (`slot_of_walker`), never a configuration, and a walker's noise belongs
to the walker. Warm-up tunes the ladder (equal increments of the communication barrier), one
step size and one diagonal scale per slot; then all of it is frozen, and what is measured comes
from a stationary chain. The runs share that tuning and nothing else.

Cost: n_runs * n_rungs * moves kernel steps per round, several times the gradients of tempered
SMC for the same error of log Z. Memory: the energies of all rounds, and positions at the
target every `every` rounds. Use it where walkers must cross barriers again and again at the
target (occupations of modes, long stationary runs), or where moves mix too slowly for SMC. It
lies where no walker of any run has found a mode that matters, and where the moves inside the
slots do not mix while the swaps do: then round trips fall behind their prediction, which is
flagged.

Source: specification of the core, section 2.9 (derived here); even-odd sweeps and barrier after
Syed, Bouchard-Cote, Deligiannidis & Doucet 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax import smc as tempering
from thermojax.checkpoints import Store
from thermojax.estimators.climb import (
    Climb,
    block_variance,
    climb,
    correlation_length,
    split_r_hat,
)
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.mbar import mbar
from thermojax.estimators.mixture import t_factor
from thermojax.ladder import round_trip_rate
from thermojax.partition import PartitionParts, check_target
from thermojax.replicas import ReplicaExchange, Route, State, make_route, simulate
from thermojax.smc import tunable
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree, ShapeError, is_concrete

__all__ = ["Exchange", "ReplicaExchange", "exchange_log_z", "replica_exchange"]

SLOW = 0.72
"""Round trips, as a fraction of their prediction, below which the ladder has not mixed."""


class Exchange(NamedTuple):
    """What a run of replica exchange leaves behind; K slots from hot to cold, R runs.

    Attributes:
        betas: [K] inverse temperatures (path parameters lam where a reference is given).
        energies: [R, T, K] energy of every slot after every round (the path's potential V
            where a reference is given).
        energy: `Estimate` [K], mean energy of the slots, with the spread over runs.
        positions: theta [R, T / every, ...] of the coldest slot.
        observed: [R, T, K, ...] what `observe` said of every slot, or ().
        slots: int32 [R, T, K] slot of every walker.
        rejection: [K-1] mean rejection of the swaps.
        barrier: Lambda, their sum.
        round_trips: int32 [R, K] hot, cold and back, by walker.
        predicted_trips: of all walkers of all runs, if energies were forgotten in between.
        acceptance: [K] mean acceptance of the moves.
        step_size: [K] frozen step sizes (0 for kernels without).
        n_gradients: gradients of U spent, warm-up included.
        flags: uint32 bit set of `Flag`; zero means trusted.
    """

    betas: Array
    energies: Array
    energy: Estimate
    positions: PyTree
    observed: PyTree
    slots: Array
    rejection: Array
    barrier: Array
    round_trips: Array
    predicted_trips: Array
    acceptance: Array
    step_size: Array
    n_gradients: Array
    flags: Array


def replica_exchange(
    sys: System,
    key: Key,
    *,
    point: Point | None = None,
    betas: str | ArrayLike = "auto",
    settings: ReplicaExchange | None = None,
    reference: Any = None,
    positions: PyTree = None,
    observe: Callable[[PyTree], PyTree] | None = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Store | None = None,
) -> Exchange:
    """Sample a whole ladder of temperatures with walkers that exchange their places.

        accept a swap of slots i, i+1 with min(1, exp((b_i - b_{i+1}) (U_i - U_{i+1})))

    Args:
        sys: the system.
        key: typed key.
        point: the coldest state and the control of all, `Point(1.0)` by default; its beta
            counts for "auto" only.
        betas: [K] increasing inverse temperatures, then kept as they are; or "auto": from
            0 (the prior, or the reference) to `point.beta`, placed during warm-up at equal
            increments of the communication barrier.
        settings: numbers of slots, runs and rounds; `n_rungs` gives way to K.
        reference: normalised measure where an "auto" ladder starts, instead of the prior;
            the ladder then is the path p_lam ∝ q exp(-lam V), lam from 0 to 1.
        positions: first theta of the walkers, leading axes [n_runs, K], where the base
            measure cannot be sampled; exact draws from it by default.
        observe: `theta -> pytree`, recorded for every slot after every round.
        progress: show a bar, or call `progress(done, total)`.
        checkpoint: folder where the state is kept every few rounds and from where it goes
            on, bit for bit, if it was kept before; ignored under jit.

    Returns:
        `Exchange`. Flags: NO_ROUND_TRIPS below ten trips in total; NOT_MIXED where the split
        R-hat of an energy exceeds 1.05 or trips fall below 0.72 of their prediction;
        NOT_CONVEX; BAD_ACCEPTANCE; NONFINITE; FEW_RUNS.

    Raises:
        ImproperEnsembleError: "auto" without a normalisable start.
        ValueError: betas that do not increase from >= 0, an unadjusted kernel.

    Source: core specification 2.9 (derived here); Syed et al. 2021.

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 20 * (x**2 - 1) ** 2, prior=gaussian_prior(2.0), like=0.0)
        >>> few = ReplicaExchange(n_rungs=6, n_runs=4, n_rounds=400, warmup=128)
        >>> run = replica_exchange(sys, jax.random.key(0), settings=few)
        >>> bool(abs(jnp.mean(run.positions > 0) - 0.5) < 0.1)
        True
    """
    point = Point(1.0) if point is None else point
    settings = ReplicaExchange() if settings is None else settings
    if isinstance(betas, str):
        if betas != "auto":
            raise ValueError(f"betas={betas!r} is unknown: use 'auto' or an array")
        check_target(sys, point, key, reference, False)
        start = reference if reference is not None else sys.reference
        target, given = point.beta, None
        if is_concrete(target) and not np.asarray(target) > 0:
            raise ValueError(f"beta={target} of the coldest slot must be > 0")
        if start is not None and start is not sys.prior:
            sys, point, target = tempering.tempered(sys, start), Point(1.0, point), 1.0
        refresh = True
    else:
        if reference is not None:
            raise ValueError("a reference goes with betas='auto' only: leave it out")
        given, target = _checked_betas(betas), 1.0
        settings = dataclasses.replace(settings, n_rungs=given.shape[0])
        exact = sys.prior is not None and sys.prior.log_mass is not None
        hot = is_concrete(given) and float(given[0]) == 0.0
        if hot and not exact:
            raise ValueError(
                f"betas[0]={given[0]} needs a normalised prior: start above 0, or give one"
            )
        refresh = hot and exact
    if positions is not None:
        _check_positions(positions, settings)
    route = make_route(
        settings, sys, point.control, observe, refresh=refresh, place=given is None
    )
    state = simulate(route, key, given, target, positions, progress, checkpoint)
    return _result_jit(route, state)


def _checked_betas(betas: ArrayLike) -> Array:
    found = jnp.asarray(betas)
    if found.ndim != 1 or found.shape[0] < 2:
        raise ValueError(f"betas needs at least two values in a row, got shape {found.shape}")
    if is_concrete(found):
        values = np.asarray(found)
        if not (values[0] >= 0 and np.all(np.diff(values) > 0)):
            raise ValueError(f"betas={values} must increase from a value >= 0")
    return found


def _check_positions(positions: PyTree, settings: ReplicaExchange) -> None:
    lead = (settings.n_runs, settings.n_rungs)
    for path, leaf in jax.tree_util.tree_leaves_with_path(positions):
        if jnp.shape(leaf)[:2] != lead:
            name = jax.tree_util.keystr(path) or "positions"
            raise ShapeError(
                f"leaf {name} of positions has shape {jnp.shape(leaf)}, expected leading "
                f"axes {lead} of runs and slots"
            )


def _result(route: Route, state: State) -> Exchange:
    """The records in order, and what they say."""
    config, kept = route.static.config, state.kept
    runs_first = lambda tree: jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)
    energies = runs_first(kept.energies)
    rejection = kept.rejected / jnp.maximum(kept.tried, 1)
    predicted = config.n_runs * config.n_rounds * round_trip_rate(rejection)
    acceptance = kept.acceptance / config.n_rounds
    energy = _mean_energy(energies)
    trips = jnp.sum(kept.trips)
    slow = (predicted > 40) & (trips < SLOW * predicted)
    hot = 1 if route.static.refresh else 0
    r_hat = split_r_hat(energies[:, :, hot:])
    moved = acceptance[hot:]
    flags = kept.flags | raise_flags(
        (Flag.FEW_RUNS, config.n_runs < 4),
        (Flag.NO_ROUND_TRIPS, trips < 10),
        (Flag.NOT_MIXED, slow | jnp.any(r_hat > 1.05)),
        (Flag.NOT_CONVEX, _rising(energies)),
        (
            Flag.BAD_ACCEPTANCE,
            tunable(route.kernel) & ((jnp.min(moved) < 0.15) | (jnp.max(moved) > 0.98)),
        ),
    )
    step = jnp.exp(state.tuning.log_step)
    walkers = config.n_runs * config.n_rungs
    steps = (config.warmup + config.n_rounds) * config.moves * walkers
    return Exchange(
        betas=state.tuning.betas,
        energies=energies,
        energy=energy,
        positions=runs_first(kept.positions),
        observed=runs_first(kept.observed),
        slots=runs_first(kept.slots),
        rejection=rejection,
        barrier=jnp.sum(rejection),
        round_trips=kept.trips,
        predicted_trips=predicted,
        acceptance=acceptance,
        step_size=step if tunable(route.kernel) else jnp.zeros_like(step),
        n_gradients=jnp.asarray(steps * route.kernel.meta.gradients_per_step),
        flags=flags,
    )


_result_jit = jax.jit(_result)


def _mean_energy(energies: Array) -> Estimate:
    """Mean energy of every slot; spread over runs, never below the blocks of one run."""
    runs = energies.shape[0]
    mean = jnp.mean(energies, axis=1)
    by_slot = jnp.moveaxis(energies, 2, 0)
    within = block_variance(by_slot)
    between = jnp.var(mean, axis=0, ddof=1) if runs > 1 else jnp.zeros_like(within)
    spread = jnp.maximum(t_factor(runs) ** 2 * between, within)
    size = energies.shape[0] * energies.shape[1]
    n_eff = size / correlation_length(by_slot)
    value = jnp.mean(mean, axis=0)
    flags = jnp.where(jnp.isfinite(value), jnp.uint32(0), jnp.uint32(Flag.NONFINITE))
    low = jnp.where(n_eff < 50, jnp.uint32(Flag.LOW_ESS), jnp.uint32(0))
    error = lambda v: jnp.sqrt(v / runs)
    return Estimate(value, error(spread), error(within), n_eff, flags | low)


def _rising(energies: Array) -> Array:
    """<U> grows from one slot to a colder one by more than its error allows."""
    runs = energies.shape[0]
    change = jnp.diff(energies, axis=2)
    change = jnp.moveaxis(change, 2, 0)
    mean = jnp.mean(change, axis=2)
    within = block_variance(change)
    between = jnp.var(mean, axis=1, ddof=1) if runs > 1 else jnp.zeros_like(within)
    error = jnp.sqrt(jnp.maximum(t_factor(runs) ** 2 * between, within) / runs)
    value = jnp.mean(mean, axis=1)
    return jnp.any(jnp.isfinite(value) & (value > 4 * error))


def exchange_log_z(
    settings: ReplicaExchange,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: Any = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Store | None = None,
) -> Estimate:
    """log Z of the target by replica exchange from the prior or a reference.

        log Z = log mass + sum_k log(Z_{k+1} / Z_k),   Bennett's ratio slot to slot, or MBAR

    Args:
        settings: see `ReplicaExchange`.
        sys: the system.
        point: the target; beta and control may be traced.
        key: typed key.
        reference: see `log_partition`.
        mesh: must be None: the walkers of one ladder talk after every round.
        progress: see `replica_exchange`.
        checkpoint: see `replica_exchange`.

    Returns:
        `Estimate`: mean over runs of log Z; stderr from their spread, widened to Student's t
        and never below what blocks of rounds say inside the runs; `parts` as
        `PartitionParts`, with the `Exchange` (less its positions) in `parts.kept`.

    Raises:
        ImproperEnsembleError: no normalisable start.
        ValueError: a mesh; estimator="mbar" under jit; an unadjusted kernel.

    Source: core specification 2.9 and 3.3 (derived here).

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> few = ReplicaExchange(n_rungs=3, n_runs=4, n_rounds=400, warmup=64)
        >>> est = exchange_log_z(few, sys, Point(1.0), jax.random.key(0))
        >>> bool(abs(est.value + 0.5 * jnp.log(2.0)) < 0.1)
        True
    """
    if mesh is not None:
        raise ValueError(
            "replica exchange cannot use a mesh: walkers of one ladder talk after every "
            "round; leave mesh out, or use method='smc'"
        )
    concrete = is_concrete((sys, point, key))
    if settings.estimator == "mbar" and not concrete:
        raise ValueError("estimator='mbar' solves on the host: use estimator='bar' under jit")
    check_target(sys, point, key, reference, False)
    path = tempering.tempered(sys, reference)
    start = reference if reference is not None else (sys.reference or sys.prior)
    assert start is not None
    observe = None if start is sys.prior else jax.tree_util.Partial(_energy, sys, point)
    route = make_route(settings, path, point, observe, refresh=True, place=True)
    state = simulate(route, key, None, 1.0, None, progress, checkpoint)
    log_mass = start.log_mass
    if not concrete:
        return _read(route, state, sys, point, log_mass, None)
    by_mbar = None
    if settings.estimator == "mbar":
        by_mbar = _by_mbar(state.tuning.betas, state.kept.energies)
    return _read_jit(route, state, sys, point, log_mass, by_mbar)


def _energy(sys: System, point: Point, theta: PyTree) -> Array:
    """U, which the potential of a path from a reference does not show."""
    return sys.energy(theta, point.control)


def _by_mbar(betas: Array, energies: Array) -> Array:
    """[R, K] log(Z_k / Z_0) of each run from all its slots at once; energies [T, R, K]."""
    lam = np.asarray(betas, float)[:, None]
    rows = []
    for run in np.moveaxis(np.asarray(energies, float), 1, 0):
        value = run.T.ravel()
        with np.errstate(invalid="ignore"):
            u = np.where(lam > 0, lam * value, 0.0)  # 0 * inf: the reference allows it
        rows.append(mbar(u, np.full(len(lam), len(run))).estimate.value)
    return jnp.asarray(np.stack(rows), energies.dtype)


def _read(route, state, sys, point, log_mass, by_mbar) -> Estimate:
    """Combine the runs into one estimate with its verdict."""
    config = route.static.config
    runs = config.n_runs
    result = _result(route, state)
    ladder = climb(result.betas, result.energies)
    log_z = ladder.log_z if by_mbar is None else by_mbar
    ends = log_z[:, -1]
    value = jnp.mean(ends)
    between = jnp.var(ends, ddof=1) if runs > 1 else jnp.zeros_like(value)
    spread = jnp.maximum(t_factor(runs) ** 2 * between, ladder.within)
    stderr = jnp.where(ladder.lost, jnp.inf, jnp.sqrt(spread / runs))
    value = jnp.where(ladder.lost, jnp.nan, value)
    log_mass = jnp.asarray(log_mass, value.dtype)
    n_eff = result.energy.n_eff[-1]
    flags = result.flags | _verdict(result, ladder, ends, between, n_eff, runs)
    samples = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result.positions)
    count = jax.tree.leaves(samples)[0].shape[0]
    readouts = {"bar": jnp.mean(ladder.log_z[:, -1]) + log_mass}
    if by_mbar is not None:
        readouts["mbar"] = value + log_mass
    parts = PartitionParts(
        point=point,
        samples=samples,
        log_weights=jnp.full(count, -jnp.log(count), value.dtype),
        runs_log_z=ends + log_mass,
        trace=_trace(config, result, log_z),
        rungs=jnp.full(runs, config.n_rungs - 1, jnp.int32),
        log_mass=log_mass,
        kept=result._replace(positions=(), observed=()),
        readouts=readouts,
        n_gradients=result.n_gradients,
    )
    within = jnp.sqrt(ladder.within / runs)
    return Estimate(value + log_mass, stderr, within, n_eff, flags, parts)


_read_jit = jax.jit(_read)


def _trace(config: ReplicaExchange, result: Exchange, log_z: Array) -> tempering.Trace:
    """The slots as rungs of a tempered path, for `curve`."""
    runs, _, count = result.energies.shape
    by_rung = lambda x: jnp.swapaxes(x, 1, 2)
    each = lambda x: jnp.broadcast_to(x, (runs, count))
    length = result.energies.shape[0] * result.energies.shape[1] / result.energy.n_eff
    zero = jnp.zeros_like(log_z)
    extra = result.observed
    return tempering.Trace(
        lam=each(result.betas),
        value=by_rung(result.energies),
        energy=() if isinstance(extra, tuple) else by_rung(extra),
        log_z=log_z,
        acceptance=each(result.acceptance),
        correlation=each((length - 1) / (length + 1)),
        looks=jnp.full((runs, count), config.n_rounds, jnp.int32),
        naive=zero,
        drift=zero,
    )


def _verdict(
    result: Exchange, ladder: Climb, ends: Array, between: Array, n_eff: Array, runs: int
) -> Array:
    """Flags about log Z; those about the run itself are raised already."""
    known = jnp.where(jnp.isfinite(result.energies[:, :, 1:]), result.energies[:, :, 1:], 0.0)
    ulp = jnp.finfo(known.dtype).eps * jnp.max(jnp.abs(known[:, :, -1]))
    # chance does not take the ratio of between to within this far (about 1e-4)
    ratio = 4 * (1 + 6 / max(runs - 1, 1))
    return raise_flags(
        (Flag.POOR_OVERLAP, ~(ladder.overlap > 0.03)),
        (Flag.LOW_ESS, n_eff < 50),
        (
            Flag.RUNS_DISAGREE,
            (between > 1) | ((between > ratio * ladder.within) & (between > 1e-6)),
        ),
        (Flag.FLOAT_RESOLUTION, ulp > 0.01),
        (Flag.NONFINITE, ladder.lost | ~jnp.isfinite(ends)),
    )
