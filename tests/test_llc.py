"""The local learning coefficient on ensembles whose value at finite t is known exactly."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax.basin import curvature, descend
from thermojax.estimators.estimate import Flag
from thermojax.exact.learning_coefficients import (
    deep_linear_coefficient,
    reduced_rank_coefficient,
    regular_coefficient,
)
from thermojax.llc import llc
from thermojax.llc_sensitivity import llc_sensitivity

KEY = jax.random.key(0)
CURVES = np.array([0.5, 2.0, 5.0, 10.0])
MANY = {"n_chains": 16, "n_steps": 8000, "burn_in": 2000, "polish": 20}


def bowl(theta, control, data):
    return 0.5 * jnp.sum(data * theta**2)


def bowls():
    curves = jnp.asarray(CURVES)
    return tj.system(bowl, like=jnp.zeros(4), data=curves), jnp.zeros(4)


def named(est):
    return {flag.name for flag in Flag if int(est.flags) & flag}


# The regular formula


def test_tether_lowers_a_regular_coefficient_as_predicted():
    sys, zero = bowls()
    est = llc(sys, zero, KEY, beta=2.0, gamma=3.0, n_chains=16, n_steps=4000)
    exact = regular_coefficient(2 * CURVES, gamma=3.0)
    check(est.value, exact, est.stderr, limit=4.0)
    caught(est.value, 2.0, est.stderr, limit=4.0)  # d/2
    assert est.stderr < 0.02
    assert est.trusted, est.reasons
    parts = est.parts
    assert float(parts.quadratic) == pytest.approx(exact, rel=1e-5)
    assert float(parts.tether_bias) == pytest.approx(exact - 2, rel=1e-4)
    assert (float(parts.step_bias), parts.rank, float(parts.base_point)) == (0.0, 4, 0.0)
    np.testing.assert_allclose(parts.spectrum, 2 * CURVES, rtol=1e-5)
    assert parts.trace.shape == parts.distance.shape == (400, 16)
    assert parts.notes == []


def test_step_size_raises_it_as_predicted():
    """Euler-Maruyama with the full gradient; eps a = 0.5 in the stiffest direction."""
    sys, zero = bowls()
    kernel = lambda s: tj.sgld(s, tj.full())
    more = {"beta": 2.0, "gamma": 1.0, "kernel": kernel, "n_chains": 16, "n_steps": 16000}
    est = llc(sys, zero, KEY, step_size=0.5 / 21, **more)
    biased = regular_coefficient(2 * CURVES, gamma=1.0, step_size=0.5 / 21)
    unbiased = regular_coefficient(2 * CURVES, gamma=1.0)
    check(est.value, biased, est.stderr, limit=4.0)
    caught(est.value, unbiased, est.stderr, limit=4.0)
    assert float(est.parts.step_bias) == pytest.approx(biased - unbiased, rel=1e-4)
    assert named(est) == {"SHADOW"}


def test_predictions_of_a_basin_in_double_precision(x64):
    """A tilted basin: coordinates, prior and tether do not share their axes with U."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    hessian = rotation @ np.diag(CURVES) @ rotation.T
    sys = tj.system(
        lambda x, c, h: 0.5 * x @ h @ x,
        prior=tj.gaussian_prior(jnp.array([1.0, 0.5, 2.0, 1.0])),
        like=jnp.zeros(4),
        data=jnp.asarray(hessian),
    )
    target = tj.localized(sys, jnp.zeros(4), 0.7)
    found = curvature(target, jnp.zeros(4), tj.Point(3.0), KEY)
    total = 3 * hessian + np.diag([1.0, 4.0, 0.25, 1.0]) + 0.7 * np.eye(4)
    eps = 0.02
    step = np.eye(4) - eps * total
    # covariance of the linear chain x' = step x + sqrt(2 eps) xi
    covariance = np.asarray(tj.linear_stationary_covariance(step, 2 * eps * np.eye(4)))
    assert found.coefficient(eps) == pytest.approx(
        0.5 * np.trace(3 * hessian @ covariance), rel=1e-9
    )
    exact = 0.5 * np.trace(3 * hessian @ np.linalg.inv(total))
    assert found.coefficient() == pytest.approx(exact, rel=1e-10)
    assert found.coefficient(1.0) == np.inf
    assert found.rank == 4


def test_stiffest_direction_of_many_parameters():
    d = 600
    curves = jnp.linspace(0.1, 40.0, d)
    sys = tj.system(bowl, like=jnp.zeros(d), data=curves)
    found = curvature(sys, jnp.zeros(d), tj.Point(2.0), KEY)
    assert not found.known
    assert found.stiffest == pytest.approx(80.0, rel=0.1)
    assert np.isnan(found.coefficient())


# Singular minima against their exact value at finite t

SINGULAR = {
    "T20": (tj.exact.normal_crossing, lambda: jnp.zeros(2)),
    "T21": (
        lambda: tj.exact.two_layer_linear((2, 1, 2)),
        lambda: {"A": jnp.zeros((1, 2)), "B": jnp.zeros((2, 1))},
    ),
    "T22": (
        tj.exact.rank_one,
        lambda: {"a": jnp.array([1.0, 0.0]), "b": jnp.array([1.0, 0.0])},
    ),
}


