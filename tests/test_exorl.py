"""ExoRL's files: written and read whole or not at all, relabelled, and cached."""

import errno
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data import exorl, exorl_cache
from data.episode import Episode
from data.exorl import Sizes, episode_files, load, read, read_episode, write, write_episode

SIZES = Sizes(observation=3, action=2, physics=4)


def episode(length=5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observation": rng.standard_normal((length + 1, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
        "reward": np.full(length + 1, -1, np.float32),
        "discount": np.ones(length + 1, np.float32),
        "physics": rng.standard_normal((length + 1, 4)),
    }


def reward_fn(physics, actions):
    return physics[:, 0] + 10 * actions[:, 1]


def unwanted(*args, **kwargs):
    raise RuntimeError("called again")


def unwanted_at(name):
    def call(path):
        if path.name == name:
            unwanted()

    return call


def load_run(folder, reward_fn=reward_fn, **settings):
    settings = {"name": "walker_run", "workers": 1} | settings
    return load(folder, sizes=SIZES, reward_fn=reward_fn, **settings)


@pytest.fixture
def folder(tmp_path):
    """A data set of three episodes of 5, 6 and 7 steps."""
    for index in range(3):
        write_episode(tmp_path / "buffer", index, episode(5 + index, seed=index))
    return tmp_path


def replace_in(path, **changes):
    """Write an episode's file again with some arrays changed (None: left out), unchecked."""
    with np.load(path) as archive:
        arrays = dict(archive) | changes
    np.savez(path, **{key: values for key, values in arrays.items() if values is not None})


def test_an_episode_comes_back_as_it_was_written(tmp_path):
    arrays = episode()
    path = write_episode(tmp_path / "buffer", 3, arrays)
    assert path == tmp_path / "buffer" / "episode_000003_5.npz"
    back = read_episode(path, name="walker_run", sizes=SIZES)
    for key, values in arrays.items():
        np.testing.assert_array_equal(back[key].reshape(values.shape), values)
    assert back["reward"].shape == back["discount"].shape == (6, 1)  # as ExoRL's loaders expect
    assert list(path.parent.iterdir()) == [path]


def test_episodes_are_listed_by_index_and_half_written_ones_left_out(tmp_path):
    for index in (10, 2):
        write_episode(tmp_path, index, episode())
    (tmp_path / "episode_000003_5.npz.77.tmp").write_bytes(b"half")
    assert [path.name for path in episode_files(tmp_path)] == ["episode_000002_5.npz", "episode_000010_5.npz"]
    assert episode_files(tmp_path / "absent") == []


def test_an_index_that_is_there_twice_is_refused(folder):
    write_episode(folder / "other", 1, episode(9))
    shutil.copy(folder / "other" / "episode_000001_9.npz", folder / "buffer")
    with pytest.raises(ValueError, match=r"episode_000001_9.npz: expected one episode 1, got episode_000001_6.npz too"):
        episode_files(folder / "buffer")


def test_writing_never_overwrites(folder):
    before = (folder / "buffer" / "episode_000001_6.npz").read_bytes()
    with pytest.raises(FileExistsError, match=r"episode_000001_6.npz: episode 1 is already there"):
        write_episode(folder / "buffer", 1, episode(9))
    assert (folder / "buffer" / "episode_000001_6.npz").read_bytes() == before


def test_a_broken_episode_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"episode_000000_5.npz: reward is not finite in row 3"):
        write_episode(tmp_path, 0, episode() | {"reward": np.array([0, 1, 2, np.nan, 4, 5], np.float32)})
    assert list(tmp_path.iterdir()) == []


