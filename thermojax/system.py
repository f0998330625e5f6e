"""The canonical ensemble: what is weighed, against what, and at which point.

    p(theta) = m(theta; control) exp(-beta U(theta; control)) / Z(beta, control)
    u(theta) = beta U(theta; control) - log m(theta; control)        reduced energy

`U` is the total (extensive) energy, `m` the base measure (a prior), `beta` the
inverse temperature with k_B = 1. A prior lives in `m` and is not tempered: with a
normalised prior log Z(beta=0) = 0 and log Z(1) is a log evidence. Weight decay that
should be tempered together with the loss belongs in `U`.

Source: specification of the core, sections 0.1 and 1.1 (derived here).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.priors import CoupledPrior, LocalizedPrior, Prior, Template
from thermojax.symmetry import Symmetry
from thermojax.typing import (
    Array,
    ArrayLike,
    PyTree,
    is_concrete,
)

__all__ = [
    "Point",
    "System",
    "coupled",
    "finite_sum",
    "localized",
    "reduced",
    "system",
]


class Point(NamedTuple):
    """Thermodynamic state: vmap over it is a sweep, grad by it a response.

    Attributes:
        beta: inverse temperature 1/T >= 0, scalar.
        control: any pytree that energy and base measure understand; `()` for none.
    """

    beta: ArrayLike
    control: PyTree = ()


@dataclasses.dataclass(frozen=True)
class _Arity:
    """`fn` called with as many of (theta, control, last) as it declares."""

    fn: Callable
    count: int

    def __call__(self, *args):
        return self.fn(*args[: self.count])


def positional(fn: Callable, most: int) -> _Arity:
    """Wrap `fn` so that it gets the arguments it asks for.

    An argument counts if it has no default, or is called `control` or `data`; other
    options of `fn` keep their defaults.
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return _Arity(fn, most)
    count = 0
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            return _Arity(fn, most)
        asked = p.default is p.empty or p.name in ("control", "data")
        if not asked or p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            break
        count += 1
    return _Arity(fn, min(most, count))


