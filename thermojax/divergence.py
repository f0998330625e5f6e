"""Divergence of a field on parameter space, block by block: what entropy flows by.

    div_l B = sum over the block l of dB_j / dtheta_j,      lap_l U = div_l grad U

| curvature | estimate | right for |
|---|---|---|
| "exact" | v_l . (dB v)_l, Rademacher probes v | smooth U |
| "dense" | all D columns | smooth U, small D |
| "gauss_newton" | v_l . (J^T H_out J v)_l >= 0 | smooth U whose outputs curve little |
| "score" | -B_l . score_l | any U, where the ensemble's density is known |
| "smoothed" | v . [B(theta + h v) - B(theta - h v)] / 2h | kinked U, spread-out ensembles |

Networks of relu and absolute losses have forces that jump. Automatic differentiation does
not see the jumps (for |x| it finds no curvature at all), and neither does Gauss-Newton; the
means of "score" and "smoothed" contain them. `SMOOTHING` is h in units of the ensemble's
standard deviation: it biases like a density blurred by h, about h^2 / 6.

Source: derived here (integration by parts); Hutchinson 1990 for the probes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermojax.blocks import Blocks, block_dots
from thermojax.typing import Array, Key, PyTree

__all__ = [
    "CURVATURES",
    "SMOOTHING",
    "curvature_product",
    "divergence",
    "smoothed_divergence",
]

CURVATURES = ("exact", "dense", "gauss_newton", "score", "smoothed")
SMOOTHING = 0.1

Field = Callable[[PyTree], PyTree]


def _probe(key: Key, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    signs = [
        jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, signs)


def _averaged(one: Callable[[Key], Array], key: Key, probes: int) -> Array:
    return jnp.mean(jax.lax.map(one, jax.random.split(key, probes)), axis=0)


def divergence(
    field: Field,
    params: PyTree,
    key: Key | None,
    *,
    curvature: str,
    probes: int,
    blocks: Blocks | None = None,
    outputs: tuple[Callable, Callable] | None = None,
    score: Field | None = None,
    width: PyTree = None,
) -> Array:
    """[L] divergence of `field` by block at one place, or an estimate with its mean.

    Args:
        field: params -> pytree like params.
        params: the place.
        key: typed key of the probes.
        curvature: see the module docstring.
        probes: how many.
        blocks: see `thermojax.blocks`.
        outputs: (params -> z, z -> U) for "gauss_newton".
        score: params -> grad log p for "score".
        width: h of every leaf for "smoothed".
    """
    if curvature == "score":
        assert score is not None
        return -block_dots(field(params), score(params), blocks)
    if curvature == "dense":
        return _dense(field, params, blocks)
    assert key is not None
    if curvature == "smoothed":
        return smoothed_divergence(field, params, key, width, probes=probes, blocks=blocks)
    product = curvature_product(field, params, outputs if curvature == "gauss_newton" else None)

    def one(key):
        v = _probe(key, params)
        return block_dots(v, product(v), blocks)

    return _averaged(one, key, probes)


def curvature_product(
    field: Field, params: PyTree, outputs: tuple[Callable, Callable] | None = None
) -> Callable[[PyTree], PyTree]:
    """v -> (dB) v, or J^T H_out J v with outputs = (params -> z, z -> U)."""
    if outputs is None:
        return jax.linearize(field, params)[1]
    predict, loss = outputs
    z, push = jax.linearize(predict, params)
    pull = jax.linear_transpose(push, params)
    bend = jax.linearize(jax.grad(loss), z)[1]
    return lambda v: pull(bend(push(v)))[0]


def _dense(field: Field, params: PyTree, blocks: Blocks | None) -> Array:
    flat, build = ravel_pytree(params)
    push = jax.linearize(lambda x: ravel_pytree(field(build(x)))[0], flat)[1]
    entry = lambda i: push(jnp.zeros_like(flat).at[i].set(1.0))[i]
    diagonal = jax.lax.map(entry, jnp.arange(flat.size), batch_size=64)
    ones = jax.tree.map(jnp.ones_like, params)
    return block_dots(ones, build(diagonal), blocks)


def smoothed_divergence(
    field: Field,
    params: PyTree,
    key: Key,
    width: PyTree,
    *,
    probes: int,
    blocks: Blocks | None = None,
) -> Array:
    """[L] symmetric differences of the field over a step of `width`: sees its jumps."""

    def one(key):
        v = _probe(key, params)
        step = jax.tree.map(lambda x, h: x * h, v, width)
        ahead = field(jax.tree.map(jnp.add, params, step))
        back = field(jax.tree.map(jnp.subtract, params, step))
        slope = jax.tree.map(lambda a, b, h: (a - b) / (2 * h), ahead, back, width)
        return block_dots(v, slope, blocks)

    return _averaged(one, key, probes)
