"""A free-energy principle for representation learning on real data.

    X  exact equilibria, processes and phase boundaries       digits, tables, Gaussians
    E1 surface of rate, distortion and classification loss    neural encoders on digits
    E2 iso-classification process, controlled and not         neural encoders on digits
    E4 transfer 0-4 -> 5-9, with baselines                    neural encoders on digits
    E5 transfer even -> odd                                   the same
    E6 displacement against mixture path                      the same

each on several draws of the split and of the networks, over which the error bars are taken;
E1 to E6 also on IDX files (MNIST and its kin). The theory is that of Gao & Chaudhari 2020
(arXiv 2002.12406); its tables and figures were not obtained and none is quoted.

Source: specification of the theory, section 9.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from thermojax.experiments.pieces import Pieces
from thermojax.experiments.representation_data import DataConfig, split
from thermojax.experiments.representation_data import sizes as sizes_for
from thermojax.experiments.representation_exact import ExactConfig, run_exact
from thermojax.experiments.representation_exact_claims import (
    exact_claims,
    exact_identities,
    exact_numbers,
)
from thermojax.experiments.representation_iso import (
    IsoConfig,
    iso_claims,
    iso_identities,
    iso_numbers,
    run_iso,
)
from thermojax.experiments.representation_surface import (
    SurfaceConfig,
    run_surface,
    surface_claims,
    surface_identities,
    surface_numbers,
)
from thermojax.experiments.representation_transfer import TransferConfig, run_transfer
from thermojax.experiments.representation_transfer_claims import (
    transfer_claims,
    transfer_identities,
    transfer_notes,
    transfer_numbers,
)
from thermojax.experiments.reproduction import Page, Result, Theory, check_draws
from thermojax.pictures_representation import CAPTIONS, save_figures

__all__ = ["THEORY", "RepresentationConfig", "run"]

_ROWS = 2_000
"""Images of a folder that two cores train on within minutes, and of a measurement."""


@dataclasses.dataclass(frozen=True)
class RepresentationConfig:
    """Experiments on representation learning.

    Attributes:
        draws: independent draws of the split and of the networks; error bars are over them.
        seed: of the first draw.
        mnist: folder with the IDX files of MNIST or its kin, in place of scikit-learn's
            digits; the exact experiments stay on digits.
        device: larger networks and batches, and all images of a folder.
        exact: settings of experiments X.
        surface: settings of experiment E1.
        iso: settings of experiment E2.
        transfer: settings of experiments E4 to E6.
    """

    draws: int = 3
    seed: int = 0
    mnist: Path | None = None
    device: bool = False
    exact: ExactConfig = dataclasses.field(default_factory=ExactConfig)
    surface: SurfaceConfig = dataclasses.field(default_factory=SurfaceConfig)
    iso: IsoConfig = dataclasses.field(default_factory=IsoConfig)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)

    def __post_init__(self):
        check_draws(self.draws, self.seed)
        if self.mnist is not None:  # a missing or damaged file is said before anything runs
            split(self._data(), self.seed)

    def _data(self) -> DataConfig:
        if self.mnist is None:
            return DataConfig()
        return DataConfig(folder=str(self.mnist), rows=None if self.device else _ROWS)

    def of_networks(self, part: Any) -> Any:
        """Settings of a neural experiment, on the images and in the sizes asked for."""
        if self.mnist is None and not self.device:
            return part
        found = dataclasses.replace(
            part, data=self._data(), sizes=sizes_for(device=self.device)
        )
        return dataclasses.replace(found, rows=_ROWS) if hasattr(part, "rows") else found


def run(
    config: RepresentationConfig,
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
    seeds = tuple(range(config.seed, config.seed + config.draws))

    def part(low: float, high: float) -> Callable[[float, str], None]:
        return lambda fraction, note: say(low + (high - low) * fraction, note)

    surface, iso, transfer = map(
        config.of_networks, (config.surface, config.iso, config.transfer)
    )
    arrays = keep("exact", lambda: run_exact(config.exact, seeds, part(0.0, 0.3)))
    arrays |= keep("surface", lambda: run_surface(surface, seeds, part(0.3, 0.4)))
    arrays |= keep("iso", lambda: run_iso(iso, seeds, part(0.4, 0.55)))
    arrays |= keep("transfer", lambda: run_transfer(transfer, seeds, part(0.55, 1.0)))
    facts = {
        "experiment": "representation",
        "data": "digits" if config.mnist is None else str(config.mnist),
        "draws": config.draws,
        "identities": [
            *exact_identities(arrays),
            *surface_identities(arrays),
            *iso_identities(arrays),
            *transfer_identities(arrays),
        ],
        "seconds": time.monotonic() - began + keep.saved,
    }
    say(1.0, "done")
    return Result(arrays, facts, {"reading": _READING, **transfer_notes(arrays)})


def claims(arrays: dict[str, np.ndarray]) -> list[dict]:
    """All claims from the arrays of a result, as rows of texts."""
    groups = (exact_claims, surface_claims, iso_claims, transfer_claims)
    return [row for group in groups for row in group(arrays)]


def _numbers(arrays: dict[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    groups = (exact_numbers, surface_numbers, iso_numbers, transfer_numbers)
    return {name: rows for group in groups for name, rows in group(arrays).items()}


_READING = (
    "R, D and C are nats per example; D of the networks leaves out the normalising constant of "
    "the decoder. C is held where it is said: on validation images it can stay out of reach of "
    "gam, and the path then says infeasible. Test accuracy uses the amortised encoder, which "
    "sees no label. The paper's tables were not obtained; gates are on the process, not on "
    "accuracy."
)

THEORY = Theory(
    settings=RepresentationConfig,
    run=run,
    claims=claims,
    numbers=_numbers,
    page=Page(
        command="representation",
        title="A free energy of representations",
        lead="Rate, distortion and classification after Gao & Chaudhari 2020, on handwritten "
        "digits",
        captions=CAPTIONS,
        draw=save_figures,
    ),
)
"""The experiments of the theory, its claims and its page."""
