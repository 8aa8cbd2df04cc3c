"""Collect data for a family of tasks: an agent practises all of them, then roams between them.

python -m launch.collect --env walker_speed --agent commands

Practice lies in <data_dir>/<domain>/commands_<family>/practice, what is kept, in ExoRL's format, in `buffer` beside it.
Stopped at any time, the same command goes on where it stopped, to the same episodes as if it never had.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import numpy as np

import envs
from agent import explore
from agent.explore import commands
from agent.explore.commands import CommandConfig
from data import exorl
from envs.dmc import ControlSuite
from envs.family import Family
from launch import program, workers
from launch.collect import Progress, check_space, claim, episodes_in_order, load_agent, play, save_agent

Episode = dict[str, np.ndarray]
"""As ExoRL stores it."""


def collect(
    family: Family,
    agent: str,
    episodes: int,
    seed: int,
    data_dir: Path,
    dataset: str | None = None,
    config: CommandConfig | None = None,
) -> Path:
    """Practise, then roam until <data_dir>/<domain>/<dataset> holds `episodes` episodes; return that folder.

    Raises ValueError when an argument is wrong, the folder was collected by another agent, or a file in it is amiss,
    OSError when it cannot be written.
    """
    if agent != "commands":
        raise ValueError(f"--agent: expected commands in a family of tasks, got {agent} for {family.name}")
    if episodes < 1 or seed < 0:
        raise ValueError(f"episodes {episodes}, seed {seed}: expected episodes from 1 and a seed from 0")
    config = config or CommandConfig()
    folder = data_dir / family.domain / (dataset or family.dataset)
    with program.alone(folder):
        claim(folder, {"env": family.name, "agent": "commands", "seed": seed, "config": config.origin()}, episodes)
        _fill(family, folder, episodes, seed, config)
    return folder


def _fill(family: Family, folder: Path, episodes: int, seed: int, config: CommandConfig) -> None:
    """Practise and play what is missing of a data set."""
    kept = len(episodes_in_order(folder / "buffer"))
    if kept >= episodes:
        print(f"{folder}: {kept} episodes of {episodes}, nothing to collect", flush=True)
        return
    practised = len(episodes_in_order(folder / "practice"))
    check_space(folder, envs.spec(family.start), config.practice - practised + episodes - kept)
    explorer = practise(family, seed, folder, config)
    roam = partial(_roam, family, jax.tree.map(np.asarray, explorer), seed, config)
    with (
        Progress(folder, episodes, kept, envs.spec(family.start).episode_length) as progress,
        workers.mapping() as each,
    ):
        # Nothing is learned any more: every episode can be played by itself.
        for episode, arrays in zip(range(kept, episodes), each(roam, range(kept, episodes)), strict=True):
            exorl.write_episode(folder / "buffer", episode, arrays)
            progress.show(episode, arrays, explorer)


def practise(family: Family, seed: int, folder: Path, config: CommandConfig) -> explore.Explorer:
    """The agent that has learned from `config.practice` episodes, those on disk among them."""
    size, axes = envs.spec(family.start), len(family.axes)
    files = episodes_in_order(folder / "practice")
    fresh = explore.init("td3", seed, size.observation_size + axes, size.action_size, config.td3)
    explorer, learned = load_agent(folder / "agent.npz", fresh, len(files))
    if learned == config.practice:
        return explorer
    sizes = size.observation_size, size.action_size, axes + 1
    replay = commands.CommandReplay(config.practice, size.episode_length, sizes, family, config)
    env = ControlSuite(size)
    with (
        Progress(folder / "practice", config.practice, len(files), size.episode_length) as progress,
        ThreadPoolExecutor(1) as learner,
    ):
        for episode in range(config.practice):
            # The agent that plays is complete; what is learned meanwhile is for the next episode.
            learning = learner.submit(explore.learn, explorer, replay, seed, config.td3) if episode >= learned else None
            if episode < len(files):
                arrays = exorl.read_episode(files[episode], name=size.name, sizes=exorl.Sizes(*size[3:6]))
            else:
                arrays = _play(family, explorer, episode, seed, config, env)
                exorl.write_episode(folder / "practice", episode, arrays)
            if learning:
                explorer = learning.result()
                save_agent(folder / "agent.npz", explorer, episode + 1)
            replay.add(arrays["observation"], arrays["action"][1:], family.read(arrays["physics"])[1:])
            progress.show(episode, arrays, explorer)
    return explorer


def _roam(family: Family, explorer: explore.Explorer, seed: int, config: CommandConfig, episode: int) -> Episode:
    """An episode that is kept, played in a process of its own."""
    return _play(family, explorer, config.practice + episode, seed, config, ControlSuite(envs.spec(family.start)))


def _play(
    family: Family, explorer: explore.Explorer, episode: int, seed: int, config: CommandConfig, env: ControlSuite
) -> Episode:
    """Episodes are counted from the first of practice; each depends on the agent, the seed and its number alone."""
    size = envs.spec(family.start)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(episode,)))
    policy = commands.policy(explorer, episode, size.action_size, rng, config, family)
    return play(env, policy, int(rng.integers(2**32)), size)
