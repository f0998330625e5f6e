"""Codebooks of digits: onset, stationarity, exact response, an iso-classification process."""

from functools import cache

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from thermojax.theories.representation.codebook import codebook_equilibrium, codebook_model
from thermojax.theories.representation.ledger import first_law_residual
from thermojax.theories.representation.onset import label_weights
from thermojax.theories.representation.process import iso_process
from thermojax.theories.representation.quantities import Multipliers, objective

pytestmark = pytest.mark.usefixtures("x64")
SCALE, START = 0.3, Multipliers(0.5, 1.0)


@cache
def pixels():
    digits = load_digits()
    return digits.data / 16, digits.target


@cache
def few():
    x, y = pixels()
    return x[:120], np.array(label_weights(y[:120], 120))


@cache
def small():
    """Five codes of 120 digits: one shape for most tests."""
    return codebook_equilibrium(
        *few(),
        START,
        decoder_scale=SCALE,
        num_codes=5,
        num_restarts=4,
        key=jax.random.key(0),
    )


@cache
def model():
    return codebook_model(*few(), SCALE, small())


@pytest.mark.parametrize(
    ("lam", "gam", "rate"),
    [(0.12, 0.0, 0.0), (0.14, 0.0, 0.1425), (0.05, 0.65, 0.0), (0.05, 0.70, 0.1494)],
)
def test_onset_on_all_digits(lam, gam, rate):
    """Worked example 8.9: four codes from near the trivial state, both sides of 1."""
    x, y = pixels()
    found = codebook_equilibrium(
        x,
        jnp.asarray(y),
        Multipliers(lam, gam),
        decoder_scale=SCALE,
        num_codes=4,
        num_restarts=1,
        key=jax.random.key(0),
    )
    assert found.converged
    np.testing.assert_allclose(found.functionals.rate, rate, rtol=0, atol=6e-5)
    if rate == 0:
        np.testing.assert_allclose(found.centres, np.tile(x.mean(0), (4, 1)), atol=1e-5)


