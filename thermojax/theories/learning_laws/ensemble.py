"""The canonical ensemble of a network's states: one scalar, log Z(beta, q; data).

    p(x) = p(boundary) exp(-beta H(x; q)) / Z(beta, q; boundary)
    log Z = sum over examples of log ∫ d^n x_free exp(-beta H)        (quenched)
    F = -T log Z,  U = -d log Z/d beta,  S = beta U + log Z,  C_v = beta^2 Var H

Every route to log Z is differentiable in params, beta and data, and its derivatives are
the thermodynamic identities: exact routes by automatic differentiation of a closed form or
a quadrature, sampled ones by the surrogate of `importance`.

Source: Vanchurin 2021 for the ensemble and Z (equations of section 5); the quenched sum and
the reference of the complexity are our definitions, following the paper's programme.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from thermojax.estimators.estimate import union
from thermojax.theories.learning_laws.annealing import ais_state
from thermojax.theories.learning_laws.gaussian import (
    gaussian_state,
    is_reference,
    linearized_state,
    reference_state,
)
from thermojax.theories.learning_laws.importance import forward_state
from thermojax.theories.learning_laws.network import clamps
from thermojax.theories.learning_laws.quadrature import quadrature_state
from thermojax.theories.learning_laws.reference import Example
from thermojax.theories.learning_laws.saddle import laplace_state
from thermojax.theories.learning_laws.septuple import System, is_feedforward, is_linear
from thermojax.theories.learning_laws.states import State, check_beta
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["log_partition", "thermodynamic_state", "total_free_energy"]

_METHODS: dict[str, tuple[Callable[..., State], frozenset[str]]] = {
    "gaussian": (gaussian_state, frozenset()),
    "linearized": (linearized_state, frozenset()),
    "laplace": (laplace_state, frozenset({"newton_steps", "gauss_newton"})),
    "quadrature": (quadrature_state, frozenset({"panels", "nodes", "half_width"})),
    "forward": (forward_state, frozenset({"samples"})),
    "ais": (ais_state, frozenset({"chains", "levels", "step_size", "moves"})),
}
_SAMPLED = ("forward", "ais")
_SHORTCUT = ("auto", "forward", "ais", "linearized")
_REDUCTIONS = ("sum", "mean", "none")
_AT_ONCE = {"gaussian": 64, "linearized": 64, "laplace": 16}
"""Examples whose intermediates are held together; the other methods take one at a time."""


def _resolve(system: System, example: Example, method: str, key: Key | None) -> str:
    """The method that "auto" stands for."""
    if method in _SHORTCUT and is_reference(system, example):
        return "reference"
    if method != "auto":
        return method
    if is_linear(system):
        return "gaussian"
    n = system.free_dim(example)
    if n <= 2:
        return "quadrature"
    if is_feedforward(system) and all(clamps(system.network, example)):
        return "linearized"
    if key is not None:
        return "ais"
    raise ValueError(
        f"method='auto' finds no closed form for these {n} nonlinear neurons: give key= for "
        "annealed importance sampling, or name a method"
    )


def _check(method: str, reduction: str, key: Key | None, options: dict[str, Any]) -> None:
    if method not in _METHODS and method != "auto":
        raise ValueError(f"method={method!r} is unknown: use 'auto' or one of {list(_METHODS)}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction={reduction!r} is unknown: use one of {_REDUCTIONS}")
    if method in _SAMPLED and key is None:
        raise ValueError(f"method={method!r} samples: give key=jax.random.key(...)")
    known = set().union(*(names for _, names in _METHODS.values()))
    known = known if method == "auto" else _METHODS[method][1]
    for name in options:
        if name not in known:
            raise ValueError(
                f"option {name!r} is unknown to method={method!r}: it takes "
                f"{sorted(known) or 'none'}"
            )


def _first(data: PyTree) -> tuple[Example, int]:
    """The first example, for its shapes, and the number of examples."""
    if data is None:
        return None, 1
    sizes = {name: jnp.shape(value) for name, value in data.items() if value is not None}
    counts = {shape[0] if len(shape) == 2 else 0 for shape in sizes.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"data has shapes {sizes}: give x (B, n_in) and y (B, n_out) or None, B >= 1"
        )
    return jax.tree.map(lambda leaf: leaf[0], data), counts.pop()


def _reduce(states: State, reduction: str) -> State:
    if reduction == "none":
        return states
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), states)
    total = total._replace(stderr=jnp.sqrt(jnp.sum(states.stderr**2)))
    if reduction == "mean":
        total = jax.tree.map(lambda leaf: leaf / len(states.log_z), total)
    return total._replace(ess=jnp.min(states.ess), flags=union(states.flags))


def _compute(system, method, reduction, options, params, data, beta, key) -> State:
    exact = method == "reference"
    fn: Callable[..., State] = reference_state if exact else _METHODS[method][0]
    options = dict(options)
    count = _first(data)[1]

    def one(item):
        example, key = item
        given = (key,) if method in _SAMPLED else ()
        return fn(system, params, example, beta, *given, **options)

    keys = jax.random.split(key, count) if method in _SAMPLED else None
    if data is None:
        states = one((None, None if keys is None else keys[0]))
        return _reduce(jax.tree.map(lambda leaf: leaf[None], states), reduction)
    at_once = count if exact else _AT_ONCE.get(method, 1)
    if count <= at_once:
        states = jax.vmap(one)((data, keys))
    elif at_once == 1:
        states = jax.lax.map(one, (data, keys))
    else:
        states = jax.lax.map(one, (data, keys), batch_size=at_once)
    return _reduce(states, reduction)


_compiled = jax.jit(_compute, static_argnums=(0, 1, 2, 3))


def thermodynamic_state(
    system: System,
    params: PyTree,
    data: PyTree,
    beta: ArrayLike,
    *,
    method: str = "auto",
    key: Key | None = None,
    reduction: str = "sum",
    **options: Any,
) -> State:
    """log Z and its derivatives, for the states of a network under clamped data.

        log Z = sum_n log ∫ d^n x exp(-beta H(x, x_clamped_n; q)),   S = S_ref + C + E

    Works under jit, vmap (over params, beta) and grad (params, beta, data); memory does
    not grow with intermediates of more than a few examples.

    Args:
        system: from `layered_network` or `dense_network`.
        params: its trainables q.
        data: {"x": (B, n_in), "y": (B, n_out) or None}, or None where nothing is clamped
            (one example).
        beta: inverse temperature of the states, 1/unit of the loss.
        method: "gaussian" (linear activations, exact), "linearized", "laplace",
            "quadrature" (at most 3 free neurons, exact to ten digits), "forward"
            (feedforward, sampled), "ais" (sampled). "auto": gaussian if linear, quadrature
            up to 2 free neurons, linearized if feedforward and clamped, else ais. The free
            output of a feedforward net is answered exactly, without sampling.
        key: typed key of the sampled methods; examples get keys of their own.
        reduction: "sum" (extensive), "mean", or "none" for (B,) entries.
        **options: quadrature `panels=24, nodes=16, half_width=10.0`; forward
            `samples=1024`; ais `chains=256, levels=128, step_size=0.1, moves=1`; laplace
            `newton_steps, gauss_newton=False`. Static.

    Returns:
        `State` in nats and units of the loss. Sampled methods: stderr of log Z
        (independent examples), the least ess of all examples, the union of their flags.

    Raises:
        ValueError: beta <= 0, an unknown method, reduction or option, a missing key, data
            of the wrong shape, too many free neurons for quadrature.

    Source: Vanchurin 2021 for the ensemble; quenched sum our definition, following the
    paper's programme.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1, 1), "linear")
        >>> one = jnp.ones((1, 1))
        >>> params = [(0.8 * one, jnp.array([0.1])), (-0.6 * one, jnp.array([0.2]))]
        >>> data = {"x": jnp.array([[1.5]]), "y": jnp.array([[0.3]])}
        >>> state = thermodynamic_state(net, params, data, 4.0)
        >>> print(f"{state.log_z:.4f} {state.entropy:.4f} {state.complexity:.4f}")
        -1.0668 0.5720 -1.2926
    """
    check_beta(beta)
    _check(method, reduction, key, options)
    example, _ = _first(data)
    method = _resolve(system, example, method, key)
    beta = jnp.asarray(beta, jnp.result_type(*jax.tree.leaves(params)))
    known = frozenset() if method == "reference" else _METHODS[method][1]
    chosen = tuple(sorted((name, options[name]) for name in options if name in known))
    return _compiled(system, method, reduction, chosen, params, data, beta, key)


def log_partition(
    system: System,
    params: PyTree,
    data: PyTree,
    beta: ArrayLike,
    *,
    method: str = "auto",
    key: Key | None = None,
    reduction: str = "sum",
    **options: Any,
) -> Array:
    """log Z in nats; arguments as `thermodynamic_state`.

        d log Z/d q = -beta <dH/dq>,   d log Z/d beta = -U,   d^2 log Z/d beta^2 = Var H

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> net = dense_network(1, "tanh")
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
        >>> print(f"{log_partition(net, params, None, 4.0):.4f}")
        0.6986
    """
    return thermodynamic_state(
        system, params, data, beta, method=method, key=key, reduction=reduction, **options
    ).log_z


def total_free_energy(
    system: System,
    params: PyTree,
    data: PyTree,
    beta: ArrayLike,
    *,
    prior: Callable[[PyTree], Array] | None = None,
    method: str = "auto",
    key: Key | None = None,
    reduction: str = "sum",
    **options: Any,
) -> Array:
    """F = -T log Z, in units of the loss: the objective that learning descends.

        F(q) = -T sum_n log Z_n(beta, q) + prior(q),     dF/dq = <dH/dq>

    `lambda q: total_free_energy(system, q, data, beta)` is also a potential for the
    core's samplers of q.

    Args:
        system: see `thermodynamic_state`.
        params: see `thermodynamic_state`.
        data: see `thermodynamic_state`.
        beta: see `thermodynamic_state`.
        prior: energy of the trainables, added once, whatever the reduction.
        method: see `thermodynamic_state`.
        key: see `thermodynamic_state`.
        reduction: see `thermodynamic_state`; "none" takes no prior.
        **options: see `thermodynamic_state`.

    Raises:
        ValueError: a prior with reduction="none"; see `thermodynamic_state`.

    Source: Vanchurin 2021 for F; its sum over data plus a prior is our definition,
    following the paper's programme.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import dense_network
        >>> net = dense_network(1, "tanh")
        >>> params = {"w": jnp.array([[0.5]]), "b": jnp.array([0.3])}
        >>> slope = jax.grad(lambda q: total_free_energy(net, q, None, 4.0))(params)
        >>> print(f"{slope['b'][0]:.4f}")
        0.1419
    """
    if prior is not None and reduction == "none":
        raise ValueError(
            "reduction='none' gives F of every example, and the prior belongs to none: use "
            "'sum' or 'mean'"
        )
    value = thermodynamic_state(
        system, params, data, beta, method=method, key=key, reduction=reduction, **options
    ).free_energy
    return value if prior is None else value + prior(params)
