"""The command `thermojax`: sweep, resume, report, doctor.

The only module that prints, configures jax and turns errors into exit codes: 0 done, 1 a
check failed, 2 the request was wrong (one line, nothing written), 130 interrupted.
"""

import contextlib
import dataclasses
import datetime
import io as text_io
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any

__all__ = ["main"]

_ABOUT = """Thermodynamics of learning: ensembles of networks, their free energies and
entropies, with error bars and a verdict on every number.

Examples:
  thermojax sweep                               handwritten digits, five minutes
  thermojax sweep diabetes --model linear       a known answer
  thermojax sweep csv:table.csv --target price --model mlp:16,8
"""
_EXTRAS = ("tyro", "rich", "matplotlib", "sklearn")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: arguments; those of the process by default.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        command = _parse(argv or ["--help"])
        return command if isinstance(command, int) else command.act(argv)
    except KeyboardInterrupt as stop:
        return _complain(f"interrupted{stop}", 130)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        return _complain(f"error: {error.name} is missing: pip install 'thermojax[run]'", 2)
    except (ValueError, OSError) as error:
        return _complain(f"error: {' '.join(str(error).split())}", 2)


def _complain(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


# Parsing


def _parse(argv: list[str]) -> Any:
    """The command asked for, or the exit code of --help."""
    import tyro

    said = text_io.StringIO()
    style: Any = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                _commands(),
                prog="thermojax",
                description=_ABOUT,
                args=argv,
                config=style,
            )
    except SystemExit as stop:
        if not stop.code:
            return 0
        raise ValueError(_one_line(said.getvalue())) from None


def _one_line(boxed: str) -> str:
    """What an error box says, without the box."""
    lines = [line.strip("│╭╮╰╯ \n") for line in boxed.splitlines()]
    kept = [line for line in lines if line and not line.startswith("─")]
    text = " ".join(kept)
    text = re.sub(r"(Argument helptext:|For full helptext).*", "", text)
    text = text.replace(" Available subcommands:", "; known:").replace("(required)", "")
    flag = re.search(r"Perhaps you meant:\s*(--[\w-]+)", text)
    text = text.split("Perhaps you meant:")[0].strip()
    value = re.fullmatch(r"Error parsing \w+: (.*)", text)
    if value:  # raised by the settings themselves, which say what they want
        return value[1]
    hint = f"did you mean {flag[1]}?" if flag else "see thermojax --help"
    return f"{text.rstrip('.')}; {hint}"


def _commands() -> dict[str, Any]:
    """Name -> dataclass whose fields are the arguments and whose `act` does the work."""
    import tyro

    from thermojax.experiments.sweep import SweepConfig

    @dataclasses.dataclass(frozen=True)
    class Sweep(SweepConfig):
        """Thermodynamics of a model on real data, over a ladder of temperatures.

        Attributes:
            data: digits, diabetes, breast_cancer, wine, or csv:FILE.
            out: folder for the result; runs/DATA-NUMBER if left out.
            overwrite: replace an earlier run in that folder.
            quiet: print nothing but errors.
        """

        data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]")] = "digits"
        out: Path | None = None
        overwrite: bool = False
        quiet: bool = False

        def act(self, argv: list[str]) -> int:
            names = [field.name for field in dataclasses.fields(SweepConfig)]
            config = SweepConfig(**{name: getattr(self, name) for name in names})
            return _sweep(config, self.out, self.overwrite, self.quiet, argv)

    # "(default: None)" tells nobody anything
    silent = tyro.conf.arg(help_behavior_hint="")
    for name, hint in typing.get_type_hints(Sweep, include_extras=True).items():
        if getattr(Sweep, name, ...) is None:
            Sweep.__annotations__[name] = Annotated[hint, silent]

    @dataclasses.dataclass(frozen=True)
    class Report:
        """Rebuild the figures and the page of a finished run.

        Attributes:
            folder: folder of the run.
        """

        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]

        def act(self, argv: list[str]) -> int:
            from thermojax.report import write_report

            print(write_report(self.folder))
            return 0

    @dataclasses.dataclass(frozen=True)
    class Doctor:
        """Test this machine: devices, compiler, sums, random streams."""

        def act(self, argv: list[str]) -> int:
            return _doctor()

    @dataclasses.dataclass(frozen=True)
    class Resume:
        """Continue an interrupted sweep, bit for bit.

        Attributes:
            folder: folder of the run, with or without its ending .partial.
            quiet: print nothing but errors.
        """

        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
        quiet: bool = False

        def act(self, argv: list[str]) -> int:
            return _resume(self.folder, self.quiet)

    return {"sweep": Sweep, "resume": Resume, "report": Report, "doctor": Doctor}


