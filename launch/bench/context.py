"""The paper's table of maximum context lengths, rebuilt by arithmetic on what the compiler says one stack needs.

The setting is that of the papers (arXiv 2305.19370, Table 1; arXiv 2310.01889, Table 3): GPT of 1B to 70B weights,
50,432 words, one sequence on each device, everything float32, AdamW. A device holds

    16 bytes a weight (weight, gradient, two moments) / devices    sharded over the devices, as FSDP does
  + 8 bytes a weight of one layer                                  gathered whole, and its gradient; if devices > 1
  + temporaries of loss and gradient of the whole stack            the compiler's account of the stack at this width
  + 2 arrays [L, E]                                                embedded tokens, and their gradient
  + 3 arrays [1024, 50,432]                                        logits of a block, their softmax and gradient

Every system recomputes a layer from its input, and every system is granted a blockwise head and loss, the rivals too,
so that what differs is the layers alone. Where the extra `aot` is installed the stack is compiled for an H100, else for
the machine at hand. The account is taken at some lengths, and a curve put through them: lines, or for the rivals
a L^2 + b L (published attention keeps numbers for every query and block of keys). Of ours the longest context of every
model is then compiled too; `error` says what the curve was wrong by.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from launch.bench import Plot, Row, Settings
from launch.bench.papers import MODELS, TABLE, VOCABULARY, Gpt, Hardware

HELP = "longest context of GPT 1B to 70B on 1, 8, 32 and 64 devices, ours beside the published"
PLOT = Plot(bars=("model",), values=("x memory-efficient",))

HEAD_BLOCK = 1024
CHUNKS = (2048, 512)
"""Blocks of the published systems: their default, and the size that often needs less; the better one counts."""
STEP = 1024
"""Contexts are multiples of this."""
TARGET = "h100"
OURS, REVERSIBLE, RIVALS = "minimal", "reversible", ("vanilla", "memory-efficient", "published BPT")


Stack = Callable[[Any, Any, Any], Any]
"""Stacked weights, x [1, L, E] and who sees whom -> y [1, L, E]."""


class System(NamedTuple):
    """One way to compute the layers."""

    name: str
    stack: Stack
    lengths: tuple[int, ...] = (32_768, 131_072, 524_288)
    """Where the account is taken at E = 2,048; shorter in proportion in wider models."""
    power: int = 1
    """Of L, in its temporaries."""


def systems() -> list[System]:
    """The rivals, and ours."""
    from agent.stack import Form, stack
    from launch.bench.published import published_layer

    def ours(**form: Any) -> Stack:
        return lambda weights, x, where: stack(weights, x, where, Form(kernel="xla", **form))

    rivals = [System("vanilla", rematerialised(_vanilla), (16_384, 32_768), 2)]
    far = (65_536, 131_072)
    for chunk in CHUNKS:
        rivals += [
            System("memory-efficient", rematerialised(partial(_memory_efficient, chunk)), far, 2),
            System("published BPT", rematerialised(partial(published_layer, chunk=chunk)), far, 2),
        ]
    return [
        *rivals,
        System("output", ours(remat="output")),
        System("input", ours(remat="input")),
        System(OURS, ours(remat="minimal")),
        System(REVERSIBLE, ours(remat="minimal", reversible=True)),
    ]


def rematerialised(layer: Callable[[Any, Any], Any]) -> Stack:
    """Layer on layer; only their inputs are kept, as the papers do for every system."""
    import jax

    one = jax.checkpoint(layer)
    return lambda weights, x, where: jax.lax.scan(lambda x, w: (one(w, x), None), x, weights)[0]


def _vanilla(weights: Any, x: Any) -> Any:
    """jax.nn's attention, as plain XLA: all scores at once, in less memory than our own readable form."""
    import jax

    from agent import bpt

    attended = jax.nn.dot_product_attention(*bpt.project(weights, x), is_causal=True, implementation="xla")
    return bpt.feed_forward(weights, x, attended)


