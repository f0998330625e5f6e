"""Measured entropy production against the exact one, and its fluctuation theorem."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.estimators.test_free_energy import within_bands
from tests.scores import caught, check, covariance_z
from tests.test_chains import obabo
from thermojax import exact
from thermojax.dynamics.kernel import zero_ledger
from thermojax.entropy_production import entropy_production, path_entropy_production
from thermojax.estimators.estimate import Flag

WALKERS = 100_000
Z_MAX = 4.0  # what this piece promises, tighter than the suite


# --- measured on simulated chains -------------------------------------------------------

STEP, BURN, STEPS = 0.4, 90, 3
HOT = {2: 4.0, 5: 9.0}
BUGS = {"noise": 1.05, "factor two missing": math.sqrt(0.5), "temperature": math.sqrt(1.05)}


@jax.jit
def simulate(key, m, spread):
    """[WALKERS, STEPS + 1, n] last states of a chain that started at rest."""

    def step(x, key):
        x = x @ m.T + spread * jax.random.normal(key, x.shape)
        return x, x

    burn, keep = jax.random.split(key)
    x = jnp.zeros((WALKERS, len(m)))
    burn = jax.random.split(burn, BURN)
    x, _ = jax.lax.scan(lambda x, key: (step(x, key)[0], None), x, burn)
    _, path = jax.lax.scan(step, x, jax.random.split(keep, STEPS))
    return jnp.concatenate([x[None], path]).swapaxes(0, 1)


@functools.cache
def simulated(n, noise=1.0):
    """A chain of beads and its paths."""
    chain = exact.bead_spring_chain(n, HOT[n], 1.0)
    m, q = (jnp.asarray(x, jnp.float32) for x in chain.transition(STEP))
    return chain, simulate(jax.random.key(0), m, noise * jnp.sqrt(jnp.diag(q)))


def log_normal(x, covariance):
    constant = 0.5 * jnp.linalg.slogdet(2 * jnp.pi * covariance)[1]
    return -0.5 * x @ jnp.linalg.solve(covariance, x) - constant


@jax.jit
def measured_as(path, m, q, s):
    law = jax.vmap(lambda x: log_normal(x, s))
    return path_entropy_production(
        lambda x, y: log_normal(y - m @ x, q),
        path,
        log_start=law(path[:, 0]),
        log_end=law(path[:, -1]),
    )


def measured(chain, path):
    """Entropy production of paths, by the chain's own density and stationary law."""
    numbers = (*chain.transition(STEP), chain.covariance(STEP))
    return measured_as(path, *(jnp.asarray(x, jnp.float32) for x in numbers))


@pytest.mark.parametrize("n", [2, 5])
def test_chain_of_beads_simulated(n):
    """P34: covariance by Lyapunov, mean of sigma by its formula, <exp(-sigma)> = 1."""
    chain, path = simulated(n)
    s = tj.linear_stationary_covariance(*chain.transition(STEP))
    for t in (0, STEPS):
        check(covariance_z(path[:, t], s), 0.0, 1.0, Z_MAX)
    est = measured(chain, path)
    assert est.trusted, est.reasons
    expected = STEPS * float(tj.linear_entropy_production(*chain.transition(STEP)))
    assert expected > 0.3
    check(est.value, expected, est.stderr, Z_MAX)
    check(np.exp(-np.asarray(est.parts["samples"], np.float64)), 1.0, limit=Z_MAX)
    integral = est.parts["integral"]
    check(integral.value, 0.0, integral.stderr, Z_MAX)
    report = tj.fluctuation_report(est.parts["samples"])
    assert abs(float(report.slope_z)) < Z_MAX


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug):
    chain, path = simulated(2, BUGS[bug])
    caught(covariance_z(path[:, -1], chain.covariance(STEP)), 0.0, 1.0)
    est = measured(chain, path)
    caught(est.value, STEPS * chain.entropy_production(STEP), est.stderr)
    if bug == "factor two missing":
        assert int(est.flags) & Flag.BROKEN_FLUCTUATION
        assert any("fluctuation theorem" in reason for reason in est.reasons)
        caught(np.exp(-np.asarray(est.parts["samples"], np.float64)), 1.0)


