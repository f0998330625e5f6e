"""States, transitions, entropies of ensembles, work and heat of moving data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from thermojax import Flag
from thermojax.theories.temperature.densities import Normal, Point, Uniform
from thermojax.theories.temperature.entropy import (
    energy_entropy,
    ensemble_entropy,
    entropy,
    laplace_entropy,
)
from thermojax.theories.temperature.shift import (
    data_shift_temperature,
    refresh_heat,
    shift_work,
)
from thermojax.theories.temperature.states import (
    State,
    ensemble_state,
    logarithmic_mean,
    transition,
)

ONE = jnp.zeros(())
positive = st.floats(0.01, 100.0)


def test_shrinking_a_square_to_its_minimum(x64):
    """Worked example 3: U = w^2 at resolution 0.1."""
    trained = State(0.0, entropy(Point(0.0), ONE, resolution=0.1))
    normal = State(4.0, entropy(Normal(0.0, 2.0), ONE, resolution=0.1))
    flat = State(4 / 3, entropy(Uniform(0.0, 2.0), ONE, resolution=0.1))
    for state, expected in (
        (normal, (4, 2.9969807137, 1.3346765903)),
        (flat, (4 / 3, 2.3151007852, 0.5759288502)),
    ):
        np.testing.assert_allclose(transition(state, trained)[:3], expected, atol=1e-10)


def test_worked_logarithmic_means(x64):
    np.testing.assert_allclose(logarithmic_mean(4.0, 1.0), 2.1640425613, atol=1e-10)
    np.testing.assert_allclose(logarithmic_mean(3.0, 1.0), 1.8204784533, atol=1e-10)
    np.testing.assert_allclose(data_shift_temperature(0.25, 1.0), 1.0820212807, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(a=positive, b=positive, k=positive)
def test_logarithmic_mean_lies_between(a, b, k):
    with jax.enable_x64(True):
        mean = float(logarithmic_mean(a, b))
        tight = 1 + 1e-12
        assert np.sqrt(a * b) / tight <= mean <= 0.5 * (a + b) * tight
        np.testing.assert_allclose(logarithmic_mean(b, a), mean, rtol=1e-14)
        np.testing.assert_allclose(logarithmic_mean(k * a, k * b), k * mean, rtol=1e-12)
        if abs(a - b) > 1e-3 * a:
            np.testing.assert_allclose(mean, (a - b) / np.log(a / b), rtol=1e-11)


def test_logarithmic_mean_is_smooth_where_its_arguments_meet(x64):
    for near in (0.0, 1e-9, 0.15, 0.21):
        slope = jax.grad(logarithmic_mean)(1.0 + near, 1.0)
        h = 1e-6
        step = logarithmic_mean(1.0 + near + h, 1.0) - logarithmic_mean(1.0 + near - h, 1.0)
        np.testing.assert_allclose(slope, step / (2 * h), rtol=1e-8)
    assert logarithmic_mean(1.0, 0.0) == 0
    assert logarithmic_mean(0.0, 0.0) == 0
    single = logarithmic_mean(jnp.float32(1.1), jnp.float32(1.0))
    np.testing.assert_allclose(single, 0.1 / np.log(1.1), rtol=3e-7)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=4, max_size=4), positive, st.floats(-5, 5))
def test_coexistence_swapping_and_units(numbers, scale, offset):
    e0, s0, e1, s1 = numbers
    if abs(s0 - s1) < 1e-3:
        return
    with jax.enable_x64(True):
        found = transition(State(e0, s0), State(e1, s1))
        temperature = float(found.temperature)
        np.testing.assert_allclose(e0 - temperature * s0, e1 - temperature * s1, atol=1e-8)
        back = transition(State(e1, s1), State(e0, s0)).temperature
        np.testing.assert_allclose(back, temperature)
        units = transition(
            State(scale * e0 + offset, s0), State(scale * e1 + offset, s1)
        ).temperature
        np.testing.assert_allclose(units, scale * temperature, rtol=1e-6, atol=1e-10)


def test_no_entropy_difference_gives_ieee_values():
    assert transition(State(1.0, 2.0), State(0.0, 2.0)).temperature == np.inf
    assert np.isnan(transition(State(1.0, 2.0), State(1.0, 2.0)).temperature)


def gaussian(count, seed=0):
    mix = np.array([[1.0, 0.3, 0.0], [0.0, 0.7, -0.4], [0.0, 0.0, 2.0]])
    return np.random.default_rng(seed).normal(size=(count, 3)) @ mix, mix.T @ mix


def test_entropies_of_a_gaussian_ensemble(x64):
    samples, covariance = gaussian(4000)
    exact = stats.multivariate_normal(cov=covariance).entropy()
    # the error of an estimated log-determinant is sqrt(2 D / M) / 2 and D / 2 M low
    assert abs(ensemble_entropy(samples) - exact) < 4 * np.sqrt(1.5 / 4000)
    assert abs(ensemble_entropy(samples, method="knn") - exact) < 0.12
    assert abs(ensemble_entropy(samples[:, :1], method="knn") - stats.norm().entropy()) < 0.1
    tree = {"a": jnp.asarray(samples[:, :1]), "b": jnp.asarray(samples[:, 1:])}
    exact = 0.5 * np.linalg.slogdet(np.eye(3) + covariance / 0.04)[1]
    assert abs(ensemble_entropy(tree, resolution=0.2) - exact) < 4 * np.sqrt(1.5 / 4000)
    lengths = {"a": 0.2, "b": jnp.array([0.2, 0.2])}
    np.testing.assert_allclose(
        ensemble_entropy(tree, resolution=lengths), ensemble_entropy(tree, resolution=0.2)
    )
    diagonal = ensemble_entropy(tree, method="diagonal", resolution=0.2)
    assert diagonal > ensemble_entropy(tree, resolution=0.2)


def test_both_forms_of_the_gram_determinant_agree(x64):
    samples = np.random.default_rng(1).normal(size=(6, 40))
    few = ensemble_entropy(samples, resolution=0.3)
    centred = samples - samples.mean(0)
    expected = 0.5 * np.linalg.slogdet(np.eye(40) + centred.T @ centred / (5 * 0.09))[1]
    np.testing.assert_allclose(few, expected, rtol=1e-12)


def test_knn_of_identical_rows_is_minus_infinity():
    assert ensemble_entropy(jnp.ones((6, 2)), method="knn") == -np.inf
    assert energy_entropy(jnp.ones(6)) == -np.inf


def test_energy_entropy_of_a_square(x64):
    """U = |theta|^2, theta normal in four dimensions: a closed form, worked example 11."""
    d = 4
    exact = d / 2 + np.log(2 * special.gamma(d / 2)) + (1 - d / 2) * special.psi(d / 2)
    np.testing.assert_allclose(exact, 2.2703628455, atol=1e-10)
    theta = np.random.default_rng(2).normal(size=(20_000, d))
    energies = np.sum(theta**2, axis=1)
    # Var of the estimate is about (Var ln p + psi'(3)) / M
    assert abs(energy_entropy(energies) - exact) < 4 * np.sqrt(1.4 / 20_000)
    state = ensemble_state(lambda t: jnp.sum(t**2), jnp.asarray(theta), entropy_of="energy")
    assert abs(state.energy - 4) < 4 * state.stderr
    np.testing.assert_allclose(state.entropy, energy_entropy(energies), rtol=1e-12)
    # on the scale family dE/dS_E = E: twice the size, the same ratio for any factor
    wide = ensemble_state(lambda t: jnp.sum(t**2), 2 * jnp.asarray(theta), entropy_of="energy")
    np.testing.assert_allclose(wide.entropy - state.entropy, np.log(4.0), rtol=1e-9)


def test_gibbs_states_of_a_quadratic_make_a_logarithmic_mean(x64):
    """From T = 3 to T = 1 in five dimensions with the ensembles' own estimates."""
    curvature = jnp.array([1.0, 2.0, 0.5, 4.0, 1.0])
    noise = jax.random.normal(jax.random.key(0), (20_000, 5)) / jnp.sqrt(curvature)
    potential = lambda t: 0.5 * jnp.sum(curvature * t**2)
    hot, cold = (ensemble_state(potential, noise * np.sqrt(t)) for t in (3.0, 1.0))
    found = transition(hot, cold)
    assert abs(found.temperature - logarithmic_mean(3.0, 1.0)) < 4 * found.stderr
    assert found.stderr < 0.02
    few = ensemble_state(potential, noise[:4], resolution=0.1)
    assert few.flags & Flag.LOW_ESS
    assert not hot.flags


