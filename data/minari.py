"""Minari's data sets on disk, through the `minari` package: pip install 'agentic-bpt[minari]'.

A set is a folder `<root>/<id>`, where root is $MINARI_DATASETS_PATH, else ~/.minari/datasets. Its `data/metadata.json`
describes it; the episodes lie beside that, most often in one file (data/minari_hdf5.py), else in Arrow's or Parquet's,
which Minari reads where pyarrow is installed.

Nothing here goes to the network, nor makes the environment that a set records: where a set does not write down its
spaces, Minari makes it to find them out, and so calls whatever the set names. Such a set is refused.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.episode import Episode, Loaded, check
from data.exorl_cache import RewardFn
from data.minari_hdf5 import FILE, REPEATED, check_file, write_file

ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+")
DEPTH = 8
"""A name has at most so many parts."""


class Info(NamedTuple):
    """What a data set says of itself."""

    id: str
    path: Path
    format: str
    """hdf5, arrow or parquet."""
    episodes: int
    steps: int
    bytes: int
    """On disk."""
    observation_size: int
    """0 where observations are no plain vectors: such a set is listed, but cannot be read."""
    action_size: int
    """Likewise."""
    env_id: str
    """Empty where no environment is recorded."""
    minari_version: str
    requirements: tuple[str, ...]
    """The packages that made it, as pip names them; empty where none are recorded."""


def require() -> Any:
    """The `minari` package, which only those need who have such data. Raises ModuleNotFoundError, with the remedy."""
    try:
        import minari
    except ModuleNotFoundError as error:
        message = f"Minari's data sets need the package {error.name}: pip install 'agentic-bpt[minari]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return minari


def root() -> Path:
    """Where Minari keeps its data sets; the folder need not exist."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def find(id: str) -> Path | None:
    """The folder of a data set, None when it is absent. Raises ValueError when `id` cannot be the name of one."""
    if not ID.fullmatch(id):
        raise ValueError(f"{id!r} is not the name of a Minari data set, expected (namespace/)name-v0")
    return root() / id if (root() / id / "data").is_dir() else None


def list_local() -> list[str]:
    """The data sets on disk, by name; empty when there is no folder."""

    def below(folder: Path, depth: int) -> Iterator[Path]:
        if depth and (folder / "data").is_dir():
            yield folder
        elif depth < DEPTH and folder.is_dir():
            for path in folder.iterdir():
                if not path.name.startswith("."):
                    yield from below(path, depth + 1)

    names = (path.relative_to(root()).as_posix() for path in below(root(), 0))
    return sorted(name for name in names if ID.fullmatch(name))


def info(id: str) -> Info:
    """What a data set says of itself. Reads its metadata only, for which the `minari` package is not needed.

    Raises FileNotFoundError when it is absent, ValueError when its metadata are amiss.
    """
    folder = find(id)
    if folder is None:
        there = ", ".join(list_local()) or "nothing"
        raise FileNotFoundError(f"{root() / id}: no data set; get it with: minari download {id}. On disk: {there}")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    path, found = folder / "data" / "metadata.json", _metadata(folder)
    if found.get("dataset_id") != id:
        raise ValueError(f"{path}: dataset_id is {found.get('dataset_id')!r}, expected {id!r}, where it lies")
    for key in ("total_episodes", "total_steps"):
        count = found.get(key)
        if type(count) is not int or not 0 < count <= size:  # each takes more than a byte
            raise ValueError(f"{path}: {key} is {count!r}, expected a number from 1 to {size}, the bytes of the set")
    with _naming(path):
        return Info(
            id=id,
            path=folder,
            format=str(found.get("data_format", "")),
            episodes=found["total_episodes"],
            steps=found["total_steps"],
            bytes=size,
            observation_size=_size(found.get("observation_space")),
            action_size=_size(found.get("action_space")),
            env_id=str(json.loads(found.get("env_spec") or "{}").get("id", "")),
            minari_version=str(found.get("minari_version", "")),
            requirements=tuple(map(str, found.get("requirements") or ())),
        )


def short_name(id: str) -> str:
    """Of a set or an environment: 'dm_control/walker-run-v0' -> 'walker_run'."""
    return re.sub(r"-v\d+$", "", id.rpartition("/")[2]).replace("-", "_")


def read(id: str) -> Iterator[Episode]:
    """The episodes of a data set, checked. The numbers among its infos become extras, `a/b` where they are nested;
    those that are text, or have no row for every step, are left out.

    Raises FileNotFoundError when the set is absent, ModuleNotFoundError without the `minari` package, ValueError, one
    line that begins with the folder, for anything amiss: spaces other than flat boxes, actions outside [-1, 1], an
    end within an episode, damage.
    """
    return _episodes(_readable(id), None)


