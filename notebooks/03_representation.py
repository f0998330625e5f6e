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
# # What a representation keeps, and what it costs
#
# Fixed seeds throughout; about a minute on two CPU cores.
#
# Gao & Chaudhari (2020, arXiv 2002.12406) let a representation keep three accounts: the rate
# $R$ at which codes tell of inputs, the distortion $D$ of a decoder, and the classification
# loss $C$. Training at fixed weights of the two losses minimises a free energy,
#
# $$F(\lambda,\gamma) = \min_e\,(R + \lambda D + \gamma C),\qquad
# dF = D\,d\lambda + C\,d\gamma,$$
#
# so that $\lambda$ and $\gamma$ are forces, and moving them slowly is a process: at constant
# $C$, say, from one task to another. We have seen the paper's abstract and its code; what we
# define ourselves follows that programme. Every claim gets a verdict from measured numbers.

# %%
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import thermojax as tj
from thermojax import representation as rep

plt.rcParams["figure.dpi"] = 60
verdicts = []
Controls = rep.Multipliers  # lam pulls on D, gam on C


def claim(text, measured, holds):
    """Note a claim with its verdict: holds, fails, or open (None)."""
    word = "open" if holds is None else "holds" if holds else "fails"
    verdicts.append((word, text, measured))
    print(f"{word.upper()}: {text} ({measured})")


# %% [markdown]
# ## An ensemble of codes under two forces
#
# The codes of an input are canonical, $e(z|x) \propto m(z)\,d(x|z)^\lambda\,
# e^{\gamma \sum_y p(y|x) \log c(y|z)}$, and the marginal $m$ is the best one. For a table of
# six inputs, three labels and five codes, with decoder $d$ and classifier $c$ given, the
# minimum is global and certified by its `gap`.

# %%
counts = np.array([[6, 1, 1], [4, 2, 1], [1, 5, 2], [1, 4, 3], [2, 1, 6], [1, 2, 5]])
decoder = np.exp(-np.abs(np.arange(6)[:, None] - np.array([0, 1.5, 2.5, 4, 5])))
classifier = np.array([[7, 5, 2, 2, 1], [2, 3, 7, 5, 2], [1, 2, 1, 3, 7.0]])
log_d, log_c = (np.log(k / k.sum(0)) for k in (decoder, classifier))
joint = counts / counts.sum()


@jax.jit
def table(tau):
    """The equilibrium, derivatives of F, of (D, C) of the ensemble, and chi by fluctuations."""
    forces = lambda tau: rep.tabular_equilibrium(joint, tau, log_d, log_c).functionals[1:]
    free = lambda tau: rep.tabular_free_energy(tau, joint, log_d, log_c)
    found = rep.tabular_equilibrium(joint, tau, log_d, log_c)
    slope, curvature, moved = (
        jax.grad(free)(tau),
        jax.hessian(free)(tau),
        jax.jacfwd(forces)(tau),
    )
    return found, slope, curvature, moved, rep.tabular_susceptibility(found, joint, tau)


exact = lambda lam, gam: Controls(np.float64(lam), np.float64(gam))
with jax.enable_x64(True):
    easy, hard = (jax.device_get(table(exact(*at))) for at in ((1.2, 0.8), (3.0, 3.0)))
found, slope, curvature, moved, (chi, fluctuation) = easy
_, D, C = found.functionals
print("m =", found.marginal.round(4), f" gap {found.gap:.0e}")
print(f"F = {found.free_energy:.12f}   (D, C) = ({D:.12f}, {C:.12f})")
print(f"chi =\n{chi.round(6)}\nof which at a frozen marginal\n{fluctuation.round(6)}")
apart = max(abs(slope.lam - D), abs(slope.gam - C))
claim("the controls' conjugates are slopes: grad F = (D, C)", f"to {apart:.0e}", apart < 1e-10)
apart = np.abs(np.asarray(curvature) + chi).max()
claim("curvature is response: -hessian F = chi", f"to {apart:.0e}", apart < 1e-9)
apart = abs(moved[0].gam - moved[1].lam)
claim("Maxwell: dD/dgam = dC/dlam", f"{moved[0].gam:.6f}, apart {apart:.0e}", apart < 1e-9)
soft = np.linalg.eigvalsh(chi - fluctuation).min()
claim("a marginal that adapts makes codes softer", f"lowest {soft:.1e}", soft > -1e-12)

