"""Densities and exact entropies: worked examples, quadrature, invariants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from thermojax.theories.temperature.densities import (
    Normal,
    Point,
    TruncatedNormal,
    Uniform,
)
from thermojax.theories.temperature.entropy import entropy, moments, sample
from thermojax.theories.temperature.initializers import initializer_density

ONE = jnp.zeros(())
positive = st.floats(0.05, 20.0)


def value(density, **kw):
    return float(entropy(density, ONE, **kw))


def test_worked_examples_of_entropies(x64):
    np.testing.assert_allclose(value(Normal(0.0, 1.0)), 1.4189385332, atol=1e-10)
    np.testing.assert_allclose(value(Uniform(0.0, 1.0)), 0.6931471806, atol=1e-10)
    cut = TruncatedNormal(0.0, 1 / 0.87962566103423978)
    np.testing.assert_allclose(value(cut), 1.3875001199, atol=1e-10)
    np.testing.assert_allclose(cut.moments()[1], 1.0, rtol=1e-12)
    resolved = {
        (Normal(0.0, 1.0), 0.1): 2.3075602584,
        (Uniform(0.0, 1.0), 0.1): 1.6671134689,
        (Uniform(0.0, 1.0), 0.5): 0.4186941407,
    }
    for (density, delta), expected in resolved.items():
        np.testing.assert_allclose(value(density, resolution=delta), expected, atol=1e-10)


def by_quadrature(pdf, cuts, delta):
    """h of the smoothed density, by convolution, less the noise's own."""

    def smooth(x):
        edges = np.clip([x - 10 * delta, x, x + 10 * delta], cuts[0], cuts[-1])
        inner = lambda t: pdf(t) * stats.norm.pdf(x, t, delta)
        return sum(
            integrate.quad(inner, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(edges)
        )

    def surprise(x):
        f = smooth(x)
        return -f * np.log(f) if f > 0 else 0.0

    low, high = cuts[0] - 9 * delta, cuts[-1] + 9 * delta
    middle = np.linspace(low, high, 9)
    total = sum(
        integrate.quad(surprise, a, b, epsabs=1e-10)[0] for a, b in itertools.pairwise(middle)
    )
    return total - 0.5 * np.log(2 * np.pi * np.e * delta**2)


@pytest.mark.parametrize(
    ("low", "high", "scale", "delta"), [(-2.0, 2.0, 0.5, 0.3), (-0.5, 3.0, 2.0, 1.0)]
)
def test_resolved_entropy_of_a_cut_normal_by_convolution(low, high, scale, delta, x64):
    density = TruncatedNormal(0.7, scale, low, high)
    law = stats.truncnorm(low, high, 0.7, scale)
    expected = by_quadrature(law.pdf, (0.7 + low * scale, 0.7 + high * scale), delta)
    np.testing.assert_allclose(value(density, resolution=delta), expected, atol=1e-8)
    np.testing.assert_allclose(value(density), law.entropy(), rtol=1e-12)
    mean, variance = density.moments()
    np.testing.assert_allclose((mean, variance), law.stats(), rtol=1e-12)


FAMILIES = (Uniform, lambda c, w: TruncatedNormal(c, w, -1.5, 0.5), Normal)


@jax.jit
def of_families(center, width, delta):
    """Resolved entropies of every family, and of the normals with their variances."""
    densities = [make(center, width) for make in FAMILIES]
    normals = [Normal(0.0, jnp.sqrt(d.moments()[1])) for d in densities]
    resolved = lambda each: [entropy(d, ONE, resolution=delta) for d in each]
    return jnp.stack(resolved(densities)), jnp.stack(resolved(normals))


@settings(max_examples=25, deadline=None)
@given(a=positive, delta=positive, k=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_invariants_of_the_resolved_entropy(a, delta, k, shift):
    """Non-negative, decreasing in delta, scale and translation invariant, below normal."""
    with jax.enable_x64(True):
        here, normal = of_families(0.0, a, delta)
        assert np.all(here >= 0)
        assert np.all(of_families(0.0, a, 1.1 * delta)[0] <= here)
        scaled, _ = of_families(shift, k * a, k * delta)
        np.testing.assert_allclose(scaled, here, rtol=1e-9, atol=1e-14)
        assert np.all(here <= normal * (1 + 1e-12) + 1e-14)
    assert value(Point(shift), resolution=delta) == 0.0


def test_limits_in_the_resolution(x64):
    kappa = 0.903197285568625
    for delta in (1e-5, 1e-3, 0.1):
        sharp = np.log(2 * 0.7) + kappa * delta / 0.7
        expected = sharp - 0.5 * np.log(2 * np.pi * np.e * delta**2)
        found = value(Uniform(1.0, 0.7), resolution=delta)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    # far below the resolution only the variance counts
    np.testing.assert_allclose(value(Uniform(0.0, 1.0), resolution=1e4), 1 / 3 / 2e8, rtol=1e-6)
    assert value(Uniform(0.0, 0.0), resolution=0.1) == 0.0


def test_trees_leaves_and_cells(x64):
    shapes = {
        "w": jax.ShapeDtypeStruct((3, 2), jnp.float64),
        "b": jax.ShapeDtypeStruct((2,), jnp.float64),
    }
    tree = {"w": Uniform(0.0, jnp.array([1.0, 2.0])), "b": Point(0.0)}
    delta = {"w": 0.1, "b": jnp.array([0.1, 0.2])}
    per_leaf = entropy(tree, shapes, resolution=delta, per_leaf=True)
    each = [value(Uniform(0.0, a), resolution=0.1) for a in (1.0, 2.0)]
    np.testing.assert_allclose(per_leaf["w"], 3 * sum(each), rtol=1e-12)
    assert per_leaf["b"] == 0
    np.testing.assert_allclose(entropy(tree, shapes, resolution=delta), 3 * sum(each))
    cells = entropy(tree, shapes, resolution=0.5, kind="cell")
    np.testing.assert_allclose(cells, 3 * (np.log(4.0) + np.log(8.0)))
    means, variances = moments(tree)
    np.testing.assert_allclose(variances["w"], [1 / 3, 4 / 3])
    assert means["b"] == 0
    drawn = sample(tree, shapes, jax.random.key(0))
    assert jax.tree.map(jnp.shape, drawn) == {"w": (3, 2), "b": (2,)}
    assert np.all(np.abs(drawn["w"]) <= [1.0, 2.0])


def test_precisions_agree_and_gradients_are_right(x64):
    for delta in (1e-3, 0.3, 50.0):
        single = Uniform(jnp.float32(0), jnp.float32(1)).resolved_entropy(jnp.float32(delta))
        assert single.dtype == jnp.float32
        double = value(Uniform(0.0, 1.0), resolution=delta)
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=2e-7)

    def f(a, delta):
        return entropy(TruncatedNormal(0.0, a), ONE, resolution=delta)

    slopes = jax.grad(f, (0, 1))(0.8, 0.3)
    h = 1e-5
    np.testing.assert_allclose(slopes[0], (f(0.8 + h, 0.3) - f(0.8 - h, 0.3)) / (2 * h), 1e-7)
    np.testing.assert_allclose(slopes[1], (f(0.8, 0.3 + h) - f(0.8, 0.3 - h)) / (2 * h), 1e-7)
    assert np.isfinite(jax.grad(lambda a: entropy(Uniform(0.0, a), ONE, resolution=0.1))(0.0))


NAMES = [
    ("lecun_normal", {}),
    ("glorot_uniform", {}),
    ("he_normal", {"in_axis": -1, "out_axis": -2}),
    ("variance_scaling", {"scale": 3.0, "mode": "fan_avg", "distribution": "uniform"}),
    ("variance_scaling", {"scale": 3.0, "mode": "fan_geo_avg", "distribution": "normal"}),
    ("normal", {}),
    ("truncated_normal", {"stddev": 0.3, "lower": -1.0, "upper": 1.5}),
    ("uniform", {"scale": 0.4}),
    ("constant", {"value": 0.7}),
    ("zeros", {}),
]


@pytest.mark.parametrize(
    ("name", "kw"), NAMES, ids=[f"{n} {i}" for i, (n, _) in enumerate(NAMES)]
)
def test_declared_density_is_the_initialisers(name, kw):
    """Moments of 60,000 draws of jax's own initialiser, by z-score; the support exactly."""
    shape = (3, 100, 200)
    maker = getattr(jax.nn.initializers, name)
    made = np.asarray(
        (maker if name == "zeros" else maker(**kw))(jax.random.key(1), shape), np.float64
    )
    density = initializer_density(name, shape, **kw)
    mean, variance = (float(x) for x in density.moments())
    if isinstance(density, Point):
        assert np.all(made == np.float32(mean))
        return
    assert abs(made.mean() - mean) < 4 * np.sqrt(variance / made.size)
    centred = (made - mean) ** 2
    assert abs(centred.mean() - variance) < 4 * centred.std() / np.sqrt(made.size)
    if isinstance(density, Uniform):
        assert np.abs(made - density.center).max() <= density.half_width * (1 + 1e-6)
    if isinstance(density, TruncatedNormal):
        scaled = (made - density.mean) / density.scale
        assert density.lower - 1e-5 <= scaled.min() < density.lower + 0.05
        assert density.upper - 0.05 < scaled.max() <= density.upper + 1e-5


def test_flax_defaults_are_declared():
    """A flax Dense: lecun_normal kernel and zero bias."""
    params = nn.Dense(50).init(jax.random.key(0), jnp.zeros((1, 400)))["params"]
    density = initializer_density("lecun_normal", params["kernel"].shape)
    assert abs(np.var(params["kernel"]) / density.moments()[1] - 1) < 0.05
    assert initializer_density("zeros_init", (50,)) == Point(0.0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="give resolution="):
        entropy({"b": Point(0.0)}, {"b": jnp.zeros(2)})
    with pytest.raises(ValueError, match="'b'"):
        entropy({"b": Point(0.0)}, {"b": jnp.zeros(2)})
    with pytest.raises(ValueError, match="positive"):
        entropy(Normal(0.0, 1.0), ONE, resolution=-0.1)
    with pytest.raises(ValueError, match="unknown"):
        entropy(Normal(0.0, 1.0), ONE, kind="bins")
    with pytest.raises(ValueError, match="cell"):
        entropy(Normal(0.0, 1.0), ONE, kind="cell")
    with pytest.raises(ValueError, match="structure"):
        entropy({"a": Normal(0.0, 1.0)}, {"b": jnp.zeros(2)})
    with pytest.raises(ValueError, match="no density"):
        initializer_density("orthogonal", (3, 3))
    with pytest.raises(ValueError, match="unknown"):
        initializer_density("lecun", (3, 3))
    with pytest.raises(ValueError, match="fans"):
        initializer_density("he_normal", (3,))
    with pytest.raises(ValueError, match="does not take"):
        initializer_density("normal", (3,), sd=1.0)
    with pytest.raises(ValueError, match="mode"):
        initializer_density(
            "variance_scaling", (3, 3), scale=1.0, mode="in", distribution="uniform"
        )
