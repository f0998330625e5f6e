"""Gibbs form of a tabular representation: energies, weights, encoder and functionals.

    e*(z | x) = m(z) w[x, z] / Z_x
    log w[x, z] = lam log d(x | z) + gam sum_y p(y | x) log c(y | z)

A log probability of -inf is allowed throughout, and its derivatives are not NaN.

Source: Gao & Chaudhari 2020.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.typing import Array

__all__ = [
    "energy_terms",
    "gibbs_encoder",
    "label_posterior",
    "log_weights",
    "tabular_functionals",
]


def _log(probability: Array) -> Array:
    """log p, -inf at 0 with derivative 0 there."""
    possible = probability > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, probability, 1.0)), -jnp.inf)


def label_posterior(joint: Array) -> tuple[Array, Array]:
    """p(x) [n_x] and p(y | x) [n_x, n_y]; a row of 0 where p(x) = 0.

    Example:
        >>> p_x, given = label_posterior(jnp.array([[0.25, 0.75], [0.0, 0.0]]))
        >>> p_x.tolist(), given.tolist()
        ([1.0, 0.0], [[0.25, 0.75], [0.0, 0.0]])
    """
    p_x = jnp.sum(joint, axis=1)
    return p_x, joint / jnp.where(p_x > 0, p_x, 1.0)[:, None]


def energy_terms(posterior: Array, log_decoder: Array, log_classifier: Array) -> Array:
    """log d(x | z) and sum_y p(y | x) log c(y | z), minus the energies of code z at x.

    Args:
        posterior: [n_x, n_y] p(y | x).
        log_decoder: [n_x, K].
        log_classifier: [n_y, K]; an impossible label of probability 0 costs nothing.

    Returns:
        [2, n_x, K].

    Example:
        >>> labels, log_c = jnp.array([[1.0, 0.0]]), jnp.array([[-0.5], [-jnp.inf]])
        >>> energy_terms(labels, jnp.zeros((1, 1)), log_c)[1].tolist()
        [[-0.5]]
    """
    impossible = jnp.isneginf(log_classifier)
    expected = posterior @ jnp.where(impossible, 0.0, log_classifier)
    forbidden = (posterior > 0).astype(posterior.dtype) @ impossible.astype(posterior.dtype)
    return jnp.stack([log_decoder, jnp.where(forbidden > 0, -jnp.inf, expected)])


def log_weights(multipliers: Multipliers, terms: Array) -> Array:
    """lam log d(x | z) + gam sum_y p(y | x) log c(y | z), [n_x, K], with 0 * inf = 0.

    A plain product and its derivatives are NaN where a log probability is -inf.

    Args:
        multipliers: lam and gam.
        terms: [2, n_x, K] of `energy_terms`.

    Example:
        >>> terms = jnp.array([[[-jnp.inf]], [[-2.0]]])
        >>> log_weights(Multipliers(0.0, 1.5), terms).tolist()
        [[-3.0]]
    """
    controls = jnp.stack([jnp.asarray(m, terms.dtype) for m in multipliers])[:, None, None]
    infinite = jnp.isneginf(terms)
    forbidden = jnp.any(infinite & (controls > 0), axis=0)
    finite = jnp.sum(controls * jnp.where(infinite, 0.0, terms), axis=0)
    return jnp.where(forbidden, -jnp.inf, finite)


def gibbs_encoder(log_weight: Array, marginal: Array) -> tuple[Array, Array]:
    """e*(z | x) = m(z) w[x, z] / Z_x and log Z_x.

    Args:
        log_weight: [n_x, K].
        marginal: [K].

    Returns:
        encoder [n_x, K], whose rows sum to 1, and log Z [n_x]; an input that no code can make
        has log Z = -inf and the encoder m.

    Example:
        >>> gibbs_encoder(jnp.zeros((1, 2)), jnp.array([0.25, 0.75]))[0].tolist()
        [[0.25, 0.75]]
    """
    joint = _log(marginal) + log_weight
    log_z = jax.nn.logsumexp(joint, axis=1)
    hopeless = jnp.isneginf(log_z)[:, None]
    encoder = jnp.exp(joint - jnp.where(hopeless, 0.0, log_z[:, None]))
    return jnp.where(hopeless, marginal, encoder), log_z


def tabular_functionals(
    p_x: Array, terms: Array, encoder: Array, marginal: Array
) -> Functionals:
    """R = E_x KL(e || m), D = -E_x E_e log d and C = -E_x E_e sum_y p(y | x) log c.

    Args:
        p_x: [n_x].
        terms: [2, n_x, K] of `energy_terms`.
        encoder: [n_x, K], any encoder.
        marginal: [K], any marginal.

    Returns:
        Rate, distortion and classification loss, nats per example; inf where the encoder uses
        a code that cannot make the input.

    Source:
        Gao & Chaudhari 2020.

    Example:
        >>> p_x, code = jnp.full(2, 0.5), jnp.eye(2)
        >>> found = tabular_functionals(p_x, jnp.log(jnp.stack([code, code])), code, p_x)
        >>> [bool(jnp.allclose(*pair)) for pair in zip(found, (jnp.log(2.0), 0.0, 0.0))]
        [True, True, True]
    """
    weight = p_x[:, None] * encoder
    used = weight > 0
    ratio = jnp.log(jnp.where(used, encoder, 1.0)) - jnp.where(used, _log(marginal), 0.0)
    rate = jnp.sum(weight * ratio)
    losses = -jnp.sum(jnp.where(used, weight * jnp.where(used, terms, 0.0), 0.0), axis=(1, 2))
    return Functionals(rate, losses[0], losses[1])
