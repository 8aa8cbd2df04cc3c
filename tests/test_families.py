"""Families of tasks: rewards by hand and against the simulator, tasks held out, the agent that obeys and roams."""

import dataclasses

import numpy as np
import pytest

import envs
from agent import explore
from agent.explore import commands
from envs.family import FAMILIES, Axis, Family
from envs.family_env import FamilyEnv
from envs.family_rollout import play

NAMES = [family.name for family in FAMILIES]
BY_NAME = {family.name: family for family in FAMILIES}


def features(*rows):
    return np.float32(rows)


@pytest.mark.parametrize(
    ("speed", "posture", "expected"),
    [
        (1.6, 1.0, 1.0),
        (1.8, 1.0, 1.0),  # the end of the band
        (2.3, 1.0, (5 * 0.1 + 1) / 6),  # a margin further
        (2.05, 1.0, (5 * 0.55 + 1) / 6),  # half of it
        (2.5, 1.0, 1 / 6),  # too far
        (1.15, 1.0, (5 * 0.55 + 1) / 6),  # as far below
        (1.6, 0.4, 0.4),
        (9.0, 0.0, 0.0),
    ],
)
def test_the_reward_of_a_speed_by_hand(speed, posture, expected):
    found = BY_NAME["walker_speed"].rewards(features([speed, posture]), np.float32([[1.6]]))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_wider_margins_reach_further():
    found = BY_NAME["walker_speed"].rewards(features([2.8, 1.0]), np.float32([[1.6]]), 4.0)
    np.testing.assert_allclose(found, [(5 * (1 - 0.9 * 1.0 / 2.0) + 1) / 6], rtol=1e-5)


