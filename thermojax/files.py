"""Files that are complete or absent, never half written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_bytes", "writing"]


@contextlib.contextmanager
def writing(path: Path | str) -> Generator[BinaryIO]:
    """Open a file for writing that takes its name only when all of it is on disk.

    Args:
        path: of the file; its folder is created if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes | str) -> Path:
    """Write a whole file; see `writing`."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)
