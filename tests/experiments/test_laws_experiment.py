"""Experiments A to E on tiny networks: run folder, identities, and claims that can fail."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.experiments.interrupted import in_two_goes
from thermojax.experiments.laws import THEORY, LawsConfig
from thermojax.experiments.laws_claims import claims, identities
from thermojax.experiments.laws_depth import DepthConfig
from thermojax.experiments.laws_ensemble import EnsembleConfig, run_ensemble
from thermojax.experiments.laws_thermodynamics import StatesConfig, run_thermodynamics
from thermojax.experiments.laws_training import TrainingConfig, digits, train_networks
from thermojax.theories.learning_laws.settling import boundary_loss

TINY = TrainingConfig(rows=40, networks=3, width=4, batch=8)
SMALL = LawsConfig(
    draws=2,
    states=StatesConfig(
        training=TINY,
        depth=1,
        every=40,
        checkpoints=(0, 40, 80),
        betas=(1.0, 10.0),
        probes=2,
        spacing=40,
        refinements=(4, 8),
    ),
    ensemble=EnsembleConfig(members=64, readings=(5, 10)),
    depth=DepthConfig(training=TINY, depths=(1, 2), steps=40, probes=2),
)
DRAWS = (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole run folder, of a run interrupted once, and what progress said."""
    out = tmp_path_factory.mktemp("laws") / "run"
    return out, in_two_goes(THEORY, SMALL, out)


def result_of(folder):
    facts = json.loads((folder / "summary.json").read_text())
    return dict(np.load(folder / "result.npz")), facts


@pytest.mark.slow
def test_run_folder_is_complete(folder):
    out, said = folder
    assert {p.name for p in out.iterdir()} == {
        "config.json",
        "figures",
        "report.html",
        "result.npz",
        "summary.json",
    }
    names = {f"{name}.png" for name in THEORY.page.captions}
    assert {p.name for p in (out / "figures").iterdir()} == names
    page = (out / "report.html").read_text()
    assert page.count("<img") == len(names) == 3
    assert page.count("Criterion:") == len(claims(result_of(out)[0]))
    assert said == sorted(said)
    assert said[-1] == 1.0
    with pytest.raises(FileExistsError):
        THEORY.reproduce(SMALL, out)


@pytest.mark.slow
def test_arrays_have_their_axes_and_are_finite(folder):
    arrays, facts = result_of(folder[0])
    assert all(np.isfinite(values).all() for values in arrays.values())
    assert arrays["a_entropy"].shape == (2, 3, 3)  # draw, network, checkpoint
    assert arrays["b_log_z"].shape == (2, 3, 3, 2)
    assert arrays["c_residual"].shape == (2, 2)
    assert arrays["d_change"].shape == (2, 2, 5)
    assert arrays["e_efficiency"].shape == (2, 2, 3, 3)  # draw, depth, network, beta
    assert arrays["e_size"].tolist() == 2 * [[64 * 4 + 4 + 50, 64 * 4 + 4 + 20 + 50]]
    assert {name[0] for name in arrays} == set("abcde")
    assert facts["numbers"]["depth"][1]["parameters"] == 330
    assert sum(facts["verdicts"].values()) == len(facts["claims"])


@pytest.mark.slow
def test_the_small_run_obeys_what_is_exact(folder):
    arrays, facts = result_of(folder[0])
    assert len(facts["identities"]) == 4
    assert all(row["closes"] for row in facts["identities"]), facts["identities"]
    # bounded from below by the least bulk loss, which beta* weighs: beta* H_min = n_out / 2
    assert np.all(arrays["a_least_energy"] <= arrays["a_loss"])
    np.testing.assert_allclose(arrays["a_beta"] * arrays["a_least_energy"], 5.0, rtol=1e-12)
    # at beta* dU = (n_h + n_out) / n_h T dS_ref: 4 hidden units and 10 outputs
    np.testing.assert_allclose(arrays["c_ratio"], 3.5)
    du, missed = arrays["c_delta_u"][:, -1], arrays["c_residual_th"][:, -1]
    np.testing.assert_allclose(du / (du - missed), 3.5, rtol=1e-3)
    assert np.all(arrays["a_loss"][..., -1] < arrays["a_loss"][..., 0])
    # the temperature at which a claim is read is one of the axes
    hot = arrays["e_efficiency"][..., 0] - arrays["e_complexity_laplacian"]
    warm = arrays["e_efficiency"][..., 1] - arrays["e_complexity_laplacian"] / 10
    np.testing.assert_allclose(hot, warm, rtol=1e-10)


@pytest.mark.slow
def test_a_seed_gives_its_numbers_again(folder):
    """Draw 1 of the run, by itself; and draw 0 is another one."""
    arrays, _ = result_of(folder[0])
    silent = lambda fraction, note: None
    again = run_ensemble(SMALL.ensemble, 1, silent)
    again |= run_thermodynamics(SMALL.states, 1, silent)
    assert len(again) > 20
    for name, values in again.items():
        np.testing.assert_array_equal(values, arrays[name][1], err_msg=name)
    for name in ("a_entropy", "c_heat", "d_change"):
        assert not np.any(arrays[name][0] == arrays[name][1]), name


