"""Layers on top of one another, in as little memory as asked for."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent import bpt, fused, kernels
from agent.attention import Visibility, checked_seed
from agent.blockwise import Sight, Tiles, at, cut, put
from agent.config import ATTENTION, KERNELS, REMATS
from agent.projections import Reader, Rule, layer_of, zero_after
from agent.reversible import reversible


class Form(NamedTuple):
    """How a stack of layers is computed. Hashable, so that jit can specialise on it."""

    system: str = "bpt"
    """One of config.ATTENTION: the same numbers, other memory."""
    remat: str = "output"
    """One of REMATS, for bpt: what a layer keeps for its backward pass. output: its input and the attention's output;
    input: its input; minimal: its input, and keys and values are computed again for every pair of blocks."""
    kernel: str = "xla"
    """One of config.KERNELS: whose attention."""
    block: int = 0
    """Tokens per block; 0 is `best_block`."""
    every: int = 0
    """Layers between kept inputs, what lies between is computed again; 0 is `best_every`."""
    reversible: bool = False
    """Two streams that can be computed backwards: memory constant in depth, another architecture."""
    one_chain: bool = False
    """The caller's word that every row is one chain from its first token on, of no more trajectories than `span`: what
    the kernels of libraries need."""
    rope: bool = False
    """Rotary positions, counted in the row."""
    window: int | None = None
    """As of `attention.visible`."""
    span: int | None = None
    """As of `attention.visible`."""
    dropout: float = 0.0
    """Share of attention weights and of the features of both residual branches."""


def stack(
    weights: bpt.LayerWeights, x: Array, where: Visibility, form: Form, dropout_seed: Array | None = None
) -> Array:
    """[B, L, E] -> [B, L, E] through all layers, whose arrays are stacked on a first axis; in the dtype of x.

    Args:
      dropout_seed: uint32 scalar, another for every update; needed when form.dropout is not 0.

    Raises:
      ValueError: an unknown system, remat or kernel, a kernel that cannot compute this, a dropout rate without a seed.
    """
    for name, value, known in (
        ("system", form.system, ATTENTION),
        ("remat", form.remat, REMATS),
        ("kernel", form.kernel, KERNELS),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    layers, length = len(weights.norm1_scale), x.shape[1]
    seed = checked_seed(form.dropout, dropout_seed)
    block = form.block or best_block(length, x.shape[2], form.remat, kernels.backend())
    if form.system != "bpt":
        seeds = seed + jnp.arange(1, layers + 1, dtype=jnp.uint32)
        streams = bpt.begin(x, form.reversible)
        return bpt.end(lax.scan(partial(_plain, form, block, where), streams, (weights, seeds))[0])
    sight = Sight(form.window, form.span, form.dropout)
    rule = Rule(sight, form.rope, form.remat == "minimal")
    tiles = cut(sight, where, block, seed)
    if padding := len(tiles.order) * block - length:
        x = jnp.pad(x, [(0, 0), (0, padding), (0, 0)])
    kernel = chosen_kernel(form, x.dtype, weights.qkv.shape[-1])
    if kernel != "xla":
        y = _library(kernel, form.remat == "output", rule, weights, x, tiles)
    elif form.reversible:
        y = reversible(rule, weights, x, tiles)
    else:
        every = form.every or best_every(layers, form.remat)
        y = _stack(Plan(rule, form.remat == "output", min(layers, every)), weights, x, tiles)
    return y[:, :length]


def chosen_kernel(form: Form, dtype: jnp.dtype, width: int) -> str:
    """Whose attention bpt layers use, of heads [width]. Raises ValueError where the one asked for cannot."""
    if form.system != "bpt" or form.reversible:
        return "xla"  # nothing else can be asked for
    if form.kernel == "auto" and (form.remat == "minimal" or form.every > 1):
        return "xla"  # a library's keeps more than was asked for
    sight = Sight(form.window, form.span, form.dropout)
    return kernels.choose(form.kernel, kernels.backend(), sight, dtype, form.one_chain, width)


def _library(kernel: str, keep: bool, rule: Rule, weights: bpt.LayerWeights, x: Array, tiles: Tiles) -> Array:
    """Layers with the attention of a library."""

    def body(x: Array, i: Array) -> tuple[Array, None]:
        one, of = layer_of(weights, tiles, i)
        return kernels.layer(kernel, keep, rule, x, one, of), None

    return lax.scan(body, x, jnp.arange(len(weights.norm1_scale), dtype=jnp.int32))[0]


def _plain(
    form: Form, block: int, where: Visibility, streams: bpt.Streams, layer: tuple[bpt.LayerWeights, Array]
) -> tuple[bpt.Streams, None]:
    """One layer of the two systems that the Blockwise Parallel Transformer is compared with."""
    weights, seed = layer
    streams = bpt.plain_layer(
        weights,
        streams,
        where,
        system=form.system,
        block=block,
        rope=form.rope,
        dropout_rate=form.dropout,
        dropout_seed=seed,
        window=form.window,
        span=form.span,
    )
    return streams, None


def best_block(length: int, width: int, remat: str, backend: str = "cpu") -> int:
    """L, E -> tokens per block, never more than L.

    On a CPU 128, or 512 in rows of 2,048 tokens and more, as measured on two cores with E = 128 and three layers: in
    rows of 512, 512 takes 1.1 times the time of 128 and twice the memory (more of what it computes lies above the
    diagonal); in rows of 16,384, 128 takes 1.9 times the time of 512 (its products are too small for two cores); at
    1,024 they are equal. 256 for `minimal` in wide layers, where blocks are most of the memory. Accelerators get 4,096:
    on an H100 an update on 128,000 tokens took 0.91, 0.67 and 0.55 s with 2,048, 4,096 and 8,192, in 472, 630 and 1,220
    MiB.
    """
    if backend != "cpu" and length >= 2048:
        return min(length, 4096)
    if length < 2048:
        return min(length, 128)
    return 256 if remat == "minimal" and width > 256 else 512


def best_every(layers: int, remat: str) -> int:
    """Layers between kept inputs: 1 for up to 8 layers, beyond that the number that needs least memory, at the price of
    one more forward pass: ceil(layers / k) inputs are kept throughout, and inputs (for `output` outputs of attention
    also) of the k layers that are worked on.
    """
    if layers <= 8:
        return 1
    share = 2 if remat == "output" else 1
    return min(range(2, layers + 1), key=lambda k: (-(-layers // k) + share * k, k))


class Plan(NamedTuple):
    """What is fixed when a stack is compiled."""

    rule: Rule
    keep: bool
    """Keep the output of attention for the backward pass."""
    every: int


Kept = tuple[Array, fused.Attended | None]
"""Inputs [layers, B, L, E] of some layers and what their attention gave."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stack(plan: Plan, weights: bpt.LayerWeights, x: Array, tiles: Tiles) -> Array:
    """[B, L, E] -> [B, L, E], L a multiple of the block."""
    return _through(plan, weights, tiles, x, jnp.int32(0), len(weights.norm1_scale))


