"""Entropies of states: exact ones of declared densities, and estimates from ensembles.

    S = h[p]                                        differential entropy
    S_delta = I(theta; theta + delta xi)            resolved to a length delta
    S_cell = h - sum_j ln cell_j                    counted in cells
    S_E = h of the random number U(theta)           energy-level entropy

A trained network is a point, whose h is -inf; what it is known to is a resolution, and that
has no default. Good choices, in this order: the width of the trained ensemble, the
stationary width sqrt(T_bath / curvature), the width under which U is flat to what matters.

Source: our definitions, following the programme of Zhang (2024); the k-nearest-neighbour
estimator is Kozachenko & Leonenko's.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma

from thermojax.estimators.knn import flatten_ensemble, knn_entropy
from thermojax.theories.temperature.densities import Density, Point
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = [
    "energy_entropy",
    "ensemble_entropy",
    "entropy",
    "laplace_entropy",
    "moments",
    "sample",
]


def _is_density(x: object) -> bool:
    return isinstance(x, Density)


def _paired(density_tree: PyTree, shapes: PyTree) -> list[tuple[str, Density, Array]]:
    """(path, density, leaf) of every leaf.

    Raises:
        ValueError: the trees differ, or a density does not broadcast to its leaf.
    """
    densities, have = jax.tree.flatten(density_tree, is_leaf=_is_density)
    leaves = jax.tree_util.tree_flatten_with_path(shapes)
    if have != leaves[1]:
        raise ValueError(f"density_tree has structure {have}, the parameters {leaves[1]}")
    pairs = []
    for density, (path, leaf) in zip(densities, leaves[0], strict=True):
        where = jax.tree_util.keystr(path) or "the parameters"
        if not _is_density(density):
            raise ValueError(f"{where}: {density!r} is no density: use Normal, Uniform, ...")
        own = jnp.broadcast_shapes(*(jnp.shape(x) for x in jax.tree.leaves(density)))
        if jnp.broadcast_shapes(own, leaf.shape) != tuple(leaf.shape):
            raise ValueError(f"{where}: density of shape {own} for a leaf of {leaf.shape}")
        pairs.append((where, density, leaf))
    return pairs


def sample(density_tree: PyTree, shapes: PyTree, key: Key) -> PyTree:
    """One draw of all parameters from a product density; pathwise differentiable.

    Args:
        density_tree: a density per leaf.
        shapes: matching tree of arrays or `jax.ShapeDtypeStruct`.
        key: typed key; `jax.vmap` over keys gives an ensemble.

    Returns:
        A tree like `shapes`.

    Raises:
        ValueError: the trees do not match.
    """
    pairs = _paired(density_tree, shapes)
    keys = jax.random.split(key, len(pairs))
    drawn = [
        density.sample(k, tuple(leaf.shape), leaf.dtype)
        for k, (_, density, leaf) in zip(keys, pairs, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), drawn)


def moments(density_tree: PyTree) -> tuple[PyTree, PyTree]:
    """Means and variances, as two trees of the densities' own shapes."""
    densities, structure = jax.tree.flatten(density_tree, is_leaf=_is_density)
    means, variances = zip(*(d.moments() for d in densities), strict=True)
    return jax.tree.unflatten(structure, means), jax.tree.unflatten(structure, variances)


def entropy(
    density_tree: PyTree,
    shapes: PyTree,
    *,
    resolution: PyTree = None,
    kind: str = "resolved",
    per_leaf: bool = False,
) -> PyTree:
    """Exact entropy of a product density over all parameters, nats.

        kind="resolved":  sum_j S_delta[p_j]; without a resolution sum_j h[p_j]
        kind="cell":      sum_j (h[p_j] - ln cell_j), zero for a point; good for cells much
                          smaller than the density

    Our definition, following the programme of Zhang (2024).

    Args:
        density_tree: a density per leaf.
        shapes: matching tree of arrays or `jax.ShapeDtypeStruct`.
        resolution: delta, or the cell: a scalar or a tree like `shapes`, unit of theta.
        kind: "resolved" or "cell".
        per_leaf: return a tree of the leaves' entropies instead of their sum.

    Raises:
        ValueError: a point without a resolution, an unknown kind, trees that do not match,
            a resolution that is not positive.

    Example:
        >>> from thermojax.theories.temperature.densities import Normal
        >>> shapes = {"w": jnp.zeros(3)}
        >>> print(f"{entropy({'w': Normal(0.0, 1.0)}, shapes, resolution=0.1):.4f}")
        6.9227
    """
    if kind not in ("resolved", "cell"):
        raise ValueError(f"kind={kind!r} is unknown: use 'resolved' or 'cell'")
    pairs = _paired(density_tree, shapes)
    if resolution is None:
        _need_resolution(pairs, kind)
        lengths: list = [None] * len(pairs)
    else:
        lengths = resolution_leaves(resolution, shapes)
    each = [
        _leaf_entropy(density, leaf, length, kind)
        for (_, density, leaf), length in zip(pairs, lengths, strict=True)
    ]
    tree = jax.tree.unflatten(jax.tree.structure(shapes), each)
    return tree if per_leaf else sum(each)


