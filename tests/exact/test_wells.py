import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from thermojax import exact


@settings(derandomize=True, max_examples=25, deadline=None)
@given(a=st.floats(0.05, 20), b=st.floats(0.2, 3), beta=st.floats(0.05, 20))
def test_double_well_against_the_bessel_form(a, b, beta):
    z = beta * a * b**4 / 2  # Z = (pi/2) b e^{-z} [I_{1/4}(z) + I_{-1/4}(z)]
    # scipy's ive is e^{-z} I, and the minimum of U is zero
    expected = np.log(np.pi / 2 * b * (special.ive(0.25, z) + special.ive(-0.25, z)))
    found = exact.double_well(a, b).log_partition(beta)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_tilted_well_against_scipy():
    a, b, tilt, beta = 0.7, 1.6, -0.5, 2.3

    def moment(k):
        def integrand(x):
            u = a * (x**2 - b**2) ** 2 + tilt * x
            return u**k * np.exp(-beta * u)

        options = {"epsabs": 0, "epsrel": 1e-12, "limit": 500, "points": (-b, 0, b)}
        return integrate.quad(integrand, -4, 4, **options)[0]

    z, first, second = (moment(k) for k in range(3))
    solved = exact.double_well(a, b, tilt)
    assert solved.log_partition(beta) == pytest.approx(np.log(z), rel=1e-10)
    assert solved.internal_energy(beta) == pytest.approx(first / z, rel=1e-9)
    expected = beta**2 * (second / z - (first / z) ** 2)
    assert solved.heat_capacity(beta) == pytest.approx(expected, rel=1e-8)


def test_deep_wells_become_two_harmonic_wells():
    a, b, beta = 3.0, 2.0, 1e4
    harmonic = np.log(2) + 0.5 * np.log(2 * np.pi / (beta * 8 * a * b**2))
    solved = exact.double_well(a, b)
    assert solved.log_partition(beta) == pytest.approx(harmonic, abs=1e-4)
    assert solved.heat_capacity(beta) == pytest.approx(0.5, abs=1e-4)


def _grid_moments(energy, dim, beta, count, reach):
    """Brute-force trapezoid sums on a dense grid."""
    axis = np.linspace(-reach, reach, count)
    u = energy(np.meshgrid(*[axis] * dim, indexing="ij", sparse=True))
    weight = np.exp(-beta * (u - u.min()))
    mean = np.sum(weight * u) / weight.sum()
    log_z = np.log(weight.sum()) - beta * u.min() + dim * np.log(axis[1] - axis[0])
    return log_z, mean, beta**2 * np.sum(weight * (u - mean) ** 2) / weight.sum()


@pytest.mark.parametrize("coupling", [0.0, 1.7, -0.6])
def test_coupled_wells_against_a_dense_grid(coupling):
    a, b, beta = 0.8, 1.3, 1.4

    def energy(x):
        wells = sum(a * (s**2 - b**2) ** 2 for s in x)
        return wells + coupling * (x[0] - x[1]) ** 2

    solved = exact.coupled_double_wells(coupling, a=a, b=b)
    found = [
        solved.log_partition(beta),
        solved.internal_energy(beta),
        solved.heat_capacity(beta),
    ]
    np.testing.assert_allclose(found, _grid_moments(energy, 2, beta, 801, 5.0), rtol=1e-9)
    if coupling == 0:
        assert found[0] == pytest.approx(2 * exact.double_well(a, b).log_partition(beta))


@pytest.mark.parametrize(("n", "count"), [(1, 801), (2, 401), (3, 121), (4, 51)])
def test_ring_against_a_dense_grid(n, count):
    k, a, b, beta = 0.7, 0.3, 1.1, 1.3

    def energy(x):
        bonds = sum(k * (x[(i + 1) % n] - x[i]) ** 2 / 2 for i in range(n))
        return bonds + sum(a * (s**2 - b**2) ** 2 for s in x)

    solved = exact.ring(n, coupling=k, a=a, b=b)
    found = [
        solved.log_partition(beta),
        solved.internal_energy(beta),
        solved.heat_capacity(beta),
    ]
    np.testing.assert_allclose(found, _grid_moments(energy, n, beta, count, 4.5), rtol=1e-7)


def test_free_ring_is_a_product():
    sites, single = exact.ring(6, coupling=0.0), exact.double_well(0.25, 1.0)
    for method in ("log_partition", "internal_energy", "heat_capacity"):
        assert getattr(sites, method)(1.5) == pytest.approx(6 * getattr(single, method)(1.5))


def test_energies():
    x = np.array([0.3, -1.2, 0.8], np.float32)
    bonds = sum((x[i] - x[j]) ** 2 for i, j in itertools.combinations(range(3), 2))
    ring = exact.ring(3, coupling=2.0, a=0.5, b=0.7)
    assert ring.system.energy(x) == pytest.approx(
        bonds + 0.5 * np.sum((x**2 - 0.49) ** 2), rel=1e-5
    )
    pair = exact.coupled_double_wells(0.4, a=2.0)
    assert pair.system.energy(x[:2]) == pytest.approx(
        2 * np.sum((x[:2] ** 2 - 1) ** 2) + 0.4 * (x[0] - x[1]) ** 2, rel=1e-5
    )
    assert exact.double_well(2.0, 0.5, 0.3).system.energy(0.9) == pytest.approx(
        2 * (0.81 - 0.25) ** 2 + 0.27, rel=1e-5
    )


def test_bad_input():
    with pytest.raises(ValueError, match="a must be positive and finite, got 0"):
        exact.double_well(a=0)
    with pytest.raises(ValueError, match="tilt must be finite"):
        exact.double_well(tilt=np.nan)
    with pytest.raises(ValueError, match="n >= 1 sites, got 0"):
        exact.ring(0)
    with pytest.raises(ValueError, match="coupling must not be negative"):
        exact.ring(coupling=-1.0)
