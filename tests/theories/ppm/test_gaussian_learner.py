"""Linear-Gaussian learners: worked numbers, whole path laws, singular cases, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import EXACT
from thermojax.theories.ppm import (
    GaussianLearner,
    gaussian_l_info,
    gaussian_ledger,
    langevin_learner,
)

pytestmark = pytest.mark.usefixtures("x64")
RANDOM = settings(max_examples=6, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
STEPS = 3
LONG = 100  # of every scalar learner: one length, one program


def close(found, expected, tol=EXACT):
    np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)


def digits(found, expected, places=12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.6 * 10.0**-places)


def scalar_learner(step_size=0.1, temperature_theta=0.05, **changes):
    """Example G1."""
    noise = {"data_mean": 1.0, "data_cov": 1.0, "batch_cov": 0.5}
    model = {"readout": 1.0, "output_cov": 0.5, "mean0": 0.0, "cov0": 0.25}
    return langevin_learner(
        1.0, 1.0, step_size, temperature_theta, **{**noise, **model, **changes}
    )


def dragged(n, rho):
    """Example QS: theta goes from 0 to 2 without any noise."""
    one, zero = [[1.0]], [[0.0]]
    noiseless = {"noise_cov": zero, "data_cov": zero, "batch_cov": zero, "cov0": zero}
    return GaussianLearner(
        drift=one,
        data_gain=one,
        feedback=zero,
        data_mean=[2.0 / n],
        readout=one,
        output_cov=one,
        relaxation=[[rho]],
        mean0=[0.0],
        **noiseless,
    )


def test_scalar_learner():
    learner = scalar_learner()
    stream, dataset = (
        gaussian_ledger(learner, LONG, source) for source in ("stream", "dataset")
    )
    at = np.array([1, 2, 3, 10, 50])
    columns = {
        "m_info": (
            [
                0.0341041250133,
                0.1107337367463,
                0.2173525404717,
                0.9612361179873,
                1.505377563526,
            ],
            [
                0.0224756939311,
                0.0864857495388,
                0.1796697264904,
                0.8294103588499,
                1.302666035594,
            ],
        ),
        "l_info": (
            [
                0.0104170434514,
                0.0320458736762,
                0.0613064474809,
                0.2871201287966,
                0.5216414753431,
            ],
            [
                0.0069205257059,
                0.0254558125022,
                0.0520167793191,
                0.2674669812756,
                0.4983822867825,
            ],
        ),
    }
    for name, (of_stream, of_dataset) in columns.items():
        digits(getattr(stream, name)[at], of_stream)
        digits(getattr(dataset, name)[at], of_dataset)
    digits(
        stream.subsystem_info[at],
        [0.1875029503117, 0.1873482872183, 0.1982409397304, 0.3584138598654, 0.5716879477060],
    )
    variance = np.exp(2 * stream.entropy_theta[at] - np.log(2 * np.pi * np.e))
    digits(variance, [0.2275, 0.227275, 0.24329275, 0.5239631495179, 1.068670922802])
    increments = {
        "ep_conditional": [0.0375, 0.033375, 0.03003375],
        "heat_x": [-0.0375, -0.033375, -0.03003375],
        "ep_x": [0.0222703962577, 0.0332203369065, 0.0409264025122],
        "stale_info": [0.1759882115786, 0.1635034969436, 0.1659428327160],
        "ep_step_x": [0.0107556575245, 0.0093755466318, 0.0086282954977],
        "heat_theta": [-0.05 * 4.86875, -0.206209375, -0.17605459375],
        "ep_theta": [4.821594660264, 4.123692749808, 3.555144231368],
    }
    for name, row in increments.items():
        digits(getattr(stream, name)[:3], row)
    digits(jnp.sum(stream.ep_total_resolved[:3]), 12.38398785096868)
    samples = jax.vmap(lambda k: gaussian_l_info(learner, 10, k))(
        jnp.array([1, 4, 16, 64, 1024])
    )
    digits(
        samples,
        [0.2871201287966, 0.5844783106127, 0.8191803350152, 0.9200933636224, 0.9585258666875],
    )
    assert np.all(np.diff(samples) > 0)
    assert samples[-1] < stream.m_info[10]
    close(gaussian_l_info(learner, 10, source="dataset"), dataset.l_info[10])


def test_scalar_closed_form():
    """Any step: a sum of three geometric series."""
    eta, h, n = 0.3, 1.4, np.arange(LONG + 1)
    learner = scalar_learner(eta, 0.07, batch_cov=0.8)._replace(
        drift=[[1 - eta * h]], data_gain=[[eta * h]]
    )
    lam, noise = 1 - eta * h, 2 * eta * 0.07
    decay = (1 - lam ** (2 * n)) / (1 - lam**2)
    stream = lam ** (2 * n) * 0.25 + noise * decay
    dataset = stream + (eta * h) ** 2 * 0.8 * decay
    v = dataset + (1 - lam**n) ** 2
    for source, kept in (("stream", stream), ("dataset", dataset)):
        led = gaussian_ledger(learner, LONG, source)
        close(led.m_info, 0.5 * np.log(v / kept))
        close(led.l_info, 0.5 * np.log((v + 0.5) / (kept + 0.5)))
        close(led.subsystem_info, 0.5 * np.log(1 + v / 0.5))


@pytest.mark.parametrize(
    ("n", "slow", "conditional"),
    [
        (1, 2.0, 1.5),
        (2, 1.5, 1.21875),
        (5, 0.89, 0.814921875),
        (10, 0.520078125, 0.5001171684265138),
        (100, 0.0592, 0.059),
    ],
)
def test_quasistatic_dragging(n, slow, conditional):
    # the first n steps of a longer drag
    fresh, lagging = (gaussian_ledger(dragged(n, rho), LONG) for rho in (0.0, 0.5))
    close(jnp.sum(fresh.work[:n]), 2 / n)
    close(jnp.sum(fresh.ep_conditional[:n]), 2 / n)
    digits(jnp.sum(lagging.work[:n]), slow)
    digits(jnp.sum(lagging.ep_conditional[:n]), conditional)


# --- random learners against the law of the whole path ----------------------------------

D, P, K = 2, 2, 2


def positive(rng, d, floor=0.2):
    b = rng.normal(size=(d, d)) / 2
    return b @ b.T + floor * np.eye(d)


def random_learner(seed, *, feeds_back=True, fresh=False, correlated=False):
    rng = np.random.default_rng(seed)
    s = positive(rng, P, 0.3)
    # P S symmetric with eigenvalues of P inside (-1, 1)
    root = np.linalg.cholesky(s)
    turn = np.linalg.qr(rng.normal(size=(P, P)))[0]
    relaxation = root @ (turn * rng.uniform(-0.6, 0.8, P)) @ turn.T @ np.linalg.inv(root)
    size = D + P if correlated else D
    return GaussianLearner(
        drift=0.5 * np.eye(D) + 0.3 * rng.normal(size=(D, D)),
        data_gain=0.5 * rng.normal(size=(D, K)),
        feedback=0.3 * rng.normal(size=(D, P)) * feeds_back,
        noise_cov=positive(rng, D),
        data_mean=rng.normal(size=K),
        data_cov=positive(rng, K),
        batch_cov=positive(rng, K),
        readout=rng.normal(size=(P, D)),
        output_cov=s,
        relaxation=np.zeros((P, P)) if fresh else relaxation,
        mean0=rng.normal(size=size),
        cov0=positive(rng, size),
        temperature=1.7,
        temperature_theta=0.6,
    )


class Path:
    """All variables as rows of affine maps of unit normals: nothing is recursive here."""

    def __init__(self, g, n):
        self.g, self.n = g, n
        sizes = {"b": K, "start": D, "x0": P}
        sizes |= {f"{kind}{i}": size for i in range(n) for kind, size in self.kinds()}
        edges = np.cumsum([1, *sizes.values()])
        unit = np.eye(edges[-1])
        source = {name: unit[a:b] for name, a, b in zip(sizes, edges, edges[1:], strict=False)}
        chol = np.linalg.cholesky
        constant = lambda mean: np.outer(mean, unit[0])
        self.b = constant(g.data_mean) + chol(g.data_cov) @ source["b"]
        self.b_rows = source["b"]
        self.theta = [constant(g.mean0[:D]) + chol(g.cov0[:D, :D]) @ source["start"]]
        self.x = [g.readout @ self.theta[0] + chol(g.output_cov) @ source["x0"]]
        quiet = g.output_cov - g.relaxation @ g.output_cov @ g.relaxation.T
        self.eps = []
        for i in range(n):
            self.eps.append(chol(g.batch_cov) @ source[f"eps{i}"])
            pull = g.data_gain @ (self.b + self.eps[i]) + g.feedback @ self.x[i]
            self.theta.append(
                g.drift @ self.theta[i] + pull + chol(g.noise_cov) @ source[f"xi{i}"]
            )
            mean = g.readout @ self.theta[-1]
            lag = g.relaxation @ (self.x[i] - mean)
            self.x.append(mean + lag + chol(quiet) @ source[f"zeta{i}"])

    @staticmethod
    def kinds():
        return (("eps", K), ("xi", D), ("zeta", P))

    def cov(self, *rows):
        a = np.concatenate(rows)[:, 1:]
        return a @ a.T

    def entropy(self, *rows):
        v = self.cov(*rows)
        return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * v)[1]

    def info(self, a, b):
        return self.entropy(*a) + self.entropy(*b) - self.entropy(*a, *b)

    def log_normal(self, miss, v):
        """< ln N(miss; 0, v) >, each miss an affine map of the unit normals."""
        second = miss @ miss.T
        log_det = np.linalg.slogdet(2 * np.pi * v)[1]
        return -0.5 * (log_det + np.trace(np.linalg.solve(v, second)))

    def mean_log_end(self, given):
        """< ln p(x, theta | given) > of the last state."""
        state = (self.x[-1], self.theta[-1])
        return -(self.entropy(*state, *given) - (self.entropy(*given) if given else 0.0))

    def entropy_production(self, given):
        """< ln P/P~ >, the reverse process started from p_N(x, theta | given)."""
        g, n = self.g, self.n
        quiet = g.output_cov - g.relaxation @ g.output_cov @ g.relaxation.T
        total = -self.entropy(self.x[0], self.theta[0]) - self.mean_log_end(given)
        for i in range(n):
            pull = g.data_gain @ (self.b + self.eps[i]) + g.feedback @ self.x[i]
            old, new = self.theta[i], self.theta[i + 1]
            total += self.log_normal(new - g.drift @ old - pull, g.noise_cov)
            total -= self.log_normal(old - g.drift @ new - pull, g.noise_cov)
            e, e_new = self.x[i] - g.readout @ new, self.x[i + 1] - g.readout @ new
            total += self.log_normal(e_new - g.relaxation @ e, quiet)
            total -= self.log_normal(e - g.relaxation @ e_new, quiet)
        return total


@RANDOM
@given(seed=seeds, feeds_back=st.booleans(), fresh=st.booleans())
def test_ledger_of_any_learner(seed, feeds_back, fresh):
    learner = random_learner(seed, feeds_back=feeds_back, fresh=fresh)
    path = Path(learner, STEPS)
    for source in ("stream", "dataset"):
        led = gaussian_ledger(learner, STEPS, source)
        _first_law_and_informations(led, path, source)
        end = ([path.b_rows], [*path.eps])
        given = end[0] if source == "dataset" else end[0] + end[1]
        close(jnp.sum(led.ep_total_resolved), path.entropy_production(given), 1e-8)
        close(jnp.sum(led.ep_total_blind), path.entropy_production([]), 1e-8)
        _identities_and_laws(led, feeds_back, fresh)


def _first_law_and_informations(led, path, source):
    g = path.g
    for n in range(STEPS + 1):
        b = [path.b, *path.eps[:n]] if source == "stream" else [path.b]
        x, theta = [path.x[n]], [path.theta[n]]
        close(led.m_info[n], path.info(theta, b), 1e-9)
        close(led.l_info[n], path.info(x, b), 1e-9)
        close(led.joint_b_info[n], path.info(x + theta, b), 1e-9)
        close(led.subsystem_info[n], path.info(x, theta), 1e-9)
        close(led.entropy_x[n], path.entropy(*x), 1e-9)
        close(led.entropy_theta[n], path.entropy(*theta), 1e-9)
        close(led.entropy_joint[n], path.entropy(*x, *theta), 1e-9)
    energy = lambda x, theta: (
        0.5 * np.trace(np.linalg.solve(g.output_cov, (e := x - g.readout @ theta) @ e.T))
    )
    for n in range(STEPS):
        old, stale = energy(path.x[n], path.theta[n]), energy(path.x[n], path.theta[n + 1])
        close(led.work[n], 1.7 * (stale - old), 1e-9)
        close(led.heat_x[n], 1.7 * (energy(path.x[n + 1], path.theta[n + 1]) - stale), 1e-9)
        close(led.stale_info[n], path.info([path.x[n]], [path.theta[n + 1]]), 1e-9)


def _identities_and_laws(led, feeds_back, fresh):
    gain, tiny = np.diff(led.subsystem_info), -1e-10
    close(led.info_flow_x + led.info_flow_theta, gain)
    close(led.ep_x, led.ep_conditional + gain)
    close(led.ep_total_blind, led.ep_step_x + led.ep_step_theta, 1e-9)
    close(led.ep_total_blind - led.ep_total_resolved, np.diff(led.joint_b_info), 1e-9)
    assert np.all(led.ep_step_x > tiny)
    assert np.all(led.ep_total_resolved > tiny)
    assert np.all(np.cumsum(led.ep_total_blind) > tiny)
    assert np.all(np.cumsum(led.ep_step_theta) > tiny)
    if fresh:
        assert np.all(led.l_info < np.minimum(led.m_info, led.subsystem_info) - tiny)
        close(led.joint_b_info, led.m_info)
    if not feeds_back:
        assert np.all(np.cumsum(led.ep_conditional) > tiny)
        assert np.all(np.cumsum(led.ep_theta) - led.m_info[1:] > tiny)
        spent = np.cumsum(led.ep_x) + led.subsystem_info[0]
        assert np.all(spent - led.l_info[1:] > tiny)
        if fresh:
            assert np.all(led.ep_conditional > tiny)
            assert np.all(led.info_flow_theta < -tiny)


def test_heat_of_langevin_training_is_that_of_a_modified_hessian():
    """Exact detailed balance of the discretised chain for Sigma_s = T [H (1 - eta H/2)]^-1."""
    h, eta, t = np.array([[1.3, 0.4], [0.4, 0.8]]), 0.3, 0.05
    learner = langevin_learner(
        h,
        np.eye(2),
        eta,
        t,
        data_mean=np.ones(2),
        data_cov=np.eye(2),
        batch_cov=0.5 * np.eye(2),
        readout=np.eye(2),
        output_cov=np.eye(2),
        mean0=np.array([0.3, -1.0]),
        cov0=0.25 * np.eye(2),
    )
    led = gaussian_ledger(learner, STEPS)
    # the target of a step is b + eps, the energy is measured from it
    modified = h @ (np.eye(2) - eta * h / 2)
    mean, away = np.array([0.3, -1.0]) - 1, 1.75 * np.eye(2)
    second = away + np.outer(mean, mean)
    drift = np.eye(2) - eta * h
    after = drift @ second @ drift.T + 2 * eta * t * np.eye(2)
    close(led.heat_theta[0], 0.5 * np.trace(modified @ (after - second)))


def test_finer_steps_dissipate_less():
    """sum ep_conditional = Delta^2 / (2 S n)."""
    steps = (25, 50, 100)
    every = [gaussian_ledger(dragged(n, 0.0), LONG).ep_conditional[:n] for n in steps]
    close([n * jnp.sum(ep) for n, ep in zip(steps, every, strict=True)], [2.0] * 3)


# --- singular learners ------------------------------------------------------------------


def test_gradient_descent_remembers_without_bound():
    learner = scalar_learner(0.1, 0.0, cov0=0.0)
    led = gaussian_ledger(learner, LONG)
    assert not any(np.any(np.isnan(field)) for field in led)
    close(led.m_info[0], 0.0)
    assert np.all(np.isposinf(led.m_info[1:]))
    assert np.all(np.isneginf(led.heat_theta))
    for name in ("ep_theta", "ep_step_theta", "ep_total_blind", "ep_total_resolved"):
        assert np.all(np.isposinf(getattr(led, name)))
    close(led.l_info, led.subsystem_info)  # deterministic: theta = f(B)
    n = np.arange(LONG + 1)
    v = 0.1**2 * 0.5 * (1 - 0.81**n) / 0.19 + (1 - 0.9**n) ** 2
    close(led.subsystem_info, 0.5 * np.log(1 + 2 * v))
    close(led.ep_x, led.ep_conditional + np.diff(led.subsystem_info))
    assert np.all(np.isfinite(led.ep_step_x))


def test_small_noise_approaches_none():
    """The X side is continuous at R = 0, heat and memory diverge."""
    none = gaussian_ledger(scalar_learner(0.1, 0.0, cov0=0.0), LONG)
    little = gaussian_ledger(scalar_learner(0.1, 1e-9, cov0=0.0), LONG)
    for name in ("l_info", "subsystem_info", "ep_x", "ep_conditional", "ep_step_x", "work"):
        np.testing.assert_allclose(getattr(little, name), getattr(none, name), atol=1e-8)
    assert np.all(little.m_info[1:] > 5)
    assert np.all(little.ep_theta[1:] > 1e5)


def frozen(noisy):
    """The scalar learner and a second parameter that never moves."""
    one = scalar_learner()
    pad = lambda m: np.array([[np.asarray(m)[0, 0], 0.0], [0.0, 0.0]])
    drift = np.array([[0.9, 0.0], [0.0, 1.0]])
    cov0 = np.diag([0.25, 0.3 if noisy else 0.0])
    return one._replace(
        drift=drift,
        data_gain=np.array([[0.1], [0.0]]),
        feedback=np.zeros((2, 1)),
        noise_cov=pad(one.noise_cov),
        readout=np.array([[1.0, 0.0]]),
        mean0=np.array([0.0, 0.7]),
        cov0=cov0,
    )


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_a_frozen_parameter_costs_nothing(noisy, angle):
    """Informations and entropy productions are sums over directions, in any coordinates."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    g = frozen(noisy)
    g = g._replace(
        drift=turn @ g.drift @ turn.T,
        data_gain=turn @ g.data_gain,
        noise_cov=turn @ g.noise_cov @ turn.T,
        readout=g.readout @ turn.T,
        mean0=turn @ g.mean0,
        cov0=turn @ g.cov0 @ turn.T,
    )
    both, alone = gaussian_ledger(g, LONG), gaussian_ledger(scalar_learner(), LONG)
    skip = ("entropy_theta", "entropy_joint")
    for name in set(alone._fields) - set(skip):
        np.testing.assert_allclose(
            getattr(both, name), getattr(alone, name), rtol=1e-8, atol=1e-10, err_msg=name
        )
    if not noisy:
        assert np.all(np.isneginf(both.entropy_theta))


