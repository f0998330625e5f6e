"""The temperature of learning systems on real data: experiments A to D.

    A  temperature against the scale of the data      diabetes, linear models
    B  heat and temperature of every layer            digits, networks of several depths
    C  activations as heat engines                    digits, 3 x 256 networks
    D  an ensemble that has a temperature             diabetes, MALA

each on several draws of data and networks, over which the error bars are taken. The
definitions are ours, following the programme of Zhang (2024, arXiv 2404.13218), of which
only the abstract was seen.

Source: specification of the theory, section 9.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from thermojax.experiments.pieces import Pieces
from thermojax.experiments.reproduction import Page, Result, Theory, check_draws, record
from thermojax.experiments.temperature_claims import (
    claims,
    layer_identities,
    layer_temperatures,
)
from thermojax.experiments.temperature_engines import (
    EnginesConfig,
    engine_curves,
    run_engines,
)
from thermojax.experiments.temperature_gibbs import GibbsConfig, run_gibbs
from thermojax.experiments.temperature_layers import LayersConfig, run_layers
from thermojax.experiments.temperature_linear import (
    LOSSES,
    LinearConfig,
    linear_identities,
    run_linear,
    run_linear_draw,
)
from thermojax.pictures_temperature import CAPTIONS, save_figures

__all__ = [
    "THEORY",
    "TemperatureConfig",
    "run",
]


@dataclasses.dataclass(frozen=True)
class TemperatureConfig:
    """Experiments on the temperature of learning systems.

    Attributes:
        draws: independent draws of data and networks; error bars are over them.
        seed: of the first draw.
        linear: settings of experiment A.
        layers: settings of experiment B.
        engines: settings of experiment C.
        gibbs: settings of experiment D.
    """

    draws: int = 3
    seed: int = 0
    linear: LinearConfig = dataclasses.field(default_factory=LinearConfig)
    layers: LayersConfig = dataclasses.field(default_factory=LayersConfig)
    engines: EnginesConfig = dataclasses.field(default_factory=EnginesConfig)
    gibbs: GibbsConfig = dataclasses.field(default_factory=GibbsConfig)

    def __post_init__(self):
        check_draws(self.draws, self.seed)


def run(
    config: TemperatureConfig,
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
    say(0.0, "linear models")
    fixed = keep("linear", lambda: run_linear(config.linear))
    part = functools.partial
    draws = [_draw(config, i, keep, part(_within, say, i)) for i in range(config.draws)]
    arrays = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    say(0.95, "engine classes and identities")
    arrays |= fixed | engine_curves(config.engines) | _axes(config)
    facts = {
        "experiment": "temperature",
        "data": "diabetes and digits",
        "draws": config.draws,
        "identities": [*linear_identities(arrays), *layer_identities(arrays)],
        "seconds": time.monotonic() - began + keep.saved,
    }
    say(1.0, "done")
    return Result(arrays, facts, {"reading": _READING})


def _draw(
    config: TemperatureConfig, index: int, keep: Pieces, say: Callable[[int, float, str], None]
) -> dict[str, np.ndarray]:
    """Everything that is drawn, once."""
    seed, count = config.seed + index, config.draws
    part = functools.partial(say, count)
    inner = lambda at, note: part(0.1 + 0.6 * at, note)
    key = jax.random.key(seed)
    part(0.0, "linear ensembles")
    found = keep(f"linear-{seed}", lambda: run_linear_draw(config.linear, key))
    found |= keep(f"layers-{seed}", lambda: run_layers(config.layers, seed, inner))
    part(0.75, "heat engines")
    found |= keep(f"engines-{seed}", lambda: run_engines(config.engines, seed))
    part(0.9, "canonical ensemble")
    return found | keep(f"gibbs-{seed}", lambda: run_gibbs(config.gibbs, seed))


def _within(say: Callable, draw: int, draws: int, fraction: float, note: str) -> None:
    """Progress of one draw in terms of the whole; the first one has to compile."""
    first = 0.75 if draws > 1 else 0.85
    low = 0.1 if draw == 0 else 0.1 + first + (0.85 - first) * (draw - 1) / (draws - 1)
    length = first if draw == 0 else (0.85 - first) / (draws - 1)
    say(low + length * fraction, f"draw {draw + 1}: {note}")


def _axes(config: TemperatureConfig) -> dict[str, np.ndarray]:
    """What the axes of the arrays mean."""
    layers, most = config.layers, max(config.layers.depths) + 1
    sizes = np.zeros((len(layers.networks), most))
    for i, (_, depth) in enumerate(layers.networks):
        units = np.array(layers.sizes(depth))
        sizes[i, : depth + 1] = units[:-1] * units[1:]
    return {
        "b_activation": np.array([name for name, _ in layers.networks]),
        "b_depth": np.array([depth for _, depth in layers.networks]),
        "b_sizes": sizes,
        "b_step": np.arange(0, layers.steps + 1, layers.window),
        "b_long_step": np.linspace(0, layers.long_steps, 9),
        "d_temperature": np.array(config.gibbs.temperature),
    }


def _numbers(arrays: dict[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    """One record per scale, layer, activation and block of experiments A to D."""
    each, whole = layer_temperatures(arrays)
    heat, made = arrays["b_heat"].sum(2), arrays["b_made"].sum(2)
    layers = [
        {
            "network": f"{name} {depth}",
            "layer": k + 1,
            "heat": record(heat[:, i, k]),
            "entropy": record(made[:, i, k]),
            "temperature": record(each[:, i, k]),
            "whole": record(whole[:, i]),
            "flow_before": record(arrays["b_start_flow"][:, i, k]),
            "flow_after": record(arrays["b_flow"][:, i, -1, k]),
        }
        for i, (name, depth) in enumerate(
            zip(arrays["b_activation"].tolist(), arrays["b_depth"].tolist(), strict=True)
        )
        for k in range(depth + 1)
    ]
    names, classes = arrays["c_activation"].tolist(), arrays["c_class"].tolist()
    measured = arrays["c_measured"][..., 0].mean(2)
    engines = []
    for i, name in enumerate(names[:-1]):
        row: dict[str, Any] = {"activation": name, "class": classes[i]}
        for k in range(measured.shape[-1]):
            row[f"layer_{k + 1}"] = record(measured[:, i, k])
            row[f"mean_field_{k + 1}"] = f"{arrays['c_predicted'][:, i, k, 0].mean():.4f}"
        engines.append(row)
    blocks = ["whole", *(f"layer {k + 1}" for k in range(arrays["d_gibbs"].shape[-1] - 1))]
    canonical = [
        {
            "block": block,
            **{
                f"{state}_{kind}": record(arrays[f"d_{state}"][:, j, k])
                for state in ("gibbs", "initial")
                for j, kind in enumerate(("flow", "virial"))
            },
        }
        for k, block in enumerate(blocks)
    ]
    return {"linear": _linear_numbers(arrays), "layers": layers} | {
        "engines": engines,
        "canonical": canonical,
    }


def _linear_numbers(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {
            "loss": loss,
            "scale": f"{scale:g}",
            "energy_released": f"{arrays['a_energy'][i, k]:.4g}",
            "entropy_released": f"{arrays['a_entropy'][i, k]:.4g}",
            "temperature": f"{arrays['a_temperature'][i, k]:.4g}",
            "virial": record(arrays["a_virial"][:, i, k]),
            "flow": record(arrays["a_flow"][:, i, k]),
        }
        for i, loss in enumerate(LOSSES)
        for k, scale in enumerate(arrays["a_scale"])
    ]


_READING = (
    "Of the paper only the abstract was seen: transition temperature Delta E / Delta S, heat "
    "and entropy by layer, work efficiency and the rule for two classes of engines are our "
    "definitions, following its programme. Energies are means over the data, entropies in "
    "nats; the resolution of weights in experiment A is a choice on which T depends "
    "logarithmically."
)

THEORY = Theory(
    settings=TemperatureConfig,
    run=run,
    claims=claims,
    numbers=_numbers,
    page=Page(
        command="temperature",
        title="The temperature of learning",
        lead="Transitions, layers and heat engines after Zhang 2024, on diabetes and digits",
        captions=CAPTIONS,
        draw=save_figures,
    ),
)
"""The experiments of the theory, its claims and its page."""
