"""Draws a MuJoCo model off screen. Loads OpenGL when a camera is made, not before."""

import os
import sys
from typing import Any

import gymnasium
import numpy as np

from envs.engine import mujoco
from envs.specs import Spec


class Drawn(gymnasium.Env):
    """An environment of one MuJoCo model: observations [O] float32, actions [A] in [-1, 1], drawn where asked to."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium's own attribute
    _model: Any
    _data: Any

    def __init__(self, size: Spec, render_mode: str | None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{size.name}: render_mode is {render_mode!r}, expected None or 'rgb_array'")
        self.size = size
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size.observation_size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (size.action_size,), np.float32)
        self._camera: Camera | None = None

    def render(self) -> np.ndarray:
        """[240, 320, 3] uint8 from the model's own camera. Raises RuntimeError when there is no OpenGL."""
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


class Camera:
    """Draws a model off screen, from its first camera that goes along with a body, else from its first, else freely.

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
        if model.ncam:
            along = (model.cam_mode == mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM) & (model.cam_bodyid > 0)
            self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, int(np.argmax(along))
        else:
            mujoco.mjv_defaultFreeCamera(model, self._view)

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
