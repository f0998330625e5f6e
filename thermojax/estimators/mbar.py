"""Multistate Bennett acceptance ratio: all samples of all states, combined optimally.

    minimise (1/N) [ sum_n log sum_j N_j exp(f_j - u_jn) - sum_j N_j f_j ],   f_j = -log Z_j
    W_kn = exp(f_k - u_kn) / sum_j N_j exp(f_j - u_jn)
    Cov(f) = (W' W)^(1/2) [1 - (W' W)^(1/2) diag(N) (W' W)^(1/2)]^+ (W' W)^(1/2)

Cost: one or two passes of exp over the [K, N] matrix and some K^2 N multiplications; memory
two such matrices in float64. Use it where samples of several neighbouring states exist. It lies
where states do not overlap: there its formula error *shrinks*, so that the answer is refused.

The solve is tiny beside the sampling that feeds it, and runs in float64 on the host whatever
jax is set to: outside jit only.

Source: Shirts & Chodera 2008; specification of the core, 3.3; Newton steps on the correction
of a frozen weight matrix: measured recipe of the project; verdict on the weakest cut derived
here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from thermojax.estimators.estimate import Estimate, Flag

__all__ = ["Mbar", "mbar", "mbar_sensitivity"]

THIN, GONE = 0.03, 1e-4
FEW = 50.0
TOLERANCE = 1e-11
WALL = 100.0


class Mbar(NamedTuple):
    """What all samples say together; numpy arrays in float64.

    Attributes:
        estimate: log(Z_k / Z_0) [K], nats, with `stderr` [K] (0 for state 0), `n_eff` [K] and
            flags [K].
        covariance: [K, K] of the log Z, up to a constant: differences are what it tells.
        overlap: [K, K] O_ij, probability that a sample of i could as well be one of j.
        link: overlap across the weakest cut of the sampled states.
        log_denominator: [N] log sum_j N_j exp(f_j - u_jn), the mixture all samples are from.
        residual: largest violation of the equations, in samples.
    """

    estimate: Estimate
    covariance: np.ndarray
    overlap: np.ndarray
    link: float
    log_denominator: np.ndarray
    residual: float

    def difference(self, i: int, j: int) -> tuple[float, float]:
        """log(Z_j / Z_i) and its standard error."""
        c, value = self.covariance, self.estimate.value
        spread = c[i, i] + c[j, j] - 2 * c[i, j]
        return float(value[j] - value[i]), float(np.sqrt(max(spread, 0.0)))

    def log_weights(self, u_target: ArrayLike) -> np.ndarray:
        """[N] normalised log weights of the pooled samples for a target u_n, [N] nats."""
        log_w = -np.asarray(u_target, float) - self.log_denominator
        return log_w - _logsumexp(log_w)


def mbar(u_kn: ArrayLike, n_k: ArrayLike, *, g: ArrayLike = 1.0) -> Mbar:
    """log(Z_k / Z_0) of K states from samples of some of them.

    Args:
        u_kn: [K, N] reduced energies in nats of every sample in every state; the samples
            stand in the order of their states, as in pymbar.
        n_k: [K] samples of each state, summing to N; 0 for states that were not sampled.
        g: statistical inefficiency of the samples, a number or [K] (the largest counts):
            variances are multiplied by it.

    Returns:
        `Mbar`. POOR_OVERLAP below an overlap of 0.03 across the weakest cut; below 1e-4 the
        answer is refused: nan with infinite error; so it is, with NONFINITE, where the
        equations could not be solved. LOW_ESS marks states for which fewer than
        50 effective samples count.

    Raises:
        ValueError: shapes that do not match, counts that do not sum to N, energies that are
            nan or -inf, a sample forbidden (+inf) in every state, g below 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = np.concatenate([rng.normal(size=4000), 0.5 * rng.normal(size=4000)])
        >>> fit = mbar(np.stack([x**2 / 2, 2 * x**2]), [4000, 4000])
        >>> bool(abs(fit.estimate.value[1] + np.log(2)) < 3 * fit.estimate.stderr[1])
        True
    """
    u, n, g = _checked(u_kn, n_k, g)
    on = n > 0
    f = np.zeros(len(n))
    f[on], residual, p, log_denominator = _solve(u if on.all() else u[on], n[on])
    weights = p
    if not on.all():
        f[~on] = -_logsumexp(-u[~on] - log_denominator, axis=1)
        weights = np.empty_like(u)
        weights[on] = p
        with np.errstate(under="ignore"):
            weights[~on] = np.exp(f[~on, None] - u[~on] - log_denominator)
    gram = weights @ weights.T
    overlap = gram * n
    link = _weakest_link(overlap[np.ix_(on, on)], n[on])
    covariance = g * _covariance(gram, n)
    n_eff = weights.sum(1) ** 2 / np.diag(gram)
    variance = np.diag(covariance) + covariance[0, 0] - 2 * covariance[0]
    flags = np.where(n_eff < FEW, int(Flag.LOW_ESS), 0).astype(np.uint32)
    flags |= np.uint32(Flag.POOR_OVERLAP if link < THIN else 0)
    value, error = f[0] - f, np.sqrt(np.maximum(variance, 0.0))
    unsolved = not residual < 1e-6 * n.sum()
    flags |= np.uint32(Flag.NONFINITE if unsolved else 0)
    if link < GONE or unsolved:
        value, error = np.full_like(value, np.nan), np.full_like(error, np.inf)
    estimate = Estimate(value, error, error, n_eff, jnp.asarray(flags))
    # `u` holds what is left after the smallest energy of each sample
    log_denominator -= np.asarray(u_kn, np.float64).min(axis=0)
    return Mbar(estimate, covariance, overlap, link, log_denominator, residual)


def mbar_sensitivity(u_kn: ArrayLike, n_k: ArrayLike, du_kn: ArrayLike) -> np.ndarray:
    """d log(Z_k / Z_0) of the solved equations when the energies of fixed samples change.

        (diag N - P P^T) df = P (du - sum_j p_j du_j),   p_jn = N_j exp(f_j - u_jn) / sum

    It propagates errors of the energies (rounding, a surrogate model) into the answer. It
    is *not* the response of log Z to a parameter: where the energies of sampled states
    move, the samples would move too. For that freeze samples and mixture and vary the
    target alone: -sum_n w_n du_n with `w = exp(fit.log_weights(u_target))`, or
    `tj.differentiable_log_z`.

    Args:
        u_kn: [K, N] reduced energies, as for `mbar`.
        n_k: [K] samples of each state.
        du_kn: [K, N] their infinitesimal changes.

    Returns:
        [K] changes of log(Z_k / Z_0), nats; nan where `mbar` refuses.

    Raises:
        ValueError: see `mbar`; changes of another shape or not finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=100)
        >>> u = np.stack([x**2 / 2, x**2 / 2 + 1])
        >>> shift = np.stack([np.zeros(100), np.ones(100)])
        >>> mbar_sensitivity(u, [50, 50], shift).round(6).tolist()
        [0.0, -1.0]
    """
    u, n, _ = _checked(u_kn, n_k, 1.0)
    du = np.asarray(du_kn, np.float64)
    if du.shape != u.shape or not np.isfinite(du).all():
        raise ValueError(f"du_kn {du.shape} must be finite and of the shape {u.shape} of u_kn")
    f = -mbar(u, n).estimate.value
    if not np.isfinite(f).all():
        return np.full_like(f, np.nan)
    on = n > 0
    log_n = np.log(n, out=np.full_like(n, -np.inf), where=on)
    denominator = _logsumexp((f + log_n)[:, None] - u, axis=0)
    with np.errstate(under="ignore"):
        weights = np.exp(f[:, None] - u - denominator)
    p = n[:, None] * weights
    mean = (p * du).sum(axis=0)
    hessian, force = np.diag(n) - p @ p.T, (p * (du - mean)).sum(axis=1)
    free = np.flatnonzero(on)[1:]
    df = np.zeros_like(f)
    df[free] = np.linalg.lstsq(hessian[np.ix_(free, free)], force[free], rcond=1e-14)[0]
    mixture = df @ p - mean
    df[~on] = (weights * (du + mixture)).sum(axis=1)[~on]
    return df[0] - df


def _checked(u_kn, n_k, g):
    u, n = np.asarray(u_kn, np.float64), np.asarray(n_k)
    if u.ndim != 2 or n.shape != u.shape[:1]:
        raise ValueError(f"u_kn must be [K, N] and n_k [K], got {u.shape} and {n.shape}")
    if n.min() < 0 or n.sum() != u.shape[1] or not u.size or np.any(n % 1):
        raise ValueError(f"n_k={n.tolist()} must be counts that sum to N={u.shape[1]}")
    lowest = u.min(axis=0)
    if not np.isfinite(lowest).all():
        for state, sample in np.argwhere(np.isnan(u))[:1]:
            raise ValueError(f"u_kn[{state}, {sample}] is nan: a walker blew up")
        sample = int(np.flatnonzero(~np.isfinite(lowest))[0])
        raise ValueError(
            f"u_kn[:, {sample}] has the minimum {lowest[sample]}: no state allows it"
        )
    most = float(np.max(np.asarray(g)))
    if not most >= 1:
        raise ValueError(f"g={g} must be at least 1: samples cannot be better than independent")
    # a constant per sample drops out, and keeps the exponents small
    return u - lowest, n.astype(np.float64), most


def _logsumexp(x: np.ndarray, axis: int | None = None) -> np.ndarray:
    top = x.max(axis=axis, keepdims=True)
    with np.errstate(under="ignore"):
        total = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return total.squeeze(axis) if axis is not None else total.item()


def _solve(u: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """See `_refine`: all sampled states, warm-started on every tenth sample."""
    f = _ladder(u, n)
    if u.shape[1] > 100 * len(n):
        some = _thinned(n)
        f = _refine(u[:, some], np.bincount(_states(n)[some], minlength=len(n)), f)[0]
    return _refine(u, n, f)


def _states(n: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(n)), n.astype(int))


def _thinned(n: np.ndarray) -> np.ndarray:
    """Every tenth sample, and the first of each state."""
    keep = np.zeros(int(n.sum()), bool)
    keep[::10] = True
    keep[np.concatenate([[0], np.cumsum(n)[:-1]]).astype(int)] = True
    return np.flatnonzero(keep)


def _ladder(u: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Start: f_{k+1} - f_k = (<u_{k+1} - u_k>_k + <u_{k+1} - u_k>_{k+1}) / 2."""
    steps, edges = [0.0], np.concatenate([[0], np.cumsum(n)]).astype(int)
    for k in range(len(n) - 1):
        pair = u[k : k + 2, edges[k] : edges[k + 2]]
        pair = np.where(np.isinf(pair), WALL, pair)
        here, there = np.split(pair[1] - pair[0], [int(n[k])])
        steps.append((here.mean() + there.mean()) / 2)
    return np.cumsum(steps)


