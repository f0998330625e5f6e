"""Stationary covariances of linear noise: what every linearised bath settles to.

    x' = M x + n, n ~ N(0, Q)           S = M S M^T + Q
    dx = -A x dt + sqrt(2 D) dW         A S + S A^T = 2 D

Both by Smith's doubling, which adds the powers of M two by two:

    S_k = S_{k-1} + M_k S_{k-1} M_k^T,    M_k = M_{k-1}^2,    S_0 = Q, M_0 = M

The Cayley map (c + A)^-1 (c - A) turns the second equation into the first.

Source: Smith 1968 (doubling, Cayley map); the equations are core specification 2.3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["linear_stationary_covariance", "ornstein_uhlenbeck_covariance", "square_pair"]

_DOUBLINGS = 52
"""2^52 steps: a chain that forgets more slowly has no law in double precision."""


def square_pair(names: str, first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    """Two square matrices of one size and one float type.

    Raises:
        ValueError: another shape; the message begins with `names`.
    """
    a, b = jnp.asarray(first), jnp.asarray(second)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.shape != b.shape or not a.size:
        raise ValueError(f"{names} must be square and of one size, got {a.shape} and {b.shape}")
    dtype = jnp.result_type(a, b)
    dtype = dtype if jnp.issubdtype(dtype, jnp.inexact) else float
    return a.astype(dtype), b.astype(dtype)


@jax.jit
def _doubled(m: Array, q: Array) -> Array:
    """The sum of M^j Q M^jT over all j; nan where the powers of M do not die out."""

    def double(carry, _):
        power, total = carry
        return (power @ power, total + power @ total @ power.T), None

    (power, total), _ = jax.lax.scan(double, (m, q), length=_DOUBLINGS)
    return jnp.where(jnp.max(jnp.abs(power)) < 0.5, 0.5 * (total + total.T), jnp.nan)


def linear_stationary_covariance(M: ArrayLike, Q: ArrayLike) -> Array:
    """Stationary covariance of a linear chain: S = M S M^T + Q.

    Args:
        M: [d, d] one step, x' = M x + n; spectral radius below 1.
        Q: [d, d] covariance of n, symmetric.

    Returns:
        [d, d] S, in units of Q, differentiable in M and Q; nan inside jit where the
        spectral radius is not below 1.

    Raises:
        ValueError: shapes that do not fit; outside jit a spectral radius of 1 or more.

    Source: core specification 2.3; solved by doubling (Smith 1968).

    Example:
        >>> h, k, T = 0.5, 1.0, 2.0  # Euler-Maruyama on k x^2 / 2
        >>> round(float(linear_stationary_covariance([[1 - h * k]], [[2 * h * T]])[0, 0]), 4)
        2.6667
    """
    m, q = square_pair("M and Q", M, Q)
    if is_concrete((m, q)):
        radius = float(np.max(np.abs(np.linalg.eigvals(np.asarray(m)))))
        if not radius < 1:
            raise ValueError(
                f"the chain has no stationary law: the spectral radius of M is {radius:.6g}, "
                "not below 1; use a smaller step"
            )
    return _doubled(m, q)


def ornstein_uhlenbeck_covariance(A: ArrayLike, D: ArrayLike) -> Array:
    """Stationary covariance of dx = -A x dt + sqrt(2 D) dW: A S + S A^T = 2 D.

    Args:
        A: [d, d] drift matrix; every eigenvalue has a positive real part.
        D: [d, d] diffusion matrix, symmetric.

    Returns:
        [d, d] S, differentiable in A and D; nan inside jit where A is not stable.

    Raises:
        ValueError: shapes that do not fit; outside jit an unstable drift.

    Source: core specification 2.8; Cayley map and doubling (Smith 1968).

    Example:
        >>> float(ornstein_uhlenbeck_covariance([[2.0]], [[3.0]])[0, 0])
        1.5
    """
    a, d = square_pair("A and D", A, D)
    if is_concrete((a, d)):
        slowest = float(np.min(np.linalg.eigvals(np.asarray(a)).real))
        if not slowest > 0:
            raise ValueError(
                "the process has no stationary law: an eigenvalue of A has real part "
                f"{slowest:.6g}, not above 0; the drift is -A x"
            )
    return _doubled(*_cayley(a, d))


@jax.jit
def _cayley(a: Array, d: Array) -> tuple[Array, Array]:
    """The chain with the same covariance as the process."""
    eye = jnp.eye(len(a), dtype=a.dtype)
    # any c > 0 gives the same S: the typical rate needs the fewest doublings
    c = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.sum(a * a, axis=0))))
    inverse = jnp.linalg.inv(c * eye + a)
    return inverse @ (c * eye - a), inverse @ (4 * c * d) @ inverse.T
