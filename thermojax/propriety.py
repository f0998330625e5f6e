"""Does Z converge? A check along rays that can refute, never prove.

Along a ray theta = s v of dimension d the integral of exp(-u) converges only if
d u / d log s > d for large s. The check follows random rays, each leaf alone, single
coordinates, and scale orbits (one leaf grows as another shrinks, which leaves a relu
network unchanged; there u must grow at all).

Source: specification of the core, section 3.5 (derived here).
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.dynamics.kernel import Stream, stream
from thermojax.priors import Template
from thermojax.system import Point, System, reduced
from thermojax.typing import ImproperEnsembleError, Key, PyTree, ShapeError

__all__ = ["check_normalizable"]

_NEAR, _FAR = 1e4, 1e6
_MARGIN = 0.05


def check_normalizable(
    sys: System, point: Point, key: Key, *, template: Template | None = None, rays: int = 8
) -> None:
    """Raise if Z visibly diverges; passing is no proof.

    Args:
        sys: the system.
        point: thermodynamic state.
        key: typed key of the ray directions.
        template: shape of theta, where the system does not know it.
        rays: directions per kind of ray.

    Raises:
        ImproperEnsembleError: naming the leaf, or pair of leaves, and the slope seen.
        ShapeError: nobody knows the shape of theta.
    """
    template = sys.template if template is None else template
    if template is None:
        raise ShapeError(
            "the shape of theta is unknown: say it with tj.system(..., like=theta)"
        )
    flat = jax.random.normal(stream(key, Stream.INIT), (rays, template.size), template.dtype)
    directions = [template.unflatten(v) for v in flat]
    names = template.paths()
    sizes = [int(np.prod(shape)) for shape in template.shapes]

    def slope(grow: list[bool], shrink: list[bool], v: PyTree) -> float:
        leaves, treedef = jax.tree.flatten(v)

        def at(s: float) -> Any:
            factor = [
                s if g else 1 / s if h else 1.0 for g, h in zip(grow, shrink, strict=True)
            ]
            moved = [x * jnp.asarray(f, x.dtype) for x, f in zip(leaves, factor, strict=True)]
            return float(reduced(sys, jax.tree.unflatten(treedef, moved), point))

        with np.errstate(over="ignore"):
            change = at(_FAR) - at(_NEAR)
        return change / np.log(_FAR / _NEAR)

    none = [False] * len(names)
    for v in directions:
        _need(slope([True] * len(names), none, v), sum(sizes), "theta", point)
        for i, name in enumerate(names):
            alone = [i == j for j in range(len(names))]
            _need(slope(alone, none, v), sizes[i], f"leaf {name}", point)
    for i, name in enumerate(names):
        alone = [i == j for j in range(len(names))]
        for place in np.linspace(0, sizes[i] - 1, min(rays, sizes[i])).astype(int):
            v = _only(directions[0], i, int(place))
            _need(slope(alone, none, v), 1, f"one coordinate of leaf {name}", point)
    for i, j in itertools.permutations(range(len(names)), 2):
        grow = [k == i for k in range(len(names))]
        shrink = [k == j for k in range(len(names))]
        orbit = f"leaf {names[i]} with leaf {names[j]} shrinking"
        _need(max(slope(grow, shrink, v) for v in directions), 0, orbit, point)


def _only(v: PyTree, leaf: int, place: int) -> PyTree:
    """The direction with a single coordinate of one leaf kept, the rest of the leaf 0."""
    leaves, treedef = jax.tree.flatten(v)
    x = leaves[leaf]
    leaves[leaf] = jnp.zeros(x.size, x.dtype).at[place].set(x.ravel()[place]).reshape(x.shape)
    return jax.tree.unflatten(treedef, leaves)


def _need(slope: float, dim: int, what: str, point: Point) -> None:
    # an infinite energy far out confines; nan (inf - inf) says nothing
    if slope > dim + _MARGIN or np.isnan(slope):
        return
    beta = np.asarray(point.beta).item()
    raise ImproperEnsembleError(
        f"Z diverges at beta={beta:g}: the energy stays too flat while {what} "
        f"grows (slope {slope:.2f} per log scale, more than {dim} needed). Give "
        "prior=tj.gaussian_prior(scale), or ask for differences between two controls"
    )
