"""Free energy of tabular kernels with its exact derivatives: forces and susceptibilities.

    dF = D dlam + C dgam + F_t dt,      chi = -d^2 F

Derivatives up to the third are exact in every mode of differentiation (`envelope`).

Source: Gao & Chaudhari 2020 for the forces and the response; this form is derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.theories.representation.envelope import (
    Response,
    free_energy_of,
    respond,
    response_of,
)
from thermojax.theories.representation.gibbs import energy_terms, label_posterior, log_weights
from thermojax.theories.representation.marginal import (
    curvature_inverse,
    optimal_marginal,
    score,
)
from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.theories.representation.tabular import (
    TabularEquilibrium,
    as_tables,
    check_joint,
    check_multipliers,
    check_reachable,
    default_tol,
)
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "TaskEquilibrium",
    "tabular_free_energy",
    "tabular_model",
    "tabular_susceptibility",
    "tabular_task",
]

MAX_STEPS = 1_000


class TaskEquilibrium(NamedTuple):
    """Equilibrium on a path between two tasks.

    Attributes:
        free_energy: F(lam, gam, t), nats per example.
        functionals: R, D and C, nats per example.
        task_force: F_t = dF/dt at fixed controls, nats per example.
        chi: [3, 3] minus the second derivatives of F in (lam, gam, t): symmetric, but not
            positive semi-definite. The drifts at fixed controls are D_t = -chi[0, 2] and
            C_t = -chi[1, 2].
    """

    free_energy: Array
    functionals: Functionals
    task_force: Array
    chi: Array


def _minimum(p_x: Array, log_weight: Array) -> Response:
    check_reachable(log_weight, p_x)
    tol = default_tol(p_x.dtype)
    marginal = optimal_marginal(log_weight, p_x, tol=tol, max_iter=MAX_STEPS).marginal
    return response_of(marginal, log_weight, p_x)


def _relaxed(minimum: Response, p_x: Array, log_weight: Array) -> Array:
    return free_energy_of(respond(minimum, log_weight, p_x), log_weight, p_x)


def _log_weight(multipliers, posterior, log_decoder, log_classifier):
    return log_weights(multipliers, energy_terms(posterior, log_decoder, log_classifier))


def tabular_free_energy(
    multipliers: Multipliers,
    joint: ArrayLike,
    log_decoder: ArrayLike,
    log_classifier: ArrayLike,
) -> Array:
    """F(lam, gam) = min over encoder and marginal of R + lam D + gam C, given kernels.

        dF/dlam = D,   dF/dgam = C,   -d^2 F = chi,   dF/dlog d[x, z] = -lam p(x) e(z | x)

    First, second and third derivatives in all arguments are exact, by `jax.grad`,
    `jax.hessian` and any nesting of forward and reverse mode, under jit and vmap. They are
    one-sided where a code switches on or off, and of no meaning in second order at
    lam = gam = 0, where any marginal is optimal. A log probability of -inf is a constant,
    also at a multiplier of 0, where D or C is infinite if it is used.

    Args:
        multipliers: lam and gam, scalars >= 0.
        joint: [n_x, n_y] p(x, y).
        log_decoder: [n_x, K] log d(x | z); adding a constant a lowers F by lam a.
        log_classifier: [n_y, K] log c(y | z).

    Returns:
        Scalar, nats per example.

    Raises:
        ValueError: joint not normalised, kernels of wrong shape, K = 0, negative multipliers.

    Source:
        Gao & Chaudhari 2020; its derivatives beyond the first derived here.

    Example:
        >>> kernel = jnp.log(jnp.array([[0.8, 0.2], [0.2, 0.8]]))
        >>> force = jax.grad(tabular_free_energy)(
        ...     Multipliers(1.0, 0.0), jnp.eye(2) / 2, kernel, kernel
        ... )
        >>> bool(jnp.allclose(force.lam, -0.8 * jnp.log(0.8) - 0.2 * jnp.log(0.2)))
        True
    """
    joint, log_decoder, log_classifier = as_tables(joint, log_decoder, log_classifier)
    check_multipliers(multipliers)
    p_x, posterior = label_posterior(joint)
    log_weight = _log_weight(multipliers, posterior, log_decoder, log_classifier)
    return _relaxed(_minimum(p_x, log_weight), p_x, log_weight)


def tabular_susceptibility(
    equilibrium: TabularEquilibrium, joint: ArrayLike, multipliers: Multipliers
) -> tuple[Array, Array]:
    """chi = -d^2 F and the part of it that is fluctuation at frozen marginal.

        chi = chi_fluct + B^T H^+ B,   chi_fluct = E_x Cov_{e*(z | x)}(f),   f = (-u_D, -u_C)
        H = E_x q q^T,   q = e* / m,   B_k = -E_x q (f_k - <f_k>)

    chi and chi - chi_fluct are positive semi-definite. H is singular with duplicate codes;
    the solution of smallest norm is taken.

    Args:
        equilibrium: at given kernels, from `tabular_equilibrium`.
        joint: [n_x, n_y] of the same equilibrium.
        multipliers: lam and gam of the same equilibrium.

    Returns:
        chi [2, 2] and chi_fluct [2, 2], nats.

    Source:
        Gao & Chaudhari 2020, recalled; positivity of the difference is ours.

    Example:
        >>> from thermojax.theories.representation.tabular import tabular_equilibrium
        >>> kernel = jnp.log(jnp.array([[0.8, 0.2], [0.2, 0.8]]))
        >>> at = Multipliers(1.0, 1.0)
        >>> found = tabular_equilibrium(jnp.eye(2) / 2, at, kernel, kernel)
        >>> chi, _ = tabular_susceptibility(found, jnp.eye(2) / 2, at)
        >>> bool(jnp.allclose(chi, chi[0, 0]))
        True
    """
    joint, log_decoder, log_classifier = as_tables(
        joint, equilibrium.log_decoder, equilibrium.log_classifier
    )
    check_multipliers(multipliers)
    p_x, posterior = label_posterior(joint)
    terms = energy_terms(posterior, log_decoder, log_classifier)
    _, ratio = score(log_weights(multipliers, terms), p_x, equilibrium.marginal)
    ratio = jnp.where(equilibrium.marginal > 0, ratio, 0.0)
    encoder = ratio * equilibrium.marginal
    finite = jnp.where(jnp.isneginf(terms), 0.0, terms)
    spread = finite - jnp.sum(encoder * finite, axis=2, keepdims=True)
    fluctuation = jnp.einsum("x,xz,ixz,jxz->ij", p_x, encoder, spread, spread)
    push = -jnp.einsum("x,xz,ixz->iz", p_x, ratio, spread)
    inverse = curvature_inverse(ratio, p_x, equilibrium.marginal > 0)
    return fluctuation + push @ inverse @ push.T, fluctuation


def _expand(local: Callable[[Array], Array], point: Array) -> tuple[Array, Array, Array]:
    return local(point), jax.grad(local)(point), -jax.hessian(local)(point)


def _functionals(free_energy: Array, force: Array, point: Array) -> Functionals:
    return Functionals(free_energy - point[:2] @ force[:2], force[0], force[1])


def tabular_model(
    joint: ArrayLike, log_decoder: ArrayLike, log_classifier: ArrayLike
) -> Callable[[Multipliers], tuple[Array, Functionals, Array]]:
    """A function of the multipliers that solves and differentiates F once: F, (R, D, C), chi.

    What `iso_process` takes. It jits, vmaps and can be differentiated itself.

    Args:
        joint: [n_x, n_y] p(x, y).
        log_decoder: [n_x, K].
        log_classifier: [n_y, K].

    Returns:
        multipliers -> free energy, `Functionals`, chi [2, 2], all in nats.

    Raises:
        ValueError: joint not normalised or kernels of wrong shape.

    Source:
        Derived here.

    Example:
        >>> kernel = jnp.log(jnp.array([[0.8, 0.2], [0.2, 0.8]]))
        >>> _, functionals, chi = tabular_model(jnp.eye(2) / 2, kernel, kernel)(
        ...     Multipliers(1.0, 1.0)
        ... )
        >>> float(functionals.rate) > 0, chi.shape
        (True, (2, 2))
    """
    joint, log_decoder, log_classifier = as_tables(joint, log_decoder, log_classifier)
    p_x, posterior = label_posterior(joint)
    terms = energy_terms(posterior, log_decoder, log_classifier)

    def equilibrium_fn(multipliers: Multipliers) -> tuple[Array, Functionals, Array]:
        check_multipliers(multipliers)
        point = jnp.stack([jnp.asarray(value, terms.dtype) for value in multipliers])
        minimum = _minimum(p_x, log_weights(multipliers, terms))

        def local(point):
            return _relaxed(minimum, p_x, log_weights(Multipliers(*point), terms))

        free_energy, force, chi = _expand(local, point)
        return free_energy, _functionals(free_energy, force, point), chi

    return equilibrium_fn


def _mixture(source: Array, target: Array, t: Array) -> tuple[Array, Array]:
    """p_t(x) and p_t(y | x), whose limit is taken where p_t(x) -> 0 at an end."""
    from_source, labels_source = label_posterior(source)
    from_target, labels_target = label_posterior(target)
    p_x = (1 - t) * from_source + t * from_target
    shared = (from_source > 0) & (from_target > 0)
    mixed = ((1 - t) * source + t * target) / jnp.where(shared, p_x, 1.0)[:, None]
    one_sided = jnp.where((from_target > 0)[:, None], labels_target, labels_source)
    return p_x, jnp.where(shared[:, None], mixed, one_sided)


def tabular_task(
    joint_source: ArrayLike,
    joint_target: ArrayLike,
    log_decoder: ArrayLike,
    log_classifier: ArrayLike,
) -> Callable[[Multipliers, Array], TaskEquilibrium]:
    """Equilibrium while the task moves: p_t = (1 - t) p_source + t p_target.

        dF = D dlam + C dgam + F_t dt,   C_t = dF_t/dgam,   D_t = dF_t/dlam

    Args:
        joint_source: [n_x, n_y] p(x, y) at t = 0.
        joint_target: [n_x, n_y] p(x, y) at t = 1.
        log_decoder: [n_x, K].
        log_classifier: [n_y, K].

    Returns:
        (multipliers, t) -> `TaskEquilibrium`, which jits and vmaps; at t = 0 and 1 its
        derivatives in t are those from inside.

    Raises:
        ValueError: a joint not normalised, shapes that differ, t outside [0, 1].

    Source:
        Path: Gao & Chaudhari 2020 (released code); force and [3, 3] response are ours.

    Example:
        >>> kernel = jnp.log(jnp.array([[0.8, 0.2], [0.2, 0.8]]))
        >>> source, target = jnp.diag(jnp.array([0.9, 0.1])), jnp.eye(2) / 2
        >>> found = tabular_task(source, target, kernel, kernel)(Multipliers(1.0, 1.0), 0.5)
        >>> found.chi.shape, bool(found.task_force > 0)
        ((3, 3), True)
    """
    source, log_decoder, log_classifier = as_tables(joint_source, log_decoder, log_classifier)
    target = jnp.asarray(joint_target).astype(source.dtype)
    check_joint(target)
    if source.shape != target.shape:
        raise ValueError(
            f"joint_source has shape {source.shape} and joint_target {target.shape}; give both "
            "on the same inputs and labels, with rows or columns of 0 where one has none."
        )

    def weights(point):
        p_x, posterior = _mixture(source, target, point[2])
        multipliers = Multipliers(point[0], point[1])
        return p_x, _log_weight(multipliers, posterior, log_decoder, log_classifier)

    def task_fn(multipliers: Multipliers, t: Array) -> TaskEquilibrium:
        check_multipliers(multipliers)
        if is_concrete(t) and not 0 <= float(t) <= 1:
            raise ValueError(f"t is {float(t)}; the path runs from 0 (source) to 1 (target).")
        point = jnp.stack([jnp.asarray(value, source.dtype) for value in (*multipliers, t)])
        minimum = _minimum(*weights(point))
        free_energy, force, chi = _expand(lambda at: _relaxed(minimum, *weights(at)), point)
        functionals = _functionals(free_energy, force, point)
        return TaskEquilibrium(free_energy, functionals, force[2], chi)

    return task_fn
