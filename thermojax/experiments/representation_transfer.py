"""Experiments E4 to E6: representations of digits carried from task to task.

    E4   0-4 -> 5-9     mixture path, gam fed back from C, against what else one would do
    E5   even -> odd    the same with and without control
    E6   0-4 -> 5-9     displacement path of paired images against mixture

Source: specification of the theory, 9.2 E4 to E6; the process, Gao & Chaudhari 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.representation_data import draws_of, network
from thermojax.experiments.representation_transfer_paths import (
    TASKS,
    Method,
    Task,
    TransferConfig,
    authors,
    displaced,
    few_labels,
    follow,
    kept,
    methods,
    pretrained,
    tasks,
)
from thermojax.theories.representation.baselines import accuracy
from thermojax.theories.representation.neural_process import Feedback, Reading
from thermojax.theories.representation.quantities import Batch
from thermojax.theories.representation.stepping import Limits, verdict
from thermojax.theories.representation.transport import sinkhorn_coupling
from thermojax.typing import Array, Key, PyTree

__all__ = ["FEW", "METHODS", "PAIRED", "PATHS", "TransferConfig", "run_transfer"]

Say = Callable[[float, str], None]
Arrays = dict[str, np.ndarray]

METHODS = (
    "iso-C, training",
    "iso-C, validation",
    "fixed",
    "fixed, short",
    "authors",
    "fine-tuning",
    "scratch",
)
"""Axis 1 of `e4_*`. "iso-C, training" holds C on the images that are fitted."""

FEW = ("iso-C, training", "fine-tuning", "scratch")
"""Axis 1 of `e4_few_*`: few labels of each target class, short paths."""

PAIRED = ("iso-C, training", "fixed, short")
"""Axis 1 of `e5_*`."""

PATHS = (
    "mixture, fixed",
    "displacement, fixed",
    "mixture, iso-C",
    "displacement, iso-C",
)
"""Axis 1 of `e6_*`."""

_TOLERANCE = 0.05


@functools.partial(jax.jit, static_argnames=("config",))
def _tested(config: TransferConfig, params: PyTree, test: Batch) -> Array:
    model = network(config.sizes, test.x.shape[-1]).model
    return jax.vmap(functools.partial(accuracy, model))(params, test)


def _judged(readings: Reading, widen: bool) -> tuple[list[str], list[str]]:
    """Status and reason of every draw; C is that of `held_out`."""
    status, reason = [], []
    for draw in range(readings.gam.shape[0]):
        mine = jax.tree.map(lambda a, draw=draw: np.asarray(a)[draw], readings)
        noise = 3 * float(mine.stderr[0] / mine.held_out.classification[0]) if widen else 0.0
        limits = Limits(Feedback(), max(_TOLERANCE, noise), one_sided=False)
        found = verdict(mine, limits)
        status.append(found[0])
        reason.append(found[1])
    return status, reason


class _Found(NamedTuple):
    """One method on one task, draws along axis 0."""

    readings: Reading
    accuracy: Array
    status: list[str]
    reason: list[str]


def _found(
    config: TransferConfig, task: Task, readings: Reading, params: PyTree, hold: tuple
) -> _Found:
    held = readings if hold[1] else readings._replace(held_out=readings.training)
    verdicts = _judged(held, widen=bool(hold[1]))
    return _Found(readings, _tested(config, params, task.test), *verdicts)


def _stacked(prefix: str, found: Mapping[str, _Found]) -> Arrays:
    """Arrays [draw, method, point] of several methods."""
    rows = list(found.values())

    def columns(of):
        return np.stack([np.asarray(of(row.readings), float) for row in rows], axis=1)

    out = {
        "gam": columns(lambda r: r.gam),
        "lam": columns(lambda r: r.lam),
        "stderr": columns(lambda r: r.stderr),
        "work": columns(lambda r: r.dissipated_work),
        "force": columns(lambda r: r.training_force),
        "t": columns(lambda r: r.t)[0],
        "accuracy": np.stack([np.asarray(row.accuracy, float) for row in rows], axis=1),
        "status": np.stack([np.asarray(row.status) for row in rows], axis=1),
        "reason": np.stack([np.asarray(row.reason) for row in rows], axis=1),
    }
    for name in ("rate", "distortion", "classification"):
        out[name] = columns(lambda r, name=name: getattr(r.held_out, name))
        out[f"train_{name}"] = columns(lambda r, name=name: getattr(r.training, name))
    out["method"] = np.array(list(found))
    return {f"{prefix}_{name}": values for name, values in out.items()}


def run_transfer(config: TransferConfig, seeds: Sequence[int], say: Say) -> Arrays:
    """All draws of experiments E4 to E6.

    Args:
        config: settings.
        seeds: one per draw.
        say: progress.

    Returns:
        For each of `e4` (methods `METHODS`), `e4_few` (`FEW`), `e5` (`PAIRED`) and `e6`
        (`PATHS`) arrays [draw, method, point] `_gam`, `_lam`; `_rate`, `_distortion`,
        `_classification` with `_stderr` of C on validation images and `_train_rate`, ... on
        training images; `_work` dissipated and `_force` of the task on training images;
        `_t` [method, point], `_method` [method] their names; [draw, method] `_accuracy` on
        test images of the target, `_status` and `_reason` of the path where C is held. On the
        displacement paths the validation columns repeat the training ones. `e6_cost`
        [draw, 2] is the mean squared distance of independent and of coupled pairs,
        `e6_converged` [draw] the coupling's.
    """
    pairs = tasks(draws_of(config.data, seeds))
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 4) for seed in seeds])
    long, short = (methods(config, n) for n in (config.blocks, config.short_blocks))
    long["fixed, short"] = short["fixed"]
    say(0.0, "transfer: pretraining")
    source = {name: pretrained(config, pairs[name], jnp.asarray(0.0), keys) for name in TASKS}
    few = pairs["e4"]._replace(target=few_labels(pairs["e4"].target, config.few))
    walks = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)

    def walked(task, choices, name, start):
        if name == "scratch":
            start = pretrained(config, task, jnp.asarray(1.0), keys)
        if name == "authors":
            path = authors(config, task, choices["fixed"].schedule, start, walks)
            return _found(config, task, path.readings, path.state.params, (0.0, 1.0))
        method = choices[name]
        readings, params = follow(config, task, method, start, walks)
        return _found(config, task, readings, params, method.hold)

    out: Arrays = {}
    jobs = (
        ("e4", pairs["e4"], long, METHODS, source["e4"], 0.1, 0.6),
        ("e4_few", few, short, FEW, source["e4"], 0.6, 0.7),
        ("e5", pairs["e5"], long, PAIRED, source["e5"], 0.7, 0.85),
    )
    for prefix, task, choices, names, start, begin, end in jobs:
        found = {}
        for k, name in enumerate(names):
            say(begin + (end - begin) * k / len(names), f"transfer {prefix}: {name}")
            found[name] = walked(task, choices, name, start)
        out |= _stacked(prefix, found)
    say(0.85, "transfer e6: mixture and displacement")
    return out | _transport(config, pairs["e4"], short, source["e4"], walks)


def _transport(
    config: TransferConfig, task: Task, choices: dict[str, Method], start: tuple, keys: Key
) -> Arrays:
    """Experiment E6: both paths on the same images of each side."""
    weights = (np.asarray(side.weight) for side in task[:2])
    count = min(config.pairs, *(int((weight > 0).sum(1).min()) for weight in weights))
    first = np.arange(task.source.y.shape[1]) < count
    mixed = task._replace(source=kept(task.source, first), target=kept(task.target, first))
    sides = tuple(Batch(s.x[:, :count], s.y[:, :count]) for s in task[:2])

    def coupled(a, b):
        mean = jnp.mean(jnp.sum((a[:, None] - b[None]) ** 2, -1))
        return mean, sinkhorn_coupling(a, b, epsilon=config.epsilon * mean)

    mean, plan = jax.jit(jax.vmap(coupled))(*(jnp.asarray(side.x) for side in sides))
    found = {}
    for name in PATHS:
        method = choices["fixed" if name.endswith("fixed") else "iso-C, training"]
        if name.startswith("mixture"):
            readings, params = follow(config, mixed, method, start, keys)
        else:
            readings, params = displaced(config, sides, plan.coupling, method, start, keys)
        found[name] = _found(config, task, readings, params, method.hold)
    return _stacked("e6", found) | {
        "e6_cost": np.stack([mean, plan.cost], axis=1),
        "e6_converged": np.asarray(plan.converged),
    }
