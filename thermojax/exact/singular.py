"""Singular models: energies whose minima form crossing surfaces.

Their partition functions fall off as t^{-lambda} (log t)^{m-1} with a learning coefficient
lambda below d/2, and slowly enough that finite-t exact numbers are needed to test an
estimator of lambda. All have a standard normal prior (times `prior_scale`).

Source: core table rows T20, T21, T22 and section 3.7; Watanabe (2009); for two-layer
linear networks Aoyagi and Watanabe (2005).
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from thermojax.exact.least_squares import gaussian_layer
from thermojax.exact.quadrature import combine, integrate
from thermojax.exact.solvable import Moments, Solvable, finite, positive
from thermojax.priors import gaussian_prior
from thermojax.system import system

__all__ = ["normal_crossing", "rank_one", "two_layer_linear"]

_LOG_2PI = math.log(2 * math.pi)
_STEP = 1 / 32  # in log U; the integrands are analytic in a strip wider than 1
_LEFT = (-90.0, 8.0)  # log of a squared scale: below, the prior mass is under exp(-45)


@dataclasses.dataclass(frozen=True)
class _CrossingEnergy:
    """prod_i |w_i|^{2 k_i} with static k."""

    exponents: tuple[float, ...]

    def __call__(self, theta, control, data):
        if all(k % 1 == 0 for k in self.exponents):
            factors = [theta[i] ** int(2 * k) for i, k in enumerate(self.exponents)]
        else:
            factors = [jnp.abs(theta[i]) ** (2 * k) for i, k in enumerate(self.exponents)]
        return jnp.prod(jnp.stack(factors))


def _log_factor(k: float) -> tuple[float, np.ndarray]:
    """Weights on a grid of l = 2 k log|w| for w ~ N(0, 1): (first l, weights)."""
    grid = np.arange(math.floor(-90 * k / _STEP), math.ceil(5 * k / _STEP)) * _STEP
    log_w = grid / (2 * k)
    log_density = math.log(2) - 0.5 * _LOG_2PI - math.log(2 * k) + log_w
    return grid[0], np.exp(log_density - 0.5 * np.exp(2 * log_w)) * _STEP


def normal_crossing(exponents=(1, 1), *, prior_scale: float = 1.0) -> Solvable:
    """A normal crossing of coordinate planes, the local form of every singularity.

        U = prod_i |w_i|^{2 k_i},    w_i ~ N(0, prior_scale^2)
        lambda = min_i 1 / (2 k_i),  m = number of i that attain it
        Z = exp(1/(8 t)) K_0(1/(8 t)) / sqrt(4 pi t)          for U = (a b)^2, t = beta

    log U is a sum of independent variables; its law is their convolution on a grid.

    Args:
        exponents: k_i > 0, one per coordinate.
        prior_scale: standard deviation of the prior.

    Returns:
        A solvable system with theta [d].

    Raises:
        ValueError: an exponent or prior_scale not positive.

    Source: core table row T20, section 3.7.

    Example:
        >>> round(float(normal_crossing().log_partition(10.0)), 10)
        -0.9006333742
    """
    k = tuple(np.atleast_1d(positive("exponents", exponents)).tolist())
    scale = float(positive("prior_scale", prior_scale))
    start, law = 0.0, np.ones(1)
    for exponent in k:
        first, factor = _log_factor(exponent)
        start, law = start + first, np.convolve(law, factor)
    log_energy = start + _STEP * np.arange(len(law)) + 2 * sum(k) * math.log(scale)
    keep = law > 0
    energy, log_law = np.exp(log_energy[keep]), np.log(law[keep])

    def moments(beta: float) -> Moments:
        return combine(log_law - beta * energy, energy)

    prior = gaussian_prior(scale, like=jnp.zeros(len(k)))
    return Solvable(system(_CrossingEnergy(k), prior=prior), moments, len(k))


def _two_layer_energy(theta, control, data):
    product = jnp.sum(theta["B"][:, :, None] * theta["A"][None, :, :], axis=1)
    return jnp.sum(product**2)


def _log_gamma_density(log_x: np.ndarray, shape: float) -> np.ndarray:
    """Log density of log x for x ~ chi-square with 2 * shape degrees of freedom."""
    return shape * (log_x - math.log(2)) - np.exp(log_x) / 2 - math.lgamma(shape)


def _log_wishart(small: np.ndarray, gap: np.ndarray, freedom: int) -> np.ndarray:
    """Log density of (log l_2, log(l_1 - l_2)), l_1 > l_2 of a real 2 x 2 Wishart matrix."""
    low, apart = np.exp(small), np.exp(gap)
    log_norm = 0.5 * math.log(math.pi) - freedom * math.log(2)
    log_norm -= math.lgamma(freedom / 2) + math.lgamma((freedom - 1) / 2)
    log_product = small + np.log(low + apart)
    density = 0.5 * (freedom - 3) * log_product + gap - low - apart / 2
    return log_norm + density + small + gap


def _wishart_integrand(t: float, rank: int, freedom: int, copies: int):
    """|B A|^2 given A: `copies` rows of B, each a quadratic form in A A^T."""

    def integrand(*axes):
        if rank == 1:
            log_prior = _log_gamma_density(axes[0], freedom / 2)
            eigenvalues = [np.exp(axes[0])]
        else:
            small, gap = axes
            log_prior = _log_wishart(small, gap, freedom)
            eigenvalues = [np.exp(small), np.exp(small) + np.exp(gap)]
        log_z, mean, variance = gaussian_layer(2 * t, 1.0, 0.0, eigenvalues, [0.0] * rank)
        return log_prior + copies * log_z, 2 * copies * mean, 4 * copies * variance

    return integrand


def two_layer_linear(widths=(2, 1, 2), *, prior_scale: float = 1.0) -> Solvable:
    """A two-layer linear network that has to learn the zero map.

        U = |B A|^2,    A [H, M], B [N, H] ~ N(0, prior_scale^2),    widths = (M, H, N)
        Z(t) = E_A det(1 + 2 t A A^T)^{-N/2}

    The expectation runs over the nonzero eigenvalues of a Wishart matrix, of which there
    are min(H, M), or min(H, N) after exchanging A and B.

    Args:
        widths: (M, H, N): inputs, hidden units, outputs. One of min(H, M), min(H, N) must
            be at most 2.
        prior_scale: standard deviation of every weight.

    Returns:
        A solvable system with theta {"A": [H, M], "B": [N, H]}.

    Raises:
        ValueError: widths that are no three positive integers, or beyond quadrature.

    Source: core table row T21; learning coefficients in section 3.7.

    Example:
        >>> round(float(two_layer_linear((2, 1, 2)).log_partition(100.0)), 10)
        -4.2994690372
    """
    sizes = tuple(int(w) for w in widths)
    if len(sizes) != 3 or sizes != tuple(widths) or min(sizes) < 1:
        raise ValueError(f"widths must be three positive integers (M, H, N), got {widths}")
    inputs, hidden, outputs = sizes
    outer, copies = sorted((inputs, outputs))
    rank, freedom = sorted((hidden, outer))
    if rank > 2:
        raise ValueError(
            f"quadrature covers a hidden (or outer) width of at most 2, got {sizes}; "
            "make one of the three widths 1 or 2"
        )
    scale = float(positive("prior_scale", prior_scale))

    def moments(beta: float) -> Moments:
        integrand = _wishart_integrand(beta * scale**4, rank, freedom, copies)
        return integrate(integrand, [_LEFT] * rank).scaled(scale**4)

    like = {"A": jnp.zeros((hidden, inputs)), "B": jnp.zeros((outputs, hidden))}
    target = system(_two_layer_energy, prior=gaussian_prior(scale, like=like))
    return Solvable(target, moments, hidden * (inputs + outputs))


def _rank_one_energy(theta, control, data):
    a, b = theta["a"], theta["b"]
    target = jnp.zeros((b.size, a.size), a.dtype).at[0, 0].set(data)
    return jnp.sum((b[:, None] * a - target) ** 2)


def _rank_one_integrand(t: float, target: float, inputs: int, outputs: int):
    """|b a^T - target e_1 e_1^T|^2 given log |a|^2 and the angle of a with +-e_1."""

    def integrand(log_square, angle=None):
        length = np.exp(log_square)
        log_prior = _log_gamma_density(log_square, inputs / 2)
        overlap = length
        if angle is not None:
            overlap = length * np.cos(angle) ** 2
            log_norm = math.log(2) + math.lgamma(inputs / 2) - math.lgamma((inputs - 1) / 2)
            log_prior = log_prior + log_norm - 0.5 * math.log(math.pi)
            if inputs > 2:
                log_prior = log_prior + (inputs - 2) * np.log(np.sin(angle) + 1e-300)
        values = [length] * outputs
        pulls = [target**2 * overlap] + [0.0] * (outputs - 1)
        log_z, mean, variance = gaussian_layer(2 * t, 1.0, target**2, values, pulls)
        return log_prior + log_z, 2 * mean, 4 * variance

    return integrand


def rank_one(dims=(2, 2), *, strength: float = 1.0, prior_scale: float = 1.0) -> Solvable:
    """A two-layer linear network of hidden width one with a rank-one target.

        U = |b a^T - strength e_1 e_1^T|^2,    a [M], b [N] ~ N(0, prior_scale^2)

    Given a the energy is quadratic in b, and depends on a through its length and its angle
    with e_1, which are left to quadrature. With a target, lambda = (M + N - 1) / 2 and m = 1.

    Args:
        dims: (M, N).
        strength: the singular value of the target.
        prior_scale: standard deviation of every weight.

    Returns:
        A solvable system with theta {"a": [M], "b": [N]}.

    Raises:
        ValueError: dims that are no two positive integers, prior_scale not positive.

    Source: core table row T22.

    Example:
        >>> round(float(rank_one().log_partition(100.0)), 10)
        -9.0296832908
    """
    sizes = tuple(int(w) for w in dims)
    if len(sizes) != 2 or sizes != tuple(dims) or min(sizes) < 1:
        raise ValueError(f"dims must be two positive integers (M, N), got {dims}")
    inputs, outputs = sizes
    strength = float(finite("strength", strength))
    scale = float(positive("prior_scale", prior_scale))
    target = strength / scale**2

    def unit_moments(t: float) -> Moments:
        integrand = _rank_one_integrand(t, target, inputs, outputs)
        box = [_LEFT] if inputs == 1 else [_LEFT, (0.0, math.pi / 2)]
        return integrate(integrand, box)

    def moments(beta: float) -> Moments:
        return unit_moments(beta * scale**4).scaled(scale**4)

    like = {"a": jnp.zeros(inputs), "b": jnp.zeros(outputs)}
    prior = gaussian_prior(scale, like=like)
    return Solvable(
        system(_rank_one_energy, prior=prior, data=strength), moments, inputs + outputs
    )
