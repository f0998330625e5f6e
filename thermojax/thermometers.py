"""Thermometers: at what temperature an ensemble, an optimiser, or a layer of it runs.

    kinetic          T_k = T <|r|^2> / d                    r whitened momenta
    configurational  T_c = <|grad v|^2> / <lap v>
    virial           T_v = <(theta - c) . grad v> / d       c any fixed centre
    noise            T_n = h tr C / (2 d)                   prediction, small steps

With `potential="reduced"` v = u = beta U - log m and the readings are multiplied by T, so
that a canonical ensemble shows T = 1/beta on all of them; with "energy" v = U, for baths
that know no prior (optimisers). C is the covariance of the gradient estimate and h the
learning rate on U (step_size * beta for `sgld`, learning_rate / N for an optimiser of the
mean loss). They agree if and only if the ensemble is canonical: minibatch noise, momentum
and finite steps pull them apart.

Source: specification of the core, 2.5 and 2.8; configurational temperature after Rugh 1997
and Butler et al. 1998.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.dynamics.kernel import Kernel
from thermojax.ensembles import EnsembleState, run
from thermojax.estimators.estimate import Estimate, Flag
from thermojax.gradient_noise import noise_power
from thermojax.networks import gauss_newton_product, layers
from thermojax.system import Point, System
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["Thermometers", "read_thermometers", "thermometers"]

MISMATCH = 4.26
LAPLACIANS = ("hutchinson", "gauss_newton", "score")


class Thermometers(NamedTuple):
    """Temperatures in energy units; entry 0 is the whole system, the others its groups.

    Attributes:
        names: ("all", *groups), length 1 + L.
        set_temperature: T = 1/beta of the point, nan where the bath knows none.
        kinetic: [1 + L]; nan without momenta.
        configurational: [1 + L].
        virial: [1 + L].
        noise: [1 + L] prediction from the gradient noise; nan unless asked for.
        equipartition: largest over smallest configurational temperature of the groups.
    """

    names: tuple[str, ...]
    set_temperature: Array
    kinetic: Estimate
    configurational: Estimate
    virial: Estimate
    noise: Estimate
    equipartition: Estimate

    def table(self) -> str:
        """The readings as text, one line per group."""
        kinds = ("kinetic", "configurational", "virial", "noise")
        lines = ["group".ljust(16) + "".join(k.rjust(26) for k in kinds)]
        for i, name in enumerate(self.names):
            cells = []
            for kind in kinds:
                one = getattr(self, kind)
                value, error = float(one.value[i]), float(one.stderr[i])
                mark = " !" if int(one.flags[i]) else "  "
                known = np.isfinite(value)
                cells.append((f"{value:.4g} ± {error:.2g}{mark}" if known else "-").rjust(26))
            lines.append(name.ljust(16) + "".join(cells))
        return "\n".join(lines)


def thermometers(
    sys: System,
    kernel: Kernel,
    key: Key,
    st: EnsembleState,
    point: Point,
    *,
    n_steps: int = 1000,
    every: int = 50,
    params: PyTree = None,
    potential: str | None = None,
    gradient: Any = None,
    learning_rate: ArrayLike | None = None,
    groups: dict[str, tuple[int, ...]] | None = None,
    laplacian: str = "hutchinson",
    probes: int = 4,
    progress: bool | Callable[[int, int], None] = False,
) -> tuple[EnsembleState, Thermometers]:
    """Run a bath and read its thermometers, globally and layer by layer.

    Args:
        sys: the system.
        kernel: its bath, after burn-in: every reading supposes a stationary state.
        key: typed key of the run and of the probes.
        st: the ensemble; walkers are the independent replicas of the error bars.
        point: thermodynamic state.
        n_steps: steps to run.
        every: a reading is taken every so many steps.
        params: kernel parameters; `kernel.params` by default.
        potential: see the module docstring; by default "energy" for `tj.driven` baths and
            "reduced" for all others.
        gradient: the bath's gradient estimator, for the noise prediction.
        learning_rate: h on U, for the same; divide by 1 - momentum where there is one.
        groups: name -> leaf indices; the layers of theta by default.
        laplacian: see `read_thermometers`.
        probes: see `read_thermometers`.
        progress: see `run`.

    Returns:
        The ensemble after the run, and the readings.

    Raises:
        ValueError: beta = 0 with the reduced potential, unknown options, one walker.

    Example:
        >>> from thermojax import gaussian_prior, init_ensemble, langevin, system
        >>> sys = system(lambda x: x**4, prior=gaussian_prior(1.0), like=0.0)
        >>> bath, key, point = langevin(sys), jax.random.key(0), Point(2.0)
        >>> st = init_ensemble(bath, key, point, size=64)
        >>> _, read = thermometers(sys, bath, key, st, point, n_steps=200, every=20)
        >>> 0.3 < float(read.virial.value[0]) < 0.7
        True
    """
    driven = kernel.meta.name == "driven"
    potential = potential or ("energy" if driven else "reduced")
    st, out = run(
        kernel,
        key,
        st,
        point,
        n_steps,
        params=params,
        every=min(every, n_steps),
        trace=_phase,
        ledger="none",
        progress=progress,
    )
    trace = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), out["trace"])
    read = read_thermometers(
        sys,
        trace["position"],
        point,
        jax.random.fold_in(key, n_steps),
        momenta=trace["momentum"],
        potential=potential,
        gradient=gradient,
        learning_rate=learning_rate,
        groups=groups,
        laplacian=laplacian,
        probes=probes,
        set_temperature=not driven,
    )
    return st, read


def _phase(sample: Any) -> dict[str, PyTree]:
    return {"position": sample.position, "momentum": getattr(sample, "momentum", ())}


def read_thermometers(
    sys: System,
    positions: PyTree,
    point: Point,
    key: Key,
    *,
    momenta: PyTree = (),
    potential: str = "reduced",
    gradient: Any = None,
    learning_rate: ArrayLike | None = None,
    groups: dict[str, tuple[int, ...]] | None = None,
    laplacian: str = "hutchinson",
    probes: int = 4,
    tile: int = 8,
    set_temperature: bool = True,
) -> Thermometers:
    """Read the thermometers on stored states.

    Args:
        sys: the system.
        positions: theta, leading axes [walkers, times].
        point: thermodynamic state.
        key: typed key of the probes.
        momenta: whitened momenta likewise, or ().
        potential: "reduced" or "energy"; see the module docstring.
        gradient: estimator whose noise is predicted from, with `learning_rate`.
        learning_rate: h on U.
        groups: name -> leaf indices; the layers of theta by default.
        laplacian: "hutchinson" (unbiased for smooth energies), "gauss_newton" (flax
            systems: drops the curvature of the network itself) or "score" (divergence of
            the slope over a Gaussian cloud a hundredth of the ensemble's spread wide: it
            sees the kinks of relu networks and absolute losses, which have no Hessian).
        probes: random probes per state.
        tile: states evaluated at once.
        set_temperature: compare with 1/beta; else with the virial temperature of the whole.

    Returns:
        `Thermometers`. Error bars take walkers as independent; TEMPERATURE_MISMATCH marks
        readings more than 4.26 standard errors and 2 % from the reference.

    Raises:
        ValueError: beta = 0 with the reduced potential, unknown options, one walker.
    """
    beta = _checked(point, potential, laplacian, positions)
    unit = 1 / beta if potential == "reduced" else 1.0
    example = jax.tree.map(lambda x: x[0, 0], positions)
    groups = layers(example) if groups is None else groups
    members = tuple(groups.values())
    sizes = _with_total(jnp.asarray(_sizes(example, members), float))
    settings = (potential, laplacian, members, probes, tile)
    squares, laps, virials = _sums(sys, positions, point, key, *settings)
    squares, laps, virials = (
        _with_total(jnp.mean(x, axis=1)) for x in (squares, laps, virials)
    )
    set_to = jnp.asarray(1 / beta if set_temperature else jnp.nan)
    virial = _estimate(unit * virials / sizes, jnp.ones_like(virials))
    reference = set_to if set_temperature else virial.value[0]
    configurational = _estimate(unit * squares, laps)
    kinetic = _kinetic(momenta, members, sizes, 1 / beta)
    noise = _noise(sys, positions, point, key, gradient, learning_rate, members, sizes)
    return Thermometers(
        ("all", *groups),
        set_to,
        _compared(kinetic, reference),
        _compared(configurational, reference),
        _compared(virial, reference),
        noise,
        _equipartition(configurational),
    )


def _checked(point, potential, laplacian, positions):
    if potential not in ("reduced", "energy"):
        raise ValueError(f"potential={potential!r} is unknown: use 'reduced' or 'energy'")
    if laplacian not in LAPLACIANS:
        raise ValueError(f"laplacian={laplacian!r} is unknown: use one of {LAPLACIANS}")
    beta = np.asarray(point.beta).item()
    if not beta > 0 and potential == "reduced":
        raise ValueError(f"beta={beta} has no finite temperature to measure")
    if jax.tree.leaves(positions)[0].shape[0] < 2:
        raise ValueError("thermometers need at least 2 walkers: their spread is the error")
    return beta or np.inf


def _sizes(example, members):
    leaves = jax.tree.leaves(example)
    return [sum(leaves[i].size for i in group) for group in members]


def _with_total(x: Array) -> Array:
    """The sum over groups put before them, along the last axis."""
    return jnp.concatenate([jnp.sum(x, axis=-1, keepdims=True), x], axis=-1)


def _estimate(top: Array, bottom: Array) -> Estimate:
    """Ratio of means of [walkers, K] replicas, its error by linearisation."""
    walkers, below = top.shape[0], jnp.mean(bottom, axis=0)
    ratio = jnp.mean(top, axis=0) / below
    residual = (top - ratio * bottom) / below
    error = jnp.std(residual, axis=0, ddof=1) / np.sqrt(walkers)
    flags = jnp.where(jnp.isfinite(ratio), 0, jnp.uint32(Flag.NONFINITE)).astype(jnp.uint32)
    count = jnp.full(ratio.shape, float(walkers))
    return Estimate(ratio, error, error, count, flags)


def _blank(count: int) -> Estimate:
    nan = jnp.full(count, jnp.nan)
    return Estimate(nan, nan, nan, nan, jnp.zeros(count, jnp.uint32))


def _compared(read: Estimate, reference: Array) -> Estimate:
    gap = jnp.abs(read.value - reference)
    off = (gap > MISMATCH * read.stderr) & (gap > 0.02 * jnp.abs(reference))
    bit = jnp.where(off, jnp.uint32(Flag.TEMPERATURE_MISMATCH), jnp.uint32(0))
    return read._replace(flags=read.flags | bit)


def _kinetic(momenta, members, sizes, temperature):
    leaves = jax.tree.leaves(momenta)
    if not leaves:
        return _blank(len(members) + 1)
    lead = leaves[0].shape[:2]
    squares = [jnp.sum(x.reshape(*lead, -1) ** 2, axis=-1) for x in leaves]
    by_group = jnp.stack([sum(squares[i] for i in group) for group in members], axis=-1)
    total = _with_total(jnp.mean(by_group, axis=1))
    return _estimate(temperature * total / sizes, jnp.ones_like(total))


def _noise(sys, positions, point, key, gradient, learning_rate, members, sizes):
    if gradient is None or learning_rate is None:
        return _blank(len(members) + 1)
    last = jax.tree.map(lambda x: x[:, -1], positions)
    power = noise_power(sys, last, point, key, gradient, members)
    factor = jnp.asarray(learning_rate) / (2 * sizes)
    return _estimate(factor * _with_total(power), jnp.ones((power.shape[0], len(sizes))))


def _equipartition(read: Estimate) -> Estimate:
    values, errors = read.value[1:], read.stderr[1:]
    hot, cold = jnp.argmax(values), jnp.argmin(values)
    ratio = values[hot] / values[cold]
    relative = jnp.hypot(errors[hot] / values[hot], errors[cold] / values[cold])
    error = ratio * jnp.where(hot == cold, 0.0, relative)
    return Estimate(ratio, error, error, read.n_eff[0], jnp.zeros((), jnp.uint32))


def _potential(sys: System, point: Point, potential: str) -> Callable:
    if potential == "energy":
        return lambda theta: sys.energy(theta, point.control)
    return lambda theta: (
        jnp.asarray(point.beta) * sys.energy(theta, point.control)
        - sys.log_base(theta, point.control)
    )


@jax.jit(static_argnames=("potential", "laplacian", "groups", "probes", "tile"))
def _sums(sys, positions, point, key, potential, laplacian, groups, probes, tile):
    """|grad v|^2, a Laplacian and (theta - c) . grad v by group, each [walkers, times, L]."""
    lead = jax.tree.leaves(positions)[0].shape[:2]
    # the mean of the *other* walkers is a centre independent of the walker itself
    others = lambda x: (jnp.sum(x, axis=0) - x) / (lead[0] - 1)
    centre = jax.tree.map(lambda x: others(jnp.mean(x, axis=1)), positions)
    spread = jax.tree.map(lambda x: jnp.std(x, axis=(0, 1)), positions)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), positions)
    slope_of = jax.grad(_potential(sys, point, potential))
    dtype = jnp.result_type(*[x.dtype for x in jax.tree.leaves(flat)])

    def by_group(a, b):
        a, b = jax.tree.leaves(a), jax.tree.leaves(b)
        return jnp.stack([sum(jnp.sum(a[i] * b[i]) for i in group) for group in groups])

    def one(args):
        i, theta, mid = args
        mine = jax.random.fold_in(key, i)
        size = sum(x.size for x in jax.tree.leaves(theta))
        slope, product = _curvature(sys, point, potential, laplacian, slope_of, theta, spread)
        # one probe for all groups: the cross blocks average out, at a fraction of the cost
        draw = jax.random.normal if laplacian == "score" else jax.random.rademacher
        signs = draw(mine, (probes, size), dtype)

        def lap(z):
            z = _unravel(z, theta)
            return by_group(z, product(z))

        shift = jax.tree.map(jnp.subtract, theta, mid)
        laps = jnp.mean(jax.vmap(lap)(signs), axis=0)
        return by_group(slope, slope), laps, by_group(shift, slope)

    ids = jnp.arange(lead[0] * lead[1], dtype=jnp.uint32)
    repeat = jax.tree.map(lambda c: jnp.repeat(c, lead[1], axis=0), centre)
    sums = jax.lax.map(one, (ids, flat, repeat), batch_size=tile)
    return tuple(x.reshape(*lead, -1) for x in sums)


def _curvature(sys, point, potential, laplacian, slope_of, theta, spread):
    """grad v, and z -> (an estimate of the Hessian) z."""
    if laplacian == "hutchinson":
        return jax.linearize(slope_of, theta)
    if laplacian == "score":
        slope = slope_of(theta)

        def difference(z):
            h = jax.tree.map(lambda s: 0.01 * s, spread)
            step = lambda sign: jax.tree.map(lambda x, d, e: x + sign * d * e, theta, h, z)
            ahead, behind = slope_of(step(1.0)), slope_of(step(-1.0))
            return jax.tree.map(lambda a, b, d: (a - b) / (2 * d), ahead, behind, h)

        return slope, difference
    slope = slope_of(theta)
    newton = gauss_newton_product(sys, theta, point.control)
    rest = jax.grad(lambda t: _beyond_examples(sys, t, point, potential))
    _, rest_product = jax.linearize(rest, theta)
    beta = jnp.asarray(point.beta) if potential == "reduced" else 1.0
    mix = lambda a, b: beta * a + b
    return slope, lambda z: jax.tree.map(mix, newton(z), rest_product(z))


def _beyond_examples(sys, theta, point, potential):
    """The part of v that belongs to no example: remainder and base measure."""
    value = jnp.zeros(())
    if sys.remainder_fn is not None:
        value = sys.remainder_fn(theta, point.control)
    if potential == "energy":
        return value
    return jnp.asarray(point.beta) * value - sys.log_base(theta, point.control)


def _unravel(flat: Array, like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    sizes = np.cumsum([x.size for x in leaves])[:-1]
    parts = jnp.split(flat, sizes)
    return jax.tree.unflatten(
        treedef,
        [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)],
    )
