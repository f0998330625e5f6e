"""Accept/reject control of the step in t, and the verdict on a path; host loop.

Source: our definition, following the programme of Gao & Chaudhari 2020.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.neural_process import (
    Feedback,
    PathState,
    Plant,
    Reading,
    advance,
    read_point,
)
from thermojax.theories.representation.schedules import Schedule
from thermojax.typing import Array, Key

__all__ = ["Limits", "StepControl", "Stepped", "step_through", "verdict"]

_EDGE = 1e-3

# a plant is hashable: one compilation for all transfers of it
_turn = jax.jit(advance, static_argnums=0)
_read = jax.jit(read_point, static_argnums=0)


class StepControl(NamedTuple):
    """Accept/reject of steps in t.

    Attributes:
        dt_start: first step; small, for the first steps are the stiff ones.
        dt_min: a rejected step may not be halved below this.
        corrections: rounds of blocks at most for one trial; the first moves t and lam.
        first_law: largest relative first-law residual of an accepted step (training data),
            waived at dt_min; inf by default, since networks are hardly ever that close to
            equilibrium.
        trials: trials at most on the whole path.
    """

    dt_start: float = 0.004
    dt_min: float = 1e-3
    corrections: int = 3
    first_law: float = math.inf
    trials: int = 200


class Limits(NamedTuple):
    """What counts as held: |log(C / C_0)| <= bound, with gam inside the controller's range."""

    feedback: Feedback
    bound: float
    one_sided: bool

    def miss(self, error: float, gam: float) -> float:
        """|error|; 0 where C < C_0 is good since gam cannot fall further."""
        if self.one_sided and error < 0 and gam <= self.feedback.gam_min * (1 + _EDGE):
            return 0.0
        return abs(error) if math.isfinite(error) else math.inf

    def stuck(self, error: float, gam: float) -> bool:
        """Whether gam stands at the bound that the error pushes it against."""
        low, high = self.feedback.gam_min, self.feedback.gam_max
        at_bound = gam >= high * (1 - _EDGE) if error > 0 else gam <= low * (1 + _EDGE)
        return at_bound and self.miss(error, gam) > self.bound


class Stepped(NamedTuple):
    """Accepted points and how the path ended."""

    readings: Reading
    inner_steps: Array | list[int]
    state: PathState
    nearest: float
    status: str
    reason: str


def verdict(readings: Reading, limits: Limits) -> tuple[str, str]:
    """Status of a path whose every point counts, with the spans of t that missed C_0."""
    c, gam, t = (
        np.asarray(a) for a in (readings.held_out.classification, readings.gam, readings.t)
    )
    errors = np.log(c / c[0])
    rows = range(1, len(c))
    stuck = [k for k in rows if limits.stuck(float(errors[k]), float(gam[k]))]
    missed = [k for k in rows if limits.miss(float(errors[k]), float(gam[k])) > limits.bound]
    if stuck:
        return "infeasible", f"gam stands at a bound with C off at {_spans(t, stuck)}"
    if missed:
        return "reached", f"C is off by more than {limits.bound:.3g} at {_spans(t, missed)}"
    return "reached", ""


def _spans(t: np.ndarray, rows: list[int]) -> str:
    """Runs of neighbouring rows as spans of t."""
    breaks = [0, *(i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1), len(rows)]
    runs = [rows[a:b] for a, b in itertools.pairwise(breaks)]
    return ", ".join(
        f"t = {t[run[0]]:.4g}" + (f" to {t[run[-1]]:.4g}" if len(run) > 1 else "")
        for run in runs
    )


def _first_law(before: Reading, after: Reading) -> float:
    """Relative first-law residual of one step on the training data."""
    mean = lambda a, b: (float(a) + float(b)) / 2
    change = [float(b) - float(a) for a, b in zip(before.training, after.training, strict=True)]
    terms = [
        change[0],
        mean(before.lam, after.lam) * change[1],
        mean(before.gam, after.gam) * change[2],
        -mean(before.training_force, after.training_force) * float(after.t - before.t),
    ]
    size = sum(abs(term) for term in terms)
    return abs(sum(terms)) / size if size else 0.0


def step_through(
    plant: Plant,
    limits: Limits,
    control: StepControl,
    state: PathState,
    start: Reading,
    lam_of_t: Callable[[float], float],
    rounds: Schedule,
    key: Key,
    report: Callable[[int], None],
) -> Stepped:
    """Trials in t until 1 is reached, dt_min is refused, or `control.trials` are spent."""

    def at(t):
        return jnp.asarray(t, rounds.t.dtype), jnp.asarray(lam_of_t(t), rounds.t.dtype)

    per_round = rounds.ramp.shape[0] * plant.block_steps
    rows, steps = [start], [per_round]
    t, dt, spent, trials, miss = 0.0, control.dt_start, 0, 0, 0.0
    status, reason = "reached", ""
    while t < 1:
        if trials == control.trials:
            status, reason = "infeasible", f"{trials} trials were spent at t = {t:.4g}"
            break
        trials += 1
        # a last step shorter than dt_min would be refused for its length alone
        goal = 1.0 if t + dt > 1 - control.dt_min else t + dt
        trial, used, miss = _trial(
            plant,
            limits,
            state,
            jax.random.fold_in(key, trials),
            rounds,
            (at(t), at(goal)),
            control.corrections,
        )
        spent += used * per_round
        if miss <= limits.bound:
            point = _read(plant, state.params, trial, *at(goal))
            least = dt <= control.dt_min
            if least or _first_law(rows[-1], point) <= control.first_law:
                report(int(100 * goal) - int(100 * t))
                rows, steps = [*rows, point], [*steps, spent]
                t, state, spent = goal, trial, 0
                growth = 0.9 * math.sqrt(limits.bound / max(miss, 1e-12))
                dt = max(dt * min(max(growth, 0.5), 2.0), control.dt_min)
                continue
        if dt <= control.dt_min:
            gam = float(jnp.exp(trial.log_gam))
            status = "infeasible"
            reason = (
                f"no step from t = {t:.4g} to {goal:.4g} holds C: log(C / C_0) is "
                f"{float(trial.error):.3g} at gam = {gam:.4g}"
            )
            break
        dt = max(dt / 2, control.dt_min)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *rows)
    return Stepped(stacked, steps, state, miss, status, reason)


def _trial(
    plant: Plant,
    limits: Limits,
    state: PathState,
    key: Key,
    rounds: Schedule,
    span: tuple[tuple[Array, Array], tuple[Array, Array]],
    corrections: int,
) -> tuple[PathState, int, float]:
    """One move and up to `corrections` rounds: state, rounds used, distance from C_0."""
    (begin, end), miss, used = span, math.inf, 0
    for used in range(1, corrections + 1):
        fresh = jax.random.fold_in(key, used)
        state, _ = _turn(
            plant, limits.feedback, state, fresh, begin, end, rounds.ramp, rounds.rate
        )
        error, gam = float(state.error), float(jnp.exp(state.log_gam))
        miss, begin = limits.miss(error, gam), end
        if miss <= limits.bound or limits.stuck(error, gam):
            break
    return state, used, miss
