"""Multistate reweighting against its formula in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.scores import EXACT, caught, check
from thermojax.estimators.mixture import (
    MixtureMoments,
    jackknife,
    mixture_moments,
    pooled_thermodynamics,
    t_factor,
)


def one_run(seed=0, rungs=4, n=50):
    rng = np.random.default_rng(seed)
    lam = np.linspace(0, 1, rungs)
    log_z = -0.8 * lam + 0.1 * lam**2
    value = rng.gamma(2.0, 1.5, (rungs, n)) + 300.0
    return lam, log_z, np.ones(rungs, bool), value


def direct(lam, log_z, value, extra, energy, shift):
    n = value.shape[1]
    offset = value.min()
    denominators = sum(
        n * np.exp(-z - l * value + offset) for z, l in zip(log_z, lam, strict=True)
    )
    w = np.exp(-extra + offset) / denominators
    p = w / w.sum()
    e = energy - shift
    return np.log(w.sum()), np.sum(p * e), np.sum(p * e**2), 1 / np.sum(p**2)


@pytest.mark.parametrize("beta", [0.3, 1.0, 1.4])
def test_against_the_formula(x64, beta):
    lam, log_z, on, value = one_run()
    energy = value
    found = mixture_moments(
        *map(jnp.asarray, (lam, log_z, on, value)), beta * value, energy, 303
    )
    expected = direct(lam, log_z, value, beta * value, energy, 303)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # power: a denominator of the last rung alone
    wrong = direct(lam[-1:], log_z[-1:], value, beta * value, energy, 303)
    assert abs(wrong[1] - found.energy) > 1e-3


def test_unused_rungs_and_infinite_energies_do_not_count(x64):
    lam, log_z, on, value = one_run()
    short = [a[:3] for a in (lam, log_z, on, value)]
    expected = mixture_moments(*map(jnp.asarray, short), 0.9 * short[3], short[3], 303.0)
    found = mixture_moments(
        lam, log_z, jnp.asarray([1, 1, 1, 0], bool), value, 0.9 * value, value, 303.0
    )
    np.testing.assert_allclose(found, expected, rtol=EXACT)
    walled = value.copy()
    walled[0, :5] = np.inf
    found = mixture_moments(lam, log_z, on, walled, 0.9 * walled, walled, 303.0)
    assert np.all(np.isfinite(found))


def test_exact_samples_give_the_harmonic_curve():
    """U = x^2/2 under N(0,1): exact draws of every rung, 200 replicates."""
    lam = jnp.linspace(0.0, 1.0, 5)
    log_z = -0.5 * jnp.log1p(lam)
    betas = jnp.array([0.25, 0.6, 1.0])

    def one(key):
        x = jax.random.normal(key, (5, 400)) / jnp.sqrt(1 + lam)[:, None]
        u = 0.5 * x**2
        at = lambda b: mixture_moments(lam, log_z, jnp.ones(5, bool), u, b * u, u, 0.0)
        return jax.vmap(at)(betas)

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 200))
    mean = 0.5 / (1 + betas)
    check(np.exp(found.log_z), np.exp(-0.5 * np.log1p(betas)))
    check(found.energy, mean)
    check(found.square, 3 * mean**2)
    caught(1.05 * found.energy, mean)
    caught(np.exp(found.log_z + 0.05), np.exp(-0.5 * np.log1p(betas)))


def test_pooling_weighs_by_z(x64):
    rng = np.random.default_rng(3)
    log_z, energy = rng.normal(size=4) + 500, rng.normal(size=4)
    square = energy**2 + rng.uniform(1, 2, 4)
    runs = MixtureMoments(*map(jnp.asarray, (log_z, energy, square)), jnp.ones(4))
    keep = np.array([True, True, False, True])
    found = pooled_thermodynamics(runs, jnp.asarray(keep))
    w = np.where(keep, np.exp(log_z - 500), 0)
    p = w / w.sum()
    mean = np.sum(p * energy)
    expected = (500 + np.log(w.sum() / 3), mean, np.sum(p * square) - mean**2)
    np.testing.assert_allclose(found, expected, rtol=EXACT)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 16])
def test_t_factor_is_students(n):
    one_sigma = stats.norm.cdf(1)
    assert t_factor(n) == pytest.approx(stats.t.ppf(one_sigma, n - 1), abs=3e-3)


def test_jackknife_of_a_mean_is_its_standard_error(x64):
    x = np.random.default_rng(1).normal(size=8)
    left_out = (x.sum() - x) / 7
    expected = t_factor(8) * x.std(ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(jackknife(jnp.asarray(left_out), 8), expected, rtol=EXACT)
