"""Experiment E2: iso-classification of networks on digits, against fixed controls.

    lam rises, gam fed back from the held-out C:   C stays,  dR = -lam dD
    lam rises, gam fixed:                          C drifts, dR = -lam dD - gam dC

Both start from the same network. All draws of both run in one compiled program.

Source: specification of the theory, 9.2 E2; the process, Gao & Chaudhari 2020.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.representation_data import (
    DataConfig,
    Sizes,
    Split,
    draws_of,
    network,
    optimizer,
)
from thermojax.experiments.representation_surface import Say, accuracy, train_networks
from thermojax.experiments.reproduction import claim, identity, in_words, record
from thermojax.theories.representation.neural_process import (
    Feedback,
    Plant,
    Reading,
    controlled_path,
)
from thermojax.theories.representation.quantities import (
    Batch,
    Functionals,
    Multipliers,
)
from thermojax.theories.representation.schedules import make_schedule
from thermojax.typing import Array, Key, PyTree

__all__ = ["CONTROLS", "IsoConfig", "iso_claims", "iso_identities", "iso_numbers", "run_iso"]

Arrays = dict[str, np.ndarray]

CONTROLS = ("iso-classification", "fixed gam")
"""What the axis after the draws means."""


@dataclasses.dataclass(frozen=True)
class IsoConfig:
    """Settings of experiment E2.

    Attributes:
        data: images; C is held on the validation rows.
        sizes: networks.
        lam: multiplier of D at the start.
        lam_end: at the end.
        gam: multiplier of C at the start.
        pretraining: gradient steps before the path.
        points: steps of the path, geometric in lam.
        blocks: of gradient steps in each of them, gam being fed back after each block.
        block_steps: gradient steps of a block.
        samples: codes per image of a measurement.
        rows: images of a measurement, the same ones every time; None is all.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    lam: float = 0.1
    lam_end: float = 1.0
    gam: float = 5.0
    pretraining: int = 8_000
    points: int = 20
    blocks: int = 40
    block_steps: int = 25
    samples: int = 16
    rows: int | None = None

    def __post_init__(self):
        if not (0 < self.lam < self.lam_end and self.gam > 0):
            raise ValueError(
                f"lam={self.lam}, lam_end={self.lam_end} and gam={self.gam} must be positive, "
                "and lam must rise"
            )
        counts = ("pretraining", "points", "blocks", "block_steps", "samples")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.rows is not None and self.rows < 2:
            raise ValueError(f"rows={self.rows} must be at least 2: C needs an error bar")


def _sampler(part: Batch) -> Any:
    """Rows with replacement, or all of them; the task does not move with t."""

    def sample(key: Key, t: Array, size: int | None) -> Batch:
        count = part.x.shape[0]
        if size is None or size >= count:
            return part
        rows = jax.random.randint(key, (size,), 0, count)
        return Batch(part.x[rows], part.y[rows])

    return sample


@functools.partial(jax.jit, static_argnames=("config",))
def _paths(
    config: IsoConfig, parts: Split, params: PyTree, keys: Key
) -> tuple[Reading, Array, PyTree]:
    """Readings [draw, control, point], errors of C after every block, and last parameters."""
    sizes = config.sizes
    schedule = make_schedule(
        config.points,
        lam=config.lam,
        lam_end=config.lam_end,
        num_blocks=config.blocks,
        grid="still",
    )
    default = Feedback()
    on = jnp.asarray([1.0, 0.0])

    def one(parts, params, key, on):
        plant = Plant(
            network(sizes, parts.train.x.shape[-1]).model,
            _sampler(parts.train),
            _sampler(parts.validation),
            optimizer(sizes),
            batch_size=sizes.batch,
            block_steps=config.block_steps,
            measure_samples=config.samples,
            measure_size=config.rows,
        )
        feedback = Feedback(on * default.integral, on * default.proportional)
        path = controlled_path(plant, params, schedule, key, gam0=config.gam, feedback=feedback)
        return path.readings, path.errors, path.state.params

    over_controls = jax.vmap(one, (None, None, None, 0))
    return jax.vmap(over_controls, (0, 0, 0, None))(parts, params, keys, on)


