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
# # The laws of learning
#
# Seed 0 throughout; about a minute on two CPU cores.
#
# Vanchurin (2021, arXiv 2004.09280) describes a network by its neurons x, its trainables
# q = (w, b) and a bulk loss H(x; q). Neurons are fast, trainables slow, so neurons have a
# canonical ensemble, and everything follows from one number:
#
# log Z(β, q; data) = Σ over examples of log ∫ dx exp(−βH(x; q)).
#
# From it the paper draws a first law, a second law by which entropy *falls* while a network
# learns, and a reason why deep networks learn efficiently. We have seen the abstract and
# equation numbers only. Where it leaves a sign or a split open, both readings are measured,
# and every claim gets a verdict from numbers: the paper's,
# our readings of it, what is textbook, and what is derived here.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import thermojax as tj

jax.config.update("jax_enable_x64", True)
plt.rcParams["figure.dpi"] = 70
laws = tj.learning_laws
verdicts = []


def claim(whose, text, measured, holds):
    """Note a claim with its verdict: holds, fails, or open (None)."""
    word = "open" if holds is None else "holds" if holds else "fails"
    verdicts.append((word, whose, text, measured))
    print(f"{word.upper()}: {text} ({measured})")


# %% [markdown]
# ## A network you know
#
# A flax MLP learns handwritten digits by optax SGD, from eight starts at once. The loss is
# half the squared distance to the one-hot target.

# %%
pixels, labels = load_digits(return_X_y=True)
chosen = np.random.default_rng(0).permutation(len(pixels))[:512]
images, targets = jnp.asarray(pixels[chosen] / 16), jnp.eye(10)[labels[chosen]]
data = {"x": images, "y": targets}
NETWORKS, BATCH = 8, 32
STEPS = np.array([0, 100, 300, 1000, 2000])


def mlp(depth):
    """Tanh layers of 16 units and a linear readout."""
    hidden = [module for _ in range(depth) for module in (nn.Dense(16), nn.tanh)]
    return nn.Sequential([*hidden, nn.Dense(10)])


