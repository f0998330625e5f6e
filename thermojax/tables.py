"""Tables in comma-separated files: a header of names, rows of numbers, one target column.

Whatever is wrong with a file is one line that names the file, the line, the column, the
value and the mend.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Table", "check_file", "read_csv"]

_MAX_INTEGER_CLASSES = 20


class Table(NamedTuple):
    """Rows before they are split and standardised.

    Attributes:
        inputs: [N, D] float64.
        targets: [N], integer classes or float64 values.
        task: "classification" or "regression".
        feature_names: D names.
        class_names: names of the classes in the order of their integers; () for regression.
    """

    inputs: np.ndarray
    targets: np.ndarray
    task: str
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


def check_file(path: Path) -> None:
    """Refuse a path that is no file.

    Raises:
        FileNotFoundError: with what is there instead.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}: give the path of a CSV file")


def read_csv(path: Path, target: str | None) -> Table:
    """Read a table, checking every cell.

    A target of texts makes classes (sorted); whole numbers with at most 20 distinct values
    make classes; other numbers make a regression.

    Args:
        path: of a UTF-8 file with commas between cells and names in its first line.
        target: name of the target column.

    Raises:
        ValueError: for the first thing that is wrong, in one line.
        FileNotFoundError: no such file.
    """
    check_file(path)
    header, rows = _parse(path)
    if target is None:
        raise ValueError(f"{path} needs a target column (--target): one of {_listing(header)}")
    if target not in header:
        near = difflib.get_close_matches(target, header, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {_listing(header)}"
        raise ValueError(f"{path} has no column {target!r} for the target: {hint}")
    at = header.index(target)
    features = tuple(h for h in header if h != target)
    if not features:
        raise ValueError(f"{path} has only the target column {target!r}: add input columns")
    inputs = np.empty((len(rows), len(features)))
    for i, (line, cells) in enumerate(rows):
        values = cells[:at] + cells[at + 1 :]
        for j, (column, cell) in enumerate(zip(features, values, strict=True)):
            inputs[i, j] = _number(path, line, column, cell)
    targets, task, classes = _targets(path, target, [(line, cells[at]) for line, cells in rows])
    return Table(inputs, targets, task, features, classes)


def _listing(names: Sequence[str], most: int = 12) -> str:
    rest = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _parse(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and (line number, cells) of a file, checked to be a rectangle."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(_lines(csv.reader(file)))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a readable CSV file: {error}") from error
    if not lines:
        raise ValueError(
            f"{path} is empty: it needs a header of column names and rows of numbers"
        )
    number, header = lines[0]
    header = [h.strip() for h in header]
    if all(_is_number(h) for h in header):
        raise ValueError(
            f"{path}, line {number} holds numbers: put a header of column names there"
        )
    for position, column in enumerate(header):
        if not column:
            raise ValueError(
                f"{path}, line {number}: column {position + 1} has no name: name it"
            )
        if column in header[:position]:
            raise ValueError(
                f"{path}, line {number}: column {column!r} occurs twice: rename one"
            )
    if len(lines) == 1:
        raise ValueError(f"{path} has a header but no rows: add data")
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {number} has {len(cells)} cells ({','.join(cells)[:40]!r}), the "
                f"header has {len(header)}: separate by commas, quote text that holds a comma"
            )
    return header, lines[1:]


def _lines(reader) -> Iterator[tuple[int, list[str]]]:
    for cells in reader:
        if any(cell.strip() for cell in cells):  # blank lines are skipped
            yield reader.line_num, cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, line: int, column: str, cell: str) -> float:
    where = f"{path}, line {line}, column {column!r}"
    if not cell.strip():
        raise ValueError(f"{where} is empty: fill in the missing value or drop the row")
    if not _is_number(cell):
        raise ValueError(
            f"{where} holds {cell!r}, not a number: encode it as numbers or drop it"
        )
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(f"{where} holds {cell!r}: drop or impute non-finite values first")
    return value


def _targets(
    path: Path, column: str, cells: list[tuple[int, str]]
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Targets, task and class names, by the rule in `read_csv`."""
    numeric = [_is_number(cell) for _, cell in cells if cell.strip()]
    if any(numeric) or not numeric:
        values = np.array([_number(path, line, column, cell) for line, cell in cells])
        whole = bool(np.all(values == np.round(values)))
        if not whole or len(np.unique(values)) > _MAX_INTEGER_CLASSES:
            return values, "regression", ()
        distinct, labels = np.unique(values, return_inverse=True)
        names = tuple(str(int(v)) for v in distinct)
    else:
        for line, cell in cells:
            if not cell.strip():
                _number(path, line, column, cell)
        found, labels = np.unique([cell.strip() for _, cell in cells], return_inverse=True)
        names = tuple(str(v) for v in found)
    if len(names) < 2:
        raise ValueError(
            f"{path}, column {column!r} is {names[0]!r} in every row: choose another target"
        )
    if len(names) > max(_MAX_INTEGER_CLASSES, len(cells) // 2):
        raise ValueError(
            f"{path}, column {column!r} has {len(names)} distinct texts in {len(cells)} rows: "
            "that is a label of rows, choose another target"
        )
    return labels, "classification", names
