"""Flat histograms against exact rows at many temperatures, and where they must refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax import exact
from thermojax.flat_histogram import FlatHistogram, flat_histogram, flat_log_z

SMALL = FlatHistogram(bins=24, walkers=32, n_runs=8, learn=300, measure=400)
KEY = jax.random.key(3)
WIDE = tj.gaussian_prior(2.0, like=jnp.zeros(1))

# row: problem, coldest beta, all betas, reference
ROWS = {
    "T11": (exact.linear_regression, 1.0, (0.1, 0.5, 1.0), None),
    "T14": (exact.tanh_network, 4.0, (0.4, 1.0, 4.0), None),
    "T18": (exact.ising, 0.44, (0.1, 0.3, 0.44), None),
    "T19": (exact.curie_weiss, 1.0, (0.2, 1.0), None),
    "T2": (exact.double_well, 4.0, (4.0,), WIDE),
}


@functools.cache
def run(name):
    make, beta, _, reference = ROWS[name]
    problem = make(4) if name == "T18" else make()
    est = flat_log_z(SMALL, problem.system, tj.Point(beta), KEY, reference=reference)
    return problem, est


@pytest.mark.parametrize("name", ROWS)
def test_every_temperature_at_once(name):
    _, beta, betas, _ = ROWS[name]
    problem, est = run(name)
    est.require_trusted()
    check(est.value, problem.log_partition(beta), est.stderr, limit=4)
    betas = np.array(betas)
    curve = est.parts.density.curve(betas)
    for column, truth in (
        ("log_z", problem.log_partition),
        ("internal_energy", problem.internal_energy),
        ("entropy", problem.entropy),
        ("heat_capacity", problem.heat_capacity),
    ):
        found = getattr(curve, column)
        assert not np.any(np.asarray(found.flags)), tj.explain(found.flags)
        check(found.value, truth(betas), found.stderr, limit=4)
    # wrong by a tenth of a nat would be seen
    caught(curve.log_z.value + 0.2, problem.log_partition(betas), curve.log_z.stderr)


def test_the_histogram_is_flat_and_the_mass_is_the_priors():
    _, est = run("T19")
    density = est.parts.density
    full = np.asarray(density.log_mass) > -np.inf
    share = np.mean(density.histogram, axis=0)[full] * full.sum()
    np.testing.assert_allclose(share, 1.0, atol=0.5)
    total = jax.nn.logsumexp(density.log_mass)
    np.testing.assert_allclose(total, 10 * np.log(2), rtol=1e-4)
    # M = 10 is one state of 2^10, and the one of lowest energy
    bottom = float(density.log_mass[full.argmax()])
    assert abs(bottom) < 0.1


def test_samples_serve_derivatives_and_means():
    problem, est = run("T11")
    f = tj.differentiable_log_z(est, problem.system)
    slope = float(jax.grad(f)(tj.Point(1.0)).beta)
    error = 4 * float(est.parts.density.curve(1.0).internal_energy.stderr[0]) + 0.05
    assert abs(slope + problem.internal_energy(1.0)) < error
    assert est.parts.runs_log_z.shape == (8,)
    assert len(est.parts.log_weights) == 8 * SMALL.blocks * 32
    # one draw per block by its weight beats drawing evenly over the energies
    kish = 1 / np.sum(np.exp(2 * np.asarray(est.parts.log_weights, float)))
    assert kish > 0.4 * len(est.parts.log_weights)


def test_beyond_the_range_is_refused():
    problem, est = run("T11")
    density = est.parts.density
    near, far, gone = (density.log_partition(b) for b in (2.0, 30.0, 1e4))
    check(near.value, problem.log_partition(2.0), near.stderr, limit=4)
    assert tj.Flag.POOR_OVERLAP not in tj.Flag(int(near.flags))
    assert tj.Flag.POOR_OVERLAP in tj.Flag(int(far.flags))
    assert tj.Flag.POOR_OVERLAP in tj.Flag(int(gone.flags))
    assert np.isnan(gone.value)
    assert np.isinf(gone.stderr)
    with pytest.raises(ValueError, match="must be >= 0"):
        density.log_partition(-1.0)


def test_beta_zero_is_the_mass_of_the_base_measure():
    _, est = run("T18")
    found = est.parts.density.log_partition([0.0, 1e-3])
    np.testing.assert_allclose(found.value[0], 16 * np.log(2), rtol=1e-6)


class Store:
    """A checkpoint in memory that fails after a few saves."""

    def __init__(self, patience):
        self.kept, self.patience = None, patience

    def load(self, like):
        return like if self.kept is None else self.kept

    def save(self, state):
        self.kept, self.patience = state, self.patience - 1
        if not self.patience:
            raise KeyboardInterrupt


def test_stop_and_resume_is_the_same_to_the_bit():
    problem, est = run("T11")
    store, seen = Store(4), []
    arguments = (SMALL, problem.system, tj.Point(1.0), KEY)
    with pytest.raises(KeyboardInterrupt):
        flat_log_z(*arguments, checkpoint=store)
    store.patience = 100
    again = flat_log_z(*arguments, checkpoint=store, progress=lambda *x: seen.append(x))
    assert float(again.value) == float(est.value)
    assert seen[0] == (280, 700)
    assert seen[-1] == (700, 700)


def test_too_short_to_learn_is_flagged():
    """Two wells of energy far apart and hardly any looks: flat it is not, and it says so."""
    problem, _ = run("T11")
    hasty = FlatHistogram(bins=24, walkers=8, n_runs=3, learn=2, measure=8)
    est = flat_log_z(hasty, problem.system, tj.Point(20.0), KEY)
    raised = tj.Flag(int(est.flags))
    assert tj.Flag.FEW_RUNS in raised
    assert tj.Flag.NOT_FLAT in raised
    assert tj.Flag.NO_ROUND_TRIPS in raised
    with pytest.raises(tj.UntrustedEstimate, match="NOT_FLAT"):
        est.require_trusted()


def test_mistakes_are_named():
    for wrong, said in (
        ({"bins": 2}, "bins=2 must be at least 4"),
        ({"measure": 100, "blocks": 7}, "blocks=7 must divide measure=100"),
        ({"scale": "cubic"}, "scale='cubic' is unknown"),
    ):
        with pytest.raises(ValueError, match=said):
            FlatHistogram(**wrong)
    sys = tj.system(lambda x: x**2, like=0.0)
    with pytest.raises(tj.ImproperEnsembleError, match="not normalisable"):
        flat_histogram(sys, KEY)
    with pytest.raises(ValueError, match="takes no mesh"):
        flat_log_z(SMALL, sys, tj.Point(1.0), KEY, mesh=jax.make_mesh((1,), ("ensemble",)))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ROWS)
def test_error_bars_cover(name):
    make, beta, _, reference = ROWS[name]
    problem = make(4) if name == "T18" else make()
    z = []
    for i in range(60):
        key = jax.random.key(1000 + i)
        est = flat_log_z(SMALL, problem.system, tj.Point(beta), key, reference=reference)
        z.append(float((est.value - problem.log_partition(beta)) / est.stderr))
    assert abs(np.mean(z)) < 5 / np.sqrt(60)
    assert 0.6 < np.std(z) < 1.5
