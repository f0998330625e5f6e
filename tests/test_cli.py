from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import stand_in

from thermojax import cli, datasets, doctor, plotting, terminal
from thermojax.experiments.sweep import SweepConfig

_SAVE_FIGURES = plotting.save_figures


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """`run("sweep", ...)` -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_all_cores", lambda: None)

    def install(run_sweep):
        monkeypatch.setattr("thermojax.experiments.sweep.run_sweep", run_sweep)

    def call(*argv):
        code = cli.main([str(a) for a in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    call.install = install
    monkeypatch.setattr("thermojax.plotting.save_figures", stand_in.save_figures)
    install(stand_in.runner())
    return call


def refused(run, *argv, parts=()):
    """One line on stderr, exit code 2, nothing on stdout, nothing written."""
    before = sorted(os.walk("."))
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(os.walk(".")) == before
    for part in parts:
        assert part in err
    return err


def test_sweep_without_arguments_writes_a_complete_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr("thermojax.plotting.save_figures", _SAVE_FIGURES)
    code, out, err = run("sweep")
    assert (code, err) == (0, "")
    folder = tmp_path / "runs" / "digits-001"
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {
        *("config.json", "result.npz", "summary.json", "report.html"),
        *(
            f"figures/{n}.png"
            for n in ("thermodynamics", "prediction", "thermometers", "ladder")
        ),
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["data"] == "digits"
    assert config["command_line"] == "thermojax sweep"
    assert json.loads((folder / "summary.json").read_text())["log_z"]["trusted"] is True
    for part in ("log Z", "±", "∞", "trusted", "report: runs/digits-001/report.html"):
        assert part in out
    assert max(map(len, out.splitlines()[1:])) <= 120


def test_arguments_reach_the_experiment(run, tmp_path):
    seen = []

    def run_sweep(config, *, progress, checkpoint):
        seen.append((config, checkpoint))
        progress(0.5, "half way")
        return stand_in.result("regression", test=False)

    run.install(run_sweep)
    args = ("--model", "mlp:16,8", "--seed", 3, "--beta", 2.5, "--out", "here", "--quiet")
    code, out, err = run("sweep", "diabetes", *args)
    assert (code, out, err) == (0, "", "")
    config, checkpoint = seen[0]
    assert config == SweepConfig(data="diabetes", model="mlp:16,8", seed=3, beta=2.5)
    assert type(config) is SweepConfig
    assert str(checkpoint) == os.path.join("here.partial", "checkpoint")
    assert (tmp_path / "here" / "report.html").is_file()
    assert not (tmp_path / "here.partial").exists()


def test_a_distrusted_result_is_shouted(run):
    run.install(stand_in.runner(trusted=False))
    run("sweep")
    code, out, _ = run("sweep")
    assert code == 0
    assert "runs/digits-002/report.html" in out
    assert "NOT TRUSTED" in out
    assert "LOW_ESS: the effective sample size is too small; use more particles" in out


def test_an_existing_folder_needs_overwrite(run, tmp_path):
    assert run("sweep", "--out", "here")[0] == 0
    (tmp_path / "here" / "mark").write_text("")
    refused(run, "sweep", "--out", "here", parts=["here exists", "--overwrite"])
    assert (tmp_path / "here" / "mark").exists()
    assert run("sweep", "--out", "here", "--overwrite")[0] == 0
    assert not (tmp_path / "here" / "mark").exists()


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--beta", "-1"], ["beta=-1.0", "positive"]),
        (["--beta", "nan"], ["beta=nan", "positive"]),
        (["--beta", "hot"], ["--beta", "'hot'"]),
        (["--noise", "0"], ["noise=0.0", "positive"]),
        (["--particles", "4"], ["particles=4", "at least"]),
        (["--temperatures", "1"], ["temperatures=1", "at least 2"]),
        (["--runs", "0"], ["runs=0", "at least"]),
        (["--examples", "0"], ["examples=0", "at least 1"]),
        (["--seed", "-5"], ["seed=-5", "at least 0"]),
        (["--ess-target", "1.5"], ["ess_target=1.5", "between 0 and 1"]),
        (["--model", "resnet"], ["'resnet'", "linear, logistic", "mlp:16,8"]),
        (["--model", "mlp:16,0"], ["'mlp:16,0'", "mlp:16,8"]),
        (["digit"], ["'digit'", "did you mean digits"]),
        (["csv:none.csv", "--target", "y"], ["none.csv does not exist"]),
        (["--betta", "2"], ["--betta", "did you mean --beta"]),
        (["digits", "wine"], ["wine"]),
    ],
)
def test_bad_requests_are_one_line(run, argv, parts):
    refused(run, "sweep", *argv, parts=parts)


def test_bad_commands_are_one_line(run):
    refused(run, "swep", parts=["swep", "sweep, resume, report, doctor"])
    refused(run, "report", parts=["folder of the run"])
    refused(run, "report", "nowhere", parts=["nowhere is no folder"])


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_errors_of_the_request_leave_nothing_behind(run, kind):
    def run_sweep(config, *, progress, checkpoint):
        progress(0.0, "reading data")
        raise kind("data leaf x holds nan at index (0, 1):\n drop it")

    run.install(run_sweep)
    err = refused(run, "sweep", "wine", parts=["nan at index (0, 1): drop it"])
    assert "Traceback" not in err


def test_csv_errors_reach_the_user(run, tmp_path):
    def run_sweep(config, *, progress, checkpoint):
        datasets.load(config.data, target=config.target)

    (tmp_path / "t.csv").write_text("a,y\n1,0\nx,1\n")
    run.install(run_sweep)
    refused(run, "sweep", "csv:t.csv", "--target", "y", parts=["t.csv, line 3", "'a'", "'x'"])
    refused(run, "sweep", "csv:t.csv", parts=["--target", "a, y"])


def test_a_failure_under_way_is_no_user_error(run, tmp_path):
    def run_sweep(config, *, progress, checkpoint):
        progress(0.3, "rung 3")
        raise ValueError("inside")

    run.install(run_sweep)
    with pytest.raises(RuntimeError, match=r"digits-001\.partial"):
        run("sweep")
    assert (tmp_path / "runs" / "digits-001.partial" / "config.json").is_file()


@pytest.mark.parametrize("saved", [True, False])
def test_interruption(run, tmp_path, saved):
    def run_sweep(config, *, progress, checkpoint):
        if saved:
            checkpoint.mkdir()
        raise KeyboardInterrupt

    run.install(run_sweep)
    code, _, err = run("sweep")
    assert code == 130
    assert ("thermojax resume runs/digits-001" if saved else "nothing was written") in err
    assert (tmp_path / "runs").exists() is saved


def test_a_missing_extra_is_named(run, monkeypatch):
    monkeypatch.setattr("thermojax.plotting.save_figures", _SAVE_FIGURES)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("sweep")
    assert code == 2
    assert "matplotlib" in err
    assert "pip install 'thermojax[run]'" in err


def test_report_is_rebuilt(run, tmp_path):
    run("sweep", "--out", "here", "--quiet")
    page = tmp_path / "here" / "report.html"
    first = page.read_text()
    page.unlink()
    code, out, _ = run("report", "here")
    assert (code, out.strip()) == (0, os.path.join("here", "report.html"))
    assert page.read_text() == first


def test_help_is_short_and_complete(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for part in ("sweep", "report", "doctor", "thermojax sweep diabetes --model linear"):
        assert part in out
    assert run()[1] == out  # no arguments: help
    code, out, _ = run("sweep", "--help")
    assert code == 0
    for part in (
        "[DATA]",
        "csv:FILE",
        "--model",
        "--particles INT",
        "--overwrite",
        "target column",
    ):
        assert part in out
    assert "None" not in out


def test_doctor_prints_and_fails(run, monkeypatch):
    found = [doctor.Check("devices", True, "2 x cpu"), doctor.Check("sums", False, "off")]
    monkeypatch.setattr(doctor, "checks", lambda: iter(found))
    code, out, _ = run("doctor")
    assert code == 1
    assert out.splitlines()[:2] == ["pass  devices: 2 x cpu", "FAIL  sums: off"]
    monkeypatch.setattr(doctor, "checks", lambda: iter(found[:1]))
    assert run("doctor")[0] == 0


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.progress_bar("sweep digits", quiet=False) as show:
        show(0.25, "run 1, rung 3")
        show(0.5, "run 1, rung 6")
    for part in ("sweep digits", "50%", "ETA", "rung 6", "%/min"):
        assert part in screen.getvalue()
    silent = Terminal()
    monkeypatch.setattr(sys, "stderr", silent)
    with terminal.progress_bar("sweep digits", quiet=True) as show:
        show(0.5, "")
    assert silent.getvalue() == ""


_CORES = """
import os, sys
from thermojax import cli
cli._use_all_cores()
import jax
print(len(jax.devices()), len(os.sched_getaffinity(0)))
cli._use_all_cores()  # too late: no effect and no error
"""


@pytest.mark.parametrize("chosen", [None, "XLA_FLAGS", "JAX_NUM_CPU_DEVICES"])
def test_all_cores_unless_chosen(chosen):
    env = dict(os.environ, JAX_PLATFORMS="cpu")
    env.pop("XLA_FLAGS", None)
    values = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        "JAX_NUM_CPU_DEVICES": "3",
    }
    env |= {chosen: values[chosen]} if chosen else {}
    done = subprocess.run(
        [sys.executable, "-c", _CORES], env=env, capture_output=True, text=True, check=True
    )
    devices, cores = map(int, done.stdout.split())
    assert devices == (3 if chosen else cores)


@pytest.fixture
def toy(monkeypatch):
    """Every theory stands for a made-up result."""
    from thermojax.experiments import reproduction

    rows = [
        reproduction.claim("[ours]", "Heat pays", "above 0", "1.0 nats", [True]),
        reproduction.claim("[ours]", "Work is free", "never", "2.0 nats", [False]),
    ]

    def experiments(config, *, progress, keep):
        progress(0.5, "half")
        facts = {
            "experiment": "ppm",
            "draws": config.draws,
            "seconds": 1.0,
            "identities": [reproduction.identity("first law", 1.0, 1.0, 1e-3)],
        }
        return reproduction.Result({"x": np.zeros(2)}, facts, {})

    layout = reproduction.Page("toy", "A toy", "Nothing", {}, lambda arrays, folder: {})
    config = dataclasses.make_dataclass("Config", [("draws", int), ("seed", int)], frozen=True)
    made = reproduction.Theory(config, experiments, lambda a: rows, lambda a: {}, layout)
    monkeypatch.setattr(reproduction, "theory", lambda name: made)
    return lambda run: monkeypatch.setattr(
        reproduction, "theory", lambda name: dataclasses.replace(made, run=run)
    )


def test_reproduce_runs_theories_and_reports_them(run, toy, tmp_path):
    from thermojax.experiments import reproduction

    code, out, err = run("reproduce", "all", "--draws", 2, "--out", "both")
    assert (code, err) == (0, "")
    assert out.count("Heat pays") == len(reproduction.THEORIES)
    assert "0 of 1 identities close" in out
    for name in reproduction.THEORIES:
        config = json.loads((tmp_path / "both" / name / "config.json").read_text())
        assert config["settings"] == {"draws": 2, "seed": 0}
        assert "Work is free" in (tmp_path / "both" / name / "report.html").read_text()
    (tmp_path / "both/ppm/report.html").unlink()
    assert run("report", "both/ppm")[0] == 0
    assert (tmp_path / "both/ppm/report.html").exists()
    assert run("reproduce", "ppm", "--quiet") == (0, "", "")
    assert (tmp_path / "runs/ppm-001/summary.json").exists()


def test_reproduce_refuses_and_stops_in_one_line(run, toy, tmp_path):
    (tmp_path / "there/temperature").mkdir(parents=True)
    (tmp_path / "there/temperature/file").touch()
    refused(run, "reproduce", "all", "--out", "there", parts=("temperature", "--overwrite"))
    refused(run, "reproduce", "alchemy", parts=("alchemy",))
    refused(run, "reproduce", "laws", "--mnist", "there", parts=("--mnist", "representation"))

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    toy(stopped)
    code, out, err = run("reproduce", "ppm", "--out", "new")
    assert (code, out) == (130, "")
    assert "nothing was written" in err
    assert not (tmp_path / "new").exists()


def test_an_interrupted_reproduction_is_resumed(run, toy, tmp_path):
    from thermojax.experiments import reproduction

    whole = reproduction.theory("ppm").run

    def stopped(config, *, progress, keep):
        keep("first", lambda: {"x": np.zeros(2)})
        raise KeyboardInterrupt

    toy(stopped)
    code, _, err = run("reproduce", "ppm", "--out", "new", "--draws", 2)
    assert code == 130
    assert "go on with `thermojax resume new`" in err
    refused(run, "reproduce", "ppm", "--out", "new", parts=("unfinished", "resume new"))
    toy(whole)
    code, out, err = run("resume", "new")
    assert (code, err) == (0, "")
    assert "Heat pays" in out
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["settings"]["draws"] == 2
    refused(run, "resume", "new", parts=("finished",))