@pytest.mark.slow
def test_identities_can_fail(folder):
    arrays, _ = result_of(folder[0])
    broken = {
        "a_complexity": arrays["a_complexity"] + 1e-6,
        "a_excess": arrays["a_excess"] * (1 + 1e-6 * np.arange(3)),
        "c_residual": arrays["c_residual"] + 0.01 * arrays["c_delta_u"],
        "c_ratio": 1.1 * arrays["c_ratio"],
    }
    for name, values in broken.items():
        assert not all(r["closes"] for r in identities({**arrays, name: values})), name


def ideal():
    """Arrays in which everything is as claimed: two draws, three networks and checkpoints."""
    down = np.array([10.0, -10.0, -30.0])
    ones = np.ones((2, 3, 3))
    du = np.full((2, 2), -1.0)
    change = np.zeros((2, 2, 5))
    change[:, 0] = [-2.0, -1.9, -2.05, -1.8, -1.7]  # log det, first order, whitened, plain, fit
    change[:, 1] = [-4.5, -3.9, -4.2, -3.2, -3.0]
    growing = np.ones((2, 2, 3, 2)) * np.array([1.0, 4.0])[:, None, None]
    return {
        "a_step": np.array([0, 100, 300]),
        "a_entropy": ones * down,
        "a_fixed_entropy": ones[..., None] * down[:, None],
        "a_complexity": -7 * ones,
        "a_energetic": 0.1 * ones,
        "a_efficiency": 30 * ones,
        "a_efficiency_stderr": ones,
        "a_loss_laplacian": 50 * ones,
        "b_fraction": np.array([[0.5, 0.2, 0.05]] * 2),
        "b_rms": np.array([[0.6, 0.1, 0.02]] * 2),
        "c_delta_u": du,
        "c_residual": 0.001 * du,
        "c_defect": np.array([[4e-3, 1e-3]] * 2),
        "c_residual_th": 0.01 * du,
        "c_residual_sum": 0.01 * du,
        "c_delta_complexity": np.full(2, 0.2),
        "c_delta_entropy_ref": np.full(2, -20.0),
        "c_ratio": np.full(2, 1.3),
        "d_step": np.array([10, 20]),
        "d_change": change,
        "e_depth": np.array([1, 8]),
        "e_fixed_beta": np.array([1.0]),
        "e_efficiency": growing,
        "e_size": np.array([[100, 200]] * 2),
        "e_complexity_laplacian": growing[..., 0],
    }


def in_last_draw(arrays, name, values):
    """The array with its last draw replaced: a claim must hold in every one."""
    changed = np.array(arrays[name])
    changed[-1] = values
    return {**arrays, name: changed}


def failing(arrays):
    return {row["statement"] for row in claims(arrays) if row["verdict"] == "fails"}


def test_every_claim_holds_where_all_is_as_claimed():
    rows = claims(ideal())
    assert {row["verdict"] for row in rows} == {"holds", "open"}
    assert {row["mark"] for row in rows} == {"[paper]", "[paper?]", "[standard]", "[ours]"}
    assert len({row["statement"] for row in rows}) == len(rows)


