"""Multilayer perceptrons as lists of arrays: jax.numpy to learn, NumPy to act one observation at a time."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DECIMALS = 5
"""To which what BLAS and LAPACK computed is rounded, in double precision: its last bits depend on the CPU."""
TERMS = 16
"""Of a sum, added in one pass over memory: with 8 a product takes seven times as long, with 32 a fifth longer."""
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


@jax.custom_vjp
def product(x: jax.Array, weights: jax.Array) -> jax.Array:
    """`[B, in] @ [in, out] -> [B, out]`, and its gradients, by sums in one order on every CPU."""
    return _in_order(x.T, weights)


def _product_forward(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, weights), (x, weights)


def _product_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weights = saved
    return _in_order(gradient.T, weights.T), _in_order(x, gradient)


product.defvjp(_product_forward, _product_backward)


def _in_order(a: jax.Array, b: jax.Array) -> jax.Array:
    """`[K, M], [K, N] -> [M, N]`: `a.T @ b`, each sum from the first of K to the last.

    XLA multiplies by libraries that choose kernels by the CPU's instructions, and blocks by the sizes of its caches.
    """
    rest = -len(a) % TERMS
    a, b = (jnp.pad(x, ((0, rest), (0, 0))).reshape(-1, TERMS, x.shape[1]) for x in (a, b))

    def add(total: jax.Array, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        for left, right in zip(*rows, strict=True):
            total = total + left[:, None] * right[None]
        return total, None

    return jax.lax.scan(add, jnp.zeros((a.shape[2], b.shape[2]), a.dtype), (a, b))[0]


def mlp(layers: Layers, inputs: Any, xp: ModuleType = jnp) -> Any:
    """`[B, in] -> [B, out]`, by jax.numpy or by NumPy.

    The first hidden layer is normalised and squashed, as in ExoRL's agents: it keeps TD3 stable at high
    learning rates. The others are rectified.
    """
    x, multiply = inputs, product if xp is jnp else np.matmul
    for depth, (weights, bias) in enumerate(layers):
        x = multiply(x, weights) + bias[None]
        if depth == 0:
            x = x - x.mean(-1, keepdims=True)
            deviation = xp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
            # The maximum changes nothing, but keeps XLA from 1 / sqrt(x), which a CPU approximates in its own way.
            x = xp.tanh(x / xp.maximum(deviation, 1e-3))
        elif depth < len(layers) - 1:
            x = xp.maximum(x, 0)
    return x
