"""The static side of a network: which neurons there are, which are free, what predicts them.

    x = (free neurons, clamped inputs, clamped outputs)    in neuron order
    f(w x + b)                                             prediction of every neuron

Indices are tuples fixed at construction, so that a state is put together from slices and
no gather appears in a compiled program of a layered network.

Clamping and residual rows are our definitions, following the paper's programme
(Vanchurin 2021).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, PyTree, ShapeError

__all__ = [
    "Example",
    "Network",
    "check_params",
    "clamps",
    "depth",
    "free_neurons",
    "linear",
    "pick",
    "place",
    "predict",
]

Example = dict | None


class Network(NamedTuple):
    """The static description of a network; hashable.

    Attributes:
        kind: "dense" (params {"w": (N, N), "b": (N,)}) or "layered" (params
            [(W_l, b_l), ...], W_l of shape (n_l, n_{l-1})).
        sizes: sizes of the layers, (N,) for a dense network.
        activation: elementwise f of the neurons that are no outputs.
        output_activation: elementwise f of the outputs.
        inputs: neurons that a data example's x clamps.
        outputs: neurons that a data example's y clamps.
        residual_rows: neurons whose residual enters H while they are not clamped inputs;
            the others have no dynamics and hold their state.
        support: rows of booleans, the entries of w that exist; None for a layered network.
        mu: stiffness of the quadratic site potential.
        site_potential: v, elementwise, or None.
    """

    kind: str
    sizes: tuple[int, ...]
    activation: Callable
    output_activation: Callable
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    residual_rows: tuple[int, ...]
    support: tuple[tuple[bool, ...], ...] | None
    mu: float
    site_potential: Callable | None

    @property
    def n(self) -> int:
        """The number of neurons N."""
        return sum(self.sizes)

    @property
    def confined(self) -> bool:
        """True if a site potential acts on the free neurons."""
        return self.mu > 0 or self.site_potential is not None


def linear(y: Array) -> Array:
    """The identity, by whose name linear neurons are recognised."""
    return y


def _runs(labels: Sequence) -> list[tuple[Any, int, int]]:
    """Maximal runs of equal labels as (label, start, stop): slices, where gathers cost."""
    runs, start = [], 0
    for label, group in itertools.groupby(labels):
        stop = start + len(list(group))
        runs.append((label, start, stop))
        start = stop
    return runs


def pick(vector: Array, chosen: set[int]) -> Array:
    """The entries of `vector` whose index is in `chosen`, in order."""
    runs = _runs([i in chosen for i in range(vector.shape[-1])])
    return jnp.concatenate([vector[a:b] for keep, a, b in runs if keep] or [vector[:0]])


def clamps(network: Network, example: Example) -> tuple[bool, bool]:
    """Whether `example` clamps the inputs and the outputs.

    Raises:
        ValueError: a key is missing, or a value has the wrong length.
    """
    if example is None:
        return False, False
    shown = []
    for key, neurons in (("x", network.inputs), ("y", network.outputs)):
        if key not in example and neurons:
            raise ValueError(
                f"the example has no key {key!r} but {sorted(example)}; give "
                f"{{'x': inputs, 'y': outputs or None}}"
            )
        value = example.get(key)
        if value is not None and jnp.shape(value) != (len(neurons),):
            raise ValueError(
                f"example[{key!r}] has shape {jnp.shape(value)}; give ({len(neurons)},), and "
                "one example at a time (vmap over more)"
            )
        shown.append(value is not None and len(neurons) > 0)
    return shown[0], shown[1]


def free_neurons(network: Network, example: Example) -> tuple[int, ...]:
    """Indices of the neurons that fluctuate, in order.

    Raises:
        ValueError: a free neuron has neither a residual nor a site potential, so that Z
            diverges.
    """
    held_in, held_out = clamps(network, example)
    held = set(network.inputs if held_in else ()) | set(network.outputs if held_out else ())
    free = tuple(i for i in range(network.n) if i not in held)
    loose = sorted(set(free) - set(network.residual_rows))
    if loose and not network.confined:
        raise ValueError(
            f"neurons {loose[:8]} are free without residual or site potential, so that Z "
            "diverges; clamp them, add them to the residual rows, or give mu > 0"
        )
    return free


def place(network: Network, x_free: Array, example: Example) -> Array:
    """All states, (N,), from the free ones, (n,), and those that `example` clamps."""
    free = free_neurons(network, example)
    if jnp.shape(x_free) != (len(free),):
        raise ValueError(f"x_free has shape {jnp.shape(x_free)}; give ({len(free)},)")
    origin = {i: ("free", k) for k, i in enumerate(free)}
    source = {"free": jnp.asarray(x_free)}
    held = zip(
        ("x", "y"), (network.inputs, network.outputs), clamps(network, example), strict=True
    )
    for key, neurons, clamped in held:
        if clamped and example is not None:
            source[key] = jnp.asarray(example[key])
            origin |= {i: (key, k) for k, i in enumerate(neurons)}
    # entries with one source and one lag between index and place form one slice
    steps = [(origin[i][0], origin[i][1] - i) for i in range(network.n)]
    pieces = [source[key][a + lag : b + lag] for (key, lag), a, b in _runs(steps)]
    return jnp.concatenate(pieces)


def check_params(network: Network, params: PyTree) -> None:
    """Refuse params of another shape than the network's."""
    if network.kind == "dense":
        shapes = (jnp.shape(params["w"]), jnp.shape(params["b"]))
        wanted = ((network.n, network.n), (network.n,))
    else:
        shapes = tuple((jnp.shape(w), jnp.shape(b)) for w, b in params)
        pairs = itertools.pairwise(network.sizes)
        wanted = tuple(((m, n), (m,)) for n, m in pairs)
    if shapes != wanted:
        raise ShapeError(f"(w, b) have shapes {shapes}; this network takes {wanted}")


