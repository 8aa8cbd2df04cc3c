"""Loss and gradient of whole layers: ours against what a user could pick instead, timed interleaved.

The loss is mean(y^2), the gradient is in all weights and in x. Useful floating point operations of one layer over a row
of L tokens of width E, F = 4 E: 3 x 24 L E^2 for the products with parameters, forward and twice as much
backward, and 14 L^2/2 E for causal attention: 2 products forward, 5 backward. What a system computes twice, or
above the diagonal, does not count: `of GEMM` is useful work per second over what a plain product reaches.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.bench import Plot, Row, Settings, peers, timing

if TYPE_CHECKING:
    from jax import Array

    from agent.attention import Visibility
    from agent.bpt import LayerWeights
    from agent.stack import Form
    from data.trajectory import Batch

HELP = "seconds of loss and gradient: ours, torch with and without checkpoint, and BPT as published"
PLOT = Plot(bars=("system",), values=("tokens/s",))

TORCH, TORCH_CHECKPOINT, OFFICIAL, PUBLISHED = "torch", "torch + checkpoint", "official BPT", "published BPT"
CHUNKS = (2048, 512)
"""Of BPT as published: the default of its scripts, and where it is fastest and smallest here."""

Function = Callable[["LayerWeights", "Array", "Visibility"], "Array"]
"""Weights stacked on a first axis, x [B, L, E] and who sees whom -> y [B, L, E]."""


class Shape(NamedTuple):
    """What goes through how many layers; the feed-forward layer is 4 E wide."""

    rows: int
    length: int
    width: int
    heads: int
    layers: int = 1
    kv_heads: int = 0
    """0 is as many as heads."""

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def unit(self) -> int:
        """Bytes of one [B, L, E] float32 array, called sD."""
        return self.tokens * self.width * 4

    @property
    def flops(self) -> float:
        """Useful ones of a loss and its gradient."""
        products = 72 * self.tokens * self.width**2
        return self.layers * float(products + 7 * self.tokens * self.length * self.width)

    @property
    def model(self) -> str:
        """What does not depend on the rows, in words."""
        layers = f"{self.layers} layers" if self.layers > 1 else "one layer"
        heads = f"{self.heads} heads" if self.heads > 1 else "one head"
        return f"{layers} of width {self.width}, {heads}"

    def __str__(self) -> str:
        rows = f"{self.rows} rows of " if self.rows > 1 else ""
        return f"{rows}{self.length:,} tokens, {self.model}"


class Contender(NamedTuple):
    """One system, ready to run."""

    run: timing.Thunk
    temporary: int | None = None
    """Bytes, from the compiler; None where there is no such account."""
    note: str | None = None


def ours(form: "Form") -> Function:
    """Our layers as `form` has them."""
    from agent.stack import stack

    return lambda weights, x, where: stack(weights, x, where, form)


def published(chunk: int, layers: int) -> Function:
    """BPT as published. Several layers keep only their inputs, as its scripts have it for models."""
    import jax

    from launch.bench.published import published_layer

    one: Callable[..., Any] = partial(published_layer, chunk=chunk)
    if layers == 1:
        return lambda weights, x, where: one(jax.tree.map(lambda array: array[0], weights), x)
    one = jax.checkpoint(one)
    return lambda weights, x, where: jax.lax.scan(lambda x, w: (one(w, x), None), x, weights)[0]


def init(shape: Shape, key: "Array") -> tuple["LayerWeights", "Array", "Visibility"]:
    """Weights, a row of noise, and plain causal rows."""
    import jax
    import jax.numpy as jnp

    from agent import bpt
    from agent.attention import Visibility

    def layer(key: "Array") -> "LayerWeights":
        ffn, depth = 4 * shape.width, shape.layers
        return bpt.init_layer(key, shape.width, shape.heads, ffn, depth, kv_heads=shape.kv_heads)

    weights_key, x_key = jax.random.split(key)
    weights = jax.vmap(layer)(jax.random.split(weights_key, shape.layers))
    x = jax.random.normal(x_key, (shape.rows, shape.length, shape.width))
    places = jnp.ones(x.shape[:2], jnp.int32)
    return weights, x, Visibility(places, 0 * places)


def compile_step(function: Callable[..., Any], arguments: Any) -> Any:
    """Loss and gradient in the first two arguments, compiled; arguments may be shapes."""
    import jax

    def loss(*arguments: Any) -> Any:
        return (function(*arguments) ** 2).mean()

    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arguments).compile()


def contender(function: Callable[..., Any], arguments: Any, note: str | None = None) -> Contender:
    """A JAX system, compiled."""
    import jax

    compiled = compile_step(function, arguments)
    return Contender(
        lambda: jax.block_until_ready(compiled(*arguments)), compiled.memory_analysis().temp_size_in_bytes, note
    )


def run(settings: Settings) -> list[Row]:
    """The tables of whole layers, of small sequences, and of training steps."""
    long = [Shape(1, 8192, 512, 4), Shape(1, 16384, 128, 1)]
    small = [Shape(64, 32, 128, 1, 3), Shape(64, 128, 128, 1, 3)]
    chunks = CHUNKS
    if settings.quick:
        long, small, chunks = [Shape(1, 256, 32, 2)], [Shape(4, 16, 32, 1, 2)], (128, 64)
    rows: list[Row] = []
    for shape in long:
        rows += compare(shape, _long_builders(shape, chunks, settings), settings)
    for shape in small:
        rows += compare(shape, _builders(shape, settings), settings)
    return rows + training_steps(settings)


Builders = dict[str, Callable[[], Contender]]


def _builders(shape: Shape, settings: Settings) -> Builders:
    """Ours in its three modes, and torch: everything that fits rows of any length."""
    import jax

    from agent.config import REMATS
    from agent.stack import Form

    arguments = init(shape, jax.random.key(settings.seed))

    def torch(checkpoint: bool) -> Contender:
        step = peers.torch_stack(arguments[0], arguments[1], checkpoint=checkpoint, threads=settings.threads)
        return Contender(step)

    builders: Builders = {f"ours, {remat}": partial(contender, ours(Form(remat=remat)), arguments) for remat in REMATS}
    return builders | {TORCH: partial(torch, False), TORCH_CHECKPOINT: partial(torch, True)}


def _long_builders(shape: Shape, chunks: tuple[int, int], settings: Settings) -> Builders:
    """The above, and BPT as published, at its default chunk and at its best."""
    import jax

    key = jax.random.key(settings.seed)
    arguments = init(shape, key)

    def official(chunk: int) -> Contender:
        start, apply = peers.official_layer(settings.official, shape.length, shape.width, shape.heads, chunk)
        return contender(apply, (start(key), arguments[1]), "its own code; rotary positions, no biases in attention")

    builders = _builders(shape, settings)
    for chunk in chunks:
        anew = published(chunk, shape.layers)
        builders[f"{OFFICIAL}, chunk {chunk}"] = partial(official, chunk)
        builders[f"{PUBLISHED}, chunk {chunk}"] = partial(contender, anew, arguments, "written anew")
    return builders


def compare(shape: Shape, builders: Builders, settings: Settings) -> list[Row]:
    """One table: all that can be built here, timed in the same rounds."""
    contenders, absent = build(builders)
    thunks = {name: one.run for name, one in contenders.items()}
    timings, peak = timing.against_gemm(thunks, settings.repeats, settings.quick, str(shape))
    medians = {name: found.median for name, found in timings.items()}

    def over(row: str, rival: str) -> float | None:
        """How many times faster than the first system whose name begins so."""
        found = next((name for name in medians if name == rival or name.startswith(f"{rival}, ")), None)
        return None if found is None else medians[found] / medians[row]

    rows: list[Row] = []
    for name, one in contenders.items():
        rows.append(
            {
                "table": str(shape),
                "system": name,
                "seconds": medians[name],
                "minimum": timings[name].minimum,
                "tokens/s": shape.tokens / medians[name],
                "of GEMM": shape.flops / medians[name] / peak,
                "x torch": over(name, TORCH),
                "x checkpoint": over(name, TORCH_CHECKPOINT),
                "x official": over(name, OFFICIAL),
                "x published": over(name, PUBLISHED),
                "temp sD": None if one.temporary is None else one.temporary / shape.unit,
                "note": one.note,
            }
        )
    yardstick: Row = {"table": str(shape), "system": "GEMM", "note": f"{peak / 1e9:,.0f} GFLOP/s, in the same rounds"}
    return [*rows, yardstick, *({"table": str(shape), "system": name, "note": why} for name, why in absent.items())]


def build(builders: Builders) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders that can run here, and why the others cannot."""
    contenders, absent = {}, {}
    for name, make in builders.items():
        try:
            contenders[name] = make()
        except peers.AbsentError as error:
            absent[name] = str(error)
    return contenders, absent


