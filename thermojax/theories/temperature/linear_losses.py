"""Mean loss of a random linear model, exactly or by deterministic quadrature.

    E = mean_i E loss(z_i, y_i),   z_i = (x_i, 1) . theta,   theta ~ product density

| loss | per datum | E, exact for |
|---|---|---|
| mse, half_mse | (z - y)^2, half of it | every density: only two moments enter |
| mae | abs(z - y) | closed form: normal, one uniform part, up to three uniform parts alone |
| bce | softplus(z) - y z, y in {0, 1} | quadrature |
| softmax_ce | ln sum e^z - z_y | quadrature |

Source: our definition, following the programme of Zhang (2024); formulas derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from thermojax.theories.temperature.absolute import mean_absolute
from thermojax.theories.temperature.densities import Density
from thermojax.theories.temperature.linear_law import linear_law, prediction_moments
from thermojax.theories.temperature.logsumexp import logsumexp_of_law, mean_softplus
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["LOSSES", "check_data", "linear_energy", "linear_loss", "reduce_rows"]

LOSSES = ("mse", "half_mse", "mae", "bce", "softmax_ce")


def check_data(
    x: ArrayLike, y: ArrayLike, loss: str, reduction: str, num_classes: int | None
) -> tuple[Array, Array]:
    """x [n, d] and y [n] as arrays.

    Raises:
        ValueError: unknown loss or reduction, shapes that differ, labels that the loss does
            not know, a softmax without its number of classes.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is unknown: use one of {', '.join(LOSSES)}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r} is unknown: use 'mean' or 'sum'")
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"x of shape {x.shape} and y of shape {y.shape}: give [n, d] and [n]")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.result_type(float))
    if (loss == "softmax_ce") != (num_classes is not None):
        raise ValueError(
            f"num_classes={num_classes}: softmax_ce needs it, the other losses do not take it"
        )
    if is_concrete(y):
        labels = np.unique(np.asarray(y, np.float64))
        if loss == "bce" and not np.all(np.isin(labels, (0, 1))):
            raise ValueError(f"bce needs labels 0 and 1, got {labels[:5]}: encode them so")
        if num_classes is not None and (
            not np.all(labels == np.round(labels))
            or labels.min() < 0
            or labels.max() >= num_classes
        ):
            raise ValueError(
                f"softmax_ce needs whole labels from 0 to {num_classes - 1}, got {labels[:5]}"
            )
    return x, (y.astype(jnp.int32) if loss == "softmax_ce" else y.astype(x.dtype))


def reduce_rows(values: Array, reduction: str) -> Array:
    """Mean over the data, or their sum."""
    return jnp.mean(values) if reduction == "mean" else jnp.sum(values)


def linear_loss(z: Array, y: Array, loss: str) -> Array:
    """Loss per datum [n] at predictions z [n] or [n, C]."""
    if loss in ("mse", "half_mse"):
        return (1.0 if loss == "mse" else 0.5) * (z - y) ** 2
    if loss == "mae":
        return jnp.abs(z - y)
    if loss == "bce":
        return jnp.logaddexp(0.0, z) - y * z
    top = jnp.max(z, axis=-1, keepdims=True)
    total = jnp.log(jnp.sum(jnp.exp(z - top), axis=-1)) + top[:, 0]
    return total - jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0]


def linear_energy(
    x: ArrayLike,
    y: ArrayLike,
    init: Mapping[str, Density | None],
    *,
    loss: str,
    reduction: str = "mean",
    method: str = "auto",
    num_classes: int | None = None,
) -> Array:
    """E of a random linear model on given data, unit of the loss.

    Args:
        x: [n, d].
        y: [n]; 0 or 1 for bce, whole numbers for softmax_ce.
        init: {"w": density of [d] or [d, C], "b": density or None}.
        loss: "mse", "half_mse", "mae", "bce" or "softmax_ce".
        reduction: "mean" over the data or their "sum"; T_sum = n T_mean.
        method: "auto" (closed form where there is one) or "quadrature".
        num_classes: C of softmax_ce, static.

    Raises:
        ValueError: see `check_data`; a density without a closed law.

    Example:
        >>> from thermojax.theories.temperature.densities import Normal
        >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 0.0, 3.0])
        >>> init = {"w": Normal(0.0, 1.0), "b": Normal(0.0, 0.5)}
        >>> print(f"{linear_energy(x, y, init, loss='mse'):.2f}")
        5.25
    """
    x, y = check_data(x, y, loss, reduction, num_classes)
    if method not in ("auto", "quadrature"):
        raise ValueError(f"method={method!r} is unknown: use 'auto' or 'quadrature'")
    return reduce_rows(_rows(x, y, init, loss, method, num_classes), reduction)


def _rows(x: Array, y: Array, init: Any, loss: str, method: str, num_classes: Any) -> Array:
    if loss in ("mse", "half_mse"):
        mean, variance = prediction_moments(x, init)
        return (1.0 if loss == "mse" else 0.5) * ((mean - y) ** 2 + variance)
    law = linear_law(x, init, num_classes)
    if loss == "mae":
        return mean_absolute(law._replace(mean=law.mean - y), method=method)
    if loss == "bce":
        return mean_softplus(law, method=method) - y * law.mean
    chosen = jnp.take_along_axis(law.mean, y[:, None], axis=1)[:, 0]
    return logsumexp_of_law(law) - chosen
