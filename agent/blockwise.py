"""Exact causal attention in blocks, in memory linear in the row.

A row is cut into blocks of S tokens. A tile is a block of queries against a block of keys. Tiles that nobody may see
are left out, tiles that are seen whole need no mask. The rule of who sees whom and the hash of dropout are those of
agent/attention.py, so every form gives the same numbers. The heads that share a key and value head are one longer
block of queries: R = S * H / G rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent.attention import HIDDEN, Visibility, checked_seed, count, kept_weights, visible

FLOOR = -1e20
"""Where the running maximum starts: above HIDDEN, so that a hidden score weighs 0 also in a row that sees nothing."""

KeysValues = Callable[[Array], tuple[Array, Array]]
"""Index of a block -> its keys and values, [B, G, S, D] each."""


class Sight(NamedTuple):
    """What is fixed when a pass is compiled."""

    window: int | None
    span: int | None
    dropout_rate: float


class Tiles(NamedTuple):
    """A row cut into n blocks, and which blocks of keys each block of queries looks at."""

    chains: Array  # [n, B, S]
    trajectories: Array  # [n, B, S]
    order: Array  # [n, n] int32: for each block of queries, blocks of keys: those seen whole, those in part, the rest
    whole: Array  # [n] int32: how many are seen whole
    some: Array  # [n] int32: how many are seen whole or in part
    seed: Array  # uint32 scalar


def cut(sight: Sight, where: Visibility, block: int, dropout_seed: Array | None) -> Tiles:
    """Visibility of [B, L] -> tiles of `block` tokens. Raises ValueError: a dropout rate without a seed."""
    chains, trajectories = split(where.chains, block), split(where.trajectories, block)
    some, whole = _seen(sight, chains, trajectories)
    if sight.dropout_rate > 0.0:
        whole = jnp.zeros_like(whole)  # the weights that dropout takes away are another mask
    order = jnp.argsort(2 - some.astype(jnp.int32) - whole, axis=1, stable=True).astype(jnp.int32)
    return Tiles(
        chains=chains,
        trajectories=trajectories,
        order=order,
        whole=whole.sum(1, dtype=jnp.int32),
        some=some.sum(1, dtype=jnp.int32),
        seed=checked_seed(sight.dropout_rate, dropout_seed),
    )


def _seen(sight: Sight, chains: Array, trajectories: Array) -> tuple[Array, Array]:
    """[n, B, S] twice -> [n, n] bool twice: tiles in which some row may see something, tiles seen whole in every row.

    From the least and greatest chain and trajectory of each block: the first may hold too many, the second too few.
    """
    n, _, size = chains.shape
    real = chains != 0
    biggest = jnp.iinfo(jnp.int32).max

    def bounds(x: Array) -> tuple[Array, Array, Array, Array]:
        low, high = jnp.where(real, x, biggest).min(-1), jnp.where(real, x, -1).max(-1)
        return low[:, None], high[:, None], low[None], high[None]

    q_low_chain, q_high_chain, k_low_chain, k_high_chain = bounds(chains)
    q_low, q_high, k_low, k_high = bounds(trajectories)
    before = (count(n, 0, 3) - count(n, 1, 3)) * size
    some = (before >= 0) & (q_high_chain >= k_low_chain) & (k_high_chain >= q_low_chain)
    whole = (before > 0) & (q_low_chain == q_high_chain) & (k_low_chain == k_high_chain) & (q_low_chain == k_low_chain)
    whole &= real.all(-1)[:, None] & real.all(-1)[None]
    if sight.span is not None:
        some &= q_low - k_high < sight.span
        whole &= q_high - k_low < sight.span
    if sight.window is not None:
        one_trajectory = (q_low == q_high) & (q_low == k_low) & (k_low == k_high)
        some &= ~one_trajectory | (before - size + 1 < sight.window)
        whole &= (k_high < q_low) | (before + size - 1 < sight.window)
    return some.any(-1), whole.all(-1)


def _mask(
    sight: Sight, tiles: Tiles, shape: tuple[int, ...], i: Array, j: Array, transposed: bool
) -> tuple[Array, ...]:
    """Which scores of a tile are visible [B, 1, R, S], and which weights dropout keeps [B, G, R, S]; or transposed.

    shape: [B, G, R, D] of the queries.
    """
    batch, kv_heads, rows, _ = shape
    size = tiles.chains.shape[2]
    group = rows // size
    q_axis, k_axis = (3, 2) if transposed else (2, 3)
    queries, keys = count(size, q_axis, 4, i * size), count(size, k_axis, 4, j * size)
    q_chains, k_chains = (
        jnp.expand_dims(at(tiles.chains, i), (1, k_axis)),
        jnp.expand_dims(at(tiles.chains, j), (1, q_axis)),
    )
    mask = visible(
        queries,
        keys,
        jnp.expand_dims(at(tiles.trajectories, i), (1, k_axis)),
        jnp.expand_dims(at(tiles.trajectories, j), (1, q_axis)),
        window=sight.window,
        span=sight.span,
    )
    mask &= (q_chains == k_chains) & (q_chains != 0)
    mask = jnp.concatenate([mask] * group, axis=q_axis)
    if sight.dropout_rate == 0.0:
        return (mask,)
    keep = kept_weights(sight.dropout_rate, tiles.seed, batch, kv_heads * group, queries, keys)
    keep = keep.reshape(batch, kv_heads, group, size, size)
    keep = jnp.concatenate([keep[:, :, g] for g in range(group)], axis=q_axis)
    return mask, keep


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _transpose(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def fold(x: Array, kv_heads: int) -> Array:
    """[B, S, H, D] -> [B, G, R, D]: the query heads of one key and value head one after another."""
    batch, size, heads, width = x.shape
    return x.swapaxes(1, 2).reshape(batch, kv_heads, heads // kv_heads * size, width)


def unfold(x: Array, size: int) -> Array:
    """[B, G, R, D] -> [B, S, H, D]: the inverse of `fold`."""
    return x.reshape(x.shape[0], -1, size, x.shape[-1]).swapaxes(1, 2)


def attend(sight: Sight, tiles: Tiles, i: Array, q: Array, keys_values: KeysValues) -> tuple[Array, Array]:
    """Attention of query block i: its output [B, G, R, D] and the log of its softmax's denominator [B, G, R].

    One pass over its tiles with a running maximum (arXiv 2112.05682, section 3; BPT, arXiv 2305.19370, equation 3).

    Args:
      q: [B, G, R, D], scaled by 1 / sqrt(D).
    """

    def step(masked: bool, t: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, maximum, total = carry
        j = at(at(tiles.order, i), t)
        k, v = keys_values(j)
        scores = _matmul(q, _transpose(k))
        masks = _mask(sight, tiles, q.shape, i, j, False) if masked else ()
        if masked:
            scores = jnp.where(masks[0], scores, HIDDEN)
        new_maximum = jnp.maximum(maximum, scores.max(-1))
        weights = jnp.exp(scores - new_maximum[..., None])
        shrink = jnp.exp(maximum - new_maximum)
        total = total * shrink + weights.sum(-1)
        if len(masks) == 2:
            weights = jnp.where(masks[1], weights, 0.0)
        out = out * shrink[..., None] + _matmul(weights.astype(q.dtype), v)
        return out, new_maximum, total

    zeros = jnp.zeros(q.shape[:-1], jnp.float32)
    carry = (jnp.zeros(q.shape, jnp.float32), jnp.full_like(zeros, FLOOR), zeros)
    out, maximum, total = _over_tiles(sight, tiles, i, step, carry)
    seen = total > 0.0
    total = jnp.where(seen, total, 1.0)
    out = out / (total * (1.0 - sight.dropout_rate))[..., None]
    return out.astype(q.dtype), jnp.where(seen, maximum + jnp.log(total), 0.0)


def _over_tiles(sight: Sight, tiles: Tiles, i: Array, step: Callable, carry: tuple) -> tuple:
    """step(masked, t, carry) over the tiles of query block i, those that are seen whole first."""
    if len(tiles.order) == 1:
        return step(True, jnp.int32(0), carry)
    if sight.dropout_rate == 0.0:
        carry = lax.fori_loop(0, at(tiles.whole, i), partial(step, False), carry)
    return lax.fori_loop(at(tiles.whole, i), at(tiles.some, i), partial(step, True), carry)


def attend_backward(
    sight: Sight,
    tiles: Tiles,
    i: Array,
    q: Array,
    keys_values: KeysValues,
    attended: tuple[Array, Array],
    d_out: Array,
    add: Callable,
    sums: tuple,
) -> tuple[Array, tuple]:
    """Gradients through query block i: its own d_q [B, G, R, D], and `sums` with its share of the others.

    Scores are computed again, transposed: XLA on a CPU is slow on products whose left factor is transposed, and this
    way only blocks of width D are.

    Args:
      attended: output and log-denominator, as `attend` gives them.
      d_out: [B, G, R, D].
      add: (sums, j, d_k, d_v) -> sums, told the gradients of the keys and values of block j, [B, G, S, D] in float32.
    """
    out, lse = attended
    q_t, d_out_t = _transpose(q), _transpose(d_out)
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)[..., None, :]

    def step(masked: bool, t: Array, carry: tuple[Array, tuple]) -> tuple[Array, tuple]:
        d_q_t, sums = carry
        j = at(at(tiles.order, i), t)
        k, v = keys_values(j)
        scores = _matmul(k, q_t)
        masks = _mask(sight, tiles, q.shape, i, j, True) if masked else ()
        if masked:
            scores = jnp.where(masks[0], scores, HIDDEN)
        weights = jnp.exp(scores - lse[..., None, :])
        d_weights = _matmul(v, d_out_t)
        kept = weights
        if len(masks) == 2:
            scale = 1.0 / (1.0 - sight.dropout_rate)
            kept, d_weights = (jnp.where(masks[1], x * scale, 0.0) for x in (weights, d_weights))
        d_scores = (weights * (d_weights - delta)).astype(q.dtype)
        d_v = _matmul(kept.astype(q.dtype), d_out)
        return d_q_t + _matmul(_transpose(k), d_scores), add(sums, j, _matmul(d_scores, q), d_v)

    d_q_t, sums = _over_tiles(sight, tiles, i, step, (jnp.zeros(q_t.shape, jnp.float32), sums))
    return _transpose(d_q_t), sums


def at(blocks: Any, i: Array) -> Any:
    """Block i of every array: XLA on a CPU reads it, and writes it with `put`, in place; with `.at[]` not always."""
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), blocks)


def put(blocks: Array, i: Array, block: Array) -> Array:
    """The blocks with block i replaced."""
    return lax.dynamic_update_index_in_dim(blocks, block, i, 0)


def add_at(sums: tuple[Array, Array], j: Array, d_k: Array, d_v: Array) -> tuple[Array, Array]:
    """Add gradients to those of block j in arrays of all blocks."""
    return put(sums[0], j, at(sums[0], j) + d_k), put(sums[1], j, at(sums[1], j) + d_v)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(sight: Sight, q: Array, k: Array, v: Array, tiles: Tiles) -> Array:
    """q [n, B, G, R, D], k and v [n, B, G, S, D] -> [n, B, G, R, D]."""
    return _attention_forward(sight, q, k, v, tiles)[0]


def _attention_forward(sight: Sight, q: Array, k: Array, v: Array, tiles: Tiles) -> tuple[Array, tuple]:
    def body(_: None, x: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        return None, attend(sight, tiles, *x, partial(at, (k, v)))

    out, lse = lax.scan(body, None, (jnp.arange(len(q), dtype=jnp.int32), q))[1]
    return out, (q, k, v, tiles, out, lse)


def _attention_backward(sight: Sight, saved: tuple, d_out: Array) -> tuple[Array, Array, Array, Tiles]:
    q, k, v, tiles, out, lse = saved

    def body(sums: tuple, x: tuple[Array, Array, tuple[Array, Array], Array]) -> tuple[tuple, Array]:
        i, q_i, attended, d_out_i = x
        d_q, sums = attend_backward(sight, tiles, i, q_i, partial(at, (k, v)), attended, d_out_i, add_at, sums)
        return sums, d_q.astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    indices = jnp.arange(len(q), dtype=jnp.int32)
    (d_k, d_v), d_q = lax.scan(body, (zeros, zeros), (indices, q, (out, lse), d_out))
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), jax.tree.map(lambda _: None, tiles)


_attention.defvjp(_attention_forward, _attention_backward)


def blockwise_attention(
    q: Array,
    k: Array,
    v: Array,
    where: Visibility,
    *,
    block: int,
    window: int | None,
    span: int | None,
    dropout_rate: float = 0.0,
    dropout_seed: Array | None = None,
) -> Array:
    """q [B, L, H, D], k and v [B, L, G, D] -> [B, L, H, D]: as `dense_attention`, with memory linear in L.

    The backward pass keeps the inputs, the output and its statistics.

    Args:
      block: tokens per block S; L need not be a multiple.
      window, span: as of `visible`.
      dropout_rate, dropout_seed: share of attention weights to drop, and a uint32 scalar if it is not 0.

    Raises:
      ValueError: a dropout rate without a seed.
    """
    length, kv_heads = k.shape[1:3]
    sight = Sight(window, span, dropout_rate)
    queries = jax.vmap(partial(fold, kv_heads=kv_heads))(split(q * q.shape[-1] ** -0.5, block))
    k, v = (split(x, block).swapaxes(2, 3) for x in (k, v))
    out = _attention(sight, queries, k, v, cut(sight, where, block, dropout_seed))
    return merge(jax.vmap(partial(unfold, size=block))(out), length)


def split(x: Array, block: int) -> Array:
    """[B, L, ...] -> [n, B, block, ...], the row padded with zeros to n blocks."""
    batch, length, *rest = x.shape
    n = -(-length // block)
    if n * block > length:
        x = jnp.pad(x, [(0, 0), (0, n * block - length)] + [(0, 0)] * len(rest))
    if batch == 1:  # not a transposition, which XLA would copy
        return x.reshape(n, 1, block, *rest)
    return x.reshape(batch, n, block, *rest).swapaxes(0, 1)


def merge(blocks: Array, length: int) -> Array:
    """[n, B, block, ...] -> [B, length, ...]: the inverse of `split`."""
    n, batch, block, *rest = blocks.shape
    if batch == 1:
        return blocks.reshape(1, n * block, *rest)[:, :length]
    return blocks.swapaxes(0, 1).reshape(batch, n * block, *rest)[:, :length]
