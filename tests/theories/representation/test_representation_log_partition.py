"""log Z of codes against the linear-Gaussian closed form: values, errors, order, refusals."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax.theories.representation.latent import latent_forces, latent_system
from thermojax.theories.representation.log_partition import (
    encoder_gap,
    gibbs_code,
    log_partition,
)
from thermojax.theories.representation.neural import functionals
from thermojax.theories.representation.quantities import Batch, Model, Multipliers, objective

LOG_2PI = math.log(2 * math.pi)
ENDS = (-3.0, 3.0)
TAU = Multipliers(2.0, 1.5)


class Params(NamedTuple):
    """x | z ~ N(V z, s_x^2), y | z ~ N(U z, s_y^2), encoder N(shift + gain x, exp(log_var))."""

    V: jax.Array
    U: jax.Array
    s_x: jax.Array
    s_y: jax.Array
    gain: jax.Array
    shift: jax.Array
    log_var: jax.Array


def _normal(square, scale, n):
    return -0.5 * square / scale**2 - 0.5 * n * (LOG_2PI + 2 * jnp.log(scale))


def _log_classifier(p, z):
    # two ends of the label's line: weights that average to y give log N(y; U z) less a constant
    at = (z @ p.U.T)[..., 0]
    return jnp.stack([_normal((end - at) ** 2, p.s_y, 1) for end in ENDS], axis=-1)


def _log_decoder(p, x, z):
    return _normal(jnp.sum((x - z @ p.V.T) ** 2, axis=-1), p.s_x, x.shape[-1])


MODEL = Model(
    encode=lambda p, x: (
        p.shift + x @ p.gain.T,
        jnp.broadcast_to(p.log_var, (x.shape[0], p.log_var.shape[0])),
    ),
    log_decoder=_log_decoder,
    log_classifier=_log_classifier,
)


def label_weights(y):
    """Weights of the two ends whose mean is y, and the constant by which log Z moves."""
    right = (y - ENDS[0]) / (ENDS[1] - ENDS[0])
    variance = (y - ENDS[0]) * (ENDS[1] - y)
    return jnp.stack([1 - right, right], axis=-1), variance


def gibbs(p, x, y, tau):
    """log Z and the Gibbs code N(mean, cov) of one example; lam and gam may be traced."""
    lam, gam = tau
    n, d = p.V.shape
    precision = jnp.eye(d) + lam * p.V.T @ p.V / p.s_x**2 + gam * p.U.T @ p.U / p.s_y**2
    pull = lam * p.V.T @ x / p.s_x**2 + gam * p.U[0] * y / p.s_y**2
    cov = jnp.linalg.inv(precision)
    log_z = -0.5 * lam * (n * (LOG_2PI + 2 * jnp.log(p.s_x)) + x @ x / p.s_x**2)
    log_z -= 0.5 * gam * (LOG_2PI + 2 * jnp.log(p.s_y) + y**2 / p.s_y**2)
    log_z += 0.5 * pull @ cov @ pull - 0.5 * jnp.linalg.slogdet(precision)[1]
    return log_z, cov @ pull, cov


def exact_log_z(p, x, y, tau):
    """log Z of one example with its label as weights of the two ends."""
    return gibbs(p, x, y, tau)[0] - tau.gam * label_weights(y)[1] / (2 * p.s_y**2)


def one_dimensional(**changes):
    """The worked example; its encoder is the Gibbs code unless changed."""
    base = {
        "V": jnp.ones((1, 1)),
        "U": jnp.full((1, 1), 0.5),
        "s_x": jnp.asarray(0.5),
        "s_y": jnp.asarray(1.0),
        "gain": jnp.zeros((1, 1)),
        "shift": jnp.full(1, 0.8693333333333333),
        "log_var": jnp.full(1, math.log(0.10666666666666667)),
    }
    return Params(**{**base, **changes})


@functools.partial(jax.jit, static_argnames="num_samples")
def estimate(p, batch, tau, key, num_samples):
    return log_partition(MODEL, p, batch, tau, key, num_samples=num_samples)


@jax.jit
def exact_response(p):
    """Minus the slope of log Z in (lam, gam), and its Hessian, of the worked example."""
    fn = lambda tau: exact_log_z(p, jnp.ones(1), jnp.asarray(0.2), Multipliers(*tau))
    tau = jnp.stack([jnp.asarray(v, p.V.dtype) for v in TAU])
    return -jax.grad(fn)(tau), jax.hessian(fn)(tau)


PRIOR = {"shift": jnp.zeros(1), "log_var": jnp.zeros(1)}
WIDE = {"shift": jnp.full(1, 0.8), "log_var": jnp.full(1, math.log(0.2))}

WIDE_GAP = 0.5 * (
    (0.2 + (0.8 - 0.8693333333) ** 2) / 0.10666666667 - 1 - math.log(0.2 / 0.10666666667)
)
LEARNED = MODEL._replace(log_marginal=lambda p, z: -0.5 * jnp.sum(z**2 + LOG_2PI, -1))


def copies(size, x=1.0, y=0.2, dtype=jnp.float32):
    """A batch of one example over and over: independent estimates of one log Z."""
    weights = label_weights(jnp.full(size, y, dtype))[0].astype(dtype)
    return Batch(jnp.full((size, 1), x, dtype), weights)


@functools.partial(jax.jit, static_argnames="size")
def random_problem(key, size=8):
    """Three inputs and a code of two; an encoder that is the Gibbs code, widened."""
    keys = jax.random.split(key, 4)
    v, u = jax.random.normal(keys[0], (3, 2)), jax.random.normal(keys[1], (1, 2))
    s_x, s_y = jnp.asarray(0.8), jnp.asarray(0.7)
    x = jax.random.normal(keys[2], (size, 3))
    y = 0.5 * jax.random.normal(keys[3], (size,))
    lam, gam = TAU
    cov = jnp.linalg.inv(jnp.eye(2) + lam * v.T @ v / s_x**2 + gam * u.T @ u / s_y**2)
    gain = lam * cov @ v.T / s_x**2
    # the widest direction everywhere: proposals must cover the correlated code
    log_var = jnp.full(2, jnp.log(1.5 * jnp.max(jnp.linalg.eigvalsh(cov))))
    p = Params(v, u, s_x, s_y, gain, jnp.zeros(2), log_var)
    return (
        p,
        Batch(x, label_weights(y)[0]),
        jax.vmap(lambda x, y: exact_log_z(p, x, y, TAU))(x, y),
    )


@pytest.fixture(scope="module")
def annealed():
    """Annealed estimates from the prior of 100 examples of two random decoders, one program."""
    settings = {"num_samples": 64, "method": "annealed", "num_temps": 16}
    with jax.enable_x64(False):
        fn = jax.jit(lambda p, b, key: log_partition(MODEL, p, b, TAU, key, **settings))
        found, exact = [], []
        for seed in (0, 1):
            p, batch, log_z = random_problem(jax.random.key(seed), 100)
            found.append(fn(p, batch, jax.random.key(30 + seed)))
            exact.append(np.asarray(log_z))
        return jax.tree.map(lambda *a: np.concatenate(a), *found), np.concatenate(exact)


def worked():
    return float(exact_log_z(one_dimensional(), jnp.ones(1), jnp.asarray(0.2), TAU))


def test_the_worked_example(x64):
    p = one_dimensional()
    log_z, mean, cov = gibbs(p, jnp.ones(1), jnp.asarray(0.2), TAU)
    assert abs(float(log_z) + 3.436480457691367) < 1e-14
    np.testing.assert_allclose([mean[0], cov[0, 0]], [0.8693333333, 0.1066666667], atol=1e-10)
    batch = copies(4, dtype=jnp.float64)
    key = jax.random.key(0)
    # the encoder is the Gibbs code: every weight is Z, and the gap is 0
    est = estimate(p, batch, TAU, key, 16)
    np.testing.assert_allclose(est.log_z, worked(), atol=1e-12)
    np.testing.assert_allclose(est.ess, 16, rtol=1e-12)
    np.testing.assert_allclose(est.stderr, 0, atol=1e-12)
    gap = encoder_gap(MODEL, p, batch, TAU, key, num_samples=16)
    np.testing.assert_allclose(gap.value, 0, atol=1e-12)
    batch = copies(64, dtype=jnp.float64)
    f = jax.jit(lambda p: functionals(MODEL, p, batch, key, num_samples=1000))(p)
    shift = label_weights(0.2)[1] / 2
    assert abs(float(f.rate[0]) - 1.0502268415) < 1e-9
    check(f.distortion, 0.4732722415)
    check(f.classification, 0.9598060888 + shift)


def test_prior_proposals_keep_the_known_share_of_samples(x64):
    p = one_dimensional(**PRIOR)
    est = estimate(p, copies(1, dtype=jnp.float64), TAU, jax.random.key(1), 400_000)
    assert abs(float(est.ess[0]) / 400_000 - 0.3014916) < 0.003
    check(est.log_z, worked(), est.stderr)
    # the relative variance of one weight is that of the closed form
    x, y = jnp.ones(1), jnp.asarray(0.2)
    double = gibbs(p, x, y, Multipliers(4.0, 3.0))[0] - 2 * gibbs(p, x, y, TAU)[0]
    assert abs(math.expm1(float(double)) - 2.316839923) < 1e-9
    assert abs(float(est.stderr[0]) - math.sqrt(2.316839923 / 400_000)) < 1e-4


@pytest.mark.parametrize("seed", [0, 1])
def test_importance_sampling_on_random_decoders(seed):
    p, batch, exact = random_problem(jax.random.key(seed))
    est = estimate(p, batch, TAU, jax.random.key(10 + seed), 4096)
    fine = est.flags == 0
    assert int(fine.sum()) >= 6
    check(est.log_z[fine], exact[fine], est.stderr[fine], limit=4.0)


def test_annealing_on_random_decoders(annealed):
    est, exact = annealed
    assert np.mean(est.flags == 0) > 0.75
    fine = est.flags == 0
    check(est.log_z[fine], exact[fine], est.stderr[fine], limit=4.0)


def coverage(z):
    return np.mean(np.abs(z) < 1), np.mean(np.abs(z) < 2)


@pytest.mark.parametrize("proposal", [WIDE, PRIOR])
def test_errors_of_importance_sampling_cover(proposal):
    est = estimate(one_dimensional(**proposal), copies(200), TAU, jax.random.key(2), 512)
    one, two = coverage((np.asarray(est.log_z) - worked()) / np.asarray(est.stderr))
    assert 0.584 <= one <= 0.781
    assert 0.910 <= two <= 0.998


def test_errors_of_annealing_cover(annealed):
    est, exact = annealed
    one, two = coverage((est.log_z - exact) / est.stderr)
    assert 0.584 <= one <= 0.781
    assert 0.910 <= two <= 0.998


def test_annealed_weights_are_unbiased(annealed):
    est, exact = annealed
    ratio = np.exp(est.log_z.astype(np.float64) - exact)
    check(ratio, 1.0)
    caught(1.2 * ratio, 1.0)


def test_more_samples_climb_the_ladder_from_minus_j_to_g():
    p, batch, size = one_dimensional(**WIDE), copies(4000), 4000
    means, errors = [], []
    for samples in (1, 2, 4, 16):
        est = estimate(p, batch, TAU, jax.random.key(4), samples)
        means.append(-float(jnp.mean(est.log_z)))
        errors.append(float(jnp.std(est.log_z)) / math.sqrt(size))
    j = objective(functionals(MODEL, p, batch, jax.random.key(5)), TAU)
    check(means[0], float(jnp.mean(j)), math.hypot(errors[0], float(jnp.std(j)) / size**0.5))
    for coarse, fine, error in zip(means, means[1:], errors, strict=False):
        assert coarse > fine - 5 * error
    assert means[0] > means[1] + 5 * errors[0]
    assert means[1] > means[-1] + 5 * errors[1]
    assert means[-1] > -worked() - 5 * errors[-1]
    # the bias is half the relative variance over S
    relative = float(jnp.mean(relative_variance(p)))
    assert abs(means[-1] + worked() - relative / 32) < 5 * errors[-1] + relative**2 / 256


def relative_variance(p):
    """Of one weight of the encoder's codes, by quadrature."""
    z = jnp.linspace(-6, 8, 4001)[:, None, None]
    batch = copies(1)
    log_ell = (
        -0.5 * (z[..., 0] ** 2 + LOG_2PI)
        + TAU.lam * _log_decoder(p, batch.x, z)
        + TAU.gam * jnp.sum(batch.y * _log_classifier(p, z), -1)
    )
    log_e = _normal((z[..., 0] - p.shift) ** 2, jnp.exp(p.log_var / 2), 1)
    return jnp.trapezoid(jnp.exp(2 * (log_ell - worked()) - log_e)[:, 0], z[:, 0, 0]) - 1


