"""Septuples: embedding, clamping, settling, references and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import LIMIT, z_score
from thermojax.theories.learning_laws.embedding import (
    embed_layers,
    extract_layers,
    from_flax,
    to_flax,
)
from thermojax.theories.learning_laws.septuple import (
    assemble,
    dense_network,
    depth,
    is_feedforward,
    is_linear,
    layered_network,
    select_free,
    trainable_mask,
)
from thermojax.theories.learning_laws.settling import (
    activation_step,
    boundary_loss,
    bulk_loss,
    settle,
    settling_residual,
)

SIZES = (2, 3, 2, 1)
N = sum(SIZES)


def layers(key, sizes=SIZES):
    keys = jax.random.split(key, len(sizes))
    return [
        (jax.random.normal(k, (m, n)), 0.3 * jax.random.normal(keys[-1], (m,)))
        for k, n, m in zip(keys[:-1], sizes[:-1], sizes[1:], strict=True)
    ]


def embedded(activation="tanh", **options):
    support = embed_layers(layers(jax.random.key(0)))[1]
    return dense_network(
        N,
        activation,
        output_activation="linear",
        inputs=(0, 1),
        outputs=(N - 1,),
        support=support,
        **options,
    )


def example(key):
    x, y = jax.random.normal(key, (2,)), jax.random.normal(key, (1,))
    return {"x": x, "y": y}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_embedding_is_nilpotent_and_settles_in_depth_steps(x64, activation):
    net = layered_network(SIZES, activation)
    dense = embedded(activation)
    assert depth(dense.network) == depth(net.network) == len(SIZES) - 1

    @jax.jit
    def numbers(seed):
        params = layers(jax.random.key(seed))
        w_b = embed_layers(params)[0]
        clamp = {"x": jax.random.normal(jax.random.key(seed + 1), (2,)), "y": None}
        forward = jnp.concatenate(net.forward(params, clamp["x"]))
        start = 3 * jax.random.normal(jax.random.key(seed + 2), (N,))
        settled = settle(dense, w_b, start, 3, clamp)
        early = settle(dense, w_b, start, 2, clamp)
        return (
            jnp.linalg.matrix_power(w_b["w"], 4),
            forward,
            settled,
            settle(net, params, start, 3, clamp),
            early,
            activation_step(dense, w_b, settled, clamp),
            dense.forward(w_b, clamp["x"]),
            jax.tree.map(jnp.subtract, params, extract_layers(w_b, SIZES)),
        )

    @given(st.integers(0, 10**6))
    @settings(max_examples=15, deadline=None)
    def check(seed):
        power, forward, settled, layered, early, more, dense_forward, lost = numbers(seed)
        assert not power.any()
        for state in (settled, layered, more, dense_forward):
            np.testing.assert_allclose(state, forward, rtol=1e-12, atol=1e-12)
        assert all(abs(leaf).max() < 1e-15 for leaf in jax.tree.leaves(lost))
        if activation == "tanh":
            assert not np.allclose(early, forward, atol=1e-9)

    check()


def test_dense_and_layered_energies_gradients_and_draws_agree(x64):
    net, dense = layered_network(SIZES, "tanh", mu=0.3), embedded(mu=0.3)
    params, data = layers(jax.random.key(1)), example(jax.random.key(2))
    w_b, _, _ = embed_layers(params)
    x = jax.random.normal(jax.random.key(3), (net.free_dim(data),))
    slope = jax.grad(net.energy)(params, x, data)
    dense_slope = extract_layers(jax.grad(dense.energy)(w_b, x, data), SIZES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), slope, dense_slope)
    np.testing.assert_allclose(net.energy(params, x, data), dense.energy(w_b, x, data))
    for y in (data["y"], None):
        shown = {"x": data["x"], "y": y}
        draws = [
            system.sample_reference(jax.random.key(4), q, shown, 2.0)
            for system, q in ((net, params), (dense, w_b))
        ]
        assert draws[0].shape == (5 if y is not None else 6,)
        np.testing.assert_allclose(*draws, rtol=1e-12)


def test_bulk_loss_at_the_forward_state_is_the_boundary_loss(x64):
    net = layered_network(SIZES, "tanh")
    params = layers(jax.random.key(5))
    data = jax.vmap(example)(jax.random.split(jax.random.key(6), 4))
    forward = jax.vmap(lambda x: jnp.concatenate(net.forward(params, x)))(data["x"])
    free = jax.vmap(lambda x: bulk_loss(net, params, x))(forward)
    held = jax.vmap(lambda x, clamp: bulk_loss(net, params, x, clamp))(forward, data)
    boundary = boundary_loss(net, params, data, "none")
    np.testing.assert_allclose(free, 0, atol=1e-25)
    np.testing.assert_allclose(held, boundary, rtol=1e-12)
    # the prediction by hand: no factor or mean may be lost
    prediction = data["x"]
    for index, (w, b) in enumerate(params):
        prediction = prediction @ w.T + b
        prediction = jnp.tanh(prediction) if index < 2 else prediction
    by_hand = 0.5 * jnp.sum((data["y"] - prediction) ** 2, axis=1)
    np.testing.assert_allclose(boundary, by_hand, rtol=1e-12)
    np.testing.assert_allclose(boundary_loss(net, params, data), by_hand.sum())
    np.testing.assert_allclose(boundary_loss(net, params, data, "mean"), by_hand.mean())


def test_isometric_layers_have_trace_24(x64):
    """E13: n = 4, L = 2, all neurons free."""
    keys = jax.random.split(jax.random.key(7), 2)
    turns = [(jnp.linalg.qr(jax.random.normal(k, (4, 4)))[0], jnp.zeros(4)) for k in keys]
    w_b, support, _ = embed_layers(turns)
    net = dense_network(12, "linear", support=support)
    a = jax.jacfwd(lambda x: net.residual(w_b, x, None))(jnp.zeros(12))
    np.testing.assert_allclose(jnp.trace(jnp.linalg.inv(a.T @ a)), 24, rtol=1e-10)


def test_reference_draws_have_residuals_of_temperature_t():
    """Feedforward: H of the unclamped rows is chi-squared of n degrees over 2 beta."""
    net, beta, count = layered_network(SIZES, "tanh"), 3.0, 4000
    params, data = layers(jax.random.key(8)), example(jax.random.key(9))
    free = {"x": data["x"], "y": None}

    @jax.jit
    @jax.vmap
    def energies(key):
        x = net.sample_reference(key, params, free, beta)
        return net.energy(params, x, free), jnp.var(net.residual(params, x, free))

    h, _ = energies(jax.random.split(jax.random.key(10), count))
    assert abs(z_score(h, 6 / (2 * beta))) < LIMIT
    assert abs(z_score((h - 6 / (2 * beta)) ** 2, 6 / (2 * beta**2))) < LIMIT


def test_recurrent_reference_is_the_bias_with_noise():
    net, beta = dense_network(2, "tanh"), 4.0
    params = {"w": jnp.ones((2, 2)), "b": jnp.array([0.5, -1.0])}
    keys = jax.random.split(jax.random.key(11), 4000)
    x = jax.vmap(lambda key: net.sample_reference(key, params, None, beta))(keys)
    assert np.all(abs(z_score(x, jnp.tanh(params["b"]))) < LIMIT)
    assert np.all(abs(z_score((x - jnp.tanh(params["b"])) ** 2, 1 / beta)) < LIMIT)


def test_free_and_clamped_neurons_are_put_in_neuron_order():
    net = dense_network(5, "tanh", inputs=(3,), outputs=(0, 2))
    both = {"x": jnp.array([30.0]), "y": jnp.array([0.0, 20.0])}
    x = assemble(net, jnp.array([10.0, 40.0]), both)
    assert x.tolist() == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert select_free(net, x, both).tolist() == [10.0, 40.0]
    assert net.free_dim({"x": both["x"], "y": None}) == 4
    assert net.residual(*_zeros(5), x[jnp.array([1, 4])], both).shape == (4,)


def _zeros(n):
    return ({"w": jnp.zeros((n, n)), "b": jnp.zeros(n)},)


def test_absent_weights_are_never_read():
    support = [[False, True], [False, False]]
    net = dense_network(2, "linear", support=support)
    params = {"w": jnp.full((2, 2), jnp.nan).at[0, 1].set(0.5), "b": jnp.zeros(2)}
    assert float(net.energy(params, jnp.array([1.0, 2.0]), None)) == 2.0
    slope = jax.grad(net.energy)(params, jnp.array([2.0, 2.0]), None)
    assert slope["w"].tolist() == [[0.0, -2.0], [0.0, 0.0]]
    assert trainable_mask(net, params)["w"].tolist() == support


def test_equal_descriptions_are_equal_systems():
    one, same = dense_network(2, "tanh", mu=0.5), dense_network(2, jnp.tanh, mu=0.5)
    assert one == same
    assert hash(one) == hash(same)
    assert one != dense_network(2, "tanh", mu=0.4)
    assert layered_network((1, 2), "relu") == layered_network([1, 2], "relu")


def test_kinds_of_networks_are_recognised():
    assert is_feedforward(dense_network(2, "tanh", support=[[0, 1], [0, 0]]))
    assert not is_feedforward(dense_network(2, "tanh", support=[[0, 1], [1, 0]]))
    # a loop through a clamped input is no loop
    assert is_feedforward(dense_network(2, "tanh", inputs=(1,), support=[[0, 1], [1, 0]]))
    assert is_linear(layered_network((1, 2, 1), "linear", mu=1.0))
    assert not is_linear(layered_network((1, 2, 1), "linear", output_activation="tanh"))
    assert not is_linear(layered_network((1, 2, 1), "linear", site_potential=jnp.cosh))


def test_site_potentials_act_on_free_neurons_only(x64):
    net = layered_network((1, 2, 1), "tanh", mu=2.0, site_potential=jnp.cosh)
    bare = layered_network((1, 2, 1), "tanh")
    params, x = layers(jax.random.key(12), (1, 2, 1)), jnp.array([0.3, -0.7])
    data = {"x": jnp.array([5.0]), "y": jnp.array([9.0])}
    extra = net.energy(params, x, data) - bare.energy(params, x, data)
    np.testing.assert_allclose(extra, jnp.sum(x**2) + jnp.sum(jnp.cosh(x)), rtol=1e-13)


def test_flax_parameters_round_trip():
    linen = pytest.importorskip("flax.linen")
    module = linen.Sequential(
        [linen.Dense(3), jnp.tanh, linen.Dense(2, use_bias=False), jnp.tanh, linen.Dense(1)]
    )
    x = jnp.array([0.4, -1.2])
    variables = module.init(jax.random.key(13), x)
    params = from_flax(variables)
    forward = layered_network(SIZES, "tanh").forward(params, x)
    np.testing.assert_allclose(forward[-1], module.apply(variables, x), rtol=1e-5, atol=1e-6)
    back = to_flax(params, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_flax_layers_are_ordered_by_number_or_by_name():
    tree = {
        f"Dense_{i}": {"kernel": jnp.full((1, 1), float(i)), "bias": jnp.zeros(1)}
        for i in (10, 2, 0)
    }
    assert [float(w[0, 0]) for w, _ in from_flax(tree)] == [0.0, 2.0, 10.0]
    order = ["Dense_2", "Dense_10", "Dense_0"]
    assert [float(w[0, 0]) for w, _ in from_flax(tree, order=order)] == [2.0, 10.0, 0.0]
    with pytest.raises(ValueError, match="does not name"):
        from_flax(tree, order=["Dense_2"])
    with pytest.raises(ValueError, match="no dense layer"):
        from_flax({"params": {}})
    with pytest.raises(ValueError, match="layer below"):
        from_flax({"a_0": tree["Dense_0"], "a_1": {"kernel": jnp.ones((2, 1))}})


def test_an_unstable_network_is_not_passed_off_as_settled():
    net = dense_network(1, "tanh", inputs=())
    cycle = {"w": jnp.array([[-3.0]]), "b": jnp.array([0.1])}
    with pytest.raises(ValueError, match="still moves a neuron"):
        settle(net, cycle, jnp.ones(1), 100, tolerance=1e-4)
    run = jax.jit(lambda q: settle(net, q, jnp.ones(1), 100, tolerance=1e-4))
    assert np.isnan(run(cycle)).all()
    stable = {"w": jnp.array([[0.5]]), "b": jnp.array([0.1])}
    assert float(settling_residual(net, stable, run(stable))) < 1e-4
    assert np.isnan(net.forward(cycle, None)).all()
    np.testing.assert_allclose(net.forward(stable, None), run(stable), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: dense_network(3, "tanh", residual_rows=(0,)), "Z diverges"),
        (lambda: dense_network(2, "tanh", inputs=(0,), outputs=(0,)), "disjoint"),
        (lambda: dense_network(2, "tanh", inputs=(5,)), "distinct neurons"),
        (lambda: dense_network(2, "tanh", support=[[1]]), "support has shape"),
        (lambda: dense_network(2, "gelu"), "unknown"),
        (lambda: dense_network(2, "tanh", mu=-1.0), "mu >= 0"),
        (lambda: layered_network((3,), "tanh"), "no layers"),
    ],
)
def test_impossible_networks_are_refused_at_construction(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_impossible_examples_are_refused():
    net = layered_network(SIZES, "tanh")
    with pytest.raises(ValueError, match="no key 'y'"):
        net.free_dim({"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match="vmap over more"):
        net.free_dim({"x": jnp.zeros((4, 2)), "y": None})
    with pytest.raises(ValueError, match="Z diverges"):
        net.free_dim(None)
    assert layered_network(SIZES, "tanh", mu=0.1).free_dim(None) == N
    data = {"x": jnp.zeros(2), "y": jnp.zeros(1)}
    with pytest.raises(ValueError, match="this network takes"):
        net.energy(layers(jax.random.key(0), (2, 3, 1)), jnp.zeros(5), data)
    with pytest.raises(ValueError, match="x_free has shape"):
        net.energy(layers(jax.random.key(0)), jnp.zeros(6), data)
    with pytest.raises(ValueError, match="targets"):
        boundary_loss(net, layers(jax.random.key(0)), {"x": jnp.zeros((1, 2)), "y": None})


def test_float32_stays_float32():
    net, params = layered_network(SIZES, "tanh"), layers(jax.random.key(14))
    data = example(jax.random.key(15))
    with jax.enable_x64(True):
        x = net.sample_reference(jax.random.key(16), params, data, 2.0)
        assert x.dtype == net.energy(params, x, data).dtype == jnp.float32
        assert net.residual(params, x, data).dtype == jnp.float32
