"""Experiment E1: the surface of rate, distortion and classification loss, by networks.

    J = R + lam D + gam C  minimised on a grid of (lam, gam),    dF = D dlam + C dgam

All networks of all draws are trained by one compiled program. The networks of a draw see the
same batches and the same noise: differences between points of the grid are then sharper than
the points.

Source: specification of the theory, 9.2 E1; the surface, Gao & Chaudhari 2020.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.experiments.representation_data import (
    NUM_LABELS,
    DataConfig,
    Sizes,
    draws_of,
    network,
    optimizer,
)
from thermojax.experiments.reproduction import claim, identity, in_words, record
from thermojax.theories.representation.gaussian import gaussian_equilibrium
from thermojax.theories.representation.neural import expected_functionals, functionals
from thermojax.theories.representation.quantities import (
    Batch,
    Functionals,
    Multipliers,
    objective,
)
from thermojax.theories.representation.surface import EquilibriumSurface, concavity_violation
from thermojax.typing import Array, Key, PyTree

__all__ = [
    "SurfaceConfig",
    "accuracy",
    "check_grid",
    "measure",
    "run_surface",
    "surface_claims",
    "surface_identities",
    "surface_numbers",
    "train_networks",
]

Arrays = dict[str, np.ndarray]
Say = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True)
class SurfaceConfig:
    """Settings of experiment E1.

    Attributes:
        data: images.
        sizes: networks.
        lams: multipliers of D, rising.
        gams: multipliers of C, rising.
        steps: gradient steps of every network.
        samples: codes per image of a measurement.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    lams: tuple[float, ...] = (0.1, 0.3, 1.0)
    gams: tuple[float, ...] = (1.0, 10.0, 100.0)
    steps: int = 6_000
    samples: int = 16

    def __post_init__(self):
        for name in ("lams", "gams"):
            check_grid(name, getattr(self, name))
        if min(self.steps, self.samples) < 1:
            raise ValueError(
                f"steps={self.steps} and samples={self.samples} must be at least 1"
            )


def check_grid(name: str, values: tuple[float, ...]) -> None:
    """Raise ValueError unless there are two multipliers or more, positive and rising."""
    if len(values) < 2 or min(values) <= 0 or np.any(np.diff(values) <= 0):
        raise ValueError(f"{name}={values} must be two or more, positive and rising")


@functools.partial(jax.jit, static_argnames=("sizes", "steps"))
def train_networks(
    sizes: Sizes, train: Batch, multipliers: Multipliers, keys: Key, *, steps: int
) -> PyTree:
    """Networks of every draw at every point of a row of controls, in one program.

    Args:
        sizes: of the networks.
        train: x [draw, n, d] and y [draw, n].
        multipliers: lam and gam, each [point].
        keys: [draw]; the points of a draw share start, batches and noise.
        steps: gradient steps on J.

    Returns:
        Parameters with leading axes [draw, point].
    """
    (model, init), adam = network(sizes, train.x.shape[-1]), optimizer(sizes)

    def loss(params, tau, batch, key):
        return objective(expected_functionals(model, params, batch, key, num_samples=1), tau)

    def move(params, state, tau, batch, key):
        updates, state = adam.update(jax.grad(loss)(params, tau, batch, key), state, params)
        return jax.tree.map(jnp.add, params, updates), state

    def one_draw(train, key):
        first, rest = jax.random.split(key)
        start = init(first)
        points = multipliers.lam.shape
        carry = jax.tree.map(
            lambda a: jnp.broadcast_to(a, (*points, *a.shape)), (start, adam.init(start))
        )

        def step(carry, key):
            choice, noise = jax.random.split(key)
            rows = jax.random.randint(choice, (sizes.batch,), 0, train.x.shape[0])
            batch = Batch(train.x[rows], train.y[rows])
            return jax.vmap(move, (0, 0, 0, None, None))(
                *carry, multipliers, batch, noise
            ), None

        return jax.lax.scan(step, carry, jax.random.split(rest, steps))[0][0]

    return jax.vmap(one_draw)(train, keys)


