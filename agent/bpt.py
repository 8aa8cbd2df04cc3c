"""The Blockwise Parallel Transformer layer (arXiv 2305.19370), and the two systems its paper compares it with."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from agent.attention import Visibility, dense_attention, dropout, site
from agent.blockwise import SAVED, blockwise_attention, fused_attention

SYSTEMS = ("vanilla", "memory_efficient", "bpt")

# The sites of a layer's dropouts, as of `attention.site`; that of the attention weights is 1.
_AFTER_ATTENTION, _AFTER_FEED_FORWARD = 2, 3


class LayerWeights(NamedTuple):
    """One pre-norm transformer layer; float32."""

    norm1_scale: Array  # [E]
    norm1_bias: Array  # [E]
    qkv: Array  # [E, 3, H, D]
    out: Array  # [H, D, E]
    norm2_scale: Array  # [E]
    norm2_bias: Array  # [E]
    ffn_in: Array  # [E, F]
    ffn_in_bias: Array  # [F]
    ffn_out: Array  # [F, E]
    ffn_out_bias: Array  # [E]


def init_layer(key: Array, width: int, heads: int, ffn_width: int, depth: int) -> LayerWeights:
    """GPT-2's initialisation, its 0.02 being 1 / sqrt(E) at other widths: normal weights, zero biases, and the
    two projections that write to the residual stream scaled by 1 / sqrt(2 * depth).

    Args:
      heads: H, a divisor of width.
      depth: layers in the network.
    """
    qkv_key, out_key, in_key, ffn_key = jax.random.split(key, 4)
    residual = (2 * depth) ** -0.5
    head = width // heads
    return LayerWeights(
        norm1_scale=jnp.ones(width),
        norm1_bias=jnp.zeros(width),
        qkv=jax.random.normal(qkv_key, (width, 3, heads, head)) * width**-0.5,
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


def project(weights: LayerWeights, x: Array) -> tuple[Array, Array, Array]:
    """[B, Q, E] -> queries, keys and values, [B, Q, H, D] each."""
    normed = layer_norm(x, weights.norm1_scale, weights.norm1_bias)
    qkv = _linear(normed, weights.qkv.reshape(x.shape[-1], -1))
    qkv = qkv.reshape(*x.shape[:2], *weights.qkv.shape[1:])
    return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


def feed_forward(
    weights: LayerWeights,
    x: Array,
    attended: Array,
    *,
    dropout_rate: float = 0.0,
    dropout_seed: Array | None = None,
    first: Array | int = 0,
) -> Array:
    """[B, Q, E], [B, Q, H, D] -> [B, Q, E]: the rest of the layer, token by token.

    h = x + out(attended); h + ffn_out(gelu(ffn_in(norm(h)))), with the tanh form of GELU.

    Args:
      first: position of x[:, 0] in its row, for dropout.
    """
    h = _linear(attended.reshape(x.shape), weights.out.reshape(-1, x.shape[-1]))
    x = x + dropout(h, dropout_rate, _site(dropout_seed, _AFTER_ATTENTION), first)
    h = layer_norm(x, weights.norm2_scale, weights.norm2_bias)
    h = jax.nn.gelu(_linear(h, weights.ffn_in, weights.ffn_in_bias), approximate=True)
    h = _linear(h, weights.ffn_out, weights.ffn_out_bias)
    return x + dropout(h, dropout_rate, _site(dropout_seed, _AFTER_FEED_FORWARD), first)


def _linear(x: Array, matrix: Array, bias: Array | None = None) -> Array:
    """[B, Q, a], [a, b] -> [B, Q, b]. Two-dimensional inside: with XLA on a CPU the gradient is 1.2 times faster."""
    y = (x.reshape(-1, x.shape[-1]) @ matrix.astype(x.dtype)).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _site(seed: Array | None, number: int) -> Array | None:
    return None if seed is None else site(seed, number)


def layer(
    weights: LayerWeights,
    x: Array,
    where: Visibility,
    *,
    system: str,
    block: int = 0,
    window: int | None = None,
    span: int | None = None,
    dropout_rate: float = 0.0,
    dropout_seed: Array | None = None,
) -> Array:
    """[B, L, E] -> [B, L, E], in the dtype of x. Every system gives the same numbers and gradients.

    vanilla: all L x L scores, all L x F hidden units. memory_efficient: blockwise attention, all hidden units.
    bpt: blockwise, attention and feed-forward of a block in one go. All three are rematerialised, as the paper compares
    them: the backward pass starts from the layer's input, bpt from the attention's output also.

    Args:
      system: one of SYSTEMS.
      block: tokens per block; 0 is `best_block(L)`.
      window, span: as of `attention.visible`.
      dropout_rate: in [0, 1), of attention weights and of both residual branches.
      dropout_seed: uint32 scalar, another for every layer and update; not read when the rate is 0.

    Raises:
      ValueError: unknown system.
    """
    if system not in SYSTEMS:
        raise ValueError(f"system: expected one of {', '.join(SYSTEMS)}, got {system!r}")
    settings: dict[str, Any] = {
        "window": window,
        "span": span,
        "dropout_rate": dropout_rate,
        "dropout_seed": dropout_seed,
    }
    if system != "vanilla":
        settings["block"] = block or best_block(x.shape[1])
    rest = partial(_finish, dropout_rate)

    def whole(weights: LayerWeights, x: Array) -> Array:
        q, k, v = project(weights, x)
        if system == "bpt":
            return fused_attention(rest, weights, x, q, k, v, where, **settings)
        attention = dense_attention if system == "vanilla" else blockwise_attention
        return rest(weights, x, attention(q, k, v, where, **settings), 0, dropout_seed)

    keep = jax.checkpoint_policies.save_only_these_names(SAVED) if system == "bpt" else None
    return jax.checkpoint(whole, policy=keep)(weights, x)


def best_block(length: int) -> int:
    """L -> tokens per block: 128, or 512 in rows of 2,048 tokens and more; never more than L.

    Measured on two CPU cores, E = 128, three layers: in rows of 512, 512 takes 1.1 times the time of 128 and twice the
    memory (more of what it computes lies above the diagonal); in rows of 2,048, 128 takes 1.4 times the time of 512, of
    16,384, 1.9 times (its products are too small for two cores). At 1,024 they are equal.
    """
    return min(length, 128 if length < 2048 else 512)


def _finish(
    rate: float, weights: LayerWeights, x: Array, attended: Array, first: Array | int, seed: Array | None
) -> Array:
    return feed_forward(weights, x, attended, dropout_rate=rate, dropout_seed=seed, first=first)
