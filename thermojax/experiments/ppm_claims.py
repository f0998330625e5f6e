"""The theory's claims with their verdicts: holds, fails or open, by measured numbers.

Source: specification of the theory, sections 2, 8 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from thermojax.estimators.estimate import explain
from thermojax.experiments.reproduction import claim, in_words

__all__ = ["claims"]

Arrays = Mapping[str, np.ndarray]


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
        claim(
            "[paper?]",
            "Learned information accumulates inside the heat that sampling dumps: heat = "
            "entropy drop + L-info + conditional entropy production",
            "closes to 1e-5 of the heat in float32, every run",
            f"largest residual {closure.max():.1e}",
            closure.max(1) < 1e-5,
        ),
        claim(
            "[paper?]",
            "Slow learning is quasi-static: the conditional entropy production falls with the "
            "learning rate",
            "slope of log-log in [0.8, 1.5], full batch",
            f"slope {in_words(slope)}",
            (slope > 0.8) & (slope < 1.5),
        ),
        claim(
            "[ours]",
            "The learning efficiency rises towards 1 as learning slows down",
            "monotone in the learning rate",
            "efficiency "
            + ", ".join(
                f"{in_words(m)} at {r:g}" for m, r in zip(merit.T, rate[slow], strict=True)
            ),
            np.all(np.diff(merit) > 0, axis=1),
        ),
        claim(
            "[ours]",
            "What is learned does not depend on how slowly, only its price does",
            "L-info changes by less than 1 % between the slow runs",
            f"L-info {in_words(info[:, slow].mean(1))} nats, largest change {change.max():.2%}",
            change < 0.01,
        ),
    ]
    if noisy.any():
        same = [int(np.flatnonzero(slow & (rate == r))[0]) for r in rate[noisy]]
        ratio = cost[:, noisy] / cost[:, same]
        found.append(
            claim(
                "[ours]",
                "Minibatch noise drags the outputs and dissipates far more than the lag of a "
                "full batch",
                "more than ten times, at every learning rate",
                f"{in_words(ratio[:, -1])} times at learning rate {rate[noisy][-1]:g}",
                ratio.min(1) > 10,
            )
        )
    if fast.any():
        jump = cost[:, fast][:, -1] / cost[:, slow][:, 0]
        found.append(
            claim(
                "[ours]",
                "Beyond a learning rate training turns turbulent: cost leaves the linear law",
                f"more than ten times the cost at {rate[slow][0]:g}",
                f"{in_words(jump)} times at {rate[fast][-1]:g}, efficiency "
                f"{in_words(arrays['a_efficiency'][:, fast][:, -1])}",
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
        claim(
            "[ours]",
            "Both informations begin at zero",
            "M-info below 4 of its errors, L-info brackets zero within 0.01 nats",
            f"M-info {in_words(start[:, 0])}, L-info within {begin.max():.4f} nats of zero",
            (np.abs(start) < 4 * error[..., 0]).all(1) & (begin < 0.01),
        ),
        claim(
            "[standard]",
            "A hotter optimiser remembers less of its data set",
            "M-info falls with the temperature",
            f"M-info {in_words(memory[:, 0])} nats at {cold}, "
            f"{in_words(memory[:, -1])} at {hot}",
            np.all(np.diff(memory) < 0, axis=1),
        ),
        claim(
            "[paper?]",
            "L-info never exceeds M-info for fresh samples",
            "lower bound <= upper bound and lower bound <= M-info, at every temperature",
            f"L-info in [{in_words(low[:, 0])}, {in_words(high[:, 0])}] nats per label "
            f"at {cold}",
            ((low <= high) & (low <= memory)).all(1),
        ),
        claim(
            "[ours]",
            "Heating the optimiser makes memory more relevant",
            "r = L / M, from the midpoint of the bracket, rises with the temperature",
            f"r = {in_words(ratio[:, 0])} at {cold}, {in_words(ratio[:, -1])} at {hot}",
            np.all(np.diff(ratio) > 0, axis=1),
        ),
        claim(
            "[ours]",
            "Noise erases irrelevant memory first",
            "L-info keeps at least five times the share that M-info keeps",
            f"from {cold} to {hot} M-info keeps {in_words(kept_m)}, L-info {in_words(kept_l)}",
            kept_l > 5 * kept_m,
        ),
        claim(
            "[ours]",
            "More labels show more of the memory: L^(k) climbs, below min(M, log G)",
            "at the lowest temperature the midpoint at the most labels exceeds that at the "
            "fewest, and the lower bound stays below the ceiling everywhere",
            f"{in_words(middle[:, 0, 0])} nats for {k[0]}, {in_words(middle[:, 0, -1])} for "
            f"{k[-1]} labels; ceiling {in_words(ceiling[:, 0])}",
            (middle[:, 0, -1] > middle[:, 0, 0])
            & (joint[..., 0] <= ceiling[..., None]).all((1, 2)),
        ),
        claim(
            "[paper?]",
            "Ideal learning remembers nothing irrelevant: M = L",
            "L^(k) reaches min(M, log G)",
            f"{k[-1]} labels show {in_words(share)} of it at {cold} and the number still "
            "climbs: more labels would be needed to decide",
            "holds" if np.all(share > 0.95) else "open",
        ),
    ]


def _reservoir(arrays: Arrays) -> list[dict]:
    slope = _slope(arrays["c_size"], arrays["c_deviation"])
    return [
        claim(
            "[paper]",
            "An over-parameterised model is a reservoir of high heat capacity",
            "(naive - finite) / naive entropy falls as 1/d: slope -1 within 0.02 (with "
            "C = d/2, which is our definition, this is analytic: a check of the plumbing)",
            f"slope {in_words(slope, 4)}, deviation "
            f"{in_words(arrays['c_deviation'][:, -1], 2)} at d = {int(arrays['c_size'][-1])}",
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
        claim(
            "[standard]",
            "Integral fluctuation theorem along training, <exp(-s)> = 1",
            "within 4 standard errors at every quasi-static learning rate",
            f"{in_words(mean[:, first], 5)} at {rate[first]:g}, largest |z| "
            f"{np.abs(z[:, slow]).max():.1f}",
            "open" if np.any(flags[:, slow]) else (np.abs(z[:, slow]) < 4).all(1),
        ),
        claim(
            "[standard]",
            "Detailed fluctuation theorem: the log ratio of forward and reversed histograms "
            "is a line of slope 1",
            f"weighted slope in [0.9, 1.1] at learning rate {rate[first]:g}",
            f"slope {in_words(slope[:, first])}, intercept "
            f"{in_words(arrays['d_intercept'][:, first], 2)}",
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
            text = f"{in_words(mean[:, i])}, effective sample size {size.min():.2g} or more"
        found.append(
            claim(
                "[standard]",
                f"Integral fluctuation theorem of turbulent training (learning rate "
                f"{rate[i]:g})",
                "as above, where the average converges at all",
                text,
                "open" if bad else np.abs(z[:, i]) < 4,
            )
        )
    return found
