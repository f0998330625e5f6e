"""Work efficiencies: worked examples, closed forms, inequalities, real layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from thermojax.theories.temperature.efficiency import (
    Efficiency,
    activation_efficiency,
    layer_efficiency,
    mean_field_efficiency,
    network_efficiency,
    softmax_efficiency,
)
from thermojax.theories.temperature.engines import engine_class, network_class

relu = jax.nn.relu
gelu = functools.partial(jax.nn.gelu, approximate=False)
leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.01)
identity = lambda z: z

# (eta_C, eta_T, eta_R at q = 1), eta_R at q = 100; worked example 6
TABLE = {
    "relu": (relu, 0.25, 0.340845, 0.5, 0.5),
    "leaky": (leaky, 0.255025, 0.344062, 0.500050, 0.500050),
    "gelu": (gelu, 0.25, 0.345644, 0.455851, 0.505400),
    "silu": (jax.nn.silu, 0.25, 0.313083, 0.379482, 0.507154),
    "elu": (jax.nn.elu, 0.580001, 0.619179, 0.668102, 0.519898),
    "softplus": (jax.nn.softplus, 0.25, 0.271515, 0.293379, 0.460740),
    "tanh": (jnp.tanh, 0.366879, 0.394294, 0.464403, 0.053107),
    "sigmoid": (jax.nn.sigmoid, 0.042692, 0.043379, 0.044836, 0.006607),
}


@pytest.mark.parametrize("name", TABLE)
def test_worked_example(name, x64):
    activation, *expected = TABLE[name]
    found = activation_efficiency(activation, jnp.array([1.0, 100.0]))
    printed = (found.coherent[0], found.transmission[0], *found.response)
    np.testing.assert_allclose(printed, expected, atol=6e-7)
    assert np.all(found.coherent <= found.transmission + 1e-12)
    assert np.all(found.transmission <= found.response + 1e-12)
    np.testing.assert_allclose(found.carnot, 1 - found.transmission)
    single = activation_efficiency(activation, jnp.float32(1.0))
    assert single.response.dtype == jnp.float32
    np.testing.assert_allclose(single.response, expected[2], rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(q=st.floats(1e-4, 1e4), m=st.floats(-3, 3), slope=st.floats(-1, 1))
def test_closed_forms_of_kinked_activations(q, m, slope):
    with jax.enable_x64(True):
        u = m / np.sqrt(q)
        below, peak = norm.cdf(u), norm.pdf(u)
        second = (m**2 + q) * below + m * np.sqrt(q) * peak
        through = (second - (m * below + np.sqrt(q) * peak) ** 2) / q
        found = kinked(slope, q, m)
        expected = (
            (below + slope * (1 - below)) ** 2,
            slope**2 + (1 - slope) ** 2 * through + 2 * slope * (1 - slope) * below,
            below + slope**2 * (1 - below),
        )
        np.testing.assert_allclose(found[:3], expected, atol=2e-9)


@jax.jit
def kinked(slope, q, m):
    return activation_efficiency(lambda z: jnp.where(z > 0, z, slope * z), q, m)


def test_closed_form_of_gelu_and_the_hot_limits(x64):
    q = np.array([1e-3, 0.3, 1.0, 40.0])
    r = np.sqrt(1 + 2 * q)
    angle = 0.25 + np.arcsin(q / (1 + q)) / (2 * np.pi) + q / (np.pi * (1 + q) * r)
    found = activation_efficiency(gelu, q)
    np.testing.assert_allclose(found.coherent, 0.25, atol=1e-10)
    np.testing.assert_allclose(found.transmission, angle - q / (2 * np.pi * (1 + q)), atol=1e-9)
    np.testing.assert_allclose(found.response, angle + q / (2 * np.pi * r**3), atol=1e-10)
    hot = jnp.array([1e4])
    tail = np.sqrt(2 * np.pi * 1e4)
    response = lambda g, q=hot: activation_efficiency(g, q).response
    np.testing.assert_allclose(response(jax.nn.sigmoid), 1 / (6 * tail), rtol=1e-3)
    np.testing.assert_allclose(response(jnp.tanh), 4 / (3 * tail), rtol=1e-3)
    np.testing.assert_allclose(response(jax.nn.softplus), 0.5 - 1 / tail, rtol=1e-4)
    np.testing.assert_allclose(response(jnp.tanh, 3.0), 16 * response(jax.nn.sigmoid, 12.0))
    cold = activation_efficiency(jax.nn.sigmoid, 1e-4).response
    np.testing.assert_allclose(cold, 1 / 16 - 1e-4 / 32, rtol=1e-6)
    # far from the kink and narrow: the density lies on one side of 0
    np.testing.assert_allclose(activation_efficiency(relu, 1e-4, 3.0)[:3], 1.0, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(k=st.floats(0.1, 5), q=st.floats(0.1, 10))
def test_rescaled_activations(k, q):
    """k g has k^2 times the efficiencies, g(k z) those of k^2 q times k^2."""
    with jax.enable_x64(True):
        base = stretched(1.0, 1.0, q)
        np.testing.assert_allclose(stretched(k, 1.0, q), k**2 * base, rtol=1e-10)
        np.testing.assert_allclose(
            stretched(1.0, k, q), k**2 * stretched(1.0, 1.0, k**2 * q), rtol=1e-8
        )
        assert base[2] <= 1.13**2


@jax.jit
def stretched(outer, inner, q):
    found = activation_efficiency(lambda z: outer * gelu(inner * z), q)
    return jnp.stack(found[:3])


def test_softmax(x64):
    for q, expected in ((1.0, 0.0740532), (100.0, 0.0093730)):
        np.testing.assert_allclose(softmax_efficiency(2, q).response, expected, atol=6e-8)
    for classes, expected in ((3, (0.055897, 0.009069)), (10, (0.01213, 0.00455))):
        for q, value in zip((1.0, 100.0), expected, strict=True):
            found = softmax_efficiency(classes, q, key=jax.random.key(0), samples=50_000)
            assert abs(found.response - value) < 4 * found.stderr + 2e-5
            assert found.stderr < 0.03 * value
    small = softmax_efficiency(5, 1e-8, key=jax.random.key(1), samples=1000)
    np.testing.assert_allclose(small.response, 4 / 125, rtol=1e-3)
    assert np.isnan(small.coherent)


def test_mean_field_of_a_stack(x64):
    """tanh with sw^2 = 1: the pilot's .46, .63, .73; relu stays at a half."""
    found = mean_field_efficiency(jnp.tanh, 3, 1.0, 0.0, jnp.array([1.0, 1.0]))
    assert found.response.shape == (3,)
    q = 1.0
    for layer in range(3):
        one = activation_efficiency(jnp.tanh, q)
        np.testing.assert_allclose(found.response[layer], one.response, rtol=1e-10)
        q = float(one.transmission * q)  # E g = 0: Var a = E g^2
    np.testing.assert_allclose(found.response, [0.46, 0.63, 0.73], atol=0.01)
    biased = mean_field_efficiency(relu, 2, 2.0, 0.5, 0.7)
    np.testing.assert_allclose(biased.response, 0.5, atol=1e-12)


