"""Descent of a codebook to a minimum, and its response, without a matrix.

    m_z <- E_x e,   mu_z <- E_x[e x] / m_z,   c(y | z) <- E_x[e p(y | x)] / m_z

In the coordinates (sqrt(m) dlog m, sqrt(lam m) dmu / s_x, sqrt(gam m c) dlog c) the Hessian
of F at a stationary codebook is I - T, where

    T = E_x Cov_{e(z | x)}(s)
    s_z(x) = [1, sqrt(lam) (x - mu_z) / s_x, sqrt(gam) (p(y | x) - c) / sqrt(c)] / sqrt(m_z)

in block z, 0 elsewhere. The eigenvalues of T are the contraction rates of one alternating step
(at the trivial code they are those of `onset`: one above 1 makes a saddle), and T acts on a
vector at the cost of one step. Newton steps and responses are therefore conjugate gradients.

Source: the alternating minimisation is standard (Blahut-Arimoto, deterministic annealing);
Newton steps in these coordinates and the response are derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.typing import Array

__all__ = ["Codes", "Pass", "Task", "evaluate", "losses", "means", "relax", "response"]

_NEWTON_BELOW = 1e-3  # residual under which a Newton step is tried
_MAX_CONJUGATE = 500
_KICK = 0.01  # scaled length of the step off a saddle


class Task(NamedTuple):
    """Examples of equal weight.

    Attributes:
        x: [n, d] inputs, centred and in units of s_x.
        label: [n, n_y] p(y | x).
    """

    x: Array
    label: Array


class Codes(NamedTuple):
    """Parameters of a codebook, or a displacement of them in scaled coordinates.

    Attributes:
        log_m: [K] log marginal.
        centres: [K, d] in the units of `Task.x`.
        log_c: [K, n_y] log classifier.
    """

    log_m: Array
    centres: Array
    log_c: Array


class Pass(NamedTuple):
    """What one Gibbs step at given codes tells.

    Attributes:
        codes: where it was taken.
        encoder: [n, K] e(z | x).
        log_z: [n] log Z_x.
        following: the codes that one alternating step leads to.
        step: their displacement in scaled coordinates: minus the gradient of F.
        residual: length of `step`.
    """

    codes: Codes
    encoder: Array
    log_z: Array
    following: Codes
    step: Codes
    residual: Array


def _tiny(x):
    return jnp.finfo(x.dtype).tiny


def _root(x):
    """Root of `x` and its inverse, 0 where x is (nearly) 0: a direction that is off."""
    alive = x > 1e4 * _tiny(x)
    root = jnp.sqrt(jnp.where(alive, x, 1))
    return jnp.where(alive, root, 0), jnp.where(alive, 1 / root, 0)


def losses(task: Task, codes: Codes) -> tuple[Array, Array]:
    """u_D and u_C, each [n, K]."""
    square = jnp.sum(task.x**2, 1)[:, None] + jnp.sum(codes.centres**2, 1)
    distance = jnp.maximum(square - 2 * task.x @ codes.centres.T, 0)
    return distance / 2, -task.label @ codes.log_c.T


def evaluate(task: Task, multipliers: Multipliers, codes: Codes) -> Pass:
    """Gibbs step at `codes`, and the alternating step from there."""
    lam, gam = multipliers
    u_d, u_c = losses(task, codes)
    logits = codes.log_m - lam * u_d - gam * u_c
    log_z = logsumexp(logits, axis=1)
    encoder = jnp.exp(logits - log_z[:, None])
    mass = jnp.mean(encoder, 0)
    alive = mass > 1e4 * _tiny(mass)
    share = encoder / (encoder.shape[0] * jnp.where(alive, mass, 1))
    centres = jnp.where(alive[:, None], share.T @ task.x, codes.centres)
    labels = jnp.where(alive[:, None], share.T @ task.label, jnp.exp(codes.log_c))
    floor = _tiny(mass)
    following = Codes(
        jnp.log(jnp.maximum(mass, floor)), centres, jnp.log(jnp.maximum(labels, floor))
    )
    m, c = jnp.exp(codes.log_m), jnp.exp(codes.log_c)
    root_m, inverse_m = _root(m)
    step = Codes(
        (mass - m) * inverse_m,
        jnp.sqrt(lam) * root_m[:, None] * (centres - codes.centres),
        jnp.sqrt(gam) * root_m[:, None] * (labels - c) * _root(c)[1],
    )
    residual = jnp.sqrt(_dot(step, step))
    return Pass(codes, encoder, log_z, following, step, residual)


def _scores(task, multipliers, at):
    """s as a linear map from scaled displacements to [n, K], and its transpose."""
    lam, gam = multipliers
    root_c, inverse_c = _root(jnp.exp(at.codes.log_c))
    inverse_m = _root(jnp.exp(at.codes.log_m))[1]

    def forward(v):
        ahead = jnp.sqrt(lam) * v.centres
        belief = jnp.sqrt(gam) * v.log_c
        offset = jnp.sum(ahead * at.codes.centres, 1) + jnp.sum(belief * root_c, 1)
        value = task.x @ ahead.T + task.label @ (belief * inverse_c).T
        return (value - offset + v.log_m) * inverse_m

    def backward(t):
        total = jnp.sum(t, 0)
        centres = t.T @ task.x - total[:, None] * at.codes.centres
        labels = (t.T @ task.label) * inverse_c - total[:, None] * root_c
        return Codes(
            inverse_m * total,
            jnp.sqrt(lam) * inverse_m[:, None] * centres,
            jnp.sqrt(gam) * inverse_m[:, None] * labels,
        )

    return forward, backward


def _covariance(at, forward, backward, v):
    """T v."""
    t = forward(v)
    t = at.encoder * (t - jnp.sum(at.encoder * t, 1, keepdims=True))
    return jax.tree.map(lambda a: a / at.encoder.shape[0], backward(t))


def _dot(left, right):
    return jnp.sum(jnp.stack([jnp.vdot(a, b) for a, b in zip(left, right, strict=True)]))


def _along(scale, v, base):
    return jax.tree.map(lambda v, b: b + scale * v, v, base)


def _solve(task, multipliers, at, right, tol):
    """(I - T)^{-1} right of minimum norm, whether I - T bends up, the last direction.

    Conjugate gradients; duplicate codes make I - T singular, and a saddle indefinite: then
    the last direction leads down.
    """
    forward, backward = _scores(task, multipliers, at)
    flat = jnp.finfo(at.log_z.dtype).eps ** 0.7

    def body(carry):
        v, left, p, square, _, steps = carry
        image = _along(-1, _covariance(at, forward, backward, p), p)
        bend, size = _dot(p, image), _dot(p, p)
        usable = bend > flat * size
        stride = jnp.where(usable, square / jnp.where(usable, bend, 1), 0)
        v, left = _along(stride, p, v), _along(-stride, image, left)
        following = jnp.where(usable, _dot(left, left), 0)
        p = jax.tree.map(
            lambda q, p: jnp.where(usable, q, p), _along(following / square, p, left), p
        )
        return v, left, p, following, bend >= -flat * size, steps + 1

    def unfinished(carry):
        return (carry[3] > limit) & (carry[5] < _MAX_CONJUGATE)

    zero = jax.tree.map(jnp.zeros_like, right)
    square = _dot(right, right)
    limit = tol**2 * square
    start = (zero, right, right, square, jnp.asarray(True), jnp.int32(0))
    v, _, last, _, stable, _ = jax.lax.while_loop(unfinished, body, start)
    return v, stable, last


def _displace(multipliers, codes, v):
    """Codes moved by a scaled displacement; logarithms move by at most 1."""
    lam, gam = multipliers
    inverse_m = _root(jnp.exp(codes.log_m))[1]
    moved_m = codes.log_m + jnp.clip(v.log_m * inverse_m, -1, 1)
    scale = inverse_m * _root(lam)[1]
    ratio = v.log_c * _root(jnp.exp(codes.log_c))[1] * (inverse_m * _root(gam)[1])[:, None]
    moved_c = codes.log_c + jnp.clip(ratio, -1, 1)
    return Codes(
        moved_m - logsumexp(moved_m),
        codes.centres + scale[:, None] * v.centres,
        moved_c - logsumexp(moved_c, axis=1, keepdims=True),
    )


def _newton(task, multipliers, at):
    """The pass after a Newton step, and whether it got closer to a minimum."""
    forcing = jnp.minimum(0.01, at.residual)
    v, stable, _ = _solve(task, multipliers, at, at.step, forcing)
    moved = evaluate(task, multipliers, _displace(multipliers, at.codes, v))
    slack = 1e3 * jnp.finfo(at.log_z.dtype).eps * (1 + jnp.abs(jnp.mean(at.log_z)))
    downhill = jnp.mean(moved.log_z) >= jnp.mean(at.log_z) - slack
    return moved, stable & downhill & (moved.residual < at.residual / 2)


def _descend(task, multipliers, codes, tol, max_iter, steps):
    """Alternating minimisation, with Newton steps near the end; (pass, steps)."""

    def follow(at):
        return evaluate(task, multipliers, at.following)

    def attempt(at, below):
        moved, good = _newton(task, multipliers, at)
        at = jax.lax.cond(good, lambda: moved, lambda: follow(at))
        return at, jnp.where(good, below, below / 4)

    def body(carry):
        at, below, steps = carry
        at, below = jax.lax.cond(
            at.residual < below, attempt, lambda at, below: (follow(at), below), at, below
        )
        return at, below, steps + 1

    def unfinished(carry):
        at, _, steps = carry
        return (at.residual > tol) & (steps < max_iter)

    first = evaluate(task, multipliers, codes)
    below = jnp.asarray(_NEWTON_BELOW, first.residual.dtype)
    at, _, steps = jax.lax.while_loop(unfinished, body, (first, below, steps))
    # a multiplier of 0 leaves centres or classifier out of the residual
    return follow(at), steps


def relax(
    task: Task, multipliers: Multipliers, codes: Codes, tol: float, max_iter: int
) -> tuple[Pass, Array, Array]:
    """Descend from `codes` to a local minimum, off any saddle met on the way.

    Returns:
        The pass at the end, the number of steps, and whether it is a minimum: the residual is
        within `tol` or rounding, and no direction leads down.
    """
    spread = multipliers[0] * jnp.mean(jnp.sum(task.x**2, 1))
    least = jnp.maximum(tol, 4 * jnp.finfo(task.x.dtype).eps * (1 + spread))
    probe = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), codes
    )

    def body(carry):
        codes, _, steps, _ = carry
        at, steps = _descend(task, multipliers, codes, least, max_iter, steps)
        _, stable, down = _solve(task, multipliers, at, probe, 1e-3)
        size = jnp.sqrt(_dot(down, down))
        kick = jax.tree.map(lambda a: _KICK * a / size, down)
        kicked = _displace(multipliers, at.codes, kick)
        codes = jax.tree.map(lambda a, b: jnp.where(stable, a, b), at.codes, kicked)
        return codes, at.residual, steps, stable

    def unfinished(carry):
        return ~carry[3] & (carry[2] < max_iter)

    inf = jnp.full((), jnp.inf, task.x.dtype)
    start = (codes, inf, jnp.int32(0), jnp.asarray(False))
    codes, _, steps, stable = jax.lax.while_loop(unfinished, body, start)
    at = evaluate(task, multipliers, codes)
    return at, steps, stable & (at.residual <= least)


def response(task: Task, multipliers: Multipliers, at: Pass) -> Array:
    """chi = E_x Cov_{e(z | x)}(u) + b^T (I - T)^{-1} b at a stationary codebook, [2, 2]."""
    _, backward = _scores(task, multipliers, at)
    n = at.encoder.shape[0]
    forces = jnp.stack(losses(task, at.codes))
    centred = forces - jnp.sum(at.encoder * forces, 2, keepdims=True)
    # the explicit part of b vanishes: centres and classifier are conditional means
    b = jax.vmap(lambda u: backward(at.encoder * u / n))(centred)
    tol = 10 * jnp.finfo(forces.dtype).eps
    moves = jax.vmap(lambda b: _solve(task, multipliers, at, b, tol)[0])(b)
    chi = jnp.einsum("inz,jnz->ij", at.encoder * centred, centred) / n
    for left, right in zip(b, moves, strict=True):
        chi += left.reshape(2, -1) @ right.reshape(2, -1).T
    return (chi + chi.T) / 2


def means(task: Task, multipliers: Multipliers, at: Pass) -> tuple[Array, Functionals]:
    """F and the functionals (R, D, C) of the equilibrium encoder at these codes."""
    lam, gam = multipliers
    u_d, u_c = losses(task, at.codes)
    distortion = jnp.mean(jnp.sum(at.encoder * u_d, 1))
    classification = jnp.mean(jnp.sum(at.encoder * u_c, 1))
    free_energy = -jnp.mean(at.log_z)
    rate = free_energy - lam * distortion - gam * classification
    return free_energy, Functionals(rate, distortion, classification)
