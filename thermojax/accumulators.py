"""Streaming accumulators: a million steps in constant memory.

An accumulator is a small frozen object with four pure functions

    init(sample) -> acc      update(acc, sample) -> acc
    merge(acc, acc) -> acc   finalize(acc) -> result

that work under jit, vmap and scan. `of` says which number of the sample it reads; the
default is the energy U. Two objects with equal settings are equal, so that asking for
`moments()` twice does not compile twice.

Source: specification of the core, sections 4 and 6.1 (derived here); dyadic errors after
Flyvbjerg & Petersen 1989.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, PyTree

__all__ = [
    "Accumulator",
    "Compensated",
    "compensated_add",
    "dyadic",
    "histogram",
    "log_mean_exp",
    "moments",
    "two_diff",
    "two_sum",
]


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b = hi + lo exactly, with hi the rounded sum (Knuth)."""
    hi = a + b
    part = hi - a
    return hi, (a - (hi - part)) + (b - part)


def two_diff(a: Array, b: Array) -> tuple[Array, Array]:
    """a - b = hi + lo exactly, with hi the rounded difference."""
    return two_sum(a, -b)


class Compensated(NamedTuple):
    """A running sum hi + lo whose rounding errors are fed back."""

    hi: Array
    lo: Array

    @property
    def value(self) -> Array:
        """The sum, rounded once."""
        return self.hi + self.lo


def compensated_add(total: Compensated, term: ArrayLike) -> Compensated:
    """Add one term, renormalising so that `lo` stays below half an ulp of `hi`."""
    hi, error = two_sum(total.hi, jnp.asarray(term, total.hi.dtype))
    hi, lo = two_sum(hi, total.lo + error)
    return Compensated(hi, lo)


class Accumulator(Protocol):
    """What `run` asks of an accumulator."""

    def init(self, sample: Any) -> PyTree:
        """Empty accumulator for samples of this shape."""
        ...

    def update(self, acc: Any, sample: Any) -> PyTree:
        """Take in one sample."""
        ...

    def merge(self, a: Any, b: Any) -> PyTree:
        """The accumulator of both sets of samples."""
        ...

    def finalize(self, acc: Any) -> PyTree:
        """What the samples say."""
        ...


def _read(of: Callable | None, sample: Any) -> PyTree:
    return sample.energy if of is None else of(sample)


class Moments(NamedTuple):
    """Finalised moments of one observable (any pytree of arrays).

    Attributes:
        count: int32 number of samples.
        mean: sample mean.
        variance: unbiased sample variance (nan for fewer than two samples).
        third: third central moment, where asked for, else ().
        fourth: fourth central moment, where asked for, else ().
    """

    count: Array
    mean: PyTree
    variance: PyTree
    third: PyTree = ()
    fourth: PyTree = ()


class _MomentSums(NamedTuple):
    count: Array
    shift: PyTree
    mean: PyTree
    m2: PyTree
    m3: PyTree
    m4: PyTree


def _merge_central(na, nb, a, b):
    """Chan-Golub-LeVeque merge of (mean, M2, M3, M4) of two sets."""
    n = jnp.maximum(na + nb, 1)
    delta = b[0] - a[0]
    ratio = nb / n
    mean = a[0] + delta * ratio
    m2 = a[1] + b[1] + delta**2 * na * ratio
    m3 = (
        a[2]
        + b[2]
        + delta**3 * na * ratio * (na - nb) / n
        + 3 * delta * (na * b[1] - nb * a[1]) / n
    )
    m4 = (
        a[3]
        + b[3]
        + delta**4 * na * ratio * (na**2 - na * nb + nb**2) / n**2
        + 6 * delta**2 * (na**2 * b[1] + nb**2 * a[1]) / n**2
        + 4 * delta * (na * b[2] - nb * a[2]) / n
    )
    return mean, m2, m3, m4


