"""Time and memory of the informations of an ensemble against its size.

Softmax networks 64-16-10 with tanh (1210 parameters), float32, on random inputs. One jitted
call computes both informations of N networks, G = N / 8 datasets of 8 seeds:

    L-info  8 labels drawn from every network, N^2 x 8 log probabilities
    M-info  parameters after a Langevin kick under all N kick densities, N^2 x 1210

The memory is what the compiled program allocates besides its arguments, and the peak of the
whole process. Targets: slope of log time against log N at most 2.1, under 2 GiB.

    python scripts/bench_information.py            # some 2 minutes
    python scripts/bench_information.py --smoke    # smoke run, figures mean nothing
"""

import argparse
import functools
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.estimators.information import grouped_mixture_information
from thermojax.theories.ppm.ensembles import log_likelihood_matrix

SEEDS, LABELS, KICK = 8, 8, 1e-2
WIDTHS = (64, 16, 10)
MOST_SLOPE, MOST_BYTES = 2.1, 2 << 30


def log_probs(theta: tuple, x: jax.Array) -> jax.Array:
    """[10] log probabilities of the labels of one input."""
    first, second = theta
    return jax.nn.log_softmax(jnp.tanh(x @ first) @ second)


def log_label(theta: tuple, sample: tuple) -> jax.Array:
    """Log probability of a label given its input."""
    x, label = sample
    return log_probs(theta, x)[label]


def log_kick(mean: jax.Array, theta: jax.Array) -> jax.Array:
    """Log density of kicked parameters, up to a constant that all networks share."""
    return -jnp.sum((theta - mean) ** 2) / (2 * KICK)


@functools.partial(jax.jit, static_argnames="size")
def informations(key: jax.Array, size: int) -> tuple:
    """Bounds of L-info and M-info of `size` random networks in groups of `SEEDS`."""
    keys = jax.random.split(key, 6)
    groups = size // SEEDS
    count = WIDTHS[0] * WIDTHS[1] + WIDTHS[1] * WIDTHS[2]
    centre = jax.random.normal(keys[0], (groups, 1, count))
    # far below the kick per parameter, or the brackets of M-info were empty words
    mean = 0.005 * centre + 0.002 * jax.random.normal(keys[1], (groups, SEEDS, count))
    mean = 0.3 * jax.random.normal(keys[5], (count,)) + mean.reshape(size, count)
    theta = mean + KICK**0.5 * jax.random.normal(keys[2], mean.shape)
    cut = WIDTHS[0] * WIDTHS[1]
    networks = (
        theta[:, :cut].reshape(size, *WIDTHS[:2]),
        theta[:, cut:].reshape(size, *WIDTHS[1:]),
    )
    inputs = jnp.broadcast_to(
        jax.random.normal(keys[3], (LABELS, WIDTHS[0])), (size, LABELS, WIDTHS[0])
    )
    logits = jax.vmap(jax.vmap(log_probs, (None, 0)))(networks, inputs)
    labels = jax.random.categorical(keys[4], logits)
    grouped = (groups, SEEDS, groups, SEEDS)
    learned = log_likelihood_matrix(log_label, networks, (inputs, labels))
    memorized = log_likelihood_matrix(log_kick, mean, theta[:, None])
    return tuple(
        grouped_mixture_information(ll.reshape(*grouped, -1)) for ll in (learned, memorized)
    )


def measure(size: int, rounds: int) -> tuple[float, int]:
    """Least seconds of a call, and bytes that it allocates."""
    key = jax.random.key(0)
    program = informations.lower(key, size).compile()
    analysis = program.memory_analysis()
    held = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else 0
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        learned, memorized = jax.block_until_ready(program(key))
        times.append(time.perf_counter() - start)
    print(
        f"{size:6} networks  {min(times):8.3f} s  {held / 2**20:8.1f} MiB   "
        f"L-info [{learned.lower:.3f}, {learned.upper:.3f}]  "
        f"M-info [{memorized.lower:.2f}, {memorized.upper:.2f}]"
        f"{'  saturated' if memorized.saturated else ''}"
    )
    return min(times), held


def report(target: str, met: bool) -> None:
    """One verdict."""
    print(f"  {'met   ' if met else 'MISSED'}  {target}")


def main() -> None:
    """Measure, fit the slope, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="two small sizes, one round")
    args = parser.parse_args()
    if args.smoke:
        args.sizes, args.rounds = [16, 32], 1
    times, held = zip(*(measure(size, args.rounds) for size in args.sizes), strict=True)
    slope = np.polyfit(np.log(args.sizes), np.log(times), 1)[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"slope {slope:.2f}, memory {max(held) / 2**20:.0f} MiB beside the arguments")
    print(f"process {peak / 2**20:.0f} MiB")
    report(f"slope of log time against log N <= {MOST_SLOPE}", slope <= MOST_SLOPE)
    report("peak memory of the process under 2 GiB", peak < MOST_BYTES)


if __name__ == "__main__":
    main()
