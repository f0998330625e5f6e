import mpmath
import numpy as np
import pytest
from scipy import integrate, special, stats

from thermojax import exact


@pytest.mark.parametrize("beta", [0.2, 10.0, 1e6])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_normal_crossing_against_the_bessel_form(beta, scale):
    t = beta * scale**4
    expected = np.log(special.k0e(1 / (8 * t))) - 0.5 * np.log(4 * np.pi * t)
    solved = exact.normal_crossing(prior_scale=scale)
    # k0e carries e^{1/(8t)}: Z = e^{1/(8t)} K_0(1/(8t)) / sqrt(4 pi t)
    assert solved.log_partition(beta) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("exponents", [(1, 2), (1.5, 1), (3,)])
def test_general_exponents_against_scipy(exponents):
    beta = 4.0

    def integrand(*w):
        u = np.prod([abs(x) ** (2 * k) for x, k in zip(w, exponents, strict=True)])
        return np.exp(-beta * u) * np.prod(stats.norm.pdf(w))

    limits = [(0, 10)] * len(exponents)
    z = 2 ** len(exponents) * integrate.nquad(integrand, limits, opts={"epsrel": 1e-8})[0]
    solved = exact.normal_crossing(exponents)
    assert solved.log_partition(beta) == pytest.approx(np.log(z), rel=1e-6)


def test_three_factors_against_conditioning():
    """(a b c)^2 given c is (a b)^2 with t -> t c^2."""
    beta = 25.0
    c = np.linspace(-40, np.log(12), 6001)
    t = beta * np.exp(2 * c)
    pair = special.k0e(1 / (8 * t)) / np.sqrt(4 * np.pi * t)
    z = np.sum(2 * stats.norm.pdf(np.exp(c)) * np.exp(c) * pair) * (c[1] - c[0])
    assert exact.normal_crossing((1, 1, 1)).log_partition(beta) == pytest.approx(
        np.log(z), rel=1e-10
    )


def test_learning_coefficients():
    """t <U> tends to lambda: regular case 1/(2k), logarithmic corrections for m = 2."""
    t = 1e12
    single = exact.normal_crossing((2,))
    assert t * single.internal_energy(t) == pytest.approx(0.25, abs=1e-3)
    pair = exact.normal_crossing((1, 1))
    assert t * pair.internal_energy(t) == pytest.approx(0.5 - 1 / np.log(t), abs=6e-3)
    assert 1e4 * exact.rank_one((3, 2)).internal_energy(1e4) == pytest.approx(2, abs=1e-3)
    # reduced rank, widths 2-2-2, rank 0: lambda = 3/2
    assert 1e9 * exact.two_layer_linear((2, 2, 2)).internal_energy(1e9) == pytest.approx(
        1.5, abs=1e-3
    )


@pytest.mark.parametrize("widths", [(3, 2, 4), (3, 1, 5), (2, 4, 3), (1, 3, 2)])
def test_two_layer_is_symmetric_under_exchange(widths):
    solved = exact.two_layer_linear(widths)
    swapped = exact.two_layer_linear(widths[::-1])
    for beta in (0.5, 20.0):
        assert solved.log_partition(beta) == pytest.approx(
            swapped.log_partition(beta), rel=1e-10
        )
        assert solved.heat_capacity(beta) == pytest.approx(swapped.heat_capacity(beta))


def test_two_layer_of_width_one_is_a_crossing():
    one, crossing = exact.two_layer_linear((1, 1, 1)), exact.normal_crossing()
    assert one.log_partition(30.0) == pytest.approx(crossing.log_partition(30.0), rel=1e-11)
    assert one.heat_capacity(30.0) == pytest.approx(crossing.heat_capacity(30.0), rel=1e-9)


def test_two_layer_against_sampled_wishart_matrices():
    t, size = 3.0, 200_000
    a = np.random.default_rng(2).normal(size=(size, 2, 3))
    gram = a @ a.transpose(0, 2, 1)
    weight = np.linalg.det(np.eye(2) + 2 * t * gram) ** (-2 / 2)
    expected = np.exp(exact.two_layer_linear((3, 2, 2)).log_partition(t))
    assert abs(weight.mean() - expected) < 5 * weight.std() / np.sqrt(size)
    wrong = np.exp(exact.two_layer_linear((3, 2, 2)).log_partition(1.05 * t))
    assert abs(weight.mean() - wrong) > 5 * weight.std() / np.sqrt(size)


