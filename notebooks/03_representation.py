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
# Seed 0 throughout; about a minute on two CPU cores.
#
# Gao & Chaudhari (2020, arXiv 2002.12406) let a representation keep three accounts: the rate
# $R$ at which codes tell of inputs, the distortion $D$ of a decoder, and the classification
# loss $C$. Training at fixed weights of the two losses minimises a free energy,
#
# $$F(\lambda,\gamma) = \min_e\,(R + \lambda D + \gamma C),\qquad dF = D\,d\lambda + C\,d\gamma,$$
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
    """F by its derivatives, and (D, C) of the ensemble with theirs."""
    forces = lambda tau: rep.tabular_equilibrium(joint, tau, log_d, log_c).functionals[1:]
    free = lambda tau: rep.tabular_free_energy(tau, joint, log_d, log_c)
    slope, curvature = jax.grad(free)(tau), jax.hessian(free)(tau)
    return free(tau), slope, curvature, forces(tau), jax.jacfwd(forces)(tau)


exact = lambda lam, gam: Controls(jnp.asarray(lam), jnp.asarray(gam))
with jax.enable_x64(True):
    at = exact(1.2, 0.8)
    found = rep.tabular_equilibrium(joint, at, log_d, log_c)
    F, slope, curvature, forces, moved = table(at)
    chi, fluctuation = map(np.asarray, rep.tabular_susceptibility(found, joint, at))
    hard = -np.asarray(table(exact(3.0, 3.0))[2])
    missed = float(np.abs(np.asarray(curvature) + chi).max())
    maxwell = abs(float(moved[0].gam) - float(moved[1].lam))
print("m =", np.round(found.marginal, 4), f" gap {float(found.gap):.0e}")
print(f"F = {F:.12f}   (D, C) = ({forces[0]:.12f}, {forces[1]:.12f})")
print(f"chi =\n{chi.round(6)}\nof which at a frozen marginal\n{fluctuation.round(6)}")
apart = max(abs(float(a - b)) for a, b in zip(slope, forces, strict=True))
claim(
    "the forces' conjugates are slopes: grad F = (D, C)", f"to {apart:.0e} nats", apart < 1e-10
)
claim("curvature is response: -hessian F = chi", f"to {missed:.0e}", missed < 1e-9)
claim("Maxwell: dD/dgam = dC/dlam", f"{moved[0].gam:.6f}, apart {maxwell:.0e}", maxwell < 1e-9)
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
    lams, gams = jnp.linspace(0.3, 2.0, 18), jnp.linspace(0.0, 3.0, 18)
    surface = rep.equilibrium_surface(equilibrium, lams, gams)
    above = float(rep.concavity_violation(surface))
    law = float(rep.first_law_residual(path))
for k in range(0, 41, 8):
    row = (path.lam[k], path.gam[k], path.rate[k], path.distortion[k], path.classification[k])
    print("lam {:.1f}  gam {:.6f}  R {:.6f}  D {:.6f}  C {:.10f}".format(*row))
print("beyond:", beyond.status, "-", beyond.reason)
drift = float(np.ptp(path.classification))
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
    f"{chi[0, 1]:.3f} at (1.2, 0.8) but {hard[0, 1]:.3f} at (3, 3)",
    bool(hard[0, 1] > 0),
)

# %%
fig = plt.figure(figsize=(9, 3.4), layout="constrained")
solid = fig.add_subplot(1, 2, 1, projection="3d")
R, D, C = (np.asarray(part) for part in surface.functionals)
solid.plot_surface(D, C, R, cmap="viridis", alpha=0.6, linewidth=0)
solid.plot(path.distortion, path.classification, path.rate, "C3", lw=2.5, zorder=9)
solid.set(xlabel="D", ylabel="C", zlabel="R", title="equilibria")
solid.view_init(25, 35)
plane = fig.add_subplot(1, 2, 2)
lines = plane.contour(lams, gams, C.T, 14, cmap="viridis")
plane.clabel(lines, fontsize=7)
plane.plot(path.lam, path.gam, "C3", lw=2.5, label="iso-classification")
plane.set(xlabel="λ", ylabel="γ", title="C [nats] over the controls")
plane.legend(fontsize=8)

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
onset_gams = np.linspace(0, 0.66, 12)
places = np.array([[0.12, 0.0], [0.14, 0.0], [0.05, 0.65], [0.05, 0.7]])
with jax.enable_x64(True):
    hot = jax.nn.one_hot(labels, 10, dtype=float)
    critical = jax.jit(lambda x, y, gam: rep.critical_lam(x, WIDTH, y=y, gam=gam))
    line = [float(critical(pixels, hot, gam)) for gam in onset_gams]
    strength = jax.jit(lambda x, y, tau: rep.onset_strength(x, y, tau, WIDTH))
    strengths = [float(strength(pixels, hot, exact(*p))) for p in places]
    code = lambda p: rep.codebook_equilibrium(
        pixels, hot, exact(*p), decoder_scale=WIDTH, num_codes=4, num_restarts=1
    )
    rates = [float(code(p).functionals.rate) for p in places]

    @jax.jit
    def linear(lam, cov=np.cov(pixels.T, ddof=0)):
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
axes[0].legend(fontsize=8)
axes[1].semilogx(ladder, 2 * heat, label="2 λ² χ")
axes[1].semilogx(ladder, active, "k:", label="active modes")
axes[1].set(xlabel="λ", title="linear optimum: heat capacity counts")
axes[1].legend(fontsize=8)

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
untrained = init(jax.random.key(0))
params, _, run = fit(start, train, untrained, jax.random.key(1))
print(f"J {run.losses[0]:.1f} → {run.losses[-200:].mean():.2f} nats per image", end=", ")
print(f"still moving by {run.drift:.2f} ± {run.drift_stderr:.2f} per 1,000 steps")
for name, part in (("train", train), ("test", test)):
    mean, error = measure(params, part, jax.random.key(2))
    line_of = [f"{n} {m:.3f} ± {e:.3f}" for n, m, e in zip("RDC", mean, error, strict=True)]
    print(f"{name:5}", "  ".join(line_of), f" accuracy {rep.accuracy(model, params, part):.3f}")

