"""gymnasium's MuJoCo environments, in the manner of the others: float32 observations, no bookkeeping of gymnasium's."""

import importlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from envs.camera import Drawn
from envs.engine import mujoco
from envs.specs import Spec

_DIVERGED = [
    int(kind)
    for kind in (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
]


class Locomotion(Drawn):
    """An environment of gymnasium's registry: observations [O] float32, actions [A] in [-1, 1].

    Where `size` expects more observations than gymnasium gives, zeros follow (D4RL's Ant, see envs.mujoco). Episodes
    end early, terminated, where the environment says so; the last step of `size.episode_length` is truncated.
    """

    def __init__(self, size: Spec, render_mode: str | None = None):
        super().__init__(size, render_mode)
        self._env = _create(size)
        self._model, self._data = self._env.model, self._env.data
        self.metadata = self._env.metadata | self.metadata
        self._warnings = self._data.warning.number
        self._timestep = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. The same seed gives the same initial state; no seed goes on with the last one."""
        super().reset(seed=seed)
        self._timestep = 0
        observation, _ = self._env.reset(seed=seed)
        return self._padded(observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action [A] for one control step. Raises RuntimeError when the simulation diverges."""
        observation, reward, terminated, _, _ = self._env.step(action)
        if self._warnings[_DIVERGED].any():  # MuJoCo has begun again from the model's own state, without a word
            raise RuntimeError(f"{self.size.name}: the simulation diverged at step {self._timestep}")
        self._timestep += 1
        truncated = self._timestep >= self.size.episode_length
        return self._padded(observation), float(reward), bool(terminated), truncated, {}

    def physics_state(self) -> np.ndarray:
        """[P] float64: positions and velocities, as D4RL stores them in infos/qpos and infos/qvel."""
        return np.concatenate((self._data.qpos, self._data.qvel))

    def _padded(self, observation: np.ndarray) -> np.ndarray:
        padded = np.zeros(self.size.observation_size, np.float32)
        padded[: len(observation)] = observation
        return padded


def _create(size: Spec) -> Any:
    """gymnasium's environment without its wrappers; gymnasium.make would say every time that v4 is out of date."""
    module, _, env_id = size.env_id.rpartition(":")
    if module:  # which registers it, as gymnasium.make has it
        importlib.import_module(module)
    try:
        found = gymnasium.spec(env_id)
    except gymnasium.error.Error as error:
        raise ValueError(f"{size.name}: {error}") from error
    listener = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)  # half_cheetah.xml is old; MuJoCo would leave a log in the folder
    try:
        return load_env_creator(found.entry_point)(**found.kwargs)  # type: ignore[arg-type]
    except ImportError as error:
        raise ImportError(f"{size.name}: {error}; install gymnasium's MuJoCo part (pip install imageio)") from error
    finally:
        mujoco.set_mju_user_warning(listener)