# %% [markdown]
# ## Which way to go: iso-classification
#
# Raise $\lambda$ and let $\gamma$ fall so that $C$ stays: rate is bought with distortion at
# the price $dR = -\lambda\,dD$, the first law at constant $C$. The path is solved, not
# trained, and says how it ended.

# %%
with jax.enable_x64(True):
    equilibrium = jax.jit(rep.tabular_model(joint, log_d, log_c))
    path = rep.iso_process(equilibrium, exact(0.6, 1.5), 1.6, num_points=41)
    beyond = rep.iso_process(equilibrium, exact(1.2, 0.5), 1.8, num_points=7)
    lams, gams = np.linspace(0.4, 2.0, 11), np.linspace(0.0, 3.0, 11)
    surface = rep.equilibrium_surface(equilibrium, lams, gams, batching="loop")
    above = float(rep.concavity_violation(surface))
    law = float(rep.first_law_residual(path))
for k in range(0, 41, 8):
    row = (path.lam[k], path.gam[k], path.rate[k], path.distortion[k], path.classification[k])
    print("lam {:.1f}  gam {:.6f}  R {:.6f}  D {:.6f}  C {:.10f}".format(*row))
print("beyond:", beyond.status, "-", beyond.reason)
drift = np.ptp(np.asarray(path.classification))
claim("iso-classification holds C", f"{path.status}, C within {drift:.0e}", drift < 1e-9)
claim(
    "at constant C rate is traded against distortion",
    f"R {path.rate[0]:.3f} → {path.rate[-1]:.3f}, D {path.distortion[0]:.3f} → "
    f"{path.distortion[-1]:.3f}",
    bool(np.all(np.diff(path.rate) > 0) and np.all(np.diff(path.distortion) < 0)),
)
change = float(path.rate[-1] - path.rate[0])
claim("first law", f"dR = {change:.4f}, left over {law:.0e}", abs(law) < 1e-3 * change)
claim("the equilibrium surface is convex (F concave)", f"violated by {above:.0e}", above < 1e-9)
claim(
    "a better reconstruction always relieves the classifier (chi_lg > 0)",
    f"{chi[0, 1]:.3f} at (1.2, 0.8) but {hard[-1][0][0, 1]:.3f} at (3, 3)",
    bool(hard[-1][0][0, 1] > 0),
)

# %%
fig = plt.figure(figsize=(8, 3.1), layout="constrained")
solid = fig.add_subplot(1, 2, 1, projection="3d")
R, D, C = (np.asarray(part) for part in surface.functionals)
solid.plot_surface(D, C, R, cmap="viridis", alpha=0.6, linewidth=0)
solid.plot(path.distortion, path.classification, path.rate, "C3", lw=2.5, zorder=9)
solid.set(xlabel="D", ylabel="C", zlabel="R", title="equilibria")
solid.view_init(22, 55)
plane = fig.add_subplot(1, 2, 2)
levels = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.07, 1.09, 1.12]
lines = plane.contour(lams, gams, C.T, levels, cmap="viridis")
plane.clabel(lines, fontsize=7, fmt="%.2f")
plane.plot(path.lam, path.gam, "C3", lw=2.5, label="the path")
plane.set(xlabel="λ", ylabel="γ", title="C [nats] over the controls")
_ = plane.legend(fontsize=8, loc="upper right")

# %% [markdown]
# ## Digits have a phase boundary
#
# Below it the best code says nothing. Where a trivial code loses its stability follows from
# covariances alone: here with a Gaussian decoder of width 0.3 pixels, and any classifier. A
# codebook started next to the trivial one stays there below the line and leaves it above.

