"""The claims on temperatures with their verdicts: holds, fails or open, by measured numbers.

Marks: [paper] stated in the abstract of Zhang 2024, [standard] textbook, [ours] our
definition or derivation, following the programme of that paper.

Source: specification of the theory, sections 0, 2, 7 and 9.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from thermojax.estimators.estimate import Flag
from thermojax.experiments.reproduction import claim, identity, in_words
from thermojax.experiments.temperature_linear import LOSSES

__all__ = ["claims", "layer_identities", "layer_temperatures"]

Arrays = Mapping[str, np.ndarray]


def claims(arrays: Arrays) -> list[dict]:
    """All claims from the arrays of a result, as rows of texts."""
    groups = (_linear, _initialisers, _heats, _layers, _engines, _gibbs)
    return [row for group in groups for row in group(arrays)]


def _linear(arrays: Arrays) -> list[dict]:
    scale, hot = arrays["a_scale"], arrays["a_temperature"]
    slope = np.log(hot[:, -1] / hot[:, -2]) / np.log(scale[-1] / scale[-2])
    by_sigma = arrays["a_temperature_of_sigma"]
    lowest = by_sigma.argmin(axis=1)
    family = arrays["a_family"]
    apart = family[:, 1] / family[:, 0] - 1
    table = "; ".join(
        f"{loss}: " + ", ".join(f"{t:.4g}" for t in row)
        for loss, row in zip(LOSSES, hot, strict=True)
    )
    steep = ", ".join(f"{loss} {s:.2f}" for loss, s in zip(LOSSES, slope, strict=True))
    return [
        claim(
            "[paper]",
            "Temperature indicates the distribution of the data: it rises with their variance",
            "T increases with the scale of the inputs, every loss",
            f"T at c = {', '.join(f'{c:g}' for c in scale)}: {table}",
            np.all(np.diff(hot) > 0),
        ),
        claim(
            "[ours]",
            "For wide inputs T grows as their variance (mse) or standard deviation (mae, bce)",
            "last slope of log T against log c in 2 ± 0.1 (mse), 1 to 1.2 (mae, bce)",
            f"slopes {steep}",
            abs(slope[0] - 2) < 0.1 and np.all((slope[1:] > 1) & (slope[1:] < 1.2)),
        ),
        claim(
            "[ours]",
            "T has a minimum in the initialiser's scale: it rises again where the scale nears "
            "the resolution",
            "the lowest T is at neither end of the scales, every loss",
            "lowest at sigma = " + ", ".join(f"{s:.2g}" for s in arrays["a_sigma"][lowest]),
            np.all((lowest > 0) & (lowest < by_sigma.shape[1] - 1)),
        ),
        claim(
            "[ours]",
            "Mean squared error sees two moments of the initialiser, the other losses more",
            "normal and uniform of one variance: mse equal to 1e-5, mae and bce apart by 1e-4",
            "relative difference " + ", ".join(f"{a:.1e}" for a in apart),
            abs(apart[0]) < 1e-5 and np.all(np.abs(apart[1:]) > 1e-4),
        ),
    ]


def _initialisers(arrays: Arrays) -> list[dict]:
    """The differential temperatures of experiment A."""
    scale = arrays["a_scale"]
    virial, virial_error = arrays["a_virial"][:, 0], arrays["a_virial_stderr"][:, 0]
    flow, flow_error = arrays["a_flow"][:, 0], arrays["a_flow_stderr"][:, 0]
    z = np.abs(virial - 2 * scale**2) / virial_error
    z_flow = np.abs(flow - arrays["a_flow_exact"]) / flow_error
    index, one = flow / virial, int(np.argmin(np.abs(scale - 1)))
    scored = arrays["a_flow"][:, 1, one]
    return [
        claim(
            "[ours]",
            "Virial and flow temperatures of drawn linear models follow their closed forms",
            "T_scale = 2 c^2 and T_flow = tr(H^2 M) / tr H within 4 standard errors, mse",
            f"largest |z| {z.max():.1f} and {z_flow.max():.1f}",
            np.maximum(z.max(1), z_flow.max(1)) < 4,
        ),
        claim(
            "[ours]",
            "An initialiser on collinear data has no temperature: thermometers disagree",
            "T_flow / T_scale above 2 at c = 1, mse",
            f"ratio {in_words(index[:, one])}, closed form "
            f"{arrays['a_flow_exact'][one] / (2 * scale[one] ** 2):.3g}",
            index[:, one] > 2,
        ),
        claim(
            "[ours]",
            "Kinks: differentiation misses the curvature of absolute losses and says so, the "
            "initialiser's score does not",
            "KINKED raised; with the score T_flow of mae within 5 % of the exact curvature's",
            f"naive T_flow {arrays['a_naive'].max():.3g}, by score "
            f"{in_words(scored)}, exact curvature "
            f"{in_words(arrays['a_kinked'])}",
            (arrays["a_naive_flags"].astype(int) & Flag.KINKED != 0)
            & (np.abs(scored / arrays["a_kinked"] - 1) < 0.05),
        ),
    ]


def layer_temperatures(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """T_l [draw, network, layer] of whole runs, and T [draw, network]."""
    heat, made = arrays["b_heat"].sum(2), arrays["b_made"].sum(2)
    return heat / made, np.nansum(heat, -1) / np.nansum(made, -1)


def _released(arrays: Arrays) -> np.ndarray:
    return arrays["b_energy"][..., 0] - arrays["b_energy"][..., -1]


def _missed(arrays: Arrays) -> np.ndarray:
    """Part of the energy change that the layers' heats miss, [draw, network]."""
    drop = _released(arrays)
    return np.abs(np.nansum(arrays["b_heat"], (2, 3)) / drop - 1)


