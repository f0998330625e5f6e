"""Activations as heat engines: what part of the back-propagated power a layer passes on.

A layer z -> a = g(z) with forces e = dU/da and f = dU/dz = J^T e, J = dg/dz, releases the
power |e|^2 under gradient motion of unit mobility; |f|^2 of it reaches the parameters behind.

    response       eta_R = <|J^T e|^2> / <|e|^2>    in the wide limit E g'(z)^2
    coherent       eta_C = (E g')^2 = (Cov(z, a) / Var z)^2 for Gaussian z
    transmission   eta_T = Var a / Var z
    eta_C <= eta_T <= eta_R for Gaussian z, equal iff g is affine

The *work efficiency* is eta_R: it lives on the loss's own energy scale. Linear maps are
lossless gears and the output's softmax belongs to the loss.

Source: [paper] says that layers have a work efficiency that mainly depends on the
activation; everything else here is our definition, following the programme of Zhang (2024).
The inequalities are Cauchy-Schwarz with Stein's lemma and the Gaussian Poincare inequality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = [
    "Efficiency",
    "activation_efficiency",
    "layer_efficiency",
    "mean_field_efficiency",
    "network_efficiency",
    "softmax_efficiency",
]

_REACH = 9.0


class Efficiency(NamedTuple):
    """Three efficiencies of one activation, dimensionless.

    Attributes:
        coherent: eta_C.
        transmission: eta_T.
        response: eta_R, the work efficiency.
        stderr: standard error of the response; 0 where it is a quadrature.
        flags: uint32 bit set of `Flag`.
    """

    coherent: ArrayLike
    transmission: ArrayLike
    response: ArrayLike
    stderr: ArrayLike = 0.0
    flags: ArrayLike = 0

    @property
    def carnot(self) -> ArrayLike:
        """1 - eta_T: the Carnot form, with the activations' variances as temperatures."""
        return 1 - self.transmission


def activation_efficiency(
    activation: Callable[[Array], Array],
    variance: ArrayLike,
    mean: ArrayLike = 0.0,
    *,
    nodes: int = 128,
) -> Efficiency:
    """Efficiencies of a scalar activation of Gaussian pre-activations z ~ N(mean, variance).

    By quadrature in z = sinh t, which resolves variances from 1e-4 to 1e4 to 1e-11 (float64)
    for activations that are smooth or have their kinks at 0; g' by automatic
    differentiation. Differentiable in variance, mean and whatever the activation closes over.

    Args:
        activation: scalar -> scalar.
        variance: of z, > 0; any shape.
        mean: of z; broadcasts with the variance.
        nodes: on either side of 0.

    Returns:
        `Efficiency`; fields of the broadcast shape.

    Raises:
        ValueError: a variance that is not positive.

    Example:
        >>> print(f"{activation_efficiency(jax.nn.relu, 1.0).transmission:.4f}")
        0.3408
    """
    if is_concrete(variance) and not np.all(np.asarray(variance) > 0):
        raise ValueError(f"variance={variance} must be positive")
    z, weights, variance = _gaussian_nodes(variance, mean, nodes)
    value = _elementwise(activation)(z)
    slope = _elementwise(jax.grad(activation))(z)
    expect = lambda x: jnp.sum(weights * x, axis=0)
    spread = expect((value - expect(value)) ** 2)
    return Efficiency(expect(slope) ** 2, spread / variance, expect(slope**2))


def _elementwise(fn: Callable) -> Callable:
    return lambda x: jax.vmap(fn)(x.ravel()).reshape(x.shape)


