"""ExoRL's data sets on disk (Yarats et al., arXiv 2201.13425): an npz per episode, relabelled when loaded.

A data set is a folder `<data_dir>/<domain>/<agent>` with `buffer/episode_<6 digits>_<T>.npz`. Every array has
T + 1 rows: row 0 is the reset (action and reward 0, discount 1), row t the action taken at observation t - 1,
then the reward, discount, observation and MuJoCo state that followed.

Dtypes are ExoRL's, float32 and the states float64; others are refused, for what a cast loses nobody would see. Actions
lie in [-1, 1]; up to data.episode.ROUNDING beyond is clipped where they are learned from, more is refused.

Two faults are noted and passed over: numbers that are missing, and a last file without an end, which is what ExoRL's
own collection leaves while it writes. Loading leaves a `cache` folder beside `buffer`, which may be deleted at any
time (data/exorl_cache.py).
"""

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data import exorl_cache, npz
from data.episode import ROUNDING, Episode, Loaded, check, fitting
from data.exorl_cache import RewardFn

DTYPES: dict[str, np.dtype] = {
    "observation": np.dtype(np.float32),
    "action": np.dtype(np.float32),
    "reward": np.dtype(np.float32),
    "discount": np.dtype(np.float32),
    "physics": np.dtype(np.float64),
}
EPISODE_NAME = re.compile(r"episode_(\d{6,})_([1-9]\d*)\.npz")


class Sizes(NamedTuple):
    """The columns that an environment expects."""

    observation: int
    action: int
    physics: int


def episode_files(buffer: Path) -> list[Path]:
    """The episodes of a buffer, in the order they were collected; empty when the folder is absent.

    Half-written episodes (`.tmp`) and other files are left out. Raises ValueError when two share an index.
    """
    if not buffer.is_dir():
        return []
    found: dict[int, Path] = {}
    for path in sorted(buffer.iterdir()):
        if match := EPISODE_NAME.fullmatch(path.name):
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise ValueError(f"{path}: expected one episode {int(match[1])}, got {other.name} too; remove one")
    return [found[index] for index in sorted(found)]


def buffers(data_dir: Path, domain: str = "*") -> list[Path]:
    """The folders that hold episodes, `<data_dir>/<domain>/<data set>/buffer`, sorted; a dot in front marks a draft."""
    found = (path for path in data_dir.glob(f"{domain}/*/buffer") if not path.parent.name.startswith("."))
    return sorted(path for path in found if any(path.glob("episode_*.npz")))


def usable_files(buffer: Path) -> tuple[list[Path], list[str]]:
    """The episodes to read, and what is passed over. Raises FileNotFoundError when there are none."""
    files, notes = episode_files(buffer), []
    if not files:
        raise FileNotFoundError(f"{buffer}: no episodes, expected files named episode_<6 digits>_<steps>.npz")
    if len(files) > 1 and not zipfile.is_zipfile(files[-1]):
        notes.append(f"{files.pop()}: not written to its end, left out")
    first, last = (int(path.name.split("_")[1]) for path in (files[0], files[-1]))
    if missing := last - first + 1 - len(files):
        notes.append(f"{buffer}: {missing} of the numbers from {first} to {last} are missing, the others are read")
    return files, notes


