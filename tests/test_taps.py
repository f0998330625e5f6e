"""Taps found in traced networks: values, forces, places, and what is refused."""

import functools
import subprocess
import sys

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from thermojax.taps import tap_network
from thermojax.theories.temperature.efficiency import (
    layer_efficiency,
    mean_field_efficiency,
)
from thermojax.typing import ShapeError

RNG = np.random.default_rng(0)
ROWS, WIDE = 5, 4
X = jnp.asarray(RNG.normal(size=(ROWS, 3)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(ROWS, 2)), jnp.float32)
IMAGES = jnp.asarray(RNG.normal(size=(ROWS, 8, 8, 1)), jnp.float32)
WEIGHTS = {
    "one": jnp.asarray(RNG.normal(size=(3, WIDE)), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(WIDE, 2)), jnp.float32),
    "two": jnp.asarray(RNG.normal(size=(WIDE, WIDE)), jnp.float32),
}


def half_square(outputs, targets):
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)


def leaky_by_hand(x):
    return jnp.where(x > 0, x, 0.01 * x)


def sigmoid_by_hand(x):
    return 1 / (1 + jnp.exp(-x))


ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "hard_tanh": jax.nn.hard_tanh,
    "softplus_by_hand": lambda x: jnp.log(1 + jnp.exp(x)),
    "silu_by_hand": lambda x: x * sigmoid_by_hand(x),
    "leaky_by_hand": leaky_by_hand,
    "selu_by_hand": lambda x: 1.05 * jnp.where(x > 0, x, 1.67 * jnp.expm1(x)),
    "maximum": lambda x: jnp.maximum(x, 0.1 * x),
    "square": lambda x: x**2,
    "jitted": jax.jit(lambda x: jnp.tanh(x) * 0.5),
}


class Compact(linen.Module):
    act: object
    bias: bool = True

    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = self.act(linen.Dense(WIDE, use_bias=self.bias)(x))
        return linen.Dense(2)(x)


def by_hand(act):
    """Taps of `Compact`, written into the network."""

    def apply_with_taps(params, batch, taps):
        x, y = batch
        signals = {}
        for name in ("Dense_0", "Dense_1"):
            z = x @ params[name]["kernel"] + params[name]["bias"] + taps[name][0]
            x = act(z) + taps[name][1]
            signals[name] = (z, x)
        out = x @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]
        return jnp.sum(half_square(out, y)), signals

    return apply_with_taps


def linen_params(module, x=X, key=0):
    params = module.init(jax.random.key(key), x)["params"]
    return jax.tree.map(lambda p: p + 0.1, params)  # biases that matter


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_taps_equal_those_written_by_hand(name):
    """The activation's segment is the activation, whole, however it is written."""
    module = Compact(ACTIVATIONS[name])
    params = linen_params(module)
    apply_with_taps, taps = tap_network(module, half_square, params, X)
    assert list(taps) == ["Dense_0", "Dense_1"]
    assert all(t.shape == (ROWS, WIDE) and not t.any() for t in jax.tree.leaves(taps))
    hand = by_hand(ACTIVATIONS[name])
    for fn in (apply_with_taps, hand):
        total, _ = fn(params, (X, Y), taps)
        np.testing.assert_allclose(
            total, jnp.sum(half_square(module.apply({"params": params}, X), Y)), rtol=1e-5
        )
    found = layer_efficiency(apply_with_taps, params, (X, Y), taps)
    wanted = layer_efficiency(hand, params, (X, Y), taps)
    for layer in taps:
        np.testing.assert_allclose(found[layer][:3], wanted[layer][:3], rtol=2e-5)


class Setup(linen.Module):
    def setup(self):
        self.body = linen.Sequential(
            [linen.Dense(WIDE), jnp.tanh, linen.Dense(WIDE), linen.relu]
        )
        self.head = linen.Dense(2)

    def __call__(self, x):
        return self.head(self.body(x))


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.body = nnx.Sequential(nnx.Linear(3, WIDE, rngs=rngs), nnx.tanh)
        self.middle = nnx.Linear(WIDE, WIDE, rngs=rngs)
        self.head = nnx.Linear(WIDE, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.middle(self.body(x))))


