"""Multimodal energies: a double well, two coupled wells, a ring of wells.

    V(x) = a (x^2 - b^2)^2 + tilt x

Base measure Lebesgue; exact numbers from converged quadrature, for the ring from the
transfer operator T(x, y) = exp(-beta [k (x-y)^2/2 + (V(x) + V(y))/2]), Z = Tr T^n.

Source: core table rows T2, T3, T4, T10.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from thermojax.exact.quadrature import gauss_panels, integrate, refine, shrink
from thermojax.exact.references import INFLATION, REACH
from thermojax.exact.solvable import Moments, Solvable, finite, positive
from thermojax.priors import gaussian_prior
from thermojax.system import system

__all__ = ["coupled_double_wells", "double_well", "ring"]


def _radius(wall: Callable[[float], float], beta: float, start: float) -> float:
    """A radius at which `wall`, which grows from there on, exceeds 60 / beta."""
    radius = start
    while wall(radius) < 60 / beta:
        radius *= 1.25
    return radius


def _root_mean_square(integrand: Callable, box) -> float:
    """Root of <x^2> of the first coordinate under the law that an integrand describes."""

    def second(*axes):
        return integrand(*axes)[0], axes[0] ** 2, 0.0

    return math.sqrt(integrate(second, box).mean)


def _double_well_energy(theta, control, data):
    a, b, tilt = data
    return jnp.sum(a * (theta**2 - b**2) ** 2 + tilt * theta)


def double_well(a: float = 1.0, b: float = 1.0, tilt: float = 0.0) -> Solvable:
    """A particle in a quartic double well, tilted or not.

        U = a (x^2 - b^2)^2 + tilt x
        Z = (pi/2) b e^{-z} [I_{1/4}(z) + I_{-1/4}(z)],  z = beta a b^4 / 2   (tilt = 0)

    Args:
        a: strength; the barrier is a b^4.
        b: position of the minima at +-b.
        tilt: slope added to U.

    Returns:
        A solvable system with scalar theta over Lebesgue measure.

    Raises:
        ValueError: a or b not positive.

    Source: core table rows T2 and T3.

    Example:
        >>> round(float(double_well().log_partition(1.0)), 10)
        0.6799262429
    """
    a, b = float(positive("a", a)), float(positive("b", b))
    tilt = float(finite("tilt", tilt))

    def wall(x: float) -> float:
        return a * (x**2 - b**2) ** 2 - abs(tilt) * x

    def problem(beta: float):
        reach = _radius(wall, beta, 1.5 * b)

        def integrand(x):
            energy = a * (x**2 - b**2) ** 2 + tilt * x
            return -beta * energy, energy, 0.0

        return integrand, [(-reach, reach)]

    scale = INFLATION * _root_mean_square(*problem(REACH))
    reference = gaussian_prior(scale, like=0.0)
    target = system(_double_well_energy, reference=reference, data=(a, b, tilt))
    return Solvable(target, lambda beta: integrate(*problem(beta)), 1, proper_above=0.0)


def _coupled_energy(theta, control, data):
    coupling, a, b = data
    wells = jnp.sum(a * (theta**2 - b**2) ** 2)
    return wells + coupling * (theta[0] - theta[1]) ** 2


def coupled_double_wells(coupling: float = 0.25, *, a: float = 1.0, b: float = 1.0) -> Solvable:
    """Two double wells joined by a spring.

        U = a (x^2 - b^2)^2 + a (y^2 - b^2)^2 + coupling (x - y)^2

    Args:
        coupling: strength of the spring, of either sign.
        a: strength of the wells.
        b: position of their minima.

    Returns:
        A solvable system with theta [2] over Lebesgue measure.

    Raises:
        ValueError: a or b not positive, or coupling not finite.

    Source: core table row T4.

    Example:
        >>> round(float(coupled_double_wells().log_partition(1.0)), 10)
        1.0352590782
    """
    a, b = float(positive("a", a)), float(positive("b", b))
    coupling = float(finite("coupling", coupling))
    pull = 2 * max(-coupling, 0.0)  # coupling (x-y)^2 >= -pull (x^2 + y^2)

    def wall(x: float) -> float:
        lowest = -pull * b**2 - pull**2 / (4 * a)  # of the other coordinate
        return a * (x**2 - b**2) ** 2 - pull * x**2 + lowest

    def problem(beta: float):
        reach = _radius(wall, beta, 1.5 * b)

        def integrand(x, y):
            energy = a * (x**2 - b**2) ** 2 + a * (y**2 - b**2) ** 2
            energy = energy + coupling * (x - y) ** 2
            return -beta * energy, energy, 0.0

        return integrand, [(-reach, reach)] * 2

    scale = INFLATION * _root_mean_square(*problem(REACH))
    reference = gaussian_prior(scale, like=jnp.zeros(2))
    target = system(_coupled_energy, reference=reference, data=(coupling, a, b))
    return Solvable(target, lambda beta: integrate(*problem(beta)), 2, proper_above=0.0)


def _ring_energy(theta, control, data):
    coupling, a, b = data
    bonds = 0.5 * coupling * jnp.sum((jnp.roll(theta, -1) - theta) ** 2)
    return bonds + a * jnp.sum((theta**2 - b**2) ** 2)


def _trace_moments(log_kernel, bond, n: int, beta: float) -> Moments:
    """Moments of a ring of n bonds from its symmetric transfer matrix.

    With centred bond energies u: Var U = n [Tr(u^2 T . T^{n-1})
    + sum_k Tr(u T . T^k . u T . T^{n-2-k})], products with u taken entry by entry.
    """
    top = log_kernel.max()
    transfer = np.exp(log_kernel - top)
    values, vectors = np.linalg.eigh(transfer)
    largest = values[-1]
    values, transfer = values / largest, transfer / largest
    powers = values ** np.arange(n + 1)[:, None]
    rest = (vectors * powers[n - 1]) @ vectors.T * transfer  # T . T^{n-1}, entry by entry

    trace = np.sum(powers[n])
    average = np.sum(bond * rest) / trace
    once = vectors.T @ ((bond - average) * transfer) @ vectors
    same = np.sum((bond - average) ** 2 * rest)
    paths = powers[: n - 1].T @ powers[: n - 1][::-1]
    variance = n * (same + np.sum(once**2 * paths)) / trace
    log_z = n * (top + math.log(largest)) + math.log(trace)
    return Moments(log_z, n * average, variance)


def ring(n: int = 8, *, coupling: float = 1.0, a: float = 0.25, b: float = 1.0) -> Solvable:
    """A periodic chain of double wells (a lattice phi^4 field).

        U = sum_i coupling (x_{i+1} - x_i)^2 / 2 + a (x_i^2 - b^2)^2,    x_{n+1} = x_1
        Z = Tr T^n,    T(x, y) = exp(-beta [coupling (x-y)^2/2 + (V(x) + V(y))/2])

    The transfer operator is discretised at quadrature nodes (Nystrom), so that any length
    costs the same.

    Args:
        n: number of sites, at least 1.
        coupling: stiffness of the springs, not negative.
        a: strength of the wells.
        b: position of their minima.

    Returns:
        A solvable system with theta [n] over Lebesgue measure.

    Raises:
        ValueError: n < 1, negative coupling, a or b not positive.

    Source: core table row T10.

    Example:
        >>> round(float(ring().log_partition(1.0)), 10)
        4.4042210256
    """
    if n < 1:
        raise ValueError(f"a ring needs n >= 1 sites, got {n}")
    a, b = float(positive("a", a)), float(positive("b", b))
    coupling = float(finite("coupling", coupling))
    if coupling < 0:
        raise ValueError(f"coupling must not be negative, got {coupling}")

    def well(x):
        return a * (x**2 - b**2) ** 2

    def site(beta: float):
        reach = _radius(well, beta, 1.5 * b)
        return (lambda x: (-beta * well(x), well(x), 0.0)), [(-reach, reach)]

    def moments(beta: float) -> Moments:
        ((low, high),) = shrink(*site(beta))

        def estimate(panels: int) -> Moments:
            x, weights = gauss_panels(low, high, panels)
            bond = coupling * (x[:, None] - x) ** 2 / 2 + (well(x)[:, None] + well(x)) / 2
            half = 0.5 * np.log(weights)
            return _trace_moments(half[:, None] + half - beta * bond, bond, n, beta)

        return refine(estimate, 64)

    scale = INFLATION * _root_mean_square(*site(REACH))
    reference = gaussian_prior(scale, like=jnp.zeros(n))
    target = system(_ring_energy, reference=reference, data=(coupling, a, b))
    return Solvable(target, moments, n, proper_above=0.0)
