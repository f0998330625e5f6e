"""The theory's claims with their verdicts: holds, fails or open, by measured numbers.

A claim holds if its criterion is met in every draw, fails if it is missed in one, and is open
where the measurement cannot decide. Marks: [paper] stated in the paper's abstract or
introduction, [paper?] our reading of it, [standard] textbook, [ours] derived or defined here.

Source: specification of the theory, sections 2, 8 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from thermojax.estimators.estimate import explain
from thermojax.estimators.mixture import t_factor

__all__ = ["claims", "over_draws"]

Arrays = Mapping[str, np.ndarray]


def over_draws(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean over draws (axis 0) and its standard error, inf for a single draw.

    Example:
        >>> mean, error = over_draws([1.0, 3.0])
        >>> float(mean), round(float(error), 3)
        (2.0, 1.837)
    """
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return values[0], np.full(values.shape[1:], math.inf)
    return values.mean(0), t_factor(n) * values.std(0, ddof=1) / math.sqrt(n)


def _text(values: Any, digits: int = 3) -> str:
    """`mean ± error` over draws."""
    mean, error = over_draws(values)
    bar = f" ± {float(error):.2g}" if np.isfinite(error) else ""
    return f"{float(mean):.{digits}g}{bar}"


def _claim(mark: str, statement: str, criterion: str, measured: str, holds: Any) -> dict:
    """One row; `holds` is one truth value per draw, or a verdict."""
    verdict = holds
    if not isinstance(holds, str):
        verdict = "holds" if np.all(np.asarray(holds)) else "fails"
    return {
        "statement": statement,
        "mark": mark,
        "criterion": criterion,
        "measured": measured,
        "verdict": verdict,
    }


def claims(arrays: Arrays) -> list[dict]:
    """All claims from the arrays of a result, as rows of texts.

    Args:
        arrays: `a_*`, `b_*`, `c_*`, `d_*` with the draws along axis 0, and their axes.
    """
    return [*_learning(arrays), *_memory(arrays), *_reservoir(arrays), *_fluctuations(arrays)]


def _slope(x: Any, y: np.ndarray) -> np.ndarray:
    """Slopes of log y against log x along the last axis."""
    x = np.log(np.asarray(x, float))
    x = x - x.mean()
    return np.log(y) @ x / (x @ x)


def _learning(arrays: Arrays) -> list[dict]:
    rate, full = arrays["a_rate"], arrays["a_batch"] == 0
    slow = arrays["a_slow"] & full
    noisy, fast = ~full, full & ~arrays["a_slow"]
    heat, cost = arrays["a_heat"][..., -1], arrays["a_ep_conditional"][..., -1]
    closure = arrays["a_closure"] / np.maximum(1, np.abs(heat))
    info = 0.5 * (arrays["a_info_lower"] + arrays["a_info_upper"])[..., -1]
    change = np.ptp(info[:, slow], axis=1) / info[:, slow].mean(1)
    slope = _slope(rate[slow], cost[:, slow])
    merit = arrays["a_efficiency"][:, slow]
    found = [
        _claim(
            "[paper?]",
            "Learned information accumulates inside the heat that sampling dumps: heat = "
            "entropy drop + L-info + conditional entropy production",
            "closes to 1e-5 of the heat in float32, every run",
            f"largest residual {closure.max():.1e}",
            closure.max(1) < 1e-5,
        ),
        _claim(
            "[paper?]",
            "Slow learning is quasi-static: the conditional entropy production falls with the "
            "learning rate",
            "slope of log-log in [0.8, 1.5], full batch",
            f"slope {_text(slope)}",
            (slope > 0.8) & (slope < 1.5),
        ),
        _claim(
            "[ours]",
            "The learning efficiency rises towards 1 as learning slows down",
            "monotone in the learning rate",
            "efficiency "
            + ", ".join(
                f"{_text(m)} at {r:g}" for m, r in zip(merit.T, rate[slow], strict=True)
            ),
            np.all(np.diff(merit) > 0, axis=1),
        ),
        _claim(
            "[ours]",
            "What is learned does not depend on how slowly, only its price does",
            "L-info changes by less than 1 % between the slow runs",
            f"L-info {_text(info[:, slow].mean(1))} nats, largest change {change.max():.2%}",
            change < 0.01,
        ),
    ]
    if noisy.any():
        same = [int(np.flatnonzero(slow & (rate == r))[0]) for r in rate[noisy]]
        ratio = cost[:, noisy] / cost[:, same]
        found.append(
            _claim(
                "[ours]",
                "Minibatch noise drags the outputs and dissipates far more than the lag of a "
                "full batch",
                "more than ten times, at every learning rate",
                f"{_text(ratio[:, -1])} times at learning rate {rate[noisy][-1]:g}",
                ratio.min(1) > 10,
            )
        )
    if fast.any():
        jump = cost[:, fast][:, -1] / cost[:, slow][:, 0]
        found.append(
            _claim(
                "[ours]",
                "Beyond a learning rate training turns turbulent: cost leaves the linear law",
                f"more than ten times the cost at {rate[slow][0]:g}",
                f"{_text(jump)} times at {rate[fast][-1]:g}, efficiency "
                f"{_text(arrays['a_efficiency'][:, fast][:, -1])}",
                jump > 10,
            )
        )
    return found


