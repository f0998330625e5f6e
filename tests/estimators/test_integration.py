"""Stepping stone and WHAM against closed forms, MBAR and each other."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import thermojax as tj
from tests.scores import EXACT, caught, check
from thermojax.estimators.estimate import Flag
from thermojax.estimators.integration import stepping_stone, wham

DIM = 4
BETAS = np.geomspace(0.5, 2.0, 7)
TRUTH = -0.5 * DIM * np.log(BETAS / BETAS[0])  # harmonic wells: log Z = -(d/2) log beta


def ladder(n, seed, betas=BETAS, dim=DIM):
    """Energies [K, n] of a harmonic well: Gamma(d/2, 1/beta)."""
    rng = np.random.default_rng(seed)
    return rng.gamma(dim / 2, size=(len(betas), n)) / np.asarray(betas)[:, None]


def histograms(energies, bins):
    edges = np.linspace(0.0, energies.max() * (1 + 1e-9), bins + 1)
    return np.stack([np.histogram(row, edges)[0] for row in energies]), edges


def raised(est):
    return Flag(int(np.bitwise_or.reduce(np.atleast_1d(np.asarray(est.flags)))))


def within_bands(z):
    z = np.abs(np.asarray(z))
    return 0.584 < np.mean(z < 1) < 0.781 and 0.910 < np.mean(z < 2) < 0.998


# ------------------------------------------------------------------- stepping stone


def test_stepping_stone_covers():
    """200 replicates: the value, and an error bar that knows both halves share samples."""
    energies = np.stack([ladder(400, seed) for seed in range(200)])
    est = jax.jit(jax.vmap(lambda u: stepping_stone(BETAS, u)))(energies)
    assert np.mean(est.flags > 0) < 0.05  # a tail of 50 weights is fitted loosely
    check(est.value, TRUTH[-1])
    z = (est.value - TRUTH[-1]) / est.stderr
    assert within_bands(z)
    # power: errors half or twice, the sum of both halves instead of their mean
    assert not within_bands(2 * z)
    assert not within_bands(z / 2)
    caught(2 * est.value, TRUTH[-1])
    caught(est.value + 0.02, TRUTH[-1])


def test_stepping_stone_formula(x64):
    u = ladder(50, 1)
    est = stepping_stone(BETAS, u)
    d = np.diff(BETAS)[:, None]
    forward = np.log(np.mean(np.exp(-d * u[:-1]), axis=1))
    backward = np.log(np.mean(np.exp(d * u[1:]), axis=1))
    np.testing.assert_allclose(est.parts["steps"], (forward - backward) / 2, rtol=EXACT)
    np.testing.assert_allclose(est.parts["forward"], forward.sum(), rtol=EXACT)
    np.testing.assert_allclose(est.parts["backward"], -backward.sum(), rtol=EXACT)
    # delta method by brute force: leave one sample of one rung out
    total = 0.0
    for rung in range(len(BETAS)):
        left = []
        for i in range(50):
            keep = np.arange(50) != i
            f, b = forward.copy(), backward.copy()
            if rung < len(BETAS) - 1:
                f[rung] = np.log(np.mean(np.exp(-d[rung] * u[rung, keep])))
            if rung > 0:
                b[rung - 1] = np.log(np.mean(np.exp(d[rung - 1] * u[rung, keep])))
            left.append(np.sum(f - b) / 2)
        total += 49 * np.var(left)
    assert float(est.stderr) == pytest.approx(np.sqrt(total), rel=0.05)
    assert est.value.dtype == "float64"
    inflated = stepping_stone(BETAS, u, g=4.0)
    assert float(inflated.stderr) == pytest.approx(2 * float(est.stderr), rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(offset=st.floats(-50, 50), scale=st.sampled_from([0.25, 2.0, 8.0]))
def test_stepping_stone_shift_and_units(offset, scale):
    with jax.enable_x64(True):
        u = ladder(50, 2)
        plain = stepping_stone(BETAS, u)
        moved = stepping_stone(BETAS / scale, scale * (u + offset))
        shift = -offset * (BETAS[-1] - BETAS[0])
        np.testing.assert_allclose(moved.value, plain.value + shift, atol=1e-9)
        np.testing.assert_allclose(moved.stderr, plain.stderr, rtol=1e-8)


def test_stepping_stone_verdicts():
    pair = [0.5, 4.0]
    # from beta = 0 over a wide prior the backward average has no variance
    wide = ladder(400, 4, [0.01, 1.0])
    assert Flag.HEAVY_TAIL in raised(stepping_stone([0.0, 0.99], wide))
    apart = stepping_stone(pair, ladder(400, 6, pair, dim=2000))
    assert Flag.POOR_OVERLAP in raised(apart)
    assert np.isnan(apart.value)
    assert np.isinf(apart.stderr)
    few = stepping_stone(pair, ladder(400, 6, pair))
    assert Flag.LOW_ESS in raised(few)
    clean = stepping_stone(BETAS, ladder(400, 7))
    assert raised(clean) == 0
    assert Flag.READOUTS_DISAGREE in raised(stepping_stone(BETAS, 3 * ladder(400, 5)))
    # walls at beta = 0: a quarter of the reference is forbidden
    rng = np.random.default_rng(8)
    walled = rng.uniform(size=(2, 400))
    walled[0, ::4] = np.inf
    est = stepping_stone([0.0, 0.1], walled)
    assert float(est.parts["forward"]) == pytest.approx(np.log(0.75) - 0.05, abs=0.01)
    assert clean.value.dtype == "float32"


def test_stepping_stone_refuses():
    with pytest.raises(ValueError, match=r"got \(7,\) and \(6, 9\)"):
        stepping_stone(BETAS, np.zeros((6, 9)))
    with pytest.raises(ValueError, match=r"betas=\[1\.0, 0\.5\] must increase"):
        stepping_stone([1.0, 0.5], np.zeros((2, 9)))


# ----------------------------------------------------------------------------- WHAM


def test_wham_is_mbar_on_binned_energies():
    """To ten digits on energies that lie in the middle of their bins."""
    energies = ladder(700, 11)
    counts, edges = histograms(energies, 300)
    centres = 0.5 * (edges[1:] + edges[:-1])
    binned = np.concatenate([np.repeat(centres, row) for row in counts])
    fit, whole = wham(BETAS, counts, edges), tj.mbar(np.outer(BETAS, binned), [700] * 7)
    np.testing.assert_allclose(fit.estimate.value, whole.estimate.value, rtol=0, atol=1e-9)
    np.testing.assert_allclose(fit.estimate.within_stderr, whole.estimate.stderr, atol=1e-8)
    np.testing.assert_allclose(fit.estimate.n_eff, whole.estimate.n_eff, rtol=1e-7)
    assert fit.link == pytest.approx(whole.link, rel=1e-6)
    assert fit.residual < 1e-6
    # and on the energies themselves within what the bins are said to cost
    exact = tj.mbar(np.outer(BETAS, energies.ravel()), [700] * 7).estimate
    rounding = 4 * (BETAS - BETAS[0]) * (edges[1] - edges[0]) / np.sqrt(12 * 4900)
    miss = np.abs(fit.estimate.value - exact.value)
    assert np.all(miss <= fit.bin_error + rounding)
    coarse = wham(BETAS, *histograms(energies, 15))
    miss = np.abs(coarse.estimate.value - exact.value)
    assert np.all(miss <= coarse.bin_error + 20 * rounding)
    assert np.max(miss) > 0.01


def test_wham_bin_error_formula():
    counts, edges = histograms(ladder(700, 11), 50)
    x = np.ptp(BETAS) * (edges[1] - edges[0])
    found = wham(BETAS, counts, edges).bin_error
    np.testing.assert_allclose(found[1:], np.log(np.sinh(x / 2) / (x / 2)), rtol=1e-9)
    assert found[0] == 0
    assert Flag.TOO_COARSE in raised(wham(BETAS, *histograms(ladder(700, 11), 6)).estimate)


def test_wham_covers():
    z = []
    for seed in range(200):
        est = wham(BETAS, *histograms(ladder(150, seed), 200)).estimate
        z.append((est.value[1:] - TRUTH[1:]) / est.stderr[1:])
        assert raised(est) == 0
    z = np.array(z)
    assert within_bands(z[:, -1])
    assert not within_bands(2 * z[:, -1])
    check(z, 0.0)
    caught(z + np.log(2), 0.0)


def test_wham_at_any_temperature():
    fit = wham(BETAS, *histograms(ladder(4000, 12), 400))
    for k in (0, 3, 6):
        assert fit.log_partition(BETAS[k]) == pytest.approx(fit.estimate.value[k], abs=1e-9)
    assert fit.log_partition(1.3) == pytest.approx(-2 * np.log(1.3 / 0.5), abs=0.03)


def test_wham_verdicts():
    pair = [0.5, 4.0]
    apart = wham(pair, *histograms(ladder(400, 6, pair, dim=400), 2000)).estimate
    assert Flag.POOR_OVERLAP in raised(apart)
    assert np.isnan(apart.value).all()
    assert np.isinf(apart.stderr).all()
    few = wham(BETAS, *histograms(ladder(5, 6), 400)).estimate
    assert Flag.LOW_ESS in raised(few)
    counts, edges = histograms(ladder(500, 6), 400)
    assert raised(wham(BETAS, counts, edges).estimate) == 0
    plain, inflated = (wham(BETAS, counts, edges, g=g).estimate for g in (1.0, 9.0))
    np.testing.assert_allclose(inflated.within_stderr, 3 * plain.within_stderr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [0.0, 1.0]}, r"\(2,\), \(2, 2\) and \(2,\)"),
        ({"edges": [0.0, 2.0, 1.0]}, "edges must be finite and increase"),
        ({"edges": [0.0, 1.0, np.inf]}, "edges must be finite and increase"),
        ({"counts": [[1, -1], [2, 3]]}, "counts must be whole numbers"),
        ({"counts": [[1, 0.5], [2, 3]]}, "counts must be whole numbers"),
        ({"counts": [[0, 0], [2, 3]]}, "rung 0 has no counts"),
        ({"g": 0.5}, "g=0.5 must be at least 1"),
    ],
)
def test_wham_refuses(change, message):
    given = {"betas": [1.0, 2.0], "counts": [[4, 3], [2, 3]], "edges": [0.0, 1.0, 2.0]}
    with pytest.raises(ValueError, match=message):
        wham(**(given | change))


def test_wham_reads_the_histogram_accumulator():
    betas, edges = [1.0, 1.5], np.linspace(0, 30, 301)
    acc = tj.histogram(edges, of=lambda u: u)
    counts = []
    for row in ladder(3000, 13, betas):
        tally = acc.update(acc.init(0.0), jnp.asarray(row, jnp.float32))
        found = acc.finalize(tally)
        assert int(found.below) == int(found.above) == 0
        counts.append(found.counts)
    est = wham(betas, np.stack(counts), edges).estimate
    check(est.value[1], -2 * np.log(1.5), est.stderr[1])
    caught(est.value[1] + np.log(2), -2 * np.log(1.5), est.stderr[1])


def test_all_read_outs_of_one_ladder_agree():
    """The same energies by MBAR, WHAM, stepping stone and the Hermite rule."""
    u = ladder(400, 14)
    readouts = {
        "mbar": tj.mbar(np.outer(BETAS, u.ravel()), [400] * 7).estimate.value[-1],
        "wham": wham(BETAS, *histograms(u, 2000)).estimate.value[-1],
        "stone": float(stepping_stone(BETAS, u).value),
        "ti": float(tj.thermodynamic_integration(BETAS, u.mean(1), u.var(1)).value),
    }
    error = float(stepping_stone(BETAS, u).stderr)
    assert error < 0.05
    assert readouts["wham"] == pytest.approx(readouts["mbar"], abs=1e-4)
    for value in readouts.values():
        check(value, TRUTH[-1], error)
