"""Where the states are: a box that holds the mass of exp(-beta H), and the kinks in it.

Every state within half_width^2 / 2 nats of a reference state x_s has residuals

    |r_i| <= rho,    rho^2 = 2 H(x_s) + half_width^2 / beta,

and x_i = f(w x + b)_i + r_i, so that interval arithmetic on f(w x + b) bounds x: at once
where f is bounded, layer after layer where the net is feedforward. Recurrent nets with
unbounded f are bounded through one Gauss-Newton step, exactly if f is linear.

Source: derived here. Site potentials are taken to be nowhere negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.learning_laws.network import free_neurons, linear, predict
from thermojax.theories.learning_laws.septuple import System, assemble, select_free
from thermojax.typing import Array, PyTree

__all__ = ["Box", "box_of", "kinks_of"]

Example = dict | None


class Box(NamedTuple):
    """Corners of the box, [n] each; not finite where nothing confines the states."""

    low: Array
    high: Array


def _image_of_line(f: Callable, dtype: Any) -> Box:
    """Range of f over the whole line; infinite where f keeps growing."""
    close, wide = (f(jnp.linspace(-end, end, 801, dtype=dtype)) for end in (10.0, 1e4))
    margin = 0.2 * jnp.max(jnp.abs(close))
    low, high = jnp.min(close), jnp.max(close)
    lowest, highest = jnp.min(wide), jnp.max(wide)
    return Box(
        jnp.where(lowest < low - margin, -jnp.inf, jnp.minimum(low, lowest)),
        jnp.where(highest > high + margin, jnp.inf, jnp.maximum(high, highest)),
    )


def _kinked(f: Callable) -> bool:
    """True if the slope of f jumps at zero, as relu's does."""
    with jax.ensure_compile_time_eval():
        slopes = [jax.grad(f)(jnp.asarray(at, jnp.float32)) for at in (-1e-3, 1e-3)]
        return bool(abs(slopes[1] - slopes[0]) > 0.05)


def _activations(system: System) -> list[Callable]:
    """The activation of every neuron."""
    network = system.network
    outputs = set(network.outputs)
    return [
        network.output_activation if i in outputs else network.activation
        for i in range(network.n)
    ]


def _affine(system: System, params: PyTree, example: Example) -> tuple[Array, Array]:
    """w x + b of all neurons as slope [N, n] and offset [N] in the free states."""
    plain = system.network._replace(activation=linear, output_activation=linear)
    n = system.free_dim(example)
    zero = jnp.zeros((n,), jnp.result_type(*jax.tree.leaves(params)))
    y = lambda x: predict(plain, params, assemble(system, x, example))
    return jax.jacfwd(y)(zero), y(zero)


def kinks_of(system: System, params: PyTree, example: Example) -> tuple[Array, Array] | None:
    """Affine forms of the free states at whose zeros H has a kink; None where f is smooth.

    Kinks are looked for where the pre-activation is zero, as relu has them.
    """
    network = system.network
    fs = _activations(system)
    held = network.inputs if example is not None and example.get("x") is not None else ()
    found = {f: _kinked(f) for f in set(fs)}
    rows = [i for i in network.residual_rows if i not in held and found[fs[i]]]
    if not rows:
        return None
    slope, offset = _affine(system, params, example)
    chosen = np.array(rows)
    return slope[chosen], offset[chosen]


