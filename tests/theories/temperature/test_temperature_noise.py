"""SGD's noise temperature and the stationarity identity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax import Flag
from thermojax.theories.temperature.noise import (
    fluctuation_dissipation,
    kick_temperature,
    sgd_noise_temperature,
)
from thermojax.theories.temperature.report import temperature_report

X = np.array([1.0, 2.0, -1.0])
Y = np.array([1.0, 1.0, 0.0])


def loss(w):
    return jnp.mean((w * X - Y) ** 2)


@functools.partial(jax.jit, static_argnames=("momentum", "walkers", "steps"))
def trained(key, step_size, momentum=0.0, walkers=20_000, steps=150):
    """Single-example SGD with replacement on a line: w, the estimates and the traces."""

    def step(carry, key):
        w, trace = carry
        row = jax.random.randint(key, (walkers,), 0, 3)
        x, y = jnp.asarray(X)[row], jnp.asarray(Y)[row]
        gradient = 2 * x * (w * x - y)
        trace = gradient + momentum * trace
        return (w - step_size * trace, trace), (w, gradient, trace)

    start = (jnp.full(walkers, 0.5), jnp.zeros(walkers))
    _, history = jax.lax.scan(step, start, jax.random.split(key, steps))
    return jax.tree.map(lambda x: x[-1], history)


def test_worked_example_of_stationary_sgd(x64):
    """Exact second moments, and the identity against them."""
    w, gradient, _ = trained(jax.random.key(0), 0.05)
    checks = (
        ((w - 0.5) ** 2, 1 / 204),
        (gradient**2, 40 / 51),
        (gradient**2 * 0.025, 1 / 51),
    )
    for values, exact in checks:
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(values.size)
    found = fluctuation_dissipation(loss, w, gradient, step_size=0.05, center=0.5)["all"]
    assert abs(found.value - 1) < 4 * found.stderr
    assert found.stderr < 0.02
    elsewhere = fluctuation_dissipation(loss, w, gradient, step_size=0.05, center=-1.0)
    assert abs(elsewhere["all"].value - 1) < 4 * elsewhere["all"].stderr
    kicks = kick_temperature(gradient, step_size=0.05)
    assert abs(kicks.total - 1 / 51) < 4 * kicks.stderr
    # a missing factor 2, and a transient, are seen
    wrong = fluctuation_dissipation(loss, w, gradient, step_size=0.1, center=0.5)["all"]
    assert abs(wrong.value - 1) > 10 * wrong.stderr
    early = trained(jax.random.key(0), 0.05, steps=4)
    moving = fluctuation_dissipation(loss, early[0], early[1], step_size=0.05, center=0.5)
    assert abs(moving["all"].value - 1) > 10 * moving["all"].stderr


def test_momentum_form(x64):
    w, _, trace = trained(jax.random.key(1), 0.01, momentum=0.7, steps=600)
    options = {"step_size": 0.01, "momentum": 0.7, "center": 0.5}
    found = fluctuation_dissipation(loss, w, trace, **options)["all"]
    assert abs(found.value - 1) < 4 * found.stderr
    forgotten = fluctuation_dissipation(loss, w, trace, **options | {"momentum": 0.0})["all"]
    assert abs(forgotten.value - 1) > 10 * forgotten.stderr


def test_prediction_from_the_covariance(x64):
    gradients = jnp.asarray(2 * X * (0.5 * X - Y))
    options = {"step_size": 0.05, "batch_size": 1}
    found = sgd_noise_temperature(gradients, **options)
    np.testing.assert_allclose(found.total, 1 / 60, rtol=1e-12)  # small-step form, example 13
    half = sgd_noise_temperature(gradients, **options, momentum=0.5)
    np.testing.assert_allclose(half.total, 1 / 30, rtol=1e-12)
    without = sgd_noise_temperature(gradients, step_size=0.05, batch_size=2, replacement=False)
    np.testing.assert_allclose(without.total, 0.5 * (3 - 2) / (3 - 1) / 60, rtol=1e-12)
    summed = sgd_noise_temperature(gradients, **options, reduction="sum")
    np.testing.assert_allclose(summed.total, 3 / 60, rtol=1e-12)
    assert sgd_noise_temperature(
        gradients, step_size=0.05, batch_size=3, replacement=False
    ).total == pytest.approx(0, abs=1e-15)


def test_blocks_of_the_prediction_add_up(x64):
    rng = np.random.default_rng(0)
    gradients = {"a": jnp.asarray(rng.normal(size=(50, 3))), "b": rng.normal(size=(50, 2, 2))}
    found = sgd_noise_temperature(gradients, step_size=0.1, batch_size=5)
    trace = sum(np.var(g, axis=0).sum() for g in gradients.values())
    np.testing.assert_allclose(found.total, 0.1 * trace / (2 * 5 * 7), rtol=1e-12)
    total = sum(found.weights[n] * found.blocks[n] for n in gradients)
    np.testing.assert_allclose(total, found.total, rtol=1e-12)
    np.testing.assert_allclose(found.weights["b"], 4 / 7)


def test_report_holds_the_rows_its_inputs_allow(x64):
    w, gradient, _ = trained(jax.random.key(0), 0.05, walkers=500)
    rows = temperature_report(
        loss,
        w,
        center=0.5,
        bath_temperature=0.02,
        per_example_grads=jnp.asarray(2 * X * (0.5 * X - Y)),
        minibatch_grads=gradient,
        step_size=0.05,
        batch_size=1,
        momenta=w,
    )
    names = {"flow", "virial", "kinetic", "bath", "sgd_noise", "fluctuation_dissipation"}
    assert set(rows) == names
    np.testing.assert_allclose(rows["sgd_noise"].total, 1 / 60)
    np.testing.assert_allclose(rows["kinetic"].total, jnp.mean(w**2))
    assert rows["bath"].total == 0.02
    assert not any(int(row.flags) for row in rows.values())
    with pytest.raises(ValueError, match="batch_size="):
        temperature_report(loss, w, per_example_grads=gradient, step_size=0.1)
    with pytest.raises(ValueError, match="step_size="):
        temperature_report(loss, w, minibatch_grads=gradient)


def test_mistakes_in_rates_are_named():
    with pytest.raises(ValueError, match="step_size=-1"):
        sgd_noise_temperature(jnp.ones(4), step_size=-1.0, batch_size=1)
    with pytest.raises(ValueError, match="momentum=1"):
        kick_temperature(jnp.ones(4), step_size=1.0, momentum=1.0)
    with pytest.raises(ValueError, match="batch_size=5"):
        sgd_noise_temperature(jnp.ones(4), step_size=1.0, batch_size=5, replacement=False)
    with pytest.raises(ValueError, match="reduction"):
        sgd_noise_temperature(jnp.ones(4), step_size=1.0, batch_size=1, reduction="max")
    with pytest.raises(ValueError, match="3 gradients for 4"):
        fluctuation_dissipation(jnp.sum, jnp.ones(4), jnp.ones(3), step_size=1.0)
    bad = kick_temperature(jnp.array([jnp.nan, 1.0]), step_size=1.0)
    assert bad.flags & Flag.NONFINITE
