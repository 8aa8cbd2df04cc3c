"""An animated picture of the first and the last episode that a policy plays in one context, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium

import envs


class Recorder:
    """Makes one environment that keeps frames of the first and the last episode it plays."""

    def __init__(self, env: str, episodes: int, every: int = 10) -> None:
        self._env, self._episodes, self._every = env, episodes, every
        self.frames: dict[int, list[Any]] = {}

    def __call__(self) -> gymnasium.Env:
        return _Recorded(envs.make(self._env, render_mode="rgb_array"), self)

    def wants(self, episode: int, timestep: int) -> bool:
        return episode in (0, self._episodes - 1) and timestep % self._every == 0

    def save(self, path: Path, returns: Sequence[float], target: float) -> None:
        """An animated GIF: first and last episode side by side, 4 times as fast as life."""
        import numpy as np
        from PIL import Image, ImageDraw

        pictures = []
        for pair in zip(*self.frames.values(), strict=True):
            picture = Image.fromarray(np.concatenate(pair, axis=1))
            draw = ImageDraw.Draw(picture)
            for i, episode in enumerate(self.frames):
                text = f"episode {episode + 1}: return {returns[episode]:.0f}, asked {target:.0f}"
                draw.text((i * pair[0].shape[1] + 6, 6), text, fill="white")
            pictures.append(picture.quantize(64))
        part = path.with_suffix(".part.gif")
        pictures[0].save(part, save_all=True, append_images=pictures[1:], duration=60, loop=0)
        part.replace(path)


class _Recorded(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, recorder: Recorder) -> None:
        super().__init__(env)
        self._recorder, self._episode, self._timestep = recorder, -1, 0

    def reset(self, **options: Any) -> Any:
        self._episode, self._timestep = self._episode + 1, 0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        if self._recorder.wants(self._episode, self._timestep):
            self._recorder.frames.setdefault(self._episode, []).append(self.env.render())
        self._timestep += 1
        return self.env.step(action)
