"""Touch the future, and no earlier action moves; touch the past that is in sight, and it does."""

import jax
import numpy as np
import pytest
from made_up import TRAJECTORIES

from agent import network, transformer
from agent.config import ModelConfig
from data.chain import ChainRules
from data.sampler import Sampler
from data.scaling import Scaling

SAMPLER = Sampler(TRAJECTORIES, Scaling.fit(TRAJECTORIES), ChainRules(completion=True), 4, 4, 8, 2, 0)
AFTER = ("actions", "rewards", "completions")
"""What a step itself holds that its own action may not see."""


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@pytest.mark.parametrize("system", ["vanilla", "memory_efficient", "bpt"])
def test_an_action_depends_on_nothing_that_comes_after_it(layout, system):
    config = ModelConfig(tokens=layout, attention=system, layers=2, width=16, heads=2, block=8, trajs=4)
    weights = transformer.init_weights(jax.random.key(0), config, 3, 2)
    batch = SAMPLER.batch(0)
    predict = jax.jit(lambda batch: network.predict(weights, config, batch))
    before = np.asarray(predict(batch))
    step = 9
    touched = {
        name: getattr(batch, name).copy()
        for name in batch._fields
        if name not in ("timesteps", "trajectories", "chains", "loss_weights")
    }
    for name, values in touched.items():
        values[:, step + (name not in AFTER) :] += 1
    after = np.asarray(predict(batch._replace(**touched)))
    np.testing.assert_array_equal(before[:, : step + 1], after[:, : step + 1])
    assert np.abs(before[:, step + 1 :] - after[:, step + 1 :]).max() > 1e-4


def test_an_action_depends_on_the_past_trajectories():
    config = ModelConfig(tokens="fused", attention="vanilla", layers=2, width=16, trajs=4)
    weights = transformer.init_weights(jax.random.key(0), config, 3, 2)
    batch = next(b for b in map(SAMPLER.batch, range(50)) if b.trajectories[0].max() == 3)
    observations = batch.observations.copy()
    observations[0, 0] += 1
    last = np.flatnonzero(batch.chains[0] == 1)[-1]
    moved = network.predict(weights, config, batch._replace(observations=observations))
    assert np.abs(np.asarray(network.predict(weights, config, batch) - moved)[0, last]).max() > 1e-5
