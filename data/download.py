"""Files from the web, whole or not at all: pooch checks and places them, and a download that was cut goes on.

A file on its way has a folder to itself, `<name>.download` beside where it will lie: `part` is what has arrived,
`origin.json` which version of the file that is. The folder may be deleted at any time.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pooch
import requests
from tqdm import tqdm

TRIES = 5
"""Failures in a row, without a byte between them, after which a download is given up."""
TIMEOUT = 30.0
"""Seconds without a byte that count as a failure."""
CHUNK = 1 << 16
"""Bytes written at a time; a cut loses less than that."""
_LEFT_FREE = 1 << 26
"""Bytes that a download leaves free on the disk."""


class Remote(NamedTuple):
    """A published file."""

    url: str
    sha256: str | None = None
    bytes: int = 0
    """0 where unknown."""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


def stage(path: Path) -> Path:
    """The folder of a file on its way to `path`."""
    return path.with_name(f"{path.name}.download")


def download(remote: Remote, folder: Path, *, by_hand: str, copies: int = 1) -> Path:
    """The file in its own `folder`, whole and checked; what has arrived of it earlier is gone on with.

    Args:
      by_hand: what to do where the file cannot be had from here, for the message.
      copies: how many times its size must be free on the disk.

    Raises:
      ConnectionError: the server cannot be reached, refuses, or breaks off again and again; what has arrived is kept.
      ValueError: the file is not the one expected; nothing of it is kept.
      OSError: the disk is full, or the folder cannot be written; what has arrived is kept.
    """
    pooch.get_logger().setLevel("WARNING")
    there = pooch.create(folder, "", registry={remote.name: remote.sha256}, urls={remote.name: remote.url})
    resuming = Resuming(remote, copies)
    try:
        path = Path(there.fetch(remote.name, downloader=resuming))
    except requests.RequestException as error:
        raise ConnectionError(f"{remote.url}: {_reason(error)}; run this again, or {by_hand}") from error
    except ValueError as error:
        shutil.rmtree(folder)
        raise ValueError(f"{remote.url}: {str(error).rstrip('.')}; run this again, or {by_hand}") from error
    finally:
        part = folder / "part"
        if resuming.began and part.exists() and not part.stat().st_size:
            shutil.rmtree(folder)
    part.unlink(missing_ok=True)
    return path


def place(remote: Remote, path: Path, signature: bytes, *, by_hand: str) -> None:
    """Download a file that begins with `signature` to `path`, in one move; raises as `download` does."""
    arrived = download(remote, stage(path), by_hand=by_hand)
    with arrived.open("rb") as file:
        begins = file.read(len(signature))
    if begins != signature:
        shutil.rmtree(stage(path))
        raise ValueError(f"{remote.url}: the file begins with {begins!r}, expected {signature!r}; {by_hand}")
    arrived.replace(path)
    shutil.rmtree(stage(path))


class Resuming:
    """A downloader for pooch that goes on where an earlier one stopped; pooch's own begin anew."""

    def __init__(self, remote: Remote, copies: int = 1):
        self._remote, self._copies = remote, copies
        self.began = False
        """Whether the folder is this download's: no other process is writing into it."""

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        """Fill `output_file`, which lies in the folder that the download has to itself."""
        part = Path(output_file).with_name("part")
        part.touch()
        with _naming(part), part.open("r+b") as file:
            _lock(file, part)
            self.began = True
            file.seek(0, os.SEEK_END)
            failures = 0
            while True:
                before = file.tell()
                try:
                    self._receive(url, file, part.with_name("origin.json"))
                    break
                except requests.RequestException as error:
                    failures = 1 if file.tell() > before else failures + 1
                    if failures == TRIES or not _may_pass(error, file.tell() > 0):
                        raise
                    time.sleep(2 ** (failures - 1))
        os.unlink(output_file)
        try:
            os.link(part, output_file)  # a stop while pooch computes the checksum then loses nothing
        except OSError:  # a file system without links
            part.replace(output_file)

    def _receive(self, url: str, file: BinaryIO, note: Path) -> None:
        """Ask once for what is missing. Raises requests.RequestException when the connection fails."""
        origin = _read_origin(note, url) or _restart(file)
        if origin and file.tell() == origin["bytes"]:
            return
        response = _request(url, file.tell(), origin)
        if origin and not _goes_on(response, file.tell(), origin):
            origin = _restart(file)
            if response.status_code in (206, 416):  # a part, but of another version of the file
                response.close()
                response = _request(url, 0, origin)
        with response:
            response.raise_for_status()
            origin = origin or self._begin(response, url, note)
            size = origin["bytes"]
            self._check_space(note.parent, size * self._copies - file.tell())
            with _bar(self._remote.name, file.tell(), size) as bar:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if size and file.tell() != size:
            raise requests.ConnectionError(f"{file.tell():,} bytes arrived of {size:,}")

    def _begin(self, response: requests.Response, url: str, note: Path) -> dict[str, Any]:
        """Write down which version of the file is on its way. Raises ValueError when it has not the size expected."""
        size = int(response.headers.get("Content-Length", 0))
        if self._remote.bytes and size and size != self._remote.bytes:
            raise ValueError(f"the server offers {size:,} bytes, expected {self._remote.bytes:,}")
        etag = response.headers.get("ETag", "")
        strong = etag if not etag.startswith("W/") else ""
        validator = strong or response.headers.get("Last-Modified", "")
        origin = {"url": url, "bytes": size, "etag": etag, "validator": validator}
        note.write_text(json.dumps(origin))
        return origin

    def _check_space(self, folder: Path, needed: int) -> None:
        """Raise OSError unless the rest of the file fits, and what it unpacks to."""
        free = shutil.disk_usage(folder).free - _LEFT_FREE
        if free < needed:
            what = self._remote.name + " and what it unpacks to" * (self._copies > 1)
            raise OSError(
                errno.ENOSPC,
                f"{needed / 1e6:,.0f} MB needed for {what}, {max(free, 0) / 1e6:,.0f} MB free; "
                "make room, or choose another --data_dir",
                str(folder),
            )


