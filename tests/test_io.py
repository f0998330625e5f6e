from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import stand_in

from thermojax import io
from thermojax.estimators.estimate import Flag
from thermojax.experiments.sweep import SweepConfig


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
