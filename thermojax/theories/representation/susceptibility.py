"""Response of trained networks to their controls, without a Hessian in memory.

    A = grad^2 J,   b_lam = grad D,   b_gam = grad C,   d psi / d tau_k = -A^{-1} b_k
    chi = g^T A^{-1} g,   g = [grad D, grad C]

over all parameters psi, the encoder's included: no average over codes and no separate
fluctuation term is left. With a task coordinate t, b_t = grad dJ/dt and

    chi_lt = b_lam^T A^{-1} b_t - dD/dt,   chi_gt = b_gam^T A^{-1} b_t - dC/dt,
    chi_tt = b_t^T A^{-1} b_t - d^2 J / dt^2      (t-derivatives at fixed psi)

so that chi is minus the Hessian of F in (lam, gam, t): symmetric, but not positive.

Cost: one product with the Hessian per step of conjugate gradients, two or three solves.

Source: quasi-static process of Gao & Chaudhari 2020; the joint form and the explicit terms
of the task are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.theories.representation.quantities import Functionals, Multipliers, objective
from thermojax.typing import Array, ArrayLike, PyTree, is_concrete

__all__ = ["Response", "susceptibility"]


class Response(NamedTuple):
    """How the minimum moves with its controls.

    Attributes:
        chi: [2, 2] in the order lam, gam, or [3, 3] with t last; nats.
        tangents: d psi / d lam, d psi / d gam (, d psi / d t): pytrees like params.
        residual: [k] relative residual |A v - b| / |b| of each solve; 0 where b = 0.
        converged: [k] whether it reached the tolerance.
        grad_norm: norm of grad J at params; the response presumes that it vanishes.
        task_force: dJ/dt at fixed params, nats; () without a task.
        flags: uint32; NOT_A_MINIMUM where b^T A^{-1} b < 0, which a minimum forbids, and
            NONFINITE where the solver broke down.
    """

    chi: Array
    tangents: tuple[PyTree, ...]
    residual: Array
    converged: Array
    grad_norm: Array
    task_force: Array | tuple
    flags: Array


def susceptibility(
    functionals_fn: Callable[..., Functionals],
    params: PyTree,
    multipliers: Multipliers,
    *,
    damping: ArrayLike = 0.0,
    tol: float | None = None,
    max_iter: int = 1000,
    task: ArrayLike | None = None,
) -> Response:
    """chi = -dU/dtau at a minimum of J, and the tangents of the quasi-static process.

        chi = g^T (A + damping)^{-1} g,   d psi / d tau_k = -(A + damping)^{-1} b_k

    by conjugate gradients from 0: along null directions of A (softmax shifts, rotations of
    the code), which the b_k do not have, the solution stays 0, of minimum norm.

    Args:
        functionals_fn: `params -> Functionals` of scalar means, deterministic (fix the key),
            twice differentiable; `(params, t) -> Functionals` if `task` is given. With
            `jax.tree_util.Partial(fn, data)` new data do not compile again.
        params: a minimum of J = R + lam D + gam C.
        multipliers: lam and gam, scalars.
        damping: added to the diagonal of A, in the units of this parametrisation; it lowers
            chi.
        tol: relative residual at which a solve ends; 1e-10 in float64, 1e-5 in float32 by
            default.
        max_iter: steps of conjugate gradients at most.
        task: the task coordinate t, for the third row and column.

    Returns:
        `Response`. Works under jit, and under vmap over params and multipliers.

    Raises:
        ValueError: damping < 0 (concrete only), tol <= 0, max_iter < 1.

    Source:
        Derived here; identical to the paper's form, after Gao & Chaudhari 2020, where the
        encoder is eliminated.

    Example:
        >>> def fn(p):  # R + lam D + gam C is least at p = (lam, gam)
        ...     return Functionals(0.5 * jnp.sum(p**2), -p[0], -p[1])
        >>> at = jnp.array([2.0, 3.0])
        >>> susceptibility(fn, at, Multipliers(2.0, 3.0)).chi.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if is_concrete(damping) and not np.all(np.asarray(damping) >= 0):
        raise ValueError(f"damping={damping} must not be negative")
    if max_iter < 1:
        raise ValueError(f"max_iter={max_iter} must be at least 1")
    dtype = jnp.result_type(*jax.tree.leaves(params))
    if tol is None:
        tol = 1e-10 if dtype == jnp.float64 else 1e-5
    if not tol > 0:
        raise ValueError(f"tol={tol} must be positive")
    if not isinstance(functionals_fn, jax.tree_util.Partial):
        functionals_fn = jax.tree_util.Partial(functionals_fn)
    scalars = (*multipliers, damping, 0.0 if task is None else task)
    lam, gam, damping, t = (jnp.asarray(v, dtype) for v in scalars)
    tau = Multipliers(lam, gam)
    return _respond(functionals_fn, params, tau, t, damping, task is not None, tol, max_iter)