def test_weights_that_collapse_are_flagged():
    p = one_dimensional(s_x=jnp.asarray(0.01), **PRIOR)
    est = estimate(p, copies(4), TAU, jax.random.key(6), 256)
    assert np.all(np.asarray(est.flags) & tj.Flag.LOW_ESS)
    single = estimate(p, copies(1), TAU, jax.random.key(6), 1)
    assert np.isinf(single.stderr[0])
    assert np.isinf(
        encoder_gap(MODEL, p, copies(1), TAU, jax.random.key(6), num_samples=1).stderr[0]
    )


def test_the_gap_is_the_divergence_from_the_gibbs_code():
    p = one_dimensional(**WIDE)
    exact = WIDE_GAP
    gap = encoder_gap(MODEL, p, copies(8), TAU, jax.random.key(8), num_samples=4096)
    check(gap.value, exact, gap.stderr)
    assert np.all(np.asarray(gap.value) >= 0)
    assert np.all(np.asarray(gap.stderr) < 0.05 * exact)
    z = (np.asarray(gap.value) - exact) / np.asarray(gap.stderr)
    assert 0.3 < np.std(z) < 2


def test_the_gibbs_code_from_the_encoders_samples():
    p = one_dimensional(**WIDE)
    fn = lambda p: gibbs_code(MODEL, p, copies(64), TAU, jax.random.key(9), num_samples=4096)
    out = jax.jit(fn)(p)
    (d, c), chi = exact_response(p)
    check(out.functionals.distortion, d)
    check(out.functionals.classification, c)
    check(out.functionals.rate, -worked() - 2 * d - 1.5 * c)
    check(out.chi, chi)


