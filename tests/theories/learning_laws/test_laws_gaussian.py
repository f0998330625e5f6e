"""Closed forms: worked numbers, exact references, invariances and divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from thermojax.estimators.estimate import Flag
from thermojax.theories.learning_laws.embedding import embed_layers
from thermojax.theories.learning_laws.gaussian import (
    gaussian_state,
    is_reference,
    linearized_state,
    reference_state,
)
from thermojax.theories.learning_laws.quadrature import quadrature_state
from thermojax.theories.learning_laws.septuple import dense_network, layered_network
from thermojax.theories.learning_laws.states import check_beta, state_of

PAIR = dense_network(2, "linear")
TANH = layered_network((1, 1, 1, 1), "tanh")
WIDE = layered_network((2, 3, 3, 2), "tanh")


def e1():
    return {"w": jnp.array([[0.2, 0.5], [-0.3, 0.1]]), "b": jnp.array([0.4, -0.2])}


def chain(entries, x, y):
    params = [(jnp.array([[w]]), jnp.array([b])) for w, b in entries]
    return params, {"x": jnp.array([x]), "y": jnp.array([y])}


def e2():
    return chain(((0.8, 0.1), (-0.6, 0.2)), 1.5, 0.3)


def e5():
    return chain(((0.5, 0.1), (1.2, -0.3), (0.8, 0.05)), 1.0, 0.4)


def wide(seed):
    keys = jax.random.split(jax.random.key(seed), 8)
    sizes = WIDE.network.sizes
    params = [
        (jax.random.normal(k, (m, n)) / n**0.5, 0.3 * jax.random.normal(c, (m,)))
        for k, c, n, m in zip(keys[:3], keys[3:6], sizes[:-1], sizes[1:], strict=True)
    ]
    x, y = jax.random.normal(keys[6], (2,)), jax.random.normal(keys[7], (2,))
    return params, {"x": x, "y": y}


def ordered(grad):
    """Weights first, then biases: the order of the worked examples."""
    if isinstance(grad, dict):
        return np.concatenate([grad["w"].ravel(), grad["b"]])
    return np.concatenate([w.ravel() for w, _ in grad] + [b for _, b in grad])


def laplacian(fn, params):
    flat, unravel = ravel_pytree(params)
    return jnp.trace(jax.hessian(lambda v: fn(unravel(v)))(flat))


def close(state, **expected):
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(state, name), value, atol=1e-10, err_msg=name)


def test_recurrent_linear_network(x64):
    """E1, and I7: the complexity is -log|det(I - w)| whatever b and beta."""
    free = jax.jit(lambda q, beta: gaussian_state(PAIR, q, None, beta))
    close(
        free(e1(), 2.0),
        log_z=1.2839919532,
        free_energy=-0.6419959766,
        internal_energy=0.5,
        entropy=2.2839919532,
        heat_capacity=1.0,
        complexity=0.1392620673,
        excess=0.0,
        stderr=0.0,
        flags=0,
    )
    f = lambda q: gaussian_state(PAIR, q, None, 2.0).free_energy
    slope = ordered(jax.jit(jax.grad(f))(e1()))
    expected = [-0.5172413793, 0.1724137931, -0.2873563218, -0.4597701149, 0, 0]
    np.testing.assert_allclose(slope, expected, atol=1e-10)
    du = jax.grad(lambda q: gaussian_state(PAIR, q, None, 2.0).internal_energy)(e1())
    np.testing.assert_allclose(ordered(du), 0, atol=1e-12)
    found = jax.jit(lambda q: laplacian(f, q))(e1())
    np.testing.assert_allclose(found, -1.1824547496, atol=1e-9)
    inverse = np.linalg.inv(np.eye(2) - np.array(e1()["w"]))
    np.testing.assert_allclose(found, -np.sum(inverse**2) / 2, rtol=1e-9)
    other = free({"w": e1()["w"], "b": jnp.array([3.0, -5.0])}, 0.1)
    close(other, complexity=0.1392620673, excess=0.0)


def test_linear_chain_with_its_output_clamped(x64):
    """E2."""
    net = layered_network((1, 1, 1), "linear")
    params, data = e2()
    of = lambda name: lambda q: getattr(gaussian_state(net, q, data, 4.0), name)
    close(
        gaussian_state(net, params, data, 4.0),
        log_z=-1.0667745266,
        free_energy=0.2666936317,
        internal_energy=0.4097058824,
        entropy=0.5720490028,
        heat_capacity=0.5,
        complexity=-1.2925658793,
        excess=1.1388235294,
    )
    expected = {
        "free_energy": [0.5823529412, -0.7002595156, 0.3882352941, -0.6470588235],
        "internal_energy": [0.5823529412, -0.5899653979, 0.3882352941, -0.6470588235],
        "entropy": [0, 0.4411764706, 0, 0],
    }
    for name, values in expected.items():
        slope = ordered(jax.grad(of(name))(params))
        np.testing.assert_allclose(slope, values, atol=1e-10, err_msg=name)
    found = jax.jit(lambda q: laplacian(of("free_energy"), q))(params)
    np.testing.assert_allclose(found, 1.4649399552, atol=1e-9)


def test_linear_network_of_two_hidden_units(x64):
    """E3."""
    net = layered_network((2, 2, 1), "linear")
    params = [
        (jnp.array([[0.5, -0.2], [0.3, 0.7]]), jnp.array([0.1, -0.1])),
        (jnp.array([[0.6, -0.9]]), jnp.array([0.05])),
    ]
    data = {"x": jnp.array([[1.0, -0.5], [0.2, 0.8]]), "y": jnp.array([[0.7], [-0.4]])}
    states = jax.vmap(lambda e: gaussian_state(net, params, e, 3.0))(data)
    close(
        states,
        log_z=[0.3456627147, 0.3518763092],
        internal_energy=[0.3354128264, 0.3333416283],
    )
    # log det S_out = log 2.17 for both
    np.testing.assert_allclose(
        states.entropy, states.entropy_ref - 0.5 * np.log(2.17), atol=1e-12
    )


def test_linearized_chain(x64):
    """E5's linearized numbers."""
    params, data = e5()
    forward = [float(x[0]) for x in TANH.forward(params, data["x"])]
    expected = [1.0, 0.537049567, 0.3314528021, 0.3151622417]
    np.testing.assert_allclose(forward, expected, atol=5e-11)
    close(
        linearized_state(TANH, params, data, 5.0),
        log_z=-0.2106453230,
        complexity=-0.4390844770,
        internal_energy=0.2015183026,
        flags=0,
    )


