"""The benchmarks run; their figures are no test."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.slow
def test_a_smoke_run():
    """`bench_minibatch` measures by the functions of `bench_sampler`: both are run."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench_minibatch.py", "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of limit_grad" in done.stdout
    assert "met" in done.stdout or "MISSED" in done.stdout
