"""Transfer of a representation from task to task at constant classification loss.

    t: 0 -> 1,    lam = lam(t),    gam such that C(t, lam, gam) = C_0

A predictor-corrector in gam whose corrector is the feedback of `neural_process`, with
accept/reject control of the step in t; or a prescribed schedule. No loop is unbounded: where
C_0 is out of reach the path ends, or goes on, with status "infeasible" and says where.

Source: the process, Gao & Chaudhari 2020; step control, schedule and feasibility status, our
definition, following the paper's programme.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.progress import reporter
from thermojax.theories.representation.ledger import with_ledger
from thermojax.theories.representation.neural_process import (
    Feedback,
    Plant,
    Reading,
    controlled_path,
    first_point,
)
from thermojax.theories.representation.quantities import Multipliers, Trajectory, objective
from thermojax.theories.representation.schedules import Schedule, make_schedule
from thermojax.theories.representation.stepping import (
    Limits,
    StepControl,
    Stepped,
    step_through,
    verdict,
)
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "StepControl",
    "Transfer",
    "TransferSummary",
    "path_trajectory",
    "transfer",
    "transfer_summary",
]


# a plant is hashable: one compilation for all transfers of it
_follow = jax.jit(controlled_path, static_argnames=("plant", "settle"))
_begin = jax.jit(first_point, static_argnames=("plant", "settle"))


class TransferSummary(NamedTuple):
    """How well C was held, and at what price.

    Attributes:
        max_drift: largest |C/C_0 - 1| over the points after the start.
        rms_drift: its root mean square.
        max_violation: largest positive part of C/C_0 - 1.
        dissipated_work: sum of Wd, nats per example; nan if not measured.
        inner_steps: gradient steps, the start's not counted; 0 if not counted.
    """

    max_drift: Array
    rms_drift: Array
    max_violation: Array
    dissipated_work: Array
    inner_steps: Array


class Transfer(NamedTuple):
    """A finished transfer.

    Attributes:
        trajectory: accepted points; see `path_trajectory` for its columns.
        summary: of the trajectory.
        params: at the end.
        opt_state: at the end.
        target: C_0, nats per example.
        tolerance: of |log(C / C_0)|, as it was applied.
        nearest: |log(C / C_0)| of the last trial, accepted or not.
    """

    trajectory: Trajectory
    summary: TransferSummary
    params: PyTree
    opt_state: PyTree
    target: Array
    tolerance: float
    nearest: float


def transfer_summary(trajectory: Trajectory) -> TransferSummary:
    """Drift of C, violation, dissipated work and gradient steps of a path.

        drift_k = C_k / C_0 - 1,   k = 1 .. n

    Args:
        trajectory: a path whose C was to be held.

    Returns:
        `TransferSummary` of scalars.

    Source:
        Our definition, following the paper's programme.

    Example:
        >>> from thermojax.theories.representation.quantities import Functionals
        >>> zero, c = jnp.zeros(3), jnp.array([0.5, 0.6, 0.45])
        >>> path = Trajectory(zero, Multipliers(zero, zero), Functionals(zero, zero, c), zero)
        >>> summary = transfer_summary(path)
        >>> round(float(summary.max_violation), 4), round(float(summary.rms_drift), 4)
        (0.2, 0.1581)
    """
    c = jnp.asarray(trajectory.classification)
    drift = c[1:] / c[0] - 1
    work, steps = trajectory.dissipated_work, trajectory.inner_steps
    return TransferSummary(
        max_drift=jnp.max(jnp.abs(drift), initial=0.0),
        rms_drift=jnp.sqrt(jnp.sum(drift**2) / max(drift.shape[0], 1)),
        max_violation=jnp.max(drift, initial=0.0),
        dissipated_work=jnp.asarray(jnp.nan if work is None else jnp.sum(jnp.asarray(work))),
        inner_steps=jnp.asarray(0 if steps is None else jnp.sum(jnp.asarray(steps)[1:])),
    )


def path_trajectory(
    readings: Reading,
    *,
    status: str = "reached",
    reason: str = "",
    inner_steps: ArrayLike | list[int] | None = None,
) -> Trajectory:
    """Columns of a path of one seed.

    R, D, C, F and the task's force are those of held-out data, where C is held; dissipated
    work, first-law residual and gradient norm those of the training data, where J is
    minimised. The first law holds between the columns of one set of data alone.

    Args:
        readings: `Reading` of [n + 1].
        status: how the path ended.
        reason: one sentence about the end.
        inner_steps: [n + 1] gradient steps of each point.

    Source:
        Our definition, following the paper's programme.
    """
    tau = Multipliers(readings.lam, readings.gam)

    def path(values, force):
        free = objective(values, tau)
        return Trajectory(readings.t, tau, values, free, task_force=force)

    ledger = with_ledger(path(readings.training, readings.training_force))
    return path(readings.held_out, readings.held_out_force)._replace(
        dissipated_work=readings.dissipated_work,
        first_law_residual=ledger.first_law_residual,
        stderr=readings.stderr,
        grad_norm=readings.grad_norm,
        inner_steps=None if inner_steps is None else jnp.asarray(inner_steps),
        status=status,
        reason=reason,
    )


def transfer(
    plant: Plant,
    params: PyTree,
    key: Key,
    *,
    gam0: ArrayLike,
    lam_of_t: Callable[[float], float] | float = 0.3,
    schedule: Schedule | None = None,
    feedback: Feedback | None = None,
    step_control: StepControl | None = None,
    opt_state: PyTree = None,
    num_blocks: int = 30,
    tol: float = 0.05,
    widen: bool = True,
    one_sided: bool = False,
    progress: bool | Callable[[int, int], None] = False,
) -> Transfer:
    """Carry a model from source (t = 0) to target (t = 1) at constant held-out C.

    With `schedule` the grid of t and the number of gradient steps are prescribed, nothing is
    rejected, and the run is one compiled scan; `controlled_path` is the same as a pure
    function, to be vmapped over seeds. Without, a host loop: a trial step in t is a ramp of
    blocks with gam fed back, then further blocks until |log(C / C_0)| <= tol; it is accepted,
    and the next one lengthened by 0.9 sqrt(tol / error) within [1/2, 2], or undone and halved.

    Args:
        plant: model, data, optimiser and sizes.
        params: equilibrated at t = 0.
        key: typed key.
        gam0: multiplier of C at the start.
        lam_of_t: multiplier of D as a function of t, or a constant; a schedule has its own.
        schedule: prescribed grids, as from `make_schedule`.
        feedback: the controller and the bounds of gam.
        step_control: step sizes; not used with a schedule.
        opt_state: state of the optimiser at `params`.
        num_blocks: blocks of a round; a schedule has its own.
        tol: tolerance of |log(C / C_0)|.
        widen: raise it to three standard errors of C_0 over the held-out examples; False for
            a held-out set that is taken as it is.
        one_sided: C < C_0 is good where gam has reached gam_min.
        progress: as in `thermojax.progress`; hundredths of t, host loop only.

    Returns:
        A `Transfer`. Its status is "reached", or "infeasible" where gam stands at a bound
        with C off by more than the tolerance, or no step of dt_min was accepted; the reason
        says at which t. A scheduled run goes on to t = 1, a stepped one stops there.

    Raises:
        ValueError: gam0 or a tolerance that is not positive, step sizes out of order.

    Source:
        Gao & Chaudhari 2020; step control and status, our definition, following the paper's
        programme.
    """
    feedback = Feedback() if feedback is None else feedback
    control = StepControl() if step_control is None else step_control
    if not np.all(np.asarray(gam0) > 0):
        raise ValueError(f"gam0={gam0} must be positive: its logarithm is controlled")
    if not tol > 0:
        raise ValueError(f"tol={tol} must be positive")
    if not 0 < control.dt_min <= control.dt_start <= 1:
        raise ValueError(
            f"dt_min={control.dt_min} and dt_start={control.dt_start} must be ordered in (0, 1]"
        )
    start = {"gam0": gam0, "opt_state": opt_state}
    if schedule is not None:
        run = _follow(plant, params, schedule, key, feedback=feedback, **start)
        bound = _tolerance(run.target, run.readings.stderr[0], tol, widen)
        status, reason = verdict(run.readings, Limits(feedback, bound, one_sided))
        nearest = abs(float(run.errors[-1, -1]))
        done = Stepped(run.readings, run.inner_steps, run.state, nearest, status, reason)
        return _finished(done, bound)
    lam = _as_function(lam_of_t)
    # only ramp, rate and the origin are read of it
    rounds = make_schedule(1, lam=lam(0.0), num_blocks=num_blocks)
    state, first = _begin(plant, params, rounds, key, **start)
    bound = _tolerance(first.held_out.classification, first.stderr, tol, widen)
    limits = Limits(feedback, bound, one_sided)
    with reporter(progress, 100, "transfer") as report:
        done = step_through(plant, limits, control, state, first, lam, rounds, key, report)
    return _finished(done, bound)


def _as_function(lam_of_t: Callable[[float], float] | float) -> Callable[[float], float]:
    if isinstance(lam_of_t, Callable):
        return lam_of_t
    constant = float(lam_of_t)
    return lambda t: constant


def _tolerance(target: Array, stderr: Array, tol: float, widen: bool) -> float:
    return max(tol, 3 * float(stderr) / float(target)) if widen else tol


def _finished(done: Stepped, bound: float) -> Transfer:
    path = path_trajectory(
        done.readings, status=done.status, reason=done.reason, inner_steps=done.inner_steps
    )
    params, opt_state = done.state.params, done.state.opt_state
    target = done.readings.held_out.classification[0]
    summary = transfer_summary(path)
    return Transfer(path, summary, params, opt_state, target, bound, done.nearest)
