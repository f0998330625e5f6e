import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from thermojax import exact

RNG = np.random.default_rng(5)
X = RNG.normal(size=(9, 3))
Y = RNG.normal(size=9)
SCALE = np.array([0.5, 1.0, 2.0])


def test_evidence_is_a_normal_density():
    noise = 0.7
    covariance = X @ np.diag(SCALE**2) @ X.T + noise**2 * np.eye(9)
    expected = stats.multivariate_normal(np.zeros(9), covariance).logpdf(Y)
    found = exact.linear_regression(X, Y, noise, SCALE)
    assert found.log_evidence == pytest.approx(expected, rel=1e-12)


def test_more_weights_than_examples():
    wide = exact.linear_regression(X.T, Y[:3], 0.4)
    covariance = X.T @ X + 0.16 * np.eye(3)
    expected = stats.multivariate_normal(np.zeros(3), covariance).logpdf(Y[:3])
    assert wide.dim == 9
    assert wide.log_evidence == pytest.approx(expected, rel=1e-12)


def test_noise_argument_equals_another_system():
    base, other = exact.linear_regression(X, Y, 0.7), exact.linear_regression(X, Y, 1.3)
    for method in ("log_partition", "internal_energy", "entropy", "heat_capacity"):
        assert getattr(base, method)(0.8, noise=1.3) == pytest.approx(
            getattr(other, method)(0.8), rel=1e-13
        )
    assert base.log_partition(0.8, noise=np.array([0.7, 1.3])).shape == (2,)


@pytest.mark.parametrize("build", [exact.linear_regression, exact.tanh_network])
def test_derivative_by_noise(build):
    """d log Z / d noise = -beta <dU/dnoise> = 2 beta <U> / noise."""
    solved, beta, h = build(), 1.4, 1e-4
    noise = solved.noise
    slope = solved.log_partition(beta, noise + h) - solved.log_partition(beta, noise - h)
    expected = 2 * beta * solved.internal_energy(beta) / noise
    assert slope / (2 * h) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("build", [exact.linear_regression, exact.relu_network])
def test_control_is_the_noise(build):
    system, noise = build().system, build().noise
    theta = system.sample_base(jax.random.key(0))
    energy = float(system.energy(theta))
    for control in ((), {}, noise, {"noise": noise}):
        assert system.energy(theta, control) == pytest.approx(energy, rel=1e-6)
    assert system.energy(theta, 2 * noise) == pytest.approx(energy / 4, rel=1e-6)
    slope = jax.grad(lambda s: system.energy(theta, s))(noise)
    assert slope == pytest.approx(-2 * energy / noise, rel=1e-5)
    with pytest.raises(ValueError, match="is its noise alone, got 2 leaves"):
        system.energy(theta, (1.0, 2.0))


def test_linear_energy_per_example():
    system = exact.linear_regression(X, Y, 0.7).system
    w = jnp.array([0.2, -1.0, 0.4])
    expected = (Y - X @ np.asarray(w)) ** 2 / (2 * 0.49)
    np.testing.assert_allclose(system.per_example(w), expected, rtol=2e-5, atol=1e-6)
    assert system.energy(w) == pytest.approx(expected.sum(), rel=1e-5)


def test_diabetes_shape_and_parameters():
    solved = exact.diabetes(noise=1.0, prior_scale=0.1)
    x, y = solved.system.data
    assert x.shape == (442, 10)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-5)
    covariance = 0.01 * np.asarray(x, float) @ np.asarray(x, float).T + np.eye(442)
    expected = stats.multivariate_normal(np.zeros(442), covariance).logpdf(np.asarray(y, float))
    assert solved.log_evidence == pytest.approx(expected, rel=1e-6)


def test_logistic_against_scipy():
    x, t = X[:, :2], np.where(Y > 0, 1, -1)
    scale, beta = 1.3, 0.8

    def moment(k):
        def integrand(w2, w1):
            u = np.sum(np.logaddexp(0, -t * (x @ (w1, w2))))
            return u**k * np.exp(-beta * u - 0.5 * (w1**2 + w2**2) / scale**2)

        mass = integrate.dblquad(integrand, -9, 9, -9, 9, epsabs=0, epsrel=1e-7)[0]
        return mass / (2 * np.pi * scale**2)

    z, first = moment(0), moment(1)
    solved = exact.logistic_regression(x, t, scale)
    assert solved.log_partition(beta) == pytest.approx(np.log(z), rel=1e-7)
    assert solved.internal_energy(beta) == pytest.approx(first / z, rel=1e-6)


def test_logistic_with_one_weight_and_zero_one_labels():
    x, t = np.array([[1.0], [2.0], [-0.5]]), np.array([1, 0, 0])
    solved = exact.logistic_regression(x, t, 3.0)
    w = np.linspace(-40, 40, 80_001)
    u = np.logaddexp(0, np.outer(w, x[:, 0] * (1 - 2 * t))).sum(1)
    z = np.sum(np.exp(-1.5 * u) * stats.norm.pdf(w, scale=3)) * (w[1] - w[0])
    assert solved.log_partition(1.5) == pytest.approx(np.log(z), rel=1e-10)
    assert solved.system.energy(jnp.array([0.7])) == pytest.approx(
        np.logaddexp(0, 0.7 * x[:, 0] * (1 - 2 * t)).sum(), rel=1e-5
    )


def test_bad_input():
    with pytest.raises(ValueError, match="noise must be positive and finite, got 0"):
        exact.linear_regression(X, Y, 0.0)
    with pytest.raises(ValueError, match="noise must be positive"):
        exact.linear_regression(X, Y).log_partition(1.0, noise=-1.0)
    with pytest.raises(ValueError, match=r"targets \[n\], got \(9, 3\) and \(8,\)"):
        exact.linear_regression(X, Y[:8])
    with pytest.raises(ValueError, match="both X and y"):
        exact.linear_regression(X)
    with pytest.raises(ValueError, match="prior_scale must have shape"):
        exact.linear_regression(X, Y, 1.0, np.ones(2))
    with pytest.raises(ValueError, match="at most 2 weights, X has 3 columns"):
        exact.logistic_regression(X, np.sign(Y))
    with pytest.raises(ValueError, match="labels must be -1 and"):
        exact.logistic_regression(X[:, :2], Y)