def training_steps(settings: Settings) -> list[Row]:
    """Updates of whole models on short windows: ours, and Hugging Face's Decision Transformer at its defaults."""
    rows, steps, width, layers = (4, 5, 32, 2) if settings.quick else (64, 20, 128, 3)
    table = f"training step with AdamW and dropout: {rows} windows of {steps} steps, {layers} layers of {width}"

    def hugging_face() -> Contender:
        return Contender(
            peers.decision_transformer(rows, steps, width, 1, layers, settings.seed, settings.threads),
            note="Hugging Face DecisionTransformerModel",
        )

    builders: Builders = {"Decision Transformer": hugging_face}
    tokens = {"Decision Transformer": 3}
    for layout, kinds in (("interleaved", 4), ("fused", 1)):
        name = f"ours, {layout}"
        builders[name] = partial(_our_step, layout, rows, steps, width, layers, settings.seed)
        tokens[name] = kinds
    contenders, absent = build(builders)
    timings = timing.interleave({name: one.run for name, one in contenders.items()}, 4 * settings.repeats, label=table)
    found: list[Row] = []
    for name, one in contenders.items():
        seconds = timings[name].median
        rate = rows * steps / seconds
        found.append(
            {
                "table": table,
                "system": name,
                "seconds": seconds,
                "minimum": timings[name].minimum,
                "tokens/s": rate * tokens[name],
                "tokens a step": tokens[name],
                "environment steps/s": rate,
                "note": one.note,
            }
        )
    return found + [{"table": table, "system": name, "note": why} for name, why in absent.items()]


