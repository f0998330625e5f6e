"""What every bath promises, whatever it does: one registry, one list of promises."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import ULPS, ulp

REGISTRY = {
    "em": lambda s: tj.overdamped(s, "em"),
    "lm": lambda s: tj.overdamped(s, "lm"),
    "mala": tj.mala,
    "hmc": lambda s: tj.hmc(s, n_inner=3),
    "ghmc": tj.ghmc,
    "BAOAB": lambda s: tj.langevin(s, "BAOAB"),
    "OBABO": lambda s: tj.langevin(s, "OBABO"),
    "ABOBA": lambda s: tj.langevin(s, "ABOBA"),
    "OABAO": lambda s: tj.langevin(s, "OABAO"),
    "BAOAB metropolised": lambda s: tj.langevin(s, "BAOAB", metropolize=True),
}
every_kernel = pytest.mark.parametrize("name", REGISTRY)
CALLS = []


def energy(theta, control, data):
    CALLS.append(1)  # once per trace
    return control * jnp.sum((data @ theta["w"]) ** 2) + jnp.sum(jnp.cos(theta["b"]))


def like(dtype=jnp.float32):
    return {"w": jnp.zeros((3, 2), dtype), "b": jnp.zeros(4, dtype)}


def system(dtype=jnp.float32, seed=0):
    data = jnp.asarray(np.random.default_rng(seed).normal(size=(5, 3)), dtype)
    return tj.system(energy, prior=tj.gaussian_prior(1.0), like=like(dtype), data=data)


def point(beta=1.0, dtype=jnp.float32):
    return tj.Point(jnp.asarray(beta, dtype), jnp.asarray(0.5, dtype))


def thetas(n, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=(n, *leaf.shape)), dtype), like(dtype)
    )


@functools.partial(jax.jit, static_argnames=("n", "steps"))
def walk(kernel, key, at, start, params, *, n, steps):
    """`steps` cycles of `n` walkers: init, drive and step under jit, vmap and scan."""

    def one(key, theta):
        first, rest = jax.random.split(key)
        state = kernel.init(theta, at, first)

        def body(state, key):
            state, work = kernel.drive(state, at)
            state, info = kernel.step(key, state, at, params)
            return state, (work, info)

        return jax.lax.scan(body, state, jax.random.split(rest, steps))

    return jax.vmap(one)(jax.random.split(key, n), start)


def go(name, dtype=jnp.float32, beta=1.0):
    kernel = REGISTRY[name](system(dtype))
    at, start = point(beta, dtype), thetas(4, dtype)
    return kernel, walk(kernel, jax.random.key(0), at, start, kernel.params, n=4, steps=5)


def keeps(dtype, kernel, result):
    state, (work, info) = result
    chex.assert_trees_all_equal_shapes_and_dtypes(state.position, thetas(4, dtype))
    for leaf in jax.tree.leaves((state, work, info.ledger, info.acceptance)):
        assert leaf.dtype == dtype
        assert np.all(np.isfinite(leaf))
    assert info.flags.dtype == jnp.uint32
    assert info.accepted.dtype == bool
    assert info.acceptance.shape == (4, 5)
    assert not np.any(info.flags)
    assert np.all((info.acceptance >= 0) & (info.acceptance <= 1))
    # the energy is evaluated again in a kernel compiled apart: no work, to rounding
    np.testing.assert_allclose(work.work, 0.0, atol=ULPS * ulp(state.energy, dtype))
    assert not jax.tree.leaves(kernel.meta)  # static


@every_kernel
def test_double_precision_is_kept_and_no_key_is_used_twice(name, x64):
    with jax.debug_key_reuse(True):
        kernel, result = go(name, jnp.float64)
    keeps(jnp.float64, kernel, result)


@every_kernel
def test_one_trace_serves_all_numbers(name):
    """Data, beta, control, key and parameters are traced: new values, no new trace."""
    walk.clear_cache()
    CALLS.clear()
    kernel, first = go(name)
    assert 1 <= len(CALLS) <= 6  # of any number of walkers and steps
    CALLS.clear()
    keeps(jnp.float32, kernel, first)
    _, again = go(name)
    chex.assert_trees_all_equal(first, again)
    # beta = 0 samples the prior; nothing divides by it
    keeps(jnp.float32, kernel, go(name, beta=0.0)[1])
    for seed in (1, 2):
        other = REGISTRY[name](system(seed=seed))
        params = kernel.params._replace(step_size=jnp.asarray(0.01 * seed))
        new = walk(other, jax.random.key(seed), point(0.1), thetas(4), params, n=4, steps=5)[0]
        assert np.all(np.any(new.position["b"] != first[0].position["b"], axis=1))
    assert not CALLS


def test_a_run_retraces_neither_for_data_nor_for_length():
    st = {}
    for seed in (0, 1):
        kernel = tj.mala(system(seed=seed))
        st[seed] = tj.init_ensemble(kernel, jax.random.key(0), point(), size=8, tile=4)
    CALLS.clear()
    kernel = tj.mala(system(seed=0))
    tj.run(kernel, jax.random.key(1), st[0], point(), 30, accumulate={"U": tj.moments()})
    assert 1 <= len(CALLS) <= 4
    CALLS.clear()
    other = tj.mala(system(seed=1), step_size=0.03)
    for kernel, n_steps, chunk in ((other, 30, 1000), (other, 77, 7)):
        tj.run(
            kernel,
            jax.random.key(2),
            st[1],
            point(0.3),
            n_steps,
            chunk=chunk,
            accumulate={"U": tj.moments()},
        )
    assert not CALLS


@every_kernel
def test_parameters_of_the_wrong_shape_are_refused_by_name(name):
    kernel = REGISTRY[name](system())
    wrong = like() | {"w": jnp.zeros((2, 3))}
    with pytest.raises(tj.ShapeError, match=r"leaf \['w'\] has shape \(2, 3\), expected"):
        kernel.init(wrong, point())
    with pytest.raises(tj.ShapeError, match="structure"):
        kernel.init({"w": jnp.zeros((3, 2))}, point())


@pytest.mark.parametrize("name", ["em", "mala", "hmc", "BAOAB"])
def test_the_step_is_differentiable(name):
    """A response to the energy scale, reparametrised through the noise."""
    kernel = REGISTRY[name](system())
    start = jax.tree.map(lambda leaf: leaf[0], thetas(1))

    def end(lam):
        at = tj.Point(jnp.float32(1.0), lam)
        state = kernel.init(start, at, jax.random.key(1))
        state, _ = kernel.step(jax.random.key(0), state, at, kernel.params)
        return jnp.sum(state.position["w"] ** 2) + state.energy

    grad = jax.jit(jax.grad(end))(jnp.float32(0.5))
    assert np.isfinite(grad)
    assert float(grad) != 0.0


def test_scale_is_a_preconditioner_in_the_shape_of_theta():
    """A pytree of scales equals a change of variables theta = scale * z."""
    scale = {"w": jnp.float32(0.5), "b": jnp.float32(2.0)}
    at, start = point(), jax.tree.map(lambda leaf: leaf[0], thetas(1))

    def whitened(z, control, data):
        return energy(jax.tree.map(jnp.multiply, z, scale), control, data)

    prior = {"w": 1.0, "b": 1.0}
    white = {k: prior[k] / float(scale[k]) for k in scale}
    base = system()
    other = tj.system(whitened, prior=tj.gaussian_prior(white), like=like(), data=base.data)
    for factory in (tj.mala, tj.langevin):
        one, two = factory(base, scale=scale), factory(other)
        a = one.init(start, at, jax.random.key(1))
        b = two.init(jax.tree.map(jnp.divide, start, scale), at, jax.random.key(1))
        for i in range(3):
            a, _ = one.step(jax.random.key(i), a, at, one.params)
            b, _ = two.step(jax.random.key(i), b, at, two.params)
        back = jax.tree.map(jnp.multiply, b.position, scale)
        chex.assert_trees_all_close(a.position, back, rtol=1e-4, atol=1e-5)
    bad = tj.mala(base, scale={"w": 1.0, "c": 1.0})
    state = bad.init(start, at)
    with pytest.raises(tj.ShapeError, match="scale has structure"):
        bad.step(jax.random.key(0), state, at, bad.params)


@pytest.mark.parametrize("word", ["BAOA", "OBA", "ABO", "BABOA"])
def test_irreversible_words_cannot_be_tested(word):
    with pytest.raises(tj.NotReversibleError, match=f"splitting='{word}'"):
        tj.langevin(system(), word, metropolize=True)
    assert not tj.langevin(system(), word).meta.reversible


@pytest.mark.parametrize("word", ["", "AB", "BAXAB", "OOO", "AOA", "OAO", "baoab"])
def test_words_that_are_no_words_are_named(word):
    with pytest.raises(ValueError, match=f"splitting='{word}'"):
        tj.langevin(system(), word)


def test_settings_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="scheme='heun'"):
        tj.overdamped(system(), "heun")
    with pytest.raises(ValueError, match="n_inner=0"):
        tj.hmc(system(), n_inner=0)
    with pytest.raises(ValueError, match="jitter=1"):
        tj.hmc(system(), jitter=1.0)
    with pytest.raises(ValueError, match=r"jitter=-0\.1"):
        tj.ghmc(system(), jitter=-0.1)
