"""Flax modules and plain functions, tapped at their activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from thermojax.taps.chain import Activation, activations
from thermojax.taps.program import run, trace
from thermojax.typing import Array, PyTree, ShapeError

__all__ = ["tap_network"]

_FLAX_ERRORS = {
    "InvalidRngError": (
        "the module asks for random numbers: efficiencies belong to the deterministic "
        "network, so switch dropout off (deterministic=True)"
    ),
    "ModifyScopeVariableError": (
        "the module changes its state when applied: put batch norm on running averages "
        "(use_running_average=True)"
    ),
    "ScopeCollectionNotFound": (
        "the module reads state besides its parameters: pass all variables as params, "
        "{'params': ..., 'batch_stats': ...}"
    ),
}


def tap_network(
    network: Any, loss: Callable, params: PyTree, inputs: PyTree
) -> tuple[Callable, dict[str, tuple[Array, Array]]]:
    """A network as `layer_efficiency` takes it, without rewriting the network.

        z -> z + tap_z,  a = g(z) + tap_a,   e = dU/d tap_a,  f = dU/d tap_z = g'(z) e

    The network is traced. Its links are the products (dot_general, conv_general_dilated) of
    something that depends on the inputs with something that depends on parameters. z is what
    the first nonlinear elementwise map behind a link is applied to, so biases, scales,
    norms and pooling before it belong to z; a is the last value of that elementwise
    segment, which plain numbers may scale and shift but learned ones may not. What comes
    before the first link, or behind the last one, is no hidden activation.

    Outside `jit`, and where the network is not jitted itself, values with zero taps are
    bitwise those of the network.

    Args:
        network: a linen module, an nnx module (a template: its values are ignored), or a
            function (params, inputs) -> outputs, one array.
        loss: (outputs, targets) -> scalar, or one number per row, which are summed; a loss
            of one example goes through `jax.vmap`.
        params: of the network; for linen its `params` or all its variables, for nnx the
            `nnx.Param` state or its pure dict.
        inputs: a batch with a leading axis of rows; the taps belong to its shape.

    Returns:
        (apply_with_taps, taps): (params, (inputs, targets), taps) -> (U, {layer: (z, a)}),
        and {layer: (zeros like z, zeros like a)}, layers named by the paths of their
        weights, in order; a second activation with the same weight gets "_2". Given fewer
        taps, apply_with_taps answers for those layers alone. It works under jit, grad, and
        vmap over params.

    Raises:
        ValueError: a network that is no chain of links and elementwise activations
            (residual sums, gates, hidden softmax, batch norm over the batch, layers inside
            scan), that draws random numbers, or has no hidden activation; later, a tap
            without its layer.
        ShapeError: nnx params that do not fit the module; later, other shapes than those
            traced, or a loss that is neither a scalar nor one number per row.

    Our definition of the forces, following the programme of Zhang (2024).

    Example:
        >>> network = lambda w, x: jnp.tanh(x @ w["hidden"]) @ w["out"]
        >>> w, x = {"hidden": jnp.ones((3, 2)), "out": jnp.ones((2, 1))}, jnp.ones((5, 3))
        >>> loss = lambda out, y: jnp.sum((out[:, 0] - y) ** 2)
        >>> apply_with_taps, taps = tap_network(network, loss, w, x)
        >>> {name: z.shape for name, (z, a) in taps.items()}
        {'hidden': (5, 2)}
    """
    apply, names = _functional(network, params)
    try:
        program = trace(apply, params, inputs)
    except Exception as error:
        if type(error).__name__ not in _FLAX_ERRORS:
            raise
        raise ValueError(_FLAX_ERRORS[type(error).__name__]) from error
    found = activations(program, len(names), names)
    where = _named(found, names)
    spec = _spec((params, inputs))
    rows = jnp.shape(jax.tree.leaves(inputs)[0])[:1]

    def apply_with_taps(params, batch, taps):
        inputs, targets = batch
        _same(_spec((params, inputs)), spec)
        unknown = sorted(set(taps) - set(where))
        if unknown:
            raise ValueError(f"taps {unknown} have no layer: the layers are {list(where)}")
        places = {name: where[name] for name in taps}
        added = {}
        for name, (before, after) in places.items():
            added[before], added[after] = taps[name]
        outputs, values = run(program, jax.tree.leaves((params, inputs)), added, added)
        signals = {name: (values[z], values[a]) for name, (z, a) in places.items()}
        return _total(loss(outputs, targets), rows), signals

    zeros = lambda n: jnp.zeros(program.avals[n].shape, program.avals[n].dtype)
    return apply_with_taps, {n: (zeros(z), zeros(a)) for n, (z, a) in where.items()}


def _functional(network: Any, params: PyTree) -> tuple[Callable, list[str]]:
    """(params, inputs) -> outputs, and the layer of every leaf of params."""
    homes = [f"{base.__module__}." for base in type(network).__mro__]
    if any(home.startswith("flax.linen.") for home in homes):
        return _linen(network, params)
    if any(home.startswith("flax.nnx.") for home in homes):
        return _nnx(network, params)
    if not callable(network):
        raise TypeError(
            f"tap_network takes a flax module or a function (params, inputs) -> outputs, "
            f"got {type(network).__name__}"
        )
    return network, _layers(params)


def _linen(module: Any, params: PyTree) -> tuple[Callable, list[str]]:
    if isinstance(params, Mapping) and "params" in params:
        names = [name.partition("/")[2] or name for name in _layers(params)]
        return module.apply, names
    return lambda theta, x: module.apply({"params": theta}, x), _layers(params)


def _nnx(module: Any, params: PyTree) -> tuple[Callable, list[str]]:
    from flax import nnx

    graphdef, state, rest = nnx.split(module, nnx.Param, ...)
    tree = jax.tree.structure(state)
    shapes = [[jnp.shape(x) for x in jax.tree.leaves(t)] for t in (params, state)]
    if shapes[0] != shapes[1]:
        raise ShapeError(
            f"params have leaves {shapes[0]}, {type(module).__name__} has {shapes[1]}: "
            "pass nnx.state(module, nnx.Param) or its pure dict"
        )

    def apply(theta, x):
        values = jax.tree.unflatten(tree, jax.tree.leaves(theta))
        return nnx.merge(graphdef, values, rest, copy=True)(x)

    return apply, _layers(nnx.to_pure_dict(state))


def _layers(params: PyTree) -> list[str]:
    """The path above the last key of every leaf, or the key itself."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    above = [path[:-1] if len(path) > 1 else path for path in paths]
    named = [jax.tree_util.keystr(p, simple=True, separator="/") for p in above]
    return [name or "params" for name in named]


