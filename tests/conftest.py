"""Fixtures of the whole suite."""

import os
from pathlib import Path

import jax
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what `nightly.txt` lists, before marks decide what runs."""
    lines = (Path(__file__).parent / "nightly.txt").read_text().splitlines()
    listed = {line for line in lines if not line.startswith("#")}
    found = {item.nodeid for item in items} & listed
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.nightly)
    if config.args_source is config.ArgsSource.TESTPATHS and found != listed:
        raise pytest.UsageError(f"nightly.txt lists tests that are gone: {listed - found}")


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
    """Tests build the same kernels over and over; a worker compiles each program once.

    So do the commands and notebooks that it starts, which read the environment.
    """
    if jax.config.jax_compilation_cache_dir is None:
        folder = tmp_path_factory.mktemp("compiled")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def _programs_forgotten():
    """Live programs are memory maps, of which Linux allows a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield
