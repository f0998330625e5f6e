"""Every notebook is small, equals its percent script, and runs."""

import sys
from pathlib import Path

import jupytext
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
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery; cells run elsewhere
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_runs(script, tmp_path):
    import notebooks

    copy = tmp_path / script.name
    copy.write_text(script.read_text())
    assert notebooks.execute(copy).exists()
