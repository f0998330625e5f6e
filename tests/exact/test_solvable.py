import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_cases import ALL, LEBESGUE, NORMALISED

import thermojax
from thermojax import exact
from thermojax.exact.solvable import finite, positive


def central(f, x, h):
    """First and second derivative, sixth order."""
    f = [f(x + k * h) for k in (-3, -2, -1, 0, 1, 2, 3)]
    first = np.dot((-1, 9, -45, 0, 45, -9, 1), f) / (60 * h)
    second = np.dot((2, -27, 270, -490, 270, -27, 2), f) / (180 * h**2)
    return first, second


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("beta", [0.7, 1.9])
def test_moments_are_derivatives_of_log_partition(name, beta):
    solved = ALL[name]()
    first, second = central(solved.log_partition, beta, 0.02)
    assert solved.internal_energy(beta) == pytest.approx(-first, rel=1e-6, abs=1e-8)
    assert solved.heat_capacity(beta) == pytest.approx(beta**2 * second, rel=2e-5, abs=1e-7)
    expected = beta * solved.internal_energy(beta) + solved.log_partition(beta)
    assert solved.entropy(beta) == pytest.approx(expected, rel=1e-13, abs=1e-12)


@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_priors_have_log_z_zero_at_beta_zero(name):
    solved = NORMALISED[name]()
    assert abs(solved.log_partition(0.0)) < 1e-10
    assert solved.heat_capacity(0.0) == 0
    entropies = solved.entropy(np.array([0.0, 0.3, 1.0]))
    assert np.all(np.diff(entropies) < 1e-10)  # -KL(p || m): zero, then falling


@pytest.mark.parametrize("name", LEBESGUE)
def test_lebesgue_measure_is_improper_at_beta_zero(name):
    with pytest.raises(thermojax.ImproperEnsembleError, match="proper only for"):
        LEBESGUE[name]().log_partition(0.0)


@pytest.mark.parametrize("beta", [-0.1, np.nan, np.inf])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match="beta must be finite and not negative"):
        exact.tanh_network().log_partition(beta)
    with pytest.raises(ValueError, match="beta must be finite and not negative"):
        exact.double_well().entropy([1.0, beta])


def test_beta_arrays_keep_their_shape():
    solved = exact.double_well()
    betas = np.array([[0.5, 1.0], [2.0, 4.0]])
    for method in ("log_partition", "internal_energy", "entropy", "heat_capacity"):
        table = getattr(solved, method)(betas)
        assert table.shape == betas.shape
        assert table.dtype == np.float64
        assert table[1, 0] == getattr(solved, method)(2.0)
    assert solved.log_partition(jnp.ones(3)).shape == (3,)
    assert solved.log_partition([]).shape == (0,)
    assert np.ndim(solved.log_partition(1)) == 0


def _draw(solved, key):
    system = solved.system
    measure = system.prior if system.reference is None else system.reference
    return measure.sample(key)


@pytest.mark.parametrize("name", ALL)
def test_energy_works_under_jit_vmap_and_grad(name):
    solved = ALL[name]()
    system = solved.system

    @jax.jit
    @jax.vmap
    def evaluate(key):
        theta = _draw(solved, key)
        return theta, *jax.value_and_grad(system.energy)(theta)

    thetas, energies, slopes = evaluate(jax.random.split(jax.random.key(0), 5))
    assert energies.shape == (5,)
    assert energies.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, slopes) == jax.tree.map(jnp.shape, thetas)
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((energies, slopes))]
    assert all(map(bool, finite))
    assert system.template.size == solved.dim


@pytest.mark.parametrize("name", ALL)
def test_energy_keeps_the_dtype_of_theta(name):
    with jax.enable_x64(True):
        solved = ALL[name]()
        theta = jax.eval_shape(lambda k: _draw(solved, k), jax.random.key(1))
        for dtype in (jnp.float32, jnp.float64):
            like = jax.tree.map(lambda x, d=dtype: jax.ShapeDtypeStruct(x.shape, d), theta)
            assert jax.eval_shape(solved.system.energy, like).dtype == dtype
            if solved.system.reference is not None:
                measure = solved.system.reference.log_density
                assert jax.eval_shape(measure, like).dtype == dtype


@pytest.mark.parametrize("name", NORMALISED)
def test_importance_sampling_from_the_prior(name):
    """log Z, <U> at a mild beta agree with draws from the prior: |z| < 5."""
    solved, beta, size = NORMALISED[name](), 0.05, 40_000
    keys = jax.random.split(jax.random.key(3), size)

    def energy(key):
        return solved.system.energy(solved.system.sample_base(key))

    energies = np.asarray(jax.jit(jax.vmap(energy))(keys), np.float64)
    weights = np.exp(-beta * energies)
    z = np.exp(solved.log_partition(beta))
    assert abs(weights.mean() - z) < 5 * weights.std() / np.sqrt(size)
    centred = weights * (energies - solved.internal_energy(beta))
    assert abs(centred.mean()) < 5 * centred.std() / np.sqrt(size)
    # power: an energy 5 % too high is seen
    wrong = weights * (energies - 1.05 * solved.internal_energy(beta))
    assert abs(wrong.mean()) > 2 * wrong.std() / np.sqrt(size)


def test_rebuilt_systems_share_their_compiled_energy():
    traces = []

    @jax.jit
    def energy(system, theta):
        traces.append(1)
        return system.energy(theta)

    energy(exact.double_well(1.0, 2.0).system, 0.3)
    energy(exact.double_well(3.0, 0.5, 1.0).system, 0.3)
    assert len(traces) == 1


def test_validators_name_the_argument():
    with pytest.raises(ValueError, match=r"width must be positive and finite, got 0"):
        positive("width", 0)
    with pytest.raises(ValueError, match="slope must be finite"):
        finite("slope", np.inf)
