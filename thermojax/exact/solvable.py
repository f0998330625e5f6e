"""What a solvable system is: a `System` together with its exact thermodynamics.

    S = beta <U> + log Z,    C = beta^2 Var U,    d log Z / d beta = -<U>

k_B = 1, everything in nats. Exact numbers come from moments of U under the ensemble,
never from finite differences, and are NumPy float64 whatever precision JAX runs in.

Source: specification of the core, sections 3.1 and 10 (the table of ground truth).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from thermojax.system import System
from thermojax.typing import ImproperEnsembleError

__all__ = ["Moments", "Solvable", "finite", "positive"]


class Moments(NamedTuple):
    """log Z, mean and variance of U at one beta (floats, or arrays of one shape)."""

    log_z: Any
    mean: Any
    variance: Any

    def scaled(self, factor: float) -> Moments:
        """Moments of `factor * U` at beta, given those of U at `factor * beta`."""
        return Moments(self.log_z, factor * self.mean, factor**2 * self.variance)

    def __add__(self, other) -> Moments:
        """Moments of the sum of two independent energies."""
        return Moments(*(x + y for x, y in zip(self, other, strict=True)))


def _readable(value) -> str:
    text = np.array2string(np.asarray(value), threshold=8)
    return text if len(text) < 80 else text[:77] + "..."


def positive(name: str, value) -> np.ndarray:
    """`value` as float64, or a ValueError that names it.

    Raises:
        ValueError: an entry is not positive and finite.
    """
    array = np.asarray(value, np.float64)
    if not array.size or not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError(f"{name} must be positive and finite, got {_readable(array)}")
    return array


def finite(name: str, value) -> np.ndarray:
    """`value` as float64, or a ValueError that names it.

    Raises:
        ValueError: an entry is not finite.
    """
    array = np.asarray(value, np.float64)
    if not array.size or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite and not empty, got {_readable(array)}")
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class Solvable:
    """A system whose partition function is known.

    The methods take beta as a scalar or an array and return float64 of its shape,
    computed on the host: they cannot be traced. They raise ValueError for a negative
    beta and ImproperEnsembleError where Z diverges.

    Attributes:
        system: the `thermojax.System`, ready to be sampled.
        moments_fn: `beta -> Moments`, both scalar.
        dim: number of parameters d (of spins, for spins).
        symmetry_order: order of the group of hidden-unit permutations and sign flips
            that leaves U and the prior invariant; 1 where the system is no network.
        proper_above: Z is finite only for beta above this; None for every beta >= 0.
        blocks: masks of sites without mutual interaction, for `tj.gibbs_flip`; None where
            the states are not binary or every site interacts with every other.

    Source: specification of the core, section 10.
    """

    system: System
    moments_fn: Callable[[float], Moments]
    dim: int
    symmetry_order: int = 1
    proper_above: float | None = None
    blocks: tuple[Any, ...] | None = None

    def __post_init__(self):
        cached = functools.lru_cache(maxsize=256)(self.moments_fn)
        object.__setattr__(self, "moments_fn", cached)

    def _checked(self, beta: float) -> float:
        if not (beta >= 0 and np.isfinite(beta)):
            raise ValueError(f"beta must be finite and not negative, got {beta}")
        if self.proper_above is not None and beta <= self.proper_above:
            raise ImproperEnsembleError(
                f"Z diverges at beta = {beta:g}: this ensemble is proper only for "
                f"beta > {self.proper_above:g}; raise beta or give the system a prior"
            )
        return beta

    def moments(self, beta) -> Moments:
        """Exact log Z, <U> and Var U, each float64 of the shape of beta."""
        beta = np.asarray(beta, np.float64)
        flat = [self.moments_fn(self._checked(float(b))) for b in beta.ravel()]
        columns = zip(*flat, strict=True) if flat else ((), (), ())
        shaped = (np.asarray(c, np.float64).reshape(beta.shape)[()] for c in columns)
        return Moments(*shaped)

    def log_partition(self, beta):
        """Exact log Z(beta) = log int m(theta) exp(-beta U(theta)) dtheta."""
        return self.moments(beta).log_z

    def internal_energy(self, beta):
        """<U> = -d log Z / d beta."""
        return self.moments(beta).mean

    def entropy(self, beta):
        """S = beta <U> + log Z.

        Minus KL(p || m) for a normalised prior m; the differential entropy for Lebesgue
        measure, the Shannon entropy for counting measure.
        """
        exact = self.moments(beta)
        return np.asarray(beta, np.float64) * exact.mean + exact.log_z

    def heat_capacity(self, beta):
        """C = beta^2 Var U."""
        return np.asarray(beta, np.float64) ** 2 * self.moments(beta).variance
