"""The derivative of the numerical solution, and that it is no response function."""

import numpy as np
import pytest

import thermojax as tj
from thermojax.estimators.mbar import mbar_sensitivity


def wells(n, seed=0):
    """Three wells k = 1, 2, 4 around 0, all sampled."""
    rng = np.random.default_rng(seed)
    k = np.array([1.0, 2.0, 4.0])
    x = np.concatenate([rng.normal(size=n) / np.sqrt(each) for each in k])
    return 0.5 * k[:, None] * x**2, x


@pytest.mark.parametrize("counts", [[60, 50, 40], [90, 0, 60], [0, 90, 60]])
def test_it_is_the_derivative_of_the_solver(counts):
    u, _ = wells(50)
    change = np.random.default_rng(1).normal(size=u.shape)
    e = 1e-5
    ahead, back = (tj.mbar(u + s * e * change, counts).estimate.value for s in (1, -1))
    slope = mbar_sensitivity(u, counts, change)
    np.testing.assert_allclose(slope, (ahead - back) / (2 * e), atol=1e-6)
    assert slope[0] == 0


def test_it_is_no_response_and_the_frozen_mixture_is():
    """d(log Z_1 - log Z_0)/dk_i of the solver; the truth is (.5, -.25, 0)."""
    u, x = wells(40_000)
    counts = [40_000] * 3
    fit = tj.mbar(u, counts)
    rows = np.eye(3)[:, :, None] * 0.5 * x**2
    solved = [mbar_sensitivity(u, counts, row)[1] for row in rows]
    np.testing.assert_allclose(solved, [0.317, -0.305, -0.013], atol=0.01)
    target = [-np.exp(fit.log_weights(u[i])) @ rows[i][i] for i in range(3)]
    np.testing.assert_allclose(target, [-0.5, -0.25, -0.125], rtol=0.02)


def test_mistakes_are_named():
    u, _ = wells(4)
    with pytest.raises(ValueError, match=r"du_kn \(3, 2\) must be finite and of the shape"):
        mbar_sensitivity(u, [4, 4, 4], np.zeros((3, 2)))
    far = np.array([[0.0, 0.0, 1e4, 1e4], [1e4, 1e4, 0.0, 0.0]])
    assert np.isnan(mbar_sensitivity(far, [2, 2], np.zeros((2, 4)))).all()
