"""Chains around an anchor: how far the loss rises above it, and where the walkers go.

    excess   U(w) - U(w*), on the walker's own batch where it has one
    distance |w - w*|^2

A batch tells the difference far better than either energy: what all batches share drops
out. U(w*) itself is taken over all data.

Source: derived here; paired baselines after the project's own measurements.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermojax.adaptation import adapt
from thermojax.basin import Curvature
from thermojax.checkpoints import within
from thermojax.dynamics.kernel import Kernel, absent
from thermojax.dynamics.langevin import hmc
from thermojax.ensembles import EnsembleState, init_ensemble, run
from thermojax.progress import reporter
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "ROUNDS",
    "Anchor",
    "energies_at",
    "gaps",
    "jittered_mala",
    "sample_chains",
    "scattered",
    "seen_from",
    "squared_noise",
    "start_params",
    "stiffest",
]

KEPT = 400
ROUNDS = 25
BLOCKS = 32


def jittered_mala(sys: System) -> Kernel:
    """MALA whose step is drawn anew for every move, between a tenth of itself and twice.

    Degenerate minima are stiff in places and soft in others: with one step for all, chains
    enter the stiff places and stay there.

    Args:
        sys: the system.
    """
    return hmc(sys, n_inner=1, jitter=0.9)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Anchor:
    """The anchor, its energy, and its energies per example where batches are drawn."""

    theta: PyTree
    energy: Array
    each: PyTree
    control: PyTree


class _Seen(NamedTuple):
    """What is averaged: U - U(w*), paired on the walker's own batch, and |w - w*|^2."""

    position: PyTree
    energy: Array
    distance2: Array


def _observe(inner: Callable, sys: System, anchor: Anchor, state: Any) -> _Seen:
    sample = inner(state)
    theta: PyTree = sample.position
    batch: Any = getattr(sample, "batch", ())
    excess = sample.energy - anchor.energy
    if not absent(batch):
        assert sys.batch_fn is not None
        rows = jax.tree.map(lambda x: x[batch], sys.data)
        rise = sys.batch_fn(theta, anchor.control, rows) - anchor.each[batch]
        excess = jnp.sum(rise) * (anchor.each.shape[0] / batch.shape[0])
        rest = sys.remainder_fn
        if rest is not None:
            excess = excess + rest(theta, anchor.control) - rest(anchor.theta, anchor.control)
    squares = jax.tree.map(lambda x, a: jnp.sum((x - a) ** 2), theta, anchor.theta)
    return _Seen(theta, excess, sum(jax.tree.leaves(squares)))


