"""Random-walk Metropolis: no gradient, for rough or discontinuous energies.

    theta' = theta + step_size S xi,    accepted with min(1, exp(-Delta u))

Exact. The proposal is symmetric, so the whole change of u is taken from the bath.

Source: Metropolis et al. 1953; acceptance 0.234 for many parameters: Roberts, Gelman &
Gilks 1997.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.accumulators import two_diff
from thermojax.dynamics.kernel import (
    Info,
    Kernel,
    KernelMeta,
    Ledger,
    Stream,
    balance,
    choose,
    control_move,
    evaluate,
    point_beta,
    stream,
    total_energies,
    totals_before,
)
from thermojax.dynamics.leaves import as_inexact, dtype_of, scales, size, split
from thermojax.dynamics.splitting import draw
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.noise import normal
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["RandomWalkParams", "RandomWalkState", "random_walk"]


class RandomWalkParams(NamedTuple):
    """Length of the proposal in units of the spread of theta, and that spread."""

    step_size: ArrayLike
    scale: PyTree


class RandomWalkState(NamedTuple):
    """One walker.

    Attributes:
        position: theta.
        energy: U(theta).
        log_base: log m(theta).
        beta: inverse temperature of the last point.
        kinetic: 0; there are no momenta.
        totals: U and u, as the ledger counts them.
    """

    position: PyTree
    energy: Array
    log_base: Array
    beta: Array
    kinetic: Array
    totals: tuple[Array, Array]


def _start(sys: System, theta: PyTree, point: Point, key: Key | None = None):
    theta = as_inexact(theta)
    if sys.template is not None:
        sys.template.check(theta)
    at = evaluate(sys, theta, point.control, grad=False)
    beta, zero = point_beta(point, at.energy.dtype), jnp.zeros_like(at.energy)
    state = RandomWalkState(theta, at.energy, at.log_base, beta, zero, (beta, beta))
    return state._replace(totals=total_energies(state))


def _step(sys, key, state, point, params):
    dtype, theta = state.energy.dtype, state.position
    beta = point_beta(point, dtype)
    xi = split(normal(stream(key, Stream.NOISE), size(theta), dtype_of(theta)), theta)
    length = jnp.asarray(params.step_size, dtype)
    move = lambda x, s, n: x + length.astype(x.dtype) * s * n
    there = jax.tree.map(move, theta, scales(params.scale, theta), xi)
    at = evaluate(sys, there, point.control, grad=False)
    change = beta * (at.energy - state.energy) - (at.log_base - state.log_base)
    acceptance = jnp.where(jnp.isfinite(change), jnp.exp(jnp.minimum(-change, 0.0)), 0.0)
    accepted = jax.random.uniform(stream(key, Stream.ACCEPT), (), dtype) < acceptance
    old = (theta, state.energy, state.log_base)
    position, energy, log_base = choose(accepted, (there, at.energy, at.log_base), old)
    new = state._replace(position=position, energy=energy, log_base=log_base, beta=beta)
    new = new._replace(totals=total_energies(new))
    flags = raise_flags((Flag.NONFINITE, ~jnp.isfinite(new.energy + new.log_base)))
    zero = jnp.zeros((), dtype)
    return new, Info(_ledger(state, new, zero), acceptance, accepted, zero, flags)


def _ledger(old: RandomWalkState, new: RandomWalkState, zero: Array) -> Ledger:
    (energy0, reduced0), (energy1, reduced1) = totals_before(old, new.beta), new.totals
    heat, bath = two_diff(energy1, energy0)[0], two_diff(reduced1, reduced0)[0]
    return Ledger(
        work=zero,
        heat=heat,
        protocol=zero,
        shadow=zero,
        bath=bath,
        energy_rounding=balance(energy1, energy0, heat),
        nats_rounding=balance(reduced1, reduced0, bath),
    )


def _drive(sys, state, point):
    new = state._replace(beta=point_beta(point, state.energy.dtype))
    if jax.tree.leaves(point.control):
        at = evaluate(sys, state.position, point.control, grad=False)
        new = new._replace(energy=at.energy, log_base=at.log_base)
    return control_move(state, new)


def _itself(state):
    return state


def random_walk(sys: System, *, step_size: ArrayLike = 0.5, scale: PyTree = 1.0) -> Kernel:
    """Metropolis sampling with Gaussian proposals.

    Args:
        sys: the system; its energy need not be differentiable.
        step_size: standard deviation of the proposal in units of `scale`; 2.4 / sqrt(d) is
            best for a Gaussian whose spread is `scale`.
        scale: spread of each parameter, scalar or pytree like theta.

    Returns:
        An exact `Kernel`.

    Example:
        >>> from thermojax import init_ensemble, run, system
        >>> kernel = random_walk(system(lambda x: jnp.floor(jnp.abs(x)), like=0.0))
        >>> key, point = jax.random.key(0), Point(1.0)
        >>> st = init_ensemble(kernel, key, point, 8, positions=jnp.zeros(8))
        >>> st, out = run(kernel, key, st, point, 50)
        >>> bool(out["acceptance"].mean() > 0.5)
        True
    """
    meta = KernelMeta(
        name="random walk",
        exact=True,
        order=0,
        reversible=True,
        momentum=False,
        gradients_per_step=0,
        target_acceptance=0.234,
    )
    bind = jax.tree_util.Partial
    return Kernel(
        init=bind(_start, sys),
        step=bind(_step, sys),
        drive=bind(_drive, sys),
        params=jax.tree.map(jnp.asarray, RandomWalkParams(step_size, scale)),
        meta=meta,
        observe=bind(_itself),
        sample=bind(draw, sys),
    )