def layer_identities(arrays: Arrays) -> list[dict]:
    """Heats that add up, and the whole as the entropy-weighted mean of its layers."""
    heat, made = arrays["b_heat"].sum(2), arrays["b_made"].sum(2)
    each, whole = layer_temperatures(arrays)
    share = made / np.nansum(made, -1, keepdims=True)
    mean = np.nansum(share * each, -1)
    tanh = arrays["b_activation"] == "tanh"
    gap = (np.nansum(heat, -1) - _released(arrays))[:, tanh]
    relu = [i for i, name in enumerate(arrays["b_activation"]) if name in ("relu", "identity")]
    rows = [
        identity(
            "layers: heats add up to the energy change, tanh",
            gap,
            _released(arrays)[:, tanh],
            0.01,
        ),
        identity("layers: T is the entropy-weighted mean of T_l", mean - whole, whole, 1e-10),
    ]
    if relu:
        depth = int(arrays["b_depth"][relu[0]]) + 1
        sizes = arrays["b_sizes"][relu[0], :depth]
        virial = arrays["b_virial"][:, relu][:, :, 0, :depth] * sizes
        gap = np.ptp(virial, axis=-1) / np.abs(virial).max(-1)
        rows.append(identity("Euler: D_l T_scale,l equal in bias-free layers", gap, 1.0, 1e-4))
    return rows


