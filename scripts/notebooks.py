"""Execute the notebooks from their percent scripts and store them with outputs.

    python scripts/notebooks.py            rebuild every notebooks/*.ipynb
    python scripts/notebooks.py 00_tour    rebuild one

The percent script is the source: the notebook beside it is made from it, executed from
top to bottom in a fresh kernel, and written only if every cell ran.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "notebooks"


def execute(script: Path, timeout: int = 300) -> Path:
    """Run one percent script as a notebook; the .ipynb beside it is replaced.

    Args:
        script: path of the .py file.
        timeout: seconds that one cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(script)
    resources = {"metadata": {"path": str(FOLDER.parent)}}
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=resources
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    target = script.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all."""
    scripts = [FOLDER / f"{name}.py" for name in names] or sorted(FOLDER.glob("*.py"))
    for script in scripts:
        print(execute(script))


if __name__ == "__main__":
    main(sys.argv[1:])
