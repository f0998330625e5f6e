"""Ensembles: the same bits however the work is cut, streams, meshes, gradients, memory."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import caught, check

KEY, START = jax.random.key(1), jax.random.key(0)
X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
DATA = {"x": jnp.asarray(X), "y": jnp.asarray(np.sin(X.sum(1)), jnp.float32)}


def mlp_example(theta, control, example):
    hidden = jnp.tanh(example["x"] @ theta["w"] + theta["b"])
    return 0.5 * (hidden @ theta["a"] - example["y"]) ** 2


def mlp():
    """A small network: matrix products, whose rounding depends on the batch."""
    like = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4), "a": jnp.zeros(4)}
    return tj.finite_sum(mlp_example, DATA, prior=tj.gaussian_prior(1.0), like=like)


def quartic(x, control, data):
    return jnp.sum(0.25 * x**4 + 0.5 * x**2)


def wells():
    return tj.system(quartic, prior=tj.gaussian_prior(1.0), like=jnp.zeros(3))


POINT = tj.Point(jnp.float32(1.5))
SUMS = {"U": tj.moments(), "err": tj.dyadic(levels=4), "h": tj.histogram([0.0, 1.0, 5.0])}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, _plain(a), _plain(b))


def _plain(tree):
    return jax.tree.map(np.asarray, tree)


def first(tree, n, axis=0):
    return jax.tree.map(lambda leaf: np.take(np.asarray(leaf), range(n), axis), tree)


def kernel_of(name):
    if name == "mlp":
        return tj.mala(mlp(), step_size=0.01)
    return tj.langevin(wells(), "BAOAB", step_size=0.3)


@pytest.mark.parametrize("name", ["mlp", "wells"])
def test_chunks_prefixes_and_continuation_change_no_bit(name):
    kernel = kernel_of(name)
    run = functools.partial(
        tj.run, kernel, key=KEY, point=POINT, accumulate=SUMS, ledger="full"
    )
    st = tj.init_ensemble(kernel, START, POINT, size=64, tile=16)
    whole, out = run(st=st, n_steps=60, chunk=1000)
    assert int(whole.step) == 60
    assert np.all(np.isfinite(whole.energy))

    again, out_again = run(st=st, n_steps=60, chunk=10)
    equal((whole, out), (again, out_again))

    half, _ = run(st=st, n_steps=23)
    ended, _ = run(st=half, n_steps=37)
    equal(whole, ended)

    large = tj.init_ensemble(kernel, START, POINT, size=256, tile=16)
    equal(first(large.walkers, 64), st.walkers)
    moved, out_large = run(st=large, n_steps=60)
    equal(first(moved.walkers, 64), whole.walkers)
    equal(first(out_large, 64), out)
    tail = np.asarray(moved.energy)[64:]
    assert len(np.unique(tail)) == len(tail)

    other, _ = run(st=st, n_steps=60, key=jax.random.key(2))
    assert np.all(np.asarray(other.energy) != np.asarray(whole.energy))


def test_walkers_are_known_by_their_global_numbers():
    kernel = kernel_of("wells")
    ends = []
    for size, first_walker in ((16, 0), (8, 8)):
        st = tj.init_ensemble(
            kernel, START, POINT, size=size, tile=8, first_walker=first_walker
        )
        st, _ = tj.drive(kernel, KEY, st, tj.Point(jnp.linspace(1.5, 2.0, 9)))
        ends.append(st.walkers)
    np.testing.assert_array_equal(ends[1].position, ends[0].position[8:])
    np.testing.assert_array_equal(ends[1].momentum, ends[0].momentum[8:])


def test_traces_are_the_states_at_their_steps():
    kernel = tj.overdamped(wells(), "lm", step_size=0.02)
    st = tj.init_ensemble(kernel, START, POINT, size=8, tile=4)
    end, out = tj.run(kernel, KEY, st, POINT, n_steps=23, every=5, chunk=10)
    trace = out["trace"]
    assert trace["position"].shape == (4, 8, 3)
    now = st
    for kept in range(4):
        now, _ = tj.run(kernel, KEY, now, POINT, n_steps=5)
        seen = jax.vmap(kernel.observe)(now.walkers)  # at the mid-point, like averages
        equal(trace["position"][kept], seen.position)
        equal(trace["energy"][kept], seen.energy)
    last, _ = tj.run(kernel, KEY, now, POINT, n_steps=3)
    equal(end, last)
    _, one = tj.run(kernel, KEY, st, POINT, n_steps=6, every=2, trace=lambda s: s.position[0])
    assert one["trace"].shape == (3, 8)


@pytest.mark.parametrize(("every", "chunk", "dies_at"), [(5, 10, 2), (None, 7, 1)])
def test_a_run_goes_on_bit_for_bit(tmp_path, every, chunk, dies_at):
    kernel = tj.mala(wells(), step_size=0.05)
    st = tj.init_ensemble(kernel, START, POINT, size=8, tile=4)
    options = {"n_steps": 23, "every": every, "chunk": chunk, "accumulate": SUMS}
    whole = tj.run(kernel, KEY, st, POINT, **options)
    seen = []

    def dying(done, total):
        seen.append(done)
        if len(seen) == dies_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tj.run(kernel, KEY, st, POINT, checkpoint=tmp_path, progress=dying, **options)
    again = tj.run(
        kernel,
        KEY,
        st,
        POINT,
        checkpoint=tmp_path,
        progress=lambda *x: seen.append(x),
        **options,
    )
    equal(again, whole)
    assert seen[dies_at] == (seen[dies_at - 1], 23)
    equal(tj.run(kernel, KEY, st, POINT, checkpoint=tmp_path, **options), whole)
    for other in ((KEY, st, tj.Point(1.1)), (jax.random.key(9), st, POINT)):
        with pytest.raises(ValueError, match="began in another state"):
            tj.run(kernel, *other, checkpoint=tmp_path, **options)


def test_streamed_sums_equal_those_of_the_trace():
    kernel = tj.mala(wells(), step_size=0.05)
    st = tj.init_ensemble(kernel, START, POINT, size=4, tile=4)
    accumulate = SUMS | {"x": tj.moments(lambda s: s.position, order=4)}
    _, out = tj.run(kernel, KEY, st, POINT, n_steps=200, every=1, accumulate=accumulate)
    energy, x = (np.asarray(out["trace"][k], np.float64) for k in ("energy", "position"))
    np.testing.assert_allclose(out["U"].mean, energy.mean(0), rtol=1e-5)
    np.testing.assert_allclose(out["U"].variance, energy.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_array_equal(out["U"].count, 200)
    np.testing.assert_allclose(out["x"].mean, x.mean(0), rtol=1e-4, atol=1e-5)
    fourth = np.mean((x - x.mean(0)) ** 4, axis=0)
    np.testing.assert_allclose(out["x"].fourth, fourth, rtol=1e-3)
    np.testing.assert_allclose(out["err"].mean, energy.mean(0), rtol=1e-5)
    counts = np.stack([((energy >= a) & (energy < b)).sum(0) for a, b in ((0, 1), (1, 5))], -1)
    np.testing.assert_array_equal(out["h"].counts, counts)
    moved = np.any(np.diff(np.concatenate([np.asarray(st.position)[None], x]), axis=0), -1)
    check(np.mean(out["acceptance"]), moved.mean(), 0.03)


def test_points_under_vmap_equal_a_loop():
    """A sweep: one program for all temperatures, common random numbers."""
    kernel = tj.mala(wells(), step_size=0.1)
    betas = jnp.asarray([0.0, 0.5, 1.0, 4.0])

    @jax.jit
    def one(beta):
        point = tj.Point(beta)
        st = tj.init_ensemble(kernel, START, point, size=8, tile=4)
        st, out = tj.run(kernel, KEY, st, point, n_steps=30, accumulate={"U": tj.moments()})
        return st.position, st.energy, out["U"].mean, out["acceptance"]

    together = jax.jit(jax.vmap(one))(betas)
    apart = [one(beta) for beta in betas]
    # two programs, compiled apart: equal but for the last bits
    jax.tree.map(
        lambda a, *b: np.testing.assert_allclose(a, np.stack(b), rtol=1e-5, atol=1e-5),
        together,
        *apart,
    )
    # and inside jit the numbers are those of the chunked program outside
    point = tj.Point(betas[2])
    st = tj.init_ensemble(kernel, START, point, size=8, tile=4)
    st, out = tj.run(kernel, KEY, st, point, n_steps=30, accumulate={"U": tj.moments()})
    np.testing.assert_allclose(st.position, apart[2][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out["U"].mean, apart[2][2], rtol=1e-5)


@pytest.mark.parametrize("name", ["em", "BAOAB"])
def test_gradient_of_a_run_is_its_finite_difference(name, x64):
    """d <U> / d step_size and d / d beta with common random numbers."""
    sys = tj.system(quartic, prior=tj.gaussian_prior(1.0), like=jnp.zeros(3, jnp.float64))
    kernel = tj.overdamped(sys, "em") if name == "em" else tj.langevin(sys, name)
    base = tj.Point(jnp.float64(1.0))
    st = tj.init_ensemble(kernel, START, base, size=8, tile=8)

    def mean_energy(step_size, beta):
        params = kernel.params._replace(step_size=step_size)
        point = tj.Point(beta)
        new, out = tj.run(
            kernel, KEY, st, point, 20, params=params, accumulate={"U": tj.moments()}
        )
        return jnp.mean(new.energy) + jnp.mean(out["U"].mean)

    here = jnp.float64(0.05), jnp.float64(1.3)
    f = jax.jit(jax.value_and_grad(mean_energy, argnums=(0, 1)))
    _, grads = f(*here)
    for i, grad in enumerate(grads):
        step = 1e-6
        ends = [f(*[v + s * step * (i == j) for j, v in enumerate(here)])[0] for s in (1, -1)]
        np.testing.assert_allclose(grad, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
        assert abs(float(grad)) > 1e-2


def test_noise_of_walkers_steps_and_parameters_is_independent():
    """Increments on a flat landscape are the noise itself."""
    n, steps, d = 96, 48, 8
    kernel = tj.overdamped(
        tj.system(lambda x: 0.0 * jnp.sum(x), like=jnp.zeros(d)), "em", step_size=0.5
    )
    st = tj.init_ensemble(kernel, START, POINT, size=n, tile=32, positions=jnp.zeros((n, d)))
    _, out = tj.run(kernel, KEY, st, POINT, n_steps=steps, every=1)
    x = np.concatenate([np.zeros((1, n, d)), np.asarray(out["trace"]["position"], float)])
    noise = np.diff(x, axis=0)  # [step, walker, parameter], unit normal up to rounding
    check(noise.ravel(), 0.0)
    check(noise.ravel() ** 2, 1.0)
    assert len(np.unique(np.round(noise, 4))) > 0.5 * noise.size

    def pairs(rows):
        """z of all correlations between rows of independent unit normals."""
        gram = rows @ rows.T / np.sqrt(rows.shape[1])
        return gram[np.triu_indices(len(rows), 1)]

    for axis in range(3):
        rows = np.moveaxis(noise, axis, 0).reshape(noise.shape[axis], -1)
        check(pairs(rows), 0.0, 1.0, limit=6.0)
    # neighbours on the diagonal: walker i at step t against walker i + 1 at step t + 1
    check((noise[1:, 1:] * noise[:-1, :-1]).ravel(), 0.0)
    # planted: every walker gets the noise of its neighbour one step later
    rolled = np.stack([np.roll(noise[0], t, axis=0) for t in range(steps)])
    caught((rolled[1:, 1:] * rolled[:-1, :-1]).ravel(), 0.0)


def test_progress_is_reported_after_each_chunk():
    kernel = tj.mala(wells())
    st = tj.init_ensemble(kernel, START, POINT, size=4, tile=4)
    calls = []
    tj.run(kernel, KEY, st, POINT, 25, chunk=10, progress=lambda *a: calls.append(a))
    assert calls == [(10, 25), (20, 25), (25, 25)]
    calls.clear()
    tj.run(kernel, KEY, st, POINT, 11, every=5, chunk=5, progress=lambda *a: calls.append(a))
    assert calls == [(5, 11), (10, 11), (11, 11)]


def test_ledger_levels():
    kernel = tj.overdamped(wells(), "em", step_size=0.05)
    st = tj.init_ensemble(kernel, START, POINT, size=4, tile=4)
    ends = {
        level: tj.run(kernel, KEY, st, POINT, 10, ledger=level)
        for level in ("none", "energy", "full")
    }
    equal(ends["none"][0], ends["full"][0])
    assert "ledger" not in ends["none"][1]
    equal(ends["energy"][1]["ledger"].heat, ends["full"][1]["ledger"].heat)
    np.testing.assert_array_equal(ends["energy"][1]["ledger"].shadow, 0.0)
    assert np.all(np.asarray(ends["full"][1]["ledger"].shadow) != 0.0)


def test_driving_equals_single_cycles():
    kernel = tj.mala(
        tj.system(
            lambda x, k: 0.5 * k * jnp.sum(x**2),
            like=jnp.zeros(2),
            prior=tj.gaussian_prior(1.0),
        ),
        step_size=0.2,
    )
    path = tj.Point(jnp.linspace(0.0, 2.0, 5), jnp.linspace(1.0, 3.0, 5))
    at = lambda i: jax.tree.map(lambda leaf: leaf[i], path)
    st = tj.init_ensemble(kernel, START, at(0), size=4, tile=4)
    end, led = tj.drive(kernel, KEY, st, path)
    now, legs = st, []
    for i in range(5):
        cycle = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], path)
        now, leg = tj.drive(kernel, KEY, now, cycle)
        legs.append(leg)
    equal(end, now)
    equal(led, jax.tree.map(lambda *leaves: np.concatenate(leaves), *legs))
    assert led.work.shape == (5, 4)
    assert int(end.step) == 5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ledger": "all"}, "ledger='all'"),
        ({"n_steps": -1}, "n_steps=-1"),
        ({"chunk": 0}, "chunk=0"),
        ({"every": 11}, "every=11"),
        ({"every": 0}, "every=0"),
        ({"accumulate": {"flags": tj.moments()}}, "flags"),
        ({"point": tj.Point(-0.5)}, r"beta=-0.5 must be >= 0"),
    ],
)
def test_unusable_settings_of_a_run_are_named(change, match):
    kernel = tj.mala(wells())
    st = tj.init_ensemble(kernel, START, POINT, size=4, tile=4)
    settings = {"point": POINT, "n_steps": 10} | change
    with pytest.raises(ValueError, match=match):
        tj.run(kernel, KEY, st, **settings)


def test_unusable_ensembles_are_named():
    kernel = tj.mala(wells())
    for size, tile in ((10, 4), (0, 1), (4, 0)):
        with pytest.raises(ValueError, match=f"size={size} must be a .*tile={tile}"):
            tj.init_ensemble(kernel, START, POINT, size=size, tile=tile)
    with pytest.raises(ValueError, match="beta=-1"):
        tj.init_ensemble(kernel, START, tj.Point(-1.0), size=4)
    with pytest.raises(tj.ShapeError, match=r"positions has shape \(3, 3\).*size=4"):
        tj.init_ensemble(kernel, START, POINT, size=4, positions=jnp.zeros((3, 3)))
    with pytest.raises(tj.ShapeError, match=r"leaf theta has shape \(2,\), expected \(3,\)"):
        tj.init_ensemble(kernel, START, POINT, size=4, positions=jnp.zeros((4, 2)))
    st = tj.init_ensemble(kernel, START, POINT, size=4)
    with pytest.raises(ValueError, match="leading time axis"):
        tj.drive(kernel, KEY, st, tj.Point(1.0))
    with pytest.raises(ValueError, match="leading time axis"):
        tj.drive(kernel, KEY, st, tj.Point(jnp.ones(3), jnp.ones(4)))
    with pytest.raises(ValueError, match="beta"):
        tj.drive(kernel, KEY, st, tj.Point(jnp.asarray([1.0, -1.0])))


def test_momenta_start_from_the_maxwell_law():
    kernel = tj.langevin(wells())
    st = tj.init_ensemble(kernel, START, POINT, size=20_000, tile=2000)
    r, x = (np.asarray(v, np.float64) for v in (st.walkers.momentum, st.position))
    check(r, 0.0)
    check(r**2, 1.0)
    check(x**2, 1.0)
    check(r * x, 0.0)
    caught((1.05 * r) ** 2, 1.0)


# --- other processes: two devices, and memory ---------------------------------------

TWO_DEVICES = """
import json
import jax, jax.numpy as jnp, numpy as np
from tests.test_ensembles import KEY, POINT, START, SUMS, kernel_of, tj

