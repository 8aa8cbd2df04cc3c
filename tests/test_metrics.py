"""Files of measurements: whole after a kill, the same after a resume, clear about a bad line."""

import json
import re
import sys

import pytest

from launch.metrics import Metrics, append_rows, provenance, read_metrics, read_rows, write_atomically

ROW = {
    "env": "walker_run",
    "dataset": "td3",
    "dataset_hash": "abc",
    "seed": 0,
    "method": "AT",
    "protocol": "own",
    "trajs": 4,
    "chain": 0,
    "episode": 1,
    "return": 250.5,
    "score": 25.05,
    "length": 1000,
    "target_return": 397.0,
    "update": 100,
    "command": "python -m launch.evaluate",
    "commit": "0123",
    "versions": {"numpy": "2.4.6"},
    "time": "2026-01-01T00:00:00+00:00",
}


def log_steps(out, steps):
    with Metrics(out, wandb=False, config={}) as metrics:
        for step in steps:
            metrics.log(step, {"train_loss": 1 / (step + 3), "learning_rate": 0.1 * step})
            if step % 4 == 0:
                metrics.log(step, {"eval/last_return": step / 7})


def test_metrics_are_read_back_bit_for_bit_and_columns_may_grow(tmp_path):
    with Metrics(tmp_path, wandb=False, config={}) as metrics:
        metrics.log(0, {"train_loss": 1 / 3})
        metrics.log(10, {"train_loss": float("nan"), "eval/last_return": 2})
        metrics.log(10, {"learning_rate": 0.1})
        metrics.log(20, {"train_loss": 3})
        metrics.log(20, {"learning_rate": 0.2})
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,train_loss,eval/last_return,learning_rate\n0,0.3333333333333333,,\n10,nan,2.0,0.1\n20,3.0,,0.2\n"
    )
    assert read_metrics(tmp_path / "metrics.csv")[0] == {"step": 0, "train_loss": 1 / 3}


@pytest.mark.parametrize("resumed_at", [3, 4, 9])
def test_the_csv_of_a_resumed_run_equals_that_of_an_unbroken_one(tmp_path, resumed_at):
    log_steps(tmp_path / "unbroken", range(12))
    log_steps(tmp_path / "resumed", range(9))
    with (tmp_path / "resumed" / "metrics.csv").open("a") as file:
        file.write("9,0.0833")  # the kill
    log_steps(tmp_path / "resumed", range(resumed_at, 12))
    unbroken = (tmp_path / "unbroken" / "metrics.csv").read_bytes()
    assert (tmp_path / "resumed" / "metrics.csv").read_bytes() == unbroken


def test_what_another_process_logged_from_the_first_step_on_is_gone_whole(tmp_path):
    for values in ({"train_loss": 1, "eval/last_return": 9}, {"train_loss": 2}):
        with Metrics(tmp_path, wandb=False, config={}) as metrics:
            metrics.log(5, values)
    assert (tmp_path / "metrics.csv").read_text() == "step,train_loss\n5,2.0\n"


def test_tensorboard_gets_event_files(tmp_path):
    log_steps(tmp_path, range(3))
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train_loss" in events.read_bytes()


def test_steps_of_one_process_rise(tmp_path):
    with Metrics(tmp_path, wandb=False, config={}) as metrics:
        metrics.log(5, {"train_loss": 1})
        with pytest.raises(ValueError, match="step 4 logged after step 5"):
            metrics.log(4, {"train_loss": 1})


def test_a_metrics_csv_that_is_no_table_of_numbers_is_refused_with_its_line(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train_loss\n0,0.5\n1,hello\n")
    with pytest.raises(ValueError, match=r"metrics.csv:3: expected a step and 1 more cells.*got '1,hello'"):
        Metrics(tmp_path, wandb=False, config={})


def test_wandb_that_is_not_installed_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'agentic-bpt\[wandb\]'"):
        Metrics(tmp_path, wandb=True, config={})


def test_rows_come_back_as_they_went(tmp_path):
    rows = [ROW, ROW | {"episode": 2, "score": None, "return": 0.1 + 0.2}]
    append_rows(tmp_path / "results.jsonl", rows[:1])
    append_rows(tmp_path / "results.jsonl", rows[1:])
    assert read_rows(tmp_path / "results.jsonl") == rows


def test_a_torn_last_line_is_dropped_with_a_warning_and_cut_off_by_the_next_append(tmp_path):
    path = tmp_path / "results.jsonl"
    append_rows(path, [ROW])
    with path.open("a") as file:
        file.write(json.dumps(ROW)[:50])
    with pytest.warns(UserWarning, match=r"results.jsonl:2: dropped a last line"):
        assert read_rows(path) == [ROW]
    append_rows(path, [ROW | {"episode": 2}])
    assert [row["episode"] for row in read_rows(path)] == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"return": "high"}, "return is 'high', expected a finite number"),
        ({"return": float("nan")}, "return is nan, expected a finite number"),
        ({"episode": 0}, "episode is 0, expected a whole number, at least 1"),
        ({"chain": True}, "chain is True, expected a whole number, at least 0"),
        ({"protocol": "first"}, "protocol is 'first', expected one of own, ranked, none, best, worst"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_field_expected_and_got(tmp_path, change, message):
    path = tmp_path / "results.jsonl"
    append_rows(path, [ROW])
    with pytest.raises(ValueError, match=re.escape(f"results.jsonl: new row 2: {message}")):
        append_rows(path, [ROW, ROW | change])
    assert read_rows(path) == [ROW]
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | change) + "\n")
    with pytest.raises(ValueError, match=re.escape(f"results.jsonl:2: {message}")):
        read_rows(path)


def test_a_missing_field_and_a_line_that_is_no_json_are_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({name: ROW[name] for name in ROW if name != "seed"}) + "\n")
    with pytest.raises(ValueError, match=r"results.jsonl:1: seed is missing, expected a whole number"):
        read_rows(path)
    path.write_text("env,return\n")
    with pytest.raises(ValueError, match=r"results.jsonl:1: expected one JSON object, got 'env,return'"):
        read_rows(path)


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    write_atomically(path, "old")

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_provenance_fills_the_row_with_a_command_that_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python3", "-m", "launch.evaluate", "--out", "my runs"])
    found = provenance()
    assert found["command"] == "python -m launch.evaluate --out 'my runs'"
    assert set(found["versions"]) == {
        "python",
        "agentic-bpt",
        "jax",
        "optax",
        "orbax-checkpoint",
        "mujoco",
        "dm_control",
        "gymnasium",
        "numpy",
    }
    append_rows(tmp_path / "results.jsonl", [ROW | found])


def test_outside_a_git_work_tree_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("launch.metrics.__file__", str(tmp_path / "metrics.py"))
    assert provenance()["commit"] == "unknown"
