"""Product densities of initialised parameters and their entropies.

A density describes every coordinate of a parameter leaf; its fields broadcast to the leaf.
Per coordinate, with resolution delta,

    h          = -int p ln p                                       differential entropy
    S_delta[p] = I(theta; theta + delta xi)
               = h[p * N(0, delta^2)] - ln(2 pi e delta^2) / 2,    xi ~ N(0, 1)

S_delta >= 0, vanishes exactly for a point, does not change under (theta, delta) ->
(k theta, k delta), and tends to h - ln(2 pi e delta^2) / 2 as delta -> 0. It is computed as

    S_delta = ln(1 + v / delta^2) / 2 - KL(p * N(0, delta^2) || N(m, v + delta^2))

with m, v the mean and variance of p: the first term is exact for normal p, and the second,
one quadrature of a non-negative integrand, keeps its relative precision at every delta.

Source: our definitions, following the programme of Zhang (2024); the entropies h and the
moments are textbook.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr, ndtr
from jax.scipy.stats import norm

from thermojax.typing import Array, ArrayLike, Key

__all__ = ["Density", "Normal", "Point", "TruncatedNormal", "Uniform"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_REACH = 9.0  # standard deviations beyond which a normal tail is below rounding


def _float(*values: ArrayLike) -> tuple[Array, ...]:
    """All values in their common float type, broadcast against each other."""
    kind = jnp.result_type(*values)
    kind = kind if jnp.issubdtype(kind, jnp.floating) else jnp.result_type(float)
    return tuple(jnp.broadcast_arrays(*(jnp.asarray(v, kind) for v in values)))


class Density:
    """What every density answers; arrays have the broadcast shape of its fields."""

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance."""
        raise NotImplementedError

    def entropy(self) -> Array:
        """Differential entropy h per coordinate, nats."""
        raise NotImplementedError

    def resolved_entropy(self, resolution: ArrayLike) -> Array:
        """S_delta per coordinate, nats."""
        raise NotImplementedError

    def sample(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        """Independent draws of the given shape."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normal(Density):
    """N(mean, scale^2): h = ln(2 pi e scale^2) / 2, S_delta = ln(1 + scale^2/delta^2) / 2."""

    mean: ArrayLike
    scale: ArrayLike

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance scale^2."""
        mean, scale = _float(self.mean, self.scale)
        return mean, scale**2

    def entropy(self) -> Array:
        """Differential entropy, nats; -inf at scale 0."""
        _, scale = _float(self.mean, self.scale)
        return 0.5 * math.log(2 * math.pi * math.e) + jnp.log(scale)

    def resolved_entropy(self, resolution: ArrayLike) -> Array:
        """Exact, nats."""
        _, scale, delta = _float(self.mean, self.scale, resolution)
        return 0.5 * jnp.log1p((scale / delta) ** 2)

    def sample(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        """Mean + scale * standard normal: differentiable in both."""
        noise = jax.random.normal(key, shape, dtype)
        return jnp.asarray(self.mean, dtype) + jnp.asarray(self.scale, dtype) * noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Uniform(Density):
    """Uniform on [center - half_width, center + half_width]: h = ln(2 half_width)."""

    center: ArrayLike
    half_width: ArrayLike

    def moments(self) -> tuple[Array, Array]:
        """Center and half_width^2 / 3."""
        center, width = _float(self.center, self.half_width)
        return center, width**2 / 3

    def entropy(self) -> Array:
        """Differential entropy, nats."""
        _, width = _float(self.center, self.half_width)
        return jnp.log(2 * width)

    def resolved_entropy(self, resolution: ArrayLike) -> Array:
        """One quadrature, nats; a zero width counts as a point."""
        _, width, delta = _float(self.center, self.half_width, resolution)
        solid = width > 0
        a = jnp.where(solid, width, 1.0)

        def density(left: Array, right: Array) -> Array:
            return _between(left, right) / (2 * a / delta)

        return jnp.where(solid, _resolved(density, a / delta, a / delta, a**2 / 3, delta), 0.0)

    def sample(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        """Center + half_width * uniform(-1, 1): differentiable in both."""
        noise = jax.random.uniform(key, shape, dtype, -1.0, 1.0)
        return jnp.asarray(self.center, dtype) + jnp.asarray(self.half_width, dtype) * noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TruncatedNormal(Density):
    """N(mean, scale^2) cut to [mean + lower scale, mean + upper scale], both finite.

    `scale` is the standard deviation of the normal that is cut, not that of the result.
    """

    mean: ArrayLike
    scale: ArrayLike
    lower: ArrayLike = -2.0
    upper: ArrayLike = 2.0

    def _fields(self) -> tuple[Array, ...]:
        return _float(self.mean, self.scale, self.lower, self.upper)

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of the cut density."""
        mean, scale, low, high = self._fields()
        mass = _between(-low, high)
        first = (norm.pdf(low) - norm.pdf(high)) / mass
        second = (low * norm.pdf(low) - high * norm.pdf(high)) / mass
        return mean + scale * first, scale**2 * (1 + second - first**2)

    def entropy(self) -> Array:
        """Differential entropy, nats."""
        _, scale, low, high = self._fields()
        mass = _between(-low, high)
        edge = (low * norm.pdf(low) - high * norm.pdf(high)) / (2 * mass)
        return 0.5 * math.log(2 * math.pi * math.e) + jnp.log(scale * mass) + edge

    def resolved_entropy(self, resolution: ArrayLike) -> Array:
        """One quadrature, nats; a zero scale counts as a point."""
        _, scale, low, high = self._fields()
        *_, delta = _float(scale, resolution)
        solid = scale > 0
        r = jnp.where(solid, scale, 1.0) / delta  # lengths in units of the resolution
        mass = _between(-low, high)
        total = jnp.sqrt(1 + r**2)
        start, width = TruncatedNormal(0.0, 1.0, low, high).moments()

        def density(left: Array, right: Array) -> Array:
            # x = lower edge + left = upper edge - right, whichever edge is nearer
            x = jnp.where(left < right, low * r + left, high * r - right)
            shift = x / total**2  # x - c: distance of x to the mean given x
            inner = _between((left - shift) * total / r, (right + shift) * total / r)
            return norm.pdf(x / total) / total * inner / mass

        below, above = r * (start - low), r * (high - start)
        value = _resolved(density, below, above, width * (r * delta) ** 2, delta)
        return jnp.where(solid, value, 0.0)

    def sample(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        """Mean + scale * truncated normal: differentiable in both."""
        cut = (jnp.asarray(x, dtype) for x in (self.lower, self.upper))
        noise = jax.random.truncated_normal(key, *cut, shape, dtype)
        return jnp.asarray(self.mean, dtype) + jnp.asarray(self.scale, dtype) * noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Point(Density):
    """A point: h = -inf, and S_delta = 0 exactly at every resolution."""

    value: ArrayLike

    def moments(self) -> tuple[Array, Array]:
        """The value, and zero."""
        (value,) = _float(self.value)
        return value, jnp.zeros_like(value)

    def entropy(self) -> Array:
        """-inf."""
        (value,) = _float(self.value)
        return jnp.full_like(value, -jnp.inf)

    def resolved_entropy(self, resolution: ArrayLike) -> Array:
        """Zero."""
        value, _ = _float(self.value, resolution)
        return jnp.zeros_like(value)

    def sample(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        """The value, repeated."""
        del key
        return jnp.broadcast_to(jnp.asarray(self.value, dtype), shape)


def _between(left: Array, right: Array) -> Array:
    """Phi(left) - Phi(-right): normal mass within `left` below and `right` above a place.

    From the side of the nearer edge, so that nothing cancels far outside.
    """
    near, far = jnp.minimum(left, right), jnp.maximum(left, right)
    return ndtr(near) - ndtr(-far)


def _resolved(density, below: Array, above: Array, variance: Array, delta: Array) -> Array:
    """S_delta of a density with edges, from its smoothed form.

    Args:
        density: (distance above the lower edge, distance below the upper edge) -> smoothed
            density f; lengths in units of delta.
        below: distance of the mean to the lower edge.
        above: distance of the mean to the upper edge.
        variance: of the density.
        delta: resolution.
    """
    total = below + above
    sigma = jnp.sqrt(1 + variance / delta**2)
    edge = jnp.minimum(_REACH, total / 2)

    def integrand(left, right):
        f = jnp.maximum(density(left, right), 0.0)
        z = jnp.where(left < right, left - below, above - right) / sigma
        g = norm.pdf(z) / sigma
        # f ln(f / g) - f + g >= 0, whatever the rounding of f
        log_g = -0.5 * z**2 - jnp.log(sigma * math.sqrt(2 * math.pi))
        return -entr(f) - f * log_g - f + g

    def piece(low, high, distances):
        half = (high - low) / 2
        nodes = jnp.asarray(_NODES, half.dtype)[(...,) + (None,) * half.ndim]
        weights = jnp.asarray(_WEIGHTS, half.dtype)[(...,) + (None,) * half.ndim]
        return half * jnp.sum(weights * integrand(*distances(low + half * (1 + nodes))), axis=0)

    from_left = lambda s: (s, total - s)
    from_right = lambda s: (total - s, s)
    reach = jnp.broadcast_to(jnp.asarray(-_REACH, total.dtype), total.shape)
    inside = piece(reach, edge, from_left) + piece(reach, edge, from_right)
    inside = inside + piece(edge, total - edge, from_left)
    outside = ndtr(-(below + _REACH) / sigma) + ndtr(-(above + _REACH) / sigma)
    return 0.5 * jnp.log1p(variance / delta**2) - (inside + outside)
