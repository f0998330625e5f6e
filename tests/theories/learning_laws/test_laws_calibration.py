"""The calibrated temperature: maximum likelihood, scaling, target energy, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax.theories.learning_laws.calibration import calibrate_beta
from thermojax.theories.learning_laws.ensemble import log_partition, thermodynamic_state
from thermojax.theories.learning_laws.septuple import dense_network, layered_network

pytestmark = pytest.mark.usefixtures("x64")

LINEAR = layered_network((2, 2, 1), "linear")
DATA = {"x": np.array([[1.0, -0.5], [0.2, 0.8]]), "y": np.array([[0.7], [-0.4]])}


def linear_params(shift=0.0):
    return [
        (jnp.array([[0.5, -0.2], [0.3, 0.7]], float), jnp.array([0.1, -0.1])),
        (jnp.array([[0.6, -0.9]], float), jnp.array([0.05 + shift])),
    ]


def test_the_worked_number():
    for method in ("linearized", "gaussian"):
        beta = calibrate_beta(LINEAR, linear_params(), DATA, method=method)
        np.testing.assert_allclose(beta, 478.9758305, atol=6e-8)


def test_it_is_where_the_energy_is_that_of_a_free_output():
    net = layered_network((1, 1, 1), "tanh", output_activation="tanh")
    params = [(jnp.array([[0.9]]), jnp.array([0.2])), (jnp.array([[1.4]]), jnp.array([-0.3]))]
    data = {"x": jnp.array([[0.5], [-1.0]]), "y": jnp.array([[0.8], [-0.1]])}
    beta = calibrate_beta(net, params, data, method="quadrature")
    state = thermodynamic_state(net, params, data, beta, reduction="mean")
    np.testing.assert_allclose(state.internal_energy, 2 / (2 * beta), rtol=1e-10)

    def log_likelihood(beta):
        normal = 0.5 * (1 + 1) * jnp.log(2 * jnp.pi / beta)
        return log_partition(net, params, data, beta) - 2 * normal

    slope = jax.grad(log_likelihood)(beta)
    np.testing.assert_allclose(slope, 0.0, atol=1e-10)
    assert log_likelihood(beta) > max(log_likelihood(0.8 * beta), log_likelihood(1.2 * beta))


def test_scaling_the_error_scales_it_back():
    data, params = DATA, linear_params()
    forward = jnp.stack([LINEAR.forward(params, x)[-1] for x in data["x"]])
    wider = {"x": data["x"], "y": forward + 3.0 * (data["y"] - forward)}
    ratio = calibrate_beta(LINEAR, params, data) / calibrate_beta(LINEAR, params, wider)
    np.testing.assert_allclose(ratio, 9.0, rtol=1e-10)


def test_a_target_energy_is_met():
    data, params = DATA, linear_params()
    beta = calibrate_beta(LINEAR, params, data, target_u=0.2)
    state = thermodynamic_state(LINEAR, params, data, beta, reduction="mean")
    np.testing.assert_allclose(state.internal_energy, 0.2, rtol=1e-10)


def test_it_is_differentiable_by_the_implicit_function():
    data = DATA
    for options in ({}, {"target_u": 0.3}):
        at = lambda shift, options=options: calibrate_beta(
            LINEAR, linear_params(shift), data, **options
        )
        slope = jax.jit(jax.grad(at))(jnp.array(0.1))
        step = 1e-5
        rise = (at(0.1 + step) - at(0.1 - step)) / (2 * step)
        np.testing.assert_allclose(slope, rise, rtol=1e-6)


def test_refusals():
    data, params = DATA, linear_params()
    with pytest.raises(ValueError, match="data has no y"):
        calibrate_beta(LINEAR, params, {"x": data["x"], "y": None})
    with pytest.raises(ValueError, match="holds no root"):
        calibrate_beta(LINEAR, params, data, target_u=1e-9)
    with pytest.raises(ValueError, match="must hold 0 < low < high"):
        calibrate_beta(LINEAR, params, data, target_u=0.2, bracket=(2.0, 1.0))
    under_jit = jax.jit(lambda u: calibrate_beta(LINEAR, params, data, target_u=u))
    assert np.isnan(under_jit(1e-9))
    one = dense_network(1, "tanh")
    with pytest.raises(ValueError, match="data has no y"):
        calibrate_beta(one, {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}, None)
