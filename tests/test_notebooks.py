"""Every notebook is small, equals its percent script, and runs.

By day the cells of four run as scripts and one notebook in a kernel of its own; by night each.
"""

import runpy
import sys
from pathlib import Path

import jax
import jupytext
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_pair_is_in_step_and_small(script):
    stored = script.with_suffix(".ipynb")
    assert stored.stat().st_size < 200_000
    source = [cell.source for cell in jupytext.read(script).cells]
    assert [cell.source for cell in nbformat.read(stored, 4).cells] == source


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a notebook shows them and goes on
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_cells_run(script, monkeypatch):
    """In this process, which spares them a start each and what is compiled already."""
    monkeypatch.chdir(ROOT)
    matplotlib.use("agg")
    try:
        with matplotlib.rc_context():
            runpy.run_path(str(script))
    finally:
        jax.config.update("jax_enable_x64", False)  # as 04 has it for itself
        plt.close("all")
        jax.clear_caches()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery; cells run elsewhere
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_runs(script, tmp_path):
    import notebooks

    copy = tmp_path / script.name
    copy.write_text(script.read_text())
    assert notebooks.execute(copy).exists()
