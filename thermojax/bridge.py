"""Bridge: BAR between a Gaussian fitted to a warm-up and the target itself.

    q = N(mean, cov) of canonicalised SMC particles          normalised, exact draws
    w(theta) = u(theta) + log q(theta), infinite outside the canonical domain
    log Z = log |G| + BAR(w on draws of q, w on metropolised draws of the target)

The warm-up is a small tempered SMC from the prior; its particles, canonicalised where the
system states a symmetry, give the Gaussian and the walkers of a whitened HMC. On a
single-basin posterior one step from q to the target needs about 1,000 times less work than
tempering alone at equal error.

Cost: the warm-up (a few 10^5 gradients), then n x n_runs walkers x (burn_in + draws x thin)
short trajectories; d^2 numbers up to `dense_up_to` parameters. Use it: near-Gaussian
posteriors, d up to some hundred. It lies on several basins that walkers do not cross: their
weights are then those of the warm-up's few particles, and no work value knows. So three
things are checked: that walkers forget where in the basin they began, that the value agrees
with the warm-up's own, and that runs agree. If not, MODE_LEAK or READOUTS_DISAGREE is raised
and the value is the warm-up's. A basin no warm-up particle ever saw is seen by nobody.

Source: specification of the core, section 3.3 (derived here); Bennett 1976; Meng & Wong 1996.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from thermojax.dynamics.kernel import Kernel, Stream, stream
from thermojax.dynamics.langevin import hmc
from thermojax.ensembles import auto_tile, map_tiles
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.free_energy import bar
from thermojax.estimators.mixture import t_factor
from thermojax.laplace import shape_of
from thermojax.partition import PartitionParts, smc_log_z
from thermojax.priors import Template
from thermojax.smc import SMC, Trace, tunable
from thermojax.symmetry import Symmetry
from thermojax.system import Point, System, reduced
from thermojax.typing import Array, Key, PyTree

__all__ = ["Bridge", "bridge_log_z"]

_LOG_2PI = math.log(2 * math.pi)
_QUARTER = 0.5 * math.pi  # of a period: HMC then forgets a harmonic well at once
_WARM_UP = SMC(n=128, n_runs=8, target=0.5)
_FATAL = (
    Flag.NONFINITE | Flag.IMPROPER | Flag.LADDER_UNFINISHED | Flag.RUNS_DISAGREE
) | Flag.WRONG_BLOCKS


@dataclasses.dataclass(frozen=True)
class Bridge:
    """Settings of the bridge; see the module docstring.

    Attributes:
        warm_up: tempered SMC whose particles become walkers; its `n_runs` are the
            independent runs of the bridge.
        draws: draws of the target per walker, and of the reference.
        thin: trajectories between two draws.
        burn_in: trajectories that adapt the step and are thrown away.
        dense_up_to: parameters up to which the Gaussian has a full covariance.
        kernel: `system -> Kernel` over whitened theta, metropolised; HMC of a quarter
            period by default.
        tile: walkers that move together; see `auto_tile`.
        forget: share of the variance, along any direction, that may still stem from where
            walkers began: above it they sit in several basins.
    """

    warm_up: SMC = _WARM_UP
    draws: int = 8
    thin: int = 2
    burn_in: int = 10
    dense_up_to: int = 512
    kernel: Callable[[System], Kernel] | None = None
    tile: int | None = None
    forget: float = 0.5

    def __post_init__(self):
        for name, least in (("draws", 4), ("thin", 1), ("burn_in", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if not 0 < self.forget < 1:
            raise ValueError(f"forget={self.forget} must lie between 0 and 1")


class _Frame(NamedTuple):
    """The fitted Gaussian: theta = mean + factor z, z standard normal."""

    mean: Array
    factor: Array

    def whiten(self, x: Array) -> Array:
        away = x - self.mean
        if self.factor.ndim == 1:
            return away / self.factor
        return solve_triangular(self.factor, away, lower=True)

    def unwhiten(self, z: Array) -> Array:
        moved = self.factor * z if self.factor.ndim == 1 else self.factor @ z
        return self.mean + moved

    @property
    def log_det(self) -> Array:
        diagonal = self.factor if self.factor.ndim == 1 else jnp.diagonal(self.factor)
        return jnp.sum(jnp.log(diagonal))


def _fit(x: Array, dense: bool) -> _Frame:
    """Mean and shrunk covariance of rows [N, d]."""
    n, d = x.shape
    mean = jnp.mean(x, axis=0)
    away = x - mean
    variance = jnp.sum(away**2, axis=0) / (n - 1)
    variance = jnp.maximum(variance, 1e-12 * jnp.maximum(jnp.max(variance), 1e-30))
    if not dense:
        return _Frame(mean, jnp.sqrt(variance))
    # correlations of few particles are noise: d / n of them is taken back
    keep = n / (n + d)
    scale = jnp.sqrt(variance)
    unit = away / scale
    correlation = keep * (unit.T @ unit) / (n - 1) + (1 - keep) * jnp.eye(d, dtype=x.dtype)
    return _Frame(mean, scale[:, None] * jnp.linalg.cholesky(correlation))


@dataclasses.dataclass(frozen=True)
class _WhiteEnergy:
    """u(mean + factor z), the target as a system over z."""

    template: Template

    def __call__(self, z, control, data):
        sys, point, frame = data
        return reduced(sys, self.template.unflatten(frame.unwhiten(z)), point)


def _white_system(sys: System, point: Point, frame: _Frame, template: Template) -> System:
    return System(
        energy_fn=_WhiteEnergy(template),
        batch_fn=None,
        remainder_fn=None,
        data=(sys, point, frame),
        shape=Template.of(frame.mean),
    )


def _kernel(settings: Bridge, white: System) -> Kernel:
    if settings.kernel is None:
        assert white.template is not None
        step = min(0.5, 1.2 / white.template.size**0.25)
        inner = max(3, math.ceil(_QUARTER / step))
        return hmc(white, step_size=_QUARTER / inner, n_inner=inner)
    kernel = settings.kernel(white)
    if not kernel.meta.exact or not tunable(kernel):
        raise ValueError(
            f"kernel {kernel.meta.name} cannot move the walkers of a bridge: use a "
            "metropolised one with a step size, such as tj.hmc or tj.mala"
        )
    return kernel


class _Walk(NamedTuple):
    """Draws of the target.

    Attributes:
        work: [N, M] u + log q, on the canonical image.
        mean: [N, d] mean canonical z of each walker.
        last: [N, d] canonical z of the last draw.
        acceptance: mean acceptance after the adaptation.
    """

    work: Array
    mean: Array
    last: Array
    acceptance: Array


class _Side(NamedTuple):
    """Functions of whitened theta that both ends of the bridge share."""

    sys: System
    point: Point
    frame: _Frame
    template: Template
    symmetry: Symmetry

    def theta(self, z: Array) -> PyTree:
        return self.template.unflatten(self.frame.unwhiten(z))

    def canonical(self, z: Array) -> Array:
        image = self.symmetry.canonicalize(self.theta(z))
        return self.frame.whiten(ravel_pytree(image)[0].astype(z.dtype))

    def log_q(self, z: Array) -> Array:
        return -0.5 * jnp.sum(z * z) - self.frame.log_det - 0.5 * z.size * _LOG_2PI

    def inside(self, z: Array) -> Array:
        return self.symmetry.contains(self.theta(z))

    def work(self, z: Array) -> Array:
        """u + log q of a draw of q: infinite outside the canonical domain."""
        value = reduced(self.sys, self.theta(z), self.point) + self.log_q(z)
        return jnp.where(self.inside(z) & ~jnp.isnan(value), value, jnp.inf)


def _adapt(settings: Bridge, kernel: Kernel, walkers: Any, key: Key, tile: int):
    """Trajectories that adapt one step size for all walkers; then it is frozen."""
    at = Point(jnp.ones(()))
    n = jax.tree.leaves(walkers)[0].shape[0]
    ids = jnp.arange(n, dtype=jnp.uint32)
    longest = kernel.params.step_size

    def body(k, carry):
        walkers, step_size = carry
        params = kernel.params._replace(step_size=step_size)
        here = jax.random.fold_in(key, k)
        one = lambda a: kernel.step(jax.random.fold_in(here, a[0]), a[1], at, params)
        walkers, info = map_tiles(one, (ids, walkers), tile)
        excess = jnp.mean(info.acceptance) - kernel.meta.target_acceptance
        # beyond a quarter period a longer trajectory only turns back
        step = jnp.minimum(step_size * jnp.exp(jnp.clip(1.5 * excess, -0.7, 0.3)), longest)
        return walkers, step

    return jax.lax.fori_loop(0, settings.burn_in, body, (walkers, longest))


def _walk(settings: Bridge, side: _Side, kernel: Kernel, z: Array, key: Key) -> _Walk:
    """Metropolised draws of the target from warm-up particles z [N, d]."""
    at = Point(jnp.ones(()))
    tile = settings.tile or auto_tile(kernel, z.shape[0])
    walkers = map_tiles(lambda x: kernel.init(x, at), z, tile)
    key_adapt, key_draw = jax.random.split(stream(key, Stream.MOVES))
    walkers, step_size = _adapt(settings, kernel, walkers, key_adapt, tile)
    params = kernel.params._replace(step_size=step_size)

    def one(args):
        i, walker = args
        mine = jax.random.fold_in(key_draw, i)

        def draw(carry, j):
            walker, mean = carry

            def move(k, state):
                walker, total = state
                moment = jax.random.fold_in(mine, j * settings.thin + k)
                walker, info = kernel.step(moment, walker, at, params)
                return walker, total + info.acceptance

            zero = jnp.zeros_like(walker.energy)
            walker, total = jax.lax.fori_loop(0, settings.thin, move, (walker, zero))
            place = side.canonical(walker.position)
            work = walker.energy + side.log_q(place)
            mean = mean + place / settings.draws
            return (walker, mean), (work, total / settings.thin)

        start = (walker, jnp.zeros_like(walker.position))
        steps = jnp.arange(settings.draws, dtype=jnp.uint32)
        (walker, mean), (work, acceptance) = jax.lax.scan(draw, start, steps)
        return work, mean, side.canonical(walker.position), jnp.mean(acceptance)

    ids = jnp.arange(z.shape[0], dtype=jnp.uint32)
    work, mean, last, acceptance = map_tiles(one, (ids, walkers), tile)
    return _Walk(work, mean, last, jnp.mean(acceptance))


def _memory(walk: _Walk) -> Array:
    """Largest share of the variance of z, along any direction, between walkers' means."""
    n, d = walk.mean.shape
    away = walk.mean - jnp.mean(walk.mean, axis=0)
    if d <= n:
        direction = jnp.linalg.eigh(away.T @ away)[1][:, -1]
    else:
        direction = away.T @ jnp.linalg.eigh(away @ away.T)[1][:, -1]
    spread = lambda x: jnp.var((x - jnp.mean(x, axis=0)) @ direction)
    return spread(away) / jnp.maximum(spread(walk.last), jnp.finfo(away.dtype).tiny)


