"""Binary states: counting measure over them, and blocks of sites that do not interact.

    m(s) = 1 for every s in {low, high}^n,    log mass n log 2

A block is a boolean mask over the sites. If no two sites of a block interact and U is
multilinear in them (each enters to the first power; on two values every function can be
written so), one gradient gives the energy of every flip in the block at once:

    U(.., s_i = high, ..) - U(.., s_i = low, ..) = (high - low) dU/ds_i

Source: derived here; checkerboard updates are standard, the third colour of odd tori too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.priors import CustomPrior, Template, prior
from thermojax.typing import Array, Key, PyTree, ShapeError, is_concrete

__all__ = [
    "check_states",
    "checkerboard_blocks",
    "counting_prior",
    "layer_blocks",
    "stack_blocks",
    "values_of",
]

_ALPHABETS = ((0.0, 1.0), (-1.0, 1.0))


def _count(theta: PyTree, control: PyTree, params: PyTree) -> Array:
    return jnp.zeros((), jnp.result_type(*jax.tree.leaves(theta)))


@dataclasses.dataclass(frozen=True)
class _FairDraw:
    """Each site high or low with probability 1/2; equal settings share a compilation."""

    template: Template
    values: tuple[float, float]

    def __call__(self, key: Key, control: PyTree, params: PyTree) -> PyTree:
        low, high = self.values
        up = jax.random.bernoulli(key, 0.5, (self.template.size,))
        return self.template.unflatten(jnp.where(up, high, low).astype(self.template.dtype))


def counting_prior(like: PyTree, values: Sequence[float] = (0, 1)) -> CustomPrior:
    """Counting measure over binary states: every configuration weighs 1.

        log m = 0,    log mass = n log 2

    so that log Z(0) = n log 2 and S is the Shannon entropy. Its sampler draws each site
    fairly. The measure tells `tj.SMC` to move by `tj.gibbs_flip`.

    Args:
        like: example of the states: any pytree of arrays; integers become floats, because
            U is differentiated.
        values: the two values of a site, (0, 1) or (-1, 1).

    Raises:
        ValueError: other values.

    Example:
        >>> m = counting_prior(jnp.zeros(3), (-1, 1))
        >>> round(m.log_mass, 4)  # 3 log 2
        2.0794
    """
    low, high = _alphabet(values)
    template = Template.of(like)
    return prior(
        _count,
        _FairDraw(template, (low, high)),
        like=like,
        log_mass=template.size * math.log(2),
        values=(low, high),
    )


def _alphabet(values: Sequence[float]) -> tuple[float, float]:
    for known in _ALPHABETS:
        if tuple(values) == known:
            return known
    raise ValueError(
        f"values={tuple(values)} must be (0, 1) or (-1, 1): map the states to one of them"
    )


def values_of(measure: Any) -> tuple[float, float] | None:
    """The two values of a site under a measure over binary states, else None.

    Args:
        measure: a base measure, or None for Lebesgue.

    Raises:
        ValueError: a measure over other values.
    """
    values = getattr(measure, "values", None)
    return None if values is None else _alphabet(values)


def check_states(theta: PyTree, values: tuple[float, float]) -> None:
    """Raise ValueError, naming leaf, index and value, if a concrete site is off the alphabet.

    Args:
        theta: states; nothing is checked where they are traced.
        values: the two values of a site.
    """
    if not is_concrete(theta):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        known = np.asarray(leaf)
        bad = np.argwhere(~np.isin(known, values))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            name = jax.tree_util.keystr(path) or "theta"
            low, high = values
            raise ValueError(
                f"leaf {name} of the states holds {known[where]:g} at index {where}, but its "
                f"sites are {low:g} or {high:g}: start from jnp.where(x > 0, {high:g}, {low:g})"
            )


def checkerboard_blocks(shape: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Colour classes of a torus with nearest-neighbour bonds.

    Two of them if every side is even, else three: sites i and j of one class never touch.

    Args:
        shape: sides of the torus, any number of axes.

    Returns:
        Boolean masks of that shape, each site in exactly one.

    Raises:
        ValueError: a side below 2, where a site is its own neighbour.

    Example:
        >>> checkerboard_blocks((2, 2))[0].astype(int).tolist()
        [[1, 0], [0, 1]]
    """
    sides = tuple(int(side) for side in np.atleast_1d(shape))
    if min(sides) < 2:
        raise ValueError(f"shape={sides} needs sides of at least 2 for a checkerboard")
    if all(side % 2 == 0 for side in sides):
        return _classes(np.sum(np.indices(sides), axis=0) % 2)
    # around an odd ring 0, 1, .., 0, 1, 2 never repeats, and neighbours along any axis
    # differ by 1 or 2 modulo 3
    rings = [np.arange(side) % 2 for side in sides]
    for ring in rings:
        if len(ring) % 2:
            ring[-1] = 2
    colour = np.zeros(sides, int)
    for ring in np.ix_(*rings):
        colour = colour + ring
    return _classes(colour % 3)


def _classes(colour: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.equal(colour, k) for k in range(colour.max() + 1))


def layer_blocks(like: PyTree) -> tuple[PyTree, ...]:
    """One block per leaf: the layers of a (deep) Boltzmann machine.

    Args:
        like: example of the states, for example {"visible": .., "hidden": ..}; no two
            sites of one leaf may interact.

    Returns:
        One pytree of masks per leaf, True on that leaf only.
    """
    leaves, treedef = jax.tree.flatten(like)
    return tuple(
        jax.tree.unflatten(
            treedef, [np.full(np.shape(x), i == k) for i, x in enumerate(leaves)]
        )
        for k in range(len(leaves))
    )


def stack_blocks(blocks: Sequence[PyTree], template: Template) -> PyTree:
    """Masks with a leading axis of blocks, after checking that they partition the sites.

    Args:
        blocks: boolean pytrees like the states.
        template: of the states.

    Raises:
        ShapeError: a mask of another structure or shape.
        ValueError: no mask, a mask that is not boolean, a site in no block or in two.
    """
    if not len(blocks):
        raise ValueError("blocks is empty: give masks, or blocks=None to go site by site")
    for k, mask in enumerate(blocks):
        try:
            template.check(mask)
        except ShapeError as error:
            raise ShapeError(f"blocks[{k}] does not fit the states: {error}") from None
        for leaf in jax.tree.leaves(mask):
            if jnp.result_type(leaf).kind != "b":
                raise ValueError(
                    f"blocks[{k}] holds {jnp.result_type(leaf)}, masks are boolean: "
                    "compare them with something, for example mask == 1"
                )
    stacked = jax.tree.map(lambda *masks: np.stack(masks), *blocks)
    for path, leaf in jax.tree_util.tree_leaves_with_path(stacked):
        times = np.sum(leaf, axis=0)
        if np.any(times != 1):
            where = tuple(int(i) for i in np.argwhere(times != 1)[0])
            name = jax.tree_util.keystr(path) or "theta"
            raise ValueError(
                f"site {where} of leaf {name} is in {times[where]} blocks: put every site "
                "into exactly one"
            )
    return stacked
