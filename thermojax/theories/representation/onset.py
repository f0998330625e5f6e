"""Phase boundaries: where the trivial code, independent of x, loses its stability.

    phi(x) = [sqrt(lam) (x - mean) / s_x ; sqrt(gam) (p(y | x) - p(y)) / sqrt(p(y))]
    onset  <=>  largest eigenvalue of Cov_x(phi) = 1

for a Gaussian codebook with free centres and a free classifier. The trivial code is locally
stable below; a first-order jump may come earlier.

Source: each half is standard (deterministic annealing; the information bottleneck); their
combination is our definition, following the programme of Gao & Chaudhari 2020.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.quantities import Multipliers
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["critical_gam", "critical_lam", "label_weights", "onset_strength"]


def label_weights(y: ArrayLike, num_examples: int, dtype=None) -> Array:
    """p(y | x) of whole-number labels [n], or of label weights [n, n_y] as they are.

    Args:
        y: labels 0, 1, ..., or rows of weights that sum to 1.
        num_examples: n, that the labels must have.
        dtype: of the result; None is the default float.

    Raises:
        ValueError: the shape does not fit, a label is negative, a row does not sum to 1, or
            whole-number labels are traced, so that their number of classes is unknown.

    Example:
        >>> label_weights(jnp.array([0, 1]), 2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    y = jnp.asarray(y)
    if y.ndim not in (1, 2) or y.shape[0] != num_examples:
        raise ValueError(
            f"y has shape {y.shape}; give labels [{num_examples}] or weights "
            f"[{num_examples}, n_y]"
        )
    if y.ndim == 1:
        if not is_concrete(y):
            raise ValueError("y holds traced whole numbers; give label weights [n, n_y]")
        if not jnp.issubdtype(y.dtype, jnp.integer) or int(y.min()) < 0:
            raise ValueError(
                f"y has dtype {y.dtype} and least value {y.min()}; give whole numbers >= 0"
            )
        return jax.nn.one_hot(y, int(y.max()) + 1, dtype=dtype or jnp.result_type(float))
    y = y.astype(dtype or jnp.result_type(y, 0.0))
    if is_concrete(y):
        rows = np.asarray(y).sum(1)
        worst = int(np.argmax(np.abs(rows - 1)))
        if not (np.all(np.asarray(y) >= 0) and abs(rows[worst] - 1) < 1e-4):
            raise ValueError(
                f"row {worst} of y sums to {rows[worst]}; give weights >= 0 that sum to 1"
            )
    return y


def _features(x, y, decoder_scale):
    """(x - mean)/s_x and (p(y | x) - p(y))/sqrt(p(y)), both [n, *]."""
    x = jnp.asarray(x)
    x = x.astype(jnp.result_type(x, 0.0))
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; give examples [n, d]")
    if is_concrete(decoder_scale) and not decoder_scale > 0:
        raise ValueError(f"decoder_scale is {decoder_scale}; give a number > 0")
    pixels = (x - x.mean(0)) / decoder_scale
    if y is None:
        return pixels, jnp.zeros((x.shape[0], 0), x.dtype)
    weights = label_weights(y, x.shape[0], x.dtype)
    prior = weights.mean(0)
    seen = prior > 0
    return pixels, (weights - prior) * jnp.where(
        seen, 1 / jnp.sqrt(jnp.where(seen, prior, 1)), 0
    )


def onset_strength(
    x: ArrayLike, y: ArrayLike, multipliers: Multipliers, decoder_scale: ArrayLike
) -> Array:
    """Largest eigenvalue of Cov_x(phi): the trivial code is locally stable below 1.

    Args:
        x: [n, d] examples of equal weight.
        y: [n] whole-number labels or [n, n_y] label weights.
        multipliers: lam and gam.
        decoder_scale: s_x of the Gaussian decoder.

    Returns:
        A dimensionless scalar, differentiable in x, multipliers and scale where the largest
        eigenvalue is simple.

    Raises:
        ValueError: a shape does not fit, or `decoder_scale` is not positive.

    Source:
        Our definition, following the programme of Gao & Chaudhari 2020.

    Example:
        >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([0, 1])
        >>> round(float(onset_strength(x, y, Multipliers(0.5, 0.0), 1.0)), 6)
        0.5
    """
    pixels, labels = _features(x, y, decoder_scale)
    lam, gam = (jnp.asarray(a, pixels.dtype) for a in multipliers)
    phi = jnp.concatenate([jnp.sqrt(lam) * pixels, jnp.sqrt(gam) * labels], axis=1)
    return jnp.linalg.eigvalsh(phi.T @ phi / phi.shape[0])[-1]


def critical_lam(
    x: ArrayLike,
    decoder_scale: ArrayLike,
    *,
    y: ArrayLike | None = None,
    gam: ArrayLike = 0.0,
) -> Array:
    """Multiplier of the distortion above which the trivial code is unstable.

        gam = 0:  lam_c = s_x^2 / largest eigenvalue of Cov(x)
        1/lam_c = largest eigenvalue of  A + gam K (I - gam B)^{-1} K^T

    with A, B the covariances of the two halves of phi at lam = gam = 1 and K their cross
    covariance: the Schur complement of det(I - Cov phi) = 0. It is 0 where the labels alone
    break the trivial code (gam times the largest eigenvalue of B is 1 or more), and infinite
    where x does not vary.

    Args:
        x: [n, d] examples of equal weight.
        decoder_scale: s_x.
        y: [n] labels or [n, n_y] weights; needed if `gam` is not 0.
        gam: multiplier of the classification loss.

    Raises:
        ValueError: `gam` is negative, or positive without y.

    Source:
        Standard at gam = 0 (deterministic annealing); derived here otherwise.

    Example:
        >>> critical_lam(jnp.array([[0.0], [2.0]]), 2.0).item()
        4.0
    """
    if is_concrete(gam) and not jnp.all(jnp.asarray(gam) >= 0):
        raise ValueError(f"gam is {gam}; give a number >= 0")
    if y is None and not (is_concrete(gam) and gam == 0):
        raise ValueError(f"gam is {gam} without labels; give y")
    pixels, labels = _features(x, y, decoder_scale)
    n, gam = pixels.shape[0], jnp.asarray(gam, pixels.dtype)
    own, cross = labels.T @ labels / n, labels.T @ pixels / n
    stable = jnp.all(gam * jnp.linalg.eigvalsh(own) < 1)
    gam = jnp.where(stable, gam, 0)
    relaxed = jnp.linalg.solve(jnp.eye(own.shape[0], dtype=own.dtype) - gam * own, cross)
    reach = pixels.T @ pixels / n + gam * cross.T @ relaxed
    return jnp.where(stable, 1 / jnp.linalg.eigvalsh(reach)[-1], 0)


def critical_gam(joint: ArrayLike, lam: ArrayLike = 0.0) -> Array:
    """Multiplier of the classification loss above which the trivial code is unstable.

        gam_c = (1 - lam) / sigma_2^2
        sigma_2 = second singular value of p(x, y) / sqrt(p(x) p(y))

    for an unrestricted decoder; infinite if x and y are independent, 0 for lam >= 1, where
    the decoder alone makes z = x.

    Args:
        joint: [n_x, n_y] p(x, y), sum 1.
        lam: multiplier of the distortion.

    Raises:
        ValueError: `joint` is not a normalised table, or `lam` is negative.

    Source:
        Standard (information bottleneck of weight gam/(1 - lam)).

    Example:
        >>> joint = jnp.array([[0.45, 0.05], [0.05, 0.45]])
        >>> round(float(critical_gam(joint)), 4)
        1.5625
    """
    joint = jnp.asarray(joint)
    joint = joint.astype(jnp.result_type(joint, 0.0))
    if joint.ndim != 2:
        raise ValueError(f"joint has shape {joint.shape}; give p(x, y) as [n_x, n_y]")
    if is_concrete(joint) and not (
        bool(jnp.all(joint >= 0)) and abs(float(joint.sum()) - 1) < 1e-4
    ):
        raise ValueError(
            f"joint sums to {joint.sum()} with least entry {joint.min()}; divide a table of "
            "entries >= 0 by its sum"
        )
    if is_concrete(lam) and not jnp.all(jnp.asarray(lam) >= 0):
        raise ValueError(f"lam is {lam}; give a number >= 0")
    independent = joint.sum(1)[:, None] * joint.sum(0)
    seen = independent > 0
    # without the trivial singular value 1 the second one is the first
    residual = joint - independent
    scaled = jnp.where(seen, residual / jnp.sqrt(jnp.where(seen, independent, 1)), 0)
    second = jnp.linalg.svd(scaled, compute_uv=False)[0]
    return jnp.maximum(1 - jnp.asarray(lam, joint.dtype), 0) / second**2
