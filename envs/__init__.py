"""Environments: gymnasium on one side, arrays on the other. No jax, and no rendering unless asked."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from envs.dmc import ControlSuite


class Spec(NamedTuple):
    """The sizes of an environment, known without loading it."""

    name: str
    domain: str
    task: str
    observation_size: int
    action_size: int
    physics_size: int
    """Numbers in a MuJoCo state: positions, velocities, activations."""
    episode_length: int
    """Steps after which every episode is truncated; none ends before."""


_SPECS = {
    spec.name: spec
    for spec in (
        Spec("walker_stand", "walker", "stand", 24, 6, 18, 1000),
        Spec("walker_walk", "walker", "walk", 24, 6, 18, 1000),
        Spec("walker_run", "walker", "run", 24, 6, 18, 1000),
        Spec("cheetah_run", "cheetah", "run", 17, 6, 18, 1000),
        Spec("cartpole_swingup", "cartpole", "swingup", 5, 1, 4, 1000),
        Spec("quadruped_walk", "quadruped", "walk", 78, 12, 57, 1000),
        Spec("quadruped_run", "quadruped", "run", 78, 12, 57, 1000),
    )
}

NAMES: tuple[str, ...] = tuple(_SPECS)


def spec(name: str) -> Spec:
    """The sizes of an environment. Raises ValueError, listing the known names, for any other."""
    if name not in _SPECS:
        raise ValueError(f"unknown environment {name!r}, expected one of: {', '.join(NAMES)}")
    return _SPECS[name]


def make(name: str, render_mode: str | None = None) -> "ControlSuite":
    """A gymnasium environment: observations [O] float32, actions [A] float32 in [-1, 1].

    `render_mode="rgb_array"` needs EGL or OSMesa; without it no rendering library is loaded. Raises
    ValueError when the name or the render mode is unknown.
    """
    from envs.dmc import ControlSuite

    return ControlSuite(spec(name), render_mode)


def reward_fn(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The task's reward as a function of stored states: `[R, P] float64, [R, A] float32 -> [R] float32`.

    Row i is the state after action i, as ExoRL stores it. The function can be pickled; it loads the
    environment in the process that calls it. See envs.dmc.relabel.
    """
    from envs.dmc import relabel

    return functools.partial(relabel, spec(name).name)
