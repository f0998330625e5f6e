"""Einstein crystal: the free energy of one basin, from a harmonic reference at its bottom.

    q = N(mean, c V diag(s^2) V^T),   H = hess u(theta*) = V diag(h) V^T,   c = `inflation`
    s_i^2 = max(Var_i, min(1/h_i, 4 Var_i)),   Var_i = Var(v_i . theta)
    p_lam ∝ q^{1 - lam} exp(-lam u),   log Z_basin = log Z(lam = 1) - log Z(lam = 0)

A Gaussian whose free energy is known is turned into the target along tempered SMC. Its
springs are those of the Hessian where the target keeps to them; softer where a pilot's
walkers, started at the bottom and left to spread, go further (the arms of a curved valley);
stiffer where walls hold them closer than half of what the Hessian says (x^4). A reference
narrower than the target anywhere gives weights of infinite variance. Quenches of the final
walkers say whether they are still in the basin.

Cost: a mode search, a Hessian (d^2 numbers), a pilot of `pilot` walkers, then tempered SMC
on a short path, and a quench of `n_quench` walkers. Use it: for the free energy of one
minimum, at any anharmonicity that stays in the basin. It lies where basins are not
separated: "the basin" then depends on where walkers wander (MODE_LEAK). It answers for one
mode: `scope="mode"`.

Source: specification of the core, section 3.3 (derived here); after Frenkel & Ladd 1984,
whose springs match the displacements of the target too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from thermojax import smc as tempering
from thermojax.dynamics.kernel import Stream, stream
from thermojax.ensembles import map_tiles
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.laplace import Minimum, find_mode, flat_energy, minimise, shape_of
from thermojax.partition import smc_log_z
from thermojax.pilot import lay_out, pilot, tile_for, visit
from thermojax.priors import CustomPrior, Template, prior
from thermojax.smc import SMC
from thermojax.system import Point, System
from thermojax.typing import Array, Key, PyTree

__all__ = ["EinsteinCrystal", "crystal_log_z", "harmonic"]

_LOG_2PI = math.log(2 * math.pi)
_DENSE = 1024
_SMC = SMC()


@dataclasses.dataclass(frozen=True)
class EinsteinCrystal:
    """Settings of the Einstein crystal; see the module docstring.

    Attributes:
        smc: settings of the tempered path.
        inflation: c >= 1, factor on the covariance of the harmonic reference.
        pilot: walkers to whose spread the reference is fitted.
        relax: kernel steps at the target in which they spread.
        n_starts: draws of the prior (or reference) from which the mode is sought.
        max_iterations: Newton steps per start and per quench.
        n_quench: final walkers that are quenched.
        leak: share of quenched walkers that may end elsewhere.
    """

    smc: SMC = _SMC
    inflation: float = 2.5
    pilot: int = 256
    relax: int = 256
    n_starts: int = 8
    max_iterations: int = 200
    n_quench: int = 64
    leak: float = 0.02

    def __post_init__(self):
        if not self.inflation >= 1:
            raise ValueError(
                f"inflation={self.inflation} must be at least 1: a reference narrower than "
                "the target has weights of infinite variance"
            )
        least = {"pilot": 8, "relax": 2, "n_starts": 1, "max_iterations": 1, "n_quench": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {low}")


@dataclasses.dataclass(frozen=True)
class _Density:
    template: Template

    def __call__(self, theta, control, params):
        mean, factor = params
        away = ravel_pytree(theta)[0] - mean
        if factor.ndim == 1:
            unit, diagonal = away / factor, factor
        else:
            unit, diagonal = solve_triangular(factor, away, lower=True), jnp.diagonal(factor)
        log_det = jnp.sum(jnp.log(diagonal))
        return -0.5 * jnp.sum(unit**2) - log_det - 0.5 * away.size * _LOG_2PI


@dataclasses.dataclass(frozen=True)
class _Draw:
    template: Template

    def __call__(self, key, control, params):
        mean, factor = params
        unit = jax.random.normal(key, mean.shape, mean.dtype)
        moved = factor * unit if factor.ndim == 1 else factor @ unit
        return self.template.unflatten(mean + moved)


def normal_measure(template: Template, mean: Array, factor: Array) -> CustomPrior:
    """N(mean, factor factor^T) over theta; `factor` is a Cholesky factor, or [d] deviations."""
    shapes = [
        jax.ShapeDtypeStruct(s, d)
        for s, d in zip(template.shapes, template.dtypes, strict=False)
    ]
    like = jax.tree.unflatten(template.treedef, shapes)
    return prior(_Density(template), _Draw(template), like=like, params=(mean, factor))


def harmonic(mode: PyTree, covariance: Any, *, inflation: float = 1.5) -> CustomPrior:
    """A Gaussian about a mode as a reference from which a path may start.

        q = N(mode, inflation x covariance)

    The inverse Hessian is no safe covariance where the target leaves the Gaussian, as along a
    curved valley: the path then never sees the far ends, log Z comes out low, and no flag
    knows (Rosenbrock: .17 nats). `tj.EinsteinCrystal` widens its own by looking.

    Args:
        mode: its centre, shaped like theta.
        covariance: [d, d] in the order of `ravel_pytree(mode)`, or [d] variances.
        inflation: factor on the covariance; below 1 weights may have infinite variance.

    Example:
        >>> q = harmonic(jnp.zeros(2), jnp.eye(2), inflation=1.0)
        >>> round(float(q.log_density(jnp.zeros(2))), 4)  # -log 2 pi
        -1.8379
    """
    template = Template.of(mode)
    mean = ravel_pytree(mode)[0].astype(template.dtype)
    wide = inflation * jnp.asarray(covariance, mean.dtype)
    factor = jnp.sqrt(wide) if wide.ndim == 1 else jnp.linalg.cholesky(wide)
    return normal_measure(template, mean, factor)


@functools.partial(jax.jit, static_argnames="settings")
def _reference(settings: EinsteinCrystal, sys: System, point: Point, key: Key, reference: Any):
    """The mode, its Hessian, the harmonic reference about it; gradients of the pilot."""
    template = shape_of(sys, reference)
    key_mode, key_pilot = jax.random.split(key)
    mode = find_mode(
        sys,
        point,
        key_mode,
        reference=reference,
        n_starts=settings.n_starts,
        max_iterations=settings.max_iterations,
    )
    hessian = jax.hessian(flat_energy(sys, point, template))(mode.position)
    values, vectors = jnp.linalg.eigh(hessian)
    # a flat direction gets the width of the next stiffest thing that is not flat
    thermal = 1 / jnp.maximum(values, 1e-4 * values[-1])
    gaussian = functools.partial(_gaussian, template, vectors, settings.inflation)
    narrow = gaussian(mode.position, thermal)
    mean, variance, spent = _spread(settings, sys, point, key_pilot, narrow, vectors)
    sane = jnp.all(jnp.isfinite(mean) & jnp.isfinite(variance) & (variance > 0))
    mean = jnp.where(sane, mean, mode.position)
    variance = jnp.where(sane, jnp.clip(thermal, variance, 4 * variance), thermal)
    return mode, hessian, gaussian(mean, variance), spent


def _gaussian(
    template: Template, vectors: Array, inflation: float, mean: Array, variance: Array
):
    """N(mean, inflation x variance along each vector)."""
    covariance = (vectors * (inflation * variance)) @ vectors.T
    factor = jnp.linalg.cholesky(0.5 * (covariance + covariance.T))
    return normal_measure(template, mean, factor)


def _spread(
    settings: EinsteinCrystal,
    sys: System,
    point: Point,
    key: Key,
    narrow: CustomPrior,
    vectors: Array,
) -> tuple[Array, Array, Array]:
    """Mean, and variance along each vector, of walkers that spread over the target."""
    smc = dataclasses.replace(settings.smc, n=settings.pilot, n_runs=1, waypoints=(), tile=None)
    path = tempering.prepare(smc, sys, point, narrow)
    found = pilot(path, key)
    node = jax.tree.map(lambda x: x[0], lay_out(found, 1))
    ids = jnp.arange(settings.pilot, dtype=jnp.uint32)
    tile, base = tile_for(path, settings.pilot), stream(key, Stream.MOVES)
    half = settings.relax // 2
    along = lambda walkers: jax.vmap(lambda t: ravel_pytree(t)[0])(walkers.position) @ vectors

    def move(k, carry):
        walkers, first, second = carry
        one = lambda a: visit(path, node, a[1], jax.random.fold_in(base, a[0]), k, 1)[0]
        walkers = map_tiles(one, (ids, walkers), tile)
        place = along(walkers)
        late = k >= half
        first = first + jnp.where(late, jnp.mean(place, axis=0), 0.0)
        second = second + jnp.where(late, jnp.mean((place - start) ** 2, axis=0), 0.0)
        return walkers, first, second

    walkers = found.population.walkers
    start = jnp.mean(along(walkers), axis=0)
    zero = jnp.zeros_like(start)
    _, first, second = jax.lax.fori_loop(0, settings.relax, move, (walkers, zero, zero))
    count = settings.relax - half
    mean = first / count
    variance = second / count - (mean - start) ** 2
    looks = jnp.sum(found.population.trace.looks) * smc.moves + settings.relax
    spent = looks * settings.pilot * path.kernel.meta.gradients_per_step
    return vectors @ mean, variance, spent


@functools.partial(jax.jit, static_argnames="settings")
def _leaked(
    settings: EinsteinCrystal,
    sys: System,
    point: Point,
    mode: Minimum,
    hessian: Array,
    samples: PyTree,
) -> tuple[Array, Array]:
    """Share of quenched walkers that end elsewhere than at the mode; gradients spent."""
    template = shape_of(sys.replace(shape=sys.template or Template.of(_row(samples, 0))))
    fn = flat_energy(sys, point, template)
    size = jax.tree.leaves(samples)[0].shape[0]
    chosen = jnp.arange(min(settings.n_quench, size)) * (size // min(settings.n_quench, size))

    def one(i):
        start = ravel_pytree(_row(samples, i))[0].astype(template.dtype)
        end = minimise(fn, start, settings.max_iterations)
        away = end.position - mode.position
        displaced = jnp.sum(away * (hessian @ away))
        # a tenth of the thermal displacement, and not merely a slow quench
        return (displaced > 0.1 * template.size), end.gradients

    gone, gradients = jax.lax.map(one, chosen)
    return jnp.mean(gone.astype(mode.value.dtype)), jnp.sum(gradients)


def _row(tree: PyTree, i: Any) -> PyTree:
    return jax.tree.map(lambda x: x[i], tree)


def crystal_log_z(
    settings: EinsteinCrystal,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: Any = None,
    progress: Any = False,
    checkpoint: Any = None,
) -> Estimate:
    """log Z of the basin of the lowest mode found from draws of the prior.

    Args:
        settings: `EinsteinCrystal(...)`.
        sys: the system, over continuous theta of up to 1,024 parameters.
        point: beta and control.
        key: typed key.
        reference: measure from which the search for the mode starts, instead of the prior.
        mesh: mesh with an "ensemble" axis for the tempered path.
        progress: bar or callback of the tempered path.
        checkpoint: where the tempered path is kept.

    Returns:
        `Estimate` in nats for one mode, as tempered SMC makes it (its parts serve
        `tj.curve` near the target's beta); MODE_LEAK where walkers quench into another
        minimum.

    Raises:
        ValueError: binary states, unknown shape of theta, too many parameters.
    """
    template = shape_of(sys, reference)
    if template.size > _DENSE:
        raise ValueError(
            f"the Einstein crystal forms a Hessian of {template.size} parameters, at most "
            f"{_DENSE}: use tj.Bridge() or tj.SMC()"
        )
    key_mode, key_path = jax.random.split(stream(key, Stream.PROBE))
    mode, hessian, start, piloted = _reference(settings, sys, point, key_mode, reference)
    est = smc_log_z(
        settings.smc,
        sys,
        point,
        key_path,
        reference=start,
        mesh=mesh,
        progress=progress,
        checkpoint=checkpoint,
    )
    share, gradients = _leaked(settings, sys, point, mode, hessian, est.parts.samples)
    flags = est.flags | raise_flags(
        (Flag.MODE_LEAK, ~(share <= settings.leak)),
        (Flag.NOT_A_MINIMUM, ~(mode.decrement <= 1e-3)),
    )
    spent = est.parts.n_gradients + mode.gradients + gradients + piloted
    return est._replace(flags=flags, parts=est.parts._replace(n_gradients=spent))
