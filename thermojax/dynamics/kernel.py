"""The contract of a bath, its ledger, and the streams of its random numbers.

    init(theta, point)               -> state
    step(key, state, point, params)  -> state, info     bath move: heat
    drive(state, point)              -> state, ledger   control move: work

One cycle is a control move at fixed theta, then a bath move at fixed control:

    work W = U(theta; lam') - U(theta; lam)
    heat Q = E(theta') - E(theta),   E = U + kinetic energy
    protocol w = u(theta; point') - u(theta; point)                     nats
    shadow     = Delta u + log q(theta'|theta) / q~(theta|theta')       nats
    bath     q = Delta u - shadow                                       nats

so that E_n - E_0 = sum W + sum Q and u_n - u_0 = sum w + sum shadow + sum q at any step
size, where u includes the reduced kinetic energy of kernels with momenta. -q is the
entropy handed to the bath.

Every random number is a function of (base key, stream, step, walker, parameter).

Source: specification of the core, sections 2.1, 2.11 and 6.2 (derived here); shadow work
after Sivak, Chodera & Crooks 2013.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.accumulators import Compensated, compensated_add, two_diff, two_sum
from thermojax.noise import plain_stream
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "Evaluation",
    "Info",
    "Kernel",
    "KernelMeta",
    "Ledger",
    "LedgerSums",
    "Stream",
    "add_ledgers",
    "add_move",
    "balance",
    "choose",
    "control_move",
    "evaluate",
    "no_moves",
    "plain_noise",
    "rounded",
    "total_energies",
    "totals_before",
    "zero_ledger",
]


class Stream(enum.IntEnum):
    """Fixed tags of independent random streams."""

    NOISE = 0
    ACCEPT = 1
    SWAP = 2
    RESAMPLE = 3
    BATCH = 4
    INIT = 5
    THERMOSTAT = 6
    JITTER = 7
    MOVES = 8
    PROBE = 9


class Ledger(NamedTuple):
    """Energy (units of U) and nats exchanged by one move, or their sums over moves.

    Attributes:
        work: energy given by the control.
        heat: energy taken from the bath.
        protocol: reduced work of the control, nats.
        shadow: reduced work of the discretisation, nats; 0 for metropolised kernels.
        bath: nats taken from the bath; minus the entropy delivered to it.
        energy_rounding: what work + heat lacks of the change of the rounded energies.
        nats_rounding: what protocol + shadow + bath lacks of the change of u.
    """

    work: Array
    heat: Array
    protocol: Array
    shadow: Array
    bath: Array
    energy_rounding: Array
    nats_rounding: Array


def zero_ledger(dtype: Any) -> Ledger:
    """Nothing exchanged."""
    zero = jnp.zeros((), dtype)
    return Ledger(*([zero] * 7))


def balance(after: Array, before: Array, *terms: Array) -> Array:
    """Rounding left over: (after - before) - sum(terms), to second order in an ulp."""
    hi, lo = two_diff(after, before)
    for term in terms:
        hi, error = two_sum(hi, -term)
        lo = lo + error
    return hi + lo


def add_ledgers(first: Ledger, second: Ledger) -> Ledger:
    """What two moves exchanged together; the roundings take up what addition loses."""
    pairs = [two_sum(a, b) for a, b in zip(first, second, strict=True)]
    total = Ledger(*(hi for hi, _ in pairs))
    lost = Ledger(*(lo for _, lo in pairs))
    return total._replace(
        energy_rounding=total.energy_rounding + (lost.work + lost.heat),
        nats_rounding=total.nats_rounding + (lost.protocol + lost.shadow + lost.bath),
    )


class LedgerSums(NamedTuple):
    """Compensated sums of the entries of a ledger; the roundings join heat and bath."""

    work: Compensated
    heat: Compensated
    protocol: Compensated
    shadow: Compensated
    bath: Compensated

    def total(self) -> Ledger:
        """The sums, each rounded once."""
        zero = jnp.zeros_like(self.work.hi)
        return Ledger(*(entry.value for entry in self), zero, zero)


def add_move(total: LedgerSums, move: Ledger) -> LedgerSums:
    """Add one move."""
    work = compensated_add(total.work, move.work)
    heat = compensated_add(compensated_add(total.heat, move.heat), move.energy_rounding)
    bath = compensated_add(compensated_add(total.bath, move.bath), move.nats_rounding)
    return LedgerSums(
        work=work,
        heat=heat,
        protocol=compensated_add(total.protocol, move.protocol),
        shadow=compensated_add(total.shadow, move.shadow),
        bath=bath,
    )


def no_moves(dtype: Any) -> LedgerSums:
    """Sums over nothing."""
    zero = jnp.zeros((), dtype)
    return LedgerSums(*(Compensated(zero, zero) for _ in range(5)))


class Info(NamedTuple):
    """What one step says about itself.

    Attributes:
        ledger: exchanges of this step.
        acceptance: min(1, exp(-shadow)), the Metropolis probability; an unadjusted kernel
            reports the probability with which its move would have been accepted, or nan where
            that would cost another pass over the data.
        accepted: bool; always True for unadjusted kernels.
        grad_norm2: |grad u|^2 at the new state, 0 where no gradient is cached.
        flags: uint32 bit set of `Flag`.
    """

    ledger: Ledger
    acceptance: Array
    accepted: Array
    grad_norm2: Array
    flags: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class KernelMeta:
    """Static facts about a kernel.

    Attributes:
        name: word or method.
        exact: the stationary law has no step-size bias.
        order: order in the step of the bias of averages (0 for exact kernels).
        reversible: a palindromic word: two-sided estimators and Metropolis tests apply.
        momentum: the state carries momenta.
        gradients_per_step: gradients of U per step.
        target_acceptance: what step-size adaptation aims at; nan where there is none.
        density: moves have a transition density, so the ledger holds nats, not nan.
        data_share: part of the examples that one gradient reads.
    """

    name: str
    exact: bool
    order: int
    reversible: bool
    momentum: bool
    gradients_per_step: int
    target_acceptance: float
    density: bool = True
    data_share: float = 1.0


class Kernel(NamedTuple):
    """A bath: three pure functions, their numbers and their facts; a pytree.

    Attributes:
        init: `(theta, point, key=None) -> state`.
        step: `(key, state, point, params) -> (state, info)`.
        drive: `(state, point) -> (state, ledger)`.
        params: arrays, traced: sweep, adapt or differentiate them.
        meta: `KernelMeta`.
        observe: `state -> state` whose position and energy are those to average over
            (they differ from the state only for Leimkuhler-Matthews).
        sample: `(key, point) -> theta`, exact draw from the base measure.
    """

    init: Callable
    step: Callable
    drive: Callable
    params: PyTree
    meta: KernelMeta
    observe: Callable
    sample: Callable


def plain_noise(kernel: Kernel) -> Kernel:
    """The same bath on the plain `jax.random.normal` stream.

    The default numbers are threefry's too, but turned into normals by a cheaper route
    (`thermojax.noise`): the law is the same and the numbers are not. Use this to compare
    with other code number by number, or to rule the generator out.

    Args:
        kernel: any bath; its parameters and facts are kept.

    Example:
        >>> from thermojax import gaussian_prior, langevin, system
        >>> sys = system(lambda x: x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> plain_noise(langevin(sys)).meta.name
        'BAOAB'
    """
    return kernel._replace(step=jax.tree_util.Partial(_plain_step, kernel.step))


def _plain_step(step, key, state, point, params):
    with plain_stream():
        return step(key, state, point, params)


def rounded(x: Array) -> Array:
    """The same number, rounded before anybody uses it.

    A compiler may contract a product into the sum that reads it (one rounding instead of
    two), differently in every kernel that repeats the product; sums of the ledger telescope
    only if all of them see the same bits. A selection cannot be contracted.
    """
    return jnp.where(x == x, x, jnp.nan)


class Evaluation(NamedTuple):
    """Energy and base measure at one theta, kept apart so that beta may move freely."""

    energy: Array
    log_base: Array
    energy_grad: PyTree
    log_base_grad: PyTree


def evaluate(sys: System, theta: PyTree, control: PyTree, *, grad: bool = True) -> Evaluation:
    """U, log m and, with `grad`, their gradients by one value_and_grad each."""
    if not grad:
        energy, log_base = sys.energy(theta, control), sys.log_base(theta, control)
        return Evaluation(rounded(energy), rounded(log_base), (), ())
    energy, energy_grad = jax.value_and_grad(sys.energy)(theta, control)
    if sys.prior is None:
        return Evaluation(rounded(energy), jnp.zeros_like(energy), energy_grad, ())
    log_base, log_base_grad = jax.value_and_grad(sys.log_base)(theta, control)
    return Evaluation(rounded(energy), rounded(log_base), energy_grad, log_base_grad)


def reduced_grad(at: Evaluation, beta: ArrayLike) -> PyTree:
    """grad u = beta grad U - grad log m."""
    if absent(at.log_base_grad):
        return jax.tree.map(lambda g: beta * g, at.energy_grad)
    return jax.tree.map(lambda g, m: beta * g - m, at.energy_grad, at.log_base_grad)


def absent(tree: PyTree) -> bool:
    """True for `()`, the pytree that stands for what a state does not carry."""
    return not jax.tree.leaves(tree)


def stream(key: Key, tag: Stream) -> Key:
    """The key of one random stream."""
    return jax.random.fold_in(key, jnp.uint32(tag))


def point_beta(point: Point, dtype: Any) -> Array:
    """beta as an array of the kernel's dtype."""
    return jnp.asarray(point.beta, dtype)


def choose(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """One of two pytrees, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def total_energies(state: Any) -> tuple[Array, Array]:
    """Total energy E = U + kinetic and reduced energy u + kinetic, each rounded once."""
    reduced = rounded(rounded(state.beta * state.energy) - state.log_base) + state.kinetic
    total = state.energy + rounded(in_energy_units(state.kinetic, state.beta))
    return rounded(total), rounded(reduced)


def in_energy_units(kinetic: Array, beta: Array) -> Array:
    """kin / beta; counted as 0 at beta = 0, where the bath is infinitely hot."""
    return jnp.where(beta > 0, kinetic / jnp.where(beta > 0, beta, 1.0), 0.0)


def totals_before(old: Any, beta: Array) -> tuple[Array, Array]:
    """The total energies a bath move starts from, also if beta moved without `drive`."""
    moved = total_energies(old._replace(beta=beta))
    return choose(old.beta == beta, old.totals, moved)


def control_move(old: Any, new: Any) -> tuple[Any, Ledger]:
    """Account for a new point at fixed theta; the states differ in energies and beta."""
    work = new.energy - old.energy
    rescaled = in_energy_units(old.kinetic, new.beta) - in_energy_units(old.kinetic, old.beta)
    protocol = (
        new.beta * (new.energy - old.energy)
        + (new.beta - old.beta) * old.energy
        - (new.log_base - old.log_base)
    )
    new = new._replace(totals=total_energies(new))
    (energy0, reduced0), (energy1, reduced1) = old.totals, new.totals
    ledger = zero_ledger(old.energy.dtype)._replace(
        work=work,
        heat=rescaled,
        protocol=protocol,
        energy_rounding=balance(energy1, energy0, work, rescaled),
        nats_rounding=balance(reduced1, reduced0, protocol),
    )
    return new, ledger
