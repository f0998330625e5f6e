"""The equilibrium surface as data."""

import jax.numpy as jnp
import numpy as np
import pytest
from representation_cases import saturating, three_bits

from thermojax.theories.representation.quantities import Multipliers
from thermojax.theories.representation.surface import (
    concavity_violation,
    equilibrium_path,
    equilibrium_surface,
)


def test_surface_is_concave_and_a_lifted_point_is_seen(x64):
    lams, gams = jnp.linspace(0, 3, 7), jnp.linspace(0, 2, 5)
    surface = equilibrium_surface(three_bits(), lams, gams, batching="vmap")
    assert surface.free_energy.shape == (7, 5)
    assert surface.chi.shape == (7, 5, 2, 2)
    one = three_bits()(Multipliers(lams[4], gams[2]))
    assert float(surface.free_energy[4, 2]) == pytest.approx(float(one[0]), rel=1e-14)
    np.testing.assert_allclose(surface.chi[4, 2], one[2], rtol=1e-12)
    assert float(concavity_violation(surface)) < 1e-13
    lifted = surface._replace(free_energy=surface.free_energy.at[3, 2].add(0.1))
    assert 0.01 < float(concavity_violation(lifted)) <= 0.1


def test_every_way_over_the_grid_agrees(x64):
    lams, gams = np.array([0.5, 1.0]), np.array([1.0, 2.0, 3.0])
    free = [
        equilibrium_surface(three_bits(), lams, gams, batching=name).free_energy
        for name in ("map", "vmap", "loop")
    ]
    np.testing.assert_allclose(free[0], free[1], rtol=1e-14)
    np.testing.assert_allclose(free[0], free[2], rtol=1e-14)
    by_loop = equilibrium_surface(saturating, lams, gams, batching="loop")
    assert by_loop.chi.shape == (2, 3, 2, 2)
    with pytest.raises(ValueError, match="unknown batching"):
        equilibrium_surface(three_bits(), lams, gams, batching="pmap")
    with pytest.raises(ValueError, match="holds -1"):
        equilibrium_surface(three_bits(), [-1.0, 1.0], gams)
    with pytest.raises(ValueError, match="as many"):
        equilibrium_path(three_bits(), Multipliers(lams, gams))
