"""Processes on a moving task, feasible and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representation_cases import moving_bits, moving_three_bits, spread, table_task, three_bits

from thermojax.theories.representation.ledger import dissipated_work, first_law_residual
from thermojax.theories.representation.quantities import Functionals, Multipliers
from thermojax.theories.representation.response import TaskEquilibrium
from thermojax.theories.representation.tangents import process_tangent
from thermojax.theories.representation.task_process import iso_transfer


def test_first_law_with_a_moving_task(x64):
    paths = [
        iso_transfer(moving_three_bits(), Multipliers(1.0, 1.0), num_points=n + 1)
        for n in (8, 32)
    ]
    for path in paths:
        assert path.status == "reached"
        assert path.chi.shape[1:] == (3, 3)
        assert spread(path.classification) < 1e-8
        assert spread(path.gam) > 0.1
        assert bool(jnp.all(path.lam == 1.0))
    coarse, fine = (float(first_law_residual(path)) for path in paths)
    assert coarse / fine == pytest.approx(16, rel=0.05)
    without = paths[1]._replace(task_force=jnp.zeros(33))
    assert abs(float(first_law_residual(without, relative=True))) > 0.05


def test_gam_answers_the_drift_by_its_tangent(x64):
    path = iso_transfer(moving_three_bits(), Multipliers(1.0, 1.0), num_points=401)
    for fixed in ("classification",):
        here = Multipliers(path.lam[200], path.gam[200])
        rate = process_tangent(path.chi[200], here, fixed=fixed, drift=-path.chi[200, 1, 2])
        assert float(path.gam[201] - path.gam[199]) / 0.005 == pytest.approx(
            float(rate[1]), rel=1e-4
        )


@pytest.mark.parametrize("fixed", ["distortion", "rate"])
def test_other_quantities_on_a_moving_task(x64, fixed):
    path = iso_transfer(moving_three_bits(), Multipliers(1.0, 1.0), fixed=fixed, num_points=9)
    assert path.status == "reached"
    assert spread(getattr(path.functionals, fixed)) < 1e-8
    assert spread(path.classification) > 1e-3


def test_two_quantities_take_both_multipliers(x64):
    fixed = ("classification", "distortion")
    path = iso_transfer(moving_three_bits(), Multipliers(1.0, 1.0), fixed=fixed, num_points=9)
    assert path.status == "reached"
    assert max(spread(path.classification), spread(path.distortion)) < 1e-8
    assert spread(path.lam) > 1e-2
    assert spread(path.rate) > 1e-3


def test_one_order_parameter_cannot_answer_two_constraints(x64):
    task = moving_bits((0.2,), (0.1,), (0.1,), (0.2,))
    fixed = ("classification", "distortion")
    path = iso_transfer(task, Multipliers(1.0, 1.0), fixed=fixed, num_points=3)
    assert path.status == "infeasible"
    assert bool(jnp.all(jnp.isnan(path.lam[1:])))
    assert bool(jnp.all(jnp.isnan(path.gam[1:])))


def test_prescribed_lam(x64):
    path = iso_transfer(
        moving_three_bits(),
        Multipliers(1.0, 1.0),
        lam_of_t=lambda t: 1.0 - 0.5 * t,
        num_points=5,
    )
    np.testing.assert_allclose(path.lam, [1.0, 0.875, 0.75, 0.625, 0.5])
    assert path.status == "reached"
    assert spread(path.classification) < 1e-8


def _bump(tau, t):
    """C = exp(-gam) + sin(pi t): no gam holds C_0 = exp(-gam_0) over the middle of the path."""
    low, rise = jnp.exp(-tau.gam), jnp.sin(jnp.pi * t)
    chi = jnp.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]) * low
    chi = chi.at[1, 2].set(-jnp.pi * jnp.cos(jnp.pi * t)).at[2, 1].set(chi[1, 2])
    free = tau.gam * rise + 1 - low
    loss = low + rise
    force = tau.gam * jnp.pi * jnp.cos(jnp.pi * t)
    return TaskEquilibrium(
        free, Functionals(free - tau.gam * loss, 0.0 * low, loss), force, chi
    )


def test_an_infeasible_stretch_is_named_and_left_again(x64):
    path = iso_transfer(jax.jit(_bump), Multipliers(1.0, 0.5), num_points=21)
    limit = np.exp(-0.5)
    rise = np.sin(np.pi * np.linspace(0, 1, 21))
    lost = rise >= limit
    assert path.status == "infeasible"
    assert "t = 0.25 to 0.75" in path.reason
    np.testing.assert_array_equal(np.isnan(path.gam), lost)
    np.testing.assert_array_equal(np.isnan(path.free_energy), lost)
    np.testing.assert_allclose(path.gam[~lost], -np.log(limit - rise[~lost]), rtol=1e-6)
    np.testing.assert_allclose(path.classification[lost], rise[lost], atol=1e-10, rtol=0)
    assert bool(jnp.all(path.lam == 1.0))
    assert np.isnan(first_law_residual(path))
    assert np.isnan(dissipated_work(path))


def test_one_sided_constraint_is_met_without_gam(x64):
    def falling(tau, t):
        mirrored = _bump(tau, -t)
        chi = mirrored.chi.at[1, 2].multiply(-1).at[2, 1].multiply(-1)
        return mirrored._replace(task_force=-mirrored.task_force, chi=chi)

    equal = iso_transfer(falling, Multipliers(1.0, 0.5), num_points=5)
    assert equal.status == "infeasible"
    assert "negative" in equal.reason
    assert np.isnan(equal.gam[1:4]).all()
    assert not np.isnan(equal.gam[4])
    path = iso_transfer(falling, Multipliers(1.0, 0.5), num_points=5, one_sided=True)
    assert path.status == "reached"
    np.testing.assert_allclose(path.gam, [0.5, 0, 0, 0, 0.5], atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fixed": "accuracy"}, "unknown fixed"),
        ({"fixed": ("rate", "rate")}, "two different"),
        ({"fixed": ("rate", "distortion"), "lam_of_t": lambda t: 1.0}, "leaves one unknown"),
        ({"num_points": 1}, "num_points"),
        ({"lam_of_t": lambda t: 0.5}, "lam_of_t starts"),
        ({"lam_of_t": lambda t: 1 - 2 * t}, "lam_of_t starts"),
        ({"one_sided": True, "fixed": "rate"}, "one_sided"),
    ],
)
def test_transfers_refuse(change, message):
    with pytest.raises(ValueError, match=message):
        iso_transfer(_bump, Multipliers(1.0, 1.0), **change)
    with pytest.raises(ValueError, match="return"):
        iso_transfer(
            lambda tau, t: TaskEquilibrium(*three_bits()(tau)[:2], 0.0, jnp.eye(2)),
            Multipliers(1.0, 1.0),
            num_points=2,
        )


@pytest.mark.parametrize(
    ("gam", "target", "expected"),
    [
        (
            0.3,
            1.019781765552,
            [
                (0.3, 0.46696462, 1.27918710),
                (1.55954435, 0.65872892, 1.16562392),
                (2.16886871, 0.74074931, 1.13982693),
                (1.99557909, 0.65429756, 1.21268525),
                (1.45107830, 0.47377909, 1.31500572),
            ],
        ),
        (
            1.0,
            0.972567885671,
            [
                (1.0, 0.52817802, 1.24861926),
                (3.19451685, 0.86359173, 1.07261652),
                (6.63598845, 1.02289530, 1.02250088),
                (9.48280261, 0.87846445, 1.21135180),
                (5.23783956, 0.69228247, 1.21593344),
            ],
        ),
    ],
)
def test_mixture_transfer_of_the_table(x64, gam, target, expected):
    path = iso_transfer(table_task(), Multipliers(1.0, gam), num_points=5)
    assert path.status == "reached"
    columns = jnp.stack([path.gam, path.rate, path.distortion], 1)
    # C is held to 1e-10; gam follows to that over chi_gg, 1e-4 at the largest gam
    np.testing.assert_allclose(columns, expected, rtol=2e-8, atol=6e-9)
    np.testing.assert_allclose(path.classification, target, atol=1e-9, rtol=0)


def test_infeasible_transfer_of_the_table(x64):
    path = iso_transfer(table_task(), Multipliers(1.0, 2.0), num_points=5)
    assert path.status == "infeasible"
    assert "t = 0.25 to 0.75" in path.reason
    assert np.isnan(path.gam).tolist() == [False, True, True, True, False]
    assert float(path.gam[4]) == pytest.approx(15.6764668, abs=1e-6)
    assert float(path.classification[0]) == pytest.approx(0.929011140406, abs=1e-12)
    assert bool(jnp.all(path.classification[1:4] > path.classification[0]))
