"""Where a run works and where its result stands: a folder is complete or absent.

A run works in a sibling named `<out>.partial` that is renamed to `<out>` at the very end.
A process may be killed at any moment; what stood in `<out>` before is there until then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from thermojax.io import write_config

__all__ = ["RunFolder", "next_free", "prepare", "unfinished"]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run; see `prepare`.

    Attributes:
        out: folder of the finished run.
        partial: folder of the run under way.
        overwrite: whether `out` and `partial` may be replaced.
        missing: folders above them that did not exist, innermost first.
    """

    out: Path
    partial: Path
    overwrite: bool = False
    missing: tuple[Path, ...] = ()

    @property
    def checkpoint(self) -> Path:
        """Folder for the state of the run under way."""
        return self.partial / "checkpoint"

    def open(self, settings: Any, **more: Any) -> Path:
        """Create `partial` with its config.json; see `write_config`."""
        if self.overwrite and self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)
        return write_config(self.partial, settings, **more)

    def finish(self) -> Path:
        """Rename `partial` to `out`; a result that stood there goes only now.

        Raises:
            FileExistsError: something has appeared at `out` meanwhile.
        """
        if not self.overwrite and _taken(self.out):
            raise FileExistsError(
                f"{self.out} appeared during the run: the result is kept in {self.partial}"
            )
        if self.out.exists():
            old = self.out.with_name(f"{self.out.name}.old.partial")
            shutil.rmtree(old, ignore_errors=True)
            os.rename(self.out, old)
            os.rename(self.partial, self.out)
            shutil.rmtree(old)
        else:
            os.rename(self.partial, self.out)
        return self.out

    def discard(self) -> None:
        """Remove `partial`, and the folders above it that were made for it."""
        shutil.rmtree(self.partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: somebody else uses it
            for folder in self.missing:
                folder.rmdir()


def _taken(out: Path) -> bool:
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def _is_run(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return (folder / "config.json").is_file() or not any(folder.iterdir())


def prepare(out: Path | str, overwrite: bool = False) -> RunFolder:
    """Check that a run may write to `out`; writes nothing itself.

    Args:
        out: folder that does not exist, or is empty.
        overwrite: replace an earlier run. A folder without config.json is refused all the
            same: it is no run.

    Raises:
        FileExistsError: `out` exists, or an unfinished run is kept beside it.
    """
    out = Path(out)
    if out.name in ("", ".."):
        out = out.resolve()
    partial = out.with_name(f"{out.name}.partial")
    go_on = f"go on with `thermojax resume {out}`, "
    known = ((out, "exists", ""), (partial, "holds an unfinished run", go_on))
    for folder, what, mend in known:
        if not overwrite and _taken(folder):
            raise FileExistsError(
                f"{folder} {what}: {mend}choose another --out, or replace it with --overwrite"
            )
        if folder.exists() and not _is_run(folder):
            raise FileExistsError(
                f"{folder} is no run folder (it has no config.json), so --overwrite leaves it "
                "alone: choose another --out"
            )
    missing = tuple(folder for folder in out.parents if not folder.exists())
    return RunFolder(out, partial, overwrite, missing)


def unfinished(out: Path | str) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of an interrupted run, and its config.json with the `settings`.

    Args:
        out: the run's folder, with or without its ending `.partial`.

    Raises:
        FileExistsError: the run is finished.
        FileNotFoundError: no such run.
        ValueError: its settings cannot be read.
    """
    out = Path(out)
    out = out.with_name(out.name.removesuffix(".partial"))
    partial = out.with_name(f"{out.name}.partial")
    if not (partial / "config.json").is_file():
        if (out / "config.json").is_file():
            raise FileExistsError(f"{out} is finished: there is nothing to resume")
        raise FileNotFoundError(f"{partial} holds no interrupted run (no config.json)")
    try:
        config = json.loads((partial / "config.json").read_text())
    except ValueError as error:
        raise ValueError(f"{partial / 'config.json'} is damaged: start again") from error
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise ValueError(f"{partial / 'config.json'} has no settings: start again")
    return RunFolder(out, partial), config


def next_free(stem: Path) -> Path:
    """`stem-001`, or the first number that no run, finished or not, has taken.

    Example:
        >>> next_free(Path("no/such/folder/digits")).name
        'digits-001'
    """
    taken = {p.name.removesuffix(".partial") for p in stem.parent.glob(f"{stem.name}-*")}
    number = 1
    while f"{stem.name}-{number:03d}" in taken:
        number += 1
    return stem.with_name(f"{stem.name}-{number:03d}")
