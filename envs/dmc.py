"""dm_control's tasks and ExoRL's as gymnasium environments, and their rewards as functions of stored states."""

import functools
import math
from typing import Any

from envs.engine import mujoco  # before dm_control loads it

# isort: split
import numpy as np
from dm_control import suite
from dm_control.rl.control import Environment
from dm_control.suite import base, quadruped

from envs import Spec, exorl_tasks, spec
from envs.camera import Drawn
from envs.readings import Places, Readings

# Rewards that average over actuators or poles, and would average over states too: one state at a time.
_MEANS = ("cartpole_", "hopper_stand")


class ControlSuite(Drawn):
    """One task: observations [O] float32 in dm_control's own order, actions [A] in [-1, 1].

    Steps MuJoCo directly, which is dm_control's own step less its bookkeeping: the same numbers, bit for bit.
    Actions are stretched to the range of the actuators, as in ExoRL; only those of quadruped and jaco differ from it.
    Episodes never terminate; the last step of `size.episode_length` is truncated.
    """

    def __init__(self, size: Spec, render_mode: str | None = None):
        super().__init__(size, render_mode)
        self._random = np.random.RandomState()
        self._suite = load_suite(size, self._random)
        self.metadata = self.metadata | {"render_fps": round(1 / self._suite.control_timestep())}
        self._task, self._physics = self._suite.task, self._suite.physics
        self._model, self._data = self._physics.model.ptr, self._physics.data.ptr
        self._substeps = round(self._suite.control_timestep() / self._physics.timestep())
        self._middle, self._half = actuator_range(self._model)
        self._readings = Readings.of(Places.of(self._model), self._data)
        self._warnings = self._physics.data.warning.number
        self._timestep = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. The same seed gives the same initial state; no seed goes on with the last one."""
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(seed)
        self._timestep = 0
        return _flat(self._suite.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action [A] for one control step. Raises RuntimeError when the simulation diverges."""
        self._data.ctrl[:] = self._middle + self._half * action
        advance(self._model, self._data, self._substeps)
        if np.count_nonzero(self._warnings):
            raise RuntimeError(f"{self.size.name}: the simulation diverged at step {self._timestep}")
        self._timestep += 1
        observation = _flat(self._task.get_observation(self._readings))
        reward = float(self._task.get_reward(self._readings))
        return observation, reward, False, self._timestep >= self.size.episode_length, {}

    def physics_state(self) -> np.ndarray:
        """[P] float64: positions, velocities and activations, as ExoRL stores them."""
        return np.concatenate((self._data.qpos, self._data.qvel, self._data.act))


def relabel(name: str, physics: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The reward of each state, `[R, P] float64, [R, A] float32 -> [R] float32`, as the simulator gave it.

    Row i is the state after action i. ExoRL's own relabelling forgets the action, which makes the rewards of cartpole,
    point_mass_maze and hopper_stand too high: they ask for little control. Raises ValueError when a size is wrong.
    """
    size = spec(name)
    expected = (len(physics), size.physics_size), (len(physics), size.action_size)
    if (physics.shape, actions.shape) != expected:
        raise ValueError(
            f"{name}: physics {physics.shape} and actions {actions.shape}, expected {expected[0]} and {expected[1]}"
        )
    suite = _shared_suite(name)
    model = suite.physics.model.ptr
    middle, half = actuator_range(model)
    readings = Readings.at(model, physics, middle + half * actions)
    if name.startswith(_MEANS):
        rewards = [suite.task.get_reward(readings.row(row)) for row in range(len(physics))]
        return np.array(rewards, np.float32)
    return np.asarray(suite.task.get_reward(readings), np.float32)


def load_suite(size: Spec, random: np.random.RandomState) -> Environment:
    """A task as dm_control's own environment, initial states drawn from `random`, observations in their own order.

    Unlike ControlSuite it takes actions in the range of the actuators.
    """
    if (size.domain, size.task) not in suite.ALL_TASKS:
        made = exorl_tasks.load(size.domain, size.task, random)
    else:
        made = suite.load(
            size.domain,
            size.task,
            task_kwargs={"random": random},
            environment_kwargs={"flat_observation": True},
        )
    if size.domain == "quadruped":
        made.task.initialize_episode = functools.partial(_start_quadruped, made.task)
    return made


def _start_quadruped(task: quadruped.Move, physics: quadruped.Physics) -> None:
    """`Move.initialize_episode`, to the same bits on every CPU.

    The suite divides by BLAS's norm, a sum of fused products where BLAS takes its kernels for AVX-512: one start in ten
    differs by a last bit, and after some contacts its whole episode.
    """
    orientation = task.random.randn(4)
    w, x, y, z = orientation.tolist()
    quadruped._find_non_contacting_height(physics, orientation / math.sqrt(w * w + x * x + y * y + z * z))
    base.Task.initialize_episode(task, physics)


@functools.cache
def _shared_suite(name: str) -> Environment:
    """One per process, of which only the model and the task are used: both are read-only."""
    return load_suite(spec(name), np.random.RandomState(0))


def _flat(observation: dict[str, np.ndarray]) -> np.ndarray:
    """[O] float32, the parts in the order dm_control lists them, which ExoRL's files follow too."""
    return np.concatenate([np.ravel(part) for part in observation.values()], dtype=np.float32)


def actuator_range(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of what each actuator takes, [A] float64: a control is middle + half * action."""
    low, high = model.actuator_ctrlrange.T
    return (high + low) / 2, (high - low) / 2


def advance(model: Any, data: Any, substeps: int) -> None:
    """dm_control's `Physics.step`: ends with positions and velocities that agree with the new state."""
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        mujoco.mj_step(model, data, substeps)
    else:
        mujoco.mj_step2(model, data)
        if substeps > 1:
            mujoco.mj_step(model, data, substeps - 1)
    mujoco.mj_step1(model, data)
