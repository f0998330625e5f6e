"""Run the experiments of the theories, and put their claims into a page.

    python scripts/reproduce.py                      all theories, into runs/NAME
    python scripts/reproduce.py ppm --out elsewhere  one of them
    python scripts/reproduce.py --read runs/ppm runs/temperature --write README.md

The claims go between `<!-- claims: begin -->` and `<!-- claims: end -->`, or are printed.
`--read` runs nothing: it takes folders of finished runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from thermojax.experiments.reproduction import THEORIES, claims_table, theory
from thermojax.files import write_bytes
from thermojax.io import read_result

BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"


def reproduce(names: Sequence[str], out: Path, overwrite: bool = False) -> list[Path]:
    """Run theories with their default settings; the folders of their results."""
    folders = []
    for name in names:
        experiment = theory(name)
        folder = experiment.reproduce(
            experiment.settings(),
            out / name,
            overwrite=overwrite,
            progress=lambda fraction, note, n=name: print(
                f"{n} {fraction:4.0%} {note}", file=sys.stderr
            ),
            command=f"reproduce {name}",
            command_line=shlex.join(sys.argv),
        )
        folders.append(folder)
    return folders


def table(folders: Sequence[Path]) -> str:
    """The claims of finished runs as a Markdown table.

    Raises:
        ValueError: the folder of another kind of run.
    """
    summaries = [read_result(folder).summary for folder in folders]
    for folder, facts in zip(folders, summaries, strict=True):
        if "claims" not in facts:
            raise ValueError(f"{folder} holds no claims: give folders of reproductions")
    return claims_table(summaries)


def place(text: str, path: Path) -> Path:
    """Put a table between the marks of a page, which is replaced whole or not at all.

    Raises:
        ValueError: the page does not have both marks once, in their order.
    """
    page = path.read_text(encoding="utf-8")
    if [page.count(BEGIN), page.count(END)] != [1, 1] or page.index(END) < page.index(BEGIN):
        raise ValueError(f"{path} needs {BEGIN} and then {END}, each once")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    return write_bytes(path, f"{head}{BEGIN}\n{text}\n{END}{tail}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run or read, then write or print."""
    parser = argparse.ArgumentParser(description="Run theories, and tabulate their claims.")
    parser.add_argument("theories", nargs="*", help=f"of {', '.join(THEORIES)}; all if none")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier runs")
    parser.add_argument("--read", type=Path, nargs="+", help="finished runs; run nothing")
    parser.add_argument("--write", type=Path, help="page that has the marks")
    args = parser.parse_args(argv)
    unknown = set(args.theories) - set(THEORIES)
    if unknown or (args.read and args.theories):
        parser.error(f"give theories of {', '.join(THEORIES)}, or --read FOLDERS, not both")
    try:
        text = table(
            args.read or reproduce(args.theories or THEORIES, args.out, args.overwrite)
        )
        print(place(text, args.write) if args.write else text)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
