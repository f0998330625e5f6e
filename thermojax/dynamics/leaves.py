"""Arithmetic over the leaves of theta that every bath needs."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from thermojax.reduce import total
from thermojax.typing import Array, PyTree, ShapeError

__all__ = ["as_inexact", "dtype_of", "kinetic", "scales", "size", "split", "zeros"]


def size(tree: PyTree) -> int:
    """Number of parameters."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def dtype_of(tree: PyTree) -> Any:
    """Common dtype of the leaves."""
    return jnp.result_type(*[leaf.dtype for leaf in jax.tree.leaves(tree)])


def zeros(tree: PyTree) -> PyTree:
    """Zeros like the leaves."""
    return jax.tree.map(jnp.zeros_like, tree)


def as_inexact(theta: PyTree) -> PyTree:
    """Leaves as arrays, integers as floats."""
    theta = jax.tree.map(jnp.asarray, theta)
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float), theta
    )


def split(flat: Array, like: PyTree) -> PyTree:
    """One flat draw over the leaves of `like`, in their dtypes."""
    leaves, treedef = jax.tree.flatten(like)
    out, start = [], 0
    for leaf in leaves:
        out.append(flat[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(treedef, out)


def kinetic(r: PyTree, dtype: Any) -> Array:
    """|r|^2 / 2, summed in `dtype`."""
    squares = jnp.zeros((), dtype)
    for leaf in jax.tree.leaves(r):
        squares = squares + 0.5 * total(leaf.astype(dtype) ** 2)
    return squares


def scales(scale: PyTree, theta: PyTree) -> PyTree:
    """`scale` as a pytree like theta.

    Raises:
        ShapeError: neither a scalar nor a pytree like theta.
    """
    if jax.tree.structure(scale) == jax.tree.structure(theta):
        return jax.tree.map(lambda s, x: jnp.asarray(s, x.dtype), scale, theta)
    if jax.tree.structure(scale).num_leaves != 1:
        raise ShapeError(
            f"scale has structure {jax.tree.structure(scale)}, "
            f"parameters {jax.tree.structure(theta)}: give a scalar or a pytree like theta"
        )
    return jax.tree.map(lambda x: jnp.asarray(scale, x.dtype), theta)
