"""Paths of the experiments on transfer: images with weights, methods as data, programs.

Every task has one shape, rows beyond a side having weight 0, and a method is data (grid of
t, gains, rows on which C is held): one compiled program serves all methods, tasks and draws
on mixture paths.

Source: specification of the theory, 5.2 and 9.2; the process, Gao & Chaudhari 2020.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.representation_data import (
    NUM_LABELS,
    DataConfig,
    Sizes,
    network,
    optimizer,
)
from thermojax.theories.representation.baselines import authors_rule
from thermojax.theories.representation.neural_process import (
    ControlledPath,
    Feedback,
    PathState,
    Plant,
    Reading,
    advance,
    read_point,
    train_block,
)
from thermojax.theories.representation.quantities import Batch, Multipliers
from thermojax.theories.representation.schedules import Schedule, make_schedule
from thermojax.theories.representation.task_paths import displacement_path, mixture_path
from thermojax.typing import Array, Key, PyTree

__all__ = [
    "TASKS",
    "Method",
    "Task",
    "TransferConfig",
    "authors",
    "displaced",
    "few_labels",
    "follow",
    "kept",
    "methods",
    "pretrained",
    "tasks",
]

TASKS = {
    "e4": ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)),
    "e5": ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9)),
}
"""Classes of source and target."""

_DEFAULT = Feedback()


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """Settings of experiments E4 to E6.

    Attributes:
        data: images.
        sizes: networks; a batch is half source, half target.
        lam: multiplier of D.
        gam: multiplier of C at the start.
        lam_min: what lam falls towards under the authors' rule.
        pretraining: gradient steps on the source; a path settles one more point there.
        points: steps of a path in t.
        blocks: of gradient steps in each of them, gam being fed back after each block.
        short_blocks: the same for short paths: few labels, and E6.
        block_steps: gradient steps of a block.
        samples: codes per image of a measurement; with 8 their noise moves C by a tenth.
        few: labels of each target class where there are few.
        pairs: images of each side that are coupled, at most.
        pair_rows: pairs of a measurement on the displacement path, the same ones every time.
        epsilon: entropic weight, in units of the mean cost.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    lam: float = 0.3
    gam: float = 5.0
    lam_min: float = 0.075
    pretraining: int = 10_000
    points: int = 25
    blocks: int = 30
    short_blocks: int = 10
    block_steps: int = 30
    samples: int = 24
    few: int = 10
    pairs: int = 150
    pair_rows: int = 1_000
    epsilon: float = 0.02

    def __post_init__(self):
        if not (0 < self.lam_min <= self.lam and self.gam > 0 and self.epsilon > 0):
            raise ValueError(
                f"lam_min={self.lam_min}, lam={self.lam}, gam={self.gam} and "
                f"epsilon={self.epsilon} must be positive, and lam_min at most lam"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < 1:
                raise ValueError(f"{field.name}={value} must be at least 1")
        if self.blocks % 3:
            raise ValueError(
                f"blocks={self.blocks} are shared by the three tries of the authors' rule: "
                "give a multiple of 3"
            )
        if self.sizes.batch < 2:
            raise ValueError(f"batch={self.sizes.batch} must be at least 2: half for each side")


class Task(NamedTuple):
    """Images of source and target with weights, draws along axis 0.

    Rows beyond those of a side have weight 0: every task has one shape.
    """

    source: Batch
    target: Batch
    validation_source: Batch
    validation_target: Batch
    test: Batch


class Method(NamedTuple):
    """What tells one method from another; `hold` weighs training and validation rows."""

    schedule: Schedule
    control: float
    hold: tuple[float, float]


def _side(part: Any, classes: Sequence[int], width: int) -> Batch:
    """Images of some classes, `width` rows in every draw."""
    rows, weights = [], []
    for labels in part.y:
        found = np.flatnonzero(np.isin(labels, classes))
        rows.append(np.resize(found, width))
        weights.append(np.where(np.arange(width) < len(found), 1 / len(found), 0.0))
    rows = np.stack(rows)
    x = np.take_along_axis(part.x, rows[..., None], axis=1)
    y = np.take_along_axis(part.y, rows, axis=1)
    return Batch(jnp.asarray(x), jnp.asarray(y), jnp.asarray(np.stack(weights), x.dtype))


def tasks(parts: Any) -> dict[str, Task]:
    """Both pairs of tasks from a `Split` with the draws along axis 0."""

    def width(part):
        sides = [side for task in TASKS.values() for side in task]
        return max(int(np.isin(part.y, side).sum(1).max()) for side in sides)

    widths = [width(part) for part in parts]
    train, validation, test = (
        functools.partial(_side, part, width=w) for part, w in zip(parts, widths, strict=True)
    )
    return {
        name: Task(train(a), train(b), validation(a), validation(b), test(b))
        for name, (a, b) in TASKS.items()
    }


def kept(side: Any, keep: Any) -> Batch:
    """A side with the weight of these rows alone."""
    weight = jnp.where(keep, side.weight, 0)
    return side._replace(weight=weight / weight.sum(-1, keepdims=True))


def few_labels(side: Any, count: int) -> Batch:
    """The first labels of each class."""
    seen = jnp.zeros(side.y.shape, int)
    for label in range(NUM_LABELS):
        mine = (side.y == label) & (side.weight > 0)
        seen += jnp.where(mine, jnp.cumsum(mine, axis=-1), 0)
    return kept(side, (seen > 0) & (seen <= count))


def methods(config: TransferConfig, blocks: int) -> dict[str, Method]:
    """Methods on mixture paths with this number of blocks in a step."""
    make = functools.partial(make_schedule, config.points, lam=config.lam, num_blocks=blocks)
    careful, plain = make(), make(grid="uniform", ramp=0.0, cool=0.0)
    jump = jnp.ones_like(careful.ramp)
    at = lambda first: jnp.ones_like(careful.t).at[0].set(first)
    train, validation = (1.0, 0.0), (0.0, 1.0)
    return {
        "iso-C, training": Method(careful, 1.0, train),
        "iso-C, validation": Method(careful, 1.0, validation),
        "fixed": Method(plain, 0.0, train),
        "fine-tuning": Method(careful._replace(t=at(0.0), ramp=jump), 0.0, train),
        "scratch": Method(careful._replace(t=at(1.0), ramp=jump), 0.0, train),
    }


def _plant(config: TransferConfig, path: Any, held_out: Any, num_inputs: int) -> Plant:
    return Plant(
        network(config.sizes, num_inputs).model,
        path,
        held_out,
        optimizer(config.sizes),
        batch_size=config.sizes.batch // 2,
        block_steps=config.block_steps,
        measure_samples=config.samples,
    )


@functools.partial(jax.jit, static_argnames=("config",))
def pretrained(config: TransferConfig, task: Task, t: Array, keys: Key) -> tuple:
    """Parameters and state of the optimiser of every draw, at the source or the target."""

    def one(task, key):
        size = task.source.x.shape[-1]
        first, second = jax.random.split(key)
        params = network(config.sizes, size).init(first)
        path = mixture_path(task.source, task.target)
        plant = _plant(config, path, path, size)._replace(block_steps=config.pretraining)
        tau = Multipliers(jnp.asarray(config.lam), jnp.asarray(config.gam))
        return train_block(plant, params, plant.optimizer.init(params), second, t, tau, 1.0)

    return jax.vmap(one)(task, keys)


def _joined(first: Any, second: Any, hold: Array) -> Batch:
    x, y = (jnp.concatenate(pair) for pair in zip(first[:2], second[:2], strict=True))
    weight = jnp.concatenate([hold[0] * first.weight, hold[1] * second.weight])
    return Batch(x, y, weight)


def _walk(
    plant: Plant, seen: Plant, schedule: Schedule, control: Any, gam: float, start: tuple, key
) -> tuple[Reading, PyTree]:
    """Readings of `seen` [point] while `plant` is trained and C is held on its `held_out`.

    As `controlled_path`, with C read on other images than those where it is held, and with
    the settling at the start as one more round of the scan, which halves the compilation.
    """
    params, opt_state = start
    zero = jnp.zeros_like(schedule.t[0])
    # against a target of 1 nat the error of the first round is log C_0
    state = PathState(params, opt_state, zero + jnp.log(gam), zero, zero)
    points = schedule.t, schedule.lam
    begins = tuple(jnp.concatenate([c[:1], c[:-1]]) for c in points)
    later = jnp.arange(schedule.t.shape[0]) > 0

    def step(state, inputs):
        key, later, begin, end = inputs
        before, ramp, rate = state.params, schedule.ramp, schedule.rate
        gain: Any = jnp.where(later, control, 0.0)
        feedback = Feedback(gain * _DEFAULT.integral, gain * _DEFAULT.proportional)
        state, _ = advance(plant, feedback, state, key, begin, end, ramp, rate)
        known = state.log_target, state.error
        found = state.error, jnp.zeros_like(state.error)
        target, error = (jnp.where(later, a, b) for a, b in zip(known, found, strict=True))
        state = state._replace(log_target=target, error=error)
        return state, read_point(seen, before, state, *end)

    keys = jax.random.split(key, schedule.t.shape[0])
    state, readings = jax.lax.scan(step, state, (keys, later, begins, points))
    return readings, state.params


@functools.partial(jax.jit, static_argnames=("config",))
def follow(
    config: TransferConfig, task: Task, method: Method, start: tuple, keys: Key
) -> tuple[Reading, PyTree]:
    """Mixture paths: readings [draw, point] with C on validation images, and parameters."""
    hold = jnp.asarray(method.hold)

    def one(task, start, key):
        path = mixture_path(task.source, task.target)
        held = mixture_path(
            _joined(task.source, task.validation_source, hold),
            _joined(task.target, task.validation_target, hold),
        )
        validation = mixture_path(task.validation_source, task.validation_target)
        plant = _plant(config, path, held, task.source.x.shape[-1])
        seen = plant._replace(held_out=validation)
        return _walk(plant, seen, method.schedule, method.control, config.gam, start, key)

    return jax.vmap(one)(task, start, keys)


@functools.partial(jax.jit, static_argnames=("config",))
def authors(
    config: TransferConfig, task: Task, schedule: Schedule, start: tuple, keys: Key
) -> ControlledPath:
    """The released rule, C read on validation images."""

    def one(task, start, key):
        params, opt_state = start
        held = mixture_path(task.validation_source, task.validation_target)
        path = mixture_path(task.source, task.target)
        plant = _plant(config, path, held, task.source.x.shape[-1])
        return authors_rule(
            plant,
            params,
            schedule,
            key,
            gam0=config.gam,
            lam_min=config.lam_min,
            opt_state=opt_state,
        )

    return jax.vmap(one)(task, start, keys)


@functools.partial(jax.jit, static_argnames=("config",))
def displaced(
    config: TransferConfig,
    sides: tuple[Batch, Batch],
    plan: Array,
    method: Method,
    start: tuple,
    keys: Key,
) -> tuple[Reading, PyTree]:
    """Displacement paths, C held on pairs of training images."""

    def one(sides, plan, start, key):
        path = displacement_path(*sides, plan, num_classes=NUM_LABELS)
        plant = _plant(config, path, path, sides[0].x.shape[-1])
        plant = plant._replace(measure_size=config.pair_rows)
        return _walk(plant, plant, method.schedule, method.control, config.gam, start, key)

    return jax.vmap(one)(sides, plan, start, keys)
