"""From chains to a local learning coefficient with its error bar and its verdict.

All of it runs on the host in float64; the result returns to the dtype of the parameters.

Source: specification of the core, 3.4 and 3.7 (derived here).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.basin import LIMIT, Curvature, Lowest
from thermojax.dynamics.kernel import Kernel
from thermojax.dynamics.leaves import size
from thermojax.ensembles import EnsembleState
from thermojax.estimators.estimate import Estimate, Flag, union
from thermojax.estimators.mixture import t_factor
from thermojax.llc_chains import Anchor, gaps, squared_noise
from thermojax.system import System
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["Found", "LlcParts", "read_chains"]

TOO_NOISY = 0.05
MATERIAL = 0.05
DRIFT = 4.5


class LlcParts(NamedTuple):
    """How the number came about.

    Attributes:
        n: number of examples; None where the system has none.
        beta: inverse temperature on U.
        gamma: stiffness of the tether.
        anchor_energy: U(w*).
        lowest: the lowest theta found, by descent from the anchor and from the walkers.
        base_point: beta (U(w*) - U(minimum below the anchor)); adding it to the value gives
            the coefficient of that minimum.
        step_bias: what the step adds, predicted on the quadratic form; 0 for exact kernels,
            nan where unknown.
        tether_bias: what tether and prior take away, likewise, counted over the directions
            that curve upwards.
        quadratic: what the tethered quadratic form would give.
        rank: number of directions that curve upwards; half of it is the coefficient that a
            regular minimum would have without a tether.
        spectrum: [d] eigenvalues of beta Hess U; () beyond 500 parameters.
        noise_ratio: relative heating by minibatch noise; 0 for full gradients.
        chains: [R] lambda_hat of each chain.
        trace: [kept, R] beta (U - U(w*)).
        distance: [kept, R] |w - w*|.
        acceptance: [R] of the Metropolis test; nan where there is none.
        iact: integrated autocorrelation time over the length of the run.
        below: [R] how far each chain came below the anchor, beta U; 0 if never.
        drift: z of the change of the loss between the halves of the run.
        drift_distance: the same of |w - w*|^2, a sign of flat directions not filled yet.
        params: frozen kernel parameters.
        n_gradients: of the whole data or of batches.
    """

    n: int | None
    beta: Array
    gamma: Array
    anchor_energy: Array
    lowest: PyTree
    base_point: Array
    step_bias: Array
    tether_bias: Array
    quadratic: Array
    rank: int
    spectrum: Any
    noise_ratio: Array
    chains: Array
    trace: Array
    distance: Array
    acceptance: Array
    iact: Array
    below: Array
    drift: Array
    drift_distance: Array
    params: Any
    n_gradients: int

    @property
    def notes(self) -> list[str]:
        """What the numbers leave open, in sentences."""
        said = []
        if not len(self.spectrum):
            said.append(f"more than {LIMIT} parameters: no bias is predicted")
        elif not np.isfinite(self.tether_bias):
            said.append("the anchor is no minimum of the reduced energy: no bias is predicted")
        elif not np.isfinite(self.step_bias):
            said.append("no prediction of the step's bias for this kernel")
        if abs(float(self.drift_distance)) > DRIFT:
            said.append("the walkers still move away from the anchor: flat directions fill up")
        return said


class Found(NamedTuple):
    """Everything that `read_chains` turns into an answer.

    Attributes:
        sys: the system, without tether.
        anchor: the anchor and its energies.
        beta: inverse temperature on U.
        basin: curvature of the tethered system.
        bath: the kernel.
        params: its frozen parameters.
        out: what `sample_chains` streamed.
        st: the walkers at the end.
        low: where a descent from the anchor came to.
        descend: `theta -> Lowest`.
    """

    sys: System
    anchor: Anchor
    beta: float
    basin: Curvature
    bath: Kernel
    params: Any
    out: dict[str, Any]
    st: EnsembleState
    low: Lowest
    descend: Callable[[PyTree], Lowest]


class _Look(NamedTuple):
    """The chains in units of beta U, and which of them are finite."""

    blocks: np.ndarray
    trace: np.ndarray
    square: np.ndarray
    acceptance: np.ndarray
    fine: np.ndarray
    flags: int

    @property
    def chains(self) -> np.ndarray:
        """[R] mean of each."""
        return self.blocks.mean(axis=1)


class _Spread(NamedTuple):
    """Mean over the chains, its two errors, and the drift between halves of the run."""

    mean: float
    stderr: float
    within: float
    n_eff: float
    iact: float
    drift: float
    drift_distance: float


class _Ground(NamedTuple):
    """Lower ground: the lowest theta, its depth, and how far each chain came below."""

    theta: PyTree
    depth: float
    below: np.ndarray


class _Bias(NamedTuple):
    """Predictions on the quadratic form, and the heating by minibatches."""

    step: float
    tether: float
    noise: float


def read_chains(found: Found, n: int | None, gamma: ArrayLike) -> Estimate:
    """Value, error bar, predictions and verdict."""
    look = _look(found)
    spread, bias, ground = _spread(look), _predict(found), _lower_ground(found)
    dtype = jnp.result_type(*jax.tree.leaves(found.anchor.theta))
    real = lambda x: jnp.asarray(x, dtype)
    parts = LlcParts(
        n=n,
        beta=real(found.beta),
        gamma=real(gamma),
        anchor_energy=found.anchor.energy,
        lowest=ground.theta,
        base_point=real(found.beta * float(found.low.drop)),
        step_bias=real(bias.step),
        tether_bias=real(bias.tether),
        quadratic=real(found.basin.coefficient()),
        rank=found.basin.rank,
        spectrum=found.basin.spectrum,
        noise_ratio=real(bias.noise),
        chains=real(look.chains),
        trace=real(look.trace),
        distance=real(np.sqrt(look.square)),
        acceptance=real(look.acceptance),
        iact=real(spread.iact),
        below=real(ground.below),
        drift=real(spread.drift),
        drift_distance=real(spread.drift_distance),
        params=found.params,
        n_gradients=int(found.st.step) * found.st.size * found.bath.meta.gradients_per_step,
    )
    flags = jnp.uint32(look.flags | _verdict(found, look, spread, bias, ground.depth))
    numbers = (spread.mean, spread.stderr, spread.within, spread.n_eff)
    return Estimate(*map(real, numbers), flags, parts)


def _look(found: Found) -> _Look:
    out = jax.device_get(found.out)
    trace, square = (np.asarray(x, np.float64) for x in out["trace"])
    blocks = found.beta * np.asarray(out["excess"], np.float64)
    nonfinite = (np.asarray(out["flags"]) & int(Flag.NONFINITE)) != 0
    return _Look(
        blocks=blocks,
        trace=found.beta * trace,
        square=square,
        acceptance=np.asarray(out["acceptance"], np.float64),
        fine=np.isfinite(blocks).all(axis=1) & np.isfinite(trace).all(axis=0) & ~nonfinite,
        flags=int(union(found.out["flags"])),
    )


def _spread(look: _Look) -> _Spread:
    fine = look.fine
    count = int(fine.sum())
    if not count:
        return _Spread(math.nan, math.inf, math.inf, 0.0, math.nan, 0.0, 0.0)
    chains, within = look.chains[fine], _blocked_error(look.blocks[fine])
    stderr = max(within, _error_of_mean(chains))
    variance = float(np.mean(look.trace[:, fine].var(axis=0)))
    n_eff = variance / stderr**2 if stderr > 0 else 0.0
    return _Spread(
        mean=float(np.mean(chains)),
        stderr=stderr,
        within=within,
        n_eff=n_eff,
        iact=count / n_eff if n_eff > 0 else math.inf,
        drift=_drift(look.blocks[fine].T, 2 * within),
        drift_distance=_drift(look.square[:, fine], 0.0) if count > 1 else 0.0,
    )


def _blocked_error(blocks: np.ndarray) -> float:
    """Error of the mean over chains [R, B]: the largest over blockings, pooled over chains.

    Each chain is cut into B, B/2, ... 8 stretches; the chains' own means do not count.
    """
    count, cuts = blocks.shape
    worst = 0.0
    while cuts >= 8:
        worst = max(worst, float(np.mean(blocks.var(axis=1, ddof=1))) / (count * cuts))
        blocks = (blocks[:, ::2] + blocks[:, 1::2]) / 2
        cuts //= 2
    return math.sqrt(worst)


def _error_of_mean(values: np.ndarray) -> float:
    """Widened by Student's t; 0 for a single value, which says nothing."""
    count = len(values)
    if count < 2:
        return 0.0
    return t_factor(count) * float(np.std(values, ddof=1)) / math.sqrt(count)


