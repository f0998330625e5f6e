"""Functionals of networks, the adapters, and equilibration by gradient steps."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import check
from thermojax.theories.representation.equilibrium import equilibrate
from thermojax.theories.representation.networks import (
    diagonal_marginal,
    gaussian_decoder,
    gaussian_mlp_model,
    mixture_marginal,
    neural_model,
)
from thermojax.theories.representation.neural import (
    expected_functionals,
    functionals,
    mean_and_stderr,
)
from thermojax.theories.representation.quantities import Batch, Model, Multipliers, objective

INPUTS, LABELS = 6, 3
KEY = jax.random.key(0)
MODEL, INIT = gaussian_mlp_model(INPUTS, LABELS, latent_dim=2, hidden=5)


def batch_of(size, seed=1):
    x = jax.random.normal(jax.random.key(seed), (size, INPUTS))
    return Batch(x, jnp.arange(size) % LABELS)


@pytest.fixture(scope="module")
def params():
    return INIT(KEY)


@pytest.fixture(scope="module")
def measure():
    """The functionals of the small network, compiled once for batches of six."""
    return jax.jit(lambda p, b, key: functionals(MODEL, p, b, key))


def test_functionals_against_quadrature(params):
    """D and C of the encoder's codes on a grid of 41 x 41 nodes, R in closed form."""
    batch = batch_of(2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    eps = jnp.array(np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 1, 2), jnp.float32)
    share = jnp.array(np.outer(weights, weights).reshape(-1, 1) / (2 * math.pi), jnp.float32)

    def exact(p):
        mean, log_var = MODEL.encode(p, batch.x)
        z = mean + jnp.exp(0.5 * log_var) * eps
        rate = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1 - log_var, axis=-1)
        log_c = MODEL.log_classifier(p, z)[:, jnp.arange(2), batch.y]
        log_d = MODEL.log_decoder(p, batch.x, z)
        return rate, -jnp.sum(share * log_d, 0), -jnp.sum(share * log_c, 0)

    rate, distortion, classification = jax.jit(exact)(params)
    many = Batch(jnp.repeat(batch.x, 200, axis=0), jnp.repeat(batch.y, 200))
    out = jax.jit(lambda p: functionals(MODEL, p, many, KEY, num_samples=16))(params)
    np.testing.assert_allclose(out.rate[::200], rate, rtol=1e-5)
    for got, want in ((out.distortion, distortion), (out.classification, classification)):
        check(got.reshape(2, 200).T, want)


def test_a_marginal_of_its_own_is_sampled(params):
    """The learned marginal at its start is N(0, I): the sampled rate is the analytic one."""
    model, init = gaussian_mlp_model(
        INPUTS, LABELS, latent_dim=2, hidden=5, marginal=diagonal_marginal(2)
    )
    learned = init(KEY)
    assert set(learned) == {"encoder", "decoder", "classifier", "marginal"}
    same = {**params, "marginal": learned["marginal"]}
    one = batch_of(1)
    many = Batch(jnp.repeat(one.x, 400, axis=0), jnp.repeat(one.y, 400))
    fn = jax.jit(lambda p: (functionals(model, p, many, KEY), functionals(MODEL, p, many, KEY)))
    sampled, analytic = fn(same)
    check(sampled.rate, float(analytic.rate[0]))
    np.testing.assert_array_equal(sampled.distortion, analytic.distortion)


def test_soft_labels_are_mixtures_of_whole_ones(params, measure):
    batch = batch_of(6)
    hard = measure(params, batch, KEY)
    ones = measure(params, batch._replace(y=jax.nn.one_hot(batch.y, LABELS)), KEY)
    np.testing.assert_allclose(ones.classification, hard.classification, rtol=1e-6)
    other = batch._replace(y=(batch.y + 1) % LABELS)
    mixed = 0.3 * jax.nn.one_hot(batch.y, LABELS) + 0.7 * jax.nn.one_hot(other.y, LABELS)
    half = measure(params, batch._replace(y=mixed), KEY).classification
    want = 0.3 * hard.classification + 0.7 * measure(params, other, KEY).classification
    np.testing.assert_allclose(half, want, rtol=1e-5)


def test_a_label_without_weight_may_be_impossible():
    model = Model(
        encode=lambda p, x: (x, 0 * x),
        log_decoder=lambda p, x, z: -jnp.sum((x - z) ** 2, -1),
        log_classifier=lambda p, z: jnp.stack([0 * z[..., 0], 0 * z[..., 0] - jnp.inf], -1),
    )
    x = jnp.ones((1, 1))
    sure = functionals(model, (), Batch(x, jnp.array([[1.0, 0.0]])), KEY)
    assert float(sure.classification[0]) == 0
    assert np.isinf(functionals(model, (), Batch(x, jnp.array([1])), KEY).classification[0])


