"""Neural networks as septuples (x, P_in, P_out, w, b, f, H), and their bulk loss.

    r(x; q) = x - f(w x + b)                      residuals, rows R
    H(x; q) = 1/2 sum_{i in R} r_i^2 + V(x)       bulk loss
    V(x)    = sum_{i free} (mu x_i^2 / 2 + v(x_i))

x holds the states of all N neurons, w[i, j] acts from j to i, q = (w, b) trains. Boundary
neurons are the inputs and outputs; a data example clamps them, and the other neurons are
free. A clamped input has no residual; a clamped output has one, of the prediction
f(w x + b) that the clamp overwrites. Everything static (indices, activations) lives in the
`Network`; `System` holds pure functions of it, equal for equal descriptions.

The septuple, the projections and the role of the bulk loss are the paper's (Vanchurin
2021); the quadratic form, the clamping and the rows R are our definitions, following the
paper's programme.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.learning_laws.network import (
    Example,
    Network,
    check_params,
    clamps,
    depth,
    free_neurons,
    linear,
    pick,
    place,
    predict,
)
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = [
    "Network",
    "System",
    "assemble",
    "clamps",
    "dense_network",
    "depth",
    "free_neurons",
    "is_feedforward",
    "is_linear",
    "layered_network",
    "linear",
    "select_free",
    "trainable_mask",
]

_ACTIVATIONS: dict[str, Callable] = {
    "linear": linear,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class _Of:
    """A rule applied to one network: compares by value, unlike a closure."""

    rule: Callable
    network: Network

    def __call__(self, *args):
        return self.rule(self.network, *args)


class System(NamedTuple):
    """A septuple as pure functions over params; hashable, to be closed over by jit.

    An example is {"x": (n_in,), "y": (n_out,) or None}, or None where nothing is clamped.

    Attributes:
        energy: (params, x_free (n,), example) -> H, scalar, a sum over neurons.
        free_dim: (example) -> n, the number of free neurons.
        forward: (params, x_in) -> tuple of layer states (layered), or the settled state
            (N,) with inputs clamped and outputs free (dense); NaN where it does not settle.
        sample_reference: (key, params, example, beta) -> x_free, an exact draw: of the
            ensemble without the residuals of clamped outputs (feedforward), of neurons
            without weights, f(b) + N(0, T) (recurrent). Site potentials do not enter.
        predict: (params, x (N,)) -> f(w x + b), (N,); neurons outside `residual_rows`
            hold their state.
        residual: (params, x_free, example) -> r, one entry for each residual row.
        network: the static description.
    """

    energy: Callable[[PyTree, Array, Example], Array]
    free_dim: Callable[[Example], int]
    forward: Callable[[PyTree, Array | None], Any]
    sample_reference: Callable[[Key, PyTree, Example, ArrayLike], Array]
    predict: Callable[[PyTree, Array], Array]
    residual: Callable[[PyTree, Array, Example], Array]
    network: Network


def assemble(system: System, x_free: Array, example: Example) -> Array:
    """The state of all neurons from the free ones and the clamped ones.

    Args:
        system: of which network.
        x_free: (n,), in neuron order.
        example: what is clamped.

    Returns:
        x, (N,), in neuron order.

    Example:
        >>> net = layered_network((1, 2, 1), "tanh")
        >>> example = {"x": jnp.array([5.0]), "y": jnp.array([7.0])}
        >>> assemble(net, jnp.array([1.0, 2.0]), example).tolist()
        [5.0, 1.0, 2.0, 7.0]
    """
    return place(system.network, x_free, example)


def select_free(system: System, x: Array, example: Example) -> Array:
    """The states of the free neurons, (n,), out of all, (N,)."""
    return pick(jnp.asarray(x), set(free_neurons(system.network, example)))


def _system(network: Network) -> System:
    rules = (_energy, _free_dim, _forward, _sample_reference, predict, _residual)
    return System(*(_Of(rule, network) for rule in rules), network)


def _residual(network: Network, params: PyTree, x_free: Array, example: Example) -> Array:
    x = place(network, x_free, example)
    held_in, _ = clamps(network, example)
    rows = set(network.residual_rows) - set(network.inputs if held_in else ())
    return pick(x - predict(network, params, x), rows)


def _energy(network: Network, params: PyTree, x_free: Array, example: Example) -> Array:
    value = 0.5 * jnp.sum(_residual(network, params, x_free, example) ** 2)
    if network.mu:
        value = value + 0.5 * network.mu * jnp.sum(x_free**2)
    if network.site_potential is not None:
        value = value + jnp.sum(network.site_potential(x_free))
    return value


def _free_dim(network: Network, example: Example) -> int:
    return len(free_neurons(network, example))


def _relax(network, params, x, example, noise, steps):
    """`steps` activation steps from x with one fixed noise; clamped entries stay."""
    free = np.isin(np.arange(network.n), free_neurons(network, example))
    step = lambda x, _: (jnp.where(free, predict(network, params, x) + noise, x), None)
    return jax.lax.scan(step, x, None, length=steps)[0]


def _layer_states(network, params, x_in, noises):
    """Layer after layer, each with its noise added: the (noisy) forward pass."""
    check_params(network, params)
    states = [jnp.asarray(x_in)]
    fs = [network.activation] * (len(params) - 1) + [network.output_activation]
    for f, (w, b), noise in zip(fs, params, noises[1:], strict=True):
        states.append(f(w @ states[-1] + b) + noise)
    return tuple(states)


_SETTLING_STEPS = 512


def _forward(network: Network, params: PyTree, x_in: Array | None) -> Any:
    if network.kind == "layered":
        return _layer_states(network, params, x_in, [0.0] * len(network.sizes))
    example = {"x": x_in, "y": None} if network.inputs else None
    n, dtype = len(free_neurons(network, example)), jnp.result_type(params["w"])
    start = place(network, jnp.zeros(n, dtype), example)
    steps = depth(network)
    if steps is not None:
        return _relax(network, params, start, example, 0.0, max(steps, 1))
    x = _relax(network, params, start, example, 0.0, _SETTLING_STEPS)
    # a limit cycle or an escape is no settled state, and must not look like one
    moved = jnp.max(jnp.abs(_relax(network, params, x, example, 0.0, 1) - x))
    close = moved <= jnp.sqrt(jnp.finfo(x.dtype).eps) * (1 + jnp.max(jnp.abs(x)))
    return jnp.where(close, x, jnp.nan)


def _sample_reference(network, key, params, example, beta):
    free = free_neurons(network, example)
    loose = sorted(set(free) - set(network.residual_rows))
    if loose:
        raise ValueError(
            f"neurons {loose[:8]} are free without residual: no reference has a density for "
            "them; clamp them or add them to the residual rows"
        )
    dtype = jnp.result_type(*jax.tree.leaves(params))
    noise = jax.random.normal(key, (len(free),), dtype) / jnp.sqrt(jnp.asarray(beta, dtype))
    start = place(network, jnp.zeros_like(noise), example)
    noises = place(network, noise, jax.tree.map(jnp.zeros_like, example))
    if network.kind == "layered":
        steps = jnp.split(noises, np.cumsum(network.sizes)[:-1])
        x = jnp.concatenate(_layer_states(network, params, example["x"], steps))
    elif (steps := depth(network)) is not None:
        x = _relax(network, params, start, example, noises, max(steps, 1))
    else:
        decoupled = {"w": jnp.zeros_like(params["w"]), "b": params["b"]}
        x = predict(network, decoupled, start) + noises
    return pick(x, set(free))


def is_feedforward(system: System) -> bool:
    """True if with its inputs clamped the network has no loop: w is nilpotent.

    Example:
        >>> is_feedforward(layered_network((2, 3, 1), "tanh"))
        True
        >>> is_feedforward(dense_network(2, "tanh"))
        False
    """
    return depth(system.network) is not None


def is_linear(system: System) -> bool:
    """True if every residual is linear in x and V quadratic: the states are Gaussian.

    Linear activations are those given by name, or as `linear`.

    Example:
        >>> is_linear(dense_network(2, "linear", mu=0.1))
        True
        >>> is_linear(layered_network((2, 3, 1), "tanh"))
        False
    """
    network = system.network
    rows = set(network.residual_rows)
    used = {network.output_activation} if rows & set(network.outputs) else set()
    used |= {network.activation} if rows - set(network.outputs) else set()
    return used <= {linear} and network.site_potential is None


def trainable_mask(system: System, params: PyTree) -> PyTree:
    """Boolean arrays like `params`: the entries that enter H.

    Example:
        >>> net = dense_network(2, "tanh", inputs=(0,))
        >>> zeros = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
        >>> trainable_mask(net, zeros)["b"].tolist()
        [False, True]
    """
    network = system.network
    if network.kind == "layered":
        return jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), params)
    rows = np.isin(np.arange(network.n), network.residual_rows)
    return {"w": jnp.array(network.support), "b": jnp.array(rows)}


def _activation(given: str | Callable) -> Callable:
    if callable(given):
        return given
    if given not in _ACTIVATIONS:
        raise ValueError(
            f"activation {given!r} is unknown; give a callable or one of {sorted(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[given]


def _check_mu(mu: float) -> float:
    if not 0 <= mu < float("inf"):
        raise ValueError(f"mu = {mu} does not confine; give mu >= 0, finite")
    return float(mu)


def _indices(name: str, given: Sequence[int], n: int) -> tuple[int, ...]:
    found = tuple(int(i) for i in given)
    if len(set(found)) < len(found) or any(not 0 <= i < n for i in found):
        raise ValueError(f"{name} = {found} are not distinct neurons in 0..{n - 1}")
    return found


def dense_network(
    n: int,
    activation: str | Callable,
    *,
    output_activation: str | Callable | None = None,
    inputs: Sequence[int] = (),
    outputs: Sequence[int] = (),
    support: ArrayLike | None = None,
    residual_rows: Sequence[int] | None = None,
    mu: float = 0.0,
    site_potential: Callable | None = None,
) -> System:
    """The septuple of a network with any weight matrix; params {"w": (n, n), "b": (n,)}.

        H(x; q) = 1/2 sum_{i in R} (x_i - f(w x + b)_i)^2 + V(x)

    Our definition, following the paper's programme (Vanchurin 2021).

    Args:
        n: neurons N.
        activation: "linear", "relu", "sigmoid", "softplus", "tanh", or elementwise callable.
        output_activation: of the output neurons; None for the same.
        inputs: neurons that data["x"] clamps.
        outputs: neurons that data["y"] clamps.
        support: (n, n) booleans, the entries of w that exist; None for all entries of the
            residual rows, diagonal included. Other entries of w are never read.
        residual_rows: neurons whose residual enters H; None for all but the inputs. The
            row of an input counts while that input is free.
        mu: stiffness of the site potential mu x^2 / 2 on free neurons.
        site_potential: v, elementwise callable summed over the free neurons.

    Returns:
        The system.

    Raises:
        ValueError: indices out of range or both input and output, a support of the wrong
            shape, an unknown activation, mu < 0, or a neuron that is neither boundary nor
            residual row while no site potential confines it (Z diverges).

    Example:
        >>> net = dense_network(2, "linear")
        >>> params = {"w": jnp.array([[0.0, 0.5], [0.0, 0.0]]), "b": jnp.zeros(2)}
        >>> float(net.energy(params, jnp.array([1.0, 2.0]), None))
        2.0
    """
    inputs, outputs = _indices("inputs", inputs, n), _indices("outputs", outputs, n)
    if set(inputs) & set(outputs):
        both = sorted(set(inputs) & set(outputs))
        raise ValueError(f"neurons {both} are input and output; give disjoint sets")
    if residual_rows is None:
        rows = tuple(i for i in range(n) if i not in set(inputs))
    else:
        rows = tuple(sorted(_indices("residual_rows", residual_rows, n)))
    loose = sorted(set(range(n)) - set(rows) - set(inputs) - set(outputs))
    if loose and not _check_mu(mu) and site_potential is None:
        raise ValueError(
            f"neurons {loose[:8]} are free without residual or site potential, so that Z "
            "diverges; add them to residual_rows or give mu > 0"
        )
    mask = np.ones((n, n), bool) if support is None else np.array(support, bool)
    if mask.shape != (n, n):
        raise ValueError(f"support has shape {mask.shape}; give ({n}, {n})")
    mask = mask & np.isin(np.arange(n), rows)[:, None]
    f = _activation(activation)
    network = Network(
        kind="dense",
        sizes=(n,),
        activation=f,
        output_activation=f if output_activation is None else _activation(output_activation),
        inputs=inputs,
        outputs=outputs,
        residual_rows=rows,
        support=tuple(tuple(row) for row in mask.tolist()),
        mu=_check_mu(mu),
        site_potential=site_potential,
    )
    return _system(network)


def layered_network(
    sizes: Sequence[int],
    activation: str | Callable,
    *,
    output_activation: str | Callable = "linear",
    mu: float = 0.0,
    site_potential: Callable | None = None,
) -> System:
    """The septuple of a feedforward network; params [(W_l, b_l), ...].

        H = 1/2 sum_l |x_l - f(W_l x_{l-1} + b_l)|^2 + V,    l = 1..L

    With y clamped this is the energy of a predictive-coding network (textbook).

    Args:
        sizes: n_0 (inputs), ..., n_L (outputs).
        activation: of the hidden layers, a name or an elementwise callable.
        output_activation: of the last layer.
        mu: stiffness of the site potential mu x^2 / 2 on free neurons.
        site_potential: v, elementwise callable summed over the free neurons.

    Returns:
        The system; neurons are numbered layer after layer, inputs first.

    Raises:
        ValueError: fewer than two layers, an empty layer, unknown activation, mu < 0.

    Example:
        >>> net = layered_network((1, 1, 1), "tanh")
        >>> net.free_dim({"x": jnp.ones(1), "y": jnp.ones(1)})
        1
    """
    sizes = tuple(int(size) for size in sizes)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes = {sizes} are no layers; give (n_0, ..., n_L), each >= 1")
    n = sum(sizes)
    network = Network(
        kind="layered",
        sizes=sizes,
        activation=_activation(activation),
        output_activation=_activation(output_activation),
        inputs=tuple(range(sizes[0])),
        outputs=tuple(range(n - sizes[-1], n)),
        residual_rows=tuple(range(sizes[0], n)),
        support=None,
        mu=_check_mu(mu),
        site_potential=site_potential,
    )
    return _system(network)
