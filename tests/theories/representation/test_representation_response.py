"""Derivatives of the tabular free energy: worked numbers, every mode, moving tasks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermojax.theories.representation.bits import binary_equilibrium, binary_tables
from thermojax.theories.representation.quantities import Multipliers
from thermojax.theories.representation.response import (
    tabular_free_energy,
    tabular_model,
    tabular_susceptibility,
    tabular_task,
)
from thermojax.theories.representation.tabular import tabular_equilibrium

JOINT = np.array([[6, 1, 1], [4, 2, 1], [1, 5, 2], [1, 4, 3], [2, 1, 6], [1, 2, 5]]) / 48
DECODER = np.exp(-np.abs(np.arange(6)[:, None] - np.array([0, 1.5, 2.5, 4, 5])))
LOG_D = np.log(DECODER / DECODER.sum(0))
CLASSIFIER = np.array([[7, 5, 2, 2, 1], [2, 3, 7, 5, 2], [1, 2, 1, 3, 7]])
LOG_C = np.log(CLASSIFIER / CLASSIFIER.sum(0))
SOURCE = np.array([[6, 1, 1], [5, 1, 1], [1, 5, 1], [1, 4, 1], [1, 1, 2], [1, 1, 1]])
TARGET = np.array([[1, 1, 1], [1, 2, 1], [2, 2, 1], [1, 4, 2], [1, 1, 7], [1, 2, 6]])
SOURCE, TARGET = SOURCE / SOURCE.sum(), TARGET / TARGET.sum()
# lam, gam -> chi_ll, chi_lg, chi_gg
CHI = {
    (0.6, 1.5): (0.894288951581, 0.096213809422, 0.035710144869),
    (1.2, 0.8): (0.386756622610, 0.033861800069, 0.030685548139),
    (2.0, 0.0): (0.152474503791, 0.017100060647, 0.018413809299),
    (0.0, 3.0): (1.239669060221, 0.174221128985, 0.049613121697),
    (3.0, 3.0): (0.055927027033, -0.011371455808, 0.008304768529),
}
seeds = st.integers(0, 2**31)


def _free(point, joint=JOINT, log_decoder=LOG_D, log_classifier=LOG_C):
    return tabular_free_energy(Multipliers(*point), joint, log_decoder, log_classifier)


@functools.cache
def _modes():
    """Hessians by every nesting of the two modes, and the value with its gradient."""
    nested = {
        "hessian": jax.hessian,
        "forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
        "reverse": lambda f: jax.jacrev(jax.jacrev(f)),
    }
    return {name: jax.jit(jax.vmap(mode(_free))) for name, mode in nested.items()}


@functools.cache
def _first():
    return jax.jit(jax.value_and_grad(_free, argnums=(0, 1, 2, 3)))


@functools.cache
def _response():
    def both(point, joint, log_decoder, log_classifier):
        at = Multipliers(*point)
        found = tabular_equilibrium(joint, at, log_decoder, log_classifier)
        return found, *tabular_susceptibility(found, joint, at)

    return jax.jit(both)


@functools.cache
def _task():
    def at(point, source, target, log_decoder, log_classifier):
        return tabular_task(source, target, log_decoder, log_classifier)(
            Multipliers(point[0], point[1]), point[2]
        )

    return jax.jit(at)


def _move(point, source=SOURCE, target=TARGET, log_decoder=LOG_D, log_classifier=LOG_C):
    arrays = (point, source, target, log_decoder, log_classifier)
    return _task()(*(jnp.asarray(array, float) for array in arrays))


def _respond(point, joint=JOINT, log_decoder=LOG_D, log_classifier=LOG_C):
    arrays = (point, joint, log_decoder, log_classifier)
    return _response()(*(jnp.asarray(array, float) for array in arrays))


def _random(seed):
    rng = np.random.default_rng(seed)
    joints = rng.dirichlet(np.ones(18), size=2).reshape(2, 6, 3)
    kernels = [rng.normal(size=(rows, 5)) for rows in (6, 3)]
    kernels = [kernel - np.log(np.exp(kernel).sum(0)) for kernel in kernels]
    return rng, joints, kernels, rng.uniform(0.3, 3.0, size=2)


def _matrix(chi):
    return np.array([[chi[0], chi[1]], [chi[1], chi[2]]])


@pytest.mark.parametrize("mode", ["hessian", "forward", "reverse"])
def test_second_derivatives_in_every_mode(mode, x64):
    found = _modes()[mode](jnp.array(list(CHI)))
    exact = [_matrix(chi) for chi in CHI.values()]
    np.testing.assert_allclose(-found, exact, atol=6e-13)


def test_nested_hessian_of_multipliers(x64):
    """As the caller writes it, without jit."""
    found = jax.hessian(tabular_free_energy)(Multipliers(3.0, 3.0), JOINT, LOG_D, LOG_C)
    np.testing.assert_allclose(-np.array(found), _matrix(CHI[3.0, 3.0]), atol=6e-13)


@pytest.mark.parametrize("at", CHI)
def test_susceptibility(at, x64):
    _, chi, fluctuation = _respond(at)
    np.testing.assert_allclose(chi, _matrix(CHI[at]), atol=6e-13)
    assert np.linalg.eigvalsh(chi - fluctuation).min() > -1e-12
    if at == (1.2, 0.8):
        exact = _matrix((0.345309353365, 0.039288043868, 0.025603470716))
        np.testing.assert_allclose(fluctuation, exact, atol=6e-13)


def test_independent_bits(x64):
    noise = {"label_noise": 0.1, "decoder_noise": 0.2, "classifier_noise": 0.1}
    first, log_a, _ = binary_tables(**noise)
    second, log_b, log_c = binary_tables(**(noise | {"decoder_noise": 0.3}))
    joint = jnp.einsum("a,by->aby", first.sum(1), second).reshape(4, 2)
    log_decoder = (log_a[:, None, :, None] + log_b[None, :, None, :]).reshape(4, 4)
    found, chi, _ = _respond((1.0, 1.0), joint, log_decoder, jnp.tile(log_c, (1, 2)))
    exact = _matrix((0.353491836164, 0.095434227752, 0.197985091704))
    np.testing.assert_allclose(chi, exact, atol=6e-13)
    assert found.converged
    one = binary_equilibrium(Multipliers(1.5, 2.0), **noise)
    _, chi, _ = _respond((1.5, 2.0), first, log_a, log_c)
    np.testing.assert_allclose(chi, one.chi, atol=1e-13)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_gradients_against_differences(seed):
    """In the multipliers, and along a direction of each table, where no code switches."""
    with jax.enable_x64(True):
        rng, (joint, other), kernels, at = _random(seed)
        point = [jnp.asarray(at), *map(jnp.asarray, (joint, *kernels))]
        steps = [
            rng.normal(size=2),
            other - joint,
            *(rng.normal(size=k.shape) for k in kernels),
        ]
        _, slopes = _first()(*point)
        width = 1e-5
        for place, step in enumerate(steps):
            ends, codes = [], []
            for sign in (-1, 1):
                there = list(point)
                there[place] = point[place] + sign * width * step
                ends.append(_first()(*there)[0])
                codes.append(_respond(there[0], *there[1:])[0].marginal > 0)
            if np.array_equal(*codes):
                difference = (ends[1] - ends[0]) / (2 * width)
                np.testing.assert_allclose(np.vdot(slopes[place], step), difference, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_response_against_differences(seed):
    with jax.enable_x64(True):
        _, (joint, _), kernels, at = _random(seed)
        _, chi, fluctuation = _respond(at, joint, *kernels)
        assert np.linalg.eigvalsh(chi).min() > -1e-12
        assert np.linalg.eigvalsh(chi - fluctuation).min() > -1e-12
        np.testing.assert_allclose(chi, chi.T, atol=1e-12)
        width = 1e-5
        for place in range(2):
            step = width * np.eye(2)[place]
            ends = [_respond(at + sign * step, joint, *kernels)[0] for sign in (-1, 1)]
            if np.array_equal(ends[0].marginal > 0, ends[1].marginal > 0):
                moved = [np.array(end.functionals[1:]) for end in ends]
                slope = (moved[1] - moved[0]) / (2 * width)
                np.testing.assert_allclose(
                    -chi[place], slope, atol=1e-6 * (1 + abs(slope).max())
                )


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_concave_and_monotone(seed):
    with jax.enable_x64(True):
        rng, (joint, _), kernels, start = _random(seed)
        end = rng.uniform(0.0, 3.0, size=2)
        where = (start, end, (start + end) / 2, (max(start[0], end[0]), start[1]))
        a, b, middle, more = (_respond(at, joint, *kernels)[0] for at in where)
        assert middle.free_energy >= (a.free_energy + b.free_energy) / 2 - 1e-13
        assert more.free_energy >= a.free_energy - 1e-13
        assert more.functionals.distortion <= a.functionals.distortion + 1e-12


def test_derivatives_in_the_tables(x64):
    """Envelope: dF/dlog d = -lam p e; a unit of mass at fixed p(y | x) costs -log Z."""
    _, (_, by_joint, by_decoder, by_classifier) = _first()(
        jnp.array([1.2, 0.8]), *map(jnp.asarray, (JOINT, LOG_D, LOG_C))
    )
    found, _, _ = _respond((1.2, 0.8))
    p_x = JOINT.sum(1, keepdims=True)
    np.testing.assert_allclose(by_decoder, -1.2 * p_x * found.encoder, atol=1e-13)
    np.testing.assert_allclose(by_classifier, -0.8 * JOINT.T @ found.encoder, atol=1e-13)
    per_mass = np.sum(JOINT / p_x * by_joint, axis=1)
    np.testing.assert_allclose(per_mass, -found.log_partition, atol=1e-13)


def test_third_derivatives(x64):
    """chi of a model can be differentiated once more."""
    model = tabular_model(JOINT, LOG_D, LOG_C)
    chi = jax.jit(lambda lam: model(Multipliers(lam, 0.8))[2])
    slope = jax.jit(jax.jacfwd(lambda lam: model(Multipliers(lam, 0.8))[2]))(1.2)
    np.testing.assert_allclose(slope, (chi(1.2001) - chi(1.1999)) / 2e-4, atol=1e-6)


def test_model(x64):
    model = jax.jit(jax.vmap(tabular_model(JOINT, LOG_D, LOG_C)))
    free_energy, functionals, chi = model(Multipliers(*jnp.array(list(CHI)).T))
    np.testing.assert_allclose(chi, [_matrix(exact) for exact in CHI.values()], atol=6e-13)
    for index, at in enumerate(CHI):
        found, _, _ = _respond(at)
        np.testing.assert_allclose(free_energy[index], found.free_energy, rtol=1e-14)
        np.testing.assert_allclose(
            [value[index] for value in functionals], found.functionals, atol=1e-12
        )


def test_duplicate_codes(x64):
    """H is singular: the solution of least norm gives the response of single codes."""
    twice = np.array([0, 1, 2, 3, 4, 1, 3])
    at = Multipliers(1.2, 0.8)
    model = jax.jit(tabular_model(JOINT, LOG_D[:, twice], LOG_C[:, twice]))
    np.testing.assert_allclose(model(at)[2], _matrix(CHI[1.2, 0.8]), atol=1e-11)
    _, chi, _ = _respond((1.2, 0.8), JOINT, LOG_D[:, twice], LOG_C[:, twice])
    np.testing.assert_allclose(chi, _matrix(CHI[1.2, 0.8]), atol=1e-11)


def test_switching_code_leaves_the_force_continuous(x64):
    """chi jumps near lam = gam = 0.88233, U does not."""
    below, above = (_respond((at, at)) for at in (0.88232, 0.88234))
    assert below[0].marginal[2] == 0
    assert above[0].marginal[2] > 0
    np.testing.assert_allclose(below[0].functionals, above[0].functionals, atol=1e-4)
    assert above[1][0, 0] - below[1][0, 0] > 1e-2


def test_finite_without_multipliers_and_at_impossible_inputs(x64):
    joint = JOINT.copy()
    joint[5] = 0
    log_decoder = LOG_D.copy()
    log_decoder[5] = -np.inf
    arrays = (joint / joint.sum(), log_decoder, LOG_C)
    for at in ((0.0, 0.0), (0.6, 1.5)):
        value, slopes = _first()(jnp.array(at), *map(jnp.asarray, arrays))
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(slope)) for slope in slopes[2:])
        assert np.all(np.isfinite(slopes[0]))
        assert np.all(np.isfinite(_respond(at, *arrays)[1]))


def test_moving_task(x64):
    found = _move((1.0, 1.0, 0.5))
    # 0.0439308572 by central differences of F in t, to the tenth digit
    np.testing.assert_allclose(found.task_force, 0.0439308575, atol=4e-10)
    np.testing.assert_allclose(-found.chi[1, 2], 0.0550498, atol=6e-8)
    start = _move((1.0, 0.3, 0.0))
    exact = (0.46696462, 1.27918710, 1.019781765552)
    np.testing.assert_allclose(start.functionals, exact, atol=6e-9)
    end = _move((1.0, 1.45107830, 1.0))
    exact = (0.47377909, 1.31500572, 1.019781765552)
    np.testing.assert_allclose(end.functionals, exact, atol=1e-8)


def test_task_makes_the_response_indefinite(x64):
    """One code on: nothing fluctuates, and chi has eigenvalues +-0.646361 and 0."""
    chi = _move((0.03, 0.03, 0.5)).chi
    exact = np.zeros((3, 3))
    exact[0, 2] = exact[2, 0] = -0.600772
    exact[1, 2] = exact[2, 1] = -0.238443
    np.testing.assert_allclose(chi, exact, atol=6e-7)
    np.testing.assert_allclose(np.linalg.eigvalsh(chi), [-0.646361, 0, 0.646361], atol=6e-7)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_task_against_differences(seed):
    """Force, drifts and Maxwell relations; the ends of the path are source and target."""
    with jax.enable_x64(True):
        rng, joints, kernels, at = _random(seed)
        point = np.array([*at, rng.uniform(0.1, 0.9)])
        found = _move(point, *joints, *kernels)
        np.testing.assert_allclose(found.chi, found.chi.T, atol=1e-12)
        width = 1e-5
        for place in range(3):
            step = width * np.eye(3)[place]
            low, high = (_move(point + sign * step, *joints, *kernels) for sign in (-1, 1))
            slope = (high.free_energy - low.free_energy) / (2 * width)
            force = (*found.functionals[1:], found.task_force)
            np.testing.assert_allclose(force[place], slope, atol=1e-6)
            ends = [np.array([*x.functionals[1:], x.task_force]) for x in (low, high)]
            bend = (ends[1] - ends[0]) / (2 * width)
            if abs(low.chi - high.chi).max() < 1e-2:
                np.testing.assert_allclose(-found.chi[place], bend, atol=1e-5)
        for t, joint in zip((0.0, 1.0), joints, strict=True):
            still, chi, _ = _respond(at, joint, *kernels)
            end = _move((*at, t), *joints, *kernels)
            np.testing.assert_allclose(end.free_energy, still.free_energy, atol=1e-13)
            np.testing.assert_allclose(end.chi[:2, :2], chi, atol=1e-9)


def test_input_that_only_the_target_has(x64):
    """At t = 0 its labels are those that it will have."""
    source = SOURCE.copy()
    source[5] = 0
    source /= source.sum()
    at = (1.0, 1.0)
    start = _move((*at, 0.0), source)
    width = 1e-6
    later = _move((*at, width), source)
    slope = (later.free_energy - start.free_energy) / width
    np.testing.assert_allclose(start.task_force, slope, atol=1e-5)
    np.testing.assert_allclose(start.chi, later.chi, atol=1e-4)


def test_refusals(x64):
    with pytest.raises(ValueError, match=r"joint sums to 2\.0"):
        tabular_free_energy(Multipliers(1.0, 1.0), 2 * JOINT, LOG_D, LOG_C)
    with pytest.raises(ValueError, match=r"gam is -1\.0"):
        tabular_model(JOINT, LOG_D, LOG_C)(Multipliers(1.0, -1.0))
    with pytest.raises(ValueError, match=r"joint_target \(5, 3\)"):
        tabular_task(SOURCE, TARGET[:5] / TARGET[:5].sum(), LOG_D, LOG_C)
    with pytest.raises(ValueError, match=r"t is 1\.5"):
        tabular_task(SOURCE, TARGET, LOG_D, LOG_C)(Multipliers(1.0, 1.0), 1.5)
