"""The Laplacian of the total free energy, exact and probed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scores import check
from thermojax import Flag
from thermojax.theories.learning_laws.efficiency import learning_efficiency
from thermojax.theories.learning_laws.embedding import embed_layers
from thermojax.theories.learning_laws.ensemble import log_partition
from thermojax.theories.learning_laws.septuple import dense_network, layered_network

ONE = np.ones((1, 1))
TANH = layered_network((1, 1, 1, 1), "tanh")
CHAIN = ((0.5, 1.2, 0.8), (0.1, -0.3, 0.05))
DEEP = layered_network((2, 3, 2), "tanh")


def chain(weights, biases):
    return [
        (w * jnp.ones((1, 1)), b * jnp.ones(1)) for w, b in zip(weights, biases, strict=True)
    ]


def deep(dtype=float, scale=1.0):
    rng = np.random.default_rng(0)
    shapes = ((3, 2), (2, 3))
    return [
        (
            scale * jnp.asarray(rng.normal(size=s), dtype),
            jnp.asarray(rng.normal(size=s[0]), dtype),
        )
        for s in shapes
    ]


def examples(dtype=float):
    rng = np.random.default_rng(1)
    return {"x": jnp.asarray(rng.normal(size=(3, 2)), dtype), "y": jnp.ones((3, 2), dtype)}


def test_recurrent_linear_networks(x64):
    """E1 and I7: -|A^-1|_F^2 / beta over the weights, nothing from the biases."""
    net = dense_network(2, "linear")
    of = jax.jit(lambda q, beta: learning_efficiency(net, q, None, beta))
    worked = {"w": jnp.array([[0.2, 0.5], [-0.3, 0.1]]), "b": jnp.array([0.4, -0.2])}
    found = of(worked, 2.0)
    np.testing.assert_allclose(found.value, -1.1824547496, atol=1e-9)
    assert (found.n_entries, found.stderr, found.flags) == (6, 0, 0)
    rng = np.random.default_rng(2)
    for beta in (0.5, 3.0):
        w = rng.normal(size=(2, 2)) * 0.3
        exact = -np.sum(np.linalg.inv(np.eye(2) - w) ** 2) / beta
        found = of({"w": jnp.asarray(w), "b": jnp.asarray(rng.normal(size=2))}, beta)
        np.testing.assert_allclose(found.value, exact, rtol=1e-10)


def test_a_clamped_linear_chain(x64):
    """E2."""
    net = layered_network((1, 1, 1), "linear")
    data = {"x": 1.5 * ONE, "y": 0.3 * ONE}
    found = learning_efficiency(net, chain((0.8, -0.6), (0.1, 0.2)), data, 4.0)
    np.testing.assert_allclose(found.value, 1.4649399552, atol=1e-9)


def test_one_free_tanh_neuron(x64):
    """E4."""
    params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
    found = learning_efficiency(dense_network(1, "tanh"), params, None, 4.0)
    np.testing.assert_allclose(found.value, 0.4156453706, atol=1e-9)


def test_a_clamped_tanh_chain(x64):
    """E5."""
    data = {"x": ONE, "y": 0.4 * ONE}
    found = learning_efficiency(TANH, chain(*CHAIN), data, 5.0)
    np.testing.assert_allclose(found.value, 1.0549828408, atol=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_free_outputs_destroy_nothing(x64, activation):
    """E6 and I5."""
    net = layered_network((1, 1, 1, 1), activation)
    found = learning_efficiency(net, chain(*CHAIN), {"x": ONE, "y": None}, 5.0)
    assert (found.value, found.flags) == (0, 0)


def test_a_kink_that_a_free_neuron_crosses(x64):
    """E7: quadrature knows the delta at the kink, samples of H do not and say so."""
    net = layered_network((1, 1, 1), "linear", output_activation="relu")
    params, data = chain((0.5, 1.0), (0.0, -0.3)), {"x": ONE, "y": 0.4 * ONE}
    bias = [(np.zeros((1, 1)), np.zeros(1)), (np.zeros((1, 1)), np.ones(1))]
    log_z = log_partition(net, params, data, 2.0)
    np.testing.assert_allclose(log_z, 0.3910870014, atol=1e-9)
    found = learning_efficiency(net, params, data, 2.0, support=bias)
    np.testing.assert_allclose(found.value, 0.2185871082, atol=1e-9)
    assert (found.n_entries, found.flags) == (1, 0)
    options = {"method": "forward", "samples": 4000, "key": jax.random.key(0)}
    blind = learning_efficiency(net, params, data, 2.0, support=bias, **options)
    np.testing.assert_allclose(blind.value, 0.4400771311, atol=0.05)
    assert blind.flags == Flag.KINKED
    # differences of its gradient over a finite step see what it misses
    options = options | {"laplacian": "smoothed", "width": 0.1}
    seen = jax.vmap(
        lambda key: (
            learning_efficiency(
                net, params, data, 2.0, support=bias, **(options | {"key": key})
            ).value
        )
    )(jax.random.split(jax.random.key(1), 12))
    check(seen, 0.2185871082)


def test_smooth_samples_are_not_flagged(x64):
    options = {"method": "forward", "samples": 20_000, "key": jax.random.key(0)}
    found = learning_efficiency(TANH, chain(*CHAIN), {"x": ONE, "y": 0.4 * ONE}, 5.0, **options)
    assert found.flags == 0
    np.testing.assert_allclose(found.value, 1.0549828408, atol=0.1)


def test_probes_against_the_whole_hessian(x64):
    params, data = deep(), examples()
    exact = jax.jit(lambda q: learning_efficiency(DEEP, q, data, 2.0))(params)
    options = {"laplacian": "hutch++", "probes": 40, "key": jax.random.key(2)}
    share = jax.jit(
        lambda q: learning_efficiency(DEEP, q, data, 2.0, per_parameter=True, **options)
    )(params)
    check(17 * share.value, exact.value, 17 * share.stderr)
    assert 17 * share.stderr < 0.1 * abs(exact.value)
    assert (share.n_entries, share.n_eff) == (17, 40)


def test_a_dense_net_counts_the_entries_that_train(x64):
    layers = deep()
    params, support, _ = embed_layers(layers)
    net = dense_network(
        7, "tanh", output_activation="linear", inputs=(0, 1), outputs=(5, 6), support=support
    )
    data = examples()
    found = jax.jit(lambda q: learning_efficiency(net, q, data, 2.0, method="linearized"))(
        params
    )
    exact = jax.jit(lambda q: learning_efficiency(DEEP, q, data, 2.0))(layers)
    np.testing.assert_allclose(found.value, exact.value, rtol=1e-9)
    assert found.n_entries == 17


def test_gradient_with_respect_to_the_scale_of_the_weights(x64):
    """What an architecture's initialisation does to its efficiency."""
    data = examples()
    at = jax.jit(lambda s: learning_efficiency(DEEP, deep(scale=s), data, 2.0).value)
    h = 1e-4
    slope = jax.jit(jax.grad(at))(0.8)
    np.testing.assert_allclose(slope, (at(0.8 + h) - at(0.8 - h)) / (2 * h), rtol=1e-6)
    assert abs(slope) > 1