def _start(system: System, params: PyTree, example: Example) -> tuple[Array, Array]:
    """The lowest of a few states, and its H: settled, decoupled, at rest."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    rest = jnp.zeros((system.free_dim(example),), dtype)
    first = system.predict(params, assemble(system, rest, example))
    states = [rest, select_free(system, first, example)]
    if example is None or example.get("x") is not None:
        settled = system.forward(params, None if example is None else example["x"])
        settled = jnp.concatenate(settled) if isinstance(settled, tuple) else settled
        states.append(select_free(system, settled, example))
    stacked = jnp.stack(states)
    heights = jax.vmap(lambda x: system.energy(params, x, example))(stacked)
    heights = jnp.where(jnp.isfinite(heights), heights, jnp.inf)
    best = jnp.argmin(heights)
    return stacked[best], heights[best]


def _interval(slope: Array, offset: Array, box: Box) -> Box:
    """Range of slope @ x + offset over a box, where 0 times infinity is 0."""
    times = lambda s, x: jnp.where(s == 0, 0.0, s * x)
    a, b = times(slope, box.low), times(slope, box.high)
    return Box(
        offset + jnp.sum(jnp.minimum(a, b), axis=1), offset + jnp.sum(jnp.maximum(a, b), axis=1)
    )


def _image(f: Callable, y: Box) -> Box:
    """Range of f over one interval of pre-activations; all of f's where it has no end."""
    lowest, highest = _image_of_line(f, y.low.dtype)
    finite = jnp.isfinite(y.low) & jnp.isfinite(y.high)
    low, high = jnp.where(finite, y.low, 0.0), jnp.where(finite, y.high, 0.0)
    values = f(jnp.linspace(low, high, 65))  # more than the ends: f need not be monotone
    return Box(
        jnp.where(finite, jnp.min(values), lowest), jnp.where(finite, jnp.max(values), highest)
    )


def _by_linearization(system, params, example, start, rho) -> Box:
    """Half-widths rho sqrt(K^-1_ii) about a Gauss-Newton step from `start`."""
    residual = lambda x: system.residual(params, x, example)
    slope, at = jax.jacfwd(residual)(start), residual(start)
    mu = system.network.mu
    precision = slope.T @ slope + mu * jnp.eye(len(start), dtype=slope.dtype)
    covariance = jnp.linalg.inv(precision)
    step = covariance @ (slope.T @ at + mu * start)
    variance = jnp.diag(covariance)
    # rounding turns a singular precision into a large or negative variance
    sound = jnp.isfinite(variance) & (variance > 0)
    sound &= variance < 1 / jnp.finfo(variance.dtype).eps
    half = rho * jnp.sqrt(jnp.where(sound, jnp.maximum(variance, 1.0), jnp.inf))
    middle = jnp.where(sound, start - step, start)
    return Box(middle - half - jnp.abs(step), middle + half + jnp.abs(step))


def box_of(
    system: System, params: PyTree, example: Example, beta: Array, half_width: float
) -> Box:
    """A box outside of which exp(-beta H) is half_width^2 / 2 nats down.

    Args:
        system: the network.
        params: its trainables.
        example: what is clamped.
        beta: inverse temperature.
        half_width: in units of the noise 1/sqrt(beta).

    Returns:
        `Box`; infinite where the Gauss-Newton precision is singular.
    """
    start, height = _start(system, params, example)
    rho = jnp.sqrt(2 * height + half_width**2 / beta)
    free = free_neurons(system.network, example)
    slope, offset = _affine(system, params, example)
    fs = [_activations(system)[i] for i in free]
    moves = np.isin(free, system.network.residual_rows)
    mu = system.network.mu
    # a site potential alone holds the neurons without residual
    wide = jnp.full(start.shape, rho / np.sqrt(mu) if mu else jnp.inf)
    box = Box(-wide, wide)
    rows = np.array(free)
    for _ in free:
        y = _interval(slope[rows], offset[rows], box)
        images = [_image(f, Box(lo, hi)) for f, lo, hi in zip(fs, *y, strict=True)]
        low, high = (jnp.stack(ends) for ends in zip(*images, strict=True))
        low = jnp.where(moves, low - rho, -jnp.inf)
        high = jnp.where(moves, high + rho, jnp.inf)
        box = Box(jnp.maximum(box.low, low), jnp.minimum(box.high, high))
    bounded = jnp.isfinite(box.low) & jnp.isfinite(box.high)
    other = _by_linearization(system, params, example, start, rho)
    return Box(jnp.where(bounded, box.low, other.low), jnp.where(bounded, box.high, other.high))
