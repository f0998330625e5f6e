"""IDX files written here, byte by byte, and every way in which one can be damaged."""

import gzip
import struct

import numpy as np
import pytest

from thermojax.idx import read_idx, read_mnist

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
NAMES = [
    f"{p}-{w}" for p in ("train", "t10k") for w in ("images-idx3-ubyte", "labels-idx1-ubyte")
]


def idx(array, code="u1"):
    head = bytes([0, 0, CODES[code], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(f">{code}").tobytes()


def write_set(folder, *, count=(6, 4), side=(3, 2)):
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    arrays = []
    for n in count:
        arrays += [draw.integers(0, 256, (n, *side)), draw.integers(0, 10, n)]
    for name, array in zip(NAMES, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
    return arrays


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_every_type_and_shape(tmp_path, code, shape):
    array = (np.arange(np.prod(shape)).reshape(shape) * 3 - (0 if code == "u1" else 7)).astype(
        code
    )
    path = tmp_path / "file"
    for content in (idx(array, code), gzip.compress(idx(array, code))):
        path.write_bytes(content)
        found = read_idx(path)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == np.dtype(code)
        assert found.dtype.isnative


def test_a_folder_of_images(tmp_path):
    train, labels, test, test_labels = write_set(tmp_path)
    (tmp_path / NAMES[0]).rename(tmp_path / "train-images.idx3-ubyte")
    packed = gzip.compress((tmp_path / NAMES[3]).read_bytes())
    (tmp_path / NAMES[3]).unlink()
    (tmp_path / f"{NAMES[3]}.gz").write_bytes(packed)
    found = read_mnist(tmp_path)
    np.testing.assert_allclose(found.images, train.reshape(6, 6) / 255, rtol=1e-7)
    np.testing.assert_allclose(found.test_images, test.reshape(4, 6) / 255, rtol=1e-7)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.test_labels, test_labels)
    assert found.images.dtype == np.float32
    assert found.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[:-1], "head promises"),
        (lambda c: c + b"x", "head promises"),
        (lambda c: c[:6], "head promises"),
        (lambda c: c[:3], "no IDX head"),
        (lambda c: b"", "begins with nothing"),
        (lambda c: b"PK" + c[2:], "begins with 504b"),
        (lambda c: c[:2] + b"\x07" + c[3:], "no IDX head"),
        (lambda c: gzip.compress(c)[:-9], "damaged gzip"),
    ],
)
def test_damage_is_named(tmp_path, change, words):
    path = tmp_path / "file"
    path.write_bytes(change(idx(np.arange(12).reshape(3, 2, 2))))
    with pytest.raises(ValueError, match=words) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        read_mnist(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="not a file"):
        read_idx(tmp_path)
    write_set(tmp_path / "set")
    (tmp_path / "set" / NAMES[2]).unlink()
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        read_mnist(tmp_path / "set")


@pytest.mark.parametrize(
    ("which", "array", "code", "words"),
    [
        (0, np.zeros((6, 6)), "u1", "shape \\(6, 6\\)"),
        (0, np.zeros((6, 3, 2)), "f4", "float32"),
        (0, np.zeros((6, 3, 3)), "u1", "mixes two"),
        (1, np.zeros(5), "u1", "6 images"),
        (1, np.zeros(6), "f4", "whole-number"),
    ],
)
def test_files_that_do_not_fit(tmp_path, which, array, code, words):
    write_set(tmp_path)
    (tmp_path / NAMES[which]).write_bytes(idx(array, code))
    with pytest.raises(ValueError, match=words):
        read_mnist(tmp_path)


def test_an_empty_set_is_refused(tmp_path):
    write_set(tmp_path, count=(0, 4))
    with pytest.raises(ValueError, match="no images"):
        read_mnist(tmp_path)
