"""Symmetric matrices known by their products: spectra, log determinants, square roots.

    A V = V T,   V^T V = 1,   V e_1 = v / |v|,   T tridiagonal [m, m]
    v^T f(A) v   = |v|^2 e_1^T f(T) e_1          exact for polynomials of degree 2m - 1
    f(A) v       = |v| V f(T) e_1

One probe costs m products and m d numbers of memory (full reorthogonalisation).

Source: stochastic Lanczos quadrature after Golub & Meurant 1994; Ubaru, Chen & Saad 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.typing import Array

__all__ = ["Krylov", "krylov", "quadrature", "root_inverse", "truncated"]


class Krylov(NamedTuple):
    """The Krylov space of one vector.

    Attributes:
        ritz: [m] Ritz values, increasing.
        first: [m] first components of their vectors; squares are quadrature weights.
        vectors: [m, m] eigenvectors of T.
        basis: [m, d] orthonormal basis; rows past an invariant subspace are zero.
        norm: |v|.
    """

    ritz: Array
    first: Array
    vectors: Array
    basis: Array
    norm: Array


def krylov(matvec: Callable[[Array], Array], v: Array, steps: int) -> Krylov:
    """`steps` Lanczos steps from v [d] with a symmetric product.

    An invariant subspace ends the recursion: later rows of T repeat its first diagonal
    entry, decoupled, so that they carry no quadrature weight and no new extreme value.
    """
    norm = jnp.sqrt(jnp.sum(v * v))
    eps = jnp.finfo(v.dtype).eps
    basis = jnp.zeros((steps, v.shape[0]), v.dtype).at[0].set(v / norm)
    zeros = jnp.zeros(steps, v.dtype)

    def body(k, carry):
        basis, diagonal, off, size, alive = carry
        q = basis[k]
        w = matvec(q)
        alpha = jnp.sum(q * w)
        # twice is enough
        for _ in range(2):
            w = w - basis.T @ (basis @ w)
        beta = jnp.sqrt(jnp.sum(w * w))
        size = jnp.maximum(size, jnp.maximum(jnp.abs(alpha), beta))
        goes_on = alive & (beta > 10 * eps * size * jnp.sqrt(1.0 * v.shape[0]))
        fill = jnp.where(alive, alpha, diagonal[0])
        step = jnp.where(goes_on, w / jnp.where(goes_on, beta, 1.0), 0.0)
        basis = basis.at[k + 1].set(step.astype(v.dtype), mode="drop")
        off = off.at[k].set(jnp.where(goes_on, beta, 0.0))
        return basis, diagonal.at[k].set(fill), off, size, goes_on

    start = (basis, zeros, zeros, jnp.zeros((), v.dtype), jnp.asarray(True))
    basis, diagonal, off, _, _ = jax.lax.fori_loop(0, steps, body, start)
    t = jnp.diag(diagonal) + jnp.diag(off[:-1], 1) + jnp.diag(off[:-1], -1)
    ritz, vectors = jnp.linalg.eigh(t)
    return Krylov(ritz, vectors[0], vectors, basis, norm)


def quadrature(space: Krylov, fn: Callable[[Array], Array]) -> Array:
    """v^T f(A) v, scalar."""
    return space.norm**2 * jnp.sum(space.first**2 * fn(space.ritz))


def truncated(space: Krylov, steps: int) -> Krylov:
    """The Krylov space that fewer steps from the same vector would have given."""
    t = (space.vectors[:steps] * space.ritz) @ space.vectors[:steps].T
    ritz, vectors = jnp.linalg.eigh(t)
    return Krylov(ritz, vectors[0], vectors, space.basis[:steps], space.norm)


def root_inverse(space: Krylov) -> Array:
    """A^{-1/2} v [d] for positive A: a draw of N(0, A^{-1}) if v is standard normal."""
    weights = space.vectors @ (space.first / jnp.sqrt(space.ritz))
    return space.norm * (space.basis.T @ weights)
