"""Attention of a few new queries over a long key/value cache, in blocks of slots that fit the cache of a core."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent.attention import HIDDEN, cached_attention
from agent.blockwise import FLOOR, fold, unfold

BLOCK_BYTES = 2**20
"""Of the keys of one block, all chains and heads. On two CPU cores, over 128,000 slots of width 128, a quarter of it
takes 1.2 times as long, four times as much 5 times, all slots at once 5 times."""

MATRIX_BYTES = 2**20
"""Up to so many bytes of keys of one chain and head, XLA's product with a single query is faster than blocks."""


def slots_per_block(chains: int, kv_heads: int, head: int, bytes_each: int) -> int:
    """S, a power of two."""
    return max(1, 2 ** (BLOCK_BYTES // (chains * kv_heads * head * bytes_each)).bit_length() // 2)


def whole_blocks(slots: int, chains: int, kv_heads: int, head: int, bytes_each: int) -> int:
    """C, rounded up to whole blocks where there are several."""
    block = slots_per_block(chains, kv_heads, head, bytes_each)
    return slots if slots < 2 * block else -(-slots // block) * block


def attend(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """[B, Q, H, D], [B, G, C, D] twice, bool [B or 1, Q, C] -> [B, Q, H, D]: `attention.cached_attention`.

    On a CPU a long cache is read block by block with a running maximum (arXiv 2112.05682, section 3), from the first
    slot that the mask shows to the last: slots that are not filled yet cost nothing.
    """
    batch, kv_heads, slots, width = keys.shape
    block = slots_per_block(batch, kv_heads, width, keys.dtype.itemsize)
    alone = q.shape[1] * q.shape[2] == kv_heads and slots * width * keys.dtype.itemsize <= MATRIX_BYTES
    if jax.default_backend() != "cpu" or alone or slots < 2 * block or slots % block:
        return cached_attention(q, keys, values, mask)
    group = q.shape[2] // kv_heads
    rows = fold(q * width**-0.5, kv_heads)
    out = _in_blocks(rows, keys, values, jnp.tile(mask, (1, group, 1))[:, None], block)
    return unfold(out, q.shape[1])


def _in_blocks(q: Array, keys: Array, values: Array, mask: Array, block: int) -> Array:
    """[B, G, R, D], [B, G, C, D] twice, bool [B or 1, 1, R, C] -> [B, G, R, D]; q is scaled."""
    seen = mask.any((0, 1, 2))
    first = jnp.argmax(seen) // block
    end = (len(seen) - jnp.argmax(seen[::-1]) + block - 1) // block

    def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, maximum, total = carry
        k, v = (lax.dynamic_slice_in_dim(x, j * block, block, axis=2) for x in (keys, values))
        scores = jnp.einsum("bgrd,bgcd->bgrc", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(lax.dynamic_slice_in_dim(mask, j * block, block, axis=3), scores, HIDDEN)
        new_maximum = jnp.maximum(maximum, scores.max(-1))
        weights, shrink = jnp.exp(scores - new_maximum[..., None]), jnp.exp(maximum - new_maximum)
        added = jnp.einsum("bgrc,bgcd->bgrd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return out * shrink[..., None] + added, new_maximum, total * shrink + weights.sum(-1)

    zeros = jnp.zeros(q.shape[:3], jnp.float32)
    carry = (jnp.zeros(q.shape, jnp.float32), jnp.full_like(zeros, FLOOR), zeros)
    out, _, total = lax.fori_loop(first, end, step, carry)
    return (out / jnp.where(total > 0, total, 1.0)[..., None]).astype(values.dtype)
