import numpy as np
import pytest
from scipy import integrate

import thermojax
from thermojax import exact


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0, 3.0, 8.0])
def test_power_against_scipy(exponent):
    beta, dim = 1.3, 3
    z = 2 * integrate.quad(lambda x: np.exp(-beta * x**exponent), 0, np.inf, epsrel=1e-12)[0]
    solved = exact.power(dim, exponent)
    assert solved.log_partition(beta) == pytest.approx(dim * np.log(z), rel=1e-9)
    assert solved.internal_energy(beta) == pytest.approx(dim / (exponent * beta))
    x = np.array([0.5, -1.5, 0.1], np.float32)
    assert solved.system.energy(x) == pytest.approx(np.sum(np.abs(x) ** exponent), rel=1e-5)


def test_harmonic_is_power_two():
    assert exact.power(4, 2.0).entropy(0.8) == pytest.approx(
        exact.harmonic(np.full(4, 2.0), 0.0).entropy(0.8)
    )


@pytest.mark.parametrize(("nu", "dim", "beta"), [(1.0, 1, 0.8), (5.0, 3, 0.6), (2.5, 2, 3.0)])
def test_student_against_scipy(nu, dim, beta):
    half = (nu + dim) / 2
    shell = {1: 2.0, 2: 2 * np.pi, 3: 4 * np.pi}[dim]

    def moment(k):
        def integrand(v):  # r = e^v
            u = half * np.log1p(np.exp(2 * v) / nu)
            return shell * u**k * np.exp(dim * v - beta * u)

        return sum(
            integrate.quad(integrand, low, low + 20, epsrel=1e-12, limit=200)[0]
            for low in range(-60, 160, 20)
        )

    z, first, second = (moment(k) for k in range(3))
    solved = exact.student(nu, dim)
    assert solved.log_partition(beta) == pytest.approx(np.log(z), rel=1e-8, abs=1e-8)
    assert solved.internal_energy(beta) == pytest.approx(first / z, rel=1e-7)
    expected = beta**2 * (second / z - (first / z) ** 2)
    assert solved.heat_capacity(beta) == pytest.approx(expected, rel=1e-6)


def test_student_is_improper_when_hot():
    solved = exact.student()
    assert solved.proper_above == pytest.approx(0.4)
    assert np.isfinite(solved.log_partition(0.401))
    for beta in (0.0, 0.3, 2 / 5):
        with pytest.raises(thermojax.ImproperEnsembleError, match=r"beta > 0\.4"):
            solved.log_partition(beta)
    with pytest.raises(thermojax.ImproperEnsembleError):
        solved.heat_capacity([1.0, 0.2])


def test_student_energy():
    x = np.array([1.0, -2.0, 0.5], np.float32)
    assert exact.student(4.0, 3).system.energy(x) == pytest.approx(
        3.5 * np.log1p(5.25 / 4), rel=1e-6
    )


def test_bad_input():
    with pytest.raises(ValueError, match="power must be positive"):
        exact.power(3, 0.0)
    with pytest.raises(ValueError, match="dim must be at least 1"):
        exact.power(0)
    with pytest.raises(ValueError, match="nu must be positive"):
        exact.student(-1.0)
    with pytest.raises(ValueError, match="dim must be at least 1"):
        exact.student(3.0, 0)
