"""launch.datasets: what is on disk, got, checked and converted, in all three formats."""

import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from data import catalog, d4rl, exorl, minari, npz, verify
from data import fetch as published
from data.inventory import held
from launch import datasets
from tests.loopback import serving

SIZES = exorl.Sizes(24, 6, 18)
HOPPER = "hopper-medium-v2"


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    """Empty places for all formats."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "theirs"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def data_dir(tmp_path):
    """Walker, collected by nobody in particular: six episodes of four steps, with these returns."""
    for index, total in enumerate((0, 4, 8, 12, 16, 40)):
        exorl.write_episode(tmp_path / "data" / "walker" / "td3" / "buffer", index, episode(total))
    return tmp_path / "data"


def episode(total=0.0):
    """Four steps of walker, as ExoRL stores them, that earn `total` by `first_position`."""
    return {
        "observation": np.zeros((5, 24), np.float32),
        "action": np.zeros((5, 6), np.float32),
        "reward": np.zeros((5, 1), np.float32),
        "discount": np.ones((5, 1), np.float32),
        "physics": np.full((5, 18), total / 4),
    }


def first_position(physics, actions):
    return physics[:, 0]


def load(folder, name="walker_run"):
    return exorl.load(folder, name=name, sizes=SIZES, reward_fn=first_position, workers=1)


def write_hopper(path, columns=11):
    """Three episodes, that end by falling, by the limit of time, and beyond the file; returns 3, 4, and none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(11 * columns, dtype=np.float32).reshape(11, columns)
        file["actions"] = np.zeros((11, 3), np.float32)
        file["rewards"] = np.array([1, 1, 1, 2, 2, 0, 0, 9, 9, 9, 9], np.float32)
        file["terminals"] = np.arange(11) == 2
        file["timeouts"] = np.arange(11) == 6


def lines(data_dir):
    return list(datasets.listing(held(data_dir, {HOPPER: 1000}), data_dir))


def line_of(words, text):
    (found,) = [line for line in text if all(word in line for word in words)]
    return found


def test_a_folder_of_episodes_is_listed_with_what_its_names_say(data_dir, monkeypatch):
    monkeypatch.setattr(npz, "Archive", None)  # no episode is opened
    row = line_of(["exorl/walker/td3", "walker/td3"], lines(data_dir))
    size = sum(path.stat().st_size for path in (data_dir / "walker" / "td3" / "buffer").iterdir())
    assert row.split() == [
        "exorl/walker/td3",
        "6",
        "24",
        f"{size / 1e3:.1f}",
        "kB",
        "-",
        str(data_dir / "walker" / "td3"),
    ]


def test_returns_and_hash_are_shown_once_they_are_known_and_while_they_hold(data_dir):
    folder = data_dir / "walker" / "td3"
    assert not any("walker_run  " in line for line in lines(data_dir))
    sha256 = load(folder).sha256
    assert line_of(["exorl/walker/td3", "walker_run"], lines(data_dir)).split()[2:] == [
        "0.0",
        "5.0",
        "10.0",
        "15.0",
        "40.0",
    ]
    assert f" {sha256[:12]} " in "\n".join(lines(data_dir))

    exorl.write_episode(folder / "buffer", 6, episode(100))
    assert sha256[:12] not in "\n".join(lines(data_dir))
    assert line_of(["exorl/walker/td3", "walker_run"], lines(data_dir)).split()[-1] == "40.0"  # of the first six
    (folder / "buffer" / "episode_000000_4.npz").unlink()
    exorl.write_episode(folder / "buffer", 0, episode(1))
    assert not any("walker_run  " in line for line in lines(data_dir))


def test_rewards_of_what_the_files_no_longer_hold_are_not_shown(data_dir):
    folder = data_dir / "walker" / "td3"
    load(folder)
    (folder / "buffer" / "episode_000000_4.npz").unlink()
    exorl.write_episode(folder / "buffer", 0, episode(1))
    load(folder, "walker_walk")  # leaves the other task's rewards as they were
    assert [*held(data_dir, {})[0].returns] == ["walker_walk"]


def test_rewards_of_a_task_are_computed_when_asked_for(data_dir, monkeypatch):
    monkeypatch.setattr(datasets.envs, "reward_fn", lambda name: first_position)
    exorl.write_episode(data_dir / "cheetah" / "td3" / "buffer", 0, episode())  # of another domain: left alone
    datasets.compute("walker_stand", held(data_dir, {}), 2)
    assert line_of(["exorl/walker/td3", "walker_stand"], lines(data_dir)).split()[-1] == "40.0"
    assert not (data_dir / "cheetah" / "td3" / "cache").exists()


