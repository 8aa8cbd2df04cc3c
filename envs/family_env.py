"""One task of a family as a gymnasium environment."""

from typing import Any

import gymnasium
import numpy as np

from envs.dmc import ControlSuite
from envs.family import Family


class FamilyEnv(gymnasium.Wrapper):
    """The family's start, with the reward of one task, which `info["task"]` [G] tells and no observation.

    reset(options={"task": [...]}) sets the task; without, a reset draws one to learn from, the same for the same seed.
    """

    def __init__(self, family: Family, env: ControlSuite):
        super().__init__(env)
        self.family = family
        self._control = env
        self._task = np.zeros(len(family.axes), np.float32)
        self._rng = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. Raises ValueError for a task of another size."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        observation, info = self.env.reset(seed=seed)
        task = (options or {}).get("task")
        self._task = self.family.draw(self._rng, 1)[0] if task is None else np.asarray(task, np.float32)
        if self._task.shape != (len(self.family.axes),):
            names = ", ".join(axis.name for axis in self.family.axes)
            raise ValueError(f"{self.family.name}: task is {task!r}, expected one number for each of: {names}")
        return observation, info | {"task": self._task}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action [A] for one control step."""
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = float(self.family.rewards(self.features(), self._task))
        return observation, reward, terminated, truncated, info | {"task": self._task}

    def features(self) -> np.ndarray:
        """[G + 1] of the present state."""
        return self.family.read(self._control.physics_state()[None])[0]
