"""Round trips: pymbar on our energies, ArviZ on our chains, tables of curves."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import check
from thermojax import exact
from thermojax.export import to_arviz, to_u_kn, to_xarray

PEER = """
import sys
import numpy as np
import pymbar
data = np.load(sys.argv[1])
solved = pymbar.MBAR(data["u"], data["n"]).compute_free_energy_differences()
np.savez(sys.argv[2], f=solved["Delta_f"][0, -1], df=solved["dDelta_f"][0, -1])
"""


@functools.cache
def regression():
    problem = exact.linear_regression()
    settings = tj.SMC(n=128, n_runs=4)
    point, key = tj.Point(1.0), jax.random.key(2)
    return problem, tj.log_partition(problem.system, point, key, method=settings)


def test_pymbar_finds_our_log_z(tmp_path):
    problem, est = regression()
    u, n = to_u_kn(est, run=1)
    given_to, answer = tmp_path / "given.npz", tmp_path / "answer.npz"
    np.savez(given_to, u=u, n=n)
    subprocess.run(
        [sys.executable, "-c", PEER, given_to, answer],
        check=True,
        capture_output=True,
        env={**os.environ, "PYMBAR_DISABLE_JAX": "TRUE"},
    )
    peer = np.load(answer)
    ours = tj.mbar(u, n).estimate
    np.testing.assert_allclose(ours.value[-1], -peer["f"], atol=1e-8)
    np.testing.assert_allclose(ours.stderr[-1], peer["df"], rtol=0.05)
    # the prior is normalised: log Z of the target is the difference along the ladder
    spread = np.std(np.asarray(est.parts.runs_log_z), ddof=1)
    check(-peer["f"], problem.log_partition(1.0), spread)
    assert abs(-peer["f"] - float(est.parts.runs_log_z[1])) < 0.1


def test_the_layout_is_pymbars():
    problem, est = regression()
    u, n = to_u_kn(est)
    assert u.shape == (len(n), n.sum())
    assert np.all(u[0] == 0)
    last = jax.vmap(problem.system.energy)(jax.tree.map(lambda x: x[:128], est.parts.samples))
    np.testing.assert_allclose(u[-1, -128:], last, rtol=1e-5)
    every = to_u_kn(est, run=None)
    assert len(every.n_k) == int(np.sum(est.parts.rungs + 1))
    with pytest.raises(ValueError, match="run=7 does not exist"):
        to_u_kn(est, run=7)
    with pytest.raises(ValueError, match="keeps no ladder"):
        to_u_kn(tj.Estimate(0.0, 0.0, 0.0, 1.0, 0))


def test_walkers_become_chains():
    like = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    sys_ = tj.system(lambda t: jnp.sum(t["w"] ** 2) + t["b"] ** 2, like=like)
    kernel, point, key = tj.mala(sys_), tj.Point(1.0), jax.random.key(0)
    start = {"w": jnp.zeros((4, 2, 3)), "b": jnp.zeros(4)}
    state = tj.init_ensemble(kernel, key, point, 4, positions=start)
    _, out = tj.run(kernel, key, state, point, 30, every=3)
    data = to_arviz(out)
    assert dict(data.posterior.sizes) == {
        "chain": 4,
        "draw": 10,
        "w_dim_0": 2,
        "w_dim_1": 3,
    }
    trace = out["trace"]
    np.testing.assert_array_equal(
        data.posterior["w"].values[2, 5], np.asarray(trace["position"]["w"])[5, 2]
    )
    np.testing.assert_array_equal(
        data.sample_stats["energy"].values, np.asarray(trace["energy"]).T
    )
    with pytest.raises(ValueError, match="pass every=k"):
        to_arviz({"acceptance": np.ones(3)})


def test_populations_become_chains():
    _, est = regression()
    data = to_arviz(est)
    assert data.posterior["theta"].shape == (4, 128, 2)
    np.testing.assert_array_equal(
        data.posterior["theta"].values[3, 0], np.asarray(est.parts.samples)[3 * 128]
    )
    weights = np.exp(data.sample_stats["log_weight"].values)
    assert abs(weights.sum() - 1) < 1e-5
    with pytest.raises(ValueError, match="holds no samples"):
        to_arviz(tj.Estimate(0.0, 0.0, 0.0, 1.0, 0))


def test_a_curve_becomes_a_table():
    problem, est = regression()
    curve = tj.curve(est, jnp.array([0.2, 0.5, 1.0]))
    table = to_xarray(curve)
    assert table["log_z"].dims == ("beta",)
    np.testing.assert_array_equal(table["beta"], curve.beta)
    row = table.sel(beta=0.5)
    check(row["log_z"], problem.log_partition(0.5), row["log_z_stderr"])
    assert set(table.data_vars) >= {"entropy", "entropy_stderr", "entropy_n_eff"}
    assert table["entropy_flags"].dtype == np.uint32
    untrusted = curve._replace(log_z=curve.log_z._replace(flags=jnp.uint32([0, 1, 0])))
    assert to_xarray(untrusted).attrs["trusted"] == 0


def test_estimates_become_a_table():
    est = tj.Estimate(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 3)), 7.0, np.uint32(0))
    table = to_xarray({"chi": est}, layer=["first", "second"], example=[4, 5, 6])
    assert table["chi_stderr"].sel(layer="second", example=5) == 1
    assert table["chi_n_eff"].shape == (2, 3)
    assert table.attrs["trusted"] == 1
    assert to_xarray(regression()[1])["value"].shape == ()
    with pytest.raises(ValueError, match="give one keyword per axis"):
        to_xarray(est, layer=["first", "second"])


@pytest.mark.parametrize(("name", "export"), [("arviz", to_arviz), ("xarray", to_xarray)])
def test_a_missing_package_is_named_with_its_cure(name, export, monkeypatch):
    _, est = regression()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name} is not installed: pip install 'thermojax"):
        export(est)
