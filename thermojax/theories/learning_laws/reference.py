"""The reference from which the states are weighed: decoupled, exactly drawn, log Z known.

    H_0 = 1/2 sum_{i free} r_i^2,     log Z_ref = n/2 log(2 pi / beta)

Feedforward nets with clamped inputs: x -> r is triangular with unit Jacobian, so that the
noisy forward net draws from exp(-beta H_0) exactly, whatever the weights. Recurrent nets:
exact at w = 0, where x = f(b) + N(0, T).

Source: Vanchurin 2021 for the ensemble; the reference is our definition, following the
paper's programme.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.learning_laws.network import Example, clamps, free_neurons
from thermojax.theories.learning_laws.septuple import System, is_feedforward
from thermojax.theories.learning_laws.states import log_z_reference
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["Example", "draw", "log_reference", "reference_energy"]


def reference_energy(system: System, params: PyTree, x_free: Array, example: Example) -> Array:
    """H_0 = 1/2 sum of r^2 over the free neurons, without clamped outputs and V."""
    network = system.network
    held_in, _ = clamps(network, example)
    rows = sorted(set(network.residual_rows) - set(network.inputs if held_in else ()))
    ours = np.isin(rows, free_neurons(network, example))
    r = system.residual(params, x_free, example)
    return 0.5 * jnp.sum(jnp.where(ours, r, 0.0) ** 2)


def draw(
    system: System, params: PyTree, example: Example, beta: ArrayLike, key: Key, count: int
) -> Array:
    """[count, n] independent draws of the reference.

    Raises:
        ValueError: a free neuron without residual, or free inputs of a feedforward net.
    """
    held_in, _ = clamps(system.network, example)
    if is_feedforward(system) and system.network.inputs and not held_in:
        raise ValueError(
            "the inputs of a feedforward network are free, so that nothing drives the "
            "reference: give data with 'x', or use method='quadrature' or 'laplace'"
        )
    one = lambda key: system.sample_reference(key, params, example, beta)
    return jax.vmap(one)(jax.random.split(key, count))


def log_reference(
    system: System, params: PyTree, x_free: Array, example: Example, beta: ArrayLike
) -> Array:
    """Log density of the reference in nats, normalised over the free states."""
    if not is_feedforward(system):
        params = {**params, "w": jnp.zeros_like(params["w"])}
    energy = reference_energy(system, params, x_free, example)
    return -jnp.asarray(beta) * energy - log_z_reference(len(x_free), beta)
