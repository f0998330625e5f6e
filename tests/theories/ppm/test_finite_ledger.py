"""Ledger of finite learners: worked numbers, identities, second laws and when they fail."""

import functools

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
    metropolis_kernel,
)

pytestmark = pytest.mark.usefixtures("x64")
RANDOM = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT)


def digits(found, expected, places=12):
    """Equal to the digits that the table gives."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.6 * 10.0**-places)


def spins():
    """Example F1."""
    s = np.array([-1.0, 1.0])
    loss = np.broadcast_to(-0.5 * s[:, None, None] * s, (2, 2, 2))
    u = -np.outer(s, s)
    p0 = 0.5 * heat_bath_kernel(u, 1.0)[:, 0].T
    k_theta, k_x = heat_bath_kernel(loss, 2.0, 0.5), heat_bath_kernel(u.T, 1.0)
    return FiniteLearner([0.5, 0.5], p0, k_theta, k_x, u, 1.0, 2.0)


def feedback():
    """Example F2."""
    u = np.array([[0.0, 0.8, 1.5], [1.2, 0.1, 0.4]])
    loss = np.array([[[0, 0.5, 1], [0.9, 0.2, 0]], [[1.1, 0, 0.3], [0.4, 0.6, 0]]])
    p0 = [[0.10, 0.25, 0.15], [0.20, 0.05, 0.25]]
    k_theta, k_x = heat_bath_kernel(loss, 0.8, 0.4), heat_bath_kernel(u.T, 1.5, 0.7)
    return FiniteLearner([0.3, 0.7], p0, k_theta, k_x, u, 1.5, 0.8)


def demon():
    """A bit written at error .1 and, by the same dataset, again at error .2."""
    towards = lambda right: np.array([[right, 1 - right], [1 - right, right]])
    steps = [np.broadcast_to(towards(q)[:, None, None, :], (2, 1, 2, 2)) for q in (0.9, 0.8)]
    return FiniteLearner([0.5, 0.5], [[0.5, 0.5]], np.stack(steps), np.ones((2, 2, 1, 1)))


def forgetting():
    """Theta learns b and is erased; the slow sample still knows it."""
    apart = 1 - np.eye(2)
    loss = np.stack([4 * np.broadcast_to(apart[:, None], (2, 2, 2)), np.zeros((2, 2, 2))])
    k_x = [heat_bath_kernel(3 * apart, 1.0, mix) for mix in (1.0, 0.05)]
    start = np.full((2, 2), 0.25)
    return FiniteLearner([0.5, 0.5], start, heat_bath_kernel(loss, 1.0), np.stack(k_x))


def test_spins_without_feedback():
    led = finite_ledger(spins(), n_steps=3)
    n = np.arange(4)
    t = np.tanh(1)
    m, h = t * (1 - 0.5**n), lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)
    c = (t / 2 + t**2 * m / 2)[:3]
    close(led.m_info, np.log(2) - h((1 + m) / 2))
    close(led.l_info, np.log(2) - h((1 + m * t) / 2))
    close(led.subsystem_info, np.full(4, np.log(2) - h((1 + t) / 2)))
    close(led.stale_info, np.log(2) - h((1 + c) / 2))
    close(led.heat_x, c - t)
    close(led.work, t - c)
    table = {
        "m_info": [0, 0.0743657662384, 0.1734160448297, 0.2423673314740],
        "l_info": [0, 0.0426640016289, 0.0978571507883, 0.1349820166334],
        "subsystem_info": [0.3278133254727] * 4,
        "stale_info": [0.0743657662384, 0.1260473738571, 0.1577977994521],
        "heat_x": [-0.3807970779779, -0.2703610400451, -0.2151430210787],
        "heat_theta": [-0.1903985389889, -0.0951992694945, -0.0475996347472],
        "ep_x": [0.3807970779779, 0.2703610400451, 0.2151430210787],
        "ep_conditional": [0.3807970779779, 0.2703610400451, 0.2151430210787],
        "ep_step_x": [0.1273495187435, 0.0685950884295, 0.0451274950581],
        "ep_theta": [0.3807970779779, 0.1903985389889, 0.0951992694945],
        "ep_step_theta": [0.6342446372123, 0.3921644906046, 0.2652147955151],
    }
    for name, row in table.items():
        digits(getattr(led, name), row)


def test_feedback_without_symmetry():
    led = finite_ledger(feedback(), n_steps=2)
    table = {
        "subsystem_info": [0.1023992721484, 0.0840384978174, 0.1282181256832],
        "m_info": [0, 0.0007162697611, 0.0013480326509],
        "l_info": [0, 0.0001272012721, 0.0003462678305],
        "joint_b_info": [0, 0.0011006454955, 0.0018685559522],
        "stale_info": [0.0486708513866, 0.0362847202971],
        "heat_x": [-0.2556947778013, -0.1259370990389],
        "heat_theta": [-0.0086523279314, -0.0206710054534],
        "work": [-0.040795367441, 0.069685732062],
        "ep_x": [0.3727291732276, 0.1806955078586],
        "ep_theta": [0.0092709923482, 0.0166089334020],
        "ep_step_x": [0.3373615267968, 0.0887621024725],
        "ep_step_theta": [0.0629994131101, 0.0643627109223],
        "ep_total_blind": [0.4003609399069, 0.1531248133948],
        "ep_total_resolved": [0.399260294411, 0.152356902938],
        "ep_conditional": [0.3910899475587, 0.1365158799927],
    }
    for name, row in table.items():
        digits(getattr(led, name), row)


def test_a_remembered_dataset_breaks_the_blind_law_of_one_step():
    led = finite_ledger(demon())
    digits(led.m_info, [0, 0.3680642071685, 0.1927447570218])
    digits(led.ep_total_resolved[1], 0.03669001403475)
    digits(led.ep_step_theta[1], -0.138629436112)
    digits(led.ep_total_blind[1], -0.138629436112)
    assert np.all(np.cumsum(led.ep_step_theta) >= 0)


def test_a_slow_sample_knows_what_the_parameters_forgot():
    led = finite_ledger(forgetting())
    digits(led.m_info, [0, 0.60305241, 0], 8)
    digits(led.l_info, [0, 0.45610179, 0.40109706], 8)
    assert led.l_info[2] > led.m_info[2] + 0.4


# --- random processes -------------------------------------------------------------------

LABELS, X, T, STEPS = 4, 2, 3, 2  # a label is two bits, one for each step
FIRST, SECOND = np.arange(4) // 2, np.arange(4) % 2


def process(seed, *, feeds_back=False, fresh=False, one_pass=False, matched=False):
    """Random heat-bath learner; `matched` starts x_0 from p(.|theta_0)."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(X, T))
    bits = rng.uniform(0.2, 0.8, 2)
    p_b = rng.dirichlet(np.ones(LABELS))
    loss = rng.normal(size=(STEPS, LABELS, X, T)) * 1.5
    if one_pass:
        p_b = np.where(FIRST, bits[0], 1 - bits[0]) * np.where(SECOND, bits[1], 1 - bits[1])
        loss = np.stack([loss[0][FIRST], loss[1][SECOND]])
    if not feeds_back:
        loss = np.broadcast_to(loss[:, :, :1], loss.shape)
    beta, beta_theta = rng.uniform(0.5, 2, 2)
    mix = rng.uniform(0.2, 0.9, (STEPS, 1, 1, 1)) if not fresh else np.ones((STEPS, 1, 1, 1))
    k_x = heat_bath_kernel(np.broadcast_to(u.T, (STEPS, T, X)), beta, mix)
    # two ways of moving with one stationary law: no theorem may depend on which
    k_theta = 0.5 * heat_bath_kernel(loss, beta_theta, rng.uniform(0.2, 1))
    k_theta = k_theta + 0.5 * metropolis_kernel(loss, beta_theta)
    p0 = rng.dirichlet(np.ones(X * T)).reshape(X, T)
    if matched:
        p0 = np.asarray(heat_bath_kernel(u.T, beta)[:, 0]).T * rng.dirichlet(np.ones(T))
    return FiniteLearner(p_b, p0, k_theta, k_x, u, beta, beta_theta)


