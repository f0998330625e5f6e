"""Gradients of the energy: all of the data, or unbiased estimates from a minibatch.

    full              grad U
    minibatch         grad R + (N/B) sum_{i in batch} grad l_i
    control_variate   grad U(a) + grad (R - R(a)) + (N/B) sum_{i in batch} grad (l_i - l_i(a))
    svrg              the same, its anchor a moved to the walker every `refresh` steps

for U = R + sum_i l_i. With fresh batches the covariance of the estimate is

    C = (N^2/B) Cov_i(grad l_i)                           with replacement
    C * (N - B) / (N - 1)                                 without

where l_i stands for l_i - l_i(a) with a control variate. Batches without replacement, and
whole epochs, are read off a pseudorandom permutation of the examples that is never stored:
position p of the permutation is computed in 24 rounds, each of which reflects it about a
random centre or leaves it, by a bit both partners of the reflection share (the
swap-or-not shuffle).

Source: specification of the core, 2.5; control variates: Baker et al. 2019; svrg: Johnson &
Zhang 2013, Dubey et al. 2016; swap-or-not: Hoang, Morris & Rogaway 2012.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thermojax.dynamics.kernel import rounded
from thermojax.noise import words
from thermojax.system import System
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = [
    "ControlVariate",
    "Gradient",
    "Minibatch",
    "control_variate",
    "full",
    "minibatch",
    "svrg",
]

_ROUNDS = 24


class Gradient(Protocol):
    """An estimator of grad U; `batch` and `memory` are pytrees that a bath carries."""

    def init(self, sys: System, theta: PyTree, control: PyTree) -> PyTree:
        """Memory at the start: anchors, positions in an epoch, or ()."""
        ...

    def draw(
        self, key: Key, sys: System, theta: PyTree, control: PyTree, memory: PyTree
    ) -> tuple[PyTree, PyTree]:
        """The next batch, and the memory after it."""
        ...

    def renew(self, sys: System, control: PyTree, memory: PyTree) -> PyTree:
        """The memory after the control moved."""
        ...

    def energy(
        self, sys: System, theta: PyTree, control: PyTree, batch: PyTree, memory: PyTree
    ) -> Array:
        """Unbiased estimate of U from the batch; its gradient estimates grad U."""
        ...


def examples(sys: System) -> int:
    """Number N of examples.

    Raises:
        ValueError: the energy is not a sum over examples.
    """
    if sys.batch_fn is None:
        raise ValueError(
            "a minibatch needs an energy that is a sum over examples: build the system with "
            "tj.finite_sum or tj.from_flax, or use gradient=tj.full()"
        )
    return jnp.shape(jax.tree.leaves(sys.data)[0])[0]


def data_share(gradient: Gradient, sys: System) -> float:
    """Part of the examples that one estimate reads."""
    batch = getattr(gradient, "batch", gradient)
    return min(1.0, batch.size / examples(sys)) if isinstance(batch, Minibatch) else 1.0


def _remainder(sys: System, theta: PyTree, control: PyTree) -> Array | float:
    return 0.0 if sys.remainder_fn is None else sys.remainder_fn(theta, control)


def _sum(sys: System, theta: PyTree, control: PyTree, batch: Array) -> Array:
    """(N/B) times the energy of the examples in the batch."""
    assert sys.batch_fn is not None
    rows = jax.tree.map(lambda x: x[batch], sys.data)
    values = sys.batch_fn(theta, control, rows)
    return jnp.sum(values) * (examples(sys) / batch.shape[0])


def below(random: Array, n: int) -> Array:
    """floor(random n / 2^32): random words to integers in [0, n), n < 2^31."""
    low, high = random & jnp.uint32(0xFFFF), random >> jnp.uint32(16)
    n_low, n_high = jnp.uint32(n & 0xFFFF), jnp.uint32(n >> 16)
    cross = high * n_low + ((low * n_low) >> jnp.uint32(16))
    other = low * n_high + (cross & jnp.uint32(0xFFFF))
    return (high * n_high + (cross >> jnp.uint32(16)) + (other >> jnp.uint32(16))).astype(
        jnp.int32
    )


def permuted(key: Key, positions: Array, n: int) -> Array:
    """Entries `positions` of the key's pseudorandom permutation of range(n), int32."""
    random = words(key, 3 * _ROUNDS).reshape(3, _ROUNDS)
    centres = below(random[0], n)

    def turn(x, drawn):
        centre, factor, offset = drawn
        mirror = centre - x
        mirror = jnp.where(mirror < 0, mirror + n, mirror)
        # multiply-shift hashing of what the two partners have in common
        hashed = jnp.maximum(x, mirror).astype(jnp.uint32) * (factor | 1) + offset
        return jnp.where(hashed >> jnp.uint32(31) > 0, mirror, x), None

    x = positions.astype(jnp.int32)
    return lax.scan(turn, x, (centres, random[1], random[2]), unroll=_ROUNDS)[0]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Full:
    def init(self, sys, theta, control):
        return ()

    def draw(self, key, sys, theta, control, memory):
        return (), ()

    def renew(self, sys, control, memory):
        return memory

    def energy(self, sys, theta, control, batch, memory):
        return sys.energy(theta, control)


