"""MuJoCo, loaded before whatever else loads it, and without OpenGL unless MUJOCO_GL asks for it."""

import os

os.environ.setdefault("MUJOCO_GL", "disable")  # else MuJoCo looks for a display

try:
    import mujoco
except (AttributeError, ImportError, RuntimeError) as error:  # as PyOpenGL and MuJoCo put it
    if os.environ["MUJOCO_GL"] == "disable":
        raise
    raise OSError(
        f"MUJOCO_GL={os.environ['MUJOCO_GL']}: MuJoCo does not load with it ({error}); unset it, or install that "
        "library (libegl1, libosmesa6): only --video draws"
    ) from error

__all__ = ["mujoco"]
