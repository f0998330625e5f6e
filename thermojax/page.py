"""Building blocks of an HTML page that carries its pictures and its style in itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

__all__ = ["figure", "minus", "page", "reason", "section", "table"]


def page(title: str, body: str) -> str:
    """A whole page; `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """HTML under a heading; nothing if there is none."""
    return f"<section><h2>{title}</h2>{body}</section>\n" if body else ""


def figure(path: Path, name: str, caption: str) -> str:
    """A PNG file, embedded, with its caption."""
    image = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{image}">'
        f"<figcaption><b>{escape(name)}.</b> {escape(caption)}</figcaption></figure>\n"
    )


def minus(text: str) -> str:
    """A proper minus sign, escaped for HTML."""
    return escape(f"−{text[1:]}" if text.startswith("-") else text)


def reason(text: str) -> str:
    """`FLAG: reason; mend` with its parts set apart."""
    name, colon, rest = text.partition(": ")
    reason, semicolon, mend = rest.partition("; ")
    if not (colon and semicolon):
        return escape(text)
    return (
        f"<code>{escape(name)}</code> {escape(reason)}."
        f' <span class="mend">Mend: {escape(mend)}.</span>'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts; errors and verdicts in them are set apart."""
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(_cell(c) for c in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    if text == "trusted":
        return '<td><span class="ok">✓ trusted</span></td>'
    if text and all(part.isupper() or part == "_" for part in text.replace(", ", "_") if part):
        return f'<td class="flagged">{escape(text)}</td>'
    value, sign, stderr = text.partition(" ± ")
    error = f' <span class="error">± {escape(stderr)}</span>' if sign else ""
    return f"<td>{minus(value)}{error}</td>"


_CSS = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6576;--line:#e2e6ec;--page:#f5f6f8;
--card:#fff;--good:#00735a;--goodbg:#e6f4ef;--bad:#b04a00;--badbg:#fdf0e4;--accent:#0072b2}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#a2acbd;--line:#323a48;
--page:#12161d;--card:#1b212b;--good:#5fd3ae;--goodbg:#12312a;--bad:#ffb070;--badbg:#3a2413;
--accent:#6cb9ec}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
.brand{margin:0;color:var(--accent);font-weight:600;letter-spacing:.04em}
h1{font-size:2.1rem;line-height:1.2;margin:.2rem 0 .5rem}
h2{font-size:1.2rem;margin:2.6rem 0 .8rem}
h3{font-size:.8rem;margin:.2rem 0 .4rem;color:var(--soft);text-transform:uppercase;
letter-spacing:.06em}
.lead{font-size:1.08rem;color:var(--soft);margin:0 0 1.6rem;max-width:46rem}
.verdict{display:grid;grid-template-columns:minmax(17rem,2fr) 3fr;gap:1.4rem 2rem;
align-items:center;border-radius:14px;padding:1.4rem 1.6rem;border-left:6px solid}
.good{background:var(--goodbg);border-color:var(--good)}
.bad{background:var(--badbg);border-color:var(--bad)}
.number strong{display:block;font-size:1.9rem;line-height:1.25;white-space:nowrap;
font-variant-numeric:tabular-nums}
.label,.unit,.also{color:var(--soft);font-size:.9rem}.also{margin:.3rem 0 0}
.words p{margin:0;font-size:1.05rem}.words ul{margin:.7rem 0 0;padding-left:1.1rem}
.words li{margin:.3rem 0}.mend{color:var(--soft)}
.badge{font-weight:700;margin-right:.15rem}.good .badge{color:var(--good)}
.bad .badge{color:var(--bad)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:.8rem;margin:0}
.facts div,figure,.scroll,.columns>div{background:var(--card);border:1px solid var(--line);
border-radius:12px}
.facts div{padding:.7rem 1rem}dt{color:var(--soft);font-size:.85rem}
dd{margin:0;font-size:1.15rem;font-weight:600;font-variant-numeric:tabular-nums}
figure{margin:0 0 1.2rem;padding:1rem;break-inside:avoid}
figure img{display:block;width:100%;height:auto;background:#fff;border-radius:8px}
figcaption{color:var(--soft);font-size:.93rem;margin-top:.7rem}figcaption b{color:var(--ink)}
.scroll{overflow-x:auto;padding:.3rem .4rem}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
.scroll th,.scroll td{padding:.42rem .7rem;text-align:right;white-space:nowrap}
.scroll th:first-child,.scroll td:first-child{text-align:left}
.scroll th{color:var(--soft);font-weight:600;border-bottom:2px solid var(--line)}
.scroll tbody tr+tr td{border-top:1px solid var(--line)}
.error{color:var(--soft)}.ok{color:var(--good)}
.scroll .flagged{color:var(--bad);font-weight:600;font-size:.78rem;white-space:normal}
.note{color:var(--soft);font-size:.93rem;margin:0 0 .7rem}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}
.columns>div{padding:.9rem 1.1rem}
.columns th{color:var(--soft);font-weight:400;text-align:left;padding:.14rem .8rem .14rem 0;
vertical-align:top;white-space:nowrap}.columns td{overflow-wrap:anywhere;padding:.14rem 0}
code,pre{font:.9em ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem;
overflow-x:auto}
@media (max-width:44rem){.verdict{grid-template-columns:1fr}.number strong{white-space:normal}}
@media print{:root{--page:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#ccc}
body{font-size:10pt}main{max-width:none;padding:0}h2{break-after:avoid}tr{break-inside:avoid}
.scroll{overflow:visible}.scroll table{font-size:8pt}
.scroll th,.scroll td{padding:.25rem .35rem}
figure img{width:86%;margin:0 auto}.columns>div{break-inside:avoid}
.verdict{print-color-adjust:exact}}
"""
