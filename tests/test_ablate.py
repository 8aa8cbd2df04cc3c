"""Sweeps: which cells there are, that each runs once whatever happens, and what is read from them.

A stand-in for train_offline makes the programs quick; one test runs the real one.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags

from data import exorl
from launch import ablate, cells, comparison, sweep
from launch.ablation_report import report
from launch.comparison import compare, read_stored_rows, store_row

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
out, trajs, seed = Path(flags["out"]), int(flags["trajs"]), int(flags["seed"])
first_time = not (out / "starts").exists()
with (out / "starts").open("a") as file:
    file.write("resume\\n" if "--resume" in sys.argv else "begin\\n")
(out / "pid").write_text(str(os.getpid()))
(out / "cores").write_text(str(sorted(os.sched_getaffinity(0))))
if trajs == 13:
    sys.exit("error: thirteen is unlucky")
stored = {"env": "cartpole_swingup", "updates": 4, "trajs": trajs, "short_updates": 0}
(out / "config.json").write_text(json.dumps(stored))
(out / "dataset.json").write_text(json.dumps({"returns": [100.0, 500.0]}))
for update in range(4):
    if not (out / f"update-{update}").exists():
        time.sleep(float(os.environ["UPDATE_SECONDS"]) if trajs == 3 else 0)
        (out / f"update-{update}").write_text("")
    if trajs == 7 and first_time and update == 2:
        os.kill(os.getpid(), signal.SIGKILL)
shared = dict(env="cartpole_swingup", dataset="td3", dataset_hash="abc", seed=seed, method="AT", trajs=trajs,
              target_return=500.0, update=4, command="c", commit="0123", versions={}, time="t", score=None, length=9)
with (out / "results.jsonl").open("w") as file:
    for protocol in ("own", "none"):
        for chain in range(2):
            for episode in range(1, trajs + 1):
                value = 100.0 + 10 * seed + chain + (episode if protocol == "own" else 0)
                place = dict(protocol=protocol, chain=chain, episode=episode)
                file.write(json.dumps(shared | place | {"return": value}) + "\\n")
"""
DRIVER = """
import sys
from launch import ablate, sweep

STAND_IN = sys.argv[1]

def this_python(arguments):
    return [sys.executable, *([STAND_IN, *arguments[2:]] if "launch.train_offline" == arguments[1] else arguments)]

if __name__ == "__main__":
    sweep.this_python, ablate.find_backend = this_python, lambda: "cpu"
    ablate.define_flags()
    ablate.start(sys.argv[2:])
"""
PROCESSES = min(2, len(os.sched_getaffinity(0)))
FLAGS = ["--env=cartpole_swingup", "--updates=4", "--short_updates=0", "--preset=cpu", f"--processes={PROCESSES}"]


