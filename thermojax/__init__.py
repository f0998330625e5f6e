"""Differentiable simulation of the thermodynamics of learning, in JAX.

One canonical ensemble p(theta) ∝ m(theta) exp(-beta U(theta; control)), held by a bath,
moved by a control, read by an estimator. Units: k_B = 1, nats, U extensive.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from thermojax import exact
from thermojax.accumulators import dyadic, histogram, log_mean_exp, moments
from thermojax.adaptation import adapt
from thermojax.anneal import AIS, Annealed, anneal
from thermojax.binary import checkerboard_blocks, counting_prior, layer_blocks
from thermojax.bridge import Bridge
from thermojax.chains import (
    diffusion_entropy_production,
    linear_entropy_production,
    markov_entropy_production,
)
from thermojax.checkpoints import load_checkpoint as load
from thermojax.checkpoints import save_checkpoint as save
from thermojax.crystal import EinsteinCrystal, harmonic
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
from thermojax.estimators.curvature import laplacian
from thermojax.estimators.estimate import Estimate, Flag, explain
from thermojax.estimators.free_energy import bar, thermodynamic_integration
from thermojax.estimators.integration import Wham, stepping_stone, wham
from thermojax.estimators.knn import gaussian_entropy, knn_entropy
from thermojax.estimators.mbar import Mbar, mbar, mbar_sensitivity
from thermojax.estimators.temperature import fit_temperature
from thermojax.estimators.work import crooks, fluctuation_report, jarzynski
from thermojax.exchange import Exchange, ReplicaExchange, replica_exchange
from thermojax.export import to_arviz, to_u_kn, to_xarray
from thermojax.flat_histogram import DensityOfStates, FlatHistogram, flat_histogram
from thermojax.gradient_noise import noise_covariance, noise_ratio, stationarity
from thermojax.integration import TI
from thermojax.laplace import Laplace, laplace
from thermojax.linear import linear_stationary_covariance, ornstein_uhlenbeck_covariance
from thermojax.llc import llc
from thermojax.llc_curve import LlcCurve, llc_curve, wbic
from thermojax.llc_sensitivity import Sensitivity, llc_sensitivity
from thermojax.networks import from_flax, gaussian_loss, mlp, softmax_loss
from thermojax.partition import differentiable_log_z
from thermojax.priors import gaussian_prior, prior
from thermojax.propriety import check_normalizable
from thermojax.response import differentiable_mean, mean, response, susceptibility
from thermojax.routes import Routes, log_partition
from thermojax.smc import SMC
from thermojax.symmetry import (
    Hidden,
    Symmetry,
    permutation_symmetry,
    tanh_symmetry,
    with_scope,
)
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

if TYPE_CHECKING:
    from thermojax.theories import learning_laws, ppm, representation, temperature

__all__ = [
    "AIS",
    "SMC",
    "TI",
    "Annealed",
    "Bridge",
    "Curve",
    "DensityOfStates",
    "EinsteinCrystal",
    "EnsembleState",
    "Estimate",
    "Exchange",
    "Flag",
    "FlatHistogram",
    "Hidden",
    "ImproperEnsembleError",
    "Info",
    "Kernel",
    "Laplace",
    "Ledger",
    "LlcCurve",
    "Mbar",
    "NotReversibleError",
    "Point",
    "ReplicaExchange",
    "Routes",
    "Sensitivity",
    "ShapeError",
    "Symmetry",
    "System",
    "Thermometers",
    "UntrustedEstimate",
    "Wham",
    "adapt",
    "adaptive_langevin",
    "anneal",
    "bar",
    "check_normalizable",
    "checkerboard_blocks",
    "control_variate",
    "counting_prior",
    "coupled",
    "crooks",
    "curve",
    "differentiable_log_z",
    "differentiable_mean",
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
    "flat_histogram",
    "fluctuation_report",
    "free_energy",
    "from_flax",
    "full",
    "gaussian_entropy",
    "gaussian_loss",
    "gaussian_prior",
    "ghmc",
    "gibbs_flip",
    "harmonic",
    "heat_capacity",
    "histogram",
    "hmc",
    "init_ensemble",
    "internal_energy",
    "jarzynski",
    "knn_entropy",
    "langevin",
    "laplace",
    "laplacian",
    "layer_blocks",
    "learning_laws",
    "linear_entropy_production",
    "linear_stationary_covariance",
    "llc",
    "llc_curve",
    "llc_sensitivity",
    "load",
    "localized",
    "log_mean_exp",
    "log_partition",
    "mala",
    "markov_entropy_production",
    "mbar",
    "mbar_sensitivity",
    "mean",
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
    "permutation_symmetry",
    "plain_noise",
    "ppm",
    "prior",
    "psgld",
    "random_walk",
    "read_thermometers",
    "reduced",
    "replica_exchange",
    "representation",
    "response",
    "run",
    "save",
    "sghmc",
    "sgld",
    "softmax_loss",
    "stationarity",
    "stepping_stone",
    "susceptibility",
    "svrg",
    "system",
    "tanh_symmetry",
    "temperature",
    "thermodynamic_integration",
    "thermometers",
    "to_arviz",
    "to_u_kn",
    "to_xarray",
    "wbic",
    "wham",
    "with_scope",
]


def __getattr__(name: str) -> ModuleType:
    """The theories, imported when first asked for: `import thermojax` stays quick."""
    if name in ("learning_laws", "ppm", "representation", "temperature"):
        return importlib.import_module(f"thermojax.theories.{name}")
    raise AttributeError(f"module 'thermojax' has no attribute {name!r}")
