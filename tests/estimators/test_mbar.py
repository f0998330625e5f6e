"""MBAR against closed forms, an independent root finder, BAR, and where it must refuse."""

import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import root
from scipy.special import logsumexp

import thermojax as tj
from tests.scores import EXACT, caught, check


def oscillators(centres, stiffness, counts, seed):
    """u_kn of harmonic wells at T = 1, and the exact log Z."""
    rng = np.random.default_rng(seed)
    x = np.concatenate(
        [
            c + rng.normal(size=n) / np.sqrt(k)
            for c, k, n in zip(centres, stiffness, counts, strict=True)
        ]
    )
    u = 0.5 * np.asarray(stiffness)[:, None] * (x - np.asarray(centres)[:, None]) ** 2
    return u, -0.5 * np.log(np.asarray(stiffness) / stiffness[0])


def exponentials(rates, counts, seed):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.exponential(1 / r, n) for r, n in zip(rates, counts, strict=True)])
    return np.asarray(rates)[:, None] * x, -np.log(np.asarray(rates) / rates[0])


COUNTS = [1000, 500, 0, 800]
SYSTEMS = {
    "harmonic": lambda seed: oscillators([1, 2, 3, 4], [0.5, 1, 1.5, 2], COUNTS, seed),
    "exponential": lambda seed: exponentials([1, 2, 3, 4], COUNTS, seed),
}


def by_root(u, n):
    """Independent solution: the self-consistency equations by a general root finder."""
    on = n > 0

    def equations(free):
        f = np.concatenate([[0.0], free])
        den = logsumexp(f[:, None] - u[on], b=n[on][:, None], axis=0)
        new = -logsumexp(-u[on] - den, axis=1)
        return (new - new[0] - f)[1:]

    f = np.concatenate([[0.0], root(equations, np.zeros(on.sum() - 1), tol=1e-13).x])
    den = logsumexp(f[:, None] - u[on], b=n[on][:, None], axis=0)
    everywhere = -logsumexp(-u - den, axis=1)
    return everywhere[0] - everywhere


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_equations_are_solved(name):
    u, _ = SYSTEMS[name](0)
    fit = tj.mbar(u, COUNTS)
    np.testing.assert_allclose(fit.estimate.value, by_root(u, np.array(COUNTS)), atol=1e-9)
    assert fit.residual < 1e-6
    np.testing.assert_allclose(fit.overlap.sum(1), 1.0, rtol=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
def test_error_bars_cover(name):
    """Two hundred data sets, the unsampled state among them."""
    fits = [(tj.mbar(SYSTEMS[name](seed)[0], COUNTS).estimate) for seed in range(200)]
    value = np.array([e.value for e in fits])[:, 1:]
    error = np.array([e.stderr for e in fits])[:, 1:]
    exact = SYSTEMS[name](0)[1][1:]
    z = (value - exact) / error
    assert np.all(np.abs(z.mean(0)) < 5 / np.sqrt(200))
    assert np.all(np.mean(np.abs(z) < 1, axis=0) > 0.584)
    assert np.all(np.mean(np.abs(z) < 1, axis=0) < 0.781)
    assert np.all(np.mean(np.abs(z) < 2, axis=0) > 0.91)
    assert np.all((z.std(0) > 0.85) & (z.std(0) < 1.15))
    caught(value[:, 0] + 0.5 * error[:, 0], exact[0])


def test_two_states_are_bar():
    u, _ = oscillators([0, 1], [1, 2], [700, 400], 3)
    fit = tj.mbar(u, [700, 400])
    w = u[1] - u[0]
    two = tj.bar(w[:700], -w[700:])
    np.testing.assert_allclose(fit.estimate.value[1], -two.value, atol=2e-5)
    np.testing.assert_allclose(fit.estimate.stderr[1], two.stderr, rtol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_constants_shift_and_order_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(20, 60, 4)
    u, _ = oscillators(rng.normal(size=4), 0.5 + rng.random(4), counts, seed)
    plain = tj.mbar(u, counts)
    per_sample = 1e3 * rng.normal(size=counts.sum())
    per_state = 50 * rng.normal(size=4)
    moved = tj.mbar(u + per_sample + per_state[:, None], counts)
    shift = per_state[0] - per_state
    np.testing.assert_allclose(moved.estimate.value, plain.estimate.value + shift, atol=1e-7)
    np.testing.assert_allclose(
        moved.estimate.stderr, plain.estimate.stderr, rtol=1e-5, atol=1e-7
    )
    turned = tj.mbar(u[::-1, ::-1], counts[::-1]).estimate.value[::-1]
    np.testing.assert_allclose(turned - turned[0], plain.estimate.value, atol=1e-8)


def test_weights_of_a_new_target():
    u, _ = oscillators([0, 1], [1, 1], [4000, 4000], 5)
    fit = tj.mbar(u, [4000, 4000])
    x = u[0] - u[1] + 0.5  # (x^2 - (x - 1)^2) / 2 = x - 1/2
    log_w = fit.log_weights(0.5 * (x - 0.5) ** 2 / 0.8)
    assert abs(np.exp(log_w).sum() - 1) < EXACT
    mean = np.sum(np.exp(log_w) * x)
    error = np.sqrt(np.sum(np.exp(2 * log_w) * (x - mean) ** 2))
    check(mean, 0.5, error)
    assert fit.difference(0, 1)[0] == fit.estimate.value[1]
    assert fit.difference(1, 1) == (0.0, 0.0)


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 10.0])
def test_vanishing_overlap_is_refused(c):
    """Three oscillators, one of them narrow and away: users.md 3.7, ten seeds."""
    stiffness, counts = [10, 10, 1000], [1000] * 3
    for seed in range(10):
        u, exact = oscillators([0, 0.5, c], stiffness, counts, seed)
        est = tj.mbar(u, counts).estimate
        if c >= 2:
            assert np.all(np.isnan(est.value))
            assert np.all(np.isinf(est.stderr))
            assert np.all(est.flags & np.uint32(tj.Flag.POOR_OVERLAP))
        else:
            check(est.value[2], exact[2], est.stderr[2], limit=4.0)
        if c <= 1:
            assert not np.any(est.flags)


