"""Neuron states that are Gaussian, exactly or along the forward pass: closed forms.

    r(x) = A x + c,   K = A' A + mu I,   x^ = -K^-1 A' c,   H_min = |A x^ + c|^2/2 + mu |x^|^2/2
    log Z = log Z_ref - log det K / 2 - beta H_min
    U = H_min + n / (2 beta),   C_v = n/2

For a layered network with both ends clamped and mu = 0 only n_out x n_out matrices appear:

    det K = det S_out,   H_min = e' S_out^-1 e / 2,   e = y - y^
    S_out = I + sum_{hidden l} J_l J_l',    J_l = d y^ / d x_l

With the slopes f' taken along the forward pass the same formula is the linearized closed
form of any feedforward network. With the output free, log Z = log Z_ref exactly, for every
activation. Both are derived here; the first is textbook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.theories.learning_laws.network import Example, Network, clamps, free_neurons
from thermojax.theories.learning_laws.septuple import (
    System,
    is_feedforward,
    is_linear,
    select_free,
)
from thermojax.theories.learning_laws.states import (
    State,
    check_beta,
    log_z_reference,
    state_of,
)
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["gaussian_state", "is_reference", "linearized_state", "reference_state"]

_COARSE = 0.05


def is_reference(system: System, example: Example) -> bool:
    """True if log Z = log Z_ref exactly: feedforward, output free, no site potential.

    The map from states to residuals is then triangular of unit Jacobian, whatever f, q and
    beta (derived here).

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 3, 1), "tanh")
        >>> is_reference(net, {"x": jnp.zeros(1), "y": None})
        True
        >>> is_reference(net, {"x": jnp.zeros(1), "y": jnp.zeros(1)})
        False
    """
    network = system.network
    held_in, held_out = clamps(network, example)
    inputs_held = held_in or not network.inputs
    return inputs_held and not held_out and not network.confined and is_feedforward(system)


def reference_state(system: System, params: PyTree, example: Example, beta: ArrayLike) -> State:
    """The `State` of decoupled neurons: log Z_ref, n / (2 beta), n/2; C = E = 0.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
        >>> float(reference_state(dense_network(2, "tanh"), params, None, 2.0).excess)
        0.0
    """
    check_beta(beta)
    n = len(free_neurons(system.network, example))
    dtype = jnp.result_type(*jax.tree.leaves((params, example)))
    inverse = jnp.asarray(1 / jnp.asarray(beta), jnp.result_type(dtype, beta))
    log_z = jnp.asarray(log_z_reference(n, beta), inverse.dtype)
    return state_of(log_z, 0.5 * n * inverse, jnp.full_like(log_z, 0.5 * n), n, beta)


def gaussian_state(system: System, params: PyTree, example: Example, beta: ArrayLike) -> State:
    """Exact thermodynamics of one example for linear activations.

        log Z = log Z_ref - log det K / 2 - beta H_min,    K = A' A + mu I

    Textbook; for an all-free network the Gaussian factor -log|det(I - w)| is the paper's
    (Vanchurin 2021), as we reconstruct it.

    Args:
        system: every activation linear, no user site potential.
        params: (w, b).
        example: {"x", "y"} or None.
        beta: inverse temperature of the states.

    Returns:
        `State` of scalars, stderr 0. Where K is singular Z diverges: log_z = +inf, U and
        C_v NaN, flag IMPROPER. Differentiable in params, beta and example.

    Raises:
        ValueError: a nonlinear activation, or beta not positive.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> params = {"w": jnp.array([[0.2, 0.5], [-0.3, 0.1]]), "b": jnp.ones(2)}
        >>> state = gaussian_state(dense_network(2, "linear"), params, None, 2.0)
        >>> round(float(state.complexity), 4)    # -log det(I - w)
        0.1393
    """
    check_beta(beta)
    if not is_linear(system):
        raise ValueError(
            "the gaussian route is exact for linear activations only; use 'linearized', "
            "'laplace' or a sampled route"
        )
    if is_reference(system, example):
        return reference_state(system, params, example, beta)
    if _is_clamped_chain(system, example):
        return _chain_state(system.network, params, example, beta)
    residual = lambda x: system.residual(params, x, example)
    origin = jnp.zeros(
        system.free_dim(example), jnp.result_type(*jax.tree.leaves((params, example)))
    )
    return _quadratic_state(residual, origin, system.network.mu, beta)


def linearized_state(
    system: System, params: PyTree, example: Example, beta: ArrayLike
) -> State:
    """Closed form of one example with slopes along the forward pass ("linear noise").

        log Z ~ n/2 log(2 pi / beta) - log det S_out / 2 - beta e' S_out^-1 e / 2

    Derived here. Exact for linear activations and for a free output; else the error is
    O(1/beta) where y is the forward output, and O(1) in beta e^2 where |y - y^| is not of
    order sqrt(T): `laplace_state` is right there.

    Args:
        system: feedforward, without site potential (any linear system passes to
            `gaussian_state`).
        params: (w, b).
        example: with clamped inputs; y clamped or None.
        beta: inverse temperature of the states.

    Returns:
        `State` of scalars, stderr 0 (the error of the approximation is not in it).
        Differentiable in params, beta and example. TOO_COARSE for a layered network whose
        log Z moves by more than .05 nats when outputs and slopes are averaged over the
        fluctuations of the states (two-point rule, independent neurons); the error itself
        can be some times that.

    Raises:
        ValueError: a recurrent network, free inputs, a site potential, beta not positive.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> params = [(jnp.array([[0.8]]), jnp.zeros(1)), (jnp.array([[0.5]]), jnp.zeros(1))]
        >>> example = {"x": jnp.ones(1), "y": jnp.zeros(1)}
        >>> net = layered_network((1, 1, 1), "tanh")
        >>> round(float(linearized_state(net, params, example, 4.0).complexity), 4)
        -0.2879
    """
    check_beta(beta)
    if is_linear(system):
        return gaussian_state(system, params, example, beta)
    network = system.network
    if network.confined or not is_feedforward(system):
        raise ValueError(
            "the linearized route needs a feedforward network without site potential, not "
            f"this {network.kind} one; use 'laplace' or a sampled route"
        )
    if is_reference(system, example):
        return reference_state(system, params, example, beta)
    if not clamps(network, example)[0] and network.inputs:
        raise ValueError("the linearized route needs clamped inputs; give example['x']")
    if _is_clamped_chain(system, example):
        return _chain_state(network, params, example, beta)
    x_in = None if example is None else example.get("x")
    start = select_free(system, system.forward(params, x_in), example)
    residual = lambda x: system.residual(params, x, example)
    return _quadratic_state(residual, start, 0.0, beta)


def _is_clamped_chain(system: System, example: Example) -> bool:
    network = system.network
    layered = network.kind == "layered" and not network.confined
    return layered and clamps(network, example) == (True, True)


def _quadratic_state(
    residual: Callable[[Array], Array], start: Array, mu: float, beta: ArrayLike
) -> State:
    """The Gaussian ensemble of the residuals' linear expansion about `start`."""
    n = start.size
    c = residual(start)
    if n == 0:
        return _state(0.0, 0.5 * jnp.sum(c**2), n, beta)
    a = jax.jacfwd(residual)(start)
    if mu:
        a = jnp.concatenate([a, jnp.sqrt(jnp.asarray(mu, a.dtype)) * jnp.eye(n, dtype=a.dtype)])
        c = jnp.concatenate([c, jnp.sqrt(jnp.asarray(mu, a.dtype)) * start])
    if a.shape[0] < n:
        return _state(-jnp.inf, jnp.sum(c) * 0, n, beta)
    scales = jnp.linalg.svd(jax.lax.stop_gradient(a), compute_uv=False)
    # the 1 of I - D w rounds too, also where nothing else is left of it
    rounding = jnp.finfo(a.dtype).eps * jnp.maximum(scales[0], 1)
    singular = scales[-1] <= max(a.shape) * rounding
    a = jnp.where(singular, jnp.eye(a.shape[0], n, dtype=a.dtype), a)
    # the factors of A, not of K, whose condition number is the square
    q, r = jnp.linalg.qr(a)
    shift = jax.scipy.linalg.solve_triangular(r, -(q.T @ c))
    half_log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(r))))
    h_min = 0.5 * jnp.sum((a @ shift + c) ** 2)
    return _state(jnp.where(singular, -jnp.inf, half_log_det), h_min, n, beta)


