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
# # A tour: the free energy of a network, and its gradient
#
# Seed 0 throughout; about a minute on two CPU cores.
#
# A network's parameters θ, its loss U(θ) and a prior m(θ) make a canonical ensemble
# p(θ) ∝ m(θ) exp(−β U(θ)). thermojax estimates its partition function directly, says how
# far to trust the number, and differentiates it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import linen as nn

import thermojax as tj

# %% [markdown]
# ## Ten lines
#
# Noisy samples of a curve, a flax network with six hidden units, and the noise of the data
# as a control.

# %%
x = jnp.linspace(-2, 2, 30)[:, None]
y = jnp.sin(2 * x[:, 0]) + 0.2 * jax.random.normal(jax.random.key(1), (30,))
network = nn.Sequential([nn.Dense(6), nn.tanh, nn.Dense(1)])
loss = tj.gaussian_loss(normalized=True)
system = tj.from_flax(network, loss, (x, y), prior=tj.gaussian_prior(1.5))
point = tj.Point(beta=1.0, control=jnp.asarray(0.2))
estimate = tj.log_partition(system, point, jax.random.key(0)).require_trusted()
gradient = jax.grad(tj.differentiable_log_z(estimate, system))(point)
print(f"log Z = {estimate}   (the log evidence, in nats)")
print(f"d log Z / d beta  = {gradient.beta:.2f}    d log Z / d noise = {gradient.control:.2f}")

# %% [markdown]
# `require_trusted` raises, with reasons and mends, if independent populations disagree, if
# the particles lag behind the ladder, if too few ancestors survive, and so on. Nothing here
# is a point estimate without its error bar.
#
# ## Thermodynamics from the prior to the posterior
#
# The same particles give every temperature on the way: log Z, energy, entropy and heat
# capacity, each with an error bar from the independent populations.

# %%
betas = np.geomspace(1e-3, 1.0, 30)
curve = tj.curve(estimate, betas)
fig, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
names = {"internal_energy": "U (nats)", "entropy": "S (nats)", "heat_capacity": "C"}
for axis, (name, label) in zip(axes, names.items(), strict=True):
    each = getattr(curve, name)
    axis.errorbar(1 / betas, each.value, each.stderr, lw=1)
    axis.set(xscale="log", xlabel="temperature T", ylabel=label)
assert np.all(np.diff(curve.internal_energy.value) < 0.5)

# %% [markdown]
# ## How much noise do the data want?
#
# The gradient with respect to the control says in which direction the evidence grows. The
# evidence itself, as a function of the noise, has its maximum where the data were made.

# %%
noises = jnp.asarray([0.12, 0.16, 0.2, 0.25, 0.32, 0.45])
key = jax.random.key(2)
estimates = [tj.log_partition(system, tj.Point(1.0, noise), key) for noise in noises]
slopes = [
    jax.grad(tj.differentiable_log_z(e, system))(tj.Point(1.0, noise)).control
    for e, noise in zip(estimates, noises, strict=True)
]
fig, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.errorbar(noises, [e.value for e in estimates], [e.stderr for e in estimates], fmt="o")
for noise, e, slope in zip(noises, estimates, slopes, strict=True):
    step = 0.06 * noise
    axis.plot([noise - step, noise + step], [e.value - slope * step, e.value + slope * step])
axis.set(xlabel="noise of the data", ylabel="log Z (nats)")
best = float(noises[int(np.argmax([e.value for e in estimates]))])
print(f"the evidence is largest at noise = {best:.2f}; the data were made with 0.20")
assert 0.15 < best < 0.27

# %% [markdown]
# The short lines are the gradients from `jax.grad`: tangents of a curve of which each point
# was sampled on its own.
#
# ## A bath that keeps its books
#
# Langevin dynamics exchange heat with the bath; the ledger closes the first law to rounding,
# and the work done by moving a control obeys the fluctuation theorem at any step size.

# %%
bath = tj.langevin(system, "BAOAB", step_size=0.02)
key = jax.random.key(3)
ensemble = tj.init_ensemble(bath, key, tj.Point(0.0, point.control), size=64)
start = ensemble.energy
path = tj.Point(jnp.linspace(0.0, 0.01, 200), jnp.full(200, 0.2))
ensemble, ledger = tj.drive(bath, key, ensemble, path)
print("mean heat taken from the bath:", float(ledger.heat.sum(0).mean()), "nats")
work = np.asarray(ledger.protocol + ledger.shadow, float).sum(0)
exact = float(tj.curve(estimate, 0.01).log_z.value[0])
jarzynski = np.log(np.mean(np.exp(-work)))
print(f"log <exp(-w)> = {jarzynski:.2f}, log Z(0.01) = {exact:.2f}, <-w> = {-work.mean():.2f}")
assert -work.mean() <= jarzynski
