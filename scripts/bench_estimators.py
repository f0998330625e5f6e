"""The estimators against their peers: speed, and error at equal work.

    mbar    MBAR and BAR against pymbar: bench_mbar.py
    log_z   log Z of two posteriors against BlackJAX: bench_log_partition.py
    llc     the local learning coefficient against devinterp: bench_llc.py

Times are of the process's processors, on one pinned core, and only their ratios within this
run mean anything. A peer that is not installed is left out, with its verdicts:

    pip install pymbar blackjax torch 'devinterp<2'
    python scripts/bench_estimators.py               # some 15 minutes
    python scripts/bench_estimators.py --only llc
    python scripts/bench_estimators.py --quick       # smoke run, figures mean nothing
"""

import argparse
import os
import sys

import bench_llc
import bench_log_partition
import bench_mbar
import jax
import numpy as np

PARTS = {"mbar": bench_mbar, "log_z": bench_log_partition, "llc": bench_llc}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def report(target: str, met: bool) -> None:
    """One line."""
    print(f"  {'met   ' if met else 'MISSED'}  {target}", flush=True)


def main() -> None:
    """Pin to one core, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--core", type=int, help="core to pin to; the last allowed one")
    parser.add_argument("--quick", action="store_true", help="small and short")
    args = parser.parse_args()
    if any(name not in os.environ for name in THREADS):
        # read when numpy and torch are imported; idle threads of a pinned process burn time
        os.environ.update(dict.fromkeys(THREADS, "1"))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    allowed = sorted(os.sched_getaffinity(0))
    # before the first use of jax, which makes one thread per allowed core
    os.sched_setaffinity(0, {allowed[-1] if args.core is None else args.core})
    print(f"jax {jax.__version__}  numpy {np.__version__}  load {os.getloadavg()[0]:.1f}")
    for name in args.only:
        PARTS[name].bench(args.quick, report)


if __name__ == "__main__":
    main()
