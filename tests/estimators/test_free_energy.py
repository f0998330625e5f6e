"""Bennett's ratio, thermodynamic integration, log mean weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scores import EXACT, caught, check
from thermojax.estimators.estimate import Flag
from thermojax.estimators.free_energy import (
    bar,
    log_mean_exp_weights,
    thermodynamic_integration,
)

BANDS = ((1, 0.584, 0.781), (2, 0.910, 0.998))
"""Where the fractions of |z| below 1 and 2 must lie over 200 replicates."""


def gaussian_work(key, delta=0.7, sd=1.5, n_f=400, n_r=300, shape=()):
    """Crooks pair: w_f ~ N(D + s^2/2, s^2), w_r ~ N(-D + s^2/2, s^2)."""
    first, second = jax.random.split(key)
    w_f = delta + sd**2 / 2 + sd * jax.random.normal(first, (*shape, n_f))
    w_r = -delta + sd**2 / 2 + sd * jax.random.normal(second, (*shape, n_r))
    return w_f, w_r


def within_bands(z):
    z = np.abs(np.asarray(z))
    return all(low <= np.mean(z < k) <= high for k, low, high in BANDS)


@pytest.mark.parametrize(("n_f", "n_r"), [(400, 400), (900, 150)])
def test_bar_is_right_and_so_is_its_error(n_f, n_r):
    w_f, w_r = gaussian_work(jax.random.key(1), n_f=n_f, n_r=n_r, shape=(200,))
    est = jax.jit(jax.vmap(bar))(w_f, w_r)
    assert not np.any(est.flags)
    check(est.value, 0.7)
    z = (est.value - 0.7) / est.stderr
    assert within_bands(z)
    # power: M = ln(n_f/n_r) of the wrong sign, errors 1.7 times too small, a work 5 % off
    assert not within_bands(1.7 * z)
    caught(jax.vmap(bar)(1.05 * w_f, w_r).value, 0.7)
    if n_f != n_r:
        caught(np.asarray(est.value) + 0.1 * np.log(n_f / n_r), 0.7)


def test_bar_antisymmetry_and_shift(x64):
    w_f, w_r = gaussian_work(jax.random.key(2))
    forward, backward = bar(w_f, w_r), bar(w_r, w_f)
    np.testing.assert_allclose(forward.value, -backward.value, rtol=EXACT)
    np.testing.assert_allclose(forward.stderr, backward.stderr, rtol=EXACT)
    shifted = bar(w_f + 3.5, w_r - 3.5)
    np.testing.assert_allclose(shifted.value, forward.value + 3.5, rtol=EXACT)


def test_bar_solves_its_equation(x64):
    w_f, w_r = map(np.asarray, gaussian_work(jax.random.key(3)))
    d = float(bar(w_f, w_r).value)
    ratio = np.log(len(w_f) / len(w_r))
    fermi = lambda x: 1 / (1 + np.exp(x))
    forward, backward = fermi(ratio + w_f - d).sum(), fermi(-ratio + w_r + d).sum()
    np.testing.assert_allclose(forward, backward, rtol=EXACT)


def test_bar_error_formula(x64):
    """Variance 1/G - 1/n_f - 1/n_r with G summed over the pooled samples."""
    w_f, w_r = map(np.asarray, gaussian_work(jax.random.key(4)))
    est = bar(w_f, w_r)
    n_f, n_r = len(w_f), len(w_r)
    pooled = np.concatenate([w_f, -w_r]) - float(est.value)
    p0, p1 = 1.0, np.exp(-pooled)
    g = np.sum(n_f * p0 * n_r * p1 / (n_f * p0 + n_r * p1) ** 2)
    np.testing.assert_allclose(est.stderr**2, 1 / g - 1 / n_f - 1 / n_r, rtol=EXACT)


def test_bar_masks_drop_entries():
    w_f, w_r = gaussian_work(jax.random.key(5), n_f=60, n_r=40)
    on_f, on_r = jnp.arange(60) < 45, jnp.arange(40) % 2 == 0
    junk_f, junk_r = jnp.where(on_f, w_f, jnp.inf), jnp.where(on_r, w_r, jnp.nan)
    masked = bar(junk_f, junk_r, mask_f=on_f, mask_r=on_r)
    alone = bar(w_f[:45], w_r[::2])
    for name in ("value", "stderr", "n_eff"):
        np.testing.assert_allclose(getattr(masked, name), getattr(alone, name), rtol=2e-5)
    assert int(masked.flags) == int(alone.flags) == 0


def test_bar_without_overlap_has_no_answer():
    w_f, w_r = gaussian_work(jax.random.key(6), sd=0.1)
    est = jax.jit(bar)(w_f + 300.0, w_r + 300.0)
    assert np.isnan(est.value)
    assert np.isinf(est.stderr)
    assert int(est.flags) == Flag.POOR_OVERLAP | Flag.NONFINITE


def test_bar_with_little_overlap_is_flagged():
    poor = bar(*gaussian_work(jax.random.key(7), sd=5.0, n_f=4000, n_r=4000))
    assert int(poor.flags) == Flag.POOR_OVERLAP
    assert np.isfinite(poor.value)
    assert int(bar(*gaussian_work(jax.random.key(7), sd=1.0)).flags) == 0


@pytest.mark.parametrize("far", [1e3, 1e8, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_bar_is_not_led_astray_by_outliers(far, sign):
    """One work beyond all others is one Fermi function of 0 or 1; float32."""
    w_f, w_r = gaussian_work(jax.random.key(8))
    est = bar(w_f.at[0].set(sign * far), w_r)
    near = bar(w_f.at[0].set(sign * 40.0), w_r)
    np.testing.assert_allclose(est.value, near.value, rtol=2e-6)
    np.testing.assert_allclose(est.stderr, near.stderr, rtol=1e-5)
    assert int(est.flags) == 0
    assert abs(float(est.value - bar(w_f, w_r).value)) > 1e-4


def test_bar_far_from_zero_loses_no_digits_of_its_works():
    """float32, works at 1024 in steps that it can hold."""
    w = jnp.round(128 * jax.random.normal(jax.random.key(9), (2, 400))) / 128
    near, far = bar(w[0] + 0.5, w[1] + 0.5), bar(w[0] + 1024.5, w[1] - 1023.5)
    np.testing.assert_allclose(far.value - 1024, near.value, atol=1.3e-4)
    np.testing.assert_allclose(far.stderr, near.stderr, rtol=1e-3)


def test_bar_refuses_what_is_not_finite():
    w_f, w_r = gaussian_work(jax.random.key(10))
    for bad in (jnp.inf, -jnp.inf, jnp.nan):
        for est in (bar(w_f.at[3].set(bad), w_r), bar(w_f, w_r.at[3].set(bad))):
            assert int(est.flags) & Flag.NONFINITE
            assert np.isnan(est.value)
            assert np.isinf(est.stderr)
    none = bar(w_f, w_r, mask_f=np.zeros(400, bool))
    assert np.isnan(none.value)
    assert int(none.flags) & Flag.NONFINITE


def test_bar_can_be_differentiated(x64):
    w_f, w_r = gaussian_work(jax.random.key(11), n_f=40, n_r=30)
    change = jnp.sin(jnp.arange(40.0))
    on = jnp.arange(40) % 3 > 0
    value = lambda e: bar(w_f + e * change, w_r, mask_f=on).value
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    for found in (jax.grad(value)(0.0), jax.jvp(value, (0.0,), (1.0,))[1]):
        np.testing.assert_allclose(found, slope, rtol=1e-7)


def quartic(b):
    """log Z, <U> = -dlog Z/db and Var U of a log Z that is quartic in b."""
    c = np.array([0.3, -1.0, 2.0, -0.4, 0.2])
    log_z = np.polynomial.polynomial.polyval(b, c)
    first = np.polynomial.polynomial.polyval(b, np.polynomial.polynomial.polyder(c))
    second = np.polynomial.polynomial.polyval(b, np.polynomial.polynomial.polyder(c, 2))
    return log_z, -first, second


def test_hermite_rule_is_exact_for_quartics(x64):
    b = np.array([0.2, 1.7])
    log_z, mean, variance = quartic(b)
    hermite = thermodynamic_integration(b, mean, variance)
    np.testing.assert_allclose(hermite.value, log_z[1] - log_z[0], rtol=EXACT)
    # power: the variance term with the wrong sign, or left out
    wrong = thermodynamic_integration(b, mean, -variance).value
    assert abs(wrong - (log_z[1] - log_z[0])) > 0.1
    plain = thermodynamic_integration(b, mean, rule="trapezoid").value
    assert abs(plain - (log_z[1] - log_z[0])) > 0.1
    assert hermite.parts["budget"] == pytest.approx(abs(hermite.value - plain) / 4)


@pytest.mark.parametrize(("rule", "order"), [("hermite", 4), ("trapezoid", 2)])
def test_order_of_convergence(x64, rule, order):
    """log Z = -log(1 + b)/2: a harmonic well under a normal prior."""
    errors = []
    for n in (8, 16, 32, 64):
        b = np.linspace(0.0, 3.0, n + 1)
        mean, variance = 0.5 / (1 + b), 0.5 / (1 + b) ** 2
        est = thermodynamic_integration(b, mean, variance, rule=rule)
        errors.append(abs(float(est.value) + 0.5 * np.log(4.0)))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert abs(slopes[-1] - order) < 0.15


def test_padding_contributes_nothing(x64):
    b = np.array([0.0, 0.4, 1.0])
    _, mean, variance = quartic(b)
    plain = thermodynamic_integration(b, mean, variance, 0.1 * np.ones(3))
    junk = np.array([7.0, -3.0])
    padded = thermodynamic_integration(
        np.r_[b, 1.0, 1.0], np.r_[mean, junk], np.r_[variance, junk], np.r_[0.1, 0.1, 0.1, 0, 0]
    )
    np.testing.assert_allclose(padded.value, plain.value, rtol=EXACT)
    np.testing.assert_allclose(padded.stderr, plain.stderr, rtol=EXACT)


def test_ti_error_bar(x64):
    """Independent nodes: weights of the trapezoid rule."""
    b, s = np.array([0.0, 0.4, 1.0]), np.array([0.1, 0.3, 0.2])
    est = thermodynamic_integration(b, np.zeros(3), stderr=s, rule="trapezoid")
    expected = np.sqrt(np.sum((np.array([0.2, 0.5, 0.3]) * s) ** 2))
    np.testing.assert_allclose(est.stderr, expected, rtol=EXACT)


def test_ti_verdict_and_refusals():
    b, m = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.5])
    clean = thermodynamic_integration(b, m, m)
    assert int(clean.flags) == 0
    broken = thermodynamic_integration(b, m.at[0].set(jnp.inf), m)
    assert int(broken.flags) == Flag.NONFINITE
    with pytest.raises(ValueError, match="needs var_energy"):
        thermodynamic_integration(b, m)
    with pytest.raises(ValueError, match="rule='simpson' is unknown"):
        thermodynamic_integration(b, m, m, rule="simpson")


def test_log_mean_exp_weights(x64):
    log_w = jnp.asarray([1000.0, 1001.0, -jnp.inf, 999.0])
    mean, ess = log_mean_exp_weights(log_w)
    w = np.exp(np.asarray(log_w) - 1000)
    np.testing.assert_allclose(mean, 1000 + np.log(w.mean()), rtol=EXACT)
    np.testing.assert_allclose(ess, w.sum() ** 2 / np.sum(w**2), rtol=EXACT)
