from __future__ import annotations

import html.parser
import math
import re

import numpy as np
import pytest
import stand_in

from thermojax import io, report
from thermojax.experiments.sweep import SweepConfig


class Reader(html.parser.HTMLParser):
    """Collects text, addresses, and tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.text, self.addresses, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("thermojax.plotting.save_figures", stand_in.save_figures)


def page(tmp_path, result, settings=None):
    settings = SweepConfig() if settings is None else settings
    io.write_config(tmp_path, settings, command_line="thermojax sweep digits")
    io.write_result(tmp_path, result)
    source = report.write_report(tmp_path).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(source)
    assert reader.open == []
    return source, re.sub(r"\s+", " ", " ".join(reader.text)), reader.addresses


def test_the_page_is_self_contained_and_complete(tmp_path):
    source, text, addresses = page(tmp_path, stand_in.result())
    assert len(addresses) == 4
    assert all(a.startswith("data:image/png;base64,") for a in addresses)
    assert "http" not in source.replace("data:image", "")
    for part in (
        "✓ Trusted.",
        "log Z at T = 1",
        "mlp:16,8",
        "300 training examples, 1,497 held out",
        "log Z by bridging (BAR)",
        "1,480,000",
        "2 min 23 s",
        "Three thermometers",
        "virial T / set T",
        "hidden_2",
        "numpy",
        "thermojax sweep digits",
        "To cite: thermojax",
        "∞",
    ):
        assert part in text
    assert (tmp_path / "figures" / "ladder.png").is_file()


@pytest.mark.usefixtures("quick")
def test_a_distrusted_result_says_so_with_reasons_and_mends(tmp_path):
    _, text, _ = page(tmp_path, stand_in.result(trusted=False))
    assert "! Not trusted." in text
    assert "✓ Trusted." not in text
    assert "Do not rely on these numbers, for these 2 reasons" in text
    assert "Mend: use more particles" in text
    assert "LOW_ESS, RUNS_DISAGREE" in text


@pytest.mark.usefixtures("quick")
def test_regression_shows_the_evidence(tmp_path):
    result = stand_in.result("regression", test=False)
    _, text, _ = page(tmp_path, result)
    assert "log evidence" in text
    assert "regression, 442 training examples." in text


def test_the_page_is_the_same_when_rebuilt(tmp_path):
    first, _, _ = page(tmp_path, stand_in.result())
    assert report.write_report(tmp_path).read_text(encoding="utf-8") == first


@pytest.mark.usefixtures("quick")
def test_foreign_text_is_escaped(tmp_path):
    result = stand_in.result()
    result.summary["data"] = "csv:<script>alert(1)</script>.csv"
    source, text, _ = page(tmp_path, result._replace(texts={"a & b": "<i>note</i>"}))
    assert "<script>" not in source
    assert "<i>note</i>" in text


def test_a_bare_result_still_makes_a_page(tmp_path):
    result = stand_in.result()._replace(arrays={}, summary={}, texts={})
    io.write_result(tmp_path, result)
    text = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert "Not trusted." in text
    with pytest.raises(FileNotFoundError, match="no folder"):
        report.write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (-238.7561, 0.1234, "-238.76 ± 0.12"),
        (1.0, 0.0996, "1.000 ± 0.100"),
        (1234567.0, 4321.0, "1234600 ± 4300"),
        (12.0, 3.0, "12.0 ± 3.0"),
        (1e-9, 1e-11, "1e-09 ± 1.0e-11"),
        (2.5, None, "2.5"),
        (2.5, math.nan, "2.5"),
        (2.5, 0.0, "2.5"),
        (None, 1.0, "–"),
        (math.nan, 1.0, "–"),
        (math.inf, 1.0, "∞"),
        (-math.inf, 1.0, "−∞"),
        (np.float64(3.0), np.float64(0.5), "3.00 ± 0.50"),
    ],
)
def test_numbers_with_errors(value, stderr, text):
    assert report.with_error(value, stderr) == text


def test_words():
    summary = stand_in.result().summary
    assert report.sentence(summary).endswith(
        "on digits: classification into 10 classes, 300 training examples, "
        "1,497 held out for the test."
    )
    assert "to T = 0.5 on" in report.sentence(summary, beta=2.0)
    assert report.verdict(summary)[0]
    trusted, text, reasons = report.verdict({"log_z": {"trusted": False, "reasons": ["x"]}})
    assert (trusted, reasons) == (False, ["x"])
    assert "for this reason" in text
    assert "No reason" in report.verdict({})[1]
