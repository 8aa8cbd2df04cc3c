"""An ExoRL data set of full size: 10,000 episodes of 1,000 steps loaded for the first time, then again, then sampled.

A few episodes are simulated with random actions and written over and over under new numbers, deflated as ExoRL's files
are. They have just been written, so the system reads them from memory. Every load has a process of its own, whose
memory is watched with that of its workers; what is only mapped from the cache, the system takes back when it is short.
"""

import errno
import io
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import envs
from data import exorl
from launch.bench import Plot, Row, Settings, timing
from launch.bench.data import Case, made_up, preset, sampler
from launch.bench.watch import Peak, watched
from launch.workers import cores

if TYPE_CHECKING:
    from data.chain import ChainRules

HELP = "a data set of 10,000 episodes: first load with relabelling, every later load, memory, batches of 32 whole ones"
PLOT = Plot(bars=("what",), values=("steps/s",))

ENV, OTHER = "walker_run", "quadruped_run"
TRAJS = 32
REWARDS, ALONE = "rewards computed", "a first load, one process"
Arrays = dict[str, np.ndarray]


class Scale(NamedTuple):
    """How much is made."""

    episodes: int
    steps: int
    simulated: int
    """Episodes that differ."""
    others: tuple[int, int]
    """Episodes of the other domain, of which the time is known at two numbers and extrapolated to `episodes`."""


FULL = Scale(10_000, 1000, 20, (150, 450))
QUICK = Scale(12, 40, 2, (2, 4))


def run(settings: Settings) -> list[Row]:
    """The tables of one core, of the whole data set, and of the other domain."""
    scale = QUICK if settings.quick else FULL
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in (ENV, OTHER):
            episodes = simulate(name, scale, settings.seed)
            parts = one_core(name, episodes, settings, Path(folder))
            found += parts
            rates = {row["what"]: row["steps/s"] for row in parts}
            if name == ENV:
                found += whole(Path(folder), episodes, scale, rates, settings)
            else:
                found += extrapolated(Path(folder), episodes, scale, rates)
    return found


def simulate(name: str, scale: Scale, seed: int) -> list[Arrays]:
    """Episodes of random actions, as launch.collect plays them."""
    from launch.collect import play

    size, env = envs.spec(name)._replace(episode_length=scale.steps), envs.make(name)
    rng = np.random.default_rng(seed)

    def policy(observation: np.ndarray) -> np.ndarray:
        return rng.uniform(-1, 1, size.action_size).astype(np.float32)

    return [play(env, policy, seed + episode, size) for episode in range(scale.simulated)]


def write(folder: Path, episodes: list[Arrays], count: int) -> int:
    """A data set of `count` files, the episodes again and again -> its bytes. Raises OSError when there is no room."""
    contents = []
    for arrays in episodes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        contents.append(buffer.getvalue())
    steps = len(episodes[0]["reward"]) - 1
    cached = steps * (episodes[0]["observation"][0].nbytes + episodes[0]["action"][0].nbytes + 4)
    needed = count * (len(contents[0]) + cached) * 11 // 10
    if (free := shutil.disk_usage(folder.parent).free) < needed:
        message = (
            f"{needed / 1e9:.1f} GB needed for {count:,} episodes, {free / 1e9:.1f} free; make room, or set TMPDIR"
        )
        raise OSError(errno.ENOSPC, message, str(folder))
    (folder / "buffer").mkdir(parents=True)
    for index in range(count):
        path = folder / "buffer" / f"episode_{index:06d}_{steps}.npz"
        path.write_bytes(contents[index % len(contents)])
    return sum(len(contents[index % len(contents)]) for index in range(count))


