"""Layers that can be computed backwards (RevNet, arXiv 1707.04585; Reformer, arXiv 2001.04451, section 3), in blocks.

The residual stream is two: y1 = x1 + attention(x2), y2 = x2 + feed_forward(y1). The backward pass gets x2 = y2 -
feed_forward(y1) and x1 = y1 - attention(x2) back, so nothing is kept but the last layer's output: memory does not
depend on depth. Both streams begin as the input, the output is their mean. Another architecture, not another way to
compute the same one.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent.blockwise import Tiles, attend, attend_backward, fold, put, unfold
from agent.bpt import LayerWeights, attention_branch, begin, end, feed_forward_branch
from agent.projections import Projections, Rule, block, layer_of, put_block, zero_after

_FEEDING = ("norm2_scale", "norm2_bias", "ffn_in", "ffn_in_bias", "ffn_out", "ffn_out_bias")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def reversible(rule: Rule, weights: LayerWeights, x: Array, tiles: Tiles) -> Array:
    """[B, L, E] -> [B, L, E] through layers stacked on the first axis of the weights, L a multiple of the block."""
    return end(_forward(rule, weights, x, tiles))


def _feed(rule: Rule, tiles: Tiles, i: Array, weights: LayerWeights, y1: Array) -> Array:
    """[B, S, E] of block i -> what the feed-forward network adds to the second stream."""
    return feed_forward_branch(weights, y1, rule.sight.dropout_rate, tiles.seed, i * y1.shape[1])


def _mix(rule: Rule, tiles: Tiles, i: Array, weights: LayerWeights, attended: Array) -> Array:
    """[B, S, H, D] of block i -> what attention adds to the first stream."""
    return attention_branch(weights, attended, rule.sight.dropout_rate, tiles.seed, i * attended.shape[1])


def _forward(rule: Rule, weights: LayerWeights, x: Array, tiles: Tiles) -> tuple[Array, Array]:
    n, _, size = tiles.chains.shape

    def layer(m: Array, streams: tuple[Array, Array]) -> tuple[Array, Array]:
        one, of = layer_of(weights, tiles, m)
        projections = Projections(rule, one, partial(block, streams[1], of), of)
        keys_values = projections.keys_values(x.dtype, zero_after(streams[1]))

        def body(i: Array, streams: tuple[Array, Array]) -> tuple[Array, Array]:
            x1, x2 = (block(s, of, i) for s in streams)
            out, _ = attend(rule.sight, of, i, projections.queries(i), keys_values)
            y1 = x1 + _mix(rule, of, i, one, unfold(out, size))
            y2 = x2 + _feed(rule, of, i, one, y1)
            return put_block(streams[0], of, i, y1), put_block(streams[1], of, i, y2)

        return lax.fori_loop(0, n, body, streams)

    return lax.fori_loop(0, len(weights.norm1_scale), layer, begin(x, True))


def _reversible_forward(rule: Rule, weights: LayerWeights, x: Array, tiles: Tiles) -> tuple[Array, tuple]:
    streams = _forward(rule, weights, x, tiles)
    return end(streams), (weights, tiles, streams)


def _reversible_backward(rule: Rule, saved: tuple, d: Array) -> tuple[LayerWeights, Array, Any]:
    weights, tiles, streams = saved
    layers, start = len(weights.norm1_scale), zero_after(d)

    def layer(t: Array, carry: tuple) -> tuple:
        streams, gradients, d_weights = carry
        m = layers - 1 - t
        one, of = layer_of(weights, tiles, m)
        streams, gradients, d_feeding = _feed_backward(rule, one, of, streams, gradients)
        streams, gradients, d_mixing = _mix_backward(rule, one, of, streams, gradients)
        d_one = LayerWeights(**d_mixing, **d_feeding)
        return streams, gradients, jax.tree.map(lambda all, a: put(all, m, a), d_weights, d_one)

    d_weights = jax.tree.map(lambda a: jnp.full(a.shape, start), weights)
    carry = (streams, (0.5 * d, 0.5 * d), d_weights)
    _, (d1, d2), d_weights = lax.fori_loop(0, layers, layer, carry)
    return d_weights, d1 + d2, jax.tree.map(lambda _: None, tiles)


def _feed_backward(
    rule: Rule, weights: LayerWeights, tiles: Tiles, streams: tuple[Array, Array], gradients: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array], dict[str, Array]]:
    """(y1, y2), (d_y1, d_y2) -> (y1, x2), (d_y1 with its share through the feed-forward network, d_y2), d_weights."""
    y1, y2 = streams
    d1, d2 = gradients
    part = {name: getattr(weights, name) for name in _FEEDING}

    def body(i: Array, carry: tuple) -> tuple:
        x2, d1, sums = carry

        def feed(part: dict[str, Array], y1: Array) -> Array:
            return _feed(rule, tiles, i, weights._replace(**part), y1)

        added, pull = jax.vjp(feed, part, block(y1, tiles, i))
        d_part, d_y1 = pull(block(d2, tiles, i))
        x2 = put_block(x2, tiles, i, block(x2, tiles, i) - added)
        d1 = put_block(d1, tiles, i, block(d1, tiles, i) + d_y1)
        return x2, d1, jax.tree.map(jnp.add, sums, d_part)

    sums = jax.tree.map(lambda a: jnp.full(a.shape, zero_after(d2)), part)
    x2, d1, sums = lax.fori_loop(0, len(tiles.order), body, (y2, d1, sums))
    return (y1, x2), (d1, d2), sums


def _mix_backward(
    rule: Rule, weights: LayerWeights, tiles: Tiles, streams: tuple[Array, Array], gradients: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array], dict[str, Array]]:
    """(y1, x2), (d_y1, d_y2) -> (x1, x2), (d_y1, d_y2 with its share through attention) = (d_x1, d_x2), d_weights."""
    y1, x2 = streams
    d1, d2 = gradients
    n, _, size = tiles.chains.shape
    start = zero_after(x2)
    projections = Projections(rule, weights, partial(block, x2, tiles), tiles)
    keys_values = projections.keys_values(x2.dtype, start)

    def body(t: Array, carry: tuple) -> tuple:
        x1, d2, d_kv, d_before, d_matrix = carry
        i = n - 1 - t
        q = projections.queries(i)
        out, lse = attend(rule.sight, tiles, i, q, keys_values)

        def mix(matrix: Array, out: Array) -> Array:
            return _mix(rule, tiles, i, weights._replace(out=matrix), out)

        added, pull = jax.vjp(mix, weights.out, unfold(out, size))
        d_some, d_out = pull(block(d1, tiles, i))
        x1 = put_block(x1, tiles, i, block(x1, tiles, i) - added)
        d_out = fold(d_out, q.shape[1])
        gradients = partial(attend_backward, rule.sight, tiles, i, q, keys_values, (out, lse), d_out)
        return x1, *projections.backward(gradients, i, d2, d_kv, d_before), d_matrix + d_some

    carry = (y1, d2, *projections.zeros(start), jnp.full(weights.out.shape, start))
    x1, d2, _, d_before, d_matrix = lax.fori_loop(0, n, body, carry)
    return (x1, x2), (d1, d2), {**d_before, "out": d_matrix}


reversible.defvjp(_reversible_forward, _reversible_backward)