@dataclasses.dataclass(frozen=True)
class _Moments:
    of: Callable | None
    order: int

    def init(self, sample):
        zero = jax.tree.map(lambda x: jnp.zeros_like(jnp.asarray(x, float)), self._x(sample))
        pair = jax.tree.map(lambda z: Compensated(z, z), zero)
        high = pair if self.order > 2 else ()
        return _MomentSums(jnp.zeros((), jnp.int32), zero, pair, pair, high, high)

    def _x(self, sample):
        return _read(self.of, sample)

    def update(self, acc, sample):
        """Welford's update about the first sample, every sum compensated."""
        x = self._x(sample)
        first = acc.count == 0
        shift = jax.tree.map(lambda s, v: jnp.where(first, v, s), acc.shift, x)
        old = acc.count
        is_pair = lambda t: isinstance(t, Compensated)
        if self.order == 2:

            def two(s, v, mean, m2):
                n = (old + 1).astype(s.dtype)
                delta = (v - s) - mean.value
                mean = compensated_add(mean, delta / n)
                return mean, compensated_add(m2, delta * ((v - s) - mean.value))

            out = jax.tree.map(two, shift, x, acc.mean, acc.m2, is_leaf=is_pair)
            mean, m2 = _unzip(out, shift, 2)
            return _MomentSums(old + 1, shift, mean, m2, (), ())

        def four(s, v, *sums):
            na, nb = old.astype(s.dtype), jnp.ones((), s.dtype)
            one = ((v - s), jnp.zeros_like(s), jnp.zeros_like(s), jnp.zeros_like(s))
            now = tuple(p.value for p in sums)
            new = _merge_central(na, nb, now, one)
            return tuple(
                compensated_add(p, b - a) for p, a, b in zip(sums, now, new, strict=True)
            )

        out = jax.tree.map(four, shift, x, acc.mean, acc.m2, acc.m3, acc.m4, is_leaf=is_pair)
        return _MomentSums(old + 1, shift, *_unzip(out, shift, 4))

    def merge(self, a, b):
        keep = a.count > 0

        def one(sa, sb, *sums):
            half = len(sums) // 2
            shift = jnp.where(keep, sa, sb)
            pad = [jnp.zeros_like(sa)] * (4 - half)
            left = [p.value for p in sums[:half]] + pad
            right = [p.value for p in sums[half:]] + pad
            left[0] = left[0] + (sa - shift)
            right[0] = right[0] + (sb - shift)
            na, nb = a.count.astype(sa.dtype), b.count.astype(sa.dtype)
            merged = _merge_central(na, nb, left, right)[:half]
            return (shift, *(Compensated(m, jnp.zeros_like(m)) for m in merged))

        is_pair = lambda t: isinstance(t, Compensated)
        names = ("mean", "m2") if self.order == 2 else ("mean", "m2", "m3", "m4")
        trees = [getattr(t, name) for t in (a, b) for name in names]
        out = jax.tree.map(one, a.shift, b.shift, *trees, is_leaf=is_pair)
        shift, *sums = _unzip(out, a.shift, 1 + len(names))
        sums += [()] * (4 - len(names))
        return _MomentSums(a.count + b.count, shift, *sums)

    def finalize(self, acc):
        is_pair = lambda t: isinstance(t, Compensated)
        value = lambda tree: jax.tree.map(lambda p: p.value, tree, is_leaf=is_pair)
        mean = jax.tree.map(lambda s, m: s + m.value, acc.shift, acc.mean, is_leaf=is_pair)
        n = acc.count
        bad = lambda m, least: jnp.where(n > least, m, jnp.nan)
        variance = jax.tree.map(
            lambda m: bad(m / jnp.maximum(n - 1, 1).astype(m.dtype), 1), value(acc.m2)
        )
        if self.order == 2:
            return Moments(n, mean, variance)
        central = lambda tree: jax.tree.map(
            lambda m: bad(m / jnp.maximum(n, 1).astype(m.dtype), 0), value(tree)
        )
        return Moments(n, mean, variance, central(acc.m3), central(acc.m4))


def _unzip(tree, like, count):
    """A tree of `count`-tuples into a tuple of trees shaped as `like`."""
    parts = jax.tree.structure(like).flatten_up_to(tree)
    return tuple(
        jax.tree.unflatten(jax.tree.structure(like), [p[i] for p in parts])
        for i in range(count)
    )


