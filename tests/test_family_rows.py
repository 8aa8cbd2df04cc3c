"""Runs of a family of tasks -> a row -> tables and a figure: numbers by hand, and faults that are planted."""

import json
import re

import numpy as np
import pytest

from envs.family import find
from launch.cells import Cell, Run
from launch.comparison import make_row, read_stored_rows, store_row
from launch.family_comparison import lines, sections
from launch.family_rows import append, read_newest
from launch.join_rows import join
from launch.report import report_all

FAMILY = find("cartpole_position")
TASKS = np.array(FAMILY.held_out)
RETURNS = {
    ("told", 0, 1): 800.0,
    ("not told", 0, 1): 400.0,
    ("rule", 5, 1): 600.0,
    ("data", 0, 1): 500.0,
    ("data", 5, 1): 700.0,
    ("wrong labels", 5, 1): 300.0,
    **{("own", 5 if episode > 1 else 0, episode): 500.0 + 20 * (episode - 1) for episode in range(1, 9)},
}
"""Of the first task from the first start, seed 0; each further task returns 10 more, start 1 one more, seed 1 100."""
OFF = {"data": 0.25, "own": -0.5}


def episodes(seed, starts=2, **changes):
    """An evaluation as a run leaves it."""
    shared = {
        "env": FAMILY.name,
        "dataset": "commands_position",
        "dataset_hash": "abc",
        "seed": seed,
        "update": 4,
        "ask": 0.7,
        "command": "c",
        "commit": "0123",
        "versions": {"jax": "0.10.2"},
        "time": f"seed {seed}",
    }
    return [
        shared
        | {"protocol": protocol, "segments": segments, "episode": episode, "start": start}
        | {"task": np.float32(task).tolist(), "achieved": [task[0] + OFF.get(protocol, 1.0), 0.9]}
        | {"return": value + 10 * number + start + 100 * seed}
        | changes
        for (protocol, segments, episode), value in RETURNS.items()
        for number, task in enumerate(TASKS)
        for start in range(starts)
    ]


@pytest.fixture
def runs(tmp_path):
    """Two seeds of a cell, that are done; seed 1 was evaluated before, otherwise, and has a start more."""
    flags = {"env": FAMILY.name, "trajs": 5, "show_rewards": "past"}
    cell = Cell({"env": FAMILY.name, "trajs": "5"}, flags, "key", FAMILY.name)
    found = [Run(cell, seed, tmp_path / "out" / f"seed-{seed}") for seed in (0, 1)]
    card = {"return_max": 60.0, "return_mean": 50.0, "episodes": 6}
    for run in found:
        run.folder.mkdir(parents=True)
        (run.folder / "dataset.json").write_text(json.dumps({"card": card, "returns": [900.0]}))
        (run.folder / "done.json").write_text(json.dumps({"seconds": 12.5}))
        (run.folder / "metrics.csv").write_text("step,heldout_loss\n4,0.5\n")
        if run.seed:
            append(run.folder / "tasks.jsonl", episodes(1, **{"time": "before", "return": 9.0}))
        append(run.folder / "tasks.jsonl", episodes(run.seed, starts=2 + run.seed))
    return found


@pytest.fixture
def row(runs):
    return make_row(runs[0].cell, runs, True)


def test_a_row_holds_the_newest_evaluation_of_each_seed_and_is_small(row):
    assert (row["env"], row["dataset"], row["method"]) == (FAMILY.name, "commands_position", "AT")
    assert (row["seeds"], row["seconds"], row["heldout_loss"], row["commit"]) == ([0, 1], [12.5, 12.5], 0.5, "0123")
    assert (row["starts"], row["tasks"]) == (2, [list(task) for task in FAMILY.held_out])
    assert row["axes"] == [{"name": "position", "unit": "m"}]
    assert row["data"] == {"best": 60.0, "mean": 50.0, "episodes": 6}  # of the card: those of the file are of no task
    assert [(p["protocol"], p["segments"], p["episode"]) for p in row["points"]] == list(RETURNS)
    (told,) = (point for point in row["points"] if point["protocol"] == "told")
    first = [[800.0 + 10 * task + start for start in (0, 1)] for task in range(5)]
    assert told["returns"] == [first, (np.array(first) + 100).tolist()]
    np.testing.assert_allclose(told["achieved"], np.broadcast_to(TASKS + 1, (1, 2, 5, 2)))
    assert "returns" not in row and len(json.dumps(row)) < 8000


def test_the_table_by_hand(row):
    table = {(line.label, line.segments): line for line in lines(row)}
    most = table["segments of the data", 5]
    # Two seeds x 5 tasks x 2 starts: 700, 701, 710, ..., 741, and the same with 100 more, less five at each end.
    assert most.returns.value == np.mean([721, 730, 731, 740, 741, 800, 801, 810, 811, 820])
    assert most.returns.low < most.returns.value < most.returns.high
    assert most.by_seed == [720.5, 820.5]
    assert most.off == pytest.approx([0.25])
    assert most.closed == pytest.approx(0.75)  # from 400 to 800, and what is added is added to all
    assert tuple(most.gain) == pytest.approx((200.0, 200.0, 200.0))
    assert table["segments of the data", 0].gain is None
    assert table["the same, labelled with another task", 5].closed == pytest.approx(-0.25)
    assert table["own episodes, episode 1", 0].gain.value == 0.0
    late = table["own episodes, episodes 5 to 8", 5]
    assert late.gain.value == pytest.approx(110.0)  # of 80, 100, 120, 140
    assert late.off == pytest.approx([0.5])


