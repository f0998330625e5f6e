"""Weighted states: what a set of samples says of log Z and its derivatives.

    log Z = log mean_k w_k,     w_k = exp(-beta H(x_k)) / density that drew x_k

A sampler is never differentiated. The samples are held fixed, and

    L(q, beta) = logmeanexp_k[ sg(log w_k + beta H_k) - beta H(sg(x_k); q) ]

has the estimate as its value, and as its derivatives of every order the self-normalised
estimates of the thermodynamic identities: d L/d beta = -<H>_w, d L/d q = -beta <dH/dq>_w.

The `forward` route draws the hidden layers of a feedforward net with clamped output from
the noisy net x_l = f(W_l x_{l-1} + b_l) + N(0, T) and integrates the output analytically,

    log Z = (n_h/2) log(2 pi/beta) + logmeanexp_k(-beta/2 |y - f_out(x_k)|^2).

Source: Vanchurin 2021 for the ensemble; the noisy net and the surrogate are our
definition, following the paper's programme.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from thermojax.estimators.estimate import Estimate
from thermojax.estimators.work import jarzynski
from thermojax.theories.learning_laws.quadrature import Moments, combine
from thermojax.theories.learning_laws.reference import Example, draw, reference_energy
from thermojax.theories.learning_laws.septuple import System, is_feedforward
from thermojax.theories.learning_laws.states import State, log_z_reference, state_of
from thermojax.typing import Array, ArrayLike, Key, PyTree

__all__ = ["forward_state", "surrogate", "weighted_state"]


def surrogate(energy: Callable, samples: Array, log_weights: Array, beta: Array) -> Moments:
    """log Z, <H> and Var H of weighted samples, differentiable through the energy alone.

        L = logmeanexp_k[ sg(log w_k + beta H_k) - beta H(sg(x_k)) ]

    Args:
        energy: `x [n] -> H`, closing over what is differentiated.
        samples: [K, n] states.
        log_weights: [K] their log weights, nats; log mean w = log Z.
        beta: inverse temperature.

    Returns:
        `Moments`, whose derivatives are the self-normalised identities.

    Source: our definition, following the paper's programme.

    Example:
        >>> x = jnp.linspace(-1.0, 1.0, 5)[:, None]
        >>> half = lambda q: surrogate(lambda x: 0.5 * q * x @ x, x, jnp.zeros(5), 2.0)
        >>> float(jax.grad(lambda q: half(q).log_z)(1.0))  # -beta <x^2>/2
        -0.5
    """
    samples = jax.lax.stop_gradient(samples)
    energies = jax.vmap(energy)(samples)
    held = jax.lax.stop_gradient(log_weights + beta * energies)
    out = combine(held - beta * energies, energies)
    return out._replace(log_z=out.log_z - jnp.log(len(samples)))


def weighted_state(
    system: System,
    params: PyTree,
    example: Example,
    beta: ArrayLike,
    samples: Array,
    estimate: Estimate,
    log_weights: Array,
) -> State:
    """The `State` of weighted states of one example, by the surrogate.

    Args:
        system: the network.
        params: its trainables, differentiated.
        example: what is clamped, differentiated.
        beta: inverse temperature, differentiated.
        samples: [K, n] states.
        estimate: of log(Z / Z_ref): its stderr, n_eff and flags are handed on.
        log_weights: [K] log weights against the reference, nats.

    Returns:
        `State`, log Z with the error of `estimate`.
    """
    n = samples.shape[1]

    @jax.checkpoint  # the energies of a batch of examples are many
    def moments(params, example, beta):
        held = log_weights + log_z_reference(n, jax.lax.stop_gradient(beta))
        return surrogate(lambda x: system.energy(params, x, example), samples, held, beta)

    out = moments(params, example, beta)
    return state_of(
        out.log_z,
        out.mean,
        beta**2 * out.variance,
        n,
        beta,
        stderr=estimate.stderr,
        ess=estimate.n_eff,
        flags=estimate.flags,
    )


def forward_state(
    system: System,
    params: PyTree,
    example: Example,
    beta: ArrayLike,
    key: Key,
    *,
    samples: int = 1024,
) -> State:
    """The thermodynamics of one example's states by the noisy forward net.

        log Z = log Z_ref + logmeanexp_k(-beta/2 |y - f_out(x_k)|^2 - beta V(x_k))

    Unbiased in Z, hence low in log Z by half the squared standard error. Good where the
    noise of the outputs covers the error; elsewhere few samples carry the weight and
    LOW_ESS says so.

    Args:
        system: a feedforward network.
        params: its trainables.
        example: with clamped inputs.
        beta: inverse temperature of the states.
        key: typed key.
        samples: forward passes K.

    Returns:
        `State` with stderr (jackknife), ess and flags; see `surrogate` for derivatives.

    Raises:
        ValueError: a recurrent network.

    Source: our definition, following the paper's programme.

    Example:
        >>> from thermojax.theories.learning_laws.septuple import layered_network
        >>> net = layered_network((1, 1, 1), "linear")
        >>> one = jnp.ones((1, 1))
        >>> params = [(0.8 * one, jnp.array([0.1])), (-0.6 * one, jnp.array([0.2]))]
        >>> example = {"x": jnp.array([1.5]), "y": jnp.array([0.3])}
        >>> state = forward_state(net, params, example, 4.0, jax.random.key(0))
        >>> bool(abs(state.log_z + 1.0667745) < 4 * state.stderr)
        True
    """
    if not is_feedforward(system):
        raise ValueError(
            "method='forward' needs a feedforward network, and this one has loops: use "
            "method='ais'"
        )
    beta = jnp.asarray(beta, jnp.result_type(*jax.tree.leaves(params)))
    still, clamped, cold = jax.lax.stop_gradient((params, example, beta))
    states = draw(system, still, clamped, cold, key, samples)
    above = lambda x: (
        system.energy(still, x, clamped) - reference_energy(system, still, x, clamped)
    )
    log_weights = -cold * jax.vmap(above)(states)
    estimate = jarzynski(-log_weights)
    return weighted_state(system, params, example, beta, states, estimate, log_weights)