@pytest.fixture(scope="module")
def known():
    """The program's flags, for as long as the tests of this file run."""
    before = set(flags.FLAGS)
    ablate.define_flags()
    flags.FLAGS(["ablate"])
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "stand_in.py").write_text(STAND_IN)
    (folder / "driver.py").write_text(DRIVER)

    def start(out, *words, seconds=0.0):
        command = [sys.executable, folder / "driver.py", folder / "stand_in.py", *FLAGS, *words, f"--out={out}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environ = os.environ | {"UPDATE_SECONDS": str(seconds), "PYTHONPATH": os.getcwd()}
        return subprocess.Popen([str(word) for word in command], env=environ, **pipes)

    return start


def finish(process):
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def starts(out):
    """Seed folder, by cell -> how its programs began."""
    return {str(path.parent.relative_to(out)): path.read_text().split() for path in sorted(out.glob("*/*/starts"))}


def rows_of(out):
    rows = read_stored_rows(out / "ablation.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def swept(driver, tmp_path_factory):
    out = tmp_path_factory.mktemp("swept") / "out"
    return out, finish(driver(out, "--trajs=2,3", "--relabel=true,false", "--seeds=2"))


# ---- Which cells ----


def test_values_between_commas_make_a_grid_and_quotes_hold_commas():
    assert cells.grid({"trajs": "1, 4", "relabel": "true,false"}) == [
        {"trajs": n, "relabel": r} for n in ("1", "4") for r in ("true", "false")
    ]
    assert cells.values("dataset", '"a,b",c') == ["a,b", "c"] and cells.values("dataset", "") == [""]
    with pytest.raises(ValueError, match="--save_every: expected one value"):
        cells.values("save_every", "1,2")
    with pytest.raises(ValueError, match="expected --seeds, such as --seeds=5"):
        cells.grid({"seed": "1"})


def test_cells_of_the_same_data_agree_on_where_they_lie_and_how_many_there_are_to_be(known):
    with pytest.raises(ValueError, match="--data_dir: expected one value, since it changes nothing"):
        cells.values("data_dir", "a,b")
    with pytest.raises(ValueError, match="--data_dir: expected one value in all cells of the same data, got a and b"):
        cells.plan_cells([{"trajs": "4", "data_dir": "a"}, {"trajs": "4", "data_dir": "b"}], "cpu")
    with pytest.raises(ValueError, match="--episodes: expected one value in all cells of the same data, got 50 and 9"):
        cells.plan_cells(cells.grid({"trajs": "1,4", "episodes": "50,90"}), "cpu")
    others = [{"env": "walker_run", "episodes": "50"}, {"env": "cheetah_run", "episodes": "90", "data_dir": "b"}]
    assert len(cells.plan_cells(others, "cpu")) == 2


def test_seeds_are_how_many_or_which():
    assert cells.read_seeds("3") == [0, 1, 2]
    assert cells.read_seeds("4,1") == [4, 1]
    assert cells.read_seeds("7,") == [7]
    for wrong in ("0", "", "x", "1,x", "1,1", "-1"):
        with pytest.raises(ValueError, match="--seeds: expected how many, such as 5, or which"):
            cells.read_seeds(wrong)


def test_the_command_line_is_split_between_the_two_programs(known):
    own = {"out", "dry_run"}
    words = ["--trajs", "1,4", "--out", "x", "--relabel", "--nosort", "--loss=last,all", "--nodry_run"]
    rest, found = cells.split_arguments(words, own)
    assert rest == ["--out", "x", "--nodry_run"]
    assert found == {"trajs": "1,4", "relabel": "true", "sort": "false", "loss": "last,all"}
    with pytest.raises(ValueError, match=r"--treys: expected a flag .*, trajs,"):
        cells.split_arguments(["--treys=1"], own)
    with pytest.raises(ValueError, match="--trajs: expected a value"):
        cells.split_arguments(["--trajs"], own)


def test_a_cell_is_what_its_flags_come_to(known):
    plain = cells.resolve({"env": "walker_run", "trajs": "4"}, "cpu")
    same = {"trajs": "4", "preset": "cpu", "keep": "8", "save_every": "7", "sort": "1"}
    assert cells.resolve(same, "gpu").key == plain.key
    assert plain.resolved["keep"] == 8 and plain.resolved["trajs"] == 4  # the preset's, and what was typed
    assert cells.resolve({"trajs": "4", "keep": "9"}, "cpu").key != plain.key
    assert cells.resolve({"trajs": "4"}, "gpu").typed["preset"] == "accelerator"
    assert cells.resolve({"trajs": "4", "method": "rvs"}, "gpu").typed["preset"] == "baseline"
    assert cells.resolve({"trajs": "4", "preset": "none"}, "cpu").resolved["keep"] == 0
    assert len(cells.plan_cells([{"trajs": "4"}, same, {"trajs": "8"}], "cpu")) == 2


def test_presets_take_the_loss_on_the_last_trajectory_of_reward_free_data(known, tmp_path):
    def loss(**typed):
        return cells.resolve({"data_dir": str(tmp_path), **typed}, "cpu").resolved["loss"]

    assert loss() == loss(dataset="td3") == loss(env="walker_speed", dataset="commands_speed") == "all"
    assert loss(dataset="rnd") == loss(dataset="exorl/proto") == loss(dataset="icm", preset="accelerator") == "last"
    assert loss(dataset="rnd", loss="all") == loss(dataset="rnd", method="dt") == "all"
    for name, unnamed in (("rnd", "last"), ("td3", "all")):  # what is taken where none is named
        buffer = tmp_path / "walker" / name / "buffer"
        buffer.mkdir(parents=True)
        (buffer / "episode_000000_1000.npz").touch()
        assert loss() == unnamed


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"trajs": "many"}, "--trajs: "),
        ({"loss": "none"}, "--loss: value should be one of <last|all"),
        ({"heads": "3"}, "--heads: expected a divisor of --width 128, got 3"),
        ({"trajs": "auto"}, "--trajs: expected a number, since auto depends on the machine"),
        ({"preset": "tpu"}, "--preset: expected auto, none or one of accelerator, "),
        ({"heldout": "-0.5"}, "--heldout: expected a share of at least 0 and below 1, got -0.5"),
        ({"env": "walker_speed", "draw": "full"}, "--draw: expected powers for a family of tasks, got full"),
        ({"env": "walker_speed", "horizon": "990"}, "--horizon: expected at most 985"),
    ],
)
def test_a_wrong_flag_is_told_before_anything_runs(known, typed, message):
    with pytest.raises(ValueError, match=message):
        cells.resolve(typed, "cpu")


