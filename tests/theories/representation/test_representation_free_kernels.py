"""Free kernels: the two-state bottleneck in closed form, invariants, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermojax.theories.representation.free_kernels import free_equilibrium
from thermojax.theories.representation.quantities import Multipliers, objective
from thermojax.theories.representation.tabular import tabular_equilibrium

pytestmark = pytest.mark.usefixtures("x64")
RANDOM = settings(max_examples=6, deadline=None, derandomize=True)
BITS = np.array([[0.45, 0.05], [0.05, 0.45]])
LOG_2 = np.log(2)


def solve(lam, gam, joint=BITS, num_codes=2, seed=1, **options):
    return free_equilibrium(
        joint, Multipliers(lam, gam), num_codes=num_codes, key=jax.random.key(seed), **options
    )


def digits(found, expected, places=10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.6 * 10.0**-places)


@pytest.mark.parametrize(
    ("lam", "gam", "free_energy", "rate", "classification"),
    [
        (0.0, 1.4, 0.9704060528, 0.0, LOG_2),
        (0.0, 1.6, 1.1079325863, 0.0892236599, 0.6366930790),
        (0.0, 2.5, 1.4919370051, 0.6116199898, 0.3521268061),
        (0.3, 2.5, 1.5045089146, 0.6789110737, 0.3285308036),
    ],
)
def test_two_state_bottleneck(lam, gam, free_energy, rate, classification):
    """Worked example 8.5, with R + D = log 2; delta is P(z != x) up to the names of codes."""
    found = solve(lam, gam)
    assert found.converged
    digits(found.free_energy, free_energy)
    digits(found.functionals, [rate, LOG_2 - rate, classification], 9)
    if gam == 1.6:
        digits(min(found.encoder[0]), 0.2919895794, 9)


def closed_form(lam, gam):
    """min over delta of (1 - lam) R + lam log 2 + gam C, on a fine grid."""
    delta = np.geomspace(1e-12, 0.5, 200_001)

    def entropy(t):
        return -t * np.log(t) - (1 - t) * np.log1p(-t)

    rate = LOG_2 - entropy(delta)
    flipped = 0.1 + delta - 0.2 * delta
    return np.min((1 - lam) * rate + lam * LOG_2 + gam * entropy(flipped))


@RANDOM
@given(st.floats(0, 0.9), st.floats(0.2, 6))
def test_closed_form_of_two_states(lam, gam):
    """3.2; away from the boundary, where the minimum is flat and the steps are slow."""
    strength = gam * 0.64 / (1 - lam)
    if 0.95 < strength < 1.05:
        return
    np.testing.assert_allclose(solve(lam, gam).free_energy, closed_form(lam, gam), rtol=1e-9)


@RANDOM
@given(st.integers(0, 2**31), st.floats(0.05, 2.5), st.floats(0, 8))
def test_invariants_of_free_kernels(seed, lam, gam):
    """F = R + lam D + gam C; R + D = H(X); stationary kernels; data processing."""
    joint = np.random.default_rng(seed).dirichlet(np.ones(12)).reshape(4, 3)
    found = solve(lam, gam, joint, num_codes=3, seed=seed, tol=1e-9)
    p_x, p_y = joint.sum(1), joint.sum(0)
    rate, distortion, classification = found.functionals
    np.testing.assert_allclose(
        found.free_energy, objective(found.functionals, Multipliers(lam, gam)), rtol=1e-7
    )
    np.testing.assert_allclose(rate + distortion, -p_x @ np.log(p_x), rtol=1e-7)
    assert rate >= -1e-9
    assert rate + classification >= -p_y @ np.log(p_y) - 1e-7
    np.testing.assert_allclose(p_x @ found.encoder, found.marginal, atol=1e-7)
    on = found.marginal > 1e-6
    classifier = (joint.T @ found.encoder) / found.marginal
    np.testing.assert_allclose(
        jnp.exp(found.log_classifier)[:, on], classifier[:, on], atol=1e-5
    )


def test_one_kernel_free():
    """A free classifier is never worse than a given one, and is its own best reply."""
    decoder = np.log([[0.7, 0.2], [0.3, 0.8]])
    controls = Multipliers(0.8, 2.0)
    given_both = tabular_equilibrium(BITS, controls, decoder, np.log(BITS / 0.5))
    found = tabular_equilibrium(BITS, controls, decoder)
    assert found.free_energy <= given_both.free_energy + 1e-13
    again = tabular_equilibrium(BITS, controls, decoder, found.log_classifier)
    digits(again.free_energy, found.free_energy, 11)
    np.testing.assert_array_equal(found.log_decoder, decoder)


def test_hard_codes_and_nothing_to_gain():
    """lam > 1 makes z = x; lam = gam = 0 makes F = R = 0; zero rows do no harm."""
    hard = solve(2.0, 0.5)
    digits(hard.functionals[:2], [LOG_2, 0], 12)
    idle = solve(0.0, 0.0)
    digits([idle.free_energy, idle.functionals.rate], [0, 0], 13)
    padded = solve(0.3, 2.5, np.pad(BITS, ((0, 1), (0, 1))))
    digits(padded.free_energy, 1.5045089146)


def test_grid_seed_and_dtype():
    grid = jnp.array([[0.0, 2.5], [0.3, 2.5]])
    together = jax.vmap(lambda tau: solve(tau[0], tau[1]))(grid)
    digits(together.free_energy, [1.4919370051, 1.5045089146])
    np.testing.assert_array_equal(solve(0.0, 2.5).encoder, solve(0.0, 2.5).encoder)
    with jax.enable_x64(False):
        single = solve(0.3, 2.5, np.float32(BITS))
    assert single.free_energy.dtype == np.float32
    assert single.converged
    digits(single.free_energy, 1.5045089146, 5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_codes": 0}, "num_codes is 0"),
        ({"joint": 2 * BITS}, "sums to 2"),
        ({"lam": -1.0}, "lam is -1"),
        ({"num_restarts": 0}, "num_restarts is 0"),
        ({"log_decoder": np.zeros((2, 3))}, "num_codes is 2"),
        ({"log_decoder": np.zeros((3, 2))}, "log_decoder has shape"),
        ({"log_decoder": BITS, "log_classifier": BITS}, "none is free"),
    ],
)
def test_refusals(change, match):
    with pytest.raises(ValueError, match=match):
        solve(**{"lam": 0.3, "gam": 1.0, **change})
