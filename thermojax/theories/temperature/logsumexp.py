"""E ln(1 + e^z) and E ln sum_c e^(z_c) of random logits.

Softplus of N(mu, s^2): 96-node quadrature over the normal for s < 2, else

    s phi(u) + mu Phi(u) + int_0^40 ln(1 + e^-t) [p(t) + p(-t)] dt,   u = mu / s

Softplus of anything: mu/2 + ln 2 + int_0^inf (1 - Re chi(t)) / (t sinh pi t) dt with chi the
characteristic function of z. Log-sum-exp of independent normal logits:

    E LSE = int [exp(-e^tau) - prod_c M_c(tau)] dtau,   M_c(tau) = E exp(-e^(tau + z_c))

Asymptotics of C equal N(0, s^2) logits: small s, ln C + s^2 (1 - 1/C)/2 - s^4 (1 - 1/C)/(4C)
+ O(s^6); large s, e_C (s + pi^2/(12 s)) + O(s^-2), e_C the mean maximum of C normals; many
classes, ln C + s^2/2 - (e^(s^2) - 1)/(2C) + O(C^-2), for s^2 < 2 ln C.

Source: derived here; Derrida 1981 for the random-energy form.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.scipy.stats import norm

from thermojax.theories.temperature.linear_law import LinearLaw
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "logsumexp_of_law",
    "mean_logsumexp",
    "mean_maximum",
    "mean_softplus",
    "normal_softplus",
]

_X96, _W96 = np.polynomial.legendre.leggauss(96)
_X16, _W16 = np.polynomial.legendre.leggauss(16)


def _rule(low: float, high: float, nodes=_X96, weights=_W96) -> tuple[np.ndarray, np.ndarray]:
    half = (high - low) / 2
    return low + half * (1 + nodes), half * weights


def normal_softplus(mu: Array, s: Array) -> Array:
    """E ln(1 + e^z), z ~ N(mu, s^2); 1e-12 in float64, elementwise."""
    z, w = _rule(-9.0, 9.0)
    w = w * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    column = lambda x: jnp.asarray(x, mu.dtype).reshape(-1, *([1] * mu.ndim))
    cold = s < 2
    gentle = jnp.where(cold, s, 1.0)
    near = jnp.sum(column(w) * jax.nn.softplus(mu + gentle * column(z)), axis=0)
    hot = jnp.where(cold, 2.0, s)
    u, v = _rule(0.0, 40.0)
    shape = lambda x: jnp.exp(-0.5 * ((x - mu) / hot) ** 2) / (hot * math.sqrt(2 * math.pi))
    tail = jnp.log1p(jnp.exp(-column(u))) * (shape(column(u)) + shape(-column(u)))
    ramp = hot * norm.pdf(mu / hot) + mu * ndtr(mu / hot)
    return jnp.where(cold, near, ramp + jnp.sum(column(v) * tail, axis=0))


def mean_softplus(law: LinearLaw, *, method: str = "auto") -> Array:
    """E ln(1 + e^z) per datum [n].

    Args:
        law: of the logits.
        method: "auto", or "quadrature" for the transform whatever the law.
    """
    if law.widths.shape[1] == 0 and method == "auto":
        scale = jnp.zeros_like(law.mean) if law.scale is None else law.scale
        return normal_softplus(law.mean, scale)
    return _softplus_by_transform(law)


def _softplus_by_transform(law: LinearLaw) -> Array:
    rms = jnp.sqrt(law.mean**2 + law.spread**2)
    moving = rms > 0
    rms = jnp.where(moving, rms, 1.0)
    scale = jnp.zeros_like(law.mean) if law.scale is None else law.scale
    grid = jnp.linspace(0.0, 1.0, 1024, dtype=law.mean.dtype)

    def one(datum):
        mu, s, a, rms = datum
        low = jnp.log(1e-7 / rms)
        step = (math.log(14.0) - low) / 1023
        t = jnp.exp(low + (math.log(14.0) - low) * grid)
        # 1 - cos(mu t) g = 2 sin^2(mu t / 2) + cos(mu t) (1 - g), which does not cancel
        blur = jnp.prod(jnp.sinc(a[:, None] * t / math.pi), axis=0)
        soft = -jnp.expm1(-0.5 * (s * t) ** 2)
        lost = soft + (1 - soft) * (1 - blur)
        gap = 2 * jnp.sin(0.5 * mu * t) ** 2 + jnp.cos(mu * t) * lost
        values = gap / jnp.sinh(math.pi * t)
        ends = 0.5 * (values[0] + values[-1])
        return 0.5 * mu + math.log(2.0) + step * (jnp.sum(values) - ends)

    value = jax.lax.map(one, (law.mean, scale, law.widths, rms), batch_size=64)
    return jnp.where(moving, value, math.log(2.0))


# Log-sum-exp


def mean_logsumexp(means: ArrayLike, scales: ArrayLike, *, method: str = "quadrature") -> Array:
    """E ln sum_c exp z_c of independent z_c ~ N(means_c, scales_c^2), nats.

    Args:
        means: [..., C].
        scales: [..., C], standard deviations.
        method: "quadrature" (1e-9 for scales up to 100), or the expansions "small",
            "large", "many_classes", which assume equal means and equal scales.

    Returns:
        [...].

    Raises:
        ValueError: an unknown method, shapes that differ, a negative scale, fewer than two
            classes.

    Example:
        >>> print(f"{mean_logsumexp(jnp.zeros(3), jnp.ones(3)):.4f}")
        1.3900
    """
    means, scales = jnp.broadcast_arrays(jnp.asarray(means), jnp.asarray(scales))
    if not jnp.issubdtype(means.dtype, jnp.floating):
        means = means.astype(scales.dtype)
    scales = scales.astype(means.dtype)
    if means.ndim < 1 or means.shape[-1] < 2:
        raise ValueError(f"means of shape {means.shape}: give at least two classes, [..., C]")
    if is_concrete(scales) and not np.all(np.asarray(scales) >= 0):
        raise ValueError(f"scales={np.min(np.asarray(scales))} must not be negative")
    count, s = means.shape[-1], scales[..., 0]
    expansions: dict[str, Callable[[], Array]] = {
        "small": lambda: math.log(count) + (0.5 * s**2 - s**4 / (4 * count)) * (1 - 1 / count),
        "large": lambda: mean_maximum(count) * (s + math.pi**2 / (12 * s)),
        "many_classes": lambda: math.log(count) + s**2 / 2 - jnp.expm1(s**2) / (2 * count),
    }
    if method in expansions:
        return means[..., 0] + expansions[method]()
    if method != "quadrature":
        known = ", ".join(["quadrature", *expansions])
        raise ValueError(f"method={method!r} is unknown: use one of {known}")
    flat = (means.reshape(-1, count), scales.reshape(-1, count))
    value = jax.lax.map(lambda row: _logsumexp(*row), flat, batch_size=16)
    return value.reshape(means.shape[:-1])


def mean_maximum(count: int) -> float:
    """e_C = E max of C standard normals."""
    z, w = _rule(-9.0, 9.0, *np.polynomial.legendre.leggauss(256))
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = np.asarray([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])
    return float(np.sum(w * z * count * density * below ** (count - 1)))


def normal_transform(tau: Array, m: Array, s: Array) -> Array:
    """M(tau) = E exp(-e^(tau + z)), z ~ N(m, s^2); tau [T], m and s [C] -> [T, C]."""
    z, w = _rule(-9.0, 9.0)
    w = w * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    kind = m.dtype
    cold = s < 1
    gentle, hot = jnp.where(cold, s, 0.5), jnp.where(cold, 1.0, s)
    place = tau[:, None, None] + m[:, None] + gentle[:, None] * jnp.asarray(z, kind)
    near = jnp.sum(jnp.asarray(w, kind) * jnp.exp(-jnp.exp(place)), axis=-1)
    x, v = _rule(-37.0, 4.0)
    v = v * np.exp(x - np.exp(x))
    inner = (jnp.asarray(x, kind) - tau[:, None, None] - m[:, None]) / hot[:, None]
    far = jnp.sum(jnp.asarray(v, kind) * ndtr(inner), axis=-1)
    return jnp.where(cold, near, far)


def _logsumexp(m: Array, s: Array) -> Array:
    top = jax.lax.stop_gradient(jnp.max(m))
    m = m - top
    low = jnp.minimum(-41.0, -jnp.max(m + 9 * s) - 37.0)
    high = jnp.maximum(4.0, 4.0 + jnp.min(9 * s - m))
    low, high = jax.lax.stop_gradient((low, high))
    total = 0.0
    for start, end in ((low, -40.0), (-40.0, 4.0), (4.0, high)):
        tau, weights = _panels(start, end, 16, m.dtype)
        gap = jnp.exp(-jnp.exp(tau)) - jnp.prod(normal_transform(tau, m, s), axis=-1)
        total = total + jnp.sum(weights * gap)
    return total + top


# Logits with uniform parts


def _log_gamma(z: np.ndarray) -> np.ndarray:
    """ln Gamma of complex z with positive real part: Stirling's series after eight shifts."""
    shifted = z + 8
    series = (shifted - 0.5) * np.log(shifted) - shifted + 0.5 * math.log(2 * math.pi)
    for k, c in enumerate((1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)):
        series = series + c / shifted ** (2 * k + 1)
    return series - np.sum(np.log(z[None] + np.arange(8)[:, None]), axis=0)


