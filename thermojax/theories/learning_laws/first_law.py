"""First law of learning: energy, heat and work along a path of (beta, q).

    exact       dU = T dS + <d_q H> . dq,   <d_q H> = d_q F
    reading 1   dU = T dS_ref               thermodynamic entropy alone
    reading 2   dU = T (dS_ref + dC)        thermodynamic entropy plus complexity

Heat T dS is what the states take at fixed trainables, work what moving the trainables costs
at fixed states. The two readings are returned as residuals and neither is asserted. The
first, Delta U - int T dS_ref = Delta (U - U_ref), vanishes iff U - U_ref is constant on the
path, the second only where also the complexity is.

Source: the exact form is textbook; the claim that the increment of the loss is proportional
to those of thermodynamic entropy plus complexity is Vanchurin 2021, Eq. (7.11) [paper], its
two readings ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermojax.estimators.estimate import Flag, explain, raise_flags
from thermojax.typing import Array, ArrayLike, PyTree

__all__ = ["FirstLaw", "first_law"]

_COARSE = 0.01


class FirstLaw(NamedTuple):
    """Totals along a path; energies in units of the loss, entropies in nats.

    Attributes:
        delta_u: U_end - U_start.
        heat: int T dS.
        work: int <d_q H> . dq.
        residual: delta_u - heat - work, O(step^2).
        residual_th: delta_u - int T dS_ref.
        residual_sum: delta_u - int T (dS_ref + dC).
        delta_complexity: C_end - C_start.
        delta_entropy_ref: S_ref,end - S_ref,start.
        flags: uint32 bit set of `Flag`; zero means trusted.
    """

    delta_u: Array
    heat: Array
    work: Array
    residual: Array
    residual_th: Array
    residual_sum: Array
    delta_complexity: Array
    delta_entropy_ref: Array
    flags: Array

    @property
    def reasons(self) -> list[str]:
        """The raised flags, explained."""
        return explain(self.flags)


def first_law(states: Any, beta: ArrayLike, params: PyTree, forces: PyTree) -> FirstLaw:
    """Energy balance of a path of P networks and temperatures by the trapezoid rule.

        heat = sum_p (T_p + T_p+1) / 2 (S_p+1 - S_p)
        work = sum_p (f_p + f_p+1) / 2 . (q_p+1 - q_p),   f = d_q F

    Textbook; see the module docstring for what is Vanchurin's (2021).

    Args:
        states: `State` with a leading axis P on its fields, from `jax.vmap` of
            `thermodynamic_state`; any object with internal_energy, entropy, complexity and
            entropy_ref serves.
        beta: [P] inverse temperatures, 1/loss.
        params: trainables along the path, leading axis P on every leaf.
        forces: d_q F along the path, like params: `jax.vmap(jax.grad(total_free_energy))`
            without a prior.

    Returns:
        `FirstLaw`. TOO_COARSE where the residual exceeds a hundredth of the largest of
        |delta_u|, |heat| and |work|; NONFINITE.

    Raises:
        ValueError: paths of different lengths, or of one point.

    Example:
        >>> from types import SimpleNamespace
        >>> beta, q = jnp.array([4.0, 4.0]), jnp.array([1.0, 1.2])
        >>> U, S = 0.5 * q**2 + 1 / 8, 0.5 * (1 + jnp.log(2 * jnp.pi / beta))
        >>> states = SimpleNamespace(
        ...     internal_energy=U, entropy=S, complexity=-2 * q**2, entropy_ref=S
        ... )
        >>> law = first_law(states, beta, q, forces=q)
        >>> print(f"{law.work:.4f} {law.heat:.4f} {abs(law.residual) < 1e-7}")
        0.2200 0.0000 True
    """
    beta = jnp.asarray(beta)
    _check(states, beta, params, forces)
    temperature = 1 / beta
    along = lambda values, steps: jnp.sum(0.5 * (values[1:] + values[:-1]) * steps)
    energy = jnp.asarray(states.internal_energy)
    delta_u = energy[-1] - energy[0]
    heat = along(temperature, jnp.diff(states.entropy))
    reference = along(temperature, jnp.diff(states.entropy_ref))
    complexity = along(temperature, jnp.diff(states.complexity))
    each = jax.tree.map(lambda f, q: along(f, jnp.diff(q, axis=0)), forces, params)
    work = jnp.asarray(sum(jax.tree.leaves(each)), delta_u.dtype)
    residual = delta_u - heat - work
    largest = jnp.max(jnp.abs(jnp.stack([delta_u, heat, work])))
    # what rounding leaves of a path on which nothing happens is no coarseness
    rounding = 100 * jnp.finfo(energy.dtype).eps * jnp.max(jnp.abs(energy))
    coarse = jnp.abs(residual) > jnp.maximum(_COARSE * largest, rounding)
    return FirstLaw(
        delta_u,
        heat,
        work,
        residual,
        delta_u - reference,
        delta_u - reference - complexity,
        jnp.asarray(states.complexity)[-1] - jnp.asarray(states.complexity)[0],
        jnp.asarray(states.entropy_ref)[-1] - jnp.asarray(states.entropy_ref)[0],
        raise_flags((Flag.TOO_COARSE, coarse), (Flag.NONFINITE, ~jnp.isfinite(residual))),
    )


def _check(states, beta: Array, params: PyTree, forces: PyTree) -> None:
    fields = ("internal_energy", "entropy", "complexity", "entropy_ref")
    of_state = {jnp.shape(getattr(states, name)) for name in fields}
    if beta.ndim != 1 or len(beta) < 2 or of_state != {beta.shape}:
        raise ValueError(
            f"beta of shape {beta.shape} and states of shapes {sorted(of_state)}: give one "
            "axis of at least two points of the path to each"
        )
    have, want = (jax.tree.map(jnp.shape, tree) for tree in (forces, params))
    if have != want:
        raise ValueError(f"forces have shapes {have}, the parameters {want}: match them")
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(params)}
    if lengths - {beta.shape}:
        raise ValueError(
            f"params have leading axes {sorted(lengths)} for {len(beta)} points of the path"
        )
