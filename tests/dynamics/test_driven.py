"""Optimisers as baths, against the second moments of their linear chains (core 2.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import thermojax as tj
from tests.dynamics.minibatches import TILE, WALKERS, louder, problem
from tests.scores import ULPS, caught, check, ulp

BATCH, MU = 6, 0.7
POINT = tj.Point(1.0)


def wells():
    """Equal curvatures, so that the gradient noise is additive; k = 1.6 in all."""
    p = problem(d=1)
    k = np.full_like(p.curvatures, 1.6 / p.size)
    return p._replace(curvatures=k)


def sgd_law(h, k, s2):
    return h * s2 / 2 / (1 - h * k / 2) / k, None


def momentum_law(h, k, s2):
    gap = 2 * (1 + MU) - h * k
    return h * s2 * (1 + MU) / ((1 - MU) * k * gap), 2 * h * h * s2 / ((1 - MU) * gap)


def nesterov_law(h, k, s2):
    q = h * k
    m = MU * (1 - q)
    return h * h * s2 * (1 + m) / ((1 - m) * q * (2 - q + 2 * MU * (1 - q))), None


OPTIMISERS = {
    "sgd": (optax.sgd, {}, sgd_law),
    "momentum": (optax.sgd, {"momentum": MU}, momentum_law),
    "nesterov": (optax.sgd, {"momentum": MU, "nesterov": True}, nesterov_law),
    "decay": (None, {}, lambda h, k, s2: sgd_law(h, k + 0.5, s2)),
}


def bath(name, h, p, gradient=None):
    make, options, _ = OPTIMISERS[name]
    rate = h * p.size
    tx = (
        optax.chain(optax.add_decayed_weights(0.5 / p.size), optax.sgd(rate))
        if make is None
        else make(rate, **options)
    )
    return tj.driven(tx, p.system(), tj.minibatch(BATCH) if gradient is None else gradient)


def settled(kernel, variance, n_steps):
    x = np.random.default_rng(0).normal(size=(WALKERS, 1)) * np.sqrt(variance)
    st = tj.init_ensemble(
        kernel, jax.random.key(0), POINT, WALKERS, TILE, positions=jnp.float32(x)
    )
    return tj.run(kernel, jax.random.key(1), st, POINT, n_steps, ledger="none")


def position(name, st, h):
    """x of the table: optax keeps Nesterov's look-ahead point y = x + mu v instead."""
    x = np.asarray(st.position, float)
    if name == "nesterov":
        trace = st.walkers.bath.opt_state[0].trace
        return x + MU * h * np.asarray(trace, float) * 16
    return x


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("h", [0.2, 0.7])
def test_stationary_law(name, h):
    p = wells()
    k, s2 = p.stiffness[0, 0], p.additive(BATCH, False)[0, 0]
    exact, displacement = OPTIMISERS[name][2](h, k, s2)
    st, out = settled(bath(name, h, p), exact, 60)
    assert not np.any(out["flags"])
    check(position(name, st, h) ** 2, exact)
    if displacement is not None:
        check(np.asarray(st.walkers.bath.displacement, float) ** 2, displacement)
    # power: replacement mistaken, and N/n omitted
    caught(position(name, st, h) ** 2, exact * (p.size - 1) / (p.size - BATCH))
    caught(position(name, st, h) ** 2, OPTIMISERS[name][2](1.05 * h, k, s2)[0])


def test_injected_noise_sets_the_temperature():
    """Full-batch SGD with noise is Euler-Maruyama: T / k / (1 - hk/2)."""
    p, h, temperature = wells(), 0.5, 0.3
    k, rate = p.stiffness[0, 0], h * p.size
    make = lambda t: tj.driven(
        optax.sgd(rate), p.system(), tj.full(), inject_T=t, learning_rate=rate
    )
    exact = temperature / k / (1 - h * k / 2)
    st, _ = settled(make(temperature), exact, 25)
    check(np.asarray(st.position, float) ** 2, exact)
    hot, _ = settled(make(1.05 * temperature), exact, 25)
    caught(np.asarray(hot.position, float) ** 2, exact)
    with_bug, _ = settled(louder(make(temperature), 1.05), exact, 25)
    caught(np.asarray(with_bug.position, float) ** 2, exact)


@pytest.mark.parametrize(
    "tx",
    [
        optax.adam(1e-2),
        optax.adamw(optax.cosine_decay_schedule(1e-2, 100)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1e-3)),
        optax.lion(1e-3),
    ],
    ids=["adam", "adamw schedule", "clipped rmsprop", "lion"],
)
def test_any_transform_obeys_the_first_law(tx):
    sys = problem(d=2).system()
    kernel = tj.driven(tx, sys, tj.minibatch(BATCH))
    st = tj.init_ensemble(
        kernel, jax.random.key(0), POINT, 8, positions=jnp.ones((8, 2)) * jnp.arange(8)[:, None]
    )
    end, out = tj.run(kernel, jax.random.key(1), st, POINT, 300, ledger="energy")
    change = np.asarray(end.walkers.totals[0], float) - np.asarray(st.walkers.totals[0])
    led = tj.run(kernel, jax.random.key(1), st, POINT, 300, ledger="full")[1]["ledger"]
    lack = change - (np.asarray(led.work, float) + np.asarray(led.heat, float))
    assert np.abs(lack).max() <= ULPS * ulp(max(np.abs(led.heat).max(), st.energy.max()))
    assert np.all(np.isnan(led.bath))
    assert np.mean(end.energy) < np.mean(st.energy)
    assert not np.any(out["flags"])


def test_the_optimiser_of_optax_itself():
    """Full batch: step for step what optax does by hand."""
    p, tx = wells(), optax.adam(0.03)
    sys = p.system()
    kernel = tj.driven(tx, sys, tj.full())
    st = tj.init_ensemble(kernel, jax.random.key(0), POINT, 1, positions=jnp.full((1, 1), 2.0))
    st, _ = tj.run(kernel, jax.random.key(0), st, POINT, 20)
    theta, state = jnp.full(1, 2.0), tx.init(jnp.full(1, 2.0))
    for _ in range(20):
        updates, state = tx.update(jax.grad(sys.energy)(theta) / p.size, state, theta)
        theta = optax.apply_updates(theta, updates)
    np.testing.assert_allclose(st.position[0], theta, rtol=1e-5)


def test_mistakes_are_named():
    sys = problem().system()
    with pytest.raises(ValueError, match="scale='mean' is unknown"):
        tj.driven(optax.sgd(0.1), sys, scale="mean")
    with pytest.raises(ValueError, match=r"inject_T=0\.5 needs the learning rate"):
        tj.driven(optax.sgd(0.1), sys, inject_T=0.5)
    with pytest.raises(ValueError, match="a sum over examples"):
        tj.driven(optax.sgd(0.1), tj.system(lambda x: x**2, like=0.0))