class Convolutional(linen.Module):
    """Pooling after the activation, and before it."""

    @linen.compact
    def __call__(self, x):
        x = linen.max_pool(linen.relu(linen.Conv(3, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = linen.tanh(linen.avg_pool(linen.Conv(4, (3, 3))(x), (2, 2), strides=(2, 2)))
        x = linen.gelu(linen.Dense(6)(x.reshape(x.shape[0], -1)))
        return linen.Dense(2)(x)


class Normed(linen.Module):
    """Norms before the activation belong to z, behind it to the next layer."""

    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.LayerNorm()(linen.Dense(WIDE)(x)))
        x = linen.RMSNorm()(linen.relu(linen.Dense(WIDE)(x)))
        x = linen.Dense(WIDE)(x)
        x = jnp.tanh(linen.BatchNorm(use_running_average=True)(x))
        return linen.softmax(linen.Dense(2)(x))


@functools.cache
def kinds():
    """Network, params, inputs, names of its layers, and the network as a function."""
    deep = Nnx()
    state = nnx.state(deep, nnx.Param)
    pure = nnx.to_pure_dict(state)
    plain = lambda w, x: jax.nn.relu(jnp.tanh(x @ w["one"]) @ w["two"] + 0.3) @ w["out"]
    normed = Normed().init(jax.random.key(0), X)
    setup, image = Setup(), Convolutional()
    image_params = image.init(jax.random.key(0), IMAGES)
    linen_of = lambda m: lambda p, x: m.apply(p if "params" in p else {"params": p}, x)
    nnx_of = lambda p, x: _merged(deep, p)(x)
    dense = ["Dense_0", "Dense_1", "Dense_2"]
    return {
        "setup": (
            setup,
            linen_params(setup),
            X,
            ["body/layers_0", "body/layers_2"],
            linen_of(setup),
        ),
        "nnx": (deep, pure, X, ["body/layers/0", "middle"], nnx_of),
        "nnx_state": (deep, state, X, ["body/layers/0", "middle"], nnx_of),
        "plain": (plain, WEIGHTS, X, ["one", "two"], plain),
        "image": (
            image,
            image_params,
            IMAGES,
            ["Conv_0", "Conv_1", "Dense_0"],
            linen_of(image),
        ),
        "normed": (Normed(), normed, X, dense, linen_of(Normed())),
    }


def _merged(module, params):
    graphdef, state = nnx.split(module, nnx.Param)
    leaves = jax.tree.leaves(params)
    return nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), leaves))


@pytest.mark.parametrize("kind", ["setup", "nnx", "nnx_state", "plain", "image", "normed"])
def test_values_with_zero_taps_are_those_of_the_network(kind):
    network, params, x, names, apply = kinds()[kind]
    outputs = {}

    def total(out, y):
        outputs["found"] = out
        return jnp.sum(out * y)

    apply_with_taps, taps = tap_network(network, total, params, x)
    assert list(taps) == names
    value, signals = apply_with_taps(params, (x, Y), taps)
    expected = apply(params, x)
    np.testing.assert_array_equal(outputs["found"], expected)
    assert value == total(expected, Y)
    assert {n: (z.shape, a.shape) for n, (z, a) in signals.items()} == {
        n: (z.shape, a.shape) for n, (z, a) in taps.items()
    }
    # a tap moves the output
    moved = jax.tree.map(lambda t: t + 0.1, taps)
    for name in names:
        for one in ((moved[name][0], taps[name][1]), (taps[name][0], moved[name][1])):
            assert apply_with_taps(params, (x, Y), taps | {name: one})[0] != value


