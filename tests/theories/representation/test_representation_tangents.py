"""Which way to go: tangents of the three processes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from representation_cases import bits, three_bits

from thermojax.theories.representation.quantities import Multipliers
from thermojax.theories.representation.tangents import (
    PROCESSES,
    constrained_rates,
    process_tangent,
)


@pytest.mark.parametrize(
    ("fixed", "tangent"),
    [
        ("classification", (0.671498900369, -0.741005551128)),
        ("distortion", (0.087219596219, -0.996189109575)),
        ("rate", (0.131548230113, -0.991309771542)),
    ],
)
def test_tangents_of_the_table(x64, fixed, tangent):
    chi = np.asarray([[0.386756622610, 0.033861800069], [0.033861800069, 0.030685548139]])
    found = process_tangent(chi, Multipliers(1.2, 0.8), fixed=fixed)
    np.testing.assert_allclose(found, tangent, atol=2e-10, rtol=0)


def test_a_labelled_bit_gives_a_straight_line(x64):
    model = bits((0.2, 0.3), (0.5, 0.1), (0.0, 0.1))  # no label depends on the first bit
    unit = process_tangent(model(Multipliers(1.0, 1.0))[2], Multipliers(1.0, 1.0))
    np.testing.assert_allclose(unit, [0.90080938445, -0.43421475434], atol=5e-12, rtol=0)
    for tau in ((0.3, 2.0), (2.0, 0.3), (3.0, 3.0)):
        tangent = process_tangent(model(Multipliers(*tau))[2], Multipliers(*tau))
        assert float(tangent[1] / tangent[0]) == pytest.approx(-0.482027343226, abs=1e-12)


def test_negative_cross_response_asks_for_more_gam():
    chi = jnp.array([[0.055927027033, -0.011371455808], [-0.011371455808, 0.008304768529]])
    tangent = process_tangent(chi, Multipliers(3.0, 3.0))
    assert tangent[0] > 0
    assert tangent[1] > 0


def test_zero_tangents_are_zero_in_every_mode():
    zero, here = jnp.zeros((2, 2)), Multipliers(jnp.array(1.0), jnp.array(2.0))
    for fixed in PROCESSES:
        one = jax.jit(functools.partial(process_tangent, fixed=fixed))
        assert one(zero, here).tolist() == [0.0, 0.0]
        assert process_tangent(zero, here, fixed=fixed, drift=0.0).tolist() == [0.0, 0.0]
        slope = jax.jacobian(one)(zero, here)
        assert bool(jnp.all(jnp.isfinite(slope)))
    assert process_tangent(jnp.eye(2), Multipliers(0.0, 0.0), fixed="rate").tolist() == [0, 0]
    tiny = process_tangent(1e-30 * jnp.array([[1.0, 3.0], [3.0, 4.0]]), here)
    np.testing.assert_allclose(tiny, [0.8, -0.6], rtol=1e-6)


def test_a_drift_without_grip_is_infinite():
    rate = process_tangent(jnp.diag(jnp.array([1.0, 0.0])), Multipliers(1.0, 1.0), drift=-0.5)
    assert rate[0] == 0
    assert not jnp.isfinite(rate[1])


def test_tangent_moves_gam_where_lam_stands_still():
    chi = jnp.array([[2.0, 0.0], [0.0, 3.0]])
    here = Multipliers(1.0, 1.0)
    assert process_tangent(chi, here, fixed="distortion").tolist() == [0.0, 1.0]
    assert process_tangent(chi, here, fixed="classification").tolist() == [1.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(
    factor=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    tau=st.tuples(st.floats(0.05, 4), st.floats(0.05, 4)),
)
def test_tangents_hold_what_they_name(factor, tau):
    with jax.enable_x64(True):
        root = np.reshape(factor, (2, 2))
        chi, here = root @ root.T + 1e-3 * np.eye(2), Multipliers(*map(np.float64, tau))
        moves = {
            "distortion": -chi[0],
            "classification": -chi[1],
            "rate": here.lam * chi[0] + here.gam * chi[1],
        }
        for fixed, slope in moves.items():
            tangent = np.asarray(process_tangent(chi, here, fixed=fixed))
            assert abs(np.linalg.norm(tangent) - 1) < 1e-12
            assert abs(slope @ tangent) < 1e-12 * (1 + np.linalg.norm(slope))
            assert tangent[0] > 0 or (tangent[0] == 0 and tangent[1] > 0)
            answer = np.asarray(process_tangent(chi, here, fixed=fixed, drift=0.7))
            if slope[1] != 0:
                assert answer[0] == 0
                assert abs(slope @ answer + 0.7) < 1e-9
        drift = np.array([0.3, -0.2])
        rates = constrained_rates(chi, here, drift, fixed=("rate", "classification"))
        both = np.stack([moves["rate"], moves["classification"]]) @ np.asarray(rates)
        np.testing.assert_allclose(both, -drift, atol=1e-6, rtol=0)


def test_tangent_in_a_program_over_a_grid(x64):
    lam, gam = jnp.array([0.3, 1.0, 2.0]), jnp.array([2.0, 0.5, 1.0])
    chi = jax.vmap(three_bits())(Multipliers(lam, gam))[2]
    for fixed in PROCESSES:
        one = functools.partial(process_tangent, fixed=fixed)
        grid = jax.jit(jax.vmap(one))(chi, Multipliers(lam, gam))
        loop = [one(chi[k], Multipliers(lam[k], gam[k])) for k in range(3)]
        np.testing.assert_allclose(grid, jnp.stack(loop), rtol=1e-14)
    single = process_tangent(
        chi[0].astype(jnp.float32), Multipliers(jnp.float32(1), jnp.float32(1))
    )
    assert single.dtype == jnp.float32
