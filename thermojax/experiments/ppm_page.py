"""report.html of the experiments on parametric models, from the files of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from thermojax.io import StoredResult, read_result, write_bytes
from thermojax.page import figure, minus, page, section, table
from thermojax.pictures_ppm import CAPTIONS, save_figures
from thermojax.report import with_error

__all__ = ["write_page"]


def write_page(folder: Path | str) -> Path:
    """Rebuild figures/*.png and report.html from result.npz, summary.json and config.json.

    Args:
        folder: of a run.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: the folder holds no result.
    """
    folder = Path(folder)
    result = read_result(folder)
    pictures = save_figures(result.arrays, folder / "figures")
    return write_bytes(folder / "report.html", _page(result, pictures))


def _page(result: StoredResult, pictures: Mapping[str, Path]) -> str:
    facts = result.summary
    shown = "".join(figure(path, *CAPTIONS[name]) for name, path in pictures.items())
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in result.texts.values())
    parts = [
        _headline(facts),
        section("Claims", _claims(facts["claims"])),
        section("Pictures", shown),
        section("Identities", _identities(facts["identities"])),
        section("Numbers", _numbers(facts["numbers"])),
        section("Notes", notes),
        section("Settings and versions", _settings(result.config)),
    ]
    return page("thermojax: learning parametric models", "".join(parts))


def _headline(facts: Mapping[str, Any]) -> str:
    count = facts["verdicts"]
    closed = sum(row["closes"] for row in facts["identities"])
    total = len(facts["identities"])
    good = not count["fails"] and closed == total
    text = (
        f"{count['holds']} claims hold, {count['fails']} fail, {count['open']} are open; "
        f"{closed} of {total} identities close to round-off."
    )
    lead = (
        "Stochastic thermodynamics of learning parametric probabilistic models, after Parsi "
        f"2024, on handwritten digits: {facts['draws']} draws of the data, "
        f"{float(facts['seconds']):.0f} s."
    )
    return (
        '<header><p class="brand">thermojax · reproduce ppm</p>'
        f'<h1>What learning costs</h1><p class="lead">{escape(lead)}</p></header>\n'
        f'<section class="verdict {"good" if good else "bad"}"><div class="number">'
        f'<span class="label">claims that hold</span><strong>{count["holds"]} of '
        f'{sum(count.values())}</strong></div><div class="words"><p>{escape(text)}</p></div>'
        "</section>\n"
    )


def _claims(rows: list[dict[str, str]]) -> str:
    items = []
    for row in rows:
        verdict = escape(row["verdict"])
        badge = f'<span class="{"ok" if verdict == "holds" else "badge"}">{verdict}</span>'
        items.append(
            f"<li><b>{badge}</b> · {escape(row['statement'])} "
            f'<span class="mend">{escape(row["mark"])}</span><br>{minus(row["measured"])}. '
            f'<span class="mend">Criterion: {escape(row["criterion"])}.</span></li>'
        )
    return f"<ul>{''.join(items)}</ul>"


def _identities(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            f"{row['residual']:.1e}",
            f"{row['tolerance']:.0e}",
            "closes" if row["closes"] else "OPEN",
        ]
        for row in rows
    ]
    return table(["identity", "relative residual", "tolerance", "verdict"], cells)


def _numbers(groups: Mapping[str, list[dict[str, Any]]]) -> str:
    out = []
    for name, rows in groups.items():
        cells = [
            [
                with_error(x["value"], x["stderr"]) if isinstance(x, dict) else str(x)
                for x in row.values()
            ]
            for row in rows
        ]
        header = [key.replace("_", " ") for key in rows[0]]
        out.append(f"<h3>{escape(name)}</h3>{table(header, cells)}")
    return "".join(out)


def _settings(config: Mapping[str, Any]) -> str:
    blocks = []
    for name in ("settings", "versions", "device"):
        content = {}
        for key, value in (config.get(name) or {}).items():
            inner = value if isinstance(value, dict) else {}
            content |= {f"{key} {k}": v for k, v in inner.items()} or {key: value}
        rows = "".join(
            f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
            for key, value in content.items()
        )
        blocks.append(f"<div><h3>{name}</h3><table>{rows}</table></div>" if rows else "")
    return f'<div class="columns">{"".join(blocks)}</div>'
