"""The central identity of every kind of ledger, and how exactly it closes.

    Delta S(X) - beta <Q_X>  =  <s_{X|Theta}>  +  I(X_N; Theta_N) - I(X_0; Theta_0)

on a finite state space, on a Gaussian learner, and on ensembles of models that people use:
a restricted Boltzmann machine, a normalising flow and a Gaussian regressor.

Source: specification of the theory, section 2.4 [ours as derived there].
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.reproduction import identity
from thermojax.theories.ppm.finite import FiniteLearner, heat_bath_kernel, joint_marginals
from thermojax.theories.ppm.gaussian import langevin_learner
from thermojax.theories.ppm.gaussian_ledger import gaussian_ledger
from thermojax.theories.ppm.ledger import finite_ledger
from thermojax.theories.ppm.models import BernoulliRBM, CouplingFlow, gaussian_regressor
from thermojax.theories.ppm.sampled import EnsembleLedger, categorical_ledger, sample_ledger
from thermojax.theories.ppm.training import Hyperparameters, Trained, learner, train
from thermojax.typing import Array, Key

__all__ = ["identities"]

_EXACT, _SINGLE = 1e-10, 1e-5


def identities(seed: int = 0) -> list[dict]:
    """Every identity with its residual; rows with `name`, `residual`, `tolerance`, `closes`.

    Rows of trained models also hold `info` (lower and upper bound) and `ep_conditional`,
    in nats.
    """
    with jax.enable_x64(True):
        rows = [*_finite(), *_gaussian()]
    key = jax.random.key(seed)
    makers = (_boltzmann_machine, _flow, _regressor)
    return rows + [make(jax.random.fold_in(key, i)) for i, make in enumerate(makers)]


def _finite() -> list[dict]:
    """Two spins, the datum and a parameter, of section 7 (F1): all in closed form."""
    spin = np.array([-1.0, 1.0])
    energy = -np.outer(spin, spin)
    pull = np.broadcast_to(-0.5 * np.outer(spin, spin)[:, None, :], (2, 2, 2))
    kernel_x = heat_bath_kernel(energy.T, 1.0)
    learning = FiniteLearner(
        *(np.full(2, 0.5), 0.5 * kernel_x[:, 0].T, heat_bath_kernel(pull, 2.0, 0.5), kernel_x),
        energy,
        1.0,
        2.0,
    )
    led = finite_ledger(learning, n_steps=3)
    joint, _ = joint_marginals(learning, n_steps=3)
    mean = np.einsum("nbxt,xt->n", np.asarray(joint), energy)
    gain = np.diff(np.asarray(led.subsystem_info))
    exact = functools.partial(identity, scale=1.0, tolerance=_EXACT)
    flows = led.info_flow_x + led.info_flow_theta
    both = led.ep_total_blind - led.ep_step_x - led.ep_step_theta
    blind = np.sum(led.ep_total_blind - led.ep_total_resolved)
    known = np.asarray(led.joint_b_info)
    return [
        exact("finite states: interval EP", led.ep_x - led.ep_conditional - gain),
        exact("finite states: first law", led.work + led.heat_x - np.diff(mean)),
        exact("finite states: information flows", flows - gain),
        exact("finite states: sub-steps add up", both),
        exact("finite states: blind less resolved EP", blind - (known[-1] - known[0])),
    ]


def _gaussian() -> list[dict]:
    """The scalar Langevin learner of section 7 (G1)."""
    learning = langevin_learner(
        *(1.0, 1.0, 0.1, 0.05),
        data_mean=1.0,
        data_cov=1.0,
        batch_cov=0.5,
        readout=1.0,
        output_cov=0.5,
        mean0=0.0,
        cov0=0.25,
    )
    rows = []
    for source in ("stream", "dataset"):
        led = gaussian_ledger(learning, 50, source)
        gain = np.diff(np.asarray(led.subsystem_info))
        residual = led.ep_x - led.ep_conditional - gain
        rows.append(identity(f"linear Gaussian, {source}: interval EP", residual, 1.0, _EXACT))
    return rows


def _row(name: str, led: EnsembleLedger) -> dict:
    """Closure of an ensemble's ledger, cumulated over its steps, in float32."""
    wide = lambda x: np.asarray(x, float)
    heat = -np.cumsum(wide(led.heat_x))
    entropy, lower = wide(led.entropy_x), wide(led.info_lower)
    paid = entropy[0] - entropy[1:] + lower[1:] - lower[0]
    residual = heat - paid - np.cumsum(wide(led.ep_conditional))
    return {
        **identity(name, residual, max(1.0, float(np.max(np.abs(heat)))), _SINGLE),
        "info": [float(led.info_lower[-1]), float(led.info_upper[-1])],
        "ep_conditional": float(np.sum(wide(led.ep_conditional))),
    }


