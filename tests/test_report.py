"""Statistics by hand on tiny matrices; the report whole, from made-up rows."""

import csv
import html
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from launch.metrics import append_rows, write_atomically
from launch.plots import _spread
from launch.report import _cells, _headline, report
from launch.statistics import (
    estimate,
    gain_from_context,
    newest_chains,
    newest_result,
    powers_of_two,
    summarise,
)

SHARED = {
    "env": "walker_run",
    "dataset": "<td3>",
    "dataset_hash": "abc",
    "seed": 0,
    "method": "AT",
    "target_return": 400.0,
    "score": None,
    "length": 1000,
    "command": "python -m launch.train_offline --env walker_run --trajs 4",
    "commit": "0123-dirty",
    "versions": {"jax": "0.10.2"},
    "time": "2026-01-01T00:00:00+00:00",
}


def rows_of(returns, protocol="own", update=100):
    """[chains, episodes] -> rows, episode after episode, as chains in lockstep write them."""
    returns = np.asarray(returns, dtype=float)
    place = {"protocol": protocol, "trajs": returns.shape[1], "update": update}
    return [
        SHARED | place | {"chain": chain, "episode": episode + 1, "return": float(returns[chain, episode])}
        for episode in range(returns.shape[1])
        for chain in range(returns.shape[0])
    ]


def test_the_interval_of_three_chains_by_hand():
    # Mean 4, sd sqrt((4 + 0 + 4) / 2) = 2, t(0.975, 2) = 4.30265 of any printed table.
    mean, margin = estimate(np.array([2.0, 4.0, 6.0]))
    assert mean == 4.0
    assert margin == pytest.approx(4.30265 * 2 / math.sqrt(3), rel=1e-5)


def test_one_chain_has_no_interval():
    mean, margin = estimate(np.array([7.0]))
    assert mean == 7.0 and math.isnan(margin)


