"""Experiments A to D on tiny problems: acceptance, run folder, and claims that can fail."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.experiments.interrupted import in_two_goes
from thermojax.experiments.temperature import THEORY, TemperatureConfig, run
from thermojax.experiments.temperature_claims import claims, layer_identities
from thermojax.experiments.temperature_engines import EnginesConfig
from thermojax.experiments.temperature_gibbs import GibbsConfig
from thermojax.experiments.temperature_layers import LayersConfig, _checkpoint_heat, digits
from thermojax.experiments.temperature_linear import LinearConfig
from thermojax.experiments.temperature_networks import (
    ACTIVATIONS,
    draw_networks,
    empty_taps,
    forward,
    index_of,
    tapped,
)

SMALL = TemperatureConfig(
    draws=2,
    linear=LinearConfig(members=400, sigmas=(0.001, 0.1, 10.0)),
    layers=LayersConfig(
        rows=60,
        members=4,
        width=8,
        depths=(1, 2),
        activations=("relu",),
        steps=40,
        initial_members=16,
        long_rows=60,
        long_members=2,
        long_width=8,
        long_steps=80,
    ),
    engines=EnginesConfig(rows=40, width=32, depth=2, initialisations=2),
    gibbs=GibbsConfig(rows=10, width=2, chains=64, warm_up=200, steps=300),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole run folder, of a run interrupted once, and what progress said."""
    out = tmp_path_factory.mktemp("temperature") / "run"
    return out, in_two_goes(THEORY, SMALL, out)


def result_of(folder):
    facts = json.loads((folder / "summary.json").read_text())
    return dict(np.load(folder / "result.npz")), facts


@pytest.mark.slow
def test_run_folder_is_complete(folder):
    out, said = folder
    assert {p.name for p in out.iterdir()} == {
        "config.json",
        "figures",
        "report.html",
        "result.npz",
        "summary.json",
    }
    names = {"canonical.png", "engines.png", "layers.png", "linear.png"}
    assert {p.name for p in (out / "figures").iterdir()} == names
    page = (out / "report.html").read_text()
    assert "Claims" in page
    assert page.count("<img") == 4
    assert said == sorted(said)
    assert said[-1] == 1.0
    with pytest.raises(FileExistsError):
        THEORY.reproduce(SMALL, out)


@pytest.mark.slow
def test_linear_models_have_the_expected_numbers(folder):
    arrays, facts = result_of(folder[0])
    expected = [
        [0.0248, 0.0655, 0.2284, 0.8798, 3.4856],
        [0.0102, 0.0197, 0.0435, 0.0949, 0.1997],
        [0.0061, 0.0099, 0.0203, 0.0447, 0.0962],
    ]
    np.testing.assert_allclose(arrays["a_temperature"], expected, atol=6e-5, rtol=2e-3)
    np.testing.assert_allclose(arrays["a_minimum"], [0.4823, 0.5590, 0.4854], atol=6e-5)
    assert arrays["a_flow_exact"][2] == pytest.approx(4.71, abs=0.05)
    verdicts = {row["statement"]: row["verdict"] for row in facts["claims"]}
    sure = ("Temperature indicates", "For wide", "T has a minimum", "Mean squared", "Virial")
    found = [v for s, v in verdicts.items() if s.startswith(sure)]
    assert found == ["holds"] * 5


@pytest.mark.slow
def test_heats_add_up_and_identities_close(folder):
    arrays, facts = result_of(folder[0])
    assert len(facts["identities"]) == 6
    assert all(row["closes"] for row in facts["identities"]), facts["identities"]
    heat = np.nansum(arrays["b_heat"], (2, 3))
    drop = arrays["b_energy"][..., 0] - arrays["b_energy"][..., -1]
    tanh = arrays["b_activation"] == "tanh"
    np.testing.assert_allclose(heat[:, tanh], drop[:, tanh], rtol=0.01)
    missed = np.abs(heat / drop - 1) > 0.01
    assert np.all(~missed | arrays["b_flags"].astype(bool).any(axis=2))
    assert np.all(drop > 0)
    assert arrays["b_coarse_flags"].any(axis=1).all()
    changed = {**arrays, "b_heat": arrays["b_heat"] * 1.02}
    assert not layer_identities(changed)[0]["closes"]


@pytest.mark.slow
def test_the_canonical_ensemble_alone_has_a_temperature(folder):
    arrays, facts = result_of(folder[0])
    z = (arrays["d_gibbs"] - arrays["d_temperature"]) / arrays["d_gibbs_stderr"]
    assert np.all(np.abs(z) < 4.5)
    assert np.all(arrays["d_gibbs_stderr"][:, :, 0] < 0.2 * arrays["d_temperature"])
    # twice the temperature would be seen
    far = np.abs(arrays["d_gibbs"] - 2 * arrays["d_temperature"]) / arrays["d_gibbs_stderr"]
    assert np.all(far[:, :, 0] > 5)
    assert facts["numbers"]["canonical"][0]["block"] == "whole"


