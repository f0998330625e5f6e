import math

import numpy as np
import pytest

from thermojax.exact.quadrature import combine, gauss_panels, integrate, shrink


def normal(mean, sd):
    def integrand(x):
        energy = 0.5 * ((x - mean) / sd) ** 2
        return -energy, energy, 0.0

    return integrand


def test_panels_integrate_polynomials_and_kinks():
    x, w = gauss_panels(-1.0, 2.0, 4)
    assert w.sum() == pytest.approx(3)
    assert np.sum(w * x**5) == pytest.approx((2**6 - 1) / 6)
    x, w = gauss_panels(-1.0, 2.0, 4, split=True)
    assert np.sum(w * np.abs(x)) == pytest.approx(2.5, rel=1e-14)


def test_combine_is_the_law_of_total_variance():
    found = combine(np.log([0.5, 1.5]), np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert found.log_z == pytest.approx(math.log(2))
    assert found.mean == pytest.approx(2.5)
    assert found.variance == pytest.approx(0.25 * 2 + 0.75 * 4 + 0.25 * 0.75 * 4)


@pytest.mark.parametrize("sd", [1e-6, 1e-2, 1.0])
def test_a_narrow_peak_is_found(sd):
    found = integrate(normal(0.3217, sd), [(-50.0, 80.0)])
    assert found.log_z == pytest.approx(math.log(sd * math.sqrt(2 * math.pi)), abs=1e-9)
    assert found.mean == pytest.approx(0.5, rel=1e-9)
    assert found.variance == pytest.approx(0.5, rel=1e-9)


def test_shrink_keeps_both_narrow_modes():
    def integrand(x):
        log_weight = np.logaddexp(-(((x + 7.013) / 0.02) ** 2), -(((x - 5.007) / 0.02) ** 2))
        return log_weight, log_weight, 0.0

    ((low, high),) = shrink(integrand, [(-100.0, 100.0)])
    assert -7.6 < low < -7.1
    assert 5.1 < high < 5.6
    assert integrate(integrand, [(-100.0, 100.0)]).log_z == pytest.approx(
        math.log(2 * 0.02 * math.sqrt(math.pi)), abs=1e-9
    )


def test_two_dimensions():
    def integrand(x, y):
        energy = 0.5 * (x**2 + y**2) + 0.9 * x * y
        return -energy, energy, 0.0

    found = integrate(integrand, [(-40.0, 40.0)] * 2)
    assert found.log_z == pytest.approx(math.log(2 * math.pi) - 0.5 * math.log(1 - 0.81))
    assert found.mean == pytest.approx(1)


def test_no_convergence_is_an_error():
    def rough(x):
        return np.sign(np.sin(3 * x)) - x**2, x, 0.0

    with pytest.raises(ValueError, match="did not converge"):
        integrate(rough, [(-10.0, 10.0)])
