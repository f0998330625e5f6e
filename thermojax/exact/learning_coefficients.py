"""Learning coefficients in closed form: how log Z falls off as t = n beta grows.

    log Z(t) = -lambda log t + (m - 1) log log t + O(1),    K = L - L*, t = n beta
    t <K>_t  = -d log Z / d log t  ->  lambda - (m - 1) / log t

lambda is the learning coefficient (real log canonical threshold), m its multiplicity. They
hold for K of the order of |error|^2 and a prior that is positive at the truth; at finite t
the mean differs by more than 1/log t, so test an estimator on the finite-t numbers of
`normal_crossing`, `two_layer_linear` and `rank_one` first.

Source: specification of the core, 3.7; Watanabe 2009; two-layer linear networks Aoyagi &
Watanabe 2005; deep linear networks Aoyagi 2024.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "LearningCoefficient",
    "crossing_coefficient",
    "deep_linear_coefficient",
    "reduced_rank_coefficient",
    "regular_coefficient",
]


class LearningCoefficient(NamedTuple):
    """The learning coefficient lambda (a float) and its multiplicity m (an int)."""

    value: float
    multiplicity: int


def crossing_coefficient(exponents, prior_exponents=None) -> LearningCoefficient:
    """K = prod_i w_i^(2 k_i) under a prior ~ prod_i |w_i|^(h_i).

        lambda = min_i (h_i + 1) / (2 k_i),    m = number of i that attain it

    Args:
        exponents: k_i > 0.
        prior_exponents: h_i > -1; zeros by default.

    Raises:
        ValueError: exponents out of range, or of different length.

    Example:
        >>> crossing_coefficient((1, 1))
        LearningCoefficient(value=0.5, multiplicity=2)
    """
    k = [Fraction(x) for x in exponents]
    h = [Fraction(x) for x in (prior_exponents or [0] * len(k))]
    if not k or len(h) != len(k) or min(k) <= 0 or min(h) <= -1:
        raise ValueError(
            f"need k_i > 0 and as many h_i > -1, got k={exponents}, h={prior_exponents}"
        )
    rates = [(b + 1) / (2 * a) for a, b in zip(k, h, strict=True)]
    return LearningCoefficient(float(min(rates)), rates.count(min(rates)))


def _checked(widths, rank: int) -> tuple[int, ...]:
    sizes = tuple(int(w) for w in widths)
    if len(sizes) < 2 or sizes != tuple(widths) or min(sizes) < 1:
        raise ValueError(f"widths must be two or more positive integers, got {widths}")
    if rank != int(rank) or not 0 <= rank <= min(sizes):
        raise ValueError(f"rank={rank} must lie between 0 and the least of widths {sizes}")
    return sizes


def reduced_rank_coefficient(widths, rank: int = 0) -> LearningCoefficient:
    """Two-layer linear network B A, widths (M, H, N), true map of rank r.

    If N + r <= M + H, M + r <= N + H and H + r <= M + N,

        8 lambda = 2 (H + r)(M + N) + 2 M N - (H + r)^2 - M^2 - N^2    (+ 1, m = 2, where
                   M + H + N + r is odd)

    else (H M - H r + N r)/2 where M + H < N + r, (H N - H r + M r)/2 where N + H < M + r, and
    M N / 2 where M + N < H + r, with m = 1.

    Args:
        widths: (M, H, N): inputs, hidden units, outputs.
        rank: r of the true map.

    Raises:
        ValueError: widths that are no three positive integers, a rank beyond them.

    Example:
        >>> reduced_rank_coefficient((8, 6, 8), 3)
        LearningCoefficient(value=26.0, multiplicity=2)
    """
    sizes = _checked(widths, rank)
    if len(sizes) != 3:
        raise ValueError(f"widths must be (M, H, N), got {widths}: see deep_linear_coefficient")
    m, h, n = sizes
    r = int(rank)
    if m + h < n + r:
        return LearningCoefficient((h * m - h * r + n * r) / 2, 1)
    if n + h < m + r:
        return LearningCoefficient((h * n - h * r + m * r) / 2, 1)
    if m + n < h + r:
        return LearningCoefficient(m * n / 2, 1)
    eight = 2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m**2 - n**2
    odd = (m + h + n + r) % 2
    return LearningCoefficient((eight + odd) / 8, 1 + odd)


def _active(excess: list[int]) -> list[int]:
    """The layers that share the singularity: a subset of excess widths, D_s = H_s - r.

    max_S D < min_rest D,  sum_S D >= l max_S D,  sum_S D < l min_rest D,  l = |S| - 1.
    """
    order = sorted(excess)
    for count in range(2, len(order) + 1):
        inside, rest = order[:count], order[count:]
        links = count - 1
        fits = sum(inside) >= links * max(inside)
        if rest:
            fits = fits and max(inside) < min(rest) and sum(inside) < links * min(rest)
        if fits:
            return inside
    raise AssertionError(f"no subset of the excess widths {excess}")


def deep_linear_coefficient(widths, rank: int = 0) -> LearningCoefficient:
    """Deep linear network, widths (H_1, ..., H_(L+1)), true map of rank r.

    With D_s = H_s - r, S the layers that share the singularity, l = |S| - 1, s = sum_S D and
    a = s - l (ceil(s / l) - 1):

        lambda = [r (H_1 + H_(L+1)) - r^2] / 2 + a (l - a) / (4 l) - l (l - 1)/4 (s / l)^2
                 + (1/2) sum_(i<j in S) D_i D_j,        m = a (l - a) + 1

    Args:
        widths: of all layers, inputs and outputs included.
        rank: r of the true map.

    Raises:
        ValueError: fewer than two widths, a rank beyond them.

    Example:
        >>> deep_linear_coefficient((2, 2, 2, 2))
        LearningCoefficient(value=1.5, multiplicity=3)
    """
    sizes = _checked(widths, rank)
    r = int(rank)
    inside = _active([w - r for w in sizes])
    links, total = len(inside) - 1, sum(inside)
    a = total - links * (-(-total // links) - 1)
    pairs = sum(x * y for x, y in itertools.combinations(inside, 2))
    value = Fraction(r * (sizes[0] + sizes[-1]) - r**2, 2) + Fraction(pairs, 2)
    value += Fraction(a * (links - a), 4 * links)
    value -= Fraction(links - 1, 4 * links) * total**2
    return LearningCoefficient(float(value), a * (links - a) + 1)


def regular_coefficient(
    curvatures: ArrayLike, *, gamma: float = 0.0, step_size: float = 0.0
) -> float:
    """Exact t <K> of a quadratic loss, tethered by gamma, under Euler-Maruyama steps.

        t <K> = (1/2) sum_i c_i / (a_i (1 - step_size a_i / 2)),    a_i = c_i + gamma

    The tether lowers it, the step raises it; without both it is d/2.

    Args:
        curvatures: [d] eigenvalues c_i > 0 of t times the Hessian of L (beta times that of U).
        gamma: stiffness of the tether, nats per unit theta squared.
        step_size: reduced step epsilon of `tj.sgld` or em; 0 for an exact sampler.

    Returns:
        nats, a float; inf where step_size a_i >= 2, since the chain diverges.

    Raises:
        ValueError: curvatures, gamma or step_size negative.

    Source: core specification 3.7.

    Example:
        >>> regular_coefficient([1.0, 4.0])
        1.0
    """
    c = np.asarray(curvatures, np.float64)
    if not (np.all(c >= 0) and gamma >= 0 and step_size >= 0):
        raise ValueError(
            f"curvatures, gamma and step_size must be >= 0, got {c}, {gamma}, {step_size}"
        )
    a = c[c > 0] + gamma
    slack = 1 - step_size * a / 2
    if not np.all(slack > 0):
        return float("inf")
    return float(np.sum(c[c > 0] / (a * slack)) / 2)