def test_places_in_an_image_network():
    """Before pooling where the activation comes first, behind it where it comes later."""
    _, params, x, _, _ = kinds()["image"]
    apply_with_taps, taps = tap_network(Convolutional(), half_square, params, x)
    shapes = {name: z.shape[1:] for name, (z, _) in taps.items()}
    assert shapes == {"Conv_0": (8, 8, 3), "Conv_1": (2, 2, 4), "Dense_0": (6,)}
    _, signals = apply_with_taps(params, (x, Y), taps)
    acts = (jax.nn.relu, jnp.tanh, jax.nn.gelu)
    for (z, a), act in zip(signals.values(), acts, strict=True):
        np.testing.assert_array_equal(a, act(z))


def test_z_follows_norms_and_a_precedes_learned_scales():
    network, params, x, _, _ = kinds()["normed"]
    apply_with_taps, taps = tap_network(network, half_square, params, x)
    _, signals = apply_with_taps(params, (x, Y), taps)
    for (z, a), act in zip(signals.values(), (jnp.tanh, jax.nn.relu, jnp.tanh), strict=True):
        np.testing.assert_array_equal(a, act(z))
    np.testing.assert_allclose(jnp.mean(signals["Dense_0"][0], -1), 0, atol=1e-6)
    scaled = lambda w, x: (w["one"][0] * jnp.tanh(3 * (x @ w["one"]))) @ w["out"]
    apply_with_taps, taps = tap_network(scaled, half_square, WEIGHTS, X)
    _, signals = apply_with_taps(WEIGHTS, (X, Y), taps)
    np.testing.assert_array_equal(signals["one"][1], jnp.tanh(signals["one"][0]))
    np.testing.assert_allclose(signals["one"][0], 3 * (X @ WEIGHTS["one"]), rtol=1e-6)


def test_forces_against_finite_differences(x64):
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), WEIGHTS)
    x, y = jnp.asarray(X, jnp.float64), jnp.asarray(Y, jnp.float64)
    network = lambda w, x: jax.nn.gelu(jnp.tanh(x @ w["one"]) @ w["two"]) @ w["out"]
    apply_with_taps, taps = tap_network(network, half_square, params, x)
    energy = jax.jit(lambda taps: apply_with_taps(params, (x, y), taps)[0])
    forces = jax.grad(energy)(taps)
    leaves, tree = jax.tree.flatten(taps)
    for place, force in enumerate(jax.tree.leaves(forces)):
        for index in np.ndindex(force.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = list(leaves)
                moved[place] = moved[place].at[index].add(step)
                ends.append(energy(jax.tree.unflatten(tree, moved)))
            np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, force[index], atol=1e-8)
    # f = g'(z) e
    _, signals = apply_with_taps(params, (x, y), taps)
    for name, act in (("one", jnp.tanh), ("two", jax.nn.gelu)):
        slope = jax.vmap(jax.vmap(jax.grad(act)))(signals[name][0])
        np.testing.assert_allclose(forces[name][0], slope * forces[name][1], rtol=1e-10)


@pytest.mark.parametrize("act", [jnp.tanh, jax.nn.relu], ids=["tanh", "relu"])
def test_wide_random_networks_follow_mean_field(act):
    """Eight networks 3 x 256 without bias, N(0, 1/fan_in), on rows like images."""
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(20, 64)) / np.sqrt(20)
    x = jnp.asarray(np.clip(rng.normal(size=(200, 20)) @ mixing, -2, 2), jnp.float32)
    y = jnp.asarray(np.eye(10)[rng.integers(0, 10, 200)], jnp.float32)
    widths = (64, 256, 256, 256, 10)

    def draw(key):
        keys = jax.random.split(key, 4)
        pairs = zip(keys, widths[:-1], widths[1:], strict=True)
        return [jax.random.normal(k, (m, n)) / np.sqrt(m) for k, m, n in pairs]

    def network(weights, x):
        for weight in weights[:-1]:
            x = act(x @ weight)
        return x @ weights[-1]

    loss = lambda out, y: -jnp.sum(y * jax.nn.log_softmax(out), axis=-1)
    params = jax.vmap(draw)(jax.random.split(jax.random.key(2), 8))
    one = jax.tree.map(lambda p: p[0], params)
    apply_with_taps, taps = tap_network(network, loss, one, x)
    assert list(taps) == ["0", "1", "2"]
    measure = lambda p: layer_efficiency(apply_with_taps, p, (x, y), taps)
    found = jax.jit(jax.vmap(measure))(params)
    expected = mean_field_efficiency(act, 3, 1.0, 0.0, jnp.mean(x**2, axis=1))
    measured = np.array([np.mean(e.response) for e in found.values()])
    np.testing.assert_allclose(measured, expected.response, rtol=0.1)


