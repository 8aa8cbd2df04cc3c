"""Scores by hand, from the printed reference returns, and from D4RL's own where it is installed."""

import importlib.util
from pathlib import Path

import pytest

from envs.scores import normalised_score, reference


def d4rl_infos():
    """D4RL's tables. The package is found, not imported: it needs a MuJoCo that no longer installs."""
    found = importlib.util.find_spec("d4rl")
    if found is None:
        pytest.skip("d4rl is not installed")
    spec = importlib.util.spec_from_file_location("d4rl_infos", Path(found.origin).parent / "infos.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("env", "episode_return", "score"),
    [
        ("walker_run", 397.0, 39.7),
        ("cheetah_run_backward", 1000.0, 100.0),
        ("jaco_reach_top_left", 125.0, 50.0),
        ("hopper-medium-v2", -20.272305, 0.0),
        ("halfcheetah", 12135.0, 100.0),
        ("walker2d-medium-v2", 1.629008 + (4592.3 - 1.629008) / 2, 50.0),
        ("Ant-v5", -325.6 + (3879.7 + 325.6) / 4, 25.0),
        ("Hopper-v4", 3234.3, 100.0),
        ("antmaze-large-play-v2", 0.25, 25.0),
        ("kitchen-mixed-v0", 3.0, 75.0),
        ("maze2d-umaze-v1", 161.86, 100.0),
        ("maze2d-large-dense-v1", 30.569041, 0.0),
    ],
)
def test_a_score_is_the_return_on_the_scale_of_its_references(env, episode_return, score):
    assert normalised_score(env, episode_return) == pytest.approx(score, abs=1e-9)


def test_without_reference_returns_there_is_no_score():
    for env in ("pen-human-v1", "bullet-hopper-medium-v0", "maze2d-eval-umaze-v1", "walker"):
        assert reference(env) is None
        assert normalised_score(env, 1.0) is None


def test_a_reference_names_its_source():
    assert reference("quadruped_walk").source == "maximum possible return, dm_control"
    assert "D4RL" in reference("walker2d-expert-v2").source
    assert "D4RL" in reference("antmaze-umaze-v2").source


def test_references_are_those_of_d4rl():
    infos, compared = d4rl_infos(), 0
    bodies = ("ant-", "antmaze-", "halfcheetah-", "hopper-", "walker2d-", "kitchen-", "maze2d-")
    for name, low in infos.REF_MIN_SCORE.items():
        found = reference(name)
        assert (found is not None) == name.startswith(bodies), name
        if found is not None:
            assert (found.low, found.high) == (low, infos.REF_MAX_SCORE[name]), name
            compared += 1
    assert compared == 91
