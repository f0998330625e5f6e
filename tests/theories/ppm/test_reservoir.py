"""Reservoirs of finite capacity against the ideal one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import EXACT
from thermojax.theories.ppm import reservoir_entropy_change, reservoir_temperature

pytestmark = pytest.mark.usefixtures("x64")
HEAT = np.array([-0.5, -0.3, 0.2])
heats = st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(np.array)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT)


def test_worked_example():
    close(reservoir_temperature(HEAT, 1.0, 10.0), [1.05, 1.08, 1.06])
    finite = reservoir_entropy_change(HEAT, 1.0, 10.0)
    np.testing.assert_allclose(finite, 0.5826890812398, rtol=0, atol=0.6e-13)
    close(reservoir_entropy_change(HEAT, 1.0), 0.6)
    close(reservoir_temperature(HEAT, 1.0, math.inf), np.ones(3))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(heat=heats, temperature=st.floats(0.5, 2), capacity=st.floats(30, 1000))
def test_properties(heat, temperature, capacity):
    change = reservoir_entropy_change(heat, temperature, capacity)
    naive = reservoir_entropy_change(heat, temperature)
    assert change <= naive + 1e-12
    close(naive, -np.sum(heat) / temperature)
    temperatures = reservoir_temperature(heat, temperature, capacity)
    close(change, capacity * np.log(temperatures[-1] / temperature))
    # the order does not matter, and parts add up at the temperatures they meet
    close(change, reservoir_entropy_change(heat[::-1], temperature, capacity))
    first = reservoir_entropy_change(heat[:2], temperature, capacity)
    close(change, first + reservoir_entropy_change(heat[2:], temperatures[1], capacity))
    close(change, reservoir_entropy_change(np.repeat(heat / 2, 2), temperature, capacity))


def test_expansion_and_limit():
    q, naive = 0.6, 0.6
    for c in (1e2, 1e3, 1e4):
        lost = naive - reservoir_entropy_change(HEAT, 1.0, c)
        np.testing.assert_allclose(lost, q**2 / (2 * c), rtol=1.0 / c)
    close(reservoir_entropy_change(HEAT, 1.0, 1e13), naive)


def test_gradients_and_jit():
    change = jax.jit(reservoir_entropy_change)
    for capacity in (10.0, math.inf):
        slope = jax.grad(change, argnums=(0, 1))(HEAT, 1.0, capacity)
        last = 1.06 if capacity == 10 else 1.0
        close(slope[0], -np.ones(3) / last)
        ends = [change(HEAT, 1.0 + h, capacity) for h in (1e-5, -1e-5)]
        np.testing.assert_allclose(slope[1], (ends[0] - ends[1]) / 2e-5, rtol=1e-8)
    by_capacity = jax.grad(change, argnums=2)
    np.testing.assert_allclose(by_capacity(HEAT, 1.0, 10.0), np.log(1.06) - 0.06 / 1.06)
    assert by_capacity(HEAT, 1.0, jnp.inf) == 0
    assert np.isnan(change(np.array([30.0]), 1.0, 10.0))
    with jax.enable_x64(False):
        assert reservoir_entropy_change(HEAT, 1.0, 10.0).dtype == jnp.float32


def test_refusals():
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"capacity={bad} must be positive"):
            reservoir_entropy_change(HEAT, 1.0, bad)
        with pytest.raises(ValueError, match=f"temperature={bad} must be positive"):
            reservoir_temperature(HEAT, bad, 1.0)
    with pytest.raises(
        ValueError, match="cools to temperature -1: raise the capacity above 20"
    ):
        reservoir_entropy_change([20.0], 1.0, 10.0)
    with pytest.raises(ValueError, match=r"heat has shape \(\)"):
        reservoir_entropy_change(0.3, 1.0)
    with pytest.raises(ValueError, match=r"capacity has shape \(2,\)"):
        reservoir_temperature(HEAT, 1.0, [1.0, 2.0])
