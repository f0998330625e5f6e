"""Systems: energies, sums over examples, couplings, tethers, and bad data refused."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.sin(X.sum(1)).astype(np.float32)
DATA = {"x": jnp.asarray(X), "y": jnp.asarray(Y)}


def like():
    return {"w": jnp.zeros(3), "b": jnp.zeros(())}


def theta(seed=1):
    rng = np.random.default_rng(seed)
    return {"w": jnp.asarray(rng.normal(size=3), jnp.float32), "b": jnp.float32(rng.normal())}


def one(theta, control, example):
    return control * (jnp.tanh(theta["w"] @ example["x"]) + theta["b"] - example["y"]) ** 2


def decay(theta, control):
    return 0.1 * control * jnp.sum(theta["w"] ** 2)


def total(theta, control, data):
    terms = (jnp.tanh(data["x"] @ theta["w"]) + theta["b"] - data["y"]) ** 2
    return control * jnp.sum(terms) + decay(theta, control)


def summed():
    return tj.finite_sum(one, DATA, prior=tj.gaussian_prior(1.0), remainder=decay, like=like())


def direct():
    return tj.system(total, prior=tj.gaussian_prior(1.0), like=like(), data=DATA)


def test_finite_sum_equals_the_total_energy():
    a, b = summed(), direct()
    np.testing.assert_allclose(a.energy(theta(), 1.5), b.energy(theta(), 1.5), rtol=1e-5)
    grads = [jax.grad(s.energy)(theta(), 1.5) for s in (a, b)]
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-5), *grads)
    parts = a.per_example(theta(), 1.5)
    assert parts.shape == (12,)
    first = one(theta(), 1.5, jax.tree.map(lambda leaf: leaf[0], DATA))
    np.testing.assert_allclose(parts[0], first, rtol=1e-6)
    rest = decay(theta(), 1.5)
    np.testing.assert_allclose(parts.sum() + rest, a.energy(theta(), 1.5), rtol=1e-6)
    half = jax.tree.map(lambda leaf: leaf[:6], DATA)
    assert a.per_example(theta(), 1.5, half).shape == (6,)
    with pytest.raises(ValueError, match="finite_sum"):
        b.per_example(theta(), 1.5)


def test_arguments_may_be_left_out():
    data = jnp.arange(3.0)
    for energy in (
        lambda x: x**2,
        lambda x, control: x**2,
        lambda x, control, data: x**2,
        lambda x, control=None, data=None: x**2,
        lambda x, *, power=2: x**power,
        lambda x, power=2: x**power,
        lambda *args: args[0] ** 2,
    ):
        assert float(tj.system(energy, data=data).energy(3.0, 7.0)) == 9.0
    with_data = tj.system(lambda x, control=None, data=None: x + control + data[2], data=data)
    assert float(with_data.energy(1.0, 10.0)) == 13.0


def test_reduced_energy():
    sys = direct()
    point = tj.Point(0.3, 1.5)
    exact = 0.3 * sys.energy(theta(), 1.5) - sys.log_base(theta(), 1.5)
    np.testing.assert_allclose(tj.reduced(sys, theta(), point), exact, rtol=1e-6)
    flat = tj.system(total, data=DATA)
    np.testing.assert_allclose(
        tj.reduced(flat, theta(), point), 0.3 * sys.energy(theta(), 1.5), rtol=1e-6
    )
    prior_only = tj.reduced(sys, theta(), tj.Point(0.0, 1.5))
    np.testing.assert_allclose(prior_only, -sys.log_base(theta()), rtol=1e-6)
    # response: d u / d beta = U
    du = jax.grad(lambda b: tj.reduced(sys, theta(), tj.Point(b, 1.5)))(0.3)
    np.testing.assert_allclose(du, sys.energy(theta(), 1.5), rtol=1e-6)


def test_coupled_interpolates_energy_and_base():
    shape, inner = jnp.zeros(2), jnp.float32(2.0)
    one = tj.system(lambda x, c: c * jnp.sum(x), prior=tj.gaussian_prior(1.0, like=shape))
    two = tj.system(lambda x, c: c * x @ x, prior=tj.gaussian_prior(2.0, like=shape))
    both = tj.coupled(one, two)
    x = jnp.asarray([0.4, -1.2])
    lam = 0.3
    exact = (1 - lam) * one.energy(x, inner) + lam * two.energy(x, inner)
    np.testing.assert_allclose(both.energy(x, (lam, inner)), exact, rtol=1e-6)
    # d u / d lam = u_1 - u_0, the integrand of thermodynamic integration
    u = lambda lam: tj.reduced(both, x, tj.Point(0.7, (lam, inner)))
    ends = [tj.reduced(s, x, tj.Point(0.7, inner)) for s in (one, two)]
    np.testing.assert_allclose(jax.grad(u)(lam), ends[1] - ends[0], rtol=1e-5)
    np.testing.assert_allclose([u(0.0), u(1.0)], ends, rtol=1e-6)
    free = tj.coupled(tj.system(jnp.sum), tj.system(lambda x: x @ x))
    np.testing.assert_allclose(free.energy(x, 0.5), 0.5 * (x.sum() + x @ x), rtol=1e-6)
    with pytest.raises(ValueError, match="on both systems or on neither"):
        tj.coupled(one, tj.system(jnp.sum))


def test_localized_adds_half_gamma_squared_distance():
    anchor = theta(5)
    sys = tj.localized(direct(), anchor, 4.0)
    far = sum(float(jnp.sum((theta()[k] - anchor[k]) ** 2)) for k in anchor)
    expected = direct().log_base(theta()) - 2.0 * far
    np.testing.assert_allclose(sys.log_base(theta()), expected, rtol=1e-5)
    np.testing.assert_array_equal(sys.energy(theta(), 1.5), direct().energy(theta(), 1.5))
    # prior N(0, 1), tether N(anchor, 1/4): a Gaussian integral per parameter
    square = sum(float(jnp.sum(anchor[k] ** 2)) for k in anchor)
    mass = -0.5 * (4 / 5) * square - 4 / 2 * math.log(5.0)
    np.testing.assert_allclose(sys.base_mass, mass, rtol=1e-5)


def test_lebesgue_measure():
    sys = tj.system(total, data=DATA)
    assert float(sys.log_base(theta())) == 0.0
    assert sys.base_mass is None
    with pytest.raises(ValueError, match="Lebesgue"):
        sys.sample_base(jax.random.key(0))


def test_systems_are_pytrees_with_data_and_prior_as_leaves():
    sys = summed()
    kinds = {type(leaf).__name__ for leaf in jax.tree.leaves(sys)}
    assert len(jax.tree.leaves(sys)) == 3  # x, y and the prior's scale
    assert "function" not in kinds
    moved = sys.replace(data=jax.tree.map(lambda leaf: 2 * leaf, sys.data))
    assert jax.tree.structure(moved) == jax.tree.structure(sys)
    # the response of the energy to the labels, through the leaf
    slope = jax.grad(lambda s: s.energy(theta(), 1.5), allow_int=True)(sys).data["y"]
    residual = jnp.tanh(DATA["x"] @ theta()["w"]) + theta()["b"] - DATA["y"]
    np.testing.assert_allclose(slope, -2 * 1.5 * residual, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_data_that_are_not_finite_are_refused_by_name(bad):
    x = X.copy()
    x[4, 1] = bad
    match = rf"data leaf \['x'\] holds {bad} at index \(4, 1\)"
    with pytest.raises(ValueError, match=match):
        tj.system(total, data={"x": x, "y": Y})
    with pytest.raises(ValueError, match=match):
        tj.finite_sum(one, {"x": x, "y": Y})
    with pytest.raises(ValueError, match=r"data leaf data holds .* at index \(2,\)"):
        tj.system(total, data=np.asarray([0.0, 1.0, bad], np.float16))


def test_data_without_a_common_axis_are_refused():
    with pytest.raises(ValueError, match="same leading axis"):
        tj.finite_sum(one, {"x": X, "y": Y[:5]})
    with pytest.raises(ValueError, match="same leading axis"):
        tj.finite_sum(one, {"x": X, "y": np.float32(1.0)})
    with pytest.raises(ValueError, match="same leading axis"):
        tj.finite_sum(one, {})


def test_template_comes_from_like_or_from_the_prior():
    assert direct().template.size == 4
    assert tj.system(total, prior=tj.gaussian_prior(1.0)).template is None
    assert tj.system(total, prior=tj.gaussian_prior(1.0, like=like())).template.size == 4


def test_like_is_known_without_a_prior():
    """The shape that the caller said is used for checks and for rays."""
    sys = tj.system(total, like=like(), data=DATA)
    assert sys.template is not None
    assert sys.template.size == 4
    wrong = {"w": jnp.zeros((3, 1)), "b": jnp.zeros(())}
    with pytest.raises(tj.ShapeError, match=r"leaf \['w'\] has shape \(3, 1\)"):
        tj.mala(sys).init(wrong, tj.Point(1.0, 1.5))


def test_a_printed_system_shows_no_data():
    rows = jnp.arange(3000.0).reshape(1000, 3)
    sys = tj.finite_sum(
        lambda x, c, row: row @ x, rows, prior=tj.gaussian_prior(1.0), like=jnp.zeros(3)
    )
    assert repr(sys) == "System(sum over examples, data (1000, 3), 3 parameters, GaussianPrior)"
    plain = tj.system(lambda x: x**2)
    assert repr(plain) == "System(energy, data (), unknown parameters, Lebesgue measure)"
    assert "Traced" not in str(jax.make_jaxpr(lambda s: s.data)(sys))
