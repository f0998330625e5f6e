"""Restricted Boltzmann machines: binary and Gaussian visible units.

The hidden units of a restricted machine are independent given the visible ones and the
other way round, so that one layer is summed in closed form and the smaller one enumerated.

Source: core table rows T16 and T17.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.binary import counting_prior, layer_blocks
from thermojax.exact.quadrature import combine, refine
from thermojax.exact.references import INFLATION, REACH, normal_reference
from thermojax.exact.solvable import Moments, Solvable, finite
from thermojax.system import system

__all__ = ["gaussian_rbm", "rbm"]

_VISIBLE = (0.1, -0.2, 0.3)
_HIDDEN = (0.2, -0.1)
_WEIGHTS = ((1.0, -0.5), (0.3, 0.8), (-0.7, 0.2))
_MOST_UNITS = 24
_MOST_RANK = 3
_PANELS = {1: 2**12, 2: 2**7, 3: 2**4}  # of 16 nodes per axis
_LOG_2PI = math.log(2 * math.pi)


def _machine(visible_bias, hidden_bias, weights) -> tuple[np.ndarray, ...]:
    b, c = (
        np.atleast_1d(finite(name, value))
        for name, value in (("visible_bias", visible_bias), ("hidden_bias", hidden_bias))
    )
    w = finite("weights", weights)
    if b.ndim != 1 or c.ndim != 1 or w.shape != (len(b), len(c)):
        raise ValueError(
            f"weights must have shape [visible, hidden] = ({len(b)}, {len(c)}) to fit the "
            f"biases, got {w.shape}; transpose them if the layers are swapped"
        )
    return b, c, w


def _chunks_of_states(units: int, width: int):
    """All {0,1} states of a layer, [chunk, units] at a time; `width` bounds the memory."""
    if units > _MOST_UNITS:
        raise ValueError(
            f"the layer to enumerate has {units} units, enumeration covers {_MOST_UNITS}: "
            "use a smaller layer"
        )
    chunk = max(2**22 // max(units, width), 1)
    for first in range(0, 2**units, chunk):
        index = np.arange(first, min(first + chunk, 2**units))
        yield ((index[:, None] >> np.arange(units)) & 1).astype(np.float64)


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def _rbm_energy(theta, control, data):
    b, c, w = (jnp.asarray(x, theta["visible"].dtype) for x in data)
    field = c + jnp.sum(theta["visible"][:, None] * w, axis=0)
    return -jnp.sum(b * theta["visible"]) - jnp.sum(field * theta["hidden"])


def rbm(visible_bias=_VISIBLE, hidden_bias=_HIDDEN, weights=_WEIGHTS) -> Solvable:
    """A restricted Boltzmann machine over {0, 1}, over counting measure.

        U = -b.v - c.h - v^T W h
        Z = sum_h exp(beta c.h) prod_i (1 + exp(beta (b + W h)_i))

    Args:
        visible_bias: b [visible].
        hidden_bias: c [hidden].
        weights: W [visible, hidden].

    Returns:
        A solvable system with theta = {"visible": [visible], "hidden": [hidden]} of 0 and
        1 (floating point), and the two layers as its blocks. The sum runs over the smaller
        layer. S is the Shannon entropy.

    Raises:
        ValueError: shapes that disagree; more than 24 units in the smaller layer.

    Source: core table row T16.

    Example:
        >>> round(float(rbm().log_partition(1.0)), 10)
        4.0450883256
    """
    b, c, w = _machine(visible_bias, hidden_bias, weights)
    summed, few, bonds = (b, c, w) if len(c) <= len(b) else (c, b, w.T)
    next(_chunks_of_states(len(few), 1))

    def moments(beta: float) -> Moments:
        parts = []
        for state in _chunks_of_states(len(few), len(summed)):
            field = summed + state @ bonds.T
            own = state @ few
            log_weight = beta * own + np.sum(np.logaddexp(0.0, beta * field), axis=1)
            on = _sigmoid(beta * field)
            variance = np.sum(field**2 * on * (1 - on), axis=1)
            parts.append((log_weight, -own - np.sum(field * on, axis=1), variance))
        return combine(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    like = {"visible": jnp.zeros(len(b)), "hidden": jnp.zeros(len(c))}
    data = tuple(jnp.asarray(x) for x in (b, c, w))
    target = system(_rbm_energy, prior=counting_prior(like), data=data)
    return Solvable(target, moments, len(b) + len(c), blocks=layer_blocks(like))


def _gaussian_rbm_energy(theta, control, data):
    b, c, w = (jnp.asarray(x, theta.dtype) for x in data)
    field = c + jnp.sum(theta[:, None] * w, axis=0)
    return 0.5 * jnp.sum((theta - b) ** 2) - jnp.sum(jax.nn.softplus(field))


def _by_quadrature(shift: np.ndarray, w: np.ndarray, beta: float) -> Moments:
    """Moments over x [rank] of |x|^2/2 - sum softplus(shift + w^T x), w [rank, hidden].

    Equidistant nodes: the integrand is analytic and falls off as a Gaussian, so that they
    converge faster than any power.
    """
    rank, hidden = w.shape
    # softplus lies between its two asymptotes and log 2 above: modes inside the zonotope
    reach = math.sqrt(2 * (50 / beta + hidden * math.log(2)))
    low = np.minimum(w, 0).sum(1) - reach
    high = np.maximum(w, 0).sum(1) + reach

    def estimate(panels: int) -> Moments:
        axes = [np.linspace(*ends, 16 * panels) for ends in zip(low, high, strict=True)]
        mesh = np.ix_(*axes)
        energy = sum(0.5 * x**2 for x in mesh)
        for j in range(hidden):
            field = shift[j] + sum(w[a, j] * x for a, x in enumerate(mesh))
            energy = energy - np.logaddexp(0.0, field)
        cell = sum(math.log(x[1] - x[0]) for x in axes)
        return combine(cell - beta * energy, energy)

    return refine(estimate, _PANELS[rank])


def _by_mixture(shift: np.ndarray, w: np.ndarray) -> Moments:
    """The same at beta = 1 in any dimension: a mixture of normals over the hidden states.

    Var U would take integrals over pairs of hidden units; it is left out (nan).
    """
    dim, hidden = w.shape
    spread = np.sqrt(np.sum(w**2, axis=0))
    count = int(np.clip(40 * np.max(spread), 96, 4096))
    nodes = np.linspace(-9.0, 9.0, count)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    log_weights, means = [], []
    for state in _chunks_of_states(hidden, max(count, dim)):
        centre = state @ w.T
        square = np.sum(centre**2, axis=1)
        mean = 0.5 * (dim + square)
        for j in range(hidden):
            field = shift[j] + centre @ w[:, j]
            curve = np.logaddexp(0.0, field[:, None] + spread[j] * nodes)
            mean = mean - curve @ weights
        log_weights.append(state @ shift + 0.5 * square + 0.5 * dim * _LOG_2PI)
        means.append(mean)
    exact = combine(np.concatenate(log_weights), np.concatenate(means))
    return exact._replace(variance=math.nan)


def gaussian_rbm(visible_bias=_VISIBLE, hidden_bias=_HIDDEN, weights=_WEIGHTS) -> Solvable:
    """A restricted Boltzmann machine with Gaussian visible units, its hidden ones summed.

        U = |v - b|^2/2 - sum_j log(1 + exp(c + W^T v)_j)      over Lebesgue measure
        Z(1) = (2 pi)^{d/2} sum_h exp(c.h + b^T W h + |W h|^2/2),    h in {0, 1}^hidden

    At beta = 1 a mixture of 2^hidden normals. At other beta the directions orthogonal to
    the weights are Gaussian and the others, up to three, are integrated by quadrature.

    Args:
        visible_bias: b [visible].
        hidden_bias: c [hidden].
        weights: W [visible, hidden].

    Returns:
        A solvable system with theta [visible]. Where the weights span more than three
        directions only beta = 1 is solved, without a heat capacity (nan).

    Raises:
        ValueError: shapes that disagree; beta other than 1, or more than 24 hidden units,
            where the weights span more than three directions.

    Source: core table row T17.

    Example:
        >>> round(float(gaussian_rbm().log_partition(1.0)), 10)
        4.612704737
    """
    b, c, w = _machine(visible_bias, hidden_bias, weights)
    basis, singular, _ = np.linalg.svd(w, full_matrices=False)
    rank = int(np.sum(singular > 1e-12 * max(1.0, np.max(singular))))
    shift, dim = c + b @ w, len(b)
    if rank > _MOST_RANK:
        next(_chunks_of_states(len(c), 1))

    def moments(beta: float) -> Moments:
        if rank > _MOST_RANK and beta == 1:
            return _by_mixture(shift, w)
        if rank > _MOST_RANK:
            raise ValueError(
                f"the weights span {rank} directions, quadrature covers {_MOST_RANK}: only "
                f"beta = 1 is solved there, got {beta:g}"
            )
        flat = dim - rank
        log_z = 0.5 * flat * (_LOG_2PI - math.log(beta))
        rest = Moments(log_z, 0.5 * flat / beta, 0.5 * flat / beta**2)
        if rank == 0:
            constant = -float(np.sum(np.logaddexp(0.0, shift)))
            return rest + Moments(-beta * constant, constant, 0.0)
        return rest + _by_quadrature(shift, basis[:, :rank].T @ w, beta)

    # wide enough for every mixture of the modes b + W h
    centre, away = b + 0.5 * w.sum(1), w @ w.T
    reference = normal_reference(centre, INFLATION**2 * (np.eye(dim) / REACH + away))
    data = tuple(jnp.asarray(x) for x in (b, c, w))
    target = system(_gaussian_rbm_energy, reference=reference, data=data)
    return Solvable(target, moments, dim, proper_above=0.0)
