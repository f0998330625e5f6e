"""Thermodynamics of neuron states at one temperature, measured from decoupled neurons.

    F = -T log Z    U = -d log Z / d beta    S = beta U + log Z    C_v = beta^2 Var H

    log Z_ref = n/2 log(2 pi / beta)    U_ref = n / (2 beta)    S_ref = n/2 + log Z_ref

    S = S_ref + C + E,    C = log Z - log Z_ref,    E = beta (U - U_ref)

k_B = 1, nats; energies are sums over neurons and examples. Differential entropies may be
negative. The reference is n free neurons without weights, each of unit residual precision.
The paper's entropy of two terms, thermodynamic and complexity (Vanchurin 2021), is E = 0;
that sharpening is our definition, following the paper's programme.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["State", "check_beta", "entropy_reference", "log_z_reference", "state_of"]


class State(NamedTuple):
    """The thermodynamics of a network's states; scalars, or (B,) for single examples.

    Attributes:
        log_z: log Z in nats, the integral over free neurons in Lebesgue measure.
        free_energy: F = -T log Z, unit of the loss.
        internal_energy: U = <H>, unit of the loss.
        entropy: S = beta U + log Z in nats.
        heat_capacity: beta^2 Var H, dimensionless.
        log_z_ref: log Z of the decoupled neurons.
        entropy_ref: S of the decoupled neurons: the thermodynamic entropy.
        complexity: C = log Z - log Z_ref in nats.
        excess: E = beta (U - U_ref) in nats.
        stderr: standard error of log Z; 0 for exact and closed forms.
        ess: effective sample size; NaN where nothing is sampled.
        flags: uint32 bit set of `thermojax.estimators.estimate.Flag`; zero means trusted.
    """

    log_z: Array
    free_energy: Array
    internal_energy: Array
    entropy: Array
    heat_capacity: Array
    log_z_ref: Array
    entropy_ref: Array
    complexity: Array
    excess: Array
    stderr: Array
    ess: Array
    flags: Array


def check_beta(beta: ArrayLike) -> None:
    """Refuse an inverse temperature that is not positive and finite; traced ones pass.

    Raises:
        ValueError: naming the value.

    Example:
        >>> check_beta(0.0)
        Traceback (most recent call last):
        ValueError: beta = 0.0 has no canonical ensemble of states; give 0 < beta < inf
    """
    if is_concrete(beta) and not np.all((np.asarray(beta) > 0) & np.isfinite(beta)):
        raise ValueError(
            f"beta = {beta} has no canonical ensemble of states; give 0 < beta < inf"
        )


def log_z_reference(n: int, beta: ArrayLike) -> Array:
    """log Z_ref = n/2 log(2 pi / beta) of n decoupled neurons, in nats.

    Args:
        n: free neurons of all examples.
        beta: inverse temperature of the states.

    Example:
        >>> round(float(log_z_reference(3, 5.0)), 4)
        0.3427
    """
    return 0.5 * n * (math.log(2 * math.pi) - jnp.log(beta))


def entropy_reference(n: int, beta: ArrayLike) -> Array:
    """S_ref = n/2 (1 + log(2 pi / beta)) of n decoupled neurons, in nats.

    Args:
        n: free neurons of all examples.
        beta: inverse temperature of the states.

    Example:
        >>> round(float(entropy_reference(3, 5.0)), 4)
        1.8427
    """
    return 0.5 * n + log_z_reference(n, beta)


def state_of(
    log_z: Array,
    internal_energy: Array,
    heat_capacity: Array,
    n: int,
    beta: ArrayLike,
    *,
    stderr: ArrayLike = 0.0,
    ess: ArrayLike = math.nan,
    flags: ArrayLike = 0,
) -> State:
    """The `State` that follows from log Z, U and C_v.

        F = -T log Z,  S = beta U + log Z,  C = log Z - log Z_ref,  E = beta U - n/2

    Args:
        log_z: nats, scalar or (B,).
        internal_energy: unit of the loss, same shape.
        heat_capacity: dimensionless, same shape.
        n: free neurons that each entry of `log_z` counts.
        beta: inverse temperature of the states.
        stderr: of `log_z`.
        ess: effective sample size.
        flags: uint32 bit set.

    Raises:
        ValueError: beta is not positive and finite (concrete values only).

    Example:
        >>> state = state_of(jnp.array(1.0), jnp.array(0.5), jnp.array(1.0), 2, 2.0)
        >>> float(state.free_energy), float(state.entropy), float(state.excess)
        (-0.5, 2.0, 0.0)
    """
    check_beta(beta)
    log_z = jnp.asarray(log_z)
    like = lambda value: jnp.broadcast_to(jnp.asarray(value, log_z.dtype), log_z.shape)
    log_z_ref = like(log_z_reference(n, beta))
    return State(
        log_z=log_z,
        free_energy=-log_z / beta,
        internal_energy=like(internal_energy),
        entropy=like(beta * internal_energy + log_z),
        heat_capacity=like(heat_capacity),
        log_z_ref=log_z_ref,
        entropy_ref=like(entropy_reference(n, beta)),
        complexity=log_z - log_z_ref,
        excess=like(beta * internal_energy - 0.5 * n),
        stderr=like(stderr),
        ess=like(ess),
        flags=jnp.broadcast_to(jnp.asarray(flags, jnp.uint32), log_z.shape),
    )
