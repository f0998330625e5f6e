"""Mutual information between the members of an ensemble and what they put out.

Each member i has a known density p_i, and one of them is picked at random:

    lower = mean_i <log p_i(x) - log mean_j p_j(x)>         E lower <= I,  lower <= log N
    upper = mean_i <log p_i(x) - log mean_{j != i} p_j(x)>  E upper >= I

over x ~ p_i; the biases are -chi^2/(2N) and +chi^2/(2N) with chi^2 = E_x Var p(x|i)/p(x).
With x enumerable the average is a sum, otherwise a sample mean. The grouped forms ask for
the information about the group alone (components (h, l): group h, member l). Where the true
information passes log N the lower bound sticks there and the upper one explodes: SATURATED.

Error bars are over members (groups): an infinitesimal jackknife, which counts that every
member sits in everybody's mixture.

Source: specification of the PPM theory, section 3.3; van den Oord et al. 2018, Poole et al.
2019 (standard); the biases and the grouped forms are derived here.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.estimators.mixture import t_factor
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = [
    "InformationBounds",
    "check_normalised",
    "ensemble_information",
    "error_of_mean",
    "grouped_information",
    "grouped_mixture_information",
    "mixture_information",
]


class InformationBounds(NamedTuple):
    """A bracket of a mutual information, in nats; a pytree.

    The true value is bracketed in expectation, not by every data set.

    Attributes:
        lower: mean at most I; at most log N.
        upper: mean at least I; inf without overlap.
        midpoint: half their sum, bias O(1/N^2) once N >> chi^2.
        standard_error: the larger of the errors of the two bounds, over members (groups).
        saturated: lower > log N - 1 (log G - 1): the ensemble is too small for this much
            information. Always so with two members, whose log 2 is below one nat.
        flags: SATURATED; POOR_OVERLAP where an end is infinite; FEW_RUNS below four members.
    """

    lower: Array
    upper: Array
    midpoint: Array
    standard_error: Array
    saturated: Array
    flags: Array


def mixture_information(ll: ArrayLike) -> InformationBounds:
    """Bounds of I(X; Theta) from samples of every member, in nats.

        lower = mean_{i,m} [ll_iim - log mean_j e^{ll_jim}]       (InfoNCE, true densities)
        upper = mean_{i,m} [ll_iim - log mean_{j != i} e^{ll_jim}]          (leave one out)

    lower <= (1 - 1/N) upper for every data set, by convexity. Gradients are of the bounds:
    maximise lower, minimise upper; samples that depend on the parameters must be
    reparameterised, discrete ones need a score-function term besides.

    Args:
        ll: [N, N, M] log p(x_im | theta_j), index [model j, source i, sample m].

    Returns:
        `InformationBounds` of scalars; errors over sources i.

    Raises:
        ValueError: an array that is not [N, N, M] with N >= 2 and M >= 1.

    Source: van den Oord et al. 2018 and Poole et al. 2019 (standard), specification 3.3(a).

    Example:
        >>> ll = jnp.array([[-.2, -1.9, -3.1], [-1.5, -.4, -.9], [-2.7, -1.1, -.3]])
        >>> bounds = mixture_information(ll[..., None])
        >>> print(f"{bounds.lower:.4f} {bounds.upper:.4f}")
        0.6581 1.3133
    """
    ll = _floating(ll)
    if ll.ndim != 3 or ll.shape[0] != ll.shape[1] or ll.shape[2] < 1:
        raise ValueError(
            f"ll has shape {ll.shape}: give [N, N, M], models by sources by samples"
        )
    _at_least_two(ll.shape[0], "network", "N")
    return _mixture(ll)


def ensemble_information(log_p: ArrayLike, *, reduce: bool = True) -> InformationBounds:
    """Bounds of I(X; Theta) for enumerable outputs, without sampling noise, in nats.

        lower = H(mean_i p_i) - mean_i H(p_i)      (Jensen-Shannon divergence; BALD)
        upper = mean_i KL(p_i || mean_{j != i} p_j)

    lower <= (1 - 1/N) upper always. Time and memory are O(N): a leave-one-out mixture is
    the total less one member, summed anew only where that member dominates it.

    Args:
        log_p: [N, ..., K] normalised log probabilities of K outputs; middle axes are fixed
            contexts such as inputs.
        reduce: average over the middle axes; False keeps them in every field but `flags`.

    Returns:
        `InformationBounds`.

    Raises:
        ValueError: fewer than two axes, N < 2, or rows that do not sum to 1.

    Source: specification 3.3(b) (standard; the bias is ours).

    Example:
        >>> p = jnp.array([[.7, .2, .1], [.1, .6, .3], [.25, .25, .5]])
        >>> bounds = ensemble_information(jnp.log(p))
        >>> print(f"{bounds.lower:.4f} {bounds.upper:.4f}")
        0.1829 0.4456
    """
    log_p = _floating(log_p)
    if log_p.ndim < 2:
        raise ValueError(f"log_p has shape {log_p.shape}: give [N, ..., K]")
    _at_least_two(log_p.shape[0], "network", "N")
    check_normalised(log_p)
    return _enumerated(log_p[:, None], reduce=reduce)


def grouped_mixture_information(ll: ArrayLike) -> InformationBounds:
    """Bounds of I(Z; B) for G groups (datasets) of K seeds, from samples, in nats.

        lower = mean [log mean_{l != k} p_gl(z_gk) - log mean_{h,l} p_hl(z_gk)]
        upper = mean [log mean_l p_gl(z_gk) - log mean_{h != g, l} p_hl(z_gk)]

    Z is any variable with a known density per network: an output (L-info), or parameters
    after a Langevin kick, p_hl = N(theta - step grad, 2 step T) (M-info). For M-info the
    bracket is wide unless K exceeds within-group spread over kick width per dimension.
    One data set may have lower > upper.

    Args:
        ll: [G, K, G, K, M] log densities: first pair the component, second the source.

    Returns:
        `InformationBounds` of scalars; errors over groups.

    Raises:
        ValueError: a wrong shape, G < 2 or K < 2.

    Source: derived here; specification 3.3(c) [ours].

    Example:
        >>> ll = jnp.zeros((3, 2, 3, 2, 4))
        >>> abs(float(grouped_mixture_information(ll).upper)) < 1e-6
        True
    """
    ll = _floating(ll)
    if ll.ndim != 5 or ll.shape[:2] != ll.shape[2:4] or ll.shape[4] < 1:
        raise ValueError(
            f"ll has shape {ll.shape}: give [G, K, G, K, M], components by sources by samples"
        )
    _at_least_two(ll.shape[0], "group", "G")
    _at_least_two(ll.shape[1], "seed", "K")
    return _grouped_mixture(ll)


def grouped_information(log_p: ArrayLike, *, reduce: bool = True) -> InformationBounds:
    """Bounds of I(X; B) for G groups of K seeds and enumerable outputs, in nats.

        lower = mean_gk sum_x p_gk [log mean_{l != k} p_gl - log mean_{h,l} p_hl]
        upper = mean_g KL(mean_k p_gk || mean_{h != g, k} p_hk)

    lower <= (1 - 1/G) upper always: p log(KP - p) is concave in p, so lower is at most the
    Jensen-Shannon divergence of the group means, which obeys the ungrouped inequality.

    Args:
        log_p: [G, K, ..., X] normalised log probabilities of X outputs; middle axes are
            fixed contexts.
        reduce: average over the middle axes; False keeps them in every field but `flags`.

    Returns:
        `InformationBounds`; errors over groups.

    Raises:
        ValueError: fewer than three axes, G < 2, K < 2, or rows that do not sum to 1.

    Source: derived here; specification 3.3(c) [ours].

    Example:
        >>> p = jnp.array([[[.8, .2], [.6, .4]], [[.3, .7], [.1, .9]]])
        >>> bounds = grouped_information(jnp.log(p))
        >>> print(f"{bounds.lower:.4f} {bounds.upper:.4f}")
        0.0443 0.5584
    """
    log_p = _floating(log_p)
    if log_p.ndim < 3:
        raise ValueError(f"log_p has shape {log_p.shape}: give [G, K, ..., X]")
    _at_least_two(log_p.shape[0], "group", "G")
    _at_least_two(log_p.shape[1], "seed", "K")
    check_normalised(log_p)
    return _enumerated(log_p, reduce=reduce)


def error_of_mean(values: Array, axis: int = 0) -> Array:
    """Standard error of a mean of independent values, t-widened where they are few.

    Args:
        values: independent along `axis`.
        axis: the axis that is averaged.

    Returns:
        Standard errors, inf where a value is not finite.
    """
    n = values.shape[axis]
    centred = values - jnp.mean(values, axis=axis, keepdims=True)
    error = t_factor(n) * jnp.sqrt(jnp.sum(centred**2, axis=axis) / (n * (n - 1)))
    return jnp.where(jnp.isfinite(error), error, jnp.inf)


def check_normalised(log_p: Array) -> None:
    """Raise unless exp(log_p) sums to 1 over the last axis; silent under tracing.

    Args:
        log_p: [..., K] log probabilities.

    Raises:
        ValueError: the worst row sum, and the mend.
    """
    if not is_concrete(log_p):
        return
    excess = np.abs(np.asarray(logsumexp(log_p, axis=-1)))
    worst = np.nanmax(np.append(excess.ravel(), 0.0))
    if worst > (1e-6 if jnp.finfo(log_p.dtype).bits == 64 else 1e-3):
        raise ValueError(
            f"a row of log_p has |log of its sum| = {worst:.3g}: "
            "pass log probabilities, such as jax.nn.log_softmax(logits)"
        )


def _floating(x: ArrayLike) -> Array:
    """`x` as an array of its own float type."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _at_least_two(n: int, what: str, symbol: str) -> None:
    if n < 2:
        raise ValueError(f"{symbol}={n} {what}: an information needs at least two")


