"""The cheetah running backward, and turning over either way."""

from typing import Any

import numpy as np
from dm_control.rl.control import Environment
from dm_control.suite import cheetah
from dm_control.utils import rewards

from envs.exorl_tasks.spin import Spinning, spin_reward

RUN_SPEED = 10.0
TIME_LIMIT = 10.0


class Physics(Spinning, cheetah.Physics):
    """The suite's, and the angular momentum."""


class RunBackward(cheetah.Cheetah):
    """0 at rest or running forward, rising in a line to 1 at 10 m/s backward."""

    def get_reward(self, physics: Any) -> Any:
        return rewards.tolerance(
            -physics.speed(), bounds=(RUN_SPEED, float("inf")), margin=RUN_SPEED, value_at_margin=0, sigmoid="linear"
        )


class Flip(cheetah.Cheetah):
    """Rewards turning over; `direction` is 1 forward, -1 backward."""

    def __init__(self, direction: int, random: np.random.RandomState):
        self._direction = direction
        super().__init__(random=random)

    def get_reward(self, physics: Any) -> Any:
        return spin_reward(self._direction * physics.angular_momentum())


def load(task: str, random: np.random.RandomState) -> Environment:
    """run_backward, flip or flip_backward."""
    made = {
        "run_backward": lambda: RunBackward(random=random),
        "flip": lambda: Flip(1, random),
        "flip_backward": lambda: Flip(-1, random),
    }[task]()
    physics = Physics.from_xml_string(*cheetah.get_model_and_assets())
    return Environment(physics, made, time_limit=TIME_LIMIT, flat_observation=True)
