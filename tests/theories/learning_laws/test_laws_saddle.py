"""Laplace's formula: minima, fixed points, derivatives and the flags where it fails."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax.estimators.estimate import Flag
from thermojax.theories.learning_laws.gaussian import gaussian_state, linearized_state
from thermojax.theories.learning_laws.saddle import (
    fixed_point_sum,
    fixed_points,
    laplace_state,
)
from thermojax.theories.learning_laws.septuple import dense_network, layered_network
from thermojax.theories.learning_laws.settling import boundary_loss

ONE = dense_network(1, "tanh")
CHAIN = layered_network((1, 1, 1, 1), "tanh")
STARTS = jnp.array([[-1.0], [0.0], [1.0], [1.5]])


def one(w, b=0.0):
    return {"w": jnp.array([[w]]), "b": jnp.array([b])}


def chain(dtype=None):
    entries = ((0.5, 0.1), (1.2, -0.3), (0.8, 0.05))
    params = [(jnp.array([[w]], dtype), jnp.array([b], dtype)) for w, b in entries]
    return params, {"x": jnp.array([1.0], dtype), "y": jnp.array([0.4], dtype)}


def exact_one(w, b, beta):
    """log Z of one tanh neuron by the trapezoidal rule, exponentially accurate."""
    x = np.linspace(-1 - 12 / beta**0.5, 1 + 12 / beta**0.5, 40001)
    h = 0.5 * (x - np.tanh(w * x + b)) ** 2
    return np.log(np.sum(np.exp(-beta * h)) * (x[1] - x[0]))


def exact_chain(beta, y=0.4):
    """log Z of E5's network by the trapezoidal rule over its two hidden neurons."""
    grid = np.linspace(-4, 5, 3001)
    u, v = grid[:, None], grid[None, :]
    h = (u - np.tanh(0.6)) ** 2 + (v - np.tanh(1.2 * u - 0.3)) ** 2
    h = 0.5 * (h + (y - 0.8 * v - 0.05) ** 2)
    low = h.min()
    return np.log(np.sum(np.exp(-beta * (h - low))) * (grid[1] - grid[0]) ** 2) - beta * low


@pytest.fixture(scope="module")
def laplace():
    """log Z of E5's network as one compiled function of everything it depends on."""
    return jax.jit(lambda params, data, beta: laplace_state(CHAIN, params, data, beta))


def test_three_fixed_points_against_two(x64):
    """E4: both wells without the unstable point between them are wrong by 0.37 nats."""
    sum_of = jax.jit(lambda starts, beta: fixed_point_sum(ONE, one(1.8), starts, beta))
    three = sum_of(STARTS, 20.0)
    two = sum_of(STARTS[jnp.array([0, 2, 2, 3])], 20.0)
    assert round(float(three.log_z), 7) == 0.7720501
    assert round(float(two.log_z), 7) == 0.3808818
    exact = exact_one(1.8, 0.0, 20.0)
    assert abs(exact - 0.7550428560565439) < 1e-11
    assert abs(three.log_z - exact) < 0.018 < 0.37 < abs(two.log_z - exact)
    assert float(three.internal_energy) == 1 / 40
    found = fixed_points(ONE, one(1.8), STARTS)
    np.testing.assert_allclose(
        found.points[:3, 0], [-0.9327175722, 0, 0.9327175722], atol=1e-10
    )
    assert found.distinct.tolist() == [True, True, True, False]


def test_one_neuron_approaches_its_exact_log_z(x64):
    """E4 at w = 0.5: the error falls as 1/beta, a tenth per decade."""
    log_z = jax.jit(lambda beta: laplace_state(ONE, one(0.5, 0.3), None, beta).log_z)
    assert abs(exact_one(0.5, 0.3, 4.0) - 0.6986384550029128) < 1e-11
    errors = [float(log_z(beta)) - exact_one(0.5, 0.3, beta) for beta in (100.0, 1e3, 1e4)]
    assert 0.08 < errors[1] / errors[0] < 0.13
    assert 0.08 < errors[2] / errors[1] < 0.13
    summed = fixed_point_sum(ONE, one(0.5, 0.3), STARTS, 100.0).log_z
    np.testing.assert_allclose(summed, log_z(100.0), rtol=1e-12)


def test_off_the_forward_output_laplace_converges_and_linearized_does_not(x64, laplace):
    params, data = chain()
    assert abs(exact_chain(5.0) - -0.1796723115) < 1e-9
    far = {"x": data["x"], "y": jnp.array([1.2])}
    errors = [
        abs(float(laplace(params, far, beta).log_z) - exact_chain(beta, 1.2))
        for beta in (30.0, 300.0)
    ]
    assert errors[0] < 0.1
    assert 0.08 < errors[1] / errors[0] < 0.13
    linearized = linearized_state(CHAIN, params, far, 300.0).log_z
    assert abs(linearized - exact_chain(300.0, 1.2)) > 1.0


def test_linear_networks_are_exact(x64):
    """I8: gaussian = linearized = laplace, whatever the start of the descent."""
    net = layered_network((2, 2, 1), "linear")
    params = [
        (jnp.array([[0.5, -0.2], [0.3, 0.7]]), jnp.array([0.1, -0.1])),
        (jnp.array([[0.6, -0.9]]), jnp.array([0.05])),
    ]
    data = {"x": jnp.array([1.0, -0.5]), "y": jnp.array([0.7])}
    exact = gaussian_state(net, params, data, 3.0)
    start = jnp.array([4.0, -7.0])
    found = laplace_state(net, params, data, 3.0, start=start)
    same = laplace_state(net, params, data, 3.0, start=start, gauss_newton=True)
    for name in ("log_z", "internal_energy", "entropy", "complexity", "excess"):
        for state in (found, same, linearized_state(net, params, data, 3.0)):
            np.testing.assert_allclose(getattr(state, name), getattr(exact, name), atol=1e-8)
    assert int(found.flags) == 0


