"""Logistic regression with a known offset: the log odds of two classes, fitted.

    P(label = 1 | features) = sigmoid(offset + features . value)

Source: maximum likelihood by Newton's method; the likelihood is concave.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.typing import Array

__all__ = ["LogisticFit", "logistic_regression"]


class LogisticFit(NamedTuple):
    """Maximum of a logistic likelihood.

    Attributes:
        value: [p] coefficients.
        covariance: [p, p] inverse Fisher information.
        separable: no finite maximum exists: the labels never overlap.
    """

    value: Array
    covariance: Array
    separable: Array


def logistic_regression(
    features: Array, label: Array, offset: Array, start: Array
) -> LogisticFit:
    """Maximum-likelihood coefficients, by Newton steps that shrink until they help.

    Args:
        features: [n, p].
        label: [n] 0 or 1.
        offset: scalar, known part of the log odds.
        start: [p] where to begin.
    """
    sign = 2 * label - 1

    def loss(c):
        return jnp.mean(jax.nn.softplus(-sign * (offset + features @ c)))

    def curvature(c):
        p = jax.nn.sigmoid(offset + features @ c)
        return p, jnp.einsum("np,n,nq->pq", features, p * (1 - p), features)

    def newton(_, carry):
        c, best, scale = carry
        p, hessian = curvature(c)
        step = jnp.linalg.solve(hessian, features.T @ (label - p))
        trial = c + scale * step
        new = loss(trial)
        better = new <= best
        scale = jnp.where(better, jnp.minimum(2 * scale, 1.0), scale / 4)
        return jnp.where(better, trial, c), jnp.where(better, new, best), scale

    carry = (start, loss(start), jnp.ones((), start.dtype))
    c, best, _ = jax.lax.fori_loop(0, 30, newton, carry)
    covariance = jnp.linalg.inv(curvature(c)[1])
    return LogisticFit(
        c, covariance, ~(best * label.size > 0.1) | ~jnp.all(jnp.isfinite(covariance))
    )
