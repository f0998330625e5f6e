"""Fisher information of samples against closed forms, and lengths of paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scores import EXACT, check
from thermojax.fisher import fisher_metric, thermodynamic_length

S = np.array([[1.0, 0.3], [0.3, 0.5]])


def gaussian(params, x):
    """Mean A theta and covariance S."""
    e = x - params["a"] - params["b"]
    return -0.5 * e @ jnp.linalg.solve(S, e)


def categorical(theta, x):
    return jax.nn.log_softmax(theta)[x]


def test_metric_of_a_gaussian():
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([1.0, 2.0], S, size=20_000)
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.zeros(())}
    g = fisher_metric(gaussian, params, x)
    assert g.shape == (3, 3)
    inverse = np.linalg.inv(S)
    read = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])  # d mean / d (a, b)
    exact = read.T @ inverse @ read
    spread = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / len(x))
    check(g, exact, spread)
    np.testing.assert_array_equal(g, g.T)


def test_metric_of_all_outcomes_is_exact(x64):
    """Outcomes in the proportions of the model: g = diag(p) - p p^T = Cov(dU)."""
    p = np.array([0.5, 0.25, 0.25])
    g = fisher_metric(categorical, jnp.log(p), np.array([0, 0, 1, 2]))
    np.testing.assert_allclose(g, np.diag(p) - np.outer(p, p), rtol=EXACT, atol=EXACT)
    # half the squared length is the dissipation of a small step
    step = 1e-3 * np.array([1.0, -2.0, 0.5])
    q = jax.nn.softmax(jnp.log(p) + step)
    np.testing.assert_allclose(jnp.sum(p * jnp.log(p / q)), 0.5 * step @ g @ step, rtol=5e-3)


def test_length_of_a_path(x64):
    """Exact samples at every point: sum of sqrt(step g step)."""
    start, step = np.log([0.5, 0.25, 0.25]), np.array([0.4, 0.0, -0.2])
    path = np.stack([start, start, start + step])
    draws = np.tile(np.array([0, 0, 1, 2]), (3, 1))
    g = fisher_metric(categorical, start, draws[0])
    exact = np.sqrt(step @ g @ step)
    length = jax.jit(thermodynamic_length, static_argnums=0)
    np.testing.assert_allclose(length(categorical, path, draws), exact, rtol=EXACT)
    # a pytree of parameters, and a derivative through the step that does not move
    slope = jax.grad(lambda end: length(categorical, jnp.stack([start, start, end]), draws))
    np.testing.assert_allclose(slope(start + step), g @ step / exact, rtol=1e-9)
    still = jax.grad(lambda p: length(categorical, p, draws))(np.stack([start] * 3))
    np.testing.assert_array_equal(still, 0.0)


def test_length_bounds_the_dissipation():
    """Dragging a Gaussian: n sum ep = ell^2 / 2 at constant speed (ell = 2, S = 1)."""
    n, m = 10, 4000
    theta = jnp.linspace(0.0, 2.0, n + 1)
    x = theta[:, None] + jax.random.normal(jax.random.key(0), (n + 1, m))
    found = thermodynamic_length(lambda t, x: -0.5 * (x - t) ** 2, theta, x)
    check(found, 2.0, 2.0 / np.sqrt(2 * m * n))
    assert found.dtype == jnp.float32


def test_refusals():
    log_prob = lambda t, x: -0.5 * (x - t) ** 2
    with pytest.raises(ValueError, match="samples has leading axes"):
        fisher_metric(log_prob, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"returns shape \(2,\)"):
        fisher_metric(log_prob, 0.0, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="params_path has 3 points, samples_path 2"):
        thermodynamic_length(log_prob, jnp.ones(3), jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="params_path has 1 points"):
        thermodynamic_length(log_prob, jnp.ones(1), jnp.ones((1, 5)))
    with pytest.raises(ValueError, match=r"leaf of shape \(3,\)"):
        thermodynamic_length(log_prob, jnp.ones(3), jnp.ones(3))
