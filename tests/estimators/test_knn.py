"""Entropies from samples against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.scores import check
from thermojax import Flag
from thermojax.estimators.knn import flatten_ensemble, gaussian_entropy, knn_entropy

M, D = 400, 3
MIX = np.array([[1.0, 0.3, 0.0], [0.0, 0.7, -0.4], [0.0, 0.0, 2.0]])
both = jax.jit(lambda x: (knn_entropy(x), gaussian_entropy(x)))


def exact_entropy(mix):
    return 0.5 * len(mix) * np.log(2 * np.pi * np.e) + np.linalg.slogdet(mix)[1]


@pytest.fixture(scope="module")
def repeats():
    """Both estimates of 100 ensembles of 400 Gaussian members."""
    with jax.enable_x64(True):
        draws = np.random.default_rng(0).normal(size=(100, M, D)) @ MIX
        one = jax.jit(lambda x: jax.lax.map(lambda y: both(y), x))
        return jax.tree.map(np.asarray, one(jnp.asarray(draws)))


def test_the_gaussian_fit_is_unbiased_with_an_honest_error(repeats):
    found = repeats[1]
    # without the correction it would be low by about D (D + 3) / (4 M) = 9 of these errors
    check(found.value, exact_entropy(MIX))
    np.testing.assert_allclose(found.stderr.mean(), found.value.std(), rtol=0.25)
    assert not found.flags.any()


def test_neighbours_are_within_their_error(repeats):
    found = repeats[0]
    z = (found.value - exact_entropy(MIX)) / found.stderr
    assert 0.6 < np.mean(np.abs(z) < 1) < 0.95
    assert np.max(np.abs(z)) < 5
    # the bias that is left at 400 members
    assert abs(np.mean(found.value) - exact_entropy(MIX)) < 0.08
    assert np.mean(found.stderr) < 3 * np.std(found.value)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(-2.0, 2.0))
def test_an_affine_map_adds_its_log_determinant(seed, size):
    rng = np.random.default_rng(seed)
    x = rng.laplace(size=(M, D))
    mix = rng.normal(size=(D, D)) + 3 * np.eye(D)
    mix[0] *= 10**size
    with jax.enable_x64(True):
        before, after = both(jnp.asarray(x)), both(jnp.asarray(x @ mix + 5.0))
        for a, b in zip(before, after, strict=True):
            np.testing.assert_allclose(b.value - a.value, np.linalg.slogdet(mix)[1], rtol=1e-8)


def test_without_whitening_scales_matter(x64):
    """A needle: the plain estimate is too high, the whitened one within its error."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(M, D)) * [1.0, 1.0, 1e-3])
    exact = exact_entropy(np.diag([1.0, 1.0, 1e-3]))
    plain, white = knn_entropy(x, whiten=False), knn_entropy(x)
    assert abs(white.value - exact) < 4 * white.stderr
    assert plain.value > exact + 1.0
    # its change from k to 2 k warns of the bias
    assert plain.stderr > 3 * white.stderr


def test_other_laws(x64):
    rng = np.random.default_rng(2)
    for law in (stats.uniform(), stats.laplace(), stats.expon()):
        x = jnp.asarray(law.rvs(size=(M, 1), random_state=rng))
        found = knn_entropy(x)
        assert abs(found.value - law.entropy()) < 4 * found.stderr
    # the fit is an upper bound: Laplace's law has less entropy than its Gaussian
    x = jnp.asarray(stats.laplace().rvs(size=(4 * M, 1), random_state=rng))
    assert gaussian_entropy(x).value > stats.laplace().entropy() + 0.03


def test_single_precision_resolves_unlike_units():
    draws = np.random.default_rng(3).normal(size=(M, D)) * [1e-4, 1.0, 1e3]
    single = both(jnp.asarray(draws, jnp.float32))
    with jax.enable_x64(True):
        double = both(jnp.asarray(draws))
    for a, b in zip(single, double, strict=True):
        assert a.value.dtype == a.stderr.dtype == jnp.float32
        np.testing.assert_allclose(a.value, b.value, atol=1e-4)


def test_trees_are_flattened(x64):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(50, 3)))
    tree = {"a": x[:, :1], "b": x[:, 1:].reshape(50, 1, 2)}
    np.testing.assert_array_equal(flatten_ensemble(tree), x)
    np.testing.assert_array_equal(knn_entropy(tree).value, knn_entropy(x).value)


def test_samples_in_a_plane_have_no_entropy(x64):
    x = jnp.asarray(np.random.default_rng(5).normal(size=(50, 2)))
    for flat in (
        jnp.ones((6, 2)),
        jnp.append(x, jnp.zeros((50, 1)), axis=1),
        jnp.append(x, x[:, :1] - 3 * x[:, 1:], axis=1),
    ):
        for found in (knn_entropy(flat), gaussian_entropy(flat)):
            assert found.value == -np.inf
            assert found.stderr == np.inf
            assert found.flags == Flag.NONFINITE
    assert knn_entropy(jnp.ones((6, 2)), whiten=False).value == -np.inf


def test_refusals():
    x = jnp.zeros((4, 4))
    for call in (
        lambda: knn_entropy(x, k=4, whiten=False),
        lambda: knn_entropy(x, k=1),
        lambda: gaussian_entropy(x),
    ):
        with pytest.raises(ValueError, match="too few"):
            call()
    with pytest.raises(ValueError, match="no neighbour"):
        knn_entropy(x, k=0)
    with pytest.raises(ValueError, match="leading axis"):
        knn_entropy({"a": jnp.zeros((3, 1)), "b": jnp.zeros((4, 1))})