def entropy(table, *keep):
    p = np.asarray(table).sum(tuple(i for i in range(np.ndim(table)) if i not in keep))
    return -np.sum(p[p > 0] * np.log(p[p > 0]))


def info(table, a, b):
    return entropy(table, *a) + entropy(table, *b) - entropy(table, *a, *b)


every = functools.partial(given, seed=seeds, feeds_back=st.booleans(), fresh=st.booleans())


@RANDOM
@every(one_pass=st.booleans())
def test_identities_of_any_process(seed, **kind):
    learner = process(seed, **kind)
    led = finite_ledger(learner)
    joint, stale = joint_marginals(learner)
    close(joint.sum((1, 2, 3)), np.ones(STEPS + 1))
    close(stale.sum((1, 2, 3)), np.ones(STEPS))
    b, x, t = 0, 1, 2
    for n in range(STEPS + 1):
        close(led.m_info[n], info(joint[n], [t], [b]))
        close(led.l_info[n], info(joint[n], [x], [b]))
        close(led.subsystem_info[n], info(joint[n], [x], [t]))
        close(led.joint_b_info[n], info(joint[n], [x, t], [b]))
        close(led.entropy_x[n], entropy(joint[n], x))
        close(led.entropy_theta[n], entropy(joint[n], t))
        close(led.entropy_joint[n], entropy(joint[n], x, t))
    # first law, and heat from the kernels against heat from the energies
    u = np.asarray(learner.energy)
    mean = np.sum(np.asarray(joint).sum(1) * u, (1, 2))
    middle = np.sum(np.asarray(stale).sum(1) * u, (1, 2))
    close(led.work, middle - mean[:-1])
    close(led.heat_x, mean[1:] - middle)
    close(led.work + led.heat_x, np.diff(mean))
    # splits
    gain = np.diff(led.subsystem_info)
    close(led.info_flow_x + led.info_flow_theta, gain)
    close(led.ep_total_blind, led.ep_step_x + led.ep_step_theta)
    close(led.ep_x, led.ep_conditional + gain)
    close(led.ep_conditional, led.ep_step_x - led.info_flow_theta)
    close(led.ep_total_blind - led.ep_total_resolved, np.diff(led.joint_b_info))