def _our_step(layout: str, rows: int, steps: int, width: int, layers: int, seed: int) -> Contender:
    """The update that launch.train_offline makes, on noise."""
    import jax

    from agent import learner
    from agent.config import ModelConfig, OptimizerConfig

    model = ModelConfig(tokens=layout, layers=layers, width=width, heads=1, trajs=1)
    optimizer = OptimizerConfig()
    state = [learner.init_state(jax.random.key(seed), model, optimizer, 24, 6)]
    batch = _noise(rows, steps, seed)
    compiled = jax.jit(learner.make_train_step(model, optimizer, seed), donate_argnums=0).lower(state[0], batch)
    step = compiled.compile()

    def update() -> object:
        state[0], metrics = step(state[0], batch)
        return jax.block_until_ready(metrics)

    return Contender(update)


def _noise(rows: int, steps: int, seed: int) -> "Batch":
    """A batch of walker's sizes: one trajectory in every row."""
    import numpy as np

    from data.trajectory import Batch

    rng = np.random.default_rng(seed)
    sizes = {"observations": (24,), "actions": (6,), "previous_actions": (6,)}
    arrays: dict[str, Any] = {
        name: rng.uniform(-1, 1, (rows, steps, *sizes.get(name, ()))).astype(np.float32) for name in Batch._fields
    }
    ones = np.ones((rows, steps), np.int32)
    arrays |= {"timesteps": ones.cumsum(1, dtype=np.int32) - 1, "trajectories": 0 * ones, "chains": ones}
    return Batch(**arrays)
