"""Warm-up: the target acceptance, the scales, and what must not disturb them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax.adaptation import spread_of

SDS = np.array([0.1, 1.0, 3.0, 10.0])
POINT = tj.Point(1.0)


def gaussian():
    return tj.system(lambda x: 0.5 * jnp.sum((x / SDS) ** 2), reference=None, like=jnp.zeros(4))


def ensemble(kernel, size=256, seed=0):
    """Exact draws of the target."""
    positions = jnp.asarray(SDS) * jax.random.normal(jax.random.key(seed), (size, 4))
    return tj.init_ensemble(kernel, jax.random.key(seed), POINT, size, positions=positions)


KERNELS = {
    "mala": (tj.mala, 0.574),
    "mala, step far too small": (lambda sys: tj.mala(sys, step_size=1e-3), 0.574),
    "mala, step far too large": (lambda sys: tj.mala(sys, step_size=300.0), 0.574),
    "hmc": (lambda sys: tj.hmc(sys, n_inner=4), 0.75),
    "hmc, step too small": (lambda sys: tj.hmc(sys, step_size=1e-2, n_inner=4), 0.75),
}


@pytest.mark.parametrize("name", KERNELS)
def test_reaches_its_target_and_the_scales(name):
    build, target = KERNELS[name]
    kernel = build(gaussian())
    assert kernel.meta.target_acceptance == target
    st, adapted = tj.adapt(kernel, jax.random.key(1), ensemble(kernel), POINT, 500)
    # the scale is the ensemble's own spread, 256 walkers: sd / sqrt(2 n)
    check(adapted.params.scale, SDS, SDS / np.sqrt(2 * 256))
    caught(1.5 * adapted.params.scale, SDS, SDS / np.sqrt(2 * 256))
    _, out = tj.run(kernel, jax.random.key(2), st, POINT, 200, params=adapted.params)
    assert abs(float(jnp.mean(out["acceptance"])) - target) < 0.05
    assert adapted.acceptance.shape == adapted.step_size.shape == (25,)
    assert abs(float(jnp.mean(adapted.acceptance[-8:])) - target) < 0.1


def test_another_target_gives_another_step():
    kernel = tj.mala(gaussian())
    st = ensemble(kernel)
    steps = [
        float(tj.adapt(kernel, jax.random.key(1), st, POINT, 250, target=a)[1].params.step_size)
        for a in (0.4, 0.9)
    ]
    assert steps[0] > 1.5 * steps[1]


def test_the_result_is_frozen():
    """What a run gets are numbers: more steps do not change them, same key same bits."""
    kernel = tj.mala(gaussian())
    st = ensemble(kernel)
    moved, first = tj.adapt(kernel, jax.random.key(1), st, POINT, 100)
    _, second = tj.adapt(kernel, jax.random.key(1), st, POINT, 100)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(moved.step) == 100
    _, fixed = tj.adapt(kernel, jax.random.key(1), st, POINT, 100, scale=False)
    np.testing.assert_array_equal(fixed.params.scale, kernel.params.scale)


def test_lost_walkers_poison_nothing():
    kernel = tj.mala(gaussian())
    clean = ensemble(kernel)
    lost = clean.position.at[3].set(jnp.nan).at[7, 1].set(jnp.inf)
    poisoned = tj.init_ensemble(kernel, jax.random.key(0), POINT, 256, positions=lost)
    st, adapted = tj.adapt(kernel, jax.random.key(1), poisoned, POINT, 250)
    numbers = adapted._replace(params=adapted.params._replace(friction=0.0))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(numbers))
    check(adapted.params.scale, SDS, SDS / np.sqrt(2 * 254))
    healthy = np.delete(np.asarray(st.position), [3, 7], axis=0)
    assert np.all(np.isfinite(healthy))
    assert abs(float(np.mean(adapted.acceptance[-8:])) - 0.574) < 0.1


def test_spread(x64):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(50, 3)) * [1.0, 2.0, 4.0], "b": rng.normal(size=50) + 1e3}
    found = spread_of(jax.tree.map(jnp.asarray, x))
    np.testing.assert_allclose(found["a"], x["a"].std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["b"], x["b"].std(), rtol=1e-9)
    x["a"][0, 0] = np.nan
    found = spread_of(jax.tree.map(jnp.asarray, x))
    np.testing.assert_allclose(found["b"], x["b"][1:].std(), rtol=1e-9)


def test_spread_is_clipped_about_the_geometric_mean():
    x = jnp.stack([jnp.zeros(10), jnp.arange(10.0), 2 * jnp.arange(10.0)], axis=1)
    found = spread_of(x)
    middle = float(np.sqrt(found[1] * found[2]))
    assert found[0] == pytest.approx(1e-3 * middle, rel=1e-5)
    assert np.all(spread_of(jnp.zeros((10, 2))) > 0)


def test_progress_and_refusals():
    kernel = tj.mala(gaussian())
    st = ensemble(kernel)
    seen = []
    tj.adapt(
        kernel, jax.random.key(0), st, POINT, 50, rounds=5, progress=lambda *a: seen.append(a)
    )
    assert seen == [(10 * k, 50) for k in range(1, 6)]
    with pytest.raises(ValueError, match=r"target=1\.5"):
        tj.adapt(kernel, jax.random.key(0), st, POINT, 50, target=1.5)
    with pytest.raises(ValueError, match="n_steps=10 must be at least rounds=25"):
        tj.adapt(kernel, jax.random.key(0), st, POINT, 10)


def test_baths_without_acceptance_are_refused():
    sys = tj.finite_sum(lambda x, c, y: (x - y) ** 2, jnp.arange(4.0), like=0.0)
    point = tj.Point(1.0)
    for kernel in (tj.sgld(sys, tj.minibatch(2)), tj.driven(optax.sgd(0.1), sys)):
        st = tj.init_ensemble(kernel, jax.random.key(0), point, 4, positions=jnp.zeros(4))
        with pytest.raises(ValueError, match="has no acceptance to adapt"):
            tj.adapt(kernel, jax.random.key(0), st, point)
