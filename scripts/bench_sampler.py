"""Full-batch Langevin sampling of a digits network against its own gradient and a peer.

A full-batch step is one gradient plus little else, so the gradient alone is the limit, and
the question is how much of it the sampler reaches. Compared, per walker and step, on
digits (1797 x 64), an MLP 64-32-32-10 with tanh and softmax cross entropy (3466
parameters), prior N(0, 1), float32, for 16, 64 and 256 walkers:

    limit_grad          value_and_grad of the likelihood energy, vmapped over the walkers,
                        in a loop: no prior, no noise, no test. A descent step of 1e-7
                        links the iterations, so that none can be hoisted.
    limit_grad_blocked  the same, walker after walker with the time loop inside, so that
                        activations stay in cache: the tight limit.
    mala, baoab         tj.run(ledger="none"): likelihood and prior gradient, log density,
                        noise, acceptance probability and flags; mala's test too.
    mala+sums, ...      the same with ledger="energy" and streamed moments and dyadic
                        error of the energy U.
    blackjax mala       vmapped over the walkers in a scan, with likelihood and prior.

Ratios are of process CPU time on one pinned core, between runners of the same round; the
runners of a round follow each other in an order that rotates, and everything is compiled
before the first round. min / median / max over the rounds; the targets are for medians.

    python scripts/bench_sampler.py            # under 4 minutes
    python scripts/bench_sampler.py --quick    # smoke run, figures mean nothing
"""

import argparse
import functools
import gc
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import thermojax as tj

WIDTHS = (64, 32, 32, 10)
STEP_SIZE = {"mala": 2e-6, "baoab": 2e-3}
SAMPLERS = ("mala", "baoab")
LEAST_OF_LIMIT, LEAST_OVER_PEER, MOST_EXTRA = 0.93, 1.4, 0.05


def digits() -> tuple[jax.Array, jax.Array]:
    """Pixels in [0, 1], [1797, 64] float32, and classes, [1797]."""
    bunch = load_digits()
    return jnp.asarray(bunch.data / 16, jnp.float32), jnp.asarray(bunch.target, jnp.int32)


def energy(theta: list, control: tuple, data: tuple) -> jax.Array:
    """Sum over the examples of the softmax cross entropy, nats."""
    hidden, classes = data
    for weight, bias in theta[:-1]:
        hidden = jnp.tanh(hidden @ weight + bias)
    logits = hidden @ theta[-1][0] + theta[-1][1]
    picked = jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
    return jnp.sum(jax.nn.logsumexp(logits, axis=1) - picked)


def template() -> list:
    """Parameters of the network, all zero."""
    pairs = itertools.pairwise(WIDTHS)
    return [(jnp.zeros((i, o)), jnp.zeros(o)) for i, o in pairs]


def descend(theta: list, data: tuple, n_steps: int) -> tuple[list, jax.Array]:
    """`n_steps` bare gradients of one walker, each at a point that needs the one before."""

    def body(_, carry):
        theta, total = carry
        value, slope = jax.value_and_grad(energy)(theta, (), data)
        return jax.tree.map(lambda x, g: x - 1e-7 * g, theta, slope), total + value

    return jax.lax.fori_loop(0, n_steps, body, (theta, jnp.float32(0)))


def limits(thetas: list, data: tuple, n_steps: int) -> dict[str, Callable]:
    """The bare gradient, vmapped and walker by walker."""
    vmapped = jax.jit(lambda t, d: jax.vmap(lambda x: descend(x, d, n_steps))(t))
    blocked = jax.jit(lambda t, d: jax.lax.map(lambda x: descend(x, d, n_steps), t))
    return {
        "limit_grad": functools.partial(vmapped, thetas, data),
        "limit_grad_blocked": functools.partial(blocked, thetas, data),
    }


def library(system: tj.System, thetas: list, n_steps: int) -> dict[str, Callable]:
    """The library's samplers, bare and with ledger and sums."""
    kernels = {
        "mala": tj.mala(system, step_size=STEP_SIZE["mala"]),
        "baoab": tj.langevin(system, "BAOAB", step_size=STEP_SIZE["baoab"]),
    }
    sums = {"U": tj.moments(), "tau": tj.dyadic()}
    key, point = jax.random.key(0), tj.Point(1.0)
    size = jax.tree.leaves(thetas)[0].shape[0]
    runners = {}
    for name, kernel in kernels.items():
        start = tj.init_ensemble(kernel, key, point, size, positions=thetas)
        bare = functools.partial(tj.run, kernel, key, start, point, n_steps)
        runners[name] = functools.partial(bare, ledger="none")
        runners[f"{name}+sums"] = functools.partial(bare, ledger="energy", accumulate=sums)
    return runners


def peer(system: tj.System, thetas: list, n_steps: int) -> dict[str, Callable]:
    """BlackJAX MALA as its manual runs many chains; empty where it is not installed."""
    try:
        import blackjax
    except ImportError:
        return {}

    def sampler(data):
        log_density = lambda t: system.log_base(t) - energy(t, (), data)
        return blackjax.mala(log_density, STEP_SIZE["mala"])

    @jax.jit
    def walk(states, key, data):
        step = jax.vmap(sampler(data).step)

        def body(states, key):
            states, info = step(jax.random.split(key, size), states)
            return states, jnp.mean(info.acceptance_rate)

        return jax.lax.scan(body, states, jax.random.split(key, n_steps))

    size = jax.tree.leaves(thetas)[0].shape[0]
    start = jax.jit(lambda t, d: jax.vmap(sampler(d).init)(t))(thetas, system.data)
    return {"blackjax mala": lambda: walk(start, jax.random.key(0), system.data)}


