from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from thermojax import doctor
from thermojax.accumulators import Compensated


def test_this_machine_is_healthy():
    found = list(doctor.checks())
    assert len(found) == 6
    assert [c.name for c in found if not c.passed] == []
    assert "20,000 rows" in found[2].detail


def test_rows_of_other_walkers_are_caught(monkeypatch):
    def swapped(fn):
        return lambda x: fn(x).at[16_384:].set(jnp.roll(fn(x), 64)[16_384:])

    monkeypatch.setattr(doctor.jax, "jit", swapped)
    passed, detail = doctor._miscompile()
    assert not passed
    assert "3,616 of 20,000 rows differ: this jax miscompiles" in detail


def test_a_plain_sum_is_caught(monkeypatch):
    def plain(total, x):
        return Compensated(total.hi + x, total.lo)

    monkeypatch.setattr(doctor, "compensated_add", plain)
    assert not doctor._compensated()[0]


def test_streams_that_depend_on_layout_are_caught(monkeypatch):
    monkeypatch.setattr(doctor, "_walk", lambda size, chunk: np.full((size, 3), size + chunk))
    assert not doctor._chunking()[0]
    assert not doctor._prefix()[0]


def test_a_check_that_crashes_has_failed(monkeypatch):
    def broken(size, chunk):
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr(doctor, "_walk", broken)
    found = list(doctor.checks())
    assert [c.passed for c in found[-2:]] == [False, False]
    assert found[-1].detail == "RuntimeError: no luck"
