"""Finite symmetries of an energy: how many images every state has, and which one it is.

A group G of isometries that leave U and m invariant divides theta space into |G| images of
one canonical domain, and exactly, at every temperature,

    log Z_total = log Z_domain + log |G|

A hidden layer of n odd units (tanh) has |G| = 2^n n!, of any other units n!. Where modes
are well separated (large beta) log Z_domain is log Z of one mode; where they overlap, the
mode has no log Z of its own. Invariant averages (<U>, C) are right from any image; the
entropy S contains log |G| in full. A ReLU's scale symmetry is continuous and has no order.

Source: specification of the core, section 3.6 (derived here).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from thermojax.typing import Array, PyTree, ShapeError

__all__ = [
    "Hidden",
    "Symmetry",
    "permutation_symmetry",
    "tanh_symmetry",
    "with_scope",
]


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """A finite group that leaves energy and base measure invariant; hashable.

    Attributes:
        log_order: log |G| in nats.
        canonicalize_fn: `theta -> theta`, the image of theta in the canonical domain: the
            same for all images of one state.
        image_fn: `theta -> int32` in 0 .. |G| - 1, which image theta is; or None.

    Example:
        >>> even = Symmetry(math.log(2), jnp.abs, lambda x: (x < 0).astype(jnp.int32))
        >>> float(even.canonicalize(jnp.asarray(-3.0)))
        3.0
    """

    log_order: float
    canonicalize_fn: Callable[[PyTree], PyTree]
    image_fn: Callable[[PyTree], Array] | None = None

    def __post_init__(self):
        if not 0 <= self.log_order < math.inf:
            raise ValueError(f"log_order={self.log_order} must be finite and not negative")

    @classmethod
    def identity(cls) -> Symmetry:
        """The group of one element."""
        return cls(0.0, _same, _zero)

    def canonicalize(self, theta: PyTree) -> PyTree:
        """The image of one theta in the canonical domain."""
        return self.canonicalize_fn(theta)

    def contains(self, theta: PyTree) -> Array:
        """Whether one theta lies in the canonical domain; bool scalar."""
        pairs = zip(
            jax.tree.leaves(theta), jax.tree.leaves(self.canonicalize(theta)), strict=True
        )
        return jnp.all(jnp.stack([jnp.all(a == b) for a, b in pairs]))

    def image(self, theta: PyTree) -> Array:
        """Which of the |G| images one theta is: int32, uniform under the full ensemble.

        Raises:
            ValueError: the symmetry does not number its images.
        """
        if self.image_fn is None:
            raise ValueError("this symmetry does not number its images: give it an image_fn")
        return self.image_fn(theta)


def _same(theta: PyTree) -> PyTree:
    return theta


def _zero(theta: PyTree) -> Array:
    return jnp.zeros((), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Hidden:
    """Where the weights of one hidden layer are, as (leaf name, axis of its units).

    Attributes:
        outgoing: the leaf that reads the units; its first number of each unit decides sign
            and order.
        incoming: leaves that feed the units, weights and biases.
    """

    outgoing: tuple[str, int]
    incoming: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class _Units:
    """Signs and permutations of the units of several hidden layers, last layer first."""

    layers: tuple[Hidden, ...]
    widths: tuple[int, ...]
    odd: bool

    def _split(self, theta):
        named, treedef = jax.tree_util.tree_flatten_with_path(theta)
        leaves = {_name(path): jnp.asarray(leaf) for path, leaf in named}
        return leaves, treedef

    def _walk(self, theta):
        """Canonical leaves, and per layer the signs and the order that led there."""
        leaves, treedef = self._split(theta)
        found = []
        # outermost first: a layer's columns are the next layer's units
        for layer in reversed(self.layers):
            name, axis = layer.outgoing
            rows = jnp.moveaxis(leaves[name], axis, 0)
            first = rows.reshape(rows.shape[0], -1)[:, 0]
            sign = jnp.where(first < 0, -1, 1) if self.odd else jnp.ones_like(first)
            order = jnp.argsort(first * sign.astype(first.dtype))
            for where, along in (layer.outgoing, *layer.incoming):
                leaf = leaves[where]
                shape = [1] * leaf.ndim
                shape[along] = -1
                turned = leaf * sign.astype(leaf.dtype).reshape(shape)
                leaves[where] = jnp.take(turned, order, axis=along)
            found.append((sign, order))
        return jax.tree.unflatten(treedef, list(leaves.values())), found

    def canonicalize(self, theta):
        return self._walk(theta)[0]

    def image(self, theta):
        index = jnp.zeros((), jnp.int32)
        for sign, order in self._walk(theta)[1]:
            n = order.shape[0]
            if self.odd:
                bits = jnp.sum(jnp.where(sign < 0, 1, 0) << jnp.arange(n))
                index = index * 2**n + bits
            # Lehmer code: how many later entries are smaller
            smaller = jnp.sum(jnp.triu(order[None, :] < order[:, None], 1), axis=1)
            places = jnp.asarray([math.factorial(n - 1 - i) for i in range(n)])
            index = index * math.factorial(n) + jnp.sum(smaller * places)
        return index.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class _Method:
    """A bound method by name: hashable by value, which a bound method is not."""

    units: _Units
    name: str

    def __call__(self, theta):
        return getattr(self.units, self.name)(theta)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _natural(name: str) -> list:
    """Sort key in which Dense_10 comes after Dense_9."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def _dense_layers(shapes: dict[str, tuple[int, ...]]) -> tuple[Hidden, ...]:
    """The hidden layers of a chain of dense layers {name: {kernel, bias}}."""
    kernels = sorted((n for n in shapes if n.rsplit("/", 1)[-1] == "kernel"), key=_natural)
    biases = {n for n in shapes if n.rsplit("/", 1)[-1] == "bias"}
    chain = [shapes[k] for k in kernels]
    known = set(kernels) | {k[: -len("kernel")] + "bias" for k in kernels} & biases
    fits = all(len(s) == 2 for s in chain) and all(
        a[1] == b[0] for a, b in itertools.pairwise(chain)
    )
    if len(kernels) < 2 or known != set(shapes) or not fits:
        raise ShapeError(
            f"the leaves {shapes} are no chain of dense layers with kernel and bias: name "
            "the hidden layers, layers=(tj.Hidden(outgoing=('a', 0), incoming=(('w', 0),)),)"
        )
    found = []
    for before, after in itertools.pairwise(kernels):
        bias = before[: -len("kernel")] + "bias"
        feeds = ((before, 1), (bias, 0)) if bias in biases else ((before, 1),)
        found.append(Hidden((after, 0), feeds))
    return tuple(found)


