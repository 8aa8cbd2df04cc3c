"""Minari's data sets: written so that Minari takes them, read as Minari wrote them, and never trusted."""

import errno
import json
import os
import resource
import sys

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import minari
from data.episode import Episode

package = pytest.importorskip("minari")

ID = "walker/rnd-v0"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """An empty place for data sets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    return tmp_path / "sets"


def episode(length=5, seed=0, **changes):
    """As ExoRL's files hold it: 3 observation columns, 2 action columns, 4 numbers of physics."""
    rng = np.random.default_rng(seed)
    made = Episode(
        observations=rng.standard_normal((length + 1, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        rewards=rng.uniform(0, 1, length).astype(np.float32),
        terminated=False,
        extras={"physics": rng.standard_normal((length + 1, 4)), "discount": np.ones((length + 1, 1), np.float32)},
    )
    return made._replace(**changes)


EPISODES = [episode(5, 0), episode(7, 1, terminated=True), episode(1, 2)]


def same(one, other):
    """Whether two episodes have the same bits."""
    arrays = [
        {"o": e.observations, "a": e.actions, "r": e.rewards} | {f"x {k}": v for k, v in e.extras.items()}
        for e in (one, other)
    ]
    return (
        arrays[0].keys() == arrays[1].keys()
        and one.terminated is other.terminated
        and all(
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in zip((arrays[0][key] for key in arrays[0]), (arrays[1][key] for key in arrays[0]), strict=True)
        )
    )


def load(id=ID, **changes):
    return minari.load(id, **{"name": "walker_run", "observation_size": 3, "action_size": 2} | changes)


def edit(root, **changes):
    """Change entries of a set's metadata.json (None: take out)."""
    path = root / ID / "data" / "metadata.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_what_is_written_is_read_bit_for_bit(root):
    assert minari.write(ID, EPISODES) == root / ID
    assert all(map(same, minari.read(ID), EPISODES))
    assert len(list(minari.read(ID))) == 3
    assert not [path for path in root.rglob("*") if path.name.endswith(".tmp")]


columns = st.integers(1, 3)
names = st.text("abc_1", min_size=1, max_size=3)
kinds = st.sampled_from([np.float32, np.float64, np.float16, np.int32, np.uint8, np.int64, np.bool_])


@st.composite
def data_sets(draw):
    """Episodes of any dtype, with extras of any shape, of which some lack what followed the last action."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    floats, sizes = draw(st.sampled_from([np.float32, np.float64])), (draw(columns), draw(columns))
    tasks = draw(st.sampled_from([(), (1,), (4,)]))
    episodes = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, 6))
        extras = {
            key: rng.integers(
                0, 100, (length + draw(st.integers(0, 1)), *draw(st.sampled_from([(), (0,), (2,), (2, 3)])))
            ).astype(draw(kinds))
            for key in draw(st.lists(names, unique=True, max_size=3))
        }
        if extras and draw(st.booleans()):
            extras = {f"deep/{key}": values for key, values in extras.items()}
        rows = length + draw(st.integers(0, 1))
        episodes.append(
            Episode(
                rng.standard_normal((rows, sizes[0])).astype(floats),
                rng.uniform(-1, 1, (length, sizes[1])).astype(floats),
                rng.standard_normal((length, *tasks)).astype(floats),
                draw(st.booleans()),
                extras,
            )
        )
    return episodes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data_sets())
def test_nothing_is_lost_on_the_way(tmp_path_factory, episodes):
    os.environ["MINARI_DATASETS_PATH"] = str(tmp_path_factory.mktemp("sets"))
    minari.write(ID, episodes)
    back = list(minari.read(ID))
    assert len(back) == len(episodes) and all(map(same, back, episodes))


def test_minari_itself_takes_what_is_written():
    """Its loader, its listing, and the checks of its own tests: counts, lengths, every row within its space."""
    beyond = episode(3, 3, actions=np.full((3, 2), 1.00005, np.float32))
    minari.write(
        ID, [*EPISODES, beyond], description="made up", algorithm="rnd", author="us", requirements=["mujoco==3"]
    )
    assert list(package.list_local_datasets()) == [ID]
    found = package.load_dataset(ID)
    assert (found.total_episodes, found.total_steps, found.id) == (4, 16, ID)
    assert found.storage.metadata["author"] == {"us"} and found.storage.metadata["requirements"] == ["mujoco==3"]
    for data, made in zip(found, [*EPISODES, beyond], strict=True):
        assert len(data) == made.length == len(data.terminations) == len(data.truncations)
        assert len(data.observations) == made.length + 1
        assert all(map(found.observation_space.contains, data.observations))
        assert all(map(found.action_space.contains, data.actions))
        assert data.terminations[-1] == made.terminated != data.truncations[-1]
        np.testing.assert_array_equal(data.infos["physics"], made.extras["physics"])
    assert package.list_local_datasets(prefix="walker") and "walker" in package.namespace.list_local_namespaces()


def test_a_set_grows_by_minaris_own_means():
    minari.write(ID, EPISODES)
    more = package.data_collector.EpisodeBuffer(
        observations=np.zeros((3, 3), np.float32),
        actions=np.zeros((2, 2), np.float32),
        rewards=[0.0, 1.0],
        terminations=[False, True],
        truncations=[False, False],
        infos={},
    )
    package.load_dataset(ID).update_dataset_from_buffer([more])
    assert [e.length for e in minari.read(ID)] == [5, 7, 1, 2]


def test_the_environment_comes_back_from_a_set():
    minari.write(ID, EPISODES, env_id="walker_run", entry_point="envs:make")
    minari.write("car-v0", EPISODES, env_id="a_car")
    assert minari.info(ID).env_id == "walker_run"
    env = package.load_dataset(ID).recover_environment()
    assert env.observation_space.shape == (24,)
    assert package.load_dataset("car-v0").env_spec.id == "a_car"


@pytest.fixture
def official():
    """A set that Minari wrote, of an environment with two observations and one action; and its arrays."""
    gymnasium = pytest.importorskip("gymnasium")
    env, buffers = gymnasium.make("MountainCarContinuous-v0"), []
    env.action_space.seed(0)
    for index in range(3):
        buffer = package.data_collector.EpisodeBuffer(
            observations=[env.reset(seed=index)[0]], actions=[], infos={"n": {"x": [0.0]}, "name": ["a"] * 11}
        )
        for step in range(10):
            action = env.action_space.sample()
            observation, reward, terminated, _, _ = env.step(action)
            buffer.observations.append(observation)
            buffer.actions.append(action)
            buffer.rewards.append(reward)
            buffer.terminations.append(terminated)
            buffer.truncations.append(step == 9)
            buffer.infos["n"]["x"].append(float(step))
        buffers.append(buffer)
    with pytest.warns(UserWarning, match="is set to None"):
        package.create_dataset_from_buffers("car/random-v0", buffers, env=env, requirements=["gymnasium"])
    return buffers


def test_a_set_that_minari_wrote_is_read(official):
    back = list(minari.read("car/random-v0"))
    for one, made in zip(back, official, strict=True):
        np.testing.assert_array_equal(one.observations, made.observations)
        np.testing.assert_array_equal(one.actions, made.actions)
        np.testing.assert_array_equal(one.rewards, made.rewards)
        assert not one.terminated and list(one.extras) == ["n/x"]  # text has no place
        np.testing.assert_array_equal(one.extras["n/x"], [0.0, *range(10)])
    found = minari.info("car/random-v0")
    assert found[2:5] == ("hdf5", 3, 30) and found[6:8] == (2, 1)
    assert (found.env_id, found.minari_version, found.requirements) == (
        "MountainCarContinuous-v0",
        "0.5.4",
        ("gymnasium",),
    )
    loaded = minari.load("car/random-v0", name="car", observation_size=2, action_size=1)
    assert loaded.trajectories[2].total == pytest.approx(sum(official[2].rewards))
    assert loaded.notes[0] == "rewards of 0 of 3 episodes computed from physics states, the others as stored"
    assert loaded.notes[2] == "recorded in MountainCarContinuous-v0, with gymnasium"


@pytest.mark.parametrize("format", ["arrow", "parquet"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minaris_other_formats_are_read_too(format):
    pytest.importorskip("pyarrow")
    minari.write("a-v0", EPISODES)
    spaces = package.load_dataset("a-v0")
    package.create_dataset_from_buffers(
        ID,
        [package.data_collector.EpisodeBuffer(**vars(data) | {"id": None}) for data in spaces],
        data_format=format,
        observation_space=spaces.observation_space,
        action_space=spaces.action_space,
    )
    assert minari.info(ID).format == format
    assert all(map(same, minari.read(ID), EPISODES))
    assert load().sha256 == load("a-v0").sha256


def test_rewards_are_those_of_having_arrived(root):
    minari.write(ID, EPISODES, env_id="walker_walk", requirements=["mujoco==3"])
    stored = load()
    assert [t.rewards.tolist() for t in stored.trajectories] == [e.rewards.tolist() for e in EPISODES]
    computed = load(reward_fn=lambda physics, actions: physics[:, 0] + 10 * actions[:, 1])
    for trajectory, made in zip(computed.trajectories, EPISODES, strict=True):
        expected = made.extras["physics"][1:, 0] + 10 * made.actions[:, 1]
        np.testing.assert_array_equal(trajectory.rewards, expected.astype(np.float32))
        np.testing.assert_array_equal(trajectory.observations, made.observations[:-1])
    assert computed.sha256 == stored.sha256
    assert computed.notes == [
        "rewards of 3 of 3 episodes computed from physics states, the others as stored",
        "1 of 3 episodes end by termination, the others at a limit of time",
        "recorded in walker_walk, with mujoco==3",
    ]
    with pytest.raises(ValueError, match=f"^{root / ID}: episode 0: expected 5 finite rewards of walker_run, got"):
        load(reward_fn=lambda physics, actions: np.full(len(physics), np.nan))


def test_rewards_that_cannot_be_computed_are_those_stored_of_the_same_task_or_none():
    plain = [e._replace(extras={}) for e in EPISODES]

    def standing(id):
        return minari.load(id, name="walker_stand", observation_size=3, action_size=2, reward_fn=lambda p, a: p[:, 0])

    minari.write("a-v0", plain, env_id="dm_control/walker-stand-v0")
    assert standing("a-v0").trajectories[0].rewards.tolist() == EPISODES[0].rewards.tolist()
    minari.write("b-v0", plain, env_id="walker_run")
    with pytest.raises(
        ValueError, match=r"episode 0: no physics states .* walker_stand from, .* stored are of walker_run"
    ):
        standing("b-v0")
    minari.write("c-v0", plain)
    with pytest.raises(ValueError, match=r"episode 0: no physics states .* stored are of an unnamed environment"):
        standing("c-v0")
    for id, mixed in {"d-v0": [plain[0], EPISODES[1]], "e-v0": [EPISODES[0], plain[1]]}.items():
        minari.write(id, mixed, env_id="walker_stand")
        with pytest.raises(ValueError, match=r"episode 1: (has|no) physics states"):
            standing(id)


def test_rewards_of_several_tasks_need_states_to_choose_from():
    four = [e._replace(rewards=np.ones((e.length, 4), np.float32)) for e in EPISODES]
    minari.write(ID, four)
    assert next(minari.read(ID)).rewards.shape == (5, 4)
    with pytest.raises(ValueError, match=r"episode 0: rewards are those of 4 tasks, expected one, or physics states"):
        load()
    assert load(reward_fn=lambda physics, actions: physics[:, 0]).trajectories[0].rewards.shape == (5,)
    minari.write("column-v0", [episode(rewards=np.ones((5, 1), np.float32))])
    assert load("column-v0").trajectories[0].rewards.tolist() == [1] * 5


def test_the_hash_is_of_the_content():
    minari.write(ID, EPISODES)
    minari.write("again-v1", EPISODES, description="the same")
    minari.write("other-v0", [*EPISODES[:2], EPISODES[2]._replace(rewards=np.zeros(1, np.float32))])
    assert load().sha256 == load("again-v1").sha256 != load("other-v0").sha256


def test_asking_makes_no_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert minari.find(ID) is None and minari.list_local() == []
    with pytest.raises(
        FileNotFoundError, match=f"^{tmp_path}/.minari/datasets/{ID}: no data set; get it with: minari download {ID}"
    ):
        minari.read(ID)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("HOME")
    minari.root()


def test_sets_are_listed_by_name_through_links_too(root, tmp_path):
    for id in ("b-v1", ID, "D4RL/pen/human-v2"):
        minari.write(id, EPISODES)
    (root / ID).rename(tmp_path / "elsewhere")
    (root / ID).symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / ".hidden-v0" / "data").mkdir(parents=True)
    (root / "unversioned" / "data").mkdir(parents=True)
    found = [id for id in minari.list_local() if "loop" not in id]
    assert found == ["D4RL/pen/human-v2", "b-v1", ID]
    assert len(list(minari.read(ID))) == 3


@pytest.mark.parametrize("id", ["../x-v0", "/etc/x-v0", "x", "a//b-v0", "", "a/../b-v0", "a-v0/", "a-v0\n", "~/a-v0"])
def test_no_name_leads_out_of_the_folder(id):
    for use in (minari.find, minari.info, minari.read, lambda id: minari.write(id, EPISODES)):
        with pytest.raises(ValueError, match=r"is not the name of a Minari data set, expected \(namespace/\)name-v0"):
            use(id)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    minari.write(ID, EPISODES)
    monkeypatch.setitem(sys.modules, "minari", None)
    for use in (minari.read, load, lambda id: minari.write("b-v0", EPISODES), lambda id: minari.require()):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'agentic-bpt\[minari\]'"):
            use(ID)
    assert minari.info(ID).episodes == 3 and minari.list_local() == [ID]


def box(low, high, shape, kind="Box"):
    return json.dumps({"type": kind, "dtype": "float32", "shape": shape, "low": low, "high": high, "subspaces": {}})


SPACES = {
    "observation_space is missing, expected a Box of vectors": {"observation_space": None},
    "action_space is Discrete, expected a Box of vectors": {"action_space": '{"type": "Discrete", "n": 3, "start": 0}'},
    "observation_space is Dict, expected a Box of vectors": {"observation_space": box([0], [1], [1], "Dict")},
    "observation_space is Box, expected a Box of vectors": {"observation_space": box([[0]], [[1]], [1, 1])},
    "cannot be read .*a space of 1000000000000 columns has bounds for": {"observation_space": box([0], [1], [10**12])},
    "total_episodes is 10{12}, expected a number from 1 to": {"total_episodes": 10**12},
    "total_steps is True, expected a number from 1 to": {"total_steps": True},
    "total_episodes is None, expected": {"total_episodes": None},
    "dataset_id is 'b-v0', expected 'walker/rnd-v0', where it lies": {"dataset_id": "b-v0"},
    "cannot be read": {"env_spec": "[]"},
}


@pytest.mark.parametrize(("message", "change"), SPACES.items())
def test_wrong_metadata_give_one_line_with_their_file(root, message, change):
    minari.write(ID, EPISODES)
    edit(root, **change)
    with pytest.raises(ValueError, match=f"^{root / ID}/data/metadata.json: {message}") as raised:
        load()
    assert "\n" not in str(raised.value)


WRONG = {
    "2 episodes, expected 3|3 episodes, expected 2": {"total_episodes": 2},
    "13 steps, expected 12": {"total_steps": 12},
    "cannot be read .*hdf6": {"data_format": "hdf6"},
    "cannot be read .*does not support the dataset": {"minari_version": "9.9.9"},
    "observations has 3 columns, walker/rnd-v0 expects 4": {"observation_space": box([0] * 4, [1] * 4, [4])},
}


@pytest.mark.parametrize(("message", "change"), WRONG.items())
def test_a_set_that_contradicts_its_metadata_is_refused(root, message, change):
    minari.write(ID, EPISODES)
    edit(root, **change)
    with pytest.raises(ValueError, match=f"^{root / ID}: .*({message})") as raised:
        load(observation_size=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("lacking", ["observation_space", "action_space", ""])
def test_no_recorded_environment_is_made(root, tmp_path, lacking):
    """Minari makes it where a space is missing, and so would call os.mkdir here."""
    minari.write(ID, EPISODES)
    path = str(tmp_path / "made")
    spec = {
        "id": "a",
        "entry_point": "os:mkdir",
        "kwargs": {"path": path},
        "additional_wrappers": [{"name": "w", "entry_point": "os:mkdir", "kwargs": {"path": path}}],
    }
    edit(root, env_spec=json.dumps(spec), eval_env_spec=json.dumps(spec), **({lacking: None} if lacking else {}))
    if lacking:
        with pytest.raises(ValueError, match=f"{lacking} is missing"):
            load()
    else:
        assert len(load().trajectories) == 3
    assert minari.info(ID).env_id == "a"
    assert not (tmp_path / "made").exists()


def test_the_sizes_are_those_of_the_environment():
    minari.write(ID, EPISODES)
    with pytest.raises(ValueError, match=r"actions has 2 columns, walker_run expects 6"):
        load(action_size=6)
    with pytest.raises(ValueError, match=r"episode 0: physics is float64 \(5, 4\), expected 6 rows"):
        minari.write("b-v0", [episode(extras={"physics": np.zeros((5, 4))})])
        load("b-v0", reward_fn=lambda physics, actions: physics[:, 0])
    minari.write("c-v0", [episode(observations=np.full((6, 3), 1e300), actions=np.zeros((5, 2)))])
    with pytest.raises(ValueError, match=r"episode 0: some numbers are too large, expected such as fit float32"):
        load("c-v0")


def replace(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


def outside(file):
    del file["episode_0/rewards"]
    file.create_dataset("episode_0/rewards", (5,), np.float32, external=[("/etc/passwd", 0, 20)])


def linked(file):
    del file["episode_0"]
    file["episode_0"] = h5py.ExternalLink("other.hdf5", "/episode_0")


def virtual(file):
    layout = h5py.VirtualLayout((6, 3), np.float32)
    layout[:] = h5py.VirtualSource("other.hdf5", "x", (6, 3))
    del file["episode_0/observations"]
    file.create_virtual_dataset("episode_0/observations", layout)


def hollow(file):
    del file["episode_0/observations"]
    file.create_dataset("episode_0/observations", (6, 3), np.float32, chunks=(6, 3))


def swollen(file):
    file.create_dataset("episode_0/infos/x", (2**30,), np.float64, chunks=(2**20,), compression="gzip")


def shifted(file):
    """Floats with another bias of the exponent, which HDF5 turns into others without a word."""
    del file["episode_0/rewards"]
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(126)
    chunked = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    chunked.set_chunk((5,))
    made = h5py.h5d.create(file["episode_0"].id, b"rewards", kind, h5py.h5s.create_simple((5,)), chunked)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(5, np.float32))


def circle(file):
    file["episode_0/infos/again"] = file["episode_0/infos"]


DAMAGE = {
    "2 episodes, expected 3": lambda file: file.pop("episode_1"),
    "4 episodes, expected 3": lambda file: file.create_group("more"),
    "episode 1: cannot be read .*episode_1": lambda file: file.move("episode_1", "episode_7"),
    "episode 0: cannot be read .*rewards": lambda file: file.pop("episode_0/rewards"),
    "episode 1: actions has shape|episode 1: cannot be read .*flags": replace(
        "episode_1/actions", np.zeros((6, 2), np.float32)
    ),
    "episode 0: cannot be read .*rewards are .*S3": replace("episode_0/rewards", np.array([b"abc"] * 5)),
    "episode 0: cannot be read .*6 observations, expected 6|5 observations, expected 6": replace(
        "episode_0/observations", np.zeros((5, 3), np.float32)
    ),
    "episode 0: cannot be read .*expected 5 flags, all but the last False": replace(
        "episode_0/terminations", np.array([False, True, False, False, True])
    ),
    "episode 0: cannot be read .*truncations .5,. float64": replace("episode_0/truncations", np.zeros(5)),
    "episode 0: rewards is not finite in row 1": replace("episode_0/rewards", np.float32([0, np.inf, 0, 0, 0])),
    "episode 0: actions reach 2": replace("episode_0/actions", np.full((5, 2), 2, np.float32)),
    "lies in other files": outside,
    "lies in other  files|lies in other files": virtual,
    "/episode_0 is a ExternalLink": linked,
    "observations is 0 of 1 parts": hollow,
    "rewards has numbers unlike any that NumPy writes": shifted,
    "would unfold to 32 times the file": swollen,
    "is a HardLink, expected arrays in at most 8 groups": circle,
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.items())
def test_a_file_that_is_not_what_it_seems_is_refused(root, message, damage):
    minari.write(ID, EPISODES)
    with h5py.File(root / ID / "data" / "main_data.hdf5", "a") as file:
        damage(file)
    with pytest.raises(ValueError, match=f"^{root / ID}: .*({message})") as raised:
        load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", ["observations", "actions", "rewards", "infos/physics"])
def test_a_flipped_bit_is_found_by_its_checksum(root, place):
    path = minari.write(ID, EPISODES) / "data" / "main_data.hdf5"
    with h5py.File(path) as file:
        offset = file[f"episode_1/{place}"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{root / ID}: episode 1: cannot be read .*filter"):
        load()


def broken():
    yield EPISODES[0]
    raise RuntimeError("the source ends here")


REFUSED = {
    "walker/rnd-v0: no episodes, expected at least one": [],
    "episode 1: observations and actions .* expected floats, as the first": [
        episode(),
        episode(observations=np.zeros((6, 4), np.float32)),
    ],
    "episode 0: observations and actions .* expected floats": [episode(observations=np.zeros((6, 3), int))],
    "episode 0: the episode has no steps": [episode(0)],
    "episode 0: actions reach 3": [episode(actions=np.full((5, 2), 3.0))],
    "episode 0: physics is not finite in row 0": [episode(extras={"physics": np.full((6, 4), np.nan)})],
    "episode 0: infos/x is <U1, expected numbers": [episode(extras={"x": np.array(["a"] * 6)})],
    "episode 0: an array is named 'infos/a/../b'": [episode(extras={"a/../b": np.zeros(6)})],
    "episode 0: an array is named 'infos/'": [episode(extras={"": np.zeros(6)})],
    "episode 0: an array is named 'infos/a'": [episode(extras={"a/b": np.zeros(6), "a": np.zeros(6)})],
}


@pytest.mark.parametrize(("message", "episodes"), REFUSED.items())
def test_what_cannot_be_written_leaves_nothing_behind(root, message, episodes):
    with pytest.raises(ValueError, match=message):
        minari.write(ID, episodes)
    assert not list((root / "walker").iterdir())


def test_a_source_that_fails_leaves_nothing_behind(root):
    with pytest.raises(RuntimeError, match="the source ends here"):
        minari.write(ID, broken())
    assert not list((root / "walker").iterdir())


def test_a_file_that_may_not_grow_ends_in_an_error_not_in_a_crash(root):
    """HDF5 itself passes over failed writes, and then brings the interpreter down."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    read = []
    try:
        with pytest.raises(OSError, match=f"File too large: '{root / ID}'"):
            minari.write(ID, (read.append(seed) or episode(500, seed) for seed in range(100)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 5 < len(read) < 20 and not list((root / "walker").iterdir())


def test_half_a_set_is_seen_by_nobody(root):
    def watched():
        for made in EPISODES:
            yield made
            assert minari.list_local() == [] and minari.find(ID) is None and package.list_local_datasets() == {}

    minari.write(ID, watched())
    assert minari.list_local() == [ID]


def test_a_set_comes_into_its_place_at_once_or_not_at_all(root, monkeypatch):
    def fails(source, target):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(PermissionError, match=f"Permission denied: '{root / ID}'"):
        minari.write(ID, EPISODES)
    assert [path.name for path in (root / "walker").iterdir()] == ["namespace_metadata.json"]


def test_a_disk_that_fills_up_names_the_folder_and_leaves_nothing_behind(root, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=f"No space left on device: '{root / ID}'"):
        minari.write(ID, EPISODES)
    assert not list((root / "walker").iterdir())


def test_a_set_that_is_there_stays_as_it_is(root):
    minari.write(ID, EPISODES)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=f"^{root / ID}: there already, expected a name that is free"):
        minari.write(ID, EPISODES[:1])
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