def test_a_file_lists_cells_line_by_line(known, tmp_path):
    path = tmp_path / "cells"
    path.write_text("# rows of a table\n--trajs=1 --sort=false  # a control\n\n--dataset='a,b' --trajs 32\n")
    assert cells.read_cells(path) == [{"trajs": "1", "sort": "false"}, {"dataset": "a,b", "trajs": "32"}]
    with pytest.raises(ValueError, match="cells:4: expected no --dataset, which is typed for all lines"):
        cells.read_cells(path, beside=("dataset", "updates"))
    path.write_text("--trajs=1\n--treys=1\n")
    with pytest.raises(ValueError, match="cells:2: --treys: expected a flag"):
        cells.read_cells(path)
    path.write_text("trajs=1\n")
    with pytest.raises(ValueError, match="cells:1: expected flags but --seed, got 'trajs=1'"):
        cells.read_cells(path)


def test_a_control_is_found_by_its_values(known):
    found = cells.plan_cells(cells.grid({"trajs": "1,4", "relabel": "true,false"}), "cpu")
    assert cells.find_control(found, "trajs=4 relabel=false") is found[3]
    with pytest.raises(ValueError, match="--control: expected flags of one of the cells, such as 'trajs=1 relabel=tr"):
        cells.find_control(found, "trajs=5")
    with pytest.raises(ValueError, match="--control: expected flags of one of the cells, got 'trajs=x': "):
        cells.find_control(found, "trajs=x")


