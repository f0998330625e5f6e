"""Langevin baths as words over three letters, with an optional Metropolis test.

    A   theta += t S r                 drift        S = diag(scale), r whitened momenta
    B   r     -= t S grad u(theta)     kick
    O   r      = c r + sqrt(1 - c^2) xi, c = exp(-friction t)        refreshment

Each letter's time t is the step over its multiplicity in the word. A and B preserve
volume: their energy change is shadow work; O leaves the Maxwell law invariant: its energy
change is heat. With u = beta U - log m, reduced units and r ~ N(0, 1):

    BAOAB, OBABO, ABOBA, OABAO     underdamped, bias second order in step_size
    em    O.BAB, full refreshment, t = sqrt(2 step_size):
          theta' = theta - step_size S^2 grad u + sqrt(2 step_size) S xi
    lm    O.ABA likewise, observed at its mid-point: Leimkuhler-Matthews
    mala  em with a test; hmc  O (BAB)^n with a test; ghmc  likewise, partly refreshed

Metropolised kernels leave exp(-u)/Z exactly invariant; the others sample the laws of
table 2.3 of the core specification. Physical step on U: h = step_size * beta for the
overdamped words, h = step_size / sqrt(T) for unit masses in the others.

Source: specification of the core, 2.2-2.4 and 2.11; splitting words and shadow work:
Leimkuhler & Matthews 2013, Sivak, Chodera & Crooks 2013.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from thermojax.dynamics.gradients import Gradient
from thermojax.dynamics.kernel import Kernel, KernelMeta
from thermojax.dynamics.splitting import (
    LangevinParams,
    LangevinState,
    Word,
    draw,
    drive,
    observe,
    start,
    step,
)
from thermojax.dynamics.thermostats import underdamped
from thermojax.system import System
from thermojax.typing import ArrayLike, NotReversibleError, PyTree

__all__ = ["LangevinParams", "LangevinState", "ghmc", "hmc", "langevin", "mala", "overdamped"]


_PLAIN = (False, 1, False, 0.0)


def _validate(letters: str, metropolize: bool, n_inner: int, jitter: float) -> None:
    if not letters or set(letters) != set("ABO"):
        raise ValueError(
            f"splitting={letters!r} must be a word that uses each of the letters A, B and O"
        )
    core = letters.strip("O")
    if set(core) < set("AB"):
        raise ValueError(f"splitting={letters!r} needs A and B between its outer O letters")
    if metropolize and core != core[::-1]:
        raise NotReversibleError(
            f"splitting={letters!r} is no palindrome, so its proposal cannot be tested: "
            "use BAOAB, OBABO, ABOBA or OABAO, or metropolize=False"
        )
    if n_inner < 1:
        raise ValueError(f"n_inner={n_inner} must be at least 1")
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter={jitter} must lie in [0, 1)")


def langevin(
    sys: System,
    splitting: str = "BAOAB",
    metropolize: bool = False,
    *,
    gradient: Gradient | None = None,
    n_inner: int = 1,
    full_refresh: bool = False,
    jitter: float = 0.0,
    step_size: ArrayLike = 0.1,
    friction: ArrayLike = 1.0,
    scale: PyTree = 1.0,
) -> Kernel:
    """Underdamped Langevin dynamics as a splitting word.

    Args:
        sys: the system.
        splitting: word over A, B, O; see the module docstring.
        metropolize: accept or reject each step (momenta flip on rejection); exact.
        gradient: estimator of grad U (`tj.minibatch(64)`, ...) for BAOAB without a test;
            all of the data by default.
        n_inner: repetitions of the word between its outer O letters.
        full_refresh: O redraws the momenta, which then are not part of the state.
        jitter: each step's step_size is multiplied by a uniform in [1-jitter, 1+jitter];
            a fixed trajectory length resonates with harmonic modes.
        step_size: reduced time of one word.
        friction: rate of O per unit reduced time.
        scale: spread of each parameter, scalar or pytree like theta.

    Returns:
        A `Kernel`; its stationary law is exp(-u)/Z if metropolised, else biased at second
        order in step_size (first order for words that are no palindrome).

    Raises:
        NotReversibleError: a Metropolis test on a word whose core is no palindrome.
        ValueError: an unusable word or setting.

    Example:
        >>> from thermojax import Point, gaussian_prior, system
        >>> kernel = langevin(system(lambda x: 0.5 * x**2, like=0.0), "BAOAB")
        >>> point = Point(1.0)
        >>> state, info = kernel.step(
        ...     jax.random.key(0), kernel.init(0.3, point), point, kernel.params
        ... )
        >>> bool(info.accepted)
        True
    """
    if gradient is not None:
        if (splitting, metropolize, n_inner, full_refresh, jitter) != ("BAOAB", *_PLAIN):
            raise ValueError(
                f"gradient={gradient} goes with plain BAOAB only (no test, n_inner=1, no "
                f"full_refresh, no jitter), not with splitting={splitting!r} as given"
            )
        return underdamped(sys, gradient, step_size=step_size, friction=friction, scale=scale)
    return _kernel(
        sys,
        Word(splitting, metropolize, n_inner, full_refresh, False, jitter),
        LangevinParams(step_size, friction, scale),
        order=2 if splitting == splitting[::-1] or full_refresh else 1,
        target=0.7 if metropolize else 0.95,
    )


def _kernel(
    sys: System, word: Word, params: LangevinParams, *, order: int, target: float
) -> Kernel:
    _validate(word.letters, word.metropolize, word.n_inner, word.jitter)
    core = word.core
    meta = KernelMeta(
        name=word.letters + (" metropolised" if word.metropolize else ""),
        exact=word.metropolize,
        order=0 if word.metropolize else order,
        reversible=core == core[::-1] and (word.full_refresh or not _lopsided(word.letters)),
        momentum=not word.full_refresh,
        gradients_per_step=word.n_inner * _gradients(core),
        target_acceptance=target,
    )
    bind = jax.tree_util.Partial
    return Kernel(
        init=bind(start, word, sys),
        step=bind(step, word, sys),
        drive=bind(drive, word, sys),
        params=jax.tree.map(jnp.asarray, params),
        meta=meta,
        observe=bind(observe, word),
        sample=bind(draw, sys),
    )


def _gradients(core: str) -> int:
    """Gradients per pass: one for each kick after a move of theta."""
    count, moved = 0, core[-1] != "B"
    for letter in core:
        if letter == "A":
            moved = True
        elif letter == "B":
            count, moved = count + moved, False
    return count


def _lopsided(letters: str) -> bool:
    return letters != letters[::-1]


def overdamped(
    sys: System, scheme: str = "lm", *, step_size: ArrayLike = 0.01, scale: PyTree = 1.0
) -> Kernel:
    """Overdamped Langevin dynamics, unadjusted.

    Args:
        sys: the system.
        scheme: "em" (Euler-Maruyama, bias first order) or "lm" (Leimkuhler-Matthews,
            bias second order, one gradient and one energy per step; averages are taken
            at its mid-point, the ledger at its pre-point).
        step_size: reduced step epsilon; the learning rate on U is epsilon * beta.
        scale: square root of a constant diagonal preconditioner.

    Raises:
        ValueError: unknown scheme.
    """
    words = {"em": ("OBAB", 1), "lm": ("OABA", 2)}
    if scheme not in words:
        raise ValueError(f"scheme={scheme!r} is unknown: use 'lm' or 'em'")
    letters, order = words[scheme]
    params = LangevinParams(step_size, jnp.inf, scale)
    word = Word(letters, False, 1, True, True, 0.0)
    return _kernel(sys, word, params, order=order, target=0.95)


def mala(sys: System, *, step_size: ArrayLike = 0.1, scale: PyTree = 1.0) -> Kernel:
    """Metropolis-adjusted Langevin: Euler-Maruyama as proposal, exact.

    The log acceptance is minus the shadow work of the Euler step; on a harmonic well its
    mean is 1 - (2/pi) atan((hk)^{3/2} / (2 sqrt 2)) (core specification 2.4).

    Args:
        sys: the system.
        step_size: reduced step epsilon of the proposal.
        scale: square root of a constant diagonal preconditioner.
    """
    word = Word("OBAB", True, 1, True, True, 0.0)
    params = LangevinParams(step_size, jnp.inf, scale)
    return _kernel(sys, word, params, order=0, target=0.574)


def hmc(
    sys: System,
    *,
    step_size: ArrayLike = 0.2,
    n_inner: int = 8,
    jitter: float = 0.25,
    scale: PyTree = 1.0,
) -> Kernel:
    """Hamiltonian Monte Carlo with a jittered trajectory length, exact.

    The step is jittered rather than the number of inner steps: walkers that run in
    lockstep would all wait for the longest trajectory.

    Args:
        sys: the system.
        step_size: leapfrog step in reduced time.
        n_inner: leapfrog steps per trajectory.
        jitter: relative half-width of the step's uniform jitter.
        scale: spread of each parameter.
    """
    word = Word("OBAB", True, n_inner, True, False, jitter)
    params = LangevinParams(step_size, jnp.inf, scale)
    return _kernel(sys, word, params, order=0, target=0.75)


def ghmc(
    sys: System,
    *,
    step_size: ArrayLike = 0.2,
    n_inner: int = 1,
    jitter: float = 0.0,
    friction: ArrayLike = 1.0,
    scale: PyTree = 1.0,
) -> Kernel:
    """Generalised HMC: momenta partly refreshed, flipped on rejection, exact.

    Args:
        sys: the system.
        step_size: leapfrog step in reduced time.
        n_inner: leapfrog steps per trajectory.
        jitter: relative half-width of the step's uniform jitter.
        friction: rate of the refreshment per unit reduced time.
        scale: spread of each parameter.
    """
    word = Word("OBAB", True, n_inner, False, False, jitter)
    params = LangevinParams(step_size, friction, scale)
    return _kernel(sys, word, params, order=0, target=0.9)
