"""Experiments A to D on tiny problems: acceptance, run folder, and claims that can fail."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.experiments.interrupted import in_two_goes
from thermojax.experiments.ppm import THEORY, PPMConfig, run
from thermojax.experiments.ppm_claims import claims
from thermojax.experiments.ppm_learning import LearningConfig, learn_digits
from thermojax.experiments.ppm_memory import MemoryConfig, memory_digits
from thermojax.experiments.ppm_works import fluctuation, reservoir_deviation, work_dissipated

SMALL = PPMConfig(
    draws=2,
    learning=LearningConfig(networks=6, images=16, inputs=8, hidden=4, work_inputs=4),
    memory=MemoryConfig(
        groups=24,
        seeds=24,
        n_steps=100,
        temperatures=(0.003, 0.03),
        inputs=8,
        joint=(1, 4),
        joint_sets=2,
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole run folder, of a run interrupted once, and what progress said."""
    out = tmp_path_factory.mktemp("ppm") / "run"
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
    assert {p.name for p in (out / "figures").iterdir()} == {
        "fluctuation.png",
        "learning.png",
        "memory.png",
    }
    page = (out / "report.html").read_text()
    assert "Claims" in page
    assert page.count("<img") == 3
    assert said == sorted(said)
    assert said[-1] == 1.0
    assert not out.with_name("run.partial").exists()
    with pytest.raises(FileExistsError):
        THEORY.reproduce(SMALL, out)


@pytest.mark.slow
def test_every_identity_closes(folder):
    _, facts = result_of(folder[0])
    rows = facts["identities"]
    assert len(rows) == 12
    assert all(row["closes"] for row in rows), rows
    trained = [row for row in rows if "info" in row]
    assert len(trained) == 3
    assert all(row["info"][1] > row["info"][0] > 0.01 for row in trained)


@pytest.mark.slow
def test_claims_of_the_small_run(folder):
    arrays, facts = result_of(folder[0])
    verdicts = {row["statement"]: row["verdict"] for row in facts["claims"]}
    assert facts["claims"] == json.loads(json.dumps(claims(arrays)))
    assert sum(facts["verdicts"].values()) == len(facts["claims"])
    sure = ("Learned information", "The learning efficiency", "A hotter optimiser", "L-info")
    for statement, verdict in verdicts.items():
        if statement.startswith((*sure, "Heating", "An over-param", "Both", "Integral fluct")):
            assert verdict != "fails", statement
    cost = arrays["a_ep_conditional"][..., -1]
    assert np.all(np.diff(cost[:, 1:4]) < 0)
    assert np.all(arrays["a_info_lower"] <= arrays["a_info_upper"] + 1e-6)
    assert not arrays["a_flags"].any()


@pytest.mark.slow
def test_claims_can_fail(folder):
    arrays, _ = result_of(folder[0])
    count = lambda changed: sum(row["verdict"] == "fails" for row in claims(changed))
    before = count(arrays)
    slow = arrays["a_slow"] & (arrays["a_batch"] == 0)
    broken = {
        "a_closure": arrays["a_closure"] + 1.0,
        "a_ep_conditional": np.where(slow[:, None], 1.0, arrays["a_ep_conditional"]),
        "a_efficiency": arrays["a_efficiency"][:, ::-1],
        "b_m_info": arrays["b_m_info"][:, ::-1],
        "b_relevance": arrays["b_relevance"][:, ::-1],
        "c_deviation": np.sqrt(arrays["c_deviation"]),
        "d_slope": arrays["d_slope"] * 0 + 0.5,
    }
    for name, values in broken.items():
        assert count({**arrays, name: values}) > before, name
    lost = {**arrays, "d_flags": arrays["d_flags"] * 0 + 1}
    opened = [row for row in claims(lost) if row["verdict"] == "open"]
    assert sum("LOW_ESS" in row["measured"] for row in opened) == 1  # the turbulent run
    assert sum(row["statement"].startswith("Integral") for row in opened) == 2


