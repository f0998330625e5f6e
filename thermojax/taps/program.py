"""A traced network as a flat list of steps, run with values added on the way.

Calls that hold a product of arrays (a jitted layer, a rematerialised block) are opened, so
that every link of the network is a step of its own; every other call stays one step. Run
outside `jit`, the steps are then the operations of the network itself, in its order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from thermojax.typing import Array, PyTree

__all__ = ["Program", "Step", "body", "every", "has_product", "opened", "run", "trace"]

PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
_OPENED = frozenset({"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"})


class Step(NamedTuple):
    """One equation: values are numbered, so that a call opened twice keeps them apart.

    Attributes:
        eqn: the equation.
        program: the equation alone, from its distinct variables to its results.
        ins: per operand, the number of its value or the literal itself.
        outs: numbers of the results.
    """

    eqn: core.JaxprEqn
    program: core.ClosedJaxpr
    ins: tuple[Any, ...]
    outs: tuple[int, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Operands that are values, each once, in the order of `program`'s inputs."""
        return tuple(dict.fromkeys(i for i in self.ins if isinstance(i, int)))


class Program(NamedTuple):
    """Steps from inputs to outputs.

    Attributes:
        steps: in order.
        inputs: numbers of the flattened arguments.
        outputs: numbers, or literals, of the flattened results.
        constants: {number: value} of what the network closes over.
        avals: shape and dtype by number.
        tree: structure of the results.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Any, ...]
    constants: dict[int, Any]
    avals: list[Any]
    tree: Any


def trace(fn: Any, *args: PyTree) -> Program:
    """The program of `fn` on arguments of these shapes."""
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    flat = _Flat()
    known = flat.bind(closed)
    inputs = tuple(flat.number(v) for v in closed.jaxpr.invars)
    known.update(zip(closed.jaxpr.invars, inputs, strict=True))
    outputs = flat.open(closed.jaxpr, known)
    tree = jax.tree.structure(shapes)
    return Program(tuple(flat.steps), inputs, outputs, flat.constants, flat.avals, tree)


class _Flat:
    """The steps of a program while its calls are being opened."""

    def __init__(self):
        self.steps: list[Step] = []
        self.constants: dict[int, Any] = {}
        self.avals: list[Any] = []

    def number(self, var: core.Var) -> int:
        self.avals.append(var.aval)
        return len(self.avals) - 1

    def bind(self, closed: Any) -> dict[Any, Any]:
        """Constants of a closed program, numbered."""
        known = {}
        consts = getattr(closed, "consts", ())
        for var, value in zip(opened(closed).constvars, consts, strict=True):
            known[var] = self.number(var)
            self.constants[known[var]] = value
        return known

    def open(self, jaxpr: core.Jaxpr, known: dict[Any, Any]) -> tuple[Any, ...]:
        """Appends the steps of `jaxpr`; numbers or literals of its results."""
        read = lambda atom: atom if isinstance(atom, core.Literal) else known[atom]
        for eqn in jaxpr.eqns:
            ins = tuple(read(atom) for atom in eqn.invars)
            inner = body(eqn)
            if inner is not None and eqn.primitive.name in _OPENED and has_product(eqn):
                inside = self.bind(inner)
                inside.update(zip(opened(inner).invars, ins, strict=True))
                outs = self.open(opened(inner), inside)
            else:
                outs = tuple(self.number(var) for var in eqn.outvars)
                self.steps.append(Step(eqn, _alone(jaxpr, eqn), ins, outs))
            known.update(zip(eqn.outvars, outs, strict=True))
        return tuple(read(atom) for atom in jaxpr.outvars)


def opened(program: Any) -> Any:
    """The program without its constants."""
    return getattr(program, "jaxpr", program)  # jitted bodies are closed, others open


def _alone(jaxpr: core.Jaxpr, eqn: core.JaxprEqn) -> core.ClosedJaxpr:
    """One equation as a program, so that jax itself evaluates it in its own context."""
    used = dict.fromkeys(atom for atom in eqn.invars if not isinstance(atom, core.Literal))
    alone = jaxpr.replace(
        constvars=[],
        invars=list(used),
        outvars=list(eqn.outvars),
        eqns=[eqn],
        effects=eqn.effects,
    )
    return core.ClosedJaxpr(alone, ())


def body(eqn: core.JaxprEqn) -> Any:
    """The program that a call runs, or None if the equation is no plain call."""
    if eqn.primitive.name in _OPENED | {"custom_jvp_call", "custom_vjp_call"}:
        return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return None


def has_product(eqn: core.JaxprEqn) -> bool:
    """True if the equation multiplies matrices or convolves, at any depth."""
    return any(e.primitive.name in PRODUCTS for e in every(eqn))


def every(eqn: core.JaxprEqn) -> Iterator[core.JaxprEqn]:
    """The equation and all those inside it, at any depth."""
    yield eqn
    for jaxpr in core.jaxprs_in_params(eqn.params):
        for inner in jaxpr.eqns:
            yield from every(inner)


def run(
    program: Program, args: Sequence[Array], added: Mapping[int, Array], read: Collection[int]
) -> tuple[PyTree, dict[int, Array]]:
    """Results of the program, with `added[number]` added to the values of these numbers.

    Args:
        program: of `trace`.
        args: its flattened arguments.
        added: {number: array}.
        read: numbers of the values to hand back, after what was added to them.

    Returns:
        The results, and {number: value}.
    """
    values = dict(program.constants)
    values.update(zip(program.inputs, args, strict=True))
    for step in program.steps:
        results = core.jaxpr_as_fun(step.program)(*(values[i] for i in step.numbers))
        for number, value in zip(step.outs, results, strict=True):
            values[number] = value + added[number] if number in added else value
    flat = [values[o] if isinstance(o, int) else o.val for o in program.outputs]
    return jax.tree.unflatten(program.tree, flat), {number: values[number] for number in read}
