"""Thermometers: what temperature an ensemble is at, layer by layer.

    kinetic          T_k = <p^2 / m> / d = T <r^2> / d
    configurational  T_c = T <|grad u|^2> / <lap u>        (reduced units: u = beta U - log m)

All agree with T = 1/beta in a canonical ensemble; unadjusted dynamics split them at
second order in the step. With the prior in m, the gradient and Laplacian are those of the
reduced energy, whose canonical temperature is one.

Source: specification of the core, section 2.8 (derived here).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.system import Point, System, reduced
from thermojax.typing import Array, Key, PyTree

__all__ = ["LayerTemperatures", "layer_temperatures"]


class LayerTemperatures(NamedTuple):
    """Temperatures [L] by group of leaves, in energy units, with standard errors.

    Attributes:
        names: the L groups.
        kinetic: T <r^2>/d, nan without momenta.
        kinetic_stderr: over walkers.
        configurational: T <|grad u|^2>/<lap u>.
        configurational_stderr: over walkers, of the ratio.
    """

    names: tuple[str, ...]
    kinetic: Array
    kinetic_stderr: Array
    configurational: Array
    configurational_stderr: Array


def layer_temperatures(
    sys: System,
    positions: PyTree,
    momenta: PyTree,
    point: Point,
    key: Key,
    groups: dict[str, tuple[int, ...]],
    *,
    probes: int = 4,
    tile: int = 8,
) -> LayerTemperatures:
    """Kinetic and configurational temperature of every group of parameters.

    The Laplacian of a group is estimated without bias by Rademacher probes on the
    Hessian-vector product (Hutchinson).

    Args:
        sys: the system.
        positions: theta, leading axes [walkers, times].
        momenta: whitened momenta likewise, or ().
        point: thermodynamic state, beta > 0.
        key: typed key of the probes.
        groups: name -> leaf indices, for example `networks.layers(theta)`.
        probes: Hutchinson probes per state.
        tile: states evaluated at once.

    Returns:
        `LayerTemperatures`; error bars take walkers as independent.

    Raises:
        ValueError: beta = 0, where temperature is infinite.
    """
    beta = np.asarray(point.beta).item()
    if not beta > 0:
        raise ValueError(f"beta={beta} has no finite temperature to measure")
    temperature = 1 / beta
    squares, laps = _sums(sys, positions, point, key, tuple(groups.values()), probes, tile)
    walkers = squares.shape[0]
    g, h = jnp.mean(squares, axis=1), jnp.mean(laps, axis=1)
    ratio = jnp.mean(g, axis=0) / jnp.mean(h, axis=0)
    residual = (g - ratio * h) / jnp.mean(h, axis=0)
    ratio_error = jnp.std(residual, axis=0, ddof=1) / np.sqrt(walkers)
    leaves = jax.tree.leaves(momenta)
    if leaves:
        lead = leaves[0].shape[:2]
        kinetic = jnp.stack(
            [
                jnp.mean(
                    jnp.concatenate([leaves[i].reshape(*lead, -1) ** 2 for i in members], -1),
                    axis=(1, 2),
                )
                for members in groups.values()
            ],
            axis=1,
        )
        mean = jnp.mean(kinetic, axis=0)
        error = jnp.std(kinetic, axis=0, ddof=1) / np.sqrt(walkers)
    else:
        mean = error = jnp.full(len(groups), jnp.nan)
    return LayerTemperatures(
        tuple(groups),
        temperature * mean,
        temperature * error,
        temperature * ratio,
        temperature * ratio_error,
    )


@jax.jit(static_argnames=("groups", "probes", "tile"))
def _sums(sys, positions, point, key, groups, probes, tile):
    """|grad u|^2 and a Laplacian estimate by group: two arrays [walkers, times, L]."""
    lead = jax.tree.leaves(positions)[0].shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), positions)
    count = lead[0] * lead[1]
    grad = jax.grad(lambda theta: reduced(sys, theta, point))

    def by_group(a, b):
        a, b = jax.tree.leaves(a), jax.tree.leaves(b)
        return jnp.stack([sum(jnp.sum(a[i] * b[i]) for i in group) for group in groups])

    def one(args):
        i, theta = args
        slope, product = jax.linearize(grad, theta)
        size = sum(x.size for x in jax.tree.leaves(theta))
        # one probe for all groups: the cross blocks average out, at a fraction of the cost
        signs = jax.random.rademacher(jax.random.fold_in(key, i), (probes, size), slope_dtype)

        def lap(z):
            z = _unravel(z, theta)
            return by_group(z, product(z))

        return by_group(slope, slope), jnp.mean(jax.vmap(lap)(signs), axis=0)

    slope_dtype = jnp.result_type(*[x.dtype for x in jax.tree.leaves(flat)])
    ids = jnp.arange(count, dtype=jnp.uint32)
    squares, laps = jax.lax.map(one, (ids, flat), batch_size=tile)
    return squares.reshape(*lead, -1), laps.reshape(*lead, -1)


def _unravel(flat: Array, like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    sizes = np.cumsum([x.size for x in leaves])[:-1]
    parts = jnp.split(flat, sizes)
    return jax.tree.unflatten(
        treedef,
        [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)],
    )
