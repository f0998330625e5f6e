"""Laplace's formula: log Z of one mode from its height and its curvature.

    log Z_mode ≈ -u(theta*) + (d/2) log 2 pi - (1/2) log det H,   H = hess u(theta*)
    log Z_mode = log Z_Laplace + log (1 + <(exp(u* - u) - exp(-x^T H x / 2)) / q(x)>_q)

The first line has no sampling error, so its error is measured by the second: importance
weights of Gaussian draws, half of them widened. Their correction is the error bar, and
where it is large, or the weights are heavy tailed, the answer is not trusted. The value
stays Laplace's.

Cost: 10-50 Newton steps per start; then a Hessian, d^2 numbers, or beyond `dense_up_to`
parameters `probes` x `lanczos_steps` Hessian products and `lanczos_steps` d numbers; and
`n_check` energies. Use it: at large beta, or for a first look. It lies where the posterior
is no Gaussian: few data, overlapping or symmetric modes, flat directions. It answers for
one mode: `scope="mode"`.

Source: specification of the core, section 3.3 (derived here); trust region after
Steihaug 1983.
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
from jax.scipy.special import logsumexp

from thermojax.binary import values_of
from thermojax.dynamics.kernel import Stream, stream
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.free_energy import log_mean_exp_weights
from thermojax.estimators.pareto import pareto_shape
from thermojax.lanczos import krylov, quadrature, root_inverse, truncated
from thermojax.priors import Template
from thermojax.system import Point, System, reduced
from thermojax.typing import Array, Key, PyTree

__all__ = ["Laplace", "LaplaceParts", "Minimum", "find_mode", "laplace", "laplace_log_z"]

_LOG_2PI = math.log(2 * math.pi)
_SINGULAR = 1e-6


@dataclasses.dataclass(frozen=True)
class Laplace:
    """Settings of Laplace's formula; see the module docstring.

    Attributes:
        n_starts: draws of the prior (or reference) from which the mode is sought.
        max_iterations: Newton steps per start.
        dense_up_to: parameters up to which the Hessian is formed.
        probes: Lanczos probes beyond that.
        lanczos_steps: Hessian products per probe.
        n_check: Gaussian draws that test the formula (`probes` of them beyond
            `dense_up_to`).
        tolerance: correction in nats beyond which the formula is not trusted.
    """

    n_starts: int = 8
    max_iterations: int = 200
    dense_up_to: int = 1024
    probes: int = 32
    lanczos_steps: int = 64
    n_check: int = 4096
    tolerance: float = 0.1

    def __post_init__(self):
        for name, least in (
            ("n_starts", 1),
            ("max_iterations", 1),
            ("probes", 25),
            ("lanczos_steps", 4),
            ("n_check", 32),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance} must be positive")


class LaplaceParts(NamedTuple):
    """What Laplace's formula hands on.

    Attributes:
        point: the target.
        samples: draws [n, ...] of the Gaussian at the mode.
        log_weights: [n] log weights that turn them into draws of the target.
        runs_log_z: [1] the value.
        log_mass: 0.
        n_gradients: gradients spent; a Hessian product counts as two.
        mode: theta*.
        extremes: [2] smallest and largest eigenvalue of H (Ritz values beyond dense).
        corrected: log Z by the importance weights.
        pareto: their Pareto shape k.
    """

    point: Point
    samples: PyTree
    log_weights: Array
    runs_log_z: Array
    log_mass: Array
    n_gradients: Array
    mode: PyTree
    extremes: Array
    corrected: Array
    pareto: Array


class Minimum(NamedTuple):
    """A minimum of the reduced energy.

    Attributes:
        position: flat theta* [d].
        value: u(theta*).
        decrement: what Newton's model still promises, nats; about 0 at a minimum.
        gradients: gradients spent; a Hessian product counts as two.
    """

    position: Array
    value: Array
    decrement: Array
    gradients: Array


class _Trust(NamedTuple):
    x: Array
    value: Array
    grad: Array
    radius: Array
    promise: Array
    steps: Array
    gradients: Array


def _boundary(p: Array, s: Array, radius: Array) -> Array:
    """p + t s on the sphere of the trust region, t >= 0."""
    a, b = jnp.sum(s * s), jnp.sum(p * s)
    c = jnp.sum(p * p) - radius**2
    t = (-b + jnp.sqrt(jnp.maximum(b * b - a * c, 0.0))) / jnp.where(a > 0, a, 1.0)
    return p + t * s


def _steihaug(hvp: Callable, g: Array, radius: Array, most: int):
    """Conjugate gradients for H p = -g inside the trust region; (p, H p, products)."""
    tol = jnp.minimum(0.1, jnp.sqrt(jnp.sqrt(jnp.sum(g * g)))) * jnp.sqrt(jnp.sum(g * g))

    def body(state):
        p, hp, r, s, k, _ = state
        hs = hvp(s)
        curvature, rr = jnp.sum(s * hs), jnp.sum(r * r)
        t = rr / jnp.where(curvature > 0, curvature, 1.0)
        inside = p + t * s
        leaves = (curvature <= 0) | (jnp.sum(inside * inside) >= radius**2)
        new = jnp.where(leaves, _boundary(p, s, radius), inside)
        # H is linear: the product with the new p needs no further call
        length = jnp.sum((new - p) * s) / jnp.sum(s * s)
        hp = hp + length * hs
        r_new = r - t * hs
        s_new = r_new + jnp.sum(r_new * r_new) / rr * s
        done = leaves | (jnp.sqrt(jnp.sum(r_new * r_new)) <= tol)
        return new, hp, r_new, s_new, k + 1, done

    zero = jnp.zeros_like(g)
    start = (zero, zero, -g, -g, jnp.int32(0), ~(jnp.sum(g * g) > 0))
    p, hp, _, _, k, _ = jax.lax.while_loop(
        lambda state: ~state[-1] & (state[-2] < most), body, start
    )
    return p, hp, k


def minimise(fn: Callable, x: Array, max_iterations: int) -> Minimum:
    """Trust-region Newton on fn: [d] -> scalar; follows negative curvature downhill."""
    slope = jax.grad(fn)
    product = lambda at: lambda v: jax.jvp(slope, (at,), (v,))[1]
    eps = jnp.finfo(x.dtype).eps
    most = min(x.shape[0] + 5, 250)

    def going(s: _Trust) -> Array:
        floor = 4 * eps * (1 + jnp.abs(s.value))
        return (s.promise > floor) & (s.steps < max_iterations)

    def step(s: _Trust) -> _Trust:
        p, hp, products = _steihaug(product(s.x), s.grad, s.radius, most)
        promise = -jnp.sum(s.grad * p) - 0.5 * jnp.sum(p * hp)
        value = fn(s.x + p)
        ratio = (s.value - value) / jnp.where(promise > 0, promise, 1.0)
        ratio = jnp.where(jnp.isfinite(ratio), ratio, -1.0)
        length = jnp.sqrt(jnp.sum(p * p))
        shrink, grow = ratio < 0.25, (ratio > 0.75) & (length > 0.9 * s.radius)
        radius = jnp.where(shrink, 0.25 * length, jnp.where(grow, 2 * s.radius, s.radius))
        taken = ratio > 1e-4
        x = jnp.where(taken, s.x + p, s.x)
        return _Trust(
            x,
            jnp.where(taken, value, s.value),
            slope(x),
            radius,
            promise,
            s.steps + 1,
            s.gradients + 2 * products + 2,
        )

    radius = jnp.maximum(1.0, 0.1 * jnp.sqrt(jnp.sum(x * x))).astype(x.dtype)
    first = _Trust(
        x, fn(x), slope(x), radius, jnp.full((), jnp.inf, x.dtype), jnp.int32(0), jnp.int32(1)
    )
    end = jax.lax.while_loop(going, step, first)
    return Minimum(end.x, end.value, end.promise, end.gradients)


def flat_energy(sys: System, point: Point, template: Template) -> Callable[[Array], Array]:
    """The reduced energy as a function of the flat vector theta [d]."""
    return lambda x: reduced(sys, template.unflatten(x), point)


def shape_of(sys: System, reference: Any = None) -> Template:
    """Template of theta, refusing binary states and unknown shapes."""
    for measure in (sys.prior, reference):
        if values_of(measure) is not None:
            raise ValueError(
                "this route expands the energy about a point of continuous space, but the "
                "base measure is over binary states: use tj.SMC() or tj.ReplicaExchange()"
            )
    template = sys.template or getattr(reference, "template", None)
    if template is None:
        raise ValueError(
            "the shape of theta is unknown: say it with tj.system(..., like=theta) or "
            "tj.gaussian_prior(scale, like=theta)"
        )
    return template


def find_mode(
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    n_starts: int = 8,
    max_iterations: int = 200,
) -> Minimum:
    """The lowest minimum of u = beta U - log m found from several starts.

    Starts are draws of the reference, else of the system's own reference or prior, else
    standard normals.

    Args:
        sys: the system, over continuous theta.
        point: beta and control.
        key: typed key.
        reference: measure with a sampler.
        n_starts: number of starts.
        max_iterations: Newton steps per start.
    """
    template = shape_of(sys, reference)
    measure = next((m for m in (reference, sys.reference, sys.prior) if m is not None), None)

    def start(k):
        if measure is None:
            return jax.random.normal(k, (template.size,), template.dtype)
        flat = ravel_pytree(measure.sample(k, point.control))[0]
        return flat.astype(template.dtype)

    fn = flat_energy(sys, point, template)
    keys = jax.random.split(stream(key, Stream.INIT), n_starts)
    found = jax.lax.map(lambda k: minimise(fn, start(k), max_iterations), keys)
    best = jnp.argmin(jnp.where(jnp.isfinite(found.value), found.value, jnp.inf))
    lowest = jax.tree.map(lambda x: x[best], found)
    return lowest._replace(gradients=jnp.sum(found.gradients))


class _Shape(NamedTuple):
    """The Gaussian at a mode: log det H, its error, extremes, draws, their x^T H x / 2."""

    log_det: Array
    error: Array
    extremes: Array
    draws: Array
    quadratic: Array
    flat: Array
    gradients: Array


def _dense(fn: Callable, data: Callable, x: Array, key: Key, settings: Laplace) -> _Shape:
    values, vectors = jnp.linalg.eigh(jax.hessian(fn)(x))
    curved = jnp.linalg.eigvalsh(jax.hessian(data)(x))
    safe = jnp.maximum(values, _SINGULAR * values[-1])
    unit = jax.random.normal(key, (settings.n_check, x.shape[0]), x.dtype)
    draws = (unit / jnp.sqrt(safe)) @ vectors.T
    return _Shape(
        jnp.sum(jnp.log(safe)),
        jnp.zeros((), x.dtype),
        values[jnp.asarray([0, -1])],
        draws,
        0.5 * jnp.sum(unit**2, axis=1),
        curved[0] <= _SINGULAR * curved[-1],
        jnp.int32(4 * x.shape[0]),
    )


def _stochastic(fn: Callable, x: Array, key: Key, settings: Laplace) -> _Shape:
    d, slope = x.shape[0], jax.grad(fn)
    steps = min(settings.lanczos_steps, d)
    product = lambda v: jax.jvp(slope, (x,), (v,))[1]

    def probe(k):
        v = jax.random.normal(k, (d,), x.dtype)
        space = krylov(product, v, steps)
        safe = space._replace(ritz=jnp.maximum(space.ritz, _SINGULAR * space.ritz[-1]))
        # on the sphere |v|^2 = d: the length of v is no news about the determinant
        log_det = d * quadrature(safe._replace(norm=jnp.ones((), x.dtype)), jnp.log)
        draw = root_inverse(safe)
        half = 0.5 * jnp.sum(draw * product(draw))
        shorter = d * quadrature(truncated(safe, 3 * steps // 4), jnp.log) / safe.norm**2
        return log_det, log_det - shorter, space.ritz[jnp.asarray([0, -1])], draw, half

    each = jax.lax.map(probe, jax.random.split(key, settings.probes))
    log_det, lag, ritz, draws, half = each
    chance = jnp.std(log_det, ddof=1) / math.sqrt(settings.probes)
    return _Shape(
        jnp.mean(log_det),
        jnp.hypot(chance, jnp.mean(lag)),  # what a longer recursion would still move
        jnp.stack([jnp.min(ritz[:, 0]), jnp.max(ritz[:, 1])]),
        draws,
        half,
        jnp.asarray(False),
        jnp.int32(2 * settings.probes * (steps + 1)),
    )


def _weigh(rise: Callable, shape: _Shape, d: int):
    """Draws, their log weights, and log(Z / Z_Laplace) with its error.

    Every other draw is widened, so that tails fatter than the Gaussian's are met. What the
    Gaussian itself gives is subtracted draw by draw: it is 1, and its noise goes with it.
    """
    n = shape.quadratic.shape[0]
    width = 1 + 2 / math.sqrt(d)
    factor = jnp.where(jnp.arange(n) % 2 == 0, 1.0, width).astype(shape.draws.dtype)
    draws, half = shape.draws * factor[:, None], shape.quadratic * factor**2
    log_m = jnp.logaddexp(-half, -half / width**2 - d * math.log(width)) - math.log(2)
    log_t = -jax.lax.map(rise, draws)
    log_w = jnp.where(jnp.isnan(log_t), -jnp.inf, log_t) - log_m
    excess = jnp.exp(log_w) - jnp.exp(-half - log_m)
    ratio = jnp.maximum(1 + jnp.mean(excess), jnp.finfo(half.dtype).tiny)
    return draws, log_w, jnp.log(ratio), jnp.std(excess) / math.sqrt(n) / ratio


@functools.partial(jax.jit, static_argnames=("settings", "template"))
def _at_mode(
    settings: Laplace, template: Template, sys: System, at: Minimum, point: Point, key: Key
) -> Estimate:
    """Laplace's formula at a minimum, and its test."""
    fn = flat_energy(sys, point, template)
    data = lambda x: jnp.asarray(point.beta) * sys.energy(template.unflatten(x), point.control)
    x, d = at.position, template.size
    key = stream(key, Stream.PROBE)
    dense = d <= settings.dense_up_to
    shape = _dense(fn, data, x, key, settings) if dense else _stochastic(fn, x, key, settings)
    value = -at.value + 0.5 * d * _LOG_2PI - 0.5 * shape.log_det
    draws, log_w, gap, chance = _weigh(lambda y: fn(x + y) - at.value, shape, d)
    ess = log_mean_exp_weights(log_w)[1]
    n = log_w.shape[0]
    probe = 0.5 * shape.error
    stderr = jnp.sqrt(gap**2 + chance**2 + probe**2)
    tail = pareto_shape(log_w)
    low, high = shape.extremes
    doubtful = ~(jnp.abs(gap) <= settings.tolerance + 3 * chance)
    heavy = ~(tail <= 0.7)
    # a prior may hide a direction along which the data say nothing
    singular = ~(low > _SINGULAR * high) | (shape.flat & (doubtful | heavy))
    flags = raise_flags(
        (Flag.SINGULAR, singular),
        (Flag.HEAVY_TAIL, heavy),
        (Flag.READOUTS_DISAGREE, doubtful | (chance > 3 * settings.tolerance)),
        (Flag.NOT_A_MINIMUM, ~(at.decrement <= 1e-3)),
        (Flag.NONFINITE, ~jnp.isfinite(at.value)),
    )
    value = jnp.where(singular, jnp.nan, value)
    parts = LaplaceParts(
        point=point,
        samples=jax.vmap(lambda y: template.unflatten(x + y))(draws),
        log_weights=log_w - logsumexp(log_w),
        runs_log_z=value[None],
        log_mass=jnp.zeros((), value.dtype),
        n_gradients=at.gradients + shape.gradients + n,
        mode=template.unflatten(x),
        extremes=shape.extremes,
        corrected=value + gap,
        pareto=tail,
    )
    stderr = jnp.where(singular, jnp.inf, stderr)
    return Estimate(value, stderr, probe, ess, flags, parts)


