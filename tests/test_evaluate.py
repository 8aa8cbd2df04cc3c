"""What launch.evaluate plays."""

from dataclasses import replace

from agent.config import ModelConfig
from launch import evaluate
from launch.evaluate import model_to_play


def test_chain_lengths_are_reported_in_order():
    assert evaluate.read_trajs("4,1,4") == [1, 4] and evaluate.read_trajs("") is None


def test_a_model_is_played_without_room_for_a_context_it_has_not_and_in_float32_on_a_cpu():
    model = ModelConfig(trajs=32, dtype="bfloat16")
    assert model_to_play(model, "own", "gpu") == model
    assert model_to_play(model, "none", "gpu") == replace(model, trajs=1)
    assert model_to_play(model, "ranked", "cpu") == replace(model, dtype="float32")
