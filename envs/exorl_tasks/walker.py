"""The walker turning over."""

from typing import Any

import numpy as np
from dm_control.rl.control import Environment
from dm_control.suite import walker

from envs.exorl_tasks.spin import Spinning, spin_reward

TIME_LIMIT, CONTROL_TIMESTEP = 25.0, 0.025


class Physics(Spinning, walker.Physics):
    """The suite's, and the angular momentum."""


class Flip(walker.PlanarWalker):
    """A sixth of the reward of the suite's stand, and the rest of it as the walker turns forward."""

    def __init__(self, random: np.random.RandomState):
        super().__init__(move_speed=0, random=random)

    def get_reward(self, physics: Any) -> Any:
        return super().get_reward(physics) * (5 * spin_reward(physics.angular_momentum()) + 1) / 6


def load(task: str, random: np.random.RandomState) -> Environment:
    """flip."""
    made = {"flip": Flip}[task](random)
    physics = Physics.from_xml_string(*walker.get_model_and_assets())
    return Environment(physics, made, time_limit=TIME_LIMIT, control_timestep=CONTROL_TIMESTEP, flat_observation=True)
