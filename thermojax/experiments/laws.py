"""The laws of learning on real data: experiments A to E.

    A  entropy, complexity and two Laplacians through training     digits, 8 networks a draw
    B  does the partition function factorise?                      the networks of A
    C  the first law from checkpoint to checkpoint                 a network of A
    D  entropy of an ensemble under gradient descent               4,096 small networks
    E  learning efficiency against depth                           digits, 8 networks a depth

each on several draws of images and networks, over which the error bars are taken. The theory
is that of Vanchurin 2021 (arXiv 2004.09280), which trains a feedforward network by SGD; its
data and figures could not be confirmed, so this is a mirror and not a copy.

Source: specification of the theory, section 8.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from thermojax.experiments.laws_claims import claims, identities, numbers
from thermojax.experiments.laws_depth import DepthConfig, run_depths
from thermojax.experiments.laws_ensemble import EnsembleConfig, run_ensemble
from thermojax.experiments.laws_thermodynamics import StatesConfig, run_thermodynamics
from thermojax.experiments.pieces import Pieces
from thermojax.experiments.reproduction import Page, Result, Theory, check_draws
from thermojax.pictures_laws import CAPTIONS, save_figures

__all__ = ["THEORY", "LawsConfig", "run"]


@dataclasses.dataclass(frozen=True)
class LawsConfig:
    """Experiments on the laws of learning.

    Attributes:
        draws: independent draws of images and networks; error bars are over them.
        seed: of the first draw.
        states: settings of experiments A to C.
        ensemble: settings of experiment D.
        depth: settings of experiment E.
    """

    draws: int = 3
    seed: int = 0
    states: StatesConfig = dataclasses.field(default_factory=StatesConfig)
    ensemble: EnsembleConfig = dataclasses.field(default_factory=EnsembleConfig)
    depth: DepthConfig = dataclasses.field(default_factory=DepthConfig)

    def __post_init__(self):
        check_draws(self.draws, self.seed)


def run(
    config: LawsConfig,
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
    draws = [_draw(config, i, keep, say) for i in range(config.draws)]
    arrays = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    arrays |= _axes(config)
    facts = {
        "experiment": "laws",
        "data": "digits",
        "draws": config.draws,
        "identities": identities(arrays),
        "seconds": time.monotonic() - began + keep.saved,
    }
    say(1.0, "done")
    return Result(arrays, facts, {"reading": _READING})


def _draw(
    config: LawsConfig, index: int, keep: Pieces, say: Callable[[float, str], None]
) -> dict[str, np.ndarray]:
    """Everything that is drawn, once."""
    seed = config.seed + index

    def part(low: float, high: float) -> Callable[[float, str], None]:
        return lambda fraction, note: say(
            (index + low + (high - low) * fraction) / config.draws,
            f"draw {index + 1}: {note}",
        )

    states, ensemble, depth = config.states, config.ensemble, config.depth
    found = keep(f"states-{seed}", lambda: run_thermodynamics(states, seed, part(0.0, 0.4)))
    found |= keep(f"ensemble-{seed}", lambda: run_ensemble(ensemble, seed, part(0.4, 0.6)))
    return found | keep(f"depth-{seed}", lambda: run_depths(depth, seed, part(0.6, 1.0)))


def _axes(config: LawsConfig) -> dict[str, np.ndarray]:
    """What the axes of the arrays mean."""
    return {
        "a_step": np.array(config.states.checkpoints),
        "a_fixed_beta": np.array(config.states.betas),
        "c_refinement": np.array(config.states.refinements),
        "d_step": np.array(config.ensemble.readings),
        "e_depth": np.array(config.depth.depths),
        "e_fixed_beta": np.array(config.depth.betas),
    }


_READING = (
    "Which entropy obeys the second law, and with which sign complexity enters the first, the "
    "paper's abstract leaves open: both readings are measured, neither is asserted. beta* is "
    "the inverse temperature of the states that fits the loss by maximum likelihood. log Z is "
    "linearised about the forward pass and per example; energies are sums over neurons."
)

THEORY = Theory(
    settings=LawsConfig,
    run=run,
    claims=claims,
    numbers=numbers,
    page=Page(
        command="laws",
        title="Laws of learning",
        lead="Entropy, complexity and efficiency of neural networks, after Vanchurin 2021, on "
        "handwritten digits",
        captions=CAPTIONS,
        draw=save_figures,
    ),
)
"""The experiments of the theory, its claims and its page."""