def differing(a, b):
    same = jax.tree.map(lambda x, y: bool(np.array_equal(np.asarray(x), np.asarray(y))), a, b)
    named = jax.tree_util.tree_leaves_with_path(same)
    return [jax.tree_util.keystr(path) for path, ok in named if not ok]

assert len(jax.devices()) == 2
mesh = jax.make_mesh((2,), ("ensemble",), axis_types=(jax.sharding.AxisType.Auto,))
path = tj.Point(jnp.linspace(0.5, 1.5, 7))
seen, U = {}, {"U": SUMS["U"]}
for name in ("mlp", "wells"):
    kernel = kernel_of(name)
    ends = []
    for where in (None, mesh):
        st = tj.init_ensemble(kernel, START, POINT, size=32, tile=8)
        end, out = tj.run(kernel, KEY, st, POINT, 20, accumulate=U, every=5, mesh=where)
        assert len(end.energy.sharding.device_set) == (1 if where is None else 2)
        ends.append(((end, out), tj.drive(kernel, KEY, st, path, mesh=where)))
    seen[name] = {"run": differing(ends[0][0], ends[1][0]),
                  "drive": differing(ends[0][1], ends[1][1])}
small = tj.init_ensemble(kernel, START, POINT, size=8, tile=8)
try:
    tj.run(kernel, KEY, small, POINT, 1, mesh=mesh)
