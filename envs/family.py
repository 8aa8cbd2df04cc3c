"""Families of tasks: many rewards over the states of one domain, told apart by a few numbers.

A task asks for a number on each axis of its family, such as a speed of 1.6 m/s. In every state, with `achieved` what
the state has on an axis and `posture` how well the body is held, both read from MuJoCo's positions and velocities:

    reward = posture * (5 * near + 1) / 6
    near = product over axes of max(0, 1 - 0.9 * max(0, |achieved - wanted| - band) / margin)

which is the shape of dm_control's walker (a sixth for standing, the rest for moving), with a target in place of "faster
than". The walker stands as in dm_control: (3 * tolerance(height, at least 1.2, margin 0.6) + (1 + upright) / 2) / 4.
Speeds are the root joint's, which policies observe, and not the centre of mass's. NumPy alone: no simulator is loaded.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WALKER_TORSO = 1.3
"""Height of the walker's torso, in metres, where its root joint is at 0."""
STAND, STAND_MARGIN = 1.2, 0.6


class Axis(NamedTuple):
    """One of the numbers that a task asks for."""

    name: str
    unit: str
    low: float
    high: float
    """Tasks to learn from are drawn evenly from low to high."""
    band: float
    """How far off counts as there."""
    margin: float
    """How much further off a tenth of the reward is left."""
    gap: float
    """No task to learn from lies this near to a held-out one."""


