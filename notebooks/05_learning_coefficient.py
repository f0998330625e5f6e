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
# # The local learning coefficient: how many parameters does the loss feel?
#
# A network of d parameters at a regular minimum has free energy U* + (d/2) log n. Networks are
# not regular: whole surfaces of parameters compute the same function, and d/2 becomes λ, the
# **learning coefficient**, which is smaller. It can be measured around any trained network:
#
# λ̂ = β (⟨U⟩ − U(w*))   under   exp(−β U(w) − γ|w − w*|²/2),   β = 1/log n.
#
# Here U = n L is the loss *summed* over the examples and β the inverse temperature on it, so
# that βU is what the literature writes as nβ times the mean loss. The tether γ keeps the
# walkers near the trained network w*.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import thermojax as tj
from thermojax.exact.learning_coefficients import deep_linear_coefficient, regular_coefficient
from thermojax.experiments.llc import train
from thermojax.llc import llc
from thermojax.llc_curve import llc_curve
from thermojax.llc_sensitivity import llc_sensitivity

plt.rcParams["figure.dpi"] = 70

# %% [markdown]
# ## A regular minimum, where everything is known
#
# The tether lowers λ̂, a finite step of an unadjusted sampler raises it. Both effects are
# predicted from the Hessian and reported beside the estimate.

# %%
curves = jnp.array([0.5, 2.0, 5.0, 10.0])
bowl = tj.system(lambda x, c, k: 0.5 * jnp.sum(k * x**2), like=jnp.zeros(4), data=curves)
exact = regular_coefficient(2 * curves, gamma=1.0)
est = llc(bowl, jnp.zeros(4), jax.random.key(0), beta=2.0, gamma=1.0)
print(f"estimate {est:.3f}, exact {exact:.3f}, d/2 = 2")
print(f"predicted: tether {float(est.parts.tether_bias):+.3f}, step {est.parts.step_bias:+.3f}")
assert abs(float(est.value) - exact) < 4 * float(est.stderr)

# %% [markdown]
# ## A singular one: λ is a limit, and the limit is far
#
# U = (ab)² has λ = 1/2 and multiplicity m = 2. What a run at finite t = nβ can measure is
# λ(t) = t⟨K⟩, which approaches λ − (m−1)/log t, slowly. The exact curve is known, so that the
# estimator can be tested on what it claims to measure.

# %%
crossing = tj.exact.normal_crossing()
leapfrog = lambda s: tj.hmc(s, n_inner=8, jitter=0.95)
ladder = np.geomspace(10, 3000, 5)
found = llc_curve(
    crossing.system,
    jnp.zeros(2),
    jax.random.key(1),
    ladder,
    kernel=leapfrog,
    keep_prior=True,
    n_chains=16,
)
truth = ladder * crossing.internal_energy(ladder)
score = (np.asarray(found.coefficient.value) - truth) / np.asarray(found.coefficient.stderr)
print("z against the exact curve:", np.round(score, 1))
assert np.all(np.abs(score) < 4)

fine = np.geomspace(5, 1e8, 60)
fig, axis = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axis.plot(fine, fine * crossing.internal_energy(fine), color="k", lw=1, label="exact λ(t)")
axis.plot(fine, 0.5 - 1 / np.log(fine), "--", color="C1", label="λ − (m−1)/log t")
axis.axhline(0.5, color="C2", lw=1, label="λ = 1/2")
axis.errorbar(ladder, found.coefficient.value, found.coefficient.stderr, fmt="o", label="MBAR")
axis.set(xscale="log", xlabel="t = nβ", ylabel="λ(t)", ylim=(0, 0.6))
axis.legend()
# %% [markdown]
# ## Deep linear networks
#
# Their coefficients are known in closed form for all widths and ranks.

# %%
for widths, rank in (((2, 1, 2), 1), ((8, 6, 8), 3), ((2, 2, 2, 2), 0)):
    value, m = deep_linear_coefficient(widths, rank)
    size = sum(a * b for a, b in itertools.pairwise(widths))
    print(f"widths {widths}, rank {rank}: λ = {value}, m = {m}, against d/2 = {size / 2}")

# %% [markdown]
# ## A network, and when not to trust the number
#
# A small classifier of noisy labels, trained to a minimum.

# %%
rng = np.random.default_rng(0)
inputs = rng.normal(size=(300, 2))
labels = (inputs[:, 0] * inputs[:, 1] + 0.4 * rng.normal(size=300) > 0).astype(int)
data = jnp.asarray(inputs, jnp.float32), jnp.asarray(labels)
network = tj.from_flax(tj.mlp((4,), 2), tj.softmax_loss, data, prior=tj.gaussian_prior(1.0))
start = network.sample_base(jax.random.key(2))
trained, losses = train(network, start, 2000, 0.02, 1000)
settings = {"kernel": leapfrog, "n_steps": 1200}
est = llc(network, trained, jax.random.key(3), **settings)
size = sum(x.size for x in jax.tree.leaves(trained))
print(f"λ = {est:.2f} of d/2 = {size / 2}; {est.parts.rank} directions curve upwards")
print("\n".join(est.reasons) or "trusted")
assert 0 < est.value < size / 2

# %% [markdown]
# The traces should scatter about one level, and the walkers should have stopped moving away.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(est.parts.trace[::8, :4], lw=0.8)
axes[0].axhline(float(est.value), color="k")
axes[0].set(xlabel="kept state / 8", ylabel="β (U − U*)", title="loss above the anchor")
axes[1].plot(est.parts.distance[::8, :4], lw=0.8)
axes[1].set(xlabel="kept state / 8", ylabel="|w − w*|", title="distance from the anchor")
# %% [markdown]
# The same around the *untrained* network: the walkers find lower loss, and the number is
# refused.

# %%
wrong = llc(network, start, jax.random.key(3), **settings)
print(f"λ = {wrong:.2f}")
for reason in wrong.reasons:
    print("  ", reason)
assert int(wrong.flags) & tj.Flag.NOT_A_MINIMUM
assert not int(est.flags) & tj.Flag.NOT_A_MINIMUM

# %% [markdown]
# ## How much do the settings matter?
#
# The step size of a metropolised sampler should change nothing; tether and temperature say
# at which resolution the basin is looked at.

# %%
out = llc_sensitivity(network, trained, jax.random.key(4), est, **settings)
for name, values in out.value.items():
    cells = [f"{v:6.2f} ± {s:.2f}" for v, s in zip(values, out.stderr[name], strict=True)]
    print(f"{name:10}", "   ".join(cells))

# %% [markdown]
# On the command line: `thermojax llc` does all this for handwritten digits, with a dashboard.