def test_units_do_not_matter():
    """A parameter a million times smaller than another is not a singular one."""
    g = random_learner(5)
    scale = np.array([1e-6, 1.0])
    small = g._replace(
        drift=scale[:, None] * g.drift / scale,
        data_gain=scale[:, None] * g.data_gain,
        feedback=scale[:, None] * g.feedback,
        noise_cov=scale[:, None] * g.noise_cov * scale,
        readout=g.readout / scale,
        mean0=scale * g.mean0,
        cov0=scale[:, None] * g.cov0 * scale,
    )
    led, other = gaussian_ledger(g, STEPS), gaussian_ledger(small, STEPS)
    shifted = {"entropy_theta", "entropy_joint"}
    for name in set(led._fields) - shifted:
        np.testing.assert_allclose(
            getattr(other, name), getattr(led, name), rtol=1e-7, atol=1e-9
        )
    for name in shifted:
        close(getattr(other, name), getattr(led, name) + np.log(1e-6), 1e-8)


def test_samplers_that_stand_still_and_correlated_starts():
    g = random_learner(8, feeds_back=False)._replace(relaxation=np.eye(P))
    led = gaussian_ledger(g, STEPS)
    close(led.heat_x, np.zeros(STEPS))
    close(led.ep_x, np.zeros(STEPS))
    start = random_learner(9, correlated=True)
    led = gaussian_ledger(start, STEPS)
    v = np.asarray(start.cov0)
    log_det = lambda m: np.linalg.slogdet(m)[1]
    expected = 0.5 * (log_det(v[:D, :D]) + log_det(v[D:, D:]) - log_det(v))
    close(led.subsystem_info[0], expected, 1e-9)
    _identities_and_laws(led, True, False)


