"""The law of a linear model's prediction when its parameters are drawn.

z_i = phi_i . theta, phi_i = (x_i, 1), independent coordinates: z_i is its mean mu_i plus a
normal part of standard deviation s_i plus uniform parts of half widths a_ij = |phi_ij| a_j,
with characteristic function

    E exp(i t (z - mu)) = exp(-s^2 t^2 / 2) prod_j sinc(a_j t),   sinc(x) = sin x / x
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from thermojax.theories.temperature.densities import Density, Normal, Point, Uniform
from thermojax.typing import Array, ArrayLike

__all__ = ["LinearLaw", "linear_law", "prediction_moments"]


class LinearLaw(NamedTuple):
    """Law of the predictions; C is absent but for the softmax.

    Attributes:
        mean: mu [n] or [n, C].
        scale: s likewise; None where no coordinate is normal.
        widths: a [n, k] or [n, k, C], k the number of uniform coordinates, 0 for none.
    """

    mean: Array
    scale: Array | None
    widths: Array

    @property
    def spread(self) -> Array:
        """Standard deviation of z."""
        normal = 0.0 if self.scale is None else self.scale**2
        return _root(normal + jnp.sum(self.widths**2, axis=1) / 3)


def _parts(
    x: ArrayLike, init: Mapping[str, Density | None], num_classes: int | None
) -> list[tuple[Array, Density, tuple[int, ...]]]:
    """(features [n, d_l], density, shape of its leaf) for weights and bias.

    Raises:
        ValueError: x is no table, init lacks "w" or has other keys.
    """
    x = jnp.asarray(x)
    if x.ndim != 2:
        raise ValueError(f"x of shape {x.shape} must be a table [n, d]")
    if set(init) - {"w", "b"} or init.get("w") is None:
        raise ValueError(f"init={sorted(init)} must be {{'w': density, 'b': density or None}}")
    tail = () if num_classes is None else (num_classes,)
    weights, bias = init["w"], init.get("b")
    assert weights is not None
    parts: list[tuple[Array, Density, tuple[int, ...]]] = [(x, weights, (x.shape[1], *tail))]
    if bias is not None:
        parts.append((jnp.ones_like(x[:, :1]), bias, (1, *tail)))
    return parts


def _fields(density: Density, shape: tuple[int, ...], *values: Any) -> list[Array]:
    """Values of a leaf [d_l(, C)]; a bias' own shape is () or (C,)."""
    own = shape[1:] if shape[0] == 1 else shape
    try:
        return [jnp.broadcast_to(jnp.asarray(v), own).reshape(shape) for v in values]
    except ValueError:
        raise ValueError(f"{density} does not broadcast to a leaf of shape {own}") from None


def prediction_moments(
    x: ArrayLike, init: Mapping[str, Density | None], num_classes: int | None = None
) -> tuple[Array, Array]:
    """Mean and variance of every prediction, [n] or [n, C]; any densities."""
    mean, variance = 0.0, 0.0
    for features, density, shape in _parts(x, init, num_classes):
        m, v = _fields(density, shape, *density.moments())
        mean, variance = mean + features @ m, variance + features**2 @ v
    return jnp.asarray(mean), jnp.asarray(variance)


def linear_law(
    x: ArrayLike, init: Mapping[str, Density | None], num_classes: int | None = None
) -> LinearLaw:
    """Law of the predictions.

    Args:
        x: [n, d].
        init: {"w": density, "b": density or None}; fields broadcast to [d] or [d, C].
        num_classes: C.

    Raises:
        ValueError: shapes that do not match, or a density that is neither normal, uniform
            nor a point.
    """
    mean, variance = 0.0, 0.0
    widths = []
    for features, density, shape in _parts(x, init, num_classes):
        (m,) = _fields(density, shape, density.moments()[0])
        mean = mean + features @ m
        if isinstance(density, Normal):
            (s,) = _fields(density, shape, density.scale)
            variance = variance + features**2 @ s**2
        elif isinstance(density, Uniform):
            (a,) = _fields(density, shape, density.half_width)
            f = jnp.abs(features).reshape(*features.shape, *([1] * (len(shape) - 1)))
            widths.append(f * a)
        elif not isinstance(density, Point):
            raise ValueError(
                f"{type(density).__name__} has no closed law of predictions but under mse: "
                "use Normal, Uniform or Point, or draw an ensemble"
            )
    mean = jnp.asarray(mean)
    empty = jnp.zeros((mean.shape[0], 0, *mean.shape[1:]), mean.dtype)
    stacked = jnp.concatenate(widths, axis=1) if widths else empty
    if isinstance(variance, float):
        return LinearLaw(mean, None, stacked)
    return LinearLaw(mean, _root(jnp.asarray(variance, mean.dtype)), stacked)


def _root(variance: Array) -> Array:
    """Square root with a zero slope at 0."""
    moving = variance > 0
    return jnp.where(moving, jnp.sqrt(jnp.where(moving, variance, 1.0)), 0.0)
