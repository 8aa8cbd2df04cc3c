"""What cells are called: no more than it takes, and no two the same."""

from launch import labels


def names(*typed, **given):
    """Of cells with these typed flags, the preset's (given) below them."""
    return labels.name([{"typed": each, "flags": {"method": "at", "chains": 4} | given | each} for each in typed])


def test_what_most_cells_have_is_said_once():
    found = names({}, {"loss": "mixed"}, {"keep": 2, "loss": "last"}, loss="last", keep=8)
    assert found.labels() == ["base", "loss=mixed", "keep=2"]
    assert found.common == "loss=last keep=8"
    assert labels.aside(found.common) == "; where nothing else is said: loss=last keep=8" and labels.aside("") == ""


def test_a_method_has_its_name_and_stands_first():
    found = names({"trajs": 4}, {"method": "bc10"}, {"trajs": 32}, trajs=32)
    assert found.labels() == ["AT trajs=4", "BC-10%", "AT"] and found.common == "trajs=32"


def test_a_grid_is_said_in_full():
    found = names(*({"trajs": n, "relabel": r} for n in (1, 4) for r in (True, False)))
    assert found.labels() == [f"trajs={n} relabel={r}" for n in (1, 4) for r in ("true", "false")]


def test_how_much_was_played_is_said_only_where_it_tells_cells_apart():
    assert names({"trajs": 1, "chains": 32}, {"trajs": 4, "chains": 8}).labels() == ["trajs=1", "trajs=4"]
    assert names({"chains": 32}, {"chains": 8}).labels() == ["chains=32", "chains=8"]


def test_rules_of_chains_are_those_of_methods_that_have_chains():
    found = names({"method": "bc"}, {"method": "dt"}, {"loss": "all"}, {"loss": "last"}, loss="last")
    assert found.labels() == ["BC", "DT", "AT loss=all", "AT loss=last"] and not found.common
    found = names({"trajs": 1, "loss": "last"}, {"trajs": 4, "loss": "all"}, {"trajs": 8, "loss": "all"})
    assert found.labels() == ["trajs=1", "trajs=4", "trajs=8"] and found.common == "loss=all"
