"""Every stochastic bath at four temperatures: its thermometers show T and the known bias."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import solve_discrete_lyapunov

import thermojax as tj
from tests.dynamics.minibatches import problem
from tests.scores import caught, check

TEMPERATURES = (0.04, 0.25, 1.0, 4.0)
WALKERS, TILE, N_STEPS = 40_000, 10_000, 60
STIFFNESS, H, GAMMA, BATCH, LEAK = 1.6, 0.4, 1.5, 6, 0.7
KAPPA = H * H * STIFFNESS / 4
HK = H * STIFFNESS


def wells():
    """A sum of wells of equal curvature: the gradient noise is additive."""
    p = problem(d=1)
    return p._replace(curvatures=np.full_like(p.curvatures, STIFFNESS / p.size))


WELLS = wells()
SYSTEM = WELLS.system()
NOISE = WELLS.additive(BATCH, False)[0, 0]


def noisy_sgld(t, st):
    return (t + H * NOISE / 2) / (1 - HK / 2) / t, None


def noisy_baoab(t, st):
    """Second moments of (x, p, f), f the gradient noise held for two half kicks."""
    kick = np.array([[1, 0, 0], [-HK / 2, 1, -H / 2], [0, 0, 1.0]])
    drift = np.array([[1, H / 2, 0], [0, 1, 0], [0, 0, 1.0]])
    damp, renew = np.diag([1, np.exp(-GAMMA * H), 1.0]), np.diag([1, 1, 0.0])
    step = kick @ renew @ drift @ damp @ drift @ kick
    shake = kick @ renew @ drift @ [0, np.sqrt(-t * np.expm1(-2 * GAMMA * H)), 0]
    fresh = kick @ [0, 0, np.sqrt(NOISE)]
    cov = solve_discrete_lyapunov(step, np.outer(shake, shake) + np.outer(fresh, fresh))
    return STIFFNESS * cov[0, 0] / t, cov[1, 1] / t


def frozen_metric(t, st):
    metric = 1 / (np.sqrt(STIFFNESS * t) + np.sqrt(np.asarray(st.walkers.bath.square)))
    return np.mean(1 / (1 - 0.5 * HK * np.sqrt(STIFFNESS * t) * metric)), None


def semi_implicit(t, st):
    bias = 1 / (1 - HK / (2 * (2 - LEAK)))
    return bias, 2 / (2 - LEAK) * bias


def exactly(position, momentum=None):
    return lambda t, st: (position, momentum)


# name: bath at T, what its virial and its kinetic thermometer show over T, tolerance of the
# thermostats' unknown second order
overdamped = lambda t: {"step_size": H * t}
inertial = lambda t: {"step_size": H * t**0.5, "friction": GAMMA / t**0.5}
slow = lambda t: {"step_size": 0.1 * t**0.5, "friction": 1 / t**0.5}
BATHS = {
    "em": (lambda t: tj.overdamped(SYSTEM, "em", **overdamped(t)), exactly(1 / (1 - HK / 2))),
    "lm": (lambda t: tj.overdamped(SYSTEM, "lm", **overdamped(t)), exactly(1.0)),
    "mala": (lambda t: tj.mala(SYSTEM, **overdamped(t)), exactly(1.0)),
    "ghmc": (lambda t: tj.ghmc(SYSTEM, **inertial(t)), exactly(1.0, 1.0)),
    "BAOAB": (lambda t: tj.langevin(SYSTEM, **inertial(t)), exactly(1.0, 1 - KAPPA)),
    "OBABO": (
        lambda t: tj.langevin(SYSTEM, "OBABO", **inertial(t)),
        exactly(1 / (1 - KAPPA), 1.0),
    ),
    "BAOAB minibatch": (
        lambda t: tj.langevin(SYSTEM, gradient=tj.minibatch(BATCH), **inertial(t)),
        noisy_baoab,
    ),
    "sgld": (lambda t: tj.sgld(SYSTEM, tj.minibatch(BATCH), **overdamped(t)), noisy_sgld),
    "psgld": (
        lambda t: tj.psgld(
            SYSTEM,
            tj.full(),
            step_size=H * t * (STIFFNESS * t) ** 0.5,
            damping=(STIFFNESS * t) ** 0.5,
            warmup=20,
        ),
        frozen_metric,
    ),
    "sghmc": (
        lambda t: tj.sghmc(SYSTEM, tj.full(), step_size=H * t, friction=LEAK),
        semi_implicit,
    ),
    "adaptive": (lambda t: tj.adaptive_langevin(SYSTEM, tj.full(), **slow(t)), exactly(1, 1)),
    "nose-hoover": (lambda t: tj.nose_hoover_langevin(SYSTEM, **slow(t)), exactly(1, 1)),
    "random walk": (lambda t: tj.random_walk(SYSTEM, step_size=t**0.5), exactly(1.0)),
    "driven": (
        lambda t: tj.driven(
            optax.sgd(H * WELLS.size),
            SYSTEM,
            tj.full(),
            inject_T=t,
            learning_rate=H * WELLS.size,
        ),
        exactly(1 / (1 - HK / 2)),
    ),
}
SECOND_ORDER = {"adaptive": 0.005, "nose-hoover": 0.005}


def settled(kernel, temperature, variance):
    """The ensemble some relaxation times after a Gaussian of the predicted width."""
    x = np.random.default_rng(5).normal(size=(WALKERS, 1)) * np.sqrt(variance)
    point = tj.Point(jnp.float32(1 / temperature))
    st = tj.init_ensemble(
        kernel, jax.random.key(1), point, WALKERS, TILE, positions=jnp.float32(x)
    )
    return tj.run(kernel, jax.random.key(2), st, point, N_STEPS, ledger="none")[0]


def readings(kernel, st, temperature):
    """Thermometers over T."""
    seen = jax.vmap(kernel.observe)(st.walkers).position
    add_time = lambda tree: jax.tree.map(lambda x: x[:, None], tree)
    momenta = getattr(st.walkers, "momentum", ())
    driven = kernel.meta.name == "driven"
    read = tj.read_thermometers(
        SYSTEM,
        add_time(seen),
        tj.Point(jnp.float32(1 / temperature)),
        jax.random.key(3),
        momenta=add_time(momenta) if kernel.meta.momentum else (),
        potential="energy" if driven else "reduced",
        tile=2000,
    )
    return {
        name: (float(one.value[0]) / temperature, float(one.stderr[0]) / temperature)
        for name, one in read._asdict().items()
        if name in ("kinetic", "configurational", "virial")
    }


@pytest.mark.parametrize("name", BATHS)
def test_temperature(name):
    make, expected = BATHS[name]
    slack = SECOND_ORDER.get(name, 0.0)
    for t in TEMPERATURES:
        kernel = make(jnp.float32(t))
        start = 1.0 if name == "psgld" else expected(t, None)[0]
        st = settled(kernel, t, start * t / STIFFNESS)
        position, momentum = expected(t, st)
        shown = readings(kernel, st, t)
        for thermometer in ("configurational", "virial"):
            value, error = shown[thermometer]
            assert error < 0.02 * position
            check(value, position, error + slack)
        if momentum is None:
            assert not np.isfinite(shown["kinetic"][0])
        else:
            check(shown["kinetic"][0], momentum, shown["kinetic"][1] + slack)
    # power: a bath five per cent too hot is seen by either thermometer of the positions
    if name == "driven":
        hot = settled(make(1.1 * t), t, 1.1 * start * t / STIFFNESS)
    else:
        hot = settled(kernel, 1.1 * t, 1.1 * start * t / STIFFNESS)
    value, error = readings(kernel, hot, t)["virial"]
    caught(value, position, error + slack)