def _drift(trace: np.ndarray, least: float) -> float:
    """z of the change of the chains' mean between the halves of the run."""
    half = len(trace) // 2
    change = trace[half:].mean(axis=0) - trace[:half].mean(axis=0)
    error = max(least, _error_of_mean(change))
    return float(change.mean()) / error if error > 0 else 0.0


def _predict(found: Found) -> _Bias:
    basin, meta, params = found.basin, found.bath.meta, found.params
    exact, step = basin.coefficient(), math.nan
    if meta.name in ("sgld", "OBAB") and np.ndim(params.step_size) == 0:
        unit = all(np.all(np.asarray(x) == 1) for x in jax.tree.leaves(params.scale))
        step = float(params.step_size) if unit else math.nan
    bias = 0.0 if meta.exact else math.nan
    if math.isfinite(step) and not meta.exact:
        bias = basin.coefficient(step) - exact
    noise = 0.0
    if meta.data_share < 1:
        noise = math.nan
        if meta.name == "sgld":
            control = found.anchor.control
            power = float(squared_noise(found.sys, found.st.walkers, control))
            noise = step * found.beta**2 * power / (2 * size(found.anchor.theta))
    return _Bias(bias, exact - basin.rank / 2, noise)


def _lower_ground(found: Found) -> _Ground:
    """Below the anchor: by descent from it, and from the lowest walker if that is lower."""
    beta, theta, depth = found.beta, found.low.theta, float(found.low.drop)
    rises = np.asarray(gaps(found.sys, found.anchor, found.st.position), np.float64)
    least = rises
    if found.bath.meta.data_share == 1:  # a batch shows no more than its own noise
        least = np.fmin(np.asarray(found.out["least"], np.float64), rises)
    below = np.maximum(-np.where(np.isfinite(least), least, 0.0), 0.0)
    if below.max() > depth and np.isfinite(rises).any():
        lowest = int(np.nanargmin(rises))
        low = found.descend(jax.tree.map(lambda x: x[lowest], found.st.position))
        drop = float(low.drop) - float(rises[lowest])
        if drop > depth:
            theta, depth = low.theta, drop
    return _Ground(theta, beta * max(depth, float(below.max())), beta * below)