def train(model, key, steps, networks):
    """Parameters after `steps` (hundreds) of SGD, leading axes [network, checkpoint]."""
    descent = optax.sgd(0.1)

    def loss(params, rows):
        miss = targets[rows] - model.apply(params, images[rows])
        return 0.5 * jnp.mean(jnp.sum(miss**2, axis=1))

    def step(carry, key):
        params, moments = carry
        rows = jax.random.randint(key, (BATCH,), 0, len(images))
        updates, moments = descent.update(jax.grad(loss)(params, rows), moments)
        return (optax.apply_updates(params, updates), moments), None

    def record(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, carry[0]

    def one(key):
        params = model.init(jax.random.fold_in(key, 0), images[:1])
        keys = jax.random.split(jax.random.fold_in(key, 1), (steps[-1] // 100, 100))
        _, path = jax.lax.scan(record, (params, descent.init(params)), keys)
        whole = lambda start, rest: jnp.concatenate([start[None], rest])[steps // 100]
        return jax.tree.map(whole, params, path)

    return jax.jit(jax.vmap(one))(jax.random.split(key, networks))


model = mlp(2)
trained = train(model, jax.random.key(0), STEPS, NETWORKS)
last = jax.tree.map(lambda leaf: leaf[0, -1], trained)
right = jnp.argmax(jax.jit(model.apply)(last, images), 1) == jnp.argmax(targets, 1)
print(f"the first network is right on {jnp.mean(right):.1%} of its {len(images)} images")

# %% [markdown]
# ## It is a septuple (x, P_in, P_out, w, b, f, H)
#
# `from_flax` takes its weights over as they are. Written as one matrix over all neurons,
# they are block-nilpotent: signals leave the network after as many steps as it has layers.

# %%
sizes = (64, 16, 16, 10)
net = laws.layered_network(sizes, "tanh")
layers = laws.from_flax(last)
dense, support, places = laws.embed_layers(layers)
N = len(dense["b"])
whole = laws.dense_network(
    N,
    "tanh",
    output_activation="linear",
    inputs=range(64),
    outputs=range(N - 10, N),
    support=support,
)
x0 = jax.random.normal(jax.random.key(1), (N,))  # any state of the hidden neurons
settled = laws.settle(whole, dense, x0, len(layers), {"x": images[0], "y": None})
away = float(jnp.max(jnp.abs(settled[-10:] - model.apply(last, images[0]))))
powers = [np.abs(np.linalg.matrix_power(dense["w"], k)).max() for k in (3, 4)]
claim(
    "our reading",
    "a feedforward network is block-nilpotent: L activation steps from any state end in flax's "
    "forward pass",
    f"outputs {away:.0e} apart; |w³| = {powers[0]:.1f}, |w⁴| = {powers[1]:.0f}",
    away < 1e-12 and powers[0] > 0 and powers[1] == 0,
)

# %% [markdown]
# ## The canonical ensemble of states, by five routes
#
# A small one first, so that nothing is hidden: 1-1-1-1 neurons, input and output clamped, two
# free tanh neurons between them. Quadrature is exact there, the linearised formula and
# Laplace's are closed forms, the noisy forward pass and annealing are samplers, whose log Z
# comes with its error. (`as_system` hands the same states to every sampler of the library.)

# %%
chain = [
    (w * jnp.ones((1, 1)), jnp.array([b])) for w, b in ((0.5, 0.1), (1.2, -0.3), (0.8, 0.05))
]
small = laws.layered_network((1, 1, 1, 1), "tanh")
seen = {"x": jnp.ones((1, 1)), "y": jnp.full((1, 1), 0.4)}
exact = laws.thermodynamic_state(small, chain, seen, 5.0, method="quadrature")
print(f"quadrature log Z = {exact.log_z:.8f}, exact; U = {exact.internal_energy:.8f}")
scores = {}
for method, key in (("linearized", 0), ("laplace", 0), ("forward", 1), ("ais", 2)):
    given = {"key": jax.random.key(key)} if key else {}
    state = laws.thermodynamic_state(small, chain, seen, 5.0, method=method, **given)
    off = float(state.log_z - exact.log_z)
    note = ""
    if key:
        scores[method] = off / float(state.stderr)
        note = f" ± {state.stderr:.4f}, {state.ess:.0f} effective samples"
    print(f"{method:10} log Z = {state.log_z:.4f}{note}, off by {off:+.4f}")
claim(
    "textbook",
    "sampled and exact log Z agree",
    ", ".join(f"{name} z = {z:+.1f}" for name, z in scores.items()),
    max(map(abs, scores.values())) < 4,
)

# %% [markdown]
# With the output left free, nothing is to be learned: the map from states to residuals is
# triangular with unit determinant, so log Z does not know the weights at all. Learning forces
# come from clamping the output.

# %%
free = {"x": images, "y": None}
norms = {}
for name, clamp in (("free", free), ("clamped", data)):
    free_energy = lambda q, clamp=clamp: laws.total_free_energy(net, q, clamp, 10.0)
    force = jax.jit(jax.grad(free_energy))(layers)
    norms[name] = float(optax.global_norm(force))
claim(
    "derived here",
    "forces on the weights exist only where the output is clamped",
    f"|∂F/∂q| is {norms['free']:.0f} free, {norms['clamped']:.0f} clamped",
    norms["free"] == 0 < norms["clamped"],
)

# %% [markdown]
# ## A recurrent surprise: three fixed points, and the unstable one counts
#
# One neuron that listens to itself, x = tanh(1.8 x). Two memories attract; the fixed point
# between them repels, so dynamics never shows it. Yet all three are minima of H with H = 0, and
# leaving the repelling one out spoils log Z.

# %%
loop = laws.dense_network(1, "tanh")
self_talk = {"w": jnp.array([[1.8]]), "b": jnp.zeros(1)}
COLD = 20.0
truth = laws.thermodynamic_state(loop, self_talk, None, COLD, method="quadrature")
starts = jnp.array([[-1.0], [0.1], [1.0]])
points = jax.jit(lambda starts: laws.fixed_points(loop, self_talk, starts))(starts)
laplace = jax.jit(lambda starts: laws.fixed_point_sum(loop, self_talk, starts, COLD))
three, two = laplace(starts), laplace(jnp.sign(starts - 0.5))  # a point found twice counts once
missed = [abs(float(state.log_z - truth.log_z)) for state in (two, three)]
claim(
    "derived here",
    "every fixed point carries weight, the repelling one too",
    f"two of them miss log Z by {missed[0]:.3f} nats, three by {missed[1]:.3f}",
    missed[1] < 0.05 < missed[0],
)
x = jnp.linspace(-1.6, 1.6, 400)
energy = jax.vmap(lambda v: loop.energy(self_talk, v[None], None))(x)
fig, axes = plt.subplots(1, 3, figsize=(10, 2.9), layout="constrained")
axes[0].imshow(np.where(np.asarray(support), np.abs(dense["w"]), np.nan), cmap="viridis")
axes[0].set(xlabel="from neuron", ylabel="to neuron", title="digits: |w|, block-nilpotent")
axes[1].plot(x, energy)
axes[1].plot(
    points.points[:, 0], 0 * points.points[:, 0], "o", color="C3", label="fixed points"
)
axes[1].set(xlabel="x", ylabel="H(x)", title="x = tanh(1.8 x): bulk loss")
axes[2].plot(x, jnp.exp(-COLD * energy - truth.log_z))
axes[2].set(xlabel="x", ylabel="p(x)", title="states at β = 20")
axes[1].legend(fontsize=8, loc="upper center")
_ = axes[1].set_ylim(-0.01, 0.12)

# %% [markdown]
# ## Entropy, complexity, excess: S = S_ref + C + E
#
# Back to digits. log Z per image is that of the linearised noise, a closed form of ten by ten
# determinants. Two temperatures are of interest: fixed ones, and β* that fits the loss by
# maximum likelihood, which rises as the loss falls. S_ref belongs to decoupled neurons
# (the paper's thermodynamic entropy, as we read it), C is the complexity, and the paper's
# two-term entropy is the case E = 0.

# %%
closed = {"method": "linearized", "reduction": "mean"}
BETAS = jnp.array([1.0, 3.0, 10.0, 30.0])


@jax.jit
def read(networks):
    """Loss, beta*, states at fixed temperatures and at beta* of one network after another."""

    def one(q):
        beta = laws.calibrate_beta(net, q, data)
        every = jnp.append(BETAS, beta)
        states = jax.lax.map(
            lambda b: laws.thermodynamic_state(net, q, data, b, **closed), every
        )
        return laws.boundary_loss(net, q, data, "mean"), beta, states

    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), networks)
    return jax.lax.map(one, jax.vmap(laws.from_flax)(flat))


loss, beta, states = read(trained)
loss, beta = (np.asarray(v).reshape(NETWORKS, -1) for v in (loss, beta))
fold = lambda v: np.asarray(v).reshape(NETWORKS, len(STEPS), -1)
S, S_ref, C, E = (
    fold(getattr(states, n)) for n in ("entropy", "entropy_ref", "complexity", "excess")
)
print("step   loss     β*      S  =  S_ref +    C   +   E     (first network, nats per image)")
for k, step in enumerate(STEPS):
    row = (S[0, k, -1], S_ref[0, k, -1], C[0, k, -1], E[0, k, -1])
    print(
        f"{step:4d}  {loss[0, k]:.3f}  {beta[0, k]:5.1f}  "
        + "  ".join(f"{v:6.2f}" for v in row)
    )
left = np.abs(S - S_ref - C - E).max()
claim("derived here", "the split is exact", f"largest residual {left:.0e} nats", left < 1e-10)

# %% [markdown]
# ## Second law: entropy falls while a network learns
#
# It does at β*. At a fixed temperature it has no direction. Both are readings of "the total
# entropy"; the abstract does not choose.

# %%
fixed, fitted = np.diff(S, axis=1)[..., :-1], np.diff(S, axis=1)[..., -1]
claim(
    "paper",
    "second law: S falls at every checkpoint (β* of the loss)",
    f"by {-fitted.sum(1).max():.0f} nats or more in all, every network",
    bool(np.all(fitted < 0)),
)
claim(
    "our reading",
    "second law: S falls at every checkpoint (states at a fixed temperature)",
    f"steps between {fixed.min():+.2f} and {fixed.max():+.2f} nats",
    bool(np.all(fixed < 0)),
)

# %% [markdown]
# ## Does Z factorise at a learning equilibrium?
#
# The paper: Z = Z₁(β) Z₂(q) there. A table of log Z over temperatures and networks tells how
# far it is from a sum: its interaction, as in an analysis of variance. We ask for a tenth of
# what it was before training, and a quarter of its share. A single network tells by its
# forces, ∂F = ∂U − T ∂S: factorised means that the first one is gone, below a half at least.

# %%
log_z = fold(states.log_z)[..., :-1]
split = [laws.interaction(log_z[:, k].T) for k in range(len(STEPS))]
fraction, rms = ([float(getattr(s, n)) for s in split] for n in ("fraction", "rms"))
claim(
    "paper",
    "log Z factorises as networks are trained",
    f"rms {rms[0]:.2f} → {rms[-1]:.3f} nats, fraction {fraction[0]:.2f} → {fraction[-1]:.3f}",
    rms[-1] < 0.1 * rms[0] and fraction[-1] < 0.25 * fraction[0],
)
share = laws.energetic_fraction(net, layers, data, beta[0, -1], **closed)
claim(
    "our reading",
    "the energetic force is gone at the end of training",
    f"its share is {share.fraction:.2f} at β*",
    bool(share.fraction < 0.5),
)

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 2.9), layout="constrained")
axes[0].semilogy(STEPS, loss.mean(0), "o-", ms=3, label="loss")
axes[0].semilogy(STEPS, 1 / beta.mean(0), "o-", ms=3, label="T* = 1/β*")
axes[0].set(ylabel="per image", title="digits: learning")
parts = (("S", S, "k-"), ("S_ref", S_ref, "C3-"), ("C", C, "C2-"), ("E", E, "C7-"))
for name, values, style in parts:
    axes[1].plot(STEPS, values[..., -1].mean(0), style, label=name)
