"""lambda_eff over a ladder, its limit, and WBIC, against exact systems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax.estimators.estimate import Estimate, Flag
from thermojax.llc_curve import _by_mbar, _fit, llc_curve, wbic
from thermojax.llc_reading import LlcParts

KEY = jax.random.key(3)
LADDER = np.geomspace(10.0, 3000.0, 6)
MORE = {"n_chains": 16, "n_steps": 2000, "burn_in": 1000, "polish": 0, "keep_prior": True}


def leapfrog(sys):
    return tj.hmc(sys, n_inner=8, jitter=0.95)


@pytest.fixture(scope="module")
def crossing():
    exact = tj.exact.normal_crossing()
    out = llc_curve(exact.system, jnp.zeros(2), KEY, LADDER, kernel=leapfrog, **MORE)
    return exact, out


def test_curve_of_a_crossing_is_exact_at_every_rung(crossing):
    exact, out = crossing
    truth = LADDER * exact.internal_energy(LADDER)
    np.testing.assert_allclose(out.t, LADDER)  # no examples: n = 1
    check(out.coefficient.value, truth, out.coefficient.stderr, limit=4.0)
    caught(out.coefficient.value, np.full(6, 0.5), out.coefficient.stderr)
    assert not np.any(np.asarray(out.coefficient.flags))
    assert np.all(np.asarray(out.coefficient.stderr) < 0.02)
    single = np.array([float(r.value) for r in out.rungs])
    error = np.array([float(r.stderr) for r in out.rungs])
    check(single, truth, error, limit=4.0)


def exact_fit(t, value, error):
    design = np.stack([np.ones(len(t)), -1 / np.log(t)], axis=1) / error[:, None]
    return np.linalg.lstsq(design, value / error, rcond=None)[0]


def test_its_fit_is_that_of_the_exact_curve(crossing):
    """Over these rungs it must fall short of lambda = 1/2, m = 2; over colder ones less."""
    exact, out = crossing
    truth = LADDER * exact.internal_energy(LADDER)
    limit, slope = exact_fit(LADDER, truth, np.asarray(out.coefficient.stderr))
    check(out.limit.value, limit, out.limit.stderr, limit=4.0)
    check(out.multiplicity.value, 1 + slope, out.multiplicity.stderr, limit=4.0)
    assert 0.42 < limit < 0.48
    assert out.limit.stderr < 0.03
    assert out.misfit < 5
    # what is left falls off as 1/log t: colder rungs come closer, and no rung arrives
    cold = np.geomspace(1e8, 1e14, 6)
    nearer, bend = exact_fit(cold, cold * exact.internal_energy(cold), np.ones(6))
    assert 0.5 - nearer < 0.2 * (0.5 - limit)
    assert 1 - bend < 0.4 * (1 - slope)


def test_the_fit_is_exact_on_exact_numbers():
    t = np.geomspace(20.0, 1e6, 7)
    value = 1.5 - 2 / np.log(t)
    leave = np.stack([value + shift for shift in (-0.01, 0.0, 0.01, 0.0)])
    flags = np.zeros(7, np.uint32)
    flags[2] = int(Flag.LOW_ESS)
    (limit, m), misfit = _fit(t, value, leave, np.full(7, 0.1), flags, 10.0)
    assert float(limit.value) == pytest.approx(1.5)
    assert float(m.value) == pytest.approx(3.0)
    assert misfit == pytest.approx(0.0, abs=1e-9)
    assert int(limit.flags) == Flag.LOW_ESS
    (limit, _), _ = _fit(t, value, leave, np.full(7, 0.1), flags, 1e5)
    assert np.isnan(limit.value)
    assert int(limit.flags) & Flag.NONFINITE


def _rung(beta, excess):
    """A stand-in of an estimate with trace [kept, R]."""
    blank = dict.fromkeys(LlcParts._fields, 0.0)
    parts = LlcParts(**blank | {"trace": beta * excess})
    return Estimate(0.0, 0.0, 0.0, 0.0, np.uint32(0), parts)


def test_rungs_without_overlap_give_no_number():
    rng = np.random.default_rng(0)
    beta = np.array([1.0, 1e9])
    rungs = [_rung(b, rng.gamma(5.0, 1 / b, size=(100, 4))) for b in beta]
    value, _, flags, _ = _by_mbar(beta, rungs)
    assert np.all(np.isnan(value))
    assert np.all(flags & np.uint32(Flag.POOR_OVERLAP))
    beta = np.array([1.0, 1.5])
    rungs = [_rung(b, rng.gamma(5.0, 1 / b, size=(2000, 4))) for b in beta]
    value, leave, flags, _ = _by_mbar(beta, rungs)
    np.testing.assert_allclose(value, 5.0, rtol=0.05)
    assert leave.shape == (4, 2)
    assert not np.any(flags)


def test_independent_rungs_agree_with_the_formula():
    from thermojax.exact.learning_coefficients import regular_coefficient

    curves = np.array([0.5, 5.0])
    sys = tj.finite_sum(
        lambda theta, c, row: 0.5 * jnp.sum(row * theta**2),
        jnp.tile(jnp.asarray(curves) / 8, (8, 1)),
        like=jnp.zeros(2),
    )
    betas = [4.0, 8.0, 16.0]
    more = {"n_chains": 8, "n_steps": 2000, "polish": 0}
    out = llc_curve(sys, jnp.zeros(2), KEY, betas, method="independent", **more)
    truth = [regular_coefficient(b * curves, gamma=1.0) for b in betas]
    check(out.coefficient.value, truth, out.coefficient.stderr, limit=4.0)
    np.testing.assert_allclose(out.t, np.multiply(8, betas))


def test_wbic_of_a_linear_regression():
    exact = tj.exact.linear_regression()
    n = len(exact.system.data[0])
    sys = exact.system
    like = jnp.zeros(sys.template.size)
    est = wbic(sys, like, KEY, n_steps=4000, n_chains=16)
    check(est.value, exact.internal_energy(1 / np.log(n)), est.stderr, limit=4.0)
    caught(est.value, exact.internal_energy(1.0), est.stderr)
    assert "NOT_A_MINIMUM" not in {f.name for f in Flag if int(est.flags) & f}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"betas": [2.0, 1.0]}, "increase"),
        ({"method": "magic"}, "magic"),
        ({"n_chains": 1}, "n_chains=1"),
    ],
)
def test_bad_requests(change, said):
    sys = tj.exact.normal_crossing().system
    with pytest.raises(ValueError, match=said):
        llc_curve(sys, jnp.zeros(2), KEY, **{"betas": [1.0, 2.0]} | change)


def test_minibatches_and_missing_priors_are_refused():
    sys = tj.finite_sum(lambda x, c, y: (x - y) ** 2, jnp.arange(8.0), like=0.0)
    noisy = lambda s: tj.sgld(s, tj.minibatch(2))
    with pytest.raises(ValueError, match="independent"):
        llc_curve(sys, jnp.zeros(()), KEY, [1.0, 2.0], kernel=noisy)
    with pytest.raises(ValueError, match="prior"):
        wbic(sys, jnp.zeros(()), KEY)
