"""How a local learning coefficient moves with step size, tether and temperature.

A coefficient worth quoting has a plateau in all three: the step should change nothing
(metropolised) or little, the tether little while it is weak, and beta as slowly as
1/log(n beta).

Cost: one run of `tj.llc` for each factor and setting.

Source: specification of the core, 3.7; the sweep is derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from thermojax.checkpoints import Store, in_chunks
from thermojax.estimators.estimate import Estimate
from thermojax.llc import llc
from thermojax.system import System
from thermojax.typing import Key, PyTree

__all__ = ["Sensitivity", "llc_sensitivity"]


class Sensitivity(NamedTuple):
    """lambda_hat while one setting at a time is multiplied.

    Attributes:
        factor: [F] factors, 1 among them.
        value: name -> [F], for "step_size", "gamma" and "beta".
        stderr: likewise.
        flags: likewise, uint32.
    """

    factor: np.ndarray
    value: dict[str, np.ndarray]
    stderr: dict[str, np.ndarray]
    flags: dict[str, np.ndarray]


class _Done(NamedTuple):
    """Runs behind us, and value, stderr and flags [runs, 3] of all."""

    runs: int
    rows: np.ndarray


def llc_sensitivity(
    sys: System,
    anchor: PyTree,
    key: Key,
    est: Estimate,
    *,
    factors: tuple[float, ...] = (1 / 3, 3.0),
    progress: Callable[[int, int], None] | bool = False,
    checkpoint: Store | None = None,
    **settings: Any,
) -> Sensitivity:
    """How lambda_hat moves with step size, tether and temperature.

    A coefficient worth quoting has a plateau in all three: the step should change nothing
    (metropolised) or little, the tether little while it is weak, and beta as slowly as
    1/log(n beta).

    Args:
        sys: the system.
        anchor: w*.
        key: typed key.
        est: from `llc` with the same system, anchor and settings.
        factors: by which each setting is multiplied.
        progress: show a bar, or call `progress(runs_done, runs)`.
        checkpoint: folder where finished runs are kept, and from where the rest goes on.
        settings: as given to `llc`, apart from beta, gamma, step_size and params.

    Example:
        >>> import jax.numpy as jnp
        >>> from thermojax import system
        >>> bowl, zero = system(lambda x: jnp.sum(x**2), like=jnp.zeros(4)), jnp.zeros(4)
        >>> more = {"n_steps": 400, "n_chains": 4}
        >>> est = llc(bowl, zero, jax.random.key(0), beta=50.0, **more)
        >>> out = llc_sensitivity(bowl, zero, jax.random.key(1), est, **more)
        >>> sorted(out.value), out.factor.tolist()[1:]
        (['beta', 'gamma', 'step_size'], [1.0, 3.0])
    """
    parts = est.parts
    names = ("step_size", "gamma", "beta")
    moved = {name: float(np.asarray(getattr(parts, name))) for name in names[1:]}
    runs = [(name, f) for name in names for f in factors if name != "gamma" or moved["gamma"]]
    steps = hasattr(parts.params, "step_size")
    runs = [run for run in runs if steps or run[0] != "step_size"]
    order = np.argsort([1.0, *factors])

    def one(i: int) -> tuple[float, float, float]:
        name, factor = runs[i]
        more: dict[str, Any] = {**moved, "n": parts.n, **settings, "polish": 0}
        if name == "step_size":
            step = factor * parts.params.step_size
            more["params"] = parts.params._replace(step_size=step)
        else:
            more[name] = factor * moved[name]
        found = llc(sys, anchor, jax.random.fold_in(key, i), **more)
        return float(found.value), float(found.stderr), float(found.flags)

    def advance(state: _Done, until: int) -> _Done:
        new = np.array([one(i) for i in range(state.runs, until)])
        return _Done(until, np.concatenate([state.rows[: state.runs], new, state.rows[until:]]))

    done = in_chunks(
        advance,
        _Done(0, np.zeros((len(runs), 3))),
        lambda state: state.runs,
        len(runs),
        chunk=1,
        unit="runs",
        progress=progress,
        checkpoint=checkpoint,
        inputs=(sys, anchor, key, est.value, moved, parts.params, factors),
    )
    base = (float(est.value), float(est.stderr), float(est.flags))
    rows = {
        name: [base, *(row for row, run in zip(done.rows, runs, strict=True) if run[0] == name)]
        for name in names
    }
    full = {name: got for name, got in rows.items() if len(got) == len(order)}
    column = lambda j, kind: {
        name: np.array([got[i][j] for i in order]).astype(kind) for name, got in full.items()
    }
    return Sensitivity(
        np.array([1.0, *factors])[order],
        column(0, float),
        column(1, float),
        column(2, np.uint32),
    )
