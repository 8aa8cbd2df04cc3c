"""Sweep flags of launch.train_offline, and compare what comes out:

python -m launch.ablate --env walker_run --trajs 1,4,32 --relabel true,false --seeds 5 --out runs/ablation

Values between commas make a grid; a value that holds a comma stands in double quotes. --cells FILE has the flags of a
cell in each line instead, and what is typed beside it holds for all lines. Run it again, after whatever ended it, to
go on: what is done is not done twice. What the rows in --out hold is done, also where the folders of its runs are gone.
While they are there, another --prompt or more --chains are played without learning again.
`python -m launch.report runs/ablation` draws its tables and figures again.
"""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

import envs
from agent.config import BASELINES
from launch import cells, config_flags, program
from launch.cells import Cell, Run, plan_cells, plan_runs
from launch.comparison import ROWS, make_row, read_stored_rows, store_row
from launch.join_rows import join
from launch.plan import CONFIGS, read_plan
from launch.sweep import Sweep, seconds_left, split_cores, words_for

MEMORY = 2 * 2**30
"""Bytes that a program is assumed to need where their number is chosen: 1.2 GB was seen of 32 trajectories on a CPU."""


def sweep(swept: dict[str, str]) -> int:
    """The whole program -> its exit code, 1 where a run has failed."""
    out = Path(flags.FLAGS.out or "runs/ablation")
    backend = find_backend()
    points = cells.grid(swept)
    if flags.FLAGS.cells:
        lines = cells.read_cells(Path(flags.FLAGS.cells), beside=swept)
        points = [point | line for line in lines for point in points]
    found = plan_cells(points, backend)
    control = cells.find_control(found, flags.FLAGS.control) if flags.FLAGS.control else found[0]
    seeds = cells.read_seeds(flags.FLAGS.seeds)
    if flags.FLAGS.dry_run:
        runs, places = planned(found, seeds, backend, out)
        print(cost_text(runs, len(places)))
        return 0
    with program.alone(out):
        return work(found, control, *planned(found, seeds, backend, out), out)


def planned(found: Sequence[Cell], seeds: Sequence[int], backend: str, out: Path) -> tuple[list[Run], list[list[int]]]:
    """The runs of a sweep and the cores of each process, from what its folder holds now; says so."""
    rows = {row["key"]: row for row in stored_rows(out)}
    for cell in found:
        if cell.key in rows:
            cell.check(rows[cell.key]["flags"], f"{out / ROWS}, cell {cell.key}", "move its row away")
    stored = {key: row["seeds"] for key, row in rows.items()}
    runs = plan_runs(found, seeds, out, stored)
    places = find_places(backend, flags.FLAGS.processes, len(runs))
    print(plan_text(found, runs, out, places))
    return runs, places


def work(found: Sequence[Cell], control: Cell, runs: Sequence[Run], places: Sequence[Sequence[int]], out: Path) -> int:
    """Run what is missing, keep ablation.jsonl up to date, and report."""
    from launch.ablation_report import report

    working = Sweep(runs, places)
    for cell in found:
        store(cell, runs, control, found, out)
    for run in working.work():
        store(run.cell, runs, control, found, out)
    for failure in working.failures:
        print(f"failed: {failure.run.name}, {failure.reason}; its log is {failure.run.folder / 'log.txt'}")
    if (out / ROWS).is_file():
        try:
            print(f"\n{report(out / ROWS, out)}\nrows     {out / ROWS}\nreport   {out / 'ablation.html'}", flush=True)
        except ValueError as error:
            print(error)
    return 1 if working.failures else 0


def store(cell: Cell, runs: Sequence[Run], control: Cell, found: Sequence[Cell], out: Path) -> None:
    """Write the row of a cell, from its runs that have ended and the seeds that only its stored row holds."""
    ended = [run for run in runs if run.cell.key == cell.key and run.ended]
    rows = [row for row in stored_rows(out) if row["key"] == cell.key]
    if ended:
        rows.append(make_row(cell, ended, cell.key == control.key))
    if rows:
        row = functools.reduce(join, rows)
        row |= {"cell": cell.label, "control": cell.key == control.key, "command": cell.sweep_command(row["seeds"])}
        store_row(out / ROWS, row, [each.key for each in found])


def stored_rows(out: Path) -> list[dict[str, Any]]:
    """The rows in a folder of sweeps, which may have none yet."""
    return read_stored_rows(out / ROWS) if (out / ROWS).is_file() else []


def find_backend() -> str:
    """What JAX runs on here; asked of another process, since an accelerator's memory would be taken by this one."""
    words = cells.this_python(["-c", "import jax; print(jax.default_backend())"])
    asked = subprocess.run(words, capture_output=True, text=True)
    if asked.returncode:
        raise OSError(f"JAX does not start here: {asked.stderr.strip().splitlines()[-1:]}")
    return asked.stdout.split()[-1]