def _need_resolution(pairs, kind: str) -> None:
    if kind == "cell":
        raise ValueError("kind='cell' needs resolution=, the size of a cell in theta")
    points = [where for where, density, _ in pairs if isinstance(density, Point)]
    if points:
        raise ValueError(
            f"{', '.join(points)}: a point has entropy -inf: give resolution=, the length to "
            "which parameters are known"
        )


def resolution_leaves(resolution: PyTree, shapes: PyTree) -> list[ArrayLike]:
    """The resolution of every leaf of `shapes`; a scalar serves all.

    Raises:
        ValueError: not positive, or a tree of another structure.
    """
    if is_concrete(resolution):
        for value in jax.tree.leaves(resolution):
            if not np.all(np.asarray(value) > 0):
                raise ValueError(f"resolution={value} must be positive: a length in theta")
    structure = jax.tree.structure(shapes)
    found = jax.tree.leaves(resolution)
    if jax.tree.structure(resolution) == structure:
        return found
    if len(found) == 1 and jnp.ndim(found[0]) == 0:
        return found * structure.num_leaves
    raise ValueError(
        f"resolution has structure {jax.tree.structure(resolution)}, the parameters "
        f"{structure}: give a scalar or a tree like the parameters"
    )


def _leaf_entropy(density: Density, leaf: Array, length: ArrayLike | None, kind: str) -> Array:
    """Sum over the leaf, from one evaluation at the densities' own shape."""
    if length is None:
        each = density.entropy()
    elif kind == "resolved":
        each = density.resolved_entropy(length)
    elif isinstance(density, Point):
        each = jnp.zeros(())
    else:
        each = density.entropy() - jnp.log(jnp.asarray(length))
    if jnp.broadcast_shapes(each.shape, leaf.shape) != tuple(leaf.shape):
        raise ValueError(f"a resolution of shape {each.shape} for a leaf of {leaf.shape}")
    return jnp.sum(each) * (leaf.size / each.size)


# From samples


def ensemble_entropy(
    samples: PyTree, *, method: str = "gaussian", resolution: PyTree = None, k: int = 3
) -> Array:
    """Entropy of the law that an ensemble was drawn from, nats.

        "gaussian":  ln det(1 + Theta Theta^T / ((M - 1) delta^2)) / 2, Theta centred [M, D];
                     an upper bound given the covariance, biased low for M <~ D: compare two
                     states with the same M. Without delta: ln det(2 pi e Sigma) / 2.
        "diagonal":  sum_j ln(1 + var_j / delta^2) / 2, an upper bound of "gaussian"
        "knn":       psi(M) - psi(k) + ln V_D + (D/M) sum_i ln eps_i, eps_i the distance to
                     the k-th neighbour; ignores the resolution; for D <~ 10 only. Identical
                     rows give -inf.

    Args:
        samples: [M, D], or a pytree with leading axis M.
        method: "gaussian", "diagonal" or "knn".
        resolution: delta, a scalar or a tree of leaves without the leading axis.
        k: neighbour of "knn".

    Raises:
        ValueError: an unknown method; M < 2; "gaussian" without a resolution and M <= D;
            "knn" with M <= k.
    """
    flat = flatten_ensemble(samples)
    count, size = flat.shape
    if method not in ("gaussian", "diagonal", "knn"):
        raise ValueError(f"method={method!r} is unknown: use 'gaussian', 'diagonal' or 'knn'")
    least = k + 1 if method == "knn" else 2
    if method == "gaussian" and resolution is None:
        least = size + 1
    if count < least:
        raise ValueError(
            f"{count} members are too few for method={method!r} in {size} dimensions: it needs "
            f"{least}" + (", or a resolution" if least == size + 1 else "")
        )
    if method == "knn":
        return knn_entropy(flat, k=k, whiten=False).value
    centred = _centred(samples, resolution)
    if method == "diagonal":
        variance = jnp.sum(centred**2, axis=0) / (count - 1)
        if resolution is None:
            return 0.5 * jnp.sum(jnp.log(2 * math.pi * math.e * variance))
        return 0.5 * jnp.sum(jnp.log1p(variance))
    if resolution is None:
        covariance = centred.T @ centred / (count - 1)
        logdet = jnp.linalg.slogdet(covariance)[1]
        return 0.5 * (size * math.log(2 * math.pi * math.e) + logdet)
    # det(1 + A A^T) = det(1 + A^T A): the smaller of the two
    gram = centred @ centred.T if count <= size else centred.T @ centred
    return 0.5 * jnp.linalg.slogdet(jnp.eye(len(gram)) + gram / (count - 1))[1]


