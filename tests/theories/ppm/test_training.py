"""Training in parallel: closed forms of linear learners, and gradients through the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax.theories.ppm.models import gaussian_regressor, softmax_classifier
from thermojax.theories.ppm.training import Hyperparameters, learner, likelihood_system, train

RATE, DECAY, STEPS = 0.3, 0.2, 7


def trained(learn, data, start, key, n_steps, **options):
    """`train`, compiled."""
    go = lambda data, start, key: train(learn, data, start, key, n_steps, **options)
    return jax.jit(go)(data, start, key)


def gaussian(theta, x):
    """Log-density of N(theta, 1) up to a constant."""
    return -0.5 * (x - theta) ** 2


def test_gradient_descent_with_decay_in_closed_form(x64):
    data = jax.random.normal(jax.random.key(0), (3, 5), jnp.float64)
    start = jax.random.normal(jax.random.key(1), (3, 2), jnp.float64)
    learn = learner(gaussian, Hyperparameters(RATE, weight_decay=DECAY))
    out = trained(learn, data, start, jax.random.key(2), STEPS, every=1)
    # theta' = theta - eta ((1 + decay) theta - mean)
    keep, target = 1 - RATE * (1 + DECAY), np.asarray(data.mean(1))[:, None] / (1 + DECAY)
    for n in range(STEPS + 1):
        expected = target + keep**n * (np.asarray(start) - target)
        np.testing.assert_allclose(out.trace[n], expected, rtol=1e-12)
    np.testing.assert_array_equal(out.trace[-1], out.params)
    assert out.flags.shape == (3, 2)
    assert not out.flags.any()


def test_langevin_noise_has_the_temperature_of_the_mean_loss():
    n_sets, seeds, temperature = 8, 500, 0.05
    data = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 4), (n_sets, 4))
    learn = learner(gaussian, Hyperparameters(RATE, temperature))
    start = jnp.zeros((n_sets, seeds))
    out = trained(learn, data, start, jax.random.key(3), 40)
    samples = np.asarray(out.params).reshape(-1)
    variance = temperature / (1 - RATE / 2)  # Euler-Maruyama on a unit well
    check(samples, 0.0)
    check(samples**2, variance)
    caught(samples**2, temperature * 4 / (1 - RATE / 2))  # T of the summed loss


def test_minibatches_are_drawn_without_replacement_and_differ_between_networks():
    data = jnp.broadcast_to(jnp.arange(4.0), (2, 4))
    start = jnp.zeros((2, 500))
    learn = learner(gaussian, Hyperparameters(1.0), batch_size=2)
    out = trained(learn, data, start, jax.random.key(4), 1)
    means = np.asarray(out.params)  # one step of rate 1 lands on the mean of the batch
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]
    check(counts / 1000, np.array([1, 1, 2, 1, 1]) / 6, np.sqrt(5 / 36 / 1000))
    assert np.any(means[0] != means[1])


def test_sgld_of_the_core_and_adam_are_trained_the_same_way():
    import optax

    data, start = jnp.arange(6.0).reshape(2, 3), jnp.zeros((2, 4))
    bath = lambda data: tj.sgld(likelihood_system(gaussian, data), tj.full(), step_size=1e-4)
    point = tj.Point(1000.0)
    out = trained(bath, data, start, jax.random.key(5), 100, point=point)
    np.testing.assert_allclose(out.params, [[1.0] * 4, [4.0] * 4], atol=0.12)
    learn = learner(gaussian, Hyperparameters(0.3), optimizer=optax.adam)
    out = trained(learn, data, start, jax.random.key(5), 100)
    np.testing.assert_allclose(out.params, [[1.0] * 4, [4.0] * 4], atol=0.01)


def test_segments_and_strides_change_no_number():
    data, start = jnp.arange(6.0).reshape(2, 3), jnp.zeros((2, 3))
    learn = learner(gaussian, Hyperparameters(RATE, 0.1), batch_size=2)
    go = lambda **options: trained(learn, data, start, jax.random.key(6), 12, **options)
    fine, coarse, plain = go(every=1, segment=2), go(every=4), go(segment=12)
    np.testing.assert_array_equal(fine.trace[::4], coarse.trace)
    np.testing.assert_array_equal(fine.params, plain.params)
    assert plain.trace == ()


def problem():
    """A small ensemble of classifiers, G x K = 4 x 3 networks on data sets of their own."""
    model = softmax_classifier((3,), 2, 3)
    keys = jax.random.split(jax.random.key(7), 3)
    inputs = jax.random.normal(keys[0], (4, 6, 2), jnp.float64)
    labels = jax.random.randint(keys[1], (4, 6), 0, 3)
    start = jax.tree.map(
        lambda x: jnp.broadcast_to(x.astype(jnp.float64), (4, 3, *x.shape)), model.init(keys[2])
    )
    probes = jax.random.normal(keys[0], (5, 2), jnp.float64)
    return model, (inputs, labels), start, probes


@jax.jit
def learned(hyper):
    """L-info (lower bound, data sets x seeds as one ensemble) and entropy produced."""
    model, data, start, probes = problem()
    learn = learner(model.log_prob, Hyperparameters(*hyper), batch_size=2)
    out = train(
        learn,
        data,
        start,
        jax.random.key(8),
        12,
        every=2,
        trace=lambda theta: model.log_probs(theta, probes),
    )
    log_p = out.trace.reshape(7, 12, 5, 3)
    p, entropy = jnp.exp(log_p), lambda p: -jnp.sum(jax.scipy.special.xlogy(p, p), -1)
    mixed = entropy(p.mean(1)).mean(-1)  # S(X)
    info = (mixed - entropy(p).mean((1, 2)))[-1]
    heat = jnp.sum(-(p[1:] - p[:-1]) * log_p[1:], -1).mean((1, 2))
    produced = mixed[-1] - mixed[0] - heat.sum()
    return info, produced


def test_gradients_of_information_and_entropy_through_training(x64):
    at = np.array([0.4, 0.02, 0.1])
    assert all(float(v) > 0.01 for v in learned(at))
    slopes = jax.jit(jax.jacrev(learned))(at)
    for i in range(3):
        step = 1e-5 * at[i] * np.eye(3)[i]
        pairs = zip(learned(at + step), learned(at - step), strict=True)
        for slope, (up, down) in zip(slopes, pairs, strict=True):
            difference = (float(up) - float(down)) / (2 * step[i])
            assert float(slope[i]) == pytest.approx(difference, rel=2e-5, abs=1e-8)
            assert abs(difference) > 1e-4  # or the comparison would be empty


def test_memory_of_a_gradient_grows_slowly():
    model = gaussian_regressor((64,), 1, noise=1.0)
    data = (jnp.ones((1, 256, 1)), jnp.ones((1, 256, 1)))
    start = jax.tree.map(lambda x: x[None, None], model.init(jax.random.key(0)))

    def temporaries(segment):
        def loss(rate):
            learn = learner(model.log_prob, Hyperparameters(rate))
            out = train(learn, data, start, jax.random.key(0), 256, segment=segment)
            return jax.tree.reduce(lambda a, x: a + jnp.sum(x**2), out.params, 0.0)

        memory = jax.jit(jax.grad(loss)).lower(0.1).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert temporaries(None) < temporaries(256) / 5


def test_dtype_is_kept_and_nonfinite_networks_are_flagged():
    data, start = jnp.arange(6.0).reshape(2, 3), jnp.zeros((2, 1))
    out = trained(learner(gaussian, Hyperparameters(50.0)), data, start, jax.random.key(0), 60)
    assert out.params.dtype == jnp.float32
    assert all(flags & tj.Flag.NONFINITE for flags in np.asarray(out.flags).ravel())


@pytest.mark.parametrize(
    ("hyper", "options", "message"),
    [
        ((0.0,), {}, "learning_rate=0.0"),
        ((0.1, -1.0), {}, "temperature=-1.0"),
        ((0.1, None, float("nan")), {}, "weight_decay=nan"),
        ((0.1,), {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_hyperparameters_are_refused(hyper, options, message):
    with pytest.raises(ValueError, match=message):
        learner(gaussian, Hyperparameters(*hyper), **options)


@pytest.mark.parametrize(
    ("data", "start", "n_steps", "options", "message"),
    [
        ((2, 3), (2,), 4, {}, "params need common leading axes"),
        ((3, 3), (2, 1), 4, {}, "with 2 data sets"),
        ((2,), (2, 1), 4, {}, "data need common leading axes"),
        ((2, 3), (2, 1), 5, {"every": 2}, "multiple of every=2"),
        ((2, 3), (2, 1), 6, {"segment": 4}, "segment=4"),
    ],
)
def test_bad_shapes_are_refused(data, start, n_steps, options, message):
    learn = learner(gaussian, Hyperparameters(0.1))
    with pytest.raises(ValueError, match=message):
        train(learn, jnp.ones(data), jnp.ones(start), jax.random.key(0), n_steps, **options)
