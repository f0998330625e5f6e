"""sgld, psgld and sghmc against the exact second moments of their discretised chains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.dynamics.minibatches import (
    ensemble,
    louder,
    moved,
    problem,
    second_moments,
    stationary,
)
from tests.scores import ULPS, caught, check, ulp

TEMPERATURE, BATCH = 0.6, 6


def point(temperature=TEMPERATURE):
    return tj.Point(jnp.float32(1 / temperature))


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("replace", [True, False])
def test_second_moment_with_minibatches(d, replace):
    """Core 2.5: additive and multiplicative noise, with and without replacement."""
    p = problem(d=d)
    gradient = tj.minibatch(BATCH, replace=replace)
    for h in (0.1, 0.4)[2 - d :]:
        exact = stationary(p, h, TEMPERATURE, BATCH, replace)
        kernel = tj.sgld(p.system(), gradient, step_size=h * TEMPERATURE)
        st, out = moved(kernel, point(), exact)
        assert not np.any(out["flags"])
        check(second_moments(st.position), exact)
    # power, at the larger step: hot bath, loud noise, the other kind of batch
    hot, _ = moved(kernel, point(1.05 * TEMPERATURE), exact)
    caught(second_moments(hot.position), exact)
    loud, _ = moved(louder(kernel, 1.05), point(), exact)
    caught(second_moments(loud.position), exact)
    other = stationary(p, h, TEMPERATURE, BATCH, not replace)
    caught(second_moments(st.position), other)
    forgotten = stationary(p, h, TEMPERATURE, BATCH, replace, multiplicative=False)
    caught(second_moments(st.position), forgotten)


def test_a_control_variate_removes_the_additive_noise():
    p, h = problem(d=1), 0.2
    gradient = tj.control_variate(jnp.zeros(1), BATCH)
    silent = p._replace(centres=0 * p.centres)  # no additive noise, the same curvatures
    exact = stationary(silent, h, TEMPERATURE, BATCH, False)
    kernel = tj.sgld(p.system(), gradient, step_size=h * TEMPERATURE)
    st, _ = moved(kernel, point(), exact)
    check(second_moments(st.position), exact)
    caught(second_moments(st.position), stationary(p, h, TEMPERATURE, BATCH, False))


def test_epochs_are_colder_than_fresh_batches():
    p, h = problem(d=1), 0.25
    fresh = stationary(p, h, TEMPERATURE, BATCH, False)
    kernel = tj.sgld(
        p.system(), tj.minibatch(BATCH, shuffle="epoch"), step_size=h * TEMPERATURE
    )
    st, _ = moved(kernel, point(), fresh, n_steps=25)
    caught(second_moments(st.position), fresh)
    assert np.mean(second_moments(st.position)) < fresh[0, 0]


def test_full_gradient_is_euler_maruyama():
    p, h = problem(d=2), 0.3
    quiet = stationary(p._replace(centres=0 * p.centres), h, TEMPERATURE, 1, False)
    kernel = tj.sgld(p.system(), tj.full(), step_size=h * TEMPERATURE)
    em = tj.overdamped(p.system(), "em", step_size=h * TEMPERATURE)
    states = [ensemble(k, point(), quiet, size=64) for k in (kernel, em)]
    ends = [
        tj.run(k, jax.random.key(5), st, point(), 10, ledger="full")
        for k, st in zip((kernel, em), states, strict=True)
    ]
    np.testing.assert_allclose(ends[0][0].position, ends[1][0].position, rtol=2e-4, atol=1e-5)
    for name in ("heat", "shadow", "bath"):
        one, two = (getattr(out["ledger"], name) for _, out in ends)
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


def sghmc_law(h, k, a, t):
    """Core 2.3: second moments of x and of the whitened r."""
    bias = 1 / (1 - h * k / (2 * (2 - a)))
    return t / k * bias, 2 / (2 - a) * bias


@pytest.mark.parametrize("a", [0.2, 0.7, 1.0])
def test_sghmc(a):
    p, h = problem(d=1), 0.5
    k = p.stiffness[0, 0]
    xx, rr = sghmc_law(h, k, a, TEMPERATURE)
    kernel = tj.sghmc(p.system(), tj.full(), step_size=h * TEMPERATURE, friction=a)
    st = ensemble(kernel, point(), np.array([[xx]]))
    r = np.random.default_rng(8).normal(size=(st.size, 1)) * np.sqrt(rr)
    # x_n and r_n are correlated: forget the start before comparing
    st = type(st)(st.walkers._replace(momentum=jnp.float32(r)), st.walker, st.step, st.tile)
    run = lambda kernel, pt: tj.run(kernel, jax.random.key(2), st, pt, 80, ledger="none")[0]
    end = run(kernel, point())
    check(np.asarray(end.position, float) ** 2, xx)
    check(np.asarray(end.walkers.momentum, float) ** 2, rr)
    caught(np.asarray(end.walkers.momentum, float) ** 2, rr * (2 - a) / 2 if a < 1 else 1.0)
    hot = run(kernel, point(1.05 * TEMPERATURE))
    caught(np.asarray(hot.position, float) ** 2, xx)
    loud = run(louder(kernel, 1.05), point())
    caught(np.asarray(loud.position, float) ** 2, xx)


# --- psgld ------------------------------------------------------------------------------


def metric_law(k, t, damping):
    """<x^2> of exp(-U/T) / G, G = 1 / (damping + |k x|) (core 2.6)."""
    s = np.sqrt(t / k)
    low = damping * np.sqrt(2 * np.pi)
    return s**2 * (low + 4 * k * s) / (low + 2 * k * s)


def psgld_end(divergence, step, n_steps, size=100_000, **options):
    k, t = 1.7, TEMPERATURE
    sys = tj.system(lambda x: 0.5 * k * x**2, like=0.0)
    kernel = tj.psgld(
        sys, tj.full(), adapt="running", decay=0.0, damping=0.4, divergence=divergence,
        step_size=step, **options,
    )  # fmt: skip
    start = t / k if divergence else metric_law(k, t, 0.4)
    x = np.random.default_rng(1).normal(size=size) * np.sqrt(start)
    st = tj.init_ensemble(
        kernel, jax.random.key(0), point(), size, 10_000, positions=jnp.float32(x)
    )
    st, out = tj.run(kernel, jax.random.key(7), st, point(), n_steps, ledger="none")
    return np.asarray(st.position, float) ** 2, out["flags"], k, t


@pytest.mark.slow
def test_a_running_metric_without_its_divergence_is_wrong_at_every_step():
    """Richardson: 2 <x^2>(eps/2) - <x^2>(eps), the limit of small steps."""
    ends = [psgld_end(False, eps, n)[0] for eps, n in ((0.02, 250), (0.01, 500))]
    squares, flags, k, t = psgld_end(False, 0.005, 800)
    assert np.all(flags == int(tj.Flag.STATE_DEPENDENT_METRIC))
    limit = 2 * squares.mean() - ends[1].mean()
    error = np.sqrt(4 * squares.var() + ends[1].var()) / np.sqrt(len(squares))
    exact = metric_law(k, t, 0.4)
    assert abs(limit - exact) < 5 * error + 0.01 * exact
    assert limit > 1.3 * t / k
    assert abs(ends[0].mean() - exact) > abs(squares.mean() - exact)


@pytest.mark.slow
def test_its_divergence_mends_it():
    squares, flags, k, t = psgld_end(True, 0.0025, 1200)
    assert not np.any(flags)
    assert abs(squares.mean() / (t / k) - 1) < 0.04  # first order in the step
    coarse = psgld_end(True, 0.01, 400)[0]
    assert abs(squares.mean() - t / k) < abs(coarse.mean() - t / k)


def test_a_frozen_metric_samples_its_euler_law():
    """G is constant after the warm-up: covariance of S = (1-eps G K) S (1-..) + 2 eps G."""
    p = problem(d=1)
    k, h = p.stiffness[0, 0], 0.1
    kernel = tj.psgld(p.system(), tj.full(), step_size=h, damping=0.3, warmup=50)
    st = ensemble(kernel, point(), np.array([[TEMPERATURE / k]]), size=100_000)
    st, out = tj.run(kernel, jax.random.key(0), st, point(), 60, ledger="none")
    assert np.all(out["flags"] == int(tj.Flag.ADAPTING))
    metric = 1 / (0.3 + np.sqrt(np.asarray(st.walkers.bath.square)))
    st, out = tj.run(kernel, jax.random.key(0), st, point(), 120, ledger="none")
    assert not np.any(out["flags"])
    np.testing.assert_array_equal(
        metric, 1 / (0.3 + np.sqrt(np.asarray(st.walkers.bath.square)))
    )
    exact = TEMPERATURE / k / (1 - h * metric * k / TEMPERATURE / 2)
    check(np.asarray(st.position, float) ** 2 / exact, 1.0)
    caught(np.asarray(st.position, float) ** 2 * k / TEMPERATURE, 1.0)


# --- the ledger -------------------------------------------------------------------------


@pytest.mark.parametrize("bookkeeping", ["control", "bath"])
def test_first_law_with_minibatches(bookkeeping):
    p = problem(d=2)
    sys = p.system(prior=tj.gaussian_prior(1.5))
    kernel = tj.sgld(sys, tj.minibatch(BATCH), step_size=0.1, bookkeeping=bookkeeping)
    st = ensemble(kernel, point(), np.eye(2), size=16)
    end, out = tj.run(kernel, jax.random.key(3), st, point(), 2000, ledger="full")
    led, (e0, u0), (e1, u1) = out["ledger"], st.walkers.totals, end.walkers.totals
    top = max(np.abs(st.energy).max(), np.abs(end.energy).max())
    lack = np.asarray(e1, float) - np.asarray(e0) - (np.asarray(led.work, float) + led.heat)
    assert np.abs(lack).max() <= ULPS * ulp(max(top, np.abs(led.heat).max()))
    nats = np.asarray(led.protocol, float) + led.shadow + led.bath
    lack = np.asarray(u1, float) - np.asarray(u0) - nats
    assert np.abs(lack).max() <= ULPS * ulp(np.abs(led.bath).max())
    if bookkeeping == "bath":
        np.testing.assert_array_equal(led.work, 0)
        full = jax.vmap(sys.energy)(end.position)
        np.testing.assert_allclose(end.energy, full, rtol=1e-5)
    else:
        assert np.abs(led.work).min() > 0


def test_integral_fluctuation_theorem_with_minibatches():
    """<exp(-w)> = Z_n / Z_0 = 1 at a constant point, whole batches being the bath's."""
    p = problem(d=1)
    k = p.stiffness[0, 0]
    kernel = tj.sgld(
        p.system(), tj.minibatch(BATCH), step_size=0.2 * TEMPERATURE, bookkeeping="bath"
    )
    st = ensemble(kernel, point(), np.array([[TEMPERATURE / k]]))  # exact equilibrium
    st, out = tj.run(kernel, jax.random.key(3), st, point(), 4, ledger="full")
    check(np.exp(-np.asarray(out["ledger"].shadow, float)), 1.0)
    assert np.mean(out["ledger"].shadow) > 0
    caught(np.exp(-1.05 * np.asarray(out["ledger"].shadow, float)), 1.0)


