"""Likelihood matrices, and M- and L-info of learners whose information is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from thermojax.estimators.estimate import Flag
from thermojax.estimators.information import (
    ensemble_information,
    grouped_mixture_information,
    mixture_information,
)
from thermojax.theories.ppm import ensembles
from thermojax.theories.ppm.ensembles import (
    gaussian_memorized_information,
    log_likelihood_matrix,
)
from thermojax.typing import ShapeError

# G1: scalar learner, lam = 1 - eta h, one dataset b ~ N(1, 1) and fresh minibatch noise
ETA, T_THETA, S_B, S_EPS, S_X, VAR_0, STEPS = 0.1, 0.05, 1.0, 0.5, 0.5, 0.25, 10
LAM, KICK = 1 - ETA, 2 * ETA * T_THETA


def variances(n):
    """Var theta_n, and given the dataset."""
    noise = (ETA**2 * S_EPS + KICK) * (1 - LAM ** (2 * n)) / (1 - LAM**2)
    given = LAM ** (2 * n) * VAR_0 + noise
    return given + (1 - LAM**n) ** 2 * S_B, given


def exact(n=STEPS):
    """M-info and L-info about the dataset."""
    total, given = variances(n)
    return 0.5 * math.log(total / given), 0.5 * math.log((total + S_X) / (given + S_X))


def trained(key, groups, seeds):
    """mu (before the last kick), theta_n and x_n of every network, [G, K]."""
    keys = jax.random.split(key, 6)
    shape = groups, seeds
    b = 1 + math.sqrt(S_B) * jax.random.normal(keys[0], (groups, 1))
    eps = math.sqrt(S_EPS) * jax.random.normal(keys[1], (STEPS, *shape))
    kick = math.sqrt(KICK) * jax.random.normal(keys[2], (STEPS, *shape))
    theta = math.sqrt(VAR_0) * jax.random.normal(keys[3], shape)
    for n in range(STEPS):
        mu = LAM * theta + ETA * (b + eps[n])
        theta = mu + kick[n]
    return mu, theta, theta + math.sqrt(S_X) * jax.random.normal(keys[4], shape)


def grouped(mean, z, variance):
    """Bounds of I(Z; B) for Gaussian components."""
    ll = log_likelihood_matrix(
        lambda mu, x: norm.logpdf(x, mu, math.sqrt(variance)), mean.ravel(), z.reshape(-1, 1)
    )
    return grouped_mixture_information(ll.reshape(*z.shape, *z.shape, 1))


def test_closed_forms_of_the_scalar_learner():
    np.testing.assert_allclose(exact(), (0.8294103588499, 0.2674669812756), rtol=1e-12)
    np.testing.assert_allclose(exact(3), (0.1796697264904, 0.0520167793191), rtol=1e-11)


def test_grouped_bounds_bracket_both_informations():
    """The mean over independent ensembles; the bracket is wide for M at 16 seeds."""
    runs = jax.vmap(lambda key: trained(key, 24, 16))(jax.random.split(jax.random.key(0), 24))
    mu, theta, x = runs
    memorized = jax.lax.map(lambda p: grouped(*p, KICK), (mu, theta), batch_size=4)
    learned = jax.lax.map(lambda p: grouped(*p, S_X), (theta, x), batch_size=4)
    for bounds, truth, least, most in (
        (memorized, exact()[0], 0.4, 1.25),
        (learned, exact()[1], 0.22, 0.32),
    ):
        error = np.std([bounds.lower, bounds.upper], axis=1) / math.sqrt(24)
        low, high = bounds.lower.mean(), bounds.upper.mean()
        assert least < low < truth + 4 * error[0]
        assert truth - 4 * error[1] < high < most
    spread = float(jnp.std(learned.midpoint))
    assert 0.5 * spread < float(learned.standard_error.mean()) < 2 * spread


def test_gaussian_memorized_information_of_the_scalar_learner():
    keys = jax.random.split(jax.random.key(1), 200)
    params = jax.vmap(lambda key: trained(key, 64, 8)[1])(keys)[..., None]
    estimate = jax.vmap(gaussian_memorized_information)(params)
    scatter = float(estimate.value.std())
    assert abs(float(estimate.value.mean()) - exact()[0]) < 4 * scatter / math.sqrt(200)
    assert 0.8 * scatter < float(estimate.stderr.mean()) < 1.3 * scatter
    assert scatter < 0.12
    assert not jnp.any(estimate.flags)


def test_gaussian_memorized_information_has_no_wishart_bias():
    """No dataset dependence: 0, where the naive log-dets say +0.05."""
    noise = jax.random.normal(jax.random.key(2), (200, 12, 4, 5))
    estimate = jax.vmap(gaussian_memorized_information)(noise)
    error = float(estimate.value.std()) / math.sqrt(200)
    assert abs(float(estimate.value.mean())) < 4 * error
    # the bias of a log-det is about -d(d + 1)/(2 nu), with nu = 36 and 47 here
    assert 4 * error < 0.5 * 15 * (1 / 36 - 1 / 47)


def test_gaussian_memorized_information_is_invariant(x64):
    params = jax.random.normal(jax.random.key(3), (8, 4, 3))
    params = params + 2 * jax.random.normal(jax.random.key(4), (8, 1, 3))
    mixing = jnp.array([[2.0, 0.3, 0.0], [0.0, 1e-3, 0.0], [5.0, 1.0, 3.0]])
    one, other = (gaussian_memorized_information(p) for p in (params, params @ mixing + 7))
    np.testing.assert_allclose(one.value, other.value, rtol=1e-8)
    np.testing.assert_allclose(one.stderr, other.stderr, rtol=1e-7)


@pytest.mark.parametrize("d", [1, 3])
def test_deterministic_training_saturates_the_gaussian_route(d):
    means = 1 + jax.random.normal(jax.random.key(5), (6, 1, d))
    estimate = gaussian_memorized_information(jnp.broadcast_to(means, (6, 5, d)))
    assert jnp.isposinf(estimate.value)
    assert jnp.isposinf(estimate.stderr)
    assert estimate.flags == Flag.SATURATED


def test_deterministic_training_saturates_the_grouped_route():
    """Identical seeds, kicks far smaller than the distance of datasets: log G."""
    theta = jnp.broadcast_to(jnp.arange(6.0)[:, None], (6, 4))
    bounds = grouped(theta, theta, 1e-4)
    np.testing.assert_allclose(bounds.lower, math.log(6), rtol=1e-5)
    assert bounds.saturated
    assert bounds.flags & Flag.SATURATED


def test_shrinkage_and_few_groups():
    params = jax.random.normal(jax.random.key(6), (3, 2, 8))
    estimate = gaussian_memorized_information(params, 0.2)
    assert jnp.isfinite(estimate.value)
    assert estimate.flags & Flag.FEW_RUNS
    pair = gaussian_memorized_information(params[:2, :, :1])
    assert jnp.isposinf(pair.stderr)
    still = gaussian_memorized_information(params[..., :2].at[..., 1].set(1.0))
    assert still.flags & Flag.NONFINITE


def log_prob(params, pair):
    """Softmax classifier with inputs as context."""
    context, label = pair
    return jax.nn.log_softmax(jnp.tanh(context @ params["w"]) + params["b"])[label]


@pytest.fixture(scope="module")
def classifiers():
    keys = jax.random.split(jax.random.key(7), 4)
    params = {
        "w": jax.random.normal(keys[0], (5, 3, 4)),
        "b": jax.random.normal(keys[1], (5, 4)),
    }
    inputs = jnp.broadcast_to(jax.random.normal(keys[2], (6, 3)), (5, 6, 3))
    labels = jax.random.randint(keys[3], (5, 6), 0, 4)
    return params, (inputs, labels)


@pytest.mark.parametrize("chunk", [None, 1, 2, 9])
def test_matrix_index_is_model_source_sample(classifiers, chunk):
    params, samples = classifiers
    ll = log_likelihood_matrix(log_prob, params, samples, chunk)
    assert ll.shape == (5, 5, 6)
    for j, i, m in ((0, 0, 0), (3, 1, 4), (1, 3, 2)):
        theta = jax.tree.map(lambda x, j=j: x[j], params)
        sample = jax.tree.map(lambda x, i=i, m=m: x[i, m], samples)
        np.testing.assert_allclose(ll[j, i, m], log_prob(theta, sample), rtol=1e-5)


def test_sampled_and_enumerated_labels_agree(classifiers):
    """Many labels of every classifier: the sampled bounds approach the enumerated ones."""
    params, (inputs, _) = classifiers
    logits = jnp.tanh(jnp.einsum("nud,ndk->nuk", inputs, params["w"])) + params["b"][:, None]
    log_p = jax.nn.log_softmax(logits)
    draws = jax.random.categorical(jax.random.key(8), log_p, shape=(500, 5, 6))
    labels = jnp.moveaxis(draws, 0, 1).reshape(5, -1)
    many = jnp.tile(inputs, (1, 500, 1))
    sampled = mixture_information(log_likelihood_matrix(log_prob, params, (many, labels)))
    summed = ensemble_information(log_p)
    for name in ("lower", "upper"):
        np.testing.assert_allclose(getattr(sampled, name), getattr(summed, name), atol=0.05)
    assert summed.lower > 0.2


def test_matrix_keeps_dtype_and_runs_under_jit(x64):
    fn = jax.jit(lambda t, x: log_likelihood_matrix(norm.logpdf, t, x))
    assert fn(jnp.zeros(3, jnp.float32), jnp.zeros((3, 2), jnp.float32)).dtype == jnp.float32
    assert fn(jnp.zeros(3), jnp.zeros((3, 2))).dtype == jnp.float64


def test_wrong_shapes_of_matrices():
    scalar = lambda theta, x: norm.logpdf(x, theta)
    with pytest.raises(ShapeError, match="params"):
        log_likelihood_matrix(scalar, jnp.zeros(3), jnp.zeros((4, 2)))
    with pytest.raises(ShapeError, match="samples"):
        log_likelihood_matrix(scalar, jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(ShapeError, match=r"\['b'\]"):
        log_likelihood_matrix(scalar, {"a": jnp.zeros(3), "b": jnp.zeros(2)}, jnp.zeros((3, 1)))
    with pytest.raises(ShapeError, match="no leaves"):
        log_likelihood_matrix(scalar, jnp.zeros(3), ())
    with pytest.raises(ShapeError, match="must return a scalar"):
        log_likelihood_matrix(lambda t, x: jnp.ones(2), jnp.zeros(3), jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="chunk=0"):
        log_likelihood_matrix(scalar, jnp.zeros(3), jnp.zeros((3, 1)), 0)


@pytest.mark.parametrize(
    ("shape", "shrinkage", "message"),
    [
        ((4, 3), 0.0, "shape"),
        ((1, 3, 2), 0.0, "G=1"),
        ((3, 1, 2), 0.0, "K=1"),
        ((2, 2, 3), 0.0, "shrinkage > 0"),
        ((4, 3, 2), 1.0, r"\[0, 1\)"),
    ],
)
def test_wrong_shapes_of_parameters(shape, shrinkage, message):
    with pytest.raises(ValueError, match=message):
        gaussian_memorized_information(jnp.zeros(shape), shrinkage)


def test_the_theory_hands_on_the_generic_bounds():
    assert ensembles.ensemble_information is ensemble_information
    assert ensembles.mixture_information is mixture_information
