"""The command `thermojax`: sweep, llc, reproduce, resume, report, doctor.

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
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

__all__ = ["main"]

_ABOUT = """Thermodynamics of learning: ensembles of networks, their free energies and
entropies, with error bars and a verdict on every number.

Examples:
  thermojax sweep                               handwritten digits, five minutes
  thermojax sweep diabetes --model linear       a known answer
  thermojax sweep csv:table.csv --target price --model mlp:16,8
  thermojax llc                                 a trained network's learning coefficient
  thermojax reproduce all                       the theories, claim by claim
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
    from thermojax.experiments.llc import LlcConfig
    from thermojax.experiments.sweep import SweepConfig

    return {
        "sweep": _on_data(SweepConfig, "sweep", _ABOUT_SWEEP, _sweep),
        "resume": _resume_command(),
        "report": _report_command(),
        "doctor": _doctor_command(),
        "llc": _on_data(LlcConfig, "llc", _ABOUT_LLC, _llc),
        "reproduce": _reproduce_command(),
    }


_ABOUT_SWEEP = "Thermodynamics of a model on real data, over a ladder of temperatures."
_ABOUT_LLC = "Local learning coefficient of a network trained on real data, with a dashboard."


def _on_data(settings: Any, name: str, about: str, run: Callable[..., int]) -> Any:
    """The command of an experiment on a data set: its settings, and where to write."""
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Command(settings):
        data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]")] = "digits"
        out: Path | None = None
        overwrite: bool = False
        quiet: bool = False

        def act(self, argv: list[str]) -> int:
            names = [field.name for field in dataclasses.fields(settings)]
            config = settings(**{name: getattr(self, name) for name in names})
            return run(config, self.out, self.overwrite, self.quiet, argv)

    prefix = "" if name == "sweep" else f"{name}-"
    Command.__doc__ = f"""{about}

        Attributes:
            data: digits, diabetes, breast_cancer, wine, or csv:FILE.
            out: folder for the result; runs/{prefix}DATA-NUMBER if left out.
            overwrite: replace an earlier run in that folder.
            quiet: print nothing but errors.
        """
    # "(default: None)" tells nobody anything
    silent = tyro.conf.arg(help_behavior_hint="")
    for field, hint in typing.get_type_hints(Command, include_extras=True).items():
        if getattr(Command, field, ...) is None:
            Command.__annotations__[field] = Annotated[hint, silent]
    return Command


def _report_command() -> Any:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Report:
        """Rebuild the figures and the page of a finished run.

        Attributes:
            folder: folder of the run.
        """

        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]

        def act(self, argv: list[str]) -> int:
            print(_report(self.folder))
            return 0

    return Report


def _doctor_command() -> Any:
    @dataclasses.dataclass(frozen=True)
    class Doctor:
        """Test this machine: devices, compiler, sums, random streams."""

        def act(self, argv: list[str]) -> int:
            return _doctor()

    return Doctor


def _resume_command() -> Any:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Resume:
        """Continue an interrupted run, bit for bit.

        Attributes:
            folder: folder of the run, with or without its ending .partial.
            quiet: print nothing but errors.
        """

        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
        quiet: bool = False

        def act(self, argv: list[str]) -> int:
            return _resume(self.folder, self.quiet)

    return Resume


def _reproduce_command() -> Any:
    import tyro

    silent = tyro.conf.arg(help_behavior_hint="")

    @dataclasses.dataclass(frozen=True)
    class Reproduce:
        """A theory on real data: its claims measured, its identities, figures and a page.

        Attributes:
            theory: which, or all of them.
            draws: independent draws of the data, over which the error bars are.
            seed: of the first draw.
            mnist: representation: folder with the four IDX files of MNIST or its kin, in
                place of the digits that come with scikit-learn.
            device: representation: sizes for an accelerator.
            out: folder for the result (with all: for their folders); runs/THEORY-NUMBER if
                left out.
            overwrite: replace an earlier run in that folder.
            quiet: print nothing but errors.
        """

        theory: Annotated[
            typing.Literal["ppm", "temperature", "representation", "laws", "all"],
            tyro.conf.Positional,
            tyro.conf.arg(metavar="ppm|temperature|representation|laws|all"),
        ]
        draws: int = 3
        seed: int = 0
        mnist: Annotated[Path | None, silent] = None
        device: bool = False
        out: Annotated[Path | None, silent] = None
        overwrite: bool = False
        quiet: bool = False

        def act(self, argv: list[str]) -> int:
            return _reproduce(self, argv)

    return Reproduce


def _report(folder: Path) -> Path:
    """Rebuild the page of whatever ran in a folder."""
    from thermojax.io import read_result

    summary = read_result(folder).summary
    if "llc" in summary:
        from thermojax.report_llc import write_llc_report

        return write_llc_report(folder)
    if "claims" in summary:
        from thermojax.experiments.reproduction import theory, write_page

        return write_page(folder, theory(summary["experiment"]).page)
    from thermojax.report import write_report

    return write_report(folder)


