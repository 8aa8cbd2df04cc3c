"""Exact causal attention in blocks, in memory linear in the row, with what follows it fused per query block.

The rule of who sees whom and the hash of dropout are those of agent/attention.py, so every form gives the same numbers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from agent.attention import HIDDEN, Visibility, checked_seed, count, kept_weights, visible

FLOOR = -1e20
"""Where the running maximum starts: above HIDDEN, so that a hidden score weighs 0 also in a row that sees nothing."""

SAVED = "attended"
"""Name of what the blockwise forward pass keeps for its backward pass, for `jax.checkpoint` policies."""


class _Plan(NamedTuple):
    """What is fixed when a blockwise pass is compiled."""

    window: int | None
    span: int | None
    dropout_rate: float
    finish: Callable[..., Array]


class _Blocks(NamedTuple):
    """A row cut into n blocks of S tokens, heads before tokens."""

    q: Array  # [n, B, H, S, D], scaled by 1 / sqrt(D)
    k: Array  # [n, B, H, S, D]
    v: Array  # [n, B, H, S, D]
    chains: Array  # [n, B, S]
    trajectories: Array  # [n, B, S]
    seed: Array  # uint32 scalar


def _first_visible_block(plan: _Plan, blocks: _Blocks) -> Array:
    """[n] int32: for each query block, a key block before which nothing is visible to it in any row; n if none is.

    From the least and greatest chain and trajectory of each block, so it may come too early, never too late.
    """
    n, _, size = blocks.chains.shape
    real = blocks.chains != 0
    biggest = jnp.iinfo(jnp.int32).max

    def bounds(x: Array) -> tuple[Array, Array]:
        return jnp.where(real, x, biggest).min(-1), jnp.where(real, x, -1).max(-1)

    low_chain, high_chain = bounds(blocks.chains)
    low, high = bounds(blocks.trajectories)
    query, key = (slice(None), None), (None, slice(None))
    possible = (high_chain[query] >= low_chain[key]) & (high_chain[key] >= low_chain[query])
    if plan.span is not None:
        possible &= low[query] - high[key] < plan.span
    if plan.window is not None:
        nearest = (count(n, 0, 3) - count(n, 1, 3) - 1) * size + 1
        one_trajectory = (low[query] == high[query]) & (low[query] == low[key]) & (low[key] == high[key])
        possible &= ~one_trajectory | (nearest < plan.window)
    in_any_row = possible.any(-1)
    return jnp.where(in_any_row.any(1), jnp.argmax(in_any_row, axis=1), n).astype(jnp.int32)


def _pair_mask(
    plan: _Plan, blocks: _Blocks, i: Array, j: Array, transposed: bool = False
) -> tuple[Array, Array | None]:
    """Which scores of query block i and key block j are visible [B, 1, S, S], and which dropout keeps [B, H, S, S]."""
    _, batch, heads, size, _ = blocks.q.shape
    q_axis, k_axis = (3, 2) if transposed else (2, 3)
    rows, columns = jnp.expand_dims(blocks.chains[i], (1, k_axis)), jnp.expand_dims(blocks.chains[j], (1, q_axis))
    queries, keys = count(size, q_axis, 4, i * size), count(size, k_axis, 4, j * size)
    mask = visible(
        queries,
        keys,
        jnp.expand_dims(blocks.trajectories[i], (1, k_axis)),
        jnp.expand_dims(blocks.trajectories[j], (1, q_axis)),
        window=plan.window,
        span=plan.span,
    )
    mask &= (rows == columns) & (rows != 0)
    if plan.dropout_rate == 0.0:
        return mask, None
    return mask, kept_weights(plan.dropout_rate, blocks.seed, batch, heads, queries, keys)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _transpose(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _attend(plan: _Plan, blocks: _Blocks, i: Array, first: Array) -> tuple[Array, Array]:
    """Attention of query block i: its output [B, H, S, D] and the log of its softmax's denominator [B, H, S].

    One pass over key blocks `first` to i with a running maximum (arXiv 2112.05682, section 3; BPT, arXiv 2305.19370,
    equation 3).
    """
    q = blocks.q[i]

    def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        out, maximum, total = carry
        mask, keep = _pair_mask(plan, blocks, i, j)
        scores = jnp.where(mask, _matmul(q, _transpose(blocks.k[j])), HIDDEN)
        new_maximum = jnp.maximum(maximum, scores.max(-1))
        weights = jnp.exp(scores - new_maximum[..., None])
        shrink = jnp.exp(maximum - new_maximum)
        total = total * shrink + weights.sum(-1)
        if keep is not None:
            weights = jnp.where(keep, weights, 0.0)
        out = out * shrink[..., None] + _matmul(weights.astype(q.dtype), blocks.v[j])
        return out, new_maximum, total

    zeros = jnp.zeros(q.shape[:-1], jnp.float32)
    out, maximum, total = lax.fori_loop(
        first, i + 1, step, (jnp.zeros(q.shape, jnp.float32), jnp.full_like(zeros, FLOOR), zeros)
    )
    seen = total > 0.0
    total = jnp.where(seen, total, 1.0)
    out = out / (total * (1.0 - plan.dropout_rate))[..., None]
    return out.astype(q.dtype), jnp.where(seen, maximum + jnp.log(total), 0.0)


def _attend_backward(
    plan: _Plan, blocks: _Blocks, i: Array, first: Array, out: Array, lse: Array, d_out: Array, d_k: Array, d_v: Array
) -> tuple[Array, Array, Array]:
    """Gradients through query block i: its own d_q [B, H, S, D], and d_k, d_v [n, B, H, S, D] with its share added.

    Scores are computed again, transposed: XLA is slow on products whose left factor is transposed, and this
    way only blocks of width D are.
    """
    q = blocks.q[i]
    q_t, d_out_t = _transpose(q), _transpose(d_out)
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1)[..., None, :]

    def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        d_q_t, d_k, d_v = carry
        k, v = blocks.k[j], blocks.v[j]
        mask, keep = _pair_mask(plan, blocks, i, j, transposed=True)
        weights = jnp.exp(jnp.where(mask, _matmul(k, q_t), HIDDEN) - lse[..., None, :])
        d_weights = _matmul(v, d_out_t)
        kept = weights
        if keep is not None:
            scale = 1.0 / (1.0 - plan.dropout_rate)
            kept, d_weights = (jnp.where(keep, x * scale, 0.0) for x in (weights, d_weights))
        d_scores = (weights * (d_weights - delta)).astype(q.dtype)
        d_v = d_v.at[j].add(_matmul(kept.astype(q.dtype), d_out))
        d_k = d_k.at[j].add(_matmul(d_scores, q))
        return d_q_t + _matmul(_transpose(k), d_scores), d_k, d_v

    d_q_t, d_k, d_v = lax.fori_loop(first, i + 1, step, (jnp.zeros(q_t.shape, jnp.float32), d_k, d_v))
    return _transpose(d_q_t), d_k, d_v


def _finish(plan: _Plan, blocks: _Blocks, i: Array, params: Any, extra: Any, out: Array) -> Array:
    return plan.finish(params, extra, out.swapaxes(1, 2), i * out.shape[2], blocks.seed)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(plan: _Plan, params: Any, extra: Any, blocks: _Blocks) -> Array:
    """Every query block in turn: its attention, then `plan.finish` of it; stacked, [n, B, S, ...]."""
    return _blockwise_forward(plan, params, extra, blocks)[0]


def _blockwise_forward(plan: _Plan, params: Any, extra: Any, blocks: _Blocks) -> tuple[Array, Any]:
    def body(_: None, x: tuple[Array, Array, Any]) -> tuple[None, tuple[Array, Array, Array]]:
        i, first, extra_i = x
        out, lse = _attend(plan, blocks, i, first)
        return None, (_finish(plan, blocks, i, params, extra_i, out), out, lse)

    indices = jnp.arange(len(blocks.q), dtype=jnp.int32)
    _, (y, out, lse) = lax.scan(body, None, (indices, _first_visible_block(plan, blocks), extra))
    return y, (params, extra, blocks, checkpoint_name(out, SAVED), checkpoint_name(lse, SAVED))


def _blockwise_backward(plan: _Plan, saved: Any, d_y: Array) -> tuple[Any, Any, _Blocks]:
    params, extra, blocks, out, lse = saved

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        d_params, d_k, d_v = carry
        i, first, extra_i, out_i, lse_i, d_y_i = x
        _, pull = jax.vjp(partial(_finish, plan, blocks, i), params, extra_i, out_i)
        share, d_extra, d_out = pull(d_y_i)
        d_q, d_k, d_v = _attend_backward(plan, blocks, i, first, out_i, lse_i, d_out, d_k, d_v)
        return (jax.tree.map(jnp.add, d_params, share), d_k, d_v), (d_extra, d_q)

    zeros = jnp.zeros(blocks.k.shape, jnp.float32)
    indices = jnp.arange(len(blocks.q), dtype=jnp.int32)
    (d_params, d_k, d_v), (d_extra, d_q) = lax.scan(
        body,
        (jax.tree.map(jnp.zeros_like, params), zeros, zeros),
        (indices, _first_visible_block(plan, blocks), extra, out, lse, d_y),
    )
    d_q, d_k, d_v = (x.astype(blocks.q.dtype) for x in (d_q, d_k, d_v))
    no_gradient = jax.tree.map(lambda _: None, blocks)
    return d_params, d_extra, no_gradient._replace(q=d_q, k=d_k, v=d_v)


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def fused_attention(
    finish: Callable[..., Array],
    params: Any,
    extra: Any,
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
    """`finish(params, extra, attended, first, seed)` of every query block, as soon as its attention is done.

    What `finish` makes on the way never exists for more than one block, forward or backward: the backward pass
    keeps the inputs, the attention's output and its statistics, and computes the rest again. BPT, arXiv 2305.19370,
    algorithm 1.

    Args:
      finish: (params, extra [B, S, ...], attended [B, S, H, D], first: position of the block in the row, seed)
        -> [B, S, ...], differentiable in the first three.
      params: floating arrays, the same for every block.
      extra: a tree of [B, L, ...] floating arrays, cut like the queries.
      q, k, v: [B, L, H, D], any L.
      block: tokens per block S.
      window, span: as of `visible`.
      dropout_rate, dropout_seed: share of attention weights to drop, and a uint32 scalar if it is not 0.

    Returns:
      [B, L, ...].

    Raises:
      ValueError: a dropout rate without a seed.
    """
    length, width = q.shape[1], q.shape[3]
    blocks = _Blocks(
        q=split(q * width**-0.5, block).swapaxes(2, 3),
        k=split(k, block).swapaxes(2, 3),
        v=split(v, block).swapaxes(2, 3),
        chains=split(where.chains, block),
        trajectories=split(where.trajectories, block),
        seed=checked_seed(dropout_rate, dropout_seed),
    )
    extra = jax.tree.map(lambda x: split(x, block), extra)
    return merge(_blockwise(_Plan(window, span, dropout_rate, finish), params, extra, blocks), length)


def blockwise_attention(q: Array, k: Array, v: Array, where: Visibility, **settings: Any) -> Array:
    """[B, L, H, D] -> [B, L, H, D]: as `dense_attention`, in blocks, with memory linear in L.

    Settings: block, window, span, dropout_rate and dropout_seed, as of `fused_attention`.
    """
    return fused_attention(_attended, (), (), q, k, v, where, **settings)


def _attended(params: Any, extra: Any, attended: Array, first: Array, seed: Array) -> Array:
    return attended


def split(x: Array, block: int) -> Array:
    """[B, L, ...] -> [n, B, block, ...], the row padded with zeros to n blocks."""
    batch, length, *rest = x.shape
    n = -(-length // block)
    x = jnp.pad(x, [(0, 0), (0, n * block - length)] + [(0, 0)] * len(rest))
    return x.reshape(batch, n, block, *rest).swapaxes(0, 1)


def merge(blocks: Array, length: int) -> Array:
    """[n, B, block, ...] -> [B, length, ...]: the inverse of `split`."""
    n, batch, block, *rest = blocks.shape
    return blocks.swapaxes(0, 1).reshape(batch, n * block, *rest)[:, :length]
