"""log Z of up to three free neurons by nested Gauss-Legendre quadrature in log space.

    log Z(beta) = log ∫ d^n x exp(-beta H(x)),   n <= 3 free neurons

Axes are nested: the panels of an inner axis may depend on the coordinates outside it, so
that every panel edge can be put on the kink of a relu, where its pre-activation (affine in
the free states) vanishes. Edges move with the parameters and are differentiated, which
gives the delta terms of a kink that differentiating under the integral would miss. The
outermost of two or more axes is a loop, so that memory holds one slice.

Source: textbook (composite Gauss-Legendre); box and kinks derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.theories.learning_laws.box import Example, box_of, kinks_of
from thermojax.theories.learning_laws.septuple import System
from thermojax.theories.learning_laws.states import State, state_of
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["Moments", "combine", "integrate_energy", "quadrature_state"]

MOST = 3
"""Free neurons beyond which the nodes no longer fit into a computer's time."""

PEAK = 0.25
"""Share of the mass on one node from which on the nodes are too far apart."""


class Moments(NamedTuple):
    """What a quadrature knows of H: log Z in nats, mean and variance of H, and how coarse.

    Attributes:
        log_z: log ∫ exp(-beta H), scalar.
        mean: <H>.
        variance: Var H.
        peak: the largest share of the mass that one node of an axis carries; beyond a
            quarter the nodes are too far apart to see the shape of the peak.
    """

    log_z: Array
    mean: Array
    variance: Array
    peak: Array


def combine(log_weight: Array, mean: Array, variance: ArrayLike = 0.0) -> Moments:
    """Moments of a mixture of K parts with log weights [K], means and variances of H."""
    log_z = logsumexp(log_weight)
    share = jax.nn.softmax(log_weight)
    # a node at infinite energy has no share, and must not turn the mean into nan
    mean = jnp.where(share > 0, mean, 0.0)
    average = jnp.sum(share * mean)
    spread = jnp.sum(share * (variance + (mean - average) ** 2))
    return Moments(log_z, average, spread, jnp.max(share))


