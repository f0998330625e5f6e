"""Experiments E4 to E6 on tiny problems: paths, images with weights, claims that can fail."""

import dataclasses
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from thermojax.experiments.representation_data import DataConfig, Sizes, draws_of
from thermojax.experiments.representation_transfer import (
    FEW,
    METHODS,
    PAIRED,
    PATHS,
    TransferConfig,
    run_transfer,
)
from thermojax.experiments.representation_transfer_claims import (
    transfer_claims,
    transfer_identities,
    transfer_notes,
    transfer_numbers,
)
from thermojax.experiments.representation_transfer_paths import few_labels, kept, tasks
from thermojax.pictures_representation_transfer import CAPTIONS, figures

SMALL = TransferConfig(
    data=DataConfig(rows=120),
    sizes=Sizes(hidden=(8,), latent=2, batch=16),
    pretraining=100,
    points=3,
    blocks=3,
    short_blocks=3,
    block_steps=5,
    samples=2,
    few=2,
    pairs=12,
    pair_rows=20,
    epsilon=0.2,
)
NAMES = {"e4": METHODS, "e4_few": FEW, "e5": PAIRED, "e6": PATHS}


@pytest.fixture(scope="module")
def found():
    """Arrays of two draws, and what progress said."""
    said = []
    arrays = run_transfer(SMALL, (0, 1), lambda fraction, note: said.append(fraction))
    return arrays, said


@pytest.mark.slow
def test_arrays_have_draws_methods_and_points(found):
    arrays, said = found
    assert said == sorted(said)
    assert said[0] == 0
    for prefix, names in NAMES.items():
        shape = (2, len(names), SMALL.points + 1)
        for name in ("gam", "train_classification", "classification", "rate", "work", "force"):
            values = arrays[f"{prefix}_{name}"]
            assert values.shape == shape, (prefix, name)
            assert np.isfinite(values).all(), (prefix, name)
        assert arrays[f"{prefix}_t"].shape == shape[1:]
        assert np.all(arrays[f"{prefix}_t"][:, -1] == 1)
        assert arrays[f"{prefix}_accuracy"].shape == shape[:2]
        assert set(arrays[f"{prefix}_status"].ravel()) <= {"reached", "infeasible"}
    assert arrays["e6_converged"].all()
    assert np.all(arrays["e6_cost"][:, 1] < arrays["e6_cost"][:, 0])


@pytest.mark.slow
def test_methods_differ_as_their_names_say(found):
    arrays, _ = found
    gam, t = arrays["e4_gam"], arrays["e4_t"]
    at = METHODS.index
    for name in ("fixed", "fixed, short", "fine-tuning", "scratch"):
        np.testing.assert_allclose(gam[:, at(name)], SMALL.gam, rtol=1e-6)
    for name in ("iso-C, training", "iso-C, validation"):
        assert np.all(gam[:, at(name), 0] == pytest.approx(SMALL.gam))
        assert np.all(np.ptp(gam[:, at(name)], axis=-1) > 0)
    assert np.all(arrays["e4_lam"][:, at("authors"), -1] <= SMALL.lam * (1 + 1e-6))
    np.testing.assert_array_equal(t[at("fine-tuning")], [0, 1, 1, 1])
    np.testing.assert_array_equal(t[at("scratch")], np.ones(4))
    # one start under one cooling: what differs comes after
    starts = arrays["e4_train_classification"][..., 0]
    np.testing.assert_array_equal(
        starts[:, at("iso-C, training")], starts[:, at("fine-tuning")]
    )
    assert np.all(starts[:, at("scratch")] != starts[:, at("fine-tuning")])


@pytest.mark.slow
def test_work_on_the_mixture_path_adds_up(found):
    arrays, _ = found
    assert all(row["closes"] for row in transfer_identities(arrays))
    broken = arrays | {"e4_work": arrays["e4_work"] * 1.01}
    assert not transfer_identities(broken)[0]["closes"]


@pytest.mark.slow
def test_claims_tables_and_figures_are_made_of_a_run(found):
    arrays, _ = found
    rows = transfer_claims(arrays)
    assert {row["verdict"] for row in rows} <= {"holds", "fails", "open"}
    tables = transfer_numbers(arrays)
    assert [len(table) for table in tables.values()] == [len(n) for n in NAMES.values()]
    for table in tables.values():
        cells = [x["value"] for row in table for x in row.values() if isinstance(x, dict)]
        assert np.isfinite(cells).all()
    drawn = figures(arrays)
    assert drawn.keys() == CAPTIONS.keys()
    for figure in drawn.values():
        plt.close(figure)


