"""Warm-up: step size and diagonal scale from the ensemble, then frozen.

An adapting chain is not a bath, so adaptation happens before a run and ends with it: its
result is a set of kernel parameters that `run` then keeps fixed. One step size and one
scale serve the whole ensemble, so that every walker samples the same law.

Source: specification of the core, section 2.10 (derived here); step sizes by the
Robbins-Monro recursion log eps += 2 (1 + k)^-0.6 (acceptance - target), where k counts the
changes of sign (Kesten), so that a poor first step is left behind quickly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.dynamics.kernel import Kernel
from thermojax.ensembles import EnsembleState, run
from thermojax.progress import reporter
from thermojax.system import Point
from thermojax.typing import Array, Key, PyTree

__all__ = ["Adaptation", "adapt", "spread_of"]


class Adaptation(NamedTuple):
    """Frozen parameters and how they were found.

    Attributes:
        params: kernel parameters to pass to `run`.
        step_size: [rounds] step size of each round.
        acceptance: [rounds] mean acceptance of each round over the finite walkers.
    """

    params: PyTree
    step_size: Array
    acceptance: Array


def spread_of(positions: PyTree) -> PyTree:
    """Standard deviation of every parameter over the leading axis.

    Clipped to a factor of 1e3 about the geometric mean; walkers that are not finite do
    not count.
    """
    leaves = jax.tree.leaves(positions)
    finite = jnp.ones(leaves[0].shape[0], bool)
    for x in leaves:
        finite &= jnp.all(jnp.isfinite(x.reshape(x.shape[0], -1)), axis=1)
    count = jnp.maximum(jnp.sum(finite), 1)

    def one(x):
        on = finite.reshape((-1,) + (1,) * (x.ndim - 1))
        mean = jnp.sum(jnp.where(on, x, 0.0), axis=0) / count
        return jnp.sqrt(jnp.sum(jnp.where(on, (x - mean) ** 2, 0.0), axis=0) / count)

    spread = jax.tree.map(one, positions)
    flat = jnp.concatenate([jnp.ravel(s) for s in jax.tree.leaves(spread)])
    moved = flat > 0
    total = jnp.sum(jnp.where(moved, jnp.log(jnp.where(moved, flat, 1.0)), 0.0))
    middle = jnp.exp(total / jnp.maximum(jnp.sum(moved), 1))
    return jax.tree.map(lambda s: jnp.clip(s, 1e-3 * middle, 1e3 * middle), spread)


def adapt(
    kernel: Kernel,
    key: Key,
    st: EnsembleState,
    point: Point,
    n_steps: int = 500,
    *,
    rounds: int = 25,
    target: float | None = None,
    scale: bool = True,
    progress: bool | Callable[[int, int], None] = False,
) -> tuple[EnsembleState, Adaptation]:
    """Tune step size and scale on the ensemble, in rounds; then they are frozen.

    Args:
        kernel: a Langevin kernel, metropolised or not; an unadjusted one aims at the
            probability with which its moves would have been accepted.
        key: base key.
        st: the ensemble; it moves on while adapting.
        point: thermodynamic state.
        n_steps: steps in all.
        rounds: number of times the parameters change.
        target: mean acceptance to aim at; the kernel's own by default.
        scale: also take the spread of the walkers as diagonal preconditioner.
        progress: see `run`.

    Returns:
        The ensemble, and an `Adaptation` whose `params` go into `run(..., params=...)`.

    Raises:
        ValueError: fewer steps than rounds, a target outside (0, 1), or a kernel without
            acceptance (estimated gradients, flips, optimisers).
    """
    if not hasattr(kernel.params, "step_size") or math.isnan(kernel.meta.target_acceptance):
        raise ValueError(
            f"{kernel.meta.name} has no acceptance to adapt its step to: choose step_size by "
            "hand, or adapt tj.mala on the same system and use its step"
        )
    target = kernel.meta.target_acceptance if target is None else target
    if not 0 < target < 1:
        raise ValueError(f"target={target} must lie between 0 and 1")
    if rounds < 1 or n_steps < rounds:
        raise ValueError(f"n_steps={n_steps} must be at least rounds={rounds} >= 1")
    params: Any = kernel.params
    log_step = jnp.log(params.step_size)
    average, weight = jnp.zeros_like(log_step), 0.0
    turns, before = jnp.zeros(()), jnp.zeros(())
    steps, seen = [], []
    with reporter(progress, n_steps, "adapting") as report:
        for k in range(1, rounds + 1):
            if scale and st.size > 1:
                params = params._replace(scale=spread_of(st.position))
            params = params._replace(step_size=jnp.exp(log_step))
            st, out = run(
                kernel, key, st, point, n_steps // rounds, params=params, ledger="none"
            )
            acceptance = jnp.nanmean(jnp.where(out["flags"] == 0, out["acceptance"], jnp.nan))
            acceptance = jnp.nan_to_num(acceptance)
            steps.append(jnp.exp(log_step))
            seen.append(acceptance)
            miss = acceptance - target
            turns = turns + (miss * before < 0)
            before = miss
            log_step = log_step + 2.0 * (1 + turns) ** -0.6 * miss
            if k > rounds // 2:
                average, weight = average + log_step, weight + 1.0
            report(n_steps // rounds)
    params = params._replace(step_size=jnp.exp(average / weight))
    return st, Adaptation(params, jnp.stack(steps), jnp.stack(seen))
