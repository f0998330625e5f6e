"""Differentiable simulation of the thermodynamics of learning, in JAX.

One canonical ensemble p(theta) ∝ m(theta) exp(-beta U(theta; control)), held by a bath,
moved by a control, read by an estimator. Units: k_B = 1, nats, U extensive.
"""

from typing import TYPE_CHECKING

from thermojax import exact
from thermojax.accumulators import dyadic, histogram, log_mean_exp, moments
from thermojax.adaptation import adapt
from thermojax.dynamics.kernel import Info, Kernel, Ledger
from thermojax.dynamics.langevin import ghmc, hmc, langevin, mala, overdamped
from thermojax.ensembles import EnsembleState, drive, init_ensemble, run
from thermojax.estimators.estimate import Estimate, Flag, explain
from thermojax.estimators.free_energy import bar, thermodynamic_integration
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
