"""Queries, keys and values of a row of blocks, and the way back: what a fused layer and a reversible one share."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent.blockwise import KeysValues, Sight, Tiles, add_at, at, fold, put
from agent.bpt import LayerWeights, project

BEFORE = ("norm1_scale", "norm1_bias", "qkv")
"""The weights that make queries, keys and values."""

Reader = Callable[[Array], Array]
"""Index of a block -> the [B, S, E] of it: so that nobody need cut a row out of the rows of many layers first."""


class Rule(NamedTuple):
    """What is fixed when a layer is compiled."""

    sight: Sight
    rope: bool
    minimal: bool
    """Compute keys and values again for every tile, and store neither them nor their gradients."""


def block(x: Array, tiles: Tiles, i: Array) -> Array:
    """[B, L, E] -> [B, S, E]."""
    size = tiles.chains.shape[2]
    return lax.dynamic_slice_in_dim(x, i * size, size, 1)


def put_block(x: Array, tiles: Tiles, i: Array, block: Array) -> Array:
    """The inverse: x with block i replaced."""
    return lax.dynamic_update_slice_in_dim(x, block, i * tiles.chains.shape[2], 1)


def layer_of(weights: LayerWeights, tiles: Tiles, i: Array) -> tuple[LayerWeights, Tiles]:
    """Layer i of weights that are stacked on a first axis, and the tiles with its dropout seed."""
    one = jax.tree.map(lambda a: a[0], weights) if len(weights.norm1_scale) == 1 else at(weights, i)
    return one, tiles._replace(seed=tiles.seed + 1 + i.astype(jnp.uint32))


def zero_after(x: Array) -> Array:
    """0.0, in a way that only exists once x does: XLA would otherwise make the arrays of the backward pass before the
    forward pass has let go of its own. From the bits of x, so that it is 0 also where x is no number.
    """
    bits = lax.bitcast_convert_type(x[(0,) * x.ndim].astype(jnp.float32), jnp.uint32)
    return ((bits | 1) == 0).astype(jnp.float32)


class Projections(NamedTuple):
    """The projections of one layer's row."""

    rule: Rule
    weights: LayerWeights
    x: Reader
    """What enters the layer's first norm."""
    tiles: Tiles

    def queries(self, i: Array) -> Array:
        """[B, G, R, D] of block i, scaled."""
        return _queries(self.rule, self.weights, self.x(i), i)[0]

    def keys_values(self, dtype: Any, start: Array | float = 0.0) -> KeysValues:
        """How `attend` finds keys and values: stored, or computed again whenever they are asked for.

        start: what stored arrays hold before they are filled, any finite number.
        """

        def compute(j: Array) -> tuple[Array, Array]:
            return _keys_values(self.rule, self.weights, self.x(j), j)

        if self.rule.minimal:
            return compute
        empty = jnp.full(self._shape(), start, dtype)

        def store(j: Array, stored: tuple[Array, Array]) -> tuple[Array, Array]:
            k, v = compute(j)
            return put(stored[0], j, k), put(stored[1], j, v)

        return partial(at, lax.fori_loop(0, len(self.tiles.order), store, (empty, empty)))

    def _shape(self) -> tuple[int, ...]:
        """n, B, G, S, D."""
        n, batch, size = self.tiles.chains.shape
        return n, batch, (self.weights.qkv.shape[1] - self.weights.out.shape[0]) // 2, size, self.weights.qkv.shape[2]

    def zeros(self, start: Array) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """Empty sums for `backward`: gradients of stored keys and values, and of the weights."""
        d_kv = () if self.rule.minimal else (jnp.full(self._shape(), start), jnp.full(self._shape(), start))
        return d_kv, {name: jnp.full(getattr(self.weights, name).shape, start) for name in BEFORE}

    def backward(
        self, gradients: Callable, i: Array, d_x: Array, d_kv: tuple[Array, ...], d_weights: dict[str, Array]
    ) -> tuple[Array, tuple[Array, ...], dict[str, Array]]:
        """d_x, d_kv and d_weights with the gradients that come through the attention of query block i added.

        To be called for the last block first: then key block i has had all its contributions when query block i has.

        Args:
          gradients: (add, sums) -> (d_q, sums): `attend_backward` of block i.
          d_x: [B, L, E], what else reaches x.
        """

        def through(project: Any, j: Array, d: tuple[Array, ...], d_x: Array, d_weights: Any) -> tuple[Array, Any]:
            """Gradients of what `project` made of block j, added to those of x and of the weights."""

            def run(some: dict[str, Array], x: Array) -> Any:
                return project(self.rule, self.weights._replace(**some), x, j)

            _, pull = jax.vjp(run, {name: getattr(self.weights, name) for name in BEFORE}, self.x(j))
            d_some, d_block = pull(tuple(a.astype(d_x.dtype) for a in d))
            d_x = put_block(d_x, self.tiles, j, block(d_x, self.tiles, j) + d_block)
            return d_x, jax.tree.map(jnp.add, d_weights, d_some)

        if self.rule.minimal:
            d_q, sums = gradients(
                lambda sums, j, d_k, d_v: through(_keys_values, j, (d_k, d_v), *sums), (d_x, d_weights)
            )
            d_x, d_weights = through(_queries, i, (d_q,), *sums)
        else:
            d_q, d_kv = gradients(add_at, d_kv)
            d_x, d_weights = through(_all, i, (d_q, *at(d_kv, i)), d_x, d_weights)
        return d_x, d_kv, d_weights


def _queries(rule: Rule, weights: LayerWeights, x: Array, i: Array) -> tuple[Array]:
    """[B, S, E] of block i -> [B, G, R, D], scaled."""
    heads = weights.out.shape[0]
    kv_heads = (weights.qkv.shape[1] - heads) // 2
    q, _, _ = project(weights._replace(qkv=weights.qkv[:, :heads]), x, _first(rule, x, i))
    return (fold(q, kv_heads) * q.shape[-1] ** -0.5,)


def _keys_values(rule: Rule, weights: LayerWeights, x: Array, j: Array) -> tuple[Array, Array]:
    """[B, S, E] of block j -> [B, G, S, D] twice."""
    heads = weights.out.shape[0]
    only = weights._replace(qkv=weights.qkv[:, heads:], out=weights.out[:0])
    _, k, v = project(only, x, _first(rule, x, j))
    return k.swapaxes(1, 2), v.swapaxes(1, 2)


def _all(rule: Rule, weights: LayerWeights, x: Array, i: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values of block i, in one product."""
    q, k, v = project(weights, x, _first(rule, x, i))
    return fold(q, k.shape[2]) * q.shape[-1] ** -0.5, k.swapaxes(1, 2), v.swapaxes(1, 2)


def _first(rule: Rule, x: Array, i: Array) -> Array | None:
    """Position of the first token of block i, where positions count."""
    return i * x.shape[1] if rule.rope else None
