"""What a run will take before it starts: tokens, memory and time of an update, and the longest context that fits.

Memory is the compiler's own account wherever it can compile for the device, which it also can for devices one does not
have (launch/aot.py); else the formula below, which is right within a quarter of that. Time is arithmetic: operations
of an update over the rate of the device, times a share of it that training reaches.
"""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import envs
from agent.tokens import tokens_per_step
from data.chain import shown
from launch import aot
from launch.devices import Device
from launch.plan import Plan

REACHED = {"here": 0.5, "cuda": 0.35, "tpu": 0.35}
"""Share of the rate of matrix products that an update reaches: measured on two CPU cores in the `cpu` preset, assumed
of accelerators."""

MIB = 2**20


class Forecast(NamedTuple):
    """An update of one kind of batch on one device."""

    device: str
    how: str
    """Where the memory is from."""
    rows: int
    tokens: int
    """Of a row."""
    parameters: int
    memory: dict[str, float]
    """Bytes, by what they are for."""
    seconds: dict[str, float]
    """By what they go into."""
    operations: float
    available: int
    """Bytes of memory that the device has free for it."""
    trajs: int
    """The largest that fits."""


def job(plan: Plan, size: envs.Spec) -> aot.Job:
    """The shapes of an update on chains; episodes of full length."""
    length, run = size.episode_length, plan.run
    steps = (plan.model.context - 1) * shown(length, run.keep) + shown(length, run.crop)
    return aot.Job(plan.model, plan.optimizer, run.rows, steps, size.observation_size, size.action_size)


def forecast(plan: Plan, size: envs.Spec, device: Device | None = None) -> Forecast:
    """device: None is this machine. Raises RuntimeError where the compiler fails, but for want of memory."""
    of = job(plan, size)
    how, memory, slope = _memory(of, device)
    parts = where_memory_goes(of, memory.total)
    rate = measured_rate() if device is None else device.flops(plan.model.dtype)
    reached = REACHED["here" if device is None else device.platform]
    flops = operations(of)
    free = available() if device is None else device.memory
    return Forecast(
        device="this machine" if device is None else device.title,
        how=how,
        rows=of.rows,
        tokens=of.steps * tokens_per_step(plan.model.tokens),
        parameters=_parameters(of),
        memory=parts,
        seconds={name: count / (rate * reached) for name, count in flops.items()},
        operations=sum(flops.values()),
        available=free,
        trajs=largest(plan, size, parts, free, slope),
    )


def largest(plan: Plan, size: envs.Spec, parts: dict[str, float], free: float, slope: float = 0.0) -> int:
    """The trajectories whose update fits `free` bytes.

    slope: bytes that one more step in a row takes; 0 lets all but weights grow in proportion to the context, which
    promises too little for short rows.
    """
    steps, total = job(plan, size).steps, sum(parts.values())
    slope = slope or (total - parts["weights and optimizer"]) / steps
    return trajs_of(plan, size, int(steps + (free - total) / slope))


