"""The Agentic Transformer (arXiv 2305.16554): Batch -> actions, and the same thing step by step from a cache."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent import bpt, decode, heads, tokens
from agent.attention import Visibility, dropout, visible
from agent.config import ModelConfig
from agent.stack import Form, chosen_kernel, stack
from data.trajectory import Batch


class Weights(NamedTuple):
    """All that is learned; float32."""

    tokens: tokens.TokenWeights
    layers: bpt.LayerWeights | tuple[bpt.LayerWeights, ...]
    """To learn: one, its arrays stacked on a first axis. To act: apart, as `unstack` makes them."""
    norm_scale: Array  # [E]
    norm_bias: Array  # [E]
    head: Array  # [E, P], as agent/heads.py reads it
    head_bias: Array  # [P]


def init_weights(key: Array, config: ModelConfig, observation_size: int, action_size: int) -> Weights:
    token_key, layer_key, head_key = jax.random.split(key, 3)
    parameters = heads.parameters(config.head, action_size)
    layers = [
        bpt.init_layer(k, config.width, config.heads, 4 * config.width, config.layers, config.kv_heads)
        for k in jax.random.split(layer_key, config.layers)
    ]
    return Weights(
        tokens=tokens.init_tokens(token_key, config.tokens, observation_size, action_size, config.width),
        layers=jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers),
        norm_scale=jnp.ones(config.width),
        norm_bias=jnp.zeros(config.width),
        head=0.1 * jax.random.normal(head_key, (config.width, parameters)) / config.width**0.5,
        head_bias=heads.init_bias(config.head, action_size, jax.random.fold_in(head_key, 1)),
    )


def unstack(weights: Weights) -> Weights:
    """The same weights with the layers apart, as `extend` takes them: cutting them out at every step costs time."""
    layers = len(weights.layers[0])
    return weights._replace(
        layers=tuple(jax.tree.map(lambda leaf, i=i: leaf[i], weights.layers) for i in range(layers))
    )


def window_in_tokens(config: ModelConfig) -> int | None:
    """The window in tokens; None when a step sees the whole of its own trajectory."""
    return config.window * tokens.tokens_per_step(config.tokens) or None


def form(config: ModelConfig, dropout: float = 0.0) -> Form:
    """How the layers of a model are computed."""
    return Form(
        system=config.attention,
        remat=config.remat,
        kernel=config.kernel,
        block=config.block,
        every=config.every,
        reversible=config.reversible,
        one_chain=not config.pack,
        rope=config.rope,
        window=window_in_tokens(config),
        span=config.context,
        dropout=dropout,
    )


def kernel(config: ModelConfig) -> str:
    """Whose attention the layers use in training, on the backend there is."""
    return chosen_kernel(form(config, config.dropout), jnp.dtype(config.dtype), config.width // config.heads)


def outputs(weights: Weights, config: ModelConfig, batch: Batch, dropout_seed: Array | None = None) -> Array:
    """Batch of [B, M] steps -> what the head says at every step, [B, M, P].

    dropout_seed: uint32 scalar; None (evaluation) drops nothing.
    """
    dtype = jnp.dtype(config.dtype)
    rate = config.dropout if dropout_seed is not None else 0.0
    seed = jnp.uint32(0) if dropout_seed is None else dropout_seed
    where = Visibility(
        chains=tokens.per_token(batch.chains, config.tokens),
        trajectories=tokens.per_token(batch.trajectories, config.tokens),
    )
    x = dropout(tokens.embed(weights.tokens, batch), rate, seed).astype(dtype)
    x = stack(cast(bpt.LayerWeights, weights.layers), x, where, form(config, rate), seed)
    return outputs_at(weights, tokens.at_action(x, config.tokens))


EMPTY = 2**30
"""The place of no token: after every other, so that no token sees it."""


class Cache(NamedTuple):
    """Keys and values of the tokens that later tokens may see. Which slot is whose, the caller decides."""

    keys: tuple[Array, ...]  # [B, G, C, D] of every layer; apart, so that XLA updates them in place
    values: tuple[Array, ...]
    positions: Array  # [B, C] int32: place of the token in its chain; EMPTY where there is none
    trajectories: Array  # [C] int32: trajectory of the token


def empty_cache(config: ModelConfig, chains: int, slots: int) -> Cache:
    """A cache of C slots for B chains, or a few more (agent/decode.py)."""
    heads, head = config.kv_heads or config.heads, config.width // config.heads
    slots = decode.whole_blocks(slots, chains, heads, head, jnp.dtype(config.dtype).itemsize)
    shape = (chains, heads, slots, head)
    return Cache(
        keys=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers)),
        values=tuple(jnp.zeros(shape, config.dtype) for _ in range(config.layers)),
        positions=jnp.full((chains, slots), EMPTY, jnp.int32),
        trajectories=jnp.zeros(slots, jnp.int32),
    )


def extend(
    weights: Weights,
    config: ModelConfig,
    cache: Cache,
    x: Array,
    position: Array,
    real: Array,
    trajectory: Array,
    slot: Array,
) -> tuple[Array, Cache]:
    """Q new tokens, next in their chains: x [B, Q, E] -> ([B, Q, E], cache that holds them too).

    Args:
      position, real: [B] int32: place in each chain of its first new token, and how many of the Q are tokens of the
        chain; those behind them are nothing, and no token ever sees them.
      trajectory: int32, of all tokens a scalar, or [Q], ascending and the same in all chains.
      slot: int32 scalar: where in the cache the Q lie side by side; no token that is still visible may lie there.
    """
    x = x.astype(config.dtype)
    number = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
    positions = jnp.where(number < real[:, None], position[:, None] + number, EMPTY)
    trajectories = jnp.broadcast_to(trajectory, x.shape[1:2])
    cache = cache._replace(
        positions=lax.dynamic_update_slice(cache.positions, positions, (0, slot)),
        trajectories=lax.dynamic_update_slice(cache.trajectories, trajectories, (slot,)),
    )
    mask = visible(
        positions[:, :, None],
        cache.positions[:, None, :],
        trajectories[None, :, None],
        cache.trajectories[None, None, :],
        window=window_in_tokens(config),
        span=config.context,
    )
    keys, values = [], []
    streams = bpt.begin(x, config.reversible)
    for i, layer in enumerate(cast(tuple[bpt.LayerWeights, ...], weights.layers)):
        q, k, v = bpt.project(layer, streams[-1], position if config.rope else None)
        keys.append(lax.dynamic_update_slice(cache.keys[i], k.swapaxes(1, 2), (0, 0, slot, 0)))
        values.append(lax.dynamic_update_slice(cache.values[i], v.swapaxes(1, 2), (0, 0, slot, 0)))
        attended = decode.attend(q, keys[i], values[i], mask)
        streams = bpt.advance(layer, streams, attended, 0.0, None)
    return bpt.end(streams), cache._replace(keys=tuple(keys), values=tuple(values))


def actions_at(weights: Weights, config: ModelConfig, x: Array) -> Array:
    """[..., E] -> [..., A]: the action read at a token."""
    return heads.action(config.head, outputs_at(weights, x))


def outputs_at(weights: Weights, x: Array) -> Array:
    """[..., E] -> [..., P]: what the head says at a token."""
    x = bpt.layer_norm(x.astype(jnp.float32), weights.norm_scale, weights.norm_bias)
    return x @ weights.head + weights.head_bias.reshape((1,) * (x.ndim - 1) + (-1,))
