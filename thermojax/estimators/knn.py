"""Differential entropy of a law from samples of it: Gaussian fit and nearest neighbours.

    Gaussian    S = ln det(2 pi e C) / 2, an upper bound given the covariance C
    k-nearest   S = psi(M) - psi(k) + ln V_D + (D/M) sum_i ln eps_i

eps_i is the distance from member i to its k-th neighbour and V_D the volume of the unit
ball. The second assumes that the density is constant within that ball: where scales differ
between directions the ball is as wide as the longest one, so whiten first,

    x = C^(1/2) z,   S[x] = S[z] + ln det C / 2.

For D <~ 10. Differential entropies are negative for narrow laws, and are never clipped.

Source: Kozachenko & Leonenko 1987; the error bar is ours.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.information import error_of_mean
from thermojax.typing import Array, PyTree

__all__ = ["flatten_ensemble", "gaussian_entropy", "knn_entropy"]

_BATCH = 64


def flatten_ensemble(samples: PyTree) -> Array:
    """[M, D] from a pytree with a leading axis of M members.

    Raises:
        ValueError: no leaves, or leaves with different leading axes.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(samples)]
    counts = {x.shape[:1] for x in leaves}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            f"the leaves of an ensemble must share a leading axis of members, got {counts}"
        )
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)


def gaussian_entropy(samples: PyTree) -> Estimate:
    """Entropy of the Gaussian with the samples' covariance, nats: S = ln det(2 pi e C) / 2.

    The bias of the log-determinant of a sample covariance is taken out, so that the value
    is unbiased for Gaussian samples; for others it is high by their negentropy, which the
    error bar does not know.

    Args:
        samples: [M, D], or a pytree with a leading axis of M independent members.

    Returns:
        `Estimate`; stderr from the influence of each member. -inf and NONFINITE for
        samples in a plane.

    Raises:
        ValueError: M <= D; leaves without a common leading axis.

    Example:
        >>> x = 2.0 * jax.random.normal(jax.random.key(0), (4000, 1))
        >>> exact = 0.5 * math.log(2 * math.pi * math.e * 4.0)
        >>> s = gaussian_entropy(x)
        >>> bool(abs(s.value - exact) < 4 * s.stderr)
        True
    """
    flat = flatten_ensemble(samples)
    count, size = flat.shape
    _enough(count, size + 1, size)
    z, log_det = _whitened(flat)
    ranks = jnp.arange(count - size, count).astype(flat.dtype)
    # E ln det of a Wishart matrix with M - 1 degrees of freedom, against that of its mean
    bias = jnp.sum(digamma(0.5 * ranks)) + size * (math.log(2.0) - math.log(count - 1))
    value = 0.5 * (size * math.log(2 * math.pi * math.e) + log_det - bias)
    error = error_of_mean(0.5 * jnp.sum(z**2, axis=1))
    return _estimate(value, error, count)


def knn_entropy(samples: PyTree, *, k: int = 4, whiten: bool = True) -> Estimate:
    """Entropy by k nearest neighbours, nats; see the module docstring.

    Args:
        samples: [M, D], or a pytree with a leading axis of M independent members.
        k: neighbour; more of them lower the variance and raise the bias.
        whiten: measure distances in units of the samples' covariance.

    Returns:
        `Estimate`. stderr joins the spread of the logarithms with the bias that the change
        from k to 2 k hints at; identical members, or samples in a plane when whitened,
        give -inf and NONFINITE.

    Raises:
        ValueError: M <= k, or M <= D where whitened; leaves without a common leading axis.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (500, 2)) * jnp.array([1.0, 1e-3])
        >>> exact = math.log(2 * math.pi * math.e * 1e-3)
        >>> s = knn_entropy(x)
        >>> bool(abs(s.value - exact) < 4 * s.stderr)
        True
    """
    flat = flatten_ensemble(samples)
    count, size = flat.shape
    if k < 1:
        raise ValueError(f"k={k} is no neighbour: give k >= 1")
    _enough(count, max(k, size if whiten else 0) + 1, size)
    points, log_det = _whitened(flat) if whiten else (flat, jnp.zeros((), flat.dtype))
    # a plane has no volume: its distances would be those of rounding errors
    points = jnp.where(jnp.isfinite(log_det), points, 0.0)
    further = min(2 * k, count - 1)

    def distances(row):
        squares = jnp.sum((points - row) ** 2, axis=1)
        # the row itself comes first
        return -jax.lax.top_k(-squares, further + 1)[0][jnp.array([k, further])]

    squares = jax.lax.map(distances, points, batch_size=_BATCH)
    logs = 0.5 * size * _log(squares)
    volume = 0.5 * size * math.log(math.pi) - gammaln(0.5 * size + 1)
    psi = digamma(jnp.array([count, k, further], flat.dtype))
    near, far = psi[0] - psi[1:] + volume + jnp.mean(logs, axis=0)
    value = near + jnp.where(jnp.isfinite(log_det), 0.5 * log_det, 0.0)
    # a bias in proportion to the width of the balls, k^(1/D), seen between two widths
    growth = (further / k) ** (1 / size) - 1
    bias = (far - near) / growth if further > k else jnp.inf
    error = jnp.hypot(error_of_mean(logs[:, 0]), bias)
    return _estimate(value.astype(flat.dtype), error, count)


def _enough(count: int, least: int, size: int) -> None:
    if count < least:
        raise ValueError(f"{count} members are too few in {size} dimensions: give {least}")


def _estimate(value: Array, error: Array, count: int) -> Estimate:
    bad = ~jnp.isfinite(value)
    error = jnp.where(bad, jnp.inf, error)
    flags = raise_flags((Flag.NONFINITE, bad))
    return Estimate(value, error, error, jnp.asarray(count, value.dtype), flags)


def _whitened(flat: Array) -> tuple[Array, Array]:
    """Samples of unit covariance [M, D], and ln det of the covariance, -inf for a plane."""
    count, size = flat.shape
    centred = flat - jnp.mean(flat, axis=0)
    # columns first to unit length: their units may differ by more than a float resolves
    lengths = jnp.sqrt(jnp.mean(centred**2, axis=0))
    scale = jnp.where(lengths > 0, lengths, 1.0)
    unit = centred / scale
    factor = jnp.linalg.cholesky(unit.T @ unit / (count - 1))
    pivots = jnp.diag(factor)
    resolved = pivots**2 > 10 * size * jnp.finfo(flat.dtype).eps
    flat_out = jnp.any(lengths == 0) | ~jnp.all(resolved)
    factor = jnp.where(flat_out, jnp.eye(size, dtype=flat.dtype), factor)
    z = jax.scipy.linalg.solve_triangular(factor, unit.T, lower=True).T
    log_det = 2 * jnp.sum(jnp.log(jnp.diag(factor)) + jnp.log(scale))
    return z, jnp.where(flat_out, -jnp.inf, log_det)


def _log(x: Array) -> Array:
    """ln x, -inf with a zero gradient at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), -jnp.inf)
