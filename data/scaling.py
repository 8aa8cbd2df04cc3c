"""The scale on which the network sees the world: fitted once on the data, stored in the checkpoint."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data.trajectory import Trajectory

STD_FLOOR = 1e-3
"""An observation that hardly varies in the data is not blown up by more than 1 / STD_FLOOR."""


class Scaling(NamedTuple):
    """Observations to mean 0 and standard deviation 1; returns into [-1, 1]; rewards to about 1 at the best.

    The methods take and give arrays of NumPy or JAX, of any leading shape.
    """

    mean: np.ndarray
    """[O] float32."""
    std: np.ndarray
    """[O] float32, at least STD_FLOOR."""
    return_scale: float
    """The largest absolute return in the data; 1 when every return is 0."""
    reward_scale: float
    """return_scale over the mean length of an episode: where all have one length, the mean reward of the best."""

    @classmethod
    def fit(cls, trajectories: Sequence[Trajectory]) -> "Scaling":
        """Over all steps, one trajectory in memory at a time. Raises ValueError when there are none."""
        if not trajectories:
            raise ValueError("trajectories: expected at least one to fit the scaling on, got none")
        counts = np.array([len(t.rewards) for t in trajectories], np.float64)
        weights = (counts / counts.sum())[:, None]
        means = np.stack([np.mean(t.observations, axis=0, dtype=np.float64) for t in trajectories])
        variances = np.stack([np.var(t.observations, axis=0, dtype=np.float64) for t in trajectories])
        mean = np.sum(weights * means, axis=0)
        # Within and between the trajectories: no difference of large squares.
        std = np.sqrt(np.sum(weights * (variances + np.square(means - mean)), axis=0))
        return_scale = max(abs(t.total) for t in trajectories) or 1.0
        return cls(
            mean.astype(np.float32),
            np.maximum(std, STD_FLOOR).astype(np.float32),
            return_scale,
            return_scale / float(counts.mean()),
        )

    def scale_observations(self, observations: Any) -> Any:
        """[..., O] -> [..., O]."""
        return (observations - self.mean) / self.std

    def unscale_observations(self, scaled: Any) -> Any:
        """[..., O] -> [..., O]."""
        return scaled * self.std + self.mean

    def scale_returns(self, returns: Any) -> Any:
        """[...] -> [...]."""
        return returns / self.return_scale

    def unscale_returns(self, scaled: Any) -> Any:
        """[...] -> [...]."""
        return scaled * self.return_scale

    def scale_rewards(self, rewards: Any) -> Any:
        """[...] -> [...]."""
        return rewards / self.reward_scale

    def unscale_rewards(self, scaled: Any) -> Any:
        """[...] -> [...]."""
        return scaled * self.reward_scale
