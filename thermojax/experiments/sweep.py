"""The main experiment: an ensemble of networks over all temperatures, on real data.

Populations of networks are tempered from the prior (beta = 0) to `beta`; their particles
give log Z, F, U, S and C over temperatures, accuracy and predictive log-loss of the
ensemble, and, continued by Langevin dynamics, per-layer temperatures.

    U(theta) = sum over training examples of the cross entropy, or of
               (target - output)^2 / (2 noise^2) for a regression         nats

Source: specification of the core, sections 3.1-3.4; design, section 4.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax import networks
from thermojax.adaptation import adapt, spread_of
from thermojax.datasets import Dataset, load
from thermojax.dynamics.langevin import langevin
from thermojax.ensembles import init_ensemble, run
from thermojax.estimators.estimate import Estimate, explain
from thermojax.estimators.mixture import t_factor
from thermojax.priors import gaussian_prior
from thermojax.routes import log_partition
from thermojax.smc import SMC
from thermojax.system import Point, System
from thermojax.thermodynamics import curve
from thermojax.thermometers import Thermometers, read_thermometers
from thermojax.typing import Array, Key, PyTree

__all__ = ["SweepConfig", "SweepResult", "build_system", "run_sweep"]

_FRACTIONS = (0.003, 0.01, 0.03, 0.1, 0.2, 0.5)
_THERMOMETERS = (0.01, 0.1, 1.0)
_DEFAULT_MODEL = {"digits": "mlp:10", "diabetes": "linear"}
_DEFAULT_EXAMPLES = {"digits": 500}


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Ensembles of networks from the prior to beta, with log Z at every temperature.

    Attributes:
        data: digits, diabetes, breast_cancer, wine, or csv:FILE.
        model: linear, logistic, or mlp:16,8 for hidden layers of 16 and 8 tanh units;
            by default mlp:10 for digits, else linear for a regression and logistic for a
            classification.
        target: target column of a CSV file.
        examples: training examples; 500 for digits, else all that are not held out.
        image_side: pixels per side to which digits are averaged (1, 2, 4 or 8).
        test_fraction: fraction held out; none for a regression, the rest of the digits,
            else a quarter.
        prior_scale: standard deviation of the prior; 0.3 for linear, else 1. Networks
            divide it by the square root of each layer's fan-in.
        noise: standard deviation of regression targets, in units of their own.
        beta: coldest inverse temperature; 1 is the Bayesian posterior.
        temperatures: points of the reported curves.
        particles: networks per population; 512 up to 100 parameters, else 256.
        runs: independent populations; 8 up to 100 parameters, else 4.
        moves: Hamiltonian trajectories between two looks at the mixing.
        n_inner: gradient steps per trajectory; grows with the number of parameters.
        ess_target: effective sample size that each step in temperature keeps.
        max_rungs: most steps in temperature.
        seed: of everything random.
    """

    data: str = "digits"
    model: str | None = None
    target: str | None = None
    examples: int | None = None
    image_side: int | None = None
    test_fraction: float | None = None
    prior_scale: float | None = None
    noise: float = 0.7
    beta: float = 1.0
    temperatures: int = 25
    particles: int | None = None
    runs: int | None = None
    moves: int = 2
    n_inner: int | None = None
    ess_target: float = 0.9
    max_rungs: int = 400
    seed: int = 0

    def __post_init__(self):
        positive = ("beta", "noise", "prior_scale")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be positive and finite")
        least = {"temperatures": 2, "particles": 32, "runs": 2, "moves": 1, "n_inner": 1}
        for name, bound in (least | {"examples": 1, "max_rungs": 10, "seed": 0}).items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name}={value} must be at least {bound}")
        if not 0 < self.ess_target < 1:
            raise ValueError(f"ess_target={self.ess_target} must lie between 0 and 1")
        if self.model is not None:
            hidden_layers(self.model)


class SweepResult(NamedTuple):
    """Everything a sweep found; see the README for the names of the arrays.

    Attributes:
        arrays: name -> numpy array, each value with `<name>_stderr` beside it.
        summary: plain numbers and texts, with the verdict.
        texts: sentences for people.
    """

    arrays: dict[str, np.ndarray]
    summary: dict[str, Any]
    texts: dict[str, str]


