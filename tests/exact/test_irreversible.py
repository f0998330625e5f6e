"""Bead-spring chains and driven cycles: closed forms against scipy and enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from tests.scores import EXACT
from thermojax import exact


@pytest.mark.parametrize("n", [1, 2, 5])
def test_chain_covariance(n):
    chain = exact.bead_spring_chain(n, 3.0, 1.0, stiffness=0.7)
    expected = solve_continuous_lyapunov(chain.drift, 2 * chain.diffusion)
    np.testing.assert_allclose(chain.covariance(), expected, rtol=EXACT)
    m, q = chain.transition(0.5)
    np.testing.assert_allclose(chain.covariance(0.5), solve_discrete_lyapunov(m, q), rtol=EXACT)


def test_two_beads_in_closed_form():
    for k, hot, cold in ((1.0, 2.0, 1.0), (0.4, 5.0, 0.5)):
        chain = exact.bead_spring_chain(2, hot, cold, stiffness=k)
        sigma = k * (hot - cold) ** 2 / (4 * hot * cold)
        assert chain.entropy_production() == pytest.approx(sigma)
        # the chain of small steps produces it per unit time, at first order in h
        errors = [chain.entropy_production(h) / h - sigma for h in (2e-3, 1e-3)]
        assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)
    for h in (None, 0.3):
        even = exact.bead_spring_chain(4, 1.5, 1.5)
        assert even.entropy_production(h) == pytest.approx(0, abs=1e-12)


def enumerated(p, pi, length):
    """KL divergence of paths of a given length from their reversals."""
    total = 0.0
    for path in itertools.product(range(len(pi)), repeat=length + 1):
        forward = pi[path[0]] * math.prod(p[a, b] for a, b in itertools.pairwise(path))
        back = path[::-1]
        reverse = pi[back[0]] * math.prod(p[a, b] for a, b in itertools.pairwise(back))
        total += forward * math.log(forward / reverse) if forward > 0 else 0.0
    return total


@pytest.mark.parametrize("uneven", [False, True])
def test_cycle_against_enumeration_of_paths(uneven):
    forward = [0.5, 0.3, 0.6, 0.2] if uneven else 0.5
    backward = [0.1, 0.2, 0.3, 0.25] if uneven else 0.2
    cycle = exact.driven_cycle(4, forward, backward)
    p, pi = cycle.transition, cycle.stationary
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(pi @ p, pi, atol=1e-15)
    for length in (1, 4):
        assert enumerated(p, pi, length) == pytest.approx(length * cycle.entropy_production)
    if not uneven:
        assert cycle.entropy_production == pytest.approx(0.3 * math.log(2.5))


def test_cycle_at_the_edges():
    assert exact.driven_cycle(5, 0.3, 0.3).entropy_production == 0
    assert exact.driven_cycle(3, 0.3, 0.0).entropy_production == math.inf


def test_bad_input():
    with pytest.raises(ValueError, match="n >= 1"):
        exact.bead_spring_chain(0)
    with pytest.raises(ValueError, match="hot and cold must be positive"):
        exact.bead_spring_chain(2, -1.0)
    with pytest.raises(ValueError, match="unstable: it must be below"):
        exact.bead_spring_chain().covariance(1.0)
    with pytest.raises(ValueError, match="n >= 3"):
        exact.driven_cycle(2)
    with pytest.raises(ValueError, match="nor exceed 1 - forward"):
        exact.driven_cycle(3, 0.7, 0.4)
