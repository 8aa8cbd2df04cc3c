"""Policies without a context: what they see, and that they act as they were trained."""

import jax
import numpy as np
import optax
import pytest
from made_up import TRAJECTORIES

from agent import learner, network
from agent.baselines import PerceptronPolicy, RandomPolicy, init_weights
from agent.config import BASELINES, ModelConfig, OptimizerConfig
from data.chain import ChainRules
from data.sampler import Sampler
from data.scaling import Scaling
from launch.training import best_tenth

SCALING = Scaling.fit(TRAJECTORIES)
SIZES = (3, 2)


def config(method):
    return ModelConfig(method=method, layers=2, width=8, trajs=4)


def weights_of(method):
    return init_weights(jax.random.key(3), config(method), *SIZES)


def batch(crop=0):
    return Sampler(TRAJECTORIES, SCALING, ChainRules(), 1, 0, crop, rows=2, seed=0).batch(0)


@pytest.mark.parametrize("method", BASELINES)
def test_an_episode_played_again_gives_the_actions_predicted_in_training(method):
    weights, episode = weights_of(method), batch()
    predicted = np.asarray(network.predict(weights, config(method), episode))
    policy = PerceptronPolicy(weights, config(method), SCALING, chains=1)
    policy.begin(float(SCALING.unscale_returns(episode.target_returns[0, 0])))
    for t in range(10):
        action = policy.act(SCALING.unscale_observations(episode.observations[:1, t]))
        policy.observe(SCALING.unscale_rewards(episode.rewards[:1, t]), np.array([t == 9]))
        np.testing.assert_allclose(action[0], predicted[0, t], atol=1e-5)


def test_only_the_return_conditioned_one_sees_what_is_asked_for_and_the_time():
    original = batch()
    changed = original._replace(target_returns=original.target_returns + 1, timesteps=original.timesteps + 7)
    for method in BASELINES:
        a, b = (np.asarray(network.predict(weights_of(method), config(method), each)) for each in (original, changed))
        assert (np.abs(a - b).max() > 1e-3) == (method == "rvs")


def test_the_action_is_a_perceptron_computed_by_hand():
    weights, observations = weights_of("bc"), batch().observations
    x = observations
    for matrix, bias in zip(weights.matrices[:-1], weights.biases[:-1], strict=True):
        x = np.maximum(x @ np.asarray(matrix) + np.asarray(bias)[None, None], 0)
    by_hand = np.tanh(x @ np.asarray(weights.matrices[-1]))
    np.testing.assert_allclose(network.predict(weights, config("bc"), batch()), by_hand, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_weight_learns(optimizer):
    rule = OptimizerConfig(optimizer=optimizer, learning_rate=0.01, updates=20)
    state = learner.init_state(jax.random.key(0), config("rvs"), rule, *SIZES)
    step = jax.jit(learner.make_train_step(config("rvs"), rule, seed=0))
    after, losses = state, []
    for _ in range(20):
        after, metrics = step(after, batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda a, b: float(optax.tree.norm(a - b)), state.weights, after.weights)
    assert min(jax.tree.leaves(moved)) > 0


def test_the_best_tenth_is_chosen_by_return_and_kept_in_order():
    ranked = [TRAJECTORIES[0]._replace(rewards=np.full(10, total / 10, np.float32)) for total in (3, 9, 1, 8) * 5]
    assert [round(trajectory.total) for trajectory in best_tenth(ranked)] == [9, 9]
    assert len(best_tenth(ranked[:4])) == 1


def test_random_actions_are_even_and_other_chains_draw_others():
    def draw(seed, start):
        policy = RandomPolicy(2, chains=8, seed=seed)
        policy.begin(0.0)
        return np.stack([policy.act(np.full((8, 3), start, np.float32)) for _ in range(500)])

    actions = draw(0, 1.0)
    np.testing.assert_allclose(np.quantile(actions, [0, 0.25, 0.5, 0.75, 1]), [-1, -0.5, 0, 0.5, 1], atol=0.05)
    np.testing.assert_array_equal(actions, draw(0, 1.0))
    assert (actions != draw(1, 1.0)).all() and (actions != draw(0, 2.0)).all()