def _memory(arrays: Arrays) -> list[dict]:
    memory, start = arrays["b_m_info"][..., -1], arrays["b_m_info"][..., 0]
    error = arrays["b_m_stderr"]
    low, high = arrays["b_l_info"][..., 0], arrays["b_l_info"][..., 1]
    temperature, ratio = arrays["b_temperature"], arrays["b_relevance"]
    joint, k = arrays["b_joint"], arrays["b_joint_k"]
    middle = joint[..., :2].mean(-1)
    cold, hot = f"T = {temperature[0]:g}", f"T = {temperature[-1]:g}"
    ceiling = np.minimum(memory, math.log(int(arrays["b_groups"])))
    kept_m = memory[:, -1] / memory[:, 0]
    kept_l = (low + high)[:, -1] / (low + high)[:, 0]
    begin = np.abs(arrays["b_l_start"][..., :2]).max((1, 2))
    share = middle[:, 0, -1] / ceiling[:, 0]
    return [
        _claim(
            "[ours]",
            "Both informations begin at zero",
            "M-info below 4 of its errors, L-info brackets zero within 0.01 nats",
            f"M-info {_text(start[:, 0])}, L-info within {begin.max():.4f} nats of zero",
            (np.abs(start) < 4 * error[..., 0]).all(1) & (begin < 0.01),
        ),
        _claim(
            "[standard]",
            "A hotter optimiser remembers less of its data set",
            "M-info falls with the temperature",
            f"M-info {_text(memory[:, 0])} nats at {cold}, {_text(memory[:, -1])} at {hot}",
            np.all(np.diff(memory) < 0, axis=1),
        ),
        _claim(
            "[paper?]",
            "L-info never exceeds M-info for fresh samples",
            "lower bound <= upper bound and lower bound <= M-info, at every temperature",
            f"L-info in [{_text(low[:, 0])}, {_text(high[:, 0])}] nats per label at {cold}",
            ((low <= high) & (low <= memory)).all(1),
        ),
        _claim(
            "[ours]",
            "Heating the optimiser makes memory more relevant",
            "r = L / M, from the midpoint of the bracket, rises with the temperature",
            f"r = {_text(ratio[:, 0])} at {cold}, {_text(ratio[:, -1])} at {hot}",
            np.all(np.diff(ratio) > 0, axis=1),
        ),
        _claim(
            "[ours]",
            "Noise erases irrelevant memory first",
            "L-info keeps at least five times the share that M-info keeps",
            f"from {cold} to {hot} M-info keeps {_text(kept_m)}, L-info {_text(kept_l)}",
            kept_l > 5 * kept_m,
        ),
        _claim(
            "[ours]",
            "More labels show more of the memory: L^(k) climbs, below min(M, log G)",
            "at the lowest temperature the midpoint at the most labels exceeds that at the "
            "fewest, and the lower bound stays below the ceiling everywhere",
            f"{_text(middle[:, 0, 0])} nats for {k[0]}, {_text(middle[:, 0, -1])} for {k[-1]} "
            f"labels; ceiling {_text(ceiling[:, 0])}",
            (middle[:, 0, -1] > middle[:, 0, 0])
            & (joint[..., 0] <= ceiling[..., None]).all((1, 2)),
        ),
        _claim(
            "[paper?]",
            "Ideal learning remembers nothing irrelevant: M = L",
            "L^(k) reaches min(M, log G)",
            f"{k[-1]} labels show {_text(share)} of it at {cold} and the number still climbs: "
            "more labels would be needed to decide",
            "holds" if np.all(share > 0.95) else "open",
        ),
    ]


