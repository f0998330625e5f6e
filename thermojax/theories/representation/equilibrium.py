"""Equilibration by any optax optimiser, and the tests that tell whether it is over.

Three things vanish at equilibrium: the mean gradient against its noise, the drift of J
against its error, and the first-law residual of the last control steps. The first two are
read here from one run; the third, the sharpest, needs a trajectory.

Source: our definitions, following the programme of Gao & Chaudhari 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.typing import Array, Key, PyTree

__all__ = ["EquilibrationInfo", "equilibrate"]

_MEMORY = 0.99
_BLOCKS = 10


class EquilibrationInfo(NamedTuple):
    """What a run of gradient steps says about its own end.

    Attributes:
        losses: [n] J before each step, nats per example.
        grad_norm: [n] norm of the gradient of each step.
        gradient_ratio: norm of the running mean of the last hundred gradients, over the
            norm that their noise alone would leave in it; about 1 at equilibrium, inf for a
            gradient without noise that has not vanished.
        drift: slope of J over the second half of the run, nats per 1000 steps.
        drift_stderr: its standard error from ten block means, which ignores correlations
            between blocks; nan for fewer than 20 steps.
    """

    losses: Array
    grad_norm: Array
    gradient_ratio: Array
    drift: Array
    drift_stderr: Array


def equilibrate(
    loss_fn: Callable[[PyTree, Key], Array],
    params: PyTree,
    opt_state: PyTree,
    optimizer: Any,
    key: Key,
    num_steps: int,
) -> tuple[PyTree, PyTree, EquilibrationInfo]:
    """Gradient steps on J at fixed controls, in one compiled scan.

        params <- params + update(grad J(params; key_k)),   k = 1 .. num_steps

    Args:
        loss_fn: `(params, key) -> J`, a scalar in nats per example. To change controls or
            data without compiling again give `jax.tree_util.Partial(loss, multipliers,
            data)` with `loss(multipliers, data, params, key)`: what is bound is traced.
        params: where to start.
        opt_state: state of the optimiser; None for `optimizer.init(params)`.
        optimizer: an optax `GradientTransformation`.
        key: typed key; step k sees `fold_in(key, k)`.
        num_steps: number of steps.

    Returns:
        params, opt_state and `EquilibrationInfo`. Works under jit; vmap over params,
        opt_state and key for several seeds.

    Raises:
        ValueError: num_steps < 1.

    Source:
        Tests of equilibrium: our definition, following the paper's programme.

    Example:
        >>> import optax
        >>> loss = lambda p, key: 0.5 * (p - 3.0) ** 2
        >>> p, _, info = equilibrate(
        ...     loss, jnp.zeros(()), None, optax.sgd(0.5), jax.random.key(0), 40
        ... )
        >>> round(float(p), 5), info.losses.shape
        (3.0, (40,))
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    if not isinstance(loss_fn, jax.tree_util.Partial):
        loss_fn = jax.tree_util.Partial(loss_fn)
    if opt_state is None:
        opt_state = optimizer.init(params)
    return _equilibrate(loss_fn, params, opt_state, key, optimizer, num_steps)


class _Running(NamedTuple):
    """Running means of the gradient and of its square, not yet corrected for their start."""

    mean: PyTree
    square: Array


@jax.jit(static_argnames=("optimizer", "num_steps"))
def _equilibrate(loss_fn, params, opt_state, key, optimizer, num_steps):
    from optax import apply_updates

    def step(carry, k):
        params, opt_state, running = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, jax.random.fold_in(key, k))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        square = _square(grads)
        blend = lambda old, new: _MEMORY * old + (1 - _MEMORY) * new
        running = _Running(
            jax.tree.map(blend, running.mean, grads), blend(running.square, square)
        )
        carry = apply_updates(params, updates), opt_state, running
        return carry, (loss, jnp.sqrt(square))

    none = _Running(jax.tree.map(jnp.zeros_like, params), jnp.zeros_like(_square(params)))
    carry = params, opt_state, none
    carry, (losses, norms) = jax.lax.scan(step, carry, jnp.arange(num_steps))
    params, opt_state, running = carry
    ratio = _gradient_ratio(running, num_steps)
    return params, opt_state, EquilibrationInfo(losses, norms, ratio, *_drift(losses))


def _square(tree: PyTree) -> Array:
    """Squared norm of a pytree."""
    leaves = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)]
    return sum(leaves[1:], leaves[0])


def _gradient_ratio(running: _Running, num_steps: int) -> Array:
    """Norm of the mean gradient, over what independent noise would leave in it."""
    seen = 1 - _MEMORY**num_steps
    mean = _square(running.mean) / seen**2
    # sum of the squared weights of the running mean: what it leaves of the noise
    left = (1 - _MEMORY) * (2 - seen) / ((1 + _MEMORY) * seen)
    if num_steps == 1:
        return jnp.full_like(mean, jnp.nan)
    noise = left * jnp.maximum(running.square / seen - mean, 0.0) / (1 - left)
    ratio = jnp.sqrt(mean / jnp.where(noise > 0, noise, 1.0))
    return jnp.where(noise > 0, ratio, jnp.where(mean > 0, jnp.inf, 0.0))


def _drift(losses: Array) -> tuple[Array, Array]:
    """Slope of the second half per 1000 steps, and its error from the scatter of blocks."""
    length = losses.shape[0] // 2 // _BLOCKS
    if length < 1:
        nan = jnp.full((), jnp.nan, losses.dtype)
        return nan, nan
    blocks = jnp.mean(losses[-length * _BLOCKS :].reshape(_BLOCKS, length), axis=1)
    place = length * (jnp.arange(_BLOCKS, dtype=losses.dtype) - (_BLOCKS - 1) / 2)
    spread = jnp.sum(place**2)
    slope = jnp.sum(place * blocks) / spread
    rest = blocks - jnp.mean(blocks) - slope * place
    error = jnp.sqrt(jnp.sum(rest**2) / (_BLOCKS - 2) / spread)
    return 1000 * slope, 1000 * error