def test_free_output_is_the_reference_for_every_activation(x64):
    """E6 and I5: C = E = 0, no forces, no curvature."""
    params, data = e5()
    free = {"x": data["x"], "y": None}
    close(linearized_state(TANH, params, free, 5.0), log_z=0.342658731, complexity=0, excess=0)
    f = lambda q: linearized_state(TANH, q, free, 5.0).free_energy
    assert not ordered(jax.grad(f)(params)).any()
    assert float(laplacian(f, params)) == 0.0
    # not by fiat: the determinant of the residual map is 1 at a random state
    net, (q, e) = WIDE, wide(3)
    e = {"x": e["x"], "y": None}
    a = jax.jacfwd(lambda x: net.residual(q, x, e))(jnp.linspace(-1.0, 2.0, 8))
    np.testing.assert_allclose(jnp.linalg.det(a), 1, rtol=1e-12)
    assert is_reference(net, e)
    assert not is_reference(layered_network((2, 3, 2), "tanh", mu=0.1), e)
    assert reference_state(net, q, e, 5.0).log_z.shape == ()


@pytest.fixture(scope="module")
def numbers():
    """States of random nets under the symmetries and routes that must agree."""
    linear = layered_network(WIDE.network.sizes, "linear")
    support = embed_layers(wide(0)[0])[1]
    boundary = {"inputs": (0, 1), "outputs": (8, 9), "support": support}
    dense_tanh = dense_network(10, "tanh", output_activation="linear", **boundary)
    dense_linear = dense_network(10, "linear", **boundary)

    @jax.jit
    def all_of(seed, beta):
        params, data = wide(seed)
        w_b = embed_layers(params)[0]
        (w1, b1), (w2, b2), last = params
        order, sign = jnp.array([2, 0, 1]), jnp.array([1.0, -1.0, 1.0])
        moved = [((w1 * sign[:, None])[order], (b1 * sign)[order])]
        moved += [((w2 * sign)[:, order], b2), last]
        state = linearized_state(WIDE, params, data, beta)
        residual = lambda x: linear.residual(params, x, data)
        start = jnp.zeros(6)
        a, c = jax.jacfwd(residual)(start), residual(start)
        best = jnp.linalg.lstsq(a, -c)[0]
        return {
            "state": state,
            "moved": linearized_state(WIDE, moved, data, beta).log_z,
            "dense": linearized_state(dense_tanh, w_b, data, beta).log_z,
            "linear": gaussian_state(linear, params, data, beta),
            "linear_dense": gaussian_state(dense_linear, w_b, data, beta),
            "by_hand": 3 * jnp.log(2 * jnp.pi / beta)
            - 0.5 * jnp.linalg.slogdet(a.T @ a)[1]
            - 0.5 * beta * jnp.sum((a @ best + c) ** 2),
            "slope": jax.grad(lambda b: linearized_state(WIDE, params, data, b).log_z)(beta),
        }

    return all_of


