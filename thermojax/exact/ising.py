"""The Ising model on a torus, in Kaufman's closed form.

With t = exp(-2K), K = beta J, s = (1 - t^2)/2 and, for a momentum q,

    A_q = sqrt(t^2 + s^2 + 2 s t sin^2(q/2)),   B_q = sqrt((s - t)^2 + 2 s t sin^2(q/2))

the partition function of rows x cols spins is half the sum of four products over cols
momenta of (A_q + B_q)^rows +- (A_q - B_q)^rows, times exp(2 K rows cols): over the odd
multiples of pi/cols with either sign, and over the even ones; B_0 = s - t keeps its sign.
Every piece is a smooth function of t, at K = 0 and at the critical point as well, so that
second-order Taylor arithmetic in K gives <U> and Var U exactly.

Source: Kaufman 1949, rewritten here from his hyperbolic angles so that nothing cancels;
core table row T18.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from thermojax.binary import checkerboard_blocks, counting_prior
from thermojax.exact.quadrature import combine
from thermojax.exact.solvable import Moments, Solvable, finite
from thermojax.system import system

__all__ = ["ising"]

_MOST_ENUMERATED = 20


def _ising_energy(theta, control, data):
    coupling, field = (jnp.asarray(x, theta.dtype) for x in data)
    neighbours = jnp.roll(theta, 1, 0) + jnp.roll(theta, 1, 1)
    return -coupling * jnp.sum(theta * neighbours) - field * jnp.sum(theta)


# A jet is the array [value, first, second derivative] with respect to K.


def _times(a, b):
    return np.stack([a[0] * b[0], a[1] * b[0] + a[0] * b[1], _second(a, b)])


def _second(a, b):
    return a[2] * b[0] + 2 * a[1] * b[1] + a[0] * b[2]


def _chain(value, slope, curvature, a):
    """f(a) from f, f' and f'' at a."""
    return np.stack([value, slope * a[1], curvature * a[1] ** 2 + slope * a[2]])


def _power(a, n: int):
    bend = n * (n - 1) * a[0] ** (n - 2)
    return _chain(a[0] ** n, n * a[0] ** (n - 1), bend, a)


def _sqrt(a):
    root = np.sqrt(a[0])
    return _chain(root, 0.5 / root, -0.25 / root**3, a)


def _log(a):
    return _chain(np.log(a[0]), 1 / a[0], -1 / a[0] ** 2, a)


def _constant(x):
    return np.stack([np.asarray(x, np.float64), np.zeros_like(x), np.zeros_like(x)])


def _log_products(t, s, q, rows: int):
    """Sums over momenta q (none of them 0) of log[(A + B)^rows +- (A - B)^rows]."""
    one = np.ones_like(q)
    wave = _constant(2 * np.sin(q / 2) ** 2)
    t, s = (x[:, None] * one for x in (t, s))
    both = _times(t, s)
    bend = _times(both, wave)
    outer = _sqrt(_times(t, t) + _times(s, s) + bend) + _sqrt(_times(s - t, s - t) + bend)
    # (A - B)/(A + B) from A^2 - B^2 = 2 s t, without the cancellation of A - B
    ratio = _times(2 * both, _power(outer, -2))
    lower = _power(ratio, rows)
    upper = rows * _log(outer)
    with np.errstate(divide="ignore"):
        left = -np.expm1(rows * np.log(ratio[0]))  # 1 - ratio^rows
    add = _chain(np.log1p(lower[0]), 1 / (1 + lower[0]), -1 / (1 + lower[0]) ** 2, lower)
    take = _chain(np.log(left), -1 / left, -1 / left**2, lower)
    return np.sum(upper + add, axis=1), np.sum(upper + take, axis=1)


