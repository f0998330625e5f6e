import numpy as np
import pytest
from scipy import integrate, stats

from thermojax import exact


def _moments(density, axes, beta):
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    u = -np.log(density)
    weight = density**beta
    mean = np.sum(weight * u) / weight.sum()
    variance = np.sum(weight * (u - mean) ** 2) / weight.sum()
    return np.log(weight.sum() * cell), mean, beta**2 * variance


def _found(solved, beta):
    return [
        solved.log_partition(beta),
        solved.internal_energy(beta),
        solved.heat_capacity(beta),
    ]


@pytest.mark.parametrize("beta", [0.4, 1.0, 2.5])
def test_full_covariances_against_a_dense_grid(beta):
    weights, means = [0.25, 0.75], [[1.0, -1.0], [-0.5, 2.0]]
    covariances = [[[1.0, 0.5], [0.5, 0.7]], [[0.4, -0.1], [-0.1, 0.9]]]
    axes = [np.linspace(-14, 14, 1201), np.linspace(-14, 16, 1201)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    parts = zip(weights, means, covariances, strict=True)
    density = sum(w * stats.multivariate_normal(m, c).pdf(points) for w, m, c in parts)
    density = np.maximum(density, 1e-300)
    solved = exact.gaussian_mixture(weights, means, covariances=covariances)
    np.testing.assert_allclose(
        _found(solved, beta), _moments(density, axes, beta), rtol=1e-8, atol=1e-9
    )


def test_one_dimension_against_scipy():
    weights, means, sds, beta = (0.3, 0.7), (-1.0, 2.5), (0.4, 1.1), 0.6
    density = lambda x: sum(
        w * stats.norm.pdf(x, m, s) for w, m, s in zip(weights, means, sds, strict=True)
    )
    expected = integrate.quad(
        lambda x: density(x) ** beta,
        -15,
        20,
        points=(-1, 2.5),
        epsabs=0,
        epsrel=1e-12,
        limit=400,
    )[0]
    solved = exact.gaussian_mixture(weights, means, sds)
    assert solved.log_partition(beta) == pytest.approx(np.log(expected), rel=1e-10)
    assert solved.dim == 1


def test_shared_covariance_splits_off_the_common_directions():
    """Ten dimensions equal the line through the means times nine normal factors."""
    direction = np.random.default_rng(1).normal(size=10)
    direction /= np.linalg.norm(direction)
    sd, beta = 0.6, 0.35
    means = np.outer([-1.0, 1.5], direction)
    solved = exact.gaussian_mixture((0.2, 0.8), means, sd)
    line = exact.gaussian_mixture((0.2, 0.8), (-1.0, 1.5), sd)
    # -log N(0, sd^2) = x^2 / (2 sd^2) + log(sd sqrt(2 pi))
    factor = exact.harmonic(np.full(9, sd**-2.0), 9 * np.log(sd * np.sqrt(2 * np.pi)))
    np.testing.assert_allclose(
        _found(solved, beta), np.add(_found(line, beta), _found(factor, beta)), rtol=1e-10
    )


def test_one_component_is_harmonic():
    covariance = np.array([[2.0, 0.3], [0.3, 1.0]])
    solved = exact.gaussian_mixture([1.0], [[3.0, 4.0]], covariances=covariance)
    offset = np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    well = exact.harmonic(np.linalg.inv(covariance), offset)
    np.testing.assert_allclose(_found(solved, 0.6), _found(well, 0.6), rtol=1e-12)


def test_log_z_is_zero_at_beta_one():
    solved = exact.gaussian_mixture((0.2, 0.3, 0.5), ((0, 0), (3, 1), (-2, 4)), (0.3, 1.0, 0.7))
    assert abs(solved.log_partition(1.0)) < 1e-10


def test_energy_is_minus_log_density():
    means, sds = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[0.5, 1.0], [2.0, 0.3]])
    solved = exact.gaussian_mixture((0.4, 0.6), means, sds)
    x = np.array([0.3, 0.9])
    parts = zip((0.4, 0.6), means, sds, strict=True)
    density = sum(w * np.prod(stats.norm.pdf(x, m, s)) for w, m, s in parts)
    assert solved.system.energy(x.astype(np.float32)) == pytest.approx(
        -np.log(density), rel=1e-5
    )


def test_bad_input():
    with pytest.raises(ValueError, match=r"weights must sum to 1, got 1\.5"):
        exact.gaussian_mixture((0.5, 1.0))
    with pytest.raises(ValueError, match="one row per weight"):
        exact.gaussian_mixture((0.5, 0.5), ((0.0, 1.0),))
    with pytest.raises(ValueError, match="either sds or covariances"):
        exact.gaussian_mixture(sds=1.0, covariances=np.eye(2))
    with pytest.raises(ValueError, match="sds must have shape"):
        exact.gaussian_mixture(sds=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="covariances must have shape"):
        exact.gaussian_mixture(covariances=np.eye(3))
    with pytest.raises(ValueError, match="eigenvalues of the covariances"):
        exact.gaussian_mixture(covariances=-np.eye(2))
    with pytest.raises(ValueError, match="at most 2 dimensions, got 3"):
        exact.gaussian_mixture((0.5, 0.5), np.eye(3)[:2], (1.0, 2.0))
    with pytest.raises(ValueError, match="means span 3 dimensions"):
        exact.gaussian_mixture(np.full(4, 0.25), np.eye(4), 1.0)