def run_iso(config: IsoConfig, seeds: Sequence[int], say: Say) -> Arrays:
    """All draws of experiment E2.

    Args:
        config: settings.
        seeds: one per draw.
        say: progress.

    Returns:
        Arrays with the draws along axis 0 and `CONTROLS` along axis 1, over points of the
        path: `e2_gam`; `e2_rate`, `e2_distortion`, `e2_classification` on validation images
        with `e2_stderr` of C, and `e2_train_rate`, ... on training images; `e2_work`
        dissipated and `e2_grad_norm` on training images; `e2_error` [..., step, block] is
        log(C / C_0); `e2_accuracy` [draw, control] on test images at the end and
        `e2_start_accuracy` [draw]. Without draws: `e2_lam` [point].
    """
    parts = draws_of(config.data, seeds)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 2) for seed in seeds])
    tau = Multipliers(jnp.asarray([config.lam]), jnp.asarray([config.gam]))
    say(0.0, "iso-classification: pretraining")
    start = train_networks(config.sizes, parts.train, tau, keys, steps=config.pretraining)
    before = accuracy(config.sizes, start, parts.test)[:, 0]
    say(0.2, "iso-classification: paths")
    readings, errors, params = _paths(
        config, parts, jax.tree.map(lambda a: a[:, 0], start), keys
    )
    found = {
        "lam": readings.lam[0, 0],
        "gam": readings.gam,
        "stderr": readings.stderr,
        "work": readings.dissipated_work,
        "grad_norm": readings.grad_norm,
        "error": errors,
        "accuracy": accuracy(config.sizes, params, parts.test),
        "start_accuracy": before,
    }
    found |= readings.held_out._asdict()
    found |= {f"train_{name}": v for name, v in readings.training._asdict().items()}
    return {f"e2_{name}": np.asarray(values, float) for name, values in found.items()}


class _Seen(NamedTuple):
    """Training images and controls along the path, [draw, control, point]."""

    rate: np.ndarray
    distortion: np.ndarray
    classification: np.ndarray
    lam: np.ndarray
    gam: np.ndarray

    @property
    def free_energy(self) -> np.ndarray:
        return self.rate + self.lam * self.distortion + self.gam * self.classification


def _train(arrays: Arrays) -> _Seen:
    means = (arrays[f"e2_train_{name}"] for name in Functionals._fields)
    return _Seen(*means, arrays["e2_lam"], arrays["e2_gam"])


