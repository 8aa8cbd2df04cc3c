"""Reference returns, and scores on their scale: 0 for the low reference, 100 for the high one."""

from typing import NamedTuple


class Reference(NamedTuple):
    """The two returns that a score of 0 and of 100 stand for, and where they come from."""

    low: float
    high: float
    source: str


# Rewards lie in [0, 1]. Episodes: 1000 steps in the suite (Tassa et al., arXiv:1801.00690);
# 250 with ExoRL's Jaco arm.
_SUITE = Reference(0.0, 1000.0, "maximum possible return, dm_control")
_JACO = Reference(0.0, 250.0, "maximum possible return, ExoRL")
_DM_CONTROL = {
    "cartpole_": _SUITE,
    "cheetah_": _SUITE,
    "hopper_": _SUITE,
    "jaco_": _JACO,
    "point_mass_maze_": _SUITE,
    "quadruped_": _SUITE,
    "walker_": _SUITE,
}

_D4RL_SOURCE = "random and expert policy, D4RL infos.py"
_SOLVED = "nothing and everything done, D4RL infos.py"
_PLANNER = "random policy and planner, D4RL infos.py"
_D4RL = {
    "ant": Reference(-325.6, 3879.7, _D4RL_SOURCE),
    "halfcheetah": Reference(-280.178953, 12135.0, _D4RL_SOURCE),
    "hopper": Reference(-20.272305, 3234.3, _D4RL_SOURCE),
    "walker2d": Reference(1.629008, 4592.3, _D4RL_SOURCE),
    "antmaze": Reference(0.0, 1.0, _SOLVED),
    # A task counts once; the rewards in the files count it at every step that it stays done.
    "kitchen": Reference(0.0, 4.0, _SOLVED),
    "maze2d-open": Reference(0.01, 20.66, _PLANNER),
    "maze2d-umaze": Reference(23.85, 161.86, _PLANNER),
    "maze2d-medium": Reference(13.13, 277.39, _PLANNER),
    "maze2d-large": Reference(6.7, 273.99, _PLANNER),
    "maze2d-open-dense": Reference(11.17817, 27.166538620695782, _PLANNER),
    "maze2d-umaze-dense": Reference(68.537689, 193.66285642381482, _PLANNER),
    "maze2d-medium-dense": Reference(44.264742, 297.4552547777125, _PLANNER),
    "maze2d-large-dense": Reference(30.569041, 303.4857382709002, _PLANNER),
}
"""By the name without its version, or by its first part: all data sets of a body, gymnasium's v4 and v5 of it too."""


def reference(env: str) -> Reference | None:
    """The reference returns of an environment, named as in dm_control or D4RL; None if there are none."""
    for prefix, found in _DM_CONTROL.items():
        if env.startswith(prefix):
            return found
    name = env.lower()
    return _D4RL.get(name.rpartition("-v")[0]) or _D4RL.get(name.partition("-")[0])


def normalised_score(env: str, episode_return: float) -> float | None:
    """100 * (return - low) / (high - low), as D4RL prints it (Fu et al., arXiv:2004.07219, section 4).

    None where the environment has no reference returns. D4RL's expert can be beaten: scores above 100 exist.
    """
    found = reference(env)
    if found is None:
        return None
    return 100.0 * (episode_return - found.low) / (found.high - found.low)
