"""Rate, distortion and classification loss of neural kernels, by reparametrised sampling.

    z = mu(x) + exp(log_var(x) / 2) eps,   eps ~ N(0, I)
    R = KL(e(. | x) || m),   D = -<log d(x | z)>,   C = -<sum_y p(y | x) log c(y | z)>

One number per example, so that an error bar comes with every mean.

Source: Gao & Chaudhari 2020.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.quantities import Batch, Functionals, Model
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = [
    "check_batch",
    "check_samples",
    "encoder_log_prob",
    "expected_functionals",
    "functionals",
    "label_log_prob",
    "marginal_log_prob",
    "mean_and_stderr",
    "sample_codes",
]

_LOG_2PI = math.log(2 * math.pi)


def functionals(
    model: Model, params: PyTree, batch: Batch, key: Key, *, num_samples: int = 8
) -> Functionals:
    """R, D and C of every example under its encoder.

        R = KL(e || m),   D = -<log d(x | z)>_e,   C = -<sum_y p(y | x) log c(y | z)>_e

    R is exact where the marginal is N(0, I); for any other marginal it is the mean of
    log e - log m over the same samples as D and C.

    Args:
        model: the four kernels.
        params: their parameters.
        batch: B examples.
        key: typed key.
        num_samples: codes S per example.

    Returns:
        `Functionals` of [B] in nats, differentiable in `params`, x and label weights; means
        by `mean_and_stderr` or `expected_functionals`. For continuous x, D is a negative
        log density: it may be negative, and moves by a constant where x is rescaled.

    Raises:
        ValueError: num_samples < 1, a label out of range, label weights or example weights
            that do not sum to 1 (concrete arrays only; a traced label out of range
            gives nan).

    Source:
        Gao & Chaudhari 2020; eight samples after the code of its authors.

    Example:
        >>> log_normal = lambda p, x, z: -0.5 * jnp.sum((x - z) ** 2, axis=-1)
        >>> model = Model(
        ...     encode=lambda p, x: (p * x, jnp.zeros_like(x)),
        ...     log_decoder=log_normal,
        ...     log_classifier=lambda p, z: jax.nn.log_softmax(jnp.concatenate([z, -z], -1)),
        ... )
        >>> batch = Batch(jnp.array([[1.0], [-2.0]]), jnp.array([0, 1]))
        >>> functionals(model, 1.0, batch, jax.random.key(0)).rate.tolist()  # mu^2 / 2
        [0.5, 2.0]
    """
    check_samples(num_samples)
    check_batch(model, params, batch)
    mean, log_var = model.encode(params, batch.x)
    z = sample_codes(mean, log_var, key, num_samples)
    if model.log_marginal is None:
        rate = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1 - log_var, axis=-1)
    else:
        ratio = encoder_log_prob(mean, log_var, z) - model.log_marginal(params, z)
        rate = jnp.mean(ratio, axis=0)
    distortion = -jnp.mean(model.log_decoder(params, batch.x, z), axis=0)
    classification = -jnp.mean(label_log_prob(model, params, batch.y, z), axis=0)
    return Functionals(rate, distortion, classification)


def expected_functionals(
    model: Model, params: PyTree, batch: Batch, key: Key, *, num_samples: int = 8
) -> Functionals:
    """R, D and C averaged over a batch with its weights.

        <f> = sum_i weight_i f_i

    Args:
        model: the four kernels.
        params: their parameters.
        batch: B examples.
        key: typed key.
        num_samples: codes per example.

    Returns:
        `Functionals` of scalars, nats per example: what `objective` and `susceptibility`
        take, at a fixed key a deterministic function of `params`.

    Raises:
        ValueError: see `functionals`.

    Source:
        Gao & Chaudhari 2020.
    """
    each = functionals(model, params, batch, key, num_samples=num_samples)
    return mean_and_stderr(each, batch.weight)[0]


def mean_and_stderr(values: PyTree, weight: ArrayLike | None = None) -> tuple[PyTree, PyTree]:
    """Weighted means over examples, with their standard errors.

        mean = sum_i w_i v_i,   stderr^2 = n / (n - 1) sum_i w_i^2 (v_i - mean)^2,
        n = 1 / sum_i w_i^2

    The examples are taken as independent draws. Values that are themselves averages over
    samples bring the error of these along, so that nothing has to be added.

    Args:
        values: pytree of [B], for example `Functionals`.
        weight: [B], sum 1; None is 1/B for each.

    Returns:
        Means and standard errors, each a pytree like `values` of scalars. The error is inf
        where one example carries all the weight.

    Raises:
        ValueError: weights that do not sum to 1 (concrete only).

    Source:
        Standard.

    Example:
        >>> mean, stderr = mean_and_stderr(jnp.array([1.0, 2.0, 3.0]))
        >>> float(mean), round(float(stderr), 4)
        (2.0, 0.5774)
    """
    if weight is not None:
        _check_sums("weight", weight)
    means = jax.tree.map(lambda v: _mean(v, weight), values)
    return means, jax.tree.map(lambda v, m: _stderr(v, m, weight), values, means)


def _mean(values: Array, weight: ArrayLike | None) -> Array:
    if weight is None:
        return jnp.mean(values)
    w = jnp.asarray(weight, values.dtype)
    # a value that is not finite counts only where it has weight; a finite one also gives its
    # derivative in a weight that is 0, the force at either end of a path
    return jnp.sum(w * jnp.where((w > 0) | jnp.isfinite(values), values, 0.0))


def _stderr(values: Array, mean: Array, weight: ArrayLike | None) -> Array:
    size = values.shape[0]
    w = jnp.full(size, 1 / size) if weight is None else jnp.asarray(weight)
    w = w.astype(values.dtype)
    left = 1 - jnp.sum(w**2)
    # a single example leaves 1 - sum w^2 = 0 up to rounding
    alone = left <= 4 * jnp.finfo(values.dtype).eps
    squares = jnp.sum(jnp.where(w > 0, w * (values - mean), 0.0) ** 2)
    # the root of an exact zero has an infinite slope
    positive = squares > 0
    spread = jnp.sqrt(jnp.where(positive, squares / jnp.where(alone, 1.0, left), 1.0))
    return jnp.where(alone, jnp.inf, jnp.where(positive | jnp.isnan(squares), spread, 0.0))


def sample_codes(mean: Array, log_var: Array, key: Key, num_samples: int) -> Array:
    """Reparametrised draws z [S, B, d_z] of a diagonal Gaussian."""
    noise = jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)
    return mean + jnp.exp(0.5 * log_var) * noise


def encoder_log_prob(mean: Array, log_var: Array, z: Array) -> Array:
    """log N(z; mean, exp(log_var)) [..., B] of codes [..., B, d_z], nats."""
    square = (z - mean) ** 2 * jnp.exp(-log_var)
    return -0.5 * jnp.sum(square + log_var + _LOG_2PI, axis=-1)


def marginal_log_prob(model: Model, params: PyTree, z: Array) -> Array:
    """log m(z) [S, B] of codes [S, B, d_z], nats; N(0, I) unless the model has its own."""
    if model.log_marginal is None:
        return -0.5 * jnp.sum(z**2 + _LOG_2PI, axis=-1)
    return model.log_marginal(params, z)


def label_log_prob(model: Model, params: PyTree, y: Array, z: Array) -> Array:
    """sum_y p(y | x) log c(y | z), [S, B], nats.

    Args:
        model: the four kernels.
        params: their parameters.
        y: [B] whole-number labels, or [B, n_y] label weights.
        z: [S, B, d_z] codes.
    """
    log_c = model.log_classifier(params, z)
    if y.ndim == 2:
        # a label without weight counts for nothing, also where the classifier excludes it
        return jnp.sum(y * jnp.where((y > 0) | jnp.isfinite(log_c), log_c, 0.0), axis=-1)
    labels = log_c.shape[-1]
    index = jnp.broadcast_to(y[None, :, None], (*log_c.shape[:-1], 1))
    # a negative index would silently count from the end
    index = jnp.where(index < 0, labels, index)
    return jnp.take_along_axis(log_c, index, axis=-1, mode="fill")[..., 0]


def check_samples(num_samples: int) -> None:
    """Raise ValueError unless there is at least one sample."""
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")


def check_batch(model: Model, params: PyTree, batch: Batch) -> None:
    """Refuse shapes that do not fit and, on concrete arrays, values without sense.

    Raises:
        ValueError: y or weights of another shape, a label that the classifier does not know,
            weights that are negative or do not sum to 1.
    """
    x, y, weight = batch
    size = jnp.shape(x)[:1]
    whole = jnp.issubdtype(y.dtype, jnp.integer)
    if y.ndim != (1 if whole else 2) or y.shape[:1] != size:
        raise ValueError(
            f"y of shape {y.shape} and type {y.dtype} does not fit {size[0]} examples: give "
            "whole-number labels [B], or label weights [B, n_y] whose rows sum to 1"
        )
    _check_labels(y, _num_labels(model, params, x))
    if weight is not None:
        if jnp.shape(weight) != size:
            raise ValueError(f"weight of shape {jnp.shape(weight)} must have the shape {size}")
        _check_sums("weight", weight)


def _num_labels(model: Model, params: PyTree, x: Array) -> int:
    """What the classifier knows, without computing it."""

    def classify(params, x):
        mean, _ = model.encode(params, x)
        return model.log_classifier(params, mean[None])

    return jax.eval_shape(classify, params, x).shape[-1]


def _check_labels(y: Array, num_labels: int) -> None:
    if y.ndim == 2:
        if y.shape[1] != num_labels:
            raise ValueError(
                f"label weights of shape {y.shape} do not fit a classifier of {num_labels} "
                f"labels: give [B, {num_labels}]"
            )
        _check_sums("label weights", y)
    elif is_concrete(y):
        known = np.asarray(y)
        bad = known[(known < 0) | (known >= num_labels)]
        if bad.size:
            raise ValueError(
                f"label {bad[0]} is out of range: the classifier knows {num_labels} labels, "
                f"0 to {num_labels - 1}"
            )


def _check_sums(name: str, weights: ArrayLike) -> None:
    if not is_concrete(weights):
        return
    known = np.asarray(weights)
    tol = 1e-3 if known.dtype.itemsize < 8 else 1e-9
    total = known.sum(axis=-1, dtype=np.float64).ravel()
    off = np.abs(total - 1)
    if not (np.all(off < tol) and np.all(known >= 0)):
        worst = total[int(np.argmax(off))]
        raise ValueError(
            f"{name} must not be negative and must sum to 1, got a sum of {worst:.6g} and a "
            f"least entry of {known.min():.6g}: divide by the sum"
        )
