"""Information bounds: worked numbers, exact brackets, orders, error bars, refusals."""

import itertools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from thermojax.estimators.estimate import Flag
from thermojax.estimators.information import (
    check_normalised,
    ensemble_information,
    error_of_mean,
    grouped_information,
    grouped_mixture_information,
    mixture_information,
)

few = settings(max_examples=20, deadline=None)
C2 = np.array([[-0.2, -1.9, -3.1], [-1.5, -0.4, -0.9], [-2.7, -1.1, -0.3]])
C3 = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
C4 = np.array([[[0.8, 0.2], [0.6, 0.4]], [[0.3, 0.7], [0.1, 0.9]]])


def random_rows(seed, *shape, scale=2.0):
    return jax.nn.log_softmax(scale * jax.random.normal(jax.random.key(seed), shape))


@pytest.mark.parametrize(
    ("estimate", "table", "lower", "upper"),
    [
        (mixture_information, C2[..., None], 0.65805341047, 1.313325029542),
        (ensemble_information, np.log(C3), 0.1829056457002, 0.4456162991711),
        (grouped_information, np.log(C4), 0.0442606737171, 0.5583980553768),
    ],
    ids=["C2", "C3", "C4"],
)
def test_worked_bounds(estimate, table, lower, upper, x64):
    bounds = estimate(table)
    np.testing.assert_allclose(bounds.lower, lower, rtol=0, atol=1e-10)
    np.testing.assert_allclose(bounds.upper, upper, rtol=0, atol=1e-10)
    np.testing.assert_allclose(bounds.midpoint, (lower + upper) / 2, rtol=0, atol=1e-10)


C1 = {
    2: (0.1840321035842, 0.8788898309345),
    3: (0.2490560910794, 0.6234770190515),
    4: (0.2809147420199, 0.5234329194498),
    8: (0.3263334913847, 0.4217762020819),
    14: (0.3446604397822, 0.3947394650260),
}


@pytest.mark.parametrize("n", C1)
def test_expected_bounds_of_a_noisy_bit(n, x64):
    """C1: all ensembles of n networks, by how many of them hold a one."""
    rows = jnp.log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
    holds = (jnp.arange(n)[None] < jnp.arange(n + 1)[:, None]).astype(int)
    bounds = jax.vmap(ensemble_information)(rows[holds])
    weight = jnp.array([math.comb(n, ones) / 2**n for ones in range(n + 1)])
    expected = weight @ bounds.lower, weight @ bounds.upper
    np.testing.assert_allclose(expected, C1[n], rtol=0, atol=1e-10)
    assert expected[0] < 0.3680642071685 < expected[1]


def exact_information(channel, prior):
    mix = prior @ channel
    return float(jnp.sum(prior[:, None] * channel * (jnp.log(channel) - jnp.log(mix))))


@given(st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_expectations_bracket_the_information_of_any_channel(seed):
    """Identity 11: all ensembles of N = 2, 3, 5 networks of a three-parameter channel."""
    with jax.enable_x64(True):
        key, other = jax.random.split(jax.random.key(seed))
        channel = jax.nn.softmax(2 * jax.random.normal(key, (3, 4)))
        prior = jax.nn.softmax(jax.random.normal(other, (3,)))
        truth = exact_information(channel, prior)
        widths = []
        for n in (2, 3, 5):
            picks = jnp.array(list(itertools.product(range(3), repeat=n)))
            bounds = jax.vmap(ensemble_information)(jnp.log(channel)[picks])
            weight = jnp.prod(prior[picks], axis=1)
            low, high = weight @ bounds.lower, weight @ bounds.upper
            assert low <= truth + 1e-12
            assert high >= truth - 1e-12
            widths.append(high - low)
        assert widths[0] > widths[1] > widths[2]


def test_grouped_expectations_bracket_the_information_about_the_group(x64):
    """All choices of two groups of two seeds: b picks the law of theta, theta the output."""
    channel = jnp.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])
    law = jnp.array([[0.9, 0.1], [0.25, 0.75]])  # p(theta | b)
    truth = exact_information(law @ channel, jnp.array([0.5, 0.5]))
    picks = np.array(list(itertools.product(range(2), repeat=6)))  # b, b', then four seeds
    b, theta = picks[:, :2], picks[:, 2:].reshape(-1, 2, 2)
    weight = 0.25 * jnp.prod(law[b[:, :, None], theta], axis=(1, 2))
    bounds = jax.vmap(grouped_information)(jnp.log(channel)[theta])
    np.testing.assert_allclose(jnp.sum(weight), 1.0, atol=1e-12)
    low, high = weight @ bounds.lower, weight @ bounds.upper
    assert low < truth < high
    # the seeds' own information exceeds that about the group and is not what is bracketed
    assert truth < exact_information(channel, law.mean(axis=0))


