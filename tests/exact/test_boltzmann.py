"""Restricted Boltzmann machines against enumeration and independent quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import trapezoid

from thermojax import exact
from thermojax.exact.boltzmann import _by_mixture
from thermojax.exact.quadrature import combine

RNG = np.random.default_rng(3)


def machine(visible, hidden, scale=1.0):
    return (
        RNG.normal(size=visible),
        RNG.normal(size=hidden),
        scale * RNG.normal(size=(visible, hidden)),
    )


@pytest.mark.parametrize("shape", [(3, 2), (2, 4), (1, 1)])
def test_rbm_against_enumeration_of_both_layers(shape):
    b, c, w = machine(*shape)
    solved = exact.rbm(b, c, w)
    states = np.array(list(itertools.product((0, 1), repeat=sum(shape))), float)
    v, h = states[:, : shape[0]], states[:, shape[0] :]
    energies = -v @ b - h @ c - np.sum((v @ w) * h, axis=1)
    theta = {"visible": jnp.asarray(v), "hidden": jnp.asarray(h)}
    seen = jax.vmap(solved.system.energy)(theta)
    np.testing.assert_allclose(seen, energies, rtol=1e-5, atol=1e-5)
    for beta in (0.0, 0.4, 1.7, 30.0):
        expected = combine(-beta * energies, energies)
        np.testing.assert_allclose(solved.moments(beta), expected, rtol=1e-11, atol=1e-12)


def test_the_smaller_layer_is_enumerated():
    b, c, w = machine(14, 30, 0.3)
    wide, tall = exact.rbm(b, c, w), exact.rbm(c, b, w.T)
    np.testing.assert_allclose(wide.moments(1.0), tall.moments(1.0), rtol=1e-12)
    assert wide.log_partition(0.0) == pytest.approx(44 * np.log(2))
    with pytest.raises(ValueError, match="the layer to enumerate has 25 units"):
        exact.rbm(np.zeros(25), np.zeros(30), np.zeros((25, 30)))


def grid_moments(b, c, w, beta):
    """Moments of U on a plain grid in the visible coordinates themselves."""
    axes = [np.linspace(-18, 18, 181)] * len(b)
    v = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    energy = 0.5 * np.sum((v - b) ** 2, -1) - np.sum(np.logaddexp(0, c + v @ w), -1)
    weight = np.exp(-beta * energy)

    def over(f):
        for axis in reversed(axes):
            f = trapezoid(f, axis, axis=-1)
        return f

    z = over(weight)
    mean = over(weight * energy) / z
    return np.log(z), mean, over(weight * (energy - mean) ** 2) / z


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (2, 3), (3, 2), (3, 4)])
def test_gaussian_rbm_against_a_grid(shape):
    b, c, w = machine(*shape, scale=0.8)
    solved = exact.gaussian_rbm(b, c, w)
    for beta in (0.6, 1.0, 2.5):
        np.testing.assert_allclose(solved.moments(beta), grid_moments(b, c, w, beta), rtol=1e-8)
    mixture = _by_mixture(c + b @ w, w)
    np.testing.assert_allclose(mixture[:2], solved.moments(1.0)[:2], rtol=1e-9)


def test_gaussian_rbm_with_many_visible_units():
    """Directions orthogonal to the weights are Gaussian; at beta = 1 a sum in any case."""
    b, c, w = machine(6, 2, 0.7)
    solved = exact.gaussian_rbm(b, c, w)
    log_z = [
        np.dot(h, c) + b @ w @ h + 0.5 * np.sum((w @ h) ** 2) + 3 * np.log(2 * np.pi)
        for h in itertools.product((0, 1), repeat=2)
    ]
    assert solved.log_partition(1.0) == pytest.approx(np.logaddexp.reduce(log_z), rel=1e-12)
    assert np.isfinite(solved.heat_capacity(0.7))
    wide = exact.gaussian_rbm(*machine(6, 5, 0.7))
    assert np.isfinite(wide.entropy(1.0))
    assert np.isnan(wide.heat_capacity(1.0))
    with pytest.raises(
        ValueError, match="span 5 directions, quadrature covers 3: only beta = 1"
    ):
        wide.log_partition(0.5)
    idle = exact.gaussian_rbm((0.0, 1.0), (0.3,), ((0.0,), (0.0,)))
    expected = np.log(2 * np.pi) + np.logaddexp(0, 0.3)
    assert idle.log_partition(1.0) == pytest.approx(expected)


def test_bad_input():
    with pytest.raises(
        ValueError, match=r"weights must have shape \[visible, hidden\] = \(3, 2\)"
    ):
        exact.rbm(weights=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="hidden_bias must be finite"):
        exact.gaussian_rbm(hidden_bias=(np.nan, 0.0))
