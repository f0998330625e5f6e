"""Parametric probabilistic models: p(x | theta) = exp(-phi(x; theta)) / Z(theta).

    SoftmaxClassifier    p(y | u) = softmax(f(u))_y              conditional, Z = 1
    GaussianRegressor    p(y | u) = N(y; f(u), s^2)              conditional, Z = 1
    BernoulliRBM         phi(x) = -a.x - sum_h softplus(b + x W)_h, Z by enumeration
    CouplingFlow         x = T(z), z ~ N(0, 1)                   Z = 1

Each has `init(key) -> params`, `log_prob(params, x) -> scalar` in nats and an exact sampler.
A sample of a conditional model is a pair x = (u, y) of a quenched input and an output. A
model that is normalised is an energy model with U = -T log p, Z = 1 and F = 0.

The form p = exp(-phi)/Z is Parsi 2024's [paper]; the reading of normalised models as energy
models and of conditional ones at quenched inputs is our definition, following the paper's
programme.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from thermojax import networks
from thermojax.priors import Template
from thermojax.typing import Array, Key, PyTree

__all__ = [
    "BernoulliRBM",
    "CouplingFlow",
    "GaussianRegressor",
    "Network",
    "ParametricModel",
    "SoftmaxClassifier",
    "binary_states",
    "gaussian_regressor",
    "given",
    "softmax_classifier",
]

_MOST_UNITS = 20
_LOG_TWO_PI = math.log(2 * math.pi)


class ParametricModel(Protocol):
    """What every model here offers; any function of the form of `log_prob` will do."""

    def init(self, key: Key) -> PyTree:
        """Parameters of an untrained model."""
        ...

    def log_prob(self, params: PyTree, x: PyTree) -> Array:
        """log p(x | theta) of one sample, a scalar in nats."""
        ...


def given(log_prob: Callable, u: PyTree) -> Callable:
    """The model of the output y at a quenched input: (theta, y) -> log p(y | u, theta).

    Example:
        >>> at = given(lambda theta, x: theta * x[0] * x[1], 2.0)
        >>> at(3.0, 0.5)
        3.0
    """
    return lambda params, y: log_prob(params, (u, y))


# Networks


@dataclasses.dataclass(frozen=True)
class Network:
    """A function of parameters and a batch of inputs, and the shapes of its parameters.

    Attributes:
        apply: `(params, inputs [N, ...]) -> [N, ...]`.
        template: shapes of the parameters.
    """

    apply: Callable
    template: Template

    @classmethod
    def of(cls, module: Any, example_inputs: Any) -> Network:
        """The network of a flax module, linen or nnx.

        Args:
            module: without state besides its parameters.
            example_inputs: [1, ...] a batch of one input.

        Raises:
            TypeError: neither kind of flax module.
            ValueError: a module with state besides its parameters.
        """
        data = (jnp.asarray(example_inputs), jnp.zeros(1, int))
        sys = networks.from_flax(module, networks.softmax_loss, data)
        return cls(functools.partial(networks.outputs, sys), networks.template_of(sys))

    def init(self, key: Key) -> PyTree:
        """Weights from N(0, 1 / fan-in), everything with fewer than two axes zero."""
        zero = self.template.unflatten(jnp.zeros(self.template.size, self.template.dtype))
        leaves, tree = jax.tree.flatten(zero)
        keys = jax.random.split(key, len(leaves))

        def draw(key, leaf):
            if leaf.ndim < 2:
                return leaf
            fan_in = math.prod(leaf.shape[:-1])
            return jax.random.normal(key, leaf.shape, leaf.dtype) / math.sqrt(fan_in)

        return jax.tree.unflatten(tree, map(draw, keys, leaves))


# Conditional models


@dataclasses.dataclass(frozen=True)
class SoftmaxClassifier:
    """p(y | u, theta) = softmax(f(u; theta))_y; a sample is x = (u, y).

    Attributes:
        network: `(params, inputs [N, ...]) -> logits [N, K]`.
    """

    network: Network

    def init(self, key: Key) -> PyTree:
        """See `Network.init`."""
        return self.network.init(key)

    def log_prob(self, params: PyTree, x: tuple[Array, Array]) -> Array:
        """log p(y | u, theta) of one pair (u, y), y an integer; scalar in nats."""
        u, y = x
        return self.log_probs(params, jnp.asarray(u)[None])[0, y]

    def log_probs(self, params: PyTree, inputs: Array) -> Array:
        """[U, K] log-probabilities of all classes at inputs [U, ...], in nats."""
        return jax.nn.log_softmax(self.network.apply(params, inputs))

    def sample(self, key: Key, params: PyTree, u: Array) -> Array:
        """A class from p(. | u, theta) at one input: the exact, fresh sampler."""
        return jax.random.categorical(key, self.network.apply(params, jnp.asarray(u)[None])[0])


@dataclasses.dataclass(frozen=True)
class GaussianRegressor:
    """p(y | u, theta) = N(y; f(u; theta), s^2); a sample is x = (u, y).

    Attributes:
        network: `(params, inputs [N, ...]) -> means [N, p]`.
        noise: standard deviation s; None to learn log s as the parameter "log_noise", with
            the parameters of the network under "network".
    """

    network: Network
    noise: float | None = None

    def __post_init__(self):
        if self.noise is not None and not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise={self.noise} must be positive and finite, or None")

    def init(self, key: Key) -> PyTree:
        """See `Network.init`; log s = 0."""
        params = self.network.init(key)
        if self.noise is not None:
            return params
        zero = jnp.zeros((), self.network.template.dtype)
        return {"network": params, "log_noise": zero}

    def _moments(self, params: PyTree, u: Array) -> tuple[Array, Array]:
        """Means and log s at one input."""
        learned = self.noise is None
        mean = self.network.apply(params["network"] if learned else params, u[None])[0]
        log_noise = params["log_noise"] if learned else math.log(self.noise or 1.0)
        return mean, jnp.asarray(log_noise, mean.dtype)

    def log_prob(self, params: PyTree, x: tuple[Array, Array]) -> Array:
        """log density of one pair (u, y), y a scalar or [p]; nats."""
        u, y = x
        mean, log_noise = self._moments(params, jnp.asarray(u))
        residual = (jnp.reshape(y, mean.shape) - mean) * jnp.exp(-log_noise)
        return -jnp.sum(0.5 * residual**2 + log_noise + 0.5 * _LOG_TWO_PI)

    def sample(self, key: Key, params: PyTree, u: Array) -> Array:
        """[p] output at one input, reparameterised: differentiable in theta."""
        mean, log_noise = self._moments(params, jnp.asarray(u))
        return mean + jnp.exp(log_noise) * jax.random.normal(key, mean.shape, mean.dtype)


def _perceptron(hidden: Sequence[int], n_features: int, n_out: int, bias: bool) -> Network:
    if n_features < 1 or n_out < 1 or any(width < 1 for width in hidden):
        raise ValueError(
            f"widths {(n_features, *hidden, n_out)} must all be positive: give at least one "
            "input, one unit per layer and one output"
        )
    module = networks.mlp(tuple(hidden), n_out, bias=bias)
    return Network.of(module, np.zeros((1, n_features), np.float32))


def softmax_classifier(
    hidden: Sequence[int], n_features: int, n_classes: int, *, bias: bool = True
) -> SoftmaxClassifier:
    """A tanh perceptron with a softmax head; `hidden=()` is multinomial logistic regression.

    Args:
        hidden: widths of the hidden layers.
        n_features: inputs.
        n_classes: at least 2.
        bias: whether layers have biases.

    Raises:
        ValueError: fewer than two classes, or a width that is not positive.

    Example:
        >>> model = softmax_classifier((3,), 2, 4)
        >>> params = model.init(jax.random.key(0))
        >>> table = model.log_probs(params, jnp.ones((5, 2)))
        >>> table.shape, round(float(jnp.exp(table[0]).sum()), 5)
        ((5, 4), 1.0)
    """
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes} must be at least 2")
    return SoftmaxClassifier(_perceptron(hidden, n_features, n_classes, bias))


def gaussian_regressor(
    hidden: Sequence[int],
    n_features: int,
    n_out: int = 1,
    *,
    noise: float | None = None,
    bias: bool = True,
) -> GaussianRegressor:
    """A tanh perceptron with a Gaussian head; `hidden=()` is linear regression.

    Args:
        hidden: widths of the hidden layers.
        n_features: inputs.
        n_out: outputs.
        noise: standard deviation of the outputs; None to learn it.
        bias: whether layers have biases.

    Raises:
        ValueError: a width or a noise that is not positive.

    Example:
        >>> model = gaussian_regressor((), 2, noise=1.0)
        >>> params = model.init(jax.random.key(0))
        >>> mean = model.network.apply(params, jnp.ones((1, 2)))[0]
        >>> round(float(model.log_prob(params, (jnp.ones(2), mean))), 4)  # -log(2 pi) / 2
        -0.9189
    """
    return GaussianRegressor(_perceptron(hidden, n_features, n_out, bias), noise)


# Generative models


def binary_states(n: int) -> np.ndarray:
    """[2^n, n] float32 all states of n bits, the first bit fastest.

    Raises:
        ValueError: more than 20 bits.

    Example:
        >>> binary_states(2).tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    if not 0 <= n <= _MOST_UNITS:
        raise ValueError(f"n={n} units cannot be enumerated: use at most {_MOST_UNITS}")
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class BernoulliRBM:
    """Restricted Boltzmann machine over bits, its partition function enumerated.

        U(x) = -a.x - sum_h softplus(b + x W)_h,   beta = 1
        log Z = log sum_h exp(b.h) prod_v (1 + exp(a + W h)_v)

    or the same sum over visible states, whichever are fewer.

    Attributes:
        n_visible: bits of a sample.
        n_hidden: hidden units; one of the two numbers must be 20 or less.
        scale: standard deviation of the initial weights; biases begin at zero.

    Source: [standard]; specification of the theory, 3.3 (f).

    Example:
        >>> model = BernoulliRBM(3, 2)
        >>> params = model.init(jax.random.key(0))
        >>> round(float(jnp.exp(model.log_table(params)).sum()), 5)
        1.0
    """

    n_visible: int
    n_hidden: int
    scale: float = 0.1

    def __post_init__(self):
        if min(self.n_visible, self.n_hidden) < 1:
            raise ValueError(
                f"n_visible={self.n_visible} and n_hidden={self.n_hidden} must be positive"
            )
        if min(self.n_visible, self.n_hidden) > _MOST_UNITS:
            raise ValueError(
                f"{self.n_visible} visible and {self.n_hidden} hidden units: Z is enumerated "
                f"over the smaller layer, which may have at most {_MOST_UNITS}"
            )

    def init(self, key: Key) -> dict[str, Array]:
        """Small random weights "w" [V, H], biases "a" [V] and "b" [H] zero."""
        shape = (self.n_visible, self.n_hidden)
        return {
            "a": jnp.zeros(self.n_visible),
            "b": jnp.zeros(self.n_hidden),
            "w": self.scale * jax.random.normal(key, shape),
        }

    def energy(self, params: dict[str, Array], x: Array) -> Array:
        """U(x) of one sample [V], hidden units summed out; scalar in nats at beta = 1."""
        x = jnp.asarray(x, params["w"].dtype)
        field = params["b"] + x @ params["w"]
        return -x @ params["a"] - jnp.sum(jax.nn.softplus(field))

    def log_partition(self, params: dict[str, Array]) -> Array:
        """log Z(theta), a scalar in nats: exact, by enumeration of the smaller layer."""
        if self.n_visible < self.n_hidden:
            states = binary_states(self.n_visible)
            return jax.nn.logsumexp(-jax.vmap(lambda x: self.energy(params, x))(states))
        return jax.nn.logsumexp(self._hidden_weights(params))

    def _hidden_weights(self, params: dict[str, Array]) -> Array:
        """[2^H] log-weights of the hidden states, visible units summed out."""
        states = jnp.asarray(binary_states(self.n_hidden), params["w"].dtype)
        field = params["a"] + states @ params["w"].T
        return states @ params["b"] + jnp.sum(jax.nn.softplus(field), axis=-1)

    def log_prob(self, params: dict[str, Array], x: Array) -> Array:
        """log p(x | theta) of one sample [V], a scalar in nats."""
        return -self.energy(params, x) - self.log_partition(params)

    def log_table(self, params: dict[str, Array]) -> Array:
        """[2^V] log-probabilities of all samples, in the order of `binary_states`."""
        states = binary_states(self.n_visible)
        scores = -jax.vmap(lambda x: self.energy(params, x))(states)
        return scores - self.log_partition(params)

    def sample(self, key: Key, params: dict[str, Array]) -> Array:
        """[V] exact, fresh sample: a hidden state by its weight, then the visible bits.

        Raises:
            ValueError: more than 20 hidden units; use `gibbs` sweeps then.
        """
        first, second = jax.random.split(key)
        state = jax.random.categorical(first, self._hidden_weights(params))
        bits = (state >> jnp.arange(self.n_hidden)) & 1
        return self._visible(second, params, bits.astype(params["w"].dtype))

    def _visible(self, key: Key, params: dict[str, Array], hidden: Array) -> Array:
        field = params["a"] + params["w"] @ hidden
        up = jax.random.bernoulli(key, jax.nn.sigmoid(field))
        return up.astype(field.dtype)

    def gibbs(self, key: Key, params: dict[str, Array], x: Array, n_sweeps: int = 1) -> Array:
        """[V] after sweeps x -> h -> x': a slow sampler K_X, reversible under p(x | theta).

        Each sweep obeys local detailed balance with the energy above, so that its heat is
        U(x') - U(x).
        """

        def sweep(x, key):
            first, second = jax.random.split(key)
            field = params["b"] + x @ params["w"]
            hidden = jax.random.bernoulli(first, jax.nn.sigmoid(field)).astype(field.dtype)
            return self._visible(second, params, hidden), None

        x = jnp.asarray(x, params["w"].dtype)
        return jax.lax.scan(sweep, x, jax.random.split(key, n_sweeps))[0]