# %% [markdown]
# At frozen decoder and classifier the best codes are known up to $Z_x$. Importance sampling
# from the encoder and annealed sampling must agree on it; what is left of $J$ is the price of
# an amortised encoder, $J - G = E_x\,\mathrm{KL}(e\|e^*)$. An untrained encoder misses the
# codes that matter: its weights collapse onto a few samples, and the number says so.

# %%
few = jax.tree.map(lambda a: a[:6], test)
evidence = functools.partial(rep.log_partition, model, num_samples=256)
importance = jax.jit(evidence)
annealed = jax.jit(functools.partial(evidence, method="annealed", num_temps=16))
tau = Controls(*map(jnp.float32, start))
by_weights = importance(params, few, tau, jax.random.key(3))
by_annealing = annealed(params, few, tau, jax.random.key(4))
for k in range(6):
    print(
        f"image {k}: log Z {by_weights.log_z[k]:.3f} ± {by_weights.stderr[k]:.3f} by weights, "
        f"{by_annealing.log_z[k]:.3f} ± {by_annealing.stderr[k]:.3f} by annealing, "
        f"ess {by_weights.ess[k]:.0f} of 256"
    )
gap = jax.jit(functools.partial(rep.encoder_gap, model))(params, few, tau, jax.random.key(5))
lost, lost_error = rep.mean_and_stderr(gap.value)
collapsed = importance(untrained, few, tau, jax.random.key(3))
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
# The response $\chi = g^T A^{-1} g$ of a network needs no matrix: conjugate gradients on
# products with the curvature $A$. It presumes a minimum, which a few thousand steps of Adam
# do not reach, so it is asked twice: as it stands, and damped.


# %%
def means(data, params):
    """R, D and C of fixed images and fixed noise."""
    return rep.expected_functionals(model, params, data, jax.random.key(6), num_samples=4)


sample = jax.tree.map(lambda a: a[:200], train)
respond = functools.partial(
    rep.susceptibility,
    jax.tree_util.Partial(means, sample),
    params,
    tau,
    tol=1e-3,
    max_iter=200,
)
answers = {damping: respond(damping=damping) for damping in (0.0, 0.01, 0.1, 1.0)}
for damping, answer in answers.items():
    print(
        f"damping {damping}: chi_ll {answer.chi[0, 0]:.1f}, chi_lg {answer.chi[0, 1]:.3f}, "
        f"chi_gg {answer.chi[1, 1]:.4f}, residual {answer.residual.max():.0e}",
        *(note.split(":")[0] for note in tj.explain(int(answer.flags))),
    )

# %% [markdown]
# ## A network's iso-classification
#
# Now the path with stochastic gradients: $\lambda$ rises tenfold in ten steps, and after every
# block of gradient steps $\gamma$ is fed back from $C$ on validation images. Beside it the
# same path at fixed $\gamma$. Both run in one program.


# %%
class Pair(NamedTuple):
    """What is trained on, and where C is held: from a first task to a second."""

    first: rep.Batch
    second: rep.Batch


def still(pair):
    """One task, C held on other images than those of the training."""
    return rows_of(pair.first), rows_of(pair.second)


def mixture(pair):
    """p_t = (1 - t) p_first + t p_second, C held on the images of the training."""
    return (rep.mixture_path(*pair),) * 2


@functools.partial(jax.jit, static_argnames="samplers")
def follow(samplers, pair, params, schedule, key):
    """The path with gam fed back, and with gam fixed."""

    def one(gain):
        plant = rep.Plant(
            model,
            *samplers(pair),
            adam,
            batch_size=128 if samplers is still else 64,
            block_steps=20,
            measure_samples=8,
            measure_size=250,
        )
        feedback = rep.Feedback(integral=0.2 * gain, proportional=1.0 * gain)
        return rep.controlled_path(
            plant, params, schedule, key, gam0=start.gam, feedback=feedback
        )

    return jax.vmap(one)(jnp.array([1.0, 0.0]))


schedule = rep.make_schedule(10, lam=start.lam, lam_end=1.0, num_blocks=15, grid="still")
iso = follow(still, Pair(train, validation), params, schedule, jax.random.key(7))
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
        f"dR {seen.rate[-1] - seen.rate[0]:.2f} of {heat:.2f}"
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
side = lambda data, low: jax.tree.map(
    lambda a: a[np.isin(data.y, np.arange(low, low + 5))], data
)
pair = Pair(side(train, 0), side(train, 5))
begin, _, _ = fit(Controls(0.3, 5.0), side(train, 0), untrained, jax.random.key(8))
moves = rep.make_schedule(10, lam=0.3, num_blocks=15)
carried = follow(mixture, pair, begin, moves, jax.random.key(9))
read = carried.readings
C = np.asarray(read.held_out.classification)
strayed = C / C[:, :1] - 1
rms = np.sqrt(np.mean(strayed[:, 1:] ** 2, axis=1))
target, source = side(test, 5), side(test, 0)
accuracy = jax.jit(functools.partial(rep.accuracy, model))
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
