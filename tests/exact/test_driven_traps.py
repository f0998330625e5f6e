"""Driven traps against the library's own kernels, and against identities."""

import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import EXACT, LIMIT, caught, check, z_score
from thermojax import exact
from thermojax.dynamics import splitting

WALKERS = 100_000
TILE = 10_000
Z_MAX = 4.0  # what this piece promises, tighter than the suite

TRAPS = {
    "dragged": lambda **o: exact.dragged_trap(3.5, 8, **o),
    "stiffened": lambda **o: exact.stiffened_trap(5.0, 8, **o),
    "softened and dragged": lambda **o: exact.driven_trap(
        np.geomspace(1.0, 0.5, 9), np.linspace(0.0, 1.5, 9), np.linspace(1.0, 1.5, 9), **o
    ),
}
SCHEMES = {
    "em": {"step_size": 0.2},
    "BAOAB": {"step_size": 0.6, "friction": 1.5},
    "OBABO": {"step_size": 0.5},
    "lm": {"step_size": 0.15},
    "BAOA": {"step_size": 0.4},
}


def kernel_of(trap):
    if trap.scheme in ("em", "lm"):
        return tj.overdamped(trap.system, trap.scheme, step_size=trap.step_size)
    return tj.langevin(
        trap.system, trap.scheme, step_size=trap.step_size, friction=trap.friction
    )


def planted(step, noise, key, state, point, params):
    """The step with its normal draws multiplied."""
    normal = splitting.normal
    draw = lambda *args: normal(*args) * jnp.asarray(noise, jnp.float32)
    with mock.patch.object(splitting, "normal", draw):
        return step(key, state, point, params)


def works(trap, *, noise=1.0, temperature=1.0, seed=0, size=WALKERS):
    """(protocol, total) work of every walker; the factors plant bugs."""
    kernel = kernel_of(trap)
    kernel = kernel._replace(step=jax.tree_util.Partial(planted, kernel.step, noise))
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    st = tj.init_ensemble(
        kernel, second, trap.start, size, TILE, positions=trap.sample(first, size)
    )
    path = trap.path._replace(beta=trap.path.beta / temperature)
    _, ledger = tj.drive(kernel, third, st, path)
    protocol = np.asarray(ledger.protocol, np.float64).sum(0)
    return protocol, protocol + np.asarray(ledger.shadow, np.float64).sum(0)


@functools.cache
def right_works(name, scheme):
    trap = TRAPS[name](scheme=scheme, **SCHEMES[scheme])
    return trap, *works(trap)


def law_z(work, law):
    """z of the mean and of the variance."""
    centred = (work - law.mean) ** 2
    return np.array([z_score(work, law.mean), z_score(centred, law.variance)])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", TRAPS)
def test_integral_theorem_is_exact_with_shadow_work_and_missed_without(name, scheme):
    """P03 and P04 as identities of the linear chain, to rounding."""
    trap = TRAPS[name](scheme=scheme, **SCHEMES[scheme])
    assert trap.total.log_mean_exp() == pytest.approx(trap.log_ratio, abs=EXACT)
    # BAOAB keeps the positions of a harmonic trap right, and so errs the least
    missed = abs(trap.protocol.log_mean_exp() - trap.log_ratio)
    assert missed > (1e-3 if scheme == "BAOAB" else 0.01)
    assert trap.dissipated > 0


@pytest.mark.parametrize("scheme", ["em", "BAOAB"])
@pytest.mark.parametrize("name", TRAPS)
def test_library_drives_the_trap_with_the_exact_work(name, scheme):
    trap, protocol, total = right_works(name, scheme)
    check(law_z(protocol, trap.protocol), 0.0, 1.0, Z_MAX)
    check(law_z(total, trap.total), 0.0, 1.0, Z_MAX)
    if scheme == "em":  # where the two works differ much, they are told apart
        assert np.max(np.abs(law_z(protocol, trap.total))) > LIMIT


