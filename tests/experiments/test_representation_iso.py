"""Experiment E2 on tiny networks, claims that can fail, and both figures."""

import numpy as np
import pytest

from thermojax.experiments.representation_data import DataConfig, Sizes
from thermojax.experiments.representation_iso import (
    CONTROLS,
    IsoConfig,
    iso_claims,
    iso_identities,
    iso_numbers,
    run_iso,
)
from thermojax.pictures_representation_surface import CAPTIONS, process
from thermojax.plotting import save_png
from thermojax.theories.representation.ledger import first_law_residual
from thermojax.theories.representation.quantities import Functionals, Multipliers, Trajectory

POINTS = 4
TINY = IsoConfig(
    data=DataConfig(rows=100),
    sizes=Sizes(hidden=(8,), latent=2, batch=16, learning_rate=1e-2),
    pretraining=100,
    points=POINTS,
    blocks=3,
    block_steps=5,
    samples=2,
)


def quasi_static(draws=3, points=400):
    """A path of exact equilibria: two labelled modes of a linear-Gaussian task.

    Iso-classification keeps the labelled mode's a = lam + gam at 2; a second mode knows only
    lam. D = 1/(2 a) + 1/(2 lam), C = 1/(2 a), R = log(a lam)/2, in nats.
    """
    lam = np.geomspace(0.1, 1.0, points)
    gam = np.stack([5.1 - lam, np.full(points, 5.0)])
    a = lam + gam
    both = {
        "rate": np.log(a * lam) / 2 + 3,
        "distortion": 1 / (2 * a) + 1 / (2 * lam),
        "classification": 1 / (2 * a),
    }
    free = both["rate"] + lam * both["distortion"] + gam * both["classification"]
    work = both["distortion"][:, :-1] * np.diff(lam)
    work = work + both["classification"][:, :-1] * np.diff(gam)
    lost = free[:, :-1] + work - free[:, 1:]
    found = {f"e2_{name}": values for name, values in both.items()}
    found |= {f"e2_train_{name}": values for name, values in both.items()}
    found |= {
        "e2_gam": gam,
        "e2_work": np.concatenate([np.zeros((2, 1)), lost], axis=1),
        "e2_stderr": np.full((2, points), 1e-3),
        "e2_grad_norm": np.zeros((2, points)),
        "e2_accuracy": np.array([0.97, 0.98]),
    }
    found = {name: np.stack([values] * draws) for name, values in found.items()}
    return found | {"e2_lam": lam, "e2_start_accuracy": np.full(draws, 0.97)}


def verdicts(arrays):
    return [row["verdict"] for row in iso_claims(arrays)]


@pytest.fixture(scope="module")
def run():
    said = []
    return run_iso(TINY, (0, 1), lambda fraction, note: said.append(fraction)), said


@pytest.mark.slow
def test_arrays_have_their_shapes(run):
    arrays, said = run
    for name in ("gam", "rate", "train_distortion", "classification", "stderr", "work"):
        assert arrays[f"e2_{name}"].shape == (2, 2, POINTS + 1)
    assert arrays["e2_error"].shape == (2, 2, POINTS, 3)
    assert arrays["e2_accuracy"].shape == (2, 2)
    assert arrays["e2_start_accuracy"].shape == (2,)
    np.testing.assert_allclose(arrays["e2_lam"], np.geomspace(0.1, 1.0, POINTS + 1), rtol=1e-5)
    assert all(np.all(np.isfinite(values)) for values in arrays.values())
    assert said == sorted(said)


@pytest.mark.slow
def test_both_start_from_the_same_network(run):
    arrays, _ = run
    for name in ("rate", "distortion", "classification", "train_rate", "gam"):
        both = arrays[f"e2_{name}"][..., 0]
        np.testing.assert_allclose(both[:, 0], both[:, 1], rtol=1e-4)
    assert np.all(np.abs(arrays["e2_rate"][0, :, 0] - arrays["e2_rate"][1, :, 0]) > 1e-3)


@pytest.mark.slow
def test_control_moves_gam_and_its_absence_does_not(run):
    """gam falls where the held-out C was below its target, and is fixed without feedback."""
    arrays, _ = run
    np.testing.assert_allclose(arrays["e2_gam"][:, 1], 5.0, rtol=1e-5)
    moved = np.log(arrays["e2_gam"][:, 0, -1] / 5.0)
    # log gam is the sum of the integral's moves and the last proportional one
    errors = np.clip(arrays["e2_error"][:, 0], -1, 1).reshape(2, -1)
    np.testing.assert_allclose(moved, 0.2 * errors.sum(1) + errors[:, -1], atol=1e-3)


