"""Linear-Gaussian systems: worked numbers, responses, equipartition, log Z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from thermojax.theories.representation.gaussian import (
    gaussian_equilibrium,
    gaussian_log_partition,
)
from thermojax.theories.representation.quantities import Functionals, Multipliers, objective

pytestmark = pytest.mark.usefixtures("x64")
RANDOM = settings(max_examples=8, deadline=None, derandomize=True)
LOG_2PI = float(np.log(2 * np.pi))
COV = np.array([[2, 0.6, 0.2], [0.6, 1.2, 0.3], [0.2, 0.3, 0.8]])
MAP = np.array([[0.5, 1, -0.7]])
THIRD = (COV, MAP, np.array([[0.3]]))
TAU = np.array([1.3, 0.9])
SECOND = (np.diag([4, 1, 0.25]), np.array([[0, 1.0, 0]]), np.array([[0.25]]))


def solve(task, lam, gam, s_x=0.7, s_y=0.6, latent_dim=None):
    return gaussian_equilibrium(
        *task,
        Multipliers(lam, gam),
        decoder_scale=s_x,
        classifier_scale=s_y,
        latent_dim=latent_dim,
    )


fast = jax.jit(solve, static_argnames="latent_dim")
slope = jax.jit(jax.grad(lambda *a, **k: solve(*a, **k).free_energy, (1, 2)), static_argnums=5)
bend = jax.jit(
    jax.hessian(lambda *a, **k: solve(*a, **k).free_energy, (1, 2)), static_argnums=5
)


def digits(found, expected, places=10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.6 * 10.0**-places)


def test_one_mode():
    """Worked example 8.6 (i)."""
    one = np.ones((1, 1))
    found = solve((2 * one, one, one / 2), 1.0, 1.0, 1.0, 1.0)
    digits(found.mode_strengths, [4], 14)
    digits(found.functionals, [np.log(2), 1.1689385332, 1.4189385332])
    digits(found.free_energy, 3.2810242470)
    digits(found.susceptibility, np.full((2, 2), 1 / 8), 14)
    assert found.num_active == 1


def test_two_of_three_modes():
    """Worked example 8.6 (ii): kappa, functionals, and chi with an inactive mode."""
    found = solve(SECOND, 1.5, 0.5, 1.0, 0.5)
    digits(found.mode_strengths, [6, 3.5, 0.375], 13)
    digits(found.functionals, [1.5222612188617, 3.3580060758045, 1.2972199240733], 12)
    digits(found.free_energy, 7.2078802946051, 12)
    exact = [[(1 / 1.5**2 + 1 / 3.5**2) / 2, 2 / 3.5**2], [2 / 3.5**2, 8 / 3.5**2]]
    digits(found.susceptibility, exact, 13)
    assert found.num_active == 2


def test_coupled_modes():
    """Worked example 8.6 (iii), also as gradient and hessian of the free energy."""
    found = solve(THIRD, 1.3, 0.9)
    digits(found.mode_strengths, [10.734380133852, 2.655073290137, 2.552791473971], 11)
    digits(found.functionals, [2.1435557010561, 2.6017304106990, 1.1698667585814], 12)
    digits(found.free_energy, 6.5786853176881, 12)
    chi = [[0.634178128064, 0.100564529353], [0.100564529353, 0.238170327019]]
    digits(found.susceptibility, chi, 11)
    digits(slope(THIRD, 1.3, 0.9), found.functionals[1:], 12)
    digits(-np.array(bend(THIRD, 1.3, 0.9)), chi, 11)


def _losses(psi):
    """R, D and C of z = W x + diag(s) eps with linear decoder and classifier."""
    weights, log_s, decoder, classifier = psi
    cov_x, label_map, label_cov = map(jnp.asarray, THIRD)
    noise = jnp.diag(jnp.exp(2 * log_s))
    code = weights @ cov_x @ weights.T + noise
    rate = (jnp.trace(code) - 3 - 2 * log_s.sum()) / 2

    def loss(target, own, map_, scale):
        left = target - map_ @ weights
        spread = jnp.trace(left @ cov_x @ left.T) + jnp.trace(map_ @ noise @ map_.T) + own
        return spread / (2 * scale**2) + len(target) * (LOG_2PI / 2 + jnp.log(scale))

    distortion = loss(jnp.eye(3), 0.0, decoder, 0.7)
    return Functionals(rate, distortion, loss(label_map, jnp.trace(label_cov), classifier, 0.6))


def test_trained_linear_encoder():
    """24 trained parameters reach F to 1e-8, and g^T A^{-1} g is chi (8.6 (iii), 2.5)."""
    shapes = [(3, 3), (3,), (3, 3), (1, 3)]
    sizes = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]

    def tree(flat):
        return [a.reshape(s) for a, s in zip(jnp.split(flat, sizes), shapes, strict=True)]

    controls = Multipliers(1.3, 0.9)

    def height(flat):
        return objective(_losses(tree(flat)), controls)

    def newton(flat, _):
        # away from the minimum the Hessian is indefinite: take it in absolute value
        strength, axes = jnp.linalg.eigh(jax.hessian(height)(flat))
        pull = axes.T @ jax.grad(height)(flat)
        move = axes @ (pull / jnp.maximum(jnp.abs(strength), 1e-3))
        sizes = 0.5 ** jnp.arange(8.0)
        heights = jax.vmap(lambda a: height(flat - a * move))(sizes)
        return flat - sizes[jnp.argmin(heights)] * move, None

    @jax.jit
    def train(flat):
        flat = jax.lax.scan(newton, flat, length=60)[0]
        g = jax.jacobian(lambda f: jnp.stack(_losses(tree(f))[1:]))(flat)
        return height(flat), g @ jnp.linalg.pinv(jax.hessian(height)(flat), rtol=1e-9) @ g.T

    reached, chi = train(0.3 * jax.random.normal(jax.random.key(1), (24,)))
    exact = solve(THIRD, 1.3, 0.9)
    assert -1e-12 < reached - exact.free_energy < 1e-8
    np.testing.assert_allclose(chi, exact.susceptibility, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("lam", "latent_dim", "rate", "distortion", "active"),
    [
        (0.3, None, 1.2444866081, 20.0388700099, 4),
        (1.0, None, 6.1115482802, 11.6142759198, 12),
        (3.0, None, 16.1225240158, 5.9127586760, 25),
        (1.0, 8, 5.4040778109, 12.5024899331, 8),
    ],
)
def test_linear_optimum_of_digits(lam, latent_dim, rate, distortion, active):
    """Worked example 8.9; the covariance is singular: some pixels are always 0."""
    cov = np.cov((load_digits().data / 16).T, bias=True)
    task = (cov, np.zeros((1, 64)), np.eye(1))
    found = fast(task, lam, 0.0, 0.3, 1.0, latent_dim=latent_dim)
    const = 32 * (LOG_2PI + 2 * np.log(0.3))
    digits(found.functionals.rate, rate)
    digits(found.functionals.distortion - const, distortion)
    assert found.num_active == active
    np.testing.assert_allclose(2 * lam**2 * found.susceptibility[0, 0], active, rtol=1e-12)


def random_task(seed, n=3, q=2):
    root, label_map, noise = (
        np.random.default_rng(seed).normal(size=s) for s in ((n, n), (q, n), (q, q))
    )
    return root @ root.T / n, label_map, noise @ noise.T


tasks = st.integers(0, 2**31).map(random_task)
controls = st.tuples(st.floats(0.1, 3), st.floats(0.0, 3))


@RANDOM
@given(tasks, controls)
def test_first_law_and_response(task, tau):
    """F = R + lam D + gam C; grad F = (D, C); chi = -dU/dtau, symmetric and PSD."""
    found, step = fast(task, *tau), 1e-5
    np.testing.assert_allclose(
        found.free_energy, objective(found.functionals, Multipliers(*tau)), rtol=1e-12
    )
    digits(slope(task, *tau), found.functionals[1:], 10)
    assert np.linalg.eigvalsh(found.susceptibility).min() > -1e-12
    assert found.functionals.rate >= 0
    for k in range(2):
        ends = [fast(task, *np.add(tau, s * step * np.eye(2)[k])) for s in (1, -1)]
        if ends[0].num_active != ends[1].num_active:
            continue
        change = np.subtract(*(np.array(e.functionals[1:]) for e in ends)) / (2 * step)
        np.testing.assert_allclose(change, -found.susceptibility[k], rtol=1e-6, atol=1e-6)
        rise = (ends[0].free_energy - ends[1].free_energy) / (2 * step)
        np.testing.assert_allclose(rise, found.functionals[1 + k], rtol=1e-7, atol=1e-7)


@RANDOM
@given(tasks, controls, controls)
def test_concave_and_monotone(task, one, other):
    ends = [fast(task, *tau) for tau in (one, other)]
    middle = fast(task, *np.mean([one, other], axis=0))
    assert middle.free_energy >= (ends[0].free_energy + ends[1].free_energy) / 2 - 1e-12
    low, high = (fast(task, lam, one[1]) for lam in sorted((one[0], other[0])))
    assert high.functionals.distortion <= low.functionals.distortion + 1e-12


@RANDOM
@given(tasks, controls, st.integers(0, 2**31))
def test_no_linear_encoder_is_better(task, tau, seed):
    """z = W x + noise, with the best decoder, classifier and marginal for it."""
    cov, label_map, label_cov = task
    weights = np.random.default_rng(seed).normal(size=(3, 3))
    code = weights @ cov @ weights.T + np.eye(3)
    rate = np.linalg.slogdet(code)[1] / 2
    left = cov - cov @ weights.T @ np.linalg.solve(code, weights @ cov)
    distortion = np.trace(left) / (2 * 0.49) + 1.5 * (LOG_2PI + 2 * np.log(0.7))
    spread = np.trace(label_map @ left @ label_map.T) + np.trace(label_cov)
    classification = spread / (2 * 0.36) + LOG_2PI + 2 * np.log(0.6)
    assert fast(task, *tau).free_energy <= rate + np.dot(tau, [distortion, classification])


@RANDOM
@given(st.lists(st.floats(0.01, 5), min_size=3, max_size=3), st.floats(0.05, 5))
def test_equipartition_counts_active_modes(variances, lam):
    """gam = 0: lam^2 chi_ll is half a unit per mode with lam sigma^2 > s_x^2."""
    found = fast((np.diag(variances), MAP, np.eye(1)), lam, 0.0)
    active = np.sum(lam * np.array(variances) > 0.49)
    assert found.num_active == active
    np.testing.assert_allclose(2 * lam**2 * found.susceptibility[0, 0], active, atol=1e-10)


@pytest.mark.parametrize("latent_dim", [3, 2])
def test_equal_modes_have_finite_derivatives(latent_dim):
    """Three equal modes: every derivative is finite and the responses add."""
    task = (2 * np.eye(3), np.zeros((1, 3)), np.eye(1))
    found = solve(task, 1.5, 0.5, 1.0, 1.0, latent_dim)
    hessian = np.array(bend(task, 1.5, 0.5, 1.0, 1.0, latent_dim))
    digits(hessian, -found.susceptibility, 12)
    digits(found.susceptibility[0, 0], latent_dim / (2 * 1.5**2), 12)


def test_truncated_response_against_differences():
    """latent_dim below the number of strong modes: the two largest are kept."""
    found, step = fast(THIRD, 1.3, 0.9, latent_dim=2), 1e-5
    assert found.num_active == 2
    assert found.free_energy > fast(THIRD, 1.3, 0.9).free_energy
    for k, shift in enumerate(step * np.eye(2)):
        ends = [fast(THIRD, *(TAU + s * shift), latent_dim=2) for s in (1, -1)]
        change = np.subtract(*(np.array(e.functionals[1:]) for e in ends)) / (2 * step)
        np.testing.assert_allclose(-change, found.susceptibility[k], rtol=1e-6)
    digits(-np.array(bend(THIRD, 1.3, 0.9, 0.7, 0.6, 2)), found.susceptibility, 11)


def test_labels_alone_may_determine_x():
    found = solve((COV, np.eye(3), np.eye(3)), 0.0, 2.0)
    assert np.isfinite(found.free_energy)
    with pytest.raises(ValueError, match="full column rank"):
        solve(THIRD, 0.0, 2.0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lam": -1.0}, "lam is -1.0"),
        ({"s_x": 0.0}, "decoder_scale is 0.0"),
        ({"latent_dim": -1}, "latent_dim is -1"),
        ({"task": (-COV, MAP, np.eye(1))}, "cov_x has the eigenvalue"),
        ({"task": (COV[:2], MAP, np.eye(1))}, "square"),
        ({"task": (COV, MAP[:, :2], np.eye(1))}, "label_map"),
        ({"task": (COV, MAP, np.eye(2))}, "label_cov"),
    ],
)
def test_refusals(change, match):
    with pytest.raises(ValueError, match=match):
        solve(**{"task": THIRD, "lam": 1.0, "gam": 1.0, **change})


def test_grid_dtype_and_jit():
    grid = jnp.array([[0.5, 0.0], [1.3, 0.9], [2.0, 3.0]])
    batch = jax.jit(jax.vmap(lambda tau: solve(THIRD, tau[0], tau[1])))(grid)
    for i, tau in enumerate(grid.tolist()):
        for found, alone in zip(
            jax.tree.leaves(batch), jax.tree.leaves(fast(THIRD, *tau)), strict=True
        ):
            np.testing.assert_allclose(found[i], alone, rtol=1e-10, atol=1e-12)
    with jax.enable_x64(False):
        single = fast(tuple(np.float32(a) for a in THIRD), 1.3, 0.9)
        assert {a.dtype for a in single if hasattr(a, "dtype")} == {
            np.dtype("float32"),
            np.dtype("int32"),
        }
    digits(single.free_energy, 6.5786853176881, 5)
    digits(single.susceptibility, fast(THIRD, 1.3, 0.9).susceptibility, 5)


def log_z(x, y, decoder, classifier, lam, gam, s_x=0.5, s_y=1.0):
    arrays = [np.atleast_1d(a) for a in (x, y)] + [
        np.atleast_2d(a) for a in (decoder, classifier)
    ]
    return gaussian_log_partition(
        *arrays, Multipliers(lam, gam), decoder_scale=s_x, classifier_scale=s_y
    )


def test_partition_function_of_one_code():
    """Worked example 8.7."""
    found = log_z(1.0, 0.2, 1.0, 0.5, 2.0, 1.5)
    digits(found.log_partition, -3.436480457691367, 14)
    digits(found.functionals, [1.0502268415, 0.4732722415, 0.9598060888])
    digits(found.mean, [0.8693333333])
    digits(found.cov, [[0.1066666667]])
    digits(found.relative_variance, 2.316839923, 9)
    digits(1 / (1 + found.relative_variance), 0.30149, 5)


def test_partition_function_against_evidence_and_slopes():
    """lam = gam = 1: log Z is the evidence; -grad log Z = (D, C) everywhere; a batch agrees."""
    rng = np.random.default_rng(5)
    decoder, classifier = rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    found = log_z(x, y, decoder, classifier, 1.0, 1.0)
    both = np.vstack([decoder, classifier])
    cov = both @ both.T + np.diag([0.25] * 4 + [1.0] * 3)
    target = np.hstack([x, y])
    square = np.einsum("bi,ij,bj->b", target, np.linalg.inv(cov), target)
    evidence = -(square + np.linalg.slogdet(cov)[1] + 7 * LOG_2PI) / 2
    np.testing.assert_allclose(found.log_partition, evidence, rtol=1e-12)

    @jax.jit
    def at_and_slopes(tau):
        def height(tau):
            at = log_z(x, y, decoder, classifier, tau[0], tau[1])
            return at.log_partition, at

        return jax.jacobian(height, has_aux=True)(tau)

    slopes, at = at_and_slopes(jnp.array([0.7, 1.8]))
    np.testing.assert_allclose(-slopes.T, at.functionals[1:], rtol=1e-10)
    total = objective(at.functionals, Multipliers(0.7, 1.8))
    np.testing.assert_allclose(total, -at.log_partition, rtol=1e-12)


def test_partition_function_refusals():
    with pytest.raises(ValueError, match="do not fit"):
        log_z(np.ones(2), 0.2, 1.0, 0.5, 2.0, 1.5)
    with pytest.raises(ValueError, match="gam is -1"):
        log_z(1.0, 0.2, 1.0, 0.5, 2.0, -1.0)


def test_a_covariance_that_is_not_finite_is_refused():
    cov = jnp.array([[jnp.nan, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="cov_x has an entry that is not finite"):
        gaussian_equilibrium(
            cov,
            jnp.zeros((1, 2)),
            jnp.eye(1),
            Multipliers(1.0, 1.0),
            decoder_scale=1.0,
            classifier_scale=1.0,
        )
