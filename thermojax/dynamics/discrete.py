"""Baths for binary states: single-site heat bath and Metropolis, blocks at once.

    Delta_i u = u(s with site i flipped) - u(s),   u = beta U - log m
    gibbs_flip        flips site i with probability 1 / (1 + exp(Delta_i u))
    metropolis_flip   flips it with probability rate * min(1, exp(-Delta_i u))

One step visits every site once. Both leave exp(-u)/Z exactly invariant: there is no step
size, no shadow work, and the heat is the energy change. In random scan order (a fresh
permutation per step) a step is also reversible.

Sites of one block of `blocks` must not interact and U must be multilinear in them: then
Delta_i U = (s_i' - s_i) dU/ds_i for all of them from one gradient, and they flip together.
Without blocks each site costs one energy, right for any U.

Source: Glauber 1963 (heat bath), Metropolis et al. 1953; ledger: specification of the
core, 2.11 (derived here).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.binary import stack_blocks, values_of
from thermojax.dynamics.flips import (
    FlipParams,
    FlipState,
    Rule,
    draw,
    drive,
    observe,
    start,
    step,
)
from thermojax.dynamics.kernel import Kernel, KernelMeta
from thermojax.system import System
from thermojax.typing import ArrayLike, PyTree, is_concrete

__all__ = ["FlipParams", "FlipState", "gibbs_flip", "metropolis_flip"]


def gibbs_flip(
    sys: System, *, blocks: Sequence[PyTree] | None = None, scan: str = "random"
) -> Kernel:
    """Heat bath (Gibbs sampling, Glauber dynamics) over binary states, exact.

        P(s_i flips) = 1 / (1 + exp(Delta_i u)),   every site once per step

    Args:
        sys: a system whose base measure is over binary states, such as
            `tj.counting_prior(like)`; log m may vary over them.
        blocks: boolean masks like theta, each site in exactly one. The sites of one mask
            must not interact, and U and log m must be multilinear in them; then each mask
            costs one gradient. None: site by site, one energy each, right for any U.
        scan: "random", a fresh order of blocks or sites at every step (reversible), or
            "systematic", always the same.

    Returns:
        A `Kernel` without a step size: `params` is (). Legal from beta = 0 up to where
        beta * Delta U overflows harmlessly; there it is descent with fair coins at ties.
        Energy evaluations are counted in `meta.gradients_per_step`. The flag WRONG_BLOCKS
        is raised where the energy does not change as the gradients foretold.

    Raises:
        ValueError: a base measure without binary values; masks that do not partition the
            sites; `init` at a state off the two values (traced: NONFINITE is raised).
        ShapeError: masks or states of another shape, the leaf named.

    Example:
        >>> from thermojax import Point, counting_prior, system
        >>> chain = system(
        ...     lambda s: -jnp.sum(s * jnp.roll(s, 1)),
        ...     prior=counting_prior(jnp.zeros(8), (-1, 1)),
        ... )
        >>> kernel, point = gibbs_flip(chain), Point(0.5)
        >>> state = kernel.init(jnp.ones(8), point)
        >>> state, info = kernel.step(jax.random.key(0), state, point, kernel.params)
        >>> bool(info.ledger.heat == state.energy + 8)
        True
    """
    return _kernel("gibbs_flip", sys, blocks, scan, ())


def metropolis_flip(
    sys: System,
    *,
    blocks: Sequence[PyTree] | None = None,
    scan: str = "random",
    rate: ArrayLike = 0.75,
) -> Kernel:
    """Single-flip Metropolis over binary states, exact.

        P(s_i flips) = rate * min(1, exp(-Delta_i u)),   every site once per step

    Args:
        sys: see `gibbs_flip`.
        blocks: see `gibbs_flip`.
        scan: see `gibbs_flip`.
        rate: probability with which a site proposes to flip, in (0, 1]. At 1 every site
            flips at every step as beta -> 0, so that energies even in the states never
            change there; at 1/2 the heat bath is better at every temperature.

    Returns:
        A `Kernel`; see `gibbs_flip`. `Info.acceptance` is the mean of min(1, exp(-Delta u))
        over the sites, `Info.accepted` says whether any flipped.

    Raises:
        ValueError: see `gibbs_flip`; a rate outside (0, 1].
        ShapeError: see `gibbs_flip`.
    """
    if is_concrete(rate) and not np.all((np.asarray(rate) > 0) & (np.asarray(rate) <= 1)):
        raise ValueError(f"rate={rate} must lie in (0, 1]: it is a probability to propose")
    return _kernel("metropolis_flip", sys, blocks, scan, FlipParams(jnp.asarray(rate)))


def _kernel(
    name: str, sys: System, blocks: Sequence[PyTree] | None, scan: str, params: PyTree
) -> Kernel:
    values, template = values_of(sys.prior), sys.template
    if values is None or template is None:
        raise ValueError(
            f"{name} flips sites of two values, but the base measure of this system names "
            "none: give prior=tj.counting_prior(theta), or tj.prior(..., values=(0, 1))"
        )
    if scan not in ("random", "systematic"):
        raise ValueError(f"scan={scan!r} is unknown: use 'random' or 'systematic'")
    rule = Rule(name == "metropolis_flip", scan == "random", values)
    masks = () if blocks is None else stack_blocks(blocks, template)
    meta = KernelMeta(
        name=name,
        exact=True,
        order=0,
        reversible=rule.shuffled,
        momentum=False,
        gradients_per_step=template.size if blocks is None else len(blocks),
        target_acceptance=math.nan,  # one object: a new nan would differ from itself
    )
    bind = jax.tree_util.Partial
    return Kernel(
        init=bind(start, rule, sys),
        step=bind(step, rule, sys, jax.tree.map(jnp.asarray, masks)),
        drive=bind(drive, rule, sys),
        params=params,
        meta=meta,
        observe=bind(observe),
        sample=bind(draw, sys),
    )
