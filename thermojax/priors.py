"""Base measures: log density, exact sampler, total mass.

    gaussian   m(theta) = prod_i N(theta_i; 0, scale_i^2)            log mass 0
    localized  m(theta) exp(-gamma/2 |theta - anchor|^2)
    coupled    m0(theta)^(1-lam) m1(theta)^lam

Every measure is a pytree whose scales are leaves, so that a prior scale can be swept
and differentiated. All draws are one flat draw per theta: never a key per leaf.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.reduce import total
from thermojax.typing import Array, ArrayLike, Key, PyTree, ShapeError, is_traced

__all__ = [
    "CoupledPrior",
    "CustomPrior",
    "GaussianPrior",
    "LocalizedPrior",
    "Prior",
    "Template",
    "gaussian_prior",
    "prior",
]

_LOG_2PI = math.log(2 * math.pi)


@dataclasses.dataclass(frozen=True)
class Template:
    """Structure, shapes and dtypes of theta; hashable, hence static under jit."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, like: PyTree) -> Template:
        """The template of an example (arrays, scalars or ShapeDtypeStructs)."""
        leaves, treedef = jax.tree.flatten(like)
        if not leaves:
            raise ShapeError("theta has no leaves: give an example with at least one array")
        dtypes = tuple(jax.dtypes.canonicalize_dtype(jnp.result_type(x)) for x in leaves)
        # a Python float or int stands for a scalar parameter
        dtypes = tuple(
            d if jnp.issubdtype(d, jnp.inexact) else jnp.result_type(float) for d in dtypes
        )
        return cls(treedef, tuple(jnp.shape(x) for x in leaves), dtypes)

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def dtype(self) -> Any:
        """Common dtype of the flat parameter vector."""
        return jnp.result_type(*self.dtypes)

    def unflatten(self, flat: Array) -> PyTree:
        """[d] -> theta."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            count = math.prod(shape)
            leaves.append(flat[start : start + count].reshape(shape).astype(dtype))
            start += count
        return jax.tree.unflatten(self.treedef, leaves)

    def paths(self) -> list[str]:
        """Readable leaf names, in leaf order."""
        dummy = jax.tree.unflatten(self.treedef, list(range(len(self.shapes))))
        named = jax.tree_util.tree_leaves_with_path(dummy)
        return [jax.tree_util.keystr(path) or "theta" for path, _ in named]

    def check(self, theta: PyTree, *, leading: tuple[int, ...] = ()) -> None:
        """Raise ShapeError, naming the leaf, unless theta fits (after `leading` axes)."""
        leaves, treedef = jax.tree.flatten(theta)
        if treedef != self.treedef:
            raise ShapeError(
                f"parameters have structure {treedef}, the system expects {self.treedef}"
            )
        for path, leaf, shape in zip(self.paths(), leaves, self.shapes, strict=True):
            if jnp.shape(leaf) != leading + shape:
                raise ShapeError(
                    f"parameter leaf {path} has shape {jnp.shape(leaf)}, "
                    f"expected {leading + shape}"
                )


class Prior(Protocol):
    """What a base measure must know."""

    @property
    def log_mass(self) -> ArrayLike | None:
        """log of the total mass; None if infinite or unknown."""
        ...

    @property
    def template(self) -> Template | None:
        """Shape of theta, None where any shape fits."""
        ...

    def bind(self, like: PyTree) -> Any:
        """The same measure, knowing the shape of theta."""
        ...

    def log_density(self, theta: PyTree, control: PyTree = ()) -> Array:
        """log m(theta; control), scalar."""
        ...

    def sample(self, key: Key, control: PyTree = ()) -> PyTree:
        """One exact draw."""
        ...


def _known(template: Template | None) -> Template:
    if template is None:
        raise ShapeError(
            "the shape of theta is unknown, so the prior cannot be sampled: say it with "
            "tj.gaussian_prior(scale, like=theta) or tj.system(..., like=theta)"
        )
    return template


def _fan_in(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1]) if len(shape) >= 2 else 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianPrior:
    """Independent centred normals; see `gaussian_prior`."""

    scale: PyTree
    scale_fn: Callable | None = dataclasses.field(default=None, metadata={"static": True})
    fan_in: bool = dataclasses.field(default=False, metadata={"static": True})
    template: Template | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def log_mass(self) -> float:
        """Normalised: log mass 0."""
        return 0.0

    def bind(self, like: PyTree) -> GaussianPrior:
        """The same prior, knowing the shape of theta."""
        return dataclasses.replace(self, template=Template.of(like))

    def scales(self, theta: PyTree, control: PyTree = ()) -> PyTree:
        """Standard deviations as a pytree that broadcasts against theta."""
        scale = self.scale if self.scale_fn is None else self.scale_fn(control)
        if jax.tree.structure(scale).num_leaves == 1 and jax.tree.structure(
            scale
        ) != jax.tree.structure(theta):
            only = jax.tree.leaves(scale)[0]
            scale = jax.tree.map(lambda _: only, theta)
        if jax.tree.structure(scale) != jax.tree.structure(theta):
            raise ShapeError(
                f"prior scales have structure {jax.tree.structure(scale)}, "
                f"parameters {jax.tree.structure(theta)}"
            )

        def one(s, x):
            s = jnp.asarray(s, x.dtype)
            return s / math.sqrt(_fan_in(x.shape)) if self.fan_in else s

        return jax.tree.map(one, scale, theta)

    def log_density(self, theta: PyTree, control: PyTree = ()) -> Array:
        """sum_i log N(theta_i; 0, scale_i^2)."""
        theta = jax.tree.map(jnp.asarray, theta)

        def one(x, s):
            log_scale = jnp.sum(jnp.broadcast_to(jnp.log(s), x.shape))
            # one division per scale, not one per parameter
            return -0.5 * total((x * (1 / s)) ** 2) - log_scale - 0.5 * x.size * _LOG_2PI

        terms = jax.tree.map(one, theta, self.scales(theta, control))
        return sum(jax.tree.leaves(terms)[1:], jax.tree.leaves(terms)[0])

    def sample(self, key: Key, control: PyTree = ()) -> PyTree:
        """One draw, from one flat vector of normals."""
        template = _known(self.template)
        unit = template.unflatten(jax.random.normal(key, (template.size,), template.dtype))
        return jax.tree.map(lambda x, s: x * s, unit, self.scales(unit, control))


def gaussian_prior(
    scale: PyTree | Callable = 1.0, *, like: PyTree = None, fan_in: bool = False
) -> GaussianPrior:
    """Independent centred normals as a normalised base measure.

    Args:
        scale: standard deviation: a scalar; an array or pytree like theta (per leaf or
            per parameter); or a function `control -> ` either, to sweep or differentiate
            it as part of the control.
        like: example of theta, where no system says its shape.
        fan_in: divide the scale of every leaf with two or more axes by the square root
            of its fan-in (all axes but the last), as network initialisers do.

    Raises:
        ValueError: a scale that is not positive and finite.

    Example:
        >>> m = gaussian_prior(2.0, like=jnp.zeros(3))
        >>> float(m.log_density(jnp.zeros(3)))  # -3 log(2 sqrt(2 pi))
        -4.8362...
    """
    scale_fn = scale if callable(scale) else None
    values = () if scale_fn is not None else scale
    for leaf in jax.tree.leaves(values):
        if is_traced(leaf):
            continue
        known = np.asarray(leaf)
        if not np.all((known > 0) & np.isfinite(known)):
            raise ValueError(f"prior scale must be positive and finite, got {leaf}")
    template = None if like is None else Template.of(like)
    return GaussianPrior(values, scale_fn, fan_in, template)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CustomPrior:
    """A measure from user functions; see `prior`."""

    log_mass: ArrayLike | None
    params: PyTree
    density_fn: Callable = dataclasses.field(metadata={"static": True})
    sample_fn: Callable = dataclasses.field(metadata={"static": True})
    template: Template | None = dataclasses.field(default=None, metadata={"static": True})
    values: tuple[float, float] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def bind(self, like: PyTree) -> CustomPrior:
        """The same prior, knowing the shape of theta."""
        return dataclasses.replace(self, template=Template.of(like))

    def log_density(self, theta: PyTree, control: PyTree = ()) -> Array:
        """log m(theta; control)."""
        return self.density_fn(theta, control, self.params)

    def sample(self, key: Key, control: PyTree = ()) -> PyTree:
        """One exact draw."""
        return self.sample_fn(key, control, self.params)


def prior(
    log_density: Callable,
    sample: Callable,
    *,
    like: PyTree,
    log_mass: ArrayLike | None = 0.0,
    params: PyTree = (),
    values: tuple[float, float] | None = None,
) -> CustomPrior:
    """Any base measure with an exact sampler.

    Args:
        log_density: `(theta, control, params) -> log m`, scalar.
        sample: `(key, control, params) -> theta`.
        like: example of theta.
        log_mass: log of the total mass; 0 if normalised, None if unknown.
        params: traced numbers of the measure.
        values: the two values of every site, (0, 1) or (-1, 1), if this is a measure over
            binary states; see `tj.counting_prior` and `tj.gibbs_flip`.
    """
    known = None if values is None else tuple(values)
    return CustomPrior(log_mass, params, log_density, sample, Template.of(like), known)


def _sum_leaves(tree: PyTree) -> Array:
    leaves = [total(leaf) for leaf in jax.tree.leaves(tree)]
    return sum(leaves[1:], leaves[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LocalizedPrior:
    """m(theta) exp(-gamma/2 |theta - anchor|^2), exact for Gaussian and Lebesgue m."""

    base: Any
    anchor: PyTree
    gamma: PyTree

    @property
    def template(self) -> Template:
        """Shape of the anchor."""
        return Template.of(self.anchor)

    @property
    def values(self) -> tuple[float, float] | None:
        """Values of a site, where the base is a measure over binary states."""
        return getattr(self.base, "values", None)

    def bind(self, like: PyTree) -> LocalizedPrior:
        """The anchor already says the shape."""
        return self

    def _stiffness(self) -> PyTree:
        if jax.tree.structure(self.gamma) == jax.tree.structure(self.anchor):
            return jax.tree.map(
                lambda g, a: jnp.broadcast_to(g, jnp.shape(a)), self.gamma, self.anchor
            )
        return jax.tree.map(lambda a: jnp.full(jnp.shape(a), self.gamma), self.anchor)

    def _product(self, control: PyTree = ()) -> tuple[PyTree, PyTree, Array]:
        """Mean, standard deviation and log mass of the product of the two Gaussians."""
        gamma = self._stiffness()
        anchor = jax.tree.map(jnp.asarray, self.anchor)
        if self.base is None:
            precision = jax.tree.map(jnp.zeros_like, gamma)
            log_norm = jnp.zeros(())
        elif isinstance(self.base, GaussianPrior):
            scales = self.base.scales(anchor, control)
            precision = jax.tree.map(
                lambda s, g: jnp.broadcast_to(1 / s**2, g.shape), scales, gamma
            )
            log_norm = self.base.log_density(jax.tree.map(jnp.zeros_like, anchor), control)
        else:
            raise ValueError(
                "a localised measure can be sampled only over a Gaussian or Lebesgue base; "
                "give log_partition a reference= instead"
            )
        total = jax.tree.map(lambda p, g: p + g, precision, gamma)
        mean = jax.tree.map(lambda g, a, t: g * a / t, gamma, anchor, total)
        sd = jax.tree.map(lambda t: 1 / jnp.sqrt(t), total)
        exponent = jax.tree.map(
            lambda p, g, a, t: -0.5 * p * g * a**2 / t + 0.5 * (_LOG_2PI - jnp.log(t)),
            precision,
            gamma,
            anchor,
            total,
        )
        return mean, sd, log_norm + _sum_leaves(exponent)

    @property
    def log_mass(self) -> Array | None:
        """Closed form for Gaussian and Lebesgue bases, otherwise None."""
        known = self.base is None or (
            isinstance(self.base, GaussianPrior) and self.base.scale_fn is None
        )
        return self._product()[2] if known else None

    def log_density(self, theta: PyTree, control: PyTree = ()) -> Array:
        """log m(theta) - gamma/2 |theta - anchor|^2."""
        tether = jax.tree.map(
            lambda x, a, g: -0.5 * g * (x - a) ** 2, theta, self.anchor, self._stiffness()
        )
        total = _sum_leaves(tether)
        return total if self.base is None else total + self.base.log_density(theta, control)

    def sample(self, key: Key, control: PyTree = ()) -> PyTree:
        """One exact draw from the (normalised) product."""
        mean, sd, _ = self._product(control)
        template = self.template
        unit = template.unflatten(jax.random.normal(key, (template.size,), template.dtype))
        return jax.tree.map(lambda m, s, x: m + s * x, mean, sd, unit)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoupledPrior:
    """Geometric mean of two base measures; `control` is `lam` or `(lam, inner)`."""

    first: Any
    second: Any
    shared: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def log_mass(self) -> ArrayLike | None:
        """Known where both ends share one measure."""
        return self.first.log_mass if self.shared else None

    @property
    def template(self) -> Template | None:
        """Shape of theta as the first measure knows it."""
        return self.first.template

    @property
    def values(self) -> tuple[float, float] | None:
        """Values of a site, where both ends are measures over binary states."""
        return getattr(self.first, "values", None)

    def bind(self, like: PyTree) -> CoupledPrior:
        """Both ends, knowing the shape of theta."""
        return dataclasses.replace(
            self, first=self.first.bind(like), second=self.second.bind(like)
        )

    def log_density(self, theta: PyTree, control: PyTree = ()) -> Array:
        """(1 - lam) log m0 + lam log m1."""
        lam, inner = control if isinstance(control, tuple) else (control, ())
        if self.shared:
            return self.first.log_density(theta, inner)
        return (1 - lam) * self.first.log_density(theta, inner) + lam * (
            self.second.log_density(theta, inner)
        )

    def sample(self, key: Key, control: PyTree = ()) -> PyTree:
        """One exact draw, possible only where both ends share one measure."""
        if not self.shared:
            raise ValueError(
                "the geometric mean of two different priors has no exact sampler: "
                "couple systems that share one prior, or give log_partition a reference="
            )
        inner = control[1] if isinstance(control, tuple) else ()
        return self.first.sample(key, inner)
