"""report.html: one page that says what was computed, whether to trust it, and shows it.

The page carries its figures and style in itself and asks the network for nothing. It is
made from the files of a run folder alone, so it can be rebuilt at any time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from thermojax import plotting
from thermojax.estimators.estimate import explain
from thermojax.files import write_bytes
from thermojax.io import StoredResult, flag_names, read_result
from thermojax.page import figure, minus, page, reason, section, table

__all__ = ["curve_table", "sentence", "verdict", "with_error", "write_report"]

_CAPTIONS = {
    "thermodynamics": (
        "Thermodynamics",
        "From right to left the ensemble cools from the prior to the end of the ladder; "
        "shaded bands are one standard error.",
    ),
    "prediction": (
        "Prediction",
        "What the ensemble has learned at each temperature, on the examples it was trained on "
        "and on those it never saw.",
    ),
    "thermometers": (
        "Thermometers",
        "The temperature that each layer shows over the temperature that was set: points "
        "should scatter around 1 by their error bars.",
    ),
    "ladder": (
        "Ladder",
        "How the answer was reached: the temperatures each independent run chose, how often "
        "its moves were accepted, and the log Z it summed up.",
    ),
}


# Numbers and words, also used on the command line


def with_error(value: Any, stderr: Any = None, digits: int = 2) -> str:
    """`value ± stderr` with as many decimals as two digits of the error call for.

    Example:
        >>> with_error(-238.7561, 0.1234), with_error(1234567.0, 4000.0), with_error(None)
        ('-238.76 ± 0.12', '1234600 ± 4000', '–')
    """
    value = math.nan if value is None else float(value)
    stderr = math.nan if stderr is None else float(stderr)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if not math.isfinite(stderr) or stderr <= 0:
        return f"{value:.6g}"
    places = digits - 1 - math.floor(math.log10(stderr))
    if places < 0:
        return f"{round(value, places):.0f} ± {round(stderr, places):.0f}"
    if places > 6:
        return f"{value:.4g} ± {stderr:.1e}"
    return f"{value:.{places}f} ± {stderr:.{places}f}"


def _short(value: Any) -> str:
    """A number without an error bar."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "∞" if isinstance(value, float) and value > 0 else "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def verdict(summary: Mapping[str, Any]) -> tuple[bool, str, list[str]]:
    """Whether log Z is trusted, what that means, and the reasons with their mends."""
    log_z = summary.get("log_z") or {}
    reasons = [str(r) for r in log_z.get("reasons") or ()]
    if log_z.get("trusted"):
        return True, "Independent runs and read-outs agree, and no diagnostic objects.", reasons
    if not reasons:
        return False, "No reason was recorded; do not rely on these numbers.", reasons
    many = "this reason" if len(reasons) == 1 else f"these {len(reasons)} reasons"
    return False, f"Do not rely on these numbers, for {many}:", reasons


def sentence(summary: Mapping[str, Any], beta: float = 1.0) -> str:
    """What was computed, in plain words; `beta` is the end of the ladder."""
    classes = summary.get("n_classes")
    regress = summary.get("task") == "regression"
    goal = "regression" if regress else f"classification into {classes} classes"
    held = summary.get("n_test") or 0
    test = f", {_short(held)} held out for the test" if held else ""
    end = "the posterior (T = 1)" if beta == 1 else f"T = {_short(1 / beta)}"
    return (
        f"An ensemble of {summary.get('model')} models with "
        f"{_short(summary.get('n_parameters'))} parameters was cooled from the prior to {end} "
        f"on {summary.get('data')}: {goal}, {_short(summary.get('n_train'))} training "
        f"examples{test}."
    )