def test_the_core_agrees_on_the_code_as_a_system():
    p = one_dimensional()
    weights = label_weights(jnp.asarray(0.2))[0]
    tau = Multipliers(jnp.asarray(2.0), jnp.asarray(1.5))
    sys = latent_system(MODEL, p, jnp.ones(1), weights)
    point = tj.Point(1.0, tau)
    est = tj.log_partition(sys, point, jax.random.key(11), method=tj.SMC(n=256, n_runs=4))
    check(est.value, worked(), est.stderr, limit=4.0)
    means, curve = exact_response(p)
    chi = tj.susceptibility(est, sys, latent_forces(sys))
    check(chi.value, curve, chi.stderr)
    forces = tj.mean(est, sys, latent_forces(sys))
    check(forces.value, means, forces.stderr)


def test_a_learned_marginal_cannot_be_sampled():
    p = one_dimensional(**WIDE)
    with pytest.raises(ValueError, match="start='marginal'"):
        log_partition(
            LEARNED, p, copies(2), TAU, jax.random.key(0), method="annealed", start="marginal"
        )
    sys = latent_system(LEARNED, p, jnp.ones(1), jnp.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="no sampler"):
        sys.sample_base(jax.random.key(0))
    known = latent_system(MODEL, p, jnp.ones(1), jnp.array([0.5, 0.5]))
    z = jnp.array([0.3])
    assert abs(float(sys.log_base(z) - known.log_base(z))) < 1e-6


