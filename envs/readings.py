"""What tasks read of the simulator: MuJoCo's arrays behind the names that dm_control's tasks ask for."""

from typing import Any, NamedTuple

import mujoco
import numpy as np

_XX_XZ, _ZZ_XZ = [0, 2], [8, 2]
"""Columns of MuJoCo's flattened 3 x 3 rotation matrices."""


class Places(NamedTuple):
    """Where a model keeps what its tasks ask for by name; -1 or empty where it has no such thing."""

    torso: int
    foot: int
    point_mass: int
    velocity: int
    """Of the torso, or of all that hangs on it: the first of three places in sensordata."""
    centre_of_mass: int
    """The first of three places in sensordata."""
    touch: np.ndarray
    hinge_positions: np.ndarray
    hinge_velocities: np.ndarray
    imu: np.ndarray
    force_torque: np.ndarray

    @classmethod
    def of(cls, model: Any) -> "Places":
        """Looked up once; dm_control looks up each name at every step."""
        obj, kind = mujoco.mjtObj, mujoco.mjtSensor
        hinges = model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        return cls(
            torso=mujoco.mj_name2id(model, obj.mjOBJ_BODY, "torso"),
            foot=mujoco.mj_name2id(model, obj.mjOBJ_BODY, "foot"),
            point_mass=mujoco.mj_name2id(model, obj.mjOBJ_GEOM, "pointmass"),
            velocity=max(_sensor(model, "torso_subtreelinvel"), _sensor(model, "velocimeter")),
            centre_of_mass=_sensor(model, "center_of_mass"),
            touch=np.array([_sensor(model, "touch_toe"), _sensor(model, "touch_heel")]),
            hinge_positions=model.jnt_qposadr[hinges],
            hinge_velocities=model.jnt_dofadr[hinges],
            imu=_sensor_places(model, kind.mjSENS_GYRO, kind.mjSENS_ACCELEROMETER),
            force_torque=_sensor_places(model, kind.mjSENS_FORCE, kind.mjSENS_TORQUE),
        )


def _sensor(model: Any, name: str) -> int:
    """The first place of a sensor in sensordata, -1 where the model has none of that name."""
    found = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SENSOR, name)
    return int(model.sensor_adr[found]) if found >= 0 else -1


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
    ctrl: np.ndarray
    xpos: np.ndarray
    xmat: np.ndarray
    xipos: np.ndarray
    geom_xpos: np.ndarray
    site_xpos: np.ndarray
    site_xmat: np.ndarray
    subtree_angmom: np.ndarray
    sensordata: np.ndarray

    @classmethod
    def of(cls, places: Places, data: Any) -> "Readings":
        """The live readings of an MjData."""
        return cls(places, *(getattr(data, name) for name in cls._fields[1:]))

    @classmethod
    def at(cls, model: Any, states: np.ndarray, controls: np.ndarray) -> "Readings":
        """Stacked readings of stored states `[R, P]`, arrived in under these controls `[R, A]`.

        They are those that a step of dm_control ends with, to the bit, except in sensors of force, acceleration and
        touch, which no reward reads: neither contacts nor forces are worked out.
        """
        data = mujoco.MjData(model)
        inputs = [*np.split(states, (model.nq, model.nq + model.nv), axis=1), controls]
        live = [getattr(data, name) for name in cls._fields[5:]]
        stacks = [np.empty((len(states), *values.shape)) for values in live]
        for row, (qpos, qvel) in enumerate(zip(*inputs[:2], strict=True)):
            data.qpos[:], data.qvel[:] = qpos, qvel
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_comVel(model, data)
            mujoco.mj_subtreeVel(model, data)
            mujoco.mj_sensorPos(model, data)
            mujoco.mj_sensorVel(model, data)
            for stack, values in zip(stacks, live, strict=True):
                stack[row] = values
        return cls(Places.of(model), *(np.moveaxis(values, 0, -1) for values in (*inputs, *stacks)))

    def row(self, row: int) -> "Readings":
        """One state of those stacked."""
        return Readings(self.places, *(values[..., row] for values in self[1:]))

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
        first = self.places.velocity
        return self.sensordata[first : first + 3]

    def centre_of_mass_height(self) -> np.ndarray:
        """Of the quadruped, in metres."""
        return self.sensordata[self.places.centre_of_mass + 2]

    def horizontal_velocity(self) -> np.ndarray:
        """Of the walker's centre of mass, in m/s."""
        return self.sensordata[self.places.velocity]

    def speed(self) -> np.ndarray:
        """Of the cheetah's or the hopper's centre of mass, in m/s."""
        return self.horizontal_velocity()

    def angular_momentum(self) -> np.ndarray:
        """Of cheetah, hopper and walker about the y axis through their centre of mass, in kg m^2/s."""
        return self.subtree_angmom[self.places.torso, 1]

    def height(self) -> np.ndarray:
        """Of the hopper: its torso's centre of mass above its foot's, in metres."""
        return self.xipos[self.places.torso, 2] - self.xipos[self.places.foot, 2]

    def touch(self) -> np.ndarray:
        """[2] of the hopper's toe and heel, in the logarithmic scale of the suite."""
        return np.log1p(self.sensordata[self.places.touch])

    def mass_position(self) -> np.ndarray:
        """[3] of the point mass, in metres."""
        return self.geom_xpos[self.places.point_mass]

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

    def position(self) -> np.ndarray:
        """Of every degree of freedom."""
        return self.qpos

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
