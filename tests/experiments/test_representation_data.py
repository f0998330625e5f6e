"""Parts of the images: proportions, seeds, IDX folders written here, and sizes of networks."""

import itertools
import struct

import jax
import numpy as np
import pytest

from thermojax.experiments.representation_data import (
    DataConfig,
    Sizes,
    draws_of,
    network,
    optimizer,
    sizes,
    split,
)

PARTS = ("train", "validation", "test")


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_folder(folder, *, train=200, test=60, side=3, top=10):
    """Images whose first pixel is their number, and labels in turn."""
    for prefix, count in (("train", train), ("t10k", test)):
        images = np.random.default_rng(count).integers(0, 256, (count, side, side))
        images[:, 0, 0] = np.arange(count)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count) % top)
    return str(folder)


def rows(part):
    return {row.tobytes() for row in np.asarray(part.x)}


def test_digits_are_parted_without_loss():
    from sklearn.datasets import load_digits

    everything = (load_digits().data / 16).astype(np.float32)
    parts = split(DataConfig(), 3)
    found = np.concatenate([part.x for part in parts])
    order = lambda a: a[np.lexsort(a.T)]
    np.testing.assert_array_equal(order(found), order(everything))
    assert sum(len(rows(part)) for part in parts) == len(rows(parts[0]._replace(x=found)))
    assert found.dtype == np.float32
    assert found.min() == 0
    assert found.max() == 1


def test_labels_stay_with_their_images():
    from sklearn.datasets import load_digits

    found = load_digits()
    known = {
        x.tobytes(): y
        for x, y in zip((found.data / 16).astype(np.float32), found.target, strict=True)
    }
    for part in split(DataConfig(), 5):
        assert [known[x.tobytes()] for x in part.x] == part.y.tolist()
        assert part.y.dtype == np.int32


@pytest.mark.parametrize("config", [DataConfig(), DataConfig(rows=200, validation=0.25)])
def test_classes_are_in_proportion(config):
    parts = split(config, 1)
    for part in parts:
        share = np.bincount(part.y, minlength=10) / len(part.y)
        # sizes of classes are whole numbers: at most one more or less
        whole = np.bincount(np.concatenate([p.y for p in split(DataConfig(), 0)])) / 1797
        assert np.all(np.abs(share - whole) < 2 / len(part.y))


def test_sizes_of_parts_do_not_depend_on_the_seed():
    shapes = {tuple(part.x.shape for part in split(DataConfig(rows=150), s)) for s in range(4)}
    assert shapes == {((120, 64), (30, 64), (540, 64))}
    both = draws_of(DataConfig(rows=150), (1, 2))
    for k, seed in enumerate((1, 2)):
        jax.tree.map(
            lambda all_, one, k=k: np.testing.assert_array_equal(all_[k], one),
            both,
            split(DataConfig(rows=150), seed),
        )


def test_seeds_differ_and_repeat():
    first, again, other = (split(DataConfig(), s).train for s in (0, 0, 1))
    np.testing.assert_array_equal(first.x, again.x)
    assert rows(first) != rows(other)


def test_a_folder_keeps_its_test_set(tmp_path):
    config = DataConfig(folder=write_folder(tmp_path), validation=0.25)
    parts = split(config, 0)
    assert [part.x.shape for part in parts] == [(150, 9), (50, 9), (60, 9)]
    # the first pixel is the number of the image
    number = lambda part: np.rint(part.x[:, 0] * 255).astype(int)
    np.testing.assert_array_equal(number(parts.test), np.arange(60))
    fitted, held = number(parts.train), number(parts.validation)
    assert sorted([*fitted, *held]) == list(range(200))
    for part in parts:
        np.testing.assert_array_equal(part.y, number(part) % 10)
        assert set(np.bincount(part.y)) == {len(part.y) // 10}


def test_rows_of_a_folder(tmp_path):
    config = DataConfig(folder=write_folder(tmp_path), rows=40)
    assert [len(part.y) for part in split(config, 0)] == [32, 8, 60]


def test_a_folder_with_eleven_classes_is_refused(tmp_path):
    config = DataConfig(folder=write_folder(tmp_path, top=11))
    with pytest.raises(ValueError, match="label 10"):
        split(config, 0)


def test_more_rows_than_there_are():
    with pytest.raises(ValueError, match="rows=5000 exceeds the 1257 training rows"):
        split(DataConfig(rows=5000), 0)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        split(DataConfig(folder=str(tmp_path / "none")), 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"test": 0.0}, "test=0.0"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"rows": 19}, "rows=19"),
    ],
)
def test_settings_without_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        DataConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden": (0,)}, "hidden"),
        ({"latent": 0}, "latent=0"),
        ({"batch": 0}, "batch=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"decoder_scale": -1.0}, "decoder_scale=-1.0"),
    ],
)
def test_sizes_without_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        Sizes(**settings)


@pytest.mark.parametrize(
    ("device", "pixels", "widths"), [(False, 64, [64]), (True, 784, [512, 256])]
)
def test_networks_have_their_sizes(device, pixels, widths):
    chosen = sizes(device=device)
    shapes = jax.eval_shape(network(chosen, pixels).init, jax.random.key(0))
    chain = lambda part: (
        [k["kernel"].shape for k in shapes[part]["params"].values()]
        if ("params" in shapes[part])
        else [k["kernel"].shape for k in shapes[part].values()]
    )
    there = [pixels, *widths, 2 * chosen.latent]
    back = [chosen.latent, *widths[::-1], pixels]
    assert chain("encoder") == list(itertools.pairwise(there))
    assert chain("decoder") == list(itertools.pairwise(back))
    assert chain("classifier") == [(chosen.latent, 10)]


def test_distortion_has_no_constant():
    """|x - xhat|^2 / (2 s_x^2): 0 where the reconstruction is exact."""
    model, init = network(Sizes(hidden=(4,), latent=2), 9)
    params = jax.tree.map(np.zeros_like, init(jax.random.key(0)))
    z = np.zeros((1, 2, 2), np.float32)
    x = np.stack([np.zeros(9), np.full(9, 0.3)]).astype(np.float32)
    np.testing.assert_allclose(model.log_decoder(params, x, z)[0], [0, -4.5], rtol=1e-6)


def test_networks_outlive_the_program_that_asked_first():
    chosen = Sizes(hidden=(3,), latent=1)
    init = lambda key: network(chosen, 5).init(key)
    for _ in range(2):
        jax.jit(init).lower(jax.random.key(0))
        jax.clear_caches()
    assert jax.tree.leaves(init(jax.random.key(0)))


def test_the_same_sizes_are_the_same_objects():
    assert network(Sizes(), 64) is network(Sizes(), 64)
    assert optimizer(Sizes()) is optimizer(Sizes())
    assert optimizer(Sizes()) is not optimizer(Sizes(learning_rate=1e-2))
