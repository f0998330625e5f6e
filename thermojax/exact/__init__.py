"""Solvable systems: ensembles whose log Z, <U>, S and C are known.

Each function takes the parameters of its problem and returns a `Solvable`: the system to
sample (`.system`) beside its exact answers (`.log_partition(beta)`, `.internal_energy`,
`.entropy`, `.heat_capacity`), to ten digits or better. They are what the library tests
itself against, and what a new estimator should be tried on first.

    unit tests       harmonic, rosenbrock, power, student, linear_regression
    multimodality    double_well, coupled_double_wells, gaussian_mixture
    stiffness        funnel            many bodies      ring, free_spins
    real data        diabetes          other regression logistic_regression
    networks         tanh_network, relu_network
    singular         normal_crossing, two_layer_linear, rank_one
    any dimension    product

Source: specification of the core, section 10 (rows T1-T15, T20-T24).
"""

from thermojax.exact.gaussian import funnel, harmonic, rosenbrock
from thermojax.exact.least_squares import LeastSquares
from thermojax.exact.mixtures import gaussian_mixture
from thermojax.exact.networks import relu_network, tanh_network
from thermojax.exact.products import product
from thermojax.exact.regression import diabetes, linear_regression, logistic_regression
from thermojax.exact.singular import normal_crossing, rank_one, two_layer_linear
from thermojax.exact.solvable import Moments, Solvable
from thermojax.exact.spins import free_spins
from thermojax.exact.tails import power, student
from thermojax.exact.wells import coupled_double_wells, double_well, ring

__all__ = [
    "LeastSquares",
    "Moments",
    "Solvable",
    "coupled_double_wells",
    "diabetes",
    "double_well",
    "free_spins",
    "funnel",
    "gaussian_mixture",
    "harmonic",
    "linear_regression",
    "logistic_regression",
    "normal_crossing",
    "power",
    "product",
    "rank_one",
    "relu_network",
    "ring",
    "rosenbrock",
    "student",
    "tanh_network",
    "two_layer_linear",
]
