"""Energy, heat and work along paths of temperature and trainables."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax import Flag
from thermojax.theories.learning_laws.ensemble import thermodynamic_state, total_free_energy
from thermojax.theories.learning_laws.first_law import first_law
from thermojax.theories.learning_laws.septuple import dense_network, layered_network

ONE = np.ones((1, 1))


def law_along(net, data, beta, params, **options):
    one = lambda q, b: (
        thermodynamic_state(net, q, data, b, **options),
        jax.grad(lambda q: total_free_energy(net, q, data, b, **options))(q),
    )
    states, forces = jax.vmap(one)(params, beta)
    return first_law(states, beta, params, forces)


def straight(steps, beta=(4.0, 4.4), last=(-0.6, -0.5)):
    """The path of E9: the temperature and the last weight of E2."""
    s = jnp.linspace(0.0, 1.0, steps + 1)
    line = lambda ends: ends[0] + (ends[1] - ends[0]) * s
    fixed = lambda value, *shape: jnp.full((steps + 1, *shape), value)
    params = [
        (fixed(0.8, 1, 1), fixed(0.1, 1)),
        (line(last)[:, None, None], fixed(0.2, 1)),
    ]
    return line(beta), params


def chain_law(*args, **kwargs):
    net = layered_network((1, 1, 1), "linear")
    data = {"x": 1.5 * ONE, "y": 0.3 * ONE}
    return jax.jit(lambda: law_along(net, data, *straight(*args, **kwargs)))()


def test_worked_path(x64):
    """E9, and a residual that falls by 4 when the path is refined by 2."""
    fine = chain_law(100)
    expected = {
        "delta_u": -0.0710695187,
        "heat": -0.0013076452,
        "work": -0.0697618532,
        "delta_entropy_ref": -0.0476550899,
        "delta_complexity": 0.1909941036,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(fine, name), value, atol=1e-9)
    for law, residual in (
        (fine, -2.02e-8),
        (chain_law(10), -2.02e-6),
        (chain_law(1), -2.02e-4),
    ):
        np.testing.assert_allclose(law.residual, residual, rtol=5e-3)
        np.testing.assert_allclose(law.residual, law.delta_u - law.heat - law.work, atol=1e-15)
        assert law.flags == 0
    np.testing.assert_allclose(chain_law(10).residual / chain_law(20).residual, 4, rtol=1e-3)


def test_both_readings_are_residuals(x64):
    law = chain_law(100)
    t = np.asarray(1 / straight(100)[0])
    # one free neuron: dS_ref = d(log(2 pi T) / 2)
    paid = np.sum(0.5 * (t[1:] + t[:-1]) * 0.5 * np.diff(np.log(t)))
    np.testing.assert_allclose(law.residual_th, law.delta_u - paid, atol=1e-12)
    reference = 0.5 * (t[-1] - t[0])
    np.testing.assert_allclose(law.residual_th, law.delta_u - reference, atol=1e-6)
    # T dC lies between the two end temperatures times delta C
    paid = (law.residual_th - law.residual_sum) / law.delta_complexity
    assert t[-1] < paid < t[0]


def test_heating_alone_does_no_work(x64):
    law = chain_law(20, last=(-0.6, -0.6))
    assert law.work == 0
    np.testing.assert_allclose(law.heat, law.delta_u, rtol=1e-4)
    # fitted or not, U - U_ref of a linear chain is constant in beta
    np.testing.assert_allclose(law.residual_th, 0, atol=1e-6)
    assert abs(law.delta_u) > 1e-3


def test_a_path_of_constant_entropy_takes_no_heat(x64):
    """The entropy of a linear chain depends on the last weight alone: move its bias."""
    net = layered_network((1, 1, 1), "linear")
    beta, params = straight(10, beta=(4.0, 4.0), last=(-0.6, -0.6))
    (first, second) = params
    params = [first, (second[0], second[1] - jnp.linspace(0, 1, 11)[:, None])]
    law = law_along(net, {"x": 1.5 * ONE, "y": 0.3 * ONE}, beta, params)
    np.testing.assert_allclose(law.heat, 0, atol=1e-14)
    # the energy is quadratic in the bias, so that the trapezoid is exact
    np.testing.assert_allclose(law.work, law.delta_u, rtol=1e-12)
    assert law.delta_u > 0.1


def test_an_inert_parameter_and_the_first_reading(x64):
    """E4 cooled: a net may factorise with a Z_1 that is not Z_ref."""
    net = dense_network(1, "tanh")
    beta = jnp.exp(jnp.linspace(jnp.log(4.0), jnp.log(8.0), 65))
    params = {"w": jnp.full((65, 1, 1), 0.5), "b": jnp.full((65, 1), 0.3)}
    law = law_along(net, None, beta, params)
    np.testing.assert_allclose(law.delta_u, -0.0575151, atol=1e-7)
    np.testing.assert_allclose(law.delta_u - law.residual_th, -0.0625, atol=1e-4)
    assert abs(law.residual_th) > 0.004


def test_a_coarse_path_is_flagged(x64):
    assert chain_law(1, last=(-0.6, 1.5)).flags == Flag.TOO_COARSE
    assert "TOO_COARSE" in chain_law(1, last=(-0.6, 1.5)).reasons[0]
    still = chain_law(3, beta=(4.0, 4.0), last=(-0.6, -0.6))
    assert (still.delta_u, still.flags) == (0, 0)


def test_single_precision():
    law = chain_law(10)
    assert {x.dtype for x in law[:-1]} == {np.dtype(np.float32)}
    np.testing.assert_allclose(law.work, -0.0697618532, rtol=1e-4)


def test_refusals():
    beta, q = jnp.array([1.0, 2.0]), jnp.zeros((2, 3))
    fields = ("internal_energy", "entropy", "complexity", "entropy_ref")
    states = SimpleNamespace(**dict.fromkeys(fields, jnp.zeros(2)))
    with pytest.raises(ValueError, match="two points"):
        first_law(states, beta[:1], q, q)
    with pytest.raises(ValueError, match="two points"):
        first_law(states, jnp.ones(3), q, q)
    with pytest.raises(ValueError, match="match them"):
        first_law(states, beta, q, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="leading axes"):
        first_law(states, beta, jnp.zeros((3, 1)), jnp.zeros((3, 1)))