except ValueError as error:
    seen["refusal"] = str(error)
print(json.dumps(seen))
"""

MEMORY = """
import json, resource, sys
import jax
from tests.test_ensembles import KEY, POINT, START, SUMS, tj, wells
kernel = tj.overdamped(wells(), "em", step_size=0.01)
st = tj.init_ensemble(kernel, START, POINT, size=4, tile=4)
st, out = tj.run(kernel, KEY, st, POINT, int(sys.argv[1]), accumulate=SUMS)
assert int(st.step) == int(out["U"].count[0]) == int(sys.argv[1])
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def elsewhere(program, *args, **environment):
    root = Path(__file__).parent.parent
    out = subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


@functools.cache
def on_two_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    return json.loads(elsewhere(TWO_DEVICES, XLA_FLAGS=flags.strip(), JAX_PLATFORMS="cpu"))


@pytest.mark.parametrize("what", ["run", "drive"])
def test_two_devices_give_the_bits_of_one(what):
    seen = on_two_devices()
    # a driven ledger's heat and its rounding may trade an ulp; nothing else may differ
    traded = ("heat", "rounding") if what == "drive" else ()
    for system in ("mlp", "wells"):
        assert [leaf for leaf in seen[system][what] if not leaf.endswith(traded)] == []
    assert "size=8 must be a multiple of tile * devices" in seen["refusal"]


