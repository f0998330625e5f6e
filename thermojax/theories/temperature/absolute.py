"""E|r| for r = mu + normal + uniform parts: mean absolute error of random linear models.

    normal:    A(mu, s) = s sqrt(2/pi) exp(-mu^2 / 2 s^2) + mu erf(mu / (s sqrt 2))
    + one uniform part:  [B(mu + a, s) - B(mu - a, s)] / 2a
               B(mu, s) = [(mu^2 + s^2) erf(mu/(s sqrt 2)) + mu s sqrt(2/pi) e^(-mu^2/2s^2)] / 2
    k <= 3 uniform parts alone:  sum over signs of sgn(r) r^(k+1) / [(k+1)! prod 2 a_j]
    anything:  (2/pi) int_0^inf [1 - cos(mu t) e^(-s^2 t^2/2) prod sinc(a_j t)] / t^2 dt

Source: textbook for the normal; the others are derived here.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from thermojax.theories.temperature.linear_law import LinearLaw
from thermojax.typing import Array

__all__ = ["mean_absolute", "normal_absolute"]

_PANELS, _REACH = 120, 60.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def _gauss(mu: Array, s: Array) -> tuple[Array, Array]:
    """erf(mu / (s sqrt 2)) and sqrt(2/pi) s exp(-mu^2 / 2 s^2), with their limits at s = 0."""
    moving = s > 0
    safe = jnp.where(moving, s, 1.0)
    u = mu / safe
    side = jnp.where(moving, erf(u / math.sqrt(2)), jnp.sign(mu))
    peak = math.sqrt(2 / math.pi) * s * jnp.where(moving, jnp.exp(-0.5 * u**2), 0.0)
    return side, peak


def normal_absolute(mu: Array, s: Array) -> Array:
    """A(mu, s) = E|N(mu, s^2)|."""
    side, peak = _gauss(mu, s)
    return peak + mu * side


def _one_uniform(mu: Array, s: Array, a: Array) -> Array:
    def twice_integrated(m):
        side, peak = _gauss(m, s)
        return 0.5 * ((m**2 + s**2) * side + m * peak)

    narrow = a < 0.05 * s  # the difference would cancel
    safe = jnp.where(narrow | (a <= 0), 1.0, a)
    exact = (twice_integrated(mu + safe) - twice_integrated(mu - safe)) / (2 * safe)
    total = s**2 + a**2 / 3
    wide = jnp.sqrt(jnp.where(total > 0, total, 1.0))
    near = jnp.where(total > 0, normal_absolute(mu, wide), jnp.abs(mu))
    return jnp.where(narrow | (a <= 0), near, exact)


def _uniforms(mu: Array, widths: Array) -> Array:
    """Uniform parts alone, at most three; those of no width are absent."""
    ordered = -jnp.sort(-widths, axis=1)
    result = jnp.abs(mu)
    least = 1e-5 if mu.dtype == jnp.float64 else 1e-2  # below, the signs' sum cancels
    for k in range(1, widths.shape[1] + 1):
        a = ordered[:, :k]
        there = a[:, k - 1] > least * jnp.maximum(a[:, 0], 1e-30)
        safe = jnp.where(there[:, None], a, 1.0)
        total = 0.0
        for signs in itertools.product((-1.0, 1.0), repeat=k):
            r = mu + safe @ jnp.asarray(signs, mu.dtype)
            total = total + math.prod(signs) * jnp.sign(r) * r ** (k + 1)
        value = total / (math.factorial(k + 1) * jnp.prod(2 * safe, axis=1))
        result = jnp.where(there, value, result)
    return result


def _by_transform(law: LinearLaw) -> Array:
    """The cosine transform on 120 panels, datum by datum."""
    sd = law.spread
    moving = sd > 0
    sd = jnp.where(moving, sd, 1.0)
    edges = np.arange(_PANELS)[:, None] * _REACH / _PANELS
    half = 0.5 * _REACH / _PANELS
    nodes = jnp.asarray((edges + half * (1 + _NODES)).ravel(), sd.dtype)
    weights = jnp.asarray(np.tile(half * _WEIGHTS, _PANELS), sd.dtype)

    scale = jnp.zeros_like(law.mean) if law.scale is None else law.scale

    def one(datum):
        mu, s, a, sd = datum
        t = nodes / sd
        smooth = jnp.exp(-0.5 * (s * t) ** 2)
        product = jnp.prod(jnp.sinc(a[:, None] * t / math.pi), axis=0)
        gap = 1 - jnp.cos(mu * t) * smooth * product
        return sd * (jnp.sum(weights * gap / nodes**2) + 1 / _REACH) * 2 / math.pi

    value = jax.lax.map(one, (law.mean, scale, law.widths, sd), batch_size=64)
    far = ~moving | (jnp.abs(law.mean) > 9 * sd)
    return jnp.where(far, jnp.abs(law.mean), value)


def mean_absolute(law: LinearLaw, *, method: str = "auto") -> Array:
    """E|r| per datum [n], r with the given law.

    Args:
        law: of the residuals.
        method: "auto" (closed form where there is one) or "quadrature".
    """
    count = law.widths.shape[1]
    if method == "quadrature":
        return _by_transform(law)
    if count <= 1:
        scale = jnp.zeros_like(law.mean) if law.scale is None else law.scale
        if count == 0:
            return normal_absolute(law.mean, scale)
        return _one_uniform(law.mean, scale, law.widths[:, 0])
    if count <= 3 and law.scale is None:
        return _uniforms(law.mean, law.widths)
    return _by_transform(law)
