"""Closed form: one bit, its noisy label, and binary symmetric kernels.

    h = lam a_D + gam a_C,      delta = P(z != x) = 1 / (1 + e^h),      m = (1/2, 1/2)
    F = log 2 - lam log(1 - kappa) + gam c_0 - log(1 + e^-h)

A reference for `tabular_equilibrium`: independent bits add their F, R, D, C and chi.

Source: derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["BinaryEquilibrium", "binary_equilibrium", "binary_tables"]


class BinaryEquilibrium(NamedTuple):
    """Equilibrium of one bit.

    Attributes:
        free_energy: F, nats per example.
        functionals: R, D and C, nats per example.
        flip_probability: delta = P(z != x).
        chi: [2, 2] susceptibility, nats, of rank one.
    """

    free_energy: Array
    functionals: Functionals
    flip_probability: Array
    chi: Array


def _check_noise(**levels: ArrayLike) -> None:
    for name, level in levels.items():
        if is_concrete(level):
            value = float(jnp.asarray(level))
            if not 0 < value <= 0.5:
                raise ValueError(f"{name} is {value:.6g}; a flip probability is in (0, 1/2].")


def binary_tables(
    *, label_noise: ArrayLike, decoder_noise: ArrayLike, classifier_noise: ArrayLike
) -> tuple[Array, Array, Array]:
    """Joint, log decoder and log classifier of one bit, each [2, 2].

    Args:
        label_noise: eps, P(y != x).
        decoder_noise: kappa, d(x != z | z).
        classifier_noise: eta, c(y != z | z).

    Raises:
        ValueError: a flip probability outside (0, 1/2].

    Source:
        Derived here.

    Example:
        >>> joint, _, _ = binary_tables(
        ...     label_noise=0.1, decoder_noise=0.2, classifier_noise=0.1
        ... )
        >>> bool(jnp.allclose(joint, jnp.array([[0.45, 0.05], [0.05, 0.45]])))
        True
    """
    _check_noise(
        label_noise=label_noise, decoder_noise=decoder_noise, classifier_noise=classifier_noise
    )

    def channel(noise):
        noise = jnp.asarray(noise, jnp.result_type(noise, 1.0))
        return jnp.array([[1 - noise, noise], [noise, 1 - noise]])

    return (
        channel(label_noise) / 2,
        jnp.log(channel(decoder_noise)),
        jnp.log(channel(classifier_noise)),
    )


def binary_equilibrium(
    multipliers: Multipliers,
    *,
    label_noise: ArrayLike,
    decoder_noise: ArrayLike,
    classifier_noise: ArrayLike,
) -> BinaryEquilibrium:
    """Equilibrium of a uniform bit with two codes and binary symmetric kernels.

        a_D = log((1 - kappa) / kappa),     a_C = (1 - 2 eps) log((1 - eta) / eta)
        D = -log(1 - kappa) + delta a_D,    C = c_0 + delta a_C,    R = log 2 - h_b(delta)
        chi = delta (1 - delta) [a_D, a_C]^T [a_D, a_C]

    Args:
        multipliers: lam and gam, of any shape that broadcasts.
        label_noise: eps, P(y != x).
        decoder_noise: kappa, d(x != z | z).
        classifier_noise: eta, c(y != z | z).

    Raises:
        ValueError: a flip probability outside (0, 1/2].

    Source:
        Derived here.

    Example:
        >>> found = binary_equilibrium(
        ...     Multipliers(1.5, 2.0), label_noise=0.1, decoder_noise=0.2, classifier_noise=0.1
        ... )
        >>> round(float(found.free_energy), 4)
        1.6743
    """
    _check_noise(
        label_noise=label_noise, decoder_noise=decoder_noise, classifier_noise=classifier_noise
    )
    levels = (label_noise, decoder_noise, classifier_noise)
    eps, kappa, eta = (jnp.asarray(level) for level in levels)
    lam, gam = multipliers
    slope_d = jnp.log1p(-kappa) - jnp.log(kappa)
    slope_c = (1 - 2 * eps) * (jnp.log1p(-eta) - jnp.log(eta))
    floor_c = -(1 - eps) * jnp.log1p(-eta) - eps * jnp.log(eta)
    field = lam * slope_d + gam * slope_c
    flip = jax.nn.sigmoid(-field)
    entropy = flip * jax.nn.softplus(field) + (1 - flip) * jax.nn.softplus(-field)
    slopes = jnp.stack([slope_d, slope_c])
    free_energy = (
        jnp.log(2.0) - lam * jnp.log1p(-kappa) + gam * floor_c - jax.nn.softplus(-field)
    )
    return BinaryEquilibrium(
        free_energy=free_energy,
        functionals=Functionals(
            rate=jnp.log(2.0) - entropy,
            distortion=-jnp.log1p(-kappa) + flip * slope_d,
            classification=floor_c + flip * slope_c,
        ),
        flip_probability=flip,
        chi=(flip * (1 - flip))[..., None, None] * jnp.outer(slopes, slopes),
    )
