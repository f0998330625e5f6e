"""Linear models: worked examples, closed forms against quadrature and sampling, limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from thermojax.temperatures import virial_temperature
from thermojax.theories.temperature.absolute import mean_absolute
from thermojax.theories.temperature.densities import (
    Normal,
    Point,
    TruncatedNormal,
    Uniform,
)
from thermojax.theories.temperature.entropy import sample
from thermojax.theories.temperature.linear import linear_asymptotic, linear_transition
from thermojax.theories.temperature.linear_law import LinearLaw, linear_law
from thermojax.theories.temperature.linear_losses import LOSSES, linear_energy, linear_loss
from thermojax.theories.temperature.linear_minimum import linear_minimum
from thermojax.theories.temperature.logsumexp import (
    logsumexp_of_law,
    mean_logsumexp,
    mean_softplus,
)

X = np.array([[0.0], [1.0], [2.0]])
Y = np.array([1.0, 0.0, 3.0])
LABELS = np.array([0.0, 1.0, 0.0])
NORMAL = {"w": Normal(0.0, 1.0), "b": Normal(0.0, 0.5)}
MIXED = {"w": Normal(0.0, 1.0), "b": Uniform(0.0, np.sqrt(3) / 2)}
UNIFORM = {"w": Uniform(0.0, np.sqrt(3)), "b": Uniform(0.0, np.sqrt(3) / 2)}

# loss -> E_min, then E and T at resolution 0.1 for the three initialisations
EXAMPLE = {
    "mse": (
        0.8888888889,
        (5.25, 1.1078345944),
        (5.25, 1.1342866237),
        (5.25, 1.1737644291),
    ),
    "mae": (
        0.6666666667,
        (1.6780906500, 0.2569277530),
        (1.6758911339, 0.2624904031),
        (1.6678546469, 0.2694631731),
    ),
}


@pytest.mark.parametrize("loss", EXAMPLE)
def test_worked_example(loss, x64):
    lowest, *rows = EXAMPLE[loss]
    minimum = linear_minimum(X, Y, loss=loss)
    np.testing.assert_allclose(minimum.energy, lowest, atol=1e-10)
    assert minimum.attained
    for init, (energy, temperature) in zip((NORMAL, MIXED, UNIFORM), rows, strict=True):
        np.testing.assert_allclose(linear_energy(X, Y, init, loss=loss), energy, atol=1e-10)
        found = linear_transition(X, Y, init, loss=loss, resolution=0.1, minimum=minimum)
        np.testing.assert_allclose(found.temperature, temperature, atol=1e-10)


def scale_temperature(loss, y, init=NORMAL):
    """(1/D) dE / d ln(all scales): the virial temperature about the means."""
    w, b = init["w"], init["b"]

    def energy(log_scale):
        grown = jnp.exp(log_scale)
        wide = {"w": Normal(w.mean, grown * w.scale), "b": Normal(b.mean, grown * b.scale)}
        return linear_energy(X, y, wide, loss=loss)

    return float(jax.grad(energy)(0.0)) / 2


def test_worked_scale_temperatures_and_binary_cross_entropy(x64):
    np.testing.assert_allclose(scale_temperature("mse", Y), 1.9166666667, atol=1e-10)
    np.testing.assert_allclose(scale_temperature("mae", Y), 0.2527670833, atol=1e-10)
    np.testing.assert_allclose(scale_temperature("bce", LABELS), 0.1566590371, atol=1e-10)
    np.testing.assert_allclose(
        linear_energy(X, LABELS, NORMAL, loss="bce"), 0.8804601576, atol=1e-10
    )
    found = linear_transition(X, LABELS, NORMAL, loss="bce", resolution=0.1)
    np.testing.assert_allclose(found.temperature, 0.0619685670, atol=1e-10)
    minimum = linear_minimum(X, LABELS, loss="bce")
    np.testing.assert_allclose(minimum.energy, 0.6365141683, atol=1e-10)
    np.testing.assert_allclose(minimum.params["w"], 0.0, atol=1e-6)
    np.testing.assert_allclose(minimum.params["b"], -np.log(2), atol=1e-6)


def test_worked_log_sum_exp(x64):
    for (count, s), expected in {
        (3, 1.0): 1.3900016944,
        (10, 0.5): 2.4136400317,
        (10, 10.0): 15.5204551251,
    }.items():
        found = mean_logsumexp(jnp.zeros(count), jnp.full(count, s))
        np.testing.assert_allclose(found, expected, atol=1e-9)
    large = mean_logsumexp(jnp.zeros(10), jnp.full(10, 10.0), method="large")
    np.testing.assert_allclose(large, 15.5140846477, atol=1e-9)


def cases():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6, 3))
    targets = {
        "mse": rng.normal(size=6),
        "mae": rng.normal(size=6),
        "bce": rng.integers(0, 2, 6).astype(float),
        "softmax_ce": rng.integers(0, 3, 6),
    }
    targets["half_mse"] = targets["mse"]
    inits = {
        "normal": {"w": Normal(0.3, 0.8), "b": Normal(-0.2, 0.5)},
        "mixed": {"w": Uniform(0.1, 1.2), "b": Normal(0.0, 0.7)},
        "uniform": {"w": Uniform(0.0, 1.2), "b": Uniform(0.2, 0.4)},
        "no bias": {"w": Uniform(0.0, 0.9), "b": None},
        "point": {"w": Normal(0.0, 1.0), "b": Point(0.5)},
    }
    return x, targets, inits


@pytest.mark.parametrize("loss", LOSSES)
def test_energies_against_a_drawn_ensemble(loss, x64):
    """Every initialisation: z < 4 of 40,000 draws, and a virial that is the derivative's."""
    x, targets, inits = cases()
    count = 3 if loss == "softmax_ce" else None
    tail = () if count is None else (count,)
    y = jnp.asarray(targets[loss])
    for init in inits.values():
        shapes = {"w": jnp.zeros((3, *tail)), "b": jnp.zeros(tail)}
        densities = {"w": init["w"], "b": init["b"] or Point(0.0)}
        keys = jax.random.split(jax.random.key(0), 40_000)
        theta = jax.vmap(functools.partial(sample, densities, shapes))(keys)
        energies = drawn(theta, x, y, loss)
        exact = linear_energy(x, y, init, loss=loss, num_classes=count)
        error = energies.std() / np.sqrt(energies.size)
        assert abs(energies.mean() - exact) < 4 * error
        assert error < 0.01 * exact
        total = linear_energy(x, y, init, loss=loss, num_classes=count, reduction="sum")
        np.testing.assert_allclose(total, 6 * exact, rtol=1e-12)


