"""The point mass in a square with a cross of walls: from the top left corner to one of four goals."""

from typing import Any
from xml.etree import ElementTree

import numpy as np
from dm_control.rl.control import Environment
from dm_control.suite import common, point_mass
from dm_control.utils import rewards

GOALS = {
    "reach_top_left": (-0.15, 0.15, 0.01),
    "reach_top_right": (0.15, 0.15, 0.01),
    "reach_bottom_left": (-0.15, -0.15, 0.01),
    "reach_bottom_right": (0.15, -0.15, 0.01),
}
RADIUS = 0.015
"""Of a goal, in metres."""
WALLS = {"maze_y": ".18 .02 .02", "maze_x": ".02 .18 .02"}
"""Half sizes along x, y and z: the gaps at the ends of the cross are 0.12 m wide."""
START_X, START_Y = (-0.29, -0.15), (0.15, 0.29)
TIME_LIMIT = 20.0


class Physics(point_mass.Physics):
    """The suite's, and the place of the mass."""

    def mass_position(self) -> np.ndarray:
        """[3], in metres."""
        return self.named.data.geom_xpos["pointmass"]


class Reach(point_mass.PointMass):
    """Rewards being at the goal, with little control. Observations are the suite's: position and velocity."""

    def __init__(self, goal: tuple[float, float, float], random: np.random.RandomState):
        self._goal = np.array(goal)
        super().__init__(randomize_gains=False, random=random)

    def initialize_episode(self, physics: Any) -> None:
        """At rest, anywhere in the top left corner. ExoRL draws the place from NumPy's global generator."""
        super().initialize_episode(physics)
        physics.data.qpos[:] = self.random.uniform(*START_X), self.random.uniform(*START_Y)

    def get_reward(self, physics: Any) -> Any:
        distance = np.linalg.norm(physics.mass_position().T - self._goal, axis=-1)
        near = rewards.tolerance(distance, bounds=(0, RADIUS), margin=RADIUS)
        little = rewards.tolerance(physics.control(), margin=1, value_at_margin=0, sigmoid="quadratic").mean(axis=0)
        return near * ((little + 4) / 5)


def model(goal: tuple[float, float, float]) -> bytes:
    """The suite's point mass with contacts, two walls more, and the target where the goal is, to be passed through."""
    tree = ElementTree.fromstring(common.read_model("point_mass.xml"))
    option, world = _one(tree, "option"), _one(tree, "worldbody")
    option.remove(_one(option, "flag[@contact='disable']"))
    target = _one(world, "geom[@name='target']")
    target.attrib.update(pos="{} {} {}".format(*goal), contype="0", conaffinity="0")
    after = list(world).index(_one(world, "geom[@name='wall_neg_y']")) + 1
    for name, size in reversed(WALLS.items()):
        wall = ElementTree.Element("geom", name=name, type="box", pos="0 0 .02", size=size, material="site")
        world.insert(after, wall)
    return ElementTree.tostring(tree)


def _one(parent: ElementTree.Element, path: str) -> ElementTree.Element:
    found = parent.find(path)
    if found is None:
        raise ValueError(f"dm_control's point_mass.xml: no {path} in {parent.tag}, expected one")
    return found


def load(task: str, random: np.random.RandomState) -> Environment:
    """reach_top_left, reach_top_right, reach_bottom_left or reach_bottom_right."""
    goal = GOALS[task]
    physics = Physics.from_xml_string(model(goal), common.ASSETS)
    return Environment(physics, Reach(goal, random), time_limit=TIME_LIMIT, flat_observation=True)
