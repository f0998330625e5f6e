"""Shape of the tail of importance weights: does their mean have a variance?

    P(w > t + x | w > t) = (1 + k x / s)^{-1/k}        generalised Pareto

k < 1/2: the variance of the mean is finite; k > 0.7: error bars cannot be believed at
any affordable sample size.

Source: fit after Zhang & Stephens 2009; use and limits after Vehtari et al. 2024.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from thermojax.typing import Array, ArrayLike

__all__ = ["lower_tail", "pareto_shape"]


@jax.jit
def pareto_shape(log_weights: ArrayLike) -> Array:
    """Pareto shape k of the largest weights exp(log_weights).

    The tail is the min(n/5, 3 sqrt n) largest weights. With few of them the fit is drawn
    towards 1/2, as ten more observations there would.

    Args:
        log_weights: [n] logarithms, up to a constant.

    Returns:
        k, scalar: -inf where the tail has no spread, nan for fewer than 25 weights.

    Example:
        >>> u = (jnp.arange(4000.0) + 0.5) / 4000
        >>> round(float(pareto_shape(-0.3 * jnp.log(u))), 1)
        0.3
    """
    log_w = jnp.sort(jnp.asarray(log_weights))
    n = log_w.shape[0]
    size = min(n // 5, math.ceil(3 * math.sqrt(n)))
    if size < 5:
        return jnp.full((), jnp.nan, log_w.dtype)
    top = log_w[-1]
    x = jnp.exp(log_w[-size:] - top) - jnp.exp(log_w[-size - 1] - top)
    quartile = x[int(size / 4 + 0.5) - 1]
    flat = ~(quartile > 0)
    x = jnp.where(flat, jnp.arange(1, size + 1, dtype=x.dtype), x)
    quartile = jnp.where(flat, 1.0, quartile)
    # a grid of theta = -k/s with quantiles of a weak prior, weighed by profile likelihood
    points = 30 + math.isqrt(size)
    grid = jnp.arange(1, points + 1, dtype=x.dtype) - 0.5
    theta = 1 / x[-1] + (1 - jnp.sqrt(points / grid)) / (3 * quartile)
    shape = jnp.mean(jnp.log1p(-theta[:, None] * x), axis=1)
    profile = size * (jnp.log(-theta / shape) - shape - 1)
    profile = jnp.where(jnp.isnan(profile), -jnp.inf, profile)
    weight = jnp.exp(profile - jnp.max(profile))
    best = jnp.sum(theta * weight) / jnp.sum(weight)
    k = jnp.mean(jnp.log1p(-best * x))
    return jnp.where(flat, -jnp.inf, (size * k + 5) / (size + 10))


def lower_tail(values: ArrayLike) -> Array:
    """Pareto shape k of how far values lie below their median.

    k >= 1: the values have no mean; an exponential or Gaussian tail has k <= 0.

    Args:
        values: [n]; +inf is allowed.

    Returns:
        k, scalar; see `pareto_shape`.

    Example:
        >>> u = (jnp.arange(4000.0) + 0.5) / 4000
        >>> round(float(lower_tail(-(u**-0.5))), 1)
        0.5
    """
    values = jnp.asarray(values)
    below = jnp.median(values) - values
    return pareto_shape(
        jnp.where(below > 0, jnp.log(jnp.where(below > 0, below, 1.0)), -jnp.inf)
    )
