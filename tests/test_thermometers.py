"""Thermometers on exact draws of known ensembles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import thermojax as tj
from tests.scores import caught, check

STIFFNESS = {"first": jnp.array([1.0, 4.0, 9.0]), "second": jnp.array([[0.5, 2.0]])}
BETA = 2.5
WALKERS, TIMES = 400, 100


def energy(theta, control, data):
    terms = jax.tree.map(lambda k, x: 0.5 * jnp.sum(k * x**2), STIFFNESS, theta)
    return sum(jax.tree.leaves(terms))


def well(prior=None):
    return tj.system(energy, prior=prior, like=STIFFNESS)


def draws(key, heat=1.0, prior_precision=0.0):
    """Exact, independent: [walkers, times, ...], at temperature `heat` / beta."""
    leaves, treedef = jax.tree.flatten(STIFFNESS)
    keys = jax.random.split(key, len(leaves))
    sample = [
        jax.random.normal(key, (WALKERS, TIMES, *k.shape))
        * jnp.sqrt(heat / (BETA * k + prior_precision))
        for key, k in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, sample)


def measure(sys, positions, momenta=(), beta=BETA, **options):
    point = tj.Point(beta)
    return tj.read_thermometers(
        sys, positions, point, jax.random.key(9), momenta=momenta, **options
    )


def agrees(read, exact):
    check(read.value, exact, read.stderr)


def disagrees(read, exact, **options):
    caught(read.value, exact, read.stderr, **options)


def test_configurational_temperature():
    read = measure(well(), draws(jax.random.key(0)))
    assert read.names == ("all", "first", "second")
    for one in (read.configurational, read.virial):
        agrees(one, 1 / BETA)
        assert np.all(one.stderr < 0.02 / BETA)
        assert not np.any(one.flags)
    assert np.all(np.isnan(read.kinetic.value))
    assert abs(float(read.equipartition.value) - 1) < 4 * float(read.equipartition.stderr)
    # power: an ensemble 5 % too hot, in either layer
    hot = measure(well(), draws(jax.random.key(0), heat=1.05))
    agrees(hot.configurational, 1.05 / BETA)
    agrees(hot.virial, 1.05 / BETA)
    for one in (hot.configurational, hot.virial):
        for group in range(3):
            caught(one.value[group], 1 / BETA, one.stderr[group], limit=4.0)
        assert np.all(one.flags == int(tj.Flag.TEMPERATURE_MISMATCH))
    assert "!" in hot.table()


def test_the_prior_belongs_to_the_reduced_energy():
    precision = 1 / 0.7**2
    positions = draws(jax.random.key(1), prior_precision=precision)
    read = measure(well(tj.gaussian_prior(0.7)), positions)
    agrees(read.configurational, 1 / BETA)
    # power: the prior forgotten
    wrong = measure(well(), positions)
    disagrees(wrong.configurational, 1 / BETA)


def test_kinetic_temperature():
    momenta = jax.tree.map(
        lambda k: jax.random.normal(jax.random.key(k.size), (WALKERS, TIMES, *k.shape)),
        STIFFNESS,
    )
    read = measure(well(), draws(jax.random.key(2)), momenta)
    agrees(read.kinetic, 1 / BETA)
    hot = jax.tree.map(lambda p: np.sqrt(1.05) * p, momenta)
    seen = measure(well(), draws(jax.random.key(2)), hot)
    disagrees(seen.kinetic, 1 / BETA, limit=4.0)


def test_error_bars_cover():
    """200 ensembles: the thermometer's own errors are right."""

    def one(key):
        x = jax.random.normal(key, (60, 1, 3)) / jnp.sqrt(BETA * STIFFNESS["first"])
        sys = tj.system(lambda t: 0.5 * jnp.sum(STIFFNESS["first"] * t**2), like=jnp.zeros(3))
        read = tj.read_thermometers(sys, x, tj.Point(BETA), jax.random.key(0), probes=1)
        return read.configurational, read.virial

    for read in jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 200)):
        z = np.abs((read.value[:, 0] - 1 / BETA) / read.stderr[:, 0])
        assert 0.584 <= np.mean(z < 1) <= 0.781
        assert 0.910 <= np.mean(z < 2) <= 0.998
        assert not 0.584 <= np.mean(2 * z < 1) <= 0.781


