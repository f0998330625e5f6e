"""The claims on the laws of learning with their verdicts: holds, fails or open.

Marks: [paper] stated in the abstract or title matter of Vanchurin (2021), [paper?] our
reading of its body, which could not be seen, [standard] textbook, [ours] derived or chosen
here. Criteria of experiments A, B, D and E are those of the specification.

Source: specification of the theory, sections 2, 8 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thermojax.experiments.reproduction import claim, identity, in_words, record

__all__ = ["claims", "identities", "numbers"]

Arrays = Mapping[str, np.ndarray]


def claims(arrays: Arrays) -> list[dict]:
    """All claims from the arrays of a result, as rows of texts."""
    groups = (_entropy, _factorisation, _first_law, _destruction, _ensemble, _depth)
    return [row for group in groups for row in group(arrays)]


def _at(arrays: Arrays, name: str) -> np.ndarray:
    """[draw, checkpoint] means over the networks of a draw."""
    return arrays[name].mean(axis=1)


def _series(values: np.ndarray) -> str:
    """Means over draws along the last axis."""
    return ", ".join(in_words(values[:, k]) for k in range(values.shape[1]))


def _entropy(arrays: Arrays) -> list[dict]:
    entropy, fixed = arrays["a_entropy"], arrays["a_fixed_entropy"]
    drop = entropy[..., 0] - entropy[..., -1]
    moves = np.ptp(fixed, axis=2).max(axis=(1, 2))
    falls = np.all(np.diff(fixed, axis=2) < 0, axis=(1, 2, 3))
    complexity = arrays["a_complexity"]
    shift = np.abs(complexity[..., -1] - complexity[..., 0]).max(axis=1)
    return [
        claim(
            "[paper]",
            "Second law: the total entropy falls while the network learns (beta fitted to the "
            "loss, beta*)",
            "S(beta*) falls between all checkpoints of every network, by more than 20 nats "
            "per example in all",
            f"S(beta*) = {_series(_at(arrays, 'a_entropy'))} nats per example",
            np.all(np.diff(entropy, axis=2) < 0, axis=(1, 2)) & np.all(drop > 20, axis=1),
        ),
        claim(
            "[ours]",
            "The second law holds for states at a fixed temperature as well",
            "S(beta) at fixed beta falls between all checkpoints of every network",
            f"it moves by {in_words(moves)} nats at most, up and down",
            falls,
        ),
        claim(
            "[ours]",
            "What falls is the thermodynamic entropy: the complexity hardly moves",
            "complexity changes by less than a tenth of the entropy's fall, every network",
            f"complexity {_series(_at(arrays, 'a_complexity'))}; largest change "
            f"{in_words(shift)} nats of {in_words(drop.mean(axis=1))}",
            np.all(np.abs(complexity[..., -1] - complexity[..., 0]) < 0.1 * drop, axis=1),
        ),
    ]


def _factorisation(arrays: Arrays) -> list[dict]:
    fraction, rms = arrays["b_fraction"], arrays["b_rms"]
    energetic = _at(arrays, "a_energetic")[:, -1]
    return [
        claim(
            "[paper]",
            "At a learning equilibrium the partition function factorises, Z = Z1(beta) Z2(q)",
            "interaction over four temperatures and the networks: final fraction below 1/4 of "
            "the first, final rms below 1/10",
            f"fraction {_series(fraction)}; rms {_series(rms)} nats",
            (fraction[:, -1] < 0.25 * fraction[:, 0]) & (rms[:, -1] < 0.1 * rms[:, 0]),
        ),
        claim(
            "[ours]",
            "Trained networks sit where the energetic force is gone (the local form of it)",
            "energetic fraction at beta* below 1/2 at the end",
            f"{in_words(energetic)}: descent has not stopped and the force is energy's",
            energetic < 0.5,
        ),
    ]


def _first_law(arrays: Arrays) -> list[dict]:
    du = arrays["c_delta_u"][:, -1]
    of_du = lambda name: np.abs(arrays[name][:, -1] / du)
    thermal, both = of_du("c_residual_th"), of_du("c_residual_sum")
    part = arrays["c_delta_complexity"] / arrays["c_delta_entropy_ref"]
    return [
        claim(
            "[standard]",
            "First law: dU = T dS + <dH/dq> . dq along the path of learning",
            "residual below 1% of the loss released, its magnitude on the sides of the path "
            "falling fourfold when steps halve (order above 1.8)",
            f"{in_words(100 * of_du('c_residual'))} %, order {in_words(_order(arrays), 3)}",
            (of_du("c_residual") < 0.01) & (_order(arrays) > 1.8),
        ),
        claim(
            "[paper]",
            "The increment of the loss is proportional to those of thermodynamic entropy plus "
            "complexity (7.11)",
            "the abstract does not fix the sign of complexity or the constant: two readings "
            "with constant 1 below",
            f"dU = {arrays['c_ratio'][0]:.3f} T dS_ref at beta*, exactly; dC is "
            f"{in_words(part)} of dS_ref",
            "open",
        ),
        claim(
            "[paper?]",
            "dU = T dS_ref: the loss pays for the thermodynamic entropy (first reading)",
            "it misses less than 5% of dU",
            f"it misses {in_words(100 * thermal)} %",
            thermal < 0.05,
        ),
        claim(
            "[paper?]",
            "dU = T (dS_ref + dC): and for the complexity (second reading)",
            "it misses less than 5% of dU",
            f"it misses {in_words(100 * both)} %",
            both < 0.05,
        ),
    ]


def _order(arrays: Arrays) -> np.ndarray:
    """Order at which the first law's residual falls, from the two finest paths."""
    defect = arrays["c_defect"]
    return np.log2(defect[:, -2] / defect[:, -1])


