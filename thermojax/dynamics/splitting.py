"""The mechanism of Langevin splitting words: letters, one step, its ledger.

    A   theta += t S r                 drift        S = diag(scale), r whitened momenta
    B   r     -= t S grad u(theta)     kick
    O   r      = c r + sqrt(1 - c^2) xi, c = exp(-friction t)        refreshment

Each letter's time t is the step over its multiplicity in the word. A and B preserve
volume: their energy change is shadow work; O leaves the Maxwell law invariant: its energy
change is heat. `langevin` puts words together into kernels.

Source: specification of the core, 2.2 and 2.11; splitting words and shadow work:
Leimkuhler & Matthews 2013, Sivak, Chodera & Crooks 2013.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.accumulators import two_diff
from thermojax.dynamics.kernel import (
    Evaluation,
    Info,
    Ledger,
    Stream,
    absent,
    balance,
    choose,
    control_move,
    evaluate,
    point_beta,
    reduced_grad,
    rounded,
    stream,
    total_energies,
    totals_before,
)
from thermojax.dynamics.leaves import (
    as_inexact,
    dtype_of,
    kinetic,
    scales,
    size,
    split,
    zeros,
)
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.noise import normal
from thermojax.reduce import total
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "LangevinParams",
    "LangevinState",
    "Word",
    "draw",
    "drive",
    "observe",
    "start",
    "step",
]


class LangevinState(NamedTuple):
    """One walker; energies and gradients of U and log m are cached apart.

    Attributes:
        position: theta.
        momentum: whitened momenta r, or () where they are refreshed at every step.
        energy: U(theta), extensive.
        log_base: log m(theta).
        energy_grad: grad U, or () for words that end on a drift.
        log_base_grad: grad log m, or ().
        beta: inverse temperature of the last point.
        kinetic: reduced kinetic energy |r|^2 / 2 of the momenta carried, else 0.
        totals: E = U + kinetic / beta and u + kinetic, as the ledger counts them.
        midpoint: (theta, U) seen by Leimkuhler-Matthews, else ().
    """

    position: PyTree
    momentum: PyTree
    energy: Array
    log_base: Array
    energy_grad: PyTree
    log_base_grad: PyTree
    beta: Array
    kinetic: Array
    totals: tuple[Array, Array]
    midpoint: Any = ()


class LangevinParams(NamedTuple):
    """Numbers of a Langevin kernel, all traced.

    Attributes:
        step_size: reduced step: epsilon of the overdamped words, time of the others.
        friction: rate of the O letters per unit reduced time; ignored when the momenta
            are fully refreshed.
        scale: expected spread of each parameter (the square root of the diagonal of the
            preconditioner), scalar or a pytree like theta.
    """

    step_size: ArrayLike
    friction: ArrayLike
    scale: PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Word:
    """Static description of one kernel."""

    letters: str
    metropolize: bool
    n_inner: int
    full_refresh: bool
    overdamped: bool
    jitter: float

    @property
    def prefix(self) -> str:
        """Leading O letters."""
        return self.letters[: len(self.letters) - len(self.letters.lstrip("O"))]

    @property
    def suffix(self) -> str:
        """Trailing O letters."""
        return self.letters[len(self.letters.rstrip("O")) :]

    @property
    def core(self) -> str:
        """What is repeated and tested."""
        return self.letters.strip("O")

    @property
    def caches_gradient(self) -> bool:
        """The last gradient of a step serves the next."""
        return self.core[-1] == "B"

    @property
    def midpoint(self) -> bool:
        """Averages belong to the middle of the step (Leimkuhler-Matthews)."""
        return self.overdamped and self.core == "ABA"


class _Phase(NamedTuple):
    """Phase point between letters; `at` is None where theta has moved since."""

    theta: PyTree
    r: PyTree
    at: Any
    kicked: Array  # kinetic energy given by the B letters so far


def _kinetic_change(new: PyTree, old: PyTree, dtype: Any) -> Array:
    """Kinetic energy of new minus old in one pass, exact where they hardly differ."""
    change = jnp.zeros((), dtype)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        change = change + 0.5 * total((a - b).astype(dtype) * (a + b).astype(dtype))
    return change


def _decay(word: Word, params: LangevinParams, time: Array) -> Array:
    if word.full_refresh:
        return jnp.zeros_like(time)
    each = time / word.letters.count("O")
    return jnp.exp(-jnp.asarray(params.friction, time.dtype) * each)


class _Clock(NamedTuple):
    """Times of the letters of one step."""

    drift: Array
    kick: Array
    decay: Array
    scale: PyTree


def _refresh(phase: _Phase, clock: _Clock, noise: Array) -> _Phase:
    c = clock.decay
    xi = split(noise, phase.r)
    s = jnp.sqrt(1 - c * c)
    new = jax.tree.map(lambda r, x: c.astype(r.dtype) * r + s.astype(r.dtype) * x, phase.r, xi)
    return phase._replace(r=new)


def _letters(
    word: str, sys: System, phase: _Phase, clock: _Clock, point: Point, noise: Array
) -> tuple[_Phase, Any]:
    """Apply letters in turn; also returns where U was last evaluated (the LM mid-point)."""
    beta = point_beta(point, phase.kicked.dtype)
    last = None
    for letter in word:
        if letter == "O":
            count = size(phase.r)
            draw, noise = noise[:count], noise[count:]
            phase = _refresh(phase, clock, draw)
        elif letter == "A":
            move = lambda x, r, s: x + clock.drift.astype(x.dtype) * s * r
            theta = jax.tree.map(move, phase.theta, phase.r, clock.scale)
            phase = phase._replace(theta=theta, at=None)
        else:
            at = phase.at
            if at is None:
                at = evaluate(sys, phase.theta, point.control)
                last = (phase.theta, at.energy)
            slope = reduced_grad(at, beta)
            kick = lambda r, g, s: r - clock.kick.astype(r.dtype) * s * g.astype(r.dtype)
            r = jax.tree.map(kick, phase.r, slope, clock.scale)
            kicked = phase.kicked + _kinetic_change(r, phase.r, phase.kicked.dtype)
            phase = phase._replace(r=r, at=at, kicked=kicked)
    return phase, last


def _core(
    word: Word, sys: System, phase: _Phase, clock: _Clock, point: Point, noise: Array
) -> tuple[_Phase, Any]:
    """`n_inner` repetitions of the part of the word between its outer O letters."""
    if word.n_inner == 1:
        return _letters(word.core, sys, phase, clock, point, noise)
    keep = word.caches_gradient

    def body(carry, xi):
        now = carry if keep else carry._replace(at=None)
        now, _ = _letters(word.core, sys, now, clock, point, xi)
        return (now if keep else now._replace(at=())), None

    start = phase if keep else phase._replace(at=())
    noise = noise.reshape(word.n_inner, -1)
    phase, _ = jax.lax.scan(body, start, noise, length=word.n_inner)
    return (phase if keep else phase._replace(at=None)), None


def _clock(word: Word, params: LangevinParams, key: Key, theta: PyTree, dtype: Any) -> _Clock:
    step = jnp.asarray(params.step_size, dtype)
    if word.jitter > 0:
        spread = jax.random.uniform(stream(key, Stream.JITTER), (), dtype, -1.0, 1.0)
        step = step * (1 + word.jitter * spread)
    time = jnp.sqrt(2 * step) if word.overdamped else step
    return _Clock(
        drift=time / word.core.count("A"),
        kick=time / word.core.count("B"),
        decay=_decay(word, params, time),
        scale=scales(params.scale, theta),
    )


def _shadow(start: LangevinState, end: _Phase, beta: Array) -> Array:
    """Delta u plus what the kicks gave: Delta u + Delta kin - heat of the O letters."""
    at = end.at
    assert at is not None
    change = beta * (at.energy - start.energy) - (at.log_base - start.log_base)
    return change + end.kicked


def _old_evaluation(state: LangevinState) -> Evaluation:
    return Evaluation(state.energy, state.log_base, state.energy_grad, state.log_base_grad)


def step(
    word: Word,
    sys: System,
    key: Key,
    state: LangevinState,
    point: Point,
    params: LangevinParams,
) -> tuple[LangevinState, Info]:
    """One step of the word: letters, test, bookkeeping."""
    dtype = state.energy.dtype
    beta = point_beta(point, dtype)
    clock = _clock(word, params, key, state.position, dtype)
    d = size(state.position)
    draws = len(word.prefix) + len(word.suffix) + word.core.count("O") * word.n_inner
    flat = normal(stream(key, Stream.NOISE), draws * d, dtype_of(state.position))
    first = len(word.prefix) * d
    last = flat.size - len(word.suffix) * d
    r0 = zeros(state.position) if absent(state.momentum) else state.momentum
    at0 = _old_evaluation(state) if word.caches_gradient else None
    phase = _Phase(state.position, r0, at0, jnp.zeros((), dtype))
    phase, _ = _letters(word.prefix, sys, phase, clock, point, flat[:first])
    refreshed = phase
    phase, seen = _core(word, sys, phase, clock, point, flat[first:last])
    if phase.at is None:
        at = evaluate(sys, phase.theta, point.control, grad=False)
        phase = phase._replace(at=at)
    shadow = _shadow(state, phase, beta)
    acceptance = jnp.where(jnp.isfinite(shadow), jnp.exp(jnp.minimum(-shadow, 0.0)), 0.0)
    accepted = jnp.ones((), bool)
    if word.metropolize:
        coin = jax.random.uniform(stream(key, Stream.ACCEPT), (), dtype)
        accepted = coin < acceptance
        flipped = refreshed._replace(
            r=jax.tree.map(jnp.negative, refreshed.r), at=_old_evaluation(state)
        )
        phase = choose(accepted, phase, flipped)
        shadow = jnp.zeros_like(shadow)
    phase, _ = _letters(word.suffix, sys, phase, clock, point, flat[last:])
    new = _new_state(word, state, phase, beta, seen)
    ledger = _ledger(word, state, new, shadow)
    info = Info(ledger, acceptance, accepted, _grad_norm2(new, dtype), _finite_flag(new))
    return new, info


def _new_state(word, state, phase, beta, seen):
    at = phase.at
    momentum = () if word.full_refresh else phase.r
    state = LangevinState(
        position=phase.theta,
        momentum=momentum,
        energy=at.energy,
        log_base=at.log_base,
        energy_grad=at.energy_grad if word.caches_gradient else (),
        log_base_grad=at.log_base_grad if word.caches_gradient else (),
        beta=beta,
        kinetic=rounded(kinetic(momentum, at.energy.dtype)),
        totals=state.totals,
        midpoint=seen if word.midpoint else (),
    )
    return state._replace(totals=total_energies(state))


def _grad_norm2(state, dtype):
    if absent(state.energy_grad):
        return jnp.zeros((), dtype)
    return 2 * kinetic(reduced_grad(_old_evaluation(state), state.beta), dtype)


def _finite_flag(state):
    return raise_flags((Flag.NONFINITE, ~jnp.isfinite(state.energy + state.log_base)))


def _ledger(word: Word, old: LangevinState, new: LangevinState, shadow: Array) -> Ledger:
    (energy0, reduced0), (energy1, reduced1) = totals_before(old, new.beta), new.totals
    heat = two_diff(energy1, energy0)[0]
    change = new.beta * (new.energy - old.energy) - (new.log_base - old.log_base)
    change = change + (new.kinetic - old.kinetic)
    bath = change - shadow
    zero = jnp.zeros_like(shadow)
    return Ledger(
        work=zero,
        heat=heat,
        protocol=zero,
        shadow=shadow,
        bath=bath,
        energy_rounding=balance(energy1, energy0, heat),
        nats_rounding=balance(reduced1, reduced0, shadow, bath),
    )


def drive(
    word: Word, sys: System, state: LangevinState, point: Point
) -> tuple[LangevinState, Ledger]:
    """Move the control at fixed theta: work; a change of beta alone costs nothing."""
    beta = point_beta(point, state.energy.dtype)
    if jax.tree.leaves(point.control):
        at = evaluate(sys, state.position, point.control, grad=word.caches_gradient)
        if not word.caches_gradient:
            at = at._replace(energy_grad=(), log_base_grad=())
        new = state._replace(beta=beta, **at._asdict())
    else:
        new = state._replace(beta=beta)
    return control_move(state, new)


def start(
    word: Word, sys: System, theta: PyTree, point: Point, key: Key | None = None
) -> LangevinState:
    """State at theta; momenta are drawn from the Maxwell law if a key is given."""
    theta = as_inexact(theta)
    if sys.template is not None:
        sys.template.check(theta)
    at = evaluate(sys, theta, point.control)
    if not word.caches_gradient:
        at = at._replace(energy_grad=(), log_base_grad=())
    momentum: PyTree = ()
    if not word.full_refresh:
        momentum = zeros(theta)
        if key is not None:
            dtype = dtype_of(theta)
            momentum = split(jax.random.normal(key, (size(theta),), dtype), theta)
    midpoint = (theta, at.energy) if word.midpoint else ()
    beta = point_beta(point, at.energy.dtype)
    moving = rounded(kinetic(momentum, at.energy.dtype))
    state = LangevinState(theta, momentum, *at, beta, moving, (beta, beta), midpoint)
    return state._replace(totals=total_energies(state))


def observe(word: Word, state: LangevinState) -> LangevinState:
    """The state to average over: at the mid-point for Leimkuhler-Matthews."""
    if not word.midpoint:
        return state
    position, energy = state.midpoint
    return state._replace(position=position, energy=energy)


def draw(sys: System, key: Key, point: Point) -> PyTree:
    """One exact draw from the base measure."""
    return sys.sample_base(key, point.control)