@RANDOM
@every(one_pass=st.booleans())
def test_second_laws_of_any_process(seed, **kind):
    learner = process(seed, **kind)
    led = finite_ledger(learner)
    joint, stale = joint_marginals(learner)
    tiny = -1e-12
    assert np.all(led.ep_step_x > tiny)
    assert np.all(led.ep_total_resolved > tiny)
    given_b = lambda table: entropy(table, 0, 1, 2) - entropy(table, 0)
    for n in range(STEPS):
        beta, beta_theta = learner.beta, learner.beta_theta
        theta_move = given_b(stale[n]) - given_b(joint[n]) - beta_theta * led.heat_theta[n]
        x_move = given_b(joint[n + 1]) - given_b(stale[n]) - beta * led.heat_x[n]
        assert theta_move > tiny
        assert x_move > tiny
        close(theta_move + x_move, led.ep_total_resolved[n])
    assert np.all(np.cumsum(led.ep_step_theta) > tiny)
    assert np.all(np.cumsum(led.ep_total_blind) > tiny)
    if kind["one_pass"]:
        assert np.all(led.ep_step_theta > tiny)


@RANDOM
@given(seed=seeds, fresh=st.booleans(), one_pass=st.booleans())
def test_second_laws_without_feedback(seed, **kind):
    led = finite_ledger(process(seed, **kind))
    tiny = -1e-12
    assert np.all(np.cumsum(led.ep_conditional) > tiny)
    spent = np.cumsum(led.ep_x) + led.subsystem_info[0]
    assert np.all(spent - led.l_info[1:] > tiny)
    assert np.all(np.cumsum(led.ep_theta) - led.m_info[1:] > tiny)
    if any(kind.values()):
        assert np.all(led.ep_conditional > tiny)
        assert np.all(led.info_flow_theta < -tiny)


@RANDOM
@given(seed=seeds, feeds_back=st.booleans(), one_pass=st.booleans())
def test_fresh_samples_make_a_chain(seed, **kind):
    """B - Theta - X, whatever the optimiser looks at."""
    learner = process(seed, fresh=True, matched=True, **kind)
    led = finite_ledger(learner)
    joint = joint_marginals(learner)[0]
    assert np.all(led.l_info < np.minimum(led.m_info, led.subsystem_info) + 1e-12)
    close(led.joint_b_info, led.m_info)
    b, x, t = 0, 1, 2
    for n in range(STEPS + 1):
        given_x = info(joint[n], [t, x], [b]) - info(joint[n], [x], [b])
        given_b = info(joint[n], [x, b], [t]) - info(joint[n], [b], [t])
        close(led.m_info[n] - led.l_info[n], given_x)
        close(led.subsystem_info[n] - led.l_info[n], given_b)
    if not kind["feeds_back"]:
        _dissipated_work(learner, led, joint)