@functools.partial(jax.jit, static_argnames="loss")
def drawn(theta, x, y, loss):
    def one(theta):
        return jnp.mean(linear_loss(x @ theta["w"] + theta["b"], y, loss))

    return jax.vmap(one)(theta)


def test_derivative_in_the_scale_is_the_virial_of_the_ensemble(x64):
    noise = jax.random.normal(jax.random.key(1), (20_000, 2))
    ensemble = {"w": noise[:, :1], "b": 0.5 * noise[:, 1]}
    for loss, y in (("mae", Y), ("bce", LABELS)):
        potential = lambda t, loss=loss, y=y: jnp.mean(
            linear_loss(X @ t["w"] + t["b"], jnp.asarray(y), loss)
        )
        found = virial_temperature(potential, ensemble)
        assert abs(found.total - scale_temperature(loss, y)) < 4 * found.stderr


@settings(max_examples=12, deadline=None)
@given(
    mu=st.floats(-3, 3),
    s=st.floats(0.05, 3),
    a=st.lists(st.floats(0.1, 2), min_size=1, max_size=3),
)
def test_closed_forms_against_the_transform(mu, s, a):
    with jax.enable_x64(True):
        widths = jnp.zeros((1, 3)).at[0, : len(a)].set(jnp.asarray(a))
        one = LinearLaw(jnp.array([mu]), jnp.array([s]), widths[:, :1])
        np.testing.assert_allclose(
            mean_absolute(one), mean_absolute(one, method="quadrature"), rtol=2e-5
        )
        alone = LinearLaw(jnp.array([mu]), None, widths)
        closed, transform = mean_absolute(alone), mean_absolute(alone, method="quadrature")
        np.testing.assert_allclose(closed, transform, atol=2e-5 * (1 + sum(a)))
        normal = LinearLaw(jnp.array([mu]), jnp.array([s]), jnp.zeros((1, 0)))
        np.testing.assert_allclose(
            mean_softplus(normal), mean_softplus(normal, method="quadrature"), atol=2e-6
        )


