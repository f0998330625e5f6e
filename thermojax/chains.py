"""Entropy production of stationary chains, from their matrices.

    linear chain    sigma = [tr(J2^-1 J1) - 2 d] / 2                        per step
    diffusion       sigma = tr(A^T D^-1 A S) - tr A                         per unit time
    discrete        sigma = sum_ij pi_i P_ij log(pi_i P_ij / (pi_j P_ji))   per step

J1 is the covariance of (x, x') in the stationary chain, J2 that of (x', x). All vanish if
and only if the chain looks the same backwards; one of a canonical bath does.

Source: specification of the core, section 2.8; Schnakenberg 1976 for the discrete chain.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.linear import (
    linear_stationary_covariance,
    ornstein_uhlenbeck_covariance,
    square_pair,
)
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "diffusion_entropy_production",
    "linear_entropy_production",
    "markov_entropy_production",
]


def linear_entropy_production(
    M: ArrayLike, Q: ArrayLike, *, parity: ArrayLike | None = None
) -> Array:
    """Entropy production per step of the stationary chain x' = M x + n, n ~ N(0, Q).

        sigma = <log p(x'|x) - log p(e x | e x')> = [tr(Q'^-1 C) - d] / 2

    with Q' = e Q e, M' = e M e and C the covariance of x - M' x'; e flips the odd
    variables. Without odd variables this is [tr(J2^-1 J1) - 2d]/2, and zero if and only if
    M S = S M^T.

    Args:
        M: [d, d] one step; spectral radius below 1.
        Q: [d, d] covariance of the noise, positive definite (words with one O letter
            push all noise through the momenta and have a singular one-step Q: use two, as
            OBABO does, or the ledger).
        parity: [d] of +1 and -1; -1 marks what time reversal flips, such as momenta.
            All +1 by default.

    Returns:
        sigma, nats per step, scalar; nan for singular Q, and inside jit for a chain
        without a stationary law.

    Raises:
        ValueError: shapes that do not fit, a parity that is not +-1 (outside jit), no
            stationary law (outside jit).

    Source: core specification 2.8; the form with odd variables is derived here.

    Example:
        >>> float(linear_entropy_production([[0.5]], [[1.0]]))  # one variable is reversible
        0.0
    """
    m, q = square_pair("M and Q", M, Q)
    s = linear_stationary_covariance(m, q)
    e = jnp.ones(len(m), m.dtype) if parity is None else _signs(parity, m)
    return _linear(m, q, s, e)


@jax.jit
def _linear(m: Array, q: Array, s: Array, e: Array) -> Array:
    """Half the excess of the reversed residual over what its noise would give."""
    m_back, q_back = e[:, None] * m * e, e[:, None] * q * e
    cross = m_back @ m @ s
    residual = s - cross - cross.T + m_back @ s @ m_back.T
    factor = jnp.linalg.cholesky(q_back)
    ratio = jax.scipy.linalg.cho_solve((factor, True), residual)
    return 0.5 * (jnp.trace(ratio) - len(m))


def _signs(parity: ArrayLike, m: Array) -> Array:
    e = jnp.asarray(parity, m.dtype)
    if e.shape != m.shape[:1] or (is_concrete(e) and not np.all(np.abs(np.asarray(e)) == 1)):
        raise ValueError(
            f"parity must hold +1 or -1 for each of {len(m)} variables, got {parity}"
        )
    return e


def diffusion_entropy_production(A: ArrayLike, D: ArrayLike) -> Array:
    """Entropy production per unit time of dx = -A x dt + sqrt(2 D) dW, even variables.

        sigma = tr(A^T D^-1 A S) - tr A,        A S + S A^T = 2 D

    Args:
        A: [d, d] drift matrix, eigenvalues with positive real part.
        D: [d, d] diffusion matrix, positive definite.

    Returns:
        sigma, nats per unit time, scalar; zero if and only if A D = D A^T. nan for
        singular D, and inside jit for an unstable drift.

    Raises:
        ValueError: shapes that do not fit; outside jit an unstable drift.

    Source: core specification 2.8.

    Example:
        >>> A, D = [[2.0, -1.0], [-1.0, 2.0]], [[2.0, 0.0], [0.0, 1.0]]
        >>> round(float(diffusion_entropy_production(A, D)), 4)  # (T1 - T2)^2 / (4 T1 T2)
        0.125
    """
    a, d = square_pair("A and D", A, D)
    s = ornstein_uhlenbeck_covariance(a, d)
    solved = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(d), True), a @ s)
    return jnp.sum(a * solved) - jnp.trace(a)


def markov_entropy_production(P: ArrayLike) -> Array:
    """Entropy production per step of a stationary Markov chain on finitely many states.

        sigma = sum_ij pi_i P_ij log(pi_i P_ij / (pi_j P_ji)),        pi = pi P

    pi cancels from the logarithm in a stationary state, so that rare states cost no digits.

    Args:
        P: [n, n] transition matrix, rows sum to 1, with one stationary law pi; states
            that are left for good do not count.

    Returns:
        sigma, nats per step, scalar; +inf where some jump has no reverse, 0 in detailed
        balance; nan inside jit where the stationary law is not unique.

    Raises:
        ValueError: not square; outside jit no transition matrix, or two stationary laws.

    Source: core specification 2.8; Schnakenberg 1976.

    Example:
        >>> P = jnp.array([[0.0, 0.7, 0.3], [0.3, 0.0, 0.7], [0.7, 0.3, 0.0]])
        >>> round(float(markov_entropy_production(P)), 4)  # 0.4 log(7/3)
        0.3389
    """
    p, _ = square_pair("P and itself", P, P)
    _check_transitions(p)
    sigma, unique = _markov(p)
    if is_concrete(p) and not bool(unique):
        raise ValueError("P has more than one stationary law: some states never meet")
    return sigma


@jax.jit
def _markov(p: Array) -> tuple[Array, Array]:
    """Entropy production, and whether the stationary law is unique."""
    n = len(p)
    # a state counts if every state can reach it
    reach = jnp.eye(n, dtype=bool) | (p > 0)
    for _ in range(max(n - 1, 1).bit_length()):
        reach = (reach.astype(p.dtype) @ reach.astype(p.dtype)) > 0
    recurrent = jnp.all(reach, axis=0)
    unique = jnp.any(recurrent)
    ones = jnp.ones((n, n), p.dtype)
    singular = jnp.where(
        unique, jnp.eye(n, dtype=p.dtype) - p.T + ones, jnp.eye(n, dtype=p.dtype)
    )
    pi = jnp.where(recurrent, jnp.linalg.solve(singular, ones[0]), 0.0)
    on = recurrent[:, None] & recurrent[None, :]
    both = on & (p > 0) & (p.T > 0)
    one_way = on & (p > 0) & ~(p.T > 0)
    log_ratio = jnp.log(jnp.where(both, p, 1.0)) - jnp.log(jnp.where(both, p.T, 1.0))
    flux = pi[:, None] * jnp.where(both, p, 0.0)
    sigma = 0.5 * jnp.sum((flux - flux.T) * log_ratio)
    sigma = jnp.where(jnp.any(one_way), jnp.inf, sigma)
    return jnp.where(unique, sigma, jnp.nan), unique


def _check_transitions(p: Array) -> None:
    if not is_concrete(p):
        return
    rows = np.asarray(p, np.float64)
    off = np.max(np.abs(rows.sum(axis=1) - 1))
    if not (np.all(rows >= 0) and off < len(rows) * 8 * jnp.finfo(p.dtype).eps):
        raise ValueError(
            f"P is no transition matrix: entries go down to {rows.min():.3g}, row sums are "
            f"off by {off:.3g}; rows must be non-negative and sum to 1"
        )