def _floored(log_p: Array) -> Array:
    """-inf made finite, so that zero probabilities have zero gradients; nan stays nan."""
    floor = jnp.finfo(log_p.dtype).min / 4
    return jnp.where(log_p < floor, floor, log_p)


def _restored(log_p: Array) -> Array:
    """The mixtures of floored values alone are -inf again."""
    return jnp.where(log_p < jnp.finfo(log_p.dtype).min / 8, -jnp.inf, log_p)


def _leave_one_out(log_p: Array, axis: int = 0) -> Array:
    """log sum_{j != i} p_j along `axis`, of floored values.

    The total less p_i loses at most a bit unless i is the largest, whose rest is summed.
    """
    floor = jnp.finfo(log_p.dtype).min / 4
    total = logsumexp(log_p, axis=axis, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, log_p.shape, axis % log_p.ndim)
    largest = place == jnp.argmax(log_p, axis=axis, keepdims=True)
    rest = logsumexp(jnp.where(largest, floor, log_p), axis=axis, keepdims=True)
    share = jnp.where(largest | (total < floor / 2), 0.5, jnp.exp(log_p - total))
    return jnp.where(largest, rest, total + jnp.log1p(-share))


def _average(log_p: Array, value: Array) -> Array:
    """sum_x p(x) value(x) over the last axis, with 0 times anything = 0."""
    p = jnp.exp(log_p)
    on = p > 0
    return jnp.sum(jnp.where(on, p * jnp.where(on, value, 0.0), 0.0), axis=-1)


