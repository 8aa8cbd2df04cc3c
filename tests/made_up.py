"""Four short trajectories of made-up numbers, for tests that need some."""

import numpy as np

from data.trajectory import Trajectory

RNG = np.random.default_rng(0)
TRAJECTORIES = [
    Trajectory(
        RNG.normal(size=(10, 3)).astype(np.float32),
        RNG.uniform(-1, 1, (10, 2)).astype(np.float32),
        RNG.uniform(0, 1, 10).astype(np.float32),
    )
    for _ in range(4)
]
