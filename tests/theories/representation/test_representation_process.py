"""Processes at a fixed task: closed forms of bits, and a table of five codes."""

import jax.numpy as jnp
import numpy as np
import pytest
from representation_cases import bits, five_codes, saturating, spread, three_bits

from thermojax.theories.representation.ledger import first_law_residual
from thermojax.theories.representation.process import iso_process
from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.theories.representation.tangents import (
    PROCESSES,
    constrained_rates,
    process_tangent,
)


def test_one_bit_runs_straight_to_the_boundary(x64):
    path = iso_process(bits((0.2,), (0.1,), (0.1,)), Multipliers(1.5, 2.0), 5.0, num_points=8)
    slope = -0.788662191964
    assert path.status == "boundary"
    assert "4.03594" in path.reason
    assert float(path.lam[-1]) == pytest.approx(1.5 - 2 / slope, abs=1e-9)
    assert float(path.gam[-1]) == 0
    np.testing.assert_allclose(path.gam - 2.0, slope * (path.lam - 1.5), atol=2e-8, rtol=0)
    for values in path.functionals:  # one order parameter: nothing moves
        assert spread(values) < 1e-8
    assert float(path.free_energy[0]) == pytest.approx(1.6743189469327100, abs=1e-14)


@pytest.mark.parametrize("fixed", PROCESSES)
@pytest.mark.parametrize("lam_end", [0.0, 1.5])
def test_what_is_fixed_does_not_drift(x64, fixed, lam_end):
    path = iso_process(three_bits(), Multipliers(1.0, 1.0), lam_end, fixed=fixed, num_points=31)
    assert path.status == "reached"
    assert path.reason == ""
    np.testing.assert_allclose(path.lam, np.linspace(1.0, lam_end, 31), rtol=1e-15)
    assert spread(getattr(path.functionals, fixed)) < 1e-8
    moved = [v for name, v in path.functionals._asdict().items() if name != fixed]
    assert all(spread(values) > 1e-3 for values in moved)
    objective = path.rate + path.lam * path.distortion + path.gam * path.classification
    np.testing.assert_allclose(path.free_energy, objective, rtol=1e-14)
    assert abs(float(first_law_residual(path, relative=True))) < 1e-3
    assert bool(jnp.all(path.dissipated_work >= -1e-12))


def test_iso_classification_trades_rate_for_distortion(x64):
    path = iso_process(three_bits(), Multipliers(1.0, 1.0), 2.0, num_points=41)
    rate, distortion = jnp.diff(path.rate), jnp.diff(path.distortion)
    assert bool(jnp.all(rate > 0))
    assert bool(jnp.all(distortion < 0))
    lam = (path.lam[1:] + path.lam[:-1]) / 2
    np.testing.assert_allclose(rate, -lam * distortion, rtol=1e-3)


@pytest.mark.nightly
def test_the_grid_agrees_with_an_integrator(x64):
    import diffrax

    def slope(lam, gam, _):
        here = Multipliers(lam, gam)
        tangent = process_tangent(three_bits()(here)[2], here)
        return tangent[1] / tangent[0]

    path = iso_process(three_bits(), Multipliers(1.0, 1.0), 2.0, num_points=5)
    solved = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Dopri8(),
        1.0,
        2.0,
        0.05,
        jnp.array(1.0),
        stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-11),
        saveat=diffrax.SaveAt(ts=path.lam),
    )
    np.testing.assert_allclose(path.gam, solved.ys, atol=1e-8, rtol=0)


def test_a_saturated_classifier_is_infeasible_and_says_where(x64):
    start = Multipliers(1.0, 1.0)
    path = iso_process(saturating, start, 3.0, num_points=21)
    last = 1 + 4 * np.exp(-1.0)  # beyond it exp(-gam) = C_0 - lam/4 has no root
    assert path.status == "infeasible"
    assert "nearest" in path.reason
    assert "lost between lam = 2.4 and 2.5" in path.reason
    assert path.lam[-1] <= last < path.lam[-1] + 0.1
    exact = -np.log(np.exp(-1.0) - (np.asarray(path.lam) - 1) / 4)
    np.testing.assert_allclose(path.gam, exact, rtol=1e-7)
    assert spread(path.classification) < 1e-9
    down = iso_process(saturating, start, 0.0, num_points=3)
    assert down.status == "reached"
    assert down.gam[-1] < 1


