"""The ledger of every kernel: first law, work of the control, heat of the bath."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from tests.scores import EXACT, ULPS, caught, check, ulp
from thermojax.accumulators import compensated_add
from thermojax.dynamics.kernel import add_move, balance, no_moves, zero_ledger

KERNELS = {
    "em": lambda s, **o: tj.overdamped(s, "em", **o),
    "lm": lambda s, **o: tj.overdamped(s, "lm", **o),
    "mala": tj.mala,
    "hmc": lambda s, **o: tj.hmc(s, n_inner=3, **o),
    "ghmc": tj.ghmc,
    "BAOAB": lambda s, **o: tj.langevin(s, "BAOAB", **o),
    "ABOBA": lambda s, **o: tj.langevin(s, "ABOBA", **o),
    "OBABO": lambda s, **o: tj.langevin(s, "OBABO", **o),
    "OABAO": lambda s, **o: tj.langevin(s, "OABAO", **o),
    "BAOA": lambda s, **o: tj.langevin(s, "BAOA", **o),
    "BAOAB metropolised": lambda s, **o: tj.langevin(s, "BAOAB", True, **o),
}
SIZE, LONG = 8, 10_000


def energy(theta, control, data):
    x, y = theta["x"], theta["y"]
    ripple = jnp.cos(2 * x + control["phase"]).sum()
    return control["k"] * (
        0.5 * (x @ x) + jnp.sum((y - x[:2]) ** 2) + ripple + control["offset"]
    )


def theta_like(dtype=jnp.float32):
    return {"x": jnp.zeros(3, dtype), "y": jnp.zeros((2, 2), dtype)}


def system(dtype=jnp.float32):
    like = theta_like(dtype)
    return tj.system(energy, prior=tj.gaussian_prior(2.0, like=like))


def control(k, phase, offset=0.0):
    return {
        name: jnp.float32(v)
        for name, v in zip(("k", "phase", "offset"), (k, phase, offset), strict=True)
    }


def random_path(n, offset=0.0, seed=0):
    """beta (also through zero) and control wander; every third point repeats the last."""
    rng = np.random.default_rng(seed)
    walk = lambda lo, hi: rng.uniform(lo, hi, n)
    beta, k, phase = np.abs(walk(-0.3, 2.0)), walk(0.5, 2.0), walk(-3.0, 3.0)
    beta[::7] = 0.0
    for v in (beta, k, phase):
        v[2::3] = v[1::3][: len(v[2::3])]
    return tj.Point(jnp.float32(beta), control(k, phase, np.full(n, offset)))


def at(path, i):
    return jax.tree.map(lambda leaf: leaf[i], path)


def total_energies(walkers):
    """E = U + kin / beta and u = beta U - log m + kin, as the ledger counts them."""
    leaves = jax.tree.leaves(walkers.momentum)
    squares = [np.sum(np.asarray(r) ** 2, axis=tuple(range(1, r.ndim))) for r in leaves]
    kinetic = 0.5 * np.sum(np.asarray(squares, np.float64), axis=0) if leaves else 0.0
    u, beta = np.asarray(walkers.energy, np.float64), np.asarray(walkers.beta, np.float64)
    energy_part = np.where(beta > 0, kinetic / np.where(beta > 0, beta, 1.0), 0.0)
    return u + energy_part, beta * u - np.asarray(walkers.log_base, np.float64) + kinetic


@pytest.mark.parametrize("name", KERNELS)
def test_first_law_of_ten_thousand_driven_steps(name):
    """E_n - E_0 = sum W + sum Q and u_n - u_0 = sum of nats, to 4 ulp of the largest."""
    kernel = KERNELS[name](system(), step_size=jnp.float32(0.1))
    path = random_path(LONG)
    st = tj.init_ensemble(kernel, jax.random.key(0), at(path, 0), size=SIZE, tile=SIZE)
    end, led = tj.drive(kernel, jax.random.key(1), st, path)
    led = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), led)
    (e0, u0), (e1, u1) = total_energies(st.walkers), total_energies(end.walkers)
    assert np.all(np.isfinite(e1))
    moves = led.work + led.heat
    limit = ULPS * ulp(e0 + np.cumsum(moves, axis=0))
    lacking = e1 - e0 - (moves + led.energy_rounding).sum(0)
    np.testing.assert_allclose(lacking, 0.0, atol=limit, err_msg="energy")
    moves = led.protocol + led.shadow + led.bath
    limit = ULPS * ulp(u0 + np.cumsum(moves, axis=0))
    lacking = u1 - u0 - (moves + led.nats_rounding).sum(0)
    np.testing.assert_allclose(lacking, 0.0, atol=limit, err_msg="nats")
    # the exchanges themselves are no trifle
    for part in (led.work, led.heat, led.protocol, led.bath):
        assert np.all(np.abs(part).sum(0) > 1e3 * limit)
    # work only where the control moved; w = d beta * U where only beta moved
    moved = [np.diff(np.asarray(leaf)) != 0 for leaf in jax.tree.leaves(path)]
    rest = ~np.any(moved, axis=0)
    assert rest.sum() > 1000
    # (a control that stays is evaluated again, compiled apart: equal to rounding)
    resolution = ULPS * ulp(e0 + np.cumsum(led.work + led.heat, axis=0))
    np.testing.assert_allclose(led.work[1:][rest], 0.0, atol=resolution)
    np.testing.assert_allclose(led.protocol[1:][rest], 0.0, atol=2 * resolution)


@pytest.mark.parametrize("name", ["em", "lm", "hmc", "ghmc", "BAOAB", "OBABO"])
def test_first_law_of_a_long_run(name):
    kernel = KERNELS[name](system(), step_size=jnp.float32(0.1))
    for offset in (0.0, 300.0):
        point = tj.Point(jnp.float32(1.3), control(1.0, 0.3, offset))
        st = tj.init_ensemble(kernel, jax.random.key(0), point, size=SIZE, tile=SIZE)
        end, out = tj.run(kernel, jax.random.key(1), st, point, LONG, ledger="full")
        led = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), out["ledger"])
        (e0, u0), (e1, u1) = total_energies(st.walkers), total_energies(end.walkers)
        limit = ULPS * ulp([e0, e1])
        np.testing.assert_allclose(e1 - e0 - led.heat, 0.0, atol=limit, err_msg="energy")
        # each total is rounded once when it is read, so its own ulp is the resolution
        limit = ULPS * ulp([u0, u1, led.shadow, led.bath])
        lacking = u1 - u0 - led.shadow - led.bath
        np.testing.assert_allclose(lacking, 0.0, atol=limit, err_msg="nats")
        np.testing.assert_array_equal(led.work, 0.0)
        np.testing.assert_array_equal(led.protocol, 0.0)
        if kernel.meta.exact:
            np.testing.assert_array_equal(led.shadow, 0.0)
        else:
            assert np.all(led.shadow != 0)


def test_heat_of_control_and_bath_are_added_without_loss():
    """A move of beta rescales kin / beta just before the bath's own heat: small energies."""
    well = tj.system(
        lambda x, k: 0.5 * k * jnp.sum(x**2), prior=tj.gaussian_prior(1.0), like=jnp.zeros(3)
    )
    kernel = tj.langevin(well, "BAOAB", step_size=0.3)
    rng = np.random.default_rng(0)
    path = tj.Point(*jnp.float32(rng.uniform(0.5, 2.0, (2, LONG))))
    st = tj.init_ensemble(kernel, jax.random.key(0), at(path, 0), size=SIZE, tile=SIZE)
    end, led = tj.drive(kernel, jax.random.key(1), st, path)
    led = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), led)
    (e0, _), (e1, _) = total_energies(st.walkers), total_energies(end.walkers)
    moves = led.work + led.heat
    limit = ULPS * ulp(e0 + np.cumsum(moves, axis=0))
    lacking = e1 - e0 - (moves + led.energy_rounding).sum(0)
    np.testing.assert_allclose(lacking, 0.0, atol=limit)


