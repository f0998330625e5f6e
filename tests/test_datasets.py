from __future__ import annotations

import numpy as np
import pytest

from thermojax import datasets


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def message(call, *args, kind=ValueError, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_diabetes_is_the_known_problem():
    """The evidence of the linear model on these very columns is known to ten digits."""
    data = datasets.load("diabetes")
    assert data.inputs.shape == (442, 10)
    assert data.inputs.dtype == data.targets.dtype == np.float32
    assert data.test_inputs.shape == (0, 10)
    assert data.test_targets.shape == (0,)
    assert (data.task, data.n_classes, data.class_names) == ("regression", 0, ())
    assert data.feature_names[2] == "bmi"
    x, y = data.inputs.astype(float), data.targets.astype(float)
    covariance = 0.3**2 * x @ x.T + 0.7**2 * np.eye(442)
    quadratic = y @ np.linalg.solve(covariance, y)
    log_det = np.linalg.slogdet(covariance)[1]
    evidence = -0.5 * (quadratic + log_det + 442 * np.log(2 * np.pi))
    assert abs(evidence - -487.2766097292) < 1e-4


@pytest.mark.parametrize(
    ("name", "rows", "columns", "classes"),
    [("digits", 1797, 64, 10), ("breast_cancer", 569, 30, 2), ("wine", 178, 13, 3)],
)
def test_bundled_classification(name, rows, columns, classes):
    data = datasets.load(name)
    assert len(data.targets) + len(data.test_targets) == rows
    assert len(data.test_targets) == round(0.25 * rows)
    assert data.inputs.shape[1] == data.test_inputs.shape[1] == columns
    assert data.n_classes == len(data.class_names) == classes
    assert data.targets.dtype == data.test_targets.dtype == np.int32
    assert len(data.feature_names) == columns
    assert np.isfinite(data.inputs).all()
    counts = np.bincount(data.targets, minlength=classes) / len(data.targets)
    test_counts = np.bincount(data.test_targets, minlength=classes) / len(data.test_targets)
    np.testing.assert_allclose(counts, test_counts, atol=0.03)


def test_columns_are_standardised_with_the_training_rows():
    data = datasets.load("wine")
    np.testing.assert_allclose(data.inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.inputs.std(0), 1, atol=1e-5)
    assert np.abs(data.test_inputs.mean(0)).max() > 1e-3


def test_digits_share_one_mean_and_scale():
    data = datasets.load("digits", image_side=4)
    assert data.inputs.shape[1] == 16
    assert data.feature_names[:2] == ("pixel_0_0", "pixel_0_1")
    np.testing.assert_allclose([data.inputs.mean(), data.inputs.std()], [0, 1], atol=1e-5)
    whole = datasets.load("digits", image_side=8)
    np.testing.assert_array_equal(whole.inputs, datasets.load("digits").inputs)
    from sklearn.datasets import load_digits

    first = load_digits().images[:, :2, :2].mean((1, 2))
    pooled = np.concatenate([data.inputs[:, 0], data.test_inputs[:, 0]])
    slope = np.polyfit(np.sort(first), np.sort(pooled.astype(float)), 1, full=True)
    assert slope[1][0] < 1e-6  # an affine function of the block average


def test_examples_are_stratified_seeded_and_the_rest_is_the_test():
    data = datasets.load("digits", examples=103, seed=3)
    counts = np.bincount(data.targets)
    assert counts.sum() == 103
    assert set(counts) <= {10, 11}
    assert len(data.test_targets) == 1797 - 103
    again = datasets.load("digits", examples=103, seed=3)
    np.testing.assert_array_equal(data.inputs, again.inputs)
    other = datasets.load("digits", examples=103, seed=4)
    assert not np.array_equal(data.inputs, other.inputs)
    held = datasets.load("wine", examples=20, test_fraction=0.5)
    assert (len(held.targets), len(held.test_targets)) == (20, 89)
    assert len(datasets.load("diabetes", examples=50).test_targets) == 0
    part = datasets.load("diabetes", test_fraction=0.2)
    assert (len(part.targets), len(part.test_targets)) == (354, 88)


def test_train_and_test_do_not_share_rows(tmp_path):
    rows = "\n".join(f"{i},{i % 3}" for i in range(30))
    path = write(tmp_path, f"x,y\n{rows}\n")
    data = datasets.load(f"csv:{path}", target="y", examples=9)
    assert len(np.unique(np.concatenate([data.inputs, data.test_inputs]))) == 30
    assert list(np.bincount(data.targets)) == [3, 3, 3]


def test_constant_column_becomes_zero(tmp_path):
    path = write(tmp_path, "a,b,y\n7.1,1,0\n7.1,2,1\n7.1,3,0\n7.1,4,1\n")
    data = datasets.load(f"csv:{path}", target="y", test_fraction=0)
    assert (data.inputs[:, 0] == 0).all()
    assert np.isfinite(data.inputs).all()


def test_constant_regression_target_is_refused(tmp_path):
    rows = "\n".join(f"{i},{2.5 if i else 3.5}" for i in range(9))
    path = write(tmp_path, f"x,y\n{rows}\n")
    said = message(datasets.load, f"csv:{path}", target="y", examples=1)
    assert "in every training row" in said
    assert "another target" in said


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("digit", {}, ["'digit'", "digits, diabetes", "csv:FILE", "did you mean digits"]),
        ("mnist60k", {}, ["'mnist60k'", "choose one of them"]),
        ("iris.csv", {}, ["did you mean csv:iris.csv"]),
        ("digits", {"target": "y"}, ["target='y'", "csv:FILE only"]),
        ("wine", {"image_side": 4}, ["image_side=4", "digits only"]),
        ("digits", {"image_side": 3}, ["image_side=3", "1, 2, 4 or 8"]),
        ("digits", {"image_side": 0}, ["image_side=0", "1, 2, 4 or 8"]),
        ("digits", {"examples": 9}, ["9 training rows", "10 classes"]),
        ("digits", {"examples": 1798}, ["examples=1798", "1797"]),
        ("wine", {"examples": 170, "test_fraction": 0.5}, ["examples=170", "89"]),
        ("diabetes", {"examples": 0}, ["0 training rows", "at least 1"]),
        ("wine", {"test_fraction": 1.0}, ["test_fraction=1", "[0, 1)"]),
        ("wine", {"test_fraction": -0.1}, ["test_fraction=-0.1", "[0, 1)"]),
    ],
)
def test_bad_requests(name, options, parts):
    said = message(datasets.load, name, **options)
    for part in parts:
        assert part in said
