"""Collect a data set: an agent learns in an environment, and each episode it plays is kept in ExoRL's format.

python -m launch.collect --env walker_run --agent td3 --episodes 100

Episodes are written to <data_dir>/<domain>/<dataset>/buffer as they end. Stopped at any time, the same
command goes on where it stopped, to the same episodes as if it never had: while one is played, the networks
learn from those before it, so that an episode depends only on the seed and the episodes already on disk.
"""

import dataclasses
import errno
import io
import json
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import envs
from agent import explore
from data import catalog, convert, exorl, minari
from envs.family import find as find_family
from launch import program
from launch.metrics import provenance, write_atomically

CONFIG = explore.ExploreConfig()
REPLAY_EPISODES = 1000


def collect(
    env_name: str,
    agent: str,
    episodes: int,
    seed: int,
    data_dir: Path,
    dataset: str | None = None,
    config: explore.ExploreConfig = CONFIG,
) -> Path:
    """Play until <data_dir>/<domain>/<dataset or agent> holds `episodes` episodes; return that folder.

    Raises ValueError when an argument is wrong, when the folder was collected by another environment, agent
    or seed, or when a file in it is amiss; OSError when it cannot be written. Neither harms what is there.
    """
    size = envs.spec(env_name)
    if size.simulator != "dm_control":
        raise ValueError(f"--env: expected an environment of dm_control to collect in, got {env_name}")
    if episodes < 1 or seed < 0:
        raise ValueError(f"episodes {episodes}, seed {seed}: expected episodes from 1 and a seed from 0")
    name = dataset or agent
    if Path(name).name != name:
        raise ValueError(f"dataset is {name!r}, expected the plain name of a folder")
    if family := find_family(env_name):
        from launch import commands

        return commands.collect(family, agent, episodes, seed, data_dir, dataset)
    if agent not in explore.AGENTS:
        raise ValueError(f"unknown agent {agent!r}, expected one of: {', '.join(explore.AGENTS)}")
    folder = data_dir / size.domain / name
    with program.alone(folder):
        claim(folder, {"env": env_name, "agent": agent, "seed": seed, "config": dataclasses.asdict(config)}, episodes)
        _fill(folder, size, agent, episodes, seed, config)
    return folder


def _fill(folder: Path, size: envs.Spec, agent: str, episodes: int, seed: int, config: explore.ExploreConfig) -> None:
    """Play what is missing of a data set."""
    files = episodes_in_order(folder / "buffer")
    if len(files) >= episodes:
        print(f"{folder}: {len(files)} episodes of {episodes}, nothing to collect", flush=True)
        return
    check_space(folder, size, episodes - len(files))

    explorer = explore.init(agent, seed, size.observation_size, size.action_size, config)
    explorer, learned = load_agent(folder / "agent.npz", explorer, len(files))
    capacity = min(episodes, REPLAY_EPISODES)
    replay = explore.Replay(capacity, size.episode_length, size.observation_size, size.action_size)
    env = envs.make(size.name)
    with (
        Progress(folder, episodes, len(files), size.episode_length) as progress,
        ThreadPoolExecutor(1) as learner,
    ):
        for episode in range(episodes):
            # The agent that plays is complete; what is learned meanwhile is for the next episode.
            learning = learner.submit(explore.learn, explorer, replay, seed, config) if episode >= learned else None
            if episode < len(files):
                arrays = exorl.read_episode(files[episode], name=size.name, sizes=exorl.Sizes(*size[3:6]))
            else:
                rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(episode,)))
                policy = explore.policy(explorer, episode, size.action_size, rng, config)
                arrays = play(env, policy, int(rng.integers(2**32)), size)
                exorl.write_episode(folder / "buffer", episode, arrays)
            if learning:
                explorer = learning.result()
                save_agent(folder / "agent.npz", explorer, episode + 1)
            replay.add(arrays["observation"], arrays["action"][1:], arrays["reward"][1:].ravel())
            progress.show(episode, arrays, explorer)


