"""An answer with its verdict: value, error bar, and the reasons not to trust it.

Flags are a bit set (uint32) so that they can be raised inside jit and OR-reduced over
shards; `explain` turns them into sentences and `Estimate.require_trusted` into an error.
What no diagnostic sees is a mode that no particle ever visited: the only guards are
prior-anchored paths and independent runs.

Source: specification of the core, section 3.4.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, UntrustedEstimate, is_traced

__all__ = ["Estimate", "Flag", "explain", "raise_flags", "union"]


class Flag(enum.IntFlag):
    """Reasons not to trust a number; zero is trusted."""

    LOW_ESS = 1 << 0
    HEAVY_TAIL = 1 << 1
    POOR_OVERLAP = 1 << 2
    FEW_ANCESTORS = 1 << 3
    RUNS_DISAGREE = 1 << 4
    NOT_MIXED = 1 << 5
    NO_ROUND_TRIPS = 1 << 6
    NOT_CONVEX = 1 << 7
    PHASE_COEXISTENCE = 1 << 8
    READOUTS_DISAGREE = 1 << 9
    BAD_ACCEPTANCE = 1 << 10
    SHADOW = 1 << 11
    FLOAT_RESOLUTION = 1 << 12
    NONFINITE = 1 << 13
    IMPROPER = 1 << 14
    SINGULAR = 1 << 15
    MODE_LEAK = 1 << 16
    STATE_DEPENDENT_METRIC = 1 << 17
    GRADIENT_NOISE = 1 << 18
    NO_DENSITY = 1 << 19
    FEW_RUNS = 1 << 20
    ADAPTING = 1 << 21
    LADDER_UNFINISHED = 1 << 22
    NOT_STATIONARY = 1 << 23
    TEMPERATURE_MISMATCH = 1 << 26
    WRONG_BLOCKS = 1 << 24
    BROKEN_FLUCTUATION = 1 << 25
    NOT_A_MINIMUM = 1 << 27
    NOT_FLAT = 1 << 28
    SATURATED = 1 << 29
    TOO_COARSE = 1 << 30
    KINKED = 1 << 31


_TEXT: dict[Flag, tuple[str, str]] = {
    Flag.LOW_ESS: (
        "the effective sample size is too small",
        "use more particles (n) or a finer ladder (target closer to 1)",
    ),
    Flag.HEAVY_TAIL: (
        "weights are heavy tailed (Pareto k > 0.7), or energies on the path have no mean: "
        "the error may be infinite",
        "use a wider reference or a finer ladder",
    ),
    Flag.POOR_OVERLAP: (
        "neighbouring states overlap too little",
        "refine the ladder between them",
    ),
    Flag.FEW_ANCESTORS: (
        "the population died out: too few first ancestors survive",
        "use more particles or more moves per rung",
    ),
    Flag.RUNS_DISAGREE: (
        "independent runs disagree by more than their own errors: modes are missed",
        "use more moves per rung, more particles, or another route",
    ),
    Flag.NOT_MIXED: (
        "the moves leave the energies where they were",
        "use more moves per rung, or longer trajectories (n_inner)",
    ),
    Flag.NO_ROUND_TRIPS: (
        "fewer than 10 replicas travelled the whole ladder",
        "add rungs or run longer",
    ),
    Flag.NOT_CONVEX: (
        "the mean energy rises with beta: wrong samples or two phases",
        "lengthen the equilibration, or read the energy histogram",
    ),
    Flag.PHASE_COEXISTENCE: (
        "the energy is bimodal at some rung: a first-order-like transition",
        "do not rely on tempering through it; couple to a reference instead",
    ),
    Flag.READOUTS_DISAGREE: (
        "read-outs of the same samples disagree",
        "refine the ladder and use more moves per rung",
    ),
    Flag.BAD_ACCEPTANCE: (
        "the acceptance is outside [0.15, 0.98]",
        "adapt the step size",
    ),
    Flag.SHADOW: (
        "the kernel is unadjusted and its shadow work matters",
        "metropolise it or use a smaller step size",
    ),
    Flag.FLOAT_RESOLUTION: (
        "energies are too large for this float type",
        "use float64, or subtract a reference energy per example",
    ),
    Flag.NONFINITE: (
        "a number, or a walker, is not finite",
        "look for nan or inf in what was given; for walkers use a smaller step size or a "
        "metropolised kernel",
    ),
    Flag.IMPROPER: ("the partition function diverges", "give a prior or a reference"),
    Flag.SINGULAR: (
        "the Hessian is singular, so Laplace's formula fails",
        "use a tempering method or the learning coefficient",
    ),
    Flag.MODE_LEAK: (
        "walkers left the basin the estimate is about",
        "stiffen the reference or ask for the total instead",
    ),
    Flag.STATE_DEPENDENT_METRIC: (
        "a state-dependent metric without its divergence term biases at every step size",
        "freeze the preconditioner",
    ),
    Flag.GRADIENT_NOISE: (
        "minibatch noise heats the chain by more than 5 %",
        "use larger batches, a control variate, or a smaller step size",
    ),
    Flag.NO_DENSITY: (
        "this bath has no transition density: no shadow work, no fluctuation theorem",
        "use a Langevin kernel where the ledger in nats is needed",
    ),
    Flag.FEW_RUNS: (
        "fewer than four independent runs: the error bar is a guess",
        "use n_runs >= 4",
    ),
    Flag.ADAPTING: (
        "the kernel was still adapting: it was no bath yet",
        "freeze the parameters and run again",
    ),
    Flag.NOT_STATIONARY: (
        "the particles break the identity <theta . grad u> = d: they lag behind the ladder",
        "use more moves per rung, longer trajectories, or a reference closer to the target",
    ),
    Flag.WRONG_BLOCKS: (
        "sites of one block interact, or U is not multilinear in them: flips are not exact",
        "give blocks without inner bonds (tj.checkerboard_blocks), or blocks=None",
    ),
    Flag.BROKEN_FLUCTUATION: (
        "the integral fluctuation theorem <exp(-sigma)> = 1 fails",
        "check the densities of both ends, and the noise of the kernel",
    ),
    Flag.TEMPERATURE_MISMATCH: (
        "a thermometer disagrees with the temperature it should show",
        "burn in longer, use a smaller step size or larger batches",
    ),
    Flag.NOT_A_MINIMUM: (
        "the point is no minimum: a lower loss, or negative curvature, was found about it",
        "train further, or start from the lowest point found",
    ),
    Flag.NOT_FLAT: (
        "the energy histogram of the frozen-weight run is not flat, or bins were not reached",
        "use more sweeps, more walkers or wider bins",
    ),
    Flag.SATURATED: (
        "the bound has reached the logarithm of the ensemble size",
        "use more networks: an ensemble of N resolves at most log N nats",
    ),
    Flag.TOO_COARSE: (
        "the path or the expansion is too coarse for its sums to close",
        "use smaller or more steps, or a route without the approximation",
    ),
    Flag.KINKED: (
        "the energy has kinks, whose curvature automatic differentiation does not see",
        "use curvature='score' where the ensemble's density is known, else 'smoothed'",
    ),
    Flag.LADDER_UNFINISHED: (
        "the ladder did not reach the target within max_rungs",
        "raise max_rungs or lower target",
    ),
}


def raise_flags(*pairs: tuple[Flag, ArrayLike]) -> Array:
    """OR together the flags whose condition holds, under jit; uint32 scalar."""
    flags = jnp.zeros((), jnp.uint32)
    for flag, condition in pairs:
        bit = jnp.where(jnp.any(condition), jnp.uint32(flag), jnp.uint32(0))
        flags = flags | bit
    return flags


def union(flags: Array) -> Array:
    """OR of an array of bit sets; uint32 scalar.

    Bit by bit a maximum, which devices can reduce together; not every backend can OR.
    """
    bits = jnp.arange(32, dtype=jnp.uint32)
    seen = jnp.max((flags.reshape(-1, 1) >> bits) & 1, axis=0, initial=0)
    return jnp.sum(seen << bits, dtype=jnp.uint32)


def explain(flags: ArrayLike) -> list[str]:
    """One sentence with its mend for every raised flag; an empty list is trust.

    Example:
        >>> explain(0)
        []
        >>> explain(Flag.LOW_ESS)[0][:7]
        'LOW_ESS'
    """
    bits = int(np.bitwise_or.reduce(np.asarray(flags, np.uint32).ravel()))
    return [
        f"{flag.name}: {reason}; {mend}"
        for flag, (reason, mend) in _TEXT.items()
        if bits & flag
    ]


class Estimate(NamedTuple):
    """A number with its error bar and its verdict; a pytree.

    Attributes:
        value: the estimate, in nats unless its maker says otherwise.
        stderr: standard error that is meant to be believed.
        within_stderr: standard error seen inside one run (a consistency check).
        n_eff: effective sample size.
        flags: uint32 bit set of `Flag`; zero means trusted.
        parts: whatever the maker wants to hand on (ladders, samples, read-outs).
    """

    value: Array
    stderr: Array
    within_stderr: Array
    n_eff: Array
    flags: Array
    parts: Any = ()

    @property
    def trusted(self) -> Array | bool:
        """True where no flag is raised; a Python bool outside jit for a scalar."""
        ok = self.flags == 0
        if is_traced(ok) or np.ndim(ok):
            return ok
        return bool(ok)

    @property
    def reasons(self) -> list[str]:
        """The raised flags, explained."""
        return explain(self.flags)

    def require_trusted(self) -> Estimate:
        """Self, if trusted.

        Raises:
            UntrustedEstimate: with every reason and its mend; outside jit only.
        """
        if is_traced(self.flags):
            raise TypeError("require_trusted reads values: call it outside jit")
        reasons = self.reasons
        if reasons:
            raise UntrustedEstimate("\n".join(["the estimate is not trusted:", *reasons]))
        return self

    def __float__(self) -> float:
        """The value, for a scalar outside jit."""
        return float(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The value, for NumPy."""
        return np.array(self.value, dtype, copy=copy)

    def __format__(self, spec: str) -> str:
        """`value ± stderr`, each with the float format `spec` (default `.4f`)."""
        spec = spec or ".4f"
        text = f"{float(self.value):{spec}} ± {float(self.stderr):{spec}}"
        return text if self.trusted else f"{text} (not trusted)"