def _capped(forward: Array, reverse: Array) -> Array:
    """Forward work no larger than matters: exp(-100) of what target draws reach."""
    return jnp.minimum(forward, jnp.max(reverse) + 100.0)


def _sandwich(forward: Array, reverse: Array, d: Array) -> Array:
    """Variance of BAR [.., walkers, draws] with whole walkers as units of the target."""
    a, b = jax.nn.sigmoid(d - forward), jax.nn.sigmoid(reverse - d)
    slope = jnp.sum(a * (1 - a)) + jnp.sum(b * (1 - b))
    walkers = jnp.sum(b, axis=-1).ravel()
    spread = a.size * jnp.var(a) + walkers.size * jnp.var(walkers, ddof=1)
    return spread / slope**2


class _Readout(NamedTuple):
    log_z: Array
    runs: Array
    within: Array
    between: Array
    overlap: Array
    n_eff: Array


def _read(forward: Array, reverse: Array, n_runs: int) -> _Readout:
    """log Z by BAR, pooled and by run, from work values [N, M] of both ends."""
    forward = _capped(forward, reverse)
    by_run = lambda x: x.reshape(n_runs, -1)
    each = jax.vmap(lambda f, r: bar(f, -r).value)(by_run(forward), by_run(reverse))
    whole = bar(forward.ravel(), -reverse.ravel())
    within = _sandwich(forward, reverse, whole.value)
    between = jnp.var(each, ddof=1) if n_runs > 1 else jnp.zeros_like(within)
    naive = jnp.where(within > 0, whole.stderr**2 / within, 1.0)
    return _Readout(
        -whole.value,
        -each,
        within,
        between,
        whole.parts["overlap"],
        whole.n_eff * jnp.minimum(naive, 1.0),
    )


