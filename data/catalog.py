"""Data sets by name: where they lie, how to get those that are absent, and a card of what was loaded."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import exorl
from data.trajectory import Trajectory

COLLECTED = ("td3", "random", "rnd")
"""The agents of `python -m launch.collect`; the first is the data set that serves when none is named."""
DOWNLOADS = ("aps", "diayn", "disagreement", "icm", "icm_apt", "proto", "random", "rnd", "smm")
"""The exploration algorithms of the ExoRL release, ten million steps each."""
DOMAINS = ("cartpole", "cheetah", "jaco", "point_mass_maze", "quadruped", "walker")
DOWNLOAD_URL = "https://dl.fbaipublicfiles.com/exorl/{domain}/{dataset}.zip"
DOWNLOAD_BYTES = {
    ("cartpole", "proto"): 587_145_013,
    ("cheetah", "proto"): 2_280_144_517,
    ("quadruped", "proto"): 7_768_551_121,
    ("walker", "proto"): 2_584_420_588,
    ("walker", "rnd"): 2_585_461_986,
}
"""The sizes that are known."""


class Card(NamedTuple):
    """What a data set is, for banners and for every row of results."""

    env: str
    dataset: str
    path: str
    episodes: int
    steps: int
    return_min: float
    return_25: float
    return_50: float
    return_75: float
    return_mean: float
    return_max: float
    sha256: str
    """Of the content, not of the files: exorl.Episodes."""
    bytes: int
    """On disk, without the cache."""


class Dataset(NamedTuple):
    """A loaded data set."""

    trajectories: list[Trajectory]
    card: Card


class OnDisk(NamedTuple):
    """A data set that lies under the data folder."""

    domain: str
    dataset: str
    path: Path
    episodes: int
    bytes: int


def on_disk(data_dir: Path) -> list[OnDisk]:
    """The data sets with at least one episode, by domain and name; empty when the folder is absent."""
    found = []
    for buffer in sorted(data_dir.glob("*/*/buffer")):
        if files := exorl.episode_files(buffer):
            folder = buffer.parent
            size = sum(path.stat().st_size for path in files)
            found.append(OnDisk(folder.parent.name, folder.name, folder, len(files), size))
    return found


def choose(domain: str, dataset: str | None, data_dir: Path) -> str | None:
    """The data set to use: the one named, else of those of the domain on disk td3 or the alphabet's first.

    None when none is named and nothing is there.
    """
    if dataset:
        return dataset
    there = [found.dataset for found in on_disk(data_dir) if found.domain == domain]
    return COLLECTED[0] if COLLECTED[0] in there else min(there, default=None)


def load(
    name: str,
    domain: str,
    dataset: str,
    data_dir: Path,
    *,
    sizes: exorl.Sizes,
    reward_fn: exorl.RewardFn,
    workers: int,
) -> Dataset:
    """A data set of `domain`, with the rewards of the environment `name`; `data.exorl.load` has the details.

    Raises FileNotFoundError when it is absent: which file belongs in which folder, and what there is instead.
    """
    folder = data_dir / domain / dataset
    files = exorl.episode_files(folder / "buffer")
    if not files:
        raise FileNotFoundError(_absent(name, domain, dataset, data_dir))
    trajectories, sha256 = exorl.load(folder, name=name, sizes=sizes, reward_fn=reward_fn, workers=workers)
    returns = np.array([trajectory.total for trajectory in trajectories])
    low, first, median, third, high = (float(q) for q in np.quantile(returns, (0, 0.25, 0.5, 0.75, 1)))
    card = Card(
        env=name,
        dataset=dataset,
        path=str(folder),
        episodes=len(trajectories),
        steps=sum(len(trajectory.rewards) for trajectory in trajectories),
        return_min=low,
        return_25=first,
        return_50=median,
        return_75=third,
        return_mean=float(returns.mean()),
        return_max=high,
        sha256=sha256,
        bytes=sum(path.stat().st_size for path in files),
    )
    return Dataset(trajectories, card)


def _absent(name: str, domain: str, dataset: str, data_dir: Path) -> str:
    """One line: what is missing, how to get it, what is there."""
    folder = data_dir / domain / dataset
    ways = []
    if dataset in COLLECTED:
        ways.append(f"collect it (python -m launch.collect --env {name} --agent {dataset})")
    if dataset in DOWNLOADS and domain in DOMAINS:
        url = DOWNLOAD_URL.format(domain=domain, dataset=dataset)
        ways.append(f"unzip {url} into {folder} (episodes belong in {folder / 'buffer'})")
    if not ways:
        ways.append(f"known data sets are {', '.join(sorted({*COLLECTED, *DOWNLOADS}))}")
    there = ", ".join(f"{found.domain}/{found.dataset}" for found in on_disk(data_dir)) or "nothing"
    return f"{folder}: no data set, {'; or '.join(ways)}. On disk in {data_dir}: {there}"