def _memory_efficient(chunk: int, weights: Any, x: Any) -> Any:
    """The attention of published BPT, then the feed-forward layer of the whole row."""
    from agent import bpt
    from agent.blockwise import merge, split
    from launch.bench import published

    q, k, v = bpt.project(weights, x)
    blocks = (split(a, chunk) for a in (q * q.shape[-1] ** -0.5, k, v))
    return bpt.feed_forward(weights, x, merge(published.attention(*blocks), x.shape[1]))


def temporaries(stack: Stack, gpt: Gpt, length: int, sharding: Any = None) -> int:
    """Bytes that loss and gradient of a stack need beside weights, input and gradients; nothing is allocated.

    sharding: on the device to compile for; None is the one at hand.
    """
    import jax
    import jax.numpy as jnp

    from agent import bpt
    from agent.attention import Visibility

    def layers(key: Any) -> Any:
        init = partial(bpt.init_layer, width=gpt.width, heads=gpt.heads, ffn_width=4 * gpt.width, depth=gpt.layers)
        return jax.vmap(init)(jax.random.split(key, gpt.layers))

    def place(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(weights: Any, x: Any, where: Any) -> Any:
        return (stack(weights, x, where) ** 2).mean()

    weights = jax.tree.map(lambda a: place(a.shape, a.dtype), jax.eval_shape(layers, jax.random.key(0)))
    x, places = place((1, length, gpt.width), jnp.float32), place((1, length), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(weights, x, Visibility(places, places))
    # No time on fast instructions: they are not run, and take the same memory.
    quick: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
    memory: Any = step.compile(compiler_options=quick if jax.default_backend() != "tpu" else None).memory_analysis()
    return memory.temp_size_in_bytes


class Curve(NamedTuple):
    """Temporaries as square L^2 and the greatest of some lines, slope L + constant."""

    square: float
    lines: list[tuple[float, float]]

    def at(self, length: int) -> float:
        return self.square * length**2 + max(slope * length + constant for slope, constant in self.lines)


def through(power: int, points: Sequence[tuple[int, float]]) -> Curve:
    """The curve through (length, bytes): for power 2 a parabola through the origin if it bends up, else lines.

    What is held at one moment is linear in L, and memory is that of the worst moment: between points no less than it.
    """
    (a, y), (b, z) = points[:2]
    square = (z / b - y / a) / (b - a)
    if power == 2 and square > 0:
        return Curve(square, [(y / a - square * a, 0.0)])
    slopes = [(a, y, (z - y) / (b - a)) for (a, y), (b, z) in pairwise(points)]
    return Curve(0.0, [(slope, y - slope * a) for a, y, slope in slopes])


def fixed(gpt: Gpt, hardware: Hardware) -> float:
    """Bytes on each device that do not depend on the context; the terms are those at the head of this file."""
    gathered = 8 * gpt.layer if hardware.devices > 1 else 0
    return 16 * gpt.weights / hardware.devices + gathered + 3 * HEAD_BLOCK * VOCABULARY * 4


def longest(gpt: Gpt, hardware: Hardware, curves: Sequence[Curve]) -> int:
    """The longest context that fits by the best of some curves, a multiple of STEP tokens; 0 where not even one."""

    def fits(length: int) -> bool:
        stack = min(curve.at(length) for curve in curves)
        return fixed(gpt, hardware) + stack + 2 * length * gpt.width * 4 <= hardware.memory

    if not fits(STEP):
        return 0
    low, high = 1, 2
    while fits(high * STEP):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * STEP) else (low, middle)
    return low * STEP


def power_of_two(length: int) -> int:
    """The greatest that is no longer; 0 for 0."""
    return 1 << (length.bit_length() - 1) if length else 0


class Found(NamedTuple):
    """What the compiler said of one model."""

    model: str
    curves: dict[str, list[Curve]]
    """One for every way to compute a system."""
    error: float
    """Of the curve of OURS at its longest context: foreseen / compiled - 1."""


def survey(models: Sequence[str], sharding: Any = None) -> Iterator[Found]:
    """Compile every system at its lengths for every model, and ours at the longest context that any hardware has."""
    for model in models:
        gpt = MODELS[model]
        curves: dict[str, list[Curve]] = {}
        for system in systems():
            lengths = [power_of_two(length * 2048 // gpt.width) for length in system.lengths]
            points = [(length, temporaries(system.stack, gpt, length, sharding)) for length in lengths]
            curves.setdefault(system.name, []).append(through(system.power, points))
        mine = next(system.stack for system in systems() if system.name == OURS)
        last = max(longest(gpt, hardware, curves[OURS]) for hardware, of in TABLE if of == model)
        error = curves[OURS][0].at(last) / temporaries(mine, gpt, last, sharding) - 1 if last else 0.0
        yield Found(model, curves, error)


def survey_elsewhere(models: Sequence[str]) -> Iterator[Found]:
    """The same for TARGET, compiled in a process of its own. Raises RuntimeError where that fails."""
    from launch import aot, devices

    command = [sys.executable, "-m", "launch.bench.context", *models]
    environment = aot.environment(devices.find(TARGET))
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=complaints, text=True) as child,
    ):
        for line in child.stdout or ():
            model, curves, error = json.loads(line)
            yield Found(model, {name: [Curve(*curve) for curve in some] for name, some in curves.items()}, error)
        if child.wait():
            complaints.seek(0)
            last = (complaints.read().strip() or "?").splitlines()[-1]
            raise RuntimeError(f"compiling for {TARGET} failed: {last}")


def main(models: Sequence[str]) -> None:
    """The child of `survey_elsewhere`: a line of JSON for every model."""
    from jax.sharding import SingleDeviceSharding

    from agent import kernels
    from launch import aot, devices

    with kernels.compiling_for("gpu"):
        for found in survey(models, SingleDeviceSharding(aot.target(devices.find(TARGET)))):
            print(json.dumps(found), flush=True)


def compare(found: Found, hardware: Hardware) -> tuple[Row, Row]:
    """A line of the table of contexts, in powers of two as in the papers, and one of what is raw over what is raw."""
    gpt, paper = MODELS[found.model], TABLE[hardware, found.model]
    raw = {name: longest(gpt, hardware, curves) for name, curves in found.curves.items()}
    tokens: Row = {"table": f"longest context in tokens, {hardware.title}", "model": found.model}
    tokens |= {name: power_of_two(length) for name, length in raw.items()}
    ratios: Row = {"table": f"ours over the others, {hardware.title}", "model": found.model, f"{OURS}, raw": raw[OURS]}
    for ours, mark in ((OURS, "x"), (REVERSIBLE, "reversible x")):
        ratios |= {f"{mark} {rival}": raw[ours] / raw[rival] if raw[rival] else None for rival in RIVALS}
    if paper is not None:
        rivals = (paper.vanilla, paper.memory_efficient, paper.bpt)
        tokens |= {"published, K": " / ".join(map(str, rivals)), "note": paper.source}
        ratios["x published"] = " / ".join(f"{tokens[OURS] / (1024 * rival):.3g}" for rival in rivals)
    ratios |= {"weights %": round(100 * fixed(gpt, hardware) / hardware.memory), "error %": 100 * found.error}
    return tokens, ratios


def run(settings: Settings) -> list[Row]:
    """Every pair of TABLE."""
    import jax
    from tqdm import tqdm

    from launch import aot, devices

    models = ["1B"] if settings.quick else list(MODELS)
    elsewhere = not settings.quick and not aot.missing(devices.find(TARGET))
    account = f"compiled for {TARGET if elsewhere else jax.default_backend()}"
    source = survey_elsewhere(models) if elsewhere else survey(models)
    founds = {found.model: found for found in tqdm(source, total=len(models), desc="context", disable=None)}
    both = [compare(founds[model], hardware) for hardware, model in TABLE if model in founds]
    return [tokens for tokens, _ in both] + [ratios | {"account": account} for _, ratios in both]


if __name__ == "__main__":
    main(sys.argv[1:])
