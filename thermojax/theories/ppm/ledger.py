"""The ledger of a learner: information, heat and entropy production, step by step.

    Delta S(X) - beta <Q_X>  =  <s_{X|Theta}>  +  I(X_N; Theta_N) - I(X_0; Theta_0)

In words: the heat that sample generation dumps into Theta pays for the entropy drop of X,
for the information about Theta that X now carries, and for dissipation. Derived here for
learners without feedback; the summaries of Parsi 2024 state its content.

Source: specification of the theory, sections 2.1 to 2.4 and 3.1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermojax.theories.ppm.finite import FiniteLearner, March, check_learner, march
from thermojax.typing import Array

__all__ = ["Ledger", "finite_ledger"]


class Ledger(NamedTuple):
    """Everything of a learner that is an average, in nats; heats and work are energies.

    Marks: "paper?" is our reading of Parsi 2024, reported by summaries and not verified
    against its body; "ours" our definition, following the paper's programme; the rest is
    standard. States have N + 1 entries, increments N.

    Attributes:
        entropy_x: S(X_n); differential for continuous states, -inf for a point mass.
        entropy_theta: S(Theta_n).
        entropy_joint: S(X_n, Theta_n).
        m_info: I(Theta_n; B), memorised information (paper?); inf for a continuous
            parameter that is a function of the data.
        l_info: I(X_n; B), learned information (paper?).
        subsystem_info: I(X_n; Theta_n).
        joint_b_info: I(X_n, Theta_n; B).
        stale_info: I(X_n; Theta_{n+1}), [N].
        heat_x: Q_X, absorbed by X from Theta.
        work: W, done on X by the move of Theta; nan if the energy is not known.
        heat_theta: Q_Theta, absorbed by Theta from its outer bath; -inf if no reverse
            move exists (deterministic optimisers).
        info_flow_x: I(X_{n+1}; Theta_{n+1}) - I(X_n; Theta_{n+1}).
        info_flow_theta: I(X_n; Theta_{n+1}) - I(X_n; Theta_n).
        ep_x: Delta S(X) - beta Q_X, interval entropy production of X with Theta as an
            ideal reservoir (paper?).
        ep_theta: Delta S(Theta) - beta_theta Q_Theta.
        ep_step_x: ep_x - info_flow_x; never negative.
        ep_step_theta: ep_theta - info_flow_theta; may be negative for a dataset that is
            remembered (b is then a memory).
        ep_conditional: Delta S(X|Theta) - beta Q_X. Without feedback this is the average
            conditional path entropy production (the name is paper?).
        ep_total_blind: Delta S(X, Theta) - beta Q_X - beta_theta Q_Theta.
        ep_total_resolved: the same with S(X, Theta|B); never negative (ours).
    """

    entropy_x: Array
    entropy_theta: Array
    entropy_joint: Array
    m_info: Array
    l_info: Array
    subsystem_info: Array
    joint_b_info: Array
    stale_info: Array
    heat_x: Array
    work: Array
    heat_theta: Array
    info_flow_x: Array
    info_flow_theta: Array
    ep_x: Array
    ep_theta: Array
    ep_step_x: Array
    ep_step_theta: Array
    ep_conditional: Array
    ep_total_blind: Array
    ep_total_resolved: Array


def _entropy(tables: Array, over: tuple[int, ...] = ()) -> Array:
    """Shannon entropy of every table along axis 0 once `over` is summed out."""
    p = jnp.sum(tables, axis=over) if over else tables
    some = p > 0
    each = jnp.where(some, -p * jnp.log(jnp.where(some, p, 1.0)), 0.0)
    return jnp.sum(each, axis=tuple(range(1, each.ndim)))


@jax.jit
def _ledger(done: March, beta: Array, beta_theta: Array) -> Ledger:
    b, x, theta = 1, 2, 3
    joint, stale = done.joint, done.stale
    entropy_x, entropy_theta = _entropy(joint, (b, theta)), _entropy(joint, (b, x))
    entropy_joint, entropy_b = _entropy(joint, (b,)), _entropy(joint, (x, theta))
    info = entropy_x + entropy_theta - entropy_joint
    stale_info = _entropy(stale, (b, theta)) + _entropy(stale, (b, x)) - _entropy(stale, (b,))
    flow_x, flow_theta = info[1:] - stale_info, stale_info - info[:-1]
    ep_x = jnp.diff(entropy_x) - done.heat_x
    ep_theta = jnp.diff(entropy_theta) - done.heat_theta
    heat = done.heat_x + done.heat_theta
    return Ledger(
        entropy_x=entropy_x,
        entropy_theta=entropy_theta,
        entropy_joint=entropy_joint,
        m_info=entropy_theta + entropy_b - _entropy(joint, (x,)),
        l_info=entropy_x + entropy_b - _entropy(joint, (theta,)),
        subsystem_info=info,
        joint_b_info=entropy_joint + entropy_b - _entropy(joint),
        stale_info=stale_info,
        heat_x=done.heat_x / beta,
        work=done.work,
        heat_theta=done.heat_theta / beta_theta,
        info_flow_x=flow_x,
        info_flow_theta=flow_theta,
        ep_x=ep_x,
        ep_theta=ep_theta,
        ep_step_x=ep_x - flow_x,
        ep_step_theta=ep_theta - flow_theta,
        ep_conditional=jnp.diff(entropy_joint - entropy_theta) - done.heat_x,
        ep_total_blind=jnp.diff(entropy_joint) - heat,
        ep_total_resolved=jnp.diff(_entropy(joint) - entropy_b) - heat,
    )


def finite_ledger(learner: FiniteLearner, *, n_steps: int | None = None) -> Ledger:
    """Information, heat, work and entropy production of a finite learner, exactly.

        beta Q_X = -sum w ln[K_X(x'|x, theta') / K_X(x|x', theta')],  likewise Q_Theta
        ep_x = ep_conditional + I(X_{n+1}; Theta_{n+1}) - I(X_n; Theta_n)

    Second laws and their conditions: ep_step_x >= 0 and ep_total_resolved >= 0 always;
    cumulated from the start ep_step_theta and ep_total_blind >= 0; without feedback
    cumulated ep_conditional >= 0 and m_info <= cumulated ep_theta. l_info <= m_info only
    for fresh samples: a slow sampler remembers what the parameters forgot.

    Args:
        learner: tables of the process.
        n_steps: number of macro-steps; needed where no kernel has a step axis. Static.

    Returns:
        `Ledger`. Moves whose reverse has probability zero give infinite heat and entropy
        production, never nan. Differentiable in every table and temperature; zeros of a
        table stay zero.

    Raises:
        ValueError: as for `joint_marginals`.

    Source: definitions of the specification of the theory, 2.1 to 2.4, with their marks
    in `Ledger`.

    Example:
        >>> from thermojax.theories.ppm.finite import heat_bath_kernel
        >>> follow = heat_bath_kernel(-2.0 * jnp.eye(2)[:, None], 1.0)  # theta follows b
        >>> toy = FiniteLearner([0.5, 0.5], [[0.5, 0.5]], follow, jnp.ones((2, 1, 1)))
        >>> [round(float(m), 3) for m in finite_ledger(toy, n_steps=1).m_info]
        [0.0, 0.328]
    """
    learner, n_steps = check_learner(learner, n_steps)
    return _ledger(march(learner, n_steps), learner.beta, learner.beta_theta)