def test_a_traced_label_out_of_range_is_no_number(params, measure):
    batch = batch_of(6)
    out = measure(params, batch._replace(y=batch.y.at[0].set(LABELS).at[1].set(-1)), KEY)
    assert np.all(np.isnan(out.classification[:2]))
    assert np.all(np.isfinite(out.classification[2:]))


def test_gradients_jit_and_precision(params, measure, x64):
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    batch = batch_of(6)
    batch = batch._replace(x=batch.x.astype(jnp.float64))
    tau = Multipliers(0.7, 1.3)
    mean = jax.jit(
        lambda p: objective(expected_functionals(MODEL, p, batch, KEY, num_samples=2), tau)
    )
    slope = jax.jit(jax.grad(mean))(wide)
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size)).reshape(a.shape), wide)
    h = 1e-5
    at = lambda s: mean(jax.tree.map(lambda a, v: a + s * v, wide, direction))
    along = sum(
        jnp.sum(a * b)
        for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(along, (at(h) - at(-h)) / (2 * h), rtol=1e-7)
    eager = functionals(MODEL, wide, batch, KEY)
    fast = measure(wide, batch, KEY)
    for a, b in zip(eager, fast, strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, b, rtol=1e-12)
    single = measure(params, batch_of(6)._replace(x=batch.x.astype(jnp.float32)), KEY)
    assert {a.dtype for a in single} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(single.rate, eager.rate, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-5, 5, width=32), min_size=8, max_size=8), st.integers(1, 4))
def test_means_weigh_examples_as_repetition_does(values, times):
    values = np.array(values, np.float32)
    counts = np.array([times, 1, 1, 1, 1, 1, 1, 0])
    mean, stderr = mean_and_stderr(jnp.array(values), jnp.array(counts / counts.sum(), "f4"))
    repeated = np.repeat(values.astype(np.float64), counts)
    assert abs(float(mean) - repeated.mean()) < 1e-5
    if times == 1:  # equal weights: the error of a plain mean, the example of weight 0 left out
        assert abs(float(stderr) - repeated.std(ddof=1) / math.sqrt(7)) < 1e-5


def test_errors_of_weighted_means_cover():
    keys = jax.random.split(jax.random.key(5), 400)
    weight = jnp.linspace(0.2, 1.8, 60)
    weight = weight / jnp.sum(weight)
    draw = lambda key: mean_and_stderr(jax.random.normal(key, (60,)), weight)
    mean, stderr = jax.jit(jax.vmap(draw))(keys)
    z = np.asarray(mean / stderr)
    assert abs(np.mean(np.abs(z) < 1) - 0.683) < 0.07
    assert abs(np.mean(np.abs(z) < 2) - 0.954) < 0.035


def test_errors_at_the_edges():
    assert np.isinf(mean_and_stderr(jnp.ones(1))[1])
    assert np.isinf(mean_and_stderr(jnp.arange(3.0), jnp.array([0.0, 1.0, 0.0]))[1])
    mean, stderr = mean_and_stderr(jnp.array([2.0, jnp.nan]), jnp.array([1.0, 0.0]))
    assert float(mean) == 2
    assert np.isinf(stderr)
    assert float(mean_and_stderr(jnp.full(4, 2.5))[1]) == 0
    assert float(jax.grad(lambda v: mean_and_stderr(v)[1])(jnp.full(4, 2.5))[0]) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": jnp.array([0, LABELS])}, "label 3 is out of range"),
        ({"y": jnp.array([-1, 0])}, "label -1 is out of range"),
        ({"y": jnp.array([0, 1, 2])}, "does not fit 2 examples"),
        ({"y": jnp.array([0.0, 1.0])}, "does not fit 2 examples"),
        ({"y": jnp.full((2, LABELS), 0.3)}, "label weights must not be negative and must sum"),
        ({"y": jnp.full((2, 2), 0.5)}, "classifier of 3 labels"),
        ({"weight": jnp.array([0.5, 0.6])}, "weight must not be negative and must sum to 1"),
        ({"weight": jnp.array([1.5, -0.5])}, "weight must not be negative"),
        ({"weight": jnp.ones(3) / 3}, "weight of shape"),
    ],
)
def test_batches_without_sense_are_refused(params, change, words):
    with pytest.raises(ValueError, match=words):
        functionals(MODEL, params, batch_of(2)._replace(**change), KEY)


