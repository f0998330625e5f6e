"""Ensembles whose partition function diverges are refused, the leaf named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermojax as tj
from thermojax.priors import Template

KEY = jax.random.key(0)
X = jnp.asarray([-1.0, 0.5, 1.5])
Y = jnp.asarray([-0.5, 0.4, 0.6])


def look(sys, beta, like):
    """The check, for a system whose measure does not know the shape of theta."""
    tj.check_normalizable(sys, tj.Point(beta), KEY, template=Template.of(like))


def network(activation):
    def energy(theta):
        f = jnp.tanh if activation == "tanh" else jax.nn.relu
        hidden = f(jnp.outer(theta["w"], X))
        return jnp.sum((theta["a"] @ hidden - Y) ** 2) / (2 * 0.3**2)

    return energy


def like(width=2):
    return {"a": jnp.zeros(width), "w": jnp.zeros(width)}


def test_a_tanh_network_without_prior_is_flat_in_its_input_weights():
    with pytest.raises(tj.ImproperEnsembleError, match=r"beta=1.*leaf \['w'\] grows"):
        look(tj.system(network("tanh")), 1.0, like())
    proper = tj.system(network("tanh"), prior=tj.gaussian_prior(1.0), like=like())
    tj.check_normalizable(proper, tj.Point(1.0), KEY)


def test_half_a_prior_does_not_help():
    """A prior on the output weights alone leaves the input weights free."""

    def energy(theta):
        return network("tanh")(theta) + 0.5 * jnp.sum(theta["a"] ** 2)

    with pytest.raises(tj.ImproperEnsembleError, match=r"\['w'\]"):
        look(tj.system(energy), 1.0, like())


def test_a_relu_network_without_prior_has_a_scale_orbit():
    """a -> s a, w -> w / s changes nothing: Z holds the integral of ds / s."""
    match = r"leaf \['[aw]'\] with leaf \['[aw]'\] shrinking"
    # one active unit: growing either weight alone costs energy, the orbit does not
    energy = lambda theta: jnp.sum((theta["a"] * theta["w"] * X - Y) ** 2)
    with pytest.raises(tj.ImproperEnsembleError, match=match):
        look(tj.system(energy), 1.0, {"a": jnp.zeros(()), "w": jnp.zeros(())})
    relu = tj.system(network("relu"))
    with pytest.raises(tj.ImproperEnsembleError, match=r"\['[aw]'\]"):
        look(relu, 1.0, like())
    proper = relu.replace(prior=tj.gaussian_prior(1.0, like=like()))
    tj.check_normalizable(proper, tj.Point(1.0), KEY)


@pytest.mark.parametrize(
    ("beta", "proper"), [(0.2, False), (0.38, False), (0.5, True), (1.0, True)]
)
def test_student_potential_is_proper_above_its_critical_beta(beta, proper):
    """((nu + d)/2) ln(1 + |x|^2 / nu), nu = 3, d = 2: proper iff beta > d/(nu + d) = 0.4."""
    sys = tj.system(lambda x: 2.5 * jnp.log1p(x @ x / 3))
    if proper:
        look(sys, beta, jnp.zeros(2))
    else:
        with pytest.raises(tj.ImproperEnsembleError, match=f"beta={beta:g}"):
            look(sys, beta, jnp.zeros(2))


def test_separable_classes_let_the_weights_run_away():
    t = jnp.sign(X)
    sys = tj.system(lambda w: jnp.sum(jax.nn.softplus(-t * w * X)))
    with pytest.raises(tj.ImproperEnsembleError, match="theta"):
        look(sys, 1.0, jnp.zeros(()))


def test_lebesgue_measure_at_infinite_temperature_is_improper():
    sys = tj.system(lambda x: 0.5 * x @ x)
    look(sys, 1e-3, jnp.zeros(3))
    with pytest.raises(tj.ImproperEnsembleError, match="beta=0"):
        look(sys, 0.0, jnp.zeros(3))
    known = sys.replace(prior=tj.gaussian_prior(1.0, like=jnp.zeros(3)))
    tj.check_normalizable(known, tj.Point(0.0), KEY)


def test_steep_walls_are_no_divergence():
    look(tj.system(lambda x: jnp.sum(x**8)), 1.0, jnp.zeros(2))


def test_an_unknown_shape_is_asked_for():
    with pytest.raises(tj.ShapeError, match="like=theta"):
        tj.check_normalizable(tj.system(lambda x: x @ x), tj.Point(1.0), KEY)


def test_log_partition_refuses_improper_systems():
    """Before any sampling, and by the name of the leaf."""
    bare = tj.system(network("tanh"), like=like())
    with pytest.raises(tj.ImproperEnsembleError):
        tj.log_partition(bare, tj.Point(1.0), KEY)
    flat = tj.prior(
        lambda theta, control, params: jnp.zeros(()),
        lambda key, control, params: jax.random.normal(key, (2,)),
        like=jnp.zeros(2),
        log_mass=None,
    )
    slow = tj.system(lambda x: 2.5 * jnp.log1p(x @ x / 3), prior=flat)
    with pytest.raises(tj.ImproperEnsembleError):
        tj.log_partition(slow, tj.Point(0.3), KEY)


def test_the_message_says_what_to_do():
    with pytest.raises(tj.ImproperEnsembleError) as caught:
        look(tj.system(network("tanh")), 1.0, like())
    assert "prior=tj.gaussian_prior" in str(caught.value)
    assert np.size(str(caught.value).splitlines()) == 1
