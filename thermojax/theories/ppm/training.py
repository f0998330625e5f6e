"""Ensembles of models trained in parallel, differentiable through the training run.

    theta' = theta - eta (grad of the mean loss + decay theta) + sqrt(2 eta T) xi

G data sets times K seeds make N = G K networks: `vmap` over the data sets of the core's
`run` with K walkers each. The scan over steps is cut into segments that are recomputed when
a gradient is taken (`jax.checkpoint`), so that the memory of a gradient grows with the
square root of the number of steps.

The bookkeeping is the theory's: minibatches are the work source [paper], the injected noise
is the bath of Theta [ours]; with T = 0 the optimiser has no bath, and every quantity that
contains its heat is infinite.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.dynamics.driven import driven
from thermojax.dynamics.gradients import full, minibatch
from thermojax.dynamics.kernel import Kernel
from thermojax.ensembles import init_ensemble, run
from thermojax.system import Point, System, finite_sum
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = ["Hyperparameters", "Trained", "learner", "likelihood_system", "train"]


class Hyperparameters(NamedTuple):
    """Numbers of a training run, traced; a gradient with respect to them is pathwise.

    Attributes:
        learning_rate: eta, on the mean loss.
        temperature: T of the injected noise, in units of the mean loss; None for none. The
            square root makes the derivative at exactly T = 0 infinite.
        weight_decay: added to the slope as decay * theta; None for none.
    """

    learning_rate: ArrayLike
    temperature: ArrayLike | None = None
    weight_decay: ArrayLike | None = None


class Trained(NamedTuple):
    """Networks after training; a pytree.

    Attributes:
        params: theta, leading axes [G, K].
        trace: what was asked for, at the start and after every `every` steps, leading axes
            [n_steps / every + 1, G, K]; () if nothing was.
        flags: uint32 [G, K] bit sets of `tj.Flag`.
    """

    params: PyTree
    trace: PyTree
    flags: Array


@dataclasses.dataclass(frozen=True)
class _NegativeLogLikelihood:
    """Energy of one example; equal models share a compilation."""

    log_prob: Callable

    def __call__(self, theta, control, x):
        return -self.log_prob(theta, x)


def likelihood_system(log_prob: Callable, data: PyTree, *, prior: Any = None) -> System:
    """A model on data as a canonical ensemble: U(theta) = -sum_i log p(x_i | theta).

    Args:
        log_prob: `(theta, x) -> scalar` in nats.
        data: pytree of samples with a leading axis; (inputs, outputs) if conditional.
        prior: base measure over theta, where one is needed.

    Returns:
        A `System` for any bath of the core.

    Source: the loss as an energy is [standard].

    Example:
        >>> sys = likelihood_system(lambda theta, x: -0.5 * (x - theta) ** 2, jnp.arange(3.0))
        >>> float(sys.energy(1.0))
        1.0
    """
    return finite_sum(_NegativeLogLikelihood(log_prob), data, prior=prior)


def learner(
    log_prob: Callable,
    hyper: Hyperparameters,
    *,
    batch_size: int | None = None,
    optimizer: Callable | None = None,
) -> Callable[[PyTree], Kernel]:
    """How one network learns from its data set: a function `data -> Kernel` for `train`.

        theta' = theta + tx(grad of the mean loss + decay theta) + sqrt(2 eta T) xi

    With the default optimiser this is gradient descent, with `batch_size` SGD, with a
    temperature (stochastic-gradient) Langevin dynamics at T on the mean loss.

    Args:
        log_prob: `(theta, x) -> scalar` in nats.
        hyper: learning rate, temperature and decay; may be traced.
        batch_size: examples per step, drawn afresh without replacement; all by default.
        optimizer: `learning_rate -> optax transform`; `optax.sgd` by default.

    Raises:
        ValueError: a learning rate that is not positive, a negative temperature or decay,
            a batch that is not positive; concrete values only.

    Source: our definition; the optimiser kernel of the paper is [paper?].
    """
    _check(hyper, batch_size)
    import optax

    rate: Any = hyper.learning_rate
    decay: Any = hyper.weight_decay
    tx = (optimizer or optax.sgd)(rate)
    if decay is not None:
        tx = optax.chain(optax.add_decayed_weights(decay), tx)
    gradient = full() if batch_size is None else minibatch(batch_size)

    def kernel(data: PyTree) -> Kernel:
        sys = likelihood_system(log_prob, data)
        if hyper.temperature is None:
            return driven(tx, sys, gradient)
        # the core's temperature is that of the summed loss
        count = jnp.shape(jax.tree.leaves(data)[0])[0]
        heat = jnp.asarray(hyper.temperature) * count
        return driven(tx, sys, gradient, inject_T=heat, learning_rate=rate)

    return kernel


def _check(hyper: Hyperparameters, batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1, or None for all")
    for name, value in hyper._asdict().items():
        if value is None or not is_concrete(value):
            continue
        number = np.asarray(value)
        good = number > 0 if name == "learning_rate" else number >= 0
        if not np.all(good & np.isfinite(number)):
            least = "positive" if name == "learning_rate" else "not negative"
            raise ValueError(f"{name}={value} must be {least} and finite")


def train(
    kernel: Callable[[PyTree], Kernel],
    data: PyTree,
    params: PyTree,
    key: Key,
    n_steps: int,
    *,
    every: int | None = None,
    trace: Callable | None = None,
    segment: int | None = None,
    point: Point | None = None,
) -> Trained:
    """Train G x K networks in parallel, each group of K on a data set of its own.

    Call it under `jit`. Noise and batches are a function of (key, data set, seed, step), so
    that runs with other hyperparameters but the same key share random numbers.

    Args:
        kernel: `data -> Kernel`, such as a `learner`, or `lambda data: tj.sgld(...)` over a
            `likelihood_system`.
        data: samples with leading axes [G, n].
        params: theta at the start, leading axes [G, K].
        key: base key.
        n_steps: steps of the optimiser, static.
        every: keep a trace of every `every`-th state, and of the first; must divide
            `n_steps`.
        trace: `theta -> pytree` to keep; theta itself by default.
        segment: kept states (or steps, without a trace) between two checkpoints of a
            gradient; by default about the square root of their number.
        point: thermodynamic state of the kernels; beta = 1 by default.

    Returns:
        A `Trained`, differentiable by whatever is traced in `kernel`, `data` and `params`.

    Raises:
        ValueError: leading axes that do not fit; steps that `every` or `segment` do not
            divide.

    Source: the lagged bipartite dynamics is [paper?]; this implementation is ours.

    Example:
        >>> log_prob = lambda theta, x: -0.5 * (x - theta) ** 2
        >>> data, start = jnp.arange(6.0).reshape(2, 3), jnp.zeros((2, 1))
        >>> learn = learner(log_prob, Hyperparameters(0.5))
        >>> out = train(learn, data, start, jax.random.key(0), 20)
        >>> out.params.round(3).tolist()  # the mean of each data set
        [[1.0], [4.0]]
    """
    groups, seeds = _shape(data, params)
    stride, length, segments = _cut(n_steps, every, segment)
    point = Point(1.0) if point is None else point
    keep = (trace or (lambda theta: theta)) if every is not None else (lambda theta: ())

    def group(data, params, key):
        bath = kernel(data)
        st = init_ensemble(bath, key, point, seeds, seeds, positions=params)

        def block(carry, _):
            st, flags = carry
            st, out = run(bath, key, st, point, stride, ledger="none")
            return (st, flags | out["flags"]), jax.vmap(keep)(st.position)

        part = lambda carry, _: jax.lax.scan(block, carry, length=length)
        part = jax.checkpoint(part, prevent_cse=False)
        carry = (st, jnp.zeros(seeds, jnp.uint32))
        (st, flags), kept = jax.lax.scan(part, carry, length=segments)
        first = jax.vmap(keep)(params)
        return st.position, _joined(first, kept), flags

    keys = jax.vmap(lambda g: jax.random.fold_in(key, g))(jnp.arange(groups))
    out_axes = (0, 1, 0)  # steps before data sets
    return Trained(*jax.vmap(group, out_axes=out_axes)(data, params, keys))


def _joined(first: PyTree, kept: PyTree) -> PyTree:
    """The first state before the others, [segments, length, ...] made one axis."""

    def join(a, b):
        rest = b.reshape(-1, *b.shape[2:])
        return jnp.concatenate([a[None].astype(rest.dtype), rest])

    return jax.tree.map(join, first, kept)


def _shape(data: PyTree, params: PyTree) -> tuple[int, int]:
    """Number of data sets and of seeds."""
    shapes = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(params)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"params need common leading axes [data sets, seeds], got {sorted(shapes)}"
        )
    groups, seeds = next(iter(shapes))
    sizes = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2 or next(iter(sizes))[0] != groups:
        raise ValueError(
            f"data need common leading axes [data sets, examples] with {groups} data sets, "
            f"got {sorted(sizes)}"
        )
    return groups, seeds


def _cut(n_steps: int, every: int | None, segment: int | None) -> tuple[int, int, int]:
    """Steps per block, blocks per segment, segments."""
    stride = 1 if every is None else every
    if n_steps < 1 or stride < 1 or n_steps % stride:
        raise ValueError(f"n_steps={n_steps} must be a positive multiple of every={stride}")
    blocks = n_steps // stride
    if segment is None:
        near = math.isqrt(blocks)
        segment = next(size for size in range(near, 0, -1) if blocks % size == 0)
    if segment < 1 or blocks % segment:
        raise ValueError(f"segment={segment} must divide the {blocks} kept states or steps")
    return stride, segment, blocks // segment
