"""Experiment B: heat, entropy and temperature of every layer of networks on digits.

Ensembles of networks of several depths and activations are trained by gradient descent, and
every step of every layer is booked (`path_transition`). Between windows of steps the
differential temperatures are read: T_flow and the virial, by layer.

Source: specification of the theory, 2.4, 2.5 and 9 B; our definitions, following the
programme of Zhang (2024).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.blocks import block_dots
from thermojax.datasets import load
from thermojax.experiments.temperature_networks import (
    ACTIVATIONS,
    draw_networks,
    empty_taps,
    index_of,
    tapped,
)
from thermojax.temperatures import flow_temperature, virial_temperature
from thermojax.theories.temperature.efficiency import layer_efficiency
from thermojax.theories.temperature.path import path_transition
from thermojax.typing import Array, Key, PyTree

__all__ = ["LayersConfig", "digits", "run_layers"]

Data = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class LayersConfig:
    """Settings of experiment B.

    Attributes:
        rows: digits.
        members: networks of an ensemble.
        width: units of every hidden layer.
        depths: hidden layers of the tanh networks; the second is the standard one.
        activations: of further networks with the standard depth.
        step_size: eps.
        coarse: a step size too large for the heats to add up, for the standard network.
        steps: of training.
        window: steps between two readings.
        initial_members: networks of the ensembles whose T_flow is read before training.
        order: terms of the entropy's series.
        long_rows: digits of the long run.
        long_members: its networks.
        long_width: its units.
        long_step_size: its eps.
        long_steps: its steps, a multiple of 8.
    """

    rows: int = 300
    members: int = 8
    width: int = 16
    depths: tuple[int, ...] = (1, 2, 3)
    activations: tuple[str, ...] = ("identity", "relu", "gelu", "softplus", "sigmoid")
    step_size: float = 0.1
    coarse: float = 1.5
    steps: int = 100
    window: int = 10
    initial_members: int = 128
    order: int = 2
    long_rows: int = 600
    long_members: int = 16
    long_width: int = 32
    long_step_size: float = 0.2
    long_steps: int = 400

    def __post_init__(self):
        if self.steps % self.window or self.steps // self.window % 2 or self.long_steps % 8:
            raise ValueError(
                f"steps={self.steps} must be an even number of windows of {self.window}, and "
                f"long_steps={self.long_steps} a multiple of 8"
            )
        if len(self.depths) < 2 or min(self.depths) < 1:
            raise ValueError(f"depths={self.depths} must be two or more, each at least 1")
        unknown = sorted(set(self.activations) - set(ACTIVATIONS))
        if unknown:
            raise ValueError(f"activations {unknown} are unknown: use {sorted(ACTIVATIONS)}")
        if min(self.members, self.long_members) < 2:
            raise ValueError(f"members={self.members} and {self.long_members}: at least 2")

    @property
    def networks(self) -> tuple[tuple[str, int], ...]:
        """(activation, depth) of every network."""
        tanh = [("tanh", depth) for depth in self.depths]
        return (*tanh, *((name, self.depths[1]) for name in self.activations))

    def sizes(self, depth: int) -> tuple[int, ...]:
        """Units of all layers."""
        return (64, *[self.width] * depth, 10)


def digits(rows: int, seed: int) -> Data:
    """Images with one mean and one standard deviation, and their classes."""
    found = load("digits", examples=rows, seed=seed)
    return jnp.asarray(found.inputs), jnp.asarray(found.targets)


def _energy(activation: Array, data: Data) -> Callable[[PyTree], Array]:
    whole = tapped(activation)
    return lambda params: whole(params, data, None)[0]


def _by_layer(found: dict[str, Array]) -> Array:
    return jnp.stack(list(found.values()))


def _read(activation: Array, params: PyTree, data: Data, key: Key) -> dict[str, Array]:
    """Energy, differential temperatures by layer and efficiencies of one ensemble."""
    energy = _energy(activation, data)
    flow = flow_temperature(energy, params, key=key, probes=2)
    one = jax.tree.map(lambda x: x[0], params)
    taps = empty_taps(one, data[0].shape[0])
    measure = lambda p: layer_efficiency(tapped(activation), p, data, taps)
    found = jax.lax.map(measure, params)
    return {
        "energy": jnp.mean(jax.lax.map(energy, params)),
        "flow": _by_layer(flow.blocks),
        "flow_total": flow.total,
        "virial": _by_layer(virial_temperature(energy, params).blocks),
        "response": jnp.stack([jnp.mean(e.response) for e in found.values()]),
    }


@functools.partial(jax.jit, static_argnames=("windows", "length", "order"))
def _train(
    windows: int,
    length: int,
    order: int,
    activation: Array,
    params: PyTree,
    data: Data,
    step_size: Array,
    key: Key,
) -> dict[str, Any]:
    """Windows of training with their ledgers, and readings at all boundaries."""
    energy = _energy(activation, data)

    def window(params, key):
        later, each, whole = path_transition(
            energy, params, step_size=step_size, num_steps=length, order=order, key=key
        )
        made = {
            "heat": jnp.stack([t.delta_energy for t in each.values()]),
            "made": jnp.stack([t.delta_entropy for t in each.values()]),
            "flags": whole.flags,
        }
        return later, (params, made)

    first, second = jax.random.split(key)
    params, (states, made) = jax.lax.scan(window, params, jax.random.split(first, windows))
    states = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), states, params)
    keys = jax.random.split(second, windows + 1)
    seen = jax.lax.map(lambda x: _read(activation, x[0], data, x[1]), (states, keys))
    return seen | made | {"states": states}


@jax.jit
def _at_start(activation: Array, params: PyTree, data: Data, key: Key) -> tuple[Array, Array]:
    """T_flow by layer of many networks, and its errors: curvatures of one cancel there."""
    energy = _energy(activation, data)
    flow = flow_temperature(energy, params, key=key, probes=4, batch_size=16)
    return _by_layer(flow.blocks), _by_layer(flow.block_stderr)


@functools.partial(jax.jit, static_argnames=("windows", "length"))
def _descend(
    windows: int, length: int, activation: Array, params: PyTree, data: Data, step_size: Array
) -> tuple[PyTree, Array]:
    """Ensembles at all boundaries, and the naive heat, the sum of eps <|g|^2>."""
    slope = jax.vmap(jax.grad(_energy(activation, data)))
    members = jax.tree.leaves(params)[0].shape[0]

    def step(carry, _):
        params, heat = carry
        gradient = slope(params)
        squares = jnp.sum(block_dots(gradient, gradient)) / members
        params = jax.tree.map(lambda x, g: x - step_size * g, params, gradient)
        return (params, heat + step_size * squares), None

    def window(carry, _):
        later, _ = jax.lax.scan(step, carry, length=length)
        return later, carry[0]

    (last, heat), seen = jax.lax.scan(window, (params, jnp.zeros(())), length=windows)
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), seen, last), heat


@jax.jit
def _checkpoint_heat(activation: Array, states: PyTree, data: Data) -> Array:
    """What the trapezoid rule makes of ensembles [K+1, M, ...] alone."""
    forces = jax.lax.map(jax.vmap(jax.grad(_energy(activation, data))), states)
    mean = jax.tree.map(lambda g: 0.5 * (g[:-1] + g[1:]), forces)
    moved = jax.tree.map(lambda x: x[:-1] - x[1:], states)
    return jnp.sum(block_dots(mean, moved)) / jax.tree.leaves(states)[0].shape[1]


_long_read = jax.jit(_read)


def run_layers(
    config: LayersConfig, seed: int, say: Callable[[float, str], None]
) -> dict[str, np.ndarray]:
    """One draw of experiment B: name -> array; axes network, window or boundary, layer.

    Layers that a network does not have are nan.
    """
    key, data = jax.random.key(seed), digits(config.rows, seed)
    windows, count = config.steps // config.window, len(config.networks) + 1
    train = functools.partial(_train, windows, config.window, config.order)
    eps, rows = jnp.asarray(config.step_size), []
    for i, (activation, depth) in enumerate(config.networks):
        say(i / count, f"{activation} network of {depth} hidden layers")
        mine, g = jax.random.fold_in(key, i), index_of(activation)
        start = draw_networks(mine, config.sizes(depth), config.members)
        found = train(g, start, data, eps, mine)
        states = jax.tree.map(lambda x: x[::2], found.pop("states"))
        row = {name: np.asarray(x, float) for name, x in found.items()}
        row["checkpoint"] = np.asarray(_checkpoint_heat(g, states, data), float)
        many = draw_networks(mine, config.sizes(depth), config.initial_members)
        for name, x in zip(_STARTS, _at_start(g, many, data, mine), strict=True):
            row[name] = np.asarray(x, float)
        rows.append({name: _padded(name, x, config) for name, x in row.items()})
    say((count - 1) / count, "long run")
    arrays = {f"b_{name}": np.stack([row[name] for row in rows]) for name in rows[0]}
    return arrays | _coarse_run(config, data, key) | _long_run(config, seed)


_STARTS = ("start_flow", "start_flow_stderr")
_BY_LAYER = ("heat", "made", "flow", "virial", "response", *_STARTS)


def _padded(name: str, x: np.ndarray, config: LayersConfig) -> np.ndarray:
    """The last axis, where it counts layers, filled up with nan."""
    if name not in _BY_LAYER:
        return x
    more = max(config.depths) + 1 - x.shape[-1]
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)], constant_values=np.nan)


def _coarse_run(config: LayersConfig, data: Data, key: Key) -> dict[str, np.ndarray]:
    """The standard network with steps too large, and its naive heat with the usual ones."""
    activation, depth = config.networks[1]
    mine, g = jax.random.fold_in(key, 1), index_of(activation)
    windows = config.steps // config.window
    start = draw_networks(mine, config.sizes(depth), config.members)
    train = functools.partial(_train, windows, config.window, config.order)
    coarse = train(g, start, data, jnp.asarray(config.coarse), mine)
    _, naive = _descend(windows, config.window, g, start, data, jnp.asarray(config.step_size))
    return {
        "b_coarse_flags": np.asarray(coarse["flags"]),
        "b_coarse_heat": np.asarray(jnp.sum(coarse["heat"]), float),
        "b_coarse_energy": np.asarray(coarse["energy"], float),
        "b_naive": np.asarray(naive, float),
    }


def _long_run(config: LayersConfig, seed: int) -> dict[str, np.ndarray]:
    """Flow temperatures of two tanh layers until the loss is small, at nine times."""
    key, data = jax.random.key(seed), digits(config.long_rows, seed)
    sizes = (64, config.long_width, config.long_width, 10)
    start = draw_networks(jax.random.fold_in(key, 999), sizes, config.long_members)
    eps, g = jnp.asarray(config.long_step_size), index_of("tanh")
    states, _ = _descend(8, config.long_steps // 8, g, start, data, eps)
    at = lambda i: jax.tree.map(lambda x: x[i], states)
    seen = [_long_read(g, at(i), data, jax.random.fold_in(key, i)) for i in range(9)]
    return {
        f"b_long_{name}": np.stack([np.asarray(s[name], float) for s in seen])
        for name in ("energy", "flow", "flow_total", "virial")
    }
