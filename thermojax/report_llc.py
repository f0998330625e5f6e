"""report.html of a local learning coefficient, from the files of its run folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from thermojax import plotting_llc
from thermojax.files import write_bytes
from thermojax.io import StoredResult, flag_names, read_result
from thermojax.page import figure, minus, page, reason, section, table
from thermojax.report import _again, _duration, _notes, _settings, _short, with_error

__all__ = ["sentence", "write_llc_report"]

_NAMES = {"step_size": "step size", "gamma": "tether γ", "beta": "β"}


def sentence(summary: Mapping[str, Any]) -> str:
    """What was measured, in plain words."""
    return (
        f"A {summary.get('model')} model with {_short(summary.get('n_parameters'))} parameters "
        f"was trained on {_short(summary.get('n_train'))} examples of {summary.get('data')}; "
        "chains around it tell how many of its parameters the loss feels."
    )


def write_llc_report(folder: Path | str) -> Path:
    """Rebuild figures/*.png and report.html of a finished run.

    Args:
        folder: of the run.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: the folder holds no result.
    """
    folder = Path(folder)
    result = read_result(folder)
    pictures = plotting_llc.save_figures(result.arrays, folder / "figures")
    return write_bytes(folder / "report.html", _page(result, pictures))


def _page(result: StoredResult, pictures: Mapping[str, Path]) -> str:
    summary, captions = result.summary, plotting_llc.CAPTIONS
    title = f"{summary.get('data')} · {summary.get('model')}"
    shown = [figure(pictures[n], *captions[n]) for n in captions if n in pictures]
    parts = [
        _headline(summary, title),
        section("Result", _facts(summary)),
        section("Pictures", "".join(shown)),
        section("Other settings", _other(result.arrays)),
        section("Notes", _notes(result.texts)),
        section("Settings and versions", _settings(result.config)),
        section("Again, and elsewhere", _again(result)),
    ]
    return page(f"thermojax: {title}", "".join(parts))


def _headline(summary: Mapping[str, Any], title: str) -> str:
    found = summary.get("llc") or {}
    reasons = [str(r) for r in found.get("reasons") or ()]
    trusted = bool(found.get("trusted"))
    badge = "✓ Trusted." if trusted else "! Not trusted."
    text = "No diagnostic objects." if trusted else "Do not rely on this number:"
    listed = "".join(f"<li>{reason(r)}</li>" for r in reasons)
    number = minus(with_error(found.get("value"), found.get("stderr")))
    size = _short(summary.get("n_parameters"))
    return (
        f'<header><p class="brand">thermojax · llc</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(sentence(summary))}</p></header>\n'
        f'<section class="verdict {"good" if trusted else "bad"}"><div class="number">'
        '<span class="label">local learning coefficient λ</span>'
        f'<strong>{number}</strong><span class="unit">of {size} / 2 at most</span></div>'
        f'<div class="words"><p><span class="badge">{badge}</span> {escape(text)}</p>'
        f"{f'<ul>{listed}</ul>' if listed else ''}</div></section>\n"
    )


def _facts(summary: Mapping[str, Any]) -> str:
    found, scores = summary.get("llc") or {}, summary.get("scores") or {}
    score = "error" if summary.get("task") == "regression" else "accuracy"
    facts = [
        ("quadratic form alone", _short(summary.get("quadratic"))),
        ("bias of the tether, predicted", _short(summary.get("tether_bias"))),
        ("bias of the step, predicted", _short(summary.get("step_bias"))),
        ("lower ground below the anchor", _short(summary.get("base_point"))),
        ("directions that curve upwards", _short(summary.get("rank"))),
        ("β", _short(summary.get("beta"))),
        ("tether γ", _short(summary.get("gamma"))),
        ("acceptance", _short(summary.get("acceptance"))),
        ("effective sample size", _short(found.get("n_eff"))),
        ("loss per example", _short(summary.get("loss"))),
        *((f"{part} {score}", _short(value)) for part, value in scores.items()),
        ("gradients", _short(summary.get("n_gradients"))),
        ("time", _duration(summary.get("seconds"))),
    ]
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{minus(value)}</dd></div>"
        for name, value in facts
        if value != "–"
    )
    meaning = (
        '<p class="note">λ = β (⟨U⟩ − U*) under exp(−βU − γ|w − w*|²/2), where U is the loss '
        "summed over the examples and w* the trained network: half the number of parameters "
        "that matter at this temperature. Biases are those of the quadratic form.</p>"
    )
    return f'{meaning}<dl class="facts">{cards}</dl>'


def _other(arrays: Mapping[str, Any]) -> str:
    names = [name for name in _NAMES if f"llc_by_{name}" in arrays]
    if not names:
        return ""
    rows = []
    for name in names:
        flags = arrays[f"llc_by_{name}_flags"]
        for i, factor in enumerate(np.asarray(arrays["llc_factor"], float)):
            value = with_error(arrays[f"llc_by_{name}"][i], arrays[f"llc_by_{name}_stderr"][i])
            verdict = ", ".join(flag_names(int(flags[i]))) or "trusted"
            rows.append([f"{_NAMES[name]} × {factor:.3g}", value, verdict])
    return table(["setting", "λ", "verdict"], rows)