@pytest.mark.parametrize("row", SINGULAR)
def test_singular_minima_at_three_temperatures(row):
    exact, anchor = SINGULAR[row][0](), SINGULAR[row][1]()
    for i, t in enumerate((10.0, 100.0, 1000.0)):
        here = jax.random.fold_in(KEY, i)
        more = MANY if row != "T22" else MANY | {"kernel": leapfrog}
        est = llc(exact.system, anchor, here, beta=t, keep_prior=True, **more)
        assert not named(est) - {"BAD_ACCEPTANCE"}, est.reasons
        check(est.value, t * exact.internal_energy(t), est.stderr, limit=4.0)
        assert est.stderr < 0.08 * float(est.value)
        if row == "T20" and t == 1000.0:
            caught(est.value, 0.5, est.stderr)  # the limit is not the value


def leapfrog(sys):
    return tj.hmc(sys, n_inner=8, jitter=0.95)


# Linear networks at large t


@dataclasses.dataclass(frozen=True)
class _DeepLinear:
    """|W_L ... W_1 - target|^2 with a diagonal target of ones of a given rank."""

    rank: int

    def __call__(self, theta, control, data):
        product = theta[0]
        for layer in theta[1:]:
            product = layer @ product
        ones = (jnp.arange(min(product.shape)) < self.rank).astype(product.dtype)
        target = jnp.zeros_like(product)
        target = target.at[jnp.arange(len(ones)), jnp.arange(len(ones))].set(ones)
        return jnp.sum((product - target) ** 2)


def at_truth(widths, rank):
    eye = lambda m, n: jnp.eye(m, n) * (jnp.arange(n) < rank)
    return tuple(eye(n, m) for m, n in itertools.pairwise(widths))


@pytest.mark.parametrize(
    ("widths", "rank", "t"),
    [
        ((3, 1, 3), 1, 1e2),
        ((3, 2, 3), 2, 1e3),
        ((2, 2, 2), 1, 1e4),
        ((2, 2, 2, 2), 2, 1e3),
        ((3, 1, 1, 2), 1, 1e2),
    ],
)
def test_coefficients_of_linear_networks(widths, rank, t):
    """Two and three layers; m = 1 or a known m, so that 1/log t is all that is missing."""
    theta = at_truth(widths, rank)
    sys = tj.system(_DeepLinear(rank), like=theta)
    est = llc(sys, theta, KEY, beta=t, gamma=1.0, kernel=leapfrog, **MANY)
    value, m = deep_linear_coefficient(widths, rank)
    if len(widths) == 3:
        assert (value, m) == reduced_rank_coefficient(widths, rank)
    size = sum(w.size for w in theta)
    limit = value - (m - 1) / np.log(t)
    assert est.trusted, est.reasons
    assert abs(float(est.value) - limit) < 4 * float(est.stderr) + 0.02 * value
    assert abs(float(est.value) - size / 2) > 8 * float(est.stderr)  # singular it is


# Verdicts


def well(theta, control, data):
    return jnp.sum((theta**2 - 1) ** 2)


def test_an_anchor_on_a_saddle_is_flagged():
    sys = tj.system(well, like=jnp.zeros(2))
    est = llc(sys, jnp.zeros(2), KEY, beta=20.0, n_steps=800)
    assert "NOT_A_MINIMUM" in named(est)
    assert est.value < 0
    assert est.parts.below.min() > 0
    # the lowest point found is one of the four minima, and mends it
    np.testing.assert_allclose(np.abs(est.parts.lowest), 1.0, atol=1e-3)
    assert any("no minimum" in note for note in est.parts.notes)
    again = llc(sys, est.parts.lowest, KEY, beta=20.0, n_steps=800)
    assert "NOT_A_MINIMUM" not in named(again)


def test_an_anchor_on_a_slope_is_flagged_and_its_base_point_reported():
    sys, zero = bowls()
    anchor = zero + 0.5
    est = llc(sys, anchor, KEY, beta=2.0, gamma=0.1, n_steps=800)
    assert "NOT_A_MINIMUM" in named(est)
    depth = 2.0 * float(sys.energy(anchor))
    assert float(est.parts.base_point) == pytest.approx(depth, rel=1e-3)
    np.testing.assert_allclose(est.parts.lowest, 0.0, atol=1e-2)


def test_bad_acceptance_is_flagged():
    sys, zero = bowls()
    est = llc(sys, zero, KEY, beta=2.0, n_steps=800, step_size=1.5)
    assert "BAD_ACCEPTANCE" in named(est)


def test_a_short_run_in_a_flat_place_is_not_mixed():
    """Steps a thousand times too short: the loss still climbs."""
    sys, zero = bowls()
    est = llc(sys, zero, KEY, beta=2.0, gamma=0.01, n_steps=800, step_size=3e-3)
    assert {"NOT_MIXED"} <= named(est)


def cliff(theta, control, data):
    return jnp.where(theta[0] > 0.9, jnp.nan, 0.5 * jnp.sum(data * theta**2))


