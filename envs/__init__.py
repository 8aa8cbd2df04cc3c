"""Environments: gymnasium on one side, arrays on the other. No jax, and no rendering unless asked."""

import difflib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from envs import family, mujoco, specs
from envs.specs import Spec

if TYPE_CHECKING:
    import gymnasium

_SPECS = {spec.name: spec for spec in (*specs.SUITE, *mujoco.SPECS)}

NAMES: tuple[str, ...] = tuple(_SPECS)


def spec(name: str) -> Spec:
    """The sizes of an environment. Raises ValueError, listing the known names, for any other."""
    if found := family.find(name):
        return _SPECS[found.start]._replace(name=name, task=name.removeprefix(f"{found.domain}_"))
    if name not in _SPECS:
        every = (*NAMES, *family.NAMES)
        close = difflib.get_close_matches(name, every)
        meant = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise ValueError(f"unknown environment {name!r}{meant}, expected one of: {', '.join(every)}")
    return _SPECS[name]


def families() -> str:
    """The names in a line, for the help of a flag."""
    control = ", ".join(found.name for found in _SPECS.values() if found.simulator == "dm_control")
    control = f"{control}; families of tasks {', '.join(family.NAMES)}"
    return f"{control}; D4RL's, such as hopper-medium-replay-v2; gymnasium's, such as Hopper-v5, for Minari's data"


def env_id(name: str) -> str:
    """What steps an environment: gymnasium's name for it, of dm_control's tasks dm_control/<domain>-<task>."""
    found = spec(name)
    return found.env_id or f"dm_control/{found.domain}-{found.task}"


def make(name: str, render_mode: str | None = None) -> "gymnasium.Env":
    """A gymnasium environment: observations [O] float32, actions [A] float32 in [-1, 1].

    `render_mode="rgb_array"` needs EGL or OSMesa; without it no rendering library is loaded. Raises
    ValueError when the name or the render mode is unknown, or when there is only data of it.
    """
    found = spec(name)
    if found.simulator == "dm_control":
        from envs.dmc import ControlSuite

        if tasks := family.find(name):
            from envs.family_env import FamilyEnv

            return FamilyEnv(tasks, ControlSuite(spec(tasks.start), render_mode))
        return ControlSuite(found, render_mode)
    return mujoco.make(found, render_mode)


def reward_fn(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """The task's reward as a function of stored states: `[R, P] float64, [R, A] float32 -> [R] float32`.

    Row i is the state after action i, as ExoRL stores it. The function can be pickled; it loads the
    environment in the process that calls it. See envs.dmc.relabel. None where rewards are taken as stored.
    """
    if spec(name).simulator != "dm_control":
        return None
    if family.find(name):
        raise ValueError(f"{name}: a family of tasks, whose rewards envs.family.Family gives")
    from envs.dmc import relabel

    return functools.partial(relabel, name)