def test_networks_and_temperatures_by_vmap(x64):
    data, scales, betas = examples(), jnp.array([0.5, 1.2]), jnp.array([1.0, 10.0])
    one = jax.jit(lambda s, b: learning_efficiency(DEEP, deep(scale=s), data, b).value)
    together = jax.vmap(one)(scales, betas)
    each = [one(s, b) for s, b in zip(scales, betas, strict=True)]
    np.testing.assert_allclose(together, each, rtol=1e-10)


def test_single_precision():
    data = examples(np.float32)
    of = jax.jit(
        lambda q, d: learning_efficiency(DEEP, q, d, jnp.asarray(2.0, d["x"].dtype)).value
    )
    single = of(deep(np.float32), data)
    assert single.dtype == jnp.float32
    with jax.enable_x64(True):
        double = of(*jax.tree.map(lambda x: x.astype(float), (deep(np.float32), data)))
    np.testing.assert_allclose(single, double, rtol=1e-4)


def test_a_prior_adds_its_laplacian_to_the_mean_over_examples(x64):
    net = layered_network((1, 1, 1), "linear")
    # twice the same example: their mean is E2
    data = {"x": np.full((2, 1), 1.5), "y": np.full((2, 1), 0.3)}
    prior = lambda q: 0.25 * sum(jnp.sum(x**2) for x in jax.tree.leaves(q))
    options = {"prior": prior, "reduction": "mean"}
    found = learning_efficiency(net, chain((0.8, -0.6), (0.1, 0.2)), data, 4.0, **options)
    np.testing.assert_allclose(found.value, 1.4649399552 + 4 * 0.5, atol=1e-9)


def test_probes_need_a_key():
    net = layered_network((1, 1, 1), "linear")
    params = chain((0.8, -0.6), (0.1, 0.2))
    with pytest.raises(ValueError, match="give key="):
        learning_efficiency(net, params, {"x": ONE, "y": ONE}, 4.0, laplacian="hutchinson")
