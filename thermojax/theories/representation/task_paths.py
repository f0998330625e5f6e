"""Paths from a source to a target task, as samplers of weighted batches.

    mixture         p_t = (1 - t) p_source + t p_target,   J_t = (1 - t) J_source + t J_target
    displacement    x_ij(t) = (1 - t) x_i + t x_j with weight P_ij and label weights
                    (1 - t) on y_i, t on y_j

Samplers are differentiable in t: jvp in t of the loss of a batch is the task's force F_t.

Source: Gao & Chaudhari 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.quantities import Batch
from thermojax.theories.representation.transport import Coupling
from thermojax.typing import Array, ArrayLike, Key, ShapeError, is_concrete

__all__ = ["displacement_path", "mixture_path"]

Sampler = Callable[..., Batch]


def _data(name: str, batch: Batch) -> tuple[Array, Array, Array | None]:
    x, y = jnp.asarray(batch.x), jnp.asarray(batch.y)
    weight = None if batch.weight is None else jnp.asarray(batch.weight)
    if not x.ndim or not x.shape[0] or y.ndim not in (1, 2) or y.shape[0] != x.shape[0]:
        raise ShapeError(
            f"{name} has x {x.shape} and y {y.shape}; give a label for each example"
        )
    if weight is None:
        return x, y, None
    if weight.shape != x.shape[:1]:
        raise ShapeError(f"{name} has weight {weight.shape}; give one for each of {x.shape[0]}")
    if is_concrete(batch.weight):
        seen = np.asarray(batch.weight)
        total, least = float(np.sum(seen)), float(np.min(seen))
        if not abs(total - 1) < 1e-4 or least < 0:
            raise ValueError(
                f"weights of {name} sum to {total:g} with least {least:g}; give weights >= 0 "
                "that sum to 1"
            )
    return x, y, weight


def _label_weights(
    y_src: Array, y_tgt: Array, num_classes: int | None, dtype: jnp.dtype
) -> tuple[Array, Array]:
    """[n, n_y] label weights of both sides, from whole numbers or as given."""
    widths = {y.shape[1] for y in (y_src, y_tgt) if y.ndim == 2}
    if num_classes is None and not widths:
        if not is_concrete((y_src, y_tgt)):
            raise ValueError("num_classes is None and the labels are traced; give num_classes")
        num_classes = 1 + max(int(np.max(y)) for y in (y_src, y_tgt))
    widths |= {num_classes} if num_classes is not None else set()
    if len(widths) > 1:
        raise ShapeError(
            f"label weights have widths {sorted(widths)}; give one number of classes"
        )
    width = widths.pop()
    for y in (y_src, y_tgt):
        if y.ndim == 1 and is_concrete(y) and not 0 <= np.min(y) <= np.max(y) < width:
            raise ValueError(
                f"labels run to {np.max(y)}; give whole numbers from 0 to {width - 1}"
            )
    src, tgt = (
        jax.nn.one_hot(y, width, dtype=dtype) if y.ndim == 1 else y for y in (y_src, y_tgt)
    )
    return src, tgt


def _floating(x: Array) -> jnp.dtype:
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.result_type(float)


def _time(t: ArrayLike, dtype: jnp.dtype) -> Array:
    if is_concrete(t) and not 0 <= float(np.asarray(t)) <= 1:
        raise ValueError(f"t is {t}; the path runs from 0 to 1")
    return jnp.asarray(t, dtype)


def _drawn(key: Key, weight: Array | None, count: int, batch_size: int) -> Array:
    """Indices by weight; each at most once where weights are uniform and there are enough."""
    if weight is None:
        return jax.random.choice(key, count, (batch_size,), replace=batch_size > count)
    return jax.random.choice(key, count, (batch_size,), p=weight)


def _two_keys(key: Key | None, batch_size: int) -> tuple[Key, Key]:
    if batch_size < 1:
        raise ValueError(
            f"batch_size is {batch_size}; give 1 or more, or None for all examples"
        )
    if key is None:
        raise ValueError(f"key is None; drawing {batch_size} examples needs one")
    first, second = jax.random.split(key)
    return first, second


def _all(
    x: Array, y: Array, weight: Array | None, dtype: jnp.dtype
) -> tuple[Array, Array, Array]:
    count = x.shape[0]
    return x, y, jnp.full((count,), 1 / count, dtype) if weight is None else weight


def _some(
    x: Array, y: Array, weight: Array | None, key: Key, batch_size: int, dtype: jnp.dtype
) -> tuple[Array, Array, Array]:
    chosen = _drawn(key, weight, x.shape[0], batch_size)
    return x[chosen], y[chosen], jnp.full((batch_size,), 1 / batch_size, dtype)


def mixture_path(source: Batch, target: Batch, *, num_classes: int | None = None) -> Sampler:
    """Sampler of p_t = (1 - t) p_source + t p_target.

    A batch is `batch_size` examples of either side, with weights (1 - t)/batch_size and
    t/batch_size; never a toss-up of the side. Its loss is affine in t, with force
    F_t = J_target - J_source.

    Args:
        source: examples at t = 0; weights are probabilities of drawing, None is uniform and
            then nobody is drawn twice if there are enough.
        target: examples at t = 1.
        num_classes: width of label weights, needed only if labels are whole numbers on one
            side, weights on the other, and neither tells.

    Returns:
        sampler(key, t, batch_size) -> `Batch` of 2 `batch_size` rows, source first. With
        `batch_size` None it is all examples of both sides with their weights, and key may be
        None. `batch_size` is static; differentiable in t.

    Raises:
        ValueError: if shapes do not fit, weights do not sum to 1, or t is outside [0, 1].

    Source:
        Gao & Chaudhari 2020, the released experiment.

    Example:
        >>> side = Batch(jnp.zeros((3, 2)), jnp.zeros(3, int))
        >>> batch = mixture_path(side, side)(jax.random.key(0), 0.25, 1)
        >>> batch.weight.tolist()
        [0.75, 0.25]
    """
    x_src, y_src, w_src = _data("source", source)
    x_tgt, y_tgt, w_tgt = _data("target", target)
    if x_src.shape[1:] != x_tgt.shape[1:]:
        raise ShapeError(f"source has x {x_src.shape} and target {x_tgt.shape}; give one shape")
    if y_src.ndim != y_tgt.ndim or y_src.ndim == 2:
        y_src, y_tgt = _label_weights(y_src, y_tgt, num_classes, _floating(x_src))
    sides = ((x_src, y_src, w_src), (x_tgt, y_tgt, w_tgt))

    def sampler(key: Key | None, t: ArrayLike, batch_size: int | None = None) -> Batch:
        t = _time(t, _floating(x_src))
        if batch_size is None:
            drawn = [_all(*side, t.dtype) for side in sides]
        else:
            keys = _two_keys(key, batch_size)
            drawn = [
                _some(*side, one, batch_size, t.dtype)
                for side, one in zip(sides, keys, strict=True)
            ]
        shares = (1 - t, t)
        parts = [(x, y, s * w) for (x, y, w), s in zip(drawn, shares, strict=True)]
        x, y, weight = (jnp.concatenate(column) for column in zip(*parts, strict=True))
        return Batch(x, y, weight)

    return sampler


def _plan(coupling: ArrayLike | Coupling, shape: tuple[int, int]) -> Array:
    plan = jnp.asarray(coupling.coupling if isinstance(coupling, Coupling) else coupling)
    if plan.shape != shape:
        raise ShapeError(f"coupling has shape {plan.shape}; give one weight per pair, {shape}")
    if is_concrete(plan):
        seen = np.asarray(plan)
        total, least = float(np.sum(seen)), float(np.min(seen))
        if not abs(total - 1) < 1e-3 or least < 0:
            raise ValueError(
                f"coupling sums to {total:g} with least entry {least:g}; give a plan that "
                "converged: entries >= 0 of sum 1"
            )
    return plan


def displacement_path(
    source: Batch,
    target: Batch,
    coupling: ArrayLike | Coupling,
    *,
    num_classes: int | None = None,
) -> Sampler:
    """Sampler of the displacement path: paired examples move along straight lines.

        x_ij(t) = (1 - t) x_i + t x_j,    y_ij(t) = (1 - t) onehot(y_i) + t onehot(y_j)

    with probability P_ij: i by its row sum (each at most once where rows are uniform and there
    are enough), j by P_ij / a_i. The derivative of the loss in t is the force F_t, the motion
    of x included.

    Args:
        source: examples at t = 0, floating x; `weight` must be None, the plan carries it.
        target: examples at t = 1.
        coupling: P [n, m], sum 1, or the `Coupling` that holds it.
        num_classes: width of the label weights; None reads it off the labels.

    Returns:
        sampler(key, t, batch_size) -> `Batch` with y [B, n_y] and weight 1/B. With
        `batch_size` None it is all n m pairs with weights P_ij, and key may be None.
        `batch_size` is static; differentiable in t.

    Raises:
        ValueError: if shapes do not fit, the plan does not sum to 1, or t is outside [0, 1].

    Source:
        Gao & Chaudhari 2020.

    Example:
        >>> source = Batch(jnp.zeros((2, 1)), jnp.array([0, 0]))
        >>> target = Batch(jnp.ones((2, 1)), jnp.array([1, 1]))
        >>> sampler = displacement_path(source, target, jnp.full((2, 2), 0.25))
        >>> sampler(jax.random.key(0), 0.25, 1).y.tolist()
        [[0.75, 0.25]]
    """
    x_src, y_src, w_src = _data("source", source)
    x_tgt, y_tgt, w_tgt = _data("target", target)
    if x_src.shape[1:] != x_tgt.shape[1:]:
        raise ShapeError(f"source has x {x_src.shape} and target {x_tgt.shape}; give one shape")
    if w_src is not None or w_tgt is not None:
        raise ValueError("weights beside a coupling are ambiguous; leave weight None")
    count, other = x_src.shape[0], x_tgt.shape[0]
    plan = _plan(coupling, (count, other))
    y_src, y_tgt = _label_weights(y_src, y_tgt, num_classes, _floating(x_src))
    rows = jnp.sum(plan, axis=1)
    uniform = is_concrete(rows) and bool(np.max(np.abs(np.asarray(rows) * count - 1)) < 1e-3)

    def drawn(key: Key | None, batch_size: int) -> tuple[Array, Array]:
        first, second = _two_keys(key, batch_size)
        i = _drawn(first, None if uniform else rows, count, batch_size)
        return i, jax.random.categorical(second, jnp.log(plan[i]))

    def sampler(key: Key | None, t: ArrayLike, batch_size: int | None = None) -> Batch:
        t = _time(t, _floating(x_src))
        if batch_size is None:
            i, j = (index.ravel() for index in jnp.indices((count, other)))
            weight = plan.ravel()
        else:
            i, j = drawn(key, batch_size)
            weight = jnp.full((batch_size,), 1 / batch_size, x_src.dtype)
        x = (1 - t) * x_src[i] + t * x_tgt[j]
        return Batch(x, (1 - t) * y_src[i] + t * y_tgt[j], weight)

    return sampler
