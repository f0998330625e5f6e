"""The temperature at which the measured loss is what the ensemble expects.

    beta* :  mean U(beta) = (n_free + n_out) / (2 beta)          or   U(beta) = u_0

At beta* the clamped mean loss equals that of free outputs; it is the stationary point of
sum log p(y | x) in beta, maximum likelihood for the noise of the noisy forward net. Where
U = H_min + n_free/(2 beta), as in every Gaussian approximation of the states,
beta* = n_out / (2 mean H_min) in closed form.

Source: our definition, following the paper's programme.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.learning_laws.ensemble import thermodynamic_state
from thermojax.theories.learning_laws.network import clamps
from thermojax.theories.learning_laws.septuple import System
from thermojax.theories.learning_laws.states import State
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = ["calibrate_beta"]

_CLOSED = ("gaussian", "linearized", "laplace")
_HALVINGS = 64


def calibrate_beta(
    system: System,
    params: PyTree,
    data: PyTree,
    *,
    target_u: ArrayLike | None = None,
    method: str = "linearized",
    bracket: tuple[float, float] = (1e-4, 1e6),
    key: Key | None = None,
    **options,
) -> Array:
    """Inverse temperature that fits the loss: by maximum likelihood, or to a mean energy.

        mean U(beta) = (n_free + n_out) / (2 beta)      linearized: n_out / mean(e' S_out^-1 e)
        mean U(beta) = target_u                         by bisection on log beta

    Differentiable once in params, data and `target_u` (implicitly, by one Newton step).

    Args:
        system: the network.
        params: its trainables.
        data: {"x": (B, n_in), "y": (B, n_out)}; for `target_u` anything that
            `thermodynamic_state` takes.
        target_u: mean energy per example, in units of the loss.
        method: see `thermodynamic_state`.
        bracket: where beta is looked for by bisection.
        key: of the sampled methods; the same draws at every beta.
        **options: see `thermodynamic_state`.

    Returns:
        beta*, scalar; +inf where every example is fitted without error. Under jit NaN
        where the bracket holds no root.

    Raises:
        ValueError: no clamped outputs to calibrate by, a bracket without a root.

    Source: our definition, following the paper's programme.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1, 1), "linear")
        >>> one = jnp.ones((1, 1))
        >>> params = [(0.8 * one, jnp.array([0.1])), (-0.6 * one, jnp.array([0.2]))]
        >>> data = {"x": jnp.array([[1.5]]), "y": jnp.array([[0.3]])}
        >>> print(f"{calibrate_beta(net, params, data):.4f}")  # 1 / 0.5694
        1.7562
    """
    example = None if data is None else jax.tree.map(lambda leaf: leaf[0], data)
    mean_state = lambda beta: thermodynamic_state(
        system, params, data, beta, method=method, key=key, reduction="mean", **options
    )
    if target_u is not None:
        return _root(lambda log_beta: _gap(mean_state, log_beta, target_u), bracket, params)
    if not clamps(system.network, example)[1]:
        raise ValueError(
            "data has no y: free outputs fit every beta equally well; give y, or target_u="
        )
    n_out = len(system.network.outputs)
    if method in _CLOSED:
        one = jnp.ones((), jnp.result_type(*jax.tree.leaves(params)))
        return n_out / (2 * mean_state(one).excess)  # at beta = 1 the excess is H_min
    half = n_out / 2
    # E = beta (U - U_ref) rises from 0 and passes n_out / 2 where the outputs are as noisy
    # as free ones would be
    return _root(lambda log_beta: half - mean_state(jnp.exp(log_beta)).excess, bracket, params)


def _gap(mean_state: Callable[[Array], State], log_beta: Array, target: ArrayLike) -> Array:
    return mean_state(jnp.exp(log_beta)).internal_energy - target


def _root(falling: Callable[[Array], Array], bracket: tuple, params: PyTree) -> Array:
    """exp of the zero of a function of log beta that falls from + to -."""
    low, high = bracket
    if not 0 < low < high < math.inf:
        raise ValueError(f"bracket={bracket} must hold 0 < low < high < inf")
    dtype = jnp.result_type(*jax.tree.leaves(params))
    ends = tuple(jnp.asarray(math.log(end), dtype) for end in bracket)
    first, last = (jax.lax.stop_gradient(falling(end)) for end in ends)
    found = (first >= 0) & (last <= 0)
    if is_concrete(found) and not np.asarray(found):
        raise ValueError(
            f"bracket={bracket} holds no root (the gap is {float(first):.3g} and "
            f"{float(last):.3g} at its ends): widen it, or change target_u"
        )

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        above = jax.lax.stop_gradient(falling(middle)) > 0
        return jnp.where(above, middle, ends[0]), jnp.where(above, ends[1], middle)

    low, high = jax.lax.stop_gradient(jax.lax.fori_loop(0, _HALVINGS, halve, ends))
    log_beta = (low + high) / 2
    # Newton's step is at rounding level; its derivative is the implicit one
    value, slope = jax.jvp(falling, (log_beta,), (jnp.ones_like(log_beta),))
    step = value / jax.lax.stop_gradient(slope)
    step = jnp.where(jnp.isfinite(step), step, 0.0)
    return jnp.exp(jnp.where(found, log_beta - step, jnp.nan))