def hidden_layers(model: str) -> tuple[int, ...]:
    """Hidden widths of a model name; () for linear and logistic.

    Raises:
        ValueError: not a model name.
    """
    if model in ("linear", "logistic"):
        return ()
    if re.fullmatch(r"mlp:[1-9]\d*(,[1-9]\d*)*", model):
        return tuple(int(width) for width in model[4:].split(","))
    raise ValueError(
        f"model={model!r} is unknown: use linear, logistic, or mlp:16,8 for two hidden layers"
    )


def _model_name(config: SweepConfig, task: str) -> str:
    simple = "linear" if task == "regression" else "logistic"
    name = config.model or _DEFAULT_MODEL.get(config.data, simple)
    if name in ("linear", "logistic") and name != simple:
        raise ValueError(
            f"model={name!r} does not fit a {task}: use {simple} or an mlp, such as mlp:16"
        )
    return name


def build_system(config: SweepConfig, data: Dataset) -> tuple[System, str]:
    """The canonical ensemble of the sweep's model on its training rows, and its name."""
    name = _model_name(config, data.task)
    hidden = hidden_layers(name)
    scale = config.prior_scale or (0.3 if name == "linear" else 1.0)
    module = networks.mlp(hidden, max(data.n_classes, 1), bias=name != "linear")
    loss = (
        networks.softmax_loss
        if data.task == "classification"
        else networks.gaussian_loss(config.noise)
    )
    prior = gaussian_prior(scale, fan_in=bool(hidden))
    arrays = (jnp.asarray(data.inputs), jnp.asarray(data.targets))
    return networks.from_flax(module, loss, arrays, prior=prior), name


def _settings(config: SweepConfig, size: int, waypoints: tuple[float, ...]) -> SMC:
    small = size <= 100
    particles = config.particles or (512 if small else 256)
    inner = config.n_inner

    def kernel(path):
        from thermojax.dynamics.langevin import hmc

        steps = max(2, math.ceil(2 * size**0.25)) if inner is None else inner
        return hmc(path, n_inner=min(steps, 8) if inner is None else steps, step_size=0.2)

    return SMC(
        n=particles,
        n_runs=config.runs or (8 if small else 4),
        target=config.ess_target,
        moves=config.moves,
        max_rungs=config.max_rungs,
        waypoints=waypoints,
        kernel=kernel,
        tile=None if small else math.gcd(particles, 8),
    )


def run_sweep(
    config: SweepConfig,
    *,
    progress: Callable[[float, str], None] | None = None,
    checkpoint: Path | None = None,
) -> SweepResult:
    """Run the sweep.

    Args:
        config: settings.
        progress: called with the fraction done and a note.
        checkpoint: folder where the populations are kept every few rungs; if it holds
            some of the same sweep already, they go on from there, bit for bit.

    Raises:
        ValueError, FileNotFoundError: unusable data or settings, before any work.
    """
    say = progress or (lambda fraction, note: None)
    began = time.monotonic()
    examples = config.examples or _DEFAULT_EXAMPLES.get(config.data)
    data = load(
        config.data,
        target=config.target,
        examples=examples,
        test_fraction=config.test_fraction,
        image_side=config.image_side,
        seed=config.seed,
    )
    sys, name = build_system(config, data)
    size = networks.template_of(sys).size
    point = Point(jnp.asarray(config.beta, jnp.float32))
    smc = _settings(config, size, _FRACTIONS)
    key = jax.random.key(config.seed)
    devices = math.gcd(jax.local_device_count(), smc.n_runs)
    mesh = None
    if devices > 1:
        mesh = jax.make_mesh(
            (devices,),
            ("ensemble",),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.local_devices()[:devices],
        )
    est = log_partition(
        sys,
        point,
        jax.random.fold_in(key, 0),
        method=smc,
        mesh=mesh,
        progress=lambda done, total: say(0.9 * done / total, "tempering"),
        checkpoint=checkpoint,
    )
    est = jax.device_get(est)
    say(0.9, "predictions")
    arrays = _curve_arrays(config, est) | _ladder_arrays(est)
    arrays |= _predictions(config, sys, data, est, smc)
    say(0.93, "thermometers")
    arrays |= _thermometers(config, sys, est, jax.random.fold_in(key, 1))
    say(1.0, "done")
    summary = _summary(config, data, name, sys, est, smc, time.monotonic() - began)
    return SweepResult(arrays, summary, {})


