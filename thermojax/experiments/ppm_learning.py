"""Learning digits: the ledger of quasi-static learning, heat capacity, fluctuation theorem.

    A  dumped heat = -Delta S(X) + gain of L-info + conditional entropy production
    C  (naive - finite) / naive entropy of the reservoir, C = d / 2
    D  ln P(s) / P~(-s) = s and <exp(-s)> = 1 for s = beta (W - Delta F) of sampled labels

Softmax networks p(y | u, theta) of one initialisation, each on training images of its own;
labels are sampled afresh at every step, at fixed held-out images. Training is deterministic
given the batches, so that the L-info is I(X; Theta | U).

Source: specification of the theory, section 8; experiments A, C and D.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.ppm_works import (
    fluctuation,
    most_dragged,
    reservoir_deviation,
    work_dissipated,
)
from thermojax.theories.ppm.merit import learning_efficiency
from thermojax.theories.ppm.models import SoftmaxClassifier, softmax_classifier
from thermojax.theories.ppm.sampled import EnsembleLedger, categorical_ledger
from thermojax.theories.ppm.training import Hyperparameters, Trained, learner, train
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["Digits", "LearningConfig", "learn_digits", "run_learning"]

_POINTS = 100
"""Points in training time at which curves are kept."""


@dataclasses.dataclass(frozen=True)
class LearningConfig:
    """Settings of experiments A, C and D.

    Attributes:
        networks: networks of the ensemble, one data set each.
        images: training images of each network.
        inputs: held-out images at which labels are sampled.
        hidden: tanh units.
        training_time: learning rate times steps.
        rates: learning rates, full batch, slowest last; 100 steps must divide the steps.
        turbulent: index into `rates` of runs too fast to be quasi-static, counted from 0 to
            here; they are shown and kept out of the fit.
        batch: images per step of the minibatch runs, at the quasi-static rates.
        widths: hidden units of the reservoirs of experiment C.
        work_inputs: images of experiment D.
        work_draws: label paths per image, forward and backward.
    """

    networks: int = 48
    images: int = 64
    inputs: int = 100
    hidden: int = 16
    training_time: float = 80.0
    rates: tuple[float, ...] = (0.8, 0.4, 0.2, 0.1)
    turbulent: int = 1
    batch: int = 8
    widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    work_inputs: int = 20
    work_draws: int = 4000

    def __post_init__(self):
        if self.networks < 2 or not 0 < self.batch <= self.images:
            raise ValueError(
                f"networks={self.networks} must be at least 2 and batch={self.batch} between "
                f"1 and images={self.images}"
            )
        if not 0 < self.work_inputs <= self.inputs or self.work_draws < 2:
            raise ValueError(
                f"work_inputs={self.work_inputs} must lie between 1 and "
                f"inputs={self.inputs}, and work_draws={self.work_draws} be at least 2"
            )
        for rate in self.rates:
            steps = self.training_time / rate
            if abs(steps - round(steps)) > 1e-6 or round(steps) % _POINTS:
                raise ValueError(
                    f"training_time / rate = {steps:g} must be a multiple of {_POINTS} steps"
                )

    @property
    def slow(self) -> tuple[float, ...]:
        """Learning rates of the quasi-static runs."""
        return self.rates[self.turbulent :]

    def steps(self, rate: float) -> int:
        """Steps of the run at a learning rate."""
        return round(self.training_time / rate)


class Digits(NamedTuple):
    """One draw: training sets of all networks, and the held-out images."""

    data: tuple[Array, Array]
    inputs: Array
    labels: Array


def learn_digits(config: LearningConfig, seed: int) -> Digits:
    """Training sets of images / 16, drawn without replacement for each network.

    Raises:
        ValueError: more images than there are.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(raw.target))
    held, pool = order[: config.inputs], order[config.inputs :]
    if config.images > len(pool):
        raise ValueError(
            f"images={config.images} exceeds the {len(pool)} digits that are not held out"
        )
    rows = np.stack([rng.permutation(pool)[: config.images] for _ in range(config.networks)])
    images = (raw.data / 16).astype(np.float32)
    data = (jnp.asarray(images[rows]), jnp.asarray(raw.target[rows]))
    return Digits(data, jnp.asarray(images[held]), jnp.asarray(raw.target[held]))


# Experiment A


@functools.lru_cache(maxsize=8)
def _model(hidden: int) -> SoftmaxClassifier:
    return softmax_classifier((hidden,), 64, 10)


@functools.partial(jax.jit, static_argnames=("hidden", "batch", "n_steps"))
def _chunk(
    hidden: int,
    batch: int | None,
    n_steps: int,
    rate: ArrayLike,
    data: PyTree,
    params: PyTree,
    inputs: Array,
    key: Key,
) -> Trained:
    """`n_steps` of training, with the label probabilities of every step as trace."""
    model = _model(hidden)
    return train(
        learner(model.log_prob, Hyperparameters(rate), batch_size=batch),
        data,
        params,
        key,
        n_steps,
        every=1,
        trace=lambda theta: model.log_probs(theta, inputs),
    )


@jax.jit
def _ledger(log_p: Array) -> EnsembleLedger:
    """The ledger of [N+1, E, 1, U, K], the axis of the seeds dropped."""
    return categorical_ledger(log_p[:, :, 0])


