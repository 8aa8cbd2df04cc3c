"""D4RL's files: every episode found and none invented, and what a stranger's file may hold refused by name."""

import errno
import os
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scores import d4rl_infos

from data import boundaries, d4rl, hdf5
from data.boundaries import Tally, UnknownEnds
from data.episode import Episode
from envs import mujoco

SIZES = {"name": "hopper-medium-v2", "observation_size": 3, "action_size": 2, "episode_length": 6}


def episode(length=5, terminated=True, seed=0, extras=True):
    rng = np.random.default_rng(seed)
    return Episode(
        rng.standard_normal((length + 1, 3)).astype(np.float32),
        rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        rng.standard_normal(length).astype(np.float32),
        terminated,
        {"qpos": rng.standard_normal((length, 4)), "physics": rng.standard_normal((length + 1, 4))} if extras else {},
    )


EPISODES = [episode(5, True, 0), episode(6, False, 1), episode(1, True, 2)]


def same(one, other):
    """Whether two episodes are equal in every bit and dtype."""
    arrays = ({"o": e.observations, "a": e.actions, "r": e.rewards} | e.extras for e in (one, other))
    one_arrays, other_arrays = arrays
    assert one.terminated is other.terminated and one_arrays.keys() == other_arrays.keys()
    for key, values in one_arrays.items():
        assert values.dtype == other_arrays[key].dtype
        np.testing.assert_array_equal(values, other_arrays[key])
    return True


def arrays_of(episodes):
    """The arrays of D4RL's layout, made by hand."""
    steps = [np.arange(e.length) == e.length - 1 for e in episodes]
    return {
        "observations": np.concatenate([e.observations[:-1] for e in episodes]),
        "next_observations": np.concatenate([e.observations[1:] for e in episodes]),
        "actions": np.concatenate([e.actions for e in episodes]),
        "rewards": np.concatenate([e.rewards for e in episodes]),
        "terminals": np.concatenate([last & e.terminated for last, e in zip(steps, episodes, strict=True)]),
        "timeouts": np.concatenate([last & (not e.terminated) for last, e in zip(steps, episodes, strict=True)]),
    }


def write_plainly(path, arrays, **how):
    """As D4RL does; None leaves an array out."""
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            if values is not None:
                file.create_dataset(key, data=values, **({"compression": "gzip"} | how))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hopper_medium-v2.hdf5"


def load(path, arrays=None, **changes):
    if arrays is not None:
        write_plainly(path, arrays)
    return d4rl.load(path, **(SIZES | changes))


def lengths(loaded):
    return [len(trajectory.rewards) for trajectory in loaded.trajectories]


# What is an episode.


def split(terminals, timeouts, limit=4, breaks=()):
    """-> spans and notes, for marks written as rows."""
    steps = 12
    marks = [None if rows is None else np.isin(np.arange(steps), rows) for rows in (terminals, timeouts)]
    tally = Tally(limit)
    between = lambda first, last: np.array([row for row in breaks if first < row < last], int)  # noqa: E731
    return list(boundaries.spans(*marks, between, tally)), tally.notes()


def test_episodes_end_at_terminals_or_timeouts():
    assert split([2, 7, 11], [5]) == ([(0, 3), (3, 6), (6, 8), (8, 12)], [])


def test_a_tail_without_an_end_is_dropped_and_said_so():
    spans, notes = split([2], [6])
    assert spans == [(0, 3), (3, 7), (7, 11)]  # the environment allows 4 steps: the third is whole
    assert notes == [
        "1 ends not marked: split after 4 steps",
        "1 pieces of episodes whose end is not in the file, 1 steps: dropped",
    ]


def test_a_tail_of_the_full_length_is_an_episode():
    assert split([3, 7], []) == ([(0, 4), (4, 8), (8, 12)], ["1 ends not marked: split after 4 steps"])


def test_without_timeouts_episodes_are_as_long_as_the_environment_allows():
    spans, notes = split([5], None)
    assert spans == [(0, 4), (4, 6), (6, 10)]
    assert notes == [
        "2 ends not marked: split after 4 steps",
        "1 pieces of episodes whose end is not in the file, 2 steps: dropped",
    ]


