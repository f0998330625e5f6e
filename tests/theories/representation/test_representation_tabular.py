"""Equilibrium at given kernels: worked numbers, certificate, bounds and invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermojax.theories.representation.bits import binary_equilibrium, binary_tables
from thermojax.theories.representation.gibbs import (
    energy_terms,
    gibbs_encoder,
    label_posterior,
    log_weights,
    tabular_functionals,
)
from thermojax.theories.representation.marginal import optimal_marginal
from thermojax.theories.representation.quantities import Multipliers, objective
from thermojax.theories.representation.tabular import tabular_equilibrium

NOISE = {"label_noise": 0.1, "decoder_noise": 0.2, "classifier_noise": 0.1}
JOINT = np.array([[6, 1, 1], [4, 2, 1], [1, 5, 2], [1, 4, 3], [2, 1, 6], [1, 2, 5]]) / 48
DECODER = np.exp(-np.abs(np.arange(6)[:, None] - np.array([0, 1.5, 2.5, 4, 5])))
LOG_D = np.log(DECODER / DECODER.sum(0))
CLASSIFIER = np.array([[7, 5, 2, 2, 1], [2, 3, 7, 5, 2], [1, 2, 1, 3, 7]])
LOG_C = np.log(CLASSIFIER / CLASSIFIER.sum(0))
# lam, gam -> F, R, D, C
TABLE = {
    (0.6, 1.5): (2.848727265921856, 0.377649770960, 1.471484784864, 1.058791082696),
    (1.2, 0.8): (2.884135115222320, 0.690304129984, 1.128875620956, 1.048975300114),
    (2.0, 0.0): (2.869213286752374, 0.954088853344, 0.957562216704, 1.048755195021),
    (0.0, 3.0): (3.414927545666332, 0.171127223990, 1.986821327475, 1.081266773892),
    (3.0, 3.0): (6.860327782226415, 1.168938301088, 0.880011394472, 1.017118432574),
}
NUM_CODES = 5


@functools.cache
def _solver():
    """One compiled program for every table of 6 inputs, 3 labels and 5 codes."""
    return jax.jit(tabular_equilibrium)


def _solve(multipliers, joint=JOINT, log_decoder=LOG_D, log_classifier=LOG_C):
    controls = Multipliers(*(jnp.asarray(value) for value in multipliers))
    tables = [jnp.asarray(table) for table in (joint, log_decoder, log_classifier)]
    return _solver()(tables[0], controls, *tables[1:])


def _random(seed, zeros=False):
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.full(18, 0.5)).reshape(6, 3)
    if zeros:
        joint[rng.integers(6)] = 0.0
        joint[:, rng.integers(3)] = 0.0
        joint /= joint.sum()
    scale = rng.choice([0.3, 1.0, 3.0])
    kernels = [scale * rng.normal(size=(rows, NUM_CODES)) for rows in (6, 3)]
    kernels = [kernel - np.log(np.exp(kernel).sum(0)) for kernel in kernels]
    return rng, joint, *kernels, tuple(rng.exponential(2.0, size=2))


def _entropy(p):
    p = p[p > 0]
    return -np.sum(p * np.log(p))


seeds = st.integers(0, 2**31)
few = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("at", TABLE)
def test_five_codes(at, x64):
    found = _solve(at)
    free_energy, *functionals = TABLE[at]
    np.testing.assert_allclose(found.free_energy, free_energy, atol=1e-14)
    np.testing.assert_allclose(found.functionals, functionals, atol=6e-13)
    assert found.converged
    assert -1e-14 < found.gap < 1e-13


def test_marginals_and_codes_that_are_off(x64):
    inner = _solve((1.2, 0.8)).marginal
    exact = [0.213947144, 0.191641382, 0.163163497, 0.215244347, 0.216003630]
    np.testing.assert_allclose(inner, exact, atol=6e-10)
    exact = [0.123485193, 0.371058877, 0, 0.286429128, 0.219026801]
    face = _solve((0.6, 1.5)).marginal
    np.testing.assert_allclose(face, exact, atol=6e-10)
    assert face[2] == 0
    assert [z for z in range(5) if _solve((0.0, 3.0)).marginal[z] == 0] == [0, 2]


def test_one_bit(x64):
    at = Multipliers(1.5, 2.0)
    closed = binary_equilibrium(at, **NOISE)
    numbers = (0.6687214234650428, 0.2282764942488255, 0.3315913910472144)
    np.testing.assert_allclose(closed.functionals, numbers, atol=1e-15)
    np.testing.assert_allclose(closed.free_energy, 1.6743189469327100, atol=1e-15)
    np.testing.assert_allclose(closed.flip_probability, 0.0037026356584682, atol=1e-16)
    chi = [[0.007089422743, 0.008989175360], [0.008989175360, 0.011398004686]]
    np.testing.assert_allclose(closed.chi, chi, atol=6e-13)
    joint, log_decoder, log_classifier = binary_tables(**NOISE)
    found = tabular_equilibrium(joint, at, log_decoder, log_classifier)
    np.testing.assert_allclose(found.free_energy, closed.free_energy, atol=1e-14)
    np.testing.assert_allclose(found.functionals, closed.functionals, atol=1e-13)
    np.testing.assert_allclose(found.encoder[0, 1], closed.flip_probability, atol=1e-13)


def test_bits_broadcast_and_refuse_noise(x64):
    grid = Multipliers(jnp.array([0.5, 1.5]), jnp.array([1.0, 2.0]))
    many, one = (binary_equilibrium(at, **NOISE) for at in (grid, Multipliers(1.5, 2.0)))
    assert many.chi.shape == (2, 2, 2)
    np.testing.assert_array_equal(many.chi[1], one.chi)
    for make in (binary_tables, functools.partial(binary_equilibrium, grid)):
        with pytest.raises(ValueError, match=r"decoder_noise is 0\.6"):
            make(label_noise=0.1, decoder_noise=0.6, classifier_noise=0.1)


def test_two_bits(x64):
    """Independent bits, the label made from the second: functionals add."""
    first, log_a, _ = binary_tables(**NOISE)
    second, log_b, log_c = binary_tables(
        label_noise=0.1, decoder_noise=0.3, classifier_noise=0.1
    )
    joint = jnp.einsum("a,by->aby", first.sum(1), second).reshape(4, 2)
    log_decoder = (log_a[:, None, :, None] + log_b[None, :, None, :]).reshape(4, 4)
    log_classifier = jnp.tile(log_c, (1, 2))
    found = tabular_equilibrium(joint, Multipliers(1.0, 1.0), log_decoder, log_classifier)
    np.testing.assert_allclose(found.free_energy, 1.996757809941204, atol=1e-14)
    exact = (0.635335953230619, 0.915381927523690, 0.446039929186894)
    np.testing.assert_allclose(found.functionals, exact, atol=1e-14)
    np.testing.assert_allclose(found.marginal, 0.25, atol=1e-12)


@few
@given(seed=seeds, zeros=st.booleans())
def test_certificate_and_bounds(seed, zeros):
    with jax.enable_x64(True):
        rng, joint, log_decoder, log_classifier, at = _random(seed, zeros)
        found = _solve(at, joint, log_decoder, log_classifier)
        controls = Multipliers(*at)
        p_x = joint.sum(1)
        size = 1 + abs(float(found.free_energy))
        assert found.converged
        assert -1e-14 < found.gap < 1e-10
        assert abs(found.free_energy - objective(found.functionals, controls)) < 1e-12 * size
        log_z = np.where(p_x > 0, found.log_partition, 0.0)
        assert abs(found.free_energy + p_x @ log_z) < 1e-12 * size
        np.testing.assert_allclose(found.encoder.sum(1), 1.0, atol=1e-12)
        np.testing.assert_allclose(found.marginal, p_x @ found.encoder, atol=1e-10)

        rate, distortion, loss = found.functionals
        label_entropy, input_entropy = _entropy(joint.sum(0)), _entropy(p_x)
        assert rate >= -1e-14
        assert rate + distortion >= input_entropy - 1e-12
        assert rate + loss >= label_entropy - 1e-12
        assert loss >= _entropy(joint) - input_entropy - 1e-12

        p_x, posterior = label_posterior(jnp.asarray(joint))
        terms = energy_terms(posterior, jnp.asarray(log_decoder), jnp.asarray(log_classifier))
        for _ in range(5):
            marginal = jnp.asarray(rng.dirichlet(np.ones(NUM_CODES)))
            encoder = jnp.asarray(rng.dirichlet(np.ones(NUM_CODES), size=6))
            own = tabular_functionals(p_x, terms, encoder, marginal)
            assert objective(own, controls) >= found.free_energy - 1e-12
            _, log_z = gibbs_encoder(log_weights(controls, terms), marginal)
            assert -p_x @ log_z >= found.free_energy - 1e-12


@few
@given(seed=seeds)
def test_invariances(seed):
    with jax.enable_x64(True):
        rng, joint, log_decoder, log_classifier, at = _random(seed)
        lam, gam = at
        found = _solve(at, joint, log_decoder, log_classifier)
        order = rng.permutation(NUM_CODES)
        turned = _solve(at, joint, log_decoder[:, order], log_classifier[:, order])
        np.testing.assert_allclose(turned.free_energy, found.free_energy, rtol=1e-12)
        np.testing.assert_allclose(turned.marginal, found.marginal[order], atol=1e-7)
        shifted = _solve(at, joint, log_decoder + 0.7, log_classifier)
        np.testing.assert_allclose(
            shifted.free_energy, found.free_energy - 0.7 * lam, atol=1e-11
        )
        np.testing.assert_allclose(
            shifted.functionals.distortion, found.functionals.distortion - 0.7, atol=1e-7
        )
        blind = [_solve((lam, 0.0), joint, log_decoder, c).free_energy for c in (LOG_C, -LOG_C)]
        assert blind[0] == blind[1]
        blind = [
            _solve((0.0, gam), joint, d, log_classifier).free_energy for d in (LOG_D, -LOG_D)
        ]
        assert blind[0] == blind[1]


def test_duplicate_codes_share_their_weight(x64):
    at = Multipliers(1.2, 0.8)
    twice = np.array([0, 1, 2, 3, 4, 1, 3])
    found = tabular_equilibrium(JOINT, at, LOG_D[:, twice], LOG_C[:, twice])
    single = _solve(at)
    np.testing.assert_allclose(found.free_energy, single.free_energy, atol=1e-14)
    np.testing.assert_allclose(found.functionals, single.functionals, atol=1e-12)
    np.testing.assert_allclose(found.marginal[1], found.marginal[5], atol=1e-12)
    np.testing.assert_allclose(found.marginal[1] * 2, single.marginal[1], atol=1e-12)
    assert found.converged


def test_code_about_to_switch(x64):
    """Where expectation maximisation needs ten thousand steps."""
    found = _solve((0.89, 0.89))
    assert found.converged
    assert found.num_iter < 40
    p_x, posterior = label_posterior(jnp.asarray(JOINT))
    terms = energy_terms(posterior, jnp.asarray(LOG_D), jnp.asarray(LOG_C))
    weight = np.exp(log_weights(Multipliers(0.89, 0.89), terms))
    marginal = np.full(5, 0.2)
    for _ in range(10_000):
        marginal = marginal * (p_x / (weight @ marginal) @ weight)
    np.testing.assert_allclose(found.marginal, marginal, atol=1e-9)


def test_without_multipliers(x64):
    found = _solve((0.0, 0.0))
    assert found.free_energy == 0
    np.testing.assert_allclose(found.functionals.rate, 0, atol=1e-15)
    np.testing.assert_allclose(found.marginal, 0.2, atol=1e-15)


def test_impossible_inputs_and_labels(x64):
    """-inf where nothing is ever paid, and where a code cannot make an input."""
    joint = np.vstack([JOINT[:5] / JOINT[:5].sum(), np.zeros(3)])
    log_decoder = np.where(np.arange(6)[:, None] == 5, -np.inf, LOG_D)
    log_decoder[0, 4] = -np.inf
    found = _solve((1.2, 0.8), joint, log_decoder)
    inner = tabular_equilibrium(joint[:5], Multipliers(1.2, 0.8), log_decoder[:5], LOG_C)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found.functionals))
    np.testing.assert_allclose(found.free_energy, inner.free_energy, atol=1e-14)
    np.testing.assert_allclose(found.encoder[:5], inner.encoder, atol=1e-12)
    np.testing.assert_allclose(found.encoder.sum(1), 1.0, atol=1e-12)
    assert found.encoder[0, 4] == 0
    unlabelled = joint.copy()
    unlabelled[:, 2] = 0
    log_classifier = np.where(np.arange(3)[:, None] == 2, -np.inf, LOG_C)
    found = _solve((1.2, 0.8), unlabelled / unlabelled.sum(), LOG_D, log_classifier)
    assert np.isfinite(found.free_energy)
    assert found.converged


def test_first_derivatives_of_the_equilibrium(x64):
    """Its fields carry the response of the marginal; a code that is off makes no NaN."""

    def numbers(lam):
        found = tabular_equilibrium(JOINT, Multipliers(lam, 1.5), LOG_D, LOG_C)
        return jnp.concatenate([jnp.stack(found.functionals), found.marginal])

    solve = jax.jit(numbers)
    slope = jax.jit(jax.jacrev(numbers))(0.6)
    np.testing.assert_allclose(slope, (solve(0.6001) - solve(0.5999)) / 2e-4, atol=1e-7)
    np.testing.assert_allclose(slope[1], -0.894288951581, atol=1e-11)


def test_vmap_is_a_loop_and_jit_changes_nothing(x64):
    grid = Multipliers(*map(jnp.array, zip(*TABLE, strict=True)))
    solve = jax.vmap(lambda at: tabular_equilibrium(JOINT, at, LOG_D, LOG_C))
    many = jax.jit(solve)(grid)
    for index, at in enumerate(TABLE):
        one = _solve(at)
        np.testing.assert_allclose(many.free_energy[index], one.free_energy, rtol=1e-14)
        np.testing.assert_allclose(many.marginal[index], one.marginal, atol=1e-12)
    eager = tabular_equilibrium(JOINT, Multipliers(1.2, 0.8), LOG_D, LOG_C)
    np.testing.assert_allclose(eager.encoder, _solve((1.2, 0.8)).encoder, atol=1e-12)


def test_single_precision():
    tables = [jnp.asarray(table, jnp.float32) for table in (JOINT, LOG_D, LOG_C)]
    found = tabular_equilibrium(tables[0], Multipliers(1.2, 0.8), *tables[1:])
    assert {leaf.dtype for leaf in (found.encoder, found.free_energy, found.gap)} == {
        jnp.dtype("float32")
    }
    assert found.converged
    np.testing.assert_allclose(found.free_energy, TABLE[1.2, 0.8][0], rtol=1e-6)
    np.testing.assert_allclose(found.functionals, TABLE[1.2, 0.8][1:], rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_hard_problems(seed):
    """Many more codes than inputs, and weights over hundreds of nats."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        p_x = jnp.asarray(rng.dirichlet(np.full(4, 0.2)))
        log_weight = jnp.asarray(rng.choice([0.01, 1.0, 50.0]) * rng.normal(size=(4, 12)))
        found = _marginal()(log_weight, p_x)
        assert found.gap < 1e-12
        assert found.num_iter < 80