@pytest.mark.slow
def test_identity_closes_and_can_open(run):
    arrays, _ = run
    assert all(row["closes"] for row in iso_identities(arrays))
    arrays = arrays | {"e2_work": 1.01 * arrays["e2_work"]}
    assert not any(row["closes"] for row in iso_identities(arrays))


def test_exact_equilibria_meet_every_claim():
    arrays = quasi_static()
    assert verdicts(arrays) == ["holds"] * 5
    assert all(row["closes"] for row in iso_identities(arrays))


def test_first_law_is_that_of_the_ledger():
    """The residual of the claim is the library's, also off equilibrium."""
    arrays = quasi_static(draws=1, points=30)
    arrays["e2_train_rate"] = arrays["e2_train_rate"] * 1.3
    ((_, rows),) = iso_numbers(arrays).items()
    (row,) = (row for row in rows if row["quantity"] == "relative first-law residual")
    for k, control in enumerate(CONTROLS):
        seen = Functionals(*(arrays[f"e2_train_{name}"][0, k] for name in Functionals._fields))
        tau = Multipliers(arrays["e2_lam"], arrays["e2_gam"][0, k])
        path = Trajectory(np.zeros(30), tau, seen, np.zeros(30))
        expected = abs(float(first_law_residual(path, relative=True)))
        assert row[control]["value"] == pytest.approx(expected, rel=1e-4)
        assert expected > 0.05


def test_claims_can_fail():
    def change(name, values):
        return quasi_static() | {name: values}

    base = quasi_static()
    drifting = base["e2_classification"].copy()
    drifting[1, 0] *= np.linspace(1, 1.5, drifting.shape[-1])
    falling = base["e2_train_rate"][..., ::-1]
    still = base["e2_classification"][:, [0, 0]]
    gam = base["e2_gam"][..., ::-1]
    for place, name, values in (
        (0, "e2_classification", drifting),
        (1, "e2_train_rate", falling),
        (1, "e2_train_distortion", base["e2_train_distortion"][..., ::-1]),
        (2, "e2_classification", drifting),
        (3, "e2_gam", gam),
        (4, "e2_train_rate", 3 * base["e2_train_rate"]),
    ):
        assert verdicts(change(name, values))[place] == "fails", name
    # a loss that holds by itself needs no control
    same = change("e2_classification", still * (1 + 1e-3 * np.arange(still.shape[-1])))
    assert verdicts(same)[2] == "fails"


def test_a_noisy_target_widens_the_criterion():
    arrays = quasi_static()
    loss = arrays["e2_classification"]
    loss[:, 0, 1:] *= 1.2
    assert verdicts(arrays)[0] == "fails"
    arrays["e2_stderr"] = 0.05 * loss
    assert verdicts(arrays)[0] == "holds"


def test_figure_shows_both_controls(tmp_path):
    arrays = quasi_static(points=20)
    drawn = process(arrays)
    held, trade, control = drawn.get_axes()
    curves = {line.get_label(): line.get_ydata() for line in held.get_lines()}
    loss = arrays["e2_classification"][0]
    np.testing.assert_allclose(curves["iso-classification"], 1.0)
    np.testing.assert_allclose(curves["fixed γ"], loss[1] / loss[1, 0])
    assert len(trade.get_lines()) == 6
    gam = {line.get_label(): line.get_ydata() for line in control.get_lines()}
    np.testing.assert_allclose(gam["iso-classification"], 5.1 - arrays["e2_lam"])
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.get_axes())
    assert save_png({"process": drawn}, tmp_path)["process"].stat().st_size > 10_000
    assert set(CAPTIONS) == {"surface", "process"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lam": 0.0}, "lam=0.0"),
        ({"lam_end": 0.05}, "must rise"),
        ({"gam": -1.0}, "gam=-1.0"),
        ({"points": 0}, "points=0"),
        ({"blocks": 0}, "blocks=0"),
        ({"pretraining": 0}, "pretraining=0"),
        ({"rows": 1}, "rows=1"),
    ],
)
def test_settings_without_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        IsoConfig(**settings)
