"""The temperature of SGD's noise, and the identity that says whether SGD is stationary.

    T_l = eps tr C_l / (2 B D_l),   C = covariance of the per-example gradients

(times (n - B)/(n - 1) without replacement, 1/(1 - mu) with heavy-ball momentum, n for
U = sum): a prediction for small steps near a minimum. In *any* stationary state of plain
SGD, at every step size and for every loss, exactly

    (eps / 2) <|g_hat_l|^2> = <(theta - c)_l . grad_l U>              c any fixed point
    (1 + mu)(eps / 2) <|trace_l|^2> = the same                        trace' = g_hat + mu trace

Source: textbook; Yaida 2019 for the fluctuation-dissipation relation. The temperatures as
rows of one table: our definition, following the programme of Zhang (2024).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.blocks import Blocks, block_dots, block_sizes, split
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.temperatures import (
    Temperatures,
    make_temperatures,
    members,
    ratio_of_means,
    virial_products,
)
from thermojax.typing import Array, ArrayLike, PyTree, is_concrete

__all__ = ["fluctuation_dissipation", "kick_temperature", "sgd_noise_temperature"]


def _check_rates(step_size: ArrayLike, momentum: ArrayLike) -> None:
    if is_concrete(step_size) and not np.all(np.asarray(step_size) > 0):
        raise ValueError(f"step_size={step_size} must be positive")
    if is_concrete(momentum):
        mu = np.asarray(momentum)
        if not np.all((mu >= 0) & (mu < 1)):
            raise ValueError(f"momentum={momentum} must lie in [0, 1)")


def sgd_noise_temperature(
    per_example_grads: PyTree,
    *,
    step_size: ArrayLike,
    batch_size: int,
    momentum: ArrayLike = 0.0,
    replacement: bool = True,
    reduction: str = "mean",
    blocks: Blocks | None = None,
) -> Temperatures:
    """Predicted temperature of minibatch SGD at one theta, whole and by block.

    Args:
        per_example_grads: leaves [n, ...], gradients of every example's loss at one theta.
        step_size: learning rate on the mean loss.
        batch_size: B.
        momentum: mu of heavy ball.
        replacement: batches drawn with replacement.
        reduction: "mean", or "sum" where U is the sum of the losses (T is n times larger).
        blocks: params -> {name: subtree}; top-level keys by default.

    Returns:
        `Temperatures`; its error is that of the covariance's trace over the examples.

    Raises:
        ValueError: an unknown reduction, a batch larger than n without replacement, a rate
            out of range.
    """
    count = members(per_example_grads, 2)
    _check_rates(step_size, momentum)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} is unknown: use 'mean' or 'sum'")
    if batch_size < 1 or (not replacement and batch_size > count):
        raise ValueError(f"batch_size={batch_size} does not fit {count} examples")
    one = jax.tree.map(lambda x: x[0], per_example_grads)
    sizes = block_sizes(one, blocks)
    centred = jax.tree.map(lambda x: x - jnp.mean(x, axis=0), per_example_grads)
    squares = jax.vmap(lambda g: block_dots(g, g, blocks))(centred)
    factor = jnp.asarray(step_size) / (2 * batch_size * (1 - jnp.asarray(momentum)))
    if not replacement:
        factor = factor * (count - batch_size) / (count - 1)
    if reduction == "sum":
        factor = factor * count
    bottom = jnp.asarray(list(sizes.values()), squares.dtype)
    return make_temperatures(
        list(sizes), factor * squares, jnp.broadcast_to(bottom, squares.shape)
    )


def fluctuation_dissipation(
    potential: Callable[[PyTree], Array],
    ensemble: PyTree,
    minibatch_grads: PyTree,
    *,
    step_size: ArrayLike,
    momentum: ArrayLike = 0.0,
    center: PyTree = 0.0,
    blocks: Blocks | None = None,
    batch_size: int | None = None,
) -> dict[str, Estimate]:
    """Ratio of the two sides of the stationarity identity by block; 1 where SGD is stationary.

    Args:
        potential: params -> U, the full loss.
        ensemble: params with a leading axis of M members.
        minibatch_grads: leaves [M, ...], the gradient estimate drawn at each member, or the
            momentum traces if `momentum` is not 0.
        step_size: learning rate.
        momentum: mu of heavy ball (optax.sgd's convention).
        center: c, a scalar or a pytree like params; the ratio does not depend on it where
            SGD is stationary.
        blocks: params -> {name: subtree}; top-level keys by default.
        batch_size: members evaluated at once; all by default.

    Returns:
        {block: `Estimate` of the ratio}; jackknife errors over members.

    Raises:
        ValueError: rates out of range, gradients of another ensemble.
    """
    _check_rates(step_size, momentum)
    names, kicks, virials = _two_sides(
        potential, ensemble, minibatch_grads, step_size, momentum, center, blocks, batch_size
    )
    value, error = ratio_of_means(kicks, virials)
    flags = jax.vmap(lambda v: raise_flags((Flag.NONFINITE, ~jnp.isfinite(v))))(value)
    count = jnp.asarray(float(kicks.shape[0]))
    return {
        name: Estimate(value[i], error[i], error[i], count, flags[i])
        for i, name in enumerate(names)
    }


def kick_temperature(
    minibatch_grads: PyTree,
    *,
    step_size: ArrayLike,
    momentum: ArrayLike = 0.0,
    blocks: Blocks | None = None,
) -> Temperatures:
    """(1 + mu)(eps / 2) <|g_hat_l|^2> / D_l: what the virial temperature is when stationary.

    Args:
        minibatch_grads: leaves [M, ...], gradient estimates or momentum traces.
        step_size: learning rate.
        momentum: mu.
        blocks: params -> {name: subtree}; top-level keys by default.
    """
    members(minibatch_grads)
    _check_rates(step_size, momentum)
    sizes = block_sizes(jax.tree.map(lambda x: x[0], minibatch_grads), blocks)
    kicks = _kicks(minibatch_grads, step_size, momentum, blocks)
    bottom = jnp.asarray(list(sizes.values()), kicks.dtype)
    return make_temperatures(list(sizes), kicks, jnp.broadcast_to(bottom, kicks.shape))


def _kicks(gradients, step_size, momentum, blocks) -> Array:
    squares = jax.vmap(lambda g: block_dots(g, g, blocks))(gradients)
    return 0.5 * jnp.asarray(step_size) * (1 + jnp.asarray(momentum)) * squares


def _two_sides(potential, ensemble, gradients, step_size, momentum, center, blocks, batch_size):
    if members(ensemble) != members(gradients):
        raise ValueError(
            f"{members(gradients)} gradients for {members(ensemble)} members: one is needed at "
            "each"
        )
    names = list(split(jax.tree.map(lambda x: x[0], ensemble), blocks))
    kicks = _kicks(gradients, step_size, momentum, blocks)
    virials = virial_products(
        potential, ensemble, center=center, blocks=blocks, batch_size=batch_size
    )
    return names, kicks, virials
