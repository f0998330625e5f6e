"""The densities that flax and jax initialisers draw from.

Textbook facts that are easy to get wrong: the `*_normal` family of variance scaling cuts a
normal at two of *its* standard deviations, which are sqrt(variance) / 0.8796...; `normal` is
not cut; `uniform(scale)` is [0, scale); `orthogonal` has no density at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from thermojax.theories.temperature.densities import (
    Density,
    Normal,
    Point,
    TruncatedNormal,
    Uniform,
)

__all__ = ["initializer_density"]

_CUT = 0.87962566103423978
"""Standard deviation of a standard normal cut at two."""

_FAMILIES = {
    "lecun": (1.0, "fan_in"),
    "glorot": (1.0, "fan_avg"),
    "xavier": (1.0, "fan_avg"),
    "he": (2.0, "fan_in"),
    "kaiming": (2.0, "fan_in"),
}


def initializer_density(initializer_name: str, shape: Sequence[int], **kw: Any) -> Density:
    """The density of every entry of a leaf made by a named jax or flax initialiser.

    Args:
        initializer_name: "zeros", "ones", "constant", "normal", "truncated_normal",
            "uniform", "variance_scaling", or "lecun_", "glorot_", "xavier_", "he_",
            "kaiming_" with "normal" or "uniform"; a trailing "_init" is ignored.
        shape: of the leaf.
        **kw: the initialiser's own arguments (value, stddev, scale, lower, upper, mode,
            distribution, in_axis, out_axis, batch_axis), with its defaults.

    Raises:
        ValueError: an unknown name, one without a density ("orthogonal"), an argument the
            initialiser does not take, a shape without fans.

    Example:
        >>> initializer_density("uniform", (3,), scale=0.5)
        Uniform(center=0.25, half_width=0.25)
    """
    name = initializer_name.removesuffix("_init")
    if name in ("orthogonal", "delta_orthogonal"):
        raise ValueError(
            f"{initializer_name} has no density with respect to volume: draw an ensemble and "
            "use tj.temperature.ensemble_entropy with a resolution"
        )
    family, _, kind = name.partition("_")
    try:
        if family in _FAMILIES and kind in ("normal", "uniform"):
            return _scaled(shape, *_FAMILIES[family], kind, **kw)
        if name in _PLAIN:
            return _PLAIN[name](shape, **kw)
    except TypeError as error:
        raise ValueError(f"{initializer_name} does not take these arguments: {error}") from None
    known = [*_PLAIN, *(f"{f}_{k}" for f in _FAMILIES for k in ("normal", "uniform"))]
    raise ValueError(
        f"initializer_name={initializer_name!r} is unknown: use one of {', '.join(known)}"
    )


def _variance_scaling(shape, *, scale, mode, distribution, **axes):
    kinds = {"truncated_normal": "normal", "normal": "untruncated", "uniform": "uniform"}
    if distribution not in kinds:
        raise ValueError(f"distribution={distribution!r} must be one of {', '.join(kinds)}")
    return _scaled(shape, scale, mode, kinds[distribution], **axes)


def _scaled(shape, scale, mode, kind, *, in_axis=-2, out_axis=-1, batch_axis=()):
    fan_in, fan_out = _fans(tuple(shape), in_axis, out_axis, batch_axis)
    fans = {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "fan_avg": (fan_in + fan_out) / 2,
        "fan_geo_avg": math.sqrt(fan_in * fan_out),
    }
    if mode not in fans:
        raise ValueError(f"mode={mode!r} must be one of {', '.join(fans)}")
    variance = scale / fans[mode]
    if kind == "uniform":
        return Uniform(0.0, math.sqrt(3 * variance))
    if kind == "untruncated":
        return Normal(0.0, math.sqrt(variance))
    return TruncatedNormal(0.0, math.sqrt(variance) / _CUT)


def _fans(shape, in_axis, out_axis, batch_axis) -> tuple[float, float]:
    """Fan-in and fan-out as jax counts them: axes times the receptive field."""
    if len(shape) < 2:
        raise ValueError(
            f"shape={shape} has no fans: variance scaling needs two axes or more; biases are "
            "usually 'zeros'"
        )
    size = lambda axes: math.prod(
        shape[a] for a in ((axes,) if isinstance(axes, int) else axes)
    )
    field = math.prod(shape) / (size(in_axis) * size(out_axis) * size(batch_axis))
    return size(in_axis) * field, size(out_axis) * field


_PLAIN: dict[str, Callable[..., Density]] = {
    "zeros": lambda shape: Point(0.0),
    "ones": lambda shape: Point(1.0),
    "constant": lambda shape, *, value: Point(value),
    "normal": lambda shape, *, stddev=1e-2: Normal(0.0, stddev),
    "truncated_normal": lambda shape, *, stddev=1e-2, lower=-2.0, upper=2.0: TruncatedNormal(
        0.0, stddev, lower, upper
    ),
    "uniform": lambda shape, *, scale=1e-2: Uniform(scale / 2, scale / 2),
    "variance_scaling": _variance_scaling,
}
