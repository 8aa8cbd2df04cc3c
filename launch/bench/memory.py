"""Memory of loss and gradient: the compiler's account, the memory a process really takes, and what fits a budget.

The unit sD is one [B, L, E] float32 array. `temp` is what a step allocates besides arguments and results:
jax's memory_analysis(), exact for any size, on any machine, without running.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import log
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from launch.bench import Plot, Row, Settings, layer, peers
from launch.bench.layer import Shape

HELP = "temporary memory of loss and gradient, the real rise of a process, and the longest context that fits"
PLOT = Plot(bars=("system",), values=("temp sD", "rise sD", "16 GiB"))

BUDGETS = (1, 4, 16)
"""GiB."""


class System(NamedTuple):
    """A way to compute a stack of layers."""

    function: Callable[..., Any]
    shape: Shape
    step: int
    """Its rows are a multiple of so many tokens."""
    note: str | None = None


def systems(shape: Shape, chunks: tuple[int, int]) -> dict[str, System]:
    """All that the tables compare, by name."""
    from agent.config import REMATS
    from agent.stack import Form

    deep = shape.layers > 1
    kept, other = "keeps inputs of layers" if deep else None, "another model"
    found = {
        name.replace("_", "-"): System(layer.ours(Form(system=name)), shape, 1, kept)
        for name in ("vanilla", "memory_efficient")
    }
    for chunk in chunks:
        function = layer.published(chunk, shape.layers)
        found[f"{layer.PUBLISHED}, chunk {chunk}"] = System(function, shape, chunk, kept)
    for remat in REMATS:
        found[f"ours, {remat}"] = System(layer.ours(Form(remat=remat)), shape, 1)
    mqa = shape._replace(kv_heads=1)
    found["ours, input, MQA"] = System(layer.ours(Form(remat="input")), mqa, 1, f"{other}: one head of keys")
    if deep:
        form = Form(remat="input", reversible=True)
        found["ours, reversible"] = System(layer.ours(form), shape, 1, f"{other}: two streams")
    return found


def run(settings: Settings) -> list[Row]:
    """The compiler's account of three shapes, the rise of processes, and the longest rows."""
    if settings.quick:
        deep, one, chunks = Shape(1, 256, 32, 2, 2), Shape(1, 256, 32, 2), (128, 64)
        few = (f"{layer.PUBLISHED}, chunk 64", "ours, input", "ours, reversible")
        rows = account(deep, chunks, settings, few) + risen(one, chunks, settings, few[:2])
        return rows + longest_rows(one, chunks, (2**25,), (1,), few)
    one, chunks = Shape(1, 8192, 512, 4), layer.CHUNKS
    shapes = [one, Shape(1, 131072, 128, 1, 3), one._replace(layers=24)]
    every = tuple(systems(shapes[-1], chunks))
    rows = [row for shape in shapes for row in account(shape, chunks, settings, every)]
    rows += risen(one, chunks, settings, (*systems(one, chunks), layer.TORCH, layer.TORCH_CHECKPOINT))
    return rows + longest_rows(one, chunks, [gib * 2**30 for gib in BUDGETS], (1, 24), every)


class Bytes(NamedTuple):
    """What a compiled step holds at once."""

    arguments: int
    results: int
    temporary: int

    @property
    def all(self) -> int:
        return sum(self)


def measure(function: Callable[..., Any], arguments: Any) -> Bytes:
    """The compiler's account, from shapes alone."""
    found = layer.compile_step(function, arguments).memory_analysis()
    return Bytes(found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)


def shapes_of(shape: Shape) -> Any:
    """Weights, x and places as shapes: nothing is allocated."""
    import jax

    return jax.eval_shape(lambda key: layer.init(shape, key), jax.random.key(0))


def account(shape: Shape, chunks: tuple[int, int], settings: Settings, names: Sequence[str]) -> list[Row]:
    """The table of one shape."""
    rows: list[Row] = []
    wanted = {name: system for name, system in systems(shape, chunks).items() if name in names}
    for name, system in _progress(wanted, str(shape)):
        size = measure(system.function, shapes_of(system.shape))
        rows.append(_account_row(shape, name, size, system.note))
    if shape.layers == 1:
        for chunk in chunks:
            name = f"{layer.OFFICIAL}, chunk {chunk}"
            try:
                size = measure(*_official(shape, chunk, settings.official))
                rows.append(_account_row(shape, name, size, "its own code"))
            except peers.AbsentError as error:
                rows.append({"table": str(shape), "system": name, "note": str(error)})
    return rows


def _account_row(shape: Shape, name: str, size: Bytes, note: str | None) -> Row:
    return {
        "table": str(shape),
        "system": name,
        "temp sD": size.temporary / shape.unit,
        "temp MiB": size.temporary / 2**20,
        "arguments MiB": size.arguments / 2**20,
        "note": note,
    }


def _official(shape: Shape, chunk: int, folder: str) -> tuple[Callable[..., Any], Any]:
    import jax

    init, apply = peers.official_layer(folder, shape.length, shape.width, shape.heads, chunk)
    return apply, (jax.eval_shape(init, jax.random.key(0)), shapes_of(shape)[1])


def _progress(items: dict[str, Any], label: str) -> Iterator[tuple[str, Any]]:
    from tqdm import tqdm

    with tqdm(items.items(), desc=label, disable=None, leave=False) as bar:
        for name, item in bar:
            bar.set_postfix_str(name)
            yield name, item


