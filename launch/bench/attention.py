"""Causal attention alone: ours, torch's, and JAX's own, against what the machine reaches in a plain product.

Useful floating point operations over a row of L tokens, H heads of size D: 4 L^2/2 H D forward (2 products), and
14 L^2/2 H D with the backward pass (5 more). On an accelerator also whole layers in bfloat16, beside cuDNN's attention
alone.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.bench import Plot, Row, Settings, layer, peers, timing
from launch.bench.layer import Builders, Contender, Shape

if TYPE_CHECKING:
    from jax import Array

HELP = "attention alone, forward and backward, as a share of a plain product; model flops utilisation on accelerators"
PLOT = Plot(bars=("system", "pass"), values=("of GEMM",))

FORWARD, BOTH = "forward", "forward + backward"
BLOCKS = (256, 512)


class Heads(NamedTuple):
    """One row of attention."""

    length: int
    heads: int
    size: int

    def flops(self, which: str) -> float:
        products = 4 if which == FORWARD else 14
        return products * self.length**2 / 2 * self.heads * self.size

    def __str__(self) -> str:
        heads = f"{self.heads} heads" if self.heads > 1 else "one head"
        return f"{self.length:,} tokens, {heads} of {self.size}"


def run(settings: Settings) -> list[Row]:
    """A table per shape; on an accelerator also its utilisation."""
    import jax

    if jax.default_backend() != "cpu":
        return utilisation(settings)
    shapes = [Heads(256, 2, 16)] if settings.quick else [Heads(8192, 4, 64), Heads(32768, 1, 128)]
    blocks = (64,) if settings.quick else BLOCKS
    return [row for shape in shapes for row in compare(shape, blocks, settings)]


def compare(shape: Heads, blocks: tuple[int, ...], settings: Settings) -> list[Row]:
    """Both passes of every system, in the same rounds."""
    arguments = inputs(shape, "float32", settings.seed)
    builders: Builders = {}
    for which in (FORWARD, BOTH):
        for block in blocks:
            builders[f"ours, blocks of {block}|{which}"] = partial(contender, ours(block), arguments, which)
        builders[f"torch|{which}"] = partial(_torch, arguments, which, settings.threads)
        builders[f"jax.nn, xla|{which}"] = partial(contender, jax_nn("xla"), arguments, which)
    return table(f"{shape}, float32", builders, shape.flops, settings, None)


def table(
    heading: str, builders: Builders, flops: Callable[[str], float], settings: Settings, peak: float | None
) -> list[Row]:
    """Rows of systems named `system|pass`.

    Args:
      flops: pass -> useful ones.
      peak: flops per second that the maker of the device states, if known.
    """
    contenders, absent = layer.build(builders)
    thunks = {name: one.run for name, one in contenders.items()}
    timings, gemm = timing.against_gemm(thunks, settings.repeats, settings.quick, heading)
    rows: list[Row] = []
    for name, one in contenders.items():
        system, _, which = name.partition("|")
        rate = flops(which) / timings[name].median
        rival = timings.get(f"torch|{which}")
        rows.append(
            {
                "table": heading,
                "system": system,
                "pass": which,
                "seconds": timings[name].median,
                "minimum": timings[name].minimum,
                "GFLOP/s": rate / 1e9,
                "of GEMM": rate / gemm,
                "MFU": rate / peak if peak else None,
                "x torch": rival.median / timings[name].median if rival else None,
                "temp MiB": None if one.temporary is None else one.temporary / 2**20,
                "note": one.note,
            }
        )
    rows.append({"table": heading, "system": "GEMM", "GFLOP/s": gemm / 1e9, "of GEMM": 1.0})
    split = (name.partition("|") for name in absent)
    why = absent.values()
    return rows + [
        {"table": heading, "system": system, "pass": which, "note": note}
        for (system, _, which), note in zip(split, why, strict=True)
    ]


def inputs(shape: Heads, dtype: str, seed: int) -> tuple["Array", "Array", "Array"]:
    """Queries, keys and values, [1, L, H, D] of noise."""
    import jax

    keys = jax.random.split(jax.random.key(seed), 3)
    q, k, v = (jax.random.normal(key, (1, *shape)).astype(dtype) for key in keys)
    return q, k, v


def ours(block: int) -> Callable[..., "Array"]:
    """(q, k, v) -> our attention in blocks, every token seeing all before it."""
    import jax.numpy as jnp

    from agent.attention import Visibility
    from agent.blockwise import blockwise_attention

    def attention(q: "Array", k: "Array", v: "Array") -> "Array":
        ones = jnp.ones(q.shape[:2], jnp.int32)
        return blockwise_attention(q, k, v, Visibility(ones, 0 * ones), block=block, window=None, span=None)

    return attention


def jax_nn(implementation: Any) -> Callable[..., "Array"]:
    """(q, k, v) -> jax.nn.dot_product_attention; xla holds all scores, cudnn is flash attention."""
    import jax

    return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)


def contender(function: Callable[..., "Array"], arguments: tuple[Any, ...], which: str) -> Contender:
    """One pass, compiled. Raises AbsentError where the device cannot, or it needs a quarter of the free memory."""
    import jax
    import jax.numpy as jnp

    from launch.bench.memory import available

    def both(*arguments: "Array") -> Any:
        return jax.grad(lambda *xs: (function(*xs).astype(jnp.float32) ** 2).mean(), (0, 1, 2))(*arguments)

    try:
        compiled = jax.jit(function if which == FORWARD else both).lower(*arguments).compile()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise peers.AbsentError(f"skipped: {str(error).splitlines()[0][:80]}") from None
    temporary: int = compiled.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]
    if jax.default_backend() == "cpu" and temporary > available() / 4:
        raise peers.AbsentError(f"skipped: needs {temporary / 2**30:.1f} GiB")
    return Contender(lambda: jax.block_until_ready(compiled(*arguments)), temporary)


def _torch(arguments: tuple["Array", "Array", "Array"], which: str, threads: int) -> Contender:
    forward, both = peers.torch_attention(*arguments, threads)
    return Contender(forward if which == FORWARD else both)


def utilisation(settings: Settings) -> list[Row]:
    """bfloat16 over long rows: cuDNN's attention alone, ours alone, and whole layers of ours with each kernel."""
    import jax

    from agent.config import REMATS
    from agent.stack import Form

    lengths, heads, size = ((256,), 2, 16) if settings.quick else ((8192, 32768, 131072), 8, 128)
    peak, rows = _peak(), []
    for length in lengths:
        shape = Heads(length, heads, size)
        arguments = inputs(shape, "bfloat16", settings.seed)
        alone: Builders = {}
        for which in (FORWARD, BOTH):
            for name, function in (("cuDNN", jax_nn("cudnn")), ("ours, xla", ours(min(length, 512)))):
                alone[f"{name}|{which}"] = partial(contender, function, arguments, which)
        rows += table(f"attention alone, {shape}, bfloat16", alone, shape.flops, settings, peak)
        whole = Shape(1, length, heads * size, heads)
        weights, x, where = layer.init(whole, jax.random.key(settings.seed))
        forms = {
            f"ours, {kernel}, {remat}|{BOTH}": Form(kernel=kernel, remat=remat)
            for kernel in ("xla", "cudnn")
            for remat in REMATS
        }
        layers: Builders = {
            n: partial(_layer, form, (weights, x.astype("bfloat16"), where)) for n, form in forms.items()
        }
        rows += table(f"{whole}, bfloat16", layers, partial(_whole_flops, whole), settings, peak)
    return rows


def _whole_flops(shape: Shape, which: str) -> float:
    return shape.flops


def _layer(form: Any, arguments: tuple[Any, ...]) -> Contender:
    try:
        return layer.contender(layer.ours(form), arguments)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise peers.AbsentError(f"skipped: {str(error).splitlines()[0][:80]}") from None


def _peak() -> float | None:
    """bfloat16 flops per second as the maker states them, of devices that launch.devices knows by name."""
    import jax

    from launch import devices

    kind = jax.devices()[0].device_kind.lower()
    return next((devices.find(name).bfloat16 for name in devices.NAMES if name in kind), None)
