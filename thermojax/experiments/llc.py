"""The local learning coefficient of a trained network, with the signs by which it fails.

A network is trained to a minimum of the loss, summed over the examples, by Adam and a
descent that never goes uphill; chains around it give lambda_hat; the same is repeated with
other step sizes, tethers and temperatures.

Source: specification of the core, 3.7; design, section 4.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax import networks
from thermojax.basin import descend
from thermojax.checkpoints import in_chunks, within
from thermojax.datasets import Dataset, load
from thermojax.dynamics.kernel import Kernel
from thermojax.dynamics.langevin import hmc
from thermojax.estimators.estimate import Estimate, explain
from thermojax.experiments.sweep import SweepConfig, build_system, hidden_layers
from thermojax.llc import default_beta, llc
from thermojax.llc_sensitivity import Sensitivity, llc_sensitivity
from thermojax.system import System
from thermojax.typing import Array, PyTree

__all__ = ["LlcConfig", "LlcResult", "run_llc", "train"]

_SIDE = {"digits": 4}
_EXAMPLES = {"digits": 1000}
_CHUNK = 250


@dataclasses.dataclass(frozen=True)
class LlcConfig:
    """Local learning coefficient of a network at a minimum of its loss.

    Attributes:
        data: digits, diabetes, breast_cancer, wine, or csv:FILE.
        model: linear, logistic, or mlp:16,8 for hidden layers of 16 and 8 tanh units;
            by default mlp:10 for digits, else linear for a regression and logistic for a
            classification.
        target: target column of a CSV file.
        examples: training examples; 1000 for digits, else all that are not held out.
        image_side: pixels per side to which digits are averaged (1, 2, 4 or 8); 4.
        test_fraction: fraction held out; none for a regression, else a quarter or the rest.
        noise: standard deviation of regression targets, in units of their own.
        weight_decay: of the loss of one example, 1/2 weight_decay |theta|^2; a separable
            classification has no minimum without it.
        train_steps: steps of Adam on all examples.
        learning_rate: of Adam at the start; it falls to zero.
        polish: descent steps after it.
        beta: inverse temperature on the summed loss; 1/log(examples) by default.
        gamma: stiffness of the tether to the minimum, nats per unit parameter squared.
        chains: independent chains.
        steps: trajectories per chain after warm-up.
        burn_in: trajectories of warm-up.
        n_inner: gradient steps per trajectory.
        sensitivity: repeat with a third and three times the step size, gamma and beta.
        seed: of everything random.
    """

    data: str = "digits"
    model: str | None = None
    target: str | None = None
    examples: int | None = None
    image_side: int | None = None
    test_fraction: float | None = None
    noise: float = 0.7
    weight_decay: float = 1e-4
    train_steps: int = 3000
    learning_rate: float = 0.02
    polish: int = 1000
    beta: float | None = None
    gamma: float = 1.0
    chains: int = 8
    steps: int = 800
    burn_in: int = 500
    n_inner: int = 4
    sensitivity: bool = True
    seed: int = 0

    def __post_init__(self):
        for name in ("beta", "noise", "gamma", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be positive and finite")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"weight_decay={self.weight_decay} must be >= 0 and finite")
        least = {"chains": 2, "steps": 64, "burn_in": 50, "n_inner": 1, "examples": 2}
        for name, bound in (least | {"train_steps": 0, "polish": 0, "seed": 0}).items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name}={value} must be at least {bound}")
        if self.model is not None:
            hidden_layers(self.model)


class LlcResult(NamedTuple):
    """Everything that the experiment found, as `write_result` stores it.

    Attributes:
        arrays: name -> numpy array.
        summary: plain numbers and texts, with the verdict.
        texts: sentences for people.
    """

    arrays: dict[str, np.ndarray]
    summary: dict[str, Any]
    texts: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Decay:
    """1/2 weight_decay N |theta|^2."""

    strength: float

    def __call__(self, theta, control):
        squares = [jnp.sum(x**2) for x in jax.tree.leaves(theta)]
        return 0.5 * self.strength * sum(squares[1:], squares[0])


def train(
    sys: System,
    theta: PyTree,
    steps: int,
    learning_rate: float,
    polish: int,
    *,
    progress: Callable[[int, int], None] | bool = False,
    checkpoint: Path | None = None,
) -> tuple[PyTree, np.ndarray]:
    """A minimum of U: Adam with a falling rate on all examples, then descent.

    Args:
        sys: the system.
        theta: start.
        steps: of Adam.
        learning_rate: at the start, for the loss averaged over the examples.
        polish: steps of descent after it.
        progress: show a bar, or call `progress(chunks_done, chunks)`.
        checkpoint: folder where network and optimiser are kept.

    Returns:
        The minimum, and U at every 250th step [k].
    """
    import optax

    n = jnp.shape(jax.tree.leaves(sys.data)[0])[0]
    chunks = math.ceil(steps / _CHUNK)
    rate = optax.cosine_decay_schedule(learning_rate, max(chunks * _CHUNK, 1))
    adam = optax.adam(rate)
    seen = np.zeros(chunks + 1)
    seen[0] = float(sys.energy(theta))

    @jax.jit
    def chunk(sys, theta, state):
        def step(carry, _):
            theta, state = carry
            slope = jax.grad(lambda t: sys.energy(t) / n)(theta)
            change, state = adam.update(slope, state, theta)
            return (optax.apply_updates(theta, change), state), None

        (theta, state), _ = jax.lax.scan(step, (theta, state), None, length=_CHUNK)
        return theta, state, sys.energy(theta)

    def advance(state: tuple, until: int) -> tuple:
        turn, theta, moments, seen = state
        for i in range(turn, until):
            theta, moments, energy = chunk(sys, theta, moments)
            seen[i + 1] = float(energy)
        return until, theta, moments, seen

    _, theta, _, seen = in_chunks(
        advance,
        (0, theta, adam.init(theta), seen),
        lambda state: state[0],
        chunks,
        chunk=1,
        unit="training",
        progress=progress,
        checkpoint=checkpoint,
    )
    low = descend(sys, theta, (), jnp.asarray(1e-2 / n), jnp.asarray(polish))
    return low.theta, np.append(seen, seen[-1] - float(low.drop))


def run_llc(
    config: LlcConfig,
    *,
    progress: Callable[[float, str], None] | None = None,
    checkpoint: Path | None = None,
) -> LlcResult:
    """Train, then measure.

    Args:
        config: settings.
        progress: called with the fraction done and a note.
        checkpoint: folder where training, chains and further runs are kept; if it holds
            some of the same experiment already, it goes on from there, bit for bit.

    Raises:
        ValueError, FileNotFoundError: unusable data or settings, before any work.
    """
    say = progress or (lambda fraction, note: None)
    began = time.monotonic()
    data = _data(config)
    sys, name = _system(config, data)
    default_beta(len(data.targets), config.beta)
    keys = jax.random.split(jax.random.key(config.seed), 3)
    share = 0.35 if config.sensitivity else 0.8
    start = sys.sample_base(keys[0])
    anchor, losses = train(
        sys,
        start,
        config.train_steps,
        config.learning_rate,
        config.polish,
        progress=lambda done, total: say(0.1 * done / max(total, 1), "training"),
        checkpoint=within(checkpoint, "training"),
    )
    settings: dict[str, Any] = {
        "kernel": functools.partial(_kernel, n_inner=config.n_inner),
        "n_chains": config.chains,
        "n_steps": config.steps,
        "burn_in": config.burn_in,
    }
    est = llc(
        sys,
        anchor,
        keys[1],
        beta=config.beta,
        gamma=config.gamma,
        progress=lambda done, total: say(0.1 + share * done / total, "chains"),
        checkpoint=within(checkpoint, "chains"),
        **settings,
    )
    found = None
    if config.sensitivity:
        say(0.1 + share, "other settings")
        rest = 0.9 - share
        found = llc_sensitivity(
            sys,
            anchor,
            keys[2],
            est,
            progress=lambda done, total: say(0.1 + share + rest * done / total, "settings"),
            checkpoint=within(checkpoint, "settings"),
            **settings,
        )
    say(1.0, "done")
    arrays = _arrays(est, losses, found)
    summary = _summary(config, data, name, sys, anchor, est, time.monotonic() - began)
    return LlcResult(arrays, summary, _texts(est))


def _kernel(sys: System, *, n_inner: int) -> Kernel:
    return hmc(sys, n_inner=n_inner, jitter=0.9)


def _data(config: LlcConfig) -> Dataset:
    return load(
        config.data,
        target=config.target,
        examples=config.examples or _EXAMPLES.get(config.data),
        test_fraction=config.test_fraction,
        image_side=config.image_side or _SIDE.get(config.data),
        seed=config.seed,
    )


def _system(config: LlcConfig, data: Dataset) -> tuple[System, str]:
    like = SweepConfig(data=config.data, model=config.model, noise=config.noise)
    sys, name = build_system(like, data)
    if config.weight_decay:
        sys = sys.replace(remainder_fn=_Decay(config.weight_decay * len(data.targets)))
    return sys, name


def _arrays(
    est: Estimate, losses: np.ndarray, found: Sensitivity | None
) -> dict[str, np.ndarray]:
    parts = jax.device_get(est.parts)
    names = ("chains", "trace", "distance", "acceptance", "below", "spectrum")
    arrays = {f"llc_{name}": np.asarray(getattr(parts, name), float) for name in names}
    arrays |= {"llc": np.asarray(est.value, float), "llc_stderr": np.asarray(est.stderr, float)}
    arrays |= {"train_energy": losses, "llc_gamma": np.asarray(parts.gamma, float)}
    if found is not None:
        arrays["llc_factor"] = found.factor
        for name, value in found.value.items():
            arrays[f"llc_by_{name}"] = value
            arrays[f"llc_by_{name}_stderr"] = found.stderr[name]
            arrays[f"llc_by_{name}_flags"] = found.flags[name]
    return arrays


def _summary(
    config: LlcConfig,
    data: Dataset,
    name: str,
    sys: System,
    anchor: PyTree,
    est: Estimate,
    seconds: float,
) -> dict[str, Any]:
    parts = est.parts
    number = lambda x: float(np.asarray(x))
    return {
        "data": config.data,
        "model": name,
        "task": data.task,
        "n_train": len(data.targets),
        "n_test": len(data.test_targets),
        "n_parameters": networks.template_of(sys).size,
        "n_classes": data.n_classes,
        "beta": number(parts.beta),
        "gamma": number(parts.gamma),
        "llc": {
            "value": number(est.value),
            "stderr": number(est.stderr),
            "within_stderr": number(est.within_stderr),
            "n_eff": number(est.n_eff),
            "trusted": bool(est.flags == 0),
            "reasons": explain(est.flags),
        },
        "loss": number(parts.anchor_energy) / len(data.targets),
        "scores": _scores(sys, anchor, data),
        "base_point": number(parts.base_point),
        "tether_bias": number(parts.tether_bias),
        "step_bias": number(parts.step_bias),
        "quadratic": number(parts.quadratic),
        "rank": parts.rank,
        "acceptance": number(jnp.nanmean(parts.acceptance)),
        "drift": number(parts.drift),
        "drift_distance": number(parts.drift_distance),
        "chains": config.chains,
        "n_gradients": parts.n_gradients,
        "seconds": seconds,
    }


def _scores(sys: System, anchor: PyTree, data: Dataset) -> dict[str, float]:
    """Fraction correct, or root mean squared error, on both parts of the data."""
    sets = {"train": (data.inputs, data.targets), "test": (data.test_inputs, data.test_targets)}
    out = {}
    for part, (inputs, targets) in sets.items():
        if len(targets):
            found = networks.outputs(sys, anchor, jnp.asarray(inputs))
            out[part] = _score(found, jnp.asarray(targets), data.task)
    return out


def _score(found: Array, targets: Array, task: str) -> float:
    if task == "classification":
        return float(jnp.mean(jnp.argmax(found, axis=-1) == targets))
    return float(jnp.sqrt(jnp.mean((found[:, 0] - targets) ** 2)))


def _texts(est: Estimate) -> dict[str, str]:
    notes = est.parts.notes
    return {"What is left open": ". ".join(notes) + "."} if notes else {}