def _trained(model: Any, hyper: Hyperparameters, data: Any, key: Key, n_steps: int) -> Trained:
    """The path of an ensemble from one initialisation, axis of the seeds kept."""
    start, later = jax.random.split(key)
    count = jax.tree.leaves(data)[0].shape[0]
    theta = model.init(start)
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, 1, *x.shape)), theta)
    learn = learner(model.log_prob, hyper)
    go = lambda params, key: train(learn, data, params, key, n_steps, every=n_steps // 20)
    return jax.jit(go)(params, later)


def _resampled(rows: Array, key: Key, networks: int, count: int) -> Array:
    """[networks, count, ...] rows drawn with replacement."""
    return rows[jax.random.randint(key, (networks, count), 0, rows.shape[0])]


def _boltzmann_machine(key: Key) -> dict:
    """Digits of 2 x 4 bits; all 256 samples enumerated."""
    from thermojax.datasets import load

    images = np.asarray(load("digits", test_fraction=0.0).inputs).reshape(-1, 2, 4, 4, 2)
    small = images.mean((2, 4)).reshape(-1, 8)
    bits = jnp.asarray((small > np.median(small, axis=0)).astype(np.float32))
    model = BernoulliRBM(8, 6)
    first, second = jax.random.split(key)
    data = _resampled(bits, first, 16, 64)
    path = _trained(model, Hyperparameters(0.2), data, second, 200).trace
    table = jax.jit(jax.vmap(jax.vmap(model.log_table)))
    log_p = table(jax.tree.map(lambda x: x[:, :, 0], path))
    return _row("restricted Boltzmann machine: interval EP", categorical_ledger(log_p))


def _flow(key: Key) -> dict:
    """Points on a noisy circle; reparameterised samples."""
    keys = jax.random.split(key, 5)
    angle = 2 * jnp.pi * jax.random.uniform(keys[0], (500,))
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    points = circle + 0.2 * jax.random.normal(keys[1], circle.shape)
    model = CouplingFlow(2, 4, 8)
    data = _resampled(points, keys[2], 16, 64)
    path = _trained(model, Hyperparameters(0.1), data, keys[3], 200).trace
    book = jax.jit(lambda path, k: _from_samples((model.log_prob, model.sample), path, k, 64))
    led = book(path, keys[4])
    return _row("normalising flow: interval EP", led)


def _from_samples(model_at: Any, path: Any, key: Key, count: int) -> EnsembleLedger:
    """Ledger of [N+1, E, 1] networks from `count` fresh samples of each; under jit.

    Args:
        model_at: (log_prob, sample) at fixed inputs, if any.
        path: parameters.
        key: of the samples.
        count: samples per network and state.
    """
    log_prob, sample = model_at
    path = jax.tree.map(lambda x: x[:, :, 0], path)
    states, networks = jax.tree.leaves(path)[0].shape[:2]
    keys = jax.random.split(key, (states, networks, count))
    each = jax.vmap(sample, in_axes=(0, None))
    return sample_ledger(log_prob, path, jax.vmap(jax.vmap(each))(keys, path))


def _regressor(key: Key) -> dict:
    """Diabetes: p(y | u, theta) at ten quenched inputs, means and noise both learned."""
    from thermojax.datasets import load

    rows = load("diabetes")
    inputs, targets = jnp.asarray(rows.inputs), jnp.asarray(rows.targets)
    model = gaussian_regressor((4,), inputs.shape[1])
    first, second, third = jax.random.split(key, 3)
    pick = jax.random.randint(first, (16, 64), 10, len(targets))
    data = (inputs[pick], targets[pick])
    path = _trained(model, Hyperparameters(0.05), data, second, 200).trace

    def at(args):
        u, key = args
        log_prob = lambda theta, y: model.log_prob(theta, (u, y))
        return _from_samples((log_prob, lambda k, t: model.sample(k, t, u)), path, key, 16)

    ledgers = jax.jit(lambda pairs: jax.lax.map(at, pairs))(
        (inputs[:10], jax.random.split(third, 10))
    )
    mean = jax.tree.map(lambda x: np.mean(np.asarray(x, float), axis=0), ledgers)
    return _row("Gaussian regressor: interval EP", mean)