def load(id: str, *, name: str, observation_size: int, action_size: int, reward_fn: RewardFn | None = None) -> Loaded:
    """A data set as trajectories of the environment `name`, which expects these sizes.

    Where there is a `reward_fn`, rewards are computed again from physics states, which all episodes must hold; those
    stored serve where there is none, and where the set was recorded in `name` without any physics states. They are not
    cached; a large set is better converted to ExoRL's format. A size of 0 is any. The hash is of observations, actions,
    rewards and physics states, however they are stored. Raises what `read` raises, and ValueError for physics states
    that are missing.
    """
    found = _readable(id)
    for key, size, expected in (
        ("observations", found.observation_size, observation_size),
        ("actions", found.action_size, action_size),
    ):
        if expected and size != expected:
            raise ValueError(f"{found.path}: {key} has {size} columns, {name} expects {expected}")
    digest, trajectories, terminated, relabelled = hashlib.sha256(), [], 0, 0
    for index, episode in enumerate(_episodes(found, {"physics"})):
        where = f"{found.path}: episode {index}"
        rewards, physics = episode.rewards, episode.extras.get("physics")
        if reward_fn is not None and physics is None and (relabelled or short_name(found.env_id) != name):
            raise ValueError(
                f"{where}: no physics states to compute the rewards of {name} from, and the rewards stored are of "
                f"{found.env_id or 'an unnamed environment'}"
            )
        if reward_fn is not None and physics is not None:
            if relabelled < index:
                raise ValueError(f"{where}: has physics states, expected none as in the episodes before it")
            rewards = _computed(where, name, episode, reward_fn)
            relabelled += 1
        elif rewards.ndim == 2 and rewards.shape[1] != 1:
            raise ValueError(
                f"{where}: rewards are those of {rewards.shape[1]} tasks, expected one, "
                f"or physics states to compute those of {name} from"
            )
        with np.errstate(over="ignore"):
            trajectory = episode.trajectory(rewards.reshape(episode.length))
        if not all(np.isfinite(values).all() for values in trajectory):
            raise ValueError(f"{where}: some numbers are too large, expected such as fit float32")
        trajectories.append(trajectory)
        terminated += episode.terminated
        for values in (episode.observations, episode.actions, episode.rewards, physics):
            if values is not None:
                digest.update(f"{values.shape} {values.dtype}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
    count, versions = len(trajectories), ", ".join(found.requirements)
    notes = [
        f"rewards of {relabelled} of {count} episodes computed from physics states, the others as stored",
        f"{terminated} of {count} episodes end by termination, the others at a limit of time",
        f"recorded in {found.env_id or 'an unnamed environment'}, with {versions or 'versions that it does not say'}",
    ]
    return Loaded(trajectories, digest.hexdigest(), notes)


def write(
    id: str,
    episodes: Iterable[Episode],
    *,
    env_id: str = "",
    entry_point: str = "",
    description: str = "",
    algorithm: str = "",
    author: str = "",
    requirements: Sequence[str] = (),
) -> Path:
    """Write a data set that Minari loads, whole or not at all, and return its folder.

    Every array keeps its dtype; extras become infos. Where an episode lacks the observation after its last action,
    the one before it stands there once more, and is marked so that `read` leaves it out.

    Args:
      episodes: read once, one at a time; all with the observation and action columns and dtypes of the first.
      env_id: the environment, which `entry_point`, "module:function", makes when it is called with `name=env_id`, as
        Minari's recover_environment does; without an entry point it is only named.
      requirements: the packages that made the data, as pip names them.

    Raises FileExistsError when the set is there, ValueError when an episode is amiss, ModuleNotFoundError without
    the `minari` package, OSError with the folder.
    """
    minari = require()
    folder = root() / id
    if find(id) or folder.exists():
        raise FileExistsError(f"{folder}: there already, expected a name that is free")
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")  # Minari lists nothing that begins with a dot
    about = {
        "dataset_id": id,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": minari.__version__,
        "env_spec": _env_spec(env_id, entry_point),
        "requirements": list(requirements),
        "description": description,
        "algorithm_name": algorithm,
        "author": [author] if author else None,
    }
    shutil.rmtree(building, ignore_errors=True)
    try:
        data = building / "data"
        data.mkdir(parents=True)
        content = {key: value for key, value in about.items() if value or key == "jpeg_encoding"}
        content |= write_file(data / FILE, id, episodes)
        content["dataset_size"] = round((data / FILE).stat().st_size / 1e6, 1)
        with (data / "metadata.json").open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        for namespace in folder.relative_to(root()).parents[:-1]:
            described = root() / namespace / "namespace_metadata.json"
            if not described.exists():
                described.write_text("{}")
        os.rename(building, folder)
    except OSError as error:
        if error.filename is None or str(building) in str(error.filename):
            raise OSError(error.errno, error.strerror or str(error), str(folder)) from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _naming(where: Path | str) -> Iterator[None]:
    """Turns what reading a damaged file raises into one line that names it."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # HDF5, Arrow, gymnasium and Minari have many
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{where}: cannot be read ({reason}); remove it, or fetch it again") from error


def _metadata(folder: Path) -> dict[str, Any]:
    """metadata.json. Raises ValueError when it is damaged."""
    path = folder / "data" / "metadata.json"
    with _naming(path):
        return dict(json.loads(path.read_text("utf-8")))


def _size(space: str | None) -> int:
    """The columns of a space as Minari writes it down; 0 unless it is a box of vectors."""
    found = json.loads(space or '{"type": ""}')
    if found["type"] != "Box" or len(found["shape"]) != 1:
        return 0
    size, bounds = found["shape"][0], (len(found["low"]), len(found["high"]))
    if bounds != (size, size):
        raise ValueError(f"a space of {size} columns has bounds for {bounds}")
    return int(size)


def _readable(id: str) -> Info:
    """What a data set says of itself. Raises ValueError when its spaces are others than this project reads."""
    require()
    found = info(id)
    for key, size in (("observation_space", found.observation_size), ("action_space", found.action_size)):
        if not size:
            space = json.loads(_metadata(found.path).get(key) or '{"type": "missing"}')["type"]
            raise ValueError(f"{found.path / 'data' / 'metadata.json'}: {key} is {space}, expected a Box of vectors")
    return found


def _episodes(found: Info, wanted: Collection[str] | None) -> Iterator[Episode]:
    """The episodes, checked; of the extras only those `wanted`."""
    data, steps = found.path / "data", 0
    with _naming(found.path):
        if found.format == "hdf5":
            check_file(data / FILE, found.episodes)
        dataset = require().MinariDataset(data)
        stored, about = iter(dataset), iter(dataset.storage.get_episode_metadata(range(found.episodes)))
    for index in range(found.episodes):
        where = f"{found.path}: episode {index}"
        with _naming(where):
            episode = _episode(next(stored), next(about), wanted)
        check(where, episode, name=found.id, observation_size=found.observation_size, action_size=found.action_size)
        steps += episode.length
        yield episode
    if steps != found.steps:
        raise ValueError(f"{found.path}: {steps} steps, expected {found.steps}, as its metadata.json says")


def _episode(stored: Any, about: dict[str, Any], wanted: Collection[str] | None) -> Episode:
    """One episode as Minari gives it. Raises ValueError when it is none."""
    length = len(stored.actions)
    for key in ("terminations", "truncations"):
        flags = getattr(stored, key)
        if flags.shape != (length,) or flags.dtype != bool or flags[:-1].any():
            raise ValueError(f"{key} {flags.shape} {flags.dtype}, expected {length} flags, all but the last False")
    for key in ("observations", "actions", "rewards"):
        if (dtype := getattr(stored, key).dtype).kind not in "fiu":
            raise ValueError(f"{key} are {dtype}, expected numbers")
    if len(stored.observations) != length + 1:
        raise ValueError(f"{len(stored.observations)} observations, expected {length + 1} for {length} actions")
    extras = {
        key: values
        for key, values in _flat(stored.infos or {})
        if wanted is None or key in wanted
        if values.dtype.kind in "biuf" and values.shape[:1] in ((length,), (length + 1,))
    }
    observations = stored.observations[:-1] if about.get(REPEATED) else stored.observations
    return Episode(observations, stored.actions, stored.rewards, bool(stored.terminations[-1]), extras)


def _flat(infos: dict[str, Any], above: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a tree, by their paths."""
    for key, value in infos.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}/")
        else:
            yield above + key, np.asarray(value)


def _computed(where: str, name: str, episode: Episode, reward_fn: RewardFn) -> np.ndarray:
    """[T] float32: the rewards of having arrived in each state but the first."""
    length, physics = episode.length, episode.extras["physics"]
    if physics.ndim != 2 or len(physics) != length + 1 or physics.dtype.kind != "f":
        raise ValueError(f"{where}: physics is {physics.dtype} {physics.shape}, expected {length + 1} rows of floats")
    with np.errstate(over="ignore"):  # damaged states, which are refused below
        try:
            rewards = np.asarray(reward_fn(physics[1:], episode.actions), np.float32)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if rewards.shape != (length,) or not np.isfinite(rewards).all():
        got = f"{np.isfinite(rewards).sum()} of shape {rewards.shape}"
        raise ValueError(f"{where}: expected {length} finite rewards of {name}, got {got}")
    return rewards


def _env_spec(env_id: str, entry_point: str) -> str:
    """A gymnasium.EnvSpec as JSON: what Minari's recover_environment makes an environment from."""
    if not env_id:
        return ""
    spec: dict[str, object] = {
        "id": env_id,
        "entry_point": entry_point or None,
        "kwargs": {"name": env_id},
        "additional_wrappers": [],
    }
    return json.dumps(spec)
