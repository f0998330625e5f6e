"""Learning efficiency: the Laplacian of the total free energy over the trainables.

    lap_q F = <lap_q H> - beta sum_k Var(d_k H)

Under gradient flow the entropy of an ensemble of networks falls at gamma <lap_q F>: what
learning destroys. It depends on the parametrisation, and has no bound.

The right side is a difference of two large numbers, wrong for relu wherever a
pre-activation depends on a free neuron: automatic differentiation of H finds no curvature
at the kink. So F itself is differentiated, which is right for closed forms and for
quadrature with panels that end at the kinks. For samples it is the right side again: then
KINKED is raised.

Source: the role of the Laplacian is Vanchurin 2021, abstract [paper]; the fluctuation form
is textbook, the value per parameter ours.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.curvature import Trace
from thermojax.estimators.curvature import laplacian as trace_of
from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.theories.learning_laws.ensemble import thermodynamic_state, total_free_energy
from thermojax.theories.learning_laws.septuple import System, trainable_mask
from thermojax.typing import ArrayLike, Key, PyTree

__all__ = ["learning_efficiency"]


def learning_efficiency(
    system: System,
    params: PyTree,
    data: PyTree,
    beta: ArrayLike,
    *,
    per_parameter: bool = False,
    laplacian: str = "exact",
    probes: int = 16,
    key: Key | None = None,
    support: PyTree = None,
    width: PyTree = None,
    **options: Any,
) -> Trace:
    """Laplacian of the total free energy, loss per q^2: the rate of entropy destruction.

        efficiency = lap_q F,   dS_q/dt = -gamma <efficiency> under gradient flow

    Vanchurin 2021 for the quantity [paper]; per parameter it is our definition, following
    the paper's programme.

    Args:
        system: from `dense_network` or `layered_network`.
        params: trainables of one network; `jax.vmap` over an ensemble, then the mean.
        data: examples, or None.
        beta: inverse temperature of the states, 1/loss.
        per_parameter: divide by the number of trainables, to compare architectures.
        laplacian: "exact", or "hutchinson" or "hutch++" with a key, or "smoothed"; see
            `thermojax.laplacian`.
        probes: Hessian-vector products.
        key: typed key of the probes; a sampled log Z gets another one made from it.
        support: pytree like params of boolean masks of the entries that train; those that
            enter H by default, see `trainable_mask`.
        width: step at which kinks of F are looked for, in units of the parameters.
        **options: `method`, `reduction` ("sum" by default), `prior` and the rest of
            `total_free_energy`.

    Returns:
        `Trace`; its stderr knows the probes, not the error of a sampled log Z, for which
        repeat over keys. KINKED for relu and the like where log Z is sampled, or where
        `width` finds kinks.

    Raises:
        ValueError: as `thermojax.laplacian` and `total_free_energy` do.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1, 1), "linear")
        >>> one = jnp.ones((1, 1))
        >>> params = [(0.8 * one, jnp.array([0.1])), (-0.6 * one, jnp.array([0.2]))]
        >>> data = {"x": 1.5 * one, "y": 0.3 * one}
        >>> print(f"{float(learning_efficiency(net, params, data, 4.0)):.4f}")
        1.4649
    """
    probe_key = None
    if key is not None:
        probe_key, state_key = jax.random.split(key)
        options = {"key": state_key, **options}
    if support is None:
        with jax.ensure_compile_time_eval():
            support = jax.tree.map(np.asarray, trainable_mask(system, params))

    def free_energy(q):
        return total_free_energy(system, q, data, beta, **options)

    found = trace_of(
        free_energy,
        params,
        method=laplacian,
        probes=probes,
        key=probe_key,
        support=support,
        width=width,
    )
    if laplacian != "smoothed" and _kinked(system):
        ess = thermodynamic_state(system, params, data, beta, **_of_state(options)).ess
        found = found._replace(flags=found.flags | raise_flags((Flag.KINKED, ~jnp.isnan(ess))))
    if not per_parameter:
        return found
    return found._replace(
        value=found.value / found.n_entries, stderr=found.stderr / found.n_entries
    )


def _of_state(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "prior"}


def _kinked(system: System) -> bool:
    """True if the slope of an activation jumps at 0."""
    network = system.network
    with jax.ensure_compile_time_eval():
        beside = jnp.array([-1e-4, 1e-4])
        jumps = [
            jnp.abs(jnp.diff(jax.vmap(jax.grad(f))(beside))[0])
            for f in (network.activation, network.output_activation)
        ]
        return bool(jnp.max(jnp.stack(jumps)) > 0.01)