def test_the_first_law_sees_a_lost_joule():
    """Power: one move left out, or the roundings forgotten, breaks the balance."""
    kernel = KERNELS["em"](system(), step_size=jnp.float32(0.1))
    path = random_path(LONG, 300.0)
    st = tj.init_ensemble(kernel, jax.random.key(0), at(path, 0), size=SIZE, tile=SIZE)
    end, led = tj.drive(kernel, jax.random.key(1), st, path)
    (e0, u0), (e1, u1) = total_energies(st.walkers), total_energies(end.walkers)
    led = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), led)
    energy_moves, nats = led.work + led.heat, led.protocol + led.shadow + led.bath
    limit = ULPS * ulp(1000.0)
    assert np.all(np.abs(e1 - e0 - energy_moves[1:].sum(0)) > limit)
    assert np.all(np.abs(u1 - u0 - nats[1:].sum(0)) > limit)
    assert np.any(np.abs(u1 - u0 - nats.sum(0)) > limit)


@pytest.mark.parametrize("name", ["mala", "ghmc"])
def test_a_rejected_move_takes_no_heat(name):
    kernel = KERNELS[name](system(), step_size=jnp.float32(0.3 if name == "mala" else 0.75))
    point = tj.Point(jnp.float32(0.3), control(3.0, 0.3))
    st = tj.init_ensemble(kernel, jax.random.key(0), point, size=256, tile=256)
    keys = jax.random.split(jax.random.key(1), 256)
    step = jax.jit(jax.vmap(lambda k, s: kernel.step(k, s, point, kernel.params)))
    new, info = step(keys, st.walkers)
    rejected = ~np.asarray(info.accepted)
    assert 0.02 < rejected.mean() < 0.98
    old_x, new_x = np.asarray(st.walkers.position["x"]), np.asarray(new.position["x"])
    np.testing.assert_array_equal(new_x[rejected], old_x[rejected])
    assert np.all(np.any(new_x[~rejected] != old_x[~rejected], axis=1))
    np.testing.assert_array_equal(
        np.asarray(new.energy)[rejected], np.asarray(st.walkers.energy)[rejected]
    )
    if not kernel.meta.momentum:
        np.testing.assert_array_equal(np.asarray(info.ledger.heat)[rejected], 0.0)
        np.testing.assert_array_equal(np.asarray(info.ledger.bath)[rejected], 0.0)
    np.testing.assert_array_equal(np.asarray(info.ledger.work), 0.0)


