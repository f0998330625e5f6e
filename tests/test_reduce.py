"""Sums over all entries: right, exact where they can be, and of any size."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from tests.scores import ulp
from thermojax.reduce import total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700), st.integers(0, 2**31 - 1))
def test_it_is_the_sum(size, seed):
    """Integers add exactly in any order, so that a lost or doubled entry would show."""
    x = np.random.default_rng(seed).integers(-100, 100, size)
    assert float(total(jnp.asarray(x, jnp.float32))) == x.sum()


def test_shape_dtype_and_rounding():
    x = np.random.default_rng(0).random((300, 70)).astype(np.float32)
    one = jax.jit(total)(jnp.asarray(x))
    assert one.shape == ()
    assert one.dtype == np.float32
    assert abs(float(one) - x.astype(float).sum()) <= 4 * ulp(one)
    batch = jax.vmap(total)(jnp.asarray(x.reshape(10, 30, 70)))
    assert batch.shape == (10,)


def test_its_gradient_is_one():
    slope = jax.grad(lambda x: total(x**2))(jnp.arange(100.0))
    np.testing.assert_array_equal(slope, 2 * np.arange(100.0))