def test_identities_symmetries_and_routes(x64, numbers):
    """I3, I8 and I10 on random networks."""

    @given(st.integers(0, 10**6), st.floats(0.05, 200.0))
    @settings(max_examples=20, deadline=None)
    def check(seed, beta):
        found = numbers(seed, beta)
        same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        same(found["moved"], found["state"].log_z)
        same(found["dense"], found["state"].log_z)
        same(found["linear"].log_z, found["by_hand"])
        jax.tree.map(same, found["linear"][:-2], found["linear_dense"][:-2])
        for state in (found["state"], found["linear"]):
            same(state.entropy, beta * state.internal_energy + state.log_z)
            same(state.entropy, state.entropy_ref + state.complexity + state.excess)
            same(state.free_energy, state.internal_energy - state.entropy / beta)
            assert state.heat_capacity >= 0
        same(found["slope"], -found["state"].internal_energy)

    check()


def test_gradients_against_finite_differences(x64):
    """First derivatives in params, data and beta; the Laplacian by differences too."""
    params, data = wide(5)
    flat, unravel = ravel_pytree((params, data, jnp.asarray(3.0)))
    log_z = jax.jit(lambda v: linearized_state(WIDE, *unravel(v)).log_z)
    steps = 1e-5 * jnp.eye(flat.size)
    values = jax.jit(jax.vmap(log_z))
    numeric = (values(flat + steps) - values(flat - steps)) / 2e-5
    slope = jax.jit(jax.grad(log_z))
    np.testing.assert_allclose(slope(flat), numeric, rtol=1e-6, atol=1e-8)
    slopes = jax.jit(jax.vmap(jax.grad(log_z)))
    numeric = (slopes(flat + steps) - slopes(flat - steps)) / 2e-5
    np.testing.assert_allclose(jax.hessian(log_z)(flat), numeric, rtol=1e-5, atol=1e-7)


def test_linearization_error_falls_tenfold_per_decade_on_the_forward_output(x64):
    """I9, against the trapezoidal rule over two hidden neurons."""
    params, data = e5()
    output = TANH.forward(params, data["x"])[-1]
    fitted = {"x": data["x"], "y": output}
    first = np.tanh(0.6)
    errors = []
    for beta in (100.0, 1000.0, 10000.0):
        half = np.linspace(-10, 10, 801) / beta**0.5
        u, v = (first + half)[:, None], (np.tanh(1.2 * first - 0.3) + half)[None, :]
        h = (u - first) ** 2 + (v - np.tanh(1.2 * u - 0.3)) ** 2
        h = 0.5 * (h + (float(output[0]) - 0.8 * v - 0.05) ** 2)
        exact = np.log(np.sum(np.exp(-beta * h)) * (half[1] - half[0]) ** 2)
        errors.append(float(linearized_state(TANH, params, fitted, beta).log_z) - exact)
    assert abs(errors[2]) > 1e-9
    assert 0.08 < errors[1] / errors[0] < 0.13
    assert 0.08 < errors[2] / errors[1] < 0.13


def test_nonlinear_outputs_put_their_slope_in(x64):
    """No hidden layer is needed to see it: one hidden unit, output tanh, by differences."""
    net = layered_network((1, 1, 1), "tanh", output_activation="tanh")
    params, data = chain(((0.5, 0.1), (1.2, -0.3)), 1.0, 0.4)
    hidden, output = (float(x[0]) for x in net.forward(params, data["x"])[1:])
    gain = 1 + (1.2 * (1 - output**2)) ** 2
    expected = 0.5 * np.log(2 * np.pi / 7) - 0.5 * np.log(gain)
    expected -= 3.5 * (0.4 - np.tanh(1.2 * hidden - 0.3)) ** 2 / gain
    np.testing.assert_allclose(linearized_state(net, params, data, 7.0).log_z, expected)