def samples_of(log_p, m, seed):
    """ll of `m` labels drawn from every row of [N, K]."""
    n = log_p.shape[0]
    x = jax.random.categorical(jax.random.key(seed), log_p[:, None], shape=(n, m))
    return log_p[:, x]


@given(st.integers(0, 2**31), st.floats(0.1, 30.0))
@few
def test_order_and_ceiling_of_every_data_set(seed, scale):
    """Identity 10: termwise convexity, and no more than log N."""
    with jax.enable_x64(True):
        n = 5
        log_p = random_rows(seed, n, 4, scale=scale)
        ll = samples_of(log_p, 3, seed)
        for bounds in (ensemble_information(log_p), mixture_information(ll)):
            assert bounds.lower <= (1 - 1 / n) * bounds.upper + 1e-12
            assert bounds.lower <= math.log(n) + 1e-12
            assert bool(bounds.saturated) == (bounds.lower > math.log(n) - 1)
            assert bool(bounds.flags & Flag.SATURATED) == bool(bounds.saturated)
        assert ensemble_information(log_p).lower >= -1e-12


@given(st.integers(0, 2**31), st.floats(0.1, 10.0))
@few
def test_order_of_grouped_bounds_that_are_enumerated(seed, scale):
    with jax.enable_x64(True):
        g, k = 4, 3
        log_p = random_rows(seed, g, k, 5, scale=scale)
        bounds = grouped_information(log_p)
        assert bounds.lower <= (1 - 1 / g) * bounds.upper + 1e-12
        means = jnp.log(jnp.mean(jnp.exp(log_p), axis=1))
        groups = ensemble_information(means)
        assert bounds.lower <= groups.lower + 1e-12
        np.testing.assert_allclose(bounds.upper, groups.upper, rtol=1e-10)


def test_sampled_grouped_bounds_have_no_such_order(x64):
    """A lucky draw: the left-out seed is the one that would have said no."""
    ll = jnp.zeros((2, 2, 2, 2, 1)).at[:, 0, :, 1].set(3.0).at[:, 1, :, 0].set(3.0)
    bounds = grouped_mixture_information(ll)
    assert bounds.lower > bounds.upper


def test_samples_agree_with_enumeration():
    """Every label of equal rows, each once: the sample mean is the sum."""
    p = jnp.array([[2, 1, 1], [1, 2, 1], [1, 1, 2.0]]) / 4
    labels = jnp.array([[0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2]])
    sampled, summed = (
        mixture_information(jnp.log(p)[:, labels]),
        ensemble_information(jnp.log(p)),
    )
    for name in ("lower", "upper", "midpoint"):
        np.testing.assert_allclose(getattr(sampled, name), getattr(summed, name), atol=1e-6)
    groups = jnp.log(C4)
    labels = jnp.array(
        [
            [[0, 0, 0, 0, 0, 0, 0, 0, 1, 1], [0] * 6 + [1] * 4],
            [[0, 0, 0] + [1] * 7, [0] + [1] * 9],
        ]
    )
    sampled = grouped_mixture_information(groups[:, :, labels])
    np.testing.assert_allclose(sampled.lower, 0.0442606737171, atol=1e-6)
    np.testing.assert_allclose(sampled.upper, 0.5583980553768, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 4), (4, 3, 5)], ids=["ensemble", "grouped"])
def test_networks_may_be_permuted(shape, x64):
    estimate = ensemble_information if len(shape) == 2 else grouped_information
    log_p = random_rows(3, *shape)
    one, other = estimate(log_p), estimate(log_p[::-1])
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


