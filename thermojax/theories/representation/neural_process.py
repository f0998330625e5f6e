"""Paths of a neural model under control: lam and t prescribed, gam fed back from C.

    log gam <- log gam + k_i e + k_p (e - e_before),    e = log(C / C_0),  |e| <= 1

every few gradient steps, while t and lam move slowly: an integral controller on the held-out
C. A fixed task with lam moving is an iso-classification process, t from 0 to 1 a transfer.

Source: the process, Gao & Chaudhari 2020; the controller and the grids, our definition,
following the paper's programme.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.neural import (
    expected_functionals,
    functionals,
    mean_and_stderr,
)
from thermojax.theories.representation.quantities import (
    Batch,
    Functionals,
    Model,
    Multipliers,
    objective,
)
from thermojax.theories.representation.schedules import Schedule
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = [
    "ControlledPath",
    "Feedback",
    "PathState",
    "Plant",
    "Reading",
    "advance",
    "controlled_path",
    "first_point",
    "read_point",
    "train_block",
]


class Feedback(NamedTuple):
    """Controller of gam; both gains 0 is fixed controls.

    Attributes:
        integral: k_i, change of log gam per block and unit of log(C / C_0).
        proportional: k_p.
        gam_min: lower bound of gam, > 0.
        gam_max: upper bound: where it is reached, C is out of reach of gam.
    """

    integral: float = 0.2
    proportional: float = 1.0
    gam_min: float = 1e-2
    gam_max: float = 1e3


class Plant(NamedTuple):
    """What is trained and measured; holds no state.

    Attributes:
        model: the four kernels.
        sampler: training data, (key, t, batch_size) -> `Batch`, as from `mixture_path`.
        held_out: data that C is measured on, a sampler likewise.
        optimizer: an optax `GradientTransformation`.
        batch_size: of the sampler.
        block_steps: gradient steps between two measurements of C.
        num_samples: codes per example of a gradient step.
        measure_samples: codes per example of a measurement, the same ones every time.
        measure_size: batch size of a measurement; None is all examples.
    """

    model: Model
    sampler: Callable[..., Batch]
    held_out: Callable[..., Batch]
    optimizer: Any
    batch_size: int = 128
    block_steps: int = 30
    num_samples: int = 1
    measure_samples: int = 16
    measure_size: int | None = None


class PathState(NamedTuple):
    """Parameters, state of the optimiser, controller."""

    params: PyTree
    opt_state: PyTree
    log_gam: Array
    error: Array
    log_target: Array


class Reading(NamedTuple):
    """One point of a path, scalars; C_0 is held on `held_out`, heat and work on `training`."""

    t: Array
    lam: Array
    gam: Array
    held_out: Functionals
    stderr: Array
    training: Functionals
    held_out_force: Array
    training_force: Array
    dissipated_work: Array
    grad_norm: Array


class ControlledPath(NamedTuple):
    """A path with its end, all arrays: vmap over seeds gives them a leading axis.

    Attributes:
        readings: `Reading` of [n + 1]; row 0 is the start.
        errors: [n, m] log(C / C_0) on held-out data after every block.
        target: C_0, nats per example.
        inner_steps: [n + 1] gradient steps spent on each point.
        state: the last `PathState`.
    """

    readings: Reading
    errors: Array
    target: Array
    inner_steps: Array
    state: PathState


def _measured(plant: Plant, sampler: Callable, params: PyTree, t: Array) -> tuple:
    """Means and standard errors; the same examples and codes at every call."""
    key = jax.random.key(0)
    batch = sampler(key, t, plant.measure_size)
    each = functionals(plant.model, params, batch, key, num_samples=plant.measure_samples)
    return mean_and_stderr(each, batch.weight)


def train_block(
    plant: Plant, params: PyTree, opt_state: PyTree, key: Key, t: Array, tau: Multipliers, rate
) -> tuple[PyTree, PyTree]:
    """`block_steps` gradient steps on J at fixed controls, updates scaled by `rate`."""

    def loss(params, key):
        first, second = jax.random.split(key)
        batch = plant.sampler(first, t, plant.batch_size)
        mean = expected_functionals(
            plant.model, params, batch, second, num_samples=plant.num_samples
        )
        return objective(mean, tau)

    def step(carry, key):
        params, opt_state = carry
        grads = jax.grad(loss)(params, key)
        updates, opt_state = plant.optimizer.update(grads, opt_state, params)
        params = jax.tree.map(lambda p, u: p + (rate * u).astype(p.dtype), params, updates)
        return (params, opt_state), None

    keys = jax.random.split(key, plant.block_steps)
    return jax.lax.scan(step, (params, opt_state), keys)[0]


def _controlled(feedback: Feedback, state: PathState, log_c: Array) -> PathState:
    """The controller's move; none before the target is known."""
    error = jnp.where(jnp.isnan(state.log_target), 0.0, log_c - state.log_target)
    clipped, before = (jnp.clip(e, -1.0, 1.0) for e in (error, state.error))
    move = feedback.integral * clipped + feedback.proportional * (clipped - before)
    low, high = (jnp.log(jnp.asarray(g)) for g in (feedback.gam_min, feedback.gam_max))
    # gam_0 outside the bounds stays where it is as long as nothing pushes it
    log_gam = jnp.where(move == 0, state.log_gam, jnp.clip(state.log_gam + move, low, high))
    return state._replace(log_gam=log_gam.astype(state.log_gam.dtype), error=error)


