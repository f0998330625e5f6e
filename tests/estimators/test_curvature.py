"""Laplacians by every method against the trace of the whole Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scores import check
from thermojax import Flag
from thermojax.estimators.curvature import Trace, entries, laplacian

X = np.linspace(-1.0, 1.5, 7)


def outputs(q):
    return jnp.tanh(X[:, None] * q["w"] + q["b"]) @ q["v"]


def squares(z):
    return 0.5 * jnp.sum((z - X.astype(z.dtype) ** 2) ** 2)


def loss(q):
    return squares(outputs(q))


def traced(fn, q, **options):
    return jax.jit(lambda q: laplacian(fn, q, **options))(q)


def params(dtype=float):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=3), dtype) for name in ("b", "v", "w")}


def dense(fn, q):
    x, build = entries(q)
    return jax.hessian(lambda x: fn(build(x)))(x)


def quadratic(hessian):
    return lambda q: 0.5 * q @ hessian @ q + jnp.sum(q)


def spectrum(values, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))[0]
    return jnp.asarray(basis @ np.diag(values) @ basis.T)


def test_exact_is_the_trace_of_the_hessian(x64):
    found = jax.jit(lambda q: laplacian(loss, q, method="exact"))(params())
    np.testing.assert_allclose(found.value, jnp.trace(dense(loss, params())), rtol=1e-12)
    assert (found.n_entries, found.n_eff, found.stderr, found.flags) == (9, 9, 0, 0)
    assert found.trusted
    assert found.reasons == []
    np.testing.assert_allclose(np.asarray(found), found.value)


def test_float32_in_float32_out():
    q = params(np.float32)
    found = traced(loss, q, method="exact")
    assert all(x.dtype == jnp.float32 for x in (found.value, found.stderr, found.n_eff))
    with jax.enable_x64(True):
        exact = traced(loss, jax.tree.map(lambda x: x.astype(float), q), method="exact")
    np.testing.assert_allclose(found.value, exact.value, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_masked_entries_contribute_nothing(x64, seed):
    hessian = spectrum(np.arange(1.0, 7.0), seed)
    mask = np.random.default_rng(seed).random(6) < 0.5
    support = {"a": mask[:2].reshape(2, 1), "b": mask[2:]}
    q = {"a": jnp.ones((2, 1)), "b": jnp.zeros(4)}
    fn = lambda q: quadratic(hessian)(jnp.concatenate([q["a"][:, 0], q["b"]]))
    found = traced(fn, q, method="exact", support=support)
    np.testing.assert_allclose(found.value, jnp.sum(jnp.diag(hessian)[mask]), rtol=1e-12)
    assert found.n_entries == mask.sum()


def test_masks_broadcast_and_random_probes_keep_to_them(x64):
    hessian = jnp.diag(jnp.arange(1.0, 7.0)) + 0.1
    q = (jnp.ones((3, 2)),)
    fn = lambda q: quadratic(hessian)(q[0].ravel())
    support = (np.array([[True], [False], [True]]),)
    for method in ("hutchinson", "hutch++"):
        found = traced(fn, q, method=method, key=jax.random.key(1), support=support)
        assert found.n_entries == 4
        assert abs(found.value - (1 + 2 + 5 + 6 + 0.4)) < 5 * found.stderr + 1e-12
    empty = traced(fn, q, method="exact", support=(np.zeros((1, 1), bool),))
    assert (empty.value, empty.n_entries) == (0, 0)


@pytest.fixture(scope="module")
def repeats():
    """600 estimates by both random methods of a decaying spectrum, eight probes each."""
    with jax.enable_x64(True):
        hessian = spectrum(2.0 ** -np.arange(12.0) * 8)
        keys = jax.random.split(jax.random.key(2), 600)

        def by(method):
            one = lambda key: laplacian(
                quadratic(hessian), jnp.ones(12), method=method, probes=8, key=key
            )
            return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))

        return np.asarray(hessian), {m: by(m) for m in ("hutchinson", "hutch++")}


def test_random_probes_are_unbiased(repeats):
    hessian, found = repeats
    for each in found.values():
        check(each.value, np.trace(hessian))


def test_the_error_bar_of_hutchinson_is_its_law(repeats):
    hessian, found = repeats
    off = np.sum(hessian**2) - np.sum(np.diag(hessian) ** 2)
    exact = np.sqrt(2 * off / 8)
    # the spread of 600 values is known to 3 %
    np.testing.assert_allclose(found["hutchinson"].value.std(), exact, rtol=0.12)
    inside = np.abs(found["hutchinson"].value - np.trace(hessian)) < found["hutchinson"].stderr
    assert 0.60 < inside.mean() < 0.76
    assert (found["hutchinson"].n_eff == 8).all()


def test_a_sketch_pays_on_a_decaying_spectrum(repeats):
    _, found = repeats
    assert found["hutch++"].value.std() < 0.75 * found["hutchinson"].value.std()


def test_a_sketch_wider_than_the_rank_is_exact(x64):
    hessian = spectrum([3.0, -2.0, 0.5, *[0.0] * 7])
    fn = quadratic(hessian)
    for probes, exact in ((9, True), (6, False)):
        found = traced(fn, jnp.ones(10), method="hutchpp", probes=probes, key=jax.random.key(3))
        assert (abs(found.value - 1.5) < 1e-12) == exact
        assert (found.stderr < 1e-12) == exact
    # more sketches than entries
    found = traced(fn, jnp.ones(10), method="hutch++", probes=33, key=jax.random.key(3))
    np.testing.assert_allclose(found.value, 1.5, atol=1e-12)


def test_one_probe_knows_no_error():
    fn = quadratic(jnp.ones((3, 3)))
    found = traced(fn, jnp.ones(3), probes=1, key=jax.random.key(0))
    assert found.stderr == np.inf


def test_gauss_newton_drops_the_curvature_of_the_outputs(x64):
    q, key = params(), jax.random.key(4)
    jacobian = dense_jacobian(q)
    found = traced((outputs, squares), q, method="gauss_newton", probes=400, key=key)
    check(found.value, np.sum(jacobian**2), found.stderr)
    whole = traced((outputs, squares), q, method="exact")
    np.testing.assert_allclose(whole.value, traced(loss, q, method="exact").value)
    assert abs(whole.value - np.sum(jacobian**2)) > 10 * found.stderr


def dense_jacobian(q):
    x, build = entries(q)
    return np.asarray(jax.jacobian(lambda x: outputs(build(x)))(x))


def test_smoothed_sees_kinks_and_others_say_so(x64):
    """A mean of |q - a| over a grid of a has no curvature but at its kinks: 2 per unit."""
    grid = jnp.linspace(-1.0, 1.0, 2001)
    fn = lambda q: jnp.sum(jnp.mean(jnp.abs(q[:, None] - grid), axis=1))
    q = jnp.array([0.1003, -0.2507])
    seen = traced(fn, q, method="smoothed", width=0.1)
    np.testing.assert_allclose(seen.value, 2.0, rtol=0.01)
    assert (seen.stderr, seen.n_eff, seen.flags) == (0, 2, 0)
    probed = traced(fn, q, method="smoothed", width=0.1, key=jax.random.key(0), probes=4)
    np.testing.assert_allclose(probed.value, 2.0, rtol=0.01)
    for method in ("exact", "hutchinson", "hutch++"):
        blind = traced(fn, q, method=method, key=jax.random.key(0), width=0.1)
        assert (blind.value, blind.flags) == (0, Flag.KINKED)


def test_a_smooth_function_raises_no_flag(x64):
    widths = {"b": 1e-3, "v": jnp.full(3, 1e-2), "w": 1e-3}
    for method in ("exact", "hutchinson", "hutch++"):
        found = traced(loss, params(), method=method, key=jax.random.key(5), width=widths)
        assert found.flags == 0
    seen = traced(loss, params(), method="smoothed", width=widths)
    exact = traced(loss, params(), method="exact")
    np.testing.assert_allclose(seen.value, exact.value, rtol=1e-5)


@pytest.mark.parametrize("method", ["exact", "hutch++"])
def test_vmap_and_jit_give_the_numbers_of_a_loop(x64, method):
    scales = jnp.array([0.5, 2.0])
    at = lambda s: jax.tree.map(lambda x: s * x, params())
    one = lambda s: laplacian(loss, at(s), method=method, key=jax.random.key(6), probes=6)
    together = jax.jit(jax.vmap(one))(scales)
    each = [one(s).value for s in scales]
    np.testing.assert_allclose(together.value, each, rtol=1e-10)


@pytest.mark.parametrize("method", ["exact", "hutchinson", "hutch++"])
def test_gradient_of_a_laplacian(x64, method):
    """Of sum c q^4 / 12 it is c q^2 summed, whatever the method: its Hessian is diagonal."""
    q = jnp.array([0.5, -1.0, 2.0])

    def at(q, c):
        fn = lambda q: c * jnp.sum(q**4) / 12
        return laplacian(fn, q, method=method, key=jax.random.key(7), probes=9).value

    slope, by_scale = jax.jit(jax.grad(at, (0, 1)))(q, 3.0)
    np.testing.assert_allclose(slope, 6 * q, rtol=1e-9)
    np.testing.assert_allclose(by_scale, jnp.sum(q**2), rtol=1e-9)


def test_overflow_is_flagged():
    found = traced(lambda q: jnp.sum(jnp.exp(q)), jnp.array([200.0]), method="exact")
    assert isinstance(found, Trace)
    assert found.flags == Flag.NONFINITE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "trace"}, "unknown"),
        ({}, "give key="),
        ({"method": "gauss_newton", "key": 0}, "params -> z"),
        ({"method": "smoothed"}, "width="),
        ({"method": "exact", "width": 0.0}, "positive"),
        ({"method": "hutch++", "key": 0, "probes": 2}, "too few"),
        ({"method": "exact", "support": {"a": True}}, "structure"),
    ],
)
def test_refusals(options, message):
    if "key" in options:
        options = options | {"key": jax.random.key(options["key"])}
    with pytest.raises(ValueError, match=message):
        laplacian(lambda q: jnp.sum(q**2), jnp.ones(2), **options)


def test_a_traced_support_is_refused():
    fn = lambda mask: laplacian(jnp.sum, jnp.ones(2), method="exact", support=mask).value
    with pytest.raises(ValueError, match="traced"):
        jax.jit(fn)(jnp.ones(2, bool))
