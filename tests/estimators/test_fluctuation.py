"""Fluctuation theorems of samples: right where they hold, distrusted where samples fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scores import EXACT, check
from thermojax.estimators.estimate import Flag
from thermojax.estimators.fluctuation import detailed_fluctuation, integral_fluctuation

N = 4000


def gaussian(mean, seed=0, n=N, variance=None):
    variance = 2 * mean if variance is None else variance
    return mean + np.sqrt(variance) * np.random.default_rng(seed).normal(size=n)


def test_integral_theorem_of_gaussian_work():
    found = integral_fluctuation(gaussian(0.5))
    check(found.mean_exp, 1.0, found.stderr)
    assert found.flags == 0
    assert found.reasons == []
    # the error bar against the exact spread of exp(-s), and a broken theorem is seen
    np.testing.assert_allclose(found.stderr, np.sqrt((np.e - 1) / N), rtol=0.2)
    mean, stderr, size = integral_fluctuation(gaussian(0.5, variance=2.0))[:3]
    assert abs(mean - 1) > 5 * stderr
    assert 100 < size < N


def test_error_bars_are_those_of_the_repeats(x64):
    draws = np.stack([gaussian(0.4, seed) for seed in range(60)])
    found = jax.vmap(integral_fluctuation)(draws)
    np.testing.assert_allclose(
        np.std(found.mean_exp, ddof=1), np.mean(found.standard_error), rtol=0.35
    )
    check(found.mean_exp, 1.0)


@pytest.mark.parametrize("mean", [5.0, 20.0])
def test_dissipation_beyond_the_sample_is_distrusted(mean):
    """Few members dominate, or none of those that should: both say so."""
    found = integral_fluctuation(gaussian(mean))
    assert found.flags & Flag.LOW_ESS
    assert found.effective_sample_size < 50


def test_relative_errors_above_seven_percent_are_distrusted(x64):
    few = integral_fluctuation(gaussian(0.5, n=200))
    assert few.effective_sample_size > 50
    assert few.stderr / few.mean_exp > 0.07
    assert few.flags & Flag.LOW_ESS
    one = integral_fluctuation([0.3])
    assert np.isposinf(one.stderr)


def test_weights(x64):
    """Exact path weights give the exact mean; equal ones change nothing."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(12), 2)
    found = integral_fluctuation(np.log(p / q).reshape(3, 4), p.reshape(3, 4))
    np.testing.assert_allclose(found.mean_exp, 1.0, rtol=EXACT)
    sigma = gaussian(0.5)
    equal, plain = integral_fluctuation(sigma, np.full(N, 0.3)), integral_fluctuation(sigma)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), equal, plain)
    # importance sampling: drawn where the average lives, weighed back
    tilted = gaussian(-0.5, variance=1.0)
    back = integral_fluctuation(tilted, np.exp(tilted))
    check(back.mean_exp, 1.0, back.stderr)
    np.testing.assert_allclose(
        back.stderr, 1 / np.sqrt(N) * np.std(1 - np.exp(tilted)), rtol=0.1
    )


def test_what_is_not_finite(x64):
    sigma = np.append(gaussian(0.5, n=199), np.inf)
    found = integral_fluctuation(sigma)
    np.testing.assert_allclose(found.mean_exp, np.mean(np.exp(-sigma)), rtol=EXACT)
    assert integral_fluctuation(np.full(200, np.inf)).mean_exp == 0
    for bad, mean in ((np.nan, np.nan), (-np.inf, np.inf)):
        found = integral_fluctuation(np.append(sigma[1:], bad))
        np.testing.assert_array_equal(found.mean_exp, mean)
        assert found.flags & Flag.NONFINITE
        assert np.isposinf(found.stderr)
    weights = np.append(np.ones(199), 0.0)
    dropped = integral_fluctuation(np.append(sigma[:199], np.nan), weights)
    np.testing.assert_allclose(dropped.mean_exp, np.mean(np.exp(-sigma[:199])), rtol=EXACT)


def test_mean_is_differentiable(x64):
    sigma = gaussian(0.5, n=200)
    slope = jax.grad(lambda s: integral_fluctuation(s).mean_exp)(sigma)
    np.testing.assert_allclose(slope, -np.exp(-sigma) / 200, rtol=1e-9)


def test_detailed_theorem_is_a_line():
    forward, backward = gaussian(0.8, 1, 40_000), gaussian(0.8, 2, 40_000)
    edges = np.linspace(-1.5, 1.5, 16)
    found = detailed_fluctuation(forward, backward, edges)
    np.testing.assert_allclose(found.centres, (edges[1:] + edges[:-1]) / 2, atol=1e-6)
    check(found.log_ratio, found.centres, found.stderr)
    assert found.flags == 0
    z = (found.log_ratio - 1.2 * found.centres) / found.stderr
    assert np.max(np.abs(z)) > 5  # power against a wrong temperature
    # unequal sizes are normalised away
    half = detailed_fluctuation(forward[:20_000], backward, edges)
    check(half.log_ratio, half.centres, half.stderr)


def test_counted_bins_span_the_common_range():
    forward, backward = gaussian(0.8, 1), gaussian(0.8, 2)
    counted = jax.jit(detailed_fluctuation, static_argnums=2)
    found = counted(forward, backward, 10)
    low = max(forward.min(), (-backward).min())
    high = min(forward.max(), (-backward).max())
    half = (high - low) / 20
    ends = np.asarray(found.centres)[[0, -1]]
    np.testing.assert_allclose(ends, [low + half, high - half], rtol=1e-5)
    assert found.log_ratio.shape == (10,)


def test_without_overlap_there_is_no_line():
    far = detailed_fluctuation([5.0, 6.0], [5.0, 6.0], 4)
    assert np.all(np.isnan(far.log_ratio))
    assert np.all(np.isposinf(far.stderr))
    assert far.flags & Flag.POOR_OVERLAP
    assert "overlap" in far.reasons[0]
    gap = detailed_fluctuation([0.1, 0.2, 0.9], [-0.1, -0.6], [0.0, 0.5, 1.0, 1.5])
    np.testing.assert_array_equal(np.isnan(gap.log_ratio), [False, False, True])
    np.testing.assert_allclose(gap.log_ratio[0], np.log(2 / 3 / (1 / 2)), rtol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="shapes"):
        integral_fluctuation(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="not empty"):
        integral_fluctuation([])
    for weights in ([1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="weights have minimum"):
            integral_fluctuation([0.0, 1.0], weights)
    with pytest.raises(ValueError, match="sigma_backward has shape"):
        detailed_fluctuation([1.0], np.ones((2, 2)), 3)
    with pytest.raises(ValueError, match="bins=0"):
        detailed_fluctuation([1.0], [1.0], 0)
    with pytest.raises(ValueError, match="at least two edges"):
        detailed_fluctuation([1.0], [1.0], [0.0])
    with pytest.raises(ValueError, match="increase"):
        detailed_fluctuation([1.0], [1.0], jnp.array([0.0, 2.0, 1.0]))