def logsumexp_of_law(law: LinearLaw) -> Array:
    """E ln sum_c e^(z_c) per datum [n] of independent logits with any parts.

    With uniform parts M_c(tau) is the distribution function of z_c + Gumbel at -tau, by
    Gil-Pelaez inversion of chi(t) Gamma(1 - i t), which falls as exp(-pi t / 2) whatever
    the parts; 1e-9 for spreads up to 10.

    Args:
        law: mean and scale [n, C], widths [n, k, C].
    """
    zero = jnp.zeros_like(law.mean)
    scale = zero if law.scale is None else law.scale
    if law.widths.shape[1] == 0:
        return mean_logsumexp(law.mean, scale)
    top = jax.lax.stop_gradient(jnp.max(law.mean, axis=1))
    mean, spread = law.mean - top[:, None], law.spread
    kind = mean.dtype
    low = jnp.minimum(-41.0, -jnp.max(mean + 9 * spread) - 37.0)
    high = jnp.maximum(4.0, 4.0 + jnp.max(jnp.min(9 * spread - mean, axis=1)))
    low, high = jax.lax.stop_gradient((low, high))
    parts = [_panels(a, b, 16, kind) for a, b in ((low, -40.0), (-40.0, 4.0), (4.0, high))]
    tau, weights = (jnp.concatenate(x) for x in zip(*parts, strict=True))
    edges = np.arange(128)[:, None] * 26.0 / 128
    nodes = (edges + 13.0 / 128 * (1 + _X16)).ravel()
    gamma = _log_gamma(1 - 1j * nodes)
    t, angle = jnp.asarray(nodes, kind), jnp.asarray(gamma.imag, kind)
    share = np.tile(13.0 / 128 * _W16, 128) * np.exp(gamma.real) / (math.pi * nodes)
    share = jnp.asarray(share, kind)[:, None]
    phase = tau[:, None] * t + angle
    sine, cosine = jnp.sin(phase), jnp.cos(phase)
    step = jnp.exp(-jnp.exp(tau))

    def one(datum):
        mu, s, a = datum
        blur = jnp.exp(-0.5 * (t[:, None] * s) ** 2)
        blur = blur * jnp.prod(jnp.sinc(t[:, None, None] * a / math.pi), axis=1)
        turn = t[:, None] * mu
        wave = sine @ (share * blur * jnp.cos(turn)) + cosine @ (share * blur * jnp.sin(turn))
        return jnp.sum(weights * (step - jnp.prod(0.5 - wave, axis=-1)))

    return jax.lax.map(one, (mean, scale, law.widths), batch_size=1) + top


def _panels(start, end, count: int, kind) -> tuple[Array, Array]:
    half = 0.5 * (end - start) / count
    edges = start + (end - start) * jnp.arange(count, dtype=kind) / count
    nodes = (edges[:, None] + half * (1 + jnp.asarray(_X16, kind))).ravel()
    return nodes, jnp.tile(half * jnp.asarray(_W16, kind), count)