def test_derivatives_go_through_the_minimum(x64, laplace):
    """In params, data and beta, and the second ones along all of them at once."""
    params, data = chain()
    flat, unravel = jax.flatten_util.ravel_pytree((params, data, jnp.asarray(5.0)))
    log_z = lambda v: laplace(*unravel(v)).log_z
    along = jnp.ones_like(flat)
    both = jax.jit(lambda v: jax.jvp(jax.grad(log_z), (v,), (along,)))
    slope, curved = both(flat)
    steps = 1e-5 * jnp.eye(flat.size)
    numeric = [(log_z(flat + step) - log_z(flat - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(-slope[-1], laplace(*unravel(flat)).internal_energy, rtol=1e-9)
    numeric = (both(flat + 1e-5 * along)[0] - both(flat - 1e-5 * along)[0]) / 2e-5
    np.testing.assert_allclose(curved, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.nightly
def test_third_derivatives_are_right(x64, laplace):
    params, data = chain()

    def along(t):
        moved = [params[0], (params[1][0] + t, params[1][1]), params[2]]
        return laplace(moved, data, 5.0).log_z

    second = jax.jit(jax.grad(jax.grad(along)))
    numeric = (second(1e-5) - second(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(second))(0.0), numeric, rtol=1e-5)


def test_fixed_points_respond_to_parameters(x64):
    log_z = jax.jit(lambda w: fixed_point_sum(ONE, one(w, 0.02), STARTS, 20.0).log_z)
    numeric = (log_z(1.8 + 1e-5) - log_z(1.8 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(log_z)(1.8), numeric, rtol=1e-6)


def test_the_minimum_lies_below_the_boundary_loss_and_gauss_newton_differs(x64, laplace):
    params, data = chain()
    far = {"x": data["x"], "y": jnp.array([2.0])}
    state = laplace(params, far, 5.0)
    h_min = state.internal_energy - 2 / (2 * 5.0)
    boundary = boundary_loss(CHAIN, params, jax.tree.map(lambda a: a[None], far))
    assert 0 < h_min < boundary
    variant = laplace_state(CHAIN, params, far, 5.0, gauss_newton=True)
    np.testing.assert_allclose(variant.internal_energy, state.internal_energy, rtol=1e-10)
    assert abs(variant.log_z - state.log_z) > 1e-3


def test_float32_and_vmap_and_eager_agree(x64, laplace):
    params, data = chain()
    betas = jnp.array([2.0, 5.0])
    exact = [float(laplace(params, data, beta).log_z) for beta in betas]
    many = jax.vmap(lambda beta: laplace(params, data, beta).log_z)(betas)
    np.testing.assert_allclose(many, exact, rtol=1e-12)
    eager = laplace_state(CHAIN, params, data, 5.0).log_z
    np.testing.assert_allclose(eager, exact[1], rtol=1e-12)
    single = laplace(*chain(jnp.float32), jnp.float32(5.0))
    assert single.log_z.dtype == jnp.float32
    assert int(single.flags) == 0
    np.testing.assert_allclose(single.log_z, exact[1], atol=1e-5)


def test_where_laplace_fails_it_says_so(x64):
    # x = tanh x is a pitchfork: the slope of x - tanh x vanishes at its only root
    pitchfork = fixed_point_sum(ONE, one(1.0), STARTS, 20.0)
    assert np.isposinf(pitchfork.log_z)
    assert int(pitchfork.flags) & Flag.SINGULAR
    flat = laplace_state(dense_network(1, "linear"), one(1.0), None, 2.0)
    assert np.isposinf(flat.log_z)
    assert np.isnan(flat.internal_energy)
    assert int(flat.flags) == Flag.SINGULAR
    # the descent starts on the top of a double well and stays there
    wells = dense_network(1, "linear", site_potential=lambda x: 2 * (x**2 - 1) ** 2)
    top = laplace_state(wells, one(0.0), None, 2.0)
    assert np.isnan(top.log_z)
    assert int(top.flags) == Flag.NOT_A_MINIMUM
    beside = laplace_state(wells, one(0.0), None, 2.0, start=jnp.array([0.3]))
    assert int(beside.flags) == 0
    unfinished = laplace_state(ONE, one(0.5, 0.3), None, 4.0, newton_steps=0)
    assert int(unfinished.flags) == Flag.NOT_A_MINIMUM
    nowhere = fixed_point_sum(ONE, one(1.8), jnp.full((4, 1), jnp.nan), 20.0)
    assert np.isnan(nowhere.log_z)
    assert int(nowhere.flags) == Flag.NOT_A_MINIMUM


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="beta = -1"):
        laplace_state(ONE, one(0.5), None, -1.0)
    with pytest.raises(ValueError, match="all neurons are free"):
        fixed_point_sum(CHAIN, chain()[0], STARTS, 2.0)
    with pytest.raises(ValueError, match="starts have shape"):
        fixed_points(ONE, one(0.5), jnp.zeros(3))


def test_no_free_neuron_is_no_integral():
    net = layered_network((1, 1), "tanh")
    params = [(jnp.array([[0.0]]), jnp.zeros(1))]
    data = {"x": jnp.zeros(1), "y": jnp.array([2.0])}
    for route in (laplace_state, linearized_state):
        assert float(route(net, params, data, 3.0).log_z) == -6.0
