import itertools

import numpy as np
import pytest

from thermojax import exact
from thermojax.exact.learning_coefficients import (
    crossing_coefficient,
    deep_linear_coefficient,
    reduced_rank_coefficient,
    regular_coefficient,
)


def test_both_formulas_agree_on_all_small_networks():
    count = 0
    for widths in itertools.product(range(1, 5), repeat=3):
        for rank in range(min(widths) + 1):
            assert reduced_rank_coefficient(widths, rank) == deep_linear_coefficient(
                widths, rank
            ), (widths, rank)
            count += 1
    assert count == 164


@pytest.mark.parametrize(
    ("widths", "rank", "value", "multiplicity"),
    [
        ((2, 1, 2), 0, 1.0, 2),  # T21
        ((2, 2, 2), 0, 1.5, 1),  # T21
        ((2, 1, 2), 1, 1.5, 1),  # T22
        ((8, 6, 8), 3, 26.0, 2),
        ((2, 2, 2, 2), 0, 1.5, 3),
        ((1, 1, 1, 1), 0, 0.5, 3),  # (a b c)^2
        ((3, 4), 0, 6.0, 1),  # one layer is regular
    ],
)
def test_known_coefficients(widths, rank, value, multiplicity):
    assert deep_linear_coefficient(widths, rank) == (value, multiplicity)


def test_a_chain_of_ones_is_a_crossing():
    for depth in range(1, 6):
        assert deep_linear_coefficient((1,) * (depth + 1)) == crossing_coefficient((1,) * depth)


def test_order_of_the_layers_does_not_matter_without_a_target():
    for widths in itertools.permutations((1, 2, 3, 5)):
        assert deep_linear_coefficient(widths) == deep_linear_coefficient((1, 2, 3, 5))
    assert reduced_rank_coefficient((2, 3, 5), 2) == reduced_rank_coefficient((5, 3, 2), 2)


@pytest.mark.parametrize("widths", [(2, 1, 2), (2, 2, 2), (3, 2, 4), (1, 3, 2), (3, 1, 1)])
def test_against_the_slope_of_exact_partition_functions(widths):
    """t <U> -> lambda - (m - 1) / log t; power-law corrections are gone at t = 1e14."""
    t = 1e14
    value, multiplicity = reduced_rank_coefficient(widths)
    finite = t * exact.two_layer_linear(widths).internal_energy(t)
    slack = 0.2 if multiplicity == 2 else 1.0
    expected = value - (multiplicity - 1) / np.log(t)
    assert finite == pytest.approx(expected, abs=slack / np.log(t) + 1e-3 * slack)
    if multiplicity == 1:
        assert finite == pytest.approx(value, abs=2e-3)


def test_crossings_with_a_prior_exponent():
    assert crossing_coefficient((1, 2), (1, 0)) == (0.25, 1)
    assert crossing_coefficient((1, 2), (0, 1)) == (0.5, 2)
    with pytest.raises(ValueError, match="k_i > 0"):
        crossing_coefficient((1, 0))


def test_regular_coefficient():
    curvatures = np.array([0.5, 2.0, 5.0, 10.0])
    assert regular_coefficient(curvatures) == 2.0
    tethered = regular_coefficient(curvatures, gamma=1.0)
    assert tethered == pytest.approx(0.5 * (0.5 / 1.5 + 2 / 3 + 5 / 6 + 10 / 11))
    # Euler-Maruyama by its own stationary recursion v = (1 - eps a)^2 v + 2 eps
    eps, a = 0.05, curvatures + 1.0
    variance = 2 * eps / (1 - (1 - eps * a) ** 2)
    stepped = regular_coefficient(curvatures, gamma=1.0, step_size=eps)
    assert stepped == pytest.approx(0.5 * np.sum(curvatures * variance))
    assert tethered < stepped
    assert regular_coefficient(curvatures, gamma=1.0, step_size=0.3) == np.inf
    with pytest.raises(ValueError, match="must be >= 0"):
        regular_coefficient([-1.0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: reduced_rank_coefficient((2, 2)), "M, H, N"),
        (lambda: deep_linear_coefficient((3,)), "two or more"),
        (lambda: deep_linear_coefficient((2, 2.5)), "positive integers"),
        (lambda: deep_linear_coefficient((2, 3, 2), 3), "rank=3"),
    ],
)
def test_bad_requests(call, said):
    with pytest.raises(ValueError, match=said):
        call()
