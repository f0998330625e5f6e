"""Does the partition function factorise into temperature and trainables?

    claim       Z = Z_1(beta) Z_2(q) at a learning equilibrium
    exactly     d_beta d_q log Z = -d_q U: additive on a region iff d_q U = 0 throughout it

Two statistics: `interaction` of a grid of temperatures and networks, and
`energetic_fraction` of one network.

Source: the claim is Vanchurin (2021) [paper], its meaning of equilibrium our reading; the
identity is textbook, the statistics are ours, following the paper's programme.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.estimators.curvature import entries
from thermojax.theories.learning_laws.ensemble import thermodynamic_state
from thermojax.theories.learning_laws.septuple import System
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["EnergeticFraction", "Interaction", "energetic_fraction", "interaction"]


class Interaction(NamedTuple):
    """How far log Z is from g(beta) + h(q) on a grid.

    Attributes:
        fraction: sum R^2 / (sum R^2 + K sum a^2) in [0, 1]; 0 for 0/0.
        rms: root mean square of R, nats.
        residual: [K, M] R, double centred, nats.
        rms_noise: rms that the errors of log Z alone would give a factorised grid, nats.
    """

    fraction: Array
    rms: Array
    residual: Array
    rms_noise: Array


class EnergeticFraction(NamedTuple):
    """The two forces that a free energy exerts on the trainables of one network.

    Attributes:
        fraction: |d_q U|^2 / (|d_q U|^2 + |T d_q S|^2); nan for 0/0.
        norm_dU: |d_q U|, loss per unit of q.
        norm_TdS: |T d_q S|, loss per unit of q.
    """

    fraction: Array
    norm_dU: Array
    norm_TdS: Array


def interaction(log_z_matrix: ArrayLike, *, stderr: ArrayLike = 0.0) -> Interaction:
    """Interaction of temperature and trainables in log Z, as a two-way analysis of variance.

        R[k, m] = L[k, m] - mean_m L[k, .] - mean_k L[., m] + mean L
        a[m] = mean_k L[., m] - mean L
        fraction = sum R^2 / (sum R^2 + K sum a^2)

    R and rms are invariant under adding any g(beta) + h(q), the fraction under g(beta)
    only: it compares the interaction with the differences between the networks.

    Our definition, following the paper's programme (Vanchurin 2021).

    Args:
        log_z_matrix: [K, M] L, log Z at K temperatures (rows) of M networks (columns), nats.
        stderr: standard errors of L, scalar or [K, M], taken as independent.

    Returns:
        `Interaction`, all zero where L factorises; read rms against rms_noise.

    Raises:
        ValueError: not a matrix.

    Example:
        >>> grid = jnp.array([[0.0], [2.0]]) + jnp.array([[1.0, 3.0, 4.0]])
        >>> float(interaction(grid).fraction)
        0.0
        >>> print(f"{float(interaction(grid * grid).rms):.4f}")
        2.4944
    """
    grid = jnp.asarray(log_z_matrix)
    grid = grid.astype(jnp.result_type(grid, jnp.float32))
    if grid.ndim != 2:
        raise ValueError(
            f"log_z_matrix has shape {grid.shape}: give [K, M], temperatures by networks"
        )
    rows, columns = grid.shape
    # below it a sum of squares is rounding of L, and 0/0
    floor = grid.size * (8 * jnp.finfo(grid.dtype).eps * jnp.max(jnp.abs(grid))) ** 2
    # differences to one entry first: a large common level would cost digits of the residual
    grid = grid - grid[0, 0]
    mean = jnp.mean(grid)
    column = jnp.mean(grid, axis=0) - mean
    residual = grid - jnp.mean(grid, axis=1, keepdims=True) - column
    inside = jnp.sum(residual**2)
    total = inside + rows * jnp.sum(column**2)
    some = total > floor
    fraction = jnp.where(some, inside / jnp.where(some, total, 1.0), 0.0)
    variance = jnp.broadcast_to(jnp.asarray(stderr, grid.dtype) ** 2, grid.shape)
    free = (1 - 1 / rows) * (1 - 1 / columns)
    noise = jnp.sqrt(free * jnp.mean(variance))
    return Interaction(fraction, jnp.sqrt(jnp.mean(residual**2)), residual, noise)


def energetic_fraction(
    system: System, params: PyTree, data: PyTree, beta: ArrayLike, **options: Any
) -> EnergeticFraction:
    """Share of the energy in the force on the trainables: d_q F = d_q U - T d_q S.

        fraction = |d_q U|^2 / (|d_q U|^2 + |T d_q S|^2)

    0: log Z factorises at q; 1: purely energetic. Where gradient descent on F has stopped
    with both forces alive they are equal and it is 1/2: factorised and stationary are
    different equilibria.

    Our definition, following the paper's programme (Vanchurin 2021).

    Args:
        system: from `dense_network` or `layered_network`.
        params: trainables of one network; `jax.vmap` over networks and over beta.
        data: examples, or None.
        beta: inverse temperature of the states, 1/loss.
        **options: `method`, `key`, `reduction` ("sum" or "mean") and the rest of
            `thermodynamic_state`; errors of a sampled state are not propagated.

    Returns:
        `EnergeticFraction`; Euclidean norms over all trainables, not squared.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1, 1), "linear")
        >>> one = jnp.ones((1, 1))
        >>> params = [(0.8 * one, jnp.array([0.1])), (-0.6 * one, jnp.array([0.2]))]
        >>> data = {"x": 1.5 * one, "y": 0.3 * one}
        >>> print(f"{energetic_fraction(net, params, data, 4.0).fraction:.4f}")
        0.9904
    """
    slope_u, slope_s = _slopes(
        lambda q: thermodynamic_state(system, q, data, beta, **options), params
    )
    energy, entropy = jnp.sum(slope_u**2), jnp.sum((slope_s / beta) ** 2)
    # 0/0 is nan, without a warning from either norm's derivative
    return EnergeticFraction(energy / (energy + entropy), jnp.sqrt(energy), jnp.sqrt(entropy))


def _slopes(state_at: Callable[[PyTree], Any], params: PyTree) -> tuple[Array, Array]:
    """d_q U and d_q S [n_q], from one pass forward."""
    point, build = entries(params)

    def both(x):
        state = state_at(build(x))
        return state.internal_energy, state.entropy

    (energy, entropy), pull = jax.vjp(both, point)
    one, zero = jnp.ones_like(energy), jnp.zeros_like(entropy)
    return pull((one, zero))[0], pull((zero, one))[0]
