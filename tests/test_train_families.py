"""A family of tasks end to end, in short episodes: collected, learned, played with every control, reported."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import envs
from agent import explore
from agent.config import ModelConfig, OptimizerConfig
from agent.explore.commands import CommandConfig
from data import exorl
from data.chain import ChainRules
from data.segments import SegmentRules
from envs.dmc import ControlSuite
from envs.family import find
from launch import (
    collect,
    commands,
    evaluate,
    families,
    family_evaluation,
    family_plots,
    report,
    train_offline,
    video,
    workers,
)
from launch.checkpoint import Checkpoints
from launch.plan import Plan, RunConfig, command_again

# dm_control 1.0.50 does so wherever it looks up a name.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")
FAMILY = find("cartpole_position")
LENGTH = 60
CONFIG = CommandConfig(
    practice=3,
    posture=1,
    wide=2,
    td3=explore.ExploreConfig(width=8, batch_size=4, updates=2, random_episodes=1),
)


@pytest.fixture(scope="module", autouse=True)
def short_episodes():
    """One process, and cartpole cut after LENGTH steps."""
    with pytest.MonkeyPatch.context() as patch:
        short = envs.spec(FAMILY.start)._replace(episode_length=LENGTH)
        patch.setitem(envs._SPECS, short.name, short)
        patch.setattr(workers, "cores", lambda: 1)
        yield


def gather(data_dir, episodes):
    return commands.collect(FAMILY, "commands", episodes, 0, data_dir, config=CONFIG)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    gather(folder, 6)
    return folder


def test_practice_is_kept_apart_and_stopping_changes_no_episode(data_dir, tmp_path):
    folder = data_dir / "cartpole" / "commands_position"
    assert len(list((folder / "practice").iterdir())) == 3
    assert [path.name for path in exorl.episode_files(folder / "buffer")] == [
        f"episode_{i:06d}_{LENGTH}.npz" for i in range(6)
    ]
    gather(tmp_path, 2)
    broken = gather(tmp_path, 6)
    for one, two in zip(exorl.episode_files(folder / "buffer"), exorl.episode_files(broken / "buffer"), strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_another_agent_and_numbers_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--agent: expected commands in a family of tasks, got td3"):
        collect.collect("cartpole_position", "td3", 2, 0, tmp_path)
    with pytest.raises(ValueError, match="unknown agent 'commands'"):
        collect.collect("cartpole_swingup", "commands", 2, 0, tmp_path)
    with pytest.raises(ValueError, match=r"dataset is '../a', expected the plain name of a folder"):
        collect.collect("cartpole_position", "commands", 2, 0, tmp_path, "../a")
    with pytest.raises(ValueError, match="expected episodes from 1"):
        commands.collect(FAMILY, "commands", 0, 0, tmp_path)


def test_features_are_cached_like_rewards_and_are_those_of_the_stored_states(data_dir):
    data = families.load(FAMILY, "commands_position", data_dir)
    cache = data_dir / "cartpole" / "commands_position" / "cache"
    stamps = {path: path.stat().st_mtime_ns for path in cache.glob("rewards.cartpole_position-*")}
    assert len(stamps) == 2
    again = families.load(FAMILY, "commands_position", data_dir)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("rewards.cartpole_position-*")} == stamps
    files = exorl.episode_files(data_dir / "cartpole" / "commands_position" / "buffer")
    for trajectory, other, path in zip(data.trajectories, again.trajectories, files, strict=True):
        features = FAMILY.read(exorl.read_episode(path)["physics"])[1:]
        np.testing.assert_array_equal(trajectory.features, features)
        np.testing.assert_array_equal(other.features, features)
        np.testing.assert_array_equal(trajectory.rewards, features[:, -1])
    tasks = np.float32(FAMILY.held_out)
    expected = [np.mean([FAMILY.rewards(t.features, task).sum() for task in tasks]) for t in data.trajectories]
    np.testing.assert_allclose(data.card.return_max, max(expected), rtol=1e-5)


def plan(data_dir, **changes):
    run = {
        "env": FAMILY.name,
        "data_dir": str(data_dir),
        "episodes": 6,
        "keep": 4,
        "crop": 4,
        "rows": 2,
        "heldout": 0.2,
    }
    return Plan(
        RunConfig(**run | {"dataset": "commands_position", "chains": 2} | changes),
        ModelConfig(tokens="fused", layers=1, width=16, heads=2, dropout=0.0, window=4, trajs=5),
        OptimizerConfig(learning_rate=0.01, updates=4, lr_warmup=1),
        ChainRules(relabel=False, completion=False, loss="all"),
        SegmentRules(segment=4, horizon=6),
    )


def test_a_run_is_trained_played_beside_its_controls_and_reported(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(families, "OWN_EPISODES", 3)
    monkeypatch.setattr(families, "PROMPTS", (0, 1, 16))  # 16 are more than a chain has: not played
    short = families.PERCEPTRON_OPTIMIZER.__class__(learning_rate=1e-3, updates=5)
    monkeypatch.setattr(families, "PERCEPTRON_OPTIMIZER", short)
    made, out = plan(data_dir), Path(tmp_path)
    made.check()
    size = envs.spec(FAMILY.name)
    train_offline.go(made, "none", size, train_offline.load_dataset(made, size, out), out)
    table = (out / "tasks.txt").read_text()
    for words in ("perceptron told the task", "own episodes, episode 3", "labelled with another task"):
        assert words in table
    assert table in capsys.readouterr().out + "\n"
    for name in ("tasks.png", "training.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/png;') == 2 and "launch.train_offline --env=cartpole_position" in page
    assert command_again({"env": FAMILY.name}, "commands_position").endswith(f"--env={FAMILY.name} --preset=none")
    assert report.report(out) + "\n" == table and (out / "report.html").read_text() == page
    rows = [json.loads(line) for line in (out / "tasks.jsonl").read_text().splitlines()]
    lanes = 2 * len(FAMILY.held_out)
    assert len(rows) == lanes * (2 + 1 + 3 + 1 + 3)
    of = {(row["protocol"], row["segments"], row["episode"]) for row in rows}
    assert {("data", count, 1) for count in (0, 1, 5)} < of
    assert {("own", 0, 1), ("own", 5, 2), ("own", 5, 3), ("wrong labels", 5, 1)} < of
    # The first own episode has nothing in its context: it is that behind an empty prompt.
    first = {(row["protocol"], *row["task"], row["start"]): row["return"] for row in rows if not row["segments"]}
    for (protocol, task, start), value in first.items():
        if protocol == "own":
            np.testing.assert_allclose(value, first["data", task, start], rtol=1e-4)
    own = {(*row["task"], row["start"], row["episode"]): row["return"] for row in rows if row["protocol"] == "own"}
    for (words, earned), episode in zip(film(out, 3, monkeypatch), (1, 3), strict=True):
        assert "3 own episodes of the held-out task position -0.6 m" in words
        np.testing.assert_allclose(earned * 1000 / LENGTH, own[np.float32(-0.6), 1, episode], rtol=1e-4)


def film(out, lane, monkeypatch):
    """Of the first and the last episode that are drawn: the words below, and the return."""
    monkeypatch.setattr(ControlSuite, "render", lambda _: np.zeros((240, 320, 3), np.uint8))
    saved = []
    monkeypatch.setattr(video.Recorder, "save", lambda *each: saved.append(each))
    checkpoints = Checkpoints(out)
    meta, (weights, update) = checkpoints.meta(), checkpoints.weights()
    checkpoints.close()
    lanes = families.Lanes.of(FAMILY, 2, meta.seed)
    family_evaluation.film(out / "rollout.gif", families.brain_of(meta, weights), lanes, lane, meta.seed, update)
    ((recorder, _, _, words),) = saved
    return [(words, moments[-1].earned) for moments in recorder.moments.values()]


def test_lanes_are_played_where_there_are_more_cores_than_lanes(monkeypatch):
    from envs.family_rollout import Played

    def played(job):
        _, tasks, seeds, actor, episodes = job
        assert actor.stop - actor.start == len(seeds) == len(tasks) == 1
        return Played(*(np.repeat(seeds[:, None], episodes, axis=1) for _ in Played._fields))

    monkeypatch.setattr(families.workers, "count", lambda: 64)
    monkeypatch.setattr(families, "_play", played)
    lanes = families.Lanes.of(FAMILY, 1, 0)
    found = families.play(FAMILY, lanes, lambda part: part, 2, map)
    np.testing.assert_array_equal(found.returns[:, 0], lanes.seeds)


def test_chains_of_one_segment_have_a_picture_too():
    """No rule, which judges by segments."""
    points = [
        {"protocol": name, "segments": count, "episode": 1, "returns": np.ones((1, 2, 2)), "achieved": np.zeros(1)}
        for name, count in (("told", 0), ("not told", 0), ("data", 0), ("data", 1), ("wrong labels", 1), ("own", 1))
    ]
    axes = [{"name": "position", "unit": "m"}]
    assert family_plots.draw({"points": points, "tasks": [[0.6], [1.2]], "axes": axes}).startswith(b"\x89PNG")


@pytest.mark.parametrize("episodes", [2, 400])
def test_a_run_takes_the_data_of_its_family_as_they_are(data_dir, episodes):
    """They are another run's, too: only launch.collect adds to them."""
    whole = families.dataset(FAMILY, plan(data_dir, dataset=""))
    assert families.dataset(FAMILY, plan(data_dir, dataset="", episodes=episodes)).card.sha256 == whole.card.sha256


def test_shapes_that_no_chain_of_segments_has_are_refused(data_dir):
    with pytest.raises(ValueError, match="--keep: expected 4 for a family of tasks, got 5"):
        plan(data_dir, keep=5).check()


def test_the_return_of_an_episode_that_is_asked_for_becomes_the_rate_of_its_steps(monkeypatch):
    monkeypatch.setattr(family_evaluation, "evaluate", lambda *_, ask, **__: ask)
    meta = SimpleNamespace(env=FAMILY.name)
    assert evaluate.evaluate(Path(), None, meta, 1, chains=1, target_return=30.0) == 30.0 / LENGTH
    assert evaluate.evaluate(Path(), None, meta, 1, chains=1) is None
