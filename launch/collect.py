"""Collect a data set: an agent learns in an environment, and every episode it plays is kept in ExoRL's format.

python -m launch.collect --env walker_run --agent td3 --episodes 100

Episodes are written to <data_dir>/<domain>/<dataset>/buffer as they end. Stopped at any time, the same command goes
on where it stopped, to the same episodes as if it had not been: while one is played, the networks learn from those
before it, so that an episode depends on nothing but the seed, its number and the episodes already on disk.
"""

import io
import json
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import envs
from agent import explore
from data import exorl
from envs.dmc import ControlSuite
from launch import program
from launch.metrics import write_atomically

REPLAY_EPISODES = 1000

_ENV = flags.DEFINE_string("env", "walker_run", f"Environment: {', '.join(envs.NAMES)}.")
_AGENT = flags.DEFINE_string("agent", "td3", f"Who plays: {', '.join(explore.AGENTS)}.")
_EPISODES = flags.DEFINE_integer("episodes", 100, "Episodes that the data set holds at the end.")
_SEED = flags.DEFINE_integer("seed", 0, "Of networks, exploration and initial states.")
_DATA_DIR = flags.DEFINE_string("data_dir", "datasets", "Where data sets lie, as <domain>/<dataset>/buffer.")
_DATASET = flags.DEFINE_string("dataset", None, "Name of the data set; by default the agent's.")


def collect(
    env_name: str, agent: str, episodes: int, seed: int, data_dir: Path, dataset: str | None = None
) -> Path:
    """Play until <data_dir>/<domain>/<dataset or agent> holds `episodes` episodes; return that folder.

    Raises ValueError when an argument is wrong, when the folder was collected by another environment, agent or
    seed, or when a file in it is amiss; OSError when it cannot be written. Both leave what is there untouched.
    """
    size = envs.spec(env_name)
    if agent not in explore.AGENTS:
        raise ValueError(f"unknown agent {agent!r}, expected one of: {', '.join(explore.AGENTS)}")
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected 1 or more")
    folder = data_dir / size.domain / (dataset or agent)
    claim(folder, {"env": env_name, "agent": agent, "seed": seed})
    files = episodes_in_order(folder / "buffer")
    if len(files) >= episodes:
        print(f"{folder}: {len(files)} episodes, nothing to do")
        return folder
    check_space(folder, size, episodes - len(files))

    explorer = explore.init(agent, seed, size.observation_size, size.action_size, CONFIG)
    learned, explorer = load_agent(folder / "agent.npz", explorer)
    replay = explore.Replay(min(episodes, REPLAY_EPISODES), size.episode_length, *explorer_sizes)
    env = envs.make(env_name)
    progress = Progress(episodes, len(files), size.episode_length)
    with ThreadPoolExecutor(1) as learner:
        for episode in range(episodes):
            # What is learned from the episodes so far is for the next one: so the two threads never wait long.
            learning = learner.submit(explore.learn, explorer, replay, seed, CONFIG) if episode >= learned else None
            if episode < len(files):
                arrays = exorl.read_episode(files[episode])
            else:
                arrays = play(env, explorer, episode, seed)
                exorl.write_episode(folder / "buffer", episode, arrays)
            if learning:
                explorer = learning.result()
                save_agent(folder / "agent.npz", explorer, episode + 1)
            replay.add(arrays["observation"], arrays["action"][1:], arrays["reward"][1:].ravel())
            progress.show(episode, arrays, explorer)
    return folder
