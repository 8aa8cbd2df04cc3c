"""The Transformer layer, piece by piece, and its two plain forms: what the Blockwise Parallel Transformer
(arXiv 2305.19370) is compared with, and tested against. The blockwise form is agent/fused.py; agent/stack.py puts
layers on top of one another.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from agent.attention import Visibility, count, dense_attention, dropout, rotate, site
from agent.blockwise import blockwise_attention

# The sites of a layer's dropouts, as of `attention.site`; that of the attention weights is 1.
_AFTER_ATTENTION, _AFTER_FEED_FORWARD = 2, 3


class LayerWeights(NamedTuple):
    """One pre-norm transformer layer; float32."""

    norm1_scale: Array  # [E]
    norm1_bias: Array  # [E]
    qkv: Array  # [E, H + 2 G, D]: queries of H heads, then keys and values of G
    out: Array  # [H, D, E]
    norm2_scale: Array  # [E]
    norm2_bias: Array  # [E]
    ffn_in: Array  # [E, F]
    ffn_in_bias: Array  # [F]
    ffn_out: Array  # [F, E]
    ffn_out_bias: Array  # [E]


def init_layer(key: Array, width: int, heads: int, ffn_width: int, depth: int, kv_heads: int = 0) -> LayerWeights:
    """GPT-2's initialisation, its 0.02 being 1 / sqrt(E) at other widths: normal weights, zero biases, and the
    two projections that write to the residual stream scaled by 1 / sqrt(2 * depth).

    Args:
      heads: H, a divisor of width.
      depth: layers in the network.
      kv_heads: G, a divisor of heads: each key and value head serves H / G heads of queries; 0 is H.
    """
    qkv_key, out_key, in_key, ffn_key = jax.random.split(key, 4)
    residual = (2 * depth) ** -0.5
    head = width // heads
    return LayerWeights(
        norm1_scale=jnp.ones(width),
        norm1_bias=jnp.zeros(width),
        qkv=jax.random.normal(qkv_key, (width, heads + 2 * (kv_heads or heads), head)) * width**-0.5,
        out=jax.random.normal(out_key, (heads, head, width)) * residual * width**-0.5,
        norm2_scale=jnp.ones(width),
        norm2_bias=jnp.zeros(width),
        ffn_in=jax.random.normal(in_key, (width, ffn_width)) * width**-0.5,
        ffn_in_bias=jnp.zeros(ffn_width),
        ffn_out=jax.random.normal(ffn_key, (ffn_width, width)) * residual * ffn_width**-0.5,
        ffn_out_bias=jnp.zeros(width),
    )


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """[..., E] -> [..., E], in float32 inside, as x outside."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return (normed * scale.reshape(shape) + bias.reshape(shape)).astype(x.dtype)


def project(weights: LayerWeights, x: Array, first: Array | int | None = None) -> tuple[Array, Array, Array]:
    """[B, Q, E] -> queries [B, Q, H, D], keys and values [B, Q, G, D].

    Args:
      first: position of x[:, 0] in its row for rotary embeddings, a scalar or [B]; None for none.
    """
    heads = weights.out.shape[0]
    kv_heads = (weights.qkv.shape[1] - heads) // 2
    normed = layer_norm(x, weights.norm1_scale, weights.norm1_bias)
    qkv = linear(normed, weights.qkv.reshape(x.shape[-1], -1))
    qkv = qkv.reshape(*x.shape[:2], *weights.qkv.shape[1:])
    q, k, v = qkv[:, :, :heads], qkv[:, :, heads : heads + kv_heads], qkv[:, :, heads + kv_heads :]
    if first is not None:
        positions = count(x.shape[1], 1, 4, jnp.reshape(first, (-1, 1, 1, 1)))
        q, k = rotate(q, positions), rotate(k, positions)
    return q, k, v


def attention_branch(
    weights: LayerWeights, attended: Array, rate: float, seed: Array | None, first: Array | int
) -> Array:
    """[B, Q, H, D] -> [B, Q, E]: what attention adds to the residual stream."""
    h = linear(attended.reshape(*attended.shape[:2], -1), weights.out.reshape(-1, weights.out.shape[-1]))
    return dropout(h, rate, _site(seed, _AFTER_ATTENTION), first)


