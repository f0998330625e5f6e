"""Memorized and learned information of an ensemble of independently trained networks.

    L-info  I(X; B)      what the dataset B left in the outputs
    M-info  I(Theta; B)  what it left in the parameters
    I(X; Theta)          subsystem information; equal to the L-info for deterministic training

B is never summed over: networks trained on independent datasets stand for it. The bounds
themselves know no network and live in `thermojax.estimators.information`.

Source: specification of the PPM theory, sections 2.1 and 3.3. M-info as I(Theta; B) and
L-info as I(X; B) are our reading of Parsi 2024 ([paper?]); the estimators are standard or
derived here, as marked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.information import (
    InformationBounds,
    ensemble_information,
    grouped_information,
    grouped_mixture_information,
    mixture_information,
)
from thermojax.estimators.mixture import jackknife
from thermojax.typing import Array, ArrayLike, PyTree, ShapeError

__all__ = [
    "InformationBounds",
    "ensemble_information",
    "gaussian_memorized_information",
    "grouped_information",
    "grouped_mixture_information",
    "log_likelihood_matrix",
    "mixture_information",
]

# numbers that run together by default, taking an evaluation of log_prob for 64 of them or
# for as many as a sample has: tens of megabytes
_TOGETHER = 1 << 22


def log_likelihood_matrix(
    log_prob: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    samples: PyTree,
    chunk: int | None = None,
) -> Array:
    """ll[j, i, m] = log p(x_im | theta_j), every network on every network's samples, nats.

    N^2 M evaluations and as many floats; only `chunk` networks run at a time.

    Args:
        log_prob: log density `(params, x) -> scalar` of one network and one sample.
        params: pytree, leading axis [N].
        samples: array or pytree, leading axes [N, M]; a conditional model takes pairs
            (input, output), with the same inputs for every network.
        chunk: networks evaluated at once; None for some 65,000 evaluations, fewer
            where samples are large.

    Returns:
        [N, N, M], index [model j, source i, sample m].

    Raises:
        ShapeError: leaves without the leading axes, the leaf named.
        ValueError: chunk < 1.

    Source: specification 3.3(a) (standard).

    Example:
        >>> log_prob = lambda theta, x: jax.scipy.stats.norm.logpdf(x, theta)
        >>> x = jnp.zeros((3, 4))
        >>> log_likelihood_matrix(log_prob, jnp.arange(3.0), x).shape
        (3, 3, 4)
    """
    n, m = leading_axes(samples, 2, "samples")
    leading_axes(params, 1, "params", (n,))
    if chunk is None:
        numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(samples))
        chunk = max(1, _TOGETHER // max(numbers, 64 * n * m))
    if chunk < 1:
        raise ValueError(f"chunk={chunk} networks at a time: give at least 1")

    def row(theta):
        one = functools.partial(log_prob, theta)
        return jax.vmap(jax.vmap(one))(samples)

    ll = jax.lax.map(row, params, batch_size=min(chunk, n))
    if ll.shape != (n, n, m):
        raise ShapeError(
            f"log_prob returned shape {ll.shape[3:]} for one network and one sample: "
            "it must return a scalar"
        )
    return ll


def leading_axes(
    tree: PyTree, count: int, name: str, expected: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """The leading axes that all leaves of `tree` share.

    Args:
        tree: pytree of arrays.
        count: how many axes.
        name: what the error message calls the tree.
        expected: the sizes they must have; None for those of the first leaf.

    Returns:
        Their sizes.

    Raises:
        ShapeError: a leaf that disagrees, or an empty tree.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        shape = jnp.shape(leaf)
        expected = shape[:count] if expected is None else expected
        if len(shape) < count or shape[:count] != expected:
            raise ShapeError(
                f"leaf {jax.tree_util.keystr(path) or name} of {name} has shape {shape}: "
                f"its {count} leading axes must be the same for all leaves"
                + (f", {expected}" if len(expected) == count else "")
            )
    if expected is None:
        raise ShapeError(f"{name} has no leaves: give at least one array")
    return expected


