"""Self-test of this machine: what its compiler must get right for any number to count.

Each check is quick, runs the library's own code, and says what it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.accumulators import Compensated, compensated_add
from thermojax.dynamics.langevin import langevin
from thermojax.ensembles import init_ensemble, run
from thermojax.priors import gaussian_prior
from thermojax.system import Point, system

__all__ = ["Check", "checks"]


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: what was tested.
        passed: whether it is right.
        detail: what was found, and the mend where it is wrong.
    """

    name: str
    passed: bool
    detail: str


def checks() -> Iterator[Check]:
    """Run every check, yielding each as it is done; one that crashes has failed."""
    tests: dict[str, Callable[[], tuple[bool, str]]] = {
        "devices": _devices,
        "jax version": _version,
        "energies of an ensemble under jit(vmap)": _miscompile,
        "compensated sums under jit": _compensated,
        "random streams do not depend on chunk length": _chunking,
        "random streams do not depend on ensemble size": _prefix,
    }
    for name, test in tests.items():
        try:
            passed, detail = test()
        except Exception as error:  # a check must not hide the next one
            passed, detail = False, f"{type(error).__name__}: {error}".splitlines()[0]
        yield Check(name, passed, detail)


def _devices() -> tuple[bool, str]:
    devices = jax.devices()
    return len(
        devices
    ) > 0, f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"


def _version() -> tuple[bool, str]:
    version = jax.__version__
    if version == "0.10.2":
        return False, f"jax {version} hands walkers each other's energies: install another"
    return jax.__version_info__ >= (0, 10, 1), f"jax {version} (0.10.1 or later, not 0.10.2)"


def _miscompile(rows: int = 20_000) -> tuple[bool, str]:
    """jit(vmap(|A r|^2)) row by row against the same arithmetic outside jit.

    jax 0.10.2 returns the energies of other rows (jax-ml/jax#39103).
    """
    rng = np.random.default_rng(0)
    matrix, points = rng.normal(size=(3, 3)), rng.normal(size=(rows, 3))
    exact = ((points @ matrix.T) ** 2).sum(1)
    with jax.enable_x64(True):
        factor = jnp.asarray(matrix)
        energies = jax.jit(jax.vmap(lambda r: jnp.sum((factor @ r) ** 2)))(jnp.asarray(points))
    wrong = int(np.sum(~np.isclose(np.asarray(energies), exact, rtol=1e-10, atol=0)))
    mend = "" if not wrong else ": this jax miscompiles, install another version"
    return wrong == 0, f"{wrong:,} of {rows:,} rows differ{mend}"


def _compensated(terms: int = 200_000) -> tuple[bool, str]:
    """A float32 sum that loses digits unless the compensation survives the compiler."""
    values = np.random.default_rng(0).uniform(size=terms).astype(np.float32)
    zero = jnp.zeros((), jnp.float32)

    @jax.jit
    def total(values):
        def add(carry, x):
            good, plain = carry
            return (compensated_add(good, x), plain + x), None

        (good, plain), _ = jax.lax.scan(add, (Compensated(zero, zero), zero), values)
        return good.value, plain

    good, plain = (float(x) for x in total(values))
    exact = math.fsum(values.tolist())
    error, naive = abs(good / exact - 1), abs(plain / exact - 1)
    return error < 1e-7, f"relative error {error:.0e}, plain sum {naive:.0e}"


def _walk(size: int, chunk: int, n_steps: int = 40) -> np.ndarray:
    """End positions of a small ensemble in a double well."""
    well = system(
        lambda x: jnp.sum((x**2 - 1) ** 2), prior=gaussian_prior(1.0), like=jnp.zeros(3)
    )
    kernel, key, point = langevin(well), jax.random.key(0), Point(1.0)
    st = init_ensemble(kernel, key, point, size=size, tile=4)
    st, _ = run(kernel, key, st, point, n_steps=n_steps, chunk=chunk)
    return np.asarray(st.position)


def _same(first: np.ndarray, second: np.ndarray, what: str) -> tuple[bool, str]:
    equal = bool(np.array_equal(first, second)) and bool(np.isfinite(first).all())
    return equal, f"{what}: {'equal bit for bit' if equal else 'they differ'}"


def _chunking() -> tuple[bool, str]:
    return _same(_walk(8, 10), _walk(8, 40), "40 steps in chunks of 10 and of 40")


def _prefix() -> tuple[bool, str]:
    return _same(_walk(4, 40), _walk(8, 40)[:4], "the first walkers of 4 and of 8")