axes[1].plot(STEPS, S[..., 1].mean(0), "k:", label="S at β = 3")
axes[1].set(ylabel="nats per image", title="second law, at β*", ylim=(-55, 70))
axes[2].semilogy(STEPS, rms, "o-", ms=3, label="rms, nats")
axes[2].semilogy(STEPS, fraction, "o-", ms=3, label="fraction")
axes[2].set(title="interaction of β and q in log Z", ylim=(0.01, 2))
for axis in axes:
    axis.set_xlabel("SGD steps")
    axis.legend(fontsize=8, ncols=2 if axis is axes[1] else 1)

# %% [markdown]
# ## First law: what pays for the loss
#
# Exact, and textbook, is dU = T dS + ⟨∂H/∂q⟩·dq. The paper has the loss proportional to
# thermodynamic entropy plus complexity. Two readings: dU = T dS_ref, or dU = T (dS_ref + dC).
# We follow the first network along straight lines between its checkpoints; the exact law may
# miss a hundredth of ΔU, the trapezoid rule's, and the readings a twentieth.

# %%
SIDES = 8
part = {name: values[:64] for name, values in data.items()}


def path(leaf):
    """Checkpoints of the first network, and points between them."""
    corners = leaf[0]
    weight = (jnp.arange(SIDES) / SIDES).reshape(-1, *[1] * (corners.ndim - 1))
    inner = corners[:-1, None] + weight * jnp.diff(corners, axis=0)[:, None]
    return jnp.concatenate([inner.reshape(-1, *corners.shape[1:]), corners[-1:]])


