"""Experiment E: the learning efficiency of trained networks against their depth.

    efficiency = lap_q F at beta = 1, 10 and beta*,    F = - T log Z per example, linearised

    F = 1/2 e' S_out^-1 e + T/2 log det S_out + const

with the Laplacian of the second part, the complexity's, apart.

Source: specification of the theory, sections 2.7 and 8.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.curvature import laplacian
from thermojax.experiments.laws_training import TrainingConfig, train_networks
from thermojax.theories.learning_laws.calibration import calibrate_beta
from thermojax.theories.learning_laws.ensemble import thermodynamic_state
from thermojax.theories.learning_laws.septuple import System
from thermojax.theories.learning_laws.settling import boundary_loss
from thermojax.typing import Array, Key, PyTree

__all__ = ["DepthConfig", "run_depths"]


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """Settings of experiment E.

    Attributes:
        training: of the networks.
        depths: numbers of hidden layers.
        steps: of training.
        betas: fixed inverse temperatures; beta* is read besides.
        probes: of the Laplacians.
    """

    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    depths: tuple[int, ...] = (1, 2, 3, 5, 8)
    steps: int = 1500
    betas: tuple[float, ...] = (1.0, 10.0)
    probes: int = 8

    def __post_init__(self):
        if len(self.depths) < 2 or list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"depths={self.depths} must be at least two, and rise")
        if min(self.depths) < 1 or self.steps < 1 or min(self.betas) <= 0:
            raise ValueError(
                f"depths={self.depths} and steps={self.steps} must be at least 1, "
                f"betas={self.betas} positive"
            )


def _laplacians(
    system: System,
    betas: tuple[float, ...],
    probes: int,
    params: PyTree,
    data: PyTree,
    key: Key,
) -> tuple[Array, Array, Array]:
    """beta*; Laplacians and their errors of F at every beta, of the loss, of log det / 2."""
    star = calibrate_beta(system, params, data)

    def parts(q):
        # at beta = 1, C + E = -1/2 log det S_out and E = H_min, from which every F follows
        state = thermodynamic_state(system, q, data, 1.0, method="linearized", reduction="mean")
        least, half_log_det = state.excess, -(state.complexity + state.excess)
        return least, half_log_det, boundary_loss(system, q, data, "mean")

    # the same probes for all: the Laplacian is linear
    found = [
        laplacian(lambda q, i=i: parts(q)[i], params, probes=probes, key=key) for i in range(3)
    ]
    least, half_log_det, loss = found
    every = jnp.append(jnp.asarray(betas, star.dtype), star)
    values = jnp.stack([*(least.value + half_log_det.value / every), loss.value])
    errors = jnp.stack([*jnp.hypot(least.stderr, half_log_det.stderr / every), loss.stderr])
    return star, jnp.append(values, half_log_det.value), jnp.append(errors, half_log_det.stderr)


@functools.partial(jax.jit, static_argnames=("system", "betas", "probes"))
def _read(system, betas, probes, params, data, keys):
    one = lambda item: _laplacians(system, betas, probes, item[0], data, item[1])
    return jax.lax.map(one, (params, keys))


def run_depths(
    config: DepthConfig, seed: int, say: Callable[[float, str], None]
) -> dict[str, np.ndarray]:
    """One draw of experiment E, in double precision; axes [depth, network, ...].

    The last axis of `e_efficiency` runs over the fixed temperatures and beta*.

    Args:
        config: settings.
        seed: of the draw.
        say: progress.
    """
    stars, values, errors, sizes, losses = [], [], [], [], []
    with jax.enable_x64(True):
        for i, depth in enumerate(config.depths):
            say(i / len(config.depths), f"{depth} hidden layers")
            record = train_networks(config.training, depth, seed, every=config.steps, count=1)
            last = jax.tree.map(lambda x: x[:, -1], record.params)
            key = jax.random.fold_in(jax.random.key(seed), 100 + depth)
            star, value, error = _read(
                record.system,
                config.betas,
                config.probes,
                last,
                record.data,
                jax.random.split(key, config.training.networks),
            )
            stars.append(star)
            values.append(value)
            errors.append(error)
            sizes.append(sum(x[0].size for x in jax.tree.leaves(last)))
            loss = jax.vmap(lambda q: boundary_loss(record.system, q, record.data, "mean"))  # noqa: B023
            losses.append(loss(last))
    value, error = np.asarray(jnp.stack(values), float), np.asarray(jnp.stack(errors), float)
    return {
        "e_beta": np.asarray(jnp.stack(stars), float),
        "e_loss": np.asarray(jnp.stack(losses), float),
        "e_efficiency": value[..., :-2],
        "e_efficiency_stderr": error[..., :-2],
        "e_loss_laplacian": value[..., -2],
        "e_complexity_laplacian": value[..., -1],
        "e_size": np.array(sizes),
    }
