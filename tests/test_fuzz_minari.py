"""Damaged Minari data sets: each gives the same trajectories, or one line that names it; nothing of it is executed."""

import json
import pickle
import socket
from collections import Counter

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutations

from data import minari
from data.episode import Episode

package = pytest.importorskip("minari")

ID = "walker/rnd-v0"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set of three episodes; meanwhile no network, no pickle, and no environment."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            rng.standard_normal((length + 1, 3)).astype(np.float32),
            rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            rng.uniform(0, 1, length).astype(np.float32),
            length == 7,
            {"physics": rng.standard_normal((length + 1, 4)), "deep/skill": rng.integers(0, 9, (length + 1, 2))},
        )
        for length in (5, 7, 30)
    ]
    minari.write(ID, episodes, env_id="MountainCarContinuous-v0", requirements=["mujoco==3.17.0"], author="us")

    def forbidden(*args, **kwargs):
        raise SystemExit("a data set made us do this")

    for place, name in (
        (socket.socket, "connect"),
        (pickle, "loads"),
        (pickle, "load"),
        (package.dataset.minari_storage.gym, "make"),
    ):
        monkeypatch.setattr(place, name, forbidden)
    return tmp_path / ID


def load():
    loaded = minari.load(
        ID, name="walker_run", observation_size=3, action_size=2, reward_fn=lambda physics, actions: physics[:, 0]
    )
    return [tuple(map(np.ndarray.tobytes, trajectory)) for trajectory in loaded.trajectories], loaded.sha256


@pytest.fixture
def expected(folder):
    """What the set gives undamaged."""
    return load()


def outcome(folder, expected):
    """What became of a load: `same`, `refused` by one line that names the set, or `changed`."""
    try:
        return "same" if load() == expected else "changed"
    except ValueError as error:
        assert str(error).startswith(f"{folder}") and "\n" not in str(error) and len(str(error)) < 600, error
        return "refused"


def outcomes(folder, name, count, seed):
    """How often each outcome came of loading damaged copies of one of the set's files."""
    path, expected = folder / "data" / name, load()
    found = Counter()
    for content in mutations(path.read_bytes(), count, seed):
        path.write_bytes(content)
        found[outcome(folder, expected)] += 1
    print(f"{name}: {dict(found)}")
    return found


def test_a_damaged_file_gives_the_same_trajectories_or_one_error(folder):
    found = outcomes(folder, "main_data.hdf5", 1000, seed=0)
    assert not found["changed"] and found["refused"] > 800


def test_damaged_metadata_give_the_same_trajectories_or_one_error(folder):
    found = outcomes(folder, "metadata.json", 1000, seed=1)
    assert not found["changed"] and found["refused"] > 500


def test_damaged_files_of_minaris_own_writer_are_survived(folder):
    """They have no checksums, so that a changed number may pass for another."""
    episodes = [package.data_collector.EpisodeBuffer(**vars(e)) for e in package.MinariDataset(folder / "data")]
    (folder / "data" / "main_data.hdf5").unlink()
    storage = package.dataset.minari_storage.MinariStorage
    old = storage.read_raw_metadata(folder / "data") | {"total_episodes": 0, "total_steps": 0}
    (folder / "data" / "metadata.json").write_text(json.dumps(old))
    (folder / "data" / "main_data.hdf5").touch()
    storage.read(folder / "data").update_episodes(episodes)
    found = outcomes(folder, "main_data.hdf5", 300, seed=2)
    assert found.total() == 300 and found["refused"] > 100


texts = st.sampled_from(
    ["", "hdf5", "arrow", "[]", "{}", "null", '{"type": "Box"}', '{"type": "Dict", "subspaces": {}}', "0.5.3", "../x"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    *("total_episodes", "total_steps", "data_format", "jpeg_encoding", "observation_space", "action_space", "env_spec"),
    *("eval_env_spec", "dataset_id", "minari_version", "requirements", "combined_datasets", "author", "author_email"),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=2))
def test_metadata_of_any_kind_give_the_same_trajectories_or_one_error(folder, expected, changes):
    path = folder / "data" / "metadata.json"
    content = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(content) | changes))
        assert outcome(folder, expected) != "changed"
    finally:
        path.write_text(content)


KINDS = ("f2", "f4", ">f8", "i8", "u1", "?", "c8", "S3", "f4,i4", "3f4", "O")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["observations", "actions", "rewards", "terminations", "truncations", "infos/physics", "infos"]),
    st.sampled_from(KINDS),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6]), max_size=3),
    st.sampled_from(["", "gzip", "lzf"]),
)
def test_arrays_of_any_kind_are_taken_or_refused_by_name(folder, name, kind, shape, compression):
    path = folder / "data" / "main_data.hdf5"
    content = path.read_bytes()
    dtype = h5py.string_dtype() if kind == "O" else np.dtype(kind)
    try:
        with h5py.File(path, "a") as file:
            del file[f"episode_0/{name}"]
            packed = {"compression": compression} if compression and shape and 0 not in shape else {}
            file.create_dataset(f"episode_0/{name}", shape, dtype, **packed)
            if dtype.kind not in "OSV" and 0 not in shape:
                file[f"episode_0/{name}"][...] = np.zeros(shape, dtype)
        assert outcome(folder, None) in ("changed", "refused")
    finally:
        path.write_bytes(content)