def _state(half_log_det: ArrayLike, h_min: Array, n: int, beta: ArrayLike) -> State:
    half_log_det = jnp.asarray(half_log_det, h_min.dtype)
    diverges = half_log_det == -jnp.inf
    log_z = log_z_reference(n, beta) - half_log_det - beta * h_min
    energy = jnp.where(diverges, jnp.nan, h_min + 0.5 * n / beta)
    capacity = jnp.where(diverges, jnp.nan, 0.5 * n)
    flags = raise_flags((Flag.IMPROPER, diverges), (Flag.NONFINITE, jnp.isnan(log_z)))
    return state_of(log_z, energy, capacity, n, beta, flags=flags)


def _chain_state(network: Network, params: PyTree, example: Example, beta: ArrayLike) -> State:
    """Both ends clamped: n_out x n_out algebra along the forward pass."""
    assert example is not None
    n = sum(network.sizes[1:-1])

    def parts(params, example, rule):
        output, jacobians = _chain(network, params, example["x"], rule)
        error = example["y"] - output
        gram = jnp.eye(error.size, dtype=error.dtype)
        for jacobian in jacobians:
            gram = gram + jacobian @ jacobian.T
        factor = jnp.linalg.cholesky(gram)
        white = jax.scipy.linalg.solve_triangular(factor, error, lower=True)
        return jnp.sum(jnp.log(jnp.diagonal(factor))), 0.5 * jnp.sum(white**2)

    half_log_det, h_min = parts(params, example, _slope)
    state = _state(half_log_det, h_min, n, beta)
    # the same with outputs and slopes averaged over the states' fluctuations
    fixed = jax.lax.stop_gradient((params, example, jnp.asarray(beta)))
    averaged_log_det, averaged_h = parts(*fixed[:2], _Fluctuating(fixed[2]))
    change = averaged_log_det - half_log_det + beta * (averaged_h - h_min)
    return state._replace(
        flags=state.flags | raise_flags((Flag.TOO_COARSE, jnp.abs(change) > _COARSE))
    )


