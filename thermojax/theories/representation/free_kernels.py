"""Tabular equilibrium with a free decoder or classifier: alternating minimisation.

    m(z) = E_x e(z | x)
    c(y | z) = sum_x p(x, y) e(z | x) / m(z),     d(x | z) = p(x) e(z | x) / m(z)

after each Gibbs step for the encoder; F never rises. The problem is not convex (information
bottleneck), so the best of several starts is an upper bound on the minimum.

Source: standard (Blahut-Arimoto; Tishby, Pereira & Bialek 1999).
"""

from __future__ import annotations

import operator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.theories.representation.quantities import Multipliers
from thermojax.theories.representation.tabular import (
    TabularEquilibrium,
    check_joint,
    check_kernels,
    check_multipliers,
    default_tol,
    energy_terms,
    gibbs_encoder,
    label_posterior,
    log_weights,
    tabular_functionals,
)
from thermojax.typing import Array, ArrayLike, Key

__all__ = ["free_equilibrium"]

_SOFTEST, _HARDEST = 0.5, 3.0  # spread of the logits of the random encoders


class _Kernels(NamedTuple):
    marginal: Array  # [K]
    log_decoder: Array  # [n_x, K]
    log_classifier: Array  # [n_y, K]


def _conditional(joint, encoder, kernels, free):
    """Best marginal and free kernels for `encoder`; codes that are off keep theirs."""
    p_x = jnp.sum(joint, 1)
    marginal = p_x @ encoder
    on = marginal > 0
    share = encoder / jnp.where(on, marginal, 1)
    found = jnp.log(p_x[:, None] * share), jnp.log(joint.T @ share)
    decoder, classifier = (
        jnp.where(on, new, old) if is_free else old
        for new, old, is_free in zip(found, kernels[1:], free, strict=True)
    )
    return _Kernels(marginal, decoder, classifier)


def _gibbs(joint, multipliers, kernels):
    """Encoder, log Z, gap and energy terms of the Gibbs step at these kernels."""
    p_x, posterior = label_posterior(joint)
    terms = energy_terms(posterior, kernels.log_decoder, kernels.log_classifier)
    log_weight = log_weights(multipliers, terms)
    encoder, log_z = gibbs_encoder(log_weight, kernels.marginal)
    seen = p_x[:, None] > 0
    excess = jnp.where(seen, log_weight - log_z[:, None], -jnp.inf)
    gap = jnp.max(logsumexp(excess, axis=0, b=p_x[:, None]))
    return encoder, log_z, gap, terms


def _descend(joint, multipliers, encoder, kernels, free, tol, max_iter):
    """Kernels of the branch that starts at `encoder`, steps and the last change."""
    p_x = jnp.sum(joint, 1)[:, None]

    def body(carry):
        encoder, kernels, _, steps = carry
        kernels = _conditional(joint, encoder, kernels, free)
        following, _, gap, _ = _gibbs(joint, multipliers, kernels)
        change = jnp.max(p_x * jnp.abs(following - encoder))
        return following, kernels, jnp.maximum(change, gap), steps + 1

    def unfinished(carry):
        return (carry[2] > tol) & (carry[3] < max_iter)

    start = (encoder, kernels, jnp.full((), jnp.inf, joint.dtype), jnp.int32(0))
    _, kernels, change, steps = jax.lax.while_loop(unfinished, body, start)
    return kernels, change, steps


@partial(jax.jit, static_argnames=("free", "num_restarts", "tol", "max_iter"))
def _best(joint, multipliers, kernels, key, free, num_restarts, tol, max_iter):
    n_x, num_codes = joint.shape[0], kernels.marginal.shape[0]
    spread = jnp.linspace(_SOFTEST, _HARDEST, num_restarts, dtype=joint.dtype)
    noise = jax.random.normal(key, (num_restarts, n_x, num_codes), joint.dtype)
    starts = jax.nn.softmax(spread[:, None, None] * noise, axis=-1)
    found, change, steps = jax.vmap(
        lambda start: _descend(joint, multipliers, start, kernels, free, tol, max_iter)
    )(starts)
    p_x = jnp.sum(joint, 1)

    def summary(kernels):
        encoder, log_z, gap, terms = _gibbs(joint, multipliers, kernels)
        free_energy = -jnp.sum(jnp.where(p_x > 0, p_x * jnp.where(p_x > 0, log_z, 0), 0))
        return encoder, log_z, gap, terms, free_energy

    encoder, log_z, gap, terms, free_energy = jax.vmap(summary)(found)
    best = jnp.nanargmin(free_energy)
    marginal, log_decoder, log_classifier = (kernel[best] for kernel in found)
    return TabularEquilibrium(
        encoder=encoder[best],
        marginal=marginal,
        log_decoder=log_decoder,
        log_classifier=log_classifier,
        log_partition=log_z[best],
        free_energy=free_energy[best],
        functionals=tabular_functionals(p_x, terms[best], encoder[best], marginal),
        gap=gap[best],
        num_iter=steps[best],
        converged=change[best] <= tol,
    )


