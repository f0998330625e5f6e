import numpy as np
import pytest
from scipy import integrate, stats

from thermojax import exact

X = np.array([-1.2, 0.3, 0.9, 1.7])
Y = np.array([-0.4, 0.5, 0.2, 0.9])


def _brute(activation, noise, scale, beta):
    """Both weights of one unit by nested quadrature, nothing integrated by hand."""

    def moment(k):
        axis, weights = np.polynomial.legendre.leggauss(200)
        reach = 9 * scale
        # panel edges at zero, where a relu has its kink
        half = (axis + 1) * reach / 2
        points = np.concatenate([-half, half])
        mass = np.concatenate([weights, weights]) * reach / 2
        f = activation(np.multiply.outer(points, X))[:, None, :] * points[None, :, None]
        u = np.sum((Y - f) ** 2, axis=-1) / (2 * noise**2)
        prior = stats.norm.pdf(points / scale) / scale * mass
        return prior @ (u**k * np.exp(-beta * u)) @ prior

    z, first, second = (moment(k) for k in range(3))
    return np.log(z), first / z, beta**2 * (second / z - (first / z) ** 2)


@pytest.mark.parametrize(
    ("build", "activation"),
    [
        (exact.tanh_network, np.tanh),
        (exact.relu_network, lambda x: np.maximum(x, 0)),
    ],
)
@pytest.mark.parametrize("beta", [0.4, 1.5])
def test_one_unit_against_brute_force(build, activation, beta):
    noise, scale = 0.5, 1.3
    solved = build(X, Y, noise, 1, scale)
    found = [
        solved.log_partition(beta),
        solved.internal_energy(beta),
        solved.heat_capacity(beta),
    ]
    np.testing.assert_allclose(found, _brute(activation, noise, scale, beta), rtol=1e-8)


@pytest.mark.parametrize("build", [exact.tanh_network, exact.relu_network])
def test_two_units_against_scipy(build):
    """Marginal likelihood given the input weights from a normal density over targets."""
    activation = np.tanh if build is exact.tanh_network else (lambda x: np.maximum(x, 0))
    noise, scale = 0.6, 0.9
    solved = build(X, Y, noise, 2, scale)

    def integrand(w2, w1):
        phi = scale * np.stack([activation(w1 * X), activation(w2 * X)], axis=1)
        covariance = phi @ phi.T + noise**2 * np.eye(len(X))
        quadratic = Y @ np.linalg.solve(covariance, Y)
        density = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])
        return np.exp(density - 0.5 * (w1**2 + w2**2) / scale**2) / (2 * np.pi * scale**2)

    parts = [(-6.0, 0.0), (0.0, 6.0)]
    evidence = sum(
        integrate.dblquad(integrand, *first, *second, epsabs=1e-9, epsrel=1e-6)[0]
        for first in parts
        for second in parts
    )
    assert solved.log_evidence == pytest.approx(np.log(evidence), rel=1e-5)


def test_tanh_becomes_linear_for_small_inputs():
    """tanh(w x) = w x: the product a w of two normals times x, one Bessel-like integral."""
    small = 1e-4
    solved = exact.tanh_network(small * X, small * Y, small * 0.5)
    w = np.linspace(-12, 12, 200_001)
    t = 1 / 0.25
    gram, overlap = w**2 * (X @ X), w * (X @ Y)
    log_z = -0.5 * t * (Y @ Y) - 0.5 * np.log1p(t * gram)
    log_z = log_z + 0.5 * t**2 * overlap**2 / (1 + t * gram)
    expected = np.log(np.sum(np.exp(log_z) * stats.norm.pdf(w)) * (w[1] - w[0]))
    assert solved.log_partition(1.0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("hidden", [1, 2])
def test_relu_and_tanh_energy(hidden):
    theta = {"a": np.array([0.7, -1.1])[:hidden], "w": np.array([0.4, -2.0])[:hidden]}
    theta = {name: leaf.astype(np.float32) for name, leaf in theta.items()}
    for build, activation in (
        (exact.tanh_network, np.tanh),
        (exact.relu_network, lambda x: np.maximum(x, 0)),
    ):
        system = build(X, Y, 0.3, hidden).system
        f = activation(np.outer(X, theta["w"])) @ theta["a"]
        expected = (Y - f) ** 2 / 0.18
        assert system.energy(theta) == pytest.approx(expected.sum(), rel=1e-4)
        np.testing.assert_allclose(system.per_example(theta), expected, rtol=1e-4, atol=1e-5)


def test_tanh_symmetry_leaves_the_reduced_energy_invariant():
    system = exact.tanh_network(hidden=2).system
    theta = {"a": np.float32([0.7, -1.1]), "w": np.float32([0.4, -2.0])}
    image = {"a": np.float32([1.1, 0.7]), "w": np.float32([2.0, 0.4])}
    assert system.energy(theta) == pytest.approx(float(system.energy(image)), rel=1e-6)
    assert system.log_base(theta) == pytest.approx(float(system.log_base(image)), rel=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="hidden must be 1 or 2"):
        exact.tanh_network(hidden=3)
    with pytest.raises(ValueError, match="noise must be positive"):
        exact.tanh_network(noise=0.0)
    with pytest.raises(ValueError, match=r"inputs must have shape \[n\]"):
        exact.relu_network(X[:, None], Y)
    with pytest.raises(ValueError, match="prior_scale must be positive"):
        exact.relu_network(prior_scale=-1.0)