def test_uniform_laws_by_integration(x64):
    """Softplus and absolute value of one uniform variable, and of two by convolution."""
    for mu, a in ((0.4, 2.0), (-1.0, 0.3)):
        law = LinearLaw(jnp.array([mu]), None, jnp.array([[a]]))
        mean = lambda f, mu=mu, a=a: integrate.quad(f, mu - a, mu + a, points=[0])[0] / (2 * a)
        np.testing.assert_allclose(mean_absolute(law), mean(abs), rtol=1e-9)
        np.testing.assert_allclose(
            mean_softplus(law), mean(lambda z: np.logaddexp(0, z)), atol=1e-6
        )
    spence = lambda z: -special.spence(1 + np.exp(z))  # Li_2(-e^z), negated argument
    law = LinearLaw(jnp.array([-1.0]), None, jnp.array([[0.5]]))
    expected = -(spence(-0.5) * -1 - spence(-1.5) * -1)
    np.testing.assert_allclose(mean_softplus(law), expected, atol=1e-6)


def test_two_classes_are_the_binary_case_and_bounds_of_many(x64):
    law = LinearLaw(jnp.array([[0.3, -1.0]]), None, jnp.array([[[1.5, 0.2]]]))
    binary = LinearLaw(jnp.array([1.3]), None, jnp.array([[1.5, 0.2]]))
    np.testing.assert_allclose(logsumexp_of_law(law), mean_softplus(binary) - 1, atol=1e-6)
    # no uniform width: the transform reduces to the normal quadrature
    mean, scale = jnp.array([[0.3, -1.0, 0.8]]), jnp.array([[1.5, 0.2, 0.7]])
    none = LinearLaw(mean, scale, jnp.zeros((1, 1, 3)))
    np.testing.assert_allclose(logsumexp_of_law(none), mean_logsumexp(mean, scale), atol=1e-9)
    for s in (0.5, 3.0, 50.0):
        found = float(mean_logsumexp(jnp.zeros(3), jnp.full(3, s)))
        assert max(np.log(3), 1.5 / np.sqrt(np.pi) * s) <= found <= np.log(3) + s**2 / 2


def ratio_of_errors(approximate, exact, near, far):
    return abs(approximate(near) - exact(near)) / abs(approximate(far) - exact(far))


def test_orders_of_the_expansions(x64):
    """Halving or doubling the scale changes the error as stated."""
    flat = lambda s: jnp.full(5, s)
    lse = lambda s: float(mean_logsumexp(jnp.zeros(5), flat(s)))
    small = lambda s: float(mean_logsumexp(jnp.zeros(5), flat(s), method="small"))
    large = lambda s: float(mean_logsumexp(jnp.zeros(5), flat(s), method="large"))
    np.testing.assert_allclose(ratio_of_errors(small, lse, 0.4, 0.2), 2**6, rtol=0.3)
    np.testing.assert_allclose(ratio_of_errors(large, lse, 20.0, 40.0), 4.0, rtol=0.3)
    many = lambda c: float(
        mean_logsumexp(jnp.zeros(c), jnp.full(c, 0.7), method="many_classes")
    )
    whole = lambda c: float(mean_logsumexp(jnp.zeros(c), jnp.full(c, 0.7)))
    np.testing.assert_allclose(ratio_of_errors(many, whole, 20, 40), 4.0, rtol=0.3)

    x, targets, _ = cases()

    def both(loss, s, regime, b=None):
        init = {"w": Normal(0.1, s), "b": b}
        y = targets[loss]
        rough = linear_asymptotic(x, y, init, loss=loss, regime=regime)
        return float(rough), float(linear_energy(x, y, init, loss=loss))

    for loss, regime, first, second, order in (
        ("mae", "large_variance", 20.0, 40.0, 3),
        ("bce", "large_variance", 20.0, 40.0, 3),
        ("bce", "small_variance", 0.1, 0.05, 6),
    ):
        errors = [abs(np.subtract(*both(loss, s, regime))) for s in (first, second)]
        np.testing.assert_allclose(errors[0] / errors[1], 2.0**order, rtol=0.35)
    gap = np.subtract(*both("mse", 1e-3, "small_variance"))
    np.testing.assert_allclose(gap, 0.0, atol=1e-12)
    gap = np.abs(np.subtract(*both("mae", 1e-3, "small_variance")))
    assert gap < 1e-12