def test_dissipated_work_against_its_mean_and_both_theorems():
    key = jax.random.key(0)
    logits = jnp.cumsum(0.25 * jax.random.normal(key, (12, 5, 4)), axis=0)
    log_p = jax.nn.log_softmax(logits)
    forward = work_dissipated(jax.random.key(1), log_p, 4000)
    backward = work_dissipated(jax.random.key(2), log_p[::-1], 4000)
    p = np.exp(np.asarray(log_p, float))
    divergence = (p[:-1] * (np.log(p[:-1]) - np.log(p[1:]))).sum((0, 2))
    error = np.std(forward, axis=1) / np.sqrt(4000)
    assert np.all(np.abs(np.mean(forward, axis=1) - divergence) < 4.5 * error)
    found = fluctuation(forward, backward)
    assert abs(found["mean_exp"] - 1) < 4 * found["mean_exp_stderr"]
    assert abs(found["slope"] - 1) < 4 * found["slope_stderr"] < 0.2
    assert found["flags"] == 0
    wrong = fluctuation(0.5 * forward, 0.5 * backward)  # half the work
    assert abs(wrong["slope"] - 1) > 4 * wrong["slope_stderr"]


def test_a_driven_path_far_from_equilibrium_is_flagged():
    log_p = jax.nn.log_softmax(jnp.array([[[0.0, 14.0]], [[14.0, 0.0]]] * 2))
    pair = [work_dissipated(jax.random.key(i), p, 300) for i, p in enumerate((log_p, log_p))]
    found = fluctuation(*pair)
    assert found["flags"] != 0
    assert np.isnan(found["slope"])
    assert found["slope_stderr"] == np.inf


def test_reservoir_of_known_capacity():
    size, gap = reservoir_deviation(np.array([-0.5, -0.3, 0.2]), (4, 256))
    assert size.tolist() == [64 * 4 + 4 + 50, 64 * 256 + 256 + 2570]
    capacity = size / 2
    expected = (0.6 - capacity * np.log1p(0.6 / capacity)) / 0.6
    np.testing.assert_allclose(gap, expected, rtol=1e-9)


def test_draws_of_the_data_do_not_leak():
    found = learn_digits(SMALL.learning, 0)
    assert found.data[0].shape == (6, 16, 64)
    held = {row.tobytes() for row in np.asarray(found.inputs)}
    assert not held & {row.tobytes() for row in np.asarray(found.data[0]).reshape(-1, 64)}
    other = learn_digits(SMALL.learning, 1)
    assert not np.array_equal(found.inputs, other.inputs)
    features = memory_digits(SMALL.memory, 0)
    assert features.data[0].shape == (24, 32, 6)
    assert np.all(np.asarray(features.inputs)[:, -1] == 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPMConfig(draws=0), "draws=0"),
        (lambda: LearningConfig(networks=1), "networks=1"),
        (lambda: LearningConfig(batch=65), "batch=65"),
        (lambda: LearningConfig(rates=(0.3,)), "multiple of 100"),
        (lambda: LearningConfig(work_inputs=101), "work_inputs=101"),
        (lambda: MemoryConfig(groups=1), "groups=1"),
        (lambda: MemoryConfig(n_steps=55), "n_steps=55"),
        (lambda: MemoryConfig(joint=(12,)), "at most 10"),
        (lambda: learn_digits(LearningConfig(images=1800), 0), "images=1800"),
        (lambda: memory_digits(MemoryConfig(examples=400), 0), "examples=400"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.nightly
def test_acceptance_on_three_draws(tmp_path):
    found = run(PPMConfig())
    facts = THEORY.summary(found)
    assert facts["verdicts"]["fails"] == 0
    assert facts["verdicts"]["open"] == 2  # ideal learning, and the turbulent run
    assert facts["seconds"] < 600
    assert len(THEORY.page.draw(found.arrays, tmp_path)) == 3
