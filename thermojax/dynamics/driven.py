"""Any optax transform as a driven bath.

    g      = estimate of grad U, over N for scale="per_example"
    theta' = theta + tx.update(g) + sqrt(2 h inject_T) xi

No temperature is set: the noise of the minibatches and the optimiser make one, which
`tj.thermometers` measures. The transition has no density, so the ledger holds energies
(work of the switched batch, heat at fixed batch) and its nats are nan.

Source: specification of the core, 2.8 (derived here).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.dynamics.gradients import Gradient, examples
from thermojax.dynamics.kernel import Kernel
from thermojax.dynamics.sgmcmc import default_gradient, draw_like, facts, unknown
from thermojax.dynamics.stochastic import Moved, make_kernel
from thermojax.system import System
from thermojax.typing import ArrayLike, PyTree

__all__ = ["DrivenBath", "DrivenParams", "driven"]


class DrivenParams(NamedTuple):
    """Numbers of a driven bath, traced.

    Attributes:
        inject_T: temperature of added noise, energy units; 0 for none.
        learning_rate: of the optimiser, per `scale`; only the injected noise reads it.
    """

    inject_T: ArrayLike
    learning_rate: ArrayLike


class DrivenBath(NamedTuple):
    """State of the optimiser and the last displacement theta' - theta."""

    opt_state: Any
    displacement: PyTree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Driven:
    tx: Any
    count: float
    inject: bool
    momentum = False

    def start(self, at, params):
        still = jax.tree.map(jnp.zeros_like, at.position)
        return DrivenBath(self.tx.init(at.position), still)

    def open(self, key, state, slope, curvature, params):
        theta = state.position
        mean_grad = jax.tree.map(lambda g: g / self.count, state.energy_grad)
        updates, opt_state = self.tx.update(mean_grad, state.bath.opt_state, theta)
        if self.inject:
            h = jnp.asarray(params.learning_rate, state.energy.dtype) / self.count
            spread = jnp.sqrt(2 * h * jnp.asarray(params.inject_T, state.energy.dtype))
            kick = lambda u, xi: u + spread.astype(u.dtype) * xi
            updates = jax.tree.map(kick, updates, draw_like(key, theta))
        moved = jax.tree.map(lambda x, u: x + u.astype(x.dtype), theta, updates)
        shift = jax.tree.map(lambda a, b: a - b, moved, theta)
        return Moved(moved, (), DrivenBath(opt_state, shift), (), jnp.uint32(0))

    def close(self, moved, slope, params):
        return moved

    def nats(self, record, slope, held, params, dtype):
        return unknown(dtype)


def driven(
    tx: Any,
    sys: System,
    gradient: Gradient | None = None,
    *,
    inject_T: ArrayLike | None = None,
    learning_rate: ArrayLike | None = None,
    scale: str = "per_example",
    bookkeeping: str = "control",
) -> Kernel:
    """A bath driven by an optimiser: SGD, momentum, Adam, schedules, chains of them.

    The optimiser sees grad U only: a prior of the system is not part of what it descends,
    and `beta` of the point only sets the units of the ledger's nats. Put weight decay into
    the transform or into the energy.

    Args:
        tx: an optax gradient transformation.
        sys: the system.
        gradient: estimator of grad U; by default 64 examples without replacement.
        inject_T: temperature of Gaussian noise added to every update (Langevin noise with
            h = learning_rate / N): with SGD and a full gradient the bath is then at that
            temperature. None for no noise.
        learning_rate: the transform's; needed with `inject_T`.
        scale: "per_example" (gradient of U / N, the convention of optimisers) or "total".
        bookkeeping: see `sgld`.

    Returns:
        A `Kernel`; `state.bath` holds the optimiser's state and the last displacement.

    Raises:
        ValueError: unknown scale or bookkeeping, noise without a learning rate, a minibatch
            of an energy that is no sum.

    Example:
        >>> import optax
        >>> from thermojax import Point, finite_sum
        >>> sys = finite_sum(lambda x, c, y: (x - y) ** 2 / 2, jnp.arange(8.0), like=0.0)
        >>> kernel = driven(optax.sgd(0.1), sys)
        >>> state = kernel.init(3.5, Point(1.0))
        >>> new, info = kernel.step(jax.random.key(0), state, Point(1.0), kernel.params)
        >>> float(new.position), float(info.ledger.heat)
        (3.5, 0.0)
    """
    if scale not in ("per_example", "total"):
        raise ValueError(f"scale={scale!r} is unknown: use 'per_example' or 'total'")
    if inject_T is not None and learning_rate is None:
        raise ValueError(
            f"inject_T={inject_T} needs the learning rate of the transform: "
            "give learning_rate= as well"
        )
    count = float(examples(sys)) if scale == "per_example" else 1.0
    rule = _Driven(tx, count, inject_T is not None)
    params = DrivenParams(*(0.0 if x is None else x for x in (inject_T, learning_rate)))
    return make_kernel(
        rule,
        sys,
        default_gradient(gradient, sys),
        params,
        bookkeeping,
        facts("driven", momentum=False, order=0),
    )
