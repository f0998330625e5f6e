"""The noise of an estimated gradient, the heat it brings, and when a bath is stationary.

    C = (N^2/B) Cov_i(grad l_i)  [ (N - B)/(N - 1) without replacement ]
    T_noise = h tr C / (2 d)     temperature that plain gradient steps of size h run at
    noise_ratio = T_noise / T    what it adds to a bath at T, to leading order

and, exactly at every step size and for any U, in a stationary state (c any centre):

    sgld       <(theta - c) . g_u> = d + (eps/2) <|S g_u|^2>          reduced, scale S
    sgd        <(theta - c) . g> = (h/2) <|g|^2>
    momentum   <(theta - c) . g> = (1 + mu) / (2 h) <|v|^2>,          v = theta' - theta

Noise injected at temperature T enters v, and takes 2 mu d T from the last right side.

Source: specification of the core, 2.5 and 2.8; Yaida 2019; scale and injected noise derived
here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.accumulators import moments
from thermojax.dynamics.gradients import ControlVariate, Gradient, Minibatch
from thermojax.dynamics.kernel import Kernel
from thermojax.dynamics.leaves import scales
from thermojax.ensembles import EnsembleState, run
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["noise_covariance", "noise_power", "noise_ratio", "stationarity"]

TOO_NOISY = 0.05
LIMIT = 4.26


def noise_covariance(
    sys: System,
    theta: PyTree,
    gradient: Gradient,
    control: PyTree = (),
) -> Array:
    """Exact covariance C [d, d] of a minibatch estimate of grad U at theta.

    Args:
        sys: a system with per-example energies.
        theta: one set of parameters, flattened leaf after leaf to d numbers.
        gradient: `tj.minibatch(...)` or `tj.control_variate(...)`.
        control: control of the system.

    Raises:
        ValueError: an estimator without such a formula, or an energy that is no sum.
    """
    slopes = _per_example_slopes(sys, theta, control)
    batch = gradient
    if isinstance(gradient, ControlVariate):
        slopes = slopes - _per_example_slopes(sys, gradient.anchor, control)
        batch = gradient.batch
    if not isinstance(batch, Minibatch):
        raise ValueError(
            f"no covariance formula for {gradient}: use tj.minibatch or tj.control_variate"
        )
    n, size = slopes.shape[0], batch.size
    centred = slopes - jnp.mean(slopes, axis=0)
    covariance = n / size * centred.T @ centred
    return covariance if batch.replace else covariance * (n - size) / max(n - 1, 1)


def _per_example_slopes(sys: System, theta: PyTree, control: PyTree) -> Array:
    """[N, d] gradients of the examples."""
    rows = jax.jacrev(lambda t: sys.per_example(t, control))(theta)
    leaves = jax.tree.leaves(rows)
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)


@jax.jit(static_argnames=("groups", "draws"))
def noise_power(
    sys: System,
    positions: PyTree,
    point: Point,
    key: Key,
    gradient: Gradient,
    groups: tuple[tuple[int, ...], ...],
    draws: int = 16,
) -> Array:
    """[walkers, L] sums over each group of leaves of E |g - grad U|^2, by fresh draws.

    Unbiased for every estimator; an anchored one is judged with its anchor as it was
    initialised at each walker.
    """
    control = point.control

    def one(args):
        i, theta = args
        exact = jax.grad(sys.energy)(theta, control)
        memory = gradient.init(sys, theta, control)

        def draw(k):
            batch, after = gradient.draw(k, sys, theta, control, memory)
            slope = jax.grad(lambda t: gradient.energy(sys, t, control, batch, after))(theta)
            gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), slope, exact)
            leaves = jax.tree.leaves(gaps)
            return jnp.stack([sum(leaves[j] for j in group) for group in groups])

        keys = jax.random.split(jax.random.fold_in(key, i), draws)
        return jnp.mean(jax.lax.map(draw, keys), axis=0)

    count = jax.tree.leaves(positions)[0].shape[0]
    return jax.lax.map(one, (jnp.arange(count, dtype=jnp.uint32), positions))


def noise_ratio(
    sys: System,
    positions: PyTree,
    point: Point,
    key: Key,
    gradient: Gradient,
    *,
    step_size: ArrayLike,
    draws: int = 16,
) -> Estimate:
    """How much minibatch noise heats `sgld`: h tr C / (2 d T) = eps beta^2 tr C / (2 d).

    Args:
        sys: the system.
        positions: theta of some walkers, leading axis [walkers].
        point: thermodynamic state.
        key: typed key of the batches.
        gradient: the estimator.
        step_size: reduced step eps.
        draws: batches per walker.

    Returns:
        An `Estimate`; GRADIENT_NOISE is raised above 0.05.
    """
    leaves = jax.tree.leaves(positions)
    d = sum(np.prod(x.shape[1:], dtype=int) for x in leaves)
    groups = (tuple(range(len(leaves))),)
    power = noise_power(sys, positions, point, key, gradient, groups, draws)[:, 0]
    ratios = jnp.asarray(step_size) * jnp.asarray(point.beta) ** 2 * power / (2 * d)
    value, count = jnp.mean(ratios), ratios.shape[0]
    error = jnp.std(ratios, ddof=1) / np.sqrt(count) if count > 1 else jnp.asarray(jnp.nan)
    flags = raise_flags(
        (Flag.GRADIENT_NOISE, value > TOO_NOISY), (Flag.NONFINITE, ~jnp.isfinite(value))
    )
    return Estimate(value, error, error, jnp.asarray(float(count)), flags)


def stationarity(
    sys: System,
    kernel: Kernel,
    key: Key,
    st: EnsembleState,
    point: Point,
    n_steps: int,
    *,
    learning_rate: ArrayLike | None = None,
    momentum: ArrayLike = 0.0,
    params: PyTree = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Estimate:
    """Test the stationarity identity of a bath: the ratio of its two sides, which is 1.

    No thermometer but a test of burn-in: it holds at any step size and for any energy once
    the ensemble is stationary, and fails while it still moves.

    Args:
        sys: the system.
        kernel: `tj.sgld`, or `tj.driven` with optax.sgd, with momentum or not.
        key: typed key of the run.
        st: the ensemble; walkers are the replicas of the error bar.
        point: thermodynamic state.
        n_steps: steps over which the averages are streamed.
        learning_rate: h on U, for driven baths: the optimiser's over N.
        momentum: mu of the optimiser (heavy ball, not Nesterov).
        params: kernel parameters; `kernel.params` by default.
        progress: see `run`.

    Returns:
        An `Estimate` of left over right side; NOT_STATIONARY if it is more than 4.26
        standard errors from 1.

    Raises:
        ValueError: a kernel without an identity here, a driven one without learning rate.
    """
    name = kernel.meta.name
    if name not in ("sgld", "driven"):
        raise ValueError(f"no stationarity identity for {name!r}: use tj.sgld or tj.driven")
    if name == "driven" and learning_rate is None:
        raise ValueError("a driven bath needs learning_rate=: the optimiser's over N")
    params = kernel.params if params is None else params
    centre = jax.tree.map(lambda x: jnp.mean(x, axis=0), st.position)
    sides = _sides(sys, name, centre, point, params, learning_rate, momentum)
    _, out = run(
        kernel,
        key,
        st,
        point,
        n_steps,
        params=params,
        accumulate={"sides": moments(sides)},
        ledger="none",
        progress=progress,
    )
    left, right = out["sides"].mean
    ratio = jnp.mean(left) / jnp.mean(right)
    error = jnp.std((left - ratio * right) / jnp.mean(right), ddof=1) / np.sqrt(left.size)
    flags = raise_flags(
        (Flag.NOT_STATIONARY, jnp.abs(ratio - 1) > LIMIT * error),
        (Flag.NONFINITE, ~jnp.isfinite(ratio)),
    )
    return Estimate(ratio, error, error, jnp.asarray(float(left.size)), flags)


def _sides(
    sys, name, centre, point, params, learning_rate, momentum
) -> Callable[[Any], PyTree]:
    """`sample -> (left, right)` of the identity."""

    def dot(a, b):
        products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
        return sum(jax.tree.leaves(products))

    def sides(sample):
        d = sum(x.size for x in jax.tree.leaves(sample.position))
        shift = jax.tree.map(jnp.subtract, sample.position, centre)
        slope = sample.energy_grad
        if name == "sgld":
            slope = jax.tree.map(lambda g: point.beta * g, slope)
            prior = jax.grad(sys.log_base)(sample.position, point.control)
            slope = jax.tree.map(jnp.subtract, slope, prior)
            scaled = jax.tree.map(jnp.multiply, scales(params.scale, slope), slope)
            return dot(shift, slope), d + params.step_size / 2 * dot(scaled, scaled)
        step = sample.bath.displacement
        moved = (1 + momentum) / (2 * learning_rate) * dot(step, step)
        return dot(shift, slope), moved - 2 * momentum * params.inject_T * d

    return sides