def test_many_uniform_parts_are_nearly_normal(x64):
    """Relative error of order k^-2: 1.0e-4 at k = 10, 2.5e-5 at k = 20."""
    for k, expected in ((10, 1.0e-4), (20, 2.5e-5)):
        x, y = np.ones((1, k)), np.zeros(1)
        init = {"w": Uniform(0.0, 0.5), "b": None}
        rough = linear_asymptotic(x, y, init, loss="mae", regime="large_variance")
        exact = linear_energy(x, y, init, loss="mae")
        np.testing.assert_allclose(abs(rough / exact - 1), expected, rtol=0.2)


def test_equal_moments_suffice_for_squares_only(x64):
    for loss, y in (("mse", Y), ("mae", Y), ("bce", LABELS)):
        pair = [float(linear_energy(X, y, init, loss=loss)) for init in (NORMAL, UNIFORM)]
        if loss == "mse":
            np.testing.assert_allclose(*pair, rtol=1e-12)
        else:
            assert abs(pair[0] - pair[1]) > 1e-3
    cut = {"w": TruncatedNormal(0.0, 1.0), "b": None}
    variance = float(cut["w"].moments()[1])
    same = {"w": Normal(0.0, np.sqrt(variance)), "b": None}
    np.testing.assert_allclose(
        linear_energy(X, Y, cut, loss="mse"), linear_energy(X, Y, same, loss="mse")
    )


def test_convexity_and_minimum_bound_the_energy(x64):
    """Jensen: U(mean of init) <= E(init), and E_min below both."""
    x, targets, inits = cases()
    for loss, y in targets.items():
        count = 3 if loss == "softmax_ce" else None
        tail = () if count is None else (count,)
        lowest = linear_minimum(x, y, loss=loss, num_classes=count).energy
        for init in inits.values():
            here = linear_energy(x, y, init, loss=loss, num_classes=count)
            means = {
                n: jnp.broadcast_to(d.moments()[0] if d else 0.0, shape)
                for n, d, shape in (("w", init["w"], (3, *tail)), ("b", init["b"], tail))
            }
            middle = float(
                drawn(jax.tree.map(lambda m: m[None], means), x, jnp.asarray(y), loss)[0]
            )
            assert lowest <= middle + 1e-9
            assert middle <= here + 1e-9


def test_minima_are_minima_and_separable_data_have_none(x64):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 3))
    noisy = {
        "mse": rng.normal(size=40),
        "bce": (x[:, 0] + rng.normal(size=40) > 0).astype(float),
        "softmax_ce": np.argmax(x + rng.gumbel(size=(40, 3)), axis=1),
    }
    for loss, y in noisy.items():
        count = 3 if loss == "softmax_ce" else None
        found = linear_minimum(x, y, loss=loss, num_classes=count)
        energy = lambda p, loss=loss, y=y: jnp.mean(
            linear_loss(x @ p["w"] + p["b"], jnp.asarray(y), loss)
        )
        assert found.attained
        slope = jax.grad(energy)(found.params)
        assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(slope)) < 1e-7
    target = rng.normal(size=40)
    mae = linear_minimum(x, target, loss="mae", fit_intercept=False)
    residual = target - x @ np.asarray(mae.params["w"])
    assert mae.params["b"] is None
    assert np.sum(np.abs(residual) < 1e-9) == 3  # a vertex of the programme
    for loss, y in (("bce", (x[:, 0] > 0).astype(float)), ("softmax_ce", np.argmax(x, axis=1))):
        count = 3 if loss == "softmax_ce" else None
        apart = linear_minimum(x, y, loss=loss, num_classes=count)
        assert not apart.attained
        assert apart.energy == 0


