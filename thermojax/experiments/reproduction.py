"""What the reproductions of theories share: verdicts, identities, a page and a run folder.

A claim holds if its criterion is met in every draw, fails if it is missed in one, and is open
where the measurement cannot decide. Marks: [paper] stated in the paper's abstract or
introduction, [paper?] our reading of it, [standard] textbook, [ours] derived or defined here.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thermojax.estimators.mixture import t_factor
from thermojax.experiments.pieces import Pieces
from thermojax.files import write_bytes
from thermojax.io import StoredResult, read_result, restored, write_result
from thermojax.page import figure, minus, page, section, table
from thermojax.report import with_error
from thermojax.runfolder import RunFolder, prepare, unfinished

__all__ = [
    "THEORIES",
    "Page",
    "Result",
    "Theory",
    "check_draws",
    "claim",
    "claims_table",
    "identity",
    "in_words",
    "over_draws",
    "record",
    "theory",
    "verdicts",
    "write_page",
]

THEORIES = ("ppm", "temperature", "representation", "laws")
"""Names of the theories, which are modules of this package."""

Progress = Callable[[float, str], None]


class Result(NamedTuple):
    """What the experiments of a theory found.

    Attributes:
        arrays: name -> array; what is drawn has the draws along axis 0.
        summary: plain numbers: `experiment`, `draws`, `seconds`, and `identities`.
        texts: sentences for people.
    """

    arrays: dict[str, np.ndarray]
    summary: dict[str, Any]
    texts: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Page:
    """What is particular to the page of one theory.

    Attributes:
        command: after "thermojax reproduce".
        title: the headline.
        lead: one sentence under it.
        captions: figure name -> (title, caption).
        draw: (arrays, folder) -> {figure name: path}, writes the PNG files.
    """

    command: str
    title: str
    lead: str
    captions: Mapping[str, tuple[str, str]]
    draw: Callable[[Mapping[str, Any], Path], Mapping[str, Path]]


@dataclasses.dataclass(frozen=True)
class Theory:
    """The experiments of one theory, and how they are judged and shown.

    Attributes:
        settings: class of its settings, with `draws` and `seed`.
        run: (settings, progress=, keep=) -> `Result`, `keep` as `Pieces`.
        claims: arrays -> rows of `claim`.
        numbers: arrays -> name of a table -> its records.
        page: what the page of a run folder says.
    """

    settings: Callable[..., Any]
    run: Callable[..., Result]
    claims: Callable[[dict[str, np.ndarray]], list[dict]]
    numbers: Callable[[dict[str, np.ndarray]], dict[str, list[dict[str, Any]]]]
    page: Page

    def summary(self, result: Any) -> dict[str, Any]:
        """Facts, claims with their verdicts, identities with their residuals, and numbers.

        Args:
            result: with `arrays` and `summary`: of `run`, or read back from a run folder.

        Returns:
            `result.summary` with `claims` (rows of statement, mark, criterion, measured,
            verdict), `verdicts` (how many hold, fail and are open) and `numbers` (means over
            draws with standard errors).
        """
        rows = self.claims(result.arrays)
        return {
            **result.summary,
            "verdicts": verdicts(rows),
            "claims": rows,
            "numbers": self.numbers(result.arrays),
        }

    def reproduce(
        self,
        config: Any,
        folder: Path | str,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        **more: Any,
    ) -> Path:
        """Run, and leave config.json, result.npz, summary.json, figures and report.html.

        The folder is complete or absent: the run works in a sibling that is renamed at the
        end. What an interrupted run had finished stays there; see `resume`.

        Args:
            config: settings.
            folder: does not exist, or is empty.
            overwrite: replace an earlier run.
            progress: called with the fraction done and a note.
            more: written to config.json, such as the command line.

        Returns:
            The folder.

        Raises:
            FileExistsError: the folder holds something.
        """
        place = prepare(folder, overwrite)
        place.open(config, theory=self.page.command, **more)
        return self._finish(config, place, progress)

    def resume(self, folder: Path | str, *, progress: Progress | None = None) -> Path:
        """Go on with an interrupted run, to the same numbers as without the interruption.

        Args:
            folder: of the run, with or without its ending `.partial`.
            progress: as for `reproduce`.

        Returns:
            The folder.

        Raises:
            FileExistsError: the run is finished.
            FileNotFoundError: no such run.
            ValueError: a file of it is damaged.
        """
        place, found = unfinished(folder)
        config = restored(self.settings, found["settings"])
        return self._finish(config, place, progress)

    def _finish(self, config: Any, place: RunFolder, progress: Progress | None) -> Path:
        keep = Pieces(place.checkpoint)
        try:
            result = self.run(config, progress=progress, keep=keep)
            write_result(place.partial, result._replace(summary=self.summary(result)))
            write_page(place.partial, self.page)
        except BaseException:
            if not keep.any:
                place.discard()
            raise
        shutil.rmtree(place.checkpoint, ignore_errors=True)
        return place.finish()


def theory(name: str) -> Theory:
    """The experiments of a theory by its name."""
    return importlib.import_module(f"thermojax.experiments.{name}").THEORY


def check_draws(draws: int, seed: int) -> None:
    """Refuse settings without a draw, or with a negative seed.

    Raises:
        ValueError: with both values.

    Example:
        >>> check_draws(0, 3)
        Traceback (most recent call last):
        ValueError: draws=0 must be at least 1 and seed=3 not negative
    """
    if draws < 1 or seed < 0:
        raise ValueError(f"draws={draws} must be at least 1 and seed={seed} not negative")


def claim(mark: str, statement: str, criterion: str, measured: str, holds: Any) -> dict:
    """One row: `holds` is one truth value per draw, or a verdict in a word.

    Example:
        >>> claim("[ours]", "All is well", "above 0", "1 and 2", [True, True])["verdict"]
        'holds'
    """
    verdict = holds
    if not isinstance(holds, str):
        verdict = "holds" if np.all(np.asarray(holds)) else "fails"
    return {
        "statement": statement,
        "mark": mark,
        "criterion": criterion,
        "measured": measured,
        "verdict": verdict,
    }


def verdicts(rows: list[dict]) -> dict[str, int]:
    """How many claims hold, fail and are open."""
    return {v: sum(row["verdict"] == v for row in rows) for v in ("holds", "fails", "open")}


def over_draws(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean over draws (axis 0) and its standard error, inf for a single draw.

    Example:
        >>> mean, error = over_draws([1.0, 3.0])
        >>> float(mean), round(float(error), 3)
        (2.0, 1.837)
    """
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return values[0], np.full(values.shape[1:], math.inf)
    return values.mean(0), t_factor(n) * values.std(0, ddof=1) / math.sqrt(n)