def risen(shape: Shape, chunks: tuple[int, int], settings: Settings, names: Sequence[str]) -> list[Row]:
    """How much one step really takes: a fresh process per system, the highest resident memory in the step less before.

    Compiled, with its arguments there, before the measurement; results are in it, so `predicted` is temp and results.
    """
    heading = f"real rise of a process: {shape}"
    if not sys.platform.startswith("linux"):
        return [{"table": heading, "system": "all", "note": "skipped: needs Linux's /proc"}]
    rows: list[Row] = []
    for name, _ in _progress(dict.fromkeys(names), heading):
        # A process per system: memory that one has given back to malloc would hide the next one's rise.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            rise, predicted, note = process.submit(rise_of, name, shape, chunks, settings).result()
        row: Row = {"table": heading, "system": name, "note": note}
        if rise is not None:
            row |= {"rise sD": rise / shape.unit, "rise MiB": rise / 2**20}
        if predicted is not None:
            row |= {"predicted sD": predicted / shape.unit}
        if rise is not None and predicted is not None:
            row |= {"rise / predicted": rise / predicted}
        rows.append(row)
    return rows


def rise_of(
    name: str, shape: Shape, chunks: tuple[int, int], settings: Settings
) -> tuple[int | None, int | None, str | None]:
    """In a process of its own: bytes it rose by, bytes predicted, and a note, where there are such."""
    import jax

    key = jax.random.key(settings.seed)
    if name in (layer.TORCH, layer.TORCH_CHECKPOINT):
        checkpoint, threads = name == layer.TORCH_CHECKPOINT, settings.threads
        weights, x, _ = layer.init(shape, key)
        try:
            peers.torch_stack(weights, x[:, :16], checkpoint=checkpoint, threads=threads)()  # sets its libraries up
            return _rise(peers.torch_stack(weights, x, checkpoint=checkpoint, threads=threads)), None, None
        except peers.AbsentError as error:
            return None, None, str(error)
    small = layer.init(shape._replace(length=16), key)  # sets the runtime up, as above
    jax.block_until_ready(layer.compile_step(systems(shape, chunks)["vanilla"].function, small)(*small))
    system = systems(shape, chunks)[name]
    arguments = jax.block_until_ready(layer.init(system.shape, key))
    compiled = layer.compile_step(system.function, arguments)
    found = compiled.memory_analysis()
    predicted = found.temp_size_in_bytes + found.output_size_in_bytes
    if predicted > available() / 2:
        return None, predicted, "not run: more than half of the free memory"
    return _rise(lambda: jax.block_until_ready(compiled(*arguments))), predicted, None


def _rise(step: Callable[[], object]) -> int:
    """Bytes between resident memory before a step and the highest while it runs; its results are kept."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    _ = step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Bytes, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def available() -> int:
    """Bytes of memory that this machine could still give; a very large number where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return sys.maxsize
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def longest_rows(
    shape: Shape, chunks: tuple[int, int], budgets: Sequence[int], depths: Sequence[int], names: Sequence[str]
) -> list[Row]:
    """The longest context whose loss and gradient fit: a table per depth, a row per system, a column per budget."""
    rows: list[Row] = []
    for depth in depths:
        deep = shape._replace(layers=depth)
        heading = f"tokens that fit in so many GiB, {deep.model}: weights, x, their gradients and temp"
        wanted = {name: system for name, system in systems(deep, chunks).items() if name in names}
        table: list[Row] = []
        for name, system in _progress(wanted, heading):
            known: dict[int, int] = {}

            def size(length: int, system: System = system) -> int:
                return measure(system.function, shapes_of(system.shape._replace(length=length))).all

            step = max(system.step, 1024)
            tokens = {f"{budget / 2**30:g} GiB": longest(size, budget, step, known) for budget in budgets}
            table.append({"table": heading, "system": name, **tokens, "note": system.note})
        rows += _with_ratios(table, f"{max(budgets) / 2**30:g} GiB")
    return rows


def _with_ratios(rows: list[Row], column: str) -> list[Row]:
    """The rows with how many times the tokens of each rival, at its best, they reach in one column."""
    found = []
    for row in rows:
        ratios = {}
        for rival in ("vanilla", "memory-efficient", layer.PUBLISHED):
            best = max((other[column] for other in rows if other["system"].startswith(rival)), default=0)
            ratios[f"{column}, x {rival}"] = row[column] / best if best else None
        found.append(row | ratios)
    return found


def longest(size: Callable[[int], int], budget: int, step: int, known: dict[int, int]) -> int:
    """The greatest multiple of step whose size is within budget, 0 if none; size must not fall.

    Every size is a compilation, so the next length to ask is where a power law through two known sizes takes the
    budget; going up, at most 64 times as far, and closing in, every third time the middle.

    Args:
      known: length -> size, what has been asked before; it grows.
    """
    low = max((length for length, bytes_ in known.items() if bytes_ <= budget), default=0)
    high = min((length for length, bytes_ in known.items() if bytes_ > budget), default=0)
    turn = 0
    while not high or high - low > step:
        first = min(known, default=0)
        guess = _power_law(known, low if high else first, high or low, budget) // step * step
        if not high:
            middle = min(max(guess, low + step), max(64 * low, step))
        elif turn % 3 == 2 or not low:
            middle = (low + high) // 2 // step * step
        else:
            middle = min(max(guess, low + step), high - step)
        known[middle] = size(middle)
        low, high = (middle, high) if known[middle] <= budget else (low, middle)
        turn += 1
    return low


def _power_law(known: dict[int, int], a: int, b: int, wanted: int) -> int:
    """The length of the wanted size by the power law through lengths a and b; 16 b where there are no two sizes."""
    if not a or known[a] == known[b]:
        return 16 * b
    power = log(known[b] / known[a]) / log(b / a)
    return int(b * (wanted / known[b]) ** (1 / power))
