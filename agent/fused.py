"""The Blockwise Parallel layer (arXiv 2305.19370) and its own backward pass: attention and feed-forward network of a
block in one go, forwards and backwards.

Forwards, algorithm 1 of the paper: for every block of queries its attention, then at once the rest of the layer, so
that hidden units never exist for more than one block. Backwards, one loop over the same blocks in reverse, which
computes again what it needs. When query block i is done, key block i has had all its contributions, since only blocks
from i on look at it: its gradients go through the projections at once, and the gradient of x takes the place of the
gradient of y.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent.blockwise import Tiles, attend, attend_backward, fold, merge, split, unfold
from agent.bpt import LayerWeights, feed_forward
from agent.projections import BEFORE, Projections, Reader, Rule, block, put_block, zero_after

HIDDEN_UNITS = 2**18
"""Hidden units at a time, unless a block is cut too small by it: what fits in the cache of a core."""

Attended = tuple[Array, Array]
"""Output and log-denominator of the attention of every block, [n, B, G, R, D] and [n, B, G, R]."""


def _chunks(x: Array, ffn_width: int) -> int:
    """[B, S, E] -> into how many parts the feed-forward network cuts a block."""
    batch, size, _ = x.shape
    chunks = 1
    while batch * size // chunks * ffn_width > HIDDEN_UNITS and size % (2 * chunks) == 0 and size // chunks > 64:
        chunks *= 2
    return chunks


def _rest(rule: Rule, weights: LayerWeights, x: Array, out: Array, tiles: Tiles, i: Array) -> Array:
    """The layer after attention, of block i: [B, S, E], [B, S, H, D] -> [B, S, E]."""
    chunks = _chunks(x, weights.ffn_in.shape[1])
    size = x.shape[1] // chunks

    def part(c: Array, x: Array, out: Array) -> Array:
        first = i * x.shape[1] * chunks + c * size
        rate = rule.sight.dropout_rate
        return feed_forward(weights, x, out, dropout_rate=rate, dropout_seed=tiles.seed, first=first)

    if chunks == 1:
        return part(jnp.int32(0), x, out)
    parts = (jnp.arange(chunks, dtype=jnp.int32), split(x, size), split(out, size))
    return merge(lax.map(lambda p: part(*p), parts), x.shape[1])


def _rest_backward(
    rule: Rule, weights: LayerWeights, x: Array, out: Array, tiles: Tiles, i: Array, d_y: Array, sums: dict[str, Array]
) -> tuple[dict[str, Array], Array, Array]:
    """-> sums with the gradients of the weights after attention added, and those of x and out."""
    chunks = _chunks(x, weights.ffn_in.shape[1])
    size = x.shape[1] // chunks
    after = {name: getattr(weights, name) for name in sums}

    def part(sums: dict[str, Array], p: tuple[Array, Array, Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        c, x, out, d_y = p
        first = i * x.shape[1] * chunks + c * size
        rate = rule.sight.dropout_rate

        def run(after: dict[str, Array], x: Array, out: Array) -> Array:
            every = weights._replace(**after)
            return feed_forward(every, x, out, dropout_rate=rate, dropout_seed=tiles.seed, first=first)

        d_after, d_x, d_out = jax.vjp(run, after, x, out)[1](d_y)
        return jax.tree.map(jnp.add, sums, d_after), (d_x, d_out)

    if chunks == 1:
        sums, (d_x, d_out) = part(sums, (jnp.int32(0), x, out, d_y))
        return sums, d_x, d_out
    parts = (jnp.arange(chunks, dtype=jnp.int32), split(x, size), split(out, size), split(d_y, size))
    sums, (d_x, d_out) = lax.scan(part, sums, parts)
    return sums, merge(d_x, x.shape[1]), merge(d_out, x.shape[1])


def forward(rule: Rule, weights: LayerWeights, x: Array, tiles: Tiles, keep: bool) -> tuple[Array, Attended | None]:
    """[B, L, E] -> [B, L, E], L a multiple of S, and the attention of every block where `keep` says so."""
    projections = Projections(rule, weights, partial(block, x, tiles), tiles)
    keys_values = projections.keys_values(x.dtype)
    size = tiles.chains.shape[2]

    def body(y: Array, i: Array) -> tuple[Array, Attended | None]:
        out, lse = attend(rule.sight, tiles, i, projections.queries(i), keys_values)
        y_i = _rest(rule, weights, block(x, tiles, i), unfold(out, size), tiles, i)
        return put_block(y, tiles, i, y_i), (out, lse) if keep else None

    return lax.scan(body, jnp.zeros_like(x), jnp.arange(len(tiles.order), dtype=jnp.int32))


def backward(
    rule: Rule,
    weights: LayerWeights,
    x: Reader,
    tiles: Tiles,
    attended: Callable[[Array], Attended] | None,
    d_y: Array,
) -> tuple[LayerWeights, Array]:
    """Gradients of the weights, float32, and of x, [B, L, E].

    Args:
      x: the layer's input.
      attended: index of a block -> what `forward` kept of it; None to compute it again.
      d_y: [B, L, E], gradient of the output.
    """
    n, _, size = tiles.chains.shape
    start = zero_after(d_y)
    projections = Projections(rule, weights, x, tiles)
    keys_values = projections.keys_values(d_y.dtype, start)

    def body(t: Array, carry: tuple) -> tuple:
        d_x, d_kv, d_before, d_after = carry
        i = n - 1 - t
        q = projections.queries(i)
        out, lse = attend(rule.sight, tiles, i, q, keys_values) if attended is None else attended(i)
        d_y_i = block(d_y if rule.minimal else d_x, tiles, i)
        d_after, d_x_i, d_out = _rest_backward(rule, weights, x(i), unfold(out, size), tiles, i, d_y_i, d_after)
        if rule.minimal:
            d_x_i += block(d_x, tiles, i)  # what later queries sent through the keys and values of this block
        d_x = put_block(d_x, tiles, i, d_x_i)
        d_out = fold(d_out, q.shape[1])
        gradients = partial(attend_backward, rule.sight, tiles, i, q, keys_values, (out, lse), d_out)
        return *projections.backward(gradients, i, d_x, d_kv, d_before), d_after

    d_after = {name: jnp.full(a.shape, start) for name, a in weights._asdict().items() if name not in BEFORE}
    d_x = jnp.full(d_y.shape, start, d_y.dtype) if rule.minimal else d_y
    d_x, _, d_before, d_after = lax.fori_loop(0, n, body, (d_x, *projections.zeros(start), d_after))
    return LayerWeights(**d_before, **d_after), d_x
