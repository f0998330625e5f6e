"""Parameters as a heat reservoir of the sample: naive, and of finite heat capacity.

    naive              Delta S = -sum beta Q_X                                 (C = inf)
    finite capacity    T' = T - Q_X / C,   Delta S = C log1p(-sum Q_X / (C T_0))

Delta S of a finite reservoir never exceeds the naive one and falls below it by
(beta Q)^2 / (2 C): many parameters make an ideal reservoir at rate 1/d (C = d/2 for a
quadratic loss). That over-parameterised models are reservoirs of high capacity is the
claim of Parsi 2024; these formulas are our definition, following the paper's programme.
A diagnostic only: with finite C no integral fluctuation theorem holds, unless the sampler
was built with this capacity. The resolved reservoir is `ep_total_*` of the ledgers.

Source: specification of the theory, section 2.3.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["reservoir_entropy_change", "reservoir_temperature"]


def _checked(
    heat: ArrayLike, temperature: ArrayLike, capacity: ArrayLike
) -> tuple[Array, Array, Array]:
    q = jnp.asarray(heat)
    q = q if jnp.issubdtype(q.dtype, jnp.floating) else q.astype(float)
    if q.ndim != 1:
        raise ValueError(f"heat has shape {q.shape}: give Q_X of every step, (N,)")
    t, c = jnp.asarray(temperature, q.dtype), jnp.asarray(capacity, q.dtype)
    for name, value, given in (("temperature", t, temperature), ("capacity", c, capacity)):
        if value.ndim:
            raise ValueError(f"{name} has shape {value.shape}: give a scalar")
        if is_concrete(value) and not value > 0:
            raise ValueError(f"{name}={given} must be positive")
    if is_concrete((q, t, c)) and q.size:
        most, start = float(jnp.max(jnp.cumsum(q))), float(t)
        left = start - most / float(c)
        if not left > 0:
            raise ValueError(
                f"the reservoir cools to temperature {left:.6g}: raise the capacity above "
                f"{most / start:.6g}"
            )
    return q, t, c


def reservoir_entropy_change(
    heat: ArrayLike, temperature: ArrayLike, capacity: ArrayLike = math.inf
) -> Array:
    """Entropy gained by a reservoir that gave the heats `heat` to X.

        Delta S = C log1p(-sum Q / (C T_0)),     -sum Q / T_0 for C = inf

    Args:
        heat: [N] Q_X of every step, absorbed by X; energy.
        temperature: T_0 of the reservoir before the first step, positive.
        capacity: C, positive, nats (energy per temperature, k_B = 1).

    Returns:
        Delta S, nats, scalar; the order of the heats does not matter. nan under jit for a
        reservoir cooled below zero. Differentiable in all three.

    Raises:
        ValueError: wrong ranks, or (outside jit) a temperature or capacity that is not
            positive, or heats that cool the reservoir to zero.

    Source: our definition, following the paper's programme; specification, section 2.3.

    Example:
        >>> round(float(reservoir_entropy_change([-0.5, -0.3, 0.2], 1.0, 10.0)), 6)
        0.582689
    """
    q, t, c = _checked(heat, temperature, capacity)
    ideal = jnp.isinf(c)
    finite = jnp.where(ideal, 1.0, c)
    given = -jnp.sum(q) / t
    safe = jnp.where(ideal, 0.0, given)
    return jnp.where(ideal, given, finite * jnp.log1p(safe / finite))


def reservoir_temperature(
    heat: ArrayLike, temperature: ArrayLike, capacity: ArrayLike = math.inf
) -> Array:
    """Temperatures of a reservoir after each step.

        T_{n+1} = T_n - Q_n / C

    Args:
        heat: [N] Q_X of every step, absorbed by X; energy.
        temperature: T_0, positive.
        capacity: C, positive, nats.

    Returns:
        [N] T_1, ..., T_N.

    Raises:
        ValueError: as for `reservoir_entropy_change`.

    Source: our definition, following the paper's programme; specification, section 2.3.

    Example:
        >>> [round(float(t), 2) for t in reservoir_temperature([-0.5, -0.3, 0.2], 1.0, 10.0)]
        [1.05, 1.08, 1.06]
    """
    q, t, c = _checked(heat, temperature, capacity)
    return t - jnp.cumsum(q) / c
