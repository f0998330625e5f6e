"""Spins without interaction, over counting measure.

Source: core table row T24.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.exact.solvable import Moments, Solvable, finite
from thermojax.priors import prior
from thermojax.system import system

__all__ = ["free_spins"]


def _zeeman_energy(theta, control, data):
    return -jnp.sum(jnp.asarray(data, theta.dtype) * theta)


def _count(theta, control, params):
    return jnp.zeros((), theta.dtype)


def _fair_spins(key, control, params):
    return jax.random.rademacher(key, params.shape, params.dtype)


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
        A solvable system with theta [n] of +-1 (floating point).

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

    counting = prior(
        _count,
        _fair_spins,
        like=jnp.zeros(n),
        log_mass=n * math.log(2),
        params=jnp.ones(n),
    )
    data = float(h) if h.ndim == 0 else jnp.asarray(h)
    return Solvable(system(_zeeman_energy, prior=counting, data=data), moments, n)
