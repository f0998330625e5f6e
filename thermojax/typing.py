"""Type aliases and the errors that thermojax raises."""

from __future__ import annotations

from typing import Any

import jax
from jax.core import Tracer

__all__ = [
    "Array",
    "ArrayLike",
    "ImproperEnsembleError",
    "Key",
    "NotReversibleError",
    "PyTree",
    "ShapeError",
    "UntrustedEstimate",
    "is_concrete",
    "is_traced",
]

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Key = jax.Array
PyTree = Any


class ImproperEnsembleError(ValueError):
    """The partition function diverges: no Z, no free energy, no entropy."""


class NotReversibleError(ValueError):
    """A Metropolis test or a two-sided estimator was asked of an irreversible word."""


class ShapeError(ValueError):
    """A parameter leaf has the wrong shape or structure; the message names the leaf."""


class UntrustedEstimate(RuntimeError):
    """Raised by `Estimate.require_trusted` outside jit, with reasons and remedies."""


def is_traced(x: object) -> bool:
    """True for a value that is being traced."""
    return isinstance(x, Tracer)


def is_concrete(tree: PyTree) -> bool:
    """True if no leaf of `tree` is being traced, so that its values can be read."""
    return not any(is_traced(leaf) for leaf in jax.tree.leaves(tree))
