"""Temperatures of any motion of an ensemble: canonical agreement, blocks, kinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from thermojax import Flag, ShapeError
from thermojax.blocks import split
from thermojax.temperatures import flow_temperature, kinetic_temperature, virial_temperature

KEY = jax.random.key(0)


def quartic_line(count=4000, temperature=0.7):
    """Gibbs sample of x^4 + x/2 at a temperature, by inverting its distribution function."""
    x = np.linspace(-3, 3, 20_001)
    density = np.exp(-(x**4 + x / 2) / temperature)
    share = np.cumsum(density) / density.sum()
    places = (np.arange(count) + 0.5) / count
    return jnp.asarray(np.interp(places, share, x))


def test_every_field_shows_the_bath_of_a_gibbs_ensemble(x64):
    """Not quadratic, so that E != T/2, and deterministic: nothing but quadrature error."""
    ensemble = quartic_line()
    potential = lambda x: x**4 + x / 2
    fields = (None, jnp.sin, lambda x: x**3 + 1)
    for field in fields:
        found = flow_temperature(potential, ensemble, field=field, curvature="dense")
        np.testing.assert_allclose(found.total, 0.7, rtol=5e-3)
        assert not found.flags
    for center in (0.0, -0.4):
        found = virial_temperature(potential, ensemble, center=center)
        np.testing.assert_allclose(found.total, 0.7, rtol=5e-3)
    mean = float(jnp.mean(jax.vmap(potential)(ensemble)))
    assert abs(mean - 0.35) > 0.1


def quadratic():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(5, 5))
    stiff = jnp.asarray(mix @ mix.T + np.eye(5))
    draws = np.linalg.cholesky(np.linalg.inv(stiff)) @ rng.normal(size=(5, 3000))
    ensemble = {"a": jnp.asarray(draws.T[:, :2]), "b": jnp.asarray(draws.T[:, 2:])}

    def potential(theta):
        x = jnp.concatenate([theta["a"], theta["b"]])
        return 0.5 * x @ stiff @ x

    return potential, ensemble


def test_blocks_add_up_and_agree_in_a_gibbs_ensemble(x64):
    potential, ensemble = quadratic()
    flow = flow_temperature(potential, ensemble, key=KEY, probes=2)
    virial = virial_temperature(potential, ensemble)
    for found in (flow, virial):
        total = sum(found.weights[n] * found.blocks[n] for n in "ab")
        np.testing.assert_allclose(total, found.total, rtol=1e-12)
        np.testing.assert_allclose(sum(found.weights.values()), 1.0, rtol=1e-12)
        assert abs(found.total - 1) < 4 * found.stderr
        for n in "ab":
            assert abs(found.blocks[n] - 1) < 4 * found.block_stderr[n]
        assert not found.flags
        # a bath 20 % too hot would be seen
        assert abs(1.2 * found.total - 1) > 5 * found.stderr
    np.testing.assert_allclose(virial.weights["b"], 3 / 5)
    one = flow_temperature(potential, ensemble, key=KEY, probes=2, blocks=lambda p: {"all": p})
    np.testing.assert_allclose(one.total, flow.total, rtol=1e-12)
    np.testing.assert_allclose(one.blocks["all"], one.total, rtol=1e-12)


def test_chunks_and_precisions_agree():
    potential, ensemble = quadratic()
    few = jax.tree.map(lambda x: jnp.asarray(x[:60], jnp.float32), ensemble)
    whole = flow_temperature(potential, few, key=KEY)
    chunked = flow_temperature(potential, few, key=KEY, batch_size=7)
    np.testing.assert_allclose(whole.total, chunked.total, rtol=1e-5)
    jitted = jax.jit(lambda e: flow_temperature(potential, e, key=KEY).total)(few)
    np.testing.assert_allclose(whole.total, jitted, rtol=1e-5)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), few)
        exact = flow_temperature(potential, double, curvature="dense").total
    single = flow_temperature(potential, few, curvature="dense").total
    np.testing.assert_allclose(single, exact, rtol=1e-4)


def test_unadjusted_langevin_reads_hot(x64):
    """Worked example 9: h = 2, step 0.25, T = 1: <x^2> = 2/3, both temperatures 4/3."""
    place = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000) * np.sqrt(2 / 3)
    ensemble = jnp.asarray(place)
    for found in (
        flow_temperature(lambda x: x**2, ensemble, curvature="dense"),
        virial_temperature(lambda x: x**2, ensemble),
    ):
        np.testing.assert_allclose(found.total, 4 / 3, rtol=1e-3)


def test_normal_ensembles_that_are_not_canonical_disagree(x64):
    """|w|: flow over virial is pi / 2; binary cross entropy as in worked example 10."""
    ensemble = jnp.asarray(stats.norm.ppf((np.arange(40_000) + 0.5) / 40_000))
    absolute = lambda w: jnp.abs(w)
    score = lambda w: -w
    flow = flow_temperature(absolute, ensemble, curvature="score", score=score)
    virial = virial_temperature(absolute, ensemble)
    np.testing.assert_allclose(flow.total / virial.total, np.pi / 2, rtol=1e-3)
    expected = {
        0.5: (1.1182453490, 0.0590111056),
        2.0: (2.3019346337, 0.6057055096),
        10.0: (11.7357514605, 3.9259560109),
    }
    for s, (hot, scale) in expected.items():
        flow = flow_temperature(jax.nn.softplus, s * ensemble, curvature="dense")
        np.testing.assert_allclose(flow.total, hot, rtol=2e-3)
        virial = virial_temperature(jax.nn.softplus, s * ensemble)
        np.testing.assert_allclose(virial.total, scale, rtol=2e-3)


def test_rotations_change_nothing_and_scales_leave_the_virial(x64):
    rng = np.random.default_rng(6)
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    center = jnp.asarray(rng.normal(size=3))
    ensemble = jnp.asarray(rng.normal(size=(40, 3)))
    potential = lambda x: jnp.sum(jnp.cosh(x)) + x[0] * x[1]
    turned = lambda y: potential(turn.T @ y)
    pairs = (
        (
            flow_temperature(potential, ensemble, curvature="dense"),
            flow_temperature(turned, ensemble @ turn.T, curvature="dense"),
        ),
        (
            virial_temperature(potential, ensemble, center=center),
            virial_temperature(turned, ensemble @ turn.T, center=turn @ center),
        ),
        (
            virial_temperature(potential, ensemble),
            virial_temperature(lambda y: potential(y / 3), 3 * ensemble),
        ),
    )
    for before, after in pairs:
        np.testing.assert_allclose(after.total, before.total, rtol=1e-12)


def test_flow_temperature_is_the_slope_of_energy_in_entropy(x64):
    """A Gaussian pushed by gradient flow of a quadratic: T_flow = dE/dS, and it cools."""
    bend = jnp.array([2.0, 0.3])
    start = jnp.asarray(np.random.default_rng(7).normal(size=(50, 2)) + 1.0)
    potential = lambda x: 0.5 * jnp.sum(bend * x**2)
    read = []
    at = lambda time: start * jnp.exp(-bend * time)
    for t in (0.0, 0.5, 1.5):
        energy = jax.grad(lambda time: jnp.mean(jax.vmap(potential)(at(time))))(t)
        entropy = -jnp.sum(bend)  # d/dt of the log-volume
        read.append(float(flow_temperature(potential, at(t), curvature="dense").total))
        np.testing.assert_allclose(read[-1], energy / entropy, rtol=1e-10)
    assert read[0] > read[1] > read[2]


def test_kinks_are_flagged_and_read_rightly(x64):
    """Mean absolute error: the Laplacian is all in the kinks, <lap U> = 2 mean x^2 p(0)."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    potential = lambda w: jnp.mean(jnp.abs(x @ w - y))
    ensemble = jnp.asarray(rng.normal(size=(4000, 2)))
    spread = np.linalg.norm(x, axis=1)
    bend = 2 * np.mean(spread**2 * stats.norm.pdf(y, 0, spread))
    slopes = jax.vmap(jax.grad(potential))(ensemble)
    exact = float(jnp.mean(jnp.sum(slopes**2, axis=1)) / bend)
    score = flow_temperature(potential, ensemble, curvature="score", score=lambda w: -w)
    smooth = flow_temperature(potential, ensemble, curvature="smoothed", key=KEY, probes=4)
    for found in (score, smooth):
        assert abs(found.total - exact) < 4 * found.stderr + 0.005 * exact
        assert found.stderr < 0.05 * exact
        assert not found.flags & Flag.KINKED
    naive = flow_temperature(potential, ensemble, key=KEY)
    assert naive.flags & Flag.KINKED
    assert not np.isfinite(naive.total)


