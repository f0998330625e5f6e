"""Flax modules, linen and nnx, as systems.

    U(theta; control) = sum_i loss(module(theta, x_i), y_i)      nats

The parameters of the module are theta; data are a leaf. Flax is imported only when it is
used.

Source: specification of the core, section 1.1 (derived here).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from thermojax.priors import Prior, Template
from thermojax.system import System, check_finite, positional
from thermojax.typing import Array, PyTree

__all__ = [
    "from_flax",
    "gauss_newton_product",
    "gaussian_loss",
    "layers",
    "mlp",
    "softmax_loss",
]


def softmax_loss(logits: Array, label: Array) -> Array:
    """Cross entropy of one example in nats: -log softmax(logits)[label].

    Args:
        logits: [classes].
        label: integer class.
    """
    return -jax.nn.log_softmax(logits)[label]


@dataclasses.dataclass(frozen=True)
class _GaussianLoss:
    noise: float
    normalized: bool

    def __call__(self, output, target, control=()):
        noise = jnp.asarray(control if jax.tree.leaves(control) else self.noise)
        residual = (target - jnp.reshape(output, jnp.shape(target))) / noise
        value = 0.5 * jnp.sum(residual**2)
        if self.normalized:
            value = value + jnp.size(target) * (jnp.log(noise) + 0.9189385332046727)
        return value


def gaussian_loss(noise: float = 1.0, *, normalized: bool = False) -> Callable:
    """Squared error of one example in nats: |target - output|^2 / (2 noise^2).

    Args:
        noise: standard deviation of the targets; a control, where one is given, replaces
            it, so that log Z can be differentiated by the noise.
        normalized: add log(noise) + log(2 pi)/2 per number, so that exp(-loss) is a
            density and log Z(1) the log evidence.
    """
    return _GaussianLoss(float(noise), normalized)


@dataclasses.dataclass(frozen=True)
class _LinenApply:
    module: Any

    def __call__(self, theta, inputs):
        return self.module.apply({"params": theta}, inputs)


@dataclasses.dataclass(frozen=True)
class _NnxApply:
    graphdef: Any
    treedef: Any

    def __call__(self, theta, inputs):
        from flax import nnx

        state = jax.tree.unflatten(self.treedef, jax.tree.leaves(theta))
        return nnx.merge(self.graphdef, state)(inputs)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """[N] losses of the whole batch in one pass through the network."""

    apply: Callable
    loss: Callable

    def __call__(self, theta, control, data):
        inputs, targets = data
        outputs = self.apply(theta, inputs)
        return jax.vmap(lambda o, t: self.loss(o, t, control))(outputs, targets)


def _linen(module: Any, example: Array) -> tuple[Callable, PyTree]:
    shapes = jax.eval_shape(module.init, jax.random.key(0), example)
    others = sorted(set(shapes) - {"params"})
    if others:
        raise ValueError(
            f"{type(module).__name__} keeps state in {others}: an energy must be a function "
            "of its parameters alone; replace batch statistics by layer or group norm"
        )
    if "params" not in shapes:
        raise ValueError(f"{type(module).__name__} has no parameters")
    return _LinenApply(module), shapes["params"]


def _nnx(module: Any) -> tuple[Callable, PyTree]:
    from flax import nnx

    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    if jax.tree.leaves(rest):
        raise ValueError(
            f"{type(module).__name__} keeps state other than parameters "
            f"({jax.tree.structure(rest)}): an energy must be a function of its parameters "
            "alone; remove dropout streams and batch statistics"
        )
    theta = nnx.to_pure_dict(params)
    return _NnxApply(graphdef, jax.tree.structure(params)), theta


def from_flax(
    module: Any,
    loss: Callable,
    data: tuple[PyTree, PyTree],
    *,
    prior: Prior | None = None,
    remainder: Callable | None = None,
    reference: Prior | None = None,
    example_input: PyTree = None,
) -> System:
    """A flax module, a loss and data as a system over the module's parameters.

    Args:
        module: a flax linen module, or an nnx module (whose current values are ignored,
            except as a template).
        loss: `loss(output, target)` or `loss(output, target, control) -> scalar` nats of
            one example; any optax loss on one example will do.
        data: `(inputs, targets)` with a common leading axis N.
        prior: base measure over the parameters, bound to their shapes here.
        remainder: `(theta, control) -> scalar` tempered part without data.
        reference: see `tj.system`.
        example_input: a batch from which linen infers shapes; the first input by default.

    Returns:
        A `System`; theta is the `params` collection (linen) or a pure dict of the
        `nnx.Param` values (nnx).

    Raises:
        TypeError: neither kind of flax module.
        ValueError: a module with state besides parameters, non-finite data, or inputs
            and targets of different length.
    """
    from flax import linen, nnx

    inputs, targets = data
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1:
        raise ValueError(f"inputs and targets need one common leading axis, got {lengths}")
    check_finite(data)
    if example_input is None:
        example_input = jax.tree.map(lambda x: x[:1], inputs)
    if isinstance(module, linen.Module):
        apply, like = _linen(module, example_input)
    elif isinstance(module, nnx.Module):
        apply, like = _nnx(module)
    else:
        raise TypeError(
            f"from_flax takes a flax linen or nnx module, got {type(module).__name__}: "
            "for plain functions use tj.system or tj.finite_sum"
        )
    bound = [m if m is None or m.template else m.bind(like) for m in (prior, reference)]
    return System(
        energy_fn=None,
        batch_fn=_Batch(apply, positional(loss, 3)),
        remainder_fn=None if remainder is None else positional(remainder, 2),
        prior=bound[0],
        reference=bound[1],
        data=(inputs, targets),
        shape=Template.of(like),
    )


def outputs(sys: System, theta: PyTree, inputs: PyTree) -> Array:
    """Network outputs [N, ...] of a system made by `from_flax`.

    Raises:
        ValueError: the system has no network.
    """
    if not isinstance(sys.batch_fn, _Batch):
        raise ValueError("this system was not made by tj.from_flax, so it has no outputs")
    return sys.batch_fn.apply(theta, inputs)


def gauss_newton_product(sys: System, theta: PyTree, control: PyTree = ()) -> Callable:
    """z -> J^T H J z of the data energy: H of the losses, J of the network's outputs.

    Raises:
        ValueError: the system has no network.
    """
    batch = sys.batch_fn
    if not isinstance(batch, _Batch):
        raise ValueError(
            "Gauss-Newton curvature needs a system made by tj.from_flax: "
            "use laplacian='hutchinson' or 'score'"
        )
    inputs, targets = sys.data
    out, push = jax.linearize(lambda t: batch.apply(t, inputs), theta)
    pull = jax.linear_transpose(push, theta)
    total = lambda o: jnp.sum(jax.vmap(lambda a, t: batch.loss(a, t, control))(o, targets))
    _, curve = jax.linearize(jax.grad(total), out)
    return lambda z: pull(curve(push(z)))[0]


def layers(like: PyTree) -> dict[str, tuple[int, ...]]:
    """Layer name -> indices of its leaves, grouped by the path above the last key."""
    named = jax.tree_util.tree_leaves_with_path(like)
    groups: dict[str, list[int]] = {}
    for i, (path, _) in enumerate(named):
        above = path[:-1] if len(path) > 1 else path
        name = jax.tree_util.keystr(above, simple=True, separator="/") or "theta"
        groups.setdefault(name, []).append(i)
    return {name: tuple(members) for name, members in groups.items()}


def template_of(sys: System) -> Template:
    """Shapes of theta of a system that knows them."""
    template = sys.template
    if template is None:
        raise ValueError("the shape of theta is unknown: give the system a prior")
    return template


@functools.lru_cache(maxsize=64)
def mlp(
    hidden: tuple[int, ...], n_out: int, *, activation: Callable = jnp.tanh, bias: bool = True
) -> Any:
    """A flax linen multilayer perceptron; `hidden=()` is a linear map.

    Args:
        hidden: widths of the hidden layers.
        n_out: number of outputs.
        activation: applied after every hidden layer.
        bias: whether layers have biases.
    """
    from flax import linen

    class MLP(linen.Module):
        widths: tuple[int, ...]

        @linen.compact
        def __call__(self, x):
            for width in self.widths[:-1]:
                x = activation(linen.Dense(width, use_bias=bias)(x))
            return linen.Dense(self.widths[-1], use_bias=bias)(x)

    return MLP((*hidden, n_out))
