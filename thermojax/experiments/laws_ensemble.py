"""Experiment D: what gradient descent does to the entropy of an ensemble of small networks.

    S_q = - int p log p dq,     q' = q - eta grad F,     Delta S_q = <log |det(1 - eta H)|>

The accumulated log-determinant is exact; nearest neighbours on whitened members, on plain
ones, and a Gaussian fit estimate the same change from the members alone; -eta <lap F> is
its first order.

Source: specification of the theory, sections 2.6 and 8 D.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.curvature import laplacian
from thermojax.estimators.knn import gaussian_entropy, knn_entropy
from thermojax.theories.learning_laws.ensemble import total_free_energy
from thermojax.theories.learning_laws.entropy_rates import gd_entropy_change
from thermojax.theories.learning_laws.septuple import layered_network
from thermojax.typing import Array, Key, PyTree

__all__ = ["EnsembleConfig", "run_ensemble"]

_X, _Y = (-1.0, 0.2, 0.9), (-0.3, 0.1, 0.5)
_WEIGHTS, _BIASES, _SPREAD = (0.6, 0.8, 0.5), (0.1, 0.0, 0.1), 0.2
_SYSTEM = layered_network((1, 1, 1, 1), "tanh")


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Settings of experiment D.

    Attributes:
        members: networks of the ensemble.
        beta: inverse temperature of the states.
        rate: step size of gradient descent on F.
        readings: steps after which the entropy is read, rising.
    """

    members: int = 4096
    beta: float = 4.0
    rate: float = 0.05
    readings: tuple[int, ...] = (5, 10, 20)

    def __post_init__(self):
        if self.members < 16 or not self.rate > 0 or not self.beta > 0:
            raise ValueError(
                f"members={self.members} must be at least 16, rate={self.rate} and "
                f"beta={self.beta} positive"
            )
        if min(self.readings) < 1 or list(self.readings) != sorted(set(self.readings)):
            raise ValueError(f"readings={self.readings} must be at least 1, and rise")


def _free_energy(beta: Array, params: PyTree) -> Array:
    data = {"x": jnp.array(_X)[:, None], "y": jnp.array(_Y)[:, None]}
    return total_free_energy(_SYSTEM, params, data, beta, method="linearized")


def _draw(key: Key, members: int) -> PyTree:
    noise = _SPREAD * jax.random.normal(key, (2, 3, members))
    return [
        ((w + noise[0, i])[:, None, None], (b + noise[1, i])[:, None])
        for i, (w, b) in enumerate(zip(_WEIGHTS, _BIASES, strict=True))
    ]


@functools.partial(jax.jit, static_argnames=("steps",))
def _descend(params: PyTree, beta: Array, rate: Array, steps: int):
    """Members after `steps`; the exact and the first-order change of their entropy."""
    free = functools.partial(_free_energy, beta)

    def one(q):
        exact = gd_entropy_change(free, q, rate).value
        first = -rate * laplacian(free, q, method="exact").value
        moved = jax.tree.map(lambda x, f: x - rate * f, q, jax.grad(free)(q))
        return moved, exact, first

    def step(carry, _):
        moved, exact, first = jax.vmap(one)(carry)
        return moved, (jnp.mean(exact), jnp.mean(first))

    params, (exact, first) = jax.lax.scan(step, params, length=steps)
    return params, jnp.sum(exact), jnp.sum(first)


@jax.jit
def _estimates(params: PyTree) -> Array:
    found = (knn_entropy(params), knn_entropy(params, whiten=False), gaussian_entropy(params))
    return jnp.stack([estimate.value for estimate in found])


def run_ensemble(
    config: EnsembleConfig, seed: int, say: Callable[[float, str], None]
) -> dict[str, np.ndarray]:
    """One draw of experiment D, in double precision.

    `d_change` is [reading, (log-det, first order, whitened, plain, Gaussian fit)], nats.

    Args:
        config: settings.
        seed: of the members.
        say: progress.
    """
    with jax.enable_x64(True):
        params = _draw(jax.random.key(seed), config.members)
        start = _estimates(params)
        rows, exact, first, done = [], 0.0, 0.0, 0
        for reading in config.readings:
            say(done / config.readings[-1], f"step {done} of the ensemble")
            params, more, more_first = _descend(
                params, jnp.asarray(config.beta), jnp.asarray(config.rate), reading - done
            )
            exact, first, done = exact + float(more), first + float(more_first), reading
            rows.append([exact, first, *(np.asarray(_estimates(params) - start))])
    return {"d_change": np.array(rows, float)}
