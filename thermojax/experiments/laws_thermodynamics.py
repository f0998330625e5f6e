"""Experiments A to C: entropy, complexity and the first law while networks learn digits.

    A  loss, beta*, S, C and E at checkpoints of training, two Laplacians
    B  does log Z factorise? temperatures against networks
    C  the first law along a path from checkpoint to checkpoint

log Z is the linearised one, per example. beta* is the inverse temperature that fits the loss
(`calibrate_beta`), so that it rises while learning.

Source: specification of the theory, section 8.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.curvature import laplacian
from thermojax.experiments.laws_training import Record, TrainingConfig, train_networks
from thermojax.theories.learning_laws.calibration import calibrate_beta
from thermojax.theories.learning_laws.efficiency import learning_efficiency
from thermojax.theories.learning_laws.ensemble import thermodynamic_state, total_free_energy
from thermojax.theories.learning_laws.factorization import energetic_fraction, interaction
from thermojax.theories.learning_laws.first_law import first_law
from thermojax.theories.learning_laws.septuple import System
from thermojax.theories.learning_laws.settling import boundary_loss
from thermojax.theories.learning_laws.states import State
from thermojax.typing import Array, Key, PyTree

__all__ = ["PointReading", "StatesConfig", "run_thermodynamics"]

_CLOSED: Any = {"method": "linearized", "reduction": "mean"}


@dataclasses.dataclass(frozen=True)
class StatesConfig:
    """Settings of experiments A to C.

    Attributes:
        training: of the networks.
        depth: hidden layers.
        every: steps between records.
        checkpoints: steps at which the state of learning is read, multiples of `every`.
        betas: temperatures of experiment B, and of the entropies at fixed temperature.
        probes: of the Laplacians.
        spacing: steps between the corners of the path of experiment C.
        refinements: points on each of its sides, each twice the one before.
    """

    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    depth: int = 2
    every: int = 20
    checkpoints: tuple[int, ...] = (0, 100, 300, 1000, 2000)
    betas: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
    probes: int = 16
    spacing: int = 80
    refinements: tuple[int, ...] = (4, 8, 16)

    def __post_init__(self):
        steps = (*self.checkpoints, self.spacing)
        if any(step % self.every for step in steps) or list(self.checkpoints) != sorted(
            set(self.checkpoints)
        ):
            raise ValueError(
                f"checkpoints={self.checkpoints} must rise, and they and spacing="
                f"{self.spacing} be multiples of every={self.every}"
            )
        if len(self.checkpoints) < 2 or self.checkpoints[-1] % self.spacing:
            raise ValueError(
                f"checkpoints={self.checkpoints} must be at least two, the last a multiple of "
                f"spacing={self.spacing}"
            )
        if len(self.betas) < 2 or min(self.betas) <= 0:
            raise ValueError(f"betas={self.betas} must be at least two, and positive")
        twice = [2 * n for n in self.refinements[:-1]]
        if len(self.refinements) < 2 or twice != list(self.refinements[1:]):
            raise ValueError(
                f"refinements={self.refinements} must be at least two, each twice the last"
            )


class PointReading(NamedTuple):
    """One network at one time, per example.

    Attributes:
        loss: boundary loss, 1/2 |y - yhat|^2.
        beta: beta*.
        state: at beta*.
        fixed: states at the fixed temperatures, leading axis over them.
        energetic: share of energy in the force at beta*.
        efficiency: Laplacian of F at beta*, and its standard error over probes.
        loss_laplacian: Laplacian of the boundary loss, likewise.
    """

    loss: Array
    beta: Array
    state: State
    fixed: State
    energetic: Array
    efficiency: tuple[Array, Array]
    loss_laplacian: tuple[Array, Array]


def _read(
    system: System,
    betas: tuple[float, ...],
    probes: int,
    params: PyTree,
    data: PyTree,
    key: Key,
) -> PointReading:
    beta = calibrate_beta(system, params, data)
    at = lambda b: thermodynamic_state(system, params, data, b, **_CLOSED)
    force = energetic_fraction(system, params, data, beta, **_CLOSED)
    first, second = jax.random.split(key)
    efficiency = learning_efficiency(
        system, params, data, beta, laplacian="hutchinson", probes=probes, key=first, **_CLOSED
    )
    curved = laplacian(
        lambda q: boundary_loss(system, q, data, "mean"), params, probes=probes, key=second
    )
    return PointReading(
        boundary_loss(system, params, data, "mean"),
        beta,
        at(beta),
        jax.lax.map(at, jnp.asarray(betas, beta.dtype)),
        force.fraction,
        (efficiency.value, efficiency.stderr),
        (curved.value, curved.stderr),
    )


@functools.partial(jax.jit, static_argnames=("system", "betas", "probes"))
def _read_all(system, betas, probes, params, data, keys) -> PointReading:
    """[network, checkpoint] of readings, one after the other."""
    shape = keys.shape
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), params)
    one = lambda item: _read(system, betas, probes, item[0], data, item[1])
    found = jax.lax.map(one, (flat, keys.reshape(-1)))
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)


@functools.partial(jax.jit, static_argnames=("system", "sides"))
def _law_of(system: System, sides: int, corners: PyTree, data: PyTree):
    """First law at beta* along straight lines between networks, `sides` points on each.

    In all, and the residual on each line: these have one sign each, so that the sum of
    their magnitudes falls as the steps do where the residual in all happens to cross zero.
    """

    def fill(x):
        weight = (jnp.arange(sides) / sides).reshape(-1, *[1] * (x.ndim - 1))
        inner = x[:-1, None] + weight * (x[1:] - x[:-1])[:, None]
        return jnp.concatenate([inner.reshape(-1, *x.shape[1:]), x[-1:]])

    def one(q):
        beta = calibrate_beta(system, q, data)
        free = lambda p: total_free_energy(system, p, data, beta, **_CLOSED)
        return (
            beta,
            thermodynamic_state(system, q, data, beta, **_CLOSED),
            jax.grad(free)(q),
        )

    path = jax.tree.map(fill, corners)
    betas, states, forces = jax.lax.map(one, path)
    count = (betas.size - 1) // sides
    ends = sides * jnp.arange(count)[:, None] + jnp.arange(sides + 1)
    side = jax.tree.map(lambda x: x[ends], (states, betas, path, forces))
    return first_law(states, betas, path, forces), jax.vmap(first_law)(*side).residual


def _first_laws(config: StatesConfig, record: Record) -> dict[str, np.ndarray]:
    """Experiment C on the first network of a draw."""
    thin = config.spacing // config.every
    corners = jax.tree.map(lambda x: x[0, ::thin], record.params)
    found = [_law_of(record.system, n, corners, record.data) for n in config.refinements]
    laws = [law for law, _ in found]
    names = ("delta_u", "heat", "work", "residual", "residual_th", "residual_sum")
    arrays = {f"c_{n}": np.array([float(getattr(law, n)) for law in laws]) for n in names}
    hidden = config.depth * config.training.width
    outputs = record.data["y"].shape[1]
    return arrays | {
        "c_defect": np.array([float(jnp.sum(jnp.abs(each))) for _, each in found]),
        "c_delta_complexity": np.array(float(laws[-1].delta_complexity)),
        "c_delta_entropy_ref": np.array(float(laws[-1].delta_entropy_ref)),
        "c_ratio": np.array((hidden + outputs) / hidden),
    }


def run_thermodynamics(
    config: StatesConfig, seed: int, say: Callable[[float, str], None]
) -> dict[str, np.ndarray]:
    """One draw of experiments A to C, in double precision; axes [network, checkpoint, ...].

    Args:
        config: settings.
        seed: of the draw.
        say: progress.
    """
    with jax.enable_x64(True):
        say(0.0, "training")
        count = config.checkpoints[-1] // config.every
        record = train_networks(
            config.training, config.depth, seed, every=config.every, count=count
        )
        at = np.array(config.checkpoints) // config.every
        chosen = jax.tree.map(lambda x: x[:, at], record.params)
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), 1), (config.training.networks, len(at))
        )
        say(0.2, "states of learning")
        found = _read_all(record.system, config.betas, config.probes, chosen, record.data, keys)
        jax.block_until_ready(found.loss)
        say(0.8, "first law")
        return _arrays(found) | _first_laws(config, record)


def _arrays(found: PointReading) -> dict[str, np.ndarray]:
    state, fixed = found.state, found.fixed
    energy = state.excess / found.beta
    log_z = np.asarray(fixed.log_z)
    split = [interaction(log_z[:, k].T) for k in range(log_z.shape[1])]
    arrays = {
        "a_loss": found.loss,
        "a_beta": found.beta,
        "a_least_energy": energy,
        "a_half_log_det": -(state.complexity + state.excess),
        "a_entropy": state.entropy,
        "a_entropy_ref": state.entropy_ref,
        "a_complexity": state.complexity,
        "a_excess": state.excess,
        "a_energetic": found.energetic,
        "a_efficiency": found.efficiency[0],
        "a_efficiency_stderr": found.efficiency[1],
        "a_loss_laplacian": found.loss_laplacian[0],
        "a_fixed_entropy": fixed.entropy,
        "b_log_z": fixed.log_z,
        "b_fraction": np.array([float(s.fraction) for s in split]),
        "b_rms": np.array([float(s.rms) for s in split]),
    }
    return {name: np.asarray(values, float) for name, values in arrays.items()}
