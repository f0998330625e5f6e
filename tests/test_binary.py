"""Counting measure over binary states, and blocks of sites that do not interact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check
from thermojax.binary import check_states, values_of


@pytest.mark.parametrize("values", [(0, 1), (-1, 1)])
def test_counting_measure(values):
    like = {"a": jnp.zeros((2, 3)), "b": np.zeros(4, int)}  # integers become floats
    m = tj.counting_prior(like, values)
    assert m.log_mass == pytest.approx(10 * np.log(2), rel=1e-12)
    assert values_of(m) == values
    draws = jax.vmap(m.sample)(jax.random.split(jax.random.key(0), 20_000))
    assert jax.tree.map(jnp.shape, draws) == {"a": (20_000, 2, 3), "b": (20_000, 4)}
    flat = np.concatenate([np.reshape(x, (20_000, -1)) for x in jax.tree.leaves(draws)], 1)
    assert draws["b"].dtype == jnp.float32
    assert set(np.unique(flat)) == set(values)
    check(flat, np.mean(values))
    caught(flat, np.mean(values) + 0.05)
    check(flat[:, 0] * flat[:, 5], np.mean(values) ** 2)  # sites are independent
    one = jax.tree.map(lambda x: x[0], draws)
    assert m.log_density(one) == 0
    slope = jax.grad(m.log_density)(one)
    assert all(np.all(x == 0) for x in jax.tree.leaves(slope))


def test_rebuilt_measures_share_a_compilation():
    traces = []

    @jax.jit
    def draw(measure, key):
        traces.append(1)
        return measure.sample(key)

    for _ in range(2):
        draw(tj.counting_prior(jnp.zeros(3)), jax.random.key(0))
    assert len(traces) == 1


def test_double_precision_is_kept(x64):
    m = tj.counting_prior(jnp.zeros(3, jnp.float64))
    assert m.sample(jax.random.key(0)).dtype == jnp.float64


@pytest.mark.parametrize("values", [(1, 0), (0, 2), (0, 1, 2), (), (1, -1)])
def test_other_alphabets_are_refused(values):
    with pytest.raises(ValueError, match=r"must be \(0, 1\) or \(-1, 1\)"):
        tj.counting_prior(jnp.zeros(3), values)


def test_the_values_follow_derived_measures():
    like = jnp.zeros(3)
    spins = tj.system(jnp.sum, prior=tj.counting_prior(like, (-1, 1)))
    other = tj.system(lambda s: 2 * jnp.sum(s), prior=spins.prior)
    assert values_of(tj.coupled(spins, other).prior) == (-1, 1)
    assert values_of(tj.localized(spins, like, 1.0).prior) == (-1, 1)
    assert values_of(tj.gaussian_prior(1.0, like=like)) is None
    assert values_of(None) is None


def test_states_are_checked_by_name():
    check_states({"a": jnp.ones(2)}, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"leaf \['a'\] of the states holds 2 at index \(1,\)"):
        check_states({"a": jnp.array([1.0, 2.0])}, (0.0, 1.0))
    with pytest.raises(ValueError, match="leaf theta of the states holds nan"):
        check_states(jnp.nan, (0.0, 1.0))


@pytest.mark.parametrize("shape", [(4, 4), (2, 6), (8,), (3, 3), (5, 4), (2, 3, 4), (7,)])
def test_no_two_sites_of_a_colour_touch(shape):
    blocks = tj.checkerboard_blocks(shape)
    assert len(blocks) == (2 if all(n % 2 == 0 for n in shape) else 3)
    np.testing.assert_array_equal(np.sum(blocks, axis=0), 1)
    for block in blocks:
        assert block.shape == shape
        assert block.any()
        for axis in range(len(shape)):
            assert not np.any(block & np.roll(block, 1, axis))


def test_a_torus_of_width_one_has_no_checkerboard():
    with pytest.raises(ValueError, match=r"shape=\(4, 1\) needs sides of at least 2"):
        tj.checkerboard_blocks((4, 1))


def test_layers():
    like = {"hidden": jnp.zeros(2), "visible": jnp.zeros((3, 2))}
    blocks = tj.layer_blocks(like)
    assert len(blocks) == 2
    for k, name in enumerate(("hidden", "visible")):
        for other, mask in blocks[k].items():
            assert mask.shape == like[other].shape
            assert np.all(mask == (other == name))
