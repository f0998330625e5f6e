"""Second law of learning: how fast an ensemble of networks loses entropy, and its states too.

    gradient flow       dS_q/dt = -gamma <lap F>
    Langevin            dS_q/dt = -gamma <lap F> + D <|grad log p|^2>
    matrix noise, Ito   dS_q/dt = -gamma <lap F> - <d_i d_j D_ij> + <D_ij s_i s_j>
    step of descent     Delta S_q = <log|det(1 - eta H)|>,   H = d^2 F / dq^2
    states, fixed beta  dF/dt = -gamma |d_q F|^2 <= 0,   dS/dt = -gamma d_q S . d_q F

S_q = -int p log p is the differential entropy of the trainables, S that of the neurons. The
drift is -gamma grad F and s = grad log p. With a preconditioner g^-1(q) put
d_i (g^ij d_j F) for lap F; descent in minibatches has gamma = eta and D = eta^2 Cov(g) / 2 a
step. For heavy balls none of this holds: their phase-space entropy falls at n_q times the
friction whatever F is.

That dS/dt <= 0 during learning is Vanchurin 2021, Eq. (7.6) [paper]. Which entropy obeys it
is not settled there: at fixed beta dS/dt of the states has no sign.

Source: formulas textbook; the role of the Laplacian is the paper's, and the sign of the
drift our choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.curvature import Trace, entries
from thermojax.estimators.estimate import Flag, explain, raise_flags
from thermojax.estimators.information import error_of_mean
from thermojax.estimators.knn import flatten_ensemble
from thermojax.lanczos import krylov, quadrature
from thermojax.theories.learning_laws.ensemble import thermodynamic_state, total_free_energy
from thermojax.theories.learning_laws.septuple import System
from thermojax.typing import Array, ArrayLike, Key, PyTree, is_concrete

__all__ = ["Rate", "StateRate", "entropy_rate", "gd_entropy_change", "state_entropy_rate"]

METHODS = ("exact", "series", "slq")


class Rate(NamedTuple):
    """dS_q/dt of an ensemble of networks, nats per unit of time.

    Attributes:
        total: drift + diffusion.
        drift: -gamma <lap F>; minus the entropy destruction rate.
        diffusion: D <|grad log p|^2> and its like; nan if noise came without a score.
        stderr: standard error of the total over members.
        flags: uint32 bit set of `Flag`; zero means trusted.
    """

    total: Array
    drift: Array
    diffusion: Array
    stderr: Array
    flags: Array

    @property
    def reasons(self) -> list[str]:
        """The raised flags, explained."""
        return explain(self.flags)


class StateRate(NamedTuple):
    """Rates of the neurons' ensemble under gradient flow of F at fixed beta.

    Attributes:
        dF_dt: -gamma |d_q F|^2, loss per unit of time.
        dS_dt: -gamma d_q S . d_q F, nats per unit of time, of either sign.
    """

    dF_dt: Array
    dS_dt: Array


def entropy_rate(
    laplacian_values: ArrayLike,
    *,
    gamma: ArrayLike,
    diffusion: ArrayLike | Callable[[Array], Array] = 0.0,
    score: Callable[[PyTree], PyTree] | str | None = None,
    samples: PyTree = None,
) -> Rate:
    """Rate of the entropy of an ensemble of networks; see the module docstring.

    Textbook; the sign of the drift and of F are this library's.

    Args:
        laplacian_values: [M] lap F at each member, for instance `learning_efficiency(...)
            .value`; the divergence of the preconditioned gradient where there is one.
        gamma: mobility, q^2 / (loss time).
        diffusion: D, a scalar, a matrix [n_q, n_q], or a function of one flattened q that
            returns a matrix (Ito); q^2 / time.
        score: one member -> grad log p, a pytree like it; or "gaussian", fitted to samples.
        samples: [M, n_q], or a pytree with a leading axis of M members.

    Returns:
        `Rate`. For "gaussian" the bias of the inverse covariance is taken out and the
        error counts that of the fit, both as for Gaussian members.

    Raises:
        ValueError: no leading axis; a score without samples, or samples of another number;
            "gaussian" with M <= n_q + 2; negative gamma or diffusion.

    Example:
        >>> entropy_rate(jnp.array([3.0, 5.0]), gamma=0.5).total
        Array(-2., dtype=float32)
        >>> q = jnp.array([[-1.0], [1.0]])
        >>> ornstein = entropy_rate(
        ...     jnp.ones(2), gamma=1.0, diffusion=1.0, score=lambda q: -q, samples=q
        ... )
        >>> float(ornstein.total)
        0.0
    """
    values = jnp.asarray(laplacian_values)
    _check_rate(values, gamma, diffusion, score, samples)
    count = len(values)
    drift = -jnp.asarray(gamma, values.dtype) * values
    quiet = not callable(diffusion) and is_concrete(diffusion) and not np.any(diffusion)
    if quiet:
        noise, influence = jnp.zeros((), values.dtype), jnp.zeros_like(values)
    elif score is None:
        noise, influence = jnp.full((), jnp.nan, values.dtype), jnp.zeros_like(values)
    else:
        flat = flatten_ensemble(samples)
        term = lambda w: _diffusion(w, flat, samples, diffusion, score)
        # what more weight on one member changes: the error also of the fit
        equal = jnp.full(count, 1 / count, flat.dtype)
        noise, influence = jax.value_and_grad(term)(equal)
    total = jnp.mean(drift) + noise
    error = error_of_mean(drift + influence) if count > 1 else jnp.full_like(total, jnp.inf)
    error = jnp.where(jnp.isfinite(total), error, jnp.inf)
    flags = raise_flags((Flag.NONFINITE, ~jnp.isfinite(total)))
    return Rate(total, jnp.mean(drift), noise, error, flags)


def _diffusion(weights: Array, flat: Array, samples: PyTree, diffusion, score) -> Array:
    """-<d_i d_j D_ij> + <D_ij s_i s_j> over members of given weights."""
    weights = weights / jnp.sum(weights)
    count, size = flat.shape
    if callable(score):
        scores = flatten_ensemble(jax.vmap(score)(samples))
    else:
        mean = weights @ flat
        centred = flat - mean
        covariance = (centred * weights[:, None]).T @ centred
        # E[C^-1] of a Gaussian sample covariance is too large by M / (M - n_q - 2)
        shrink = math.sqrt((count - size - 2) / count)
        scores = -shrink * jnp.linalg.solve(covariance, centred.T).T
    if not callable(diffusion):
        d = jnp.asarray(diffusion, flat.dtype)
        d = d * jnp.eye(size, dtype=flat.dtype) if d.ndim == 0 else d
        return weights @ jnp.sum((scores @ d) * scores, axis=1)

    def one(q, s):
        bend = jnp.einsum("ijij", jax.hessian(diffusion)(q))
        return s @ diffusion(q) @ s - bend

    return weights @ jax.vmap(one)(flat, scores)


def _check_rate(values: Array, gamma, diffusion, score, samples) -> None:
    if values.ndim != 1 or not len(values):
        raise ValueError(f"laplacian_values has shape {values.shape}: give one per member, [M]")
    if is_concrete(gamma) and not np.all(np.asarray(gamma) >= 0):
        raise ValueError(f"gamma={gamma} is negative: the drift is -gamma grad F, gamma >= 0")
    if not callable(diffusion) and is_concrete(diffusion):
        d = np.asarray(diffusion)
        if np.any((np.diag(d) if d.ndim == 2 else d) < 0):
            raise ValueError(f"diffusion={diffusion} is negative: give D >= 0")
    if score is None:
        return
    if not callable(score) and score != "gaussian":
        raise ValueError(f"score={score!r} is unknown: give a function of one q or 'gaussian'")
    if samples is None:
        raise ValueError("score= needs samples=, the members that it is evaluated at")
    count, size = flatten_ensemble(samples).shape
    if count != len(values):
        raise ValueError(f"{count} samples for {len(values)} laplacian_values: give one each")
    if score == "gaussian" and count <= size + 2:
        raise ValueError(
            f"{count} members are too few to fit score='gaussian' in {size} dimensions: give "
            f"more than {size + 2}"
        )


def gd_entropy_change(
    fn: Callable[[PyTree], Array],
    params: PyTree,
    step_size: ArrayLike,
    *,
    method: str = "exact",
    order: int = 2,
    key: Key | None = None,
    probes: int = 16,
    steps: int = 16,
    support: PyTree = None,
) -> Trace:
    """log|det(1 - eta H)|: what one step q - eta grad F does to the ensemble's entropy.

        exact     log|det|
        series    -sum_{k <= order} eta^k Tr H^k / k,   where eta |H| < 1
        slq       stochastic Lanczos quadrature of log|1 - eta lambda|

    The mean over members is Delta S_q, as long as the step is one-to-one: there no
    eigenvalue of eta H crosses 1 between members.

    Textbook (change of variables).

    Args:
        fn: params -> F, scalar.
        params: pytree, one member; `jax.vmap` over an ensemble.
        step_size: eta, q^2 / loss.
        method: "exact" costs n_q Hessian-vector products and n_q^3; "series" n_q order / 2,
            or with a key probes order / 2; "slq" probes steps.
        order: of the series.
        key: typed key of the probes: "slq" needs one, "series" takes one.
        probes: random vectors.
        steps: Lanczos steps a probe; n_q of them at most.
        support: pytree like params of concrete boolean masks of the entries that move.

    Returns:
        `Trace` of log|1 - eta H|, nats; stderr 0 without probes. TOO_COARSE where the
        series diverges; NONFINITE where the step is singular (-inf).

    Raises:
        ValueError: an unknown method; "slq" without a key; order, probes or steps below 1.

    Example:
        >>> H = jnp.array([[2.0, 0.5], [0.5, 1.0]])
        >>> change = gd_entropy_change(lambda q: 0.5 * q @ H @ q, jnp.ones(2), 0.2)
        >>> print(f"{float(change):.4f}")
        -0.7550
    """
    _check_step(method, order, key, probes, steps)
    point, build = entries(params, support)
    product = jax.linearize(jax.grad(lambda x: fn(build(x))), point)[1]
    n = point.size
    eta = jnp.asarray(step_size, point.dtype)
    signs = lambda k: jax.random.rademacher(k, point.shape, point.dtype)
    count, coarse = n, False
    if method == "exact":
        hessian = jax.lax.map(product, jnp.eye(n, dtype=point.dtype), batch_size=16)
        value = jnp.linalg.slogdet(jnp.eye(n, dtype=point.dtype) - eta * hessian)[1]
        error = jnp.zeros_like(value)
    else:
        if method == "slq":
            log = lambda ritz: jnp.log(jnp.abs(1 - eta * ritz))
            one = lambda v: quadrature(krylov(product, v, min(steps, n)), log)
        else:
            one = lambda v: _series(product, v, eta, order)
            # the Lanczos bound of a fixed vector; a random one would need a key
            fixed = jnp.cos(jnp.arange(1.0, n + 1)).astype(point.dtype)
            extreme = jnp.max(jnp.abs(krylov(product, fixed, min(8, n)).ritz))
            coarse = jnp.abs(eta) * extreme >= 1
        if key is None:
            value = jnp.sum(jax.lax.map(one, jnp.eye(n, dtype=point.dtype), batch_size=16))
            error = jnp.zeros_like(value)
        else:
            each = jax.lax.map(lambda k: one(signs(k)), jax.random.split(key, probes))
            value, error, count = jnp.mean(each), error_of_mean(each), probes
    flags = raise_flags((Flag.NONFINITE, ~jnp.isfinite(value)), (Flag.TOO_COARSE, coarse))
    return Trace(value, error, n, jnp.asarray(count, value.dtype), flags)


def _series(product, v: Array, eta: Array, order: int) -> Array:
    """-sum_k eta^k v . H^k v / k, two powers a product."""

    def body(carry, k):
        left, total = carry
        right = eta * product(left)
        # H^(2k-1) = H^(k-1) H H^(k-1)
        odd = left @ right / (2 * k - 1)
        even = jnp.where(2 * k <= order, right @ right / (2 * k), 0.0)
        return (right, total - odd - even), None

    start = (v, jnp.zeros((), v.dtype))
    halves = jnp.arange(1, (order + 1) // 2 + 1)
    return jax.lax.scan(body, start, halves)[0][1]


def _check_step(method, order, key, probes, steps) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown: use one of {METHODS}")
    if method == "slq" and key is None:
        raise ValueError("method='slq' uses random probes: give key=")
    for name, value in (("order", order), ("probes", probes), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def state_entropy_rate(
    system: System,
    params: PyTree,
    data: PyTree,
    beta: ArrayLike,
    gamma: ArrayLike,
    *,
    prior: Callable[[PyTree], Array] | None = None,
    **options: Any,
) -> StateRate:
    """Rates of free energy and entropy of the neurons under gradient flow on F, fixed beta.

        dF/dt = -gamma |d_q F|^2,   dS/dt = -gamma d_q S . d_q F

    F never rises; S may. The rate of the total entropy S_q + <S> of an ensemble is
    `entropy_rate(...).total` plus the mean of dS_dt.

    Our definition, following the paper's programme (Vanchurin 2021).

    Args:
        system: from `dense_network` or `layered_network`.
        params: trainables of one network; `jax.vmap` over networks and over beta.
        data: examples, or None.
        beta: inverse temperature of the states, 1/loss.
        gamma: mobility of the trainables, q^2 / (loss time).
        prior: params -> loss, a term of F that the states do not feel.
        **options: `method`, `key`, `reduction` ("sum" or "mean") and the rest of
            `thermodynamic_state`.

    Returns:
        `StateRate`.
    """
    point, build = entries(params)

    def free(x):
        return total_free_energy(system, build(x), data, beta, prior=prior, **options)

    def entropy(x):
        return thermodynamic_state(system, build(x), data, beta, **options).entropy

    force, mobility = jax.grad(free)(point), jnp.asarray(gamma, point.dtype)
    fall = -mobility * jnp.sum(force**2)
    return StateRate(fall, -mobility * jnp.sum(jax.grad(entropy)(point) * force))