@pytest.mark.parametrize("folder", ["data", "data/d4rl", "theirs", "home/.d4rl/datasets"])
def test_d4rl_files_are_listed_wherever_they_lie(tmp_path, folder):
    path = tmp_path / folder / d4rl.file_name(HOPPER)
    write_hopper(path)
    text = lines(tmp_path / "data")
    assert line_of([f"d4rl/{HOPPER}", str(path)], text).split()[1:3] == ["2", "7"]
    assert line_of([f"d4rl/{HOPPER} ", "3.0"], text).split()[2:] == ["3.0", "3.2", "3.5", "3.8", "4.0"]
    loaded = d4rl.load(path, name=HOPPER, observation_size=11, action_size=3, episode_length=1000)
    (row,) = held(tmp_path / "data", {HOPPER: 1000})
    np.testing.assert_array_equal(row.returns[HOPPER], [trajectory.total for trajectory in loaded.trajectories])


def test_minari_sets_are_listed(tmp_path, data_dir):
    pytest.importorskip("minari")
    load(data_dir / "walker" / "td3")
    made = [
        e._replace(rewards=np.full(4, index, np.float32)) for index, e in enumerate(exorl.read(data_dir / "walker/td3"))
    ]
    minari.write("walker/td3-v0", made)
    text = lines(data_dir)
    assert line_of(["minari/walker/td3-v0", str(tmp_path / "minari")], text).split()[1:3] == ["6", "24"]
    assert line_of(["minari/walker/td3-v0", "stored"], text).split()[2:] == ["0.0", "5.0", "10.0", "15.0", "20.0"]


def test_what_cannot_be_read_is_listed_with_the_reason_and_hides_nothing(tmp_path, data_dir):
    buffer = data_dir / "walker" / "td3" / "buffer"
    (buffer / "episode_000005_9.npz").write_bytes(b"")
    broken = tmp_path / "theirs" / d4rl.file_name(HOPPER)
    broken.parent.mkdir()
    broken.write_bytes(b"not HDF5")
    exorl.write_episode(data_dir / "cheetah" / "td3" / "buffer", 0, episode())
    text = lines(data_dir)
    assert line_of(["exorl/walker/td3", "expected one episode 5"], text)
    assert line_of([f"d4rl/{HOPPER}", f"{broken}: cannot be read"], text)
    assert line_of(["exorl/cheetah/td3", str(data_dir)], text)


def test_nothing_on_disk_says_where_it_looked_and_how_to_get_some(tmp_path):
    text = "\n".join(lines(tmp_path / "absent"))
    for word in (str(tmp_path / "absent"), str(tmp_path / "theirs"), str(tmp_path / "minari"), "launch.collect"):
        assert word in text
    assert "walker}/{aps" in text and "walker/rnd 2.6 GB" in text and "hopper,walker2d" in text


def check(data_dir, *names):
    return datasets.verify(names, data_dir, 2)


def test_good_sets_are_good_and_have_the_hash_of_their_load(tmp_path, data_dir, capsys, monkeypatch):
    pytest.importorskip("minari")
    write_hopper(tmp_path / "theirs" / d4rl.file_name(HOPPER))
    minari.write("walker/td3-v0", exorl.read(data_dir / "walker" / "td3"))
    assert check(data_dir)
    out = capsys.readouterr().out
    sizes = {"observation_size": 11, "action_size": 3}
    loads = {
        "exorl/walker/td3": load(data_dir / "walker" / "td3"),
        f"d4rl/{HOPPER}": d4rl.load(
            tmp_path / "theirs" / d4rl.file_name(HOPPER), name=HOPPER, episode_length=1000, **sizes
        ),
        "minari/walker/td3-v0": minari.load("walker/td3-v0", name="any", observation_size=24, action_size=6),
    }
    for name, loaded in loads.items():
        assert line_of([f"{name}: "], out.splitlines()).endswith(f"good, sha256 {loaded.sha256}")
    assert "pieces of episodes whose end is not in the file, 4 steps: dropped" in out


def test_what_is_not_all_there_is_not_called_good_without_a_word(data_dir, capsys):
    """Training refuses both; a folder whose files cannot be read hides no other."""
    folder = data_dir / "walker" / "td3"
    (folder / "collect.json").write_text('{"episodes": 9, "env": "walker_run", "agent": "td3", "seed": 0}')
    assert check(data_dir) and "collected in part, of 9 episodes" in capsys.readouterr().out
    (folder / published.unzip.UNPACKING).touch()
    lost = data_dir / "cheetah" / "rnd" / "buffer"
    lost.mkdir(parents=True)
    (lost / "episode_000000_4.npz").symlink_to(data_dir / "nowhere.npz")
    assert not check(data_dir)
    out = capsys.readouterr().out
    assert f"{folder}: not all of its archive is unpacked" in out and f"No such file or directory: '{lost}" in out
    assert line_of(["exorl/cheetah/rnd: "], out.splitlines()).endswith("1 bad")
    assert line_of(["exorl/walker/td3: "], out.splitlines()).endswith("1 bad")


