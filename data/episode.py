"""One episode as files hold it: what ExoRL, D4RL and Minari have in common, and the checks that all of them pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data.trajectory import Trajectory

ROUNDING = 1e-4
"""How far an action may lie outside [-1, 1] and be clipped: rounding. Beyond, the file is refused."""


class Episode(NamedTuple):
    """A whole episode in environment units, in the dtypes of its file."""

    observations: np.ndarray
    """[T+1, O]; [T, O] where the file does not hold what followed the last action."""
    actions: np.ndarray
    """[T, A]."""
    rewards: np.ndarray
    """[T], or [T, R] where a file holds the rewards of R tasks."""
    terminated: bool
    """Whether the environment ended it; else it was cut short by a limit of time."""
    extras: dict[str, np.ndarray]
    """What else the file holds, by its name there: [T+1, ...], a row for every observation, or [T, ...], a row for
    every action. `physics` is the MuJoCo state [T+1, P] float64 that rewards are computed again from."""

    @property
    def length(self) -> int:
        """T."""
        return len(self.actions)

    def trajectory(self, rewards: np.ndarray | None = None) -> Trajectory:
        """What learning needs of it, float32, actions in [-1, 1]; `rewards` [T] take the place of those stored."""
        found = self.rewards if rewards is None else rewards
        return Trajectory(
            np.ascontiguousarray(self.observations[: self.length], np.float32),
            np.clip(self.actions, -1.0, 1.0, dtype=np.float32),
            np.ascontiguousarray(found, np.float32),
        )


class Loaded(NamedTuple):
    """A data set as learning takes it."""

    trajectories: list[Trajectory]
    sha256: str
    """Of the content, not of the files."""
    notes: list[str]
    """What a person should know of it: what was dropped, clipped or computed again."""


def fitting(lengths: Sequence[int], max_steps: int) -> int:
    """How many of the first episodes of these lengths together have no more than `max_steps` steps; all for 0.

    Raises ValueError when not one has so few.
    """
    if max_steps and len(lengths) and lengths[0] > max_steps:
        raise ValueError(
            f"--max_steps: expected at least {lengths[0]:,}, the steps of the first episode, got {max_steps:,}"
        )
    return int(np.searchsorted(np.cumsum(lengths), max_steps, side="right")) if max_steps else len(lengths)


def check(where: str, episode: Episode, *, name: str = "", observation_size: int = 0, action_size: int = 0) -> None:
    """Raise ValueError, one line that begins with `where`, unless the arrays are those of one whole episode.

    Args:
      where: the file, and the episode where a file holds several.
      name: the environment that expects the sizes; a size of 0 is any.
    """
    length = episode.length
    if length == 0:
        raise ValueError(f"{where}: the episode has no steps, expected at least one")
    rows: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
        "observations": (episode.observations, (length, length + 1), (2,)),
        "actions": (episode.actions, (length,), (2,)),
        "rewards": (episode.rewards, (length,), (1, 2)),
    } | {key: (values, (length, length + 1), ()) for key, values in episode.extras.items()}
    for key, (values, counts, dimensions) in rows.items():
        if values.ndim == 0 or len(values) not in counts or (dimensions and values.ndim not in dimensions):
            expected = " or ".join(map(str, counts))
            raise ValueError(f"{where}: {key} has shape {values.shape}, expected {expected} rows for {length} steps")
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise ValueError(f"{where}: {key} is not finite in row {row}")
    for key, size in (("observations", observation_size), ("actions", action_size)):
        columns = rows[key][0].shape[1]
        if size and columns != size:
            raise ValueError(f"{where}: {key} has {columns} columns, {name} expects {size}")
    if (most := float(np.abs(episode.actions).max(initial=0.0))) > 1.0 + ROUNDING:
        raise ValueError(f"{where}: actions reach {most:g}, expected them within [-1, 1]")