def _kaufman(rows: int, cols: int, k: float) -> Moments:
    """log Z and the moments of U/J at K = beta J >= 0 on a rows x cols torus."""
    t = math.exp(-2 * k) * np.array([1.0, -2.0, 4.0])
    s = 0.5 * (_constant(1.0) - _times(t, t))
    odd = np.pi * (2 * np.arange(cols) + 1) / cols
    even = np.pi * 2 * np.arange(1, cols) / cols
    logs = [*_log_products(t, s, odd, rows), *_log_products(t, s, even, rows)]
    rising, falling = _constant(1.0) - t, t + _times(t, t)  # A + B and A - B at q = 0
    top = max(rising[0], falling[0])
    rising, falling = _power(rising / top, rows), _power(falling / top, rows)
    factors = [_constant(1.0)] * 2 + [rising + falling, rising - falling]
    scales = [0.0] * 2 + [rows * math.log(top)] * 2
    slope = logs[0][1]  # taken out of all four, so that the variance does not cancel
    most = max(log[0] + scale for log, scale in zip(logs, scales, strict=True))
    total = np.zeros(3)
    for log, factor, scale in zip(logs, factors, scales, strict=True):
        first = log[1] - slope
        weight = math.exp(log[0] + scale - most)
        total += weight * _times(np.array([1.0, first, log[2] + first**2]), factor)
    rest = total[1] / total[0]
    sites = rows * cols
    log_z = most + math.log(total[0] / 2) + 2 * k * sites
    return Moments(log_z, 0.0 - (slope + rest + 2 * sites), total[2] / total[0] - rest**2)


def _energies(rows: int, cols: int, coupling: float, field: float) -> np.ndarray:
    """[2^n] energies of all configurations."""
    bits = (np.arange(2 ** (rows * cols))[:, None] >> np.arange(rows * cols)) & 1
    spins = (2 * bits - 1).astype(np.int8).reshape(-1, rows, cols)
    pairs = np.sum(spins * (np.roll(spins, 1, 1) + np.roll(spins, 1, 2)), axis=(1, 2))
    return -coupling * pairs - field * np.sum(spins, axis=(1, 2), dtype=np.int64)


def ising(side=4, coupling: float = 1.0, field: float = 0.0) -> Solvable:
    """The Ising model on a torus, over counting measure.

        U = -J sum_<ij> s_i s_j - h sum_i s_i,    2 bonds per site

    On a side of 2 the two bonds between neighbours both count.

    Args:
        side: side L of the square, or (rows, cols).
        coupling: J; negative values (antiferromagnet) on even sides, or up to 20 spins.
        field: h; other than 0 only up to 20 spins, by enumeration.

    Returns:
        A solvable system with theta [rows, cols] of +-1 (floating point), and the
        checkerboard as its blocks. Closed form at any size; S is the Shannon entropy.

    Raises:
        ValueError: a side below 2; a field, or J < 0 on an odd side, beyond 20 spins.

    Source: Kaufman 1949; core table row T18.

    Example:
        >>> round(float(ising(8).log_partition(0.44)), 10)
        60.0763075272
    """
    sides = tuple(int(x) for x in np.broadcast_to(side, 2))
    if min(sides) < 2 or np.any(np.asarray(side) != np.round(side)):
        raise ValueError(f"side must be whole and at least 2, got {side}")
    j, h = float(finite("coupling", coupling)), float(finite("field", field))
    rows, cols = sides
    closed = h == 0 and (j >= 0 or (rows % 2 == 0 and cols % 2 == 0))
    if not closed and rows * cols > _MOST_ENUMERATED:
        raise ValueError(
            f"{rows} x {cols} spins with coupling {j:g} and field {h:g} have no closed form, "
            f"and enumeration covers {_MOST_ENUMERATED} spins: use field=0 and, for "
            "coupling < 0, even sides"
        )
    energies = None if closed else _energies(rows, cols, j, h)

    def moments(beta: float) -> Moments:
        if energies is None:  # on even sides a sign of J is a relabelling of the spins
            return _kaufman(rows, cols, beta * abs(j)).scaled(abs(j))
        return combine(-beta * energies, energies)

    counting = counting_prior(jnp.zeros(sides), (-1, 1))
    target = system(_ising_energy, prior=counting, data=(j, h))
    return Solvable(target, moments, rows * cols, blocks=checkerboard_blocks(sides))