# %%
WIDTH = 0.3
digits = load_digits()
pixels, labels = digits.data / 16, digits.target
cov = np.cov(pixels.T, ddof=0)
onset_gams = np.linspace(0, 0.75, 12)
places = np.array([[0.12, 0.0], [0.14, 0.0], [0.05, 0.65], [0.05, 0.7]])
with jax.enable_x64(True):
    hot = np.eye(10)[labels]
    critical = jax.jit(lambda x, y, gam: rep.critical_lam(x, WIDTH, y=y, gam=gam))
    line = [float(critical(pixels, hot, gam)) for gam in onset_gams]
    strength = jax.jit(lambda x, y, tau: rep.onset_strength(x, y, tau, WIDTH))
    strengths = [float(strength(pixels, hot, exact(*p))) for p in places]
    code = lambda p: rep.codebook_equilibrium(
        pixels, hot, exact(*p), decoder_scale=WIDTH, num_codes=4, num_restarts=1, tol=1e-8
    )
    rates = [float(code(p).functionals.rate) for p in places]

    @jax.jit
    def linear(lam):
        """The best code of a Gaussian with the covariance of digits; labels do not pull."""
        none = jnp.zeros((1, 64)), jnp.ones((1, 1))
        tau = Controls(lam, jnp.zeros(()))
        best = rep.gaussian_equilibrium(
            cov, *none, tau, decoder_scale=WIDTH, classifier_scale=1.0
        )
        return best.num_active, lam**2 * best.susceptibility[0, 0]

    ladder = np.geomspace(0.08, 4.0, 60)
    active, heat = (np.asarray(a) for a in jax.vmap(linear)(ladder))
for (lam, gam), s, r in zip(places, strengths, rates, strict=True):
    print(f"lam {lam:.2f}, gam {gam:.2f}: onset strength {s:.4f}, rate of 4 codes {r:.4f}")
claim(
    "codes switch on where covariances say",
    f"lam_c = {line[0]:.6f} without labels; four places tell their side",
    all((s > 1) == (r > 1e-3) for s, r in zip(strengths, rates, strict=True)),
)
worst = float(np.abs(heat - active / 2).max())
claim(
    "equipartition: lam² chi_ll is half a unit per active mode (linear, Gaussian)",
    f"{active.min()} to {active.max()} modes, worst {worst:.0e}",
    worst < 1e-9,
)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained")
axes[0].plot(onset_gams, line, "k")
axes[0].fill_between(onset_gams, line, alpha=0.2, label="R = 0 is stable")
for on, mark in ((False, "o"), (True, "^")):
    chosen = places[(np.array(rates) > 1e-3) == on]
    label = "codebook: R > 0" if on else "codebook: R = 0"
    axes[0].plot(chosen[:, 1], chosen[:, 0], mark, label=label)
axes[0].set(xlabel="γ", ylabel="λ", title="digits: onset of a code", ylim=0)
axes[1].semilogx(ladder, 2 * heat, label="2 λ² χ")
axes[1].semilogx(ladder, active, "k:", label="active modes")
axes[1].set(xlabel="λ", title="linear optimum: heat capacity counts")
for axis in axes:
    axis.legend(fontsize=8)

# %% [markdown]
# ## A network
#
# A small variational autoencoder whose codes also feed a linear classifier: a flax network
# of 10,026 parameters, trained on $J = R + \lambda D + \gamma C$ by Adam. What it reaches is
# an upper bound on $F$. The three functionals come with standard errors over images.

# %%
draw = np.random.default_rng(0).permutation(len(labels))
images = lambda rows: rep.Batch(
    jnp.asarray(pixels[rows], jnp.float32), jnp.asarray(labels[rows])
)
train, validation, test = (images(rows) for rows in np.split(draw, [1000, 1250]))
model, init = rep.gaussian_mlp_model(64, 10, decoder_scale=WIDTH)
adam = optax.adam(2e-3)
start = Controls(0.1, 5.0)


