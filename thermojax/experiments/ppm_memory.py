"""Memory against relevance: what noise erases first (experiment B).

Logistic models of digits 3 against 8, trained by Langevin dynamics at several temperatures
on G data sets x K seeds. M-info is what the parameters know of their data set, L-info what
one label at a held-out image tells about it, L^(k) what labels at k images tell jointly:

    L <= L^(k) <= min(M, log G) in expectation,   r = L / M

M-info as I(Theta; B) and L-info as I(X; B) are [paper?]; relevance is our definition.

Source: specification of the theory, section 8; experiment B.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.priors import Template
from thermojax.theories.ppm.ensembles import (
    gaussian_memorized_information,
    grouped_information,
)
from thermojax.theories.ppm.merit import relevance
from thermojax.theories.ppm.models import Network, SoftmaxClassifier, binary_states
from thermojax.theories.ppm.training import Hyperparameters, Trained, learner, train
from thermojax.typing import Array, ArrayLike, Key

__all__ = ["MemoryConfig", "memory_digits", "run_memory"]

_TIMES = 10
"""States kept besides the first."""


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Settings of experiment B.

    Attributes:
        groups: data sets G.
        seeds: seeds K per data set.
        examples: images per data set.
        features: whitened principal components; a constant is added.
        rate: learning rate.
        n_steps: a multiple of ten.
        decay: weight decay on all weights.
        spread: standard deviation of the initial weights.
        temperatures: of the injected noise, rising.
        inputs: held-out images for L-info.
        joint: numbers k of labels for L^(k); at most 10.
        joint_sets: sets of images over which L^(k) is averaged.
    """

    groups: int = 128
    seeds: int = 48
    examples: int = 32
    features: int = 5
    rate: float = 0.2
    n_steps: int = 300
    decay: float = 0.05
    spread: float = 0.3
    temperatures: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    inputs: int = 60
    joint: tuple[int, ...] = (1, 2, 4, 8)
    joint_sets: int = 4

    def __post_init__(self):
        if self.groups < 2 or self.seeds < 2:
            raise ValueError(
                f"groups={self.groups} and seeds={self.seeds} must both be at least 2"
            )
        if self.n_steps < _TIMES or self.n_steps % _TIMES:
            raise ValueError(f"n_steps={self.n_steps} must be a positive multiple of {_TIMES}")
        if not 1 <= max(self.joint) <= min(10, self.inputs):
            raise ValueError(
                f"joint={self.joint} labels at once: use at most 10, and {self.inputs} inputs"
            )


class Features(NamedTuple):
    """One draw: [G, n] data sets, and held-out inputs."""

    data: tuple[Array, Array]
    inputs: Array


def memory_digits(config: MemoryConfig, seed: int) -> Features:
    """Digits 3 and 8 as whitened principal components and a constant."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    keep = np.isin(raw.target, (3, 8))
    images, labels = raw.data[keep] / 16, (raw.target[keep] == 8).astype(np.int32)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    held, pool = order[: config.inputs], order[config.inputs :]
    if config.examples > len(pool):
        raise ValueError(
            f"examples={config.examples} exceeds the {len(pool)} images that are not held out"
        )
    centred = images - images[pool].mean(0)
    _, scales, axes = np.linalg.svd(centred[pool], full_matrices=False)
    scores = centred @ axes[: config.features].T
    scores /= scales[: config.features] / np.sqrt(len(pool))
    features = np.column_stack([scores, np.ones(len(scores))]).astype(np.float32)
    rows = np.stack([rng.permutation(pool)[: config.examples] for _ in range(config.groups)])
    data = (jnp.asarray(features[rows]), jnp.asarray(labels[rows]))
    return Features(data, jnp.asarray(features[held]))


def _logits(weights: Array, inputs: Array) -> Array:
    score = inputs @ weights
    return jnp.stack([jnp.zeros_like(score), score], axis=-1)


@functools.lru_cache(maxsize=8)
def _model(size: int) -> SoftmaxClassifier:
    """Logistic regression with one weight per feature: a plain function as a model."""
    return SoftmaxClassifier(Network(_logits, Template.of(np.zeros(size, np.float32))))


@functools.partial(jax.jit, static_argnames="config")
def _train(config: MemoryConfig, temperature: ArrayLike, data, key: Key) -> Trained:
    size = config.features + 1
    start, later = jax.random.split(key)
    weights = config.spread * jax.random.normal(start, (config.groups, config.seeds, size))
    hyper = Hyperparameters(config.rate, temperature, config.decay)
    return train(
        learner(_model(size).log_prob, hyper),
        data,
        weights,
        later,
        config.n_steps,
        every=config.n_steps // _TIMES,
    )


@functools.partial(jax.jit, static_argnames="k")
def _joint_log_p(weights: Array, inputs: Array, k: int) -> Array:
    """[G, K, sets, 2^k] log-probabilities of all label strings at inputs [sets, k, D]."""
    score = jnp.einsum("gkd,sid->gksi", weights, inputs)
    states = jnp.asarray(binary_states(k))
    on, off = jax.nn.log_sigmoid(score), jax.nn.log_sigmoid(-score)
    return jnp.sum(off, -1, keepdims=True) + (on - off) @ states.T


def _bracket(bounds) -> np.ndarray:
    """[3] lower, upper, standard error."""
    return np.array([bounds.lower, bounds.upper, bounds.standard_error], float)


def run_memory(config: MemoryConfig, seed: int, say) -> dict[str, np.ndarray]:
    """One draw of experiment B: name -> array, temperatures along axis 0.

    Args:
        config: settings.
        seed: of the draw.
        say: called with the fraction done and a note.

    Returns:
        `b_m_info` and `b_m_stderr` [T, times], `b_l_info` [T, 3] (lower, upper, standard
        error), `b_l_start` likewise at the start, `b_relevance` [T], `b_joint` [T, k, 3].
    """
    found = memory_digits(config, seed)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    model = _model(config.features + 1)
    table = jax.jit(jax.vmap(jax.vmap(lambda w: model.log_probs(w, found.inputs))))
    sets = {
        k: jnp.stack([found.inputs[rng.permutation(config.inputs)[:k]] for _ in range(count)])
        for k in config.joint
        for count in [config.joint_sets]
    }
    rows = []
    for i, temperature in enumerate(config.temperatures):
        say(i / len(config.temperatures), f"temperature {temperature:g}")
        out = _train(config, temperature, found.data, key)
        memory = [gaussian_memorized_information(x) for x in out.trace]
        start, end = (grouped_information(table(out.trace[j])) for j in (0, -1))
        joint = [
            grouped_information(_joint_log_p(out.params, sets[k], k)) for k in config.joint
        ]
        rows.append(
            {
                "b_m_info": np.array([m.value for m in memory], float),
                "b_m_stderr": np.array([m.stderr for m in memory], float),
                "b_l_info": _bracket(end),
                "b_l_start": _bracket(start),
                "b_relevance": np.asarray(relevance(end.midpoint, memory[-1].value), float),
                "b_joint": np.stack([_bracket(b) for b in joint]),
                "b_flags": np.bitwise_or.reduce(np.asarray(out.flags).ravel()),
            }
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