def _bounds(
    lower: Array, upper: Array, pull_lower: ArrayLike, pull_upper: Array
) -> InformationBounds:
    """Bounds from the terms of every member, axis 0, and its pull on all mixtures."""
    n = lower.shape[0]
    influence = [jax.lax.stop_gradient(x) for x in (lower - pull_lower, upper - pull_upper)]
    error = jnp.maximum(*map(error_of_mean, influence))
    low, high = jnp.mean(lower, axis=0), jnp.mean(upper, axis=0)
    saturated = low > math.log(n) - 1
    flags = raise_flags(
        (Flag.SATURATED, saturated),
        (Flag.POOR_OVERLAP, jnp.isinf(low) | jnp.isinf(high)),
        (Flag.NONFINITE, jnp.isnan(low) | jnp.isnan(high)),
        (Flag.FEW_RUNS, n < 4),
    )
    return InformationBounds(low, high, 0.5 * (low + high), error, saturated, flags)


@functools.partial(jax.jit, static_argnames="reduce")
def _enumerated(log_p: Array, *, reduce: bool) -> InformationBounds:
    """Bounds about the group from [G, K, ..., X]; K = 1 is an ensemble without groups."""
    n, k = log_p.shape[:2]
    log_p = _floored(log_p)
    log_own = log_p if k == 1 else _restored(_leave_one_out(log_p, 1)) - math.log(k - 1)
    log_group = logsumexp(log_p, axis=1) - math.log(k)
    log_all = logsumexp(log_group, axis=0) - math.log(n)
    log_rest = _leave_one_out(log_group)
    lower = jnp.mean(_average(log_p, log_own - log_all), axis=1)
    upper = _average(log_group, log_group - _restored(log_rest) + math.log(n - 1))
    # sum_{i != g} <p_g / sum_{j != i} p_j>_i; the same for `lower` is 1 whatever the data
    pull = jnp.sum(jnp.exp(log_group + _leave_one_out(log_group - log_rest)), axis=-1)
    if reduce:
        lower, upper, pull = (jnp.mean(x.reshape(n, -1), axis=1) for x in (lower, upper, pull))
    return _bounds(lower, upper, 1.0, pull)