@dataclasses.dataclass(frozen=True)
class _PerExample:
    """[N] energies of a batch from the energy of one example."""

    fn: _Arity

    def __call__(self, theta, control, data):
        return jax.vmap(lambda example: self.fn(theta, control, example))(data)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class System:
    """Energy, base measure and data of one canonical ensemble; a pytree.

    Data, prior and reference are leaves: new data of the same shape do not recompile.

    Attributes:
        energy_fn: `(theta, control, data) -> U`, or None if the energy is a finite sum.
        batch_fn: `(theta, control, data) -> [N]` energies per example, or None.
        remainder_fn: `(theta, control) -> scalar` part of U that no example owns.
        prior: base measure m; None for Lebesgue measure.
        reference: normalised distribution where tempering starts; None for the prior.
        data: pytree with leading axis N (or anything `energy_fn` reads).
        shape: `Template` of theta, where it is known apart from the measures.
        symmetry: finite group that leaves U and m invariant, where it is known.
    """

    energy_fn: Callable | None = dataclasses.field(metadata={"static": True})
    batch_fn: Callable | None = dataclasses.field(metadata={"static": True})
    remainder_fn: Callable | None = dataclasses.field(metadata={"static": True})
    prior: Prior | None = None
    reference: Prior | None = None
    data: PyTree = ()
    shape: Template | None = dataclasses.field(default=None, metadata={"static": True})
    symmetry: Symmetry | None = dataclasses.field(default=None, metadata={"static": True})

    def energy(self, theta: PyTree, control: PyTree = (), data: PyTree = None) -> Array:
        """Total energy U(theta; control) in nats, a scalar."""
        data = self.data if data is None else data
        if self.batch_fn is None:
            assert self.energy_fn is not None
            return jnp.asarray(self.energy_fn(theta, control, data))
        total = jnp.sum(self.batch_fn(theta, control, data))
        if self.remainder_fn is not None:
            total = total + self.remainder_fn(theta, control)
        return total

    def per_example(self, theta: PyTree, control: PyTree = (), data: PyTree = None) -> Array:
        """[N] energies of the examples; U is their sum plus the remainder.

        Raises:
            ValueError: the system was not built by `finite_sum` or `from_flax`.
        """
        if self.batch_fn is None:
            raise ValueError(
                "this system has no per-example energies: build it with "
                "tj.finite_sum or tj.from_flax instead of tj.system"
            )
        return self.batch_fn(theta, control, self.data if data is None else data)

    def log_base(self, theta: PyTree, control: PyTree = ()) -> Array:
        """log m(theta; control), a scalar; zero for Lebesgue measure."""
        if self.prior is None:
            return jnp.zeros((), jax.tree.leaves(theta)[0].dtype)
        return self.prior.log_density(theta, control)

    def sample_base(self, key: Array, control: PyTree = ()) -> PyTree:
        """One exact draw from the base measure (beta = 0)."""
        if self.prior is None:
            raise ValueError(
                "Lebesgue measure cannot be sampled: give the system a prior, "
                "for example prior=tj.gaussian_prior(1.0, like=theta)"
            )
        return self.prior.sample(key, control)

    @property
    def base_mass(self) -> ArrayLike | None:
        """log of the total mass of m; 0 if normalised, None if infinite or unknown."""
        return None if self.prior is None else self.prior.log_mass

    @property
    def template(self) -> Template | None:
        """Structure, shapes and dtypes of theta where they are known."""
        if self.shape is not None:
            return self.shape
        for measure in (self.prior, self.reference):
            if measure is not None and measure.template is not None:
                return measure.template
        return None

    def __repr__(self) -> str:
        """What the system is made of; never its data."""
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(self.data))
        kind = "energy" if self.batch_fn is None else "sum over examples"
        size = "unknown" if self.template is None else f"{self.template.size:,}"
        names = [type(m).__name__ for m in (self.prior, self.reference) if m is not None]
        measures = " tempered from ".join(names) or "Lebesgue measure"
        return f"System({kind}, data {shapes or '()'}, {size} parameters, {measures})"

    def replace(self, **changes) -> System:
        """A copy with some fields changed, for example `replace(data=new)`."""
        return dataclasses.replace(self, **changes)


def _bind(measure: Prior | None, like: PyTree) -> Prior | None:
    if measure is None or like is None or measure.template is not None:
        return measure
    return measure.bind(like)


def check_finite(data: PyTree) -> None:
    """Raise ValueError, naming leaf and index, if concrete data are not finite."""
    if not is_concrete(data):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        values = np.asarray(leaf)
        if values.dtype.kind != "f":
            continue
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            name = jax.tree_util.keystr(path) or "data"
            raise ValueError(
                f"data leaf {name} holds {values[where]} at index {where}: "
                "drop or impute non-finite values first"
            )


def system(
    energy: Callable,
    *,
    prior: Prior | None = None,
    reference: Prior | None = None,
    like: PyTree = None,
    data: PyTree = (),
    symmetry: Symmetry | None = None,
) -> System:
    """A system from its total energy.

    Args:
        energy: `energy(theta, control, data) -> U`, scalar, extensive, in nats;
            trailing arguments may be left out.
        prior: base measure; None means Lebesgue measure (then Z needs a reference).
        reference: normalised distribution from which tempering starts when the prior is
            absent or far from the target.
        like: example of theta (arrays or shapes), where the prior does not know it.
        data: pytree handed to `energy`, traced, not baked into the executable.
        symmetry: finite group that leaves U and m invariant, as `tj.tanh_symmetry(like)`.

    Raises:
        ValueError: non-finite data.

    Example:
        >>> from thermojax import gaussian_prior
        >>> sys = system(lambda x: (x**2 - 1) ** 2, prior=gaussian_prior(1.0), like=0.0)
        >>> float(sys.energy(0.0))
        1.0
    """
    check_finite(data)
    return System(
        energy_fn=positional(energy, 3),
        batch_fn=None,
        remainder_fn=None,
        prior=_bind(prior, like),
        reference=_bind(reference, like),
        data=data,
        shape=None if like is None else Template.of(like),
        symmetry=symmetry,
    )


