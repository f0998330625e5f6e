"""Checkpoints: bit for bit, whole or absent, and never of another computation."""

import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from thermojax import checkpoints


def state():
    with jax.enable_x64(True):
        wide = jnp.arange(3) / 3
    return {
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), (2, 2)),
        "none": None,
        "control": (),
        "empty": jnp.zeros((0, 3)),
        "half": jnp.ones((2, 3), jnp.bfloat16) / 3,
        "wide": wide,
        "numpy": np.arange(4),
        "count": jnp.uint32(7),
        "python": [3, 2.5, True],
    }


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                assert jax.random.key_impl(x) == jax.random.key_impl(y)
                x, y = jax.random.key_data(x), jax.random.key_data(y)
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
            assert np.shape(x) == np.shape(y)
        else:
            assert x == y


def test_checkpoint_is_bit_exact(tmp_path):
    checkpoints.save_checkpoint(tmp_path / "run" / "checkpoint", state())
    same(checkpoints.load_checkpoint(tmp_path / "run" / "checkpoint", state()), state())


def test_checkpoint_can_be_read_by_shape_alone(tmp_path):
    tree = {"key": jax.random.key(5), "x": jnp.arange(3.0)}
    checkpoints.save_checkpoint(tmp_path, tree)
    like = jax.eval_shape(lambda: {"key": jax.random.key(0), "x": jnp.zeros(3)})
    same(checkpoints.load_checkpoint(tmp_path, like), tree)


def test_checkpoint_of_nothing(tmp_path):
    checkpoints.save_checkpoint(tmp_path, ())
    assert checkpoints.load_checkpoint(tmp_path, ()) == ()


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ({"x": jnp.zeros(4)}, r"leaf \['x'\] is float32\[3\], expected .* float32\[4\]"),
        ({"x": jnp.zeros(3, int)}, r"float32\[3\], expected .* int32\[3\]"),
        ({"y": jnp.zeros(3)}, r"leaf \['x'\] .* expected \['y'\]"),
        ({"x": jax.random.key(0)}, r"expected .* key<fry>\[\]"),
        ({"x": jnp.zeros(3), "z": 1}, "has 1 leaves, expected 2"),
    ],
)
def test_checkpoint_of_another_shape_is_refused(tmp_path, like, said):
    checkpoints.save_checkpoint(tmp_path, {"x": jnp.zeros(3)})
    with pytest.raises(ValueError, match=said):
        checkpoints.load_checkpoint(tmp_path, like)


def test_checkpoint_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoints.load_checkpoint(tmp_path, {})


_SAVE_FOR_EVER = """
import sys, itertools, numpy as np
from thermojax.checkpoints import save_checkpoint
for i in itertools.count():
    save_checkpoint(sys.argv[1], {"x": np.full(400_000, i), "i": i})
    if i == 3:
        print("ready", flush=True)
"""


def test_a_kill_leaves_a_loadable_checkpoint(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", _SAVE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    found = checkpoints.load_checkpoint(tmp_path, {"x": np.zeros(400_000, int), "i": 0})
    assert found["i"] >= 3
    assert (found["x"] == found["i"]).all()


def count(state, until):
    """Turns of a loop that can be told apart."""
    return {"turn": until, "sum": state["sum"] + sum(range(state["turn"], until))}


def loop(checkpoint, *, advance=count, progress=False, start=0):
    first = {"turn": 0, "sum": start}
    options = {"chunk": 3, "unit": "turns", "progress": progress, "checkpoint": checkpoint}
    return checkpoints.in_chunks(advance, first, lambda s: s["turn"], 10, **options)


def dying_at(turn):
    def advance(state, until):
        if until >= turn:
            raise KeyboardInterrupt
        return count(state, until)

    return advance


def test_a_loop_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path / "run", advance=dying_at(8))
    seen = []
    assert loop(str(tmp_path / "run"), progress=lambda *x: seen.append(x)) == loop(None)
    assert seen == [(6, 10), (9, 10), (10, 10)]
    # what is done is not done again
    assert loop(tmp_path / "run", advance=dying_at(0)) == loop(None)