# Sweep


def _sweep(config: Any, out: Path | None, overwrite: bool, quiet: bool, argv: list[str]) -> int:
    from thermojax.datasets import check_name
    from thermojax.runfolder import next_free, prepare

    check_name(config.data)
    if out is None:
        stem = re.sub(r"\W+", "_", Path(config.data.removeprefix("csv:")).stem)
        out = next_free(Path("runs") / stem)
    folder = prepare(out, overwrite)
    _use_all_cores()
    folder.open(
        config,
        command="sweep",
        command_line=shlex.join(["thermojax", *argv]),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return _execute(config, folder, quiet)


def _resume(out: Path, quiet: bool) -> int:
    from thermojax.experiments.sweep import SweepConfig
    from thermojax.runfolder import unfinished

    folder, settings = unfinished(out)
    _use_all_cores()
    return _execute(SweepConfig(**settings), folder, quiet)


def _execute(config: Any, folder: Any, quiet: bool) -> int:
    """Run the sweep in its folder; what was computed survives an interruption."""
    from thermojax.experiments.sweep import run_sweep
    from thermojax.io import write_result
    from thermojax.report import write_report

    under_way = folder.checkpoint.exists()
    try:
        with _progress(f"sweep {config.data}", quiet) as show:

            def progress(fraction: float, note: str = "") -> None:
                nonlocal under_way
                under_way = under_way or fraction > 0
                show(fraction, note)

            result = run_sweep(config, progress=progress, checkpoint=folder.checkpoint)
        write_result(folder.partial, result)
        write_report(folder.partial)
    except KeyboardInterrupt:
        if folder.checkpoint.exists():
            raise KeyboardInterrupt(f": go on with `thermojax resume {folder.out}`") from None
        folder.discard()
        raise KeyboardInterrupt(": nothing was written") from None
    except (ValueError, OSError) as error:
        if under_way:  # no fault of the request: keep everything and show where
            raise RuntimeError(
                f"the sweep failed; its files are in {folder.partial}"
            ) from error
        folder.discard()
        raise
    folder.finish()
    if not quiet:
        _print_result(result, folder.out)
    return 0


@contextlib.contextmanager
def _progress(title: str, quiet: bool) -> Generator[Callable[[float, str], None]]:
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


def _print_result(result: Any, out: Path) -> None:
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


# Machine


def _use_all_cores() -> None:
    """One jax device per usable core, unless the user or an earlier computation decided.

    Only the CPU backend reads the setting, so it is of no effect where there is a GPU.
    """
    import jax

    chosen = (
        "JAX_NUM_CPU_DEVICES" in os.environ
        or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        or "cpu" not in (os.environ.get("JAX_PLATFORMS") or "cpu")
    )
    if chosen:
        return
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # the backend runs already
        jax.config.update("jax_num_cpu_devices", cores)


def _doctor() -> int:
    from thermojax.doctor import checks

    _use_all_cores()
    failed = 0
    for check in checks():
        failed += not check.passed
        print(f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}", flush=True)
    print("all checks passed" if not failed else f"{failed} failed: do not trust numbers here")
    return int(failed > 0)
