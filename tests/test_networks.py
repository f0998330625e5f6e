"""Flax modules as systems, linen and nnx."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import thermojax as tj
from tests.scores import check
from thermojax.networks import layers, outputs, template_of

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(7, 3)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 4, 7))
TARGETS = jnp.asarray(RNG.normal(size=7), jnp.float32)


class Linen(linen.Module):
    out: int = 4

    @linen.compact
    def __call__(self, x):
        hidden = jnp.tanh(linen.Dense(5)(x))
        return linen.Dense(self.out)(hidden)


class Nnx(nnx.Module):
    def __init__(self, out=4):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.second = nnx.Linear(5, out, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def weights(seed=1):
    rng = np.random.default_rng(seed)
    shapes = ((3, 5), (5,), (5, 4), (4,))
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def as_linen(w):
    return {
        "Dense_0": {"kernel": w[0], "bias": w[1]},
        "Dense_1": {"kernel": w[2], "bias": w[3]},
    }


def as_nnx(w):
    return {
        "first": {"kernel": w[0], "bias": w[1]},
        "second": {"kernel": w[2], "bias": w[3]},
    }


def by_hand(w):
    """Energies per example in NumPy float64."""
    w = [np.asarray(x, np.float64) for x in w]
    logits = np.tanh(np.asarray(X, np.float64) @ w[0] + w[1]) @ w[2] + w[3]
    top = logits.max(axis=1, keepdims=True)
    log_norm = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return log_norm - logits[np.arange(7), np.asarray(LABELS)]


KINDS = {"linen": (Linen(), as_linen), "nnx": (Nnx(), as_nnx)}
LOSSES = {
    "ours": tj.softmax_loss,
    "optax": optax.softmax_cross_entropy_with_integer_labels,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_energy_is_the_summed_loss(kind, loss):
    module, arrange = KINDS[kind]
    sys = tj.from_flax(module, LOSSES[loss], (X, LABELS), prior=tj.gaussian_prior(1.0))
    theta, expected = arrange(weights()), by_hand(weights())
    np.testing.assert_allclose(sys.per_example(theta), expected, rtol=1e-5)
    np.testing.assert_allclose(sys.energy(theta), expected.sum(), rtol=1e-5)
    assert outputs(sys, theta, X).shape == (7, 4)
    # power: the mean instead of the sum
    assert abs(sys.energy(theta) - expected.mean()) > 1


def test_linen_and_nnx_agree_on_energy_and_gradient():
    w = weights(2)
    values, grads = [], []
    for module, arrange in KINDS.values():
        sys = tj.from_flax(module, tj.softmax_loss, (X, LABELS))
        value, grad = jax.value_and_grad(sys.energy)(arrange(w))
        values.append(value)
        grads.append([np.asarray(g) for g in jax.tree.leaves(grad)])
    np.testing.assert_allclose(*values, rtol=1e-6)
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_values_of_an_nnx_module_do_not_matter():
    sys = tj.from_flax(Nnx(), tj.softmax_loss, (X, LABELS), prior=tj.gaussian_prior(1.0))
    draw = sys.sample_base(jax.random.key(0))
    assert jax.tree.structure(draw) == jax.tree.structure(as_nnx(weights()))
    assert np.isfinite(sys.energy(draw))


def test_remainder_and_control():
    decay = lambda theta, control: (
        0.5 * control * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(theta))
    )
    sys = tj.from_flax(Linen(), tj.softmax_loss, (X, LABELS), remainder=decay)
    w = weights()
    extra = 0.15 * sum(float(jnp.sum(x**2)) for x in w)
    np.testing.assert_allclose(
        sys.energy(as_linen(w), 0.3), by_hand(w).sum() + extra, rtol=1e-5
    )
    # U is the sum over examples plus the remainder
    total = sys.per_example(as_linen(w), 0.3).sum() + extra
    np.testing.assert_allclose(sys.energy(as_linen(w), 0.3), total, rtol=1e-5)


def test_gaussian_loss():
    noise, residual = 0.7, np.array([0.3, -1.0])
    target, output = jnp.asarray(residual) + 2.0, jnp.full(2, 2.0)
    plain = 0.5 * np.sum(residual**2) / noise**2
    np.testing.assert_allclose(tj.gaussian_loss(noise)(output, target), plain, rtol=1e-6)
    full = plain + 2 * np.log(noise * np.sqrt(2 * np.pi))
    found = tj.gaussian_loss(noise, normalized=True)(output, target)
    np.testing.assert_allclose(found, full, rtol=1e-6)
    other = tj.gaussian_loss(5.0, normalized=True)(output, target, noise)
    np.testing.assert_allclose(other, full, rtol=1e-6)
    # column outputs [1] of a regression network against scalar targets
    assert tj.gaussian_loss()(jnp.ones(1), jnp.zeros(())).shape == ()


def test_noise_as_control_of_a_network():
    sys = tj.from_flax(tj.mlp((2,), 1), tj.gaussian_loss(0.5), (X, TARGETS))
    theta = template_of(sys.replace(prior=tj.gaussian_prior(1.0, like=shapes(sys))))
    theta = theta.unflatten(jnp.linspace(-1, 1, theta.size))
    default, same = sys.energy(theta), sys.energy(theta, jnp.asarray(0.5))
    np.testing.assert_allclose(default, same, rtol=1e-6)
    slope = jax.grad(lambda s: sys.energy(theta, s))(0.5)
    np.testing.assert_allclose(slope, -2 * default / 0.5, rtol=1e-5)


def shapes(sys):
    return {
        "Dense_0": {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))},
        "Dense_1": {"bias": jnp.zeros(1), "kernel": jnp.zeros((2, 1))},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_fan_in_prior(kind):
    module, _ = KINDS[kind]
    prior = tj.gaussian_prior(1.5, fan_in=True)
    sys = tj.from_flax(module, tj.softmax_loss, (X, LABELS), prior=prior)
    draws = jax.vmap(sys.sample_base)(jax.random.split(jax.random.key(4), 4000))
    for leaf in jax.tree.leaves(draws):
        fan_in = leaf.shape[1] if leaf.ndim == 3 else 1
        check(jnp.mean(leaf.reshape(4000, -1) ** 2, axis=1), 1.5**2 / fan_in)
    theta = jax.tree.map(lambda x: x[0], draws)
    expected = 0.0
    for leaf in map(np.asarray, jax.tree.leaves(theta)):
        s = 1.5 / np.sqrt(leaf.shape[0] if leaf.ndim == 2 else 1)
        expected += np.sum(-0.5 * (leaf / s) ** 2 - np.log(s * np.sqrt(2 * np.pi)))
    np.testing.assert_allclose(sys.log_base(theta), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_a_leaf(kind):
    module, arrange = KINDS[kind]
    traces = []

    def loss(output, label):
        traces.append(1)
        return tj.softmax_loss(output, label)

    energy = jax.jit(lambda sys, theta: sys.energy(theta))
    first = tj.from_flax(module, loss, (X, LABELS))
    theta = arrange(weights())
    here = energy(first, theta)
    count = len(traces)
    there = energy(first.replace(data=(2 * X, LABELS[::-1])), theta)
    again = energy(tj.from_flax(module, loss, (X, LABELS)), theta)
    assert len(traces) == count > 0
    assert here != there
    assert here == again


def test_a_network_end_to_end():
    """A linear network is linear regression: log Z in closed form."""
    data = (X, TARGETS)
    prior = tj.gaussian_prior(0.8)
    sys = tj.from_flax(tj.mlp((), 1, bias=False), tj.gaussian_loss(0.6), data, prior=prior)
    exact = tj.exact.linear_regression(X, TARGETS, 0.6, 0.8)
    est = tj.log_partition(
        sys, tj.Point(1.0), jax.random.key(0), method=tj.SMC(n=256, n_runs=8, max_rungs=40)
    ).require_trusted()
    check(est.value, exact.log_partition(1.0), est.stderr)
    assert abs(est.value + np.log(2) - exact.log_partition(1.0)) > 5 * est.stderr


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=True)(linen.Dense(2)(x))


class NormedNnx(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(x)


class Empty(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x


def test_refusals():
    data = (X, LABELS)
    with pytest.raises(ValueError, match=r"Normed keeps state in \['batch_stats'\]"):
        tj.from_flax(Normed(), tj.softmax_loss, data)
    with pytest.raises(ValueError, match="NormedNnx keeps state"):
        tj.from_flax(NormedNnx(), tj.softmax_loss, data)
    with pytest.raises(ValueError, match="Empty has no parameters"):
        tj.from_flax(Empty(), tj.softmax_loss, data)
    with pytest.raises(TypeError, match="got function"):
        tj.from_flax(lambda x: x, tj.softmax_loss, data)
    with pytest.raises(ValueError, match=r"common leading axis, got .*\(7,\)"):
        tj.from_flax(Linen(), tj.softmax_loss, (X, LABELS[:5]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_data_are_named(bad):
    with pytest.raises(ValueError, match=rf"data leaf \[0\] holds {bad} at index \(2, 1\)"):
        tj.from_flax(Linen(), tj.softmax_loss, (X.at[2, 1].set(bad), LABELS))
    with pytest.raises(ValueError, match=r"data leaf \[1\] .* index \(4,\)"):
        tj.from_flax(Linen(1), tj.gaussian_loss(), (X, TARGETS.at[4].set(bad)))


def test_layers_group_leaves():
    assert layers(as_linen(weights())) == {"Dense_0": (0, 1), "Dense_1": (2, 3)}
    assert layers({"a": jnp.zeros(2), "w": jnp.zeros(2)}) == {"a": (0,), "w": (1,)}
    assert layers(jnp.zeros(3)) == {"theta": (0,)}


def test_systems_without_a_network():
    sys = tj.system(lambda x: x**2, like=0.0)
    with pytest.raises(ValueError, match=r"not made by tj\.from_flax"):
        outputs(sys, 0.0, X)
    with pytest.raises(ValueError, match="no per-example energies"):
        sys.per_example(0.0)
    with pytest.raises(ValueError, match="shape of theta is unknown"):
        template_of(tj.system(lambda x: x**2))