def _refine(
    u: np.ndarray, n: np.ndarray, f: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """f, residual, weights [K, N] and log denominators: corrections of a frozen matrix.

    The matrix is anchored anew while its correction is large; a small one rescales it, so
    that it serves for the answer too.
    """
    for _ in range(100):
        p = (f + np.log(n))[:, None] - u
        top = p.max(axis=0)
        p -= top
        with np.errstate(under="ignore"):
            np.exp(p, out=p)
        total = p.sum(axis=0)
        p *= 1 / total
        shift, inverse, residual = _correction(p, n)
        f = f + shift
        largest = np.abs(shift).max()
        if largest <= TOLERANCE or (largest <= 1 and residual <= TOLERANCE * n.sum()):
            break
    p *= inverse
    p *= (np.exp(shift) / n)[:, None]
    return f, float(residual), p, top + np.log(total / inverse)


def _correction(p: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """d with sum_n p_kn e^d_k / sum_j p_jn e^d_j = N_k; no exponential of the matrix.

    One pass over the matrix is a fifth of a Hessian, which is therefore kept for as long as
    its steps take nine tenths of the miss away. With d the inverse denominators, the miss.
    """
    d = np.zeros(len(n))

    def look(d):
        """Expected counts, 1 / denominators, the convex objective, the largest miss."""
        scale = np.exp(d)
        inverse = 1 / (scale @ p)
        counts = scale * (p @ inverse)
        return counts, inverse, -np.log(inverse).sum() - n @ d, np.abs(counts - n).max()

    counts, inverse, height, miss = look(d)
    # the columns of p sum to one: at d = 0 the denominators are one
    hessian, fresh = np.diag(counts) - p @ p.T, True
    for _ in range(100):
        if hessian is None:
            scale, scaled = np.exp(d), p * inverse
            hessian = np.diag(counts) - scale[:, None] * (scaled @ scaled.T) * scale
            fresh = True
        newton = np.zeros_like(d)
        newton[1:] = np.linalg.lstsq(hessian[1:, 1:], (n - counts)[1:], rcond=1e-14)[0]
        if miss <= TOLERANCE * n.sum() and np.abs(newton).max() <= TOLERANCE:
            break
        newton = np.clip(newton, -20, 20)
        plain = np.log(n / np.maximum(counts, 1e-300))
        for move in (newton, newton / 4, newton / 16, plain) if fresh else (newton,):
            trial = d + move - move[0]
            seen = look(trial)
            # close to the minimum its height is all rounding, and the miss is not
            fall, rounding = height - seen[2], 1e-12 * (abs(height) + n.sum())
            if fall > rounding or (fall > -rounding and seen[3] < miss):
                break
        else:
            if fresh:
                break
            hessian = None
            continue
        hessian, fresh = (hessian, False) if seen[3] < miss / 10 else (None, False)
        d, (counts, inverse, height, miss) = trial, seen
        if np.abs(d).max() > 200:
            break
    return d, inverse, miss


def _covariance(gram: np.ndarray, n: np.ndarray) -> np.ndarray:
    """[K, K] asymptotic covariance, from the K x K products of the weights alone."""
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    middle = np.eye(len(n)) - root @ (n[:, None] * root)
    return root @ np.linalg.pinv(middle, rcond=1e-10, hermitian=True) @ root


def _weakest_link(overlap: np.ndarray, n: np.ndarray) -> float:
    """Overlap across the cut of the states that the slowest mode of O proposes."""
    if len(n) == 1:
        return 1.0
    flow = n[:, None] * overlap / n.sum()
    root = np.sqrt(n / n.sum())
    _, vectors = np.linalg.eigh((flow + flow.T) / 2 / np.outer(root, root))
    order = np.argsort(vectors[:, -2] / root)
    links = []
    for cut in range(1, len(n)):
        one, two = order[:cut], order[cut:]
        typical = min(n[one].max(), n[two].max()) / n.sum()
        links.append(flow[np.ix_(one, two)].sum() / typical)
    return float(min(links))