def test_identical_networks_carry_nothing():
    same = jnp.broadcast_to(random_rows(0, 5), (6, 5))
    for bounds in (
        ensemble_information(same),
        mixture_information(samples_of(same, 4, 0)),
        grouped_information(same.reshape(3, 2, 5)),
    ):
        np.testing.assert_allclose(
            [bounds.lower, bounds.upper, bounds.standard_error], 0, atol=1e-6
        )


def test_disjoint_supports_saturate():
    log_p = jnp.where(jnp.eye(6, dtype=bool), 0.0, -jnp.inf)
    groups = log_p.reshape(3, 2, 6).at[:].set(jnp.repeat(log_p[:3], 2, 0).reshape(3, 2, 6))
    for bounds, n in (
        (ensemble_information(log_p), 6),
        (mixture_information(log_p[..., None]), 6),
        (grouped_information(groups), 3),
    ):
        np.testing.assert_allclose(bounds.lower, math.log(n), atol=1e-6)
        assert jnp.isposinf(bounds.upper)
        assert jnp.isposinf(bounds.standard_error)
        assert bounds.saturated
        assert bounds.flags & Flag.SATURATED
        assert bounds.flags & Flag.POOR_OVERLAP


def test_seeds_without_overlap_void_the_grouped_lower_bound():
    bounds = grouped_information(
        jnp.where(jnp.eye(4, dtype=bool), 0.0, -jnp.inf).reshape(2, 2, 4)
    )
    assert jnp.isneginf(bounds.lower)
    assert bounds.flags & Flag.POOR_OVERLAP


def test_contexts_are_averaged_or_kept():
    log_p = random_rows(1, 6, 2, 3, 4)
    kept, mean = ensemble_information(log_p, reduce=False), ensemble_information(log_p)
    assert kept.lower.shape == kept.standard_error.shape == kept.saturated.shape == (2, 3)
    one = ensemble_information(log_p[:, 1, 2])
    np.testing.assert_allclose(kept.upper[1, 2], one.upper, rtol=1e-6)
    np.testing.assert_allclose(kept.standard_error[1, 2], one.standard_error, rtol=1e-5)
    np.testing.assert_allclose(mean.lower, kept.lower.mean(), rtol=1e-6)
    np.testing.assert_allclose(mean.upper, kept.upper.mean(), rtol=1e-6)
    assert grouped_information(log_p.reshape(3, 2, 2, 3, 4), reduce=False).upper.shape == (2, 3)


def finite_difference(fn, x, direction, h=1e-6):
    return (fn(x + h * direction) - fn(x - h * direction)) / (2 * h)


@pytest.mark.parametrize("bound", ["lower", "upper"])
@pytest.mark.parametrize("shape", [(5, 2, 4), (3, 2, 2, 4)], ids=["ensemble", "grouped"])
def test_gradients_of_enumerated_bounds(shape, bound, x64):
    estimate = ensemble_information if len(shape) == 3 else grouped_information
    fn = lambda logits: getattr(estimate(jax.nn.log_softmax(logits)), bound)
    logits, direction = jax.random.normal(jax.random.key(0), (2, *shape))
    slope = jnp.vdot(jax.grad(fn)(logits), direction)
    np.testing.assert_allclose(slope, finite_difference(fn, logits, direction), rtol=1e-6)


@pytest.mark.parametrize("bound", ["lower", "upper"])
def test_gradients_where_probabilities_vanish(bound):
    """A label that no network gives, and identical networks: finite gradients."""
    logits = jnp.zeros((4, 3)).at[:, 2].set(-jnp.inf)

    def fn(shift):
        moved = logits.at[:, 0].add(shift)
        return getattr(ensemble_information(jax.nn.log_softmax(moved)), bound)

    assert jnp.all(jnp.isfinite(jax.grad(fn)(jnp.zeros(4))))


def test_gradients_of_sampled_bounds(x64):
    ll = jax.random.normal(jax.random.key(1), (4, 4, 2))
    direction = jax.random.normal(jax.random.key(2), (4, 4, 2))
    for bound in ("lower", "upper"):
        fn = lambda ll, b=bound: getattr(mixture_information(ll), b)
        slope = jnp.vdot(jax.grad(fn)(ll), direction)
        np.testing.assert_allclose(slope, finite_difference(fn, ll, direction), rtol=1e-6)


