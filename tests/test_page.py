from __future__ import annotations

from thermojax import page


def test_cells_set_errors_and_verdicts_apart():
    source = page.table(["a <b>"], [["-1.5 ± 0.2"], ["trusted"], ["LOW_ESS"], ["<x>"]])
    assert "<th>a &lt;b&gt;</th>" in source
    assert '<td>−1.5 <span class="error">± 0.2</span></td>' in source
    assert "✓ trusted" in source
    assert '<td class="flagged">LOW_ESS</td>' in source
    assert "&lt;x&gt;" in source


def test_reason_in_parts():
    source = page.reason("LOW_ESS: too few; use more")
    assert "<code>LOW_ESS</code> too few." in source
    assert "Mend: use more." in source
    assert page.reason("plain <words>") == "plain &lt;words&gt;"


def test_section_without_content_is_nothing():
    assert page.section("Title", "") == ""
    assert page.minus("-1") == "−1"


def test_picture_is_embedded(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"abc")
    source = page.figure(path, "Name", "Caption & more.")
    assert "data:image/png;base64,YWJj" in source
    assert "<b>Name.</b> Caption &amp; more." in source
    assert source in page.page("t", source)
