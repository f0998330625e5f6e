"""Equilibrium of a tabular representation: encoder and marginal of least free energy.

    F(lam, gam) = min R + lam D + gam C
    e*(z | x) = m(z) d(x | z)^lam prod_y c(y | z)^(gam p(y | x)) / Z_x,     F = -E_x log Z_x

With the decoder d and the classifier c given the problem is convex in (e, m) and solved to
rounding (`marginal`); where one of them is free it is not (`free_kernels`).

Source: Gao & Chaudhari 2020; the convex problem is textbook (Blahut 1972; Arimoto 1972).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.theories.representation.envelope import (
    free_energy_of,
    respond,
    response_of,
)
from thermojax.theories.representation.gibbs import (
    energy_terms,
    gibbs_encoder,
    label_posterior,
    log_weights,
    tabular_functionals,
)
from thermojax.theories.representation.marginal import optimal_marginal
from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.typing import Array, ArrayLike, Key, is_concrete

__all__ = [
    "TabularEquilibrium",
    "as_tables",
    "check_joint",
    "check_kernels",
    "check_multipliers",
    "check_reachable",
    "default_tol",
    "tabular_equilibrium",
]


class TabularEquilibrium(NamedTuple):
    """Equilibrium at one pair of multipliers.

    Attributes:
        encoder: [n_x, K] e*(z | x), rows sum to 1.
        marginal: [K] m(z), exactly 0 for codes that are off.
        log_decoder: [n_x, K] log d(x | z).
        log_classifier: [n_y, K] log c(y | z).
        log_partition: [n_x] log Z_x.
        free_energy: F = -E_x log Z_x, nats per example.
        functionals: R, D and C, nats per example.
        gap: bound on how far F is above the minimum over m (and e) at these kernels, nats;
            rounding may make it slightly negative.
        num_iter: steps of the solver.
        converged: whether the gap met the tolerance.
    """

    encoder: Array
    marginal: Array
    log_decoder: Array
    log_classifier: Array
    log_partition: Array
    free_energy: Array
    functionals: Functionals
    gap: Array
    num_iter: Array
    converged: Array


def check_joint(joint: Array) -> None:
    """Refuse what is no table of probabilities.

    Raises:
        ValueError: wrong shape, a negative or non-finite entry, or a sum other than 1.
    """
    if joint.ndim != 2 or 0 in joint.shape:
        raise ValueError(f"joint has shape {joint.shape}; give p(x, y) as [n_x, n_y].")
    if not is_concrete(joint):
        return
    if not bool(jnp.all((joint >= 0) & (joint < jnp.inf))):
        raise ValueError(
            f"joint has an entry of {float(jnp.min(joint))}; probabilities are finite and >= 0."
        )
    total = float(jnp.sum(joint))
    if abs(total - 1) > 1e-5:
        raise ValueError(f"joint sums to {total}; divide it by its sum.")


def check_multipliers(multipliers: Multipliers) -> None:
    """Refuse multipliers that are not two scalars >= 0.

    Raises:
        ValueError: lam or gam is an array, negative or not finite.
    """
    for name, value in zip(("lam", "gam"), multipliers, strict=True):
        if jnp.ndim(value) != 0:
            raise ValueError(f"{name} has shape {jnp.shape(value)}; use jax.vmap for a grid.")
        if is_concrete(value) and not 0 <= float(value) < float("inf"):
            raise ValueError(f"{name} is {float(value)}; a multiplier is finite and >= 0.")


def check_kernels(joint: Array, log_decoder: Array, log_classifier: Array) -> None:
    """Refuse given kernels that do not fit the joint or each other.

    Raises:
        ValueError: wrong shape, no code at all, or NaN or +inf in a log probability.
    """
    for name, kernel, rows in (
        ("log_decoder", log_decoder, joint.shape[0]),
        ("log_classifier", log_classifier, joint.shape[1]),
    ):
        if kernel.ndim != 2 or kernel.shape[0] != rows:
            raise ValueError(f"{name} has shape {kernel.shape}; give [{rows}, K].")
        if kernel.shape[1] == 0:
            raise ValueError(f"{name} has K = 0 codes; give at least one column.")
        if is_concrete(kernel) and not bool(jnp.all(kernel < jnp.inf)):
            raise ValueError(f"{name} has an entry {float(jnp.max(kernel))}; give logarithms.")
    if log_decoder.shape[1] != log_classifier.shape[1]:
        raise ValueError(
            f"log_decoder has {log_decoder.shape[1]} codes and log_classifier "
            f"{log_classifier.shape[1]}; give both the same K."
        )


def default_tol(dtype: jnp.dtype) -> float:
    """Gap to reach where none is asked for: 1e-13 nats in float64, 1e-5 in float32."""
    return 1e-13 if jnp.finfo(dtype).eps < 1e-10 else 1e-5


def tabular_equilibrium(
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
    """Encoder and marginal (and kernels left free) of least R + lam D + gam C.

        e*(z | x) = m(z) exp(lam log d(x | z) + gam sum_y p(y | x) log c(y | z)) / Z_x

    With both kernels given the minimum is global and `gap` certifies it. With a free kernel
    it is the best of several local minima, an upper bound on F, and the gap is that of the
    marginal alone. At lam = gam = 0 any marginal is optimal; the uniform one is returned.

    With both kernels given the first derivatives of every field but gap are exact, in the
    multipliers, the joint and the kernels; use `tabular_free_energy` where only F is needed.

    Args:
        joint: [n_x, n_y] p(x, y); inputs and labels of probability 0 are allowed.
        multipliers: lam and gam, scalars >= 0.
        log_decoder: [n_x, K] log d(x | z), a log density if x is continuous; None is free.
        log_classifier: [n_y, K] log c(y | z); None is free.
        num_codes: K, only where both kernels are free.
        key: typed key of the random starts, only for free kernels.
        num_restarts: random starts, only for free kernels.
        tol: gap to reach, nats; None is 1e-13 in float64 and 1e-5 in float32.
        max_iter: bound on solver steps.

    Raises:
        ValueError: joint not normalised, kernels of wrong shape, K = 0, negative multipliers.

    Source:
        Gao & Chaudhari 2020; the convex problem is textbook (Blahut 1972; Arimoto 1972).

    Example:
        >>> kernel = jnp.log(jnp.array([[0.8, 0.2], [0.2, 0.8]]))
        >>> found = tabular_equilibrium(jnp.eye(2) / 2, Multipliers(1.0, 0.0), kernel, kernel)
        >>> bool(jnp.allclose(found.encoder, jnp.exp(kernel))), bool(found.converged)
        (True, True)
    """
    if log_decoder is None or log_classifier is None:
        from thermojax.theories.representation.free_kernels import free_equilibrium

        return free_equilibrium(
            joint,
            multipliers,
            log_decoder,
            log_classifier,
            num_codes=num_codes,
            key=key,
            num_restarts=num_restarts,
            tol=tol,
            max_iter=max_iter,
        )
    if num_codes is not None or key is not None:
        raise ValueError(
            f"num_codes = {num_codes} or a key was given beside both kernels; they fix K and "
            "nothing is random, so leave both out."
        )
    joint, log_decoder, log_classifier = as_tables(joint, log_decoder, log_classifier)
    check_multipliers(multipliers)
    if is_concrete((joint, multipliers, log_decoder, log_classifier)):
        p_x, posterior = label_posterior(joint)
        terms = energy_terms(posterior, log_decoder, log_classifier)
        check_reachable(log_weights(multipliers, terms), p_x)
    tol = default_tol(joint.dtype) if tol is None else tol
    return _given_equilibrium(
        joint, multipliers, log_decoder, log_classifier, tol=tol, max_iter=max_iter
    )


def as_tables(
    joint: ArrayLike, log_decoder: ArrayLike, log_classifier: ArrayLike
) -> tuple[Array, Array, Array]:
    """The three checked tables in their common floating dtype."""
    tables = [jnp.asarray(table) for table in (joint, log_decoder, log_classifier)]
    dtype = jnp.result_type(*tables, 1.0)
    joint, log_decoder, log_classifier = (table.astype(dtype) for table in tables)
    check_joint(joint)
    check_kernels(joint, log_decoder, log_classifier)
    return joint, log_decoder, log_classifier


def check_reachable(log_weight: Array, p_x: Array) -> None:
    """Refuse an input that no code can make, for which F is infinite.

    Raises:
        ValueError: a row of -inf at p(x) > 0.
    """
    if is_concrete((log_weight, p_x)):
        lost = (p_x > 0) & jnp.all(jnp.isneginf(log_weight), axis=1)
        if bool(jnp.any(lost)):
            raise ValueError(
                f"no code can make input {int(jnp.argmax(lost))}, so that F is infinite; give "
                "it a code with finite log_decoder and log_classifier."
            )


@functools.partial(jax.jit, static_argnames=("tol", "max_iter"))
def _given_equilibrium(joint, multipliers, log_decoder, log_classifier, *, tol, max_iter):
    p_x, posterior = label_posterior(joint)
    terms = energy_terms(posterior, log_decoder, log_classifier)
    log_weight = log_weights(multipliers, terms)
    marginal, gap, num_iter = optimal_marginal(log_weight, p_x, tol=tol, max_iter=max_iter)
    marginal = respond(response_of(marginal, log_weight, p_x), log_weight, p_x)
    encoder, log_z = gibbs_encoder(log_weight, marginal)
    return TabularEquilibrium(
        encoder=encoder,
        marginal=marginal,
        log_decoder=log_decoder,
        log_classifier=log_classifier,
        log_partition=log_z,
        free_energy=free_energy_of(marginal, log_weight, p_x),
        functionals=tabular_functionals(p_x, terms, encoder, marginal),
        gap=gap,
        num_iter=num_iter,
        converged=gap <= tol,
    )
