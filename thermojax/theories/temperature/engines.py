"""Two classes of engines: efficiency that survives hot pre-activations, and that dies.

    kappa = ln[eta_R(q_2) / eta_R(q_1)] / ln(q_2 / q_1),   q_1 = 10^2, q_2 = 10^4

persistent for kappa > -1/4 (identity, relu, gelu, softplus, ...), saturating otherwise
(sigmoid, tanh, softmax: eta_R falls as q^(-1/2)).

Source: [paper] says that there are two types of engines; the rule is our definition,
following the programme of Zhang (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from thermojax.theories.temperature.efficiency import (
    activation_efficiency,
    softmax_efficiency,
)

__all__ = ["NetworkClass", "engine_class", "network_class"]


class NetworkClass(NamedTuple):
    """Class of a network: that of its worst activation.

    Attributes:
        name: "persistent" or "saturating".
        ideal: every eta_R is 1 within 1e-6 at both variances.
    """

    name: str
    ideal: bool


def _responses(activation: Callable | str, variances: tuple[float, float]) -> np.ndarray:
    if isinstance(activation, str):
        if activation != "softmax":
            raise ValueError(f"activation={activation!r}: give a function, or 'softmax'")
        found = [softmax_efficiency(2, q).response for q in variances]
    else:
        found = [activation_efficiency(activation, q).response for q in variances]
    return np.asarray(jax.device_get(found), np.float64)


def engine_class(
    activation: Callable | str, *, variances: tuple[float, float] = (1e2, 1e4)
) -> str:
    """Whether an activation is "persistent" or "saturating"; not for use under jit.

    Args:
        activation: scalar -> scalar, or "softmax".
        variances: q_1 < q_2 of the pre-activations.

    Raises:
        ValueError: variances that do not increase, an unknown name.

    Example:
        >>> engine_class(jax.numpy.tanh), engine_class(jax.nn.relu)
        ('saturating', 'persistent')
    """
    low, high = variances
    if not 0 < low < high:
        raise ValueError(f"variances={variances} must increase from above 0")
    first, second = _responses(activation, variances)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(second / first) / np.log(high / low)
    return "persistent" if slope > -0.25 else "saturating"


def network_class(activations: Iterable[Callable | str]) -> NetworkClass:
    """Class of a network with these hidden activations: saturating if any of them is.

    Raises:
        ValueError: no activations.
    """
    activations = list(activations)
    if not activations:
        raise ValueError("activations is empty: name those of the hidden layers")
    worst = any(engine_class(g) == "saturating" for g in activations)
    ideal = all(np.all(np.abs(_responses(g, (1e2, 1e4)) - 1) < 1e-6) for g in activations)
    return NetworkClass("saturating" if worst else "persistent", bool(ideal))
