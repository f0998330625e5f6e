"""Flips of binary states: exact law over all states, ledger, work, and their errors."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import ULPS, caught, check, ulp
from thermojax import exact
from thermojax.dynamics import flips

WALKERS = 200_000
FACTORIES = {"gibbs": tj.gibbs_flip, "metropolis": tj.metropolis_flip}
by_structure = pytest.mark.parametrize("blocks", [False, True], ids=["sites", "blocks"])
every_kernel = pytest.mark.parametrize("name", FACTORIES)
COUPLINGS = np.array(
    [[0.0, 1.1, 0.0, -0.7], [1.1, 0, 0.4, 0], [0, 0.4, 0, 0.9], [-0.7, 0, 0.9, 0]]
)
TILT = jnp.array([0.5, -0.3, 0.0, 0.2])


def ring_energy(s, field):
    """Four sites in a ring, unequal bonds, in a field: multilinear, two colours."""
    pairs = 0.5 * jnp.sum(s * (jnp.asarray(COUPLINGS, s.dtype) @ s))
    return -pairs - field * (s[0] - 0.5 * s[1] + s[3])


def tilted(s, control):
    """A base measure that prefers some states: differences of log m must enter."""
    return jnp.sum(TILT.astype(s.dtype) * s)


@functools.cache  # one system, one compilation
def ring(values=(-1, 1)):
    counting = tj.counting_prior(jnp.zeros(4), values)
    measure = tj.prior(
        lambda s, control, params: tilted(s, control),
        counting.sample_fn,
        like=jnp.zeros(4),
        log_mass=None,
        values=values,
    )
    return tj.system(ring_energy, prior=measure)


RING_BLOCKS = tuple(np.array(b) for b in ([True, False] * 2, [False, True] * 2))


def states(values, n=4):
    return np.array(list(itertools.product(values, repeat=n)), np.float32)


def weights(values, beta, field):
    s = states(values)
    u = jax.vmap(lambda x: beta * ring_energy(x, field) - tilted(x, ()))(s)
    return np.exp(-np.asarray(u, np.float64))


def occupation(x, values):
    """[n] index of each state in the order of `states`."""
    bits = (np.asarray(x) == values[1]).astype(int)
    return bits @ (2 ** np.arange(bits.shape[1])[::-1])


@jax.jit
def evolve(kernel, key, start, point, n_steps):
    """Walkers after some steps, their flags, and the largest heat any of them took."""

    def one(key, theta):
        def body(i, carry):
            state, flags, heat = carry
            state, info = kernel.step(jax.random.fold_in(key, i), state, point, kernel.params)
            return state, flags | info.flags, jnp.maximum(heat, info.ledger.heat)

        state = kernel.init(theta, point)
        none = (jnp.zeros((), jnp.uint32), jnp.full_like(state.energy, -jnp.inf))
        return jax.lax.fori_loop(0, n_steps, body, (state, *none))

    return jax.vmap(one)(jax.random.split(key, start.shape[0]), start)


def at(beta, field):
    return tj.Point(jnp.float32(beta), jnp.float32(field))


def make(name, blocks, values=(-1, 1), **options):
    """By sites, by the colours of the ring, or by masks as given."""
    if isinstance(blocks, bool):
        blocks = RING_BLOCKS if blocks else None
    return FACTORIES[name](ring(values), blocks=blocks, **options)


def law_score(kernel, values, beta, field, step_beta=None, n_steps=8):
    """Mean and error of the occupation of all 16 states after some steps from one state."""
    start = jnp.full((WALKERS, 4), values[0], jnp.float32)
    here = at(beta if step_beta is None else step_beta, field)
    state, flags, _ = evolve(kernel, jax.random.key(1), start, here, n_steps)
    assert set(np.unique(state.position)) <= set(values)
    seen = np.bincount(occupation(state.position, values), minlength=16) / WALKERS
    p = weights(values, beta, field)
    p /= p.sum()
    return (seen, p, np.sqrt(p * (1 - p) / WALKERS)), np.bitwise_or.reduce(flags)


@by_structure
@pytest.mark.parametrize("values", [(0, 1), (-1, 1)], ids=str)
@every_kernel
def test_every_state_has_its_weight(name, values, blocks):
    kernel = make(name, blocks, values)
    beta, field = 0.8, 0.6
    score, flags = law_score(kernel, values, beta, field)
    assert flags == 0
    check(*score)
    caught(*law_score(kernel, values, beta, field, step_beta=beta / 1.05)[0])
    # at infinite temperature the base measure, which is tilted here
    check(*law_score(kernel, values, 0.0, field)[0])


@by_structure
@every_kernel
def test_zero_temperature_only_descends(name, blocks):
    start = jnp.asarray(np.tile(states((-1, 1)), (100, 1)))
    s = states((-1, 1))
    u = np.asarray(jax.vmap(ring_energy, (0, None))(s, 0.6))
    flip = np.array([[u[k ^ (1 << i)] for i in range(4)] for k in range(16)])
    minima = set(np.flatnonzero(np.all(flip > u[:, None] - 1e-6, axis=1)))
    assert len(minima) < 5
    for beta in (1e4, 1e30):
        kernel = make(name, blocks)
        end, flags, heat = evolve(kernel, jax.random.key(0), start, at(beta, 0.6), 40)
        assert not np.any(flags)
        assert np.all(np.asarray(heat) <= 1e-6)
        assert set(occupation(end.position, (-1, 1))) <= minima


def test_planted_bugs_in_the_blocks_are_caught(monkeypatch):
    kernel, values = make("gibbs", True, scan="systematic"), (-1, 1)
    check(*law_score(kernel, values, 0.8, 0.6)[0])
    # a dropped block: its sites never move
    args = list(kernel.step.args)
    args[2] = args[2].at[1].set(False)
    dropped = kernel._replace(step=jax.tree_util.Partial(kernel.step.func, *args))
    caught(*law_score(dropped, values, 0.8, 0.6)[0])
    # the factor of two between a derivative and a flip of +-1
    slope = flips.reduced_grad
    monkeypatch.setattr(flips, "reduced_grad", lambda at, beta: 0.5 * slope(at, beta))
    evolve.clear_cache()
    score, flags = law_score(kernel, values, 0.8, 0.6)
    evolve.clear_cache()
    caught(*score)
    assert flags == tj.Flag.WRONG_BLOCKS


def test_blocks_with_inner_bonds_are_flagged_and_wrong():
    every = (np.ones(4, bool),)
    score, flags = law_score(make("gibbs", every), (-1, 1), 0.8, 0.6)
    caught(*score)
    assert flags == tj.Flag.WRONG_BLOCKS
    # an energy with squares is not multilinear, though its sites do not interact
    squares = tj.system(lambda s: jnp.sum(s**2 + s), prior=tj.counting_prior(jnp.zeros(4)))
    kernel, point = tj.gibbs_flip(squares, blocks=every), tj.Point(1.0)
    _, info = kernel.step(jax.random.key(0), kernel.init(jnp.ones(4), point), point, ())
    assert info.flags == tj.Flag.WRONG_BLOCKS


@by_structure
@every_kernel
def test_blocks_and_sites_agree_on_a_magnet(name, blocks):
    solved, beta = exact.ising(4), 0.3
    kernel = FACTORIES[name](solved.system, blocks=solved.blocks if blocks else None)
    start = jnp.ones((8192, 4, 4))
    state = evolve(kernel, jax.random.key(1), start, tj.Point(jnp.float32(beta)), 40)[0]
    check(state.energy, solved.internal_energy(beta))
    caught(state.energy, solved.internal_energy(beta / 1.1))


# --- ledger --------------------------------------------------------------------------


def wandering(n, seed=0):
    rng = np.random.default_rng(seed)
    beta, field = np.abs(rng.uniform(-0.3, 2.0, n)), rng.uniform(-2.0, 2.0, n)
    beta[::7] = 0.0
    for v in (beta, field):
        v[2::3] = v[1::3][: len(v[2::3])]
    return tj.Point(jnp.float32(beta), jnp.float32(field))


@by_structure
@every_kernel
def test_first_law_of_driven_steps(name, blocks):
    kernel, path = make(name, blocks), wandering(5000)
    first = jax.tree.map(lambda x: x[0], path)
    st = tj.init_ensemble(kernel, jax.random.key(0), first, size=8, tile=8)
    end, led = tj.drive(kernel, jax.random.key(1), st, path)
    led = jax.tree.map(lambda x: np.asarray(x, np.float64), led)

    def totals(w):
        energy, beta = np.asarray(w.energy, np.float64), np.asarray(w.beta, np.float64)
        return energy, beta * energy - np.asarray(w.log_base, np.float64)

    for (a, b), moves, rounding in (
        ((0, 0), led.work + led.heat, led.energy_rounding),
        ((1, 1), led.protocol + led.shadow + led.bath, led.nats_rounding),
    ):
        before, after = totals(st.walkers)[a], totals(end.walkers)[b]
        limit = ULPS * ulp(before + np.cumsum(moves, axis=0))
        lacking = after - before - (moves + rounding).sum(0)
        np.testing.assert_allclose(lacking, 0.0, atol=limit)
        assert np.any(np.abs(after - before - (moves + rounding)[1:].sum(0)) > limit)
    assert np.all(led.shadow == 0)
    assert np.abs(led.heat).sum() > 100
    # the energy is that of the state: nothing drifts
    fresh = jax.vmap(ring_energy, (0, None))(end.position, path.control[-1])
    np.testing.assert_allclose(end.energy, fresh, rtol=1e-6, atol=1e-6)


def test_driving_is_work_and_flipping_is_heat():
    kernel = tj.gibbs_flip(ring(), blocks=RING_BLOCKS)
    s = jnp.array([1.0, -1.0, 1.0, 1.0])
    state = kernel.init(s, tj.Point(0.5, 0.2))
    moved, led = kernel.drive(state, tj.Point(0.7, 0.9))
    np.testing.assert_array_equal(led.work, moved.energy - state.energy)
    fresh = kernel.init(s, tj.Point(0.7, 0.9))
    jax.tree.map(np.testing.assert_array_equal, moved, fresh)
    u0 = tj.reduced(ring(), s, tj.Point(0.5, 0.2))
    np.testing.assert_allclose(
        led.protocol, tj.reduced(ring(), s, tj.Point(0.7, 0.9)) - u0, rtol=1e-6
    )
    new, info = kernel.step(jax.random.key(3), moved, tj.Point(0.7, 0.9), kernel.params)
    np.testing.assert_array_equal(info.ledger.heat, new.energy - moved.energy)
    assert info.ledger.work == info.ledger.protocol == info.ledger.shadow == 0
    # only beta moves: w = d beta * U, no energy is evaluated
    _, led = kernel.drive(fresh, tj.Point(1.7, 0.9))
    np.testing.assert_allclose(led.protocol, fresh.energy, rtol=1e-6)
    assert led.work == 0


@by_structure
def test_a_walker_that_does_not_move_takes_no_heat(blocks):
    kernel, here = make("metropolis", blocks), at(3.0, 1.3)
    before = jax.vmap(lambda s: kernel.init(s, here))(
        jnp.asarray(np.tile(states((-1, 1)), (200, 1)))
    )
    keys = jax.random.split(jax.random.key(2), 3200)
    step = jax.jit(jax.vmap(lambda k, s: kernel.step(k, s, here, kernel.params)))
    new, info = step(keys, before)
    still = np.all(np.asarray(new.position == before.position), axis=1)
    assert 0.01 < still.mean() < 0.99
    np.testing.assert_array_equal(~still, info.accepted)
    np.testing.assert_array_equal(np.asarray(info.ledger.heat)[still], 0.0)
    np.testing.assert_array_equal(np.asarray(info.ledger.bath)[still], 0.0)


@jax.jit
def work_along(kernel, key, start, path, heat):
    """Reduced work of each walker; `heat` divides the beta of the bath, not of the work."""

    def one(key, theta):
        def body(state, x):
            i, here = x
            state, led = kernel.drive(state, here)
            bath = tj.Point(here.beta / heat, here.control)
            new, info = kernel.step(jax.random.fold_in(key, i), state, bath, kernel.params)
            return new._replace(beta=here.beta), led.protocol + info.ledger.shadow

        first, rest = jax.tree.map(lambda x: x[0], path), jax.tree.map(lambda x: x[1:], path)
        steps = jnp.arange(rest.beta.size)
        return jnp.sum(jax.lax.scan(body, kernel.init(theta, first), (steps, rest))[1])

    return jax.vmap(one)(jax.random.split(key, start.shape[0]), start)


@by_structure
@every_kernel
def test_fluctuation_theorem(name, blocks):
    """From equilibrium <exp(-w)> = Z_n / Z_0 with beta and the field moving, m tilted."""
    values = (-1, 1)
    beta, field = np.linspace(0.3, 0.9, 7), np.linspace(-0.4, 0.8, 7)
    p = weights(values, beta[0], field[0])
    rng = np.random.default_rng(0)
    start = jnp.asarray(states(values)[rng.choice(16, WALKERS, p=p / p.sum())])
    run = functools.partial(
        work_along, make(name, blocks), jax.random.key(1), start, at(beta, field)
    )
    ratio = weights(values, beta[-1], field[-1]).sum() / p.sum()
    work = np.asarray(run(1.0), np.float64)
    check(np.exp(-work), ratio)
    caught(work, -np.log(ratio))  # the second law: <w> > -log Z_n/Z_0
    caught(np.exp(-np.asarray(run(1.1), np.float64)), ratio)


def test_impossible_flips_never_happen():
    """A uniform of exactly zero must not lift a spin over 40 nats."""
    up = tj.system(lambda s: -jnp.sum(s), prior=tj.counting_prior(jnp.zeros(4096), (-1, 1)))
    kernel = tj.gibbs_flip(up, blocks=(np.ones(4096, bool),))
    start, here = jnp.ones((64, 4096)), tj.Point(jnp.float32(20.0))
    state = evolve(kernel, jax.random.key(1), start, here, 300)[0]  # 8e7 trials
    assert np.all(np.asarray(state.position) == 1)


# --- contract ------------------------------------------------------------------------


def machine(dtype):
    like = {"v": jnp.zeros((2, 3), dtype), "h": jnp.zeros(2, dtype)}

    def energy(s, control, data):
        CALLS.append(1)
        return -control * jnp.sum((s["v"] @ data) * s["h"]) - jnp.sum(s["h"])

    data = jnp.asarray([0.5, -1.0, 0.3], dtype)
    return tj.system(energy, prior=tj.counting_prior(like), data=data), like


CALLS = []


@pytest.mark.parametrize("by_blocks", [False, True], ids=["sites", "blocks"])
@every_kernel
def test_pytrees_double_precision_keys_and_traces(name, by_blocks, x64):
    sys, like = machine(jnp.float64)
    kernel = FACTORIES[name](sys, blocks=tj.layer_blocks(like) if by_blocks else None)

    @jax.jit
    def walk(kernel, key, at):
        def one(key):
            state = kernel.init(kernel.sample(key, at), at)
            move = lambda s, k: kernel.step(k, s, at, kernel.params)
            return jax.lax.scan(move, state, jax.random.split(jax.random.fold_in(key, 1), 5))

        return jax.vmap(one)(jax.random.split(key, 4))

    with jax.debug_key_reuse(True):
        CALLS.clear()
        state, info = walk(kernel, jax.random.key(0), tj.Point(0.7, 1.5))
        assert 1 <= len(CALLS) <= 4
        walk(kernel, jax.random.key(1), tj.Point(0.2, -1.0))
        assert len(CALLS) <= 4
    for leaf in jax.tree.leaves((state.position, state.energy, info.ledger, info.acceptance)):
        assert leaf.dtype == jnp.float64
        assert np.all(np.isfinite(leaf))
    assert not np.any(info.flags)
    assert jax.tree.map(jnp.shape, state.position) == {"v": (4, 2, 3), "h": (4, 2)}


def test_facts():
    solved = exact.ising(4)
    sites, pair = (
        tj.gibbs_flip(solved.system),
        tj.metropolis_flip(solved.system, blocks=solved.blocks, scan="systematic"),
    )
    assert sites.meta.exact
    assert pair.meta.exact
    assert (sites.meta.gradients_per_step, pair.meta.gradients_per_step) == (16, 2)
    assert (sites.meta.reversible, pair.meta.reversible) == (True, False)
    assert sites.params == ()
    # built again it is the same pytree: one compilation serves both
    assert jax.tree.structure(sites) == jax.tree.structure(tj.gibbs_flip(solved.system))
    assert pair.params.rate == 0.75


@pytest.mark.parametrize("name", FACTORIES)
def test_states_off_the_alphabet(name):
    kernel = FACTORIES[name](ring())
    with pytest.raises(
        ValueError, match=r"holds 0\.3 at index \(1,\), but its sites are -1 or 1"
    ):
        kernel.init(jnp.array([1.0, 0.3, 1.0, 1.0]), tj.Point(1.0, 0.0))
    with pytest.raises(tj.ShapeError, match=r"shape \(3,\), expected \(4,\)"):
        kernel.init(jnp.ones(3), tj.Point(1.0, 0.0))
    # traced, they cannot be refused: they are flagged
    bad = jnp.array([[1.0, 1, 1, 1], [1, 0, 1, 1]])
    for blocks in (False, True):
        flags = evolve(make(name, blocks), jax.random.key(1), bad, at(1.0, 0.1), 3)[1]
        assert list(np.asarray(flags)) == [0, tj.Flag.NONFINITE]


HALF = [True, False, True, False]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((), "blocks is empty"),
        ((HALF, HALF[::-1]), "blocks"),
        ((np.array(HALF),), r"site \(1,\) of leaf theta is in 0 blocks: put every site"),
        ((np.array(HALF), np.ones(4, bool)), r"site \(0,\) of leaf theta is in 2 blocks"),
        ((np.ones(3, bool),), r"blocks\[0\] does not fit.*shape \(3,\), expected \(4,\)"),
        ((np.ones(4),), r"blocks\[0\] holds float"),
        (({"a": np.ones(4, bool)},), r"blocks\[0\] does not fit.*structure"),
    ],
)
@every_kernel
def test_wrong_masks(name, blocks, message):
    with pytest.raises(ValueError, match=message) as error:
        FACTORIES[name](ring(), blocks=blocks)
    assert "\n" not in str(error.value)


def test_other_errors():
    plain = tj.system(lambda x: x**2, prior=tj.gaussian_prior(1.0), like=0.0)
    for name, factory in FACTORIES.items():
        with pytest.raises(ValueError, match=f"{name}_flip flips sites.*tj.counting_prior"):
            factory(plain)
        with pytest.raises(ValueError, match="scan='sorted' is unknown"):
            factory(ring(), scan="sorted")
    for rate in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="must lie in"):
            tj.metropolis_flip(ring(), rate=rate)