def _sampled(log_group: Array, own_lower: Array, own_upper: Array) -> InformationBounds:
    """Bounds from [G, G, S] component by source by sample and two [G, S] numerators."""
    n = log_group.shape[0]
    eye = jnp.eye(n, dtype=bool)[..., None]
    floor = jnp.finfo(log_group.dtype).min / 4
    rest = logsumexp(jnp.where(eye, floor, log_group), axis=0)
    every = jnp.logaddexp(rest, jnp.diagonal(log_group).T)
    lower = jnp.mean(own_lower - every + math.log(n), axis=1)
    upper = jnp.mean(own_upper - _restored(rest) + math.log(n - 1), axis=1)
    share = jnp.mean(jnp.exp(log_group - every), axis=2)
    others = jnp.mean(jnp.where(eye, 0.0, jnp.exp(log_group - rest)), axis=2)
    return _bounds(lower, upper, jnp.sum(share, axis=1), jnp.sum(others, axis=1))


@jax.jit
def _mixture(ll: Array) -> InformationBounds:
    own = jnp.diagonal(ll).T
    return _sampled(_floored(ll), own, own)


@jax.jit
def _grouped_mixture(ll: Array) -> InformationBounds:
    g, k, _, _, m = ll.shape
    ll = _floored(ll)
    log_group = (logsumexp(ll, axis=1) - math.log(k)).reshape(g, g, k * m)
    own = jnp.moveaxis(jnp.diagonal(ll, axis1=0, axis2=2), -1, 0)
    floor = jnp.finfo(ll.dtype).min / 4
    others = logsumexp(jnp.where(jnp.eye(k, dtype=bool)[..., None], floor, own), axis=1)
    own_lower = _restored(others) - math.log(k - 1)
    own_upper = jnp.diagonal(log_group).T
    return _sampled(log_group, own_lower.reshape(g, k * m), own_upper)
