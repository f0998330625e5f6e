"""Entropy production of paths: worked averages, fluctuation theorems, chain rules."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import EXACT
from thermojax.theories.ppm import (
    FiniteLearner,
    finite_ledger,
    heat_bath_kernel,
    joint_marginals,
    path_entropy_production,
)

pytestmark = pytest.mark.usefixtures("x64")
B, X, T, STEPS = 4, 2, 3, 2
X_AXES, T_AXES = (0, 2, 4), (1, 3, 5)
seeds = st.integers(0, 2**31)
PARTS = ("marginal_x", "marginal_theta", "conditional_x", "conditional_theta")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT)


def digits(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.6e-12)


def feedback():
    """Example F2."""
    u = np.array([[0.0, 0.8, 1.5], [1.2, 0.1, 0.4]])
    loss = np.array([[[0, 0.5, 1], [0.9, 0.2, 0]], [[1.1, 0, 0.3], [0.4, 0.6, 0]]])
    p0 = [[0.10, 0.25, 0.15], [0.20, 0.05, 0.25]]
    k_theta, k_x = heat_bath_kernel(loss, 0.8, 0.4), heat_bath_kernel(u.T, 1.5, 0.7)
    return FiniteLearner([0.3, 0.7], p0, k_theta, k_x, u, 1.5, 0.8)


def process(seed, *, feeds_back, fresh=False, zeros=False):
    """Random kernels of any kind, without detailed balance: the theorems do not ask for it."""
    rng = np.random.default_rng(seed)
    k_theta = rng.dirichlet(np.ones(T), (STEPS, B, X, T))
    if not feeds_back:
        k_theta = np.broadcast_to(k_theta[:, :, :1], k_theta.shape)
    k_x = rng.dirichlet(np.ones(X), (STEPS, T, X))
    if fresh:
        k_x = np.broadcast_to(k_x[:, :, :1], k_x.shape)
    if zeros:
        k_theta = k_theta * np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]])
        k_theta = k_theta / k_theta.sum(-1, keepdims=True)
    p0 = rng.dirichlet(np.ones(X * T)).reshape(X, T)
    return FiniteLearner(rng.dirichlet(np.ones(B)), p0, k_theta, k_x)


def averages(path):
    p = path.weights.sum(0)
    return {name: float(jnp.sum(p * getattr(path, name))) for name in PARTS}


def info(table, a, b, given=()):
    """I(a; b | given) of the axes of a table."""

    def entropy(*keep):
        p = np.asarray(table).sum(tuple(i for i in range(table.ndim) if i not in keep))
        return -np.sum(p[p > 0] * np.log(p[p > 0]))

    rest = entropy(*given) if given else 0.0
    return entropy(*a, *given) + entropy(*b, *given) - entropy(*a, *b, *given) - rest


def test_averages_of_the_worked_example():
    learner = feedback()
    path = path_entropy_production(learner, n_steps=2)
    p = path.weights.sum(0)
    assert path.total.shape == (2, 2, 3, 2, 3, 2, 3)
    assert path.path_info.shape == (2, 3, 2, 3, 2, 3)
    digits(jnp.sum(path.weights * path.total), 0.5534857533016)
    expected = {
        "marginal_x": 0.0627178263795,
        "marginal_theta": 0.0062553731693,
        "conditional_x": 0.5141226131937,
        "conditional_theta": 0.4576601599835,
    }
    found = averages(path)
    for name, value in expected.items():
        digits(found[name], value)
    digits(found["marginal_x"] + found["conditional_theta"], 0.520377986363)
    digits(jnp.sum(p * path.path_info), 0.3068865385878)
    digits(jnp.sum(p * path.path_info_backward), -0.1445182482264)
    # Ito and Sagawa: what is known at the end, less the start and what Theta was told
    digits(info(p, [4], T_AXES), 0.1344166853788)
    digits(info(p, [0], [1]), 0.1023992721484)
    digits(info(p, [3], [0], [1]), 0.002257131673)
    digits(info(p, [5], [0, 2], [1, 3]), 0.002279070157)


@pytest.mark.parametrize("boundary", ["blind", "resolved"])
def test_against_a_walk_over_all_paths(boundary):
    learner = feedback()
    path = path_entropy_production(learner, boundary, n_steps=2)
    p_b, p0, k_theta, k_x = (np.asarray(a) for a in learner[:4])
    final = np.asarray(joint_marginals(learner, n_steps=2)[0][-1])
    backward = np.zeros(path.total.shape)
    for b, x0, t0, x1, t1, x2, t2 in itertools.product(*map(range, path.total.shape)):
        forward = p_b[b] * p0[x0, t0] * k_theta[b, x0, t0, t1] * k_x[t1, x0, x1]
        forward *= k_theta[b, x1, t1, t2] * k_x[t2, x1, x2]
        end = p_b[b] * final[:, x2, t2].sum() if boundary == "blind" else final[b, x2, t2]
        back = end * k_x[t2, x2, x1] * k_theta[b, x1, t2, t1] * k_x[t1, x1, x0]
        back *= k_theta[b, x0, t1, t0]
        where = (b, x0, t0, x1, t1, x2, t2)
        close(path.weights[where], forward)
        close(path.total[where], np.log(forward / back))
        backward[where] = back
    # DFT path by path, and every part against its own marginals
    close(path.weights * np.exp(-path.total), backward)
    f, g = np.asarray(path.weights).sum(0), backward.sum(0)
    part = lambda p, axes: p.sum(axes, keepdims=True)
    ratio = {
        "marginal_x": part(f, T_AXES) / part(g, T_AXES),
        "marginal_theta": part(f, X_AXES) / part(g, X_AXES),
        "conditional_x": f / part(f, X_AXES) / (g / part(g, X_AXES)),
        "conditional_theta": f / part(f, T_AXES) / (g / part(g, T_AXES)),
        "path_info": f / part(f, T_AXES) / part(f, X_AXES),
        "path_info_backward": g / part(g, T_AXES) / part(g, X_AXES),
    }
    for name, value in ratio.items():
        close(getattr(path, name), np.broadcast_to(np.log(value), f.shape))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=seeds,
    feeds_back=st.booleans(),
    fresh=st.booleans(),
    boundary=st.sampled_from(["blind", "resolved"]),
)
def test_theorems_of_any_process(seed, boundary, **kind):
    learner = process(seed, **kind)
    path, led = path_entropy_production(learner, boundary), finite_ledger(learner)
    p = path.weights.sum(0)
    close(jnp.sum(p), 1.0)
    close(jnp.sum(path.weights * jnp.exp(-path.total)), 1.0)
    for name in PARTS:
        close(jnp.sum(p * jnp.exp(-getattr(path, name))), 1.0)
    mean = averages(path)
    assert min(mean.values()) > -1e-12
    # chain rule and bookkeeping hold path by path
    close(path.marginal_theta + path.conditional_x, path.marginal_x + path.conditional_theta)
    close(path.conditional_x, path.marginal_x + path.path_info - path.path_info_backward)
    total = led.ep_total_blind if boundary == "blind" else led.ep_total_resolved
    close(jnp.sum(path.weights * path.total), jnp.sum(total))
    summed = mean["marginal_theta"] + mean["conditional_x"]
    assert summed < jnp.sum(total) + 1e-12  # summing out b hides entropy production
    _ito_sagawa(p, led)
    if not kind["feeds_back"] and boundary == "blind":
        close(mean["conditional_x"], jnp.sum(led.ep_conditional))
        _central_identity(learner, path, p)


def _ito_sagawa(p, led):
    told = info(p, [3], [0], [1]) + info(p, [5], [0, 2], [1, 3])
    bound = info(p, [4], T_AXES) - info(p, [0], [1]) - told
    assert jnp.sum(led.ep_x) > bound - 1e-12


def _central_identity(learner, path, p):
    """s_{X|Theta} = Delta s_{X|Theta} - beta Q_X, hence Sagawa and Ueda's theorem."""
    joint = np.asarray(joint_marginals(learner)[0]).sum(1)
    k_x = np.asarray(learner.kernel_x)
    x0, t0, x1, t1, x2, t2 = np.indices(p.shape)
    heat = -np.log(k_x[0][t1, x0, x1] / k_x[0][t1, x1, x0])
    heat = heat - np.log(k_x[1][t2, x1, x2] / k_x[1][t2, x2, x1])
    of_x = lambda n, x: -np.log(joint[n].sum(1))[x]
    i = lambda n, x, t: np.log(joint[n] / joint[n].sum(0) / joint[n].sum(1)[:, None])[x, t]
    interval = of_x(2, x2) - of_x(0, x0) - heat
    gain = i(2, x2, t2) - i(0, x0, t0)
    close(path.conditional_x, interval - gain)
    close(np.sum(p * np.exp(-interval + gain)), 1.0)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=seeds, feeds_back=st.booleans())
