"""Image files of the MNIST family: the IDX format, plain or gzipped.

    bytes 0, 1   zero
    byte 2       type of an entry: 0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32,
                 0x0D float32, 0x0E float64
    byte 3       number of dimensions
    then         each size as a big-endian uint32, and the entries, big-endian, last axis
                 fastest

Source: the format's description beside the MNIST files (LeCun, Cortes & Burges).
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Images", "read_idx", "read_mnist"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PARTS = {"train": "train", "test": "t10k"}


class Images(NamedTuple):
    """Training and test images of one folder.

    Attributes:
        images: [N, D] float32 in [0, 1], one row per image.
        labels: [N] int32.
        test_images: [M, D] float32 in [0, 1].
        test_labels: [M] int32.
    """

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read_idx(path: Path | str) -> np.ndarray:
    """One IDX file, plain or gzipped, as an array in this machine's byte order.

    Args:
        path: of the file; gzip is recognised by its content, not by its name.

    Returns:
        The array with the shape and type that its head states.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not IDX, is cut short, or has bytes to spare.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give the path of an IDX file")
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} is a damaged gzip file ({error}): fetch it again"
            ) from None
    kind = content[2] if len(content) >= 4 else None
    if content[:2] != b"\0\0" or kind not in _TYPES:
        raise ValueError(
            f"{path} begins with {content[:4].hex() or 'nothing'}, which is no IDX head "
            "(0000, then a type of 08 to 0e): give a file of the MNIST family"
        )
    head = 4 + 4 * content[3]
    dtype = np.dtype(_TYPES[kind])
    shape, expected = (), head
    if len(content) >= head:
        shape = tuple(np.frombuffer(content[4:head], ">u4").tolist())
        expected = head + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{path} has {len(content)} bytes and its head promises {expected}: "
            "the file is damaged, fetch it again"
        )
    entries = np.frombuffer(content, dtype, offset=head).reshape(shape)
    return entries.astype(dtype.newbyteorder("="))


def read_mnist(folder: Path | str) -> Images:
    """The four files of a data set of the MNIST family (MNIST, Fashion-MNIST, KMNIST, ...).

    Args:
        folder: holds train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with
            t10k; a name may have a dot in place of its second dash, and end in .gz.

    Returns:
        The images with one row each, divided by 255.

    Raises:
        FileNotFoundError: the folder, or one of the files, is not there.
        ValueError: a file is damaged, images are not bytes, or labels do not fit them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the one with the IDX files")
    parts = [_part(folder, prefix) for prefix in _PARTS.values()]
    (images, labels), (test_images, test_labels) = parts
    if images.shape[1] != test_images.shape[1]:
        raise ValueError(
            f"training images have {images.shape[1]} pixels and test images "
            f"{test_images.shape[1]}: {folder} mixes two data sets"
        )
    return Images(images, labels, test_images, test_labels)


def _part(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of one half."""
    images_path, labels_path = (
        _find(folder, f"{prefix}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(
            f"{images_path} holds {images.dtype} of shape {images.shape}: images are bytes of "
            "shape [count, rows, columns]"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{labels_path} holds {labels.dtype} of shape {labels.shape} for {len(images)} "
            "images: give one whole-number label for each"
        )
    if not len(images):
        raise ValueError(f"{images_path} holds no images")
    rows = images.reshape(len(images), -1).astype(np.float32) / 255
    return rows, labels.astype(np.int32)


def _find(folder: Path, name: str) -> Path:
    """The file under one of its usual names."""
    usual = [name, name.replace("-idx", ".idx")]
    for choice in [*usual, *(f"{n}.gz" for n in usual)]:
        if (folder / choice).is_file():
            return folder / choice
    raise FileNotFoundError(f"{folder} has no file {name} (or {name}.gz): put it there")