def test_jit_vmap_and_grad_over_parameters():
    network, params, x, _, _ = kinds()["plain"]
    apply_with_taps, taps = tap_network(network, half_square, params, x)
    total = lambda p: apply_with_taps(p, (x, Y), taps)[0]
    direct = lambda p: jnp.sum(half_square(network(p, x), Y))
    np.testing.assert_allclose(jax.jit(total)(params), direct(params), rtol=1e-6)
    for a, b in zip(
        *(jax.tree.leaves(jax.grad(f)(params)) for f in (total, direct)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    several = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    np.testing.assert_allclose(
        jax.vmap(total)(several),
        [direct(params), total(jax.tree.map(lambda p: 2 * p, params))],
        rtol=1e-6,
    )


def test_layers_used_twice_jitted_layers_and_a_subset_of_taps():
    @jax.jit
    def layer(weight, x):
        return jnp.tanh(x @ weight)

    def network(w, x):
        x = layer(w["two"], layer(w["two"], layer(w["one"], x)))
        return jax.checkpoint(layer)(w["out"], x)

    apply_with_taps, taps = tap_network(network, half_square, WEIGHTS, X)
    assert list(taps) == ["one", "two", "two_2"]
    value, signals = apply_with_taps(WEIGHTS, (X, Y), {"two": taps["two"]})
    assert list(signals) == ["two"]
    expected = jnp.sum(half_square(network(WEIGHTS, X), Y))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    effs = layer_efficiency(apply_with_taps, WEIGHTS, (X, Y), {"two_2": taps["two_2"]})
    assert 0 < effs["two_2"].response < 1


class Dropped(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Dropout(0.5, deterministic=False)(linen.relu(linen.Dense(WIDE)(x)))
        return linen.Dense(2)(x)


class BatchNormed(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=False)(linen.Dense(WIDE)(x))
        return linen.Dense(2)(linen.relu(x))


def batch_normed(params, x):
    return BatchNormed().apply(params, x, mutable=["batch_stats"])[0]


def dropped(params, x):
    return Dropped().apply(params, x, rngs={"dropout": jax.random.key(0)})


def residual(w, x):
    h = jnp.tanh(x @ w["one"])
    return (h + jnp.tanh(h @ w["two"])) @ w["out"]


def gated(w, x):
    h = jnp.tanh(x @ w["one"])
    return (h * jax.nn.sigmoid(h @ w["two"])) @ w["out"]


def attention(w, x):
    h = jnp.tanh(x @ w["one"])
    return ((h @ h.T) @ h) @ w["out"]


def recurrent(w, x):
    h = jnp.tanh(x @ w["one"])
    h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ w["two"]), None), h, length=2)
    return h @ w["out"]


def heads(w, x):
    h = jnp.tanh(x @ w["one"])
    return h @ w["out"], h


def hidden_softmax(w, x):
    return jax.nn.softmax(x @ w["one"]) @ w["out"]


def maxout(w, x):
    return jnp.max((x @ w["one"]).reshape(ROWS, 2, 2), axis=-1) @ w["out"][:2]


def bare_norm(w, x):
    h = x @ w["one"]
    return (h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True))) @ w["out"]


