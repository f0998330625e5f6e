"""The equilibrium surface as data: R, D, C, F and chi over a grid or a path of controls.

    F(tau') <= F(tau) + U(tau) . (tau' - tau)      for every two points of the surface

with tau = (lam, gam) and U = (D, C): F is a minimum of functions that are affine in
tau. A point found in a local minimum breaks the inequality: `concavity_violation` sees it.

Source: Gao & Chaudhari 2020 (the surface); concavity is textbook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.ledger import with_ledger
from thermojax.theories.representation.quantities import (
    Functionals,
    Multipliers,
    Trajectory,
)
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "EquilibriumSurface",
    "concavity_violation",
    "equilibrium_path",
    "equilibrium_surface",
]

_BATCHINGS = ("map", "vmap", "loop")

EquilibriumFn = Callable[[Multipliers], tuple[Array, Functionals, Array]]


class EquilibriumSurface(NamedTuple):
    """Equilibria over a grid of controls; nats per example.

    Attributes:
        multipliers: lam and gam, each [n_lam, n_gam].
        functionals: R, D and C, each [n_lam, n_gam].
        free_energy: [n_lam, n_gam] F.
        chi: [n_lam, n_gam, 2, 2] susceptibility, minus the Hessian of F.
    """

    multipliers: Multipliers
    functionals: Functionals
    free_energy: Array
    chi: Array


def _inexact(values: ArrayLike) -> Array:
    values = jnp.asarray(values)
    return values if jnp.issubdtype(values.dtype, jnp.inexact) else values.astype(float)


def _checked(name: str, values: ArrayLike) -> Array:
    array = _inexact(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; give at least one value in a row")
    if is_concrete(values):
        seen = np.asarray(values)
        wrong = seen[~(np.isfinite(seen) & (seen >= 0))]
        if wrong.size:
            raise ValueError(f"{name} holds {wrong[0]:g}; multipliers are finite and >= 0")
    return array


def _evaluate(
    equilibrium_fn: EquilibriumFn, multipliers: Multipliers, batching: str
) -> tuple[Array, Functionals, Array]:
    """Equilibria at a row of controls."""
    if batching not in _BATCHINGS:
        raise ValueError(
            f"unknown batching {batching!r}; choose one of {', '.join(_BATCHINGS)}"
        )
    if batching == "vmap":
        return jax.vmap(equilibrium_fn)(multipliers)
    if batching == "map":
        return jax.lax.map(equilibrium_fn, multipliers)
    points = [equilibrium_fn(Multipliers(*tau)) for tau in zip(*multipliers, strict=True)]
    return jax.tree.map(lambda *rows: jnp.stack([jnp.asarray(row) for row in rows]), *points)


def equilibrium_surface(
    equilibrium_fn: EquilibriumFn, lams: ArrayLike, gams: ArrayLike, *, batching: str = "map"
) -> EquilibriumSurface:
    """The surface {(R, D, C) at the minimisers} over the grid lams x gams.

    Args:
        equilibrium_fn: `Multipliers` -> (F, `Functionals`, chi [2, 2]).
        lams: [n_lam] multipliers of the distortion, not negative.
        gams: [n_gam] multipliers of the classification loss, not negative.
        batching: "map" goes through the points one by one in one compiled program; "vmap"
            takes them at once, and an iteration inside runs as long as its slowest point;
            "loop" calls a function that cannot be traced.

    Returns:
        An `EquilibriumSurface`, in nats per example.

    Raises:
        ValueError: if a multiplier is negative, or `batching` is unknown.

    Source:
        Gao & Chaudhari 2020.

    Example:
        >>> def linear(tau):
        ...     functionals = Functionals(0.0 * tau.lam, 1.0, 1.0)
        ...     return tau.lam + tau.gam, functionals, jnp.zeros((2, 2))
        >>> equilibrium_surface(linear, jnp.ones(3), jnp.ones(2)).free_energy.shape
        (3, 2)
    """
    lam, gam = jnp.meshgrid(_checked("lams", lams), _checked("gams", gams), indexing="ij")
    points = _evaluate(equilibrium_fn, Multipliers(lam.ravel(), gam.ravel()), batching)
    free, functionals, chi = jax.tree.map(
        lambda values: jnp.reshape(values, (*lam.shape, *values.shape[1:])), points
    )
    return EquilibriumSurface(Multipliers(lam, gam), functionals, free, chi)


def concavity_violation(surface: EquilibriumSurface) -> Array:
    """How far any point lies above the tangent plane of any other: max of F' - F - U . delta.

    0 or rounding if F is concave with slopes U = (D, C), as it must be at global minima. A
    positive value is a lower bound on how much the free energy of some point can be lowered.

    Args:
        surface: equilibria at n_lam x n_gam points; all pairs are compared.

    Returns:
        A scalar >= 0, nats per example.

    Source:
        Textbook: a pointwise minimum of affine functions is concave.

    Example:
        >>> lam, gam = jnp.array([[0.0], [1.0]]), jnp.zeros((2, 1))
        >>> functionals = Functionals(gam, jnp.array([[2.0], [1.0]]), gam)
        >>> chi = jnp.zeros((2, 1, 2, 2))
        >>> free = jnp.array([[0.0], [2.5]])
        >>> surface = EquilibriumSurface(Multipliers(lam, gam), functionals, free, chi)
        >>> float(concavity_violation(surface))
        0.5
    """
    lam, gam = (tau.ravel() for tau in surface.multipliers)
    free = surface.free_energy.ravel()
    slope_lam, slope_gam = (u.ravel() for u in surface.functionals[1:])
    plane = (
        free[:, None]
        + slope_lam[:, None] * (lam[None] - lam[:, None])
        + slope_gam[:, None] * (gam[None] - gam[:, None])
    )
    return jnp.maximum(jnp.max(free[None] - plane), 0.0)


def equilibrium_path(
    equilibrium_fn: EquilibriumFn, multipliers: Multipliers, *, batching: str = "map"
) -> Trajectory:
    """Equilibria along prescribed controls at a fixed task, with their ledger.

    Args:
        equilibrium_fn: `Multipliers` -> (F, `Functionals`, chi [2, 2]).
        multipliers: lam and gam, each [n + 1], not negative.
        batching: as in `equilibrium_surface`.

    Returns:
        A `Trajectory` at t = 0, in nats per example.

    Raises:
        ValueError: if lam and gam differ in shape or are negative, or `batching` is unknown.

    Source:
        Gao & Chaudhari 2020 (quasi-static process); the ledger is our completion.

    Example:
        >>> def linear(tau):
        ...     functionals = Functionals(0.0 * tau.lam, 1.0, 1.0)
        ...     return tau.lam + tau.gam, functionals, jnp.zeros((2, 2))
        >>> path = equilibrium_path(linear, Multipliers(jnp.arange(3.0), jnp.ones(3)))
        >>> float(path.dissipated_work.sum())
        0.0
    """
    lam, gam = _checked("lam", multipliers.lam), _checked("gam", multipliers.gam)
    if lam.shape != gam.shape:
        raise ValueError(f"lam has {lam.size} points and gam {gam.size}; give as many of each")
    taus = Multipliers(lam, gam)
    free, functionals, chi = _evaluate(equilibrium_fn, taus, batching)
    path = Trajectory(jnp.zeros_like(lam), taus, functionals, free, chi=chi)
    return with_ledger(path)
