"""Thermodynamic ledgers of an ensemble of networks that generates fresh samples.

With U = -T log p(x|theta) (so Z = 1 and F = 0) and one mixture plug-in throughout, the
central identity closes to round-off, step by step:

    Delta S(X) - Q/T   =   <log p_n / p_{n+1}>   +   Delta I(X; Theta)
    interval EP            conditional EP            information gain

Source: specification of the PPM theory, sections 2.2, 2.4 and 3.3(e). The interval EP with
the parameters as X's reservoir is our reading of Parsi 2024 ([paper?]); the identity as
derived there is ours; conditional EP: Crooks & Still 2019 (standard).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import union
from thermojax.estimators.information import (
    InformationBounds,
    check_normalised,
    ensemble_information,
    error_of_mean,
    mixture_information,
)
from thermojax.theories.ppm.ensembles import leading_axes, log_likelihood_matrix
from thermojax.typing import Array, ArrayLike, PyTree, ShapeError, is_concrete

__all__ = ["EnsembleLedger", "categorical_ledger", "sample_ledger"]


class EnsembleLedger(NamedTuple):
    """Thermodynamics of sample generation along training; a pytree.

    N steps, N + 1 states. Cumulative sums of the increments give intervals.

    Attributes:
        entropy_x: [N+1] S(X) of the ensemble's mixture, nats.
        entropy_x_given_theta: [N+1] S(X|Theta), nats.
        info_lower: [N+1] lower bound of I(X; Theta), nats: the mixture's plug-in.
        info_upper: [N+1] upper bound; with it the interval EP is
            ep_conditional + diff(info_upper).
        heat_x: [N] Q_X absorbed by X, energy; -Q_X is dumped in Theta.
        work: [N] W done on X by moving theta, energy.
        ep_x: [N] interval EP Delta S(X) - Q_X/T, nats.
        ep_conditional: [N] mean KL(p_n || p_{n+1}), nats.
        standard_error: dict of the above names (`info` for both bounds), over networks.
        saturated: [N+1] the information reaches log E - 1: more networks are needed.
        flags: uint32 bit set of all states.
    """

    entropy_x: Array
    entropy_x_given_theta: Array
    info_lower: Array
    info_upper: Array
    heat_x: Array
    work: Array
    ep_x: Array
    ep_conditional: Array
    standard_error: dict[str, Array]
    saturated: Array
    flags: Array


def categorical_ledger(log_p: ArrayLike, temperature: ArrayLike = 1.0) -> EnsembleLedger:
    """Ledger of E classifiers along N training steps, by enumeration of the labels.

        W_n/T = KL(p_n || p_{n+1}) = ep_conditional,   Q_n/T = H(p_{n+1}) + <log p_{n+1}>_n

    averaged over networks and contexts; fresh labels at every step.

    Args:
        log_p: [N+1, E, ..., K] normalised log probabilities; middle axes are fixed
            contexts (inputs), averaged over.
        temperature: T of the energy U = -T log p; multiplies heats and work only.

    Returns:
        `EnsembleLedger`. A label that loses all its probability costs ep_conditional = inf.

    Raises:
        ValueError: fewer than three axes, no step, E < 2, rows that do not sum to 1, a
            temperature that is not positive.

    Source: specification 3.3(e) [ours as derived there].

    Example:
        >>> logits = jnp.linspace(0, 1, 30).reshape(3, 2, 5) ** 2
        >>> ledger = categorical_ledger(jax.nn.log_softmax(logits))
        >>> gap = ledger.ep_x - ledger.ep_conditional - jnp.diff(ledger.info_lower)
        >>> bool(jnp.max(jnp.abs(gap)) < 1e-5)
        True
    """
    log_p = jnp.asarray(log_p)
    if log_p.ndim < 3 or log_p.shape[0] < 2:
        raise ValueError(
            f"log_p has shape {log_p.shape}: give [N+1, E, ..., K] with at least one step"
        )
    _check(log_p.shape[1], temperature)
    check_normalised(log_p)
    return _categorical(log_p, temperature)


def sample_ledger(
    log_prob: Callable[[PyTree, PyTree], Array],
    params_path: PyTree,
    samples_path: PyTree,
    temperature: ArrayLike = 1.0,
    *,
    chunk: int | None = None,
) -> EnsembleLedger:
    """Ledger of E networks along N training steps, from fresh samples of each of them.

        W_n/T = <log p_n(x_n)/p_{n+1}(x_n)> = ep_conditional
        Q_n/T = <log p_{n+1}(x_n) - log p_{n+1}(x_{n+1})>

    with sample m of step n paired with sample m of step n+1. ep_conditional is a sample mean
    of a log ratio: it may be negative by its error.

    Args:
        log_prob: log density `(params, x) -> scalar` of one network and one sample.
        params_path: pytree, leading axes [N+1, E].
        samples_path: array or pytree, leading axes [N+1, E, M]; x_n ~ p(.|theta_n).
        temperature: T of the energy U = -T log p; multiplies heats and work only.
        chunk: networks evaluated at once, see `log_likelihood_matrix`.

    Returns:
        `EnsembleLedger`.

    Raises:
        ShapeError: leaves without the leading axes, or paths of different lengths.
        ValueError: no step, E < 2, a temperature that is not positive.

    Source: specification 3.3(e) [ours as derived there].

    Example:
        >>> log_prob = lambda theta, x: jax.scipy.stats.norm.logpdf(x, theta)
        >>> path = jnp.arange(6.0).reshape(3, 2)
        >>> sample_ledger(log_prob, path, path[..., None]).work
        Array([2., 2.], dtype=float32)
    """
    n, e, m = leading_axes(samples_path, 3, "samples_path")
    leading_axes(params_path, 2, "params_path", (n, e))
    if n < 2 or m < 1:
        raise ShapeError(
            f"samples_path has {n} states of {m} samples: give [N+1, E, M] with at least one "
            "step and one sample"
        )
    _check(e, temperature)
    one = jax.vmap(jax.vmap(log_prob, in_axes=(None, 0)))

    def state(now):
        params, samples = now
        ll = log_likelihood_matrix(log_prob, params, samples, chunk)
        log_mix = logsumexp(ll, axis=0) - math.log(e)
        # the pull of a network on everybody's mixture belongs to its influence on S(X)
        pull = jnp.mean(jnp.exp(ll - log_mix), axis=(1, 2))
        own = jnp.mean(jnp.diagonal(ll), axis=0)
        return -jnp.mean(log_mix, axis=1), -pull, -own, mixture_information(ll)

    mixed, pull, own, info = jax.lax.map(state, (params_path, samples_path))
    later = jax.tree.map(lambda x: x[1:], params_path)
    earlier = jax.tree.map(lambda x: x[:-1], samples_path)
    log_next, log_now = (
        jax.lax.map(lambda pair: one(*pair), (params, earlier))
        for params in (later, jax.tree.map(lambda x: x[:-1], params_path))
    )
    conditional = jnp.mean(log_now - log_next, axis=2)
    heat = own[1:] + jnp.mean(log_next, axis=2)
    return _ledger(mixed, mixed + pull, own, heat, conditional, info, temperature)


def _check(e: int, temperature: ArrayLike) -> None:
    if e < 2:
        raise ValueError(f"E={e} network: an information needs at least two")
    if is_concrete(temperature) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"temperature={temperature} must be positive")


@jax.jit
def _categorical(log_p: Array, temperature: ArrayLike) -> EnsembleLedger:
    e = log_p.shape[1]

    def mean_of(log_w, value):
        """[E] sum over labels, mean over contexts."""
        on = jnp.exp(log_w) > 0
        terms = jnp.where(on, jnp.exp(log_w) * jnp.where(on, value, 0.0), 0.0)
        return jnp.mean(jnp.sum(terms, axis=-1).reshape(e, -1), axis=1)

    def state(now):
        log_mix = logsumexp(now, axis=0) - math.log(e)
        return -mean_of(now, log_mix), -mean_of(now, now), ensemble_information(now)

    def step(pair):
        now, later = pair
        return mean_of(now, later), mean_of(now, now - later)

    mixed, own, info = jax.lax.map(state, log_p)
    log_next, conditional = jax.lax.map(step, (log_p[:-1], log_p[1:]))
    heat = own[1:] + log_next
    return _ledger(mixed, mixed, own, heat, conditional, info, temperature)


def _ledger(
    mixed: Array,
    influence: Array,
    own: Array,
    heat: Array,
    conditional: Array,
    info: InformationBounds,
    temperature: ArrayLike,
) -> EnsembleLedger:
    """Means and errors from the terms of every network, [N+1, E] and [N, E], in nats."""
    mean = functools.partial(jnp.mean, axis=1)
    error = lambda terms: error_of_mean(jax.lax.stop_gradient(terms), axis=1)
    entropy = mean(mixed)
    temperature = jnp.asarray(temperature, entropy.dtype)
    return EnsembleLedger(
        entropy_x=entropy,
        entropy_x_given_theta=mean(own),
        info_lower=info.lower,
        info_upper=info.upper,
        heat_x=temperature * mean(heat),
        work=temperature * mean(conditional),
        ep_x=jnp.diff(entropy) - mean(heat),
        ep_conditional=mean(conditional),
        standard_error={
            "entropy_x": error(influence),
            "entropy_x_given_theta": error(own),
            "info": info.standard_error,
            "heat_x": temperature * error(heat),
            "work": temperature * error(conditional),
            "ep_x": error(jnp.diff(influence, axis=0) - heat),
            "ep_conditional": error(conditional),
        },
        saturated=info.saturated,
        flags=union(info.flags),
    )
