"""X4: the equilibrium surface of a small table, its processes, and a task that moves.

    F(lam, gam) = min R + lam D + gam C,      dF = D dlam + C dgam + F_t dt

Six inputs, three labels and five codes with given decoder and classifier: convex, hence exact
to rounding. Nothing is drawn.

Source: specification of the theory, 8.3 and 8.4; the surface and iso-classification are those
of Gao & Chaudhari 2020, dissipation and feasibility our completion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.ledger import first_law_residual, thermodynamic_length
from thermojax.theories.representation.process import iso_process
from thermojax.theories.representation.quantities import Multipliers, Trajectory
from thermojax.theories.representation.response import tabular_model, tabular_task
from thermojax.theories.representation.surface import (
    concavity_violation,
    equilibrium_path,
    equilibrium_surface,
)
from thermojax.theories.representation.task_process import iso_transfer
from thermojax.typing import Array

__all__ = ["TableConfig", "kernels", "run_table"]

JOINT = ((6, 1, 1), (4, 2, 1), (1, 5, 2), (1, 4, 3), (2, 1, 6), (1, 2, 5))
SOURCE = ((6, 1, 1), (5, 1, 1), (1, 5, 1), (1, 4, 1), (1, 1, 2), (1, 1, 1))
TARGET = ((1, 1, 1), (1, 2, 1), (2, 2, 1), (1, 4, 2), (1, 1, 7), (1, 2, 6))
_PLACES = (0.0, 1.5, 2.5, 4.0, 5.0)
_VOTES = ((7, 5, 2, 2, 1), (2, 3, 7, 5, 2), (1, 2, 1, 3, 7))
_START, _LAM_END = (0.6, 1.5), 1.6  # of the iso-classification path
_LINE = ((0.8, 0.8), (1.6, 1.6))  # along which work is dissipated
_GAMS = (0.3, 1.0, 2.0)  # at t = 0 of the transfers, lam = 1


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """Settings of experiment X4.

    Attributes:
        lams: of the surface, increasing.
        gams: of the surface, increasing.
        step: of the finite differences.
        points: of the iso-classification path and of the transfers.
        steps: numbers of equal steps along the line of dissipated work, increasing.
    """

    lams: tuple[float, ...] = tuple(np.geomspace(0.3, 3.0, 15).tolist())
    gams: tuple[float, ...] = (0.0, *np.geomspace(0.05, 5.0, 15).tolist())
    step: float = 3e-5
    points: int = 41
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 64)

    def __post_init__(self):
        for name, least in (("lams", 3), ("gams", 3), ("steps", 2)):
            values = getattr(self, name)
            if len(values) < least or not np.all(np.diff(values) > 0) or values[0] < 0:
                raise ValueError(f"{name}={values} must be {least} or more, increasing")
        if self.lams[0] <= self.step or not self.step > 0:
            raise ValueError(f"step={self.step} must be above 0 and below lams[0]")
        if self.points < 5 or (self.points - 1) % 4:
            raise ValueError(f"points={self.points} must be 4 k + 1, to contain t = 1/4")


def _normalised(counts: tuple[tuple[int, ...], ...]) -> Array:
    table = jnp.array(counts, float)
    return table / table.sum()


def kernels() -> tuple[Array, Array]:
    """log_decoder [6, 5] and log_classifier [3, 5] of the table.

    Example:
        >>> decoder, classifier = kernels()
        >>> decoder.shape, classifier.shape
        ((6, 5), (3, 5))
    """
    distance = jnp.abs(jnp.arange(6.0)[:, None] - jnp.array(_PLACES))
    votes = jnp.array(_VOTES, float)
    return jax.nn.log_softmax(-distance, axis=0), jnp.log(votes / votes.sum(0))


def run_table(config: TableConfig) -> dict[str, np.ndarray]:
    """Surface, path, dissipation and transfers: name -> array, in float64.

    `x4_*` [n_lam, n_gam] of the surface; `x4_path_*` [points] of the iso-classification path;
    `x4_wasted` n times the work dissipated in n steps [n]; `x4_transfer_*` [start, points].
    """
    with jax.enable_x64(True):
        model = jax.jit(tabular_model(_normalised(JOINT), *kernels()))
        task = jax.jit(tabular_task(_normalised(SOURCE), _normalised(TARGET), *kernels()))
        out = _surface(config, model) | _path(config, model) | _dissipation(config, model)
        out |= _transfers(config, task)
    return {name: np.asarray(values) for name, values in out.items()}


def _surface(config: TableConfig, model: Callable) -> dict:
    lams, gams = jnp.array(config.lams), jnp.array(config.gams)
    surface = jax.jit(lambda a, b: equilibrium_surface(model, a, b))(lams, gams)
    forces, gap = _differences(config, model)
    return {
        "x4_lam": lams,
        "x4_gam": gams,
        "x4_free_energy": surface.free_energy,
        "x4_rate": surface.functionals.rate,
        "x4_distortion": surface.functionals.distortion,
        "x4_classification": surface.functionals.classification,
        "x4_chi": surface.chi,
        "x4_above_tangent": concavity_violation(surface),
        "x4_force_gap": forces,
        "x4_maxwell": gap,
    }


def _differences(config: TableConfig, model: Callable) -> tuple[Array, Array]:
    """Central differences in (lam, gam) at every other point inside the grid.

    Returns:
        dF/dlam - D and dF/dgam - C [..., 2], and [dD/dgam, dC/dlam, -chi_lg].
    """
    lam, gam = np.meshgrid(config.lams[1:-1:2], config.gams[1:-1:2], indexing="ij")
    at = jnp.stack([jnp.array(lam.ravel()), jnp.array(gam.ravel())], -1)
    h = config.step
    moves = jnp.array([[h, 0.0], [-h, 0.0], [0.0, h], [0.0, -h], [0.0, 0.0]])

    def around(point: Array) -> tuple[Array, Array]:
        free, forces, chi = jax.lax.map(lambda move: model(Multipliers(*(point + move))), moves)
        slope = jnp.stack([free[0] - free[1], free[2] - free[3]]) / (2 * h)
        cross = jnp.stack(
            [
                forces.distortion[2] - forces.distortion[3],
                forces.classification[0] - forces.classification[1],
            ]
        )
        here = jnp.stack([forces.distortion[4], forces.classification[4]])
        return slope - here, jnp.append(cross / (2 * h), -chi[4, 0, 1])

    return jax.jit(lambda points: jax.lax.map(around, points))(at)


def _columns(path: Trajectory, prefix: str) -> dict[str, Array]:
    return {
        f"{prefix}_lam": path.lam,
        f"{prefix}_gam": path.gam,
        f"{prefix}_rate": path.rate,
        f"{prefix}_distortion": path.distortion,
        f"{prefix}_classification": path.classification,
        f"{prefix}_free_energy": path.free_energy,
    }


def _path(config: TableConfig, model: Callable) -> dict:
    start = Multipliers(*map(jnp.asarray, _START))
    path = iso_process(model, start, _LAM_END, num_points=config.points)
    return {
        **_columns(path, "x4_path"),
        "x4_path_first_law": first_law_residual(path, relative=True),
        "x4_path_status": path.status,
    }


def _dissipation(config: TableConfig, model: Callable) -> dict:
    """n times the work dissipated in n equal steps, and its limit."""
    first, last = (jnp.array(end) for end in _LINE)

    def walk(count: int) -> Trajectory:
        points = first + (last - first) * jnp.linspace(0, 1, count + 1)[:, None]
        return equilibrium_path(model, Multipliers(*points.T), batching="loop")

    paths = [walk(count) for count in config.steps]
    fine = paths[-1]
    forces = jnp.stack([fine.distortion, fine.classification], -1)
    lost = [np.asarray(path.dissipated_work)[1:] for path in paths]
    return {
        "x4_steps": np.array(config.steps),
        "x4_wasted": [len(each) * each.sum() for each in lost],
        "x4_wasted_least": min(each.min() for each in lost),
        "x4_wasted_limit": -(last - first) @ (forces[-1] - forces[0]) / 2,
        "x4_length": thermodynamic_length(fine),
    }


def _transfers(config: TableConfig, task: Callable) -> dict:
    """The mixture transfer from each starting gam; what is not held is NaN in gam."""
    rows: dict[str, list] = {}
    for gam in _GAMS:
        start = Multipliers(jnp.asarray(1.0), jnp.asarray(gam))
        path = iso_transfer(task, start, num_points=config.points)
        held = jnp.isfinite(path.gam)
        found = _columns(path, "x4_transfer") | {
            "x4_transfer_held": held,
            "x4_transfer_first_law": first_law_residual(path, relative=True),
            "x4_transfer_status": path.status,
            "x4_transfer_reason": path.reason,
        }
        for name, values in found.items():
            rows.setdefault(name, []).append(np.asarray(values))
    out = {name: np.stack(values) for name, values in rows.items()}
    return out | {"x4_transfer_t": np.linspace(0, 1, config.points)}
