"""Gradient noise: its covariance, the heat it predicts, and burn-in seen by an identity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import thermojax as tj
from tests.scores import caught, check

EXAMPLES, BATCH, D = 24, 6, 3
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(EXAMPLES, D))
TARGETS = RNG.normal(size=EXAMPLES) + FEATURES @ np.array([1.0, -0.5, 0.2])


def regression():
    data = (jnp.float32(FEATURES), jnp.float32(TARGETS))
    loss = lambda theta, control, row: 0.5 * (row[0] @ theta["w"] - row[1]) ** 2
    return tj.finite_sum(loss, data, prior=tj.gaussian_prior(2.0), like={"w": jnp.zeros(D)})


def slopes(w):
    """[N, d] by hand."""
    return FEATURES * (FEATURES @ w - TARGETS)[:, None]


W = np.array([0.4, -0.1, 0.3])
THETA = {"w": jnp.float32(W)}


def covariance(rows, replace):
    factor = 1.0 if replace else (EXAMPLES - BATCH) / (EXAMPLES - 1)
    return EXAMPLES**2 / BATCH * factor * np.cov(rows.T, bias=True)


@pytest.mark.parametrize("replace", [True, False])
def test_covariance_formula(replace):
    seen = tj.noise_covariance(regression(), THETA, tj.minibatch(BATCH, replace=replace))
    exact = covariance(slopes(W), replace)
    np.testing.assert_allclose(seen, exact, rtol=1e-4)
    other = covariance(slopes(W), not replace)
    assert np.max(np.abs(seen - other) / np.abs(other)) > 0.1


def test_covariance_beside_an_anchor():
    anchor = np.array([0.5, 0.0, 0.0])
    gradient = tj.control_variate({"w": jnp.float32(anchor)}, BATCH)
    exact = covariance(slopes(W) - slopes(anchor), False)
    seen = tj.noise_covariance(regression(), THETA, gradient)
    np.testing.assert_allclose(seen, exact, rtol=1e-3, atol=1e-3)
    still = tj.noise_covariance(regression(), {"w": jnp.float32(anchor)}, gradient)
    np.testing.assert_array_equal(still, np.zeros((D, D)))


def test_noise_ratio_is_the_trace_and_raises_its_flag():
    """eps beta^2 tr C / (2 d) over walkers drawn around theta."""
    beta, size = 1.7, 200
    w = W + 0.3 * np.random.default_rng(1).normal(size=(size, D))
    positions = {"w": jnp.float32(w)}
    trace = np.mean([np.trace(covariance(slopes(one), False)) for one in w])

    def ratio(eps):
        return tj.noise_ratio(
            regression(), positions, tj.Point(beta), jax.random.key(0),
            tj.minibatch(BATCH), step_size=eps, draws=64,
        )  # fmt: skip

    unit = beta**2 * trace / (2 * D)
    quiet, loud = ratio(0.02 / unit), ratio(0.1 / unit)
    check(quiet.value, 0.02, quiet.stderr)
    check(loud.value, 0.1, loud.stderr)
    caught(loud.value, 0.11, loud.stderr, limit=1.0)
    assert quiet.trusted
    assert int(loud.flags) == tj.Flag.GRADIENT_NOISE
    with_all = tj.noise_ratio(
        regression(), positions, tj.Point(beta), jax.random.key(0), tj.full(), step_size=1.0
    )
    assert abs(float(with_all.value)) < 1e-6


def test_the_ratio_is_what_sgld_heats_by():
    """T_noise/T predicted against the virial temperature of the chain, to second order."""
    sys, beta = regression(), 4.0
    gradient, eps = tj.minibatch(BATCH), 2.5e-4
    kernel, point = tj.sgld(sys, gradient, step_size=eps), tj.Point(beta)
    st = tj.init_ensemble(kernel, jax.random.key(0), point, 2000)
    st, _ = tj.run(kernel, jax.random.key(1), st, point, 600, ledger="none")
    st, read = tj.thermometers(
        sys, kernel, jax.random.key(2), st, point, n_steps=600, every=60,
        gradient=gradient, learning_rate=eps * beta,
    )  # fmt: skip
    excess = beta * float(read.virial.value[0]) - 1
    ratio = tj.noise_ratio(sys, st.position, point, jax.random.key(3), gradient, step_size=eps)
    np.testing.assert_allclose(read.noise.value[0] * beta, ratio.value, rtol=0.05)
    hessian = beta * FEATURES.T @ FEATURES + np.eye(D) / 4
    drag = eps * np.trace(hessian) / (2 * D)  # the step's own heat, first order
    assert 0.05 < float(ratio.value) < 0.5
    assert abs(excess - drag - float(ratio.value)) < 0.25 * float(ratio.value)


OPTIMISERS = {
    "sgd": (lambda rate: optax.sgd(rate), 0.0),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.8), 0.8),
}


def far(kernel, point, size=200):
    x = {"w": jnp.full((size, D), 3.0)}
    return tj.init_ensemble(kernel, jax.random.key(0), point, size, positions=x)


@pytest.mark.parametrize("name", [*OPTIMISERS, "sgld"])
def test_stationarity_fails_before_burn_in_and_holds_after(name):
    sys, point = regression(), tj.Point(1.0)
    if name == "sgld":
        options, kernel = {}, tj.sgld(sys, tj.minibatch(BATCH), step_size=4e-3)
    else:
        make, mu = OPTIMISERS[name]
        rate = 0.1 * (1 - mu)
        kernel = tj.driven(make(rate), sys, tj.minibatch(BATCH))
        options = {"learning_rate": rate / EXAMPLES, "momentum": mu}
    measure = lambda key, st, n, **o: tj.stationarity(
        sys, kernel, jax.random.key(key), st, point, n, **{**options, **o}
    )
    st = far(kernel, point)
    before = measure(1, st, 50)
    assert int(before.flags) == tj.Flag.NOT_STATIONARY
    st, _ = tj.run(kernel, jax.random.key(2), st, point, 800, ledger="none")
    after = measure(3, st, 800)
    assert after.trusted
    assert float(after.stderr) < 0.02
    check(after.value, 1.0, after.stderr)
    if name != "sgld":  # power: a rate, or a momentum, one does not have
        wrong = measure(3, st, 800, learning_rate=1.15 * rate / EXAMPLES)
        assert int(wrong.flags) == tj.Flag.NOT_STATIONARY


def test_stationarity_with_a_scale_and_with_injected_noise():
    sys, point, rate, mu = regression(), tj.Point(1.0), 0.02, 0.8
    scale = {"w": jnp.full(D, 0.5)}
    scaled = tj.sgld(sys, tj.minibatch(BATCH), step_size=2e-2, scale=scale)
    hot = tj.driven(
        optax.sgd(rate, momentum=mu), sys, tj.minibatch(BATCH), inject_T=3.0, learning_rate=rate
    )
    numbers = {"learning_rate": rate / EXAMPLES, "momentum": mu}
    for kernel, options in ((scaled, {}), (hot, numbers)):
        st = tj.init_ensemble(kernel, jax.random.key(0), point, 200)
        st, _ = tj.run(kernel, jax.random.key(2), st, point, 800, ledger="none")
        seen = tj.stationarity(sys, kernel, jax.random.key(3), st, point, 800, **options)
        assert seen.trusted
        assert float(seen.stderr) < 0.02
        # power: the scale, or the correction for the noise, forgotten
        plain = kernel.params
        wrong = (
            plain._replace(inject_T=jnp.zeros(()))
            if kernel is hot
            else plain._replace(scale=jnp.ones(()))
        )
        forgot = identity_with(sys, kernel, st, point, wrong, options)
        assert int(forgot.flags) & tj.Flag.NOT_STATIONARY


def identity_with(sys, kernel, st, point, params, options):
    """The identity of `params`, measured while the bath keeps its own."""
    step = jax.tree_util.Partial(own_numbers, kernel.step, kernel.params)
    bath = kernel._replace(step=step, params=params)
    return tj.stationarity(sys, bath, jax.random.key(3), st, point, 800, **options)


def own_numbers(step, own, key, state, point, params):
    return step(key, state, point, own)


def test_mistakes_are_named():
    sys, point = regression(), tj.Point(1.0)
    word = tj.langevin(sys)
    with pytest.raises(ValueError, match="no stationarity identity for 'BAOAB'"):
        tj.stationarity(sys, word, jax.random.key(0), far(word, point, 2), point, 1)
    sgd = tj.driven(optax.sgd(0.1), sys, tj.minibatch(BATCH))
    with pytest.raises(ValueError, match="needs learning_rate=: the optimiser's over N"):
        tj.stationarity(sys, sgd, jax.random.key(0), far(sgd, point, 2), point, 1)
    with pytest.raises(ValueError, match="no covariance formula"):
        tj.noise_covariance(sys, THETA, tj.svrg(BATCH))
