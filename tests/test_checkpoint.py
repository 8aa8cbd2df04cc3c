import json

import jax
import numpy as np
import pytest

from agent import learner
from agent.config import ModelConfig, OptimizerConfig
from data.chain import ChainRules
from data.scaling import Scaling
from launch.checkpoint import Checkpoints, Meta

MODEL = ModelConfig(tokens="fused", layers=1, width=16, trajs=4)
OPTIMIZER = OptimizerConfig(optimizer="muon")
META = Meta(
    env="walker_run",
    observation_size=3,
    action_size=2,
    model=MODEL,
    optimizer=OPTIMIZER,
    rules=ChainRules(sort=False),
    keep=8,
    target_return=12.5,
    scaling=Scaling(np.array([0.1, 1, 2], np.float32), np.array([1, 2, 1 / 3], np.float32), 9.5, 0.1),
    dataset="td3",
    dataset_hash="abc",
    seed=3,
)


def state_at(step, seed=0):
    state = learner.init_state(jax.random.key(seed), MODEL, OPTIMIZER, 3, 2)
    return state._replace(step=jax.numpy.int32(step))


def same(a, b):
    for one, two in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(7), META)
    checkpoints.close()
    again = Checkpoints(tmp_path)
    same(again.state(), state_at(7))
    weights, update = again.weights()
    same(weights, state_at(7).weights)
    assert update == 7
    meta = again.meta()
    assert meta._replace(scaling=None) == META._replace(scaling=None)
    same(meta.scaling, META.scaling)
    assert meta.scaling.std.dtype == np.float32


def test_a_save_that_was_cut_off_is_ignored(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(5), META)
    checkpoints.save(state_at(10, seed=1), META)
    checkpoints.close()
    # What kill -9 in the middle of a save leaves: a folder under its temporary name, with some of its files.
    whole = tmp_path / "checkpoints" / "10"
    whole.rename(tmp_path / "checkpoints" / "10.orbax-checkpoint-tmp-123")
    again = Checkpoints(tmp_path)
    assert again.latest() == 5
    same(again.state(), state_at(5))


def test_no_checkpoint_says_where_and_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint, found none; train one"):
        Checkpoints(tmp_path).meta()


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    stored = json.loads(json.dumps(META.to_json())) | {"format": 99}
    with pytest.raises(ValueError, match="format: expected 1, got 99"):
        Meta.from_json(stored, tmp_path)