def _ladder(side: _Side, forward: Array, walk: _Walk, reference: Array, log_z: Array) -> Trace:
    """Two rungs, reference and target, as the trace that `tj.curve` reads."""
    runs = log_z.shape[0]
    energy = lambda z: side.sys.energy(side.theta(z), side.point.control)
    rows = lambda a, b: jnp.stack([a.reshape(runs, -1), b.reshape(runs, -1)], axis=1)
    u = rows(jax.lax.map(energy, reference), jax.lax.map(energy, walk.last))
    v = rows(forward, walk.work[:, -1])
    ones = jnp.ones((runs, 2), v.dtype)
    ends = ones.at[:, 0].set(0.0)
    return Trace(
        lam=ends,
        value=v,
        energy=u,
        log_z=ends * log_z[:, None],
        acceptance=ones.at[:, 1].set(walk.acceptance),
        correlation=0 * ones,
        looks=jnp.zeros((runs, 2), jnp.int32),
        naive=0 * ones,
        drift=0 * ones,
    )


@functools.partial(jax.jit, static_argnames=("settings", "template"))
def _bridge(
    settings: Bridge, template: Template, sys: System, point: Point, key: Key, warm: Estimate
) -> Estimate:
    """Everything after the warm-up."""
    symmetry = sys.symmetry or Symmetry.identity()
    runs = settings.warm_up.n_runs
    image = jax.vmap(lambda t: ravel_pytree(symmetry.canonicalize(t))[0])
    x = image(warm.parts.samples).astype(template.dtype)
    frame = _fit(x, template.size <= settings.dense_up_to)
    side = _Side(sys, point, frame, template, symmetry)
    kernel = _kernel(settings, _white_system(sys, point, frame, template))
    z = jax.vmap(frame.whiten)(x)
    walk = _walk(settings, side, kernel, z, key)
    unit = jax.random.normal(stream(key, Stream.INIT), (settings.draws, *z.shape), z.dtype)
    tile = settings.tile or auto_tile(kernel, z.shape[0])
    forward = jax.lax.map(lambda batch: map_tiles(side.work, batch, tile), unit)
    found = _read(forward.T, walk.work, runs)
    log_order = jnp.asarray(symmetry.log_order, found.log_z.dtype)
    flags, lost = _verdict(settings, found, found.log_z + log_order, walk, warm)
    stderr = jnp.sqrt(jnp.maximum(found.within, t_factor(runs) ** 2 * found.between / runs))
    pick = lambda fallback, value: jnp.where(lost, fallback, value)
    spent = settings.burn_in + settings.draws * settings.thin
    trajectories = spent * kernel.meta.gradients_per_step + settings.draws + 2
    parts = PartitionParts(
        point=point,
        samples=jax.vmap(side.theta)(walk.last),
        log_weights=jnp.full(z.shape[0], -math.log(z.shape[0]), z.dtype),
        runs_log_z=pick(warm.parts.runs_log_z, found.runs + log_order),
        trace=_ladder(side, forward[0], walk, unit[0], found.runs),
        rungs=jnp.ones(runs, jnp.int32),
        log_mass=log_order,
        kept=(),
        readouts={"smc": warm.value, "bar": found.log_z + log_order},
        n_gradients=warm.parts.n_gradients + trajectories * z.shape[0],
    )
    return Estimate(
        pick(warm.value, found.log_z + log_order),
        pick(warm.stderr, stderr),
        pick(warm.within_stderr, jnp.sqrt(found.within)),
        pick(warm.n_eff, found.n_eff),
        flags,
        parts,
    )


