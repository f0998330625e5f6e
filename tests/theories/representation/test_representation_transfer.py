"""Transfer under control: schedules, feedback, step control, verdicts, baselines."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thermojax.theories.representation.baselines import (
    accuracy,
    authors_rule,
    fine_tuning,
    from_scratch,
)
from thermojax.theories.representation.neural import expected_functionals
from thermojax.theories.representation.neural_process import (
    Feedback,
    Plant,
    controlled_path,
    train_block,
)
from thermojax.theories.representation.quantities import (
    Batch,
    Functionals,
    Model,
    Multipliers,
    Trajectory,
    objective,
)
from thermojax.theories.representation.schedules import make_schedule
from thermojax.theories.representation.stepping import Limits, StepControl
from thermojax.theories.representation.task_paths import mixture_path
from thermojax.theories.representation.transfer import (
    path_trajectory,
    transfer,
    transfer_summary,
)

GAM = 3.0


def _model():
    """Linear kernels on two latents."""

    def encode(params, x):
        mean = x @ params["encoder"]
        return mean, jnp.broadcast_to(params["log_var"], mean.shape)

    def log_decoder(params, x, z):
        return -0.5 * jnp.sum((x - z @ params["decoder"]) ** 2, axis=-1)

    def log_classifier(params, z):
        return jax.nn.log_softmax(z @ params["classifier"] + params["bias"])

    return Model(encode, log_decoder, log_classifier)


def _init(key):
    a, b, c = jax.random.split(key, 3)
    return {
        "encoder": 0.3 * jax.random.normal(a, (2, 2)),
        "log_var": jnp.zeros(2),
        "decoder": 0.3 * jax.random.normal(b, (2, 2)),
        "classifier": 0.3 * jax.random.normal(c, (2, 4)),
        "bias": jnp.zeros(4),
    }


def _sides(key):
    """Four clouds on a circle; the source is the first two classes, the target the others."""
    angle = jnp.pi / 2 * jnp.array([0.0, 2.0, 1.0, 3.0])
    centres = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    noise = 0.6 * jax.random.normal(key, (4, 30, 2))
    x = centres[:, None] + noise
    y = jnp.broadcast_to(jnp.arange(4)[:, None], (4, 30))
    return tuple(Batch(x[k : k + 2].reshape(-1, 2), y[k : k + 2].ravel()) for k in (0, 2))


def _plant(key, **options):
    path = mixture_path(*_sides(key))
    options = {"batch_size": 20, "block_steps": 10, "measure_samples": 4} | options
    return Plant(_model(), path, path, optax.adam(2e-2), **options)


SCHEDULE = make_schedule(8, num_blocks=30)


def _pretrained(plant, key):
    params = _init(key)
    opt_state = plant.optimizer.init(params)
    tau = Multipliers(jnp.asarray(0.3), jnp.asarray(GAM))
    longer = plant._replace(block_steps=600)
    return train_block(longer, params, opt_state, key, jnp.zeros(()), tau, 1.0)


@functools.cache
def _start():
    plant = _plant(jax.random.key(1))
    return plant, *jax.jit(lambda key: _pretrained(plant, key))(jax.random.key(2))


@functools.cache
def _compared():
    """Three seeds, gam fed back and fixed: axes feedback, seed."""
    plant, params, opt_state = _start()

    def run(gain, key):
        feedback = Feedback(0.2 * gain, gain)
        return controlled_path(
            plant, params, SCHEDULE, key, gam0=GAM, feedback=feedback, opt_state=opt_state
        )

    over_seeds = jax.vmap(run, in_axes=(None, 0))
    keys = jax.random.split(jax.random.key(0), 3)
    return jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(jnp.array([1.0, 0.0]), keys)


def _drift(run):
    c = run.readings.held_out.classification
    return c[..., 1:] / c[..., :1] - 1


def test_summary_of_worked_numbers():
    zero, c = jnp.zeros(4), jnp.array([0.5, 0.6, 0.45, 0.5])
    path = Trajectory(
        zero,
        Multipliers(zero, zero),
        Functionals(zero, zero, c),
        zero,
        dissipated_work=jnp.array([0.0, 1.0, 2.0, 0.5]),
        inner_steps=jnp.array([100, 10, 20, 30]),
    )
    summary = transfer_summary(path)
    np.testing.assert_allclose(summary.max_drift, 0.2, rtol=1e-6)
    np.testing.assert_allclose(summary.rms_drift, np.sqrt((0.04 + 0.01) / 3), rtol=1e-5)
    np.testing.assert_allclose(summary.max_violation, 0.2, rtol=1e-6)
    assert float(summary.dissipated_work) == 3.5
    assert int(summary.inner_steps) == 60


def test_arcsine_grid_has_constant_fisher_speed():
    schedule = make_schedule(7)
    angle = np.arcsin(np.sqrt(np.asarray(schedule.t, np.float64)))
    np.testing.assert_allclose(np.diff(angle), np.pi / 14, rtol=1e-3)


@pytest.mark.parametrize("grid", ["arcsine", "square", "uniform"])
def test_grids_run_from_source_to_target(grid):
    schedule = make_schedule(5, grid=grid, lam=0.1, lam_end=1.0, num_blocks=10)
    assert schedule.t[0] == 0
    np.testing.assert_allclose(schedule.t[-1], 1.0, rtol=1e-6)
    assert (jnp.diff(schedule.t) > 0).all()
    np.testing.assert_allclose(schedule.lam, 0.1 * 10 ** (np.arange(6) / 5), rtol=1e-5)
    np.testing.assert_allclose(schedule.ramp, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(schedule.rate[:6], 1.0)
    np.testing.assert_allclose(schedule.rate[-1], 0.05, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": "cubic"}, "cubic"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"ramp": 1.5}, "ramp=1.5"),
    ],
)
def test_schedule_refuses(options, words):
    with pytest.raises(ValueError, match=words):
        make_schedule(**options)


def test_feedback_holds_c_where_fixed_controls_lose_it():
    run = _compared()
    rms = jnp.sqrt(jnp.mean(_drift(run) ** 2, axis=-1))
    assert (rms[0] < 0.15).all(), rms
    assert (rms[1] > 8 * rms[0]).all(), rms
    assert (rms[1] > 1.5).all(), rms


def test_fixed_controls_stay_and_feedback_acts():
    gam = _compared().readings.gam
    np.testing.assert_allclose(gam[1], GAM, rtol=1e-5)
    assert (jnp.ptp(jnp.log(gam[0]), axis=-1) > 0.5).all()


def test_fed_back_gam_is_the_integral_of_the_recorded_errors():
    run = _compared()
    errors = jnp.clip(run.errors[0, 0].ravel(), -1, 1)
    change = 0.2 * jnp.sum(errors) + errors[-1]
    np.testing.assert_allclose(
        jnp.log(run.readings.gam[0, 0, -1] / GAM), change, rtol=1e-3, atol=1e-4
    )


def test_ledger_of_a_path():
    run = _compared()
    one = jax.tree.map(lambda a: a[0, 0], run)
    path = path_trajectory(one.readings, inner_steps=one.inner_steps)
    assert path.t.shape == (9,)
    work, residual = jnp.asarray(path.dissipated_work), jnp.asarray(path.first_law_residual)
    assert work[0] == 0
    assert residual[0] == 0
    assert ((residual >= 0) & (residual <= 1)).all()
    # relaxation lowers J: the sum over the path stands out of the noise of single steps
    assert work.sum() > 0
    np.testing.assert_array_equal(path.inner_steps, [300] * 9)
    np.testing.assert_allclose(path.classification[0], one.target)
    tau, f = path.multipliers, path.functionals
    free = f.rate + tau.lam * f.distortion + tau.gam * f.classification
    np.testing.assert_allclose(path.free_energy, free, rtol=1e-6)


def test_task_force_of_a_mixture_is_the_difference_of_objectives():
    reading = jax.tree.map(lambda a: a[0, 0], _compared().readings)
    state = jax.tree.map(lambda a: a[0, 0], _compared().state)
    plant = _plant(jax.random.key(1))
    tau = Multipliers(reading.lam[-1], reading.gam[-1])
    ends = []
    for t in (0.0, 1.0):
        key = jax.random.key(0)
        batch = plant.sampler(key, t, None)
        mean = expected_functionals(plant.model, state.params, batch, key, num_samples=4)
        ends.append(objective(mean, tau))
    np.testing.assert_allclose(reading.training_force[-1], ends[1] - ends[0], rtol=1e-4)


def test_a_seed_alone_is_the_seed_among_others():
    plant, params, opt_state = _start()
    key = jax.random.split(jax.random.key(0), 3)[1]
    alone = transfer(plant, params, key, gam0=GAM, opt_state=opt_state, schedule=SCHEDULE)
    alone = alone.trajectory
    among = jax.tree.map(lambda a: a[0, 1], _compared().readings)
    np.testing.assert_allclose(
        alone.classification[0], among.held_out.classification[0], rtol=1e-3
    )
    # rounding grows along a run of stochastic steps
    np.testing.assert_allclose(alone.gam, among.gam, rtol=0.05)


def test_stepped_transfer_reaches_the_target_within_tolerance():
    plant, params, opt_state = _start()
    seen = []
    done = transfer(
        plant,
        params,
        jax.random.key(3),
        gam0=GAM,
        opt_state=opt_state,
        num_blocks=10,
        tol=0.1,
        widen=False,
        step_control=StepControl(dt_start=0.05, dt_min=0.01),
        progress=lambda done, total: seen.append((done, total)),
    )
    path = done.trajectory
    steps = jnp.asarray(path.inner_steps)
    assert path.status == "reached"
    assert path.reason == ""
    assert path.t[-1] == 1
    assert (jnp.diff(path.t) > 0).all()
    error = jnp.abs(jnp.log(path.classification / done.target))
    assert (error <= 0.1 + 1e-4).all()
    assert seen[-1] == (100, 100)
    assert (steps % 100 == 0).all()
    assert (steps >= 100).all()
    assert path.t.shape == steps.shape
    assert done.summary.inner_steps == steps[1:].sum()


def test_out_of_reach_is_reported_with_its_place():
    plant, params, opt_state = _start()
    options: dict[str, Any] = {
        "gam0": GAM,
        "opt_state": opt_state,
        "num_blocks": 10,
        "tol": 0.1,
        "widen": False,
        "feedback": Feedback(gam_max=GAM),
    }
    done = transfer(
        plant,
        params,
        jax.random.key(3),
        step_control=StepControl(dt_start=0.2, dt_min=0.1),
        **options,
    )
    assert done.trajectory.status == "infeasible"
    assert "no step from t = " in done.trajectory.reason
    assert done.trajectory.t[-1] < 1
    assert done.nearest > 0.1
    run = transfer(plant, params, jax.random.key(3), schedule=SCHEDULE, **options)
    assert run.trajectory.status == "infeasible"
    assert "gam stands at a bound with C off at t = " in run.trajectory.reason
    assert run.trajectory.t.shape == (9,)


def test_trials_are_bounded():
    plant, params, opt_state = _start()
    done = transfer(
        plant,
        params,
        jax.random.key(3),
        gam0=GAM,
        opt_state=opt_state,
        num_blocks=10,
        tol=0.3,
        step_control=StepControl(dt_start=0.01, dt_min=0.01, trials=2),
    )
    assert done.trajectory.status == "infeasible"
    assert "2 trials" in done.trajectory.reason
    assert done.trajectory.t.shape[0] <= 3


def test_one_sided_and_stuck():
    limits = Limits(Feedback(gam_min=0.1, gam_max=10.0), 0.05, False)
    assert limits.miss(-0.5, 0.1) == 0.5
    assert limits._replace(one_sided=True).miss(-0.5, 0.1) == 0.0
    assert limits._replace(one_sided=True).miss(-0.5, 1.0) == 0.5
    assert limits.stuck(0.5, 10.0)
    assert not limits.stuck(0.5, 5.0)
    assert limits.stuck(-0.5, 0.1)
    assert not limits._replace(one_sided=True).stuck(-0.5, 0.1)
    assert limits.miss(float("nan"), 1.0) == float("inf")


def test_tolerance_is_widened_to_the_error_of_the_constraint():
    plant, params, opt_state = _start()
    done = transfer(
        plant, params, jax.random.key(3), gam0=GAM, opt_state=opt_state, schedule=SCHEDULE
    )
    path = done.trajectory
    stderr = jnp.asarray(path.stderr)
    np.testing.assert_allclose(
        done.tolerance,
        max(0.05, 3 * stderr[0] / path.classification[0]),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tol": 0.0}, "tol=0.0"),
        ({"gam0": -1.0}, "gam0=-1.0"),
        ({"step_control": StepControl(dt_start=1e-4)}, "dt_start=0.0001"),
    ],
)
def test_transfer_refuses(options, words):
    plant, params, _ = _start()
    with pytest.raises(ValueError, match=words):
        transfer(plant, params, jax.random.key(0), **({"gam0": GAM} | options))


@functools.cache
def _baselines():
    plant, params, opt_state = _start()
    options = {"gam0": GAM, "opt_state": opt_state}

    @jax.jit
    def run(key):
        rule = authors_rule(plant, params, SCHEDULE, key, lam_min=0.1, num_tries=2, **options)
        tuned = fine_tuning(plant, params, SCHEDULE, key, **options)
        scratch = from_scratch(plant, _init(key), SCHEDULE, key, gam0=GAM)
        target = _sides(jax.random.key(1))[1]
        scores = [
            accuracy(plant.model, p, target)
            for p in (params, *(r.state.params for r in (rule, tuned, scratch)))
        ]
        return rule, tuned, scratch, jnp.stack(scores)

    return run(jax.random.key(5))


def test_baselines_learn_the_target():
    *_, scores = _baselines()
    assert scores[0] < 0.2
    assert (scores[1:] > 0.9).all(), scores


def test_baselines_take_their_path():
    rule, tuned, scratch, _ = _baselines()
    np.testing.assert_allclose(rule.readings.t, SCHEDULE.t)
    np.testing.assert_array_equal(tuned.readings.t, [0] + [1] * 8)
    np.testing.assert_array_equal(scratch.readings.t, [1] * 9)
    for run in (tuned, scratch):
        np.testing.assert_allclose(run.readings.gam, GAM, rtol=1e-5)
    assert scratch.inner_steps.tolist() == [0] + [300] * 8


def test_authors_rule_moves_its_controls_only_above_the_constraint():
    rule = _baselines()[0]
    steps = np.asarray(rule.inner_steps[1:])
    assert set(steps) <= {0, 150, 300}
    assert (steps == 300).any()
    # the second try, and only that, adds 0.1 to gam
    np.testing.assert_allclose(
        np.diff(np.asarray(rule.readings.gam)), 0.1 * (steps == 300), atol=1e-4
    )
    lam = np.asarray(rule.readings.lam)
    expected = [lam[0]]
    for k, used in enumerate(steps):
        share = (expected[-1] - 0.1) / (len(steps) - k)
        expected.append(expected[-1] - share * (used == 300))
    np.testing.assert_allclose(lam, expected, rtol=1e-5)


def test_authors_rule_refuses_tries_that_do_not_divide():
    plant, params, _ = _start()
    with pytest.raises(ValueError, match="num_tries=4"):
        authors_rule(
            plant, params, SCHEDULE, jax.random.key(0), gam0=GAM, lam_min=0.1, num_tries=4
        )


def test_a_still_schedule_is_an_iso_classification_process():
    plant, params, opt_state = _start()
    schedule = make_schedule(8, grid="still", lam=0.3, lam_end=1.2, num_blocks=30)
    run = transfer(
        plant, params, jax.random.key(6), gam0=GAM, opt_state=opt_state, schedule=schedule
    ).trajectory
    assert (run.t == 0).all()
    assert transfer_summary(run).rms_drift < 0.3
    # D falls as lam rises at constant C, and R pays for it
    assert run.distortion[-1] < run.distortion[0]
    assert run.rate[-1] > run.rate[0]