def test_hutchinson_is_unbiased_off_the_diagonal():
    """A dense Hessian, whose off-diagonal terms the probes must average out."""
    matrix = jnp.array([[2.0, 0.9], [0.9, 1.0]])
    sys = tj.system(lambda t: 0.5 * t @ matrix @ t, like=jnp.zeros(2))
    factor = np.linalg.cholesky(np.linalg.inv(BETA * np.asarray(matrix)))
    x = jax.random.normal(jax.random.key(4), (WALKERS, TIMES, 2)) @ factor.T
    for probes in (1, 16):
        read = tj.read_thermometers(sys, x, tj.Point(BETA), jax.random.key(5), probes=probes)
        agrees(read.configurational, 1 / BETA)


def test_anharmonic_ensemble():
    """U = x^4: <|grad U|^2> / <lap U> = T without being equipartition of x."""
    x = jax.random.loggamma(jax.random.key(6), 0.25, (WALKERS, TIMES))
    sign = jax.random.rademacher(jax.random.key(7), x.shape)
    x = sign * jnp.exp(x / 4) / BETA**0.25
    sys = tj.system(lambda t: t**4, like=0.0)
    read = tj.read_thermometers(sys, x, tj.Point(BETA), jax.random.key(8))
    agrees(read.configurational, 1 / BETA)


def test_a_kinked_energy_needs_the_score():
    """U = |x|: its Hessian is 0 wherever it exists, its Laplacian a delta at the kink."""
    sys = tj.system(lambda t: jnp.sum(jnp.abs(t)), like=jnp.zeros(3))
    x = jax.random.laplace(jax.random.key(0), (2000, 200, 3)) / BETA
    read = lambda kind: (
        tj.read_thermometers(
            sys, x, tj.Point(BETA), jax.random.key(1), laplacian=kind, tile=400
        ).configurational
    )
    seen = read("score")
    assert float(seen.stderr[0]) < 0.02 / BETA
    check(seen.value, 1 / BETA, seen.stderr)
    caught(seen.value, 1.15 / BETA, seen.stderr)
    assert not np.any(np.isfinite(read("hutchinson").value))


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    rows = jax.random.normal(jax.random.key(0), (20, 3))
    model = nn.Dense(1)
    data = (rows, jnp.sum(rows, axis=1) + 0.3)
    sys = tj.from_flax(model, tj.gaussian_loss(0.5), data, prior=tj.gaussian_prior(1.0))
    positions = jax.vmap(jax.vmap(sys.sample_base))(
        jax.random.split(jax.random.key(1), (50, 4))
    )
    for potential in ("reduced", "energy"):
        read = lambda kind, p=potential: (
            tj.read_thermometers(
                sys, positions, tj.Point(BETA), jax.random.key(2), laplacian=kind, potential=p
            ).configurational.value
        )
        np.testing.assert_allclose(read("gauss_newton"), read("hutchinson"), rtol=1e-4)


def test_gauss_newton_drops_the_curvature_of_the_network():
    """The Jacobian's square against the whole Hessian of one tanh unit, by hand."""
    data = (jnp.ones((1, 1)), jnp.array([2.0]))
    model = nn.Sequential([nn.Dense(1, use_bias=False), jnp.tanh])
    sys = tj.from_flax(model, tj.gaussian_loss(1.0), data, prior=tj.gaussian_prior(1.0))
    theta = jax.tree.map(
        lambda x: jnp.full((2, 1, *x.shape), 0.7), sys.sample_base(jax.random.key(0))
    )
    y = np.tanh(0.7)
    slope, slope2 = 1 - y**2, -2 * y * (1 - y**2)
    force = (y - 2) * slope
    for kind, curvature in (
        ("gauss_newton", slope**2),
        ("hutchinson", slope**2 + (y - 2) * slope2),
    ):
        read = tj.read_thermometers(
            sys, theta, tj.Point(1.0), jax.random.key(0), laplacian=kind, potential="energy"
        )
        np.testing.assert_allclose(
            read.configurational.value[0], force**2 / curvature, rtol=1e-4
        )


def test_infinite_temperature_is_refused():
    with pytest.raises(ValueError, match=r"beta=0\.0 has no finite temperature"):
        measure(well(), draws(jax.random.key(0)), beta=0.0)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match="potential='free' is unknown"):
        measure(well(), draws(jax.random.key(0)), potential="free")
    with pytest.raises(ValueError, match="laplacian='exact' is unknown"):
        measure(well(), draws(jax.random.key(0)), laplacian="exact")
    one = jax.tree.map(lambda x: x[:1], draws(jax.random.key(0)))
    with pytest.raises(ValueError, match="at least 2 walkers"):
        measure(well(), one)
