"""The main job end to end: real data, known answers, kill and resume, bad input."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import thermojax as tj
from tests.scores import check
from thermojax.cli import main
from thermojax.experiments.sweep import SweepConfig, build_system, hidden_layers, run_sweep

SMALL = ("--examples", "120", "--image-side", "4", "--particles", "64", "--max-rungs", "100")


@pytest.fixture(scope="module")
def diabetes():
    return run_sweep(SweepConfig(data="diabetes", model="linear"))


@pytest.mark.slow
def test_diabetes_against_its_closed_form(diabetes):
    summary, arrays = diabetes.summary, diabetes.arrays
    exact = tj.exact.diabetes()
    log_z = summary["log_z"]
    assert log_z["trusted"], log_z["reasons"]
    assert log_z["stderr"] <= 0.25
    check(log_z["value"], -238.7561032736, log_z["stderr"], limit=3.0)
    evidence = summary["log_evidence"]
    check(evidence["value"], -487.2766097292, evidence["stderr"], limit=3.0)
    beta = arrays["beta"]
    here = beta > 0.01
    for name in ("log_partition", "internal_energy", "entropy", "heat_capacity"):
        key = "log_z" if name == "log_partition" else name
        truth = np.array([getattr(exact, name)(b) for b in beta[here]])
        check(arrays[key][here], truth, arrays[f"{key}_stderr"][here])


@pytest.mark.slow
def test_thermometers_and_predictions_make_sense(diabetes):
    arrays = diabetes.arrays
    ratio = arrays["layer_configurational"] * arrays["thermo_beta"][:, None]
    error = arrays["layer_configurational_stderr"] * arrays["thermo_beta"][:, None]
    check(ratio, 1.0, error)
    # BAOAB: the kinetic temperature is low by a known few per cent at most
    kinetic = arrays["layer_kinetic"] * arrays["thermo_beta"][:, None]
    assert np.all((kinetic > 0.85) & (kinetic < 1.1))
    assert np.all(np.diff(arrays["train_rmse"]) < 0.01)
    assert "test_rmse" not in arrays


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Folder of a whole run, and what it printed."""
    out, printed = tmp_path_factory.mktemp("sweep") / "run", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["sweep", "digits", *SMALL, "--out", str(out)]) == 0
    return out, printed.getvalue()


@pytest.mark.slow
def test_small_digits_run_folder(small, capsys):
    out, printed = small
    assert "log Z" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n_test"] == 1797 - 120
    assert (out / "report.html").stat().st_size > 10_000
    assert {p.suffix for p in (out / "figures").iterdir()} == {".png"}
    result = np.load(out / "result.npz")
    assert np.all(np.diff(result["internal_energy"]) < 5.0)
    assert np.all(result["entropy"] < 0.5)
    assert result["test_accuracy"][-1] > 0.5 > result["test_accuracy"][0]
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["examples"] == 120
    # an existing folder is left alone
    before = (out / "summary.json").read_bytes()
    assert main(["sweep", "digits", *SMALL, "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
    assert (out / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_killed_sweep_resumes_bit_for_bit(small, tmp_path):
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command, cut = [sys.executable, "-m", "thermojax"], str(tmp_path / "cut")
    child = subprocess.Popen(
        [*command, "sweep", "digits", *SMALL, "--quiet", "--out", cut], env=env
    )
    checkpoint = tmp_path / "cut.partial" / "checkpoint" / "state.npz"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert checkpoint.exists()
    assert not os.path.exists(cut)
    subprocess.run([*command, "resume", cut, "--quiet"], check=True, env=env)
    one, two = np.load(small[0] / "result.npz"), np.load(cut + "/result.npz")
    assert one.files == two.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "--model", "cnn"], "model='cnn'"),
        (["digits", "--beta", "-1"], "beta=-1"),
        (["digits", "--particles", "4"], "particles=4"),
        (["diabetes", "--model", "logistic"], "does not fit a regression"),
        (["csv:no_such.csv", "--target", "y"], "no_such.csv"),
        (["irises"], "irises"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(arguments, said, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main(["sweep", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cell", "said"), [("nan", "nan"), ("inf", "inf"), ("red", "red"), ("", "missing")]
)
def test_bad_cells_of_a_table_are_named(cell, said, tmp_path, capsys):
    rows = [f"{i},{i % 3},{i / 7}" for i in range(12)]
    rows[5] = f"5,{cell},0.7"
    table = tmp_path / "table.csv"
    table.write_text("a,b,y\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    assert main(["sweep", f"csv:{table}", "--target", "y", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "'b'" in error or "b" in error
    assert "7" in error  # the line in the file
    assert not out.exists()
    assert not (tmp_path / "out.partial").exists()


def test_models():
    assert hidden_layers("mlp:16,8") == (16, 8)
    assert hidden_layers("linear") == ()
    for bad in ("mlp", "mlp:", "mlp:0", "mlp:4,", "tree"):
        with pytest.raises(ValueError, match=bad):
            hidden_layers(bad)


def test_the_system_of_a_sweep_is_the_textbook_one():
    from thermojax.datasets import load

    data = load("diabetes")
    sys, name = build_system(SweepConfig(data="diabetes"), data)
    assert name == "linear"
    assert sys.template is not None
    assert sys.template.size == 10
    exact = tj.exact.diabetes()
    theta = sys.sample_base(jax.random.key(0))
    weights = theta["Dense_0"]["kernel"][:, 0]
    np.testing.assert_allclose(sys.energy(theta), exact.system.energy(weights), rtol=1e-5)
    np.testing.assert_allclose(sys.log_base(theta), exact.system.log_base(weights), rtol=1e-5)
