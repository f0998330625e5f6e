"""Ledgers of ensembles: the central identity, closed forms, errors."""

import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.scipy.stats import norm

from thermojax.estimators.estimate import Flag
from thermojax.estimators.information import ensemble_information
from thermojax.theories.ppm.sampled import categorical_ledger, sample_ledger
from thermojax.typing import ShapeError

# 3 steps, 5 networks, 2 contexts, 4 labels; one shape for one compilation
SHAPE = (4, 5, 2, 4)


def rows(seed, scale=1.0, dtype=None):
    logits = scale * jax.random.normal(jax.random.key(seed), SHAPE, dtype)
    return jax.nn.log_softmax(logits)


def closures(ledger, temperature):
    """Residuals of the central identity, the first law and the conditional second law."""
    return (
        ledger.ep_x - ledger.ep_conditional - jnp.diff(ledger.info_lower),
        ledger.work - temperature * ledger.ep_conditional,
        jnp.diff(ledger.entropy_x_given_theta)
        - ledger.heat_x / temperature
        - ledger.ep_conditional,
        ledger.entropy_x - ledger.entropy_x_given_theta - ledger.info_lower,
        # U = -T log p: mean energies are T S(X|Theta)
        temperature * jnp.diff(ledger.entropy_x_given_theta) - ledger.work - ledger.heat_x,
    )


@given(st.integers(0, 2**31), st.floats(0.1, 4.0), st.floats(0.2, 5.0))
@settings(max_examples=10, deadline=None)
def test_central_identity_of_categorical_ledgers(seed, scale, temperature):
    with jax.enable_x64(True):
        ledger = categorical_ledger(rows(seed, scale, jnp.float64), temperature)
        for residual in closures(ledger, temperature):
            np.testing.assert_allclose(
                residual, 0, atol=1e-12 * (1 + temperature) * (1 + scale)
            )
        assert jnp.all(ledger.ep_conditional >= 0)


def test_categorical_ledger_against_plain_sums(x64):
    log_p = rows(1, dtype=jnp.float64)
    p, ledger = jnp.exp(log_p), categorical_ledger(log_p, 2.0)
    mix = p.mean(axis=1)
    np.testing.assert_allclose(
        ledger.entropy_x, -(mix * jnp.log(mix)).sum(-1).mean(-1), rtol=1e-12
    )
    np.testing.assert_allclose(
        ledger.entropy_x_given_theta, -(p * log_p).sum(-1).mean((1, 2)), rtol=1e-12
    )
    heat = -2.0 * ((p[1:] - p[:-1]) * log_p[1:]).sum(-1).mean((1, 2))
    work = -2.0 * (p[:-1] * (log_p[1:] - log_p[:-1])).sum(-1).mean((1, 2))
    np.testing.assert_allclose(ledger.heat_x, heat, rtol=1e-10)
    np.testing.assert_allclose(ledger.work, work, rtol=1e-10)
    info = [ensemble_information(x) for x in log_p]
    np.testing.assert_allclose(ledger.info_upper, [float(b.upper) for b in info], rtol=1e-12)
    np.testing.assert_allclose(
        ledger.standard_error["info"], [float(b.standard_error) for b in info], rtol=1e-10
    )


def drifting(seed, n_steps, dtype):
    """Many small steps of 24 networks towards their own targets."""
    key, other = jax.random.split(jax.random.key(seed))
    start, end = (jax.random.normal(k, (24, 10, 6), dtype) for k in (key, other))
    share = jnp.linspace(0, 1, n_steps + 1, dtype=dtype)[:, None, None, None]
    return jax.nn.log_softmax(0.1 * (1 - share) * start + 2 * share * end)


def test_central_identity_in_float32_over_hundreds_of_steps():
    ledger = categorical_ledger(drifting(0, 200, jnp.float32))
    assert ledger.ep_x.dtype == jnp.float32
    residual = jnp.sum(closures(ledger, 1.0)[0])
    heat = -jnp.sum(ledger.heat_x)
    assert abs(float(residual)) < 1e-5 * max(1.0, float(heat))
    interval = jnp.sum(ledger.ep_x)
    gained = ledger.info_lower[-1] - ledger.info_lower[0]
    np.testing.assert_allclose(interval, jnp.sum(ledger.ep_conditional) + gained, rtol=1e-4)
    # the slow path: information dominates what is paid
    assert gained / interval > 0.9


