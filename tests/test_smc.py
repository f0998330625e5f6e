"""The machinery of tempered SMC: settings, path, ladder, resampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax import exact, smc


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 4}, "n=4 must be at least 8"),
        ({"n_runs": 0}, "n_runs=0"),
        ({"moves": 0}, "moves=0"),
        ({"max_looks": 0}, "max_looks=0"),
        ({"target": 1.0}, r"target=1\.0 must lie between 0 and 1"),
        ({"target": 0.0}, r"target=0\.0"),
        ({"max_rungs": 1}, "max_rungs=1"),
        ({"waypoints": (0.5, 0.5)}, r"waypoints=\(0\.5, 0\.5\) must increase"),
        ({"waypoints": (1.0,)}, "waypoints"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        tj.SMC(**settings)


def test_settings_are_hashable():
    assert hash(tj.SMC(n=64)) == hash(tj.SMC(n=64))


def test_the_path_runs_from_reference_to_target(x64):
    sys = tj.system(
        lambda x, control: control * jnp.sum(x**4),
        prior=tj.gaussian_prior(2.0),
        like=jnp.ones(3),
    )
    point = tj.Point(1.7, 0.3)
    x = jnp.array([0.2, -1.0, 0.7])
    for reference in (None, tj.gaussian_prior(0.9, like=x)):
        path = smc.tempered(sys, reference)
        measure = sys.prior if reference is None else reference
        start = tj.reduced(path, x, tj.Point(0.0, point))
        end = tj.reduced(path, x, tj.Point(1.0, point))
        np.testing.assert_allclose(start, -measure.log_density(x), rtol=1e-12)
        np.testing.assert_allclose(end, tj.reduced(sys, x, point), rtol=1e-12)


def ess(log_w):
    w = np.exp(log_w - log_w.max())
    return w.sum() ** 2 / np.sum(w**2)


def test_the_step_keeps_the_effective_sample_size(x64):
    value = jnp.asarray(np.random.default_rng(0).gamma(2.0, 3.0, 500) + 40.0)
    step = smc._next_step(value, jnp.asarray(1e3), 0.9)
    np.testing.assert_allclose(ess(-step * np.asarray(value)), 450, rtol=1e-6)
    assert smc._next_step(value, jnp.asarray(1e-6), 0.9) == 1e-6
    # walkers behind a wall cannot be kept by any step: the others set it
    walled = value.at[:100].set(jnp.inf)
    step = smc._next_step(walled, jnp.asarray(1e3), 0.9)
    np.testing.assert_allclose(ess(-step * np.asarray(value[100:])), 360, rtol=1e-6)


def test_systematic_resampling_is_unbiased():
    log_w = jnp.log(jnp.array([0.5, 2.5, 1.0, 0.0, 3.2, 0.8]))
    share = 6 * np.exp(log_w) / np.exp(log_w).sum()

    @jax.vmap
    def count(key):
        index, drift = smc._systematic(key, log_w)
        return jnp.zeros(6).at[index].add(1.0), drift

    counts, drift = count(jax.random.split(jax.random.key(0), 4000))
    counts = np.asarray(counts)
    likely = np.arange(6) != 3
    check(counts[:, likely], share[likely])
    caught(counts[:, likely], 1.05 * share[likely])
    assert np.all(counts[:, 3] == 0)
    assert np.all(np.abs(counts - share) < 1 + 1e-5)
    assert np.all(counts.sum(axis=1) == 6)
    # its drift is the variance of the offspring shares
    spread = counts.var(axis=0).sum() / 36
    assert spread == pytest.approx(float(drift[0]), rel=0.05)


def test_correlation(x64):
    rng = np.random.default_rng(1)
    a = rng.normal(size=2000)
    b = 0.6 * a + 0.8 * rng.normal(size=2000)
    expected = np.corrcoef(a, b)[0, 1]
    assert smc._correlation(jnp.asarray(a), jnp.asarray(b)) == pytest.approx(expected, rel=1e-9)
    assert smc._correlation(jnp.ones(5), jnp.arange(5.0)) == 0
    gap = jnp.asarray(a).at[0].set(jnp.inf)
    assert np.isfinite(smc._correlation(gap, jnp.asarray(b)))


def test_ladder_waypoints_and_kept_particles():
    """The particles kept at lam belong to beta = lam: second moments under N(0, 1) prior."""
    sys = tj.system(lambda x: 0.5 * x**2, prior=tj.gaussian_prior(1.0), like=0.0)
    settings = tj.SMC(n=512, n_runs=8, waypoints=(0.03, 0.4), max_rungs=48)
    beta = 40.0
    est = tj.log_partition(sys, tj.Point(beta), jax.random.key(2), method=settings)
    est.require_trusted()
    trace, rungs = est.parts.trace, np.asarray(est.parts.rungs)
    for run, last in enumerate(rungs):
        lam = np.asarray(trace.lam[run, : last + 1])
        assert lam[0] == 0
        assert lam[-1] == 1
        assert np.all(np.diff(lam) > 0)
        assert {np.float32(0.03), np.float32(0.4)} <= set(lam)
        kept = np.asarray(trace.value[run, 1 : last + 1])
        steps = np.diff(lam)[1:]
        sizes = [ess(-d * v) for d, v in zip(steps, kept[:-1], strict=True)]
        assert np.min(sizes) > 0.88 * 512
    kept = np.asarray(est.parts.kept)  # [R, W, n]
    assert kept.shape == (8, 2, 512)
    for place, lam in enumerate((0.03, 0.4)):
        by_run = np.mean(kept[:, place] ** 2, axis=1)
        exact = 1 / (1 + beta * lam)
        # runs are the replicas; a population's own noise bounds their spread from below
        stderr = max(by_run.std(ddof=1), exact * np.sqrt(2 / 512)) / np.sqrt(8)
        check(by_run.mean(), exact, stderr)
        caught(by_run.mean(), 1 / (1 + beta * lam / 2), stderr)
    assert est.parts.n_gradients > 0


def test_binary_states_are_moved_by_flips():
    solved = exact.ising(4)
    path = smc.tempered(solved.system)
    assert tj.SMC().build(path).meta.name == "gibbs_flip"
    with pytest.raises(ValueError, match="moves in continuous space, but the base measure is"):
        tj.SMC(kernel=tj.mala).build(path)
    kernel = functools.partial(tj.metropolis_flip, blocks=solved.blocks)
    settings = tj.SMC(n=256, n_runs=8, kernel=kernel, max_rungs=32)
    est = tj.log_partition(solved.system, tj.Point(0.44), jax.random.key(3), method=settings)
    est.require_trusted()
    check(est.value, solved.log_partition(0.44), est.stderr)
    caught(est.value + np.log(2), solved.log_partition(0.44), est.stderr)
    assert np.all(np.abs(np.asarray(est.parts.samples)) == 1)


def test_wrong_blocks_reach_the_verdict():
    solved = exact.ising(4)
    kernel = functools.partial(tj.gibbs_flip, blocks=(np.ones((4, 4), bool),))
    settings = tj.SMC(n=64, n_runs=4, kernel=kernel, max_rungs=32)
    est = tj.log_partition(solved.system, tj.Point(0.3), jax.random.key(0), method=settings)
    assert any(reason.startswith("WRONG_BLOCKS") for reason in est.reasons)
