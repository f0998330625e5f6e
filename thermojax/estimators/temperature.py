"""The temperature of an ensemble, fitted to the energies of its members.

    log p(E) / p_0(E) = const - (beta - beta_0) E

for any density of states, if both samples are canonical: beta - beta_0 is the slope of a
logistic regression that tells the two samples apart, and a curvature of the log ratio says
that one of them is not canonical at any temperature.

Source: specification of the core, 2.8 (`fit_temperature`); two samples compared by their
log ratio after Shirts 2013; error bar by the sandwich over walkers, derived here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.logistic import logistic_regression
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["fit_temperature"]

CURVED = 4.26
FEW = 10


def fit_temperature(
    energies: ArrayLike, reference: ArrayLike, beta_reference: ArrayLike
) -> Estimate:
    """beta = 1/T of a sample, from its energies and those of a canonical reference.

    Args:
        energies: [walkers] or [walkers, times] energies U of the ensemble in question.
            Walkers are independent, the times of one walker need not be.
        reference: likewise, of an ensemble known to be canonical for the same U and the
            same base measure.
        beta_reference: its beta.

    Returns:
        `Estimate` of beta, `parts` with "temperature" (1/beta), its "temperature_stderr" and
        "curvature_z", the z-score of a quadratic term in the log ratio. Flags:
        TEMPERATURE_MISMATCH if that is beyond 4.26 (no single temperature fits),
        POOR_OVERLAP, with nan and infinite error, if fewer than about ten members could
        belong to either sample.

    Raises:
        ValueError: another shape, fewer than two walkers, or (outside jit) energies that
            are not finite.

    Example:
        >>> draw = lambda i, beta: jax.random.exponential(jax.random.key(i), (4000,)) / beta
        >>> est = fit_temperature(draw(0, 2.0), draw(1, 1.0), 1.0)  # constant density of states
        >>> abs(float(est.value) - 2.0) < 3 * float(est.stderr), est.trusted
        (True, True)
    """
    energies, reference = _checked("energies", energies), _checked("reference", reference)
    return _fit(energies, reference, jnp.asarray(beta_reference))


def _checked(name: str, values: ArrayLike) -> Array:
    x = jnp.asarray(values)
    if x.ndim not in (1, 2) or x.shape[0] < 2:
        raise ValueError(
            f"{name} must be [walkers] or [walkers, times] with at least 2 walkers, "
            f"got shape {x.shape}"
        )
    if is_concrete(x) and not np.all(np.isfinite(x)):
        raise ValueError(f"{name} holds values that are not finite: a walker blew up")
    return x.reshape(x.shape[0], -1)


@jax.jit
def _fit(energies: Array, reference: Array, beta_reference: Array) -> Estimate:
    flat = jnp.concatenate([energies.ravel(), reference.ravel()])
    label = jnp.concatenate([jnp.ones(energies.size), jnp.zeros(reference.size)])
    walker = jnp.concatenate(
        [
            jnp.repeat(jnp.arange(energies.shape[0]), energies.shape[1]),
            energies.shape[0] + jnp.repeat(jnp.arange(reference.shape[0]), reference.shape[1]),
        ]
    )
    count = energies.shape[0] + reference.shape[0]
    unit = jnp.std(flat)
    x = (flat - jnp.mean(flat)) / unit
    line, line_error, shared = _regression(
        jnp.stack([jnp.ones_like(x), x], 1), label, walker, count
    )
    features = jnp.stack([jnp.ones_like(x), x, x**2 - 1], 1)
    parabola, parabola_error, _ = _regression(features, label, walker, count)
    curvature_z = parabola[2] / parabola_error[2]
    beta, error = beta_reference - line[1] / unit, line_error[1] / unit
    lost = ~(shared > FEW)
    beta, error = jnp.where(lost, jnp.nan, beta), jnp.where(lost, jnp.inf, error)
    flags = raise_flags(
        (Flag.TEMPERATURE_MISMATCH, jnp.abs(curvature_z) > CURVED),
        (Flag.POOR_OVERLAP, lost),
        (Flag.NONFINITE, ~lost & ~jnp.isfinite(beta)),
    )
    parts = {
        "temperature": 1 / beta,
        "temperature_stderr": error / beta**2,
        "curvature_z": curvature_z,
    }
    return Estimate(beta, error, error, jnp.asarray(float(count)), flags, parts)


def _regression(features, label, walker, count):
    """Coefficients, their errors with walkers as independent units, undecided walkers."""
    start = jnp.zeros(features.shape[1], features.dtype)
    fit = logistic_regression(features, label, jnp.zeros(()), start)
    p = jax.nn.sigmoid(features @ fit.value)
    scores = features * (label - p)[:, None]
    sums = jax.ops.segment_sum(scores, walker, count)
    bread = fit.covariance
    shared = jnp.where(fit.separable, 0.0, 4 * jnp.mean(p * (1 - p)) * count)
    return fit.value, jnp.sqrt(jnp.diag(bread @ (sums.T @ sums) @ bread)), shared
