"""`thermojax llc` end to end: the folder, its numbers, and what it refuses."""

import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from thermojax import checkpoints
from thermojax.cli import main
from thermojax.experiments.llc import LlcConfig, run_llc, train

SMALL = ("--steps", "400", "--burn-in", "250", "--train-steps", "500", "--polish", "300")


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory):
    """Folder of a whole run, and what it printed."""
    out, printed = tmp_path_factory.mktemp("llc") / "run", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["llc", "diabetes", *SMALL, "--weight-decay", "0", "--out", str(out)]) == 0
    return out, printed.getvalue()


@pytest.mark.slow
def test_run_folder_and_known_answer(diabetes):
    """Linear regression is regular: half its ten parameters, less what the tether takes."""
    out, printed = diabetes
    files = [p.relative_to(out) for p in out.rglob("*") if p.is_file()]
    names = {str(p) for p in files if p.parts[0] != "checkpoint"}
    pictures = {f"figures/{name}.png" for name in ("chains", "sensitivity", "basin")}
    assert names == {"config.json", "result.npz", "summary.json", "report.html"} | pictures
    summary = json.loads((out / "summary.json").read_text())
    found = summary["llc"]
    data = tj.exact.diabetes().system.data[0]
    beta = 1 / np.log(len(data))
    curves = beta * np.linalg.eigvalsh(np.asarray(data, float).T @ np.asarray(data, float))
    curves = curves / 0.7**2
    exact = 0.5 * np.sum(curves / (curves + 1))
    assert abs(found["value"] - exact) < 4 * found["stderr"]
    assert found["stderr"] < 0.2
    assert abs(summary["quadratic"] - exact) < 1e-3
    assert found["trusted"], found["reasons"]
    assert summary["rank"] == 10
    assert summary["beta"] == pytest.approx(beta)
    assert summary["base_point"] < 0.01
    assert "local learning coefficient =" in printed
    assert "trusted" in printed
    arrays = np.load(out / "result.npz")
    assert arrays["llc_trace"].shape == (400, 8)
    assert arrays["llc_factor"].tolist() == pytest.approx([1 / 3, 1, 3])
    assert np.all(np.diff(arrays["train_energy"]) <= 1e-3)


@pytest.mark.slow
def test_report_is_rebuilt(diabetes, capsys):
    page = diabetes[0] / "report.html"
    first = page.read_text()
    page.unlink()
    assert main(["report", str(diabetes[0])]) == 0
    assert page.read_text() == first
    for part in ("thermojax · llc", "Chains", "Other settings", "tether γ × 3"):
        assert part in first
    assert first.count("data:image/png") == 3


def test_training_reaches_a_minimum():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
    y = x @ jnp.array([1.0, 2.0, -1.0]) + jnp.asarray(rng.normal(size=50), jnp.float32)
    sys = tj.from_flax(tj.mlp((), 1, bias=False), tj.gaussian_loss(1.0), (x, y))
    start = {"Dense_0": {"kernel": jnp.zeros((3, 1))}}
    theta, losses = train(sys, start, 250, 0.1, 100)
    best = jnp.linalg.lstsq(x, y)[0]
    np.testing.assert_allclose(theta["Dense_0"]["kernel"][:, 0], best, atol=1e-4)
    assert losses[0] > losses[-1]
    assert losses[-1] == pytest.approx(0.5 * float(jnp.sum((x @ best - y) ** 2)), rel=1e-4)


@pytest.mark.slow
def test_interrupted_again_and_again_it_ends_the_same(diabetes, tmp_path, monkeypatch, capsys):
    """Stopped while training, among the chains and among the other settings."""
    out, keep, left = tmp_path / "run", checkpoints.save_checkpoint, [0]

    def patient(folder, tree):
        keep(folder, tree)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_checkpoint", patient)
    arguments = ["llc", "diabetes", *SMALL, "--weight-decay", "0", "--out", str(out)]
    for left[0] in (1, 4, 9):
        assert main(arguments) == 130
        assert f"go on with `thermojax resume {out}`" in capsys.readouterr().err
        arguments = ["resume", str(out)]
    assert (out.with_name("run.partial") / "checkpoint" / "settings").exists()
    assert main(arguments) == 0
    one, two = np.load(diabetes[0] / "result.npz"), np.load(out / "result.npz")
    assert one.files == two.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_interruption_leaves_nothing(tmp_path, monkeypatch, capsys):
    def stopped(config, *, progress, checkpoint):
        raise KeyboardInterrupt

    monkeypatch.setattr("thermojax.experiments.llc.run_llc", stopped)
    assert main(["llc", "diabetes", "--out", str(tmp_path / "out")]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "--model", "cnn"], "model='cnn'"),
        (["digits", "--beta", "-1"], "beta=-1"),
        (["digits", "--gamma", "0"], "gamma=0"),
        (["digits", "--chains", "1"], "chains=1"),
        (["diabetes", "--model", "logistic"], "does not fit a regression"),
        (["irises"], "irises"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(arguments, said, tmp_path, capsys):
    assert main(["llc", *arguments, "--out", str(tmp_path / "deep" / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_digits_by_default():
    result = run_llc(LlcConfig(sensitivity=False), progress=None)
    assert result.summary["llc"]["trusted"], result.summary["llc"]["reasons"]
    assert 30 < result.summary["llc"]["value"] < 70
    assert jax.tree.all(
        jax.tree.map(np.all, {"finite": np.isfinite(result.arrays["llc_trace"])})
    )