class _Epoch(NamedTuple):
    """Place in a run of epochs: batches taken, and what the permutations derive from."""

    taken: Array
    key: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Minibatch:
    """See `minibatch`."""

    size: int
    replace: bool
    shuffle: str | None

    def init(self, sys, theta, control):
        """See `Gradient`."""
        self.check(sys)
        if self.shuffle is None:
            return ()
        return _Epoch(jnp.uint32(0), jnp.zeros(2, jnp.uint32))

    def check(self, sys):
        """Raise ValueError if the batch cannot be drawn."""
        n = examples(sys)
        if not 1 <= self.size <= n and not (self.replace and self.size >= 1):
            raise ValueError(
                f"a minibatch of {self.size} cannot be drawn from {n} examples: "
                f"use 1 <= B <= {n}, or replace=True"
            )

    def draw(self, key, sys, theta, control, memory):
        """See `Gradient`."""
        n = examples(sys)
        if self.shuffle is not None:
            return self._next(key, n, memory)
        if self.replace:
            return below(words(key, self.size), n), memory
        return permuted(key, jnp.arange(self.size), n), memory

    def _next(self, key, n, memory):
        each = n // self.size
        place = memory.taken % jnp.uint32(each)
        fresh = jax.random.key_data(key).ravel()[:2].astype(jnp.uint32)
        seed = jnp.where(place == 0, fresh, memory.key)
        first = place.astype(jnp.int32) * self.size
        batch = permuted(
            jax.random.wrap_key_data(seed, impl="threefry2x32"),
            first + jnp.arange(self.size),
            n,
        )
        return batch, _Epoch(memory.taken + jnp.uint32(1), seed)

    def renew(self, sys, control, memory):
        """See `Gradient`."""
        return memory

    def energy(self, sys, theta, control, batch, memory):
        """See `Gradient`."""
        return _sum(sys, theta, control, batch) + _remainder(sys, theta, control)


class _Anchor(NamedTuple):
    """Where the full gradient is known."""

    theta: PyTree
    energy: Array
    grad: PyTree
    age: Array


def _anchored(sys, theta, control):
    energy, grad = jax.value_and_grad(sys.energy)(theta, control)
    return _Anchor(theta, rounded(energy), grad, jnp.uint32(0))


