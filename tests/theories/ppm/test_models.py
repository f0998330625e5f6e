"""Parametric models: densities against independent formulas, samplers against densities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.scores import check
from thermojax.priors import Template
from thermojax.theories.ppm.models import (
    BernoulliRBM,
    CouplingFlow,
    Network,
    SoftmaxClassifier,
    binary_states,
    gaussian_regressor,
    given,
    softmax_classifier,
)


def shaken(model, key, size=0.5):
    """Parameters away from the start, every leaf random."""
    leaves, tree = jax.tree.flatten(model.init(key))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            size * jax.random.normal(k, jnp.shape(x), x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ],
    )


def drawn(sample, n, seed):
    """Independent draws of a sampler, [n, ...]."""
    return jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(seed), n))


def test_softmax_classifier_is_normalised_and_agrees_with_its_table():
    model = softmax_classifier((5,), 3, 4)
    params = model.init(jax.random.key(1))
    inputs = jax.random.normal(jax.random.key(2), (6, 3))
    table = model.log_probs(params, inputs)
    each = jax.vmap(lambda u: jax.vmap(lambda y: model.log_prob(params, (u, y)))(jnp.arange(4)))
    np.testing.assert_allclose(table, each(inputs), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(table).sum(1), 1.0, rtol=1e-5)
    at = given(model.log_prob, inputs[2])
    assert float(at(params, 3)) == pytest.approx(float(table[2, 3]), rel=1e-5)


def test_networks_start_with_fan_in_weights_and_zero_biases():
    params = softmax_classifier((400,), 100, 3).init(jax.random.key(0))
    weights = [x for x in jax.tree.leaves(params) if x.ndim == 2]
    biases = [x for x in jax.tree.leaves(params) if x.ndim == 1]
    assert all(not x.any() for x in biases)
    assert float(weights[0].std()) == pytest.approx(0.1, rel=0.02)
    assert float(weights[1].std()) == pytest.approx(0.05, rel=0.1)


def test_a_plain_function_is_a_model_too():
    logits = lambda w, u: jnp.stack([jnp.zeros(len(u)), u @ w], axis=-1)
    model = SoftmaxClassifier(Network(logits, Template.of(jnp.zeros(3))))
    u, w = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 0.1, 2.0])
    expected = jax.nn.log_sigmoid(u @ w)
    assert float(model.log_prob(w, (u, 1))) == pytest.approx(float(expected), rel=1e-6)
    assert model.init(jax.random.key(0)).tolist() == [0.0, 0.0, 0.0]


def test_flax_nnx_modules_work():
    from flax import nnx

    network = Network.of(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), np.zeros((1, 3), np.float32))
    model = SoftmaxClassifier(network)
    table = model.log_probs(model.init(jax.random.key(0)), jnp.ones((4, 3)))
    np.testing.assert_allclose(jnp.exp(table).sum(1), 1.0, rtol=1e-5)


def test_fresh_labels_follow_the_table():
    model = softmax_classifier((), 2, 3)
    params, u, n = model.init(jax.random.key(3)), jnp.array([2.0, -1.0]), 20_000
    labels = drawn(lambda k: model.sample(k, params, u), n, 4)
    p = np.exp(np.asarray(model.log_probs(params, u[None])[0], float))
    check(np.bincount(labels, minlength=3) / n, p, np.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("noise", [0.7, None])
def test_gaussian_regressor_against_scipy(noise):
    model = gaussian_regressor((4,), 3, 2, noise=noise)
    params = shaken(model, jax.random.key(5))
    u, y = jnp.array([0.2, -1.0, 3.0]), jnp.array([0.5, -0.25])
    inner = params if noise else params["network"]
    scale = noise or float(jnp.exp(params["log_noise"]))
    mean = np.asarray(model.network.apply(inner, u[None])[0], float)
    expected = stats.norm.logpdf(np.asarray(y, float), mean, scale).sum()
    assert float(model.log_prob(params, (u, y))) == pytest.approx(expected, rel=1e-5)
    draws = np.asarray(drawn(lambda k: model.sample(k, params, u), 20_000, 6), float)
    check(draws, mean)
    check((draws - mean) ** 2, scale**2)


def test_rbm_against_brute_force(x64):
    model = BernoulliRBM(3, 2)
    params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), shaken(model, jax.random.key(7))
    )
    a, b, w = (np.asarray(params[k]) for k in "abw")
    joint = {
        (x, h): np.exp(a @ x + b @ h + np.array(x) @ w @ h)
        for x in itertools.product((0, 1), repeat=3)
        for h in itertools.product((0, 1), repeat=2)
    }
    total = sum(joint.values())
    assert float(model.log_partition(params)) == pytest.approx(np.log(total), abs=1e-12)
    other = BernoulliRBM(3, 4)  # fewer visible units: the sum runs over those
    wide = {
        "a": params["a"],
        "b": jnp.append(params["b"], jnp.array([-0.3, 0.2])),
        "w": jnp.pad(params["w"], ((0, 0), (0, 2))),
    }
    extra = np.log1p(np.exp(-0.3)) + np.log1p(np.exp(0.2))
    assert float(other.log_partition(wide)) == pytest.approx(np.log(total) + extra, abs=1e-12)
    p = [sum(v for (y, _), v in joint.items() if y == tuple(x)) for x in binary_states(3)]
    expected = np.log(np.array(p) / total)
    np.testing.assert_allclose(model.log_table(params), expected, atol=1e-12)
    each = jax.vmap(lambda x: model.log_prob(params, x))(binary_states(3))
    np.testing.assert_allclose(each, expected, atol=1e-12)


def rbm_kernel(model, params):
    """[8, 8] exact transition matrix of one sweep x -> h -> x'."""
    a, b, w = (np.asarray(params[k], float) for k in "abw")
    up = lambda field: 1 / (1 + np.exp(-field))
    x, h = binary_states(3).astype(float), binary_states(model.n_hidden).astype(float)
    on = lambda bits, p: np.prod(np.where(bits, p, 1 - p), axis=-1)
    to_h = on(h[None], up(b + x @ w)[:, None])
    to_x = on(x[None], up(a + h @ w.T)[:, None])
    return to_h @ to_x


