"""Solvable stationary processes that know the arrow of time.

    bead-spring chain   dx = -A x dt + sqrt(2 D) dW,  A tridiagonal, D = diag(T_1 .. T_n)
    driven cycle        jumps i -> i + 1 with probability f_i, i -> i - 1 with b_i

The chain's covariance is plain algebra in the eigenmodes of A; the cycle's
stationary law is a sum over its n spanning trees. Neither solves a linear system, so that
both check the functions which do.

Source: core specification 2.8; the chain after Battle et al. 2016 and Li, Horowitz,
Gingrich & Fakhri 2019; Schnakenberg 1976 for the cycle.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from thermojax.exact.solvable import positive
from thermojax.typing import ArrayLike

__all__ = ["BeadSpringChain", "DrivenCycle", "bead_spring_chain", "driven_cycle"]


@dataclasses.dataclass(frozen=True, eq=False)
class BeadSpringChain:
    """Overdamped beads between two walls, each in a bath of its own; float64.

    Attributes:
        drift: [n, n] A.
        diffusion: [n, n] D.
    """

    drift: np.ndarray
    diffusion: np.ndarray

    def transition(self, step_size: float) -> tuple[np.ndarray, np.ndarray]:
        """M = 1 - h A and Q = 2 h D of the Euler-Maruyama chain x' = M x + n.

        Args:
            step_size: h.
        """
        h = float(positive("step_size", step_size))
        return np.eye(len(self.drift)) - h * self.drift, 2 * h * self.diffusion

    def covariance(self, step_size: float | None = None) -> np.ndarray:
        """[n, n] stationary covariance, of the process or of its Euler-Maruyama chain.

        Args:
            step_size: h of the chain; None for the process.

        Raises:
            ValueError: a step beyond stability, h max(eigenvalue) >= 2.
        """
        rates, modes = np.linalg.eigh(self.drift)
        h = 0.0 if step_size is None else float(positive("step_size", step_size))
        if not h * rates[-1] < 2:
            raise ValueError(f"step_size={h:g} is unstable: it must be below {2 / rates[-1]:g}")
        sums = rates[:, None] + rates - h * np.outer(rates, rates)
        return modes @ (2 * (modes.T @ self.diffusion @ modes) / sums) @ modes.T

    def entropy_production(self, step_size: float | None = None) -> float:
        """Nats per unit time of the process, or per step of its Euler-Maruyama chain.

        Args:
            step_size: h of the chain; None for the process.
        """
        s = self.covariance(step_size)
        if step_size is None:
            heat = np.linalg.inv(self.diffusion) @ self.drift @ s
            return float(np.sum(self.drift * heat) - np.trace(self.drift))
        m = self.transition(step_size)[0]
        forward, reverse = (np.block([[s, c.T], [c, s]]) for c in (m @ s, s @ m.T))
        ratio = np.trace(np.linalg.solve(reverse, forward))
        return float(ratio - 2 * len(s)) / 2


def bead_spring_chain(
    n: int = 2, hot: float = 2.0, cold: float = 1.0, *, stiffness: float = 1.0
) -> BeadSpringChain:
    """n beads in a row, springs between neighbours and to both walls, hot to cold.

    Two beads produce sigma = k (T_1 - T_2)^2 / (4 T_1 T_2) per unit time (unit mobility).

    Args:
        n: beads, at least 1.
        hot: temperature of the first bead.
        cold: of the last; linear in between.
        stiffness: k of every spring.

    Raises:
        ValueError: no bead, or a number that must be positive.

    Source: Li, Horowitz, Gingrich & Fakhri 2019.

    Example:
        >>> round(bead_spring_chain().entropy_production(), 12)
        0.125
    """
    if n < 1:
        raise ValueError(f"a chain needs n >= 1 beads, got {n}")
    k = float(positive("stiffness", stiffness))
    temperatures = np.linspace(*positive("hot and cold", (hot, cold)), n)
    drift = k * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    return BeadSpringChain(drift, np.diag(temperatures))


@dataclasses.dataclass(frozen=True, eq=False)
class DrivenCycle:
    """A ring of states with a preferred direction; float64.

    Attributes:
        forward: [n] probability of i -> i + 1.
        backward: [n] probability of i -> i - 1.
    """

    forward: np.ndarray
    backward: np.ndarray

    @property
    def transition(self) -> np.ndarray:
        """[n, n] transition matrix, rows sum to 1."""
        up = np.roll(np.diag(self.forward), 1, axis=1)
        down = np.roll(np.diag(self.backward), -1, axis=1)
        return up + down + np.diag(1 - self.forward - self.backward)

    @property
    def stationary(self) -> np.ndarray:
        """[n] stationary law: each state's sum over spanning trees that lead to it."""
        n = len(self.forward)
        weight = np.zeros(n)
        for root in range(n):
            # the tree without the bond cut -> cut + 1: `ahead` states walk back to the root
            for ahead in range(n):
                behind = [self.forward[(root - j) % n] for j in range(1, n - ahead)]
                front = [self.backward[(root + j) % n] for j in range(1, ahead + 1)]
                weight[root] += math.prod(behind) * math.prod(front)
        return weight / weight.sum()

    @property
    def current(self) -> float:
        """Net jumps per step over each bond."""
        pi = self.stationary
        return float(pi[0] * self.forward[0] - pi[1] * self.backward[1])

    @property
    def affinity(self) -> float:
        """log of the product of forward over that of backward probabilities, nats."""
        with np.errstate(divide="ignore"):
            return float(np.sum(np.log(self.forward)) - np.sum(np.log(self.backward)))

    @property
    def entropy_production(self) -> float:
        """current * affinity, nats per step; inf where a jump has no reverse."""
        return 0.0 if self.affinity == 0 else self.current * self.affinity


def driven_cycle(
    n: int = 3, forward: ArrayLike = 0.5, backward: ArrayLike = 0.2
) -> DrivenCycle:
    """A discrete cycle that prefers to turn one way.

    Args:
        n: states, at least 3.
        forward: [n] or scalar, probability of i -> i + 1, positive.
        backward: [n] or scalar, probability of i -> i - 1, not negative.

    Raises:
        ValueError: fewer than 3 states, or probabilities that make no sense.

    Source: Schnakenberg 1976.

    Example:
        >>> round(driven_cycle().entropy_production, 6)  # 0.3 log(5/2)
        0.274887
    """
    if n < 3:
        raise ValueError(f"a cycle needs n >= 3 states, got {n}")
    f = np.broadcast_to(positive("forward", forward), (n,))
    b = np.broadcast_to(np.asarray(backward, np.float64), (n,))
    if not (np.all(b >= 0) and np.all(f + b <= 1 + 1e-12)):
        raise ValueError(
            f"backward must not be negative nor exceed 1 - forward, got {backward}"
        )
    return DrivenCycle(f, b)