def test_settings_without_sense_are_refused(params):
    with pytest.raises(ValueError, match="num_samples=0"):
        functionals(MODEL, params, batch_of(2), KEY, num_samples=0)
    with pytest.raises(ValueError, match="scale=0"):
        gaussian_decoder(0.0)
    with pytest.raises(ValueError, match="hidden=0"):
        gaussian_mlp_model(4, 2, hidden=0)
    with pytest.raises(ValueError, match="num_components=0"):
        mixture_marginal(2, 0)
    with pytest.raises(ValueError, match="num_steps=0"):
        equilibrate(lambda p, k: p, jnp.ones(()), None, optax.sgd(1.0), KEY, 0)


def test_the_constant_of_the_decoder_shifts_d_alone():
    x, guess = jnp.ones((1, 4)), jnp.zeros((1, 4))
    bare, full = (gaussian_decoder(0.3, normalized=n)(guess, x) for n in (False, True))
    assert float(bare[0]) == pytest.approx(-4 / (2 * 0.09))
    assert float(bare[0] - full[0]) == pytest.approx(2 * math.log(2 * math.pi * 0.09))


def test_any_kind_of_network_is_a_part():
    """linen, nnx and plain functions; inputs that are pictures; a tuple from the encoder."""
    x = jnp.ones((2, 2, 3))
    encoder = (
        lambda key, x: jax.random.normal(key, (6, 4)),
        lambda w, x: tuple(jnp.split(x.reshape(len(x), -1) @ w, 2, axis=-1)),
    )
    model, init = neural_model(
        encoder,
        nn.Dense(6),
        nnx.Linear(2, LABELS, rngs=nnx.Rngs(0)),
        example_x=x,
        marginal=mixture_marginal(2, 3),
    )
    params = init(KEY)
    out = functionals(model, params, Batch(x, jnp.array([0, 2])), KEY)
    assert all(a.shape == (2,) and bool(jnp.all(jnp.isfinite(a))) for a in out)
    # the adapter hands on what the parts say
    z = jnp.array([[[0.3, -0.2]], [[1.0, 0.5]]])
    kernel, bias = params["decoder"]["kernel"], params["decoder"]["bias"]
    error = x[0].ravel() - (z[:, 0] @ kernel + bias)
    want = -0.5 * jnp.sum(error**2, axis=-1)
    np.testing.assert_allclose(model.log_decoder(params, x[:1], z)[:, 0], want, rtol=1e-5)


def test_parts_without_sense_are_refused():
    x = jnp.ones((1, 4))
    with pytest.raises(TypeError, match="got int"):
        neural_model(3, nn.Dense(4), nn.Dense(2), example_x=x)
    with pytest.raises(ValueError, match="cannot be halved"):
        neural_model(nn.Dense(3), nn.Dense(4), nn.Dense(2), example_x=x)


def test_equilibrating_noisy_gradients_knows_its_end():
    """A quadratic with gradient noise: the ratio falls to about 1, the drift to 0."""
    loss = lambda p, key: jnp.sum(0.5 * p**2 + p * jax.random.normal(key, p.shape))
    start = jnp.full(50, 3.0)

    def run(key, start, steps):
        return equilibrate(loss, start, None, optax.sgd(0.01), key, steps)

    keys = jax.random.split(KEY, 4)
    p, _, info = jax.vmap(lambda k: run(k, start, 2000))(keys)
    assert info.losses.shape == info.grad_norm.shape == (4, 2000)
    alone = run(keys[1], start, 2000)
    np.testing.assert_allclose(p[1], alone[0], rtol=1e-6)
    early = run(keys[0], start, 60)[2]
    assert np.all((np.asarray(info.gradient_ratio) > 0.5) & (info.gradient_ratio < 2))
    assert float(early.gradient_ratio) > 5
    assert np.all(np.abs(info.drift) < 5 * info.drift_stderr)
    assert float(early.drift) < -3 * float(early.drift_stderr)
    exact = 0.5 * 50 * 9 * (0.99**2) ** np.arange(60)
    slope = 1000 * np.polyfit(np.arange(30, 60), exact[30:], 1)[0]
    assert abs(float(early.drift) - slope) < 5 * float(early.drift_stderr)


def test_bound_controls_do_not_compile_again():
    traces = []

    def loss(tau, p, key):
        traces.append(1)
        return tau.lam * 0.5 * p**2 - tau.gam * p

    for lam in (1.0, 2.0, 4.0):
        bound = jax.tree_util.Partial(loss, Multipliers(jnp.asarray(lam), jnp.asarray(1.0)))
        optimizer = _SGD
        p, _, info = equilibrate(bound, jnp.zeros(()), None, optimizer, KEY, 200)
        assert abs(float(p) - 1 / lam) < 1e-5
        assert float(info.grad_norm[-1]) < 1e-5
    assert len(traces) == 1


_SGD = optax.sgd(0.2)
