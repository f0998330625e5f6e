"""Jarzynski, Crooks and fluctuation theorems: right, with honest errors, or refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import genpareto

import thermojax as tj
from tests.estimators.test_free_energy import gaussian_work, within_bands
from tests.exact.test_driven_traps import WALKERS
from tests.exact.test_driven_traps import works as drive_trap
from tests.scores import EXACT, LIMIT, caught, check
from thermojax import exact
from thermojax.estimators.estimate import Flag
from thermojax.estimators.pareto import pareto_shape

Z_MAX = 4.0  # what this piece promises, tighter than the suite
LOG_RATIO = -0.7


def forward_work(key, shape, sd=1.0, log_ratio=LOG_RATIO):
    """Gaussian work that obeys Jarzynski's equality."""
    return -log_ratio + sd**2 / 2 + sd * jax.random.normal(key, shape)


# --- Jarzynski --------------------------------------------------------------------------


def test_jarzynski_and_its_error():
    w = forward_work(jax.random.key(0), (200, 1000))
    est = jax.vmap(tj.jarzynski)(w)
    # unbiased in Z, so low in its logarithm by half the variance
    check(np.exp(est.value - LOG_RATIO), 1.0, limit=Z_MAX)
    z = (est.value - LOG_RATIO) / est.stderr
    assert within_bands(z)
    # rare outliers among 200 samples of 1000 do raise a flag or two
    assert np.mean(np.asarray(est.flags) == 0) > 0.95
    check(est.parts["cumulant"], LOG_RATIO, limit=Z_MAX)
    check(est.parts["dissipated"], 0.5, limit=Z_MAX)
    # power: errors 1.7 times too small, and a work 10 % off
    assert not within_bands(1.7 * z)
    caught(jax.vmap(tj.jarzynski)(1.1 * w).value, LOG_RATIO)


def test_jackknife_is_the_jackknife(x64):
    w = np.asarray(forward_work(jax.random.key(1), (30,)))
    without = [-np.log(np.mean(np.exp(-np.delete(w, i)))) for i in range(30)]
    expected = math.sqrt(29 / 30 * np.sum((without - np.mean(without)) ** 2))
    est = tj.jarzynski(w)
    np.testing.assert_allclose(est.stderr, expected, rtol=EXACT)
    np.testing.assert_allclose(est.value, np.log(np.mean(np.exp(-w))), rtol=EXACT)
    far = tj.jarzynski(w + 5000.0)  # shifts in log space, far beyond exp's range
    np.testing.assert_allclose(far.value, est.value - 5000, rtol=EXACT)
    np.testing.assert_allclose(far.stderr, est.stderr, rtol=1e-8)


@pytest.mark.parametrize(
    ("sd", "expected"),
    [(1.0, 0), (2.0, 0), (3.2, Flag.LOW_ESS | Flag.HEAVY_TAIL | Flag.READOUTS_DISAGREE)],
)
def test_jarzynski_refuses_what_it_cannot_average(sd, expected):
    """Dissipated work sd^2/2; the exponential average rests on n exp(-sd^2) members."""
    est = tj.jarzynski(forward_work(jax.random.key(2), (WALKERS,), sd))
    if not expected:
        assert est.trusted, est.reasons
        assert abs(float(est.value) - LOG_RATIO) < Z_MAX * float(est.stderr)
        return
    assert int(est.flags) & Flag.LOW_ESS
    assert int(est.flags) & ~int(expected) == 0
    with pytest.raises(tj.UntrustedEstimate, match="effective sample size"):
        est.require_trusted()


def test_heavy_tails_are_seen():
    """exp(-w) with a Pareto tail of shape 0.9: no variance, whatever the sample size."""
    for shape, heavy in ((0.9, True), (0.3, False)):
        u = jax.random.uniform(jax.random.key(3), (WALKERS,))
        est = tj.jarzynski(shape * jnp.log(u))
        assert bool(int(est.flags) & Flag.HEAVY_TAIL) == heavy
        assert float(est.parts["pareto_k"]) == pytest.approx(shape, abs=0.15)
    # a quickly softened trap: <exp(-2w)> diverges
    trap = exact.stiffened_trap(0.05, 8, step_size=0.01)
    assert trap.total.n_eff_fraction == 0
    assert int(tj.jarzynski(works(trap, 0)).flags) & Flag.HEAVY_TAIL