def test_rejected_ghmc_flips_the_momentum_it_tried():
    """A test that always fails: r' = -(c r + s xi), never + (which would not be exact)."""
    wall = tj.system(lambda x: jnp.where(x == 0.25, 0.0, jnp.inf), like=0.0)
    kernel = tj.ghmc(wall, step_size=0.1, friction=2.0)
    state = kernel.init(0.25, tj.Point(1.0))._replace(momentum=jnp.float32(1.7))
    state = state._replace(energy_grad=jnp.zeros(()))
    new, info = jax.jit(kernel.step)(jax.random.key(0), state, tj.Point(1.0), kernel.params)
    assert not bool(info.accepted)
    assert float(new.position) == 0.25
    free = tj.ghmc(tj.system(lambda x: 0.0 * x, like=0.0), step_size=0.1, friction=2.0)
    there, info = jax.jit(free.step)(jax.random.key(0), state, tj.Point(1.0), free.params)
    assert bool(info.accepted)
    np.testing.assert_allclose(new.momentum, -there.momentum, rtol=1e-6)


def test_beta_alone_does_the_work_of_the_energy():
    """w = d beta * U exactly, and not a single energy is evaluated."""
    calls = []

    def counted(theta, control, data):
        calls.append(1)
        return jnp.sum(theta**2) + 5.0

    kernel = tj.mala(tj.system(counted, prior=tj.gaussian_prior(1.0), like=jnp.zeros(3)))
    state = kernel.init(jnp.asarray([1.0, 0.5, -2.0]), tj.Point(0.5))
    before = len(calls)
    state, led = jax.jit(kernel.drive)(state, tj.Point(2.0))
    assert len(calls) == before
    assert float(led.protocol) == 1.5 * float(state.energy)
    assert float(led.work) == 0.0
    assert float(led.shadow) == float(led.bath) == 0.0


