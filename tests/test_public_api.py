"""What `import thermojax as tj` offers, documents, and costs."""

import inspect
import subprocess
import sys

import pytest

import thermojax as tj

DOCUMENTED = sorted(
    name
    for name in tj.__all__
    if inspect.isfunction(getattr(tj, name)) or inspect.isclass(getattr(tj, name))
)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_is_documented(name):
    thing = getattr(tj, name)
    assert (thing.__doc__ or "").strip(), name
    if inspect.isfunction(thing) and len(inspect.signature(thing).parameters) > 1:
        assert "Args:" in thing.__doc__, name


def test_no_private_name_leaks():
    assert not [name for name in tj.__all__ if name.startswith("_")]


def test_import_pulls_in_no_heavy_library_and_changes_nothing():
    code = (
        "import sys, jax; before = jax.config.jax_enable_x64\n"
        "import thermojax\n"
        "heavy = {'flax', 'optax', 'sklearn', 'matplotlib', 'ott', 'tyro', 'xarray', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert jax.config.jax_enable_x64 == before\n"
        "assert not jax.live_arrays()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