def find_places(backend: str, processes: int, runs: int) -> list[list[int]]:
    """The cores of each process. On a CPU as many processes as cores and memory allow, each on cores of its own: an
    update of the `cpu` preset took 0.17 to 0.19 s of one core's time alone, and 0.21 to 0.24 s in all on two. An
    accelerator is for one program at a time.
    """
    if backend != "cpu":
        return [[] for _ in range(processes or 1)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if not processes:
        from launch.forecast import available

        processes = max(1, min(len(cores), runs, available() // MEMORY))
    return split_cores(cores, processes)


def plan_text(found: Sequence[Cell], runs: Sequence[Run], out: Path, places: Sequence[Sequence[int]]) -> str:
    """The cells, and what there is of each."""
    lines = []
    for cell in found:
        mine = [run for run in runs if run.cell.key == cell.key]
        done, begun = sum(run.done for run in mine), sum(run.begun and not run.done for run in mine)
        state = f"{done} of {len(mine)} done" + (f", {begun} begun" if begun else "")
        lines.append(f"  {cell.key}  {state}  {cell.label}")
    pinned = f" on {len(places[0])} of the cores each" if places[0] else ""
    return "\n".join(
        [
            f"{len(found)} cells x {len(runs) // len(found)} seeds = {len(runs)} runs in {out}, "
            f"{sum(run.done for run in runs)} done; {len(places)} at a time{pinned}",
            *lines,
        ]
    )


def cost_text(runs: Sequence[Run], processes: int) -> str:
    """What the missing runs will take, and where that is known from."""
    missing = [run for run in runs if not run.done]
    finished = [(run, seconds) for run in runs if run.done and (seconds := run.seconds()) is not None]
    how = f"by the {len(finished)} runs that are done"
    if not finished:
        finished = [(run, calibrate(run.cell, processes)) for run in missing if run.seed == missing[0].seed]
        how = (
            "by the operations of an update, at the rate of matrix products as just measured, and "
            f"{STEPS_A_SECOND:,} steps of rollouts a second: rough"
        )
    left = seconds_left(missing, [], finished, processes) or 0.0
    return f"{len(missing)} runs are missing: about {words_for(left)}, {how}"


STEPS_A_SECOND = 2000
"""Of rollouts on one core, policy and simulator: about half of what two cores were measured to play."""
START = 15
"""Seconds to load the data and to compile, about."""


def calibrate(cell: Cell, processes: int) -> float:
    """Seconds of a run on its share of this machine: operations over a measured rate, and rollouts, played with all
    that --prompt names in context; of a family too few, which has protocols of its own.
    """
    from launch import forecast

    for name, value in cell.resolved.items():
        flags.FLAGS[name].value = value
    plan = read_plan()
    size, model, run = envs.spec(plan.run.env), plan.model, plan.run
    if model.method in BASELINES:  # forward and backward through square matrices
        operations = 6.0 * run.rows * (run.crop or size.episode_length) * model.layers * model.width**2
    else:
        operations = sum(forecast.operations(forecast.job(plan, size)).values())
    rate = forecast.measured_rate() * forecast.REACHED["here"] / processes
    played = len(run.protocols) if model.context > 1 else 1
    rollouts = played * run.chains * model.trajs * size.episode_length / STEPS_A_SECOND
    return START + plan.optimizer.updates * operations / rate + rollouts


def define_flags() -> None:
    """This program's flags, and those of train_offline, which --help then lists too."""
    for config in CONFIGS:
        config_flags.define(config)
    flags.adopt_module_key_flags(config_flags)
    flags.DEFINE_string("preset", "auto", f"auto, none, or of: {', '.join(config_flags.presets())}.")
    flags.DEFINE_string("out", "runs/ablation", "Folder of the sweep.", allow_override=True)
    flags.DEFINE_string("seeds", "3", "Training seeds: how many, from 0, or which, between commas.")
    flags.DEFINE_string("cells", "", "File with the flags of a cell in each line, commas as they are; # comments.")
    flags.DEFINE_string("control", "", "Flags of the cell to compare with, such as 'trajs=1'; empty is the first.")
    flags.DEFINE_integer(
        "processes", 0, "Programs side by side; 0 is as many as cores and memory allow, or one GPU.", lower_bound=0
    )
    flags.DEFINE_boolean("dry_run", False, "Print the plan and what it costs, and stop.")


def start(arguments: Sequence[str]) -> None:
    """Run the program on the words behind its name."""
    app.define_help_flags()
    own = {name for name in flags.FLAGS if name not in cells.known_flags()}
    try:
        rest, swept = cells.split_arguments(arguments, own)
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.argv[1:] = rest
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what runs is told to save

    def main(_: Any) -> None:
        sys.exit(sweep(swept))

    program.run(main)


if __name__ == "__main__":
    define_flags()
    start(sys.argv[1:])
