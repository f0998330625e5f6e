"""The chain of a network: its links, and the activations between them.

All data pass through the *cuts* of a program, values that every path from the inputs to the
outputs crosses; the *regions* between neighbouring cuts follow one another like beads. A
region is a link, a nonlinear elementwise map, a gear (linear maps, reshaping, pooling), or a
mixture of units (a norm, a softmax). Branches that hold a link end inside one region, which
is why residual sums and gates are seen, and refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from thermojax.taps.program import PRODUCTS, Program, Step, body, every, has_product, opened

__all__ = ["Activation", "activations"]

_BY_HAND = "write its taps by hand"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ADDING = _words(
    "add sub add_any neg copy copy_p convert_element_type reduce_precision name "
    "sharding_constraint device_put optimization_barrier"
)
_CURVED = _words(
    "abs sign floor ceil round exp exp2 expm1 log log1p logistic tanh sin cos tan asin acos "
    "atan atan2 sinh cosh asinh acosh atanh sqrt rsqrt cbrt square integer_pow pow erf erfc "
    "erf_inv lgamma digamma max min mul div rem select_n clamp eq ne lt le gt ge and or not "
    "xor is_finite nextafter stop_gradient"
)
_GEARS = _words(
    "reshape broadcast_in_dim transpose squeeze slice dynamic_slice rev pad concatenate split "
    "reduce_sum reduce_window_sum"
)
_POOLS = frozenset({"reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"})
_DRAWS = _words("random_bits threefry2x32 rng_bit_generator rng_uniform random_gamma")


class Activation(NamedTuple):
    """Where the taps of one activation go.

    Attributes:
        leaf: index of the parameter leaf that its link multiplies by.
        before: number of z.
        after: number of a.
    """

    leaf: int
    before: int
    after: int


class _Origins(NamedTuple):
    """What the values of a program depend on, by number."""

    data: set[int]
    leaves: dict[int, frozenset[int]]
    uniform: set[int]


class _Region(NamedTuple):
    """Steps between two cuts; start is -1 before the first cut of several inputs."""

    start: int
    end: int
    steps: list[Step]


class _Bead(NamedTuple):
    """A region and its kind.

    Attributes:
        kind: "curved" (nonlinear, elementwise), "numbers" (affine, elementwise, with plain
            numbers), "gear" (linear otherwise, or pooling), "rows", or "mixture".
        region: the steps.
        ops: their primitives.
    """

    kind: str
    region: _Region
    ops: list[_Op]


class _Layer(NamedTuple):
    leaf: int
    beads: list[_Bead]


class _Op(NamedTuple):
    """One primitive inside a region, and which of its operands depend on data."""

    eqn: core.JaxprEqn
    data: tuple[bool, ...]

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        pairs = zip(self.eqn.invars, self.data, strict=True)
        avals: list[Any] = [atom.aval for atom, dependent in pairs if dependent]
        avals += [var.aval for var in self.eqn.outvars]
        return {tuple(aval.shape) for aval in avals}

    @property
    def linear(self) -> bool:
        """Affine in the data, given everything else."""
        if self.name == "convert_element_type":
            return jnp.issubdtype(self.eqn.params["new_dtype"], jnp.floating)
        if self.name == "div":
            return not self.data[1]
        if self.name == "select_n":
            return not self.data[0]
        single = self.name == "mul" or self.name in PRODUCTS
        return self.name in _ADDING | _GEARS or (single and sum(self.data) == 1)

    @property
    def pools(self) -> bool:
        """A maximum over places, not over units."""
        return self.name in _POOLS and self._rank - 1 not in self.eqn.params.get("axes", ())

    @property
    def mixes_rows(self) -> bool:
        return 0 in self.eqn.params.get("axes", ()) and self._rank > 1

    @property
    def _rank(self) -> int:
        aval: Any = self.eqn.invars[0].aval
        return len(aval.shape)


def activations(program: Program, leaves: int, names: Sequence[str]) -> list[Activation]:
    """The hidden activations of a network, in order.

    Args:
        program: of the network; its first `leaves` inputs are parameters, the rest data.
        leaves: number of parameter leaves.
        names: of the layers that the leaves belong to, for the messages.

    Raises:
        ValueError: the network is no chain of links and elementwise activations, draws
            random numbers, or has no hidden activation.
    """
    steps = _live(program)
    if any(e.primitive.name in _DRAWS for step in steps for e in every(step.eqn)):
        raise ValueError(
            "apply draws random numbers: efficiencies belong to the deterministic network, "
            "so switch dropout off (deterministic=True)"
        )
    layers = _layers(program, steps, _origins(program, leaves), names)
    if not layers:
        raise ValueError(
            "apply multiplies its inputs by no parameter (dot_general, "
            "conv_general_dilated): there is no layer to tap"
        )
    found = [a for layer in layers[:-1] for a in _of_layer(layer, names[layer.leaf])]
    if not found:
        raise ValueError(
            "the network has no hidden activation: without one it is lossless, eta = 1"
        )
    return found


def _layers(
    program: Program, steps: list[Step], origins: _Origins, names: Sequence[str]
) -> list[_Layer]:
    """Links with what follows each; what comes before the first link is left out."""
    layers: list[_Layer] = []
    for region in _regions(program, steps, origins):
        ops = [op for step in region.steps for op in _ops(step.eqn, _flags(step, origins))]
        weights = _links(region, ops, origins, names)
        if weights:
            layers.append(_Layer(min(weights), []))
        elif layers:
            bead = _Bead(_kind(region, ops, program, origins), region, ops)
            layers[-1].beads.append(bead)
    return layers


def _of_layer(layer: _Layer, name: str) -> list[Activation]:
    """Activations of a layer that another one follows."""
    found: list[Activation] = []
    running, last = False, ""
    for kind, region, ops in layer.beads:
        if kind == "curved" and not running:
            found.append(Activation(layer.leaf, region.start, region.end))
        elif running and kind in ("curved", "numbers"):
            found[-1] = found[-1]._replace(after=region.end)
        running = kind == "curved" or (running and kind == "numbers")
        if kind == "rows":
            raise ValueError(
                f"{name!r} is followed by a statistic over rows (batch norm in training "
                "mode), so forces of different rows mix: use running averages"
            )
        if kind == "mixture" and "exp" in (last, *(op.name for op in ops)):
            raise ValueError(
                f"{name!r} is followed by a hidden softmax, which is no elementwise "
                f"activation: {_BY_HAND}"
            )
        last = ops[-1].name
    if not found and any(kind == "mixture" for kind, *_ in layer.beads):
        raise ValueError(
            f"{name!r} is followed by a map that mixes units ({layer.beads[-1].ops[-1].name}) "
            f"and by no elementwise activation: {_BY_HAND}"
        )
    return found


def _live(program: Program) -> list[Step]:
    """Steps that the outputs need."""
    needed = {o for o in program.outputs if isinstance(o, int)}
    steps = []
    for step in reversed(program.steps):
        if needed & set(step.outs):
            needed |= set(step.numbers)
            steps.append(step)
    return steps[::-1]


def _origins(program: Program, leaves: int) -> _Origins:
    """Data, parameters, or one number for every entry: what each value is made of."""
    data = set(program.inputs[leaves:])
    above = {number: frozenset({i}) for i, number in enumerate(program.inputs[:leaves])}
    uniform = {n for n in program.constants if program.avals[n].size == 1}
    for step in program.steps:
        if data & set(step.numbers):
            data |= set(step.outs)
        parts = [above.get(i, frozenset()) for i in step.numbers]
        joined = frozenset().union(*parts)
        above.update(dict.fromkeys(step.outs, joined))
        if not joined and step.ins and uniform.issuperset(step.numbers):
            uniform |= set(step.outs)
    return _Origins(data, above, uniform)


def _flags(step: Step, origins: _Origins) -> tuple[bool, ...]:
    return tuple(isinstance(i, int) and i in origins.data for i in step.ins)


def _regions(program: Program, steps: list[Step], origins: _Origins) -> Iterator[_Region]:
    """Beads between the values that all data pass through."""
    results = {o for o in program.outputs if isinstance(o, int) and o in origins.data}
    if len(results) != 1:
        raise ValueError(
            f"apply returns {len(results)} arrays that depend on its inputs: it must "
            "return one, the outputs of its last layer"
        )
    moving = [s for s in steps if origins.data & set(s.numbers)]
    last = {number: i for i, step in enumerate(moving) for number in step.numbers}
    last.update(dict.fromkeys(results, len(moving)))
    alive = {number for number in program.inputs if number in origins.data & set(last)}
    start = next(iter(alive)) if len(alive) == 1 else -1
    pending: list[Step] = []
    for i, step in enumerate(moving):
        pending.append(step)
        alive |= {number for number in step.outs if number in last}
        alive = {number for number in alive if last[number] > i}
        if len(alive) == 1:
            end = next(iter(alive))
            yield _Region(start, end, pending)
            start, pending = end, []


def _ops(eqn: core.JaxprEqn, data: Sequence[bool]) -> Iterator[_Op]:
    """Primitives of an equation that depend on data, with calls opened."""
    inner = body(eqn)
    if inner is None:
        if any(data):
            yield _Op(eqn, tuple(data))
        return
    jaxpr = opened(inner)
    known = dict(zip(jaxpr.invars, data, strict=True))
    for part in jaxpr.eqns:
        read = [not isinstance(a, core.Literal) and known.get(a, False) for a in part.invars]
        yield from _ops(part, read)
        known.update(dict.fromkeys(part.outvars, any(read)))


def _links(
    region: _Region, ops: list[_Op], origins: _Origins, names: Sequence[str]
) -> frozenset[int]:
    """Leaves that a link multiplies by; none if the region is no link."""
    for step in region.steps:
        primitive = step.eqn.primitive.name
        if primitive not in PRODUCTS and has_product(step.eqn):
            raise ValueError(
                f"a layer inside {primitive} cannot be tapped: unroll it into plain calls, "
                f"or {_BY_HAND}"
            )
    products = [s for s in region.steps if s.eqn.primitive.name in PRODUCTS]
    weights = [_weight(step, origins) for step in products]
    if any(sum(_flags(step, origins)) > 1 for step in products):
        raise ValueError(
            "a gate or attention multiplies two arrays that both depend on the inputs: "
            f"neither is a pre-activation of its own, so {_BY_HAND}"
        )
    if not any(weights):
        return frozenset()
    if len(region.steps) == 1:
        return weights[0]
    inside = ", ".join(dict.fromkeys(repr(names[min(w)]) for w in weights if w))
    joined = {"add": "a residual sum adds", "add_any": "a residual sum adds"}
    joined |= {"sub": "a residual sum adds", "mul": "a gate multiplies"}
    how = joined.get(ops[-1].name, f"{ops[-1].name} joins")
    raise ValueError(
        f"{how} two branches that both depend on the inputs, with {inside} in them: the "
        f"layers form no chain, so {_BY_HAND}"
    )


def _weight(step: Step, origins: _Origins) -> frozenset[int]:
    fixed = [i for i in step.numbers if i not in origins.data]
    return frozenset().union(*(origins.leaves.get(i, frozenset()) for i in fixed))


def _kind(region: _Region, ops: list[_Op], program: Program, origins: _Origins) -> str:
    if any(op.mixes_rows for op in ops):
        return "rows"
    shape = tuple(program.avals[region.start].shape)
    elementwise = all(op.name in _ADDING | _CURVED and op.shapes == {shape} for op in ops)
    if all(op.linear for op in ops):
        fixed = {i for step in region.steps for i in step.numbers} - origins.data
        # numbers close an activation, as in selu; learned scales belong to the next layer
        return "numbers" if elementwise and fixed <= origins.uniform else "gear"
    if len(ops) == 1 and ops[0].pools:
        return "gear"
    return "curved" if elementwise else "mixture"
