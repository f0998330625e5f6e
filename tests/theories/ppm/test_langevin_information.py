"""Information and heat of one Langevin step."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from thermojax.estimators.estimate import Flag
from thermojax.theories.ppm.langevin import (
    langevin_heat,
    langevin_step_information,
    langevin_step_information_bound,
)
from thermojax.typing import ShapeError

KEY = jax.random.key(0)
S1 = jnp.array([[-1.0], [1.0]])


def on_a_grid(place):
    """I of a one-dimensional Gaussian mixture with unit noise, by a fine outer grid."""
    x = np.linspace(place.min() - 14, place.max() + 14, 200_001)
    p = np.exp(-0.5 * (x - place[:, None]) ** 2) / np.sqrt(2 * np.pi)
    log_mix = np.log(np.maximum(p.mean(0), 1e-300))
    entropy = -np.sum(p.mean(0) * log_mix) * (x[1] - x[0])
    return entropy - 0.5 * np.log(2 * np.pi * np.e)


def test_binary_channel_at_unit_signal_to_noise(x64):
    """S1, by quadrature: no key is read."""
    grads = S1.astype(jnp.float64)
    estimate = langevin_step_information(grads, 0.1, 0.05, KEY, 2)
    np.testing.assert_allclose(estimate.value, 0.3368308203468, rtol=0, atol=1e-10)
    assert estimate.stderr == 0
    bound = langevin_step_information_bound(grads, 0.1, 0.05)
    np.testing.assert_allclose(bound, 0.3465735902800, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0, 60.0])
def test_candidates_on_a_line(scale, x64):
    """d = 1 against a grid, and K = 2 against the same two places in one dimension."""
    place = scale * jnp.array([0.0, 0.3, 1.0, -1.2])
    # sqrt(step / 2T) = 1
    value = langevin_step_information(place[:, None], 0.1, 0.05, KEY, 2).value
    np.testing.assert_allclose(value, on_a_grid(np.asarray(place)), atol=1e-9)
    pair = scale * jnp.array([[1.0, 2.0, -1.0], [0.0, 0.0, 1.0]])
    flat = jnp.array([[0.0], [3.0 * scale]])
    two, one = (langevin_step_information(g, 0.1, 0.05, KEY, 2).value for g in (pair, flat))
    np.testing.assert_allclose(two, one, rtol=1e-12)


def test_draws_agree_with_quadrature():
    """Two dimensions whose second says nothing: the sampled route meets the exact one."""
    line = jax.random.normal(jax.random.key(1), (6, 1))
    plane = jnp.concatenate([line, jnp.full((6, 1), 3.0)], axis=1)
    exact = langevin_step_information(line, 0.2, 0.02, KEY, 2)
    sampled = langevin_step_information(plane, 0.2, 0.02, KEY, 4000)
    for one, other in (
        (exact.value, sampled.value),
        (exact.parts["upper"], sampled.parts["upper"]),
    ):
        assert abs(float(one - other)) < 5 * float(sampled.stderr) * max(1.0, float(one))
    assert 0 < sampled.stderr < 0.01


def test_error_bar_over_draws():
    grads = jax.random.normal(jax.random.key(2), (5, 3))
    fn = lambda key: langevin_step_information(grads, 0.1, 0.05, key, 100)
    estimate = jax.vmap(fn)(jax.random.split(KEY, 400))
    ratio = float(estimate.stderr.mean() / estimate.value.std())
    assert 0.9 < ratio < 1.15


@given(st.integers(0, 2**31), st.floats(0.01, 3.0))
@settings(max_examples=12, deadline=None)
def test_between_nothing_and_the_gaussian_bound(seed, scale):
    grads = scale * jax.random.normal(jax.random.key(seed), (6, 4))
    estimate = langevin_step_information(grads, 0.1, 0.05, KEY, 300)
    slack = 4 * float(estimate.stderr) + 1e-5
    assert -slack <= estimate.value <= np.log(6) + 1e-5
    assert estimate.value <= langevin_step_information_bound(grads, 0.1, 0.05) + slack
    assert bool(estimate.flags & Flag.SATURATED) == bool(estimate.value > np.log(6) - 1)


def test_bound_in_both_forms(x64):
    """More dimensions than candidates or fewer: one determinant."""
    for shape in ((4, 9), (9, 4)):
        grads = jax.random.normal(jax.random.key(3), shape)
        cov = np.cov(np.asarray(grads).T, bias=True)
        expected = 0.5 * np.linalg.slogdet(np.eye(shape[1]) + 0.3 * cov / (2 * 0.7))[1]
        bound = langevin_step_information_bound(grads, 0.3, 0.7)
        np.testing.assert_allclose(bound, expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3, 1), (3, 2)], ids=["quadrature", "draws"])
def test_gradients_with_common_random_numbers(shape, x64):
    grads = jax.random.normal(jax.random.key(4), shape)
    for fn in (
        lambda t: langevin_step_information(grads, 0.1, t, KEY, 20).value,
        lambda t: langevin_step_information_bound(grads, 0.1, t),
    ):
        slope = (fn(0.05 + 1e-6) - fn(0.05 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(fn)(0.05), slope, rtol=1e-6)


def test_identical_minibatches_tell_nothing():
    for shape in ((2, 3), (4, 1), (4, 3)):
        fn = lambda g: langevin_step_information(g, 0.1, 0.05, KEY, 10).value
        value, slope = jax.value_and_grad(fn)(jnp.ones(shape))
        np.testing.assert_allclose(value, 0, atol=1e-6)
        assert jnp.all(jnp.isfinite(slope))


def potential(theta):
    return jnp.sum(jnp.cos(theta["a"])) * jnp.sum(theta["b"] ** 4) + jnp.sum(theta["a"] ** 2)


def log_kernel(new, old, step, temperature):
    """Log density of theta' given theta, up to the normalisation both directions share."""
    drift = jax.tree.map(lambda x, g: x - step * g, old, jax.grad(potential)(old))
    gap = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), new, drift)
    return -sum(jax.tree.leaves(gap)) / (4 * step * temperature)


