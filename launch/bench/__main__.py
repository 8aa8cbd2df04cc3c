"""Measure: python -m launch.bench memory layer

NAMES are one or more of memory, layer, attention, train, rollout, data, fullsize, context, lm, or all. Each prints a
table and writes it to <out>/<name>.json, with a plot. Rivals that are not installed are left out with a word:
pip install 'agentic-bpt[bench]' brings them.
"""

import os
import time
from pathlib import Path

from absl import flags

from launch import bench, program
from launch.pinned import POOLS

_OUT = flags.DEFINE_string("out", "runs/bench", "Folder of the results.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and inputs.", lower_bound=0)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed rounds over all that is compared, after a warm-up.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 0, "Pin the process to this many cores; 0 is all.", lower_bound=0)
_OFFICIAL = flags.DEFINE_string("official", "", "Folder of the official Blockwise Parallel Transformer code.")
_QUICK = flags.DEFINE_boolean("quick", False, "Small shapes, to try it out; the numbers mean nothing.")


def pin(threads: int) -> None:
    """Keep to so many cores. To be called before NumPy, JAX or torch load: they size their thread pools then.

    Raises:
        ValueError: there are fewer cores, or the system cannot pin.
    """
    if not threads:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"--threads: expected 0 where a process cannot be pinned to cores, got {threads}")
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise ValueError(f"--threads: expected at most the {len(cores)} cores there are, got {threads}")
    os.sched_setaffinity(0, cores[-threads:])
    os.environ.update(dict.fromkeys(POOLS, str(threads)))


def main(argv: list[str]) -> None:
    names = bench.choose(argv[1:])
    if _OFFICIAL.value and not (Path(_OFFICIAL.value) / "bpt").is_dir():
        raise ValueError(f"--official: expected a folder that holds the package bpt, got {_OFFICIAL.value}")
    pin(_THREADS.value)
    from launch.bench import tables

    settings = bench.Settings(
        Path(_OUT.value), _SEED.value, _REPEATS.value, _QUICK.value, _OFFICIAL.value, _THREADS.value
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"The machine is busy (load {load:.1f}): timings may be far off, torch's most of all.\n", flush=True)
    for name in names:
        module = bench.load(name)
        print(f"{name}: {module.HELP}", flush=True)
        start = time.perf_counter()
        rows = module.run(settings)
        written = tables.save(name, rows, settings, getattr(module, "PLOT", None), load)
        print(f"\n{tables.text(rows)}\n")
        print(f"{name}: {time.perf_counter() - start:.0f} s, {' and '.join(map(str, written))}\n", flush=True)


if __name__ == "__main__":
    program.run(main, words=True)