def _destruction(arrays: Arrays) -> list[dict]:
    made, error = arrays["a_efficiency"], arrays["a_efficiency_stderr"]
    low = (made / error).min(axis=(1, 2))
    return [
        claim(
            "[paper]",
            "Learning destroys the entropy of the trainables: the Laplacian of the free energy "
            "is positive",
            "above 4 of its errors at every checkpoint of every network, beta*",
            f"{_series(_at(arrays, 'a_efficiency'))} per example (the bare loss: "
            f"{_series(_at(arrays, 'a_loss_laplacian'))}); at least {in_words(low)} errors",
            low > 4,
        )
    ]


def _ensemble(arrays: Arrays) -> list[dict]:
    change, step = arrays["d_change"], arrays["d_step"]
    at = int(np.argmin(np.abs(step - 10)))
    exact, first, white, plain, fit = change[:, at].T
    return [
        claim(
            "[standard]",
            "Entropy of an ensemble of networks: each step of descent destroys "
            "-<log|det(1 - eta H)|>",
            f"after {step[at]} steps whitened nearest neighbours within .1 nats of it",
            f"{in_words(exact, 3)} nats; whitened neighbours {in_words(white, 3)}, first order "
            f"{in_words(first, 3)}, plain neighbours {in_words(plain, 3)}, Gaussian "
            f"{in_words(fit, 3)}",
            np.abs(white - exact) < 0.1,
        ),
        claim(
            "[ours]",
            "Density estimates lag where the cloud turns into a thin curved sheet",
            f"after {step[-1]} steps whitened neighbours miss more than .1 nats, plain ones "
            "more than the whitened",
            f"{in_words(change[:, -1, 2], 3)} and {in_words(change[:, -1, 3], 3)} for "
            f"{in_words(change[:, -1, 0], 3)} nats",
            (np.abs(change[:, -1, 2] - change[:, -1, 0]) > 0.1)
            & (change[:, -1, 3] > change[:, -1, 2]),
        ),
    ]