@pytest.mark.slow
def test_claims_of_the_small_run_can_fail(folder):
    arrays, facts = result_of(folder[0])
    assert facts["claims"] == json.loads(json.dumps(claims(arrays)))
    assert sum(facts["verdicts"].values()) == len(facts["claims"])
    # few chains leave wide errors; narrow ones let the last claim hold
    arrays["d_initial_stderr"] = 0.1 * arrays["d_initial_stderr"]
    verdicts = lambda changed: [row["verdict"] for row in claims({**arrays, **changed})]
    before = verdicts({})
    broken = {
        "a_temperature": arrays["a_temperature"][:, ::-1],
        "a_virial": 1.5 * arrays["a_virial"],
        "a_temperature_of_sigma": np.sort(arrays["a_temperature_of_sigma"]),
        "a_family": np.ones_like(arrays["a_family"]),
        "a_naive_flags": 0 * arrays["a_naive_flags"],
        "b_heat": 1.1 * arrays["b_heat"],
        "b_coarse_flags": 0 * arrays["b_coarse_flags"],
        "b_virial": np.abs(arrays["b_virial"]),
        "c_class": np.full_like(arrays["c_class"], "persistent"),
        "d_gibbs": 2 * arrays["d_gibbs"],
        "d_initial": arrays["d_temperature"] + 0 * arrays["d_initial"],
    }
    for name, values in broken.items():
        after = verdicts({name: values})
        newly = [a == "fails" and b != "fails" for a, b in zip(after, before, strict=True)]
        assert any(newly), name


def test_checkpoint_heat_is_the_trapezoid_rule():
    data = digits(20, 0)
    start = draw_networks(jax.random.key(0), (64, 3, 10), 2)
    moved = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x]), start)
    energy = lambda p: tapped(index_of("tanh"))(p, data, None)[0]
    slope = jax.vmap(jax.grad(energy))
    first, second = slope(start), slope(jax.tree.map(lambda x: 0.9 * x, start))
    expected = sum(float(jnp.sum(0.5 * (first[k] + second[k]) * 0.1 * start[k])) for k in start)
    found = _checkpoint_heat(index_of("tanh"), moved, data)
    assert float(found) == pytest.approx(expected / 2, rel=1e-4)


def test_taps_are_forces_and_signals():
    x, labels = digits(10, 0)
    params = jax.tree.map(lambda w: w[0], draw_networks(jax.random.key(1), (64, 5, 10), 1))
    g, taps = index_of("sigmoid"), empty_taps(params, 10)
    logits, signals = forward(params, x, g)
    z = x @ params["layer_1"]
    np.testing.assert_allclose(signals["layer_1"][0], z, rtol=1e-5)
    np.testing.assert_allclose(logits, jax.nn.sigmoid(z) @ params["layer_2"], rtol=1e-5)
    force = jax.grad(lambda t: tapped(g)(params, (x, labels), t)[0])(taps)["layer_1"]
    slope = jax.nn.sigmoid(z) * (1 - jax.nn.sigmoid(z))
    np.testing.assert_allclose(force[0], force[1] * slope, rtol=1e-4, atol=1e-8)


def test_networks_have_the_declared_variance():
    weights = draw_networks(jax.random.key(0), (64, 100, 10), 20)
    assert [w.shape for w in weights.values()] == [(20, 64, 100), (20, 100, 10)]
    assert float(jnp.var(weights["layer_1"])) == pytest.approx(1 / 64, rel=0.02)
    assert float(jnp.var(weights["layer_2"])) == pytest.approx(1 / 100, rel=0.05)
    assert int(index_of("tanh")) == list(ACTIVATIONS).index("tanh")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TemperatureConfig(draws=0), "draws=0"),
        (lambda: LinearConfig(scales=(1.0, 0.5)), "must increase"),
        (lambda: LinearConfig(resolution=0.0), r"resolution=0\.0"),
        (lambda: LayersConfig(steps=30), "even number of windows"),
        (lambda: LayersConfig(depths=(2,)), "two or more"),
        (lambda: LayersConfig(activations=("swish",)), "swish"),
        (lambda: LayersConfig(members=1), "members=1"),
        (lambda: EnginesConfig(initialisations=1), "initialisations=1"),
        (lambda: GibbsConfig(temperature=-1.0), "temperature=-1"),
        (lambda: GibbsConfig(chains=2), "chains=2"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.nightly
def test_acceptance_on_three_draws(tmp_path):
    found = run(TemperatureConfig())
    facts = THEORY.summary(found)
    failed = [row["statement"] for row in facts["claims"] if row["verdict"] == "fails"]
    assert failed == ["The cold first layer and the hot readout are a law of all activations"]
    assert all(row["closes"] for row in facts["identities"])
    assert len(THEORY.page.draw(found.arrays, tmp_path)) == 4
