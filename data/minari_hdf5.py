"""The HDF5 file of a Minari data set: written with checksums, and checked before Minari reads it.

A group `episode_<i>` for every episode, with attributes `id` and `total_steps`; in it observations [T+1, O], actions
[T, A], rewards, terminations and truncations [T], and a group `infos` of further arrays and groups.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data import hdf5_new
from data.episode import Episode, check
from data.hdf5_reader import ALLOWANCE, EXPANSION, FILTERS

FILE = "main_data.hdf5"
REPEATED = "last_observation_repeated"
"""Set for an episode whose source did not hold what followed the last action."""
DEPTH = 8
"""Groups within groups are followed so far."""
CHUNK_BYTES = 2**24


def check_file(path: Path, episodes: int) -> None:
    """Raise ValueError, OSError or KeyError unless there are so many episodes, all of them whole and in this file.

    HDF5 itself makes up zeros for what was never written, opens other files that a file names, loads filters that it
    asks for, and trusts any size.
    """
    with h5py.File(path, "r", locking="best-effort") as file:
        if len(file) != episodes:
            raise ValueError(f"{len(file)} episodes, expected {episodes}, as metadata.json says")
        left = EXPANSION * path.stat().st_size + ALLOWANCE
        for array in _arrays(file):
            size, chunks = math.prod(array.shape) * array.dtype.itemsize, array.chunks
            left -= max(size, math.prod(chunks) * array.dtype.itemsize if chunks else 0)
            if left < 0:
                raise ValueError(f"{array.name} of shape {array.shape} would unfold to {EXPANSION} times the file")
            if array.is_virtual or array.external:
                raise ValueError(f"{array.name} lies in other files")
            stored, expected = array.id.get_storage_size(), size
            if chunks:
                stored = array.id.get_num_chunks()
                expected = math.prod(-(-rows // of) for rows, of in zip(array.shape, chunks, strict=True))
            if stored < expected:
                raise ValueError(f"{array.name} is {stored} of {expected} parts")
            plist = array.id.get_create_plist()
            if not {plist.get_filter(i)[0] for i in range(plist.get_nfilters())} <= set(FILTERS):
                raise ValueError(f"{array.name} needs a plug-in to be read")
            if array.dtype.kind in "fiu" and array.id.get_type() != h5py.h5t.py_create(array.dtype):
                raise ValueError(f"{array.name} has numbers unlike any that NumPy writes")


def _arrays(group: Any, depth: int = 0) -> Iterator[Any]:
    """Every array below a group, however deep."""
    for key in group:
        link = type(group.get(key, getlink=True)).__name__
        if link != "HardLink" or depth > DEPTH:
            raise ValueError(f"{group.name}/{key} is a {link}, expected arrays in at most {DEPTH} groups")
        value = group[key]
        if hasattr(value, "keys"):
            yield from _arrays(value, depth + 1)
        else:
            yield value


def write_file(path: Path, id: str, episodes: Iterable[Episode]) -> dict[str, Any]:
    """Write the episodes, each array with a checksum; return what metadata.json has to say of them.

    Raises ValueError when there are none, or when one is amiss or has other columns or dtypes than the first, OSError
    when the disk fails.
    """
    count, steps, most, first = 0, 0, 1.0, None
    with hdf5_new.create(path) as (file, check_disk):
        for episode in episodes:
            where = f"{id}: episode {count}"
            check(where, episode)
            columns = [(values.dtype, values.shape[1]) for values in (episode.observations, episode.actions)]
            first = first or columns
            if columns != first or any(dtype.kind != "f" for dtype, _ in columns):
                raise ValueError(
                    f"{where}: observations and actions are {columns}, expected floats, as the first, {first}"
                )
            _write_episode(file.create_group(f"episode_{count}"), where, count, episode)
            check_disk()
            count, steps = count + 1, steps + episode.length
            most = max(most, float(np.abs(episode.actions).max()))  # rounding: Minari checks actions by their space
    if first is None:
        raise ValueError(f"{id}: no episodes, expected at least one")
    sides = zip(("observation_space", "action_space"), first, (math.inf, most), strict=True)
    spaces = {key: _box(dtype, size, bound) for key, (dtype, size), bound in sides}
    return {"total_episodes": count, "total_steps": steps} | spaces


def _box(dtype: np.dtype, size: int, bound: float) -> str:
    """A space of vectors as Minari writes it down."""
    low, high = [-bound] * size, [bound] * size
    return json.dumps({"type": "Box", "dtype": str(dtype), "shape": [size], "low": low, "high": high})


def _write_episode(group: Any, where: str, index: int, episode: Episode) -> None:
    """Write one episode into its group."""
    observations, last = episode.observations, np.arange(episode.length) == episode.length - 1
    group.attrs.update({"id": index, "total_steps": episode.length})
    if len(observations) == episode.length:
        group.attrs[REPEATED] = True
        observations = np.concatenate((observations, observations[-1:]))
    arrays = {
        "observations": observations,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": last & episode.terminated,
        "truncations": last & (not episode.terminated),
    }
    group.create_group("infos")
    for key, values in (arrays | {f"infos/{key}": values for key, values in episode.extras.items()}).items():
        if values.dtype.kind not in "biuf" or values.itemsize > 8:
            raise ValueError(f"{where}: {key} is {values.dtype}, expected numbers of at most 64 bits")
        if not {"", ".", ".."}.isdisjoint(key.split("/")) or key in group:
            raise ValueError(f"{where}: an array is named {key!r}, expected names of their own between slashes")
        rows = min(len(values), max(1, CHUNK_BYTES // max(1, values[:1].nbytes)))
        chunks = (rows, *values.shape[1:]) if values.size else None
        group.create_dataset(key, data=values, chunks=chunks, fletcher32=chunks is not None)