def test_a_chain_that_blows_up_is_counted_out_and_flagged():
    sys = tj.system(cliff, like=jnp.zeros(4), data=jnp.asarray(CURVES))
    kernel = lambda s: tj.sgld(s, tj.full())
    est = llc(sys, jnp.zeros(4), KEY, beta=2.0, kernel=kernel, n_steps=64, burn_in=50)
    gone = ~np.isfinite(np.asarray(est.parts.chains))
    assert "NONFINITE" in named(est)
    assert 0 < gone.sum() < len(gone)
    assert np.isfinite(est.value)


# Minibatches


def square(theta, control, example):
    x, y = example
    return 0.5 * (x @ theta - y) ** 2


@pytest.fixture(scope="module")
def regression():
    """Linear regression, 400 examples, its minimum, and its exact tethered coefficient."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    y = x @ [1.0, -1.0, 0.5] + rng.normal(size=400)
    sys = tj.finite_sum(square, (jnp.asarray(x), jnp.asarray(y)), like=jnp.zeros(3))
    best = jnp.asarray(np.linalg.lstsq(x, y, rcond=None)[0])
    return sys, best, np.linalg.eigvalsh(x.T @ x)


def test_minibatches_agree_with_the_full_batch_and_say_how_noisy_they_are(regression):
    sys, best, curves = regression
    exact = regular_coefficient(curves / np.log(400), gamma=1.0)
    kernel = lambda s: tj.sgld(s, tj.minibatch(40))
    est = llc(sys, best, KEY, kernel=kernel, step_size=4e-5, n_steps=16000, burn_in=2000)
    check(est.value, exact, est.stderr, limit=4.0)
    assert est.parts.n == 400
    assert float(est.parts.beta) == pytest.approx(1 / np.log(400))
    # reduced step 4e-5: eps beta^2 tr C / (2 d), by hand
    noise = tj.noise_covariance(sys, best, tj.minibatch(40))
    predicted = 4e-5 * float(jnp.trace(noise)) / np.log(400) ** 2 / 6
    assert float(est.parts.noise_ratio) == pytest.approx(predicted, rel=0.5)
    assert "GRADIENT_NOISE" not in named(est)
    hot = llc(sys, best, KEY, kernel=kernel, step_size=2e-3, n_steps=400)
    assert "GRADIENT_NOISE" in named(hot)


# Sensitivity, networks, errors


def test_sensitivity_follows_the_regular_formula():
    sys, zero = bowls()
    more = {"n_chains": 8, "n_steps": 2000}
    est = llc(sys, zero, KEY, beta=2.0, gamma=3.0, **more)
    out = llc_sensitivity(sys, zero, jax.random.key(1), est, factors=(0.25, 4.0), **more)
    np.testing.assert_allclose(out.factor, [0.25, 1.0, 4.0])
    by_gamma = [regular_coefficient(2 * CURVES, gamma=3 * f) for f in out.factor]
    by_beta = [regular_coefficient(2 * f * CURVES, gamma=3.0) for f in out.factor]
    check(out.value["gamma"], by_gamma, out.stderr["gamma"])
    check(out.value["beta"], by_beta, out.stderr["beta"])
    caught(out.value["beta"], by_beta[::-1], out.stderr["beta"])
    assert out.value["step_size"][1] == float(est.value)


def test_a_flax_network():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(60, 2)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 2, 60))
    sys = tj.from_flax(tj.mlp((3,), 2), tj.softmax_loss, (x, y), prior=tj.gaussian_prior(1.0))
    start = sys.sample_base(KEY)
    low = descend(sys, start, (), jnp.asarray(1e-3), jnp.asarray(2000))
    est = llc(sys, low.theta, KEY, n_steps=800)
    size = sum(leaf.size for leaf in jax.tree.leaves(start))
    assert 0 < est.value < size / 2
    assert est.value.dtype == jnp.float32
    assert est.parts.n == 60
    assert "NOT_A_MINIMUM" not in named(est)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "n="),
        ({"n": 1}, "n=1"),
        ({"beta": -1.0}, "beta=-1"),
        ({"beta": 1.0, "gamma": -2.0}, "gamma=-2"),
        ({"beta": 1.0, "n_chains": 0}, "n_chains=0"),
        ({"beta": 1.0, "n_steps": 3}, "n_steps=3"),
    ],
)
def test_bad_requests(change, said):
    sys, zero = bowls()
    with pytest.raises(ValueError, match=said):
        llc(sys, zero, KEY, **change)


def test_bad_anchors_and_improper_ensembles():
    sys, zero = bowls()
    with pytest.raises(tj.ShapeError, match="shape"):
        llc(sys, jnp.zeros(3), KEY, beta=1.0)
    with pytest.raises(ValueError, match="not finite"):
        llc(sys, zero.at[1].set(jnp.nan), KEY, beta=1.0)
    flat = tj.system(lambda x: (x[0] * x[1]) ** 2, like=jnp.zeros(2))
    with pytest.raises(tj.ImproperEnsembleError, match="diverges"):
        llc(flat, jnp.zeros(2), KEY, beta=1.0, gamma=0.0)
