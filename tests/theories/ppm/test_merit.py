"""Figures of merit: ratios with a meaning at every end of their range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax.theories.ppm import (
    gaussian_ledger,
    langevin_learner,
    learning_efficiency,
    memory_efficiency,
    relevance,
)

RATIOS = [learning_efficiency, memory_efficiency, relevance]


@pytest.mark.parametrize("ratio", RATIOS)
def test_ends_of_the_range(ratio):
    part = np.array([1.0, 0.0, 0.0, 1.0, -1.0, 2.0, np.inf, np.inf, np.nan])
    whole = np.array([4.0, 2.0, 0.0, 0.0, 0.0, np.inf, np.inf, 2.0, 0.0])
    expected = [0.25, 0.0, np.nan, np.inf, -np.inf, 0.0, 0.0, np.inf, np.nan]
    np.testing.assert_array_equal(ratio(part, whole), expected)
    assert ratio(np.ones((2, 1)), np.ones(3)).shape == (2, 3)
    assert ratio(1, 2) == 0.5
    assert ratio(np.float32(1), np.float32(2)).dtype == jnp.float32


@pytest.mark.parametrize("ratio", RATIOS)
def test_gradients(ratio, x64):
    slopes = jax.vmap(jax.grad(ratio, argnums=(0, 1)))
    part, whole = np.array([0.3, 0.3, 0.0]), np.array([0.7, np.inf, 0.0])
    by_part, by_whole = slopes(part, whole)
    np.testing.assert_allclose(by_part[:2], [1 / 0.7, 0.0], rtol=1e-12)
    np.testing.assert_allclose(by_whole[:2], [-0.3 / 0.49, 0.0], rtol=1e-12)
    assert np.all(np.isfinite(by_part))


def test_of_a_learner(x64):
    """All in [0, 1] for fresh samples without feedback; slower learning wastes less."""

    def merits(step_size, temperature=0.05, spread=0.25):
        noise = {"data_mean": 1.0, "data_cov": 1.0, "batch_cov": 0.5 * step_size}
        model = {"readout": 1.0, "output_cov": 0.5, "mean0": 0.0, "cov0": spread}
        learner = langevin_learner(1.0, 1.0, step_size, temperature, **noise, **model)
        led = gaussian_ledger(learner, 100)
        n = round(4 / step_size)
        gain = led.subsystem_info[n] - led.subsystem_info[0]
        return (
            learning_efficiency(gain, jnp.sum(led.ep_x[:n])),
            memory_efficiency(led.m_info[n], jnp.sum(led.ep_theta[:n])),
            relevance(led.l_info[n], led.m_info[n]),
        )

    fast, slow, cold = merits(0.4), merits(0.1), merits(0.1, 0.0, 0.0)
    for part in (*fast, *slow):
        assert 0 < part < 1
    assert slow[0] > fast[0]
    assert cold[1] == 0  # infinite memory, infinitely paid
    assert cold[2] == 0
