"""How far from exact is too far: the only place where tolerances live.

A statistical assertion compares a mean over independent replicas (never over the steps of
one chain) with the exact law of the discretised chain, in units of its standard error, and
uses a fixed typed key. |z| < 5 fails by chance once in 1.7 million comparisons, so that a
suite of some hundred comparisons stays within a false-alarm budget of 1e-4. Every such test
is also run on planted bugs, which must be `caught`.
"""

from __future__ import annotations

import math

import numpy as np

LIMIT = 5.0
"""Standard errors: beyond it a correct program is called wrong."""

KS_LIMIT = 2.7
"""sqrt(n) times the Kolmogorov-Smirnov distance; exceeded with probability 9e-7."""

ULPS = 4
"""Units in the last place of the largest energy that a first law may lack."""

EXACT = 1e-10
"""Relative error of an identity computed in double precision."""


def z_score(samples_or_mean, exact, stderr=None) -> np.ndarray:
    """(mean - exact) / stderr, elementwise.

    Without `stderr` the first argument holds independent replicas along its leading axis,
    whose spread gives the error bar.
    """
    mean = np.asarray(samples_or_mean, np.float64)
    if stderr is None:
        stderr = mean.std(axis=0, ddof=1) / math.sqrt(len(mean))
        mean = mean.mean(axis=0)
    return (mean - np.asarray(exact, np.float64)) / np.asarray(stderr, np.float64)


def check(value, exact, stderr=None, limit: float = LIMIT) -> None:
    """Fail unless every entry lies within `limit` standard errors of the exact value."""
    z = z_score(value, exact, stderr)
    if not np.all(np.abs(z) < limit):
        raise AssertionError(f"exact {exact}: off by z = {np.round(z, 1)} standard errors")


def caught(value, exact, stderr=None, limit: float = LIMIT) -> None:
    """Fail unless some entry is off: the test must be able to see a planted bug."""
    z = z_score(value, exact, stderr)
    if not np.any(np.abs(z) > limit):
        raise AssertionError(f"a planted bug went unseen: z = {np.round(z, 1)}")


def covariance_z(samples, covariance) -> np.ndarray:
    """z of the second moments of centred Gaussian replicas [n, d] against [d, d].

    The error bars are those of the predicted law, sqrt((S_ii S_jj + S_ij^2) / n).
    """
    x = np.asarray(samples, np.float64)
    s = np.asarray(covariance, np.float64)
    seen = x.T @ x / len(x)
    stderr = np.sqrt((np.outer(np.diag(s), np.diag(s)) + s**2) / len(x))
    return z_score(seen, s, stderr)


def ks_distance(samples, cdf) -> float:
    """sqrt(n) sup |F_n - F| of replicas [n] against a distribution function."""
    x = np.sort(np.asarray(samples, np.float64))
    f, n = cdf(x), len(x)
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * float(np.max(np.maximum(f - steps[:-1], steps[1:] - f)))


def ulp(value, dtype=np.float32) -> np.ndarray:
    """Spacing of floats of `dtype` at the largest magnitude in `value`."""
    return np.spacing(np.max(np.abs(np.asarray(value))).astype(dtype)).astype(np.float64)
