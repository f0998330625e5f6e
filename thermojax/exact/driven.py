"""Solvable driven traps: the exact work of a discretised process, step by step.

    u(x) = beta k (x - c)^2 / 2,    beta, k and c prescribed at every step

Every letter of a splitting word maps (x, r) linearly, so all states of a trajectory are
affine in the standard normal numbers xi that made it, and every work is quadratic:

    w = (1, xi)^T G (1, xi) / 2,    G = [[g, b^T], [b, A]]
    <w> = (g + tr A) / 2,           Var w = b.b + tr(A^2) / 2
    log <exp(s w)> = s g / 2 - log det(1 - s A) / 2 + s^2 b^T (1 - s A)^-1 b / 2

With the work of the discretisation <exp(-w)> = Z_n/Z_0 at every step size; without it the
same formula says by how much the theorem is missed. The protocol work of a dragged trap is
exactly Gaussian (A = 0); its total is so up to the two ends.

Source: derived here; identities of the core specification 2.11.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.exact.solvable import finite, positive
from thermojax.system import Point, System, system
from thermojax.typing import Array, ArrayLike, Key

__all__ = ["DrivenTrap", "WorkLaw", "dragged_trap", "driven_trap", "stiffened_trap"]

_OVERDAMPED = {"em": "OBAB", "lm": "OABA"}


@dataclasses.dataclass(frozen=True, eq=False)
class WorkLaw:
    """Law of a work that is quadratic in standard normals; float64, nats.

    Attributes:
        form: [1 + m, 1 + m] symmetric G, w = (1, xi)^T G (1, xi) / 2.
    """

    form: np.ndarray

    @property
    def mean(self) -> float:
        """<w>."""
        return float(np.trace(self.form) / 2)

    @property
    def variance(self) -> float:
        """Var w."""
        linear, quadratic = self.form[0, 1:], self.form[1:, 1:]
        return float(linear @ linear + np.sum(quadratic**2) / 2)

    def log_mean_exp(self, scale: float = -1.0) -> float:
        """log <exp(scale w)>; inf where the average diverges.

        Args:
            scale: -1 for Jarzynski's average, -2 for its second moment.
        """
        constant, linear = self.form[0, 0], self.form[0, 1:]
        matrix = np.eye(len(linear)) - scale * self.form[1:, 1:]
        try:
            factor = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return math.inf
        half = np.linalg.solve(factor, scale * linear)
        log_det = 2 * np.sum(np.log(np.diag(factor)))
        return float((scale * constant - log_det + half @ half) / 2)

    @property
    def n_eff_fraction(self) -> float:
        """Effective members of Jarzynski's average per member, for many members."""
        return math.exp(2 * self.log_mean_exp(-1.0) - self.log_mean_exp(-2.0))


@dataclasses.dataclass(frozen=True, eq=False)
class DrivenTrap:
    """A harmonic trap and what is done to it.

    Attributes:
        beta: [n + 1] inverse temperatures; entry 0 is where the process starts.
        stiffness: [n + 1] k.
        center: [n + 1] c.
        scheme: "em", "lm" or a splitting word.
        step_size: reduced step of the kernel.
        friction: of the O letters of a word.
    """

    beta: np.ndarray
    stiffness: np.ndarray
    center: np.ndarray
    scheme: str
    step_size: float
    friction: float

    @functools.cached_property
    def system(self) -> System:
        """The trap; theta is a scalar, control {"stiffness", "center"}."""
        return system(_trap_energy, like=jnp.zeros(()))

    @property
    def path(self) -> Point:
        """All points [n + 1], for `drive`; the first control move is none."""
        control = {
            "center": jnp.asarray(self.center, float),
            "stiffness": jnp.asarray(self.stiffness, float),
        }
        return Point(jnp.asarray(self.beta, float), control)

    @property
    def start(self) -> Point:
        """The point of the first equilibrium."""
        return jax.tree.map(lambda leaf: leaf[0], self.path)

    @property
    def log_ratio(self) -> float:
        """log(Z_n/Z_0) over Lebesgue measure."""
        kappa = self.beta * self.stiffness
        return 0.5 * math.log(kappa[0] / kappa[-1])

    def sample(self, key: Key, size: int) -> Array:
        """[size] positions in equilibrium at the start.

        Args:
            key: typed key.
            size: number of members.
        """
        sd = 1 / math.sqrt(self.beta[0] * self.stiffness[0])
        return float(self.center[0]) + sd * jax.random.normal(key, (size,))

    def backwards(self) -> DrivenTrap:
        """The reverse process of Crooks' theorem."""
        turned = {n: getattr(self, n)[::-1] for n in ("beta", "stiffness", "center")}
        return dataclasses.replace(self, **turned)

    @property
    def protocol(self) -> WorkLaw:
        """Law of sum(protocol)."""
        return self._laws[0]

    @property
    def total(self) -> WorkLaw:
        """Law of sum(protocol + shadow)."""
        return self._laws[1]

    @property
    def dissipated(self) -> float:
        """<w> + log(Z_n/Z_0) of the total work, nats."""
        return self.total.mean + self.log_ratio

    @functools.cached_property
    def _laws(self) -> tuple[WorkLaw, WorkLaw]:
        letters = _OVERDAMPED.get(self.scheme, self.scheme)
        overdamped = self.scheme in _OVERDAMPED
        count = {letter: letters.count(letter) for letter in "ABO"}
        time = math.sqrt(2 * self.step_size) if overdamped else self.step_size
        keep = 0.0 if overdamped else math.exp(-self.friction * time / count["O"])
        kappa = self.beta * self.stiffness
        unit = np.eye(3 + count["O"] * len(kappa))
        x, r, fresh = self.center[0] * unit[0] + unit[1] / math.sqrt(kappa[0]), unit[2], 3

        def potential(i):
            away = x - self.center[i] * unit[0]
            return kappa[i] * np.outer(away, away)

        protocol, shadow = np.zeros((2, *unit.shape))
        for i in range(len(kappa)):
            protocol += potential(i) - potential(max(i - 1, 0))
            for letter in letters:
                before = potential(i) + np.outer(r, r)
                if letter == "O":
                    r = keep * r + math.sqrt(1 - keep**2) * unit[fresh]
                    fresh += 1
                    continue
                if letter == "A":
                    x = x + time / count["A"] * r
                else:
                    r = r - time / count["B"] * kappa[i] * (x - self.center[i] * unit[0])
                shadow += potential(i) + np.outer(r, r) - before
        return WorkLaw(protocol), WorkLaw(protocol + shadow)


