"""Laws of learning: the canonical ensemble of a network's states.

The states x of a network's neurons are fast, its trainables q = (w, b) slow. The bulk loss
H(x; q) is an energy, and at inverse temperature beta it defines

    p(x) = exp(-beta H(x; q)) / Z(beta, q; data),      F = -T log Z

with the data clamped on the boundary neurons. Entropy, complexity, heat, work and the
efficiency of learning are derivatives of that one log Z.

Source: Vanchurin 2021, arXiv 2004.09280. Its body could not be read here: docstrings say
what is the paper's and what is our definition, following its programme; where a sign or a
split is unresolved both readings are returned.
"""

from thermojax.estimators.curvature import laplacian
from thermojax.theories.learning_laws.calibration import calibrate_beta
from thermojax.theories.learning_laws.core_system import as_system
from thermojax.theories.learning_laws.efficiency import learning_efficiency
from thermojax.theories.learning_laws.embedding import (
    embed_layers,
    extract_layers,
    from_flax,
    to_flax,
)
from thermojax.theories.learning_laws.ensemble import (
    log_partition,
    thermodynamic_state,
    total_free_energy,
)
from thermojax.theories.learning_laws.entropy_rates import (
    Rate,
    StateRate,
    entropy_rate,
    gd_entropy_change,
    state_entropy_rate,
)
from thermojax.theories.learning_laws.factorization import (
    EnergeticFraction,
    Interaction,
    energetic_fraction,
    interaction,
)
from thermojax.theories.learning_laws.first_law import FirstLaw, first_law
from thermojax.theories.learning_laws.saddle import FixedPoints, fixed_point_sum, fixed_points
from thermojax.theories.learning_laws.septuple import (
    System,
    assemble,
    dense_network,
    is_feedforward,
    is_linear,
    layered_network,
    select_free,
    trainable_mask,
)
from thermojax.theories.learning_laws.settling import (
    activation_step,
    boundary_loss,
    bulk_loss,
    settle,
    settling_residual,
)
from thermojax.theories.learning_laws.states import State

__all__ = [
    "EnergeticFraction",
    "FirstLaw",
    "FixedPoints",
    "Interaction",
    "Rate",
    "State",
    "StateRate",
    "System",
    "activation_step",
    "as_system",
    "assemble",
    "boundary_loss",
    "bulk_loss",
    "calibrate_beta",
    "dense_network",
    "embed_layers",
    "energetic_fraction",
    "entropy_rate",
    "extract_layers",
    "first_law",
    "fixed_point_sum",
    "fixed_points",
    "from_flax",
    "gd_entropy_change",
    "interaction",
    "is_feedforward",
    "is_linear",
    "laplacian",
    "layered_network",
    "learning_efficiency",
    "log_partition",
    "select_free",
    "settle",
    "settling_residual",
    "state_entropy_rate",
    "thermodynamic_state",
    "to_flax",
    "total_free_energy",
    "trainable_mask",
]