def test_non_gaussian_work_is_no_disagreement_unless_few_members_carry_it():
    stiff = exact.stiffened_trap(6.0, 8, step_size=0.02)
    est = tj.jarzynski(works(stiff, 1))
    assert abs(float(est.parts["cumulant_z"])) > 10  # the second cumulant is not the answer
    assert est.trusted, est.reasons
    # a fiftieth of the members carries the average: the Gaussian guess is no witness
    w = 0.3 * jax.random.normal(jax.random.key(4), (WALKERS,))
    rare = tj.jarzynski(w.at[:2000].add(-6.0))
    assert int(rare.flags) == Flag.READOUTS_DISAGREE


def test_pareto_shape():
    rng, fit = np.random.default_rng(0), jax.vmap(pareto_shape)
    for k in (0.1, 0.5, 0.7, 1.2):
        draws = genpareto.rvs(k, size=(40, 4000), random_state=rng)
        fits = np.asarray(fit(jnp.log(draws)))
        # the prior weight of ten observations at 1/2 pulls by 10/200 of the distance
        drawn = (190 * k + 5) / 200
        assert abs(fits.mean() - drawn) < 0.05
        assert fits.std() < 0.25
    assert pareto_shape(jnp.zeros(4000)) == -np.inf
    assert np.isnan(pareto_shape(jnp.arange(10.0)))
    assert float(pareto_shape(jnp.linspace(0.0, 1.0, 4000))) < 0  # bounded weights


# --- Crooks -----------------------------------------------------------------------------


def test_crooks_and_its_errors():
    w_f, w_r = gaussian_work(jax.random.key(5), delta=-LOG_RATIO, shape=(200,))
    report = jax.vmap(tj.crooks)(w_f, w_r)
    assert not np.any(report.slope.flags)
    for est, truth in ((report.log_ratio, LOG_RATIO), (report.offset, LOG_RATIO)):
        assert within_bands((est.value - truth) / est.stderr)
    # a maximum-likelihood slope is too steep by O(1/n): a tenth of its error here
    assert within_bands(report.z)
    check(np.mean(report.slope.value), 1.0, 0.02, limit=1)
    # power
    assert not within_bands(1.7 * np.asarray(report.z))
    wrong = jax.vmap(tj.crooks)(1.2 * w_f, 1.2 * w_r)
    caught(wrong.slope.value, 1.0)
    np.testing.assert_allclose(wrong.slope.value, report.slope.value / 1.2, rtol=1e-3)


def test_crooks_is_the_maximum_of_its_likelihood(x64):
    w_f, w_r = map(np.asarray, gaussian_work(jax.random.key(6), n_f=300, n_r=300))
    report = tj.crooks(w_f, w_r)
    slope, offset = float(report.slope.value), float(report.offset.value)
    odds = lambda w: slope * w + offset
    p_f, p_r = (1 / (1 + np.exp(-odds(w))) for w in (w_f, -w_r))
    # the score vanishes in both directions
    np.testing.assert_allclose(np.sum(1 - p_f) - np.sum(p_r), 0, atol=1e-7)
    np.testing.assert_allclose(np.sum(w_f * (1 - p_f)) + np.sum(w_r * p_r), 0, atol=1e-7)
    # and Bennett's equation holds at the ratio
    fermi = lambda x: 1 / (1 + np.exp(x))
    d = -float(report.log_ratio.value)
    np.testing.assert_allclose(fermi(w_f - d).sum(), fermi(w_r + d).sum(), rtol=EXACT)
    # exchanging the two sides turns the offset around
    turned = tj.crooks(w_r, w_f)
    np.testing.assert_allclose(turned.slope.value, slope, rtol=1e-7)
    np.testing.assert_allclose(turned.offset.value, -offset, rtol=1e-7)


def test_crooks_without_overlap():
    w_f, w_r = gaussian_work(jax.random.key(7), sd=0.1, n_f=WALKERS, n_r=WALKERS)
    report = tj.crooks(w_f + 30.0, w_r + 30.0)
    assert int(report.slope.flags) == Flag.POOR_OVERLAP
    assert np.isnan(report.slope.value)
    assert np.isinf(report.slope.stderr)
    assert int(report.log_ratio.flags) & Flag.POOR_OVERLAP


# --- the library's own driven traps -----------------------------------------------------


def works(trap, seed, **bugs):
    """Total works of the library's kernel on a solvable trap."""
    return drive_trap(trap, seed=seed, **bugs)[1]


SCHEMES = [("em", 0.2), ("BAOAB", 0.5)]


