"""What reproductions share, on a made-up result: run folder, page, claims in a page."""

import dataclasses
import json
import re
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from tests.experiments.interrupted import in_two_goes
from thermojax.experiments.pieces import Pieces
from thermojax.experiments.reproduction import (
    THEORIES,
    Page,
    Result,
    Theory,
    claim,
    claims_table,
    identity,
    in_words,
    over_draws,
    theory,
    verdicts,
    write_page,
)
from thermojax.io import restored, write_config

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

CLAIMS = [
    claim("[paper?]", "Heat pays for <I>", "above 0", "1.0 ± 0.1 nats", [True, True]),
    claim("[ours]", "Largest |z| is\nsmall", "below 4", "|z| 5", [True, False]),
    claim("[ours]", "Far away", "at once", "LOW_ESS", "open"),
]
IDENTITIES = [identity("first law", [1e-9, -3e-9], 1.0, 1e-8), identity("flows", 1.0, 2.0, 0.1)]


@dataclasses.dataclass(frozen=True)
class Config:
    """Made-up settings."""

    seed: int = 3
    rate: float = 0.5


def result(config=None, *, progress=None, keep=None):
    say = progress or (lambda fraction, note: None)
    keep = keep or Pieces()
    heat = keep("heat", lambda: {"heat": np.arange(3.0)})
    say(0.5, "half")
    work = keep("work", lambda: {"work": np.float32([0.1, np.nan])})
    facts = {"experiment": "toy", "draws": 2, "seconds": 1.5, "identities": IDENTITIES}
    say(1.0, "done")
    return Result(heat | work, facts, {"reading": "A note & more."})


def draw(arrays, folder):
    folder.mkdir(exist_ok=True)
    matplotlib.image.imsave(folder / "heat.png", np.tile(arrays["heat"], (3, 1)))
    return {"heat": folder / "heat.png"}


LAYOUT = Page("toy", "A toy", "Two numbers", {"heat": ("Heat", "Rises <always>.")}, draw)
NUMBERS = {"toy": [{"rate": 0.1, "heat": {"value": 1.0, "stderr": 0.25}}]}
TOY = Theory(Config, result, lambda arrays: CLAIMS, lambda arrays: NUMBERS, LAYOUT)


@pytest.fixture
def folder(tmp_path):
    return TOY.reproduce(Config(), tmp_path / "toy", command="reproduce toy")


def text_of(page):
    return re.sub(r"<[^>]+>", "", page)