def test_with_two_axes_the_reward_asks_for_both():
    family, task = BY_NAME["walker_speed_height"], np.float32([1.2, 1.1])
    one, other, both = family.rewards(features([1.65, 1.1, 1], [1.2, 1.225, 1], [1.65, 1.225, 1]), task)
    np.testing.assert_allclose([one, other], (5 * 0.55 + 1) / 6, rtol=1e-4)
    np.testing.assert_allclose(both, (5 * 0.55**2 + 1) / 6, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_to_learn_from_cover_the_ranges_and_keep_away_from_those_held_out(name):
    family = BY_NAME[name]
    tasks = family.draw(np.random.default_rng(0), 4000)
    for axis, values in zip(family.axes, tasks.T, strict=True):
        assert axis.low <= values.min() < axis.low + 0.02 * (axis.high - axis.low)
        assert axis.high >= values.max() > axis.high - 0.02 * (axis.high - axis.low)
    gaps = np.array([axis.gap for axis in family.axes])
    for task in family.held_out:
        assert (np.abs(tasks - task) >= gaps - 1e-6).any(1).all()
        within = [(axis.low <= value <= axis.high) for axis, value in zip(family.axes, task, strict=True)]
        assert all(within)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_stored_states_are_what_the_simulator_says(name):
    family = BY_NAME[name]
    env = FamilyEnv(family, envs.make(family.start))
    env.reset(seed=3)
    rng, readings = np.random.default_rng(0), env.unwrapped._readings
    for _ in range(30):
        env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        found = env.features()
        if family.domain == "walker":
            height, upright = readings.torso_height(), (1 + readings.torso_upright()) / 2
            velocity = env.unwrapped._data.joint("rootx").qvel[0]
            below = max(0.0, (1.2 - height) / 0.6)
            expected = {
                "walker_height": [height, upright],
                "walker_speed_height": [velocity, height, upright],
            }.get(name, [velocity, (3 * 0.1 ** (below**2) + upright) / 4])
        elif family.domain == "cheetah":
            expected = [env.unwrapped._data.joint("rootx").qvel[0], 1]
        else:
            expected = [readings.cart_position(), (1 + readings.pole_angle_cosine()[0]) / 2]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_standing_is_the_reward_of_walker_stand():
    env = envs.make("walker_stand")
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, reward, *_ = env.step(rng.uniform(-1, 1, 6).astype(np.float32))
        found = BY_NAME["walker_speed"].read(env.physics_state()[None])[0, 1]
        np.testing.assert_allclose(found, reward, rtol=1e-5)


def test_relabelled_states_have_the_rewards_that_the_environment_gave():
    family, task = BY_NAME["walker_speed"], np.float32([0.4])
    env = FamilyEnv(family, envs.make(family.start))
    env.reset(seed=1, options={"task": task})
    rng, states, rewards = np.random.default_rng(0), [], []
    for _ in range(50):
        _, reward, _, _, info = env.step(rng.uniform(-1, 1, 6).astype(np.float32))
        states.append(env.unwrapped.physics_state())
        rewards.append(reward)
        np.testing.assert_array_equal(info["task"], task)
    relabelled = family.rewards(family.read(np.stack(states)), task)
    np.testing.assert_allclose(relabelled, rewards, rtol=1e-6)
    assert np.ptp(rewards) > 0.05
    columns = [family.feature(column, np.stack(states), np.zeros((50, 6))) for column in (0, 1)]
    np.testing.assert_array_equal(np.stack(columns, -1), family.read(np.stack(states)))


def test_a_reset_draws_a_task_by_its_seed_and_refuses_one_of_another_size():
    family = BY_NAME["cartpole_position"]
    env = FamilyEnv(family, envs.make(family.start))
    tasks = [env.reset(seed=seed)[1]["task"] for seed in (4, 4, 5)]
    np.testing.assert_array_equal(tasks[0], tasks[1])
    assert tasks[0] != tasks[2]
    with pytest.raises(ValueError, match="expected one number for each of: position"):
        env.reset(options={"task": [1.0, 2.0]})


class Still:
    """Does nothing, and notes what it is shown."""

    def __init__(self, tasks):
        self.tasks, self.episodes, self.rewards = tasks, 0, []

    def begin(self):
        self.episodes += 1

    def act(self, observations):
        return np.zeros((len(observations), 1), np.float32)

    def observe(self, rewards):
        self.rewards.append(rewards)


def test_a_rollout_gives_each_lane_the_reward_of_its_task():
    family, tasks = BY_NAME["cartpole_position"], np.float32([[0.0], [1.2]])
    actor = Still(tasks)
    played = play(family, tasks, np.array([3, 3]), actor, 2)
    assert actor.episodes == 2
    rewards = np.array(actor.rewards).reshape(2, -1, 2)
    np.testing.assert_allclose(played.returns, rewards.sum(1).T, rtol=1e-5)
    np.testing.assert_allclose(played.achieved[0], played.achieved[1])
    np.testing.assert_allclose(played.returns[:, 0], played.returns[:, 1])
    assert not np.allclose(played.returns[0], played.returns[1])


LINE = Family(
    "line",
    "line",
    "line",
    (Axis("place", "m", -1.0, 3.0, band=0.0, margin=1.0, gap=0.1),),
    ((0.0,),),
    lambda physics: physics,
)
CONFIG = commands.CommandConfig(
    practice=2,
    posture=0,
    widen=2.0,
    td3=explore.ExploreConfig(width=8, batch_size=4, updates=2, n_step=2, random_episodes=1),
)


def test_sampled_transitions_are_rewarded_for_the_command_they_carry():
    replay = commands.CommandReplay(2, 4, (1, 1, 2), LINE, CONFIG)
    place = np.float32([0, 0.5, 1, 1.5, 2])
    replay.add(place[:, None], np.zeros((4, 1), np.float32), np.stack((place[1:], np.ones(4)), -1))
    drawn = replay.sample(np.random.default_rng(0), (50,), 2, 0.5)
    assert drawn.observations.shape == (50, 2)
    assert np.ptp(drawn.observations[:, 1]) > 2
    for (start, command), reward, discount, (stop, same) in zip(
        drawn.observations, drawn.rewards, drawn.discounts, drawn.next_observations, strict=True
    ):
        passed = place[(place > start) & (place <= stop)]
        near = np.maximum(0, 1 - 0.9 * np.abs(passed - command) / 2)
        np.testing.assert_allclose(reward, np.sum((5 * near + 1) / 6 * 0.5 ** np.arange(len(passed))), rtol=1e-5)
        assert (discount, same) == (np.float32(0.5 ** len(passed)), command)
    mean, deviation = replay.moments()
    np.testing.assert_allclose((np.array([-1, 3]) - mean[1]) / deviation[1], [-3.2, 3.2], atol=0.01)


def test_practice_teaches_the_posture_first_then_wide_margins_then_narrow_ones():
    config = dataclasses.replace(CONFIG, posture=1, wide=2, widen=4.0, narrow=1.0)
    replay = commands.CommandReplay(3, 4, (1, 1, 2), LINE, config)
    found = []
    for _ in range(3):
        replay.add(np.zeros((5, 1)), np.zeros((4, 1)), np.tile(np.float32([0.5, 0.8]), (4, 1)))
        drawn = replay.sample(np.random.default_rng(0), (20,), 1, 0.9)
        found.append((drawn.rewards, np.abs(drawn.observations[:, 1] - 0.5)))
    np.testing.assert_allclose(found[0][0], 0.8, rtol=1e-6)
    for (rewards, off), margin in zip(found[1:], (4, 1), strict=True):
        np.testing.assert_allclose(rewards, 0.8 * (5 * np.maximum(0, 1 - 0.9 * off / margin) + 1) / 6, rtol=1e-5)


def test_commands_change_within_kept_episodes_only():
    explorer = explore.init("td3", 0, 2, 1, CONFIG.td3)
    heard = []

    class Spy:
        def draw(self, rng, count):
            heard.append(LINE.draw(rng, count))
            return heard[-1]

    for episode, least, most in ((1, 1, 1), (2, 22, 36)):
        heard.clear()
        act = commands.policy(explorer, episode, 1, np.random.default_rng(0), CONFIG, Spy())
        for _ in range(1000):
            action = act(np.zeros(1, np.float32))
        assert action.shape == (1,)
        assert least <= len(heard) <= most  # 10 to 60 steps each


def test_what_an_agent_learns_of_commands_is_a_pure_function_of_its_episodes():
    rng = np.random.default_rng(0)
    replay = commands.CommandReplay(2, 10, (1, 1, 2), LINE, CONFIG)
    for _ in range(2):
        replay.add(rng.normal(size=(11, 1)), rng.uniform(-1, 1, (10, 1)), rng.uniform(0, 1, (10, 2)))
    fresh = explore.init("td3", 0, 2, 1, CONFIG.td3)
    one, two = (explore.learn(fresh, replay, 0, CONFIG.td3) for _ in range(2))
    np.testing.assert_array_equal(one.td3.actor[0][0], two.td3.actor[0][0])
    assert not np.array_equal(one.td3.actor[0][0], fresh.td3.actor[0][0])
    assert dataclasses.asdict(CONFIG)["practice"] == CONFIG.origin()["practice"]