def _depth(arrays: Arrays) -> list[dict]:
    mean = arrays["e_efficiency"].mean(axis=2)  # [draw, depth, beta]
    each = mean / arrays["e_size"][0][:, None]
    depths, betas = arrays["e_depth"], arrays["e_fixed_beta"]
    hot, cold = int(np.argmin(betas)), mean.shape[2] - 1
    growth = mean[:, -1] / mean[:, 0]
    per = each[:, -1] / each[:, 0]
    part = arrays["e_complexity_laplacian"].mean(axis=2)
    return [
        claim(
            "[paper]",
            "Deeper networks learn more efficiently: the Laplacian of F grows with depth (hot "
            f"states, beta = {betas[hot]:g})",
            f"depth {depths[-1]} over depth {depths[0]} above 1.5",
            f"{_series(mean[:, :, hot])} at depths {', '.join(map(str, depths))}; ratio "
            f"{in_words(growth[:, hot])}",
            growth[:, hot] > 1.5,
        ),
        claim(
            "[ours]",
            "It does so at the temperature of the loss as well (beta*)",
            f"depth {depths[-1]} over depth {depths[0]} above 1",
            f"{_series(mean[:, :, cold])}; ratio {in_words(growth[:, cold])}",
            growth[:, cold] > 1,
        ),
        claim(
            "[ours]",
            f"Per parameter it grows as well (beta = {betas[hot]:g})",
            f"depth {depths[-1]} over depth {depths[0]} above 1",
            f"ratio {in_words(per[:, hot])}; at beta* {in_words(per[:, cold])}",
            per[:, hot] > 1,
        ),
        claim(
            "[ours]",
            "The growth with depth is the complexity's",
            "the Laplacian of 1/2 log det S_out grows by more than 2",
            f"{_series(part)}; ratio {in_words(part[:, -1] / part[:, 0])}",
            part[:, -1] / part[:, 0] > 2,
        ),
    ]


def identities(arrays: Arrays) -> list[dict]:
    """Relations that hold exactly, with what is left of them."""
    split = arrays["a_entropy"] - (
        arrays["a_entropy_ref"] + arrays["a_complexity"] + arrays["a_excess"]
    )
    residual = arrays["c_residual"]
    limit = residual[:, -1] - (residual[:, -2] - residual[:, -1]) / 3
    # the integral of T dS_ref, refined in the same way
    spent = arrays["c_delta_u"] - arrays["c_residual_th"]
    spent = spent[:, -1] - (spent[:, -2] - spent[:, -1]) / 3
    du = arrays["c_delta_u"][:, -1]
    outputs = 2 * arrays["a_excess"]  # beta* makes beta H_min half the number of outputs
    return [
        identity("S = S_ref + C + E", split, np.abs(arrays["a_entropy"]).max(), 1e-12),
        identity("beta* : beta H_min = n_out / 2", outputs - outputs.mean(), outputs, 1e-10),
        identity("first law, extrapolated to fine steps", limit, du, 1e-3),
        identity(
            "dU / (T dS_ref) = (n_h + n_out) / n_h at beta*",
            du / spent - arrays["c_ratio"],
            arrays["c_ratio"],
            1e-2,
        ),
    ]


def numbers(arrays: Arrays) -> dict[str, list[dict[str, Any]]]:
    """Tables: states of learning, factorisation, first law, entropy of ensembles, depth."""
    names = ("loss", "beta", "entropy", "complexity", "excess", "energetic", "efficiency")
    states = [
        {"step": int(step)} | {n: record(_at(arrays, f"a_{n}")[:, k]) for n in names}
        for k, step in enumerate(arrays["a_step"])
    ]
    split = [
        {"step": int(s), "fraction": record(f), "rms": record(r)}
        for s, f, r in zip(
            arrays["a_step"], arrays["b_fraction"].T, arrays["b_rms"].T, strict=True
        )
    ]
    columns = ("delta_u", "heat", "work", "residual", "residual_th", "residual_sum")
    law = [
        {"points": int(n)} | {c: record(arrays[f"c_{c}"][:, i]) for c in columns}
        for i, n in enumerate(arrays["c_refinement"])
    ]
    kinds = ("log_det", "first_order", "whitened", "plain", "gaussian")
    ensemble = [
        {"step": int(s)}
        | {kind: record(arrays["d_change"][:, i, j]) for j, kind in enumerate(kinds)}
        for i, s in enumerate(arrays["d_step"])
    ]
    titles = [*(f"beta_{b:g}" for b in arrays["e_fixed_beta"]), "beta_star"]
    mean = arrays["e_efficiency"].mean(axis=2)
    depth = [
        {"depth": int(d), "parameters": int(arrays["e_size"][0, i])}
        | {title: record(mean[:, i, j]) for j, title in enumerate(titles)}
        | {"loss_laplacian": record(arrays["e_loss_laplacian"].mean(axis=2)[:, i])}
        for i, d in enumerate(arrays["e_depth"])
    ]
    return {
        "states of learning": states,
        "factorisation": split,
        "first law": law,
        "ensemble": ensemble,
        "depth": depth,
    }