def record(values: Any) -> dict[str, float]:
    """One cell of a table of numbers: mean over draws (axis 0) and its standard error."""
    mean, error = over_draws(values)
    return {"value": float(mean), "stderr": float(error)}


def in_words(values: Any, digits: int = 3) -> str:
    """`mean ± standard error` of values over draws, along axis 0."""
    mean, error = over_draws(values)
    bar = f" ± {float(error):.2g}" if np.isfinite(error) else ""
    return f"{float(mean):.{digits}g}{bar}"


def identity(name: str, residual: Any, scale: Any, tolerance: float) -> dict:
    """One row: the largest residual relative to its scale, and whether it is small."""
    part = np.abs(np.asarray(residual, float)) / np.abs(np.asarray(scale, float))
    relative = float(np.max(part))
    return {
        "name": name,
        "residual": relative,
        "tolerance": tolerance,
        "closes": bool(relative < tolerance),
    }


def claims_table(summaries: Iterable[Mapping[str, Any]]) -> str:
    """Markdown table of the claims of several theories: theory, claim, measured, verdict.

    The last row of each theory counts its identities.

    Args:
        summaries: each with `experiment`, `claims` and `identities`, as in summary.json.

    Example:
        >>> row = claim("[ours]", "a > b", "above", "1 nat", True)
        >>> print(claims_table([{"experiment": "toy", "claims": [row], "identities": []}]))
        | theory | claim | measured | verdict |
        | --- | --- | --- | --- |
        | toy | a > b [ours] | 1 nat | holds |
    """
    rows = [("theory", "claim", "measured", "verdict"), ("---",) * 4]
    for facts in summaries:
        name = str(facts["experiment"])
        for row in facts["claims"]:
            words = (f"{row['statement']} {row['mark']}", row["measured"], row["verdict"])
            rows.append((name, *map(_markdown, words)))
        if facts["identities"]:
            rows.append((name, *_closing(facts["identities"])))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _markdown(text: str) -> str:
    """One cell: nothing in it is markup but a verdict that is not `holds`."""
    if text in ("fails", "open"):
        return f"**{text}**"
    for mark in "\\|<*_~^":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _closing(rows: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Claim, measured and verdict of a table of identities."""
    closed = sum(row["closes"] for row in rows)
    worst = max(row["residual"] / row["tolerance"] for row in rows)
    return (
        "Every identity closes to its tolerance",
        f"{closed} of {len(rows)}; the worst residual is {worst:.1g} of its tolerance",
        "holds" if closed == len(rows) else "**fails**",
    )


def write_page(folder: Path | str, layout: Page) -> Path:
    """Rebuild figures/*.png and report.html from the files of a run folder.

    Raises:
        FileNotFoundError: the folder holds no result.
    """
    folder = Path(folder)
    result = read_result(folder)
    pictures = layout.draw(result.arrays, folder / "figures")
    return write_bytes(folder / "report.html", _page(result, pictures, layout))


def _page(result: StoredResult, pictures: Mapping[str, Path], layout: Page) -> str:
    facts = result.summary
    shown = "".join(figure(path, *layout.captions[n]) for n, path in pictures.items())
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in result.texts.values())
    parts = [
        _headline(facts, layout),
        section("Claims", _claims(facts["claims"])),
        section("Pictures", shown),
        section("Identities", _identities(facts["identities"])),
        section("Numbers", _numbers(facts["numbers"])),
        section("Notes", notes),
        section("Settings and versions", _settings(result.config)),
    ]
    return page(f"thermojax: {layout.title.lower()}", "".join(parts))


def _headline(facts: Mapping[str, Any], layout: Page) -> str:
    count, rows = facts["verdicts"], facts["identities"]
    closed = sum(row["closes"] for row in rows)
    good = not count["fails"] and closed == len(rows)
    text = (
        f"{count['holds']} claims hold, {count['fails']} fail, {count['open']} are open; "
        f"{closed} of {len(rows)} identities close."
    )
    lead = f"{layout.lead}: {facts['draws']} draws, {float(facts['seconds']):.0f} s."
    return (
        f'<header><p class="brand">thermojax · reproduce {escape(layout.command)}</p>'
        f'<h1>{escape(layout.title)}</h1><p class="lead">{escape(lead)}</p></header>\n'
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
