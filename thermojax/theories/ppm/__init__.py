"""Stochastic thermodynamics of learning parametric probabilistic models.

A model p(x|theta) = exp(-phi(x; theta)) / Z is trained; its samples X are a system in
contact with the parameters Theta, which are their control and their heat reservoir, and
data B are the source of work. What the heat of sampling pays for:

    Delta S(X) - beta <Q_X> = conditional entropy production + gain of I(X; Theta)

Source: Parsi 2024, arXiv 2310.19802, after its abstracts; definitions marked as readings of
the paper or as ours in each docstring.
"""

from thermojax.estimators.fluctuation import (
    DetailedFluctuation,
    IntegralFluctuation,
    detailed_fluctuation,
    integral_fluctuation,
)
from thermojax.fisher import fisher_metric, thermodynamic_length
from thermojax.theories.ppm.finite import (
    FiniteLearner,
    heat_bath_kernel,
    joint_marginals,
    metropolis_kernel,
)
from thermojax.theories.ppm.gaussian import GaussianLearner, langevin_learner
from thermojax.theories.ppm.gaussian_ledger import gaussian_l_info, gaussian_ledger
from thermojax.theories.ppm.ledger import Ledger, finite_ledger
from thermojax.theories.ppm.merit import learning_efficiency, memory_efficiency, relevance
from thermojax.theories.ppm.paths import PathEP, path_entropy_production
from thermojax.theories.ppm.reservoir import reservoir_entropy_change, reservoir_temperature

__all__ = [
    "DetailedFluctuation",
    "FiniteLearner",
    "GaussianLearner",
    "IntegralFluctuation",
    "Ledger",
    "PathEP",
    "detailed_fluctuation",
    "finite_ledger",
    "fisher_metric",
    "gaussian_l_info",
    "gaussian_ledger",
    "heat_bath_kernel",
    "integral_fluctuation",
    "joint_marginals",
    "langevin_learner",
    "learning_efficiency",
    "memory_efficiency",
    "metropolis_kernel",
    "path_entropy_production",
    "relevance",
    "reservoir_entropy_change",
    "reservoir_temperature",
    "thermodynamic_length",
]