def rows_of(data):
    """Sampler of random rows, or of all; the task does not move with t."""

    def sample(key, t, size):
        if size is None or size >= len(data.y):
            return data
        rows = jax.random.randint(key, (size,), 0, len(data.y))
        return rep.Batch(data.x[rows], data.y[rows])

    return sample


def loss(tau, data, params, key):
    """J on a random batch of 128 images."""
    rows, noise = jax.random.split(key)
    batch = rows_of(data)(rows, 0.0, 128)
    means = rep.expected_functionals(model, params, batch, noise, num_samples=1)
    return rep.objective(means, tau)


@jax.jit
def fit(tau, data, params, key):
    """3,000 steps of Adam at fixed controls."""
    at = jax.tree_util.Partial(loss, tau, data)
    return rep.equilibrate(at, params, None, adam, key, 3000)


measure = jax.jit(
    lambda params, batch, key: rep.mean_and_stderr(
        rep.functionals(model, params, batch, key, num_samples=16)
    )
)
accuracy = jax.jit(functools.partial(rep.accuracy, model))
first = lambda data, count: jax.tree.map(lambda a: a[:count], data)
untrained = init(jax.random.key(0))
params, _, run = fit(start, train, untrained, jax.random.key(1))
print(f"J {run.losses[0]:.1f} → {run.losses[-200:].mean():.2f} nats per image", end=", ")
print(f"still moving by {run.drift:.2f} ± {run.drift_stderr:.2f} per 1,000 steps")
for name, part in (("train", first(train, 500)), ("test", first(test, 500))):
    mean, error = measure(params, part, jax.random.key(2))
    values = [f"{n} {m:.3f} ± {e:.3f}" for n, m, e in zip("RDC", mean, error, strict=True)]
    print(f"{name:5}", "  ".join(values), f" accuracy {accuracy(params, part):.3f}")

# %% [markdown]
# At frozen decoder and classifier the best codes are known up to $Z_x$. Importance sampling
# from the encoder and annealed sampling must agree on it; what is left of $J$ is the price of
# an amortised encoder, $J - G = E_x\,\mathrm{KL}(e\|e^*)$. An untrained encoder misses the
# codes that matter: its weights collapse onto a few samples, and the number says so. Also a
# trained one may be flagged, where a tenth of the samples do the work.

# %%
few = first(test, 6)
tau = Controls(*map(np.float32, start))


@jax.jit
def weighed(params, key):
    """log Z by importance, and what the encoder loses."""
    ask = (model, params, few, tau, key)
    return rep.log_partition(*ask, num_samples=256), rep.encoder_gap(*ask, num_samples=256)


@jax.jit
def walked(params, key):
    """log Z by annealing."""
    how = {"method": "annealed", "num_samples": 128, "num_temps": 8}
    return rep.log_partition(model, params, few, tau, key, **how)


by_weights, gap = weighed(params, jax.random.key(3))
by_annealing = walked(params, jax.random.key(4))
for k in range(6):
    print(
        f"image {k}: log Z {by_weights.log_z[k]:.3f} ± {by_weights.stderr[k]:.3f} by weights, "
        f"{by_annealing.log_z[k]:.3f} ± {by_annealing.stderr[k]:.3f} by annealing, "
        f"ess {by_weights.ess[k]:.0f} of 256"
    )
lost, lost_error = rep.mean_and_stderr(gap.value)
collapsed, _ = weighed(untrained, jax.random.key(3))
print(f"J - G = {lost:.3f} ± {lost_error:.3f} nats per image")
print(f"untrained: ess {np.round(collapsed.ess, 1)}")
for note in tj.explain(int(np.bitwise_or.reduce(np.asarray(collapsed.flags)))):
    print(" ", note)
noise = np.hypot(by_weights.stderr, by_annealing.stderr)
z = np.abs(by_weights.log_z - by_annealing.log_z) / noise
claim("importance and annealing agree on log Z", f"largest |z| {z.max():.1f}", z.max() < 4)
claim(
    "an encoder costs something", f"{lost:.2f} ± {lost_error:.2f}", bool(lost > 3 * lost_error)
)
claim(
    "collapsed weights are flagged",
    f"{int((collapsed.flags > 0).sum())} of 6 untrained, {int((by_weights.flags > 0).sum())} "
    "of 6 trained",
    bool(np.all(collapsed.flags > 0)),
)

