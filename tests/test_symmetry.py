"""Finite symmetries: group order, canonical images, their occupation, and scopes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thermojax as tj
from tests.scores import check
from thermojax import exact
from thermojax.networks import mlp
from thermojax.partition import PartitionParts
from thermojax.priors import Template
from thermojax.symmetry import Hidden, Symmetry, permutation_symmetry, tanh_symmetry, with_scope

AW = (Hidden(("a", 0), (("w", 0),)),)


def network(widths=(3, 2)):
    module = mlp(widths, 2)
    theta = module.init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    return module, theta


def turned(theta, layer, signs, order):
    """The group element that flips and reorders the units of one hidden layer."""
    before, after = f"Dense_{layer}", f"Dense_{layer + 1}"
    out = {name: dict(leaves) for name, leaves in theta.items()}
    out[before]["kernel"] = (theta[before]["kernel"] * signs)[:, order]
    out[before]["bias"] = (theta[before]["bias"] * signs)[order]
    out[after]["kernel"] = (theta[after]["kernel"] * signs[:, None])[order]
    return out


def test_orders_of_a_network():
    _, theta = network()
    assert math.isclose(tanh_symmetry(theta).log_order, math.log(2**3 * 6 * 2**2 * 2))
    assert math.isclose(permutation_symmetry(theta).log_order, math.log(6 * 2))
    assert Symmetry.identity().log_order == 0


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    signs=st.lists(st.sampled_from((-1.0, 1.0)), min_size=5, max_size=5),
    first=st.permutations(range(3)),
    second=st.permutations(range(2)),
)
def test_all_images_share_one_canonical_state(seed, signs, first, second):
    module, like = network()
    flat = jax.random.normal(jax.random.key(seed), (3 * 5 + 2 * 4 + 2 * 3,))
    theta = Template.of(like).unflatten(flat)
    moved = turned(theta, 0, jnp.asarray(signs[:3]), jnp.asarray(first))
    moved = turned(moved, 1, jnp.asarray(signs[3:]), jnp.asarray(second))
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    group = tanh_symmetry(like)
    canonical = group.canonicalize(theta)
    for image in (moved, canonical):
        out = module.apply({"params": image}, x)
        np.testing.assert_allclose(out, module.apply({"params": theta}, x), atol=1e-5)
    same = jax.tree.map(np.array_equal, canonical, group.canonicalize(moved))
    assert all(jax.tree.leaves(same))
    assert group.contains(canonical)
    assert int(group.image(canonical)) == 0
    assert bool(group.contains(moved)) == (int(group.image(moved)) == 0)


def test_images_are_numbered_once_each():
    theta = {"a": jnp.asarray([0.5, 1.0, 2.0]), "w": jnp.asarray([1.0, -2.0, 3.0])}
    group = tanh_symmetry(theta, AW)
    seen = []
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        for order in itertools.permutations(range(3)):
            s, o = jnp.asarray(signs), jnp.asarray(order)
            seen.append(int(group.image({k: (v * s)[o] for k, v in theta.items()})))
    assert sorted(seen) == list(range(48))


def test_canonical_outgoing_weights_are_positive_and_sorted():
    theta = {"a": jnp.asarray([2.0, -1.0, -3.0]), "w": jnp.asarray([1.0, 2.0, 3.0])}
    canonical = tanh_symmetry(theta, AW).canonicalize(theta)
    assert canonical["a"].tolist() == [1.0, 2.0, 3.0]
    assert canonical["w"].tolist() == [-2.0, 1.0, -3.0]
    unsigned = permutation_symmetry(theta, AW).canonicalize(theta)
    assert unsigned["a"].tolist() == [-3.0, -1.0, 2.0]


def test_nnx_and_deep_names_keep_their_order():
    """Dense_10 follows Dense_9, not Dense_1."""
    widths = (2, 3, 4, 2, 3, 4, 2, 3, 4, 2, 3)
    _, theta = network(widths)
    expected = sum(math.log(2**n * math.factorial(n)) for n in widths)
    assert math.isclose(tanh_symmetry(theta).log_order, expected)
    assert tanh_symmetry(theta).image_fn is None
    with pytest.raises(ValueError, match="number its images"):
        tanh_symmetry(theta).image(theta)


def test_occupation_of_images_is_uniform():
    """P24: tempering from the prior fills all eight images of two tanh units alike."""
    solved = exact.tanh_network(hidden=2)
    group = tanh_symmetry({"a": jnp.zeros(2), "w": jnp.zeros(2)}, AW)
    smc = tj.SMC(n=128, n_runs=16)
    est = tj.log_partition(solved.system, tj.Point(1.0), jax.random.key(3), method=smc)
    index = np.asarray(jax.vmap(group.image)(est.parts.samples)).reshape(16, 128)
    share = np.stack([np.mean(index == i, axis=1) for i in range(8)], axis=1)
    check(share, 1 / 8, limit=6.0)
    # one canonical domain alone would be seen
    folded = jax.vmap(group.canonicalize)(est.parts.samples)
    assert np.all(np.asarray(jax.vmap(group.image)(folded)) == 0)
    assert np.all(share.std(axis=0) > 0)


def test_scope_moves_value_runs_and_readouts_together():
    group = Symmetry(math.log(48), abs)
    sys = tj.system(lambda x: x**2, like=0.0, symmetry=group)
    parts = PartitionParts(*([()] * len(PartitionParts._fields)))
    parts = parts._replace(
        runs_log_z=jnp.asarray([1.0, 2.0]), log_mass=0.5, readouts={"smc": jnp.asarray(1.5)}
    )
    none = jnp.zeros(())
    est = tj.Estimate(jnp.asarray(1.5), none, none, none, jnp.uint32(0), parts)
    total = with_scope(est, sys, "total", natural="mode")
    shift = math.log(48)
    assert math.isclose(total.value, 1.5 + shift, rel_tol=1e-6)
    np.testing.assert_allclose(total.parts.runs_log_z, np.add((1.0, 2.0), shift), rtol=1e-6)
    assert math.isclose(total.parts.log_mass, 0.5 + shift)
    assert math.isclose(total.parts.readouts["smc"], 1.5 + shift, rel_tol=1e-6)
    back = with_scope(total, sys, "mode", natural="total")
    assert math.isclose(back.value, 1.5, rel_tol=1e-6)
    assert with_scope(est, sys, "mode", natural="mode") is est
    with pytest.raises(ValueError, match="states no symmetry"):
        with_scope(est, sys.replace(symmetry=None), "total", natural="mode")
    with pytest.raises(ValueError, match="scope='all'"):
        with_scope(est, sys, "all", natural="mode")


def test_a_symmetry_is_static_and_equal_by_value():
    _, theta = network()
    assert tanh_symmetry(theta) == tanh_symmetry(theta)
    assert hash(tanh_symmetry(theta)) == hash(tanh_symmetry(theta))
    sys = tj.system(lambda x: x**2, like=0.0, symmetry=Symmetry(math.log(2), jnp.abs))
    assert not any(isinstance(leaf, Symmetry) for leaf in jax.tree.leaves(sys))
    fold = jax.jit(lambda s, x: s.symmetry.canonicalize(x))
    assert float(fold(sys, jnp.asarray(-2.0))) == 2.0


def test_misuse_is_refused():
    _, _theta = network()
    with pytest.raises(tj.ShapeError, match="no chain of dense layers"):
        tanh_symmetry({"a": jnp.zeros(2), "w": jnp.zeros(2)})
    with pytest.raises(tj.ShapeError, match="no leaf 'b'"):
        tanh_symmetry({"a": jnp.zeros(2)}, (Hidden(("b", 0), ()),))
    with pytest.raises(tj.ShapeError, match="different lengths"):
        tanh_symmetry({"a": jnp.zeros(2), "w": jnp.zeros(3)}, AW)
    with pytest.raises(ValueError, match="log_order=-1"):
        Symmetry(-1, abs)
