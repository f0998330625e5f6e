"""Curves over beta: identities, limits, error bars, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax import exact
from thermojax.estimators.estimate import Flag
from thermojax.thermodynamics import Curve

BETAS = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 4.0])


@functools.cache
def solved():
    """T14 at beta = 4."""
    system = exact.tanh_network()
    est = tj.log_partition(
        system.system, tj.Point(4.0), jax.random.key(3), method=tj.SMC(n=512, max_rungs=40)
    )
    return system, est.require_trusted()


def test_the_whole_curve_from_one_run():
    system, est = solved()
    tab = tj.curve(est, BETAS)
    on = BETAS > 0
    check(tab.log_z.value[on], system.log_partition(BETAS[on]), tab.log_z.stderr[on])
    for name in ("internal_energy", "entropy", "heat_capacity"):
        read = getattr(tab, name)
        check(read.value[on], getattr(system, name)(BETAS[on]), read.stderr[on])
    # power: temperature 5 % off in U, Z off by a factor of two
    wrong = tab.log_z.value[on] + np.log(2)
    caught(wrong, system.log_partition(BETAS[on]), tab.log_z.stderr[on])
    caught(
        tab.internal_energy.value[on],
        2 * system.internal_energy(2 * BETAS[on]),
        tab.internal_energy.stderr[on],
    )
    assert not np.any(tab.log_z.flags)


def test_identities():
    _, est = solved()
    tab = tj.curve(est, BETAS)
    on = BETAS > 0
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(tab.free_energy.value[on], -tab.log_z.value[on] / BETAS[on])
    close(tab.entropy.value, BETAS * tab.internal_energy.value + tab.log_z.value)
    free = tab.internal_energy.value - tab.entropy.value / np.where(on, BETAS, 1)
    close(tab.free_energy.value[on], free[on])
    assert np.all(tab.heat_capacity.value >= 0)
    # U and C are the derivatives of the very same log Z
    fine = np.linspace(0.9, 1.1, 21)
    near = tj.curve(est, fine)
    slope = np.polynomial.Polynomial.fit(fine, np.asarray(near.log_z.value, float), 4)
    assert -slope.deriv()(1.0) == pytest.approx(float(near.internal_energy.value[10]), rel=5e-3)
    assert slope.deriv(2)(1.0) == pytest.approx(float(near.heat_capacity.value[10]), rel=0.05)


def test_entropy_starts_at_zero_and_falls():
    _, est = solved()
    tab = tj.curve(est, np.linspace(0.0, 4.0, 41))
    for read in (tab.log_z, tab.entropy):
        check(read.value[0], 0, read.stderr[0])
        assert abs(read.value[0]) < 2e-3
    assert tab.heat_capacity.value[0] == 0
    assert np.all(np.diff(tab.entropy.value) < 0)
    assert np.all(np.diff(tab.internal_energy.value) < 0)
    assert tab.free_energy.value[0] == -np.inf


def test_single_quantities():
    _, est = solved()
    tab = tj.curve(est, [1.0, 4.0])
    for name in ("free_energy", "entropy", "internal_energy", "heat_capacity"):
        function = getattr(tj, name)
        whole = getattr(tab, name)
        assert function(est).value.shape == ()
        np.testing.assert_allclose(function(est).value, whole.value[1], rtol=1e-5)
        np.testing.assert_allclose(function(est, 1.0).value, whole.value[0], rtol=1e-5)
        assert function(est, [1.0, 4.0]).value.shape == (2,)


def test_beyond_the_samples_the_curve_says_so():
    _, est = solved()
    tab = tj.curve(est, [4.0, 4000.0])
    flags = np.asarray(tab.log_z.flags)
    assert flags[0] == 0
    assert flags[1] & Flag.LOW_ESS


def test_flags_of_the_estimate_are_inherited():
    _, est = solved()
    marked = est._replace(flags=jnp.uint32(Flag.SHADOW))
    assert np.all(np.asarray(tj.curve(marked, [1.0]).entropy.flags) & Flag.SHADOW)


def test_infinite_prior_energy_is_flagged_not_hidden():
    _, est = solved()
    trace = est.parts.trace
    lost = est._replace(
        parts=est.parts._replace(trace=trace._replace(log_z=trace.log_z * jnp.nan))
    )
    tab = tj.curve(lost, [1.0])
    assert np.all(np.asarray(tab.log_z.flags) & Flag.NONFINITE)


def test_shape_jit_and_fields():
    _, est = solved()
    tab = tj.curve(est, BETAS)
    assert isinstance(tab, Curve)
    for name in Curve._fields[1:]:
        assert getattr(tab, name).value.shape == BETAS.shape
        assert getattr(tab, name).flags.dtype == jnp.uint32
    inside = jax.jit(lambda e, b: tj.curve(e, b).entropy.value)(est, BETAS)
    np.testing.assert_allclose(inside, tab.entropy.value, rtol=1e-5, atol=1e-6)


def test_refusals():
    _, est = solved()
    with pytest.raises(ValueError, match=r"betas=\[ 1\. -2\.\] must be >= 0"):
        tj.curve(est, [1.0, -2.0])
    with pytest.raises(ValueError, match="log_partition"):
        tj.curve(tj.bar(jnp.ones(3), -jnp.ones(3)), 1.0)