def _heats(arrays: Arrays) -> list[dict]:
    """Whether the books of experiment B are kept."""
    each, whole = layer_temperatures(arrays)
    tanh = [i for i, name in enumerate(arrays["b_activation"]) if name == "tanh"]
    missed, drop = _missed(arrays), _released(arrays)
    apart = np.abs(arrays["b_checkpoint"] / drop - 1)[:, tanh]
    naive = arrays["b_naive"] / drop[:, 1] - 1
    known = (arrays["b_flags"].astype(int) & Flag.TOO_COARSE != 0).any(2)
    flags = arrays["b_coarse_flags"].astype(int) & Flag.TOO_COARSE != 0
    coarse = arrays["b_coarse_energy"]
    ratio = arrays["b_coarse_heat"] / (coarse[:, 0] - coarse[:, -1])
    return [
        claim(
            "[paper]",
            "A network has a global and local temperatures; the heats of its layers add up",
            "heats miss less than 1 % of the energy change (tanh); a network whose heats miss "
            "more is flagged TOO_COARSE",
            f"largest defect {missed[:, tanh].max():.2%} (tanh), {missed.max():.2%} (all); "
            f"two tanh layers: T = {in_words(whole[:, 1])}, "
            f"layers {_parts(arrays, each, 1)}",
            (missed[:, tanh] < 0.01).all(1) & ((missed < 0.01) | known).all(1),
        ),
        claim(
            "[ours]",
            "Every step has to be booked: sums over checkpoints 20 steps apart miss the start",
            "checkpoint sums miss more than 1 % of the energy change, tanh networks",
            f"they miss {apart.min():.1%} to {apart.max():.1%}; the naive sum of eps |g|^2 "
            f"{in_words(100 * naive, 2)} %",
            (apart > 0.01).all(1),
        ),
        claim(
            "[ours]",
            "A run whose steps are too large for its books says so",
            "TOO_COARSE raised, and not raised by the tanh networks at the usual step",
            f"in {in_words(flags.mean(1), 2)} of the windows; heats {in_words(ratio)} times "
            "the energy change",
            flags.any(1) & ~known[:, tanh].any(1),
        ),
    ]


def _parts(arrays: Arrays, values: np.ndarray, i: int) -> str:
    """Every layer's value of one network."""
    return ", ".join(in_words(values[:, i, k]) for k in range(int(arrays["b_depth"][i]) + 1))


def _layers(arrays: Arrays) -> list[dict]:
    """Hot and cold layers of experiment B."""
    each, start = layer_temperatures(arrays)[0], arrays["b_start_flow"]
    tanh = [i for i, name in enumerate(arrays["b_activation"]) if name == "tanh"]
    last = arrays["b_depth"][tanh]
    order = np.stack(
        [
            (np.nanargmin(each[:, i], -1) == 0) & (np.nanargmax(each[:, i], -1) == d)
            for i, d in zip(tanh, last, strict=True)
        ],
        axis=1,
    )
    hottest = np.stack([np.nanargmax(start[:, i], -1) == 0 for i in tanh], axis=1)
    fall = arrays["b_long_flow_total"][:, 0] / arrays["b_long_flow_total"][:, -1]
    virial = arrays["b_virial"][:, :, -1]
    parts = functools.partial(_parts, arrays)
    found = [
        claim(
            "[ours]",
            "Over training the first layer is the coldest and the readout the hottest (tanh)",
            "every depth",
            "; ".join(f"{int(arrays['b_depth'][i])} hidden: {parts(each, i)}" for i in tanh),
            order.all(1),
        ),
        claim(
            "[ours]",
            "Before training it is the other way round: T_flow of the first layer is highest "
            "(tanh)",
            "every depth",
            f"T_flow with {last[1]} hidden layers {parts(start, tanh[1])}",
            hottest.all(1),
        ),
        claim(
            "[ours]",
            "Training cools: T_flow falls by more than 100 over a long run",
            "ratio of the whole network's T_flow, first to last",
            f"{in_words(fall)} times, loss {in_words(arrays['b_long_energy'][:, 0])} to "
            f"{in_words(arrays['b_long_energy'][:, -1], 2)}",
            fall > 100,
        ),
        claim(
            "[ours]",
            "The virial about 0 of a separable task turns negative: weights want to grow",
            "negative in every layer of every network at the end",
            f"two tanh layers: {in_words(virial[:, 1, 0], 2)} in the first, "
            f"{in_words(virial[:, 1, int(last[1])], 2)} in the readout",
            (np.nan_to_num(virial, nan=-1.0) < 0).all((1, 2)),
        ),
    ]
    if "relu" in arrays["b_activation"]:
        i = int(np.flatnonzero(arrays["b_activation"] == "relu")[0])
        cold = each[:, i, 0] < each[:, i, int(arrays["b_depth"][i])]
        found.append(
            claim(
                "[ours]",
                "The cold first layer and the hot readout are a law of all activations",
                "first layer colder than the readout with relu, too",
                f"relu: {parts(each, i)}",
                cold,
            )
        )
    return found


