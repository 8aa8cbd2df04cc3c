"""The Blockwise Parallel Transformer layer as its authors published it, written anew: the rival to measure against.

arXiv 2305.19370, algorithm 1, in the way of its code: a scan over blocks of queries, in each a scan over all
blocks of keys, those of the future too, with a running softmax; then a scan over blocks for the feed-forward network.
The insides of both are rematerialised, nothing in them is kept, and the gradient is left to autodiff.
"""

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent.blockwise import merge, split
from agent.bpt import layer_norm

if TYPE_CHECKING:
    from agent.bpt import LayerWeights

_remat = partial(jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.nothing_saveable)


def published_layer(weights: "LayerWeights", x: Array, chunk: int) -> Array:
    """[B, L, E] -> [B, L, E], causal: the numbers of our layer.

    Args:
      weights: of one layer, with as many heads of keys as of queries.
      chunk: tokens per block, a divisor of L.

    Raises:
      ValueError: a chunk that does not divide L.
    """
    batch, length, width = x.shape
    if length % chunk:
        raise ValueError(f"chunk: expected a divisor of the {length} tokens, got {chunk}")
    heads, head, _ = weights.out.shape
    h = layer_norm(x, weights.norm1_scale, weights.norm1_bias)
    matrices = jnp.split(weights.qkv.reshape(width, -1), 3, axis=1)
    q, k, v = (split((h @ matrix).reshape(batch, length, heads, head), chunk) for matrix in matrices)
    attended = merge(attention(q * head**-0.5, k, v), length)
    x = x + attended.reshape(batch, length, -1) @ weights.out.reshape(-1, width)

    @_remat
    def feed_forward(_: None, x: Array) -> tuple[None, Array]:
        h = layer_norm(x, weights.norm2_scale, weights.norm2_bias)
        h = jax.nn.gelu(h @ weights.ffn_in + weights.ffn_in_bias[None, None], approximate=True)
        return None, h @ weights.ffn_out + weights.ffn_out_bias[None, None]

    _, added = lax.scan(feed_forward, None, split(x, chunk))
    return x + merge(added, length)


def attention(q: Array, k: Array, v: Array) -> Array:
    """[n, B, C, H, D] three times -> the same, by a running maximum, sum and weighted sum over blocks of keys."""
    n, batch, chunk, heads, _ = q.shape
    indices = jnp.arange(n)

    def of_queries(nothing: None, block: tuple[Array, Array]) -> tuple[None, Array]:
        queries, i = block

        @_remat
        def of_keys(
            carry: tuple[Array, Array, Array], block: tuple[Array, Array, Array]
        ) -> tuple[tuple[Array, Array, Array], None]:
            numerator, denominator, maximum = carry
            keys, values, j = block
            place = jnp.arange(chunk)
            future = (i * chunk + place)[:, None] < (j * chunk + place)[None, :]
            scores = jnp.einsum("bqhd,bkhd->bqhk", queries, keys) + jnp.where(future, -1e10, 0.0)[None, :, None]
            new = lax.stop_gradient(jnp.maximum(maximum, scores.max(-1, keepdims=True)))
            weights, shrink = jnp.exp(scores - new), jnp.exp(maximum - new)
            numerator = numerator * shrink + jnp.einsum("bqhk,bkhd->bqhd", weights, values)
            return (numerator, denominator * shrink + weights.sum(-1, keepdims=True), new), None

        ones = jnp.ones((batch, chunk, heads, 1), q.dtype)
        start = jnp.zeros_like(queries), 0.0 * ones, -jnp.inf * ones
        sums, _ = lax.scan(of_keys, start, (k, v, indices))
        return None, sums[0] / sums[1]

    _, attended = lax.scan(of_queries, None, (q, indices))
    return attended
