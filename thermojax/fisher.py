"""Fisher information of a model from its samples, and the length of a path in it.

    g(theta) = <grad log p(x|theta) grad log p(x|theta)^T>,   x ~ p(.|theta)
    ell = sum_n sqrt(Delta theta_n^T g(theta_n) Delta theta_n)

For p ∝ exp(-beta U) this is beta^2 Cov(dU/dtheta), the metric of thermodynamics: half the
squared length of a step is what it dissipates, so that n steps cost at least ell^2 / (2 n).

Source: Crooks 2007; Sivak & Crooks 2012.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermojax.typing import Array, PyTree

__all__ = ["fisher_metric", "thermodynamic_length"]


def _leading(name: str, tree: PyTree) -> int:
    lengths = {leaf.shape[:1] for leaf in map(jnp.asarray, jax.tree.leaves(tree))}
    if len(lengths) != 1 or lengths in ({()}, {(0,)}):
        raise ValueError(
            f"{name} has leading axes {sorted(lengths)}: give all leaves one, not empty"
        )
    return lengths.pop()[0]


def fisher_metric(
    log_prob: Callable[[PyTree, PyTree], Array], params: PyTree, samples: PyTree
) -> Array:
    """Fisher information matrix at `params`, the mean outer product of scores.

        g_ij = (1/M) sum_m d_i log p(x_m) d_j log p(x_m)

    Args:
        log_prob: `log_prob(params, x)`, log density of one sample, scalar, nats.
        params: pytree of d numbers, raveled in the order of `ravel_pytree`.
        samples: [M, ...] draws of p(.|params); a pytree whose leaves have M in front.

    Returns:
        [d, d] symmetric and without negative eigenvalues; its rank is at most M, its
        relative error about sqrt(2/M) per entry for Gaussian scores.

    Raises:
        ValueError: samples without a common leading axis, or log_prob not scalar.

    Source: standard; specification of the theory of parametric models, section 2.4.

    Example:
        >>> log_prob = lambda mean, x: -0.5 * jnp.sum((x - mean) ** 2)
        >>> fisher_metric(log_prob, jnp.zeros(1), jnp.array([[1.0], [-3.0]])).tolist()
        [[5.0]]
    """
    _leading("samples", samples)
    _scalar(log_prob, params, jax.tree.map(lambda x: jnp.asarray(x)[0], samples))
    flat, unravel = ravel_pytree(params)
    score = jax.grad(lambda theta, x: log_prob(unravel(theta), x))
    scores = jax.vmap(score, (None, 0))(flat, samples)
    return scores.T @ scores / len(scores)


def thermodynamic_length(
    log_prob: Callable[[PyTree, PyTree], Array], params_path: PyTree, samples_path: PyTree
) -> Array:
    """Length of a path of parameters in the Fisher metric of the model.

        ell = sum_n sqrt[(1/M) sum_m (Delta theta_n . grad log p(x_nm|theta_n))^2]

    The metric is taken at the beginning of each step and never formed. Dissipation over n
    small steps is at least ell^2 / (2 n) to leading order, equal at constant speed.

    Args:
        log_prob: `log_prob(params, x)`, log density of one sample, scalar, nats.
        params_path: [N + 1, ...] one network along its path, leaves with N + 1 in front.
        samples_path: [N + 1, M, ...] draws of p(.|theta_n); those of theta_N are not used.

    Returns:
        ell, scalar; its error from M samples is about sqrt(1/(2 M N)) relative.
        Differentiable; a step that does not move adds nothing.

    Raises:
        ValueError: paths of different length or without a step, or log_prob not scalar.

    Source: Sivak & Crooks 2012; specification of the theory of parametric models, 2.7.

    Example:
        >>> log_prob = lambda mean, x: -0.5 * (x - mean) ** 2
        >>> path = jnp.array([0.0, 0.5, 2.0])
        >>> draws = path[:, None] + jnp.array([1.0, -1.0])  # unit variance
        >>> float(thermodynamic_length(log_prob, path, draws))
        2.0
    """
    length = _leading("params_path", params_path)
    given = _leading("samples_path", samples_path)
    if length != given or length < 2:
        raise ValueError(
            f"params_path has {length} points, samples_path {given}: give N + 1 >= 2 of both"
        )
    params, samples = (jax.tree.map(jnp.asarray, p) for p in (params_path, samples_path))
    _scalar(log_prob, *jax.tree.map(lambda x: x[0], (params, jax.tree.map(_first, samples))))
    step = jax.tree.map(lambda p: p[1:] - p[:-1], params)
    params, samples = jax.tree.map(lambda p: p[:-1], (params, samples))

    def one(now):
        theta, move, x = now
        along = lambda x: jax.jvp(lambda t: log_prob(t, x), (theta,), (move,))[1]
        square = jnp.mean(jax.vmap(along)(x) ** 2)
        moved = square > 0
        return jnp.where(moved, jnp.sqrt(jnp.where(moved, square, 1.0)), 0.0)

    return jnp.sum(jax.lax.map(one, (params, step, samples)))


def _first(samples: Array) -> Array:
    """Sample 0 of every point; the point axis stays."""
    if samples.ndim < 2 or not samples.shape[1]:
        raise ValueError(
            f"samples_path has a leaf of shape {samples.shape}: give (N+1, M, ...)"
        )
    return samples[:, 0]


def _scalar(log_prob: Callable[[PyTree, PyTree], Array], params: PyTree, x: PyTree) -> None:
    shape = jax.eval_shape(log_prob, params, x).shape
    if shape != ():
        raise ValueError(f"log_prob returns shape {shape}: give one number per sample")