def _gaussian_nodes(
    variance: ArrayLike, mean: ArrayLike, nodes: int
) -> tuple[Array, Array, Array]:
    """Nodes and weights [2 nodes, ...] of expectations under N(mean, variance)."""
    kind = jnp.result_type(variance, mean)
    kind = kind if jnp.issubdtype(kind, jnp.floating) else jnp.result_type(float)
    variance, mean = jnp.broadcast_arrays(*(jnp.asarray(x, kind) for x in (variance, mean)))
    scale = jnp.sqrt(variance)
    low, high = jnp.arcsinh(mean - _REACH * scale), jnp.arcsinh(mean + _REACH * scale)
    cut = jnp.clip(jnp.zeros_like(mean), low, high)
    place, share = (
        jnp.asarray(x, kind).reshape(-1, *([1] * mean.ndim))
        for x in np.polynomial.legendre.leggauss(nodes)
    )

    def piece(start, end):
        half = (end - start) / 2
        t = start + half * (1 + place)
        return t, half * share

    left, right = piece(low, cut), piece(cut, high)
    t, width = (jnp.concatenate(pair) for pair in zip(left, right, strict=True))
    z = jnp.sinh(t)
    density = jnp.exp(-0.5 * ((z - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    return z, width * jnp.cosh(t) * density, variance


def softmax_efficiency(
    num_classes: int,
    variance: ArrayLike,
    *,
    key: Key | None = None,
    samples: int = 100_000,
) -> Efficiency:
    """Response efficiency of a softmax *inside* a network, over iid logits N(., variance).

        eta_R = E[Q - 2 R + Q^2] / C,   Q = sum p^2, R = sum p^3

    Args:
        num_classes: C; 2 is one quadrature, more are sampled.
        variance: q > 0, scalar.
        key: typed key, needed for C > 2.
        samples: draws of C logits.

    Returns:
        `Efficiency` with nan coherent and transmission (a vector map has neither per unit),
        and the sampling error of the response.

    Raises:
        ValueError: C < 2, C > 2 without a key, a variance that is not positive.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes} must be at least 2")
    if is_concrete(variance) and not np.all(np.asarray(variance) > 0):
        raise ValueError(f"variance={variance} must be positive")
    nothing = jnp.full_like(jnp.asarray(variance, jnp.result_type(float)), jnp.nan)
    if num_classes == 2:
        both = 2 * jnp.asarray(variance)
        response = 2 * activation_efficiency(jax.nn.sigmoid, both).response
        return Efficiency(nothing, nothing, response)
    if key is None:
        raise ValueError(f"num_classes={num_classes} is sampled: give key=")

    def one(key):
        logits = jnp.sqrt(variance) * jax.random.normal(key, (num_classes,))
        p = jax.nn.softmax(logits)
        square, cube = jnp.sum(p**2), jnp.sum(p**3)
        return (square - 2 * cube + square**2) / num_classes

    values = jax.lax.map(one, jax.random.split(key, samples), batch_size=1000)
    error = jnp.std(values) / math.sqrt(samples)
    return Efficiency(nothing, nothing, jnp.mean(values), error)


def mean_field_efficiency(
    activation: Callable[[Array], Array],
    depth: int,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
    input_variance: ArrayLike,
) -> Efficiency:
    """Efficiencies of the layers of a wide random network, from its variance recursion.

        q_1 = sw^2 x + sb^2,   q_(l+1) = sw^2 E g(sqrt(q_l) Z)^2 + sb^2

    with relative error O(1/width) plus a fluctuation O(1/sqrt(width)).

    Args:
        activation: scalar -> scalar.
        depth: hidden layers.
        weight_variance: sw^2 = fan_in x Var w.
        bias_variance: sb^2.
        input_variance: x, the mean square of the inputs: a scalar, or [n] one per datum,
            over which the efficiencies are then averaged.

    Returns:
        `Efficiency` with fields [depth].

    Raises:
        ValueError: depth < 1.
    """
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1")
    first = jnp.asarray(weight_variance * jnp.asarray(input_variance) + bias_variance)

    def layer(q, _):
        z, weights, _ = _gaussian_nodes(q, 0.0, 128)
        square = jnp.sum(weights * _elementwise(activation)(z) ** 2, axis=0)
        found = activation_efficiency(activation, q)
        means = tuple(jnp.mean(x) for x in found[:3])
        return (weight_variance * square + bias_variance).astype(q.dtype), means

    _, means = jax.lax.scan(layer, first, length=depth)
    return Efficiency(*means)


def layer_efficiency(
    apply_with_taps: Callable[[PyTree, Any, PyTree], tuple[Array, PyTree]],
    params: PyTree,
    batch: Any,
    taps: Mapping[str, tuple[Array, Array]],
) -> dict[str, Efficiency]:
    """Efficiencies of the activations of a real network on a real batch.

        eta_R = sum |dU/dz|^2 / sum |dU/da|^2 over rows and units
        eta_C, eta_T per unit over rows, weighted by Var z

    Args:
        apply_with_taps: (params, batch, taps) -> (U, {layer: (z, a)}), adding taps[layer][0]
            to z before and taps[layer][1] to a after the activation.
        params: of the network.
        batch: what it is applied to.
        taps: {layer: (zeros like z, zeros like a)}; units on the last axis.

    Returns:
        {layer: `Efficiency`}.

    Raises:
        ValueError: no taps, or layers of apply_with_taps that differ from those of taps.
    """
    if not taps:
        raise ValueError("taps is empty: no activation to measure")

    def energy(taps):
        return apply_with_taps(params, batch, taps)

    forces, signals = jax.grad(energy, has_aux=True)(dict(taps))
    if set(signals) != set(taps):
        raise ValueError(f"apply_with_taps answers for {sorted(signals)}, taps {sorted(taps)}")
    return {name: _measured(forces[name], signals[name]) for name in taps}


def _measured(force: tuple[Array, Array], signal: tuple[Array, Array]) -> Efficiency:
    f, e = force
    z, a = (x.reshape(-1, x.shape[-1]) for x in signal)
    z, a = z - jnp.mean(z, axis=0), a - jnp.mean(a, axis=0)
    in_variance, out_variance = jnp.sum(z**2, axis=0), jnp.sum(a**2, axis=0)
    gain = jnp.sum(z * a, axis=0)
    moving = in_variance > 0
    coherent = jnp.where(moving, gain**2 / jnp.where(moving, in_variance, 1.0), 0.0)
    total = jnp.sum(in_variance)
    response = jnp.sum(f**2) / jnp.sum(e**2)
    return Efficiency(jnp.sum(coherent) / total, jnp.sum(out_variance) / total, response)


def network_efficiency(effs: Mapping[str, Efficiency]) -> Array:
    """eta_net, the product of the work efficiencies of the hidden activations.

    Raises:
        ValueError: no layers.
    """
    if not effs:
        raise ValueError("effs is empty: a network without activations is lossless, eta = 1")
    return jnp.prod(jnp.stack([jnp.asarray(e.response) for e in effs.values()]), axis=0)
