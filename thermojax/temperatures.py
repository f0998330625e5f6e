"""Temperatures of an ensemble as dE/dS of a motion, whole and by block.

Move an ensemble by d theta/ds = -B(theta). Whatever its density (surface terms apart),

    dE/ds = -<B . grad U>,  dS/ds = -<div B>,   T_B = dE/dS = <B . grad U> / <div B>
    T_l = <B_l . grad_l U> / <div_l B>,         T = sum_l w_l T_l,  w_l = <div_l B> / <div B>

| field B | T_B |
|---|---|
| grad U | configurational, dE/dS of training: <abs(grad U)^2> / <lap U> |
| theta - c | virial, dE/dS of shrinking the initialiser: <(theta - c) . grad U> / D |
| momenta | kinetic: <p . M^-1 p> / D |

All are equal if and only if the ensemble is canonical with a density that vanishes at
infinity; their disagreement measures how far it is from that. Energies in units of U.
Statistics are ratios of means over members with jackknife errors; one member gives nan
errors (it is its own average).

Source: derived here; Rugh 1997 (configurational), hypervirial theorem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.blocks import Blocks, block_dots, block_sizes
from thermojax.divergence import CURVATURES, SMOOTHING, divergence, smoothed_divergence
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.typing import Array, Key, PyTree

__all__ = [
    "Temperatures",
    "flow_temperature",
    "kinetic_temperature",
    "make_temperatures",
    "members",
    "ratio_of_means",
    "virial_products",
    "virial_temperature",
]


class Temperatures(NamedTuple):
    """One temperature, whole and by block; unit of U.

    Attributes:
        total: T of everything.
        blocks: T_l by block.
        weights: w_l by block, summing to 1 (negative where the curvature is).
        stderr: standard error of `total`.
        block_stderr: of every block.
        flags: uint32 bit set of `Flag`.
    """

    total: Array
    blocks: dict[str, Array]
    weights: dict[str, Array]
    stderr: Array
    block_stderr: dict[str, Array]
    flags: Array


def members(ensemble: PyTree, least: int = 1) -> int:
    """Length of the leading axis.

    Raises:
        ValueError: no common leading axis, or fewer members than `least`.
    """
    shapes = {jnp.shape(x)[:1] for x in jax.tree.leaves(ensemble)}
    if len(shapes) != 1 or shapes == {()}:
        raise ValueError(f"the leaves of an ensemble must share a leading axis, got {shapes}")
    count = shapes.pop()[0]
    if count < least:
        raise ValueError(f"{count} members are too few here: at least {least}")
    return count


def ratio_of_means(top: Array, bottom: Array) -> tuple[Array, Array]:
    """sum top / sum bottom over axis 0, and its jackknife standard error (nan for one)."""
    count = top.shape[0]
    value = jnp.sum(top, axis=0) / jnp.sum(bottom, axis=0)
    if count < 2:
        return value, jnp.full_like(value, jnp.nan)
    out = (jnp.sum(top, axis=0) - top) / (jnp.sum(bottom, axis=0) - bottom)
    return value, jnp.sqrt(jnp.var(out, axis=0) * (count - 1))


def make_temperatures(names, top: Array, bottom: Array, *pairs) -> Temperatures:
    """From [M, L] energies and entropies flowing by block, and (flag, condition) pairs."""
    total, error = ratio_of_means(jnp.sum(top, axis=1), jnp.sum(bottom, axis=1))
    each, each_error = ratio_of_means(top, bottom)
    means = jnp.mean(bottom, axis=0)
    weights = means / jnp.sum(means)
    named = lambda x: dict(zip(names, x, strict=True))
    bad = ~jnp.isfinite(total) | ~jnp.all(jnp.isfinite(top))
    flags = raise_flags((Flag.NONFINITE, bad), *pairs)
    return Temperatures(total, named(each), named(weights), error, named(each_error), flags)


def _names(ensemble: PyTree, blocks: Blocks | None) -> tuple[list[str], Array]:
    one = jax.tree.map(lambda x: x[0], ensemble)
    sizes = block_sizes(one, blocks)
    return list(sizes), jnp.asarray(list(sizes.values()), jnp.result_type(float))


def flow_temperature(
    potential: Callable[[PyTree], Array],
    ensemble: PyTree,
    *,
    blocks: Blocks | None = None,
    field: Callable[[PyTree], PyTree] | None = None,
    curvature: str = "exact",
    score: Callable[[PyTree], PyTree] | None = None,
    outputs: tuple[Callable, Callable] | None = None,
    key: Key | None = None,
    probes: int = 1,
    batch_size: int | None = None,
) -> Temperatures:
    """T_B = <B . grad U> / <div B>, by default of training, B = grad U (configurational).

    Args:
        potential: params -> U, scalar.
        ensemble: params with a leading axis of M members on every leaf.
        blocks: params -> {name: subtree}; top-level keys by default.
        field: B(params), a pytree like params; the gradient of U by default.
        curvature: how div B is found, see `thermojax.divergence`.
        score: params -> grad log p of the ensemble, for "score".
        outputs: (params -> z, z -> U), for "gauss_newton".
        key: typed key of the probes; every curvature but "dense" and "score" needs it.
        probes: per member.
        batch_size: members evaluated at once; all by default.

    Returns:
        `Temperatures`. KINKED where "exact" or "gauss_newton" misses curvature that a
        finite difference over a tenth of the ensemble's width sees (relu, absolute losses).

    Raises:
        ValueError: an unknown curvature, or one that lacks its key, score or outputs;
            "smoothed" with fewer than two members.

    Example:
        >>> ensemble = jax.random.normal(jax.random.key(0), (4000, 2)) * 2.0
        >>> T = flow_temperature(
        ...     lambda x: 0.5 * jnp.sum(x**2), ensemble, key=jax.random.key(1)
        ... )
        >>> bool(abs(T.total - 4.0) < 4 * T.stderr)
        True
    """
    _check_curvature(curvature, field, score, outputs, key, ensemble)
    count = members(ensemble)
    names, _ = _names(ensemble, blocks)
    slope = jax.grad(potential)
    flow = slope if field is None else field
    width = _width(ensemble) if count > 1 else None
    checked = curvature in ("exact", "gauss_newton") and width is not None
    keys = jax.random.split(jax.random.key(0) if key is None else key, count)

    def one(params_and_key):
        params, key = params_and_key
        options = {"probes": probes, "blocks": blocks}
        found = divergence(
            flow,
            params,
            key,
            curvature=curvature,
            outputs=outputs,
            score=score,
            width=width,
            **options,
        )
        seen = smoothed_divergence(flow, params, key, width, **options) if checked else found
        return block_dots(flow(params), slope(params), blocks), found, seen

    top, bottom, seen = jax.lax.map(one, (ensemble, keys), batch_size=batch_size or count)
    kinked = _misses(jnp.sum(bottom, axis=1), jnp.sum(seen, axis=1)) if checked else False
    return make_temperatures(names, top, bottom, (Flag.KINKED, kinked))


def _width(ensemble: PyTree) -> PyTree:
    """A tenth of the standard deviation of every leaf; at least a rounding step of it."""

    def width(x):
        tiny = jnp.sqrt(jnp.finfo(x.dtype).eps)
        spread = jnp.sqrt(jnp.mean(jnp.var(x, axis=0)))
        size = jnp.sqrt(jnp.mean(x**2)) + 1.0
        return SMOOTHING * jnp.maximum(spread, tiny * size)

    return jax.lax.stop_gradient(jax.tree.map(width, ensemble))


def _misses(found: Array, seen: Array) -> Array:
    """Curvature seen at a distance but not found by differentiation, beyond noise and 3 %."""
    gap = seen - found
    mean = jnp.mean(gap)
    noise = jnp.std(gap) / np.sqrt(gap.size - 1)
    return (mean > 4 * noise) & (mean > 0.03 * jnp.abs(jnp.mean(seen)))


def _check_curvature(curvature, field, score, outputs, key, ensemble):
    if curvature not in CURVATURES:
        known = ", ".join(CURVATURES)
        raise ValueError(f"curvature={curvature!r} is unknown: use one of {known}")
    if curvature == "score" and score is None:
        raise ValueError("curvature='score' needs score=, the gradient of ln p of the ensemble")
    if curvature == "gauss_newton" and (outputs is None or field is not None):
        raise ValueError(
            "curvature='gauss_newton' needs outputs=(params -> z, z -> U) and no field"
        )
    if curvature not in ("score", "dense") and key is None:
        raise ValueError(f"curvature={curvature!r} uses random probes: give key=")
    if curvature == "smoothed":
        members(ensemble, 2)


def virial_temperature(
    potential: Callable[[PyTree], Array],
    ensemble: PyTree,
    *,
    center: PyTree = 0.0,
    blocks: Blocks | None = None,
    batch_size: int | None = None,
) -> Temperatures:
    """T_scale = <(theta - c) . grad U> / D: dE/dS of shrinking the ensemble about c.

    Args:
        potential: params -> U, scalar.
        ensemble: params with a leading axis of M members.
        center: c, a scalar or a pytree like params.
        blocks: params -> {name: subtree}; top-level keys by default.
        batch_size: members evaluated at once; all by default.

    Returns:
        `Temperatures`; may be negative (weights that want to grow), and is not clipped.
    """
    names, sizes = _names(ensemble, blocks)
    top = virial_products(
        potential, ensemble, center=center, blocks=blocks, batch_size=batch_size
    )
    return make_temperatures(names, top, jnp.broadcast_to(sizes.astype(top.dtype), top.shape))


def virial_products(
    potential: Callable[[PyTree], Array],
    ensemble: PyTree,
    *,
    center: PyTree = 0.0,
    blocks: Blocks | None = None,
    batch_size: int | None = None,
) -> Array:
    """[M, L] products (theta - c)_l . grad_l U."""

    def one(params):
        return block_dots(_from(params, center), jax.grad(potential)(params), blocks)

    return jax.lax.map(one, ensemble, batch_size=batch_size or members(ensemble))


def _from(params: PyTree, center: PyTree) -> PyTree:
    """params - c, c a scalar or a pytree."""
    if jax.tree.structure(center) == jax.tree.structure(params):
        return jax.tree.map(jnp.subtract, params, center)
    return jax.tree.map(lambda x: x - center, params)


def kinetic_temperature(
    momenta: PyTree, *, mass: PyTree = 1.0, blocks: Blocks | None = None
) -> Temperatures:
    """T_kin = <p . M^-1 p> / D.

    Args:
        momenta: pytree with a leading axis of M members.
        mass: a scalar or a pytree like one member.
        blocks: as for parameters.
    """
    members(momenta)
    names, sizes = _names(momenta, blocks)
    one = jax.tree.map(lambda x: x[0], momenta)
    if jax.tree.structure(mass) != jax.tree.structure(one):
        scalar = mass
        mass = jax.tree.map(lambda _: scalar, one)
    top = jax.vmap(lambda p: block_dots(p, jax.tree.map(jnp.divide, p, mass), blocks))(momenta)
    return make_temperatures(names, top, jnp.broadcast_to(sizes.astype(top.dtype), top.shape))