def _trap_energy(theta, control):
    return 0.5 * control["stiffness"] * (theta - control["center"]) ** 2


def driven_trap(
    stiffness: ArrayLike,
    center: ArrayLike,
    beta: ArrayLike = 1.0,
    *,
    scheme: str = "em",
    step_size: float = 0.2,
    friction: float = 1.0,
) -> DrivenTrap:
    """A harmonic trap whose stiffness, centre and temperature follow any protocol.

    Args:
        stiffness: [n + 1] k, or a scalar.
        center: [n + 1] c, or a scalar.
        beta: [n + 1] inverse temperature, or a scalar.
        scheme: "em" or "lm" (see `overdamped`), or a word over A, B, O (see `langevin`).
        step_size: reduced step of that kernel.
        friction: rate of the O letters of a word.

    Returns:
        `DrivenTrap`: `.system` and `.path` to drive, `.sample` to start from, `.log_ratio`,
        and the exact laws `.total` and `.protocol` of the reduced work.

    Raises:
        ValueError: lengths that do not fit, a number that must be positive, or a word
            without A, B and O.

    Source: derived here.

    Example:
        >>> trap = driven_trap([1.0, 2.0, 4.0], 0.0)
        >>> round(trap.total.log_mean_exp(), 12) == round(trap.log_ratio, 12)
        True
    """
    given = (positive("beta", beta), positive("stiffness", stiffness), finite("center", center))
    try:
        beta, stiffness, center = np.broadcast_arrays(*(np.atleast_1d(x) for x in given))
    except ValueError:
        shapes = [x.shape for x in given]
        raise ValueError(f"beta, stiffness and center have lengths {shapes}") from None
    if beta.ndim != 1:
        raise ValueError(f"a protocol is a vector of points, got shape {beta.shape}")
    if set(_OVERDAMPED.get(scheme, scheme)) != set("ABO"):
        raise ValueError(f"scheme={scheme!r} must be 'em', 'lm' or a word over A, B and O")
    step = float(positive("step_size", step_size))
    return DrivenTrap(
        beta, stiffness, center, scheme, step, float(positive("friction", friction))
    )


def dragged_trap(
    distance: float = 2.0, n_steps: int = 20, *, stiffness: float = 1.0, **options
) -> DrivenTrap:
    """A trap dragged at constant speed: dissipation without a change of Z.

    Args:
        distance: how far the centre moves.
        n_steps: control moves.
        stiffness: k.
        **options: beta, scheme, step_size and friction, as for `driven_trap`.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")
    return driven_trap(stiffness, np.linspace(0.0, distance, n_steps + 1), **options)


def stiffened_trap(ratio: float = 4.0, n_steps: int = 20, **options) -> DrivenTrap:
    """A trap stiffened geometrically from k = 1: log(Z_n/Z_0) = -log(ratio)/2.

    Args:
        ratio: last stiffness over the first; below 1 the trap is softened.
        n_steps: control moves.
        **options: beta, scheme, step_size and friction, as for `driven_trap`.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")
    ratio = float(positive("ratio", ratio))
    return driven_trap(np.geomspace(1.0, ratio, n_steps + 1), 0.0, **options)
