"""Phase boundaries: digits' worked numbers, closed forms, agreement of the three."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from thermojax.theories.representation.onset import (
    critical_gam,
    critical_lam,
    label_weights,
    onset_strength,
)
from thermojax.theories.representation.quantities import Multipliers

pytestmark = pytest.mark.usefixtures("x64")
RANDOM = settings(max_examples=8, deadline=None, derandomize=True)
BITS = np.array([[0.45, 0.05], [0.05, 0.45]])


def pixels():
    digits = load_digits()
    return digits.data / 16, jnp.asarray(digits.target)


@pytest.mark.parametrize(
    ("lam", "gam", "expected"),
    [(0.12, 0, 0.9318), (0.14, 0, 1.0871), (0.05, 0.65, 0.9921), (0.05, 0.70, 1.0410)],
)
def test_strength_on_digits(lam, gam, expected):
    """Worked example 8.9."""
    strength = onset_strength(*pixels(), Multipliers(lam, gam), 0.3)
    np.testing.assert_allclose(strength, expected, atol=6e-5, rtol=0)


def test_critical_lam_of_digits():
    """Worked example 8.9, and the closed form with labels lies on the boundary."""
    x, y = pixels()
    np.testing.assert_allclose(critical_lam(x, 0.3), 0.1287817656, atol=6e-11, rtol=0)
    boundary = critical_lam(x, 0.3, y=y, gam=0.65)
    assert 0.05 < boundary < 0.0512
    np.testing.assert_allclose(
        onset_strength(x, y, Multipliers(boundary, 0.65), 0.3), 1, rtol=1e-12
    )
    # one-hot labels alone have strength gam
    assert critical_lam(x, 0.3, y=y, gam=1.01) == 0


@RANDOM
@given(st.integers(0, 2**31), st.floats(0, 0.95))
def test_boundary_is_the_unit_eigenvalue(seed, share):
    """Soft labels: strength is 1 at critical_lam, below it less, above it more."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(12, 3))
    y = rng.dirichlet(np.ones(3), size=12)
    bare = onset_strength(x, y, Multipliers(0.0, 1.0), 0.7)
    gam = share / bare
    boundary = critical_lam(x, 0.7, y=y, gam=gam)
    found = [onset_strength(x, y, Multipliers(f * boundary, gam), 0.7) for f in (0.9, 1, 1.1)]
    np.testing.assert_allclose(found[1], 1, rtol=1e-9)
    assert found[0] < 1 < found[2]


def test_two_state_bottleneck():
    """Worked example 8.5: (1 - lam)/(1 - 2 eps)^2."""
    np.testing.assert_allclose(critical_gam(BITS), 1.5625, rtol=1e-12)
    np.testing.assert_allclose(critical_gam(BITS, 0.3), 0.7 * 1.5625, rtol=1e-12)
    assert critical_gam(BITS, 1.2) == 0
    assert critical_gam(np.outer([0.5, 0.5], [0.25, 0.75])) == np.inf
    padded = np.pad(BITS, ((0, 1), (0, 1)))
    np.testing.assert_allclose(critical_gam(padded), 1.5625, rtol=1e-12)


def test_inputs_that_are_labels_have_the_same_boundary():
    """phi of p(y | x) alone at gam_c has strength 1: the two definitions agree at lam = 0."""
    joint = np.array([[6, 1, 1], [4, 2, 1], [1, 5, 2], [1, 4, 3]]) / 31
    counts = np.round(31 * joint.sum(1)).astype(int)
    rows = np.repeat(joint / joint.sum(1, keepdims=True), counts, axis=0)
    gam = critical_gam(joint)
    strength = onset_strength(np.zeros((31, 1)), rows, Multipliers(0.3, gam), 1.0)
    np.testing.assert_allclose(strength, 1, rtol=1e-12)


def test_derivative_dtype_and_grid():
    x, y = np.random.default_rng(3).normal(size=(9, 2)), np.arange(9) % 3
    weights = label_weights(y, 9)
    strength = jax.jit(lambda tau: onset_strength(x, weights, Multipliers(*tau), 0.5))
    at, step = jnp.array([0.4, 0.6]), 1e-5
    slope = jax.grad(strength)(at)
    for k in range(2):
        ends = [strength(at.at[k].add(s)) for s in (step, -step)]
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), slope[k], rtol=1e-7)
    grid = jnp.array([[0.4, 0.6], [1.0, 0.1]])
    together = jax.vmap(strength)(grid)
    np.testing.assert_allclose(together, [strength(tau) for tau in grid], rtol=1e-12)
    with jax.enable_x64(False):
        single = onset_strength(np.float32(x), y, Multipliers(0.4, 0.6), 0.5)
        assert single.dtype == np.float32
    np.testing.assert_allclose(single, strength(at), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: critical_gam(2 * BITS), "sums to 2"),
        (lambda: critical_gam(BITS, -0.1), "lam is -0.1"),
        (lambda: critical_gam(BITS[0]), "shape"),
        (lambda: critical_lam(BITS, 0.3, gam=1.0), "give y"),
        (lambda: critical_lam(BITS, 0.3, y=np.array([0, 1]), gam=-1.0), "gam is -1.0"),
        (lambda: critical_lam(BITS, 0.0), "decoder_scale is 0.0"),
        (lambda: critical_lam(BITS[0], 0.3), "examples"),
        (lambda: label_weights(np.array([0, -1]), 2), "least value -1"),
        (lambda: label_weights(np.array([0.0, 1.0]), 2), "whole numbers"),
        (lambda: label_weights(np.array([0, 1, 2]), 2), "labels \\[2\\]"),
        (lambda: label_weights(np.array([[0.5, 0.4], [0, 1]]), 2), "row 0 of y sums to 0.9"),
        (lambda: jax.jit(lambda y: label_weights(y, 2))(np.array([0, 1])), "traced"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
