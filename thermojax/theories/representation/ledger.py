"""Work, heat and the first law along a path of equilibria.

    first law        dR = -lam dD - gam dC + F_t dt
    work             W_k  = D_k dlam + C_k dgam + F_t,k dt         controls moved, codes frozen
    dissipated       Wd_k = F_k + W_k - F_{k+1}  ≈  1/2 delta^T chi delta
    length           L = int sqrt(tau_dot^T chi tau_dot) ds,   n sum_k Wd_k -> >= L^2/2

Here tau = (lam, gam), F_t = dF/dt is the force of a moving task, and n counts equal steps.
Everything is in nats per example.

Source: first law at a fixed task, Gao & Chaudhari 2020; its task term, work and dissipation are
our completion; thermodynamic length is textbook (Crooks 2007).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.quantities import Trajectory
from thermojax.typing import Array, is_concrete

__all__ = ["dissipated_work", "first_law_residual", "thermodynamic_length", "with_ledger"]


class _Terms(NamedTuple):
    """Terms of the first law of every step, [n], nats per example."""

    rate: Array
    distortion: Array
    classification: Array
    task: Array

    @property
    def residual(self) -> Array:
        return self.rate + self.distortion + self.classification - self.task

    @property
    def size(self) -> Array:
        return sum((jnp.abs(term) for term in self), jnp.zeros_like(self.rate))


def _midpoint(values: Array) -> Array:
    return (values[1:] + values[:-1]) / 2


def _task_moves(trajectory: Trajectory) -> bool:
    """Whether t is seen to change; a traced t counts as still."""
    return is_concrete(trajectory.t) and bool(np.any(np.diff(np.asarray(trajectory.t)) != 0))


def _task_force(trajectory: Trajectory) -> Array:
    if trajectory.task_force is not None:
        return jnp.asarray(trajectory.task_force)
    if _task_moves(trajectory):
        raise ValueError(
            "task_force is None while t moves; give dF/dt at every point of the trajectory"
        )
    return jnp.zeros_like(jnp.asarray(trajectory.rate))


def _first_law_terms(trajectory: Trajectory) -> _Terms:
    """Trapezoids of dR, lam dD, gam dC and F_t dt."""
    lam, gam, rate, distortion, classification, t = map(
        jnp.asarray, (*trajectory.multipliers, *trajectory.functionals, trajectory.t)
    )
    return _Terms(
        rate=jnp.diff(rate),
        distortion=_midpoint(lam) * jnp.diff(distortion),
        classification=_midpoint(gam) * jnp.diff(classification),
        task=_midpoint(_task_force(trajectory)) * jnp.diff(t),
    )


def _quotient(top: Array, bottom: Array) -> Array:
    """top/bottom, 0 where the bottom is 0: nothing moved there."""
    return jnp.where(bottom == 0, 0.0, top / jnp.where(bottom == 0, 1.0, bottom))


def first_law_residual(trajectory: Trajectory, *, relative: bool = False) -> Array:
    """What the first law leaves over: sum of dR + lam dD + gam dC - F_t dt, by trapezoids.

    Zero on a path of equilibria up to O(n^-2) in the number of steps, also across a code that
    switches on. The sum is signed; what remains of it says how far from equilibrium the
    points are. NaN if a point of the path is.

    Args:
        trajectory: a path of controls; `task_force` is needed if t moves.
        relative: divide by the sum of |dR| + |lam dD| + |gam dC| + |F_t dt|.

    Returns:
        A scalar in nats per example, or without unit if relative.

    Raises:
        ValueError: if t moves and `task_force` is None.

    Source:
        Gao & Chaudhari 2020; the term of a moving task is derived here.

    Example:
        >>> from thermojax.theories.representation.quantities import Functionals, Multipliers
        >>> still, lam = jnp.zeros(2), jnp.array([1.0, 3.0])
        >>> functionals = Functionals(jnp.array([0.0, 4.0]), jnp.array([2.0, 0.0]), still)
        >>> free = functionals.rate + lam * functionals.distortion
        >>> path = Trajectory(still, Multipliers(lam, still), functionals, free)
        >>> float(first_law_residual(path))
        0.0
    """
    terms = _first_law_terms(trajectory)
    residual = jnp.sum(terms.residual)
    return _quotient(residual, jnp.sum(terms.size)) if relative else residual


def _dissipated(trajectory: Trajectory) -> Array:
    """Wd_k of every step from free energies and forces, [n]."""
    lam, gam, t, free = map(
        jnp.asarray, (*trajectory.multipliers, trajectory.t, trajectory.free_energy)
    )
    forces = trajectory.functionals
    work = forces.distortion[:-1] * jnp.diff(lam) + forces.classification[:-1] * jnp.diff(gam)
    task = _task_force(trajectory)[:-1] * jnp.diff(t)
    return work + task - jnp.diff(free)


def dissipated_work(trajectory: Trajectory) -> Array:
    """Work lost along a path of finite steps: sum_k F_k + U_k . delta_k - F_{k+1}.

    U = (D, C) and delta = (dlam, dgam): step the controls with the codes frozen, then relax.
    Every term is >= 0 at a fixed task, since F is concave; n times the sum of n equal steps
    tends to half of int tau_dot^T chi tau_dot ds, the price of haste. A trajectory that carries
    the column `dissipated_work` is summed over it: what a run measured outranks the formula.

    On a moving task delta and U gain t and F_t. That is the work to first order in the step:
    F is not concave in t, and the sum can be negative.

    Args:
        trajectory: a path of controls; `task_force` is needed if t moves.

    Returns:
        A scalar in nats per example; NaN if a point of the path is.

    Raises:
        ValueError: if t moves and `task_force` is None.

    Source:
        Our definition, following the paper's programme; the limit is that of thermodynamic
        length (Crooks 2007).

    Example:
        >>> from thermojax.theories.representation.quantities import Functionals, Multipliers
        >>> zero, lam, free = jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.array([0.0, 1.5])
        >>> functionals = Functionals(zero, jnp.array([2.0, 1.0]), zero)
        >>> float(dissipated_work(Trajectory(zero, Multipliers(lam, zero), functionals, free)))
        0.5
    """
    if trajectory.dissipated_work is not None:
        return jnp.sum(jnp.asarray(trajectory.dissipated_work))
    return jnp.sum(_dissipated(trajectory))


def thermodynamic_length(trajectory: Trajectory) -> Array:
    """Length of a path of controls in the metric chi: sum of sqrt(delta^T chi delta).

    chi of a step is the mean of its ends. L^2/2 is the least that n sum Wd can tend to over
    all schedules along the same curve of controls; constant speed in L attains it.

    Args:
        trajectory: a path at a fixed task with column `chi`.

    Returns:
        A scalar in sqrt(nats per example).

    Raises:
        ValueError: if `chi` is None, or t moves: chi is no metric in t (F is not concave in t).

    Source:
        Textbook: Crooks 2007; for this ensemble our definition, following the paper's
        programme.

    Example:
        >>> from thermojax.theories.representation.quantities import Functionals, Multipliers
        >>> zero, lam, chi = jnp.zeros(3), jnp.arange(3.0), 4.0 * jnp.ones((3, 2, 2))
        >>> path = Trajectory(zero, Multipliers(lam, zero), Functionals(zero, zero, zero), zero)
        >>> float(thermodynamic_length(path._replace(chi=chi)))
        4.0
    """
    if trajectory.chi is None:
        raise ValueError(
            "chi is None; give the susceptibility at every point of the trajectory"
        )
    if _task_moves(trajectory):
        raise ValueError(
            "t moves and chi is no metric in t; take the length of a path at a fixed task"
        )
    delta = jnp.stack([jnp.diff(jnp.asarray(tau)) for tau in trajectory.multipliers], axis=-1)
    metric = _midpoint(jnp.asarray(trajectory.chi)[:, :2, :2])
    square = jnp.einsum("ki,kij,kj->k", delta, metric, delta)
    # rounding may push a null direction below 0, and sqrt has no slope at 0
    return jnp.sum(jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0))


def with_ledger(trajectory: Trajectory) -> Trajectory:
    """Fill the columns `dissipated_work` and `first_law_residual` of a trajectory.

    Row 0 is 0; row k + 1 holds Wd_k and the size of the first-law residual of the step that
    led there, relative to |dR| + |lam dD| + |gam dC| + |F_t dt|.

    Args:
        trajectory: a path of controls; `task_force` is needed if t moves.

    Returns:
        The trajectory with both columns, [n + 1].

    Raises:
        ValueError: if t moves and `task_force` is None.

    Source:
        Our definition, following the paper's programme.

    Example:
        >>> from thermojax.theories.representation.quantities import Functionals, Multipliers
        >>> zero, lam, free = jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.array([0.0, 1.5])
        >>> functionals = Functionals(zero, jnp.array([2.0, 1.0]), zero)
        >>> path = with_ledger(Trajectory(zero, Multipliers(lam, zero), functionals, free))
        >>> path.dissipated_work.tolist()
        [0.0, 0.5]
    """
    terms = _first_law_terms(trajectory)
    residual = _quotient(jnp.abs(terms.residual), terms.size)
    start = jnp.zeros((1,), residual.dtype)
    return trajectory._replace(
        dissipated_work=jnp.concatenate([start, _dissipated(trajectory)]),
        first_law_residual=jnp.concatenate([start, residual]),
    )
