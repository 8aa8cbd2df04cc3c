"""New HDF5 files, on disks that may fill up.

The HDF5 library cannot take a failed write: some it passes over in silence, and at the end it brings down the
interpreter. So it writes into a file that keeps its failures to itself until they are asked for.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py


class _Sink(io.FileIO):
    """A file that remembers what went wrong, and answers as if nothing had."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """All of it: the system may take less at once."""
        left = memoryview(data).cast("B")
        with self._remembering():
            while left:
                left = left[super().write(left) :]
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        with self._remembering():
            return super().truncate(size)
        return size or 0

    def check(self) -> None:
        """Raise the first failure."""
        if self.failure is not None:
            raise OSError(self.failure.errno, self.failure.strerror, self.name)

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error


@contextlib.contextmanager
def create(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new file, and a function that raises OSError, with the path, once a write has failed: to be called now and
    then. At the end of the block the file is on disk, or that error is raised.

    The format is the oldest whose own structures have checksums; HDF5 1.10 and newer read it.
    """
    with _Sink(path, "x+") as sink:
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            yield file, sink.check
        sink.check()
        os.fsync(sink.fileno())
