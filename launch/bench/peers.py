"""What others give their users for the same work; the only file that loads their packages, and only when asked.

pip install 'agentic-bpt[bench]'
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jax import Array

    from agent.bpt import LayerWeights


class AbsentError(Exception):
    """A rival cannot run here; the message says why in a few words."""


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise AbsentError(f"skipped: {package} is not installed; pip install 'agentic-bpt[bench]'") from None


def torch_with(threads: int) -> Any:
    """The package torch, set to this many threads; 0 is as it comes. Raises AbsentError."""
    torch = _package("torch")
    if threads:
        torch.set_num_threads(threads)
    return torch


class TorchStep(NamedTuple):
    """Tensors of one loss-and-gradient of `torch_stack`."""

    loss: Any
    x: Any
    """[B, L, E]: the gradient in x."""
    weights: list["LayerWeights"]
    """The gradients of each layer; a matrix of ours [in, out] is torch's [out, in], heads being one axis with D."""


def torch_stack(weights: "LayerWeights", x: "Array", *, checkpoint: bool, threads: int) -> Callable[[], TorchStep]:
    """Our layers as a torch user writes them: one linear map for all heads, scaled_dot_product_attention.

    Args:
      weights: stacked on a first axis, as of agent.stack.
      x: [B, L, E].
      checkpoint: whether each layer goes through torch.utils.checkpoint, which keeps only its input.
      threads: as of `torch_with`.

    Returns:
      A function that computes mean(y^2) and its gradients in x and all weights.

    Raises:
      AbsentError: torch is not installed.
    """
    torch = torch_with(threads)
    functional, remat = torch.nn.functional, _package("torch.utils.checkpoint").checkpoint
    depth, heads, head, width = weights.out.shape
    kv_heads = (weights.qkv[0].size // (width * head) - heads) // 2
    into = {"qkv": width, "out": heads * head, "ffn_in": width, "ffn_out": weights.ffn_out.shape[1]}

    def tensor(name: str, array: Any) -> Any:
        array = np.array(array)
        if name in into:
            array = np.ascontiguousarray(array.reshape(into[name], -1).T)
        return torch.from_numpy(array).requires_grad_()

    names = weights._fields
    kind: Any = type(weights)
    layers = [kind._make(tensor(name, getattr(weights, name)[i]) for name in names) for i in range(depth)]
    inputs = tensor("x", x)

    def layer(w: "LayerWeights", x: Any) -> Any:
        h = functional.layer_norm(x, (width,), w.norm1_scale, w.norm1_bias)
        qkv = functional.linear(h, w.qkv).unflatten(-1, (-1, head)).transpose(1, 2)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
        grouped = {"enable_gqa": True} if kv_heads != heads else {}
        h = functional.scaled_dot_product_attention(q, k, v, is_causal=True, **grouped)
        x = x + functional.linear(h.transpose(1, 2).flatten(2), w.out)
        h = functional.layer_norm(x, (width,), w.norm2_scale, w.norm2_bias)
        h = functional.gelu(functional.linear(h, w.ffn_in, w.ffn_in_bias), approximate="tanh")
        return x + functional.linear(h, w.ffn_out, w.ffn_out_bias)

    def step() -> TorchStep:
        y = inputs
        for w in layers:
            y = remat(layer, w, y, use_reentrant=False) if checkpoint else layer(w, y)
        loss = (y**2).mean()
        d_x, *d = torch.autograd.grad(loss, [inputs, *(array for w in layers for array in w)])
        parts = [kind._make(d[i : i + len(names)]) for i in range(0, len(d), len(names))]
        return TorchStep(loss.detach(), d_x, parts)

    return step


def torch_attention(q: "Array", k: "Array", v: "Array", threads: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """[B, L, H, D] three times -> functions for causal attention alone: forward, and forward with backward.

    Raises AbsentError.
    """
    torch = torch_with(threads)
    attention = torch.nn.functional.scaled_dot_product_attention
    inputs = [torch.from_numpy(np.ascontiguousarray(np.swapaxes(np.array(x), 1, 2))) for x in (q, k, v)]
    tracked = [x.clone().requires_grad_() for x in inputs]

    def forward() -> Any:
        with torch.no_grad():
            return attention(*inputs, is_causal=True)

    def both() -> Any:
        return torch.autograd.grad((attention(*tracked, is_causal=True) ** 2).mean(), tracked)

    return forward, both


def decision_transformer(
    rows: int, steps: int, width: int, heads: int, layers: int, seed: int, threads: int
) -> Callable[[], Any]:
    """Hugging Face's DecisionTransformerModel at its defaults, sizes of walker: a training step with AdamW.

    A row is `steps` environment steps of three tokens: return-to-go, state, action. Raises AbsentError.
    """
    torch, transformers = torch_with(threads), _package("transformers")
    torch.manual_seed(seed)
    config = transformers.DecisionTransformerConfig(
        state_dim=24,
        act_dim=6,
        hidden_size=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.DecisionTransformerModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    states, actions = torch.randn(rows, steps, 24), torch.rand(rows, steps, 6) * 2 - 1
    returns = torch.randn(rows, steps, 1)
    timesteps, mask = torch.arange(steps).repeat(rows, 1), torch.ones(rows, steps, dtype=torch.long)

    def step() -> Any:
        predicted = model(
            states=states,
            actions=actions,
            rewards=torch.zeros_like(returns),
            returns_to_go=returns,
            timesteps=timesteps,
            attention_mask=mask,
            return_dict=True,
        ).action_preds
        loss = ((predicted - actions) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def official_layer(
    folder: str, length: int, width: int, heads: int, chunk: int
) -> tuple[Callable[["Array"], Any], Callable[[Any, "Array"], "Array"]]:
    """The layer of the Blockwise Parallel Transformer's authors, from a folder of their code, as its scripts set it.

    It has rotary positions and no biases in attention; GELU is set to the tanh form, as ours.

    Args:
      folder: what --official names.
      length, width, heads: of a row; the feed-forward layer is 4 width wide.
      chunk: tokens per block of queries, keys and feed-forward alike; a divisor of length.

    Returns:
      init(key) -> weights, and apply(weights, x [B, L, E]) -> [B, L, E].

    Raises:
      AbsentError: no folder was given, flax or einops is not installed, or the code does not run on this JAX.
    """
    import jax.numpy as jnp

    path = Path(folder, "bpt", "blocks", "blockwise_parallel.py")
    if not folder:
        raise AbsentError("skipped: --official names no folder of its code")
    _package("flax"), _package("einops")
    spec = importlib.util.spec_from_file_location("official_blockwise_parallel", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise AbsentError(f"skipped: no {path}")
    code: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
        block = code.AttentionBlock(
            q_chunk_size=chunk,
            k_chunk_size=chunk,
            hidden_size=width,
            num_heads=heads,
            rotary_dim=width // heads,
            intermediate_size=4 * width,
            activation_function="gelu_new",
            max_position_embeddings=length,
        )
    except (ImportError, AttributeError, TypeError) as error:
        raise AbsentError(f"skipped: it does not load here: {error}") from None

    def apply(weights: Any, x: "Array") -> "Array":
        rows = x.shape[:2]
        places = jnp.broadcast_to(jnp.arange(length)[None], rows)
        return block.apply(weights, x, jnp.ones(rows, jnp.int32), places)

    def init(key: "Array") -> Any:
        rows = (1, length)
        x = jnp.zeros((*rows, width))
        return block.init(key, x, jnp.ones(rows, jnp.int32), jnp.arange(length)[None])

    return init, apply