# --- derivatives, types, refusals -------------------------------------------------------


FIXED = {"target_gain": np.eye(2), "data_mean": np.array([0.3, -1.0]), "mean0": np.ones(2)}


@jax.jit
def finite_sum(numbers, weigh):
    """A weighted sum of all that is finite, and how it moves with every number."""

    def number(numbers):
        learner = langevin_learner(**numbers, **FIXED)
        led = gaussian_ledger(learner, STEPS)
        value = gaussian_l_info(learner, STEPS, 3.0, "dataset")
        for w, field in zip(weigh, led, strict=True):
            finite = jnp.where(jnp.isfinite(field), field, 0.0)
            value += jnp.sum(w[: len(field)] * finite)
        return value

    return jax.value_and_grad(number)(numbers)


@pytest.mark.parametrize("noisy", [True, False])
def test_gradients_against_differences(noisy):
    """All of the ledger, and of gradient descent what is finite (the side of X)."""
    rng = np.random.default_rng(4)
    weigh = rng.normal(size=(20, STEPS + 1))
    at = {
        "hessian": np.array([[1.3, 0.4], [0.4, 0.8]]),
        "step_size": 0.3,
        "temperature_theta": 0.05 * noisy,
        "data_cov": positive(rng, 2),
        "batch_cov": positive(rng, 2),
        "output_cov": positive(rng, 2),
        "relaxation": 0.4,
        "cov0": positive(rng, 2) * noisy,
        "temperature": 1.2,
        "readout": rng.normal(size=(2, 2)),
    }
    at = jax.tree.map(np.float64, at)
    if not noisy:  # the entropies of a point mass that begins to spread are not smooth
        names = ("entropy_theta", "entropy_joint", "ep_theta", "ep_step_theta")
        fields = gaussian_ledger(dragged(1, 0.0), LONG)._fields
        weigh[[fields.index(name) for name in names]] = 0
    grad = finite_sum(at, weigh)[1]
    for name in set(at) - (set() if noisy else {"temperature_theta", "cov0"}):
        way = rng.normal(size=np.shape(at[name]))
        way = way + way.T if np.ndim(way) else 0.01 * np.sign(way)
        ends = [finite_sum(at | {name: at[name] + h * way}, weigh)[0] for h in (1e-5, -1e-5)]
        difference = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(
            np.sum(grad[name] * way), difference, rtol=1e-5, atol=1e-8, err_msg=name
        )


