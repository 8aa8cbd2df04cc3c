"""npz files that others wrote: read without unpickling, without inflating more than they may, and to the last CRC.

NumPy's own reader takes anything that is no zip for a pickle, allocates what a header asks for before it looks at the
size of the member, and stops before the CRC of one that holds more than its header says.
"""

import contextlib
import copy
import io
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

INFLATION = 20
"""How often its own size a file may inflate to, beside ALLOWANCE: numbers of a simulator shrink to a half at most."""
ALLOWANCE = 2**24
"""Bytes that any file may inflate to: columns of zeros or ones shrink to nothing."""
HEAD = 4096
"""Bytes in which the header of an array ends."""
KEY = re.compile(r"[\w./ -]+")
"""Names that a zip keeps as they are."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, OverflowError, MemoryError),
    *(RuntimeError, SyntaxError, tokenize.TokenError),  # encrypted, a method unknown; a header that is no literal
)


class Header(NamedTuple):
    """What an array is, known before it is read."""

    dtype: np.dtype
    shape: tuple[int, ...]


class Archive:
    """The arrays of an npz file by key; the file itself is in memory, each array is inflated when it is asked for.

    All methods, and those of a Member, raise ValueError, one line that begins with the file, where it is damaged, holds
    Python objects, or would inflate to more than INFLATION times its size and ALLOWANCE; OSError when it cannot be
    opened.
    """

    def __init__(self, path: Path):
        content = path.read_bytes()
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError(f"{path}: truncated, or not an npz file; remove it, or fetch it again")
        self.path = path
        self._left = INFLATION * len(content) + ALLOWANCE
        with self.readable():
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            members = self._zip.infolist()
            self._members = {member.filename.removesuffix(".npy"): member for member in members}
            if len(self._members) < len(members):
                raise ValueError("two arrays of one name")

    @property
    def keys(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self._members)

    def open(self, key: str) -> "Member":
        """One array, of which no more than the header is inflated."""
        with self.readable():
            member = self._members[key]
            if not member.filename.endswith(".npy"):
                raise ValueError(f"{key} is not an array")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{key} is compressed by method {member.compress_type}, expected none or deflate")
            stored = copy.copy(member)  # as it lies in the file: zipfile would inflate in pieces, half as fast
            stored.compress_type, stored.file_size = zipfile.ZIP_STORED, member.compress_size
            stored.CRC = None  # type: ignore[assignment]
            return Member(self, key, member, self._zip.read(stored))

    def array(self, key: str) -> np.ndarray:
        """One array, read-only."""
        return self.open(key).array()

    def reserve(self, size: int) -> None:
        """Count the bytes that are to be inflated."""
        self._left -= size
        if self._left < 0:
            raise ValueError(f"would inflate to more than {INFLATION} times its size")

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Whatever a damaged file makes the libraries raise, in one line."""
        try:
            yield
        except _BROKEN as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.path}: cannot be read ({reason}); remove it, or fetch it again") from error


class Member:
    """One array of an archive."""

    def __init__(self, archive: Archive, key: str, info: zipfile.ZipInfo, content: bytes):
        self._archive, self._key, self._info = archive, key, info
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if info.compress_type == zipfile.ZIP_DEFLATED else None
        self._head = self._inflate.decompress(content, HEAD) if self._inflate else content
        file = io.BytesIO(self._head[:HEAD])
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"{key} has npy version {version}, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise ValueError(f"{key} holds Python objects, which only pickle could read")
        size = file.tell() + math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != info.file_size:
            raise ValueError(f"{key} has {info.file_size} bytes, expected {size} of shape {shape}")
        self.header = Header(dtype, shape)
        self._offset = file.tell()
        self._order: Literal["C", "F"] = "F" if fortran else "C"

    def array(self) -> np.ndarray:
        """All of it, read-only."""
        with self._archive.readable():
            size, content, whole = self._info.file_size, self._head, True
            if self._inflate:
                self._archive.reserve(size)
                # One byte more than there should be: else the end of the stream is not seen. 0 would be no limit.
                content += self._inflate.decompress(self._inflate.unconsumed_tail, max(1, size + 1 - len(content)))
                whole = self._inflate.eof
            if not whole or len(content) != size or zlib.crc32(content) != self._info.CRC:
                raise ValueError(f"{self._key} is not of the size and the CRC that the directory says")
            return np.ndarray(self.header.shape, self.header.dtype, content, self._offset, order=self._order)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A new npz file, not compressed, atomically: a reader or a crash sees all of it or nothing.

    Raises ValueError for a key or an array that would not come back, OSError with the file.
    """
    for key, values in arrays.items():
        if not KEY.fullmatch(key) or values.dtype.hasobject:
            raise ValueError(f"{path}: {key!r} of dtype {values.dtype}, expected a plain name and plain numbers")
    with _replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, values in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, version=(1, 0), allow_pickle=False)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place, whole and on disk, when the block ends, and vanishes if it fails."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