@pytest.mark.parametrize(("scheme", "step_size"), SCHEMES)
def test_dragged_trap_is_answered_or_refused(scheme, step_size):
    """Within error up to 3 nats of dissipated work, refused beyond (T17)."""
    per_square = exact.dragged_trap(1.0, 8, scheme=scheme, step_size=step_size).dissipated
    for dissipated in (0.5, 1.5, 3.0, 6.0):
        distance = math.sqrt(dissipated / per_square)
        trap = exact.dragged_trap(distance, 8, scheme=scheme, step_size=step_size)
        est = tj.jarzynski(works(trap, 2))
        assert float(est.parts["dissipated"]) == pytest.approx(dissipated, rel=0.15)
        if dissipated > 3:
            assert int(est.flags) & Flag.LOW_ESS
            continue
        assert not int(est.flags) & Flag.LOW_ESS
        assert abs(float(est.value) - trap.log_ratio) < Z_MAX * float(est.stderr)
        expected = WALKERS * trap.total.n_eff_fraction
        assert float(est.n_eff) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize(("scheme", "step_size"), SCHEMES)
def test_stiffened_trap_forward_and_backward(scheme, step_size):
    trap = exact.stiffened_trap(2.5, 8, scheme=scheme, step_size=step_size)
    forward, reverse = works(trap, 3), works(trap.backwards(), 4)
    for w, truth in ((forward, trap.log_ratio), (reverse, -trap.log_ratio)):
        est = tj.jarzynski(w)
        assert abs(float(est.value) - truth) < Z_MAX * float(est.stderr)
        assert np.mean(w) + truth > 0  # the second law
    report = tj.crooks(forward, reverse)
    assert abs(float(report.z)) < Z_MAX
    for est in (report.log_ratio, report.offset):
        assert est.trusted
        assert abs(float(est.value) - trap.log_ratio) < Z_MAX * float(est.stderr)


def test_crooks_sees_planted_bugs():
    trap = exact.dragged_trap(3.0, 8)
    back = trap.backwards()
    right = tj.crooks(works(trap, 6), works(back, 5))
    assert abs(float(right.z)) < Z_MAX
    hot = tj.crooks(works(trap, 6) / 1.05, works(back, 5) / 1.05)
    loud = (
        tj.crooks(works(trap, 6, noise=f), works(back, 5, noise=f)) for f in (1.05, 0.5**0.5)
    )
    alone = tj.crooks(drive_trap(trap, seed=6)[0], drive_trap(back, seed=5)[0])
    for wrong in (hot, *loud, alone):
        assert abs(float(wrong.z)) > LIMIT


# --- stationary fluctuations ------------------------------------------------------------


def test_fluctuation_report_and_its_errors():
    """sigma ~ N(s^2/2, s^2) obeys both theorems."""
    sd = 1.2
    sigma = sd**2 / 2 + sd * jax.random.normal(jax.random.key(8), (200, 1000))
    report = jax.vmap(tj.fluctuation_report)(sigma)
    check(report.mean.value, sd**2 / 2, limit=Z_MAX)
    assert within_bands(report.integral_z)
    assert within_bands(report.slope_z)
    wrong = jax.vmap(tj.fluctuation_report)(sigma + 0.1)
    caught(wrong.slope.value, 1.0)
    caught(np.exp(wrong.integral.value), 1.0)


def test_sigma_of_one_sign_has_no_detailed_theorem():
    report = tj.fluctuation_report(jnp.linspace(1.0, 3.0, WALKERS))
    assert int(report.slope.flags) == Flag.POOR_OVERLAP
    assert np.isnan(report.slope.value)


# --- refusals ---------------------------------------------------------------------------


def test_bad_works_are_named():
    with pytest.raises(ValueError, match="work holds 1 of 3 values that are not finite"):
        tj.jarzynski([1.0, np.nan, 2.0])
    with pytest.raises(ValueError, match="work is empty"):
        tj.jarzynski([])
    with pytest.raises(ValueError, match=r"one total per member, got shape \(2, 3\)"):
        tj.jarzynski(np.ones((2, 3)))
    with pytest.raises(ValueError, match="work_reverse holds 1 of 1"):
        tj.crooks([1.0, 2.0], [np.inf])
    with pytest.raises(ValueError, match="sigma is empty"):
        tj.fluctuation_report(np.zeros(0))
    traced = jax.jit(tj.jarzynski)(jnp.array([1.0, jnp.nan]))
    assert np.isnan(traced.value)
    assert int(traced.flags) & Flag.NONFINITE
    one = tj.jarzynski([1.0])
    assert np.isinf(one.stderr)
    assert int(one.flags) & Flag.LOW_ESS
