"""From any of the three formats to any other, an episode at a time: all of them meet in `data.episode.Episode`.

    convert(Place.parse("exorl:datasets/walker/rnd"), Place.parse("minari:walker/rnd-v0"), env_id="walker_run")

A place is a format and where the data lie: the folder above `buffer` for exorl, the file for d4rl, the name for minari.
The target must be free, and is written whole or not at all.

Bits, dtypes, shapes and further arrays come through:

- to minari, all of them; arrays beside the five that it knows become infos;
- to d4rl, all of them, too: what has a row for every observation is stored before and after each step, and rewards
  of several tasks beside those of the first. Two things come back otherwise, and are noted: names of nested infos, and
  an episode of a single step that terminates, right after one that terminates, which D4RL takes for one end marked
  twice. Every episode must have the same arrays;
- to exorl, what has the MuJoCo states as `physics` and the observation after the last action; others are refused, for
  the format has no meaning without. Its numbers are float32: what is rounded is noted.

What describes a data set as a whole (its policy, seeds, reference scores) stays behind.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data import d4rl, exorl, minari
from data.episode import Episode

FORMATS = ("exorl", "d4rl", "minari")
TASKS = "rewards_of_tasks"
"""What the rewards [T, R] of R tasks are called in a D4RL file, beside the rewards [T] of the first."""


class Place(NamedTuple):
    """Where a data set is, or will be."""

    format: str
    location: str

    @classmethod
    def parse(cls, text: str) -> "Place":
        """`format:location`. Raises ValueError for anything else."""
        format, _, location = text.partition(":")
        if format not in FORMATS or not location:
            raise ValueError(f"{text!r}: expected one of {', '.join(FORMATS)}, then : and a folder, a file or a name")
        return cls(format, location)

    def __str__(self) -> str:
        return f"{self.format}:{self.location}"


class Converted(NamedTuple):
    """What was written."""

    episodes: int
    steps: int
    notes: list[str]
    """What the target does not hold as the source did, a line each; empty when nothing is lost."""


def read(place: Place, *, episode_length: int = 0) -> Iterator[Episode]:
    """The episodes of a data set. `episode_length` is for D4RL files that do not mark every end; data.d4rl.read.

    Raises FileNotFoundError when it is absent, ValueError, one line that begins with the file, for what is amiss.
    """
    if place.format == "exorl":
        return exorl.read(Path(place.location))
    if place.format == "minari":
        return minari.read(place.location)
    return map(_with_tasks, d4rl.read(Path(place.location), episode_length=episode_length))


def convert(
    source: Place,
    target: Place,
    *,
    episode_length: int = 0,
    env_id: str = "",
    entry_point: str = "",
    description: str = "",
    requirements: Sequence[str] = (),
) -> Converted:
    """Write the episodes of `source` to `target`, with a bar on a terminal.

    Args:
      episode_length: as for `read`.
      env_id, entry_point, description, requirements: what a Minari set says of itself, as for data.minari.write.

    Raises FileExistsError when the target is there, and what reading and writing raise; nothing is left behind then.
    """
    lost: Counter[str] = Counter()
    counts = {"episodes": 0, "steps": 0}

    def fitted() -> Iterator[Episode]:
        after_end = False
        episodes = read(source, episode_length=episode_length)
        for episode in tqdm(episodes, desc=f"{source} -> {target}", unit="episode", disable=None):
            if target.format == "d4rl" and after_end and episode.terminated and episode.length == 1:
                lost["one step that terminates right after another end: D4RL reads it as the same end"] += 1
            after_end = episode.terminated
            where = f"{target}: episode {counts['episodes']}"
            counts["episodes"] += 1
            counts["steps"] += episode.length
            yield _FIT[target.format](where, episode, lost)

    if target.format == "exorl":
        _write_exorl(Path(target.location), fitted())
    elif target.format == "d4rl":
        d4rl.write(Path(target.location), fitted())
    else:
        about = {"env_id": env_id, "entry_point": entry_point, "description": description}
        minari.write(target.location, fitted(), requirements=requirements, **about)
    return Converted(**counts, notes=[f"{note} ({count} episodes)" for note, count in lost.items()])


def _fit_exorl(where: str, episode: Episode, lost: Counter[str]) -> Episode:
    """In ExoRL's dtypes."""

    def narrow(key: str, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            narrowed = values.astype(np.float32, copy=False)
        if not np.array_equal(narrowed, values):
            lost[f"{key} are {values.dtype}, rounded to float32"] += 1
        return narrowed

    return episode._replace(
        observations=narrow("observations", episode.observations),
        actions=narrow("actions", episode.actions),
        rewards=narrow("rewards", episode.rewards),
    )


def _fit_d4rl(where: str, episode: Episode, lost: Counter[str]) -> Episode:
    """With one reward a step, and names without slashes."""
    extras = {key.replace("/", "."): values for key, values in episode.extras.items()}
    if extras.keys() != episode.extras.keys():
        lost["names of nested arrays have dots for slashes"] += 1
    if len(extras) < len(episode.extras) or TASKS in extras:
        raise ValueError(
            f"{where}: arrays {', '.join(episode.extras)}, expected names that differ with dots for slashes"
        )
    if episode.rewards.ndim == 1:
        return episode._replace(extras=extras)
    return episode._replace(rewards=episode.rewards[:, 0], extras=extras | {TASKS: episode.rewards})


def _with_tasks(episode: Episode) -> Episode:
    """An episode of a D4RL file, with the rewards of all tasks where `_fit_d4rl` put them aside."""
    extras = dict(episode.extras)
    rewards = extras.pop(TASKS, episode.rewards)
    return episode._replace(rewards=rewards, extras=extras)


def _fit_minari(where: str, episode: Episode, lost: Counter[str]) -> Episode:
    """As it is; data.minari repeats an observation that Minari asks for and the source does not have."""
    if len(episode.observations) == episode.length:
        lost["no observation after the last action: the one before it stands there again, and is marked"] += 1
    return episode


_FIT = {"exorl": _fit_exorl, "d4rl": _fit_d4rl, "minari": _fit_minari}


def _write_exorl(folder: Path, episodes: Iterator[Episode]) -> None:
    """Write a buffer beside its place and move it there, for exorl.write shows each episode as it comes."""
    buffer = folder / "buffer"
    if exorl.episode_files(buffer):
        raise FileExistsError(f"{buffer}: holds episodes already, expected none; choose another folder")
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        exorl.write(building, episodes)
        if not (building / "buffer").exists():
            raise ValueError(f"{folder}: no episodes to write, expected at least one")
        folder.mkdir(parents=True, exist_ok=True)
        os.rename(building / "buffer", buffer)
    finally:
        shutil.rmtree(building, ignore_errors=True)
