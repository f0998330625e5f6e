"""Linear-Gaussian learners: a quadratic loss seen through noise, solved in closed form.

    b ~ N(m_b, S_b) once,   eps_n ~ N(0, S_eps) at every step,   data = b + eps_n
    theta' = M theta + D (b + eps) + C x + xi,                  xi ~ N(0, R)
    x'     = A theta' + P (x - A theta') + zeta,              zeta ~ N(0, S - P S P^T)

The model is p(x|theta) = N(A theta, S): energy U = (T/2) e^T S^-1 e with e = x - A theta.
With P S symmetric the sampler is in detailed balance with it.

Source: derived here; specification of the theory, section 3.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from thermojax.typing import Array, ArrayLike, is_concrete

__all__ = ["GaussianLearner", "check_learner", "langevin_learner"]


class GaussianLearner(NamedTuple):
    """A linear learner and its sampler; d parameters, p outputs, k data.

    Attributes:
        drift: [d, d] M.
        data_gain: [d, k] D.
        feedback: [d, p] C; zero without feedback.
        noise_cov: [d, d] R, injected noise; zero for plain gradient descent.
        data_mean: [k] m_b.
        data_cov: [k, k] S_b, of the dataset draw.
        batch_cov: [k, k] S_eps, of the minibatch noise of one step.
        readout: [p, d] A.
        output_cov: [p, p] S.
        relaxation: [p, p] P; zero for fresh samples, rho times the identity for slow ones.
        mean0: [d] of theta_0, then x_0 ~ p(.|theta_0); or [d + p] of (theta_0, x_0).
        cov0: [d, d] or [d + p, d + p].
        temperature: of X.
        temperature_theta: of the outer bath of Theta; zero for plain gradient descent.
    """

    drift: Any
    data_gain: Any
    feedback: Any
    noise_cov: Any
    data_mean: Any
    data_cov: Any
    batch_cov: Any
    readout: Any
    output_cov: Any
    relaxation: Any
    mean0: Any
    cov0: Any
    temperature: Any = 1.0
    temperature_theta: Any = 1.0


def _cast(values: dict[str, ArrayLike]) -> dict[str, Array]:
    arrays = {name: jnp.asarray(value) for name, value in values.items()}
    dtype = jnp.result_type(*arrays.values())
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.zeros(()).dtype
    return {name: array.astype(dtype) for name, array in arrays.items()}


def _check_temperatures(temperature: Array, temperature_theta: Array) -> None:
    if is_concrete(temperature) and not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive")
    if is_concrete(temperature_theta) and not temperature_theta >= 0:
        raise ValueError(
            f"temperature_theta={temperature_theta} must be positive, or zero for plain "
            "gradient descent"
        )


def _check_covariance(name: str, value: Array, *, definite: bool = False) -> None:
    if not is_concrete(value):
        return
    v = np.asarray(value, np.float64)
    # relative to the size of each variable, as far as the type resolves
    slack = 100 * len(v) * np.finfo(value.dtype).eps
    sd = np.sqrt(np.maximum(np.diag(v), 0))
    unit = v / np.where(sd > 0, sd, 1.0) / np.where(sd > 0, sd, 1.0)[:, None]
    if not np.all(np.abs(unit - unit.T) <= slack):
        raise ValueError(f"{name} is not symmetric: give a covariance matrix")
    least = float(np.min(np.linalg.eigvalsh(unit), initial=np.inf))
    if least <= slack if definite else least < -slack:
        need = "positive definite" if definite else "without negative eigenvalues"
        raise ValueError(
            f"{name} has an eigenvalue {least:.6g} at unit variances: give a covariance "
            f"matrix {need}"
        )


def check_learner(learner: GaussianLearner) -> GaussianLearner:
    """The learner as float arrays of one type, started from (theta_0, x_0).

    Raises:
        ValueError: shapes that do not fit, or (outside jit) matrices that are no
            covariances, P S not symmetric, or a temperature out of range.
    """
    given = GaussianLearner(**_cast(learner._asdict()))
    d, (p, k) = given.drift.shape[-1:], (given.readout.shape[:1], given.data_mean.shape)
    start = given.mean0.shape
    if start not in (d, (*d,)) and start != (d[0] + p[0],):
        raise ValueError(f"mean0 has shape {start}: give ({d[0]},) or ({d[0] + p[0]},)")
    shapes = {
        "drift": d + d,
        "data_gain": d + k,
        "feedback": d + p,
        "noise_cov": d + d,
        "data_mean": k,
        "data_cov": k + k,
        "batch_cov": k + k,
        "readout": p + d,
        "output_cov": p + p,
        "relaxation": p + p,
        "mean0": start,
        "cov0": start + start,
        "temperature": (),
        "temperature_theta": (),
    }
    for name, shape in shapes.items():
        found = getattr(given, name).shape
        if found != shape:
            raise ValueError(f"{name} has shape {found}: give {shape}")
    _check_temperatures(given.temperature, given.temperature_theta)
    for name in ("noise_cov", "data_cov", "batch_cov", "cov0"):
        _check_covariance(name, getattr(given, name))
    _check_covariance("output_cov", given.output_cov, definite=True)
    relaxed = given.relaxation @ given.output_cov
    if is_concrete(relaxed):
        size = np.max(np.abs(np.asarray(given.output_cov)))
        twist = np.max(np.abs(np.asarray(relaxed - relaxed.T))) / size
        if not twist <= 100 * len(relaxed) * np.finfo(relaxed.dtype).eps:
            raise ValueError(
                f"relaxation @ output_cov is not symmetric (by {twist:.3g}): detailed "
                "balance needs P S = S P^T"
            )
    _check_covariance(
        "output_cov - P output_cov P^T", given.output_cov - relaxed @ given.relaxation.T
    )
    return _from_both(given) if start == d else given


def _from_both(learner: GaussianLearner) -> GaussianLearner:
    """Extend a law of theta_0 by x_0 ~ p(.|theta_0)."""
    a, v = learner.readout, learner.cov0
    mean = jnp.concatenate([learner.mean0, a @ learner.mean0])
    cov = jnp.block([[v, v @ a.T], [a @ v, a @ v @ a.T + learner.output_cov]])
    return learner._replace(mean0=mean, cov0=cov)


def langevin_learner(
    hessian: ArrayLike,
    target_gain: ArrayLike,
    step_size: ArrayLike,
    temperature_theta: ArrayLike,
    *,
    data_mean: ArrayLike,
    data_cov: ArrayLike,
    batch_cov: ArrayLike,
    readout: ArrayLike,
    output_cov: ArrayLike,
    relaxation: ArrayLike = 0.0,
    mean0: ArrayLike,
    cov0: ArrayLike,
    temperature: ArrayLike = 1.0,
) -> GaussianLearner:
    """Langevin training (SGLD) on a quadratic loss whose minimum the data move.

        L_b(theta) = (theta - G b)^T H (theta - G b) / 2
        M = 1 - eta H,   D = eta H G,   R = 2 eta T_theta,   C = 0

    Args:
        hessian: [d, d] H, symmetric, or a scalar for one parameter.
        target_gain: [d, k] G, or a scalar; `data_gain` of the learner is eta H G.
        step_size: eta, positive.
        temperature_theta: of the injected noise; zero is plain gradient descent.
        data_mean: [k], or a scalar, like all that follow (a scalar is 1 by 1).
        data_cov: [k, k] S_b.
        batch_cov: [k, k] S_eps.
        readout: [p, d] A.
        output_cov: [p, p] S.
        relaxation: rho of the sampler (P = rho 1), or P itself [p, p].
        mean0: [d] of theta_0, or [d + p] of (theta_0, x_0).
        cov0: [d, d] or [d + p, d + p].
        temperature: of X.

    Returns:
        `GaussianLearner`. Differentiable in every argument.

    Raises:
        ValueError: H not square, or (outside jit) eta or a temperature out of range;
            other shapes are checked where the learner is used.

    Source: derived here; specification of the theory, section 3.2.

    Example:
        >>> noise = dict(data_mean=1.0, data_cov=1.0, batch_cov=0.5)
        >>> model = dict(readout=1.0, output_cov=0.5, mean0=0.0, cov0=0.25)
        >>> langevin_learner(1.0, 1.0, 0.1, 0.05, **noise, **model).drift.tolist()
        [[0.8999...]]
    """
    values = {"data_cov": data_cov, "batch_cov": batch_cov, "readout": readout, "cov0": cov0}
    values |= {"hessian": hessian, "target_gain": target_gain, "output_cov": output_cov}
    matrices = {name: jnp.atleast_2d(jnp.asarray(value)) for name, value in values.items()}
    vectors = {"data_mean": jnp.atleast_1d(data_mean), "mean0": jnp.atleast_1d(mean0)}
    scalars = {"step_size": step_size, "temperature_theta": temperature_theta}
    got = _cast(
        {**matrices, **vectors, **scalars, "relaxation": relaxation, "temperature": temperature}
    )
    h, eta, p = got.pop("hessian"), got.pop("step_size"), got["readout"].shape[0]
    if h.shape[0] != h.shape[1] or h.shape[1] != got["target_gain"].shape[0]:
        raise ValueError(
            f"hessian, target_gain have shapes {h.shape}, {got['target_gain'].shape}: give "
            "(d, d) and (d, k)"
        )
    if is_concrete(eta) and not eta > 0:
        raise ValueError(f"step_size={eta} must be positive")
    _check_temperatures(got["temperature"], got["temperature_theta"])
    eye = jnp.eye(len(h), dtype=h.dtype)
    rho = got.pop("relaxation")
    return GaussianLearner(
        drift=eye - eta * h,
        data_gain=eta * h @ got.pop("target_gain"),
        feedback=jnp.zeros((len(h), p), h.dtype),
        noise_cov=2 * eta * got["temperature_theta"] * eye,
        relaxation=rho * jnp.eye(p, dtype=h.dtype) if rho.ndim == 0 else rho,
        **got,
    )
