"""Squared-error energies, U = |y - f|^2 / (2 noise^2), and their exact Gaussian part.

beta and noise enter only through t = beta / noise^2, so one function of t gives log Z,
<U> and Var U at every beta and every noise, and the evidence

    log p(y) = log Z(1) - (n/2) log(2 pi noise^2)

Source: core table rows T11, T12, T14, T15, T23 and section 3.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.exact.solvable import Moments, Solvable, finite, positive

__all__ = ["LeastSquares", "SquaredError", "checked_data", "gaussian_layer", "noise_of"]


def noise_of(control, default):
    """The noise in `control`, a scalar or a pytree with one leaf; `default` without one."""
    leaves = jax.tree.leaves(control)
    if len(leaves) > 1:
        raise ValueError(
            f"the control of a least-squares system is its noise alone, got {len(leaves)} "
            "leaves; give a scalar, or () for the default noise"
        )
    return leaves[0] if leaves else default


@dataclasses.dataclass(frozen=True)
class SquaredError:
    """Energy of one example (x, y): (y - predict(theta, x))^2 / (2 noise^2)."""

    predict: Callable
    noise: float

    def __call__(self, theta, control, example):
        """The control is the noise, or `()` for the default noise."""
        dtype = jnp.result_type(*jax.tree.leaves(theta))
        x, y = (leaf.astype(dtype) for leaf in example)
        noise = jnp.asarray(noise_of(control, self.noise), dtype)
        return 0.5 * ((y - self.predict(theta, x)) / noise) ** 2


@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares(Solvable):
    """A solvable system with a squared-error energy; beta methods also take a noise.

    Here `moments_fn` maps t = beta / noise^2 to the moments of K = |y - f|^2 / 2. The
    system's control is the noise too: `()` (or `{}`) means the default, a scalar (or a
    pytree with one leaf) replaces it, so that d log Z / d noise can be tested:

        d log Z / d noise = 2 beta <U> / noise

    Attributes:
        noise: default standard deviation of the targets.
        n_examples: number of examples n.
    """

    noise: float = 1.0
    n_examples: int = 0

    def moments(self, beta, noise=None) -> Moments:
        """Exact log Z, <U> and Var U; beta and noise broadcast against each other."""
        noise = positive("noise", self.noise if noise is None else noise)
        beta, noise = np.broadcast_arrays(np.asarray(beta, np.float64), noise)
        flat = [
            self.moments_fn(self._checked(float(b)) / s**2).scaled(1 / s**2)
            for b, s in zip(beta.ravel(), noise.ravel().tolist(), strict=True)
        ]
        columns = zip(*flat, strict=True) if flat else ((), (), ())
        return Moments(*(np.asarray(c, np.float64).reshape(beta.shape)[()] for c in columns))

    def log_partition(self, beta, noise=None):
        """Exact log Z(beta; noise), relative to the normalised prior."""
        return self.moments(beta, noise).log_z

    def internal_energy(self, beta, noise=None):
        """<U> = -d log Z / d beta."""
        return self.moments(beta, noise).mean

    def entropy(self, beta, noise=None):
        """S = beta <U> + log Z = -KL(posterior || prior)."""
        exact = self.moments(beta, noise)
        return np.asarray(beta, np.float64) * exact.mean + exact.log_z

    def heat_capacity(self, beta, noise=None):
        """C = beta^2 Var U."""
        return np.asarray(beta, np.float64) ** 2 * self.moments(beta, noise).variance

    @property
    def log_evidence(self) -> float:
        """Evidence log p(y) = log Z(1) - (n/2) log(2 pi noise^2), in nats."""
        normaliser = 0.5 * self.n_examples * math.log(2 * math.pi * self.noise**2)
        return float(self.log_partition(1.0)) - normaliser


def gaussian_layer(t: float, prior_variance, square, eigenvalues, projections):
    """Moments of K = |y - Phi a|^2 / 2 with weights a ~ N(0, s^2) integrated exactly.

        log z(t) = -t |y|^2 / 2 + sum_i [-log(1 + S l_i) / 2 + t S p_i / (2 (1 + S l_i))]

    with S = t s^2, in the eigenbasis of Phi^T Phi.

    Args:
        t: beta / noise^2.
        prior_variance: s^2.
        square: |y|^2.
        eigenvalues: sequence of l_i of Phi^T Phi, arrays of one shape.
        projections: sequence of p_i = (v_i . Phi^T y)^2, of the same shape.

    Returns:
        log z, mean and variance of K, arrays of that shape.
    """
    strength = t * prior_variance
    log_z, mean, variance = -0.5 * t * square, 0.5 * square, 0.0
    for value, projection in zip(eigenvalues, projections, strict=True):
        wide = 1 + strength * value
        width = prior_variance * value / wide
        log_z = (
            log_z - 0.5 * np.log1p(strength * value) + 0.5 * t * strength * projection / wide
        )
        mean = mean + 0.5 * width - 0.5 * strength * projection * (1 + wide) / wide**2
        variance = variance + 0.5 * width**2 + prior_variance * projection / wide**3
    return log_z, mean, variance


def checked_data(x, y, *, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [n] or [n, d] and targets [n] as float64.

    Raises:
        ValueError: shapes that disagree, or values that are not finite.
    """
    x, y = finite("the inputs", x), finite("the targets", y)
    if x.ndim != ndim or y.ndim != 1 or len(x) != len(y):
        expected = "[n]" if ndim == 1 else "[n, d]"
        raise ValueError(
            f"inputs must have shape {expected} and targets [n], got {x.shape} and {y.shape}"
        )
    return x, y