def _verdict(found: Found, look: _Look, spread: _Spread, bias: _Bias, depth: float) -> int:
    value, stderr, fine = spread.mean, spread.stderr, look.fine
    count, exact = int(fine.sum()), found.bath.meta.exact
    slack = max(stderr, MATERIAL * abs(value))
    ulp = found.beta * float(np.spacing(np.abs(np.asarray(found.anchor.energy))))
    accepted = look.acceptance[fine]
    healthy = not exact or bool(np.all((accepted >= 0.15) & (accepted <= 0.98)))
    apart = (stderr / spread.within) ** 2 if spread.within > 0 else math.inf
    chance = t_factor(count) ** 2 * (1 + 6 * math.sqrt(2 / max(count - 1, 1)))
    still = abs(spread.drift) <= DRIFT
    answer = math.isfinite(value) and math.isfinite(stderr) and stderr > 0
    raised = {
        Flag.NOT_A_MINIMUM: depth > max(slack, 3 * stderr, 8 * ulp) or value < -3 * stderr,
        Flag.NOT_MIXED: not (still and spread.n_eff > 5 * count and apart <= chance),
        Flag.LOW_ESS: not spread.n_eff > 50,
        Flag.FEW_RUNS: count < 4,
        Flag.BAD_ACCEPTANCE: not healthy,
        Flag.SHADOW: not exact and not abs(bias.step) <= slack,
        Flag.GRADIENT_NOISE: not bias.noise <= TOO_NOISY,
        Flag.FLOAT_RESOLUTION: 4 * ulp > stderr,
        Flag.NONFINITE: not answer or count < len(fine),
    }
    return sum(int(flag) for flag, on in raised.items() if on)
