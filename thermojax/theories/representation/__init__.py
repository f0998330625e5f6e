"""A free-energy principle for representation learning: rate, distortion, classification.

A code z of an example x is drawn from a canonical ensemble with two generalised forces,

    p(z | x) ∝ m(z) exp(-lam u_D(z; x) - gam u_C(z; x)),      F(lam, gam) = -E_x log Z_x
    F = min (R + lam D + gam C),      dF = D dlam + C dgam

with exact models (tables, codebooks, linear-Gaussian systems), neural ones, processes on
the equilibrium surface, and transfer between tasks at constant classification loss.

Source: Gao & Chaudhari 2020, arXiv 2002.12406; docstrings say what is the paper's and what is
derived here.
"""

from thermojax.theories.representation.baselines import (
    accuracy,
    authors_rule,
    fine_tuning,
    fixed_controls,
    from_scratch,
)
from thermojax.theories.representation.bits import (
    BinaryEquilibrium,
    binary_equilibrium,
    binary_tables,
)
from thermojax.theories.representation.codebook import (
    CodebookEquilibrium,
    codebook_equilibrium,
    codebook_model,
)
from thermojax.theories.representation.equilibrium import EquilibrationInfo, equilibrate
from thermojax.theories.representation.gaussian import (
    GaussianEquilibrium,
    GaussianPosterior,
    gaussian_equilibrium,
    gaussian_log_partition,
)
from thermojax.theories.representation.latent import latent_forces, latent_system
from thermojax.theories.representation.ledger import (
    dissipated_work,
    first_law_residual,
    thermodynamic_length,
)
from thermojax.theories.representation.log_partition import (
    EncoderGap,
    GibbsCode,
    LogPartition,
    encoder_gap,
    gibbs_code,
    log_partition,
)
from thermojax.theories.representation.networks import (
    diagonal_marginal,
    gaussian_decoder,
    gaussian_mlp_model,
    mixture_marginal,
    neural_model,
)
from thermojax.theories.representation.neural import (
    expected_functionals,
    functionals,
    mean_and_stderr,
)
from thermojax.theories.representation.neural_process import (
    ControlledPath,
    Feedback,
    Plant,
    controlled_path,
)
from thermojax.theories.representation.onset import critical_gam, critical_lam, onset_strength
from thermojax.theories.representation.process import iso_process
from thermojax.theories.representation.quantities import (
    Batch,
    Functionals,
    Model,
    Multipliers,
    Trajectory,
    objective,
)
from thermojax.theories.representation.response import (
    TaskEquilibrium,
    tabular_free_energy,
    tabular_model,
    tabular_susceptibility,
    tabular_task,
)
from thermojax.theories.representation.schedules import Schedule, make_schedule
from thermojax.theories.representation.stepping import StepControl
from thermojax.theories.representation.surface import (
    EquilibriumSurface,
    concavity_violation,
    equilibrium_path,
    equilibrium_surface,
)
from thermojax.theories.representation.susceptibility import Response, susceptibility
from thermojax.theories.representation.tabular import TabularEquilibrium, tabular_equilibrium
from thermojax.theories.representation.tangents import constrained_rates, process_tangent
from thermojax.theories.representation.task_paths import displacement_path, mixture_path
from thermojax.theories.representation.task_process import iso_transfer
from thermojax.theories.representation.transfer import (
    Transfer,
    TransferSummary,
    transfer,
    transfer_summary,
)
from thermojax.theories.representation.transport import Coupling, class_pairs, sinkhorn_coupling

__all__ = [
    "Batch",
    "BinaryEquilibrium",
    "CodebookEquilibrium",
    "ControlledPath",
    "Coupling",
    "EncoderGap",
    "EquilibrationInfo",
    "EquilibriumSurface",
    "Feedback",
    "Functionals",
    "GaussianEquilibrium",
    "GaussianPosterior",
    "GibbsCode",
    "LogPartition",
    "Model",
    "Multipliers",
    "Plant",
    "Response",
    "Schedule",
    "StepControl",
    "TabularEquilibrium",
    "TaskEquilibrium",
    "Trajectory",
    "Transfer",
    "TransferSummary",
    "accuracy",
    "authors_rule",
    "binary_equilibrium",
    "binary_tables",
    "class_pairs",
    "codebook_equilibrium",
    "codebook_model",
    "concavity_violation",
    "constrained_rates",
    "controlled_path",
    "critical_gam",
    "critical_lam",
    "diagonal_marginal",
    "displacement_path",
    "dissipated_work",
    "encoder_gap",
    "equilibrate",
    "equilibrium_path",
    "equilibrium_surface",
    "expected_functionals",
    "fine_tuning",
    "first_law_residual",
    "fixed_controls",
    "from_scratch",
    "functionals",
    "gaussian_decoder",
    "gaussian_equilibrium",
    "gaussian_log_partition",
    "gaussian_mlp_model",
    "gibbs_code",
    "iso_process",
    "iso_transfer",
    "latent_forces",
    "latent_system",
    "log_partition",
    "make_schedule",
    "mean_and_stderr",
    "mixture_marginal",
    "mixture_path",
    "neural_model",
    "objective",
    "onset_strength",
    "process_tangent",
    "sinkhorn_coupling",
    "susceptibility",
    "tabular_equilibrium",
    "tabular_free_energy",
    "tabular_model",
    "tabular_susceptibility",
    "tabular_task",
    "thermodynamic_length",
    "transfer",
    "transfer_summary",
]
