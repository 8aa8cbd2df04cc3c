"""The episodes of a downloaded ExoRL archive, unpacked: only they, only into their folder, only as much as declared."""

import errno
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data import exorl

LARGEST_RATIO = 50
"""How many times its own size an archive may unpack to; the release's episodes are compressed already."""
CHUNK = 1 << 20
_LEFT_FREE = 1 << 26
"""Bytes that unpacking leaves free on the disk."""


UNPACKING = "unpacking"
"""A file beside `buffer` until all episodes of the archive are there."""


class Unpacked(NamedTuple):
    """What became of an archive's members."""

    written: int
    kept: int
    """Episodes that were there already, the same."""
    left_out: int
    """Members that are no episodes: videos."""


def unzip(archive: Path, folder: Path) -> Unpacked:
    """Unpack `buffer/episode_*.npz` of an archive into `folder`, each in one move; a file that differs is replaced.

    Stopped at any time, it goes on where it stopped. All members are checked before the first is written, so that
    an archive with one bad name leaves nothing behind.

    Raises:
      ValueError: one line that begins with the archive: it is damaged or no archive, leads out of the folder, holds
        links, two of one episode, none at all, or more than an honest archive can.
      OSError: the disk has not the room.
    """
    if not zipfile.is_zipfile(archive):
        raise ValueError(f"{archive}: truncated, or not a zip file")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            episodes = _episodes(archive, members)
            buffer = folder / "buffer"
            buffer.mkdir(parents=True, exist_ok=True)
            missing = {name: info for name, info in episodes.items() if not _is_there(buffer / name, info)}
            size = sum(info.file_size for info in missing.values())
            _check_space(archive, folder, size)
            (folder / UNPACKING).touch()
            with tqdm(desc=f"unpacking {archive.name}", total=size, unit="B", unit_scale=True, disable=None) as bar:
                for name, info in missing.items():
                    _write(opened, info, buffer / name)
                    bar.update(info.file_size)
            (folder / UNPACKING).unlink()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, UnicodeError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{archive}: cannot be unpacked ({reason})") from error
    return Unpacked(len(missing), len(episodes) - len(missing), len(members) - len(episodes))


def _episodes(archive: Path, members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The members that are episodes, by file name. Raises ValueError unless the whole archive is honest."""
    episodes: dict[str, zipfile.ZipInfo] = {}
    numbers = set()
    size = archive.stat().st_size
    for info in members:
        name = info.orig_filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.startswith("/") or ".." in name.split("/") or re.search(r"\\|\0|^[A-Za-z]:", name):
            raise ValueError(f"{archive}: {name!r} leads out of the folder; nothing was unpacked")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{archive}: {name!r} is a link or a device, expected a file; nothing was unpacked")
        folder, _, plain = name.removeprefix("./").rpartition("/")
        match = exorl.EPISODE_NAME.fullmatch(plain)
        if folder != "buffer" or match is None:
            continue
        if int(match[1]) in numbers:
            raise ValueError(f"{archive}: holds episode {int(match[1])} twice, expected it once; nothing was unpacked")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The other methods unpack without a bound on memory.
            raise ValueError(f"{archive}: {name!r} is encrypted or not deflated; nothing was unpacked")
        if not 0 <= info.header_offset < size:
            raise ValueError(f"{archive}: {name!r} begins outside of the archive; nothing was unpacked")
        numbers.add(int(match[1]))
        episodes[plain] = info
    if not episodes:
        raise ValueError(f"{archive}: no episodes, expected members named buffer/episode_<6 digits>_<steps>.npz")
    packed, unpacked = (sum(getattr(i, of) for i in episodes.values()) for of in ("compress_size", "file_size"))
    if packed > size:
        raise ValueError(f"{archive}: its members overlap; nothing was unpacked")
    if unpacked > LARGEST_RATIO * size:
        raise ValueError(
            f"{archive}: {size:,} bytes would unpack to {unpacked:,}, expected at most {LARGEST_RATIO} times as "
            "many; nothing was unpacked"
        )
    return episodes


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    """Whether a member has been unpacked, every byte of it."""
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Unpack one member; zipfile reads no more of it than declared, and compares its checksum."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with archive.open(info) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    """Raise OSError unless so many bytes fit on the disk."""
    free = shutil.disk_usage(folder).free - _LEFT_FREE
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{needed / 1e6:,.0f} MB needed to unpack {archive.name}, {max(free, 0) / 1e6:,.0f} MB free; make room",
            str(folder),
        )
