# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # At what temperature is your optimiser running?
#
# Seeds fixed throughout; about a minute on two CPU cores.
#
# Minibatch noise shakes the parameters as a heat bath does. How hot the bath is depends on
# the learning rate, the batch and the optimiser, and nobody sets it: it has to be measured.
# thermojax runs any optax transform as a bath and holds thermometers into it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn

import thermojax as tj
from thermojax.datasets import load

# %% [markdown]
# ## A network on digits
#
# 500 handwritten digits of 4×4 pixels and a network of 280 parameters. U is the cross
# entropy summed over the examples, with the weight decay in it: without decay the weights
# would grow for ever, and what is not stationary has no temperature.

# %%
digits = load("digits", image_side=4, examples=500)
data = jnp.asarray(digits.inputs), jnp.asarray(digits.targets)
N, DECAY = len(digits.targets), 0.02
network = nn.Sequential([nn.Dense(10), nn.tanh, nn.Dense(10)])


def decay(theta, control):
    return 0.5 * DECAY * N * optax.tree_utils.tree_norm(theta, squared=True)


system = tj.from_flax(
    network, tj.softmax_loss, data, prior=tj.gaussian_prior(1.0), remainder=decay
)
point = tj.Point(beta=1.0)
print(system)

# %% [markdown]
# ## First: has it settled?
#
# In a stationary state, at any step size and for any loss, SGD obeys
# ⟨(θ−c)·g⟩ = (h/2)⟨|g|²⟩, and momentum ⟨(θ−c)·g⟩ = (1+μ)/(2h) ⟨|θ′−θ|²⟩, with h the learning
# rate divided by N. The ratio of the two sides is a test of burn-in, and no thermometer:
# where it is not 1 the optimiser is still on its way.

# %%
RATE = 0.2
settling = {
    "SGD": (optax.sgd(RATE), RATE, 0.0),
    "momentum 0.9": (optax.sgd(RATE / 10, momentum=0.9), RATE / 10, 0.9),
}
for name, (transform, rate, momentum) in settling.items():
    bath = tj.driven(transform, system, tj.minibatch(32))
    ensemble = tj.init_ensemble(bath, jax.random.key(0), point, size=16)
    numbers = {"learning_rate": rate / N, "momentum": momentum}
    before = tj.stationarity(system, bath, jax.random.key(1), ensemble, point, 100, **numbers)
    ensemble, _ = tj.run(bath, jax.random.key(2), ensemble, point, 5000, ledger="none")
    after = tj.stationarity(system, bath, jax.random.key(3), ensemble, point, 4000, **numbers)
    print(f"{name:13} after 0 steps {before}\n{'':13} after 5000    {after}")
    assert int(before.flags) & tj.Flag.NOT_STATIONARY
    assert not int(after.flags)

# %% [markdown]
# ## The table
#
# Three optimisers, two batch sizes, three learning rates, 16 replicas each. The learning
# rate is part of the optimiser's state (`optax.inject_hyperparams`), so that one run holds
# all three rates. Three thermometers are read, with error bars from the replicas:
#
# - **virial** T = ⟨(θ−c)·∇U⟩/d, what the parameters hold against the mean force,
# - **configurational** T = ⟨|∇U|²⟩/⟨ΔU⟩, dominated by the stiffest directions,
# - **predicted** T = h tr C/(2d), from the covariance C of the minibatch gradients alone.

# %%
REPLICAS, BATCHES = 16, (4, 32)
momentum = lambda learning_rate: optax.sgd(learning_rate, momentum=0.9)
OPTIMISERS = {  # transform, learning rates, what momentum multiplies them by
    "SGD": (optax.sgd, (0.05, 0.1, 0.2), 1),
    "momentum 0.9": (momentum, (0.005, 0.01, 0.02), 10),
    "Adam": (optax.adam, (0.002, 0.004, 0.008), None),
}


def settle(make, rates, batch):
    """Positions [rate, replica, time] of settled optimisers at several learning rates.

    All start where SGD settled above, so that little is left to settle.
    """
    transform = optax.inject_hyperparams(make)(learning_rate=rates[0])
    bath = tj.driven(transform, system, tj.minibatch(batch))
    start = jax.tree.map(lambda x: jnp.concatenate([x] * len(rates)), warm)
    size = REPLICAS * len(rates)
    st = tj.init_ensemble(bath, jax.random.key(4), point, size, positions=start)
    opt_state = st.walkers.bath.opt_state
    opt_state.hyperparams["learning_rate"] = jnp.repeat(jnp.asarray(rates), REPLICAS)
    _, out = tj.run(
        bath,
        jax.random.key(5),
        st,
        point,
        4000,
        every=200,
        trace=lambda sample: sample.position,
        ledger="none",
    )
    settled = jax.tree.map(lambda x: x[10:], out["trace"])  # the first half is burn-in
    by_rate = lambda x: jnp.swapaxes(x, 0, 1).reshape(len(rates), REPLICAS, -1, *x.shape[2:])
    return jax.tree.map(by_rate, settled)


