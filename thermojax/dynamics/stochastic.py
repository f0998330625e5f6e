"""One step of any bath whose gradient may be an estimate, and its two ledgers.

    open    moves theta with the gradient that the state carries (batch b)
    switch  draws the next batch b' and evaluates it at the new theta
    close   uses the new gradient (the last kick of an underdamped word)

With U_b the estimate of U from batch b (U itself for the full gradient), two bookkeepings
obey the first law exactly:

    "control"  energy U_b; the batch is a control: work = U_b'(theta') - U_b(theta'),
               heat = E_b(theta') - E_b(theta). No pass over all data.
    "bath"     energy U; the choice of the batch belongs to the bath: work = 0,
               heat = E(theta') - E(theta). One pass over all data per step.

Nats, for baths with a transition density q_b(theta'|theta): bath = -log of the ratio of
q_b(theta'|theta) to its time reverse, which uses the gradient of the same batch at theta';
shadow = Delta u - bath. What nobody reads is never computed: without a ledger the second
evaluation of b is left out by the compiler.

Source: specification of the core, 2.8 and 2.11 (derived here).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from thermojax.accumulators import two_diff
from thermojax.dynamics.gradients import Gradient, data_share
from thermojax.dynamics.kernel import (
    Info,
    Kernel,
    KernelMeta,
    Ledger,
    Stream,
    absent,
    balance,
    control_move,
    point_beta,
    rounded,
    stream,
    total_energies,
    totals_before,
)
from thermojax.dynamics.leaves import as_inexact, dtype_of, kinetic, size, split
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.system import Point, System
from thermojax.typing import Array, Key, PyTree

__all__ = ["BathState", "Moved", "Rule", "make_kernel"]

BOOKKEEPINGS = ("control", "bath")


class BathState(NamedTuple):
    """One walker in a bath with an estimated gradient.

    Attributes:
        position: theta.
        momentum: whitened momenta, or ().
        energy: U_b(theta) of the present batch, or U ("bath" bookkeeping).
        log_base: log m(theta).
        energy_grad: the estimate of grad U from the present batch.
        beta: inverse temperature of the last point.
        kinetic: reduced kinetic energy |r|^2 / 2.
        totals: E and u + kinetic, as the ledger counts them.
        batch: indices of the examples in use, or ().
        memory: what the gradient estimator remembers.
        bath: what the bath remembers: thermostats, preconditioners, optimiser states.
    """

    position: PyTree
    momentum: PyTree
    energy: Array
    log_base: Array
    energy_grad: PyTree
    beta: Array
    kinetic: Array
    totals: tuple[Array, Array]
    batch: PyTree
    memory: PyTree
    bath: PyTree


class Moved(NamedTuple):
    """A walker between `open` and `close`; `record` is what the nats need to know."""

    position: PyTree
    momentum: PyTree
    bath: PyTree
    record: Any
    flags: Array


class Rule(Protocol):
    """How a bath moves; static."""

    @property
    def momentum(self) -> bool:
        """The state carries momenta."""
        ...

    def start(self, at: BathState, params: Any) -> PyTree:
        """What the bath remembers at the beginning."""
        ...

    def open(
        self, key: Key, state: BathState, slope: PyTree, curvature: Callable, params: Any
    ) -> Moved:
        """Move theta by grad u at hand; `curvature(z)` is the Hessian of U_b times z."""
        ...

    def close(self, moved: Moved, slope: PyTree, params: Any) -> Moved:
        """Use the gradient at the new theta."""
        ...

    def nats(self, record: Any, slope: PyTree, held: PyTree, params: Any, dtype: Any) -> Array:
        """Nats taken from the bath: -log of the path ratio at fixed batch; nan if unknown."""
        ...


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Setting:
    """Static description of one kernel."""

    rule: Any
    bookkeeping: str


class _Look(NamedTuple):
    """Energy as the bookkeeping counts it, log m, and the gradient of the batch."""

    energy: Array
    log_base: Array
    energy_grad: PyTree


def _look(
    setting: Setting, sys: System, gradient: Gradient, theta, control, batch, memory
) -> _Look:
    estimate = lambda t: gradient.energy(sys, t, control, batch, memory)
    energy, grad = jax.value_and_grad(estimate)(theta)
    if setting.bookkeeping == "bath" and not absent(batch):
        energy = sys.energy(theta, control)
    return _Look(rounded(energy), rounded(sys.log_base(theta, control)), grad)


def _slope(
    sys: System, theta: PyTree, energy_grad: PyTree, beta: Array, control: PyTree
) -> PyTree:
    """grad u. The prior's part is not carried: it costs less than its memory traffic."""
    if sys.prior is None:
        return jax.tree.map(lambda g: beta * g, energy_grad)
    prior = jax.grad(sys.log_base)(theta, control)
    return jax.tree.map(lambda g, m: beta * g - m, energy_grad, prior)


