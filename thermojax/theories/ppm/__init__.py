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
from thermojax.estimators.information import (
    InformationBounds,
    ensemble_information,
    grouped_information,
    grouped_mixture_information,
    mixture_information,
)
from thermojax.fisher import fisher_metric, thermodynamic_length
from thermojax.theories.ppm.ensembles import (
    gaussian_memorized_information,
    log_likelihood_matrix,
)
from thermojax.theories.ppm.finite import (
    FiniteLearner,
    heat_bath_kernel,
    joint_marginals,
    metropolis_kernel,
)
from thermojax.theories.ppm.gaussian import GaussianLearner, langevin_learner
from thermojax.theories.ppm.gaussian_ledger import gaussian_l_info, gaussian_ledger
from thermojax.theories.ppm.langevin import (
    langevin_heat,
    langevin_step_information,
    langevin_step_information_bound,
)
from thermojax.theories.ppm.ledger import Ledger, finite_ledger
from thermojax.theories.ppm.merit import learning_efficiency, memory_efficiency, relevance
from thermojax.theories.ppm.models import (
    BernoulliRBM,
    CouplingFlow,
    GaussianRegressor,
    Network,
    ParametricModel,
    SoftmaxClassifier,
    binary_states,
    gaussian_regressor,
    given,
    softmax_classifier,
)
from thermojax.theories.ppm.paths import PathEP, path_entropy_production
from thermojax.theories.ppm.reservoir import reservoir_entropy_change, reservoir_temperature
from thermojax.theories.ppm.sampled import (
    EnsembleLedger,
    categorical_ledger,
    sample_ledger,
)
from thermojax.theories.ppm.training import (
    Hyperparameters,
    Trained,
    learner,
    likelihood_system,
    train,
)

__all__ = [
    "BernoulliRBM",
    "CouplingFlow",
    "DetailedFluctuation",
    "EnsembleLedger",
    "FiniteLearner",
    "GaussianLearner",
    "GaussianRegressor",
    "Hyperparameters",
    "InformationBounds",
    "IntegralFluctuation",
    "Ledger",
    "Network",
    "ParametricModel",
    "PathEP",
    "SoftmaxClassifier",
    "Trained",
    "binary_states",
    "categorical_ledger",
    "detailed_fluctuation",
    "ensemble_information",
    "finite_ledger",
    "fisher_metric",
    "gaussian_l_info",
    "gaussian_ledger",
    "gaussian_memorized_information",
    "gaussian_regressor",
    "given",
    "grouped_information",
    "grouped_mixture_information",
    "heat_bath_kernel",
    "integral_fluctuation",
    "joint_marginals",
    "langevin_heat",
    "langevin_learner",
    "langevin_step_information",
    "langevin_step_information_bound",
    "learner",
    "learning_efficiency",
    "likelihood_system",
    "log_likelihood_matrix",
    "memory_efficiency",
    "metropolis_kernel",
    "mixture_information",
    "path_entropy_production",
    "relevance",
    "reservoir_entropy_change",
    "reservoir_temperature",
    "sample_ledger",
    "softmax_classifier",
    "thermodynamic_length",
    "train",
]
