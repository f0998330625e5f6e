"""Minimum over the marginal as a differentiable function of weights and inputs.

    m(tau) = m* + H^+ [g(m*, tau) - g(m*, tau*)]
    F(tau) = -E_x log sum_z m_z(tau) w[x, z](tau)

The minimiser m* is found once and held; one Newton step of fixed curvature carries its
first-order response to every argument. F is stationary in m, so that an error of second order
in m is one of fourth order in F (Wigner's 2n + 1 rule): derivatives up to the third are exact,
in every mode, and nothing is differentiated through the solver.

Source: derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.theories.representation.marginal import curvature_inverse, score
from thermojax.typing import Array

__all__ = ["Response", "free_energy_of", "respond", "response_of"]


class Response(NamedTuple):
    """A minimiser and how it moves, both held fixed under differentiation.

    Attributes:
        marginal: [K] at the point about which derivatives are taken.
        inverse: [K, K] inverse curvature on its face.
    """

    marginal: Array
    inverse: Array


def response_of(marginal: Array, log_weight: Array, p_x: Array) -> Response:
    """Curvature of the face of a minimiser, without derivatives; shapes of `score`."""
    marginal, log_weight, p_x = jax.lax.stop_gradient((marginal, log_weight, p_x))
    _, ratio = score(log_weight, p_x, marginal)
    return Response(marginal, curvature_inverse(ratio, p_x, marginal > 0))


def _weights(support: Array, log_weight: Array) -> tuple[Array, Array]:
    """w of the codes that are on, divided by the largest of each row, and log of that."""
    usable = support & ~jnp.isneginf(log_weight)
    top = jax.lax.stop_gradient(jnp.max(jnp.where(usable, log_weight, -jnp.inf), axis=1))
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    exponent = jnp.where(usable, log_weight - top[:, None], 0.0)
    return jnp.where(usable, jnp.exp(exponent), 0.0), top


def _nonzero(partition: Array) -> Array:
    """Z, or 1 for an input of probability 0 that no code can make."""
    return jnp.where(partition > 0, partition, 1.0)


def respond(response: Response, log_weight: Array, p_x: Array) -> Array:
    """The minimiser [K] with its first derivative in the weights and in p(x).

        m = m* + H^+ [g(m*) - stop(g(m*))]

    F is stationary in m, so that its derivatives up to the third are exact with this m
    (Wigner's 2n + 1 rule), in every mode.

    Source:
        Derived here.
    """
    weight, _ = _weights(response.marginal > 0, log_weight)
    g = (p_x / _nonzero(weight @ response.marginal)) @ weight
    return response.marginal + response.inverse @ (g - jax.lax.stop_gradient(g))


def free_energy_of(marginal: Array, log_weight: Array, p_x: Array) -> Array:
    """-sum_x p(x) log sum_z m_z w[x, z], with finite derivatives also where some m_z = 0."""
    weight, top = _weights(marginal > 0, log_weight)
    partition = weight @ marginal
    lost = (p_x > 0) & ~(partition > 0)
    return -p_x @ jnp.where(lost, -jnp.inf, jnp.log(_nonzero(partition)) + top)
