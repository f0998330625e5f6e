"""Annealed importance sampling against exact answers, and its refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.exact.test_table import ROWS
from tests.scores import caught, check
from thermojax import exact
from thermojax.anneal import AIS, anneal, anneal_log_z
from thermojax.estimators.estimate import Flag

KEY = jax.random.key(11)


def heavy_prior():
    """Cauchy(0, 1) prior and exp(-(x - 2)^2 / (2 0.5^2)): log Z = -2.414897."""
    prior = tj.prior(
        lambda x, control, params: -jnp.log(jnp.pi) - jnp.log1p(x**2),
        lambda key, control, params: jax.random.cauchy(key),
        like=0.0,
    )
    return tj.system(lambda x: 0.5 * ((x - 2) / 0.5) ** 2, prior=prior)


def at(row, key=KEY, **settings):
    build, beta = ROWS[row][:2]
    return anneal_log_z(AIS(**settings), build().system, tj.Point(beta), key)


@functools.cache
def mixture():
    return at("T5")


def test_two_modes():
    est = mixture().require_trusted()
    check(est.value, 0.0, est.stderr, 4.0)
    caught(est.value + np.log(2), 0.0, est.stderr)
    assert est.stderr < 0.05
    assert est.value.dtype == jnp.float32


def test_parts():
    est = mixture()
    parts = est.parts
    n = 8 * 512
    assert parts.work.shape == (8, 512)
    assert parts.lam.shape == parts.acceptance.shape == (128,)
    assert parts.lam[-1] == 1
    assert np.all(np.diff(np.asarray(parts.lam)) > 0)
    runs = jax.nn.logsumexp(-parts.work, axis=1) - np.log(512)
    np.testing.assert_allclose(parts.runs_log_z, runs, atol=1e-5)
    np.testing.assert_allclose(
        est.value, jax.nn.logsumexp(parts.runs_log_z) - np.log(8), atol=1e-5
    )
    assert jax.tree.leaves(parts.samples)[0].shape == (n, 2)
    assert jax.nn.logsumexp(parts.log_weights) == pytest.approx(0, abs=1e-4)
    assert est.stderr >= est.within_stderr
    assert float(parts.n_gradients) > n * 128
    # Jensen: <work> >= -log Z
    assert np.mean(parts.work) > -float(est.value)


def test_weighted_samples_are_of_the_target():
    """<U> = 2.0623616654 and d log Z/d beta = -<U> by the surrogate."""
    est = mixture()
    solved = exact.gaussian_mixture()
    slope = jax.grad(tj.differentiable_log_z(est, solved.system))(tj.Point(1.0)).beta
    error = np.sqrt(solved.heat_capacity(1.0) / float(est.n_eff))
    check(-slope, solved.internal_energy(1.0), error)
    caught(-slope, solved.internal_energy(0.5), error)


def test_heavy_prior():
    est = anneal_log_z(AIS(), heavy_prior(), tj.Point(1.0), KEY).require_trusted()
    check(est.value, -2.414897, est.stderr, 4.0)
    caught(est.value, -2.640688, est.stderr)
    caught(est.value, 2.414897, est.stderr)


def test_spins():
    est = at("T16", n=128, rungs=32).require_trusted()
    check(est.value, ROWS["T16"][2], est.stderr, 4.0)
    caught(est.value + np.log(2), ROWS["T16"][2], est.stderr)
    for leaf in jax.tree.leaves(est.parts.samples):
        assert set(np.unique(leaf)) <= {0.0, 1.0}


@pytest.mark.slow
def test_the_hard_funnel_is_never_trusted():
    build, beta = ROWS["T6"][:2]
    for seed in range(2):
        est = anneal_log_z(AIS(), build().system, tj.Point(beta), jax.random.key(seed))
        assert not est.trusted


SMALL = {"n": 16, "n_runs": 4, "rungs": 4, "pilot": 16, "target": 0.5, "max_rungs": 32}


@pytest.mark.slow
def test_frozen_ladder_is_unbiased():
    """Mean of Z over 400 small runs, whatever the pilot did; a re-used pilot would not be."""
    sys = tj.system(lambda x: 0.5 * x**2, prior=tj.gaussian_prior(1.0), like=0.0)
    one = lambda key: anneal_log_z(AIS(**SMALL), sys, tj.Point(8.0), key)
    est = jax.jit(jax.vmap(one))(jax.random.split(KEY, 400))
    ratio = np.exp(np.asarray(est.value, np.float64)) * 3.0  # Z = 1/sqrt(1 + 8)
    check(ratio, 1.0)
    caught(0.9 * ratio, 1.0)
    z = (np.asarray(est.value) + np.log(3)) / np.asarray(est.stderr)
    good = np.asarray(est.n_eff) > 30
    assert good.mean() > 0.3
    assert 0.7 < np.std(z[good]) < 1.5


def test_verdicts():
    """Too few rungs for a tight target: the weights say so."""
    sys = tj.system(
        lambda x: 0.5 * jnp.sum((x - 3) ** 2), prior=tj.gaussian_prior(1.0), like=jnp.zeros(6)
    )
    rough = AIS(n=64, n_runs=2, rungs=1, pilot=64, max_rungs=2)
    est = anneal_log_z(rough, sys, tj.Point(400.0), KEY)
    found = Flag(int(est.flags))
    for flag in (Flag.LOW_ESS, Flag.FEW_RUNS, Flag.LADDER_UNFINISHED):
        assert flag in found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 4}, "n=4 must be at least 8"),
        ({"rungs": 0}, "rungs=0 must be at least 1"),
        ({"moves": 0}, "moves=0"),
        ({"pilot": 2}, "pilot=2"),
        ({"target": 1.5}, "target=1.5"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        AIS(**settings)


def test_misuse_is_refused():
    sys = tj.system(lambda x: x**2, prior=tj.gaussian_prior(1.0), like=0.0)
    with pytest.raises(ValueError, match="keeps nothing"):
        anneal_log_z(AIS(**SMALL), sys, tj.Point(1.0), KEY, checkpoint=object())
    with pytest.raises(ValueError, match="unadjusted"):
        anneal_log_z(AIS(kernel=tj.langevin), sys, tj.Point(1.0), KEY)
    bare = tj.system(lambda x: x**2, like=0.0)
    with pytest.raises(tj.ImproperEnsembleError):
        anneal_log_z(AIS(), bare, tj.Point(1.0), KEY)
    assert hash(AIS()) == hash(AIS())


REFUSED = {"T22"}  # the default ladder is too short for it, and says so
SKIPPED = {"T6", "T9 hot", "T18 large", "T18 critical", "T12 hot", "T12"}


@pytest.mark.nightly
@pytest.mark.parametrize("row", sorted(REFUSED))
def test_rows_beyond_the_default_ladder_are_refused(row):
    est = at(row)
    assert est.flags & tj.Flag.LOW_ESS
    with pytest.raises(tj.UntrustedEstimate):
        est.require_trusted()


@pytest.mark.nightly
@pytest.mark.parametrize("row", sorted(set(ROWS) - SKIPPED - REFUSED))
def test_every_row(row):
    est = at(row).require_trusted()
    check(est.value, ROWS[row][2], est.stderr, 4.0)
    caught(est.value + np.log(2), ROWS[row][2], est.stderr, 4.0)


# ------------------------------------------------------------------------- tj.anneal


def test_driven_unadjusted_ensemble():
    """Euler-Maruyama at a coarse step: shadow work included, and not otherwise."""
    sys = tj.system(lambda x: 0.5 * x**2, prior=tj.gaussian_prior(1.0), like=0.0)
    kernel = tj.overdamped(sys, "em", step_size=0.6)
    path = tj.Point(jnp.linspace(0.0, 2.0, 12))
    out = anneal(kernel, KEY, path, size=8192)
    out.estimate.require_trusted()
    check(out.estimate.value, -0.5 * np.log(3.0), out.estimate.stderr)
    bare = tj.jarzynski(out.ledger.protocol)
    caught(bare.value, -0.5 * np.log(3.0), bare.stderr)
    np.testing.assert_allclose(out.work, out.ledger.protocol + out.ledger.shadow)
    # weighed with its work, the ensemble is in equilibrium at the end of the path
    w = jax.nn.softmax(-out.work)
    x2 = out.state.position**2
    mean = jnp.sum(w * x2)
    check(mean, 1 / 3, jnp.sqrt(jnp.sum((w * (x2 - mean)) ** 2)))


def test_anneal_refuses():
    sys = tj.system(lambda x: 0.5 * x**2, prior=tj.gaussian_prior(1.0), like=0.0)
    with pytest.raises(ValueError, match=r"starts at beta=0\.5"):
        anneal(tj.mala(sys), KEY, tj.Point(jnp.linspace(0.5, 1.0, 4)))
    with pytest.raises(ValueError, match="no transition density"):
        anneal(tj.sghmc(sys), KEY, tj.Point(jnp.linspace(0.0, 1.0, 4)))
