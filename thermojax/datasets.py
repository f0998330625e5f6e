"""Real data sets, standardised with statistics of the training rows alone.

Named sets come with scikit-learn and need no network; `csv:FILE` reads a table with a
header of column names (`tables`).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thermojax.tables import Table, check_file, read_csv

__all__ = ["NAMES", "Dataset", "check_name", "load"]

NAMES = ("digits", "diabetes", "breast_cancer", "wine")
_DIGITS_SIDE = 8


class Dataset(NamedTuple):
    """Training and test rows of one task.

    Attributes:
        name: as it was asked for.
        inputs: [N, D] float32, standardised with the statistics of these rows.
        targets: [N], int32 classes or float32 (standardised) values.
        test_inputs: [M, D] float32 in the units of the training rows; M may be 0.
        test_targets: [M].
        task: "classification" or "regression".
        n_classes: number of classes; 0 for regression.
        feature_names: D names.
        class_names: n_classes names, in the order of the integer classes.
    """

    name: str
    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    task: str
    n_classes: int
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


def load(
    name: str,
    *,
    target: str | None = None,
    examples: int | None = None,
    test_fraction: float | None = None,
    image_side: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load, split and standardise a data set.

    Columns are shifted and scaled to mean 0 and standard deviation 1 (ddof 0) over the
    training rows; a column that is constant there becomes 0. Regression targets likewise.
    The pixels of `digits` share one mean and one standard deviation instead: border pixels
    are constant or nearly so, and a scale of their own would blow up single specks of ink.

    Args:
        name: "digits", "diabetes", "breast_cancer", "wine" or "csv:FILE".
        target: name of the target column of a CSV file. Text makes classes (sorted), whole
            numbers with at most 20 distinct values make classes, other numbers a regression.
        examples: number of training rows, drawn with `seed`, by class in proportion. Where
            `test_fraction` is not given, all other rows of a classification set are held
            out for the test.
        test_fraction: share of all rows held out; default 0 for regression and 0.25 for
            classification.
        image_side: `digits` only: average the 8x8 pixels down to side x side (1, 2, 4 or 8).
        seed: of the split.

    Raises:
        ValueError: unknown name, column or bad value, in one line.
        FileNotFoundError: no such file.

    Example:
        >>> data = load("digits", examples=100, image_side=4)
        >>> data.inputs.shape, data.test_inputs.shape, data.n_classes
        ((100, 16), (1697, 16), 10)
    """
    check_name(name)
    is_csv = name.startswith("csv:")
    if target is not None and not is_csv:
        raise ValueError(f"target={target!r} applies to csv:FILE only: leave it out for {name}")
    if image_side is not None and name != "digits":
        raise ValueError(
            f"image_side={image_side} applies to digits only: leave it out for {name}"
        )
    table = read_csv(Path(name[4:]), target) if is_csv else _bundled(name, image_side)
    train, test = _split(name, table, examples, test_fraction, seed)
    inputs, targets = table.inputs, table.targets
    if name == "digits":
        inputs = (inputs - inputs[train].mean()) / _scale(inputs[train], axis=None)
    else:
        inputs = (inputs - inputs[train].mean(0)) / _scale(inputs[train])
    if table.task == "regression":
        spread = _scale(targets[train], axis=None)
        if not np.isfinite(spread):
            raise ValueError(
                f"the target of {name} is {targets[train][0]:g} in every training row: "
                "there is nothing to learn, choose another target"
            )
        targets = (targets - targets[train].mean()) / spread
    kind = np.int32 if table.task == "classification" else np.float32
    return Dataset(
        name=name,
        inputs=inputs[train].astype(np.float32),
        targets=targets[train].astype(kind),
        test_inputs=inputs[test].astype(np.float32),
        test_targets=targets[test].astype(kind),
        task=table.task,
        n_classes=len(table.class_names),
        feature_names=table.feature_names,
        class_names=table.class_names,
    )