def _opened(
    config: Any, command: str, prefix: str, out: Path | None, overwrite: bool, argv: list[str]
) -> Any:
    """A fresh run folder with its config.json, after the request was checked."""
    from thermojax.datasets import check_name
    from thermojax.runfolder import next_free, prepare

    check_name(config.data)
    if out is None:
        stem = re.sub(r"\W+", "_", Path(config.data.removeprefix("csv:")).stem)
        out = next_free(Path("runs") / f"{prefix}{stem}")
    folder = prepare(out, overwrite)
    _use_all_cores()
    folder.open(
        config,
        command=command,
        command_line=shlex.join(["thermojax", *argv]),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return folder


# Theories


def _place(asked: Any, name: str) -> Path:
    """Where the result of one theory goes."""
    from thermojax.runfolder import next_free

    if asked.out is None:
        return next_free(Path("runs") / name)
    return asked.out / name if asked.theory == "all" else asked.out


def _reproduce(asked: Any, argv: list[str]) -> int:
    from thermojax.experiments.reproduction import THEORIES, theory
    from thermojax.io import read_result
    from thermojax.runfolder import prepare
    from thermojax.terminal import print_claims, progress_bar

    names = THEORIES if asked.theory == "all" else (asked.theory,)
    own = {key: getattr(asked, key) for key in ("mnist", "device") if getattr(asked, key)}
    if own and "representation" not in names:
        raise ValueError(f"--{next(iter(own))} is for representation, not for {asked.theory}")
    made = {
        name: theory(name).settings(
            draws=asked.draws, seed=asked.seed, **(own if name == "representation" else {})
        )
        for name in names
    }
    places = {name: _place(asked, name) for name in names}
    for place in places.values():  # before the first of them takes its minutes
        prepare(place, asked.overwrite)
    _use_all_cores()
    for name, place in places.items():
        try:
            with progress_bar(f"reproduce {name}", asked.quiet) as show:
                folder = theory(name).reproduce(
                    made[name],
                    place,
                    overwrite=asked.overwrite,
                    progress=show,
                    command="reproduce",
                    command_line=shlex.join(["thermojax", *argv]),
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_left(place)) from None
        if not asked.quiet:
            print_claims(read_result(folder).summary, folder)
    return 0


def _left(place: Path) -> str:
    """What an interrupted reproduction leaves, and how to go on."""
    if place.with_name(f"{place.name}.partial").exists():
        return f": go on with `thermojax resume {place}`"
    return f": nothing was written in {place}"


def _reproduce_on(place: Path, name: str, quiet: bool) -> int:
    """Go on with an interrupted reproduction."""
    from thermojax.experiments.reproduction import theory
    from thermojax.io import read_result
    from thermojax.terminal import print_claims, progress_bar

    try:
        with progress_bar(f"reproduce {name}", quiet) as show:
            folder = theory(name).resume(place, progress=show)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_left(place)) from None
    if not quiet:
        print_claims(read_result(folder).summary, folder)
    return 0


# Sweep and learning coefficient


def _sweep(config: Any, out: Path | None, overwrite: bool, quiet: bool, argv: list[str]) -> int:
    folder = _opened(config, "sweep", "", out, overwrite, argv)
    return _execute("sweep", config, folder, quiet)


def _llc(config: Any, out: Path | None, overwrite: bool, quiet: bool, argv: list[str]) -> int:
    folder = _opened(config, "llc", "llc-", out, overwrite, argv)
    return _execute("llc", config, folder, quiet)


def _resume(out: Path, quiet: bool) -> int:
    from thermojax.experiments.llc import LlcConfig
    from thermojax.experiments.sweep import SweepConfig
    from thermojax.runfolder import unfinished

    folder, config = unfinished(out)
    _use_all_cores()
    if "theory" in config:
        return _reproduce_on(folder.out, config["theory"], quiet)
    if config.get("command") == "llc":
        return _execute("llc", LlcConfig(**config["settings"]), folder, quiet)
    return _execute("sweep", SweepConfig(**config["settings"]), folder, quiet)


def _parts(command: str) -> tuple[Callable, Callable, Callable]:
    """What runs an experiment on a data set, writes its page, and prints its result."""
    from thermojax import terminal

    if command == "llc":
        from thermojax.experiments.llc import run_llc
        from thermojax.report_llc import write_llc_report

        return run_llc, write_llc_report, terminal.print_llc
    from thermojax.experiments.sweep import run_sweep
    from thermojax.report import write_report

    return run_sweep, write_report, terminal.print_sweep


def _execute(command: str, config: Any, folder: Any, quiet: bool) -> int:
    """Run the experiment in its folder; what was computed survives an interruption."""
    from thermojax.io import write_result
    from thermojax.terminal import progress_bar

    run, write_page, show_result = _parts(command)
    under_way = folder.checkpoint.exists()
    try:
        with progress_bar(f"{command} {config.data}", quiet) as show:

            def progress(fraction: float, note: str = "") -> None:
                nonlocal under_way
                under_way = under_way or fraction > 0
                show(fraction, note)

            result = run(config, progress=progress, checkpoint=folder.checkpoint)
        write_result(folder.partial, result)
        write_page(folder.partial)
    except KeyboardInterrupt:
        if folder.checkpoint.exists():
            raise KeyboardInterrupt(f": go on with `thermojax resume {folder.out}`") from None
        folder.discard()
        raise KeyboardInterrupt(": nothing was written") from None
    except (ValueError, OSError) as error:
        if under_way:  # no fault of the request: keep everything and show where
            raise RuntimeError(
                f"the {command} failed; its files are in {folder.partial}"
            ) from error
        folder.discard()
        raise
    folder.finish()
    if not quiet:
        show_result(result, folder.out)
    return 0


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
