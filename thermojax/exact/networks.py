"""Networks with one hidden layer, one input, one output and no bias.

    f(x) = sum_j a_j phi(w_j x),    U = sum_i (y_i - f(x_i))^2 / (2 noise^2)

with independent normal priors. Given the input weights w the output weights a enter as in
linear regression and integrate exactly; w is left to quadrature in one or two dimensions.

Source: core table rows T14, T15 (tanh), T23 (relu); symmetry: section 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from thermojax.exact.least_squares import (
    LeastSquares,
    SquaredError,
    checked_data,
    gaussian_layer,
)
from thermojax.exact.quadrature import DEPTH, integrate
from thermojax.exact.solvable import Moments, positive
from thermojax.priors import gaussian_prior
from thermojax.system import finite_sum

__all__ = ["relu_network", "tanh_network"]

_LOG_2PI = math.log(2 * math.pi)
_INPUTS = (-1.0, 0.5, 1.5)


def _tanh_output(theta, x):
    return jnp.sum(theta["a"] * jnp.tanh(theta["w"] * x))


def _relu_output(theta, x):
    return jnp.sum(theta["a"] * jnp.maximum(theta["w"] * x, 0))


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _spectrum(features: list[np.ndarray], y: np.ndarray):
    """Eigenvalues of Phi^T Phi and squared projections of y for one or two units.

    Args:
        features: per unit, phi [nodes, n] on the nodes of that unit's input weight.
        y: targets [n].
    """
    squares = [np.sum(phi**2, axis=1) for phi in features]
    overlaps = [phi @ y for phi in features]
    if len(features) == 1:
        return squares, [overlaps[0] ** 2]
    first, second = squares[0][:, None], squares[1][None, :]
    b1, b2 = overlaps[0][:, None], overlaps[1][None, :]
    cross = features[0] @ features[1].T
    mean, half = (first + second) / 2, (first - second) / 2
    radius = np.hypot(half, cross)
    angle = 0.5 * np.arctan2(cross, half)
    cos, sin = np.cos(angle), np.sin(angle)
    eigenvalues = [mean + radius, np.maximum(mean - radius, 0)]
    return eigenvalues, [(cos * b1 + sin * b2) ** 2, (cos * b2 - sin * b1) ** 2]


def _solve(activation: Callable, x, y, hidden: int, scale: float, *, split: bool):
    """`t -> Moments` of K = |y - f|^2 / 2.

    The nodes are even in u, w = grain sinh(u), where grain is the width of the peak of
    the integrand at w = 0, where a unit is free.
    """
    square = float(y @ y)

    def moments(t: float) -> Moments:
        grain = scale / math.sqrt(1 + t * scale**4 * float(x @ x))
        # outside this box the prior alone is DEPTH nats below the value at w = 0
        reach = math.asinh(scale / grain * math.sqrt(t * square + 2 * DEPTH))

        def integrand(*axes):
            weights = [grain * np.sinh(u) for u in axes]
            features = [activation(np.outer(w.ravel(), x)) for w in weights]
            log_z, mean, variance = gaussian_layer(t, scale**2, square, *_spectrum(features, y))
            unit = sum((w / scale) ** 2 for w in weights)
            jacobian = sum(np.log(grain / scale * np.cosh(u)) for u in axes)
            log_prior = jacobian - 0.5 * unit - 0.5 * hidden * _LOG_2PI
            return log_prior + log_z, mean, variance

        return integrate(integrand, [(-reach, reach)] * hidden, split=split)

    return moments


def _network(predict, activation, x, y, noise, hidden, prior_scale, *, odd: bool):
    x, y = checked_data(x, y, ndim=1)
    noise = float(positive("noise", noise))
    scale = float(positive("prior_scale", prior_scale))
    if hidden not in (1, 2):
        raise ValueError(
            f"hidden must be 1 or 2 (quadrature runs over the input weights), got {hidden}"
        )
    like = {"a": jnp.zeros(hidden), "w": jnp.zeros(hidden)}
    target = finite_sum(
        SquaredError(predict, noise),
        (jnp.asarray(x), jnp.asarray(y)),
        prior=gaussian_prior(scale, like=like),
    )
    return LeastSquares(
        target,
        _solve(activation, x, y, hidden, scale, split=not odd),
        2 * hidden,
        symmetry_order=math.factorial(hidden) * (2**hidden if odd else 1),
        noise=noise,
        n_examples=len(y),
    )


def tanh_network(
    x=_INPUTS, y=(-0.5, 0.4, 0.6), noise: float = 0.3, hidden: int = 1, prior_scale: float = 1.0
) -> LeastSquares:
    """A tanh network with one or two hidden units, solved exactly.

        f(x) = sum_j a_j tanh(w_j x),    a, w ~ N(0, prior_scale^2)

    Sign flips (a_j, w_j) -> -(a_j, w_j) and permutations leave U invariant: a group of
    order 2^h h!, recorded as `symmetry_order`.

    Args:
        x: inputs [n].
        y: targets [n].
        noise: standard deviation of the targets; a control replaces it (`LeastSquares`).
        hidden: number of hidden units h, 1 or 2.
        prior_scale: standard deviation of every weight.

    Returns:
        A solvable finite sum with theta {"a": [h], "w": [h]} and `.log_evidence`.

    Raises:
        ValueError: shapes that disagree, another h, noise or prior_scale not positive.

    Source: core table rows T14 (h = 1) and T15 (h = 2).

    Example:
        >>> round(float(tanh_network().log_partition(1.0)), 10)
        -1.9004312666
    """
    return _network(_tanh_output, np.tanh, x, y, noise, hidden, prior_scale, odd=True)


def relu_network(
    x=_INPUTS, y=(0.0, 0.4, 1.0), noise: float = 0.3, hidden: int = 1, prior_scale: float = 1.0
) -> LeastSquares:
    """A relu network with one or two hidden units, solved exactly.

        f(x) = sum_j a_j relu(w_j x),    a, w ~ N(0, prior_scale^2)

    The scale symmetry (a, w) -> (s a, w / s) is continuous and broken by the prior alone;
    permutations form the finite group of order h!.

    Args:
        x: inputs [n].
        y: targets [n].
        noise: standard deviation of the targets; a control replaces it (`LeastSquares`).
        hidden: number of hidden units h, 1 or 2.
        prior_scale: standard deviation of every weight.

    Returns:
        A solvable finite sum with theta {"a": [h], "w": [h]} and `.log_evidence`.

    Raises:
        ValueError: shapes that disagree, another h, noise or prior_scale not positive.

    Source: core table row T23.

    Example:
        >>> round(float(relu_network().log_partition(1.0)), 10)
        -2.9107195016
    """
    return _network(_relu_output, _relu, x, y, noise, hidden, prior_scale, odd=False)
