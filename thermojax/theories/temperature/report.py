"""Every temperature that the inputs allow, side by side.

Source: our definitions, following the programme of Zhang (2024). The canonical-equivalent
temperature, T* with <U>_{T*} = E, needs energies of a Gibbs ensemble, which no input of
this report has: read it off `tj.curve(tj.log_partition(...), betas).internal_energy`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from thermojax.blocks import Blocks, block_sizes
from thermojax.temperatures import (
    Temperatures,
    flow_temperature,
    kinetic_temperature,
    members,
    virial_temperature,
)
from thermojax.theories.temperature.noise import kick_temperature, sgd_noise_temperature
from thermojax.theories.temperature.states import Transition
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["temperature_report"]


def temperature_report(
    potential: Callable[[PyTree], Array],
    ensemble: PyTree,
    *,
    center: PyTree = 0.0,
    momenta: PyTree = None,
    bath_temperature: ArrayLike | None = None,
    per_example_grads: PyTree = None,
    minibatch_grads: PyTree = None,
    step_size: ArrayLike | None = None,
    batch_size: int | None = None,
    transition: tuple[dict[str, Transition], Transition] | None = None,
    blocks: Blocks | None = None,
    key: Key | None = None,
    curvature: str | None = None,
    score: Callable[[PyTree], PyTree] | None = None,
    momentum: ArrayLike = 0.0,
    replacement: bool = True,
    reduction: str = "mean",
    probes: int = 1,
    read_size: int | None = None,
) -> dict[str, Temperatures]:
    """The temperatures of one ensemble by every definition that the inputs allow.

    | row | needs |
    |---|---|
    | "flow", "virial" | the ensemble |
    | "kinetic" | momenta |
    | "bath" | bath_temperature |
    | "sgd_noise" | per_example_grads, step_size, batch_size |
    | "fluctuation_dissipation" | minibatch_grads, step_size |
    | "transition" | the result of `path_transition` without its ensemble |

    For a canonical ensemble at the bath's temperature all rows agree but the noise
    prediction; how far they are apart says how far the ensemble is from canonical.

    Args:
        potential: params -> U.
        ensemble: params with a leading axis of M members.
        center: of the virial.
        momenta: leaves [M, ...].
        bath_temperature: T of the Langevin bath.
        per_example_grads: leaves [n, ...] at one theta.
        minibatch_grads: leaves [M, ...]; momentum traces if `momentum` is not 0.
        step_size: learning rate of SGD.
        batch_size: of SGD.
        transition: ({block: Transition}, whole).
        blocks: params -> {name: subtree}; top-level keys by default.
        key: typed key of the probes of the flow.
        curvature: of the flow; "exact" with a key, else "dense".
        score: for curvature "score".
        momentum: of SGD.
        replacement: of SGD's batches.
        reduction: of U, for the noise prediction: gradients are those of single examples.
        probes: of the flow.
        read_size: members evaluated at once.

    Returns:
        {row: `Temperatures`}.

    Raises:
        ValueError: gradients without the step size (or batch size) they need.
    """
    members(ensemble)
    curvature = curvature or ("dense" if key is None else "exact")
    rows = {
        "flow": flow_temperature(
            potential,
            ensemble,
            curvature=curvature,
            score=score,
            key=key,
            probes=probes,
            blocks=blocks,
            batch_size=read_size,
        ),
        "virial": virial_temperature(
            potential, ensemble, center=center, blocks=blocks, batch_size=read_size
        ),
    }
    if momenta is not None:
        rows["kinetic"] = kinetic_temperature(momenta, blocks=blocks)
    if bath_temperature is not None:
        rows["bath"] = _bath(ensemble, bath_temperature, blocks)
    if per_example_grads is not None:
        if step_size is None or batch_size is None:
            raise ValueError("per_example_grads need step_size= and batch_size= of SGD")
        rows["sgd_noise"] = sgd_noise_temperature(
            per_example_grads,
            step_size=step_size,
            batch_size=batch_size,
            momentum=momentum,
            replacement=replacement,
            reduction=reduction,
            blocks=blocks,
        )
    if minibatch_grads is not None:
        if step_size is None:
            raise ValueError("minibatch_grads need step_size= of SGD")
        rows["fluctuation_dissipation"] = kick_temperature(
            minibatch_grads, step_size=step_size, momentum=momentum, blocks=blocks
        )
    if transition is not None:
        rows["transition"] = _from_transition(*transition)
    return rows


def _bath(ensemble: PyTree, temperature: ArrayLike, blocks: Blocks | None) -> Temperatures:
    sizes = block_sizes(jax.tree.map(lambda x: x[0], ensemble), blocks)
    total = sum(sizes.values())
    set_to, zero = jnp.asarray(temperature), jnp.zeros(())
    return Temperatures(
        set_to,
        dict.fromkeys(sizes, set_to),
        {name: jnp.asarray(size / total) for name, size in sizes.items()},
        zero,
        dict.fromkeys(sizes, zero),
        jnp.zeros((), jnp.uint32),
    )


def _from_transition(each: dict[str, Transition], whole: Transition) -> Temperatures:
    return Temperatures(
        whole.temperature,
        {name: t.temperature for name, t in each.items()},
        {name: t.delta_entropy / whole.delta_entropy for name, t in each.items()},
        jnp.asarray(whole.stderr),
        {name: jnp.asarray(t.stderr) for name, t in each.items()},
        jnp.asarray(whole.flags, jnp.uint32),
    )