def free_equilibrium(
    joint: ArrayLike,
    multipliers: Multipliers,
    log_decoder: ArrayLike | None = None,
    log_classifier: ArrayLike | None = None,
    *,
    num_codes: int | None = None,
    key: Key | None = None,
    num_restarts: int = 8,
    tol: float | None = None,
    max_iter: int = 10_000,
) -> TabularEquilibrium:
    """Encoder, marginal and the kernels left free of least R + lam D + gam C.

    A free decoder has D = H(X | Z) and R + D = H(X): below lam = 1 it is the information
    bottleneck of weight gam / (1 - lam), above it makes z = x. Near a phase boundary the
    convergence is slow.

    Args:
        joint: [n_x, n_y] p(x, y).
        multipliers: lam and gam, scalars >= 0.
        log_decoder: [n_x, K] log d(x | z); None is free.
        log_classifier: [n_y, K] log c(y | z); None is free.
        num_codes: K, if both kernels are free; None is n_x then.
        key: typed key of the random encoders that the branches start at; None is key 0.
        num_restarts: branches; the one of least F is returned.
        tol: on the last change of p(x) e(z | x) and on the gap of the marginal, nats; None is
            1e-13 in float64 and 1e-5 in float32.
        max_iter: bound on the steps of each branch.

    Returns:
        A `TabularEquilibrium` whose F is an upper bound on the minimum; `gap` certifies the
        marginal at the returned kernels only.

    Raises:
        ValueError: both kernels are given, the joint is not normalised, K = 0, a multiplier
            is negative, or `num_codes` contradicts a given kernel.

    Source:
        Gao & Chaudhari 2020; the updates are standard.

    Example:
        >>> joint = jnp.array([[0.45, 0.05], [0.05, 0.45]])
        >>> found = free_equilibrium(joint, Multipliers(0.0, 2.5), num_codes=2)
        >>> round(float(found.functionals.rate), 3)
        0.612
    """
    given = [jnp.asarray(k) for k in (log_decoder, log_classifier) if k is not None]
    if len(given) == 2:
        raise ValueError("both kernels are given, so none is free; use tabular_equilibrium.")
    joint = jnp.asarray(joint)
    dtype = jnp.result_type(joint, *given, 1.0)
    joint = joint.astype(dtype)
    check_joint(joint)
    check_multipliers(multipliers)
    if num_restarts < 1:
        raise ValueError(f"num_restarts is {num_restarts}; give at least 1.")
    n_x, n_y = joint.shape
    known = given[0].shape[-1] if given and given[0].ndim else None
    num_codes = known or n_x if num_codes is None else operator.index(num_codes)
    if num_codes < 1 or known not in (None, num_codes):
        raise ValueError(
            f"num_codes is {num_codes}; give K >= 1, the number of columns of a given kernel."
        )
    decoder, classifier = (
        jnp.full((rows, num_codes), -jnp.log(rows), dtype)
        if kernel is None
        else jnp.asarray(kernel, dtype)
        for kernel, rows in ((log_decoder, n_x), (log_classifier, n_y))
    )
    check_kernels(joint, decoder, classifier)
    kernels = _Kernels(jnp.full(num_codes, 1 / num_codes, dtype), decoder, classifier)
    controls = Multipliers(*(jnp.asarray(value, dtype) for value in multipliers))
    key = jax.random.key(0) if key is None else key
    tol = default_tol(dtype) if tol is None else tol
    free = (log_decoder is None, log_classifier is None)
    return _best(joint, controls, kernels, key, free, num_restarts, tol, max_iter)
