"""Archives: what is unpacked, and those that try to get out, to fill the disk, or are damaged."""

import copy
import io
import stat
import zipfile

import numpy as np
import pytest

from data import unzip
from tests.mutations import mutations

CONTENT = np.random.default_rng(0).bytes(4000)
EPISODES = {f"buffer/episode_{index:06d}_5.npz": CONTENT[1000 * index :][:1000] for index in range(3)}


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def test_only_episodes_are_unpacked(tmp_path):
    path = archive(tmp_path / "rnd.zip", EPISODES | {"video/0.mp4": b"x", "buffer/notes.txt": b"x", "buffer/": b""})
    assert unzip.unzip(path, tmp_path / "rnd") == (3, 0, 3)
    found = {f"buffer/{p.name}": p.read_bytes() for p in (tmp_path / "rnd" / "buffer").iterdir()}
    assert found == EPISODES
    assert [p.name for p in (tmp_path / "rnd").iterdir()] == ["buffer"]


def test_unpacking_goes_on_where_it_stopped_and_mends(tmp_path):
    path = archive(tmp_path / "rnd.zip", EPISODES)
    buffer = tmp_path / "rnd" / "buffer"
    buffer.mkdir(parents=True)
    names = [name.removeprefix("buffer/") for name in EPISODES]
    (buffer / names[0]).write_bytes(EPISODES[f"buffer/{names[0]}"])
    (buffer / names[1]).write_bytes(EPISODES[f"buffer/{names[1]}"][:-1] + b"?")
    (buffer / names[2]).write_bytes(b"half")
    assert unzip.unzip(path, tmp_path / "rnd") == (2, 1, 0)
    assert {f"buffer/{p.name}": p.read_bytes() for p in buffer.iterdir()} == EPISODES


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


ESCAPES = (
    "../evil.npz",
    "buffer/../../evil.npz",
    "/evil.npz",
    "C:evil.npz",
    "buffer\\..\\..\\evil.npz",
    link("buffer"),
)


@pytest.mark.parametrize("member", ESCAPES)
def test_an_archive_that_tries_to_get_out_is_refused_whole(tmp_path, member):
    path = archive(tmp_path / "rnd.zip", EPISODES | {member: b"/etc"})
    with pytest.raises(ValueError, match=f"^{path}: .* nothing was unpacked") as raised:
        unzip.unzip(path, tmp_path / "rnd")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"buffer/episode_000000_5.npz": bytes(10_000_000)}, "would unpack to 10,000,000, expected at most 50 times"),
        (EPISODES | {"buffer/episode_000001_6.npz": b""}, "holds episode 1 twice"),
        ({"rnd/buffer/episode_000000_5.npz": b""}, "no episodes, expected members named buffer/episode_"),
    ],
)
def test_an_archive_that_no_honest_one_is_leaves_nothing(tmp_path, members, message):
    path = archive(tmp_path / "rnd.zip", members)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        unzip.unzip(path, tmp_path / "rnd")
    assert list(tmp_path.iterdir()) == [path]


def test_members_that_share_their_bytes_are_refused(tmp_path):
    with zipfile.ZipFile(path := tmp_path / "rnd.zip", "w") as opened:
        opened.writestr("buffer/episode_000000_5.npz", CONTENT)
        for index in (1, 2):
            opened.filelist.append(copy.copy(opened.filelist[0]))
            opened.filelist[index].filename = f"buffer/episode_{index:06d}_5.npz"
    with pytest.raises(ValueError, match=f"^{path}: its members overlap; nothing was unpacked"):
        unzip.unzip(path, tmp_path / "rnd")


def test_methods_that_unpack_without_bound_are_refused(tmp_path):
    path = archive(tmp_path / "rnd.zip", EPISODES, zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="is encrypted or not deflated"):
        unzip.unzip(path, tmp_path / "rnd")


def test_a_full_disk_is_seen_before_anything_is_unpacked(tmp_path, monkeypatch):
    path = archive(tmp_path / "rnd.zip", EPISODES)
    usage = unzip.shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(unzip.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"MB needed to unpack rnd.zip, 0 MB free; make room"):
        unzip.unzip(path, tmp_path / "rnd")
    assert not list((tmp_path / "rnd" / "buffer").iterdir())


def test_a_damaged_archive_gives_the_same_episodes_or_one_line(tmp_path):
    buffer = io.BytesIO()
    archive(buffer, EPISODES)
    refused = 0
    for number, damaged in enumerate(mutations(buffer.getvalue(), 1000, seed=7)):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(damaged)
        folder = tmp_path / str(number)
        mark, complaint = folder / unzip.UNPACKING, ""
        try:
            unzip.unzip(path, folder)
        except ValueError as error:
            complaint = str(error)
            assert complaint.startswith(f"{path}: ") and "\n" not in complaint
            refused += 1
        found = {file for file in folder.glob("**/*") if file.is_file()} - {mark}
        assert all(file.read_bytes() in EPISODES.values() for file in found)
        assert (mark.exists() or not found) if complaint else not mark.exists()
    assert refused > 900