def test_without_timeouts_and_length_nothing_is_guessed():
    with pytest.raises(UnknownEnds, match="timeouts missing"):
        split([5], None, limit=0)


def test_an_end_nobody_marked_shows_where_observations_jump():
    spans, notes = split([], [3, 9], breaks=[6])
    assert spans == [(0, 4), (6, 10)]  # rows 4 and 5 are a piece, 10 and 11 the tail
    assert notes == [
        "1 ends not marked: next_observations disagree with the observation that follows; split there",
        "2 pieces of episodes whose end is not in the file, 4 steps: dropped",
    ]
    assert split([], [3, 11], breaks=[8])[0] == [(0, 4), (4, 8), (8, 12)]


def test_a_goal_marked_at_every_step_is_one_end():
    spans, notes = split([2, 3, 4, 7], [11])
    assert spans == [(0, 3), (5, 8), (8, 12)]
    assert notes == ["2 ends marked again, one step each: dropped"]
    assert split([0, 5], [11], limit=9)[0] == [(0, 1), (1, 6), (6, 12)]  # a first episode of one step is one


def test_episodes_longer_than_allowed_are_named_and_giants_refused():
    spans, notes = split([4], [11])
    assert spans == [(0, 5), (5, 12)]
    assert notes == ["2 episodes longer than the environment's 4 steps, up to 7"]
    with pytest.raises(UnknownEnds, match="rows 0 to 11 are one episode by their marks, expected at most twice 4"):
        split([11], [])


@given(st.lists(st.sampled_from("et."), max_size=60), st.integers(1, 9))
def test_every_row_is_in_one_episode_or_counted_as_dropped(rows, limit):
    marks = np.array(rows, dtype="U1")
    tally, seen = Tally(limit), np.zeros(len(marks), int)
    try:
        for first, last in boundaries.spans(marks == "e", marks == "t", lambda a, b: np.empty(0, int), tally):
            seen[first:last] += 1
            assert not np.isin(marks[first : last - 1], ("e", "t")).any()
            assert marks[last - 1] in "et" or last - first == limit
    except UnknownEnds:
        return
    assert seen.max(initial=0) <= 1
    assert len(marks) - seen.sum() == tally.steps + tally.repeated


# Files.


def test_episodes_come_back_as_they_were_written(path):
    d4rl.write(path, iter(EPISODES))
    assert all(map(same, EPISODES, d4rl.read(path)))
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_episodes_come_back_as_they_were_written(tmp_path_factory, data):
    seeds, longest = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=6)), data.draw(st.integers(1, 40))
    ahead = data.draw(st.integers(1, 50))
    wanted = [episode(1 + seed % longest, bool(seed % 2), seed, longest % 2 == 0) for seed in seeds]
    wanted = [e for i, e in enumerate(wanted) if e.length > 1 or i == 0]  # else an end marked again
    path = tmp_path_factory.mktemp("d4rl") / "made.hdf5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(d4rl, "AHEAD", ahead)
        patch.setattr(hdf5, "AHEAD", ahead)
        d4rl.write(path, wanted)
        back = list(d4rl.read(path))
    assert len(back) == len(wanted) and all(map(same, wanted, back))


def test_files_are_laid_out_as_d4rls(path):
    d4rl.write(path, EPISODES)
    expected = arrays_of(EPISODES)
    with h5py.File(path) as file:
        assert set(file) == {*expected, "infos"} and set(file["infos"]) == {"qpos", "physics", "next_physics"}
        for key, values in expected.items():
            assert file[key].dtype == values.dtype
            np.testing.assert_array_equal(file[key][:], values)
        np.testing.assert_array_equal(file["infos/qpos"][5:11], EPISODES[1].extras["qpos"])


def test_a_trajectory_shows_what_came_before_each_action_and_what_it_earned(path):
    loaded = load(path, arrays_of(EPISODES))
    assert lengths(loaded) == [5, 6, 1] and loaded.notes == []
    for wanted, found in zip(EPISODES, loaded.trajectories, strict=True):
        np.testing.assert_array_equal(found.observations, wanted.observations[:-1])
        np.testing.assert_array_equal(found.actions, wanted.actions)
        np.testing.assert_array_equal(found.rewards, wanted.rewards)


