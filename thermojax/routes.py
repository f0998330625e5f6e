"""One call for every route to log Z, and three of them side by side.

    log Z(beta, control) = log int m(theta; control) exp(-beta U(theta; control)) d theta

| method | starts from | answers for | choose it |
|---|---|---|---|
| `SMC` (default) | prior or reference | every mode the path reaches | nearly always |
| `AIS` | prior or reference | the same | for exact work distributions |
| `TI` | prior or reference | the same | for smooth curves <U>(beta) |
| `ReplicaExchange` | prior | the same | where every beta mixes slowly |
| `Bridge` | a Gaussian fitted to a warm-up | one basin, checked | near-Gaussian posteriors |
| `EinsteinCrystal` | a Gaussian at a mode | one basin | for one minimum of many |
| `Laplace` | a mode | one basin | at large beta |
| `FlatHistogram` | uniform in energy | all energies at once | first-order changes, spins |

No two read-outs of the same particles confirm each other: `method="all"`, or a list of
methods, runs routes that share no samples and says how well they agree.

Source: specification of the core, sections 3.2-3.5 (derived here).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.anneal import AIS, anneal_log_z
from thermojax.bridge import Bridge, bridge_log_z
from thermojax.checkpoints import Store, within
from thermojax.crystal import EinsteinCrystal, crystal_log_z
from thermojax.estimators.estimate import Estimate, Flag, raise_flags
from thermojax.exchange import ReplicaExchange, exchange_log_z
from thermojax.flat_histogram import FlatHistogram, flat_log_z
from thermojax.integration import TI, integrate_log_z
from thermojax.laplace import Laplace, laplace_log_z
from thermojax.partition import check_beta, check_target, smc_log_z
from thermojax.smc import SMC
from thermojax.symmetry import with_scope
from thermojax.system import Point, System
from thermojax.typing import Array, Key, PyTree, is_concrete

__all__ = ["METHODS", "Routes", "log_partition"]

METHODS: dict[str, tuple[type, Callable[..., Estimate]]] = {
    "smc": (SMC, smc_log_z),
    "ais": (AIS, anneal_log_z),
    "ti": (TI, integrate_log_z),
    "replica_exchange": (ReplicaExchange, exchange_log_z),
    "bridge": (Bridge, bridge_log_z),
    "einstein_crystal": (EinsteinCrystal, crystal_log_z),
    "laplace": (Laplace, laplace_log_z),
    "flat_histogram": (FlatHistogram, flat_log_z),
}
_INDEPENDENT = ("smc", "ti", "replica_exchange")
_LOCAL = Laplace | EinsteinCrystal
_SHARED_OUT = SMC | AIS | TI | Bridge | EinsteinCrystal
_ROUNDING = 1e-5
"""Nats below which no difference between routes counts."""


class Routes(NamedTuple):
    """Parts of several routes run side by side; see `PartitionParts` for the names shared.

    Samples, weights, runs and log mass are those of the first route in the combined value.
    `tj.curve` reads one route, such as `est.parts.estimates["smc"]`.

    Attributes:
        estimates: each route's own, by the name of its method.
        z_scores: their differences in standard errors, by "first - second".
        used: whether the route is in the combined value, by name.
        point: the target.
        samples: theta [R * n, ...] at the target.
        log_weights: [R * n] log weights of the samples.
        runs_log_z: [R] log Z of each run.
        log_mass: log mass of the measure where the path starts.
        n_gradients: gradients of U spent by all routes.
    """

    estimates: dict[str, Estimate]
    z_scores: dict[str, Array]
    used: dict[str, Array]
    point: Point
    samples: PyTree
    log_weights: Array
    runs_log_z: Array
    log_mass: Array
    n_gradients: Array


def log_partition(
    sys: System,
    point: Point,
    key: Key,
    *,
    method: Any = "smc",
    scope: str | None = None,
    reference: Any = None,
    check: bool = True,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | Callable[[int, int], None] = False,
    checkpoint: Store | None = None,
) -> Estimate:
    """log Z = log int m(theta) exp(-beta U(theta; control)) d theta, in nats.

    Args:
        sys: the system. Its base measure must be normalisable, or a reference given.
        point: where; beta and control may be traced.
        key: typed key.
        method: settings, as `tj.SMC(n=2048)`, or a name for their defaults: "smc", "ais",
            "ti", "replica_exchange", "bridge", "einstein_crystal", "laplace",
            "flat_histogram". Or several of different kinds in a list, outside jit only:
            their weighted mean, with their mutual agreement in `parts` as `Routes`;
            "all" is ["smc", "ti", "replica_exchange"].
        scope: "total" (all images of a symmetry) or "mode" (one of them), turned by the
            system's `symmetry`; by default what the method answers for, "mode" for
            Laplace and the Einstein crystal and "total" for all others. Methods in a list
            are never mixed: "total" where the system states a symmetry.
        reference: normalised measure with a sampler from which the path starts
            (`tj.gaussian_prior(3.0, like=theta)`), when the prior is absent or far away;
            make it wider than the target: no flag knows what a narrow one never saw.
        check: test along rays that Z converges (outside jit only; Lebesgue measure only).
        mesh: mesh with an "ensemble" axis over which independent runs are shared out; in
            a list, those of the routes that can.
        progress: show a bar over the path, or call `progress(done, total)`; silent under
            jit.
        checkpoint: folder (or `load`/`save` object) where the state is kept every few
            turns and from where it goes on, bit for bit, if it was kept before; ignored
            under jit. Methods in a list have a folder each in it.

    Returns:
        `Estimate`: value, stderr from independent runs widened to Student's t, flags;
        `parts` carries samples and weights for `tj.differentiable_log_z`, and for `tj.curve`
        where the route keeps a ladder. Derivatives come from there, not from the sampler.
        Several routes: mean of those that are trusted, its error widened by their spread;
        RUNS_DISAGREE where two of them are more than 4 errors apart; where fewer than two
        are trusted, the flags of all.

    Raises:
        ImproperEnsembleError: no normalisable base measure and no reference, or Z
            diverges along a ray; the leaf is named.
        ValueError: beta < 0, unknown method, an option the method cannot use, a scope for
            which the system states no symmetry.

    Example:
        >>> from thermojax import gaussian_prior, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = log_partition(
        ...     sys, Point(1.0), jax.random.key(0), method=SMC(n=64, n_runs=4)
        ... )
        >>> bool(abs(est.value + 0.5 * jnp.log(2.0)) < 0.1)
        True
    """
    options = {
        "reference": reference,
        "mesh": mesh,
        "progress": progress,
        "checkpoint": checkpoint,
    }
    concrete = is_concrete((sys, point, key))
    if isinstance(method, str) and method == "all":
        method = _INDEPENDENT
    if isinstance(method, list | tuple):
        if not concrete:
            raise ValueError("several methods are compared by value: call it outside jit")
        if not isinstance(checkpoint, str | FilePath | None):
            raise ValueError(
                f"several methods cannot share checkpoint={checkpoint!r}: give the path of a "
                "folder, in which each has its own"
            )
        chosen = _several(method)
        check_target(sys, point, key, reference, check)
        if scope is None and sys.symmetry is not None:
            scope = "total"
        return _side_by_side(chosen, sys, point, key, scope, options)
    _, settings, route = _find(method)
    # a local route needs no normalisable start: it brings its own
    if isinstance(settings, _LOCAL):
        check_beta(point)
    else:
        check_target(sys, point, key, reference, check and concrete)
    return _scoped(settings, route(settings, sys, point, key, **options), sys, scope)


def _find(method: Any) -> tuple[str, Any, Callable[..., Estimate]]:
    for name, (kind, route) in METHODS.items():
        if isinstance(method, kind):
            return name, method, route
        if isinstance(method, str) and method == name:
            return name, kind(), route
    raise ValueError(
        f"method={method!r} is unknown: use one of {', '.join(METHODS)}, all, settings such "
        "as tj.SMC(...), or a list of these"
    )


def _several(methods: Sequence[Any]) -> dict[str, tuple[Any, Callable[..., Estimate]]]:
    chosen = {name: (settings, route) for name, settings, route in map(_find, methods)}
    if len(chosen) < len(methods) or len(chosen) < 2:
        raise ValueError(
            f"method={list(methods)} needs at least two methods, each of another kind: the "
            "runs inside one method are compared already"
        )
    return chosen


def _scoped(settings: Any, est: Estimate, sys: System, scope: str | None) -> Estimate:
    natural = "mode" if isinstance(settings, _LOCAL) else "total"
    return with_scope(est, sys, scope or natural, natural=natural)


def _side_by_side(
    chosen: dict[str, tuple[Any, Callable[..., Estimate]]],
    sys: System,
    point: Point,
    key: Key,
    scope: str | None,
    options: dict[str, Any],
) -> Estimate:
    """All routes, each from a key of its own, and the mean of those that are trusted."""
    found = {}
    for index, (name, (settings, route)) in enumerate(chosen.items()):
        mine = dict(options)
        if not isinstance(settings, _SHARED_OUT):
            mine["mesh"] = None
        if isinstance(settings, Laplace):
            mine["checkpoint"] = None
        else:
            mine["checkpoint"] = within(options["checkpoint"], name)
        est = route(settings, sys, point, jax.random.fold_in(key, index), **mine)
        found[name] = _scoped(settings, est, sys, scope)
    return _combine(found, point)


def _combine(found: dict[str, Estimate], point: Point) -> Estimate:
    """One estimate of several; a route that refused to answer has no say in the value."""
    value = {name: float(est.value) for name, est in found.items()}
    error = {name: max(float(est.stderr), _ROUNDING) for name, est in found.items()}
    trusted = [name for name, est in found.items() if est.trusted]
    finite = [n for n in found if np.isfinite(value[n]) and np.isfinite(error[n])]
    used = trusted if len(trusted) > 1 else finite
    z_scores = {
        f"{a} - {b}": (value[a] - value[b]) / np.hypot(error[a], error[b])
        for a, b in itertools.combinations(found, 2)
    }
    apart = [abs(z_scores[f"{a} - {b}"]) for a, b in itertools.combinations(used, 2)]
    flags = raise_flags((Flag.RUNS_DISAGREE, max(apart, default=0.0) > 4))
    if len(trusted) < 2:
        flags = functools.reduce(jnp.bitwise_or, (est.flags for est in found.values()), flags)
    mean, stderr, within = _weighted([value[n] for n in used], [error[n] for n in used])
    like = lambda x: jnp.asarray(x, next(iter(found.values())).value.dtype)
    first: Any = found[(used or list(found))[0]].parts
    parts = Routes(
        estimates=found,
        z_scores={pair: like(z) for pair, z in z_scores.items()},
        used={name: jnp.asarray(name in used) for name in found},
        point=jax.tree.map(jnp.asarray, point),
        samples=first.samples,
        log_weights=first.log_weights,
        runs_log_z=first.runs_log_z,
        log_mass=first.log_mass,
        n_gradients=sum(est.parts.n_gradients for est in found.values()),
    )
    n_eff = sum((found[name].n_eff for name in used), like(0.0))
    return Estimate(like(mean), like(stderr), like(within), n_eff, flags, parts)


def _weighted(values: list[float], errors: list[float]) -> tuple[float, float, float]:
    """Inverse-variance mean, its error widened by the spread, and its error as stated."""
    if not values:
        return math.nan, math.inf, math.inf
    x, weight = np.asarray(values), np.asarray(errors) ** -2.0
    mean = float(weight @ x / np.sum(weight))
    within = float(np.sum(weight) ** -0.5)
    spread = float(weight @ (x - mean) ** 2) / max(len(values) - 1, 1)
    return mean, within * max(1.0, spread) ** 0.5, within
