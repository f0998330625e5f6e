import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax import exact


@pytest.mark.parametrize("field", [0.7, (0.3, -1.2, 0.0, 2.0)])
def test_against_enumeration(field):
    n, beta = 4, 1.1
    states = np.array(list(itertools.product((-1, 1), repeat=n)), np.float32)
    solved = exact.free_spins(n, field)
    energy = np.asarray(jax.vmap(solved.system.energy)(states), np.float64)
    np.testing.assert_allclose(
        energy, -states @ np.broadcast_to(field, n), rtol=1e-5, atol=1e-6
    )
    weight = np.exp(-beta * energy)
    mean = np.sum(weight * energy) / weight.sum()
    variance = np.sum(weight * (energy - mean) ** 2) / weight.sum()
    assert solved.log_partition(beta) == pytest.approx(np.log(weight.sum()), rel=1e-6)
    assert solved.internal_energy(beta) == pytest.approx(mean, rel=1e-6)
    assert solved.heat_capacity(beta) == pytest.approx(beta**2 * variance, rel=1e-5)


def test_counting_measure():
    solved = exact.free_spins(6)
    assert solved.log_partition(0.0) == pytest.approx(6 * np.log(2))
    assert solved.system.base_mass == pytest.approx(6 * np.log(2))
    assert solved.entropy(200.0) == pytest.approx(0, abs=1e-12)  # one state left
    spins = jax.vmap(solved.system.sample_base)(jax.random.split(jax.random.key(0), 5000))
    assert set(np.unique(spins)) == {-1.0, 1.0}
    assert abs(spins.mean()) < 5 / np.sqrt(spins.size)
    assert solved.system.log_base(spins[0]) == 0


def test_strong_fields_do_not_overflow():
    solved = exact.free_spins(2, 1e6)
    assert solved.log_partition(1.0) == pytest.approx(2e6)
    assert solved.heat_capacity(1.0) == 0
    assert solved.system.energy(jnp.ones(2)) == -2e6


def test_bad_input():
    with pytest.raises(ValueError, match="n must be at least 1"):
        exact.free_spins(0)
    with pytest.raises(ValueError, match="field must have shape"):
        exact.free_spins(3, (1.0, 2.0))