class Run(NamedTuple):
    """One ensemble: its ledger step by step (numpy, float64), and what else is kept.

    Attributes:
        ledger: `EnsembleLedger` of arrays over the whole run.
        paths: [N+1, E, U, K] log-probabilities at the images of experiment D.
        accuracy: of the networks at the end, on the held-out images.
        flags: union of the training flags.
    """

    ledger: EnsembleLedger
    paths: np.ndarray
    accuracy: float
    flags: int


def train_run(
    config: LearningConfig, digits: Digits, rate: float, batch: int | None, key: Key
) -> Run:
    """Train one ensemble, in chunks of one compiled program, and book every step."""
    first, later = jax.random.split(key)
    theta = _model(config.hidden).init(first)
    shape = (config.networks, 1)
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *x.shape)), theta)
    ledgers, paths, flags = [], [], 0
    last = None
    for i in range(config.steps(rate) // _POINTS):
        out = _chunk(
            *(config.hidden, batch, _POINTS, rate, digits.data, params, digits.inputs),
            jax.random.fold_in(later, i),
        )
        params, last = out.params, out.trace[-1]
        ledgers.append(jax.device_get(_ledger(out.trace)))
        kept = out.trace[1 if i else 0 :, :, 0, : config.work_inputs]
        paths.append(np.asarray(kept))
        flags |= int(np.bitwise_or.reduce(np.asarray(out.flags).ravel()))
    assert last is not None
    right = jnp.mean(jnp.argmax(last[:, 0], -1) == digits.labels)
    return Run(_chain(ledgers), np.concatenate(paths), float(right), flags)


_STATES = ("entropy_x", "entropy_x_given_theta", "info_lower", "info_upper", "saturated")


def _chain(parts: list[Any]) -> Any:
    """One ledger from consecutive ones; their common states are kept once."""

    def join(name):
        each = [np.asarray(getattr(part, name)) for part in parts]
        if name in _STATES:
            each = [each[0], *(x[1:] for x in each[1:])]
        whole = np.concatenate(each)
        return whole if whole.dtype == bool else whole.astype(float)

    names = [n for n in EnsembleLedger._fields if n not in ("standard_error", "flags")]
    flags = np.bitwise_or.reduce([np.uint32(part.flags) for part in parts])
    # errors of every step, over networks: of the states at the end all that is used
    errors = {name: np.asarray(x)[..., -1] for name, x in parts[-1].standard_error.items()}
    return parts[0]._replace(
        **{name: join(name) for name in names}, standard_error=errors, flags=flags
    )


def curves(run: Run) -> dict[str, np.ndarray]:
    """Cumulative ledger at `_POINTS` + 1 times, and its residual at the worst step."""
    led = run.ledger
    cumulate = lambda x: np.concatenate([[0.0], np.cumsum(x)])
    heat, conditional = -cumulate(led.heat_x), cumulate(led.ep_conditional)
    drop = led.entropy_x[0] - led.entropy_x
    lower, upper = (x - x[0] for x in (led.info_lower, led.info_upper))
    residual = heat - (drop + lower + conditional)
    every = len(led.heat_x) // _POINTS
    thin = lambda x: x[::every]
    efficiency = learning_efficiency(lower[-1], lower[-1] + conditional[-1])
    return {
        "heat": thin(heat),
        "entropy_drop": thin(drop),
        "info_lower": thin(lower),
        "info_upper": thin(upper),
        "ep_conditional": thin(conditional),
        "efficiency": np.asarray(efficiency),
        "closure": np.max(np.abs(residual)),
        "accuracy": np.asarray(run.accuracy),
        "info_stderr": np.asarray(led.standard_error["info"]),
        "saturated": np.asarray(led.saturated[-1]),
        "flags": np.asarray(run.flags, np.uint32),
    }


# All three experiments


def run_learning(config: LearningConfig, seed: int, say) -> dict[str, np.ndarray]:
    """One draw of experiments A, C and D: name -> array.

    Args:
        config: settings.
        seed: of the draw.
        say: called with the fraction done and a note.

    Returns:
        `a_*` [R full-batch and S minibatch runs, ...], `c_*` [widths], `d_*` [R, ...].
    """
    digits = learn_digits(config, seed)
    key, chosen = jax.random.key(seed), None
    first = jax.random.fold_in(key, 0)  # one initialisation for all runs of a draw
    jobs = [(r, None) for r in config.rates] + [(r, config.batch) for r in config.slow]
    ledgers, works, heat = [], [], None
    for i, (rate, batch) in enumerate(jobs):
        say(i / len(jobs), f"learning rate {rate:g}, batch {batch or 'full'}")
        run = train_run(config, digits, rate, batch, first)
        ledgers.append(curves(run))
        if batch is None:
            # the network that the fastest run drags most: rare paths matter there first
            chosen = most_dragged(run.paths) if chosen is None else chosen
            path = jnp.asarray(run.paths[:, chosen])
            keys = jax.random.split(jax.random.fold_in(key, 1 + i))
            pair = [
                work_dissipated(k, p, config.work_draws)
                for k, p in zip(keys, (path, path[::-1]), strict=True)
            ]
            works.append(fluctuation(*pair))
            heat = np.asarray(run.ledger.heat_x)
    assert heat is not None  # of the slowest run
    size, deviation = reservoir_deviation(heat, config.widths)
    stack = lambda rows, mark: {
        f"{mark}_{name}": np.stack([row[name] for row in rows]) for name in rows[0]
    }
    return {
        **stack(ledgers, "a"),
        **stack(works, "d"),
        "c_size": size,
        "c_deviation": deviation,
    }