def test_a_jump_of_c_is_not_crossed(x64):
    def two_branches(tau):
        """Coexistence at gam = 1 + lam: C falls by 1/2 there and by 0.01 gam elsewhere."""
        loss = np.where(tau.gam < 1 + tau.lam, 1.0, 0.5) - 0.01 * float(tau.gam)
        return 0.0, Functionals(0.0, 0.0, loss), np.diag([0.0, 0.01])

    path = iso_process(two_branches, Multipliers(1.0, 2.9), 2.0, num_points=3)
    assert path.status == "infeasible"
    assert "jumps" in path.reason
    assert path.lam.tolist() == [1.0, 1.5]


def test_start_on_the_boundary(x64):
    path = iso_process(three_bits(), Multipliers(1.0, 0.0), 2.0, num_points=4)
    assert path.status == "boundary"
    assert path.lam.tolist() == [1.0]
    assert float(first_law_residual(path)) == 0


def test_single_precision_is_kept():
    start = Multipliers(jnp.float32(1.0), jnp.float32(1.0))
    path = iso_process(three_bits(), start, 1.5, num_points=4)
    assert {path.lam.dtype, path.gam.dtype, path.free_energy.dtype} == {jnp.dtype("float32")}
    assert spread(path.classification) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fixed": "accuracy"}, "unknown fixed 'accuracy'"),
        ({"num_points": 1}, "num_points is 1"),
        ({"start": Multipliers(-1.0, 1.0)}, "start is"),
        ({"start": Multipliers(1.0, np.nan)}, "start is"),
        ({"start": Multipliers(np.ones(2), 1.0)}, "two scalars"),
        ({"lam_end": -0.5}, "lam_end is -0.5"),
    ],
)
def test_processes_refuse(change, message):
    given_ = {"start": Multipliers(1.0, 1.0), "lam_end": 2.0} | change
    with pytest.raises(ValueError, match=message):
        iso_process(three_bits(), given_.pop("start"), given_.pop("lam_end"), **given_)
    with pytest.raises(ValueError, match="unknown fixed"):
        process_tangent(jnp.eye(2), Multipliers(1.0, 1.0), fixed="accuracy")
    with pytest.raises(ValueError, match="chi has shape"):
        process_tangent(jnp.ones(3), Multipliers(1.0, 1.0))
    with pytest.raises(ValueError, match="lam >= 0"):
        process_tangent(jnp.eye(2), Multipliers(-1.0, 1.0))
    with pytest.raises(ValueError, match="two different"):
        constrained_rates(
            jnp.eye(2), Multipliers(1.0, 1.0), jnp.ones(2), fixed=("rate", "rate")
        )


def test_iso_classification_of_the_table(x64):
    path = iso_process(five_codes(), Multipliers(0.6, 1.5), 1.6, num_points=6)
    expected = [  # lam, gam, F, R, D
        (0.8, 1.01906259, 2.62197719, 0.45716744, 1.35729421),
        (1.0, 0.72938523, 2.57469081, 0.57313884, 1.22928539),
        (1.2, 0.50337355, 2.57156508, 0.67053556, 1.14005174),
        (1.4, 0.26238638, 2.53817277, 0.74737992, 1.08070035),
        (1.6, 0.01200017, 2.48450633, 0.81505789, 1.03546423),
    ]
    columns = [path.lam, path.gam, path.free_energy, path.rate, path.distortion]
    np.testing.assert_allclose(jnp.stack(columns, 1)[1:], expected, atol=6e-9, rtol=0)
    np.testing.assert_allclose(path.classification, 1.058791082696, atol=1e-9, rtol=0)


def test_first_law_across_a_switching_code(x64):
    path = iso_process(five_codes(), Multipliers(0.6, 1.5), 1.6, num_points=101)
    assert float(first_law_residual(path)) == pytest.approx(-7.5e-6, abs=0.05e-6)
    assert spread(path.classification) < 1e-8
    assert bool(jnp.all(jnp.diff(path.rate) > 0))
    assert bool(jnp.all(jnp.diff(path.distortion) < 0))
    beyond = iso_process(five_codes(), Multipliers(0.6, 1.5), 2.0, num_points=8)
    assert beyond.status == "boundary"
    assert 1.6 < float(beyond.lam[-1]) < 1.61


def test_iso_distortion_turns_back_where_the_cross_response_vanishes(x64):
    path = iso_process(
        five_codes(), Multipliers(1.0, 2.0), 0.0, fixed="distortion", num_points=13
    )
    assert path.status == "infeasible"
    assert "turns back" in path.reason
    assert float(path.lam[-1]) > 0.8
