"""What one Langevin step of the optimiser memorizes and dissipates.

    theta' = theta - step g_b(theta) + sqrt(2 step T) xi,      b one of K minibatches

Fresh minibatches only: the sum over steps of I(theta'; b | theta) bounds M_n when every b is
new (loosely: 10 to 30 times on small image sets); with a static dataset it bounds nothing.

Source: specification of the PPM theory, sections 3.3(d) and 3.3(e); Pensia, Jog & Loh 2018
(the bound, standard). The mixture estimator and the exact heat are derived here.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.information import error_of_mean
from thermojax.typing import Array, ArrayLike, Key, PyTree, ShapeError, is_concrete

__all__ = ["langevin_heat", "langevin_step_information", "langevin_step_information_bound"]


def langevin_step_information(
    grads: ArrayLike,
    step_size: ArrayLike,
    temperature: ArrayLike,
    key: Key,
    n_samples: int,
) -> Estimate:
    """I(theta'; b | theta) of a Langevin step, b uniform over K candidates, nats.

        I = mean_b E_xi[-log mean_c exp(-|d_bc|^2/2 - xi . d_bc)],
        d_bc = sqrt(step / 2T) (g_c - g_b)

    At most log K. Where all candidates lie on one line (d = 1 or K = 2) the integral over xi
    is done by the trapezoidal rule, exactly to round-off: neither `key` nor `n_samples` is
    read, and stderr is 0. Otherwise each draw of xi serves all b, with both signs.

    Args:
        grads: [K, d] gradients of K candidate minibatches at the same theta.
        step_size: of the optimiser, positive.
        temperature: of the injected noise (T_theta), positive.
        key: of the Gaussian draws.
        n_samples: number of draws, static.

    Returns:
        `Estimate`; stderr over draws, for these candidates. Candidates that are a sample of
        a larger population make the value a lower bound in the mean, and
        `parts["upper"]` (leave one out) an upper one. SATURATED above log K - 1, which
        does not matter where the candidates are all the minibatches there are.

    Raises:
        ValueError: grads that are not [K, d] with K >= 2, n_samples < 2, a step size or
            temperature that is not positive.

    Source: derived here; specification 3.3(d) [ours].

    Example:
        >>> grads, key = jnp.array([[-1.0], [1.0]]), jax.random.key(0)
        >>> print(f"{langevin_step_information(grads, 0.1, 0.05, key, 100).value:.4f}")
        0.3368
    """
    grads = _checked(grads, step_size, temperature)
    if n_samples < 2:
        raise ValueError(f"n_samples={n_samples}: an error bar needs at least 2 draws")
    return _step_information(grads, step_size, temperature, key, n_samples)


def langevin_step_information_bound(
    grads: ArrayLike, step_size: ArrayLike, temperature: ArrayLike
) -> Array:
    """(1/2) log det(1 + step Cov_b(g) / 2T) >= I(theta'; b | theta), nats.

    The Gaussian has the largest entropy at a given covariance. Cov_b divides by K: the K
    candidates are the law of b.

    Args:
        grads: [K, d] gradients of K candidate minibatches at the same theta.
        step_size: of the optimiser, positive.
        temperature: of the injected noise (T_theta), positive.

    Returns:
        Scalar; differentiable.

    Raises:
        ValueError: as `langevin_step_information`.

    Source: Pensia, Jog & Loh 2018 (standard); specification 3.3(d).

    Example:
        >>> grads = jnp.array([[-1.0], [1.0]])
        >>> print(f"{langevin_step_information_bound(grads, 0.1, 0.05):.4f}")
        0.3466
    """
    grads = _checked(grads, step_size, temperature)
    shift = _shifts(grads, step_size, temperature)
    k, d = shift.shape
    gram = shift.T @ shift if d < k else shift @ shift.T
    return 0.5 * jnp.linalg.slogdet(jnp.eye(min(k, d), dtype=grads.dtype) + gram / k)[1]


def langevin_heat(
    params: PyTree, new_params: PyTree, grads: PyTree, new_grads: PyTree, step_size: ArrayLike
) -> Array:
    """Heat that the parameters absorb in an unadjusted Langevin step, energy.

        Q = D.(g + g')/2 + (step/4)(|g|^2 - |g'|^2),      D = theta' - theta
          = -T ln K(theta'|theta) / K(theta|theta')

    exactly, at whatever T: the noise has done its work in D. Same minibatch for both
    gradients. Stratonovich's heat up to O(step); for a quadratic loss of Hessian H the change
    of the energy with the modified Hessian H(1 - step H / 2).

    Args:
        params: theta, any pytree.
        new_params: theta', one step later.
        grads: g = grad L_b(theta).
        new_grads: g' = grad L_b(theta'), the same b.
        step_size: of the optimiser, in theta' = theta - step g + noise.

    Returns:
        Scalar; vmap for an ensemble. -Q is dissipated.

    Raises:
        ShapeError: the four trees differ in structure or shapes.

    Source: derived here; specification 3.3(e) [ours].

    Example:
        >>> float(langevin_heat(jnp.ones(2), jnp.zeros(2), jnp.ones(2), jnp.zeros(2), 0.5))
        -0.75
    """
    trees = (params, new_params, grads, new_grads)
    kinds = [(jax.tree.structure(t), [jnp.shape(x) for x in jax.tree.leaves(t)]) for t in trees]
    if any(kind != kinds[0] for kind in kinds):
        raise ShapeError(
            "params, new_params, grads and new_grads differ in structure or shapes: "
            f"give four trees like {kinds[0][0]}"
        )

    def heat(x, y, g, h):
        return jnp.sum((y - x) * (g + h)) / 2 + step_size * jnp.sum((g - h) * (g + h)) / 4

    return sum(jax.tree.leaves(jax.tree.map(heat, *trees)))


def _checked(grads: ArrayLike, step_size: ArrayLike, temperature: ArrayLike) -> Array:
    grads = jnp.asarray(grads)
    if grads.ndim != 2 or grads.shape[0] < 2:
        raise ValueError(f"grads has shape {grads.shape}: give [K, d] with K >= 2 candidates")
    for name, value in (("step_size", step_size), ("temperature", temperature)):
        if is_concrete(value) and not bool(jnp.all(jnp.asarray(value) > 0)):
            raise ValueError(
                f"{name}={value} must be positive: without injected noise a step shows its "
                "minibatch entirely, and the information has no finite density form"
            )
    return grads


def _shifts(grads: Array, step_size: ArrayLike, temperature: ArrayLike) -> Array:
    """[K, d] centred displacements in units of the noise."""
    centred = grads - jnp.mean(grads, axis=0)
    return jnp.sqrt(jnp.asarray(step_size / (2 * temperature), grads.dtype)) * centred


@functools.partial(jax.jit, static_argnames="n_samples")
def _step_information(grads, step_size, temperature, key, n_samples):
    shift = _shifts(grads, step_size, temperature)
    k, d = shift.shape
    if d == 1 or k == 2:
        both = _on_a_line(shift)
        error = jnp.zeros((), grads.dtype)
    else:
        draws = jax.lax.map(
            functools.partial(_one_draw, shift),
            jax.random.split(key, n_samples),
            batch_size=min(n_samples, max(1, (1 << 20) // (k * k + d))),
        )
        both = jnp.mean(draws, axis=0)
        error = error_of_mean(draws[:, 0])
    value, upper = both
    flags = raise_flags(
        (Flag.SATURATED, value > math.log(k) - 1),
        (Flag.NONFINITE, ~jnp.isfinite(value)),
    )
    n_eff = jnp.asarray(n_samples, grads.dtype)
    return Estimate(value, error, error, n_eff, flags, {"upper": upper})


def _log_ratios(squares: Array, overlaps: Array) -> Array:
    """[2] mean over b of log p(theta'|b)/p(theta'), all c and c != b, from [K, K] tables."""
    k = squares.shape[0]
    exponent = -0.5 * squares - overlaps
    eye = jnp.eye(k, dtype=bool)
    others = jnp.where(eye, jnp.finfo(exponent.dtype).min, exponent)
    every = math.log(k) - logsumexp(exponent, axis=1)
    rest = math.log(k - 1) - logsumexp(others, axis=1)
    return jnp.stack([jnp.mean(every), jnp.mean(rest)])


def _one_draw(shift: Array, key: Key) -> Array:
    """[2] log-ratios of one xi and its mirror image."""
    size = jnp.sum(shift**2, axis=1)
    squares = jnp.maximum(size[:, None] + size - 2 * shift @ shift.T, 0.0)
    squares = jnp.where(jnp.eye(len(size), dtype=bool), 0.0, squares)
    along = shift @ jax.random.normal(key, shift.shape[1:], shift.dtype)
    overlaps = along - along[:, None]
    return 0.5 * (_log_ratios(squares, overlaps) + _log_ratios(squares, -overlaps))


def _on_a_line(shift: Array) -> Array:
    """[2] log-ratios averaged over the Gaussian along the line that holds all candidates.

    The rule's error falls as exp(-2 pi a / h) with a the distance of the nearest complex
    singularity, pi over the separation: h = 1/32 reaches round-off wherever the weight is.
    """
    if shift.shape[1] > 1:
        apart = jnp.sum((shift[1] - shift[0]) ** 2)
        moved = apart > 0
        distance = jnp.where(moved, jnp.sqrt(jnp.where(moved, apart, 1.0)), 0.0)
        place = jnp.stack([jnp.zeros_like(distance), distance])
    else:
        place = shift[:, 0]
    gaps = place - place[:, None]
    nodes = jnp.arange(-12 * 32, 12 * 32 + 1, dtype=shift.dtype) / 32
    log_weights = -0.5 * nodes**2
    weights = jnp.exp(log_weights - logsumexp(log_weights))
    ratios = jax.lax.map(lambda x: _log_ratios(gaps**2, x * gaps), nodes)
    return weights @ ratios
