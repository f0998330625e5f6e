"""Normalised, exactly sampleable distributions from which tempering can start.

Systems over Lebesgue measure need one. Each is at least as wide and as heavy-tailed as its
target for beta >= REACH, so that importance weights towards the target stay bounded or at
least have a finite variance.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.priors import CustomPrior, prior

__all__ = ["INFLATION", "REACH", "normal_reference", "student_reference"]

REACH = 0.3  # the smallest beta that a reference is made for
INFLATION = 1.5  # factor by which it is wider, in standard deviations

_LOG_2PI = math.log(2 * math.pi)
_LEAST_LOG_GAMMA = -75.0  # keeps |x|^2 of a heavy-tailed draw inside float32


def _normal_log_density(theta, control, params):
    mean, factor, whiten = (p.astype(theta.dtype) for p in params)
    unit = jnp.sum(whiten * (theta - mean), axis=-1)
    log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
    return -0.5 * jnp.sum(unit**2) - log_det - 0.5 * theta.size * _LOG_2PI


def _normal_sample(key, control, params):
    mean, factor, _ = params
    unit = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.sum(factor * unit, axis=-1)


def normal_reference(mean, covariance) -> CustomPrior:
    """A normal distribution with full covariance over a vector theta [d].

    Args:
        mean: [d].
        covariance: [d, d], symmetric and positive definite.
    """
    factor = np.linalg.cholesky(covariance)
    whiten = np.linalg.inv(factor)
    params = (jnp.asarray(mean), jnp.asarray(factor), jnp.asarray(whiten))
    like = jnp.zeros(len(factor))
    return prior(_normal_log_density, _normal_sample, like=like, params=params)


def _student_log_density(theta, control, params):
    df, scale, log_norm = params
    power = (df + theta.size) / 2
    ratio = theta / scale.astype(theta.dtype)
    return -power * jnp.log1p(jnp.sum(ratio**2) / df) - log_norm


def _student_sample(key, control, params):
    df, scale, _ = params
    key_normal, key_gamma = jax.random.split(key)
    unit = jax.random.normal(key_normal, scale.shape, scale.dtype)
    log_gamma = jax.random.loggamma(key_gamma, df / 2, dtype=scale.dtype)
    log_gamma = jnp.maximum(log_gamma, _LEAST_LOG_GAMMA)
    return scale * unit * jnp.exp(0.5 * (jnp.log(df / 2) - log_gamma))


def student_reference(dim: int, df: float, scale: float) -> CustomPrior:
    """A multivariate Student distribution: scale * normal / sqrt(gamma(df/2) / (df/2)).

    The gamma variate is kept above exp(-75) (probability exp(-75 df/2): 7e-9 at df 1/2)
    so that |x|^2 does not overflow in float32.
    """
    log_norm = (
        math.lgamma(df / 2)
        - math.lgamma((df + dim) / 2)
        + 0.5 * dim * math.log(df * math.pi)
        + dim * math.log(scale)
    )

    params = (float(df), jnp.full(dim, float(scale)), log_norm)
    return prior(_student_log_density, _student_sample, like=jnp.zeros(dim), params=params)
