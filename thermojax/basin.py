"""The basin of an anchor without sampling: its curvature and its lowest point.

    B = beta Hess U,    A = Hess u = B - Hess log m        at the anchor
    lambda(eps) = (1/2) sum_i v_i' B v_i / (a_i (1 - eps a_i / 2)),    A v_i = a_i v_i

where eps is the reduced step of an Euler-Maruyama chain, 0 for an exact sampler.

Cost: d Hessian-vector products up to `LIMIT` parameters, 30 beyond it; one gradient per
step of the descent.

Source: specification of the core, 3.7, for diagonal A and B; the general form derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thermojax.dynamics.kernel import Stream, stream
from thermojax.system import Point, System, reduced
from thermojax.typing import Array, Key, PyTree

__all__ = ["LIMIT", "Curvature", "Lowest", "curvature", "descend"]

LIMIT = 500


class Curvature(NamedTuple):
    """Quadratic form of the basin.

    Attributes:
        stiffness: [d] eigenvalues a_i of A, ascending; () beyond `LIMIT` parameters.
        weight: [d] v_i' B v_i, the part of each that is energy; () likewise.
        spectrum: [d] eigenvalues of B, ascending; () likewise.
        stiffest: largest |a_i|.
    """

    stiffness: np.ndarray | tuple[()]
    weight: np.ndarray | tuple[()]
    spectrum: np.ndarray | tuple[()]
    stiffest: float

    @property
    def known(self) -> bool:
        """The whole spectrum is."""
        return len(self.spectrum) > 0

    def coefficient(self, step_size: float = 0.0) -> float:
        """lambda(eps); nan where unknown or no minimum of u, inf where the chain diverges."""
        a = np.asarray(self.stiffness)
        if not self.known or np.min(a) <= 0:
            return float("nan")
        slack = 1 - step_size * a / 2
        if np.min(slack) <= 0:
            return float("inf")
        return float(np.sum(self.weight / (a * slack)) / 2)

    @property
    def rank(self) -> int:
        """Number of directions that curve upwards beyond rounding."""
        b = np.asarray(self.spectrum)
        return int(np.sum(b > 1e-5 * np.max(np.abs(b), initial=0.0))) if self.known else 0


def curvature(sys: System, anchor: PyTree, point: Point, key: Key) -> Curvature:
    """Curvature of beta U and of the reduced energy u at an anchor.

    Args:
        sys: the system, tether and all.
        anchor: theta.
        point: thermodynamic state.
        key: typed key of the power iteration.
    """
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(anchor))
    if size > LIMIT:
        return Curvature((), (), (), float(_power(sys, anchor, point, key)))
    a, b = (np.asarray(m, np.float64) for m in _hessians(sys, anchor, point))
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        return Curvature((), (), (), float("nan"))
    stiffness, vectors = np.linalg.eigh((a + a.T) / 2)
    weight = np.sum(vectors * (b @ vectors), axis=0)
    spectrum = np.linalg.eigvalsh((b + b.T) / 2)
    return Curvature(stiffness, weight, spectrum, float(np.max(np.abs(stiffness))))


@jax.jit
def _hessians(sys: System, anchor: PyTree, point: Point) -> tuple[Array, Array]:
    """[d, d] each, sixteen columns at a time."""
    flat, unravel = ravel_pytree(anchor)

    def both(x):
        theta = unravel(x)
        energy = jnp.asarray(point.beta) * sys.energy(theta, point.control)
        return reduced(sys, theta, point), energy

    slopes = lambda x: jax.jacrev(both)(x)
    column = lambda e: jax.jvp(slopes, (flat,), (e,))[1]
    rows = jax.lax.map(column, jnp.eye(flat.size, dtype=flat.dtype), batch_size=16)
    return rows[0], rows[1]


@jax.jit
def _power(sys: System, anchor: PyTree, point: Point, key: Key) -> Array:
    """Largest |eigenvalue| of A by thirty power iterations."""
    flat, unravel = ravel_pytree(anchor)
    slope = jax.grad(lambda x: reduced(sys, unravel(x), point))
    push = lambda v: jax.jvp(slope, (flat,), (v,))[1]
    first = jax.random.normal(stream(key, Stream.PROBE), flat.shape, flat.dtype)

    def body(_, carry):
        v, _ = carry
        w = push(v)
        length = jnp.linalg.norm(w)
        return w / jnp.where(length > 0, length, 1.0), length

    unit = first / jnp.linalg.norm(first)
    return jax.lax.fori_loop(0, 30, body, (unit, jnp.zeros((), flat.dtype)))[1]


class Lowest(NamedTuple):
    """Where a descent came to: theta, and how far U fell below its start."""

    theta: PyTree
    drop: Array


@jax.jit
def descend(
    sys: System, theta: PyTree, control: PyTree, first_step: Array, n_steps: Array
) -> Lowest:
    """Steepest descent on U with Barzilai-Borwein steps that never go uphill.

    Args:
        sys: the system; its base measure plays no part.
        theta: start.
        control: of the system.
        first_step: step on U to try first, about 1 / (largest curvature).
        n_steps: gradients.
    """
    flat, unravel = ravel_pytree(theta)
    look = jax.value_and_grad(lambda x: sys.energy(unravel(x), control))
    start, slope = look(flat)
    tiny = jnp.finfo(flat.dtype).tiny

    def body(_, carry):
        x, u, g, step = carry
        trial = x - step * g
        u_new, g_new = look(trial)
        ok = jnp.isfinite(u_new) & jnp.all(jnp.isfinite(g_new)) & (u_new <= u)
        bend = g_new - g
        ratio = jnp.abs((trial - x) @ bend) / jnp.maximum(bend @ bend, tiny)
        step = jnp.where(ok, jnp.where(ratio > 0, ratio, step), step / 4)
        keep = lambda new, old: jnp.where(ok, new, old)
        return keep(trial, x), keep(u_new, u), keep(g_new, g), step

    step = jnp.asarray(first_step, flat.dtype)
    x, u, *_ = jax.lax.fori_loop(0, n_steps, body, (flat, start, slope, step))
    return Lowest(unravel(x), start - u)
