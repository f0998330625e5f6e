"""Parameters in named blocks: layers, by default.

A blocks function maps parameters to {name: subtree} with every scalar in exactly one block.
It is applied alike to parameters, gradients, probes and diagonals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from thermojax.typing import Array, PyTree, ShapeError

__all__ = ["Blocks", "block_dots", "block_sizes", "split"]

Blocks = Callable[[PyTree], Mapping[str, PyTree]]


def split(params: PyTree, blocks: Blocks | None = None) -> dict[str, PyTree]:
    """{name: subtree}: by `blocks`, else the top-level keys of a mapping, else one "all".

    Raises:
        ShapeError: a scalar is in no block, or in two.
    """
    if blocks is None:
        found = dict(params) if isinstance(params, Mapping) else {"all": params}
    else:
        found = dict(blocks(params))
    have, want = (sum(jnp.size(x) for x in jax.tree.leaves(t)) for t in (found, params))
    if have != want:
        raise ShapeError(
            f"the blocks hold {have} scalars of {want} parameters: every one belongs in "
            "exactly one block"
        )
    return {str(name): part for name, part in found.items()}


def block_sizes(params: PyTree, blocks: Blocks | None = None) -> dict[str, int]:
    """Number of scalars of every block."""
    parts = split(params, blocks)
    return {n: sum(jnp.size(x) for x in jax.tree.leaves(p)) for n, p in parts.items()}


def block_dots(a: PyTree, b: PyTree, blocks: Blocks | None = None) -> Array:
    """[L] inner products a_l . b_l."""
    first, second = split(a, blocks), split(b, blocks)

    def dot(x, y):
        products = jax.tree.map(lambda u, v: jnp.sum(u * v), x, y)
        return sum(jax.tree.leaves(products))

    return jnp.stack([dot(first[name], second[name]) for name in first])