def test_stationary_point():
    """Every parameter is the conditional mean of the encoder; F = R + lam D + gam C."""
    found, (x, label) = small(), few()
    assert found.converged
    e, m = np.array(found.encoder), np.array(found.marginal)
    np.testing.assert_allclose(e.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(e.mean(0), m, atol=1e-12)
    np.testing.assert_allclose(e.T @ x / 120 / m[:, None], found.centres, atol=1e-11)
    np.testing.assert_allclose(
        label.T @ e / 120 / m, np.exp(found.log_classifier), rtol=0, atol=1e-11
    )
    total = objective(found.functionals, START)
    np.testing.assert_allclose(found.free_energy, total, rtol=1e-12)
    np.testing.assert_allclose(found.free_energy, -found.log_partition.mean(), rtol=1e-13)
    rate, _, classification = found.functionals
    square = ((x[:, None] - found.centres) ** 2).sum(2) / (2 * SCALE**2)
    np.testing.assert_allclose(found.functionals.distortion, (e * square).sum() / 120)
    safe = np.where(e > 0, e, 1)
    np.testing.assert_allclose(rate, (e * np.log(safe / m)).sum() / 120, rtol=1e-9)
    prior = label.mean(0)
    assert rate + classification >= -np.sum(prior * np.log(prior))
    assert abs(found.gap) < 1e-12


def test_response_against_differences():
    """chi = -dU/dtau and U = dF/dtau along the branch; chi is symmetric and positive."""
    _, _, chi = model()(START)
    step = 1e-5
    for k, shift in enumerate(step * np.eye(2)):
        ends = [model()(Multipliers(*(START + s * shift))) for s in (1, -1)]
        change = np.subtract(*(np.array(end[1][1:]) for end in ends)) / (2 * step)
        np.testing.assert_allclose(-change, chi[k], rtol=2e-6, atol=1e-8)
        rise = (ends[0][0] - ends[1][0]) / (2 * step)
        np.testing.assert_allclose(rise, small().functionals[1 + k], rtol=1e-8)
    assert np.linalg.eigvalsh(chi).min() > 0
    np.testing.assert_array_equal(chi, chi.T)


def test_response_against_the_dense_hessian():
    """chi = E Cov(u) + b^T A^{-1} b with A of 380 parameters from `jax.hessian` (2.4, 2.5)."""
    found, (x, label) = small(), few()
    psi = (jnp.log(found.marginal), found.centres, found.log_classifier.T)
    flat, unflatten = jax.flatten_util.ravel_pytree(psi)

    def height(flat, tau):
        log_m, centres, log_c = unflatten(flat)
        u_d = jnp.sum((x[:, None] - centres) ** 2, 2) / (2 * SCALE**2)
        u_c = -label @ jax.nn.log_softmax(log_c, axis=1).T
        logits = jax.nn.log_softmax(log_m) - tau[0] * u_d - tau[1] * u_c
        return -jnp.mean(jax.nn.logsumexp(logits, axis=1))

    @jax.jit
    def dense(tau):
        slope = jax.grad(height)
        b = jax.jacfwd(slope, 1)(flat, tau)
        relaxed = b.T @ jnp.linalg.pinv(jax.hessian(height)(flat, tau), rtol=1e-13) @ b
        return relaxed - jax.hessian(height, 1)(flat, tau)

    np.testing.assert_allclose(model()(START)[2], dense(jnp.array(START)), rtol=1e-6)


def test_iso_classification_process():
    """C held to 1e-6, the first law to 1e-4; R and D trade exactly (3.2, E3 in small)."""
    path = iso_process(model(), START, 0.4, num_points=9)
    assert path.status == "reached"
    np.testing.assert_allclose(path.classification, path.classification[0], rtol=1e-6)
    assert np.max(first_law_residual(path)) < 1e-4
    assert np.all(np.array(path.dissipated_work) >= -1e-12)
    assert path.rate[-1] < path.rate[0]
    assert path.distortion[-1] > path.distortion[0]
    assert path.gam[-1] != START.gam


def with_a_sixth(share):
    """The small codebook with its first code written twice, in the given proportions."""
    found, order = small(), np.array([0, 0, 1, 2, 3, 4])
    spare = found._replace(
        marginal=found.marginal[order] * np.array([*share, 1, 1, 1, 1]),
        centres=found.centres[order],
        log_classifier=found.log_classifier[:, order],
    )
    return codebook_model(*few(), SCALE, spare)(START)


def test_dead_code_changes_nothing():
    for one, other in zip(
        jax.tree.leaves(with_a_sixth((1, 0))), jax.tree.leaves(model()(START)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_saddle_is_left():
    """Two equal halves of a code are stationary, but they gain by parting."""
    free_energy, _, chi = with_a_sixth((0.5, 0.5))
    assert free_energy < small().free_energy - 0.1
    assert np.all(np.isfinite(chi))


def test_without_one_of_the_losses():
    """gam = 0 does not see the labels, lam = 0 not the inputs; the other mean still fits."""
    for controls in (Multipliers(0.5, 0.0), Multipliers(0.0, 3.0)):
        free_energy, functionals, chi = model()(controls)
        np.testing.assert_allclose(free_energy, objective(functionals, controls), rtol=1e-12)
        assert np.all(np.isfinite(chi))
        assert np.linalg.eigvalsh(chi).min() > -1e-9


@pytest.mark.nightly
def test_jit_and_grid():
    grid = jnp.array([[0.5, 1.0], [0.48, 0.97]])
    together = jax.jit(jax.vmap(lambda tau: model()(Multipliers(*tau))))(grid)
    for i, tau in enumerate(grid):
        alone = model()(Multipliers(*tau))
        for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(one[i], other, rtol=1e-9)


def test_single_precision():
    with jax.enable_x64(False):
        x, label = (np.float32(a) for a in few())
        found = codebook_equilibrium(
            x, label, START, decoder_scale=SCALE, init_centres=np.float32(small().centres)
        )
        assert found.free_energy.dtype == np.float32
        assert found.converged
    np.testing.assert_allclose(found.free_energy, small().free_energy, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_codes": 0}, "num_codes is 0"),
        ({"num_codes": None}, "num_codes is None"),
        ({"num_restarts": 0}, "num_restarts is 0"),
        ({"decoder_scale": 0.0}, "decoder_scale is 0.0"),
        ({"multipliers": Multipliers(-0.5, 1.0)}, "lam is -0.5"),
        ({"x": np.ones(3)}, "shape \\(3,\\)"),
        ({"y": np.array([0.5, 1.0])}, "whole numbers"),
        ({"init_centres": np.ones((2, 3))}, "the centres have shape"),
        ({"init_centres": np.ones((3, 2))}, "num_codes is 2 beside 3"),
    ],
)
def test_refusals(change, match):
    arguments = {
        "x": np.eye(2),
        "y": np.array([0, 1]),
        "multipliers": START,
        "decoder_scale": SCALE,
        "num_codes": 2,
        **change,
    }
    with pytest.raises(ValueError, match=match):
        codebook_equilibrium(**arguments)


def test_model_of_another_task_is_refused():
    x, label = few()
    with pytest.raises(ValueError, match="classifier of start"):
        codebook_model(x, label[:, :1] * 0 + 1, SCALE, small())
    with pytest.raises(ValueError, match="the centres have shape"):
        codebook_model(x[:, :3], label, SCALE, small())


def test_examples_that_are_not_finite_are_named():
    x = jnp.array([[0.0, 1.0], [jnp.nan, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"x\[1\] is not finite"):
        codebook_equilibrium(
            x,
            jnp.array([0, 1, 1]),
            Multipliers(1.0, 1.0),
            decoder_scale=0.3,
            num_codes=2,
            key=jax.random.key(0),
        )