def test_relu_rescaling_keeps_the_function_and_changes_the_free_energy(x64):
    net = layered_network((2, 3, 3, 2), "relu")
    params, data = wide(7)
    (w1, b1), (w2, b2), last = params
    scaled = [(3 * w1, 3 * b1), (w2 / 3, b2), last]
    outputs = [net.forward(q, data["x"])[-1] for q in (params, scaled)]
    np.testing.assert_allclose(*outputs, rtol=1e-12)
    f = [linearized_state(net, q, data, 2.0).free_energy for q in (params, scaled)]
    assert abs(f[0] - f[1]) > 1e-3


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_homogeneous_activations_scale_with_temperature(x64, activation):
    """I11: log Z(beta; b, x, y) = -n/2 log beta + log Z(1; sqrt(beta) (b, x, y))."""
    net, beta = layered_network((2, 3, 3, 2), activation), 7.0
    params, data = wide(11)
    scaled = [(w, beta**0.5 * b) for w, b in params]
    larger = jax.tree.map(lambda a: beta**0.5 * a, data)
    log_z = jax.jit(lambda q, e, b: linearized_state(net, q, e, b).log_z)
    expected = -3 * np.log(beta) + log_z(scaled, larger, 1.0)
    np.testing.assert_allclose(log_z(params, data, beta), expected, rtol=1e-11)


def test_independent_blocks_add(x64):
    """I12."""
    net = dense_network(4, "linear", mu=0.3)
    joint = jax.scipy.linalg.block_diag(e1()["w"], 2 * e1()["w"])
    bias = jnp.array([0.4, -0.2, 1.0, 2.0])
    whole = gaussian_state(net, {"w": joint, "b": bias}, None, 2.0)
    half = dense_network(2, "linear", mu=0.3)
    parts = [
        gaussian_state(half, {"w": k * e1()["w"], "b": bias[i : i + 2]}, None, 2.0).log_z
        for k, i in ((1, 0), (2, 2))
    ]
    np.testing.assert_allclose(whole.log_z, sum(parts), rtol=1e-12)


def test_a_confined_network_against_a_grid(x64):
    """(16) with mu > 0 and a clamped neuron: two free ones by the trapezoidal rule."""
    net = dense_network(3, "linear", inputs=(0,), outputs=(2,), mu=0.5)
    w = jnp.array([[0.0, 0.0, 0.0], [0.7, 0.3, -0.4], [0.2, 0.9, 0.1]])
    params, data = (
        {"w": w, "b": jnp.array([0, 0.2, -0.1])},
        {"x": jnp.array([1.1]), "y": None},
    )
    grid = np.linspace(-12, 12, 601)
    points = jnp.stack(jnp.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    h = jax.jit(jax.vmap(lambda x: net.energy(params, x, data)))(points)
    weights = np.exp(-1.5 * np.array(h))
    state = gaussian_state(net, params, data, 1.5)
    exact = np.log(weights.sum() * (grid[1] - grid[0]) ** 2)
    np.testing.assert_allclose(state.log_z, exact, rtol=1e-10)
    np.testing.assert_allclose(state.internal_energy, np.average(h, weights=weights), rtol=1e-9)


def test_singular_networks_diverge(x64):
    """I22: log Z = +inf under jit, whether the null direction is exact or rounded."""
    log_z = jax.jit(lambda w: gaussian_state(PAIR, {"w": w, "b": jnp.ones(2)}, None, 2.0))
    rank = jnp.array([[0.1, 0.2], [0.3, 0.6]])
    for w in (jnp.eye(2), jnp.eye(2) - rank):
        state = log_z(w)
        assert np.isposinf(state.log_z)
        assert np.isnan(state.internal_energy)
        assert int(state.flags) == Flag.IMPROPER
    assert np.isposinf(
        gaussian_state(
            PAIR, {"w": jnp.eye(2, dtype=jnp.float32) - rank.astype(jnp.float32),
                   "b": jnp.ones(2, jnp.float32)}, None, jnp.float32(2)
        ).log_z
    )  # fmt: skip
    assert int(log_z(jnp.full((2, 2), jnp.nan)).flags) == Flag.NONFINITE
    # an output row alone cannot hold two free neurons
    starved = dense_network(3, "linear", inputs=(0, 1), outputs=(2,), residual_rows=(0, 1))
    clamped = {"x": jnp.ones(2), "y": jnp.ones(1)}
    params = {"w": jnp.zeros((3, 3)), "b": jnp.zeros(3)}
    assert float(gaussian_state(starved, params, clamped, 1.0).log_z) == 0.0


def test_jit_vmap_and_float32_agree_with_eager(x64):
    params, data = wide(13)
    nets = jax.vmap(lambda s: wide(s)[0])(jnp.arange(3))
    betas = jnp.array([0.5, 4.0])
    one = lambda q, b: linearized_state(WIDE, q, data, b).log_z
    table = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(nets, betas)
    for i in range(3):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], nets)
        np.testing.assert_allclose(table[i, 1], one(member, 4.0), rtol=1e-12)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, data))
    state = linearized_state(WIDE, *low, 4.0)
    assert {leaf.dtype for leaf in state[:-1]} == {jnp.dtype("float32")}
    np.testing.assert_allclose(state.log_z, one(params, 4.0), rtol=1e-5, atol=1e-5)


