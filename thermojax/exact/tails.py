"""Energies with other tails than Gaussian: powers and the Student potential.

Source: core table rows T8 and T9.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from thermojax.exact.references import INFLATION, REACH, student_reference
from thermojax.exact.solvable import Moments, Solvable, positive
from thermojax.priors import CustomPrior, gaussian_prior, prior
from thermojax.system import system

__all__ = ["power", "student"]


@dataclasses.dataclass(frozen=True)
class _PowerEnergy:
    """sum_i |x_i|^p with a static p, so that even powers stay smooth at zero."""

    exponent: float

    def __call__(self, theta, control, data):
        if self.exponent % 2 == 0:
            return jnp.sum(theta ** int(self.exponent))
        return jnp.sum(jnp.abs(theta) ** self.exponent)


def _generalised_log_density(theta, control, params):
    exponent, scale, log_norm = params
    width = scale.astype(theta.dtype)
    return -jnp.sum(jnp.abs(theta / width) ** exponent) - log_norm


def _generalised_sample(key, control, params):
    exponent, scale, _ = params
    key_gamma, key_sign = jax.random.split(key)
    log_gamma = jax.random.loggamma(key_gamma, 1 / exponent, scale.shape, scale.dtype)
    sign = jax.random.rademacher(key_sign, scale.shape, scale.dtype)
    return scale * sign * jnp.exp(log_gamma / exponent)


def _generalised_normal(dim: int, exponent: float, scale: float) -> CustomPrior:
    """Independent densities proportional to exp(-|x / scale|^p): |x / scale|^p is gamma."""
    log_norm = dim * (math.log(2 * scale) + math.lgamma(1 + 1 / exponent))
    return prior(
        _generalised_log_density,
        _generalised_sample,
        like=jnp.zeros(dim),
        params=(exponent, jnp.full(dim, scale), log_norm),
    )


def power(dim: int = 3, power: float = 4.0) -> Solvable:
    """Independent power-law wells.

        U = sum_i |x_i|^p,    Z = (2 Gamma(1 + 1/p) beta^{-1/p})^d
        <U> = d / (p beta),    C = d / p        (equipartition for a power p)

    Args:
        dim: d, at least 1.
        power: p > 0; the force is finite at zero for p >= 1 only.

    Returns:
        A solvable system with theta [d] over Lebesgue measure.

    Raises:
        ValueError: dim < 1 or power not positive.

    Source: core table row T8.

    Example:
        >>> round(float(power().log_partition(2.0)), 10)
        1.264765647
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    exponent = float(positive("power", power))
    log_unit = math.log(2) + math.lgamma(1 + 1 / exponent)

    def moments(beta: float) -> Moments:
        log_z = dim * (log_unit - math.log(beta) / exponent)
        return Moments(log_z, dim / (exponent * beta), dim / (exponent * beta**2))

    width = INFLATION * REACH ** (-1 / exponent)
    if exponent < 2:
        reference = _generalised_normal(dim, exponent, width)
    else:
        square = math.exp(math.lgamma(3 / exponent) - math.lgamma(1 / exponent))
        reference = gaussian_prior(width * math.sqrt(square), like=jnp.zeros(dim))
    target = system(_PowerEnergy(exponent), reference=reference)
    return Solvable(target, moments, dim, proper_above=0.0)


def _student_energy(theta, control, data):
    return 0.5 * (data + theta.size) * jnp.log1p(jnp.sum(theta**2) / data)


def student(nu: float = 3.0, dim: int = 2) -> Solvable:
    """The Student potential: logarithmic, hence improper when hot.

        U = ((nu + d)/2) log(1 + |x|^2 / nu)
        Z = (nu pi)^{d/2} Gamma(b - d/2) / Gamma(b),    b = beta (nu + d)/2

    At beta the law is a Student distribution with beta (nu + d) - d degrees of freedom:
    Z is finite only for beta > d / (nu + d). All moments of U are finite there, but |x|^2
    has a mean only for more than two and a variance only for more than four degrees of
    freedom. The reference has 1/2 degree of freedom.

    Args:
        nu: degrees of freedom at beta = 1.
        dim: d, at least 1.

    Returns:
        A solvable system with theta [d] over Lebesgue measure; below the threshold its
        methods raise ImproperEnsembleError.

    Raises:
        ValueError: nu not positive or dim < 1.

    Source: core table row T9, section 3.5.

    Example:
        >>> round(float(student().log_partition(1.0)), 10)
        1.8378770664
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    nu = float(positive("nu", nu))
    half = (nu + dim) / 2

    def moments(beta: float) -> Moments:
        from scipy.special import polygamma

        b = beta * half
        log_z = 0.5 * dim * math.log(nu * math.pi) + math.lgamma(b - dim / 2) - math.lgamma(b)
        mean = half * float(polygamma(0, b) - polygamma(0, b - dim / 2))
        variance = half**2 * float(polygamma(1, b - dim / 2) - polygamma(1, b))
        return Moments(log_z, mean, variance)

    reference = student_reference(dim, min(0.5, nu), math.sqrt(nu))
    target = system(_student_energy, reference=reference, data=nu)
    return Solvable(target, moments, dim, proper_above=dim / (nu + dim))
