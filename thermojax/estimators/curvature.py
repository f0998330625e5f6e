"""Laplacian of a scalar function on parameter space: the rate at which its descent mixes.

    lap f = Tr H,   H = d^2 f / dq^2,   H v = jvp of grad f along v

| method | estimate | error |
|---|---|---|
| "exact" | sum_i e_i . H e_i over the n entries | none; n products |
| "hutchinson" | mean of v . H v, Rademacher v | Var = 2 (|H|_F^2 - sum_i H_ii^2) / m |
| "hutch++" | trace on a sketched range, probes on the rest | O(1 / m), exact if m/3 >= rank |
| "gauss_newton" | mean of v . J^T H_out J v | of the probes, and the dropped term |
| "smoothed" | v . [g(q + h v) - g(q - h v)] / 2h, g = grad f | of the probes, and O(h^2) |

Products run one after the other, so that memory stays that of one gradient. Automatic
differentiation does not see the kinks of relu and absolute losses: `width` compares it with
differences of gradients over a finite step, which do, and raises KINKED where they disagree.

Source: Hutchinson 1990; Meyer, Musco, Musco & Woodruff 2021 for Hutch++; kink test ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thermojax.divergence import curvature_product
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.information import error_of_mean
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = ["LAPLACIANS", "Trace", "entries", "laplacian"]

LAPLACIANS = ("hutchinson", "hutch++", "exact", "gauss_newton", "smoothed")

# directions pushed through the linearised gradient at once: time against memory
_BATCH = 16
_KINK = 0.03


class Trace(NamedTuple):
    """A trace over parameters with its error bar and its verdict; a pytree.

    Attributes:
        value: the trace.
        stderr: standard error over the probes; 0 where it is exact, inf for one probe.
        n_entries: number of parameters that the trace runs over.
        n_eff: number of probes; of parameters where it is exact.
        flags: uint32 bit set of `Flag`; zero means trusted.
    """

    value: Array
    stderr: Array
    n_entries: ArrayLike
    n_eff: Array
    flags: Array

    trusted = Estimate.trusted
    reasons = Estimate.reasons
    require_trusted = Estimate.require_trusted
    __float__ = Estimate.__float__
    __array__ = Estimate.__array__
    __format__ = Estimate.__format__


def laplacian(
    fn: Callable[[PyTree], Array] | tuple[Callable, Callable],
    params: PyTree,
    *,
    method: str = "hutchinson",
    probes: int = 16,
    key: Key | None = None,
    support: PyTree = None,
    width: PyTree = None,
) -> Trace:
    """Trace of the Hessian of `fn` at `params`, in units of fn / params^2.

    Differentiable in whatever `fn` depends on: the probes are fixed numbers.

    Args:
        fn: params -> scalar, or the pair (params -> z, z -> scalar), which "gauss_newton"
            needs: J is the Jacobian of the first, H_out the Hessian of the second.
        params: pytree; everything is estimated at this one place, `jax.vmap` over others.
        method: see the module docstring; "hutchpp" is "hutch++".
        probes: Hessian-vector products in all; "hutch++" spends two thirds on its sketch.
        key: typed key; every method needs it but "exact", and "smoothed", which runs over
            all entries without one.
        support: pytree like params of concrete boolean masks, broadcast to the leaves; the
            trace runs over the entries that are True.
        width: h, a scalar or a pytree like params: the step of "smoothed". Elsewhere it
            switches the search for kinks on, at two more gradients a probe.

    Returns:
        `Trace`. KINKED where the curvature over a step h differs from the estimated one
        beyond noise and 3 % (for "gauss_newton" also where the term that it drops matters);
        NONFINITE.

    Raises:
        ValueError: an unknown method; no key, pair or width where one is needed; too few
            probes; a support that is traced or has another structure.

    Example:
        >>> fn = lambda q: 0.5 * jnp.sum(q["w"] ** 2 * jnp.arange(1.0, 4.0))
        >>> float(laplacian(fn, {"w": jnp.ones(3)}, method="exact"))
        6.0
        >>> masked = {"w": jnp.array([True, False, True])}
        >>> laplacian(fn, {"w": jnp.ones(3)}, key=jax.random.key(0), support=masked).value
        Array(4., dtype=float32)
    """
    method = "hutch++" if method == "hutchpp" else method
    _check(fn, method, probes, key, width)
    point, build = entries(params, support)
    whole, pair = _of_entries(fn, build)
    slope = jax.grad(whole)
    seen = None if width is None else _differences(slope, point, params, support, width)
    if method == "smoothed":
        product, seen = seen, None
    else:
        product = curvature_product(slope, point, pair if method == "gauss_newton" else None)
    forms = _forms(product, seen)
    n = point.size
    if method == "exact" or key is None:
        pieces = _over_entries(forms, point)
    elif method == "hutch++":
        pieces = _sketched(forms, product, point, probes, key)
    else:
        pieces = _probed(forms, point, probes, key)
    value, stderr, gap, noise = pieces
    far = (jnp.abs(gap) > 4 * noise) & (jnp.abs(gap) > _KINK * jnp.abs(value + gap))
    flags = raise_flags((Flag.NONFINITE, ~jnp.isfinite(value)), (Flag.KINKED, far))
    count = n if method == "exact" or key is None else probes
    return Trace(value, stderr, n, jnp.asarray(count, value.dtype), flags)


def entries(params: PyTree, support: PyTree = None) -> tuple[Array, Callable]:
    """The trainable entries of `params` as one vector, and the way back from it.

    Args:
        params: pytree.
        support: pytree like params of boolean masks; everything by default.

    Returns:
        x [n] and a function x -> params, which leaves the other entries where they are.

    Raises:
        ValueError: a support that is traced, or of another structure.
    """
    flat, build = ravel_pytree(params)
    if support is None:
        return flat, build
    chosen = np.flatnonzero(_chosen(params, support))
    return flat[chosen], lambda x: build(flat.at[chosen].set(x))


def _chosen(params: PyTree, support: PyTree) -> np.ndarray:
    if not is_concrete(support):
        raise ValueError("support is traced: give masks of numpy, known before compilation")
    have, want = jax.tree.structure(support), jax.tree.structure(params)
    if have != want:
        raise ValueError(f"support has structure {have}, the parameters {want}: match them")
    masks = [
        np.broadcast_to(np.asarray(mask, bool), jnp.shape(leaf)).ravel()
        for mask, leaf in zip(jax.tree.leaves(support), jax.tree.leaves(params), strict=True)
    ]
    return np.concatenate([*masks, np.zeros(0, bool)])


def _of_entries(fn, build: Callable) -> tuple[Callable, tuple[Callable, Callable] | None]:
    """`fn` as a function of the vector of entries, whole and in its two parts."""
    if callable(fn):
        return (lambda x: fn(build(x))), None
    predict, loss = fn
    return (lambda x: loss(predict(build(x)))), (lambda x: predict(build(x)), loss)


def _check(fn, method, probes, key, width) -> None:
    if method not in LAPLACIANS:
        raise ValueError(f"method={method!r} is unknown: use one of {LAPLACIANS}")
    if method not in ("exact", "smoothed") and key is None:
        raise ValueError(f"method={method!r} uses random probes: give key=")
    if method == "gauss_newton" and callable(fn):
        raise ValueError("method='gauss_newton' needs fn=(params -> z, z -> scalar)")
    if method == "smoothed" and width is None:
        raise ValueError("method='smoothed' needs width=, a length in parameter space")
    least = 3 if method == "hutch++" else 1
    if probes < least:
        raise ValueError(f"probes={probes} are too few for method={method!r}: use {least}")
    if width is not None and is_concrete(width):
        for value in jax.tree.leaves(width):
            if not np.all(np.asarray(value) > 0):
                raise ValueError(f"width={value} must be positive: a step in the parameters")


def _differences(slope, point, params, support, width) -> Callable[[Array], Array]:
    """v -> symmetric difference of the gradient over the step `width`."""
    if jax.tree.structure(width) != jax.tree.structure(params):
        scalar = width
        width = jax.tree.map(lambda x: scalar, params)
    step = jax.tree.map(lambda h, x: jnp.broadcast_to(h, jnp.shape(x)), width, params)
    h = entries(step, support)[0].astype(point.dtype)
    return lambda v: (slope(point + h * v) - slope(point - h * v)) / (2 * h)


def _forms(product, seen) -> Callable[[Array], tuple[Array, Array]]:
    """v -> v . H v, and by how much differences of gradients differ from it."""

    def forms(v):
        found = v @ product(v)
        gap = jnp.zeros_like(found) if seen is None else v @ seen(v) - found
        return found, gap

    return forms


def _over_entries(forms, point: Array):
    zero = jnp.zeros((), point.dtype)
    if not point.size:
        return zero, zero, zero, zero
    one = lambda i: forms(jnp.zeros_like(point).at[i].set(1.0))
    found, gap = jax.lax.map(one, jnp.arange(point.size), batch_size=_BATCH)
    return jnp.sum(found), zero, jnp.sum(gap), zero


def _signs(key: Key, point: Array) -> Array:
    return jax.random.rademacher(key, point.shape, point.dtype)


def _probed(forms, point: Array, probes: int, key: Key, shape: Callable = lambda v: v):
    one = lambda k: forms(shape(_signs(k, point)))
    found, gap = jax.lax.map(one, jax.random.split(key, probes))
    return jnp.mean(found), error_of_mean(found), jnp.mean(gap), error_of_mean(gap)


def _sketched(forms, product, point: Array, probes: int, key: Key):
    """Hutch++: Tr H = Tr Q^T H Q + Tr (1 - Q Q^T) H (1 - Q Q^T) for any orthonormal Q."""
    rank = probes // 3
    first, second = jax.random.split(key)
    sketch = jax.lax.map(lambda k: product(_signs(k, point)), jax.random.split(first, rank))
    # the identity holds for every Q, which need not be differentiated
    q = jnp.linalg.qr(jax.lax.stop_gradient(sketch).T)[0]
    head, bend = jax.lax.map(forms, q.T)
    rest = lambda v: v - q @ (q.T @ v)
    value, stderr, gap, noise = _probed(forms, point, probes - 2 * rank, second, rest)
    return jnp.sum(head) + value, stderr, jnp.sum(bend) + gap, noise