@jax.jit
def balance(checkpoints):
    """First law at beta* along the path, and with every other point left out."""

    def one(q):
        beta = laws.calibrate_beta(net, q, part)
        free_energy = lambda p: laws.total_free_energy(net, p, part, beta, **closed)
        state = laws.thermodynamic_state(net, q, part, beta, **closed)
        return state, beta, q, jax.grad(free_energy)(q)

    networks = jax.vmap(laws.from_flax)(jax.tree.map(path, checkpoints))
    fine = jax.lax.map(one, networks)
    return laws.first_law(*fine), laws.first_law(*jax.tree.map(lambda leaf: leaf[::2], fine))


law, coarse = balance(trained)
du, T_dS_ref = float(law.delta_u), float(law.delta_u - law.residual_th)
print(f"ΔU = {du:.4f} per image, heat {law.heat:.4f}, work {law.work:.4f}")
claim(
    "textbook",
    "first law, dU = T dS + ⟨∂H/∂q⟩·dq",
    f"misses {abs(law.residual / du):.2%} of ΔU, with half the points "
    f"{abs(coarse.residual / du):.2%}",
    bool(abs(law.residual / du) < 0.01),
)
readings = {"dU = T dS_ref": law.residual_th, "dU = T (dS_ref + dC)": law.residual_sum}
for name, residual in readings.items():
    off = abs(float(residual) / du)
    claim("our reading", f"first law, {name}", f"misses {off:.0%} of ΔU", off < 0.05)
