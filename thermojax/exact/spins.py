"""Spins over counting measure: free ones, and all coupled alike (Curie-Weiss).

Source: core table rows T24 and T19.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from thermojax.binary import counting_prior
from thermojax.exact.quadrature import combine
from thermojax.exact.solvable import Moments, Solvable, finite
from thermojax.system import system

__all__ = ["curie_weiss", "free_spins"]


def _zeeman_energy(theta, control, data):
    return -jnp.sum(jnp.asarray(data, theta.dtype) * theta)


def free_spins(n: int = 10, field=0.5) -> Solvable:
    """Spins +-1 in a field, without interaction.

        U = -sum_i h_i s_i,    log Z = sum_i log(2 cosh beta h_i)
        <U> = -sum_i h_i tanh(beta h_i)

    The base measure counts configurations: log m = 0, log mass n log 2, and its sampler
    draws fair spins. S is then the Shannon entropy, n log 2 at beta = 0.

    Args:
        n: number of spins, at least 1.
        field: h, scalar or [n].

    Returns:
        A solvable system with theta [n] of +-1 (floating point), all of them one block.

    Raises:
        ValueError: n < 1, or a field of another shape.

    Source: core table row T24.

    Example:
        >>> round(float(free_spins(3, 1.0).entropy(0.0)), 10)  # 3 log 2
        2.0794415417
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    h = finite("field", field)
    if h.shape not in ((), (n,)):
        raise ValueError(f"field must have shape () or ({n},), got {h.shape}")
    full = np.broadcast_to(h, (n,))

    def moments(beta: float) -> Moments:
        log_z = float(np.sum(np.logaddexp(beta * full, -beta * full)))
        decay = np.exp(-2 * beta * np.abs(full))  # 1/cosh^2 x = 4 e^{-2x} / (1 + e^{-2x})^2
        variance = float(np.sum(full**2 * 4 * decay / (1 + decay) ** 2))
        return Moments(log_z, -float(full @ np.tanh(beta * full)), variance)

    counting = counting_prior(jnp.zeros(n), (-1, 1))
    data = float(h) if h.ndim == 0 else jnp.asarray(h)
    target = system(_zeeman_energy, prior=counting, data=data)
    return Solvable(target, moments, n, blocks=(np.ones(n, bool),))


def _curie_weiss_energy(theta, control, data):
    coupling, field = (jnp.asarray(x, theta.dtype) for x in data)
    total = jnp.sum(theta)
    return -coupling * total**2 / (2 * theta.size) - field * total


def curie_weiss(n: int = 10, coupling: float = 1.0, field: float = 0.1) -> Solvable:
    """Spins +-1 that all interact alike: the mean-field magnet.

        U = -J M^2/(2n) - h M,   M = sum_i s_i,    Z = sum_k binom(n, k) exp(-beta U(2k - n))

    M^2 holds the constant sum_i s_i^2 = n: J = 1 orders below T = 1 as n grows.

    Args:
        n: number of spins, at least 1.
        coupling: J.
        field: h.

    Returns:
        A solvable system with theta [n] of +-1 (floating point) over counting measure.
        Every spin interacts with every other, so that it has no blocks.

    Raises:
        ValueError: n < 1.

    Source: core table row T19.

    Example:
        >>> round(float(curie_weiss().log_partition(1.0)), 10)
        8.0431508856
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    j, h = float(finite("coupling", coupling)), float(finite("field", field))
    log_factorial = np.cumsum(np.log(np.maximum(np.arange(n + 1), 1.0)))
    log_count = log_factorial[-1] - log_factorial - log_factorial[::-1]
    total = 2.0 * np.arange(n + 1) - n
    energy = -j * total**2 / (2 * n) - h * total

    def moments(beta: float) -> Moments:
        return combine(log_count - beta * energy, energy)

    counting = counting_prior(jnp.zeros(n), (-1, 1))
    return Solvable(system(_curie_weiss_energy, prior=counting, data=(j, h)), moments, n)