@dataclasses.dataclass(frozen=True)
class CouplingFlow:
    """A small normalising flow of affine couplings, every other feature moved at a time.

        y = m z + (1 - m) (z exp(s(m z)) + t(m z)),   log p(x) = log N(z) - sum s

    with s = tanh of one half of a network's output and t the other half. It begins as the
    identity: p(x | theta_0) = N(0, 1).

    Attributes:
        n_features: at least 2.
        n_layers: couplings; at least 2, so that every feature is moved.
        width: hidden tanh units of each network.

    Source: [standard] (Dinh, Sohl-Dickstein & Bengio 2017).

    Example:
        >>> flow = CouplingFlow(2)
        >>> params = flow.init(jax.random.key(0))
        >>> round(float(flow.log_prob(params, jnp.zeros(2))), 4)  # -log(2 pi)
        -1.8379
    """

    n_features: int
    n_layers: int = 4
    width: int = 16

    def __post_init__(self):
        if self.n_features < 2 or self.n_layers < 2 or self.width < 1:
            raise ValueError(
                f"n_features={self.n_features}, n_layers={self.n_layers}, width={self.width}: "
                "a flow of couplings needs at least 2 features, 2 layers and 1 unit"
            )

    def init(self, key: Key) -> dict[str, Array]:
        """Leaves with a leading axis [n_layers]; outputs zero."""
        n, d, w = self.n_layers, self.n_features, self.width
        return {
            "in": jax.random.normal(key, (n, d, w)) / math.sqrt(d),
            "bias": jnp.zeros((n, w)),
            "out": jnp.zeros((n, w, 2 * d)),
            "shift": jnp.zeros((n, 2 * d)),
        }

    def _masks(self, dtype: Any) -> Array:
        """[n_layers, n_features] ones where a feature is kept."""
        order = np.arange(self.n_layers)[:, None] + np.arange(self.n_features)
        return jnp.asarray(order % 2, dtype)

    def _coupling(self, layer: dict[str, Array], mask: Array, kept: Array):
        hidden = jnp.tanh(kept @ layer["in"] + layer["bias"])
        both = hidden @ layer["out"] + layer["shift"]
        free = 1 - mask
        return free * jnp.tanh(both[: self.n_features]), free * both[self.n_features :]

    def log_prob(self, params: dict[str, Array], x: Array) -> Array:
        """log p(x | theta) of one sample [n_features], a scalar in nats."""

        def undo(carry, layer):
            x, total = carry
            weights, mask = layer
            log_scale, shift = self._coupling(weights, mask, mask * x)
            return ((x - shift) * jnp.exp(-log_scale), total - jnp.sum(log_scale)), None

        dtype = params["in"].dtype
        start = (jnp.asarray(x, dtype), jnp.zeros((), dtype))
        (z, total), _ = jax.lax.scan(undo, start, (params, self._masks(dtype)), reverse=True)
        return total - jnp.sum(0.5 * z**2 + 0.5 * _LOG_TWO_PI)

    def sample(self, key: Key, params: dict[str, Array]) -> Array:
        """[n_features] exact, fresh sample, reparameterised: differentiable in theta."""

        def do(z, layer):
            weights, mask = layer
            log_scale, shift = self._coupling(weights, mask, mask * z)
            return z * jnp.exp(log_scale) + shift, None

        dtype = params["in"].dtype
        z = jax.random.normal(key, (self.n_features,), dtype)
        return jax.lax.scan(do, z, (params, self._masks(dtype)))[0]
