"""The activation dynamics of a network, and its losses in the bulk and on the boundary.

    x(t+1) = f(w x(t) + b),  then clamped entries are overwritten
    H  = 1/2 sum_{i in R} r_i^2 + V(x)          bulk loss
    H_b = 1/2 |y - x_out|^2                      boundary loss, output free, settled

At the forward state with the output then set to y, H = H_b (V = 0), because every hidden
residual vanishes; so min H <= H_b (derived here). The step and the roles of the two losses
are the paper's as we reconstruct them (Vanchurin 2021), the clamping is ours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from thermojax.theories.learning_laws.network import Example
from thermojax.theories.learning_laws.septuple import System, assemble, select_free
from thermojax.typing import Array, PyTree, is_concrete

__all__ = ["activation_step", "boundary_loss", "bulk_loss", "settle", "settling_residual"]


def _clamped(system: System, x: Array, clamp: Example) -> Array:
    return x if clamp is None else assemble(system, select_free(system, x, clamp), clamp)


def activation_step(system: System, params: PyTree, x: Array, clamp: Example = None) -> Array:
    """One synchronous step x -> f(w x + b); clamped entries are overwritten after it.

    Args:
        system: which network.
        params: (w, b).
        x: (N,), all neurons in order.
        clamp: {"x", "y"} overwrites inputs and outputs; None overwrites nothing. Neurons
            without residual row hold their state.

    Returns:
        (N,).

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1), "tanh")
        >>> params = [(jnp.array([[2.0]]), jnp.ones(1))]
        >>> activation_step(net, params, jnp.array([3.0, 0.0])).tolist()
        [3.0, 7.0]
    """
    return _clamped(system, system.predict(params, x), clamp)


def settling_residual(system: System, params: PyTree, x: Array, clamp: Example = None) -> Array:
    """How far one more activation step moves any neuron, max |step(x) - x|; scalar.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.ones(1)}
        >>> float(settling_residual(dense_network(1, "linear"), params, jnp.ones(1)))
        0.5
    """
    moved = activation_step(system, params, x, clamp) - x
    return jnp.max(jnp.abs(moved))


def settle(
    system: System,
    params: PyTree,
    x0: Array,
    steps: int,
    clamp: Example = None,
    *,
    tolerance: float | None = None,
) -> Array:
    """The state after `steps` activation steps.

    A feedforward network with clamped inputs is at its forward pass after L steps, from any
    start. A recurrent one may cycle or escape: give a tolerance to be told.

    Args:
        system: which network.
        params: (w, b).
        x0: (N,); clamped entries are overwritten before the first step.
        steps: activation steps, static.
        clamp: {"x", "y"} or None.
        tolerance: largest `settling_residual` of a settled state; None for no check.

    Returns:
        (N,); under jit NaN where it has not settled within the tolerance.

    Raises:
        ValueError: not settled within the tolerance (concrete values).

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.ones(1)}
        >>> settle(dense_network(1, "linear"), params, jnp.zeros(1), 40).tolist()
        [2.0]
    """
    step = lambda x, _: (activation_step(system, params, x, clamp), None)
    dtype = jnp.result_type(x0, *jax.tree.leaves((params, clamp)))
    start = _clamped(system, jnp.asarray(x0, dtype), clamp)
    x = jax.lax.scan(step, start, None, length=steps)[0]
    if tolerance is None:
        return x
    moved = settling_residual(system, params, x, clamp)
    if is_concrete(moved) and not bool(moved <= tolerance):
        raise ValueError(
            f"after {steps} steps one more still moves a neuron by {float(moved):.3g} > "
            f"{tolerance}; use more steps, or laplace and sampled routes, which need no "
            "stable fixed point"
        )
    return jnp.where(moved <= tolerance, x, jnp.nan)


def bulk_loss(system: System, params: PyTree, x_full: Array, clamp: Example = None) -> Array:
    """H = 1/2 sum_{i in R} r_i^2 + V of one state of the whole network.

    Args:
        system: which network.
        params: (w, b).
        x_full: (N,), all neurons in order.
        clamp: overwrites entries of x_full, which then count as clamped. None: the inputs
            count as clamped (no residual, no V), the outputs as free.

    Returns:
        Scalar, unit of the loss: a sum over neurons, never a mean.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1), "tanh")
        >>> params = [(jnp.array([[2.0]]), jnp.ones(1))]
        >>> float(bulk_loss(net, params, jnp.array([3.0, 9.0])))
        2.0
    """
    x_full, inputs = jnp.asarray(x_full), jnp.array(system.network.inputs, int)
    example = {"x": x_full[inputs], "y": None} if clamp is None else clamp
    return system.energy(params, select_free(system, x_full, example), example)


def boundary_loss(system: System, params: PyTree, data: dict, reduction: str = "sum") -> Array:
    """H_b = 1/2 |y - x_out|^2 at the settled state with the output free.

    Args:
        system: which network; recurrent ones must settle (else NaN).
        params: (w, b).
        data: {"x": (B, n_in), "y": (B, n_out)}.
        reduction: "sum", "mean" or "none", over examples.

    Returns:
        Scalar, or (B,) for "none"; unit of the loss.

    Raises:
        ValueError: no y, or an unknown reduction.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1), "tanh")
        >>> params = [(jnp.array([[2.0]]), jnp.ones(1))]
        >>> data = {"x": jnp.array([[3.0]]), "y": jnp.array([[9.0]])}
        >>> float(boundary_loss(net, params, data))
        2.0
    """
    if data is None or data.get("y") is None:
        raise ValueError("the boundary loss compares with targets; give data['y'], (B, n_out)")
    if reduction not in ("sum", "mean", "none"):
        raise ValueError(f"reduction = {reduction!r}; give 'sum', 'mean' or 'none'")
    outputs = jnp.array(system.network.outputs, int)

    def loss(example):
        states = system.forward(params, example.get("x"))
        prediction = states[-1] if system.network.kind == "layered" else states[outputs]
        return 0.5 * jnp.sum((example["y"] - prediction) ** 2)

    losses = jax.vmap(loss)(data)
    return losses if reduction == "none" else getattr(jnp, reduction)(losses)
