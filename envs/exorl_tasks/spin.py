"""What the flips of cheetah, hopper and walker have in common."""

from typing import Any

import numpy as np
from dm_control.utils import rewards

SPIN = 5.0
"""Angular momentum, in kg m^2/s, from which the reward is 1."""


class Spinning:
    """Adds to a dm_control Physics what a flip reads of it."""

    named: Any

    def angular_momentum(self) -> float:
        """Of the whole body about the y axis through its centre of mass, in kg m^2/s."""
        return self.named.data.subtree_angmom["torso"][1]


def spin_reward(angular_momentum: np.ndarray) -> np.ndarray:
    """0 at rest or turning backward, rising in a line to 1 at SPIN."""
    return rewards.tolerance(
        angular_momentum, bounds=(SPIN, float("inf")), margin=SPIN, value_at_margin=0, sigmoid="linear"
    )