def _slope(f: Callable, y: Array, spread: Array) -> tuple[Array, Array, Array]:
    """Value and slope of f at y; states that do not fluctuate stay so."""
    return *jax.jvp(f, (y,), (jnp.ones_like(y),)), spread


class _Fluctuating(NamedTuple):
    """Mean and mean slope of f over a Gaussian about y, by its two-point rule."""

    beta: Array

    def __call__(self, f: Callable, y: Array, spread: Array) -> tuple[Array, Array, Array]:
        wide = jnp.sqrt(spread)
        above, below = f(y + wide), f(y - wide)
        safe = jnp.where(wide > 0, 2 * wide, 1)
        slope = jnp.where(wide > 0, (above - below) / safe, 1)
        return 0.5 * (above + below), slope, slope**2 * spread + 1 / self.beta


def _chain(
    network: Network, params: PyTree, x: Array, rule: Callable
) -> tuple[Array, list[Array]]:
    """The forward output and d output / d x_l of the hidden layers, last ones first.

    `rule` is (f, pre-activation, its variance) -> value, slope, variance of the state.
    """
    f, g = network.activation, network.output_activation
    if len(params) == 1:
        (w, b) = params[0]
        return g(w @ x + b), []
    (first, bias), *middle, (last, last_bias) = params
    # no scan over equal layers: at depth 8 it compiles no faster and runs slower
    layer, _, spread = rule(f, first @ x + bias, jnp.zeros_like(bias))
    slopes = []
    for w, b in middle:
        layer, slope, spread = rule(f, w @ layer + b, w**2 @ spread)
        slopes.append(slope)
    output, slope, _ = rule(g, last @ layer + last_bias, last**2 @ spread)
    jacobians = [slope[:, None] * last]
    for (w, _), slope in zip(middle[::-1], slopes[::-1], strict=True):
        jacobians.append((jacobians[-1] * slope) @ w)
    return output, jacobians