def test_a_single_seed_of_a_single_start_gives_a_table_too(runs):
    append(runs[0].folder / "tasks.jsonl", episodes(0, starts=1, time="after"))
    (section,) = sections([make_row(runs[0].cell, runs[:1], True)])
    assert "1 training seed x 5 tasks x 1 start" in section.about.split("; ")
    assert len(section.lines) == len(RETURNS) + 1 and "by seed" not in section.header


def test_rows_of_single_seeds_join_to_the_row_of_both(runs, row):
    first, second = (make_row(run.cell, [run], True) for run in runs)
    assert second["starts"] == 3 and row["starts"] == 2
    joined = join(second, first)
    assert joined["points"] == row["points"] and joined["seeds"] == [0, 1] and joined["starts"] == 2
    elsewhere = second | {"backend": "gpu", "versions": {"jax": "0.11.2", "python": "3.12.1"}}
    joined = join(elsewhere, first | {"backend": "cpu", "versions": {"jax": "0.10.2"}})
    assert joined["backend"] == "gpu, cpu" and joined["versions"] == {"jax": "0.11.2, 0.10.2", "python": "3.12.1"}
    changed = json.loads(json.dumps(first))
    changed["points"][0]["returns"][0][0][0] = 1.0
    assert join(row, changed)["points"][0]["returns"] == [
        changed["points"][0]["returns"][0],
        row["points"][0]["returns"][1],
    ]
    with pytest.raises(ValueError, match=r"expected tasks of seeds \[0\] to be that of seeds \[1\]"):
        join(second | {"tasks": [[9.0]]}, first)


def other(row):
    """A row of a single task, as other cells leave it."""
    returns = {"none": [[[100.0, 110.0], [120.0, 130.0]]]}
    more = {"env": "walker_run", "key": "other", "control": False, "seeds": [0], "chains": {"none": 2}}
    return (
        {k: v for k, v in row.items() if k not in ("points", "tasks", "axes", "starts")} | more | {"returns": returns}
    )


def test_a_folder_of_rows_of_both_kinds_is_drawn_from_rows_alone(row, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    wide = row | {"key": "wide", "typed": row["typed"] | {"show_rewards": "all"}, "control": False}
    wide["flags"] = row["flags"] | {"show_rewards": "all"}
    for each in (row, other(row), wide):
        store_row(folder / "both.jsonl", each, ["key", "wide"])
    store_row(folder / "one.jsonl", row, [])
    text = report_all(folder)
    for title in (
        "walker_run, data set",
        *(f"{FAMILY.name}, show_rewards={word}, held-out" for word in ("past", "all")),
    ):
        assert title in text
    assert text.isascii() and "held-out position -1.2, -0.6, 0, 0.6, 1.2; data set" in text
    page, markdown = ((folder / f"one.{kind}").read_text() for kind in ("html", "md"))
    assert page.count('src="data:image/png;') == 1 and row["command"] in page
    line = r"\| segments of the data \| 5 \| 770 \[\d+, \d+\] \| 720 / 820 \| 0.25 \| 75 \| \+200 \[\+200, \+200\] \|"
    assert re.search(line, markdown)
    (folder / "both.html").unlink()
    (folder / "one.html").unlink()
    assert report_all(folder / "one.jsonl") in text and (folder / "one.html").is_file()
    assert not (folder / "both.html").exists()
    for name in ("one_cartpole_position", "both_cartpole_position_key", "both_cartpole_position_wide"):
        assert (folder / f"{name}_tasks.png").read_bytes().startswith(b"\x89PNG")


def test_a_stored_row_without_a_seed_of_a_protocol_is_named_by_file_and_line(row, tmp_path):
    path = tmp_path / "ablation.jsonl"
    store_row(path, other(row), [])
    store_row(path, row, [])
    assert len(read_stored_rows(path)) == 2
    fault = json.loads(json.dumps(row))
    del fault["points"][4]["returns"][1]
    path.write_text(json.dumps(other(row)) + "\n" + json.dumps(fault) + "\n")
    with pytest.raises(ValueError, match=r"jsonl:2: data, 5 segments, episode 1: .* \[2, 5, 2\], got \[1, 5, 2\]"):
        read_stored_rows(path)
    path.write_text(json.dumps({name: value for name, value in row.items() if name != "axes"}) + "\n")
    with pytest.raises(ValueError, match=r"jsonl:1: expected a row of launch.ablate, axes missing"):
        read_stored_rows(path)


def test_a_wrong_line_of_a_run_is_named_and_so_is_an_episode_that_is_not_there(runs):
    path = runs[0].folder / "tasks.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"env": "cart')
    with pytest.raises(ValueError, match=f"tasks.jsonl:{len(whole.splitlines()) + 1}: expected a JSON object"):
        read_newest(path)
    path.write_text(whole.replace('"episode": 1', '"episode": "one"', 1))
    with pytest.raises(ValueError, match=r"tasks.jsonl:1: expected an episode of a family, got episode = 'one'"):
        read_newest(path)
    path.write_text(whole.partition("\n")[2])
    with pytest.raises(ValueError, match=r"seed-0.tasks.jsonl: told, 0 segments, episode 1: .* start 0 is missing"):
        make_row(runs[0].cell, runs, True)
    # What launch.evaluate plays afterwards is another evaluation.
    path.write_text(whole + whole.replace('"command": "c"', '"command": "python -m launch.evaluate --chains 1"'))
    assert read_newest(path) == [json.loads(line) for line in whole.splitlines()]
    # A protocol that a seed was not played under is in no row.
    path.write_text("".join(line + "\n" for line in whole.splitlines() if '"rule"' not in line))
    assert "rule" not in {point["protocol"] for point in make_row(runs[0].cell, runs, True)["points"]}
