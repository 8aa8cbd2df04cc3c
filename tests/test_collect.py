"""Collection: whole episodes in ExoRL's format, the same however often it was stopped, and no folder harmed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import envs
from agent import explore
from data import exorl
from launch import collect
from launch.program import alone

# dm_control 1.0.50 does so wherever it looks up a name.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")
TINY = explore.ExploreConfig(width=8, batch_size=4, updates=6, random_episodes=1)
SPEC = envs.spec("cartpole_swingup")


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    """Cartpole, cut after 20 steps."""
    short = SPEC._replace(episode_length=20)
    monkeypatch.setitem(envs._SPECS, short.name, short)


def run(data_dir, episodes, agent="td3", seed=0, dataset=None):
    return collect.collect("cartpole_swingup", agent, episodes, seed, data_dir, dataset, TINY)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "buffer").iterdir())}


@pytest.mark.parametrize("agent", explore.AGENTS)
def test_episodes_are_what_exorl_stores_and_the_rewards_are_the_tasks(tmp_path, agent):
    folder = run(tmp_path, 3, agent)
    assert folder == tmp_path / "cartpole" / agent
    files = exorl.episode_files(folder / "buffer")
    assert [path.name for path in files] == [f"episode_{i:06d}_20.npz" for i in range(3)]
    for path in files:
        arrays = exorl.read_episode(path, name=SPEC.name, sizes=exorl.Sizes(5, 1, 4))
        assert not arrays["action"][0].any() and arrays["reward"][0] == 0 and (arrays["discount"] == 1).all()
        relabelled = envs.reward_fn(SPEC.name)(arrays["physics"], arrays["action"])
        np.testing.assert_array_equal(arrays["reward"][1:, 0], relabelled[1:])
        assert len(np.unique(arrays["observation"], axis=0)) == 21


@pytest.mark.parametrize("agent", explore.AGENTS)
def test_stopping_and_going_on_makes_the_same_episodes_and_rewrites_none(tmp_path, agent):
    unbroken = run(tmp_path / "unbroken", 5, agent)
    for episodes in (2, 3, 5):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("broken/*/*/buffer/*")}
        broken = run(tmp_path / "broken", episodes, agent)
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert contents(broken) == contents(unbroken)


def test_an_agent_lost_is_learned_again_from_the_episodes(tmp_path):
    unbroken = run(tmp_path / "unbroken", 5)
    broken = run(tmp_path / "broken", 3)
    (broken / "agent.npz").unlink()
    run(tmp_path / "broken", 5)
    assert contents(broken) == contents(unbroken)


def test_an_episode_written_just_before_a_kill_is_learned_from(tmp_path, monkeypatch):
    unbroken = run(tmp_path / "unbroken", 5)

    save = collect.save_agent

    def killed(path, explorer, episode):
        if episode == 3:
            raise KeyboardInterrupt
        save(path, explorer, episode)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collect, "save_agent", killed)
        run(tmp_path / "broken", 5)
    assert len(exorl.episode_files(tmp_path / "broken/cartpole/td3/buffer")) == 3
    broken = run(tmp_path / "broken", 5)
    assert contents(broken) == contents(unbroken)


def test_seeds_make_different_episodes(tmp_path):
    one, two = (contents(run(tmp_path / str(seed), 1, seed=seed)) for seed in (0, 1))
    assert one != two


def test_a_finished_data_set_is_left_alone(tmp_path, capsys):
    folder = run(tmp_path, 3)
    before = contents(folder), (folder / "agent.npz").read_bytes()
    assert run(tmp_path, 2) == folder
    assert "nothing to collect" in capsys.readouterr().out
    assert (contents(folder), (folder / "agent.npz").read_bytes()) == before


def test_a_second_program_waits_for_the_first(tmp_path, capsys):
    folder = tmp_path / "cartpole" / "td3"
    with alone(folder):
        second = threading.Thread(target=run, args=(tmp_path, 2))
        second.start()
        time.sleep(1)
        assert second.is_alive() and not exorl.episode_files(folder / "buffer")
    second.join()
    assert len(exorl.episode_files(folder / "buffer")) == 2
    assert f"Another program works in {folder}: waiting for its end." in capsys.readouterr().out


def test_a_folder_of_another_agent_seed_or_environment_is_refused_and_not_harmed(tmp_path):
    folder = run(tmp_path, 2, dataset="mine")
    before = contents(folder)
    with pytest.raises(ValueError, match=r"collected with agent 'td3', expected 'rnd'.*--dataset"):
        run(tmp_path, 3, agent="rnd", dataset="mine")
    with pytest.raises(ValueError, match=r"collected with seed 0, expected 1"):
        run(tmp_path, 3, seed=1, dataset="mine")
    (folder / "collect.json").write_text(json.dumps({"env": "cartpole_balance"}))
    with pytest.raises(ValueError, match=r"collected with env 'cartpole_balance', expected 'cartpole_swingup'"):
        run(tmp_path, 3, dataset="mine")
    (folder / "collect.json").write_text("{")
    with pytest.raises(ValueError, match=r"collect\.json: cannot be read"):
        run(tmp_path, 3, dataset="mine")
    (folder / "collect.json").unlink()
    with pytest.raises(ValueError, match=r"episodes that launch.collect did not make"):
        run(tmp_path, 3, dataset="mine")
    assert contents(folder) == before


def test_missing_and_broken_files_are_named(tmp_path):
    folder = run(tmp_path, 3)
    agent = (folder / "agent.npz").read_bytes()
    (folder / "agent.npz").write_bytes(agent[:100])
    with pytest.raises(ValueError, match=r"agent\.npz: cannot be read .* remove it"):
        run(tmp_path, 4)
    run(tmp_path / "rnd", 3, "rnd")
    (folder / "agent.npz").write_bytes((tmp_path / "rnd/cartpole/rnd/agent.npz").read_bytes())
    with pytest.raises(ValueError, match=r"agent\.npz: expected \d+ arrays of this agent, got \d+"):
        run(tmp_path, 4)
    (folder / "agent.npz").write_bytes(agent)
    last = folder / "buffer" / "episode_000002_20.npz"
    last.rename(tmp_path / last.name)
    with pytest.raises(ValueError, match=r"agent\.npz: has learned from 3 episodes, expected 2 at most"):
        run(tmp_path, 4)
    (tmp_path / last.name).rename(last)
    (folder / "buffer" / "episode_000001_20.npz").unlink()
    with pytest.raises(ValueError, match=r"episode 1 is missing, but episode_000002_20.npz is there"):
        run(tmp_path, 4)


def test_bad_arguments_fail_before_anything_is_written(tmp_path):
    for arguments, message in (
        (("walker_fly", "td3", 1, 0), r"'walker_fly' \(did you mean walker_flip.*, expected one of: .*walker_run"),
        (("walker_run", "ppo", 1, 0), "unknown agent 'ppo', expected one of: td3, random, rnd"),
        (("walker_run", "td3", 0, 0), "episodes 0"),
        (("walker_run", "td3", 1, -1), "seed -1"),
    ):
        with pytest.raises(ValueError, match=message):
            collect.collect(*arguments, tmp_path)
    with pytest.raises(ValueError, match=r"dataset is '../td3'"):
        collect.collect("walker_run", "td3", 1, 0, tmp_path, "../td3")
    assert not list(tmp_path.iterdir())


def test_a_disk_too_full_is_told_before_playing(tmp_path, monkeypatch):
    usage = collect.shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(collect.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"MB needed for 3 episodes, 1 MB free; make room"):
        run(tmp_path, 3)
    assert not list(tmp_path.rglob("*.npz"))


def program(*flags):
    return [sys.executable, "-m", "launch.collect", "--env=cartpole_swingup", *flags]


def test_the_program_ends_with_one_line_where_a_user_errs(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    for flags, message in (
        (["--env=walker_fly"], "unknown environment"),
        ([f"--data_dir={blocked}"], str(blocked)),
    ):
        done = subprocess.run(program(*flags), capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_the_program_stopped_goes_on_where_it_stopped(tmp_path, how):
    flags = ["--agent=random", f"--data_dir={tmp_path}", "--episodes=12"]
    process = subprocess.Popen(program(*flags), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.rglob("episode_000002_*.npz")):
        time.sleep(0.01)
    os.kill(process.pid, how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "goes on from here" in errors or how == signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("episode_*.npz")}
    assert 3 <= len(before) < 12
    done = subprocess.run(program(*flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "12/12" in done.stdout, done.stderr
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert len(exorl.episode_files(tmp_path / "cartpole" / "random" / "buffer")) == 12
