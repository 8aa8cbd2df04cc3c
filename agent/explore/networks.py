"""Multilayer perceptrons as lists of arrays: jax.numpy to learn, NumPy to act one observation at a time."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DECIMALS = 5
"""To which what BLAS and LAPACK computed is rounded, in double precision: its last bits depend on the CPU."""
Layers = list[tuple[jax.Array, jax.Array]]
"""Weights [in, out] and bias [out] of each layer."""


def init_mlp(key: jax.Array, sizes: tuple[int, ...]) -> Layers:
    """Orthogonal weights and no bias; `sizes` are those of the input, each hidden layer and the output."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(_orthogonal(k, n, m), jnp.zeros(m)) for k, n, m in pairs]


def _orthogonal(key: jax.Array, n: int, m: int) -> jax.Array:
    """[n, m] whose rows or columns, the fewer, are orthogonal and of length sqrt(2), on every CPU the same."""
    normal = np.asarray(jax.random.normal(key, (max(n, m), min(n, m))), np.float64)
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))  # or it would not be drawn evenly from all such matrices
    return jnp.asarray(np.round(2**0.5 * (q if n >= m else q.T), DECIMALS), jnp.float32)


def mlp(layers: Layers, inputs: Any, xp: ModuleType = jnp) -> Any:
    """`[B, in] -> [B, out]`, by jax.numpy or by NumPy.

    The first hidden layer is normalised and squashed, as in ExoRL's agents: it keeps TD3 stable at high
    learning rates. The others are rectified.
    """
    x = inputs
    for depth, (weights, bias) in enumerate(layers):
        x = x @ weights + bias[None]
        if depth == 0:
            x = x - x.mean(-1, keepdims=True)
            deviation = xp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
            # The maximum changes nothing, but keeps XLA from 1 / sqrt(x), which a CPU approximates in its own way.
            x = xp.tanh(x / xp.maximum(deviation, 1e-3))
        elif depth < len(layers) - 1:
            x = xp.maximum(x, 0)
    return x
