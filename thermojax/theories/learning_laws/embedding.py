"""Layered parameters as one block-nilpotent weight matrix, and flax parameters as layers.

    w = [[0, 0, 0], [W_1, 0, 0], [0, W_2, 0]],   b = (0, b_1, b_2),   w^(L+1) = 0

A feedforward network is the septuple whose w has sub-diagonal blocks only (our
reconstruction of the paper's nilpotent w, Vanchurin 2021).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ShapeError

__all__ = ["embed_layers", "extract_layers", "from_flax", "to_flax"]

Layers = list[tuple[Array, Array]]


def _slices(sizes: Sequence[int]) -> tuple[slice, ...]:
    stops = np.cumsum([0, *sizes]).tolist()
    return tuple(slice(a, b) for a, b in itertools.pairwise(stops))


def embed_layers(params: Layers) -> tuple[dict, np.ndarray, tuple[slice, ...]]:
    """The dense {"w", "b"} of a layered network.

    Args:
        params: [(W_l, b_l), ...] with W_l of shape (n_l, n_{l-1}).

    Returns:
        ({"w": (N, N), "b": (N,)}, support (N, N) of booleans, one slice for each layer,
        inputs first). Memory is O(N^2).

    Raises:
        ShapeError: neighbouring layers do not fit.

    Example:
        >>> dense, support, slices = embed_layers([(jnp.ones((2, 1)), jnp.zeros(2))])
        >>> dense["w"].tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    sizes = _sizes(params)
    slices = _slices(sizes)
    n, dtype = sum(sizes), jnp.result_type(*jax.tree.leaves(params))
    w, b = jnp.zeros((n, n), dtype), jnp.zeros(n, dtype)
    support = np.zeros((n, n), bool)
    for (block, bias), below, here in zip(params, slices[:-1], slices[1:], strict=True):
        w = w.at[here, below].set(block)
        b = b.at[here].set(bias)
        support[here, below] = True
    return {"w": w, "b": b}, support, slices


def extract_layers(dense: dict, sizes: Sequence[int]) -> Layers:
    """The layers of a dense {"w", "b"}: the inverse of `embed_layers`.

    Args:
        dense: {"w": (N, N), "b": (N,)}; entries outside the blocks are not read.
        sizes: n_0, ..., n_L.

    Raises:
        ShapeError: the sizes do not add up to N.

    Example:
        >>> dense = {"w": jnp.eye(2)[::-1], "b": jnp.array([0.0, 3.0])}
        >>> extract_layers(dense, (1, 1))[0][0].tolist()
        [[1.0]]
    """
    if jnp.shape(dense["b"]) != (sum(sizes),):
        raise ShapeError(
            f"sizes {tuple(sizes)} add up to {sum(sizes)} neurons, not {len(dense['b'])}"
        )
    slices = _slices(sizes)
    pairs = itertools.pairwise(slices)
    return [(dense["w"][here, below], dense["b"][here]) for below, here in pairs]


def _sizes(params: Layers) -> tuple[int, ...]:
    sizes = [jnp.shape(params[0][0])[1]]
    for index, (w, b) in enumerate(params):
        wanted = (jnp.shape(w)[0], sizes[-1])
        if jnp.shape(w) != wanted or jnp.shape(b) != wanted[:1]:
            raise ShapeError(
                f"layer {index} has W {jnp.shape(w)} and b {jnp.shape(b)}; the layer below "
                f"has {sizes[-1]} neurons: give (m, {sizes[-1]}) and (m,)"
            )
        sizes.append(wanted[0])
    return tuple(sizes)


def _natural(name: Any) -> list:
    # Dense_10 comes after Dense_9
    parts = re.split(r"(\d+)", str(name))
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts if part]


def _dense_layers(tree: Mapping, path: tuple = ()) -> Iterator[tuple[tuple, Mapping]]:
    if "kernel" in tree:
        yield path, tree
        return
    for name in sorted(tree, key=_natural):
        if isinstance(tree[name], Mapping):
            yield from _dense_layers(tree[name], (*path, name))


def _ordered(variables: Mapping, order: Sequence[str] | None) -> list[tuple[tuple, Mapping]]:
    found = list(_dense_layers(variables.get("params", variables)))
    if order is not None:
        by_name = {str(path[-1]): (path, layer) for path, layer in found if path}
        if sorted(by_name) != sorted(order):
            raise ValueError(f"order = {list(order)} does not name {sorted(by_name)}")
        found = [by_name[name] for name in order]
    if not found:
        raise ValueError(f"no dense layer ('kernel') among {sorted(variables)}; give an MLP's")
    return found


def from_flax(variables: Mapping, *, order: Sequence[str] | None = None) -> Layers:
    """Layers [(W_l, b_l), ...] from the variables of a flax MLP.

    Flax multiplies from the right: W_l is the transposed kernel. A layer without bias gets
    zeros.

    Args:
        variables: nested dicts with "kernel" (in, out) and "bias" (out,) at the bottom,
            inside "params" or not.
        order: names of the dense layers from input to output; None sorts them, numbers by
            value (Dense_2 before Dense_10).

    Returns:
        Parameters of `layered_network`.

    Raises:
        ValueError: no dense layer, or `order` names others.
        ShapeError: a kernel is no matrix, or neighbouring layers do not fit.

    Example:
        >>> dense = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> from_flax({"params": {"Dense_0": dense}})[0][0].shape
        (2, 3)
    """
    params = []
    for path, layer in _ordered(variables, order):
        kernel = jnp.asarray(layer["kernel"])
        if kernel.ndim != 2:
            raise ShapeError(
                f"the kernel of {'/'.join(map(str, path))} has shape {kernel.shape}; only "
                "dense layers (in, out) are septuples here"
            )
        bias = layer.get("bias")
        params.append((kernel.T, jnp.zeros_like(kernel[0]) if bias is None else bias))
    _sizes(params)
    return params


def to_flax(params: Layers, like: Mapping, *, order: Sequence[str] | None = None) -> dict:
    """Layers as flax variables: the inverse of `from_flax`.

    Args:
        params: [(W_l, b_l), ...].
        like: variables whose structure is wanted; a layer without bias there drops b_l.
        order: as for `from_flax`.

    Returns:
        Nested dicts like `like`, other leaves unchanged.

    Raises:
        ShapeError: another number of layers, or other shapes.

    Example:
        >>> like = {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
        >>> to_flax(from_flax(like), like)["Dense_0"]["kernel"].shape
        (3, 2)
    """
    found = _ordered(like, order)
    if len(found) != len(params):
        raise ShapeError(f"{len(params)} layers do not fill the {len(found)} of `like`")
    filled = {}
    for (path, layer), (w, b) in zip(found, params, strict=True):
        new = {"kernel": jnp.asarray(w).T} | ({"bias": b} if "bias" in layer else {})
        if any(jnp.shape(new[key]) != jnp.shape(layer[key]) for key in new):
            raise ShapeError(
                f"{'/'.join(map(str, path))} takes a kernel {jnp.shape(layer['kernel'])}, "
                f"not {new['kernel'].shape}"
            )
        filled[path] = new

    def rebuild(tree: Any, path: tuple) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        below = {key: rebuild(value, (*path, key)) for key, value in tree.items()}
        return below | filled.get(path, {})

    if "params" in like:
        return {**like, "params": rebuild(like["params"], ())}
    return rebuild(like, ())
