"""ExoRL, D4RL and Minari meet in one episode: what goes from one to another comes back with the same bits."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import d4rl, exorl, minari
from data.convert import Place, convert, read
from data.episode import Episode

pytest.importorskip("minari")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))


def arrays_of(place):
    """Every array of every episode by name, as bytes with dtype and shape."""
    return [
        {
            key: (values.dtype.str, values.shape, values.tobytes())
            for key, values in {"o": e.observations, "a": e.actions, "r": e.rewards, **e.extras}.items()
        }
        | {"terminated": e.terminated}
        for e in read(place)
    ]


def files_of(folder):
    """The arrays in the files of an ExoRL buffer."""
    found = {}
    for path in sorted((folder / "buffer").iterdir()):
        with np.load(path) as archive:
            found[path.name] = {key: (v.dtype.str, v.shape, v.tobytes()) for key, v in archive.items()}
    return found


@st.composite
def exorl_sets(draw):
    """Episodes as ExoRL's agents store them: one to four reward columns, discounts, and arrays that only some have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.tuples(*[st.integers(1, 4)] * 3))
    columns, skill, meta = draw(st.integers(1, 4)), draw(st.booleans()), draw(st.booleans())
    episodes = []
    for _ in range(draw(st.integers(1, 3))):
        length, ended = draw(st.integers(2, 7)), draw(st.booleans())
        rows = length + 1
        episode = {
            "observation": rng.standard_normal((rows, sizes[0])).astype(np.float32),
            "action": rng.uniform(-1, 1, (rows, sizes[1])).astype(np.float32),
            "reward": rng.standard_normal((rows, columns)).astype(np.float32),
            "discount": rng.uniform(0.5, 1, (rows, 1)).astype(np.float32),
            "physics": rng.standard_normal((rows, sizes[2])),
        }
        episode["action"][0], episode["reward"][0] = 0, 0
        if ended:
            episode["discount"][-1] = 0
        if skill:
            episode["skill"] = np.eye(4, dtype=np.float32)[rng.integers(0, 4, rows)]
        if meta:
            episode["meta"] = rng.integers(0, 9, (rows, 2, 2))
        episodes.append(episode)
    return episodes


@pytest.mark.parametrize("between", ["minari:walker/rnd-v0", "d4rl:{}/set.hdf5"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(episodes=exorl_sets())
def test_exorl_comes_back_from_the_others_with_the_same_bits(tmp_path_factory, monkeypatch, between, episodes):
    folder = tmp_path_factory.mktemp("case")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "sets"))
    for index, arrays in enumerate(episodes):
        exorl.write_episode(folder / "one" / "buffer", index, arrays)
    first, last = (Place("exorl", str(folder / name)) for name in ("one", "two"))
    middle = Place.parse(between.format(folder))
    there, back = convert(first, middle), convert(middle, last)
    assert files_of(folder / "two") == files_of(folder / "one")
    assert there == back == (len(episodes), sum(len(e["action"]) - 1 for e in episodes), [])