def test_conditional_entropy_production_halves_with_twice_the_steps():
    coarse, fine = (
        float(categorical_ledger(drifting(1, n, jnp.float32)).ep_conditional.sum())
        for n in (40, 80)
    )
    assert coarse / fine == pytest.approx(2.0, rel=0.05)


def test_a_label_that_is_lost_costs_infinitely_much():
    log_p = jnp.log(jnp.array([[[0.5, 0.5]] * 4, [[1.0, 0.0]] * 4]))
    ledger = categorical_ledger(log_p)
    assert jnp.isposinf(ledger.ep_conditional)[0]
    assert jnp.isposinf(ledger.work)[0]
    assert jnp.isneginf(ledger.heat_x)[0]
    back = categorical_ledger(log_p[::-1])
    np.testing.assert_allclose(back.ep_conditional, math.log(2), rtol=1e-6)
    np.testing.assert_allclose(back.entropy_x, [0, math.log(2)], atol=1e-6)


@pytest.mark.parametrize("field", ["ep_x", "heat_x", "ep_conditional", "info_upper"])
def test_gradients_of_categorical_ledgers(field, x64):
    fn = jax.jit(
        lambda logits: jnp.sum(
            jnp.sin(1 + getattr(categorical_ledger(jax.nn.log_softmax(logits), 1.5), field))
        )
    )
    logits, direction = jax.random.normal(jax.random.key(3), (2, *SHAPE), jnp.float64)
    slope = (fn(logits + 1e-6 * direction) - fn(logits - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jnp.vdot(jax.grad(fn)(logits), direction), slope, rtol=1e-6)


def test_error_bars_cover_the_scatter():
    """Independent networks: repeated ensembles scatter as the error bars say."""

    def once(key):
        walk = jnp.cumsum(jax.random.normal(key, (3, 20, 2, 4)), axis=0)
        # labels of unequal frequency: S(X) is stationary, and scatters less, at equal ones
        return categorical_ledger(jax.nn.log_softmax(walk + jnp.array([2.0, 0, -1, 0])))

    ledgers = jax.vmap(once)(jax.random.split(jax.random.key(4), 800))
    for name in ("entropy_x", "entropy_x_given_theta", "heat_x", "ep_x", "ep_conditional"):
        scatter = getattr(ledgers, name).std(axis=0)
        ratio = ledgers.standard_error[name].mean(axis=0) / scatter
        assert jnp.all((ratio > 0.88) & (ratio < 1.2)), name


def gaussian(theta, x):
    return norm.logpdf(x, theta["mean"], jnp.exp(theta["log_std"]))


def gaussian_path(key, n_steps, networks, samples, dtype):
    keys = jax.random.split(key, 3)
    steps = 0.3 * jax.random.normal(keys[0], (n_steps + 1, networks), dtype)
    mean = jnp.cumsum(steps, axis=0)
    log_std = 0.1 * jax.random.normal(keys[1], mean.shape, dtype)
    noise = jax.random.normal(keys[2], (*mean.shape, samples), dtype)
    x = mean[..., None] + jnp.exp(log_std)[..., None] * noise
    return {"mean": mean, "log_std": log_std}, x


@given(st.integers(0, 2**31))
@settings(max_examples=6, deadline=None)
def test_central_identity_of_sample_ledgers(seed):
    with jax.enable_x64(True):
        path = gaussian_path(jax.random.key(seed), 3, 6, 5, jnp.float64)
        ledger = sample_ledger(gaussian, *path, 1.7)
        for residual in closures(ledger, 1.7):
            np.testing.assert_allclose(residual, 0, atol=1e-12)


def test_sample_ledger_in_float32_and_in_chunks():
    path = gaussian_path(jax.random.key(5), 40, 16, 4, jnp.float32)
    ledger = sample_ledger(gaussian, *path, chunk=3)
    assert ledger.ep_x.dtype == jnp.float32
    heat = float(jnp.abs(ledger.heat_x).sum())
    assert abs(float(jnp.sum(closures(ledger, 1.0)[0]))) < 1e-5 * max(1.0, heat)
    other = sample_ledger(gaussian, *path)
    np.testing.assert_allclose(ledger.info_upper, other.info_upper, rtol=1e-5, atol=1e-6)


def test_sample_ledger_of_gaussians_against_closed_forms():
    """KL and entropies of Gaussians, within four of the ledger's own errors."""
    (params, x) = gaussian_path(jax.random.key(6), 2, 64, 200, jnp.float32)
    ledger = sample_ledger(gaussian, params, x)
    mean, std = params["mean"], jnp.exp(params["log_std"])
    gap, ratio = jnp.diff(mean, axis=0), std[:-1] / std[1:]
    divergence = (0.5 * (ratio**2 + (gap / std[1:]) ** 2 - 1) - jnp.log(ratio)).mean(1)
    entropy = (0.5 * math.log(2 * math.pi * math.e) + params["log_std"]).mean(1)
    error = ledger.standard_error
    for seen, truth, bar in (
        (ledger.ep_conditional, divergence, error["ep_conditional"]),
        (ledger.entropy_x_given_theta, entropy, error["entropy_x_given_theta"]),
    ):
        assert jnp.all(jnp.abs(seen - truth) < 4 * bar)
        assert jnp.all(bar < 0.1 * jnp.abs(truth) + 0.02)
    # X ~ N(0, .09 (n+1) + E std^2) but for the small spread of std
    total = 0.09 * jnp.arange(1, 4) + math.exp(0.02)
    marginal = 0.5 * jnp.log(2 * math.pi * math.e * total)
    assert jnp.all(jnp.abs(ledger.entropy_x - marginal) < 4 * error["entropy_x"] + 0.01)
    assert jnp.all(ledger.info_lower < ledger.info_upper)


def test_sampled_labels_agree_with_enumerated_ones():
    """Every label of uniform quarters, by count: sampled and enumerated ledgers coincide."""
    p = jnp.array([[[2, 1, 1], [1, 2, 1], [1, 1, 2]], [[1, 1, 2], [2, 1, 1], [1, 2, 1]]]) / 4
    labels = jnp.array(
        [[[0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2]], [[0, 1, 2, 2], [0, 0, 1, 2], [0, 1, 1, 2]]]
    )
    sampled = sample_ledger(lambda theta, x: jnp.log(theta)[x], p, labels, 0.5)
    summed = categorical_ledger(jnp.log(p), 0.5)
    for name in summed._fields[:8]:
        np.testing.assert_allclose(getattr(sampled, name), getattr(summed, name), atol=1e-6)


def test_saturation_is_reported():
    far = jnp.broadcast_to(100.0 * jnp.arange(6.0), (2, 6))
    ledger = sample_ledger(norm.logpdf, far, far[..., None])
    np.testing.assert_allclose(ledger.info_lower, math.log(6), rtol=1e-6)
    assert jnp.all(ledger.saturated)
    assert ledger.flags & Flag.SATURATED


def test_refusals():
    with pytest.raises(ValueError, match="shape"):
        categorical_ledger(jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="at least one step"):
        categorical_ledger(rows(0)[:1])
    with pytest.raises(ValueError, match="E=1"):
        categorical_ledger(rows(0)[:, :1])
    with pytest.raises(ValueError, match="log_softmax"):
        categorical_ledger(jnp.zeros(SHAPE))
    with pytest.raises(ValueError, match="temperature=0"):
        categorical_ledger(rows(0), 0.0)
    states, draws = jnp.zeros((3, 4)), jnp.zeros((3, 4, 2))
    with pytest.raises(ShapeError, match="params_path"):
        sample_ledger(norm.logpdf, states[:2], draws)
    with pytest.raises(ShapeError, match="samples_path"):
        sample_ledger(norm.logpdf, states, states)
    with pytest.raises(ShapeError, match="at least one"):
        sample_ledger(norm.logpdf, states[:1], draws[:1])
    with pytest.raises(ValueError, match="E=1"):
        sample_ledger(norm.logpdf, states[:, :1], draws[:, :1])
    with pytest.raises(ValueError, match="temperature=-1"):
        sample_ledger(norm.logpdf, states, draws, -1.0)
