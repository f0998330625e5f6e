"""Linear models: the transition from a drawn to the trained state, and its asymptotics.

    T = (E_init - E_min) / S_delta[init]

E from `linear_energy`, the trained state a point at the minimum, whose resolved entropy is
zero. As the initial variance grows T rises as sigma^2 (mse) or sigma (mae, bce, softmax) over
ln(sigma / delta); as it falls to the resolution S_delta -> 0 and T rises again: it has a
minimum in between.

Source: our definition, following the programme of Zhang (2024); expansions derived here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.scipy.stats import norm

from thermojax.theories.temperature.densities import Density
from thermojax.theories.temperature.entropy import entropy
from thermojax.theories.temperature.linear_law import linear_law, prediction_moments
from thermojax.theories.temperature.linear_losses import (
    check_data,
    linear_energy,
    reduce_rows,
)
from thermojax.theories.temperature.linear_minimum import LinearMinimum, linear_minimum
from thermojax.theories.temperature.logsumexp import mean_maximum
from thermojax.theories.temperature.states import State, Transition, transition
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["linear_asymptotic", "linear_transition"]

REGIMES = ("large_variance", "small_variance", "many_classes")


def linear_transition(
    x: ArrayLike,
    y: ArrayLike,
    init: Mapping[str, Density | None],
    *,
    loss: str,
    resolution: PyTree,
    minimum: LinearMinimum | ArrayLike | None = None,
    reduction: str = "mean",
    num_classes: int | None = None,
    method: str = "auto",
) -> Transition:
    """The transition from a drawn linear model to its minimum, and its temperature.

    Args:
        x: [n, d].
        y: [n].
        init: {"w": density, "b": density or None}; without "b" the minimum has none either.
        loss: see `linear_energy`.
        resolution: delta to which parameters are known: a scalar, or {"w": ..., "b": ...}.
        minimum: of the same data, as a `LinearMinimum` or its energy; found if not given.
        reduction: "mean" or "sum".
        num_classes: C of softmax_ce.
        method: see `linear_energy`.

    Raises:
        ValueError: no resolution (a trained model is a point); see `linear_energy`.

    Example:
        >>> from thermojax.theories.temperature.densities import Normal
        >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 0.0, 3.0])
        >>> init = {"w": Normal(0.0, 1.0), "b": Normal(0.0, 0.5)}
        >>> found = linear_transition(x, y, init, loss="mse", resolution=0.1)
        >>> print(f"{found.temperature:.4f}")
        1.1078
    """
    if resolution is None:
        raise ValueError(
            "a trained model is a point of entropy -inf: give resolution=, the length to "
            "which parameters are known"
        )
    options = {"loss": loss, "reduction": reduction, "num_classes": num_classes}
    initial = linear_energy(x, y, init, method=method, **options)
    has_bias = init.get("b") is not None
    if minimum is None:
        minimum = linear_minimum(x, y, fit_intercept=has_bias, **options)
    lowest = minimum.energy if isinstance(minimum, LinearMinimum) else jnp.asarray(minimum)
    tail = () if num_classes is None else (num_classes,)
    kind = initial.dtype
    shapes = {"w": jax.ShapeDtypeStruct((jnp.shape(x)[1], *tail), kind)}
    densities = {"w": init["w"]}
    if has_bias:
        shapes["b"], densities["b"] = jax.ShapeDtypeStruct(tail, kind), init["b"]
    if isinstance(resolution, Mapping):
        resolution = {name: resolution[name] for name in shapes}
    known = entropy(densities, shapes, resolution=resolution)
    return transition(State(initial, known), State(lowest, jnp.zeros((), kind)))


def linear_asymptotic(
    x: ArrayLike,
    y: ArrayLike,
    init: Mapping[str, Density | None],
    *,
    loss: str,
    regime: str = "large_variance",
    reduction: str = "mean",
    num_classes: int | None = None,
) -> Array:
    """E of a drawn linear model in a limit of its initialisation.

    With v the variance of a prediction, s its root, mu its mean (less the target for mae)
    and k4 = -(2/15) sum_j a_j^4 the fourth cumulant of its uniform parts:

    | loss | large_variance | small_variance |
    |---|---|---|
    | mse | v, error O(1) | (mu - y)^2 + v, exact |
    | mae | s sqrt(2/pi) (1 + mu^2/2v - k4/24v^2), O(s^-3) (normal) | abs(mu), O(e^(-mu^2/2v)) |
    | bce | s phi(u) + mu Phi(u) + pi^2 phi(u)/6s - y mu, O(s^-3), u = mu/s | to O(s^6) |
    | softmax_ce | e_C (s + pi^2/12s), O(s^-2) | ln C + (v/2)(1 - 1/C)(1 - v/2C), O(s^6) |

    "many_classes" (softmax_ce): ln C + v/2 - (e^v - 1)/2C, O(C^-2) for v < 2 ln C. The
    softmax's forms hold for equal logits of mean 0. Many uniform parts are nearly normal:
    relative error O(k^-2) for mae.

    Args:
        x: [n, d].
        y: [n].
        init: {"w": density, "b": density or None}.
        loss: see `linear_energy`.
        regime: "large_variance", "small_variance" or "many_classes".
        reduction: "mean" or "sum".
        num_classes: C of softmax_ce.

    Raises:
        ValueError: an unknown regime, or one that the loss does not have.
    """
    x, y = check_data(x, y, loss, reduction, num_classes)
    if regime not in REGIMES:
        raise ValueError(f"regime={regime!r} is unknown: use one of {', '.join(REGIMES)}")
    if regime == "many_classes" and num_classes is None:
        raise ValueError(f"regime='many_classes' is the softmax's, not that of {loss}")
    large = regime == "large_variance"
    if loss in ("mse", "half_mse"):
        mean, v = prediction_moments(x, init)
        rows = (1.0 if loss == "mse" else 0.5) * (v + (0.0 if large else (mean - y) ** 2))
        return reduce_rows(rows, reduction)
    law = linear_law(x, init, num_classes)
    s, fourth = law.spread, -2 / 15 * jnp.sum(law.widths**4, axis=1)
    if loss == "mae":
        rows = _absolute(law.mean - y, s, fourth, large)
    elif loss == "bce":
        rows = _softplus(law.mean, s, fourth, large) - y * law.mean
    else:
        assert num_classes is not None
        rows = _softmax(s[:, 0], num_classes, regime)
    return reduce_rows(rows, reduction)


def _absolute(mu: Array, s: Array, fourth: Array, large: bool) -> Array:
    if not large:
        return jnp.abs(mu)
    shape = 1 + mu**2 / (2 * s**2) - fourth / (24 * s**4)
    return math.sqrt(2 / math.pi) * s * shape


def _softplus(mu: Array, s: Array, fourth: Array, large: bool) -> Array:
    if large:
        peak = norm.pdf(mu / s)
        return s * peak + mu * ndtr(mu / s) + math.pi**2 / 6 * peak / s
    first = jax.nn.sigmoid(mu) * jax.nn.sigmoid(-mu)
    third = first * (1 - 6 * first)
    return jax.nn.softplus(mu) + 0.5 * s**2 * first + (3 * s**4 + fourth) * third / 24


def _softmax(s: Array, count: int, regime: str) -> Array:
    if regime == "large_variance":
        return mean_maximum(count) * (s + math.pi**2 / (12 * s))
    if regime == "small_variance":
        return math.log(count) + (0.5 * s**2 - s**4 / (4 * count)) * (1 - 1 / count)
    return math.log(count) + 0.5 * s**2 - jnp.expm1(s**2) / (2 * count)
