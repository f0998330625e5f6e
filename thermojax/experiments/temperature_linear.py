"""Experiment A: the temperature of linear models on diabetes against the inputs' scale.

    T(c) = (E_init - E_min) / S_delta       inputs c x, w ~ N(0, sigma^2), no bias

by closed forms, beside the two differential temperatures of the initialiser, T_scale and
T_flow, from drawn ensembles. Only the minimum of mae needs a linear programme.

Source: specification of the theory, 3 and 9 A; our definitions, following the programme of
Zhang (2024).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.datasets import load
from thermojax.experiments.reproduction import identity
from thermojax.temperatures import flow_temperature, virial_temperature
from thermojax.theories.temperature.densities import Normal, Uniform
from thermojax.theories.temperature.linear import linear_transition
from thermojax.theories.temperature.linear_losses import linear_energy, linear_loss
from thermojax.theories.temperature.linear_minimum import linear_minimum
from thermojax.theories.temperature.shift import refresh_heat, shift_work
from thermojax.typing import Array, Key

__all__ = ["LOSSES", "LinearConfig", "linear_identities", "run_linear", "run_linear_draw"]

LOSSES = ("mse", "mae", "bce")


@dataclasses.dataclass(frozen=True)
class LinearConfig:
    """Settings of experiment A.

    Attributes:
        scales: c, factors of the inputs; the last two give the slope.
        sigmas: scales of the initialiser, at c = 1.
        resolution: delta to which weights are known.
        members: of the drawn ensembles.
    """

    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    sigmas: tuple[float, ...] = tuple(float(s) for s in np.geomspace(1e-3, 10, 17))
    resolution: float = 0.01
    members: int = 2000

    def __post_init__(self):
        if len(self.scales) < 2 or not np.all(np.diff(self.scales) > 0) or self.scales[0] <= 0:
            raise ValueError(f"scales={self.scales} must increase from above 0")
        if self.resolution <= 0 or self.members < 2:
            raise ValueError(
                f"resolution={self.resolution} must be positive and members={self.members} at "
                "least 2"
            )


def _targets(y: Array, loss: str) -> Array:
    return (y > 0).astype(y.dtype) if loss == "bce" else y


def _data() -> tuple[Array, Array]:
    rows = load("diabetes")
    return jnp.asarray(rows.inputs), jnp.asarray(rows.targets)


def run_linear(config: LinearConfig) -> dict[str, np.ndarray]:
    """What closed forms say: name -> array, the losses along axis 0."""
    x, y = _data()
    scales, sigmas = jnp.asarray(config.scales), jnp.asarray(config.sigmas)
    out: dict[str, list] = {name: [] for name in ("temperature", "energy", "entropy")}
    lowest, by_sigma, family = [], [], []
    for loss in LOSSES:
        labels = _targets(y, loss)
        found = linear_minimum(x, labels, loss=loss, fit_intercept=False)

        def change(scale, sigma, labels=labels, loss=loss, low=found.energy):
            init = {"w": Normal(0.0, sigma), "b": None}
            return linear_transition(
                scale * x, labels, init, loss=loss, resolution=config.resolution, minimum=low
            )

        both = jax.jit(jax.vmap(change))
        every = both(
            jnp.concatenate([scales, jnp.ones_like(sigmas)]),
            jnp.concatenate([jnp.ones_like(scales), sigmas]),
        )
        count = len(scales)
        out["temperature"].append(every.temperature[:count])
        out["energy"].append(every.delta_energy[:count])
        out["entropy"].append(every.delta_entropy[:count])
        lowest.append(found.energy)
        by_sigma.append(every.temperature[count:])
        family.append(
            [
                linear_energy(x, labels, {"w": density, "b": None}, loss=loss)
                for density in (Normal(0.0, 1.0), Uniform(0.0, 3**0.5))
            ]
        )
    inputs, targets = np.asarray(x, float), np.asarray(y, float)
    gram = inputs.T @ inputs / len(x)
    best = np.linalg.lstsq(inputs, targets)[0]
    # U = (w - w*/c) c^2 G (w - w*/c) + const: <|grad U|^2> / lap U of w ~ N(0, 1)
    square, trace, offset = np.trace(gram @ gram), np.trace(gram), gram @ best
    flow = [2 * c**2 * (square + offset @ offset / c**2) / trace for c in config.scales]
    arrays = {f"a_{name}": np.asarray(values, float) for name, values in out.items()}
    return arrays | {
        "a_scale": np.asarray(config.scales),
        "a_sigma": np.asarray(config.sigmas),
        "a_minimum": np.asarray(lowest, float),
        "a_temperature_of_sigma": np.asarray(by_sigma, float),
        "a_family": np.asarray(family, float),
        "a_index": np.asarray(square / trace),
        "a_flow_exact": np.asarray(flow),
    }


def run_linear_draw(config: LinearConfig, key: Key) -> dict[str, np.ndarray]:
    """One draw of the initialiser's differential temperatures, [loss, scale]."""
    x, y = _data()
    weights = jax.random.normal(key, (config.members, x.shape[1]))
    rows: dict[str, list] = {name: [] for name in _READ}
    for loss in LOSSES:
        labels = _targets(y, loss)

        def read(scale, labels=labels, loss=loss):
            energy = lambda w: jnp.mean(linear_loss(scale * (x @ w), labels, loss))
            virial = virial_temperature(energy, weights)
            flow = flow_temperature(
                energy, weights, curvature="score", score=lambda w: -w, batch_size=250
            )
            return virial.total, virial.stderr, flow.total, flow.stderr

        found = jax.jit(lambda scales, read=read: jax.lax.map(read, scales))
        values = found(jnp.asarray(config.scales))
        for name, value in zip(_READ, values, strict=True):
            rows[name].append(value)
    return _naive(x, y, weights, key) | {
        name: np.asarray(values, float) for name, values in rows.items()
    }


