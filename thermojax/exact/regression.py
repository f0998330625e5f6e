"""Linear and logistic regression as ensembles over weights with a normal prior.

Both are finite sums over examples, data as leaves, so that minibatch kernels apply.

Source: core table rows T11 (linear), T12 (diabetes), T13 (logistic).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.exact.least_squares import (
    LeastSquares,
    SquaredError,
    checked_data,
    gaussian_layer,
)
from thermojax.exact.quadrature import DEPTH, integrate
from thermojax.exact.solvable import Moments, Solvable, finite, positive
from thermojax.priors import GaussianPrior, gaussian_prior
from thermojax.system import finite_sum

__all__ = ["diabetes", "linear_regression", "logistic_regression"]

_LOG_2PI = math.log(2 * math.pi)


def _linear(theta, x):
    return jnp.sum(x * theta)


def _prior(prior_scale, dim: int) -> tuple[np.ndarray, GaussianPrior]:
    scale = positive("prior_scale", prior_scale)
    if scale.shape not in ((), (dim,)):
        raise ValueError(f"prior_scale must have shape () or ({dim},), got {scale.shape}")
    leaf = float(scale) if scale.ndim == 0 else jnp.asarray(scale)
    return np.broadcast_to(scale, (dim,)), gaussian_prior(leaf, like=jnp.zeros(dim))


def linear_regression(X=None, y=None, noise: float = 0.5, prior_scale=1.0) -> LeastSquares:
    """Bayesian linear regression, in closed form at every beta and noise.

        U = |y - X w|^2 / (2 noise^2),    w ~ N(0, prior_scale^2)

    Args:
        X: inputs [n, d] as used (add a column of ones for a bias); four points on a line
            with a bias column if neither X nor y is given.
        y: targets [n].
        noise: standard deviation of the targets; a control replaces it (`LeastSquares`).
        prior_scale: standard deviation of the weights, scalar or [d].

    Returns:
        A solvable finite sum with theta [d] and `.log_evidence`.

    Raises:
        ValueError: shapes that disagree, noise or prior_scale not positive.

    Source: core table row T11; Bishop (2006), section 3.5.

    Example:
        >>> round(linear_regression().log_evidence, 10)
        -5.6763297585
    """
    if X is None and y is None:
        X, y = [[1, 0], [1, 1], [1, 2], [1, 3]], [0, 1, 1, 3]
    if X is None or y is None:
        raise ValueError("give both X and y, or neither for the built-in example")
    X, y = checked_data(X, y, ndim=2)
    noise = float(positive("noise", noise))
    dim = X.shape[1]
    scale, prior = _prior(prior_scale, dim)
    left, singular, _ = np.linalg.svd(X * scale, full_matrices=False)
    eigenvalues = singular**2
    projections = eigenvalues * (left.T @ y) ** 2

    def moments(t: float) -> Moments:
        return Moments(*gaussian_layer(t, 1.0, float(y @ y), eigenvalues, projections))

    data = (jnp.asarray(X), jnp.asarray(y))
    target = finite_sum(SquaredError(_linear, noise), data, prior=prior)
    return LeastSquares(target, moments, dim, noise=noise, n_examples=len(y))


def diabetes(noise: float = 0.7, prior_scale=0.3) -> LeastSquares:
    """Linear regression on scikit-learn's diabetes data (442 patients, 10 columns).

    Columns and target are standardised with ddof = 0; there is no bias column. Needs
    scikit-learn, imported on call.

    Args:
        noise: standard deviation of the standardised targets.
        prior_scale: standard deviation of the weights, scalar or [10].

    Returns:
        A solvable finite sum with theta [10] and `.log_evidence`.

    Source: core table row T12; Efron, Hastie, Johnstone, Tibshirani (2004).

    Example:
        >>> round(diabetes().log_evidence, 7)
        -487.2766097
    """
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    y = (y - y.mean()) / y.std()
    return linear_regression(X, y, noise, prior_scale)


def _logistic_error(theta, control, example):
    x, t = (leaf.astype(theta.dtype) for leaf in example)
    return jax.nn.softplus(-t * jnp.sum(x * theta))


def _labels(t: np.ndarray) -> np.ndarray:
    if np.all(np.isin(t, (-1, 1))):
        return t
    if np.all(np.isin(t, (0, 1))):
        return 2 * t - 1
    raise ValueError(f"labels must be -1 and +1 (or 0 and 1), got {np.unique(t)[:8]}")


def logistic_regression(X=None, t=None, prior_scale=2.0) -> Solvable:
    """Bayesian logistic regression with one or two weights, by quadrature.

        U = sum_i log(1 + exp(-t_i w . x_i)),    w ~ N(0, prior_scale^2)

    log Z(1) is the log evidence.

    Args:
        X: inputs [n, d], d = 1 or 2, as used; rows (1, x) with six x if nothing is given.
        t: labels [n], -1 and +1 (0 and 1 are understood too).
        prior_scale: standard deviation of the weights, scalar or [d].

    Returns:
        A solvable finite sum with theta [d].

    Raises:
        ValueError: d > 2, shapes that disagree, or other labels.

    Source: core table row T13.

    Example:
        >>> round(float(logistic_regression().log_partition(1.0)), 10)
        -4.5290214258
    """
    if X is None and t is None:
        X = [[1, x] for x in (-2, -1, -0.5, 0.5, 1, 2)]
        t = [-1, -1, 1, -1, 1, 1]
    if X is None or t is None:
        raise ValueError("give both X and t, or neither for the built-in example")
    X, t = checked_data(X, t, ndim=2)
    t = _labels(finite("t", t))
    dim = X.shape[1]
    if dim > 2:
        raise ValueError(
            f"quadrature covers at most 2 weights, X has {dim} columns; use fewer columns"
        )
    scale, prior = _prior(prior_scale, dim)

    def moments(beta: float) -> Moments:
        # outside this box the prior alone is DEPTH nats below the value at w = 0
        reach = math.sqrt(2 * (beta * len(t) * math.log(2) + DEPTH))

        def integrand(*axes):
            energy = np.zeros(())
            for row, label in zip(X * scale, t, strict=True):
                margin = label * sum(x * w for x, w in zip(row, axes, strict=True))
                energy = energy + np.logaddexp(0.0, -margin)
            log_prior = -0.5 * sum(w**2 for w in axes) - 0.5 * dim * _LOG_2PI
            return log_prior - beta * energy, energy, 0.0

        return integrate(integrand, [(-reach, reach)] * dim)

    data = (jnp.asarray(X), jnp.asarray(t))
    target = finite_sum(_logistic_error, data, prior=prior)
    return Solvable(target, moments, dim)
