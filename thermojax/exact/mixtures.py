"""A mixture of Gaussians, tempered.

    U = -log sum_k w_k N(x; m_k, C_k),    Z(beta) = int p(x)^beta dx,    Z(1) = 1

Tempering a mixture is not the mixture of the tempered components, so Z needs quadrature.
Where all components share one covariance, the directions in which their means do not
differ integrate exactly in any number of dimensions.

Source: core table row T5.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.exact.quadrature import integrate
from thermojax.exact.references import INFLATION, REACH, normal_reference
from thermojax.exact.solvable import Moments, Solvable, finite, positive
from thermojax.system import system

__all__ = ["gaussian_mixture"]

_LOG_2PI = math.log(2 * math.pi)


def _mixture_energy(theta, control, data):
    log_weights, means, whiten = (p.astype(theta.dtype) for p in data)
    unit = jnp.sum(whiten * (theta - means)[:, None, :], axis=-1)
    return -jax.nn.logsumexp(log_weights - 0.5 * jnp.sum(unit**2, axis=-1))


def _covariances(count: int, dim: int, sds, covariances) -> np.ndarray:
    """[K, d, d] from whichever of the two was given."""
    if sds is not None and covariances is not None:
        raise ValueError("give either sds or covariances, not both")
    if covariances is not None:
        full = finite("covariances", covariances)
        if full.shape not in ((dim, dim), (count, dim, dim)):
            raise ValueError(
                f"covariances must have shape {(dim, dim)} or {(count, dim, dim)}, "
                f"got {full.shape}"
            )
        if not np.allclose(full, np.swapaxes(full, -1, -2)):
            raise ValueError("covariances must be symmetric; use (C + C.T) / 2")
        positive("the eigenvalues of the covariances", np.linalg.eigvalsh(full))
        return np.array(np.broadcast_to(full, (count, dim, dim)))
    widths = positive("sds", 0.5 if sds is None else sds)
    if widths.shape not in ((), (count,), (count, dim)):
        raise ValueError(
            f"sds must have shape (), {(count,)} or {(count, dim)}, got {widths.shape}"
        )
    widths = widths if widths.ndim == 2 else widths.reshape(-1, 1)
    return np.broadcast_to(widths, (count, dim))[:, :, None] ** 2 * np.eye(dim)


def _log_density(axes, log_weights, means, whiten) -> np.ndarray:
    """Sum of normals, log sum_k exp(c_k - |whiten_k (x - m_k)|^2 / 2), on an open mesh."""
    total = np.array(-np.inf)
    for log_weight, mean, rows in zip(log_weights, means, whiten, strict=True):
        away = [x - m for x, m in zip(axes, mean, strict=True)]
        units = (sum(r * x for r, x in zip(row, away, strict=True)) for row in rows)
        total = np.logaddexp(total, log_weight - 0.5 * sum(u**2 for u in units))
    return total


def _bulk(log_weights, means, covariances):
    """Moments of the mixture in its own one or two dimensions, by quadrature."""
    dim = means.shape[1]
    whiten = np.linalg.inv(np.linalg.cholesky(covariances))
    log_det = np.linalg.slogdet(whiten)[1]
    normed = log_weights + log_det - 0.5 * dim * _LOG_2PI
    widths = np.sqrt(np.max(np.diagonal(covariances, axis1=1, axis2=2), axis=0))

    def moments(beta: float) -> Moments:
        reach = widths * math.sqrt(2 * (60 / beta + np.ptp(normed) + 10))
        box = list(zip(means.min(0) - reach, means.max(0) + reach, strict=True))

        def integrand(*axes):
            log_density = _log_density(axes, normed, means, whiten)
            return beta * log_density, -log_density, 0.0

        return integrate(integrand, box)

    return moments


def _solve(log_weights, means, covariances):
    """`beta -> Moments`, with the directions shared by all components split off."""
    dim = means.shape[1]
    if not np.all(covariances == covariances[0]):
        if dim > 2:
            raise ValueError(
                f"components with different covariances are solved in at most 2 "
                f"dimensions, got {dim}; give all the same covariance"
            )
        return _bulk(log_weights, means, covariances)
    factor = np.linalg.cholesky(covariances[0])
    log_det = float(np.sum(np.log(np.diagonal(factor))))
    unit = np.linalg.solve(factor, (means - means.mean(0)).T).T
    _, singular, basis = np.linalg.svd(unit, full_matrices=False)
    rank = int(np.sum(singular > 1e-12 * max(1.0, np.max(singular))))
    if rank > 2:
        raise ValueError(
            f"the means span {rank} dimensions, quadrature covers at most 2: "
            "use three components or fewer, or means in one plane"
        )
    inner = None
    if rank:
        eye = np.broadcast_to(np.eye(rank), (len(means), rank, rank))
        inner = _bulk(log_weights, unit @ basis[:rank].T, eye)

    def moments(beta: float) -> Moments:
        flat = dim - rank
        log_z = (1 - beta) * (log_det + 0.5 * flat * _LOG_2PI) - 0.5 * flat * math.log(beta)
        mean = log_det + 0.5 * flat * (_LOG_2PI + 1 / beta)
        rest = Moments(log_z, mean, flat / (2 * beta**2))
        return rest + inner(beta) if inner else rest

    return moments


def gaussian_mixture(
    weights=(0.7, 0.3), means=((2.0, 0.0), (-2.0, 0.0)), sds=None, covariances=None
) -> Solvable:
    """The negative log density of a mixture of normals as an energy.

        U = -log sum_k w_k N(x; m_k, C_k),    Z(beta) = int p^beta dx,    log Z(1) = 0

    Args:
        weights: w_k [K], positive with sum one.
        means: m_k [K, d], or [K] for d = 1.
        sds: standard deviations: scalar, [K] or [K, d]; 0.5 if nothing is given.
        covariances: C_k [K, d, d], or [d, d] shared, instead of `sds`.

    Returns:
        A solvable system with theta [d] over Lebesgue measure; any d where the
        components share one covariance and their means span at most a plane (after a
        shift), otherwise d <= 2.

    Raises:
        ValueError: weights that do not sum to one, shapes that disagree, covariances
            that are not positive definite, or a mixture beyond quadrature.

    Source: core table row T5.

    Example:
        >>> round(float(gaussian_mixture().log_partition(0.5)), 10)
        1.2422884322
    """
    weights = np.atleast_1d(positive("weights", weights))
    if abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights must sum to 1, got {weights.sum()}; divide by their sum")
    weights = weights / weights.sum()
    means = finite("means", means)
    means = means[:, None] if means.ndim == 1 else means
    if means.ndim != 2 or len(means) != len(weights):
        raise ValueError(
            f"means must have shape ({len(weights)}, d), one row per weight, got {means.shape}"
        )
    count, dim = means.shape
    full = _covariances(count, dim, sds, covariances)
    whiten = np.linalg.inv(np.linalg.cholesky(full))
    log_weights = np.log(weights)
    normed = log_weights + np.linalg.slogdet(whiten)[1] - 0.5 * dim * _LOG_2PI

    away = means - means.mean(0)
    widest = full[0] if np.all(full == full[0]) else full.sum(0)
    reference = normal_reference(
        means.mean(0), INFLATION**2 * (widest / REACH + away.T @ away / count)
    )
    data = (jnp.asarray(normed), jnp.asarray(means), jnp.asarray(whiten))
    target = system(_mixture_energy, reference=reference, data=data)
    return Solvable(target, _solve(log_weights, means, full), dim, proper_above=0.0)
