"""Downloads from a small server on loopback that cuts, lies and forgets."""

import errno
import hashlib
import os
import socket

import numpy as np
import pytest

from data import download
from data.download import Remote
from tests.loopback import serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FIRST = 15 * download.CHUNK
"""What is kept of the first 1,000,000 bytes."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    monkeypatch.setattr(download, "TIMEOUT", 300.0)  # a busy machine is no failure of the network
    with serving(CONTENT) as server:
        yield server


def get(server, folder, sha256=SHA256, size=0, copies=1):
    remote = Remote(server.url, sha256, size)
    return download.download(remote, folder, by_hand="put it into HERE by hand", copies=copies)


def test_a_download_is_the_file(server, tmp_path):
    path = get(server, tmp_path / "stage", size=len(CONTENT))
    assert path == tmp_path / "stage" / "rnd.zip" and path.read_bytes() == CONTENT
    assert server.requests == [(None, len(CONTENT), None)]
    get(server, tmp_path / "stage")
    assert len(server.requests) == 1  # the second time it is there


def test_a_cut_download_goes_on_where_it_was_cut(server, tmp_path):
    server.cuts = [1_000_000, 500_000]
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    second = FIRST + 7 * download.CHUNK  # 500,000 bytes hold 7 whole chunks
    assert server.requests == [
        (None, 1_000_000, None),
        (f"bytes={FIRST}-", 500_000, server.etag),
        (f"bytes={second}-", len(CONTENT) - second, server.etag),
    ]


def test_the_next_run_goes_on_too(server, tmp_path, monkeypatch):
    server.cuts = [1_000_000] + [0] * download.TRIES
    with pytest.raises(ConnectionError, match=r"rnd.zip: .*run this again, or put it into HERE by hand") as raised:
        get(server, tmp_path / "stage")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "stage" / "rnd.zip").exists()
    server.requests.clear()
    server.cuts.clear()
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    assert server.requests == [(f"bytes={FIRST}-", len(CONTENT) - FIRST, server.etag)]


def test_an_answer_that_ends_early_without_an_error_is_not_taken_for_whole(server, tmp_path, monkeypatch):
    whole = download.requests.Response.iter_content
    first = [lambda *_: iter([CONTENT[:1000]])]
    monkeypatch.setattr(download.requests.Response, "iter_content", lambda *a: (first.pop() if first else whole)(*a))
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    assert server.requests[1].range == "bytes=1000-"


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.cuts, server.ranges = [1_000_000], False
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    assert server.requests == [(None, 1_000_000, None), (f"bytes={FIRST}-", 3_000_000, server.etag)]


@pytest.mark.parametrize("etag", ['"2"', ""])
def test_a_file_that_changed_meanwhile_is_not_sewn_together(server, tmp_path, etag):
    server.cuts, server.etag = [1_000_000] + [0] * download.TRIES, etag and '"1"'
    with pytest.raises(ConnectionError):
        get(server, tmp_path / "stage")
    server.content, server.etag, server.cuts = CONTENT[::-1] + b"longer", etag, []
    assert get(server, tmp_path / "stage", None).read_bytes() == server.content


def test_a_part_of_another_version_is_dropped_where_the_server_ignores_the_condition(server, tmp_path, monkeypatch):
    server.cuts, server.etag = [1_000_000] + [0] * download.TRIES, 'W/"1"'
    with pytest.raises(ConnectionError):
        get(server, tmp_path / "stage")
    server.content, server.etag, server.cuts = CONTENT[::-1], 'W/"2"', []
    server.requests.clear()
    assert get(server, tmp_path / "stage", None).read_bytes() == server.content
    assert [request.range for request in server.requests] == [f"bytes={FIRST}-", None]


def test_a_server_that_tells_no_size_cannot_be_gone_on_with(server, tmp_path):
    server.size_told = False
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "part").write_bytes(b"of unknown origin")
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    assert server.requests == [(None, 3_000_000, None)]


def test_a_stop_while_the_checksum_is_computed_loses_nothing(server, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download.pooch.core, "hash_matches", stop)
        with pytest.raises(KeyboardInterrupt):
            get(server, tmp_path / "stage")
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert [path.name for path in (tmp_path / "stage").iterdir() if path.name != "origin.json"] == ["rnd.zip"]


def test_a_file_system_without_links_serves_too(server, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(download.os, "link", refuse)
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(ValueError, match=f"rnd.zip: SHA256 hash .* expected {'0' * 64} but got {SHA256}") as raised:
        get(server, tmp_path / "stage", "0" * 64)
    assert "\n" not in str(raised.value) and "put it into HERE by hand" in str(raised.value)
    assert not list(tmp_path.iterdir())
    assert len(server.requests) == 1  # gigabytes are not fetched again to see the same


def test_a_wrong_size_is_seen_before_the_file_is_fetched(server, tmp_path):
    with pytest.raises(ValueError, match="the server offers 3,000,000 bytes, expected 3,000,001"):
        get(server, tmp_path / "stage", size=3_000_001)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_seen_before(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)._replace(free=5_000_000 + (1 << 26))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"6 MB needed for rnd.zip and what it unpacks to, 5 MB free") as raised:
        get(server, tmp_path / "stage", copies=2)
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    get(server, tmp_path / "stage", copies=1)


def test_a_disk_that_fills_up_names_the_file(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(download, "_bar", full)
        with pytest.raises(OSError, match=r"No space left on device: .*stage/part"):
            get(server, tmp_path / "stage")
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT


def test_an_absent_file_is_not_asked_for_again(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(ConnectionError, match=r"rnd.zip: the server answers 404 Not Found; run this again, or put"):
        get(server, tmp_path / "stage")
    assert len(server.requests) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("cuts", [[], [1_000_000]])
def test_a_busy_server_is_asked_again_and_loses_nothing(server, tmp_path, cuts):
    server.statuses, server.cuts = [503] * (download.TRIES - 1), cuts
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    server.statuses = [503] * download.TRIES
    with pytest.raises(ConnectionError, match=r"rnd.zip: the server answers 503 Service Unavailable"):
        get(server, tmp_path / "other")


def test_a_server_that_is_busy_midway_does_not_cost_what_has_arrived(server, tmp_path):
    server.cuts = [1_000_000] + [0] * download.TRIES
    with pytest.raises(ConnectionError):
        get(server, tmp_path / "stage")
    server.statuses, server.cuts = [503, 404], []
    with pytest.raises(ConnectionError, match=r"404 Not Found"):
        get(server, tmp_path / "stage")
    server.requests.clear()
    assert get(server, tmp_path / "stage").read_bytes() == CONTENT
    assert server.requests == [(f"bytes={FIRST}-", len(CONTENT) - FIRST, server.etag)]


def test_a_server_that_is_not_there_gives_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        remote = Remote(f"http://127.0.0.1:{taken.getsockname()[1]}/rnd.zip")
        with pytest.raises(ConnectionError, match=r"rnd.zip: Connection refused; run this again, or put it") as raised:
            download.download(remote, tmp_path / "stage", by_hand="put it into HERE by hand")
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_offline_gives_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConnectionError, match=r"^http://nowhere.test/rnd.zip: Name or service not known; run this"):
        download.download(Remote("http://nowhere.test/rnd.zip"), tmp_path / "stage", by_hand="put it into HERE")


def test_two_processes_do_not_write_into_one_file(server, tmp_path):
    (tmp_path / "part").write_bytes(b"")
    with (tmp_path / "part").open("r+b") as file:
        download._lock(file, tmp_path / "part")
        with pytest.raises(OSError, match=r"another process is downloading it: .*part"):
            get(server, tmp_path)
        assert (tmp_path / "part").exists(), "it is the other's"
    assert not server.requests


def test_a_file_takes_its_place_when_it_begins_as_it_should(server, tmp_path):
    path = tmp_path / "hopper.hdf5"
    with pytest.raises(ValueError, match=r"rnd.zip: the file begins with .*, expected b'\\x89HDF'; by hand"):
        download.place(Remote(server.url), path, b"\x89HDF", by_hand="by hand")
    assert not list(tmp_path.iterdir())
    server.content = b"\x89HDF" + CONTENT
    download.place(Remote(server.url), path, b"\x89HDF", by_hand="by hand")
    assert path.read_bytes() == server.content and list(tmp_path.iterdir()) == [path]
