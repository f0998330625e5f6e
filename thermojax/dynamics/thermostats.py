"""Underdamped baths with an estimated gradient, and thermostats, as palindromic words.

    B   r  -= t S grad u                    kick, estimated gradient
    A   theta += t S r                      drift
    O   r   = c r + s xi                    c = exp(-x t), x the friction of the bath
    D   z  += t (|r|^2 - d) / Q             thermostat variable z reads the temperature
    N   r   = exp(-z t) r                   friction by the thermostat
    X   z   = c z + sqrt((1 - c^2) / Q) xi  noise on the thermostat

    BAOAB        langevin            friction constant
    BADODAB      adaptive Langevin   x = z in O, noise of strength A whatever z is
    BANDXDNAB    Nose-Hoover-Langevin
    BACAB        Nose-Hoover chain of M thermostats (C), deterministic

Each letter's time is the step over its multiplicity; Q = thermal_mass d. Reduced units:
h = step_size / sqrt(T) for unit masses, physical friction sqrt(T) times the reduced one.

Source: specification of the core, 2.7; Ding et al. 2014; Leimkuhler & Shang 2016; Samoletov,
Dettmann & Chaplain 2007; Leimkuhler, Noorizadeh & Theil 2009; Martyna, Klein & Tuckerman
1992.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.dynamics.gradients import Gradient, full
from thermojax.dynamics.kernel import Kernel, Stream, stream
from thermojax.dynamics.leaves import kinetic, scales, size
from thermojax.dynamics.sgmcmc import default_gradient, draw_like, facts, unknown
from thermojax.dynamics.stochastic import BathState, Moved, make_kernel
from thermojax.system import System
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = [
    "ThermostatParams",
    "adaptive_langevin",
    "nose_hoover_chain",
    "nose_hoover_langevin",
    "underdamped",
]


class ThermostatParams(NamedTuple):
    """Numbers of an underdamped bath, all traced.

    Attributes:
        step_size: reduced time of one word.
        friction: constant friction of O, noise strength A of an adaptive bath, or friction
            of the noise on a Nose-Hoover thermostat; per unit reduced time.
        thermal_mass: Q / d, the thermostat's inertia per degree of freedom.
        scale: spread of each parameter.
    """

    step_size: ArrayLike
    friction: ArrayLike
    thermal_mass: ArrayLike
    scale: PyTree


class _Walk(NamedTuple):
    """A walker between letters; `nats` is the heat of the O letters so far."""

    theta: PyTree
    r: PyTree
    bath: Any
    nats: Array


def _stretch(rate: Array, time: Array) -> Array:
    """(1 - exp(-2 rate time)) / (2 rate), also where the rate vanishes."""
    x = 2 * rate * time
    small = jnp.abs(x) < 1e-3
    safe = jnp.where(small, 1.0, x)
    return time * jnp.where(small, 1 - x / 2 + x * x / 6, -jnp.expm1(-safe) / safe)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Letters:
    """A word over the letters of the module docstring; its last letter is a kick."""

    word: str
    chain: int = 0
    momentum = True

    def start(self, at: BathState, params: ThermostatParams) -> PyTree:
        dtype = at.energy.dtype
        if self.chain:
            return jnp.zeros(self.chain, dtype), jnp.zeros(self.chain, dtype)
        if self.word == "BAOAB":
            return ()
        return jnp.asarray(params.friction if "O" in self.word else 0.0, dtype)

    def _time(self, letter: str, params: ThermostatParams, dtype: Any) -> Array:
        return jnp.asarray(params.step_size, dtype) / self.word.count(letter)

    def _kick(self, walk, slope, params, dtype):
        t, scale = self._time("B", params, dtype), scales(params.scale, walk.r)
        r = jax.tree.map(lambda r, g, s: r - t.astype(r.dtype) * s * g, walk.r, slope, scale)
        return walk._replace(r=r)

    def open(self, key, state, slope, curvature, params):
        dtype = state.energy.dtype
        walk = _Walk(state.position, state.momentum, state.bath, jnp.zeros((), dtype))
        walk = self._kick(walk, slope, params, dtype)
        for letter in self.word[1:-1]:
            t = self._time(letter, params, dtype)
            walk = getattr(self, f"_{letter.lower()}")(walk, key, t, params, dtype)
        return Moved(walk.theta, walk.r, walk.bath, walk.nats, jnp.uint32(0))

    def close(self, moved, slope, params):
        walk = _Walk(moved.position, moved.momentum, moved.bath, moved.record)
        walk = self._kick(walk, slope, params, moved.record.dtype)
        return moved._replace(momentum=walk.r)

    def nats(self, record, slope, held, params, dtype):
        return record if self.word == "BAOAB" else unknown(dtype)

    def _a(self, walk, key, t, params, dtype):
        move = lambda x, r, s: x + t.astype(x.dtype) * s * r
        scale = scales(params.scale, walk.theta)
        return walk._replace(theta=jax.tree.map(move, walk.theta, walk.r, scale))

    def _o(self, walk, key, t, params, dtype):
        noise = jnp.asarray(params.friction, dtype)
        rate = noise if self.word == "BAOAB" else walk.bath
        keep, spread = jnp.exp(-rate * t), jnp.sqrt(2 * noise * _stretch(rate, t))
        mix = lambda r, xi: keep.astype(r.dtype) * r + spread.astype(r.dtype) * xi
        r = jax.tree.map(mix, walk.r, draw_like(key, walk.r))
        heat = kinetic(r, dtype) - kinetic(walk.r, dtype)
        return walk._replace(r=r, nats=walk.nats + heat)

    def _d(self, walk, key, t, params, dtype):
        d = size(walk.r)
        excess = 2 * kinetic(walk.r, dtype) / d - 1
        return walk._replace(bath=walk.bath + t * excess / params.thermal_mass)

    def _n(self, walk, key, t, params, dtype):
        factor = jnp.exp(-walk.bath * t)
        return walk._replace(r=jax.tree.map(lambda r: factor.astype(r.dtype) * r, walk.r))

    def _x(self, walk, key, t, params, dtype):
        keep = jnp.exp(-jnp.asarray(params.friction, dtype) * t)
        spread = jnp.sqrt((1 - keep**2) / (params.thermal_mass * size(walk.r)))
        xi = jax.random.normal(stream(key, Stream.THERMOSTAT), (), dtype)
        return walk._replace(bath=keep * walk.bath + spread * xi)

    def _c(self, walk, key, t, params, dtype):
        r, z, eta = _chain(walk.r, *walk.bath, t, params.thermal_mass, dtype)
        return walk._replace(r=r, bath=(z, eta))


def _chain(r, z, eta, t, mass, dtype):
    """Two half turns: down the chain, friction on r, and up again (second order)."""
    d, m = size(r), z.shape[0]
    inertia = jnp.where(jnp.arange(m) == 0, d, 1) * jnp.asarray(mass, dtype)

    def push(z, j, twice):
        force = twice - d if j == 0 else inertia[j - 1] * z[j - 1] ** 2 - 1
        brake = jnp.exp(-t / 8 * z[j + 1]) if j + 1 < m else 1.0
        return z.at[j].set(brake * (brake * z[j] + t / 4 * force / inertia[j]))

    def half(factor, z, eta):
        for j in reversed(range(m)):
            z = push(z, j, twice * factor**2)
        factor, eta = factor * jnp.exp(-t / 2 * z[0]), eta + t / 2 * z
        for j in range(m):
            z = push(z, j, twice * factor**2)
        return factor, z, eta

    twice = 2 * kinetic(r, dtype)
    factor, z, eta = half(*half(jnp.ones((), dtype), z, eta))
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, r), z, eta


def underdamped(
    sys: System,
    gradient: Gradient | None = None,
    *,
    step_size: ArrayLike = 0.01,
    friction: ArrayLike = 1.0,
    scale: PyTree = 1.0,
    bookkeeping: str = "control",
) -> Kernel:
    """BAOAB with an estimated gradient: `tj.langevin(..., gradient=...)`.

    Minibatch noise heats it: additive force noise of variance s^2 per step raises the
    temperature by h s^2 / (2 gamma) to leading order in the step h.
    """
    return _thermostat("BAOAB", sys, gradient, step_size, friction, 1.0, scale, bookkeeping)


def adaptive_langevin(
    sys: System,
    gradient: Gradient | None = None,
    *,
    step_size: ArrayLike = 0.01,
    friction: ArrayLike = 1.0,
    thermal_mass: ArrayLike = 1.0,
    scale: PyTree = 1.0,
    bookkeeping: str = "control",
) -> Kernel:
    """Langevin dynamics whose friction finds itself (SGNHT), split as BADODAB.

        dr = -S g dt - z r dt + sqrt(2 A) dW,     dz = (|r|^2 / d - 1) / thermal_mass dt

    The thermostat z absorbs force noise of unknown but constant variance s^2 per step (of
    grad u): <z> = A + step_size s^2 / 2, and positions keep their temperature. Noise that
    depends on theta breaks it: compare configurational with kinetic temperature.

    Args:
        sys: the system.
        gradient: estimator of grad U; by default 64 examples without replacement.
        step_size: reduced time of one word.
        friction: strength A of the injected noise, and initial value of z.
        thermal_mass: inertia of z per degree of freedom.
        scale: spread of each parameter.
        bookkeeping: see `sgld`.

    Returns:
        A `Kernel` whose `state.bath` is z; nats are nan.

    Raises:
        ValueError: unknown bookkeeping; a minibatch of an energy that is no sum.
    """
    word = "BADODAB"
    return _thermostat(
        word, sys, gradient, step_size, friction, thermal_mass, scale, bookkeeping
    )


def nose_hoover_langevin(
    sys: System,
    gradient: Gradient | None = None,
    *,
    step_size: ArrayLike = 0.05,
    friction: ArrayLike = 1.0,
    thermal_mass: ArrayLike = 1.0,
    scale: PyTree = 1.0,
    bookkeeping: str = "control",
) -> Kernel:
    """Nose-Hoover dynamics with an Ornstein-Uhlenbeck thermostat: ergodic, hardly noisy.

        dr = -S g dt - z r dt,   dz = (|r|^2 - d)/Q dt - gamma z dt + sqrt(2 gamma / Q) dW

    One random number per step acts on the thermostat alone. Second order in step_size.

    Args:
        sys: the system.
        gradient: estimator of grad U; all examples by default.
        step_size: reduced time of one word.
        friction: gamma of the thermostat's own noise.
        thermal_mass: Q / d.
        scale: spread of each parameter.
        bookkeeping: see `sgld`.

    Returns:
        A `Kernel` whose `state.bath` is z; nats are nan.

    Raises:
        ValueError: unknown bookkeeping; a minibatch of an energy that is no sum.
    """
    return _thermostat(
        "BANDXDNAB",
        sys,
        full() if gradient is None else gradient,
        step_size,
        friction,
        thermal_mass,
        scale,
        bookkeeping,
    )


def nose_hoover_chain(
    sys: System,
    *,
    length: int = 3,
    step_size: ArrayLike = 0.05,
    thermal_mass: ArrayLike = 1.0,
    scale: PyTree = 1.0,
) -> Kernel:
    """Deterministic Nose-Hoover chain. Beware: not ergodic on stiff or harmonic systems.

    From one start on a harmonic oscillator k<x^2>/T comes out near 0.8 with one thermostat,
    0.93 with two, 0.985 with three; `nose_hoover_langevin` gives 1. It conserves
    u + |r|^2/2 + sum Q_j z_j^2 / 2 + d eta_1 + sum_{j>1} eta_j up to O(step_size^2).

    Args:
        sys: the system.
        length: number of thermostats.
        step_size: reduced time of one step.
        thermal_mass: Q_1 / d, and Q_j of the others.
        scale: spread of each parameter.

    Returns:
        A `Kernel` whose `state.bath` is (z [length], eta [length]).

    Raises:
        ValueError: a chain without thermostats.
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1 thermostat")
    params = ThermostatParams(step_size, 0.0, thermal_mass, scale)
    rule = _Letters("BACAB", chain=length)
    meta = facts("nose-hoover chain", momentum=True, order=2)
    return make_kernel(rule, sys, full(), params, "control", meta)


def _thermostat(word, sys, gradient, step_size, friction, mass, scale, bookkeeping):
    gradient = default_gradient(gradient, sys)
    params = ThermostatParams(step_size, friction, mass, scale)
    density = word == "BAOAB"
    meta = facts(word, momentum=True, order=2, density=density)
    return make_kernel(_Letters(word), sys, gradient, params, bookkeeping, meta)