def moments(of: Callable | None = None, *, order: int = 2) -> _Moments:
    """Mean and central moments of an observable, in one pass.

    Args:
        of: `sample -> array or pytree`; the energy U by default.
        order: 2 for mean and variance, 4 also for third and fourth central moments.

    Example:
        >>> acc = moments(of=lambda x: x)
        >>> state = acc.init(jnp.zeros(()))
        >>> for x in (1.0, 2.0, 6.0):
        ...     state = acc.update(state, jnp.asarray(x))
        >>> [float(v) for v in acc.finalize(state)[1:3]]
        [3.0, 7.0]
    """
    if order not in (2, 4):
        raise ValueError(f"moments go to order 2 or 4, got order={order}")
    return _Moments(of, order)


class LogMeanExp(NamedTuple):
    """log of the mean of exp(x), and the effective sample size of the weights."""

    value: Array
    n_eff: Array
    count: Array


class _LogSums(NamedTuple):
    count: Array
    top: Array
    first: Array
    second: Array


@dataclasses.dataclass(frozen=True)
class _LogMeanExp:
    of: Callable | None

    def init(self, sample):
        x = jnp.asarray(_read(self.of, sample), float)
        zero = jnp.zeros_like(x)
        return _LogSums(jnp.zeros((), jnp.int32), jnp.full_like(x, -jnp.inf), zero, zero)

    def update(self, acc, sample):
        x = jnp.asarray(_read(self.of, sample), acc.top.dtype)
        one = jnp.ones_like(x)
        return self.merge(acc, _LogSums(jnp.ones((), jnp.int32), x, one, one))

    def merge(self, a, b):
        top = jnp.maximum(a.top, b.top)
        safe = jnp.where(jnp.isfinite(top), top, 0.0)
        wa, wb = jnp.exp(a.top - safe), jnp.exp(b.top - safe)
        return _LogSums(
            a.count + b.count,
            top,
            a.first * wa + b.first * wb,
            a.second * wa**2 + b.second * wb**2,
        )

    def finalize(self, acc):
        count = acc.count.astype(acc.top.dtype)
        value = acc.top + jnp.log(acc.first) - jnp.log(count)
        return LogMeanExp(value, acc.first**2 / acc.second, acc.count)


def log_mean_exp(of: Callable | None = None) -> _LogMeanExp:
    """log <exp(x)> over the samples, shifted by the running maximum.

    Args:
        of: `sample -> x`; the energy by default, which is rarely what is wanted: pass
            `of=lambda s: -s.energy` for a free-energy perturbation.
    """
    return _LogMeanExp(of)


class Dyadic(NamedTuple):
    """Error bar of a correlated mean from block averages.

    Attributes:
        mean: sample mean.
        stderr: standard error at the plateau over block sizes.
        iact: integrated autocorrelation time in steps, n stderr^2 / variance.
        n_eff: n / iact.
        plateau: False where the error still grows at the largest usable block.
        by_level: [levels] standard error by block size 2^j (nan where too few blocks).
    """

    mean: Array
    stderr: Array
    iact: Array
    n_eff: Array
    plateau: Array
    by_level: Array


class _DyadicSums(NamedTuple):
    count: Array
    shift: Array
    pending: Array
    waiting: Array
    blocks: Array
    mean: Array
    m2: Array