@given(st.integers(0, 2**31), st.floats(1e-3, 1.0), st.floats(0.01, 5.0))
@settings(max_examples=10, deadline=None)
def test_heat_is_the_kernel_ratio(seed, step, temperature):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), 4)
        old, new = (
            {"a": jax.random.normal(i, (2,)), "b": jax.random.normal(j, (3,))}
            for i, j in keys.reshape(2, 2)
        )
        g, h = jax.grad(potential)(old), jax.grad(potential)(new)
        heat = langevin_heat(old, new, g, h, step)
        forward, backward = (
            log_kernel(new, old, step, temperature),
            log_kernel(old, new, step, temperature),
        )
        np.testing.assert_allclose(
            heat, -temperature * (forward - backward), rtol=1e-9, atol=1e-9
        )


@given(st.integers(0, 2**31), st.floats(0.01, 0.5))
@settings(max_examples=10, deadline=None)
def test_heat_is_the_change_of_the_modified_energy(seed, step):
    """Quadratic loss: energy of the Hessian H(1 - step H / 2)."""
    with jax.enable_x64(True):
        root, old, new = jax.random.normal(jax.random.key(seed), (3, 3, 3))
        hessian, old, new = root @ root.T, old[0], new[0]
        modified = hessian @ (jnp.eye(3) - step * hessian / 2)
        heat = langevin_heat(old, new, hessian @ old, hessian @ new, step)
        change = 0.5 * (new @ modified @ new - old @ modified @ old)
        np.testing.assert_allclose(heat, change, rtol=1e-9, atol=1e-10)


def test_heat_of_an_ensemble_and_its_dtype(x64):
    trees = jax.random.normal(KEY, (4, 7, 3), jnp.float32)
    heats = jax.vmap(langevin_heat, in_axes=(0, 0, 0, 0, None))(*trees, 0.1)
    assert heats.shape == (7,)
    assert heats.dtype == jnp.float32
    assert langevin_heat(*trees[:, 0], 0.1).dtype == jnp.float32


def test_refusals():
    with pytest.raises(ValueError, match="K >= 2"):
        langevin_step_information(S1[:1], 0.1, 0.05, KEY, 10)
    with pytest.raises(ValueError, match="shape"):
        langevin_step_information_bound(S1[:, 0], 0.1, 0.05)
    with pytest.raises(ValueError, match="temperature=0"):
        langevin_step_information_bound(S1, 0.1, 0.0)
    with pytest.raises(ValueError, match="step_size=-1"):
        langevin_step_information(S1, -1.0, 0.05, KEY, 10)
    with pytest.raises(ValueError, match="n_samples=1"):
        langevin_step_information(S1, 0.1, 0.05, KEY, 1)
    with pytest.raises(ShapeError, match="structure or shapes"):
        langevin_heat({"a": S1}, {"a": S1}, {"a": S1}, {"b": S1}, 0.1)
    with pytest.raises(ShapeError, match="structure or shapes"):
        langevin_heat(S1, S1, S1, S1[0], 0.1)
