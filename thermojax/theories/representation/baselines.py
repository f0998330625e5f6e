"""What a controlled transfer is compared with, at the same number of gradient steps.

fixed controls (same path of t), the released rule of the authors, fine-tuning (t = 1 at once)
and training from scratch. Pure functions, to be vmapped over seeds like `controlled_path`.

Source: Gao & Chaudhari 2020 for the authors' rule; the others are standard.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from thermojax.theories.representation.neural_process import (
    ControlledPath,
    Feedback,
    Plant,
    advance,
    controlled_path,
    first_point,
    read_point,
)
from thermojax.theories.representation.quantities import Batch, Model
from thermojax.theories.representation.schedules import Schedule
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["accuracy", "authors_rule", "fine_tuning", "fixed_controls", "from_scratch"]

_FIXED = Feedback(0.0, 0.0)


def accuracy(model: Model, params: PyTree, batch: Batch) -> Array:
    """Share of examples whose likeliest label under the mean code is theirs.

        argmax_y c(y | mu(x)) = y

    The encoder alone reads x: the Gibbs code of a labelled example would know its label.

    Args:
        model: the kernels.
        params: their parameters.
        batch: x, whole-number labels y [B]; weights count.

    Source:
        Standard; the remark on labels is ours.
    """
    mean, _ = model.encode(params, batch.x)
    found = jnp.argmax(model.log_classifier(params, mean[None])[0], axis=-1)
    hits = (found == batch.y).astype(mean.dtype)
    return jnp.mean(hits) if batch.weight is None else jnp.sum(batch.weight * hits)


def fixed_controls(
    plant: Plant,
    params: PyTree,
    schedule: Schedule,
    key: Key,
    *,
    gam0: ArrayLike,
    opt_state: PyTree = None,
) -> ControlledPath:
    """The schedule's path in t and lam with gam constant: C goes where it likes.

    Args:
        plant: model, data, optimiser and sizes.
        params: equilibrated at the start.
        schedule: prescribed t and lam.
        key: typed key.
        gam0: multiplier of C.
        opt_state: state of the optimiser at `params`.

    Source:
        Standard.
    """
    return controlled_path(
        plant, params, schedule, key, gam0=gam0, feedback=_FIXED, opt_state=opt_state
    )


def fine_tuning(
    plant: Plant,
    params: PyTree,
    schedule: Schedule,
    key: Key,
    *,
    gam0: ArrayLike,
    opt_state: PyTree = None,
) -> ControlledPath:
    """The target at once, controls fixed, with the schedule's number of gradient steps.

    Args:
        plant: model, data, optimiser and sizes.
        params: equilibrated on the source.
        schedule: the transfer that is compared; its t after the start is not used.
        key: typed key.
        gam0: multiplier of C.
        opt_state: state of the optimiser at `params`.

    Source:
        Standard.
    """
    at_once = _at_target(schedule)
    at_once = at_once._replace(t=at_once.t.at[0].set(0))
    return fixed_controls(plant, params, at_once, key, gam0=gam0, opt_state=opt_state)


def from_scratch(
    plant: Plant, params: PyTree, schedule: Schedule, key: Key, *, gam0: ArrayLike
) -> ControlledPath:
    """The target from untrained parameters, controls fixed.

    Args:
        plant: model, data, optimiser and sizes.
        params: untrained.
        schedule: only its number of steps counts; give one that has the steps of pretraining
            and transfer together.
        key: typed key.
        gam0: multiplier of C.

    Source:
        Standard.
    """
    return controlled_path(
        plant, params, _at_target(schedule), key, gam0=gam0, feedback=_FIXED, settle=False
    )


def _at_target(schedule: Schedule) -> Schedule:
    return schedule._replace(t=jnp.ones_like(schedule.t), ramp=jnp.ones_like(schedule.ramp))


def authors_rule(
    plant: Plant,
    params: PyTree,
    schedule: Schedule,
    key: Key,
    *,
    gam0: ArrayLike,
    lam_min: ArrayLike,
    gam_step: ArrayLike = 0.1,
    num_tries: int = 3,
    opt_state: PyTree = None,
) -> ControlledPath:
    """The released rule: while C >= C_0, lam falls towards lam_min and gam grows.

        try j of step k, while C >= C_0:   from j = 2 on  lam -= (lam - lam_min)/(n - k),
                                           gam += gam_step;   then train

    Bounded to `num_tries` tries, which share the blocks of a step; a step whose C is already
    below C_0 is not trained.

    Args:
        plant: model, data, optimiser and sizes.
        params: equilibrated at the start.
        schedule: grid of t, lam_0 and blocks, whose number `num_tries` divides; lam after
            the start is the rule's.
        key: typed key.
        gam0: multiplier of C at the start.
        lam_min: what lam falls towards.
        gam_step: increment of gam.
        num_tries: tries of a step.
        opt_state: state of the optimiser at `params`.

    Returns:
        `ControlledPath`, with errors [n, num_tries] and gradient steps as they were spent.

    Raises:
        ValueError: num_tries that does not divide the blocks of a step.

    Source:
        Gao & Chaudhari 2020, the released code; the bound on the tries is ours.
    """
    blocks = schedule.ramp.shape[0]
    if num_tries < 1 or blocks % num_tries:
        raise ValueError(f"num_tries={num_tries} must divide the {blocks} blocks of a step")
    share = blocks // num_tries
    ones = jnp.ones((share,), schedule.t.dtype)
    settling, walking = jax.random.split(key)
    state, start = first_point(
        plant, params, schedule, settling, gam0=gam0, opt_state=opt_state
    )
    num_steps = schedule.t.shape[0] - 1

    def attempt(t, index, carry, inputs):
        state, lam, error = carry
        key, number = inputs
        active, later = error >= 0, number > 0
        moved = lam - (lam - lam_min) / (num_steps - index)
        gam = jnp.log(jnp.exp(state.log_gam) + gam_step)
        lam = jnp.where(active & later, moved, lam)
        tried = state._replace(log_gam=jnp.where(later, gam, state.log_gam))
        here = (t, lam)
        tried, _ = advance(plant, _FIXED, tried, key, here, here, ones, ones)
        state = jax.tree.map(lambda a, b: jnp.where(active, a, b), tried, state)
        error = jnp.where(active, tried.error, error)
        return (state, lam, error), (error, active)

    def step(carry, inputs):
        state, lam = carry
        key, t, index = inputs
        before = state.params
        point = read_point(plant, before, state, t, lam)
        error = jnp.log(point.held_out.classification) - state.log_target
        keys = jax.random.split(key, num_tries)
        (state, lam, _), (errors, active) = jax.lax.scan(
            lambda carry, x: attempt(t, index, carry, x),
            (state, lam, error.astype(lam.dtype)),
            (keys, jnp.arange(num_tries)),
        )
        return (state, lam), (read_point(plant, before, state, t, lam), errors, active)

    inputs = jax.random.split(walking, num_steps), schedule.t[1:], jnp.arange(num_steps)
    (state, _), (readings, errors, active) = jax.lax.scan(
        step, (state, schedule.lam[0]), inputs
    )
    readings = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, readings)
    steps = jnp.sum(active, axis=1) * share * plant.block_steps
    steps = jnp.concatenate([jnp.array([blocks * plant.block_steps]), steps])
    return ControlledPath(readings, errors, start.held_out.classification, steps, state)
