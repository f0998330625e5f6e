"""Progress of long work: a bar on a terminal, a callback, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

__all__ = ["reporter"]


@contextlib.contextmanager
def reporter(
    progress: bool | Callable[[int, int], None], total: int, unit: str
) -> Generator[Callable[[int], None]]:
    """A function to call with the work just done.

    Args:
        progress: False for silence, True for a bar with rate and remaining time on a
            terminal, or a function called with (done, total).
        total: amount of work.
        unit: its name.
    """
    done = 0
    if progress is False:
        yield lambda amount: None
        return
    if callable(progress):

        def call(amount: int) -> None:
            nonlocal done
            done += amount
            if amount:  # a fresh start has nothing to tell
                progress(done, total)

        yield call
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=total)
        yield lambda amount: bar.advance(task, amount)
