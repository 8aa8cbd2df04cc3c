"""Reads one HDF5 file at a time for data.hdf5, in a process that may die: python -m data.hdf5_reader is a server.

It forks for every file, so that what a bad one does to memory is gone with it.
"""

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from data.hdf5 import receive, send

PATIENCE = 300
"""Seconds that one request may take; HDF5 is known to loop on some files."""
EXPANSION = 32
"""How many times its size a file may unfold to, and so the most memory it can ask for. Data of an Ant whose contact
forces are zeros unfold to 3.3 times their size."""
ALLOWANCE = 2**22
"""Bytes that any file may unfold to: short files of zeros compress well."""
COMPRESSION = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF}
FILTERS = COMPRESSION | {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
"""Those that h5py brings along; others are plug-ins: code found on the disk."""


class File:
    """An open file. Raises ValueError, one line that begins with `name`."""

    def __init__(self, path: Path, name: str):
        self.name = name
        self._size = path.stat().st_size
        self._left = EXPANSION * self._size + ALLOWANCE
        self._places: set[int] = set()
        with self.errors():
            self._file = h5py.File(path, "r", locking="best-effort")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """HDF5's many exceptions, as one ValueError."""
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.name}: cannot be read ({text}); remove it, or fetch it again") from error

    def names(self, group: str) -> list[str]:
        """What the group holds by name; empty where there is no such group."""
        with self.errors():
            found = self._inside(group)
            return list(found) if isinstance(found, h5py.Group) else []

    def column(self, name: str) -> h5py.Dataset | None:
        """An array of the file, checked before anything of it is read; None where there is none."""
        with self.errors():
            dataset = self._inside(name)
            if dataset is None:
                return None
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(f"{name} is not an array of this file")
            self._check(name, dataset)
        return dataset

    def _inside(self, name: str) -> h5py.Group | h5py.Dataset | None:
        """What lies at a path of the file; None where nothing does. Raises ValueError for what a link leads to."""
        found = self._file
        for key in filter(None, name.split("/")):
            link = found.get(key, getlink=True) if isinstance(found, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{name} is not in this file")
            found = found[key]
        return found

    def _check(self, name: str, dataset: h5py.Dataset) -> None:
        """Raise ValueError unless the array is numbers that the file really holds."""
        dtype, shape, chunks, stored = dataset.dtype, dataset.shape, dataset.chunks, dataset.id
        if dtype.kind not in "fiub" or dtype.itemsize > 8 or not shape:
            raise ValueError(f"{name} holds {dtype} of shape {shape}, expected rows of plain numbers")
        if dtype.byteorder == ">" or not stored.get_type().equal(h5py.h5t.py_create(dtype, logical=True)):
            raise ValueError(f"{name} holds {dtype} in a form of its own, expected little-endian IEEE numbers")
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"{name} lies in other files")
        self._left -= max(math.prod(shape), math.prod(chunks or ())) * dtype.itemsize
        if self._left < 0:
            raise ValueError(
                f"{name} claims shape {shape}, which is more than {EXPANSION} times what the file can hold"
            )
        if not set(_filters(dataset)) <= FILTERS:
            raise ValueError(f"{name} is stored with filters {_filters(dataset)}, expected none but {FILTERS}")
        if chunks:
            self._check_chunks(name, dataset)
        elif stored.get_storage_size() != (expected := math.prod(shape) * dtype.itemsize):
            raise ValueError(f"{name} holds {stored.get_storage_size()} bytes, expected {expected} for shape {shape}")
        elif (offset := stored.get_offset()) is not None:
            self._occupy(name, offset)

    def _check_chunks(self, name: str, dataset: h5py.Dataset) -> None:
        """Raise ValueError unless every chunk is there, once, in a place of its own."""
        starts = [range(0, size, chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
        expected, got = math.prod(map(len, starts)), dataset.id.get_num_chunks()
        seen: set[tuple[int, ...]] = set()
        filters, plain = _filters(dataset), math.prod(dataset.chunks) * dataset.dtype.itemsize

        def visit(chunk: h5py.h5d.StoreInfo) -> None:
            if chunk.byte_offset + chunk.size > self._size:
                raise ValueError(f"{name} goes on beyond the end of the file")
            self._occupy(name, chunk.byte_offset)
            applied = {kind for i, kind in enumerate(filters) if not chunk.filter_mask >> i & 1}
            if not applied & COMPRESSION and chunk.size != plain + 4 * (h5py.h5z.FILTER_FLETCHER32 in applied):
                raise ValueError(f"{name} has a chunk of {chunk.size} bytes, expected {plain}")
            if all(place in along for place, along in zip(chunk.chunk_offset, starts, strict=True)):
                seen.add(chunk.chunk_offset)

        if got == expected:
            dataset.id.chunk_iter(visit)
            got = len(seen)
            for place in seen:  # what a search in a damaged index does not find would be read as zeros
                dataset.id.read_direct_chunk(place)
        if got != expected:
            raise ValueError(f"{name} holds {got} chunks, expected {expected} for shape {dataset.shape}")

    def _occupy(self, name: str, place: int) -> None:
        if place in self._places:
            raise ValueError(f"{name} shares the bytes from {place} on with other numbers")
        self._places.add(place)


def _filters(dataset: h5py.Dataset) -> list[int]:
    """What every chunk has passed through, in order."""
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]


def serve(path: Path, name: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer what is asked of a file until told to close it, or nobody is left to ask."""
    arrays: dict[str, h5py.Dataset] = {}
    request: dict[str, Any] | None = {"open": True}
    file = None
    while request is not None and "close" not in request:
        signal.alarm(PATIENCE)
        answer: dict[str, Any] = {}
        content = b""
        try:
            match request:
                case {"open": _}:
                    file = File(path, name)
                case {"names": group} if file:
                    answer = {"names": file.names(group)}
                case {"column": key} if file:
                    if key not in arrays and (array := file.column(key)) is not None:
                        arrays[key] = array
                    if key in arrays:
                        answer = {"shape": arrays[key].shape, "dtype": arrays[key].dtype.str}
                case {"rows": [key, first, last]} if file:
                    with file.errors():
                        content = arrays[key][first:last].tobytes()
        except ValueError as error:
            answer = {"error": str(error)}
        signal.alarm(0)  # what follows takes as long as whoever asks
        send(answers, answer, content)
        request = (receive(requests) or (None, b""))[0]


def main() -> None:
    """A process for every file that is asked for, one after another; how it ended is the last answer."""
    with open(0, "rb", buffering=0) as requests, open(1, "wb") as answers:  # unbuffered: forks read on from here
        while received := receive(requests):
            process = os.fork()
            if process == 0:
                serve(Path(received[0]["open"]), received[0]["name"], requests, answers)
                os._exit(0)
            _, status = os.waitpid(process, 0)
            send(answers, {"ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    main()
