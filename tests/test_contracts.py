"""Every kernel keeps the same contract: one registry, every promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from thermojax.dynamics.kernel import Info, Ledger

LIKE = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
POINT = tj.Point(0.7, jnp.asarray(1.3))

KERNELS = {
    "em": lambda sys: tj.overdamped(sys, "em", step_size=0.05),
    "lm": lambda sys: tj.overdamped(sys, "lm", step_size=0.05),
    "mala": tj.mala,
    "hmc": tj.hmc,
    "ghmc": tj.ghmc,
    "BAOAB": lambda sys: tj.langevin(sys, "BAOAB"),
    "OBABO": lambda sys: tj.langevin(sys, "OBABO"),
    "ABOBA": lambda sys: tj.langevin(sys, "ABOBA"),
    "OABAO": lambda sys: tj.langevin(sys, "OABAO"),
    "BAOAB metropolised": lambda sys: tj.langevin(sys, "BAOAB", True),
    "OBABO x 3": lambda sys: tj.langevin(sys, "OBABO", n_inner=3),
}


def energy(theta, control):
    return control * jnp.sum(theta["a"] ** 2) + jnp.sum(jnp.cos(theta["b"])) + 2.0


def build(dtype=jnp.float32):
    like = jax.tree.map(lambda x: x.astype(dtype), LIKE)
    return tj.system(energy, prior=tj.gaussian_prior(1.5), like=like)


@pytest.fixture(params=KERNELS, ids=list(KERNELS))
def make(request):
    return KERNELS[request.param]


def test_step_under_jit_vmap_and_scan_with_one_trace(make):
    kernel = make(build())

    def step(key, state):
        return kernel.step(key, state, POINT, kernel.params)

    traces = []

    def counted(key, state):
        traces.append(1)
        return step(key, state)

    keys = jax.random.split(jax.random.key(0), 5)
    states = jax.vmap(lambda k: kernel.init(kernel.sample(k, POINT), POINT, k))(keys)

    @jax.jit
    def run(states):
        body = lambda s, i: jax.vmap(counted)(
            jax.vmap(lambda k: jax.random.fold_in(k, i))(keys), s
        )
        return jax.lax.scan(body, states, jnp.arange(4))

    end, info = run(states)
    run(end)
    assert len(traces) == 1
    assert isinstance(info, Info)
    assert isinstance(info.ledger, Ledger)
    assert info.acceptance.shape == (4, 5)
    assert np.all((info.acceptance >= 0) & (info.acceptance <= 1))
    assert jax.tree.structure(end) == jax.tree.structure(states)
    assert np.all(np.isfinite(end.energy))
    alone, _ = jax.jit(step)(
        jax.random.fold_in(keys[0], 0), jax.tree.map(lambda x: x[0], states)
    )
    first, _ = jax.vmap(lambda k, s: step(jax.random.fold_in(k, 0), s))(keys, states)
    for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(first), strict=True):
        np.testing.assert_allclose(x, y[0], rtol=1e-5, atol=1e-6)


def test_dtype_is_kept(make, x64):
    for dtype in (jnp.float32, jnp.float64):
        kernel = make(build(dtype))
        point = tj.Point(jnp.asarray(0.7, dtype), jnp.asarray(1.3, dtype))
        state = kernel.init(kernel.sample(jax.random.key(0), point), point, jax.random.key(1))
        new, info = kernel.step(jax.random.key(2), state, point, kernel.params)
        leaves = jax.tree.leaves((new, info.ledger, info.acceptance))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_no_key_is_used_twice(make):
    kernel = make(build())
    state = kernel.init(LIKE, POINT)
    with jax.debug_key_reuse(True):
        jax.jit(kernel.step)(jax.random.key(0), state, POINT, kernel.params)


def test_beta_zero_samples_the_prior(make):
    kernel = make(build())
    point = tj.Point(0.0, POINT.control)
    state = kernel.init(kernel.sample(jax.random.key(0), point), point, jax.random.key(1))
    new, info = kernel.step(jax.random.key(2), state, point, kernel.params)
    assert np.all([np.all(np.isfinite(x)) for x in jax.tree.leaves((new, info))])


def test_drive_after_a_control_move_equals_a_fresh_start(make):
    kernel = make(build())
    state = kernel.init(kernel.sample(jax.random.key(0), POINT), POINT, jax.random.key(1))
    point = tj.Point(0.9, jnp.asarray(0.2))
    moved, ledger = kernel.drive(state, point)
    fresh = kernel.init(state.position, point, jax.random.key(1))
    fresh = fresh._replace(midpoint=moved.midpoint)
    for x, y in zip(jax.tree.leaves(moved), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose(ledger.work, moved.energy - state.energy, rtol=1e-6)
    protocol = tj.reduced(build(), state.position, point) - tj.reduced(
        build(), state.position, POINT
    )
    np.testing.assert_allclose(ledger.protocol, protocol, rtol=1e-4, atol=1e-5)


def test_moving_beta_alone_does_no_work(make):
    sys = tj.system(lambda x: jnp.sum(x["a"] ** 2), prior=tj.gaussian_prior(1.0), like=LIKE)
    kernel = make(sys)
    point = tj.Point(0.5)
    state = kernel.init(kernel.sample(jax.random.key(0), point), point, jax.random.key(1))
    _, ledger = kernel.drive(state, tj.Point(0.8))
    assert float(ledger.work) == 0.0
    np.testing.assert_allclose(ledger.protocol, 0.3 * state.energy, rtol=1e-5)


def test_wrong_shape_names_the_leaf(make):
    kernel = make(build())
    with pytest.raises(tj.ShapeError, match=r"leaf \['b'\] has shape \(2, 3\)"):
        kernel.init({"a": jnp.zeros(3), "b": jnp.zeros((2, 3))}, POINT)
    with pytest.raises(tj.ShapeError, match="structure"):
        kernel.init({"a": jnp.zeros(3)}, POINT)


def test_metropolised_words_are_exact_by_their_own_account(make):
    kernel = make(build())
    state = kernel.init(LIKE, POINT, jax.random.key(1))
    _, info = kernel.step(jax.random.key(2), state, POINT, kernel.params)
    assert kernel.meta.exact == (float(info.ledger.shadow) == 0.0)
    assert kernel.meta.momentum == bool(jax.tree.leaves(state.momentum))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: tj.langevin(s, "BAB"), "BAB"),
        (lambda s: tj.langevin(s, "BAXOB"), "BAXOB"),
        (lambda s: tj.langevin(s, "OAO"), "OAO"),
        (lambda s: tj.overdamped(s, "heun"), "heun"),
        (lambda s: tj.hmc(s, n_inner=0), "n_inner=0"),
        (lambda s: tj.hmc(s, jitter=1.5), "jitter=1.5"),
    ],
)
def test_unusable_words_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(build())


def test_a_word_that_cannot_be_tested_is_refused():
    with pytest.raises(tj.NotReversibleError, match="BAOA"):
        tj.langevin(build(), "BAOA", True)


def test_wrong_scale_structure_is_refused():
    kernel = tj.mala(build(), scale={"a": 1.0, "c": 1.0})
    state = kernel.init(LIKE, POINT)
    with pytest.raises(tj.ShapeError, match="scale"):
        kernel.step(jax.random.key(0), state, POINT, kernel.params)