def test_theorems_of_the_sub_steps(seed, **kind):
    """<exp(-sigma^X_n)> = 1 always; that of Theta when b is resolved."""
    learner = process(seed, **kind)
    joint, stale = map(np.asarray, joint_marginals(learner))
    led = finite_ledger(learner)
    for n in range(STEPS):
        k_x, k_theta = np.asarray(learner.kernel_x[n]), np.asarray(learner.kernel_theta[n])
        before, after = stale[n].sum(0), joint[n + 1].sum(0)
        move = before.T[..., None] * k_x  # theta', x, x'
        back = after.T[:, None, :] * np.swapaxes(k_x, 1, 2)
        sigma = np.log(move / back)
        close(np.sum(move * np.exp(-sigma)), 1.0)
        close(np.sum(move * sigma), led.ep_step_x[n])
        move = joint[n][..., None] * k_theta
        back = stale[n][:, :, None, :] * np.swapaxes(k_theta, 2, 3)
        sigma = np.log(move / back)
        close(np.sum(move * np.exp(-sigma)), 1.0)
        assert np.sum(move * sigma) > -1e-12


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=seeds, feeds_back=st.booleans())
def test_unequal_supports_lose_weight(seed, **kind):
    learner = process(seed, zeros=True, **kind)
    path = path_entropy_production(learner)
    p = path.weights.sum(0)
    assert not any(np.any(np.isnan(field)) for field in path)
    kept = [jnp.sum(path.weights * jnp.exp(-path.total))]
    kept += [jnp.sum(p * jnp.exp(-getattr(path, name))) for name in PARTS]
    assert np.all(np.array(kept) < 1 + 1e-12)
    assert kept[0] < 1 - 1e-4
    assert np.isposinf(jnp.sum(path.weights * path.total))