def one_core(name: str, episodes: list[Arrays], settings: Settings, folder: Path) -> list[Row]:
    """What a step costs one process, part by part."""
    states = [(arrays["physics"], arrays["action"]) for arrays in episodes]
    write(folder / "parts", episodes, len(episodes))
    files = exorl.episode_files(folder / "parts" / "buffer")
    rewards = envs.reward_fn(name)
    if rewards is None:
        raise ValueError(f"{name}: expected an environment whose rewards are computed from states")
    thunks: dict[str, timing.Thunk] = {
        "MuJoCo alone": simulator(name, states),
        REWARDS: lambda: [rewards(*each) for each in states],
        "as ExoRL computes them": theirs(name, states),
        "files read and checked": lambda: [exorl.read_episode(path) for path in files],
        ALONE: lambda: first_load(folder / "parts", name, 1),
    }
    notes = (
        "bodies, velocities and sensors of every state",
        "this project's reward function",
        "dm_control's physics and task, state by state",
    )
    timings = timing.interleave(thunks, settings.repeats, label=f"one core, {name}")
    shutil.rmtree(folder / "parts")
    steps = sum(len(physics) for physics, _ in states)
    everything = timings[ALONE].median
    return [
        {
            "table": f"{name}, one core",
            "what": what,
            "steps/s": steps / found.median,
            "us a step": 1e6 * found.median / steps,
            "of a first load": found.median / everything,
            "note": note,
        }
        for (what, found), note in zip(timings.items(), (*notes, None, None), strict=True)
    ]


def simulator(name: str, states: list[tuple[np.ndarray, np.ndarray]]) -> timing.Thunk:
    """MuJoCo's part of every state: bodies, their velocities, and the sensors of both; no contacts, no forces."""
    import mujoco
    from dm_control import suite

    size = envs.spec(name)
    model = suite.load(size.domain, size.task).physics.model.ptr
    data = mujoco.MjData(model)
    names = "kinematics", "comPos", "comVel", "subtreeVel", "sensorPos", "sensorVel"
    stages = [getattr(mujoco, f"mj_{stage}") for stage in names]

    def work() -> None:
        for physics, _ in states:
            for state in physics:
                data.qpos[:], data.qvel[:] = state[: model.nq], state[model.nq : model.nq + model.nv]
                for stage in stages:
                    stage(model, data)

    return work


def theirs(name: str, states: list[tuple[np.ndarray, np.ndarray]]) -> timing.Thunk:
    """As ExoRL's own loader does at every start."""
    from dm_control import suite

    size = envs.spec(name)
    env = suite.load(size.domain, size.task)

    def work() -> None:
        for physics, _ in states:
            for state in physics:
                with env.physics.reset_context():
                    env.physics.set_state(state)
                env.task.get_reward(env.physics)

    return work


def load(folder: Path, name: str, workers: int) -> tuple[float, Any]:
    """Seconds from the name of an environment to trajectories and returns, and the trajectories."""
    size, start = envs.spec(name), time.perf_counter()
    rewards = envs.reward_fn(name)
    sizes = exorl.Sizes(size.observation_size, size.action_size, size.physics_size)
    trajectories = exorl.load(folder, name=name, sizes=sizes, reward_fn=rewards, workers=workers).trajectories  # type: ignore[arg-type]
    for trajectory in trajectories:
        _ = trajectory.total
    return time.perf_counter() - start, trajectories