def tapped(params, x, taps):
    signals, h = {}, x
    for name, weight in params.items():
        z = h @ weight + taps[name][0]
        a = jnp.tanh(z) + taps[name][1]
        signals[name], h = (z, a), a
    return jnp.sum(jnp.sin(h)), signals


def test_layers_of_a_real_network_against_finite_forces(x64):
    rng = np.random.default_rng(0)
    params = {"one": rng.normal(size=(3, 4)), "two": rng.normal(size=(4, 2))}
    x = rng.normal(size=(5, 3))
    taps = {n: (jnp.zeros((5, w.shape[1])),) * 2 for n, w in params.items()}
    effs = layer_efficiency(tapped, params, x, taps)
    _, signals = tapped(params, x, taps)
    for name in params:
        z, _ = signals[name]
        force = np.zeros(z.shape)
        for index in np.ndindex(*z.shape):
            bump = np.zeros(z.shape)
            bump[index] = 1e-6
            up, down = (
                tapped(params, x, taps | {name: (taps[name][0], s * bump)})[0] for s in (1, -1)
            )
            force[index] = (up - down) / 2e-6
        slope = 1 - np.tanh(z) ** 2
        expected = np.sum((slope * force) ** 2) / np.sum(force**2)
        np.testing.assert_allclose(effs[name].response, expected, rtol=1e-7)
        through = np.var(np.tanh(z), axis=0).sum() / np.var(z, axis=0).sum()
        np.testing.assert_allclose(effs[name].transmission, through, rtol=1e-12)
        assert effs[name].coherent <= effs[name].transmission
    net = network_efficiency(effs)
    np.testing.assert_allclose(net, effs["one"].response * effs["two"].response)


def test_slope_of_an_activation_is_differentiable(x64):
    def net(alpha):
        found = mean_field_efficiency(lambda z: jnp.tanh(alpha * z), 2, 1.5, 0.1, 1.0)
        return network_efficiency(
            {str(i): Efficiency(0, 0, r) for i, r in enumerate(found.response)}
        )

    h = 1e-5
    expected = (net(0.8 + h) - net(0.8 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(net)(0.8), expected, rtol=1e-8)


def test_classes():
    persistent = (identity, relu, leaky, jax.nn.elu, gelu, jax.nn.silu, jax.nn.softplus)
    assert {engine_class(g) for g in persistent} == {"persistent"}
    assert {engine_class(g) for g in (jnp.tanh, jax.nn.sigmoid, "softmax")} == {"saturating"}
    assert network_class([relu, jnp.tanh]).name == "saturating"
    assert network_class([relu, gelu]) == ("persistent", False)
    assert network_class([identity, lambda z: -z]) == ("persistent", True)


def test_mistakes_in_efficiencies_are_named():
    with pytest.raises(ValueError, match="variance=-1"):
        activation_efficiency(relu, -1.0)
    with pytest.raises(ValueError, match="at least 2"):
        softmax_efficiency(1, 1.0)
    with pytest.raises(ValueError, match="give key="):
        softmax_efficiency(3, 1.0)
    with pytest.raises(ValueError, match="depth=0"):
        mean_field_efficiency(relu, 0, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="empty"):
        layer_efficiency(tapped, {}, None, {})
    with pytest.raises(ValueError, match="increase"):
        engine_class(relu, variances=(1e4, 1e2))
    with pytest.raises(ValueError, match="'sigmoid'"):
        engine_class("sigmoid")
