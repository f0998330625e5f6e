"""Laplace's formula: worked numbers, refusals, and the test it carries with it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thermojax as tj
from thermojax import exact
from thermojax.lanczos import krylov, quadrature, root_inverse, truncated
from thermojax.laplace import Laplace, find_mode, laplace, laplace_log_z
from thermojax.symmetry import Symmetry, with_scope

KEY = jax.random.key(5)


def solve(solved, beta, **options):
    return laplace_log_z(Laplace(**options), solved.system, tj.Point(beta), KEY)


def test_worked_differences_of_a_tanh_unit(x64):
    """Core table row T14: exact - (Laplace + log 2), with the scope turned to the total."""
    solved = exact.tanh_network()
    flip = Symmetry(math.log(2), functools.partial(jax.tree.map, jnp.abs))
    sys = solved.system.replace(symmetry=flip)
    for beta, difference in ((1.0, -0.059), (4.0, -0.023), (30.0, 0.063), (300.0, 0.012)):
        mode = solve(solved, beta)
        total = with_scope(mode, sys, "total", natural="mode")
        left = solved.log_partition(beta) - float(total.value)
        assert abs(left - difference) < 5e-4
        # the error bar holds the truth; at beta = 1 the two modes overlap, and it says so
        assert abs(left) < 2 * mode.stderr
        assert mode.trusted == (beta > 1)
        assert mode.stderr < 0.1 or not mode.trusted
    # P25: total - mode tends to log |G|
    assert abs(solved.log_partition(3e4) - solve(solved, 3e4).value - math.log(2)) < 1e-3


def test_exact_on_a_gaussian_posterior(x64):
    for solved, beta in ((exact.linear_regression(), 0.5), (exact.diabetes(), 1.0)):
        est = solve(solved, beta).require_trusted()
        assert abs(est.value - solved.log_partition(beta)) < 1e-8
        assert est.stderr < 1e-6
        caught = abs(est.value + math.log(2) - solved.log_partition(beta)) > 10 * est.stderr
        assert caught


def test_error_bar_of_a_skewed_posterior(x64):
    solved = exact.logistic_regression()
    est = solve(solved, 1.0)
    off = solved.log_partition(1.0) - est.value
    assert 0.05 < off < 2 * est.stderr < 0.6
    # the importance weights know most of the correction
    assert abs(solved.log_partition(1.0) - est.parts.corrected) < 0.5 * abs(off)


def test_singular_and_crossing_minima_are_refused(x64):
    cases = (
        (exact.normal_crossing(), 10.0),
        (exact.normal_crossing(), 100.0),
        (exact.two_layer_linear(), 100.0),
    )
    for solved, beta in cases:
        est = solve(solved, beta)
        assert est.flags & tj.Flag.SINGULAR
        assert np.isnan(est.value)
        assert np.isinf(est.stderr)
    flat = tj.system(lambda x: 0.5 * x[0] ** 2, like=jnp.zeros(2))
    assert laplace(flat, jnp.zeros(2), tj.Point(1.0)).flags & tj.Flag.SINGULAR


def test_bananas_and_tails_are_not_trusted(x64):
    est = solve(exact.rosenbrock(), 1.0)
    assert est.flags & tj.Flag.HEAVY_TAIL
    for solved in (exact.rank_one(), exact.student()):
        est = solve(solved, 1.0)
        off = abs(est.value - solved.log_partition(1.0))
        assert not est.trusted
        assert not off > 4 * est.stderr


def test_a_slope_is_no_minimum():
    sys = exact.logistic_regression().system
    est = laplace(sys, jnp.asarray([3.0, -2.0]), tj.Point(1.0))
    assert est.flags & tj.Flag.NOT_A_MINIMUM


def test_single_precision_and_pytrees():
    prior = tj.gaussian_prior(1.0)
    like = {"b": jnp.zeros(2), "a": jnp.zeros(())}
    sys = tj.system(
        lambda t: 0.5 * jnp.sum(t["b"] ** 2) + 4 * t["a"] ** 2, prior=prior, like=like
    )
    est = jax.jit(lambda k: laplace_log_z(Laplace(), sys, tj.Point(1.0), k))(KEY)
    assert est.value.dtype == jnp.float32
    assert est.trusted
    assert abs(est.value + 0.5 * (2 * math.log(2) + math.log(9))) < 1e-5
    f = tj.differentiable_log_z(est, sys)
    slope = jax.grad(f)(tj.Point(1.0)).beta
    # -<U> = -(2/2 1/2 + 4/9)
    assert abs(slope + 0.5 + 4 / 9) < 0.05


def test_many_parameters_by_stochastic_lanczos(x64):
    stiff = tuple(np.geomspace(1.0, 30.0, 60))
    solved = exact.harmonic(stiff)
    dense = solve(solved, 1.0)
    lanczos = solve(solved, 1.0, dense_up_to=10, probes=40, lanczos_steps=24)
    assert abs(dense.value - solved.log_partition(1.0)) < 1e-9
    assert 0 < lanczos.within_stderr < 2
    assert abs(lanczos.value - solved.log_partition(1.0)) < 4 * lanczos.stderr
    # the probes are the only error here: draws of the Krylov Gaussian have weight one
    assert abs(lanczos.parts.corrected - lanczos.value) < 1e-3
    np.testing.assert_allclose(lanczos.parts.extremes, (1.0, 30.0), rtol=0.05)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_krylov_identities(seed):
    """With as many steps as dimensions quadrature and root are exact."""
    a = np.random.default_rng(seed).normal(size=(6, 6))
    matrix = jnp.asarray(a @ a.T + np.eye(6), jnp.float32)
    v = jax.random.normal(jax.random.key(seed), (6,))
    space = krylov(lambda x: matrix @ x, v, 6)
    values, vectors = np.linalg.eigh(np.asarray(matrix, float))
    np.testing.assert_allclose(space.ritz, values, rtol=2e-3)
    component = vectors.T @ np.asarray(v, float)
    np.testing.assert_allclose(
        quadrature(space, jnp.log), component**2 @ np.log(values), rtol=2e-3, atol=2e-3
    )
    expected = vectors @ (component / np.sqrt(values))
    np.testing.assert_allclose(root_inverse(space), expected, atol=2e-3)
    short = krylov(lambda x: matrix @ x, v, 4)
    np.testing.assert_allclose(truncated(space, 4).ritz, short.ritz, rtol=2e-3)


def test_krylov_stops_in_an_invariant_subspace():
    space = krylov(lambda x: 3 * x, jnp.ones(8), 5)
    np.testing.assert_allclose(space.ritz, 3.0, rtol=1e-6)
    assert abs(quadrature(space, jnp.log) - 8 * math.log(3)) < 1e-4


def test_the_lowest_of_several_minima(x64):
    solved = exact.double_well(2.0, 1.0, 0.3)
    found = find_mode(solved.system, tj.Point(1.0), KEY, n_starts=12)
    assert found.position[0] < 0
    assert found.decrement < 1e-12
    assert abs(jax.grad(lambda x: solved.system.energy(x[0]))(found.position)[0]) < 1e-7


def test_misuse_is_refused():
    sys = exact.logistic_regression().system
    with pytest.raises(ValueError, match="drop mesh= and checkpoint="):
        laplace_log_z(Laplace(), sys, tj.Point(1.0), KEY, checkpoint=object())
    with pytest.raises(ValueError, match="binary states"):
        laplace_log_z(Laplace(), exact.free_spins().system, tj.Point(1.0), KEY)
    with pytest.raises(ValueError, match="shape of theta is unknown"):
        laplace_log_z(Laplace(), tj.system(lambda x: x**2), tj.Point(1.0), KEY)
    for wrong in ({"probes": 3}, {"n_starts": 0}, {"tolerance": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            Laplace(**wrong)
