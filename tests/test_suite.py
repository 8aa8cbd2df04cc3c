"""The same cells in several environments: which are the same, and their numbers by hand."""

import numpy as np
import pytest

from launch import suite
from launch.comparison import compare


def row(env, method, last, best=100.0, **given):
    """A row of one seed and as many chains as there are last episodes."""
    typed = {"env": env, "dataset": f"td3_{env}", "method": method, "data_dir": f"/{env}"} | given
    return {
        "cell": method,
        "env": env,
        "typed": typed,
        "dataset": typed["dataset"],
        "flags": {"trajs": 4, "max_steps": len(env), "seed": 0} | typed,
        "seeds": [0],
        "data": {"best": best, "mean": 1.0, "episodes": 2},
        "chains": {"none": len(last)},
        "returns": {"none": [[[0.0, value] for value in last]]},
    }


ROWS = [
    row("walker_walk", "at", [10.0, 20.0, 30.0, 40.0]),
    row("walker_walk", "bc", [1.0, 2.0, 3.0, 4.0], width="9"),
    row("walker_run", "at", [100.0, 120.0, 140.0, 160.0], best=200.0),
    row("walker_run", "bc", [2.0, 4.0, 6.0, 8.0], best=200.0, width="9"),
]


def test_cells_are_matched_by_their_flags_but_for_environment_and_data():
    first, second = suite.compare(ROWS, "last")
    assert (first.label, second.label) == ("AT width=128", "BC width=9")
    # Four numbers without the lowest and the highest: (20 + 30) / 2 of 100, (120 + 140) / 2 of 200.
    values = {env: interval.value for env, interval in first.by_env.items()}
    assert values == pytest.approx({"walker_walk": 0.25, "walker_run": 0.65})
    # 10, 20, 30, 40, 50, 60, 70, 80 percent without two at each end: the mean of 30, 40, 50 and 60.
    assert first.total.value == pytest.approx(0.45)
    assert first.total.low < 0.45 < first.total.high
    assert np.all(first.counts.reshape(-1, 2, 4).sum(axis=2) == 4)  # every environment keeps its weight
    # A chain has the episodes 0 and what it ends with: its mean is half of that, its best is that.
    assert suite.compare(ROWS, "mean")[0].total.value == pytest.approx(0.225)
    assert suite.compare(ROWS, "max")[0].total.value == pytest.approx(0.45)


def test_what_own_episodes_give_is_told_chain_by_chain():
    rows = [
        cell | {"returns": {"own": [[[0.0, value + gain] for value in (10.0, 20.0, 30.0, 40.0)]], **cell["returns"]}}
        for cell, gain in ((ROWS[0], 6.0), (row("walker_run", "at", [10.0, 20.0, 30.0, 40.0], best=200.0), -20.0))
    ]
    (gain,) = suite.gains(rows, "last")
    assert gain.protocol == "own - none"
    assert [interval.value for interval in gain.by_env.values()] == pytest.approx([0.06, -0.1])
    assert gain.total.value == pytest.approx(-0.02)
    assert suite.make_sections(rows)[0].lines[-1][1:5] == ["own - none", "+6 [+6, +6]", "-10 [-10, -10]", "-2 [-2, -2]"]


def test_a_cell_that_an_environment_lacks_has_no_number_over_all():
    section, *others = suite.make_sections([*ROWS, row("walker_stand", "at", [50.0] * 4)])
    assert section.header == ["cell", "context", "walker_walk", "walker_run", "walker_stand", "all", "all, plain mean"]
    at, bc = section.lines
    assert at[:2] == ["AT width=128", "none"] and at[4] == "50 [50, 50]" and at[5].startswith("48 [")
    assert at[6] == "47" and bc[4:] == ["", "", ""]
    assert section.headline[0].startswith("Highest over all environments: AT width=128, context none, 48.3")
    assert [part.title.split(", ")[1] for part in others] == ["mean episode of a chain", "best episode of a chain"]
    assert section.figures["suite"].png.startswith(b"\x89PNG")


def test_data_sets_of_one_environment_are_kept_apart():
    section, *_ = suite.make_sections([*ROWS, row("walker_run", "at", [50.0] * 4, dataset="rnd")])
    data = ("td3_walker_run", "rnd")
    assert section.header[3:] == [*(f"walker_run, {name}, 10 steps" for name in data), "all", "all, plain mean"]
    assert section.lines[0][4] == "50 [50, 50]"


