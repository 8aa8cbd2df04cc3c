"""The tasks that ExoRL (Yarats et al., arXiv 2201.13425) adds to dm_control, made from dm_control's own models.

Rewards, initial states, observations and time limits are those of ExoRL's `custom_dmc_tasks`; so are the models, but
for the drawn size of floors (cheetah, hopper): MuJoCo's planes have no edge.

Rewards take a Physics of dm_control, or envs.readings.Readings of one state or of many stacked on a last axis.
"""

import numpy as np
from dm_control.rl.control import Environment

from envs.exorl_tasks import cheetah, hopper, jaco, point_mass_maze, quadruped, walker

_DOMAINS = {
    "cheetah": cheetah.load,
    "hopper": hopper.load,
    "jaco": jaco.load,
    "point_mass_maze": point_mass_maze.load,
    "quadruped": quadruped.load,
    "walker": walker.load,
}


def load(domain: str, task: str, random: np.random.RandomState) -> Environment:
    """A task as an environment of dm_control, initial states drawn from `random`. Raises KeyError for any other."""
    return _DOMAINS[domain](task, random)
