"""One solvable system of every kind, with parameters other than the table's."""

import numpy as np

from thermojax import exact

_RNG = np.random.default_rng(7)
_X = np.c_[np.ones(12), _RNG.normal(size=12)]
_Y = _RNG.normal(size=12)
_T = np.where(_X[:, 1] + _RNG.normal(size=12) > 0, 1, -1)
_STIFF = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.2], [0.0, -0.2, 3.0]])
_COV = np.array([[[1.0, 0.6], [0.6, 0.8]], [[0.5, 0.0], [0.0, 2.0]]])

LEBESGUE = {
    "harmonic": lambda: exact.harmonic((0.5, 3.0), offset=-1.2),
    "harmonic matrix": lambda: exact.harmonic(_STIFF, offset=0.3),
    "double well": lambda: exact.double_well(2.0, 1.3, 0.4),
    "coupled wells": lambda: exact.coupled_double_wells(0.8, a=0.7, b=1.4),
    "opposed wells": lambda: exact.coupled_double_wells(-0.5, a=1.2, b=0.8),
    "mixture": lambda: exact.gaussian_mixture((0.4, 0.6), ((1, 0), (-1, 2)), covariances=_COV),
    "mixture in five dimensions": lambda: exact.gaussian_mixture(
        (0.2, 0.5, 0.3), np.arange(15.0).reshape(3, 5) % 4, sds=0.8
    ),
    "mixture on a line": lambda: exact.gaussian_mixture(
        (0.5, 0.5), (-1.0, 2.0), sds=(0.5, 1.0)
    ),
    "funnel": lambda: exact.funnel(n=3, s=0.8),
    "rosenbrock": lambda: exact.rosenbrock(5.0, center=0.5, stiffness=2.0),
    "power": lambda: exact.power(2, 6),
    "laplace": lambda: exact.power(2, 1.0),
    "student": lambda: exact.student(nu=4.0, dim=1),
    "ring": lambda: exact.ring(5, coupling=0.6, a=0.4, b=1.2),
    "gaussian rbm": lambda: exact.gaussian_rbm((0.5, -1.0), (0.3,), ((1.0,), (-2.0,))),
}
NORMALISED = {
    "linear": lambda: exact.linear_regression(_X, _Y, 0.8, (1.0, 2.0)),
    "logistic": lambda: exact.logistic_regression(_X, _T, 1.5),
    "tanh 1": lambda: exact.tanh_network(_X[:, 1], _Y, 0.6, 1, 1.4),
    "tanh 2": lambda: exact.tanh_network(_X[:, 1], _Y, 0.6, 2, 0.8),
    "relu 1": lambda: exact.relu_network(_X[:, 1], _Y, 0.6, 1, 1.4),
    "relu 2": lambda: exact.relu_network(_X[:, 1], _Y, 0.6, 2, 0.8),
    "crossing": lambda: exact.normal_crossing((1, 2), prior_scale=1.2),
    "crossing of three": lambda: exact.normal_crossing((1, 1, 1.5)),
    "linear network 1": lambda: exact.two_layer_linear((3, 1, 2), prior_scale=0.9),
    "linear network 2": lambda: exact.two_layer_linear((3, 2, 2)),
    "rank one": lambda: exact.rank_one((3, 2), strength=1.5, prior_scale=0.9),
}
OTHER = {
    "spins": lambda: exact.free_spins(4, (0.3, -0.2, 1.0, 0.0)),
    "curie-weiss": lambda: exact.curie_weiss(7, 1.4, -0.3),
    "ising": lambda: exact.ising((4, 6), 0.6),
    "rbm": lambda: exact.rbm((0.5, -1.0), (0.3,), ((1.0,), (-2.0,))),
    "product": lambda: exact.product(exact.double_well(), exact.tanh_network()),
}
ALL = LEBESGUE | NORMALISED | OTHER