def _predict_dense(network: Network, params: PyTree, x: Array) -> Array:
    check_params(network, params)
    w = jnp.where(np.array(network.support), params["w"], 0)
    y = w @ x + params["b"]
    rows, outputs = set(network.residual_rows), set(network.outputs)
    kinds = [(i in rows, i in outputs) for i in range(network.n)]
    pieces = [
        x[a:b]
        if not moves
        else (network.output_activation if out else network.activation)(y[a:b])
        for (moves, out), a, b in _runs(kinds)
    ]
    return jnp.concatenate(pieces)


def _predict_layered(network: Network, params: PyTree, x: Array) -> Array:
    check_params(network, params)
    stops = np.cumsum(network.sizes)
    layers = jnp.split(x, stops[:-1])
    fs = [network.activation] * (len(params) - 1) + [network.output_activation]
    moved = [f(w @ layer + b) for f, (w, b), layer in zip(fs, params, layers[:-1], strict=True)]
    return jnp.concatenate([layers[0], *moved])


def predict(network: Network, params: PyTree, x: Array) -> Array:
    """f(w x + b) of every neuron, (N,); those without residual row hold their state."""
    rule = _predict_dense if network.kind == "dense" else _predict_layered
    return rule(network, params, x)


def depth(network: Network) -> int | None:
    """Activation steps to the forward pass with the inputs clamped; None if recurrent.

    Feedforward means that the support of w, without the rows of the inputs, is nilpotent.
    """
    if network.kind == "layered":
        return len(network.sizes) - 1
    sources, steps = np.array(network.support, bool), 0
    settled = np.isin(np.arange(network.n), network.inputs)
    settled |= ~np.isin(np.arange(network.n), network.residual_rows)
    while not settled.all():
        # a neuron settles one step after the last of its sources
        ready = settled | ~(sources & ~settled).any(axis=1)
        if (ready == settled).all():
            return None
        settled, steps = ready, steps + 1
    return steps