def _units_of(like: PyTree, layers: Sequence[Hidden] | None, odd: bool) -> Symmetry:
    named = jax.tree_util.tree_leaves_with_path(like)
    shapes = {_name(path): tuple(jnp.shape(leaf)) for path, leaf in named}
    hidden = _dense_layers(shapes) if layers is None else tuple(layers)
    widths = []
    for layer in hidden:
        places = (layer.outgoing, *layer.incoming)
        for name, axis in places:
            if name not in shapes or not 0 <= axis < len(shapes[name]):
                raise ShapeError(f"no leaf {name!r} with an axis {axis} among {shapes}")
        sizes = {shapes[name][axis] for name, axis in places}
        if len(sizes) != 1:
            raise ShapeError(f"{layer} joins axes of different lengths {sorted(sizes)}")
        widths.append(sizes.pop())
    units = _Units(hidden, tuple(widths), odd)
    log_order = sum(math.lgamma(n + 1) + (n * math.log(2) if odd else 0) for n in widths)
    countable = log_order < math.log(2**31)
    image = _Method(units, "image") if countable else None
    return Symmetry(log_order, _Method(units, "canonicalize"), image)


def tanh_symmetry(like: PyTree, layers: Sequence[Hidden] | None = None) -> Symmetry:
    """Signs and permutations of hidden units with an odd activation: |G| = prod 2^n n!.

    The canonical image has positive, increasing first outgoing weights. The base measure
    must be invariant too: one scale per leaf, centred.

    Args:
        like: example of theta; the parameters of a flax MLP say their layers themselves.
        layers: the hidden layers, input side first, for any other theta.

    Raises:
        ShapeError: no chain of dense layers, or layers that do not fit.

    Example:
        >>> theta = {"a": jnp.asarray([2.0, -1.0]), "w": jnp.asarray([3.0, 4.0])}
        >>> layers = (Hidden(outgoing=("a", 0), incoming=(("w", 0),)),)
        >>> group = tanh_symmetry(theta, layers)
        >>> round(math.exp(group.log_order)), group.canonicalize(theta)["w"].tolist()
        (8, [-4.0, 3.0])
    """
    return _units_of(like, layers, True)


def permutation_symmetry(like: PyTree, layers: Sequence[Hidden] | None = None) -> Symmetry:
    """Permutations of hidden units with any activation: |G| = prod n!.

    Args:
        like: see `tanh_symmetry`.
        layers: see `tanh_symmetry`.

    Raises:
        ShapeError: see `tanh_symmetry`.
    """
    return _units_of(like, layers, False)


_SHIFTED = ("log_mass", "runs_log_z")


def with_scope(est: Any, sys: Any, scope: str, *, natural: str) -> Any:
    """An estimate of log Z turned from the scope of its method into another.

        log Z_total = log Z_mode + log |G|

    exact for the canonical domain at every temperature; for a mode only where modes are
    well separated. Read-outs and runs move along, so that `tj.curve` agrees.

    Args:
        est: `Estimate` of log Z.
        sys: system with a `symmetry`.
        scope: "total" or "mode", what is wanted.
        natural: what the method answers for: "mode" for `Laplace` and `EinsteinCrystal`,
            "total" for all others.

    Raises:
        ValueError: another scope, or a system that states no symmetry to convert by.
    """
    for given in (scope, natural):
        if given not in ("total", "mode"):
            raise ValueError(f"scope={given!r} is unknown: use 'total' or 'mode'")
    if scope == natural:
        return est
    if sys.symmetry is None:
        raise ValueError(
            f"this method answers for scope={natural!r} and the system states no symmetry to "
            f"turn it into {scope!r}: give tj.system(..., symmetry=tj.tanh_symmetry(theta))"
        )
    shift = sys.symmetry.log_order * (1 if scope == "total" else -1)
    parts = est.parts
    moved = {name: getattr(parts, name) + shift for name in _SHIFTED if hasattr(parts, name)}
    if hasattr(parts, "readouts"):
        moved["readouts"] = {k: v + shift for k, v in parts.readouts.items()}
    if moved:
        parts = parts._replace(**moved)
    return est._replace(value=est.value + shift, parts=parts)