def _request(url: str, have: int, origin: dict[str, Any]) -> requests.Response:
    """Ask for the bytes from `have` on, or for the whole file where it is no longer the one that was begun."""
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if origin["validator"]:
            headers["If-Range"] = origin["validator"]
    return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)


def _goes_on(response: requests.Response, have: int, origin: dict[str, Any]) -> bool:
    """Whether an answer may be appended to what has arrived; an answer that failed says nothing of it."""
    if response.status_code >= 400 and response.status_code != 416:
        return True
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (
        response.status_code == 206
        and found is not None
        and (int(found[1]), int(found[2])) == (have, origin["bytes"])
        and response.headers.get("ETag", origin["etag"]) == origin["etag"]
    )


def _read_origin(note: Path, url: str) -> dict[str, Any]:
    """Which version of the file has begun to arrive; empty where that is not known, or it cannot be gone on with."""
    try:
        origin = json.loads(note.read_text())
        return origin if origin["url"] == url and origin["bytes"] and {"etag", "validator"} <= origin.keys() else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _restart(file: BinaryIO) -> dict[str, Any]:
    """Drop what has arrived; nothing is known of it."""
    file.seek(0)
    file.truncate()
    return {}


def _may_pass(error: requests.RequestException, begun: bool) -> bool:
    """Whether asking again may help: without an answer only where there was one before."""
    if error.response is None:
        return begun
    return error.response.status_code >= 500 or error.response.status_code in (408, 429)


def _reason(error: BaseException) -> str:
    """Why a request failed, in few words."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _lock(file: BinaryIO, part: Path) -> None:
    """Keep another process from writing into the same file; the system lets go when this one ends."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        return
    except BlockingIOError as error:
        raise OSError(error.errno, "another process is downloading it", str(part)) from error


def _bar(name: str, have: int, size: int) -> "tqdm[Any]":
    """Bytes, rate and time left, on a terminal."""
    return tqdm(desc=name, initial=have, total=size or None, unit="B", unit_scale=True, disable=None)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the disk, with the file."""
    try:
        yield
    except requests.RequestException:
        raise
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
