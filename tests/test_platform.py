"""What this machine's jax does to us, and what importing thermojax does to jax."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np


def test_no_miscompiled_matrix_products(x64):
    """jax 0.10.2 hands walkers each other's energies on CPU (jax-ml/jax#39103).

    jit(vmap(sum((A r)^2))) must equal its eager value in every row; there 3,616 of
    these 20,000 rows are wrong, while their mean is off by only 1e-5.
    """
    rng = np.random.default_rng(0)
    a, r = jnp.asarray(rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=(20_000, 3)))
    energy = jax.vmap(lambda row: jnp.sum((a @ row) ** 2))
    exact = np.sum((np.asarray(r) @ np.asarray(a).T) ** 2, axis=1)
    np.testing.assert_allclose(energy(r), exact, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(energy)(r), exact, rtol=1e-12)


HEAVY = {
    *("diffrax", "equinox", "flax", "matplotlib", "optax", "orbax", "ott", "pandas", "rich"),
    *("scipy.stats", "sklearn", "tyro", "xarray"),
}

LOOK = """
import json, sys
import jax
settings = lambda: {n: str(getattr(jax.config, n, "")) for n in jax.config.values}
before = settings()
import thermojax
backends = len(jax._src.xla_bridge._backends)
print(json.dumps({
    "modules": sorted(sys.modules),
    "arrays": len(jax.live_arrays()),
    "x64": bool(jax.config.jax_enable_x64),
    "changed": [n for n, v in settings().items() if before[n] != v],
    "backends": backends,
}))
"""


def test_import_is_light_and_leaves_jax_alone():
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOOK], capture_output=True, text=True, check=True
    )
    seen = json.loads(out.stdout)
    assert not HEAVY & set(seen["modules"])
    assert seen["arrays"] == 0
    assert seen["backends"] == 0
    assert not seen["x64"]
    assert seen["changed"] == []