def finite_sum(
    per_example: Callable,
    data: PyTree,
    *,
    prior: Prior | None = None,
    remainder: Callable | None = None,
    reference: Prior | None = None,
    like: PyTree = None,
    symmetry: Symmetry | None = None,
) -> System:
    """A system whose energy is a sum over examples.

        U(theta; control) = sum_i per_example(theta, control, example_i) + remainder

    Args:
        per_example: `(theta, control, example) -> scalar` in nats.
        data: pytree with a common leading axis N.
        prior: see `system`.
        remainder: `(theta, control) -> scalar`, the part of U that is tempered but
            belongs to no example, such as weight decay.
        reference: see `system`.
        like: see `system`.
        symmetry: see `system`.

    Raises:
        ValueError: leaves of `data` disagree on N, or hold non-finite values.
    """
    sizes = {
        jax.tree_util.keystr(path) or "data": jnp.shape(leaf)[:1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(data)
    }
    if not sizes or len(set(sizes.values())) != 1 or () in sizes.values():
        raise ValueError(
            f"every leaf of data needs the same leading axis of examples, got {sizes}"
        )
    check_finite(data)
    return System(
        energy_fn=None,
        batch_fn=_PerExample(positional(per_example, 3)),
        remainder_fn=None if remainder is None else positional(remainder, 2),
        prior=_bind(prior, like),
        reference=_bind(reference, like),
        data=data,
        shape=None if like is None else Template.of(like),
        symmetry=symmetry,
    )


def reduced(sys: System, theta: PyTree, point: Point) -> Array:
    """Reduced energy u = beta U - log m, a scalar in nats.

    Args:
        sys: the system.
        theta: one set of parameters.
        point: beta and control.
    """
    energy = sys.energy(theta, point.control)
    return jnp.asarray(point.beta) * energy - sys.log_base(theta, point.control)


@dataclasses.dataclass(frozen=True)
class _CoupledEnergy:
    """(1 - lam) U0 + lam U1; the two systems travel as data."""

    def __call__(self, theta, control, data):
        lam, inner = split_coupling(control)
        sys0, sys1 = data
        return (1 - lam) * sys0.energy(theta, inner) + lam * sys1.energy(theta, inner)


def split_coupling(control: PyTree) -> tuple[ArrayLike, PyTree]:
    """`control` of a coupled system is `lam`, or `(lam, control of both systems)`."""
    return control if isinstance(control, tuple) else (control, ())


def coupled(sys0: System, sys1: System) -> System:
    """Geometric path between two systems; `Point.control` is the coupling `lam`.

        U = (1 - lam) U0 + lam U1,    log m = (1 - lam) log m0 + lam log m1

    so that d log Z / d lam = -<u_1 - u_0>. A control of the two systems themselves is
    given as `control=(lam, inner)`. The base mass is known only where both systems share
    one prior; otherwise only ratios of Z are defined along the path.

    Args:
        sys0: the system at lam = 0.
        sys1: the system at lam = 1, over the same theta.

    Raises:
        ValueError: a prior on one of the two only.
    """
    if sys0.prior is sys1.prior:
        prior = sys0.prior
        prior = None if prior is None else CoupledPrior(prior, prior, shared=True)
    elif sys0.prior is None or sys1.prior is None:
        raise ValueError("a coupling needs a prior on both systems or on neither")
    else:
        prior = CoupledPrior(sys0.prior, sys1.prior, shared=False)
    return System(
        energy_fn=_CoupledEnergy(),
        batch_fn=None,
        remainder_fn=None,
        prior=prior,
        reference=sys0.reference,
        data=(sys0, sys1),
    )


def localized(sys: System, anchor: PyTree, gamma: ArrayLike) -> System:
    """The system with a harmonic tether: log m -> log m - gamma/2 |theta - anchor|^2.

    Args:
        sys: any system.
        anchor: centre, shaped like theta.
        gamma: stiffness in nats per unit theta squared, scalar or a pytree like theta.
    """
    return sys.replace(prior=LocalizedPrior(sys.prior, anchor, gamma))