def write_episode(buffer: Path, index: int, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write one finished episode, atomically: a reader or a crash sees all of it or nothing.

    arrays: observation [T+1, O], action [T+1, A], reward and discount [T+1] or [T+1, 1], physics [T+1, P].
    Raises ValueError when an array is amiss, FileExistsError when the index is taken, OSError with the file.
    """
    if taken := next(buffer.glob(f"episode_{index:06d}_*.npz"), None):
        raise FileExistsError(f"{taken}: episode {index} is already there, expected an index that is free")
    return _write(buffer, index, arrays)


def read_episode(path: Path, *, name: str = "", sizes: Sizes | None = None) -> dict[str, np.ndarray]:
    """The five arrays of an episode, T + 1 rows each, checked; keys that only some agents store are left out.

    `name` is the environment that expects the `sizes` (None: any). Raises ValueError, one line that begins
    with the file: it cannot be read, a key is missing, a dtype, a row count, a size or a value is wrong.
    """
    return _read(path, tuple(DTYPES), name, sizes)


def load(folder: Path, *, name: str, sizes: Sizes, reward_fn: RewardFn, workers: int, max_steps: int = 0) -> Loaded:
    """The episodes of a data set as trajectories of the environment `name`, in the order of collection.

    The first call checks every file and relabels with `reward_fn` (it must pickle) in `workers` processes; the
    rewards that are stored, of one task or of several, are never used. Later calls map the cache, and make what is
    missing in it: episodes added since, or after the first that changed. Rewards are cached per task and version of
    the simulator. The arrays are views of memory-mapped files; the hash is of observations, actions and physics, the
    same however they are stored.

    Args:
      max_steps: take the first episodes that together have no more steps; 0 is all. ExoRL trains on the first
        1,000,000, but its loader stops when it holds more than its limit, in each of four processes: 1,004 episodes
        of 1,000 steps, where this takes 1,000.

    Raises FileNotFoundError when there are no episodes, ValueError for a bad one, PermissionError when the
    cache cannot be written: then make a folder of your own and link the `buffer` into it.
    """
    there, notes = usable_files(folder / "buffer")
    files = first(there, max_steps)
    if len(files) < len(there):
        notes.append(f"--max_steps {max_steps:,}: the first {len(files):,} of {len(there):,} episodes")
    read = partial(_read, name=name, sizes=sizes)
    source = exorl_cache.Source(name, (sizes.observation, sizes.action), read, reward_fn)
    return Loaded(*exorl_cache.load(folder / "cache", files, [*map(_steps, files)], source, workers), notes)


def read(folder: Path) -> Iterator[Episode]:
    """The episodes of a data set as they are stored, in the order of collection; rewards are those of the files.

    The rows of the reset that hold zeros by definition are left out, and `extras` has all that remains: physics,
    discount and what else an agent stored. A single column of rewards or discounts becomes [T].

    Raises FileNotFoundError when there are no episodes, ValueError, one line that begins with the file, for a bad one.
    """
    files, notes = usable_files(folder / "buffer")
    for note in notes:
        tqdm.write(note)
    for path in files:
        arrays = _read(path)
        for key in ("action", "reward"):
            if np.any(arrays[key][0]):
                got = arrays[key][0].tolist()
                raise ValueError(f"{path}: {key} of row 0 is {got}, expected zeros: nothing came before the reset")
        reward, discount = (_column(arrays[key]) for key in ("reward", "discount"))
        extras = {key: values for key, values in arrays.items() if key not in ("observation", "action", "reward")}
        extras["discount"] = discount
        episode = Episode(arrays["observation"], arrays["action"][1:], reward[1:], not np.any(discount[-1]), extras)
        check(str(path), episode)
        yield episode


def write(folder: Path, episodes: Iterable[Episode]) -> None:
    """A new data set of these episodes, numbered from 0; each is written atomically, and `read` gives it back.

    Numbers of other dtypes than ExoRL's are cast where that changes none of them.

    Raises ValueError, with the buffer and the number of the episode, for one that ExoRL's format cannot hold: without
    physics or without the last observation; FileExistsError when there are episodes already, OSError with the file.
    """
    buffer = folder / "buffer"
    if taken := episode_files(buffer):
        raise FileExistsError(f"{buffer}: holds {len(taken)} episodes already, expected none; choose another folder")
    for index, episode in enumerate(episodes):
        _write(buffer, index, _arrays(f"{buffer}: episode {index}", episode))


def _arrays(where: str, episode: Episode) -> dict[str, np.ndarray]:
    """An episode as ExoRL stores it."""
    check(where, episode)
    if len(episode.observations) == episode.length:
        raise ValueError(f"{where}: lacks the observation after the last action, which ExoRL's format has too")
    if taken := episode.extras.keys() & {"observation", "action", "reward"}:
        raise ValueError(f"{where}: extras have {', '.join(sorted(taken))}, expected other names than ExoRL's own")
    discount = np.ones(episode.length + 1, np.float32)
    discount[-1] = not episode.terminated
    discount = episode.extras.get("discount", discount)
    if np.any(discount[-1]) == episode.terminated:
        raise ValueError(f"{where}: discount ends in {discount[-1]}, expected 0 where the environment ended it only")
    first = np.zeros_like(episode.actions[:1]), np.zeros_like(episode.rewards[:1])
    arrays = {
        "observation": episode.observations,
        "action": np.concatenate((first[0], episode.actions)),
        "reward": np.concatenate((first[1], episode.rewards)),
    } | {**episode.extras, "discount": discount}
    return {key: _cast(f"{where}: {key}", values, DTYPES.get(key, values.dtype)) for key, values in arrays.items()}


def _cast(where: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same numbers in another dtype. Raises ValueError when it has not all of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype, copy=False)
    if cast is not values and not np.array_equal(cast, values):
        raise ValueError(f"{where} is {values.dtype}, and {dtype} would change it")
    return cast


def _column(values: np.ndarray) -> np.ndarray:
    """[R] or [R, 1] -> [R]; more columns stay."""
    return values.reshape(-1) if values.ndim == 1 or values.shape[1] == 1 else values


def _write(buffer: Path, index: int, arrays: Mapping[str, np.ndarray]) -> Path:
    """Check an episode and write it."""
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    for key in {"reward", "discount"} & arrays.keys():
        arrays[key] = arrays[key].reshape(len(arrays[key]), -1)  # ExoRL's own loaders expect a column
    length = len(arrays["observation"]) - 1 if "observation" in arrays else 0
    path = buffer / f"episode_{index:06d}_{length}.npz"
    _check_keys(path, arrays)
    for key, values in arrays.items():
        _check_header(path, key, npz.Header(values.dtype, values.shape), length)
        _check_values(path, key, values)
    buffer.mkdir(parents=True, exist_ok=True)
    npz.write(path, arrays)
    return path


def _read(path: Path, keys: Sequence[str] = (), name: str = "", sizes: Sizes | None = None) -> dict[str, np.ndarray]:
    """Some arrays of an episode, or all that the file has; nothing is inflated before its size is seen to be right."""
    match = EPISODE_NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: not the name of an episode, expected episode_<6 digits>_<steps>.npz")
    archive = npz.Archive(path)
    _check_keys(path, archive.keys)
    members = {key: archive.open(key) for key in keys or archive.keys}
    columns = sizes._asdict() if sizes else {}
    for key, member in members.items():
        _check_header(path, key, member.header, int(match[2]), name, columns.get(key, 0))
    arrays = {key: member.array() for key, member in members.items()}
    for key, values in arrays.items():
        _check_values(path, key, values)
    return arrays


def _check_keys(path: Path, keys: Iterable[str]) -> None:
    """Raise ValueError unless the five arrays are there."""
    for key in DTYPES:
        if key not in keys:
            raise ValueError(f"{path}: {key} is missing, expected {', '.join(DTYPES)}; got {', '.join(keys)}")


def _check_header(path: Path, key: str, header: npz.Header, length: int, name: str = "", columns: int = 0) -> None:
    """Raise ValueError unless an array is one of an episode of `length` steps, with so many columns (0: any)."""
    dtype, shape = header.dtype, header.shape
    if key in DTYPES and dtype != DTYPES[key]:
        raise ValueError(f"{path}: {key} is {dtype}, expected {DTYPES[key]}")
    rows = (length + 1,) if key in DTYPES else (length, length + 1)
    if not shape or shape[0] not in rows or length == 0:
        raise ValueError(f"{path}: {key} has shape {shape}, expected {length} steps and the reset row")
    if key in DTYPES and (len(shape) > 2 or (len(shape) == 1 and key not in ("reward", "discount"))):
        raise ValueError(f"{path}: {key} has shape {shape}, expected [rows, columns]")
    if columns and shape[1] != columns:
        raise ValueError(f"{path}: {key} has {shape[1]} columns, {name} expects {columns}")


def _check_values(path: Path, key: str, values: np.ndarray) -> None:
    """Raise ValueError where a number is not finite, or an action outside [-1, 1]."""
    if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ValueError(f"{path}: {key} is not finite in row {row}; remove the file, or fetch it again")
    if key == "action" and (most := float(np.abs(values).max(initial=0.0))) > 1 + ROUNDING:
        raise ValueError(f"{path}: action reaches {most:g}, expected all within [-1, 1]")


def first(files: list[Path], max_steps: int) -> list[Path]:
    """The first files that together have at most so many steps; all for 0."""
    return files[: fitting([*map(_steps, files)], max_steps)]


def _steps(path: Path) -> int:
    """The number of steps that an episode's name gives."""
    return int(path.stem.rpartition("_")[2])