def _curve_arrays(config: SweepConfig, est: Estimate) -> dict[str, np.ndarray]:
    betas = np.concatenate(
        [[0.0], config.beta * np.geomspace(1e-3, 1.0, config.temperatures - 1)]
    )
    table = curve(est, betas)
    arrays = {"beta": betas, "flags": np.asarray(table.log_z.flags, np.uint32)}
    for name in table._fields[1:]:
        each = getattr(table, name)
        arrays[name] = np.asarray(each.value, float)
        arrays[f"{name}_stderr"] = np.asarray(each.stderr, float)
    return arrays


def _ladder_arrays(est: Estimate) -> dict[str, np.ndarray]:
    parts = est.parts
    trace, rungs = parts.trace, np.asarray(parts.rungs)
    last = int(rungs.max()) + 1
    unused = np.arange(last)[None, :] > rungs[:, None]
    blank = lambda x: np.where(unused, np.nan, np.asarray(x, float)[:, :last])
    return {
        "runs_log_z": np.asarray(parts.runs_log_z, float),
        "ladder_beta": blank(trace.lam) * float(parts.point.beta),
        "ladder_acceptance": blank(trace.acceptance),
        "ladder_log_z": blank(trace.log_z),
    }


def _particles(est: Estimate, n: int) -> list[PyTree]:
    """Positions [R, n, ...] at every waypoint and at the end."""
    parts = est.parts
    count = jax.tree.leaves(parts.kept)[0].shape[1]
    stops = [jax.tree.map(lambda x, w=w: x[:, w], parts.kept) for w in range(count)]
    ends = jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]), parts.samples)
    return [*stops, ends]


def _predictions(
    config: SweepConfig, sys: System, data: Dataset, est: Estimate, smc: SMC
) -> dict[str, np.ndarray]:
    """Accuracy (or rmse) and log-loss of the ensemble's averaged prediction."""
    betas = config.beta * np.asarray((*_FRACTIONS, 1.0))
    classes = data.task == "classification"
    names = ("accuracy", "log_loss") if classes else ("rmse", "log_loss")
    score = _class_scores if classes else _regression_scores
    out: dict[str, np.ndarray] = {"predict_beta": betas}
    sets = {"train": (data.inputs, data.targets)}
    if len(data.test_targets):
        sets["test"] = (data.test_inputs, data.test_targets)
    stops = _particles(est, smc.n)
    for split, (inputs, targets) in sets.items():
        x, y = jnp.asarray(inputs), jnp.asarray(targets)
        # [stops, R, 2]
        scores = np.array(
            [_score_runs(score, sys, stop, x, y, config.noise) for stop in stops], float
        )
        runs = scores.shape[1]
        error = t_factor(runs) * scores.std(axis=1, ddof=1) / math.sqrt(runs)
        for i, name in enumerate(names):
            out[f"{split}_{name}"] = scores[..., i].mean(axis=1)
            out[f"{split}_{name}_stderr"] = error[..., i]
    return out


@functools.partial(jax.jit, static_argnames="score")
def _score_runs(score: Callable, sys: System, stop: PyTree, x: Array, y: Array, noise: float):
    """[R, 2] scores of every population at one temperature."""
    return jax.lax.map(lambda thetas: score(sys, thetas, x, y, noise), stop)


def _averaged(sys: System, thetas: PyTree, x: Array, fn: Callable) -> Array:
    """Mean over particles of fn(output), one particle at a time."""

    def add(total, theta):
        return total + fn(networks.outputs(sys, theta, x)), None

    first = jax.tree.map(lambda t: t[0], thetas)
    shape = jax.eval_shape(lambda t: fn(networks.outputs(sys, t, x)), first)
    total, _ = jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), thetas)
    return total / jax.tree.leaves(thetas)[0].shape[0]


def _class_scores(sys: System, thetas: PyTree, x: Array, y: Array, noise: float) -> Array:
    mean = _averaged(sys, thetas, x, lambda out: jax.nn.softmax(out, axis=-1))
    correct = jnp.mean(jnp.argmax(mean, axis=-1) == y)
    loss = -jnp.mean(jnp.log(jnp.take_along_axis(mean, y[:, None], axis=1)))
    return jnp.stack([correct, loss])


def _regression_scores(sys: System, thetas: PyTree, x: Array, y: Array, noise: float) -> Array:
    def both(out):
        out = out[:, 0]
        log_density = -0.5 * ((y - out) / noise) ** 2 - jnp.log(noise * jnp.sqrt(2 * jnp.pi))
        return jnp.stack([out, jnp.exp(log_density)])

    mean, density = _averaged(sys, thetas, x, both)
    tiny = jnp.finfo(density.dtype).tiny
    loss = -jnp.mean(jnp.log(jnp.maximum(density, tiny)))
    return jnp.stack([jnp.sqrt(jnp.mean((mean - y) ** 2)), loss])