@pytest.mark.parametrize("name", KERNELS)
def test_driving_equals_a_fresh_start_bit_for_bit(name):
    """A cached gradient never survives a move of the control."""
    kernel = KERNELS[name](system())
    old = tj.Point(jnp.float32(0.7), control(1.0, 0.3))
    new = tj.Point(jnp.float32(1.1), control(2.5, -1.0))
    rng = np.random.default_rng(0)
    theta = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), theta_like()
    )
    key = jax.random.key(3)
    start, fresh = kernel.init(theta, old, key), kernel.init(theta, new, key)
    driven, led = kernel.drive(start, new)
    skip = {"midpoint": ()}
    jax.tree.map(np.testing.assert_array_equal, driven._replace(**skip), fresh._replace(**skip))
    np.testing.assert_array_equal(led.work, fresh.energy - start.energy)
    if kernel.meta.name.endswith("B"):  # the planted bug: yesterday's gradient
        stale = driven._replace(energy_grad=start.energy_grad)
        assert np.any(np.asarray(stale.energy_grad["x"]) != fresh.energy_grad["x"])


def test_a_stale_gradient_would_break_exactness():
    """One MALA step after a jump of the stiffness, started from the law it must keep."""
    n, k0, k1 = 200_000, 4.0, 1.0
    kernel = tj.mala(tj.system(lambda x, k: 0.5 * k * x * x, like=0.0), step_size=0.5)
    x = jax.random.normal(jax.random.key(0), (n,), jnp.float32)

    def after(stale):
        def one(key, x):
            old = kernel.init(x, tj.Point(1.0, k0))
            new, _ = kernel.drive(old, tj.Point(1.0, k1))
            if stale:
                new = new._replace(energy_grad=old.energy_grad)
            return kernel.step(key, new, tj.Point(1.0, k1), kernel.params)[0].position

        return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), n), x)

    check(np.asarray(after(False)) ** 2, 1 / k1)
    caught(np.asarray(after(True)) ** 2, 1 / k1)


def test_balance_returns_what_rounding_lost(x64):
    rng = np.random.default_rng(0)
    a, b, c = (np.float32(v) for v in rng.normal(size=3) * [1e5, 1e5, 1.0])
    left = float(balance(jnp.float32(a), jnp.float32(b), jnp.float32(a - b), jnp.float32(c)))
    true = (np.float64(a) - np.float64(b)) - np.float64(np.float32(a - b)) - np.float64(c)
    np.testing.assert_allclose(left, true, rtol=1e-6)


def test_ledger_sums_keep_small_terms_and_fold_the_roundings_in():
    move = zero_ledger(jnp.float32)._replace(
        work=jnp.float32(0.1), heat=jnp.float32(0.1), energy_rounding=jnp.float32(1e-9)
    )
    add = lambda total, _: (add_move(total, move), None)
    total, _ = jax.jit(lambda t: jax.lax.scan(add, t, None, length=100_000))(
        no_moves(jnp.float32)
    )
    exact_tenth = float(np.float32(0.1)) * 1e5
    np.testing.assert_allclose(float(total.work.value), exact_tenth, rtol=1e-7)
    np.testing.assert_allclose(float(total.heat.value), exact_tenth + 1e-4, rtol=1e-7)
    again = compensated_add(total.work, -total.work.value)
    assert abs(float(again.value)) < EXACT + float(ulp(1e4))


def test_meta_tells_the_facts():
    s = system()
    facts = {name: KERNELS[name](s).meta for name in KERNELS}
    assert [facts[n].order for n in ("em", "lm", "BAOAB", "BAOA", "mala")] == [1, 2, 2, 1, 0]
    exact = {n for n, meta in facts.items() if meta.exact}
    assert exact == {"mala", "hmc", "ghmc", "BAOAB metropolised"}
    momentum = {n for n, meta in facts.items() if not meta.momentum}
    assert momentum == {"em", "lm", "mala", "hmc"}
    assert not facts["BAOA"].reversible
    assert facts["BAOAB"].reversible
    assert {n: m.gradients_per_step for n, m in facts.items() if m.gradients_per_step != 1} == {
        "hmc": 3
    }
