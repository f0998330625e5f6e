"""Flags, sentences, verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from thermojax.estimators.estimate import Estimate, Flag, explain, raise_flags, union


def estimate(flags=0, value=1.25, stderr=0.5):
    return Estimate(
        jnp.asarray(value),
        jnp.asarray(stderr),
        jnp.nan,
        jnp.nan,
        jnp.asarray(flags, jnp.uint32),
    )


@pytest.mark.parametrize("flag", Flag)
def test_every_flag_has_one_sentence_with_a_mend(flag):
    (sentence,) = explain(flag)
    name, text = sentence.split(": ", 1)
    assert name == flag.name
    reason, mend = text.split("; ", 1)
    assert len(reason) > 10
    assert len(mend) > 10
    assert "\n" not in sentence


def test_flags_are_distinct_bits():
    assert len({int(flag) for flag in Flag}) == len(Flag)
    assert all(bin(int(flag)).count("1") == 1 and flag < 1 << 32 for flag in Flag)


def test_union_is_the_or_of_all(x64):
    words = np.random.default_rng(0).integers(0, 1 << 32, (3, 5), np.uint32)
    words &= words.T[:3, :1] | np.uint32(0x80000001)
    seen = jax.jit(union)(jnp.asarray(words))
    assert seen.dtype == np.uint32
    assert int(seen) == int(np.bitwise_or.reduce(words.ravel()))
    assert int(union(jnp.zeros(0, jnp.uint32))) == 0


def test_explain_reads_sets_and_arrays():
    both = Flag.LOW_ESS | Flag.NOT_MIXED
    assert [s.split(":")[0] for s in explain(both)] == ["LOW_ESS", "NOT_MIXED"]
    over = jnp.asarray([Flag.LOW_ESS, 0, Flag.SHADOW], jnp.uint32)
    assert [s.split(":")[0] for s in explain(over)] == ["LOW_ESS", "SHADOW"]
    assert explain(0) == explain(jnp.zeros(3, jnp.uint32)) == []


def test_raise_flags_under_jit():
    @jax.jit
    def flags(x):
        return raise_flags((Flag.LOW_ESS, x > 1), (Flag.SHADOW, x > 2), (Flag.NONFINITE, False))

    assert flags(jnp.zeros(2)).dtype == jnp.uint32
    assert int(flags(jnp.zeros(2))) == 0
    assert int(flags(jnp.array([0.0, 1.5]))) == Flag.LOW_ESS
    assert int(flags(jnp.array([3.0, 0.0]))) == Flag.LOW_ESS | Flag.SHADOW


def test_trusted_is_a_bool_outside_jit_and_an_array_inside():
    assert estimate().trusted is True
    assert estimate(Flag.SHADOW).trusted is False
    assert bool(jax.jit(lambda e: e.trusted)(estimate()))
    many = jax.vmap(lambda f: estimate(0)._replace(flags=f))(jnp.uint32([0, 1]))
    np.testing.assert_array_equal(many.trusted, [True, False])


def test_require_trusted():
    est = estimate()
    assert est.require_trusted() is est
    with pytest.raises(tj.UntrustedEstimate) as error:
        estimate(Flag.LOW_ESS | Flag.RUNS_DISAGREE).require_trusted()
    lines = str(error.value).splitlines()
    assert lines[0] == "the estimate is not trusted:"
    assert lines[1:] == explain(Flag.LOW_ESS | Flag.RUNS_DISAGREE)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda e: e.require_trusted().value)(estimate())


def test_format():
    assert f"{estimate()}" == "1.2500 ± 0.5000"
    assert f"{estimate():.1f}" == "1.2 ± 0.5"
    assert f"{estimate(Flag.SHADOW):.2f}" == "1.25 ± 0.50 (not trusted)"


def test_an_estimate_is_a_pytree():
    doubled = jax.tree.map(lambda x: 2 * x, estimate())
    assert float(doubled.value) == 2.5
