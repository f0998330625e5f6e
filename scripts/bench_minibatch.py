"""Minibatch Langevin ensembles on digits against the bare gradient and a peer.

Batches of 64 of the 1797 digits, an MLP 64-32-32-10 with tanh (3466 parameters), prior
N(0, 1), float32. Compared per walker and step:

    limit_grad          value_and_grad of one batch, vmapped over the walkers, in a loop: no
                        gather, no noise, no prior. A descent step links the iterations.
    limit_grad_blocked  the same in blocks of 32 walkers with the time loop inside.
    sgld                tj.run(ledger="none"), fresh batches without replacement
    sgld+heat           the same with ledger="energy" and streamed moments of U
    baoab               tj.langevin(gradient=tj.minibatch(64))
    blackjax sgld       vmapped over the walkers in a scan, batches by randint

Ratios are of process CPU time on one pinned core within a round; see bench_sampler.py. The
noise: tj.noise.normal against jax.random.normal, flat.

    python scripts/bench_minibatch.py            # some 4 minutes
    python scripts/bench_minibatch.py --quick    # smoke run, figures mean nothing
"""

import argparse
import functools
import os
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
from bench_sampler import digits, energy, machine, measure, speed, template

import thermojax as tj
from thermojax.noise import normal

BATCH, BLOCK, EPS = 64, 32, 1e-6
TARGETS = {  # reference, least share of it, least speed-up over the peer
    1: ("limit_grad", 0.66, 1.35),
    16: ("limit_grad", 0.66, 1.35),
    64: ("limit_grad", 0.66, 1.35),
    256: ("limit_grad_blocked", 0.66, 1.6),
    1024: ("limit_grad_blocked", 0.65, 2.2),
}


class Network:
    """Energy of a batch of rows, one pass through the network for all of them."""

    def __call__(self, theta: list, control: tuple, data: tuple) -> jax.Array:
        """[N] losses."""
        hidden, classes = data
        for weight, bias in theta[:-1]:
            hidden = jnp.tanh(hidden @ weight + bias)
        logits = hidden @ theta[-1][0] + theta[-1][1]
        picked = jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - picked


def descend(theta: list, data: tuple, n_steps: int) -> tuple[list, jax.Array]:
    """`n_steps` bare gradients on one batch."""

    def body(_, carry):
        theta, total = carry
        value, slope = jax.value_and_grad(energy)(theta, (), data)
        return jax.tree.map(lambda x, g: x - 1e-7 * g, theta, slope), total + value

    return jax.lax.fori_loop(0, n_steps, body, (theta, jnp.float32(0)))