def _dissipated_work(learner, led, joint):
    """ep_conditional = E KL(p_theta || p_theta') = beta (<W> - Delta F)."""
    log_weight = -learner.beta * learner.energy
    log_z = np.log(np.sum(np.exp(log_weight), 0))
    log_p = log_weight - log_z
    kl = np.sum(np.exp(log_p)[:, :, None] * (log_p[:, :, None] - log_p[:, None, :]), 0)
    for n in range(STEPS):
        table = np.asarray(joint[n]).sum(1)  # b, theta
        pair = np.einsum("bt,btu->tu", table, learner.kernel_theta[n][:, 0])
        close(led.ep_conditional[n], np.sum(pair * kl))
        free = -np.sum(pair * (log_z[None, :] - log_z[:, None])) / learner.beta
        close(led.ep_conditional[n], learner.beta * (led.work[n] - free))


def test_a_frozen_parameter_costs_nothing():
    rng = np.random.default_rng(1)
    learner = process(3, fresh=True)
    p0 = rng.dirichlet(np.ones(T)) * rng.dirichlet(np.ones(X))[:, None]
    still = np.broadcast_to(np.eye(T), (STEPS, LABELS, X, T, T))
    led = finite_ledger(learner._replace(p0=p0, kernel_theta=still))
    for name in ("work", "heat_theta", "ep_step_theta", "m_info"):
        close(getattr(led, name), np.zeros_like(getattr(led, name)))
    assert led.ep_x[0] > 0.01  # the first sample relaxes
    close(led.ep_x[1:], np.zeros(STEPS - 1))


def test_fluctuating_parameters_drag_the_sample():
    """Equilibrium start without drive: nothing is learned, X still dissipates."""
    learner = process(5, fresh=True, matched=True)
    loss = np.random.default_rng(0).normal(size=T)
    pi = heat_bath_kernel(loss, learner.beta_theta)[0]
    p0 = np.asarray(heat_bath_kernel(learner.energy.T, learner.beta)[:, 0]).T * pi
    same = np.broadcast_to(loss, (STEPS, LABELS, X, T))
    k_theta = heat_bath_kernel(same, learner.beta_theta, 0.4)
    led = finite_ledger(learner._replace(p0=p0, kernel_theta=k_theta))
    for name in ("m_info", "l_info", "ep_theta"):
        close(getattr(led, name), np.zeros_like(getattr(led, name)))
    assert np.all(led.ep_conditional > 1e-3)


def test_names_do_not_matter():
    learner = process(7, feeds_back=True)
    led = finite_ledger(learner)
    b, x, t = [2, 0, 3, 1], [1, 0], [2, 0, 1]
    p0, k_theta, k_x = (np.asarray(a) for a in learner[1:4])
    renamed = learner._replace(
        p_b=learner.p_b[b],
        p0=p0[x][:, t],
        kernel_theta=k_theta[:, b][:, :, x][..., t, :][..., t],
        kernel_x=k_x[:, t][..., x, :][..., x],
        energy=learner.energy[x][:, t],
    )
    jax.tree.map(close, finite_ledger(renamed), led)
    shift = np.array([0.3, -1.0, 2.0])
    moved = finite_ledger(learner._replace(energy=learner.energy + shift))
    jax.tree.map(close, moved._replace(work=led.work), led)
    joint, stale = (np.asarray(a).sum((1, 2)) for a in joint_marginals(learner))
    close(moved.work - led.work, (stale - joint[:-1]) @ shift)


def test_kernels_are_in_detailed_balance():
    u = np.random.default_rng(0).normal(size=(2, 4))
    pi = np.exp(-1.3 * u) / np.exp(-1.3 * u).sum(-1, keepdims=True)
    for kernel in (heat_bath_kernel(u, 1.3, 0.4), metropolis_kernel(u, 1.3)):
        flux = pi[..., None] * kernel
        close(flux, np.swapaxes(flux, -1, -2))
        close(np.sum(kernel, -1), np.ones((2, 4)))
        assert np.all(np.diagonal(kernel, axis1=-2, axis2=-1) < 1)
    close(heat_bath_kernel(u, 1.3)[0], np.tile(pi[0], (4, 1)))