@pytest.mark.parametrize("kind", ["ensemble", "mixture", "grouped"])
def test_error_bars_cover_the_scatter_of_repeated_ensembles(kind):
    """At most 60 % too large, never too small, for both bounds."""

    def once(key):
        first, second, third = jax.random.split(key, 3)
        if kind == "grouped":
            centre = jax.random.normal(first, (16, 1, 4))
            return grouped_information(
                jax.nn.log_softmax(centre + jax.random.normal(second, (16, 3, 4)))
            )
        log_p = jax.nn.log_softmax(2 * jax.random.normal(first, (24, 4)))
        if kind == "ensemble":
            return ensemble_information(log_p)
        x = jax.random.categorical(third, log_p[:, None], shape=(24, 3))
        return mixture_information(log_p[:, x])

    bounds = jax.vmap(once)(jax.random.split(jax.random.key(5), 2000))
    scatter = max(float(bounds.lower.std()), float(bounds.upper.std()))
    assert 0.97 * scatter < float(bounds.standard_error.mean()) < 1.6 * scatter


def test_bias_is_half_chi_squared_over_n():
    """E bound - I -> -/+ chi^2/(2N); C1 has chi^2 = .64."""
    rows = jnp.log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
    theta = jax.random.bernoulli(jax.random.key(0), shape=(4000, 64)).astype(int)
    bounds = jax.vmap(ensemble_information)(rows[theta])
    for value, sign in ((bounds.lower, -1), (bounds.upper, 1)):
        bias = 64 * (value - 0.3680642071685)
        error = float(error_of_mean(bias))
        assert abs(float(bias.mean()) - sign * 0.32) < 4 * error + 0.01
    assert float(error_of_mean(64 * bounds.lower)) < 0.04


def test_flags_of_few_members_and_of_nan():
    assert ensemble_information(random_rows(0, 3, 4)).flags & Flag.FEW_RUNS
    assert not ensemble_information(random_rows(0, 40, 4, scale=0.3)).flags
    assert mixture_information(jnp.full((4, 4, 1), jnp.nan)).flags & Flag.NONFINITE


def test_float32_stays_float32(x64):
    log_p = random_rows(0, 4, 2, 3).astype(jnp.float32)
    for bounds in (ensemble_information(log_p), grouped_information(log_p)):
        assert {x.dtype.name for x in bounds[:4]} == {"float32"}
    assert mixture_information(jnp.zeros((4, 4, 1), jnp.float32)).lower.dtype == jnp.float32


@pytest.mark.parametrize(
    ("estimate", "shape", "message"),
    [
        (mixture_information, (3, 3), "shape"),
        (mixture_information, (3, 4, 2), "shape"),
        (mixture_information, (1, 1, 2), "N=1"),
        (ensemble_information, (4,), "shape"),
        (ensemble_information, (1, 4), "N=1"),
        (grouped_mixture_information, (2, 2, 2, 2), "shape"),
        (grouped_mixture_information, (2, 3, 3, 2, 1), "shape"),
        (grouped_mixture_information, (1, 2, 1, 2, 1), "G=1"),
        (grouped_mixture_information, (2, 1, 2, 1, 1), "K=1"),
        (grouped_information, (2, 2), "shape"),
        (grouped_information, (1, 2, 4), "G=1"),
        (grouped_information, (2, 1, 4), "K=1"),
    ],
)
def test_wrong_shapes_are_named(estimate, shape, message):
    with pytest.raises(ValueError, match=message):
        estimate(jnp.full(shape, -math.log(4)))


@pytest.mark.parametrize("estimate", [ensemble_information, grouped_information])
def test_rows_must_be_normalised(estimate):
    with pytest.raises(ValueError, match="log_softmax"):
        estimate(jnp.zeros((2, 2, 3)))
    jax.jit(estimate)(jnp.zeros((2, 2, 3)))
    check_normalised(random_rows(0, 3, 4))
