"""Bridge: accuracy on one basin, refusal of several, and folding of symmetric ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax import exact
from thermojax.bridge import Bridge, bridge_log_z
from thermojax.symmetry import Hidden, tanh_symmetry

CANCER = -55.224
"""log Z of the breast-cancer regression, ± .006 by replica exchange with 2e8 gradients."""
WIDTH, SPREAD = 0.6, 3.0
ONE = ((0.2, 0.0), (-0.2, 0.1), (0.0, -0.3))
THREE = ((-4.0, 0.0), (4.0, 0.0), (0.0, 5.0))
SMALL = Bridge(warm_up=tj.SMC(n=64, n_runs=8, target=0.5))


def _wells(theta, control, centers):
    squares = jnp.sum((theta - centers) ** 2, axis=1)
    return -jax.scipy.special.logsumexp(-0.5 * squares / WIDTH**2)


def wells(centers):
    """Sum of Gaussians under a Gaussian prior; centres are data, so all compile once."""
    data = jnp.asarray(centers)
    prior = tj.gaussian_prior(SPREAD)
    return tj.system(_wells, prior=prior, like=jnp.zeros(2), data=data)


def log_z_of(centers):
    total = WIDTH**2 + SPREAD**2
    squares = np.sum(np.square(centers), axis=1)
    return math.log(WIDTH**2 / total * np.sum(np.exp(-0.5 * squares / total)))


def solve(sys, seed=0, beta=1.0, settings=SMALL):
    return bridge_log_z(settings, sys, tj.Point(beta), jax.random.key(seed))


def cancer():
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)])
    loss = lambda w, control, data: jnp.sum(jax.nn.softplus(-data[1] * (data[0] @ w)))
    data = (jnp.asarray(x, jnp.float32), jnp.asarray(2.0 * y - 1, jnp.float32))
    return tj.system(loss, prior=tj.gaussian_prior(1.0), like=jnp.zeros(31), data=data)


@pytest.fixture(scope="module")
def one_basin():
    return [solve(wells(ONE), seed) for seed in range(4)]


def test_one_basin_within_its_small_error(one_basin):
    values = np.asarray([est.value for est in one_basin])
    errors = np.asarray([est.stderr for est in one_basin])
    check(values, log_z_of(ONE), errors)
    caught(values + 0.05, log_z_of(ONE), errors)
    for est in one_basin:
        est.require_trusted()
        assert est.stderr < 0.01
        # the warm-up alone is many times worse
        assert abs(est.parts.readouts["smc"] - est.value) < 0.5


def test_parts_serve_curve_and_derivatives(one_basin):
    est, sys = one_basin[0], wells(ONE)
    near = tj.curve(est, [0.95, 1.0])
    assert abs(near.log_z.value[1] - est.value) < 0.02
    slope = (near.log_z.value[1] - near.log_z.value[0]) / 0.05
    energy = jnp.mean(jax.vmap(lambda x: sys.energy(x))(est.parts.samples))
    assert abs(slope + energy) < 0.05
    grad = jax.grad(tj.differentiable_log_z(est, sys))(tj.Point(1.0)).beta
    assert abs(grad + energy) < 1e-4
    assert est.parts.runs_log_z.shape == (8,)
    assert est.parts.n_gradients < 2e5


def test_three_modes_are_not_trusted_and_fall_back():
    for seed in range(3):
        est = solve(wells(THREE), seed)
        assert est.flags & tj.Flag.MODE_LEAK
        # value and error are the warm-up's own
        assert est.value == est.parts.readouts["smc"]
        check(est.value, log_z_of(THREE), est.stderr, 6.0)
        assert est.stderr > 0.02


def test_images_of_a_symmetric_posterior_are_folded():
    """Row T14 at beta = 1, where its two modes overlap: log |G| is exact all the same."""
    solved = exact.tanh_network()
    like = {"a": jnp.zeros(1), "w": jnp.zeros(1)}
    group = tanh_symmetry(like, (Hidden(("a", 0), (("w", 0),)),))
    sys = solved.system.replace(symmetry=group)
    est = solve(sys).require_trusted()
    check(est.value, solved.log_partition(1.0), est.stderr)
    caught(est.value - math.log(2), solved.log_partition(1.0), est.stderr)
    assert np.all(est.parts.samples["a"] >= 0)
    point = tj.curve(est, 1.0).log_z
    check(point.value[0], solved.log_partition(1.0), point.stderr[0])


def test_evidence_of_breast_cancer():
    sys = cancer()
    found = [solve(sys, seed, settings=Bridge()) for seed in range(3)]
    off = np.asarray([est.value for est in found]) - CANCER
    assert np.sqrt(np.mean(off**2)) < 0.02
    for est in found:
        est.require_trusted()
        assert est.stderr < 0.02
        assert est.parts.n_gradients < 1e6


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="binary states"):
        solve(exact.free_spins().system)
    unadjusted = Bridge(kernel=lambda s: tj.langevin(s))
    with pytest.raises(ValueError, match="metropolised one"):
        jax.eval_shape(lambda: solve(wells(ONE), settings=unadjusted))
    for wrong in ({"draws": 1}, {"burn_in": 0}, {"forget": 1.5}):
        with pytest.raises(ValueError, match="must"):
            Bridge(**wrong)


@pytest.mark.nightly
def test_error_at_a_million_gradients():
    """Sixteen seeds of the breast-cancer regression, scaled to 10^6 gradients."""
    sys = cancer()
    found = [solve(sys, seed, settings=Bridge()) for seed in range(16)]
    off = np.asarray([est.value for est in found]) - CANCER
    spent = np.mean([est.parts.n_gradients for est in found])
    assert spent < 1e6
    assert np.sqrt(np.mean(off**2)) < 0.01
    assert all(est.trusted for est in found)


@pytest.mark.nightly
def test_coverage_of_the_error_bar():
    solved = exact.logistic_regression()
    expected = solved.log_partition(1.0)
    found = [solve(solved.system, seed, settings=Bridge()) for seed in range(200)]
    assert all(est.trusted for est in found)
    z = np.asarray([(est.value - expected) / est.stderr for est in found])
    assert 0.60 <= np.mean(np.abs(z) < 1) <= 0.77
    assert 0.91 <= np.mean(np.abs(z) < 2) <= 0.985
    assert 0.8 < np.std(z) < 1.2
