"""Langevin words against the exact law of the discretised chain, and their work."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.linalg import solve_discrete_lyapunov

import thermojax as tj
from tests.scores import (
    EXACT,
    KS_LIMIT,
    LIMIT,
    caught,
    check,
    covariance_z,
    ks_distance,
    z_score,
)
from thermojax.dynamics import splitting

WALKERS = 200_000
TILE = 10_000
TEMPERATURES = (0.25, 4.0)

# --- the harmonic well: table 2.3 of the core specification --------------------------

STIFFNESS = np.array([0.6, 1.0, 2.0])
ROTATION = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))[0]
MATRIX = ROTATION @ np.diag(STIFFNESS) @ ROTATION.T


def well(x, control, data):
    return 0.5 * jnp.sum(x * (data @ x))


def harmonic(dtype=jnp.float32):
    return tj.system(well, like=jnp.zeros(3, dtype), data=jnp.asarray(MATRIX, dtype))


class Law(NamedTuple):
    """Stationary second moments of one mode, physical units, unit mass."""

    xx: np.ndarray
    pp: np.ndarray | float = 1.0
    xp: np.ndarray | float = 0.0


def kappa(h, k):
    return h * h * k / 4


# h is the physical step, k the stiffness, t the temperature; table 2.3
LAWS = {
    "em": lambda h, k, t: Law(t / k / (1 - h * k / 2)),
    "lm": lambda h, k, t: Law(t / k * (1 - h * k / 2)),  # the pre-point y
    "BAOAB": lambda h, k, t: Law(t / k, t * (1 - kappa(h, k))),
    "ABOBA": lambda h, k, t: Law(t / k, t / (1 - kappa(h, k))),
    "OBABO": lambda h, k, t: Law(t / k / (1 - kappa(h, k)), t),
    "OABAO": lambda h, k, t: Law(t / k * (1 - kappa(h, k)), t),
    "BAOA": lambda h, k, t: Law(t / k, t, h * t / 2 * np.ones_like(k)),
}
CANONICAL = lambda h, k, t: Law(t / k, t)
METROPOLISED = ("mala", "hmc", "ghmc", "BAOAB metropolised", "OBABO metropolised")
OVERDAMPED = ("em", "lm", "mala")
STEPS = {True: (0.2, 0.5, 0.8), False: (0.4, 0.8, 1.2)}  # physical, by overdamped


def make(name, system, **options):
    """Kernel by its name in the tables of this file."""
    if name in ("em", "lm"):
        return tj.overdamped(system, name, **options)
    if name == "mala":
        return tj.mala(system, **options)
    if name == "hmc":
        return tj.hmc(system, n_inner=3, **options)
    if name == "ghmc":
        return tj.ghmc(system, friction=0.7, **options)
    word, *metropolise = name.split()
    return tj.langevin(system, word, bool(metropolise), friction=1.5, **options)


def reduced_step(name, h, temperature):
    """Units: h = eps beta for overdamped words, h = eps / sqrt(T) for the others."""
    return h * temperature if name in OVERDAMPED else h * math.sqrt(temperature)


class Bug(NamedTuple):
    """Factors that leave a right program unchanged at 1."""

    noise: float = 1.0
    temperature: float = 1.0
    coin: float = 1.0  # 0 accepts every move


RIGHT = Bug()


def planted(step, noise, coin, key, state, point, params):
    """`step`, its normal draws and its Metropolis coin multiplied."""
    normal, uniform = splitting.normal, jax.random.uniform

    def draw(*args, **kwargs):
        x = normal(*args, **kwargs)
        return x * noise.astype(x.dtype)

    def flip(key, shape, dtype, *bounds):
        return uniform(key, shape, dtype, *bounds) * (1.0 if bounds else coin.astype(dtype))

    with (
        mock.patch.object(splitting, "normal", draw),
        mock.patch.object(jax.random, "uniform", flip),
    ):
        return step(key, state, point, params)


def with_bug(kernel, bug):
    """The factors are traced: one compilation serves every bug."""
    step = jax.tree_util.Partial(
        planted, kernel.step, jnp.float32(bug.noise), jnp.float32(bug.coin)
    )
    return kernel._replace(step=step)


def modes(x):
    return np.asarray(x, np.float64) @ ROTATION


def moment_matrix(law):
    """[6, 6] covariance of (x, p) in the eigenbasis of the well."""
    xx, pp, xp = (np.broadcast_to(v, 3) for v in law)
    return np.block([[np.diag(xx), np.diag(xp)], [np.diag(xp), np.diag(pp)]])


@functools.cache
def unit_normals():
    return np.random.default_rng(11).normal(size=(WALKERS, 6))


def draws_of(law):
    """Start from the predicted law itself: any drift away from it is an error."""
    return unit_normals() @ np.linalg.cholesky(moment_matrix(law)).T


def simulate(name, h, temperature, bug=RIGHT, n_steps=14):
    """Second moments of (x, p), in modes, after some steps from the predicted law."""
    kernel = with_bug(make(name, harmonic()), bug)
    law = LAWS.get(name, CANONICAL)(h, STIFFNESS, temperature)
    start = draws_of(law)
    point = tj.Point(jnp.float32(1 / (temperature * bug.temperature)))
    params = kernel.params._replace(step_size=jnp.float32(reduced_step(name, h, temperature)))
    x = jnp.asarray(start[:, :3] @ ROTATION.T, jnp.float32)
    st = tj.init_ensemble(
        kernel, jax.random.key(1), point, size=WALKERS, tile=TILE, positions=x
    )
    if kernel.meta.momentum:
        r = jnp.asarray(start[:, 3:] @ ROTATION.T / math.sqrt(temperature), jnp.float32)
        st = _replace_walkers(st, momentum=r)
    st, out = tj.run(
        kernel, jax.random.key(2), st, point, n_steps=n_steps, params=params, ledger="none"
    )
    assert not np.any(out["flags"])
    x = modes(st.position)
    if not kernel.meta.momentum:
        return st, law, covariance_z(x, np.diag(np.broadcast_to(law.xx, 3)))
    p = modes(st.walkers.momentum) * math.sqrt(temperature)
    return st, law, covariance_z(np.concatenate([x, p], axis=1), moment_matrix(law))


def _replace_walkers(st, **changes):
    walkers = st.walkers._replace(**changes)
    return type(st)(walkers, st.walker, st.step, st.tile)


def linear_map(name, h, temperature):
    """z' = M z + B xi of one step, read off the kernel by differentiation."""
    kernel = make(name, harmonic(jnp.float64))
    point = tj.Point(jnp.float64(1 / temperature))
    params = kernel.params._replace(step_size=jnp.float64(reduced_step(name, h, temperature)))
    count = sum(letter == "O" for letter in kernel.meta.name.split()[0])

    def step(z, xi):
        x, r = jnp.split(z, 2)
        start = kernel.init(x, point)
        start = start._replace(momentum=r if kernel.meta.momentum else ())
        with mock.patch.object(splitting, "normal", return_value=xi):
            new, _ = kernel.step(jax.random.key(0), start, point, params)
        seen = kernel.observe(new).position
        r = new.momentum if kernel.meta.momentum else jnp.zeros(3, x.dtype)
        return jnp.concatenate([new.position, r, seen])

    zero = jnp.zeros(6, jnp.float64), jnp.zeros(3 * count, jnp.float64)
    return (np.asarray(j) for j in jax.jit(jax.jacfwd(step, argnums=(0, 1)))(*zero))


