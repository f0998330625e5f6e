"""Swaps, round trips and placement against exact laws of harmonic ladders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from tests.scores import caught, check
from thermojax import ladder

DIM = 3
BETAS = jnp.array([1.0, 2.0, 5.0, 8.0])
COUNT = 4


def acceptance(betas, d=DIM):
    """2 I_{b1/(b1+b2)}(d/2, d/2) of neighbouring harmonic slots, exact."""
    b = np.asarray(betas, float)
    return 2 * special.betainc(d / 2, d / 2, b[:-1] / (b[:-1] + b[1:]))


def drawn(key, slot):
    """Energies of exact harmonic draws, by walker: U ~ Gamma(d/2) / beta."""
    return jax.random.gamma(key, DIM / 2, slot.shape) / BETAS[slot]


def swapped(slot, energy, betas, coins, parity):
    return ladder.swap(slot, energy, betas, coins, parity)


def wrong_sign(slot, energy, betas, coins, parity):
    return ladder.swap(slot, -energy, betas, coins, parity)


def always(slot, energy, betas, coins, parity):
    slot, chance, tried = ladder.swap(slot, energy, betas, 0 * coins - 1, parity)
    return slot, chance, tried


@functools.cache
def swept(rule, sweeps=6, replicas=20_000):
    """Energies by slot [replicas, K] after sweeps without any moves."""

    def one(key):
        first = jnp.arange(COUNT)
        energy = drawn(key, first)

        def body(slot, i):
            coins = jax.random.uniform(jax.random.fold_in(key, i), (COUNT - 1,))
            return rule(slot, energy, BETAS, coins, i % 2)[0], None

        slot, _ = jax.lax.scan(body, first, jnp.arange(sweeps))
        return energy[jnp.argsort(slot)]

    keys = jax.random.split(jax.random.key(0), replicas)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def test_swaps_leave_the_law_of_every_slot():
    exact = DIM / 2 / np.asarray(BETAS)
    check(swept(swapped), exact)
    check(swept(swapped) ** 2, exact**2 * (1 + 2 / DIM))
    caught(swept(wrong_sign), exact)
    caught(swept(always), exact)


def test_acceptance_is_the_incomplete_beta_function():
    first = jnp.arange(COUNT)
    keys = jax.random.split(jax.random.key(1), 20_000)
    coins = jnp.zeros(COUNT - 1)
    seen = jax.vmap(lambda k: ladder.swap(first, drawn(k, first), BETAS, coins, 0)[1])(keys)
    check(seen, acceptance(BETAS))
    caught(seen, acceptance(BETAS, d=DIM + 1))


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(6)),
    st.lists(st.floats(-50, 50), min_size=6, max_size=6),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5),
    st.integers(0, 1),
)
def test_labels_stay_a_permutation_and_only_neighbours_trade(slot, energy, coins, parity):
    before, energy = np.array(slot), np.array(energy)
    betas = np.linspace(0, 1, 6)
    after, chance, tried = map(
        np.asarray,
        ladder.swap(*map(jnp.asarray, (before, energy, betas, coins)), parity),
    )
    assert sorted(after) == list(range(6))
    np.testing.assert_array_equal(np.flatnonzero(tried), np.arange(parity, 5, 2))
    by_slot = np.argsort(before)
    for edge in range(5):
        hot, cold = by_slot[edge], by_slot[edge + 1]
        gap = (betas[edge] - betas[edge + 1]) * (energy[hot] - energy[cold])
        np.testing.assert_allclose(chance[edge], min(1, np.exp(gap)), rtol=1e-4)
        if tried[edge]:
            taken = coins[edge] < chance[edge]
            assert after[hot] == edge + taken
            assert after[cold] == edge + 1 - taken


def test_walkers_leave_forbidden_regions_and_none_enters_them():
    slot, betas, coins = jnp.arange(2), jnp.array([0.0, 1.0]), jnp.array([0.5])
    for energy, moved in (([0.0, np.inf], True), ([np.inf, 0.0], False), ([np.inf] * 2, False)):
        after, _, _ = ladder.swap(slot, jnp.array(energy), betas, coins, 0)
        assert bool(after[0] == 1) is moved


def trips(parity_of, rounds=2000, replicas=200):
    """Round trips per round of whole ladders whose walkers forget at once."""

    def one(key):
        def body(carry, i):
            slot, heading, count = carry
            here = jax.random.fold_in(key, i)
            draw, toss, side = jax.random.split(here, 3)
            coins = jax.random.uniform(toss, (COUNT - 1,))
            slot, _, _ = ladder.swap(slot, drawn(draw, slot), BETAS, coins, parity_of(i, side))
            heading, closed = ladder.turn(slot, heading, COUNT - 1)
            # trips under way at the start are counted once all walkers have seen an end
            count = count + jnp.where(i < 200, 0, jnp.sum(closed))
            return (slot, heading, count), None

        first = jnp.arange(COUNT)
        (_, _, count), _ = jax.lax.scan(
            body, (first, jnp.zeros_like(first), 0), jnp.arange(rounds + 200)
        )
        return count / rounds

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), replicas)))


def test_round_trips_are_as_many_as_predicted():
    predicted = float(ladder.round_trip_rate(1 - jnp.asarray(acceptance(BETAS))))
    check(trips(lambda i, key: i % 2), predicted)
    # sides chosen at random make the labels diffuse
    caught(trips(lambda i, key: jax.random.randint(key, (), 0, 2)), predicted)


def test_rates_by_hand():
    assert float(ladder.round_trip_rate(jnp.zeros(5))) == 0.5
    np.testing.assert_allclose(ladder.round_trip_rate(jnp.full(3, 0.5)), 1 / 8, rtol=1e-6)
    assert float(ladder.round_trip_rate(jnp.ones(2))) < 1e-5


def test_a_trip_needs_both_ends():
    heading, seen = jnp.zeros(1, jnp.int32), []
    for place in (2, 1, 0, 1, 2, 2, 1, 2, 0, 0, 2):
        heading, closed = ladder.turn(jnp.array([place]), heading, 2)
        seen.append(bool(closed[0]))
    assert seen == [False] * 8 + [True] + [False] * 2


@pytest.mark.usefixtures("x64")
def test_placement_makes_rejections_equal():
    betas = jnp.linspace(1.0, 50.0, 8)
    assert np.ptp(1 - acceptance(betas)) > 0.5
    for _ in range(12):
        betas = ladder.equal_barrier(betas, jnp.asarray(1 - acceptance(betas)))
    np.testing.assert_allclose(betas, np.geomspace(1, 50, 8), rtol=0.02)
    np.testing.assert_allclose(betas[jnp.array([0, -1])], [1.0, 50.0], rtol=1e-12)


def test_the_first_ladder_rises_geometrically():
    energy = jnp.array([jnp.inf, *np.random.default_rng(0).normal(1e4, 200.0, 200)])
    first = np.asarray(ladder.first_ladder(energy, 1.0, 9))
    assert first[0] == 0
    assert first[-1] == 1
    assert 1e-3 < first[1] < 0.01
    np.testing.assert_allclose(np.diff(np.log(first[1:])), -np.log(first[1]) / 7, rtol=1e-3)
    flat = np.asarray(ladder.first_ladder(jnp.ones(5), 2.0, 5))
    np.testing.assert_allclose(flat[[0, 1, -1]], [0.0, 0.5, 2.0])


def test_what_is_known_at_old_places_moves_to_new_ones():
    old, new = jnp.array([0.0, 1.0, 3.0]), jnp.array([0.0, 2.0, 3.0])
    tree = {"a": jnp.array([0.0, 10.0, 30.0]), "b": jnp.stack([old, -old], axis=1)}
    moved = ladder.regrid(new, old, tree)
    np.testing.assert_allclose(moved["a"], [0.0, 20.0, 30.0])
    np.testing.assert_allclose(moved["b"][:, 1], -new)


def test_spread_is_learned_in_one_pass():
    x = np.random.default_rng(1).normal(3.0, 2.0, (5, 4, 2, 3)).astype(np.float32)
    tuning = ladder.Tuning(jnp.arange(2.0), jnp.zeros(2), jnp.ones((2, 3)))
    learned = ladder.blank(tuning)
    for i, row in enumerate(x):
        learned = ladder.learn_spread(learned, jnp.asarray(row), jnp.int32(4 * i))
    flat = x.reshape(20, 2, 3)
    np.testing.assert_allclose(learned.mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(learned.square, 20 * flat.var(0), rtol=1e-4)
    new = ladder.adapt(tuning, learned, jnp.int32(20), place=False)
    np.testing.assert_allclose(new.scale, flat.std(0) ** (20 / 24), rtol=1e-4)
    np.testing.assert_array_equal(new.betas, tuning.betas)