def test_run_folder_holds_everything(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    files = {"config.json", "result.npz", "summary.json", "report.html", "figures/heat.png"}
    assert names == files
    config = json.loads((folder / "config.json").read_text())
    assert config["command"] == "reproduce toy"
    assert config["settings"] == {"seed": 3, "rate": 0.5}
    stored = json.loads((folder / "summary.json").read_text())
    assert stored["claims"] == CLAIMS
    assert stored["identities"] == IDENTITIES


def test_page_shows_verdicts_numbers_and_settings(folder):
    page = (folder / "report.html").read_text()
    shown = text_of(page)
    assert page.count("<img") == 1
    assert "1 claims hold, 1 fail, 1 are open; 1 of 2 identities close" in shown
    assert 'class="verdict bad"' in page
    assert "1.00 ± 0.25" in shown
    assert "Rises &lt;always&gt;." in shown
    assert "A note &amp; more." in shown
    assert all(escape in shown for escape in ("Heat pays for &lt;I&gt;", "OPEN", "3.0e-09"))


def test_page_is_rebuilt_from_the_files(folder):
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    (folder / "figures" / "heat.png").unlink()
    assert write_page(folder, LAYOUT).read_bytes() == before
    with pytest.raises(FileNotFoundError):
        write_page(folder.parent / "absent", LAYOUT)


def test_nothing_is_left_of_a_run_that_breaks(tmp_path):
    def broken(config, *, progress, keep):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(TOY, run=broken).reproduce(Config(), tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_goes_on(tmp_path, folder):
    made = []

    def counted(config, *, progress, keep):
        count = lambda name, make: keep(name, lambda: made.append(name) or make())
        return result(config, progress=progress, keep=count)

    out = tmp_path / "again"
    said = in_two_goes(dataclasses.replace(TOY, run=counted), Config(), out)
    assert made == ["heat", "work"]  # each once
    assert said == [0.5, 1.0]
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    first, second = (np.load(place / "result.npz") for place in (folder, out))
    assert first.files == second.files
    for name in first.files:
        assert first[name].dtype == second[name].dtype
        assert first[name].tobytes() == second[name].tobytes()
    with pytest.raises(FileExistsError, match="finished"):
        TOY.resume(out)


def test_a_failure_keeps_the_pieces_and_says_how_to_go_on(tmp_path):
    def broken(config, *, progress, keep):
        keep("heat", lambda: {"heat": np.arange(3.0)})
        raise RuntimeError("out of memory")

    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="out of memory"):
        dataclasses.replace(TOY, run=broken).reproduce(Config(), out)
    with pytest.raises(FileExistsError, match="thermojax resume"):
        TOY.reproduce(Config(), out)
    (tmp_path / "run.partial" / "checkpoint" / "heat.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"heat\.npz is damaged: remove it"):
        TOY.resume(out)
    (tmp_path / "run.partial" / "checkpoint" / "heat.npz").unlink()
    assert TOY.resume(out) == out


def test_pieces_know_what_they_took(tmp_path):
    kept = Pieces(tmp_path)
    assert not kept.any
    kept("nap", lambda: time.sleep(0.05) or {"x": 1})
    assert kept.any
    assert kept.saved == 0.0
    again = Pieces(tmp_path)
    assert again("nap", lambda: {})["x"] == 1
    assert again.saved >= 0.05


@pytest.mark.parametrize("name", THEORIES)
def test_settings_of_theories_survive_their_file(name, tmp_path):
    kind = theory(name).settings
    settings = kind(draws=2, seed=5)
    stored = json.loads(write_config(tmp_path, settings).read_text())["settings"]
    assert restored(kind, stored) == settings
    del stored["seed"]
    with pytest.raises(ValueError, match=r"differ from those of this version \(seed\)"):
        restored(kind, stored)


def test_a_run_is_replaced_only_when_asked(folder):
    with pytest.raises(FileExistsError):
        TOY.reproduce(Config(), folder)
    TOY.reproduce(Config(seed=4), folder, overwrite=True)
    assert json.loads((folder / "config.json").read_text())["seed"] == 4


def test_verdicts_and_words():
    assert [row["verdict"] for row in CLAIMS] == ["holds", "fails", "open"]
    assert verdicts(CLAIMS) == {"holds": 1, "fails": 1, "open": 1}
    mean, error = over_draws([[1.0, 2.0]])
    assert mean.tolist() == [1.0, 2.0]
    assert np.all(np.isinf(error))
    assert in_words([1.0, 3.0]) == "2 ± 1.8"
    assert in_words([2.5]) == "2.5"
    assert IDENTITIES[0]["residual"] == pytest.approx(3e-9)
    assert [row["closes"] for row in IDENTITIES] == [True, False]


def test_table_is_markdown_with_four_cells_a_row():
    lines = claims_table([TOY.summary(result())]).splitlines()
    assert len(lines) == 2 + len(CLAIMS) + 1
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 5
    assert lines[2] == r"| toy | Heat pays for \<I> [paper?] | 1.0 ± 0.1 nats | holds |"
    assert lines[3] == r"| toy | Largest \|z\| is small [ours] | \|z\| 5 | **fails** |"
    assert lines[4].endswith(r"| LOW\_ESS | **open** |")
    assert "1 of 2; the worst residual is 5 of its tolerance | **fails** |" in lines[5]


def test_script_writes_the_table_between_the_marks(folder, tmp_path, capsys):
    import reproduce

    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{reproduce.BEGIN}\nold\n{reproduce.END}\n\nafter\n")
    for _ in range(2):  # twice is once
        reproduce.main(["--read", str(folder), str(folder), "--write", str(page)])
    table = claims_table([TOY.summary(result())] * 2)
    marks = f"{reproduce.BEGIN}\n{table}\n{reproduce.END}"
    assert page.read_text() == f"before\n\n{marks}\n\nafter\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "toy"]
    capsys.readouterr()
    reproduce.main(["--read", str(folder)])
    assert capsys.readouterr().out == claims_table([TOY.summary(result())]) + "\n"


@pytest.mark.parametrize(
    "text", ["", "BEGIN", "END BEGIN", "BEGIN END BEGIN END", "BEGIN BEGIN END"]
)
def test_script_leaves_a_page_without_marks_alone(folder, tmp_path, capsys, text):
    import reproduce

    page = tmp_path / "page.md"
    page.write_text(text.replace("BEGIN", reproduce.BEGIN).replace("END", reproduce.END))
    before = page.read_bytes()
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["--read", str(folder), "--write", str(page)])
    assert stopped.value.code == 2
    assert "each once" in capsys.readouterr().err
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    "argv", [["entropy"], ["ppm", "--read", "."], ["--read", "absent"], ["--write"]]
)
def test_script_refuses_what_it_cannot_do(tmp_path, monkeypatch, argv):
    import reproduce

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(argv)
    assert stopped.value.code == 2
    assert not list(tmp_path.iterdir())


def test_script_runs_theories_into_folders_of_their_names(tmp_path, monkeypatch, capsys):
    import reproduce

    monkeypatch.setattr(reproduce, "THEORIES", ("toy",))
    monkeypatch.setattr(reproduce, "theory", lambda name: TOY)
    reproduce.main(["--out", str(tmp_path)])
    shown = capsys.readouterr()
    assert shown.out == claims_table([TOY.summary(result())]) + "\n"
    assert "toy 100% done" in shown.err
    assert (tmp_path / "toy" / "report.html").is_file()
    with pytest.raises(SystemExit):
        reproduce.main(["toy", "--out", str(tmp_path)])
