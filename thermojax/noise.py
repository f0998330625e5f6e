"""Standard normal numbers, three times as many per second on a CPU.

    (a, b)  = threefry2x32(key; 0, i)                 20 rounds, both words used
    r       = sqrt(-2 log u(a)),  phi = 2 pi v(b)
    x_i     = r cos phi,  x_{i + half} = r sin phi    Box & Muller

`jax.random.normal` discards half of every hash, runs its rounds as a rolled loop and
inverts the error function. Here the rounds are unrolled and the logarithm and the quarter
turn are short polynomials (relative error below 2e-7), so that all of it is one vector
loop. The largest number is sqrt(2 log 2^24) = 5.77: the mass beyond is 8e-9. Whoever wants
the numbers of `jax.random` itself says so: `tj.plain_noise(kernel)`.

Source: Salmon, Moraes, Dror & Shaw 2011 (threefry); Box & Muller 1958; polynomial
coefficients fitted here.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from thermojax.typing import Array, Key

__all__ = ["normal", "plain_stream", "words"]

_PLAIN = contextvars.ContextVar("plain normal numbers", default=False)

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_LOG = (
    0.999999999,
    -0.499999885,
    0.333333473,
    -0.250015787,
    0.200008363,
    -0.166082973,
    0.142014295,
    -0.132683463,
    0.127968486,
    -0.0743411806,
)
_SIN = (
    1,
    -0.166666666,
    0.00833332878,
    -0.000198392027,
    2.71734948e-06,
)
_COS = (
    1,
    -0.499999996,
    0.0416666167,
    -0.00138866186,
    2.43798804e-05,
)
_SQRT_HALF = 0x3F3504F3


def words(key: Key, size: int) -> Array:
    """[size] uniform uint32 words of one key; both words of every hash are used."""
    data = _threefry_words(key)
    if data is None:
        return jax.random.bits(key, (size,), jnp.uint32)
    index = lax.iota(jnp.uint32, (size + 1) // 2)
    return jnp.concatenate(_threefry(data, jnp.zeros_like(index), index))[:size]


def _threefry_words(key: Key) -> Array | None:
    """The [2] words of a threefry key, None for those of another generator."""
    data = key
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(key)
    return data if data.shape == (2,) else None


@contextlib.contextmanager
def plain_stream() -> Generator[None, None, None]:
    """While tracing inside it, `normal` is `jax.random.normal`."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def normal(key: Key, size: int, dtype: Any = jnp.float32) -> Array:
    """[size] standard normals of one key.

    Inside `plain_stream`, for keys of another generator than threefry, and for dtypes other
    than float32, bfloat16 and float16, these are the numbers of `jax.random.normal`.
    """
    dtype = jnp.dtype(dtype)
    data = _threefry_words(key)
    if _PLAIN.get() or data is None or dtype.itemsize > 4:
        return jax.random.normal(key, (size,), dtype)
    half = (size + 1) // 2
    pairs = lax.platform_dependent(
        data,
        cpu=lambda data: _fenced(data, half),
        default=lambda data: _pairs(data, half),
    )
    return jnp.concatenate([pairs.real, pairs.imag])[:size].astype(dtype)


def _fenced(words: Array, half: int) -> Array:
    """`_pairs` in a loop of one turn.

    The compiler must not know that it is one: it would merge the hash into each of its
    consumers, one of them per leaf of theta, and evaluate it for each.
    """
    turns = jnp.where((words[0] | 1) > 0, 1, 0)
    start = jnp.zeros((half,), jnp.complex64)
    return lax.fori_loop(0, turns, lambda _, pairs: _pairs(words, half), start)


def _pairs(words: Array, half: int) -> Array:
    """[half] complex64 numbers with independent standard normal parts."""
    index = lax.iota(jnp.uint32, half)
    return lax.complex(*_box_muller(*_threefry(words, jnp.zeros_like(index), index)))


def _threefry(words: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds, unrolled."""
    keys = (words[0], words[1], words[0] ^ words[1] ^ jnp.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for r in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << jnp.uint32(r)) | (x1 >> jnp.uint32(32 - r)))
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x0, x1


def _box_muller(a: Array, b: Array) -> tuple[Array, Array]:
    """Two independent normals from two uniform words; the top bits of b pick the quarter."""
    radius = jnp.sqrt(-2 * _log(_unit(a)))
    x = (_unit(b << jnp.uint32(2)) - jnp.float32(0.5)) * jnp.float32(math.pi / 2)
    square = x * x
    sine, cosine = x * _polynomial(_SIN, square), _polynomial(_COS, square)
    odd = (b >> jnp.uint32(30)) & jnp.uint32(1) > 0
    sign = radius * (1 - 2 * (b >> jnp.uint32(31)).astype(jnp.int32).astype(jnp.float32))
    return sign * jnp.where(odd, -sine, cosine), sign * jnp.where(odd, cosine, sine)


def _unit(word: Array) -> Array:
    """Uniform in (0, 1): the top 23 bits and half a unit."""
    top = (word >> jnp.uint32(9)).astype(jnp.int32).astype(jnp.float32)
    return (top + jnp.float32(0.5)) * jnp.float32(2.0**-23)


def _log(x: Array) -> Array:
    """Natural logarithm of normal positive float32 numbers."""
    bits = lax.bitcast_convert_type(x, jnp.int32) - jnp.int32(_SQRT_HALF)
    exponent = (bits >> 23).astype(jnp.float32)
    mantissa = (bits & 0x7FFFFF) + jnp.int32(_SQRT_HALF)
    y = lax.bitcast_convert_type(mantissa, jnp.float32) - 1
    return exponent * jnp.float32(math.log(2)) + y * _polynomial(_LOG, y)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, constant term first."""
    value = jnp.float32(coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + jnp.float32(c)
    return jnp.asarray(value)
