"""Scores by hand, from the printed reference returns."""

import pytest

from envs.scores import normalised_score, reference


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
    ],
)
def test_a_score_is_the_return_on_the_scale_of_its_references(env, episode_return, score):
    assert normalised_score(env, episode_return) == pytest.approx(score, abs=1e-9)


def test_without_reference_returns_there_is_no_score():
    assert reference("antmaze-umaze-v2") is None
    assert normalised_score("antmaze-umaze-v2", 1.0) is None
    assert normalised_score("walker", 1.0) is None


def test_a_reference_names_its_source():
    assert reference("quadruped_walk").source == "maximum possible return, dm_control"
    assert "D4RL" in reference("walker2d-expert-v2").source
