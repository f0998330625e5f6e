"""Lint, format, types and layers: what a reviewer would ask for first."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "thermojax").rglob("*.py"))


def call(*command):
    tool = [str(Path(sys.executable).parent / command[0]), *command[1:]]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint():
    call("ruff", "check", "--no-cache", ".")


def test_format():
    call("ruff", "format", "--check", "--no-cache", ".")


def test_types():
    call("ty", "check")


def test_layers():
    call("lint-imports", "--no-cache")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_size_of_files_and_functions(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            prose = len((ast.get_docstring(node) or "").splitlines())
            assert node.end_lineno - node.lineno - prose <= 80, node.name


def test_no_module_of_leftovers():
    names = {part for path in SOURCES for part in (path.stem, path.parent.name)}
    assert not names & {"utils", "core", "common", "_src", "helpers"}
