"""Data sets by name: where they lie, how to get those that are absent, and a card of what was loaded.

A name is a folder of ExoRL's format under the domain of the environment (`td3`, or `exorl/rnd` for what ExoRL
released), `d4rl` for the file that a D4RL environment is named after, or `minari/<id>`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from data import d4rl, exorl, minari, unzip
from data.episode import Loaded, fitting
from data.exorl_cache import RewardFn
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
COMMANDS = "commands_"
"""How data sets begin that are made for a family of tasks (launch/commands.py): for no single task, unless named."""
SIMULATOR = ("mujoco", "dm_control", "gymnasium")
"""Packages whose versions decide what an action leads to."""
ORIGIN = "collect.json"
"""Beside the episodes that this project collected: by whom, and with which simulator."""


class Environment(Protocol):
    """What has to be known of an environment to load its data; envs.Spec is one."""

    @property
    def name(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def observation_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    @property
    def physics_size(self) -> int: ...
    @property
    def episode_length(self) -> int: ...
    @property
    def simulator(self) -> str: ...
    @property
    def env_id(self) -> str: ...


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
    """Of the content, not of the files."""
    bytes: int
    """On disk, without the cache."""
    made_with: dict[str, str]
    """Versions of the simulator that made it, by package; empty where they are not recorded."""
    notes: list[str]
    """What was dropped, clipped or computed again."""


class Dataset(NamedTuple):
    """A loaded data set."""

    trajectories: list[Trajectory]
    card: Card


def choose(env: Environment, dataset: str, data_dir: Path) -> str | None:
    """The data set to use: the one named; for a D4RL environment its file; else of those of the domain on disk td3 or
    the alphabet's first.

    None when none is named and nothing is there.
    """
    if dataset:
        return dataset
    if env.name in d4rl.URLS:
        return "d4rl"
    if env.simulator != "dm_control":
        return None
    ours = (buffer.parent.name for buffer in exorl.buffers(data_dir, env.domain) if exorl.episode_files(buffer))
    there = [dataset for dataset in ours if not dataset.startswith(COMMANDS)]
    return COLLECTED[0] if COLLECTED[0] in there else min(there, default=None)


def is_reward_free(dataset: str) -> bool:
    """Whether a data set is named after an algorithm that explores without the reward of a task."""
    return minari.short_name(dataset) in DOWNLOADS


def episodes(env: Environment, dataset: str, data_dir: Path, max_steps: int = 0) -> int:
    """How many episodes `load` would take, of a Minari set about as many; 0 where it is absent."""
    if dataset.startswith("minari/"):
        id = dataset.removeprefix("minari/")
        if not minari.find(id):
            return 0
        found = minari.info(id)
        share = max_steps / found.steps if max_steps and found.steps else 1.0
        return min(found.episodes, max(1, int(share * found.episodes)))
    if dataset == "d4rl":
        path = d4rl.find(env.name, data_dir)
        return len(_first(_d4rl(env, path).trajectories, max_steps)) if path else 0
    buffer = folder(env, dataset, data_dir) / "buffer"
    return len(exorl.first(exorl.usable_files(buffer)[0], max_steps)) if exorl.episode_files(buffer) else 0


def folder(env: Environment, dataset: str, data_dir: Path) -> Path:
    """Of a data set of ExoRL's format. Raises ValueError when ExoRL released none of that name."""
    released = dataset.removeprefix("exorl/")
    if released != dataset and released not in DOWNLOADS:
        raise ValueError(f"--dataset: expected exorl/ and one of {', '.join(DOWNLOADS)}, got {dataset}")
    if Path(released).name != released:
        raise ValueError(
            f"--dataset: expected the name of a folder, exorl/<name>, d4rl or minari/<id>, got {dataset!r}"
        )
    return data_dir / env.domain / released