def gaussian_memorized_information(params: ArrayLike, shrinkage: float = 0.0) -> Estimate:
    """M-info I(Theta; B) of G datasets x K seeds if Theta and Theta|B are Gaussian, nats.

        M = (1/2) [log det Cov_total - log det Cov_within]

    each log-det less its Wishart bias sum_i psi((nu - i + 1)/2) + d log(2/nu), with
    nu = GK - 1 (approximate: members of a group share its mean) and G(K - 1). For d much
    smaller than GK. Deterministic training has no spread within a group: M = inf, SATURATED.
    A parameter that never moves has no covariance at all (nan, NONFINITE): leave it out.

    Args:
        params: [G, K, d] flat parameters, K independent seeds on each of G datasets.
        shrinkage: in [0, 1): weight of the isotropic part (tr Cov / d) 1 mixed into both
            covariances; biases towards the isotropic M. Static.

    Returns:
        `Estimate` in nats; stderr by the jackknife over groups, inf where leaving one out
        leaves too few; `parts` holds both bias-corrected log-dets.

    Raises:
        ValueError: a wrong shape, G < 2, K < 2, shrinkage outside [0, 1), or
            G(K - 1) < d without shrinkage.

    Source: derived here; specification 3.3(d) [ours].

    Example:
        >>> key = jax.random.key(0)
        >>> m = jax.random.normal(key, (64, 1, 1)) + 0.5 * jax.random.normal(key, (64, 8, 1))
        >>> bool(abs(gaussian_memorized_information(m).value - 0.5 * jnp.log(5)) < 0.2)
        True
    """
    params = jnp.asarray(params)
    if params.ndim != 3:
        raise ValueError(f"params has shape {params.shape}: give [G, K, d]")
    g, k, d = params.shape
    if g < 2 or k < 2:
        raise ValueError(f"G={g} groups of K={k} seeds: give at least two of each")
    if not 0 <= shrinkage < 1:
        raise ValueError(f"shrinkage={shrinkage} must lie in [0, 1)")
    if not shrinkage and g * (k - 1) < d:
        raise ValueError(
            f"G(K-1)={g * (k - 1)} within-group differences cannot fill d={d} dimensions: "
            "give more seeds, or shrinkage > 0"
        )
    return _gaussian_memorized(params, shrinkage)


@functools.partial(jax.jit, static_argnames="shrinkage")
def _gaussian_memorized(params: Array, shrinkage: float) -> Estimate:
    g = params.shape[0]
    total, within = _log_dets(params, jnp.ones(g), g, shrinkage)
    value = 0.5 * (total - within)

    def without(left_out):
        keep = jnp.arange(g) != left_out
        return 0.5 * jnp.subtract(*_log_dets(params, keep, g - 1, shrinkage))

    parts = {"log_det_total": total, "log_det_within": within}
    stderr = jackknife(jax.lax.map(without, jnp.arange(g)), g)
    enough = shrinkage > 0 or (g - 1) * (params.shape[1] - 1) >= params.shape[2]
    stderr = jnp.where(enough & (g > 2) & jnp.isfinite(stderr), stderr, jnp.inf)
    flags = raise_flags(
        (Flag.SATURATED, jnp.isposinf(value)),
        (Flag.FEW_RUNS, g < 4),
        (Flag.NONFINITE, jnp.isnan(value) | jnp.isneginf(value)),
    )
    n_eff = jnp.asarray(g, params.dtype)
    return Estimate(value, stderr, stderr, n_eff, flags, parts)


def _log_dets(params: Array, keep: Array, g: int, shrinkage: float) -> tuple[Array, Array]:
    """Bias-corrected log-dets of the total and pooled within covariance of kept groups."""
    _, k, d = params.shape
    weight = keep.astype(params.dtype)
    means = jnp.mean(params, axis=1)
    grand = jnp.tensordot(weight, means, 1) / g
    inside = (params - means[:, None]).reshape(-1, d)
    outside = jnp.sqrt(k * weight)[:, None] * (means - grand)
    scatter_within = inside.T @ (jnp.repeat(weight, k)[:, None] * inside)
    scatter_total = scatter_within + outside.T @ outside
    dofs = g * k - 1, g * (k - 1)
    covs = [s / nu for s, nu in zip((scatter_total, scatter_within), dofs, strict=True)]
    spread = jnp.max(jnp.abs(params), axis=(0, 1))
    biases = [_wishart_bias(nu, d, params.dtype) for nu in dofs]
    if min(dofs) < d:
        biases = [jnp.zeros_like(b) for b in biases]
    total, within = (
        _log_det(_shrunk(c, shrinkage), spread) - (1 - shrinkage) * b
        for c, b in zip(covs, biases, strict=True)
    )
    return total, within


def _shrunk(cov: Array, shrinkage: float) -> Array:
    d = cov.shape[0]
    return (1 - shrinkage) * cov + shrinkage * jnp.trace(cov) / d * jnp.eye(d, dtype=cov.dtype)


def _wishart_bias(nu: int, d: int, dtype: jnp.dtype) -> Array:
    """E log det of a sample covariance of nu degrees of freedom, less the true log det."""
    i = jnp.arange(d, dtype=dtype)
    return jnp.sum(digamma((nu - i) / 2)) + d * math.log(2 / nu)


def _log_det(cov: Array, spread: Array) -> Array:
    """log det; -inf where a pivot is the round-off of parameters as large as `spread` [d]."""
    eps, variance = jnp.finfo(cov.dtype).eps, jnp.diagonal(cov)
    pivots = jnp.diagonal(jnp.linalg.cholesky(cov)) ** 2
    real = (pivots > cov.shape[0] * eps * variance) & (variance > (8 * eps * spread) ** 2)
    return jnp.sum(jnp.where(real, jnp.log(jnp.where(real, pivots, 1.0)), -jnp.inf))
