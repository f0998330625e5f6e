"""Gradient estimators: unbiased, of the stated covariance, and honest about epochs."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.dynamics.minibatches import problem
from tests.scores import EXACT, caught, check
from thermojax.dynamics.gradients import below, permuted

DRAWS = 20_000
KEYS = jax.random.split(jax.random.key(4), DRAWS)


def estimates(gradient, sys, theta, memory=None):
    """[draws, d] estimates of grad U, and [draws] of U, at one theta."""
    memory = gradient.init(sys, theta, ()) if memory is None else memory

    def one(key):
        batch, after = gradient.draw(key, sys, theta, (), memory)
        value = lambda t: gradient.energy(sys, t, (), batch, after)
        return jax.value_and_grad(value)(theta)

    value, grad = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=1000))(KEYS)
    return np.asarray(grad), np.asarray(value)


def anchored(batch):
    return {
        "control variate": tj.control_variate(jnp.array([0.3, -0.2]), batch),
        "svrg": tj.svrg(batch, refresh=10**6),
    }


ESTIMATORS = {
    "with replacement": tj.minibatch(5, replace=True),
    "without": tj.minibatch(5),
    "epoch": tj.minibatch(5, shuffle="epoch"),
    **anchored(5),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_unbiased_in_value_and_slope(name):
    p = problem(d=2)
    sys, theta = p.system(), jnp.array([0.7, -0.4])
    gradient = ESTIMATORS[name]
    memory = gradient.init(sys, jnp.array([0.1, 0.4]), ())
    grad, value = estimates(gradient, sys, theta, memory)
    check(grad, jax.grad(sys.energy)(theta))
    check(value, sys.energy(theta))
    caught(grad * 5 / p.size, jax.grad(sys.energy)(theta))  # N/B forgotten


@pytest.mark.parametrize("replace", [True, False])
def test_covariance_of_a_minibatch(replace):
    p = problem(d=2)
    sys, theta = p.system(), jnp.array([0.7, -0.4])
    gradient = tj.minibatch(5, replace=replace)
    grad, _ = estimates(gradient, sys, theta)
    exact = np.asarray(tj.noise_covariance(sys, theta, gradient))
    noise = grad - np.asarray(jax.grad(sys.energy)(theta))
    outer = np.einsum("wi,wj->wij", noise, noise)
    check(outer, exact)
    other = np.asarray(tj.noise_covariance(sys, theta, tj.minibatch(5, replace=not replace)))
    caught(outer, other)
    # and against the definition
    rows = p.curvatures @ np.asarray(theta) - p.forces
    by_hand = np.cov(rows.T, ddof=0) * p.factor(5, replace)
    np.testing.assert_allclose(exact, by_hand, rtol=1e-4, atol=1e-4)


def test_a_control_variate_is_silent_at_its_anchor():
    p = problem(d=2)
    sys, anchor = p.system(), jnp.array([0.3, -0.2])
    gradient = tj.control_variate(anchor, 5)
    grad, value = estimates(gradient, sys, anchor)
    assert np.ptp(grad, axis=0).max() < 1e-5
    np.testing.assert_allclose(value, sys.energy(anchor), rtol=1e-5)
    away, _ = estimates(gradient, sys, anchor + 0.5)
    noise = away - away.mean(0)
    check(
        np.einsum("wi,wj->wij", noise, noise),
        tj.noise_covariance(sys, anchor + 0.5, gradient),
    )
    plain = np.asarray(tj.noise_covariance(sys, anchor + 0.5, tj.minibatch(5)))
    caught(np.einsum("wi,wj->wij", noise, noise), plain)


def test_svrg_refreshes_its_anchor():
    sys = problem(d=2).system()
    gradient = tj.svrg(5, refresh=3)
    memory, theta = gradient.init(sys, jnp.zeros(2), ()), jnp.ones(2)
    seen = []
    for i in range(7):
        _, memory = gradient.draw(jax.random.key(i), sys, theta * i, (), memory)
        seen.append(float(memory.theta[0]))
    assert seen == [0.0, 0.0, 2.0, 2.0, 2.0, 5.0, 5.0]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1797])
def test_permutations(n):
    keys = jax.random.split(jax.random.key(0), 200)
    rows = np.asarray(jax.vmap(lambda k: permuted(k, jnp.arange(n), n))(keys))
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(n), (200, 1)))


def test_every_small_permutation_is_equally_likely():
    keys = jax.random.split(jax.random.key(1), 120_000)
    rows = np.asarray(jax.vmap(lambda k: permuted(k, jnp.arange(4), 4))(keys))
    code = rows @ 4 ** np.arange(4)
    count = [
        np.sum(code == np.dot(q, 4 ** np.arange(4))) for q in itertools.permutations(range(4))
    ]
    p = 1 / 24
    check(np.array(count) / len(keys), p, np.sqrt(p * (1 - p) / len(keys)))


def test_pairs_of_a_long_permutation_are_independent():
    n, keys = 1797, jax.random.split(jax.random.key(2), 100_000)
    rows = np.asarray(jax.vmap(lambda k: permuted(k, jnp.arange(3), n))(keys)) / n - 0.5
    check(rows, np.full(3, -0.5 / n))
    for i, j in itertools.combinations(range(3), 2):
        check(rows[:, i] * rows[:, j] * 12 * (n - 1), -1.0)  # covariance without replacement


def test_an_epoch_visits_every_example_once():
    p = problem(d=1, groups=5)  # 20 examples, batches of 6: two are left out each time
    sys, gradient = p.system(), tj.minibatch(6, shuffle="epoch")
    memory = gradient.init(sys, jnp.zeros(1), ())
    epochs = []
    for e in range(30):
        seen = []
        for i in range(3):
            key = jax.random.key(100 * e + i)
            batch, memory = gradient.draw(key, sys, jnp.zeros(1), (), memory)
            seen.extend(np.asarray(batch).tolist())
        assert len(set(seen)) == 18
        epochs.append(tuple(seen))
    assert len(set(epochs)) == 30


def test_integers_below():
    words = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    for n in (1, 3, 65_537, 2**31 - 1):
        exact = (words.astype(object) * n) >> 32
        np.testing.assert_array_equal(below(jnp.asarray(words), n), exact.astype(np.int64))


def test_the_control_renews_the_anchor():
    """A gradient known at the old control must not be used at the new one."""
    rows = jnp.arange(1.0, 6.0)
    sys = tj.finite_sum(lambda x, c, y: 0.5 * c * (x - y) ** 2, rows, like=0.0)
    for gradient in (tj.control_variate(jnp.float32(2.0), 2), tj.svrg(2)):
        kernel = tj.sgld(sys, gradient)
        state = kernel.init(1.0, tj.Point(1.0, 1.0))
        state, ledger = kernel.drive(state, tj.Point(1.0, 3.0))
        fresh = kernel.init(1.0, tj.Point(1.0, 3.0))
        assert float(state.energy) == float(fresh.energy)
        assert float(state.energy_grad) == float(fresh.energy_grad)
        np.testing.assert_allclose(ledger.work, 2 / 3 * fresh.energy, rtol=1e-6)


def test_full_is_the_energy(x64):
    sys = problem(d=2).system(jnp.float64)
    theta = jnp.array([0.7, -0.4])
    value = tj.full().energy(sys, theta, (), (), ())
    np.testing.assert_allclose(value, sys.energy(theta), rtol=EXACT)


def test_mistakes_are_named():
    sys = problem().system()
    for call, words in (
        (lambda: tj.minibatch(0), "minibatch of 0 examples is empty"),
        (lambda: tj.minibatch(4, shuffle="often"), "shuffle='often' is unknown"),
        (lambda: tj.minibatch(4, replace=True, shuffle="epoch"), "leave replace=False"),
        (lambda: tj.svrg(4, refresh=0), "refresh=0 must be at least 1"),
        (
            lambda: tj.sgld(sys, tj.minibatch(99)).init(jnp.zeros(1), tj.Point(1.0)),
            "minibatch of 99 cannot be drawn from 16",
        ),
        (
            lambda: tj.sgld(tj.system(lambda x: x**2, like=0.0), tj.minibatch(2)).init(
                0.0, tj.Point(1.0)
            ),
            "a sum over examples",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()