def check_name(name: str) -> None:
    """Refuse a name that `load` does not know, before anything heavy is imported.

    Raises:
        ValueError: unknown name, with the nearest known one.
        FileNotFoundError: `csv:FILE` without such a file.
    """
    if name.startswith("csv:"):
        if not name[4:]:
            raise ValueError("csv: needs a file name, for example csv:measurements.csv")
        check_file(Path(name[4:]))
        return
    if name not in NAMES:
        if name.lower().endswith(".csv"):
            hint = f"did you mean csv:{name}?"
        else:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else "choose one of them"
        raise ValueError(
            f"unknown data set {name!r}; known: {', '.join(NAMES)}, csv:FILE; {hint}"
        )


def _scale(values: np.ndarray, axis: int | None = 0) -> np.ndarray:
    """Standard deviation (ddof 0); infinite where constant, so that x / scale is 0."""
    spread = values.std(axis)
    rounding = 1e-12 * np.abs(values).max(axis)
    return np.where(spread > rounding, spread, np.inf)


def _bundled(name: str, image_side: int | None) -> Table:
    from sklearn import datasets

    raw = getattr(datasets, f"load_{name}")()
    inputs = np.asarray(raw.data, np.float64)
    if name == "diabetes":
        return Table(
            inputs,
            np.asarray(raw.target, np.float64),
            "regression",
            tuple(raw.feature_names),
            (),
        )
    features = tuple(str(f) for f in raw.feature_names)
    if name == "digits":
        inputs, features = _shrink(inputs, _DIGITS_SIDE if image_side is None else image_side)
    classes = tuple(str(c) for c in raw.target_names)
    return Table(inputs, np.asarray(raw.target), "classification", features, classes)


def _shrink(pixels: np.ndarray, side: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Average 8x8 images down to side x side."""
    if side < 1 or _DIGITS_SIDE % side:
        raise ValueError(f"image_side={side} does not divide 8: use 1, 2, 4 or 8")
    block = _DIGITS_SIDE // side
    images = pixels.reshape(-1, side, block, side, block).mean((2, 4))
    names = tuple(f"pixel_{row}_{column}" for row in range(side) for column in range(side))
    return images.reshape(len(pixels), side * side), names


# Splitting


def _split(
    name: str, table: Table, examples: int | None, test_fraction: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted row numbers of the training and the test set."""
    total = len(table.targets)
    classify = table.task == "classification"
    if test_fraction is not None and not 0 <= test_fraction < 1:
        raise ValueError(
            f"test_fraction={test_fraction:g} is outside [0, 1): use for example 0.25"
        )
    if test_fraction is not None:
        n_test = round(test_fraction * total)
    elif not classify:
        n_test = 0
    else:
        n_test = round(0.25 * total) if examples is None else max(total - examples, 0)
    limit = total - n_test
    n_train = limit if examples is None else examples
    classes = len(table.class_names)
    if n_train > limit:
        raise ValueError(
            f"examples={n_train} exceeds the {limit} training rows of {name}: use fewer"
        )
    if n_train < max(1, classes):
        need = f"{classes} classes need one row each" if classify else "use at least 1"
        raise ValueError(f"{n_train} training rows of {name} are too few: {need}")
    rng = np.random.default_rng(seed)
    labels = table.targets.astype(int) if classify else np.zeros(total, int)
    order = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    sizes = np.array([len(rows) for rows in order])
    train_sizes = _apportion(sizes, n_train)
    test_sizes = _apportion(sizes - train_sizes, n_test, at_least=0)
    train = [rows[:n] for rows, n in zip(order, train_sizes, strict=True)]
    test = [rows[len(rows) - n :] for rows, n in zip(order, test_sizes, strict=True)]
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _apportion(sizes: np.ndarray, total: int, at_least: int = 1) -> np.ndarray:
    """Whole numbers that sum to `total`, in proportion to `sizes`, none above its size."""
    share = sizes * (total / max(sizes.sum(), 1))
    counts = np.minimum(np.maximum(np.floor(share).astype(int), at_least), sizes)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        free = counts < sizes if step > 0 else counts > at_least
        gap = np.where(free, step * (share - counts), -np.inf)
        counts[int(np.argmax(gap))] += step
    return counts