def _through(plan: Plan, weights: bpt.LayerWeights, tiles: Tiles, x: Array, first: Array, count: Array | int) -> Array:
    """x after `count` layers."""

    def body(m: Array, x: Array) -> Array:
        one, of = layer_of(weights, tiles, first + m)
        return fused.forward(plan.rule, one, x, of, False)[0]

    return lax.fori_loop(0, count, body, x)


def _keeping(
    plan: Plan, weights: bpt.LayerWeights, tiles: Tiles, x: Array, first: Array, count: Array | int, slots: int
) -> tuple[Array, Kept]:
    """x after `count` layers, at most `slots`, and what the backward pass of each of them needs.

    Where that is their inputs and fewer slots than layers, the last layer is not computed, and x is what enters it.
    """
    if slots == 1:
        one, of = layer_of(weights, tiles, first)
        y, attended = fused.forward(plan.rule, one, x, of, plan.keep)
        return y, jax.tree.map(lambda a: a[None], (x, attended))
    start = zero_after(x)
    one, _ = layer_of(weights, tiles, first)
    shapes = jax.eval_shape(lambda: (x, fused.forward(plan.rule, one, x, tiles, plan.keep)[1]))
    empty = jax.tree.map(lambda a: jnp.full((slots, *a.shape), start, a.dtype), shapes)

    def body(m: Array, carry: tuple[Array, Kept]) -> tuple[Array, Kept]:
        x, kept = carry
        one, of = layer_of(weights, tiles, first + m)
        y, attended = fused.forward(plan.rule, one, x, of, plan.keep)
        return y, jax.tree.map(lambda all, a: put(all, m, a), kept, (x, attended))

    if plan.keep or slots == len(weights.norm1_scale):
        return lax.fori_loop(0, count, body, (x, empty))
    x, (inputs, attended) = lax.fori_loop(0, count - 1, body, (x, empty))
    return x, (put(inputs, jnp.int32(count - 1), x), attended)