def step(
    setting: Setting,
    sys: System,
    gradient: Gradient,
    key: Key,
    state: BathState,
    point: Point,
    params: Any,
) -> tuple[BathState, Info]:
    """Open, switch, close; then the books."""
    rule, control, dtype = setting.rule, point.control, state.energy.dtype
    beta = point_beta(point, dtype)
    estimate = lambda t: gradient.energy(sys, t, control, state.batch, state.memory)
    curvature = lambda z: jax.jvp(jax.grad(estimate), (state.position,), (z,))[1]
    before = _slope(sys, state.position, state.energy_grad, beta, control)
    moved = rule.open(key, state, before, curvature, params)
    # without the barrier every reader of theta would repeat the move for itself
    theta = jax.lax.optimization_barrier(moved.position)
    look = lambda batch, memory: _look(setting, sys, gradient, theta, control, batch, memory)
    batch, memory = gradient.draw(stream(key, Stream.BATCH), sys, theta, control, state.memory)
    at = look(batch, memory)
    after = _slope(sys, theta, at.energy_grad, beta, control)
    moved = rule.close(moved, after, params)
    new = state._replace(
        position=theta,
        momentum=moved.momentum,
        beta=beta,
        kinetic=rounded(kinetic(moved.momentum, dtype)),
        batch=batch,
        memory=memory,
        bath=moved.bath,
        **at._asdict(),
    )
    new = new._replace(totals=total_energies(new))
    held = at if absent(batch) else look(state.batch, state.memory)
    same = _slope(sys, theta, held.energy_grad, beta, control)
    nats = rule.nats(moved.record, before, same, params, dtype)
    ledger = _ledger(state, new, held.energy, nats)
    nonfinite = raise_flags((Flag.NONFINITE, ~jnp.isfinite(new.energy + new.log_base)))
    unknown = jnp.full((), jnp.nan, dtype)
    info = Info(
        ledger, unknown, jnp.ones((), bool), 2 * kinetic(after, dtype), moved.flags | nonfinite
    )
    return new, info


def _ledger(old: BathState, new: BathState, held: Array, nats: Array) -> Ledger:
    """Heat at fixed batch, then work of the switch; `held` is the old batch's energy."""
    (energy0, reduced0), (energy1, reduced1) = totals_before(old, new.beta), new.totals
    at_held = total_energies(new._replace(energy=held))[0]
    heat, work = two_diff(at_held, energy0)[0], two_diff(energy1, at_held)[0]
    change = new.beta * (held - old.energy) - (new.log_base - old.log_base)
    change = change + (new.kinetic - old.kinetic)
    protocol, shadow = new.beta * (new.energy - held), change - nats
    return Ledger(
        work=work,
        heat=heat,
        protocol=protocol,
        shadow=shadow,
        bath=nats,
        energy_rounding=balance(energy1, energy0, work, heat),
        nats_rounding=balance(reduced1, reduced0, protocol, shadow, nats),
    )


def drive(
    setting: Setting, sys: System, gradient: Gradient, state: BathState, point: Point
) -> tuple[BathState, Ledger]:
    """Move the control at fixed theta and fixed batch: work."""
    new = state._replace(beta=point_beta(point, state.energy.dtype))
    if jax.tree.leaves(point.control):
        memory = gradient.renew(sys, point.control, state.memory)
        at = _look(setting, sys, gradient, state.position, point.control, state.batch, memory)
        new = new._replace(memory=memory, **at._asdict())
    return control_move(state, new)


def start(
    setting: Setting,
    sys: System,
    gradient: Gradient,
    params: Any,
    theta: PyTree,
    point: Point,
    key: Key | None = None,
) -> BathState:
    """State at theta; without a key momenta are zero and the first batch is key 0's."""
    theta = as_inexact(theta)
    if sys.template is not None:
        sys.template.check(theta)
    memory = gradient.init(sys, theta, point.control)
    root = jax.random.key(0) if key is None else key
    batch, memory = gradient.draw(stream(root, Stream.BATCH), sys, theta, point.control, memory)
    at = _look(setting, sys, gradient, theta, point.control, batch, memory)
    dtype = at.energy.dtype
    beta = point_beta(point, dtype)
    momentum: PyTree = ()
    if setting.rule.momentum:
        momentum = jax.tree.map(jnp.zeros_like, theta)
        if key is not None:
            draws = jax.random.normal(key, (size(theta),), dtype_of(theta))
            momentum = split(draws, theta)
    moving = rounded(kinetic(momentum, dtype))
    state = BathState(theta, momentum, *at, beta, moving, (beta, beta), batch, memory, bath=())
    state = state._replace(bath=setting.rule.start(state, params))
    return state._replace(totals=total_energies(state))


def _itself(state: BathState) -> BathState:
    return state


def _sample(sys: System, key: Key, point: Point) -> PyTree:
    return sys.sample_base(key, point.control)


def make_kernel(
    rule: Any,
    sys: System,
    gradient: Gradient,
    params: Any,
    bookkeeping: str,
    meta: KernelMeta,
) -> Kernel:
    """A kernel from its rule.

    Raises:
        ValueError: an unknown bookkeeping.
    """
    if bookkeeping not in BOOKKEEPINGS:
        raise ValueError(f"bookkeeping={bookkeeping!r} is unknown: use 'control' or 'bath'")
    setting, bind = Setting(rule, bookkeeping), jax.tree_util.Partial
    meta = dataclasses.replace(meta, data_share=data_share(gradient, sys))
    params = jax.tree.map(jnp.asarray, params)
    return Kernel(
        init=bind(start, setting, sys, gradient, params),
        step=bind(step, setting, sys, gradient),
        drive=bind(drive, setting, sys, gradient),
        params=params,
        meta=meta,
        observe=bind(_itself),
        sample=bind(_sample, sys),
    )
