"""What the command line shows: progress bars, tables and verdicts, by rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

__all__ = ["print_claims", "print_llc", "print_sweep", "progress_bar"]


@contextlib.contextmanager
def progress_bar(title: str, quiet: bool) -> Generator[Callable[[float, str], None]]:
    """A bar with rate and remaining time on a terminal, nothing elsewhere."""
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.text import Text

    class Rate(rich_progress.ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{6000 * speed:.0f} %/min" if speed else "", style="dim")

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda fraction, note: None
        return
    columns = (
        "{task.description}",
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        Rate(),
        rich_progress.TimeElapsedColumn(),
        "ETA",
        rich_progress.TimeRemainingColumn(),
        "[dim]{task.fields[note]}",
    )
    with rich_progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0, note="")
        yield lambda fraction, note: bar.update(task, completed=fraction, note=note)


def print_sweep(result: Any, out: Path) -> None:
    """Table, verdict and paths on stdout, legible when piped."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from thermojax.report import curve_table, sentence, verdict, with_error

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 120))
    header, rows = curve_table(result.arrays)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in header:
        if name != "β":
            table.add_column(name, justify="right", no_wrap=name != "verdict")
    for row in rows[::-1]:
        style = None if row[-1] == "trusted" else "yellow"
        table.add_row(*row[:1], *row[2:], style=style)
    betas = [float(b) for b in result.arrays["beta"]]
    trusted, text, reasons = verdict(result.summary)
    log_z = result.summary["log_z"]
    console.print(sentence(result.summary, max(betas)), soft_wrap=True)
    console.print(table)
    answer = with_error(log_z["value"], log_z["stderr"])
    console.print(f"log Z = {answer} nats at T = {1 / max(betas):.4g}")
    badge = "[bold green]trusted[/]" if trusted else "[bold red]NOT TRUSTED[/]"
    console.print(f"{badge}  {text}", soft_wrap=True)
    for reason in reasons:
        console.print(f"  - {reason}", soft_wrap=True, markup=False)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, markup=False)


def print_llc(result: Any, out: Path) -> None:
    """The coefficient and its verdict."""
    from rich.console import Console

    from thermojax.report import with_error
    from thermojax.report_llc import sentence

    summary = result.summary
    console, found = Console(highlight=False), summary["llc"]
    console.print(sentence(summary), soft_wrap=True)
    answer = with_error(found["value"], found["stderr"])
    console.print(f"local learning coefficient = {answer} at beta = {summary['beta']:.4g}")
    badge = "[bold green]trusted[/]" if found["trusted"] else "[bold red]NOT TRUSTED[/]"
    console.print(badge)
    for reason in found["reasons"]:
        console.print(f"  - {reason}", soft_wrap=True, markup=False)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, markup=False)


def print_claims(summary: dict[str, Any], out: Path) -> None:
    """Every claim of a theory with what was measured, and its identities."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 120))
    table = Table("claim", "measured", "verdict", box=SIMPLE_HEAD, pad_edge=False)
    styles = {"fails": "red", "open": "yellow"}
    for row in summary["claims"]:
        words = (row["statement"], row["measured"], row["verdict"])
        table.add_row(*words, style=styles.get(row["verdict"]))
    console.print(table)
    identities = summary["identities"]
    broken = [row for row in identities if not row["closes"]]
    console.print(f"{len(identities) - len(broken)} of {len(identities)} identities close")
    for row in broken:
        missed = f"{row['residual']:.2g} against {row['tolerance']:.2g}"
        console.print(f"  - {row['name']}: {missed}", style="red", markup=False)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, markup=False)