def test_bad_files_are_named_one_a_line_and_the_others_are_checked_all_the_same(data_dir, capsys, monkeypatch):
    buffer = data_dir / "walker" / "td3" / "buffer"
    content = bytearray((buffer / "episode_000001_4.npz").read_bytes())
    content[200] ^= 1
    (buffer / "episode_000001_4.npz").write_bytes(content)
    (buffer / "episode_000003_4.npz").write_bytes(b"")
    short = {key: values[:, :3] if key == "action" else values for key, values in episode().items()}
    exorl.write_episode(buffer, 6, short)
    exorl.write_episode(data_dir / "walker" / "rnd" / "buffer", 0, episode())
    assert not check(data_dir)
    out = capsys.readouterr().out.splitlines()
    bad = [line for line in out if line.startswith(str(buffer))]
    assert [line.split(":")[0] for line in bad] == [str(buffer / f"episode_00000{i}_4.npz") for i in (1, 3, 6)]
    assert "action has 3 columns, walker expects 6" in bad[2]
    assert line_of(["exorl/walker/td3: 7 episodes"], out).endswith("3 bad")
    assert "good, sha256" in line_of(["exorl/walker/rnd"], out)
    assert check(data_dir, "exorl/walker/rnd")


def test_what_only_some_agents_store_is_checked_too(data_dir, capsys, monkeypatch):
    path = data_dir / "walker" / "td3" / "buffer" / "episode_000006_4.npz"
    np.savez(path, **episode(), skill=np.full((5, 16), 7, np.float32))
    assert check(data_dir)
    content = bytearray(path.read_bytes())
    content[content.rindex(np.float32(7).tobytes())] ^= 1
    path.write_bytes(content)
    assert not check(data_dir)
    assert f"{path}: cannot be read" in capsys.readouterr().out


def test_processes_find_what_one_finds(data_dir, monkeypatch):
    (data_dir / "walker" / "td3" / "buffer" / "episode_000003_4.npz").write_bytes(b"")
    exorl.write_episode(data_dir / "walker" / "rnd" / "buffer", 0, episode())
    sets = held(data_dir, {})
    monkeypatch.setattr(verify, "JOB_EPISODES", 2)
    alone = list(verify.verify(sets, {}, workers=1))
    monkeypatch.setattr(verify, "INLINE_FILES", 0)
    for one, other in zip(alone, verify.verify(sets, {}, workers=2), strict=True):
        assert (one.bad, one.sha256, one.notes) == (other.bad, other.sha256, other.notes)
    assert [len(report.bad) for report in alone] == [0, 1]
    assert [bool(report.sha256) for report in alone] == [True, False]


def test_an_episode_that_the_archive_had_is_missed(data_dir, capsys, monkeypatch):
    record = '{"url": "http://x/td3.zip", "sha256": "abc", "bytes": 1, "episodes": 7}'
    (data_dir / "walker" / "td3" / published.RECORD).write_text(record)
    assert not check(data_dir)
    assert "walker/td3: 6 episodes, expected 7, as fetched.json says" in capsys.readouterr().out


def test_a_set_that_is_not_there_is_told_from_one_that_is_not_known(data_dir):
    with pytest.raises(FileNotFoundError, match="exorl/walker/rnd: not on disk, expected one of: exorl/walker/td3"):
        check(data_dir, "exorl/walker/td3", "exorl/walker/rnd")
    for name in ("walker/td3", "d4rl/hopper-v9", "exorl/../td3", "exorl/walker/..", "minari/../x-v0", "exorl/walker"):
        with pytest.raises(ValueError, match=r"unknown data set .*, expected one of: exorl/\{cartpole,.*, minari/ID"):
            check(data_dir, name)


@pytest.fixture
def server(tmp_path, data_dir, monkeypatch):
    """Serves an archive of six episodes and a video as ExoRL's walker/rnd."""
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((data_dir / "walker" / "td3" / "buffer").iterdir()):
            archive.write(file, f"buffer/{file.name}")
        archive.writestr("video/0.mp4", b"film")
    with serving(path.read_bytes()) as server:
        monkeypatch.setattr(catalog, "DOWNLOAD_URL", server.url.replace("walker/rnd", "{domain}/{dataset}"))
        monkeypatch.setattr(catalog, "DOWNLOAD_BYTES", {})
        yield server


