"""Systems of representation learning whose equilibria are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from thermojax.theories.representation.quantities import Functionals
from thermojax.theories.representation.response import (
    TaskEquilibrium,
    tabular_model,
    tabular_task,
)

KAPPA, ETA, EPS = (0.2, 0.3, 0.1), (0.3, 0.1, 0.4), (0.05, 0.1, 0.02)


EPS_END = (0.1, 0.02, 0.2)


def _free_energy(lam, gam, kappa, eta, eps):
    """Independent bits with fixed binary kernels: the closed form, summed over bits."""
    slope_d = jnp.log((1 - kappa) / kappa)
    slope_c = (1 - 2 * eps) * jnp.log((1 - eta) / eta)
    constant = -(1 - eps) * jnp.log(1 - eta) - eps * jnp.log(eta)
    drop = jnp.log1p(jnp.exp(-lam * slope_d - gam * slope_c))
    return jnp.sum(jnp.log(2.0) - lam * jnp.log(1 - kappa) + gam * constant - drop)


def _functionals(free, slope, lam, gam):
    return Functionals(free - lam * slope[0] - gam * slope[1], slope[0], slope[1])


@functools.cache
def bits(kappa, eta, eps):
    """Equilibria of bits from derivatives of the closed form."""

    def free(tau):
        return _free_energy(tau[0], tau[1], *map(jnp.asarray, (kappa, eta, eps)))

    @jax.jit
    def equilibrium(tau):
        at = jnp.stack(tau)
        slope = jax.grad(free)(at)
        return free(at), _functionals(free(at), slope, *at), -jax.hessian(free)(at)

    return equilibrium


@functools.cache
def moving_bits(kappa, eta, eps, eps_end):
    """The same where the noise of the labels moves from eps to eps_end."""

    def free(tau):
        noise = (1 - tau[2]) * jnp.asarray(eps) + tau[2] * jnp.asarray(eps_end)
        return _free_energy(tau[0], tau[1], jnp.asarray(kappa), jnp.asarray(eta), noise)

    @jax.jit
    def task(tau, t):
        at = jnp.stack([*tau, t])
        slope = jax.grad(free)(at)
        functionals = _functionals(free(at), slope, tau.lam, tau.gam)
        return TaskEquilibrium(free(at), functionals, slope[2], -jax.hessian(free)(at))

    return task


def three_bits():
    return bits(KAPPA, ETA, EPS)


def moving_three_bits():
    return moving_bits(KAPPA, ETA, EPS, EPS_END)


def spread(values):
    return float(jnp.max(values) - jnp.min(values))


def saturating(tau):
    """No jax inside: C = c(lam) + exp(-gam), c = lam/4, D = 1 + gam/4."""
    lam, gam = float(tau.lam), float(tau.gam)
    for _ in range(3):
        low = np.exp(-gam)
    chi = np.array([[0.0, -0.25], [-0.25, low]])
    distortion, loss = 1 + gam / 4, lam / 4 + low
    free = lam * distortion + 1 - low
    return free, Functionals(free - lam * distortion - gam * loss, distortion, loss), chi


def _kernels():
    """Decoder and classifier of the worked example: six inputs, three labels, five codes."""
    places, codes = jnp.arange(6.0), jnp.array([0, 1.5, 2.5, 4, 5])
    decoder = jax.nn.log_softmax(-jnp.abs(places[:, None] - codes), axis=0)
    counts = jnp.array([[7.0, 5, 2, 2, 1], [2, 3, 7, 5, 2], [1, 2, 1, 3, 7]])
    return decoder, jnp.log(counts / counts.sum(0))


@functools.cache
def five_codes():
    table = [[6, 1, 1], [4, 2, 1], [1, 5, 2], [1, 4, 3], [2, 1, 6], [1, 2, 5]]
    return jax.jit(tabular_model(jnp.array(table) / 48, *_kernels()))


@functools.cache
def table_task():
    source = [[6, 1, 1], [5, 1, 1], [1, 5, 1], [1, 4, 1], [1, 1, 2], [1, 1, 1]]
    target = [[1, 1, 1], [1, 2, 1], [2, 2, 1], [1, 4, 2], [1, 1, 7], [1, 2, 6]]
    tables = (jnp.array(counts) / np.sum(counts) for counts in (source, target))
    return jax.jit(tabular_task(*tables, *_kernels()))
