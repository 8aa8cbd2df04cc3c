"""Draws a MuJoCo model off screen. Loads OpenGL when a camera is made, not before."""

import os
import sys
from typing import Any

import mujoco
import numpy as np


class Camera:
    """Draws a model off screen, from its first camera that goes along with a body, else from its first.

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
        along = (model.cam_mode == mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM) & (model.cam_bodyid > 0)
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, int(np.argmax(along))

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