def test_the_hash_is_of_the_content_not_of_the_file(path, tmp_path):
    sha256 = load(path, arrays_of(EPISODES)).sha256
    other = tmp_path / "other.hdf5"
    d4rl.write(other, EPISODES)
    assert load(other).sha256 == sha256
    ended_otherwise = [EPISODES[0]._replace(terminated=False), *EPISODES[1:]]
    assert load(path, arrays_of(ended_otherwise)).sha256 != sha256


def test_what_older_files_hold_is_read_too(path):
    """Columns [N, 1], marks as floating-point numbers, no next_observations, infos that are an array (kitchen)."""
    arrays = arrays_of(EPISODES)
    old = arrays | {
        "next_observations": None,
        "rewards": arrays["rewards"][:, None],
        "terminals": arrays["terminals"].astype(np.float32),
        "timeouts": arrays["timeouts"].astype(np.uint8)[:, None],
        "infos": np.arange(12),
    }
    loaded = load(path, old)
    assert lengths(loaded) == [5, 6, 1]
    assert loaded.sha256 == load(path, arrays).sha256
    write_plainly(path, old)
    found = list(d4rl.read(path))
    np.testing.assert_array_equal(found[1].extras["infos"], np.arange(5, 11))
    assert found[0].observations.shape == (5, 3)  # what followed the last action is not in the file


def test_an_end_that_next_observations_betray_is_found_in_a_file(path):
    arrays = arrays_of([episode(6, False, 1), episode(3, False, 2), episode(6, False, 3)])
    arrays["timeouts"][[5, 8]] = False
    loaded = load(path, arrays)
    assert lengths(loaded) == [6, 6]
    np.testing.assert_array_equal(loaded.trajectories[1].rewards, episode(6, False, 3).rewards)
    assert loaded.notes[0].startswith("2 ends not marked: next_observations disagree")
    assert loaded.notes[2] == "1 pieces of episodes whose end is not in the file, 3 steps: dropped"


def test_a_little_rounding_between_two_records_is_no_end(path):
    arrays = arrays_of(EPISODES)
    assert lengths(load(path, arrays | {"next_observations": arrays["next_observations"] + np.float32(5e-4)})) == [
        5,
        6,
        1,
    ]


def test_what_is_known_to_be_wrong_with_a_data_set_is_said(path):
    arrays = arrays_of(EPISODES)
    assert "D4RL issue 77" in load(path, arrays, name="antmaze-umaze-v0").notes[0]
    assert load(path, arrays, name="antmaze-umaze-v2").notes == []
    assert "scores count it once" in load(path, arrays, name="kitchen-mixed-v0").notes[0]


def test_actions_are_clipped_within_rounding_and_refused_beyond(path):
    arrays = arrays_of(EPISODES)
    arrays["actions"][3] = [1.00005, -0.5]
    loaded = load(path, arrays)
    np.testing.assert_array_equal(loaded.trajectories[0].actions[3], np.float32([1, -0.5]))
    assert loaded.notes == ["1 numbers in actions beyond [-1, 1], by 0.0001 at most: clipped"]
    arrays["actions"][7] = [1.001, 0]
    with pytest.raises(ValueError, match=rf"^{path}: rows 5 to 10: actions reach 1.001, expected them within"):
        load(path, arrays)


def changed(key, row, value):
    def change(arrays):
        values = arrays[key].copy()
        values[row] = value
        return {key: values}

    return change


