"""Averages, susceptibilities and responses from the samples of one estimate of log Z.

    chi_AB      = d<A>/dh = beta Cov(A, B)          where U -> U - h B
    d<A>/dlam   = <dA/dlam> - beta Cov(A, dU/dlam) + Cov(A, d log m/dlam)
    d<A>/dbeta  = -Cov(A, U)

Derivatives are fluctuations of stored samples: none of them runs through a sampler, whose
Metropolis test has a jump that automatic differentiation does not see.

Cost: one evaluation (and one gradient in the point) per stored sample. Error bars: the
jackknife over whole independent runs, never below the linearised error of the weighted
samples. They lie where the runs share a missing mode, as the estimate itself does.

Source: specification of the core, sections 5.1 and 5.2 (derived here).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.mixture import jackknife
from thermojax.system import Point, System, positional, reduced
from thermojax.typing import Array, PyTree

__all__ = ["differentiable_mean", "mean", "response", "susceptibility"]

LEAST = 50.0


def _observe(observable: Callable, samples: PyTree, control: PyTree) -> Array:
    fn = positional(observable, 2)
    return jax.vmap(lambda theta: jnp.asarray(fn(theta, control)))(samples)


def differentiable_mean(
    est: Estimate, sys: System, observable: Callable
) -> Callable[[Point], Array]:
    """A function of the point whose value and every derivative estimate <A>.

        f(point) = sum_i w_i A(theta_i; point)
        w_i ∝ w_i0 exp(u(theta_i; point_0) - u(theta_i; point))

    on the stored samples of `est`: to any order, forward and reverse, under jit and vmap.
    Away from point_0 it is reweighting, good while the ensembles overlap.

    Args:
        est: result of `log_partition`.
        sys: the same system, or one that differs in data, prior scales or control.
        observable: `A(theta)` or `A(theta, control)`, an array of any shape.

    Example:
        >>> from thermojax import SMC, gaussian_prior, log_partition, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = log_partition(sys, Point(1.0), jax.random.key(0), method=SMC(n=512))
        >>> slope = jax.grad(differentiable_mean(est, sys, lambda x: x**2))(Point(1.0)).beta
        >>> bool(abs(slope + 0.25) < 0.05)  # -Cov(x^2, U)
        True
    """
    parts = est.parts
    samples = jax.lax.stop_gradient(parts.samples)
    start = jax.lax.stop_gradient(parts.point)
    energies = lambda point: jax.vmap(lambda theta: reduced(sys, theta, point))(samples)

    def f(point: Point) -> Array:
        log_w = jax.lax.stop_gradient(parts.log_weights + energies(start))
        weights = jax.nn.softmax(log_w - energies(point))
        return jnp.tensordot(weights, _observe(observable, samples, point.control), 1)

    return f


def mean(est: Estimate, sys: System, observable: Callable) -> Estimate:
    """<A> at the point of an estimate, with its error.

        <A> = sum_i w_i A(theta_i)

    Args:
        est: result of `log_partition`.
        sys: the same system.
        observable: `A(theta)` or `A(theta, control)`, an array of any shape.

    Returns:
        `Estimate` of the shape of A, in units of A.

    Raises:
        ValueError: fewer than two independent runs, or samples that do not divide among
            them.
    """
    del sys
    values = _observe(observable, est.parts.samples, est.parts.point.control)
    return _propagate(est, lambda w: jnp.tensordot(w, values, 1))


def susceptibility(
    est: Estimate, sys: System, observable: Callable, conjugate: Callable | None = None
) -> Estimate:
    """Response of <A> to a field on B, chi_AB = d<A>/dh for U -> U - h B, at h = 0.

        chi_AB = beta (<A B> - <A><B>)

    Args:
        est: result of `log_partition`.
        sys: the same system.
        observable: `A(theta)` or `A(theta, control)`, an array of any shape [*a].
        conjugate: B likewise [*b]; A itself by default. The loss of one example as A and
            of others as B tells the influence of data on predictions, up to the sign:
            U -> U - h B takes weight from B's example.

    Returns:
        `Estimate` of shape [*a, *b].

    Raises:
        ValueError: see `mean`.

    Example:
        >>> from thermojax import SMC, gaussian_prior, log_partition, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = log_partition(sys, Point(3.0), jax.random.key(0), method=SMC(n=256))
        >>> chi = susceptibility(est, sys, lambda x: x)
        >>> bool(abs(chi.value - 0.75) < 4 * chi.stderr)  # beta / (1 + beta)
        True
    """
    del sys
    parts = est.parts
    a = _observe(observable, parts.samples, parts.point.control)
    b = a if conjugate is None else _observe(conjugate, parts.samples, parts.point.control)
    beta = jnp.asarray(parts.point.beta, a.dtype)
    return _propagate(est, lambda w: beta * _covariance(w, a, b))


def response(est: Estimate, sys: System, observable: Callable) -> Point:
    """d<A>/d(beta, control) at the point of an estimate, with errors.

        d<A>/dlam = <dA/dlam> - Cov(A, du/dlam),   u = beta U - log m

    A prior that depends on the control enters through log m; its normaliser drops out.

    Args:
        est: result of `log_partition`.
        sys: the same system; U, m and A must be differentiable in the control.
        observable: `A(theta)` or `A(theta, control)`, an array of any shape [*a].

    Returns:
        `Point` of `Estimate`s: `.beta` has the shape [*a], `.control` the structure of the
        control with shapes [*a, *leaf].

    Raises:
        ValueError: see `mean`.

    Example:
        >>> from thermojax import SMC, gaussian_prior, log_partition, system
        >>> sys = system(lambda x, k: 0.5 * k * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = log_partition(
        ...     sys, Point(1.0, 1.0), jax.random.key(0), method=SMC(n=256)
        ... )
        >>> slope = response(est, sys, lambda x: x**2).control
        >>> bool(abs(slope.value + 0.25) < 4 * slope.stderr)  # -1 / (1 + k)^2
        True
    """
    parts = est.parts
    point = jax.tree.map(lambda x: jnp.asarray(x, est.value.dtype), parts.point)
    values = _observe(observable, parts.samples, point.control)
    fn = positional(observable, 2)
    forces = jax.vmap(lambda t: jax.grad(lambda p: reduced(sys, t, p))(point))(parts.samples)
    direct = jax.vmap(lambda t: jax.jacfwd(lambda p: jnp.asarray(fn(t, p.control)))(point))
    slopes = direct(parts.samples)

    def one(force, slope):
        total = lambda w: jnp.tensordot(w, slope, 1) - _covariance(w, values, force)
        return _propagate(est, total)

    return jax.tree.map(one, forces, slopes)


def _covariance(weights: Array, a: Array, b: Array) -> Array:
    """Weighted covariance [*a, *b], about the weighted means."""
    centred = a - jnp.tensordot(weights, a, 1)
    scaled = weights.reshape(-1, *[1] * (a.ndim - 1)) * centred
    return jnp.tensordot(scaled, b - jnp.tensordot(weights, b, 1), ((0,), (0,)))


def _propagate(est: Estimate, statistic: Callable[[Array], Array]) -> Estimate:
    """A statistic of normalised weights [n], with the error that the samples allow."""
    log_w, runs = _weights(est)
    count = log_w.shape[0]
    value = statistic(jax.nn.softmax(log_w))
    owner = jnp.arange(count) * runs // count
    without = lambda r: statistic(jax.nn.softmax(jnp.where(owner == r, -jnp.inf, log_w)))
    spread = jackknife(jax.lax.map(without, jnp.arange(runs)), runs)
    slopes = jax.jacrev(lambda x: statistic(jax.nn.softmax(x)))(log_w)
    kish = jnp.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w))
    n_eff = jnp.minimum(kish, est.n_eff)
    # slope in log w = weight x influence: the linearised error of independent samples
    within = jnp.sqrt(jnp.sum(slopes**2, axis=-1) * jnp.maximum(kish / n_eff, 1.0))
    flags = est.flags | raise_flags(
        (Flag.LOW_ESS, ~(n_eff >= LEAST)),
        (Flag.NONFINITE, ~jnp.isfinite(value)),
    )
    finite = jnp.isfinite(value)
    stderr = jnp.where(finite, jnp.maximum(spread, within), jnp.inf)
    return Estimate(value, stderr, within, n_eff, flags)


def _weights(est: Estimate) -> tuple[Array, int]:
    """Log weights and the number of runs that share them evenly."""
    parts: Any = est.parts
    log_w, runs = parts.log_weights, parts.runs_log_z.shape[0]
    if runs < 2 or log_w.shape[0] % runs:
        raise ValueError(
            f"error bars need independent runs of equal size, got {log_w.shape[0]} samples "
            f"of {runs} runs: use n_runs >= 4"
        )
    return log_w, runs
