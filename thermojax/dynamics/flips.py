"""The mechanism of flips over binary states: rules, one step, its ledger.

A step visits every site once. Site by site, each visit costs one energy, which then is the
energy of the state if the flip is taken; block by block, one gradient per block tells all
its changes, and the energy is evaluated afresh at the end: nothing is summed up that could
drift. `discrete` makes kernels of it.

Source: specification of the core, 2.11 (derived here).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.accumulators import two_diff
from thermojax.binary import check_states
from thermojax.dynamics.kernel import (
    Evaluation,
    Info,
    Ledger,
    Stream,
    balance,
    choose,
    control_move,
    evaluate,
    point_beta,
    reduced_grad,
    stream,
    total_energies,
    totals_before,
    zero_ledger,
)
from thermojax.dynamics.leaves import as_inexact, dtype_of, split
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.priors import Template
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["FlipParams", "FlipState", "Rule", "draw", "drive", "observe", "start", "step"]


class FlipState(NamedTuple):
    """One walker over binary states.

    Attributes:
        position: theta, every entry one of two values.
        energy: U(theta), extensive; nan if an entry has another value.
        log_base: log m(theta).
        beta: inverse temperature of the last point.
        kinetic: 0, for the ledger.
        totals: U and u, as the ledger counts them.
    """

    position: PyTree
    energy: Array
    log_base: Array
    beta: Array
    kinetic: Array
    totals: tuple[Array, Array]


class FlipParams(NamedTuple):
    """Numbers of `metropolis_flip`, traced.

    Attributes:
        rate: probability with which a site proposes to flip.
    """

    rate: ArrayLike


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rule:
    """Static description of one kernel."""

    metropolis: bool
    shuffled: bool
    values: tuple[float, float]

    def chance(self, change: Array, params: PyTree) -> tuple[Array, Array]:
        """Probabilities of flipping, and of accepting a proposed flip."""
        if not self.metropolis:
            return jax.nn.sigmoid(-change), jnp.ones_like(change)
        accept = jnp.exp(jnp.minimum(-change, 0.0))
        return jnp.asarray(params.rate, change.dtype) * accept, accept

    def flipped(self, site: Array) -> Array:
        """The other value."""
        return (self.values[0] + self.values[1]) - site


def _weigh(rule: Rule, sys: System, theta: PyTree, control: PyTree) -> Evaluation:
    """U and log m; U is nan where an entry of theta has neither of the two values."""
    at = evaluate(sys, theta, control, grad=False)
    low, high = rule.values
    fits = [jnp.all((x == low) | (x == high)) for x in jax.tree.leaves(theta)]
    return at._replace(energy=jnp.where(jnp.all(jnp.stack(fits)), at.energy, jnp.nan))


def _state(theta: PyTree, at: Evaluation, beta: Array) -> FlipState:
    zero = jnp.zeros_like(at.energy)
    state = FlipState(theta, at.energy, at.log_base, beta, zero, (zero, zero))
    return state._replace(totals=total_energies(state))


def start(
    rule: Rule, sys: System, theta: PyTree, point: Point, key: Key | None = None
) -> FlipState:
    """State at theta."""
    theta = as_inexact(theta)
    if sys.template is not None:
        sys.template.check(theta)
    check_states(theta, rule.values)
    at = _weigh(rule, sys, theta, point.control)
    return _state(theta, at, point_beta(point, at.energy.dtype))


def drive(rule: Rule, sys: System, state: FlipState, point: Point) -> tuple[FlipState, Ledger]:
    """Move the control at fixed theta: work; a change of beta alone costs nothing."""
    new = state._replace(beta=point_beta(point, state.energy.dtype))
    if jax.tree.leaves(point.control):
        at = _weigh(rule, sys, state.position, point.control)
        new = new._replace(energy=at.energy, log_base=at.log_base)
    return control_move(state, new)


def observe(state: FlipState) -> FlipState:
    """Averages belong to the state itself."""
    return state


def draw(sys: System, key: Key, point: Point) -> PyTree:
    """One exact draw from the base measure."""
    return sys.sample_base(key, point.control)


class _Sweep(NamedTuple):
    """What one visit of all sites leaves behind.

    Attributes:
        theta: new states.
        at: U and log m there.
        acceptance: sum over sites of the probability to accept.
        moved: whether any site flipped.
        consistent: whether u changed as foretold.
    """

    theta: PyTree
    at: Evaluation
    acceptance: Array
    moved: Array
    consistent: Any


def step(
    rule: Rule,
    sys: System,
    masks: PyTree,
    key: Key,
    state: FlipState,
    point: Point,
    params: PyTree,
) -> tuple[FlipState, Info]:
    """One visit of every site, and its bookkeeping."""
    sweep, count = _sweep(rule, sys, masks, key, state, point, params)
    old = Evaluation(state.energy, state.log_base, (), ())
    at = choose(sweep.moved, sweep.at, old)
    new = _state(sweep.theta, at, point_beta(point, state.energy.dtype))
    flags = raise_flags(
        (Flag.NONFINITE, ~jnp.isfinite(new.energy + new.log_base)),
        (Flag.WRONG_BLOCKS, ~jnp.asarray(sweep.consistent)),
    )
    accepted = sweep.moved if rule.metropolis else jnp.ones((), bool)
    acceptance = (sweep.acceptance / count).astype(new.energy.dtype)
    info = Info(_ledger(state, new), acceptance, accepted, jnp.zeros_like(new.energy), flags)
    return new, info


def _sweep(rule, sys, masks, key, state, point, params) -> tuple[_Sweep, int]:
    """Visit every site once; also returns their number."""
    template = Template.of(state.position)
    dtype, count = dtype_of(state.position), template.size
    # mid-points: a uniform of exactly 0 would now and then accept the impossible
    coins = jax.random.uniform(stream(key, Stream.ACCEPT), (count,), dtype)
    coins = coins + 0.5 * jnp.finfo(dtype).eps
    leaves = jax.tree.leaves(masks)
    groups = leaves[0].shape[0] if leaves else count
    order = jnp.arange(groups)
    if rule.shuffled:
        order = jax.random.permutation(stream(key, Stream.JITTER), groups)
    if leaves:
        return _by_blocks(rule, sys, masks, order, coins, state, point, params), count
    return _by_sites(rule, sys, template, order, coins, state, point, params), count


def _ledger(old: FlipState, new: FlipState) -> Ledger:
    (energy0, reduced0), (energy1, reduced1) = totals_before(old, new.beta), new.totals
    heat = two_diff(energy1, energy0)[0]
    bath = new.beta * (new.energy - old.energy) - (new.log_base - old.log_base)
    return zero_ledger(heat.dtype)._replace(
        heat=heat,
        bath=bath,
        energy_rounding=balance(energy1, energy0, heat),
        nats_rounding=balance(reduced1, reduced0, bath),
    )


def _nats(beta: Array, energy: Array, log_base: Array) -> Array:
    """beta dU - d log m; a wall (infinite dU) is none at beta = 0."""
    return jnp.where(beta == 0, 0.0, beta * energy) - log_base


def _by_sites(rule, sys, template, order, coins, state, point, params) -> _Sweep:
    """Site after site, one energy each."""
    beta = point_beta(point, state.energy.dtype)
    flat = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(state.position)])
    place = jnp.arange(template.size)

    def visit(now, site):
        flat, at, acceptance, moved = now
        there = jnp.where(place == site, rule.flipped(flat), flat)
        new = evaluate(sys, template.unflatten(there), point.control, grad=False)
        change = _nats(beta, new.energy - at.energy, new.log_base - at.log_base)
        chance, accept = rule.chance(change, params)
        flip = coins[site] < chance
        flat, at = choose(flip, (there, new), (flat, at))
        return (flat, at, acceptance + jnp.nan_to_num(accept), moved | flip), None

    at = Evaluation(state.energy, state.log_base, (), ())
    start = (flat, at, jnp.zeros_like(state.energy), jnp.zeros((), bool))
    (flat, at, acceptance, moved), _ = jax.lax.scan(visit, start, order)
    return _Sweep(template.unflatten(flat), at, acceptance, moved, True)


def _flip_block(rule, sys, masks, coins, point, params, theta, k) -> tuple[PyTree, Any]:
    """Flip the sites of block k by one gradient; the sums of what that did."""
    mask = jax.tree.map(lambda m: m[k], masks)
    at = evaluate(sys, theta, point.control)
    slope = reduced_grad(at, point_beta(point, at.energy.dtype))
    other = jax.tree.map(rule.flipped, theta)
    change = jax.tree.map(lambda a, b, g: (a - b) * g, other, theta, slope)
    chances = jax.tree.map(lambda c: rule.chance(c, params), change)
    pair = jax.tree.structure((0, 0))
    chance, accept = jax.tree.transpose(jax.tree.structure(theta), pair, chances)
    flip = jax.tree.map(lambda m, c, p: m & (c < p), mask, coins, chance)

    def total(here, what):
        parts = jax.tree.map(lambda h, x: jnp.sum(jnp.where(h, x, 0)), here, what)
        return sum(x.astype(at.energy.dtype) for x in jax.tree.leaves(parts))

    sums = (
        total(flip, change),
        total(flip, jax.tree.map(jnp.abs, change)),
        total(mask, jax.tree.map(jnp.nan_to_num, accept)),
        jnp.any(jnp.stack([jnp.any(f) for f in jax.tree.leaves(flip)])),
    )
    return jax.tree.map(jnp.where, flip, other, theta), sums


def _by_blocks(rule, sys, masks, order, coins, state, point, params) -> _Sweep:
    """Block after block, one gradient each; then the energy, afresh."""
    coins = split(coins, state.position)
    visit = lambda theta, k: _flip_block(rule, sys, masks, coins, point, params, theta, k)
    theta, sums = jax.lax.scan(visit, state.position, order)
    foretold, size, acceptance = (jnp.sum(x) for x in sums[:3])
    at = _weigh(rule, sys, theta, point.control)
    beta = point_beta(point, at.energy.dtype)
    change = _nats(beta, at.energy - state.energy, at.log_base - state.log_base)
    scale = jnp.abs(beta) * (jnp.abs(at.energy) + jnp.abs(state.energy))
    scale = scale + jnp.abs(at.log_base) + jnp.abs(state.log_base)
    # wide of rounding, narrow of a forgotten bond; an overflow is no verdict
    slack = 0.01 * size + 1e3 * jnp.finfo(scale.dtype).eps * scale
    missed = jnp.abs(change - foretold) > slack
    return _Sweep(theta, at, acceptance, jnp.any(sums[3]), ~missed)
