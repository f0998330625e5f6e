"""log Z_x of neural kernels, by importance sampling and by annealing.

    Z_x = int m(z) d(x | z)^lam exp(gam sum_y p(y | x) log c(y | z)) dz,   G = -E_x log Z_x

    importance   z_s ~ e(z | x),  log w = log m + lam log d + gam sum p log c - log e
    annealed     walkers climb from m (or e) to the Gibbs code, by Metropolised moves

Both are unbiased for Z_x, so that log Z lies low on average and

    J >= -E log Z_S >= -E log Z_{S+1} >= G,      J - G = E_x KL(e || e*).

Importance weights collapse once lam is large or s_x narrow, long before the model is bad:
annealing is for the diagnosis of some tens of examples, not for training.

Source: Neal 2001 for annealing; the ladder is standard; estimators as in the core.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from thermojax.anneal import AIS, anneal_log_z
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.estimators.free_energy import log_mean_exp_weights
from thermojax.estimators.pareto import pareto_shape
from thermojax.system import Point
from thermojax.theories.representation.latent import latent_system
from thermojax.theories.representation.neural import (
    check_batch,
    check_samples,
    encoder_log_prob,
    label_log_prob,
    marginal_log_prob,
    sample_codes,
)
from thermojax.theories.representation.quantities import (
    Batch,
    Functionals,
    Model,
    Multipliers,
)
from thermojax.typing import Array, Key, PyTree

__all__ = [
    "EncoderGap",
    "GibbsCode",
    "LogPartition",
    "encoder_gap",
    "gibbs_code",
    "log_partition",
]

_LEAST = 0.1


class LogPartition(NamedTuple):
    """log Z of every example.

    Attributes:
        log_z: [B] nats; G is minus its mean.
        stderr: [B] standard error over samples; inf for a single sample.
        ess: [B] effective number of samples, (sum w)^2 / sum w^2.
        flags: [B] uint32 bit sets of `tj.Flag`: LOW_ESS where ess < 0.1 num_samples,
            HEAVY_TAIL where the variance of the weights may be infinite, and what the
            annealing found wrong; `tj.explain` puts them in words.
    """

    log_z: Array
    stderr: Array
    ess: Array
    flags: Array


class EncoderGap(NamedTuple):
    """KL(e(. | x) || e*(. | x)) of every example.

    Attributes:
        value: [B] nats; never negative with importance weights.
        stderr: [B] standard error over samples.
        flags: [B] uint32, those of log Z.
    """

    value: Array
    stderr: Array
    flags: Array


class GibbsCode(NamedTuple):
    """Averages over e*(z | x), the equilibrium code at frozen params.

    Attributes:
        functionals: R, D and C of e*, each [B], nats.
        chi: [B, 2, 2] covariance of (u_D, u_C) over e*; its mean over x is the
            fluctuation part of the susceptibility.
        ess: [B] effective number of samples.
        flags: [B] uint32, as in `LogPartition`.
    """

    functionals: Functionals
    chi: Array
    ess: Array
    flags: Array


def log_partition(
    model: Model,
    params: PyTree,
    batch: Batch,
    multipliers: Multipliers,
    key: Key,
    *,
    num_samples: int = 512,
    method: str = "importance",
    num_temps: int = 32,
    start: str | None = None,
) -> LogPartition:
    """log Z_x of every example, with an honest error.

        log Z = log 1/S sum_s w_s

    "importance": w = m d^lam exp(gam sum p log c) / e at codes drawn from the encoder.
    "annealed": w of S independent walkers over `num_temps` rungs of Metropolised HMC. A
    pilot population of the core lays out rungs and step sizes, which are then frozen.

    Args:
        model: the four kernels.
        params: their parameters.
        batch: B examples; the weights are not used.
        multipliers: lam and gam, scalars.
        key: typed key.
        num_samples: samples or walkers S per example.
        method: "importance" or "annealed".
        num_temps: rungs; only "annealed" reads it.
        start: where the annealing starts, see `latent_system`; importance sampling always
            draws from the encoder.

    Returns:
        `LogPartition` of [B], nats. E log Z_hat <= log Z, short by about half the squared
        stderr. Importance weights can be differentiated in `params` and `multipliers`.

    Raises:
        ValueError: an unknown method, num_samples < 1 (8 for "annealed"), num_temps < 1,
            and what `functionals` refuses.

    Source:
        Standard; annealing after Neal 2001.

    Example:
        >>> model = Model(  # e(z | x) is the Gibbs code at lam = 1, gam = 0
        ...     encode=lambda p, x: (x / 2, jnp.full_like(x, -jnp.log(2.0))),
        ...     log_decoder=lambda p, x, z: -0.5 * jnp.sum((x - z) ** 2, -1),
        ...     log_classifier=lambda p, z: jax.nn.log_softmax(jnp.concatenate([z, -z], -1)),
        ... )
        >>> batch = Batch(jnp.array([[1.0]]), jnp.array([0]))
        >>> est = log_partition(model, (), batch, Multipliers(1.0, 0.0), jax.random.key(0))
        >>> bool(abs(est.log_z[0] + 0.25 + 0.5 * jnp.log(2.0)) < 1e-5)
        True
    """
    check_samples(num_samples)
    check_batch(model, params, batch)
    if method == "importance":
        log_w = _importance(model, params, batch, multipliers, key, num_samples).log_w
        return _read(log_w)
    if method != "annealed":
        raise ValueError(f"method={method!r} is unknown: use 'importance' or 'annealed'")
    return _annealed(model, params, batch, multipliers, key, num_samples, num_temps, start)


class _Weighted(NamedTuple):
    """Log weights and the two log likelihoods of the codes, each [S, B]."""

    log_w: Array
    log_d: Array
    log_c: Array


def _importance(
    model: Model,
    params: PyTree,
    batch: Batch,
    multipliers: Multipliers,
    key: Key,
    num_samples: int,
) -> _Weighted:
    mean, log_var = model.encode(params, batch.x)
    z = sample_codes(mean, log_var, key, num_samples)
    log_d = model.log_decoder(params, batch.x, z)
    log_c = label_log_prob(model, params, batch.y, z)
    ratio = marginal_log_prob(model, params, z) - encoder_log_prob(mean, log_var, z)
    log_w = ratio + _times(multipliers.lam, log_d) + _times(multipliers.gam, log_c)
    return _Weighted(log_w, log_d, log_c)


def _times(multiplier: Array, log_prob: Array) -> Array:
    """multiplier * log_prob, where 0 * -inf counts as 0; in the dtype of log_prob."""
    scale = jnp.asarray(multiplier, log_prob.dtype)
    return jnp.where(scale == 0, 0.0, scale * jnp.where(scale == 0, 0.0, log_prob))


def _read(log_w: Array) -> LogPartition:
    """Mean weight of every example from log weights [S, B]."""
    size = log_w.shape[0]
    log_z, ess = log_mean_exp_weights(log_w, axis=0)
    # jackknife of the log mean: grows without bound where one weight carries it all
    share = jnp.exp(log_w - logsumexp(log_w, axis=0))
    without = jnp.log1p(-jnp.minimum(share, 1.0))
    spread = jnp.sum((without - jnp.mean(without, axis=0)) ** 2, axis=0)
    stderr = jnp.sqrt((size - 1) / size * spread) if size > 1 else jnp.full_like(log_z, jnp.inf)
    stderr = jnp.where(jnp.isfinite(stderr), stderr, jnp.inf)
    return LogPartition(log_z, stderr, ess, _verdict(log_w, log_z, ess))


def _verdict(log_w: Array, log_z: Array, ess: Array) -> Array:
    """[B] flags of log weights [S, B]."""
    tail = jax.vmap(pareto_shape, in_axes=1)(jax.lax.stop_gradient(log_w))

    def one(log_z, ess, tail):
        return raise_flags(
            (Flag.LOW_ESS, ~(ess >= _LEAST * log_w.shape[0])),
            (Flag.HEAVY_TAIL, tail > 0.7),
            (Flag.NONFINITE, ~jnp.isfinite(log_z)),
        )

    return jax.vmap(one)(log_z, ess, tail)


def _annealed(
    model: Model,
    params: PyTree,
    batch: Batch,
    multipliers: Multipliers,
    key: Key,
    num_samples: int,
    num_temps: int,
    start: str | None,
) -> LogPartition:
    """Walkers of the core on every example's latent system."""
    if num_samples < 8:
        raise ValueError(f"num_samples={num_samples} must be at least 8 for method='annealed'")
    if num_temps < 1:
        raise ValueError(f"num_temps={num_temps} must be at least 1")
    settings = AIS(
        n=num_samples, n_runs=1, rungs=num_temps, pilot=128, target=0.8, max_rungs=128
    )

    def one(key, x, y):
        sys = latent_system(model, params, x, y, start=start)
        tau = jax.tree.map(lambda v: jnp.asarray(v, x.dtype), multipliers)
        est = anneal_log_z(settings, sys, Point(jnp.ones((), x.dtype), tau), key)
        return est.parts.work[0], est.flags

    keys = jax.random.split(key, batch.x.shape[0])
    work, flags = jax.vmap(one)(keys, batch.x, batch.y)
    found = _read(-work.T)
    # one run of independent walkers: the spread between runs has nothing to add
    judged = jnp.uint32(Flag.LOW_ESS | Flag.HEAVY_TAIL | Flag.FEW_RUNS)
    return found._replace(flags=found.flags | (flags & ~judged))


