"""Laplace's formula for the states: a Gaussian about the minimum of the bulk loss.

    x^ = argmin H,   K = H''(x^) = A' A - sum_{i in R} r_i w_i' f''_i w_i + mu I + V''
    log Z ~ log Z_ref - log det K / 2 - beta H(x^)
    U = H(x^) + n / (2 beta),   C_v = n/2

A = I - D w with slopes D at x^; the Gauss-Newton variant drops the f'' term. The relative
error of Z is O(1/beta) for one non-degenerate minimum. In an all-free recurrent network
every fixed point of x = f(w x + b), stable or not under the activation steps, is a global
minimum (H = 0), so

    log Z ~ log Z_ref + log sum_k 1 / |det(I - D_k w)|    over all fixed points.

The formula is textbook, the sum over unstable fixed points is derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.theories.learning_laws.network import Example, clamps
from thermojax.theories.learning_laws.septuple import System, is_feedforward, select_free
from thermojax.theories.learning_laws.states import (
    State,
    check_beta,
    log_z_reference,
    state_of,
)
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["FixedPoints", "fixed_point_sum", "fixed_points", "laplace_state"]

# full, half, quarter ... Newton steps tried at once, and none
_FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 0.0)
# nats by which the Newton decrement may still lower beta H
_UNDECIDED = 1e-3


def _dtype(*trees: PyTree):
    return jnp.result_type(*jax.tree.leaves(trees))


def _forward_start(system: System, params: PyTree, example: Example) -> Array:
    """The forward pass where there is one, else neurons at zero."""
    held = clamps(system.network, example)[0] or not system.network.inputs
    if held and is_feedforward(system):
        states = system.forward(params, None if example is None else example.get("x"))
        x = jnp.concatenate(states) if isinstance(states, tuple) else states
        return select_free(system, x, example)
    return jnp.zeros(system.free_dim(example), _dtype(params, example))


def _site_curvature(system: System, x: Array) -> Array:
    """Diagonal of V'', (n,)."""
    curvature = jnp.full_like(x, system.network.mu)
    potential = system.network.site_potential
    if potential is None:
        return curvature
    slope = jax.grad(lambda x: jnp.sum(potential(x)))
    return curvature + jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]


def _gauss_newton(system: System, params: PyTree, x: Array, example: Example) -> Array:
    a = jax.jacfwd(lambda x: system.residual(params, x, example))(x)
    return a.T @ a + jnp.diag(_site_curvature(system, x))


def _solve_positive(matrix: Array, vector: Array) -> Array:
    """matrix^-1 vector; NaN unless the matrix is positive definite."""
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    return jax.scipy.linalg.cho_solve(factor, vector)


def _minimize(energy: Callable, curvatures: tuple, start: Array, steps: int) -> Array:
    """Damped Newton: the first positive definite curvature that gives a direction."""

    def step(x, _):
        gradient = jax.grad(energy)(x)
        move = -gradient
        for curvature in curvatures:
            newton = -_solve_positive(curvature(x), gradient)
            move = jnp.where(jnp.all(jnp.isfinite(newton)), newton, move)
        tried = x + jnp.array(_FRACTIONS, x.dtype)[:, None] * move
        heights = jax.vmap(energy)(tried)
        heights = jnp.where(jnp.isnan(heights), jnp.inf, heights)
        return tried[jnp.argmin(heights)], None

    return jax.lax.scan(step, start, None, length=steps)[0]


def laplace_state(
    system: System,
    params: PyTree,
    example: Example,
    beta: ArrayLike,
    *,
    newton_steps: int = 20,
    gauss_newton: bool = False,
    start: Array | None = None,
) -> State:
    """Thermodynamics of one example by Laplace's formula at one minimum of H.

        log Z ~ log Z_ref - log det K / 2 - beta H(x^),    K = H''(x^)

    Textbook. Only the minimum next to the start counts: an all-free recurrent network has
    one at every fixed point, see `fixed_point_sum`. Derivatives go through x^ by the
    implicit function theorem and are right up to the third.

    Args:
        system: any; activations twice differentiable at x^.
        params: (w, b).
        example: {"x", "y"} or None.
        beta: inverse temperature of the states.
        newton_steps: damped Newton steps to the minimum, static.
        gauss_newton: drop the f'' term of K in log det K.
        start: (n,); None for the forward pass, or zeros where there is none.

    Returns:
        `State` of scalars, stderr 0 (the O(1/beta) error is not in it). Flags: SINGULAR
        and log_z = +inf where K has a null direction; NOT_A_MINIMUM where K is indefinite
        (log_z NaN) or another Newton step would still lower beta H by 1e-3 nats.

    Raises:
        ValueError: beta not positive.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
        >>> state = laplace_state(dense_network(1, "tanh"), params, None, 400.0)
        >>> round(float(state.complexity), 2)
        0.47
    """
    check_beta(beta)
    if start is None:
        start = _forward_start(system, params, example)
    energy = lambda x: system.energy(params, x, example)
    gauss = lambda x: _gauss_newton(system, params, x, example)
    n = start.size
    if n == 0:
        return _saddle_state(energy(start), jnp.ones_like(energy(start)), None, 0.0, beta)
    frozen = jax.lax.stop_gradient((params, example, start))
    with_frozen = lambda x: system.energy(frozen[0], x, frozen[1])
    rules = (
        lambda x: _gauss_newton(system, frozen[0], x, frozen[1]),
        jax.hessian(with_frozen),
    )
    found = jax.lax.stop_gradient(_minimize(with_frozen, rules, frozen[2], newton_steps))
    curvature = jax.hessian(energy)
    safe = lambda x: _where_regular(curvature(x))[0]
    gradient = jax.grad(energy)(found)
    move = jnp.linalg.solve(safe(found), gradient)
    left = 0.5 * beta * jnp.abs(jnp.vdot(gradient, move))
    # two differentiated Newton steps from a constant: the first makes first derivatives
    # right, and every further one doubles the order, as it doubles digits
    x = found - move
    x = x - jnp.linalg.solve(safe(x), jax.grad(energy)(x))
    matrix = gauss(x) if gauss_newton else curvature(x)
    return _saddle_state(energy(x), *_where_regular(matrix), left, beta, n)


def _where_regular(matrix: Array) -> tuple[Array, Array]:
    """The matrix, or 1 where it is not positive definite; sign 1, 0 (singular) or -1."""
    values = jnp.linalg.eigvalsh(jax.lax.stop_gradient(matrix))
    size = jnp.maximum(jnp.max(jnp.abs(values)), 1)
    floor = len(values) * jnp.finfo(matrix.dtype).eps * size
    low = jnp.min(values)
    sign = jnp.where(low > floor, 1, jnp.where(low < -floor, -1, 0))
    # a Hessian of NaN is nobody's minimum either
    sign = jnp.where(jnp.isnan(low), -1, sign)
    eye = jnp.eye(len(values), dtype=matrix.dtype)
    return jnp.where(sign == 1, matrix, eye), sign


def _saddle_state(h_min, matrix, sign, left, beta, n=0) -> State:
    half_log_det = jnp.zeros_like(h_min)
    if n:
        half_log_det = jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix))))
        broken = jnp.where(sign == 0, -jnp.inf, jnp.nan)
        half_log_det = jnp.where(sign == 1, half_log_det, broken)
    log_z = log_z_reference(n, beta) - half_log_det - beta * h_min
    regular = jnp.isfinite(half_log_det)
    return state_of(
        log_z,
        jnp.where(regular, h_min + 0.5 * n / beta, jnp.nan),
        jnp.where(regular, 0.5 * n, jnp.nan),
        n,
        beta,
        flags=raise_flags(
            (Flag.SINGULAR, half_log_det == -jnp.inf),
            (Flag.NOT_A_MINIMUM, jnp.isnan(half_log_det) | (left > _UNDECIDED)),
        ),
    )


class FixedPoints(NamedTuple):
    """Fixed points x = f(w x + b) found from several starts.

    Attributes:
        points: (S, N), one for each start.
        distinct: (S,) booleans: settled, and no earlier start found the same point.
        settled: (S,) booleans: x = f(w x + b) to the resolution of the dtype.
    """

    points: Array
    distinct: Array
    settled: Array


def fixed_points(
    system: System, params: PyTree, starts: Array, *, newton_steps: int = 50
) -> FixedPoints:
    """Fixed points of an all-free network by damped Newton steps on x - f(w x + b) = 0.

    Unstable ones are found as well as stable ones (derived here). The list is as complete
    as the starts are.

    Args:
        system: without boundary neurons, every neuron in the residual rows.
        params: (w, b).
        starts: (S, N).
        newton_steps: static.

    Returns:
        `FixedPoints`; differentiable in params.

    Raises:
        ValueError: some neuron has no residual row, or starts have the wrong shape.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> params = {"w": jnp.array([[1.8]]), "b": jnp.zeros(1)}
        >>> starts = jnp.array([[-1.0], [0.0], [1.0], [2.0]])
        >>> fixed_points(dense_network(1, "tanh"), params, starts).distinct.tolist()
        [True, True, True, False]
    """
    n, network = system.network.n, system.network
    if len(network.residual_rows) < n:
        raise ValueError(
            f"fixed points need every neuron in the residual rows, not {network.residual_rows}"
        )
    if jnp.ndim(starts) != 2 or jnp.shape(starts)[1] != n:
        raise ValueError(f"starts have shape {jnp.shape(starts)}; give (S, {n})")
    dtype = _dtype(params, starts)
    frozen = jax.lax.stop_gradient((params, jnp.asarray(starts, dtype)))
    constant = lambda x: x - system.predict(frozen[0], x)
    found = jax.vmap(lambda x: _root(constant, x, newton_steps))(frozen[1])
    found = jax.lax.stop_gradient(found)
    residual = lambda x: x - system.predict(params, x)
    points = jax.vmap(lambda x: _newton(residual, _newton(residual, x)))(found)
    size = 1 + jnp.max(jnp.abs(points), axis=1)
    resolution = jnp.sqrt(jnp.finfo(dtype).eps)
    settled = jnp.max(jnp.abs(jax.vmap(residual)(points)), axis=1) <= resolution * size
    apart = jnp.max(jnp.abs(points[:, None] - points[None]), axis=-1)
    same = (apart <= 30 * resolution * size) & settled[None, :]
    earlier = jnp.tril(jnp.ones((len(found), len(found)), bool), -1)
    return FixedPoints(points, settled & ~jnp.any(same & earlier, axis=1), settled)


def _newton(residual: Callable, x: Array) -> Array:
    a = jax.jacfwd(residual)(x)
    singular = jnp.linalg.det(jax.lax.stop_gradient(a)) == 0
    a = jnp.where(singular, jnp.eye(x.size, dtype=x.dtype), a)
    move = jnp.linalg.solve(a, residual(x))
    return jnp.where(singular, x, x - move)


def _root(residual: Callable, start: Array, steps: int) -> Array:
    """Newton steps, shortened until the residual falls."""
    fractions = jnp.array(_FRACTIONS, start.dtype)[:, None]

    def step(x, _):
        tried = x + fractions * (_newton(residual, x) - x)
        heights = jnp.sum(jax.vmap(residual)(tried) ** 2, axis=-1)
        return tried[jnp.argmin(jnp.where(jnp.isnan(heights), jnp.inf, heights))], None

    return jax.lax.scan(step, start, None, length=steps)[0]


def fixed_point_sum(
    system: System,
    params: PyTree,
    starts: Array,
    beta: ArrayLike,
    *,
    newton_steps: int = 50,
) -> State:
    """Laplace's formula of an all-free network, summed over its distinct fixed points.

        log Z ~ log Z_ref + log sum_k 1 / |det(I - D_k w)|

    Derived here. Leaving out the unstable fixed points is an error of order one. The
    result is as complete as the starts.

    Args:
        system: without boundary neurons and site potential.
        params: (w, b).
        starts: (S, N); those that end at one point count once.
        beta: inverse temperature of the states.
        newton_steps: static.

    Returns:
        `State`, stderr 0. Flags: SINGULAR and log_z = +inf where I - D w is singular at a
        fixed point; NOT_A_MINIMUM and log_z NaN where no start settled.

    Raises:
        ValueError: boundary neurons, a site potential, or beta not positive.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> params = {"w": jnp.array([[1.8]]), "b": jnp.zeros(1)}
        >>> starts = jnp.array([[-1.0], [0.0], [1.0]])
        >>> state = fixed_point_sum(dense_network(1, "tanh"), params, starts, 20.0)
        >>> round(float(state.log_z), 4)
        0.7721
    """
    check_beta(beta)
    network = system.network
    if network.confined or network.inputs or network.outputs:
        raise ValueError(
            "the sum over fixed points holds where all neurons are free and no site "
            f"potential acts, not with boundary {network.inputs + network.outputs}, mu = "
            f"{network.mu}; use laplace_state"
        )
    points, distinct, _ = fixed_points(system, params, starts, newton_steps=newton_steps)
    slopes = jax.vmap(jax.jacfwd(lambda x: x - system.predict(params, x)))(points)
    n, eps = network.n, jnp.finfo(points.dtype).eps
    scales = jnp.linalg.svd(jax.lax.stop_gradient(slopes), compute_uv=False)
    # where the slopes cross zero Newton converges slowly, to the root of the resolution
    singular = distinct & (scales[:, -1] <= n * jnp.sqrt(eps) * jnp.maximum(scales[:, 0], 1))
    counts = (distinct & ~singular)[:, None, None]
    regular = jnp.where(counts, slopes, jnp.eye(n, dtype=points.dtype))
    log_volumes = jnp.where(counts[:, 0, 0], -jnp.linalg.slogdet(regular)[1], -jnp.inf)
    log_volumes = jnp.where(jnp.any(distinct), log_volumes, 0.0)
    log_sum = jax.nn.logsumexp(log_volumes)
    diverges, lost = jnp.any(singular), ~jnp.any(distinct)
    log_z = jnp.where(diverges, jnp.inf, log_z_reference(n, beta) + log_sum)
    log_z = jnp.where(lost, jnp.nan, log_z)
    broken = diverges | lost
    return state_of(
        log_z,
        jnp.where(broken, jnp.nan, 0.5 * n / beta),
        jnp.where(broken, jnp.nan, 0.5 * n),
        n,
        beta,
        flags=raise_flags((Flag.SINGULAR, diverges), (Flag.NOT_A_MINIMUM, lost)),
    )