def no_space(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_leaves_the_others_alone(folder, monkeypatch):
    before = {path: path.read_bytes() for path in (folder / "buffer").iterdir()}
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: .*episode_000003_5.npz"):
        write_episode(folder / "buffer", 3, episode())
    assert {path: path.read_bytes() for path in (folder / "buffer").iterdir()} == before


WRONG = {
    "action has 6 columns, walker_run expects 2": {"action": np.zeros((6, 6), np.float32)},
    "observation has 4 columns, walker_run expects 3": {"observation": np.zeros((6, 4), np.float32)},
    "physics has 5 columns, walker_run expects 4": {"physics": np.zeros((6, 5))},
    "physics is missing, expected observation, action, reward, discount, physics; got obs": {"physics": None},
    "observation is not finite in row 2": {"observation": np.float32([[0, 0, 0]] * 2 + [[0, np.nan, 0]] * 4)},
    "reward is not finite in row 5": {"reward": np.array([0, 0, 0, 0, 0, np.inf], np.float32)},
    r"action has shape \(5, 2\), expected 5 steps and the reset row": {"action": np.zeros((5, 2), np.float32)},
    r"observation has shape \(6,\), expected \[rows, columns\]": {"observation": np.zeros(6, np.float32)},
    "physics is float32, expected float64": {"physics": np.zeros((6, 4), np.float32)},
    "action reaches 1.5, expected all within": {"action": np.full((6, 2), -1.5, np.float32)},
    "observation is float64, expected float32": {"observation": np.zeros((6, 3))},
    "cannot be read .*pickle": {"reward": np.array([None] * 6)},
}


@pytest.mark.parametrize(("message", "change"), WRONG.items())
def test_a_wrong_file_gives_one_line_with_its_name(folder, message, change):
    path = folder / "buffer" / "episode_000000_5.npz"
    replace_in(path, **change)
    with pytest.raises(ValueError, match=f"^{path}: {message}") as raised:
        load_run(folder)
    assert "\n" not in str(raised.value)
    assert not list((folder / "cache").iterdir())


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_truncated_file_is_refused(folder, size):
    path = folder / "buffer" / "episode_000001_6.npz"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"^{path}: truncated, or not an npz file; remove it, or fetch it again"):
        load_run(folder)


def test_a_flipped_bit_is_refused(folder):
    path = folder / "buffer" / "episode_000001_6.npz"
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # in the data of the first array
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: cannot be read .*CRC"):
        load_run(folder)


def test_a_length_that_disagrees_with_the_name_is_refused(folder):
    path = folder / "buffer" / "episode_000000_5.npz"
    path.rename(wrong := path.with_name("episode_000000_9.npz"))
    with pytest.raises(ValueError, match=rf"^{wrong}: observation has shape \(6, 3\), expected 9 steps"):
        load_run(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}/buffer: no episodes, expected files named"):
        load_run(tmp_path)


def test_an_action_is_shown_with_the_observation_before_it_and_the_reward_after_it(folder):
    trajectories = load_run(folder).trajectories
    assert [len(t.rewards) for t in trajectories] == [5, 6, 7]
    for index, trajectory in enumerate(trajectories):
        arrays = episode(5 + index, seed=index)
        np.testing.assert_array_equal(trajectory.observations, arrays["observation"][:-1])
        np.testing.assert_array_equal(trajectory.actions, arrays["action"][1:])
        rewards = reward_fn(arrays["physics"], arrays["action"])[1:].astype(np.float32)
        np.testing.assert_array_equal(trajectory.rewards, rewards)


def test_files_of_the_release_load_too(folder):
    """Compressed, with the skills of some agents and a reward per goal."""
    path = folder / "buffer" / "episode_000000_5.npz"
    reference, sha256, _ = load_run(folder)
    with np.load(path) as archive:
        arrays = dict(archive) | {
            "reward": np.zeros((6, 4), np.float32),
            "skill": np.zeros((6, 16), np.float32),
        }
    np.savez_compressed(path, **arrays)
    trajectories, again, _ = load_run(folder)
    assert again == sha256
    np.testing.assert_array_equal(trajectories[0].rewards, reference[0].rewards)


