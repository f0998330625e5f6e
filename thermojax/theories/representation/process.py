"""Processes: paths of equilibria along which R, D or C stays, at a fixed and a moving task.

Both walk over a grid and solve the constraint at every point of it: the predictor is the
tangent, the corrector a safeguarded Newton iteration with the slope from chi. The error at a
point is then that of the root, 1e-10, however coarse the grid is; an integrator of the same
ordinary differential equation carries its error along, must be restarted where a code
switches and chi jumps, and asks for an equilibrium that can be traced. Here the equilibrium may
be any function, a branch-following codebook with loops of its own included. It is called from
Python once per evaluation, so hand in a jitted function where there is one.

To differentiate a process, integrate `process_tangent`.

Source: Gao & Chaudhari 2020 (iso-classification, a moving task); iso-distortion, iso-rate and
the verdicts on feasibility are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.corrector import Root, find_root
from thermojax.theories.representation.ledger import with_ledger
from thermojax.theories.representation.quantities import Functionals, Multipliers, Trajectory
from thermojax.theories.representation.tangents import (
    PROCESSES,
    constrained_rates,
    gradient_of,
    process_tangent,
)
from thermojax.typing import Array, ArrayLike

__all__ = ["constrained_rates", "iso_process", "process_tangent"]


class Row(NamedTuple):
    """One point of a path on the host."""

    t: float
    lam: float
    gam: float
    free_energy: Any
    functionals: Functionals
    chi: Any
    task_force: Any = 0.0


def check_start(start: Multipliers, num_points: int, max_gam: float) -> tuple[float, float]:
    """lam and gam as floats, or a ValueError that names what is wrong."""
    if num_points < 2:
        raise ValueError(f"num_points is {num_points}; a path has 2 points or more")
    if any(np.shape(tau) != () for tau in start):
        raise ValueError(
            f"start has shapes {[np.shape(tau) for tau in start]}; give two scalars"
        )
    lam, gam = (float(tau) for tau in start)
    if not (np.isfinite(lam) and lam >= 0 and 0 <= gam < max_gam):
        raise ValueError(
            f"start is ({lam:g}, {gam:g}); give lam >= 0 and 0 <= gam < max_gam = {max_gam:g}"
        )
    return lam, gam


def resolved(tolerance: float | None, dtype: Any, target: float) -> float:
    """|Q - Q_0| that counts as held: 1e-10 in double precision, 30 roundings in single."""
    if tolerance is not None:
        return float(tolerance)
    precision = float(jnp.finfo(dtype).eps)
    return max(1e-10, 30 * precision) * max(1.0, abs(target))


def working_dtype(start: Multipliers) -> Any:
    """Floating dtype of the start, the default of jax for whole numbers."""
    return jnp.result_type(*(jnp.asarray(tau) for tau in start), float)


def pair(lam: float, gam: float, dtype: Any) -> Multipliers:
    """Multipliers of one dtype, so that a jitted equilibrium compiles once."""
    return Multipliers(jnp.asarray(lam, dtype), jnp.asarray(gam, dtype))


def held(row: Row, fixed: str) -> float:
    """The quantity of a row that `fixed` names."""
    return float(getattr(row.functionals, fixed))


def slopes(row: Row, fixed: str) -> np.ndarray:
    """Its derivatives in (lam, gam)."""
    return gradient_of(fixed, np.asarray(row.chi, float)[:2, :2], row.lam, row.gam)


def predicted_gam(row: Row, fixed: str, lam: float, change: float = 0.0) -> float:
    """gam by the tangent at a row; `change` is what Q does by itself on the way."""
    in_lam, in_gam = slopes(row, fixed)
    with np.errstate(all="ignore"):
        guess = row.gam - (in_lam * (lam - row.lam) + change) / in_gam
    return float(guess) if np.isfinite(guess) else row.gam


def trajectory_of(rows: list[Row], dtype: Any, status: str, reason: str) -> Trajectory:
    """Columns of the rows, with their ledger."""
    columns = jax.tree.map(lambda *entries: jnp.stack([jnp.asarray(e) for e in entries]), *rows)
    t, lam, gam, force = (
        values.astype(dtype)
        for values in (columns.t, columns.lam, columns.gam, columns.task_force)
    )
    path = Trajectory(
        t=t,
        multipliers=Multipliers(lam, gam),
        functionals=Functionals(*columns.functionals),
        free_energy=columns.free_energy,
        chi=columns.chi,
        task_force=force,
        status=status,
        reason=reason,
    )
    return with_ledger(path)


_CAUSES = {
    "floor": "a multiplier would be negative",
    "ceiling": "a multiplier exceeds max_gam",
    "flat": "it no longer responds",
    "jump": "it jumps over the value, or the path turns back",
    "broken": "the equilibrium is not finite",
}


def cause(verdict: str) -> str:
    """A verdict of the search in words."""
    return _CAUSES[verdict]


def iso_process(
    equilibrium_fn: Callable[[Multipliers], tuple[Array, Functionals, Array]],
    start: Multipliers,
    lam_end: ArrayLike,
    *,
    fixed: str = "classification",
    num_points: int = 33,
    tol: float | None = None,
    max_gam: float = 1e3,
) -> Trajectory:
    """Move lam from its start to `lam_end` and let gam hold R, D or C at its first value.

        Q(lam, gam(lam)) = Q_0,      d gam / d lam = -Q_lam / Q_gam

    On iso-classification with lam rising, D falls and R rises, dR = -lam dD. Status of the
    path, each with the place in `reason`:

    - "reached": every point of the grid is there.
    - "boundary": gam reaches 0 on the way. The last row is that point, off the grid.
    - "infeasible": no gam in [0, max_gam] holds Q at the next point of the grid: it no longer
      responds (chi_gg = 0 on iso-classification), jumps at a coexistence of two branches, or
      the path turns back in lam (iso-distortion where chi_lg = 0). Rows end before it.

    Not to be jitted: the length depends on the data. See the module for why not an integrator.

    Args:
        equilibrium_fn: `Multipliers` -> (F, `Functionals`, chi [2, 2]), called from Python.
        start: lam and gam of the first point.
        lam_end: lam of the last point, above or below the first.
        fixed: "classification", "distortion" or "rate".
        num_points: points of the grid, uniform in lam, both ends included.
        tol: largest |Q - Q_0|, nats per example; None is 1e-10 in float64, 4e-6 in float32.
        max_gam: largest gam to try.

    Returns:
        A `Trajectory` at t = 0 with `chi` [n + 1, 2, 2] and both columns of the ledger; nats
        per example.

    Raises:
        ValueError: if `fixed` is unknown, `num_points` < 2, or the start or `lam_end` is
            negative or not finite.

    Source:
        Gao & Chaudhari 2020 (iso-classification); the other two are our completion.

    Example:
        >>> def two_states(tau):
        ...     free = -jnp.log1p(jnp.exp(-tau.lam - tau.gam))
        ...     low = jax.nn.sigmoid(-tau.lam - tau.gam)
        ...     rate = free - (tau.lam + tau.gam) * low
        ...     return free, Functionals(rate, low, low), low * (1 - low) * jnp.ones((2, 2))
        >>> path = iso_process(two_states, Multipliers(1.0, 1.0), 3.0, num_points=5)
        >>> path.status, float(path.lam[-1].round(3))
        ('boundary', 2.0)
    """
    if fixed not in PROCESSES:
        raise ValueError(f"unknown fixed {fixed!r}; choose one of {', '.join(PROCESSES)}")
    lam, gam = check_start(start, num_points, max_gam)
    end = float(np.asarray(lam_end))
    if not (np.isfinite(end) and end >= 0):
        raise ValueError(f"lam_end is {end:g}; give a finite value >= 0")
    dtype = working_dtype(start)

    def at(lam: float, gam: float) -> Row:
        return Row(0.0, lam, gam, *equilibrium_fn(pair(lam, gam, dtype)))

    rows = [at(lam, gam)]
    target = held(rows[0], fixed)
    walk = Walk(at, fixed, target, resolved(tol, dtype, target), max_gam)
    for goal in np.linspace(lam, end, num_points)[1:].tolist():
        root = walk.gam_at(goal, predicted_gam(rows[-1], fixed, goal))
        if root.verdict != "solved":
            return walk.ended(rows, root, goal, dtype)
        rows.append(root.point)
    return trajectory_of(rows, dtype, "reached", "")


class Walk(NamedTuple):
    """One constraint Q = Q_0 over the controls of a fixed task."""

    at: Callable[[float, float], Row]
    fixed: str
    target: float
    tolerance: float
    max_gam: float

    def gam_at(self, lam: float, guess: float) -> Root:
        """gam that holds the quantity at a lam."""

        def evaluate(gam: float) -> tuple[float, float, Row]:
            row = self.at(lam, gam)
            return held(row, self.fixed) - self.target, slopes(row, self.fixed)[1], row

        return find_root(evaluate, guess, tolerance=self.tolerance, low=0.0, high=self.max_gam)

    def lam_at_zero(self, before: Row, beyond: float) -> Root:
        """lam between two points of the grid at which gam = 0 holds the quantity."""

        def evaluate(lam: float) -> tuple[float, float, Row]:
            row = self.at(lam, 0.0)
            return held(row, self.fixed) - self.target, slopes(row, self.fixed)[0], row

        low, high = sorted((before.lam, beyond))
        return find_root(evaluate, before.lam, tolerance=self.tolerance, low=low, high=high)

    def ended(self, rows: list[Row], root: Root, goal: float, dtype: Any) -> Trajectory:
        """The path up to where it ends, at gam = 0 or before a point without a root."""
        start = rows[-1]
        if root.verdict == "floor":
            last = self.lam_at_zero(start, goal)
            if last.verdict == "solved":
                rows = rows if last.control == start.lam else [*rows, last.point]
                reason = f"gam reaches 0 at lam = {last.control:.6g}"
                return trajectory_of(rows, dtype, "boundary", reason)
        reason = (
            f"{self.fixed} = {self.target:.9g} is lost between lam = {start.lam:.6g} and "
            f"{goal:.6g}: {cause(root.verdict)}; nearest at {goal:.6g} is "
            f"{root.miss + self.target:.9g}, at gam = {root.control:.6g}"
        )
        return trajectory_of(rows, dtype, "infeasible", reason)
