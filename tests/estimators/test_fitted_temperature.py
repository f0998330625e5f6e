"""The fitted temperature against ensembles whose energies have a closed law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check

DEGREES = 6  # U of a well in d dimensions: Gamma(d/2, T)


def energies(seed, beta, shape):
    return jax.random.gamma(jax.random.key(seed), DEGREES / 2, shape) / beta


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.4])
def test_it_is_the_temperature(beta):
    est = tj.fit_temperature(energies(0, beta, (20_000,)), energies(1, 1.0, (20_000,)), 1.0)
    assert est.trusted
    assert float(est.stderr) < 0.05
    check(est.value, beta, est.stderr)
    check(est.parts["temperature"], 1 / beta, est.parts["temperature_stderr"])
    caught(est.value, 1.1 * beta, est.stderr, limit=3.0)


def test_energies_in_any_unit():
    """1e6 nats of offset and a small unit change nothing."""
    cold, warm = energies(0, 1.5, (4000,)), energies(1, 1.0, (4000,))
    plain = tj.fit_temperature(cold, warm, 1.0)
    scaled = tj.fit_temperature(1e-3 * cold + 2.0, 1e-3 * warm + 2.0, 1e3)
    np.testing.assert_allclose(scaled.value, 1e3 * plain.value, rtol=1e-3)
    np.testing.assert_allclose(scaled.stderr, 1e3 * plain.stderr, rtol=1e-2)


def test_error_bars_cover_correlated_walkers():
    """Each walker repeats its energy eight times: the bar must not shrink by root eight."""

    def one(key):
        cold, warm = jax.random.split(key)
        shape = (300, 1)
        a = jax.random.gamma(cold, DEGREES / 2, shape) / 1.4
        b = jax.random.gamma(warm, DEGREES / 2, shape)
        return tj.fit_temperature(jnp.tile(a, (1, 8)), jnp.tile(b, (1, 8)), 1.0)

    est = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 300))
    z = np.abs((est.value - 1.4) / est.stderr)
    assert 0.60 <= np.mean(z < 1) <= 0.76
    assert 0.92 <= np.mean(z < 2) <= 0.985
    assert np.mean(np.sqrt(8) * z < 1) < 0.5  # power: times counted as walkers


def test_no_single_temperature():
    """Two halves at different temperatures are no canonical ensemble."""
    half = (10_000,)
    mixed = jnp.concatenate([energies(0, 0.5, half), energies(2, 3.0, half)])
    est = tj.fit_temperature(mixed, energies(1, 1.0, (20_000,)), 1.0)
    assert int(est.flags) & tj.Flag.TEMPERATURE_MISMATCH


def test_samples_that_do_not_overlap():
    est = tj.fit_temperature(jnp.linspace(0, 1, 50), jnp.linspace(2, 3, 50), 1.0)
    assert int(est.flags) & tj.Flag.POOR_OVERLAP
    assert np.isnan(est.value)
    # a few members in between would make a finite answer, which is still a guess
    few = tj.fit_temperature(jnp.linspace(0, 2.05, 50), jnp.linspace(2, 4, 50), 1.0)
    assert int(few.flags) & tj.Flag.POOR_OVERLAP
    assert np.isnan(few.value)
    assert np.isinf(few.stderr)


def test_a_bath_is_fitted():
    """The optimiser's temperature, from the energies of its walkers alone."""
    sys = tj.system(lambda x: 0.5 * jnp.sum(x**2), like=jnp.zeros(DEGREES))
    ends = []
    for seed, beta in ((0, 2.0), (1, 1.0)):
        kernel, point = tj.mala(sys, step_size=0.3 / beta), tj.Point(beta)
        x = jax.random.normal(jax.random.key(seed), (4000, DEGREES)) / beta**0.5
        st = tj.init_ensemble(kernel, jax.random.key(seed), point, 4000, positions=x)
        st, _ = tj.run(kernel, jax.random.key(seed + 2), st, point, 20)
        ends.append(st.walkers.energy)
    est = tj.fit_temperature(*ends, 1.0)
    check(est.value, 2.0, est.stderr)


def test_mistakes_are_named():
    good = jnp.arange(4.0)
    with pytest.raises(ValueError, match=r"energies must be \[walkers\].* got shape \(1,\)"):
        tj.fit_temperature(good[:1], good, 1.0)
    with pytest.raises(ValueError, match="reference holds values that are not finite"):
        tj.fit_temperature(good, good.at[0].set(jnp.nan), 1.0)
