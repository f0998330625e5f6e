"""Annealed importance sampling of neuron states, with the core's kernels.

    feedforward   H_lam = H_0 + lam (H - H_0),   H_0 = sum_free 1/2 r^2
    recurrent     the same, with the weights lam w

The rest H - H_0 is the loss of the clamped outputs and the site potential. At lam = 0 the
states are drawn exactly; at every rung the weight takes in -beta (H_lam' - H_lam) at the
state before the move, and `tj.mala` moves with a Metropolis test. The path is a `tj.Point`
whose control is lam, walked by the core's `drive`, so that the weights are the core's
protocol work. `tj.AIS` itself starts from a prior and finds its own ladder along
exp(-beta U); here the start is drawn exactly and the path bends the network.

Source: Neal 2001; Vanchurin 2021 for the ensemble; the paths are our definition, following
the paper's programme.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.dynamics.langevin import mala
from thermojax.ensembles import drive, init_ensemble
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.work import jarzynski
from thermojax.system import Point
from thermojax.system import system as core_system
from thermojax.theories.learning_laws.importance import weighted_state
from thermojax.theories.learning_laws.reference import Example, draw, reference_energy
from thermojax.theories.learning_laws.septuple import System, is_feedforward
from thermojax.theories.learning_laws.states import State
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["Climb", "ais_state", "climb"]

LEAST_ACCEPTANCE = 0.15


class Climb(NamedTuple):
    """Chains at the end of the path.

    Attributes:
        estimate: log(Z_1/Z_0) in nats with its error over chains, ess and flags.
        samples: [K, n] states.
        log_weights: [K] minus the work of each chain, nats.
        acceptance: share of the moves that were accepted.
    """

    estimate: Estimate
    samples: Array
    log_weights: Array
    acceptance: Array


def climb(
    energy: Callable,
    data: PyTree,
    starts: Array,
    beta: ArrayLike,
    key: Key,
    *,
    levels: int = 128,
    step_size: ArrayLike = 0.1,
    moves: int = 1,
) -> Climb:
    """Drive exact draws at lam = 0 to lam = 1; their works give log(Z_1/Z_0).

    Args:
        energy: hashable `(x [n], lam, data) -> H_lam`.
        data: traced numbers of the energy.
        starts: [K, n] independent draws from exp(-beta H_0).
        beta: inverse temperature.
        key: typed key.
        levels: rungs, evenly spaced.
        step_size: drift of a move in units of -grad H; its noise is sqrt(2 step_size T).
        moves: moves per rung.

    Returns:
        `Climb`. BAD_ACCEPTANCE is raised below 15 %; high acceptance is no fault here,
        where few neurons and small steps are common.
    """
    beta = jnp.asarray(beta, starts.dtype)
    sys = core_system(energy, data=data, like=starts[0])
    kernel = mala(sys, step_size=step_size / beta)
    lam = jnp.repeat(jnp.linspace(0.0, 1.0, levels + 1, dtype=starts.dtype)[1:], moves)
    begin = Point(beta, jnp.zeros((), starts.dtype))
    chains = init_ensemble(kernel, key, begin, len(starts), positions=starts)
    chains, ledger = drive(kernel, key, chains, Point(jnp.full_like(lam, beta), lam))
    work = jnp.sum(ledger.protocol, axis=0)
    estimate = jarzynski(work)
    acceptance = jnp.mean(ledger.heat != 0)  # a rejected move exchanges nothing
    stuck = raise_flags((Flag.BAD_ACCEPTANCE, acceptance < LEAST_ACCEPTANCE))
    estimate = estimate._replace(flags=estimate.flags | stuck)
    return Climb(estimate, chains.position, -work, acceptance.astype(starts.dtype))


@dataclasses.dataclass(frozen=True)
class _Path:
    """H_lam of a network; hashable, so that equal networks share a compiled program."""

    network: System

    def __call__(self, x, lam, data):
        params, example = data
        if not is_feedforward(self.network):
            params = {**params, "w": lam * params["w"]}
        start = reference_energy(self.network, params, x, example)
        return start + lam * (self.network.energy(params, x, example) - start)


def ais_state(
    system: System,
    params: PyTree,
    example: Example,
    beta: ArrayLike,
    key: Key,
    *,
    chains: int = 256,
    levels: int = 128,
    step_size: float = 0.1,
    moves: int = 1,
) -> State:
    """The thermodynamics of one example's states by annealed importance sampling.

        log Z = log Z_ref + log mean_k exp(-beta sum_m (H_{m+1} - H_m)(x_m))

    Unbiased in Z, hence low in log Z by half the squared standard error; U, C_v and the
    derivatives come from the weighted states at the end, see `surrogate`.

    Args:
        system: any network whose free neurons all have a residual.
        params: its trainables.
        example: what is clamped.
        beta: inverse temperature of the states.
        key: typed key.
        chains: chains K; they are independent, and their spread is the error bar.
        levels: rungs of the path.
        step_size: drift of a move in units of -grad H; its noise is sqrt(2 step_size T).
        moves: Metropolis-adjusted Langevin moves per rung.

    Returns:
        `State` with stderr (jackknife over chains), ess and flags (LOW_ESS, HEAVY_TAIL,
        BAD_ACCEPTANCE, ...).

    Raises:
        ValueError: a free neuron without residual, which no reference can draw.

    Source: Neal 2001; path our definition, following the paper's programme.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> net = dense_network(1, "tanh")
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
        >>> state = ais_state(net, params, None, 4.0, jax.random.key(0), levels=16)
        >>> bool(abs(state.log_z - 0.6986385) < 4 * state.stderr)
        True
    """
    beta = jnp.asarray(beta, jnp.result_type(*jax.tree.leaves(params)))
    still, clamped, cold = jax.lax.stop_gradient((params, example, beta))
    first, second = jax.random.split(key)
    starts = draw(system, still, clamped, cold, first, chains)
    out = climb(
        _Path(system),
        (still, clamped),
        starts,
        cold,
        second,
        levels=levels,
        step_size=step_size,
        moves=moves,
    )
    return weighted_state(
        system, params, example, beta, out.samples, out.estimate, out.log_weights
    )