WRONG = {
    r"rows 5 to 10: observations is not finite in row 2": changed("observations", 7, np.nan),
    r"next_observations is not finite in row 7": changed("next_observations", 7, np.inf),
    r"rows 0 to 4: actions is not finite in row 0": changed("actions", 0, np.nan),
    r"rows 11 to 11: rewards is not finite in row 0": changed("rewards", 11, -np.inf),
    r"rewards missing, expected observations, actions, rewards, terminals": lambda a: {"rewards": None},
    r"rewards has shape \(11,\), expected 12 rows": lambda a: {"rewards": a["rewards"][1:]},
    r"rewards has shape \(12, 4\), expected 12 rows": lambda a: {"rewards": np.zeros((12, 4), np.float32)},
    r"actions has shape \(12,\), expected 12 rows of columns": lambda a: {"actions": a["rewards"]},
    r"actions is int64, expected floating-point": lambda a: {"actions": np.zeros((12, 2), int)},
    r"terminals is 2.0 in row 4, expected 0 or 1": lambda a: {"terminals": a["terminals"] * 2.0},
    r"timeouts is nan in row 0, expected 0 or 1": lambda a: {"timeouts": np.full(12, np.nan)},
    r"next_observations has shape \(12, 2\), expected that of observations": lambda a: {
        "next_observations": a["next_observations"][:, :2]
    },
    r"rows 0 to 4: observations has 2 columns, hopper-medium-v2 expects 3": lambda a: {
        "observations": a["observations"][:, :2],
        "next_observations": a["next_observations"][:, :2],
    },
    r"cannot be read \(terminals holds object": lambda a: {"terminals": np.array(["yes"] * 12, object)},
    r"cannot be read \(observations holds >f4 in a form of its own": lambda a: {
        "observations": a["observations"].astype(">f4")
    },
    r"rows 5 to 10: a number is too large for float32": lambda a: {
        "rewards": changed("rewards", 8, 1e39)({"rewards": a["rewards"].astype(np.float64)})["rewards"]
    },
    r"no whole episode in 3 steps; 1 pieces of episodes": lambda a: {key: values[:3] for key, values in a.items()},
    r"no whole episode in 0 steps": lambda a: {key: values[:0] for key, values in a.items()},
}


@pytest.mark.parametrize(("message", "change"), WRONG.items())
def test_a_wrong_file_gives_one_line_with_its_name(path, message, change):
    arrays = arrays_of(EPISODES)
    with pytest.raises(ValueError, match=f"^{path}: {message}") as raised:
        how = {"compression": None} if "no whole episode in 0" in message else {}
        load(write_plainly(path, arrays | change(arrays), **how))
    assert "\n" not in str(raised.value)


def test_a_file_without_timeouts_is_split_by_length_or_refused(path):
    arrays = arrays_of([episode(6, False, 1), episode(6, False, 2)]) | {"timeouts": None, "next_observations": None}
    loaded = load(path, arrays)
    assert lengths(loaded) == [6, 6] and loaded.notes == ["2 ends not marked: split after 6 steps"]
    with pytest.raises(ValueError, match=f"^{path}: timeouts missing, and the length of an episode is not known"):
        load(path, episode_length=0)


# What a stranger may send.


def bomb(file):
    file.create_dataset("observations", (10**9, 3), np.float32, chunks=(10**6, 3), compression="gzip")


def never_written(file):
    file.create_dataset("observations", (12, 3), np.float32, chunks=(4, 3))[:4] = 1


def never_written_plain(file):
    file.create_dataset("observations", (12, 3), np.float32)


def of_another_file(file):
    with h5py.File("other.hdf5", "w") as other:
        other["observations"] = np.zeros((12, 3), np.float32)
    file["observations"] = h5py.ExternalLink("other.hdf5", "observations")


def a_group_of_another_file(file):
    with h5py.File("other.hdf5", "w") as other:
        other["g/qpos"] = np.zeros((12, 3))
    file["infos"] = h5py.ExternalLink("other.hdf5", "g")


def in_raw_bytes(file):
    file.create_dataset("observations", (12, 3), np.float32, external=[("/etc/passwd", 0, 144)])


def virtual(file):
    layout = h5py.VirtualLayout((12, 3), np.float32)
    layout[:] = h5py.VirtualSource("other.hdf5", "observations", (12, 3))
    file.create_virtual_dataset("observations", layout)


def with_a_plugin(file):
    scaled = {"scaleoffset": 3}
    file.create_dataset("observations", data=np.zeros((12, 3), np.float32), **scaled)


def a_group(file):
    file.create_group("observations")


def shared(file):
    file["observations"] = file["next_observations"]


