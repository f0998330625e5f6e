from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_in

from thermojax import io
from thermojax.estimators.estimate import Flag
from thermojax.experiments.sweep import SweepConfig


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    io.write_bytes(path, b"old")

    def interrupted():
        with io.writing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert io.write_bytes(path, "new ±").read_text(encoding="utf-8") == "new ±"


def test_config_holds_settings_seed_versions_and_device(tmp_path):
    settings = SweepConfig(seed=7)
    path = io.write_config(tmp_path, settings, command_line="thermojax sweep")
    config = json.loads(path.read_text())
    assert config["settings"]["data"] == "digits"
    assert config["seed"] == 7
    assert config["versions"]["jax"] == jax.__version__
    assert {"python", "numpy", "thermojax"} <= set(config["versions"])
    assert config["device"]["platform"] == jax.devices()[0].platform
    assert config["command_line"] == "thermojax sweep"


def test_result_round_trip(tmp_path):
    result = stand_in.result(trusted=False)
    io.write_config(tmp_path, SweepConfig())
    io.write_result(tmp_path, result)
    again = io.read_result(tmp_path)
    assert set(again.arrays) == set(result.arrays)
    for name, values in result.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], values)
    assert again.arrays["flags"].dtype == np.uint32
    assert {k: again.summary[k] for k in result.summary} == result.summary
    assert again.config["settings"]["data"] == "digits"


def test_summary_gives_every_number_its_error_and_flags(tmp_path):
    io.write_result(tmp_path, stand_in.result(trusted=False))
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    summary = json.loads(text)
    first, last = summary["curve"][0], summary["curve"][-1]
    assert first["temperature"] is None  # beta = 0
    assert first["free_energy"]["value"] is None
    assert last["beta"] == 1.0
    for name in ("log_z", "free_energy", "internal_energy", "entropy", "heat_capacity"):
        assert set(last[name]) == {"value", "stderr"}
    assert last["flags"] == Flag.LOW_ESS | Flag.RUNS_DISAGREE
    assert last["reasons"] == ["LOW_ESS", "RUNS_DISAGREE"]
    assert (first["trusted"], last["trusted"]) == (True, False)
    assert "test_accuracy" in summary["prediction"][0]
    assert len(summary["thermometers"][0]["layer_kinetic"]["value"]) == 3


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder"):
        io.read_result(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no result\.npz"):
        io.read_result(tmp_path)
    io.write_result(tmp_path, stand_in.result())
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        io.read_result(tmp_path)
    (tmp_path / "result.npz").write_bytes(b"PK\x03\x04 rubbish")
    with pytest.raises(ValueError, match=r"result\.npz is damaged"):
        io.read_result(tmp_path)


# Checkpoints


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
    io.save_checkpoint(tmp_path / "run" / "checkpoint", state())
    same(io.load_checkpoint(tmp_path / "run" / "checkpoint", state()), state())


def test_checkpoint_can_be_read_by_shape_alone(tmp_path):
    tree = {"key": jax.random.key(5), "x": jnp.arange(3.0)}
    io.save_checkpoint(tmp_path, tree)
    like = jax.eval_shape(lambda: {"key": jax.random.key(0), "x": jnp.zeros(3)})
    same(io.load_checkpoint(tmp_path, like), tree)


def test_checkpoint_of_nothing(tmp_path):
    io.save_checkpoint(tmp_path, ())
    assert io.load_checkpoint(tmp_path, ()) == ()


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
    io.save_checkpoint(tmp_path, {"x": jnp.zeros(3)})
    with pytest.raises(ValueError, match=said):
        io.load_checkpoint(tmp_path, like)


def test_checkpoint_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        io.load_checkpoint(tmp_path, {})


_SAVE_FOR_EVER = """
import sys, itertools, numpy as np
from thermojax.io import save_checkpoint
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
    found = io.load_checkpoint(tmp_path, {"x": np.zeros(400_000, int), "i": 0})
    assert found["i"] >= 3
    assert (found["x"] == found["i"]).all()
