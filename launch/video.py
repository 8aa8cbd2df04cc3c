"""An animated picture of the first and the last episode that a policy plays in one context, side by side."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import envs
from launch.metrics import write_atomically

PICTURES, PERIOD, HOLD = 125, 50, 1500
"""Pictures of a whole episode, and milliseconds that each is shown, and the last."""
CAPTION, CURVE, GAP = 54, 66, 16
"""Heights above and below a picture and width between two, in pixels."""
INK, QUIET, GROUND, BLUE = "#2b3138", "#5b636b", "#f3f7fb", "#0b6fb8"


class Moment(NamedTuple):
    """An episode after some of its steps."""

    timestep: int
    earned: float
    picture: np.ndarray  # [240, 320, 3] uint8


class Recorder(gymnasium.Wrapper):
    """An environment that keeps moments of the first and the last of the episodes played in it."""

    def __init__(self, env: str, episodes: int, options: dict[str, Any] | None = None) -> None:
        """options: of every reset, such as the task of a family."""
        super().__init__(envs.make(env, render_mode="rgb_array"))
        self._options = options
        self._every = max(1, envs.spec(env).episode_length // PICTURES)
        self._episode, self._timestep, self._earned = -1, 0, 0.0
        self.moments: dict[int, list[Moment]] = {number: [] for number in sorted({0, episodes - 1})}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the next episode. Raises RuntimeError when there is no OpenGL."""
        self._episode, self._timestep, self._earned = self._episode + 1, 0, 0.0
        found = self.env.reset(seed=seed, options=options or self._options)
        self._keep()
        return found

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """A step of the environment, which the return so far counts."""
        found = self.env.step(action)
        _, reward, terminated, truncated, _ = found
        self._timestep, self._earned = self._timestep + 1, self._earned + float(reward)
        if self._timestep % self._every == 0 or terminated or truncated:
            self._keep()
        return found

    def _keep(self) -> None:
        if self._episode in self.moments:
            picture: Any = self.env.render()
            self.moments[self._episode].append(Moment(self._timestep, self._earned, picture))

    def save(self, path: Path, target: float, words: str) -> None:
        """A GIF of the moments kept, each below its time and return and above the curve of returns so far.

        Args:
          target: the return asked for, a line across the curves.
          words: what was played; they begin the caption, which is stored in the file.
        """
        steps_per_second = self.metadata["render_fps"]
        faster = self._every / steps_per_second / (PERIOD / 1000)
        caption = (
            f"{words}: {' and '.join(f'episode {number + 1}' for number in self.moments)}, {faster:.2g} times as fast "
            f"as life. Below each the return so far, on the way to the target of {target:.0f} (dashed)."
        )
        write_atomically(path, animated(frames(self.moments, target, steps_per_second), caption))


def check_drawing(env: str) -> None:
    """Raises OSError, which says what to do, where there is no OpenGL: better now than after an evaluation."""
    trial = envs.make(env, render_mode="rgb_array")
    trial.reset()
    try:
        trial.render()
    except RuntimeError as error:
        raise OSError(f"--video: {error}") from error
    trial.close()


def animated(pictures: Sequence[Image.Image], caption: str) -> bytes:
    """A GIF in the 128 colours that suit the pictures together, so that nothing flickers."""
    some = np.concatenate([np.asarray(picture) for picture in pictures[:: max(1, len(pictures) // 8)]])
    palette = Image.fromarray(some).quantize(128)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    times = {"duration": [PERIOD] * len(rest) + [HOLD], "loop": 0}
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, optimize=True, comment=caption.encode(), **times)
    return file.getvalue()


def frames(moments: dict[int, list[Moment]], target: float, steps_per_second: float) -> list[Image.Image]:
    """Episodes side by side, moment by moment; one that has ended shows its last until the others end."""
    every = [moment for episode in moments.values() for moment in episode]
    earned = [moment.earned for moment in every]
    axes = Axes(max(moment.timestep for moment in every), min(0, target, *earned), max(target, *earned))
    pictures = []
    for i in range(max(map(len, moments.values()))):
        sides = []
        for number, episode in moments.items():
            time = f"{episode[min(i, len(episode) - 1)].timestep / steps_per_second:.1f} s"
            time = f"ended at {time}" if i >= len(episode) else time
            sides.append(_side(episode[: i + 1], f"Episode {number + 1}", time, target, axes))
        width, height = sides[0].size
        picture = Image.new("RGB", ((width + GAP) * len(sides) - GAP, height), "white")
        for place, side in enumerate(sides):
            picture.paste(side, (place * (width + GAP), 0))
        pictures.append(picture)
    return pictures


class Axes(NamedTuple):
    """The ends of all curves: steps from 0 to `end`, returns from `low` to `high`."""

    end: int
    low: float
    high: float

    def at(self, timestep: int, earned: float, width: int, height: int) -> tuple[float, float]:
        """The place in a picture, y from above; a tenth stays free above the highest return."""
        part = (earned - self.low) / (self.high - self.low or 1)
        return width * timestep / max(self.end, 1), height * (1 - part / 1.1)


def _side(moments: Sequence[Moment], name: str, time: str, target: float, axes: Axes) -> Image.Image:
    """The last of the moments, its caption above and the curve up to it below."""
    now = moments[-1]
    height, width, _ = now.picture.shape
    side = Image.new("RGB", (width, CAPTION + height + CURVE), "white")
    draw = ImageDraw.Draw(side)
    large, small = ImageFont.load_default(22), ImageFont.load_default(19)
    draw.text((0, 22), name, INK, large, anchor="ls")
    draw.text((width, 22), time, INK, large, anchor="rs")
    draw.text((0, 46), f"return so far {now.earned:.0f}", BLUE, small, anchor="ls")
    draw.text((width, 46), f"target {target:.0f}", QUIET, small, anchor="rs")
    side.paste(Image.fromarray(now.picture), (0, CAPTION))
    side.paste(_curve(moments, target, axes, width), (0, CAPTION + height))
    return side


def _curve(moments: Sequence[Moment], target: float, axes: Axes, width: int) -> Image.Image:
    """Returns so far, filled, below the dashed line of the target; drawn larger, as PIL's lines have hard edges."""
    size = 3 * width, 3 * CURVE
    curve = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(curve)
    points = [axes.at(moment.timestep, moment.earned, *size) for moment in moments]
    zero = axes.at(0, 0, *size)[1]
    draw.polygon([(0, zero), *points, (points[-1][0], zero)], "#cfe2f1")
    draw.line(points, BLUE, 6)
    line = axes.at(0, target, *size)[1]
    for dash in range(0, size[0], 30):
        draw.line([(dash, line), (dash + 18, line)], QUIET, 4)
    return curve.resize((width, CURVE), Image.Resampling.LANCZOS)
