"""Experiments X1 to X4 on a few digits: arrays, identities, pictures, claims that can fail."""

import numpy as np
import pytest

from thermojax.experiments.representation_exact import ExactConfig, run_exact
from thermojax.experiments.representation_exact_claims import (
    exact_claims,
    exact_identities,
    exact_numbers,
)
from thermojax.experiments.representation_table import TableConfig
from thermojax.pictures_representation_exact import CAPTIONS, figures
from thermojax.plotting import save_png

SMALL = ExactConfig(
    examples=120,
    codes=3,
    restarts=1,
    points=9,
    free_points=2,
    gams=(0.0, 0.5, 0.9),
    places=((0.08, 0.0), (0.16, 0.0)),
    place_codes=3,
    lams=(0.1, 0.3, 1.0, 3.0),
    latents=2,
    table=TableConfig(
        lams=(0.2, 1.0, 2.0, 3.0), gams=(0.0, 1.0, 2.0, 3.0), points=21, steps=(1, 2, 16)
    ),
)


@pytest.fixture(scope="module")
def found():
    """Two draws, and what progress said."""
    said = []
    arrays = run_exact(SMALL, (0, 1), lambda fraction, note: said.append(fraction))
    return arrays, said


def verdict(arrays, start):
    """Verdict of the claim whose statement begins like this."""
    (row,) = [r for r in exact_claims(arrays) if r["statement"].startswith(start)]
    return row["verdict"]


def test_identities_close(found):
    rows = exact_identities(found[0])
    assert len(rows) == 14
    assert [row["name"] for row in rows if not row["closes"]] == []


def test_arrays_lead_with_the_draw(found):
    arrays, said = found
    assert said == sorted(said)
    for name, values in arrays.items():
        if name.startswith("x1_") or name == "x2_place_rate":
            assert len(values) == 2, name
        if np.issubdtype(values.dtype, np.floating):
            assert values.dtype == np.float64, name
    assert arrays["x1_gam"].shape == (2, 9)
    assert arrays["x1_converged"].all()
    np.testing.assert_allclose(arrays["x1_lam"][0], np.linspace(0.5, 0.3, 9))


def test_the_process_holds_c(found):
    assert verdict(found[0], "Iso-classification holds C") == "holds"
    drifting = found[0] | {"x1_classification": found[0]["x1_classification"].copy()}
    drifting["x1_classification"][1, -1] *= 1 + 1e-5
    assert verdict(drifting, "Iso-classification holds C") == "fails"
    rising = found[0] | {"x1_rate": found[0]["x1_rate"][:, ::-1]}
    assert verdict(rising, "Iso-classification trades") == "fails"


def test_a_path_that_ends_early_is_read_to_its_end(found):
    lasts = "A branch of a codebook lasts"
    assert verdict(found[0], lasts) == "holds"
    short = dict(found[0])
    for name in ("lam", "gam", "rate", "distortion", "classification", "free_energy"):
        short[f"x1_{name}"] = found[0][f"x1_{name}"].copy()
        short[f"x1_{name}"][1, 5:] = np.nan
    short["x1_reached"] = np.array([True, False])
    assert verdict(short, lasts) == "fails"
    assert verdict(short, "Iso-classification holds C") == "holds"
    trade = verdict(found[0], "Iso-classification trades")
    assert trade == verdict(short, "Iso-classification trades") == "holds"
    end = exact_numbers(short)["Exact process of a codebook on the digits (nats per example)"]
    assert end[1]["lam"]["value"] == pytest.approx((0.3 + 0.4) / 2)


def test_a_step_off_the_branch_is_seen(found):
    arrays, closes = found[0], "Where a codebook leaves"
    assert verdict(arrays, closes) == "holds"
    jump = {name: arrays[name].copy() for name in ("x1_relative", "x1_residual")}
    jump["x1_relative"][0, 2], jump["x1_residual"][0, 2] = 0.5, -0.01
    jump["x1_first_law"] = jump["x1_residual"].sum(1)
    assert verdict(arrays | jump, "First law") == "fails"
    assert verdict(arrays | jump, "A branch of a codebook lasts") == "fails"
    assert verdict(arrays | jump, closes) == "holds"
    jump["x1_residual"][0, 2] = 0.01  # free energy cannot rise by itself
    assert verdict(arrays | jump, closes) == "fails"


@pytest.mark.parametrize(
    ("start", "name", "change"),
    [
        ("The equilibrium surface", "x4_free_energy", lambda a: a + 1e-6),
        ("The linear R(D)", "x3_rate", lambda a: 2 * a),
        ("No finite step", "x4_wasted_least", lambda a: a - 1),
        ("A first code", "x2_place_rate", lambda a: a[:, ::-1]),
        ("Labels help", "x2_lam", lambda a: a[::-1]),
        ("Linear modes", "x3_active", lambda a: a[::-1]),
        ("n times the work", "x4_wasted", lambda a: a[::-1]),
        ("The same process", "x4_transfer_classification", lambda a: a * np.linspace(1, 2, 21)),
        ("A C that no gam", "x4_transfer_status", lambda a: np.full_like(a, "reached")),
    ],
)
def test_claims_hold_and_can_fail(found, start, name, change):
    arrays = found[0]
    assert verdict(arrays, start) == "holds"
    assert verdict(arrays | {name: change(arrays[name])}, start) == "fails"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x3_chi", lambda a: 2 * a),
        ("x4_maxwell", lambda a: a * np.array([1, 1, -1])),
        ("x4_transfer_gam", lambda a: np.nan_to_num(a)),
        ("x2_lam_closed", lambda a: a + 1e-6),
    ],
)
def test_identities_can_fail(found, name, change):
    rows = exact_identities(found[0] | {name: change(found[0][name])})
    assert any(not row["closes"] for row in rows)


def test_numbers_and_pictures(found, tmp_path):
    tables = exact_numbers(found[0])
    assert [len(rows) for rows in tables.values()] == [3, 2, 3, 4]
    paths = save_png(figures(found[0]), tmp_path)
    assert set(paths) == set(CAPTIONS)
    assert all(path.stat().st_size > 10_000 for path in paths.values())


@pytest.mark.parametrize(
    "change",
    [
        {"codes": 0},
        {"points": 2},
        {"examples": 1},
        {"gams": (0.1, 0.5)},
        {"gams": (0.0, 1.0)},
        {"lams": (1.0, 0.5, 2.0)},
    ],
)
def test_settings_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ExactConfig(**change)


@pytest.mark.parametrize(
    "change", [{"steps": (4, 2)}, {"points": 8}, {"step": 1.0}, {"lams": (0.5, 1.0)}]
)
def test_table_settings_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TableConfig(**change)


@pytest.mark.nightly
def test_all_digits_agree_with_the_specification():
    config = ExactConfig(codes=4, restarts=1, points=3, free_points=2)
    arrays = run_exact(config, (0,))
    rows = exact_identities(arrays)
    assert [row["name"] for row in rows if not row["closes"]] == []
    assert len(rows) == 17
    np.testing.assert_allclose(
        arrays["x2_place_strength"], [0.9318, 1.0871, 0.9921, 1.0410], atol=5e-5
    )
    np.testing.assert_allclose(arrays["x2_place_rate"][0], [0, 0.1425, 0, 0.1494], atol=6e-5)
