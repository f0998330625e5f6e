"""Quadrature of small networks against closed forms, worked numbers and nested integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax.estimators.estimate import Flag
from thermojax.theories.learning_laws.box import box_of, kinks_of
from thermojax.theories.learning_laws.quadrature import integrate_energy, quadrature_state
from thermojax.theories.learning_laws.septuple import dense_network, layered_network
from thermojax.theories.learning_laws.states import log_z_reference

pytestmark = pytest.mark.usefixtures("x64")


def chain(weights, biases):
    pairs = zip(weights, biases, strict=True)
    return [(jnp.array([[w]], float), jnp.array([b], float)) for w, b in pairs]


def one(x, y=None):
    return {"x": jnp.array([x]), "y": None if y is None else jnp.array([y])}


TANH = layered_network((1, 1, 1, 1), "tanh")


def tanh_chain():
    return chain([0.5, 1.2, 0.8], [0.1, -0.3, 0.05]), one(1.0, 0.4)


def close(value, exact, digits=9):
    np.testing.assert_allclose(value, exact, rtol=0, atol=0.6 * 10.0**-digits)


@pytest.mark.parametrize(
    ("w", "b", "beta", "log_z"),
    [(0.5, 0.3, 4.0, 0.6986384550029128), (1.8, 0.0, 20.0, 0.7550428560565439)],
)
def test_one_tanh_neuron(w, b, beta, log_z):
    params = {"w": jnp.array([[w]]), "b": jnp.array([b])}
    net = dense_network(1, "tanh")
    close(quadrature_state(net, params, None, beta).log_z, log_z, 12)


def test_one_tanh_neuron_in_full():
    net = dense_network(1, "tanh")
    state = lambda w, b: quadrature_state(net, {"w": w.reshape(1, 1), "b": b}, None, 4.0)
    at = (jnp.array([0.5]), jnp.array([0.3]))
    out = state(*at)
    close(out.internal_energy, 0.1196851974)
    close(out.complexity, 0.4728471024)
    close(out.excess, -0.0212592104)
    close(out.heat_capacity, 0.4443536706)
    free = lambda w, b: state(w, b).free_energy
    slope = jax.grad(free, (0, 1))(*at)
    close(jnp.concatenate(slope), [-0.2188010798, 0.1419462217])
    curvature = jax.hessian(free, (0, 1))(*at)
    close(curvature[0][0][0, 0] + curvature[1][1][0, 0], 0.4156453706)


def test_a_tanh_chain_in_full():
    params, example = tanh_chain()
    free = lambda params: quadrature_state(TANH, params, example, 5.0).free_energy
    out = quadrature_state(TANH, params, example, 5.0)
    close(out.log_z, -0.1796723115)
    close(out.internal_energy, 0.2068261433)
    close(out.entropy, 0.8544584052)
    close(out.heat_capacity, 1.0438795838)
    close(out.complexity, -0.4081114655)
    close(out.excess, 0.0341307167)
    assert out.flags == 0
    slope = jax.jit(jax.grad(free))(params)
    weights = [float(w[0, 0]) for w, _ in slope]
    biases = [float(b[0]) for _, b in slope]
    close(weights, [-0.0450383639, 0.0051986784, 0.1177591597])
    close(biases, [-0.0450383639, -0.0527447201, -0.0477047354])


def test_a_kink_on_an_edge_keeps_its_delta_term():
    net = layered_network((1, 1, 1), "linear", output_activation="relu")

    def log_z(c):
        params = [*chain([0.5], [0.0]), (jnp.ones((1, 1)), c[None])]
        return quadrature_state(net, params, one(1.0, 0.4), 2.0).log_z

    at = jnp.array(-0.3)
    close(log_z(at), 0.3910870014)
    close(-jax.grad(jax.grad(log_z))(at) / 2, 0.2185871082)  # 0.44 without the delta


def test_a_free_output_is_the_reference_by_quadrature_too():
    params, _ = tanh_chain()
    out = quadrature_state(TANH, params, one(1.0), 5.0, panels=8)
    close(out.log_z, 1.5 * np.log(2 * np.pi / 5), 10)
    close(out.excess, 0.0, 10)


def noisy_net_density(f, params, x, y, beta):
    """p(y | x) of the noisy net 1-1-1-1, by a fine rectangle rule in x_1 and x_2."""
    (w1, b1), (w2, b2), (w3, b3) = [(float(w[0, 0]), float(b[0])) for w, b in params]
    noise = lambda r: np.sqrt(beta / (2 * np.pi)) * np.exp(-beta * r**2 / 2)
    grid = np.linspace(-6, 8, 4001)
    step = grid[1] - grid[0]
    first = noise(grid - f(w1 * x + b1))
    second = noise(grid[None, :] - f(w2 * grid + b2)[:, None])
    last = noise(y - w3 * grid - b3)
    return step**2 * first @ second @ last


@pytest.mark.parametrize(
    ("name", "f"), [("tanh", np.tanh), ("relu", lambda y: np.maximum(y, 0))]
)
def test_clamped_log_z_is_the_likelihood_of_the_noisy_net(name, f):
    params, beta, y = chain([0.5, 1.2, 0.8], [0.1, -0.7, 0.05]), 5.0, 0.4
    net = layered_network((1, 1, 1, 1), name)
    log_z = quadrature_state(net, params, one(1.0, y), beta).log_z
    density = noisy_net_density(f, params, 1.0, y, beta)
    left = log_z - log_z_reference(2 + 1, beta)  # hidden, and the density of one output
    # the rectangle rule sees the kink at second order in its step
    np.testing.assert_allclose(left, np.log(density), atol=1e-8 if name == "tanh" else 1e-6)


def test_recurrent_log_z_by_change_of_variables():
    # one neuron, |w| < 1: C = log E_r 1/|1 - f'(w x(r) + b) w|, r normal of variance T
    w, b, beta = 0.7, 0.2, 3.0
    normal = np.linspace(-10, 10, 20001)
    weights = np.exp(-(normal**2) / 2) * (normal[1] - normal[0])
    r, x = normal / np.sqrt(beta), normal * 0.0
    for _ in range(200):
        x = r + np.tanh(w * x + b)
    slope = 1 - np.tanh(w * x + b) ** 2
    exact = np.log(np.sum(weights / np.sqrt(2 * np.pi) / np.abs(1 - slope * w)))
    params = {"w": jnp.array([[w]]), "b": jnp.array([b])}
    out = quadrature_state(dense_network(1, "tanh"), params, None, beta)
    np.testing.assert_allclose(out.complexity, exact, atol=1e-10)


def test_homogeneous_activations_scale():
    net = layered_network((1, 1, 1, 1), "relu")
    weights, biases, beta = [0.9, -0.8, 0.6], [0.2, 0.7, -0.1], 7.0
    grown = np.sqrt(beta)
    log_z = quadrature_state(net, chain(weights, biases), one(0.5, -0.3), beta).log_z
    params = chain(weights, [grown * b for b in biases])
    unit = quadrature_state(net, params, one(grown * 0.5, grown * -0.3), 1.0).log_z
    np.testing.assert_allclose(log_z, unit - np.log(beta), atol=1e-9)


def test_kinks_that_depend_on_outer_axes():
    # both hidden neurons drive the output: its kink is a slanted line
    net = layered_network((1, 2, 1), "linear", output_activation="relu")
    params = [
        (jnp.array([[0.4], [-0.7]]), jnp.array([0.1, 0.5])),
        (jnp.array([[1.5, -2.0]]), jnp.array([0.2])),
    ]
    example, beta = one(1.0, 0.6), 3.0
    # 1.5 x_1 - 2 x_2 is normal: one dimension is enough
    z = np.linspace(-12, 12, 400001)
    mean, variance = 1.5 * 0.5 - 2.0 * -0.2 + 0.2, 6.25 / beta
    weight = np.exp(
        -((z - mean) ** 2) / 2 / variance - beta * (0.6 - np.maximum(z, 0)) ** 2 / 2
    )
    exact = np.log(np.sum(weight) * (z[1] - z[0]) / np.sqrt(2 * np.pi * variance))
    out = quadrature_state(net, params, example, beta)
    np.testing.assert_allclose(out.complexity, exact, atol=1e-9)
    assert kinks_of(net, params, example)[0].shape == (1, 2)
    assert kinks_of(TANH, *tanh_chain()) is None


def test_a_recurrent_linear_net_is_bounded_by_its_precision():
    net = dense_network(2, "linear")
    params = {"w": jnp.array([[0.2, 0.5], [-0.3, 0.1]]), "b": jnp.array([0.4, -0.2])}
    close(quadrature_state(net, params, None, 2.0).log_z, 1.2839919532)
    marginal = {"w": jnp.eye(2), "b": jnp.zeros(2)}
    box = box_of(net, marginal, None, 2.0, 10.0)
    assert not np.any(np.isfinite(box.high))
    out = quadrature_state(net, marginal, None, 2.0, panels=4)
    assert out.log_z == np.inf
    assert out.flags & Flag.IMPROPER


def test_three_axes():
    scale = jnp.array([0.5, 1.0, 3.0])
    energy = lambda x: 0.5 * jnp.sum(scale * x**2)
    corner = 10 / jnp.sqrt(scale)
    out = integrate_energy(energy, -corner, corner, 1.0, panels=6)
    close(out.log_z, 0.5 * np.sum(np.log(2 * np.pi / scale)), 8)
    close(out.mean, 1.5, 7)
    close(out.variance, 1.5, 6)


def test_refusals_and_coarse_nodes():
    box = jnp.ones(4)
    with pytest.raises(ValueError, match="1 to 3 free neurons, not 4"):
        integrate_energy(lambda x: x @ x, -box, box, 1.0)
    narrow = integrate_energy(lambda x: x @ x, -box[:1], box[:1], 1e7, panels=4)
    assert narrow.peak > 0.25
    params, example = tanh_chain()
    coarse = quadrature_state(TANH, params, example, 1e6, panels=2, nodes=4)
    assert coarse.flags & Flag.TOO_COARSE


def test_no_free_neuron_is_the_loss_itself():
    net = layered_network((1, 1), "tanh", output_activation="tanh")
    out = quadrature_state(net, chain([0.5], [0.1]), one(1.0, 0.2), 3.0)
    np.testing.assert_allclose(out.log_z, -1.5 * (0.2 - np.tanh(0.6)) ** 2, rtol=1e-12)
