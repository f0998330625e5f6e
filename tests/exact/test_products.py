import jax
import numpy as np
import pytest

import thermojax
from thermojax import exact

METHODS = ("log_partition", "internal_energy", "entropy", "heat_capacity")


def test_everything_adds():
    parts = exact.double_well(), exact.tanh_network(), exact.free_spins(3), exact.ring(3)
    solved = exact.product(*parts)
    betas = np.array([0.5, 1.0, 2.0])
    for method in METHODS:
        expected = sum(getattr(part, method)(betas) for part in parts)
        np.testing.assert_allclose(getattr(solved, method)(betas), expected, rtol=1e-12)
    assert solved.dim == 1 + 2 + 3 + 3
    assert solved.symmetry_order == 2


def test_energy_and_measures_add():
    parts = exact.tanh_network(hidden=2), exact.normal_crossing(), exact.free_spins(3)
    solved = exact.product(*parts)
    theta = solved.system.sample_base(jax.random.key(0))
    assert solved.system.energy(theta) == pytest.approx(
        sum(float(p.system.energy(x)) for p, x in zip(parts, theta, strict=True)), rel=1e-5
    )
    assert solved.system.log_base(theta) == pytest.approx(
        sum(float(p.system.log_base(x)) for p, x in zip(parts, theta, strict=True)), rel=1e-5
    )
    assert solved.system.base_mass == pytest.approx(3 * np.log(2))
    assert solved.system.reference is None


def test_reference_of_mixed_measures_is_normalised():
    parts = exact.double_well(), exact.free_spins(2, 0.6), exact.tanh_network()
    solved = exact.product(*parts)
    reference = solved.system.reference
    theta = reference.sample(jax.random.key(1))
    expected = (
        parts[0].system.reference.log_density(theta[0])
        - 2 * np.log(2)
        + parts[2].system.log_base(theta[2])
    )
    assert reference.log_density(theta) == pytest.approx(float(expected), rel=1e-5)
    assert reference.log_mass == 0.0
    assert solved.system.base_mass is None
    with pytest.raises(ValueError, match="sample its reference"):
        solved.system.sample_base(jax.random.key(0))


def test_controls_go_to_their_factors():
    parts = exact.tanh_network(), exact.relu_network()
    system = exact.product(*parts).system
    theta = system.sample_base(jax.random.key(2))
    expected = parts[0].system.energy(theta[0], 0.5) + parts[1].system.energy(theta[1])
    assert system.energy(theta, (0.5, ())) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="a tuple of 2 controls"):
        system.energy(theta, 0.5)


def test_products_of_products():
    well = exact.double_well()
    nested = exact.product(exact.product(well, well), well)
    assert nested.log_partition(1.3) == pytest.approx(3 * well.log_partition(1.3))
    theta = nested.system.reference.sample(jax.random.key(0))
    assert np.isfinite(nested.system.energy(theta))
    with pytest.raises(thermojax.ImproperEnsembleError):
        nested.log_partition(0.0)


def test_threshold_is_that_of_the_strictest_factor():
    solved = exact.product(exact.student(), exact.double_well())
    assert solved.proper_above == pytest.approx(0.4)
    with pytest.raises(thermojax.ImproperEnsembleError, match=r"0\.4"):
        solved.log_partition(0.35)


def test_bad_input():
    with pytest.raises(ValueError, match="at least one factor"):
        exact.product()