def test_the_statistics_of_a_prefix_by_hand():
    returns = np.array([[100.0, 300.0, 200.0, 9.0], [50.0, 150.0, 400.0, 9.0]])
    summary = summarise(returns, "own", 3, data_best=300.0)
    assert (summary.protocol, summary.trajs, summary.chains) == ("own", 3, 2)
    assert summary.first.mean == 75.0
    assert summary.last.mean == 300.0
    assert summary.mean.mean == 200.0  # of 200 and 200
    assert summary.mean.margin == 0.0
    assert summary.median.mean == 175.0  # of 200 and 150
    assert summary.max.mean == 350.0  # of 300 and 400
    assert summary.fall_rate.mean == pytest.approx((1 / 3 + 1 / 3) / 2)  # 100 and 50; 150 is no fall
    assert summary.last_of_best == 1.0
    # Two chains: t(0.975, 1) = 12.7062, sd = |a - b| / sqrt(2).
    assert summary.max.margin == pytest.approx(12.7062 * (100 / math.sqrt(2)) / math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("trajs", [0, 5])
def test_more_trajectories_than_the_chains_have_are_refused(trajs):
    with pytest.raises(ValueError, match=f"trajs is {trajs}, expected 1 to 4"):
        summarise(np.ones((2, 4)), "own", trajs, 1.0)


def test_powers_of_two_end_with_the_whole_chain():
    assert powers_of_two(1) == [1]
    assert powers_of_two(6) == [1, 2, 4, 6]
    assert powers_of_two(8) == [1, 2, 4, 8]


def test_only_the_last_measurement_of_an_update_counts():
    early, late = rows_of([[1, 2], [3, 4]]), rows_of([[5, 6]])
    rows = [row | {"time": "2026-01-01T00:00:00+00:00"} for row in early]
    rows += [row | {"time": "2026-01-02T00:00:00+00:00"} for row in late]
    chains = newest_chains(rows, "own", 100)
    assert {chain: list(returns) for chain, returns in chains.items()} == {(0, 0): [5, 6]}
    assert newest_chains(rows, "none", 100) == {}
    assert newest_chains(rows, "own", 99) == {}


def test_a_control_of_an_older_command_is_no_control():
    rows = rows_of([[1, 2]]) + rows_of([[1, 1]], "none")
    result = newest_result(rows, np.array([4.0]), trajs=None)
    assert result.gain.mean == 1.0 and result.prompts["own"].mean == 0.5
    rows += [row | {"command": "python -m launch.evaluate"} for row in rows_of([[5, 6]])]
    result = newest_result(rows, np.array([4.0]), trajs=None)
    assert list(result.chains) == ["own"] and result.gain is None
    rows += [row | {"command": "again", "target_return": 3.0} for row in rows_of([[1, 1]], "none")]
    result = newest_result(rows, np.array([4.0]), trajs=None)
    assert list(result.chains) == ["none"] and result.gain is None


def test_a_chain_that_a_kill_cut_short_is_left_out_with_a_warning():
    rows = rows_of([[1, 2], [3, 4]])[:-1]
    with pytest.warns(UserWarning, match="1 of 2 chains .* fewer than 2 episodes"):
        assert list(newest_chains(rows, "own", 100)) == [(0, 0)]


def test_the_gain_from_context_pairs_the_chains():
    own = newest_chains(rows_of([[1, 10], [1, 20], [1, 99]]), "own", 100)
    none = newest_chains(rows_of([[5, 4], [5, 16]], "none"), "none", 100)
    mean, margin = gain_from_context(own, none)  # 10 - 4 = 6 and 20 - 16 = 4
    assert mean == 5.0
    assert margin == pytest.approx(12.7062, rel=1e-5)
    assert gain_from_context(own, {}) is None


def test_a_prompt_is_set_against_the_control_episode_by_episode():
    rows = rows_of([[1, 2], [3, 4]]) + rows_of([[2, 4], [6, 8]], "none") + rows_of([[4, 6], [8, 9]], "best")
    result = newest_result(rows, np.array([9.0]), trajs=None)
    assert list(result.chains) == ["own", "none", "best"]
    assert {protocol: gain.mean for protocol, gain in result.prompts.items()} == {
        "own": -2.5,  # 1.5 - 3 and 3.5 - 7
        "best": 1.75,  # 5 - 3 and 8.5 - 7
    }


def test_the_headline_says_what_was_in_the_context():
    rows = rows_of([[4, 6], [8, 9]], "ranked") + rows_of([[2, 4], [6, 8]], "none")
    first = _headline(newest_result(rows, np.array([9.0]), trajs=None), "+-")[0]
    assert first.startswith("Last episode of 2 with the best of a chain's own earlier episodes in its context")
    rows = [row | {"trajs": 1} for row in rows_of([[4, 6], [8, 9]], "own")]
    first = _headline(newest_result(rows, np.array([9.0]), trajs=None), "+-")[0]
    assert first.startswith("Last episode of 2 in a row, the latest 1 in context, as trained: 7.5")


def test_a_result_shows_the_newest_update_and_keeps_the_older_ones_as_history():
    rows = rows_of([[1, 2], [1, 4]], update=50) + rows_of([[5, 6], [5, 8]], update=100)
    result = newest_result(rows, np.array([10.0, 4.0]), trajs=None)
    assert [(summary.trajs, summary.last.mean) for summary in result.summaries] == [(1, 5.0), (2, 7.0)]
    assert {update: summary.last.mean for update, summary in result.history.items()} == {50: 3.0, 100: 7.0}
    assert result.summaries[-1].last_of_best == 0.7
    again = [row | {"command": "python -m launch.evaluate --target_return 1"} for row in rows_of([[1, 1]], update=100)]
    assert newest_result(rows + again, np.array([10.0]), trajs=None).history == result.history
    with pytest.raises(ValueError, match="holds no row: evaluate first"):
        newest_result([], np.array([1.0]), trajs=None)


def test_no_shares_of_a_best_episode_that_is_not_positive():
    result = newest_result(rows_of([[-61.0, -62.0], [-60.0, -63.0]]), np.array([-80.0, -90.0]), trajs=None)
    cells = _cells(result, "+-")
    assert [line[-2:] for line in cells] == [["-", "-"], ["-", "-"], ["-", ""]]
    assert "(2 chains), beside the best episode in the data (-80.0)." in _headline(result, "+-")[0]


def test_labels_move_apart_by_as_little_as_they_must():
    np.testing.assert_allclose(_spread([0.0, 0.5, 0.5, 2.0], [0.2, 0.2, 0.2]), [0.0, 0.4, 0.6, 2.0])
    np.testing.assert_allclose(_spread([0.3], []), [0.3])


def write_run(out, rng, chains=3):
    out.mkdir(parents=True)
    for update in (50, 100):
        append_rows(out / "results.jsonl", rows_of(rng.uniform(0, 400, (chains, 4)), update=update))
    append_rows(out / "results.jsonl", rows_of(rng.uniform(0, 300, (chains, 4)), "none"))
    config = {"model": {"width": 128}, "env": "walker_run", "trajs": 8, "sort": False, "layers": 3, "out": "runs/a b"}
    write_atomically(out / "config.json", json.dumps(config))
    returns = rng.uniform(0, 400, 20).tolist()
    write_atomically(out / "dataset.json", json.dumps({"card": {"steps": 20_000}, "returns": returns}))
    lines = [f"{step},{1 / (step + 1)},{'' if step % 10 else 0.5}\n" for step in range(100)]
    write_atomically(out / "metrics.csv", "step,train_loss,heldout_loss\n" + "".join(lines))
    Image.new("P", (2, 2)).save(out / "rollout.gif", comment=b"episode 1 & episode 8")


def test_a_report_writes_every_file_and_a_page_that_needs_nothing_else(tmp_path):
    out = tmp_path / "run"
    write_run(out, np.random.default_rng(0))
    text = report(out)
    for name in ("returns_vs_trajs.png", "returns_by_episode.png", "training.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text(encoding="utf-8")
    # All it loads is inside it: three plots and the rollout. A text of the rows is escaped, never markup.
    assert [source[:15] for source in re.findall(r'src="([^"]*)"', page)] == ["data:image/png;"] * 2 + [
        "data:image/gif;",
        "data:image/png;",
    ]
    assert not re.search(r"href=|http|url\(|@import|<script|<link", re.sub(r"base64,[^\"]*", "", page))
    assert "&lt;td3&gt;" in page and "<td3>" not in page
    assert "<figcaption>episode 1 &amp; episode 8</figcaption>" in page
    again = "python -m launch.train_offline --env=walker_run --preset=none '--dataset=<td3>' --trajs=8 --sort=False"
    for words in (f">{html.escape(again)}<", SHARED["command"], "0123-dirty", "model.width", "20000"):
        assert words in page
    assert text.isascii()
    assert not [path for path in out.iterdir() if path.name.endswith(".part")]


def test_the_table_on_screen_and_the_csv_hold_the_same_numbers(tmp_path):
    out = tmp_path / "run"
    write_run(out, np.random.default_rng(1))
    text = report(out, trajs=[1, 3])
    with (out / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["protocol"], line["trajs"], line["update"]) for line in lines] == [
        ("own", "1", "100"),
        ("own", "3", "100"),
        ("none", "1", "100"),
        ("none", "3", "100"),
    ]
    for line, shown in zip(lines, text.splitlines()[2:], strict=False):
        assert f"{float(line['last']):.1f} +- {float(line['last_95']):.1f}" in shown


def test_one_chain_without_control_losses_or_rollout_still_has_a_report(tmp_path):
    append_rows(tmp_path / "results.jsonl", rows_of([[300.0]]))
    write_atomically(tmp_path / "config.json", "{}")
    write_atomically(tmp_path / "dataset.json", '{"returns": [400]}')
    text = report(tmp_path)
    assert "Last episode of 1 in context: 300.0 (1 chain, so no interval), 75% of the best" in text
    assert "Normalised score 30.0" in text
    assert "nan" not in text
    assert not (tmp_path / "training.png").exists()


def test_a_report_says_what_is_missing_or_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json is missing: train or evaluate"):
        report(tmp_path)
    write_atomically(tmp_path / "config.json", "[]")
    write_atomically(tmp_path / "dataset.json", '{"returns": [1, null]}')
    with pytest.raises(ValueError, match=r"config.json: expected a JSON object, got \[\]"):
        report(tmp_path)
    write_atomically(tmp_path / "config.json", "{}")
    with pytest.raises(FileNotFoundError, match=r"results.jsonl is missing: train or evaluate"):
        report(tmp_path)
    write_atomically(tmp_path / "config.json", '{"env": "walker_speed"}')
    with pytest.raises(FileNotFoundError, match=r"tasks.jsonl is missing: train or evaluate"):
        report(tmp_path)
    write_atomically(tmp_path / "config.json", "{}")
    append_rows(tmp_path / "results.jsonl", rows_of([[300.0]]))
    with pytest.raises(ValueError, match=r"dataset.json: returns: expected a list of finite numbers"):
        report(tmp_path)


def test_the_program_prints_the_table(tmp_path):
    out = tmp_path / "run"
    write_run(out, np.random.default_rng(2))
    command = [sys.executable, "-m", "launch.report", "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == report(out) + "\n"