def _pair(seen: _Seen) -> tuple[Array, Array]:
    return seen.energy, seen.distance2


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Accumulator of the mean excess over each of `BLOCKS` stretches of a run."""

    n_steps: int

    def init(self, sample):
        zeros = jnp.zeros((BLOCKS,), sample.energy.dtype)
        return jnp.zeros((), jnp.int32), zeros, zeros

    def update(self, acc, sample):
        step, total, count = acc
        # in floats: the product of two integers would overflow in long runs
        place = (step.astype(total.dtype) * (BLOCKS / self.n_steps)).astype(jnp.int32)
        place = jnp.minimum(place, BLOCKS - 1)
        return step + 1, total.at[place].add(sample.energy), count.at[place].add(1)

    def merge(self, a, b):
        return a[0] + b[0], a[1] + b[1], a[2] + b[2]

    def finalize(self, acc):
        return acc[1] / acc[2]


@dataclasses.dataclass(frozen=True)
class _Least:
    """Accumulator of the smallest excess."""

    def init(self, sample):
        return jnp.full((), jnp.inf, sample.energy.dtype)

    def update(self, acc, sample):
        return jnp.minimum(acc, sample.energy)

    def merge(self, a, b):
        return jnp.minimum(a, b)

    def finalize(self, acc):
        return acc


@jax.jit
def energies_at(sys: System, theta: PyTree, control: PyTree) -> tuple[Array, PyTree]:
    """U(w*), and the energies of the examples where U is a sum over them."""
    each = () if sys.batch_fn is None else sys.per_example(theta, control)
    return sys.energy(theta, control), each


@jax.jit
def gaps(sys: System, anchor: Anchor, positions: PyTree) -> Array:
    """[R] U(w) - U(w*) over all data."""
    one = lambda theta: sys.energy(theta, anchor.control) - anchor.energy
    return jax.lax.map(one, positions)


@jax.jit
def squared_noise(sys: System, walkers: Any, control: PyTree) -> Array:
    """Mean over walkers of |g - grad U|^2 with the gradient estimates at hand."""

    def one(args):
        theta, estimate = args
        exact = jax.grad(sys.energy)(theta, control)
        gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), estimate, exact)
        return sum(jax.tree.leaves(gaps))

    return jnp.mean(jax.lax.map(one, (walkers.position, walkers.energy_grad)))


def seen_from(kernel: Kernel, sys: System, anchor: Anchor) -> Kernel:
    """The same kernel, observed as excess energy and distance."""
    seen = jax.tree_util.Partial(_observe, kernel.observe, sys, anchor)
    return kernel._replace(observe=seen)


def start_params(bath: Kernel, basin: Curvature, step_size: ArrayLike | None) -> Any:
    """Half a unit of the spread for kernels that will adapt, a tenth of 1/stiffest else."""
    if not hasattr(bath.params, "step_size"):
        return bath.params
    if step_size is None:
        step_size = 0.5 if bath.meta.exact else 0.1 / stiffest(basin)
    return bath.params._replace(step_size=jnp.asarray(step_size, bath.params.step_size.dtype))


def stiffest(basin: Curvature) -> float:
    """Largest curvature of u, or 1 where there is none."""
    return basin.stiffest if basin.stiffest > 0 and math.isfinite(basin.stiffest) else 1.0


def scattered(key: Key, anchor: PyTree, stiffest: float, count: int) -> PyTree:
    """`count` starts about the anchor, at the spread of its stiffest direction."""
    flat, unravel = ravel_pytree(anchor)
    noise = jax.random.normal(key, (count, flat.size), flat.dtype)
    return jax.vmap(unravel)(flat + noise / math.sqrt(stiffest))


def _relay(report: Callable[[int], None]) -> Callable[[int, int], None]:
    """(done, total) callbacks of one stage as increments of the whole."""
    seen = 0

    def call(done: int, total: int) -> None:
        nonlocal seen
        report(done - seen)
        seen = done

    return call


def sample_chains(
    bath: Kernel,
    keys: Key,
    point: Point,
    starts: PyTree,
    params: Any,
    adapting: bool,
    n_steps: int,
    burn_in: int,
    tile: int | None,
    progress: Any,
    checkpoint: Path | str | None,
) -> tuple[dict[str, Any], EnsembleState, Any]:
    """Warm-up, then the run; its adaptation is not kept, but comes out the same again."""
    every, kept = -(-n_steps // KEPT), min(n_steps, KEPT)
    n_chains = jax.tree.leaves(starts)[0].shape[0]
    st = init_ensemble(bath, keys[0], point, n_chains, tile, positions=starts)
    with reporter(progress, burn_in + every * kept, "steps") as report:
        rest = burn_in
        if adapting:
            bath = bath._replace(params=params)
            half = burn_in // 2 // ROUNDS * ROUNDS
            st, found = adapt(
                bath, keys[1], st, point, half, rounds=ROUNDS, progress=_relay(report)
            )
            params, rest = found.params, burn_in - half
        st, _ = run(
            bath,
            keys[1],
            st,
            point,
            rest,
            params=params,
            ledger="none",
            progress=_relay(report),
            checkpoint=within(checkpoint, "warm_up"),
        )
        st, out = run(
            bath,
            keys[1],
            st,
            point,
            every * kept,
            params=params,
            accumulate={"excess": _Blocks(every * kept), "least": _Least()},
            every=every,
            trace=_pair,
            ledger="none",
            progress=_relay(report),
            chunk=every * max(1, kept // 8),
            checkpoint=within(checkpoint, "run"),
        )
    return out, st, params
