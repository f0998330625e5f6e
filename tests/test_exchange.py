"""Replica exchange against quadrature, symmetry and enumeration.

One small network in two shapes and one regression with two basins carry most tests, so that
few programs are compiled.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax import exact, exchange, replicas
from thermojax.exchange import ReplicaExchange, exchange_log_z, replica_exchange

KEY = jax.random.key(5)
FEW = ReplicaExchange(n_rungs=6, n_runs=4, n_rounds=600, warmup=128, every=2)
X = np.array([-1.0, 0.5, 1.5])
NOISE, COLD = 0.05, 1.0
HALVES = np.array([0.0, 0.5, 1.0])


def squared_error(w, control, example):
    x, y = example
    return 0.5 * ((y - x * (w**2 + w)) / NOISE) ** 2


def regression():
    """Two exact fits, w = 0.618 and w = -1.618, of unequal weight and far apart."""
    return tj.finite_sum(
        squared_error, (jnp.asarray(X), jnp.asarray(X)), prior=tj.gaussian_prior(1.0), like=0.0
    )


def quadrature(beta):
    """log Z, <U> and P(w > 0) of the regression at each beta."""
    w = np.linspace(-6, 6, 200_001)
    energy = 0.5 * np.sum(X**2) * ((1 - w**2 - w) / NOISE) ** 2
    log_p = -np.atleast_1d(beta)[:, None] * energy - w**2 / 2 - 0.5 * np.log(2 * np.pi)
    p = np.exp(log_p)
    z = np.trapezoid(p, w)
    mean = np.trapezoid(p * energy, w) / z
    return np.log(z), mean, np.trapezoid(p * (w > 0), w) / z


@functools.cache
def estimate(estimator="bar"):
    settings = dataclasses.replace(FEW, estimator=estimator)
    return exchange_log_z(settings, regression(), tj.Point(COLD), KEY)


@functools.cache
def finished():
    """Route and last state of the run behind `estimate`, for records to be tampered with."""
    sys = regression()
    path = exchange.tempering.tempered(sys)
    route = replicas.make_route(FEW, path, tj.Point(COLD), None, refresh=True, place=True)
    return route, replicas.simulate(route, KEY, None, 1.0, None, False, None)


def test_log_z_of_two_basins():
    est = estimate().require_trusted()
    log_z, _, right = quadrature(COLD)
    check(est.value, log_z, est.stderr)
    caught(est.value + np.log(2), log_z, est.stderr)
    assert est.stderr < 0.1
    assert est.value.dtype == jnp.float32
    assert est.parts.kept.round_trips.sum() > 100
    occupied = np.asarray(est.parts.samples > 0).reshape(FEW.n_runs, -1).mean(axis=1)
    check(occupied, right)
    caught(occupied, 1 - right)
    # one key, one result
    np.testing.assert_array_equal(estimate.__wrapped__().value, est.value)


def test_every_slot_has_its_marginal():
    """A fixed ladder without exact draws at its hot end."""
    betas = np.array([0.002, 0.008, 0.03, 0.12, 0.4, 1.0])
    run = replica_exchange(
        regression(), KEY, betas=betas, settings=FEW, observe=lambda w: (w > 0).astype(float)
    )
    np.testing.assert_allclose(run.betas, betas, rtol=1e-6)
    _, energy, right = quadrature(betas)
    check(run.energy.value, energy, run.energy.stderr)
    caught(run.energy.value, 1.5 * energy, run.energy.stderr)
    check(np.asarray(run.observed).mean(axis=1), right)
    # labels: every slot holds one walker, and walkers wander
    slots = np.asarray(run.slots)
    assert np.all(np.sort(slots, axis=2) == np.arange(6))
    assert np.all(np.ptp(slots, axis=1) == 5)
    assert np.all(np.abs(np.diff(slots, axis=1)) <= 1)


def test_network_posterior_of_two_basins_that_mala_leaves_in_one():
    solved, beta = exact.tanh_network(), 300.0
    sys, point = solved.system, tj.Point(beta)
    settings = ReplicaExchange(n_rungs=8, n_runs=4, n_rounds=800, warmup=256, every=2)
    est = exchange_log_z(settings, sys, point, KEY).require_trusted()
    check(est.value, solved.log_partition(beta), est.stderr)
    caught(est.value + np.log(2), solved.log_partition(beta), est.stderr)
    assert est.parts.kept.round_trips.sum() > 100
    right = np.asarray(est.parts.samples["a"] > 0).reshape(settings.n_runs, -1)
    check(right.mean(axis=1), 0.5)
    start = {k: jnp.full((16, *v.shape[1:]), abs(v[-1])) for k, v in est.parts.samples.items()}
    kernel = tj.mala(sys, step_size=1e-4)
    st, out = tj.run(
        kernel, KEY, tj.init_ensemble(kernel, KEY, point, 16, positions=start), point, 2000
    )
    assert out["acceptance"].mean() > 0.4
    assert np.all(np.asarray(st.position["a"]) > 0)


def test_round_trips_and_rejections_are_reported():
    run = estimate().parts.kept
    assert run.rejection.shape == (FEW.n_rungs - 1,)
    # the ladder stands at equal increments of the barrier
    assert run.rejection.max() < 2 * run.rejection.min()
    np.testing.assert_allclose(run.barrier, run.rejection.sum(), rtol=1e-5)
    total = run.round_trips.sum() / run.predicted_trips
    assert exchange.SLOW < total < 1.2
    slots = np.asarray(run.slots)
    for walker in range(FEW.n_rungs):
        ends = [s for s in slots[0, :, walker] if s in (0, FEW.n_rungs - 1)]
        turns = np.count_nonzero(np.diff(ends)) / 2
        assert abs(turns - run.round_trips[0, walker]) <= 1
    moves = (FEW.warmup + FEW.n_rounds) * FEW.moves * FEW.n_runs * FEW.n_rungs
    assert run.n_gradients % moves == 0


def test_bar_and_mbar_read_the_same_energies():
    bar, mbar = estimate(), estimate("mbar")
    assert mbar.parts.readouts["bar"] == bar.value
    assert abs(mbar.value - bar.value) < bar.stderr
    assert mbar.value != bar.value
    check(mbar.value, quadrature(COLD)[0], mbar.stderr)


def test_curve_and_derivative_read_the_parts():
    est = estimate()
    betas = np.array([0.01, 0.1, 1.0])
    log_z, energy, _ = quadrature(betas)
    seen = tj.curve(est, betas)
    check(seen.log_z.value, log_z, seen.log_z.stderr)
    check(seen.internal_energy.value, energy, seen.internal_energy.stderr)
    slope = jax.grad(tj.differentiable_log_z(est, regression()))(tj.Point(COLD)).beta
    cold = est.parts.kept.energy
    check(-slope, energy[-1], 1.5 * cold.stderr[-1])


class Store:
    """Keeps the state in a file; the process dies after some saves."""

    def __init__(self, folder, dies_at):
        self.folder, self.dies_at, self.saves = folder, dies_at, 0

    def load(self, like):
        return tj.load(self.folder, like) if self.folder.exists() else like

    def save(self, state):
        self.saves += 1
        tj.save(self.folder, state)
        if self.saves == self.dies_at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("chunk", "dies_at"), [(200, 2), (61, 1), (61, 9)])
def test_stop_and_resume_change_no_bit(tmp_path, monkeypatch, chunk, dies_at):
    monkeypatch.setattr(replicas, "CHUNK", chunk)
    store = Store(tmp_path / "state", dies_at)
    args = FEW, regression(), tj.Point(COLD), KEY
    with pytest.raises(KeyboardInterrupt):
        exchange_log_z(*args, checkpoint=store)
    again = exchange_log_z(*args, checkpoint=store)
    for a, b in zip(jax.tree.leaves(estimate()), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other = exchange_log_z(*args[:3], jax.random.key(6))
    assert other.value != again.value


def test_progress_is_told():
    seen = []
    exchange_log_z(
        FEW, regression(), tj.Point(COLD), KEY, progress=lambda *pair: seen.append(pair)
    )
    total = FEW.warmup + FEW.n_rounds
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_binary_states_flip():
    solved, beta = exact.ising(4), 0.44

    def flips(sys):
        return tj.gibbs_flip(sys, blocks=solved.blocks)

    settings = dataclasses.replace(FEW, kernel=flips)
    est = exchange_log_z(settings, solved.system, tj.Point(beta), KEY).require_trusted()
    check(est.value, solved.log_partition(beta), est.stderr)
    caught(est.value - np.log(2), solved.log_partition(beta), est.stderr)
    cold = est.parts.kept.energy
    check(cold.value[-1] / beta, solved.internal_energy(beta), cold.stderr[-1] / beta)
    assert est.stderr < 0.1


def test_the_hard_funnel_is_never_trusted():
    solved = exact.funnel(n=9, s=3.0)
    settings = ReplicaExchange(n_rungs=12, n_runs=4, n_rounds=600, warmup=192)
    for seed in range(3):
        est = exchange_log_z(settings, solved.system, tj.Point(1.0), jax.random.key(seed))
        assert not est.trusted
        assert "NOT_MIXED" in str(est.reasons)
        run = est.parts.kept
        assert run.round_trips.sum() < exchange.SLOW * run.predicted_trips


def tampered(**changes):
    """Names of the flags after changes to the records of the clean run."""
    route, state = finished()
    state = state._replace(
        kept=state.kept._replace(**{k: f(getattr(state.kept, k)) for k, f in changes.items()})
    )
    est = exchange._read_jit(route, state, regression(), tj.Point(COLD), 0.0, None)
    return {reason.split(":")[0] for reason in est.reasons}, est


def offset(x):
    return x + jnp.array([0.0, 0.0, 0.0, 9.0])[None, :, None]


def test_every_flag_has_a_case():
    clean, est = tampered()
    assert not clean
    np.testing.assert_array_equal(est.value, estimate().value)
    assert tampered(energies=lambda x: x[:, :, ::-1])[0] >= {"NOT_CONVEX"}
    assert tampered(energies=offset)[0] >= {"NOT_MIXED", "RUNS_DISAGREE"}
    assert tampered(trips=lambda x: 0 * x)[0] >= {"NO_ROUND_TRIPS"}
    assert tampered(trips=lambda x: x // 2)[0] == {"NOT_MIXED"}
    assert tampered(acceptance=lambda x: 0.1 * x)[0] == {"BAD_ACCEPTANCE"}
    assert tampered(energies=lambda x: x + 1e6)[0] >= {"FLOAT_RESOLUTION"}
    assert tampered(energies=lambda x: jnp.repeat(x[::200], 200, 0))[0] >= {"LOW_ESS"}
    torn, est = tampered(energies=lambda x: x.at[:, :, 2:].add(-1e6))
    assert torn >= {"POOR_OVERLAP", "NONFINITE"}
    assert np.isnan(est.value)
    assert np.isinf(est.stderr)


def test_a_poisoned_walker_is_counted_and_harms_no_other_run():
    route, state = finished()
    start = replicas._start_jit(route, KEY, None, 1.0, None)
    half = replicas._advance_jit(route, start, jnp.int32(400))
    walkers, coldest = half.walkers, jnp.argmax(half.slot[1])
    bad = walkers._replace(
        position=walkers.position.at[1, coldest].set(jnp.nan),
        energy=walkers.energy.at[1, coldest].set(jnp.nan),
    )
    end = replicas._advance_jit(route, half._replace(walkers=bad), jnp.int32(728))
    others = np.array([0, 2, 3])
    for name in ("energies", "slots", "positions"):
        np.testing.assert_array_equal(
            getattr(end.kept, name)[:, others], getattr(state.kept, name)[:, others]
        )
    assert int(end.kept.flags) & tj.Flag.NONFINITE
    assert not int(state.kept.flags)
    # an exact draw at the hot end heals the run
    assert np.all(np.isfinite(end.walkers.energy))


def test_jit_and_vmap_over_points():
    sys = tj.system(lambda x: 0.5 * x**2, prior=tj.gaussian_prior(1.0), like=0.0)
    settings = ReplicaExchange(n_rungs=3, n_runs=4, n_rounds=400, warmup=64)
    betas = jnp.array([0.5, 3.0])
    est = jax.jit(jax.vmap(lambda b: exchange_log_z(settings, sys, tj.Point(b), KEY)))(betas)
    check(est.value, -0.5 * np.log(1 + np.asarray(betas)), est.stderr)
    caught(est.value, np.zeros(2), est.stderr)
    by_mbar = dataclasses.replace(settings, estimator="mbar")
    with pytest.raises(ValueError, match="estimator='mbar' solves on the host"):
        jax.eval_shape(lambda b: exchange_log_z(by_mbar, sys, tj.Point(b), KEY), 1.0)


@pytest.mark.usefixtures("x64")
def test_double_precision_is_kept():
    sys = exact.double_well().system
    est = jax.eval_shape(lambda b: exchange_log_z(FEW, sys, tj.Point(b), KEY), jnp.ones(()))
    assert {est.value.dtype, est.parts.trace.energy.dtype, est.stderr.dtype} == {
        jnp.dtype("float64")
    }
    assert est.parts.trace.energy.shape == (4, 6, 600)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_rungs": 1}, "n_rungs=1 must be at least 2"),
        ({"n_runs": 0}, "n_runs=0"),
        ({"n_rounds": 10}, "n_rounds=10"),
        ({"warmup": 8}, "warmup=8"),
        ({"n_rounds": 100, "every": 3}, "n_rounds=100 must be a multiple of every=3"),
        ({"estimator": "wham"}, "estimator='wham' is unknown"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ReplicaExchange(**settings)


def test_what_cannot_be_is_refused():
    sys, point = regression(), tj.Point(1.0)
    lebesgue = tj.system(lambda x: x**2, like=0.0)
    with pytest.raises(ValueError, match="cannot use a mesh"):
        exchange_log_z(FEW, sys, point, KEY, mesh="mesh")
    with pytest.raises(tj.ImproperEnsembleError):
        exchange_log_z(FEW, lebesgue, point, KEY)
    with pytest.raises(ValueError, match="unadjusted"):
        exchange_log_z(dataclasses.replace(FEW, kernel=tj.overdamped), sys, point, KEY)
    with pytest.raises(ValueError, match="must be a multiple of tile=7"):
        exchange_log_z(dataclasses.replace(FEW, tile=7), sys, point, KEY)
    for betas, message in (
        ("equal", "betas='equal' is unknown"),
        ([1.0], "at least two values"),
        ([0.5, 0.5], "must increase"),
        ([-0.5, 0.5], "must increase from a value >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            replica_exchange(
                sys, KEY, betas=betas if isinstance(betas, str) else np.array(betas)
            )
    with pytest.raises(ValueError, match="needs a normalised prior"):
        replica_exchange(lebesgue, KEY, betas=HALVES[::2])
    with pytest.raises(ValueError, match="goes with betas='auto' only"):
        replica_exchange(
            sys, KEY, betas=HALVES[::2], reference=tj.gaussian_prior(1.0, like=0.0)
        )
    with pytest.raises(tj.ShapeError, match=r"expected leading axes \(4, 2\)"):
        replica_exchange(
            lebesgue, KEY, betas=HALVES[1:], settings=FEW, positions=jnp.zeros((4, 3))
        )
    with pytest.raises(ValueError, match="must be > 0"):
        replica_exchange(sys, KEY, point=tj.Point(0.0))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("build", "beta"), [(exact.double_well, 4.0), (exact.tanh_network, 4.0)]
)
def test_coverage_over_a_hundred_keys(build, beta):
    solved = build()
    z = []
    for seed in range(100):
        est = exchange_log_z(FEW, solved.system, tj.Point(beta), jax.random.key(1000 + seed))
        z.append(float((est.value - solved.log_partition(beta)) / est.stderr))
    z = np.array(z)
    assert 0.55 < np.mean(np.abs(z) < 1) < 0.85
    assert np.mean(np.abs(z) < 2) > 0.89
    assert 0.7 < z.std() < 1.5
    assert abs(z.mean()) < 0.5