STRANGE = {
    bomb: r"observations claims shape \(1000000000, 3\), which is more than 32 times what the file can hold",
    never_written: r"observations holds 1 chunks, expected 3",
    never_written_plain: r"observations holds 0 bytes, expected 144",
    of_another_file: "observations is not in this file",
    a_group_of_another_file: "infos is not in this file",
    in_raw_bytes: "observations lies in other files",
    virtual: "observations lies in other files",
    with_a_plugin: "observations is stored with filters",
    a_group: "observations is not an array of this file",
    shared: "next_observations shares the bytes",
}


@pytest.mark.parametrize(("make", "message"), STRANGE.items())
def test_what_is_not_in_the_file_is_never_read(path, tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    write_plainly(path, arrays_of(EPISODES) | {"observations": None})
    with h5py.File(path, "a") as file:
        make(file)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"^{path}: cannot be read \({message}"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"no such format" * 100])
def test_what_is_not_hdf5_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: cannot be read .*; remove it, or fetch it again"):
        load(path)


def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=str(path)):
        load(path)


def test_a_file_is_read_a_part_at_a_time(path):
    length = 100
    d4rl.write(path, (episode(length, True, seed, extras=False) for seed in range(1000)))
    ahead = hdf5.AHEAD * 4 * (3 + 3 + 2 + 1)
    tracemalloc.start()
    try:
        assert sum(found.length for found in d4rl.read(path)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2 * ahead + 2**21 < 4 * 100_000 * (3 + 3 + 2 + 1)
    finally:
        tracemalloc.stop()


# Writing.


def test_writing_never_overwrites(path):
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=f"expected a new file: '{path}'"):
        d4rl.write(path, EPISODES)
    assert path.read_bytes() == b"precious"


def test_a_broken_episode_leaves_no_file(path):
    broken = EPISODES[1]._replace(rewards=np.full(6, np.nan, np.float32))
    with pytest.raises(ValueError, match=f"^{path}: episode 1: rewards is not finite in row 0"):
        d4rl.write(path, [EPISODES[0], broken])
    with pytest.raises(ValueError, match=f"^{path}: no episodes to write"):
        d4rl.write(path, [])
    with pytest.raises(ValueError, match=f"^{path}: episode 1: .* than the episodes before it: infos/qpos"):
        d4rl.write(path, [EPISODES[0], EPISODES[1]._replace(extras={"physics": EPISODES[1].extras["physics"]})])
    with pytest.raises(ValueError, match=rf"^{path}: episode 0: rewards has shape \(5, 4\), expected one reward"):
        d4rl.write(path, [EPISODES[0]._replace(rewards=np.zeros((5, 4), np.float32))])
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_names_the_file(path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        d4rl.write(path, EPISODES)
    assert list(path.parent.iterdir()) == []


# Names.


def test_a_file_is_looked_for_in_our_folder_then_in_d4rls(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "named"))
    folders = d4rl.folders(tmp_path / "data")
    expected = ["data", "data/d4rl", "named", "home/.d4rl/datasets"]
    assert folders == [tmp_path / folder for folder in expected]
    assert d4rl.find("ant-full-replay-v2", tmp_path / "data") is None
    for folder in reversed(folders):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ant_full_replay-v2.hdf5").touch()
        assert d4rl.find("ant-full-replay-v2", tmp_path / "data") == folder / "ant_full_replay-v2.hdf5"
    monkeypatch.delenv("D4RL_DATASET_DIR")
    assert len(d4rl.folders(tmp_path)) == 3


def test_an_unknown_data_set_lists_the_known_ones(tmp_path):
    with pytest.raises(
        ValueError, match=r"'hopper-mediocre-v2', expected one of: halfcheetah-random-v2.*kitchen-mixed"
    ):
        d4rl.find("hopper-mediocre-v2", tmp_path)


def test_every_environment_of_d4rl_has_a_file_and_every_file_an_environment():
    assert set(d4rl.URLS) == {spec.name for spec in mujoco.SPECS if spec.domain.startswith("d4rl-")}
    assert len({d4rl.file_name(name) for name in d4rl.URLS}) == len(d4rl.URLS) == 24 + 12 + 3


def test_addresses_are_those_of_d4rl():
    known = d4rl_infos().DATASET_URLS
    assert {name: known[name] for name in d4rl.URLS} == d4rl.URLS