@pytest.mark.nightly
def test_annealing_from_the_encoder_under_a_learned_marginal():
    p, batch, exact = random_problem(jax.random.key(0))
    settings = {"num_samples": 128, "method": "annealed", "num_temps": 24}
    est = log_partition(LEARNED, p, batch, TAU, jax.random.key(5), **settings)
    assert not np.any(np.asarray(est.flags) & tj.Flag.LOW_ESS)
    check(est.log_z, exact, est.stderr, limit=4.0)
    p = one_dimensional(**WIDE)
    settings = {"num_samples": 64, "method": "annealed", "num_temps": 8}
    gap = encoder_gap(LEARNED, p, copies(4), TAU, jax.random.key(13), **settings)
    check(gap.value, WIDE_GAP, gap.stderr)


def test_transformations_of_importance_sampling(x64):
    p, batch = one_dimensional(**WIDE), copies(3, dtype=jnp.float64)
    key = jax.random.key(14)
    fn = lambda tau: log_partition(MODEL, p, batch, tau, key, num_samples=32).log_z
    grid = Multipliers(jnp.array([0.0, 1.0, 2.0]), jnp.array([1.5, 0.0, 0.3]))
    swept = jax.jit(jax.vmap(fn))(grid)
    for i in range(3):
        alone = fn(Multipliers(grid.lam[i], grid.gam[i]))
        np.testing.assert_allclose(swept[i], alone, atol=1e-12)
    slope = jax.grad(lambda lam: jnp.sum(fn(Multipliers(lam, 1.5))))(2.0)
    h = 1e-5
    by_difference = jnp.sum(fn(Multipliers(2.0 + h, 1.5)) - fn(Multipliers(2.0 - h, 1.5)))
    assert abs(float(slope - by_difference / (2 * h))) < 1e-8
    single = log_partition(
        MODEL,
        jax.tree.map(lambda x: x.astype(jnp.float32), p),
        copies(3),
        TAU,
        key,
        num_samples=8,
    )
    assert single.log_z.dtype == jnp.float32
    # lam = 0 keeps a decoder that excludes x out of the sum
    closed = MODEL._replace(log_decoder=lambda p, x, z: jnp.full(z.shape[:2], -jnp.inf))
    free = log_partition(closed, p, batch, Multipliers(0.0, 1.0), key, num_samples=8)
    assert np.all(np.isfinite(free.log_z))
    lost = log_partition(closed, p, batch, Multipliers(1.0, 1.0), key, num_samples=8)
    assert np.all(np.asarray(lost.flags) & tj.Flag.NONFINITE)
    assert np.all(np.isinf(lost.stderr))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "exact"}, "method='exact' is unknown"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"num_samples": 4, "method": "annealed"}, "num_samples=4 must be at least 8"),
        ({"num_temps": 0, "method": "annealed"}, "num_temps=0"),
        ({"start": "middle", "method": "annealed"}, "start='middle'"),
    ],
)
def test_settings_without_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        log_partition(MODEL, one_dimensional(), copies(2), TAU, jax.random.key(0), **options)


def test_labels_and_systems_without_sense_are_refused():
    p, key = one_dimensional(), jax.random.key(0)
    with pytest.raises(ValueError, match="label 2 is out of range"):
        log_partition(MODEL, p, Batch(jnp.ones((2, 1)), jnp.array([0, 2])), TAU, key)
    with pytest.raises(ValueError, match="label -1 is out of range"):
        latent_system(MODEL, p, jnp.ones(1), jnp.array(-1))
    with pytest.raises(ValueError, match="must sum to 1"):
        latent_system(MODEL, p, jnp.ones(1), jnp.array([0.5, 0.4]))
    with pytest.raises(ValueError, match="made by latent_system"):
        latent_forces(tj.system(lambda z: z, like=0.0))
