"""Flax modules and plain functions as the four kernels of a representation.

    e(z | x) = N(mu(x), exp(log_var(x))),   d(x | z) = N(x; xhat(z), s_x^2 I),
    c(y | z) = softmax(logits(z)),          m(z) = N(0, I), or learned

A part of the model is a flax linen module, an nnx module, or a pair of functions
`(init, apply)`; flax is imported only where it is used. Four functions of one's own need
none of this: they are a `Model` as they stand.

Source: the networks of Gao & Chaudhari 2020 in their simplest form; the adapters are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.networks import _linen, _nnx, mlp
from thermojax.theories.representation.neural import encoder_log_prob
from thermojax.theories.representation.quantities import Model
from thermojax.typing import Array, Key, PyTree, is_concrete

__all__ = [
    "Network",
    "diagonal_marginal",
    "gaussian_decoder",
    "gaussian_mlp_model",
    "mixture_marginal",
    "neural_model",
]


class Network(NamedTuple):
    """A model and where its parameters come from.

    Attributes:
        model: the four kernels.
        init: key -> params, a dict of "encoder", "decoder", "classifier" and, where it is
            learned, "marginal".
    """

    model: Model
    init: Callable[[Key], PyTree]


class _Part(NamedTuple):
    """`init(key) -> params` and `apply(params, inputs) -> outputs`."""

    init: Callable
    apply: Callable


def neural_model(
    encoder: Any,
    decoder: Any,
    classifier: Any,
    *,
    example_x: Array,
    log_likelihood: Callable[[Array, Array], Array] | None = None,
    marginal: tuple[Callable, Callable] | None = None,
) -> Network:
    """Any networks as a `Model`.

    Args:
        encoder: x [n, *] -> (mean, log_var), each [n, d_z], or one array [n, 2 d_z] whose
            halves are those.
        decoder: z [n, d_z] -> whatever `log_likelihood` reads, by default [n, *].
        classifier: z [n, d_z] -> logits [n, n_y].
        example_x: [n, *] inputs, from which shapes are inferred.
        log_likelihood: `(output of the decoder [n, ...], x [n, *]) -> [n]` log d(x | z);
            `gaussian_decoder(1.0)` by default.
        marginal: pair `(init(key) -> params, log_prob(params, z [..., d_z]) -> [...])` of a
            learned log m, as `diagonal_marginal(d_z)`; N(0, I) by default.

    Each of the first three is a flax linen module, an nnx module (whose values are the
    initial parameters, whatever the key), or a pair of functions `(init(key, example) ->
    params, apply(params, inputs))`. Samples and examples reach it as one leading axis.

    Returns:
        `Network(model, init)`.

    Raises:
        TypeError: a part that is none of these.
        ValueError: a module with state besides its parameters; an encoder whose output
            cannot be halved.

    Source:
        Our construction.

    Example:
        >>> import flax.linen as nn
        >>> x = jnp.zeros((1, 6))
        >>> model, init = neural_model(nn.Dense(4), nn.Dense(6), nn.Dense(3), example_x=x)
        >>> params = init(jax.random.key(0))
        >>> [a.shape for a in model.encode(params, x)]
        [(1, 2), (1, 2)]
    """
    log_likelihood = gaussian_decoder(1.0) if log_likelihood is None else log_likelihood
    parts = {"encoder": _part(encoder, example_x)}
    out = jax.eval_shape(
        lambda x: _halves(parts["encoder"].apply(parts["encoder"].init(jax.random.key(0)), x)),
        example_x,
    )
    code = jnp.zeros(out[0].shape, out[0].dtype)
    parts["decoder"] = _part(decoder, code)
    parts["classifier"] = _part(classifier, code)
    if marginal is not None:
        parts["marginal"] = _Part(*marginal)
    return Network(_assemble(parts, log_likelihood), _Init(tuple(parts.items())))


@dataclasses.dataclass(frozen=True)
class _Init:
    parts: tuple[tuple[str, _Part], ...]

    def __call__(self, key):
        keys = jax.random.split(key, len(self.parts))
        return {name: part.init(k) for k, (name, part) in zip(keys, self.parts, strict=True)}


def _assemble(parts: dict[str, _Part], log_likelihood: Callable) -> Model:
    def flat(name, params, z):
        out = parts[name].apply(params[name], z.reshape(-1, z.shape[-1]))
        return jax.tree.map(lambda a: a.reshape(*z.shape[:-1], *a.shape[1:]), out)

    def log_decoder(params, x, z):
        over_batch = jax.vmap(log_likelihood, in_axes=(0, None))
        return over_batch(flat("decoder", params, z), x)

    learned = parts.get("marginal")
    return Model(
        encode=lambda params, x: _halves(parts["encoder"].apply(params["encoder"], x)),
        log_decoder=log_decoder,
        log_classifier=lambda params, z: jax.nn.log_softmax(flat("classifier", params, z)),
        log_marginal=learned and (lambda params, z: learned.apply(params["marginal"], z)),
    )


def _halves(out: Any) -> tuple[Array, Array]:
    """Mean and log variance of an encoder's output."""
    if isinstance(out, tuple | list):
        mean, log_var = out
        return mean, log_var
    if out.shape[-1] % 2:
        raise ValueError(
            f"the encoder's output of shape {out.shape} cannot be halved into mean and log "
            "variance: make its last axis 2 d_z, or return the two as a tuple"
        )
    mean, log_var = jnp.split(out, 2, axis=-1)
    return mean, log_var


