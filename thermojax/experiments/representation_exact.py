"""The exact side of the theory on real data: experiments X1 to X4, of which X1 is E3.

    X1  iso-classification of a codebook, free classifier    all digits, drawn restarts
    X2  phase boundary: where a first code switches on        all digits
    X3  linear-Gaussian optimum: reverse water-filling        covariance of the digits
    X4  equilibrium surface, work and transfer of a table     `representation_table`

Everything runs in float64. What is drawn are the near-trivial starts of codebooks, which decide
on the branch: the free energy of a codebook has many local minima.

Source: specification of the theory, 3.2, 3.4, 8.3, 8.4, 8.9 and 9.2 E3; the surface and
iso-classification are those of Gao & Chaudhari 2020.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.representation_table import TableConfig, run_table
from thermojax.theories.representation.codebook import codebook_equilibrium, codebook_model
from thermojax.theories.representation.gaussian import gaussian_equilibrium
from thermojax.theories.representation.ledger import first_law_residual
from thermojax.theories.representation.onset import critical_lam, onset_strength
from thermojax.theories.representation.process import iso_process
from thermojax.theories.representation.quantities import Multipliers, Trajectory
from thermojax.theories.representation.surface import equilibrium_path
from thermojax.typing import Array

__all__ = ["ExactConfig", "run_exact"]

Progress = Callable[[float, str], None]

_HELD = 1e-9  # |C - C_0| of X1, nats


@dataclasses.dataclass(frozen=True)
class ExactConfig:
    """Settings of experiments X1 to X4.

    Attributes:
        examples: digits used, from the first; None is all 1,797.
        scale: s_x of the Gaussian decoders, in units of a pixel's range.
        codes: centres of the codebook of X1.
        restarts: near-trivial starts of X1, of which the lowest is followed.
        start: (lam, gam) of the process.
        lam_end: where it ends.
        points: of the process, both ends included.
        steps: of the solver at a point of it, at most; 1,000 lose branches that last.
        free_points: of the same path at fixed gam, for comparison.
        gams: of the line of onset, increasing from 0 to below 1.
        places: (lam, gam) at which codebooks tell the phase.
        place_codes: centres of those.
        lams: of the linear-Gaussian optimum, increasing.
        latents: dimension of the restricted linear code.
        table: settings of X4.
    """

    examples: int | None = None
    scale: float = 0.3
    codes: int = 16
    restarts: int = 4
    start: tuple[float, float] = (0.5, 1.0)
    lam_end: float = 0.3
    points: int = 33
    steps: int = 2000
    free_points: int = 5
    gams: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    places: tuple[tuple[float, float], ...] = ((0.12, 0), (0.14, 0), (0.05, 0.65), (0.05, 0.7))
    place_codes: int = 4
    lams: tuple[float, ...] = tuple(sorted({*np.geomspace(0.1, 10.0, 41).tolist(), 0.3, 3.0}))
    latents: int = 8
    table: TableConfig = dataclasses.field(default_factory=TableConfig)

    def __post_init__(self):
        for name in ("codes", "restarts", "steps", "place_codes", "latents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.points < 3 or self.free_points < 2:
            raise ValueError(
                f"points={self.points} must be at least 3 and free_points={self.free_points} 2"
            )
        if self.examples is not None and self.examples < 2:
            raise ValueError(f"examples={self.examples} must be at least 2, or None for all")
        if self.gams[0] != 0 or not np.all(np.diff(self.gams) > 0) or self.gams[-1] >= 1:
            raise ValueError(f"gams={self.gams} must increase from 0 and stay below 1")
        if len(self.lams) < 3 or not np.all(np.diff(self.lams) > 0) or self.lams[0] <= 0:
            raise ValueError(f"lams={self.lams} must be 3 or more, increasing from above 0")


def run_exact(
    config: ExactConfig, seeds: Sequence[int], say: Progress | None = None
) -> dict[str, np.ndarray]:
    """Run X1 to X4: name -> array.

    `x1_*` and `x2_place_rate` lead with the seed; nothing else is drawn.

    Args:
        config: settings.
        seeds: of the starts of codebooks, one draw each.
        say: called with the fraction done and a note.

    Returns:
        What `exact_claims`, `exact_identities` and `exact_numbers` read.
    """
    say = say or (lambda fraction, note: None)
    say(0.0, "equilibrium surface of a table")
    out = run_table(config.table)
    with jax.enable_x64(True):
        x, y = _digits(config.examples)
        say(0.05, "linear-Gaussian optimum and line of onset")
        fixed = _gaussian(config, x) | _onset(config, x, y)
        out |= {name: np.asarray(values) for name, values in fixed.items()}
        draws = []
        for i, seed in enumerate(seeds):
            say(0.1 + 0.9 * i / len(seeds), f"draw {i + 1}: exact process")
            to_process, to_places = jax.random.split(jax.random.key(seed))
            found = _process(config, x, y, to_process) | _places(config, x, y, to_places)
            draws.append({name: np.asarray(values) for name, values in found.items()})
    return out | {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}


def _digits(examples: int | None) -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    rows = load_digits()
    return jnp.asarray(rows.data[:examples] / 16), jnp.asarray(rows.target[:examples])


# X1


def _process(config: ExactConfig, x: Array, y: Array, key: Array) -> dict:
    """The path that holds C, and the same lam at fixed gam; NaN beyond where a path ends."""
    start = Multipliers(*map(jnp.asarray, config.start))
    codebook = codebook_equilibrium(
        x,
        y,
        start,
        decoder_scale=config.scale,
        num_codes=config.codes,
        key=key,
        num_restarts=config.restarts,
    )
    # where a branch ends relaxation slows down: bounded, or the search would take minutes
    model = codebook_model(x, y, config.scale, codebook, max_iter=config.steps)
    path = iso_process(model, start, config.lam_end, num_points=config.points, tol=_HELD)
    lam = jnp.linspace(config.start[0], config.lam_end, config.free_points)
    gam = jnp.full(config.free_points, config.start[1])
    free = equilibrium_path(model, Multipliers(lam, gam), batching="loop")
    return _padded(path, config.points) | {
        "x1_first_law": first_law_residual(path),
        "x1_first_law_relative": first_law_residual(path, relative=True),
        "x1_reached": path.status == "reached",
        "x1_reason": path.reason,
        "x1_converged": codebook.converged,
        "x1_free_lam": free.lam,
        "x1_free_rate": free.rate,
        "x1_free_distortion": free.distortion,
        "x1_free_classification": free.classification,
    }


def _padded(path: Trajectory, points: int) -> dict[str, np.ndarray]:
    """Columns of a path over all points of its grid."""
    lam, gam, rate = path.lam, path.gam, path.rate
    lam_mid, gam_mid = (lam[1:] + lam[:-1]) / 2, (gam[1:] + gam[:-1]) / 2
    step = jnp.diff(rate) + lam_mid * jnp.diff(path.distortion)
    step += gam_mid * jnp.diff(path.classification)
    columns = {
        "x1_lam": lam,
        "x1_gam": gam,
        "x1_rate": rate,
        "x1_distortion": path.distortion,
        "x1_classification": path.classification,
        "x1_free_energy": path.free_energy,
        "x1_dissipated": path.dissipated_work,
        "x1_residual": jnp.concatenate([jnp.zeros(1), step]),
        "x1_relative": path.first_law_residual,
        "x1_chi": path.chi,
    }

    def fill(values: Array | None) -> np.ndarray:
        known = np.asarray(values)
        out = np.full((points, *known.shape[1:]), np.nan)
        out[: len(known)] = known
        return out

    return {name: fill(values) for name, values in columns.items()}


# X2


def _onset(config: ExactConfig, x: Array, y: Array) -> dict:
    """The line on which the trivial code loses its stability, by roots and in closed form."""
    from scipy.optimize import brentq

    labels, s_x = jax.nn.one_hot(y, int(y.max()) + 1, dtype=x.dtype), config.scale
    # data go in as arguments: as constants they would be folded for seconds
    read = jax.jit(lambda x, c, lam, gam: onset_strength(x, c, Multipliers(lam, gam), s_x))
    closed = jax.jit(lambda x, c, gam: critical_lam(x, s_x, y=c, gam=gam))
    strength = lambda lam, gam: float(read(x, labels, lam, gam))
    # labels only help: no root lies above the one at gam = 0
    top = 1.01 * float(closed(x, labels, 0.0))
    line = [
        brentq(lambda v, g=gam: strength(v, g) - 1, 0, top, xtol=1e-14) for gam in config.gams
    ]
    eigenvalues = jnp.linalg.eigvalsh(jnp.cov(x.T, ddof=0))[::-1]
    return {
        "x2_gam": np.array(config.gams),
        "x2_lam": np.array(line),
        "x2_lam_closed": np.array([closed(x, labels, gam) for gam in config.gams]),
        "x2_top": eigenvalues[:4],
        "x2_examples": len(x),
        "x2_place": np.array(config.places),
        "x2_place_strength": np.array([strength(*place) for place in config.places]),
    }


def _places(config: ExactConfig, x: Array, y: Array, key: Array) -> dict:
    """Rate of small codebooks from one near-trivial start on both sides of the line."""
    rates = []
    for lam, gam in config.places:
        found = codebook_equilibrium(
            x,
            y,
            Multipliers(jnp.asarray(lam), jnp.asarray(gam)),
            decoder_scale=config.scale,
            num_codes=config.place_codes,
            key=key,
            num_restarts=1,
        )
        rates.append(found.functionals.rate)
    return {"x2_place_rate": jnp.stack(rates)}


# X3


def _gaussian(config: ExactConfig, x: Array) -> dict:
    """Linear optimum of the digits' covariance at gam = 0; D without its constant."""
    cov = jnp.cov(x.T, ddof=0)
    n, s_x = cov.shape[0], config.scale
    constant = n * jnp.log(2 * jnp.pi * s_x**2) / 2

    def optimum(lam: Array, latents: int | None) -> tuple[Array, ...]:
        found = gaussian_equilibrium(
            cov,
            jnp.zeros((1, n)),
            jnp.ones((1, 1)),
            Multipliers(lam, jnp.zeros(())),
            decoder_scale=s_x,
            classifier_scale=1.0,
            latent_dim=latents,
        )
        distortion = found.functionals.distortion - constant
        rate, chi = found.functionals.rate, found.susceptibility[0, 0]
        return rate + lam * distortion, rate, distortion, found.num_active, chi

    names = ("free_energy", "rate", "distortion", "active", "chi")
    lams = jnp.array(config.lams)
    out: dict = {"x3_lam": lams, "x3_spectrum": jnp.linalg.eigvalsh(cov)[::-1]}
    for prefix, latents in (("x3", None), ("x3_few", config.latents)):
        values = jax.jit(jax.vmap(lambda lam, k=latents: optimum(lam, k)))(lams)
        out |= {f"{prefix}_{name}": v for name, v in zip(names, values, strict=True)}
    return out | {"x3_scale": s_x}
