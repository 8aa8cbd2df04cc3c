import functools
import os
import signal
from multiprocessing.reduction import ForkingPickler

import gymnasium
import numpy as np
import pytest

from envs import rollout
from envs.rollout import initial_seed, play


class Counting(gymnasium.Env):
    """Three steps; the observation is the seed of the episode, the reward is the action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.seed, self.t = seed % 997, 0
        return np.array([self.seed], np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.seed], np.float32), float(action[0]), False, self.t >= self.length, {}


class Remembering:
    """Earns the number of episodes it remembers, plus its observation."""

    def __init__(self, lanes):
        self.lanes, self.log = lanes, []

    def reset(self):
        self.remembered = -1

    def begin(self, target_return):
        self.remembered += 1
        self.log.append(target_return)

    def act(self, observations):
        return observations + self.remembered

    def observe(self, rewards, last):
        self.log.append(last.tolist())


play_chains = functools.partial(play, context=True)
SHARED = {"chains": 3, "episodes": 4, "target_return": 5.0, "seed": 2}
SEEDS = np.array([[initial_seed(2, (c, e)) % 997 for e in range(4)] for c in range(3)])


@pytest.mark.parametrize("processes", [1, 2])
def test_chains_remember_and_processes_change_nothing(processes):
    outcome = play_chains(Counting, Remembering, processes=processes, **SHARED)
    np.testing.assert_array_equal(outcome.returns, 3 * (SEEDS + np.arange(4)))
    np.testing.assert_array_equal(outcome.lengths, np.full((3, 4), 3))


@pytest.mark.parametrize("lanes", [1, 5, 100])
def test_the_control_plays_the_same_starts_and_remembers_nothing(lanes, monkeypatch):
    monkeypatch.setattr(rollout, "ALONE", lanes)
    outcome = play(Counting, Remembering, processes=1, context=False, **SHARED)
    np.testing.assert_array_equal(outcome.returns, 3 * SEEDS)
    np.testing.assert_array_equal(outcome.lengths, np.full((3, 4), 3))


def test_the_policy_is_told_the_target_and_the_last_step():
    policies = []

    def make(lanes):
        policies.append(Remembering(lanes))
        return policies[-1]

    play_chains(Counting, make, processes=1, **{**SHARED, "chains": 1, "episodes": 2})
    assert policies[0].log == [5.0, [False], [False], [True]] * 2


def test_every_episode_has_its_own_initial_state():
    assert len(np.unique(SEEDS)) == SEEDS.size


class Falling(Counting):
    """Ends after as many steps as the last digit of its seed says, and may not be stepped again."""

    def step(self, action):
        assert self.t < self.length, "stepped after its end"
        return super().step(action)

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.length = self.seed % 10 + 1
        return found


@pytest.mark.parametrize("processes", [1, 2])
def test_episodes_that_end_early_wait_and_earn_nothing_meanwhile(processes):
    outcome = play_chains(Falling, Remembering, processes=processes, **SHARED)
    lengths = SEEDS % 10 + 1
    assert (lengths[:2] != lengths[1:]).any(), "chains must differ in length"
    np.testing.assert_array_equal(outcome.lengths, lengths)
    np.testing.assert_array_equal(outcome.returns, lengths * (SEEDS + np.arange(4)))


class Unspeakable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Breaking(Remembering):
    def act(self, observations):
        raise Unspeakable("one", "two")


def test_a_fault_that_no_queue_can_carry_comes_back_in_words():
    with pytest.raises(TypeError):
        ForkingPickler.loads(ForkingPickler.dumps(Unspeakable("one", "two")))
    with pytest.raises(RuntimeError, match="Unspeakable: one and two"):
        play_chains(Counting, Breaking, processes=2, **SHARED)


def test_policies_are_told_the_numbers_of_their_chains():
    told = []

    def make(chains):
        told.extend(chains)
        return Remembering(chains)

    play_chains(Counting, make, processes=1, **SHARED)
    assert told == [0, 1, 2]


class Interrupted(Remembering):
    def act(self, observations):
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal does, to a program and all its processes
        return super().act(observations)


def test_ctrl_c_ends_no_process_that_plays():
    """It is for the program that started it to say what happens."""
    outcome = play_chains(Counting, Interrupted, processes=2, **SHARED)
    np.testing.assert_array_equal(outcome.returns, 3 * (SEEDS + np.arange(4)))


class Failing(Remembering):
    def act(self, observations):
        raise ValueError("this policy cannot act")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_fault_in_a_process_comes_back_as_it_was(processes):
    with pytest.raises(ValueError, match="this policy cannot act"):
        play_chains(Counting, Failing, processes=processes, **SHARED)