ratio = du / T_dS_ref
claim(
    "derived here",
    "loss and thermodynamic entropy are proportional at β*",
    f"dU = {ratio:.3f} T dS_ref, and (n_h + n_out)/n_h = {42 / 32:.3f}",
    abs(ratio - 42 / 32) < 0.02,
)

# %% [markdown]
# ## Learning destroys the entropy of the trainables; how fast depends on depth
#
# An ensemble of networks under gradient flow loses entropy at the rate of the Laplacian of F,
# which the paper calls the efficiency of learning, and which it finds larger in deep networks.
# Three networks of two hidden layers against three of eight, after 1,000 steps. We ask for half
# as much again in hot states (β = 1), and for more at all at β*.

# %%
efficiency = {}
deep = train(mlp(8), jax.random.key(1), np.array([0, 1000]), 3)
for depth, networks, at in ((2, trained, 3), (8, deep, 1)):
    system = laws.layered_network((64, *[16] * depth, 10), "tanh")

    @jax.jit
    def curved(networks, keys, system=system, at=at):
        """Laplacian of F per image at beta = 1 and beta*, and its errors."""

        def one(item):
            q, key = item
            beta = laws.calibrate_beta(system, q, part)
            laplacian = lambda b: laws.learning_efficiency(
                system, q, part, b, laplacian="hutchinson", probes=8, key=key, **closed
            )
            found = jax.lax.map(laplacian, jnp.append(1.0, beta))
            return found.value, found.stderr

        chosen = jax.tree.map(lambda leaf: leaf[:3, at], networks)
        return jax.lax.map(one, (jax.vmap(laws.from_flax)(chosen), keys))

    keys = jax.random.split(jax.random.key(depth), 3)
    value, error = map(np.asarray, curved(networks, keys))
    efficiency[depth] = value
    bar = np.sqrt((error**2).sum(0)) / 3
    for k, name in enumerate(("β = 1", "β*")):
        print(
            f"depth {depth}, {name:5}: ∇²F = {value[:, k].mean():.0f} ± {bar[k]:.0f} per image"
        )
    sure = float((value / error).min())
    claim("paper", f"∇²F > 0, depth {depth}", f"at least {sure:.0f} of its errors", sure > 4)
grown = efficiency[8].mean(0) / efficiency[2].mean(0)
asked = (("paper", "hot states (β = 1)", 1.5), ("our reading", "states at β*", 1.0))
for k, (whose, name, least) in enumerate(asked):
    measured = f"depth 8 over depth 2: {grown[k]:.2f}"
    claim(whose, f"deeper is more efficient, {name}", measured, bool(grown[k] > least))

# %% [markdown]
# ## Everything differentiates
#
# Derivatives of log Z are the thermodynamics. In β it is the mean energy; in the weight of the
# neuron that listens to itself, the force on it.

# %%
log_z_of = lambda beta, w: laws.log_partition(loop, {**self_talk, "w": w}, None, beta)
in_beta, in_w = jax.grad(log_z_of, argnums=(0, 1))(COLD, self_talk["w"])
finite = (log_z_of(COLD, self_talk["w"] + 1e-4) - log_z_of(COLD, self_talk["w"] - 1e-4)) / 2e-4
print(f"∂log Z/∂β = {in_beta:.10f}, −U = {-truth.internal_energy:.10f}")
print(f"∂log Z/∂w = {in_w[0, 0]:.8f}, by finite difference {finite:.8f}")
assert abs(in_beta + truth.internal_energy) < 1e-10
assert abs(in_w[0, 0] - finite) < 1e-5 * abs(finite)

# %% [markdown]
# ## What holds
#
# The second law and the factorisation hold on digits, the second law at the temperature of the
# loss and there alone. The first law holds as the textbook has it; both readings of the
# paper's form miss, one of them by a constant factor that is known exactly. Depth helps hot
# states only. Which of the readings the paper means cannot be decided from what we have seen.

# %%
claim("paper", "loss ∝ thermodynamic entropy plus complexity", "sign and constant unseen", None)
print()
for word, whose, text, measured in verdicts:
    print(f"{word:5}  [{whose}] {text}: {measured}")
assert all(
    word == "holds" for word, whose, *_ in verdicts if whose in ("textbook", "derived here")
)
