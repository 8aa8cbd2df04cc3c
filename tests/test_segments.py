"""Chains of segments by hand, and acting behind them as one forward pass over the finished chain."""

import dataclasses

import jax
import numpy as np
import pytest

from agent import network, transformer
from agent.config import ModelConfig
from agent.segments_policy import SegmentsPolicy
from data import segment_chains, segments
from data.chain import ChainRules
from data.scaling import Scaling
from data.segment_chains import SegmentSampler, Telling
from data.segments import Episodes, Featured, SegmentRules, Segments
from data.trajectory import Batch

O, A, T, EPISODES = 3, 2, 20, 4
RULES = SegmentRules(segment=3, horizon=2, prior=0.0, show_rewards="none")
CHAIN_RULES = ChainRules(relabel=False, completion=False, loss="all")
SCALING = Scaling(np.array([0.1, 0.2, -0.3], np.float32), np.array([1, 2, 0.5], np.float32), 9.0, 0.75)
RNG = np.random.default_rng(0)
FEATURES = [np.stack((RNG.uniform(0, 1, T), np.ones(T)), -1).astype(np.float32) for _ in range(EPISODES)]
TRAJECTORIES = [
    Featured(
        RNG.normal(size=(T, O)).astype(np.float32),
        RNG.uniform(-1, 1, (T, A)).astype(np.float32),
        features[:, -1],
        features,
    )
    for features in FEATURES
]


class Near:
    """The task is a number, the reward one less the distance to it; the only task to draw is 0.25."""

    def draw(self, rng, count):
        return np.full((count, 1), 0.25, np.float32)

    def rewards(self, features, tasks):
        return (features[..., -1] * (1 - np.abs(features[..., 0] - tasks[..., 0]))).astype(np.float32)

    def errors(self, features, tasks):
        return np.abs(features[..., :-1] - tasks)


def telling(rules=RULES):
    return Telling(SCALING, rules, np.zeros(1), np.ones(1))


def sampler(rules=RULES, chain_rules=CHAIN_RULES, count=4, rows=2, seed=0):
    return SegmentSampler(Episodes(TRAJECTORIES, rules), Near(), telling(rules), chain_rules, count, rows, seed)


def changed(**numbers):
    return dataclasses.replace(RULES, **numbers)


def made_up(rewards, first=False):
    """Segments of one chain whose rewards are given, [N, S + horizon]; observation and action say which they are."""
    rewards = np.float32(rewards)[None]
    count = rewards.shape[1]
    number = np.broadcast_to(np.arange(count, dtype=np.float32)[None, :, None, None], (1, count, RULES.segment, 1))
    return Segments(number, number / 10, rewards, np.full((1, count), first))


def chain_of(rewards, shown=False, first=False, rules=RULES, **chain_rules):
    found = made_up(rewards, first)
    rules_of_chain = dataclasses.replace(CHAIN_RULES, **chain_rules)
    return segment_chains.chains(found, found.observations, np.full((1, len(rewards)), shown), rules_of_chain, rules)


RISING = [0.0, 0.1, 0.3, 0.5, 0.7]  # the reward before the segment, then of its 3 steps and of the one behind them
FLAT = [0.0, 0.1, 0.1, 0.1, 0.1]


def test_rates_are_means_over_the_horizon_by_hand():
    np.testing.assert_allclose(made_up([RISING]).rates(2), [[[0.2, 0.4, 0.6]]], rtol=1e-6)