def load(
    env: Environment,
    dataset: str,
    data_dir: Path,
    *,
    reward_fn: RewardFn | None,
    workers: int,
    max_steps: int = 0,
) -> Dataset:
    """A data set, with the rewards of the environment where it holds physics states and `reward_fn` is given.

    Args:
      dataset: a name, as the head of this file has them.
      max_steps: take the first episodes that together have no more steps; 0 is all.

    Raises:
      FileNotFoundError: it is absent: which file belongs in which folder, and what there is instead.
      ValueError: a file, or a name, is amiss.
    """
    if dataset.startswith("minari/"):
        path, loaded = _minari(env, dataset.removeprefix("minari/"), reward_fn)
        made_with = _requirements(minari.info(dataset.removeprefix("minari/")).requirements)
    elif dataset == "d4rl":
        found = d4rl.find(env.name, data_dir)
        if found is None:
            raise FileNotFoundError(_absent_d4rl(env.name, data_dir))
        path, loaded, made_with = found, _d4rl(env, found), d4rl.MADE_WITH
    else:
        path = folder(env, dataset, data_dir)
        if dataset.startswith("exorl/") and (path / ORIGIN).is_file():
            raise ValueError(
                f"{path}: holds episodes that were collected here, expected ExoRL's; ask for --dataset {path.name}, or "
                "put theirs into another --data_dir"
            )
        if begun := unfinished(path):
            raise ValueError(_half_collected(path, begun))
        if (path / unzip.UNPACKING).exists():
            raise ValueError(
                f"{path}: not all of its archive is unpacked yet; run python -m launch.datasets fetch "
                f"exorl/{env.domain}/{path.name}, or remove {path / unzip.UNPACKING} to take what there is"
            )
        loaded = _exorl(env, path, dataset, data_dir, reward_fn, workers, max_steps)
        made_with = recorded_versions(path)
    trajectories, notes = _first(loaded.trajectories, max_steps), list(loaded.notes)
    sha256 = loaded.sha256
    if len(trajectories) < len(loaded.trajectories):
        sha256 = hashlib.sha256(f"{sha256} first {len(trajectories)}".encode()).hexdigest()
        notes.append(
            f"--max_steps {max_steps:,}: the first {len(trajectories):,} of {len(loaded.trajectories):,} episodes"
        )
    returns = np.array([trajectory.total for trajectory in trajectories])
    low, first, median, third, high = (float(q) for q in np.quantile(returns, (0, 0.25, 0.5, 0.75, 1)))
    card = Card(
        env=env.name,
        dataset=dataset,
        path=str(path),
        episodes=len(trajectories),
        steps=sum(len(trajectory.rewards) for trajectory in trajectories),
        return_min=low,
        return_25=first,
        return_50=median,
        return_75=third,
        return_mean=float(returns.mean()),
        return_max=high,
        sha256=sha256,
        bytes=_bytes(path),
        made_with=made_with,
        notes=notes,
    )
    return Dataset(trajectories, card)


