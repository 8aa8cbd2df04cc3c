"""Exact causal attention over chains: a dense reference, a blockwise form, and a small form for decoding.

One rule says who sees whom (`visible`), one hash says what dropout keeps (`scramble`). Neither depends on how the
tokens are cut into blocks, so every form gives the same numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

HIDDEN = -1e30
"""A score that is not seen; its weight is exactly 0."""

# The site of dropout on attention weights; a layer has others.
_WEIGHTS = 1


class Visibility(NamedTuple):
    """What decides which tokens a token may see, besides its place in the row."""

    chains: Array
    """[B, L] int32: the chain a token belongs to, from 1; 0 is padding."""
    trajectories: Array
    """[B, L] int32: index of its trajectory in the chain, ascending."""


def visible(
    query_positions: Array,
    key_positions: Array,
    query_trajectories: Array,
    key_trajectories: Array,
    *,
    window: int | None,
    span: int | None,
) -> Array:
    """May query i see key j of the same chain? Elementwise over int32 arrays that broadcast; the one rule of the house.

    j <= i; of its own trajectory only the latest `window` tokens, itself included; of the chain only the latest `span`
    trajectories, its own included. None is all.
    """
    distance = query_positions - key_positions
    age = query_trajectories - key_trajectories
    mask = distance >= 0
    if window is not None:
        mask &= (age != 0) | (distance < window)
    if span is not None:
        mask &= age < span
    return mask


def scramble(state: Array, word: Array) -> Array:
    """Absorb a word into a hash state; elementwise, uint32.

    The mixer is lowbias32 of https://github.com/skeeto/hash-prospector (public domain).
    """
    x = (state ^ word) + jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def site(seed: Array, number: int) -> Array:
    """The seed of one of several dropouts that share a seed. Neighbours, as layers n and n + 1, share no bits."""
    return scramble(scramble(seed, jnp.uint32(0)), jnp.uint32(number))


def count(size: int, axis: int, rank: int, first: Array | int = 0) -> Array:
    """first, first + 1, ... along one axis of a rank-`rank` array, the other axes being 1; int32.

    first: a scalar, or an array of that rank.
    """
    shape = [1] * rank
    shape[axis] = size
    return lax.broadcasted_iota(jnp.int32, shape, axis) + jnp.asarray(first, jnp.int32)


def checked_seed(rate: float, seed: Array | None) -> Array:
    if seed is None and rate > 0.0:
        raise ValueError(f"dropout_seed: expected a uint32 scalar for dropout_rate {rate}, got None")
    return jnp.asarray(0 if seed is None else seed, jnp.uint32)


def _keep(rate: float, seed: Array, *coordinates: Array) -> Array:
    """Which elements dropout keeps: a hash of the seed and of coordinates that broadcast against one another."""
    state = jnp.full((1,) * coordinates[0].ndim, seed, jnp.uint32)
    for coordinate in coordinates:
        state = scramble(state, coordinate.astype(jnp.uint32))
    return state >= jnp.uint32(round(rate * 2**32))


def kept_weights(rate: float, seed: Array, batch: int, heads: int, queries: Array, keys: Array) -> Array:
    """Which attention weights dropout keeps; query and key positions have four axes."""
    return _keep(rate, site(seed, _WEIGHTS), count(batch, 0, 4), count(heads, 1, 4), queries, keys)


def dropout(x: Array, rate: float, seed: Array | None, first: Array | int = 0) -> Array:
    """[B, L, E] -> [B, L, E]: a share `rate` of the features becomes 0, the rest grows by 1 / (1 - rate).

    The choice is a hash of (seed, row, position, feature), so cutting the row into blocks changes nothing.

    Args:
      seed: uint32 scalar; not read when rate is 0.
      first: position of x[:, 0] in its row.

    Raises:
      ValueError: a rate without a seed.
    """
    if rate == 0.0:
        return x
    batch, length, width = x.shape
    seed = checked_seed(rate, seed)
    keep = _keep(rate, seed, count(batch, 0, 3), count(length, 1, 3, first), count(width, 2, 3))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def rotate(x: Array, positions: Array) -> Array:
    """[B, Q, H, D], [B or 1, Q, 1, 1] int32 -> [B, Q, H, D]: rotary position embedding (arXiv 2104.09864, equation 34).

    Feature d and feature d + D / 2 turn together, by the angle position / 10000^(2 d / D). Raises ValueError: odd D.
    """
    width = x.shape[-1]
    if width % 2:
        raise ValueError(f"rotary positions: expected an even width of heads, got {width}")
    frequencies = 10_000.0 ** (-2.0 * count(width // 2, 3, 4) / width)
    angles = positions * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def dense_attention(
    q: Array,
    k: Array,
    v: Array,
    where: Visibility,
    *,
    window: int | None,
    span: int | None,
    dropout_rate: float = 0.0,
    dropout_seed: Array | None = None,
) -> Array:
    """q [B, L, H, D], k and v [B, L, G, D] -> [B, L, H, D]: softmax(q k^T / sqrt(D)) v with all L x L scores at once.

    The readable form. Scores and softmax are float32. Padding attends to nothing and gives exactly 0.
    """
    batch, length, heads, width = q.shape
    k, v = (jnp.repeat(x, heads // k.shape[2], axis=2) for x in (k, v))
    i, j = count(length, 2, 4), count(length, 3, 4)
    chains, trajectories = where.chains[:, None], where.trajectories[:, None]
    mask = visible(i, j, trajectories[..., None], trajectories[:, :, None], window=window, span=span)
    mask &= (chains[..., None] == chains[:, :, None]) & (chains[..., None] != 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q * width**-0.5, k, preferred_element_type=jnp.float32)
    weights = _softmax(scores, mask)
    if dropout_rate > 0.0:
        seed = checked_seed(dropout_rate, dropout_seed)
        keep = kept_weights(dropout_rate, seed, batch, heads, i, j)
        weights = jnp.where(keep, weights / (1.0 - dropout_rate), 0.0)
    return _average("bhqk,bkhd->bqhd", weights, v)


def cached_attention(q: Array, keys: Array, values: Array, mask: Array) -> Array:
    """[B, Q, H, D], [B, G, C, D] twice, bool [B or 1, Q, C] -> [B, Q, H, D]: new queries over a key/value cache.

    Heads before slots: XLA on a CPU reads and updates that in place.
    """
    if (group := q.shape[2] // keys.shape[1]) > 1:
        batch, queries, heads, width = q.shape
        q = (
            q.reshape(batch, queries, heads // group, group, width)
            .swapaxes(2, 3)
            .reshape(batch, -1, heads // group, width)
        )
        out = cached_attention(q, keys, values, jnp.repeat(mask, group, axis=1))
        return (
            out.reshape(batch, queries, group, heads // group, width)
            .swapaxes(2, 3)
            .reshape(batch, queries, heads, width)
        )
    scores = jnp.einsum("bqhd,bhcd->bhqc", q * q.shape[-1] ** -0.5, keys, preferred_element_type=jnp.float32)
    weights = _softmax(scores, mask[:, None])
    return _average("bhqc,bhcd->bqhd", weights, values)


def _softmax(scores: Array, mask: Array) -> Array:
    """Softmax over what the mask shows; all 0, with gradient 0, in a row that sees nothing."""
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, HIDDEN), axis=-1), 0.0)


def _average(axes: str, weights: Array, values: Array) -> Array:
    """Weighted sums of the values, in their dtype, added up in float32."""
    out = jnp.einsum(axes, weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return out.astype(values.dtype)