@dataclasses.dataclass(frozen=True)
class _Dyadic:
    of: Callable | None
    levels: int

    def init(self, sample):
        x = jnp.asarray(_read(self.of, sample), float)
        if x.ndim:
            raise ValueError(f"dyadic errors need a scalar observable, got shape {x.shape}")
        zeros = jnp.zeros((self.levels,), x.dtype)
        blocks = jnp.zeros((self.levels,), jnp.int32)
        none = jnp.zeros((self.levels,), bool)
        return _DyadicSums(jnp.zeros((), jnp.int32), x * 0, zeros, none, blocks, zeros, zeros)

    def update(self, acc, sample):
        x = jnp.asarray(_read(self.of, sample), acc.shift.dtype)
        shift = jnp.where(acc.count == 0, x, acc.shift)
        value, arrived = x - shift, jnp.ones((), bool)
        pending, half, reached = [], [], []
        for level in range(self.levels):
            reached.append((value, arrived))
            waiting = acc.waiting[level]
            pair = (acc.pending[level] + value) / 2
            keep = arrived & ~waiting
            pending.append(jnp.where(keep, value, acc.pending[level]))
            half.append(waiting ^ arrived)
            value, arrived = pair, arrived & waiting
        values = jnp.stack([v for v, _ in reached])
        here = jnp.stack([a for _, a in reached])
        blocks = acc.blocks + here.astype(jnp.int32)
        delta = values - acc.mean
        mean = acc.mean + jnp.where(here, delta / jnp.maximum(blocks, 1), 0.0)
        m2 = acc.m2 + jnp.where(here, delta * (values - mean), 0.0)
        pending, half = jnp.stack(pending), jnp.stack(half)
        return _DyadicSums(acc.count + 1, shift, pending, half, blocks, mean, m2)

    def merge(self, a, b):
        """Blocks of both; samples still pending at a level count at the lower levels."""
        shift = jnp.where(a.count > 0, a.shift, b.shift)
        ma, mb = a.mean + (a.shift - shift), b.mean + (b.shift - shift)
        ma, mb = jnp.where(a.blocks > 0, ma, 0.0), jnp.where(b.blocks > 0, mb, 0.0)
        zero = jnp.zeros_like(ma)
        na, nb = a.blocks.astype(ma.dtype), b.blocks.astype(ma.dtype)
        mean, m2, *_ = _merge_central(na, nb, (ma, a.m2, zero, zero), (mb, b.m2, zero, zero))
        # half blocks of `b` are dropped where `a` has begun; its own go on
        begun = a.count > 0
        pending = jnp.where(begun, a.pending, b.pending)
        waiting = jnp.where(begun, a.waiting, b.waiting)
        blocks = a.blocks + b.blocks
        return _DyadicSums(a.count + b.count, shift, pending, waiting, blocks, mean, m2)

    def finalize(self, acc, least: int = 64):
        n = acc.blocks.astype(acc.mean.dtype)
        variance = acc.m2 / jnp.maximum(n - 1, 1)
        by_level = jnp.where(n >= 2, jnp.sqrt(variance / jnp.maximum(n, 1)), jnp.nan)
        usable = n >= least
        stderr = jnp.max(jnp.where(usable, by_level, 0.0))
        stderr = jnp.where(jnp.any(usable), stderr, by_level[0])
        last = jnp.maximum(jnp.sum(usable) - 1, 0)
        before = by_level[jnp.maximum(last - 2, 0)]
        noise = by_level[last] / jnp.sqrt(2 * jnp.maximum(n[last] - 1, 1))
        plateau = (last >= 2) & (by_level[last] - before < 2 * noise)
        count = acc.count.astype(acc.mean.dtype)
        iact = jnp.maximum(count * stderr**2 / variance[0], 1 / count)
        return Dyadic(acc.shift + acc.mean[0], stderr, iact, count / iact, plateau, by_level)


def dyadic(of: Callable | None = None, *, levels: int = 24) -> _Dyadic:
    """Standard error and autocorrelation time of a chain, in O(levels) memory.

    Batch means at block sizes 2^j; the error bar is the largest over blocks of which
    there are at least 64 (Flyvbjerg & Petersen 1989).

    Args:
        of: `sample -> scalar`; the energy U by default.
        levels: number of block sizes.
    """
    return _Dyadic(of, levels)


class Histogram(NamedTuple):
    """Counts between `edges`, with what fell below and above."""

    counts: Array
    below: Array
    above: Array


@dataclasses.dataclass(frozen=True)
class _Histogram:
    edges: tuple[float, ...]
    of: Callable | None

    def init(self, sample):
        return jnp.zeros((len(self.edges) + 1,), jnp.int32)

    def update(self, acc, sample):
        x = jnp.ravel(jnp.asarray(_read(self.of, sample)))
        bins = jnp.searchsorted(jnp.asarray(self.edges, x.dtype), x, side="right")
        return acc.at[bins].add(1)

    def merge(self, a, b):
        return a + b

    def finalize(self, acc):
        return Histogram(acc[..., 1:-1], acc[..., 0], acc[..., -1])


def histogram(edges: ArrayLike, of: Callable | None = None) -> _Histogram:
    """Counts of an observable between increasing edges; arrays count every element.

    Args:
        edges: [B + 1] increasing.
        of: `sample -> array`; the energy U by default.

    Raises:
        ValueError: edges that do not increase.
    """
    values = np.asarray(edges, float)
    if values.ndim != 1 or len(values) < 2 or not np.all(np.diff(values) > 0):
        raise ValueError(f"histogram edges must be an increasing vector, got {edges}")
    return _Histogram(tuple(float(v) for v in values), of)