@pytest.mark.parametrize("scheme", ["em", "BAOAB"])
@pytest.mark.parametrize(
    "bug", [{"noise": 1.05}, {"noise": math.sqrt(0.5)}, {"temperature": 1.05}]
)
def test_planted_bugs_are_caught(scheme, bug):
    trap = TRAPS["dragged"](scheme=scheme, **SCHEMES[scheme])
    caught(law_z(works(trap, **bug)[1], trap.total), 0.0, 1.0)


def test_protocol_work_misses_the_theorem_by_the_predicted_amount():
    for scheme in ("em", "BAOAB"):
        trap, protocol, total = right_works("stiffened", scheme)
        check(np.exp(-total), math.exp(trap.log_ratio), limit=Z_MAX)
        check(np.exp(-protocol), math.exp(trap.protocol.log_mean_exp()), limit=Z_MAX)
        caught(np.exp(-protocol), math.exp(trap.log_ratio))


def test_dragging_makes_gaussian_protocol_work():
    trap, protocol, _ = right_works("dragged", "em")
    law = trap.protocol
    assert np.all(law.form[1:, 1:] == 0)
    assert law.log_mean_exp() == pytest.approx(-law.mean + law.variance / 2)
    x = (protocol - law.mean) / math.sqrt(law.variance)
    check(x**3, 0.0, limit=Z_MAX)
    check(x**4, 3.0, limit=Z_MAX)


def test_slow_driving_is_reversible_and_sudden_driving_is_not():
    slow = exact.stiffened_trap(4.0, 150, step_size=0.1)
    fast = exact.stiffened_trap(4.0, 1, step_size=0.1)
    assert 0 < slow.dissipated < 0.05 * fast.dissipated
    # a sudden jump: <w> = (k_1/k_0 - 1)/2, before the small work of two bath moves
    sudden = exact.stiffened_trap(4.0, 1, step_size=1e-9)
    assert sudden.total.mean == pytest.approx(1.5, abs=1e-6)
    assert sudden.total.variance == pytest.approx(4.5, abs=1e-6)


def test_law_of_the_exponential_average():
    """log_mean_exp is a cumulant generating function; its second moment may diverge."""
    law = exact.driven_trap([1.0, 1.5, 0.8], [0.0, 0.3, 0.1]).total
    eps = 1e-4
    up, down = law.log_mean_exp(eps), law.log_mean_exp(-eps)
    assert (up - down) / (2 * eps) == pytest.approx(law.mean, rel=1e-6)
    assert (up + down) / eps**2 == pytest.approx(law.variance, rel=1e-5)
    assert 0 < law.n_eff_fraction < 1
    assert exact.stiffened_trap(0.2).total.n_eff_fraction == 0
    still = exact.driven_trap([1.0], [0.0], step_size=1e-9)
    assert still.total.n_eff_fraction == pytest.approx(1)


def test_forward_and_backward():
    trap = exact.stiffened_trap(3.0, 4, step_size=0.1)
    back = trap.backwards()
    assert back.log_ratio == -trap.log_ratio
    assert back.total.log_mean_exp() == pytest.approx(back.log_ratio, abs=EXACT)
    np.testing.assert_allclose(back.path.control["stiffness"][::-1], trap.stiffness, rtol=1e-6)
    assert back.start.control["stiffness"] == 3.0


def test_bad_input():
    with pytest.raises(ValueError, match="stiffness must be positive"):
        exact.driven_trap([1.0, -1.0], 0.0)
    with pytest.raises(ValueError, match="have lengths"):
        exact.driven_trap([1.0, 2.0], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="scheme='heun'"):
        exact.driven_trap(1.0, 0.0, scheme="heun")
    with pytest.raises(ValueError, match="n_steps=0"):
        exact.dragged_trap(n_steps=0)
    with pytest.raises(ValueError, match="ratio must be positive"):
        exact.stiffened_trap(0.0)
