"""Gaussian energies and their bent relatives: harmonic, funnel, Rosenbrock.

All have a closed form at every temperature, Lebesgue base measure, and a reference from
which tempering can start.

Source: core table rows T1, T6, T7; the funnel is Neal's (2003), the valley Rosenbrock's.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.exact.references import (
    INFLATION,
    REACH,
    normal_reference,
    student_reference,
)
from thermojax.exact.solvable import Moments, Solvable, finite, positive
from thermojax.priors import gaussian_prior, prior
from thermojax.system import system

__all__ = ["funnel", "harmonic", "rosenbrock"]

_LOG_2PI = math.log(2 * math.pi)


def _harmonic_energy(theta, control, data):
    stiffness, offset = data
    stiffness = jnp.asarray(stiffness, theta.dtype)
    if stiffness.ndim == 2:
        return offset + 0.5 * jnp.sum(theta * jnp.sum(stiffness * theta, axis=-1))
    return offset + 0.5 * jnp.sum(stiffness * theta**2)


def harmonic(stiffness=(1.0, 2.0, 5.0), offset: float = 0.7) -> Solvable:
    """A harmonic well in d dimensions.

        U = offset + x^T K x / 2
        log Z = -beta offset + (d/2) log(2 pi / beta) - (1/2) log det K

    Args:
        stiffness: K: its diagonal [d] (or a scalar for d = 1), or a symmetric positive
            definite matrix [d, d].
        offset: energy of the minimum, nats.

    Returns:
        A solvable system with theta [d] over Lebesgue measure.

    Raises:
        ValueError: K is not symmetric and positive definite.

    Source: core table row T1.

    Example:
        >>> round(float(harmonic().log_partition(1.5)), 10)
        -0.052674609
    """
    matrix = np.atleast_1d(finite("stiffness", stiffness))
    offset = float(finite("offset", offset))
    if matrix.ndim == 2:
        if matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T):
            raise ValueError(
                f"a stiffness matrix must be square and symmetric, got shape {matrix.shape}"
                f"; use (K + K.T) / 2"
            )
        eigenvalues = np.linalg.eigvalsh(matrix)
    else:
        eigenvalues = matrix
    positive("the eigenvalues of the stiffness", eigenvalues)
    dim = len(eigenvalues)
    log_det = float(np.sum(np.log(eigenvalues)))

    def moments(beta: float) -> Moments:
        log_z = -beta * offset + 0.5 * dim * (_LOG_2PI - math.log(beta)) - 0.5 * log_det
        return Moments(log_z, offset + dim / (2 * beta), dim / (2 * beta**2))

    if matrix.ndim == 2:
        reference = normal_reference(
            np.zeros(dim), INFLATION**2 / REACH * np.linalg.inv(matrix)
        )
    else:
        scale = INFLATION / np.sqrt(REACH * matrix)
        reference = gaussian_prior(jnp.asarray(scale), like=jnp.zeros(dim))
    data = (jnp.asarray(matrix), offset)
    target = system(_harmonic_energy, reference=reference, data=data)
    return Solvable(target, moments, dim, proper_above=0.0)


def _funnel_energy(theta, control, data):
    v, z = theta[0], theta[1:]
    return v**2 / (2 * data**2) + 0.5 * jnp.exp(-v) * jnp.sum(z**2) + 0.5 * z.size * v


def _wide_log_density(theta, control, params):
    center, scale, student = params
    v = (theta[0] - center) / scale
    log_v = -0.5 * v**2 - jnp.log(scale) - 0.5 * _LOG_2PI
    return log_v + student.log_density(theta[1:])


def _wide_sample(key, control, params):
    center, scale, student = params
    z = student.sample(jax.random.fold_in(key, 1))
    v = center + scale * jax.random.normal(jax.random.fold_in(key, 0), (1,), z.dtype)
    return jnp.concatenate([v, z])


def _wide_reference(center, scale, student):
    """Normal v and, independently, Student z."""
    like = jnp.zeros(student.template.size + 1)
    params = (center, scale, student)
    return prior(_wide_log_density, _wide_sample, like=like, params=params)


def funnel(n: int = 9, s: float = 3.0) -> Solvable:
    """Neal's funnel: a normal whose width is the exponential of another normal.

        U = v^2 / (2 s^2) + e^{-v} |z|^2 / 2 + n v / 2,        theta = [v, z_1 .. z_n]
        log Z = (n/2) log(2 pi / b) + (1/2) log(2 pi s^2 / b) + n^2 (1-b)^2 s^2 / (8 b)

    The marginal of v is N(n (1-b) s^2 / (2 b), s^2 / b). The reference knows nothing of
    the funnel: v normal and z Student with 3 degrees of freedom, independent, both wider
    than the target. With n = 9 and s = 3 that is the classic failure of tempering, which
    an estimator must notice.

    Args:
        n: number of z, at least 1.
        s: standard deviation of v at beta = 1.

    Returns:
        A solvable system with theta [n + 1] over Lebesgue measure.

    Raises:
        ValueError: n < 1 or s not positive.

    Source: core table row T6; Neal (2003), Slice sampling, section 8.

    Example:
        >>> round(float(funnel().log_partition(1.0)), 10)
        10.2879976207
    """
    if n < 1:
        raise ValueError(f"a funnel needs n >= 1 coordinates z, got {n}")
    s = float(positive("s", s))
    bend = n**2 * s**2 / 8

    def moments(beta: float) -> Moments:
        log_z = 0.5 * (n + 1) * (_LOG_2PI - math.log(beta)) + math.log(s)
        log_z += bend * (1 - beta) ** 2 / beta
        mean = (n + 1) / (2 * beta) + bend * (1 / beta**2 - 1)
        variance = (n + 1) / (2 * beta**2) + 2 * bend / beta**3
        return Moments(log_z, mean, variance)

    center = min(n * s**2 / 4, s)
    width = 1.5 * math.exp(min(center + s**2 / 2, 40.0) / 2)
    reference = _wide_reference(center, 2 * s, student_reference(n, 3.0, width))
    target = system(_funnel_energy, reference=reference, data=s)
    return Solvable(target, moments, n + 1, proper_above=0.0)


def _rosenbrock_energy(theta, control, data):
    curvature, center, stiffness = data
    x, y = theta[0], theta[1]
    return 0.5 * stiffness * (x - center) ** 2 + curvature * (y - x**2) ** 2


def rosenbrock(
    curvature: float = 10.0, *, center: float = 1.0, stiffness: float = 1.0
) -> Solvable:
    """Rosenbrock's curved valley.

        U = stiffness (x - center)^2 / 2 + curvature (y - x^2)^2
        Z = 2 pi / (beta sqrt(2 curvature stiffness)),    <U> = 1 / beta,    C = 1

    The shear y -> y - x^2 has unit Jacobian and makes U Gaussian. The reference
    is a pair of independent normals, wider than the marginals.

    Args:
        curvature: stiffness across the valley.
        center: x of the minimum (its y is center^2).
        stiffness: stiffness along the valley.

    Returns:
        A solvable system with theta [2] over Lebesgue measure.

    Raises:
        ValueError: curvature or stiffness not positive.

    Source: core table row T7.

    Example:
        >>> round(float(rosenbrock().log_partition(1.0)), 10)
        0.3400109296
    """
    curvature = float(positive("curvature", curvature))
    stiffness = float(positive("stiffness", stiffness))
    center = float(finite("center", center))

    def moments(beta: float) -> Moments:
        log_z = _LOG_2PI - math.log(beta) - 0.5 * math.log(2 * curvature * stiffness)
        return Moments(log_z, 1 / beta, 1 / beta**2)

    # marginals of x and y = x^2 + noise at beta = REACH, widened
    var_x = 1 / (REACH * stiffness)
    var_y = 2 * var_x**2 + 4 * center**2 * var_x + 1 / (2 * REACH * curvature)
    covariance = INFLATION**2 * np.diag([var_x, var_y])
    reference = normal_reference(np.array([center, center**2 + var_x]), covariance)
    data = (curvature, center, stiffness)
    target = system(_rosenbrock_energy, reference=reference, data=data)
    return Solvable(target, moments, 2, proper_above=0.0)