def test_the_second_load_maps_the_cache_and_relabels_nothing(folder):
    first = load_run(folder)
    second = load_run(folder, reward_fn=unwanted)
    assert second.sha256 == first.sha256
    for one, other in zip(first.trajectories, second.trajectories, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    base = second.trajectories[2].observations
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not second.trajectories[0].observations.flags.writeable


class Reads:
    """Counts what is read of which file."""

    def __init__(self, monkeypatch):
        self.files = []
        read = exorl._read

        def counted(path, keys=(), *args, **kwargs):
            self.files.append((int(path.name[8:14]), "whole" if not keys else "rewards"))
            return read(path, keys, *args, **kwargs)

        monkeypatch.setattr(exorl, "_read", counted)

    def since(self):
        found, self.files = self.files, []
        return found


def steps_of(loaded):
    return [len(t.rewards) for t in loaded.trajectories]


@pytest.mark.parametrize(("max_steps", "steps"), [(5, [5]), (10, [5]), (11, [5, 6]), (18, [5, 6, 7]), (0, [5, 6, 7])])
def test_the_first_episodes_that_together_have_no_more_steps(folder, max_steps, steps):
    assert steps_of(load_run(folder, max_steps=max_steps)) == steps


def test_fewer_steps_than_the_first_episode_has_are_refused(folder):
    with pytest.raises(ValueError, match="--max_steps: expected at least 5, the steps of the first episode, got 4"):
        load_run(folder, max_steps=4)


def test_a_cache_grows_by_what_is_asked_for_and_serves_less_as_it_is(folder, monkeypatch):
    fresh = load_run(folder)
    shutil.rmtree(folder / "cache")
    reads = Reads(monkeypatch)
    first = load_run(folder, max_steps=5)
    assert reads.since() == [(0, "whole")]
    everything = load_run(folder)
    assert reads.since() == [(1, "whole"), (2, "whole")]
    for one, other in zip(fresh.trajectories, everything.trajectories, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert load_run(folder, max_steps=5).sha256 == first.sha256 != everything.sha256 == fresh.sha256
    assert reads.since() == []


def test_rewards_of_another_task_grow_too(folder, monkeypatch):
    load_run(folder)
    reads = Reads(monkeypatch)
    load_run(folder, name="walker_walk", max_steps=11)
    assert reads.since() == [(0, "rewards"), (1, "rewards")]
    write_episode(folder / "buffer", 3, episode(4, seed=3))
    walk = load_run(folder, name="walker_walk")
    assert reads.since() == [(2, "rewards"), (3, "whole")]
    arrays = episode(4, seed=3)
    np.testing.assert_array_equal(walk.trajectories[3].observations, arrays["observation"][:-1])
    for index, trajectory in enumerate(walk.trajectories):
        arrays = episode((5, 6, 7, 4)[index], seed=index)
        rewards = reward_fn(arrays["physics"], arrays["action"])[1:].astype(np.float32)
        np.testing.assert_array_equal(trajectory.rewards, rewards)
    run = load_run(folder)
    assert reads.since() == [(3, "rewards")]
    np.testing.assert_array_equal(run.trajectories[3].rewards, walk.trajectories[3].rewards)


def test_only_what_follows_a_changed_file_is_read_again(folder, monkeypatch):
    load_run(folder)
    os.utime(folder / "buffer" / "episode_000001_6.npz", (0, 0))
    reads = Reads(monkeypatch)
    assert steps_of(load_run(folder, max_steps=5)) == [5]
    assert reads.since() == []
    load_run(folder)
    assert reads.since() == [(1, "whole"), (2, "whole")]


def test_rewards_of_changed_episodes_are_never_served(folder):
    load_run(folder)
    load_run(folder, name="walker_walk")
    path = folder / "buffer" / "episode_000000_5.npz"
    replace_in(path, physics=episode(seed=9)["physics"])
    for name in ("walker_run", "walker_walk"):
        arrays = episode()
        rewards = reward_fn(episode(seed=9)["physics"], arrays["action"])[1:].astype(np.float32)
        np.testing.assert_array_equal(load_run(folder, name=name).trajectories[0].rewards, rewards)


def test_arrays_in_hand_stay_as_they_were_when_the_cache_is_made_anew(folder):
    before = load_run(folder).trajectories[0].observations
    replace_in(folder / "buffer" / "episode_000000_5.npz", observation=np.zeros((6, 3), np.float32))
    assert not load_run(folder).trajectories[0].observations.any()
    np.testing.assert_array_equal(before, episode()["observation"][:-1])


def test_a_smaller_cache_that_takes_the_place_of_a_larger_is_noticed(folder, monkeypatch):
    """Two first loads at once: one of all, and one of less that ends between the other's end and its mapping."""
    build = exorl_cache._build

    def overtaken(*args):
        found = build(*args)
        monkeypatch.setattr(exorl_cache, "_build", build)
        (folder / "cache" / "meta.json").unlink()
        load_run(folder, max_steps=5)
        return found

    monkeypatch.setattr(exorl_cache, "_build", overtaken)
    with pytest.raises((ValueError, FileNotFoundError), match=r"smaller cache|rewards"):
        load_run(folder)
    assert steps_of(load_run(folder)) == [5, 6, 7]


def test_missing_numbers_and_a_half_written_last_file_are_noted(folder, capsys):
    (folder / "buffer" / "episode_000001_6.npz").unlink()
    half = write_episode(folder / "buffer", 3, proper(8))
    half.write_bytes(half.read_bytes()[:300])
    loaded = load_run(folder)
    assert steps_of(loaded) == [5, 7]
    assert loaded.notes == [
        f"{half}: not written to its end, left out",
        f"{folder / 'buffer'}: 1 of the numbers from 0 to 2 are missing, the others are read",
    ]
    half.unlink()
    write_episode(folder / "buffer", 3, proper(8))
    assert steps_of(load_run(folder)) == [5, 7, 8]


def test_a_last_file_that_is_damaged_otherwise_is_refused(folder):
    path = folder / "buffer" / "episode_000002_7.npz"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: cannot be read .*CRC"):
        load_run(folder)


def test_rounding_beyond_the_range_of_actions_is_clipped(folder):
    actions = episode()["action"]
    actions[3] = [1.00005, -1.00005]
    replace_in(folder / "buffer" / "episode_000000_5.npz", action=actions)
    found = load_run(folder).trajectories[0].actions
    np.testing.assert_array_equal(found[2], [1, -1])
    np.testing.assert_array_equal(found[[0, 1, 3, 4]], actions[[1, 2, 4, 5]])


def proper(length=5, seed=0, columns=1):
    """An episode whose reset is one."""
    arrays = episode(length, seed)
    arrays["reward"] = np.random.default_rng(seed).uniform(size=(length + 1, columns)).astype(np.float32)
    arrays["action"][0] = arrays["reward"][0] = 0
    return arrays


@pytest.mark.parametrize("columns", [1, 4])
def test_what_is_read_is_what_is_stored_less_the_row_of_the_reset(tmp_path, columns):
    arrays = proper(columns=columns) | {"skill": np.eye(6, dtype=np.float32)}
    write_episode(tmp_path / "buffer", 0, arrays)
    (found,) = read(tmp_path)
    np.testing.assert_array_equal(found.observations, arrays["observation"])
    np.testing.assert_array_equal(found.actions, arrays["action"][1:])
    np.testing.assert_array_equal(found.rewards, arrays["reward"][1:, 0] if columns == 1 else arrays["reward"][1:])
    assert not found.terminated
    assert list(found.extras) == ["discount", "physics", "skill"]
    for key in found.extras:
        np.testing.assert_array_equal(found.extras[key], arrays[key])


@given(
    length=st.integers(1, 4),
    columns=st.integers(1, 3),
    terminated=st.booleans(),
    extras=st.dictionaries(
        st.text("abz_/. ", min_size=1, max_size=3), st.tuples(hnp.scalar_dtypes(), st.booleans()), max_size=3
    ),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_what_is_written_comes_back(tmp_path_factory, length, columns, terminated, extras, seed):
    rng = np.random.default_rng(seed)
    made = Episode(
        rng.standard_normal((length + 1, 3)).astype(np.float32),
        rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        rng.uniform(size=(length, columns) if columns > 1 else length).astype(np.float32),
        terminated,
        {"physics": rng.standard_normal((length + 1, 4))},
    )
    for key, (dtype, last) in extras.items():
        made.extras[key] = rng.integers(0, 2, (length + last, 2)).astype(dtype)
    folder = tmp_path_factory.mktemp("written")
    write(folder, [made, made])
    for found in read(folder):
        for one, other in zip(made[:4], found[:4], strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
        assert found.extras.keys() == made.extras.keys() | {"discount"}
        for key, values in made.extras.items():
            np.testing.assert_array_equal(found.extras[key], values, strict=True)


def an_episode(**changes):
    arrays = proper()
    extras = {"physics": arrays["physics"], "discount": arrays["discount"]}
    return Episode(arrays["observation"], arrays["action"][1:], arrays["reward"][1:, 0], False, extras)._replace(
        **changes
    )


NOT_EXORL = {
    "physics is missing": an_episode(extras={}),
    "lacks the observation after the last action": an_episode(observations=proper()["observation"][:-1]),
    "observation is float64, and float32 would change it": an_episode(observations=np.full((6, 3), 0.1)),
    "reward is float64, and float32 would change it": an_episode(rewards=np.full(5, 1e300)),
    "extras have reward, expected other names": an_episode(extras={"reward": np.zeros(6)}),
    r"discount ends in 1.0, expected 0 where": an_episode(terminated=True),
    "actions reach 2, expected them within": an_episode(actions=np.full((5, 2), 2, np.float32)),
    "'a:b' of dtype float64, expected a plain name": an_episode(extras=an_episode().extras | {"a:b": np.zeros(6)}),
    "'o' of dtype object, expected .* plain numbers": an_episode(
        extras=an_episode().extras | {"o": np.array([None] * 6)}
    ),
}


@pytest.mark.parametrize(("message", "wrong"), NOT_EXORL.items())
def test_what_the_format_cannot_hold_is_refused_by_name(tmp_path, message, wrong):
    with pytest.raises(ValueError, match=rf"^{tmp_path}/buffer.*episode.?0+.*: .*{message}"):
        write(tmp_path, [wrong])
    assert not episode_files(tmp_path / "buffer")


def test_numbers_of_another_dtype_are_cast_where_that_changes_none(tmp_path):
    made = an_episode(rewards=np.arange(5), observations=proper()["observation"].astype(np.float64))
    write(tmp_path, [made])
    (found,) = read(tmp_path)
    assert (found.rewards.dtype, found.observations.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(found.observations, made.observations)
    np.testing.assert_array_equal(found.rewards, made.rewards)


def test_writing_episodes_into_others_is_refused(folder):
    with pytest.raises(FileExistsError, match=f"^{folder}/buffer: holds 3 episodes already"):
        write(folder, [an_episode()])


@pytest.mark.parametrize("key", ["action", "reward"])
def test_a_reset_that_is_none_is_not_thrown_away(tmp_path, key):
    arrays = proper()
    arrays[key][0] = 0.5
    path = write_episode(tmp_path / "buffer", 0, arrays)
    with pytest.raises(ValueError, match=rf"^{path}: {key} of row 0 is \[0.5.*\], expected zeros"):
        list(read(tmp_path))


def test_each_task_keeps_its_own_rewards(folder):
    run = load_run(folder).trajectories[0].rewards
    walk = load_run(folder, name="walker_walk", reward_fn=lambda physics, actions: physics[:, 1])
    np.testing.assert_array_equal(walk.trajectories[0].rewards, episode()["physics"][1:, 1].astype(np.float32))
    np.testing.assert_array_equal(load_run(folder, reward_fn=unwanted).trajectories[0].rewards, run)


def test_rewards_are_made_again_for_another_version_of_the_simulator(folder, monkeypatch):
    load_run(folder)
    monkeypatch.setattr(exorl_cache.importlib.metadata, "version", lambda package: "99")
    with pytest.raises(RuntimeError, match="called again"):
        load_run(folder, reward_fn=unwanted)
    load_run(folder)
    assert len(list((folder / "cache").glob("rewards.*"))) == 1


def test_rewards_are_made_again_when_the_code_of_the_environments_is_edited(folder, monkeypatch, tmp_path):
    (tmp_path / "walker.py").write_text("SPEED = 8")
    monkeypatch.setattr(exorl_cache, "ENVIRONMENTS", tmp_path)
    exorl_cache._code.cache_clear()
    load_run(folder)
    load_run(folder, reward_fn=unwanted)
    (tmp_path / "walker.py").write_text("SPEED = 4")
    exorl_cache._code.cache_clear()
    with pytest.raises(RuntimeError, match="called again"):
        load_run(folder, reward_fn=unwanted)
    exorl_cache._code.cache_clear()


def test_arrays_of_any_name_may_lie_beside_exorl_s(folder):
    path = episode_files(folder / "buffer")[0]
    arrays = read_episode(path)
    path.unlink()
    write_episode(folder / "buffer", 0, arrays | {"index": arrays["reward"], "count": np.zeros((6, 2))})
    assert len(load_run(folder).trajectories) == 3


def test_a_cache_of_another_format_is_made_anew(folder, monkeypatch):
    load_run(folder)
    monkeypatch.setattr(exorl_cache, "FORMAT", exorl_cache.FORMAT + 1)
    monkeypatch.setattr(exorl, "_read", unwanted)
    with pytest.raises(RuntimeError, match="called again"):
        load_run(folder)


def test_a_crash_between_the_arrays_and_their_description_leaves_no_description(folder, monkeypatch):
    load_run(folder)
    write_episode(folder / "buffer", 3, episode(4, seed=3))
    with monkeypatch.context() as patch:
        patch.setattr(exorl_cache, "_sync", unwanted_at("meta.json"))
        with pytest.raises(RuntimeError, match="called again"):
            load_run(folder)
    assert not (folder / "cache" / "meta.json").exists()
    assert len(load_run(folder).trajectories) == 4


def test_a_new_episode_makes_the_cache_anew(folder):
    sha256 = load_run(folder).sha256
    write_episode(folder / "buffer", 3, episode(4, seed=3))
    longer = load_run(folder)
    assert [len(t.rewards) for t in longer.trajectories] == [5, 6, 7, 4]
    assert longer.sha256 != sha256
    assert len(list((folder / "cache").iterdir())) == 4


@pytest.mark.parametrize("part", ["observations.npy", "actions.npy", "meta.json"])
@pytest.mark.parametrize("size", [None, 0, 150])
def test_a_half_written_cache_is_made_anew(folder, part, size):
    first = load_run(folder)
    path = folder / "cache" / part
    content = path.read_bytes()[:size] if size is not None else None
    path.unlink()  # the arrays in hand stay mapped to the old file
    if content is not None:
        path.write_bytes(content)
    again = load_run(folder)
    assert again.sha256 == first.sha256
    np.testing.assert_array_equal(again.trajectories[2].actions, first.trajectories[2].actions)


def test_the_hash_is_of_the_content(folder, tmp_path):
    sha256 = load_run(folder).sha256
    os.utime(folder / "buffer" / "episode_000000_5.npz", (0, 0))
    assert load_run(folder).sha256 == sha256
    replace_in(folder / "buffer" / "episode_000000_5.npz", action=np.zeros((6, 2), np.float32))
    assert load_run(folder).sha256 != sha256


def process_number(physics, actions):
    return np.full(len(physics), os.getpid())


def test_much_data_is_relabelled_in_other_processes_and_little_in_this_one(folder, monkeypatch):
    assert load_run(folder, reward_fn=process_number).trajectories[0].rewards[0] == os.getpid()
    shutil.rmtree(folder / "cache")
    monkeypatch.setattr(exorl_cache, "INLINE_STEPS", 0)
    assert load_run(folder, reward_fn=process_number, workers=2).trajectories[0].rewards[0] != os.getpid()


def test_processes_give_what_one_gives(folder, monkeypatch):
    alone = load_run(folder)
    shutil.rmtree(folder / "cache")
    monkeypatch.setattr(exorl_cache, "INLINE_STEPS", 0)
    together = load_run(folder, workers=2)
    for one, other in zip(alone.trajectories, together.trajectories, strict=True):
        np.testing.assert_array_equal(one.rewards, other.rewards)


@pytest.mark.parametrize("wrong", [lambda p, a: np.zeros(len(p) - 1), lambda p, a: np.full(len(p), np.nan)])
def test_rewards_of_a_wrong_shape_or_value_are_refused(folder, wrong):
    with pytest.raises(ValueError, match=r"episode_000000_5.npz: expected 6 finite rewards of walker_run"):
        load_run(folder, reward_fn=wrong)
    assert not list((folder / "cache").glob("rewards*"))


def test_a_full_disk_while_caching_harms_no_episode_and_names_the_file(folder, monkeypatch):
    before = {path: path.read_bytes() for path in (folder / "buffer").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match=r"No space left on device: .*cache"):
            load_run(folder)
    assert {path: path.read_bytes() for path in (folder / "buffer").iterdir()} == before
    assert not list((folder / "cache").iterdir())
    load_run(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_named_for_real(folder):
    folder.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=f"^{folder}/cache: cannot be written"):
            load_run(folder)
    finally:
        folder.chmod(0o700)


def test_a_folder_without_rights_is_named_before_any_work(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(exorl, "_read", unwanted)
    with pytest.raises(PermissionError, match=f"^{folder}/cache: cannot be written, expected a data set folder"):
        load_run(folder)


def test_data_that_may_not_be_written_are_linked_from_a_folder_that_may(folder, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "buffer").symlink_to(folder / "buffer")
    assert load_run(mine).sha256 == load_run(folder).sha256
    assert sorted(path.name for path in mine.iterdir()) == ["buffer", "cache"]