def test_what_evaluate_plays_in_a_sweeps_folder_afterwards_does_not_change_its_row(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"returns": [100.0, 500.0]}))
    of_run = {"env": "cartpole_swingup", "dataset": "td3", "dataset_hash": "abc", "seed": 0, "method": "AT", "trajs": 1}
    of_run |= {"target_return": 500.0, "update": 4, "commit": "0123", "versions": {}, "score": None, "length": 9}
    of_run |= {"command": "python -m launch.train_offline", "time": "t", "protocol": "own", "chain": 0, "episode": 1}
    later = of_run | {"command": "python -m launch.evaluate --checkpoint x --seed 5", "time": "u"}
    lines = [of_run | {"return": 7.0}, later | {"return": 9.0}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, found = comparison._collect("cartpole_swingup", [SimpleNamespace(folder=tmp_path, seed=0)])
    assert found["returns"] == {"own": [[[7.0]]]}
    (tmp_path / "config.json").write_text(json.dumps({"env": "cartpole_swingup", "updates": 4}))
    assert sweep.is_complete(tmp_path)
    (tmp_path / "results.jsonl").write_text(json.dumps(lines[1]) + "\n")
    assert not sweep.is_complete(tmp_path)


def test_a_row_says_everything_that_its_seeds_were_measured_with():
    versions = [{"jax": "0.10"}, {"jax": "0.11", "numpy": "2"}, {"jax": "0.11", "numpy": "2"}]
    assert functools.reduce(comparison.said, versions, None) == {"jax": "0.10, 0.11", "numpy": "2"}
    assert functools.reduce(comparison.said, ["a", "b", "a"], None) == "a, b"


def test_a_folder_of_other_flags_is_not_taken_for_the_cell(known, tmp_path):
    found = cells.plan_cells([{"trajs": "4"}], "cpu")
    (run,) = cells.plan_runs(found, [0], tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(json.dumps(run.cell.resolved | {"width": 64}))
    with pytest.raises(ValueError, match="--width: expected 64 as in the stored run, got 128; delete the folder"):
        cells.plan_runs(found, [0], tmp_path)


@pytest.mark.parametrize(
    "name, value, taken",
    [("chains", 2, True), ("prompt", "none,own", True), ("width", 64, False), ("data_dir", "elsewhere", False)],
)
def test_what_was_learned_is_taken_over_where_what_is_played_alone_differs(known, tmp_path, name, value, taken):
    (run,) = cells.plan_runs(cells.plan_cells([{"trajs": "4"}], "cpu"), [0], tmp_path)
    other = tmp_path / "other" / "seed-0"
    (other / "checkpoints" / "4").mkdir(parents=True)
    for file in ("metrics.csv", "done.json", "dataset.json"):
        (other / file).write_text("{}")
    (other / "config.json").write_text(json.dumps(run.cell.resolved | {name: value}))
    assert sweep.take_over(run) == (other if taken else None)
    assert run.begun == taken == (run.folder / "checkpoints" / "4").is_dir()
    assert (run.folder / "dataset.json").exists() == taken  # it goes on with the data that it began with
    run.check()


def test_a_cell_that_is_older_than_a_flag_has_its_default():
    old, new = ({"method": "bc"}, {"method": "bc"}), ({"head": "mixture"}, {"method": "bc", "head": "mixture"})
    assert cells.differing([old, new]) == [{"head": "head=deterministic"}, {"head": "head=mixture"}]


# ---- What runs ----


def test_cores_are_dealt_out_and_none_twice():
    assert sweep.split_cores([0, 1, 2, 3, 4], 2) == [[0, 1], [2, 3, 4]]
    with pytest.raises(ValueError, match="--processes: expected 1 to 2, the cores there are, got 3"):
        sweep.split_cores([0, 1], 3)


def test_the_time_left_by_hand(known, tmp_path):
    found = cells.plan_cells(cells.grid({"trajs": "1,4"}), "cpu")
    a0, b0, a1, b1 = cells.plan_runs(found, [0, 1], tmp_path)
    assert sweep.seconds_left([a0, b0, a1, b1], [], [], 2) is None
    # Cell a takes 10 s, b 30. One process is free in 10 - 4 = 6 s, then b1 takes until 36.
    assert sweep.seconds_left([b1], [(a1, 4.0)], [(a0, 10.0), (b0, 30.0)], 1) == 36.0
    # On two, b1 starts at once. Of an unknown cell the mean is expected: 10.
    assert sweep.seconds_left([b1], [(a1, 4.0)], [(a0, 10.0), (b0, 30.0)], 2) == 30.0
    assert sweep.seconds_left([b0, b1], [], [(a0, 10.0)], 1) == 20.0
    assert sweep.words_for(59.6) == "1 min 0 s" and sweep.words_for(7260) == "2 h 1 min"


def test_a_sweep_runs_every_cell_on_cores_of_its_own_and_compares(swept):
    out, (code, stdout, stderr) = swept
    assert code == 0, stdout + stderr
    assert "4 cells x 2 seeds = 8 runs" in stdout and "8 of 8 runs done" in stdout
    assert list(starts(out).values()) == [["begin"]] * 8
    places = sweep.split_cores(sorted(os.sched_getaffinity(0)), PROCESSES)
    assert {path.read_text() for path in out.glob("*/*/cores")} <= {str(cores) for cores in places}
    rows = read_stored_rows(out / "ablation.jsonl")
    assert [row["cell"] for row in rows] == [f"trajs={n} relabel={r}" for n in (2, 3) for r in ("true", "false")]
    assert [row["control"] for row in rows] == [True, False, False, False]
    # Chains 0 and 1 of seeds 0 and 1: 100, 101, 110, 111, plus the number of the episode.
    assert rows[2]["returns"]["own"][1] == [[111.0, 112.0, 113.0], [112.0, 113.0, 114.0]]
    last = rows[2]["statistics"]["own"]["last"]
    assert last["value"] == 108.5 and last["score"]["value"] == 10.85
    assert (rows[2]["seeds"], rows[2]["episodes"]) == ([0, 1], {"own": 3, "none": 3})
    for name in ("intervals", "by_trajs", "by_episode", "profiles"):
        assert (out / f"ablation_cartpole_swingup_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_against_the_control_on_common_initial_states(swept):
    (comparison,) = compare(read_stored_rows(swept[0] / "ablation.jsonl"))
    line = comparison.lines[2]
    assert line.label == "trajs=3 relabel=true" and comparison.control.label == "trajs=2 relabel=true"
    last, same = line.differences["own"]
    assert np.isnan(last).all()  # episode 3 starts from another state than episode 2
    assert tuple(comparison.lines[1].differences["own"][0]) == (0.0, 0.0, 0.0)
    assert tuple(same) == (0.0, 0.0, 0.0)  # episodes 1 and 2 return the same
    assert comparison.control.differences == {}


def test_what_is_done_is_not_run_again_and_what_is_new_is(swept, driver):
    out, _ = swept
    before = rows_of(out)
    code, stdout, stderr = finish(driver(out, "--trajs=2,3", "--relabel=true,false", "--seeds=2"))
    assert code == 0, stdout + stderr
    assert "8 runs in" in stdout and "8 done" in stdout
    assert list(starts(out).values()) == [["begin"]] * 8
    assert rows_of(out) == before
    code, stdout, stderr = finish(driver(out, "--trajs=2", "--relabel=true,false", "--seeds=0,5", "--dry_run"))
    assert code == 0 and "2 cells x 2 seeds = 4 runs" in stdout and "2 done" in stdout
    assert "2 runs are missing: about " in stdout and "by the 2 runs that are done" in stdout
    assert len(starts(out)) == 8


def test_a_report_is_drawn_again_from_rows_alone(swept, tmp_path):
    rows = (swept[0] / "ablation.jsonl").read_bytes()
    (tmp_path / "speed.jsonl").write_bytes(rows)
    text = report(tmp_path / "speed.jsonl", tmp_path)
    assert text in swept[1][1] and text.isascii()
    page = (tmp_path / "speed.html").read_text()
    assert page.count('src="data:image/png;') == 4 and "http" not in page.partition("base64")[0]
    assert "python -m launch.ablate --env=cartpole_swingup" in page
    (tmp_path / "speed.jsonl").write_bytes(rows + b"{}\n")
    with pytest.raises(ValueError, match=r"speed.jsonl:5: expected a row of launch.ablate, cell, key, "):
        report(tmp_path / "speed.jsonl", tmp_path)


def test_a_new_row_of_a_cell_takes_the_place_of_the_old(swept, tmp_path):
    first, second, *_ = read_stored_rows(swept[0] / "ablation.jsonl")
    path = tmp_path / "ablation.jsonl"
    order = [first["key"], second["key"]]
    for row in (second, first, second | {"control": True, "seeds": [9]}):
        store_row(path, row, order)
    assert [(row["key"], row["control"]) for row in read_stored_rows(path)] == [(order[0], False), (order[1], True)]


def test_a_sweep_goes_on_from_rows_alone_and_fewer_seeds_lose_none(swept, driver, tmp_path):
    out, words = tmp_path / "out", ("--trajs=2,3", "--relabel=true")
    out.mkdir()
    whole = [row for row in read_stored_rows(swept[0] / "ablation.jsonl") if row["flags"]["relabel"]]
    (out / "ablation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))
    code, stdout, stderr = finish(driver(out, *words, "--seeds=1,2"))
    assert code == 0, stdout + stderr
    assert "4 runs in" in stdout and "2 done" in stdout
    assert {name[-6:]: began for name, began in starts(out).items()} == {"seed-2": ["begin"]}
    assert len(starts(out)) == 2
    for row, before in zip(rows_of(out), whole, strict=True):
        assert row["seeds"] == [0, 1, 2] and "--seeds=0,1,2 " in row["command"]
        assert row["returns"]["own"][:2] == before["returns"]["own"]
        assert row["returns"]["none"][2] == [[120.0] * row["flags"]["trajs"], [121.0] * row["flags"]["trajs"]]
        assert row["statistics"]["none"]["last"]["value"] == 110.5  # of 100, 101, 110, 111, 120, 121
    joined = rows_of(out)
    code, stdout, stderr = finish(driver(out, *words, "--seeds=2,"))
    assert code == 0 and rows_of(out) == joined, stdout + stderr


def test_seeds_of_other_data_are_not_put_into_one_row(swept, driver, tmp_path):
    (out := tmp_path / "out").mkdir()
    row = read_stored_rows(swept[0] / "ablation.jsonl")[0] | {"dataset_hash": "other"}
    (out / "ablation.jsonl").write_text(json.dumps(row) + "\n")
    code, stdout, stderr = finish(driver(out, "--trajs=2", "--seeds=2,"))
    assert code == 1 and "expected dataset_hash of seeds [2] to be that of seeds [0, 1]" in stderr, stdout + stderr
    assert "'other', got 'abc'; move the rows away" in stderr and "Traceback" not in stderr
    (stored,) = read_stored_rows(out / "ablation.jsonl")
    assert (stored["seeds"], stored["returns"], stored["dataset_hash"]) == ([0, 1], row["returns"], "other")
    assert list(out.glob("*/seed-2/done.json"))  # what was run is there


def test_rows_of_another_default_are_not_taken_for_the_cell(swept, driver, tmp_path):
    (out := tmp_path / "out").mkdir()
    row = read_stored_rows(swept[0] / "ablation.jsonl")[0]
    (out / "ablation.jsonl").write_text(json.dumps(row | {"flags": row["flags"] | {"dropout": 0.75}}) + "\n")
    code, _, stderr = finish(driver(out, "--trajs=2", "--seeds=2"))
    assert code == 1 and f"cell {row['key']}: --dropout: expected 0.75 as in the stored run" in stderr, stderr
    assert "move its row away" in stderr


def test_a_killed_sweep_goes_on_and_runs_nothing_twice(swept, driver, tmp_path):
    out, words = tmp_path / "out", ("--trajs=2,3", "--relabel=true,false", "--seeds=2")
    process = driver(out, *words, seconds=60)
    while process.poll() is None:
        done = {path.parent for path in out.glob("*/*/done.json")}
        if len(done) >= 2 and {path.parent for path in out.glob("*/*/config.json")} - done:
            break
        time.sleep(0.01)
    process.kill()
    process.communicate()
    pids = [int(path.read_text()) for path in out.glob("*/*/pid")]
    until = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):  # they do not go on unseen
        assert time.monotonic() < until
        time.sleep(0.05)
    done = {str(path.parent.relative_to(out)) for path in out.glob("*/*/done.json")}
    assert 2 <= len(done) < 8
    code, stdout, stderr = finish(driver(out, *words))
    assert code == 0, stdout + stderr
    after = starts(out)
    assert len(after) == 8 and all(after[name] == ["begin"] for name in done)
    assert sorted(map(len, after.values()))[-1] == 2 and ["begin", "resume"] in after.values()
    assert rows_of(out) == rows_of(swept[0])


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_that_is_killed_goes_on_and_one_that_fails_stops_no_other(driver, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = finish(driver(out, "--trajs=13,7,2", "--seeds=0,"))
    assert code == 1, stdout + stderr
    assert "trajs=13 seed 0: FAILED, exit code 1" in stdout and "    error: thirteen is unlucky" in stdout
    assert "trajs=7 seed 0: killed by SIGKILL; it will go on from its last checkpoint" in stdout
    assert sorted(starts(out).values()) == [["begin"], ["begin"], ["begin", "resume"]]
    assert [row["cell"] for row in read_stored_rows(out / "ablation.jsonl")] == ["trajs=7", "trajs=2"]
    assert "failed: trajs=13 seed 0" in stdout and "2 of 3 runs done, 1 failed" in stdout


def test_a_terminated_sweep_tells_its_programs_and_waits_for_them(driver, tmp_path):
    out = tmp_path / "out"
    process = driver(out, "--trajs=3", "--seeds=1", seconds=60)
    while not any(out.glob("*/*/pid")) and process.poll() is None:
        time.sleep(0.01)
    (pid,) = (int(path.read_text()) for path in out.glob("*/*/pid"))
    process.send_signal(signal.SIGTERM)
    code, stdout, stderr = finish(process)
    assert code == 128 + signal.SIGTERM, stdout + stderr
    assert not is_running(pid)


FAMILY_STAND_IN = """
import json, sys
from pathlib import Path
from envs.family import find

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
out, family = Path(flags["out"]), find(flags["env"])
with (out / "starts").open("a") as file:
    file.write("begin\\n")
(out / "config.json").write_text(json.dumps({"env": family.name, "updates": 4}))
card = {"return_max": 60.0, "return_mean": 50.0, "episodes": 6}
(out / "dataset.json").write_text(json.dumps({"card": card, "returns": []}))
shared = dict(env=family.name, dataset="d", dataset_hash="h", seed=int(flags["seed"]), update=4, ask=0.7, command="c",
              commit="0123", versions={}, time="t", start=0, episode=1)
with (out / "tasks.jsonl").open("w") as file:
    for segments in (0, 5):
        for task in family.held_out:
            place = dict(protocol="data", segments=segments, task=task, achieved=[*task, 1.0])
            file.write(json.dumps(shared | place | {"return": 100.0 + segments + shared["seed"]}) + "\\n")
"""


def test_a_sweep_of_a_family_ends_in_rows_and_is_not_run_twice(tmp_path):
    (tmp_path / "stand_in.py").write_text(FAMILY_STAND_IN)
    (tmp_path / "driver.py").write_text(DRIVER)
    words = ["--env=cartpole_position", "--trajs=5", "--updates=4", "--seeds=2", f"--out={tmp_path / 'out'}"]
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "stand_in.py"), "--processes=1", *words]
    for _ in range(2):
        ran = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "2 of 2 runs done" in ran.stdout or "2 done" in ran.stdout
        assert list(starts(tmp_path / "out").values()) == [["begin"]] * 2
    (row,) = read_stored_rows(tmp_path / "out" / "ablation.jsonl")
    assert (row["seeds"], row["starts"], row["env"]) == ([0, 1], 1, "cartpole_position")
    assert row["points"][1]["returns"] == [[[105.0]] * 5, [[106.0]] * 5]
    assert "+5 [+5, +5]" in ran.stdout and (tmp_path / "out" / "ablation.md").is_file()


def test_an_unknown_flag_ends_in_one_line_with_the_known_ones(driver, tmp_path):
    code, _, stderr = finish(driver(tmp_path / "out", "--treys=1"))
    assert code == 1 and "error: --treys: expected a flag" in stderr and "Traceback" not in stderr
    assert "trajs" in stderr and not (tmp_path / "out").exists()


def test_the_real_program_takes_the_flags_of_a_cell(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        exorl.write_episode(
            tmp_path / "data" / "cartpole" / "td3" / "buffer",
            i,
            {
                "observation": rng.normal(size=(21, 5)).astype(np.float32),
                "action": rng.uniform(-1, 1, (21, 1)).astype(np.float32),
                "reward": np.zeros((21, 1), np.float32),
                "discount": np.ones((21, 1), np.float32),
                "physics": rng.normal(size=(21, 4)),
            },
        )
    typed = "--env=cartpole_swingup --trajs 1 --layers=1 --width=16 --heads=1 --window=8 --keep=2 --crop=8 --rows=2"
    more = ["--short_updates=0", "--updates=2", "--chains=1", "--heldout=0.2", "--seeds=3,"]
    folders = [f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "launch.ablate", *typed.split(), *more, *folders]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (row,) = read_stored_rows(tmp_path / "out" / "ablation.jsonl")
    assert (row["seeds"], row["env"], row["flags"]["width"]) == ([3], "cartpole_swingup", 16)
    assert row["heldout_loss"] > 0 and row["versions"]["jax"]

    # More chains of the same weights: they are played, not learned again.
    ran = subprocess.run([*command, "--chains=2"], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    again = next(row for row in read_stored_rows(tmp_path / "out" / "ablation.jsonl") if row["flags"]["chains"] == 2)
    (log,) = tmp_path.glob(f"out/*-{again['key']}/seed-3/log.txt")
    assert "--resume" in log.read_text() and "update 2/2" not in log.read_text()
    assert again["heldout_loss"] == row["heldout_loss"] and again["chains"] == {"none": 2}
