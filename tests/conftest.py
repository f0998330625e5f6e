"""Import paths and fixtures of the whole suite."""

import sys
from pathlib import Path

import jax
import pytest

TESTS = Path(__file__).parent

# The standard library owns the name `statistics`: load it before this folder, which pytest
# puts on the path, can shadow it. Ours is imported as `tests.statistics`.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != TESTS]
import statistics  # noqa: E402, F401

sys.path.insert(0, str(TESTS))
sys.path.insert(0, str(TESTS.parent))


@pytest.fixture
def x64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs of one file serve no other: keep the memory of a run bounded."""
    yield
    jax.clear_caches()
