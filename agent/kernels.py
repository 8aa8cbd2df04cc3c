"""Attention of well-kept libraries, for accelerators, inside a layer whose feed-forward network stays blockwise.

A library's attention knows plain causal rows only. So it may take the place of this project's where every row holds one
chain from its first token on, nothing slides and no attention weight is dropped; `refusal` says what stands against it.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from agent.blockwise import Sight, Tiles, merge
from agent.bpt import LayerWeights, feed_forward, project
from agent.projections import Rule, block

PLATFORMS = {"cudnn": ("gpu",), "tokamax": ("gpu", "tpu", "cpu")}
"""Where each library kernel runs; tokamax has a slow form for a CPU, to test with."""


CUDNN_WIDTH = 128
"""Of a head, that every generation takes; from Hopper on it would be 256."""
_target: list[str] = []


@contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Within it, kernels are chosen for gpu, tpu or cpu, whatever this process runs on."""
    _target.append(platform)
    try:
        yield
    finally:
        _target.pop()


def backend() -> str:
    """Where what is traced now will run."""
    return _target[-1] if _target else jax.default_backend()


def refusal(kernel: str, backend: str, sight: Sight, dtype: jnp.dtype, one_chain: bool, width: int) -> str:
    """Why a library kernel cannot compute these layers, of heads [width]; empty where it can."""
    if backend not in PLATFORMS[kernel]:
        return f"it runs on {' or '.join(PLATFORMS[kernel])}, this is {backend}"
    if kernel != "cudnn" and importlib.util.find_spec("tokamax") is None:
        return "it needs the package tokamax: pip install 'agentic-bpt[kernels]'"
    if not one_chain:
        return "it sees rows of one chain only: --pack=false"
    if sight.window is not None:
        return "it has no window over a step's own trajectory: --window=0"
    if sight.dropout_rate > 0.0:
        return "it drops no attention weights: --dropout=0"
    if kernel == "cudnn" and dtype not in (jnp.bfloat16, jnp.float16):
        return "it computes in 16 bits: --dtype=bfloat16"
    if kernel == "cudnn" and (width % 8 or width > CUDNN_WIDTH):
        return f"its heads are up to {CUDNN_WIDTH} wide, in multiples of 8, these {width}: --heads"
    return ""


def choose(kernel: str, backend: str, sight: Sight, dtype: jnp.dtype, one_chain: bool, width: int) -> str:
    """The kernel that is used: `auto` takes the first library that can, cudnn or tokamax, else xla.

    Raises:
      ValueError: a kernel asked for by name cannot compute these layers.
    """
    if kernel == "xla":
        return kernel
    if kernel == "auto":
        libraries = [name for name in PLATFORMS if backend in PLATFORMS[name] and backend != "cpu"]
        return next((name for name in libraries if not refusal(name, backend, sight, dtype, one_chain, width)), "xla")
    if why := refusal(kernel, backend, sight, dtype, one_chain, width):
        raise ValueError(f"--kernel: {kernel} cannot compute these layers: {why}")
    return kernel


def attention(kernel: str, q: Array, k: Array, v: Array) -> Array:
    """q [B, L, H, D], k and v [B, L, G, D] -> [B, L, H, D]: plain causal attention by a library."""
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    import tokamax

    form = "xla_chunked" if backend() == "cpu" else "mosaic"
    return tokamax.dot_product_attention(q, k, v, is_causal=True, implementation=form)


def layer(kernel: str, keep: bool, rule: Rule, x: Array, weights: LayerWeights, tiles: Tiles) -> Array:
    """[B, L, E] -> [B, L, E]; `keep`: the backward pass has the attention's inputs and output, else the layer's input.

    What comes after attention is one block at a time, forwards and backwards, as in agent/fused.py.
    """
    projected = jax.checkpoint(lambda weights, x: project(weights, x, 0 if rule.rope else None))
    after = jax.checkpoint(partial(_after, rule))

    def whole(weights: LayerWeights, x: Array) -> Array:
        return after(weights, x, attention(kernel, *projected(weights, x)), tiles)

    return (whole if keep else jax.checkpoint(whole))(weights, x)


def _after(rule: Rule, weights: LayerWeights, x: Array, attended: Array, tiles: Tiles) -> Array:
    size = tiles.chains.shape[2]

    @jax.checkpoint
    def one(weights: LayerWeights, x: Array, attended: Array, i: Array) -> Array:
        rate = rule.sight.dropout_rate
        return feed_forward(weights, x, attended, dropout_rate=rate, dropout_seed=tiles.seed, first=i * size)

    def body(_: None, i: Array) -> tuple[None, Array]:
        return None, one(weights, block(x, tiles, i), block(attended, tiles, i), i)

    parts = lax.scan(body, None, jnp.arange(len(tiles.order), dtype=jnp.int32))[1]
    return merge(parts, x.shape[1])
