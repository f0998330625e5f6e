"""MBAR and BAR against pymbar, on the same reduced energies, in double precision.

    drift    oscillators whose centres and stiffness drift along the states
    ladder   one oscillator at K temperatures, u_kn = beta_k U_n
    bar      the work values between the first two oscillators

pymbar runs its default solver without JAX. Both stop at their own tolerance, and the table
says how far apart their answers are. Run by bench_estimators.py.
"""

import functools
import os
import statistics
import time
import warnings
from collections.abc import Callable

import jax
import numpy as np

import thermojax as tj

# pymbar switches jax to double precision for the whole process if it may
os.environ["PYMBAR_DISABLE_JAX"] = "TRUE"
TARGETS = {  # (states, samples of each) -> least speed-up
    (32, 1000): {"drift": 6.0, "ladder": 12.0, "bar": 3.0},
    (64, 5000): {"drift": 4.0, "ladder": 12.0, "bar": 3.0},
}
EQUAL = 1e-9


def drift(states: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """u_kn and n_k of oscillators side by side."""
    rng = np.random.default_rng(0)
    centres, stiffness = 0.5 * np.arange(states), np.linspace(1.0, 3.0, states)
    noise = rng.normal(size=(states, count))
    x = (centres[:, None] + noise / np.sqrt(stiffness)[:, None]).ravel()
    return 0.5 * stiffness[:, None] * (x - centres[:, None]) ** 2, np.full(states, count)


def ladder(states: int, count: int, dim: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """u_kn = beta_k U_n of an oscillator in `dim` dimensions."""
    rng = np.random.default_rng(1)
    betas = np.geomspace(0.05, 1.0, states)
    energies = rng.gamma(dim / 2, 1 / betas[:, None], (states, count)).ravel()
    return betas[:, None] * energies, np.full(states, count)


def runners(states: int, count: int) -> dict[str, dict[str, Callable[[], np.ndarray]]]:
    """problem -> {library: its answers}; pymbar only where it is installed."""
    found = {}
    problems = {"drift": drift(states, count), "ladder": ladder(states, count)}
    for name, (u, n) in problems.items():
        found[name] = {"thermojax": functools.partial(_ours, u, n)}
    u, _ = problems["drift"]
    forward, reverse = u[1, :count] - u[0, :count], (u[0] - u[1])[count : 2 * count]
    found["bar"] = {"thermojax": lambda: np.asarray(tj.bar(forward, reverse).value)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pymbar
    except ImportError:
        return found

    def theirs(u, n):
        solved = pymbar.MBAR(u, n).compute_free_energy_differences()
        return -solved["Delta_f"][0]

    for name, (u, n) in problems.items():
        found[name]["pymbar"] = functools.partial(theirs, u, n)
    found["bar"]["pymbar"] = lambda: np.asarray(pymbar.bar(forward, reverse)["Delta_f"])
    return found


def _ours(u: np.ndarray, n: np.ndarray) -> np.ndarray:
    return tj.mbar(u, n).estimate.value


def measure(functions: dict[str, Callable], rounds: int, repeats: int) -> dict:
    """CPU seconds of each call, by name, `rounds` of them in rotating order."""
    for fn in functions.values():
        fn()
    names, times = list(functions), {name: [] for name in functions}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.process_time()
            for _ in range(repeats):
                functions[name]()
            times[name].append((time.process_time() - start) / repeats)
    return times


def bench_size(states: int, count: int, rounds: int, report: Callable) -> None:
    """All problems at one size, as a table with verdicts."""
    print(f"\nMBAR and BAR, K={states}, N={count} each, {rounds} rounds")
    print(f"{'':8}{'thermojax ms':>14}{'pymbar ms':>12}  {'speed-up':20}{'apart':>9}")
    targets = TARGETS.get((states, count), TARGETS[32, 1000])
    for name, functions in runners(states, count).items():
        times = measure(functions, rounds, 20 if name == "bar" else 1)
        milli = {k: 1e3 * statistics.median(v) for k, v in times.items()}
        if "pymbar" not in times:
            print(f"{name:8}{milli['thermojax']:14.2f}{'-':>12}")
            continue
        pairs = zip(times["pymbar"], times["thermojax"], strict=True)
        ratios = [b / max(a, 1e-9) for b, a in pairs]
        speed = (min(ratios), statistics.median(ratios), max(ratios))
        apart = float(np.abs(functions["thermojax"]() - functions["pymbar"]()).max())
        line = "/".join(f"{v:.1f}" for v in speed)
        print(
            f"{name:8}{milli['thermojax']:14.2f}{milli['pymbar']:12.2f}  {line:20}{apart:9.1e}"
        )
        report(f"{name} >= {targets[name]:.0f} x pymbar", speed[1] >= targets[name])
        report(f"{name} equal to {EQUAL:.0e}", apart <= EQUAL)


def bench(quick: bool, report: Callable) -> None:
    """Every size; `report(target, met)` takes the verdicts."""
    with jax.enable_x64(True):
        for states, count in ((4, 100),) if quick else TARGETS:
            bench_size(states, count, 2 if quick else 5, report)