def test_memory_does_not_grow_with_the_number_of_steps():
    few, many = (json.loads(elsewhere(MEMORY, str(n))) for n in (1_000, 1_000_000))
    assert many < 1.05 * few


def test_one_walker_is_right_on_average():
    """The ensemble average of U against quadrature, replicas as the error bar."""
    grid = np.linspace(-6, 6, 4001)
    weight = np.exp(-1.5 * (0.25 * grid**4 + 0.5 * grid**2) - 0.5 * grid**2)
    exact = 3 * np.sum((0.25 * grid**4 + 0.5 * grid**2) * weight) / np.sum(weight)
    kernel = tj.hmc(wells(), step_size=0.3, n_inner=4)
    st = tj.init_ensemble(kernel, START, POINT, size=1000, tile=250)
    st, _ = tj.run(kernel, KEY, st, POINT, n_steps=20)
    _, out = tj.run(kernel, KEY, st, POINT, n_steps=20, accumulate={"U": tj.moments()})
    check(out["U"].mean, exact)
    caught(out["U"].mean, 1.1 * exact)


def test_the_default_tile_follows_what_one_gradient_reads():
    """Many activations at once leave the cache of a CPU; those of a small batch do not."""
    rows = jnp.zeros((4000, 8))
    loss = lambda theta, control, row: 0.5 * jnp.sum((theta - row) ** 2)
    sys = tj.finite_sum(loss, rows, prior=tj.gaussian_prior(1.0), like=jnp.zeros(8))
    tiles = [
        tj.init_ensemble(kernel, START, tj.Point(1.0), size=48).tile
        for kernel in (tj.mala(sys), tj.sgld(sys), tj.sgld(sys, tj.minibatch(64)))
    ]
    assert tiles == [4, 24, 24]
