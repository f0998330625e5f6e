"""Experiment C: activations as heat engines, measured on digits against the mean field.

    eta_R = <|dU/dz|^2> / <|dU/da|^2>      measured with taps on a real network
          = E g'(sqrt(q) Z)^2              in the wide limit

and the two classes of engines: does the efficiency survive hot pre-activations or not?

Source: specification of the theory, 2.7 and 9 C; our definitions, following the programme of
Zhang (2024).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.temperature_layers import digits
from thermojax.experiments.temperature_networks import (
    ACTIVATIONS,
    draw_networks,
    empty_taps,
    index_of,
    tapped,
)
from thermojax.theories.temperature.efficiency import (
    activation_efficiency,
    layer_efficiency,
    mean_field_efficiency,
    softmax_efficiency,
)
from thermojax.theories.temperature.engines import engine_class
from thermojax.typing import Array, Key, PyTree

__all__ = ["EnginesConfig", "engine_curves", "run_engines"]


@dataclasses.dataclass(frozen=True)
class EnginesConfig:
    """Settings of experiment C.

    Attributes:
        rows: digits.
        width: units of every hidden layer.
        depth: hidden layers.
        initialisations: networks over which efficiencies are averaged.
        variances: of pre-activations, at which curves are drawn.
    """

    rows: int = 300
    width: int = 256
    depth: int = 3
    initialisations: int = 8
    variances: tuple[float, ...] = tuple(float(q) for q in np.geomspace(1e-2, 1e4, 25))

    def __post_init__(self):
        if min(self.rows, self.width, self.depth) < 1 or self.initialisations < 2:
            raise ValueError(
                f"rows={self.rows}, width={self.width} and depth={self.depth} must be at "
                f"least 1, initialisations={self.initialisations} at least 2"
            )


@jax.jit
def _measure(activation: Array, params: PyTree, data: tuple[Array, Array]) -> Array:
    """[member, layer, kind] of eta_R, eta_C and eta_T."""
    one = jax.tree.map(lambda x: x[0], params)
    taps = empty_taps(one, data[0].shape[0])

    def each(params):
        found = layer_efficiency(tapped(activation), params, data, taps)
        rows = [jnp.stack([e.response, e.coherent, e.transmission]) for e in found.values()]
        return jnp.stack(rows)

    return jax.lax.map(each, params)


def _one_of(activation: Array) -> Callable[[Array], Array]:
    return lambda z: jax.lax.switch(activation, tuple(ACTIVATIONS.values()), z)


@functools.partial(jax.jit, static_argnames=("depth",))
def _predict(depth: int, activation: Array, squares: Array) -> Array:
    """[layer, kind] of a wide network, `squares` the mean square of every datum."""
    wide = mean_field_efficiency(_one_of(activation), depth, 1.0, 0.0, squares)
    return jnp.stack([wide.response, wide.coherent, wide.transmission], -1)


@jax.jit
def _response(activation: Array, variance: Array) -> Array:
    return jnp.asarray(activation_efficiency(_one_of(activation), variance).response)


def run_engines(config: EnginesConfig, seed: int) -> dict[str, np.ndarray]:
    """One draw: efficiencies [activation, initialisation, layer, kind] and predictions.

    The kinds are eta_R, eta_C and eta_T; the predictions lack the axis of initialisations.
    """
    key, data = jax.random.key(seed), digits(config.rows, seed)
    squares = jnp.mean(data[0] ** 2, axis=1)
    sizes = (data[0].shape[1], *[config.width] * config.depth, 10)
    measured, predicted = [], []
    for i, name in enumerate(ACTIVATIONS):
        mine: Key = jax.random.fold_in(key, 50 + i)
        params = draw_networks(mine, sizes, config.initialisations)
        measured.append(_measure(index_of(name), params, data))
        predicted.append(_predict(config.depth, index_of(name), squares))
    return {
        "c_measured": np.asarray(jnp.stack(measured), float),
        "c_predicted": np.asarray(jnp.stack(predicted), float),
    }


def engine_curves(config: EnginesConfig) -> dict[str, np.ndarray]:
    """Efficiency against the variance of pre-activations, and the class of every engine.

    The last engine is the softmax of two classes inside a network.
    """
    ends = jnp.asarray([1e2, 1e4])
    q = jnp.concatenate([jnp.asarray(config.variances), ends])
    found = [_response(index_of(name), q) for name in ACTIVATIONS]
    found.append(jax.lax.map(lambda v: softmax_efficiency(2, v).response, q))
    curves, hot = jnp.split(jnp.stack(found), [len(config.variances)], axis=1)
    names = [engine_class(g) for g in (*ACTIVATIONS.values(), "softmax")]
    hot = np.asarray(hot, float)
    return {
        "c_activation": np.array([*ACTIVATIONS, "softmax"]),
        "c_variance": np.asarray(config.variances),
        "c_curve": np.asarray(curves, float),
        "c_kappa": np.log(hot[:, 1] / hot[:, 0]) / np.log(1e2),
        "c_class": np.array(names),
    }
