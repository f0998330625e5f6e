"""Figures of merit: what part of a cost became information, what part of it is relevant.

    eta_L = (I_N - I_0) / sum Sigma_X                       <= 1 without feedback
    eta_M = M_N / (Delta S(Theta) - beta_theta <Q_Theta>)   in [0, 1] without feedback
    r     = L / M                                           in [0, 1] for fresh samples

Source: our definitions after Goldt & Seifert 2017 (eta_M is theirs), following the
programme of Parsi 2024; specification of the theory, section 2.7.
"""

from __future__ import annotations

import jax.numpy as jnp

from thermojax.typing import Array, ArrayLike

__all__ = ["learning_efficiency", "memory_efficiency", "relevance"]


def _ratio(part: ArrayLike, whole: ArrayLike) -> Array:
    """part / whole; nan only for 0/0, and 0 for anything over an infinite whole."""
    dtype = jnp.result_type(part, whole)
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.zeros(()).dtype
    p, w = jnp.broadcast_arrays(jnp.asarray(part, dtype), jnp.asarray(whole, dtype))
    unbounded, nothing = jnp.isinf(w), w == 0
    plain = jnp.where(unbounded | nothing, 0.0, p) / jnp.where(unbounded | nothing, 1.0, w)
    over_nothing = jnp.where(p == 0, jnp.nan, jnp.where(p > 0, jnp.inf, -jnp.inf))
    over_nothing = jnp.where(jnp.isnan(p), jnp.nan, over_nothing)
    return jnp.where(nothing, over_nothing, plain)


def learning_efficiency(info_gain: ArrayLike, ep_x: ArrayLike) -> Array:
    """Part of the interval entropy production that became sample-parameter information.

        eta_L = (I_N - I_0) / sum_n Sigma_X,n

    At most 1 if the cost is positive and there is no feedback; 1 is quasi-static learning.

    Args:
        info_gain: gain of `subsystem_info` over an interval, nats.
        ep_x: `ep_x` summed over that interval, nats; shapes broadcast.

    Returns:
        Ratio, elementwise; nan only for 0/0, 0 over an infinite cost.

    Source: our definition, after Goldt & Seifert 2017; specification, section 2.7.

    Example:
        >>> float(learning_efficiency(0.25, 0.5))
        0.5
    """
    return _ratio(info_gain, ep_x)


def memory_efficiency(m_info: ArrayLike, ep_theta: ArrayLike) -> Array:
    """Part of the entropy production of the parameters that is memory of the data.

        eta_M = M_N / (Delta S(Theta) - beta_theta <Q_Theta>)

    In [0, 1] without feedback, cumulated from a start that knows nothing of the data.

    Args:
        m_info: `m_info` at the end, nats.
        ep_theta: `ep_theta` summed from the start, nats; shapes broadcast.

    Returns:
        Ratio, elementwise; nan only for 0/0, 0 over an infinite cost (a deterministic
        optimiser pays infinitely even for infinite memory).

    Source: Goldt & Seifert 2017 in form; specification, section 2.7.

    Example:
        >>> float(memory_efficiency(jnp.inf, jnp.inf))
        0.0
    """
    return _ratio(m_info, ep_theta)


def relevance(l_info: ArrayLike, m_info: ArrayLike) -> Array:
    """Part of the memory that reaches the output.

        r = L / M

    In [0, 1] for fresh samples. A slow sampler may remember what the parameters forgot;
    r then exceeds 1. One sample shows little: compare with L of k samples first.

    Args:
        l_info: `l_info`, nats.
        m_info: `m_info`, nats; shapes broadcast.

    Returns:
        Ratio, elementwise; nan only for 0/0, 0 for infinite memory.

    Source: our definition, following the paper's programme; specification, section 2.7.

    Example:
        >>> float(relevance(0.1, 0.4))
        0.25
    """
    return _ratio(l_info, m_info)