@jax.jit(static_argnames=("moves", "tol", "max_iter"))
def _respond(
    fn: Callable,
    params: PyTree,
    tau: Multipliers,
    t: Array,
    damping: Array,
    moves: bool,
    tol: float,
    max_iter: int,
) -> Response:
    flat, restore = ravel_pytree(params)
    values = lambda p, t: fn(restore(p), t) if moves else fn(restore(p))
    loss = lambda p, t: objective(values(p, t), tau)
    slope = jax.grad(loss)
    gradient, curvature = jax.linearize(lambda p: slope(p, t), flat)
    forces = [
        jax.grad(lambda p: values(p, t).distortion)(flat),
        jax.grad(lambda p: values(p, t).classification)(flat),
    ]
    explicit = jnp.zeros((2, 2), flat.dtype)
    task_force: Array | tuple = ()
    if moves:
        forces.append(jax.jvp(lambda t: slope(flat, t), (t,), (jnp.ones_like(t),))[1])
        drifts = jax.jvp(lambda t: values(flat, t), (t,), (jnp.ones_like(t),))[1]
        task_force, bend = jax.jvp(jax.grad(lambda t: loss(flat, t)), (t,), (jnp.ones_like(t),))
        row = jnp.stack([drifts.distortion, drifts.classification, bend])
        explicit = jnp.zeros((3, 3), flat.dtype).at[2].set(row).at[:, 2].set(row)
    damped = lambda v: curvature(v) + damping * v
    right = jnp.stack(forces)
    found, residual = _solve(damped, right, tol, max_iter)
    chi = right @ found.T
    chi = 0.5 * (chi + chi.T)
    positive = jnp.diagonal(chi)
    flags = raise_flags(
        (Flag.NOT_A_MINIMUM, positive < 0), (Flag.NONFINITE, ~jnp.isfinite(chi))
    )
    return Response(
        chi - explicit,
        tuple(restore(-v) for v in found),
        residual,
        residual <= 2 * tol,
        jnp.linalg.norm(gradient),
        task_force,
        flags,
    )


def _solve(
    product: Callable[[Array], Array], right: Array, tol: float, max_iter: int
) -> tuple[Array, Array]:
    """Solutions [k, d] and their relative residuals [k] for right-hand sides [k, d]."""
    import lineax as lx

    shape = jax.ShapeDtypeStruct(right.shape[1:], right.dtype)
    operator = lx.FunctionLinearOperator(product, shape, lx.positive_semidefinite_tag)
    solver = lx.CG(rtol=tol, atol=tol, norm=jnp.linalg.norm, max_steps=max_iter)

    def one(vector):
        # of unit length, so that the absolute tolerance is a relative one
        squared = jnp.sum(vector**2)
        norm = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
        unit = vector / norm
        value = lx.linear_solve(operator, unit, solver, throw=False).value
        return norm * value, jnp.linalg.norm(product(value) - unit)

    return jax.vmap(one)(right)