@st.composite
def any_sets(draw):
    """Episodes as D4RL and Minari have them: of either float, with or without what followed the last action."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind, rows, sizes = (
        draw(st.sampled_from([np.float32, np.float64])),
        draw(st.integers(0, 1)),
        draw(st.tuples(*[st.integers(1, 3)] * 2)),
    )
    infos = draw(
        st.dictionaries(st.sampled_from(["qpos", "qvel", "goal"]), st.tuples(st.integers(0, 1), st.integers(1, 3)))
    )
    return [
        Episode(
            rng.standard_normal((length + rows, sizes[0])).astype(kind),
            rng.uniform(-1, 1, (length, sizes[1])).astype(kind),
            rng.standard_normal(length).astype(kind),
            draw(st.booleans()),
            {key: rng.standard_normal((length + more, size)) for key, (more, size) in infos.items()},
        )
        for length in draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(episodes=any_sets())
def test_d4rl_and_minari_come_back_from_each_other_with_the_same_bits(tmp_path_factory, monkeypatch, episodes):
    folder = tmp_path_factory.mktemp("case")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "sets"))
    minari.write("a-v0", episodes)
    places = [
        Place("minari", "a-v0"),
        Place("d4rl", f"{folder}/a.hdf5"),
        Place("minari", "b-v0"),
        Place("d4rl", f"{folder}/b.hdf5"),
    ]
    results = [convert(*pair) for pair in pairwise(places)]
    assert all(arrays_of(place) == arrays_of(places[0]) for place in places[1:])
    missing = len(episodes[0].observations) == episodes[0].length
    again = "no observation after the last action: the one before it stands there again, and is marked"
    assert [result.notes for result in results] == [[], [f"{again} ({len(episodes)} episodes)"] * missing, []]


def episode(length=3, **changes):
    return Episode(
        np.ones((length + 1, 2), np.float32),
        np.zeros((length, 1), np.float32),
        np.ones(length, np.float32),
        False,
        {"physics": np.zeros((length + 1, 4))},
    )._replace(**changes)


def test_rewards_of_four_tasks_are_those_of_the_first_to_a_reader_of_d4rl(tmp_path):
    four = np.arange(12, dtype=np.float32).reshape(3, 4)
    minari.write("a-v0", [episode(rewards=four)])
    place = Place("d4rl", str(tmp_path / "a.hdf5"))
    assert convert(Place("minari", "a-v0"), place).notes == []
    assert next(d4rl.read(tmp_path / "a.hdf5")).rewards.tolist() == [0, 4, 8]
    np.testing.assert_array_equal(next(read(place)).rewards, four)


def test_what_a_format_cannot_hold_is_said(tmp_path):
    wide = episode(observations=np.full((4, 2), 1 / 3), actions=np.full((3, 1), 0.5), rewards=np.ones(3))
    minari.write("a-v0", [wide, wide])
    result = convert(Place("minari", "a-v0"), Place("exorl", str(tmp_path / "a")))
    assert result == (2, 6, ["observations are float64, rounded to float32 (2 episodes)"])
    deep = episode(1, terminated=True, extras={"a/b": np.zeros(1)})
    minari.write("b-v0", [deep, deep])
    result = convert(Place("minari", "b-v0"), Place("d4rl", str(tmp_path / "b.hdf5")))
    assert result.notes == [
        "names of nested arrays have dots for slashes (2 episodes)",
        "one step that terminates right after another end: D4RL reads it as the same end (1 episodes)",
    ]
    assert [list(e.extras) for e in d4rl.read(tmp_path / "b.hdf5")] == [["a.b"]]


def test_names_that_d4rl_cannot_tell_apart_are_refused(tmp_path):
    minari.write("a-v0", [episode(extras={"a/b": np.zeros(3), "a.b": np.zeros(3)})])
    with pytest.raises(ValueError, match=r"out.hdf5: episode 0: arrays a/b, a.b, expected names that differ"):
        convert(Place("minari", "a-v0"), Place("d4rl", str(tmp_path / "out.hdf5")))


NOT_EXORL = {
    "physics is missing": episode(extras={}),
    "lacks the observation after the last action": episode(observations=np.ones((3, 2), np.float32)),
    "observation is not finite|observations is not finite": episode(
        observations=np.full((4, 2), 1e300), actions=np.zeros((3, 1))
    ),
}


@pytest.mark.parametrize(("message", "bad"), NOT_EXORL.items())
def test_what_exorl_has_no_meaning_for_is_refused_and_leaves_nothing(tmp_path, message, bad):
    minari.write("a-v0", [bad])
    with pytest.raises(ValueError, match=message):
        convert(Place("minari", "a-v0"), Place("exorl", str(tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


@pytest.mark.parametrize("target", ["exorl:{}/taken", "d4rl:{}/taken.hdf5", "minari:taken-v0"])
def test_a_target_that_is_there_stays_as_it_is(tmp_path, target):
    minari.write("a-v0", [episode()])
    source, place = Place("minari", "a-v0"), Place.parse(target.format(tmp_path))
    convert(source, place)
    before = arrays_of(place)
    with pytest.raises(FileExistsError):
        convert(source, place)
    assert arrays_of(place) == before


@pytest.mark.parametrize("target", ["exorl:{}/out", "d4rl:{}/out.hdf5", "minari:out-v0"])
def test_a_source_with_a_bad_episode_leaves_nothing_behind(tmp_path, target):
    for index in range(2):
        arrays = {"observation": np.ones((4, 2), np.float32), "action": np.zeros((4, 1), np.float32)}
        arrays |= {"reward": np.zeros(4, np.float32), "discount": np.ones(4, np.float32), "physics": np.zeros((4, 4))}
        path = exorl.write_episode(tmp_path / "in" / "buffer", index, arrays)
    path.rename(path.with_name("episode_000001_9.npz"))
    with pytest.raises(ValueError, match=r"episode_000001_9.npz"):
        convert(Place("exorl", str(tmp_path / "in")), Place.parse(target.format(tmp_path)))
    assert not [p for p in tmp_path.rglob("*") if "in" not in p.relative_to(tmp_path).parts and p.name != "sets"]


def test_a_minari_target_says_what_it_is(tmp_path):
    minari.write("a-v0", [episode()])
    convert(
        Place("minari", "a-v0"),
        Place("minari", "b/c-v1"),
        env_id="walker_run",
        entry_point="envs:make",
        requirements=["mujoco==3"],
    )
    assert minari.info("b/c-v1").env_id == "walker_run" and minari.info("b/c-v1").requirements == ("mujoco==3",)


@pytest.mark.parametrize("text", ["exorl", "exorl:", "zarr:x", ":x", ""])
def test_a_place_is_a_format_and_a_location(text):
    assert str(Place.parse("exorl:a:b/c")) == "exorl:a:b/c"
    with pytest.raises(ValueError, match="expected one of exorl, d4rl, minari, then : and a folder, a file or a name"):
        Place.parse(text)
