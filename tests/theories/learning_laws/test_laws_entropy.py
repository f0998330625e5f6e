"""Entropy of ensembles of networks against its rates, and of the states of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tests.scores import check
from thermojax import Flag
from thermojax.estimators.knn import gaussian_entropy, knn_entropy
from thermojax.theories.learning_laws.efficiency import learning_efficiency
from thermojax.theories.learning_laws.ensemble import thermodynamic_state, total_free_energy
from thermojax.theories.learning_laws.entropy_rates import (
    entropy_rate,
    gd_entropy_change,
    state_entropy_rate,
)
from thermojax.theories.learning_laws.septuple import layered_network

ONE = np.ones((1, 1))
STIFF = np.array([1.0, 3.0])
GAMMA, D = 0.5, 0.2
HESSIAN = jnp.array([[2.0, 0.5], [0.5, 1.0]])


def quantiles(count):
    """Equal-weight members of the standard normal law."""
    return jnp.asarray(stats.norm.ppf((np.arange(count) + 0.5) / count))


def ornstein(t, diffusion):
    """Mean and covariance of E10 at time t."""
    decay = np.exp(-GAMMA * STIFF * t)
    start = np.array([[0.4, 0.1], [0.1, 0.9]])
    noise = diffusion * (1 - decay**2) / (GAMMA * STIFF)
    return decay * [1.0, -1.0], decay[:, None] * start * decay + np.diag(noise)


def gaussian_members(mean, covariance):
    """Four members with exactly this mean and this covariance (their own, over M)."""
    cross = np.sqrt(2.0) * np.concatenate([np.eye(2), -np.eye(2)])
    return jnp.asarray(mean + cross @ np.linalg.cholesky(covariance).T)


def entropy_of(covariance):
    return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]


@pytest.mark.parametrize(
    ("diffusion", "entropy", "rate"),
    [(D, 1.6354493023, -0.6104856963), (0.0, 0.9129660042, -2.0)],
)
def test_worked_ornstein_uhlenbeck_process(x64, diffusion, entropy, rate):
    """E10 and I17."""
    mean, covariance = ornstein(0.7, diffusion)
    np.testing.assert_allclose(entropy_of(covariance), entropy, atol=1e-9)
    precision = np.linalg.inv(covariance)
    found = entropy_rate(
        jnp.full(4, STIFF.sum()),
        gamma=GAMMA,
        diffusion=diffusion,
        score=lambda q: -precision @ (q - mean),
        samples=gaussian_members(mean, covariance),
    )
    np.testing.assert_allclose(found.total, rate, atol=1e-9)
    np.testing.assert_allclose(found.drift, -2, atol=1e-12)
    if diffusion:
        np.testing.assert_allclose(found.diffusion, 1.3895143037, atol=1e-9)
    h = 1e-5
    ahead, behind = (entropy_of(ornstein(0.7 + s, diffusion)[1]) for s in (h, -h))
    np.testing.assert_allclose(found.total, (ahead - behind) / (2 * h), atol=1e-8)


def test_stationary_ensembles_lose_nothing_and_the_functional_falls(x64):
    mean, covariance = ornstein(60.0, D)
    rate = lambda mean, covariance: entropy_rate(
        jnp.full(4, STIFF.sum()),
        gamma=GAMMA,
        diffusion=D * np.eye(2),
        score=lambda q: -np.linalg.solve(covariance, np.eye(2)) @ (q - mean),
        samples=gaussian_members(mean, covariance),
    )
    np.testing.assert_allclose(rate(mean, covariance).total, 0, atol=1e-12)
    times, functional = np.linspace(0, 3, 30), []
    for t in times:
        mean, covariance = ornstein(t, D)
        energy = 0.5 * np.sum(STIFF * (np.diag(covariance) + mean**2))
        functional.append(energy - D / GAMMA * entropy_of(covariance))
    assert np.all(np.diff(functional) < 0)


def test_noise_without_a_score_is_unknown():
    found = entropy_rate(jnp.ones(3), gamma=2.0, diffusion=0.1)
    assert np.isnan(found.total)
    assert np.isnan(found.diffusion)
    assert (found.drift, found.stderr, found.flags) == (-2, np.inf, Flag.NONFINITE)
    assert entropy_rate(jnp.ones(1), gamma=2.0).stderr == np.inf


def test_a_fitted_score_is_unbiased_with_an_honest_error(x64):
    """Members of a Gaussian law whose Laplacian leans on where they are."""
    covariance = np.array([[0.4, 0.1], [0.1, 0.9]])
    draws = np.random.default_rng(0).normal(size=(400, 40, 2))
    draws = jnp.asarray(draws @ np.linalg.cholesky(covariance).T)

    def one(q):
        values = jnp.sum(q**2, axis=1)
        return entropy_rate(values, gamma=1.0, diffusion=0.3, score="gaussian", samples=q)

    found = jax.jit(jax.vmap(one))(draws)
    exact = -np.trace(covariance) + 0.3 * np.trace(np.linalg.inv(covariance))
    check(found.total, exact)
    np.testing.assert_allclose(np.median(found.stderr), np.std(found.total), rtol=0.2)


def test_noise_that_depends_on_the_place(x64):
    """Ito noise D = 1 + q^2 / 4 in equilibrium at p = N(0, 1): the rate vanishes."""
    q = quantiles(4000)[:, None]
    noise = lambda q: 1 + q @ q * jnp.eye(1) / 4
    # gamma F' = D q - D', gamma = 2
    slope = lambda q: ((1 + q**2 / 4) * q - q / 2) / 2
    laplacians = jax.vmap(jax.grad(slope))(q[:, 0])
    options = {"diffusion": noise, "samples": q, "gamma": 2.0}
    found = entropy_rate(laplacians, score=lambda q: -q, **options)
    np.testing.assert_allclose(found.diffusion, 1.25, atol=5e-3)
    np.testing.assert_allclose(found.total, 0, atol=5e-3)


def test_gradient_flow_of_a_quartic(x64):
    """E11: q(t) = q0 / sqrt(1 + 2 t q0^2)."""
    q0 = quantiles(2000)
    at = lambda t: entropy_rate(3 * (q0 / jnp.sqrt(1 + 2 * t * q0**2)) ** 2, gamma=1.0).drift
    np.testing.assert_allclose(at(1.0), -0.681537959, atol=1e-5)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    change = 0.5 * weights @ jax.vmap(at)(jnp.asarray(0.5 + 0.5 * nodes))
    np.testing.assert_allclose(change, -1.215169787, atol=2e-3)


def test_a_double_well_at_rest(x64):
    """E16: p = exp(-F / T_q)."""
    density = lambda q: np.exp(-((q**2 - 1) ** 2) / 4 / 0.5)
    grid = np.linspace(-3.5, 3.5, 40_001)
    mass = integrate.cumulative_simpson(density(grid), x=grid, initial=0.0)
    q = np.interp((np.arange(4000) + 0.5) / 4000, mass / mass[-1], grid)[:, None]
    found = entropy_rate(
        jnp.asarray(3 * q[:, 0] ** 2 - 1),
        gamma=1.0,
        diffusion=0.5,
        score=lambda q: -2 * q * (q**2 - 1),
        samples=jnp.asarray(q),
    )
    np.testing.assert_allclose(-found.drift, 1.6803949087, atol=2e-4)
    np.testing.assert_allclose(found.diffusion, 1.6803949087, atol=6e-3)


def bowl(q):
    return 0.5 * q @ HESSIAN @ q


def test_worked_step(x64):
    """E12."""
    change = lambda **options: gd_entropy_change(bowl, jnp.ones(2), 0.2, **options)
    np.testing.assert_allclose(change().value, -0.7550225843, atol=1e-10)
    assert (change().stderr, change().n_entries, change().flags) == (0, 2, 0)
    for order, value in ((1, -0.6), (2, -0.71), (3, -0.71 - 0.008 * 11.25 / 3)):
        found = change(method="series", order=order)
        np.testing.assert_allclose(found.value, value, atol=1e-12)
    # two Lanczos steps know all of two dimensions
    found = change(method="slq", key=jax.random.key(0), probes=400)
    check(found.value, -0.7550225843, found.stderr)
    masked = change(support=np.array([True, False]))
    np.testing.assert_allclose(masked.value, np.log(0.6), atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_a_step_takes_its_log_determinant_from_an_ensemble(seed):
    """I18: exactly, for a quadratic F and the fitted entropy."""
    rng = np.random.default_rng(seed)
    members = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 2))
    with jax.enable_x64(True):
        before = gaussian_entropy(members).value
        after = gaussian_entropy(members - 0.2 * members @ HESSIAN).value
        np.testing.assert_allclose(after - before, -0.7550225843, atol=1e-9)


def test_probes_of_a_larger_step(x64):
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    hessian = jnp.asarray(basis @ np.diag(np.linspace(-1.0, 3.0, 20)) @ basis.T)
    change = jax.jit(
        lambda eta, key: tuple(
            gd_entropy_change(lambda q: 0.5 * q @ hessian @ q, jnp.ones(20), eta, **options)
            for options in (
                {},
                {"method": "slq", "key": key, "probes": 60},
                {"method": "series", "key": key, "probes": 60, "order": 12},
                {"method": "series", "order": 12},
            )
        )
    )
    exact, slq, probed, series = change(0.2, jax.random.key(2))
    check(slq.value, exact.value, slq.stderr)
    check(probed.value, series.value, probed.stderr)
    np.testing.assert_allclose(series.value, exact.value, rtol=1e-3)
    assert (series.flags, slq.flags, slq.n_eff) == (0, 0, 60)
    # beyond its radius the series says so, and the others go on
    exact, slq, probed, series = change(0.5, jax.random.key(3))
    check(slq.value, exact.value, slq.stderr)
    assert probed.flags == series.flags == Flag.TOO_COARSE
    assert exact.flags == 0


def test_a_singular_step():
    found = gd_entropy_change(lambda q: jnp.sum(q**2), jnp.ones(2), 0.5)
    assert (found.value, found.flags) == (-np.inf, Flag.NONFINITE)


SMALL = layered_network((1, 1, 1, 1), "tanh")
POINTS = {
    "x": np.array([[-1.0], [0.2], [0.9]]),
    "y": np.array([[-0.3], [0.1], [0.5]]),
}


def small(q):
    """Weights 0.6, 0.8, 0.5, then biases, as a network of one unit a layer."""
    return [(q[i].reshape(1, 1), q[3 + i].reshape(1)) for i in range(3)]


def small_free_energy(q):
    return total_free_energy(SMALL, small(q), POINTS, 4.0, method="linearized")


entropies = jax.jit(lambda x: (knn_entropy(x), gaussian_entropy(x)))


@pytest.fixture(scope="module")
def descended():
    """4096 tanh networks through ten steps of descent, plain and with noise."""
    with jax.enable_x64(True):
        centre = jnp.array([0.6, 0.8, 0.5, 0.1, 0.0, 0.1])
        start = centre + 0.2 * jax.random.normal(jax.random.key(0), (4096, 6))
        eta, diffusion = 0.05, 0.02

        @jax.jit
        def run(start, diffusion):
            def one(q):
                hessian = jax.hessian(small_free_energy)(q)
                step = jnp.linalg.slogdet(jnp.eye(6) - eta * hessian)[1]
                return jax.grad(small_free_energy)(q), jnp.trace(hessian), step

            def body(q, key):
                slope, trace, step = jax.vmap(one)(q)
                rate = entropy_rate(
                    trace, gamma=1.0, diffusion=diffusion, score="gaussian", samples=q
                )
                noise = jax.random.normal(key, q.shape)
                moved = q - eta * slope + jnp.sqrt(2 * diffusion * eta) * noise
                return moved, (eta * rate.drift, eta * rate.total, jnp.mean(step))

            keys = jax.random.split(jax.random.key(1), 10)
            end, sums = jax.lax.scan(body, start, keys)
            return end, tuple(jnp.sum(x) for x in sums)

        return start, run(start, 0.0), run(start, diffusion)


def test_descent_of_tanh_networks(x64, descended):
    """Section 8 D: neighbours of whitened members against the accumulated log-det."""
    start, (end, (first, _, log_det)), _ = descended
    np.testing.assert_allclose(log_det, -2.16, atol=0.05)
    np.testing.assert_allclose(first, -2.02, atol=0.05)
    (near, fit), (near_end, fit_end) = entropies(start), entropies(end)
    assert abs(near_end.value - near.value - log_det) < 0.1
    # the fit is only an upper bound, and says less
    assert fit_end.value - fit.value > log_det + 0.15


def test_langevin_descent_of_tanh_networks(x64, descended):
    """The diffusion term is as large as the drift: without it the entropy would be off."""
    start, _, (end, (drift, total, _)) = descended
    change = entropies(end)[0].value - entropies(start)[0].value
    assert abs(total - drift) > 0.5
    # rates are of first order in the step, the score a fit
    assert abs(change - total) < 0.2
    assert abs(change - drift) > 0.4


def test_an_ensemble_of_linear_networks(x64):
    """E15: gradient flow of the exact F in the output weight, by Runge-Kutta."""
    net = layered_network((1, 1, 1), "linear")
    data = {"x": ONE, "y": ONE}
    at = lambda v: [(ONE, np.zeros(1)), (v.reshape(1, 1), np.zeros(1))]
    out = [(np.zeros((1, 1)), np.zeros(1)), (np.ones((1, 1)), np.zeros(1))]
    slope = jax.vmap(jax.grad(lambda v: total_free_energy(net, at(v), data, 2.0)))
    bend = jax.vmap(lambda v: learning_efficiency(net, at(v), data, 2.0, support=out).value)

    @jax.jit
    def flow(v):
        h = 1 / 50

        def body(v, _):
            k1 = -slope(v)
            k2 = -slope(v + h * k1 / 2)
            k3 = -slope(v + h * k2 / 2)
            k4 = -slope(v + h * k3)
            moved = v + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
            return moved, (moved, entropy_rate(bend(moved), gamma=1.0).drift)

        end, (_, rates) = jax.lax.scan(body, v, length=50)
        rates = jnp.append(entropy_rate(bend(v), gamma=1.0).drift, rates)
        return end, rates

    end, rates = flow(0.5 + 0.3 * quantiles(500))
    np.testing.assert_allclose(-rates[0], 1.2513378, atol=1e-3)
    np.testing.assert_allclose(-rates[-1], 1.2887755, atol=1e-3)
    change = integrate.simpson(np.asarray(rates), dx=1 / 50)
    np.testing.assert_allclose(change, -1.3380715, atol=1e-3)
    np.testing.assert_allclose(end.mean(), 0.6559475, atol=1e-4)
    np.testing.assert_allclose(end.std(), 0.0855364, atol=1e-3)


def chain(weights, biases):
    return [
        (w * jnp.ones((1, 1)), b * jnp.ones(1)) for w, b in zip(weights, biases, strict=True)
    ]


@pytest.mark.parametrize("last", [-0.6, 1.5])
def test_states_along_gradient_flow(x64, last):
    """I16; the entropy rises where learning shrinks the gain."""
    net = layered_network((1, 1, 1), "linear")
    data, params, gamma = {"x": 1.5 * ONE, "y": 0.3 * ONE}, chain((0.8, last), (0.1, 0.2)), 0.3
    found = jax.jit(lambda q: state_entropy_rate(net, q, data, 4.0, gamma))(params)
    force = jax.grad(lambda q: total_free_energy(net, q, data, 4.0))(params)
    moved = lambda t: jax.tree.map(lambda q, f: q - t * gamma * f, params, force)
    state = jax.jit(lambda t: thermodynamic_state(net, moved(t), data, 4.0))
    h = 1e-5
    ahead, behind = state(h), state(-h)
    rate = lambda name: (getattr(ahead, name) - getattr(behind, name)) / (2 * h)
    np.testing.assert_allclose(found.dF_dt, rate("free_energy"), rtol=1e-7)
    np.testing.assert_allclose(found.dS_dt, rate("entropy"), rtol=1e-7)
    assert found.dF_dt < 0
    assert found.dS_dt > 0.05


def test_worked_forces_give_the_rates(x64):
    """E2, with a prior that the states do not feel."""
    net = layered_network((1, 1, 1), "linear")
    data, params = {"x": 1.5 * ONE, "y": 0.3 * ONE}, chain((0.8, -0.6), (0.1, 0.2))
    force = np.array([0.5823529412, -0.7002595156, 0.3882352941, -0.6470588235])
    found = state_entropy_rate(net, params, data, 4.0, 0.3)
    np.testing.assert_allclose(found.dF_dt, -0.3 * force @ force, atol=1e-9)
    np.testing.assert_allclose(found.dS_dt, 0.3 * 0.7002595156 * 0.4411764706, atol=1e-9)
    prior = lambda q: sum(jnp.sum(x) for x in jax.tree.leaves(q))
    found = state_entropy_rate(net, params, data, 4.0, 0.3, prior=prior)
    np.testing.assert_allclose(found.dF_dt, -0.3 * np.sum((force + 1) ** 2), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"laplacian_values": jnp.zeros((2, 2))}, "one per member"),
        ({"gamma": -1.0}, "negative"),
        ({"diffusion": -1.0}, "negative"),
        ({"diffusion": 1.0, "score": "knn", "samples": jnp.ones((3, 1))}, "unknown"),
        ({"diffusion": 1.0, "score": "gaussian"}, "needs samples"),
        ({"diffusion": 1.0, "score": "gaussian", "samples": jnp.ones((4, 1))}, "one each"),
        ({"diffusion": 1.0, "score": "gaussian", "samples": jnp.ones((3, 1))}, "too few"),
    ],
)
def test_refused_rates(options, message):
    with pytest.raises(ValueError, match=message):
        entropy_rate(**({"laplacian_values": jnp.zeros(3), "gamma": 1.0} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "trace"}, "unknown"),
        ({"method": "slq"}, "give key="),
        ({"method": "series", "order": 0}, "at least 1"),
    ],
)
def test_refused_steps(options, message):
    with pytest.raises(ValueError, match=message):
        gd_entropy_change(bowl, jnp.ones(2), 0.1, **options)
