"""Every bath: traced once, no key used twice, dtypes kept, real networks, cold limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import thermojax as tj
from tests.scores import ULPS, ulp

BATCH = 4
KERNELS = {
    "em": lambda s: tj.overdamped(s, "em"),
    "lm": lambda s: tj.overdamped(s, "lm"),
    "mala": tj.mala,
    "hmc": tj.hmc,
    "ghmc": tj.ghmc,
    "BAOAB": lambda s: tj.langevin(s, "BAOAB"),
    "OBABO": lambda s: tj.langevin(s, "OBABO"),
    "BAOAB minibatch": lambda s: tj.langevin(s, gradient=tj.minibatch(BATCH)),
    "sgld": lambda s: tj.sgld(s, tj.minibatch(BATCH)),
    "sgld epoch": lambda s: tj.sgld(s, tj.minibatch(BATCH, shuffle="epoch")),
    "sgld svrg": lambda s: tj.sgld(s, tj.svrg(BATCH, refresh=3)),
    "sgld bath": lambda s: tj.sgld(s, tj.minibatch(BATCH), bookkeeping="bath"),
    "psgld": lambda s: tj.psgld(s, tj.minibatch(BATCH), step_size=1e-3),
    "psgld running": lambda s: tj.psgld(s, tj.minibatch(BATCH), adapt="running"),
    "sghmc": lambda s: tj.sghmc(s, tj.minibatch(BATCH)),
    "adaptive": lambda s: tj.adaptive_langevin(s, tj.minibatch(BATCH)),
    "nose-hoover": tj.nose_hoover_langevin,
    "nose-hoover chain": tj.nose_hoover_chain,
    "driven sgd": lambda s: tj.driven(optax.sgd(1e-2), s, tj.minibatch(BATCH)),
    "driven adam": lambda s: tj.driven(optax.adam(1e-3), s, tj.minibatch(BATCH)),
    "random walk": tj.random_walk,
}
DETERMINISTIC = ("nose-hoover chain",)
SIZES = ("BAOAB", "sgld epoch", "adaptive", "driven adam", "random walk")
RAW = {
    "x": np.random.default_rng(0).normal(size=(12, 3)),
    "y": np.random.default_rng(1).normal(size=12),
}


def network(dtype=jnp.float32, on_trace=lambda: None):
    """A real flax model on twelve examples, in any dtype."""
    module = linen.Sequential(
        [linen.Dense(4, param_dtype=dtype), jnp.tanh, linen.Dense(1, param_dtype=dtype)]
    )

    def loss(output, target):
        on_trace()
        return 0.5 * (output[0] - target) ** 2

    data = (jnp.asarray(RAW["x"], dtype), jnp.asarray(RAW["y"], dtype))
    return tj.from_flax(module, loss, data, prior=tj.gaussian_prior(1.0))


POINT = tj.Point(1.3)


def ensemble(kernel, size=4):
    return tj.init_ensemble(kernel, jax.random.key(0), POINT, size, 2)


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", KERNELS)
def test_a_run_on_a_network(name):
    """Finite, all parameters move, first law; no bit depends on chunks, nor on the size."""
    kernel = KERNELS[name](network())
    start = ensemble(kernel)
    go = lambda st, key=3, chunk=100: tj.run(
        kernel, jax.random.key(key), st, POINT, 6, ledger="full", chunk=chunk
    )
    st, out = go(start)
    assert not np.any(out["flags"] & np.uint32(tj.Flag.NONFINITE))
    for x, y in zip(leaves(st.position), leaves(start.position), strict=True):
        assert np.all(np.isfinite(x))
        assert x.dtype == np.float32
        assert np.any(x != y)
    change = np.asarray(st.walkers.totals[0], float) - np.asarray(start.walkers.totals[0])
    lack = change - (np.asarray(out["ledger"].work, float) + out["ledger"].heat)
    top = max(np.abs(x).max() for x in (*start.walkers.totals, *st.walkers.totals))
    assert np.abs(lack).max() <= ULPS * ulp(top)
    cut, _ = go(start, chunk=2)
    other, _ = go(start, key=4)
    for x, y in zip(*(leaves(s.walkers) for s in (st, cut)), strict=True):
        np.testing.assert_array_equal(x, y)
    if name in SIZES:
        wide, _ = go(ensemble(kernel, 8))
        for x, y in zip(*(leaves(s.walkers) for s in (st, wide)), strict=True):
            np.testing.assert_array_equal(x, y[:4])
    if name not in DETERMINISTIC:
        pairs = zip(leaves(st.position), leaves(other.position), strict=True)
        assert all(np.any(x != y) for x, y in pairs)


def theta(dtype=jnp.float32):
    draw = network(dtype).sample_base(jax.random.key(5))
    return jax.tree.map(lambda x: x.astype(dtype), draw)


@pytest.mark.parametrize("name", KERNELS)
def test_one_trace_serves_every_number(name):
    """jit of scan of vmap over temperatures, traced once, and no key used twice."""
    kernel, betas, traces = KERNELS[name](network()), jnp.array([0.5, 1.0, 2.0]), []

    @jax.jit
    def walk(key, states, betas, params):
        traces.append(1)

        def body(states, key):
            step = lambda s, b: kernel.step(key, s, tj.Point(b), params)
            return jax.vmap(step)(states, betas)

        return jax.lax.scan(body, states, jax.random.split(key, 3))

    start = lambda b: kernel.init(theta(), tj.Point(b), jax.random.key(1))
    states = jax.jit(jax.vmap(start))(betas)
    with jax.debug_key_reuse(True):
        for scale in (1.0, 0.5):
            params = jax.tree.map(lambda p, f=scale: jnp.asarray(p * f, p.dtype), kernel.params)
            ends, _ = walk(jax.random.key(7), states, betas * scale, params)
    assert len(traces) == 1
    assert all(np.all(np.isfinite(x)) for x in leaves(ends.position))


@pytest.mark.parametrize("name", KERNELS)
def test_double_precision_is_kept(name, x64):
    kernel, point = KERNELS[name](network(jnp.float64)), tj.Point(jnp.float64(1.3))
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: kernel.init(theta(jnp.float64), point, key))
    after, info = jax.eval_shape(lambda s: kernel.step(key, s, point, kernel.params), state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert old.dtype == new.dtype
        assert new.dtype not in (np.float32, np.float16)
    assert info.ledger.heat.dtype == np.float64


COLD = {
    "em", "lm", "mala", "sgld", "sgld svrg", "sghmc", "BAOAB", "OBABO", "BAOAB minibatch",
    "adaptive", "random walk",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COLD))
def test_cold_baths_descend(name):
    """T -> 0 at a fixed physical step: no noise is left, the energy only falls."""
    rows = jnp.asarray(RAW["x"], jnp.float32)
    sys = tj.finite_sum(lambda x, c, e: 0.5 * jnp.sum((x - e) ** 2), rows, like=jnp.zeros(3))
    beta = 1e8
    kernel = KERNELS[name](sys)
    step, timed = 0.02 / beta, name in ("BAOAB", "OBABO", "BAOAB minibatch", "adaptive")
    params = kernel.params._replace(step_size=jnp.float32(step))
    if timed:  # physical step .02 and friction 1
        params = params._replace(step_size=jnp.float32(0.02 / beta**0.5), friction=beta**0.5)
    if name == "random walk":
        params = params._replace(step_size=jnp.float32(0.05))
    point = tj.Point(jnp.float32(beta))
    st = tj.init_ensemble(kernel, jax.random.key(0), point, 4, positions=jnp.full((4, 3), 3.0))
    st, out = tj.run(kernel, jax.random.key(1), st, point, 600, params=params)
    assert not np.any(out["flags"] & np.uint32(tj.Flag.NONFINITE))
    least = np.full(3, np.asarray(rows).mean(0))
    noisy = "minibatch" in name or name in ("sgld", "sghmc", "adaptive", "random walk")
    tolerance = 0.9 if noisy else 0.05
    assert np.abs(np.asarray(st.position) - least).max() < tolerance


def test_blown_up_walkers_are_alone():
    """EM on a quartic: NONFINITE for those, the others bitwise unchanged."""
    sys = tj.system(lambda x: jnp.sum(x**4 / 4 + x**2 / 2), like=jnp.zeros(2))
    kernel, point = tj.overdamped(sys, "em", step_size=0.25), tj.Point(1.0)
    x = jnp.ones((64, 2)).at[7].set(40.0)
    tame = jnp.ones((64, 2))
    ends = []
    for positions in (x, tame):
        st = tj.init_ensemble(kernel, jax.random.key(0), point, 64, 32, positions=positions)
        ends.append(tj.run(kernel, jax.random.key(1), st, point, 3))
    (wild, out), (calm, quiet) = ends
    others = np.arange(64) != 7
    assert out["flags"][7] & np.uint32(tj.Flag.NONFINITE)
    assert not np.any(out["flags"][others])
    assert not np.any(quiet["flags"])
    np.testing.assert_array_equal(
        np.asarray(wild.position)[others], np.asarray(calm.position)[others]
    )
    assert "metropolised" in tj.explain(out["flags"])[0]
