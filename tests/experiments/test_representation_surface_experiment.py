"""Experiment E1 on tiny networks, and claims that can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermojax.experiments.representation_data import DataConfig, Sizes, draws_of, network
from thermojax.experiments.representation_surface import (
    SurfaceConfig,
    accuracy,
    measure,
    run_surface,
    surface_claims,
    surface_identities,
    surface_numbers,
    train_networks,
)
from thermojax.pictures_representation_surface import surface
from thermojax.plotting import save_png
from thermojax.theories.representation.neural import functionals
from thermojax.theories.representation.quantities import Batch, Multipliers

SMALL = SurfaceConfig(
    data=DataConfig(rows=250),
    sizes=Sizes(hidden=(16,), latent=3, batch=32, learning_rate=1e-2),
    lams=(0.1, 1.0),
    gams=(1.0, 10.0, 100.0),
    steps=1_200,
    samples=4,
)


@pytest.fixture(scope="module")
def run():
    said = []
    return run_surface(SMALL, (0, 5), lambda fraction, note: said.append(fraction)), said


def verdicts(arrays):
    return [row["verdict"] for row in surface_claims(arrays)]


def with_changed(arrays, name, change):
    values = arrays[name].copy()
    change(values)
    return arrays | {name: values}


@pytest.mark.slow
def test_arrays_have_their_shapes(run):
    arrays, said = run
    grid = {
        "rate",
        "distortion",
        "classification",
        "test_classification",
        "accuracy",
        "train_accuracy",
    }
    for name in grid:
        assert arrays[f"e1_{name}"].shape == (2, 2, 3)
    assert arrays["e1_excess"].shape == arrays["e1_excess_stderr"].shape == (2, 6, 6)
    assert arrays["e1_bound"].shape == (2, 2)
    assert arrays["e1_variance"].shape == (2, 64)
    assert all(np.all(np.isfinite(values)) for values in arrays.values())
    assert said == sorted(said)


@pytest.mark.slow
def test_tiny_networks_show_the_signs(run):
    arrays, _ = run
    assert verdicts(arrays) == ["holds"] * 5
    assert np.all(arrays["e1_rate"] > 0)
    assert np.all(arrays["e1_accuracy"][..., 1:] > 0.6)


@pytest.mark.slow
def test_identities_close_and_can_open(run):
    arrays, _ = run
    assert all(row["closes"] for row in surface_identities(arrays))
    for name, place in (("e1_excess", (0, 0, 1)), ("e1_bound", (1, 0))):
        broken = arrays | {name: arrays[name].copy()}
        broken[name][place] *= 1.01
        assert sum(row["closes"] for row in surface_identities(broken)) == 1


@pytest.mark.slow
def test_violation_is_the_largest_excess(run):
    """Two routes to the same number: planes of means, and means of differences."""
    arrays, _ = run
    largest = np.max(arrays["e1_excess"], axis=(1, 2))
    np.testing.assert_allclose(arrays["e1_violation"], np.maximum(largest, 0), atol=1e-4)


@pytest.mark.slow
def test_claims_can_fail(run):
    arrays, _ = run

    def swap(values):
        values[1] = values[1, ::-1]

    def swap_gams(values):
        values[1] = values[1, :, ::-1]

    def raise_one(values):
        values[0, 2, 4] = 100.0

    def shrink(values):
        values[1] = 0.0

    for place, name, change in (
        (0, "e1_distortion", swap),
        (1, "e1_classification", swap_gams),
        (2, "e1_excess", raise_one),
        (3, "e1_label_entropy", shrink),
        (4, "e1_test_classification", shrink),
    ):
        assert verdicts(with_changed(arrays, name, change))[place] == "fails", name


@pytest.mark.slow
def test_an_excess_within_its_error_is_noise(run):
    arrays, _ = run
    noisy = with_changed(arrays, "e1_excess", lambda v: v.__setitem__((0, 2, 4), 1.0))
    noisy = with_changed(noisy, "e1_excess_stderr", lambda v: v.__setitem__((0, 2, 4), 0.5))
    assert verdicts(noisy)[2] == "holds"


@pytest.mark.slow
def test_numbers_have_a_row_per_point(run):
    arrays, _ = run
    ((_, rows),) = surface_numbers(arrays).items()
    assert [(row["lam"], row["gam"]) for row in rows][:4] == [
        ("0.1", "1"),
        ("0.1", "10"),
        ("0.1", "100"),
        ("1", "1"),
    ]
    assert rows[5]["D"]["value"] == pytest.approx(arrays["e1_distortion"][:, 1, 2].mean())


@pytest.mark.slow
def test_figure_shows_every_point(run, tmp_path):
    arrays, _ = run
    drawn = surface(arrays)
    trade, loss, right = drawn.get_axes()
    lines = {line.get_label(): line for line in trade.get_lines()}
    linear = lines["linear, γ = 0"].get_xydata()
    # the ends of the dashed line cost what the bound says
    cost = linear[[0, -1], 1] + SMALL.lams * linear[[0, -1], 0]
    np.testing.assert_allclose(cost, arrays["e1_bound"].mean(0), rtol=0.02)
    assert [len(axis.containers) for axis in (trade, loss, right)] == [3, 4, 2]
    assert all(axis.get_title(loc="left") for axis in (trade, loss, right))
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in (trade, loss, right))
    assert save_png({"surface": drawn}, tmp_path)["surface"].stat().st_size > 10_000


def parts_and_params(points=2):
    config = SurfaceConfig(
        data=DataConfig(rows=60), sizes=Sizes(hidden=(8,), latent=2, batch=8)
    )
    parts = draws_of(config.data, (0, 1))
    init = network(config.sizes, 64).init
    keys = jax.random.split(jax.random.key(0), (2, points))
    return config, parts, jax.vmap(jax.vmap(init))(keys)


def test_measurements_average_over_codes():
    """Rate is exact, the rest agrees with a direct mean over the same codes."""
    config, parts, params = parts_and_params()
    seen = measure(config.sizes, params, parts.train, samples=3)
    assert seen.rate.shape == (2, 2, 48)
    model = network(config.sizes, 64).model
    one = jax.tree.map(lambda a: a[1, 0], params)
    batch = Batch(*(jnp.asarray(a[1]) for a in parts.train[:2]))
    keys = jax.random.split(jax.random.key(0), 3)
    sample = jax.jit(lambda key: functionals(model, one, batch, key, num_samples=1))
    each = [sample(key) for key in keys]
    for name in seen._fields:
        direct = np.mean([getattr(found, name) for found in each], axis=0)
        np.testing.assert_allclose(getattr(seen, name)[1, 0], direct, rtol=2e-5)


def test_accuracy_is_read_off_the_mean_code():
    config, parts, params = parts_and_params()
    found = np.asarray(accuracy(config.sizes, params, parts.test))
    model = network(config.sizes, 64).model
    for d, p in np.ndindex(2, 2):
        one = jax.tree.map(lambda a, at=(d, p): a[at], params)
        mean, _ = model.encode(one, parts.test.x[d])
        guess = np.argmax(model.log_classifier(one, mean[None])[0], -1)
        assert found[d, p] == pytest.approx(np.mean(guess == parts.test.y[d]))


def test_points_of_a_draw_differ_by_their_controls_alone():
    """Equal controls give equal networks, lam = 0 leaves the decoder at its start, and draws
    do not see each other."""
    config, parts, _ = parts_and_params()
    keys = jnp.stack([jax.random.key(s) for s in (0, 1)])
    taus = Multipliers(jnp.array([0.5, 0.5, 0.0]), jnp.array([1.0, 1.0, 1.0]))
    params = train_networks(config.sizes, parts.train, taus, keys, steps=3)
    for leaf in jax.tree.leaves(params):
        np.testing.assert_allclose(leaf[:, 0], leaf[:, 1], atol=1e-6)
    back = jax.tree.map(lambda a: a[::-1], parts.train)
    for one, other in zip(
        jax.tree.leaves(params),
        jax.tree.leaves(train_networks(config.sizes, back, taus, keys[::-1], steps=3)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other[::-1], atol=1e-6)
    init = network(config.sizes, 64).init
    start = [init(jax.random.split(key)[0])["decoder"] for key in keys]
    for d in (0, 1):
        jax.tree.map(
            lambda a, b, d=d: np.testing.assert_array_equal(a[d, 2], b),
            params["decoder"],
            start[d],
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lams": (1.0,)}, "lams="),
        ({"lams": (1.0, 0.5)}, "rising"),
        ({"gams": (0.0, 1.0)}, "gams="),
        ({"steps": 0}, "steps=0"),
        ({"samples": 0}, "samples=0"),
    ],
)
def test_settings_without_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        SurfaceConfig(**settings)