def laplace(
    sys: System, mode: PyTree, point: Point, *, key: Key | None = None, settings: Any = None
) -> Estimate:
    """Laplace's formula at a given mode.

        log Z_mode ≈ -u(theta*) + (d/2) log 2 pi - (1/2) log det H

    Args:
        sys: the system, over continuous theta.
        mode: a minimum of u = beta U - log m, shaped like theta.
        point: beta and control.
        key: of the Gaussian draws that test the formula.
        settings: `Laplace(...)`.

    Returns:
        `Estimate` in nats for one mode. `stderr` is the correction that the importance
        weights of Gaussian draws ask for, joined with their own error and that of the
        Lanczos probes. SINGULAR (value nan) where the smallest eigenvalue is at most 1e-6
        of the largest; HEAVY_TAIL or READOUTS_DISAGREE where the posterior is no Gaussian;
        NOT_A_MINIMUM where Newton's method would still descend.

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 1.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = laplace(sys, jnp.zeros(()), Point(1.0))
        >>> bool(abs(est.value + 0.5 * jnp.log(4.0)) < 1e-5), est.trusted
        (True, True)
    """
    settings = Laplace() if settings is None else settings
    template = sys.template or Template.of(mode)
    template.check(mode)
    shape_of(sys.replace(shape=template))
    x = ravel_pytree(mode)[0].astype(template.dtype)
    fn = flat_energy(sys, point, template)
    # one step of the descent says how far from a minimum this is
    probe = minimise(fn, x, 1)
    at = Minimum(x, fn(x), probe.decrement, probe.gradients)
    key = jax.random.key(0) if key is None else key
    return _at_mode(settings, template, sys, at, point, key)


_find_jit = jax.jit(find_mode, static_argnames=("n_starts", "max_iterations"))


def laplace_log_z(
    settings: Laplace,
    sys: System,
    point: Point,
    key: Key,
    *,
    reference: Any = None,
    mesh: Any = None,
    progress: Any = False,
    checkpoint: Any = None,
) -> Estimate:
    """Laplace's formula at the lowest mode found from draws of the prior.

    Args:
        settings: `Laplace(...)`.
        sys: the system, over continuous theta.
        point: beta and control.
        key: typed key.
        reference: measure from which the search starts, instead of the prior.
        mesh: not used; refused.
        progress: taken, but there is nothing to show.
        checkpoint: not used; refused.

    Raises:
        ValueError: binary states, unknown shape of theta, a mesh or a checkpoint.
    """
    if mesh is not None or checkpoint is not None:
        raise ValueError("Laplace is one short computation: drop mesh= and checkpoint=")
    template = shape_of(sys, reference)
    at = _find_jit(
        sys,
        point,
        key,
        reference=reference,
        n_starts=settings.n_starts,
        max_iterations=settings.max_iterations,
    )
    return _at_mode(settings, template, sys, at, point, key)
