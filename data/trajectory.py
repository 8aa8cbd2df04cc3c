"""The two types that everybody shares."""

from typing import NamedTuple

import numpy as np


class Trajectory(NamedTuple):
    """One finished episode, in environment units; the arrays may be memory-mapped.

    Row t holds the observation before action t and the reward after it.
    """

    observations: np.ndarray
    """[T, O] float32."""
    actions: np.ndarray
    """[T, A] float32, in [-1, 1]."""
    rewards: np.ndarray
    """[T] float32."""

    @property
    def total(self) -> float:
        """The return of the episode: the sum of its rewards."""
        return float(np.sum(self.rewards, dtype=np.float64))


class Batch(NamedTuple):
    """Rows of steps, each row holding one or more whole chains of hindsight, padded on the right.

    Observations, rewards and returns are scaled (data/scaling.py). All arrays are float32 or int32.
    """

    observations: np.ndarray
    """[B, M, O], scaled."""
    actions: np.ndarray
    """[B, M, A]: the action taken at this step, which the policy learns to predict."""
    rewards: np.ndarray
    """[B, M], scaled: the reward that followed the action."""
    completions: np.ndarray
    """[B, M]: 1 on the last step of a trajectory that reaches its target, else 0."""
    target_returns: np.ndarray
    """[B, M], scaled: what is still asked for before the action."""
    previous_actions: np.ndarray
    """[B, M, A]: the action one step earlier in the same trajectory, 0 at its first step."""
    previous_rewards: np.ndarray
    """[B, M], scaled: the reward that action earned, 0 at the first step of a trajectory."""
    previous_completions: np.ndarray
    """[B, M]: at the first step of a trajectory, the completion flag of the one before it in the chain; else 0."""
    timesteps: np.ndarray
    """[B, M] int32: steps since the start of the trajectory's episode."""
    trajectories: np.ndarray
    """[B, M] int32: index of the trajectory in its chain, from 0."""
    chains: np.ndarray
    """[B, M] int32: which chain of the row a step belongs to, from 1; 0 is padding."""
    loss_weights: np.ndarray
    """[B, M]: of the action in the loss, 0 to 1 (`--loss`); 0 in padding."""
