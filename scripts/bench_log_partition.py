"""log Z of two posteriors at equal work: tempering, the bridge, and BlackJAX.

    cancer    Bayesian logistic regression of breast cancer, 30 standardised features and a
              bias, prior N(0, 1); log Z = -55.224 ± .006 by replica exchange
    gaussian  32 dimensions of curvatures 1 to 100, prior N(0, 1); closed form

    blackjax  adaptive tempered SMC, 1,024 particles, effective sample size .9, two HMC moves
              of ten steps at each temperature, the step size being the best of a few
    smc       tj.SMC of as many particles, otherwise as it is
    bridge    tj.Bridge as it is

Root mean square error over the seeds, brought to a million gradients and to one second of
processor time by the square root of what each run spent. The two sampling errors of such a
ratio add up to some 1/sqrt(seeds). Run by bench_estimators.py.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer

import thermojax as tj

CURVES = np.geomspace(1.0, 100.0, 32)
MOVES, INNER, PARTICLES, ESS = 2, 10, 1024, 0.9
MOST_BRIDGE, MOST_OVER_PEER = 0.01, 1.1


class Problem(NamedTuple):
    """A posterior, its log Z, and the step size at which the peer is best."""

    system: tj.System
    log_z: float
    step_size: float


def cancer() -> Problem:
    """The regression."""
    x, y = load_breast_cancer(return_X_y=True)
    x = np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)])
    data = (jnp.asarray(x, jnp.float32), jnp.asarray(2.0 * y - 1, jnp.float32))
    loss = lambda w, control, data: jnp.sum(jax.nn.softplus(-data[1] * (data[0] @ w)))
    prior = tj.gaussian_prior(1.0)
    return Problem(tj.system(loss, prior=prior, like=jnp.zeros(31), data=data), -55.224, 0.1)


def gaussian() -> Problem:
    """The well."""
    data = jnp.asarray(CURVES, jnp.float32)
    well = lambda x, control, curves: 0.5 * jnp.sum(curves * x**2)
    system = tj.system(well, prior=tj.gaussian_prior(1.0), like=jnp.zeros(32), data=data)
    return Problem(system, -0.5 * float(np.log1p(CURVES).sum()), 0.2)


def ours(problem: Problem, method) -> Callable[[jax.Array], tuple[float, float]]:
    """key -> log Z and gradients spent."""

    def solve(key):
        est = tj.log_partition(problem.system, tj.Point(1.0), key, method=method)
        return float(est.value), float(est.parts.n_gradients)

    return solve


def peer(problem: Problem) -> Callable[[jax.Array], tuple[float, float]] | None:
    """The same of BlackJAX; None where it is not installed."""
    try:
        import blackjax
        from blackjax.smc import resampling
    except ImportError:
        return None
    system = problem.system
    d = system.template.size
    sampler = blackjax.adaptive_tempered_smc(
        system.log_base,
        lambda theta: -system.energy(theta),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        {
            "step_size": jnp.full(1, problem.step_size),
            "inverse_mass_matrix": jnp.ones((1, d)),
            "num_integration_steps": jnp.full(1, INNER),
        },
        resampling.systematic,
        ESS,
        num_mcmc_steps=MOVES,
    )

    @jax.jit
    def climb(key):
        first, rest = jax.random.split(key)
        particles = jax.vmap(system.sample_base)(jax.random.split(first, PARTICLES))

        def rung(carry):
            state, key, log_z, rungs = carry
            key, now = jax.random.split(key)
            state, info = sampler.step(now, state)
            return state, key, log_z + info.log_likelihood_increment, rungs + 1

        unfinished = lambda carry: carry[0].tempering_param < 1
        start = (sampler.init(particles), rest, jnp.zeros(()), 0)
        return jax.lax.while_loop(unfinished, rung, start)[2:]

    def solve(key):
        log_z, rungs = climb(key)
        return float(log_z), float(rungs) * PARTICLES * MOVES * INNER

    return solve


class Score(NamedTuple):
    """Over the seeds."""

    bias: float
    rmse: float
    gradients: float
    seconds: float

    @property
    def per_gradient(self) -> float:
        """Error at 10^6 gradients."""
        return self.rmse * math.sqrt(self.gradients / 1e6)

    @property
    def per_second(self) -> float:
        """Error at one second."""
        return self.rmse * math.sqrt(self.seconds)


def score(solvers: dict[str, Callable], expected: float, seeds: int) -> dict[str, Score]:
    """All solvers on the same keys, in rotating order, compiled first."""
    for solve in solvers.values():
        solve(jax.random.key(seeds))
    names, rows = list(solvers), {name: [] for name in solvers}
    for seed in range(seeds):
        shift = seed % len(names)
        for name in names[shift:] + names[:shift]:
            before = time.process_time()
            value, gradients = solvers[name](jax.random.key(seed))
            rows[name].append((value - expected, gradients, time.process_time() - before))
    found = {}
    for name, each in rows.items():
        off, gradients, seconds = np.asarray(each).T
        rmse = math.sqrt(np.mean(off**2))
        found[name] = Score(off.mean(), rmse, gradients.mean(), seconds.mean())
    return found


def bench(quick: bool, report: Callable) -> None:
    """Both problems; `report(target, met)` takes the verdicts."""
    seeds = 2 if quick else 48
    methods = {"smc": tj.SMC(n=64 if quick else PARTICLES, n_runs=1), "bridge": tj.Bridge()}
    for name, problem in {"cancer": cancer(), "gaussian": gaussian()}.items():
        solvers = {key: ours(problem, method) for key, method in methods.items()}
        other = peer(problem)
        found = score(solvers | ({"blackjax": other} if other else {}), problem.log_z, seeds)
        print(f"\nlog Z of {name} = {problem.log_z:.3f}, {seeds} seeds")
        print(f"{'':10}{'bias':>8}{'rmse':>8}{'gradients':>11}{'err@1e6':>9}{'err@1s':>9}")
        for key, row in found.items():
            print(
                f"{key:10}{row.bias:8.3f}{row.rmse:8.4f}{row.gradients:11.2g}"
                f"{row.per_gradient:9.4f}{row.per_second:9.4f}"
            )
        error = found["bridge"].per_gradient
        report(
            f"bridge: {error:.4f} <= {MOST_BRIDGE} nats at 1e6 gradients", error <= MOST_BRIDGE
        )
        if "blackjax" not in found:
            continue
        for unit in ("per_gradient", "per_second"):
            ratio = getattr(found["smc"], unit) / getattr(found["blackjax"], unit)
            text = f"smc, error {unit.replace('_', ' ')}: {ratio:.2f}"
            report(f"{text} <= {MOST_OVER_PEER} x blackjax", ratio <= MOST_OVER_PEER)
