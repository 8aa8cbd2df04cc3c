"""The DeepMind Control Suite as gymnasium environments, and its rewards as functions of stored states."""

import functools
import os
import sys
from typing import Any, NamedTuple

os.environ.setdefault("MUJOCO_GL", "disable")  # else importing MuJoCo looks for a display

import gymnasium
import mujoco
import numpy as np
from dm_control import suite
from dm_control.rl.control import Environment

from envs import Spec, spec

# Where the reward of each domain finds the velocity of the body.
VELOCITY_SENSORS = {
    "walker": "torso_subtreelinvel",
    "cheetah": "torso_subtreelinvel",
    "quadruped": "velocimeter",
}


class ControlSuite(gymnasium.Env):
    """One task of the suite: observations [O] float32 in dm_control's own order, actions [A] in [-1, 1].

    Steps MuJoCo directly, which is dm_control's own step less its bookkeeping: the same numbers, bit for bit.
    Episodes never terminate; the last step of `size.episode_length` is truncated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 40}  # noqa: RUF012 - gymnasium's own attribute

    def __init__(self, size: Spec, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{size.name}: render_mode is {render_mode!r}, expected None or 'rgb_array'")
        self.size = size
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size.observation_size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (size.action_size,), np.float32)
        self._random = np.random.RandomState()
        self._suite = load_suite(size, self._random)
        self._task, self._physics = self._suite.task, self._suite.physics
        self._model, self._data = self._physics.model.ptr, self._physics.data.ptr
        self._substeps = round(self._suite.control_timestep() / self._physics.timestep())
        self._readings = Readings.of(Places.of(size.domain, self._model), self._data)
        self._warnings = self._physics.data.warning.number
        self._timestep = 0
        self._camera: Camera | None = None

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
        self._data.ctrl[:] = action
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

    def render(self) -> np.ndarray:
        """[240, 320, 3] uint8 from the task's own camera. Raises RuntimeError when there is no OpenGL."""
        if self.render_mode is None:
            raise RuntimeError(f"{self.size.name}: made without a render_mode, expected 'rgb_array'")
        if self._camera is None:
            self._camera = Camera(self._model)
        return self._camera.render(self._data)

    def close(self) -> None:
        """Free the camera, if there is one."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None


_XX_XZ, _ZZ_XZ = [0, 2], [8, 2]
"""Columns of MuJoCo's flattened 3 x 3 rotation matrices."""


class Places(NamedTuple):
    """Where a model keeps what its tasks ask for by name; -1 or empty where it has no such thing."""

    torso: int
    velocity_sensor: int
    hinge_positions: np.ndarray
    hinge_velocities: np.ndarray
    imu: np.ndarray
    force_torque: np.ndarray

    @classmethod
    def of(cls, domain: str, model: Any) -> "Places":
        """Looked up once; dm_control looks up each name at every step."""
        kind = mujoco.mjtSensor
        has_sensor = domain in VELOCITY_SENSORS
        hinges = model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        return cls(
            torso=model.body("torso").id if has_sensor else -1,
            velocity_sensor=model.sensor(VELOCITY_SENSORS[domain]).adr[0] if has_sensor else -1,
            hinge_positions=model.jnt_qposadr[hinges],
            hinge_velocities=model.jnt_dofadr[hinges],
            imu=_sensor_places(model, kind.mjSENS_GYRO, kind.mjSENS_ACCELEROMETER),
            force_torque=_sensor_places(model, kind.mjSENS_FORCE, kind.mjSENS_TORQUE),
        )


def _sensor_places(model: Any, *kinds: mujoco.mjtSensor) -> np.ndarray:
    """Places in sensordata of all sensors of these kinds."""
    ids = np.flatnonzero(np.isin(model.sensor_type, kinds))
    ranges = [np.arange(size) + first for first, size in zip(model.sensor_adr[ids], model.sensor_dim[ids], strict=True)]
    return np.concatenate(ranges) if ranges else np.zeros(0, int)


class Readings(NamedTuple):
    """What tasks read of the simulator, answering dm_control's tasks in place of its Physics.

    dm_control looks each number up by name, at a quarter of the time of a step. The arrays are MjData's own, or
    copies of many states stacked on a last axis, and then most rewards come out for all of them at once.
    """

    places: Places
    qpos: np.ndarray
    qvel: np.ndarray
    act: np.ndarray
    xpos: np.ndarray
    xmat: np.ndarray
    sensordata: np.ndarray
    ctrl: np.ndarray

    @classmethod
    def of(cls, places: Places, data: Any) -> "Readings":
        """The live readings of an MjData."""
        return cls(places, *(getattr(data, name) for name in cls._fields[1:]))

    @property
    def data(self) -> "Readings":
        """Tasks may also ask for MjData's arrays by their own names."""
        return self

    def torso_height(self) -> np.ndarray:
        """Of the walker, in metres."""
        return self.xpos[self.places.torso, 2]

    def torso_upright(self) -> np.ndarray:
        """Cosine of the angle between the torso's axis and the vertical."""
        return self.xmat[self.places.torso, 8]

    def torso_velocity(self) -> np.ndarray:
        """[3] of the quadruped, in its own frame."""
        first = self.places.velocity_sensor
        return self.sensordata[first : first + 3]

    def horizontal_velocity(self) -> np.ndarray:
        """Of the walker's centre of mass, in m/s."""
        return self.sensordata[self.places.velocity_sensor]

    def speed(self) -> np.ndarray:
        """Of the cheetah, in m/s."""
        return self.horizontal_velocity()

    def cart_position(self) -> np.ndarray:
        """Of the cartpole, in metres."""
        return self.qpos[0]

    def pole_angle_cosine(self) -> np.ndarray:
        """[poles], 1 when upright."""
        return self.xmat[2:, 8]

    def angular_vel(self) -> np.ndarray:
        """[poles], in rad/s."""
        return self.qvel[1:]

    def control(self) -> np.ndarray:
        """[A]: the action that is being applied."""
        return self.ctrl

    def velocity(self) -> np.ndarray:
        """Of every degree of freedom."""
        return self.qvel

    def orientations(self) -> np.ndarray:
        """Of every body of the walker: two numbers each, for it moves in a plane."""
        return self.xmat[1:, _XX_XZ].ravel()

    def bounded_position(self) -> np.ndarray:
        """Of the cartpole: the cart's position, and cosine and sine of each pole's angle."""
        return np.append(self.qpos[0], self.xmat[2:, _ZZ_XZ])

    def egocentric_state(self) -> np.ndarray:
        """Of the quadruped: positions and velocities of its joints, and activations."""
        at = self.places
        return np.concatenate((self.qpos[at.hinge_positions], self.qvel[at.hinge_velocities], self.act))

    def imu(self) -> np.ndarray:
        """Of the quadruped: gyroscope and accelerometer."""
        return self.sensordata[self.places.imu]

    def force_torque(self) -> np.ndarray:
        """Of the quadruped's toes, in the logarithmic scale of the suite."""
        return np.arcsinh(self.sensordata[self.places.force_torque])


