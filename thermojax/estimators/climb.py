"""log Z up a ladder by Bennett's ratio, with an error that knows the autocorrelation.

    log(Z_{k+1} / Z_k) = D_k,   sum_t f(M + d U_k(t) + D_k) = sum_t f(-M - d U_{k+1}(t) - D_k)

f Fermi, d = b_{k+1} - b_k, M = log(n_k / n_{k+1}). The samples of neighbouring edges are the
same and one chain's samples are correlated, so the asymptotic errors of the edges do not add
up. Instead every round's influence on the whole sum is followed in time and averaged over
blocks of rounds.

Source: Bennett 1976; influence of a round derived here; batch means standard.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.estimators.free_energy import bar
from thermojax.typing import Array

__all__ = ["Climb", "block_variance", "climb", "correlation_length", "split_r_hat"]

BLOCKS = (8, 16, 32)


def block_variance(x: Array) -> Array:
    """Variance of the mean of a stationary series along the last axis.

    By batch means in 8, 16 and 32 blocks, averaged over all other axes but the first; the
    largest counts.

    Args:
        x: [A, ..., T] series; series along the middle axes are independent.
    """

    def by(blocks):
        length = x.shape[-1] // blocks
        cut = x[..., : length * blocks].reshape(*x.shape[:-1], blocks, length)
        means = jnp.mean(cut, axis=-1)
        variance = jnp.var(means, axis=-1, ddof=1) / blocks
        return jnp.mean(variance.reshape(x.shape[0], -1), axis=1)

    return jnp.max(jnp.stack([by(b) for b in BLOCKS]), axis=0)


def correlation_length(x: Array) -> Array:
    """Statistical inefficiency g >= 1 of a series [A, ..., T]; see `block_variance`."""
    plain = jnp.mean(jnp.var(x, axis=-1).reshape(x.shape[0], -1), axis=1) / x.shape[-1]
    return jnp.maximum(block_variance(x) / jnp.where(plain > 0, plain, 1.0), 1.0)


def split_r_hat(x: Array) -> Array:
    """Potential scale reduction of [R, T, ...] over the 2 R half runs; [...]."""
    half = x.shape[1] // 2
    parts = jnp.concatenate([x[:, :half], x[:, half : 2 * half]])
    inside = jnp.mean(jnp.var(parts, axis=1, ddof=1), axis=0)
    outside = jnp.var(jnp.mean(parts, axis=1), axis=0, ddof=1)
    return jnp.sqrt(1 + outside / jnp.where(inside > 0, inside, 1.0))


class Climb(NamedTuple):
    """log Z up a ladder, run by run.

    Attributes:
        log_z: [R, K] log(Z_k / Z_0).
        within: variance of one run's log(Z_{K-1} / Z_0) as seen inside the runs.
        overlap: smallest overlap of neighbouring slots.
        lost: some pair of slots does not overlap at all.
    """

    log_z: Array
    within: Array
    overlap: Array
    lost: Array


def climb(betas: Array, energies: Array) -> Climb:
    """Bennett's acceptance ratio from slot to slot, with an error that knows time.

    A sweep t moves log(Z_{k+1} / Z_k) of a run of T sweeps by

        (1/g) [f(M + d U_k(t) - D) - f(-M - d U_{k+1}(t) + D) - their means]

    with f Fermi, d = b_{k+1} - b_k and g the slope of Bennett's equation; summed over the
    edges this series has the variance that the error bar needs.

    Args:
        betas: [K] increasing.
        energies: [R, T, K] by slot; +inf in forbidden regions, which weigh nothing.
    """
    finite = jnp.isfinite(energies)
    known = jnp.where(finite, energies, 0.0)
    step = jnp.diff(betas)

    def edge(d, hot, cold, on_hot, on_cold):
        """One edge of one run."""
        found = bar(d * hot, -d * cold, mask_f=on_hot, mask_r=on_cold)
        kept = jnp.maximum(jnp.sum(on_hot), 1).astype(hot.dtype)
        shift = jnp.log(kept / jnp.maximum(jnp.sum(on_cold), 1)) - found.value
        a, c = jax.nn.sigmoid(-(shift + d * hot)), jax.nn.sigmoid(shift + d * cold)
        slope = jnp.sum(jnp.where(on_hot, a * (1 - a), 0.0))
        slope = slope + jnp.sum(jnp.where(on_cold, c * (1 - c), 0.0))
        centred = lambda x, on: jnp.where(on, x - jnp.sum(jnp.where(on, x, 0.0)) / kept, 0.0)
        share = kept / hot.shape[0]
        push = (centred(a, on_hot) - centred(c, on_cold)) * hot.shape[0] / slope
        change = push + on_hot.astype(hot.dtype) / share - 1
        return jnp.log(share) - found.value, change, found.parts["overlap"]

    def run(known, finite):
        args = (step, known[:, :-1].T, known[:, 1:].T, finite[:, :-1].T, finite[:, 1:].T)
        gain, change, overlap = jax.vmap(edge)(*args)
        return gain, jnp.sum(change, axis=0), overlap

    gain, change, overlap = jax.vmap(run)(known, finite)
    log_z = jnp.pad(jnp.cumsum(gain, axis=1), ((0, 0), (1, 0)))
    within = block_variance(change[None])[0]
    return Climb(log_z, within, jnp.min(overlap), jnp.any(jnp.isnan(gain)))
