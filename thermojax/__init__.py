"""Differentiable simulation of the thermodynamics of learning, in JAX."""

from thermojax.accumulators import dyadic, histogram, log_mean_exp, moments
from thermojax.dynamics.kernel import Info, Kernel, Ledger
from thermojax.dynamics.langevin import ghmc, hmc, langevin, mala, overdamped
from thermojax.ensembles import EnsembleState, drive, init_ensemble, run
from thermojax.estimators.estimate import Estimate, Flag, explain
from thermojax.priors import gaussian_prior, prior
from thermojax.system import Point, System, coupled, finite_sum, localized, reduced, system
from thermojax.typing import (
    ImproperEnsembleError,
    NotReversibleError,
    ShapeError,
    UntrustedEstimate,
)
from thermojax.estimators.free_energy import bar, thermodynamic_integration
from thermojax.partition import (
    Curve,
    curve,
    differentiable_log_z,
    entropy,
    free_energy,
    heat_capacity,
    internal_energy,
    log_partition,
)
from thermojax.propriety import check_normalizable
from thermojax.smc import SMC
