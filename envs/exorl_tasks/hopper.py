"""The hopper hopping backward, and turning over either way; all while it stands."""

from typing import Any

import numpy as np
from dm_control.rl.control import Environment
from dm_control.suite import hopper
from dm_control.utils import rewards

from envs.exorl_tasks.spin import Spinning, spin_reward

STAND_HEIGHT = 0.6
HOP_SPEED = 2.0
TIME_LIMIT, CONTROL_TIMESTEP = 20.0, 0.02


class Physics(Spinning, hopper.Physics):
    """The suite's, and the angular momentum."""


def standing(physics: Any) -> Any:
    """1 while the torso is high enough above the foot, else 0."""
    return rewards.tolerance(physics.height(), (STAND_HEIGHT, 2))


class HopBackward(hopper.Hopper):
    """As the suite's hop, in the other direction: 0.5 at 1 m/s backward, 1 from 2 m/s."""

    def get_reward(self, physics: Any) -> Any:
        hopping = rewards.tolerance(
            -physics.speed(),
            bounds=(HOP_SPEED, float("inf")),
            margin=HOP_SPEED / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return standing(physics) * hopping


class Flip(hopper.Hopper):
    """Rewards turning over; `direction` is 1 forward, -1 backward."""

    def __init__(self, direction: int, random: np.random.RandomState):
        self._direction = direction
        super().__init__(hopping=True, random=random)

    def get_reward(self, physics: Any) -> Any:
        return standing(physics) * spin_reward(self._direction * physics.angular_momentum())


def load(task: str, random: np.random.RandomState) -> Environment:
    """hop_backward, flip or flip_backward."""
    made = {
        "hop_backward": lambda: HopBackward(hopping=True, random=random),
        "flip": lambda: Flip(1, random),
        "flip_backward": lambda: Flip(-1, random),
    }[task]()
    physics = Physics.from_xml_string(*hopper.get_model_and_assets())
    return Environment(physics, made, time_limit=TIME_LIMIT, control_timestep=CONTROL_TIMESTEP, flat_observation=True)
