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


@pytest.mark.parametrize(("coupling", "field"), [(1.0, 0.1), (-0.6, 0.0), (2.0, -0.5)])
def test_curie_weiss_against_enumeration(coupling, field):
    n, beta = 7, 0.9
    states = np.array(list(itertools.product((-1, 1), repeat=n)), np.float32)
    total = states.sum(1, dtype=np.float64)
    energy = -coupling * total**2 / (2 * n) - field * total
    solved = exact.curie_weiss(n, coupling, field)
    seen = jax.vmap(solved.system.energy)(states)
    np.testing.assert_allclose(seen, energy, rtol=1e-5, atol=1e-6)
    weight = np.exp(-beta * energy)
    mean = np.sum(weight * energy) / weight.sum()
    variance = np.sum(weight * (energy - mean) ** 2) / weight.sum()
    expected = np.log(weight.sum()), mean, variance
    np.testing.assert_allclose(solved.moments(beta), expected, rtol=1e-12)


def test_curie_weiss_of_many_spins_is_mean_field():
    """log Z / n -> max_m [s(m) + J m^2/2 + h m] at beta = 1."""
    n, j, h = 200_000, 1.3, 0.05
    m = np.linspace(-1, 1, 400_001)[1:-1]
    entropy = -(1 + m) / 2 * np.log((1 + m) / 2) - (1 - m) / 2 * np.log((1 - m) / 2)
    best = np.max(entropy + j * m**2 / 2 + h * m)
    solved = exact.curie_weiss(n, j, h)
    assert solved.log_partition(1.0) / n == pytest.approx(best, abs=1e-5)
    assert solved.log_partition(0.0) == pytest.approx(n * np.log(2), rel=1e-10)


def test_blocks_fit_the_states():
    assert exact.curie_weiss().blocks is None
    assert exact.double_well().blocks is None
    (block,) = exact.free_spins(5).blocks
    assert block.all()
    pair = exact.product(exact.free_spins(3), exact.ising(4))
    assert len(pair.blocks) == 2
    for place, leaf in enumerate(zip(*pair.blocks, strict=True)):
        np.testing.assert_array_equal(np.sum(leaf, axis=0), 1, err_msg=str(place))
    assert pair.system.prior.values == (-1, 1)
    assert exact.product(exact.rbm(), exact.ising(4)).system.prior.values is None
    assert exact.product(exact.free_spins(3), exact.curie_weiss()).blocks is None


def test_bad_input():
    with pytest.raises(ValueError, match="n must be at least 1"):
        exact.curie_weiss(0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        exact.free_spins(0)
    with pytest.raises(ValueError, match="field must have shape"):
        exact.free_spins(3, (1.0, 2.0))