def _against(sys, theta, control, batch, anchor):
    """U(a) + grad U(a) . (theta - a) + what the batch says beyond first order.

    Equal in value to U(a) + (N/B) sum (l_i - l_i(a)) plus a term of mean zero; its gradient
    is the control variate.
    """
    here = _sum(sys, theta, control, batch) + _remainder(sys, theta, control)
    there, slope = jax.value_and_grad(
        lambda a: _sum(sys, a, control, batch) + _remainder(sys, a, control)
    )(anchor.theta)
    there, slope = lax.stop_gradient((there, slope))
    tilt = sum(
        jnp.sum((g - s) * (x - a))
        for g, s, x, a in zip(
            *(jax.tree.leaves(t) for t in (anchor.grad, slope, theta, anchor.theta)),
            strict=True,
        )
    )
    return anchor.energy + (here - there) + tilt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ControlVariate:
    """See `control_variate`."""

    anchor: Any
    batch: Minibatch

    def init(self, sys, theta, control):
        """See `Gradient`."""
        self.batch.check(sys)
        return _anchored(sys, self.anchor, control)

    def draw(self, key, sys, theta, control, memory):
        """See `Gradient`."""
        batch, _ = self.batch.draw(key, sys, theta, control, ())
        return batch, memory

    def renew(self, sys, control, memory):
        """See `Gradient`."""
        return _anchored(sys, memory.theta, control)

    def energy(self, sys, theta, control, batch, memory):
        """See `Gradient`."""
        return _against(sys, theta, control, batch, memory)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Svrg:
    refresh: Any
    batch: Minibatch

    def init(self, sys, theta, control):
        self.batch.check(sys)
        return _anchored(sys, theta, control)

    def draw(self, key, sys, theta, control, memory):
        memory = memory._replace(age=memory.age + jnp.uint32(1))
        due = lambda m: m.age >= jnp.asarray(self.refresh, jnp.uint32)
        # a loop of no or one turn: a conditional would run both branches under vmap
        memory = lax.while_loop(due, lambda m: _anchored(sys, theta, control), memory)
        batch, _ = self.batch.draw(key, sys, theta, control, ())
        return batch, memory

    def renew(self, sys, control, memory):
        return _anchored(sys, memory.theta, control)._replace(age=memory.age)

    def energy(self, sys, theta, control, batch, memory):
        return _against(sys, theta, control, batch, memory)


def full() -> Gradient:
    """The exact gradient: every example at every step."""
    return _Full()


def minibatch(size: int, *, replace: bool = False, shuffle: str | None = None) -> Minibatch:
    """An unbiased gradient from `size` examples.

    Args:
        size: examples B per step.
        replace: draw with replacement; noise larger by (N - 1) / (N - B).
        shuffle: "epoch" to go through a fresh permutation of the data every N // B steps.
            Each batch is still a fair sample, but the noise of successive steps is
            anticorrelated: the covariance formula holds for one step, not for their sum.

    Raises:
        ValueError: a size below one, an unknown `shuffle`, or both options at once; and,
            once the system is known, more examples than there are.
    """
    if size < 1:
        raise ValueError(f"a minibatch of {size} examples is empty: use size >= 1")
    if shuffle not in (None, "epoch"):
        raise ValueError(f"shuffle={shuffle!r} is unknown: use None or 'epoch'")
    if shuffle and replace:
        raise ValueError("shuffle='epoch' draws without replacement: leave replace=False")
    return Minibatch(int(size), replace, shuffle)


def control_variate(anchor: PyTree, size: int, *, replace: bool = False) -> ControlVariate:
    """A minibatch gradient of what the energy does beyond its known slope at `anchor`.

    Its noise vanishes at the anchor (best: a minimiser of U) and grows with the distance
    from it. Costs two minibatch gradients per step, and one full gradient at the start.

    Args:
        anchor: pytree like theta.
        size: examples B per step.
        replace: draw with replacement.
    """
    batch = minibatch(size, replace=replace)
    return ControlVariate(jax.tree.map(jnp.asarray, anchor), batch)


def svrg(size: int, *, refresh: ArrayLike = 100, replace: bool = False) -> Gradient:
    """A control variate whose anchor is moved to the walker every `refresh` steps.

    Args:
        size: examples B per step.
        refresh: steps between two full gradients.
        replace: draw with replacement.

    Raises:
        ValueError: refresh below one.
    """
    if is_concrete(refresh) and np.any(np.less(refresh, 1)):
        raise ValueError(f"refresh={refresh} must be at least 1 step")
    batch = minibatch(size, replace=replace)
    return _Svrg(jnp.asarray(refresh, jnp.uint32), batch)