def test_laplace_entropy_of_a_trained_state(x64):
    values = np.array([2.0, 0.5, -1.0])
    expected = 0.5 * np.sum(np.log1p(0.3 / (np.array([2.0, 0.5, 1e-3]) * 0.01)))
    found = laplace_entropy(values, 0.3, resolution=0.1, floor=1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# Moving data

MATRIX = np.array([[2.0, 0.5], [0.5, 1.0]])


def bowl(w, minimum):
    return (w - minimum) @ jnp.asarray(MATRIX) @ (w - minimum)


def test_a_cycle_of_data_and_training(x64):
    """Worked example 12: two units of work in, two of heat out."""
    a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    assert shift_work(bowl, a, b, a[None]) == 2
    assert refresh_heat(bowl, b, a[None], b[None]) == -2


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_first_law_around_any_cycle(seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        data = jnp.asarray(rng.normal(size=(4, 2)))
        ensembles = jnp.asarray(rng.normal(size=(4, 5, 2)))
        total = work = 0.0
        for i in range(4):
            j = (i + 1) % 4
            work += shift_work(bowl, data[i], data[j], ensembles[i])
            total += refresh_heat(bowl, data[j], ensembles[i], ensembles[j], batch_size=2)
        np.testing.assert_allclose(work + total, 0.0, atol=1e-12)


def test_temperature_of_a_shift(x64):
    small = data_shift_temperature(0.5, 0.5 + 1e-9)
    np.testing.assert_allclose(small, 1.0, rtol=1e-8)  # 2 rho^2
    half = data_shift_temperature(0.5, 0.8, loss="half_mse")
    np.testing.assert_allclose(2 * half, data_shift_temperature(0.5, 0.8), rtol=1e-14)
    # only the residual moves: the joint entropy moves as the residual's
    x = np.array([[2.0, 1.0], [1.0, 1.0]])
    joint = lambda rho2: np.array([[1.0, 0.3], [0.3, 0.09 + rho2]])
    np.testing.assert_allclose(
        data_shift_temperature(0.5, 0.8, covariances=(joint(0.5), joint(0.8))),
        data_shift_temperature(0.5, 0.8),
        rtol=1e-12,
    )
    wide = data_shift_temperature(0.5, 0.8, covariances=(x, 2 * x))
    np.testing.assert_allclose(wide, 0.3 / np.log(2.0), rtol=1e-12)


def test_mistakes_in_states_are_named():
    with pytest.raises(ValueError, match="3 members are too few"):
        ensemble_entropy(jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="too few"):
        ensemble_entropy(jnp.zeros((3, 1)), method="knn")
    with pytest.raises(ValueError, match="unknown"):
        ensemble_entropy(jnp.zeros((3, 1)), method="bins")
    with pytest.raises(ValueError, match="leading axis"):
        ensemble_entropy({"a": jnp.zeros((3, 1)), "b": jnp.zeros((4, 1))})
    with pytest.raises(ValueError, match="entropy_of"):
        ensemble_state(jnp.sum, jnp.zeros((3, 1)), entropy_of="data")
    with pytest.raises(ValueError, match="more than k=3"):
        energy_entropy(jnp.zeros(3))
    with pytest.raises(ValueError, match="resolution=0"):
        laplace_entropy(jnp.ones(3), 1.0, resolution=0.0)
    with pytest.raises(ValueError, match="residual variance"):
        data_shift_temperature(1.0, 2.0, loss="mae")
    with pytest.raises(ValueError, match="shifted_variance=0"):
        data_shift_temperature(1.0, 0.0)