def curve_table(arrays: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: temperature, beta, log Z, U, S, C with errors, and the verdict."""
    names = ("log_z", "internal_energy", "entropy", "heat_capacity")
    rows = []
    for i, beta in enumerate(np.asarray(arrays["beta"], float).tolist()):
        cells = [_short(1 / beta if beta > 0 else math.inf), _short(beta)]
        for name in names:
            stderr = arrays.get(f"{name}_stderr")
            cells.append(with_error(arrays[name][i], None if stderr is None else stderr[i]))
        flags = int(arrays["flags"][i]) if "flags" in arrays else 0
        rows.append([*cells, ", ".join(flag_names(flags)) or "trusted"])
    return ["T", "β", "log Z", "U", "S", "C", "verdict"], rows


# The page


def write_report(folder: Path | str) -> Path:
    """Rebuild figures/*.png and report.html from result.npz, summary.json and config.json.

    Args:
        folder: of a finished run.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: the folder holds no result.
    """
    folder = Path(folder)
    result = read_result(folder)
    pictures = plotting.save_figures(result, folder / "figures")
    return write_bytes(folder / "report.html", _page(result, pictures))


def _page(result: StoredResult, pictures: Mapping[str, Path]) -> str:
    summary = result.summary
    title = f"{summary.get('data')} · {summary.get('model')}"
    shown = [figure(pictures[name], *_CAPTIONS[name]) for name in _CAPTIONS if name in pictures]
    betas = [b for b in np.ravel(result.arrays.get("beta", 1.0)).tolist() if b > 0]
    parts = [
        _headline(summary, title, max(betas, default=1.0)),
        section("Result", _facts(summary)),
        section("Pictures", "".join(shown)) if shown else "",
        section("Temperatures", _curve(result.arrays)),
        section("Thermometers", _thermometers(result)),
        section("Notes", _notes(result.texts)),
        section("Settings and versions", _settings(result.config)),
        section("Again, and elsewhere", _again(result)),
    ]
    return page(f"thermojax: {title}", "".join(parts))


def _headline(summary: Mapping[str, Any], title: str, beta: float) -> str:
    trusted, text, reasons = verdict(summary)
    log_z = summary.get("log_z") or {}
    number = with_error(log_z.get("value"), log_z.get("stderr"))
    evidence = summary.get("log_evidence")
    more = ""
    if evidence is not None:
        value = minus(with_error(evidence.get("value"), evidence.get("stderr")))
        more = f'<p class="also">log evidence (with the normaliser of the noise) {value}</p>'
    listed = "".join(f"<li>{reason(r)}</li>" for r in reasons)
    badge = "✓ Trusted." if trusted else "! Not trusted."
    return (
        f'<header><p class="brand">thermojax · sweep</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(sentence(summary, beta))}</p></header>\n'
        f'<section class="verdict {"good" if trusted else "bad"}">'
        f'<div class="number"><span class="label">log Z at T = {_short(1 / beta)}</span>'
        f'<strong>{minus(number)}</strong><span class="unit">nats</span>{more}</div>'
        f'<div class="words"><p><span class="badge">{badge}</span> '
        f"{escape(text)}</p>{f'<ul>{listed}</ul>' if listed else ''}</div></section>\n"
    )


def _facts(summary: Mapping[str, Any]) -> str:
    log_z = summary.get("log_z") or {}
    readouts = summary.get("readouts") or {}
    names = {"smc": "weights (SMC)", "bar": "bridging (BAR)", "ti": "integration (TI)"}
    facts = [
        *(
            (f"log Z by {names.get(k, k)}", with_error(readouts[k]))
            for k in sorted(readouts, key=[*names, *readouts].index)
        ),
        ("error seen within a run", _short(log_z.get("within_stderr"))),
        ("effective sample size", _short(log_z.get("n_eff"))),
        ("gradients", _short(summary.get("n_gradients"))),
        ("time", _duration(summary.get("seconds"))),
    ]
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{minus(value)}</dd></div>"
        for name, value in facts
        if value != "–"
    )
    meaning = (
        '<p class="note">log Z is the logarithm of the prior average of exp(−βU), where U is '
        "the loss summed over the training examples, in nats: the larger, the better the model "
        "explains the data, complexity paid for. Independent read-outs of the same samples "
        "should agree.</p>"
    )
    return f'{meaning}<dl class="facts">{cards}</dl>' if cards else ""


def _duration(seconds: Any) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(float(seconds)), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{float(seconds):.1f} s"


def _curve(arrays: Mapping[str, Any]) -> str:
    if "beta" not in arrays or "log_z" not in arrays:
        return ""
    units = (
        '<p class="note">log Z, U, S in nats (k<sub>B</sub> = 1), C in units of k<sub>B</sub>; '
        "S is counted from the prior, so that it is 0 at infinite temperature. "
        "± one standard error.</p>"
    )
    header, rows = curve_table(arrays)
    reasons = explain(arrays["flags"]) if "flags" in arrays else []
    legend = "".join(f"<li>{reason(r)}</li>" for r in reasons)
    return units + table(header, rows[::-1]) + (f"<ul>{legend}</ul>" if legend else "")


_KINDS = {
    "kinetic": "kinetic T / set T",
    "configurational": "configurational T / set T",
    "virial": "virial T / set T",
}


def _thermometers(result: StoredResult) -> str:
    """Measured over set temperature of the whole and of each layer, and by temperature."""
    arrays, layers = result.arrays, result.summary.get("layers") or []
    kinds = {k: v for k, v in _KINDS.items() if f"layer_{k}" in arrays}
    if not kinds or not layers or "thermo_beta" not in arrays:
        return ""
    beta = np.asarray(arrays["thermo_beta"], float)

    def ratio(name):
        value = np.asarray(arrays[name], float)
        value = value.reshape(len(beta), -1)
        error = np.asarray(arrays.get(f"{name}_stderr", np.full(value.shape, np.nan)))
        return value * beta[:, None], error.reshape(len(beta), -1) * beta[:, None]

    rows = [[str(layer)] for layer in layers]
    for kind in kinds:
        value, error = ratio(f"layer_{kind}")
        for i, row in enumerate(rows):
            row.append(_averaged(value[:, i], error[:, i]))
    if all(f"whole_{kind}" in arrays for kind in kinds):
        whole = {kind: ratio(f"whole_{kind}") for kind in kinds}
        everything = [_averaged(v[:, 0], e[:, 0]) for v, e in whole.values()]
        rows = [["all layers", *everything], *rows]
    else:
        whole = {}
    by_temperature = [
        [_short(1 / b), *(with_error(v[i, 0], e[i, 0]) for v, e in whole.values())]
        for i, b in enumerate(beta)
    ]
    text = (
        '<p class="note">Three thermometers on an unadjusted Langevin run (BAOAB) from the '
        "particles: kinetic from the momenta, configurational from the slope and curvature of "
        "the energy, virial from slope and position. At equilibrium with the bath all show 1; "
        "mean over the temperatures.</p>"
    )
    more = table(["T", *kinds.values()], by_temperature) if whole else ""
    return text + table(["layer", *kinds.values()], rows) + more


def _averaged(ratio: np.ndarray, error: np.ndarray) -> str:
    known = np.isfinite(ratio)
    count = max(known.sum(), 1)
    spread = math.sqrt(float(np.sum(error[known] ** 2))) / count
    return with_error(ratio[known].sum() / count if known.any() else None, spread)


def _notes(texts: Mapping[str, Any]) -> str:
    return "".join(
        f"<h3>{escape(str(k))}</h3><p>{escape(str(v))}</p>" for k, v in texts.items()
    )


def _settings(config: Mapping[str, Any]) -> str:
    groups = [(g, config.get(g)) for g in ("settings", "versions", "device")]
    blocks = []
    for name, content in groups:
        if not content:
            continue
        content = {k: "default" if v is None else v for k, v in content.items()}
        rows = "".join(
            f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
            for key, value in content.items()
        )
        blocks.append(f"<div><h3>{name}</h3><table>{rows}</table></div>")
    return f'<div class="columns">{"".join(blocks)}</div>' if blocks else ""


def _again(result: StoredResult) -> str:
    version = (result.config.get("versions") or {}).get("thermojax") or "unknown version"
    command = result.config.get("command_line")
    rerun = f"<p>The same run again:</p><pre>{escape(command)}</pre>" if command else ""
    return (
        f"{rerun}<p>Every number is in <code>summary.json</code>, every array in "
        "<code>result.npz</code>; <code>thermojax report</code> with this folder rebuilds the "
        f"page.</p><p>To cite: thermojax {escape(version)}, differentiable simulation of the "
        "thermodynamics of learning, with the settings above.</p>"
    )
