"""The temperature of machine-learning systems: states, transitions, layers, heat engines.

A state is an ensemble of networks on data; training is a transition between states, and

    T = Delta E / Delta S

its temperature. The differential form, dE/dS of any motion of an ensemble, is what
molecular dynamics calls the configurational and the virial temperature. Layers have local
temperatures that add up; activations are heat engines with a work efficiency.

Source: Zhang 2024, arXiv 2404.13218, of which only the abstract was seen: the definitions are
ours, following the programme of that paper, and each docstring says so.
"""

from thermojax.divergence import divergence
from thermojax.taps import tap_network
from thermojax.temperatures import (
    Temperatures,
    flow_temperature,
    kinetic_temperature,
    virial_temperature,
)
from thermojax.theories.temperature.densities import (
    Density,
    Normal,
    Point,
    TruncatedNormal,
    Uniform,
)
from thermojax.theories.temperature.efficiency import (
    Efficiency,
    activation_efficiency,
    layer_efficiency,
    mean_field_efficiency,
    network_efficiency,
    softmax_efficiency,
)
from thermojax.theories.temperature.engines import NetworkClass, engine_class, network_class
from thermojax.theories.temperature.entropy import (
    energy_entropy,
    ensemble_entropy,
    entropy,
    laplace_entropy,
    moments,
    sample,
)
from thermojax.theories.temperature.initializers import initializer_density
from thermojax.theories.temperature.linear import linear_asymptotic, linear_transition
from thermojax.theories.temperature.linear_losses import linear_energy
from thermojax.theories.temperature.linear_minimum import LinearMinimum, linear_minimum
from thermojax.theories.temperature.logsumexp import mean_logsumexp
from thermojax.theories.temperature.noise import (
    fluctuation_dissipation,
    kick_temperature,
    sgd_noise_temperature,
)
from thermojax.theories.temperature.path import path_transition
from thermojax.theories.temperature.report import temperature_report
from thermojax.theories.temperature.shift import (
    data_shift_temperature,
    refresh_heat,
    shift_work,
)
from thermojax.theories.temperature.states import (
    State,
    Transition,
    ensemble_state,
    logarithmic_mean,
    transition,
)

__all__ = [
    "Density",
    "Efficiency",
    "LinearMinimum",
    "NetworkClass",
    "Normal",
    "Point",
    "State",
    "Temperatures",
    "Transition",
    "TruncatedNormal",
    "Uniform",
    "activation_efficiency",
    "data_shift_temperature",
    "divergence",
    "energy_entropy",
    "engine_class",
    "ensemble_entropy",
    "ensemble_state",
    "entropy",
    "flow_temperature",
    "fluctuation_dissipation",
    "initializer_density",
    "kick_temperature",
    "kinetic_temperature",
    "laplace_entropy",
    "layer_efficiency",
    "linear_asymptotic",
    "linear_energy",
    "linear_minimum",
    "linear_transition",
    "logarithmic_mean",
    "mean_field_efficiency",
    "mean_logsumexp",
    "moments",
    "network_class",
    "network_efficiency",
    "path_transition",
    "refresh_heat",
    "sample",
    "sgd_noise_temperature",
    "shift_work",
    "softmax_efficiency",
    "tap_network",
    "temperature_report",
    "transition",
    "virial_temperature",
]