def _verdict(settings: Bridge, found: _Readout, log_z: Array, walk: _Walk, warm: Estimate):
    """Flags, and whether the bridge is lost and the warm-up's value stands in for it."""
    runs = settings.warm_up.n_runs
    n = walk.work.shape[0]
    several = ~(_memory(walk) <= settings.forget)
    gap = jnp.abs(log_z - warm.value)
    apart = ~(gap <= 5 * jnp.hypot(warm.stderr, jnp.sqrt(found.within)) + 1e-4)
    overlap = ~(found.overlap > 0.03)
    ratio = found.between / runs / jnp.maximum(found.within, 1e-30)
    # chance at most 1e-4 for a ratio of chi-squares with few degrees of freedom
    disagree = (ratio > 4 * (1 + 6 / max(runs - 1, 1))) & (found.between > 1e-6)
    nonfinite = ~jnp.isfinite(found.log_z) | ~jnp.all(jnp.isfinite(walk.work))
    lost = several | apart | overlap | nonfinite
    flags = raise_flags(
        (Flag.FEW_RUNS, runs < 4),
        (Flag.MODE_LEAK, several),
        (Flag.READOUTS_DISAGREE, apart),
        (Flag.POOR_OVERLAP, overlap),
        (Flag.RUNS_DISAGREE, disagree),
        (Flag.BAD_ACCEPTANCE, walk.acceptance < 0.15),
        (Flag.LOW_ESS, (found.n_eff < 50) | (n < 50)),
        (Flag.NONFINITE, nonfinite),
    )
    inherited = jnp.where(lost, warm.flags, warm.flags & jnp.uint32(_FATAL))
    return flags | inherited, lost


