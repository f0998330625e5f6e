"""Every route to log Z on every row of the table of ground truth: the README's table.

    python scripts/compare_methods.py                       # all rows, all methods, long
    python scripts/compare_methods.py --rows T1 T14 --methods ti bridge
    python scripts/compare_methods.py --write README.md     # replaces the table there

One run per cell: z = (log Z - exact) / stderr with the standard error in brackets, `?` where
the verdict is "not trusted", `-` where the method does not apply. A number that is wrong by
more than four of its errors and is trusted all the same would be marked WRONG.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax

import thermojax as tj

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
LOCAL = ("einstein_crystal", "laplace")


def cell(row: tuple, method: str, seed: int) -> dict:
    """One estimate against its exact value."""
    solved, beta, exact = row[0](), row[1], row[2]
    start = time.process_time()
    try:
        est = tj.log_partition(
            solved.system, tj.Point(beta), jax.random.key(seed), method=method
        )
        value, error = float(est.value), float(est.stderr)
    except (ValueError, tj.ImproperEnsembleError) as refusal:
        return {"text": "-", "reason": str(refusal)}
    trusted = bool(est.trusted)
    z = (value - exact) / max(error, 1e-6)
    wrong = trusted and not abs(z) <= 4 and method not in LOCAL
    text = f"{z:+.1f} ({error:.1g})" + ("" if trusted else " ?") + (" WRONG" if wrong else "")
    spent = time.process_time() - start
    return {"text": text, "z": z, "stderr": error, "trusted": trusted, "seconds": spent}


def table(results: dict[str, dict[str, dict]], methods: list[str]) -> str:
    """Markdown, a line per row of the ground truth."""
    lines = ["| row | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for row, cells in results.items():
        found = [cells.get(method, {"text": ""})["text"] for method in methods]
        lines.append(f"| {row} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Replace what stands between the marks of `path`."""
    page = path.read_text()
    head, rest = page.split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    """Run what is asked for, keeping finished cells in --keep."""
    from tests.exact.test_table import ROWS
    from thermojax.routes import METHODS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="JSON file with the cells done so far")
    parser.add_argument("--write", type=Path, help="page with the marks of the table")
    args = parser.parse_args()
    results: dict[str, dict[str, dict]] = {}
    if args.keep and args.keep.exists():
        results = json.loads(args.keep.read_text())
    for row in args.rows:
        for method in args.methods:
            if method in results.setdefault(row, {}):
                continue
            results[row][method] = cell(ROWS[row], method, args.seed)
            print(row, method, results[row][method], flush=True)
            if args.keep:
                args.keep.write_text(json.dumps(results))
        jax.clear_caches()
    text = table({row: results[row] for row in ROWS if row in results}, args.methods)
    print(text)
    if args.write:
        write(args.write, text)


if __name__ == "__main__":
    main()