def _bessel_rank_one(t):
    """log Z for M = N = 2: the angle of a integrates to a Bessel function."""

    def integrand(u):
        square = mpmath.exp(u)
        pull = 2 * t**2 * square / (1 + 2 * t * square)
        density = square / 2 * mpmath.exp(-square / 2) / (1 + 2 * t * square)
        return density * mpmath.exp(-t + pull / 2) * mpmath.besseli(0, pull / 2)

    return mpmath.log(mpmath.quad(integrand, mpmath.linspace(-60, 5, 14)))


def test_rank_one_against_high_precision():
    """The table prints -9.0296833145, 0.0150872482, -7.5209584957, 1.5176060436; the
    one-dimensional form with 25 digits gives the numbers that the library gives."""
    with mpmath.workdps(25):
        t, h = mpmath.mpf(100), mpmath.mpf("0.05")
        values = [_bessel_rank_one(t + k * h) for k in (-2, -1, 0, 1, 2)]
        mean = -(values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12 * h)
        bend = -values[0] + 16 * values[1] - 30 * values[2] + 16 * values[3] - values[4]
        capacity = t**2 * bend / (12 * h**2)
    solved = exact.rank_one()
    assert solved.log_partition(100.0) == pytest.approx(float(values[2]), rel=1e-11)
    assert solved.internal_energy(100.0) == pytest.approx(float(mean), rel=1e-9)
    assert solved.heat_capacity(100.0) == pytest.approx(float(capacity), rel=1e-8)


def test_rank_one_limits():
    zero, product = exact.rank_one((2, 3), strength=0.0), exact.two_layer_linear((2, 1, 3))
    assert zero.log_partition(7.0) == pytest.approx(product.log_partition(7.0), rel=1e-10)
    first, second = exact.rank_one((3, 2), strength=1.4), exact.rank_one((2, 3), strength=1.4)
    assert first.log_partition(7.0) == pytest.approx(second.log_partition(7.0), rel=1e-10)
    line, other = exact.rank_one((1, 2)), exact.rank_one((2, 1))
    assert line.heat_capacity(7.0) == pytest.approx(other.heat_capacity(7.0), rel=1e-9)


def test_energies():
    rng = np.random.default_rng(3)
    a, b = (
        rng.normal(size=(2, 3)).astype(np.float32),
        rng.normal(size=(4, 2)).astype(np.float32),
    )
    linear = exact.two_layer_linear((3, 2, 4)).system
    assert linear.energy({"A": a, "B": b}) == pytest.approx(np.sum((b @ a) ** 2), rel=1e-5)
    theta = {"a": a[0], "b": b[:, 0]}
    target = np.zeros((4, 3))
    target[0, 0] = 1.5
    rank = exact.rank_one((3, 4), strength=1.5).system
    expected = np.sum((np.outer(b[:, 0], a[0]) - target) ** 2)
    assert rank.energy(theta) == pytest.approx(expected, rel=1e-5)
    w = np.float32([0.5, -1.5, 2.0])
    crossing = exact.normal_crossing((1, 2, 1)).system
    assert crossing.energy(w) == pytest.approx(0.25 * 1.5**4 * 4, rel=1e-5)
    rough = exact.normal_crossing((1, 0.5)).system
    assert rough.energy(w[:2]) == pytest.approx(0.25 * 1.5, rel=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match="exponents must be positive"):
        exact.normal_crossing((1, 0))
    with pytest.raises(ValueError, match="three positive integers"):
        exact.two_layer_linear((2, 2))
    with pytest.raises(ValueError, match="three positive integers"):
        exact.two_layer_linear((2, 0, 2))
    with pytest.raises(ValueError, match="at most 2, got"):
        exact.two_layer_linear((3, 3, 3))
    with pytest.raises(ValueError, match="two positive integers"):
        exact.rank_one((2, 1.5))
    with pytest.raises(ValueError, match="prior_scale must be positive"):
        exact.rank_one(prior_scale=0)