def _part(part: Any, example: Array) -> _Part:
    from flax import linen, nnx

    if isinstance(part, linen.Module):
        apply, _ = _linen(part, example)
        return _Part(lambda key: part.init(key, example)["params"], apply)
    if isinstance(part, nnx.Module):
        apply, values = _nnx(part)
        return _Part(lambda key: values, apply)
    if isinstance(part, tuple) and len(part) == 2 and all(map(callable, part)):
        init, apply = part
        return _Part(lambda key: init(key, example), apply)
    raise TypeError(
        f"a part of the model must be a flax linen or nnx module or a pair (init, apply), "
        f"got {type(part).__name__}"
    )


def gaussian_decoder(scale: float, *, normalized: bool = False) -> Callable:
    """log d(x | z) = -|x - xhat|^2 / (2 s_x^2) [- n log(2 pi s_x^2) / 2], nats.

    Without the constant, D is a squared error in units of 2 s_x^2 and F is shifted by lam
    times that constant; slopes, susceptibilities and processes do not feel it. The authors'
    sum of squares is the scale sqrt(1/2) without the constant.

    Args:
        scale: s_x > 0, in units of x.
        normalized: whether d is a normalised density.

    Returns:
        `(xhat [n, *], x [n, *]) -> [n]`.

    Raises:
        ValueError: a scale that is not positive and finite.

    Source:
        Standard; the authors' convention after the code of Gao & Chaudhari 2020.

    Example:
        >>> float(gaussian_decoder(0.5)(jnp.zeros((1, 2)), jnp.ones((1, 2)))[0])
        -4.0
    """
    if is_concrete(scale) and not (scale > 0 and np.isfinite(scale)):
        raise ValueError(f"scale={scale} is a standard deviation: make it positive and finite")
    log_norm = 0.5 * math.log(2 * math.pi * scale**2) if normalized else 0.0

    def log_likelihood(output, x):
        error = ((x - output.reshape(x.shape)) / scale) ** 2
        return jnp.sum(-0.5 * error - log_norm, axis=tuple(range(1, x.ndim)))

    return log_likelihood


def gaussian_mlp_model(
    num_inputs: int,
    num_labels: int,
    *,
    latent_dim: int = 8,
    hidden: int = 64,
    decoder_scale: float = 0.3,
    normalized: bool = False,
    marginal: tuple[Callable, Callable] | None = None,
) -> Network:
    """Tanh networks of one hidden layer: the model of the experiments on digits.

        encoder d_in-64-(8+8),   decoder 8-64-d_in,   linear classifier 8-n_y

    Args:
        num_inputs: length d_in of the inputs [B, d_in].
        num_labels: n_y.
        latent_dim: d_z.
        hidden: width of the hidden layers.
        decoder_scale: s_x, in units of x.
        normalized: count the normalising constant of d in D; see `gaussian_decoder`.
        marginal: learned log m, as `diagonal_marginal(latent_dim)`; N(0, I) by default.

    Returns:
        `Network(model, init)`; `init(key) -> params` gives float32, as flax does.

    Raises:
        ValueError: a size below 1, a scale that is not positive.

    Source:
        Our choice of networks, following the paper's programme.

    Example:
        >>> model, init = gaussian_mlp_model(64, 10)
        >>> params = init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        10026
    """
    sizes = {
        "num_inputs": num_inputs,
        "num_labels": num_labels,
        "latent_dim": latent_dim,
        "hidden": hidden,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    return neural_model(
        mlp((hidden,), 2 * latent_dim),
        mlp((hidden,), num_inputs),
        mlp((), num_labels),
        example_x=jnp.zeros((1, num_inputs)),
        log_likelihood=gaussian_decoder(decoder_scale, normalized=normalized),
        marginal=marginal,
    )


def diagonal_marginal(latent_dim: int) -> tuple[Callable, Callable]:
    """Learned diagonal Gaussian m(z), started at N(0, I).

    Args:
        latent_dim: d_z.

    Returns:
        `(init(key) -> params, log_prob(params, z [..., d_z]) -> [...])`.

    Source:
        Standard.

    Example:
        >>> init, log_prob = diagonal_marginal(2)
        >>> float(log_prob(init(jax.random.key(0)), jnp.zeros(2)))  # -log(2 pi)
        -1.8378...
    """

    def init(key):
        zero = jnp.zeros(latent_dim)
        return {"mean": zero, "log_var": zero}

    return init, lambda params, z: encoder_log_prob(params["mean"], params["log_var"], z)


def mixture_marginal(latent_dim: int, num_components: int) -> tuple[Callable, Callable]:
    """Learned mixture of diagonal Gaussians m(z), with centres drawn from N(0, I).

        log m(z) = logsumexp_k [log w_k + log N(z; mu_k, exp(log_var_k))]

    Args:
        latent_dim: d_z.
        num_components: number of Gaussians.

    Returns:
        `(init(key) -> params, log_prob(params, z [..., d_z]) -> [...])`.

    Raises:
        ValueError: num_components < 1.

    Source:
        Standard.

    Example:
        >>> init, log_prob = mixture_marginal(2, 3)
        >>> log_prob(init(jax.random.key(0)), jnp.zeros((5, 4, 2))).shape
        (5, 4)
    """
    if num_components < 1:
        raise ValueError(f"num_components={num_components} must be at least 1")

    def init(key):
        mean = jax.random.normal(key, (num_components, latent_dim))
        return {
            "logits": jnp.zeros(num_components),
            "mean": mean,
            "log_var": jnp.zeros_like(mean),
        }

    def log_prob(params, z):
        each = encoder_log_prob(params["mean"], params["log_var"], z[..., None, :])
        return jax.nn.logsumexp(each + jax.nn.log_softmax(params["logits"]), axis=-1)

    return init, log_prob
