"""A quadratic sum over examples whose minibatch chains have closed second moments.

    l_i(x) = (x - c_i)' K_i (x - c_i) / 2,   U = sum_i l_i

The gradient estimate g = K x - b + noise has covariance (N^2/B) f [mean_i (K_i - Kbar) S
(K_i - Kbar)' + Cov(K_i c_i)] once averaged over x with second moment S about the minimum at
0, where the cross term vanishes by construction; f = (N - B)/(N - 1) without replacement.
"""

from __future__ import annotations

from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import thermojax as tj
from thermojax.dynamics import sgmcmc

WALKERS, TILE = 200_000, 10_000


class Problem(NamedTuple):
    """Examples, their sum, and the moments of their gradients."""

    curvatures: np.ndarray  # [N, d, d]
    centres: np.ndarray  # [N, d]

    @property
    def size(self):
        return len(self.centres)

    @property
    def stiffness(self):
        return self.curvatures.sum(0)

    @property
    def forces(self):
        return np.einsum("nij,nj->ni", self.curvatures, self.centres)

    def system(self, dtype=jnp.float32, prior=None):
        data = (jnp.asarray(self.curvatures, dtype), jnp.asarray(self.centres, dtype))
        like = jnp.zeros(self.centres.shape[1], dtype)
        return tj.finite_sum(one_well, data, prior=prior, like=like)

    def factor(self, batch, replace):
        n = self.size
        return n * n / batch * (1.0 if replace else (n - batch) / (n - 1))

    def additive(self, batch, replace):
        """[d, d] covariance of the gradient estimate at x = 0."""
        f = self.forces
        return self.factor(batch, replace) * f.T @ f / self.size

    def multiplicative(self, batch, replace):
        """[d^2, d^2] map from S to the covariance that K_i - Kbar adds."""
        shift = self.curvatures - self.curvatures.mean(0)
        pairs = np.einsum("nij,nkl->ikjl", shift, shift) / self.size
        d = self.centres.shape[1]
        return self.factor(batch, replace) * pairs.reshape(d * d, d * d)


def one_well(x, control, example):
    curvature, centre = example
    return 0.5 * (x - centre) @ curvature @ (x - centre)


def problem(d=1, groups=4, seed=0):
    """Symmetric fours (K + D, c), (K + D, -c), (K - D, c), (K - D, -c): no cross term."""
    rng = np.random.default_rng(seed)
    curvatures, centres = [], []
    for _ in range(groups):
        root = rng.normal(size=(d, d))
        mean = np.eye(d) / groups / 4 + root @ root.T / groups / 16
        tilt = 0.8 * mean
        c = rng.normal(size=d) * 1.5
        for sign in (1, -1):
            for side in (1, -1):
                curvatures.append(mean + sign * tilt)
                centres.append(side * c)
    return Problem(np.array(curvatures), np.array(centres))


def stationary(p, h, temperature, batch, replace, *, multiplicative=True):
    """[d, d] second moment of x' = x - h g + sqrt(2 h T) xi (core specification 2.5)."""
    d = p.centres.shape[1]
    eye, shrink = np.eye(d), np.eye(d) - h * p.stiffness
    heat = 2 * h * temperature * eye + h * h * p.additive(batch, replace)
    keep = np.kron(shrink, shrink)
    if multiplicative:
        keep = keep + h * h * p.multiplicative(batch, replace)
    return np.linalg.solve(np.eye(d * d) - keep, heat.ravel()).reshape(d, d)


def ensemble(kernel, point, second_moment, size=WALKERS, seed=3):
    """Gaussian walkers of a given second moment."""
    root = np.linalg.cholesky(second_moment)
    x = np.random.default_rng(seed).normal(size=(size, len(root))) @ root.T
    return tj.init_ensemble(
        kernel, jax.random.key(1), point, size, min(TILE, size), positions=jnp.float32(x)
    )


def moved(kernel, point, second_moment, n_steps=12, **options):
    """Walkers some steps after the predicted law; every error drives them from it."""
    st = ensemble(kernel, point, second_moment)
    return tj.run(kernel, jax.random.key(2), st, point, n_steps, **options)


def second_moments(positions):
    """[walkers, d, d] outer products, replicas of the second moment."""
    x = np.asarray(positions, np.float64)
    return np.einsum("wi,wj->wij", x, x)


def louder(kernel, factor):
    """`kernel` with its normal draws multiplied: a planted bug."""

    def step(key, state, point, params):
        draw = sgmcmc.normal
        with mock.patch.object(sgmcmc, "normal", lambda *a: factor * draw(*a)):
            return kernel.step(key, state, point, params)

    return kernel._replace(step=jax.tree_util.Partial(step))