def bridge_log_z(
    settings: Bridge,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: Any = None,
    progress: Any = False,
    checkpoint: Any = None,
) -> Estimate:
    """log Z by BAR between a Gaussian fitted to a warm-up and the target.

    Args:
        settings: `Bridge(...)`.
        sys: the system, over continuous theta; its `symmetry`, where stated, is used.
        point: beta and control.
        key: typed key.
        reference: where the warm-up starts, instead of the prior.
        mesh: mesh with an "ensemble" axis for the warm-up.
        progress: bar or callback of the warm-up.
        checkpoint: where the warm-up is kept; what follows it repeats bit for bit.

    Returns:
        `Estimate` in nats; `parts` as `PartitionParts` with the two rungs reference and
        target. Its stderr joins the spread of runs with that of whole walkers. Where walkers
        stay in several basins (MODE_LEAK), or the value is more than five errors from the
        warm-up's (READOUTS_DISAGREE), value and error are the warm-up's, untrusted.

    Raises:
        ValueError: binary states, unknown shape of theta, an unadjusted kernel.
    """
    template = shape_of(sys, reference)
    key_warm, key_bridge = jax.random.split(stream(key, Stream.SWAP))
    warm = smc_log_z(
        settings.warm_up,
        sys,
        point,
        key_warm,
        reference=reference,
        mesh=mesh,
        progress=progress,
        checkpoint=checkpoint,
    )
    return _bridge(settings, template, sys, point, key_bridge, warm)
