"""The normal numbers: moments, tails, distribution, independence, streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import thermojax as tj
from tests.scores import KS_LIMIT, caught, check, ks_distance
from thermojax.noise import normal, plain_stream


@pytest.fixture(scope="module")
def draws():
    """[200, 50_000] numbers: steps by parameters."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(200))
    return np.asarray(jax.jit(lambda k: jax.lax.map(lambda q: normal(q, 50_000), k))(keys))


def test_moments_to_eight(draws):
    x = draws.astype(float).ravel()
    powers = {1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15, 7: 0, 8: 105}
    doubles = {1: 1, 2: 3, 3: 15, 4: 105, 5: 945, 6: 10395, 7: 135135, 8: 2027025}
    for p, exact in powers.items():
        error = np.sqrt((doubles[p] - exact**2) / x.size)
        check(np.mean(x**p), exact, error)
    caught(np.mean((1.01 * x) ** 2), 1.0, np.sqrt(2 / x.size))


def test_tails(draws):
    x = np.abs(draws.ravel())
    for sigma in (2.0, 3.0, 4.0, 5.0):
        p = 2 * norm.sf(sigma)
        check(np.sum(x > sigma), p * x.size, np.sqrt(p * x.size))
    assert np.all(np.isfinite(x))


def test_distribution(draws):
    x = draws.ravel()
    assert x.size == 10_000_000
    assert ks_distance(x, norm.cdf) < KS_LIMIT
    assert ks_distance(x * 1.01, norm.cdf) > KS_LIMIT


def test_independence(draws):
    x = draws.astype(float)
    n = np.sqrt(x.size)
    check(np.mean(x[:-1] * x[1:]), 0.0, 1 / n)  # steps
    check(np.mean(x[:, :-1] * x[:, 1:]), 0.0, 1 / n)  # neighbouring parameters
    half = x.shape[1] // 2
    pair = x[:, :half] * x[:, half:]  # the two numbers of one hash
    check(np.mean(pair), 0.0, 1 / np.sqrt(pair.size))
    squares = (x[:, :half] ** 2 - 1) * (x[:, half:] ** 2 - 1)
    check(np.mean(squares), 0.0, 2 / np.sqrt(squares.size))


def test_walkers_are_uncorrelated_in_all_pairs(draws):
    """19,900 correlations of 200 streams, judged together by the sum of their squares."""
    rows = draws.astype(float)
    for y in (rows, rows**2 - 1):
        z = np.corrcoef(y)[np.triu_indices(len(y), 1)] * np.sqrt(y.shape[1])
        check(np.mean(z**2), 1.0, np.sqrt(2 / z.size))
        mixed = y + 0.05 * y[:1]  # power: a twentieth of one stream in all
        z = np.corrcoef(mixed)[np.triu_indices(len(y), 1)] * np.sqrt(y.shape[1])
        caught(np.mean(z**2), 1.0, np.sqrt(2 / z.size))


def test_a_walker_has_its_stream_whatever_the_batch():
    keys = jax.random.split(jax.random.key(0), 16)
    batch = jax.jit(jax.vmap(lambda k: normal(k, 33)))(keys)
    for i in (0, 7, 15):
        np.testing.assert_array_equal(batch[i], jax.jit(lambda k: normal(k, 33))(keys[i]))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_small_and_odd_sizes(size):
    x = normal(jax.random.key(1), size)
    assert x.shape == (size,)
    assert x.dtype == jnp.float32


def test_the_plain_stream_is_that_of_jax():
    key = jax.random.key(3)
    with plain_stream():
        plain = normal(key, 9)
    np.testing.assert_array_equal(plain, jax.random.normal(key, (9,)))
    assert np.all(np.asarray(normal(key, 9)) != np.asarray(plain))


def test_a_bath_on_the_plain_stream():
    """The same law on other numbers; the switch touches no other bath."""
    sys = tj.system(lambda x: 0.5 * x**2, like=0.0)
    bath, point = tj.overdamped(sys, "em", step_size=0.5), tj.Point(1.0)
    plain = tj.plain_noise(bath)

    def end(kernel):
        st = tj.init_ensemble(
            kernel, jax.random.key(0), point, 40_000, positions=jnp.zeros(40_000)
        )
        return np.asarray(tj.run(kernel, jax.random.key(1), st, point, 30)[0].position, float)

    one, two, again = end(bath), end(plain), end(bath)
    np.testing.assert_array_equal(one, again)
    assert np.mean(one == two) < 1e-3
    for x in (one, two):
        check(x**2, 1 / (1 - 0.25))
    caught(two**2, 1.0)
    assert plain.meta == bath.meta


def test_double_precision_uses_the_plain_stream(x64):
    x = normal(jax.random.key(2), 5, jnp.float64)
    np.testing.assert_array_equal(x, jax.random.normal(jax.random.key(2), (5,), jnp.float64))
