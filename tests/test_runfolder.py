from __future__ import annotations

import json

import pytest

from thermojax.experiments.sweep import SweepConfig
from thermojax.runfolder import next_free, prepare


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_run_appears_when_it_is_finished(tmp_path):
    folder = prepare(tmp_path / "runs" / "a")
    assert files(tmp_path) == []  # preparing writes nothing
    folder.open(SweepConfig(), command="sweep")
    assert files(tmp_path) == ["runs", "runs/a.partial", "runs/a.partial/config.json"]
    assert folder.finish() == tmp_path / "runs" / "a"
    assert files(tmp_path) == ["runs", "runs/a", "runs/a/config.json"]


def test_discarding_leaves_no_trace(tmp_path):
    folder = prepare(tmp_path / "x" / "y" / "a")
    folder.open({})
    folder.discard()
    assert files(tmp_path) == []
    (tmp_path / "mine").mkdir()
    folder = prepare(tmp_path / "mine" / "a")
    folder.open({})
    folder.discard()
    assert files(tmp_path) == ["mine"]  # it was there before


def test_an_existing_folder_is_refused(tmp_path):
    prepare(tmp_path / "a").open({"seed": 1})
    with pytest.raises(
        FileExistsError, match=r"a\.partial holds an unfinished run.*--overwrite"
    ):
        prepare(tmp_path / "a")
    prepare(tmp_path / "b").open({})
    (tmp_path / "b.partial").rename(tmp_path / "b")
    with pytest.raises(
        FileExistsError, match=r"b exists: choose another --out, or .*--overwrite"
    ):
        prepare(tmp_path / "b")
    (tmp_path / "c").mkdir()
    prepare(tmp_path / "c")  # empty: there is nothing to lose


def test_overwriting_keeps_the_old_run_until_the_end(tmp_path):
    first = prepare(tmp_path / "a")
    first.open({"seed": 1})
    (first.partial / "extra").write_text("old")
    first.finish()
    second = prepare(tmp_path / "a", overwrite=True)
    second.open({"seed": 2})
    assert json.loads((tmp_path / "a" / "config.json").read_text())["seed"] == 1
    second.finish()
    assert json.loads((tmp_path / "a" / "config.json").read_text())["seed"] == 2
    assert files(tmp_path) == ["a", "a/config.json"]
    prepare(tmp_path / "a", overwrite=True).open({"seed": 3})
    prepare(tmp_path / "a", overwrite=True).open({"seed": 4})  # the unfinished one goes too


def test_overwrite_touches_no_foreign_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("dear")
    with pytest.raises(FileExistsError, match="no run folder"):
        prepare(tmp_path / "photos", overwrite=True)
    with pytest.raises(FileExistsError, match="no run folder"):
        prepare(tmp_path / "photos" / "1.jpg", overwrite=True)


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path):
    folder = prepare(tmp_path / "a")
    folder.open({})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "other").write_text("")
    with pytest.raises(FileExistsError, match=r"appeared.*kept in .*a\.partial"):
        folder.finish()
    assert (tmp_path / "a.partial" / "config.json").is_file()


def test_numbered_names(tmp_path):
    stem = tmp_path / "runs" / "digits"
    assert next_free(stem).name == "digits-001"
    (tmp_path / "runs" / "digits-001").mkdir(parents=True)
    (tmp_path / "runs" / "digits-002.partial").mkdir()
    assert next_free(stem).name == "digits-003"


def test_dots_are_resolved(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert prepare(".").partial == tmp_path / "here.partial"
