"""The benchmarks run; their figures are no test."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "option", "said"),
    [
        # measures by the functions of `bench_sampler`: both are run
        ("bench_minibatch.py", "--quick", ("of limit_grad",)),
        # without pymbar it has nothing to compare with, and no verdict
        ("bench_estimators.py", "--quick --only mbar", ("drift", "ladder", "bar")),
        ("bench_estimators.py", "--quick --only log_z", ("bridge", "err@1e6")),
        ("bench_estimators.py", "--quick --only llc", ("base_point", "chain-steps/s")),
        ("bench_information.py", "--smoke", ("slope", "under 2 GiB")),
    ],
)
def test_a_smoke_run(script, option, said):
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *option.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(words in done.stdout for words in said)
    if "mbar" not in option:
        assert "met" in done.stdout or "MISSED" in done.stdout
