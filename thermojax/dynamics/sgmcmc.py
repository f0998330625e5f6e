"""Langevin dynamics with minibatch gradients: sgld, psgld, sghmc.

With u = beta U - log m, g the estimate of grad u, S = diag(scale), eps = step_size:

    sgld    theta' = theta - eps S^2 g + sqrt(2 eps) S xi
    psgld   theta' = theta - eps (G g - div G) + sqrt(2 eps G) xi,   G = 1 / (damping + rms)
    sghmc   r' = (1 - a) r - sqrt(eps) S g + sqrt(2 a) xi
            theta' = theta + sqrt(eps) S r',          a = friction

In all of them the learning rate on U is h = eps beta; sghmc's velocity is
v = sqrt(eps) S r, and a = 1 is sgld. None is exact: sgld has the bias of Euler-Maruyama,
var(x) = T/k / (1 - hk/2) on a harmonic well, sghmc T/k / (1 - hk/(2(2-a))) with
<r^2> = 2/(2-a) / (1 - hk/(2(2-a))), so that its kinetic temperature is no thermometer; both
are heated by minibatch noise, to T (1 + h s^2 / (2T)) for additive force noise s^2.

Source: specification of the core, 2.3, 2.5 and 2.6; Welling & Teh 2011; Li, Chen, Carlson &
Carin 2016; Chen, Fox & Guestrin 2014 (semi-implicit form).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.dynamics.gradients import Gradient, full, minibatch
from thermojax.dynamics.kernel import Kernel, KernelMeta, Stream, stream
from thermojax.dynamics.leaves import dtype_of, scales, size, split
from thermojax.dynamics.stochastic import Moved, make_kernel
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.noise import normal
from thermojax.reduce import total
from thermojax.system import System
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["PsgldParams", "SghmcParams", "SgldParams", "psgld", "sghmc", "sgld"]

NO_FLAGS = 0


def draw_like(key: Any, theta: PyTree) -> PyTree:
    """Standard normals shaped like theta, by one flat draw."""
    flat = normal(stream(key, Stream.NOISE), size(theta), dtype_of(theta))
    return split(flat, theta)


def unknown(dtype: Any) -> Array:
    """Nats of a bath without a transition density."""
    return jnp.full((), jnp.nan, dtype)


class SgldParams(NamedTuple):
    """Numbers of `sgld`: reduced step, and the square root of a constant preconditioner."""

    step_size: ArrayLike
    scale: PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Sgld:
    momentum = False

    def start(self, at, params):
        return ()

    def open(self, key, state, slope, curvature, params):
        theta, xi = state.position, draw_like(key, state.position)
        eps = jnp.asarray(params.step_size, state.energy.dtype)

        def move(x, g, n, s):
            h = eps.astype(x.dtype)
            return x - s * (h * s * g - jnp.sqrt(2 * h) * n)

        new = jax.tree.map(move, theta, slope, xi, scales(params.scale, theta))
        return Moved(new, (), (), xi, jnp.uint32(NO_FLAGS))

    def close(self, moved, slope, params):
        return moved

    def nats(self, record, slope, held, params, dtype):
        """log of reverse over forward Gaussian, (|xi|^2 - |xi'|^2) / 2."""
        eps, nats = jnp.asarray(params.step_size, dtype), jnp.zeros((), dtype)
        scale = scales(params.scale, slope)
        for xi, g, h, s in zip(
            *map(jax.tree.leaves, (record, slope, held, scale)), strict=True
        ):
            kick = jnp.sqrt(eps / 2) * (s * (g + h)).astype(dtype)
            nats = nats + total(kick * (xi.astype(dtype) - kick / 2))
        return nats


class PsgldParams(NamedTuple):
    """Numbers of `psgld`.

    Attributes:
        step_size: reduced step.
        decay: weight of the past in the running mean of squared gradients of U.
        damping: added to the root mean square, in units of grad U.
        warmup: steps after which a frozen metric stays as it is.
    """

    step_size: ArrayLike
    decay: ArrayLike
    damping: ArrayLike
    warmup: ArrayLike


class _Metric(NamedTuple):
    square: PyTree
    age: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Psgld:
    running: bool
    divergence: bool
    momentum = False

    def start(self, at, params):
        return _Metric(jax.tree.map(jnp.square, at.energy_grad), jnp.uint32(0))

    def open(self, key, state, slope, curvature, params):
        theta, (square, age) = state.position, state.bath
        warm = age < jnp.asarray(params.warmup, jnp.uint32)
        keep = params.decay if self.running else jnp.where(warm, params.decay, 1.0)
        mean = lambda v, g: (keep * v + (1 - keep) * g**2).astype(v.dtype)
        square = jax.tree.map(mean, square, state.energy_grad)
        metric = jax.tree.map(
            lambda v: (1 / (params.damping + jnp.sqrt(v))).astype(v.dtype), square
        )
        drift = jax.tree.map(jnp.zeros_like, theta)
        if self.running and self.divergence:
            drift = _divergence(key, state, curvature, params, square, metric)
        xi = draw_like(key, theta)

        def move(x, g, c, m, n):
            h = jnp.asarray(params.step_size, x.dtype)
            return x - h * (m * g - c) + jnp.sqrt(2 * h * m) * n

        new = jax.tree.map(move, theta, slope, drift, metric, xi)
        return Moved(new, (), _Metric(square, age + jnp.uint32(1)), (), self._flags(warm))

    def _flags(self, warm):
        if self.running:
            biased = not self.divergence
            return raise_flags((Flag.STATE_DEPENDENT_METRIC, jnp.asarray(biased)))
        return raise_flags((Flag.ADAPTING, warm))

    def close(self, moved, slope, params):
        return moved

    def nats(self, record, slope, held, params, dtype):
        return unknown(dtype)


def _divergence(key, state, curvature, params, square, metric):
    """dG_i / dtheta_i = -G_i^2 (1 - decay) g_i H_ii / rms_i; H_ii by one Rademacher probe."""
    theta = state.position
    flat = jax.random.rademacher(stream(key, Stream.PROBE), (size(theta),), dtype_of(theta))
    probe = split(flat, theta)

    def one(v, m, g, z, hz):
        root = jnp.sqrt(v)
        ratio = jnp.where(root > 0, g / jnp.where(root > 0, root, 1.0), 0.0)
        return (-(m**2) * (1 - params.decay) * ratio * z * hz).astype(v.dtype)

    return jax.tree.map(one, square, metric, state.energy_grad, probe, curvature(probe))


class SghmcParams(NamedTuple):
    """Numbers of `sghmc`: reduced step, friction per step in (0, 1], spread of theta."""

    step_size: ArrayLike
    friction: ArrayLike
    scale: PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Sghmc:
    momentum = True

    def start(self, at, params):
        return ()

    def open(self, key, state, slope, curvature, params):
        theta, xi = state.position, draw_like(key, state.position)
        scale = scales(params.scale, theta)
        cast = lambda value, like: jnp.asarray(value, like.dtype)

        def kick(r, g, s, n):
            a, root = cast(params.friction, r), jnp.sqrt(cast(params.step_size, r))
            return (1 - a) * r - root * s * g + jnp.sqrt(2 * a) * n

        r = jax.tree.map(kick, state.momentum, slope, scale, xi)
        new = jax.tree.map(
            lambda x, s, r: x + jnp.sqrt(cast(params.step_size, x)) * s * r, theta, scale, r
        )
        return Moved(new, r, (), (), jnp.uint32(NO_FLAGS))

    def close(self, moved, slope, params):
        return moved

    def nats(self, record, slope, held, params, dtype):
        return unknown(dtype)


def default_gradient(gradient: Gradient | None, sys: System) -> Gradient:
    """64 examples where the energy is a sum over more, else all of it."""
    if gradient is not None:
        return gradient
    many = sys.batch_fn is not None and jnp.shape(jax.tree.leaves(sys.data)[0])[0] > 64
    return minibatch(64) if many else full()


def facts(name: str, *, momentum: bool, order: int = 1, density: bool = False) -> KernelMeta:
    """Meta data of an unadjusted kernel with an estimated gradient."""
    return KernelMeta(
        name=name,
        exact=False,
        order=order,
        reversible=False,
        momentum=momentum,
        gradients_per_step=1,
        target_acceptance=math.nan,
        density=density,
    )


def sgld(
    sys: System,
    gradient: Gradient | None = None,
    *,
    step_size: ArrayLike = 1e-3,
    scale: PyTree = 1.0,
    bookkeeping: str = "control",
) -> Kernel:
    """Stochastic-gradient Langevin dynamics: Euler-Maruyama with an estimated gradient.

        theta' = theta - eps S^2 g + sqrt(2 eps) S xi

    Additive force noise of variance s^2 per step makes the stationary temperature
    (T + h s^2/2) / (1 - hk/2) on a harmonic well, h = eps beta: see `tj.noise_ratio`.

    Args:
        sys: the system.
        gradient: estimator of grad U; by default 64 examples without replacement.
        step_size: reduced step eps; the learning rate on U is eps * beta.
        scale: square root of a constant diagonal preconditioner.
        bookkeeping: "control" (energy of the batch, its switch is work) or "bath" (energy
            of all data, one full pass per step); see the module docstring of
            `dynamics.stochastic`.

    Returns:
        A `Kernel` with a ledger in energy and nats, exact for any step size.

    Raises:
        ValueError: unknown bookkeeping; a minibatch of an energy that is no sum.

    Example:
        >>> import jax.numpy as jnp
        >>> from thermojax import Point, finite_sum, minibatch
        >>> sys = finite_sum(lambda x, c, y: (x - y) ** 2 / 2, jnp.arange(8.0), like=0.0)
        >>> kernel = sgld(sys, minibatch(4), step_size=0.01)
        >>> state = kernel.init(0.0, Point(1.0))
        >>> kernel.step(jax.random.key(0), state, Point(1.0), kernel.params)[0].batch.shape
        (4,)
    """
    return make_kernel(
        _Sgld(),
        sys,
        default_gradient(gradient, sys),
        SgldParams(step_size, scale),
        bookkeeping,
        facts("sgld", momentum=False, density=True),
    )


def psgld(
    sys: System,
    gradient: Gradient | None = None,
    *,
    adapt: str = "freeze",
    divergence: bool = True,
    step_size: ArrayLike = 1e-3,
    decay: ArrayLike = 0.99,
    damping: ArrayLike = 1e-3,
    warmup: ArrayLike = 1000,
    bookkeeping: str = "control",
) -> Kernel:
    """SGLD preconditioned by the root mean square of the gradient of U.

        V' = decay V + (1 - decay) g_U^2,     G = 1 / (damping + sqrt(V))
        theta' = theta - eps (G g - div G) + sqrt(2 eps G) xi

    A metric that follows the state needs its divergence: without it the stationary law is
    wrong at every step size (harmonic, decay = 0: <x^2> up to twice T/k).

    Args:
        sys: the system.
        gradient: see `sgld`.
        adapt: "freeze" (the metric adapts for `warmup` steps, during which ADAPTING is
            raised, then stays) or "running" (it follows the state for ever).
        divergence: with "running", add div G (one Hessian-vector product per step);
            without it STATE_DEPENDENT_METRIC is raised.
        step_size: reduced step eps.
        decay: weight of the past in V, in [0, 1).
        damping: lam in 1 / (lam + rms), in units of grad U.
        warmup: steps of adaptation with "freeze".
        bookkeeping: see `sgld`.

    Raises:
        ValueError: unknown `adapt` or bookkeeping.
    """
    if adapt not in ("freeze", "running"):
        raise ValueError(f"adapt={adapt!r} is unknown: use 'freeze' or 'running'")
    running = adapt == "running"
    order = 0 if running and not divergence else 1
    return make_kernel(
        _Psgld(running, divergence),
        sys,
        default_gradient(gradient, sys),
        PsgldParams(step_size, decay, damping, warmup),
        bookkeeping,
        facts("psgld", momentum=False, order=order),
    )


def sghmc(
    sys: System,
    gradient: Gradient | None = None,
    *,
    step_size: ArrayLike = 1e-3,
    friction: ArrayLike = 0.1,
    scale: PyTree = 1.0,
    bookkeeping: str = "control",
) -> Kernel:
    """Stochastic-gradient Hamiltonian Monte Carlo, semi-implicit.

        r' = (1 - a) r - sqrt(eps) S g + sqrt(2 a) xi,    theta' = theta + sqrt(eps) S r'

    In the usual velocity v = sqrt(eps) S r and learning rate eta = eps beta on U:
    v' = (1 - a) v - eta grad U + sqrt(2 a eta T) xi. On a harmonic well
    k var(x) / T = 1 / (1 - eta k / (2 (2 - a))), stable for eta k < 2 (2 - a).

    Args:
        sys: the system.
        gradient: see `sgld`.
        step_size: reduced step eps; the learning rate on U is eps * beta.
        friction: a in (0, 1]; 1 - a is the momentum coefficient, a = 1 is `sgld`.
        scale: spread of each parameter.
        bookkeeping: see `sgld`.

    Returns:
        A `Kernel`; its path has no density in (theta, r), so the nats are nan.

    Raises:
        ValueError: unknown bookkeeping; a minibatch of an energy that is no sum.
    """
    return make_kernel(
        _Sghmc(),
        sys,
        default_gradient(gradient, sys),
        SghmcParams(step_size, friction, scale),
        bookkeeping,
        facts("sghmc", momentum=True),
    )
