"""The quadruped standing, jumping, and moving whichever way; initial states and observations are the suite's."""

from typing import Any

import numpy as np
from dm_control.rl.control import Environment
from dm_control.suite import common, quadruped
from dm_control.utils import rewards

JUMP_HEIGHT = 1.0
ROLL_SPEED, FAST_ROLL_SPEED = 0.5, 5.0
TIME_LIMIT, CONTROL_TIMESTEP = 20.0, 0.02
FLOOR_SIZE = 10.0


class Physics(quadruped.Physics):
    """The suite's, and the height of the centre of mass."""

    def centre_of_mass_height(self) -> float:
        """In metres."""
        return self.named.data.sensordata["center_of_mass"][2]


def upright(physics: Any) -> Any:
    """0 upside down, 1 when the torso is level."""
    return rewards.tolerance(
        physics.torso_upright(), bounds=(1, float("inf")), margin=2, value_at_margin=0, sigmoid="linear"
    )


def _from_half(value: Any, target: float) -> Any:
    """0.5 at 0, rising in a line to 1 at the target."""
    return rewards.tolerance(value, bounds=(target, float("inf")), margin=target, value_at_margin=0.5, sigmoid="linear")


class Stand(quadruped.Move):
    """Rewards a level torso."""

    def get_reward(self, physics: Any) -> Any:
        return upright(physics)


class Jump(quadruped.Move):
    """Rewards a level torso, and the centre of mass up to a height of 1 m."""

    def get_reward(self, physics: Any) -> Any:
        return upright(physics) * _from_half(physics.centre_of_mass_height(), JUMP_HEIGHT)


class Roll(quadruped.Move):
    """Rewards a level torso, and its speed in any direction."""

    def __init__(self, speed: float, random: np.random.RandomState):
        self._speed = speed
        super().__init__(desired_speed=speed, random=random)

    def get_reward(self, physics: Any) -> Any:
        return upright(physics) * _from_half(np.linalg.norm(physics.torso_velocity(), axis=0), self._speed)


def load(task: str, random: np.random.RandomState) -> Environment:
    """stand, jump, roll or roll_fast."""
    made = {
        "stand": lambda: Stand(desired_speed=0, random=random),
        "jump": lambda: Jump(desired_speed=0, random=random),
        "roll": lambda: Roll(ROLL_SPEED, random),
        "roll_fast": lambda: Roll(FAST_ROLL_SPEED, random),
    }[task]()
    physics = Physics.from_xml_string(quadruped.make_model(floor_size=FLOOR_SIZE), common.ASSETS)
    return Environment(physics, made, time_limit=TIME_LIMIT, control_timestep=CONTROL_TIMESTEP, flat_observation=True)