def test_one_environment_is_no_suite_and_no_best_gives_no_shares():
    assert suite.make_sections(ROWS[:2]) == []
    assert suite.make_sections([*ROWS[:2], row("cartpole_swingup_sparse", "at", [0.0], best=0.0)]) == []
    assert suite.make_sections([row("walker_walk", "at", [1.0]), row("walker_run", "bc", [1.0])]) == []


def test_environments_count_the_same_however_many_chains_they_have():
    more = row("walker_walk", "at", [10.0] * 8)
    (line,) = suite.compare([more, row("walker_run", "at", [100.0] * 4)], "last")
    assert line.weights.tolist() == [1] * 8 + [2] * 4 and np.all(line.counts.sum(axis=1) == 16)
    assert line.plain == pytest.approx(0.55)
    assert line.total.value == pytest.approx(0.55)  # of eight 10 and eight 100, without four at each end


def test_the_best_of_a_shorter_chain_stands_beside_no_longer_ones():
    short = [row(env, "at", [50.0] * 4, trajs=2) for env in ("walker_walk", "walker_run")]
    for cell in short:
        cell["returns"]["none"] = [[[value] for _, value in cell["returns"]["none"][0]]]
    assert len(suite.compare([*ROWS, *short], "last")) == 3 and len(suite.compare([*ROWS, *short], "max")) == 2


def test_data_that_one_command_made_differently_are_taken_together():
    """Each as a share of its own best: 10 to 40 of 100 here, 5 and 6 of 10 there, twice: seeds count the same."""
    other = row("walker_walk", "at", [5.0, 6.0], best=10.0) | {"dataset_hash": "b"}
    rows = [*({**cell, "dataset_hash": "a"} for cell in ROWS), other]
    at, bc = suite.compare(rows, "last")
    assert at.by_env["walker_walk"].value == pytest.approx(0.425)  # 30, 40, 50 and 50 of 10, 20, 30, 40, 50, 50, 60, 60
    assert bc.by_env["walker_walk"].value == pytest.approx(0.025)
    about = suite.make_sections(rows)[0].about
    assert about.startswith(
        "last episode of a chain, % of the best episode in the data; 2 environments, 1 to 2 data sets"
    )
    assert "1 to 2 training seeds" in about


def test_a_seed_that_was_played_twice_counts_once():
    """The same weights with another --prompt and more chains: what was played more often is told."""
    twice = [{**row("walker_walk", "at", [5.0, 6.0], prompt="none"), "dataset_hash": "a"}]
    rows = [*({**cell, "dataset_hash": "a"} for cell in ROWS), *twice]
    assert suite.compare(rows, "last")[0].by_env == suite.compare(ROWS, "last")[0].by_env
    assert "; 2 environments, 1 training seed x 2 to 4 chains" in suite.make_sections(rows)[0].about


def test_what_own_episodes_give_is_of_data_on_which_both_were_played():
    def played(best, own, none, hash):
        cell = row("walker_walk", "at", none, best=best) | {"dataset_hash": hash}
        cell["returns"] |= {"own": [[[0.0, value] for value in own]]} if own else {}
        return cell

    run = row("walker_run", "at", [10.0] * 4) | {"dataset_hash": "c"}
    run["returns"]["own"] = [[[0.0, 15.0]] * 4]
    both = played(100.0, [11.0, 22.0, 33.0, 44.0], [10.0, 20.0, 30.0, 40.0], "a")
    (gain,) = suite.gains([both, played(10.0, [], [9.0] * 4, "b"), run], "last")
    assert gain.by_env["walker_walk"].value == pytest.approx(0.025)


def test_cells_are_compared_on_the_same_data_alone():
    rows = [row("walker_walk", "at", [1.0] * 4) | {"dataset_hash": f"{name}" * 10, "control": False} for name in "ab"]
    first, second = compare([*rows, row("walker_run", "at", [1.0] * 4) | {"dataset_hash": "c", "control": True}])[:2]
    assert first.name == "walker_walk, td3_walker_walk aaaaaaaa" and len(first.lines) == 1
    assert second.name == "walker_walk, td3_walker_walk bbbbbbbb"
