"""First law, dissipated work and length along paths of equilibria."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representation_cases import five_codes, three_bits

from thermojax.theories.representation.ledger import (
    dissipated_work,
    first_law_residual,
    thermodynamic_length,
)
from thermojax.theories.representation.quantities import Functionals, Multipliers, Trajectory
from thermojax.theories.representation.surface import equilibrium_path


def _line(n):
    s = jnp.linspace(0.8, 1.6, n + 1)
    return equilibrium_path(three_bits(), Multipliers(s, 2 - s / 2), batching="vmap")


def test_first_law_closes_at_second_order(x64):
    coarse, fine = (float(first_law_residual(_line(n))) for n in (8, 32))
    assert abs(coarse) > 1e-7
    assert coarse / fine == pytest.approx(16, rel=0.02)
    with_wrong_sign = _line(8)._replace(
        functionals=_line(8).functionals._replace(distortion=-_line(8).distortion)
    )
    assert abs(float(first_law_residual(with_wrong_sign, relative=True))) > 0.1


def test_dissipation_tends_to_half_the_action(x64):
    path = _line(32)
    delta = np.array([0.8, -0.4])
    ends = np.array([[float(u[k]) for u in path.functionals[1:]] for k in (0, -1)])
    limit = -delta @ (ends[1] - ends[0]) / 2
    assert bool(jnp.all(path.dissipated_work >= -1e-12))
    works = [n * float(dissipated_work(_line(n))) for n in (8, 32)]
    assert works[1] == pytest.approx(limit, rel=2e-2)
    assert (works[0] - limit) / (works[1] - limit) == pytest.approx(4, rel=0.05)
    by_formula = dissipated_work(path._replace(dissipated_work=None))
    assert float(by_formula) == pytest.approx(float(dissipated_work(path)), rel=1e-12)
    length = float(thermodynamic_length(path))
    assert 0.9 * limit < length**2 / 2 <= limit * (1 + 1e-3)


def test_dissipation_can_be_lowered_by_its_gradient(x64):
    def lost(middle):
        tau = Multipliers(jnp.stack([0.5, middle[0], 2.0]), jnp.stack([1.0, middle[1], 0.5]))
        return dissipated_work(equilibrium_path(three_bits(), tau, batching="vmap"))

    def centred(k):
        step = 1e-5 * np.eye(2)[k]
        return float(value(middle + step)[0] - value(middle - step)[0]) / 2e-5

    middle, value = np.array([1.4, 0.6]), jax.jit(jax.value_and_grad(lost))
    work, slope = value(middle)
    np.testing.assert_allclose(slope, [centred(0), centred(1)], atol=1e-9, rtol=0)
    assert float(value(middle - 0.5 * slope)[0]) < float(work)


def test_length_of_an_isotropic_metric_is_euclidean():
    angle = jnp.linspace(0, jnp.pi / 2, 60)
    tau = Multipliers(jnp.cos(angle), jnp.sin(angle))
    chi = jnp.broadcast_to(4 * jnp.eye(2), (60, 2, 2))
    path = Trajectory(
        jnp.zeros(60), tau, Functionals(*jnp.zeros((3, 60))), jnp.zeros(60), chi=chi
    )
    assert float(thermodynamic_length(path)) == pytest.approx(jnp.pi, rel=1e-3)
    still = path._replace(multipliers=Multipliers(jnp.ones(60), jnp.ones(60)))
    assert float(thermodynamic_length(still)) == 0
    with pytest.raises(ValueError, match="chi is None"):
        thermodynamic_length(path._replace(chi=None))
    with pytest.raises(ValueError, match="fixed task"):
        thermodynamic_length(path._replace(t=angle))
    with pytest.raises(ValueError, match="task_force is None"):
        first_law_residual(path._replace(t=angle))


@pytest.mark.parametrize(
    ("steps", "product"),
    [
        (1, 0.203994),
        (2, 0.181311),
        (4, 0.169454),
        (8, 0.167141),
        (16, 0.164318),
        (64, 0.162988),
    ],
)
def test_dissipation_of_the_table(x64, steps, product):
    s = jnp.linspace(0.8, 1.6, steps + 1)
    path = equilibrium_path(five_codes(), Multipliers(s, s), batching="loop")
    assert steps * float(dissipated_work(path)) == pytest.approx(product, abs=6e-7)
    assert bool(jnp.all(path.dissipated_work >= -1e-12))
    ends = sum(float(force[-1] - force[0]) for force in path.functionals[1:])
    assert -0.8 * ends / 2 == pytest.approx(0.1625716953, abs=1e-10)