def trajs_of(plan: Plan, size: envs.Spec, steps: int) -> int:
    """The trajectories in a chain of so many steps, at least 0."""
    past, last = shown(size.episode_length, plan.run.keep), shown(size.episode_length, plan.run.crop)
    return max(0, (steps - last) // past + 1)


def _memory(of: aot.Job, device: Device | None) -> tuple[str, aot.Memory, float]:
    """Where an account is from, the account, and the bytes that one more step of a row takes, 0 where unknown."""
    longer = 4 * of.steps
    if device is None:
        memory, more = (aot.account(aot.compile_step(of._replace(steps=steps))) for steps in (of.steps, longer))
        return "compiled", memory, _slope(of, memory, more)
    by_formula = formula(of)
    rough = by_formula, _slope(of, by_formula, formula(of._replace(steps=longer)))
    try:
        (_, memory), (_, more) = aot.compile_train_step(of, device, (of.steps, longer))
    except ModuleNotFoundError as missing:
        return f"formula, since {missing}", *rough
    if memory.refused:
        return f"formula, since the compiler refused: {memory.refused}", *rough
    return "compiled ahead of time", memory, 0.0 if more.refused else _slope(of, memory, more)


def _slope(of: aot.Job, memory: aot.Memory, more: aot.Memory) -> float:
    """Memory is a line in the tokens: its slope, from rows and rows four times as long."""
    return (more.total - memory.total) / (3 * of.steps)


def _parameters(of: aot.Job) -> int:
    import jax

    return sum(a.size for a in jax.tree.leaves(aot.shapes(of)[0].weights))


def _bytes(tree: object) -> int:
    import jax

    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def kept(of: aot.Job) -> float:
    """Bytes of what the layers keep between the forward and the backward pass."""
    from agent.stack import best_every

    model = of.model
    rows = of.rows // of.optimizer.accumulate
    unit = rows * of.steps * tokens_per_step(model.tokens) * model.width * (2 if model.dtype == "bfloat16" else 4)
    if model.reversible and model.attention == "bpt":
        return 2.0 * unit
    share = 2 if model.attention == "bpt" and model.remat == "output" else 1
    every = min(model.layers, model.every or best_every(model.layers, model.remat)) if model.attention == "bpt" else 1
    if every == 1:
        return float(share * model.layers * unit)
    return float((-(-model.layers // every) + share * every) * unit)


def formula(of: aot.Job) -> aot.Memory:
    """Memory in closed form: units are [rows, L, E] arrays of the activations' dtype, or float32 where sums are.

    bpt holds beside what it keeps: keys and values, their gradients in float32 (not for `minimal`), the gradient that
    goes through the layers, and embedded tokens with their gradient; of one block five arrays of hidden units and four
    of scores. The others hold hidden units of the whole row, seven arrays of 4 E, and vanilla its scores, four of H L.
    All hold what steps are embedded from: three arrays of [rows, steps, E].
    """
    from agent.fused import HIDDEN_UNITS
    from agent.stack import best_block

    state, batch = aot.shapes(of)
    model = of.model
    length = of.steps * tokens_per_step(model.tokens)
    rows = of.rows // of.optimizer.accumulate
    wide = rows * length * model.width * 4.0
    unit = wide / 2 if model.dtype == "bfloat16" else wide
    shared = (model.kv_heads or model.heads) / model.heads
    if model.attention == "bpt":
        working = 4 * wide if model.remat == "minimal" else 3 * wide + 2 * shared * (unit + wide)
        if model.reversible:
            working += 2 * unit
    else:
        working = 30 * wide
        if model.attention == "vanilla":
            working += 4 * rows * model.heads * float(length) ** 2 * 4
    block = model.block or best_block(length, model.width, model.remat)
    units = max(min(rows * block * 4 * model.width, HIDDEN_UNITS), rows * min(block, 64) * 4 * model.width)
    working += 3.0 * rows * of.steps * model.width * 4 + 20.0 * units + 16.0 * rows * model.heads * block**2
    fixed = _bytes(state)
    return aot.Memory(fixed + _bytes(batch), fixed, fixed, int(kept(of) + working + _bytes(state.weights)))


def where_memory_goes(of: aot.Job, total: float) -> dict[str, float]:
    """The bytes of an update by what they are for."""
    state, batch = aot.shapes(of)
    parts = {"weights and optimizer": float(_bytes(state)), "batch": float(_bytes(batch)), "kept by layers": kept(of)}
    return parts | {"in work": max(0.0, total - sum(parts.values()))}


def operations(of: aot.Job) -> dict[str, float]:
    """Floating-point operations of an update by what they are for (arXiv 2310.01889, appendix D, times three for the
    backward pass), and those that are done twice to save memory.
    """
    from agent.stack import best_every

    model = of.model
    length = of.steps * tokens_per_step(model.tokens)
    tokens, width = of.rows * length * model.layers, model.width
    matrices = 2.0 * tokens * width**2 * (10 + 2 * (model.kv_heads or model.heads) / model.heads)
    seen = length / 2 if not model.window else min(length / 2, model.window * tokens_per_step(model.tokens))
    scores = 4.0 * tokens * seen * width
    again = matrices + (0 if model.attention == "bpt" and model.remat == "output" else scores)
    every = model.every or best_every(model.layers, model.remat)
    if model.attention == "bpt" and every > 1 and not model.reversible:
        again += matrices + scores
    return {"matrices": 3 * matrices, "attention": 3.5 * scores, "computed again": again}


def measured_rate() -> float:
    """Operations a second of float32 matrix products on this machine's device, in about a third of a second."""
    import jax
    import jax.numpy as jnp

    size = 1024
    a = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best, end = 0.0, time.perf_counter() + 0.3
    while time.perf_counter() < end:
        start = time.perf_counter()
        product(a).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def available() -> int:
    """Bytes that a program may still take on this machine's device: what the accelerator has, or what Linux and the
    control group leave.
    """
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    meminfo = Path("/proc/meminfo")
    free = 2**63
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    group, used, parts = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current", "memory.stat"))
    if group.exists() and used.exists() and group.read_text().strip() != "max":
        of = dict(line.split() for line in parts.read_text().splitlines()) if parts.exists() else {}
        cache = int(of.get("inactive_file", 0))  # given back when memory is needed, as MemAvailable has it
        free = min(free, int(group.read_text()) - int(used.read_text()) + cache)
    return free


def measured(plan: Plan, size: envs.Spec, total: float, seconds: float) -> str:
    """Two lines for the banner: where the memory and the time of an update go that was compiled and measured."""
    of, free = job(plan, size), available()
    parts, flops = where_memory_goes(of, total), operations(of)
    memory = ", ".join(f"{name} {value / MIB:,.0f}" for name, value in parts.items())
    share = ", ".join(f"{name} {seconds * value / sum(flops.values()):.3g}" for name, value in flops.items())
    room = largest(plan, size, parts, free)
    return (
        f"memory   MiB: {memory}; {free / MIB:,.0f} are free, room for about --trajs {room:,}\n"
        f"time     s, by operations: {share}"
    )


def table(of: Forecast) -> str:
    """The forecast, for people."""
    seconds, total = sum(of.seconds.values()), sum(of.memory.values())
    fits = "fits" if total <= of.available else "DOES NOT FIT"
    memory = ", ".join(f"{name} {value / MIB:,.0f}" for name, value in of.memory.items())
    time_ = ", ".join(f"{name} {value:.3g}" for name, value in of.seconds.items())
    return "\n".join(
        [
            f"forecast for {of.device}",
            f"tokens   {of.tokens:,} a row, {of.rows * of.tokens:,} a batch; {of.parameters:,} parameters",
            f"memory   {total / MIB:,.0f} MiB an update ({of.how}), {fits} in {of.available / MIB:,.0f} MiB: {memory}",
            f"time     about {seconds:.3g} s an update, {of.operations:.3g} operations: {time_} s",
            f"context  the largest --trajs that fits is about {of.trajs:,}",
        ]
    )


def savings(plan: Plan, size: envs.Spec) -> list[str]:
    """One line for every single change of flags that would need less memory, the most effective first."""
    model, run, now = plan.model, plan.run, formula(job(plan, size)).total
    changes: dict[str, Plan] = {}

    def of_model(**fields: object) -> None:
        name = " ".join(f"--{key}={str(value).lower()}" for key, value in fields.items())
        with suppress(ValueError):  # does not go with another flag
            changes[name] = plan._replace(model=replace(model, **fields))  # type: ignore[arg-type]

    if model.attention != "bpt":
        of_model(attention="bpt")
    for remat in ("input", "minimal"):
        of_model(remat=remat)
    of_model(dtype="bfloat16")
    if model.heads > 1:
        of_model(kv_heads=1)
    if model.layers > 3:
        of_model(reversible=True, remat="minimal")
    if model.trajs > 1:
        of_model(trajs=model.trajs // 2)
    if run.rows > plan.optimizer.accumulate:
        changes[f"--accumulate={run.rows}"] = plan._replace(optimizer=replace(plan.optimizer, accumulate=run.rows))
    if not run.keep and model.trajs > 1:
        changes["--keep=8 --crop=264"] = plan._replace(run=replace(run, keep=8, crop=264))
    needs = {name: formula(job(changed, size)).total for name, changed in changes.items()}
    return [
        f"{name}: {need / now:.0%} of the memory, about {need / MIB:,.0f} MiB"
        for name, need in sorted(needs.items(), key=lambda item: item[1])
        if need < 0.95 * now
    ]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def explained(error: BaseException, plan: Plan, size: envs.Spec) -> MemoryError:
    """The same error, with what would help."""
    first = (str(error).splitlines() or ["out of memory"])[0]
    lines = "\n  ".join(savings(plan, size))
    return MemoryError(f"out of memory: {first}\n  what would help, by the forecast's formula:\n  {lines}")


def largest_trajs(plan: Plan, size: envs.Spec, most: int) -> int:
    """--trajs auto: the largest that fits this machine with a tenth to spare, at most `most`.

    From the compiler's account of short rows, and of rows four times as long.
    """
    small = plan._replace(model=replace(plan.model, trajs=min(most, 8)))
    of = job(small, size)
    _, memory, slope = _memory(of, None)
    parts = where_memory_goes(of, memory.total)
    return max(1, min(most, largest(small, size, parts, 0.9 * available(), slope)))