def test_batches_as_controls_obey_it_for_each_sequence():
    """Two batches in turn: from equilibrium of the first, <exp(-w)> = Z_2 / Z_1."""
    curvature, centre = jnp.array([1.0, 3.0]), jnp.array([0.4, -0.4])
    sys = tj.finite_sum(
        lambda x, c, e: 0.25 * e[0] * (x - e[1]) ** 2, (curvature, centre), like=0.0
    )
    kernel = tj.sgld(sys, tj.minibatch(1), step_size=0.2)
    size, pt = 200_000, tj.Point(1.0)
    st = tj.init_ensemble(
        kernel, jax.random.key(0), pt, size, 10_000, positions=jnp.zeros(size)
    )
    first = np.asarray(st.walkers.batch)[:, 0]
    k, c = np.asarray(curvature)[first], np.asarray(centre)[first]
    x = jnp.float32(np.random.default_rng(0).normal(size=size) / np.sqrt(k) + c)
    energy = lambda b: 0.5 * jnp.asarray(curvature)[b] * (x - jnp.asarray(centre)[b]) ** 2
    walkers = st.walkers._replace(
        position=x,
        energy=energy(first),
        energy_grad=jnp.float32(k) * (x - jnp.float32(c)),
        totals=(energy(first), energy(first)),
    )
    st = type(st)(walkers, st.walker, st.step, st.tile)
    end, out = tj.run(kernel, jax.random.key(1), st, pt, 3, ledger="full")
    last = np.asarray(end.walkers.batch)[:, 0]
    work = np.asarray(out["ledger"].protocol, float) + out["ledger"].shadow
    ratio = np.sqrt(np.asarray(curvature)[first] / np.asarray(curvature)[last])
    check(np.exp(-work) / ratio, 1.0)
    caught(np.exp(-work), 1.0)


def test_mistakes_are_named():
    sys = problem().system()
    with pytest.raises(ValueError, match="adapt='never' is unknown"):
        tj.psgld(sys, adapt="never")
    with pytest.raises(ValueError, match="bookkeeping='double' is unknown"):
        tj.sgld(sys, bookkeeping="double")