warm = ensemble.position
rows = []
for name, (make, rates, factor) in OPTIMISERS.items():
    for batch in BATCHES:
        positions = settle(make, rates, batch)
        for i, rate in enumerate(rates):
            read = tj.read_thermometers(
                system,
                jax.tree.map(lambda x, i=i: x[i], positions),
                point,
                jax.random.key(7),
                potential="energy",
                set_temperature=False,
                gradient=tj.minibatch(batch) if factor else None,
                learning_rate=rate * factor / N if factor else None,
            )
            rows.append((name, batch, rate, read))

# %%
print("optimiser      batch   rate   virial T          configurational T   predicted T")
for name, batch, rate, read in rows:
    virial, hot, noise = read.virial, read.configurational, read.noise
    print(
        f"{name:13} {batch:6} {rate:6}   {virial.value[0]:.4f} ± {virial.stderr[0]:.4f}"
        f"   {hot.value[0]:.3f} ± {hot.stderr[0]:.3f}"
        + (f"       {noise.value[0]:.4f}" if np.isfinite(noise.value[0]) else "       -")
    )

# %% [markdown]
# The temperature is proportional to learning rate over batch size, and momentum μ multiplies
# it by 1/(1−μ). Adam divides by the scale of its own gradients, so that its temperature falls
# only about as the root of the batch size.
#
# The thermometers do *not* agree with each other, and that is a finding: an optimiser is no
# canonical ensemble. The noise is strongest along the stiffest directions, which run hot.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
colours = {"SGD": "C0", "momentum 0.9": "C1", "Adam": "C2"}
for name, colour in colours.items():
    mine = [(batch, rate, read) for n, batch, rate, read in rows if n == name]
    factor = OPTIMISERS[name][2] or 1
    drive = np.array([rate * factor / batch for batch, rate, _ in mine])
    shown = np.array([read.virial.value[0] for *_, read in mine])
    error = np.array([read.virial.stderr[0] for *_, read in mine])
    axes[0].errorbar(drive, shown, error, fmt="o", ms=4, color=colour, label=name)
    if OPTIMISERS[name][2]:
        predicted = np.array([read.noise.value[0] for *_, read in mine])
        order = np.argsort(drive)
        axes[0].plot(drive[order], predicted[order], lw=1, color=colour)
        axes[1].errorbar(drive, shown / predicted, error / predicted, fmt="o", color=colour)
axes[0].set(xscale="log", yscale="log", ylabel="virial temperature (nats)")
axes[0].legend()
axes[1].axhline(1, lw=1, color="k")
axes[1].set(xscale="log", ylabel="measured / predicted T", ylim=(0, 2.2))
for axis in axes:
    axis.set_xlabel("learning rate × 1/(1−μ) / batch")

# %% [markdown]
# Lines are predictions, not fits. Towards small steps the points fall on them; at large
# steps SGD runs hotter than predicted, since the step itself overshoots.

# %%
for name in ("SGD", "momentum 0.9"):
    small = next(r for n, batch, rate, r in rows if (n, batch) == (name, 4))
    ratio = float(small.virial.value[0] / small.noise.value[0])
    sigma = float(small.virial.stderr[0] / small.noise.value[0])
    print(f"{name}: measured / predicted = {ratio:.2f} ± {sigma:.2f} at the smallest rate")
    assert abs(ratio - 1) < 5 * sigma + 0.1
    temperatures = [r.virial.value[0] for n, batch, rate, r in rows if (n, batch) == (name, 4)]
    assert np.all(np.diff(temperatures) > 0)

# %% [markdown]
# ## Layer by layer
#
# Layers of one network run at different temperatures.

# %%
print(rows[2][3].table())

# %% [markdown]
# ## A sampler that claims a temperature
#
# SGLD is *told* its temperature. Minibatch noise heats it above that, by
# `noise_ratio` = h tr C/(2dT): the flag GRADIENT_NOISE says when this is no longer
# negligible. Here T = 1, once with a large step and once with a small one.

# %%
for step_size, n_steps in ((2e-3, 1000), (2e-4, 4000)):
    bath = tj.sgld(system, tj.minibatch(32), step_size=step_size)
    ensemble = tj.init_ensemble(bath, jax.random.key(8), point, size=16)
    ensemble, _ = tj.run(bath, jax.random.key(9), ensemble, point, n_steps, ledger="none")
    ensemble, read = tj.thermometers(
        system, bath, jax.random.key(10), ensemble, point, n_steps=n_steps, every=n_steps // 10
    )
    ratio = tj.noise_ratio(
        system,
        ensemble.position,
        point,
        jax.random.key(11),
        tj.minibatch(32),
        step_size=step_size,
    )
    print(f"step {step_size}: noise ratio {ratio}")
    print(f"    virial T = {read.virial.value[0]:.3f} ± {read.virial.stderr[0]:.3f}")
    for line in tj.explain(ratio.flags):
        print("   ", line)
