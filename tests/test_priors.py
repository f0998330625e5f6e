"""Base measures: densities against scipy, masses against quadrature, draws against both."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm

import thermojax as tj
from tests.scores import KS_LIMIT, caught, check, covariance_z, ks_distance
from thermojax.priors import GaussianPrior, Template

N = 100_000
THETA = {"w": np.linspace(-1, 2, 6).reshape(3, 2), "b": np.asarray([0.3, -0.7])}


def like():
    return jax.tree.map(lambda x: jnp.zeros(x.shape), THETA)


def theta():
    return jax.tree.map(jnp.float32, THETA)


def draws(measure, control=(), n=N, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.jit(jax.vmap(lambda key: measure.sample(key, control)))(keys)


def log_density(scales):
    return sum(norm.logpdf(THETA[k], scale=scales[k]).sum() for k in THETA)


SCALES = {
    "scalar": (0.7, {"w": 0.7, "b": 0.7}),
    "per leaf": ({"w": 0.5, "b": 2.0}, {"w": 0.5, "b": 2.0}),
    "per parameter": (
        {"w": np.full((3, 2), 0.4), "b": np.asarray([1.0, 3.0])},
        {"w": np.full((3, 2), 0.4), "b": np.asarray([1.0, 3.0])},
    ),
}


@pytest.mark.parametrize("case", SCALES)
def test_gaussian_prior_density_and_draws(case):
    scale, expected = SCALES[case]
    measure = tj.gaussian_prior(scale, like=like())
    np.testing.assert_allclose(measure.log_density(theta()), log_density(expected), rtol=1e-5)
    assert measure.log_mass == 0.0
    sample = draws(measure)
    flat = np.concatenate([np.asarray(sample[k]).reshape(N, -1) for k in THETA], axis=1)
    sd = np.concatenate([np.broadcast_to(expected[k], THETA[k].shape).ravel() for k in THETA])
    check(covariance_z(flat, np.diag(sd**2)), 0.0, 1.0)
    caught(covariance_z(1.05 * flat, np.diag(sd**2)), 0.0, 1.0)
    check(flat, 0.0)
    for i in range(flat.shape[1]):
        assert ks_distance(flat[:, i], norm(scale=sd[i]).cdf) < KS_LIMIT


def test_fan_in_divides_the_scale_of_matrices_only():
    measure = tj.gaussian_prior(1.5, like=like(), fan_in=True)
    expected = {"w": 1.5 / math.sqrt(3), "b": 1.5}
    np.testing.assert_allclose(measure.log_density(theta()), log_density(expected), rtol=1e-5)
    kernel = jnp.zeros((3, 3, 4, 8))  # all axes but the last feed into an output
    scales = tj.gaussian_prior(1.0, fan_in=True).scales({"k": kernel})
    np.testing.assert_allclose(scales["k"], 1 / 6)


def test_scale_as_a_function_of_the_control():
    measure = tj.gaussian_prior(lambda control: control["s"], like=like())
    at = lambda s: measure.log_density(theta(), {"s": s})
    np.testing.assert_allclose(at(0.7), log_density({"w": 0.7, "b": 0.7}), rtol=1e-5)
    squares = sum(float(np.sum(v**2)) for v in THETA.values())
    exact = squares / 0.7**3 - 8 / 0.7  # d/ds of -x^2 / 2 s^2 - log s, summed
    np.testing.assert_allclose(jax.grad(at)(0.7), exact, rtol=1e-4)
    keys = jax.random.split(jax.random.key(0), 64)
    sample = lambda s: jax.vmap(lambda key: measure.sample(key, {"s": s}))(keys)
    narrow, wide = sample(1.0), sample(2.0)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(2 * a, b), narrow, wide)


def test_scales_are_leaves_that_can_be_differentiated():
    def log_m(scale):
        return GaussianPrior(scale).log_density(theta())

    squares = sum(float(np.sum(v**2)) for v in THETA.values())
    exact = squares / 0.7**3 - 8 / 0.7
    np.testing.assert_allclose(jax.jit(jax.grad(log_m))(0.7), exact, rtol=1e-4)
    assert len(jax.tree.leaves(tj.gaussian_prior(0.3))) == 1


def test_a_prior_can_be_built_while_tracing():
    """Inside jit or vmap, from a plain number and from a traced one."""
    fixed = jax.jit(lambda x: tj.gaussian_prior(0.7).log_density(x))
    traced = jax.jit(lambda x, s: tj.gaussian_prior(s).log_density(x))
    expected = log_density({"w": 0.7, "b": 0.7})
    np.testing.assert_allclose(traced(theta(), 0.7), expected, rtol=1e-5)
    np.testing.assert_allclose(fixed(theta()), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_unusable_scales_are_refused(scale):
    with pytest.raises(ValueError, match=f"positive and finite, got {scale}"):
        tj.gaussian_prior(scale)
    with pytest.raises(ValueError, match="positive and finite"):
        tj.gaussian_prior({"w": 1.0, "b": np.asarray([1.0, scale])})


def test_scales_of_another_structure_are_refused():
    measure = tj.gaussian_prior({"w": 1.0, "c": 1.0}, like=like())
    with pytest.raises(tj.ShapeError, match="structure"):
        measure.log_density(theta())


def test_sampling_needs_a_shape():
    with pytest.raises(tj.ShapeError, match="like=theta"):
        tj.gaussian_prior(1.0).sample(jax.random.key(0))


def test_custom_prior():
    laplace = tj.prior(
        lambda x, control, params: -jnp.abs(x) / params - jnp.log(2 * params),
        lambda key, control, params: params * jax.random.laplace(key, ()),
        like=0.0,
        params=jnp.float32(0.5),
    )
    grid = np.linspace(-20, 20, 400_001)
    density = np.exp(np.asarray(laplace.log_density(jnp.asarray(grid))))
    np.testing.assert_allclose(trapezoid(density, grid), 1.0, rtol=1e-4)
    x = np.asarray(draws(laplace))
    check(x**2, 2 * 0.25)
    check(np.abs(x), 0.5)
    assert laplace.log_mass == 0.0
    assert laplace.template == Template.of(0.0)


# --- a harmonic tether on a base measure ----------------------------------------------

ANCHOR, GAMMA, SIGMA = np.asarray([0.5, -2.0]), 3.0, 0.8


def tethered(base):
    sys = tj.system(lambda x: 0.0 * jnp.sum(x), prior=base, like=jnp.zeros(2))
    return tj.localized(sys, jnp.asarray(ANCHOR, jnp.float32), GAMMA)


@pytest.mark.parametrize("base", ["gaussian", "lebesgue"])
def test_localized_mass_is_the_quadrature_and_draws_follow(base):
    prior = tj.gaussian_prior(SIGMA, like=jnp.zeros(2)) if base == "gaussian" else None
    measure = tethered(prior).prior
    grid = np.linspace(-12, 12, 60_001)
    log_m0 = norm.logpdf(grid, scale=SIGMA) if prior is not None else np.zeros_like(grid)
    factors = [np.exp(log_m0 - GAMMA / 2 * (grid - a) ** 2) for a in ANCHOR]
    masses = [trapezoid(f, grid) for f in factors]
    np.testing.assert_allclose(measure.log_mass, np.sum(np.log(masses)), rtol=1e-5)
    point = jnp.asarray([0.1, 0.4])
    at = [np.interp(v, grid, np.log(f)) for v, f in zip(point, factors, strict=True)]
    np.testing.assert_allclose(measure.log_density(point), np.sum(at), rtol=1e-5)
    mean = np.asarray([trapezoid(grid * f, grid) for f in factors]) / masses
    second = np.asarray([trapezoid(grid**2 * f, grid) for f in factors]) / masses
    x = np.asarray(draws(measure))
    check(x, mean)
    check(covariance_z(x - mean, np.diag(second - mean**2)), 0.0, 1.0)
    caught(x, 1.05 * mean)


def test_localized_stiffness_per_leaf():
    base = tj.gaussian_prior(1.0, like=like())
    sys = tj.system(lambda t: 0.0 * t["b"].sum(), prior=base)
    gamma = {"w": 2.0, "b": 0.0}
    measure = tj.localized(sys, like(), gamma).prior
    exact = log_density({"w": 1.0, "b": 1.0}) - float(np.sum(THETA["w"] ** 2))
    np.testing.assert_allclose(measure.log_density(theta()), exact, rtol=1e-5)
    np.testing.assert_allclose(measure.log_mass, -6 / 2 * math.log(3.0), rtol=1e-5)


def test_localized_over_an_unknown_base_cannot_be_sampled():
    base = tj.prior(lambda x, c, p: -x, lambda key, c, p: jax.random.exponential(key), like=0.0)
    sys = tj.localized(tj.system(lambda x: x, prior=base), 0.0, 1.0)
    assert sys.base_mass is None
    with pytest.raises(ValueError, match="Gaussian or Lebesgue"):
        sys.sample_base(jax.random.key(0))


def test_coupled_base_is_the_geometric_mean():
    shape = jnp.zeros(2)
    one = tj.system(jnp.sum, prior=tj.gaussian_prior(1.0, like=shape))
    two = tj.system(jnp.sum, prior=tj.gaussian_prior(3.0, like=shape))
    measure = tj.coupled(one, two)
    x = jnp.asarray([0.4, -1.2])
    a, b = norm.logpdf(x, scale=1.0).sum(), norm.logpdf(x, scale=3.0).sum()
    np.testing.assert_allclose(measure.log_base(x, 0.25), 0.75 * a + 0.25 * b, rtol=1e-5)
    assert measure.base_mass is None
    with pytest.raises(ValueError, match="no exact sampler"):
        measure.sample_base(jax.random.key(0), 0.25)
    shared = tj.coupled(one, one)
    assert shared.base_mass == 0.0
    np.testing.assert_array_equal(
        shared.sample_base(jax.random.key(0), 0.25), one.sample_base(jax.random.key(0))
    )


def test_template_knows_shapes_names_and_dtypes():
    template = Template.of(like())
    assert template.size == 8
    assert template.paths() == ["['b']", "['w']"]
    flat = jnp.arange(8.0)
    back = template.unflatten(flat)
    np.testing.assert_array_equal(back["b"], [0, 1])
    np.testing.assert_array_equal(back["w"], np.arange(2, 8).reshape(3, 2))
    template.check(theta())
    with pytest.raises(tj.ShapeError, match=r"\['w'\] has shape \(2, 3\), expected \(3, 2\)"):
        template.check({"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)})
    with pytest.raises(tj.ShapeError, match="structure"):
        template.check({"w": jnp.zeros((3, 2))})
    with pytest.raises(tj.ShapeError, match="no leaves"):
        Template.of({})
    assert Template.of(0).dtype == jnp.float32
    assert hash(template) == hash(Template.of(like()))
