"""log Z up a ladder of harmonic oscillators, and its error where time correlates."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.scores import caught, check
from thermojax.estimators.climb import block_variance, climb, correlation_length, split_r_hat

BETAS = jnp.array([0.5, 1.0, 2.5, 4.0])
EXACT = -0.5 * np.log(np.asarray(BETAS) / 0.5)


def oscillators(key, runs, rounds, memory):
    """Energies x^2/2 of AR(1) coordinates at each beta, [runs, rounds, K]."""
    noise = jax.random.normal(key, (rounds, runs, len(BETAS)))

    def body(x, xi):
        x = memory * x + np.sqrt(1 - memory**2) * xi
        return x, x

    _, x = jax.lax.scan(body, noise[0], noise)
    return jnp.swapaxes(x**2 / (2 * BETAS), 0, 1)


def found(memory, runs=300, rounds=640):
    return climb(BETAS, oscillators(jax.random.key(0), runs, rounds, memory))


def test_correlated_chains_get_their_error():
    both = found(0.9)
    ends = np.asarray(both.log_z)
    check(ends[:, 1:], EXACT[1:])
    caught(ends[:, 1:], 2 * EXACT[1:])
    observed = ends[:, -1].var(ddof=1)
    # 300 values: the variance is known to 8 %; independent samples would have a tenth of it
    assert 0.75 < float(both.within) / observed < 1.3
    assert observed > 5 * found(0.0).log_z[:, -1].var()
    assert float(both.overlap) > 0.3
    assert not bool(both.lost)


def test_forbidden_regions_lower_the_partition_function():
    # the unit interval, of which the energy allows the upper 30 % from the first step on
    u = jax.random.uniform(jax.random.key(1), (60, 640))
    energies = jnp.stack([jnp.where(u > 0.7, 0.0, jnp.inf), 0 * u, 0 * u], axis=2)
    both = climb(jnp.array([0.0, 0.5, 1.0]), energies)
    check(both.log_z[:, -1], np.log(0.3))
    observed = np.asarray(both.log_z[:, -1]).var(ddof=1)
    assert 0.6 < float(both.within) / observed < 1.7


def test_without_overlap_nothing_is_claimed():
    energies = jnp.stack([jnp.full((2, 64), 1e5), jnp.zeros((2, 64))], axis=2)
    energies = energies + jnp.arange(64.0)[None, :, None] / 64
    both = climb(jnp.array([0.0, 1.0]), energies)
    assert bool(both.lost)
    assert np.all(np.isnan(both.log_z[:, 1]))


def test_blocks_know_the_correlation_length():
    energies = jnp.moveaxis(oscillators(jax.random.key(2), 200, 1280, 0.8), 2, 0)
    # x^2 of an AR(1) chain forgets at the square of its rate
    exact = (1 + 0.8**2) / (1 - 0.8**2)
    assert np.all(np.abs(correlation_length(energies) / exact - 1) < 0.15)
    mean = np.asarray(energies.mean(axis=2))
    assert np.all(np.abs(block_variance(energies) / mean.var(axis=1, ddof=1) - 1) < 0.35)
    constant = jnp.ones((1, 4, 64))
    assert float(correlation_length(constant)[0]) == 1.0


def test_halves_that_differ_are_seen():
    x = np.random.default_rng(3).normal(size=(4, 400, 2))
    drift = np.where(np.arange(400) < 200, 0.0, 1.0)
    x[:, :, 1] += drift[None, :]
    seen = split_r_hat(jnp.asarray(x))
    assert seen[0] < 1.02
    assert seen[1] > 1.1
