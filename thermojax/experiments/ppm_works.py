"""Dissipated work of sampled labels, and the heat that a reservoir takes up.

    C  (naive - finite) / naive entropy of the reservoir, C = d / 2
    D  ln P(s) / P~(-s) = s and <exp(-s)> = 1 for s = beta (W - Delta F)

Source: specification of the theory, section 8, experiments C and D; the theorems are
Crooks 1999 and Jarzynski 1997.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.estimators.fluctuation import detailed_fluctuation, integral_fluctuation
from thermojax.theories.ppm.reservoir import reservoir_entropy_change
from thermojax.typing import Array, Key

__all__ = ["fluctuation", "most_dragged", "reservoir_deviation", "work_dissipated"]


def reservoir_deviation(heat: np.ndarray, hidden: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Numbers of parameters d, and (naive - finite) / naive entropy with C = d / 2.

    Args:
        heat: [N] Q_X of every step of one network, T = 1.
        hidden: widths of the networks that take it up.
    """
    size = np.array([64 * width + width + 10 * width + 10 for width in hidden])
    with jax.enable_x64(True):  # a difference of nearly equal numbers
        heat = np.asarray(heat, float)
        naive = float(reservoir_entropy_change(heat, 1.0))
        finite = [float(reservoir_entropy_change(heat, 1.0, d / 2)) for d in size]
    return size, (naive - np.array(finite)) / naive


@functools.partial(jax.jit, static_argnames="n_draws")
def work_dissipated(key: Key, log_p: Array, n_draws: int) -> Array:
    """s = beta (W - Delta F) of fresh labels along a path of parameters, in nats.

        s = sum_n ln p(x_n | theta_n) / p(x_n | theta_{n+1}),   x_n ~ p(. | theta_n)

    Z = 1 at every theta, so that Delta F = 0. The reverse process is `log_p[::-1]`.

    Args:
        key: of the labels.
        log_p: [N+1, U, K] log-probabilities along the path.
        n_draws: label paths per input.

    Returns:
        [U, n_draws].

    Source: Crooks 1999 (standard); specification, sections 2.2 and 2.5.

    Example:
        >>> log_p = jnp.log(jnp.array([[[0.5, 0.5]], [[0.5, 0.5]]]))
        >>> work_dissipated(jax.random.key(0), log_p, 3).tolist()
        [[0.0, 0.0, 0.0]]
    """

    def step(total, now):
        key, here, there = now
        edges = jnp.cumsum(jnp.exp(here), axis=-1)[:, None, :-1]
        uniform = jax.random.uniform(key, total.shape, total.dtype)
        label = jnp.sum(uniform[..., None] > edges, axis=-1)
        return total + jnp.take_along_axis(here - there, label, axis=-1), None

    start = jnp.zeros((log_p.shape[1], n_draws), log_p.dtype)
    keys = jax.random.split(key, log_p.shape[0] - 1)
    return jax.lax.scan(step, start, (keys, log_p[:-1], log_p[1:]))[0]


def fluctuation(forward: Array, backward: Array, bins: int = 40) -> dict[str, np.ndarray]:
    """Both fluctuation theorems put to dissipated works of a process and its reverse.

    The slope is fitted to bins with at least 50 members of both, with weights
    1 / (1/n_f + 1/n_b); nan if fewer than three bins have them. The mean of exp(-s) is
    flagged where the reverse process says that the members that carry it were too rare to
    be seen: about exp(<s> of the reverse) members are needed (Jarzynski 2006).
    """
    f, b = np.asarray(forward, float).ravel(), np.asarray(backward, float).ravel()
    whole = integral_fluctuation(f)
    # exp(mean of the reverse) members are needed, however well those at hand agree
    scarce = raise_flags((Flag.LOW_ESS, b.mean() > np.log(len(f) / 50)))
    edges = np.histogram_bin_edges(np.concatenate([f, -b]), bins)
    # in a wide range with a narrow peak 40 equal bins hold everything in one of them
    middle = np.quantile(np.concatenate([f, -b]), [0.001, 0.999])
    if middle[1] - middle[0] < 0.5 * (edges[-1] - edges[0]) and middle[1] > middle[0]:
        edges = np.linspace(*middle, bins + 1)
    found = detailed_fluctuation(f, b, edges)
    counts = [np.histogram(x, edges)[0] for x in (f, -b)]
    use = (counts[0] >= 50) & (counts[1] >= 50)
    slope, error, intercept = math.nan, math.inf, math.nan
    centres, ratio = np.asarray(found.centres, float), np.asarray(found.log_ratio, float)
    if use.sum() >= 3:
        weight = 1 / (1 / counts[0][use] + 1 / counts[1][use])
        x, y = centres[use], ratio[use]
        at = np.average(x, weights=weight)
        spread = np.sum(weight * (x - at) ** 2)
        slope = np.sum(weight * (x - at) * y) / spread
        intercept = np.average(y, weights=weight) - slope * at
        error = 1 / math.sqrt(spread)
    return {
        "mean_exp": np.asarray(whole.mean_exp, float),
        "mean_exp_stderr": np.asarray(whole.standard_error, float),
        "ess": np.asarray(whole.effective_sample_size, float),
        "flags": np.asarray(whole.flags | scarce, np.uint32),
        "mean": f.mean(),
        "slope": np.asarray(slope),
        "slope_stderr": np.asarray(error),
        "intercept": np.asarray(intercept),
        "centres": centres,
        "log_ratio": np.where(use, ratio, np.nan),
        "log_ratio_stderr": np.asarray(found.stderr, float),
        "forward_counts": counts[0],
        "backward_counts": counts[1],
    }


def most_dragged(paths: np.ndarray) -> int:
    """Which network dissipates most, of [N+1, E, U, K] log-probabilities."""
    dissipated = np.exp(paths[:-1]) * (paths[:-1] - paths[1:])
    return int(np.argmax(dissipated.sum((0, 2, 3))))
