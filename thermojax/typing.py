"""Type aliases and the errors that thermojax raises."""

from __future__ import annotations

from typing import Any

import jax

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


def is_concrete(tree: PyTree) -> bool:
    """True if no leaf of `tree` is being traced, so that its values can be read."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
