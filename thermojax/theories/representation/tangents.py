"""Rates of the multipliers that keep R, D or C.

    dC = -(chi_lg, chi_gg) . dtau,   dD = -(chi_ll, chi_lg) . dtau,   dR = -lam dD - gam dC

with tau = (lam, gam) and chi minus the Hessian of F, [2, 2]; a [3, 3] chi with the task
coordinate last may be handed in wherever one is asked for.

Source: iso-classification, Gao & Chaudhari 2020; iso-distortion, iso-rate, the sign and scale
are our completion.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.quantities import Multipliers
from thermojax.typing import Array, ArrayLike, ShapeError, is_concrete

__all__ = [
    "PROCESSES",
    "constrained_rates",
    "constraint_gradient",
    "gradient_of",
    "process_tangent",
]

PROCESSES = ("classification", "distortion", "rate")
"""What a process can hold."""


def _controls(chi: ArrayLike, multipliers: Multipliers) -> tuple[Array, Array, Array]:
    chi = jnp.asarray(chi)
    if chi.shape not in ((2, 2), (3, 3)):
        raise ShapeError(
            f"chi has shape {chi.shape}; give [2, 2] or [3, 3], and vmap over more"
        )
    if is_concrete(multipliers) and not all(
        np.all(np.asarray(tau) >= 0) for tau in multipliers
    ):
        lam, gam = multipliers
        raise ValueError(f"multipliers are ({lam}, {gam}); give lam >= 0 and gam >= 0")
    lam, gam = (jnp.asarray(tau) for tau in multipliers)
    dtype = jnp.result_type(chi, lam, gam, float)
    return chi[:2, :2].astype(dtype), lam.astype(dtype), gam.astype(dtype)


def constraint_gradient(chi: ArrayLike, multipliers: Multipliers, fixed: str) -> Array:
    """(dQ/dlam, dQ/dgam) of what is held, at a fixed task.

    Args:
        chi: [2, 2] susceptibility, or [3, 3] with the task coordinate last.
        multipliers: lam and gam.
        fixed: "classification", "distortion" or "rate".

    Returns:
        [2], nats per example.

    Raises:
        ValueError: if `fixed` is unknown, a multiplier negative or chi not [2, 2] or [3, 3].

    Source:
        Textbook: chi = -dU/dtau for U = (D, C), and the first law.

    Example:
        >>> constraint_gradient(jnp.eye(2), Multipliers(1.0, 2.0), "rate").tolist()
        [1.0, 2.0]
    """
    return jnp.asarray(gradient_of(fixed, *_controls(chi, multipliers)))


def gradient_of(fixed: str, chi: Any, lam: Any, gam: Any) -> Any:
    """`constraint_gradient` unchecked, on numpy or jax arrays alike.

    Example:
        >>> gradient_of("distortion", jnp.eye(2), 1.0, 1.0).tolist()
        [-1.0, -0.0]
    """
    if fixed == "classification":
        return -chi[1]
    if fixed == "distortion":
        return -chi[0]
    if fixed == "rate":
        return lam * chi[0] + gam * chi[1]
    raise ValueError(f"unknown fixed {fixed!r}; choose one of {', '.join(PROCESSES)}")


def process_tangent(
    chi: ArrayLike,
    multipliers: Multipliers,
    *,
    fixed: str = "classification",
    drift: ArrayLike | None = None,
) -> Array:
    """Which way (lam, gam) may go while R, D or C stays.

        classification  (chi_gg, -chi_lg)
        distortion      (chi_lg, -chi_ll)
        rate            (lam chi_lg + gam chi_gg, -lam chi_ll - gam chi_lg)

    At a fixed task the tangent has unit Euclidean norm and lam rises (gam, if lam stands
    still); where it vanishes, and every direction holds the quantity, it is [0, 0]. On a moving
    task `drift` is what the quantity would do by itself and gam alone answers it: lam_dot = 0
    and gam_dot = C_t/chi_gg, D_t/chi_lg or -R_t/(lam chi_lg + gam chi_gg) per unit of t; this
    is not normalised, 0 without drift, and infinite where gam has no grip on a drift.

    Args:
        chi: [2, 2] susceptibility, or [3, 3] with the task coordinate last; nats per example.
        multipliers: lam and gam.
        fixed: "classification", "distortion" or "rate"; static.
        drift: total drift of what is fixed per unit of t at fixed controls: C_t, D_t, or
            R_t = F_t - lam D_t - gam C_t. None is a fixed task.

    Returns:
        [2] (lam_dot, gam_dot).

    Raises:
        ValueError: if `fixed` is unknown, a multiplier negative or chi not [2, 2] or [3, 3].

    Source:
        Gao & Chaudhari 2020 for the ratio on iso-classification; the rest is our completion.

    Example:
        >>> process_tangent(jnp.array([[1.0, 3.0], [3.0, 4.0]]), Multipliers(1.0, 1.0)).tolist()
        [0.800000011920929, -0.6000000238418579]
    """
    slope = constraint_gradient(chi, multipliers, fixed)
    if drift is not None:
        rate = jnp.asarray(drift, slope.dtype)
        held = (slope[1] == 0) & (rate == 0)
        gam_dot = -jnp.where(held, 0.0, rate) / jnp.where(held, 1.0, slope[1])
        return jnp.stack([jnp.zeros_like(gam_dot), gam_dot + 0.0])
    along = jnp.stack([-slope[1], slope[0]])
    # the largest entry first, so that the squares of a tiny chi do not underflow
    size = jnp.max(jnp.abs(along))
    along = along / jnp.where(size > 0, size, 1.0)
    sign = jnp.sign(jnp.where(along[0] == 0, along[1], along[0]))
    square = jnp.sum(along**2)
    unit = sign * along / jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return unit + 0.0


def constrained_rates(
    chi: ArrayLike,
    multipliers: Multipliers,
    drift: ArrayLike,
    *,
    fixed: tuple[str, str] = ("classification", "distortion"),
) -> Array:
    """Rates of lam and gam that hold two quantities while the task moves: a 2 x 2 solve.

        Q_lam lam_dot + Q_gam gam_dot + Q_t = 0      for both Q of `fixed`

    Args:
        chi: [2, 2] susceptibility, or [3, 3] with the task coordinate last.
        multipliers: lam and gam.
        drift: [2] total drift of either quantity per unit of t at fixed controls.
        fixed: two of "classification", "distortion" and "rate"; static.

    Returns:
        [2] (lam_dot, gam_dot) per unit of t; not finite where chi is singular, since one
        order parameter cannot answer two constraints.

    Raises:
        ValueError: if `fixed` is not two different known names.

    Source:
        Derived here.

    Example:
        >>> constrained_rates(jnp.eye(2), Multipliers(1.0, 1.0), jnp.array([0.5, 2.0])).tolist()
        [2.0, 0.5]
    """
    if isinstance(fixed, str) or len(fixed) != 2 or fixed[0] == fixed[1]:
        raise ValueError(
            f"fixed is {fixed!r}; give two different names of {', '.join(PROCESSES)}"
        )
    slopes = jnp.stack([constraint_gradient(chi, multipliers, name) for name in fixed])
    return jnp.linalg.solve(slopes, -jnp.asarray(drift, slopes.dtype))