def _first_law(arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dR, the integral of -lam dD - gam dC, and the relative residual, [draw, control]."""
    seen = _train(arrays)
    middle = lambda values: (values[..., 1:] + values[..., :-1]) / 2
    rate, distortion, classification = (np.diff(values, axis=-1) for values in seen[:3])
    terms = rate, middle(seen.lam) * distortion, middle(seen.gam) * classification
    size = np.sum([np.abs(term).sum(-1) for term in terms], axis=0)
    heat = -(terms[1] + terms[2]).sum(-1)
    return rate.sum(-1), heat, np.abs(rate.sum(-1) - heat) / size


def _drift(arrays: Arrays) -> np.ndarray:
    """C / C_0 - 1 on validation images after the start, [draw, control, point]."""
    held = arrays["e2_classification"]
    return held[..., 1:] / held[..., :1] - 1


def _rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(values**2, axis=-1))


def iso_claims(arrays: Arrays) -> list[dict]:
    """Claims of experiment E2, from the arrays of `run_iso`."""
    drift, seen = _drift(arrays), _train(arrays)
    rms = _rms(drift)
    noise = arrays["e2_stderr"][:, 0, 0] / arrays["e2_classification"][:, 0, 0]
    rate, distortion = (values[:, 0] for values in seen[:2])
    gam = arrays["e2_gam"][:, 0]
    change, heat, residual = _first_law(arrays)
    return [
        claim(
            "[paper]",
            "Iso-classification holds C while lam rises tenfold (networks, held-out C)",
            "rms of C/C0 - 1 along the path below the larger of 15 % and 5 standard errors of "
            "C0",
            f"rms {in_words(100 * rms[:, 0])} %, largest "
            f"{in_words(100 * np.abs(drift[:, 0]).max(-1))} %",
            rms[:, 0] < np.maximum(0.15, 5 * noise),
        ),
        claim(
            "[paper]",
            "Iso-classification trades rate against distortion",
            "from the start to the end R rises and D falls on training images",
            f"R {in_words(rate[:, 0])} to {in_words(rate[:, -1])}, "
            f"D {in_words(distortion[:, 0])} to {in_words(distortion[:, -1])} nats",
            (rate[:, -1] > rate[:, 0]) & (distortion[:, -1] < distortion[:, 0]),
        ),
        claim(
            "[ours]",
            "Without control of gam the classification loss drifts",
            "rms of C/C0 - 1 under iso-classification is below a quarter of that at fixed gam",
            f"rms {in_words(100 * rms[:, 1])} % at fixed gam, C/C0 - 1 = "
            f"{in_words(100 * drift[:, 1, -1])} % at the end",
            rms[:, 0] < rms[:, 1] / 4,
        ),
        claim(
            "[ours]",
            "A better reconstruction needs less pressure on the classification",
            "gam is smaller at the end of iso-classification than at its start",
            f"gam {in_words(gam[:, 0])} to {in_words(gam[:, -1])}",
            gam[:, -1] < gam[:, 0],
        ),
        claim(
            "[paper]",
            "First law: dR = -lam dD - gam dC along the process, as far as the networks relax",
            "residual below 0.3 of |dR| + |lam dD| + |gam dC| summed over the path",
            f"dR = {in_words(change[:, 0])} against {in_words(heat[:, 0])} nats, residual "
            f"{in_words(residual[:, 0])}",
            residual[:, 0] < 0.3,
        ),
    ]


def iso_identities(arrays: Arrays) -> list[dict]:
    """Identities of experiment E2."""
    seen = _train(arrays)
    free = seen.free_energy
    work = seen.distortion[..., :-1] * np.diff(seen.lam)
    work = work + seen.classification[..., :-1] * np.diff(seen.gam)
    gap = free[..., :-1] + work - free[..., 1:] - arrays["e2_work"][..., 1:]
    return [
        identity(
            "energy along the process: F + work - dissipated work is the next F",
            gap,
            free[..., 1:],
            1e-4,
        )
    ]


def iso_numbers(arrays: Arrays) -> dict[str, list[dict[str, Any]]]:
    """Table of experiment E2, a row per quantity."""
    seen = _train(arrays)
    drift = _drift(arrays)
    change, heat, residual = _first_law(arrays)
    start = np.broadcast_to(arrays["e2_start_accuracy"][:, None], change.shape)
    columns = {
        "gam at the end": arrays["e2_gam"][..., -1],
        "C0 (validation)": arrays["e2_classification"][..., 0],
        "rms of C/C0 - 1": _rms(drift),
        "largest |C/C0 - 1|": np.abs(drift).max(-1),
        "C/C0 - 1 at the end": drift[..., -1],
        "R at the start": seen.rate[..., 0],
        "R at the end": seen.rate[..., -1],
        "D at the start": seen.distortion[..., 0],
        "D at the end": seen.distortion[..., -1],
        "C at the start (training)": seen.classification[..., 0],
        "C at the end (training)": seen.classification[..., -1],
        "test accuracy at the start": start,
        "test accuracy at the end": arrays["e2_accuracy"],
        "change of R": change,
        "integral of -lam dD - gam dC": heat,
        "first-law residual over the integral": np.abs((change - heat) / heat),
        "relative first-law residual": residual,
        "dissipated work": arrays["e2_work"].sum(-1),
    }
    rows = [
        {"quantity": name}
        | {control: record(values[:, k]) for k, control in enumerate(CONTROLS)}
        for name, values in columns.items()
    ]
    return {"Iso-classification of networks (nats per example)": rows}
