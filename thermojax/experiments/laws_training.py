"""Networks trained by SGD on digits, with a record of their parameters on the way.

    pixels / 16  ->  tanh layers of one width  ->  10 linear outputs
    loss = mean over images of 1/2 |y - yhat|^2, y one-hot

The reproduction of the laws of learning reads its thermodynamics from these records. All
networks of all draws are trained by one program; the draw decides images, starts and
batches.

Source: specification of the theory, section 8.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.learning_laws.septuple import System, layered_network
from thermojax.theories.learning_laws.settling import boundary_loss
from thermojax.typing import Array, Key, PyTree

__all__ = ["Record", "TrainingConfig", "digits", "train", "train_networks"]

_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How networks are trained.

    Attributes:
        rows: images of the training set, at most 1,797.
        networks: per draw.
        width: units of every hidden layer.
        batch: images of a step, drawn with replacement.
        rate: step size of SGD on the mean loss.
    """

    rows: int = 512
    networks: int = 8
    width: int = 16
    batch: int = 32
    rate: float = 0.1

    def __post_init__(self):
        if not 2 <= self.rows <= 1797 or self.batch < 1 or self.width < 1:
            raise ValueError(
                f"rows={self.rows} must be from 2 to 1797, batch={self.batch} and "
                f"width={self.width} at least 1"
            )
        if self.networks < 2 or not self.rate > 0:
            raise ValueError(
                f"networks={self.networks} must be at least 2 and rate={self.rate} positive"
            )


class Record(NamedTuple):
    """What training leaves.

    Attributes:
        system: the network.
        params: [(W_l, b_l), ...] with leading axes [network, checkpoint].
        data: {"x": (rows, 64), "y": (rows, 10)}.
    """

    system: System
    params: PyTree
    data: dict[str, Array]


@functools.cache
def _pixels() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data / 16, found.target


def digits(rows: int, seed: int) -> dict[str, Array]:
    """Images and one-hot targets, `rows` of them drawn without replacement."""
    pixels, labels = _pixels()
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:rows]
    return {"x": jnp.asarray(pixels[chosen]), "y": jnp.eye(_CLASSES)[labels[chosen]]}


def _draw(key: Key, sizes: tuple[int, ...], dtype) -> PyTree:
    """Weights from N(0, 1 / fan-in), biases 0."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (m, n), dtype) / np.sqrt(n), jnp.zeros(m, dtype))
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


@functools.partial(jax.jit, static_argnames=("system", "every", "count", "batch"))
def train(
    system: System,
    params: PyTree,
    data: dict[str, Array],
    key: Key,
    rate: Array,
    *,
    every: int,
    count: int,
    batch: int,
) -> PyTree:
    """SGD of one network; its parameters at steps 0, every, ..., count * every.

    Args:
        system: the network.
        params: at the start.
        data: all images.
        key: of the batches.
        rate: step size.
        every: steps between checkpoints.
        count: of checkpoints after the start.
        batch: images of a step.

    Returns:
        The parameters with a leading axis of count + 1.
    """
    rows = data["x"].shape[0]
    slope = jax.grad(lambda q, part: boundary_loss(system, q, part, "mean"))

    def step(params, t):
        chosen = jax.random.randint(jax.random.fold_in(key, t), (batch,), 0, rows)
        force = slope(params, jax.tree.map(lambda x: x[chosen], data))
        return jax.tree.map(lambda q, f: q - rate * f, params, force), None

    def segment(params, k):
        moved, _ = jax.lax.scan(step, params, k * every + jnp.arange(every))
        return moved, moved

    _, path = jax.lax.scan(segment, params, jnp.arange(count))
    return jax.tree.map(lambda q, p: jnp.concatenate([q[None], p]), params, path)


def train_networks(
    config: TrainingConfig, depth: int, seed: int, *, every: int, count: int
) -> Record:
    """All networks of one draw.

    Args:
        config: settings.
        depth: hidden layers.
        seed: of images, starts and batches.
        every: steps between checkpoints.
        count: of checkpoints after the start.
    """
    data = digits(config.rows, seed)
    dtype = data["x"].dtype
    sizes = (data["x"].shape[1], *[config.width] * depth, _CLASSES)
    system = layered_network(sizes, "tanh")
    starts, batches = jax.random.split(jax.random.fold_in(jax.random.key(seed), depth))
    params = jax.vmap(lambda k: _draw(k, sizes, dtype))(
        jax.random.split(starts, config.networks)
    )
    each = lambda q, k: train(
        system, q, data, k, config.rate, every=every, count=count, batch=config.batch
    )
    return Record(
        system, jax.vmap(each)(params, jax.random.split(batches, config.networks)), data
    )
