"""Names of representation learning: multipliers, functionals, the neural model, a path.

    J = R + lam D + gam C,      F(lam, gam) = min J,      dF = D dlam + C dgam

Rate R, distortion D and classification loss C are nats per example; lam and gam are their
dimensionless multipliers, the controls of the ensemble of codes
p(z | x) ∝ m(z) exp(-lam u_D(z; x) - gam u_C(z; x)).

Source: Gao & Chaudhari 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from thermojax.typing import Array

__all__ = ["Batch", "Functionals", "Model", "Multipliers", "Trajectory", "objective"]


class Multipliers(NamedTuple):
    """Controls of the ensemble of codes: dimensionless, not negative.

    Attributes:
        lam: multiplier of the distortion.
        gam: multiplier of the classification loss.
    """

    lam: Array
    gam: Array


class Functionals(NamedTuple):
    """Averages that the controls are conjugate to, in nats per example.

    Attributes:
        rate: R = E_x KL(e(. | x) || m).
        distortion: D = -E log d(x | z); a log density may make it negative.
        classification: C = -E log c(y | z).
    """

    rate: Array
    distortion: Array
    classification: Array


class Model(NamedTuple):
    """Four pure functions; flax modules or any others.

    Attributes:
        encode: (params, x [B, *]) -> mean and log variance of e(z | x), each [B, d_z].
        log_decoder: (params, x [B, *], z [S, B, d_z]) -> log d(x | z) [S, B].
        log_classifier: (params, z [S, B, d_z]) -> log c(. | z) [S, B, n_y].
        log_marginal: (params, z [S, B, d_z]) -> log m(z) [S, B]; None is N(0, I).
    """

    encode: Callable[..., tuple[Array, Array]]
    log_decoder: Callable[..., Array]
    log_classifier: Callable[..., Array]
    log_marginal: Callable[..., Array] | None = None


class Batch(NamedTuple):
    """Examples with weights.

    Attributes:
        x: [B, *] inputs.
        y: [B] whole-number labels, or [B, n_y] label weights whose rows sum to 1.
        weight: [B], sum 1; None is 1/B for each.
    """

    x: Array
    y: Array
    weight: Array | None = None


class Trajectory(NamedTuple):
    """A path of controls with what was measured on it; every array leads with the point.

    Row 0 is the start, where `dissipated_work` and `first_law_residual` are 0. A column that
    was not measured is None.

    Attributes:
        t: [n + 1] task coordinate, 0 throughout if the task is fixed.
        multipliers: lam and gam, each [n + 1].
        functionals: R, D and C, each [n + 1], nats per example.
        free_energy: [n + 1] R + lam D + gam C, nats per example.
        dissipated_work: [n + 1] of the step that led to each point, nats per example.
        first_law_residual: [n + 1] relative residual of that step's first law.
        chi: [n + 1, 2, 2] susceptibilities.
        task_force: [n + 1] dF/dt at frozen parameters.
        stderr: standard error of C at each point.
        accuracy: name of a data set ("source", "target", "mixture") -> [n + 1].
        grad_norm: [n + 1] gradient norm at the end of each equilibration.
        inner_steps: [n + 1] gradient steps spent on each point.
        status: how the path ended, in one word ("reached", "boundary", "infeasible").
        reason: one sentence about the end; empty if the path was completed.
    """

    t: Array
    multipliers: Multipliers
    functionals: Functionals
    free_energy: Array
    dissipated_work: Array | None = None
    first_law_residual: Array | None = None
    chi: Array | None = None
    task_force: Array | None = None
    stderr: Array | None = None
    accuracy: dict[str, Array] | None = None
    grad_norm: Array | None = None
    inner_steps: Array | None = None
    status: str = "reached"
    reason: str = ""

    @property
    def lam(self) -> Array:
        """[n + 1] multiplier of the distortion."""
        return self.multipliers.lam

    @property
    def gam(self) -> Array:
        """[n + 1] multiplier of the classification loss."""
        return self.multipliers.gam

    @property
    def rate(self) -> Array:
        """[n + 1] R, nats per example."""
        return self.functionals.rate

    @property
    def distortion(self) -> Array:
        """[n + 1] D, nats per example."""
        return self.functionals.distortion

    @property
    def classification(self) -> Array:
        """[n + 1] C, nats per example."""
        return self.functionals.classification


def objective(functionals: Functionals, multipliers: Multipliers) -> Array:
    """J = R + lam D + gam C, in nats per example.

    Args:
        functionals: R, D and C of any shape.
        multipliers: lam and gam, broadcast against them.

    Source:
        Gao & Chaudhari 2020.

    Example:
        >>> objective(Functionals(1.0, 2.0, 3.0), Multipliers(0.5, 2.0))
        8.0
    """
    rate, distortion, classification = functionals
    return rate + multipliers.lam * distortion + multipliers.gam * classification
