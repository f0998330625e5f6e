from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import stand_in

from thermojax import plotting

ARRAYS = stand_in.result(trusted=False).arrays


def shown(axes):
    """All y values of all lines of an axis."""
    return np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])


def test_thermodynamics_shows_every_finite_temperature_and_rings_doubts():
    figure = plotting.thermodynamics(ARRAYS)
    axes = figure.get_axes()
    assert len(axes) == 4
    for axis, name in zip(
        axes, ("log_z", "internal_energy", "entropy", "heat_capacity"), strict=True
    ):
        curve, rings = axis.get_lines()
        np.testing.assert_array_equal(curve.get_xdata(), 1 / ARRAYS["beta"][1:])
        np.testing.assert_array_equal(curve.get_ydata(), ARRAYS[name][1:])
        assert len(rings.get_xdata()) == 3
        assert len(axis.collections) == 1  # the error band
        assert axis.get_xscale() == "log"
        assert "nats" in axis.get_ylabel() or "k_B" in axis.get_ylabel()
    assert axes[1].get_yscale() == "log"


def test_prediction_draws_what_there_is():
    figure = plotting.prediction(ARRAYS, n_classes=10)
    left, right = figure.get_axes()
    labels = [line.get_label() for line in left.get_lines()]
    assert labels == ["train", "test", "guessing"]
    assert shown(right).max() >= np.log(10)
    regression = stand_in.result("regression", test=False).arrays
    left, _ = plotting.prediction(regression).get_axes()
    assert [line.get_label() for line in left.get_lines()] == ["train"]
    assert "target" in left.get_ylabel()


def test_thermometers_are_ratios():
    figure = plotting.thermometers(ARRAYS, ("hidden_1", "hidden_2", "output"))
    assert len(figure.get_axes()) == 3
    for axis in figure.get_axes():
        assert np.abs(shown(axis) - 1).max() < 0.1
        assert len(axis.containers) == 3
    only = {k: v for k, v in ARRAYS.items() if "kinetic" not in k}
    assert len(plotting.thermometers(only, ("a", "b", "c")).get_axes()) == 2


def test_ladder_shows_each_run():
    top, accept, running, final = plotting.ladder(ARRAYS).get_axes()
    assert [len(axis.get_lines()) for axis in (top, accept, running)] == [4, 4, 4]
    assert len(final.get_lines()) == 5
    assert top.get_yscale() == "log"


def hostile(change):
    arrays = {k: np.array(v) for k, v in stand_in.result().arrays.items()}
    change(arrays)
    return stand_in.result()._replace(arrays=arrays)


def _nan(arrays):
    for name, values in arrays.items():
        if values.dtype.kind == "f" and "beta" not in name:
            values[...] = np.nan


def _one_temperature(arrays):
    for name, values in list(arrays.items()):
        if not name.startswith(("ladder", "runs")):
            arrays[name] = values[-1:]


def _only_infinite_temperature(arrays):
    _one_temperature(arrays)
    for name in ("beta", "predict_beta", "thermo_beta"):
        arrays[name][:] = 0


def _infinite(arrays):
    arrays["internal_energy"][0] = np.inf
    arrays["log_z_stderr"][:] = np.inf
    arrays["free_energy"][0] = -np.inf


def _no_errors(arrays):
    for name in [n for n in arrays if n.endswith("_stderr")]:
        del arrays[name]


def _empty_ladder(arrays):
    for name in ("ladder_beta", "ladder_acceptance", "ladder_log_z"):
        arrays[name] = np.full((1, 1), np.nan)
    arrays["runs_log_z"] = np.array([np.nan])


@pytest.mark.parametrize(
    "change",
    [_nan, _one_temperature, _only_infinite_temperature, _infinite, _no_errors, _empty_ladder],
)
def test_figures_survive_hostile_numbers(tmp_path, change):
    made = plotting.save_figures(hostile(change), tmp_path / "figures")
    assert len(made) == 4
    for path in made.values():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.suffix for p in (tmp_path / "figures").iterdir()) == [".png"] * 4


def test_nothing_global_is_changed(tmp_path):
    before = dict(mpl.rcParams)
    plotting.figures(stand_in.result())
    assert dict(mpl.rcParams) == before


def test_absent_arrays_make_no_figure():
    result = stand_in.result()
    drop = ("predict", "thermo", "ladder", "layer", "train", "test")
    curve = {k: v for k, v in result.arrays.items() if not k.startswith(drop)}
    assert list(plotting.figures(result._replace(arrays=curve))) == ["thermodynamics"]
    assert plotting.figures(result._replace(arrays={"beta": curve["beta"]})) == {}