def limits(thetas: list, data: tuple, n_steps: int) -> dict[str, Callable]:
    """The bare gradient of one batch, vmapped and in blocks."""
    batch = jax.tree.map(lambda x: x[:BATCH], data)
    size = jax.tree.leaves(thetas)[0].shape[0]
    walk = lambda t, d: jax.vmap(lambda x: descend(x, d, n_steps))(t)
    block = min(BLOCK, size)
    split = jax.tree.map(lambda x: x.reshape(size // block, block, *x.shape[1:]), thetas)
    blocked = jax.jit(lambda t, d: jax.lax.map(lambda x: walk(x, d), t))
    return {
        "limit_grad": functools.partial(jax.jit(walk), thetas, batch),
        "limit_grad_blocked": functools.partial(blocked, split, batch),
    }


def library(system: tj.System, thetas: list, n_steps: int) -> dict[str, Callable]:
    """The library's samplers."""
    gradient = tj.minibatch(BATCH)
    key, point = jax.random.key(0), tj.Point(1.0)
    size = jax.tree.leaves(thetas)[0].shape[0]
    kernels = {
        "sgld": tj.sgld(system, gradient, step_size=EPS),
        "baoab": tj.langevin(system, gradient=gradient, step_size=1e-3),
    }
    runners = {}
    for name, kernel in kernels.items():
        start = tj.init_ensemble(kernel, key, point, size, min(BLOCK, size), positions=thetas)
        bare = functools.partial(tj.run, kernel, key, start, point, n_steps)
        runners[name] = functools.partial(bare, ledger="none")
        runners[f"{name}+heat"] = functools.partial(bare, accumulate={"U": tj.moments()})
    return runners


def peer(system: tj.System, thetas: list, n_steps: int) -> dict[str, Callable]:
    """BlackJAX SGLD as its manual runs it; empty where it is not installed."""
    try:
        import blackjax
    except ImportError:
        return {}
    data = system.data
    size, n = jax.tree.leaves(thetas)[0].shape[0], data[0].shape[0]

    def slope(theta, batch):
        posterior = lambda t: system.log_base(t) - n / BATCH * energy(t, (), batch)
        return jax.grad(posterior)(theta)

    sampler = blackjax.sgld(slope)

    @jax.jit
    def walk(thetas, key, data):
        def one(key, theta):
            pick, noise = jax.random.split(key)
            rows = jax.random.randint(pick, (BATCH,), 0, n)
            batch = jax.tree.map(lambda x: x[rows], data)
            return sampler.step(noise, theta, batch, EPS)

        def body(thetas, key):
            return jax.vmap(one)(jax.random.split(key, size), thetas), None

        return jax.lax.scan(body, thetas, jax.random.split(key, n_steps))[0]

    return {"blackjax sgld": functools.partial(walk, thetas, jax.random.key(0), data)}


def bench(size: int, gradients: int, rounds: int) -> None:
    """All runners at one number of walkers, as a table with verdicts."""
    data, n_steps = digits(), max(20, gradients // size)
    prior = tj.gaussian_prior(1.0, like=template())
    system = tj.System(None, Network(), None, prior, data=data)
    thetas = jax.jit(jax.vmap(prior.sample))(jax.random.split(jax.random.key(1), size))
    runners = {
        **limits(thetas, data, n_steps),
        **library(system, thetas, n_steps),
        **peer(system, thetas, n_steps),
    }
    times = measure(runners, rounds)
    reference, share, lead = TARGETS.get(size, TARGETS[64])
    print(f"\n{size} walkers, {n_steps} steps, {rounds} rounds")
    print(f"{'':20}{'us/walker-step':>15}  {'of ' + reference:22}over blackjax sgld")
    triple = lambda x: "/".join(f"{v:.3f}" for v in x) if x else "-"
    for name in times:
        cost = statistics.median(times[name]) / size / n_steps * 1e6
        of_limit, over = speed(times, name, reference), speed(times, name, "blackjax sgld")
        print(f"{name:20}{cost:15.1f}  {triple(of_limit):22}{triple(over)}")
    seen = speed(times, "sgld", reference)[1]
    report(f"sgld >= {share} of {reference}", seen >= share)
    if size == 256:
        report("baoab >= 0.62 of limit_grad", speed(times, "baoab", "limit_grad")[1] >= 0.62)
    if "blackjax sgld" in times:
        report(f"sgld >= {lead} x blackjax", speed(times, "sgld", "blackjax sgld")[1] >= lead)


def report(target: str, met: bool) -> None:
    """One verdict."""
    print(f"  {'met   ' if met else 'MISSED'}  {target}")


def bench_noise(rounds: int, count: int) -> None:
    """Flat normals of both generators, in a loop that nothing can leave out."""

    def total(draw):
        def body(i, carry):
            x = draw(jax.random.fold_in(jax.random.key(0), i))
            return carry + x

        return jax.jit(lambda: jax.lax.fori_loop(0, 100, body, jnp.zeros(count)))

    runners = {
        "jax.random.normal": total(lambda k: jax.random.normal(k, (count,))),
        "thermojax": total(lambda k: normal(k, count)),
    }
    times = measure(runners, rounds)
    print(f"\nnoise: {count} normals, 100 draws")
    for name in times:
        cost = statistics.median(times[name]) / 100 / count * 1e9
        ratio = speed(times, name, "jax.random.normal")
        print(f"{name:20}{cost:8.2f} ns   " + "/".join(f"{v:.2f}" for v in ratio))
    fast = speed(times, "thermojax", "jax.random.normal")[1]
    report("thermojax >= 2.3 x jax.random.normal", fast >= 2.3)


def main() -> None:
    """Pin to one core, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--walkers", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--gradients", type=int, default=8192, help="walkers x steps a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, help="core to pin to; the last allowed one")
    parser.add_argument("--quick", action="store_true", help="2 walkers, 2 rounds")
    args = parser.parse_args()
    if args.quick:
        args.walkers, args.gradients, args.rounds = [2], 40, 2
    allowed = sorted(os.sched_getaffinity(0))
    # before the first use of jax, which makes one thread per allowed core
    os.sched_setaffinity(0, {allowed[-1] if args.core is None else args.core})
    print("  ".join(f"{name} {value}" for name, value in machine().items()))
    print("CPU-time ratios within a round, min/median/max; larger is faster")
    for size in args.walkers:
        bench(size, args.gradients, args.rounds)
    bench_noise(args.rounds, 1000 if args.quick else 100_000)


if __name__ == "__main__":
    main()