def advance(
    plant: Plant,
    feedback: Feedback,
    state: PathState,
    key: Key,
    begin: tuple[Array, Array],
    end: tuple[Array, Array],
    ramp: Array,
    rate: Array,
) -> tuple[PathState, Array]:
    """One step: m blocks from (t, lam) to (t, lam)', gam fed back after each.

    Returns the state and the [m] errors log(C / C_0).
    """

    def block(state, inputs):
        key, part, rate = inputs
        t, lam = (a + part * (b - a) for a, b in zip(begin, end, strict=True))
        tau = Multipliers(lam, jnp.exp(state.log_gam))
        params, opt_state = train_block(plant, state.params, state.opt_state, key, t, tau, rate)
        state = state._replace(params=params, opt_state=opt_state)
        mean, _ = _measured(plant, plant.held_out, params, t)
        state = _controlled(feedback, state, jnp.log(mean.classification))
        return state, state.error

    keys = jax.random.split(key, ramp.shape[0])
    return jax.lax.scan(block, state, (keys, ramp, rate))


def read_point(plant: Plant, before: PyTree, state: PathState, t: Array, lam: Array) -> Reading:
    """Measure a point; `before` are the parameters at the start of the step that led there."""
    tau = Multipliers(lam, jnp.exp(state.log_gam))

    def training(params, t):
        return _measured(plant, plant.sampler, params, t)[0]

    def held_out(t):
        return _measured(plant, plant.held_out, state.params, t)[0]

    def force(mean_at):
        # toward the inside: a sampler is only defined on [0, 1]
        return jax.jvp(lambda t: objective(mean_at(t), tau), (t,), (jnp.ones_like(t),))[1]

    mean = training(state.params, t)
    grads = jax.grad(lambda p: objective(training(p, t), tau))(state.params)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    held, error = _measured(plant, plant.held_out, state.params, t)
    return Reading(
        t=t,
        lam=lam,
        gam=tau.gam,
        held_out=held,
        stderr=error.classification,
        training=mean,
        held_out_force=force(held_out),
        training_force=force(lambda t: training(state.params, t)),
        dissipated_work=objective(training(before, t), tau) - objective(mean, tau),
        grad_norm=norm,
    )


def first_point(
    plant: Plant,
    params: PyTree,
    schedule: Schedule,
    key: Key,
    *,
    gam0: ArrayLike,
    opt_state: PyTree = None,
    settle: bool = True,
) -> tuple[PathState, Reading]:
    """The start of a path, where C_0 is read; arguments as those of `controlled_path`."""
    if is_concrete(gam0) and not np.all(np.asarray(gam0) > 0):
        raise ValueError(f"gam0={gam0} must be positive: its logarithm is controlled")
    opt_state = plant.optimizer.init(params) if opt_state is None else opt_state
    zero = jnp.zeros_like(schedule.t[0])
    # no target yet: the controller rests
    state = PathState(params, opt_state, zero + jnp.log(gam0), zero, zero + jnp.nan)
    origin = schedule.t[0], schedule.lam[0]
    if settle:
        args = (key, origin, origin, schedule.ramp, schedule.rate)
        state, _ = advance(plant, Feedback(), state, *args)
    start = read_point(plant, state.params, state, *origin)
    log_target = jnp.log(start.held_out.classification).astype(zero.dtype)
    return state._replace(log_target=log_target), start


def controlled_path(
    plant: Plant,
    params: PyTree,
    schedule: Schedule,
    key: Key,
    *,
    gam0: ArrayLike,
    feedback: Feedback | None = None,
    opt_state: PyTree = None,
    settle: bool = True,
) -> ControlledPath:
    """Follow a schedule with gam fed back from the held-out C, in one compiled scan.

    n steps of m blocks of `plant.block_steps` gradient steps, whatever happens: the cost is
    known beforehand, and the function can be vmapped over seeds (params, key, data inside the
    plant's samplers).

    Args:
        plant: what is trained and measured.
        params: equilibrated at t = 0 and lam_0, gam_0.
        schedule: prescribed t and lam, as from `make_schedule`.
        key: typed key.
        gam0: multiplier of C at the start, > 0.
        feedback: the controller, `Feedback()` by default; `Feedback(0.0, 0.0)` is fixed
            controls.
        opt_state: state of the optimiser at `params`; None starts afresh.
        settle: run one more step at the start before C_0 is read, so that C_0 is measured
            under the same cooling as every other point.

    Returns:
        A `ControlledPath`; `path_trajectory` makes a `Trajectory` of one seed.

    Source:
        Gao & Chaudhari 2020; the controller is our definition, following the paper's
        programme.
    """
    feedback = Feedback() if feedback is None else feedback
    ramp, rate = schedule.ramp, schedule.rate
    first, rest = jax.random.split(key)
    state, start = first_point(
        plant, params, schedule, first, gam0=gam0, opt_state=opt_state, settle=settle
    )
    target = start.held_out.classification

    def step(state, inputs):
        key, begin, end = inputs
        before = state.params
        state, errors = advance(plant, feedback, state, key, begin, end, ramp, rate)
        return state, (read_point(plant, before, state, *end), errors)

    points = schedule.t, schedule.lam
    ends = [tuple(column[part] for column in points) for part in (slice(-1), slice(1, None))]
    keys = jax.random.split(rest, schedule.t.shape[0] - 1)
    state, (readings, errors) = jax.lax.scan(step, state, (keys, *ends))
    readings = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, readings)
    steps = jnp.full(schedule.t.shape, ramp.shape[0] * plant.block_steps)
    steps = steps.at[0].multiply(int(settle))
    return ControlledPath(readings, errors, target, steps, state)
