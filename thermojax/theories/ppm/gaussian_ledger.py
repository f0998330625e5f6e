"""The ledger of a linear-Gaussian learner, by recursions of second moments.

The state is (theta, e) with e = x - A theta: a fresh sample has e independent of theta, so
that no covariance is the small difference of large ones. Its law is carried in parts,

    Cov = kept + batch + J S_b J^T

(start and injected noise; minibatch noise; response J to the dataset), of which
conditioning on the stream leaves `kept` and conditioning on the dataset `kept + batch`.

Source: derived here; specification of the theory, section 3.2.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.ppm import covariance
from thermojax.theories.ppm.gaussian import GaussianLearner, check_learner
from thermojax.theories.ppm.ledger import Ledger
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["gaussian_l_info", "gaussian_ledger"]


class _Moments(NamedTuple):
    """Law of (theta, e): mean [s], response to b [s, k], two covariances [s, s]."""

    mean: Array
    response: Array
    kept: Array
    batch: Array

    def given(self, with_batch: Array) -> Array:
        return self.kept + with_batch * self.batch

    def covariance(self, data_cov: Array) -> Array:
        return self.kept + self.batch + self.response @ data_cov @ self.response.T


def _start(g: GaussianLearner) -> _Moments:
    s, k = len(g.mean0), len(g.data_mean)
    d = len(g.drift)
    to_error = jnp.eye(s, dtype=g.mean0.dtype).at[d:, :d].set(-g.readout)
    nothing = jnp.zeros((s, s), g.mean0.dtype)
    kept = to_error @ g.cov0 @ to_error.T
    return _Moments(to_error @ g.mean0, nothing[:, :1] * jnp.zeros(k), kept, nothing)


def _move_theta(g: GaussianLearner, m: _Moments) -> _Moments:
    d, p = len(g.drift), len(g.readout)
    eye_d, eye_p = jnp.eye(d, dtype=g.drift.dtype), jnp.eye(p, dtype=g.drift.dtype)
    top = g.drift + g.feedback @ g.readout
    lower = [g.readout @ (eye_d - top), eye_p - g.readout @ g.feedback]
    step = jnp.block([[top, g.feedback], lower])
    kick = jnp.concatenate([eye_d, -g.readout])
    data = kick @ g.data_gain
    return _Moments(
        mean=step @ m.mean + data @ g.data_mean,
        response=step @ m.response + data,
        kept=step @ m.kept @ step.T + kick @ g.noise_cov @ kick.T,
        batch=step @ m.batch @ step.T + data @ g.batch_cov @ data.T,
    )


def _move_x(g: GaussianLearner, m: _Moments) -> _Moments:
    d, s = len(g.drift), len(m.mean)
    step = jnp.eye(s, dtype=m.mean.dtype).at[d:, d:].set(g.relaxation)
    fresh = g.output_cov - g.relaxation @ g.output_cov @ g.relaxation.T
    return _Moments(
        mean=step @ m.mean,
        response=step @ m.response,
        kept=(step @ m.kept @ step.T).at[d:, d:].add(fresh),
        batch=step @ m.batch @ step.T,
    )


def _energy(precision: Array, g: GaussianLearner, m: _Moments) -> Array:
    """beta <U>, nats."""
    d = len(g.drift)
    e = m.mean[d:]
    second = m.covariance(g.data_cov)[d:, d:] + jnp.outer(e, e)
    return 0.5 * jnp.sum(precision * second)


class _Noise(NamedTuple):
    """What R does: a factor of R^-1 where R has noise, and where it has none."""

    whiten: Array
    null: Array
    rank: Array


def _noise(cov: Array) -> _Noise:
    variance = jax.lax.stop_gradient(jnp.diag(cov))
    sd = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 1.0)
    scaled = cov / sd / sd[:, None]
    nulls, ranks = covariance.split(scaled[None])
    keep = jnp.eye(len(cov), dtype=cov.dtype) - nulls[0]
    factor = jnp.linalg.cholesky(keep @ scaled @ keep + nulls[0])
    whiten = jax.lax.linalg.triangular_solve(factor, keep / sd, left_side=True, lower=True)
    return _Noise(whiten, nulls[0] / sd, ranks[0])


def _heat_theta(xi: _Noise, g: GaussianLearner, m: _Moments) -> Array:
    """beta_theta <Q_Theta>, nats; -inf where a noiseless direction moves.

    The reverse move misses by (1 + M) [(1 - M) theta - D (b + eps) - C x] - M xi, the
    forward one by xi, both measured in R^-1 where R has noise.
    """
    d = len(g.drift)
    eye = jnp.eye(d, dtype=g.drift.dtype)
    pull = jnp.concatenate([eye - g.drift - g.feedback @ g.readout, -g.feedback], axis=1)
    known = m.kept + m.batch

    def second_moment(left):
        """<|left . reverse miss|^2>, each factor projected before it is squared."""
        turned = left @ (eye + g.drift)
        state, data, noise = turned @ pull, turned @ g.data_gain, left @ g.drift
        mean = state @ m.mean - data @ g.data_mean
        response = state @ m.response - data
        return (
            jnp.sum(mean**2)
            + jnp.sum((state @ known) * state)
            + jnp.sum((response @ g.data_cov) * response)
            + jnp.sum((data @ g.batch_cov) * data)
            + jnp.sum((noise @ g.noise_cov) * noise)
        )

    size = (
        jnp.sum(m.mean[:d] ** 2)
        + jnp.trace(m.covariance(g.data_cov)[:d, :d])
        + jnp.sum((g.data_gain @ (g.data_cov + g.batch_cov)) * g.data_gain)
        + jnp.sum((g.data_gain @ g.data_mean) ** 2)
    )
    rounding = (100 * jnp.finfo(size.dtype).eps) ** 2 * size
    # only what rounding leaves of a parameter that stays may count as staying
    moves = second_moment(xi.null) > rounding * jnp.max(jnp.sum(xi.null**2, axis=0))
    reduced = 0.5 * (xi.rank - second_moment(xi.whiten))
    return jnp.where(moves, -jnp.inf, reduced)


@functools.partial(jax.jit, static_argnames="n_steps")
def _recursion(
    g: GaussianLearner, n_steps: int
) -> tuple[_Moments, _Moments, tuple[Array, Array, Array]]:
    """Moments [N + 1] and stale ones [N]; beta Q_X, beta W, beta_theta Q_Theta [N]."""
    eye = jnp.eye(len(g.readout), dtype=g.readout.dtype)
    precision = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(g.output_cov), True), eye)
    energy, xi = functools.partial(_energy, precision, g), _noise(g.noise_cov)

    def step(before, _):
        stale = _move_theta(g, before)
        after = _move_x(g, stale)
        middle = energy(stale)
        heat, work = energy(after) - middle, middle - energy(before)
        return after, (after, stale, (heat, work, _heat_theta(xi, g, before)))

    start = _start(g)
    _, (after, stale, energies) = jax.lax.scan(step, start, length=n_steps)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, after)
    return states, stale, energies


def _part(found: covariance.Volume, start: int | None, stop: int | None) -> covariance.Volume:
    return covariance.Volume(*(field[start:stop] for field in found))


def _gain(found: covariance.Volume) -> Array:
    """Entropy gains from state to state."""
    return covariance.change(_part(found, None, -1), _part(found, 1, None))


@functools.partial(jax.jit, static_argnames="n_steps")
def _ledger(g: GaussianLearner, n_steps: int, with_batch: Array) -> Ledger:
    d, p, now = len(g.drift), len(g.readout), n_steps + 1
    states, stale, (heat_x, work, heat_theta) = _recursion(g, n_steps)
    law = jax.vmap(lambda m: m.covariance(g.data_cov))
    cov, given = law(states), jax.vmap(lambda m: m.given(with_batch))(states)
    read = jnp.concatenate([g.readout, jnp.eye(p, dtype=g.readout.dtype)], axis=1)
    of_x = lambda v: read @ v @ read.T
    both = jnp.concatenate([cov, law(stale)])
    in_x = [of_x(both), covariance.conditional(both, d), of_x(given)]
    in_theta = [cov[:, :d, :d], given[:, :d, :d]]
    found = covariance.volumes([in_x, in_theta, [cov, given]])
    (x_both, noise_both, x_given), (theta, theta_given), (joint, joint_given) = found
    x, x_stale = _part(x_both, None, now), _part(x_both, now, None)
    noise, noise_stale = _part(noise_both, None, now), _part(noise_both, now, None)
    information, change = covariance.information, covariance.change
    flow_theta = change(noise_stale, _part(noise, None, -1))
    gain_x, gain_theta, gain_noise = _gain(x), _gain(theta), _gain(noise)
    step_x = change(noise_stale, _part(noise, 1, None))
    reverse = jnp.isfinite(heat_theta)
    cost = jnp.where(reverse, heat_theta, 0.0)
    with_heat = lambda gain: jnp.where(reverse, gain - cost, jnp.inf)
    ep_theta = with_heat(gain_theta)
    entropy_theta = covariance.entropy(theta, d)
    return Ledger(
        entropy_x=covariance.entropy(x, p),
        entropy_theta=entropy_theta,
        entropy_joint=entropy_theta + covariance.entropy(noise, p),
        m_info=information(theta, theta_given),
        l_info=information(x, x_given),
        subsystem_info=information(x, noise),
        joint_b_info=information(joint, joint_given),
        stale_info=information(x_stale, noise_stale),
        heat_x=g.temperature * heat_x,
        work=g.temperature * work,
        heat_theta=jnp.where(reverse, g.temperature_theta * cost, -jnp.inf),
        info_flow_x=gain_x - step_x,
        info_flow_theta=flow_theta,
        ep_x=gain_x - heat_x,
        ep_theta=ep_theta,
        ep_step_x=step_x - heat_x,
        ep_step_theta=ep_theta - flow_theta,
        ep_conditional=gain_noise - heat_x,
        ep_total_blind=with_heat(gain_theta + gain_noise - heat_x),
        ep_total_resolved=with_heat(_gain(joint_given) - heat_x),
    )


def _checked(
    learner: GaussianLearner, n_steps: int, source: str
) -> tuple[GaussianLearner, Array]:
    if source not in ("stream", "dataset"):
        raise ValueError(f"source={source!r} must be 'stream' or 'dataset'")
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")
    learner = check_learner(learner)
    # traced: one program serves both sources
    return learner, jnp.asarray(source == "dataset", learner.drift.dtype)


def gaussian_ledger(learner: GaussianLearner, n_steps: int, source: str = "stream") -> Ledger:
    """Information, heat, work and entropy production of a linear-Gaussian learner.

        I = [ln det V - ln det V_given] / 2
        beta Q_X = <e'^T S^-1 e' - e^T S^-1 e> / 2,   e at the same theta', before and after
        beta_theta Q_Theta = <|forward miss|^2 - |backward miss|^2>_{R^-1} / 2

    Heat of Theta equals the change of a quadratic energy with a Hessian modified by the
    finite step (exact detailed balance of the discretised chain).

    Args:
        learner: the process.
        n_steps: number of macro-steps. Static.
        source: what B is: "stream", the dataset and all minibatches so far, or "dataset",
            b alone. Static.

    Returns:
        `Ledger`. Plain gradient descent (R = 0) gives infinite entropy production of Theta
        and infinite m_info, never nan; all of X stays finite. A direction of theta without
        spread is left out, and one that never moves costs nothing. Differentiable in every
        field of the learner where finite.

    Raises:
        ValueError: an unknown source, n_steps < 1, shapes that do not fit, or (outside
            jit) matrices that are no covariances, P S not symmetric, a temperature out of
            range.

    Source: derived here; specification of the theory, section 3.2; marks in `Ledger`.

    Example:
        >>> from thermojax.theories.ppm.gaussian import langevin_learner
        >>> noise = dict(data_mean=1.0, data_cov=1.0, batch_cov=0.5)
        >>> model = dict(readout=1.0, output_cov=0.5, mean0=0.0, cov0=0.25)
        >>> learner = langevin_learner(1.0, 1.0, 0.1, 0.05, **noise, **model)
        >>> round(float(gaussian_ledger(learner, 10).m_info[-1]), 4)
        0.9612
    """
    learner, with_batch = _checked(learner, n_steps, source)
    return _ledger(learner, n_steps, with_batch)


def gaussian_l_info(
    learner: GaussianLearner, n_steps: int, n_samples: ArrayLike = 1, source: str = "stream"
) -> Array:
    """Learned information I(X^(1..k); B) of k independent draws of p(.|theta_n).

        L^(k) = [ln det(A V A^T + S/k) - ln det(A V_given A^T + S/k)] / 2

    It increases in k towards the part of m_info that the output shows. The draws are
    fresh: for a slow sampler, L^(1) is not the `l_info` of the ledger.

    Args:
        learner: the process.
        n_steps: number of macro-steps n. Static.
        n_samples: k >= 1.
        source: "stream" or "dataset", as for `gaussian_ledger`. Static.

    Returns:
        L^(k), nats, scalar.

    Raises:
        ValueError: n_samples < 1 (outside jit), or as for `gaussian_ledger`.

    Source: our definition, following the paper's programme; specification, 2.1 and 3.2.

    Example:
        >>> from thermojax.theories.ppm.gaussian import langevin_learner
        >>> noise = dict(data_mean=1.0, data_cov=1.0, batch_cov=0.5)
        >>> model = dict(readout=1.0, output_cov=0.5, mean0=0.0, cov0=0.25)
        >>> learner = langevin_learner(1.0, 1.0, 0.1, 0.05, **noise, **model)
        >>> [round(float(gaussian_l_info(learner, 10, k)), 3) for k in (1, 16)]
        [0.287, 0.819]
    """
    learner, with_batch = _checked(learner, n_steps, source)
    k = jnp.asarray(n_samples, learner.readout.dtype)
    if is_concrete(k) and not np.all(np.asarray(k) >= 1):
        raise ValueError(f"n_samples={n_samples} must be at least 1")
    return _l_info(learner, k, n_steps, with_batch)


@functools.partial(jax.jit, static_argnames="n_steps")
def _l_info(g: GaussianLearner, k: Array, n_steps: int, with_batch: Array) -> Array:
    d = len(g.drift)
    last = jax.tree.map(lambda leaf: leaf[-1:], _recursion(g, n_steps)[0])
    see = lambda v: g.readout @ v[:, :d, :d] @ g.readout.T + g.output_cov / k
    whole = jax.vmap(lambda m: m.covariance(g.data_cov))(last)
    given = jax.vmap(lambda m: m.given(with_batch))(last)
    [found] = covariance.volumes([[see(whole), see(given)]])
    return covariance.information(*found)[0]