def seconds(runner: Callable) -> float:
    """CPU time of one call, all threads of the process."""
    gc.collect()
    before = time.process_time()
    jax.block_until_ready(runner())
    return time.process_time() - before


def measure(runners: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Name -> [rounds] CPU seconds; compiled first, then interleaved in rotated order."""
    for runner in runners.values():
        jax.block_until_ready(runner())
    names = list(runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(seconds(runners[name]))
    return times


def speed(times: dict[str, list[float]], name: str, reference: str) -> list[float]:
    """[min, median, max] over the rounds of how many times faster than `reference`."""
    if name not in times or reference not in times:
        return []
    each = [r / t for r, t in zip(times[reference], times[name], strict=True)]
    return [min(each), statistics.median(each), max(each)]


def verdicts(times: dict[str, list[float]], size: int) -> dict[str, bool]:
    """Each target that applies at this number of walkers, and whether the median met it."""
    met = {}
    for name in SAMPLERS:
        of_limit = speed(times, name, "limit_grad_blocked")[1]
        met[f"{name} >= {LEAST_OF_LIMIT} of limit_grad_blocked"] = of_limit >= LEAST_OF_LIMIT
        extra = 1 / speed(times, f"{name}+sums", name)[1] - 1
        met[f"{name}+sums <= {MOST_EXTRA:.0%} extra"] = extra <= MOST_EXTRA
        if size == 64 and "blackjax mala" in times:
            over_peer = speed(times, name, "blackjax mala")[1]
            met[f"{name} >= {LEAST_OVER_PEER} x blackjax mala"] = over_peer >= LEAST_OVER_PEER
    return met


def bench(size: int, gradients: int, rounds: int) -> dict:
    """All runners at one number of walkers: times, ratios, verdicts."""
    # a call costs some 11 us per walker before its first step: spread it over eight steps
    data, n_steps = digits(), max(8, gradients // size)
    like = template()
    prior = tj.gaussian_prior(1.0, like=like)
    system = tj.system(energy, prior=prior, data=data)
    thetas = jax.jit(jax.vmap(prior.sample))(jax.random.split(jax.random.key(1), size))
    runners = {
        **limits(thetas, data, n_steps),
        **library(system, thetas, n_steps),
        **peer(system, thetas, n_steps),
    }
    times = measure(runners, rounds)
    acceptance = {n: float(jnp.mean(runners[n]()[1]["acceptance"])) for n in SAMPLERS}
    ratios = {
        name: {
            "microseconds": statistics.median(times[name]) / size / n_steps * 1e6,
            "of_blocked": speed(times, name, "limit_grad_blocked"),
            "over_blackjax": speed(times, name, "blackjax mala"),
            "over_bare": speed(times, name, name.removesuffix("+sums")),
        }
        for name in times
    }
    return {
        "walkers": size,
        "steps": n_steps,
        "rounds": rounds,
        "acceptance": acceptance,
        "runners": ratios,
        "targets": verdicts(times, size),
    }


def show(result: dict) -> None:
    """One table."""
    triple = lambda x: "/".join(f"{v:.3f}" for v in x) if x else "-"
    print(f"\n{result['walkers']} walkers, {result['steps']} steps, {result['rounds']} rounds")
    print(
        f"{'':20}{'us/walker-step':>15}  {'of limit_grad_blocked':22}"
        f"{'over blackjax mala':22}{'sums: extra time':22}"
    )
    for name, row in result["runners"].items():
        extra = [1 / v - 1 for v in reversed(row["over_bare"])] if "+sums" in name else []
        print(
            f"{name:20}{row['microseconds']:15.1f}  {triple(row['of_blocked']):22}"
            f"{triple(row['over_blackjax']):22}{triple(extra):22}".rstrip()
        )
    print("acceptance " + ", ".join(f"{n} {a:.2f}" for n, a in result["acceptance"].items()))
    for target, met in result["targets"].items():
        print(f"  {'met   ' if met else 'MISSED'}  {target}")


def machine() -> dict:
    """What the figures depend on."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "dtype": str(jnp.zeros(()).dtype),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "parameters": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(template())),
    }


def main() -> None:
    """Pin to one core, measure, print, and append a line of JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--walkers", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument(
        "--gradients", type=int, default=1024, help="walkers x steps per time, steps at least 8"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, help="core to pin to; the last allowed one")
    parser.add_argument("--quick", action="store_true", help="16 walkers, 2 rounds")
    parser.add_argument("--json", metavar="FILE", help="append one line of JSON")
    args = parser.parse_args()
    if args.quick:
        args.walkers, args.gradients, args.rounds = [16], 64, 2
    allowed = sorted(os.sched_getaffinity(0))
    # before the first use of jax, which makes one thread per allowed core
    os.sched_setaffinity(0, {allowed[-1] if args.core is None else args.core})
    print("  ".join(f"{name} {value}" for name, value in machine().items()))
    print("CPU-time ratios within a round, min/median/max; larger is faster, save for extra")
    results = []
    for size in args.walkers:
        results.append(bench(size, args.gradients, args.rounds))
        show(results[-1])
    if args.json:
        with open(args.json, "a", encoding="utf-8") as file:
            file.write(json.dumps({**machine(), "results": results}) + "\n")


if __name__ == "__main__":
    main()
