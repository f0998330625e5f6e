import numpy as np
import pytest

from thermojax import exact


def test_matrix_and_diagonal_stiffness_agree():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    diagonal = np.array([0.4, 1.5, 7.0])
    matrix = rotation @ np.diag(diagonal) @ rotation.T
    plain, turned = exact.harmonic(diagonal, 0.2), exact.harmonic(matrix, 0.2)
    for method in ("log_partition", "internal_energy", "entropy", "heat_capacity"):
        assert getattr(turned, method)(1.7) == pytest.approx(getattr(plain, method)(1.7))
    x = np.array([0.3, -1.0, 2.0], np.float32)
    assert turned.system.energy(x) == pytest.approx(0.2 + 0.5 * x @ matrix @ x, rel=1e-5)
    assert turned.system.energy((rotation @ x).astype(np.float32)) == pytest.approx(
        float(plain.system.energy(x)), rel=1e-5
    )
    assert exact.harmonic(2.0).dim == 1


def test_funnel_against_a_grid():
    n, s, beta = 2, 0.9, 0.7
    v = np.linspace(-25, 25, 20_001)
    u = v**2 / (2 * s**2) + n * v / 2
    # z integrates to (2 pi e^v / beta)^{n/2}, and carries n / (2 beta) of energy
    log_weight = -beta * u + 0.5 * n * (v + np.log(2 * np.pi / beta))
    weight = np.exp(log_weight)
    log_z = np.log(weight.sum() * (v[1] - v[0]))
    mean = np.sum(weight * u) / weight.sum()
    variance = np.sum(weight * (u - mean) ** 2) / weight.sum() + n / (2 * beta**2)
    solved = exact.funnel(n, s)
    assert solved.log_partition(beta) == pytest.approx(log_z, rel=1e-10)
    assert solved.internal_energy(beta) == pytest.approx(mean + n / (2 * beta), rel=1e-10)
    assert solved.heat_capacity(beta) == pytest.approx(beta**2 * variance, rel=1e-10)


def test_rosenbrock_against_a_grid():
    curvature, center, stiffness, beta = 2.0, 0.4, 3.0, 0.9
    x = np.linspace(-3, 4, 1401)[:, None]
    y = np.linspace(-8, 18, 5201)
    u = 0.5 * stiffness * (x - center) ** 2 + curvature * (y - x**2) ** 2
    weight = np.exp(-beta * u)
    solved = exact.rosenbrock(curvature, center=center, stiffness=stiffness)
    cell = (x[1, 0] - x[0, 0]) * (y[1] - y[0])
    assert solved.log_partition(beta) == pytest.approx(np.log(weight.sum() * cell), rel=1e-6)
    mean = np.sum(weight * u) / weight.sum()
    assert solved.internal_energy(beta) == pytest.approx(mean, rel=1e-5)


def test_energies():
    x = np.array([0.5, -1.0, 2.0], np.float32)
    assert exact.harmonic((1, 2, 5)).system.energy(x) == pytest.approx(
        0.7 + (0.25 + 2 + 20) / 2, rel=1e-6
    )
    assert exact.funnel(2, 1.5).system.energy(x) == pytest.approx(
        0.25 / 4.5 + np.exp(-0.5) * 5 / 2 + 0.5, rel=1e-6
    )
    assert exact.rosenbrock().system.energy(x[:2]) == pytest.approx(
        0.125 + 10 * 1.25**2, rel=1e-6
    )


def test_bad_input():
    with pytest.raises(ValueError, match="eigenvalues of the stiffness must be positive"):
        exact.harmonic([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="square and symmetric"):
        exact.harmonic([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="eigenvalues of the stiffness must be positive"):
        exact.harmonic((1.0, -1.0))
    with pytest.raises(ValueError, match="n >= 1"):
        exact.funnel(0)
    with pytest.raises(ValueError, match="s must be positive"):
        exact.funnel(s=-1.0)
    with pytest.raises(ValueError, match="curvature must be positive"):
        exact.rosenbrock(0.0)