def encoder_gap(
    model: Model,
    params: PyTree,
    batch: Batch,
    multipliers: Multipliers,
    key: Key,
    *,
    num_samples: int = 512,
    method: str = "importance",
    num_temps: int = 32,
    start: str | None = None,
) -> EncoderGap:
    """What an amortised encoder costs: J - G = E_x KL(e || e*), example by example.

        J_x - G_x = log Z_x - <log w>_e >= 0,   log w = ell(z; x) - log e(z | x)

    Args:
        model: the four kernels.
        params: their parameters.
        batch: B examples; average the result with `mean_and_stderr(gap.value, weight)`.
        multipliers: lam and gam.
        key: typed key.
        num_samples: samples per example.
        method: how log Z is found, see `log_partition`; with "importance" the same codes
            serve J and G, and the value lies low by the bias of log Z.
        num_temps: see `log_partition`.
        start: see `log_partition`.

    Returns:
        `EncoderGap` of [B], nats.

    Raises:
        ValueError: see `log_partition`.

    Source:
        Standard; named the encoder gap by our definition.
    """
    keys = jax.random.split(key)
    settings = {"num_samples": num_samples, "method": method, "num_temps": num_temps}
    settings["start"] = start
    found = log_partition(model, params, batch, multipliers, keys[0], **settings)
    if method == "importance":
        log_w = _importance(model, params, batch, multipliers, keys[0], num_samples).log_w
        influence = jnp.exp(log_w - found.log_z) - log_w
        spread = 0.0
    else:
        log_w = _importance(model, params, batch, multipliers, keys[1], num_samples).log_w
        influence, spread = log_w, found.stderr
    value = found.log_z - jnp.mean(log_w, axis=0)
    if num_samples < 2:
        return EncoderGap(value, jnp.full_like(value, jnp.inf), found.flags)
    error = jnp.std(influence, axis=0, ddof=1) / jnp.sqrt(num_samples)
    return EncoderGap(value, jnp.hypot(error, spread), found.flags)