def test_driven_cycle_simulated():
    cycle = exact.driven_cycle(4, [0.5, 0.3, 0.6, 0.2], [0.1, 0.2, 0.3, 0.25])
    log_p = jnp.log(jnp.asarray(cycle.transition, jnp.float32))
    log_pi = jnp.log(jnp.asarray(cycle.stationary, jnp.float32))
    first, second = jax.random.split(jax.random.key(1))

    def step(x, key):
        x = jax.random.categorical(key, log_p[x])
        return x, x

    x = jax.random.categorical(first, log_pi, shape=(WALKERS,))
    _, path = jax.jit(lambda x: jax.lax.scan(step, x, jax.random.split(second, 8)))(x)
    path = jnp.concatenate([x[None], path]).T
    est = path_entropy_production(
        lambda x, y: log_p[x, y],
        path,
        log_start=log_pi[path[:, 0]],
        log_end=log_pi[path[:, -1]],
    )
    check(est.value, 8 * cycle.entropy_production, est.stderr, Z_MAX)
    check(np.exp(-np.asarray(est.parts["samples"], np.float64)), 1.0, limit=Z_MAX)
    caught(est.value, 8 * 1.05 * cycle.entropy_production, est.stderr)


def test_measured_error_is_honest():
    """200 groups of 500 walkers: the mean of sigma within its own error bar."""
    chain, path = simulated(2)
    sigma = measured(chain, path).parts["samples"].reshape(200, 500)
    ledger = jax.tree.map(lambda x: jnp.full((200, 500), x), zero_ledger(float))
    est = jax.vmap(entropy_production)(ledger._replace(bath=-sigma))
    z = (est.value - STEPS * chain.entropy_production(STEP)) / est.stderr
    assert within_bands(z)
    assert not within_bands(1.7 * np.asarray(z))


def test_flipped_momenta_along_paths():
    """OBABO paths: no entropy production once time reversal flips the momenta."""
    m, q = obabo(0.7, 1.3, 0.6)
    s = np.asarray(tj.linear_stationary_covariance(m, q), np.float64)
    draws = [np.random.default_rng(2).normal(size=(2000, 2)) for _ in range(4)]
    x = [draws[0] @ np.linalg.cholesky(s).T]
    for xi in draws[1:]:
        x.append(x[-1] @ m.T + xi @ np.linalg.cholesky(q).T)
    path = jnp.asarray(np.stack(x, axis=1), jnp.float32)
    log_transition = lambda a, b: log_normal(b - m @ a, q)
    m, q, s = (jnp.asarray(x, jnp.float32) for x in (m, q, s))
    flip = lambda a: a * jnp.array([1.0, -1.0])
    law = jax.vmap(lambda a: log_normal(a, s))
    ends = {"log_start": law(path[:, 0]), "log_end": law(path[:, -1])}
    est = path_entropy_production(log_transition, path, flip=flip, **ends)
    np.testing.assert_allclose(est.parts["samples"], 0, atol=2e-4)
    blind = path_entropy_production(log_transition, path)
    assert float(blind.value) > 0.3
    # without the ends there is no theorem to check
    assert np.isnan(blind.parts["integral"].value)
    assert blind.trusted


# --- measured from a ledger -------------------------------------------------------------


def ripple(x, control):
    return 0.5 * control * x**2 + 0.5 * jnp.cos(2 * x)


def equilibrium(k, size):
    grid = np.linspace(-10, 10, 20_001)
    weight = np.exp(-(0.5 * k * grid**2 + 0.5 * np.cos(2 * grid)))
    z = weight.sum() * (grid[1] - grid[0])
    uniform = np.random.default_rng(1).uniform(size=size)
    return np.interp(uniform, np.cumsum(weight) / weight.sum(), grid), math.log(z)