@functools.partial(jax.jit, static_argnames=("sizes", "samples"))
def measure(sizes: Sizes, params: PyTree, batch: Batch, *, samples: int) -> Functionals:
    """R, D and C of every image under every network, [draw, point, n], with the same codes.

    Args:
        sizes: of the networks.
        params: leading axes [draw, point].
        batch: x [draw, n, d] and y [draw, n].
        samples: codes per image, one after the other for the sake of memory.
    """
    model = network(sizes, batch.x.shape[-1]).model
    keys = jax.random.split(jax.random.key(0), samples)

    def one(params, batch):
        sample = lambda key: functionals(model, params, batch, key, num_samples=1)
        return jax.tree.map(lambda v: jnp.mean(v, 0), jax.lax.map(sample, keys))

    def one_draw(inputs):
        params, batch = inputs
        return jax.lax.map(lambda p: one(p, batch), params)

    return jax.lax.map(one_draw, (params, batch))


@functools.partial(jax.jit, static_argnames=("sizes",))
def accuracy(sizes: Sizes, params: PyTree, batch: Batch) -> Array:
    """Part of the images whose class is read off the mean code, [draw, point].

    The encoder alone is used: the equilibrium encoder would need the label.
    """
    model = network(sizes, batch.x.shape[-1]).model

    def one(params, batch):
        mean, _ = model.encode(params, batch.x)
        guess = jnp.argmax(model.log_classifier(params, mean[None])[0], -1)
        return jnp.mean(guess == batch.y)

    return jax.vmap(jax.vmap(one, (0, None)))(params, batch)


