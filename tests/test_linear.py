"""Stationary covariances against scipy, closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

import thermojax as tj
from tests.scores import EXACT

RNG = np.random.default_rng(0)


def chain_of(radius, d=6):
    """A non-normal step of given spectral radius and a full noise covariance."""
    m = RNG.normal(size=(d, d))
    b = RNG.normal(size=(d, d))
    return m * radius / np.max(np.abs(np.linalg.eigvals(m))), b @ b.T


@pytest.mark.parametrize("radius", [0.0, 0.5, 0.99, 0.9999])
def test_chain_against_scipy(radius, x64):
    m, q = chain_of(radius)
    s = tj.linear_stationary_covariance(m, q)
    np.testing.assert_allclose(s, solve_discrete_lyapunov(m, q), rtol=1e-9)
    np.testing.assert_array_equal(s, s.T)
    # power: the transposed step has another covariance
    if radius:
        wrong = tj.linear_stationary_covariance(m.T, q)
        assert not np.allclose(wrong, s, rtol=0.01)


def test_process_against_scipy(x64):
    for shift in (4.0, 2.9):
        a = RNG.normal(size=(5, 5)) + shift * np.eye(5)
        _, d = chain_of(0.5, 5)
        s = tj.ornstein_uhlenbeck_covariance(a, d)
        np.testing.assert_allclose(s, solve_continuous_lyapunov(a, 2 * d), rtol=1e-9)
    # a defective drift, and one whose rates span four decades
    jordan = np.array([[1.0, 1.0], [0.0, 1.0]])
    for a in (jordan, np.diag([1e-2, 1e2]) + 0.1):
        s = tj.ornstein_uhlenbeck_covariance(a, np.eye(2))
        np.testing.assert_allclose(a @ s + s @ a.T, 2 * np.eye(2), rtol=0, atol=1e-9)


def test_rows_of_the_table_of_optimisers(x64):
    """Core specification 2.3: SGD with momentum, and Nesterov's."""
    lr, mu, k, s2 = 0.3, 0.6, 1.7, 0.8
    # state (x, t): t' = k x + xi + mu t,  x' = x - lr t'
    m = np.array([[1 - lr * k, -lr * mu], [k, mu]])
    noise = np.array([-lr, 1.0])
    s = tj.linear_stationary_covariance(m, s2 * np.outer(noise, noise))
    expected = lr * s2 * (1 + mu) / ((1 - mu) * k * (2 * (1 + mu) - lr * k))
    np.testing.assert_allclose(s[0, 0], expected, rtol=EXACT)
    # state (x, v): v' = mu v - lr (k (x + mu v) + xi),  x' = x + v'
    q = lr * k
    kick = np.array([-q, mu * (1 - q)])
    m, noise = np.array([[1, 0], [0, 0]]) + kick, -lr * np.ones(2)
    s = tj.linear_stationary_covariance(m, s2 * np.outer(noise, noise))
    damped = 1 - mu * (1 - q)
    expected = lr**2 * s2 * (1 + mu * (1 - q)) / (damped * q * (2 - q + 2 * mu * (1 - q)))
    np.testing.assert_allclose(s[0, 0], expected, rtol=EXACT)


@pytest.mark.parametrize(
    "solve", [tj.linear_stationary_covariance, tj.ornstein_uhlenbeck_covariance]
)
def test_derivatives(solve, x64):
    m, q = chain_of(0.8, 3)
    m = m + (2 * np.eye(3) if solve is tj.ornstein_uhlenbeck_covariance else 0)
    read = lambda m, q: jnp.sum(jnp.sin(solve(m, q)))
    dm, dq = RNG.normal(size=(3, 3)), RNG.normal(size=(3, 3))
    dq = dq + dq.T
    eps = 1e-6
    slope = (read(m + eps * dm, q + eps * dq) - read(m - eps * dm, q - eps * dq)) / (2 * eps)
    gm, gq = jax.jit(jax.grad(read, argnums=(0, 1)))(m, q)
    np.testing.assert_allclose(jnp.sum(gm * dm) + jnp.sum(gq * dq), slope, rtol=1e-6)
    forward = jax.jvp(read, (jnp.asarray(m), jnp.asarray(q)), (dm, dq))[1]
    np.testing.assert_allclose(forward, slope, rtol=1e-6)


def test_jit_vmap_and_dtype():
    batch = [chain_of(0.7, 3) for _ in range(4)]
    m, q = (np.stack(x).astype(np.float32) for x in zip(*batch, strict=True))
    together = jax.jit(jax.vmap(tj.linear_stationary_covariance))(m, q)
    assert together.dtype == jnp.float32
    for i in range(4):
        one = solve_discrete_lyapunov(m[i].astype(float), q[i].astype(float))
        np.testing.assert_allclose(together[i], one, rtol=1e-4, atol=1e-4)
    assert tj.linear_stationary_covariance([[0]], [[2]]).dtype == jnp.float32


@pytest.mark.parametrize("m", [np.eye(2), 1.2 * np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]])
def test_no_stationary_chain(m):
    with pytest.raises(ValueError, match=r"spectral radius of M is 1(\.2)?, not below 1"):
        tj.linear_stationary_covariance(m, np.eye(2))
    traced = jax.jit(tj.linear_stationary_covariance)(jnp.asarray(m, float), jnp.eye(2))
    assert np.all(np.isnan(traced))


def test_no_stationary_process():
    with pytest.raises(ValueError, match=r"real part -0\.5, not above 0"):
        tj.ornstein_uhlenbeck_covariance([[1.0, 0.0], [0.0, -0.5]], np.eye(2))
    traced = jax.jit(tj.ornstein_uhlenbeck_covariance)(-jnp.eye(2), jnp.eye(2))
    assert np.all(np.isnan(traced))


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"M and Q must be square .* \(2, 2\) and \(3, 3\)"):
        tj.linear_stationary_covariance(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="A and D must be square"):
        tj.ornstein_uhlenbeck_covariance(np.ones((2, 3)), np.ones((2, 3)))
