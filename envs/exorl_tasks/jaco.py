"""The Jaco arm reaching for one of four fixed places on the floor, which it is not told."""

from typing import Any

import numpy as np
from dm_control import mjcf
from dm_control.composer import initializers
from dm_control.composer.variation import distributions
from dm_control.manipulation.shared import arenas, cameras, constants, observations, robots, workspaces
from dm_control.rl.control import Environment
from dm_control.suite import base
from dm_control.utils import rewards

GOALS = {
    "reach_top_left": (-0.09, 0.09, 0.001),
    "reach_top_right": (0.09, 0.09, 0.001),
    "reach_bottom_left": (-0.09, -0.09, 0.001),
    "reach_bottom_right": (0.09, -0.09, 0.001),
}
RADIUS = 0.05
"""Of a goal, in metres."""
START = (-0.2, -0.2, 0.02), (0.2, 0.2, 0.4)
"""Corners of the box in which an episode starts, of the point between the fingers."""
TIME_LIMIT = 10.0


class Reach(base.Task):
    """Rewards the point between the fingers being near the goal.

    A task of the suite's kind over a model of dm_control's manipulation: it looks up the places of its numbers once,
    so that it reads Readings as well as a Physics.
    """

    def __init__(
        self,
        physics: mjcf.Physics,
        arm: Any,
        hand: Any,
        goal: tuple[float, float, float],
        random: np.random.RandomState,
    ):
        super().__init__(random=random)
        self._goal = np.array(goal)
        self._hand = hand
        self._start = initializers.ToolCenterPointInitializer(
            hand, arm, position=distributions.Uniform(*START), quaternion=workspaces.DOWN_QUATERNION
        )
        model = physics.model
        arm_joints, hand_joints = physics.bind(arm.joints).element_id, physics.bind(hand.joints).element_id
        self._arm_positions, self._arm_velocities = model.jnt_qposadr[arm_joints], model.jnt_dofadr[arm_joints]
        self._hand_positions, self._hand_velocities = model.jnt_qposadr[hand_joints], model.jnt_dofadr[hand_joints]
        self._axes = model.jnt_axis[arm_joints].copy()
        torques = model.sensor_adr[physics.bind(arm.joint_torque_sensors).element_id]
        self._torques = np.add.outer(torques, np.arange(3))
        self._pinch = physics.bind(hand.tool_center_point).element_id

    def initialize_episode(self, physics: mjcf.Physics) -> None:
        """Fingers anywhere from open to closed, hand pointing down, anywhere in the box START."""
        self._hand.set_grasp(physics, close_factors=self.random.uniform())
        self._start(physics, self.random)
        super().initialize_episode(physics)

    def get_observation(self, physics: Any) -> dict[str, np.ndarray]:
        """[42]: joints of the arm, its torques, joints of the hand, place and rotation of the pinch site."""
        data = physics.data
        angles = data.qpos[self._arm_positions]
        torques = (data.sensordata[self._torques] * self._axes).sum(axis=1)
        return {
            "arm_position": np.stack((np.sin(angles), np.cos(angles)), axis=1),
            "arm_torque": np.sign(torques) * np.log1p(np.abs(torques)),
            "arm_velocity": data.qvel[self._arm_velocities],
            "hand_position": data.qpos[self._hand_positions],
            "hand_velocity": data.qvel[self._hand_velocities],
            "pinch_position": data.site_xpos[self._pinch],
            "pinch_rotation": data.site_xmat[self._pinch],
        }

    def get_reward(self, physics: Any) -> Any:
        distance = np.linalg.norm(physics.data.site_xpos[self._pinch].T - self._goal, axis=-1)
        return rewards.tolerance(distance, bounds=(0, RADIUS), margin=RADIUS)


def load(task: str, random: np.random.RandomState) -> Environment:
    """reach_top_left, reach_top_right, reach_bottom_left or reach_bottom_right."""
    goal = GOALS[task]
    arena = arenas.Standard()
    arm = robots.make_arm(observations.PERFECT_FEATURES)
    hand = robots.make_hand(observations.PERFECT_FEATURES)
    arm.attach(hand)
    arena.attach_offset(arm, offset=robots.ARM_OFFSET)
    world = arena.mjcf_model.worldbody
    world.add("camera", **cameras.FRONT_CLOSE._asdict())
    workspaces.add_target_site(world, RADIUS, visible=True, rgba=constants.RED, name="target_site", pos=goal)
    physics = mjcf.Physics.from_mjcf_model(arena.mjcf_model)
    return Environment(
        physics,
        Reach(physics, arm, hand, goal, random),
        time_limit=TIME_LIMIT,
        control_timestep=constants.CONTROL_TIMESTEP,
        flat_observation=True,
    )