def feed_forward_branch(weights: LayerWeights, x: Array, rate: float, seed: Array | None, first: Array | int) -> Array:
    """[B, Q, E] -> [B, Q, E]: what is added to it, ffn_out(gelu(ffn_in(norm(x)))), GELU by tanh."""
    h = layer_norm(x, weights.norm2_scale, weights.norm2_bias)
    h = jax.nn.gelu(linear(h, weights.ffn_in, weights.ffn_in_bias), approximate=True)
    h = linear(h, weights.ffn_out, weights.ffn_out_bias)
    return dropout(h, rate, _site(seed, _AFTER_FEED_FORWARD), first)


def feed_forward(
    weights: LayerWeights,
    x: Array,
    attended: Array,
    *,
    dropout_rate: float = 0.0,
    dropout_seed: Array | None = None,
    first: Array | int = 0,
) -> Array:
    """[B, Q, E], [B, Q, H, D] -> [B, Q, E]: the rest of the layer after attention, token by token.

    Args:
      first: position of x[:, 0] in its row, for dropout.
    """
    x = x + attention_branch(weights, attended, dropout_rate, dropout_seed, first)
    return x + feed_forward_branch(weights, x, dropout_rate, dropout_seed, first)


Streams = tuple[Array, ...]
"""The residual stream [B, L, E], or the two of agent/reversible.py; the last is what attention reads."""


def advance(weights: LayerWeights, streams: Streams, attended: Array, rate: float, seed: Array | None) -> Streams:
    """The streams after the rest of the layer, whichever its architecture."""
    if len(streams) == 1:
        return (feed_forward(weights, streams[0], attended, dropout_rate=rate, dropout_seed=seed),)
    y1 = streams[0] + attention_branch(weights, attended, rate, seed, 0)
    return y1, streams[1] + feed_forward_branch(weights, y1, rate, seed, 0)


def begin(x: Array, reversible: bool) -> Streams:
    """What enters the first layer."""
    return (x, x) if reversible else (x,)


def end(streams: Streams) -> Array:
    """What leaves the last layer, [B, L, E]."""
    return streams[0] if len(streams) == 1 else (streams[0] + streams[1]) * 0.5


@jax.custom_vjp
def _product(x: Array, matrix: Array) -> Array:
    return x @ matrix.astype(x.dtype)


def _product_backward(saved: tuple[Array, Array], d_y: Array) -> tuple[Array, Array]:
    """The gradient of the matrix is added up in float32 whatever the dtype of x."""
    x, matrix = saved
    d_matrix = jax.lax.dot_general(x, d_y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return d_y @ matrix.astype(d_y.dtype).T, d_matrix.astype(matrix.dtype)


_product.defvjp(lambda x, matrix: (_product(x, matrix), (x, matrix)), _product_backward)


def linear(x: Array, matrix: Array, bias: Array | None = None) -> Array:
    """[B, Q, a], [a, b] -> [B, Q, b]. Two-dimensional inside: with XLA on a CPU the gradient is 1.2 times faster."""
    y = _product(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _site(seed: Array | None, number: int) -> Array | None:
    return None if seed is None else site(seed, number)


def plain_layer(
    weights: LayerWeights,
    streams: Streams,
    where: Visibility,
    *,
    system: str,
    block: int,
    rope: bool,
    dropout_rate: float,
    dropout_seed: Array | None,
    window: int | None,
    span: int | None,
) -> Streams:
    """Readable: attention of the whole row, then the rest of the whole row.

    vanilla: all L x L scores. memory_efficient: blockwise attention (arXiv 2112.05682). Both hold all L x F hidden
    units, and both are rematerialised, as the paper compares them: the backward pass starts from the layer's input.

    Args:
      system: vanilla or memory_efficient.
      block: tokens per block of memory_efficient.
      rope: rotary positions, counted in the row.
      dropout_rate: in [0, 1), of attention weights and of both residual branches.
      dropout_seed: uint32 scalar, another for every layer and update; not read when the rate is 0.
      window, span: as of `attention.visible`.
    """
    attention = dense_attention if system == "vanilla" else partial(blockwise_attention, block=block)

    def whole(weights: LayerWeights, streams: Streams) -> Streams:
        q, k, v = project(weights, streams[-1], 0 if rope else None)
        attended = attention(
            q, k, v, where, window=window, span=span, dropout_rate=dropout_rate, dropout_seed=dropout_seed
        )
        return advance(weights, streams, attended, dropout_rate, dropout_seed)

    return jax.checkpoint(whole)(weights, streams)
