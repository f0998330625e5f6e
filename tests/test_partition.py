"""log Z with a verdict: error bars, identities, flags, derivatives, refusals."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax import exact

BANDS = ((1, 0.584, 0.781), (2, 0.910, 0.998))
"""Where the fractions of |z| below 1 and 2 must lie over 200 replicates."""
REPLICATES = 200
SMALL = tj.SMC(n=128, n_runs=4, max_rungs=40)
ROUNDING = 2e-4
"""Nats by which single-precision runs may differ that would agree in exact arithmetic."""


def energy(theta, control, data):
    """stiffness x^2 / 2 + offset, with a wall below."""
    offset, wall = data
    stiffness = control if jax.tree.leaves(control) else 1.0
    return jnp.where(theta < wall, jnp.inf, 0.5 * stiffness * theta**2 + offset)


def well(offset=0.0, wall=-jnp.inf):
    base = tj.system(
        energy, prior=tj.gaussian_prior(1.0), like=0.0, data=(jnp.zeros(()), jnp.zeros(()))
    )
    return base.replace(data=(jnp.asarray(offset, float), jnp.asarray(wall, float)))


def solve(sys, beta=1.0, control=1.0, seed=0, method=SMALL, **options):
    point = tj.Point(beta, jnp.asarray(control, float))
    return tj.log_partition(sys, point, jax.random.key(seed), method=method, **options)


def log_z_of_well(beta, stiffness):
    return -0.5 * np.log1p(beta * stiffness)


# ---------------------------------------------------------------------- error bars


def fractions(value, exact_value, stderr):
    z = np.abs((np.asarray(value, np.float64) - exact_value) / np.asarray(stderr, np.float64))
    return [float(np.mean(z < k)) for k, _, _ in BANDS]


def covers(value, exact_value, stderr):
    found = fractions(value, exact_value, stderr)
    return all(low <= f <= high for f, (_, low, high) in zip(found, BANDS, strict=True))


REPLICATED = {
    "double well": (exact.double_well, 4.0, 8),
    "regression": (exact.linear_regression, 1.0, 8),
    "network": (exact.tanh_network, 1.0, 8),
    "double well, four runs": (exact.double_well, 4.0, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLICATED)
def test_error_bars_cover(name):
    build, beta, runs = REPLICATED[name]
    solved, noisy = build(), name == "network"
    smc = tj.SMC(n=128, n_runs=runs, max_rungs=14)
    point = tj.Point(beta, jnp.asarray(solved.noise) if noisy else ())

    def one(key):
        est = tj.log_partition(solved.system, point, key, method=smc)
        tab = jax.tree.map(lambda x: x[0], tj.curve(est, beta))
        slope = jax.grad(tj.differentiable_log_z(est, solved.system))(point)
        return est._replace(parts=est.parts.runs_log_z), tab, slope

    keys = jax.random.split(jax.random.key(3), REPLICATES)
    est, tab, slope = jax.jit(jax.vmap(one))(keys)
    log_z = solved.log_partition(beta)
    assert covers(est.value, log_z, est.stderr), fractions(est.value, log_z, est.stderr)
    assert np.mean(est.flags != 0) < 0.05
    # power: Z off by a factor of two, error bars halved or doubled
    assert not covers(est.value + np.log(2), log_z, est.stderr)
    assert not covers(est.value, log_z, 0.5 * est.stderr)
    assert not covers(est.value, log_z, 2 * est.stderr)
    for quantity in ("internal_energy", "entropy", "heat_capacity"):
        read, truth = getattr(tab, quantity), getattr(solved, quantity)(beta)
        # these errors may be generous, never flattering
        one_sigma, two_sigma = fractions(read.value, truth, read.stderr)
        assert one_sigma > 0.584
        assert two_sigma > 0.91
        caught(np.asarray(read.value) * 1.05, truth)
    # Z itself is unbiased up to the adaptation of the ladder, of order 1/n
    ratio = np.exp(np.asarray(est.parts, np.float64).ravel() - log_z)
    bias = 4 / smc.n
    assert abs(ratio.mean() - 1) < bias + 5 * ratio.std() / np.sqrt(ratio.size)
    assert abs(2 * ratio.mean() - 1) > bias + 5 * ratio.std() / np.sqrt(ratio.size)
    if noisy:
        expected = 2 * beta * solved.internal_energy(beta) / solved.noise
        step = 1e-3
        by_difference = (
            solved.log_partition(beta, noise=solved.noise + step)
            - solved.log_partition(beta, noise=solved.noise - step)
        ) / (2 * step)
        assert by_difference == pytest.approx(expected, rel=1e-4)
        check(slope.control, expected)
        caught(1.05 * slope.control, expected)
        caught(slope.control / 2, expected)  # the noise entered once instead of squared


def test_half_of_the_prior_forbidden():
    """Likelihood zero on x < 0: E[Z] = 1/2, with no loss from the plateau."""
    sys = well(0.0, 0.0)
    point = tj.Point(1.0, jnp.zeros(()))

    def one(key):
        est = tj.log_partition(sys, point, key, method=SMALL)
        return est.value, est.flags

    values, flags = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), REPLICATES))
    check(np.exp(np.asarray(values, np.float64)), 0.5)
    caught(1.05 * np.exp(np.asarray(values, np.float64)), 0.5)
    assert np.mean(flags != 0) < 0.05


# ---------------------------------------------------------------------- identities


def test_no_energy_no_free_energy():
    est = solve(well(), control=0.0).require_trusted()
    assert abs(est.value) < 1e-6
    assert abs(solve(well(), beta=0.0).value) < 1e-6


@pytest.mark.slow
def test_no_energy_in_double_precision(x64):
    est = solve(well(), control=0.0)
    assert est.value.dtype == jnp.float64
    assert abs(est.value) < 1e-12
    # and a thermal run that must not depend on the precision, at energies of 1e5
    offset = 1e5
    check(solve(well(offset)).value + offset, log_z_of_well(1, 1), 0.05)


@pytest.mark.parametrize("offset", [1.0, -64.0])
def test_constant_shift(offset):
    """U -> U + c: log Z shifts by -beta c; samples, S and C stay."""
    beta = 2.0
    here, there = (solve(well(c), beta) for c in (0.0, offset))
    assert there.value - here.value == pytest.approx(-beta * offset, abs=10 * ROUNDING)
    same = np.isclose(here.parts.samples, there.parts.samples, atol=1e-2)
    assert np.mean(same) > 0.9  # a rounding may turn a rare acceptance
    one, two = tj.curve(here, beta), tj.curve(there, beta)
    for name in ("entropy", "heat_capacity"):
        first, second = getattr(one, name), getattr(two, name)
        assert abs(first.value[0] - second.value[0]) < 0.3 * first.stderr[0]


def test_scaling_of_theta():
    """theta -> 2 theta under Lebesgue measure: log Z + d log 2.

    The draws are the same but for single acceptances that rounding decides.
    """
    quartic = lambda theta, control, data: jnp.sum((theta / data) ** 4)
    wide = lambda a: tj.gaussian_prior(jnp.asarray(2.0 * a), like=jnp.zeros(2))
    values = []
    for a in (1.0, 2.0):
        sys = tj.system(quartic, reference=wide(a), data=jnp.asarray(a))
        values.append(solve(sys, 2.0, check=False).value)
    assert values[1] - values[0] == pytest.approx(2 * np.log(2), abs=0.1)
    check(values[0], exact.power(2, 4.0).log_partition(2.0), 0.05)


def test_independent_systems_add():
    solved = exact.product(exact.double_well(), exact.tanh_network())
    est = tj.log_partition(solved.system, tj.Point(1.0), jax.random.key(2))
    est.require_trusted()
    parts = exact.double_well(), exact.tanh_network()
    check(est.value, sum(p.log_partition(1.0) for p in parts), est.stderr)
    caught(est.value, parts[0].log_partition(1.0), est.stderr)
    tab = tj.curve(est, 1.0)
    for name in ("internal_energy", "entropy", "heat_capacity"):
        read = getattr(tab, name)
        check(read.value, sum(getattr(p, name)(1.0) for p in parts), read.stderr)


def test_asymmetric_tempering():
    """Cauchy(0, 1) prior and exp(-(x - 2)^2 / (2 0.5^2)), whose normaliser adds -0.2258."""
    prior = tj.prior(
        lambda x, control, params: -jnp.log(jnp.pi) - jnp.log1p(x**2),
        lambda key, control, params: jax.random.cauchy(key),
        like=0.0,
    )
    sys = tj.system(lambda x: 0.5 * ((x - 2) / 0.5) ** 2, prior=prior)
    est = tj.log_partition(sys, tj.Point(1.0), jax.random.key(4)).require_trusted()
    check(est.value, -2.414897, est.stderr)
    normaliser = np.log(0.5 * np.sqrt(2 * np.pi))
    check(est.value - normaliser, -2.640688, est.stderr)
    # power: the prior tempered as well, or the sign of an increment
    caught(est.value, 2.414897, est.stderr)
    caught(est.value, -2.640688, est.stderr)


# --------------------------------------------------------- jit, vmap, keys, devices


def equal(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in leaves)


def test_the_same_key_gives_the_same_bits():
    sys = well()
    first = solve(sys, 30.0)
    assert equal(first, solve(sys, 30.0))
    assert not equal(first.value, solve(sys, 30.0, seed=1).value)
    seen = []
    watched = solve(sys, 30.0, progress=lambda done, total: seen.append((done, total)))
    assert equal(first, watched)
    assert seen[-1] == (1000, 1000)
    assert seen == sorted(seen)


def test_a_kept_population_goes_on_bit_for_bit():
    class Store:
        kept = None
        saves = 0

        def load(self, like):
            return like if self.kept is None else self.kept

        def save(self, state):
            self.saves += 1
            if self.saves == 1:
                self.kept = state
            if self.saves == 2 and self.stop:
                raise KeyboardInterrupt

        stop = True

    sys, store = well(), Store()
    whole = solve(sys, 1e5)
    with pytest.raises(KeyboardInterrupt):
        solve(sys, 1e5, checkpoint=store)
    store.stop = False
    assert equal(whole, solve(sys, 1e5, checkpoint=store))


def test_jit_and_vmap_over_points():
    sys = well()
    betas = jnp.array([0.5, 1.0, 8.0])
    stiffness = jnp.array([1.0, 3.0, 2.0])
    run = lambda b, k: solve(sys, b, k, seed=6)
    est = jax.jit(jax.vmap(run))(betas, stiffness)
    assert est.value.shape == (3,)
    assert bool(jnp.all(est.trusted))
    expected = log_z_of_well(np.asarray(betas), np.asarray(stiffness))
    check(est.value, expected, est.stderr)
    caught(est.value + np.log(2), expected, est.stderr)
    single = [run(float(b), float(k)) for b, k in zip(betas, stiffness, strict=True)]
    gap = np.array([float(s.value) for s in single]) - np.asarray(est.value)
    assert np.all(np.abs(gap) < 5 * np.sqrt(2) * np.asarray(est.stderr))


def test_new_data_do_not_recompile():
    traces = []

    def counted(theta, control, example):
        traces.append(1)
        return 0.5 * (example - theta) ** 2

    def at(data, seed):
        sys = tj.finite_sum(counted, jnp.asarray(data), prior=tj.gaussian_prior(1.0), like=0.0)
        return tj.log_partition(sys, tj.Point(1.0), jax.random.key(seed), method=SMALL)

    first = at([0.1, 0.4, -0.2], 0)
    count = len(traces)
    assert count > 0
    second = at([1.0, 3.0, 2.0], 1)
    assert len(traces) == count
    for est, data in ((first, [0.1, 0.4, -0.2]), (second, [1.0, 3.0, 2.0])):
        y = np.array(data)
        evidence = -0.5 * np.log(4) - 0.5 * (y @ y - y.sum() ** 2 / 4)
        check(est.value, evidence, est.stderr)
    caught(first.value, float(second.value), first.stderr)


@pytest.mark.slow
def test_two_devices_give_the_same_populations():
    script = """
        import jax, jax.numpy as jnp, numpy as np
        import thermojax as tj
        assert len(jax.devices()) == 2
        sys = tj.system(lambda x: jnp.sum((x**2 - 1) ** 2),
                        prior=tj.gaussian_prior(1.0), like=jnp.zeros(2))
        smc = tj.SMC(n=64, n_runs=4, max_rungs=24)
        mesh = jax.make_mesh((2,), ("ensemble",), axis_types=(jax.sharding.AxisType.Auto,))
        go = lambda mesh: tj.log_partition(
            sys, tj.Point(4.0), jax.random.key(0), method=smc, mesh=mesh, check=False)
        here, there = go(None), go(mesh)
        same = lambda a, b: np.array_equal(a, b, equal_nan=True)
        for name in ("samples", "runs_log_z", "rungs", "trace"):
            a, b = getattr(here.parts, name), getattr(there.parts, name)
            assert all(map(same, jax.tree.leaves(a), jax.tree.leaves(b))), name
        assert abs(here.value - there.value) < 1e-6
        try:
            tj.log_partition(sys, tj.Point(4.0), jax.random.key(0),
                             method=tj.SMC(n_runs=5), mesh=mesh)
        except ValueError as error:
            assert "n_runs=5" in str(error)
        else:
            raise AssertionError("five runs on two devices were accepted")
        print("same")
    """
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env={"PATH": "/usr/bin:/bin", "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=tj.__path__[0] + "/..",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "same"


# ---------------------------------------------------------------------- verdicts


def names(est):
    return {reason.split(":")[0] for reason in est.reasons}


def test_a_clean_run_raises_nothing():
    assert names(solve(well(), 30.0)) == set()


def test_too_few_of_everything():
    stingy = tj.SMC(n=16, n_runs=2, max_rungs=2)
    est = solve(well(), 1000.0, method=stingy)
    assert {"FEW_RUNS", "LADDER_UNFINISHED", "LOW_ESS"} <= names(est)
    with pytest.raises(tj.UntrustedEstimate, match="raise max_rungs or lower target"):
        est.require_trusted()


def test_moves_that_do_not_move():
    frozen = tj.SMC(
        n=128,
        n_runs=4,
        moves=1,
        max_looks=1,
        max_rungs=40,
        kernel=lambda path: tj.hmc(path, step_size=1e-6, n_inner=1),
    )
    est = solve(well(), 1000.0, method=frozen)
    assert {"NOT_MIXED", "BAD_ACCEPTANCE", "FEW_ANCESTORS"} <= names(est)


def test_steps_too_long_for_the_overlap():
    hasty = tj.SMC(n=128, n_runs=4, target=0.01, max_rungs=40)
    # for U of one quadratic mode a long step overlaps; 40 modes make the work wide
    sys = tj.system(
        lambda x: 0.5 * jnp.sum(x**2), prior=tj.gaussian_prior(1.0), like=jnp.zeros(40)
    )
    assert "POOR_OVERLAP" in names(
        tj.log_partition(sys, tj.Point(200.0), jax.random.key(0), method=hasty)
    )


def test_two_far_narrow_basins():
    """A wide shallow and a narrow deep basin, far apart: runs differ in what they find."""

    def basins(x):
        wide = 0.5 * jnp.sum((x + 4) ** 2)
        narrow = 0.5 * jnp.sum(((x - 4) / 0.1) ** 2) - 12.0
        return -jnp.logaddexp(-wide, -narrow)

    sys = tj.system(basins, prior=tj.gaussian_prior(4.0), like=jnp.zeros(2))
    smc = tj.SMC(n=256, n_runs=4, max_rungs=80)
    est = tj.log_partition(sys, tj.Point(1.0), jax.random.key(1), method=smc)
    assert names(est) & {"RUNS_DISAGREE", "PHASE_COEXISTENCE"}
    assert not est.trusted


def test_nothing_finite():
    est = solve(well(0.0, jnp.inf))
    assert "NONFINITE" in names(est)
    assert not np.isfinite(est.value)


def test_energies_too_large_for_the_float():
    assert "FLOAT_RESOLUTION" in names(solve(well(1e6)))
    assert "FLOAT_RESOLUTION" not in names(solve(well(100.0)))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("point", "options", "message"),
    [
        (tj.Point(-0.5), {}, r"beta=-0\.5"),
        (tj.Point(jnp.nan), {}, r"beta=nan"),
        (tj.Point(jnp.ones(2)), {}, r"beta=\[1\. 1\.\] must be one number"),
        (tj.Point(1.0), {"method": "nested"}, "method='nested' is unknown"),
        (tj.Point(1.0), {"method": tj.SMC(n=100, tile=32)}, "n=100 .* tile=32"),
        (
            tj.Point(1.0),
            {"method": tj.SMC(kernel=lambda path: tj.langevin(path, "BAOAB"))},
            "BAOAB is unadjusted",
        ),
        (
            tj.Point(1.0),
            {"method": tj.SMC(kernel=lambda path: tj.overdamped(path, "em"))},
            "unadjusted",
        ),
    ],
)
def test_refused_with_the_value(point, options, message):
    with pytest.raises(ValueError, match=message):
        tj.log_partition(well(), point, jax.random.key(0), **options)


def test_improper_systems_name_the_leaf():
    like = {"bias": jnp.zeros(2), "weight": jnp.zeros(3)}
    flat = lambda theta: jnp.sum(jnp.tanh(theta["weight"]) ** 2) + jnp.sum(theta["bias"] ** 2)
    key = jax.random.key(0)
    with pytest.raises(tj.ImproperEnsembleError, match="gaussian_prior"):
        tj.log_partition(tj.system(flat), tj.Point(1.0), key)
    wide = tj.gaussian_prior(3.0, like=like)
    with pytest.raises(tj.ImproperEnsembleError, match=r"leaf \['weight'\]"):
        tj.log_partition(tj.system(flat), tj.Point(1.0), key, reference=wide)
    unknown = tj.prior(
        lambda x, control, params: jnp.zeros(()),
        lambda key, control, params: jnp.zeros(2),
        like=jnp.zeros(2),
        log_mass=None,
    )
    with pytest.raises(tj.ImproperEnsembleError, match="not normalisable"):
        tj.log_partition(tj.system(jnp.sum, prior=unknown), tj.Point(1.0), key)
    shapeless = tj.system(lambda x: x**2, prior=tj.gaussian_prior(1.0))
    with pytest.raises(ValueError, match="shape of theta is unknown"):
        tj.log_partition(shapeless, tj.Point(1.0), key)


def test_heavy_tails_are_refused_where_z_diverges():
    solved = exact.student()
    with pytest.raises(tj.ImproperEnsembleError, match=r"beta=0\.3"):
        tj.log_partition(solved.system, tj.Point(0.3), jax.random.key(0))


# ---------------------------------------------------------------------- derivatives


def test_derivatives_of_any_order():
    """log Z = -log(1 + beta k)/2 by beta and by the stiffness k, 40 replicates."""
    sys, beta, k = well(), 1.5, 2.0
    point = tj.Point(jnp.asarray(beta), jnp.asarray(k))

    def one(key):
        est = tj.log_partition(sys, point, key, method=tj.SMC(n=512, n_runs=4, max_rungs=24))
        f = tj.differentiable_log_z(est, sys)
        by_k = lambda x: f(tj.Point(point.beta, x))
        third = jax.grad(jax.grad(jax.grad(by_k)))(point.control)
        return f(point) - est.value, jax.grad(f)(point), jax.hessian(f)(point), third

    keys = jax.random.split(jax.random.key(8), 40)
    gap, slope, bend, third = jax.jit(jax.vmap(one))(keys)
    assert np.all(np.abs(gap) < ROUNDING / 100)  # exact where nothing is fused
    width = 1 + beta * k
    check(slope.beta, -k / (2 * width))
    check(slope.control, -beta / (2 * width))
    check(bend.beta.beta, k**2 / (2 * width**2))
    check(bend.control.control, beta**2 / (2 * width**2))
    mixed = -1 / (2 * width) + beta * k / (2 * width**2)
    check(bend.beta.control, mixed)
    check(bend.control.beta, mixed)
    check(third, -(beta**3) / width**3)
    # power: 5 % in the energy, a variance without its <d2u>, a missing factor of two
    caught(1.05 * np.asarray(slope.beta), -k / (2 * width))
    caught(2 * np.asarray(bend.control.control), beta**2 / (2 * width**2))
    caught(np.asarray(bend.beta.control) + 1 / (2 * width), mixed)
    caught(2 * np.asarray(third), -(beta**3) / width**3)


def test_forward_reverse_jit_vmap_and_batches():
    sys, point = well(), tj.Point(jnp.asarray(1.0), jnp.asarray(2.0))
    est = solve(sys, 1.0, 2.0)
    f = tj.differentiable_log_z(est, sys)
    assert f(point) == est.value
    reverse, forward = jax.grad(f)(point), jax.jacfwd(f)(point)
    np.testing.assert_allclose(reverse, forward, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(f))(point), reverse, rtol=1e-5)
    several = tj.Point(jnp.array([1.0, 1.1]), jnp.array([2.0, 1.9]))
    swept = jax.vmap(jax.grad(f))(several)
    np.testing.assert_allclose([x[0] for x in swept], reverse, rtol=1e-5)
    mean = float(tj.internal_energy(est).value)
    assert float(reverse.beta) == pytest.approx(-mean, abs=0.1)
    batched = tj.differentiable_log_z(est, sys, batch_size=100)
    np.testing.assert_allclose(jax.grad(batched)(point), reverse, rtol=1e-4)
    # a little way off it is reweighting
    near = f(tj.Point(1.1, 2.0)) - f(point)
    assert near == pytest.approx(log_z_of_well(1.1, 2.0) - log_z_of_well(1.0, 2.0), abs=0.01)


def test_gradient_by_data_and_prior_scale():
    """The system is a pytree: its data and its prior are controls as good as any."""
    y, size = jnp.array([0.5, -0.2, 1.0, 0.3]), 4

    def build(y, scale):
        fit = lambda theta, control, example: 0.5 * (example - theta) ** 2
        return tj.finite_sum(fit, y, prior=tj.gaussian_prior(scale, like=0.0))

    point = tj.Point(jnp.ones(()))
    method = tj.SMC(n=512, n_runs=8, max_rungs=24)
    est = tj.log_partition(build(y, 1.0), point, jax.random.key(0), method=method)
    f = lambda y, scale: tj.differentiable_log_z(est, build(y, scale))(point)
    by_data, by_scale = jax.grad(f, argnums=(0, 1))(y, 1.0)
    mean = y.sum() / (1 + size)
    stderr = np.sqrt(1 / (1 + size)) / np.sqrt(1000)
    check(by_data, mean - y, stderr)
    caught(by_data, y - mean, stderr)
    # d log Z / d scale = <theta^2> - 1 at scale 1
    check(by_scale, mean**2 + 1 / (1 + size) - 1, stderr)


def test_a_path_to_tails_that_no_gaussian_has():
    """d log Z / d lam has no end where V = u + log q has no mean at the target."""
    sys = tj.system(lambda x: jnp.log1p(x**2), reference=tj.gaussian_prior(2.0, like=0.0))
    run = lambda beta: solve(sys, beta, control=(), method=tj.SMC(n=256, n_runs=4))
    assert run(1.0).flags & tj.Flag.HEAVY_TAIL  # <x^2> is infinite
    light = run(6.0)
    assert not light.flags & tj.Flag.HEAVY_TAIL
    expected = np.log(63 * np.pi / 256)  # int (1 + x^2)^-6
    check(light.value, expected, light.stderr, 4.0)