def first_load(folder: Path, name: str, workers: int) -> float:
    """Seconds of a load that finds no cache."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return load(folder, name, workers)[0]


def later_load(folder: Path, name: str, workers: int) -> float:
    """Seconds of a load that finds one."""
    return load(folder, name, workers)[0]


def sampled(folder: Path, name: str, rules: "ChainRules", trajs: int, batches: int, seed: int) -> tuple[float, float]:
    """Seconds to fit the scaling to the whole data set, and of one batch of whole trajectories (the median)."""
    from data.sampler import Sampler
    from data.scaling import Scaling

    _, trajectories = load(folder, name, 1)
    start = time.perf_counter()
    scaling = Scaling.fit(trajectories)
    fitted = time.perf_counter() - start
    drawn = Sampler(trajectories, scaling, rules, trajs=trajs, keep=0, crop=0, rows=1, seed=seed)
    seconds = []
    for step in range(batches):
        start = time.perf_counter()
        drawn.batch(step)
        seconds.append(time.perf_counter() - start)
    return fitted, median(seconds)


def whole(folder: Path, episodes: list[Arrays], scale: Scale, rates: dict[str, float], settings: Settings) -> list[Row]:
    """The table of the data set of full size."""
    size = write(folder / ENV, episodes, scale.episodes)
    steps, workers = scale.episodes * scale.steps, cores()
    table = f"{ENV}: {scale.episodes:,} episodes of {scale.steps:,} steps, {size / 1e9:.2f} GB, {workers} cores"
    first, first_peak = watched(first_load, folder / ENV, ENV, workers)
    later, later_peak = watched(later_load, folder / ENV, ENV, workers)
    plan, trajs = preset("cpu"), min(TRAJS, scale.episodes)
    batches = 3 if settings.quick else 20 * settings.repeats
    (fitted, build), peak = watched(sampled, folder / ENV, ENV, plan.rules, trajs, batches, settings.seed)
    shutil.rmtree(folder / ENV)
    update, tokens = update_seconds(scale, trajs, settings)
    training = (
        f"of {trajs} whole trajectories: {1 / build:.1f} a second; an update of preset cpu on one, {tokens:,} fused "
        f"tokens, takes {update:.3g} s, measured here"
    )
    notes = efficiency(steps / first, workers, rates), "maps the cache", "every observation is read"
    rows = [
        _row(table, "first load", first, steps, first_peak, notes[0]),
        _row(table, "every later load", later, steps, later_peak, notes[1]),
        _row(table, "scaling fitted", fitted, steps, peak, notes[2]),
        _row(table, "a batch", build, trajs * scale.steps, peak, training) | {"x training": update / build},
    ]
    return rows


def update_seconds(scale: Scale, trajs: int, settings: Settings) -> tuple[float, int]:
    """Seconds of an update of the preset cpu on one row of whole trajectories, the second of two; tokens of the row.

    Of what a CPU can train at that length it is the fastest: a token for a step, and a small network.
    """
    from launch.bench import train

    plan = preset("cpu")
    model = replace(plan.model, trajs=trajs)
    if settings.quick:
        model = replace(model, layers=1, width=16, heads=1)
    plan = plan._replace(run=replace(plan.run, keep=0, crop=0, rows=1), model=model)
    case = Case("whole trajectories", plan, sampler(plan, made_up(trajs, scale.steps, settings.seed)))
    update, batch = train.Update.of(case, model, settings.seed), case.sampler.batch(0)
    update.run(batch)
    start = time.perf_counter()
    update.run(batch)
    return time.perf_counter() - start, case.tokens


def extrapolated(folder: Path, episodes: list[Arrays], scale: Scale, rates: dict[str, float]) -> list[Row]:
    """The first load of the other domain at two numbers of episodes, and on their line at the full number."""
    workers, rows, seconds = cores(), [], []
    table = f"{OTHER}: episodes of {scale.steps:,} steps, {workers} cores"
    for count in scale.others:
        size = write(folder / OTHER, episodes, count)
        found, peak = watched(first_load, folder / OTHER, OTHER, workers)
        shutil.rmtree(folder / OTHER)
        seconds.append(found)
        what = f"first load of {count:,} episodes"
        rows.append(_row(table, what, found, count * scale.steps, peak, f"{size / 1e9:.2f} GB"))
    total = line(scale.others, (seconds[0], seconds[1]), scale.episodes)
    rate = scale.episodes * scale.steps / total
    note = f"extrapolated: {efficiency(rate, workers, rates)}"
    return [*rows, _row(table, f"first load of {scale.episodes:,}", total, scale.episodes * scale.steps, None, note)]


def efficiency(rate: float, workers: int, rates: dict[str, float]) -> str:
    """What so many cores make of what one does, with and without the files."""
    alone, rewards = (rate / (workers * rates[what]) for what in (ALONE, REWARDS))
    return f"{alone:.0%} of {workers} x what one process loads, {rewards:.0%} of {workers} x rewards without files"


def line(counts: tuple[int, int], seconds: tuple[float, float], count: int) -> float:
    """The straight line through two points, at a third."""
    slope = (seconds[1] - seconds[0]) / (counts[1] - counts[0])
    return seconds[1] + slope * (count - counts[1])


def _row(table: str, what: str, seconds: float, steps: int, peak: Peak | None, note: str) -> Row:
    row = {"table": table, "what": what, "seconds": seconds, "steps/s": steps / seconds, "note": note}
    if peak is not None and peak.resident:
        mebibytes = {"private MiB": peak.private, "resident MiB": peak.resident, "largest process MiB": peak.largest}
        row |= {name: value / 2**20 for name, value in mebibytes.items()}
    return row
