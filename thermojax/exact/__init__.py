"""Solvable systems: ensembles whose log Z, <U>, S and C are known.

Each function takes the parameters of its problem and returns a `Solvable`: the system to
sample (`.system`) beside its exact answers (`.log_partition(beta)`, `.internal_energy`,
`.entropy`, `.heat_capacity`), to ten digits or better. They are what the library tests
itself against, and what a new estimator should be tried on first.

    unit tests       harmonic, rosenbrock, power, student, linear_regression
    multimodality    double_well, coupled_double_wells, gaussian_mixture
    stiffness        funnel            many bodies      ring
    binary states    free_spins, curie_weiss, ising, rbm (and gaussian_rbm)
    real data        diabetes          other regression logistic_regression
    networks         tanh_network, relu_network
    singular         normal_crossing, two_layer_linear, rank_one
    any dimension    product

Driven systems have no log Z to offer but an exact work or entropy production:

    work             driven_trap, dragged_trap, stiffened_trap
    stationary       bead_spring_chain, driven_cycle

Source: specification of the core, section 10 (rows T1-T24).
"""

from thermojax.exact.boltzmann import gaussian_rbm, rbm
from thermojax.exact.driven import dragged_trap, driven_trap, stiffened_trap
from thermojax.exact.gaussian import funnel, harmonic, rosenbrock
from thermojax.exact.irreversible import bead_spring_chain, driven_cycle
from thermojax.exact.ising import ising
from thermojax.exact.least_squares import LeastSquares
from thermojax.exact.mixtures import gaussian_mixture
from thermojax.exact.networks import relu_network, tanh_network
from thermojax.exact.products import product
from thermojax.exact.regression import diabetes, linear_regression, logistic_regression
from thermojax.exact.singular import normal_crossing, rank_one, two_layer_linear
from thermojax.exact.solvable import Moments, Solvable
from thermojax.exact.spins import curie_weiss, free_spins
from thermojax.exact.tails import power, student
from thermojax.exact.wells import coupled_double_wells, double_well, ring

__all__ = [
    "LeastSquares",
    "Moments",
    "Solvable",
    "bead_spring_chain",
    "coupled_double_wells",
    "curie_weiss",
    "diabetes",
    "double_well",
    "dragged_trap",
    "driven_cycle",
    "driven_trap",
    "free_spins",
    "funnel",
    "gaussian_mixture",
    "gaussian_rbm",
    "harmonic",
    "ising",
    "linear_regression",
    "logistic_regression",
    "normal_crossing",
    "power",
    "product",
    "rank_one",
    "rbm",
    "relu_network",
    "ring",
    "rosenbrock",
    "stiffened_trap",
    "student",
    "tanh_network",
    "two_layer_linear",
]
