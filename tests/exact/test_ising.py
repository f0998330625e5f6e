"""Kaufman's formula against enumeration, its symmetries and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax import exact
from thermojax.exact.ising import _energies, _kaufman
from thermojax.exact.quadrature import combine

CRITICAL = np.log(1 + np.sqrt(2)) / 2


@pytest.mark.parametrize("sides", [(2, 2), (2, 3), (3, 3), (4, 4), (2, 7), (3, 5), (5, 3)])
def test_closed_form_is_enumeration(sides):
    energies = _energies(*sides, 1.0, 0.0)
    for k in (0.0, 1e-3, 0.2, CRITICAL, 1.3, 5.0, 40.0):
        expected = combine(-k * energies, energies)
        np.testing.assert_allclose(_kaufman(*sides, k), expected, rtol=1e-11, atol=1e-11)


def test_energies_are_those_of_the_system():
    solved = exact.ising((2, 3), 0.7, 0.2)
    bits = (np.arange(64)[:, None] >> np.arange(6)) & 1
    spins = jnp.asarray(2.0 * bits.reshape(64, 2, 3) - 1)
    energy = jax.vmap(solved.system.energy)(spins)
    np.testing.assert_allclose(energy, _energies(2, 3, 0.7, 0.2), rtol=1e-5, atol=1e-6)
    weight = np.exp(-1.1 * _energies(2, 3, 0.7, 0.2))
    assert solved.log_partition(1.1) == pytest.approx(np.log(weight.sum()), rel=1e-12)


@pytest.mark.parametrize("side", [3, 8, 16, 64, (64, 7)])
def test_limits_at_any_size(side):
    solved = exact.ising(side)
    n = solved.dim
    assert solved.log_partition(0.0) == pytest.approx(n * np.log(2), rel=1e-13)
    assert solved.internal_energy(0.0) == pytest.approx(0, abs=1e-15 * n)
    assert solved.heat_capacity(1e-6) == pytest.approx(2e-12 * n, rel=1e-3)
    for beta in (20.0, 400.0, 1e4):  # two ground states, no overflow
        assert solved.entropy(beta) == pytest.approx(np.log(2), abs=1e-13 * beta * n)
        assert solved.internal_energy(beta) == -2 * n


def test_the_rows_may_be_called_columns():
    a, b = exact.ising((6, 11)), exact.ising((11, 6))
    for beta in (0.1, CRITICAL, 0.9):
        np.testing.assert_allclose(a.moments(beta), b.moments(beta), rtol=1e-11)


def test_onsager_energy_at_criticality():
    """U/N -> -sqrt 2 with a finite-size correction that falls as 1/L."""
    off = [exact.ising(n).internal_energy(CRITICAL) / n**2 + np.sqrt(2) for n in (16, 32, 64)]
    assert off[0] / off[1] == pytest.approx(2, rel=0.02)
    assert off[1] / off[2] == pytest.approx(2, rel=0.01)


def test_coupling_scales_beta_and_its_sign_is_a_relabelling():
    one, two, minus = exact.ising(6), exact.ising(6, 2.5), exact.ising(6, -2.5)
    assert two.log_partition(0.2) == pytest.approx(one.log_partition(0.5), rel=1e-13)
    assert two.internal_energy(0.2) == pytest.approx(2.5 * one.internal_energy(0.5), rel=1e-12)
    np.testing.assert_allclose(two.moments(0.2), minus.moments(0.2), rtol=1e-13)
    assert exact.ising(5, 0.0).heat_capacity(3.0) == 0
    frustrated = exact.ising(3, -1.0)  # enumerated: a ring of three cannot alternate
    assert frustrated.internal_energy(50.0) > -2 * 9


def test_bad_input():
    with pytest.raises(ValueError, match="side must be whole and at least 2, got 1"):
        exact.ising(1)
    with pytest.raises(ValueError, match=r"got 4\.5"):
        exact.ising(4.5)
    with pytest.raises(ValueError, match=r"8 x 8 spins with coupling 1 and field 0\.5 have"):
        exact.ising(8, field=0.5)
    with pytest.raises(ValueError, match="enumeration covers 20 spins"):
        exact.ising(5, coupling=-1.0)
