"""The networks of the experiments: bias-free, N(0, 1/fan_in), tapped by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from thermojax.typing import Array, Key

__all__ = ["ACTIVATIONS", "draw_networks", "empty_taps", "forward", "index_of", "tapped"]

Params = dict[str, Array]
Taps = Mapping[str, tuple[Array, Array]]


def _identity(z: Array) -> Array:
    return z


def _gelu(z: Array) -> Array:
    return jax.nn.gelu(z, approximate=False)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": _identity,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": _gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def index_of(activation: str) -> Array:
    """Place in `ACTIVATIONS`: a number that one compiled program takes for all of them."""
    return jnp.asarray(list(ACTIVATIONS).index(activation))


def draw_networks(key: Key, sizes: Sequence[int], members: int) -> Params:
    """Weights [members, fan_in, fan_out] ~ N(0, 1/fan_in) of layer_1, layer_2, ..."""
    keys = jax.random.split(key, len(sizes) - 1)
    return {
        f"layer_{i + 1}": jax.random.normal(k, (members, n, m)) / jnp.sqrt(float(n))
        for i, (k, n, m) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
    }


def empty_taps(params: Params, rows: int) -> dict[str, tuple[Array, Array]]:
    """Zeros [rows, width] for every hidden layer of one network."""
    hidden = list(params)[:-1]
    zeros = {name: jnp.zeros((rows, params[name].shape[1])) for name in hidden}
    return {name: (z, z) for name, z in zeros.items()}


def forward(
    params: Params, x: Array, activation: Array, taps: Taps | None = None
) -> tuple[Array, dict[str, tuple[Array, Array]]]:
    """Outputs [rows, classes], and {hidden layer: (z, a)}.

    Args:
        params: of one network.
        x: [rows, inputs].
        activation: index into `ACTIVATIONS`, of all hidden layers.
        taps: {hidden layer: (added to z, added to a)}.
    """
    *hidden, last = params
    signals = {}
    for name in hidden:
        before, after = (0.0, 0.0) if taps is None else taps[name]
        z = x @ params[name] + before
        a = jax.lax.switch(activation, tuple(ACTIVATIONS.values()), z)
        signals[name] = (z, a)
        x = a + after
    return x @ params[last], signals


def tapped(activation: Array) -> Callable:
    """(params, (x, labels), taps) -> (mean cross entropy, {hidden layer: (z, a)}).

    Args:
        activation: index into `ACTIVATIONS`.
    """

    def energy(params, batch, taps):
        x, labels = batch
        logits, signals = forward(params, x, activation, taps)
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1)), signals

    return energy
