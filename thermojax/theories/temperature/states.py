"""States, the transition between two of them, and its temperature.

    T = Delta E / Delta S,   Delta E = E_initial - E_final,   Delta S = S_initial - S_final

[paper: temperature is a property of the transition; our definition of the two differences,
following the programme of Zhang (2024).] At this T the two free energies E - T S are equal:
it is the coexistence temperature of a first-order transition with latent heat Delta E. The
trained state has the lower free energy iff the bath is colder than T.

| Delta E | Delta S | meaning |
|---|---|---|
| > 0 | > 0 | training wins below T |
| > 0 | <= 0 | training wins at every bath temperature (T <= 0 or inf) |
| < 0 | > 0 | training never wins |
| < 0 | < 0 | training wins above T |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.estimators.estimate import Flag, raise_flags
from thermojax.estimators.knn import flatten_ensemble
from thermojax.theories.temperature.entropy import energy_entropy, ensemble_entropy
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["State", "Transition", "ensemble_state", "logarithmic_mean", "transition"]

# x / atanh(x) = sum_k c_k x^(2k)
_SERIES = (
    1.0,
    -1 / 3,
    -4 / 45,
    -44 / 945,
    -428 / 14175,
    -10196 / 467775,
    -10719068 / 638512875,
    -25865068 / 1915538625,
)


class State(NamedTuple):
    """Energy and entropy of an ensemble of networks on given data.

    Attributes:
        energy: <U>, unit of U.
        entropy: nats.
        stderr: standard error of the energy over members; 0 where it is exact.
        flags: uint32 bit set of `Flag`.
    """

    energy: ArrayLike
    entropy: ArrayLike
    stderr: ArrayLike = 0.0
    flags: ArrayLike = 0


class Transition(NamedTuple):
    """What a transition releases; plain division, never clipped (inf and nan are IEEE's).

    Attributes:
        delta_energy: E_initial - E_final, the latent heat.
        delta_entropy: S_initial - S_final, nats.
        temperature: their ratio.
        stderr: of the temperature, from the energies' errors alone.
        flags: uint32 bit set of `Flag`.
    """

    delta_energy: Array
    delta_entropy: Array
    temperature: Array
    stderr: ArrayLike = 0.0
    flags: ArrayLike = 0


def transition(initial: State, final: State) -> Transition:
    """The transition from `initial` to `final` and its temperature.

    Args:
        initial: before, as a `State`.
        final: after; the same entropy, estimator and resolution.

    Example:
        >>> transition(State(4.0, 3.0), State(0.0, 0.0)).temperature.item()
        1.3333333730697632
    """
    energy = jnp.asarray(initial.energy) - jnp.asarray(final.energy)
    entropy = jnp.asarray(initial.entropy) - jnp.asarray(final.entropy)
    error = jnp.hypot(jnp.asarray(initial.stderr), jnp.asarray(final.stderr))
    flags = jnp.asarray(initial.flags, jnp.uint32) | jnp.asarray(final.flags, jnp.uint32)
    return Transition(energy, entropy, energy / entropy, error / jnp.abs(entropy), flags)


def ensemble_state(
    potential: Callable[[PyTree], Array],
    ensemble: PyTree,
    *,
    entropy_of: str = "parameters",
    method: str = "gaussian",
    resolution: PyTree = None,
    k: int = 3,
    batch_size: int | None = None,
) -> State:
    """The state of an ensemble of networks: <U> and an estimate of its entropy.

    Args:
        potential: params -> U, scalar.
        ensemble: params with a leading axis of M members on every leaf.
        entropy_of: "parameters", or "energy" for the entropy of the number U.
        method: estimator for parameters, see `ensemble_entropy`.
        resolution: length to which parameters are known; a trained state needs it.
        k: neighbour, for "knn" and for energies.
        batch_size: members evaluated at once; all by default.

    Returns:
        `State`; LOW_ESS where a Gaussian entropy has fewer members than parameters (it is
        then biased low: compare only states of the same M).

    Raises:
        ValueError: an unknown `entropy_of`; see `ensemble_entropy`.
    """
    if entropy_of not in ("parameters", "energy"):
        raise ValueError(f"entropy_of={entropy_of!r}: use 'parameters' or 'energy'")
    flat = flatten_ensemble(ensemble)
    count, size = flat.shape
    energies = jax.lax.map(potential, ensemble, batch_size=batch_size or count)
    if entropy_of == "energy":
        entropy, short = energy_entropy(energies, k=k), False
    else:
        entropy = ensemble_entropy(ensemble, method=method, resolution=resolution, k=k)
        short = method == "gaussian" and count <= size
    error = jnp.std(energies, ddof=1) / jnp.sqrt(count) if count > 1 else jnp.nan
    return State(jnp.mean(energies), entropy, error, raise_flags((Flag.LOW_ESS, short)))


def logarithmic_mean(a: ArrayLike, b: ArrayLike) -> Array:
    """L(a, b) = (a - b) / ln(a / b), L(a, a) = a, for a, b >= 0.

    The transition temperature between two Gibbs states of a quadratic energy at T = a and
    T = b (derived here). Between the geometric and the arithmetic mean; smooth at a = b.

    Example:
        >>> print(f"{logarithmic_mean(4.0, 1.0):.4f}")
        2.1640
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    total = a + b
    safe = jnp.where(total > 0, total, 1.0)
    x = (a - b) / safe
    near = jnp.abs(x) < 0.1  # the closed form's derivative cancels there
    closed = jnp.where(near, 0.5, x) / jnp.arctanh(jnp.where(near, 0.5, x))
    series = jnp.polyval(jnp.asarray(_SERIES[::-1], x.dtype), jnp.where(near, x**2, 0.0))
    return jnp.where(total > 0, 0.5 * total * jnp.where(near, series, closed), 0.0)