def test_transition_temperature_has_its_limits_and_derivatives(x64):
    """Finite and positive for all scales, infinite at none; slope by finite differences."""

    def temperature(log_scale, loss="mae"):
        init = {"w": Normal(0.0, jnp.exp(log_scale)), "b": None}
        return linear_transition(
            X, Y, init, loss=loss, resolution=0.1, minimum=lowest
        ).temperature

    lowest = linear_minimum(X, Y, loss="mae", fit_intercept=False)
    values = [float(temperature(t)) for t in (-9.0, -5.0, 0.0, 5.0)]
    assert all(v > 0 for v in values)
    assert values[0] > values[1] > values[2] < values[3]
    h = 1e-5
    expected = (temperature(0.3 + h) - temperature(0.3 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(temperature)(0.3), expected, rtol=1e-7)

    def lowest_energy(shift):  # envelope theorem
        return linear_minimum(X, Y + shift * jnp.arange(3.0) ** 2, loss="mse").energy

    expected = (lowest_energy(0.2 + h) - lowest_energy(0.2 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(lowest_energy)(0.2), expected, rtol=1e-7)


def test_single_precision_agrees_with_double():
    x, targets, inits = cases()
    for loss in ("mse", "mae", "bce", "softmax_ce"):
        count = 3 if loss == "softmax_ce" else None
        y = targets[loss]
        for init in (inits["normal"], inits["uniform"]):
            run = functools.partial(linear_energy, init=init, loss=loss, num_classes=count)
            single = run(jnp.asarray(x, jnp.float32), jnp.asarray(y))
            assert single.dtype == jnp.float32
            with jax.enable_x64(True):
                np.testing.assert_allclose(single, run(x, y), rtol=1e-4)


def test_law_of_predictions_and_its_mistakes(x64):
    law = linear_law(X, MIXED)
    np.testing.assert_allclose(law.scale, [0.0, 1.0, 2.0])
    np.testing.assert_allclose(law.widths[:, 0], np.sqrt(3) / 2)
    np.testing.assert_allclose(law.spread**2, X[:, 0] ** 2 + 0.25)
    assert stats.norm().std() == 1
    energy = functools.partial(linear_energy, X, Y)
    with pytest.raises(ValueError, match="unknown"):
        energy(NORMAL, loss="l2")
    with pytest.raises(ValueError, match="labels 0 and 1"):
        energy(NORMAL, loss="bce")
    with pytest.raises(ValueError, match="num_classes=None"):
        linear_energy(X, [0, 1, 2], NORMAL, loss="softmax_ce")
    with pytest.raises(ValueError, match="whole labels from 0 to 1"):
        linear_energy(X, [0, 1, 2], NORMAL, loss="softmax_ce", num_classes=2)
    with pytest.raises(ValueError, match="TruncatedNormal"):
        energy({"w": TruncatedNormal(0.0, 1.0), "b": None}, loss="mae")
    with pytest.raises(ValueError, match="init="):
        energy({"b": Normal(0.0, 1.0)}, loss="mae")
    with pytest.raises(ValueError, match="give \\[n, d\\]"):
        linear_energy(X[:, 0], Y, NORMAL, loss="mse")
    with pytest.raises(ValueError, match="give resolution="):
        linear_transition(X, Y, NORMAL, loss="mse", resolution=None)
    with pytest.raises(ValueError, match="regime"):
        linear_asymptotic(X, Y, NORMAL, loss="mse", regime="hot")
    with pytest.raises(ValueError, match="many_classes"):
        linear_asymptotic(X, Y, NORMAL, loss="mse", regime="many_classes")
    with pytest.raises(ValueError, match="does not broadcast"):
        energy({"w": Normal(0.0, jnp.ones(2)), "b": None}, loss="mse")