def relabel(name: str, physics: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The reward of each state, `[R, P] float64, [R, A] float32 -> [R] float32`, as the simulator gave it.

    Row i is the state after action i. ExoRL's own relabelling forgets the action, which makes cartpole
    rewards too high wherever the reward asks for little control. Raises ValueError when a size is wrong.
    """
    size = spec(name)
    expected = (len(physics), size.physics_size), (len(physics), size.action_size)
    if (physics.shape, actions.shape) != expected:
        raise ValueError(
            f"{name}: physics {physics.shape} and actions {actions.shape}, expected {expected[0]} and {expected[1]}"
        )
    suite = _shared_suite(name)
    model = suite.physics.model.ptr
    data = mujoco.MjData(model)
    places = Places.of(size.domain, model)
    readings = Readings.of(places, data)
    fields = Readings._fields[1:]
    rows = {field: np.empty((*getattr(data, field).shape, len(physics))) for field in fields}
    for row, (state, action) in enumerate(zip(physics, actions, strict=True)):
        data.qpos[:], data.qvel[:], data.act[:] = np.split(state, (model.nq, model.nq + model.nv))
        data.ctrl[:] = action
        mujoco.mj_step1(model, data)  # the positions and velocities that a step of dm_control ends with
        for field in fields:
            rows[field][..., row] = getattr(readings, field)
    if size.domain == "cartpole":  # its reward averages over poles, and would over rows
        states = (Readings(places, *(rows[f][..., row] for f in fields)) for row in range(len(physics)))
        return np.array([suite.task.get_reward(state) for state in states], np.float32)
    return np.asarray(suite.task.get_reward(Readings(places, *rows.values())), np.float32)


def load_suite(size: Spec, random: np.random.RandomState) -> Environment:
    """dm_control's own environment, observations in its own order, initial states drawn from `random`."""
    return suite.load(
        size.domain,
        size.task,
        task_kwargs={"random": random},
        environment_kwargs={"flat_observation": True},
    )


@functools.cache
def _shared_suite(name: str) -> Environment:
    """One per process, of which only the model and the task are used: both are read-only."""
    return load_suite(spec(name), np.random.RandomState(0))


def _flat(observation: dict[str, np.ndarray]) -> np.ndarray:
    """[O] float32, the parts in the order dm_control lists them, which ExoRL's files follow too."""
    return np.concatenate([np.ravel(part) for part in observation.values()], dtype=np.float32)


def advance(model: Any, data: Any, substeps: int) -> None:
    """dm_control's `Physics.step`: ends with positions and velocities that agree with the new state."""
    if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4:
        mujoco.mj_step(model, data, substeps)
    else:
        mujoco.mj_step2(model, data)
        if substeps > 1:
            mujoco.mj_step(model, data, substeps - 1)
    mujoco.mj_step1(model, data)


class Camera:
    """Draws a model's first camera off screen.

    mujoco.Renderer cannot be used: it needs MUJOCO_GL set before the first import of MuJoCo, so that every
    program would load OpenGL, those that never draw too.
    """

    HEIGHT, WIDTH = 240, 320

    def __init__(self, model: mujoco.MjModel):
        self._model = model
        try:
            self._context = _gl_context()(self.WIDTH, self.HEIGHT)
            self._context.make_current()
            self._renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            raise RuntimeError(
                f"cannot draw: no OpenGL ({error}); install libegl1, or libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._renderer)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._view = mujoco.MjvCamera()
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """[240, 320, 3] uint8."""
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, mujoco.MjvOption(), None, self._view, everything, self._scene)
        area = mujoco.MjrRect(0, 0, self.WIDTH, self.HEIGHT)
        pixels = np.empty((self.HEIGHT, self.WIDTH, 3), np.uint8)
        mujoco.mjr_render(area, self._scene, self._renderer)
        mujoco.mjr_readPixels(pixels, None, area, self._renderer)
        return pixels[::-1]  # OpenGL counts rows from below

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.free()
        self._context.free()


def _gl_context() -> Any:
    """The class of OpenGL context that MUJOCO_GL names, else the platform's own."""
    name = os.environ["MUJOCO_GL"].lower()
    if name == "osmesa":
        from mujoco.osmesa import GLContext
    elif sys.platform == "darwin":
        from mujoco.cgl import GLContext
    else:
        from mujoco.egl import GLContext
    return GLContext
