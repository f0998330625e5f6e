"""The code of one example as a canonical system of the core.

    p(z | x) ∝ m(z) exp(-lam u_D(z; x) - gam u_C(z; x))
    u_D = -log d(x | z),   u_C = -sum_y p(y | x) log c(y | z)

The base measure is m, the energy lam u_D + gam u_C at beta = 1, the control `Multipliers`.
So log Z_x, samples of z and susceptibilities come from `tj.log_partition`, `tj.run` and
`tj.susceptibility`; the last is the part of chi at frozen decoder and classifier.

Source: Gibbs form of Gao & Chaudhari 2020; as a system of the core, our construction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from thermojax.priors import CustomPrior, gaussian_prior, prior
from thermojax.system import System, system
from thermojax.theories.representation.neural import (
    check_batch,
    encoder_log_prob,
    label_log_prob,
    marginal_log_prob,
    sample_codes,
)
from thermojax.theories.representation.quantities import Batch, Model
from thermojax.typing import Array, PyTree

__all__ = ["latent_forces", "latent_system"]


def latent_system(
    model: Model, params: PyTree, x: Array, y: Array, *, start: str | None = None
) -> System:
    """One example's ensemble of codes: theta is z [d_z], the control is (lam, gam).

        U(z; lam, gam) = -lam log d(x | z) - gam sum_y p(y | x) log c(y | z)      nats
        log Z_x = log int m(z) exp(-U(z; lam, gam)) dz,    beta = 1

    Args:
        model: the four kernels.
        params: their parameters, held fixed; data of the system, so that new ones do not
            recompile.
        x: [*] one input.
        y: its label, a whole number, or [n_y] label weights.
        start: where tempering starts: "marginal" is m, which must then be N(0, I);
            "encoder" is e(z | x), the shorter path to the target. Default: the marginal
            where it is N(0, I), else the encoder, which needs no sampler of m.

    Returns:
        A `System`, to be used at `tj.Point(1.0, Multipliers(lam, gam))`.

    Raises:
        ValueError: an unknown `start`, or "marginal" for a learned marginal; a label out of
            range; label weights that do not sum to 1.

    Source:
        Gao & Chaudhari 2020 for the ensemble; our construction as a system.

    Example:
        >>> from jax.nn import log_softmax
        >>> from thermojax.theories.representation.quantities import Multipliers
        >>> model = Model(
        ...     encode=lambda p, x: (x, 0 * x),
        ...     log_decoder=lambda p, x, z: -jnp.sum((x - z) ** 2, -1),
        ...     log_classifier=lambda p, z: log_softmax(jnp.concatenate([z, -z], -1)),
        ... )
        >>> sys = latent_system(model, (), jnp.array([1.0]), jnp.array(0))
        >>> float(sys.energy(jnp.zeros(1), Multipliers(2.0, 0.0)))
        2.0
    """
    known = model.log_marginal is None
    start = start or ("marginal" if known else "encoder")
    if start not in ("marginal", "encoder"):
        raise ValueError(f"start={start!r} is unknown: use 'marginal' or 'encoder'")
    if start == "marginal" and not known:
        raise ValueError(
            "start='marginal' needs a marginal that can be sampled, which a learned one "
            "cannot: use start='encoder'"
        )
    x, y = jnp.asarray(x), jnp.asarray(y)
    check_batch(model, params, Batch(x[None], y[None]))
    mean, log_var = (a[0] for a in model.encode(params, x[None]))
    base = gaussian_prior(1.0, like=mean)
    if not known:
        base = prior(_LearnedMarginal(model), _no_sampler, like=mean, params=params)
    reference: CustomPrior | None = None
    if start == "encoder":
        reference = prior(_encoder_density, _encoder_draw, like=mean, params=(mean, log_var))
    energy = _LatentEnergy(model)
    return system(energy, prior=base, reference=reference, like=mean, data=(params, x, y))


def latent_forces(sys: System) -> Callable[[Array], Array]:
    """The forces z -> (u_D, u_C) [2] of a latent system, as an observable of the core.

        -d log Z_x / d(lam, gam) = <(u_D, u_C)>,   d2 log Z_x / dtau dtau' = Cov(u, u')

    `tj.mean(est, sys, forces)` gives (D_x, C_x) at the Gibbs code, and
    `tj.susceptibility(est, sys, forces)` the [2, 2] response at frozen params, in nats.

    Args:
        sys: from `latent_system`.

    Raises:
        ValueError: a system from elsewhere.

    Source:
        Derived here.
    """
    energy = getattr(sys.energy_fn, "fn", None)
    if not isinstance(energy, _LatentEnergy):
        raise ValueError("latent_forces reads a system made by latent_system: build it there")
    return lambda z: energy.forces(z, sys.data)


@dataclasses.dataclass(frozen=True)
class _LatentEnergy:
    """lam u_D + gam u_C; `data` are the parameters and the example."""

    model: Model

    def forces(self, z, data):
        params, x, y = data
        code = z[None, None]
        log_d = self.model.log_decoder(params, x[None], code)
        log_c = label_log_prob(self.model, params, y[None], code)
        return -jnp.stack([log_d[0, 0], log_c[0, 0]])

    def __call__(self, theta, control, data):
        u_d, u_c = self.forces(theta, data)
        return control.lam * u_d + control.gam * u_c


@dataclasses.dataclass(frozen=True)
class _LearnedMarginal:
    model: Model

    def __call__(self, theta, control, params):
        return marginal_log_prob(self.model, params, theta[None, None])[0, 0]


def _no_sampler(key, control, params):
    raise ValueError(
        "a learned marginal has no sampler: start from the encoder, or give positions"
    )


def _encoder_density(theta, control, params):
    return encoder_log_prob(*params, theta)


def _encoder_draw(key, control, params):
    return sample_codes(*params, key, 1)[0]