def test_rbm_samplers_fresh_and_slow():
    model, n = BernoulliRBM(3, 2), 20_000
    params = shaken(model, jax.random.key(8), size=1.0)
    index = lambda x: np.asarray(x @ jnp.array([1, 2, 4]), int)
    fresh = index(drawn(lambda k: model.sample(k, params), n, 9))
    p = np.exp(np.asarray(model.log_table(params), float))
    check(np.bincount(fresh, minlength=8) / n, p, np.sqrt(p * (1 - p) / n))
    start = jnp.array([1.0, 0.0, 1.0])
    slow = index(drawn(lambda k: model.gibbs(k, params, start, 2), n, 10))
    kernel = rbm_kernel(model, params)
    q = (kernel @ kernel)[5]
    check(np.bincount(slow, minlength=8) / n, q, np.sqrt(q * (1 - q) / n))
    # local detailed balance: the heat of the sampler is the change of the energy
    energy = np.asarray(jax.vmap(lambda x: model.energy(params, x))(binary_states(3)), float)
    ratio = np.log(kernel / kernel.T)
    np.testing.assert_allclose(ratio, energy[:, None] - energy[None, :], atol=2e-6)


def test_flow_density_integrates_to_one_and_matches_its_jacobian(x64):
    flow = CouplingFlow(2, n_layers=3, width=4)
    params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), shaken(flow, jax.random.key(10))
    )
    axis = jnp.linspace(-14, 14, 281)
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = jnp.exp(jax.vmap(lambda x: flow.log_prob(params, x))(grid))
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1.0, abs=1e-6)
    key = jax.random.key(11)
    x = flow.sample(key, params)
    z = jax.random.normal(key, (2,), jnp.float64)

    def push(z):  # the sampler as a function of its noise, by bisection-free replay
        for i in range(3):
            layer = jax.tree.map(lambda p, i=i: p[i], params)
            mask = (i + np.arange(2)) % 2
            both = jnp.tanh((mask * z) @ layer["in"] + layer["bias"]) @ layer["out"]
            both = both + layer["shift"]
            z = z * jnp.exp((1 - mask) * jnp.tanh(both[:2])) + (1 - mask) * both[2:]
        return z

    np.testing.assert_allclose(push(z), x, atol=1e-12)
    jacobian = np.linalg.slogdet(jax.jacobian(push)(z))[1]
    expected = stats.norm.logpdf(np.asarray(z)).sum() - jacobian
    assert float(flow.log_prob(params, x)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: softmax_classifier((4,), 3, 1), "n_classes=1"),
        (lambda: softmax_classifier((0,), 3, 2), "must all be positive"),
        (lambda: gaussian_regressor((), 3, noise=0.0), "noise=0.0"),
        (lambda: BernoulliRBM(21, 21), "enumerated"),
        (lambda: BernoulliRBM(0, 2), "must be positive"),
        (lambda: binary_states(30), "n=30"),
        (lambda: CouplingFlow(1), "at least 2 features"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