def test_another_computation_is_refused(tmp_path):
    loop(tmp_path)
    with pytest.raises(ValueError, match=r"began in another state .* remove"):
        loop(tmp_path, start=1)
    with pytest.raises(ValueError, match=r"leaf .*: name another folder"):
        checkpoints.Folder(tmp_path).load({"turn": 0})


def test_rounding_is_no_other_computation(tmp_path):
    x = np.random.default_rng(0).normal(size=1000)
    first = checkpoints.Folder(tmp_path)
    assert first.load(x) is x
    first.save(x + 1)
    again = checkpoints.Folder(tmp_path).load(x.astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(again, x + 1)


@pytest.mark.parametrize("seed", [1, 20_261_122])
def test_keys_and_order_tell_computations_apart(tmp_path, seed):
    """Large seeds are close by size; permuted labels have the same mean."""
    x = np.random.default_rng(0).normal(size=1000)
    first = checkpoints.Folder(tmp_path, inputs=jax.random.key(seed))
    first.load(x)
    first.save(x)
    np.testing.assert_array_equal(checkpoints.Folder(tmp_path, jax.random.key(seed)).load(x), x)
    with pytest.raises(ValueError, match="began in another state"):
        checkpoints.Folder(tmp_path, inputs=jax.random.key(seed + 1)).load(x)
    with pytest.raises(ValueError, match="began in another state"):
        checkpoints.Folder(tmp_path, inputs=jax.random.key(seed)).load(x[::-1])


def test_a_folder_is_read_before_it_is_written(tmp_path):
    with pytest.raises(ValueError, match="load comes before save"):
        checkpoints.Folder(tmp_path).save(0)


def test_what_keeps_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint=3 keeps nothing: give the path"):
        checkpoints.store_of(3)
    (tmp_path / "notes").write_text("")
    with pytest.raises(ValueError, match=r"notes' is a file: name a folder"):
        checkpoints.store_of(tmp_path / "notes")


SYSTEM = tj.system(lambda x: 0.5 * x**2, prior=tj.gaussian_prior(1.0), like=0.0)
SMALL = {
    "smc": tj.SMC(n=32, n_runs=2),
    "ais": tj.AIS(n=32, n_runs=2, rungs=16, pilot=32),
    "ti": tj.TI(nodes=4, chains=8, n_runs=2, draws=8, pilot=32),
    "replica_exchange": tj.ReplicaExchange(n_rungs=3, n_runs=2, n_rounds=256, warmup=64),
    "flat_histogram": tj.FlatHistogram(
        bins=12, walkers=8, n_runs=2, learn=20, measure=20, blocks=2
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_route_goes_on_bit_for_bit(tmp_path, name):
    seen = []

    def dying(done, total):
        seen.append((done, total))
        if 0 < done < total:
            raise KeyboardInterrupt

    key = jax.random.key(2)
    run = lambda beta=3e4, **o: tj.log_partition(
        SYSTEM, tj.Point(beta), key, method=SMALL[name], **o
    )
    with pytest.raises(KeyboardInterrupt):
        run(progress=dying, checkpoint=tmp_path)
    same(run(checkpoint=str(tmp_path)), run())
    assert seen[-1][0] < seen[-1][1]
    with pytest.raises(ValueError, match="name another folder"):
        run(2.9e4, checkpoint=tmp_path)


def test_several_routes_have_a_folder_each(tmp_path):
    methods = [SMALL["ais"], SMALL["ti"], tj.Laplace()]
    point, key = tj.Point(1.0), jax.random.key(0)
    run = lambda **o: tj.log_partition(SYSTEM, point, key, method=methods, **o)
    same(run(checkpoint=tmp_path), run())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ais", "ti"]
    with pytest.raises(ValueError, match="cannot share checkpoint="):
        run(checkpoint=checkpoints.Folder(tmp_path))
