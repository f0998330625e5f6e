"""The local learning coefficient: how many parameters the loss feels around an anchor.

    lambda_hat = beta (<U> - U(w*))        under exp(-beta U(w) - gamma/2 |w - w*|^2) m(w)

U = n L is the total energy of the system and beta its inverse temperature, so that our
beta times U is the literature's "n beta" times the mean loss L, and beta = 1/log n is
Watanabe's choice. The tether gamma keeps the walkers at the anchor w*; it stands in the
place of the prior unless `keep_prior`. U(w*) is taken over all the data that the walkers
see. For a regular minimum lambda is d/2; degenerate directions lower it.

Cost: n_chains (burn_in + n_steps) gradients; memory n_chains parameter vectors and a trace
of 400 losses each. Use it at a trained network, or at any minimum. It lies where the anchor
is no minimum (flagged), where the chains have not spread yet (flagged where the loss still
drifts), and beyond the tether's reach: what lies further than about sqrt(d/gamma) does not
count. At finite n lambda_hat is not the coefficient of the limit: see `tj.llc_curve`.

The step of unadjusted kernels biases lambda_hat upwards, the tether downwards; both are
predicted from the Hessian where that is affordable.

Source: specification of the core, 3.7; Lau et al. 2023 for the estimator; verdict and
corrections derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.basin import curvature, descend
from thermojax.dynamics.kernel import Kernel
from thermojax.dynamics.leaves import as_inexact
from thermojax.estimators.estimate import Estimate
from thermojax.llc_chains import (
    ROUNDS,
    Anchor,
    energies_at,
    jittered_mala,
    sample_chains,
    scattered,
    seen_from,
    start_params,
    stiffest,
)
from thermojax.llc_reading import Found, LlcParts, read_chains
from thermojax.propriety import check_normalizable
from thermojax.system import Point, System, localized
from thermojax.typing import ArrayLike, Key, PyTree

__all__ = ["LlcParts", "count_examples", "default_beta", "jittered_mala", "llc", "local_system"]


def default_beta(n: int | None, beta: ArrayLike | None) -> float:
    """1/log n unless given.

    Raises:
        ValueError: neither is known, or no positive number.
    """
    if beta is None:
        if n is None:
            raise ValueError(
                "this energy is no sum over examples: give n= (beta is 1/log n then) or beta="
            )
        if n < 2:
            raise ValueError(f"n={n} gives no beta = 1/log n: give at least 2, or beta=")
        return 1 / math.log(n)
    value = float(np.asarray(beta))
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"beta={value} must be positive and finite: it is 1/T on U = n L")
    return value


def count_examples(sys: System, n: int | None) -> int | None:
    """n as given, else the number of rows of the data, else None."""
    if n is None and sys.batch_fn is not None:
        return int(np.shape(jax.tree.leaves(sys.data)[0])[0])
    return n


def local_system(
    sys: System, anchor: PyTree, point: Point, key: Key, gamma: ArrayLike, keep_prior: bool
) -> System:
    """The tethered system that is sampled.

    Raises:
        ValueError: gamma negative.
        ImproperEnsembleError: neither tether nor prior, and Z visibly diverges.
    """
    stiff = float(np.asarray(gamma))
    if not (stiff >= 0 and math.isfinite(stiff)):
        raise ValueError(f"gamma={stiff} must be >= 0 and finite: nats per unit theta squared")
    base = sys if keep_prior else sys.replace(prior=None, reference=None)
    if stiff > 0:
        dtype = jnp.result_type(*jax.tree.leaves(anchor))
        return localized(base, anchor, jnp.asarray(stiff, dtype))
    if base.prior is None or base.prior.log_mass is None:
        like = localized(base, anchor, 1.0).template
        check_normalizable(base, point, key, template=like)
    return base


def _check(sys, anchor, n_chains, n_steps, burn_in):
    if sys.template is not None:
        sys.template.check(anchor)
    for path, leaf in jax.tree_util.tree_leaves_with_path(anchor):
        if not np.all(np.isfinite(leaf)):
            name = jax.tree_util.keystr(path) or "theta"
            raise ValueError(f"anchor leaf {name} is not finite: train it again")
    for name, value, least in (
        ("n_chains", n_chains, 1),
        ("n_steps", n_steps, 64),
        ("burn_in", burn_in, 2 * ROUNDS),
    ):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")


def llc(
    sys: System,
    anchor: PyTree,
    key: Key,
    *,
    n: int | None = None,
    beta: ArrayLike | None = None,
    gamma: ArrayLike | None = None,
    keep_prior: bool = False,
    control: PyTree = (),
    kernel: Callable[[System], Kernel] = jittered_mala,
    step_size: ArrayLike | None = None,
    params: PyTree = None,
    n_chains: int = 8,
    n_steps: int = 2000,
    burn_in: int = 1000,
    polish: int = 200,
    tile: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Path | str | None = None,
) -> Estimate:
    """Local learning coefficient of an anchor.

        lambda_hat = beta (<U> - U(w*))    under exp(-beta U - gamma/2 |w - w*|^2)

    beta is the inverse temperature on the total energy U = n L. For the "n beta" of the
    literature with its mean loss, pass beta = (n beta) / n; its `epsilon` is 2 step_size.

    Args:
        sys: the system; any, flax networks included.
        anchor: w*, a minimum of U, shaped like theta.
        key: typed key.
        n: number of examples, for the default of beta; from the data where U is a sum.
        beta: inverse temperature on U; 1/log n by default.
        gamma: stiffness of the tether, nats per unit theta squared; 1 by default, 0 with
            `keep_prior`.
        keep_prior: sample under the system's own base measure (as exact references do)
            rather than replace it by the tether.
        control: control of the system.
        kernel: `system -> Kernel`: MALA with a jittered step by default, `tj.hmc` where
            directions are many, `lambda s: tj.sgld(s, tj.minibatch(64))` where data are.
        step_size: reduced step, kept as it is; by default adapted in warm-up for
            metropolised kernels, 0.1 / (largest curvature) for the others.
        params: all kernel parameters, kept as they are.
        n_chains: independent chains; four at least for an error bar.
        n_steps: steps per chain after warm-up, rounded up to a multiple of 400 beyond 400.
        burn_in: steps of warm-up; parameters adapt in its first half and are then frozen.
        polish: gradient steps that look for lower ground below the anchor.
        tile: see `tj.init_ensemble`.
        progress: show a bar, or call `progress(steps_done, steps)`.
        checkpoint: folder where the chains are kept every eighth of the run, and from where
            they go on, bit for bit, if they were kept before.

    Returns:
        An `Estimate`, lambda_hat in nats, with `LlcParts`. The error bar is the larger of the
        spread of the chains (widened by Student's t) and of the blocked errors within them.
        Flags: NOT_A_MINIMUM (lower ground within reach, or a negative value), NOT_MIXED,
        LOW_ESS, FEW_RUNS, BAD_ACCEPTANCE, SHADOW, GRADIENT_NOISE, FLOAT_RESOLUTION,
        NONFINITE. Outside jit only.

    Raises:
        ValueError: unusable settings, an anchor that is not finite.
        ShapeError: an anchor that does not fit the system.
        ImproperEnsembleError: neither tether nor prior, and Z diverges.

    Source: Lau et al. 2023 (estimator); specification of the core, 3.7.

    Example:
        >>> from thermojax import system
        >>> bowl = system(lambda x: jnp.sum(x**2), like=jnp.zeros(4))
        >>> est = llc(bowl, jnp.zeros(4), jax.random.key(0), beta=50.0, n_steps=400)
        >>> abs(float(est.value) - 2 * 100 / 101) < 4 * float(est.stderr)
        True
    """
    anchor = as_inexact(anchor)
    _check(sys, anchor, n_chains, n_steps, burn_in)
    n = count_examples(sys, n)
    inverse = default_beta(n, beta)
    gamma = (0.0 if keep_prior else 1.0) if gamma is None else gamma
    keys = jax.random.split(key, 5)
    point = Point(jnp.asarray(inverse, jnp.result_type(*jax.tree.leaves(anchor))), control)
    target = local_system(sys, anchor, point, keys[0], gamma, keep_prior)
    basin = curvature(target, anchor, point, keys[1])
    energy, each = energies_at(sys, anchor, control)
    if not np.isfinite(energy):
        raise ValueError(f"U(anchor) = {float(energy)} is not finite: choose another anchor")
    reference = Anchor(anchor, energy, each, control)
    bath = seen_from(kernel(target), sys, reference)
    adapting = bath.meta.exact and step_size is None and params is None
    if params is None:
        params = start_params(bath, basin, step_size)
    starts = scattered(keys[2], anchor, stiffest(basin), n_chains)
    sampling = (params, adapting, n_steps, burn_in, tile, progress, checkpoint)
    out, st, params = sample_chains(bath, keys[3:5], point, starts, *sampling)
    first, steps = jnp.asarray(inverse / stiffest(basin)), jnp.asarray(polish)
    lower = lambda theta: descend(sys, theta, control, first, steps)
    low = lower(anchor)
    found = Found(sys, reference, inverse, basin, bath, params, out, st, low, lower)
    return read_chains(found, n, gamma)