def run_surface(config: SurfaceConfig, seeds: Sequence[int], say: Say) -> Arrays:
    """All draws of experiment E1.

    Args:
        config: settings.
        seeds: one per draw.
        say: progress.

    Returns:
        Arrays with the draws along axis 0: `e1_rate`, `e1_distortion`, `e1_classification`
        (training images), `e1_test_classification`, `e1_accuracy` (test images),
        `e1_train_accuracy` [draw, lam, gam]; `e1_excess` and `e1_excess_stderr`
        [draw, point, point], cost of the first point's controls for its own network less
        that for the second's; `e1_violation` [draw] of concavity; `e1_bound` [draw, lam] of
        R + lam D by linear maps, `e1_variance` [draw, d] of the principal components and
        `e1_label_entropy` [draw]. Without draws: `e1_lam` [lam], `e1_gam` [gam] and
        `e1_scale`, `e1_latent`.
    """
    parts = draws_of(config.data, seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    grid = jnp.meshgrid(jnp.asarray(config.lams), jnp.asarray(config.gams), indexing="ij")
    taus = Multipliers(*(values.ravel() for values in grid))
    say(0.0, "surface: training")
    params = train_networks(config.sizes, parts.train, taus, keys, steps=config.steps)
    params = jax.block_until_ready(params)
    say(0.8, "surface: measuring")
    seen = measure(config.sizes, params, parts.train, samples=config.samples)
    unseen = measure(config.sizes, params, parts.test, samples=config.samples)
    shape = (len(seeds), len(config.lams), len(config.gams))
    on_grid = lambda values: np.asarray(values, float).reshape(shape)
    mean = {name: on_grid(values.mean(-1)) for name, values in seen._asdict().items()}
    found = {f"e1_{name}": values for name, values in mean.items()}
    found |= _costs(seen, taus) | _linear_bound(config, parts.train)
    return found | {
        "e1_test_classification": on_grid(unseen.classification.mean(-1)),
        "e1_accuracy": on_grid(accuracy(config.sizes, params, parts.test)),
        "e1_train_accuracy": on_grid(accuracy(config.sizes, params, parts.train)),
        "e1_violation": _violations(config, mean),
        "e1_lam": np.asarray(config.lams),
        "e1_gam": np.asarray(config.gams),
        "e1_scale": np.asarray(config.sizes.decoder_scale),
        "e1_latent": np.asarray(config.sizes.latent),
    }


def _costs(seen: Functionals, taus: Multipliers) -> Arrays:
    """What each network would gain, at its own controls, from being each of the others."""
    each = [np.asarray(values, float) for values in seen]
    lam, gam = (np.asarray(tau, float)[:, None, None] for tau in taus)
    excess, error = [], []
    for rate, distortion, classification in zip(*each, strict=True):
        # [controls, network, image]
        cost = rate + lam * distortion + gam * classification
        gain = np.einsum("kki->ki", cost)[:, None] - cost
        excess.append(gain.mean(-1))
        error.append(gain.std(-1, ddof=1) / np.sqrt(gain.shape[-1]))
    return {"e1_excess": np.stack(excess), "e1_excess_stderr": np.stack(error)}


def _violations(config: SurfaceConfig, mean: Arrays) -> np.ndarray:
    """Violation of concavity of every draw's surface."""
    lam, gam = np.meshgrid(config.lams, config.gams, indexing="ij")
    tau = Multipliers(jnp.asarray(lam), jnp.asarray(gam))

    def one(*values: np.ndarray) -> float:
        seen = Functionals(*map(jnp.asarray, values))
        free = objective(seen, tau)
        surface = EquilibriumSurface(tau, seen, free, jnp.zeros((*free.shape, 2, 2)))
        return float(concavity_violation(surface))

    return np.array([one(*draw) for draw in zip(*mean.values(), strict=True)])


@functools.partial(jax.jit, static_argnames=("latent",))
def _linear_free_energy(cov: Array, lam: Array, scale: float, latent: int) -> Array:
    """Least R + lam D of linear maps to `latent` dimensions, D without its constant."""
    size = cov.shape[0]
    found = gaussian_equilibrium(
        cov,
        jnp.zeros((1, size)),
        jnp.eye(1),
        Multipliers(lam, jnp.zeros(())),
        decoder_scale=scale,
        classifier_scale=1.0,
        latent_dim=latent,
    )
    constant = 0.5 * size * jnp.log(2 * jnp.pi * scale**2)
    return found.free_energy - lam * constant


def _linear_bound(config: SurfaceConfig, train: Batch) -> Arrays:
    """Linear bound, spectrum and label entropy of every draw's training images."""
    centred = train.x - train.x.mean(1, keepdims=True, dtype=np.float64)
    cov = np.einsum("kni,knj->kij", centred, centred) / centred.shape[1]
    scale, latent = config.sizes.decoder_scale, config.sizes.latent
    bound = [
        [_linear_free_energy(jnp.asarray(c), lam, scale, latent) for lam in config.lams]
        for c in cov
    ]
    counts = np.stack([np.bincount(y, minlength=NUM_LABELS) for y in train.y])
    part = counts / counts.sum(1, keepdims=True)
    entropy = -np.sum(part * np.log(np.where(part > 0, part, 1)), axis=1)
    return {
        "e1_bound": np.asarray(bound, float),
        "e1_variance": np.linalg.eigvalsh(cov)[:, ::-1],
        "e1_label_entropy": entropy,
    }


def _free_energy(arrays: Arrays) -> np.ndarray:
    """R + lam D + gam C on training images, [draw, lam, gam]."""
    rate, distortion, classification = (arrays[f"e1_{n}"] for n in Functionals._fields)
    return rate + arrays["e1_lam"][:, None] * distortion + arrays["e1_gam"] * classification


def _ends(values: np.ndarray) -> str:
    return f"{in_words(values[:, 0])} to {in_words(values[:, -1])}"


def surface_claims(arrays: Arrays) -> list[dict]:
    """Claims of experiment E1, from the arrays of `run_surface`."""
    distortion, loss = arrays["e1_distortion"], arrays["e1_classification"]
    test, gams = arrays["e1_test_classification"], arrays["e1_gam"]
    excess, error = arrays["e1_excess"], arrays["e1_excess_stderr"]
    off = ~np.eye(excess.shape[-1], dtype=bool)
    worst = np.max(excess[:, off], axis=1)
    limit = arrays["e1_bound"][..., None] + gams * arrays["e1_label_entropy"][:, None, None]
    share = _free_energy(arrays) / limit
    return [
        claim(
            "[paper]",
            "The distortion falls as its multiplier rises (networks on digits)",
            "D on training images falls with lam between all neighbours at every gam",
            f"D = {_ends(distortion[..., 0])} nats at gam = {gams[0]:g}, "
            f"{_ends(distortion[..., -1])} at gam = {gams[-1]:g}",
            np.all(np.diff(distortion, axis=1) < 0, axis=(1, 2)),
        ),
        claim(
            "[paper]",
            "The classification loss falls as its multiplier rises",
            "C on training images falls with gam between all neighbours at every lam",
            f"C = {_ends(loss[:, 0])} nats at lam = {arrays['e1_lam'][0]:g}, "
            f"{_ends(loss[:, -1])} at lam = {arrays['e1_lam'][-1]:g}",
            np.all(np.diff(loss, axis=2) < 0, axis=(1, 2)),
        ),
        claim(
            "[paper]",
            "The equilibrium surface is convex: F(lam, gam) lies below its tangent planes",
            "no network of the grid costs less at another's controls than that one, beyond "
            "3 standard errors over the training images",
            f"largest F' - F - U·δ over all pairs {in_words(worst)} nats, "
            f"violation {in_words(arrays['e1_violation'])}",
            np.all((excess <= 3 * error)[:, off], axis=1),
        ),
        claim(
            "[ours]",
            "The networks cost less than linear codes with a classifier that does not look",
            "R + lam D + gam C < linear-Gaussian bound of R + lam D + gam H(Y) at all points",
            f"R + lam D + gam C is {in_words(share.min((1, 2)))} to "
            f"{in_words(share.max((1, 2)))} of it",
            np.all(share < 1, axis=(1, 2)),
        ),
        claim(
            "[ours]",
            "Where C counts most the training images flatter it",
            "at the largest gam C on test images is above C on training images at every lam",
            f"{in_words(test[..., -1].mean(1))} nats on test against "
            f"{in_words(loss[..., -1].mean(1))} on training images",
            np.all(test[..., -1] > loss[..., -1], axis=1),
        ),
    ]


def surface_identities(arrays: Arrays) -> list[dict]:
    """Identities of experiment E1."""
    lam, gam = (
        values.ravel()
        for values in np.meshgrid(arrays["e1_lam"], arrays["e1_gam"], indexing="ij")
    )
    flat = lambda values: values.reshape(len(values), -1)
    free = flat(_free_energy(arrays))
    slopes = (flat(arrays[f"e1_{name}"])[:, None] for name in Functionals._fields[1:])
    moves = (tau[:, None] - tau for tau in (lam, gam))
    plane = free[:, None] + sum(u * d for u, d in zip(slopes, moves, strict=True))
    gap = free[:, :, None] - plane - arrays["e1_excess"]
    kappa = arrays["e1_variance"][:, None] * arrays["e1_lam"][:, None] / arrays["e1_scale"] ** 2
    filled = np.log(np.maximum(kappa, 1)) + np.minimum(kappa, 1)
    kept = np.arange(kappa.shape[-1]) < arrays["e1_latent"]
    modes = np.where(kept, filled, kappa).sum(-1) / 2
    return [
        identity(
            "the cost of a network at other controls is on the tangent plane of its own, "
            "F + U·δ",
            gap,
            plane,
            1e-4,
        ),
        identity(
            "the linear bound is reverse water-filling over the principal components",
            arrays["e1_bound"] - modes,
            modes,
            1e-4,
        ),
    ]


def surface_numbers(arrays: Arrays) -> dict[str, list[dict[str, Any]]]:
    """Table of experiment E1, a row per point of the grid."""
    columns = {
        "R": "rate",
        "D": "distortion",
        "C": "classification",
        "test_C": "test_classification",
        "test_accuracy": "accuracy",
    }
    rows = []
    for i, lam in enumerate(arrays["e1_lam"]):
        for j, gam in enumerate(arrays["e1_gam"]):
            row: dict[str, Any] = {"lam": f"{lam:g}", "gam": f"{gam:g}"}
            row |= {k: record(arrays[f"e1_{name}"][:, i, j]) for k, name in columns.items()}
            cost = arrays["e1_rate"][:, i, j] + lam * arrays["e1_distortion"][:, i, j]
            row["R_+_lam_D_over_linear"] = record(cost / arrays["e1_bound"][:, i])
            rows.append(row)
    return {"Surface of networks (nats per example)": rows}
