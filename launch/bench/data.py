"""Where batches come from: how fast they are built against how fast training takes them.

The trajectories are made up: walker's sizes, noise for content. What a batch costs depends on its shape alone.
"""

import time
from collections.abc import Callable
from dataclasses import fields
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

import envs
from launch.bench import Plot, Row, Settings

if TYPE_CHECKING:
    from data.sampler import Sampler
    from data.trajectory import Trajectory
    from launch.plan import Plan

HELP = "batches per second against the updates that training makes of them"
PLOT = Plot(bars=("batches",), values=("x training",))

ENV = "walker_run"
Config = TypeVar("Config")


class Case(NamedTuple):
    """Batches of one shape, and the configuration they are for."""

    name: str
    plan: "Plan"
    sampler: "Sampler"

    @property
    def tokens(self) -> int:
        """In a row, padding included."""
        from agent.tokens import tokens_per_step

        return self.sampler.steps_per_row * tokens_per_step(self.plan.model.tokens)

    def __str__(self) -> str:
        rows = f"{self.sampler.rows} rows" if self.sampler.rows > 1 else "one row"
        return f"{self.name}: {rows} of {self.tokens:,} {self.plan.model.tokens} tokens"


def preset(name: str) -> "Plan":
    """What launch.train_offline --preset has when nothing is typed; its flags are not defined here."""
    from agent.config import ModelConfig, OptimizerConfig
    from data.chain import ChainRules
    from launch import config_flags
    from launch.plan import Plan, RunConfig

    lines = (config_flags.PRESETS / f"{name}.flags").read_text().splitlines()
    values = dict(line.removeprefix("--").split("=", 1) for line in lines if line.startswith("--"))

    def config(of: type[Config]) -> Config:
        read: dict[type, Callable[[str], Any]] = {bool: lambda text: text == "true"}
        typed = {f.name: type(f.default) for f in fields(of) if f.name in values}  # type: ignore[arg-type]
        return of(**{name: read.get(kind, kind)(values[name]) for name, kind in typed.items()})

    return Plan(config(RunConfig), config(ModelConfig), config(OptimizerConfig), config(ChainRules))


def made_up(episodes: int, steps: int, seed: int) -> list["Trajectory"]:
    """Trajectories of noise, in walker's sizes."""
    from data.trajectory import Trajectory

    rng, size = np.random.default_rng(seed), envs.spec(ENV)
    return [
        Trajectory(
            rng.normal(size=(steps, size.observation_size)).astype(np.float32),
            rng.uniform(-1, 1, (steps, size.action_size)).astype(np.float32),
            rng.uniform(0, 1, steps).astype(np.float32),
        )
        for _ in range(episodes)
    ]


def sampler(plan: "Plan", trajectories: list["Trajectory"], **changes: int) -> "Sampler":
    """As launch.train_offline makes it."""
    from data.sampler import Sampler
    from data.scaling import Scaling

    run = plan.run
    shape: dict[str, Any] = {
        "trajs": plan.model.trajs,
        "keep": run.keep,
        "crop": run.crop,
        "rows": run.rows,
        "seed": run.seed,
        "pack": plan.model.pack,
    }
    return Sampler(trajectories, Scaling.fit(trajectories), plan.rules, **(shape | changes))


def presets(quick: bool, seed: int) -> list[Case]:
    """The two phases of the preset cpu, and the one of the preset accelerator."""
    cpu, accelerator = preset("cpu"), preset("accelerator")
    trajectories = made_up(40, 300 if quick else 1000, seed)
    chains = sampler(cpu, trajectories)
    rows = cpu.run.rows * chains.steps_per_row // cpu.run.short_crop
    short = sampler(cpu, trajectories, trajs=1, crop=cpu.run.short_crop, rows=rows)
    whole = sampler(accelerator, trajectories)
    return [
        Case("preset cpu, short windows", cpu, short),
        Case("preset cpu, chains", cpu, chains),
        Case("preset accelerator", accelerator, whole),
    ]


def run(settings: Settings) -> list[Row]:
    """How long a batch takes to build, and an update of it to make."""
    found: list[Row] = []
    for case in presets(settings.quick, settings.seed):
        number = 2 if settings.quick else 20 * settings.repeats
        build = median(_seconds(lambda step, case=case: case.sampler.batch(step), number))  # type: ignore[misc]
        real = float(np.mean([(case.sampler.batch(step).chains > 0).mean() for step in range(3)]))
        update, note = update_seconds(case, settings)
        found.append(
            {
                "table": "batches",
                "batches": str(case),
                "batches/s": 1 / build,
                "tokens/s": case.sampler.rows * case.tokens / build,
                "not padding": real,
                "ms a batch": 1e3 * build,
                "ms an update": 1e3 * update,
                "x training": update / build,
                "note": note,
            }
        )
    return found


def _seconds(work: Callable[[int], object], number: int) -> list[float]:
    """Of each of `number` calls, after one that does not count."""
    found = []
    for step in range(number + 1):
        start = time.perf_counter()
        work(step)
        found.append(time.perf_counter() - start)
    return found[1:]


def update_seconds(case: Case, settings: Settings) -> tuple[float, str]:
    """Of one update, and how that is known: measured here, or the least that the fastest accelerator could need."""
    import jax

    from launch import devices
    from launch.bench import train

    if jax.default_backend() == "cpu" and case.tokens > 10_000:
        device = devices.find("h200")
        flops = train.operations(case.plan.model, case.sampler.rows, case.tokens)
        note = f"an update: {flops / 1e12:,.0f} TFLOP at all that an {device.title} can do; none trains so fast"
        return flops / device.bfloat16, note
    update = train.Update.of(case, case.plan.model, settings.seed)
    batch = case.sampler.batch(0)
    return median(_seconds(lambda _: update.run(batch), max(2, settings.repeats))), "measured here"