VIOLATIONS = {
    # array and its values in one draw, and the beginnings of the claims that then fail
    "second law, one rise": ("a_entropy", [10.0, -40.0, -39.0], ("Second law",)),
    "second law, a small fall": ("a_entropy", [10.0, 5.0, -9.0], ("Second law",)),
    "fixed temperature": ("a_fixed_entropy", [[1.0], [0.0], [0.1]], ("The second law holds",)),
    "complexity": ("a_complexity", [-7.0, -3.0, 0.0], ("What falls",)),
    "factorisation, fraction": ("b_fraction", [0.5, 0.5, 0.2], ("At a learning equil",)),
    "factorisation, rms": ("b_rms", [0.6, 0.2, 0.1], ("At a learning equil",)),
    "energetic force": ("a_energetic", 0.9, ("Trained networks sit",)),
    "first law, residual": ("c_residual", 0.02, ("First law: dU = T dS +",)),
    "first law, order": ("c_defect", [2e-3, 1e-3], ("First law: dU = T dS +",)),
    "first reading": ("c_residual_th", 0.2, ("dU = T dS_ref:",)),
    "second reading": ("c_residual_sum", -0.2, ("dU = T (dS_ref + dC)",)),
    "destruction, sign": ("a_efficiency", -30.0, ("Learning destroys",)),
    "destruction, error": ("a_efficiency_stderr", 20.0, ("Learning destroys",)),
    "ensemble": (
        "d_change",
        [[-2.0, -1.9, -1.8, -1.7, -1.6], [-4.5, -3.9, -4.45, -3.2, -3.0]],
        ("Entropy of an ensemble", "Density estimates lag"),
    ),
    "depth, hot": (
        "e_efficiency",
        [[[1.0, 1.0]] * 3, [[1.2, 4.0]] * 3],
        ("Deeper networks", "Per parameter"),
    ),
    "depth, cold": ("e_efficiency", [[[1.0, 1.0]] * 3, [[4.0, 0.6]] * 3], ("It does so",)),
    "depth, complexity": (
        "e_complexity_laplacian",
        [[1.0] * 3, [1.9] * 3],
        ("The growth with depth",),
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_claim_fails_where_one_draw_violates_it(name):
    array, values, beginnings = VIOLATIONS[name]
    failed = failing(in_last_draw(ideal(), array, values))
    assert len(failed) == len(beginnings)
    assert all(any(s.startswith(b) for s in failed) for b in beginnings), failed


def test_every_claim_with_a_criterion_is_violated_once():
    undecided = {row["statement"] for row in claims(ideal()) if row["verdict"] == "open"}
    seen = set()
    for array, values, _ in VIOLATIONS.values():
        seen |= failing(in_last_draw(ideal(), array, values))
    assert {row["statement"] for row in claims(ideal())} - undecided == seen


def test_images_are_drawn_without_replacement():
    data, other = digits(1797, 0), digits(40, 1)
    assert data["x"].shape == (1797, 64)
    assert float(data["x"].max()) == 1.0
    np.testing.assert_array_equal(data["y"].sum(axis=1), 1.0)
    assert not np.array_equal(other["x"], data["x"][:40])
    order = lambda x: np.sort(np.asarray(x, float) @ np.sqrt(np.arange(1.0, 65.0)))
    np.testing.assert_allclose(order(data["x"]), order(digits(1797, 5)["x"]), rtol=1e-5)


@pytest.mark.slow
def test_training_is_plain_sgd():
    """One step of one network by hand; networks differ in starts and batches."""
    config = dataclasses.replace(TINY, batch=400)  # drawn with replacement: nearly all rows
    with jax.enable_x64(True):
        record = train_networks(config, 1, 0, every=1, count=1)
        assert record.params[0][0].shape == (3, 2, 4, 64)
        assert not np.array_equal(*record.params[0][0][:2, 0])
        np.testing.assert_array_equal(record.params[0][1][:, 0], 0.0)
        start, end = (jax.tree.map(lambda x, t=t: x[0, t], record.params) for t in (0, 1))
        loss = lambda q: boundary_loss(record.system, q, record.data, "mean")
        force = jax.grad(loss)(start)
        flat = lambda tree: np.asarray(ravel_pytree(tree)[0])
        moved, along = flat(start) - flat(end), flat(force)
    # the batch's gradient is the mean one with sampling error of 1/sqrt(400)
    assert moved @ along / (along @ along) == pytest.approx(config.rate, rel=0.15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LawsConfig(draws=0), "draws=0"),
        (lambda: LawsConfig(seed=-1), "seed=-1"),
        (lambda: TrainingConfig(rows=2000), "rows=2000"),
        (lambda: TrainingConfig(width=0), "width=0"),
        (lambda: TrainingConfig(batch=0), "batch=0"),
        (lambda: TrainingConfig(networks=1), "networks=1"),
        (lambda: TrainingConfig(rate=0.0), r"rate=0\.0"),
        (lambda: StatesConfig(checkpoints=(0, 110)), "multiples of every=20"),
        (lambda: StatesConfig(checkpoints=(100, 0)), "must rise"),
        (lambda: StatesConfig(spacing=30), "spacing=30"),
        (lambda: StatesConfig(checkpoints=(2000,)), "at least two"),
        (lambda: StatesConfig(checkpoints=(0, 100)), "multiple of spacing=80"),
        (lambda: StatesConfig(betas=(1.0, 0.0)), r"betas=\(1\.0, 0\.0\)"),
        (lambda: StatesConfig(refinements=(2, 6)), r"refinements=\(2, 6\)"),
        (lambda: EnsembleConfig(members=8), "members=8"),
        (lambda: EnsembleConfig(beta=-1.0), r"beta=-1\.0"),
        (lambda: EnsembleConfig(rate=0.0), r"rate=0\.0"),
        (lambda: EnsembleConfig(readings=(10, 5)), r"readings=\(10, 5\)"),
        (lambda: DepthConfig(depths=(3,)), r"depths=\(3,\)"),
        (lambda: DepthConfig(depths=(0, 1)), r"depths=\(0, 1\)"),
        (lambda: DepthConfig(steps=0), "steps=0"),
        (lambda: DepthConfig(betas=(0.0,)), r"betas=\(0\.0,\)"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)
    assert "must" in str(raised.value) or "be " in str(raised.value)
    assert ". " not in str(raised.value)