def test_a_long_ladder_is_no_poor_overlap():
    """Sixty-four states whose neighbours overlap well."""
    centres = np.arange(64) * 0.7
    u, exact = oscillators(centres, np.ones(64), [50] * 64, 0)
    fit = tj.mbar(u, [50] * 64)
    assert not np.any(fit.estimate.flags & np.uint32(tj.Flag.POOR_OVERLAP))
    check(fit.estimate.value[1:], exact[1:], fit.estimate.stderr[1:])
    gap = centres + 5.0 * (np.arange(64) > 40)
    u, _ = oscillators(gap, np.ones(64), [50] * 64, 0)
    assert np.all(tj.mbar(u, [50] * 64).estimate.flags & np.uint32(tj.Flag.POOR_OVERLAP))


def test_a_wall_is_an_infinite_energy():
    """A uniform on [0, 1] against its half, its third and a state beyond no sample."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.random(3000), 0.5 * rng.random(3000)])
    u = np.where(x < np.array([[1.0], [0.5], [1 / 3]]), 0.0, np.inf)
    fit = tj.mbar(u, [3000, 3000, 0])
    exact = np.log([1.0, 0.5, 1 / 3])
    check(fit.estimate.value[1:], exact[1:], fit.estimate.stderr[1:])
    caught(fit.estimate.value[1:], [0.0, np.log(0.5)], fit.estimate.stderr[1:])


def test_correlated_samples_inflate_the_bar():
    u, _ = SYSTEMS["harmonic"](0)
    one, four = (tj.mbar(u, COUNTS, g=g).estimate.stderr for g in (1.0, [1, 2, 1, 4.0]))
    np.testing.assert_allclose(four, 2 * one)


def test_mistakes_are_named():
    u = np.zeros((2, 5))
    for bad, counts, said in (
        (u[0], [5], r"u_kn must be \[K, N\]"),
        (u, [2, 2], "must be counts that sum to N=5"),
        (u, [2.5, 2.5], "must be counts that sum to N=5"),
        (np.where(np.arange(5) == 3, np.nan, u), [2, 3], r"u_kn\[0, 3\] is nan"),
        (np.where(np.arange(5) == 1, np.inf, u), [2, 3], r"u_kn\[:, 1\] has the minimum inf"),
    ):
        with pytest.raises(ValueError, match=said):
            tj.mbar(bad, counts)
    with pytest.raises(ValueError, match=r"g=0\.5 must be at least 1"):
        tj.mbar(u, [2, 3], g=0.5)


PEER = """
import sys
import numpy as np
import pymbar
data = np.load(sys.argv[1])
solved = pymbar.MBAR(data["u"], data["n"]).compute_free_energy_differences()
pair = pymbar.bar(data["forward"], data["reverse"])
np.savez(
    sys.argv[2], f=solved["Delta_f"][0], df=solved["dDelta_f"][0],
    bar=pair["Delta_f"], dbar=pair["dDelta_f"],
)
"""


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_independent_implementation_agrees(name, tmp_path, x64):
    """pymbar on the same numbers, in a process of its own: it changes jax's configuration."""
    u, _ = SYSTEMS[name](1)
    forward, reverse = (u[1] - u[0])[:1000], (u[0] - u[1])[1000:1500]
    given_to, answer = tmp_path / "given.npz", tmp_path / "answer.npz"
    np.savez(given_to, u=u, n=np.array(COUNTS), forward=forward, reverse=reverse)
    subprocess.run(
        [sys.executable, "-c", PEER, given_to, answer],
        check=True,
        capture_output=True,
        env={**os.environ, "PYMBAR_DISABLE_JAX": "TRUE"},
    )
    peer = np.load(answer)
    fit, pair = tj.mbar(u, COUNTS).estimate, tj.bar(forward, reverse)
    np.testing.assert_allclose(-fit.value, peer["f"], atol=1e-8)
    np.testing.assert_allclose(fit.stderr, peer["df"], rtol=0.05, atol=1e-12)
    np.testing.assert_allclose(pair.value, peer["bar"], atol=1e-8)
    np.testing.assert_allclose(pair.stderr, peer["dbar"], rtol=0.05)