def ideal(draws=3, points=25):
    """Arrays for which every claim holds."""
    arrays: dict[str, Any] = {}
    for prefix, names in NAMES.items():
        shape = (draws, len(names), points + 1)
        drift = {"fixed": 2.0, "fixed, short": 2.0, "authors": 0.6}
        rest = np.arange(points + 1) > 0
        loss = 0.06 * np.stack([1 + drift.get(name, 0.03) * rest for name in names])
        loss = np.broadcast_to(loss, shape)
        t = np.broadcast_to(np.linspace(0, 1, points + 1), shape[1:])
        arrays |= {
            f"{prefix}_t": t,
            f"{prefix}_accuracy": np.full(shape[:2], 0.96),
            f"{prefix}_status": np.full(shape[:2], "reached", dtype="<U10"),
            f"{prefix}_reason": np.full(shape[:2], "", dtype="<U80"),
        }
        for name in ("classification", "train_classification"):
            arrays[f"{prefix}_{name}"] = loss.copy()
        for name in ("gam", "lam", "force", "work", "train_rate", "train_distortion"):
            arrays[f"{prefix}_{name}"] = np.ones(shape)
    for prefix in ("e4", "e4_few"):
        arrays[f"{prefix}_accuracy"][:, 0] = 0.98 + 0.001 * np.arange(draws)
    displaced = PATHS.index("displacement, fixed")
    arrays["e6_force"][:, displaced] = arrays["e6_work"][:, displaced] = 0.5
    arrays["e6_status"][:, PATHS.index("displacement, iso-C")] = "infeasible"
    arrays["e6_reason"][:, PATHS.index("displacement, iso-C")] = "gam stands at t = 0.5"
    arrays["e6_cost"] = np.full((draws, 2), 3.0)
    return arrays


def failing(arrays):
    return [row["statement"] for row in transfer_claims(arrays) if row["verdict"] == "fails"]


def test_every_claim_holds_where_it_should():
    rows = transfer_claims(ideal())
    assert [row["verdict"] for row in rows] == ["holds"] * len(rows)
    words = transfer_notes(ideal())
    assert list(words) == ["E6, displacement, iso-C"]
    assert "3 of 3 draws: gam stands at t = 0.5" in words["E6, displacement, iso-C"]


@pytest.mark.parametrize(
    ("name", "method", "value", "words"),
    [
        ("e4_train_classification", 0, 0.05, ["constant C", "ramp", "order of", "released"]),
        ("e4_classification", 1, 0.09, ["not fitted"]),
        ("e4_train_classification", METHODS.index("fixed, short"), 0.13, ["short steps"]),
        ("e4_train_classification", METHODS.index("fixed"), 0.13, ["as far"]),
        ("e4_accuracy", 0, 0.955, ["all labels"]),
        ("e4_accuracy", 0, 0.94, ["learned", "all labels"]),
        ("e4_few_accuracy", 0, 0.96, ["few labels"]),
        ("e5_train_classification", 0, 0.09, ["another pair", "order of"]),
        ("e6_force", 1, 1.5, ["force"]),
        ("e6_work", 1, 1.5, ["dissipates"]),
        ("e6_status", 3, "reached", ["infeasible"]),
    ],
)
def test_each_claim_can_fail(name, method, value, words):
    arrays = ideal()
    part = arrays[name][-1:, method] if "accuracy" not in name else arrays[name][:, method]
    if part.ndim > 1 and "classification" in name:
        # a loss that is held at the wrong value from the first point on
        loss = {0.05: 0.12}.get(value, value)
        part[:, 1:] = loss
    else:
        part[...] = value
    found = failing(arrays)
    assert len(found) == len(words)
    for statement, word in zip(found, words, strict=True):
        assert word in statement


def test_one_draw_decides_no_advantage():
    rows = transfer_claims(ideal(draws=1))
    advantage = [row["verdict"] for row in rows if "fine-tuning" in row["statement"]]
    assert advantage == ["open", "open"]


@pytest.fixture(scope="module")
def small_tasks():
    return tasks(draws_of(SMALL.data, (0, 1)))


def test_tasks_have_one_shape_and_their_classes(small_tasks):
    even = small_tasks["e5"]
    shapes = [[np.shape(side.x) for side in task] for task in small_tasks.values()]
    assert shapes[0] == shapes[1]
    for side, odd in zip(even, (0, 1, 0, 1, 1), strict=True):
        weight = np.asarray(side.weight)
        np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-5)
        assert np.all(np.asarray(side.y)[weight > 0] % 2 == odd)
    # rows that fill up a side are no images of their own
    first = even.source
    rows = {x.tobytes() for x in np.asarray(first.x[0])}
    assert len(rows) == int((np.asarray(first.weight[0]) > 0).sum())


def test_few_labels_of_each_class_have_all_the_weight(small_tasks):
    side = few_labels(small_tasks["e4"].target, 2)
    weight, label = np.asarray(side.weight), np.asarray(side.y)
    for draw in range(2):
        used = label[draw][weight[draw] > 0]
        np.testing.assert_array_equal(np.sort(used), np.repeat(np.arange(5, 10), 2))
    np.testing.assert_allclose(weight[weight > 0], 0.1, rtol=1e-6)
    one: Any = kept(side, np.arange(weight.shape[1]) < np.argmax(weight[0] > 0) + 1)
    assert float(one.weight[0].max()) == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lam_min": 1.0}, "lam_min=1.0"),
        ({"gam": 0.0}, r"gam=0\.0"),
        ({"epsilon": -1.0}, r"epsilon=-1\.0"),
        ({"points": 0}, "points=0"),
        ({"blocks": 4}, "multiple of 3"),
        ({"sizes": Sizes(batch=1)}, "batch=1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(SMALL, **change)
