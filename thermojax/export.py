"""Results for other people's tools: pymbar, ArviZ, xarray.

Only `to_u_kn` needs nothing; the others import their package when called
(`pip install 'thermojax[export]'`).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from thermojax.estimators.estimate import Estimate
from thermojax.partition import PartitionParts
from thermojax.thermodynamics import Curve
from thermojax.typing import PyTree

__all__ = ["ReducedEnergies", "to_arviz", "to_u_kn", "to_xarray"]


class ReducedEnergies(NamedTuple):
    """Every sample in every state, in pymbar's layout.

    Attributes:
        u_kn: [K, N] reduced energies in nats, float64; columns in the order of the states
            that the samples are from.
        n_k: [K] samples of each state.
    """

    u_kn: np.ndarray
    n_k: np.ndarray


def to_u_kn(est: Estimate, run: int | None = 0) -> ReducedEnergies:
    """Reduced energies of a ladder, u_kn = lam_k V_n, ready for `pymbar.MBAR(u_kn, n_k)`.

    The base density is the same in every row and is left out, as MBAR allows. State 0 is
    where the path starts and the last state the target, so that
    log Z = log mass + f_0 - f_{K-1} in pymbar's sign f = -log Z.

    Args:
        est: result of a route that keeps a ladder, such as `log_partition` by SMC.
        run: which independent run; ladders differ between runs. None puts the ladders of
            all runs one after the other, K and N growing alike.

    Returns:
        `ReducedEnergies`, numpy.

    Raises:
        ValueError: an estimate without a ladder, or a run that does not exist.

    Example:
        >>> from thermojax import SMC, Point, gaussian_prior, log_partition, system
        >>> sys = system(lambda x: 0.5 * x**2, prior=gaussian_prior(1.0), like=0.0)
        >>> est = log_partition(sys, Point(1.0), jax.random.key(0), method=SMC(n=64))
        >>> u_kn, n_k = to_u_kn(est)
        >>> u_kn.shape == (len(n_k), n_k.sum())
        True
    """
    parts = est.parts
    if not isinstance(parts, PartitionParts):
        raise ValueError(
            f"{type(parts).__name__} keeps no ladder: export the result of "
            'tj.log_partition(..., method="smc")'
        )
    rungs = np.asarray(parts.rungs)
    if run is not None and not -len(rungs) <= run < len(rungs):
        raise ValueError(f"run={run} does not exist: the estimate has {len(rungs)} runs")
    lam, value = np.asarray(parts.trace.lam, float), np.asarray(parts.trace.value, float)
    chosen = range(len(rungs)) if run is None else [run]
    lams = np.concatenate([lam[r, : rungs[r] + 1] for r in chosen])
    values = np.concatenate([value[r, : rungs[r] + 1] for r in chosen])
    v = np.where(np.isnan(values), np.inf, values).ravel()
    with np.errstate(invalid="ignore"):
        u_kn = np.where(lams[:, None] == 0, 0.0, lams[:, None] * v)
    return ReducedEnergies(u_kn, np.full(len(lams), value.shape[2]))


def _package(name: str) -> Any:
    """An optional package, or a sentence that says how to get it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # announcements of coming versions
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is not installed: pip install 'thermojax[export]'"
        ) from error


def _named(tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves by readable names; "theta" for a lone array."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".") or "theta"
    return {name(path): np.asarray(leaf) for path, leaf in flat}


def to_arviz(result: Any) -> Any:
    """ArviZ `InferenceData`: chains are walkers, or independent runs.

    Args:
        result: the dict that `tj.run(..., every=k)` returns (chains are walkers, draws the
            states kept, its default trace), or an `Estimate` with samples (chains are
            independent runs, draws their particles).

    Returns:
        `InferenceData`: group `posterior` with a variable per leaf of theta,
        `sample_stats` with the potential `energy` U and acceptance of a trace, or with the
        normalised `log_weight` of weighted particles. ArviZ ignores weights: where they
        vary, resample first.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: a run without a trace, an estimate without samples.
    """
    arviz = _package("arviz")
    posterior, stats = _chains(result)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chains may outnumber draws
        return arviz.from_dict(posterior=posterior, sample_stats=stats)


def _chains(result: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Posterior and statistics with leading axes [chain, draw]."""
    if isinstance(result, Mapping):
        trace = result.get("trace")
        if not isinstance(trace, Mapping) or {"position", "energy"} - set(trace):
            raise ValueError(
                "the run kept no states: pass every=k to tj.run, with its default trace"
            )
        swap = lambda tree: jax.tree.map(lambda x: np.swapaxes(np.asarray(x), 0, 1), tree)
        stats = {"energy": swap(trace["energy"])}
        if "acceptance" in result:
            draws = stats["energy"].shape[1]
            rate = np.asarray(result["acceptance"])
            stats["acceptance_rate"] = np.repeat(rate[:, None], draws, axis=1)
        return _named(swap(trace["position"])), stats
    parts: Any = getattr(result, "parts", ())
    if not hasattr(parts, "samples") or not hasattr(parts, "runs_log_z"):
        raise ValueError(
            f"{type(result).__name__} holds no samples: give the dict of tj.run or the "
            "Estimate of tj.log_partition"
        )
    runs = np.shape(parts.runs_log_z)[0]
    split = lambda x: np.asarray(x).reshape(runs, -1, *np.shape(x)[1:])
    posterior = _named(jax.tree.map(split, parts.samples))
    return posterior, {"log_weight": split(parts.log_weights)}


def to_xarray(result: Curve | Estimate | Mapping[str, Estimate], **coords: Any) -> Any:
    """xarray `Dataset` of values, `_stderr`, `_n_eff` and `_flags`.

    Args:
        result: a `Curve` (dimension "beta"), an `Estimate`, or several by name, all of one
            shape.
        coords: one entry for each axis of the values, in their order: name=labels.

    Returns:
        `Dataset`; attribute `trusted` says whether no flag is raised anywhere.

    Raises:
        ImportError: xarray is not installed.
        ValueError: coordinates that do not match the axes.
    """
    xarray = _package("xarray")
    if isinstance(result, Curve):
        coords = {"beta": np.asarray(result.beta), **coords}
        result = {name: getattr(result, name) for name in Curve._fields[1:]}
    elif isinstance(result, Estimate):
        result = {"value": result}
    dims, sizes = tuple(coords), tuple(len(labels) for labels in coords.values())
    variables, trusted = {}, True
    for name, est in result.items():
        shape = np.shape(est.value)
        if shape != sizes:
            raise ValueError(
                f"{name} has shape {shape} and the coordinates {dims} have {sizes}: give "
                "one keyword per axis, name=labels"
            )
        fields = {"": est.value, "_stderr": est.stderr, "_n_eff": est.n_eff}
        for ending, field in {**fields, "_flags": est.flags}.items():
            full = np.broadcast_to(np.asarray(field), shape)
            variables[f"{name}{ending}"] = (dims, full)
        trusted &= not np.any(np.asarray(est.flags))
    return xarray.Dataset(variables, coords, {"trusted": int(trusted)})
