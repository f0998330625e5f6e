"""Images and networks of the experiments on representations.

    training rows = fitted rows + validation rows,    every part with the classes in proportion
    encoder d_in-hidden-(d_z + d_z),   decoder d_z-hidden reversed-d_in,   classifier d_z-n_y

Handwritten digits of scikit-learn by default, or any data set of the MNIST family from a
folder of IDX files. Pixels are in [0, 1] in both; the decoder's D counts |x - xhat|^2 /
(2 s_x^2) without the constant.

Source: specification of the theory, 9.2.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.idx import read_mnist
from thermojax.networks import mlp
from thermojax.theories.representation.networks import Network, gaussian_decoder, neural_model
from thermojax.theories.representation.quantities import Batch

__all__ = [
    "NUM_LABELS",
    "DataConfig",
    "Sizes",
    "Split",
    "draws_of",
    "network",
    "optimizer",
    "sizes",
    "split",
]

NUM_LABELS = 10
"""Classes of digits and of the data sets of the MNIST family."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are parted.

    Attributes:
        folder: with the IDX files of a data set of the MNIST family, which has a test set of
            its own; None is scikit-learn's digits.
        test: part of the digits that is held out for the test, by class in proportion.
        validation: part of the training rows on which C is held, by class in proportion.
        rows: training rows that are used, validation rows included; None is all.
    """

    folder: str | None = None
    test: float = 0.3
    validation: float = 0.2
    rows: int | None = None

    def __post_init__(self):
        for name in ("test", "validation"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} is a part: give more than 0 and less than 1"
                )
        if self.rows is not None and self.rows < 2 * NUM_LABELS:
            raise ValueError(
                f"rows={self.rows} must be at least {2 * NUM_LABELS}, two for each class"
            )


class Split(NamedTuple):
    """Images in three parts, x [n, d] float32 in [0, 1] and y [n] int32.

    Attributes:
        train: fitted.
        validation: C is held on these.
        test: seen by nothing before the end.
    """

    train: Batch
    validation: Batch
    test: Batch


def split(config: DataConfig, seed: int) -> Split:
    """Images of one draw; the sizes of the parts are the same for every seed.

    Args:
        config: settings.
        seed: of the choice of rows and of their order.

    Raises:
        ValueError: more rows than there are, or labels beyond the ten classes.
        FileNotFoundError: the folder lacks a file.

    Example:
        >>> [part.x.shape for part in split(DataConfig(), 0)]
        [(1005, 64), (252, 64), (540, 64)]
    """
    draw = np.random.default_rng(seed)
    if config.folder is None:
        images, labels = _digits()
        rest, held = _part(draw, labels, math.ceil(config.test * len(labels)))
        test = Batch(images[held], labels[held])
        images, labels = images[rest], labels[rest]
    else:
        found = _images(config.folder)
        images, labels = found.images, found.labels
        test = Batch(found.test_images, found.test_labels)
    if config.rows is not None:
        if config.rows > len(labels):
            raise ValueError(
                f"rows={config.rows} exceeds the {len(labels)} training rows: give fewer"
            )
        _, used = _part(draw, labels, config.rows)
        images, labels = images[used], labels[used]
    fit, held = _part(draw, labels, math.ceil(config.validation * len(labels)))
    return Split(Batch(images[fit], labels[fit]), Batch(images[held], labels[held]), test)


def draws_of(config: DataConfig, seeds: Sequence[int]) -> Split:
    """Images of several draws, each array with the draws along axis 0.

    Example:
        >>> draws_of(DataConfig(rows=100), (0, 1)).train.x.shape
        (2, 80, 64)
    """
    return jax.tree.map(lambda *parts: np.stack(parts), *(split(config, s) for s in seeds))


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target.astype(np.int32)


def _images(folder: str) -> Any:
    found = read_mnist(folder)
    top = max(found.labels.max(), found.test_labels.max())
    if top >= NUM_LABELS:
        raise ValueError(f"{folder} has the label {top}: labels run from 0 to {NUM_LABELS - 1}")
    return found


def _part(
    draw: np.random.Generator, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stay and `count` rows that are taken, by class in proportion, shuffled."""
    classes, sizes = np.unique(labels, return_counts=True)
    share = count * sizes / len(labels)
    taken = np.floor(share).astype(int)
    # what rounding down leaves goes to the largest remainders
    taken[np.argsort(taken - share, kind="stable")[: count - taken.sum()]] += 1
    rows = [draw.permutation(np.flatnonzero(labels == c)) for c in classes]
    parts = zip(rows, taken, strict=True)
    ends = [(r[k:], r[:k]) for r, k in parts]
    stay, go = (draw.permutation(np.concatenate(side)) for side in zip(*ends, strict=True))
    return stay, go


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Networks and their training; the defaults fit digits.

    Attributes:
        hidden: widths of the encoder's hidden layers; the decoder has them reversed.
        latent: d_z.
        batch: images of a gradient step.
        learning_rate: of Adam.
        decoder_scale: s_x, in units of a pixel.
    """

    hidden: tuple[int, ...] = (64,)
    latent: int = 8
    batch: int = 128
    learning_rate: float = 1e-3
    decoder_scale: float = 0.3

    def __post_init__(self):
        if min(*self.hidden, self.latent, self.batch) < 1:
            raise ValueError(
                f"hidden={self.hidden}, latent={self.latent} and batch={self.batch} must be at "
                "least 1"
            )
        if not (self.learning_rate > 0 and self.decoder_scale > 0):
            raise ValueError(
                f"learning_rate={self.learning_rate} and decoder_scale={self.decoder_scale} "
                "must be positive"
            )


def sizes(*, device: bool = False) -> Sizes:
    """Networks for digits on two cores, or for images of MNIST's size on an accelerator."""
    return Sizes(hidden=(512, 256), latent=16, batch=512) if device else Sizes()


@functools.cache
def network(sizes: Sizes, num_inputs: int) -> Network:
    """Tanh networks of these sizes; the same object for the same sizes.

    Args:
        sizes: of the networks.
        num_inputs: pixels of an image.

    Example:
        >>> params = network(Sizes(), 64).init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        10026
    """
    # what is kept must not belong to the program that happens to ask first
    with jax.ensure_compile_time_eval():
        return neural_model(
            mlp(sizes.hidden, 2 * sizes.latent),
            mlp(sizes.hidden[::-1], num_inputs),
            mlp((), NUM_LABELS),
            example_x=jnp.zeros((1, num_inputs), jnp.float32),
            log_likelihood=gaussian_decoder(sizes.decoder_scale),
        )


@functools.cache
def optimizer(sizes: Sizes) -> Any:
    """Adam, the same object for the same sizes, so that a compilation is used again."""
    import optax

    return optax.adam(sizes.learning_rate)
