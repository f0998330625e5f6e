"""Pieces of a long run: each is written when it is done, and read back by the run's heir.

A piece is a function of the settings alone (seeds included), so that a run that was killed
and one that was not end in the same numbers, bit for bit.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thermojax.files import writing

__all__ = ["Pieces"]

_SECONDS = "seconds taken"


class Pieces:
    """Arrays by the name of their piece, kept in a folder.

    Attributes:
        folder: of the files; None keeps nothing.
        saved: seconds that the pieces read back had taken.

    Example:
        >>> Pieces()("squares", lambda: {"x": np.arange(3) ** 2})
        {'x': array([0, 1, 4])}
    """

    def __init__(self, folder: Path | str | None = None):
        self.folder = None if folder is None else Path(folder)
        self.saved = 0.0

    def __call__(
        self, name: str, make: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """The piece as it is in the folder, else as `make` has it now.

        Args:
            name: of the piece, which becomes a file's name.
            make: its arrays; not called where the piece is there.

        Raises:
            ValueError: its file is damaged.
        """
        path = None if self.folder is None else self.folder / f"{name}.npz"
        if path is not None and path.is_file():
            return self._read(path)
        began = time.monotonic()
        arrays = {key: np.asarray(value) for key, value in make().items()}
        if path is not None:
            seconds = np.float64(time.monotonic() - began)
            with writing(path) as file:
                np.savez(file, **arrays, **{_SECONDS: seconds})  # ty: ignore[invalid-argument-type]
        return arrays

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            self.saved += float(arrays.pop(_SECONDS))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged: remove it, and it is made again") from error
        return arrays

    @property
    def any(self) -> bool:
        """Whether a piece has been kept."""
        return self.folder is not None and any(self.folder.glob("*.npz"))