def _thermometers(
    config: SweepConfig, sys: System, est: Estimate, key: Key, walkers: int = 32
) -> dict[str, np.ndarray]:
    """Langevin runs (BAOAB) from the particles at a few temperatures, per layer."""
    template = networks.template_of(sys)
    example = template.unflatten(jnp.zeros(template.size))
    groups = networks.layers(example)
    n = jax.tree.leaves(est.parts.samples)[0].shape[0] // len(est.parts.rungs)
    stops = dict(zip((*_FRACTIONS, 1.0), _particles(est, n), strict=True))
    rows: list[Thermometers] = []
    for i, fraction in enumerate(_THERMOMETERS):
        point = Point(jnp.asarray(config.beta * fraction, jnp.float32))
        mine = jax.random.fold_in(key, i)
        rows.append(_thermometer(sys, stops[fraction], point, mine, groups, walkers))
    out = {"thermo_beta": config.beta * np.asarray(_THERMOMETERS)}
    for name in ("kinetic", "configurational", "virial"):
        reads = [jax.device_get(getattr(row, name)) for row in rows]
        for field, suffix in (("value", ""), ("stderr", "_stderr"), ("flags", "_flags")):
            both = np.array([getattr(read, field) for read in reads])
            out[f"whole_{name}{suffix}"], out[f"layer_{name}{suffix}"] = both[:, 0], both[:, 1:]
    return out


def _thermometer(sys, particles, point, key, groups, walkers):
    """Equilibrate `walkers` spread over all populations, then measure along their paths."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), particles)
    count = jax.tree.leaves(flat)[0].shape[0]
    chosen = jnp.linspace(0, count - 1, walkers).astype(int)
    start = jax.tree.map(lambda x: jnp.asarray(x)[chosen], flat)
    scale = spread_of(jax.tree.map(jnp.asarray, flat))
    # the tested word finds its step without leaving equilibrium; the bare word is measured
    tested = langevin(sys, "BAOAB", True, step_size=0.1, scale=scale)
    bare = langevin(sys, "BAOAB", scale=scale)
    st = init_ensemble(tested, key, point, walkers, math.gcd(walkers, 8), positions=start)
    keys = [jax.random.fold_in(key, i) for i in (1, 2, 3)]
    st, found = adapt(tested, keys[0], st, point, 120, rounds=12, target=0.99, scale=False)
    st, _ = run(bare, keys[1], st, point, 100, params=found.params, ledger="none")
    _, out = run(
        bare,
        keys[1],
        st,
        point,
        200,
        params=found.params,
        every=20,
        trace=_phase,
        ledger="none",
    )
    trace = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), out["trace"])
    return read_thermometers(
        sys, trace["position"], point, keys[2], momenta=trace["momentum"], groups=groups
    )


def _phase(sample: Any) -> dict[str, PyTree]:
    return {"position": sample.position, "momentum": sample.momentum}


def _summary(config, data, name, sys, est, smc, seconds) -> dict[str, Any]:
    template = networks.template_of(sys)
    layers = list(networks.layers(template.unflatten(jnp.zeros(template.size))))
    value = float(est.value)
    normaliser = 0.5 * len(data.targets) * math.log(2 * math.pi * config.noise**2)
    evidence = data.task == "regression" and config.beta == 1.0
    return {
        "data": config.data,
        "model": name,
        "task": data.task,
        "n_train": len(data.targets),
        "n_test": len(data.test_targets),
        "n_parameters": template.size,
        "layers": layers,
        "n_classes": data.n_classes,
        "beta": config.beta,
        "log_z": {
            "value": value,
            "stderr": float(est.stderr),
            "within_stderr": float(est.within_stderr),
            "n_eff": float(est.n_eff),
            "trusted": bool(est.flags == 0),
            "reasons": explain(est.flags),
        },
        "readouts": {k: float(v) for k, v in est.parts.readouts.items()},
        "log_evidence": (
            {"value": value - normaliser, "stderr": float(est.stderr)} if evidence else None
        ),
        "particles": smc.n,
        "runs": smc.n_runs,
        "rungs": [int(r) for r in est.parts.rungs],
        "n_gradients": int(np.sum(est.parts.n_gradients)),
        "seconds": seconds,
    }