def test_a_released_set_is_fetched_once_and_is_what_was_published(data_dir, server):
    assert "6 episodes unpacked, 0 there already, 1 other files left out" in datasets.fetch(
        "exorl/walker/rnd", data_dir, False
    )
    one, other = (data_dir / "walker" / name / "buffer" for name in ("td3", "rnd"))
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}
    assert sorted(path.name for path in (data_dir / "walker").iterdir()) == ["rnd", "td3"]
    assert sorted(path.name for path in (data_dir / "walker" / "rnd").iterdir()) == ["buffer", "fetched.json"]
    assert "there already, 6 episodes, all that the archive holds" in datasets.fetch(
        "exorl/walker/rnd", data_dir, False
    )
    assert len(server.requests) == 1


def test_a_damaged_episode_is_mended_by_fetching_again(data_dir, server):
    datasets.fetch("exorl/walker/rnd", data_dir, False)
    path = data_dir / "walker" / "rnd" / "buffer" / "episode_000002_4.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "1 episodes unpacked, 5 there already" in datasets.fetch("exorl/walker/rnd", data_dir, True)
    assert path.read_bytes() == whole


def test_an_archive_put_there_by_hand_needs_no_network(data_dir, server, monkeypatch):
    (data_dir / "walker" / "rnd.zip").write_bytes(server.content)
    assert "6 episodes unpacked" in datasets.fetch("exorl/walker/rnd", data_dir, False)
    assert not server.requests and (data_dir / "walker" / "rnd.zip").exists()
    monkeypatch.setitem(published.EXORL_SHA256, ("walker", "rnd"), "0" * 64)
    with pytest.raises(ValueError, match=rf"walker/rnd.zip: sha256 is .*, expected {'0' * 64}"):
        datasets.fetch("exorl/walker/rnd", data_dir, False)


def test_an_archive_that_is_half_unpacked_says_so_until_it_is_whole(data_dir, server, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(published.unzip, "_write", stopped)
        datasets.fetch("exorl/walker/rnd", data_dir, False)
    begun = data_dir / "walker" / "rnd" / published.unzip.UNPACKING
    assert begun.exists()
    assert "6 episodes unpacked" in datasets.fetch("exorl/walker/rnd", data_dir, False)
    assert not begun.exists()


def test_an_archive_that_is_none_or_tries_to_get_out_leaves_nothing(tmp_path, data_dir, server):
    before = sorted(tmp_path.rglob("*"))
    server.content = b"<html>please log in</html>"
    with pytest.raises(ValueError, match=r"rnd.zip: truncated, or not a zip file; it was removed; run this again, or"):
        datasets.fetch("exorl/walker/rnd", data_dir, False)
    with zipfile.ZipFile(tmp_path / "made.zip", "a") as archive:
        archive.writestr("../../../evil", b"evil")
    server.content = (tmp_path / "made.zip").read_bytes()
    with pytest.raises(ValueError, match=r"'../../../evil' leads out of the folder; nothing was unpacked"):
        datasets.fetch("exorl/walker/rnd", data_dir, False)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


def test_what_was_collected_is_not_overwritten(data_dir, server):
    exorl.write_episode(data_dir / "walker" / "rnd" / "buffer", 0, episode(7))
    (data_dir / "walker" / "rnd" / catalog.ORIGIN).write_text("{}")
    with pytest.raises(FileExistsError, match="walker/rnd: holds episodes collected here"):
        datasets.fetch("exorl/walker/rnd", data_dir, True)
    assert not server.requests


def test_offline_says_which_file_belongs_where(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "DOWNLOAD_URL", "http://127.0.0.1:9/exorl/{domain}/{dataset}.zip")
    data_dir = tmp_path / "data"
    where = rf"download it elsewhere and put it into {data_dir}/walker as rnd.zip"
    with pytest.raises(
        ConnectionError, match=rf"http://127.0.0.1:9/exorl/walker/rnd.zip: Connection refused; .*{where}"
    ):
        datasets.fetch("exorl/walker/rnd", data_dir, False)
    monkeypatch.setitem(d4rl.URLS, HOPPER, f"http://127.0.0.1:9/{d4rl.file_name(HOPPER)}")
    with pytest.raises(
        ConnectionError, match=rf"refused; .*put it into {data_dir} or .*theirs or .* as hopper_medium-v2.hdf5"
    ):
        datasets.fetch(HOPPER, data_dir, False)


def test_a_d4rl_file_is_fetched_found_and_its_hash_watched(tmp_path, data_dir, server, monkeypatch, capsys):
    path = data_dir / "d4rl" / d4rl.file_name(HOPPER)
    write_hopper(path)
    server.content = path.read_bytes()
    path.unlink()
    monkeypatch.setitem(d4rl.URLS, HOPPER, server.url.replace("rnd.zip", path.name))
    assert datasets.fetch(f"d4rl/{HOPPER}", data_dir, False).startswith(f"{path}: downloaded; sha256")
    assert datasets.fetch(HOPPER, data_dir, False) == f"{path}: there already"
    assert path.read_bytes() == server.content and check(data_dir, HOPPER)
    place = server.content.index(np.float32(9).tobytes())
    path.write_bytes(server.content[:place] + b"\x01" + server.content[place + 1 :])
    assert not check(data_dir, HOPPER)
    assert f"{path}: sha256 is " in capsys.readouterr().out


def test_where_nothing_can_be_downloaded_it_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"collected: python -m launch.collect --env walker_.* --agent td3 --data_dir"):
        datasets.fetch("exorl/walker/td3", tmp_path, False)
    with pytest.raises(ValueError, match=r"nothing to download, ExoRL has the domains cartpole, .* smm"):
        datasets.fetch("exorl/hopper/proto", tmp_path, False)
    with pytest.raises(ValueError, match="get this one with: minari download walker/td3-v0"):
        datasets.fetch("minari/walker/td3-v0", tmp_path, False)