@functools.cache
def _marginal():
    return jax.jit(functools.partial(optimal_marginal, tol=1e-13, max_iter=300))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joint": 2 * JOINT}, "joint sums to 2.0; divide"),
        ({"joint": JOINT - 0.1}, "joint has an entry of -"),
        ({"joint": JOINT[0]}, r"joint has shape \(3,\)"),
        ({"log_decoder": LOG_D[:4]}, r"log_decoder has shape \(4, 5\); give \[6, K\]"),
        ({"log_decoder": LOG_D[:, :0], "log_classifier": LOG_C[:, :0]}, "K = 0 codes"),
        ({"log_classifier": LOG_C[:, :4]}, "5 codes and log_classifier 4"),
        ({"log_classifier": LOG_C * np.nan}, "log_classifier has an entry nan"),
        ({"log_decoder": np.where(np.arange(6) == 3, -np.inf, LOG_D.T).T}, "make input 3"),
        ({"multipliers": Multipliers(-1.0, 0.0)}, "lam is -1.0"),
        ({"multipliers": Multipliers(1.0, np.inf)}, "gam is inf"),
        ({"multipliers": Multipliers(np.ones(2), 1.0)}, r"lam has shape \(2,\); use jax.vmap"),
        ({"num_codes": 5}, "num_codes = 5 or a key was given"),
    ],
)
def test_refusals(change, message, x64):
    arguments = {
        "joint": JOINT,
        "multipliers": Multipliers(1.0, 1.0),
        "log_decoder": LOG_D,
        "log_classifier": LOG_C,
    }
    with pytest.raises(ValueError, match=message):
        tabular_equilibrium(**(arguments | change))