def origin(path: Path) -> dict[str, Any]:
    """What `launch.collect` wrote beside a data set; empty of other data, and of what cannot be read."""
    try:
        found = json.loads((path / ORIGIN).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def unfinished(path: Path) -> dict[str, Any]:
    """`origin` of a data set that `launch.collect` was stopped at; empty where it holds all it was to hold."""
    found = origin(path)
    try:
        return found if len(exorl.episode_files(path / "buffer")) < found["episodes"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def recorded_versions(path: Path) -> dict[str, str]:
    """The versions of the simulator that `launch.collect` wrote beside what it collected; none of other data."""
    found = origin(path).get("versions")
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def differences(made_with: dict[str, str], now: dict[str, str]) -> list[str]:
    """What differs between the simulator that made data and the one there is: one line a package."""
    return [
        f"{package} {version}, here {now.get(package, 'none')}"
        for package, version in made_with.items()
        if now.get(package) != version
    ]


def _exorl(
    env: Environment,
    path: Path,
    dataset: str,
    data_dir: Path,
    reward_fn: RewardFn | None,
    workers: int,
    max_steps: int,
) -> Loaded:
    if reward_fn is None:
        raise ValueError(f"--dataset: {dataset} is of ExoRL's format, which is for dm_control; {env.name} is not of it")
    if not exorl.episode_files(path / "buffer"):
        raise FileNotFoundError(_absent(env, dataset.removeprefix("exorl/"), data_dir))
    sizes = exorl.Sizes(env.observation_size, env.action_size, env.physics_size)
    return exorl.load(path, name=env.name, sizes=sizes, reward_fn=reward_fn, workers=workers, max_steps=max_steps)


def _d4rl(env: Environment, path: Path) -> Loaded:
    return d4rl.load(
        path,
        name=env.name,
        observation_size=env.observation_size,
        action_size=env.action_size,
        episode_length=env.episode_length,
    )


def _minari(env: Environment, id: str, reward_fn: RewardFn | None) -> tuple[Path, Loaded]:
    path = minari.find(id)
    if path is None:
        there = ", ".join(minari.list_local()) or "none"
        raise FileNotFoundError(
            f"{minari.root() / id}: no data set; get it with minari download {id}, or put its folder there. "
            f"Minari sets on disk: {there}"
        )
    recorded = minari.info(id).env_id
    same = {minari.short_name(name) for name in (env.name, env.env_id.rpartition(":")[2])}
    if env.env_id and recorded and minari.short_name(recorded) not in same:
        raise ValueError(f"{path}: recorded in {recorded}, expected {env.env_id}")
    if not env.env_id and recorded and not minari.short_name(recorded).startswith(f"{env.domain}_"):
        raise ValueError(f"{path}: recorded in {recorded}, expected a task of dm_control's {env.domain}")
    sizes = {"observation_size": env.observation_size, "action_size": env.action_size}
    return path, minari.load(id, name=env.name, **sizes, reward_fn=reward_fn)


def _first(trajectories: list[Trajectory], max_steps: int) -> list[Trajectory]:
    """The first that together have no more than `max_steps` steps; all for 0."""
    return trajectories[: fitting([len(trajectory.rewards) for trajectory in trajectories], max_steps)]


def _requirements(lines: tuple[str, ...]) -> dict[str, str]:
    """('mujoco==3.2.0', ...) -> {'mujoco': '3.2.0', ...}: the simulator's, where they are pinned."""
    pairs = (line.partition("==") for line in lines)
    pinned = {name.strip().replace("-", "_"): version.strip() for name, equals, version in pairs if equals}
    return {name: version for name, version in pinned.items() if name in SIMULATOR}


def _bytes(path: Path) -> int:
    """Of a file, of the episodes of a folder of ExoRL's format, or of everything in another folder."""
    if path.is_file():
        return path.stat().st_size
    inside = path / "buffer" if (path / "buffer").is_dir() else path
    return sum(file.stat().st_size for file in inside.rglob("*") if file.is_file())


def _half_collected(path: Path, begun: dict[str, Any]) -> str:
    """One line: what there is, and what to do."""
    there, wanted = len(exorl.episode_files(path / "buffer")), begun["episodes"]
    names = f"--env {begun['env']} --agent {begun['agent']} --seed {begun['seed']} --dataset {path.name}"
    return (
        f"{path}: expected {wanted} episodes, got {there}, since collecting was stopped; go on with python -m "
        f"launch.collect {names} --data_dir {path.parents[1]} --episodes {wanted}, or ask it for the {there} only"
    )


def _absent_d4rl(name: str, data_dir: Path) -> str:
    """One line: which file belongs where."""
    where = ", ".join(map(str, d4rl.folders(data_dir)))
    return (
        f"{d4rl.file_name(name)}: no such file in {where}; get it with python -m launch.datasets fetch {name}, or put "
        f"{d4rl.URLS[name]} into one of them"
    )


def _absent(env: Environment, dataset: str, data_dir: Path) -> str:
    """One line: what is missing, how to get it, what is there."""
    path = data_dir / env.domain / dataset
    for place in (path, path / "buffer" / "buffer"):
        if exorl.episode_files(place):
            return f"{path / 'buffer'}: no episodes, but {place} has some: move them there"
    ways = []
    if dataset in COLLECTED:
        ways.append(f"collect it (python -m launch.collect --env {env.name} --agent {dataset})")
    if dataset in DOWNLOADS and env.domain in DOMAINS:
        url = DOWNLOAD_URL.format(domain=env.domain, dataset=dataset)
        ways.append(f"fetch it (python -m launch.datasets fetch exorl/{env.domain}/{dataset})")
        ways.append(f"unzip {url} into {path} (episodes belong in {path / 'buffer'})")
    if not ways:
        ways.append(f"known data sets are {', '.join(sorted({*COLLECTED, *DOWNLOADS}))}")
    there = ", ".join(str(buffer.parent.relative_to(data_dir)) for buffer in exorl.buffers(data_dir)) or "nothing"
    return f"{path}: no data set, {'; or '.join(ways)}. On disk in {data_dir}: {there}"
