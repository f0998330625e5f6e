"""The trained state of a linear model: its minimum, found exactly, and whether it exists.

Least squares for mse, a linear programme for mae, Newton's method for bce and softmax_ce.
Data that a hyperplane separates have no minimum: the loss falls to 0 as the weights grow.
A classifier that makes no mistake proves it. Derivatives of the energy with respect to the
data follow from the envelope theorem: d E_min = partial U at the minimum held fixed.

Source: textbook; the principle of minimum potential energy is [paper].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.temperature.linear_losses import (
    check_data,
    linear_loss,
    reduce_rows,
)
from thermojax.typing import Array, ArrayLike

__all__ = ["LinearMinimum", "linear_minimum"]


class LinearMinimum(NamedTuple):
    """The best linear model of its data.

    Attributes:
        params: {"w": [d] or [d, C], "b": () or [C], or None}; one of the minima where they
            are many.
        energy: U there; 0 for separable data.
        attained: False where the infimum lies at infinity (separable data).
    """

    params: dict[str, Array | None]
    energy: Array
    attained: Array


def linear_minimum(
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: str,
    fit_intercept: bool = True,
    reduction: str = "mean",
    num_classes: int | None = None,
) -> LinearMinimum:
    """The minimum of a linear model's loss.

    Args:
        x: [n, d].
        y: [n].
        loss: "mse", "half_mse", "mae", "bce" or "softmax_ce".
        fit_intercept: with a bias.
        reduction: "mean" or "sum".
        num_classes: C of softmax_ce, static.

    Raises:
        ValueError: see `linear_energy`.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 0.0, 3.0])
        >>> print(f"{linear_minimum(x, y, loss='mae').energy:.4f}")
        0.6667
    """
    x, y = check_data(x, y, loss, reduction, num_classes)
    ones = jnp.ones_like(x[:, :1])
    phi = jnp.concatenate([x, ones], axis=1) if fit_intercept else x
    attained = jnp.asarray(True)
    if loss in ("mse", "half_mse"):
        theta = jnp.linalg.lstsq(*jax.lax.stop_gradient((phi, y)))[0]
    elif loss == "mae":
        theta = _least_absolute(*jax.lax.stop_gradient((phi, y)))
    else:
        theta = _newton(*jax.lax.stop_gradient((phi, y)), num_classes)
        attained = ~_separates(phi @ theta, y)
    theta = jax.lax.stop_gradient(theta)
    energy = reduce_rows(linear_loss(phi @ theta, y, loss), reduction)
    d = x.shape[1]
    params = {"w": theta[:d], "b": theta[d] if fit_intercept else None}
    return LinearMinimum(params, jnp.where(attained, energy, 0.0), attained)


def _least_absolute(phi: Array, y: Array) -> Array:
    """argmin sum |phi theta - y| on the host: theta free, residual = up - down, both >= 0."""

    def solve(phi, y):
        from scipy.optimize import linprog

        n, d = phi.shape
        cost = np.r_[np.zeros(d), np.ones(2 * n)]
        equal = np.c_[np.asarray(phi, np.float64), -np.eye(n), np.eye(n)]
        bounds = [(None, None)] * d + [(0, None)] * (2 * n)
        found = linprog(cost, A_eq=equal, b_eq=np.asarray(y, np.float64), bounds=bounds)
        if not found.success:
            raise ValueError(f"the linear programme of mae failed: {found.message}")
        return found.x[:d].astype(phi.dtype)

    like = jax.ShapeDtypeStruct((phi.shape[1],), phi.dtype)
    return jax.pure_callback(solve, like, phi, y, vmap_method="sequential")


def _separates(z: Array, y: Array) -> Array:
    """Whether every datum is on its right side, strictly."""
    if z.ndim == 1:
        return jnp.all(jnp.where(y > 0.5, z, -z) > 0)
    own = jnp.take_along_axis(z, y[:, None], axis=1)
    others = jnp.where(jnp.arange(z.shape[1]) == y[:, None], -jnp.inf, z)
    return jnp.all(own[:, 0] > jnp.max(others, axis=1))


def _newton(phi: Array, y: Array, num_classes: int | None, steps: int = 100) -> Array:
    """Damped Newton on the mean loss with a ridge at the level of rounding."""
    size = phi.shape[1] * (num_classes or 1)
    shape = (phi.shape[1],) if num_classes is None else (phi.shape[1], num_classes)
    loss = "bce" if num_classes is None else "softmax_ce"
    scale = jnp.mean(phi**2)
    ridge = scale * (1e-12 if phi.dtype == jnp.float64 else 1e-7)

    def energy(flat):
        return jnp.mean(linear_loss(phi @ flat.reshape(shape), y, loss))

    def objective(flat):
        return energy(flat) + 0.5 * ridge * jnp.sum(flat**2)

    def step(state):
        index, flat, _, _ = state
        slope = jax.grad(objective)(flat)
        bend = jax.hessian(energy)(flat) + ridge * jnp.eye(size, dtype=flat.dtype)
        move = -jnp.linalg.solve(bend, slope)
        start, gain = objective(flat), slope @ move

        def shorter(t):
            return ~(objective(flat + t * move) <= start + 1e-4 * t * gain) & (t > 1e-8)

        t = jax.lax.while_loop(shorter, lambda t: t / 2, jnp.ones((), flat.dtype))
        done = _separates(phi @ (flat + t * move).reshape(shape), y)
        return index + 1, flat + t * move, -gain, done

    def going(state):
        index, _, decrement, done = state
        tiny = 1e-28 if phi.dtype == jnp.float64 else 1e-13
        return (index < steps) & (decrement > tiny) & ~done

    state = (0, jnp.zeros(size, phi.dtype), jnp.asarray(jnp.inf, phi.dtype), False)
    return jax.lax.while_loop(going, step, state)[1].reshape(shape)