def test_a_set_goes_to_minari_and_comes_back(data_dir):
    pytest.importorskip("minari")
    (data_dir / "walker" / "td3" / catalog.ORIGIN).write_text('{"env": "walker_run"}')
    there = list(datasets.convert("exorl/walker/td3", "minari/walker/td3-v0", data_dir, ""))
    assert there == ["minari:walker/td3-v0: 6 episodes, 24 steps", "  every array came through as it was"]
    assert minari.info("walker/td3-v0").env_id == "walker_run"
    list(datasets.convert("minari/walker/td3-v0", "exorl/walker/back", data_dir, ""))
    assert load(data_dir / "walker" / "back").sha256 == load(data_dir / "walker" / "td3").sha256
    with pytest.raises(FileExistsError, match="walker/td3-v0"):
        list(datasets.convert("exorl/walker/td3", "minari/walker/td3-v0", data_dir, ""))
    with pytest.raises(FileExistsError, match="walker/back"):
        list(datasets.convert("minari/walker/td3-v0", "exorl/walker/back", data_dir, ""))


def test_what_a_format_cannot_keep_is_said(tmp_path, data_dir):
    pytest.importorskip("minari")
    write_hopper(tmp_path / "theirs" / d4rl.file_name(HOPPER))
    done = list(datasets.convert(HOPPER, "minari/hopper/medium-v0", data_dir, ""))
    assert done[0] == "minari:hopper/medium-v0: 2 episodes, 7 steps"
    assert done[1].startswith("  not kept: no observation after the last action")
    with pytest.raises(ValueError, match="observation after the last action"):
        list(datasets.convert(HOPPER, "exorl/hopper/medium", data_dir, ""))
    assert not (data_dir / "hopper" / "medium").exists()


def run(*words):
    command = [sys.executable, "-m", "launch.datasets", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)


def test_the_program_ends_in_one_line_and_the_right_code(tmp_path, data_dir):
    flag = f"--data_dir={data_dir}"
    listed = run(flag)
    assert listed.returncode == 0 and "exorl/walker/td3" in listed.stdout and "\x1b" not in listed.stdout
    assert run("verify", flag, "--workers=1").returncode == 0
    (data_dir / "walker" / "td3" / "buffer" / "episode_000003_4.npz").write_bytes(b"")
    bad = run("verify", "exorl/walker/td3", flag, "--workers=1")
    assert bad.returncode == 1 and not bad.stderr and "episode_000003_4.npz: " in bad.stdout
    for words in (["fetsch"], ["fetch"], ["convert", "exorl/walker/td3"], ["list", "all"]):
        wrong = run(*words, flag)
        assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1
        assert "expected list, fetch NAME..., verify [NAME...] or convert SOURCE TARGET, got" in wrong.stderr


def test_listing_loads_neither_jax_nor_a_simulator(data_dir):
    code = (
        "import sys; from launch import datasets; from pathlib import Path; from data.inventory import held; "
        f"print(*datasets.listing(held(Path({str(data_dir)!r}), {{}}), Path('.'))); "
        "print({'jax', 'mujoco', 'dm_control', 'gymnasium', 'pooch', 'requests', 'minari'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("set()\n")