def gauss_panels(low: Array, high: Array, kinks: Array, panels: int, nodes: int):
    """Nodes and log weights [panels * nodes] on [low, high] with edges on the kinks.

    Args:
        low: lower end.
        high: upper end.
        kinks: [K] places where a panel must end; those outside are moved to the ends.
        panels: number of panels, kinks included while they are at most half of them.
        nodes: nodes of the Gauss-Legendre rule in each panel.
    """
    unit, weight = np.polynomial.legendre.leggauss(nodes)
    even = max(panels - len(kinks), (panels + 1) // 2)
    edges = low + (high - low) * jnp.linspace(0.0, 1.0, even + 1, dtype=low.dtype)
    if len(kinks):
        edges = jnp.sort(jnp.concatenate([edges, jnp.clip(kinks, low, high)]))
    # empty panels keep a finite logarithm, so that derivatives stay finite
    half = jnp.maximum((edges[1:] - edges[:-1]) / 2, jnp.finfo(low.dtype).tiny)
    middle = (edges[1:] + edges[:-1]) / 2
    points = middle[:, None] + half[:, None] * jnp.asarray(unit, low.dtype)
    log_weight = jnp.log(half)[:, None] + jnp.asarray(np.log(weight), low.dtype)
    return points.ravel(), log_weight.ravel()


def kinks_along(axis: int, outer: Array, slope: Array, offset: Array) -> Array:
    """Where the pre-activations `slope @ x + offset` vanish along one axis; [m].

    Those that depend on axes inside this one have no place on it: they are put at
    infinity, where they do no harm.
    """
    along = slope[:, axis]
    here = (along != 0) & jnp.all(slope[:, axis + 1 :] == 0, axis=1)
    at_zero = offset + slope[:, :axis] @ outer
    return jnp.where(here, -at_zero / jnp.where(here, along, 1.0), jnp.inf)


def check_free(n: int) -> None:
    """Refuse a number of free neurons for which the nodes would not fit."""
    if not 1 <= n <= MOST:
        raise ValueError(
            f"quadrature takes 1 to {MOST} free neurons, not {n}: use method='laplace', "
            "'linearized' or 'ais'"
        )


def integrate_energy(
    energy: Callable,
    low: Array,
    high: Array,
    beta: ArrayLike,
    *,
    panels: int = 24,
    nodes: int = 16,
    kinks: tuple[Array, Array] | None = None,
) -> Moments:
    """log Z, <H> and Var H of an energy over a box in one to three dimensions.

        log Z = log ∫_box d^n x exp(-beta H(x))

    Differentiable of every order in what `energy`, `beta` and `kinks` close over; the box
    itself is held fixed, so it must hold the mass.

    Args:
        energy: `x [n] -> scalar`, in units of the loss.
        low: [n] lower corner.
        high: [n] upper corner.
        beta: inverse temperature.
        panels: panels per axis.
        nodes: nodes per panel; 24 of 16 are good to 1e-10 for smooth energies whose peak
            is no narrower than a fiftieth of the box.
        kinks: slope [m, n] and offset [m] of affine forms of x at whose zeros the energy
            has a kink; None for smooth energies.

    Returns:
        `Moments`; log Z is +inf where the box has no end.

    Raises:
        ValueError: no axis, or more than three.

    Source: textbook.

    Example:
        >>> box = jnp.full((1,), 8.0)
        >>> out = integrate_energy(lambda x: 0.5 * x @ x, -box, box, 1.0)
        >>> print(f"{out.log_z:.4f} {out.mean:.4f}")  # 0.5 log(2 pi), 0.5
        0.9189 0.5000
    """
    n = low.shape[0]
    check_free(n)
    low, high = jax.lax.stop_gradient((low, high))
    bounded = jnp.all(jnp.isfinite(low) & jnp.isfinite(high))
    low, high = jnp.where(bounded, low, 0.0), jnp.where(bounded, high, 1.0)
    beta = jnp.asarray(beta, low.dtype)

    def over_axis(axis: int, outer: Array) -> Moments:
        edges = jnp.zeros((0,)) if kinks is None else kinks_along(axis, outer, *kinks)
        points, log_weight = gauss_panels(low[axis], high[axis], edges, panels, nodes)

        def at(point: Array) -> Moments:
            x = jnp.append(outer, point)
            if axis + 1 < n:
                return over_axis(axis + 1, x)
            value = energy(x)
            return Moments(-beta * value, value, jnp.zeros_like(value), jnp.zeros_like(value))

        if axis == 0 and n > 1:
            inner = jax.lax.map(jax.checkpoint(at), points)
        else:
            inner = jax.vmap(at)(points)
        log_weight = log_weight + inner.log_z
        out = combine(log_weight, inner.mean, inner.variance)
        within = jnp.sum(jax.nn.softmax(log_weight) * inner.peak)
        return out._replace(peak=jnp.maximum(out.peak, within))

    out = over_axis(0, jnp.zeros((0,), low.dtype))
    return out._replace(log_z=jnp.where(bounded, out.log_z, jnp.inf))


def quadrature_state(
    system: System,
    params: PyTree,
    example: Example,
    beta: ArrayLike,
    *,
    panels: int = 24,
    nodes: int = 16,
    half_width: float = 10.0,
) -> State:
    """The thermodynamics of one example's states by quadrature, to about ten digits.

        log Z = log ∫ d^n x exp(-beta H(x; q)),   n <= 3

    Differentiable of every order in params, example and beta, kinks of relu included
    where a pre-activation vanishes.

    Args:
        system: the network.
        params: its trainables.
        example: what is clamped.
        beta: inverse temperature of the states.
        panels: panels per axis.
        nodes: nodes per panel.
        half_width: of the box, in units of the noise 1/sqrt(beta); 10 cuts at 50 nats.

    Returns:
        `State`, stderr 0. TOO_COARSE where a peak is narrower than the nodes; log Z is
        +inf where nothing confines the states.

    Raises:
        ValueError: more than three free neurons.

    Source: textbook.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> net = dense_network(1, "tanh")
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
        >>> print(f"{quadrature_state(net, params, None, 4.0).log_z:.4f}")
        0.6986
    """
    n = system.free_dim(example)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    beta = jnp.asarray(beta, dtype)
    energy = lambda x: system.energy(params, x, example)
    if n == 0:
        value = energy(jnp.zeros((0,), dtype))
        return state_of(-beta * value, value, jnp.zeros_like(value), 0, beta)
    check_free(n)
    held = jax.lax.stop_gradient((params, example, beta))
    box = box_of(system, held[0], held[1], held[2], half_width)
    out = integrate_energy(
        energy, *box, beta, panels=panels, nodes=nodes, kinks=kinks_of(system, params, example)
    )
    coarse = raise_flags(
        (Flag.TOO_COARSE, out.peak > PEAK),
        (Flag.IMPROPER, jnp.isposinf(out.log_z)),
        (Flag.NONFINITE, jnp.isnan(out.log_z)),
    )
    return state_of(out.log_z, out.mean, beta**2 * out.variance, n, beta, flags=coarse)
