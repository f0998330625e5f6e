"""The state of a long computation on disk, and loops that go on from there.

Anything with `load` and `save` is a `Checkpoint`; the path of a folder is taken for a
`Folder`, one file that is replaced only when the new one is complete. Loops go in chunks,
which change no number: a computation that was killed and goes on ends bit for bit as one
that was not.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from thermojax.files import writing
from thermojax.progress import reporter
from thermojax.typing import PyTree

__all__ = [
    "Checkpoint",
    "Folder",
    "Store",
    "in_chunks",
    "load_checkpoint",
    "save_checkpoint",
    "store_of",
    "within",
]

# One npz file and not orbax: orbax refuses arrays of size zero and trees without leaves, and
# casts silently where dtypes differ; both were tried.

_STATE = "state.npz"


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> list[Any]:
    """Dtype and shape; a plain Python number has its type for dtype."""
    return [str(getattr(leaf, "dtype", type(leaf).__name__)), list(np.shape(leaf))]


def _to_bytes(leaf: Any) -> np.ndarray:
    """Contents as bytes, which any dtype survives (bfloat16 does not survive npz)."""
    values = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)


def _from_bytes(stored: np.ndarray, like: Any, impl: str) -> Any:
    """The leaf again, of the kind, shape, dtype and placement of `like`."""
    content = stored.tobytes()
    if isinstance(like, bool | int | float | complex):
        return np.frombuffer(content, np.asarray(like).dtype)[0].item()
    if isinstance(like, np.ndarray | np.generic):
        return np.frombuffer(content, like.dtype).reshape(like.shape).copy()
    data = jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like
    with jax.enable_x64(True):  # or 64-bit values would be cut; of no effect outside
        leaf = jax.device_put(np.frombuffer(content, data.dtype).reshape(data.shape))
        if _is_key(like):
            leaf = jax.random.wrap_key_data(leaf, impl=impl)
        return jax.device_put(leaf, getattr(like, "sharding", None))


def save_checkpoint(folder: Path | str, tree: PyTree) -> Path:
    """Store a pytree of arrays, typed keys and plain numbers, bit for bit.

    The previous checkpoint in `folder` is replaced only when this one is complete.

    Args:
        folder: for one checkpoint; created if need be.
        tree: any pytree of arrays, typed keys and plain numbers.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    index = [
        [
            [jax.tree_util.keystr(path), *_describe(leaf)],
            str(jax.random.key_impl(leaf)) if _is_key(leaf) else "",
        ]
        for path, leaf in named
    ]
    with writing(Path(folder) / _STATE) as file:
        leaves = {f"leaf_{i}": _to_bytes(leaf) for i, (_, leaf) in enumerate(named)}
        np.savez(file, index=np.array(json.dumps(index)), **leaves)  # ty: ignore[invalid-argument-type]
    return Path(folder)