def claim(folder: Path, origin: dict[str, Any], episodes: int) -> None:
    """Write down what fills the folder, and to how many episodes, or check that the same agent began it."""
    path = folder / catalog.ORIGIN
    if path.exists():
        try:
            stored = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: cannot be read ({error}); collect into another --dataset") from error
        for field, wanted in origin.items():
            if not isinstance(stored, dict) or stored.get(field) != wanted:
                got = stored.get(field) if isinstance(stored, dict) else stored
                raise ValueError(
                    f"{path}: this data set was collected with {field} {got!r}, expected {wanted!r}; "
                    f"collect into another one (--dataset NAME) or ask for the same {field}"
                )
        if stored.get("episodes") != episodes:
            write_atomically(path, json.dumps(stored | {"episodes": episodes}, indent=2) + "\n")
    elif exorl.episode_files(folder / "buffer"):
        raise ValueError(
            f"{folder}: holds episodes that launch.collect did not make (no {path.name}), expected none; "
            "collect into another one (--dataset NAME)"
        )
    else:
        versions = provenance()["versions"]
        made_with = {package: versions[package] for package in ("mujoco", "dm_control")}
        write_atomically(path, json.dumps(origin | {"episodes": episodes, "versions": made_with}, indent=2) + "\n")


def episodes_in_order(buffer: Path) -> list[Path]:
    """The episodes collected so far. Raises ValueError when one is missing: those after it depend on it."""
    files = exorl.episode_files(buffer)
    for index, path in enumerate(files):
        if not path.name.startswith(f"episode_{index:06d}_"):
            raise ValueError(
                f"{buffer}: episode {index} is missing, but {path.name} is there; put it back, or remove all "
                f"from {path.name} on, and agent.npz"
            )
    return files


def check_space(folder: Path, size: envs.Spec, episodes: int) -> None:
    """Raise OSError when the disk has no room for that many episodes more."""
    row = 4 * (size.observation_size + size.action_size + 2) + 8 * size.physics_size
    needed = episodes * row * (size.episode_length + 1) + 2**24  # and the agent, twice for a moment
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{needed / 1e6:.0f} MB needed for {episodes} episodes, {free / 1e6:.0f} MB free; "
            "make room, or choose another --data_dir",
            str(folder),
        )


def play(env: Any, policy: Callable[[np.ndarray], np.ndarray], start: int, size: envs.Spec) -> dict[str, np.ndarray]:
    """One episode from the initial state that the seed `start` draws, as ExoRL stores it: T + 1 rows."""
    rows = size.episode_length + 1
    arrays: dict[str, np.ndarray] = {
        "observation": np.zeros((rows, size.observation_size), np.float32),
        "action": np.zeros((rows, size.action_size), np.float32),
        "reward": np.zeros((rows, 1), np.float32),
        "discount": np.ones((rows, 1), np.float32),
        "physics": np.zeros((rows, size.physics_size), np.float64),
    }
    observation, _ = env.reset(seed=start)
    arrays["observation"][0], arrays["physics"][0] = observation, env.physics_state()
    for row in range(1, rows):
        action = policy(observation)
        observation, arrays["reward"][row], _, _, _ = env.step(action)
        arrays["action"][row], arrays["observation"][row] = action, observation
        arrays["physics"][row] = env.physics_state()
    return arrays


