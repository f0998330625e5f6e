"""Streaming accumulators: any split gives the single pass, at any offset, in float32."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thermojax as tj
from tests.scores import caught, check
from thermojax.accumulators import Compensated, compensated_add, two_diff, two_sum

IDENTITY = lambda x: x
PROPERTY = settings(derandomize=True, max_examples=40, deadline=None, database=None)
LENGTH = 48


@functools.partial(jax.jit, static_argnums=0)
def feed(acc, samples, used):
    """The accumulator of the first `used` samples."""

    def body(i, state):
        return acc.update(state, jax.tree.map(lambda x: x[i], samples))

    start = acc.init(jax.tree.map(lambda x: x[0], samples))
    return jax.lax.fori_loop(0, used, body, start)


def single(acc, samples):
    samples = jnp.asarray(samples)
    return acc.finalize(feed(acc, samples, len(samples)))


def parts_merged(acc, samples, cuts):
    """Accumulators of consecutive parts, merged from left to right."""
    edges = [0, *sorted(cuts), len(samples)]
    merged = None
    for left, right in itertools.pairwise(edges):
        padded = np.zeros(LENGTH, samples.dtype)
        padded[: right - left] = samples[left:right]
        part = feed(acc, jnp.asarray(padded), right - left)
        merged = part if merged is None else acc.merge(merged, part)
    return acc.finalize(merged)


numbers = st.lists(
    st.floats(-100, 100, width=32, allow_subnormal=False), min_size=LENGTH, max_size=LENGTH
).map(lambda v: np.asarray(v, np.float32))
normal_floats = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
splits = st.lists(st.integers(0, LENGTH), max_size=4)


@PROPERTY
@given(numbers, splits)
def test_moments_merge_to_the_single_pass(x, cuts):
    acc = tj.moments(IDENTITY, order=4)
    one, two = single(acc, x), parts_merged(acc, x, cuts)
    assert int(two.count) == LENGTH
    spread = np.ptp(x) + 1e-3
    for a, b, order in zip(one[1:], two[1:], (1, 2, 3, 4), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * spread**order)
    x = x.astype(np.float64)
    np.testing.assert_allclose(one.mean, x.mean(), rtol=1e-5, atol=1e-6 * spread)
    np.testing.assert_allclose(one.variance, x.var(ddof=1), rtol=1e-5, atol=1e-6 * spread**2)
    for power, value in ((3, one.third), (4, one.fourth)):
        true = np.mean((x - x.mean()) ** power)
        np.testing.assert_allclose(value, true, rtol=1e-4, atol=1e-5 * spread**power)


@PROPERTY
@given(numbers, splits)
def test_log_mean_exp_merges_to_the_single_pass(x, cuts):
    acc = tj.log_mean_exp(IDENTITY)
    one, two = single(acc, x), parts_merged(acc, x, cuts)
    w = x.astype(np.float64)
    exact = w.max() + math.log(np.mean(np.exp(w - w.max())))
    np.testing.assert_allclose(one.value, exact, rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(two.value, exact, rtol=2e-6, atol=1e-5)
    weights = np.exp(w - w.max())
    n_eff = weights.sum() ** 2 / (weights**2).sum()
    np.testing.assert_allclose([one.n_eff, two.n_eff], n_eff, rtol=1e-4)
    assert int(two.count) == LENGTH


@PROPERTY
@given(numbers, splits)
def test_histogram_merges_to_the_single_pass(x, cuts):
    edges = (-50.0, -10.0, 0.0, 0.5, 50.0)
    acc = tj.histogram(edges, IDENTITY)
    one, two = single(acc, x), parts_merged(acc, x, cuts)
    # half-open bins [left, right)
    counts = [np.sum((x >= a) & (x < b)) for a, b in itertools.pairwise(edges)]
    for result in (one, two):
        np.testing.assert_array_equal(result.counts, counts)
        assert int(result.below) == np.sum(x < edges[0])
        assert int(result.above) == np.sum(x >= edges[-1])


@PROPERTY
@given(numbers, splits)
def test_dyadic_mean_merges_to_the_single_pass(x, cuts):
    acc = tj.dyadic(IDENTITY, levels=4)
    one, two = single(acc, x), parts_merged(acc, x, cuts)
    spread = np.ptp(x) + 1e-3
    np.testing.assert_allclose(two.mean, one.mean, rtol=1e-5, atol=1e-5 * spread)
    np.testing.assert_allclose(two.by_level[0], one.by_level[0], rtol=1e-4, atol=1e-5 * spread)


def test_a_merged_dyadic_accumulator_goes_on_correctly():
    """A block holds samples: after a merge none may be filled up with what was not there."""
    acc = tj.dyadic(IDENTITY, levels=3)
    first, second = (feed(acc, jnp.asarray([x]), 1) for x in (0.0, 10.0))
    out = acc.merge(first, second)
    for x in (10.0, 10.0):
        out = acc.update(out, jnp.float32(x))
    assert int(out.count) == 4
    mean = float(acc.finalize(out).mean)
    np.testing.assert_allclose(mean, 7.5)
    if int(out.blocks[2]):  # a block of four can only be all four
        np.testing.assert_allclose(out.shift + out.mean[2], 7.5)


def test_moments_at_a_huge_offset():
    """1e6 + N(0, 1) in float32: the naive sum of squares keeps no digit."""
    x = (1e6 + np.random.default_rng(0).normal(size=20_000)).astype(np.float32)
    out = single(tj.moments(IDENTITY, order=4), x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(float(out.mean), exact.mean(), rtol=0, atol=0.07)
    np.testing.assert_allclose(out.variance, exact.var(ddof=1), rtol=1e-4)
    central = exact - exact.mean()
    np.testing.assert_allclose(out.third, np.mean(central**3), atol=2e-3)
    np.testing.assert_allclose(out.fourth, np.mean(central**4), rtol=1e-3)
    naive = np.mean(x**2, dtype=np.float32) - np.mean(x, dtype=np.float32) ** 2
    assert abs(float(naive) - 1) > 0.5


def test_moments_of_a_pytree_and_of_too_few_samples():
    acc = tj.moments(lambda s: {"a": s, "b": jnp.stack([s, -s])})
    one = acc.finalize(feed(acc, jnp.asarray([3.0]), 1))
    assert float(one.mean["a"]) == 3.0
    assert np.isnan(one.variance["a"])
    out = acc.finalize(feed(acc, jnp.asarray([1.0, 2.0, 6.0]), 3))
    np.testing.assert_allclose(out.mean["b"], [3.0, -3.0])
    np.testing.assert_allclose(out.variance["b"], [7.0, 7.0], rtol=1e-6)
    with pytest.raises(ValueError, match="order=3"):
        tj.moments(order=3)


def test_counts_pass_the_end_of_float32():
    """The count is an integer: float32 would stall at 2^24."""
    acc = tj.moments(IDENTITY)
    state = feed(acc, jnp.asarray([1.0, 3.0]), 2)._replace(count=jnp.int32(2**24))
    state = acc.update(acc.update(state, jnp.float32(1.0)), jnp.float32(1.0))
    assert int(state.count) == 2**24 + 2


def autoregressive(r, steps, size, key):
    """Unit-variance AR(1) chains, and the dyadic error of each."""
    acc = tj.dyadic(IDENTITY, levels=14)

    def chain(key):
        first, rest = jax.random.split(key)
        x = jax.random.normal(first)

        def body(carry, xi):
            x, state = carry
            x = r * x + jnp.sqrt(1 - r * r) * xi
            return (x, acc.update(state, x)), None

        noise = jax.random.normal(rest, (steps,))
        (_, state), _ = jax.lax.scan(body, (x, acc.init(x)), noise)
        return acc.finalize(state)

    return jax.vmap(chain)(jax.random.split(key, size))


def test_dyadic_error_of_an_autoregressive_chain():
    """tau = (1 + r)/(1 - r); independent chains say what the true error is."""
    steps, size = 2**13, 96
    rates = jnp.asarray([0.0, 0.5, 0.8])
    run = jax.jit(jax.vmap(lambda r: autoregressive(r, steps, size, jax.random.key(1))))
    out = run(rates)
    for i, r in enumerate(np.asarray(rates)):
        tau = (1 + r) / (1 - r)
        stderr = math.sqrt(tau / steps)
        check(out.mean[i], 0.0)
        check(np.asarray(out.mean[i]) ** 2, stderr**2)
        # the error at block size 64, long against tau, is unbiased up to tau/64
        level = np.asarray(out.by_level[i, :, 6], np.float64) ** 2
        blocks = 64 * (1 - r)  # exact variance of block means of an AR(1)
        exact = stderr**2 * (1 - 2 * r * (1 - r**64) / (blocks * (1 + r)))
        check(level, exact)
        caught(level, 1.1 * exact)
        np.testing.assert_allclose(np.mean(out.iact[i]), tau, rtol=0.25)
        np.testing.assert_allclose(out.n_eff[i] * out.iact[i], steps, rtol=1e-5)
    assert float(np.mean(out.plateau[0])) > 0.8
    with pytest.raises(ValueError, match="scalar"):
        tj.dyadic(IDENTITY).init(jnp.zeros(2))


def test_dyadic_admits_that_a_drift_has_no_plateau():
    out = single(tj.dyadic(IDENTITY, levels=12), np.linspace(0, 1, 4096, dtype=np.float32))
    assert not bool(out.plateau)


def test_histogram_of_arrays_counts_every_element():
    acc = tj.histogram([0.0, 1.0, 2.0], IDENTITY)
    samples = jnp.asarray([[0.0, 0.5, 1.0], [2.0, -1.0, 1.5]])
    out = acc.finalize(feed(acc, samples, 2))
    np.testing.assert_array_equal(out.counts, [2, 2])
    assert (int(out.below), int(out.above)) == (1, 1)
    for edges in ([0.0], [0.0, 0.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="increasing"):
            tj.histogram(edges)


def test_log_mean_exp_bears_minus_infinity():
    inf = np.inf
    x = np.asarray([-inf, 2.0, -inf, 2.0], np.float32)
    out = single(tj.log_mean_exp(IDENTITY), x)
    np.testing.assert_allclose(out.value, 2 - math.log(2), rtol=1e-6)
    np.testing.assert_allclose(out.n_eff, 2.0)
    nothing = single(tj.log_mean_exp(IDENTITY), np.full(3, -inf, np.float32))
    assert float(nothing.value) == -inf
    big = single(tj.log_mean_exp(IDENTITY), np.asarray([1e4, 1e4 - 1], np.float32))
    np.testing.assert_allclose(big.value, 1e4 + math.log((1 + math.exp(-1)) / 2), rtol=1e-6)


def test_million_small_additions_keep_their_sum():
    """1e6 times 0.1 in float32 under scan: naive summation loses hundreds."""

    def body(carry, _):
        total, naive = carry
        return (compensated_add(total, 0.1), naive + jnp.float32(0.1)), None

    zero = jnp.float32(0)
    run = jax.jit(lambda c: jax.lax.scan(body, c, None, length=1_000_000)[0])
    total, naive = run((Compensated(zero, zero), zero))
    exact = 1e6 * float(np.float32(0.1))
    assert abs(float(total.value) - exact) < 1e-2
    assert abs(float(naive) - exact) > 100


@PROPERTY
@given(normal_floats, normal_floats)
def test_two_sum_and_two_diff_lose_nothing(a, b):
    for fn, true in ((two_sum, a + b), (two_diff, a - b)):
        hi, lo = jax.jit(fn)(jnp.float32(a), jnp.float32(b))
        assert float(hi) == float(np.float32(true))
        tiny = float(np.finfo(np.float32).tiny)
        assert abs(float(hi) + float(lo) - true) <= tiny


def test_equal_settings_are_equal_objects():
    """So that asking twice does not compile twice."""
    assert tj.moments() == tj.moments()
    assert hash(tj.dyadic(levels=8)) == hash(tj.dyadic(levels=8))
    assert tj.histogram([0, 1]) == tj.histogram(np.asarray([0.0, 1.0]))
    assert tj.moments() != tj.moments(order=4)