# %% [markdown]
# The response $\chi = g^T A^{-1} g$ of parameters needs no matrix: conjugate gradients on
# products with the curvature $A$. It presumes a minimum. The linear code of the digits with
# eight latents has one in closed form, of 1,032 parameters, and its response counts modes;
# a network after some thousand steps of Adam is no minimum, and the answer says so.

# %%
cov = cov.astype(np.float32)
scale, axes_of = np.linalg.eigh(cov)
scale, axes_of = scale[:-9:-1], axes_of[:, :-9:-1]


def linear_means(p):
    """R and D of codes N(W x, s^2) decoded by V z, for inputs of that covariance."""
    W, V, s = p["W"], p["V"], jnp.exp(p["log_s"])
    spread = W @ cov @ W.T + jnp.diag(s**2)
    rate = 0.5 * (jnp.trace(spread) - 8) - jnp.sum(p["log_s"])
    error = jnp.trace(cov) - 2 * jnp.trace(V @ W @ cov) + jnp.trace(V @ spread @ V.T)
    return rep.Functionals(rate, error / (2 * WIDTH**2), 0.0 * rate)


def best(lam):
    """Its minimum: modes of strength kappa = lam scale / width^2 above 1 are on."""
    kappa = np.maximum(lam * scale / WIDTH**2, 1)
    V = axes_of * np.sqrt((kappa - 1) * WIDTH**2 / lam)
    W = V.T * (lam / (WIDTH**2 * kappa))[:, None]
    return {"W": W, "V": V, "log_s": -np.log(kappa) / 2}


counted = {}
for lam in (0.15, 0.25, 0.6):
    at = jax.tree.map(np.float32, best(lam))
    answer = rep.susceptibility(linear_means, at, Controls(np.float32(lam), np.float32(0)))
    counted[lam] = float(2 * lam**2 * answer.chi[0, 0]), int(np.sum(lam * scale > WIDTH**2))
    print(f"lam {lam}: 2 lam² chi_ll = {counted[lam][0]:.4f}, {counted[lam][1]} modes on")
claim(
    "the matrix-free response of parameters counts active modes",
    ", ".join(f"{a:.3f} for {b}" for a, b in counted.values()),
    all(abs(a - b) < 0.01 * b for a, b in counted.values()),
)


def means(data, params):
    """R, D and C of fixed images and fixed noise."""
    return rep.expected_functionals(model, params, data, jax.random.key(6), num_samples=1)


seen = jax.tree_util.Partial(means, first(train, 200))
answer = rep.susceptibility(seen, params, tau, damping=0.01, tol=1e-3, max_iter=100)
print(
    "after 3,000 steps of Adam:",
    *(note.split(":")[0] for note in tj.explain(int(answer.flags))),
)
claim(
    "away from a minimum a response is refused",
    f"residual {answer.residual.max():.1g}, norm of the gradient {answer.grad_norm:.2g}",
    bool(answer.flags != 0) and not bool(answer.converged.all()),
)

# %% [markdown]
# ## A network's iso-classification
#
# Now the path with stochastic gradients: $\lambda$ rises tenfold in ten steps, and after every
# block of gradient steps $\gamma$ is fed back from $C$ on validation images. Beside it the
# same path at fixed $\gamma$. Both run in one program.


# %%
class Task(NamedTuple):
    """Images between whose halves a task moves, and others where C is held."""

    first: rep.Batch
    second: rep.Batch
    held_first: rep.Batch
    held_second: rep.Batch


def some(data, chosen, count):
    """Chosen images, repeated to a number: one shape is one compiled program."""
    rows = np.resize(np.flatnonzero(chosen), count)
    return rep.Batch(data.x[rows], data.y[rows], jnp.full(count, 1 / count))