def test_relu_network_by_score(x64):
    """A smooth loss of relu units: autodiff misses a part, and says so."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(6, 2)))

    def outputs(theta):
        return jax.nn.relu(x @ theta["in"]) @ theta["out"]

    loss = lambda z: jnp.mean((z - 1.0) ** 2)
    potential = lambda theta: loss(outputs(theta))
    ensemble = {
        "in": jnp.asarray(rng.normal(size=(6000, 2, 3))),
        "out": jnp.asarray(rng.normal(size=(6000, 3)) + 1),  # else kinks cancel on average
    }
    options = {"key": KEY, "probes": 2}
    log_slope = lambda t: {"in": -t["in"], "out": 1 - t["out"]}
    score = flow_temperature(potential, ensemble, curvature="score", score=log_slope)
    smooth = flow_temperature(potential, ensemble, curvature="smoothed", **options)
    gap = abs(score.total - smooth.total)
    assert gap < 4 * np.hypot(score.stderr, smooth.stderr) + 0.01 * score.total
    newton = flow_temperature(
        potential, ensemble, curvature="gauss_newton", outputs=(outputs, loss), **options
    )
    naive = flow_temperature(potential, ensemble, **options)
    # outputs linear in every weight but at kinks: Gauss-Newton has the same diagonal
    np.testing.assert_allclose(newton.total, naive.total, rtol=0.03)
    assert naive.flags & Flag.KINKED
    assert not smooth.flags


def test_tanh_network_is_not_called_kinked():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    potential = lambda t: jnp.mean((jnp.tanh(x @ t["in"]) @ t["out"] - 1.0) ** 2)
    ensemble = {
        "in": jnp.asarray(rng.normal(size=(400, 2, 3)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(400, 3)), jnp.float32),
    }
    assert not flow_temperature(potential, ensemble, key=KEY).flags


def test_homogeneous_layers_share_one_virial():
    """Euler: theta_l . grad_l U is the same in every bias-free relu layer."""
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)
    sizes = {"0": (4, 6), "1": (6, 5), "2": (5, 2)}

    def potential(theta):
        h = jax.nn.leaky_relu(jax.nn.relu(x @ theta["0"]) @ theta["1"])
        return -jnp.mean(jax.nn.log_softmax(h @ theta["2"])[:, 0])

    ensemble = {n: jnp.asarray(rng.normal(size=(5, *s)), jnp.float32) for n, s in sizes.items()}
    found = virial_temperature(potential, ensemble)
    shared = [float(found.blocks[n]) * np.prod(s) for n, s in sizes.items()]
    np.testing.assert_allclose(shared, shared[0], rtol=1e-5)


def test_temperature_of_an_initialiser_is_differentiable_in_its_scale(x64):
    noise = jax.random.normal(KEY, (50, 3))
    potential = lambda w: jnp.sum(jnp.cosh(w))

    def flow(scale):
        return flow_temperature(potential, scale * noise, curvature="dense").total

    h = 1e-5
    expected = (flow(0.8 + h) - flow(0.8 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(flow)(0.8), expected, rtol=1e-7)


def test_kinetic_temperature_and_one_member(x64):
    momenta = {"a": jnp.array([[2.0, 0.0], [0.0, 2.0]]), "b": jnp.array([3.0, 3.0])}
    found = kinetic_temperature(momenta, mass={"a": 2.0, "b": 3.0})
    np.testing.assert_allclose(found.total, (4 / 2 + 9 / 3) / 3)
    np.testing.assert_allclose(found.blocks["a"], 1.0)
    alone = virial_temperature(lambda x: jnp.sum(x**2), jnp.ones((1, 4)))
    assert alone.total == 2
    assert np.isnan(alone.stderr)


def test_mistakes_in_temperatures_are_named():
    ensemble = jnp.ones((3, 2))
    flow = lambda **kw: flow_temperature(jnp.sum, ensemble, **kw)
    with pytest.raises(ValueError, match="give key="):
        flow()
    with pytest.raises(ValueError, match="unknown"):
        flow(curvature="lanczos", key=KEY)
    with pytest.raises(ValueError, match="score="):
        flow(curvature="score")
    with pytest.raises(ValueError, match="outputs="):
        flow(curvature="gauss_newton", key=KEY)
    with pytest.raises(ValueError, match="at least 2"):
        flow_temperature(jnp.sum, jnp.ones((1, 2)), curvature="smoothed", key=KEY)
    with pytest.raises(ShapeError, match="exactly one block"):
        split({"a": jnp.ones(3), "b": jnp.ones(2)}, lambda p: {"a": p["a"]})
    with pytest.raises(ValueError, match="leading axis"):
        virial_temperature(jnp.sum, {"a": jnp.ones(3), "b": jnp.ones(2)})
