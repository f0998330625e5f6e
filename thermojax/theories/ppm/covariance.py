"""Gaussian entropies and informations that know directions without any spread.

A noiseless optimiser makes covariances singular. A direction without spread is left out of
a log-determinant, and two log-determinants compare only if they leave out equally many:

    information  = [ln det V - ln det V_c] / 2,   inf where V_c has fewer directions than V

Ranks come from correlation matrices, so that parameters of very different size all count.
Projectors are constants for derivatives; where V is regular they are zero.

Source: derived here; specification of the theory, section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array

__all__ = ["Volume", "change", "conditional", "entropy", "information", "split", "volumes"]


class Volume(NamedTuple):
    """Log-determinants over the directions that have spread.

    Attributes:
        log_det: [n], of n covariances.
        rank: [n] number of directions with spread.
    """

    log_det: Array
    rank: Array


def _spread(v: Array) -> Array:
    """Standard deviations of covariances [..., d, d]; 1 where there is none."""
    variance = jax.lax.stop_gradient(jnp.diagonal(v, axis1=-2, axis2=-1))
    some = variance > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 1.0)


def _largest_spread(v: Array) -> Array:
    """[d] standard deviations, the largest of n covariances [n, d, d]; 1 if all are zero."""
    return _spread(jnp.diag(jnp.max(jnp.diagonal(v, axis1=1, axis2=2), axis=0)))


def split(v: Array) -> tuple[Array, Array]:
    """Projectors [n, d, d] on directions without spread, and ranks [n]; constants."""
    v = jax.lax.stop_gradient(v)
    n, d = v.shape[:2]
    sd = _spread(v)
    # correlations give the rank, whatever the units; v itself the directions: one call
    values, vectors = jnp.linalg.eigh(jnp.concatenate([v / sd[:, None, :] / sd[:, :, None], v]))
    rank = jnp.sum(values[:n] > 10 * d * jnp.finfo(v.dtype).eps, axis=1)
    null = vectors[n:] * (jnp.arange(d) < d - rank[:, None, None])
    return null @ jnp.swapaxes(null, 1, 2), rank


def _regular(v: Array, null: Array) -> Array:
    """V with unit variance where it has none."""
    keep = jnp.eye(v.shape[-1], dtype=v.dtype) - null
    return keep @ v @ keep + null


def volumes(families: list[list[Array]]) -> list[list[Volume]]:
    """Volumes of covariances [n, d, d], all from one factorisation.

    Members of a family have one d and are measured in the units of its first member, so
    that the volumes of singular ones can be compared within the family.
    """
    sds = [_largest_spread(family[0]) for family in families]
    flat = [(v, sd) for family, sd in zip(families, sds, strict=True) for v in family]
    most = max(len(sd) for sd in sds)

    def padded(v, sd):
        missing = most - len(sd)
        rest = jnp.diag(
            jnp.repeat(jnp.array([0.0, 1.0], v.dtype), np.array([len(sd), missing]))
        )
        return jnp.pad(v / sd / sd[:, None], ((0, 0), (0, missing), (0, missing))) + rest

    stack = jnp.concatenate([padded(v, sd) for v, sd in flat])
    null, rank = split(stack)
    factor = jnp.linalg.cholesky(_regular(stack, null))
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), axis=1)
    edges = np.cumsum([len(v) for v, _ in flat])[:-1]
    parts = zip(flat, jnp.split(log_det, edges), jnp.split(rank, edges), strict=True)
    found = iter(
        Volume(part + 2 * jnp.sum(jnp.log(sd)), r - (most - len(sd)))
        for (_, sd), part, r in parts
    )
    return [[next(found) for _ in family] for family in families]


def entropy(found: Volume, d: int) -> Array:
    """Differential entropy, nats; -inf for singular covariances of d variables."""
    full = 0.5 * (found.log_det + d * jnp.log(2 * jnp.pi * jnp.e))
    return jnp.where(found.rank < d, -jnp.inf, full)


def change(before: Volume, after: Volume) -> Array:
    """Gain of entropy, nats; +-inf where a direction gains or loses all its spread."""
    gain = 0.5 * (after.log_det - before.log_det)
    jump = jnp.where(after.rank > before.rank, jnp.inf, -jnp.inf)
    return jnp.where(after.rank == before.rank, gain, jump)


def information(whole: Volume, given: Volume) -> Array:
    """Mutual information with what narrows one law to the other, nats."""
    lost = 0.5 * (whole.log_det - given.log_det)
    return jnp.where(given.rank < whole.rank, jnp.inf, lost)


def conditional(v: Array, d: int) -> Array:
    """Covariances [n, p, p] of the last variables given the first d, of v [n, d+p, d+p]."""
    sd = _largest_spread(v[:, :d, :d])
    first, cross = v[:, :d, :d] / sd / sd[:, None], v[:, :d, d:] / sd[:, None]
    null, _ = split(first)
    factor = jnp.linalg.cholesky(_regular(first, null))
    half = jax.lax.linalg.triangular_solve(
        factor, cross - null @ cross, left_side=True, lower=True
    )
    return v[:, d:, d:] - jnp.swapaxes(half, 1, 2) @ half
