"""MBAR and BAR against pymbar, on the same reduced energies, in double precision.

    drift    oscillators whose centres and stiffness drift along the states
    ladder   one oscillator at K temperatures, u_kn = beta_k U_n
    bar      the work values between the first two oscillators

Ratios are of process CPU time on one pinned core within a round, the order of the runners
rotating; pymbar runs its default solver without JAX. Both stop at their own tolerance, and
the table says how far apart their answers are.

    python scripts/bench_estimators.py            # some 5 minutes
    python scripts/bench_estimators.py --quick    # smoke run, figures mean nothing
"""

import argparse
import functools
import os
import statistics
import sys
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


def bench(states: int, count: int, rounds: int) -> None:
    """All problems at one size, as a table with verdicts."""
    print(f"\nK={states}, N={count} each, {rounds} rounds")
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
        for text, met in (
            (f"{name} >= {targets[name]:.0f} x pymbar", speed[1] >= targets[name]),
            (f"{name} equal to {EQUAL:.0e}", apart <= EQUAL),
        ):
            print(f"  {'met   ' if met else 'MISSED'}  {text}")


def main() -> None:
    """Pin to one core, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, help="core to pin to; the last allowed one")
    parser.add_argument("--quick", action="store_true", help="one small size, 2 rounds")
    args = parser.parse_args()
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        # read when numpy is imported; idle threads of a pinned process burn its time
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    allowed = sorted(os.sched_getaffinity(0))
    # before the first use of jax, which makes one thread per allowed core
    os.sched_setaffinity(0, {allowed[-1] if args.core is None else args.core})
    print(f"jax {jax.__version__}  numpy {np.__version__}  load {os.getloadavg()[0]:.1f}")
    print("CPU-time ratios within a round, min/median/max; larger is faster")
    with jax.enable_x64(True):
        for states, count in ((4, 100),) if args.quick else TARGETS:
            bench(states, count, 2 if args.quick else args.rounds)


if __name__ == "__main__":
    main()