def _readers(kept: Kept, tiles: Tiles, m: Array) -> tuple[Reader, Tiles, Callable | None]:
    """x, tiles and attended of layer m of those kept, as `fused.backward` takes them: blocks read in place."""
    inputs, attended = kept
    size = tiles.chains.shape[2]

    def x(i: Array) -> Array:
        shape = (1, inputs.shape[1], size, inputs.shape[3])
        return lax.dynamic_slice(inputs, (m, 0, i * size, 0), shape)[0]

    def of(i: Array) -> Any:
        return jax.tree.map(
            lambda a: lax.dynamic_slice(a, (m, i) + (0,) * (a.ndim - 2), (1, 1, *a.shape[2:]))[0, 0], attended
        )

    return x, tiles, None if attended is None else of


def _stack_forward(plan: Plan, weights: bpt.LayerWeights, x: Array, tiles: Tiles) -> tuple[Array, tuple]:
    """What is kept: all that `_keeping` says of every layer, or the input of every `plan.every`-th."""
    layers = len(weights.norm1_scale)
    if plan.every == 1:
        x, kept = _keeping(plan, weights, tiles, x, jnp.int32(0), layers, layers)
        return x, (weights, tiles, kept)
    groups = -(-layers // plan.every)
    empty = jnp.full((groups, *x.shape), zero_after(x), x.dtype)

    def body(g: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, inputs = carry
        first = g * plan.every
        y = _through(plan, weights, tiles, x, first, jnp.minimum(plan.every, layers - first))
        return y, put(inputs, g, x)

    x, inputs = lax.fori_loop(0, groups, body, (x, empty))
    return x, (weights, tiles, (inputs, None))


def _stack_backward(plan: Plan, saved: tuple, d: Array) -> tuple[bpt.LayerWeights, Array, Any]:
    weights, tiles, kept = saved
    layers = len(weights.norm1_scale)
    nothing = jax.tree.map(lambda _: None, tiles)
    if layers == 1:
        one, of = layer_of(weights, tiles, jnp.int32(0))
        d_one, d = fused.backward(plan.rule, one, *_readers(kept, of, jnp.int32(0)), d)
        return jax.tree.map(lambda a: a[None], d_one), d, nothing

    def back(first: Array, count: Array | int, kept: Kept, carry: tuple) -> tuple:
        """Through the layers from `first` on, in reverse."""

        def body(t: Array, carry: tuple[Array, bpt.LayerWeights]) -> tuple[Array, bpt.LayerWeights]:
            d, d_weights = carry
            m = count - 1 - t
            one, of = layer_of(weights, tiles, first + m)
            d_one, d = fused.backward(plan.rule, one, *_readers(kept, of, m), d)
            return d, jax.tree.map(lambda all, a: put(all, first + m, a), d_weights, d_one)

        return lax.fori_loop(0, count, body, carry)

    start = zero_after(d)
    carry = d, jax.tree.map(lambda a: jnp.full(a.shape, start), weights)
    if plan.every == 1:
        d, d_weights = back(jnp.int32(0), layers, kept, carry)
        return d_weights, d, nothing

    def group(t: Array, carry: tuple) -> tuple:
        first = (len(kept[0]) - 1 - t) * plan.every
        count = jnp.minimum(plan.every, layers - first)
        x = at(kept[0], first // plan.every) + zero_after(carry[0]).astype(d.dtype)
        return back(first, count, _keeping(plan, weights, tiles, x, first, count, plan.every)[1], carry)

    d, d_weights = lax.fori_loop(0, len(kept[0]), group, carry)
    return d_weights, d, nothing


_stack.defvjp(_stack_forward, _stack_backward)
