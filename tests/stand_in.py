"""A stand-in for the sweep: exact thermodynamics of a harmonic problem, plus noise."""

from __future__ import annotations

import numpy as np

from thermojax.estimators.estimate import Flag, explain
from thermojax.experiments.sweep import SweepResult


def _curve(beta, rng):
    """Independent harmonic modes under a unit Gaussian prior."""
    stiffness = np.geomspace(0.02, 4e3, 130)[:, None]
    heat = beta * stiffness / (1 + beta * stiffness)
    with np.errstate(all="ignore"):
        log_z = -12.0 * beta - 0.5 * np.log1p(beta * stiffness).sum(0)
        energy = 12.0 + 0.5 * (stiffness / (1 + beta * stiffness)).sum(0)
        exact = {
            "log_z": log_z,
            "free_energy": -log_z / beta,
            "internal_energy": energy,
            "entropy": beta * energy + log_z,
            "heat_capacity": 0.5 * (heat**2).sum(0),
        }
        errors = {
            "log_z": 0.02 + 0.004 * np.abs(log_z),
            "free_energy": (0.02 + 0.004 * np.abs(log_z)) / beta,
            "internal_energy": 0.012 * energy,
            "entropy": 0.05 + 0.006 * np.abs(exact["entropy"]),
            "heat_capacity": 0.03 * exact["heat_capacity"] + 0.05,
        }
        noise = {k: rng.normal(size=len(beta)) * 0.6 for k in exact}
        values = {k: exact[k] + errors[k] * noise[k] for k in exact}
    return values | {f"{k}_stderr": errors[k] for k in errors}


def _learning(beta, task, test, rng):
    progress = np.tanh(0.6 * np.log1p(60 * beta))
    out = {"predict_beta": beta}
    parts = ("train", "test") if test else ("train",)
    for part in parts:
        gap = 0.05 * progress if part == "test" else 0.0
        log_loss = 2.303 - 2.1 * progress + 2 * gap
        score = (
            0.1 + 0.86 * progress - gap
            if task == "classification"
            else 1 - 0.3 * progress + gap
        )
        name = "accuracy" if task == "classification" else "rmse"
        for key, values, error in ((name, score, 0.008), ("log_loss", log_loss, 0.03)):
            out[f"{part}_{key}"] = values + 0.4 * error * rng.normal(size=len(beta))
            out[f"{part}_{key}_stderr"] = np.full(len(beta), error)
    return out


def _thermometers(beta, layers, rng):
    out = {"thermo_beta": beta}
    for name in ("kinetic", "configurational", "virial"):
        error = 0.02 / beta[:, None] * np.ones(len(layers))
        out[f"layer_{name}"] = 1 / beta[:, None] + 0.7 * error * rng.normal(size=error.shape)
        out[f"layer_{name}_stderr"] = error
        out[f"whole_{name}"] = out[f"layer_{name}"].mean(axis=1)
        out[f"whole_{name}_stderr"] = error[:, 0] / np.sqrt(len(layers))
    return out


def _ladder(runs, log_z, rng):
    rungs = [24 + r for r in range(runs)]
    shape = (runs, max(rungs))
    ladder, acceptance, running = (np.full(shape, np.nan) for _ in range(3))
    for r, k in enumerate(rungs):
        grid = np.concatenate([[0.0], np.geomspace(2e-4, 1, k - 1)])
        ladder[r, :k] = grid
        acceptance[r, :k] = 0.8 + 0.05 * rng.normal(size=k)
        running[r, :k] = _curve(grid, np.random.default_rng(1))["log_z"]
        running[r, :k] *= (log_z + 0.3 * rng.normal()) / running[r, k - 1]
    return {
        "runs_log_z": running[np.arange(runs), np.array(rungs) - 1],
        "ladder_beta": ladder,
        "ladder_acceptance": acceptance,
        "ladder_log_z": running,
    }


def result(
    task="classification", trusted=True, test=True, layers=("hidden_1", "hidden_2", "output")
):
    """A result as `run_sweep` would return it."""
    rng = np.random.default_rng(0)
    beta = np.concatenate([[0.0], np.geomspace(1e-3, 1, 15)])
    arrays = {"beta": beta, **_curve(beta, rng)}
    arrays["flags"] = np.zeros(len(beta), np.uint32)
    if not trusted:
        arrays["flags"][-3:] = Flag.LOW_ESS | Flag.RUNS_DISAGREE
    some = np.geomspace(1e-3, 1, 8)
    arrays |= _learning(some, task, test, rng) | _thermometers(some, layers, rng)
    log_z = float(arrays["log_z"][-1])
    arrays |= _ladder(4, log_z, rng)
    regression = task == "regression"
    summary = {
        "data": "diabetes" if regression else "digits",
        "model": "linear" if regression else "mlp:16,8",
        "task": task,
        "n_train": 442 if regression else 300,
        "n_test": 1497 if test else 0,
        "n_parameters": 442,
        "layers": list(layers),
        "n_classes": 0 if regression else 10,
        "log_z": {
            "value": log_z,
            "stderr": float(arrays["log_z_stderr"][-1]),
            "within_stderr": 0.9 * float(arrays["log_z_stderr"][-1]),
            "n_eff": 212.4,
            "trusted": trusted,
            "reasons": explain(arrays["flags"][-1]),
        },
        "readouts": {"bar": log_z + 0.11, "ti": log_z - 0.2, "smc": log_z},
        "log_evidence": {"value": log_z - 100.0, "stderr": 0.84} if regression else None,
        "n_gradients": 1_480_000,
        "seconds": 143.2,
    }
    return SweepResult(arrays, summary, {})


def runner(**options):
    """A function that can stand for `run_sweep`; options as for `result`."""

    def run_sweep(config, *, progress=None, checkpoint=None):
        for step in range(5):
            if progress is not None:
                progress(step / 4, f"rung {step}")
        return result(**options)

    return run_sweep


def save_figures(result, folder):
    """Stands for `plotting.save_figures` where the pictures do not matter: it is slow."""
    paths = {n: folder / f"{n}.png" for n in ("thermodynamics", "prediction", "ladder")}
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths.values():
        path.write_bytes(b"\x89PNG")
    return paths