def test_ledger_of_a_driven_ensemble():
    """Canonical at both ends, sigma is the dissipated work: theorem and second law."""
    system = tj.system(ripple, like=jnp.zeros(()))
    kernel = tj.langevin(system, "BAOAB", step_size=0.6)
    x, log_z0 = equilibrium(1.0, WALKERS)
    log_z1 = equilibrium(2.0, 2)[1]
    point = tj.Point(jnp.float32(1.0), jnp.float32(1.0))
    st = tj.init_ensemble(
        kernel, jax.random.key(2), point, WALKERS, 10_000, positions=jnp.asarray(x, jnp.float32)
    )
    path = tj.Point(jnp.ones(6), jnp.linspace(1.0, 2.0, 6))
    end, ledger = tj.drive(kernel, jax.random.key(3), st, path)
    reduced = lambda st: st.energy + st.walkers.kinetic
    ends = {"log_start": -reduced(st) - log_z0, "log_end": -reduced(end) - log_z1}
    est = entropy_production(ledger, **ends)
    assert est.trusted, est.reasons
    assert float(est.value) > 5 * float(est.stderr)
    check(np.exp(-np.asarray(est.parts["samples"], np.float64)), 1.0, limit=Z_MAX)
    work = np.asarray(ledger.protocol + ledger.shadow).sum(0) + log_z1 - log_z0
    np.testing.assert_allclose(est.parts["samples"], work, atol=1e-4)
    # power: a wrong normalisation of one end breaks the theorem, and is flagged
    ends["log_end"] = ends["log_end"] + 0.05
    assert int(entropy_production(ledger, **ends).flags) == Flag.BROKEN_FLUCTUATION


def test_ledger_of_a_stationary_run():
    """The stationary Euler chain in a harmonic well hands no entropy to its bath."""
    trap = exact.driven_trap([1.0], [0.0], step_size=0.3)
    kernel = tj.overdamped(trap.system, "em", step_size=0.3)
    x = trap.sample(jax.random.key(0), 20_000) / math.sqrt(1 - 0.15)
    st = tj.init_ensemble(kernel, jax.random.key(1), trap.start, 20_000, 5_000, positions=x)
    _, out = tj.run(kernel, jax.random.key(2), st, trap.start, 30, ledger="full")
    est = entropy_production(out["ledger"])
    check(est.value, 0.0, est.stderr, Z_MAX)
    cold = dataclasses.replace(st, walkers=jax.vmap(kernel.init, (0, None))(x / 2, trap.start))
    _, out = tj.run(kernel, jax.random.key(2), cold, trap.start, 30, ledger="full")
    est = entropy_production(out["ledger"])  # a cold start takes entropy from the bath
    caught(est.value, 0.0, est.stderr)


def test_ledger_without_density_and_bad_ends():
    ledger = zero_ledger(float)._replace(bath=jnp.full((3, 8), jnp.nan))
    est = entropy_production(ledger)
    assert np.isnan(est.value)
    assert int(est.flags) == Flag.NO_DENSITY
    with pytest.raises(tj.UntrustedEstimate, match="no transition density"):
        est.require_trusted()
    one_lost = zero_ledger(float)._replace(bath=jnp.array([1.0, jnp.nan]))
    assert int(entropy_production(one_lost).flags) == Flag.NONFINITE
    fine = zero_ledger(float)._replace(bath=jnp.ones((3, 8)))
    assert float(entropy_production(fine).value) == -3
    assert float(jax.jit(entropy_production)(fine).value) == -3
    with pytest.raises(ValueError, match="log_end needs one value for each of 8 walkers"):
        entropy_production(fine, log_end=np.zeros(7))
    heat_alone = zero_ledger(float)._replace(bath=jnp.zeros(8), heat=jnp.ones(8))
    with pytest.raises(ValueError, match="holds heat but no nats: run with ledger='full'"):
        entropy_production(heat_alone)
    with pytest.raises(ValueError, match=r"\[size\] or \[n, size\]"):
        entropy_production(zero_ledger(float))
    with pytest.raises(ValueError, match="times >= 2"):
        path_entropy_production(lambda x, y: x - y, np.zeros((5, 1)))
