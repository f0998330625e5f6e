"""One call for every route: dispatch, refusals, scope, and routes compared with each other."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thermojax as tj
from tests.exact.test_table import ROWS
from tests.scores import caught, check
from thermojax import exact, routes
from thermojax.partition import PartitionParts

KEY = jax.random.key(0)
AT = tj.Point(1.0)
SOLVED = exact.linear_regression()
SMC = tj.SMC(n=128, n_runs=8, target=0.5, max_rungs=24)
TINY = {
    "smc": SMC,
    "ti": tj.TI(nodes=8, chains=8, n_runs=4, pilot=64, max_rungs=48),
    "replica_exchange": tj.ReplicaExchange(n_rungs=6, n_runs=4, n_rounds=400, warmup=128),
    "laplace": tj.Laplace(n_starts=2, n_check=256),
    "ais": tj.AIS(n=64, n_runs=4, rungs=48, pilot=64, max_rungs=48),
    "bridge": tj.Bridge(warm_up=SMC),
    "einstein_crystal": tj.EinsteinCrystal(smc=SMC),
    "flat_histogram": tj.FlatHistogram(walkers=16, n_runs=4, learn=300, measure=400),
}
THREE = ("smc", "ti", "replica_exchange")


@pytest.fixture(scope="module")
def three():
    """Three routes side by side on row T11."""
    return tj.log_partition(SOLVED.system, AT, KEY, method=[TINY[name] for name in THREE])


class Stub:
    """A route that remembers how it was called and answers what it is told to."""

    def __init__(self, value=0.0, stderr=0.1, flags=0):
        samples = jnp.zeros((8, 1))
        parts = PartitionParts(
            AT, samples, jnp.zeros(8), jnp.full(4, value), (), (), jnp.zeros(()), (),
            {"own": jnp.asarray(value)}, jnp.asarray(10),
        )  # fmt: skip
        value, stderr, flags = jnp.asarray(value), jnp.asarray(stderr), jnp.uint32(flags)
        self.answer = tj.Estimate(value, stderr, stderr, jnp.asarray(100.0), flags, parts)
        self.calls = []

    def __call__(self, settings, sys, point, key, **options):
        self.calls.append((settings, point, key, options))
        return self.answer


@pytest.fixture
def stubs(monkeypatch):
    """Put stubs in place of routes: `stubs(smc=Stub(...))`; all others become plain ones."""

    def put(**given):
        found = {name: given.get(name, Stub()) for name in routes.METHODS}
        for name, stub in found.items():
            kind = routes.METHODS[name][0]
            monkeypatch.setitem(routes.METHODS, name, (kind, stub))
        return found

    return put


def even():
    """A system with a symmetry of two images."""
    group = tj.Symmetry(float(np.log(2)), jnp.abs)
    prior = tj.gaussian_prior(1.0)
    return tj.system(lambda x: x**2, prior=prior, like=0.0, symmetry=group)


# ------------------------------------------------------------------------- dispatch


@pytest.mark.parametrize("name", list(routes.METHODS))
def test_a_name_means_default_settings_and_settings_mean_themselves(name, stubs):
    stub = stubs()[name]
    point = tj.Point(0.5, 2.0)
    tj.log_partition(SOLVED.system, point, KEY, method=name)
    tj.log_partition(SOLVED.system, point, KEY, method=TINY[name])
    (first, *_), (second, at, key, options) = stub.calls
    assert first == routes.METHODS[name][0]()
    assert second is TINY[name]
    assert at is point
    assert key is KEY
    nothing = {"reference": None, "mesh": None, "progress": False, "checkpoint": None}
    assert options == nothing


def test_smc_is_the_default(stubs):
    found = stubs()
    tj.log_partition(SOLVED.system, AT, KEY)
    assert [name for name, stub in found.items() if stub.calls] == ["smc"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("nuts", "method='nuts' is unknown: use one of smc, ais, ti"),
        (tj.SMC, "settings such as"),
        (["smc"], "at least two methods"),
        (["smc", tj.SMC(n=64)], "each of another kind"),
        (["smc", "nuts"], "method='nuts' is unknown"),
    ],
)
def test_unknown_methods_are_refused(method, said):
    with pytest.raises(ValueError, match=said):
        tj.log_partition(SOLVED.system, AT, KEY, method=method)


def test_options_without_use_are_refused():
    mesh = jax.make_mesh((1,), ("ensemble",))
    for method, option, said in (
        ("replica_exchange", {"mesh": mesh}, "replica exchange cannot use a mesh"),
        ("flat_histogram", {"mesh": mesh}, "takes no mesh"),
        ("laplace", {"mesh": mesh}, "drop mesh="),
        ("all", {"checkpoint": object()}, "cannot share checkpoint="),
    ):
        with pytest.raises(ValueError, match=said):
            tj.log_partition(SOLVED.system, AT, KEY, method=method, **option)


@pytest.mark.parametrize("method", [*routes.METHODS, "all"])
def test_beta_is_checked_by_every_route(method, stubs):
    stubs()
    for beta in (-1.0, jnp.ones(2)):
        with pytest.raises(ValueError, match="must be one number >= 0"):
            tj.log_partition(SOLVED.system, tj.Point(beta), KEY, method=method)


def test_only_local_routes_do_without_a_normalisable_start(stubs):
    stubs()
    bare = tj.system(lambda x: x**2, like=0.0)
    for method in routes.METHODS:
        if method in ("laplace", "einstein_crystal"):
            tj.log_partition(bare, AT, KEY, method=method)
            continue
        with pytest.raises(tj.ImproperEnsembleError, match="gaussian_prior"):
            tj.log_partition(bare, AT, KEY, method=method)
    with pytest.raises(tj.ImproperEnsembleError, match="gaussian_prior"):
        tj.log_partition(bare, AT, KEY, method="all")


@pytest.mark.parametrize("method", ["smc", "ais", "ti", "flat_histogram", "all"])
def test_rays_are_shot_once_unless_told_not_to(method, stubs, monkeypatch):
    stubs()
    shot = []
    see = lambda *args, **options: shot.append(1)
    monkeypatch.setattr("thermojax.partition.check_normalizable", see)
    wide = tj.gaussian_prior(2.0, like=0.0)
    go = lambda check: tj.log_partition(
        tj.system(lambda x: x**2), AT, KEY, method=method, reference=wide, check=check
    )
    go(False)
    assert not shot
    go(True)
    assert len(shot) == 1


@pytest.mark.parametrize("name", ["ais", "ti", "flat_histogram"])
def test_routes_leave_the_rays_to_the_one_call(name, monkeypatch):
    class Reached(Exception):
        pass

    def reached(*args, **options):
        raise Reached

    def never(*args, **options):
        raise AssertionError("rays were shot twice")

    monkeypatch.setattr("thermojax.partition.check_normalizable", never)
    starts = {
        "anneal": "_begin_jit",
        "integration": "_begin_jit",
        "flat_histogram": "_start_jit",
    }
    for module, function in starts.items():
        # functions of these names hide the modules in the package
        monkeypatch.setattr(importlib.import_module(f"thermojax.{module}"), function, reached)
    sys, wide = tj.system(lambda x: x**2), tj.gaussian_prior(2.0, like=0.0)
    with pytest.raises(Reached):
        tj.log_partition(sys, AT, KEY, method=name, reference=wide, check=False)


# ------------------------------------------------------------------------------- jit


def test_under_jit_a_route_gives_the_same_numbers():
    go = lambda beta: tj.log_partition(
        SOLVED.system, tj.Point(beta), KEY, method=TINY["laplace"]
    )
    eager, traced = go(1.0), jax.jit(go)(1.0)
    np.testing.assert_allclose(traced.value, eager.value, atol=1e-5)
    np.testing.assert_allclose(eager.value, SOLVED.log_partition(1.0), atol=1e-4)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("all", "outside jit"),
        (["smc", "ti"], "outside jit"),
        (tj.ReplicaExchange(estimator="mbar"), "under jit"),
    ],
)
def test_what_needs_values_is_refused_under_jit(method, said):
    go = lambda beta: tj.log_partition(SOLVED.system, tj.Point(beta), KEY, method=method)
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(go, 1.0)


# ----------------------------------------------------------------------------- scope


def test_scope_turns_what_a_method_answers_for(stubs):
    stubs()
    go = lambda method, scope: tj.log_partition(even(), AT, KEY, method=method, scope=scope)
    log2 = float(np.log(2))
    for method, scope, shift in (
        ("smc", None, 0.0),
        ("smc", "total", 0.0),
        ("smc", "mode", -log2),
        ("bridge", None, 0.0),
        ("laplace", None, 0.0),
        ("laplace", "mode", 0.0),
        ("laplace", "total", log2),
        ("einstein_crystal", "total", log2),
    ):
        est = go(method, scope)
        assert float(est.value) == pytest.approx(shift)
        assert float(est.parts.runs_log_z[0]) == pytest.approx(shift)


def test_a_list_never_mixes_modes_with_totals(stubs):
    stubs(laplace=Stub(value=1.0 - np.log(2)), smc=Stub(value=1.0))
    est = tj.log_partition(even(), AT, KEY, method=["smc", "laplace"])
    assert est.trusted
    assert float(est.value) == pytest.approx(1.0)
    one = tj.log_partition(even(), AT, KEY, method=["smc", "laplace"], scope="mode")
    assert float(one.value) == pytest.approx(1.0 - np.log(2))


def test_scope_needs_a_symmetry(stubs):
    stubs()
    with pytest.raises(ValueError, match="states no symmetry"):
        tj.log_partition(SOLVED.system, AT, KEY, method="laplace", scope="total")
    with pytest.raises(ValueError, match="scope='local' is unknown"):
        tj.log_partition(SOLVED.system, AT, KEY, scope="local")


# ---------------------------------------------------------------------- side by side


def test_three_routes_agree_on_the_exact_answer(three):
    truth = SOLVED.log_partition(1.0)
    est = three.require_trusted()
    check(est.value, truth, est.stderr)
    caught(est.value + np.log(2), truth, est.stderr)
    for name in THREE:
        each = est.parts.estimates[name]
        check(each.value, truth, each.stderr)
        assert est.parts.used[name]
        assert est.stderr <= each.stderr
    assert set(est.parts.z_scores) == {
        "smc - ti", "smc - replica_exchange", "ti - replica_exchange",
    }  # fmt: skip
    a, b = (est.parts.estimates[name] for name in ("smc", "ti"))
    z = (a.value - b.value) / np.hypot(a.stderr, b.stderr)
    np.testing.assert_allclose(est.parts.z_scores["smc - ti"], z, rtol=1e-5)
    assert max(abs(float(z)) for z in est.parts.z_scores.values()) < 4
    each = est.parts.estimates.values()
    assert int(est.parts.n_gradients) == sum(int(e.parts.n_gradients) for e in each)


def test_routes_share_no_random_numbers(three):
    each = three.parts.estimates
    alone = tj.log_partition(SOLVED.system, AT, KEY, method=SMC)
    assert float(alone.value) != float(each["smc"].value)
    again = tj.log_partition(SOLVED.system, AT, jax.random.fold_in(KEY, 0), method=SMC)
    assert float(again.value) == float(each["smc"].value)


def test_all_means_three_independent_routes(three, monkeypatch):
    assert routes._INDEPENDENT == THREE
    monkeypatch.setattr(routes, "_INDEPENDENT", tuple(TINY[name] for name in THREE))
    again = tj.log_partition(SOLVED.system, AT, KEY, method="all")
    assert float(again.value) == float(three.value)
    assert float(again.stderr) == float(three.stderr)


def test_parts_of_several_routes_serve_derivatives_and_means(three):
    sys = SOLVED.system
    f = tj.differentiable_log_z(three, sys)
    np.testing.assert_allclose(f(AT), three.value, atol=1e-6)
    slope = jax.grad(f)(AT).beta
    energy = tj.mean(three, sys, lambda theta: sys.energy(theta))
    np.testing.assert_allclose(slope, -energy.value, rtol=1e-4)
    check(-slope, SOLVED.internal_energy(1.0), energy.stderr)
    assert len(jax.tree.leaves(jax.tree.map(jnp.asarray, three))) > 10
    inner = three.parts.estimates["ti"]
    assert tj.curve(inner, [0.5, 1.0]).log_z.value.shape == (2,)
    with pytest.raises(ValueError, match="log_partition"):
        tj.curve(three, 1.0)


def test_a_disagreement_is_stated(stubs):
    stubs(smc=Stub(0.0), ti=Stub(1.0), replica_exchange=Stub(0.0))
    est = tj.log_partition(SOLVED.system, AT, KEY, method="all")
    assert int(est.flags) == tj.Flag.RUNS_DISAGREE
    np.testing.assert_allclose(est.parts.z_scores["smc - ti"], -1 / np.hypot(0.1, 0.1), 1e-5)
    assert float(est.parts.z_scores["smc - replica_exchange"]) == 0
    # 1/3 of a nat off, with chi^2 / 2 = 33: the error bar knows
    np.testing.assert_allclose(est.value, 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(est.stderr, 0.1 / np.sqrt(3) * np.sqrt(200 / 6), rtol=1e-4)
    np.testing.assert_allclose(est.within_stderr, 0.1 / np.sqrt(3), rtol=1e-5)
    stubs(smc=Stub(0.0), ti=Stub(0.3), replica_exchange=Stub(0.0))
    assert tj.log_partition(SOLVED.system, AT, KEY, method="all").trusted


def test_weights_are_inverse_variances(stubs):
    stubs(smc=Stub(0.0, 0.1), ti=Stub(0.3, 0.2))
    est = tj.log_partition(SOLVED.system, AT, KEY, method=["smc", "ti"])
    np.testing.assert_allclose(est.value, 0.06, rtol=1e-5)
    assert float(est.n_eff) == 200


def test_an_untrusted_route_has_no_say_but_two_have(stubs):
    lost = int(tj.Flag.NOT_MIXED)
    found = stubs(smc=Stub(5.0, 0.01, lost))
    found["ti"].answer = found["ti"].answer._replace(value=jnp.asarray(0.2))
    est = tj.log_partition(SOLVED.system, AT, KEY, method="all")
    assert est.trusted
    assert not est.parts.used["smc"]
    np.testing.assert_allclose(est.value, 0.1, rtol=1e-5)
    assert est.parts.samples is found["ti"].answer.parts.samples
    stubs(smc=Stub(0.0, 0.1, lost), ti=Stub(0.0, 0.1, int(tj.Flag.LOW_ESS)))
    est = tj.log_partition(SOLVED.system, AT, KEY, method="all")
    assert int(est.flags) == lost | tj.Flag.LOW_ESS
    assert all(est.parts.used.values())


def test_a_route_that_refused_spoils_no_value(stubs):
    gone = Stub(np.nan, np.inf, int(tj.Flag.POOR_OVERLAP))
    stubs(smc=Stub(1.0), ti=gone)
    est = tj.log_partition(SOLVED.system, AT, KEY, method=["smc", "ti"])
    assert float(est.value) == 1
    assert not est.trusted
    stubs(smc=gone, ti=gone)
    est = tj.log_partition(SOLVED.system, AT, KEY, method=["smc", "ti"])
    assert np.isnan(est.value)
    assert np.isinf(est.stderr)
    assert int(est.flags) == tj.Flag.POOR_OVERLAP


def test_answers_without_error_are_compared_to_rounding(stubs):
    stubs(smc=Stub(1.0, 0.0), ti=Stub(1.0 + 2e-5, 0.0))
    assert tj.log_partition(SOLVED.system, AT, KEY, method=["smc", "ti"]).trusted
    stubs(smc=Stub(1.0, 0.0), ti=Stub(1.001, 0.0))
    assert not tj.log_partition(SOLVED.system, AT, KEY, method=["smc", "ti"]).trusted


def test_options_reach_the_routes_that_can_use_them(stubs):
    found = stubs()
    mesh = jax.make_mesh((1,), ("ensemble",))
    tj.log_partition(SOLVED.system, AT, KEY, method="all", mesh=mesh, progress=print)
    options = {name: found[name].calls[0][3] for name in THREE}
    assert [options[name]["mesh"] is mesh for name in THREE] == [True, True, False]
    assert [options[name]["progress"] is print for name in THREE] == [True, True, True]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(1e-3, 10)), min_size=1, max_size=5))
def test_the_weighted_mean_lies_between_and_is_never_too_sure(pairs):
    values, errors = map(list, zip(*pairs, strict=True))
    mean, stderr, within = routes._weighted(values, errors)
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
    assert stderr >= within * (1 - 1e-12)
    assert within <= min(errors) * (1 + 1e-12)
    turned = routes._weighted(values[::-1], errors[::-1])
    np.testing.assert_allclose(turned, (mean, stderr, within), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------- every route


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(routes.METHODS))
def test_parts_of_every_route_serve_derivatives(name):
    sys = SOLVED.system
    est = tj.log_partition(sys, AT, KEY, method=TINY[name]).require_trusted()
    check(est.value, SOLVED.log_partition(1.0), est.stderr)
    f = tj.differentiable_log_z(est, sys)
    np.testing.assert_allclose(f(AT), est.value, atol=1e-5)
    weights = jax.nn.softmax(est.parts.log_weights)
    assert weights.shape == jax.tree.leaves(est.parts.samples)[0].shape[:1]
    n_eff = min(float(1 / jnp.sum(weights**2)), float(est.n_eff))
    spread = np.sqrt(SOLVED.heat_capacity(1.0))
    slope = -jax.grad(f)(AT).beta
    check(slope, SOLVED.internal_energy(1.0), spread / np.sqrt(n_eff))
    caught(slope / 2, SOLVED.internal_energy(1.0), spread / np.sqrt(n_eff))
    # -d<U>/dbeta, to one part in sqrt(n_eff / 2) for nearly Gaussian samples
    bend = float(jax.grad(lambda b: jax.grad(f)(tj.Point(b)).beta)(1.0))
    assert abs(bend / spread**2 - 1) < 5 * np.sqrt(6 / n_eff)
    assert est.parts.runs_log_z.ndim == 1
    assert est.parts.n_gradients > 0


REPLICATED = [
    ("ais", "T2"),
    ("ais", "T16"),
    ("ti", "T2"),
    ("ti", "T14 cold"),
    ("replica_exchange", "T11"),
    ("einstein_crystal", "T11"),
    ("einstein_crystal", "T13"),
    ("flat_histogram", "T11"),
]


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "row"), REPLICATED, ids=[" ".join(p) for p in REPLICATED])
def test_two_hundred_error_bars(name, row):
    """SMC's are in `test_partition`, the bridge's in `test_bridge`."""
    build, beta, expected = ROWS[row][:3]
    solved = build()
    one = lambda i: tj.log_partition(
        solved.system, tj.Point(beta), jax.random.key(1000 + i), method=TINY[name]
    )
    found = [one(i) for i in range(200)]
    off = np.asarray([est.value for est in found], np.float64) - expected
    error = np.asarray([est.stderr for est in found], np.float64)

    def honest(off, error):
        z = off / error
        inside = 0.584 <= np.mean(np.abs(z) < 1) <= 0.781
        within_two = 0.910 <= np.mean(np.abs(z) < 2) <= 0.998
        return inside and within_two and 0.7 < np.std(z) < 1.5

    assert honest(off, error), (np.std(off / error), np.mean(off / error))
    assert not honest(off, 0.5 * error)
    assert not honest(off, 2 * error)
    # so small runs of AIS often doubt themselves
    assert np.mean([bool(est.trusted) for est in found]) > 0.5
