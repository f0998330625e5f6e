"""References: normalised, sampled exactly, wide enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_cases import LEBESGUE

from thermojax import exact

SIZE = 10_000


def draws(reference, size=SIZE):
    return jax.vmap(reference.sample)(jax.random.split(jax.random.key(11), size))


@pytest.mark.parametrize("name", LEBESGUE)
def test_importance_weights_reproduce_log_z(name):
    """E[exp(-beta U) / r] = Z tests density, sampler and width together: |z| < 5."""
    solved = LEBESGUE[name]()
    system = solved.system
    theta = draws(system.reference)
    energy = np.asarray(jax.jit(jax.vmap(system.energy))(theta), np.float64)
    density = np.asarray(jax.jit(jax.vmap(system.reference.log_density))(theta), np.float64)
    for beta in (0.5, 1.0):
        weights = np.exp(-beta * energy - density - solved.log_partition(beta))
        error = weights.std() / np.sqrt(SIZE)
        assert abs(weights.mean() - 1) < 5 * error
        assert error < 0.09
        # power: a density that is off by half a nat would be seen
        assert abs(weights.mean() * np.exp(0.5) - 1) > 5 * error


@pytest.mark.parametrize("name", ["double well", "mixture on a line", "student"])
def test_density_integrates_to_one(name):
    reference = LEBESGUE[name]().system.reference
    u = np.linspace(-60.0, 60.0, 40_001)  # theta = sinh u reaches the heaviest tail
    shape = reference.template.shapes[0]
    theta = jnp.asarray(np.sinh(u).reshape(-1, *shape), jnp.float32)
    log_density = np.asarray(jax.vmap(reference.log_density)(theta), np.float64)
    mass = np.sum(np.exp(log_density + np.logaddexp(u, -u) - np.log(2))) * (u[1] - u[0])
    assert mass == pytest.approx(1, abs=2e-4)


def test_normal_reference_moments():
    matrix = np.array([[2.0, 0.6], [0.6, 1.0]])
    reference = exact.harmonic(matrix).system.reference
    sample = np.asarray(draws(reference, 100_000), np.float64)
    expected = 1.5**2 / 0.3 * np.linalg.inv(matrix)
    np.testing.assert_allclose(np.cov(sample.T), expected, rtol=0.05, atol=0.05)
    assert np.all(np.abs(sample.mean(0)) < 5 * np.sqrt(np.diag(expected) / 100_000))


def test_student_reference_is_heavy_but_finite():
    solved = exact.student()
    sample = draws(solved.system.reference, 60_000)
    energy = jax.vmap(solved.system.energy)(sample)
    assert bool(jnp.all(jnp.isfinite(energy)))
    radius = np.linalg.norm(np.asarray(sample, np.float64), axis=1)
    # P(r > R) falls as R^{-1/2}: a factor 100 in R is a factor 10 in probability
    ratio = np.mean(radius > 1e3) / np.mean(radius > 1e5)
    assert ratio == pytest.approx(10, rel=0.3)  # 4.6 standard errors


def test_mixture_reference_covers_both_modes():
    sample = np.asarray(draws(exact.gaussian_mixture().system.reference))
    for mode in (-2.0, 2.0):
        near = np.sum((sample - np.array([mode, 0.0])) ** 2, axis=1) < 0.25
        assert near.mean() > 0.005


def test_normalised_systems_need_no_reference():
    assert exact.tanh_network().system.reference is None
    assert exact.tanh_network().system.base_mass == 0.0
