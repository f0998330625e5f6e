"""Response functions against finite differences of exact rows, with their error bars."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax import exact
from thermojax.response import differentiable_mean, mean, response, susceptibility

KEY = jax.random.key(11)
RUNS = tj.SMC(n=512, n_runs=8)
X = np.arange(4.0)
Y = np.array([0.0, 1.0, 1.0, 3.0])


def slope(f, x, h=1e-4):
    return (f(x + h) - f(x - h)) / (2 * h)


class ByScale:
    """N(0, control^2) in place of a fixed prior."""

    def __call__(self, theta, control, params):
        return jnp.sum(
            -0.5 * (theta / control) ** 2 - jnp.log(control) - 0.5 * jnp.log(2 * jnp.pi)
        )


def posterior(beta, scale):
    """Mean and covariance of T11 with the prior N(0, scale^2)."""
    design = np.c_[np.ones(4), X]
    precision = beta * design.T @ design / 0.25 + np.eye(2) / scale**2
    covariance = np.linalg.inv(precision)
    return beta * covariance @ design.T @ Y / 0.25, covariance


@functools.cache
def regression():
    """T11 whose prior scale is the control."""
    prior = tj.prior(
        ByScale(),
        lambda key, control, params: control * jax.random.normal(key, (2,)),
        like=jnp.zeros(2),
        log_mass=0.0,
    )
    row = exact.linear_regression().system
    energy = lambda w, control, data: row.energy(w)
    sys = tj.system(energy, prior=prior, like=jnp.zeros(2))
    return sys, tj.log_partition(sys, tj.Point(1.0, 1.0), KEY, method=RUNS)


@functools.cache
def harmonic():
    """T1 about a centre that is the control, from a wide reference."""
    k = jnp.array([1.0, 2.0, 5.0])
    sys = tj.system(
        lambda x, c: 0.7 + 0.5 * jnp.sum(k * (x - c) ** 2),
        reference=tj.gaussian_prior(2.0, like=jnp.zeros(3)),
    )
    return sys, tj.log_partition(sys, tj.Point(1.5, jnp.array(0.3)), KEY, method=RUNS)


@functools.cache
def network():
    row = exact.tanh_network()
    return row, tj.log_partition(row.system, tj.Point(1.0), KEY, method=RUNS)


def test_mean_of_a_gaussian_posterior():
    sys, est = regression()
    found = mean(est, sys, lambda w: w)
    check(found.value, posterior(1.0, 1.0)[0], found.stderr, limit=4)
    assert found.trusted
    caught(found.value + 8 * found.stderr, posterior(1.0, 1.0)[0], found.stderr)


def test_prior_scale_and_temperature_of_the_regression():
    """The control is in the prior alone: only Cov(A, d log m) can answer."""
    sys, est = regression()
    found = response(est, sys, lambda w: w)
    in_scale = slope(lambda s: posterior(1.0, s)[0], 1.0)
    in_beta = slope(lambda b: posterior(b, 1.0)[0], 1.0)
    check(found.control.value, in_scale, found.control.stderr, limit=4)
    check(found.beta.value, in_beta, found.beta.stderr, limit=4)
    caught(found.control.value * 2, in_scale, found.control.stderr)
    caught(found.control.value * 0, in_scale, found.control.stderr)


def test_susceptibility_is_beta_covariance():
    sys, est = regression()
    found = susceptibility(est, sys, lambda w: w)
    check(found.value, posterior(1.0, 1.0)[1], found.stderr, limit=4)
    caught(found.value * 2, posterior(1.0, 1.0)[1], found.stderr)
    centred, wells = harmonic()
    found = susceptibility(wells, centred, lambda x: x, lambda x: x[0])
    # <x> = h / k for U -> U - h x_0, whatever beta
    check(found.value, [1.0, 0.0, 0.0], found.stderr, limit=4)
    assert found.value.shape == (3,)


def test_an_observable_that_knows_the_control():
    """A = (x - c)^2 moves twice: itself, and the ensemble under it; together not at all."""
    sys, est = harmonic()
    still = response(est, sys, lambda x, c: (x - c) ** 2)
    check(still.control.value, np.zeros(3), still.control.stderr, limit=4)
    moving = response(est, sys, lambda x: x)
    check(moving.control.value, np.ones(3), moving.control.stderr, limit=4)
    energy = response(est, sys, lambda x, c: sys.energy(x, c))
    check(energy.beta.value, -1.5 / 1.5**2, energy.beta.stderr, limit=4)


def test_network_fluctuations_are_derivatives_of_the_exact_row():
    row, est = network()
    u = lambda theta: row.system.energy(theta)
    found = response(est, row.system, u)
    exact_slope = slope(row.internal_energy, 1.0)
    check(found.beta.value, exact_slope, found.beta.stderr, limit=4)
    chi = susceptibility(est, row.system, u)
    np.testing.assert_allclose(chi.value, -found.beta.value, rtol=1e-4)
    # the field on U is a change of beta: C = beta^2 Var U = beta chi
    check(chi.value, row.heat_capacity(1.0), chi.stderr, limit=4)


def test_the_surrogate_to_second_order():
    sys, est = regression()
    f = lambda s: differentiable_mean(est, sys, lambda w: w[1])(tj.Point(1.0, s))
    exactly = lambda s: posterior(1.0, s)[0][1]
    one = response(est, sys, lambda w: w[1]).control
    np.testing.assert_allclose(jax.jit(jax.grad(f))(1.0), one.value, rtol=1e-4)
    np.testing.assert_allclose(f(1.0), mean(est, sys, lambda w: w[1]).value, rtol=1e-5)
    second = slope(lambda s: slope(exactly, s), 1.0, 1e-3)
    parts = est.parts
    each = []
    for r in range(8):
        only = jnp.where(jnp.arange(4096) // 512 == r, parts.log_weights, -jnp.inf)
        alone = est._replace(parts=parts._replace(log_weights=only))
        g = lambda s, a=alone: differentiable_mean(a, sys, lambda w: w[1])(tj.Point(1.0, s))
        each.append(float(jax.jvp(jax.grad(g), (1.0,), (1.0,))[1]))
    check(np.array(each), second)
    caught(2 * np.array(each), second)


def test_error_bars_are_those_of_the_runs():
    """Four hundred sets of exact draws: scores of mean and covariance spread by one."""

    def one(key):
        x = jax.random.normal(key, (8 * 64,))
        flat = jnp.zeros(8 * 64)
        parts = harmonic()[1].parts._replace(
            samples=x, log_weights=flat, runs_log_z=jnp.zeros(8), point=tj.Point(2.0)
        )
        est = tj.Estimate(0.0, 0.0, 0.0, jnp.array(512.0), jnp.uint32(0), parts)
        first, second = mean(est, None, lambda x: x), susceptibility(est, None, lambda x: x)
        return first.value / first.stderr, (second.value - 2.0) / second.stderr

    with jax.ensure_compile_time_eval():
        z = np.array(jax.jit(jax.vmap(one))(jax.random.split(KEY, 400)))
    assert np.all(np.abs(z.mean(1)) < 0.25)
    assert np.all((z.std(1) > 0.75) & (z.std(1) < 1.1))


def test_a_single_run_has_no_error_bar():
    sys, est = regression()
    parts = est.parts._replace(runs_log_z=est.parts.runs_log_z[:1])
    with pytest.raises(ValueError, match="4096 samples of 1 runs"):
        mean(est._replace(parts=parts), sys, lambda w: w)
