"""Heat and entropy along training, by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax import Flag
from thermojax.theories.temperature.path import path_transition
from thermojax.theories.temperature.report import temperature_report

STIFF = jnp.array([[2.0, 1.0], [1.0, 1.5]])
CROSS = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # <theta theta^T> = 1


def bowl(theta):
    x = jnp.stack([theta["0"], theta["1"]])
    return 0.5 * x @ STIFF.astype(x.dtype) @ x


def ensemble():
    return {"0": CROSS[:, 0].astype(float), "1": CROSS[:, 1].astype(float)}


def test_one_dimension_by_hand(x64):
    _, _, whole = path_transition(
        lambda x: x**2, jnp.array([-1.0, 1.0]), step_size=0.1, num_steps=10, method="dense"
    )
    np.testing.assert_allclose(whole[:3], (0.9884707850, 2.2314355131, 0.4429752862), rtol=1e-9)
    assert not whole.flags


def test_worked_example_with_two_blocks(x64):
    final, each, whole = path_transition(
        bowl, ensemble(), step_size=0.2, num_steps=5, method="dense"
    )
    expected = {
        "0": (0.97092387, 2.81731088, 0.34462788),
        "1": (0.70256804, 2.02060925, 0.34770109),
    }
    for name, numbers in expected.items():
        np.testing.assert_allclose(each[name][:3], numbers, atol=6e-9)
    np.testing.assert_allclose(whole.temperature, 0.3459114394, atol=1e-10)
    # quadratic: the heats are the whole energy change; the map is linear
    start, end = (jnp.mean(jax.vmap(bowl)(e)) for e in (ensemble(), final))
    np.testing.assert_allclose(whole.delta_energy, start - end, rtol=1e-12)
    step = np.eye(2) - 0.2 * np.asarray(STIFF, np.float64)
    log_volume = -5 * np.linalg.slogdet(step)[1]
    np.testing.assert_allclose(whole.delta_entropy, log_volume, rtol=1e-12)
    rows = temperature_report(bowl, ensemble(), transition=(each, whole))
    assert rows["transition"].total == whole.temperature
    total = sum(rows["transition"].weights[n] * rows["transition"].blocks[n] for n in each)
    np.testing.assert_allclose(total, whole.temperature, rtol=1e-12)
    # at the start: worked example 8's differential temperatures
    np.testing.assert_allclose(rows["flow"].total, 2.3571428571, atol=1e-10)
    np.testing.assert_allclose(
        [rows["flow"].blocks[n] for n in each], (2.5, 2.1666666667), atol=1e-10
    )
    np.testing.assert_allclose(rows["virial"].total, 1.75, rtol=1e-12)
    np.testing.assert_allclose([rows["virial"].blocks[n] for n in each], (2, 1.5), rtol=1e-12)


def network(theta):
    x = jnp.linspace(-2, 2, 7)
    hidden = jnp.tanh(jnp.outer(x, theta["in"]))
    return jnp.mean((hidden @ theta["out"] - jnp.sin(x)) ** 2)


def weights(count=6):
    rng = np.random.default_rng(0)
    return {"in": jnp.asarray(rng.normal(size=(count, 3))), "out": rng.normal(size=(count, 3))}


def test_layer_heats_add_up_and_their_defect_is_of_second_order(x64):
    start = jnp.mean(jax.vmap(network)(weights()))
    defects = []
    for steps in (20, 40, 80):
        final, each, whole = path_transition(
            network, weights(), step_size=1.0 / steps, num_steps=steps, method="dense"
        )
        drop = start - jnp.mean(jax.vmap(network)(final))
        np.testing.assert_allclose(
            sum(t.delta_energy for t in each.values()), whole.delta_energy, rtol=1e-12
        )
        defects.append(float(whole.delta_energy - drop))
        assert abs(defects[-1]) < 0.01 * drop
        assert not whole.flags
    ratios = np.array(defects[:-1]) / defects[1:]
    np.testing.assert_allclose(ratios, 4.0, rtol=0.25)


def test_series_of_the_logarithm_converges_to_the_dense_entropy(x64):
    options = {"step_size": 0.05, "num_steps": 20}
    dense = path_transition(network, weights(), **options, method="dense")[2]
    errors = []
    for order in (1, 2):
        found = path_transition(
            network,
            weights(),
            **options,
            order=order,
            probes=64,
            key=jax.random.key(0),
            batch_size=3,
        )[2]
        np.testing.assert_allclose(found.delta_energy, dense.delta_energy, rtol=1e-12)
        errors.append(abs(float(found.delta_entropy - dense.delta_entropy)))
    assert errors[0] > 3 * errors[1]
    assert errors[1] < 0.05 * dense.delta_entropy


def test_a_coarse_path_says_so():
    """Steps that jump over the curvature, and a map that folds the ensemble over."""
    steep = lambda x: jnp.log(jnp.cosh(6 * x))
    start = jnp.linspace(-1.0, 1.0, 8)
    coarse = path_transition(steep, start, step_size=0.15, num_steps=4, method="dense")[2]
    assert coarse.flags & Flag.TOO_COARSE
    fine = path_transition(steep, start, step_size=0.002, num_steps=300, method="dense")[2]
    assert not fine.flags
    folded = path_transition(lambda x: x**2, start, step_size=0.55, num_steps=3, method="dense")
    assert folded[2].flags & Flag.TOO_COARSE


def test_mistakes_in_paths_are_named():
    run = lambda **kw: path_transition(
        bowl, ensemble(), **{"step_size": 0.1, "num_steps": 2} | kw
    )
    with pytest.raises(ValueError, match="give key="):
        run()
    with pytest.raises(ValueError, match="unknown"):
        run(method="lanczos")
    with pytest.raises(ValueError, match="num_steps=0"):
        run(num_steps=0, method="dense")
    with pytest.raises(ValueError, match=r"step_size=-0\.1"):
        run(step_size=-0.1, method="dense")
