"""Independent systems side by side: log Z, <U>, S and C add.

Source: core table row T24 (product of any rows).
"""

from __future__ import annotations

import math
import operator

import jax
import numpy as np

from thermojax.binary import values_of
from thermojax.exact.solvable import Moments, Solvable
from thermojax.priors import CustomPrior, prior
from thermojax.system import System

__all__ = ["product"]


def _controls(control, count: int) -> tuple:
    if not jax.tree.leaves(control):
        return ((),) * count
    if not isinstance(control, tuple) or len(control) != count:
        raise ValueError(
            f"the control of a product is a tuple of {count} controls, one per factor, "
            f"or (), got {type(control).__name__}"
        )
    return control


def _sum_energy(theta, control, data):
    parts = zip(data, theta, _controls(control, len(data)), strict=True)
    return sum(sub.energy(x, c) for sub, x, c in parts)


def _sum_log_base(theta, control, params):
    parts = zip(params, theta, _controls(control, len(params)), strict=True)
    return sum(m.log_density(x, c) for m, x, c in parts if m is not None)


def _sum_log_normalised(theta, control, params):
    parts = zip(params, theta, _controls(control, len(params)), strict=True)
    return sum(m.log_density(x, c) - m.log_mass for m, x, c in parts)


def _sample_each(key, control, params):
    if any(m is None for m in params):
        raise ValueError(
            "a product with a Lebesgue factor has no base sampler: sample its reference"
        )
    keys = jax.random.split(key, len(params))
    parts = zip(params, keys, _controls(control, len(params)), strict=True)
    return tuple(m.sample(k, c) for m, k, c in parts)


def _base(systems: list[System], like: tuple) -> CustomPrior | None:
    priors = tuple(sub.prior for sub in systems)
    known = [m.log_mass for m in priors if m is not None]
    if not known:
        return None
    finite = len(known) == len(priors) and all(mass is not None for mass in known)
    log_mass = jax.tree.reduce(operator.add, known) if finite else None
    alphabets = {values_of(m) for m in priors}
    return prior(
        _sum_log_base,
        _sample_each,
        like=like,
        log_mass=log_mass,
        params=priors,
        values=alphabets.pop() if len(alphabets) == 1 else None,
    )


def _blocks(solvables: tuple[Solvable, ...], like: tuple) -> tuple | None:
    """The k-th blocks of all factors flip together: factors do not interact."""
    each = [s.blocks for s in solvables if s.blocks is not None]
    if len(each) < len(solvables):
        return None
    nothing = [jax.tree.map(lambda x: np.zeros(x.shape, bool), x) for x in like]
    longest = max(len(blocks) for blocks in each)
    return tuple(
        tuple(b[k] if k < len(b) else no for b, no in zip(each, nothing, strict=True))
        for k in range(longest)
    )


def _reference(systems: list[System], like: tuple) -> CustomPrior | None:
    starts = tuple(sub.prior if sub.reference is None else sub.reference for sub in systems)
    if all(sub.reference is None for sub in systems) or any(
        m is None or m.log_mass is None for m in starts
    ):
        return None
    return prior(_sum_log_normalised, _sample_each, like=like, params=starts)


def product(*solvables: Solvable) -> Solvable:
    """Independent systems as one: the energy is the sum of theirs.

        U(theta_1, .., theta_k) = sum_i U_i(theta_i),    Z = prod_i Z_i

    theta is a tuple of the factors' theta. The base measure is the product of theirs, and
    so is the reference wherever a factor has one. A control is a tuple of the factors'
    controls, or `()` for none. k copies of one system test how an estimator scales with
    dimension.

    Args:
        *solvables: at least one solvable system; the same one may appear repeatedly.

    Raises:
        ValueError: no factor.

    Source: core table row T24.

    Example:
        >>> from thermojax.exact.wells import double_well
        >>> pair = product(double_well(), double_well())
        >>> round(float(pair.log_partition(1.0)), 9)
        1.359852486
    """
    if not solvables:
        raise ValueError("a product needs at least one factor")
    systems = [s.system for s in solvables]
    like = tuple(_example(sub) for sub in systems)

    def moments(beta: float) -> Moments:
        parts = [Moments(*map(float, s.moments(beta))) for s in solvables]
        return Moments(*(math.fsum(column) for column in zip(*parts, strict=True)))

    target = System(
        energy_fn=_sum_energy,
        batch_fn=None,
        remainder_fn=None,
        prior=_base(systems, like),
        reference=_reference(systems, like),
        data=tuple(systems),
    )
    thresholds = [s.proper_above for s in solvables if s.proper_above is not None]
    return Solvable(
        target,
        moments,
        sum(s.dim for s in solvables),
        symmetry_order=math.prod(s.symmetry_order for s in solvables),
        proper_above=max(thresholds, default=None),
        blocks=_blocks(solvables, like),
    )


def _example(sub: System):
    """Shapes of the theta of one factor."""
    template = sub.template
    if template is None:
        raise ValueError("a factor does not say the shape of its theta")
    leaves = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in zip(template.shapes, template.dtypes, strict=True)
    ]
    return jax.tree.unflatten(template.treedef, leaves)