def _engines(arrays: Arrays) -> list[dict]:
    names = arrays["c_activation"][:-1]
    measured, wide = arrays["c_measured"][..., 0], arrays["c_predicted"][..., 0]
    apart = np.abs(measured.mean(2) / wide - 1)
    curved = names != "identity"
    logs = np.log(measured[:, curved])
    total = logs.var((1, 2, 3))
    between = logs.mean((2, 3)).var(1) / total
    net = measured.prod(-1).mean(2)
    kinds = dict(zip(arrays["c_activation"], arrays["c_class"], strict=True))
    dying = sorted(str(n) for n, kind in kinds.items() if kind == "saturating")
    kappa = arrays["c_kappa"]
    gap = np.sort(kappa)
    jump = np.diff(gap).max()
    second = arrays["b_depth"] == arrays["b_depth"][1]
    each = arrays["b_made"].sum(2)[:, second]
    weight = each[..., 0] / np.nansum(each, -1)
    merit = np.nanprod(arrays["b_response"][:, second, 0], -1)
    rank = _rank_correlation(merit, weight)
    return [
        claim(
            "[ours]",
            "Measured efficiencies are those of the mean field",
            "eta_R within 10 % in every layer, averaged over initialisations",
            f"largest difference {apart.max():.1%}",
            (apart < 0.1).all((1, 2)),
        ),
        claim(
            "[paper]",
            "The work efficiency of a layer mainly depends on its activation",
            "the activation explains more than 90 % of the variance of ln eta_R over layers "
            "and initialisations",
            f"{in_words(100 * between)} %; eta_net "
            + ", ".join(f"{n} {m:.2g}" for n, m in zip(names, net.mean(0), strict=True)),
            between > 0.9,
        ),
        claim(
            "[paper]",
            "There are two types of engines (our rule: efficiency against heat, kappa)",
            "kappa splits into two groups, wider apart than 0.4 with nothing between; "
            "saturating: sigmoid, softmax, tanh",
            f"gap {jump:.2f}; saturating: {', '.join(dying)}",
            jump > 0.4 and dying == ["sigmoid", "softmax", "tanh"],
        ),
        claim(
            "[ours]",
            "An efficient network moves more of its entropy in the first layer",
            "rank correlation of eta_net before training and the first layer's entropy weight; "
            f"{int(second.sum())} activations are too few to decide",
            f"rank correlation {in_words(rank, 2)}",
            "open",
        ),
    ]


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's, along the last axis."""
    ranks = [np.argsort(np.argsort(x, -1), -1).astype(float) for x in (a, b)]
    centred = [x - x.mean(-1, keepdims=True) for x in ranks]
    norm = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    return (centred[0] * centred[1]).sum(-1) / norm


def _gibbs(arrays: Arrays) -> list[dict]:
    bath = float(arrays["d_temperature"])
    z = np.abs(arrays["d_gibbs"] - bath) / arrays["d_gibbs_stderr"]
    start = arrays["d_initial"] / bath
    away = np.abs(arrays["d_initial"] - bath) / arrays["d_initial_stderr"]
    spread = start.max((1, 2)) / start.min((1, 2))
    flow, virial = arrays["d_gibbs"][:, 0, 0], arrays["d_gibbs"][:, 1, 0]
    return [
        claim(
            "[standard]",
            "A canonical ensemble has one temperature: flow and virial, of the whole and of "
            "every layer, are that of the bath",
            "within 4 standard errors, sampled by MALA",
            f"T = {bath:g}: flow {in_words(flow)}, virial {in_words(virial)}, largest |z| "
            f"{z.max():.1f}",
            (z < 4).all((1, 2)),
        ),
        claim(
            "[ours]",
            "An initialised ensemble has none",
            "a thermometer further than 5 standard errors from the bath, and hottest over "
            "coldest above 2",
            f"hottest over coldest {in_words(spread)}; from {start.min():.2g} to "
            f"{start.max():.2g} times the bath's",
            (away.max((1, 2)) > 5) & (spread > 2),
        ),
    ]
