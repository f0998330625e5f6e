"""Einstein crystal: the harmonic reference, one basin's log Z, and walkers that leave it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.exact.test_table import ROWS
from tests.scores import caught, check, covariance_z
from thermojax import exact
from thermojax.crystal import EinsteinCrystal, crystal_log_z, harmonic

SETTINGS = EinsteinCrystal(smc=tj.SMC(n=128, n_runs=4), n_quench=32, pilot=64, relax=64)
COVARIANCE = np.asarray([[2.0, 0.6, 0.0], [0.6, 1.0, -0.2], [0.0, -0.2, 0.5]])


def test_harmonic_is_the_gaussian_it_says():
    mode = {"a": jnp.asarray(1.0), "b": jnp.asarray([-1.0, 2.0])}
    q = harmonic(mode, COVARIANCE, inflation=1.5)
    draws = jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 20_000))
    flat = np.column_stack([draws["a"], draws["b"]]) - (1.0, -1.0, 2.0)
    assert np.all(np.abs(covariance_z(flat, 1.5 * COVARIANCE)) < 5)
    away = np.asarray([0.3, -0.2, 0.5])
    theta = {"a": mode["a"] + away[0], "b": mode["b"] + away[1:]}
    wide = 1.5 * COVARIANCE
    expected = -0.5 * away @ np.linalg.solve(wide, away)
    expected -= 0.5 * np.linalg.slogdet(2 * math.pi * wide)[1]
    assert abs(q.log_density(theta) - expected) < 1e-4
    diagonal = harmonic(mode, jnp.diag(COVARIANCE), inflation=1.0)
    full = harmonic(mode, jnp.diag(jnp.diag(COVARIANCE)), inflation=1.0)
    assert abs(diagonal.log_density(theta) - full.log_density(theta)) < 1e-5
    assert q.log_mass == 0.0


@pytest.fixture(scope="module")
def tanh_unit():
    """One basin of row T14, cold enough to be one and too hot for it."""
    solved = exact.tanh_network()
    run = lambda beta: crystal_log_z(SETTINGS, solved.system, tj.Point(beta), jax.random.key(1))
    return solved, run(300.0), run(1.0)


def test_free_energy_of_one_basin(tanh_unit):
    solved, cold, _ = tanh_unit
    expected = solved.log_partition(300.0) - math.log(2)
    check(cold.value, expected, cold.stderr, 4.0)
    caught(cold.value + math.log(2), expected, cold.stderr)
    assert not cold.flags & tj.Flag.MODE_LEAK
    assert cold.stderr < 0.1


def test_walkers_go_further_than_the_hessian_says():
    """Rosenbrock's arms: springs of the Hessian alone read low by .17, six errors."""
    build, beta, expected = ROWS["T7"][:3]
    run = lambda seed: crystal_log_z(
        EinsteinCrystal(), build().system, tj.Point(beta), jax.random.key(seed)
    )
    found = [run(seed) for seed in range(4)]
    value = np.asarray([est.value for est in found])
    error = np.asarray([est.stderr for est in found])
    assert np.all(np.abs(value - expected) < 4 * error)
    caught(value.mean() - 0.17, expected, error.mean() / 2)
    assert error.max() < 0.05


@pytest.mark.nightly
@pytest.mark.parametrize(("row", "log_images"), [("T7", 0.0), ("T14 cold", math.log(2))])
def test_z_scores_of_a_curved_and_of_an_open_basin(row, log_images):
    build, beta, expected = ROWS[row][:3]
    run = lambda key: crystal_log_z(EinsteinCrystal(), build().system, tj.Point(beta), key)
    found = [run(jax.random.key(seed)) for seed in range(48)]
    z = np.asarray([(est.value + log_images - expected) / est.stderr for est in found])
    assert np.all(np.abs(z) < 4.5)
    assert 0.6 < np.std(z) < 1.5
    assert abs(np.mean(z)) < 0.7


def test_parts_serve_curve_and_derivatives(tanh_unit):
    solved, cold, _ = tanh_unit
    energy = tj.internal_energy(cold)
    check(energy.value, solved.internal_energy(300.0), energy.stderr, 5.0)
    slope = jax.grad(tj.differentiable_log_z(cold, solved.system))(tj.Point(300.0)).beta
    assert abs(slope + solved.internal_energy(300.0)) < 0.1 * solved.internal_energy(300.0)


def test_overlapping_basins_leak(tanh_unit):
    hot = tanh_unit[2]
    assert hot.flags & tj.Flag.MODE_LEAK


def test_misuse_is_refused():
    key, point = jax.random.key(0), tj.Point(1.0)
    with pytest.raises(ValueError, match=r"inflation=0\.5"):
        EinsteinCrystal(inflation=0.5)
    for name, value in (("n_quench", 0), ("pilot", 4), ("relax", 1)):
        with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
            EinsteinCrystal(**{name: value})
    with pytest.raises(ValueError, match="binary states"):
        crystal_log_z(SETTINGS, exact.free_spins().system, point, key)
    large = tj.system(lambda x: jnp.sum(x**2), like=jnp.zeros(2000))
    with pytest.raises(ValueError, match="Hessian of 2000 parameters"):
        crystal_log_z(SETTINGS, large, point, key)
