"""Thermodynamics of parametric probabilistic models on real data: experiments A to D.

    A  quasi-static learning and its ledger          digits, 64-16-10 networks
    B  memory against relevance                      digits 3 and 8, Langevin training
    C  heat capacity of the parameters               the heat of A
    D  fluctuation theorems along training           sampled labels of A

each on several draws of the data, over which the error bars are taken; and the central
identity on every kind of model. The theory is that of Parsi 2024 (arXiv 2310.19802), whose
figures could not be seen: these are the curves that its claims imply.

Source: specification of the theory, section 8.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from thermojax.experiments.pieces import Pieces
from thermojax.experiments.ppm_claims import claims
from thermojax.experiments.ppm_identities import identities
from thermojax.experiments.ppm_learning import LearningConfig, run_learning
from thermojax.experiments.ppm_memory import MemoryConfig, run_memory
from thermojax.experiments.reproduction import (
    Page,
    Result,
    Theory,
    check_draws,
    identity,
    record,
)
from thermojax.pictures_ppm import CAPTIONS, save_figures

__all__ = [
    "THEORY",
    "PPMConfig",
    "measure",
    "run",
]


@dataclasses.dataclass(frozen=True)
class PPMConfig:
    """Experiments on the thermodynamics of parametric probabilistic models.

    Attributes:
        draws: independent draws of the data and of the networks; error bars are over them.
        seed: of the first draw.
        learning: settings of experiments A, C and D.
        memory: settings of experiment B.
    """

    draws: int = 3
    seed: int = 0
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    memory: MemoryConfig = dataclasses.field(default_factory=MemoryConfig)

    def __post_init__(self):
        check_draws(self.draws, self.seed)


def run(
    config: PPMConfig,
    *,
    progress: Callable[[float, str], None] | None = None,
    keep: Pieces | None = None,
) -> Result:
    """Run all experiments.

    Args:
        config: settings.
        progress: called with the fraction done and a note.
        keep: where pieces of the run are kept, and found again.

    Returns:
        A `Result`; `THEORY.summary` has the verdicts.
    """
    say = progress or (lambda fraction, note: None)
    keep = keep or Pieces()
    began = time.monotonic()
    arrays = measure(config, progress=say, keep=keep)
    say(0.95, "identities")
    table = [*_network_identities(arrays), *identities(config.seed)]
    say(1.0, "done")
    facts = {
        "experiment": "ppm",
        "data": "digits",
        "draws": config.draws,
        "identities": table,
        "seconds": time.monotonic() - began + keep.saved,
    }
    return Result(arrays, facts, {"reading": _READING})


def measure(
    config: PPMConfig,
    *,
    progress: Callable[[float, str], None] | None = None,
    keep: Pieces | None = None,
) -> dict[str, np.ndarray]:
    """Experiments A to D without the table of identities: what `claims` judges.

    Args:
        config: settings.
        progress: see `run`.
        keep: see `run`.

    Returns:
        `arrays` of a `Result`.
    """
    say = progress or (lambda fraction, note: None)
    keep = keep or Pieces()
    draws = [_draw(config, i, keep, say) for i in range(config.draws)]
    arrays = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    return arrays | _axes(config) | {"c_size": draws[0]["c_size"]}


def _draw(config: PPMConfig, index: int, keep: Pieces, say: Callable) -> dict[str, np.ndarray]:
    """Everything that is drawn, once."""
    seed, part = config.seed + index, functools.partial(_within, say, config.draws, index)
    half = [functools.partial(part, i) for i in range(2)]
    learned = keep(f"learning-{seed}", lambda: run_learning(config.learning, seed, half[0]))
    return learned | keep(f"memory-{seed}", lambda: run_memory(config.memory, seed, half[1]))


def _within(say, draws: int, draw: int, half: int, fraction: float, note: str) -> None:
    """Progress of one half of a draw in terms of the whole."""
    say(0.95 * (draw + 0.5 * (half + fraction)) / draws, f"draw {draw + 1}: {note}")


def _axes(config: PPMConfig) -> dict[str, np.ndarray]:
    """What the axes of the arrays mean."""
    learning, memory = config.learning, config.memory
    rates, slow = learning.rates, learning.slow
    quasi = np.arange(len(rates)) >= learning.turbulent
    return {
        "a_rate": np.array([*rates, *slow]),
        "a_batch": np.array([0] * len(rates) + [learning.batch] * len(slow)),
        "a_slow": np.concatenate([quasi, np.ones(len(slow), bool)]),
        "a_time": np.linspace(0, learning.training_time, 101),
        "b_temperature": np.array(memory.temperatures),
        "b_time": memory.rate * memory.n_steps * np.linspace(0, 1, 11),
        "b_joint_k": np.array(memory.joint),
        "b_groups": np.array(memory.groups),
        "d_rate": np.array(rates),
        "d_slow": quasi,
    }


def _network_identities(arrays: dict[str, np.ndarray]) -> list[dict]:
    """The identity on the networks of experiment A, full batch and minibatches."""
    full = arrays["a_batch"] == 0
    return [
        identity(
            f"softmax networks, {name}: interval EP",
            (arrays["a_closure"] / np.maximum(1, np.abs(arrays["a_heat"][..., -1])))[:, mask],
            1.0,
            1e-5,
        )
        for name, mask in (("full batch", full), ("minibatches", ~full))
        if mask.any()
    ]


def _numbers(arrays: dict[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    """One record per run of experiments A, B and D."""

    def records(names: dict[str, np.ndarray], row: int) -> dict[str, Any]:
        return {name: record(values[:, row]) for name, values in names.items()}

    last = lambda name: arrays[name][..., -1]
    learned = {
        "heat": last("a_heat"),
        "entropy_drop": last("a_entropy_drop"),
        "l_info_lower": last("a_info_lower"),
        "l_info_upper": last("a_info_upper"),
        "ep_conditional": last("a_ep_conditional"),
        "learning_efficiency": arrays["a_efficiency"],
        "accuracy": arrays["a_accuracy"],
    }
    kept = {
        "m_info": last("b_m_info"),
        "l_info_lower": arrays["b_l_info"][..., 0],
        "l_info_upper": arrays["b_l_info"][..., 1],
        "relevance": arrays["b_relevance"],
    }
    works = {name: arrays[f"d_{name}"] for name in ("mean", "mean_exp", "ess", "slope")}
    return {
        "learning": [
            {"rate": float(r), "batch": int(b) or "full", **records(learned, i)}
            for i, (r, b) in enumerate(zip(arrays["a_rate"], arrays["a_batch"], strict=True))
        ],
        "memory": [
            {"temperature": float(t), **records(kept, i)}
            for i, t in enumerate(arrays["b_temperature"])
        ],
        "fluctuation": [
            {"rate": float(r), **records(works, i)} for i, r in enumerate(arrays["d_rate"])
        ],
    }


_READING = (
    "M-info is I(Theta; B) and L-info I(X; B), which is our reading of the paper: its body "
    "could not be seen. With deterministic training and a fixed start L-info equals the "
    "information I(X; Theta) that thermodynamics sees. Labels are sampled afresh at every "
    "step at fixed held-out images, whose average is taken."
)

THEORY = Theory(
    settings=PPMConfig,
    run=run,
    claims=claims,
    numbers=_numbers,
    page=Page(
        command="ppm",
        title="What learning costs",
        lead="Stochastic thermodynamics of learning parametric probabilistic models, after "
        "Parsi 2024, on handwritten digits",
        captions=CAPTIONS,
        draw=save_figures,
    ),
)
"""The experiments of the theory, its claims and its page."""