def test_a_deterministic_path_of_parameters_is_a_protocol():
    learner = process(3, feeds_back=False)
    to = np.array([[1, 2, 2], [0, 0, 1], [2, 2, 2], [1, 1, 1]])
    k_theta = np.broadcast_to(np.eye(T)[to][None, :, None], (STEPS, B, X, T, T))
    learner = learner._replace(kernel_theta=k_theta)
    path = path_entropy_production(learner)
    p, mean = path.weights.sum(0), averages(path)
    assert not any(np.any(np.isnan(field)) for field in path)
    close(mean["conditional_x"], jnp.sum(finite_ledger(learner).ep_conditional))
    close(jnp.sum(p * jnp.exp(-path.conditional_x)), 1.0)
    assert np.isposinf(mean["marginal_theta"])
    assert np.isposinf(mean["conditional_theta"])
    assert np.isposinf(jnp.sum(path.weights * path.total))


def test_gradients_against_differences():
    rng = np.random.default_rng(0)
    at = (rng.normal(size=(X, T)), rng.normal(size=(2, X, T)), rng.normal(size=(X, T)), 1.3)
    weigh = rng.normal(size=7)

    def number(numbers, mask):
        u, loss, start, beta = numbers
        p0 = jax.nn.softmax(start.ravel()).reshape(X, T) * mask
        k_theta, k_x = heat_bath_kernel(loss, beta, 0.5), heat_bath_kernel(u.T, beta, 0.5)
        learner = FiniteLearner(np.array([0.4, 0.6]), p0 / jnp.sum(p0), k_theta, k_x)
        path = path_entropy_production(learner, "resolved", n_steps=1)
        # a cut start cannot be reversed everywhere: its conditional part can
        fields = [jnp.where(jnp.isfinite(field), field, 0.0) for field in path[1:]]
        p = path.weights.sum(0)
        sums = [jnp.sum(path.weights * fields[0]), *(jnp.sum(p * f) for f in fields[1:])]
        return sum(w * s for w, s in zip(weigh, sums, strict=True))

    grad, value = jax.jit(jax.grad(number)), jax.jit(number)
    for mask in (np.ones((X, T)), np.eye(X, T)):
        slope = grad(at, mask)
        for i, leaf in enumerate(at):
            way = rng.normal(size=np.shape(leaf))
            ends = [
                value(tuple(x + h * way if j == i else x for j, x in enumerate(at)), mask)
                for h in (1e-5, -1e-5)
            ]
            difference = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(np.sum(slope[i] * way), difference, rtol=1e-6, atol=1e-8)


def test_refusals():
    learner = feedback()
    with pytest.raises(ValueError, match="boundary='both'"):
        path_entropy_production(learner, "both", n_steps=2)
    with pytest.raises(ValueError, match="20155392 paths exceed 2000000"):
        path_entropy_production(learner, n_steps=8)
    with pytest.raises(ValueError, match="steps is unknown"):
        path_entropy_production(learner)