def _named(found: list[Activation], names: list[str]) -> dict[str, tuple[int, int]]:
    """{layer: (number of z, number of a)}; a layer used again is counted."""
    where: dict[str, tuple[int, int]] = {}
    for activation in found:
        name, count = names[activation.leaf], 1
        while (label := name if count == 1 else f"{name}_{count}") in where:
            count += 1
        where[label] = activation.before, activation.after
    return where


def _spec(tree: PyTree) -> tuple[Any, list[tuple]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), jnp.result_type(x)) for x in leaves]


def _same(given: tuple[Any, list[tuple]], traced: tuple[Any, list[tuple]]) -> None:
    if given == traced:
        return
    differing = [pair for pair in zip(given[1], traced[1], strict=False) if pair[0] != pair[1]]
    what = f"{differing[0][0]} for {differing[0][1]}" if differing else "another structure"
    raise ShapeError(
        f"params and inputs have {what} of those traced: call tap_network again with these"
    )


def _total(losses: Array, rows: tuple[int, ...]) -> Array:
    shape = jnp.shape(losses)
    if shape not in ((), rows):
        raise ShapeError(
            f"loss has shape {shape}: it takes the whole batch and returns a scalar or one "
            f"number per row, {rows}; pass jax.vmap(loss) if it takes one example"
        )
    return jnp.sum(losses)
