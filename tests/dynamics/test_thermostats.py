"""Thermostats against their closed laws, and where they are known to fail."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import brentq

import thermojax as tj
from tests.dynamics.minibatches import ensemble, louder, problem
from tests.scores import caught, check

TEMPERATURE, BATCH = 0.6, 6


def point(temperature=TEMPERATURE):
    return tj.Point(jnp.float32(1 / temperature))


def isotropic(d=8, n=16, seed=0):
    """Equal curvatures: the gradient noise is additive, of one variance s2 everywhere."""
    p = problem(d=d)
    rng = np.random.default_rng(seed)
    signs = rng.permuted(np.repeat([[1.0], [-1.0]], n // 2, axis=0).repeat(d, 1), axis=0)
    curvatures = np.broadcast_to(np.eye(d) / n, (n, d, d))
    return p._replace(curvatures=np.array(curvatures), centres=4.0 * signs)


def run_from(kernel, pt, second_moment, n_steps, size=20_000):
    st = ensemble(kernel, pt, second_moment, size=size)
    return tj.run(kernel, jax.random.key(2), st, pt, n_steps, ledger="none")


def test_baoab_with_a_full_gradient_is_the_word():
    p = problem(d=2)
    pt = point()
    one = tj.langevin(p.system(), gradient=tj.full(), step_size=0.3)
    two = tj.langevin(p.system(), "BAOAB", step_size=0.3)
    ends = []
    for kernel in (one, two):
        st = ensemble(kernel, pt, np.eye(2), size=32)
        st, out = tj.run(kernel, jax.random.key(4), st, pt, 20, ledger="full")
        ends.append((st.position, st.walkers.momentum, out["ledger"].heat, out["ledger"].bath))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


def linear_bath(h, k, s2, temperature, friction, noise):
    """Stationary (x, p, f) of B A O A B, f the gradient noise held for two half kicks.

    Returns the covariance and <p^2> just before and after O, of which D reads the mean.
    """
    kick = np.array([[1, 0, 0], [-h * k / 2, 1, -h / 2], [0, 0, 1.0]])
    drift = np.array([[1, h / 2, 0], [0, 1, 0], [0, 0, 1.0]])
    damp, renew = np.diag([1, np.exp(-friction * h), 1.0]), np.diag([1, 1, 0.0])
    shake = np.sqrt(temperature * noise / friction * -np.expm1(-2 * friction * h))
    step = kick @ renew @ drift @ damp @ drift @ kick
    pushes = [kick @ renew @ drift @ [0, shake, 0], kick @ [0, 0, np.sqrt(s2)]]
    cov = solve_discrete_lyapunov(step, sum(np.outer(v, v) for v in pushes))
    before = drift @ kick @ cov @ (drift @ kick).T
    after = damp @ before @ damp
    return cov, before[1, 1], after[1, 1] + shake**2


def test_baoab_heats_up_under_minibatch_noise():
    p, h, gamma = isotropic(d=1), 0.4, 1.5
    s2 = p.additive(BATCH, False)[0, 0]
    cov, *_ = linear_bath(h, 1.0, s2, TEMPERATURE, gamma, gamma)
    pt, size = point(), 200_000
    kernel = tj.langevin(
        p.system(),
        gradient=tj.minibatch(BATCH),
        step_size=h * TEMPERATURE**0.5,
        friction=gamma / TEMPERATURE**0.5,
    )
    st, _ = run_from(kernel, pt, cov[:1, :1], 30, size=size)
    check(np.asarray(st.position, float) ** 2, cov[0, 0])
    check(np.asarray(st.walkers.momentum, float) ** 2 * TEMPERATURE, cov[1, 1])
    caught(np.asarray(st.position, float) ** 2, TEMPERATURE)


@pytest.mark.parametrize("h", [0.2, 0.4])
def test_the_adaptive_thermostat_absorbs_the_noise(h):
    """<xi> where the chain at constant xi reads d degrees at T; A + h s2/(2T) + O(h^2)."""
    p, a, d = isotropic(d=40), 1.0, 40
    s2 = p.additive(BATCH, False)[0, 0]

    def excess(xi):
        _, before, after = linear_bath(h, 1.0, s2, TEMPERATURE, xi, a)
        return (before + after) / 2 - TEMPERATURE

    exact = brentq(excess, 0.5, 5.0)
    assert abs(exact / (a + h * s2 / (2 * TEMPERATURE)) - 1) < 0.5 * h * h
    cov, *_ = linear_bath(h, 1.0, s2, TEMPERATURE, exact, a)
    kernel = tj.adaptive_langevin(
        p.system(),
        tj.minibatch(BATCH),
        step_size=h * TEMPERATURE**0.5,
        friction=a / TEMPERATURE**0.5,
    )
    st, _ = run_from(kernel, point(), cov[0, 0] * np.eye(d), 150, size=4000)
    xi = np.asarray(st.walkers.bath, float) * TEMPERATURE**0.5
    assert abs(xi.mean() / exact - 1) < 0.02  # fluctuations of xi: O(1/d)
    squares = np.mean(np.asarray(st.position, float) ** 2, axis=1)
    assert abs(squares.mean() / cov[0, 0] - 1) < 0.01
    # power: without the thermostat the same noise heats the positions
    hot, *_ = linear_bath(h, 1.0, s2, TEMPERATURE, a, a)
    assert hot[0, 0] > 1.1 * cov[0, 0]


def harmonic(kernel_of, n_steps, size=512, seed=0, x0=None):
    """Time average of k x^2 / T per walker of a unit oscillator at T."""
    sys = tj.system(lambda x: 0.5 * x**2, like=0.0)
    kernel, pt = kernel_of(sys), point()
    x = np.random.default_rng(seed).normal(size=size) * TEMPERATURE**0.5
    x = np.full(size, x0) if x0 is not None else x
    st = tj.init_ensemble(kernel, jax.random.key(1), pt, size, positions=jnp.float32(x))
    if x0 is not None:
        still = jnp.zeros_like(st.walkers.momentum)
        st = type(st)(st.walkers._replace(momentum=still), st.walker, st.step, st.tile)
    square = tj.moments(lambda s: s.position**2 / TEMPERATURE)
    _, out = tj.run(kernel, jax.random.key(2), st, pt, n_steps, accumulate={"x2": square})
    return np.asarray(out["x2"].mean, float)


def test_nose_hoover_langevin_is_ergodic():
    step = 0.1 * TEMPERATURE**0.5
    x2 = harmonic(lambda s: tj.nose_hoover_langevin(s, step_size=step), 20_000)
    check(x2, 1.0)
    assert abs(x2.mean() - 1) < 0.01
    hot = harmonic(
        lambda s: tj.nose_hoover_langevin(
            tj.system(lambda x: 0.5 * x**2 / 1.05, like=0.0), step_size=step
        ),
        20_000,
    )
    caught(hot, 1.0)


def test_a_deterministic_thermostat_is_not():
    """The time average depends on the start, however long the run."""
    step = 0.1 * TEMPERATURE**0.5
    alone = lambda s: tj.nose_hoover_chain(s, length=1, step_size=step)
    ends = {}
    for start in (0.5, 1.2):
        short, long = (
            harmonic(alone, n, size=1, x0=start * TEMPERATURE**0.5)[0] for n in (20_000, 60_000)
        )
        assert abs(short - long) < 0.02
        ends[start] = long
    assert abs(ends[0.5] - ends[1.2]) > 0.05
    assert abs(ends[1.2] - 1) > 0.05


@pytest.mark.parametrize("length", [1, 3])
def test_the_conserved_quantity_drifts_at_second_order(length, x64):
    sys = tj.system(lambda x: jnp.sum(x**4 / 4 + x**2), like=jnp.zeros(3, jnp.float64))
    pt = tj.Point(jnp.float64(1 / TEMPERATURE))

    def drift(step, n_steps):
        kernel = tj.nose_hoover_chain(sys, length=length, step_size=step, thermal_mass=0.7)
        state = kernel.init(jnp.array([0.3, -0.5, 0.9]), pt, jax.random.key(1))

        def conserved(s):
            z, eta = s.bath
            inertia = 0.7 * jnp.where(jnp.arange(length) == 0, 3.0, 1.0)
            own = jnp.sum(inertia * z**2) / 2 + 3 * eta[0] + jnp.sum(eta[1:])
            return s.beta * s.energy + s.kinetic + own

        def body(s, i):
            s = kernel.step(jax.random.key(0), s, pt, kernel.params)[0]
            return s, conserved(s)

        _, values = jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(n_steps)))(state)
        return float(np.abs(np.asarray(values) - conserved(state)).max())

    coarse, fine = drift(0.02, 400), drift(0.01, 800)
    assert 3.5 < coarse / fine < 4.5
    assert fine < 1e-2


def test_louder_noise_is_caught():
    p = isotropic(d=8)
    kernel = tj.adaptive_langevin(p.system(), tj.full(), step_size=0.2, thermal_mass=1e6)
    pt = point()
    cold, _ = run_from(kernel, pt, TEMPERATURE * np.eye(8), 80)
    check(np.mean(np.asarray(cold.position, float) ** 2, axis=1), TEMPERATURE)
    loud, _ = run_from(louder(kernel, 1.05), pt, TEMPERATURE * np.eye(8), 80)
    caught(np.mean(np.asarray(loud.position, float) ** 2, axis=1), TEMPERATURE)


def test_mistakes_are_named():
    sys = problem().system()
    with pytest.raises(ValueError, match="length=0 must be at least 1"):
        tj.nose_hoover_chain(sys, length=0)
    with pytest.raises(ValueError, match="goes with plain BAOAB only"):
        tj.langevin(sys, "OBABO", gradient=tj.minibatch(2))
