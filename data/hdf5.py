"""HDF5 files of unknown origin, read so that a bad one is an error of one line that begins with the file.

The HDF5 library itself does not stand up to damaged files: a few changed bits in the description of an array corrupt
the memory of the process that opens it. So another process opens them (data.hdf5_reader), and arrays come over a pipe.

The format knows no checksum of the whole. What is found when read: damaged chunks of files that are compressed (zlib's
own checksum) or written with fletcher32, pieces never written (HDF5 would make them up as zeros), links out of the
file, types that are not plain numbers, and shapes beyond what the file can hold. What is not: a changed bit in numbers
stored plain, or in the description of a file written without checksums. A known hash finds that too.
"""

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

AHEAD = 16_384
"""Rows read at once."""
_HEAD = struct.Struct("<QQ")


def send(to: IO[bytes], message: dict[str, Any], content: bytes = b"") -> None:
    """A message as JSON, and bytes; before them, how long each is."""
    text = json.dumps(message).encode()
    to.write(_HEAD.pack(len(text), len(content)) + text)
    to.write(content)
    to.flush()


def receive(source: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """What was sent; None where nobody is left to send."""
    head = _exactly(source, _HEAD.size)
    if len(head) < _HEAD.size:
        return None
    text, content = (_exactly(source, size) for size in _HEAD.unpack(head))
    return json.loads(text), content


def _exactly(source: IO[bytes], size: int) -> bytes:
    """Pipes give what they have."""
    parts = []
    while size and (part := source.read(min(size, 2**24))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Source:
    """An open file. Raises OSError when it cannot be opened at all, ValueError for everything else."""

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb"):  # HDF5's own words for an absent file are long
            pass
        self._reader: _Reader | None = _idle.pop() if _idle else _Reader()
        try:
            self._ask({"open": str(path.absolute()), "name": str(path)})
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing can be read afterwards."""
        if self._reader is not None:
            self._ask({"close": True})

    def names(self, group: str) -> list[str]:
        """What the group holds by name; empty where there is no such group."""
        return list(self._ask({"names": group})[0]["names"])

    def column(self, name: str) -> "Column | None":
        """An array of the file, checked before anything of it is read; None where there is none."""
        answer, _ = self._ask({"column": name})
        return Column(self, name, tuple(answer["shape"]), np.dtype(answer["dtype"])) if answer else None

    def rows(self, column: "Column", first: int, last: int) -> np.ndarray:
        """Rows `first` to `last - 1`; read-only."""
        _, content = self._ask({"rows": [column.name, first, last]})
        return np.frombuffer(content, column.dtype).reshape(-1, *column.shape[1:])

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        reader, self._reader = self._reader, None
        if reader is None:
            raise ValueError(f"{self.path}: cannot be read any more, it was closed or could not be read before")
        answer, content = reader.ask(request)
        code = answer.get("ended")
        if code is None:
            self._reader = reader
        elif code == 0:
            _idle.append(reader)
        else:
            reader.close()  # it may have taken the request for that of another file
            raise ValueError(f"{self.path}: cannot be read (HDF5 {_ended(code)}); remove it, or fetch it again")
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer, content


def _ended(code: int) -> str:
    """How a process ended that reads a file."""
    return "took too long" if code == -signal.SIGALRM else f"failed with code {code}"


class Column:
    """One array of a file, read some rows ahead."""

    def __init__(self, source: Source, name: str, shape: tuple[int, ...], dtype: np.dtype):
        self.name, self.shape, self.dtype = name, shape, dtype
        self._source = source
        self._first, self._values = 0, np.empty((0, *shape[1:]), dtype)

    def rows(self, first: int, last: int) -> np.ndarray:
        """A copy of rows `first` to `last - 1`."""
        if first < self._first or last > self._first + len(self._values):
            until = min(max(last, first + AHEAD), self.shape[0])
            self._first, self._values = first, self._source.rows(self, first, until)
        return self._values[first - self._first : last - self._first].copy()


class _Reader:
    """A process that reads one file after another."""

    def __init__(self) -> None:
        root = Path(__file__).parent.parent
        paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "data.hdf5_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is for this process; that one ends with its input
        )

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """The answer. Raises RuntimeError when the process is gone, which is no fault of the file."""
        try:
            send(self._process.stdin, request)  # type: ignore[arg-type]
            if received := receive(self._process.stdout):  # type: ignore[arg-type]
                return received
        except BaseException:  # half an answer may be left in the pipe
            self.close()
            raise
        self.close()
        raise RuntimeError(f"the process that reads HDF5 ended with code {self._process.returncode}")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        with self._process:  # closes the pipes and waits
            pass


_idle: list[_Reader] = []


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()
