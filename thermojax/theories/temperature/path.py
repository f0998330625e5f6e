"""Heat and entropy of every layer along real training, and the temperatures they make.

For gradient descent theta' = theta - eps g on every member of an ensemble, g = grad U, H the
Hessian at theta,

    Delta E_l = sum_k <(g_k + g_(k+1))_l . (theta_k - theta_(k+1))_l> / 2
    Delta S_l = sum_k <tr_l[-ln(1 - eps H_k)]> = sum_k <sum_j (eps^j / j) tr_l H_k^j>
    T_l = Delta E_l / Delta S_l,   T = sum_l Delta E_l / sum_l Delta S_l

The energies add up to E_0 - E_K to O(eps^2) (exactly for a quadratic U), the entropies to
the change of variables -ln |det(1 - eps H)|, while the map is one-to-one: eps lambda_max < 1.
Every step counts: sums over checkpoints miss the first steps, where most of it happens.

Source: our definition, following the programme of Zhang (2024).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thermojax.blocks import Blocks, block_dots, split
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.temperatures import members, ratio_of_means
from thermojax.theories.temperature.states import Transition
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = ["path_transition"]

CLOSURE = 0.01
"""Part of the energy change that the layers' heats may miss before the path is too coarse."""


def path_transition(
    potential: Callable[[PyTree], Array],
    ensemble: PyTree,
    *,
    step_size: ArrayLike,
    num_steps: int,
    blocks: Blocks | None = None,
    method: str = "hutchinson",
    order: int = 2,
    probes: int = 1,
    key: Key | None = None,
    batch_size: int | None = None,
) -> tuple[PyTree, dict[str, Transition], Transition]:
    """Train an ensemble by gradient descent and account for every layer's heat and entropy.

    Args:
        potential: params -> U, scalar.
        ensemble: params with a leading axis of M members.
        step_size: eps.
        num_steps: K, accumulated at each.
        blocks: params -> {name: subtree}; top-level keys by default.
        method: "hutchinson" (order - 1 extra Hessian products a step and probe) or "dense"
            (eigenvalues of the whole Hessian each step; D up to about 2,000).
        order: terms of the logarithm for "hutchinson"; its error is O(eps^order) at fixed
            eps * K.
        probes: per step, for "hutchinson".
        key: typed key of the probes.
        batch_size: members trained at once; all by default.

    Returns:
        The ensemble after training, {block: `Transition`}, and the whole's. TOO_COARSE where
        the heats miss more than 1 % of the energy change, or ("dense") where a step folds
        the ensemble over, eps |lambda| >= 1.

    Raises:
        ValueError: an unknown method, "hutchinson" without a key, no steps, a step size that
            is not positive.

    Example:
        >>> ensemble = jnp.array([-1.0, 1.0])
        >>> _, _, whole = path_transition(
        ...     lambda x: x**2, ensemble, step_size=0.1, num_steps=10, method="dense"
        ... )
        >>> print(f"{whole.temperature:.5f}")
        0.44298
    """
    if method not in ("hutchinson", "dense"):
        raise ValueError(f"method={method!r} is unknown: use 'hutchinson' or 'dense'")
    if method == "hutchinson" and key is None:
        raise ValueError("method='hutchinson' uses random probes: give key=")
    if num_steps < 1 or order < 1 or probes < 1:
        raise ValueError(f"num_steps={num_steps}, order={order}, probes={probes}: at least 1")
    if is_concrete(step_size) and not np.all(np.asarray(step_size) > 0):
        raise ValueError(f"step_size={step_size} must be positive")
    count = members(ensemble)
    one = jax.tree.map(lambda x: x[0], ensemble)
    names = list(split(one, blocks))
    keys = jax.random.split(jax.random.key(0) if key is None else key, count)

    def entropy(params, key):
        if method == "dense":
            return _dense(potential, params, step_size, blocks)
        return _series(potential, params, step_size, blocks, order, probes, key)

    def walk(params_and_key):
        return _train(potential, *params_and_key, step_size, num_steps, blocks, entropy)

    final, heat, made, drop, stiff = jax.lax.map(
        walk, (ensemble, keys), batch_size=batch_size or count
    )
    missed = jnp.abs(jnp.mean(jnp.sum(heat, axis=1) - drop))
    coarse = missed > CLOSURE * jnp.abs(jnp.mean(drop))
    folded = jnp.max(stiff) >= 1
    bad = ~jnp.all(jnp.isfinite(heat)) | ~jnp.all(jnp.isfinite(made))
    flags = raise_flags((Flag.TOO_COARSE, coarse | folded), (Flag.NONFINITE, bad))
    each = {name: _transition(heat[:, i], made[:, i], flags) for i, name in enumerate(names)}
    return final, each, _transition(jnp.sum(heat, axis=1), jnp.sum(made, axis=1), flags)


def _transition(heat: Array, made: Array, flags: Array) -> Transition:
    value, error = ratio_of_means(heat, made)
    return Transition(jnp.mean(heat), jnp.mean(made), value, error, flags)


def _train(potential, params, key, step_size, num_steps, blocks, entropy):
    slope = jax.value_and_grad(potential)
    start, first = slope(params)

    def step(carry, index):
        params, gradient, heat, made, stiff = carry
        eps = jnp.asarray(step_size, start.dtype)
        extra, steep = entropy(params, jax.random.fold_in(key, index))
        moved = jax.tree.map(lambda x, g: x - eps * g, params, gradient)
        energy, after = slope(moved)
        mean = jax.tree.map(lambda a, b: 0.5 * eps * (a + b), gradient, after)
        heat = heat + block_dots(mean, gradient, blocks)
        return (moved, after, heat, made + extra, jnp.maximum(stiff, steep)), energy

    zeros = jnp.zeros(len(split(params, blocks)), start.dtype)
    carry = (params, first, zeros, zeros, jnp.zeros((), start.dtype))
    carry, energies = jax.lax.scan(step, carry, jnp.arange(num_steps))
    final, _, heat, made, stiff = carry
    return final, heat, made, start - energies[-1], stiff


def _dense(potential, params, step_size, blocks) -> tuple[Array, Array]:
    """tr_l of -ln|1 - eps H|, and the largest eps |lambda|."""
    flat, build = ravel_pytree(params)
    values, vectors = jnp.linalg.eigh(jax.hessian(lambda x: potential(build(x)))(flat))
    scaled = jnp.asarray(step_size, flat.dtype) * values
    diagonal = (vectors**2) @ -jnp.log(jnp.abs(1 - scaled))
    ones = jax.tree.map(jnp.ones_like, params)
    return block_dots(ones, build(diagonal), blocks), jnp.max(jnp.abs(scaled))


def _series(potential, params, step_size, blocks, order, probes, key):
    """Hutchinson's sum_j (eps^j / j) v_l . (H^j v)_l; nothing is known of the largest."""
    push = jax.linearize(jax.grad(potential), params)[1]
    flat, build = ravel_pytree(params)

    def one(key):
        v = build(jax.random.rademacher(key, flat.shape, flat.dtype))
        total, w = 0.0, v
        for j in range(1, order + 1):
            w = jax.tree.map(lambda x: step_size * x, push(w))
            total = total + block_dots(v, w, blocks) / j
        return total

    made = jnp.mean(jax.lax.map(one, jax.random.split(key, probes)), axis=0)
    return made.astype(flat.dtype), jnp.zeros((), flat.dtype)