@jax.jit
def follow(task, params, schedule, key):
    """The path on p_t = (1 - t) p_first + t p_second: gam fed back from C, and gam fixed."""

    def one(gain):
        plant = rep.Plant(
            model,
            rep.mixture_path(*task[:2]),
            rep.mixture_path(*task[2:]),
            adam,
            batch_size=64,
            block_steps=20,
            measure_samples=4,
        )
        gains = rep.Feedback(integral=0.2 * gain, proportional=1.0 * gain)
        return rep.controlled_path(plant, params, schedule, key, gam0=5.0, feedback=gains)

    return jax.lax.map(one, jnp.array([1.0, 0.0]))


half = lambda data, k, count: some(data, np.arange(len(data.y)) % 2 == k, count)
halves = Task(*(half(d, k, n) for d, n in ((train, 500), (validation, 250)) for k in (0, 1)))
schedule = rep.make_schedule(10, lam=start.lam, lam_end=1.0, num_blocks=20, grid="still")
schedule = schedule._replace(t=schedule.t + 0.5)  # half of either half, all the way
iso = follow(halves, params, schedule, jax.random.key(7))
read, held = iso.readings, iso.readings.held_out
drift = np.asarray(held.classification / held.classification[:, :1] - 1)[:, 1:]
rms = np.sqrt(np.mean(drift**2, axis=1))
for name, k in (("controlled", 0), ("fixed gam", 1)):
    seen = jax.tree.map(lambda a, k=k: np.asarray(a)[k], read.training)
    heat = -np.sum(
        (read.lam[k][1:] + read.lam[k][:-1]) / 2 * np.diff(seen.distortion)
        + (read.gam[k][1:] + read.gam[k][:-1]) / 2 * np.diff(seen.classification)
    )
    print(
        f"{name}: gam {read.gam[k, 0]:.2f} → {read.gam[k, -1]:.2f}, "
        f"R {seen.rate[0]:.2f} → {seen.rate[-1]:.2f}, "
        f"D {seen.distortion[0]:.2f} → {seen.distortion[-1]:.2f}, "
        f"held-out C {held.classification[k, 0]:.3f} → {held.classification[k, -1]:.3f}, "
        f"dR {seen.rate[-1] - seen.rate[0]:.2f}, -∫(lam dD + gam dC) {heat:.2f}"
    )
claim(
    "a network holds C while lam rises tenfold",
    f"rms {rms[0]:.1%} of C, against {rms[1]:.1%} at fixed gam",
    bool(rms[0] < 0.15 and rms[0] < rms[1] / 4),
)
seen = read.training
claim(
    "and trades rate against distortion",
    f"R up by {seen.rate[0, -1] - seen.rate[0, 0]:.2f}, D down by "
    f"{seen.distortion[0, 0] - seen.distortion[0, -1]:.2f} nats",
    bool(seen.rate[0, -1] > seen.rate[0, 0] and seen.distortion[0, -1] < seen.distortion[0, 0]),
)

# %% [markdown]
# ## Carried to another task
#
# A network that knows the digits 0 to 4 is carried to 5 to 9 on the mixture
# $p_t = (1-t)\,p_\mathrm{source} + t\,p_\mathrm{target}$, at the $C$ that it had on its own
# task.

# %%
low = lambda data: np.asarray(data.y) < 5
sides = low(train), ~low(train)
task = Task(*(some(train, side, count) for count in (500, 250) for side in sides))
begin, _, _ = fit(Controls(0.3, 5.0), some(train, sides[0], 1000), untrained, jax.random.key(8))
moves = rep.make_schedule(10, lam=0.3, num_blocks=20)
carried = follow(task, begin, moves, jax.random.key(9))
read = carried.readings
C = np.asarray(read.held_out.classification)
strayed = C / C[:, :1] - 1
rms = np.sqrt(np.mean(strayed[:, 1:] ** 2, axis=1))
source, target = some(test, low(test), 500), some(test, ~low(test), (~low(test)).sum())
scores = {
    name: float(accuracy(jax.tree.map(lambda a, k=k: a[k], carried.state.params), target))
    for k, name in enumerate(("controlled", "fixed gam"))
}
print(f"before: source {accuracy(begin, source):.3f}, target {accuracy(begin, target):.3f}")
for k, (name, score) in enumerate(scores.items()):
    print(
        f"{name}: C/C0 - 1 rms {rms[k]:.0%}, at most {strayed[k].max():+.0%}; "
        f"accuracy on the target's test images {score:.3f}"
    )
