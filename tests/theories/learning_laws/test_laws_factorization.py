"""Does log Z split into temperature and trainables: on grids, and at one network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.scores import check
from thermojax.theories.learning_laws.ensemble import log_partition, thermodynamic_state
from thermojax.theories.learning_laws.factorization import energetic_fraction, interaction
from thermojax.theories.learning_laws.septuple import dense_network, layered_network

ONE = np.ones((1, 1))
grids = hnp.arrays(float, (3, 4), elements=st.floats(-100, 100))
rows = hnp.arrays(float, (3, 1), elements=st.floats(-100, 100))
columns = hnp.arrays(float, (1, 4), elements=st.floats(-100, 100))
statistic = jax.jit(interaction)


def chain(weights, biases):
    return [
        (w * jnp.ones((1, 1)), b * jnp.ones(1)) for w, b in zip(weights, biases, strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(grids, rows, columns)
def test_levels_of_rows_and_columns_do_not_matter(grid, row, column):
    with jax.enable_x64(True):
        plain = statistic(grid)
        assert 0 <= plain.fraction <= 1
        shifted = statistic(grid + row + column)
        np.testing.assert_allclose(shifted.residual, plain.residual, atol=1e-11)
        np.testing.assert_allclose(shifted.rms, plain.rms, atol=1e-11)
        if np.ptp(grid) > 1e-3:
            hotter = statistic(grid + row).fraction
            np.testing.assert_allclose(hotter, plain.fraction, atol=1e-6)
        np.testing.assert_allclose(jnp.sum(plain.residual, 0), 0, atol=1e-11)
        np.testing.assert_allclose(jnp.sum(plain.residual, 1), 0, atol=1e-11)


def test_the_fraction_is_that_of_the_formula(x64):
    grid = np.random.default_rng(0).normal(size=(3, 4))
    found = interaction(grid)
    a = grid.mean(0) - grid.mean()
    residual = grid - grid.mean(1, keepdims=True) - a
    assert np.all(a != 0)
    inside = np.sum(residual**2)
    np.testing.assert_allclose(found.fraction, inside / (inside + 3 * np.sum(a**2)))
    np.testing.assert_allclose(found.rms, np.sqrt(inside / 12))


def test_nothing_over_nothing_is_factorised():
    for grid in (np.ones((2, 3)), np.arange(3.0)[:, None] * np.ones((1, 4))):
        found = interaction(grid)
        assert (found.fraction, found.rms) == (0, 0)
    assert interaction(np.float32(grid)).rms.dtype == jnp.float32
    with pytest.raises(ValueError, match="temperatures by networks"):
        interaction(np.ones(3))


def test_errors_of_log_z_explain_this_much_interaction(x64):
    rng = np.random.default_rng(1)
    error = rng.uniform(0.5, 1.5, (3, 4))
    noise = rng.normal(size=(4000, 3, 4)) * error
    squares = jax.vmap(interaction)(noise).rms ** 2
    check(squares, interaction(np.zeros((3, 4)), stderr=error).rms_noise ** 2)


def test_worked_family_of_fitted_networks(x64):
    """E8: fitted networks factorise, unfitted ones do not."""
    net = layered_network((1, 1, 1), "linear")
    data = {"x": ONE, "y": ONE}

    def grid(last_bias):
        members = [(1, 0, 0.5), (1, 0, 1), (0.5, 0.5, 2)]
        each = [chain((w, v), (b, c)) for (w, b, v), c in zip(members, last_bias, strict=True)]
        stack = jax.tree.map(lambda *x: jnp.stack(x), *each)
        of_nets = jax.vmap(lambda q, beta: log_partition(net, q, data, beta), (0, None))
        return jax.vmap(lambda beta: of_nets(stack, beta))(jnp.array([1.0, 4.0]))

    fitted = grid((0.5, 0.0, -1.0))
    expected = [0.8073667575, 0.5723649429, 0.1142195770]
    np.testing.assert_allclose(fitted[0], expected, atol=1e-9)
    np.testing.assert_allclose(interaction(fitted).fraction, 0, atol=1e-20)
    np.testing.assert_allclose(interaction(fitted).rms, 0, atol=1e-12)
    unfitted = grid((0.2, 0.4, -1.0))
    expected = [-0.0297804230, -0.2807822376, -0.5789276036]
    np.testing.assert_allclose(unfitted[1], expected, atol=1e-9)
    found = interaction(unfitted)
    np.testing.assert_allclose(found.fraction, 0.0117286406, atol=1e-9)
    np.testing.assert_allclose(found.rms, 0.0269814751, atol=1e-9)


def test_recurrent_linear_networks_factorise(x64):
    """E1 and I7: C = -log|det(1 - w)| at every temperature, so no energetic force."""
    net = dense_network(2, "linear")
    w = jnp.asarray(np.random.default_rng(2).normal(size=(4, 2, 2)) * 0.3)
    w = w.at[0].set(jnp.array([[0.2, 0.5], [-0.3, 0.1]]))
    nets = {"w": w, "b": jnp.broadcast_to(jnp.array([0.4, -0.2]), (4, 2))}
    of_nets = jax.vmap(lambda q, beta: log_partition(net, q, None, beta), (0, None))
    grid = jax.vmap(lambda beta: of_nets(nets, beta))(jnp.array([0.5, 2.0, 30.0]))
    np.testing.assert_allclose(interaction(grid).fraction, 0, atol=1e-20)
    np.testing.assert_allclose(grid[1, 0], 1.2839919532, atol=1e-9)
    one = jax.tree.map(lambda x: x[0], nets)
    np.testing.assert_allclose(energetic_fraction(net, one, None, 2.0).fraction, 0, atol=1e-20)


def test_worked_forces_of_a_clamped_linear_chain(x64):
    """E2."""
    net = layered_network((1, 1, 1), "linear")
    params, data = chain((0.8, -0.6), (0.1, 0.2)), {"x": 1.5 * ONE, "y": 0.3 * ONE}
    found = jax.jit(lambda q: energetic_fraction(net, q, data, 4.0))(params)
    np.testing.assert_allclose(found.fraction, 0.9904121425, atol=1e-9)
    dU = [0.5823529412, -0.5899653979, 0.3882352941, -0.6470588235]
    np.testing.assert_allclose(found.norm_dU, np.linalg.norm(dU), atol=1e-9)
    np.testing.assert_allclose(found.norm_TdS, 0.4411764706 / 4, atol=1e-9)


def test_worked_forces_of_a_tanh_chain(x64):
    """E5, by quadrature."""
    net = layered_network((1, 1, 1, 1), "tanh")
    params = chain((0.5, 1.2, 0.8), (0.1, -0.3, 0.05))
    found = energetic_fraction(net, params, {"x": ONE, "y": 0.4 * ONE}, 5.0)
    np.testing.assert_allclose(found.fraction, 0.2093166357, atol=1e-9)


def test_stationary_is_not_factorised(x64):
    """Where d_q F = 0 with both forces alive, half of the force is energetic."""
    net = layered_network((1, 1, 1), "linear")
    data = {"x": ONE, "y": ONE}
    at = lambda v: chain((1.0, v), (0.0, 0.0))
    force = jax.jit(jax.grad(lambda v: -log_partition(net, at(v), data, 2.0)))
    low, high = 0.3, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if force(middle) > 0 else (middle, high)
    slope = lambda name: jax.grad(
        lambda v: getattr(thermodynamic_state(net, at(v), data, 2.0), name)
    )(low)
    dU, TdS = slope("internal_energy"), slope("entropy") / 2
    np.testing.assert_allclose(dU, TdS, rtol=1e-9)
    assert abs(dU) > 0.01


def test_free_outputs_exert_no_force(x64):
    net = layered_network((1, 1, 1, 1), "tanh")
    params = chain((0.5, 1.2, 0.8), (0.1, -0.3, 0.05))
    found = energetic_fraction(net, params, {"x": ONE, "y": None}, 5.0)
    assert np.isnan(found.fraction)
    assert (found.norm_dU, found.norm_TdS) == (0, 0)


def test_vmap_over_networks_and_precision(x64):
    net = layered_network((1, 1, 1), "linear")
    data = {"x": 1.5 * ONE, "y": 0.3 * ONE}
    one = lambda s, beta: energetic_fraction(net, chain((s, -0.6), (0.1, 0.2)), data, beta)
    scales, betas = jnp.array([0.8, 1.3]), jnp.array([4.0, 0.5])
    together = jax.vmap(one)(scales, betas)
    for i in range(2):
        for a, b in zip(together, one(scales[i], betas[i]), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-12)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), chain((0.8, -0.6), (0.1, 0.2)))
    found = energetic_fraction(net, single, data, jnp.float32(4.0))
    assert found.fraction.dtype == jnp.float32
    np.testing.assert_allclose(found.fraction, together.fraction[0], rtol=1e-5)