def load_checkpoint(folder: Path | str, like: PyTree) -> PyTree:
    """Read a checkpoint back.

    Args:
        folder: as given to `save_checkpoint`.
        like: pytree (arrays, or shapes from `jax.eval_shape`) with the structure, shapes
            and dtypes expected; arrays also say on which devices the leaves go.

    Raises:
        FileNotFoundError: none there.
        ValueError: stored and expected leaves differ; the message names the first.
    """
    path = Path(folder) / _STATE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoint ({_STATE})")
    named = jax.tree_util.tree_leaves_with_path(like)
    with np.load(path, allow_pickle=False) as stored:
        index = json.loads(str(stored["index"]))
        for (have, _), (where, leaf) in zip(index, named, strict=False):
            want = [jax.tree_util.keystr(where), *_describe(leaf)]
            if have != want:
                raise ValueError(
                    f"checkpoint {path}: leaf {have[0]} is {have[1]}{have[2]}, "
                    f"expected {want[0]} to be {want[1]}{want[2]}"
                )
        if len(index) != len(named):
            raise ValueError(
                f"checkpoint {path} has {len(index)} leaves, expected {len(named)}"
            )
        leaves = [
            _from_bytes(stored[f"leaf_{i}"], leaf, index[i][1])
            for i, (_, leaf) in enumerate(named)
        ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


class Checkpoint(Protocol):
    """Somewhere to keep the state of a long computation."""

    def load(self, like: PyTree) -> PyTree:
        """What was kept, shaped as `like`; `like` itself if nothing was."""
        ...

    def save(self, state: PyTree) -> None:
        """Keep the state, replacing what was kept only once this is complete."""
        ...


Store = Checkpoint | Path | str


class Folder:
    """A folder that holds the state of one computation.

    What is kept goes with a digest of the state in which that computation began: another
    system, point or key is refused, not mixed up with it. Integers and keys must be the
    same; of floats a mean is compared, up to rounding, so that one example among 10^5 with
    another value may pass.

    Args:
        path: of the folder; created when something is kept.
        inputs: pytree of what the computation depends on besides the state at its
            beginning; not kept, only compared.
    """

    def __init__(self, path: Path | str, inputs: PyTree = ()):
        self.path, self.inputs = Path(path), inputs
        self._began: np.ndarray | None = None

    def load(self, like: PyTree) -> PyTree:
        """What was kept, or `like`, the state at the beginning, if nothing was.

        Raises:
            ValueError: the folder holds the state of another computation.
        """
        self._began = _digest((like, self.inputs))
        try:
            found = load_checkpoint(self.path, {"began": self._began, "state": like})
        except FileNotFoundError:
            return like
        except ValueError as error:
            raise ValueError(f"{error}: {self._mend()}") from error
        # another machine may round otherwise, another computation begins elsewhere
        if np.any(np.abs(found["began"] - self._began) > 1e-5 * self._began[:, 1:]):
            raise ValueError(
                f"{self.path} holds a computation that began in another state (other "
                f"data, point, key or settings): {self._mend()}"
            )
        return found["state"]

    def _mend(self) -> str:
        return f"name another folder, or remove {self.path} to begin anew"

    def save(self, state: PyTree) -> None:
        """Keep the state; the one before it stays until this one is complete."""
        if self._began is None:
            raise ValueError(f"{self.path}: load comes before save, to say what began")
        save_checkpoint(self.path, {"began": self._began, "state": state})


def _digest(tree: PyTree) -> np.ndarray:
    """[leaves, 2] a mean that knows the order, and its scale, 0 where it must be the same."""

    def one(leaf: Any) -> tuple[float, float]:
        x = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        if not jax.numpy.issubdtype(x.dtype, np.inexact):  # numbers that nothing rounds
            return float(zlib.crc32(np.ascontiguousarray(x).tobytes())), 0.0
        x = np.abs(x) if np.iscomplexobj(x) else x
        x = x.astype(np.float64).ravel()
        x = np.where(np.isfinite(x), x, 0.0)
        if not x.size:
            return 0.0, 0.0
        return float(np.mean(x * np.cos(np.arange(x.size)))), float(np.mean(np.abs(x)))

    return np.asarray([one(leaf) for leaf in jax.tree.leaves(tree)]).reshape(-1, 2)


def within(checkpoint: Path | str | None, name: str) -> Path | None:
    """The folder of one part of a computation."""
    return None if checkpoint is None else Path(checkpoint) / name


def store_of(checkpoint: Store | None, inputs: PyTree = ()) -> Checkpoint | None:
    """A `Checkpoint` as it is, a path as a `Folder`.

    Raises:
        ValueError: neither, or the path of a file.
    """
    if checkpoint is None:
        return None
    if isinstance(checkpoint, str | Path):
        if Path(checkpoint).is_file():
            raise ValueError(f"checkpoint={str(checkpoint)!r} is a file: name a folder")
        return Folder(checkpoint, inputs)
    if not (hasattr(checkpoint, "load") and hasattr(checkpoint, "save")):
        raise ValueError(
            f"checkpoint={checkpoint!r} keeps nothing: give the path of a folder, or an "
            "object with load(like) and save(state)"
        )
    return checkpoint


def in_chunks(
    advance: Callable[[Any, int], Any],
    state: Any,
    done: Callable[[Any], int],
    total: int,
    *,
    chunk: int,
    unit: str,
    progress: bool | Callable[[int, int], None],
    checkpoint: Store | None,
    inputs: PyTree = (),
) -> Any:
    """A loop to its end, `chunk` turns at a time, between which Ctrl-C is heard.

    Args:
        advance: `(state, until) -> state`.
        state: at the beginning.
        done: turns that a state has behind it.
        total: turns.
        chunk: turns after which progress is shown and the state is kept.
        unit: name of a turn.
        progress: see `reporter`.
        checkpoint: where the state is kept, and found if it was kept before.
        inputs: see `Folder`.
    """
    store = store_of(checkpoint, inputs)
    if store is not None:
        state = store.load(state)
    with reporter(progress, total, unit) as report:
        turn = int(done(state))
        report(turn)
        while turn < total:
            until = min(turn + max(1, chunk), total)
            state = advance(state, until)
            if store is not None:
                store.save(state)
            report(until - turn)
            turn = until
    return state
