"""Searches that end, and say how."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from thermojax.theories.representation.corrector import find_pair, find_root


@settings(max_examples=30, deadline=None)
@given(root=st.floats(0.01, 50), start=st.floats(0, 60), power=st.sampled_from([1, 3]))
def test_roots_are_found_from_anywhere(root, start, power):
    found = find_root(
        lambda x: (root**power - x**power, -power * x ** (power - 1), None),
        start,
        tolerance=1e-9,
        low=0.0,
        high=100.0,
    )
    assert found.verdict in ("solved", "flat")
    assert found.verdict == "flat" or abs(found.control**power - root**power) < 1e-8


def test_searches_end_with_a_verdict():
    ends = {"tolerance": 1e-9, "low": 0.0, "high": 10.0}
    assert find_root(lambda x: (20.0 - x, -1.0, None), 1.0, **ends).verdict == "ceiling"
    assert find_root(lambda x: (-1.0 - x, -1.0, None), 1.0, **ends).verdict == "floor"
    assert find_root(lambda x: (1.0, 0.0, None), 1.0, **ends).verdict == "flat"
    assert find_root(lambda x: (np.nan, 1.0, None), 1.0, **ends).verdict == "broken"
    assert find_root(lambda x: (1.0, np.nan, None), 1.0, **ends).verdict == "broken"
    step = find_root(lambda x: (1.0 if x < 3 else -1.0, -0.1, None), 1.0, **ends)
    assert step.verdict == "jump"
    high = {"tolerance": 1e-9, "high": 5.0}
    far = find_pair(lambda x: (x - 9.0, np.eye(2), None), np.zeros(2), **high)
    assert far.verdict == "ceiling"
    assert far.control.tolist() == [5.0, 5.0]
    flat = find_pair(lambda x: (x + 1.0, np.zeros((2, 2)), None), np.ones(2), **high)
    assert flat.verdict == "flat"
