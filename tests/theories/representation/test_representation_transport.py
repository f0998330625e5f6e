"""Transport plans and the two paths between tasks."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax.theories.representation.quantities import Batch
from thermojax.theories.representation.task_paths import displacement_path, mixture_path
from thermojax.theories.representation.transport import Coupling, class_pairs, sinkhorn_coupling

SRC, TGT = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [2.0], [2.5]])


def test_plan_of_three_points(x64):
    plan = sinkhorn_coupling(SRC, TGT, epsilon=1.0, tol=1e-13)
    assert bool(plan.converged)
    assert float(plan.cost) == pytest.approx(0.846505696333, abs=1e-11)
    assert float(plan.objective) == pytest.approx(1.266624848398, abs=1e-11)
    expected = [
        [0.27723, 0.049012, 0.007092],
        [0.056044, 0.199009, 0.07828],
        [6e-5, 0.085313, 0.247961],
    ]
    np.testing.assert_allclose(plan.coupling, expected, atol=6e-7, rtol=0)
    overlap = jnp.sum(plan.coupling * jnp.log(9 * plan.coupling))
    assert float(plan.cost + overlap) == pytest.approx(float(plan.objective), abs=1e-11)


def test_small_epsilon_finds_the_exact_plan(x64):
    plan = sinkhorn_coupling(SRC, TGT, epsilon=0.1, tol=1e-7)
    assert float(plan.cost) == pytest.approx(0.5, abs=2e-3)
    np.testing.assert_allclose(plan.coupling, np.eye(3) / 3, atol=2e-3, rtol=0)
    to_itself = sinkhorn_coupling(SRC, SRC, epsilon=0.05)
    np.testing.assert_allclose(to_itself.coupling, np.eye(3) / 3, atol=1e-8, rtol=0)
    assert float(to_itself.cost) < 1e-7


def test_marginals_hold_and_so_under_jit(x64):
    x_src = jax.random.normal(jax.random.key(0), (8, 2, 3))
    x_tgt = 1.0 + jax.random.normal(jax.random.key(1), (5, 2, 3))
    plan = sinkhorn_coupling(x_src, x_tgt, epsilon=0.5)
    np.testing.assert_allclose(plan.coupling.sum(1), np.full(8, 1 / 8), atol=1e-4 / 8, rtol=0)
    np.testing.assert_allclose(plan.coupling.sum(0), np.full(5, 1 / 5), atol=1e-4 / 8, rtol=0)
    squares = np.sum((np.asarray(x_src)[:, None] - np.asarray(x_tgt)[None]) ** 2, axis=(2, 3))
    assert float(plan.cost) == pytest.approx(float(np.sum(squares * plan.coupling)), rel=1e-12)
    compiled = jax.jit(lambda a, b, e: sinkhorn_coupling(a, b, epsilon=e))(x_src, x_tgt, 0.5)
    np.testing.assert_allclose(compiled.coupling, plan.coupling, atol=1e-12, rtol=0)
    best_of_uniform = float(np.mean(squares))
    assert float(plan.objective) < best_of_uniform  # a b^T has no divergence


def test_single_precision_converges():
    plan = sinkhorn_coupling(SRC.astype("float32"), TGT.astype("float32"), epsilon=1.0)
    assert plan.coupling.dtype == jnp.float32
    assert bool(plan.converged)
    assert float(plan.cost) == pytest.approx(0.846505696333, abs=1e-4)


def test_too_few_iterations_are_reported(x64):
    assert not bool(sinkhorn_coupling(SRC, TGT, epsilon=0.01, tol=1e-12, max_iter=20).converged)


def test_a_class_map_forbids_pairs(x64):
    y_src, y_tgt = jnp.array([0, 1, 1]), jnp.array([1, 0, 1])
    allowed = class_pairs(y_src, y_tgt, jnp.eye(2))
    plan = sinkhorn_coupling(SRC, TGT, epsilon=1.0, allowed=allowed)
    assert bool(plan.converged)
    assert not np.any(np.asarray(plan.coupling)[~np.asarray(allowed)])
    assert float(plan.coupling[0, 1]) == pytest.approx(1 / 3, abs=1e-9)
    rest = sinkhorn_coupling(SRC[1:], TGT[::2], epsilon=1.0)
    pairs = np.asarray(plan.coupling)[1:, ::2]
    np.testing.assert_allclose(pairs, np.asarray(rest.coupling) * 2 / 3, atol=1e-8, rtol=0)


def test_a_class_map_without_a_plan_does_not_converge(x64):
    allowed = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]])  # two sources share one target
    plan = sinkhorn_coupling(SRC, TGT, epsilon=1.0, allowed=allowed)
    assert not bool(plan.converged)
    side = Batch(SRC, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="coupling sums to"):
        displacement_path(side, side, plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"x_tgt": np.ones((3, 2))}, "of one"),
        ({"allowed": np.ones((2, 3))}, "per pair"),
        ({"allowed": np.diag([1, 1, 0])}, "1 source and 1 target"),
    ],
)
def test_couplings_refuse(change, message):
    given = {"x_src": SRC, "x_tgt": TGT, "epsilon": 1.0} | change
    with pytest.raises(ValueError, match=message):
        sinkhorn_coupling(given.pop("x_src"), given.pop("x_tgt"), **given)
    with pytest.raises(ValueError, match="class_map knows"):
        class_pairs([0, 2], [0, 1], np.eye(2))
    with pytest.raises(ValueError, match="whole numbers"):
        class_pairs([0.5, 1.0], [0, 1], np.eye(2))
    with pytest.raises(ValueError, match="class_map has shape"):
        class_pairs([0, 1], [0, 1], np.ones(2))


def _sides():
    key = jax.random.key(3)
    x = jax.random.normal(key, (2, 6, 2))
    y = jnp.array([[0, 1, 2, 0, 1, 2], [2, 2, 1, 0, 1, 0]])
    return Batch(x[0], y[0]), Batch(1.0 + x[1], y[1])


def _losses(batch, num_classes=3):
    """A per-example loss, affine in the label weights and curved in x."""
    y = batch.y
    weights = jax.nn.one_hot(y, num_classes, dtype=batch.x.dtype) if y.ndim == 1 else y
    scores = jnp.sin(batch.x @ jnp.array([[1.0, 2.0, -1.0], [0.5, -1.0, 1.0]]))
    return jnp.sum(weights * (2.0 + scores), axis=1) + jnp.sum(batch.x**2, axis=1)


def _loss(batch):
    losses = _losses(batch)
    return jnp.mean(losses) if batch.weight is None else jnp.sum(batch.weight * losses)


def test_mixture_reproduces_both_ends_and_is_affine(x64):
    source, target = _sides()
    sampler = mixture_path(source, target)
    j_src, j_tgt = float(_loss(source)), float(_loss(target))

    def loss(t):
        return _loss(sampler(None, t))

    assert float(loss(0.0)) == pytest.approx(j_src, rel=1e-14)
    assert float(loss(1.0)) == pytest.approx(j_tgt, rel=1e-14)
    value, force = jax.jvp(loss, (0.3,), (1.0,))
    assert float(value) == pytest.approx(0.7 * j_src + 0.3 * j_tgt, rel=1e-14)
    assert float(force) == pytest.approx(j_tgt - j_src, rel=1e-13)
    everyone = sampler(jax.random.key(0), 0.0, 6)  # nobody is drawn twice
    assert float(_loss(everyone)) == pytest.approx(j_src, rel=1e-14)


def test_mixture_draws_each_side_in_full(x64):
    source, target = _sides()
    sampler = jax.jit(mixture_path(source, target), static_argnums=2)
    batch = sampler(jax.random.key(1), 0.25, 4)
    assert batch.x.shape == (8, 2)
    assert batch.y.shape == (8,)
    np.testing.assert_allclose(batch.weight, [0.75 / 4] * 4 + [0.25 / 4] * 4)
    known = {tuple(row) for row in np.asarray(source.x).tolist()}
    assert all(tuple(row) in known for row in np.asarray(batch.x[:4]).tolist())
    again = sampler(jax.random.key(1), 0.25, 4)
    np.testing.assert_array_equal(batch.x, again.x)


def test_mixture_follows_weights_and_soft_labels(x64):
    source, target = _sides()
    weight = jnp.array([0.5, 0.3, 0.2, 0.0, 0.0, 0.0])
    soft = jax.nn.one_hot(target.y, 3)
    sampler = mixture_path(source._replace(weight=weight), target._replace(y=soft))
    whole = sampler(None, 0.0)
    assert float(_loss(whole)) == pytest.approx(float(weight @ _losses(source)), rel=1e-14)
    assert whole.y.shape == (12, 3)
    drawn = sampler(jax.random.key(0), 0.0, 4000)
    losses = np.asarray(_losses(drawn))[:4000]
    exact = float(weight @ _losses(source))
    assert abs(losses.mean() - exact) < 4 * losses.std() / np.sqrt(4000)
    plain = float(jnp.mean(_losses(source)))
    assert abs(plain - exact) > 10 * losses.std() / np.sqrt(4000)


def test_displacement_reproduces_both_ends(x64):
    source, target = _sides()
    plan = sinkhorn_coupling(source.x, target.x, epsilon=1.0, tol=1e-12)
    sampler = displacement_path(source, target, plan)
    assert float(_loss(sampler(None, 0.0))) == pytest.approx(float(_loss(source)), rel=1e-11)
    assert float(_loss(sampler(None, 1.0))) == pytest.approx(float(_loss(target)), rel=1e-11)
    everyone = sampler(jax.random.key(0), 0.0, 6)
    assert float(_loss(everyone)) == pytest.approx(float(_loss(source)), rel=1e-12)
    assert everyone.weight.shape == (6,)


def test_displacement_force_has_motion_and_labels(x64):
    source, target = _sides()
    plan = sinkhorn_coupling(source.x, target.x, epsilon=1.0)
    sampler = displacement_path(source, target, plan)

    def loss(t):
        return _loss(sampler(None, t))

    _, force = jax.jvp(loss, (0.4,), (1.0,))
    step = 1e-5
    slope = (float(loss(0.4 + step)) - float(loss(0.4 - step))) / (2 * step)
    assert float(force) == pytest.approx(slope, abs=1e-8)
    i, j = 2, 3
    x = 0.6 * source.x[i] + 0.4 * target.x[j]
    batch = sampler(None, 0.4)
    np.testing.assert_allclose(batch.x[6 * i + j], x, rtol=1e-14)
    labels = np.zeros(3)
    labels[int(source.y[i])] += 0.6
    labels[int(target.y[j])] += 0.4
    np.testing.assert_allclose(batch.y[6 * i + j], labels, rtol=1e-14)
    assert float(batch.weight[6 * i + j]) == float(plan.coupling[i, j])


def test_displacement_draws_pairs_by_the_plan(x64):
    source, target = _sides()
    plan = np.outer([0.4, 0.2, 0.1, 0.1, 0.1, 0.1], [0.1, 0.3, 0.1, 0.2, 0.2, 0.1])
    sampler = jax.jit(displacement_path(source, target, plan), static_argnums=2)
    batch = sampler(jax.random.key(5), 0.5, 20_000)
    np.testing.assert_allclose(batch.weight, 1 / 20_000)
    middle = 0.5 * np.asarray(source.x)[:, None] + 0.5 * np.asarray(target.x)[None]
    gaps = np.abs(np.asarray(batch.x)[:, None] - middle.reshape(1, 36, 2)).sum(-1)
    counts = np.bincount(gaps.argmin(1), minlength=36)
    z = (counts - 20_000 * plan.ravel()) / np.sqrt(20_000 * plan.ravel())
    assert np.sum(z**2) < 35 + 5 * np.sqrt(70)


def test_label_widths_follow_the_argument():
    source, target = _sides()
    plan = jnp.full((6, 6), 1 / 36)
    batch = displacement_path(source, target, plan, num_classes=5)(jax.random.key(0), 0.5, 2)
    assert batch.y.shape == (2, 5)
    assert batch.x.dtype == jnp.float32
    assert batch.y.dtype == jnp.float32


def test_single_precision_data_stay_so(x64):
    source, target = (side._replace(x=side.x.astype("float32")) for side in _sides())
    plan = jnp.full((6, 6), 1 / 36, "float32")
    paths = mixture_path(source, target), displacement_path(source, target, plan)
    for sampler in paths:
        for size in (2, None):
            batch = sampler(jax.random.key(0), 0.5, size)
            assert {batch.x.dtype, batch.weight.dtype} == {jnp.dtype("float32")}
    assert batch.y.dtype == jnp.float32


def test_paths_refuse():
    source, target = _sides()
    plan = jnp.full((6, 6), 1 / 36)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="label for each example"):
        mixture_path(source._replace(y=source.y[:3]), target)
    with pytest.raises(ValueError, match="weights of source sum to 6"):
        mixture_path(source._replace(weight=jnp.ones(6)), target)
    with pytest.raises(ValueError, match="give one shape"):
        mixture_path(source._replace(x=jnp.ones((6, 3))), target)
    with pytest.raises(ValueError, match=r"runs from 0 to 1"):
        mixture_path(source, target)(key, 1.5, 2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        mixture_path(source, target)(key, 0.5, 0)
    with pytest.raises(ValueError, match="key is None"):
        mixture_path(source, target)(None, 0.5, 2)
    with pytest.raises(ValueError, match="coupling has shape"):
        displacement_path(source, target, plan[:3])
    with pytest.raises(ValueError, match="coupling sums to 36"):
        displacement_path(source, target, 36 * plan)
    with pytest.raises(ValueError, match="ambiguous"):
        displacement_path(source._replace(weight=jnp.full(6, 1 / 6)), target, plan)
    with pytest.raises(ValueError, match="labels run to 2"):
        displacement_path(source, target, plan, num_classes=2)
    with pytest.raises(ValueError, match="one number of classes"):
        displacement_path(source._replace(y=jnp.ones((6, 4)) / 4), target, plan, num_classes=3)


def test_a_coupling_is_taken_as_it_is():
    source, target = _sides()
    plan = jnp.full((6, 6), 1 / 36)
    whole = Coupling(plan, jnp.array(0.0), jnp.array(0.0), jnp.array(True))
    one, other = (
        displacement_path(source, target, given)(jax.random.key(0), 0.5, 3)
        for given in (plan, whole)
    )
    np.testing.assert_array_equal(one.x, other.x)


def test_import_leaves_heavy_libraries_alone():
    code = (
        "import sys, thermojax.theories.representation.task_paths, "
        "thermojax.theories.representation.task_process as _;"
        "print([name for name in ('ott', 'jaxopt', 'diffrax', 'optax') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "[]"