def _reservoir(arrays: Arrays) -> list[dict]:
    slope = _slope(arrays["c_size"], arrays["c_deviation"])
    return [
        _claim(
            "[paper]",
            "An over-parameterised model is a reservoir of high heat capacity",
            "(naive - finite) / naive entropy falls as 1/d: slope -1 within 0.02 (with "
            "C = d/2, which is our definition, this is analytic: a check of the plumbing)",
            f"slope {_text(slope, 4)}, deviation {_text(arrays['c_deviation'][:, -1], 2)} at "
            f"d = {int(arrays['c_size'][-1])}",
            np.abs(slope + 1) < 0.02,
        )
    ]


def _fluctuations(arrays: Arrays) -> list[dict]:
    rate, slow = arrays["d_rate"], arrays["d_slow"]
    mean, error = arrays["d_mean_exp"], arrays["d_mean_exp_stderr"]
    z = (mean - 1) / np.where(error > 0, error, np.inf)
    flags, slope = arrays["d_flags"].astype(np.uint32), arrays["d_slope"]
    first = int(np.flatnonzero(slow)[0])
    found = [
        _claim(
            "[standard]",
            "Integral fluctuation theorem along training, <exp(-s)> = 1",
            "within 4 standard errors at every quasi-static learning rate",
            f"{_text(mean[:, first], 5)} at {rate[first]:g}, largest |z| "
            f"{np.abs(z[:, slow]).max():.1f}",
            "open" if np.any(flags[:, slow]) else (np.abs(z[:, slow]) < 4).all(1),
        ),
        _claim(
            "[standard]",
            "Detailed fluctuation theorem: the log ratio of forward and reversed histograms "
            "is a line of slope 1",
            f"weighted slope in [0.9, 1.1] at learning rate {rate[first]:g}",
            f"slope {_text(slope[:, first])}, intercept "
            f"{_text(arrays['d_intercept'][:, first], 2)}",
            (slope[:, first] > 0.9) & (slope[:, first] < 1.1),
        ),
    ]
    for i in np.flatnonzero(~slow):
        names = [reason.partition(":")[0] for reason in explain(flags[:, i])]
        bad, size = int(np.sum(flags[:, i] != 0)), arrays["d_ess"][:, i]
        text = (
            f"{mean[:, i].min():.2g} to {mean[:, i].max():.2g}; not converged in {bad} of "
            f"{len(mean)} draws ({', '.join(names)}): effective sample size down to "
            f"{size.min():.2g}, mean s up to {arrays['d_mean'][:, i].max():.2g} nats"
        )
        if not bad:
            text = f"{_text(mean[:, i])}, effective sample size {size.min():.2g} or more"
        found.append(
            _claim(
                "[standard]",
                f"Integral fluctuation theorem of turbulent training (learning rate "
                f"{rate[i]:g})",
                "as above, where the average converges at all",
                text,
                "open" if bad else np.abs(z[:, i]) < 4,
            )
        )
    return found
