"""A network's states as a system of the core: its samplers, SMC and derivatives apply.

    p(x) ∝ exp(-beta H(x; q)) d^n x:     theta = x_free,  control = params,  m = Lebesgue

The base measure is Lebesgue's, so that `tj.log_partition` returns the log Z of
`log_partition` here, with nothing to convert: its tempering starts from a *reference*,
which is normalised and drops out of the answer.

Source: Vanchurin 2021 for the ensemble; the frame is the core's.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from thermojax.priors import prior
from thermojax.system import System as CoreSystem
from thermojax.system import system as core_system
from thermojax.theories.learning_laws.reference import Example, draw, log_reference
from thermojax.theories.learning_laws.septuple import System
from thermojax.theories.learning_laws.states import check_beta
from thermojax.typing import ArrayLike, PyTree

__all__ = ["as_system"]


@dataclasses.dataclass(frozen=True)
class _Energy:
    network: System

    def __call__(self, theta, control, data):
        return self.network.energy(control, theta, data)


@dataclasses.dataclass(frozen=True)
class _LogDensity:
    network: System

    def __call__(self, theta, control, params):
        example, beta = params
        return log_reference(self.network, control, theta, example, beta)


@dataclasses.dataclass(frozen=True)
class _Draw:
    network: System

    def __call__(self, key, control, params):
        example, beta = params
        return draw(self.network, control, example, beta, key, 1)[0]


def as_system(
    system: System, params: PyTree, example: Example, *, beta: ArrayLike = 1.0
) -> CoreSystem:
    """The states of a network under one example as a `tj.System`.

        U(x; q) = H(x; q),   theta = x_free (n,),   control = q = params,   m = Lebesgue

    `tj.log_partition(sys, tj.Point(beta, params), key)` is then this module's log Z of
    that example, in nats: the reference is normalised and only says where tempering
    starts (the noisy forward net; f(b) plus noise for recurrent nets).

    Args:
        system: a network whose free neurons all have a residual.
        params: an example of its trainables, for dtype; the point's control holds those
            that count.
        example: what is clamped; data of the system.
        beta: inverse temperature of the reference; best near the one asked about.

    Returns:
        The core's `System`.

    Raises:
        ValueError: beta <= 0.

    Source: Vanchurin 2021 for the ensemble; the frame is the core's.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> net = dense_network(1, "tanh")
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
        >>> print(f"{as_system(net, params, None).energy(jnp.zeros(1), params):.4f}")
        0.0424
    """
    check_beta(beta)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    like = jnp.zeros((system.free_dim(example),), dtype)
    start = prior(
        _LogDensity(system),
        _Draw(system),
        like=like,
        params=(example, jnp.asarray(beta, dtype)),
    )
    return core_system(_Energy(system), reference=start, like=like, data=example)
