"""Entropy production from matrices: closed forms, identities, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import EXACT
from thermojax import exact
from thermojax.chains import (
    diffusion_entropy_production,
    linear_entropy_production,
    markov_entropy_production,
)

RNG = np.random.default_rng(0)


def positive_definite(d):
    b = RNG.normal(size=(d, d))
    return b @ b.T + 0.1 * np.eye(d)


def random_chain(d=4, radius=0.8):
    m = RNG.normal(size=(d, d))
    return m * radius / np.max(np.abs(np.linalg.eigvals(m))), positive_definite(d)


# --- linear chains and diffusions -------------------------------------------------------


def test_linear_is_the_divergence_of_two_successive_states(x64):
    """[tr(J2^-1 J1) - 2d]/2 of core specification 2.8."""
    for _ in range(3):
        m, q = random_chain()
        s = np.asarray(tj.linear_stationary_covariance(m, q))
        forward = np.block([[s, s @ m.T], [m @ s, s]])
        reverse = np.block([[s, m @ s], [s @ m.T, s]])
        expected = (np.trace(np.linalg.solve(reverse, forward)) - 8) / 2
        np.testing.assert_allclose(linear_entropy_production(m, q), expected, rtol=1e-9)
        assert expected > 0.01


def test_linear_is_blind_to_coordinates_and_direction(x64):
    m, q = random_chain()
    sigma = linear_entropy_production(m, q)
    t = RNG.normal(size=(4, 4))
    turned = linear_entropy_production(t @ m @ np.linalg.inv(t), t @ q @ t.T)
    np.testing.assert_allclose(turned, sigma, rtol=1e-8)
    # the reversed chain produces as much
    s = np.asarray(tj.linear_stationary_covariance(m, q))
    back = s @ m.T @ np.linalg.inv(s)
    np.testing.assert_allclose(
        linear_entropy_production(back, s - back @ s @ back.T), sigma, rtol=1e-8
    )


def test_reversible_chains_produce_nothing(x64):
    """M S = S M^T."""
    s, k = positive_definite(4), positive_definite(4)
    m = k @ np.linalg.inv(s)
    m = 0.9 * m / np.max(np.abs(np.linalg.eigvals(m)))
    q = s - m @ s @ m.T
    assert abs(linear_entropy_production(m, q)) < 1e-9
    assert linear_entropy_production(m + 0.02 * np.eye(4, k=1), q) > 1e-4  # power


@pytest.mark.parametrize("n", [1, 2, 5])
def test_bead_spring_chains_in_closed_form(n, x64):
    chain = exact.bead_spring_chain(n, 4.0, 1.0)
    sigma = diffusion_entropy_production(chain.drift, chain.diffusion)
    np.testing.assert_allclose(sigma, chain.entropy_production(), rtol=EXACT, atol=EXACT)
    for h in (0.1, 0.4):
        found = linear_entropy_production(*chain.transition(h))
        np.testing.assert_allclose(found, chain.entropy_production(h), rtol=1e-9, atol=EXACT)
    small = linear_entropy_production(*chain.transition(1e-4)) / 1e-4
    np.testing.assert_allclose(small, sigma, rtol=1e-3, atol=1e-7)


def obabo(h, k, c):
    """(M, Q) of one OBABO step on k x^2 / 2, unit mass and temperature."""
    o = np.diag([1.0, c])
    kick, drift = np.array([[1, 0], [-h * k / 2, 1]]), np.array([[1, h], [0, 1]])
    core = kick @ drift @ kick
    noise = np.diag([0.0, 1 - c * c])
    return o @ core @ o, o @ core @ noise @ core.T @ o + noise


def test_momenta_are_odd(x64):
    """OBABO is reversible once momenta flip; without the flip it looks irreversible."""
    m, q = obabo(0.7, 1.3, 0.6)
    assert abs(linear_entropy_production(m, q, parity=[1, -1])) < 1e-10
    assert linear_entropy_production(m, q) > 0.1
    # a bath that heats x and p to different temperatures is irreversible either way
    hot = q + np.diag([0.3, 0.0])
    assert linear_entropy_production(m, hot, parity=[1, -1]) > 1e-3


def test_linear_derivatives_vmap_and_refusals(x64):
    m, q = random_chain(3)
    grad = jax.jit(jax.grad(linear_entropy_production))(m, q)
    step = RNG.normal(size=(3, 3))
    difference = linear_entropy_production(m + 1e-6 * step, q)
    difference = difference - linear_entropy_production(m - 1e-6 * step, q)
    np.testing.assert_allclose(np.sum(grad * step), difference / 2e-6, rtol=1e-5)
    both = jax.vmap(linear_entropy_production)(np.stack([m, m.T]), np.stack([q, q]))
    np.testing.assert_allclose(both[1], linear_entropy_production(m.T, q), rtol=1e-9)
    with pytest.raises(ValueError, match="parity must hold"):
        linear_entropy_production(m, q, parity=[1, 0, 1])
    with pytest.raises(ValueError, match="spectral radius"):
        linear_entropy_production(2 * np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match="real part"):
        diffusion_entropy_production(-np.eye(2), np.eye(2))
    assert np.isnan(linear_entropy_production(m, np.diag([1.0, 1.0, 0.0])))


# --- discrete chains --------------------------------------------------------------------


def test_markov_against_the_cycle(x64):
    uneven = exact.driven_cycle(4, [0.5, 0.3, 0.6, 0.2], [0.1, 0.2, 0.3, 0.25])
    for cycle in (exact.driven_cycle(3), exact.driven_cycle(7, 0.3, 0.6), uneven):
        found = jax.jit(markov_entropy_production)(cycle.transition)
        np.testing.assert_allclose(found, cycle.entropy_production, rtol=EXACT)
    # power: the transposed matrix with other rows is another chain
    wrong = 0.9 * uneven.transition + 0.1 * np.eye(4)
    assert abs(markov_entropy_production(wrong) - uneven.entropy_production) > 1e-3


def test_markov_balance_and_rare_states(x64):
    # Metropolis on energies up to 300 nats: detailed balance, weights down to 1e-130
    energy = np.array([0.0, 5.0, 300.0, 2.0, 40.0])
    n = len(energy)
    p = np.minimum(1, np.exp(energy[:, None] - energy)) / n
    p[np.diag_indices(n)] = 0
    p += np.diag(1 - p.sum(1))
    assert abs(markov_entropy_production(p)) < 1e-12
    slope = jax.grad(lambda e: markov_entropy_production(_cycle(e)))(0.1)
    low, high = (markov_entropy_production(_cycle(0.1 + d)) for d in (-1e-6, 1e-6))
    np.testing.assert_allclose(slope, (high - low) / 2e-6, rtol=1e-5)


def _cycle(tilt):
    ahead = jnp.roll(jnp.eye(3), 1, axis=1)
    return 0.5 * jnp.eye(3) + (0.25 + tilt) * ahead + (0.25 - tilt) * ahead.T


def test_markov_jumps_without_reverse_and_states_left_for_good():
    one_way = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert markov_entropy_production(one_way) == math.inf
    # state 2 is only left: it does not count
    leaving = [[0.7, 0.3, 0.0], [0.3, 0.7, 0.0], [0.5, 0.0, 0.5]]
    assert abs(markov_entropy_production(leaving)) < 1e-6
    assert markov_entropy_production([[1.0]]) == 0


def test_markov_refusals():
    with pytest.raises(ValueError, match="more than one stationary law"):
        markov_entropy_production(np.eye(3))
    assert np.isnan(jax.jit(markov_entropy_production)(jnp.eye(3)))
    with pytest.raises(ValueError, match="no transition matrix"):
        markov_entropy_production([[0.5, 0.6], [0.5, 0.5]])
    with pytest.raises(ValueError, match="no transition matrix"):
        markov_entropy_production([[1.1, -0.1], [0.5, 0.5]])
    with pytest.raises(ValueError, match="square"):
        markov_entropy_production(np.ones((2, 3)) / 3)
