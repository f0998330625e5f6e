"""Differentiable simulation of the thermodynamics of learning, in JAX.

One canonical ensemble p(theta) ∝ m(theta) exp(-beta U(theta; control)), held by a bath,
moved by a control, read by an estimator. Units: k_B = 1, nats, U extensive.
"""

from thermojax import exact
from thermojax.accumulators import dyadic, histogram, log_mean_exp, moments
from thermojax.adaptation import adapt
from thermojax.dynamics.kernel import Info, Kernel, Ledger
from thermojax.dynamics.langevin import ghmc, hmc, langevin, mala, overdamped
from thermojax.ensembles import EnsembleState, drive, init_ensemble, run
from thermojax.estimators.estimate import Estimate, Flag, explain
from thermojax.estimators.free_energy import bar, thermodynamic_integration
from thermojax.io import load_checkpoint as load
from thermojax.io import save_checkpoint as save
from thermojax.metrics import layer_temperatures
from thermojax.networks import from_flax, gaussian_loss, mlp, softmax_loss
from thermojax.partition import differentiable_log_z, log_partition
from thermojax.priors import gaussian_prior, prior
from thermojax.propriety import check_normalizable
from thermojax.smc import SMC
from thermojax.system import Point, System, coupled, finite_sum, localized, reduced, system
from thermojax.thermodynamics import (
    Curve,
    curve,
    entropy,
    free_energy,
    heat_capacity,
    internal_energy,
)
from thermojax.typing import (
    ImproperEnsembleError,
    NotReversibleError,
    ShapeError,
    UntrustedEstimate,
)

__all__ = [
    "SMC",
    "Curve",
    "EnsembleState",
    "Estimate",
    "Flag",
    "ImproperEnsembleError",
    "Info",
    "Kernel",
    "Ledger",
    "NotReversibleError",
    "Point",
    "ShapeError",
    "System",
    "UntrustedEstimate",
    "adapt",
    "bar",
    "check_normalizable",
    "coupled",
    "curve",
    "differentiable_log_z",
    "drive",
    "dyadic",
    "entropy",
    "exact",
    "explain",
    "finite_sum",
    "free_energy",
    "from_flax",
    "gaussian_loss",
    "gaussian_prior",
    "ghmc",
    "heat_capacity",
    "histogram",
    "hmc",
    "init_ensemble",
    "internal_energy",
    "langevin",
    "layer_temperatures",
    "load",
    "localized",
    "log_mean_exp",
    "log_partition",
    "mala",
    "mlp",
    "moments",
    "overdamped",
    "prior",
    "reduced",
    "run",
    "save",
    "softmax_loss",
    "system",
    "thermodynamic_integration",
]
