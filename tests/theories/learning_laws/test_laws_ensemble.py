"""The canonical ensemble: worked numbers, identities, reductions, transformations, errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermojax.theories.learning_laws.ensemble import (
    log_partition,
    thermodynamic_state,
    total_free_energy,
)
from thermojax.theories.learning_laws.septuple import dense_network, layered_network

pytestmark = pytest.mark.usefixtures("x64")

LINEAR = layered_network((1, 1, 1), "linear")
TANH = layered_network((1, 1, 1, 1), "tanh")
BENT = layered_network((1, 1, 1), "tanh", output_activation="tanh")
LOOP = dense_network(2, "linear")


def chain(weights, biases):
    pairs = zip(weights, biases, strict=True)
    return [(jnp.array([[w]], float), jnp.array([b], float)) for w, b in pairs]


def batch(x, y=None):
    column = lambda values: jnp.array(values, float)[:, None]
    return {"x": column(x), "y": None if y is None else column(y)}


def loop_params():
    return {"w": jnp.array([[0.2, 0.5], [-0.3, 0.1]]), "b": jnp.array([0.4, -0.2])}


def close(value, exact, digits=9):
    np.testing.assert_allclose(value, exact, rtol=0, atol=0.6 * 10.0**-digits)


def test_a_recurrent_linear_network():
    free = lambda q: total_free_energy(LOOP, q, None, 2.0)
    state = thermodynamic_state(LOOP, loop_params(), None, 2.0)
    slope = jax.grad(free)(loop_params())
    close(state.log_z, 1.2839919532)
    close(state.free_energy, -0.6419959766)
    close(state.complexity, 0.1392620673)
    close([state.internal_energy, state.heat_capacity, state.excess], [0.5, 1.0, 0.0])
    exact = [-0.5172413793, 0.1724137931, -0.2873563218, -0.4597701149]
    close(slope["w"].ravel(), exact)
    close(slope["b"], [0.0, 0.0])


def test_a_clamped_linear_chain():
    params, data = chain([0.8, -0.6], [0.1, 0.2]), batch([1.5], [0.3])
    state = thermodynamic_state(LINEAR, params, data, 4.0)
    exact = {
        "log_z": -1.0667745266,
        "free_energy": 0.2666936317,
        "internal_energy": 0.4097058824,
        "entropy": 0.5720490028,
        "heat_capacity": 0.5,
        "complexity": -1.2925658793,
        "excess": 1.1388235294,
    }
    for name, value in exact.items():
        close(getattr(state, name), value)
    slopes = {
        "free_energy": [0.5823529412, 0.3882352941, -0.7002595156, -0.6470588235],
        "internal_energy": [0.5823529412, 0.3882352941, -0.5899653979, -0.6470588235],
        "entropy": [0.0, 0.0, 0.4411764706, 0.0],
    }

    def chosen(q):
        out = thermodynamic_state(LINEAR, q, data, 4.0)
        return {name: getattr(out, name) for name in slopes}

    found = jax.jit(jax.jacrev(chosen))(params)
    for name, value in slopes.items():
        close([float(leaf.ravel()[0]) for leaf in jax.tree.leaves(found[name])], value)


def test_examples_add():
    net = layered_network((2, 2, 1), "linear")
    params = [
        (jnp.array([[0.5, -0.2], [0.3, 0.7]]), jnp.array([0.1, -0.1])),
        (jnp.array([[0.6, -0.9]]), jnp.array([0.05])),
    ]
    data = {"x": jnp.array([[1.0, -0.5], [0.2, 0.8]]), "y": jnp.array([[0.7], [-0.4]])}
    state = lambda reduction: thermodynamic_state(net, params, data, 3.0, reduction=reduction)
    each, total, mean = (state(reduction) for reduction in ("none", "sum", "mean"))
    close(each.log_z, [0.3456627147, 0.3518763092])
    close(each.internal_energy, [0.3354128264, 0.3333416283])
    close(total.log_z, 0.6975390239)
    for name in ("log_z", "internal_energy", "entropy", "heat_capacity", "log_z_ref", "excess"):
        np.testing.assert_allclose(getattr(total, name), np.sum(getattr(each, name)))
        np.testing.assert_allclose(getattr(mean, name), np.mean(getattr(each, name)))
    close(total.log_z_ref, 2 * np.log(2 * np.pi / 3))
    # quenched: not the logarithm of a mean of Z
    assert abs(mean.log_z - jax.nn.logmeanexp(each.log_z)) > 1e-6


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_free_outputs_are_the_reference(name):
    net = layered_network((2, 5, 4, 3), name, output_activation=name)
    sizes, key = (2, 5, 4, 3), jax.random.key(0)
    pairs = itertools.pairwise(sizes)
    params = [(jax.random.normal(key, (m, n)), jnp.ones(m)) for n, m in pairs]
    data = {"x": jnp.ones((3, 2)), "y": None}
    free = lambda q: total_free_energy(net, q, data, 2.0)
    state = thermodynamic_state(net, params, data, 2.0)  # no key: nothing is sampled
    close(state.log_z, 3 * 6 * np.log(np.pi), 12)
    assert state.complexity == 0
    assert state.excess == 0
    assert state.stderr == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(jax.grad(free)(params)))


def test_blocks_of_neurons_add():
    net, alone = dense_network(2, "tanh"), dense_network(1, "tanh")
    state = functools.partial(thermodynamic_state, data=None, beta=4.0)
    pair = state(net, {"w": jnp.diag(jnp.array([0.5, -0.8])), "b": jnp.array([0.3, 0.1])})
    parts = [
        state(alone, {"w": jnp.array([[w]]), "b": jnp.array([b])})
        for w, b in ((0.5, 0.3), (-0.8, 0.1))
    ]
    close(pair.log_z, parts[0].log_z + parts[1].log_z)
    close(pair.entropy, parts[0].entropy + parts[1].entropy)


@functools.cache
def bent_state():
    """States and d(log Z, F, S, C)/d(params, data, beta) of a tanh net, in one program."""

    def state(weights, biases, x, y, beta):
        params, data = chain_of(weights, biases), {"x": x[None, None], "y": y[None, None]}
        out = thermodynamic_state(BENT, params, data, beta, panels=12)
        return jnp.stack([out.log_z, out.free_energy, out.entropy, out.complexity]), out

    return jax.jit(state), jax.jit(jax.jacrev(lambda *at: state(*at)[0], argnums=range(5)))


def chain_of(weights, biases):
    return [(w.reshape(1, 1), b.reshape(1)) for w, b in zip(weights, biases, strict=True)]


numbers = st.floats(-2, 2)


@given(
    weights=st.tuples(numbers, numbers),
    biases=st.tuples(numbers, numbers),
    x=numbers,
    y=st.floats(-0.9, 0.9),
    beta=st.floats(0.5, 30),
)
@settings(max_examples=15, deadline=None)
def test_identities_of_one_temperature(weights, biases, x, y, beta):
    with jax.enable_x64(True):
        given = [jnp.array(v, float) for v in (weights, biases, x, y, beta)]
        value, out = bent_state()[0](*given)
        slopes = bent_state()[1](*given)
        close(out.entropy, beta * out.internal_energy + out.log_z, 10)
        close(out.entropy, out.entropy_ref + out.complexity + out.excess, 10)
        close(out.free_energy, out.internal_energy - out.entropy / beta, 10)
        assert out.heat_capacity >= 0
        close(slopes[4][0], -out.internal_energy)
        close(slopes[4][1], out.entropy / beta**2)
        close(slopes[4][2], -out.heat_capacity / beta)  # U falls, log Z is convex
        close(slopes[4][3], 0.5 / beta - out.internal_energy)
        # flipping the sign of a tanh unit is no change
        flipped = bent_state()[0](
            given[0] * jnp.array([-1, -1]), given[1] * jnp.array([-1, 1]), *given[2:]
        )
        close(flipped[0], value)


def of_route(method):
    if method == "gaussian":
        return LINEAR, [0.8, -0.6, 0.1, 0.2]
    if method == "quadrature":
        return layered_network((1, 1, 1), "linear", output_activation="relu"), [
            *(0.8, 0.9, 0.1, -0.4)
        ]
    return BENT, [0.8, 0.9, 0.1, 0.2]


@pytest.mark.parametrize("method", ["gaussian", "linearized", "laplace", "quadrature"])
def test_slopes_against_finite_differences(method):
    net, q = of_route(method)

    def values(at):
        params = chain_of(at[:2], at[2:4])
        data = {"x": at[4].reshape(1, 1), "y": at[5].reshape(1, 1)}
        out = thermodynamic_state(net, params, data, at[6], method=method)
        return jnp.stack([out.log_z, out.free_energy, out.entropy, out.complexity])

    at = jnp.array([*q, 0.7, 0.3, 5.0])
    step = 1e-5 * jnp.eye(7)
    ends = jax.jit(jax.vmap(values))(jnp.concatenate([at + step, at - step]))
    rises = (ends[:7] - ends[7:]) / 2e-5
    slopes = jax.jit(jax.jacrev(values))(at)
    np.testing.assert_allclose(slopes.T, rises, rtol=1e-6, atol=1e-8)
    assert np.all(np.abs(slopes[0]) > 1e-3)


def test_transformations_change_nothing():
    params, data = chain([0.8, 0.9], [0.1, 0.2]), batch([0.7, -0.4], [0.3, 0.6])
    nets = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.3 * leaf, -leaf]), params)
    betas = jnp.array([1.0, 6.0])
    value = lambda q, beta: log_partition(BENT, q, data, beta, panels=8)
    over = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(value), (None, 0)), (0, None)))
    together, slopes = over(nets, betas)
    assert together.shape == (3, 2)
    one = jax.tree.map(lambda leaf: leaf[1], nets)
    alone, slope = jax.value_and_grad(value)(one, betas[1])
    close(together[1, 1], alone, 12)
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(slope), strict=True):
        close(a[1, 1], b, 12)


@pytest.mark.parametrize("method", ["quadrature", "linearized", "forward"])
def test_single_precision_stays_single(method):
    params, data = chain([0.8, 0.9], [0.1, 0.2]), batch([0.7], [0.3])
    run = lambda *args: thermodynamic_state(
        BENT, *args, 5.0, method=method, key=jax.random.key(0)
    )
    double = run(params, data)
    narrow = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    single = run(narrow(params), narrow(data))
    for name, leaf in single._asdict().items():
        assert leaf.dtype == (jnp.uint32 if name == "flags" else jnp.float32), name
    if method != "forward":
        np.testing.assert_allclose(single.log_z, double.log_z, atol=2e-5)


def test_auto_takes_the_exact_route():
    params = chain([0.5, 1.2, 0.8], [0.1, -0.3, 0.05])
    close(thermodynamic_state(TANH, params, batch([1.0], [0.4]), 5.0).log_z, -0.1796723115)
    wide = layered_network((1, 3, 1), "tanh", output_activation="tanh")
    q = [(jnp.ones((3, 1)), jnp.zeros(3)), (jnp.ones((1, 3)), jnp.zeros(1))]
    data = batch([1.0], [0.4])
    auto = log_partition(wide, q, data, 5.0)
    assert auto == log_partition(wide, q, data, 5.0, method="linearized")
    one = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
    prior = lambda q: 0.5 * jnp.sum(q["w"] ** 2)
    free = total_free_energy(dense_network(1, "tanh"), one, None, 4.0, prior=prior)
    close(free, -0.6986384550029128 / 4 + 0.125)


def test_refusals():
    params, data = chain([0.8, 0.9], [0.1, 0.2]), batch([0.7], [0.3])
    run = functools.partial(thermodynamic_state, BENT, params)
    with pytest.raises(ValueError, match=r"beta = -1\.0"):
        run(data, -1.0)
    with pytest.raises(ValueError, match="method='magic' is unknown"):
        run(data, 1.0, method="magic")
    with pytest.raises(ValueError, match="reduction='max' is unknown"):
        run(data, 1.0, reduction="max")
    with pytest.raises(ValueError, match="method='ais' samples: give key"):
        run(data, 1.0, method="ais")
    with pytest.raises(ValueError, match="option 'chains' is unknown to method='quadrature'"):
        run(data, 1.0, method="quadrature", chains=3)
    with pytest.raises(ValueError, match="data has shapes"):
        run({"x": jnp.zeros((2, 1)), "y": jnp.zeros((3, 1))}, 1.0)
    with pytest.raises(ValueError, match="belongs to none"):
        total_free_energy(BENT, params, data, 1.0, reduction="none", prior=lambda q: 0.0)
    loop = dense_network(3, "tanh")
    zeros = {"w": jnp.zeros((3, 3)), "b": jnp.zeros(3)}
    with pytest.raises(ValueError, match="give key="):
        thermodynamic_state(loop, zeros, None, 1.0)
    four = dense_network(4, "tanh")
    zeros = {"w": jnp.zeros((4, 4)), "b": jnp.zeros(4)}
    with pytest.raises(ValueError, match="not 4"):
        thermodynamic_state(four, zeros, None, 1.0, method="quadrature")
    with pytest.raises(ValueError, match="method='forward' needs a feedforward network"):
        thermodynamic_state(four, zeros, None, 1.0, method="forward", key=jax.random.key(0))


def test_a_singular_loop_diverges_under_jit():
    marginal = lambda s: log_partition(
        LOOP, {"w": s * jnp.eye(2), "b": jnp.zeros(2)}, None, 2.0
    )
    assert jax.jit(marginal)(1.0) == np.inf
    assert np.isfinite(jax.jit(marginal)(0.9))
