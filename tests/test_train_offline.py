"""The real program, end to end, on a tiny data set: it reports; stopped or killed, it goes on to the same bits."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import envs
from agent.config import ModelConfig, OptimizerConfig
from data import catalog, d4rl, exorl
from data.chain import ChainRules
from data.episode import Episode
from envs.rollout import initial_seed
from launch import evaluate, train_offline
from launch.checkpoint import Checkpoints
from launch.metrics import read_rows
from launch.plan import Plan, RunConfig, collection
from launch.program import alone

TINY = [
    *(
        "--env=cartpole_swingup",
        "--trajs=4",
        "--tokens=fused",
        "--layers=1",
        "--width=16",
        "--heads=1",
        "--dropout=0.1",
    ),
    *("--keep=2", "--crop=8", "--window=8", "--rows=2", "--short_updates=4", "--short_crop=4", "--heldout=0.2"),
    *("--optimizer=adamw", "--learning_rate=0.01", "--updates=12", "--save_every=2", "--log_every=2", "--chains=2"),
]


def program(name, *flags):
    return [sys.executable, "-m", f"launch.{name}", *map(str, flags)]


def run(name, *flags):
    return subprocess.run(program(name, *flags), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(10):
        exorl.write_episode(
            folder / "cartpole" / "td3" / "buffer",
            i,
            {
                "observation": rng.normal(size=(21, 5)).astype(np.float32),
                "action": rng.uniform(-1, 1, (21, 1)).astype(np.float32),
                "reward": np.zeros((21, 1), np.float32),
                "discount": np.ones((21, 1), np.float32),
                "physics": rng.normal(size=(21, 4)),
            },
        )
    return folder


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "unbroken"
    done = run("train_offline", *TINY, f"--data_dir={data_dir}", f"--out={out}", "--eval_every=8")
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done


def test_a_forecast_prints_and_writes_nothing_and_auto_takes_what_the_data_have(data_dir, tmp_path):
    out = tmp_path / "run"
    done = run("train_offline", *TINY, f"--data_dir={data_dir}", f"--out={out}", "--trajs=auto", "--forecast")
    assert done.returncode == 0, done.stderr
    # Eight of ten trajectories are trained on: seven show two steps, the last shows eight; two rows.
    assert "--trajs auto: 8, of 8 trajectories" in done.stdout
    assert "tokens   22 a row, 44 a batch" in done.stdout and ", fits in " in done.stdout
    assert not out.exists()
    assert catalog.episodes(envs.spec("cartpole_swingup"), "td3", data_dir, max_steps=100) == 5  # of 20 steps


def test_a_forecast_for_a_device_is_of_the_run_that_it_would_make(data_dir):
    done = run("train_offline", "--env=cartpole_swingup", f"--data_dir={data_dir}", "--forecast", "--device=h100")
    assert "preset   accelerator" in done.stdout, done.stderr


@pytest.mark.parametrize("there", [0, 1])
def test_what_was_begun_for_an_environment_is_what_it_will_learn_from(tmp_path, data_dir, there):
    buffer = tmp_path / "cartpole" / "td3" / "buffer"
    buffer.mkdir(parents=True)
    for path in sorted((data_dir / "cartpole" / "td3" / "buffer").iterdir())[:there]:
        (buffer / path.name).write_bytes(path.read_bytes())
    begun = {"env": "cartpole_swingup", "agent": "td3", "seed": 3, "episodes": 20, "config": {}}
    (buffer.parent / "collect.json").write_text(json.dumps(begun))
    name = "td3" if there else None
    config = RunConfig(env="cartpole_swingup", data_dir=str(tmp_path))
    assert collection(config, name) == begun
    assert collection(replace(config, env="cartpole_balance"), name) == {}
    assert collection(replace(config, dataset="td3"), name) == {}


def final(out):
    checkpoints = Checkpoints(out)
    state = checkpoints.state()
    checkpoints.close()
    return state


def assert_same_run(one: Path, two: Path):
    a, b = final(one), final(two)
    assert int(a.step) == int(b.step) == 12
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (one / "metrics.csv").read_text() == (two / "metrics.csv").read_text()


def test_the_run_says_what_it_does_and_leaves_a_report(unbroken):
    out, done = unbroken
    for text in ("10 episodes, 200 steps", "sha256", "weights", "tokens a row", "MiB", "report.html"):
        assert text in done.stdout, done.stdout
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {(r["update"], r["protocol"], r["chain"], r["episode"]) for r in rows} == {
        (u, p, c, e) for u in (8, 12) for p in ("own", "none") for c in (0, 1) for e in (1, 2, 3, 4)
    }
    assert rows[0]["dataset_hash"] in (out / "dataset.json").read_text()
    assert "--env=cartpole_swingup" in rows[0]["command"]
    for name in ("report.html", "results.csv", "metrics.csv", "returns_vs_trajs.png", "config.json"):
        assert (out / name).stat().st_size > 0


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["killed", "terminated", "interrupted"]
)
def test_a_broken_run_goes_on_to_the_same_bits(unbroken, data_dir, tmp_path, how):
    out = tmp_path / "broken"
    flags = [*TINY, f"--data_dir={data_dir}", f"--out={out}", "--chains=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(program("train_offline", *flags), text=True, **pipes)
    while not any((out / "checkpoints").glob("[0-9]*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr
    if how == signal.SIGTERM:
        assert process.returncode == 0
        assert "Go on with: --resume" in stdout or "report.html" in stdout
    if how == signal.SIGINT:  # all was learned when it came, where nothing is left to go on with
        assert "Go on with: --resume" in stdout or process.returncode == 130
    again = run("train_offline", "--resume", f"--out={out}", f"--data_dir={data_dir}", "--chains=1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert_same_run(unbroken[0], out)


def test_a_second_run_does_not_overwrite_the_first(unbroken, data_dir):
    done = run("train_offline", *TINY, f"--data_dir={data_dir}", f"--out={unbroken[0]}")
    assert done.returncode != 0
    assert "holds a run already; add --resume" in done.stderr


def test_a_run_goes_on_with_the_data_that_it_began_with(data_dir, tmp_path):
    """Even where others would be taken now."""
    shutil.copytree(data_dir / "cartpole" / "td3", tmp_path / "data" / "cartpole" / "td3")
    shutil.copytree(data_dir / "cartpole" / "td3", tmp_path / "data" / "cartpole" / "rnd")
    begun, size = RunConfig("cartpole_swingup", data_dir=str(tmp_path / "data")), envs.spec("cartpole_swingup")
    plan = Plan(begun, ModelConfig(), OptimizerConfig(), ChainRules())
    assert train_offline.load_dataset(plan, size, tmp_path).card.dataset == "td3"
    (tmp_path / "dataset.json").write_text(json.dumps({"card": {"dataset": "rnd"}}))
    assert train_offline.load_dataset(plan, size, tmp_path).card.dataset == "rnd"


def test_two_programs_do_not_work_in_one_folder(data_dir, tmp_path):
    with alone(tmp_path / "run"):
        done = run("train_offline", *TINY, f"--data_dir={data_dir}", f"--out={tmp_path / 'run'}")
    assert done.returncode
    assert done.stderr == f"error: {tmp_path / 'run'}: another program works in it; wait for its end\n"


def test_a_run_does_not_go_on_under_other_flags(unbroken, data_dir):
    done = run("train_offline", "--resume", f"--out={unbroken[0]}", f"--data_dir={data_dir}", "--width=32")
    assert done.returncode != 0
    assert "--width: expected 16 as in the stored run, got 32" in done.stderr
    done = run("train_offline", "--resume", f"--out={unbroken[0]}", f"--data_dir={data_dir}", "--preset=accelerator")
    assert done.returncode != 0
    assert "--tokens: expected 'fused' as in the stored run, got 'interleaved'" in done.stderr


def test_other_updates_keep_the_presets_share_of_short_windows_and_the_run_goes_on(data_dir, tmp_path):
    flags = [flag for flag in TINY if not flag.startswith(("--short_updates", "--updates"))]
    flags += ["--preset=cpu", "--updates=13", "--chains=1", f"--data_dir={data_dir}", f"--out={tmp_path / 'run'}"]
    assert run("train_offline", *flags).returncode == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["short_updates"] == 6  # 600 of 1,300
    again = run("train_offline", *flags, "--resume")
    assert again.returncode == 0, again.stderr


def test_evaluate_plays_a_checkpoint(unbroken):
    out, _ = unbroken
    done = run("evaluate", f"--checkpoint={out}", "--trajs=1,2", "--chains=2", "--prompt=own,ranked,none,best,worst")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report.html" in done.stdout
    last = read_rows(out / "results.jsonl")[-20:]
    assert [row["protocol"] for row in last[::4]] == ["own", "ranked", "none", "best", "worst"]
    assert last[0]["return"] == last[4]["return"]  # the first episode has nothing before it
    assert "The data's worst trajectories in context change the mean episode" in done.stdout


def test_a_policy_in_ones_own_loop_earns_what_an_evaluation_says(unbroken, capsys):
    """docs/your_own.md."""
    text = (Path(__file__).parent.parent / "docs" / "your_own.md").read_text()
    loop = text.rpartition("```python\n")[2].partition("```")[0]
    loop = loop.replace("runs/walker_run-1", str(unbroken[0])).replace("seed=episode", "seed=seeds[episode]")
    checkpoints = Checkpoints(unbroken[0])
    (weights, _), meta = checkpoints.weights(), checkpoints.meta()
    checkpoints.close()
    asked = evaluate.Asked(episodes=4, target_return=meta.target_return, seed=0)
    played = evaluate.play(weights, meta, asked, partial(envs.make, meta.env), 1, "own")
    capsys.readouterr()
    exec(loop, {"seeds": [initial_seed(0, (0, episode)) for episode in range(4)]})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"episode {i}: {total:.1f}" for i, total in enumerate(played.returns[0])]


def test_without_the_data_their_best_and_worst_are_played_only_where_they_were_asked_for(
    unbroken, data_dir, tmp_path, capsys
):
    checkpoints = Checkpoints(unbroken[0])
    meta = checkpoints.meta()
    checkpoints.close()
    config = json.loads((unbroken[0] / "config.json").read_text()) | {"data_dir": str(tmp_path)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    protocols = ["own", "none", "best", "worst"]
    assert evaluate.prompts(tmp_path, meta, protocols, typed=False) == ((), ["own", "none"])
    assert f"note: {tmp_path / 'cartpole' / 'td3'}: no data set" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError):
        evaluate.prompts(tmp_path, meta, protocols, typed=True)
    shutil.copytree(data_dir / "cartpole" / "td3" / "buffer", tmp_path / "cartpole" / "td3" / "buffer")
    next((tmp_path / "cartpole" / "td3" / "buffer").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"expected the data that .* was trained on"):
        evaluate.prompts(tmp_path, meta, protocols, typed=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env=walker_fly"], "walker_fly"),
        (["--env=cartpole_swingup", "--dataset=nothing"], "no data set"),
        (["--env=cartpole_swingup", "--trajs=11"], "--trajs: expected at most"),
        (["--env=cartpole_swingup", "--preset=tpu"], "accelerator, baseline, cpu"),
        (["--env=cartpole_swingup", "--short_updates=1300"], "--short_updates: expected fewer than --updates 1300"),
        (["--env=cartpole_swingup", "--prompt=own,first"], "--prompt: expected own, none and any of own, ranked, none"),
        (["--env=cartpole_swingup", "--prompt=own,none,ranked", "--keep=0"], "no ranked where whole trajectories"),
        (["--env=walker_speed", "--prompt=own,none,best"], "walker_speed has protocols of its own"),
        (["--env=cartpole_swingup", "--accumulate=3"], "--accumulate: expected a divisor of --rows 4, got 3"),
        (["--env=cartpole_swingup", "--device=h100"], "--device: expected --forecast with it"),
        (["--env=cartpole_swingup", "--resume"], "nothing has been trained in"),
        (["--env=cartpole_swingup", "--kernel=cudnn"], "it runs on gpu, this is cpu"),
        (["--env=walker_speed", "--trajs=auto"], "--trajs: expected a number in a family of tasks"),
    ],
)
def test_a_mistake_gets_one_line_and_a_non_zero_exit(data_dir, tmp_path, flags, message):
    done = run("train_offline", f"--data_dir={data_dir}", f"--out={tmp_path / 'out'}", *flags)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_diverging_run_stops_with_the_batch_and_keeps_the_checkpoint(data_dir, tmp_path):
    out = tmp_path / "out"
    flags = [*TINY, f"--data_dir={data_dir}", f"--out={out}", "--learning_rate=1e30", "--clip=1e30"]
    done = run("train_offline", *flags)
    assert done.returncode != 0
    assert "expected finite numbers" in done.stderr
    assert list(out.glob("diverged_*.npz"))


def test_a_baseline_learns_from_a_file_of_d4rl_and_plays_episodes_that_end_early(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            rng.normal(size=(n + 1, 11)).astype(np.float32),
            rng.uniform(-1, 1, (n, 3)).astype(np.float32),
            rng.uniform(0, 1, n).astype(np.float32),
            True,
            {},
        )
        for n in (12, 30, 9, 21, 17)
    ]
    d4rl.write(tmp_path / "hopper_medium-v2.hdf5", episodes)
    out = tmp_path / "run"
    sizes = ("--width=8", "--rows=4", "--updates=6", "--trajs=3", "--chains=2", "--crop=4", "--log_every=2")
    sizes += ("--prompt=own,none,ranked",)  # of which a method without a context plays one
    data = ("--env=hopper-medium-v2", f"--data_dir={tmp_path}", f"--out={out}")
    done = run("train_offline", *data, "--method=rvs", "--preset=baseline", *sizes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "d4rl for hopper-medium-v2: 5 episodes, 89 steps" in done.stdout
    assert "warning: the data were made with mujoco 2 (mujoco-py), here" in done.stdout
    rows = read_rows(out / "results.jsonl")
    assert {(row["method"], row["protocol"], row["env_id"]) for row in rows} == {("RvS", "none", "Hopper-v4")}
    assert len(rows) == 6 and len({row["length"] for row in rows}) > 1
    assert all(row["score"] == pytest.approx((row["return"] + 20.272305) / 32.54572305) for row in rows)