def _naive(x: Array, y: Array, weights: Array, key: Key) -> dict[str, np.ndarray]:
    """T_flow of mae at c = 1 by automatic differentiation, and with the exact curvature.

    <lap U> = 2 mean_i |x_i|^2 p_i(0), p_i the density of the residual x_i . w - y_i, which
    differentiation cannot see: the slope of |r| jumps.
    """
    energy = lambda w: jnp.mean(jnp.abs(x @ w - y))
    naive = jax.jit(lambda w: flow_temperature(energy, w, key=key, batch_size=250))(weights)
    squares = jax.lax.map(lambda w: jnp.sum(jax.grad(energy)(w) ** 2), weights, batch_size=250)
    length = jnp.sqrt(jnp.sum(x**2, axis=1))
    bend = 2 * jnp.mean(length**2 * jax.scipy.stats.norm.pdf(0.0, -y, length))
    return {
        "a_naive": np.asarray(naive.total, float),
        "a_naive_flags": np.asarray(naive.flags),
        "a_kinked": np.asarray(jnp.mean(squares) / bend, float),
    }


_READ = ("a_virial", "a_virial_stderr", "a_flow", "a_flow_stderr")


def linear_identities(arrays: dict[str, np.ndarray]) -> list[dict]:
    """Coexistence, and the first law of a shift of the data with re-training, in closed form.

    Diabetes is cut in two halves; the model trained on one moves to the other and back.
    """
    energy, entropy = arrays["a_energy"], arrays["a_entropy"]
    gap = energy - arrays["a_temperature"] * entropy
    rows = [identity("linear models: equal free energies at T", gap, energy, 1e-5)]
    with jax.enable_x64(True):
        x, y = (jnp.asarray(v, jnp.float64) for v in _data())
        half = len(y) // 2
        first, second = (x[:half], y[:half]), (x[half:], y[half:])
        fits = [
            linear_minimum(*part, loss="mse", fit_intercept=False).params["w"]
            for part in (first, second)
        ]
        one, two = (w[None] for w in fits if w is not None)
        energy_of = lambda w, data: jnp.mean((data[0] @ w - data[1]) ** 2)
        work = float(shift_work(energy_of, first, second, one))
        heat = float(refresh_heat(energy_of, second, one, two))
        back = float(shift_work(energy_of, second, first, two))
        again = float(refresh_heat(energy_of, first, two, one))
        gram = second[0].T @ second[0] / len(second[1])
        latent = float((one - two)[0] @ gram @ (one - two)[0])
    cycle = work + heat + back + again
    rows.append(identity("shift and refresh: work + heat of a cycle", cycle, work, 1e-10))
    rows.append(identity("refresh: heat is (w - w') G (w - w')", heat + latent, latent, 1e-9))
    return rows