def test_a_deterministic_optimiser_is_infinitely_irreversible():
    learner = process(11, fresh=True, matched=True)
    to = np.array([[1, 2, 0], [2, 0, 1], [1, 0, 2], [2, 2, 0]])
    k_theta = np.broadcast_to(np.eye(T)[to][None, :, None], (STEPS, LABELS, X, T, T))
    led = finite_ledger(learner._replace(kernel_theta=k_theta))
    assert not any(np.any(np.isnan(field)) for field in led)
    for name in ("ep_theta", "ep_step_theta", "ep_total_blind", "ep_total_resolved"):
        assert np.all(np.isposinf(getattr(led, name)))
    assert np.all(np.isneginf(led.heat_theta))
    finite = [led.heat_x, led.ep_x, led.ep_step_x, led.ep_conditional, led.m_info, led.l_info]
    assert all(np.all(np.isfinite(field)) for field in finite)
    assert np.all(led.ep_conditional >= 0)
    # a function of the dataset: L and I coincide, M is all of Theta
    known = learner._replace(kernel_theta=k_theta, p0=learner.p0 * 0 + _at_zero(learner))
    led = finite_ledger(known)
    close(led.l_info, led.subsystem_info)
    close(led.m_info, led.entropy_theta)
    assert led.l_info[-1] > 0.01


def _at_zero(learner):
    p_x = heat_bath_kernel(learner.energy.T, learner.beta)[0, 0]
    return np.outer(p_x, [1.0, 0.0, 0.0])


def test_gradients_against_differences():
    """Every number that goes in, through all that comes out; zeros do not spoil them."""
    rng = np.random.default_rng(2)
    u, loss, b = rng.normal(size=(X, T)), rng.normal(size=(2, X, T)), rng.normal(size=2)
    start = rng.normal(size=(X, T))
    weigh = rng.normal(size=(20, 3))

    def number(numbers, p0_mask):
        u, loss, b, start, beta, beta_theta, mix = numbers
        p0 = jax.nn.softmax(start.ravel()).reshape(X, T) * p0_mask
        learner = FiniteLearner(
            jax.nn.softmax(b),
            p0 / jnp.sum(p0),
            heat_bath_kernel(loss, beta_theta, mix),
            heat_bath_kernel(u.T, beta, mix),
            u,
            beta,
            beta_theta,
        )
        led = finite_ledger(learner, n_steps=STEPS)
        fields = zip(weigh, led, strict=True)
        return sum(jnp.sum(w[: len(field)] * field) for w, field in fields)

    at = (u, loss, b, start, 1.3, 0.7, 0.6)
    grad, value = jax.jit(jax.grad(number)), jax.jit(number)
    for mask in (np.ones((X, T)), np.eye(X, T)):
        slope = grad(at, mask)
        for i, leaf in enumerate(at):
            way = rng.normal(size=np.shape(leaf))
            moved = [
                tuple(x + h * way if j == i else x for j, x in enumerate(at))
                for h in (1e-5, -1e-5)
            ]
            difference = (value(moved[0], mask) - value(moved[1], mask)) / 2e-5
            np.testing.assert_allclose(np.sum(slope[i] * way), difference, rtol=1e-6, atol=1e-8)


def test_single_precision_is_kept():
    with jax.enable_x64(False):
        led = finite_ledger(spins(), n_steps=3)
        assert {field.dtype for field in led} == {jnp.dtype("float32")}
        np.testing.assert_allclose(led.m_info[3], 0.242367331, rtol=1e-5)


def test_refusals():
    good = feedback()
    wrong = {
        "p_b has a row that sums to 1.1": good._replace(p_b=[0.4, 0.7]),
        "p_b holds -0.1": good._replace(p_b=[-0.1, 1.1]),
        "kernel_x has a row that sums to 2": good._replace(kernel_x=2 * good.kernel_x),
        "kernel_theta has shape": good._replace(kernel_theta=good.kernel_theta[:, :1]),
        "p_b, p0 have shapes": good._replace(p0=[0.5, 0.5]),
        "energy has shape": good._replace(energy=np.ones(3)),
        "beta=-1.0 must be positive": good._replace(beta=-1.0),
        "beta_theta=0.0 must be positive": good._replace(beta_theta=0.0),
    }
    for message, learner in wrong.items():
        with pytest.raises(ValueError, match=message):
            finite_ledger(learner, n_steps=2)
    with pytest.raises(ValueError, match="steps is unknown"):
        finite_ledger(good)
    with pytest.raises(ValueError, match="one length"):
        finite_ledger(demon(), n_steps=3)
    for mix in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"mix={mix}"):
            heat_bath_kernel([0.0, 1.0], 1.0, mix)
    with pytest.raises(ValueError, match="not finite"):
        metropolis_kernel([0.0, np.inf], 1.0)
    with pytest.raises(ValueError, match="scalar"):
        heat_bath_kernel(1.0, 1.0)
    assert np.all(np.isnan(finite_ledger(good._replace(energy=None), n_steps=2).work))
