"""Sampled routes to log Z against quadrature and closed forms, and the frame of the core."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax.estimators.estimate import Flag
from thermojax.theories.learning_laws.annealing import climb
from thermojax.theories.learning_laws.core_system import as_system
from thermojax.theories.learning_laws.ensemble import log_partition, thermodynamic_state
from thermojax.theories.learning_laws.importance import surrogate
from thermojax.theories.learning_laws.quadrature import quadrature_state
from thermojax.theories.learning_laws.reference import draw, log_reference
from thermojax.theories.learning_laws.septuple import dense_network, layered_network

pytestmark = pytest.mark.usefixtures("x64")

BETA = 5.0


def clamped_chain(name):
    net = layered_network((1, 1, 1, 1), name)
    pairs = zip([0.5, 1.2, 0.8], [0.1, -0.3, 0.05], strict=True)
    params = [(jnp.array([[w]], float), jnp.array([b], float)) for w, b in pairs]
    return net, params, {"x": jnp.array([[1.0]]), "y": jnp.array([[0.4]])}


def loop():
    net = dense_network(2, "tanh")
    params = {"w": jnp.array([[0.6, -0.9], [0.8, 0.3]]), "b": jnp.array([0.2, -0.1])}
    return net, params, None


def loop_with_boundary():
    net = dense_network(3, "relu", inputs=(0,), outputs=(2,))
    w = jnp.array([[0.0, 0.0, 0.0], [0.7, 0.4, -0.5], [0.3, 0.8, 0.2]])
    params = {"w": w, "b": jnp.array([0.0, 0.2, 0.1])}
    return net, params, {"x": jnp.array([[0.9]]), "y": jnp.array([[0.5]])}


def tethered():
    net = layered_network((1, 1, 1, 1), "tanh", mu=0.5)
    return net, *clamped_chain("tanh")[1:]


CASES = {
    "tanh": lambda: clamped_chain("tanh"),
    "relu": lambda: clamped_chain("relu"),
    "loop": loop,
    "loop, relu, clamped": loop_with_boundary,
    "site potential": tethered,
}


def exact_log_z(net, params, data):
    return thermodynamic_state(net, params, data, BETA, method="quadrature").log_z


ROUTES = [
    pytest.param("tanh", "ais", marks=pytest.mark.nightly),
    pytest.param("tanh", "forward", marks=pytest.mark.nightly),
    ("relu", "ais"),
    ("relu", "forward"),
    ("loop", "ais"),
    ("loop, relu, clamped", "ais"),
    pytest.param("site potential", "ais", marks=pytest.mark.nightly),
    ("site potential", "forward"),
]


@pytest.mark.parametrize(("case", "method"), ROUTES)
def test_sampled_routes_agree_with_quadrature(case, method):
    net, params, data = CASES[case]()
    state = thermodynamic_state(net, params, data, BETA, method=method, key=jax.random.key(7))
    exact = exact_log_z(net, params, data)
    check(state.log_z, exact, state.stderr, limit=4.0)
    caught(state.log_z + 0.5 * np.log(2 * np.pi), exact, state.stderr)
    assert state.flags == 0
    assert state.stderr < 0.05


@pytest.fixture(scope="module")
def repeats():
    """[200] states and slopes by short AIS and forward runs, with the exact ones."""
    with jax.enable_x64(True):
        net, params, data = clamped_chain("tanh")
        options = {"ais": {"chains": 32, "levels": 16}, "forward": {"samples": 64}}

        def run(method, key):
            def value(params):
                state = thermodynamic_state(
                    net, params, data, BETA, method=method, key=key, **options[method]
                )
                return state.log_z, state

            (_, state), slope = jax.value_and_grad(value, has_aux=True)(params)
            return state, slope

        keys = jax.random.split(jax.random.key(3), 200)
        out = {m: jax.jit(jax.vmap(lambda k, m=m: run(m, k)))(keys) for m in options}
        exact = lambda params: thermodynamic_state(
            net, params, data, BETA, method="quadrature", panels=16
        )
        slope = jax.grad(lambda params: exact(params).log_z)(params)
        return out, exact(params), slope


@pytest.mark.parametrize("method", ["ais", "forward"])
def test_z_is_unbiased_and_its_error_bar_honest(repeats, method):
    out, exact, _ = repeats
    states, _ = out[method]
    check(np.exp(states.log_z - exact.log_z), 1.0)
    assert np.mean(states.log_z) < exact.log_z + 5 * np.std(states.log_z) / np.sqrt(200)
    z = (states.log_z - exact.log_z) / states.stderr
    assert 0.8 < np.std(z) < 1.25


@pytest.mark.parametrize("method", ["ais", "forward"])
def test_moments_and_slopes_of_samples(repeats, method):
    out, exact, slope = repeats
    states, slopes = out[method]
    bias = 3 / 32  # of self-normalised averages, in units of their spread over one run
    for mean, truth in [
        (states.internal_energy, exact.internal_energy),
        (states.heat_capacity, exact.heat_capacity),
        *zip(jax.tree.leaves(slopes), jax.tree.leaves(slope), strict=True),
    ]:
        mean = np.asarray(mean).reshape(200)
        error = np.std(mean) / np.sqrt(200) + bias * np.std(mean)
        check(np.mean(mean), np.ravel(truth)[0], error, limit=4.0)
    caught(np.asarray(states.heat_capacity) / BETA, exact.heat_capacity)


def test_the_surrogate_differentiates_to_the_identities():
    x = jax.random.normal(jax.random.key(0), (50, 2))
    log_w = jax.random.normal(jax.random.key(1), (50,))
    beta, q = 2.0, jnp.array([0.7, -0.4])
    energy = lambda q, x: 0.5 * jnp.sum((x - jnp.tanh(q * x[::-1])) ** 2)
    log_z = lambda q, beta: surrogate(lambda x: energy(q, x), x, log_w, beta).log_z
    share = jax.nn.softmax(log_w)
    mean = lambda a: jnp.tensordot(share, a, 1)
    h = jax.vmap(lambda x: energy(q, x))(x)
    force = jax.vmap(lambda x: jax.grad(energy)(q, x))(x)
    curve = jax.vmap(lambda x: jax.hessian(energy)(q, x))(x)
    outer = jax.vmap(jnp.outer)(force, force)
    spread = mean(outer) - jnp.outer(mean(force), mean(force))
    agree = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10)
    crossed = mean(h[:, None] * force) - mean(h) * mean(force)

    @jax.jit
    def derivatives(q, beta):
        slopes = jax.grad(log_z, (0, 1))
        return log_z(q, beta), slopes(q, beta), jax.jacfwd(slopes, (0, 1))(q, beta)

    value, (by_q, by_beta), ((by_qq, by_q_beta), (_, by_beta_beta)) = derivatives(q, beta)
    agree(value, jax.nn.logmeanexp(log_w))
    agree(by_q, -beta * mean(force))
    agree(by_beta, -mean(h))
    agree(by_beta_beta, mean(h**2) - mean(h) ** 2)
    agree(by_qq, beta**2 * spread - beta * mean(curve))
    agree(by_q_beta, beta * crossed - mean(force))


def test_the_variational_bound():
    net, params, data = loop()
    centre, scale = jnp.array([0.2, 0.0]), 0.6
    noise = jax.random.normal(jax.random.key(2), (20000, 2))
    height = jax.vmap(lambda z: net.energy(params, centre + scale * z, None))(noise)
    entropy = 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(scale))
    bound = -BETA * height + entropy
    exact = float(exact_log_z(net, params, data))
    assert np.mean(bound) - 5 * np.std(bound) / np.sqrt(20000) < exact
    assert np.mean(bound) > exact - 3  # a bound with room for a wrong sign is no bound


def test_hard_annealing_is_flagged():
    net, params, data = clamped_chain("tanh")
    far = {"x": data["x"], "y": jnp.array([[6.0]])}
    few = thermodynamic_state(
        net, params, far, 200.0, method="forward", key=jax.random.key(0), samples=256
    )
    assert few.flags & Flag.LOW_ESS
    assert few.ess < 20
    energy = lambda x, lam, scale: 0.5 * jnp.sum(scale * x**2)
    starts = jax.random.normal(jax.random.key(1), (64, 2))
    wild = climb(energy, jnp.ones(2), starts, 1.0, jax.random.key(2), levels=4, step_size=40.0)
    assert wild.estimate.flags & Flag.BAD_ACCEPTANCE
    np.testing.assert_allclose(wild.estimate.value, 0.0, atol=1e-12)


def test_the_reference_is_normalised_and_exactly_drawn():
    net, params, data = clamped_chain("tanh")
    example = jax.tree.map(lambda leaf: leaf[0], data)
    x = draw(net, params, example, BETA, jax.random.key(5), 20000)
    log_m = jax.vmap(lambda x: log_reference(net, params, x, example, BETA))(x)
    check(np.asarray(log_m), -(1 + np.log(2 * np.pi / BETA)))  # minus the entropy, n = 2
    # importance sampling of a normal's mass under m is 1 if m is normalised
    normal = jnp.sum(-0.5 * (x - 0.4) ** 2 / 0.2, axis=1) - np.log(2 * np.pi * 0.2)
    check(np.exp(normal - log_m), 1.0)


def test_the_core_finds_the_same_log_z():
    net, params, data = clamped_chain("tanh")
    example = jax.tree.map(lambda leaf: leaf[0], data)
    sys = as_system(net, params, example, beta=BETA)
    point = tj.Point(BETA, params)
    method = tj.SMC(n=256, n_runs=4)
    out = tj.log_partition(sys, point, jax.random.key(0), method=method)
    assert out.trusted
    check(out.value, quadrature_state(net, params, example, BETA).log_z, out.stderr)
    assert out.stderr < 0.1


def test_keys_belong_to_examples():
    net, params, data = clamped_chain("tanh")
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), data)
    each = log_partition(
        net, params, twice, BETA, method="forward", key=jax.random.key(1), reduction="none"
    )
    assert each.shape == (2,)
    assert each[0] != each[1]
    total = thermodynamic_state(
        net, params, twice, BETA, method="forward", key=jax.random.key(1)
    )
    np.testing.assert_allclose(total.log_z, each[0] + each[1])
    check(total.log_z, 2 * exact_log_z(net, params, data), total.stderr, limit=4.0)


def trained_on_digits():
    """A 64-16-16-10 tanh net after 500 steps of gradient descent, and four of its images."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = jnp.asarray(pixels[:256] / 16, jnp.float32)
    y = jax.nn.one_hot(jnp.asarray(labels[:256]), 10, dtype=jnp.float32)
    sizes = (64, 16, 16, 10)
    net, rng = layered_network(sizes, "tanh"), np.random.default_rng(0)
    params = [
        (jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(n), jnp.float32), jnp.zeros(m, x.dtype))
        for n, m in itertools.pairwise(sizes)
    ]

    def loss(params):
        out = jax.vmap(lambda x: net.forward(params, x)[-1])(x)
        return 0.5 * jnp.mean(jnp.sum((out - y) ** 2, axis=1))

    def step(_, params):
        return jax.tree.map(lambda q, g: q - 0.1 * g, params, jax.grad(loss)(params))

    params = jax.jit(lambda params: jax.lax.fori_loop(0, 500, step, params))(params)
    assert loss(params) < 0.2
    return net, params, {"x": x[:4], "y": y[:4]}


def test_digits_linearized_and_annealed_agree_where_the_states_are_cold():
    net, params, data = trained_on_digits()
    gaps = []
    for beta in (1.0, 50.0):
        sampled = thermodynamic_state(
            net, params, data, beta, method="ais", key=jax.random.key(1), levels=1024
        )
        closed = thermodynamic_state(net, params, data, beta, method="linearized")
        assert sampled.flags == 0
        assert sampled.log_z.dtype == jnp.float32
        assert sampled.stderr < 0.25  # of a sum of four
        gaps.append((closed.log_z - sampled.log_z, sampled.stderr))
        assert (closed.flags == 0) == (beta > 10)  # it says where it is too coarse
    (hot, hot_error), (cold, cold_error) = gaps
    check(cold, 0.0, cold_error, limit=4.0)
    caught(hot, 0.0, hot_error)  # O(1/beta): slopes along the forward pass are too few
    assert abs(hot) > 4 * abs(cold)