noise = np.sqrt(sum(p * (1 - p) for p in scores.values()) / len(target.y))
better = scores["controlled"] - scores["fixed gam"]
claim(
    "representations travel between tasks at constant C",
    f"rms {rms[0]:.0%}, against {rms[1]:.0%} at fixed controls",
    bool(rms[0] < 0.15 and rms[0] < rms[1] / 4),
)
claim(
    "and arrive more accurate than without control",
    f"by {better:+.3f} ± {noise:.3f}",
    bool(better > 0) if abs(better) > 2 * noise else None,
)

# %% [markdown]
# Constancy of $C$ is not always to be had. On the table between two tasks the largest $\gamma$
# may leave $C$ above its target: the path says where, and does not go on searching.

# %%
home = np.array([[6, 1, 1], [5, 1, 1], [1, 5, 1], [1, 4, 1], [1, 1, 2], [1, 1, 1]]) / 35
away = np.array([[1, 1, 1], [1, 2, 1], [2, 2, 1], [1, 4, 2], [1, 1, 7], [1, 2, 6]]) / 37
with jax.enable_x64(True):
    between = jax.jit(rep.tabular_task(home, away, log_d, log_c))
    trips = {
        gam: rep.iso_transfer(between, exact(1.0, gam), num_points=17)
        for gam in (0.3, 1.0, 2.0)
    }
for gam, trip in trips.items():
    print(f"gam0 {gam}: {trip.status} {trip.reason}")
claim(
    "every representation can be carried at constant C",
    f"from gam0 = 2: {trips[2.0].status} at "
    f"{int(np.isnan(np.asarray(trips[2.0].gam)).sum())} of 17 points",
    all(trip.status == "reached" for trip in trips.values()),
)

# %%
fig, axes = plt.subplots(1, 4, figsize=(12, 2.8), layout="constrained")
steps = iso.readings
for k, name in enumerate(("γ fed back", "γ fixed")):
    axes[0].semilogx(steps.lam[k], steps.held_out.classification[k], "o-", ms=3, label=name)
    axes[1].plot(steps.training.distortion[k], steps.training.rate[k], "o-", ms=3, label=name)
    axes[2].plot(read.t[k], C[k] / C[k, 0], "o-", ms=3, label=name)
axes[0].set(
    xlabel="λ", ylabel="C [nats], validation", title="digits: iso-classification", ylim=0
)
axes[1].set(xlabel="D [nats]", ylabel="R [nats]", title="what is traded")
axes[2].set(xlabel="t", ylabel="C / C₀", title="digits 0–4 → 5–9", ylim=0)
for gam, trip in trips.items():
    axes[3].semilogy(trip.t, trip.gam, "o-", ms=3, label=f"γ₀ = {gam:g}: {trip.status}")
axes[3].set(xlabel="t", ylabel="γ", title="table: C held, where it can be")
for axis in axes:
    axis.legend(fontsize=8)

# %% [markdown]
# ## What holds
#
# Where the minimum is exact the accounts balance. Networks hold $C$ many times better with
# control than without, but they lag behind equilibrium: their first law closes only as far as
# they relax. That control ends in a better classifier does not show on digits. Two claims that
# one might take for granted are wrong: the sign of $\chi_{\lambda\gamma}$ depends on where
# one is, and some representations cannot be carried at constant $C$.

# %%
claim("the paper's own accuracies are reproduced", "its tables were not seen", None)
print()
for word, text, measured in verdicts:
    print(f"{word:5}  {text}: {measured}")
refuted = [text for word, text, _ in verdicts if word == "fails"]
assert all("always" in text or "every" in text for text in refuted)
