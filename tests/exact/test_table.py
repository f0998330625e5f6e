"""Every row of the table of ground truth that this package carries.

Where the printed digits of a row were found to be off, the value here comes from an
independent 25-digit computation: T22 (`test_singular.py`, one-dimensional Bessel form).
"""

import numpy as np
import pytest

from thermojax import exact

# name -> (constructor, beta, log Z, <U>, S, C)
ROWS = {
    "T1": (exact.harmonic, 1.5, -0.0526746090, 1.7, 2.4973253910, 1.5),
    "T2 hot": (exact.double_well, 0.5, 0.9268958679, 0.6065350304, 1.2301633831, 0.1754300870),
    "T2": (exact.double_well, 1.0, 0.6799262429, 0.4172545129, 1.0971807558, 0.2229076972),
    "T2 cold": (
        exact.double_well,
        4.0,
        -0.0535718536,
        0.1448291393,
        0.5257447034,
        0.6234751119,
    ),
    "T3": (
        lambda: exact.double_well(tilt=0.25),
        2.0,
        *(0.4477780519, 0.1679403804, 0.7836588127, 0.6156280808),
    ),
    "T4": (
        exact.coupled_double_wells,
        1.0,
        *(1.0352590782, 1.0807806163, 2.1160396945, 0.5114891571),
    ),
    "T5 hot": (
        exact.gaussian_mixture,
        0.5,
        *(1.2422884322, 3.1246925487, 2.8046347066, 0.9976901980),
    ),
    "T5": (exact.gaussian_mixture, 1.0, 0.0, 2.0623616654, 2.0623616654, 1.1495002809),
    "T6": (exact.funnel, 1.0, 10.2879976207, 5.0, 15.2879976207, 187.25),
    "T6 small": (
        lambda: exact.funnel(n=2, s=1.0),
        0.5,
        *(4.0465363705, 4.5, 6.2965363705, 3.5),
    ),
    "T7": (exact.rosenbrock, 1.0, 0.3400109296, 1.0, 1.3400109296, 1.0),
    "T8": (exact.power, 2.0, 1.2647656470, 0.375, 2.0147656470, 0.75),
    "T9 hot": (exact.student, 0.5, 3.6296365356, 10.0, 8.6296365356, 25.0),
    "T9": (exact.student, 1.0, 1.8378770664, 1.6666666667, 3.5045437331, 2.7777777778),
    "T10": (exact.ring, 1.0, 4.4042210256, 3.9302313636, 8.3344523892, 2.6240033161),
    "T10 cold": (exact.ring, 2.0, 1.3423802529, 2.4498601874, 6.2421006276, 3.6980152481),
    "T11 hot": (
        exact.linear_regression,
        0.5,
        *(-3.4494630358, 3.1384323179, -1.8802468768, 0.7683928639),
    ),
    "T11": (
        exact.linear_regression,
        1.0,
        *(-4.7731643479, 2.3261659188, -2.4469984291, 0.8618306722),
    ),
    "T12 hot": (
        exact.diabetes,
        0.1,
        *(-32.3404361978, 257.3216493044, -6.6082712673, 3.3605424905),
    ),
    "T12": (
        exact.diabetes,
        1.0,
        *(-238.7561032736, 222.6906382435, -16.0654650301, 4.8551680516),
    ),
    "T13 hot": (
        exact.logistic_regression,
        0.5,
        *(-2.6611313430, 4.0509094069, -0.6356766395, 0.4811182477),
    ),
    "T13": (
        exact.logistic_regression,
        1.0,
        *(-4.5290214258, 3.5233587699, -1.0056626559, 0.5911691948),
    ),
    "T14": (
        exact.tanh_network,
        1.0,
        *(-1.9004312667, 0.6646192114, -1.2358120553, 0.6691914928),
    ),
    "T14 cold": (
        exact.tanh_network,
        4.0,
        *(-2.8808123015, 0.2014619087, -2.0749646667, 0.5821210040),
    ),
    "T15": (
        lambda: exact.tanh_network(hidden=2),
        1.0,
        *(-1.8898057137, 0.5980827589, -1.2917229547, 0.5123761537),
    ),
    "T16": (exact.rbm, 1.0, 4.0450883256, -0.7404436422, 3.3046446834, 0.3259499362),
    "T16 cold": (exact.rbm, 2.0, 4.9403223584, -1.0378163847, 2.8646895890, 1.0183601704),
    "T17": (exact.gaussian_rbm, 1.0, 4.6127047370, -0.0966757417, 4.5160289953, 1.4500161320),
    "T18 hot": (exact.ising, 0.3, 12.7855233257, -13.5048651780, 8.7340637723, 7.0558824572),
    "T18": (exact.ising, 0.44, 15.5047265387, -25.0055524497, 4.5022834609, 12.5544247856),
    "T18 large": (
        lambda: exact.ising(8),
        0.44,
        *(60.0763075272, -95.2016347767, 18.1875882255, 73.5328328637),
    ),
    "T18 critical": (
        lambda: exact.ising(16),
        np.log(1 + np.sqrt(2)) / 2,
        *(238.6422566351, -371.9846023203, 74.7135550036, 383.6684696064),
    ),
    "T19": (exact.curie_weiss, 1.0, 8.0431508856, -2.2915576865, 5.7515931991, 3.9032548807),
    "T20": (
        exact.normal_crossing,
        10.0,
        *(-0.9006333742, 0.0290274322, -0.6103590521, 0.2535463202),
    ),
    "T20 cold": (
        exact.normal_crossing,
        100.0,
        *(-1.6498442707, 0.0035420383, -1.2956404422, 0.3338328144),
    ),
    "T21": (
        lambda: exact.two_layer_linear((2, 1, 2)),
        100.0,
        *(-4.2994690372, 0.0081834832, -3.4811207177, 0.7873968572),
    ),
    "T21 wide": (
        lambda: exact.two_layer_linear((2, 2, 2)),
        100.0,
        *(-7.5441805334, 0.0139030333, -6.1538771992, 1.3474578372),
    ),
    "T22": (
        exact.rank_one,
        100.0,
        *(-9.0296832908, 0.0150872481, -7.5209584847, 1.5176060372),
    ),
    "T23": (
        exact.relu_network,
        1.0,
        *(-2.9107195016, 0.6447468704, -2.2659726312, 0.9417284026),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_row_to_the_printed_digits(row):
    build, beta, *expected = ROWS[row]
    solved = build()
    found = [
        solved.log_partition(beta),
        solved.internal_energy(beta),
        solved.entropy(beta),
        solved.heat_capacity(beta),
    ]
    # ten printed decimals; T10, T14 and T15 are off by up to 1.6 units in the last one
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-10)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (exact.linear_regression, -5.6763297585),
        (exact.diabetes, -487.2766097292),
        (lambda: exact.tanh_network(hidden=2), -1.0347029003),
    ],
)
def test_log_evidence(build, expected):
    assert build().log_evidence == pytest.approx(expected, rel=0, abs=2e-10)


def test_free_spins_closed_form():
    solved, beta = exact.free_spins(7, 0.4), 1.3
    assert solved.log_partition(beta) == pytest.approx(7 * np.log(2 * np.cosh(beta * 0.4)))
    assert solved.internal_energy(beta) == pytest.approx(-7 * 0.4 * np.tanh(beta * 0.4))
    assert solved.heat_capacity(beta) == pytest.approx(
        7 * (beta * 0.4 / np.cosh(beta * 0.4)) ** 2
    )


def test_symmetry_orders():
    assert exact.tanh_network().symmetry_order == 2
    assert exact.tanh_network(hidden=2).symmetry_order == 8
    assert exact.relu_network(hidden=2).symmetry_order == 2
    assert exact.double_well().symmetry_order == 1
