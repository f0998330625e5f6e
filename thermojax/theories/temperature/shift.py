"""Data that move under a trained network: work, heat, and the temperature of the shift.

U depends on the parameters and on the data D, its control. At held parameters a shift of
the data does work, at held data training gives off heat:

    W = <U_D'>_p - <U_D>_p,   Q = <U_D>_p' - <U_D>_p,   Delta U = W + Q exactly

so that around a closed cycle of shifts and refreshes W + Q = 0.

Source: our definitions, following the programme of Zhang (2024) ("refresh" is a phase
transition there).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.temperature.states import logarithmic_mean
from thermojax.typing import Array, ArrayLike, PyTree, is_concrete

__all__ = ["data_shift_temperature", "refresh_heat", "shift_work"]


def _mean_energy(
    potential: Callable, ensemble: PyTree, data: PyTree, batch_size: int | None
) -> Array:
    count = jax.tree.leaves(ensemble)[0].shape[0]
    each = jax.lax.map(lambda p: potential(p, data), ensemble, batch_size=batch_size or count)
    return jnp.mean(each)


def shift_work(
    potential: Callable[[PyTree, PyTree], Array],
    data: PyTree,
    shifted: PyTree,
    ensemble: PyTree,
    *,
    batch_size: int | None = None,
) -> Array:
    """W = <U_shifted> - <U_data> over an ensemble that stays where it is.

    Args:
        potential: (params, data) -> U, scalar.
        data: before the shift.
        shifted: after it.
        ensemble: params with a leading axis of members.
        batch_size: members evaluated at once; all by default.

    Returns:
        Scalar, unit of U; positive where the shift makes the trained networks worse.

    Example:
        >>> f = lambda w, d: (w - d) ** 2
        >>> shift_work(f, 1.0, 3.0, jnp.array([1.0, 1.0])).item()
        4.0
    """
    after = _mean_energy(potential, ensemble, shifted, batch_size)
    return after - _mean_energy(potential, ensemble, data, batch_size)


def refresh_heat(
    potential: Callable[[PyTree, PyTree], Array],
    shifted: PyTree,
    before: PyTree,
    after: PyTree,
    *,
    batch_size: int | None = None,
) -> Array:
    """Q = <U>_after - <U>_before on the shifted data; negative where training released it.

    Args:
        potential: (params, data) -> U, scalar.
        shifted: data, held.
        before: ensemble before re-training, leading axis of members.
        after: ensemble after it.
        batch_size: members evaluated at once; all by default.

    Returns:
        Scalar, unit of U.
    """
    end = _mean_energy(potential, after, shifted, batch_size)
    return end - _mean_energy(potential, before, shifted, batch_size)


def data_shift_temperature(
    residual_variance: ArrayLike,
    shifted_variance: ArrayLike,
    *,
    loss: str = "mse",
    covariances: tuple[ArrayLike, ArrayLike] | None = None,
) -> Array:
    """Temperature of a shift of the data at held parameters, per datum.

        T = (E' - E) / (S' - S),   E = rho^2 (mse) or rho^2 / 2 (half_mse)
        S = ln(2 pi e rho^2) / 2             of the residual: T = 2 L(rho^2, rho'^2) for mse
        S = ln det(2 pi e Cov(x, y)) / 2     "joint", where covariances are given

    L is the logarithmic mean. Our definition, following the programme of Zhang (2024).

    Args:
        residual_variance: rho^2 before the shift.
        shifted_variance: rho'^2 after it.
        loss: "mse" or "half_mse".
        covariances: (Cov(x, y), its value after the shift), each [..., p, p].

    Raises:
        ValueError: another loss, or a variance that is not positive.

    Example:
        >>> print(f"{data_shift_temperature(0.25, 1.0):.6f}")
        1.082021
    """
    if loss not in ("mse", "half_mse"):
        raise ValueError(f"loss={loss!r} has no residual variance: use 'mse' or 'half_mse'")
    for name, value in (
        ("residual_variance", residual_variance),
        ("shifted_variance", shifted_variance),
    ):
        if is_concrete(value) and not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name}={value} must be positive")
    scale = 2.0 if loss == "mse" else 1.0
    if covariances is None:
        return scale * logarithmic_mean(residual_variance, shifted_variance)
    before, after = (jnp.linalg.slogdet(jnp.asarray(c))[1] for c in covariances)
    gain = jnp.asarray(shifted_variance) - jnp.asarray(residual_variance)
    return scale * gain / (after - before)