class Family(NamedTuple):
    """Tasks over the states of one domain."""

    name: str
    domain: str
    start: str
    """The environment whose initial states, observations and actions the family has."""
    axes: tuple[Axis, ...]
    """G of them."""
    held_out: tuple[tuple[float, ...], ...]
    """Tasks that are played, and never learned from."""
    read: Callable[[np.ndarray], np.ndarray]
    """Physics states [R, P] -> features [R, G + 1] float32: what is achieved on each axis; the posture, in [0, 1]."""

    @property
    def dataset(self) -> str:
        """Under which its own data lie in the folder of its domain."""
        return f"commands_{self.name.removeprefix(self.domain + '_')}"

    def feature(self, column: int, physics: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """[R, P], [R, A] -> [R]: one column of `read`, in the form of a reward function of data/exorl.py."""
        return self.read(physics)[:, column]

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Tasks to learn from, [count, G] float32: even over the axes, but for the surroundings of those held out."""
        low, high, gap = (np.array([getattr(axis, name) for axis in self.axes]) for name in ("low", "high", "gap"))
        tasks = np.empty((0, len(self.axes)))
        while len(tasks) < count:
            drawn = rng.uniform(low, high, (2 * count, len(low)))
            near = np.abs(drawn[:, None] - np.array(self.held_out)) < gap
            tasks = np.concatenate((tasks, drawn[~near.all(-1).any(-1)]))
        return tasks[:count].astype(np.float32)

    def rewards(self, features: np.ndarray, tasks: np.ndarray, widen: float = 1.0) -> np.ndarray:
        """[..., G + 1], [..., G] -> [...] float32 in [0, 1]; `widen` stretches the margins, to learn from afar."""
        off = self.errors(features, tasks) / widen
        near = np.prod(np.maximum(0, 1 - 0.9 * off), axis=-1)
        return (features[..., -1] * (5 * near + 1) / 6).astype(np.float32)

    def errors(self, features: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """[..., G + 1], [..., G] -> [..., G]: how far beyond the band on each axis, in margins."""
        band, margin = (
            np.array([getattr(axis, name) for axis in self.axes], np.float32) for name in ("band", "margin")
        )
        return np.maximum(0, np.abs(features[..., :-1] - tasks) - band) / margin


def _walker(physics: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[R, 18] -> speed in m/s, height of the torso in m, cosine of its angle with the vertical: [R] each."""
    return physics[:, 10], WALKER_TORSO + physics[:, 0], np.cos(physics[:, 2])


def _standing(height: np.ndarray, upright: np.ndarray) -> np.ndarray:
    """dm_control's reward of walker_stand: a Gaussian tolerance that is 0.1 a margin below STAND."""
    below = np.maximum(0, STAND - height) / STAND_MARGIN
    return (3 * np.exp(np.log(0.1) * below**2) + (1 + upright) / 2) / 4


def walker_speed(physics: np.ndarray) -> np.ndarray:
    """[R, 18] -> [R, 2]: speed, standing."""
    speed, height, upright = _walker(physics)
    return np.stack((speed, _standing(height, upright)), -1).astype(np.float32)


def walker_height(physics: np.ndarray) -> np.ndarray:
    """[R, 18] -> [R, 2]: height of the torso, upright."""
    _, height, upright = _walker(physics)
    return np.stack((height, (1 + upright) / 2), -1).astype(np.float32)


def walker_speed_height(physics: np.ndarray) -> np.ndarray:
    """[R, 18] -> [R, 3]: speed, height of the torso, upright."""
    speed, height, upright = _walker(physics)
    return np.stack((speed, height, (1 + upright) / 2), -1).astype(np.float32)


def cheetah_speed(physics: np.ndarray) -> np.ndarray:
    """[R, 18] -> [R, 2]: speed in m/s, and 1: dm_control's cheetah may run as it likes."""
    return np.stack((physics[:, 9], np.ones(len(physics))), -1).astype(np.float32)


def cartpole_position(physics: np.ndarray) -> np.ndarray:
    """[R, 4] -> [R, 2]: position of the cart in m, and how upright the pole is."""
    return np.stack((physics[:, 0], (1 + np.cos(physics[:, 1])) / 2), -1).astype(np.float32)


def _tasks(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


_SPEED = Axis("speed", "m/s", 0.0, 3.2, band=0.2, margin=0.5, gap=0.12)
_HEIGHT = Axis("height", "m", 0.5, 1.3, band=0.05, margin=0.15, gap=0.03)

FAMILIES = (
    Family(
        "walker_speed",
        "walker",
        "walker_stand",
        (_SPEED,),
        _tasks(0.4, 1.0, 1.6, 2.2, 2.8),
        walker_speed,
    ),
    Family(
        "walker_backward",
        "walker",
        "walker_stand",
        (_SPEED._replace(low=-2.4, high=0.8),),
        _tasks(-2.0, -1.4, -0.8, -0.2, 0.4),
        walker_speed,
    ),
    Family(
        "walker_height",
        "walker",
        "walker_stand",
        (_HEIGHT,),
        _tasks(0.6, 0.75, 0.9, 1.05, 1.2),
        walker_height,
    ),
    Family(
        "walker_speed_height",
        "walker",
        "walker_stand",
        (_SPEED._replace(high=2.4, gap=0.3), _HEIGHT._replace(low=0.9, gap=0.06)),
        ((0.6, 1.0), (0.6, 1.2), (1.2, 1.1), (1.8, 1.0), (1.8, 1.2)),
        walker_speed_height,
    ),
    Family(
        "cheetah_speed",
        "cheetah",
        "cheetah_run",
        (Axis("speed", "m/s", 0.0, 6.0, band=0.4, margin=1.0, gap=0.2),),
        _tasks(1.0, 2.0, 3.0, 4.0, 5.0),
        cheetah_speed,
    ),
    Family(
        "cartpole_position",
        "cartpole",
        "cartpole_balance",
        (Axis("position", "m", -1.5, 1.5, band=0.1, margin=0.3, gap=0.06),),
        _tasks(-1.2, -0.6, 0.0, 0.6, 1.2),
        cartpole_position,
    ),
)

NAMES = tuple(family.name for family in FAMILIES)


def find(name: str) -> Family | None:
    """The family of that name; None where the name is no family's."""
    return next((family for family in FAMILIES if family.name == name), None)
