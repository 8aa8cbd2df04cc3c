"""A byte-level language model of the same layers: what trains the three systems of agent/stack.py on text."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent import bpt
from agent.attention import Visibility
from agent.blockwise import split
from agent.stack import Form, stack

BYTES = 256


class LanguageWeights(NamedTuple):
    """All that is learned; float32."""

    embedding: Array  # [256, E]
    layers: bpt.LayerWeights
    """Its arrays stacked on a first axis."""
    norm_scale: Array  # [E]
    norm_bias: Array  # [E]
    head: Array  # [E, 256]


def init_language(key: Array, width: int, heads: int, layers: int) -> LanguageWeights:
    """Features of variance 1 behind the embedding, and a head so small that every byte begins about equally likely."""
    embedding_key, layer_key, head_key = jax.random.split(key, 3)

    def layer(key: Array) -> bpt.LayerWeights:
        return bpt.init_layer(key, width, heads, 4 * width, layers)

    return LanguageWeights(
        embedding=jax.random.normal(embedding_key, (BYTES, width)),
        layers=jax.vmap(layer)(jax.random.split(layer_key, layers)),
        norm_scale=jnp.ones(width),
        norm_bias=jnp.zeros(width),
        head=0.1 * jax.random.normal(head_key, (width, BYTES)) * width**-0.5,
    )


def loss(weights: LanguageWeights, text: Array, form: Form, block: int = 512) -> Array:
    """[B, L + 1] int -> scalar: mean cross entropy, in nats, of each byte after those before it.

    Logits never exist for more than `block` bytes of a row, forwards or backwards.
    """
    inputs, targets = text[:, :-1], text[:, 1:]
    causal = Visibility(jnp.ones(inputs.shape, jnp.int32), jnp.zeros(inputs.shape, jnp.int32))
    x = stack(weights.layers, weights.embedding[inputs], causal, form)
    return cross_entropy(weights, x, targets, min(block, inputs.shape[1])) / targets.size


def cross_entropy(weights: LanguageWeights, x: Array, targets: Array, block: int) -> Array:
    """[B, L, E], [B, L] int -> scalar: the sum over all bytes of -log p(byte), in nats."""
    real = jnp.ones(targets.shape, jnp.float32)
    blocks = (split(x, block), split(targets, block), split(real, block))
    return lax.scan(jax.checkpoint(partial(_add_block, weights)), jnp.zeros(()), blocks)[0]


def _add_block(weights: LanguageWeights, total: Array, block: tuple[Array, Array, Array]) -> tuple[Array, None]:
    x, targets, real = block
    logits = bpt.linear(bpt.layer_norm(x, weights.norm_scale, weights.norm_bias), weights.head).astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return total + jnp.sum((jax.nn.logsumexp(logits, axis=-1) - chosen) * real), None