def _centred(samples: PyTree, resolution: PyTree) -> Array:
    """[M, D] deviations from the mean, in units of the resolution if there is one."""
    if resolution is not None:
        one = jax.tree.map(lambda x: x[0], samples)
        leaves, structure = jax.tree.flatten(samples)
        lengths = resolution_leaves(resolution, one)
        samples = jax.tree.unflatten(
            structure, [x / d for x, d in zip(leaves, lengths, strict=True)]
        )
    flat = flatten_ensemble(samples)
    return flat - jnp.mean(flat, axis=0)


def _log(x: Array) -> Array:
    """ln x, -inf with a zero gradient at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), -jnp.inf)


def energy_entropy(energies: ArrayLike, *, k: int = 3) -> Array:
    """h of the one random number U(theta), by k nearest neighbours; nats.

    The other reading of "entropy of the possible parameters and their energies", cheap at
    any dimension of theta; our definition, following the programme of Zhang (2024).

    Args:
        energies: [M].
        k: neighbour.

    Raises:
        ValueError: not one axis, or M <= k.
    """
    values = jnp.asarray(energies)
    if values.ndim != 1 or values.size <= k:
        raise ValueError(
            f"energies of shape {values.shape}: energy_entropy needs one axis of more than "
            f"k={k} members"
        )
    ordered = jnp.sort(values)
    padded = jnp.pad(ordered, k, constant_values=jnp.inf)
    shifts = [*range(k), *range(k + 1, 2 * k + 1)]
    gaps = jnp.stack([jnp.abs(padded[s : s + values.size] - ordered) for s in shifts])
    nearest = jnp.sort(gaps, axis=0)[k - 1]
    psi = digamma(jnp.asarray(values.size, values.dtype)) - digamma(
        jnp.asarray(k, values.dtype)
    )
    return psi + math.log(2.0) + jnp.mean(_log(nearest))


def laplace_entropy(
    hessian_eigenvalues: ArrayLike,
    bath_temperature: ArrayLike,
    *,
    resolution: ArrayLike,
    floor: float = 1e-6,
) -> Array:
    """S_delta of a trained state N(theta*, T_bath / H), nats.

        S = (1/2) sum_i ln(1 + T_bath / (lambda_i delta^2))

    Our definition, following the programme of Zhang (2024).

    Args:
        hessian_eigenvalues: [D]; those below `floor` count as `floor`.
        bath_temperature: T of the bath that the trained network feels.
        resolution: delta.
        floor: least curvature.

    Raises:
        ValueError: a negative temperature, or a resolution or floor that is not positive.
    """
    for name, value, low in (
        ("resolution", resolution, 0.0),
        ("floor", floor, 0.0),
        ("bath_temperature", bath_temperature, -1e-300),
    ):
        if is_concrete(value) and not np.all(np.asarray(value) > low):
            raise ValueError(f"{name}={value} must be positive")
    curvature = jnp.maximum(jnp.asarray(hessian_eigenvalues), floor)
    return 0.5 * jnp.sum(jnp.log1p(bath_temperature / (curvature * jnp.square(resolution))))
