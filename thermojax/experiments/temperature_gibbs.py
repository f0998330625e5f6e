"""Experiment D: an ensemble that has a temperature, and one that has none.

A small tanh network on diabetes, sampled at temperature T by the core's MALA,

    p(theta) ~ exp(-U / T) m(theta) = exp(-F / T),   F = U - T ln m

where every differential temperature of F, by layer, must be T; and the same network drawn
from its initialiser, where they differ.

Source: specification of the theory, 0; hypervirial theorem.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.adaptation import adapt
from thermojax.datasets import load
from thermojax.dynamics.langevin import mala
from thermojax.ensembles import init_ensemble, run
from thermojax.experiments.temperature_networks import forward, index_of
from thermojax.priors import Prior, gaussian_prior
from thermojax.system import Point, System, system
from thermojax.temperatures import Temperatures
from thermojax.theories.temperature.report import temperature_report
from thermojax.typing import Array, PyTree

__all__ = ["GibbsConfig", "run_gibbs"]


@dataclasses.dataclass(frozen=True)
class GibbsConfig:
    """Settings of experiment D.

    Attributes:
        rows: of diabetes.
        width: units of each of two hidden layers.
        temperature: T of the bath, in units of the summed squared error.
        scale: of the initialiser, N(0, scale^2 / fan_in), which is the prior as well.
        chains: of MALA; their last states are the ensemble.
        warm_up: steps of adaptation.
        steps: after it.
    """

    rows: int = 30
    width: int = 4
    temperature: float = 2.0
    scale: float = 1.0
    chains: int = 256
    warm_up: int = 600
    steps: int = 1000

    def __post_init__(self):
        if not (self.temperature > 0 and self.scale > 0):
            raise ValueError(
                f"temperature={self.temperature} and scale={self.scale} must be positive"
            )
        if self.chains < 8:
            raise ValueError(f"chains={self.chains} are too few: at least 8")


def _shapes(config: GibbsConfig) -> PyTree:
    sizes = (10, config.width, config.width, 1)
    pairs = enumerate(itertools.pairwise(sizes))
    return {f"layer_{i + 1}": jnp.zeros(pair) for i, pair in pairs}


def _data(config: GibbsConfig, seed: int) -> tuple[Array, Array]:
    """Rows of diabetes."""
    data = load("diabetes")
    keep = np.random.default_rng(seed).permutation(len(data.targets))[: config.rows]
    return jnp.asarray(data.inputs[keep]), jnp.asarray(data.targets[keep])


def _energy(theta: PyTree, control: PyTree, data: tuple[Array, Array]) -> Array:
    """Summed squared error of a tanh network."""
    x, y = data
    return jnp.sum((forward(theta, x, index_of("tanh"))[0][:, 0] - y) ** 2)


def _sampled(sys: System, config: GibbsConfig, seed: int) -> PyTree:
    """Last states of independent chains, all started from the prior."""
    keys = jax.random.split(jax.random.key(seed), 3)
    point = Point(1.0 / config.temperature)
    kernel = mala(sys, step_size=0.05)
    st = init_ensemble(kernel, keys[0], point, config.chains)
    st, found = adapt(kernel, keys[1], st, point, config.warm_up, rounds=20)
    st, _ = run(kernel, keys[2], st, point, config.steps, params=found.params, ledger="none")
    return st.position


def _rows(read: dict[str, Temperatures]) -> tuple[np.ndarray, np.ndarray]:
    """[thermometer, whole and layers] values and errors, flow before virial."""
    values, errors = [], []
    for name in ("flow", "virial"):
        row = read[name]
        values.append([row.total, *row.blocks.values()])
        errors.append([row.stderr, *row.block_stderr.values()])
    return np.asarray(values, float), np.asarray(errors, float)


@jax.jit
def _report(ensemble: PyTree, data: tuple[Array, Array], temperature: Array, prior: Prior):
    def free(theta):
        return _energy(theta, (), data) - temperature * prior.log_density(theta)

    return temperature_report(free, ensemble)


def run_gibbs(config: GibbsConfig, seed: int) -> dict[str, np.ndarray]:
    """One draw: temperatures [thermometer, whole and layers] of both ensembles."""
    prior = gaussian_prior(config.scale, like=_shapes(config), fan_in=True)
    data = _data(config, seed)
    canonical = _sampled(system(_energy, prior=prior, data=data), config, seed)
    keys = jax.random.split(jax.random.key(seed + 1000), config.chains)
    out = {}
    for name, ensemble in (("gibbs", canonical), ("initial", jax.vmap(prior.sample)(keys))):
        found = _report(ensemble, data, jnp.asarray(config.temperature), prior)
        out[f"d_{name}"], out[f"d_{name}_stderr"] = _rows(found)
    return out