def stationary(name, h, temperature):
    """Exact stationary covariance of (x, p, observed x) in modes, physical units."""
    m, b = linear_map(name, h, temperature)
    s = solve_discrete_lyapunov(m[:6], b[:6] @ b[:6].T)
    full = m @ s @ m.T + b @ b.T
    units = np.repeat([1.0, math.sqrt(temperature), 1.0], 3)
    turn = np.kron(np.eye(3), ROTATION)
    return turn.T @ (units[:, None] * full * units) @ turn


@pytest.mark.parametrize("name", LAWS)
def test_unadjusted_word_has_the_tabled_law_to_rounding(name, x64):
    for h, temperature in zip(STEPS[name in OVERDAMPED], (0.25, 4.0, 1.7), strict=True):
        law = LAWS[name](h, STIFFNESS, temperature)
        s = stationary(name, h, temperature)
        expected = moment_matrix(law)
        if name in OVERDAMPED:
            s_now, expected = s[:3, :3], expected[:3, :3]
        else:
            s_now = s[:6, :6]
        np.testing.assert_allclose(s_now, expected, rtol=EXACT, atol=EXACT)
        if name == "lm":  # the mid-point carries no bias
            observed = np.diag(temperature / STIFFNESS)
            np.testing.assert_allclose(s[6:, 6:], observed, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(
    ("name", "power", "slope"), [("em", 1, 0.5), ("OBABO", 2, 0.25), ("OABAO", 2, -0.25)]
)
def test_bias_has_the_tabled_order_and_slope(name, power, slope, x64):
    """k var x / T - 1 = slope * k h^power: k/2 for Euler-Maruyama."""
    h = 1e-3
    s = stationary(name, h, 2.5)
    bias = STIFFNESS * np.diag(s)[:3] / 2.5 - 1
    np.testing.assert_allclose(bias / h**power, slope * STIFFNESS, rtol=5 * h)


@pytest.mark.parametrize("name", [*LAWS, *METROPOLISED])
def test_ensemble_follows_the_exact_discretised_law(name):
    for i, h in enumerate(STEPS[name in OVERDAMPED]):
        temperature = TEMPERATURES[i % 2]
        st, _, z = simulate(name, h, temperature)
        check(z, 0.0, 1.0)
        if name == "lm":
            seen = modes(st.walkers.midpoint[0])
            check(covariance_z(seen, np.diag(temperature / STIFFNESS)), 0.0, 1.0)
        if name in ("em", "lm", "OBABO", "OABAO"):  # the continuum's law is not its law
            x = modes(st.position)
            caught(covariance_z(x, np.diag(temperature / STIFFNESS)), 0.0, 1.0)


BUGS = {
    "noise 5 % too strong": Bug(noise=1.05),
    "temperature 5 % too high": Bug(temperature=1.05),
    "factor 2 missing in the noise": Bug(noise=math.sqrt(0.5)),
}


@pytest.mark.parametrize("name", [*LAWS, *METROPOLISED])
def test_planted_bugs_are_caught(name):
    h = STEPS[name in OVERDAMPED][1]
    for bug in BUGS.values():
        caught(simulate(name, h, TEMPERATURES[1], bug, 8)[2], 0.0, 1.0)
    if name in METROPOLISED:  # a test whose coin always accepts is no test
        caught(simulate(name, 2 * h, TEMPERATURES[1], Bug(coin=0.0), 8)[2], 0.0, 1.0)


# --- a driven well with a cosine ripple: work, heat and fluctuation theorems ---------

GRID = np.linspace(-12, 12, 24_001)


def ripple(x, control, data, xp=jnp):
    return 0.5 * control["k"] * x * x + control["a"] * xp.cos(2 * x + 0.5)


def ripple_system(dtype=jnp.float32):
    return tj.system(ripple, like=jnp.zeros((), dtype))


class Canonical:
    """Quadrature of exp(-beta U) of the rippled well at one point."""

    def __init__(self, beta, k, a):
        self.u = beta * ripple(GRID, {"k": k, "a": a}, None, xp=np)
        weight = np.exp(-self.u)
        self.z = trapezoid(weight, GRID)
        self.grid_cdf = cumulative_trapezoid(weight, GRID, initial=0) / self.z

    def sample(self, n, seed=3):
        # stratified uniforms would break the independence of the replicas
        uniform = np.random.default_rng(seed).uniform(size=n)
        return np.interp(uniform, self.grid_cdf, GRID)

    def cdf(self, x):
        return np.interp(x, GRID, self.grid_cdf)


N_DRIVE = 8
BETAS = np.linspace(0.6, 1.5, N_DRIVE + 1)
SPRINGS = np.linspace(1.0, 1.7, N_DRIVE + 1)
RIPPLES = np.linspace(0.8, -0.5, N_DRIVE + 1)
WORDS = {
    "em": 0.2,
    "lm": 0.2,
    "mala": 0.4,
    "hmc": 0.7,
    "ghmc": 1.0,
    "BAOAB": 0.7,
    "ABOBA": 0.7,
    "OBABO": 0.7,
    "OABAO": 0.7,
    "BAOA": 0.6,
    "BAOAB metropolised": 1.0,
    "OBABO metropolised": 1.0,
}


def path_of(betas, springs, ripples):
    as32 = lambda v: jnp.asarray(v, jnp.float32)
    return tj.Point(as32(betas), {"k": as32(springs), "a": as32(ripples)})


def point_of(i):
    return jax.tree.map(lambda leaf: leaf[i], path_of(BETAS, SPRINGS, RIPPLES))


@functools.cache
def exact(i):
    return Canonical(BETAS[i], SPRINGS[i], RIPPLES[i])


def driven(kernel, start, path, size=WALKERS):
    x = jnp.asarray(exact(start).sample(size), jnp.float32)
    st = tj.init_ensemble(
        kernel, jax.random.key(5), point_of(start), size=size, tile=TILE, positions=x
    )
    return tj.drive(kernel, jax.random.key(6), st, path)


def work_of(led):
    """Reduced work of the protocol alone, and with that of the discretisation."""
    protocol = np.asarray(led.protocol, np.float64).sum(0)
    return protocol, protocol + np.asarray(led.shadow, np.float64).sum(0)


@pytest.mark.parametrize("name", WORDS)
def test_fluctuation_theorem_and_stationarity(name):
    plain = make(name, ripple_system(), step_size=jnp.float32(WORDS[name]))
    kernel = with_bug(plain, RIGHT)
    path = path_of(BETAS[1:], SPRINGS[1:], RIPPLES[1:])
    ratio = exact(N_DRIVE).z / exact(0).z
    _, led = driven(kernel, 0, path)
    protocol, work = work_of(led)
    check(np.exp(-work), ratio)
    assert z_score(work, -math.log(ratio)) > LIMIT  # the second law: <w> > -log Z_n/Z_0
    if kernel.meta.exact:
        np.testing.assert_array_equal(np.asarray(led.shadow), 0.0)
        _, led = driven(with_bug(plain, Bug(coin=0.0)), 0, path)
        caught(np.exp(-work_of(led)[1]), ratio)
    else:  # the work of the protocol alone forgets the work of the discretisation
        caught(np.exp(-protocol), ratio)
    _, led = driven(with_bug(plain, Bug(noise=math.sqrt(0.5))), 0, path)
    caught(np.exp(-work_of(led)[1]), ratio)

    # at a fixed point the same program must leave the exact law alone, or show its bias
    here = jax.tree.map(lambda leaf: jnp.full_like(leaf, leaf[-1]), path)
    st, led = driven(kernel, N_DRIVE, here)
    distance = ks_distance(st.position, exact(N_DRIVE).cdf)
    if kernel.meta.exact:
        assert distance < KS_LIMIT
    elif name in ("em", "lm", "OBABO", "OABAO"):
        assert distance > KS_LIMIT
    np.testing.assert_array_equal(np.asarray(led.protocol), 0.0)


# --- acceptance ------------------------------------------------------------------------


def one_dimension(x, control, data):
    return 0.5 * control * x * x


def one_step(kernel, key, x, point, params, size):
    """State before, state after and info of one step of `size` walkers."""

    @jax.jit
    def go(x):
        keys = jax.random.split(key, size)
        before = jax.vmap(lambda x: kernel.init(x, point))(x)
        if kernel.meta.momentum:
            r = jax.random.normal(jax.random.fold_in(key, 1), x.shape, x.dtype)
            before = before._replace(momentum=r)
        step = lambda k, s: kernel.step(k, s, point, params)
        return before, *jax.vmap(step)(keys, before)

    return go(x)


def test_mala_ratio_is_minus_the_shadow_work_of_euler_maruyama(x64):
    """Same noise, same proposal; log ratio beta h k^2 (x^2 - x'^2) / 4 in a harmonic well."""
    size, k, beta, eps = 4096, 1.7, 2.5, 0.4
    system = tj.system(one_dimension, like=jnp.zeros(()))
    point = tj.Point(jnp.float64(beta), jnp.float64(k))
    x = jax.random.normal(jax.random.key(0), (size,), jnp.float64)
    key = jax.random.key(1)
    results = {}
    for name in ("em", "mala"):
        kernel = make(name, system, step_size=jnp.float64(eps))
        results[name] = one_step(kernel, key, x, point, kernel.params, size)
    _, euler, info = results["em"]
    _, state, accepted = results["mala"]
    shadow = np.asarray(info.ledger.shadow)
    y = np.asarray(euler.position)
    h = eps * beta
    np.testing.assert_allclose(
        -shadow, beta * h * k**2 * (np.asarray(x) ** 2 - y**2) / 4, rtol=1e-9, atol=1e-10
    )
    expected = np.minimum(1, np.exp(-shadow))
    np.testing.assert_allclose(accepted.acceptance, expected, rtol=EXACT)
    np.testing.assert_array_equal(accepted.ledger.shadow, 0.0)
    took = np.asarray(accepted.accepted)
    assert 0.5 < took.mean() < 0.99
    np.testing.assert_array_equal(np.asarray(state.position), np.where(took, y, x))


def equilibrium_acceptance(kernel, k, beta, params):
    point = tj.Point(jnp.float32(beta), jnp.float32(k))
    x = jax.random.normal(jax.random.key(3), (WALKERS,), jnp.float32) / math.sqrt(k * beta)
    _, _, info = one_step(kernel, jax.random.key(4), x, point, params, WALKERS)
    return np.asarray(info.acceptance), np.asarray(info.accepted, np.float64)


@pytest.mark.parametrize("hk", [0.3, 1.0, 2.5])
def test_mala_acceptance_formula(hk):
    k, beta = 1.6, 0.5
    kernel = tj.mala(tj.system(one_dimension, like=jnp.zeros(())))
    params = kernel.params._replace(step_size=jnp.float32(hk / (k * beta)))
    law = lambda hk: 1 - 2 / math.pi * math.atan(hk**1.5 / (2 * math.sqrt(2)))
    probability, taken = equilibrium_acceptance(kernel, k, beta, params)
    check(probability, law(hk))
    check(taken, law(hk))
    caught(probability, law(1.05 * hk))


@pytest.mark.parametrize("step", [0.4, 0.9, 1.5])
def test_hmc_acceptance_formula(step):
    """Leapfrog on a harmonic mode: kappa = step^2 (beta k) / 4, cos(angle) = 1 - 2 kappa."""
    k, beta, n_inner = 1.6, 0.5, 3
    kernel = tj.hmc(tj.system(one_dimension, like=jnp.zeros(())), n_inner=n_inner, jitter=0.0)
    params = kernel.params._replace(step_size=jnp.float32(step))

    def law(step):
        kap = step**2 * k * beta / 4
        angle = math.acos(1 - 2 * kap)
        mean = math.sin(n_inner * angle) ** 2 * kap**2 / (2 * (1 - kap))
        return 1 - 2 / math.pi * math.atan(math.sqrt(mean / 2))

    probability, taken = equilibrium_acceptance(kernel, k, beta, params)
    check(probability, law(step))
    check(taken, law(step))
    caught(probability, law(1.05 * step))


# --- invariances -----------------------------------------------------------------------


def gentle(x, control, data):
    return data["unit"] * jnp.sum(x**2 + jnp.cos(x)) + data["offset"]


@pytest.mark.parametrize("name", ["em", "lm", "mala", "ghmc", "OBABO metropolised"])
def test_offset_and_unit_of_energy_change_no_sample(name, x64):
    """U -> U + c, and (beta, U) -> (beta / s, s U) for a power of two: the same bits."""

    like = jnp.zeros(3, jnp.float64)
    prior = tj.gaussian_prior(1.0)

    def end(unit, offset):
        data = {"unit": unit, "offset": offset}
        system = tj.system(gentle, prior=prior, like=like, data=data)
        kernel = make(name, system, step_size=jnp.float64(0.3))
        point = tj.Point(1.5 / unit)
        st = tj.init_ensemble(kernel, jax.random.key(0), point, size=16, tile=16)
        return tj.run(kernel, jax.random.key(1), st, point, n_steps=50, ledger="full")

    units, offsets = jnp.array([1.0, 1.0, 4.0]), jnp.array([0.0, 1024.0, 0.0])
    st, out = jax.jit(jax.vmap(end))(units, offsets)
    x, energy = np.asarray(st.position), np.asarray(st.energy)
    assert np.all(np.isfinite(x))
    np.testing.assert_array_equal(x[1], x[0])
    np.testing.assert_array_equal(x[2], x[0])
    np.testing.assert_allclose(energy[1] - energy[0], 1024, rtol=EXACT)
    np.testing.assert_array_equal(energy[2], 4 * energy[0])
    ledger = jax.tree.map(np.asarray, out["ledger"])
    np.testing.assert_array_equal(ledger.shadow[2], ledger.shadow[0])
    np.testing.assert_array_equal(ledger.bath[2], ledger.bath[0])
    np.testing.assert_array_equal(ledger.heat[2], 4 * ledger.heat[0])
    np.testing.assert_allclose(ledger.heat[1], ledger.heat[0], rtol=EXACT, atol=EXACT)


# --- forces that grow faster than the distance ---------------------------------------


def quartic(x, control, data):
    return 0.25 * x**4 + 0.5 * x**2


def quartic_run(kernel, x, n_steps=400):
    point = tj.Point(1.0)
    st = tj.init_ensemble(
        kernel, jax.random.key(0), point, size=len(x), tile=100, positions=jnp.asarray(x)
    )
    st, out = tj.run(kernel, jax.random.key(1), st, point, n_steps=n_steps)
    return np.asarray(st.position), np.asarray(out["flags"])


def test_blown_up_walkers_are_flagged_and_harm_nobody():
    system = tj.system(quartic, like=0.0)
    x = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    kernel = tj.overdamped(system, "em", step_size=0.25)
    position, flags = quartic_run(kernel, x)
    raised = (flags & tj.Flag.NONFINITE) != 0
    assert 0.02 < raised.mean() < 0.98
    assert np.all(np.isfinite(position[~raised]))
    tame, _ = quartic_run(kernel, np.where(raised, 0.0, x).astype(np.float32))
    np.testing.assert_array_equal(tame[~raised], position[~raised])

    position, flags = quartic_run(tj.mala(system, step_size=0.25), x)
    assert np.all(np.isfinite(position))
    assert not flags.any()


@pytest.mark.parametrize("name", ["em", "BAOAB", "hmc"])
def test_one_poisoned_walker_of_a_hundred_leaves_the_others_alone(name):
    kernel = make(name, tj.system(quartic, like=0.0), step_size=0.02)
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    poisoned = x.copy()
    poisoned[37] = np.nan
    clean, none = quartic_run(kernel, x, 20)
    position, flags = quartic_run(kernel, poisoned, 20)
    others = np.arange(100) != 37
    np.testing.assert_array_equal(position[others], clean[others])
    assert not none.any()
    np.testing.assert_array_equal(flags, np.where(others, 0, int(tj.Flag.NONFINITE)))