def test_digits_sized_networks_are_batched_over_examples_and_members():
    net = layered_network((64, 16, 16, 10), "tanh")
    keys = jax.random.split(jax.random.key(0), 3)
    params = [
        (jax.random.normal(k, (2, m, n)) / n**0.5, jnp.zeros((2, m)))
        for k, (n, m) in zip(keys, ((64, 16), (16, 16), (16, 10)), strict=True)
    ]
    data = {"x": jax.random.uniform(keys[0], (32, 64)), "y": jnp.eye(10)[jnp.arange(32) % 10]}
    each = lambda q: jax.vmap(lambda e: linearized_state(net, q, e, 10.0).log_z)(data).sum()
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(each)))(params)
    assert values.shape == (2,)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slopes))
    # the same number through the 32 x 32 matrix K of a net without boundary algebra
    q = jax.tree.map(lambda leaf: leaf[0], params)
    e = jax.tree.map(lambda leaf: leaf[0], data)
    start = jnp.concatenate(net.forward(q, e["x"])[1:-1])
    a, c = (f(lambda x: net.residual(q, x, e)) for f in (_jacobian(start), _value(start)))
    k = a.T @ a
    h_min = 0.5 * (c @ c - (a.T @ c) @ jnp.linalg.solve(k, a.T @ c))
    expected = 16 * jnp.log(2 * jnp.pi / 10) - 0.5 * jnp.linalg.slogdet(k)[1] - 10 * h_min
    np.testing.assert_allclose(linearized_state(net, q, e, 10.0).log_z, expected, rtol=1e-4)


def _jacobian(x):
    return lambda fn: jax.jacfwd(fn)(x)


def _value(x):
    return lambda fn: fn(x)


def test_impossible_requests_are_refused():
    params, data = e5()
    with pytest.raises(ValueError, match="linear activations only"):
        gaussian_state(TANH, params, data, 2.0)
    with pytest.raises(ValueError, match="feedforward"):
        linearized_state(dense_network(2, "tanh"), e1(), None, 2.0)
    with pytest.raises(ValueError, match="site potential"):
        linearized_state(layered_network((1, 1, 1, 1), "tanh", mu=1.0), params, data, 2.0)
    for beta in (0.0, -1.0, jnp.array([1.0, 0.0]), np.inf, np.nan):
        with pytest.raises(ValueError, match="no canonical ensemble"):
            check_beta(beta)
    with pytest.raises(ValueError, match="no canonical ensemble"):
        state_of(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), 1, 0.0)


def test_the_linearized_route_says_where_it_is_too_coarse(x64):
    """Against quadrature: flagged where hot, silent where its error is small."""
    params, example = chain(((0.5, 0.1), (1.2, -0.3), (0.8, 0.05)), 1.0, 0.4)
    for beta, coarse in ((0.5, True), (500.0, False)):
        closed = linearized_state(TANH, params, example, beta)
        exact = quadrature_state(TANH, params, example, beta)
        assert bool(closed.flags & Flag.TOO_COARSE) == coarse
        assert (abs(closed.log_z - exact.log_z) > 0.05) == coarse