class NnxWith(nnx.Module):
    def __init__(self, extra):
        self.first = nnx.Linear(3, WIDE, rngs=nnx.Rngs(0))
        self.extra = extra
        self.last = nnx.Linear(WIDE, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.last(nnx.relu(self.extra(self.first(x))))


def variables(module):
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return lambda: module.init(rngs, X)


def nnx_params(extra):
    return lambda: nnx.state(NnxWith(extra()), nnx.Param)


def weights():
    return WEIGHTS


drop = lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0))
norm = lambda: nnx.BatchNorm(WIDE, rngs=nnx.Rngs(0))
REFUSED = {
    "residual": (residual, weights, "a residual sum adds two branches .* 'two' in them"),
    "gate": (gated, weights, "a gate multiplies two branches .* 'two'"),
    "attention": (attention, weights, "attention multiplies two arrays"),
    "scan": (recurrent, weights, "inside scan cannot be tapped"),
    "heads": (heads, weights, "returns 2 arrays"),
    "softmax": (hidden_softmax, weights, "'one' is followed by a hidden softmax"),
    "norm": (bare_norm, weights, "'one' is followed by a map that mixes units"),
    "maxout": (maxout, weights, r"mixes units \(reduce_max\)"),
    "linear": (lambda w, x: x @ w["one"] @ w["out"], weights, "no hidden activation"),
    "one layer": (lambda w, x: jnp.tanh(x @ w["one"]), weights, "no hidden activation"),
    "no layer": (lambda w, x: jnp.tanh(x), weights, "there is no layer to tap"),
    "no data": (lambda w, x: w["one"], weights, "returns 0 arrays"),
    "dropout": (Dropped(), variables(Dropped()), "switch dropout off"),
    "drawn dropout": (dropped, variables(Dropped()), "switch dropout off"),
    "batch norm": (batch_normed, variables(BatchNormed()), "statistic over rows"),
    "stateful norm": (BatchNormed(), variables(BatchNormed()), "running averages"),
    "nnx dropout": (lambda: NnxWith(drop()), nnx_params(drop), "switch dropout off"),
    "nnx norm": (lambda: NnxWith(norm()), nnx_params(norm), "statistic over rows"),
    "no statistics": (Normed(), lambda: variables(Normed())()["params"], "pass all variables"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_ambiguous_is_refused(kind):
    network, params, message = REFUSED[kind]
    network = network() if kind.startswith("nnx") else network
    with pytest.raises(ValueError, match=message):
        tap_network(network, half_square, params(), X)


def test_mistakes_are_named():
    network, params, x, _, _ = kinds()["plain"]
    apply_with_taps, taps = tap_network(network, half_square, params, x)
    with pytest.raises(ShapeError, match=r"\(4, 3\).* for \(\(5, 3\)"):
        apply_with_taps(params, (x[:4], Y[:4]), taps)
    with pytest.raises(ValueError, match=r"\['three'\] have no layer.*'one', 'two'"):
        apply_with_taps(params, (x, Y), {"three": taps["one"]})
    single = lambda out, y: -jax.nn.log_softmax(out)[y]
    labels = jnp.zeros(ROWS, int)
    apply_with_taps, taps = tap_network(network, single, params, x)
    with pytest.raises(ShapeError, match=r"\(5, 2\).*jax.vmap\(loss\)"):
        apply_with_taps(params, (x, labels), taps)
    with pytest.raises(ShapeError, match=r"nnx\.state"):
        tap_network(Nnx(), half_square, {"one": jnp.ones(3)}, x)
    with pytest.raises(TypeError, match="got int"):
        tap_network(3, half_square, params, x)


def test_plain_functions_need_no_flax():
    code = (
        "import sys, jax.numpy as jnp\n"
        "from thermojax.taps import tap_network\n"
        "w = {'one': jnp.ones((3, 2)), 'out': jnp.ones((2, 1))}\n"
        "net = lambda w, x: jnp.tanh(x @ w['one']) @ w['out']\n"
        "tap_network(net, lambda out, y: jnp.sum(out), w, jnp.ones((4, 3)))\n"
        "assert 'flax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
