"""The local learning coefficient of a reduced-rank regression against devinterp.

    y = B A x + noise, widths 8-6-8, true map of rank 3, 10^4 examples: lambda = 26, d/2 = 48

Both sample the same tethered posterior by Langevin steps on batches of 512: n beta = n/log n,
gamma = 1, devinterp's lr = 1e-4 (a `step_size` of 5e-5), ten chains of 1,000 + 2,000 steps
from the truth. devinterp (1.x; 2.x takes language models only) is given the loss of all the
data, without which its answers scatter by 25. Its speed is read off one chain.

The truth lies above the minimum of its data: `base_point` says by how much, and value +
base_point belongs to the minimum. Chain-steps per second of processor time, burn-in
included. Run by bench_estimators.py.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import thermojax as tj
from thermojax.exact.learning_coefficients import reduced_rank_coefficient

WIDTHS, RANK, COUNT, BATCH, LR = (8, 6, 8), 3, 10_000, 512, 1e-4
CHAINS, BURN_IN, DRAWS = 10, 1000, 2000
LEAST_SPEED, MOST_OFF, MOST_SPREAD = 30.0, 1.5, 0.5


def truth() -> tuple[np.ndarray, np.ndarray]:
    """A [6, 8] and B [8, 6] with B A of rank 3."""
    rng = np.random.default_rng(0)
    keep = np.arange(WIDTHS[1]) < RANK
    first = rng.normal(size=WIDTHS[1::-1]) / np.sqrt(WIDTHS[0]) * keep[:, None]
    second = rng.normal(size=WIDTHS[:0:-1]) / np.sqrt(WIDTHS[1]) * keep
    return first.astype(np.float32), second.astype(np.float32)


def examples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs with unit noise, float32."""
    rng = np.random.default_rng(seed)
    first, second = truth()
    x = rng.normal(size=(COUNT, WIDTHS[0]))
    y = x @ (second @ first).T + rng.normal(size=(COUNT, WIDTHS[2]))
    return x.astype(np.float32), y.astype(np.float32)


def loss(theta: tuple, control: tuple, example: tuple) -> jax.Array:
    """Negative log likelihood of one example, nats."""
    first, second = theta
    x, y = example
    return 0.5 * jnp.sum((second @ (first @ x) - y) ** 2)


def batched(system: tj.System) -> tj.Kernel:
    """Langevin steps on batches."""
    return tj.sgld(system, tj.minibatch(BATCH))


def ours(draws: int, burn_in: int) -> Callable[..., tj.Estimate]:
    """(seed, which=) -> estimate, on the data set `which`, or that of the seed."""

    def solve(seed, which=None):
        data = tuple(map(jnp.asarray, examples(seed if which is None else which)))
        anchor = tuple(map(jnp.asarray, truth()))
        return tj.llc(
            tj.finite_sum(loss, data, like=anchor),
            anchor,
            jax.random.key(seed),
            kernel=batched,
            step_size=LR / 2,
            n_chains=CHAINS,
            n_steps=draws,
            burn_in=burn_in,
        )

    return solve


def peer(chains: int, draws: int, burn_in: int) -> Callable[[int], float] | None:
    """seed -> estimate of devinterp; None where it is not installed."""
    try:
        import torch
        from devinterp.optim.sgld import SGLD
        from devinterp.slt.sampler import estimate_learning_coeff
    except ImportError:
        return None
    torch.set_num_threads(1)

    def evaluate(model, rows):
        x, y = rows
        return 0.5 * torch.mean(torch.sum((model(x) - y) ** 2, dim=1))

    def solve(seed):
        x, y = map(torch.from_numpy, examples(seed))
        first, second = map(torch.from_numpy, truth())
        inner, outer = (torch.nn.Linear(*w.shape[::-1], bias=False) for w in (first, second))
        inner.weight.data, outer.weight.data = first, second
        model = torch.nn.Sequential(inner, outer)
        torch.manual_seed(seed)
        rows = torch.utils.data.TensorDataset(x, y)
        loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True)
        with torch.no_grad():
            base = float(evaluate(model, (x, y)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return estimate_learning_coeff(
                model,
                loader,
                evaluate=evaluate,
                sampling_method=SGLD,
                optimizer_kwargs={
                    "lr": LR,
                    "localization": 1.0,
                    "nbeta": COUNT / np.log(COUNT),
                },
                num_draws=draws,
                num_chains=chains,
                num_burnin_steps=burn_in,
                init_loss=base,
                seed=seed,
                verbose=False,
            )

    return solve


def timed(solve: Callable, seed: int, chain_steps: int) -> tuple:
    """What it says and chain-steps per second of processor time."""
    before = time.process_time()
    found = solve(seed)
    return found, chain_steps / (time.process_time() - before)


def bench(quick: bool, report: Callable) -> None:
    """Ours on several data sets; the peer's speed in turn with it."""
    rounds, draws, burn_in = (1, 400, 100) if quick else (5, DRAWS, BURN_IN)
    exact = reduced_rank_coefficient(WIDTHS, RANK).value
    mine, other = ours(draws, burn_in), peer(1, draws, burn_in)
    mine(rounds)
    found, speeds = [], []
    for seed in range(rounds):
        est, speed = timed(mine, seed, CHAINS * (draws + burn_in))
        found.append(est)
        speeds.append([speed])
        if other is not None:
            speeds[-1].append(timed(other, seed, draws + burn_in)[1])
    values = np.asarray([float(est.value) for est in found])
    base = np.asarray([float(est.parts.base_point) for est in found])
    errors = [float(est.stderr) for est in found]
    print(f"\nlearning coefficient, exact {exact}, {rounds} data sets")
    pairs = [f"{v:.2f} ± {e:.2f}" for v, e in zip(values, errors, strict=True)]
    print("value          " + "  ".join(pairs))
    print("base_point     " + "  ".join(f"{b:.2f}" for b in base))
    print(f"chain-steps/s  {statistics.median(row[0] for row in speeds):.0f}")
    off = abs(values.mean() - exact)
    # data sets differ by themselves: the spread of the chains is seen on one of them
    again = [float(mine(rounds + i, which=0).value) for i in range(rounds)]
    spread = float(np.std([values[0], *again], ddof=1))
    report(f"mean {values.mean():.2f} within {MOST_OFF} of {exact}", off <= MOST_OFF)
    report(f"sd {spread:.2f} <= {MOST_SPREAD} over runs on one data set", spread <= MOST_SPREAD)
    report("base point reported", bool(np.all(base > 0)))
    if other is not None:
        ratios = [row[0] / row[1] for row in speeds]
        middle = statistics.median(ratios)
        line = f"{min(ratios):.0f}/{middle:.0f}/{max(ratios):.0f}"
        report(
            f"{line} >= {LEAST_SPEED:.0f} x devinterp's chain-steps/s", middle >= LEAST_SPEED
        )
