"""Measured entropy production: how irreversible an ensemble's paths were.

    sigma = log P(path) / P(reversed path)          nats,    <sigma> >= 0,  <exp(-sigma)> = 1
          = -sum(bath) + log p_0(theta_0) - log p_n(theta_n)                   from a ledger
          = sum log p(x'|x) / p(x|x') + log p_0(x_0) - log p_n(x_n)            from paths

`thermojax.chains` has the exact values for linear and discrete chains.

Source: specification of the core, section 2.11; Seifert 2005.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.dynamics.kernel import Ledger
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.estimators.work import jarzynski
from thermojax.typing import Array, ArrayLike, PyTree, is_concrete

__all__ = ["entropy_production", "path_entropy_production"]


def entropy_production(
    ledger: Ledger, *, log_start: ArrayLike | None = None, log_end: ArrayLike | None = None
) -> Estimate:
    """Measured entropy production of an ensemble, from its ledger.

        sigma = -sum(bath) + log p_0(theta_0) - log p_n(theta_n)        nats per walker

    Without the boundary terms it is the entropy handed to the bath alone, which grows at
    the same rate but obeys no integral theorem.

    Args:
        ledger: of `drive` (leaves [n, size]) or of `run(..., ledger="full")` ([size]).
        log_start: [size] log p_0 at the first states.
        log_end: [size] log p_n at the last ones, any normalised density; canonical ends
            have -u - log Z.

    Returns:
        `Estimate` of <sigma> over the whole run, with "samples" [size] and "integral" in
        `parts`: the estimate of log <exp(-sigma)>, which is 0 in truth (nan without both
        ends). BROKEN_FLUCTUATION where a trusted integral is off by more than 5 standard
        errors; value nan and NO_DENSITY where the bath has no transition density.

    Raises:
        ValueError: arrays of the ends that do not fit the walkers; a ledger without nats.

    Source: core specification 2.11; Seifert 2005.

    Example:
        >>> from thermojax.dynamics.kernel import zero_ledger
        >>> ledger = zero_ledger(float)._replace(bath=-jnp.array([1.0, 2.0, 3.0]))
        >>> float(entropy_production(ledger).value)
        2.0
    """
    bath = jnp.asarray(ledger.bath)
    if bath.ndim not in (1, 2) or not bath.size:
        raise ValueError(
            f"ledger.bath must have shape [size] or [n, size], got {bath.shape}: "
            "give the ledger of tj.drive or of tj.run(..., ledger='full')"
        )
    if is_concrete(ledger) and not np.any(bath) and np.any(ledger.heat):
        raise ValueError(
            "this ledger holds heat but no nats: run with ledger='full' instead of 'energy'"
        )
    given = -(bath if bath.ndim == 1 else jnp.sum(bath, axis=0))
    return _measured(given, log_start, log_end, no_density=jnp.all(jnp.isnan(bath)))


def path_entropy_production(
    log_transition: Callable[[PyTree, PyTree], Array],
    path: PyTree,
    *,
    flip: Callable[[PyTree], PyTree] | None = None,
    log_start: ArrayLike | None = None,
    log_end: ArrayLike | None = None,
) -> Estimate:
    """Measured entropy production of recorded paths with a known transition density.

        sigma = sum_t log p(x_{t+1}|x_t) - log p(e x_t|e x_{t+1}) + log p_0(x_0) - log p_n(x_n)

    Args:
        log_transition: `(x, x') -> log p(x'|x)`, scalar, nats, at constant control.
        path: pytree with leading axes [walkers, times], at least two times.
        flip: e, what time reversal does to a state (momenta change sign); nothing by
            default.
        log_start: [walkers] log p_0 at the first states.
        log_end: [walkers] log p_n at the last ones.

    Returns:
        `Estimate` of <sigma> over the whole path; see `entropy_production`.

    Raises:
        ValueError: fewer than two times, or arrays that do not fit.

    Source: core specification 2.11; Seifert 2005.
    """
    shapes = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(path)}
    if len(shapes) != 1 or len(next(iter(shapes))) < 2 or next(iter(shapes))[1] < 2:
        raise ValueError(f"path needs leading axes [walkers, times >= 2], got {shapes}")
    back = (lambda x: x) if flip is None else flip

    def step(x, y):
        return log_transition(x, y) - log_transition(back(y), back(x))

    before = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, :-1], path)
    after = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, 1:], path)
    given = jnp.sum(jax.vmap(jax.vmap(step))(before, after), axis=1)
    return _measured(given, log_start, log_end, no_density=jnp.zeros((), bool))


def _measured(given, log_start, log_end, *, no_density):
    """Mean of sigma over walkers, with the integral theorem as a check."""
    ends = []
    for name, end in (("log_start", log_start), ("log_end", log_end)):
        if end is not None and jnp.shape(end) != given.shape:
            raise ValueError(
                f"{name} needs one value for each of {given.size} walkers, "
                f"got shape {jnp.shape(end)}"
            )
        ends.append(None if end is None else jnp.asarray(end, given.dtype))
    return _verdict(given, *ends, no_density)


@jax.jit
def _verdict(given, log_start, log_end, no_density):
    """The estimate of <sigma> and the flags it deserves."""
    sigma = given
    if log_start is not None:
        sigma = sigma + log_start
    if log_end is not None:
        sigma = sigma - log_end
    n = given.size
    value = jnp.mean(sigma)
    bad = ~jnp.isfinite(value)
    spread = jnp.std(sigma, ddof=1) / jnp.sqrt(n) if n > 1 else jnp.full_like(value, jnp.inf)
    stderr = jnp.where(bad, jnp.inf, spread)
    whole = log_start is not None and log_end is not None
    integral = jarzynski(sigma if whole else jnp.full_like(sigma, jnp.nan))
    # sums of rounded nats may differ from zero where their spread does not
    floor = jnp.sqrt(jnp.finfo(sigma.dtype).eps)
    off = jnp.abs(integral.value) > 5 * integral.stderr + floor
    flags = raise_flags(
        (Flag.NO_DENSITY, no_density),
        (Flag.NONFINITE, bad & ~no_density),
        (Flag.BROKEN_FLUCTUATION, (integral.flags == 0) & off),
    )
    parts = {"samples": sigma, "integral": integral}
    value = jnp.where(bad, jnp.nan, value)
    return Estimate(value, stderr, stderr, jnp.asarray(float(n)), flags, parts)
