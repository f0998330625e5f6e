"""Differentiable simulation of the thermodynamics of learning, in JAX.

One canonical ensemble p(theta) ∝ m(theta) exp(-beta U(theta; control)), held by a bath,
moved by a control, read by an estimator. Units: k_B = 1, nats, U extensive.
"""

from thermojax import exact
from thermojax.accumulators import dyadic, histogram, log_mean_exp, moments
from thermojax.adaptation import adapt
from thermojax.binary import checkerboard_blocks, counting_prior, layer_blocks
from thermojax.chains import (
    diffusion_entropy_production,
    linear_entropy_production,
    markov_entropy_production,
)
from thermojax.dynamics.discrete import gibbs_flip, metropolis_flip
from thermojax.dynamics.driven import driven
from thermojax.dynamics.gradients import control_variate, full, minibatch, svrg
from thermojax.dynamics.kernel import Info, Kernel, Ledger, plain_noise
from thermojax.dynamics.langevin import ghmc, hmc, langevin, mala, overdamped
from thermojax.dynamics.random_walk import random_walk
from thermojax.dynamics.sgmcmc import psgld, sghmc, sgld
from thermojax.dynamics.thermostats import (
    adaptive_langevin,
    nose_hoover_chain,
    nose_hoover_langevin,
)
from thermojax.ensembles import EnsembleState, drive, init_ensemble, run
from thermojax.entropy_production import entropy_production, path_entropy_production
from thermojax.estimators.estimate import Estimate, Flag, explain
from thermojax.estimators.free_energy import bar, thermodynamic_integration
from thermojax.estimators.mbar import Mbar, mbar
from thermojax.estimators.temperature import fit_temperature
from thermojax.estimators.work import crooks, fluctuation_report, jarzynski
from thermojax.gradient_noise import noise_covariance, noise_ratio, stationarity
from thermojax.io import load_checkpoint as load
from thermojax.io import save_checkpoint as save
from thermojax.linear import linear_stationary_covariance, ornstein_uhlenbeck_covariance
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
from thermojax.thermometers import Thermometers, read_thermometers, thermometers
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
    "Mbar",
    "NotReversibleError",
    "Point",
    "ShapeError",
    "System",
    "Thermometers",
    "UntrustedEstimate",
    "adapt",
    "adaptive_langevin",
    "bar",
    "check_normalizable",
    "checkerboard_blocks",
    "control_variate",
    "counting_prior",
    "coupled",
    "crooks",
    "curve",
    "differentiable_log_z",
    "diffusion_entropy_production",
    "drive",
    "driven",
    "dyadic",
    "entropy",
    "entropy_production",
    "exact",
    "explain",
    "finite_sum",
    "fit_temperature",
    "fluctuation_report",
    "free_energy",
    "from_flax",
    "full",
    "gaussian_loss",
    "gaussian_prior",
    "ghmc",
    "gibbs_flip",
    "heat_capacity",
    "histogram",
    "hmc",
    "init_ensemble",
    "internal_energy",
    "jarzynski",
    "langevin",
    "layer_blocks",
    "linear_entropy_production",
    "linear_stationary_covariance",
    "load",
    "localized",
    "log_mean_exp",
    "log_partition",
    "mala",
    "markov_entropy_production",
    "mbar",
    "metropolis_flip",
    "minibatch",
    "mlp",
    "moments",
    "noise_covariance",
    "noise_ratio",
    "nose_hoover_chain",
    "nose_hoover_langevin",
    "ornstein_uhlenbeck_covariance",
    "overdamped",
    "path_entropy_production",
    "plain_noise",
    "prior",
    "psgld",
    "random_walk",
    "read_thermometers",
    "reduced",
    "run",
    "save",
    "sghmc",
    "sgld",
    "softmax_loss",
    "stationarity",
    "svrg",
    "system",
    "thermodynamic_integration",
    "thermometers",
]
