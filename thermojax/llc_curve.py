"""The learning coefficient against temperature, and Watanabe's information criterion.

    lambda_eff(t) = t <K>_t = -d log Z / d log t,    t = n beta, K = L - L(w*)
    lambda_eff(t) -> lambda - (m - 1) / log t        as t grows
    WBIC = <n L> at beta = 1/log n

Every number at finite t is exact as it stands; only the fit reaches for the limit.

Cost: one run of `tj.llc` per rung; the MBAR solves are small beside it. Use the curve where
a single temperature is not enough to tell a degenerate minimum from a tether that is too
stiff. The fit lies where t is so small that the next terms of the expansion count (they
fall off only as 1/log^2 t), and where a tether cuts the flat directions short.

Source: specification of the core, 3.7; Watanabe 2009, 2013; MBAR read-out derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from thermojax.estimators.estimate import Estimate, Flag
from thermojax.estimators.mbar import mbar
from thermojax.estimators.mixture import t_factor
from thermojax.llc import count_examples, default_beta, jittered_mala, llc
from thermojax.progress import reporter
from thermojax.system import System
from thermojax.typing import Key, PyTree

__all__ = ["LlcCurve", "llc_curve", "wbic"]

METHODS = ("mbar", "independent")


class LlcCurve(NamedTuple):
    """lambda_eff over a ladder of temperatures, and its limit.

    Attributes:
        beta: [K] inverse temperatures on U.
        t: [K] n beta.
        coefficient: `Estimate` with [K] values of lambda_eff, nats.
        limit: `Estimate` of lambda from the fit; nan with fewer than three rungs to fit.
        multiplicity: `Estimate` of m from the fit, a real number.
        misfit: chi^2 per degree of freedom of the fit.
        rungs: the K estimates of `tj.llc`.
    """

    beta: np.ndarray
    t: np.ndarray
    coefficient: Estimate
    limit: Estimate
    multiplicity: Estimate
    misfit: float
    rungs: tuple[Estimate, ...]


def llc_curve(
    sys: System,
    anchor: PyTree,
    key: Key,
    betas: ArrayLike,
    *,
    n: int | None = None,
    method: str = "mbar",
    fit_above: float = 10.0,
    kernel: Callable = jittered_mala,
    n_chains: int = 8,
    progress: bool | Callable[[int, int], None] = False,
    **settings: Any,
) -> LlcCurve:
    """lambda_eff(t) over a ladder, and the fit of lambda - (m - 1) / log t to it.

    Args:
        sys: the system.
        anchor: w*.
        key: typed key.
        betas: [K] inverse temperatures on U, increasing.
        n: factor of t = n beta; the number of examples, or 1 where U is no sum over them.
        method: "mbar" (every rung is read from the samples of all of them) or "independent".
        fit_above: smallest t that enters the fit.
        kernel: see `tj.llc`; "mbar" needs full gradients.
        n_chains: chains per rung, two at least: the error bar is their jackknife.
        progress: show a bar, or call `progress(rungs_done, rungs)`.
        settings: anything else that `tj.llc` takes.

    Returns:
        `LlcCurve`. Each rung carries the flags of its run, and with "mbar" POOR_OVERLAP and
        LOW_ESS; the fit carries those of the rungs that it uses.

    Raises:
        ValueError: betas that do not increase, an unknown method, one chain, minibatches
            with "mbar".

    Source: specification of the core, 3.7.

    Example:
        >>> from thermojax import system
        >>> bowl, zero = system(lambda x: jnp.sum(x**2), like=jnp.zeros(4)), jnp.zeros(4)
        >>> out = llc_curve(bowl, zero, jax.random.key(0), [30.0, 60.0, 120.0], n_steps=400)
        >>> bool(abs(out.coefficient.value[2] - 2) < 5 * out.coefficient.stderr[2] + 0.02)
        True
    """
    beta = _checked(betas, method, n_chains)
    if method == "mbar" and kernel(sys).meta.data_share < 1:
        raise ValueError("minibatch losses are too noisy for mbar: use method='independent'")
    rungs = []
    with reporter(progress, len(beta), "rungs") as report:
        for k, b in enumerate(beta):
            here = jax.random.fold_in(key, k)
            more: dict[str, Any] = {"kernel": kernel, "n_chains": n_chains, "n": n, **settings}
            rungs.append(llc(sys, anchor, here, beta=b, **more))
            report(1)
    t = beta * (count_examples(sys, n) or 1)
    value, leave, flags, n_eff = (_by_mbar if method == "mbar" else _apart)(beta, rungs)
    stderr = _jackknife(leave)
    within = np.array([float(r.within_stderr) for r in rungs])
    coefficient = _estimate(value, stderr, within, n_eff, flags)
    fit, misfit = _fit(t, value, leave, stderr, flags, fit_above)
    return LlcCurve(beta, t, coefficient, *fit, misfit, tuple(rungs))


def _checked(betas: ArrayLike, method: str, n_chains: int) -> np.ndarray:
    beta = np.asarray(betas, np.float64)
    if beta.ndim != 1 or not len(beta) or beta[0] <= 0 or np.any(np.diff(beta) <= 0):
        raise ValueError(f"betas={betas} must be positive numbers that increase")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown: use 'mbar' or 'independent'")
    if n_chains < 2:
        raise ValueError(f"n_chains={n_chains} must be at least 2: their spread is the error")
    return beta


def _apart(beta: np.ndarray, rungs: list[Estimate]) -> tuple[np.ndarray, ...]:
    """Values [K], leave-one-chain-out values [R, K], flags and n_eff of each rung alone."""
    chains = np.stack([np.asarray(r.parts.chains, np.float64) for r in rungs], axis=1)
    total, count = np.nansum(chains, axis=0), np.sum(np.isfinite(chains), axis=0)
    without = (total - np.nan_to_num(chains)) / (count - np.isfinite(chains))
    flags = np.array([int(r.flags) for r in rungs], np.uint32)
    return total / count, without, flags, np.array([float(r.n_eff) for r in rungs])


def _by_mbar(beta: np.ndarray, rungs: list[Estimate]) -> tuple[np.ndarray, ...]:
    """The same, every rung read from the samples of all."""
    excess = np.stack([np.asarray(r.parts.trace, np.float64) for r in rungs])
    excess = np.swapaxes(excess / beta[:, None, None], 1, 2)  # [K, R, kept]
    fine = np.isfinite(excess).all(axis=(0, 2))
    value, flags, n_eff = _reweighted(beta, excess[:, fine])
    count = excess.shape[1]
    leave = np.full((count, len(beta)), np.nan)
    for c in np.flatnonzero(fine):
        leave[c] = _reweighted(beta, excess[:, fine & (np.arange(count) != c)])[0]
    flags = flags | np.array([int(r.flags) for r in rungs], np.uint32)
    return value, leave[fine], flags, n_eff


def _reweighted(beta: np.ndarray, excess: np.ndarray) -> tuple[np.ndarray, ...]:
    """beta <U - U*> at every beta from samples [K, chains, kept] of all of them."""
    pooled = excess.ravel()
    if not pooled.size:
        nothing = np.full(len(beta), np.nan)
        return nothing, np.full(len(beta), int(Flag.NONFINITE), np.uint32), nothing
    fit = mbar(beta[:, None] * pooled, np.full(len(beta), pooled.size // len(beta)))
    flags = np.asarray(fit.estimate.flags, np.uint32)
    if not np.all(np.isfinite(fit.estimate.value)):
        return np.full(len(beta), np.nan), flags, np.asarray(fit.estimate.n_eff)
    weights = [np.exp(fit.log_weights(b * pooled)) for b in beta]
    value = np.array([b * (w @ pooled) for b, w in zip(beta, weights, strict=True)])
    return value, flags, np.asarray(fit.estimate.n_eff)


def _jackknife(leave: np.ndarray) -> np.ndarray:
    """Standard error from leave-one-chain-out values along axis 0, t-widened."""
    count = len(leave)
    if count < 2:
        return np.full(leave.shape[1:], np.inf)
    spread = np.sum((leave - leave.mean(axis=0)) ** 2, axis=0)
    return t_factor(count) * np.sqrt((count - 1) / count * spread)


def _estimate(value, stderr, within, n_eff, flags) -> Estimate:
    flags = flags | np.where(np.isfinite(value), 0, int(Flag.NONFINITE)).astype(np.uint32)
    stderr = np.where(np.isfinite(value), np.nan_to_num(stderr, nan=np.inf), np.inf)
    return Estimate(*map(jnp.asarray, (value, stderr, within, n_eff)), jnp.asarray(flags))


def _fit(t, value, leave, stderr, flags, fit_above) -> tuple[tuple[Estimate, Estimate], float]:
    """Weighted least squares of lambda - (m - 1) / log t, errors by the same jackknife."""
    on = (t >= max(fit_above, math.e)) & np.isfinite(value) & np.isfinite(stderr)
    union = np.bitwise_or.reduce(flags[on], initial=np.uint32(0))
    nothing = _estimate(np.nan, np.inf, np.inf, 0.0, union)
    if on.sum() < 3 or not np.all(stderr[on] > 0):
        return (nothing, nothing), math.nan
    design = np.stack([np.ones(on.sum()), -1 / np.log(t[on])], axis=1) / stderr[on, None]
    solve = np.linalg.pinv(design)
    both = solve @ (value[on] / stderr[on])
    errors = _jackknife(leave[:, on] / stderr[on] @ solve.T)
    misfit = float(np.sum((design @ both - value[on] / stderr[on]) ** 2) / max(on.sum() - 2, 1))
    count = float(len(leave))
    limit = _estimate(both[0], errors[0], errors[0], count, union)
    return (limit, _estimate(1 + both[1], errors[1], errors[1], count, union)), misfit


def wbic(
    sys: System, anchor: PyTree, key: Key, *, n: int | None = None, **settings: Any
) -> Estimate:
    """Watanabe's widely applicable Bayesian information criterion, <n L> at beta = 1/log n.

        WBIC = <U>_{beta = 1/log n} = -log Z(1) + O(sqrt(log n))

    under the system's own prior, without a tether: the temperature at which the mean energy
    equals the free energy, to leading orders.

    Args:
        sys: the system, with a prior; U must be minus the log likelihood for Z(1) to be the
            evidence.
        anchor: where the chains start, best a minimum.
        key: typed key.
        n: number of examples; from the data where U is a sum.
        settings: anything else that `tj.llc` takes, apart from beta, gamma and keep_prior.

    Returns:
        An `Estimate` in nats; its parts are those of `tj.llc`. A low place that the walkers
        find is no objection here.

    Raises:
        ValueError: no prior, or no n.

    Source: Watanabe 2013; specification of the core, 3.7.

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 50 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = wbic(sys, 0.0, jax.random.key(0), n=100, n_steps=400)
        >>> bool(abs(est.value - 50 / (100 / np.log(100) + 1)) < 5 * est.stderr)
        True
    """
    if sys.prior is None:
        raise ValueError("WBIC is a mean over the tempered posterior: give the system a prior")
    beta = default_beta(count_examples(sys, n), None)
    est = llc(sys, anchor, key, n=n, beta=beta, gamma=0.0, keep_prior=True, **settings)
    scale = lambda x: x / est.parts.beta
    return est._replace(
        value=est.parts.anchor_energy + scale(est.value),
        stderr=scale(est.stderr),
        within_stderr=scale(est.within_stderr),
        flags=est.flags & jnp.uint32(0xFFFFFFFF ^ int(Flag.NOT_A_MINIMUM)),
    )
