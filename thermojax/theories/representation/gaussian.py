"""Linear-Gaussian systems: reverse water-filling and the partition function of a code.

    x ~ N(0, S),  y | x ~ N(B x, S_y),  d = N(x; f(z), s_x^2),  c = N(y; g(z), s_y^2)
    M = lam I / s_x^2 + gam B^T B / s_y^2,    kappa_i = eigenvalues of M^{1/2} S M^{1/2}
    F = sum_i [log max(kappa_i, 1) + min(kappa_i, 1)] / 2 + lam const_D + gam const_C

A mode carries information iff kappa_i > 1; `lam^2 chi_ll` is half the number of active modes
where gam = 0: equipartition.

Source: standard (reverse water-filling); the combined form with two losses and its responses
are derived here, following the programme of Gao & Chaudhari 2020.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular

from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "GaussianEquilibrium",
    "GaussianPosterior",
    "gaussian_equilibrium",
    "gaussian_log_partition",
]

_LOG_2PI = math.log(2 * math.pi)


class GaussianEquilibrium(NamedTuple):
    """Global minimum of J over all encoders of a linear-Gaussian task.

    Attributes:
        free_energy: F, nats per example.
        functionals: R, D and C at the minimum, nats per example.
        posterior_cov: [n, n] covariance P of x given z.
        mode_strengths: [n] kappa, descending; a kept mode is active where kappa > 1.
        num_active: int32 number of active modes.
        susceptibility: [2, 2] chi = -dU/dtau of U = (D, C), nats.
    """

    free_energy: Array
    functionals: Functionals
    posterior_cov: Array
    mode_strengths: Array
    num_active: Array
    susceptibility: Array


class GaussianPosterior(NamedTuple):
    """Equilibrium ensemble of codes of one example, or of each of a batch.

    Attributes:
        log_partition: [...] log Z_x, nats.
        mean: [..., k] mean of e*(z | x, y).
        cov: [k, k] its covariance, the same for every example.
        functionals: [...] R, D and C under e*, nats.
        relative_variance: [...] variance of one importance weight drawn from the marginal
            over its squared mean; ess / num_samples tends to 1 / (1 + this).
    """

    log_partition: Array
    mean: Array
    cov: Array
    functionals: Functionals
    relative_variance: Array


def _levels(kappa, latent_dim):
    """Slope 2 g'(kappa) of each mode's free energy; 1 where the mode is not active."""
    kept = jnp.arange(kappa.shape[0]) < latent_dim
    return jnp.where(kept, 1 / jnp.maximum(kappa, 1), 1.0)


def _stiffness(kappa, latent_dim):
    """[n, n] -(g'_i - g'_j)/(kappa_i - kappa_j): not negative, finite at equal kappa.

    Two active modes give 1/(2 kappa_i kappa_j) without any difference. An active mode that
    ties with one beyond `latent_dim` is a kink of F; the pair's rotation is left out there.
    """
    slope = _levels(kappa, latent_dim)
    active = slope < 1
    both = active[:, None] & active
    split = active[:, None] & ~active & (kappa[:, None] > kappa)
    apart = jnp.where(split, kappa[:, None] - kappa, 1.0)
    mixed = jnp.where(split, (1 - slope[:, None]) / apart, 0.0)
    same = jnp.where(both, slope[:, None] * slope, 0.0)
    return (same + mixed + mixed.T) / 2


def _descending(matrix):
    kappa, vectors = jnp.linalg.eigh(matrix)
    return jnp.maximum(kappa[::-1], 0), vectors[:, ::-1]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _slope_matrix(matrix, latent_dim):
    """dF/dA of F = sum_i g(kappa_i(A)), as a matrix."""
    kappa, vectors = _descending(matrix)
    return (vectors * (_levels(kappa, latent_dim) / 2)) @ vectors.T


@_slope_matrix.defjvp
def _slope_matrix_jvp(latent_dim, primals, tangents):
    # eigenvectors of equal eigenvalues have no derivative; divided differences have
    kappa, vectors = _descending(primals[0])
    turned = vectors.T @ tangents[0] @ vectors
    moved = vectors @ (-_stiffness(kappa, latent_dim) * turned) @ vectors.T
    return (vectors * (_levels(kappa, latent_dim) / 2)) @ vectors.T, moved


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _spectral_free_energy(matrix, latent_dim):
    """sum_i g(kappa_i): log max(kappa, 1)/2 + min(kappa, 1)/2, or kappa/2 if not kept."""
    kappa, _ = _descending(matrix)
    kept = jnp.arange(kappa.shape[0]) < latent_dim
    filled = jnp.log(jnp.maximum(kappa, 1)) + jnp.minimum(kappa, 1)
    return jnp.sum(jnp.where(kept, filled, kappa)) / 2


@_spectral_free_energy.defjvp
def _spectral_free_energy_jvp(latent_dim, primals, tangents):
    slope = _slope_matrix(primals[0], latent_dim)
    return _spectral_free_energy(primals[0], latent_dim), jnp.sum(slope * tangents[0])


def _check_system(cov_x, label_map, label_cov, multipliers, scales, latent_dim):
    n = cov_x.shape[0] if cov_x.ndim == 2 else -1
    if cov_x.shape != (n, n):
        raise ValueError(f"cov_x has shape {cov_x.shape}; give a square matrix [n, n]")
    if label_map.ndim != 2 or label_map.shape[1] != n:
        raise ValueError(f"label_map has shape {label_map.shape}; give B as [q, {n}]")
    q = label_map.shape[0]
    if label_cov.shape != (q, q):
        raise ValueError(f"label_cov has shape {label_cov.shape}; give a matrix [{q}, {q}]")
    if latent_dim < 0:
        raise ValueError(f"latent_dim is {latent_dim}; give a whole number >= 0, or None")
    if is_concrete((cov_x, label_cov)):
        for name, matrix in (("cov_x", cov_x), ("label_cov", label_cov)):
            if not np.all(np.isfinite(np.asarray(matrix))):
                raise ValueError(f"{name} has an entry that is not finite; give a covariance")
            lowest = float(np.linalg.eigvalsh(np.asarray(matrix, float)).min(initial=0))
            if lowest < -1e-5 * (1 + float(np.abs(matrix).max(initial=0))):
                raise ValueError(f"{name} has the eigenvalue {lowest}; give a covariance")
    _check_scales(multipliers, scales)


def _check_scales(multipliers, scales):
    for name, value in (*zip(("lam", "gam"), multipliers, strict=True), *scales.items()):
        least = "> 0" if name.endswith("scale") else ">= 0"
        if is_concrete(value) and not (
            np.all(value > 0) if least == "> 0" else np.all(value >= 0)
        ):
            raise ValueError(f"{name} is {value}; give a number {least}")


def _check_precision(precision):
    """M must be positive definite, or a direction of x is neither decoded nor labelled."""
    if not is_concrete(precision):
        return
    spectrum = np.linalg.eigvalsh(np.asarray(precision))
    if not spectrum[0] > len(spectrum) * np.finfo(precision.dtype).eps * spectrum[-1]:
        raise ValueError(
            f"lam I/s_x^2 + gam B^T B/s_y^2 has the eigenvalue {spectrum[0]:.3g} and is not "
            "positive definite; give lam > 0, or gam > 0 with B of full column rank"
        )


def _floats(arrays, scalars):
    arrays = tuple(map(jnp.asarray, arrays))
    dtype = jnp.result_type(*arrays, 0.0)
    return [a.astype(dtype) for a in arrays], [jnp.asarray(a, dtype) for a in scalars]


def gaussian_equilibrium(
    cov_x: ArrayLike,
    label_map: ArrayLike,
    label_cov: ArrayLike,
    multipliers: Multipliers,
    *,
    decoder_scale: ArrayLike,
    classifier_scale: ArrayLike,
    latent_dim: int | None = None,
) -> GaussianEquilibrium:
    """Minimum of R + lam D + gam C over all encoders, decoder means and classifier means.

        P = M^{-1/2} [sum_i min(1, kappa_i) v_i v_i^T] M^{-1/2}
        R = sum_i log max(kappa_i, 1) / 2
        D = tr P / (2 s_x^2) + n log(2 pi s_x^2) / 2
        C = [tr B P B^T + tr S_y] / (2 s_y^2) + q log(2 pi s_y^2) / 2

    Differentiable in the multipliers in every mode: `jax.grad` of the free energy is (D, C)
    and its hessian -chi, finite also where mode strengths are equal (third derivatives are
    not defined there). Modes beyond `latent_dim` stay at level kappa (principal components).
    D and C are negative log *densities*: they may be negative, and shift with the unit of x
    and y.

    Args:
        cov_x: [n, n] covariance S of x.
        label_map: [q, n] matrix B.
        label_cov: [q, q] covariance S_y of y given x.
        multipliers: lam and gam.
        decoder_scale: s_x.
        classifier_scale: s_y.
        latent_dim: dimension of z; None is n.

    Raises:
        ValueError: M is not positive definite, a multiplier is negative, a scale is not
            positive, a covariance has a negative eigenvalue, or a shape is wrong.

    Source:
        Standard; combined form and chi for any number of active modes derived here.

    Example:
        >>> one = jnp.ones((1, 1))
        >>> found = gaussian_equilibrium(
        ...     2 * one, one, one / 2, Multipliers(1.0, 1.0),
        ...     decoder_scale=1.0, classifier_scale=1.0,
        ... )
        >>> round(float(found.functionals.rate), 5), int(found.num_active)
        (0.69315, 1)
    """
    (cov_x, label_map, label_cov), (lam, gam, s_x, s_y) = _floats(
        (cov_x, label_map, label_cov), (*multipliers, decoder_scale, classifier_scale)
    )
    n, dtype = cov_x.shape[-1], cov_x.dtype
    latent_dim = n if latent_dim is None else latent_dim
    scales = {"decoder_scale": s_x, "classifier_scale": s_y}
    _check_system(cov_x, label_map, label_cov, (lam, gam), scales, latent_dim)
    slopes = jnp.stack([jnp.eye(n, dtype=dtype) / s_x**2, label_map.T @ label_map / s_y**2])
    precision = lam * slopes[0] + gam * slopes[1]
    _check_precision(precision)
    lower = jnp.linalg.cholesky(precision)
    matrix = lower.T @ cov_x @ lower
    inverse = solve_triangular(lower, jnp.eye(n, dtype=dtype), lower=True)
    const_d = n * (_LOG_2PI + 2 * jnp.log(s_x)) / 2
    const_c = jnp.trace(label_cov) / (2 * s_y**2)
    const_c += label_map.shape[0] * (_LOG_2PI + 2 * jnp.log(s_y)) / 2
    level = _slope_matrix(matrix, latent_dim)
    posterior = 2 * cov_x @ lower @ level @ inverse
    posterior = (posterior + posterior.T) / 2
    distortion = jnp.trace(posterior) / (2 * s_x**2) + const_d
    classification = jnp.sum(slopes[1] * posterior) / 2 + const_c
    kappa, vectors = _descending(matrix)
    centred = _spectral_free_energy(matrix, latent_dim)
    rate = jnp.maximum(centred - jnp.sum(level * matrix), 0)
    modes = jnp.sqrt(kappa)[:, None] * (vectors.T @ inverse)
    turned = modes @ slopes @ modes.T
    chi = jnp.einsum("ij,kij,lij->kl", _stiffness(kappa, latent_dim), turned, turned)
    free_energy = centred + lam * const_d + gam * const_c
    found = Functionals(rate, distortion, classification)
    active = jnp.sum(_levels(kappa, latent_dim) < 1, dtype=jnp.int32)
    return GaussianEquilibrium(free_energy, found, posterior, kappa, active, chi)


def _posterior(x, y, decoder, classifier, precision_x, precision_y):
    """Cholesky factor and mean of e*, and log Z without the normalisers of d and c."""
    dtype = x.dtype
    code = jnp.eye(decoder.shape[1], dtype=dtype)
    code += precision_x * decoder.T @ decoder + precision_y * classifier.T @ classifier
    lower = jnp.linalg.cholesky(code)
    pull = precision_x * x @ decoder + precision_y * y @ classifier
    mean = pull @ cho_solve((lower, True), jnp.eye(code.shape[0], dtype=dtype))
    square = precision_x * jnp.sum(x**2, -1) + precision_y * jnp.sum(y**2, -1)
    half_log_det = jnp.sum(jnp.log(jnp.diagonal(lower)))
    return lower, mean, (jnp.sum(pull * mean, -1) - square) / 2 - half_log_det


def gaussian_log_partition(
    x: ArrayLike,
    y: ArrayLike,
    decoder: ArrayLike,
    classifier: ArrayLike,
    multipliers: Multipliers,
    *,
    decoder_scale: ArrayLike,
    classifier_scale: ArrayLike,
) -> GaussianPosterior:
    """log Z_x of a linear-Gaussian decoder and classifier over m = N(0, I).

        L = I + lam V^T V / s_x^2 + gam U^T U / s_y^2
        h = lam V^T x / s_x^2 + gam U^T y / s_y^2,     e*(z | x, y) = N(L^{-1} h, L^{-1})
        log Z = h^T L^{-1} h / 2 - log det L / 2 - lam [n log(2 pi s_x^2) + |x|^2 / s_x^2] / 2
                - gam [q log(2 pi s_y^2) + |y|^2 / s_y^2] / 2

    The relative variance of one importance weight drawn from m is
    Z(2 lam, 2 gam) / Z(lam, gam)^2 - 1.

    Args:
        x: [..., n] examples.
        y: [..., q] their labels.
        decoder: [n, k] matrix V, d(x | z) = N(V z, s_x^2 I).
        classifier: [q, k] matrix U, c(y | z) = N(U z, s_y^2 I).
        multipliers: lam and gam.
        decoder_scale: s_x.
        classifier_scale: s_y.

    Raises:
        ValueError: a shape does not fit, a multiplier is negative or a scale not positive.

    Source:
        Standard.

    Example:
        >>> one = jnp.ones(1)
        >>> found = gaussian_log_partition(
        ...     one, 0.2 * one, one[None], one[None] / 2, Multipliers(2.0, 1.5),
        ...     decoder_scale=0.5, classifier_scale=1.0,
        ... )
        >>> round(float(found.log_partition), 4)
        -3.4365
    """
    (x, y, decoder, classifier), (lam, gam, s_x, s_y) = _floats(
        (x, y, decoder, classifier), (*multipliers, decoder_scale, classifier_scale)
    )
    _check_scales((lam, gam), {"decoder_scale": s_x, "classifier_scale": s_y})
    shapes = (x.shape[-1:], y.shape[-1:]), (decoder.shape[:1], classifier.shape[:1])
    if decoder.shape[1:] != classifier.shape[1:] or shapes[0] != shapes[1]:
        raise ValueError(
            f"x {x.shape}, y {y.shape}, decoder {decoder.shape} and classifier "
            f"{classifier.shape} do not fit; give [..., n], [..., q], [n, k] and [q, k]"
        )
    lower, mean, log_z = _posterior(x, y, decoder, classifier, lam / s_x**2, gam / s_y**2)
    twice = _posterior(x, y, decoder, classifier, 2 * lam / s_x**2, 2 * gam / s_y**2)[2]
    k = decoder.shape[1]
    cov = cho_solve((lower, True), jnp.eye(k, dtype=x.dtype))

    def loss(target, weights, scale):
        spread = jnp.sum((target - mean @ weights.T) ** 2, -1) + jnp.sum(
            weights @ cov * weights
        )
        return spread / (2 * scale**2) + weights.shape[0] * (_LOG_2PI / 2 + jnp.log(scale))

    half_log_det = jnp.sum(jnp.log(jnp.diagonal(lower)))
    rate = (jnp.trace(cov) + jnp.sum(mean**2, -1) - k) / 2 + half_log_det
    constants = lam * x.shape[-1] * (_LOG_2PI / 2 + jnp.log(s_x))
    constants += gam * y.shape[-1] * (_LOG_2PI / 2 + jnp.log(s_y))
    return GaussianPosterior(
        log_z - constants,
        mean,
        cov,
        Functionals(rate, loss(x, decoder, s_x), loss(y, classifier, s_y)),
        jnp.expm1(twice - 2 * log_z),
    )