def save_agent(path: Path, explorer: explore.Explorer, episode: int) -> None:
    """The agent that is ready to play an episode, to disk, atomically."""
    file = io.BytesIO()
    leaves = {f"leaf_{i:03d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(explorer))}
    np.savez(file, episode=np.int64(episode), **leaves)  # type: ignore[arg-type]
    write_atomically(path, file.getvalue())


def load_agent(path: Path, fresh: explore.Explorer, episodes: int) -> tuple[explore.Explorer, int]:
    """The agent on disk, and the episode that it is ready to play; else a fresh one, ready for the first.

    Raises ValueError when it is not an agent of this kind, or has learned from more than `episodes` episodes.
    """
    if not path.exists():
        return fresh, 0
    mend = f"remove it, and the agent is learned again from the {episodes} episodes"
    leaves, structure = jax.tree.flatten(fresh)
    try:
        with zipfile.ZipFile(path):  # np.load would take anything else for a pickle
            pass
        with np.load(path, allow_pickle=False) as archive:
            episode = int(archive["episode"])
            stored = [archive[name] for name in sorted(set(archive.files) - {"episode"})]
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {mend}") from error
    expected, got = ([(leaf.shape, leaf.dtype) for leaf in each] for each in (leaves, stored))
    if expected != got:
        raise ValueError(f"{path}: expected {len(expected)} arrays of this agent, got {len(got)} others; {mend}")
    if episode > episodes:
        raise ValueError(f"{path}: has learned from {episode} episodes, expected {episodes} at most; {mend}")
    return jax.tree.unflatten(structure, map(jax.numpy.asarray, stored)), episode


class Progress:
    """A bar on a terminal, else a line every ten episodes."""

    def __init__(self, folder: Path, episodes: int, done: int, episode_length: int):
        self._episodes, self._done, self._length = episodes, done, episode_length
        self._best = 0.0
        self._began = time.monotonic()
        self._bar = tqdm(total=episodes, initial=done, desc=str(folder), unit="episode", disable=None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def show(self, episode: int, arrays: dict[str, np.ndarray], explorer: explore.Explorer) -> None:
        """Count an episode, played or read."""
        last = float(arrays["reward"].sum())
        self._best = max(self._best, last)
        played = episode + 1 - self._done
        if played <= 0:
            return
        seconds = time.monotonic() - self._began
        rate = played * self._length / seconds
        updates = int(explorer.td3.step) if explorer.td3 else 0
        text = f"return {last:.1f}, best {self._best:.1f}, {rate:,.0f} steps/s, {updates:,} updates"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()
        if self._bar.disable and ((episode + 1) % 10 == 0 or episode + 1 == self._episodes):
            left = seconds / played * (self._episodes - episode - 1)
            print(f"episode {episode + 1}/{self._episodes}: {text}, {left:.0f} s left", flush=True)


def minari_id(folder: Path) -> str:
    """The Minari set that a folder is written as."""
    return f"{folder.parent.name}/{folder.name}-v0"


def to_minari(folder: Path, env: str) -> Path:
    """Write what was collected as the Minari set `<domain>/<data set>-v0`, and return its folder.

    Raises FileExistsError when it is there, ModuleNotFoundError without Minari.
    """
    id = minari_id(folder)
    made_with = [f"{package}=={version}" for package, version in catalog.recorded_versions(folder).items()]
    about: dict[str, Any] = {"env_id": env, "entry_point": "envs:make", "requirements": made_with}
    source, target = convert.Place("exorl", str(folder)), convert.Place("minari", id)
    convert.convert(source, target, description=f"Collected by launch.collect, {folder.name}.", **about)
    return minari.root() / id


def main(_: list[str]) -> None:
    """Collect what the flags say."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    values = flags.FLAGS
    if values.format == "minari":
        minari.require()
        family = find_family(values.env)
        name = values.dataset or (family.dataset if family else values.agent)
        if path := minari.find(minari_id(Path(values.data_dir) / envs.spec(values.env).domain / name)):
            raise FileExistsError(f"{path}: there already, expected a name that is free; choose another --dataset")
    try:
        folder = collect(values.env, values.agent, values.episodes, values.seed, Path(values.data_dir), values.dataset)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    print(folder)
    if values.format == "minari":
        print(to_minari(folder, values.env))


def define_flags() -> None:
    """Not when imported: launch.train_offline has flags of the same names."""
    flags.DEFINE_string("env", "walker_run", f"Environment: {envs.families()}.")
    flags.DEFINE_string("agent", "td3", f"Who plays: {', '.join(explore.AGENTS)}; commands in a family of tasks.")
    flags.DEFINE_integer("episodes", 100, "Episodes that the data set holds at the end.")
    flags.DEFINE_integer("seed", 0, "Of networks, exploration and initial states.")
    flags.DEFINE_string("data_dir", "datasets", "Where data sets lie, as <domain>/<dataset>/buffer.")
    flags.DEFINE_string("dataset", None, "Name of the data set; by default the agent's.")
    flags.DEFINE_enum(
        "format",
        "exorl",
        ["exorl", "minari"],
        "minari: at the end also write the Minari set <domain>/<dataset>-v0 (pip install 'agentic-bpt[minari]').",
    )


if __name__ == "__main__":
    define_flags()
    program.run(main)
