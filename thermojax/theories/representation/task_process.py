"""Exact processes on a moving task: multipliers that hold R, D or C while t goes from 0 to 1.

    dF = D dlam + C dgam + F_t dt,      chi_lt = -D_t,   chi_gt = -C_t
    -r_C . (lam_dot, gam_dot) + C_t t_dot = 0,      r_C = (chi_lg, chi_gg)

One equation for two rates: lam is prescribed (constant by default, which of all choices costs
the least control speed v^T chi v) and gam answers; or two quantities are held and both answer.

Source: Gao & Chaudhari 2020 for the constraint; feasibility and the second constraint are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.corrector import Root, find_pair
from thermojax.theories.representation.process import (
    Row,
    Walk,
    cause,
    check_start,
    held,
    pair,
    predicted_gam,
    resolved,
    slopes,
    trajectory_of,
    working_dtype,
)
from thermojax.theories.representation.quantities import Multipliers, Trajectory
from thermojax.theories.representation.response import TaskEquilibrium
from thermojax.theories.representation.tangents import PROCESSES, constrained_rates
from thermojax.typing import Array, ShapeError

__all__ = ["iso_transfer"]

TaskFn = Callable[[Multipliers, Array], TaskEquilibrium]


def _drift(row: Row, fixed: str) -> float:
    """Total drift of a quantity per unit of t at fixed controls."""
    chi = np.asarray(row.chi, float)
    if fixed == "classification":
        return -chi[1, 2]
    if fixed == "distortion":
        return -chi[0, 2]
    return float(row.task_force) + row.lam * chi[0, 2] + row.gam * chi[1, 2]


def _names(fixed: str | tuple[str, str], one_sided: bool, prescribed: bool) -> tuple[str, ...]:
    """What is held, as a tuple, or a ValueError."""
    names = (fixed,) if isinstance(fixed, str) else tuple(fixed)
    for name in names:
        if name not in PROCESSES:
            raise ValueError(f"unknown fixed {name!r}; choose of {', '.join(PROCESSES)}")
    if len(names) > 2 or len(set(names)) < len(names):
        raise ValueError(f"fixed is {fixed!r}; give one name or two different ones")
    if len(names) == 2 and prescribed:
        raise ValueError(f"lam_of_t leaves one unknown, and fixed = {fixed!r} asks for two")
    if one_sided and names != ("classification",):
        raise ValueError(f"one_sided reads C <= C_0; fixed is {fixed!r}, not 'classification'")
    return names


class _Constraints(NamedTuple):
    """What is held, and to what precision."""

    names: tuple[str, ...]
    targets: np.ndarray
    tolerance: float
    high: float

    def solve(
        self, at: Callable[[float, float], Row], before: Row, t: float, lam: float
    ) -> Root:
        """The controls at t that hold it, predicted from the last row that did."""
        if len(self.names) == 2:
            return self._both(at, before, t)
        name = self.names[0]
        guess = predicted_gam(before, name, lam, _drift(before, name) * (t - before.t))
        walk = Walk(at, name, float(self.targets[0]), self.tolerance, self.high)
        return walk.gam_at(lam, guess)

    def _both(self, at: Callable[[float, float], Row], before: Row, t: float) -> Root:
        drift = np.array([_drift(before, name) for name in self.names])
        tau = Multipliers(jnp.asarray(before.lam), jnp.asarray(before.gam))
        pair_of = (self.names[0], self.names[1])
        rates = np.asarray(constrained_rates(before.chi, tau, drift, fixed=pair_of), float)
        start = np.array([before.lam, before.gam])
        guess = start + rates * (t - before.t)

        def evaluate(control: np.ndarray) -> tuple[np.ndarray, np.ndarray, Row]:
            row = at(*control.tolist())
            miss = np.array([held(row, name) for name in self.names]) - self.targets
            return miss, np.stack([slopes(row, name) for name in self.names]), row

        guess = guess if np.all(np.isfinite(guess)) else start
        return find_pair(evaluate, guess, tolerance=self.tolerance, high=self.high)

    def __str__(self) -> str:
        held_at = zip(self.names, self.targets, strict=True)
        return " and ".join(f"{name} = {value:.9g}" for name, value in held_at)


def _spans(grid: np.ndarray, missed: list[int]) -> str:
    """Runs of missed points as intervals of t."""
    runs = np.split(np.array(missed), np.flatnonzero(np.diff(missed) > 1) + 1)
    words = [
        f"{grid[run[0]]:g}" if run.size == 1 else f"{grid[run[0]]:g} to {grid[run[-1]]:g}"
        for run in runs
    ]
    return ", ".join(words)


def _without_controls(row: Row, prescribed: bool) -> Row:
    """A point that no controls hold: NaN controls and F beside the nearest functionals."""
    nan = float("nan")
    lam = row.lam if prescribed else nan
    return row._replace(lam=lam, gam=nan, free_energy=row.free_energy * nan)


def _schedule(
    lam_of_t: Callable[[float], float] | None, lam: float, grid: np.ndarray
) -> list[float]:
    """lam at every t of the grid."""
    if lam_of_t is None:
        return [lam] * grid.size
    lams = [float(lam_of_t(t)) for t in grid.tolist()]
    if not np.isclose(lams[0], lam) or not min(lams) >= 0:
        raise ValueError(
            f"lam_of_t starts at {lams[0]:g} and falls to {min(lams):g}; let it start at "
            f"lam = {lam:g} and stay >= 0"
        )
    return lams


def iso_transfer(
    task_fn: TaskFn,
    start: Multipliers,
    *,
    fixed: str | tuple[str, str] = "classification",
    lam_of_t: Callable[[float], float] | None = None,
    num_points: int = 33,
    one_sided: bool = False,
    tol: float | None = None,
    max_gam: float = 1e3,
) -> Trajectory:
    """Move the task from t = 0 to 1 and let the multipliers hold R, D or C at its first value.

        Q(lam(t), gam(t), t) = Q_0,      gam_dot = -(Q_t + Q_lam lam_dot) / Q_gam

    C does not increase with gam, so a gam in [0, max_gam] exists at one t if and only if
    C(max_gam) <= C_0 <= C(0), C continuous. A point where none does is passed over, not looped
    on: its row has NaN in gam and free_energy (and lam, where lam is an unknown), and its
    functionals are the nearest that were found. Status is then "infeasible", `reason` names
    every interval of t, and the sums of the ledger are NaN.

    Args:
        task_fn: (`Multipliers`, t) -> `TaskEquilibrium`, or anything with its fields: F, R, D
            and C, F_t and chi [3, 3]. Called from Python: jit it where it can be.
        start: lam and gam at t = 0.
        fixed: "classification", "distortion" or "rate", or two of them: then lam is an unknown
            as well, by a 2 x 2 solve.
        lam_of_t: t -> lam; None keeps it constant. It must start at `start.lam`.
        num_points: points of the grid, uniform in t, both ends included.
        one_sided: read the constraint as C <= C_0, so that gam = 0 will do where C(0) < C_0.
        tol: largest |Q - Q_0|, nats per example; None is 1e-10 in float64, 4e-6 in float32.
        max_gam: largest gam to try, and lam if it is an unknown.

    Returns:
        A `Trajectory` with `chi` [n + 1, 3, 3], `task_force` and both columns of the ledger;
        nats per example.

    Raises:
        ValueError: if `fixed` is unknown, `num_points` < 2, the start is negative or not
            finite, or `lam_of_t` does not start there or leaves lam >= 0.

    Source:
        Gao & Chaudhari 2020 for iso-classification; feasibility and pairs are ours.

    Example:
        >>> from thermojax.theories.representation.quantities import Functionals
        >>> def task(tau, t):  # C = 1 - gam + t
        ...     chi = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, -1.0, -1.0]])
        ...     free, loss = tau.gam - (tau.gam - t) ** 2 / 2, 1 - tau.gam + t
        ...     return TaskEquilibrium(free, Functionals(0.0, 0.0, loss), tau.gam - t, chi)
        >>> iso_transfer(task, Multipliers(1.0, 0.5), num_points=3).gam.tolist()
        [0.5, 1.0, 1.5]
    """
    names = _names(fixed, one_sided, lam_of_t is not None)
    lam_0, gam_0 = check_start(start, num_points, max_gam)
    grid = np.linspace(0.0, 1.0, num_points)
    lams = _schedule(lam_of_t, lam_0, grid)
    dtype = working_dtype(start)

    def at(t: float, lam: float, gam: float) -> Row:
        found = task_fn(pair(lam, gam, dtype), jnp.asarray(t, dtype))
        if np.shape(found.chi) != (3, 3):
            raise ShapeError(f"chi has shape {np.shape(found.chi)}; return [3, 3] with t last")
        return Row(
            t, lam, gam, found.free_energy, found.functionals, found.chi, found.task_force
        )

    first = at(0.0, lam_0, gam_0)
    targets = np.array([held(first, name) for name in names])
    tolerance = resolved(tol, dtype, float(np.max(np.abs(targets))))
    constraints = _Constraints(names, targets, tolerance, max_gam)
    rows, last, missed, causes = [first], first, [], set()
    for index, (t, lam) in enumerate(zip(grid[1:].tolist(), lams[1:], strict=True), start=1):
        root = constraints.solve(functools.partial(at, t), last, t, lam)
        below = one_sided and root.verdict == "floor"
        if root.verdict == "solved" or below:
            last = root.point
            rows.append(last)
        else:
            rows.append(_without_controls(root.point, prescribed=len(names) == 1))
            missed.append(index)
            causes.add(cause(root.verdict))
    if not missed:
        return trajectory_of(rows, dtype, "reached", "")
    where = f"t = {_spans(grid, missed)}: {'; '.join(sorted(causes))}"
    return trajectory_of(rows, dtype, "infeasible", f"{constraints} cannot be held at {where}")