def gibbs_code(
    model: Model,
    params: PyTree,
    batch: Batch,
    multipliers: Multipliers,
    key: Key,
    *,
    num_samples: int = 512,
) -> GibbsCode:
    """R, D and C at e*(z | x), by self-normalised weights of the encoder's codes.

        <u>_* = sum_s w_s u(z_s) / sum_s w_s,   R = -log Z_x - lam D - gam C

    The label enters e*: on unlabelled examples use label weights with gam = 0.

    Args:
        model: the four kernels.
        params: their parameters.
        batch: B examples.
        multipliers: lam and gam.
        key: typed key.
        num_samples: samples S per example; the bias is O(1/S).

    Returns:
        `GibbsCode`, per example, nats.

    Raises:
        ValueError: see `functionals`.

    Source:
        Gibbs form of Gao & Chaudhari 2020; self-normalised weights are standard.
    """
    check_samples(num_samples)
    check_batch(model, params, batch)
    found = _importance(model, params, batch, multipliers, key, num_samples)
    log_z, ess = log_mean_exp_weights(found.log_w, axis=0)
    share = jax.nn.softmax(found.log_w, axis=0)
    forces = -jnp.stack([found.log_d, found.log_c], axis=-1)
    forces = jnp.where(share[..., None] > 0, forces, 0.0)
    mean = jnp.einsum("sb,sbi->bi", share, forces)
    centred = forces - mean
    chi = jnp.einsum("sb,sbi,sbj->bij", share, centred, centred)
    rate = -log_z - multipliers.lam * mean[:, 0] - multipliers.gam * mean[:, 1]
    functionals = Functionals(rate, mean[:, 0], mean[:, 1])
    return GibbsCode(functionals, chi, ess, _verdict(found.log_w, log_z, ess))
