"""Timing that treats rivals alike: one warm-up each, then rounds over all of them in rotating order."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

Thunk = Callable[[], object]
"""Does the work once, and returns when it is done."""


class Timing(NamedTuple):
    """Seconds of one call."""

    median: float
    minimum: float


def interleave(
    thunks: Mapping[str, Thunk], repeats: int, *, label: str = "", clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time every thunk `repeats` times, so that whatever else the machine does meets all of them.

    Round r begins with thunk r, so that none always follows the same other.
    """
    from tqdm import tqdm

    names = list(thunks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tqdm(total=len(names) * (repeats + 1), desc=label, unit="run", disable=None, leave=False) as bar:
        if bar.disable:
            print(f"  timing {label or 'rivals'}: {len(names)} systems, {repeats} rounds", flush=True)
        for name in names:
            bar.set_postfix_str(name)
            thunks[name]()
            bar.update()
        for turn in range(repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                bar.set_postfix_str(name)
                start = clock()
                thunks[name]()
                seconds[name].append(clock() - start)
                bar.update()
    return {name: Timing(median(all_), min(all_)) for name, all_ in seconds.items()}


def gemm(quick: bool) -> tuple[Thunk, float]:
    """A product of square matrices as the backend does it at its best, and its flops; the yardstick of a machine.

    float32, 1024 x 1024, eight times on a CPU; bfloat16, 8192 x 8192, sixteen times on an accelerator.
    """
    import jax
    import jax.numpy as jnp

    cpu = jax.default_backend() == "cpu"
    size, products, dtype = (1024, 8, jnp.float32) if cpu else (8192, 16, jnp.bfloat16)
    if quick:
        size, products = 128, 1
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    b = jnp.eye(size, dtype=dtype)
    multiply = jax.jit(jnp.matmul)

    def run() -> object:
        c = a
        for _ in range(products):
            c = multiply(c, b)
        return jax.block_until_ready(c)

    return run, 2.0 * size**3 * products


def against_gemm(
    thunks: Mapping[str, Thunk], repeats: int, quick: bool, label: str = ""
) -> tuple[dict[str, Timing], float]:
    """`interleave`, and the flops per second of `gemm`, timed in the same rounds (median)."""
    product, flops = gemm(quick)
    timings = interleave({**thunks, "GEMM": product}, repeats, label=label)
    return timings, flops / timings.pop("GEMM").median
