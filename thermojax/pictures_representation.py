"""All figures of the experiments on representation learning, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermojax import pictures_representation_exact as exact
from thermojax import pictures_representation_surface as surface
from thermojax import pictures_representation_transfer as transfer
from thermojax.plotting import save_png, styled

__all__ = ["CAPTIONS", "save_figures"]

CAPTIONS = {**surface.CAPTIONS, **transfer.CAPTIONS, **exact.CAPTIONS}


@styled
def save_figures(arrays: Mapping[str, Any], folder: Path | str) -> dict[str, Path]:
    """Write every figure as PNG; each file takes its name only when it is complete.

    Args:
        arrays: of the experiments.
        folder: created if need be.

    Returns:
        Name -> path.
    """
    made = {**surface.figures(arrays), **transfer.figures(arrays), **exact.figures(arrays)}
    return save_png(made, folder)