def test_single_precision_is_kept():
    with jax.enable_x64(False):
        led = gaussian_ledger(scalar_learner(), LONG)
        assert {field.dtype for field in led} == {jnp.dtype("float32")}
        np.testing.assert_allclose(led.m_info[3], 0.21735254, rtol=1e-5)


def test_refusals():
    good = random_learner(0)
    wrong = {
        "drift has shape": good._replace(drift=np.ones((3, 2))),
        "mean0 has shape": good._replace(mean0=np.ones(3)),
        "cov0 has shape": good._replace(cov0=np.eye(3)),
        "noise_cov is not symmetric": good._replace(noise_cov=np.array([[1, 0.5], [0, 1]])),
        "data_cov has an eigenvalue": good._replace(data_cov=np.array([[1.0, 2], [2, 1]])),
        "output_cov has an eigenvalue 0 .*positive definite": good._replace(
            output_cov=np.diag([1.0, 0.0])
        ),
        "not symmetric .*P S = S P": good._replace(relaxation=np.array([[0, 0.5], [0, 0]])),
        "output_cov - P output_cov P": good._replace(relaxation=1.2 * np.eye(2)),
        "temperature=-1.0 must be positive": good._replace(temperature=-1.0),
        "temperature_theta=-1.0": good._replace(temperature_theta=-1.0),
    }
    for message, learner in wrong.items():
        with pytest.raises(ValueError, match=message):
            gaussian_ledger(learner, STEPS)
    with pytest.raises(ValueError, match="source='batch'"):
        gaussian_ledger(good, STEPS, "batch")
    with pytest.raises(ValueError, match="n_steps=0"):
        gaussian_ledger(good, 0)
    with pytest.raises(ValueError, match="n_samples=0"):
        gaussian_l_info(good, STEPS, 0)
    with pytest.raises(ValueError, match=r"step_size=-0\.1"):
        scalar_learner(-0.1)
    with pytest.raises(ValueError, match="hessian, target_gain have shapes"):
        langevin_learner(
            np.eye(2),
            1.0,
            0.1,
            0.1,
            data_mean=0.0,
            data_cov=1.0,
            batch_cov=1.0,
            readout=1.0,
            output_cov=1.0,
            mean0=0.0,
            cov0=1.0,
        )