def test_a_chain_is_ordered_by_the_rates_of_its_first_steps():
    batch = chain_of([RISING, FLAT])
    np.testing.assert_array_equal(batch.observations[0, :, 0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(batch.actions[0, :, 0], [0.1, 0.1, 0.1, 0, 0, 0])
    np.testing.assert_allclose(batch.rewards[0], [0.1, 0.1, 0.1, 0.1, 0.3, 0.5])
    rates = np.array([0.1, 0.1, 0.1, 0.2, 0.4, 0.6])
    np.testing.assert_allclose(batch.target_returns[0], (rates - 0.6) * 4, atol=1e-6)
    np.testing.assert_array_equal(batch.trajectories[0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(batch.loss_weights[0], np.ones(6))
    unsorted = chain_of([RISING, FLAT], sort=False)
    np.testing.assert_array_equal(unsorted.observations[0, :, 0], [0, 0, 0, 1, 1, 1])


def test_relabelled_every_step_is_asked_for_the_best_rate_of_the_chain():
    batch = chain_of([RISING, FLAT], relabel=True)
    np.testing.assert_allclose(batch.target_returns[0], np.full(6, (0.2 - 0.6) * 4), rtol=1e-5)


def test_with_loss_last_only_the_best_segment_is_learned():
    np.testing.assert_array_equal(chain_of([RISING, FLAT], loss="last").loss_weights[0], [0, 0, 0, 1, 1, 1])


def test_nothing_but_the_rates_tells_the_task_unless_rewards_are_shown():
    hidden, shown = chain_of([RISING]), chain_of([RISING], shown=True)
    for name in ("previous_actions", "previous_rewards", "previous_completions", "timesteps", "completions"):
        assert not np.any(getattr(hidden, name)), name
    np.testing.assert_allclose(shown.previous_rewards[0], 0.5 + 2 * np.array([0.0, 0.1, 0.3]), rtol=1e-6)
    at_the_reset = chain_of([RISING], shown=True, first=True)
    np.testing.assert_allclose(at_the_reset.previous_rewards[0], [0, 0.7, 1.1], rtol=1e-6)


def test_segments_are_cut_and_labelled_as_by_hand_also_at_both_ends_of_an_episode():
    episodes, task = Episodes(TRAJECTORIES, RULES), np.float32([[0.25]])
    last = T - RULES.needed
    found = episodes.cut(np.array([[1, 2, 3]]), np.array([[0, 5, last]]), task, Near())
    rewards = [1 - np.abs(f[:, 0] - 0.25) for f in FEATURES]
    np.testing.assert_array_equal(found.first, [[True, False, False]])
    np.testing.assert_array_equal(found.observations[0, 1], TRAJECTORIES[2].observations[5:8])
    np.testing.assert_array_equal(found.actions[0, 2], TRAJECTORIES[3].actions[last : last + 3])
    np.testing.assert_allclose(found.rewards[0, 0], [0, *rewards[1][:4]], rtol=1e-6)
    np.testing.assert_allclose(found.rewards[0, 1], rewards[2][4:9], rtol=1e-6)
    np.testing.assert_allclose(found.rewards[0, 2], rewards[3][last - 1 :], rtol=1e-6)


def test_what_was_achieved_is_a_mean_over_the_steps_cut_to_the_episode():
    episodes = Episodes(TRAJECTORIES, RULES)
    found = episodes.achieved(np.array([1, 2, 3]), np.array([2, -3, T - 2]), np.array([6, 2, T + 9]))
    expected = [FEATURES[1][2:6], FEATURES[2][:2], FEATURES[3][T - 2 :]]
    np.testing.assert_allclose(found, [each.mean(0) for each in expected], rtol=1e-5)


def test_chosen_segments_lead_to_the_task_more_than_others():
    steps = np.arange(200)
    features = [np.stack((np.abs(np.sin(steps / 40 + e)), np.ones(200)), -1).astype(np.float32) for e in range(6)]
    nothing = np.zeros((200, O), np.float32), np.zeros((200, A), np.float32)
    trajectories = [Featured(*nothing, each[:, -1], each) for each in features]
    episodes = Episodes(trajectories, changed(horizon=30))
    task = np.full((1, 1), 0.25, np.float32)

    def error(prior):
        episode, start = episodes.draw(np.random.default_rng(1), task, 300, Near(), prior)
        return np.abs(episodes.achieved(episode, start + 12, start + 30)[..., 0] - 0.25).mean()

    assert error(1.0) < 0.4 * error(0.0)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    one, two = sampler(changed(prior=0.5, show_rewards="past")), sampler(changed(prior=0.5, show_rewards="past"))
    for x, y in zip(one.batch(3), two.batch(3), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(one.batch(3).observations, one.batch(4).observations)
    assert not np.array_equal(one.batch(3).observations, sampler(seed=1).batch(3).observations)
    assert one.batch(0).observations.shape == (2, 12, O)


@pytest.mark.parametrize(("show", "share"), [("none", 0), ("past", 0.5), ("all", 1)])
def test_the_share_of_segments_that_show_their_rewards(show, share):
    batch = sampler(changed(show_rewards=show), count=200, rows=40).batch(0)
    assert (batch.previous_rewards[:, 1::3] != 0).mean() == pytest.approx(share, abs=0.15)


def test_a_told_task_stands_behind_the_observation_and_no_other_does():
    tasks, observations = np.float32([[0.0], [1.0]]), np.ones((2, 4, O), np.float32)
    told = telling(changed(tell=True))(observations, tasks)
    np.testing.assert_allclose(told[..., O], np.repeat([[-1.5], [1.5]], 4, 1))
    np.testing.assert_array_equal(told[..., :O], SCALING.scale_observations(observations))
    np.testing.assert_array_equal(telling()(observations, tasks), SCALING.scale_observations(observations))


def test_own_episodes_share_the_context_and_each_gives_its_beginning():
    steps = np.broadcast_to(np.arange(200)[None], (2, 200))
    played = [(steps[..., None] + 1000 * e, steps[..., None] * 1.0, steps + 1000.0 * e) for e in range(3)]
    found = segments.cut_own(np.random.default_rng(0), played, 8, RULES)
    start = found.observations[:, :, 0, 0]
    np.testing.assert_array_equal(start // 1000, np.repeat([[0, 0, 1, 1, 1, 2, 2, 2]], 2, 0))
    assert np.all(start[:, [0, 2, 5]] % 1000 < 30)
    np.testing.assert_array_equal(found.rewards - start[..., None], np.broadcast_to(np.arange(5) - 1, (2, 8, 5)))
    latest = segments.cut_own(np.random.default_rng(0), played, 2, RULES)
    np.testing.assert_array_equal(latest.observations[:, :, 0, 0] // 1000, [[1, 2], [1, 2]])


def test_numbers_that_cannot_be_are_refused():
    for numbers in ({"segment": 0}, {"horizon": 0}, {"prior": 1.5}, {"show_rewards": "some"}):
        with pytest.raises(ValueError, match=f"--{next(iter(numbers))}"):
            changed(**numbers)
    with pytest.raises(ValueError, match="expected episodes of 25 steps or more, got one of 20"):
        Episodes(TRAJECTORIES, changed(horizon=23))
    with pytest.raises(ValueError, match="expected at least one"):
        Episodes([], RULES)


@pytest.mark.parametrize("show", ["none", "all"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_acting_behind_a_prompt_equals_the_forward_pass_over_prompt_and_episode(show, count):
    window, length, rows = RULES.segment, 9, 2
    config = ModelConfig(
        tokens="fused", layers=2, width=16, heads=2, window=window, trajs=5, attention="vanilla", dropout=0.0
    )
    weights = transformer.init_weights(jax.random.key(1), config, O, A)
    weights = weights._replace(head=10 * weights.head)
    rng, task = np.random.default_rng(3), np.full((rows, 1), 0.25, np.float32)
    prompt = None
    if count:
        episodes = Episodes(TRAJECTORIES, RULES)
        found = episodes.cut(*episodes.draw(rng, task, count, Near()), task, Near())
        shown = np.full((rows, count), show == "all")
        prompt = segment_chains.chains(found, telling()(found.observations, task), shown, CHAIN_RULES, RULES)
    policy = SegmentsPolicy(weights, config, chains=rows, steps=4 * RULES.segment)
    policy.prompt(prompt)
    observations = rng.normal(size=(rows, length, O)).astype(np.float32)
    rewards = rng.uniform(0.5, 2.5, (rows, length)).astype(np.float32) * (show == "all")
    target = np.full(rows, 1.6, np.float32)
    acted = np.stack([policy.act(observations[:, t], target, rewards[:, t]) for t in range(length)], axis=1)

    zeros = np.zeros((rows, length), np.float32)
    episode = Batch(
        observations=observations,
        actions=np.zeros((rows, length, A), np.float32),
        rewards=zeros,
        completions=zeros,
        target_returns=np.full((rows, length), 1.6, np.float32),
        previous_actions=np.zeros((rows, length, A), np.float32),
        previous_rewards=rewards,
        previous_completions=zeros,
        timesteps=zeros.astype(np.int32),
        trajectories=np.full((rows, length), count, np.int32),
        chains=np.ones((rows, length), np.int32),
        loss_weights=zeros,
    )
    whole = episode if prompt is None else Batch(*(np.concatenate(x, 1) for x in zip(prompt, episode, strict=True)))
    predicted = np.asarray(network.predict(weights, config, whole))[:, -length:]
    np.testing.assert_allclose(acted, predicted, atol=3e-5)
    assert np.abs(predicted).max() > 0.05


def test_a_prompt_that_is_too_long_and_a_model_of_other_tokens_are_refused():
    config = ModelConfig(tokens="fused", layers=1, width=16, window=3, trajs=3)
    weights = transformer.init_weights(jax.random.key(0), config, O, A)
    policy = SegmentsPolicy(weights, config, chains=2, steps=6)
    with pytest.raises(ValueError, match="expected 6 steps or fewer, got 12"):
        policy.prompt(sampler().batch(0))
    with pytest.raises(ValueError, match="expected fused and a window"):
        SegmentsPolicy(weights, dataclasses.replace(config, window=0), chains=2, steps=6)
